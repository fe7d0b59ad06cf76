"""Dialling the model service: TCP, TLS, the WebSocket handshake, and a plain reason when it does not work.

No proxy, no redirect (a redirect would carry the key to another host), no compression (base64 audio does not
compress, and an inflater is a risk), TLS always verified. No error quotes the service: what it answers may hold our
key.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Sequence
from functools import cache
from http.client import responses
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from bridge.errors import RealtimeError
from bridge.live import addresses
from bridge.live.together import Together
from bridge.live.websocket import CallSocket, Carrying, Closed, Message, client_wire
from bridge.realtime.dialect import code_of_status

MAX_BYTES: Final = 8 << 20  # some services send a whole utterance in one delta
_MOST_HEAD: Final = 65_536
_HEAD_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |\r\n)")
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*([0-9]{1,5})[ \t]*\r\n", re.IGNORECASE)


class Refused(RealtimeError):
    """The service answered the handshake with an HTTP status. `retry_after_s` is what its header asked for."""

    def __init__(self, status: int, *, retry_after_s: float | None) -> None:
        self.retry_after_s = retry_after_s
        said = f"HTTP {status} {responses.get(status, '')}".rstrip()
        super().__init__(said, code=code_of_status(status), status=status)


class _Dialling(asyncio.Protocol):
    """The transport's side during the handshake."""

    def __init__(self, wire: ClientProtocol, on_message: Message, on_closed: Closed, together: Together | None) -> None:
        self._wire = wire
        self._on_message = on_message
        self._on_closed = on_closed
        self._together = together
        self._head = bytearray()
        self.opened: asyncio.Future[CallSocket] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"".join(self._wire.data_to_send()))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._shake_hands(data)

    def _shake_hands(self, data: bytes) -> None:
        looked_at = max(0, len(self._head) - len(_HEAD_END))
        self._head += data
        end = self._head.find(_HEAD_END, looked_at) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(self._head) > _MOST_HEAD:
                self._fail(_failed("its answer has no end"))
            return
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        status = _STATUS.match(head)
        if status is None:
            self._fail(_failed("its answer is not HTTP"))
            return
        if status[1] != b"101":
            asked = _RETRY_AFTER.search(head)
            self._fail(Refused(int(status[1]), retry_after_s=float(asked[1]) if asked else None))
            return
        self._wire.receive_data(head)
        if self._wire.state is not State.OPEN:
            self._fail(_failed(type(self._wire.handshake_exc).__name__))
            return
        self._wire.events_received()
        socket = CallSocket(
            self._wire,
            self._transport,
            max_bytes=MAX_BYTES,
            on_message=self._on_message,
            on_closed=self._on_closed,
            together=self._together,
        )
        self._transport.set_protocol(Carrying(socket))
        self.opened.set_result(socket)
        socket.feed(rest)

    def _fail(self, why: RealtimeError) -> None:
        self.opened.set_exception(why)
        self._transport.abort()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(_failed("the connection closed"))


def _failed(why: str) -> RealtimeError:
    return RealtimeError(f"the handshake failed: {why}", code="connection_failed")


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def dial(
    url: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    *,
    on_message: Message,
    on_closed: Closed,
    together: Together | None = None,
) -> CallSocket:
    """An open socket to the service; `on_message` may be called before this returns.

    `url`, `headers` and `subprotocols` hold the key: they appear in no error. Raises RealtimeError (a `Refused` where
    the service answered with an HTTP status). Set limits with asyncio.timeout.
    """
    uri, wire = _prepare(url, headers, subprotocols)
    dialling = _Dialling(wire, on_message, on_closed, together)
    transport: asyncio.BaseTransport | None = None
    try:
        transport = await _connected(uri, dialling)
        return await dialling.opened
    except ssl.SSLCertVerificationError as error:
        raise RealtimeError(f"TLS to {uri.host} failed: {error.verify_message}", code="tls_failed") from None
    except OSError as error:  # other TLS errors too: one end went away in the middle of it
        why = error.strerror or type(error).__name__
        raise RealtimeError(f"{uri.host}:{uri.port} cannot be reached: {why}", code="connection_failed") from None
    except UnicodeError:
        raise RealtimeError("the service's host name is not one", code="refused") from None
    except asyncio.CancelledError:
        if transport is not None:
            cast(asyncio.Transport, transport).abort()
        raise
    finally:
        dialling.opened.cancel()


async def _connected(uri: WebSocketURI, dialling: _Dialling) -> asyncio.BaseTransport:
    """To the first of the host's addresses that takes a connection."""
    refused: OSError | None = None
    for address in await addresses.find(uri.host, uri.port):
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: dialling,
                address,
                uri.port,
                ssl=_tls() if uri.secure else None,
                server_hostname=uri.host if uri.secure else None,
            )
        except ssl.SSLError:
            raise
        except OSError as error:
            refused = refused or error
        else:
            return transport
    raise refused or OSError(errno.EADDRNOTAVAIL, "it has no address")


def _prepare(
    url: str, headers: Sequence[tuple[str, str]], subprotocols: Sequence[str]
) -> tuple[WebSocketURI, ClientProtocol]:
    """The protocol with its request ready to be written."""
    uri = _parsed(url)
    if uri is None:  # raised here, where no other exception that quotes the address can come along with it
        raise RealtimeError("the service's address is not one", code="refused")
    if any("\r" in text or "\n" in text for header in headers for text in header):
        raise RealtimeError("a header for the service, perhaps its key, holds a line break", code="refused")
    wire = client_wire(uri, [Subprotocol(name) for name in subprotocols], MAX_BYTES)
    request = wire.connect()
    for name, value in headers:
        request.headers[name] = value
    wire.send_request(request)
    return uri, wire


def _parsed(url: str) -> WebSocketURI | None:
    try:
        return parse_uri(url)
    except (InvalidURI, ValueError):
        return None
