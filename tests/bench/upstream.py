"""Other sockets to the model service, behind the same small interface as ours, to be measured in the real service.

    lean        bridge.live.connect: the websockets library for all that is uncommon, frames of our own for the rest
    sansio      the same library's sans-I/O protocol alone, on an asyncio.Protocol
    websockets  the same library's asyncio connection
    aiohttp     aiohttp's client
    picows      picows' client (Cython), which is not a dependency of the service

Those whose API is made of coroutines get one task that reads and one that writes, as any user of theirs would need.
Each pings by its own means; nothing is compressed.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from bridge.errors import RealtimeError
from bridge.live import connect
from bridge.live.dialling import Dial, ModelSocket

PING_S: Final = 5.0  # as often as a session asks its socket to

Message = Callable[[bytes, bool], None]
Closed = Callable[[int, str], None]


def dial_of(name: str) -> Dial | None:
    """How the service is to dial; None: as it always does. Raises KeyError for a name nobody knows, ImportError where
    a library is missing.
    """
    dials: dict[str, Dial | None] = {
        "lean": None,
        "sansio": _dial_sansio,
        "websockets": _dial_websockets,
        "aiohttp": _dial_aiohttp,
        "picows": _dial_picows,
    }
    if name == "picows" and not has_picows():
        raise ImportError("picows is not installed: pip install picows")
    return dials[name]


def has_picows() -> bool:
    return importlib.util.find_spec("picows") is not None


# ---------------------------------------------------------------- coroutines on the other side


class Speaking(Protocol):
    """A library's open connection, as coroutines."""

    @property
    def waiting_bytes(self) -> int: ...
    async def send(self, payload: bytes, *, text: bool) -> None: ...
    async def receive(self) -> tuple[bytes, bool] | None: ...  # None: closed
    async def close(self, code: int, reason: str) -> None: ...
    def closed_with(self) -> tuple[int, str]: ...


