"""The last thing before the wire: dialect and scripted misbehaviour, from server events to frames and worse.

Pure: it is told events and moments, and answers with what to do to the socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge.localmodel.script import Script, Step
from bridge.localmodel.session import EXPIRED
from bridge.localmodel.wire import Dialect, Event, to_beta

# What huggingface/speech-to-speech does not send (its sources of 2026-08); items are announced by the older name.
_NOT_OF_SPEECH_TO_SPEECH = frozenset(
    "input_audio_buffer.committed input_audio_buffer.cleared conversation.item.done conversation.item.truncated"
    " response.output_item.added response.output_item.done response.content_part.added response.content_part.done"
    " response.function_call_arguments.delta rate_limits.updated".split()
)


@dataclass(frozen=True, slots=True)
class Frame:
    data: str | bytes


@dataclass(frozen=True, slots=True)
class Shut:
    """A close frame, in order behind what was sent before."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is reset, without a close frame."""


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """From now on the socket is there, and that is all."""


@dataclass(frozen=True, slots=True)
class Stall:
    ms: float


Act = Frame | Shut | Drop | HalfOpen | Stall


class Outlet:
    """`watch` is told each event as it is sent."""

    def __init__(self, script: Script, watch: Callable[[Event], None] | None = None) -> None:
        self._script = script
        self._watch = watch
        self._sent = 0
        self._types: Counter[str] = Counter()
        self._late: Event | None = None  # an event waiting to come after its successor

    @property
    def timed(self) -> list[tuple[float, Step]]:
        """Steps that happen at a time: ms after the connection was accepted."""
        return [(step.after_ms, step) for step in self._script.steps if step.after_ms is not None]

    def write(self, event: Event, dialect: Dialect) -> list[Act]:
        acts: list[Act] = []
        for scripted in self._scripted(event):
            for told in to_beta(scripted) if dialect == "beta" else (scripted,):
                acts.append(self._frame(told))
                acts.extend(self._due(event["type"], told["type"]))
        return acts

    def perform(self, step: Step) -> list[Act]:
        if step.drop:
            return [Drop()]
        if step.half_open:
            return [HalfOpen()]
        if step.stall_ms:
            return [Stall(step.stall_ms)]
        if step.close is not None:
            return [Shut(step.close.code, step.close.reason)]
        if step.expire:
            return expired()
        if step.send_binary is not None:
            return [Frame(bytes.fromhex(step.send_binary))]
        if step.send_text is not None:
            return [Frame(step.send_text)]
        if step.error is not None:
            return [self._frame(envelope(step.error))]
        return [self._frame(step.send)]

    def _scripted(self, event: Event) -> list[Event]:
        kind = event["type"]
        script = self._script
        if kind in script.omit:
            return []
        if script.profile == "speech-to-speech":
            if kind in _NOT_OF_SPEECH_TO_SPEECH:
                return []
            if kind == "conversation.item.added":
                event = {**event, "type": "conversation.item.created"}
        events = [event, event] if kind in script.duplicate else [event]
        if self._late is not None:
            events.append(self._late)
            self._late = None
        elif kind in script.reorder:
            self._late = events.pop()
        return events

    def _frame(self, event: Any) -> Frame:
        """Anything that has a JSON form: what a script sends need be no event."""
        if self._watch is not None:
            self._watch(event)
        if self._script.binary_audio and isinstance(event, dict) and isinstance(event.get("delta"), bytes):
            return Frame(event["delta"])
        return Frame(msgspec.json.encode(event).decode())

    def _due(self, *names: str) -> list[Act]:
        self._sent += 1
        for name in set(names):
            self._types[name] += 1
        acts: list[Act] = []
        for step in self._script.steps:
            by_count = step.after_events == self._sent
            by_type = step.after_type in names and self._types[step.after_type] == (step.nth or 1)
            if by_count or by_type:
                acts.extend(self.perform(step))
        return acts


def envelope(error: Event | str) -> Event:
    """An error event: as documented from a mapping, or with the plain string some servers put there."""
    if isinstance(error, str):
        return {"type": "error", "event_id": "event_scripted", "error": error}
    described = {"type": "invalid_request_error", "code": None, "message": "", "param": None, "event_id": None}
    return {"type": "error", "event_id": "event_scripted", "error": {**described, **error}}


def expired() -> list[Act]:
    told = envelope({"code": "session_expired", "message": EXPIRED})
    return [Frame(msgspec.json.encode(told).decode()), Shut(1001, EXPIRED)]
