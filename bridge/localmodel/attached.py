"""One session with its ears, its recogniser, its script and its clock: frames in, frames out, by callbacks.

The server puts a WebSocket in front of it, a run on a virtual clock calls it directly. Time is the running event
loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import pybase64
import structlog

from bridge.localmodel.brain import Heard
from bridge.localmodel.ear import Detection, Ear, whole_at_16k
from bridge.localmodel.hearing import Recogniser
from bridge.localmodel.outlet import Act, Drop, Frame, HalfOpen, Outlet, Shut, Stall, envelope
from bridge.localmodel.recognitions import Recognise
from bridge.localmodel.script import Step
from bridge.localmodel.session import CloseSession, ListenAnew, Outgoing, Session
from bridge.localmodel.wire import Event

log = structlog.get_logger()


class Line(Protocol):
    """What a session's frames go into. Nothing of it waits."""

    def send(self, frame: str | bytes) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Behind everything that was sent."""

    def drop(self) -> None:
        """At once, as a broken network does."""

    def go_dead(self) -> None:
        """Stay open, but read nothing and answer no ping."""


class Attached:
    """`on_event` is told ("client" or "server", event)."""

    def __init__(
        self,
        session: Session,
        line: Line,
        *,
        recogniser: Recogniser,
        detection: Detection = "best",
        on_event: Callable[[str, Event], None] | None = None,
    ) -> None:
        self._session = session
        self._line = line
        self._recogniser = recogniser
        self._detection = detection
        self._on_event = on_event
        self._script = session.script
        self._outlet = Outlet(self._script, None if on_event is None else lambda event: on_event("server", event))
        self._loop = asyncio.get_running_loop()
        self._ear = Ear(session.input_format, session.detection, kind=detection)
        self._deadline: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._recognitions: set[asyncio.Task[None]] = set()
        self._stalled: list[Act] | None = None
        self._over = False

    def open(self) -> None:
        """`session.created`, or what the script has in its place."""
        for ms, step in self._outlet.timed:
            self._later(ms, partial(self._perform_step, step))
        if self._script.created_error is not None:
            refusal = envelope(self._script.created_error)
            self._act([*self._outlet.write(refusal, "ga"), Shut(1008, str(refusal["error"]["code"]))])
        elif self._script.created_delay_ms:
            self._later(self._script.created_delay_ms, self._greet)
        elif not self._script.no_created:
            self._greet()

    def receive(self, frame: str | bytes) -> None:
        """One frame of the client. Never raises on what a client may send."""
        if self._over or self._script.no_created:
            return
        if isinstance(frame, bytes) and self._script.binary_audio:
            self._hear(frame)
            return
        if isinstance(frame, bytes):
            self._perform(self._session.malformed("invalid_event", "Binary frames are not supported."))
            return
        try:
            event = msgspec.json.decode(frame)
        except (msgspec.DecodeError, RecursionError) as wrong:
            self._perform(self._session.malformed("invalid_json", f"The event is no JSON: {wrong}"))
            return
        if self._on_event is not None:
            self._on_event("client", event)
        audio = _appended(event)
        if audio is not None and event["type"] not in self._script.ignore:
            self._hear(audio)
            return
        self._perform(self._session.receive(event, self._now()))

    def closed(self) -> None:
        """The client went away; closing twice is harmless."""
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        for timer in self._timers:
            timer.cancel()
        for task in self._recognitions:
            task.cancel()

    # ------------------------------------------------------------ inside

    def _now(self) -> float:
        return self._loop.time() * 1000

    def _later(self, ms: float, act: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(ms / 1000, act))

    def _greet(self) -> None:
        self._perform(self._session.open())

    def _perform_step(self, step: Step) -> None:
        self._act(self._outlet.perform(step))

    def _hear(self, audio: bytes) -> None:
        self._session.append(audio)
        for change in self._ear.hear(audio):
            match change.kind:
                case "started":
                    self._perform(self._session.speech_started(change.at_ms, self._now()))
                case "paused":
                    self._perform(self._session.speech_paused(change.at_ms))
                case "resumed":
                    self._session.speech_resumed()
                case "stopped":
                    self._perform(self._session.speech_stopped(change.at_ms, self._now()))

    def _perform(self, out: list[Outgoing]) -> None:
        for outgoing in out:
            match outgoing:
                case Recognise():
                    task = self._loop.create_task(self._recognise(outgoing), name=f"recognise {outgoing.item_id}")
                    self._recognitions.add(task)
                    task.add_done_callback(self._recognitions.discard)
                case ListenAnew():
                    session, heard_ms = self._session, self._ear.heard_ms
                    self._ear = Ear(session.input_format, session.detection, kind=self._detection, since_ms=heard_ms)
                    if session.in_turn:
                        self._ear.go_on()
                case CloseSession(code, reason):
                    self._act([Shut(code, reason)])
                case event:
                    late_ms = self._script.delay.get(event["type"], 0.0)
                    if late_ms > 0:
                        self._later(late_ms, partial(self._write, event))
                    else:
                        self._write(event)
        self._keep_deadline()

    def _write(self, event: Event) -> None:
        self._act(self._outlet.write(event, self._session.dialect))

    def _act(self, acts: list[Act]) -> None:
        for act in acts:
            if self._over:
                return
            if self._stalled is not None:
                self._stalled.append(act)
                continue
            match act:
                case Frame(data):
                    self._line.send(data)
                case Stall(ms):
                    self._stalled = []
                    self._later(ms, self._resume)
                case Shut(code, reason):
                    self.closed()
                    self._line.close(code, reason)
                case Drop():
                    self.closed()
                    self._line.drop()
                case HalfOpen():
                    self.closed()
                    self._line.go_dead()

    def _resume(self) -> None:
        held, self._stalled = self._stalled or [], None
        self._act(held)

    def _keep_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._over:
            self._deadline = self._loop.call_at(self._session.deadline_ms / 1000, self._advance)

    def _advance(self) -> None:
        # A loop may wake a clock tick early; what was due by its deadline is due now.
        self._perform(self._session.advance(max(self._now(), self._session.deadline_ms)))

    async def _recognise(self, wanted: Recognise) -> None:
        try:
            heard = await self._recogniser.recognise(whole_at_16k(wanted.audio, wanted.format), self._session.brain)
        except OSError as wrong:
            log.warning("recognition failed", item_id=wanted.item_id, error=str(wrong))
            heard = Heard(None, "")
        if not self._over:
            self._perform(self._session.recognised(wanted, heard, self._now()))


def _appended(event: Any) -> bytes | None:
    """The sound of a sound append event; everything else takes the long way, errors included."""
    if not isinstance(event, dict) or event.get("type") != "input_audio_buffer.append":
        return None
    audio = event.get("audio")
    if not isinstance(audio, str):
        return None
    try:
        return pybase64.b64decode(audio, validate=True)
    except ValueError:
        return None
