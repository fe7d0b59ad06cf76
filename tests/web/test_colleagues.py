"""What workers tell each other, between two of them in one process; a connection handed over is the same connection."""

from __future__ import annotations

import asyncio
import errno
import socket as sockets
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.live.places import lay_out
from bridge.web import colleagues
from bridge.web.colleagues import Colleagues


class FakeOffice:
    """Answers with what it was asked; says hello on a connection it is given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[str, ...]] = []
        self.documents: dict[str, str] = {}

    def announced(self, fields: Mapping[str, str]) -> str:
        if fields.get("CallSid") == "broken":
            raise RuntimeError("a mistake of ours")
        return f"{self.name} answers {fields['CallSid']}"

    def ended(self, carrier_call_id: str, status: str) -> None:
        self.told.append((carrier_call_id, status))

    def resumed(self, carrier_call_id: str) -> str:
        return self.documents.get(carrier_call_id, "")

    async def adopt(self, connection: sockets.socket, ip: str, said: bytes) -> None:
        self.told.append((ip, said.decode()))
        connection.sendall(f"{self.name} has you".encode())
        connection.close()


Pair = tuple[Colleagues, Colleagues, FakeOffice, FakeOffice]


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    lay_out(folder / "places", 2)
    one, two = (Colleagues(folder, worker=worker, workers=2, max_calls=10) for worker in range(2))
    offices = FakeOffice("one"), FakeOffice("two")
    await one.start(offices[0])
    await two.start(offices[1])
    try:
        yield one, two, *offices
    finally:
        await one.stop()
        await two.stop()
        await two.stop()


def call_of(worker: int) -> str:
    return next(f"CA{n}" for n in range(100) if zlib.crc32(f"CA{n}".encode()) % 2 == worker)


async def test_a_call_is_announced_to_the_worker_it_belongs_to(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two, _, _):
        first, second = call_of(0), call_of(1)
        assert await one.announce(second, {"CallSid": second}) == f"two answers {second}"
        assert await two.announce(first, {"CallSid": first}) == f"one answers {first}"
        assert await one.announce(first, {"CallSid": first}) is None  # its own: nobody is asked


async def test_a_call_whose_worker_is_gone_is_taken_by_whoever_was_asked(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two, _, _):
        await two.stop()
        assert await one.announce(call_of(1), {"CallSid": call_of(1)}) is None


async def test_a_colleague_that_makes_a_mistake_or_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colleagues, "_LIMIT_S", 0.2)
    async with pair(tmp_path) as (one, two, _, _):
        assert await one.announce(call_of(1), {"CallSid": "broken"}) is None
        assert await one.announce(call_of(1), {"CallSid": call_of(1)}) == f"two answers {call_of(1)}"
        await two.stop()
        with sockets.socket(sockets.AF_UNIX) as deaf:
            deaf.bind(str(tmp_path / "1.socket"))
            deaf.listen(1)
            assert await one.announce(call_of(1), {"CallSid": call_of(1)}) is None


async def test_a_worker_without_a_descriptor_left_hears_its_colleagues_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colleagues, "_BREATH_S", 0.01)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files")] * 3

    async def short_of_descriptors(door: sockets.socket) -> tuple[sockets.socket, Any]:
        if failures:
            raise failures.pop()
        return await accept(door)

    monkeypatch.setattr(loop, "sock_accept", short_of_descriptors)
    async with pair(tmp_path) as (one, _, _, _):
        assert await one.announce(call_of(1), {"CallSid": call_of(1)}) == f"two answers {call_of(1)}"
    assert not failures


async def test_a_question_nobody_waits_for_any_more_has_no_effect(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _, _, office_two):
        payload = msgspec.msgpack.encode(colleagues.Ended("CA1", "completed"))
        with sockets.socket(sockets.AF_UNIX) as talk:
            talk.connect(str(tmp_path / "1.socket"))
            talk.sendall(len(payload).to_bytes(4, "big") + payload)
        await one.ended("CA2", "completed")
        assert office_two.told == [("CA2", "completed")]


async def test_an_end_is_told_to_all_others_and_what_comes_after_a_stream_is_found_wherever_it_is_known(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (one, two, office_one, office_two):
        await one.ended("CA1", "completed")
        assert office_two.told == [("CA1", "completed")] and not office_one.told
        office_one.documents["CA2"] = "<Response/>"
        assert await two.resumed("CA2") == "<Response/>"
        assert await two.resumed("CA3") == ""


async def test_a_connection_is_handed_over_with_all_that_was_said(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _, _, office_two):
        ours, theirs = sockets.socketpair()
        with ours, theirs:
            said = b"x" * 300_000  # more than a socket takes at once
            assert await one.hand_over(1, theirs.fileno(), ip="10.0.0.1", said=said)
            theirs.close()  # ours of the two descriptors; the connection lives
            assert office_two.told == [("10.0.0.1", said.decode())]
            assert ours.recv(100) == b"two has you"


async def test_a_connection_nobody_takes_stays_with_who_has_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two, _, _):
        await two.stop()
        ours, theirs = sockets.socketpair()
        with ours, theirs:
            assert not await one.hand_over(1, theirs.fileno(), ip="", said=b"")
            theirs.sendall(b"still here")
            assert ours.recv(100) == b"still here"


async def test_a_worker_is_replaced_at_its_own_address(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _, _, _):
        successor = Colleagues(tmp_path, worker=1, workers=2, max_calls=10)
        await successor.start(FakeOffice("three"))  # its predecessor left its socket behind
        assert await one.announce(call_of(1), {"CallSid": call_of(1)}) == f"three answers {call_of(1)}"
        await successor.stop()


@pytest.mark.parametrize("garbage", [b"", b"\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x03abc", b"\0\0\0\x63abc"])
async def test_garbage_closes_that_talk_and_nothing_else(
    tmp_path: Path, garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colleagues, "_LIMIT_S", 0.2)
    async with pair(tmp_path) as (one, _, _, _):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "1.socket"))
        writer.write(garbage)
        assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        assert await one.announce(call_of(1), {"CallSid": call_of(1)}) == f"two answers {call_of(1)}"


@pytest.mark.parametrize(
    ("token", "worker"), [("1.abc", 1), ("0.abc", None), ("7.abc", None), ("abc", None), (".abc", None), ("².a", None)]
)
async def test_a_token_names_the_worker_that_made_it(tmp_path: Path, token: str, worker: int | None) -> None:
    lay_out(tmp_path / "places", 2)
    assert Colleagues(tmp_path, worker=0, workers=2, max_calls=1).worker_of(token) == worker


async def test_of_many_workers_every_one_is_told_and_every_one_is_asked(tmp_path: Path) -> None:
    lay_out(tmp_path / "places", 4)
    workers = [Colleagues(tmp_path, worker=worker, workers=4, max_calls=10) for worker in range(4)]
    offices = [FakeOffice(str(worker)) for worker in range(4)]
    for worker, office in zip(workers, offices, strict=True):
        await worker.start(office)
    try:
        await workers[0].ended("CA1", "completed")
        assert [office.told for office in offices] == [[]] + [[("CA1", "completed")]] * 3
        for knows in range(1, 4):  # whichever it belongs to
            offices[knows].documents["CA2"] = f"{knows}"
            assert await workers[0].resumed("CA2") == f"{knows}"
            del offices[knows].documents["CA2"]
    finally:
        for worker in workers:
            await worker.stop()


@pytest.mark.parametrize(("payload", "lacks"), [(b"", 0), (b"\xc1garbage", 0), (b"breaks off", 5)])
async def test_a_connection_that_came_with_garbage_is_closed(tmp_path: Path, payload: bytes, lacks: int) -> None:
    async with pair(tmp_path):
        ours, theirs = sockets.socketpair()
        with ours, sockets.socket(sockets.AF_UNIX) as talk:
            talk.connect(str(tmp_path / "1.socket"))
            sockets.send_fds(talk, [(len(payload) + lacks).to_bytes(4, "big")], [theirs.fileno()])
            theirs.close()
            talk.sendall(payload)
            talk.shutdown(sockets.SHUT_WR)
            ours.setblocking(False)
            async with asyncio.timeout(1):
                assert await asyncio.get_running_loop().sock_recv(ours, 1) == b""


async def test_a_message_of_a_length_no_colleague_sends_is_not_waited_for(tmp_path: Path) -> None:
    async with pair(tmp_path):
        with sockets.socket(sockets.AF_UNIX) as talk:
            talk.connect(str(tmp_path / "1.socket"))
            talk.setblocking(False)
            talk.send(b"\xff\xff\xff\xff")
            async with asyncio.timeout(0.5):
                assert await asyncio.get_running_loop().sock_recv(talk, 1) == b""
