"""How the carrier reaches the servers it talks to: HTTP requests and media sockets.

A `Door` is all the carrier knows of the world. `NetworkDoor` goes over real sockets: addresses on the public host
lead to the service instead (as curl's --connect-to does), others go where they say. A runner in one process can put a
door of its own in its place.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from bridge.errors import PeerError, UsageError


class Unreachable(PeerError):
    """A server did not answer, or not as it must. `code` is the carrier's error number."""

    def __init__(self, why: str, *, code: int) -> None:
        self.code = code
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


class MediaSocket(Protocol):
    """An open WebSocket, as the carrier's end sees it. Sending never waits."""

    def send(self, message: str | bytes) -> None:
        """A text frame; bytes make a binary one."""

    def close(self, code: int = 1000) -> None:
        """A closing handshake. Closing twice is harmless."""

    def abort(self) -> None:
        """The connection is gone without a word."""

    def pause(self) -> None:
        """Stop reading: the other side's writes pile up."""

    def resume(self) -> None: ...

    def half_open(self) -> None:
        """From now on nothing is read, answered or told; the connection stays."""


class Listener(Protocol):
    """What a media socket tells its owner, always from the loop and in order; `on_closed` comes last and once."""

    def on_message(self, message: str | bytes) -> None:
        """A text frame as str, a binary one as bytes."""

    def on_closed(self, code: int | None, reason: str = "") -> None:
        """The other side closed (its close code and reason), or the connection broke (None)."""


class Door(Protocol):
    async def request(
        self,
        method: str,
        url: str,
        *,
        form: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        connect_s: float,
        total_s: float,
    ) -> Answer:
        """A form POST, or a GET with the form left out. Raises Unreachable."""

    async def open(self, url: str, *, headers: Mapping[str, str], listener: Listener, connect_s: float) -> MediaSocket:
        """Open a WebSocket. Raises Unreachable with error 31901 (no answer), 31902 (refused), 31910 (TLS), 31920 (not
        101).
        """

    async def close(self) -> None: ...


