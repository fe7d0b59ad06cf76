"""One bidirectional media stream, from `connected` to its end, as the carrier keeps it.

Caller frames leave every 20 ms by an absolute schedule: frame n, which holds the sound of [20 n, 20 n + 20) ms,
leaves at 20 n + 20 ms however late the loop was before. What the bridge sends is buffered and played by `Playout`;
marks go back when they are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pybase64

from . import wire
from .caller import FRAME, FRAME_MS, SILENCE_PAYLOAD, Caller, CallerLine
from .doors import MediaSocket
from .network import FrameFate, Pipe
from .playout import RATE_HZ, SAMPLES_PER_MS, Playout
from .timeline import Moment, Timeline
from .twiml import Problem

StreamEnd = Literal[
    "stopped",  # we ended it: the caller hung up, or the call was updated
    "closed",  # the bridge closed the socket
    "broken",  # the connection broke
]


class CallClock:
    """The call's time: samples and milliseconds since it began, on the running loop's clock."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()

    def samples(self) -> int:
        return round((self.loop.time() - self.began) * RATE_HZ)

    def ms(self) -> float:
        return (self.loop.time() - self.began) * 1000

    def loop_time(self, samples: int) -> float:
        return self.began + samples / RATE_HZ


@dataclass(frozen=True, slots=True)
class _Close:
    """Goes through the pipe to the bridge behind the last message."""

    code: int


@dataclass(frozen=True, slots=True)
class _Closed:
    """Comes through the pipe from the bridge behind its last message."""

    code: int | None
    reason: str


