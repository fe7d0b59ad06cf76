"""The two lines a session's frames may go into: an aiohttp WebSocket, and a pair of callbacks."""

from __future__ import annotations

import asyncio
import socket as sockets
import struct
from collections import deque
from collections.abc import Callable

import structlog
from aiohttp import web

OUTBOX_FRAMES = 8192  # a client that leaves this much unread is gone

log = structlog.get_logger()


class CallbackLine:
    def __init__(self, send: Callable[[str | bytes], None], close: Callable[[int, str], None]) -> None:
        self.send = send
        self.close = close

    def drop(self) -> None:
        self.close(1006, "")

    def go_dead(self) -> None:
        pass  # nothing follows: the session does not read or write any more


class SocketLine:
    """One task writes, in order; nobody who sends has to wait."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._socket = socket
        self._transport = transport
        self._frames: deque[str | bytes | tuple[int, str]] = deque()
        self._more = asyncio.Event()
        self._writer = asyncio.get_running_loop().create_task(self._write(), name="local model's outbox")

    def send(self, frame: str | bytes) -> None:
        if len(self._frames) >= OUTBOX_FRAMES:
            log.warning("a client stopped reading, dropped")
            self.drop()
            return
        self._frames.append(frame)
        self._more.set()

    def close(self, code: int, reason: str) -> None:
        self._frames.append((code, reason))
        self._more.set()

    def drop(self) -> None:
        """RST instead of FIN: what a crash or a broken path looks like."""
        self._frames.clear()
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def go_dead(self) -> None:
        self._frames.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    async def flushed(self) -> None:
        """After a `close`: until it was written."""
        await asyncio.gather(self._writer, return_exceptions=True)

    async def end(self) -> None:
        """The connection is over; ending twice is harmless."""
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._frames:
                try:
                    match self._frames.popleft():
                        case str(text):
                            await self._socket.send_str(text)
                        case bytes(data):
                            await self._socket.send_bytes(data)
                        case (code, reason):
                            await self._socket.close(code=code, message=reason.encode()[:123])
                            return
                except ConnectionError:
                    return  # the reader sees the end of it, too
