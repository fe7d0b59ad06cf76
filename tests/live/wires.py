"""A CallSocket without a network: a transport that remembers, and a peer that is the `websockets` protocol itself.

The transport takes everything at once unless it is told to be `crowded`; closing it closes the peer's end only when the
test says so.
"""

from __future__ import annotations

from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bridge.live.together import Together
from bridge.live.websocket import CallSocket

LIMIT = 65_536


class Transport:
    """Remembers what was written and how it ended."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.crowded = 0  # what get_write_buffer_size answers
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closed and not self.aborted, "nothing is written to a transport that was closed"
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.crowded

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self.writes)
        self.writes.clear()
        return data


def wire(side: Side, limit: int = LIMIT) -> Protocol:
    """The library's protocol in an open connection."""
    if side is Side.SERVER:
        return ServerProtocol(state=State.OPEN, max_size=limit)
    return ClientProtocol(parse_uri("ws://peer.example.test"), state=State.OPEN, max_size=limit)


class End:
    """A CallSocket and all that came out of it."""

    def __init__(self, side: Side = Side.SERVER, *, limit: int = LIMIT, together: Together | None = None) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.closed: list[tuple[int, str]] = []
        self.transport = Transport()
        self.socket = CallSocket(
            wire(side, limit),
            self.transport,
            max_bytes=limit,
            on_message=self._message,
            on_closed=lambda code, reason: self.closed.append((code, reason)),
            together=together,
        )
        self.peer = wire(Side.CLIENT if side is Side.SERVER else Side.SERVER, limit=None)  # type: ignore[arg-type]

    def _message(self, payload: bytes, is_text: bool) -> None:
        assert not self.closed, "nothing is delivered after the end"
        self.messages.append((payload, is_text))

    def hears(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.socket.arrived(chunk)

    def from_peer(self) -> bytes:
        """The bytes the peer has to say."""
        return b"".join(self.peer.data_to_send())

    def to_peer(self) -> list[Frame]:
        """The frames the peer makes of what was written so far; it complains where they are wrong."""
        self.peer.receive_data(self.transport.taken())
        assert self.peer.parser_exc is None, self.peer.parser_exc
        return [event for event in self.peer.events_received() if isinstance(event, Frame)]

    def close_frame(self) -> Any:
        """(code, reason) of the close frame that was written."""
        frames = [frame for frame in self.to_peer() if frame.opcode is Opcode.CLOSE]
        assert len(frames) == 1, "one close frame"
        assert self.peer.close_rcvd is not None
        return self.peer.close_rcvd.code, self.peer.close_rcvd.reason


def frame(
    payload: bytes = b"", *, opcode: int = 1, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x02\x03\x04"
) -> bytes:
    """Any frame, right or wrong, written from RFC 6455 section 5.2."""
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    flag = 0x80 if mask is not None else 0
    if len(payload) < 126:
        head += bytes((flag | len(payload),))
    elif len(payload) < 65_536:
        head += bytes((flag | 126,)) + len(payload).to_bytes(2, "big")
    else:
        head += bytes((flag | 127,)) + len(payload).to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
