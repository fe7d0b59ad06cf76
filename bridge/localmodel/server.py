"""A realtime model on this machine: the WebSocket face of the local model, on loopback unless told otherwise.

It needs no key and no network, and speaks to any client of an OpenAI-Realtime-compatible service. Each connection is
one session; which brain answers is the `model` of the address, else of the session, else the default.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from aiohttp import WSMsgType, web

from bridge.localmodel.attached import Attached
from bridge.localmodel.brain import Brain
from bridge.localmodel.ear import Detection
from bridge.localmodel.hearing import Recogniser, WorkerRecogniser
from bridge.localmodel.session import Session
from bridge.localmodel.speech import Mouth, Voice, make_voice
from bridge.localmodel.wire import Event

MAX_FRAME_BYTES = 24 * 1024 * 1024  # 15 MiB of audio in base64, and some
OUTBOX_FRAMES = 4096  # a client that reads this little is gone

log = structlog.get_logger()


class LocalModel:
    """`brains` by model name; the first is the default. `recogniser` and `speech` default to what the extra `local`
    gives.

    `on_event(connection, direction, event)` is told every event, `direction` being "client" or "server".
    """

    def __init__(
        self,
        brains: Mapping[str, Brain] | None = None,
        *,
        api_key: str | None = None,
        recogniser: Recogniser | None = None,
        speech: Voice | None = None,
        on_event: Callable[[int, str, Event], None] | None = None,
        detection: Detection = "best",
    ) -> None:
        self._detection = detection
        self._brains = dict(brains) if brains else {"local": Brain.default()}
        self._api_key = api_key
        self._recogniser = recogniser if recogniser is not None else _default_recogniser()
        self._mouth = Mouth(speech if speech is not None else make_voice())
        self._on_event = on_event
        self._connections = 0
        self._open: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """Of the listener; 0 before `start`."""
        return int(self._runner.addresses[0][1]) if self._runner is not None else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """The port it listens on."""
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        app.router.add_get("/healthz", _health)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        if isinstance(self._recogniser, WorkerRecogniser):
            await self._recogniser.start()
        return self.port

    async def stop(self) -> None:
        """Closes every session, then the listener and the recogniser's process. Stopping twice is harmless."""
        for socket in list(self._open):
            await socket.close(code=1001, message=b"the local model is stopping")
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._recogniser is not None:
            await self._recogniser.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def attach(
        self,
        send: Callable[[str | bytes], None],
        *,
        close: Callable[[int, str], None] = lambda code, reason: None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Attached:
        """A session without a socket. It is opened at once: `session.created` is sent before this returns."""
        attached = self._session(send, close=close, query=query or {}, headers=headers or {})
        attached.open()
        return attached

    # ------------------------------------------------------------ inside

    def _session(
        self,
        send: Callable[[str | bytes], None],
        *,
        close: Callable[[int, str], None],
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Attached:
        self._connections += 1
        number = self._connections
        model = query.get("model", "")
        beta = headers.get("OpenAI-Beta") == "realtime=v1"
        session = Session(
            brain=self._brains.get(model) or next(iter(self._brains.values())),
            mouth=self._mouth,
            model=model,
            now=asyncio.get_running_loop().time() * 1000,
            opened_at=int(time.time()),
            tag=f"{number:04d}",
            dialect="beta" if beta else "ga",
            hears=self._recogniser is not None,
            brains=self._brains.get,
        )
        watch = self._on_event
        return Attached(
            session,
            recogniser=self._recogniser,
            send=send,
            close=close,
            detection=self._detection,
            on_event=None if watch is None else lambda direction, event: watch(number, direction, event),
        )

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=426, text="Upgrade Required\n", headers={"Upgrade": "websocket"})
        socket = web.WebSocketResponse(
            protocols=("realtime", "openai-realtime"), compress=False, max_msg_size=MAX_FRAME_BYTES, heartbeat=None
        )
        await socket.prepare(request)
        self._open.add(socket)
        outbox = _Outbox(socket)
        writer = asyncio.create_task(outbox.run(), name="local model's outbox")
        try:
            if not self._welcome(request):
                outbox.send(_wrong_key(_key_of(request)))
                outbox.close(3000, "invalid_request_error.invalid_api_key")
                await writer
                return socket
            attached = self._session(outbox.send, close=outbox.close, query=request.query, headers=request.headers)
            attached.open()
            try:
                async for message in socket:
                    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                        attached.receive(message.data)
            finally:
                attached.closed()
        finally:
            self._open.discard(socket)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return socket

    def _welcome(self, request: web.Request) -> bool:
        return self._api_key is None or _key_of(request) == self._api_key


class _Outbox:
    """Frames on their way to one socket, in order."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._frames: deque[str | bytes | tuple[int, str]] = deque()
        self._more = asyncio.Event()

    def send(self, frame: str | bytes) -> None:
        if len(self._frames) < OUTBOX_FRAMES:
            self._frames.append(frame)
            self._more.set()

    def close(self, code: int, reason: str) -> None:
        self._frames.append((code, reason))
        self._more.set()

    async def run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._frames:
                match self._frames.popleft():
                    case str(text):
                        await self._socket.send_str(text)
                    case bytes(data):
                        await self._socket.send_bytes(data)
                    case (code, reason):
                        await self._socket.close(code=code, message=reason.encode()[:120])
                        return


async def _health(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _key_of(request: web.Request) -> str:
    """The key in whichever place a client put it (reference of OpenAI, Azure, and gateways)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if "api-key" in request.headers:
        return request.headers["api-key"]
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        prefix, found, key = protocol.strip().partition("openai-insecure-api-key.")
        if found and not prefix:
            return key
    return request.query.get("api_key", "")


def _wrong_key(key: str) -> str:
    shown = f"{key[:3]}***{key[-2:]}" if len(key) > 8 else "***" if key else "(none)"
    error: dict[str, Any] = {
        "type": "invalid_request_error",
        "code": "invalid_api_key",
        "message": f"Incorrect API key provided: {shown}.",
        "param": None,
        "event_id": None,
    }
    return msgspec.json.encode({"type": "error", "event_id": "event_refused", "error": error}).decode()


def _default_recogniser() -> Recogniser | None:
    try:
        import pocketsphinx  # noqa: F401  (only whether it is there)
    except ImportError:
        return None
    return WorkerRecogniser()
