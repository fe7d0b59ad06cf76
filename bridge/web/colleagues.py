"""What the workers of one service have to tell each other.

Whichever worker the kernel gives a connection to, a call lives in one: the one its CallSid points to, or, while that
one is down, the one that took its webhook. Three rules follow:

    a call is announced     the worker its CallSid points to answers, so that a repeated webhook meets the same call
    its stream arrives      the token begins with the worker's number; the connection itself is handed to that worker,
                            with all that was read from it, over a Unix socket (SCM_RIGHTS, unix(7))
    it changes its status,  every worker is told, or asked: who does not know the call does nothing
    or comes back

So the session with the model that was opened at the webhook is kept, and a token stays single-use because one worker
alone knows it. Messages are msgpack with a length before them, one per connection, in a folder only we can enter.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from bridge.live.places import Places, shared

log = structlog.get_logger()

_LIMIT_S: Final = 2.0  # for one message and its answer; a colleague that takes longer counts as gone
_BREATH_S: Final = 1.0  # before colleagues are listened to again, where that failed
_HEAD: Final = struct.Struct(">I")
_MOST_BYTES: Final = 1 << 20


class Announced(msgspec.Struct, tag=True, frozen=True):
    """A call's webhook, proven. The answer is its document."""

    fields: dict[str, str]


class Ended(msgspec.Struct, tag=True, frozen=True):
    carrier_call_id: str
    status: str


class Resumed(msgspec.Struct, tag=True, frozen=True):
    """What comes after this call's stream? The answer is its document, empty where there is none."""

    carrier_call_id: str


class Stream(msgspec.Struct, tag=True, frozen=True):
    """A media stream, with what it has said since its handshake. The connection's descriptor comes along."""

    ip: str
    said: bytes


Message = Announced | Ended | Resumed | Stream
_decoder = msgspec.msgpack.Decoder(Message)


class Office(Protocol):
    """What a worker does for its colleagues."""

    def announced(self, fields: Mapping[str, str]) -> str: ...
    def ended(self, carrier_call_id: str, status: str) -> None: ...
    def resumed(self, carrier_call_id: str) -> str: ...
    async def adopt(self, connection: sockets.socket, ip: str, said: bytes) -> None: ...


