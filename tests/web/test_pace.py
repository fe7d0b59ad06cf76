"""With many calls the loop takes two milliseconds' packets together; with few, each as it comes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bridge.live.together import Together
from bridge.web.pace import EVERY_S, MANY, Pace


class Clock:
    """Time that passes only where something sleeps or is busy."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def passes(count: int) -> None:
    """Of asyncio's own loop, which the tests run on: two for each rest."""
    for _ in range(2 * count):
        await asyncio.sleep(0)


async def test_with_few_calls_the_loop_never_rests() -> None:
    clock = Clock()
    pace = Pace(lambda: MANY - 1, Together(), clock=clock, sleep=clock.sleep)
    pace.start()
    await passes(50)
    pace.stop()
    assert clock.slept == []


async def test_with_many_it_rests_once_a_pass_and_a_pass_is_as_long_as_it_says() -> None:
    clock = Clock()
    pace = Pace(lambda: MANY, Together(), clock=clock, sleep=clock.sleep)
    pace.start()
    await passes(50)
    pace.stop()
    assert 45 <= len(clock.slept) <= 50
    assert clock.slept == pytest.approx([EVERY_S] * len(clock.slept))


async def test_work_of_a_pass_shortens_its_rest_and_enough_of_it_leaves_none() -> None:
    clock = Clock()
    pace = Pace(lambda: MANY, Together(), clock=clock, sleep=clock.sleep)
    pace.start()
    for share in (0.4, 0.4, 1.5, 1.5, 0.4):
        clock.now += share * EVERY_S
        await passes(1)
    pace.stop()
    assert clock.slept == pytest.approx([0.6 * EVERY_S] * 3)


async def test_it_begins_when_calls_have_become_many_and_ends_when_they_are_few_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.web.pace._LOOK_S", 0.0)
    clock, calls, together = Clock(), [0], Together()
    pace = Pace(lambda: calls[0], together, clock=clock, sleep=clock.sleep)
    pace.start()
    await passes(20)
    assert clock.slept == []
    calls[0] = MANY
    while not clock.slept:
        await asyncio.sleep(0)
    assert together.begun
    calls[0] = 0
    await passes(3)
    rests = len(clock.slept)
    assert not together.begun
    await passes(20)
    pace.stop()
    assert len(clock.slept) == rests


async def test_stopped_it_does_nothing_more() -> None:
    clock = Clock()
    pace = Pace(lambda: MANY, Together(), clock=clock, sleep=clock.sleep)
    pace.start()
    pace.stop()
    pace.stop()
    await passes(20)
    assert clock.slept == []


async def test_started_twice_it_rests_once_a_pass() -> None:
    clock = Clock()
    pace = Pace(lambda: MANY, Together(), clock=clock, sleep=clock.sleep)
    pace.start()
    pace.start()
    await passes(20)
    pace.stop()
    assert len(clock.slept) <= 20


class Reader:
    """Remembers when it was fed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.fed_at: list[float] = []

    def feed(self, data: bytes) -> None:
        self.fed_at.append(self._clock.now)

    def abort(self) -> None: ...


async def test_what_came_is_taken_before_each_rest_and_what_waits_when_it_stops_goes_as_well() -> None:
    clock, together = Clock(), Together()
    reader = Reader(clock)
    pace = Pace(lambda: MANY, together, clock=clock, sleep=clock.sleep)
    assert not together.begun
    pace.start()
    assert together.begun
    rests = []
    for _ in range(10):
        rests.append(clock.now)
        together.packets.append((reader, b""))
        await passes(1)
    together.packets.append((reader, b""))
    pace.stop()
    assert reader.fed_at == [*rests, clock.now] and len(clock.slept) == 10
    assert not together.begun


async def test_a_pass_that_breaks_is_not_the_last() -> None:
    clock, together, turns, seen = Clock(), Together(), list[float](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))

    def breaks() -> None:
        turns.append(clock.now)
        raise RuntimeError("broken")

    together.turn = breaks  # type: ignore[method-assign]  # what should never happen
    pace = Pace(lambda: MANY, together, clock=clock, sleep=clock.sleep)
    pace.start()
    await passes(10)
    together.turn = lambda: None  # type: ignore[method-assign]
    pace.stop()
    assert len(turns) == len(clock.slept) == len(seen) >= 8


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_comes_during_a_rest_is_taken_before_the_next(loop: str) -> None:
    """Whatever the order in which a loop calls what was asked for and what it found ready."""
    ours, theirs = socket.socketpair()
    clock, together, rests = Clock(), Together(), list[int]()

    class Reading:
        def feed(self, data: bytes) -> None:
            rests.append(len(clock.slept))

        def abort(self) -> None: ...

    class Carrying(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            together.packets.append((Reading(), data))

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        theirs.send(b"a packet")

    async def work() -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(Carrying, sock=ours)
        pace = Pace(lambda: MANY, together, clock=clock, sleep=sleep)
        pace.start()
        while len(clock.slept) < 10:
            await asyncio.sleep(0)
        pace.stop()
        transport.close()

    with theirs:
        if loop == "uvloop":
            pytest.importorskip("uvloop").run(work())
        else:
            asyncio.run(work())
    assert rests[:9] == list(range(1, 10))
