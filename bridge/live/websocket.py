"""A WebSocket for calls: whole data frames go straight from the transport to a callback and back, without a task
or an await; where many calls share a loop, they wait for the stages of its pass (see `together`).

The `websockets` library's protocol (RFC 6455, sans-I/O) stays the judge of everything uncommon: handshake, control
frames, fragments, errors and closing. Only a whole, unfragmented data frame in an open connection, which is every
audio frame, is read and written here directly.

Laws: `on_message` is called synchronously for each message; `on_closed` exactly once; nothing is delivered after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WireProtocol
from websockets.protocol import Side, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from bridge.live.together import Together

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled wheel for this platform: slower, the same bytes
    from websockets.utils import apply_mask

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_CONTROL: Final = 0x08
_CLOSE_WAIT_S: Final = 1.0
_MOST_UNCOMMON: Final = 1000  # control frames, and of a client fragments, from one ping of ours to the next
_MOST_UNREAD: Final = 262_144  # bytes a peer may leave unread while it makes us answer
_MOST_KEPT: Final = 16_384  # bytes of one packet; a larger one is read at once
_SECOND_LOOK_S: Final = 0.25
_SMALLEST_FRAGMENT: Final = 64  # bytes, on average; a message in smaller pieces than that is an attack on memory
_LONGEST_REASON: Final = 123  # bytes in a close frame (RFC 6455 section 5.5)

_APART: Final = Together()  # never begun

# The library tells its logger of every connection, and at DEBUG of every header and frame: keys and voices.
_quiet = logging.getLogger("bridge.wire")
_quiet.setLevel(logging.WARNING)


class Writable(Protocol):
    """The part of asyncio.Transport used here."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


Message = Callable[[bytes, bool], None]  # (payload, is_text)
Closed = Callable[[int, str], None]  # (close code: theirs, else ours, else 1006; reason)


