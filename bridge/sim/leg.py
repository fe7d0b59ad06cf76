"""One call as its caller lives it: speak, press keys, listen, hang up; and afterwards everything one can ask about
it.

A test drives a `Leg`; `Execution` (in execution.py) carries out the TwiML behind it. All times are milliseconds since
the call began.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bridge.audio import g711
from bridge.errors import UsageError

from .account import Account, Signing
from .caller import Caller, CallerLine
from .playout import SAMPLES_PER_MS, Cleared, Received
from .sounds import QUIET
from .stream import CallClock, MediaStream
from .timeline import Moment, Timeline
from .twiml import Document, Problem

CallStatus = Literal["queued", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled"]
Direction = Literal["inbound", "outbound-api"]
FINAL: frozenset[str] = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})

_LEVELS = np.abs(np.frombuffer(g711.decode_mulaw(bytes(range(256))), "<i2").astype(np.int32))
_BLOCK = 10 * SAMPLES_PER_MS


@dataclass(frozen=True, slots=True)
class Dialled:
    """TwiML dialled somebody."""

    at_ms: float
    kind: str  # Number, Sip, Client, Conference, Queue
    target: str
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Sound the carrier itself played: <Say> or <Play>. `audio` is what was heard of it."""

    start: int  # call clock, samples
    audio: bytes
    text: str


@dataclass(slots=True)
class CallStatusUpdate:
    """What an update of the call by REST asks for."""

    complete: bool = False
    document: Document | None = None
    url: str = ""
    method: str = "POST"


@dataclass(slots=True)
class CallbackWish:
    """Where the call's status is told, and which changes."""

    url: str = ""
    method: str = "POST"
    events: frozenset[str] = field(default_factory=lambda: frozenset({"completed"}))


