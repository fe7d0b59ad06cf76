"""A realtime service under the test's hand: it says what it is told to say, and keeps what it was sent.

Unrealistic on purpose: nothing happens that a test did not write down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Act = Callable[["Service"], Awaitable[None]]


class Service:
    def __init__(self) -> None:
        self.received: list[Any] = []  # events, or bytes of binary frames
        self.requests: list[Request] = []
        self.refuse: Response | None = None
        self.subprotocols: list[Subprotocol] | None = None
        self.port = 0
        self.sessions = 0  # open now
        self.connected = asyncio.Event()
        self._socket: ServerConnection | None = None
        self._paused: ServerConnection | None = None
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/realtime"

    async def say(self, *events: Any) -> None:
        """Objects as JSON text, text as it is, bytes as a binary frame."""
        await asyncio.wait_for(self.connected.wait(), 5)
        assert self._socket is not None
        for event in events:
            await self._socket.send(event if isinstance(event, str | bytes) else json.dumps(event))

    async def answered_ping(self) -> None:
        """The client has read all that was said, and answered our ping."""
        assert self._socket is not None
        async with asyncio.timeout(5):
            await (await self._socket.ping())

    async def hang_up(self, code: int = 1000, reason: str = "") -> None:
        assert self._socket is not None
        await self._socket.close(code, reason)

    def stop_reading(self) -> None:
        """What the client sends from now on is seen by `go_on_reading`."""
        assert self._socket is not None
        self._socket.transport.pause_reading()
        self._paused = self._socket

    def go_on_reading(self) -> None:
        assert self._paused is not None
        self._paused.transport.resume_reading()

    def break_off(self) -> None:
        """The connection breaks without a word."""
        assert self._socket is not None
        self._socket.transport.abort()

    async def heard(self, count: int) -> list[Any]:
        """What was sent to us, once there is so much of it."""
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def heard_type(self, kind: str, count: int = 1) -> list[Any]:
        """Events of one type, once there are so many."""

        def found() -> list[Any]:
            return [event for event in self.received if isinstance(event, dict) and event.get("type") == kind]

        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
        return found()

    async def _serve(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.connected.set()
        self.sessions += 1
        try:
            async for frame in socket:
                async with self._news:
                    self.received.append(json.loads(frame) if isinstance(frame, str) else frame)
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self.sessions -= 1

    def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return self.refuse


def refusal(socket_status: int, headers: dict[str, str] | None = None, body: str = "") -> Response:
    from websockets.datastructures import Headers

    status = HTTPStatus(socket_status)
    fields = Headers({"Content-Length": str(len(body.encode())), "Connection": "close", **(headers or {})})
    return Response(status.value, status.phrase, fields, body.encode())


@asynccontextmanager
async def running(service: Service | None = None) -> AsyncIterator[Service]:
    service = service or Service()
    async with serve(
        service._serve,
        "127.0.0.1",
        0,
        process_request=service._answer,
        subprotocols=service.subprotocols,
        compression=None,
        max_size=None,
    ) as server:
        service.port = next(iter(server.sockets)).getsockname()[1]
        yield service
