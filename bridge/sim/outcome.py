"""What a simulated call was like, in plain values: the input of measures, expectations, pictures and reports.

`of_leg` takes everything the carrier knows. Words, tools and truncations are known to the service alone: whoever runs
both adds them (`with_words`); against a foreign server they stay empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bridge.audio import g711

from .actor import Performance
from .leg import Leg
from .picture import Sign, Turn, draw
from .playout import SAMPLES_PER_MS
from .scenario import Scenario
from .sounds import Stretch, joined, loud_ms

Track = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class CallerTurn:
    """Something the caller said. `meant` is False for coughs and "mm-hm": nobody need answer."""

    start_ms: float
    stop_ms: float
    words: str
    understood: str | None = None  # None: nobody can tell
    meant: bool = True


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """Something the agent said: from the first to the last sound of it in the caller's ear."""

    start_ms: float
    stop_ms: float
    text: str = ""  # all it meant to say
    heard_text: str = ""  # as far as it was heard
    unheard_ms: float = 0.0  # received by the service and never heard


@dataclass(frozen=True, slots=True)
class ToolCall:
    at_ms: float
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    result: str = ""


@dataclass(frozen=True, slots=True)
class Truncation:
    """The model was told how much of an item was heard; `truth_ms` is what really was."""

    at_ms: float
    item_id: str
    told_ms: float
    truth_ms: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Playback was thrown away by a clear of the service; `dropped_ms` were waiting to be played."""

    at_ms: float
    heard_ms: float
    dropped_ms: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The buffer ran dry in the middle of the agent's speech."""

    at_ms: float
    ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call that is over. Times are milliseconds since it began; tracks are PCM16 at 8 kHz, aligned with each
    other.
    """

    name: str
    length_ms: float
    caller: Track
    agent: Track  # as heard
    stream_from_ms: float | None  # when the first media stream opened
    status: str
    put_through_ms: float | None = None  # when the caller was handed on to somebody else's telephone
    performance: Performance = field(default_factory=Performance)
    caller_turns: tuple[CallerTurn, ...] = ()
    agent_turns: tuple[AgentTurn, ...] = ()
    tools: tuple[ToolCall, ...] = ()
    truncations: tuple[Truncation, ...] = ()
    cuts: tuple[Cut, ...] = ()
    gaps: tuple[Gap, ...] = ()
    borders_ms: tuple[float, ...] = ()  # where one piece of the agent's audio ended and another began, or it was cut
    end_reason: str = ""
    served: bool = True  # a media stream opened, and the server did not break it off
    foreign: bool = False  # somebody else's server, of which the carrier's account is all that is known
    left: str = ""  # why none opened, or how the server ended it; nothing where the carrier's side did
    complaints: tuple[str, ...] = ()  # the carrier's errors and warnings
    signs: tuple[Sign, ...] = ()  # what a picture shows besides the turns
    timeline: str = ""
    seed: int = 0
    number: int = 1  # of calls at once, or repetitions

    @property
    def agent_sounds(self) -> list[Stretch]:
        """When the caller heard the agent, pauses within a sentence closed."""
        return joined(loud_ms(self.agent))

    @property
    def ended(self) -> str:
        """Why the call ended, as far as anybody knows."""
        return self.end_reason or (f"{self.status}: {self.left}" if self.left else self.status)


_IN_ORDER = (1000, 1001, 1005)  # normal, going away, a close without a code (RFC 6455 section 7.4.1)
_CONTINUES_MS = 400.0  # audio that resumes sooner belongs to the same speech


def of_leg(scenario: Scenario, leg: Leg, performance: Performance, *, seed: int = 0, number: int = 1) -> Outcome:
    """All the carrier knows of a call that is over."""
    agent = np.frombuffer(g711.decode_mulaw(leg.heard_track()), "<i2")
    speaking = [step for step in scenario.caller if step.speaks]
    spoken = [
        CallerTurn(s.start / SAMPLES_PER_MS, s.stop / SAMPLES_PER_MS, s.label, meant=step.meant)
        for s, step in zip(leg.line.spoken, speaking, strict=False)  # the call may end before the last steps
    ]
    gaps, borders = _joints(leg)
    streams = leg.streams
    return Outcome(
        name=scenario.name,
        length_ms=len(agent) / SAMPLES_PER_MS,
        caller=np.frombuffer(g711.decode_mulaw(leg.said_track()), "<i2"),
        agent=agent,
        stream_from_ms=streams[0].started_at / SAMPLES_PER_MS if streams else None,
        put_through_ms=leg.dialled[0].at_ms if leg.dialled else None,
        status=leg.status,
        served=bool(streams) and (not streams[-1].left or streams[-1].close_code in _IN_ORDER),
        left=streams[-1].left if streams else next((problem.why for problem in reversed(leg.errors)), ""),
        performance=performance,
        caller_turns=tuple(spoken),
        agent_turns=tuple(AgentTurn(s.start_ms, s.stop_ms) for s in joined(loud_ms(agent), pause_ms=900)),
        cuts=tuple(
            Cut(c.at / SAMPLES_PER_MS, c.heard / SAMPLES_PER_MS, c.dropped / SAMPLES_PER_MS) for c in leg.clears
        ),
        gaps=tuple(gaps),
        borders_ms=tuple(borders),
        complaints=tuple(f"{p.code} {p.why}" for p in (*leg.errors, *leg.warnings)),
        signs=tuple(_signs(leg)),
        timeline=leg.timeline.text(),
        seed=seed,
        number=number,
    )


def with_words(outcome: Outcome, turns: Sequence[AgentTurn], understood: Sequence[str] | None) -> Outcome:
    """The service's account beside the carrier's: the agent's turns with their words, and what was understood of the
    caller, in the order of the caller's turns that were meant to be; None where nobody wrote it down. What the carrier
    took for a gap is none where a turn was over.
    """
    caller = list(outcome.caller_turns)
    if understood is not None:
        texts = iter(understood)
        caller = [replace(turn, understood=next(texts, "")) if turn.meant else turn for turn in caller]
    ends = {turn.stop_ms for turn in turns}
    gaps = tuple(gap for gap in outcome.gaps if gap.at_ms not in ends)
    return replace(outcome, agent_turns=tuple(turns), caller_turns=tuple(caller), gaps=gaps)


def _joints(leg: Leg) -> tuple[list[Gap], list[float]]:
    """Where the playback buffer ran dry within a speech, and all borders between pieces of audio."""
    gaps: list[Gap] = []
    borders: list[float] = []
    for stream in leg.streams:
        before = None
        cut_at = {cleared.at for cleared in stream.playout.clears}
        for chunk in stream.playout.chunks:
            if not chunk.played:
                continue
            end = chunk.plays_from + chunk.played
            if before is not None:
                pause_ms = (chunk.plays_from - before) / SAMPLES_PER_MS
                if 0 < pause_ms < _CONTINUES_MS and before not in cut_at:
                    gaps.append(Gap(before / SAMPLES_PER_MS, pause_ms))
            borders += [chunk.plays_from / SAMPLES_PER_MS, end / SAMPLES_PER_MS]
            before = end
    return gaps, sorted(set(borders))


def _signs(leg: Leg) -> list[Sign]:
    signs = [Sign(c.at / SAMPLES_PER_MS, "clear", "cleared") for c in leg.clears if c.dropped]
    for moment in leg.timeline.moments:
        match moment.who, moment.what:
            case "carrier", "mark":
                signs.append(Sign(moment.at_ms, "mark", str(moment.detail["name"])))
            case "caller", "press":
                signs.append(Sign(moment.at_ms, "key", f"key {moment.detail['digit']}"))
            case "caller", "hang_up":
                signs.append(Sign(moment.at_ms, "note", "hangs up"))
            case "network", what:
                ms = moment.detail.get("ms")
                words = what.replace("_", " ") + (f" for {ms:g} ms" if ms else "")
                signs.append(Sign(moment.at_ms, "fault", words, moment.at_ms + ms if ms else None))
            case "carrier", "dial":
                signs.append(Sign(moment.at_ms, "note", f"dials {moment.detail['target']}"))
            case _:
                pass
    return signs


def picture(outcome: Outcome) -> str:
    """The call as SVG."""
    turns = [Turn("caller", t.start_ms, t.stop_ms, t.words) for t in outcome.caller_turns]
    for turn in outcome.agent_turns:
        heard = turn.heard_text or turn.text
        unheard = turn.text[len(heard) :].strip() if turn.unheard_ms else ""
        turns.append(Turn("agent", turn.start_ms, turn.stop_ms, heard, turn.unheard_ms, unheard))
    signs = list(outcome.signs)
    signs += [Sign(tool.at_ms, "tool", tool.name) for tool in outcome.tools]
    signs += [
        Sign(t.at_ms, "barge_in", f"told {t.told_ms:.0f} ms, heard {t.truth_ms:.0f} ms") for t in outcome.truncations
    ]
    ended = (outcome.end_reason or outcome.status).replace("_", " ")
    return draw(
        outcome.caller,
        outcome.agent,
        turns=turns,
        signs=signs,
        title=outcome.name,
        subtitle=f"{outcome.length_ms / 1000:.1f} s, ended: {ended}",
    )
