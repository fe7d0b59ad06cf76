"""A simulated call as a file: who calls, what they say and when, what goes wrong, and what is expected.

A scenario is YAML. Times are milliseconds; a moment without `at_ms` follows the step before it.

    name: interrupted                 # of its reports and its golden timeline; without it the file's
    about: The caller interrupts and gets the answer to the second question.
    covers: [5, 6]                    # numbers of the complaints it guards against
    agent: front-desk                 # of the configuration; without it the only agent there is, or the front-desk.
                                      # `changes:` alters its file for this call
    changes: {barge_in: immediate}
    model: {first_audio_ms: 300}      # script of the model that answers
    service: {limits: {max_calls: 1}} # settings of the service
    call: {to: "+15550100", from: "+15550199", signing: right}  # or forged, missing
    voice: {name: en-us, words_per_minute: 165, pitch: 50, level_dbfs: -20, snr_db: 20}  # 80 to 450; 0 to 99
    line: {latency_ms: 60, jitter_ms: 20, lost: 0.01, doubled: 0, swapped: 0, noise_dbfs: -55, suppress_silence: false}
    seed: 0
    limit_s: 60                       # the caller hangs up then; the scenario has failed
    repeat: 1                         # times, each with the next seed
    sockets: false                    # true: marks it for runs with --clock real as well; changes nothing itself
    caller:                           # one thing after the other
      - say: What are your opening hours?     # when the agent has been quiet for 700 ms, unless told otherwise
      - say: Sorry, where are you?
        into_agent_ms: 2100                   # once so much of the agent's present speech has been heard
        voice: {pitch: 70}                    # of this step alone; what is not given is as in the scenario's voice
      - say: mm-hm
        at_ms: 9000                           # at this time of the call
        meant: false                          # nothing to be understood: the agent must not stop for it, unless the
                                              # scenario measures false_interruptions, which says how often it may
      - wav: cough.wav                        # beside the scenario's file; any rate
        after: stream                         # stream, agent_speaks, agent_quiet, said, clear, key, stop
        plus_ms: 500                          # so much later
      - dtmf: "12#"
        every_ms: 200
      - silence: 4000                         # say nothing for so long
      - hang_up: true                         # without it the caller waits for the end of the call
    faults:                           # each on its own, from the beginning
      - stall_ms: 800                         # nothing moves in either direction
        at_ms: 4000
      - half_open: true                       # nothing arrives any more, nobody is told
        after: agent_speaks
      - close_without_stop: 1000              # the carrier closes its socket with this code
        at_ms: 4000
      - cut: true                             # the connection breaks
        at_ms: 4000
      - stop_reading_ms: 3000                 # the carrier reads nothing, the service's writes pile up
        at_ms: 4000
    expect:
      - agent_says: nine in the morning       # somewhere in one turn
        within_ms: 3000                       # begun so soon after the end of step `of_step` (or the last before it)
        of_step: 1
      - heard: twelve Station Road            # the caller really heard these words
      - understood: where are you             # the model understood this of the caller
      - absent: We are open                   # never heard by the caller
      - tool_call: transfer
        arguments: {target: operator}
      - agent_yields_within_ms: 400           # at every interruption
      - truncated_at: {near_ms: 2100, tolerance_ms: 40}
      - end_reason: agent_hung_up
      - measure: answer_ms.p95                # a figure of the report (figures.py)
        at_most: 750
        at_least: 0

A call that ended with model_refused, model_unavailable or bug has failed unless an end_reason is expected.

Words are the same whatever their case, punctuation and hyphens, and however an apostrophe or an accent is written;
`12` and `twelve` are not.

Of somebody else's server (`--against`) only what the telephone network sees is known: agent_yields_within_ms and
measures. What was said, heard, understood, used or truncated there, and why it ended the call, fails as not to be
known.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bridge.audio.wav import read_whole_wav
from bridge.errors import ConfigError, EndReason, UsageError
from bridge.reading import NOT_NEGATIVE, between, nearest, parse, read, sure_of_close_code

from . import figures, voices
from .sounds import RATE_HZ
from .words import words

Occasion = Literal["stream", "agent_speaks", "agent_quiet", "said", "clear", "key", "stop"]


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When something happens. At most one of `at_ms`, `after`, `into_agent_ms`; `plus_ms` is added to any."""

    at_ms: float | None = None  # of the call
    after: Occasion | None = None  # the next time it happens; agent_quiet: for 700 ms
    into_agent_ms: float | None = None
    plus_ms: float = 0.0

    def _once(self) -> None:
        if sum(value is not None for value in (self.at_ms, self.after, self.into_agent_ms)) > 1:
            raise ValueError("only one of at_ms, after and into_agent_ms says when")
        between(self, at_ms=NOT_NEGATIVE, into_agent_ms=NOT_NEGATIVE, plus_ms=NOT_NEGATIVE)

    @property
    def told(self) -> bool:
        """Whether the file says when."""
        return self.at_ms is not None or self.after is not None or self.into_agent_ms is not None

    @property
    def when(self) -> str:
        """In words, for messages."""
        plus = f"{self.plus_ms:g} ms after " if self.plus_ms else ""
        if self.at_ms is not None:
            return f"at {(self.at_ms + self.plus_ms) / 1000:g} s"
        if self.into_agent_ms is not None:
            return f"{plus or 'once '}{self.into_agent_ms:g} ms of the agent's speech were heard"
        return f"{plus or 'after '}{self.after}"


class VoiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the caller speaks; what is not given stays as the scenario's voice, or the default."""

    name: str | None = None
    words_per_minute: int | None = None
    pitch: int | None = None
    level_dbfs: float | None = None
    snr_db: float | None = None

    def __post_init__(self) -> None:
        between(self, words_per_minute=voices.PACES, pitch=voices.PITCHES, level_dbfs=(-90, 0), snr_db=(-30, 90))


class CallerStep(Moment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing the caller does."""

    say: str | None = None
    wav: str | None = None
    dtmf: str | None = None
    silence: float | None = None
    hang_up: bool = False
    voice: VoiceChange = VoiceChange()
    meant: bool = True
    every_ms: float = 200.0  # between keys

    def __post_init__(self) -> None:
        self._once()
        does = [value is not None for value in (self.say, self.wav, self.dtmf, self.silence)] + [self.hang_up]
        if sum(does) != 1:
            raise ValueError("a step does one thing: say, wav, dtmf, silence or hang_up")
        if self.dtmf is not None and not (self.dtmf and set(self.dtmf) <= set("0123456789*#ABCD")):
            raise ValueError(f"{self.dtmf!r} are not keys of a telephone")
        if self.say is not None and not self.say.strip():
            raise ValueError("say needs words")
        between(self, silence=NOT_NEGATIVE, every_ms=NOT_NEGATIVE)

    @property
    def speaks(self) -> bool:
        return self.say is not None or self.wav is not None

    @property
    def name(self) -> str:
        """Short, for messages."""
        if self.say is not None:
            return f'say "{self.say}"'
        if self.wav is not None:
            return f"play {self.wav}"
        if self.dtmf is not None:
            return f"press {self.dtmf}"
        return "hang up" if self.hang_up else f"silence of {self.silence:g} ms"


class Fault(Moment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that goes wrong on the line."""

    stall_ms: float | None = None
    stop_reading_ms: float | None = None
    half_open: bool = False
    cut: bool = False
    close_without_stop: int | None = None

    def __post_init__(self) -> None:
        self._once()
        given = [value is not None for value in (self.stall_ms, self.stop_reading_ms, self.close_without_stop)]
        if sum([*given, self.half_open, self.cut]) != 1:
            raise ValueError("a fault is one thing: stall_ms, stop_reading_ms, half_open, cut or close_without_stop")
        if not self.told:
            raise ValueError("a fault needs a moment: at_ms, after or into_agent_ms")
        between(self, stall_ms=NOT_NEGATIVE, stop_reading_ms=NOT_NEGATIVE)
        sure_of_close_code("close_without_stop", self.close_without_stop)

    @property
    def name(self) -> str:
        """As a sentence, for messages."""
        if self.stall_ms is not None:
            return f"the line stalls for {self.stall_ms:g} ms"
        if self.stop_reading_ms is not None:
            return f"the carrier reads nothing for {self.stop_reading_ms:g} ms"
        if self.close_without_stop is not None:
            return f"the carrier closes its socket with code {self.close_without_stop}"
        return "the line is half open" if self.half_open else "the connection breaks"


class Near(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    near_ms: float
    tolerance_ms: float = 40.0

    def __post_init__(self) -> None:
        between(self, near_ms=NOT_NEGATIVE, tolerance_ms=NOT_NEGATIVE)


_OWNERS = {  # keys that mean something beside these alone
    "arguments": ("tool_call",),
    "at_most": ("measure",),
    "at_least": ("measure",),
    "within_ms": ("agent_says", "heard", "tool_call"),
    "of_step": ("within_ms",),
}


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must be true of the call when it is over."""

    agent_says: str | None = None
    heard: str | None = None
    understood: str | None = None
    absent: str | None = None
    tool_call: str | None = None
    arguments: dict[str, Any] = {}
    agent_yields_within_ms: float | None = None
    truncated_at: Near | None = None
    end_reason: str | None = None
    measure: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    within_ms: float | None = None  # for words and tools: so soon after the end of `of_step`
    of_step: int | None = None  # counted from 1; without it the last step that speaks or presses

    KINDS: typing.ClassVar[tuple[str, ...]] = (
        "agent_says",
        "heard",
        "understood",
        "absent",
        "tool_call",
        "agent_yields_within_ms",
        "truncated_at",
        "end_reason",
        "measure",
    )

    def __post_init__(self) -> None:
        if sum(getattr(self, kind) is not None for kind in self.KINDS) != 1:
            raise ValueError(f"an expectation is one thing: {', '.join(self.KINDS)}")
        for kind in ("agent_says", "heard", "understood", "absent", "tool_call"):
            wanted = getattr(self, kind)
            if wanted is not None and not any(map(str.isalnum, "".join(words(wanted)))):
                raise ValueError(f"{kind} needs a letter or a digit, found {wanted!r}")
        if self.measure is not None and self.at_most is None and self.at_least is None:
            raise ValueError("measure needs at_most or at_least")
        idle = [
            f"{key} belongs to {' or '.join(owners)}"
            for key, owners in _OWNERS.items()
            if getattr(self, key) not in (None, {}) and all(getattr(self, owner) is None for owner in owners)
        ]
        if idle:
            raise ValueError("; ".join(idle))
        between(self, within_ms=NOT_NEGATIVE, agent_yields_within_ms=NOT_NEGATIVE)

    @property
    def kind(self) -> str:
        return next(kind for kind in self.KINDS if getattr(self, kind) is not None)


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The caller's line, from the room to the service."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    swapped: float = 0.0
    noise_dbfs: float | None = None
    suppress_silence: bool = False

    def __post_init__(self) -> None:
        if any(not 0 <= share < 1 for share in (self.lost, self.doubled, self.swapped)):
            raise ValueError("lost, doubled and swapped are shares from 0 to below 1")
        between(self, latency_ms=NOT_NEGATIVE, jitter_ms=NOT_NEGATIVE, noise_dbfs=(-90, 0))


class Numbers(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"from_": "from"},  # a keyword
):
    """Who calls whom."""

    to: str = "+15550100"
    from_: str = "+15550199"
    signing: Literal["right", "forged", "missing"] = "right"


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file. `agent`, `changes`, `model` and `service` mean nothing here: whoever runs it reads them."""

    about: str = ""
    covers: tuple[int, ...] = ()
    agent: str = ""
    changes: dict[str, Any] = {}
    model: dict[str, Any] = {}
    service: dict[str, Any] = {}
    call: Numbers = Numbers()
    voice: VoiceChange = VoiceChange()
    line: Line = Line()
    seed: int = 0
    limit_s: float = 60.0
    repeat: int = 1
    sockets: bool = False
    caller: tuple[CallerStep, ...] = ()
    faults: tuple[Fault, ...] = ()
    expect: tuple[Expectation, ...] = ()

    name: str = ""  # the file's, unless given
    source: str = ""  # the file; never written in it

    def __post_init__(self) -> None:
        if self.repeat < 1 or self.limit_s <= 0:
            raise ValueError("repeat is at least 1 and limit_s above 0")

    @property
    def folder(self) -> Path:
        """Where files it names are."""
        return Path(self.source).parent


_KEYS = frozenset(Scenario.__struct_encode_fields__) - {"source"}


def load(path: Path) -> Scenario:
    """One scenario. Raises ConfigError with every mistake in it: file, key, what was found, what to do."""
    try:
        text = path.read_text("utf-8")
    except OSError as wrong:
        raise ConfigError([f"{path}: cannot be read: {wrong.strerror or wrong}"]) from wrong
    except UnicodeDecodeError as wrong:
        raise ConfigError([f"{path}: cannot be read: {wrong}"]) from wrong
    try:
        written, mistakes = parse(text, str(path))
    except ValueError as wrong:
        raise ConfigError([str(wrong)]) from wrong
    try:
        found = from_dict(written, source=str(path))
    except ConfigError as wrong:
        mistakes += wrong.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return found


def load_all(paths: Sequence[Path]) -> list[Scenario]:
    """Scenarios of files and of folders (their *.yaml, by name). Raises ConfigError with the mistakes of all."""
    files: list[Path] = []
    mistakes: list[str] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            mistakes.append(f"{path}: no scenario in this folder; scenarios are files named *.yaml")
        files += found
    scenarios = []
    for file in files:
        try:
            scenarios.append(load(file))
        except ConfigError as wrong:
            mistakes += wrong.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return scenarios


def from_dict(document: Any, *, source: str = "scenario") -> Scenario:
    """A scenario from what stands in its file. Raises ConfigError with all mistakes."""
    wrong: list[str] = []
    found = read(document if document is not None else {}, Scenario, "", wrong, known=_KEYS)
    mistakes = [f"{source}: {mistake}" for mistake in wrong]
    if found is not None and not mistakes:
        mistakes += [f"{source}: {mistake}" for mistake in _across(found, Path(source).parent)]
    if mistakes or found is None:
        raise ConfigError(mistakes)
    return msgspec.structs.replace(found, name=found.name or Path(source).stem, source=source)


def _across(scenario: Scenario, folder: Path) -> list[str]:
    """What only the whole can be wrong in."""
    mistakes = []
    name = scenario.name
    if name in (".", "..") or not name.isprintable() or set(name) & set("/\\"):
        mistakes.append(f"name: files are called by it, and {name!r} is no plain file name; leave out / and \\")
    if not scenario.caller:
        mistakes.append("caller: a scenario needs a caller; say what they do, if only `- silence: 4000`")
    mistakes += [f"voice.name: {wrong}" for wrong in _unknown_voice(scenario.voice)]
    for number, step in enumerate(scenario.caller, 1):
        mistakes += [f"caller[{number}].voice.name: {wrong}" for wrong in _unknown_voice(step.voice)]
        if step.wav is not None:
            mistakes += [f"caller[{number}].wav: {wrong}" for wrong in _without_sound(folder, step.wav)]
        if step.hang_up and number < len(scenario.caller):
            mistakes.append(f"caller[{number}].hang_up: nothing can follow it")
    for number, expected in enumerate(scenario.expect, 1):
        if expected.measure is not None and expected.measure not in figures.NAMES:
            hint = nearest(expected.measure, figures.NAMES)
            mistakes.append(f"expect[{number}].measure: no figure {expected.measure!r}{hint}")
        if expected.end_reason is not None and expected.end_reason not in list(EndReason):
            reasons = ", ".join(EndReason)
            mistakes.append(f"expect[{number}].end_reason: {expected.end_reason!r} is none; there are {reasons}")
        if expected.of_step is not None and not 1 <= expected.of_step <= len(scenario.caller):
            mistakes.append(
                f"expect[{number}].of_step: there is no step {expected.of_step}; "
                f"the caller has {len(scenario.caller)}, counted from 1"
            )
    return mistakes


def _unknown_voice(voice: VoiceChange) -> Iterator[str]:
    if voice.name is not None and (wrong := voices.unknown(voice.name)):
        yield wrong


def _without_sound(folder: Path, name: str) -> Iterator[str]:
    if not (folder / name).is_file():
        yield f"no file {name!r} beside the scenario"
        return
    try:
        read_whole_wav(folder / name, RATE_HZ)
    except UsageError as wrong:
        yield f"{wrong}. Give a WAV file that somebody speaks in, or write `silence` for a caller who says nothing"
    except OSError as wrong:
        yield f"{folder / name} cannot be read: {wrong.strerror}. Make it a file this user may read"
