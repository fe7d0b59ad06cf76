"""What a caller had heard of an item, where the carrier never learnt that they had interrupted it."""

from __future__ import annotations

import asyncio

import pytest

from bridge.rehearsal.watch import Cut
from bridge.sim import voices
from bridge.sim.caller import Caller
from bridge.sim.leg import Leg
from bridge.sim.network import Network

from .scenes import Scene, on_virtual_time

FAR_MS = 300.0  # from the carrier to the service


async def interrupted(scene: Scene) -> Leg:
    """The model has just been told how much of the greeting was heard; the clear is on its way to the carrier."""
    leg = await scene.call(caller=Caller(network=Network(latency_ms=FAR_MS)))
    await leg.wait_until_heard(1500)
    leg.say(voices.clip("interruption"), label="interruption")
    while not scene.watch(leg).cuts(leg):
        await asyncio.sleep(0.01)
    assert not leg.clears
    return leg


@on_virtual_time
async def test_a_clear_that_the_end_of_the_call_overtook_leaves_what_was_played_until_then() -> None:
    async with Scene() as scene:
        leg = await interrupted(scene)
        leg.hang_up()
        hung_up_ms = leg.now_ms
        await asyncio.sleep(5)
        (cut,) = scene.watch(leg).cuts(leg)
        assert not leg.clears
        assert _heard(scene, leg, cut) == pytest.approx(cut.truth_ms)
        assert cut.truth_ms == pytest.approx(hung_up_ms - leg.media[0].plays_from / 8, abs=1)


@on_virtual_time
async def test_a_clear_that_was_lost_on_the_line_leaves_all_that_was_buffered_to_be_heard() -> None:
    async with Scene() as scene:
        leg = await interrupted(scene)
        assert leg.stream is not None
        leg.stream.half_open()
        await asyncio.sleep(2)
        (cut,) = scene.watch(leg).cuts(leg)
        assert not leg.clears
        assert cut.truth_ms == pytest.approx(_heard(scene, leg, cut))
        assert cut.error_ms < -50
        leg.hang_up()


@on_virtual_time
async def test_what_a_lost_session_said_is_its_items_to_the_last_piece() -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_type": "response.done", "drop": True}]}]}) as scene:
        leg = await scene.call()
        await leg.wait_until_heard(1000)
        await leg.wait_until_quiet(700)
        entry = scene.watch(leg).driver.call.state.transcript.entries[0]
        played_ms = sum(stop - start for start, stop in scene.watch(leg).played(entry.item_id, leg))
        assert entry.foreign and played_ms == pytest.approx(entry.received_ms, abs=1)
        leg.hang_up()


def _heard(scene: Scene, leg: Leg, cut: Cut) -> float:
    return sum(stop - start for start, stop in scene.watch(leg).played(cut.item_id, leg))
