"""How the local model misbehaves: a script in YAML (`voice-bridge model --script FILE`), or the same as a dict.

A script is one mapping of the keys below, or `connections:` with a list of such mappings, each with `on:` to say
which connections it is for: a number (1 is the first), a list of numbers, or `every` (the default). The first entry
that names a connection is the one it gets; connections nobody names behave well. All keys are optional.

    refuse: {status: 503, headers: {Retry-After: "2"}, body: busy}   # no upgrade, this answer
    handshake_delay_ms: 4000        # the upgrade is answered this much later
    created_delay_ms: 2000          # session.created comes this much later
    no_created: true                # session.created never comes, nor anything else unasked
    created_error: {code: insufficient_quota, message: ...}   # an error instead of session.created, then a close
    dialect: beta                   # ga or beta, whatever the client asks for
    refuse_beta: true               # a beta header or session: beta_api_shape_disabled, close 4000 (OpenAI, 2026)
    max_session_s: 30               # session_expired and close 1001 after this long (3600 as OpenAI has it)
    binary_audio: true              # sound in binary frames, both ways
    profile: speech-to-speech       # no committed, output_item, content_part, item.done; item.created; no truncate
    omit: [input_audio_buffer.committed]        # server events never sent
    duplicate: [response.output_audio.delta]    # sent twice
    reorder: [response.output_audio.delta]      # each changes places with the event after it
    delay: {conversation.item.input_audio_transcription.completed: 1500}   # each comes so many ms later than due
    ignore: [conversation.item.truncate]        # client events nobody answers
    stuck_vad: true                 # speech_started without speech_stopped; or a list of turns: [2]
    answers: [One., Two.]           # what the first responses say, instead of the brain
    steps:                          # one thing each, at a moment each
      - {after_events: 12, drop: true}                        # connection reset after the 12th server event
      - {after_type: response.created, nth: 2, close: {code: 1011, reason: internal error}}
      - {after_ms: 1500, error: {code: server_error, message: ...}}     # error envelope as documented
      - {after_ms: 1500, error: gone wrong}                   # "error" as a plain string
      - {after_ms: 1500, send: {type: error, code: upstream_error, message: ...}}   # any JSON
      - {after_ms: 1500, send_text: "{not json"}              # garbage
      - {after_ms: 1500, send_binary: "00ff00ff"}             # a binary frame, in hexadecimal
      - {after_ms: 1500, expire: true}                        # session_expired, then close 1001
      - {after_ms: 1500, half_open: true}                     # reads, writes and pongs no more; the socket stays
      - {after_ms: 1500, stall_ms: 3000}                      # writes nothing for a while, then everything

How responses are given, for all of them on the same level as the keys above, for single ones in `responses:`:

    responses:
      - {nth: 2, silent: true}      # asked for, and nothing comes; nth is a number, a list, or absent for all
      - {nth: [3, 4], status: failed, code: rate_limit_exceeded, message: ..., stop_after_ms: 400}
      - {nth: 6, status: failed, error_type: invalid_request_error}   # server_error, unless told otherwise
      - {nth: 5, status: incomplete, reason: content_filter}
    first_audio_ms: 800             # until the first sound
    delta_ms: 200                   # sound in one delta
    speed: 5                        # times real time; below 1 it is slower than the ear
    items: 3                        # each thing to say comes as three items
    count_less_ms: 85               # the server reckons its items' sound this much shorter than what it sent
    text_only: true                 # text where sound was due
    answer: Hello.                  # in `responses:` only

Events have their GA names, whatever the dialect; `after_type` takes the beta ones as well. A key that means nothing
beside the others is a mistake: `code` without `status: failed`, `nth` of a step without `after_type`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bridge.errors import ConfigError
from bridge.localmodel.wire import BETA_EVENTS, CLIENT_EVENTS, SERVER_EVENTS
from bridge.reading import FROM_1, NOT_NEGATIVE, between, nearest, parse, read, shown, sure_of_close_code

_ABOVE_0 = (1e-9, float("inf"))
_REASON_BYTES = 123  # a close frame holds 125, its code among them (RFC 6455 section 5.5)


_OF_STATUS = {  # keys of a rule that mean something with these alone
    "reason": ("incomplete",),
    "code": ("failed",),
    "error_type": ("failed",),
    "message": ("failed",),
    "stop_after_ms": ("failed", "incomplete"),
}


class ResponseRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a response is given; the keys of the module's text."""

    silent: bool = False
    text_only: bool = False
    answer: str = ""
    items: int = 1
    first_audio_ms: float = 0.0
    delta_ms: float = 200.0
    speed: float = 5.0
    count_less_ms: float = 0.0
    status: Literal["", "failed", "incomplete"] = ""
    reason: str = "content_filter"
    code: str = "server_error"
    error_type: str = "server_error"
    message: str = "The server had an error while processing your request."
    stop_after_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be above 0")
        between(self, speed=NOT_NEGATIVE, delta_ms=FROM_1, items=FROM_1)
        between(self, first_audio_ms=NOT_NEGATIVE, stop_after_ms=NOT_NEGATIVE)


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP answer instead of an upgrade."""

    status: int = 503
    headers: dict[str, str] = {}
    body: str = ""

    def __post_init__(self) -> None:
        between(self, status=(200, 599))
        if any(sign in text for header in self.headers.items() for text in header for sign in "\r\n\0"):
            raise ValueError("headers: names and values are one line each")


class Close(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: int = 1011
    reason: str = ""

    def __post_init__(self) -> None:
        sure_of_close_code("code", self.code)
        if len(self.reason.encode()) > _REASON_BYTES:
            raise ValueError(f"reason is longer than the {_REASON_BYTES} bytes a close frame has for it")


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When (one of the `after_` keys), and what (one of the others)."""

    after_events: int | None = None
    after_type: str = ""
    nth: int | None = None  # of the events `after_type`; without it the first
    after_ms: float | None = None
    drop: bool = False
    close: Close | None = None
    error: dict[str, Any] | str | None = None
    send: Any = None
    send_text: str | None = None
    send_binary: str | None = None
    expire: bool = False
    half_open: bool = False
    stall_ms: float = 0.0

    def __post_init__(self) -> None:
        between(self, after_events=FROM_1, nth=FROM_1, after_ms=NOT_NEGATIVE, stall_ms=NOT_NEGATIVE)
        if sum((self.after_events is not None, bool(self.after_type), self.after_ms is not None)) != 1:
            raise ValueError("a step needs one of after_events, after_type, after_ms")
        if self.nth is not None and not self.after_type:
            raise ValueError("nth belongs to after_type")
        given = (self.close, self.error, self.send, self.send_text, self.send_binary)
        does = [value is not None for value in given] + [self.drop, self.expire, self.half_open, self.stall_ms > 0]
        if sum(does) != 1:
            raise ValueError("a step does one thing: drop, close, error, send, send_text, send_binary, expire, ...")
        _sure_of_json("send", self.send)
        _sure_of_json("error", self.error)
        if self.send_binary is not None:
            _sure_of_hexadecimal(self.send_binary)
        if self.after_type:
            _sure_of_events("after_type", [self.after_type], SERVER_EVENTS | BETA_EVENTS.keys())


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one connection gets. The default is a server that behaves as documented."""

    refuse: Refusal | None = None
    handshake_delay_ms: float = 0.0
    created_delay_ms: float = 0.0
    no_created: bool = False
    created_error: dict[str, Any] | None = None
    dialect: Literal["", "ga", "beta"] = ""
    refuse_beta: bool = False
    max_session_s: float = 3600.0
    binary_audio: bool = False
    profile: Literal["", "speech-to-speech"] = ""
    omit: frozenset[str] = frozenset()
    duplicate: frozenset[str] = frozenset()
    reorder: frozenset[str] = frozenset()
    delay: dict[str, float] = {}
    ignore: frozenset[str] = frozenset()
    stuck_vad: bool | frozenset[int] = False
    answers: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    rule: ResponseRule = ResponseRule()
    rules: tuple[tuple[frozenset[int], ResponseRule], ...] = ()  # for the responses with these numbers; empty: all

    def __post_init__(self) -> None:
        between(self, handshake_delay_ms=NOT_NEGATIVE, created_delay_ms=NOT_NEGATIVE, max_session_s=_ABOVE_0)
        _sure_of_json("created_error", self.created_error)
        if any(ms < 0 for ms in self.delay.values()):
            raise ValueError("delay: times are not negative")
        if not isinstance(self.stuck_vad, bool) and any(turn < 1 for turn in self.stuck_vad):
            raise ValueError("stuck_vad: turns are counted from 1")
        for key in ("omit", "duplicate", "reorder", "delay"):
            _sure_of_events(key, getattr(self, key), SERVER_EVENTS)
        _sure_of_events("ignore", self.ignore, CLIENT_EVENTS)

    def response(self, number: int) -> ResponseRule:
        """The rule of the `number`th response, counted from 1."""
        rule = next((rule for numbers, rule in self.rules if not numbers or number in numbers), self.rule)
        if rule.answer or number > len(self.answers):
            return rule
        return msgspec.structs.replace(rule, answer=self.answers[number - 1])

    def turn_gets_stuck(self, turn: int) -> bool:
        return self.stuck_vad if isinstance(self.stuck_vad, bool) else turn in self.stuck_vad


class Scripts:
    """The script of each connection of one server."""

    def __init__(self, entries: list[tuple[frozenset[int], Script]] | None = None) -> None:
        self._entries = entries or []

    @classmethod
    def load(cls, path: Path) -> Scripts:
        """Raises ConfigError for a file that is not YAML or does not hold."""
        try:
            text = path.read_text("utf-8")
        except OSError as wrong:
            raise ConfigError([f"{path}: cannot be read: {wrong.strerror}"]) from wrong
        except UnicodeDecodeError as wrong:
            raise ConfigError([f"{path}: cannot be read as UTF-8"]) from wrong
        try:
            written, mistakes = parse(text, str(path))
        except ValueError as wrong:
            raise ConfigError([str(wrong)]) from wrong
        try:
            scripts = cls.from_dict(written or {}, source=str(path))
        except ConfigError as wrong:
            mistakes += wrong.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return scripts

    @classmethod
    def from_dict(cls, document: Any, *, source: str = "script") -> Scripts:
        """Raises ConfigError with a line for each entry that does not hold."""
        if not isinstance(document, Mapping):
            raise ConfigError([f"{source}: expected a mapping, found {type(document).__name__}"])
        listed = "connections" in document
        described = document["connections"] if listed else [document]
        if not isinstance(described, list) or (listed and len(document) > 1):
            raise ConfigError([f"{source}: connections: make it a list, and the only key on its level"])
        entries: list[tuple[frozenset[int], Script]] = []
        mistakes: list[str] = []
        for number, entry in enumerate(described, 1):
            where = f"{source}: connections[{number}]" if listed else source
            wrong: list[str] = []
            entries += _entry(entry, wrong)
            mistakes += [f"{where}: {mistake}" for mistake in wrong]
        if mistakes:
            raise ConfigError(mistakes)
        return cls(entries)

    def of(self, connection: int) -> Script:
        for connections, script in self._entries:
            if not connections or connection in connections:
                return script
        return Script()


_RULE_KEYS = frozenset(ResponseRule.__struct_fields__)
_OF_ALL = _RULE_KEYS - {"answer"}
_KEYS = (frozenset(Script.__struct_fields__) - {"rule", "rules"}) | _OF_ALL | {"on", "responses"}


def _entry(described: Any, wrong: list[str]) -> Iterator[tuple[frozenset[int], Script]]:
    """Nothing, after adding to `wrong`, where it does not hold."""
    if not isinstance(described, Mapping):
        wrong.append(f"expected a mapping of keys, found {shown(described)}")
        return
    keys = {"on" if key is True else key: value for key, value in described.items()}  # YAML 1.1 reads `on` as true
    for key in keys.keys() & {"answer", "rule", "rules"}:
        wrong.append(f"{key}: it is for single responses; write it under `responses`, or a list of `answers`")
        del keys[key]
    connections = _numbers(keys.pop("on", "every"), "on", wrong)
    for_all = {key: keys.pop(key) for key in list(keys) if key in _OF_ALL}
    rules = list(_rules(keys.pop("responses", []), for_all, wrong))
    script = read(keys, Script, "", wrong, known=_KEYS)
    rule = read(for_all, ResponseRule, "", wrong)
    if rule is not None and not wrong:  # a rule that was not read may be the one it is for
        wrong += _idle(for_all, [rule, *(single for _, single in rules)])
    if script is not None and rule is not None and not wrong:
        yield connections, msgspec.structs.replace(script, rule=rule, rules=tuple(rules))


def _rules(
    responses: Any, for_all: Mapping[str, Any], wrong: list[str]
) -> Iterator[tuple[frozenset[int], ResponseRule]]:
    if not isinstance(responses, list) or not all(isinstance(entry, Mapping) for entry in responses):
        wrong.append("responses: make it a list of mappings")
        return
    for number, entry in enumerate(responses, 1):
        where = f"responses[{number}]"
        single = dict(entry)
        numbers = _numbers(single.pop("nth", "every"), f"{where}.nth", wrong)
        told = read(single, ResponseRule, where, wrong, known=_RULE_KEYS | {"nth"})
        both = read({**for_all, **single}, ResponseRule, where, []) if told else None
        if both is not None:
            wrong += [f"{where}: {idle}" for idle in _idle(single, [both])]
            yield numbers, both


def _idle(written: Iterable[str], rules: Sequence[ResponseRule]) -> Iterator[str]:
    """A line for each key that means nothing in any of the rules it is for."""
    for key in written:
        statuses = _OF_STATUS.get(key, ())
        if statuses and not any(rule.status in statuses for rule in rules):
            yield f"{key} belongs to {' or '.join(f'`status: {status}`' for status in statuses)}"
        if key != "silent" and all(rule.silent for rule in rules):
            yield f"{key}: a response that is silent has none; leave out one of the two"


def _numbers(value: Any, place: str, wrong: list[str]) -> frozenset[int]:
    """Empty for all of them."""
    if value == "every":
        return frozenset()
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(type(number) is int and number > 0 for number in listed):
        wrong.append(f"{place}: write a number from 1, a list of them, or `every`; found {shown(value)}")
        return frozenset()
    return frozenset(listed)


def _sure_of_events(key: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError naming every event nobody sends."""
    told = [
        f"no event {name!r}" + (f"; write {ga}" if (ga := BETA_EVENTS.get(name)) in known else nearest(name, known))
        for name in sorted(names)
        if name not in known
    ]
    if told:
        raise ValueError(f"{key}: {'; '.join(told)}")


def _sure_of_json(key: str, value: Any) -> None:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError) as wrong:
        raise ValueError(f"{key}: cannot be written as JSON: {wrong}") from None


def _sure_of_hexadecimal(text: str) -> None:
    try:
        bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"send_binary: {shown(text)} is not hexadecimal; write two digits for each byte") from None
