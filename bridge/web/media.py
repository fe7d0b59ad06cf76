"""The media socket: a stream proves which call it belongs to, then it is that call's leg.

Order of proof: the signature on the upgrade where there is one, `start` within five seconds, the single-use token and
the carrier's call and account ids in it. Anything else closes with 1008, before a session with a model has anything to
do with it.
Unsigned sockets that have not proven themselves are counted, in all and per address; behind a proxy that address is the
proxy's, and signed ones must not wait for those who say nothing.

aiohttp answers the upgrade; from then on bytes go straight from the transport to `CallSocket`, without a task switch
per frame.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket as sockets
from collections import Counter
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bridge.audio.formats import AudioFormat
from bridge.live.phone import PhoneLeg
from bridge.live.switchboard import Switchboard
from bridge.live.websocket import CallSocket, Carrying, server_wire
from bridge.telephony import twilio
from bridge.telephony.signature import SIGNATURE, Validator, Verdict

log = structlog.get_logger()

MAX_BYTES: Final = 65_536
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_PING_S: Final = 10.0
_PONG_S: Final = 5.0
_POLICY: Final = 1008
_GOING_AWAY: Final = 1001
_MOST_BEFORE_START: Final = 10  # messages
_UNREAD_BYTES: Final = 32_768  # in the kernel, of a carrier that does not read: beyond it we know, and end the call
_SIGNED: Final = "signed"  # stands for the address of those who are not held back


class Colleagues(Protocol):
    """The other workers, where there are any: a stream may belong to a call of theirs."""

    def worker_of(self, token: str) -> int | None: ...
    async def hand_over(self, worker: int, descriptor: int, *, ip: str, said: bytes) -> bool: ...


class MediaDoor:
    """Where media streams come in. `pre_start` sockets may wait for their start at a time, so many of them of one
    address; `validator` None takes every signature for right."""

    def __init__(
        self,
        switchboard: Switchboard,
        validator: Validator | None,
        *,
        start_s: float = 5.0,
        pre_start: int = 200,
        pre_start_per_ip: int = 100,
        colleagues: Colleagues | None = None,
    ) -> None:
        self._switchboard = switchboard
        self.together = switchboard.together
        self._validator = validator
        self._start_s = start_s
        self._most = pre_start
        self._most_per_ip = pre_start_per_ip
        self._waiting: Counter[str] = Counter()
        self.streams: set[_Stream] = set()
        self.colleagues = colleagues

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /twilio/media."""
        key = request.headers.get("Sec-WebSocket-Key", "")
        if not _asks_for_websocket(request) or not _is_key(key):
            refused = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            return web.Response(status=426, text="This address speaks WebSocket.\n", headers=refused)
        signed = self._validator is not None and SIGNATURE in request.headers
        if self._validator is not None and signed:
            if self._validator.judge_socket(request.raw_path, request.headers) is not Verdict.ACCEPTED:
                log.warning("media_signature_wrong")
                return web.Response(status=403, text="The signature is wrong.\n")
        ip = _SIGNED if signed else request.remote or ""
        waiting = self._waiting.total() - self._waiting[_SIGNED]
        if not signed and (waiting >= self._most or self._waiting[ip] >= self._most_per_ip):
            log.warning("media_stream_held_back", ip=ip, waiting=waiting)
            return web.Response(status=503, text="Too many sockets are waiting.\n")
        upgrade = _Upgrade(key)
        self._waiting[ip] += 1
        try:
            await upgrade.prepare(request)
        except ConnectionError:  # the peer has left meanwhile
            self.waits_no_more(ip)
            return upgrade
        except BaseException:
            self.waits_no_more(ip)
            raise
        transport = upgrade.transport
        if transport is None:  # so it has here
            self.waits_no_more(ip)
            return upgrade
        stream = _Stream(self, transport, ip, keep=self.colleagues is not None)
        upgrade.attach(stream)
        await stream.socket.closed
        return upgrade

    async def adopt(self, connection: sockets.socket, ip: str, said: bytes) -> None:
        """A stream that another worker accepted, with all it has said since the handshake."""
        self._waiting[ip] += 1
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Adopted(self, ip, said), connection)
        except OSError:
            self.waits_no_more(ip)
            connection.close()

    def close(self) -> None:
        """The house closes: whoever is still here is sent away. Closing twice is harmless."""
        for stream in list(self.streams):
            stream.socket.close(_GOING_AWAY)

    # ------------------------------------------------------------ one stream

    def waits_no_more(self, ip: str) -> None:
        self._waiting[ip] -= 1
        if self._waiting[ip] <= 0:
            del self._waiting[ip]

    @property
    def start_s(self) -> float:
        return self._start_s

    def admit(self, start: twilio.Start, socket: CallSocket) -> PhoneLeg | str:
        """The leg of the call this stream belongs to, or why there is none."""
        token = start.parameters.get(twilio.TOKEN, "")
        driver = self._switchboard.claim(token, start.call_id, account_id=start.account_id)
        if driver is None:
            return "no call expects this stream"
        carrier = driver.plan.carrier
        if (start.encoding, start.rate_hz) != (carrier.encoding, carrier.rate_hz):
            return "the stream's audio is not what was agreed on"
        audio = AudioFormat(carrier.encoding, carrier.rate_hz)
        leg = PhoneLeg(driver, socket, stream_id=start.stream_id, audio=audio)
        driver.attach(leg, start.stream_id)
        return leg