class Pumped:
    """A ModelSocket made of a reading and a writing task."""

    def __init__(self, connection: Speaking, on_message: Message, on_closed: Closed) -> None:
        self._connection = connection
        self._on_message = on_message
        self._on_closed = on_closed
        self._outbox: deque[tuple[bytes, bool]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._reading = loop.create_task(self._read())
        self._writing = loop.create_task(self._write())
        self._closing: asyncio.Task[None] | None = None

    @property
    def waiting_bytes(self) -> int:
        return self._bytes + self._connection.waiting_bytes

    def send(self, payload: bytes) -> None:
        self._put(payload, text=True)

    def send_binary(self, payload: bytes) -> None:
        self._put(payload, text=False)

    def _put(self, payload: bytes, *, text: bool) -> None:
        self._outbox.append((payload, text))
        self._bytes += len(payload)
        self._news.set()

    def keep_alive(self, *, every_s: float, within_s: float) -> None:
        """The library does, from the beginning."""

    def probe(self, *, within_s: float) -> None:
        """Its own pings have to do."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._closing is None:
            self._writing.cancel()
            self._closing = asyncio.get_running_loop().create_task(self._connection.close(code, reason))

    async def _read(self) -> None:
        while (message := await self._connection.receive()) is not None:
            self._on_message(*message)
        self._writing.cancel()
        self._on_closed(*self._connection.closed_with())

    async def _write(self) -> None:
        while True:
            while self._outbox:
                payload, text = self._outbox.popleft()
                self._bytes -= len(payload)
                await self._connection.send(payload, text=text)
            self._news.clear()
            await self._news.wait()


async def _opened(opening: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await opening
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise RealtimeError(f"the handshake failed: {type(error).__name__}", code="connection_failed") from None


# ---------------------------------------------------------------- websockets, asyncio


class _Websockets:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def waiting_bytes(self) -> int:
        return int(self._connection.transport.get_write_buffer_size())

    async def send(self, payload: bytes, *, text: bool) -> None:
        await self._connection.send(payload, text=text)

    async def receive(self) -> tuple[bytes, bool] | None:
        from websockets.exceptions import ConnectionClosed

        try:
            return await self._connection.recv(decode=False), True
        except ConnectionClosed:
            return None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def closed_with(self) -> tuple[int, str]:
        return self._connection.close_code or 1006, self._connection.close_reason or ""


async def _dial_websockets(
    url: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    *,
    on_message: Message,
    on_closed: Closed,
) -> ModelSocket:
    from websockets.asyncio.client import connect as open_websocket
    from websockets.typing import Subprotocol

    async def opening() -> Any:
        return await open_websocket(
            url,
            additional_headers=list(headers),
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=None,
            proxy=None,
            max_size=connect.MAX_BYTES,
            ping_interval=PING_S,
            ping_timeout=PING_S,
        )

    return Pumped(_Websockets(await _opened(opening())), on_message, on_closed)


# ---------------------------------------------------------------- aiohttp


class _Aiohttp:
    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._transport = socket._conn.transport

    @property
    def waiting_bytes(self) -> int:
        return int(self._transport.get_write_buffer_size())

    async def send(self, payload: bytes, *, text: bool) -> None:
        from aiohttp import WSMsgType

        await self._socket.send_frame(payload, WSMsgType.TEXT if text else WSMsgType.BINARY)

    async def receive(self) -> tuple[bytes, bool] | None:
        from aiohttp import WSMsgType

        message = await self._socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return message.data, message.type is WSMsgType.TEXT
        return None

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    def closed_with(self) -> tuple[int, str]:
        return self._socket.close_code or 1006, ""


_sessions: dict[asyncio.AbstractEventLoop, Any] = {}


async def _dial_aiohttp(
    url: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    *,
    on_message: Message,
    on_closed: Closed,
) -> ModelSocket:
    import aiohttp

    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        _sessions[loop] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # it stops at 100 otherwise

    async def opening() -> Any:
        return await _sessions[loop].ws_connect(
            url,
            headers=list(headers),
            protocols=subprotocols,
            compress=0,
            max_msg_size=connect.MAX_BYTES,
            heartbeat=2 * PING_S,  # the answer is due after half of it
            decode_text=False,
        )

    return Pumped(_Aiohttp(await _opened(opening())), on_message, on_closed)


# ---------------------------------------------------------------- websockets, sans-I/O


class _SansIo(asyncio.Protocol):
    """Everything through the library's protocol: no frame is read or written by ourselves."""

    def __init__(self, wire: Any, on_message: Message, on_closed: Closed) -> None:
        self._wire = wire
        self._on_message = on_message
        self._on_closed: Closed | None = on_closed
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, data: bytes) -> None:
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Response

        self._wire.receive_data(data)
        for event in self._wire.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._on_message(bytes(event.data), event.opcode is Opcode.TEXT)
            elif isinstance(event, Response) and not self.opened.done():
                self.opened.set_result(None)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._on_closed is not None and self.opened.done():
            on_closed, self._on_closed = self._on_closed, None
            on_closed(self._wire.close_code or 1006, self._wire.close_reason or "")

    def _flush(self) -> None:
        for data in self._wire.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    @property
    def waiting_bytes(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def send(self, payload: bytes) -> None:
        self._wire.send_text(payload)
        self._flush()

    def send_binary(self, payload: bytes) -> None:
        self._wire.send_binary(payload)
        self._flush()

    def keep_alive(self, *, every_s: float, within_s: float) -> None:
        def ping() -> None:
            self._wire.send_ping(b"")
            self._flush()
            self._alarm = asyncio.get_running_loop().call_later(every_s, ping)

        self._alarm = asyncio.get_running_loop().call_later(every_s, ping)

    def probe(self, *, within_s: float) -> None:
        """The next ping has to do."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        if not self._transport.is_closing():
            self._wire.send_close(code, reason)
            self._flush()
            self._transport.close()


async def _dial_sansio(
    url: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    *,
    on_message: Message,
    on_closed: Closed,
) -> ModelSocket:
    uri, wire = connect._prepare(url, headers, subprotocols)
    socket = _SansIo(wire, on_message, on_closed)

    async def opening() -> None:
        await asyncio.get_running_loop().create_connection(lambda: socket, uri.host, uri.port)
        await socket.opened

    await _opened(opening())
    return socket


# ---------------------------------------------------------------- picows


class _Picows:
    def __init__(self, transport: Any) -> None:
        from picows import WSMsgType

        self._transport = transport
        self._text = WSMsgType.TEXT
        self._binary = WSMsgType.BINARY

    @property
    def waiting_bytes(self) -> int:
        return int(self._transport.underlying_transport.get_write_buffer_size())

    def send(self, payload: bytes) -> None:
        self._transport.send(self._text, payload)

    def send_binary(self, payload: bytes) -> None:
        self._transport.send(self._binary, payload)

    def keep_alive(self, *, every_s: float, within_s: float) -> None:
        """The library does, from the beginning."""

    def probe(self, *, within_s: float) -> None:
        """Its own pings have to do."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._transport.send_close(code, reason.encode())
        self._transport.disconnect()


async def _dial_picows(
    url: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    *,
    on_message: Message,
    on_closed: Closed,
) -> ModelSocket:
    import picows

    text, binary = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            kind = frame.msg_type
            if kind == text or kind == binary:
                on_message(frame.get_payload_as_bytes(), kind == text)
            elif kind == picows.WSMsgType.CLOSE:
                transport.disconnect()

        def on_ws_disconnected(self, transport: Any) -> None:
            on_closed(1006, "")

    async def opening() -> Any:
        transport, _ = await picows.ws_connect(
            Listener,
            url,
            extra_headers=list(headers),
            max_frame_size=connect.MAX_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=PING_S,
            auto_ping_reply_timeout=PING_S,
        )
        return transport

    return _Picows(await _opened(opening()))
