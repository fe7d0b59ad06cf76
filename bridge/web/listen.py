"""Listening: an aiohttp server whose clients have a deadline for the head of their request.

aiohttp itself waits for ever on a silent or dripping connection. A `Doorkeeper` stands in front of each new one: it
counts those that have not finished their head, closes what takes too long or too much, and steps aside for good when
the head is there. From then on it costs a media stream nothing. Where too many wait, the one that has waited longest
goes: who means it is through within a round trip, and would be the newest.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import sys
from typing import Any, Final, cast

import structlog
from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from bridge.errors import ConfigError
from bridge.settings import Settings
from bridge.web.app import HEADERS

log = structlog.get_logger()

_HEAD_END: Final = b"\r\n\r\n"
_MOST_HEAD: Final = 65_536
_LINE: Final = 8190
_CLOSE_S: Final = 2.0


class Waiting:
    """The connections of this process that have not finished the head of their request, the oldest first."""

    def __init__(self, most: int, head_s: float) -> None:
        self.most = most
        self.head_s = head_s
        self.doorkeepers: dict[Doorkeeper, None] = {}


class Doorkeeper(asyncio.Protocol):
    """One new connection, until its first request's head is complete; then `inner` speaks with the transport alone."""

    def __init__(self, inner: asyncio.Protocol, waiting: Waiting) -> None:
        self._inner = inner
        self._waiting = waiting
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._seen = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._waiting.doorkeepers[self] = None
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._waiting.head_s, self._close, "the head of the request took too long")
        self._inner.connection_made(transport)
        if len(self._waiting.doorkeepers) > self._waiting.most:
            next(iter(self._waiting.doorkeepers))._close("too many connections wait")

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            return  # given up on; what was on its way no longer matters
        assert self._transport is not None
        joined = self._tail + data[: _MOST_HEAD - self._seen]
        self._seen += len(data)
        if _HEAD_END in joined:
            self._done()
            self._transport.set_protocol(self._inner)
        elif self._seen >= _MOST_HEAD:
            self._close("the head of the request is too long")
            return
        self._tail = joined[-3:]
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        self._inner.connection_lost(exc)

    def _close(self, why: str) -> None:
        log.info("connection_closed", why=why)
        self._done()
        assert self._transport is not None
        self._transport.abort()

    def _done(self) -> None:
        """Counts once: the head is complete, or the connection is over."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._waiting.doorkeepers.pop(self, None)


class _Faults(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's own logger, to which what is no HTTP is an error with a traceback. On a public port it is every day."""

    def log(self, level: int, msg: object, *args: object, **more: Any) -> None:
        fault = more.get("exc_info")
        if not isinstance(fault, HttpProcessingError):
            super().log(level, msg, *args, **more)
        else:  # not its text, which quotes the request and any secret in it
            log.info("request_unreadable", why=type(fault).__name__)


class _Handler(web.RequestHandler):
    """aiohttp's own, but for what it answers without asking the application: that, too, tells nobody what runs here."""

    __slots__ = ()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        headers = HEADERS | {"Cache-Control": "no-store"}
        plain = web.Response(status=response.status, text="This is no request we can read.\n", headers=headers)
        plain.force_close()
        return plain


class Listener:
    """An application on a port. Closing twice is harmless."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        _require_sound_interpreter()
        self._how: dict[str, Any] = {
            "logger": _Faults(server_logger, {}),
            "access_log": None,  # aiohttp's own holds the query; ours is in app.py
            "keepalive_timeout": settings.limits.header_s,
            "lingering_time": 1.0,
            "max_line_size": _LINE,
            "max_field_size": _LINE,
            "max_headers": 100,
            "auto_decompress": False,
        }
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_CLOSE_S)
        self._settings = settings
        self._waiting = Waiting(settings.limits.waiting_connections, settings.limits.header_s)
        self._server: asyncio.Server | None = None

    async def start(self, *, sock: sockets.socket | None = None) -> None:
        """Listens on the settings' host and port, or on a socket that is bound already. Raises OSError."""
        await self._runner.setup()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None, "a runner that was set up has a server"

        def newcomer() -> asyncio.Protocol:
            return Doorkeeper(_Handler(server, loop=loop, **self._how), self._waiting)

        if sock is not None:
            self._server = await loop.create_server(newcomer, sock=sock, backlog=1024)
        else:
            host, port = self._settings.host, self._settings.port
            self._server = await loop.create_server(newcomer, host, port, backlog=1024)

    @property
    def port(self) -> int:
        """The port it really listens on."""
        assert self._server is not None, "a listener has a port once it was started"
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Accepts nothing more, then ends what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._runner.cleanup()


def bound(host: str, port: int) -> sockets.socket:
    """A socket that listens. Raises OSError."""
    family, _, _, _, address = sockets.getaddrinfo(
        host or None, port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
    )[0]
    listener = sockets.create_server(address[:2], family=family, backlog=1024)
    listener.setblocking(False)
    return listener


def _require_sound_interpreter() -> None:
    """The parser in Python had request-smuggling faults of its own; -O takes our invariants out."""
    wrong = []
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        wrong.append("aiohttp runs without its C parser: unset AIOHTTP_NO_EXTENSIONS, or install its wheel")
    if sys.flags.optimize:
        wrong.append("Python runs with -O, which removes the checks that end a broken call: leave it out")
    if wrong:
        raise ConfigError(wrong)