class Leg:
    """A call between a simulated person and the number of a bridge."""

    def __init__(
        self,
        account: Account,
        *,
        to: str,
        from_: str,
        caller: Caller,
        direction: Direction = "inbound",
        signing: Signing = "right",
        fallback_url: str = "",
        callback: CallbackWish | None = None,
        extra: dict[str, str] | None = None,
        keep_audio: bool = True,
    ) -> None:
        self.account = account
        self.call_id = account.new_id("CA")
        self.to = to
        self.from_ = from_
        self.caller = caller
        self.direction: Direction = direction
        self.signing: Signing = signing
        self.fallback_url = fallback_url
        self.callback = callback or CallbackWish()
        self.extra = dict(extra or {})
        self.keep_audio = keep_audio
        self.clock = CallClock()
        self.status: CallStatus = "queued"
        self.status_at_ms: dict[str, float] = {}
        self.timeline = Timeline()
        self.line = CallerLine(caller)
        self.streams: list[MediaStream] = []
        self.prompts: list[Prompt] = []
        self.dialled: list[Dialled] = []
        self.documents: list[Document] = []  # every TwiML document that was fetched
        self.warnings: list[Problem] = []
        self.errors: list[Problem] = []
        self.over: asyncio.Future[None] = self.clock.loop.create_future()
        self.interrupted: asyncio.Future[CallStatusUpdate] = self.clock.loop.create_future()
        self._said = bytearray()  # from the call's first sample on
        self._waiters: list[asyncio.Future[None]] = []
        self.timeline.watch(lambda _: self.wake())

    # ------------------------------------------------ what the caller does

    def say(self, audio: bytes, *, at_ms: float | None = None, label: str = "") -> None:
        """Speak (8 kHz mu-law): from the next frame on, after what is already queued; or not before `at_ms` of the
        call.
        """
        self.line.say(audio, at=None if at_ms is None else round(at_ms * SAMPLES_PER_MS), label=label)

    def press(self, digits: str, *, every_ms: float = 200.0) -> None:
        """Press keys, the first now. Keys pressed while no stream is open go nowhere."""
        for number, digit in enumerate(digits):
            if digit not in "0123456789*#ABCD":
                raise UsageError(f"{digit!r} is not a key of a telephone")
            if number and every_ms:
                self.clock.loop.call_later(number * every_ms / 1000, self._press, digit)
            else:
                self._press(digit)

    def _press(self, digit: str) -> None:
        self.timeline.add(self.now_ms, "caller", "press", digit=digit)
        if self.stream is not None:
            self.stream.press(digit)

    def hang_up(self) -> None:
        """The caller puts the phone down. Doing it twice is harmless."""
        if self.status in FINAL or self.interrupted.done():
            return
        self.timeline.add(self.now_ms, "caller", "hang_up")
        self.end()

    def end(self) -> None:
        """End the call from the carrier's side: `stop` to an open stream at once, then everything else."""
        if self.status in FINAL or self.interrupted.done():
            return
        if self.stream is not None:
            self.stream.stop()
        self.interrupted.set_result(CallStatusUpdate(complete=True))

    # ------------------------------------------------ where the call is

    @property
    def now_ms(self) -> float:
        return self.clock.ms()

    @property
    def stream(self) -> MediaStream | None:
        """The open media stream, if there is one."""
        if self.streams and not self.streams[-1].ended.done():
            return self.streams[-1]
        return None

    @property
    def clears(self) -> list[Cleared]:
        """Every clear the bridge sent, with what had been heard when it arrived."""
        return [cleared for stream in self.streams for cleared in stream.playout.clears]

    @property
    def media(self) -> list[Received]:
        """Every media message of the bridge, with when it was played and how much of it."""
        return [chunk for stream in self.streams for chunk in stream.playout.chunks]

    def update(self, wish: CallStatusUpdate) -> None:
        """The account changes the running call by REST."""
        if not self.interrupted.done():
            self.interrupted.set_result(wish)

    def set_status(self, status: CallStatus) -> None:
        if status == self.status or self.status in FINAL:
            return
        self.status = status
        self.status_at_ms[status] = self.now_ms
        self.timeline.add(self.now_ms, "carrier", "status", status=status)

    # ------------------------------------------------ waiting

    async def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until `condition()` holds; it is asked again after everything that happens. False if the call ended
        first.
        """
        while not condition():
            if self.over.done():
                return False
            await self._something(None)
        return True

    async def sleep(self, ms: float) -> bool:
        """Let so much time pass; False if the call ended meanwhile."""
        until_ms = self.now_ms + ms
        while self.now_ms < until_ms - 1e-6:
            if self.over.done():
                return False
            await self._something(until_ms)
        return not self.over.done()

    async def streaming(self) -> MediaStream:
        """The media stream, once it is open. Raises UsageError if the call ends without one."""
        if not await self.wait_for(lambda: self.stream is not None and self.stream.messages_sent > 0):
            raise UsageError(f"call {self.call_id} ended without a media stream: {self.errors}")
        assert self.stream is not None
        return self.stream

    async def ended(self) -> CallStatus:
        await asyncio.shield(self.over)
        return self.status

    async def wait_until_heard(self, ms: float) -> bool:
        """Until so much of the bridge's audio has been heard in all; False if the call ends before."""
        while self.heard_ms() < ms:
            if self.over.done():
                return False
            stream = self.stream
            buffered = stream.playout.buffered(self.clock.samples()) / SAMPLES_PER_MS if stream else 0.0
            missing = ms - self.heard_ms()
            await self._something(self.now_ms + missing if buffered >= missing else None)
        return True

    async def wait_until_agent_speaks(self) -> bool:
        """Until the caller hears a sound (louder than the line's silence); False if the call ends before."""
        seen = 0
        while True:
            now = self.clock.samples()
            chunks = self.media
            for number in range(seen, len(chunks)):
                chunk = chunks[number]
                for start, stop in loud_blocks(chunk):
                    if stop > now:
                        if start <= now:
                            return True
                        await self._something(start / SAMPLES_PER_MS)
                        break
                else:
                    if chunk.plays_from + chunk.played <= now:
                        seen = number + 1
                    continue
                break
            else:
                if self.over.done():
                    return False
                await self._something(None)

    async def wait_until_quiet(self, ms: float = 700.0) -> bool:
        """Until the caller has heard nothing for so long and nothing is on its way; False if the call ends before."""
        asked_at = self.now_ms
        while True:
            quiet_from = max(asked_at, self.last_sound_ms())
            if self.now_ms >= quiet_from + ms - 1e-6:
                return True
            if self.over.done():
                return False
            await self._something(quiet_from + ms)

    def last_sound_ms(self) -> float:
        """When the last sound of the bridge was heard, or will have been, as things stand; 0 if there was none."""
        for stream in reversed(self.streams):
            for chunk in reversed(stream.playout.chunks):
                if chunk.played and (blocks := loud_blocks(chunk)):
                    return blocks[-1][1] / SAMPLES_PER_MS
        return 0.0

    async def events(self) -> AsyncIterator[Moment]:
        """Everything that happens from now on, until the call is over."""
        queue: asyncio.Queue[Moment | None] = asyncio.Queue()
        unwatch = self.timeline.watch(queue.put_nowait)
        self.over.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (moment := await queue.get()) is not None:
                yield moment
        finally:
            unwatch()

    async def _something(self, until_ms: float | None) -> None:
        """Until anything happens in this call, or until that time of it."""
        waiter: asyncio.Future[None] = self.clock.loop.create_future()
        self._waiters.append(waiter)
        timer = None
        if until_ms is not None:
            timer = self.clock.loop.call_at(self.clock.began + until_ms / 1000, _resolve, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _resolve(waiter)

    # ------------------------------------------------ what was heard and said

    def heard_ms(self, at_ms: float | None = None) -> float:
        """How much of the bridge's audio the caller had heard by `at_ms` (now without it)."""
        at = self.clock.samples() if at_ms is None else round(at_ms * SAMPLES_PER_MS)
        return sum(stream.playout.heard(at) for stream in self.streams) / SAMPLES_PER_MS

    def heard_of(
        self, since_ms: float, until_ms: float | None = None, *, at_ms: float | None = None, stream: int = -1
    ) -> float:
        """How much of the audio received at stream positions [since_ms, until_ms) had been heard by `at_ms`.

        This is the truth `audio_end_ms` is measured against: since_ms is where the item began in what was received.
        """
        playout = self.streams[stream].playout
        at = self.clock.samples() if at_ms is None else round(at_ms * SAMPLES_PER_MS)
        stop = playout.received if until_ms is None else round(until_ms * SAMPLES_PER_MS)
        return playout.heard_of(round(since_ms * SAMPLES_PER_MS), stop, at) / SAMPLES_PER_MS

    def note_said(self, start: int, frame: bytes) -> None:
        if not self.keep_audio:
            return
        if start > len(self._said):
            self._said += b"\xff" * (start - len(self._said))
        self._said[start : start + len(frame)] = frame

    def said_track(self) -> bytes:
        """What the caller said, mu-law, from the call's first sample to now; silence where no stream listened."""
        return _padded(bytes(self._said), self._length())

    def heard_track(self) -> bytes:
        """What the caller heard until now, mu-law, aligned with `said_track`; silence where nothing played."""
        now = self._length()
        track = bytearray(b"\xff" * now)
        for chunk in self.media:
            if chunk.audio is not None:
                end = min(chunk.plays_from + chunk.played, now)
                if end > chunk.plays_from:
                    track[chunk.plays_from : end] = chunk.audio[: end - chunk.plays_from]
        for prompt in self.prompts:
            end = min(prompt.start + len(prompt.audio), now)
            track[prompt.start : end] = prompt.audio[: end - prompt.start]
        return bytes(track)

    def _length(self) -> int:
        if self.over.done() and self.timeline.moments:
            return round(self.timeline.moments[-1].at_ms * SAMPLES_PER_MS)
        return self.clock.samples()


def loud_blocks(chunk: Received) -> list[tuple[int, int]]:
    """The stretches of this chunk (call clock) that sound, in blocks of 10 ms; all of it where no audio was kept."""
    if chunk.audio is None:
        return [(chunk.plays_from, chunk.plays_from + chunk.played)] if chunk.played else []
    levels = _LEVELS[np.frombuffer(chunk.audio[: chunk.played], np.uint8)]
    blocks = []
    for start in range(0, len(levels), _BLOCK):
        if levels[start : start + _BLOCK].mean() > QUIET:
            begins = chunk.plays_from + start
            blocks.append((begins, min(begins + _BLOCK, chunk.plays_from + chunk.played)))
    return blocks


def _padded(track: bytes, length: int) -> bytes:
    return track[:length] + b"\xff" * (length - len(track))


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