class _Stream:
    """One media socket, from the upgrade to its end."""

    def __init__(self, door: MediaDoor, transport: asyncio.Transport, ip: str, *, keep: bool = False) -> None:
        self._door = door
        self._transport = transport
        self._ip = ip
        # All that came, while the stream may be another worker's: not much, as little may come before a start.
        self.said: list[bytes] | None = [] if keep else None
        self._leg: PhoneLeg | None = None
        self._proven = False
        self._messages = self._bytes = 0
        self.socket = CallSocket(
            server_wire(MAX_BYTES),
            transport,
            max_bytes=MAX_BYTES,
            on_message=self._introduce,
            on_closed=self._closed,
            together=door.together,
        )
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # it has gone meanwhile
                connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _UNREAD_BYTES)
        self._alarm = asyncio.get_running_loop().call_later(door.start_s, self._late)
        door.streams.add(self)

    def feed(self, data: bytes) -> None:
        """Bytes of the connection, kept while the stream may have to be handed over."""
        if self.said is None:
            self.socket.arrived(data)
        else:
            self.said.append(data)
            self.socket.feed(data)

    def _introduce(self, payload: bytes, is_text: bool) -> None:
        """Messages before the stream has proven itself: connected, then start. Unknown events may come between."""
        self._messages += 1
        self._bytes += len(payload)
        message = twilio.decode(payload) if is_text else twilio.Malformed("binary")
        match message:
            case _ if self._messages > _MOST_BEFORE_START or self._bytes > MAX_BYTES:
                self._refuse("too much came before start")
            case twilio.Start():
                self._start(message)
            case None | twilio.Connected():
                pass
            case _:
                self._refuse("the stream did not begin with start")

    def _start(self, start: twilio.Start) -> None:
        colleagues = self._door.colleagues
        if colleagues is not None and self.said is not None:
            worker = colleagues.worker_of(start.parameters.get(twilio.TOKEN, ""))
            if worker is not None:
                self._hand_over(colleagues, worker)
                return
            self.said = None
        found = self._door.admit(start, self.socket)
        if isinstance(found, str):
            self._refuse(found)
            return
        self._prove()
        self._leg = found
        self.socket.on_message = found.receive
        self.socket.keep_alive(every_s=_PING_S, within_s=_PONG_S)

    def _hand_over(self, colleagues: Colleagues, worker: int) -> None:
        """The call is another worker's: it gets the connection, and all that was said on it."""
        assert self.said is not None, "what may be handed over is kept"
        self._transport.pause_reading()
        self._prove()  # it waits for nothing here any more
        self.socket.on_message = lambda payload, is_text: None  # what follows in this read is kept as well
        said = self.said
        descriptor: int = self._transport.get_extra_info("socket").fileno()

        async def give() -> None:
            given = await colleagues.hand_over(worker, descriptor, ip=self._ip, said=b"".join(said))
            if given:
                log.debug("stream_handed_over", to=worker)
                self.socket.abort()  # closes our copy of the descriptor, and nothing on the wire
            else:
                self._refuse("the worker of this call is gone")

        self._handing_over = asyncio.create_task(give(), name="hand over")

    def _late(self) -> None:
        self._door.together.read()  # where this process stood still, the start may lie unread
        if not self._proven and not self.socket.finished:
            self._refuse("no start in time")

    def _refuse(self, why: str) -> None:
        log.warning("media_stream_refused", why=why)
        self.said = None
        self.socket.close(_POLICY, why)

    def _prove(self) -> None:
        if not self._proven:
            self._proven = True
            self._alarm.cancel()
            self._door.waits_no_more(self._ip)

    def _closed(self, code: int, reason: str) -> None:
        self._door.streams.discard(self)
        self.said = None
        self._prove()
        if self._leg is not None:
            self._leg.socket_closed(code, reason)


