"""A plain WebSocket client of the local model, written against the service's reference and nothing of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from tests.localmodel.stage import SHOP, FlatVoice


class KnowingEar:
    """Understands every sound as the same sentence, half a second later."""

    def __init__(self, text: str = "when are you open") -> None:
        self.text = text

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        await asyncio.sleep(0.05)
        return brain.understand(self.text)

    async def close(self) -> None:
        pass


class Client:
    """What was received is kept: (ms since the connection began, event or bytes)."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, since: float) -> None:
        self.socket = socket
        self.received: list[tuple[float, Any]] = []
        self._since = since

    @property
    def now_ms(self) -> float:
        return (asyncio.get_running_loop().time() - self._since) * 1000

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, event in self.received if isinstance(event, dict)]

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def at_ms(self, kind: str, nth: int = 1) -> float:
        times = [at for at, event in self.received if isinstance(event, dict) and event["type"] == kind]
        return times[nth - 1]

    def first(self, kind: str) -> dict[str, Any]:
        return next(event for event in self.events if event["type"] == kind)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def read_until(self, *kinds: str, within_ms: float = 20_000) -> dict[str, Any]:
        """Up to the first event of one of these kinds; `closed` and `lost` are the end of the connection."""
        async with asyncio.timeout(within_ms / 1000):
            while True:
                event = await self._next()
                if event["type"] in kinds:
                    return event

    async def read_for(self, ms: float) -> None:
        """Whatever comes in this time, or until the connection ends."""
        try:
            await self.read_until("closed", "lost", within_ms=ms)
        except TimeoutError:
            pass

    async def _next(self) -> dict[str, Any]:
        message = await self.socket.receive()
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                try:
                    event = json.loads(message.data)
                except ValueError:
                    event = {"type": "garbage", "text": message.data}
            case aiohttp.WSMsgType.BINARY:
                event = {"type": "binary", "data": message.data}
            case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSED | aiohttp.WSMsgType.CLOSING:
                event = {"type": "closed", "code": self.socket.close_code, "reason": message.extra}
            case other:
                event = {"type": "lost", "how": str(other)}
        self.received.append((self.now_ms, event))
        return event


def model(script: Mapping[str, Any] | None = None, **given: Any) -> LocalModel:
    """One that needs no extra."""
    brain = Brain.from_dict(SHOP, source="shop")
    usual: dict[str, Any] = {"recogniser": KnowingEar(), "speech": FlatVoice(), "detection": "energy"}
    return LocalModel({"shop": brain}, script=script or {}, **{**usual, **given})


@asynccontextmanager
async def connected(server: LocalModel, *, query: str = "?model=shop", **options: Any) -> AsyncIterator[Client]:
    since = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{server.port}/v1/realtime{query}"
        async with http.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_close=1.0), **options) as socket:
            yield Client(socket, since)


@asynccontextmanager
async def conversation(script: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Client]:
    async with model(script) as server, connected(server, **options) as client:
        yield client
