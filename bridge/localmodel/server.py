"""A realtime model on this machine: the WebSocket face of the local model, on loopback unless told otherwise.

It needs no key and no network, and speaks to any client of an OpenAI-Realtime-compatible service. Each connection is
one session; which brain answers is the `model` of the address, else of the session, else the first one.
"""

from __future__ import annotations

import asyncio
import hmac
import importlib.util
import ipaddress
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSMsgType, web

from bridge.localmodel.attached import Attached, Line
from bridge.localmodel.brain import Brain
from bridge.localmodel.ear import Detection
from bridge.localmodel.hearing import NoEars, Recogniser, WorkerRecogniser
from bridge.localmodel.outlet import envelope
from bridge.localmodel.script import Script, Scripts
from bridge.localmodel.session import Session
from bridge.localmodel.sockets import CallbackLine, SocketLine
from bridge.localmodel.speech import Mouth, Voice, make_voice
from bridge.localmodel.wire import Event

MAX_FRAME_BYTES = 24 * 1024 * 1024  # 15 MiB of sound in base64, and some
_REFUSAL_S = 0.05  # a client begins to listen when the socket is open: what comes with the handshake is missed by some
Watch = Callable[[int, str, Event], None]


class LocalModel:
    """`brains` by model name; the first is the default. `recogniser` and `speech` are what the extra `local` gives,
    where none is given; a recogniser that is given is closed by who gave it, `NoEars()` goes without.

    `script` is a file, a dict or a `Scripts` (see `script`); `api_key` None welcomes everybody but web pages of other
    machines. `on_event` is told (number of the connection, "client" or "server", event). `detection` "energy" spares
    the processor under load.
    """

    def __init__(
        self,
        brains: Mapping[str, Brain] | None = None,
        *,
        script: Scripts | Mapping[str, Any] | Path | None = None,
        api_key: str | None = None,
        recogniser: Recogniser | None = None,
        speech: Voice | None = None,
        on_event: Watch | None = None,
        detection: Detection = "best",
    ) -> None:
        self._brains = dict(brains) if brains else {"local": Brain.default()}
        self._scripts = _scripts(script)
        self._api_key = api_key
        self._own_recogniser = recogniser is None
        self._recogniser = recogniser if recogniser is not None else _installed_recogniser()
        self._mouth = Mouth(speech if speech is not None else make_voice())
        self._on_event = on_event
        self._detection: Detection = detection
        self._open: set[web.WebSocketResponse] = set()
        self._delayed: set[asyncio.Task[Any]] = set()  # handshakes that a script holds back
        self._runner: web.AppRunner | None = None
        self.connections = 0  # counted from the first; scripts choose by it

    @property
    def listens(self) -> bool:
        """It recognises what is said; else it takes its lines in turn."""
        return not isinstance(self._recogniser, NoEars)

    @property
    def port(self) -> int:
        """Of the listener; 0 before `start`."""
        return int(self._runner.addresses[0][1]) if self._runner is not None else 0

    @property
    def sessions(self) -> int:
        """WebSockets that are open."""
        return len(self._open)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """The port it listens on."""
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        app.router.add_get("/healthz", _health)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        if isinstance(self._recogniser, WorkerRecogniser):
            await self._recogniser.start()
        return self.port

    async def stop(self) -> None:
        """Closes every session, the listener, and the recogniser unless it was given. Stopping twice is harmless."""
        for handshake in self._delayed:
            handshake.cancel()  # a client that has given up is gone, and nobody else ends it
        goodbyes = [socket.close(code=1001, message=b"the local model is stopping") for socket in self._open]
        await asyncio.gather(*goodbyes, *self._delayed, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._own_recogniser:
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
        """A session without a socket, opened at once: `session.created` may be sent before this returns.

        `close` is called with a WebSocket close code; with 1006 where a script drops the connection, and with the
        HTTP status where it refuses the handshake. A half-open connection simply says nothing more.
        """
        query, headers = query or {}, headers or {}
        number, script = self._next_connection()
        line = CallbackLine(send, close)
        opened_at_s = int(asyncio.get_running_loop().time())
        attached = self._attach(
            line, number=number, script=script, opened_at_s=opened_at_s, query=query, headers=headers
        )
        if script.refuse is not None:
            attached.closed()
            close(script.refuse.status, script.refuse.body)
        elif not self._welcome(query, headers):
            attached.closed()
            line.send(_wrong_key(_key_in(query, headers)))
            line.close(3000, "invalid_request_error.invalid_api_key")
        elif script.handshake_delay_ms:
            asyncio.get_running_loop().call_later(script.handshake_delay_ms / 1000, attached.open)
        else:
            attached.open()
        return attached

    # ------------------------------------------------------------ inside

    def _next_connection(self) -> tuple[int, Script]:
        self.connections += 1
        return self.connections, self._scripts.of(self.connections)

    def _attach(
        self,
        line: Line,
        *,
        number: int,
        script: Script,
        opened_at_s: int,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Attached:
        model = query.get("model") or query.get("deployment") or ""
        session = Session(
            brain=self._brains.get(model) or next(iter(self._brains.values())),
            mouth=self._mouth,
            model=model,
            now=asyncio.get_running_loop().time() * 1000,
            opened_at_s=opened_at_s,
            tag=f"{number:04d}",
            script=script,
            dialect="beta" if _asks_for_beta(headers) else "ga",
            hears=not isinstance(self._recogniser, NoEars),
            brains=self._brains.get,
        )
        watch = self._on_event
        return Attached(
            session,
            line,
            recogniser=self._recogniser,
            detection=self._detection,
            on_event=None if watch is None else lambda direction, event: watch(number, direction, event),
        )

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=426, text="Upgrade Required\n", headers={"Upgrade": "websocket"})
        if self._api_key is None and _of_a_strange_page(request):
            return web.Response(status=403, text="Origin: another machine. Pages of others are not served\n")
        number, script = self._next_connection()
        if script.handshake_delay_ms:
            await self._delay(script.handshake_delay_ms)
        if script.refuse is not None:
            refusal = script.refuse
            return web.Response(status=refusal.status, headers=refusal.headers, text=refusal.body)
        socket = web.WebSocketResponse(
            protocols=("realtime", "openai-realtime"), compress=False, max_msg_size=MAX_FRAME_BYTES, timeout=1.0
        )
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response()  # the client left while the script kept it waiting
        line = SocketLine(socket, request.transport)
        self._open.add(socket)
        try:
            query, headers = request.query, request.headers
            if self._welcome(query, headers):
                opened_at_s = int(time.time())  # a date, not a duration: `expires_at` of the session
                attached = self._attach(
                    line, number=number, script=script, opened_at_s=opened_at_s, query=query, headers=headers
                )
                await self._talk(socket, attached)
            else:
                await asyncio.sleep(_REFUSAL_S)
                line.send(_wrong_key(_key_in(query, headers)))
                line.close(3000, "invalid_request_error.invalid_api_key")
                await line.flushed()
        finally:
            self._open.discard(socket)
            await line.end()
        return socket

    async def _delay(self, handshake_delay_ms: float) -> None:
        handshake = asyncio.current_task()
        assert handshake is not None, "aiohttp serves a request in a task"
        self._delayed.add(handshake)
        try:
            await asyncio.sleep(handshake_delay_ms / 1000)
        finally:
            self._delayed.discard(handshake)

    async def _talk(self, socket: web.WebSocketResponse, attached: Attached) -> None:
        attached.open()
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    attached.receive(message.data)
        finally:
            attached.closed()

    def _welcome(self, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        if self._api_key is None:
            return True
        return hmac.compare_digest(_key_in(query, headers).encode(), self._api_key.encode())


async def _health(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _header(headers: Mapping[str, str], name: str) -> str:
    """Case does not matter, also in a plain dict."""
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _of_a_strange_page(request: web.Request) -> bool:
    """A browser names the page it works for (RFC 6455 section 10.2); any page on the web can reach loopback with it."""
    page = request.headers.get("Origin")
    if page is None:
        return False
    try:
        host = urlsplit(page).hostname or ""
        return host != "localhost" and not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _asks_for_beta(headers: Mapping[str, str]) -> bool:
    offered = _header(headers, "sec-websocket-protocol")
    return _header(headers, "openai-beta") == "realtime=v1" or "openai-beta.realtime-v1" in offered


def _key_in(query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """The key, in whichever of the places clients of these services put it."""
    scheme, _, token = _header(headers, "authorization").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if _header(headers, "api-key"):
        return _header(headers, "api-key")
    for protocol in _header(headers, "sec-websocket-protocol").split(","):
        before, found, key = protocol.strip().partition("openai-insecure-api-key.")
        if found and not before:
            return key
    return query.get("api_key", "")


def _wrong_key(key: str) -> str:
    shown = f"{key[:3]}***{key[-2:]}" if len(key) > 8 else "***"
    told = envelope({"code": "invalid_api_key", "message": f"Incorrect API key provided: {shown}."})
    return msgspec.json.encode(told).decode()


def _scripts(script: Scripts | Mapping[str, Any] | Path | None) -> Scripts:
    match script:
        case None:
            return Scripts()
        case Scripts():
            return script
        case Path():
            return Scripts.load(script)
        case described:
            return Scripts.from_dict(described)


def _installed_recogniser() -> Recogniser:
    return WorkerRecogniser() if importlib.util.find_spec("pocketsphinx") is not None else NoEars()
