"""One WebSocket to a realtime service, for Python programmers: connect, send, receive or iterate, close.

Laws: messages are delivered in order and each to one receiver; cancelling `receive` loses nothing; whoever takes or
handles messages slowly keeps the socket from being read only when 64 MiB wait; closing twice is harmless. No redirect
is followed and no proxy is taken from the environment, since both would show the key to somebody else; the key is in no
log, error or `repr`. A call does not use this: its leg reads the socket itself (`live/`), with the same profiles and
dialects.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import inspect
import logging
import socket
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import pybase64
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ProtocolError
from websockets.frames import Close, Frame, Opcode

from bridge.errors import RealtimeError, UsageError
from bridge.realtime import given
from bridge.realtime.dialect import GA_NAMES
from bridge.realtime.emitter import being_cancelled
from bridge.realtime.envelope import read_error
from bridge.realtime.opening import CLOSE_S, PING_S, open_socket, redacted
from bridge.realtime.profiles import Profile, Target
from bridge.realtime.wire import MAX_MESSAGE, clean, read_object

log = logging.getLogger("bridge.realtime")  # which tells on standard error, and no values, where nobody set it up

_CUT_S = 3.0  # for a close that cannot even be sent
_MAX_WAITING = 256  # messages nobody has asked for yet; the frames after them wait as they came
_MAX_WAITING_BYTES = 64 << 20  # of such frames; then the socket is not read
_FRAME_COST = 100  # bytes a frame counts beside its own
_APPEND_BYTES = 1 << 20  # caller audio per append event; services take up to 15 MiB of base64

Handler = Callable[..., object]
EventName = Literal["message", "error", "close"]


class RealtimeMessage(msgspec.Struct, frozen=True):
    """One frame. A text frame has `text`, and `event` if it was a JSON object; audio deltas also have `audio`, decoded.
    A binary frame has only `audio`."""

    event: dict[str, Any] | None = None
    text: str | None = None
    audio: bytes | None = None


def connect(
    *,
    profile: str | Profile = "openai",
    url: str = "",
    api_key: str = "",
    model: str = "",
    strict: bool = False,
    allow_plain: bool = False,
    timeout_s: float = 5.0,
) -> Opening:
    """A connection to a realtime service, by `async with connect(...) as connection` or `connection = await
    connect(...)`.

    `profile` is a name of profiles.yaml or a Profile; empty `url` and `model` mean the profile's own. With `strict`
    every error envelope raises; without, the harmless ones are messages like any other. `allow_plain` permits `ws://`
    to another machine. Raises UsageError, naming it, for what cannot be used: an unknown profile, an address that is
    none, no key where the profile's own host wants one; RealtimeError when no connection can be had.
    """
    given.switch("strict", strict)
    target = given.target(profile, url, api_key, model, allow_plain=allow_plain)
    return Opening(target, strict=strict, timeout_s=timeout_s)


class Opening:
    """What `connect` returns: to be awaited, or entered."""

    def __init__(self, target: Target, *, strict: bool, timeout_s: float) -> None:
        if target.lacks_key and not target.is_relay:
            raise UsageError(
                f"api_key: missing; profile {target.profile.name} refuses who brings no key. Give api_key=...; here"
                " no variable of the environment is read"
            )
        self._target = target
        self._strict = strict
        self._timeout_s = given.seconds("timeout_s", timeout_s)
        self._connection: RealtimeConnection | None = None

    async def _open(self) -> RealtimeConnection:
        socket = await open_socket(self._target, timeout_s=self._timeout_s)
        return RealtimeConnection(socket, self._target, strict=self._strict)

    def __await__(self) -> Generator[Any, None, RealtimeConnection]:
        return self._open().__await__()

    async def __aenter__(self) -> RealtimeConnection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()


class RealtimeConnection:
    """An open session with a service. Safe to use from several tasks of one event loop."""

    def __init__(self, socket: ClientConnection, target: Target, *, strict: bool) -> None:
        self.target = target
        self.close_code: int | None = None
        self.close_reason = ""
        self._socket = socket
        self._strict = strict
        self._dialect = target.dialect()
        self._frames: asyncio.Queue[str | bytes | None] = asyncio.Queue()  # None: the end
        self._waiting_bytes = 0  # in `_frames`
        self._taken = asyncio.Event()  # a frame was taken out of `_frames`
        self._inbox: asyncio.Queue[RealtimeMessage | RealtimeError | None] = asyncio.Queue()  # None: the end
        self._room = asyncio.Event()
        self._room.set()
        self._pulled = False  # somebody receives or iterates
        self._handlers: dict[EventName, list[Handler]] = {"message": [], "error": [], "close": []}
        self._sending = self._sent = 0  # sends under way, and ended
        self._seen: tuple[int, int | None] | None = None  # how many had ended, and what was taken, at the last look
        self._cut = False  # by us, or found closed
        self._look = asyncio.get_running_loop().call_later(PING_S, self._watch)
        self._closing = False
        self._end: Close | None = None  # how the socket was closed
        self._end_told = False
        self._over: RealtimeError | None = None  # what ends an iteration with an error
        self._receiver = asyncio.create_task(self._take_in(), name=f"realtime receiver {target.profile.name}")
        self._reader = asyncio.create_task(self._read(), name=f"realtime reader {target.profile.name}")

    def __repr__(self) -> str:
        state = "open" if self.close_code is None else f"closed {self.close_code}"
        return f"<RealtimeConnection {self.target!r} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ------------------------------------------------------------ sending

    async def send(self, event: Mapping[str, Any] | str | bytes) -> None:
        """One event: an object with its `type`, or JSON text as it is. Raises RealtimeError when the connection is
        over.
        """
        if isinstance(event, str):
            try:
                await self._send(event.encode())
            except UnicodeEncodeError:
                raise UsageError("the event's text holds half of a character; give text that is whole") from None
        elif isinstance(event, bytes):
            try:
                event.decode()
            except UnicodeDecodeError:
                raise UsageError("these bytes are no JSON text; audio goes with send_audio") from None
            await self._send(event)
        elif isinstance(event, Mapping) and isinstance(event.get("type"), str):
            await self._send(given.as_json("the event", event))
        else:
            raise UsageError("an event is an object with a type, or JSON text")

    async def send_audio(self, pcm: bytes | bytearray | memoryview) -> None:
        """Caller audio in the session's input format (24 kHz PCM16 unless it was changed)."""
        for piece in pieces(given.sound("pcm", pcm)):
            if self.target.profile.binary_audio:
                await self._send(piece, text=False)
            else:
                await self._send(self._dialect.append(piece))

    async def _send(self, data: bytes, *, text: bool = True) -> None:
        self._sending += 1
        try:
            await self._socket.send(data, text=text)
        except ConnectionClosed:
            self._cut = True
        finally:
            self._sending -= 1
            self._sent += 1
        if self._cut:  # the library does not say so of what it was sending when the connection was cut
            raise RealtimeError("the connection is closed", code="connection_closed")

    def _watch(self) -> None:
        """While something waits to be sent, the library's pings wait behind it: a peer that takes nothing of it, from
        one look to the next, is given up here.
        """
        now = (self._sent, _taken_bytes(self._socket.transport)) if self._sending else None
        if now is not None and now == self._seen and now[1] is not None:
            self._abort()
            return
        self._seen = now
        self._look = asyncio.get_running_loop().call_later(PING_S, self._watch)

    def _abort(self) -> None:
        self._cut = True
        self._socket.transport.abort()

    # ------------------------------------------------------------ receiving

    async def receive(self) -> RealtimeMessage:
        """The next message. Cancelling takes effect at once and loses nothing.

        Raises RealtimeError for an error envelope that ends the session (for every one, when strict), and with the code
        `connection_closed` or `connection_lost` after the end.
        """
        self._pulled = True
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)  # for the others, and for next time
            raise self._over or RealtimeError(f"the connection is closed ({self.close_code})", code="connection_closed")
        if self._inbox.qsize() < _MAX_WAITING:
            self._room.set()
        if isinstance(message, RealtimeError):
            raise message
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RealtimeMessage:
        """Ends when either side closed in order; raises RealtimeError like `receive` otherwise."""
        try:
            return await self.receive()
        except RealtimeError as error:
            if error.code == "connection_closed":
                raise StopAsyncIteration from None
            raise

    def on(self, name: EventName, handler: Handler) -> Self:
        """Call `handler` (plain or async) for each "message" (RealtimeMessage), "error" (RealtimeError), at the "close"
        (code, reason). Handlers run one after the other in the order of messages. Without anyone receiving or iterating
        they are all that reads."""
        if name not in tuple(self._handlers):
            raise UsageError(f'{name!r} is not "message", "error" or "close"')
        if not callable(handler):
            raise UsageError(f"handler: found {handler!r}; give something to call")
        self._handlers[name].append(handler)
        if name == "message":
            self._room.set()  # what waited for a receiver goes to the handlers
        return self

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close in order: returns when the service has answered, or three seconds later. Harmless when closed."""
        try:
            # RFC 6455 sections 5.5 and 7.4.1: which codes may be sent, and how long a reason may be
            Frame(Opcode.CLOSE, Close(code, reason).serialize()).check()
        except (ProtocolError, TypeError, AttributeError, UnicodeEncodeError):
            raise UsageError(
                f"close: code {code!r} and this reason cannot be sent; write 1000 and a few words"
            ) from None
        self._closing = True
        self._taken.set()  # the service's answer may stand behind what there is no room for
        try:
            async with asyncio.timeout(_CUT_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            self._abort()  # it takes nothing any more
        if self._reader is asyncio.current_task():
            return  # a handler closes: the reader ends after it
        self._room.set()
        await asyncio.wait([self._receiver, self._reader], timeout=CLOSE_S)
        if self._reader.done():
            return
        self._reader.cancel()  # a handler does not come back
        await asyncio.wait([self._reader], timeout=CLOSE_S)
        if self._reader.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._tell_close()

    # ------------------------------------------------------------ the socket

    async def _take_in(self) -> None:
        """Nothing but read: while it does, pings are answered and pongs are seen, however slow the rest is."""
        try:
            while True:
                data = await self._socket.recv()
                self._waiting_bytes += len(data) + _FRAME_COST
                self._frames.put_nowait(data)
                while self._waiting_bytes > _MAX_WAITING_BYTES and not self._closing:
                    self._taken.clear()
                    await self._taken.wait()
        except ConnectionClosed as closed:
            self._end = closed.rcvd or closed.sent  # theirs, else why we gave up (too big, no answer to a ping)
        finally:
            self._look.cancel()
            self._frames.put_nowait(None)

    # ------------------------------------------------------------ the reader

    async def _read(self) -> None:
        last_error: RealtimeError | None = None
        try:
            while True:
                await self._wait_for_room()
                data = await self._frames.get()
                if data is None:
                    break
                self._waiting_bytes -= len(data) + _FRAME_COST
                self._taken.set()
                message, error = self._understand(data)
                raised = error is not None and (self._strict or self._ends_session(error))
                last_error = None if raised else error
                if self._pulled or not self._handlers["message"]:
                    self._inbox.put_nowait(error if raised and error is not None else message)
                await self._tell("message", message)
                if error is not None:
                    await self._tell("error", error)
                await asyncio.sleep(0)  # a burst must not keep those it woke from running
        finally:
            self._finish(self._end, last_error)
        await self._tell_close()

    async def _wait_for_room(self) -> None:
        while self._inbox.qsize():
            if not self._pulled and self._handlers["message"]:
                waiting = self._inbox.get_nowait()
                if isinstance(waiting, RealtimeMessage):
                    await self._tell("message", waiting)
                continue
            if self._inbox.qsize() < _MAX_WAITING or self._closing:
                return
            self._room.clear()
            await self._room.wait()

    def _understand(self, data: str | bytes) -> tuple[RealtimeMessage, RealtimeError | None]:
        if isinstance(data, bytes):
            return RealtimeMessage(audio=data), None
        event = read_object(data)
        if isinstance(event, str):
            return RealtimeMessage(text=data), None
        kind = event.get("type")
        if kind == "error":
            code, message, param, request_id = read_error(event)
            error = RealtimeError(
                redacted(message, self.target), code=code, param=param or None, request_id=request_id or None
            )
            return RealtimeMessage(event=event, text=data), error
        audio = None
        if isinstance(kind, str) and GA_NAMES.get(kind, kind) == "response.output_audio.delta":
            audio = _decoded(event.get("delta"))
        return RealtimeMessage(event=event, text=data, audio=audio), None

    def _ends_session(self, error: RealtimeError) -> bool:
        return self._dialect.cure(error.code, error.message) in ("fatal", "rotate")

    def _finish(self, end: Close | None, last_error: RealtimeError | None) -> None:
        self.close_code = int(end.code) if end is not None else 1006
        self.close_reason = redacted(clean(end.reason, MAX_MESSAGE), self.target) if end is not None else ""
        if not self._closing:
            if last_error is not None:
                self._over = last_error  # said, and then closed: that was why
            elif self.close_code not in (1000, 1001, 1005):
                reason = f": {self.close_reason}" if self.close_reason else ""
                self._over = RealtimeError(f"closed with {self.close_code}{reason}", code="connection_lost")
        self._inbox.put_nowait(None)

    async def _tell_close(self) -> None:
        if not self._end_told:
            self._end_told = True
            await self._tell("close", self.close_code, self.close_reason)

    async def _tell(self, name: EventName, *what: object) -> None:
        for handler in list(self._handlers[name]):
            try:
                answer = handler(*what)
                if inspect.isawaitable(answer):
                    await answer
            except (Exception, asyncio.CancelledError) as failure:
                if isinstance(failure, asyncio.CancelledError) and being_cancelled():
                    raise
                log.exception("a handler of %s failed", name)


def _taken_bytes(transport: asyncio.BaseTransport) -> int | None:
    """How much the peer has acknowledged (Linux: `tcpi_bytes_acked` of TCP_INFO, linux/tcp.h). What waits in the
    transport does not tell: with TLS a layer of it is not counted, and the kernel takes a lot at once. None: not known.
    """
    try:
        told = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int(struct.unpack_from("=Q", told, 120)[0])
    except (AttributeError, OSError, struct.error):
        return None


def pieces(audio: bytes) -> Iterator[bytes]:
    """Caller audio in the pieces it is sent in, each of whole samples."""
    for start in range(0, len(audio), _APPEND_BYTES):
        yield audio[start : start + _APPEND_BYTES]


def _decoded(delta: object) -> bytes | None:
    if not isinstance(delta, str):
        return None
    try:
        return pybase64.b64decode(delta, validate=True)
    except (binascii.Error, ValueError):
        return None
