"""Dialling the model service: TCP, TLS, the WebSocket handshake, and a plain reason when it does not work.

No proxy, no redirect (a redirect would carry the key to another host), no compression (base64 audio does not
compress, and an inflater is a risk), TLS always verified.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from bridge.errors import RealtimeError
from bridge.live.websocket import CallSocket, Closed, Message
from bridge.realtime.dialect import code_of_status

MAX_BYTES = 8 << 20  # some services send a whole utterance in one delta


class Refused(RealtimeError):
    """The service answered the handshake with an HTTP status. `retry_after_s` is what its header asked for."""

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(f"HTTP {status} {detail}".rstrip(), code=code_of_status(status))


class _Dialling(asyncio.Protocol):
    """The transport's side: the handshake first, then everything goes to the CallSocket."""

    def __init__(
        self, wire: ClientProtocol, headers: Sequence[tuple[str, str]], on_message: Message, on_closed: Closed
    ):
        self._wire = wire
        self._headers = headers
        self._on_message = on_message
        self._on_closed = on_closed
        self._head = b""
        self._socket: CallSocket | None = None
        self.opened: asyncio.Future[CallSocket] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        request = self._wire.connect()
        for name, value in self._headers:
            request.headers[name] = value
        self._wire.send_request(request)
        for data in self._wire.data_to_send():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.feed(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) < 65536:
            return
        head, rest = self._head[: end + 4], self._head[end + 4 :]
        refused = not head.startswith(b"HTTP/1.1 101")
        self._wire.receive_data(self._head if refused else head)
        if self._wire.state is not State.OPEN:
            self._fail()
            return
        self._wire.events_received()
        self._socket = CallSocket(
            self._wire, self._transport, max_bytes=MAX_BYTES, on_message=self._on_message, on_closed=self._on_closed
        )
        if self.opened.done():  # nobody waits any more
            self._socket.abort()
            return
        self.opened.set_result(self._socket)
        if rest:
            # The callback of `opened` has not run yet: what came with the handshake waits for it.
            asyncio.get_running_loop().call_soon(self._socket.feed, rest)

    def _fail(self) -> None:
        cause = self._wire.handshake_exc
        if cause is None and not self._transport.is_closing() and len(self._head) < 65536:
            return  # the answer is still coming
        if not self.opened.done():
            self.opened.set_exception(_reason(cause))
        self._transport.abort()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._socket is not None:
            self._socket.feed_end()
        elif not self.opened.done():
            self._wire.receive_eof()
            self.opened.set_exception(_reason(self._wire.handshake_exc))


def _reason(cause: Exception | None) -> RealtimeError:
    if isinstance(cause, InvalidStatus):
        return Refused(
            cause.response.status_code, cause.response.reason_phrase, retry_after_s=_retry_after(cause.response)
        )
    if cause is None:
        return RealtimeError("the connection closed during the handshake", code="connection_failed")
    return RealtimeError(f"the handshake failed: {type(cause).__name__}", code="connection_failed")


def _retry_after(response: Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


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
) -> CallSocket:
    """An open socket to the service. `url`, `headers` and `subprotocols` hold the key: they appear in no error.

    Raises RealtimeError (a `Refused` where the service answered with an HTTP status). Set limits with asyncio.timeout.
    """
    uri = parse_uri(url)
    wire = ClientProtocol(uri, subprotocols=[Subprotocol(name) for name in subprotocols] or None, max_size=MAX_BYTES)
    dialling = _Dialling(wire, headers, on_message, on_closed)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_connection(
            lambda: dialling,
            uri.host,
            uri.port,
            ssl=_tls() if uri.secure else None,
            server_hostname=uri.host if uri.secure else None,
        )
    except ssl.SSLError as error:
        raise RealtimeError(f"TLS to {uri.host} failed: {error.reason}", code="tls_failed") from None
    except OSError as error:
        raise RealtimeError(
            f"{uri.host}:{uri.port} cannot be reached: {error.strerror or error}", code="connection_failed"
        ) from None
    try:
        return await asyncio.shield(dialling.opened)
    except asyncio.CancelledError:
        dialling.opened.cancel()
        transport.abort()
        raise