class _Upgrade(web.StreamResponse):
    """The answer 101, after which the connection's bytes are the socket's (RFC 6455 section 4.2.2)."""

    def __init__(self, key: str) -> None:
        accept = base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest()).decode("ascii")
        super().__init__(
            status=101, headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        )
        self._connection: Any = None
        self._length_check = False  # an upgrade has no body to count

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        writer = await super()._start(request)
        self._connection = request.protocol
        return writer

    @property
    def transport(self) -> asyncio.Transport | None:
        """Where the answer went; None when that connection is gone."""
        return self._connection.transport  # type: ignore[no-any-return]  # aiohttp leaves it untyped here

    def attach(self, stream: _Stream) -> None:
        """From now on the connection feeds the stream; what came with the handshake comes first."""
        self._connection.keep_alive(False)
        self._connection.set_parser(_Feed(stream))
        transport = self.transport
        if transport is not None:
            transport.set_protocol(_Taken(self._connection, stream))

    async def write_eof(self, data: bytes = b"") -> None:
        """The socket has said all there was to say."""
        self._eof_sent = True


class _Feed:
    """What aiohttp calls a payload parser: for what came with the handshake, and for the end."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._stream.feed(data)
        return False, b""

    def feed_eof(self) -> None:
        self._stream.socket.feed_end()


class _Taken(asyncio.Protocol):
    """The connection after its upgrade: its bytes go straight to the socket, all else goes to aiohttp as before."""

    def __init__(self, connection: Any, stream: _Stream) -> None:
        self._connection = connection
        # an attribute and no method: one call less for each packet
        self.data_received = stream.socket.arrived if stream.said is None else stream.feed  # type: ignore[method-assign]

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()  # type: ignore[no-any-return]  # aiohttp leaves it untyped here

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


class _Adopted(asyncio.Protocol):
    """The connection of a stream that another worker accepted."""

    def __init__(self, door: MediaDoor, ip: str, said: bytes) -> None:
        self._door = door
        self._ip = ip
        self._said = said

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast(asyncio.Transport, transport)
        socket = _Stream(self._door, made, self._ip).socket
        made.set_protocol(Carrying(socket))
        socket.feed(self._said)


def _asks_for_websocket(request: web.Request) -> bool:
    """RFC 6455 section 4.2.1."""
    headers = request.headers
    return (
        headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in headers.get("Connection", "").lower()
        and headers.get("Sec-WebSocket-Version") == "13"
        and not request.body_exists
    )


def _is_key(key: str) -> bool:
    """Sixteen bytes in base64 (RFC 6455 section 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
