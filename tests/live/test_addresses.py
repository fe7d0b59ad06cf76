"""Looking up names: one that is not answered keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.errors import RealtimeError
from bridge.live import addresses, connect


class NameServer:
    """In the system's place. Names of `slow` hosts are answered when `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked: list[str] = []
        self.slow: set[str] = set()
        self.hosts = {"here.test": ["127.0.0.1", "127.0.0.1", "::1"]}

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if host in self.slow:
            self.answers.wait(20)
        if host not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in self.hosts[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    monkeypatch.setattr(addresses, "_known", {})
    monkeypatch.setattr(addresses, "_looking", {})
    yield server
    server.answers.set()


async def test_addresses_are_each_told_once_and_an_address_is_its_own(names: NameServer) -> None:
    assert await addresses.find("here.test", 443) == ["127.0.0.1", "::1"]
    assert await addresses.find("192.0.2.7", 443) == ["192.0.2.7"]
    assert await addresses.find("2001:db8::7", 443) == ["2001:db8::7"]
    assert names.asked == ["here.test"]


async def test_a_name_that_is_not_answered_is_asked_for_once_and_keeps_no_other_waiting(names: NameServer) -> None:
    names.slow.add("slow.test")
    waiting = [asyncio.ensure_future(addresses.find("slow.test", 443)) for _ in range(50)]
    await asyncio.sleep(0.05)
    for one in waiting[:49]:
        one.cancel()
    async with asyncio.timeout(5):
        assert await addresses.find("here.test", 443)
    waiting.append(asyncio.ensure_future(addresses.find("slow.test", 443)))
    await asyncio.sleep(0.05)
    assert names.asked.count("slow.test") == 1
    names.hosts["slow.test"] = ["192.0.2.1"]
    names.answers.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting[49:]) == [["192.0.2.1"]] * 2
    names.slow.clear()
    assert await addresses.find("slow.test", 443) and names.asked.count("slow.test") == 2, "it is looked up anew"


@pytest.mark.parametrize("trouble", ["slow", "unknown"])
async def test_where_a_host_was_is_believed_while_nothing_newer_can_be_had(
    names: NameServer, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_LATE_S", 0.05)
    assert await addresses.find("here.test", 443) == ["127.0.0.1", "::1"]
    if trouble == "slow":
        names.slow.add("here.test")
    else:
        del names.hosts["here.test"]
    async with asyncio.timeout(5):
        assert await addresses.find("here.test", 443) == ["127.0.0.1", "::1"]


async def test_a_look_up_there_is_no_thread_for_is_tried_again(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_room)
        with pytest.raises(OSError, match="new thread"):
            await addresses.find("here.test", 443)
    assert await addresses.find("here.test", 443)


async def test_a_name_that_is_none_or_unknown_is_an_error(names: NameServer) -> None:
    with pytest.raises(OSError, match="not known"):
        await addresses.find("nowhere.test", 443)
    assert not addresses._looking


async def test_the_next_address_is_tried_where_the_first_takes_no_connection(
    names: NameServer, unused_tcp_port: int
) -> None:
    names.hosts["two.test"] = ["::1", "127.0.0.1"]
    came = asyncio.Event()

    def someone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        writer.close()

    async with await asyncio.start_server(someone, "127.0.0.1", unused_tcp_port):
        with pytest.raises(RealtimeError):
            url = f"ws://two.test:{unused_tcp_port}/"
            await connect.dial(url, [], [], on_message=lambda *_: None, on_closed=lambda *_: None)
        async with asyncio.timeout(5):
            await came.wait()
