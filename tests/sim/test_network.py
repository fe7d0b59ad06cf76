from __future__ import annotations

import asyncio
import itertools

from bridge.sim.network import FrameFate, Network, Pipe

from .double import on_virtual_time


class Arrivals:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.seen: list[tuple[float, object]] = []

    def __call__(self, thing: object) -> None:
        self.seen.append((round((self.loop.time() - self.began) * 1000, 3), thing))


@on_virtual_time
async def test_without_delay_things_arrive_at_once() -> None:
    arrivals = Arrivals()
    pipe: Pipe[str] = Pipe(arrivals)
    pipe.send("a")
    assert arrivals.seen == [(0, "a")]


@on_virtual_time
async def test_latency_delays_each_thing_by_the_same() -> None:
    arrivals = Arrivals()
    pipe: Pipe[str] = Pipe(arrivals, latency_ms=60)
    pipe.send("a")
    await asyncio.sleep(0.02)
    pipe.send("b")
    await asyncio.sleep(1)
    assert arrivals.seen == [(60, "a"), (80, "b")]


@on_virtual_time
async def test_jitter_keeps_the_order_and_repeats_with_its_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        arrivals = Arrivals()
        pipe: Pipe[int] = Pipe(arrivals, latency_ms=60, jitter_ms=20, seed=seed)
        for number in range(50):
            pipe.send(number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert [thing for _, thing in arrivals.seen] == list(range(50))
        delays = [at - 20 * number for number, (at, _) in enumerate(arrivals.seen)]
        assert 40 <= min(delays) < 50
        assert 70 < max(delays) <= 80
        runs.append(arrivals.seen)
    assert runs[0] == runs[1] != runs[2]


@on_virtual_time
async def test_a_stall_holds_everything_back_and_then_lets_it_go_at_once() -> None:
    arrivals = Arrivals()
    pipe: Pipe[str] = Pipe(arrivals, latency_ms=10)
    pipe.send("before")
    await asyncio.sleep(0.005)
    pipe.stall(500)
    pipe.send("during")
    await asyncio.sleep(0.6)
    pipe.send("after")
    await asyncio.sleep(0.1)
    assert arrivals.seen == [(505, "before"), (505, "during"), (615, "after")]


@on_virtual_time
async def test_a_half_open_line_swallows_everything() -> None:
    arrivals = Arrivals()
    pipe: Pipe[str] = Pipe(arrivals, latency_ms=10)
    pipe.send("under way")
    pipe.half_open()
    pipe.send("later")
    await asyncio.sleep(1)
    assert arrivals.seen == []


def test_frames_are_lost_doubled_and_swapped_in_the_given_shares() -> None:
    fate = FrameFate(Network(lost=0.1, doubled=0.05, swapped=0.05, seed=3))
    sent: list[str] = []
    for number in range(4000):
        if not fate.loses():
            sent += fate.ways(str(number))
    sent += fate.ways("4000")  # lets go of a frame that waits for its successor
    assert 300 < fate.lost < 500
    assert 130 < fate.doubled < 270
    assert 130 < fate.swapped < 270
    swaps = sum(int(b) < int(a) for a, b in itertools.pairwise(sent))
    assert swaps == fate.swapped
    assert len(sent) == 4001 - fate.lost + fate.doubled


def test_a_line_without_faults_says_so() -> None:
    assert FrameFate(Network(latency_ms=100, jitter_ms=5)).quiet
    assert not FrameFate(Network(swapped=0.1)).quiet