class MediaStream:
    """Speaks to the bridge over a media socket. `ended` resolves to how it ended.

    `said` receives every frame of the caller's (call sample, mu-law), lost ones too: it is what the caller said.
    `changed` is called whenever something arrived that changes what is played.
    """

    def __init__(
        self,
        *,
        clock: CallClock,
        messages: wire.Messages,
        parameters: dict[str, str],
        name: str,
        caller: Caller,
        line: CallerLine,
        timeline: Timeline,
        warnings: list[Problem],
        said: Callable[[int, bytes], None],
        changed: Callable[[], None],
        keep_audio: bool = True,
    ) -> None:
        network = caller.network
        self.stream_id = messages.stream_id
        self.name = name
        self.parameters = parameters
        self.playout = Playout(keep_audio=keep_audio)
        self.fate = FrameFate(network)
        self.ended: asyncio.Future[StreamEnd] = clock.loop.create_future()
        self.started_at = 0  # call clock, samples
        self.close_code: int | None = None  # the bridge's
        self.left = ""  # how the bridge's end went away, if it went first
        self.messages_sent = 0
        self._clock = clock
        self._messages = messages
        self._caller = caller
        self._line = line
        self._timeline = timeline
        self._warnings = warnings
        self._said = said
        self._changed = changed
        self._socket: MediaSocket | None = None
        self._to_bridge: Pipe[str | bytes | _Close] = Pipe(
            self._depart, network.latency_ms, network.jitter_ms, network.seed * 2
        )
        self._from_bridge: Pipe[str | bytes | _Closed] = Pipe(
            self._arrive, network.latency_ms, network.jitter_ms, network.seed * 2 + 1
        )
        self._frames = 0
        self._frame_timer: asyncio.TimerHandle | None = None
        self._mark_timer: asyncio.TimerHandle | None = None
        self._run: tuple[str, Moment] | None = None

    # ------------------------------------------------ life

    def begin(self, socket: MediaSocket) -> None:
        """The socket is open: introduce the stream, and let the caller be heard."""
        self._socket = socket
        self.started_at = self._clock.samples()
        self._send(wire.CONNECTED)
        self._note("connected")
        self._send(self._messages.start(self.parameters))
        self._note("start", stream=self.stream_id, parameters=sorted(self.parameters))
        self._next_frame()

    def stop(self) -> None:
        """End it from our side, as when the caller hangs up: `stop`, then the closing handshake."""
        if self._over("stopped"):
            self._send(self._messages.stop())
            self._note("stop")
            self._to_bridge.send(_Close(1000))

    def close_without_stop(self, code: int = 1000) -> None:
        """A fault: our end closes the socket and never says why."""
        if self._over("broken"):
            self._note("close", code=code, stop=False)
            self._to_bridge.send(_Close(code))

    def cut(self) -> None:
        """A fault: the connection is gone, both ends notice at once."""
        if self._over("broken"):
            self._timeline.add(self._clock.ms(), "network", "cut")
        self.abort()

    def half_open(self) -> None:
        """A fault: nothing arrives any more in either direction, pings neither, and nobody is told."""
        self._timeline.add(self._clock.ms(), "network", "half_open")
        self._to_bridge.half_open()
        self._from_bridge.half_open()
        if self._socket is not None:
            self._socket.half_open()

    def stall(self, ms: float) -> None:
        """A fault: nothing moves in either direction for so long; then everything arrives at once."""
        self._timeline.add(self._clock.ms(), "network", "stall", ms=ms)
        self._to_bridge.stall(ms)
        self._from_bridge.stall(ms)

    def stop_reading(self, ms: float) -> None:
        """A fault: the carrier does not read its socket for so long; the bridge's writes pile up."""
        if self._socket is not None:
            self._timeline.add(self._clock.ms(), "network", "stop_reading", ms=ms)
            self._socket.pause()
            self._clock.loop.call_later(ms / 1000, self._socket.resume)

    def inject(self, message: str | bytes) -> None:
        """A fault: a frame that Twilio would not send; bytes make a binary one."""
        self._timeline.add(self._clock.ms(), "network", "inject", size=len(message))
        self._to_bridge.send(message)

    def abort(self) -> None:
        """Let go of the socket without another word."""
        self._to_bridge.discard()
        self._from_bridge.discard()
        if self._socket is not None:
            self._socket.abort()

    @property
    def under_way(self) -> bool:
        """True while something of ours has not reached the bridge's end of the line."""
        return self._to_bridge.busy

    def press(self, digit: str) -> None:
        if not self.ended.done():
            self._send(self._messages.dtmf(digit))
            self._note("dtmf", digit=digit)

    def _over(self, how: StreamEnd) -> bool:
        """Ends the stream for the call; False if it had ended before. What is buffered is not played."""
        if self.ended.done():
            return False
        self.ended.set_result(how)
        for timer in (self._frame_timer, self._mark_timer):
            if timer is not None:
                timer.cancel()
        if self._caller_frames_due():
            self._send_frames()
        self.playout.end(self._clock.samples())
        self._changed()
        return True

    # ------------------------------------------------ the caller's audio

    def _caller_frames_due(self) -> bool:
        return self._clock.samples() >= self.started_at + (self._frames + 1) * FRAME

    def _next_frame(self) -> None:
        if self._caller_frames_due():
            self._send_frames()
        end = self.started_at + (self._frames + 1) * FRAME
        self._frame_timer = self._clock.loop.call_at(self._clock.loop_time(end), self._next_frame)

    def _send_frames(self) -> None:
        while self._caller_frames_due():
            start = self.started_at + self._frames * FRAME
            timestamp_ms = self._frames * FRAME_MS
            self._frames += 1
            audio, spoken = self._line.frame(start)
            self._said(start, audio)
            if self._caller.suppress_silence and not spoken:
                self._note_frame("suppressed", timestamp_ms)
                continue
            if not self.fate.quiet and self.fate.loses():
                self._note_frame("lost", timestamp_ms)
                continue
            silent = not spoken and self._caller.noise_dbfs is None
            payload = SILENCE_PAYLOAD if silent else pybase64.b64encode(audio).decode()
            message = self._messages.media(timestamp_ms, payload)
            self._note_frame("speech" if spoken else "silence", timestamp_ms)
            for each in (message,) if self.fate.quiet else self.fate.ways(message):
                self._send(each)

    def _note_frame(self, kind: str, timestamp_ms: int) -> None:
        if self._run is not None and self._run[0] == kind:
            self._run[1].detail["frames"] += 1
            return
        self._run = kind, self._note("media", sound=kind, from_ms=timestamp_ms, frames=1)

    # ------------------------------------------------ to the bridge

    def _send(self, message: str) -> None:
        self.messages_sent += 1
        self._to_bridge.send(message)

    def _depart(self, thing: str | bytes | _Close) -> None:
        assert self._socket is not None
        if isinstance(thing, _Close):
            self._socket.close(thing.code)
        else:
            self._socket.send(thing)

    def _note(self, what: str, **detail: object) -> Moment:
        return self._timeline.add(self._clock.ms(), "carrier", what, **detail)

    # ------------------------------------------------ from the bridge

    def on_message(self, message: str | bytes) -> None:
        self._from_bridge.send(message)

    def on_closed(self, code: int | None, reason: str = "") -> None:
        self._from_bridge.send(_Closed(code, reason))

    def _arrive(self, thing: str | bytes | _Closed) -> None:
        if isinstance(thing, _Closed):
            if self._over("broken" if thing.code is None else "closed"):
                self.close_code = thing.code
                said = f" ({_printable(thing.reason)})" if thing.reason else ""
                self.left = "the connection broke"
                if thing.code is not None:
                    self.left = f"the bridge closed the socket with code {thing.code}{said}"
                self._timeline.add(self._clock.ms(), "bridge", "close", code=thing.code)
            return
        if self.ended.done():
            return
        ms, now = self._clock.ms(), self._clock.samples()
        match wire.read(thing, self.stream_id):
            case wire.PlayThis(audio):
                chunk = self.playout.play(audio, now)
                self._timeline.add(
                    ms,
                    "bridge",
                    "media",
                    ms=len(audio) / SAMPLES_PER_MS,
                    position_ms=chunk.position / SAMPLES_PER_MS,
                    ahead_ms=(chunk.plays_from - now) / SAMPLES_PER_MS,
                )
                self._changed()
            case wire.MarkThis(name):
                self.playout.mark(name, now)
                self._timeline.add(ms, "bridge", "mark", name=name)
                self._return_marks(now)
            case wire.ClearAll():
                self._return_marks(now)
                cleared = self.playout.clear(now)
                self._timeline.add(
                    ms,
                    "bridge",
                    "clear",
                    heard_ms=cleared.heard / SAMPLES_PER_MS,
                    dropped_ms=cleared.dropped / SAMPLES_PER_MS,
                    marks=len(cleared.marks),
                )
                for name in cleared.marks:
                    self._give_back(name, "cleared")
                self._changed()
            case wire.Unusable(code, why):
                self._warnings.append(Problem(code, why))
                self._note("warning", code=code, why=why)

    def _mark_due(self) -> None:
        self._mark_timer = None
        self._return_marks(self._clock.samples())

    def _return_marks(self, now: int) -> None:
        """Marks that are due go back, and the timer is set for the next."""
        for name in self.playout.due_marks(now):
            self._give_back(name, "played")
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark_timer = None
        due = self.playout.next_due()
        if due is not None:
            self._mark_timer = self._clock.loop.call_at(self._clock.loop_time(due), self._mark_due)

    def _give_back(self, name: str, why: str) -> None:
        self._send(self._messages.mark(name))
        self._note("mark", name=name, after=why)


def _printable(text: str) -> str:
    """Somebody else's words, safe for a terminal and for XML."""
    return "".join(char if char.isprintable() else "?" for char in text)