class CallSocket:
    """One side of an open WebSocket. `max_bytes` bounds a message; a larger one closes with 1009.

    Packets are read, and messages written, at once, or in stages with those of the sockets it is `together` with.
    """

    def __init__(
        self,
        wire: WireProtocol,
        transport: Writable,
        *,
        max_bytes: int,
        on_message: Message,
        on_closed: Closed,
        together: Together | None = None,
    ) -> None:
        assert wire.state is State.OPEN, "the handshake comes first"
        self._wire = wire
        self._transport = transport
        self._together = together or _APART
        self._max_bytes = max_bytes
        self.on_message = on_message
        self._on_closed: Closed | None = on_closed
        self._open = True
        self._mask_bit = 0x80 if wire.side is Side.SERVER else 0  # what a peer's frame has to have
        self._masks = _masks if wire.side is Side.CLIENT else None
        self._rest: bytearray | None = None  # an incomplete frame
        self._need = 2
        self._in_fragments = False
        self._fragments: list[bytes] = []
        self._fragments_text = True
        self._most_fragments = max(1024, max_bytes // _SMALLEST_FRAGMENT)
        self._uncommon = 0
        self._most_unread = max(_MOST_UNREAD, max_bytes)
        self._alarm: asyncio.TimerHandle | None = None
        self._unanswered = False
        self._probe: asyncio.TimerHandle | None = None
        self._silent = False  # nothing came since the probe
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------ reading

    def arrived(self, data: bytes) -> None:
        """Bytes from the transport, to be read with what the same pass of the loop brings others."""
        together = self._together
        if together.begun and len(data) <= _MOST_KEPT:
            together.packets.append((self, data))
        else:
            together.read()
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Bytes to be read now."""
        if self._on_closed is None:
            return
        self._unanswered = self._silent = False
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return
            data, self._rest = bytes(rest), None
        at, end = 0, len(data)
        while end - at >= 2:
            head, second = data[at], data[at + 1]
            length = second & 0x7F
            body = at + 2
            if length == 126:
                if end - at < 4:
                    break
                length = (data[at + 2] << 8) | data[at + 3]
                body = at + 4
            elif length == 127:
                if end - at < 10:
                    break
                length = int.from_bytes(data[at + 2 : at + 10], "big")
                body = at + 10
            masked = second & 0x80
            after = body + length + (4 if masked else 0)
            if length > self._max_bytes:
                self._fail(1009, "message too big")
                return
            if after > end:
                self._need = after - at
                self._rest = bytearray(data[at:])
                return
            if (
                (head == _TEXT or head == _BINARY)
                and self._open
                and not self._in_fragments
                and masked == self._mask_bit
            ):
                payload = apply_mask(data[body + 4 : after], data[body : body + 4]) if masked else data[body:after]
                self.on_message(payload, head == _TEXT)
            else:
                if self._mask_bit or head & _CONTROL:
                    self._uncommon += 1
                    if self._uncommon > _MOST_UNCOMMON:
                        self._fail(1008, "too many frames")
                        return
                self._wire.receive_data(data[at:after])
                self._settle()
            if self.finished:
                return
            at = after
        if at < end:
            self._need = 2
            self._rest = bytearray(data[at:])

    def feed_end(self) -> None:
        """The transport will bring no more."""
        self._together.read()
        if self._on_closed is not None:
            self._wire.receive_eof()
            self._finish()

    def _settle(self) -> None:
        """Do what the library's protocol decided: deliver, answer, close."""
        for frame in self._wire.events_received():
            if not isinstance(frame, Frame) or frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            if frame.opcode is not Opcode.CONT:
                self._fragments_text = frame.opcode is Opcode.TEXT
            self._fragments.append(bytes(frame.data))
            self._in_fragments = not frame.fin
            if frame.fin:
                whole = b"".join(self._fragments)
                self._fragments.clear()
                if self._open:
                    self.on_message(whole, self._fragments_text)
            elif len(self._fragments) > self._most_fragments:
                self._fail(1009, "too many fragments")
                return
        self._flush()

    def _fail(self, code: int, reason: str) -> None:
        """The peer broke the protocol: tell it why, and do not listen any more (RFC 6455 section 7.1.7)."""
        self._wire.fail(code, reason)
        self._flush()
        self._hang_up()

    def _flush(self) -> None:
        """Write what the protocol has to say, and hang up where it has come to its end."""
        self._together.flush()
        for data in self._wire.data_to_send():
            if data and not self._transport.is_closing():
                self._transport.write(data)
        # A client may leave it to the server to close TCP (RFC 6455 section 7.1.1); one that does not would keep the
        # connection, and the call, for ever.
        if self._wire.close_rcvd is not None or self._wire.parser_exc is not None:
            self._hang_up()
        elif self._transport.get_write_buffer_size() > self._most_unread:
            self.abort()

    def _hang_up(self) -> None:
        """What was written still leaves; a peer that does not read it is cut off."""
        if self._on_closed is not None:
            if not self._transport.is_closing():  # TLS may have ended together with the frame that made us
                self._transport.close()
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(_CLOSE_WAIT_S, self._transport.abort)
            self._finish()

    @property
    def finished(self) -> bool:
        """Nothing more is delivered."""
        return self._on_closed is None

    # ------------------------------------------------------------ writing

    @property
    def open(self) -> bool:
        return self._open

    @property
    def waiting_bytes(self) -> int:
        """Bytes given to the transport that the network has not taken yet."""
        return self._transport.get_write_buffer_size()

    def send(self, payload: bytes) -> None:
        """One text message. On a closing socket it is lost, as it would be on the way."""
        if self._open:
            self._write(self._frame(payload, _TEXT))

    def send_binary(self, payload: bytes) -> None:
        if self._open:
            self._write(self._frame(payload, _BINARY))

    def send_all(self, payloads: Iterable[bytes]) -> None:
        """Several text messages in one write."""
        if self._open:
            self._write(b"".join([self._frame(payload, _TEXT) for payload in payloads]))

    def _write(self, data: bytes) -> None:
        together = self._together
        if together.begun:
            together.writes.append((self._transport, data))
        else:
            self._transport.write(data)

    def _frame(self, payload: bytes, head: int) -> bytes:
        length = len(payload)
        masks = self._masks
        if masks is None:
            if length < 126:
                return bytes((head, length)) + payload
            if length < 65536:
                return bytes((head, 126, length >> 8, length & 0xFF)) + payload
            return bytes((head, 127)) + length.to_bytes(8, "big") + payload
        mask = masks.next()
        masked = apply_mask(payload, mask)
        if length < 126:
            return bytes((head, 0x80 | length)) + mask + masked
        if length < 65536:
            return bytes((head, 254, length >> 8, length & 0xFF)) + mask + masked
        return bytes((head, 255)) + length.to_bytes(8, "big") + mask + masked

    # ------------------------------------------------------------ staying alive, and ending

    def keep_alive(self, *, every_s: float, within_s: float) -> None:
        """Ping every `every_s`; give the peer up when nothing at all came for `within_s` after a ping."""
        loop = asyncio.get_running_loop()

        def ping() -> None:
            self._uncommon = 0
            self._unanswered = True
            self._wire.send_ping(os.urandom(4))
            self._flush()
            self._alarm = loop.call_later(within_s, check)

        def check() -> None:
            if self._unanswered:
                # Where this process itself stood still, the answer may lie unread: it is read before this rings again.
                self._alarm = loop.call_later(_SECOND_LOOK_S, give_up)
            else:
                self._alarm = loop.call_later(max(every_s - within_s, 0.0), ping)

        def give_up() -> None:
            self._together.read()
            if not self._open:
                return
            if self._unanswered:
                self._wire.fail(1011, "no answer to a ping")
                self.abort()
            else:
                self._alarm = loop.call_later(every_s, ping)

        if self._open:
            self._stop_alarm()
            self._alarm = loop.call_later(every_s, ping)

    def probe(self, *, within_s: float) -> None:
        """Ping now; give the peer up when nothing at all comes within that."""
        if self._open and self._probe is None:
            self._silent = True
            self._wire.send_ping(os.urandom(4))
            self._flush()
            self._probe = asyncio.get_running_loop().call_later(within_s, self._look, _SECOND_LOOK_S)

    def _look(self, again_s: float) -> None:
        self._probe = None
        if not self._silent:
            return
        if again_s:  # where this process stood still, the answer may lie unread
            self._probe = asyncio.get_running_loop().call_later(again_s, self._look, 0.0)
            return
        self._together.read()
        if self._silent and self._open:
            self._wire.fail(1011, "no answer to a ping")
            self.abort()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close; a peer that does not answer within a second is cut off. Closing twice is harmless."""
        if not self._open:
            return
        self._open = False
        self._wire.send_close(code, reason.encode()[:_LONGEST_REASON].decode(errors="ignore"))
        self._flush()
        self._stop_alarm()
        self._alarm = asyncio.get_running_loop().call_later(_CLOSE_WAIT_S, self.abort)

    def abort(self) -> None:
        """Cut the connection without a word."""
        self._transport.abort()
        self._finish()

    def _stop_alarm(self) -> None:
        for alarm in (self._alarm, self._probe):
            if alarm is not None:
                alarm.cancel()
        self._alarm = self._probe = None

    def _finish(self) -> None:
        if self._on_closed is None:
            return
        on_closed, self._on_closed = self._on_closed, None
        self._open = False
        self._stop_alarm()
        self._rest = None
        self._fragments.clear()
        said = self._wire.close_rcvd or self._wire.close_sent
        code, reason = (1006, "") if said is None else (int(said.code), said.reason)
        if not self.closed.done():
            self.closed.set_result(None)
        on_closed(code, reason)


class Carrying(asyncio.Protocol):
    """The transport's side of an open socket: the event loop hands over its bytes itself."""

    def __init__(self, socket: CallSocket) -> None:
        self._socket = socket
        self.data_received = socket.arrived  # type: ignore[method-assign]  # one call less for each packet

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket.feed_end()


class _Masks:
    """Masking keys, unpredictable as RFC 6455 section 5.3 asks, drawn from the system a page at a time and for
    all sockets.
    """

    __slots__ = ("_at", "_page")

    def __init__(self) -> None:
        self._page = b""
        self._at = 0

    def next(self) -> bytes:
        at = self._at
        if at >= len(self._page):
            self._page, at = os.urandom(1024), 0
        self._at = at + 4
        return self._page[at : at + 4]


_masks: Final = _Masks()


def client_wire(uri: WebSocketURI, subprotocols: Sequence[Subprotocol], max_bytes: int) -> ClientProtocol:
    """The client's side, before its handshake."""
    return ClientProtocol(uri, subprotocols=subprotocols or None, max_size=max_bytes, logger=_quiet)


def server_wire(max_bytes: int) -> WireProtocol:
    """The server's side of a connection whose handshake somebody else has done."""
    return ServerProtocol(state=State.OPEN, max_size=max_bytes, logger=_quiet)