class Colleagues:
    """The other workers, as this one sees them. `folder` holds every worker's socket and the page of places."""

    def __init__(self, folder: Path, *, worker: int, workers: int, max_calls: int) -> None:
        self.worker = worker
        self.places = Places(max_calls, shared(folder / "places"), worker=worker)
        self.metrics_folder = folder / "metrics"
        self._folder = folder
        self._others = [other for other in range(workers) if other != worker]
        self._workers = workers
        self._office: Office | None = None
        self._door: sockets.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._talks: set[asyncio.Task[None]] = set()

    @property
    def token_prefix(self) -> str:
        return f"{self.worker}."

    # ------------------------------------------------------------ asking

    async def announce(self, carrier_call_id: str, fields: Mapping[str, str]) -> str | None:
        """The document of the worker this call belongs to; None where that is this one, or a worker that is gone."""
        owner = self._owner(carrier_call_id)
        return None if owner == self.worker else await self._ask(owner, Announced(dict(fields)))

    def _owner(self, carrier_call_id: str) -> int:
        """The worker a call belongs to, if that was there when the call came."""
        return zlib.crc32(carrier_call_id.encode()) % self._workers

    async def ended(self, carrier_call_id: str, status: str) -> None:
        await asyncio.gather(*(self._ask(other, Ended(carrier_call_id, status)) for other in self._others))

    async def resumed(self, carrier_call_id: str) -> str:
        """The document that the call goes on with, as far as any of the others knows.

        Its worker is asked first, and the rest only where that knows nothing: one that hangs costs nobody the answer.
        """
        owner = self._owner(carrier_call_id)
        if owner != self.worker and (answer := await self._ask(owner, Resumed(carrier_call_id))):
            return answer
        rest = [other for other in self._others if other != owner]
        answers = await asyncio.gather(*(self._ask(other, Resumed(carrier_call_id)) for other in rest))
        return next((answer for answer in answers if answer), "")

    def worker_of(self, token: str) -> int | None:
        """The other worker that made a token; None: this one, or nobody."""
        number, dot, _ = token.partition(".")
        if not dot or not number.isascii() or not number.isdigit() or len(number) > 3:
            return None
        return int(number) if int(number) in self._others else None

    async def hand_over(self, worker: int, descriptor: int, *, ip: str, said: bytes) -> bool:
        """Give a stream's connection to the worker whose call it belongs to. This process may close it afterwards."""
        return await self._ask(worker, Stream(ip, said), descriptor) is not None

    async def _ask(self, worker: int, message: Message, descriptor: int | None = None) -> str | None:
        """A colleague's answer; None where it gave none in time."""
        loop = asyncio.get_running_loop()
        payload = msgspec.msgpack.encode(message)
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as talk:
            talk.setblocking(False)
            try:
                async with asyncio.timeout(_LIMIT_S):
                    await loop.sock_connect(talk, str(self._folder / f"{worker}.socket"))
                    # Four bytes always fit, and a descriptor travels with the bytes it was sent with.
                    sockets.send_fds(talk, [_HEAD.pack(len(payload))], [] if descriptor is None else [descriptor])
                    await loop.sock_sendall(talk, payload)
                    answer = await _read(talk)
            except (OSError, TimeoutError) as error:
                log.warning("colleague_silent", colleague=worker, what=type(message).__name__, why=type(error).__name__)
                return None
        return answer.decode()

    # ------------------------------------------------------------ being asked

    async def start(self, office: Office) -> None:
        """From now on colleagues are answered. A socket a dead predecessor left is replaced."""
        self._office = office
        path = self._path
        path.unlink(missing_ok=True)
        self._door = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._door.setblocking(False)
        self._door.bind(str(path))
        self._door.listen(256)
        self._accepting = asyncio.create_task(self._accept(self._door), name="colleagues")

    async def stop(self) -> None:
        """Harmless when it was never started, and when it was stopped."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting, *self._talks], timeout=_LIMIT_S)
        if self._door is not None:
            self._door.close()
            self._door = None
            self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self.worker}.socket"

    @property
    def all_gone(self) -> bool:
        """No worker listens any more, this one included."""
        return not any(self._folder.glob("*.socket"))

    async def _accept(self, door: sockets.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                talk, _ = await loop.sock_accept(door)
            except OSError as error:  # no descriptor is left, for example
                log.error("colleagues_not_heard", why=error.strerror or type(error).__name__)
                await asyncio.sleep(_BREATH_S)
                continue
            task = asyncio.create_task(self._serve(talk), name="colleague")
            self._talks.add(task)
            task.add_done_callback(self._talks.discard)

    async def _serve(self, talk: sockets.socket) -> None:
        with talk:
            talk.setblocking(False)
            connection: sockets.socket | None = None
            try:
                async with asyncio.timeout(_LIMIT_S):
                    payload, connection = await _read_with_connection(talk)
                    message = _decoder.decode(payload)
                    if _gave_up(talk):
                        return  # whoever asked has done it without us
                    given, connection = connection, None  # from here on it is somebody else's to close
                    answer = (await self._answer(message, given)).encode()
                    await asyncio.get_running_loop().sock_sendall(talk, _HEAD.pack(len(answer)) + answer)
            except (OSError, TimeoutError, msgspec.DecodeError) as error:
                log.warning("colleague_not_answered", why=type(error).__name__)
            except Exception:
                log.exception("colleague_not_answered")
            finally:
                if connection is not None:
                    connection.close()

    async def _answer(self, message: Message, connection: sockets.socket | None) -> str:
        office = self._office
        assert office is not None, "nobody asks before the office is open"
        match message:
            case Announced(fields=fields):
                return office.announced(fields)
            case Ended(carrier_call_id=carrier_call_id, status=status):
                office.ended(carrier_call_id, status)
            case Resumed(carrier_call_id=carrier_call_id):
                return office.resumed(carrier_call_id)
            case Stream(ip=ip, said=said) if connection is not None:
                await office.adopt(connection, ip, said)
        return ""


# ---------------------------------------------------------------- the wire between colleagues


async def _read(talk: sockets.socket) -> bytes:
    """One message. Raises OSError where it breaks off."""
    return await _read_exactly(talk, _length(await _read_exactly(talk, _HEAD.size)))


async def _read_with_connection(talk: sockets.socket) -> tuple[bytes, sockets.socket | None]:
    """One message with the connection that may have come along."""
    await _readable(talk)
    head, descriptors, _, _ = sockets.recv_fds(talk, _HEAD.size, 1)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    connection = sockets.socket(fileno=descriptors[0]) if descriptors else None
    try:
        head += await _read_exactly(talk, _HEAD.size - len(head))
        return await _read_exactly(talk, _length(head)), connection
    except BaseException:
        if connection is not None:
            connection.close()
        raise


def _length(head: bytes) -> int:
    (length,) = _HEAD.unpack(head)
    if length > _MOST_BYTES:
        raise ConnectionError("a message of that length is none of ours")
    return int(length)


def _gave_up(talk: sockets.socket) -> bool:
    """Whether the other side has closed, instead of waiting for an answer."""
    try:
        return not talk.recv(1, sockets.MSG_PEEK)
    except BlockingIOError:
        return False


async def _read_exactly(talk: sockets.socket, length: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < length:
        piece = await loop.sock_recv(talk, length - len(data))
        if not piece:
            raise ConnectionError("the message breaks off")
        data += piece
    return data


async def _readable(talk: sockets.socket) -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not came.done():
            came.set_result(None)

    loop.add_reader(talk.fileno(), wake)
    try:
        await came
    finally:
        loop.remove_reader(talk.fileno())