class NetworkDoor:
    """Real sockets. `public_url`'s host is reached at `service_url`; the Host header stays the public one."""

    def __init__(self, *, service_url: str, public_url: str) -> None:
        self._service = urlsplit(service_url)
        self._public = urlsplit(public_url)
        if self._service.scheme not in ("http", "https") or not self._service.hostname:
            raise UsageError(f"service address {service_url!r} is not http(s)://host:port")
        self._session: aiohttp.ClientSession | None = None

    def _is_ours(self, host: str | None) -> bool:
        return host is not None and host == self._public.hostname

    async def request(
        self,
        method: str,
        url: str,
        *,
        form: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        connect_s: float,
        total_s: float,
    ) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        parts = urlsplit(url)
        sent = dict(headers)
        if self._is_ours(parts.hostname):
            sent["Host"] = parts.netloc.rpartition("@")[2]
            parts = parts._replace(scheme=self._service.scheme, netloc=self._service.netloc)
        try:
            async with self._session.request(
                method,
                urlunsplit(parts._replace(fragment="")),
                data=list(form) if method == "POST" else None,
                headers=sent,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s),
            ) as response:
                return Answer(response.status, response.headers.get("Content-Type", ""), await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{url}: {type(error).__name__} {error}".rstrip(), code=11205) from error

    async def open(self, url: str, *, headers: Mapping[str, str], listener: Listener, connect_s: float) -> MediaSocket:
        try:
            uri = parse_uri(url)
        except InvalidURI as error:
            raise Unreachable(str(error), code=31923) from error
        host, port, secure = uri.host, uri.port, uri.secure
        where = url  # really dialled
        if self._is_ours(uri.host):
            behind = urlunsplit(urlsplit(url)._replace(scheme="", netloc=""))
            where = f"{self._service.scheme.replace('http', 'ws', 1)}://{self._service.netloc}{behind}"
            host = self._service.hostname or host
            secure = self._service.scheme == "https"
            port = self._service.port or (443 if secure else 80)
        loop = asyncio.get_running_loop()
        protocol = ClientProtocol(uri, max_size=None)
        socket = _Socket(protocol, headers, listener, loop.create_future())
        try:
            async with asyncio.timeout(connect_s):
                await loop.create_connection(
                    lambda: socket, host, port, ssl=ssl.create_default_context() if secure else None
                )
                await socket.opened
        except TimeoutError as error:
            socket.abort()
            raise Unreachable(f"{where}: no answer within {connect_s:g} s", code=31901) from error
        except ssl.SSLError as error:
            raise Unreachable(f"{where}: {error}", code=31910) from error
        except InvalidStatus as error:
            socket.abort()
            raise Unreachable(f"{where}: HTTP status {error.response.status_code}, not 101", code=31920) from error
        except InvalidHandshake as error:
            socket.abort()
            raise Unreachable(f"{where}: {error}", code=31920) from error
        except UnicodeError as error:  # a host that is no name
            raise Unreachable(f"{where}: {error}", code=31904) from error
        except OSError as error:
            if _refused(error):
                raise Unreachable(f"{where}: connection refused", code=31902) from error
            raise Unreachable(f"{where}: {error}", code=31904) from error
        except asyncio.CancelledError:
            socket.abort()
            raise
        return socket

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class _Socket(asyncio.Protocol):
    """websockets' protocol without I/O on a transport of our own: sending is a function call and no task runs per
    socket.
    """

    def __init__(
        self, protocol: ClientProtocol, headers: Mapping[str, str], listener: Listener, opened: asyncio.Future[None]
    ) -> None:
        self.opened = opened
        self._protocol = protocol
        self._headers = headers
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []  # of a fragmented message
        self._text = True
        self._over = False
        self._read_paused = False
        self._half_open = False  # TCP still takes what is sent to it, which a line that is cut would not

    # -- the carrier's side

    def send(self, message: str | bytes) -> None:
        if self._protocol.state is not OPEN or self._half_open:
            return
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._flush()

    def close(self, code: int = 1000) -> None:
        if self._protocol.state is OPEN and not self._half_open:
            self._protocol.send_close(code)
            self._flush()
            asyncio.get_running_loop().call_later(2.0, self.abort)  # a peer that never answers our close

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def half_open(self) -> None:
        self._half_open = True

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        request = self._protocol.connect()
        request.headers.update(self._headers)
        self._protocol.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._half_open:
            return
        self._protocol.receive_data(data)
        self._flush()
        self._take_events()

    def eof_received(self) -> bool:
        """Whether our end stays open."""
        if not self._half_open:
            self._protocol.receive_eof()
            self._flush()
            self._take_events()
        return self._half_open

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._half_open:
            return
        self._protocol.receive_eof()
        self._take_events()
        if not self.opened.done():
            error = self._protocol.handshake_exc or ConnectionResetError("closed during the handshake")
            self.opened.set_exception(error)
        elif not self.opened.cancelled() and self.opened.exception() is None:
            self._tell_closed()

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof() and not self._transport.is_closing():
                self._transport.write_eof()

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                if self.opened.done():
                    continue
                if self._protocol.handshake_exc is not None:
                    self.opened.set_exception(self._protocol.handshake_exc)
                else:
                    self.opened.set_result(None)
            elif isinstance(event, Frame):
                self._take_frame(event)

    def _take_frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self._text = frame.opcode is Opcode.TEXT
                self._pieces = [bytes(frame.data)]
            case Opcode.CONT:
                self._pieces.append(bytes(frame.data))
            case Opcode.CLOSE:
                self._tell_closed()
                return
            case _:
                return
        if not frame.fin:
            return
        message = b"".join(self._pieces)
        self._pieces = []
        self._listener.on_message(message.decode("utf-8", "replace") if self._text else message)

    def _tell_closed(self) -> None:
        if not self._over:
            self._over = True
            close = self._protocol.close_rcvd
            self._listener.on_closed(*((close.code, close.reason) if close else (None, "")))


def _refused(error: OSError) -> bool:
    """A name with several addresses, all of which refuse, makes asyncio raise one OSError that quotes each."""
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
