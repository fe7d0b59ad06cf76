"""The carrier's end of a WebSocket, against raw servers that do what aiohttp's would not."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bridge.errors import UsageError
from bridge.sim import doors
from bridge.sim.doors import MediaSocket, NetworkDoor, Unreachable
from tests.sim.double import on_virtual_time

URL = "wss://bridge.example.test/media"


class Heard:
    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.closed: list[int | None] = []
        self.reason = ""

    def on_message(self, message: str | bytes) -> None:
        self.messages.append(message)

    def on_closed(self, code: int | None, reason: str = "") -> None:
        self.closed.append(code)
        self.reason = reason


class Peer:
    """A server that speaks frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.protocol = ServerProtocol()
        self.frames: list[object] = []

    async def upgrade(self) -> Request:
        while not (events := self.protocol.events_received()):
            self.protocol.receive_data(await self.reader.read(65536))
        (request,) = events
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        self.flush()
        return request

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            self.writer.write(data)


@asynccontextmanager
async def serving(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[NetworkDoor]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Peer(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    door = NetworkDoor(service_url=f"http://127.0.0.1:{port}", public_url="https://bridge.example.test")
    try:
        yield door
    finally:
        server.close()
        await door.close()


async def opened(door: NetworkDoor, heard: Heard, *, connect_s: float = 5) -> MediaSocket:
    return await door.open(URL, headers={"x-test": "1"}, listener=heard, connect_s=connect_s)


@on_virtual_time
async def test_fragmented_messages_arrive_whole_and_pings_are_answered() -> None:
    pongs: list[bytes] = []

    async def serve(peer: Peer) -> None:
        request = await peer.upgrade()
        assert (request.headers["Host"], request.headers["x-test"]) == ("bridge.example.test", "1")
        peer.protocol.send_text(b'{"a":', fin=False)
        peer.protocol.send_ping(b"now")
        peer.protocol.send_continuation(b"1}", fin=True)
        peer.protocol.send_binary(b"\x00\x01")
        peer.flush()
        peer.protocol.receive_data(await peer.reader.read(65536))
        pongs.extend(frame.data for frame in peer.protocol.events_received())
        peer.protocol.send_close(1008, "no")
        peer.flush()
        await peer.reader.read()

    heard = Heard()
    async with serving(serve) as door:
        await opened(door, heard)
        await asyncio.sleep(1)
    assert heard.messages == ['{"a":1}', b"\x00\x01"]
    assert pongs == [b"now"]
    assert (heard.closed, heard.reason) == ([1008], "no")


@pytest.mark.parametrize("ending", ["close", "end", "reset"])
@on_virtual_time
async def test_a_half_open_socket_neither_answers_nor_says_nor_hears_of_anything(ending: str) -> None:
    frames: list[object] = []
    silent = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        await silent.wait()
        peer.protocol.send_ping(b"there?")
        peer.protocol.send_text(b"hello?")
        if ending == "close":
            peer.protocol.send_close(1011, "no answer")
        peer.flush()
        if ending == "end":
            peer.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                peer.protocol.receive_data(await peer.reader.read(65536))
        frames.extend(peer.protocol.events_received())
        if ending == "reset":
            peer.writer.transport.abort()

    heard = Heard()
    async with serving(serve) as door:
        socket = await opened(door, heard)
        socket.pause()
        socket.half_open()
        socket.resume()
        silent.set()
        await asyncio.sleep(1)
        socket.send("still here")
        socket.close()
        await asyncio.sleep(40)
        socket.abort()
        await asyncio.sleep(1)
    assert frames == []
    assert (heard.messages, heard.closed) == ([], [])


@on_virtual_time
async def test_closing_twice_is_harmless_and_a_peer_that_never_answers_is_left() -> None:
    left = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        with pytest.raises(ConnectionResetError):
            while await peer.reader.read(65536):
                pass
        left.set()

    heard = Heard()
    async with serving(serve) as door:
        socket = await opened(door, heard)
        socket.close(1000)
        socket.close(1000)
        socket.send("too late")
        await asyncio.wait_for(left.wait(), 5)
        await asyncio.sleep(0.1)
    assert heard.closed == [None]


@on_virtual_time
async def test_a_server_that_says_nothing_is_error_31901() -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.read(65536)
        await asyncio.sleep(60)

    async with serving(serve) as door:
        with pytest.raises(Unreachable) as wrong:
            await opened(door, Heard(), connect_s=2)
        assert wrong.value.code == 31901


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b""])
@on_virtual_time
async def test_whatever_is_not_an_upgrade_is_error_31920(answer: bytes) -> None:
    heard = Heard()

    async def serve(peer: Peer) -> None:
        await peer.reader.read(65536)
        peer.writer.write(answer)

    async with serving(serve) as door:
        with pytest.raises(Unreachable) as wrong:
            await opened(door, heard)
        await asyncio.sleep(0.1)
    assert wrong.value.code in (31920, 31904)
    assert heard.closed == [], "what was never open is never closed"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_virtual_time
async def test_nobody_listening_is_error_31902_at_the_address_really_dialled(host: str) -> None:
    door = NetworkDoor(service_url=f"http://{host}:1", public_url="https://bridge.example.test")
    with pytest.raises(Unreachable) as wrong:
        await opened(door, Heard())
    assert (wrong.value.code, str(wrong.value)) == (31902, f"ws://{host}:1/media: connection refused")


def test_a_name_whose_addresses_all_refuse_refuses() -> None:
    quoted = "[Errno {0}] Connect call failed ('::1', 1, 0, 0), [Errno {0}] Connect call failed ('127.0.0.1', 1)"
    assert doors._refused(OSError("Multiple exceptions: " + quoted.format(errno.ECONNREFUSED)))
    assert not doors._refused(OSError(errno.EHOSTUNREACH, "no route"))


def test_a_service_address_must_be_one() -> None:
    with pytest.raises(UsageError):
        NetworkDoor(service_url="127.0.0.1:8080", public_url="https://bridge.example.test")
