"""WebSocket framing for a load generator: whole, unfragmented frames, pings answered, nothing checked that a sound peer
never does wrong.

A client's frames carry a key of four zeros, which spares us the masking and costs the service the same as any other.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Final, cast

from websockets.speedups import apply_mask

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A


def framed(payload: bytes, head: int = _TEXT) -> bytes:
    """A server's frame."""
    length = len(payload)
    if length < 126:
        return bytes((head, length)) + payload
    if length < 65_536:
        return bytes((head, 126, length >> 8, length & 0xFF)) + payload
    return bytes((head, 127)) + length.to_bytes(8, "big") + payload


def framed_by_client(payload: bytes, head: int = _TEXT) -> bytes:
    """A client's frame."""
    length = len(payload)
    if length < 126:
        return bytes((head, 0x80 | length, 0, 0, 0, 0)) + payload
    if length < 65_536:
        return bytes((head, 0xFE, length >> 8, length & 0xFF, 0, 0, 0, 0)) + payload
    return bytes((head, 0xFF)) + length.to_bytes(8, "big") + b"\0\0\0\0" + payload


class Wire(asyncio.Protocol):
    """One WebSocket. Subclasses take `opened`, `text` and `lost`; `is_client` says which frames are masked."""

    is_client = False

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.open = False
        self._rest = b""
        self._need = 0

    def opened(self) -> None: ...
    def text(self, payload: bytes) -> None: ...
    def lost(self) -> None: ...

    def send(self, payload: bytes) -> None:
        if self.open:
            assert self.transport is not None
            self.transport.write(framed_by_client(payload) if self.is_client else framed(payload))

    def send_framed(self, frame: bytes) -> None:
        if self.open:
            assert self.transport is not None
            self.transport.write(frame)

    def close(self) -> None:
        if self.transport is not None:
            self.send_framed((framed_by_client if self.is_client else framed)(b"\x03\xe8", _CLOSE))
            self.open = False
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self.lost()

    def ask_to_upgrade(self, path: str, host: str, *headers: str) -> None:
        """The client's handshake."""
        assert self.transport is not None
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {_KEY.decode()}",
            "Sec-WebSocket-Version: 13",
            *headers,
        )
        self.transport.write("\r\n".join((*lines, "", "")).encode())

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if len(data) < self._need:
            self._rest = data
            return
        self._need = 0
        at = 0 if self.open else self._shake_hands(data)
        end = len(data)
        while end - at >= 2:
            head, second = data[at], data[at + 1]
            length, body = second & 0x7F, at + 2
            if length == 126:
                length, body = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if second & 0x80:
                body += 4
            after = body + length
            if after > end:
                self._need = after - at
                break
            payload = data[body:after]
            if second & 0x80:
                payload = apply_mask(payload, data[body - 4 : body])
            at = after
            if head == _TEXT:
                self.text(payload)
            elif head == _PING:
                self.send_framed((framed_by_client if self.is_client else framed)(payload, _PONG))
            elif head == _CLOSE:
                self.close()
                return
        self._rest = data[at:]

    def _shake_hands(self, data: bytes) -> int:
        """Where the first frame begins; the end of the data while the head is incomplete, or was a refusal."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._need = len(data) + 1
            return 0
        assert self.transport is not None
        head = data[:end]
        if self.is_client:
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return len(data)
        else:
            key = head.lower().find(b"sec-websocket-key:") + 18
            line = head[key : head.find(b"\r\n", key)].strip()
            accept = base64.b64encode(hashlib.sha1(line + _GUID).digest())
            answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            self.transport.write(answer + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        self.open = True
        self.opened()
        return end
