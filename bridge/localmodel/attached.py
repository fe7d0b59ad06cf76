"""One session with its ears, its recogniser and its clock: frames in, frames out, by callbacks and without a socket.

The server puts a WebSocket in front of it, a run on a virtual clock calls it directly. Time is the running event
loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pybase64
import structlog

from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.ear import Detection, Ear, whole_at_16k
from bridge.localmodel.hearing import Recogniser
from bridge.localmodel.session import CloseSession, ListenAnew, Outgoing, Recognise, Session
from bridge.localmodel.wire import Event, to_beta

log = structlog.get_logger()


class Attached:
    """`send` gets text frames (str) and binary frames (bytes), `close` a close code and reason."""

    def __init__(
        self,
        session: Session,
        *,
        recogniser: Recogniser | None,
        send: Callable[[str | bytes], None],
        close: Callable[[int, str], None],
        on_event: Callable[[str, Event], None] | None = None,
        detection: Detection = "best",
    ) -> None:
        self._session = session
        self._detection = detection
        self._recogniser = recogniser
        self._send = send
        self._close = close
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._ear = Ear(session.input_format, session.detection, kind=detection)
        self._timer: asyncio.TimerHandle | None = None
        self._recognitions: set[asyncio.Task[None]] = set()
        self._over = False

    def open(self) -> None:
        self._perform(self._session.open())

    def receive(self, frame: str | bytes) -> None:
        """One frame of the client. Never raises on what a client may send."""
        if self._over:
            return
        try:
            event = msgspec.json.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
            self._perform(self._session.malformed(str(wrong)))
            return
        if self._on_event is not None:
            self._on_event("client", event)
        audio = _appended(event)
        if audio is not None:
            self._hear(audio)
            return
        self._perform(self._session.receive(event, self._now()))

    def closed(self) -> None:
        """The client went away; closing twice is harmless."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._recognitions:
            task.cancel()

    # ------------------------------------------------------------ inside

    def _now(self) -> float:
        return self._loop.time() * 1000

    def _hear(self, audio: bytes) -> None:
        self._session.append(audio)
        for change in self._ear.hear(audio):
            if change.kind == "started":
                self._perform(self._session.speech_started(change.at_ms, self._now()))
            else:
                self._perform(self._session.speech_stopped(change.at_ms, self._now()))

    def _new_ear(self) -> Ear:
        session = self._session
        return Ear(session.input_format, session.detection, kind=self._detection, since_ms=self._ear.heard_ms)

    def _perform(self, out: list[Outgoing]) -> None:
        for outgoing in out:
            match outgoing:
                case Recognise():
                    task = self._loop.create_task(self._recognise(outgoing), name=f"recognise {outgoing.item_id}")
                    self._recognitions.add(task)
                    task.add_done_callback(self._recognitions.discard)
                case ListenAnew():
                    self._ear = self._new_ear()
                case CloseSession(code, reason):
                    self._end(code, reason)
                case event:
                    self._write(event)
        self._set_timer()

    def _write(self, event: Event) -> None:
        if self._over:
            return
        for told in to_beta(event) if self._session.dialect == "beta" else (event,):
            if self._on_event is not None:
                self._on_event("server", told)
            self._send(msgspec.json.encode(told).decode())

    def _end(self, code: int, reason: str) -> None:
        if not self._over:
            self.closed()
            self._close(code, reason)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._over:
            self._timer = self._loop.call_at(self._session.deadline_ms / 1000, self._advance)

    def _advance(self) -> None:
        # The loop may wake a clock tick early; what was due by its deadline is due now.
        self._perform(self._session.advance(max(self._now(), self._session.deadline_ms)))

    async def _recognise(self, wanted: Recognise) -> None:
        assert self._recogniser is not None, "a session without ears asks for no recognition"
        brain: Brain = self._session.brain
        try:
            heard = await self._recogniser.recognise(whole_at_16k(wanted.audio, wanted.format), brain)
        except OSError as wrong:
            log.warning("recognition failed", item_id=wanted.item_id, error=str(wrong))
            heard = Heard(None, "")
        if not self._over:
            self._perform(self._session.recognised(wanted.item_id, heard, self._now()))


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
