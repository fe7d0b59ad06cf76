"""A bridge in a few lines: answers the webhook with given TwiML and does on its media socket what the test says.

Written with aiohttp and json alone, so that the carrier is tested against something that shares nothing with it.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from bridge.sim import virtual
from bridge.sim.carrier import Carrier

PUBLIC = "https://bridge.example.test"
STREAM = (
    '<Connect><Stream url="wss://bridge.example.test/media">'
    '<Parameter name="agent" value="front-desk"/></Stream></Connect>'
)
TOKEN = "12345"


def document(*verbs: str) -> str:
    return f"<Response>{''.join(verbs)}</Response>"


class Stream:
    """The bridge's end of one media stream."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.socket = socket
        self.request = request
        self.headers = request.headers
        self.path = request.path
        self.messages: list[dict[str, Any]] = []
        self.times_ms: list[float] = []  # when each came, since the socket opened
        self.stream_id = ""
        self.closed = asyncio.Event()
        self.close_code: int | None = None
        self._began = asyncio.get_running_loop().time()
        self._started = asyncio.Event()

    async def read(self) -> None:
        async for frame in self.socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            self.messages.append(message)
            self.times_ms.append((asyncio.get_running_loop().time() - self._began) * 1000)
            if message["event"] == "start":
                self.stream_id = message["streamSid"]
                self._started.set()
        self.close_code = self.socket.close_code
        self.closed.set()

    async def started(self) -> None:
        await self._started.wait()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["event"] == event]

    def marks(self) -> list[tuple[float, str]]:
        """(when, name) of every mark that came back."""
        pairs = zip(self.times_ms, self.messages, strict=True)
        return [(at, m["mark"]["name"]) for at, m in pairs if m["event"] == "mark"]

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def play(self, ms: float, sound: int = 0x20) -> None:
        audio = bytes([sound, sound ^ 0x80] * round(ms * 4))
        await self.send(event="media", streamSid=self.stream_id, media={"payload": base64.b64encode(audio).decode()})

    async def mark(self, name: str) -> None:
        await self.send(event="mark", streamSid=self.stream_id, mark={"name": name})

    async def clear(self) -> None:
        await self.send(event="clear", streamSid=self.stream_id)


Act = Callable[[Stream], Awaitable[None]]


class Bridge:
    """Serves `/twilio/voice` and whatever else `documents` names; records every form it gets."""

    def __init__(self, *verbs: str, act: Act | None = None, **documents: str | bytes | web.Response) -> None:
        self.documents: dict[str, Any] = {"voice": document(*(verbs or (STREAM,))), **documents}
        self.act = act
        self.forms: list[tuple[str, dict[str, str], dict[str, str]]] = []  # path, form, headers
        self.streams: list[Stream] = []
        self.refuse: int | None = None  # status of the upgrade
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._opened = asyncio.Event()

    async def __aenter__(self) -> Bridge:
        app = web.Application()
        app.router.add_get("/media", self._media)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()} | dict(request.query)
        self.forms.append((request.path, form, {name.lower(): value for name, value in request.headers.items()}))
        answer = self.documents.get(request.path.rpartition("/")[2], "<Response/>")
        if callable(answer):
            answer = answer(form)
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="text/xml")
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        assert isinstance(answer, int)
        return web.Response(status=answer)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        if self.refuse is not None:
            return web.Response(status=self.refuse)
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        stream = Stream(socket, request)
        self.streams.append(stream)
        reading = asyncio.create_task(stream.read())
        self._opened.set()
        if self.act is not None:
            await stream.started()
            await self.act(stream)
        await reading
        return socket

    async def stream(self) -> Stream:
        """The first stream, once its `start` is here."""
        await self._opened.wait()
        await self.streams[0].started()
        return self.streams[0]

    def posts(self, name: str) -> list[dict[str, str]]:
        return [form for path, form, _ in self.forms if path.rpartition("/")[2] == name]

    def carrier(self, **options: Any) -> Carrier:
        return Carrier(self.url, public_url=PUBLIC, auth_token=TOKEN, **{"seed": 1, "after_close_s": 0.0} | options)


async def hang_up(stream: Stream, code: int = WSCloseCode.OK) -> None:
    await stream.socket.close(code=code)


def on_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test on the virtual clock: it waits for nothing, and its times are exact."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        virtual.run(test(*args, **kwargs))  # type: ignore[arg-type]

    del run.__wrapped__  # or pytest would see a coroutine again
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run
