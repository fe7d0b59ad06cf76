from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.audio.wav import WavWriter
from bridge.sim import voices
from bridge.sim.actor import Performance, caller_of, perform, utterance
from bridge.sim.leg import Leg
from bridge.sim.scenario import Scenario, from_dict
from tests.sim.double import Bridge, Stream, on_virtual_time

WORDS = voices.CLIPS["opening-hours"]


LISTENS = {"silence": 60_000}


def scenario(*steps: dict[str, Any], **more: Any) -> Scenario:
    return from_dict({"caller": list(steps) or [LISTENS], **more}, source="test.yaml")


async def acted(scene: Scenario, act: Any = None) -> tuple[Leg, Performance, Stream]:
    async with Bridge(act=act) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(to="+1", from_="+2", caller=caller_of(scene, seed=scene.seed))
        performance = await perform(scene, leg)
        await bridge.streams[0].closed.wait()
        return leg, performance, bridge.streams[0]


async def greets(stream: Stream) -> None:
    await stream.play(1000)


async def answers(stream: Stream) -> None:
    """Greets, and answers five seconds later for four seconds."""
    await stream.play(1000)
    await asyncio.sleep(5)
    await stream.play(4000)


@on_virtual_time
async def test_a_caller_waits_for_the_agent_to_have_spoken_and_to_be_quiet() -> None:
    leg, performance, _ = await acted(scenario({"say": WORDS}, {"hang_up": True}), answers)
    first, second = performance.done
    assert first.start_ms == pytest.approx(1700, abs=20)
    assert first.stop_ms - first.start_ms == pytest.approx(
        len(leg.line.spoken[0].label and voices.say(WORDS)) / 8, abs=1
    )
    assert second.start_ms == pytest.approx(9000 + 700, abs=5)
    assert performance.undone == []
    assert not performance.timed_out


@on_virtual_time
async def test_who_gets_no_answer_goes_on_after_a_while() -> None:
    _, performance, _ = await acted(scenario({"dtmf": "1"}, {"hang_up": True}, limit_s=60))
    assert [step.start_ms for step in performance.done] == pytest.approx([10_000, 20_000], abs=1)


@on_virtual_time
async def test_steps_can_have_their_moment_in_the_call_or_in_the_agents_speech() -> None:
    scene = scenario(
        {"dtmf": "12", "at_ms": 300, "every_ms": 100},
        {"say": WORDS, "into_agent_ms": 2500},
        {"hang_up": True, "plus_ms": 1000, "after": "agent_quiet"},
    )

    async def act(stream: Stream) -> None:
        await asyncio.sleep(1)
        await stream.play(5000)

    _, performance, stream = await acted(scene, act)
    keys, words, end = performance.done
    assert (keys.start_ms, keys.stop_ms) == pytest.approx((300, 400))
    assert words.start_ms == pytest.approx(3500, abs=21)
    assert end.start_ms == pytest.approx(6000 + 700 + 1000, abs=5)
    assert [message["dtmf"]["digit"] for message in stream.of("dtmf")] == ["1", "2"]


@on_virtual_time
async def test_only_the_agents_present_speech_counts_for_how_far_into_it_one_is() -> None:
    async def act(stream: Stream) -> None:
        await stream.play(1000)
        await asyncio.sleep(3)
        await stream.play(4000)

    scene = scenario({"dtmf": "1", "at_ms": 2500}, {"dtmf": "2", "into_agent_ms": 1500}, {"hang_up": True})
    _, performance, _ = await acted(scene, act)
    assert performance.done[1].start_ms == pytest.approx(4500, abs=1)


@on_virtual_time
async def test_silence_is_kept_and_what_follows_waits_for_quiet_only() -> None:
    _, performance, _ = await acted(scenario({"silence": 4000}, {"hang_up": True}), greets)
    assert performance.done[0].stop_ms == pytest.approx(4000)
    assert performance.done[1].start_ms == pytest.approx(4700, abs=1)


@on_virtual_time
async def test_a_clear_is_an_occasion() -> None:
    async def act(stream: Stream) -> None:
        await stream.play(5000)
        await asyncio.sleep(2)
        await stream.clear()

    _, performance, _ = await acted(scenario({"hang_up": True, "after": "clear", "plus_ms": 100}), act)
    assert performance.done[0].start_ms == pytest.approx(2100, abs=1)


@on_virtual_time
async def test_steps_the_call_did_not_live_to_see_are_undone() -> None:
    async def act(stream: Stream) -> None:
        await stream.play(500)
        await asyncio.sleep(1)
        await stream.socket.close()

    leg, performance, _ = await acted(scenario({"say": WORDS}, {"hang_up": True}), act)
    assert performance.done == []
    assert performance.undone == [1, 2]
    assert leg.status == "completed"


@on_virtual_time
async def test_faults_whose_moment_never_came_are_missed_with_the_reason() -> None:
    async def act(stream: Stream) -> None:
        await asyncio.sleep(2)
        await stream.socket.close()

    scene = scenario(
        {"silence": 2200},
        {"hang_up": True},
        faults=[
            {"stall_ms": 100, "at_ms": 1000},
            {"cut": True, "at_ms": 2100},
            {"stall_ms": 100, "at_ms": 50_000},
            {"half_open": True, "after": "clear"},
        ],
    )
    async with Bridge(act=act) as bridge, bridge.carrier(after_close_s=1.0) as carrier:
        performance = await perform(scene, await carrier.place_call(to="+1", from_="+2"))
    assert performance.missed == {
        2: "no media stream was open then",
        3: "the call had ended",
        4: "the call had ended",
    }


@on_virtual_time
async def test_a_call_longer_than_the_limit_is_hung_up() -> None:
    leg, performance, _ = await acted(scenario(limit_s=5), greets)
    assert performance.timed_out
    assert leg.now_ms == pytest.approx(5000, abs=1)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ({"stall_ms": 800}, "stall"),
        ({"half_open": True}, "half_open"),
        ({"cut": True}, "cut"),
        ({"stop_reading_ms": 100}, "stop_reading"),
        ({"close_without_stop": 1001}, "close"),
    ],
)
@on_virtual_time
async def test_faults_happen_at_their_moment(fault: dict[str, Any], what: str) -> None:
    scene = scenario(faults=[{**fault, "after": "agent_speaks", "plus_ms": 200}], limit_s=5)
    async with Bridge(act=greets) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(to="+1", from_="+2", caller=caller_of(scene, seed=0))
        await perform(scene, leg)
    moment = next(moment for moment in leg.timeline.moments if moment.what == what)
    assert moment.at_ms == pytest.approx(200, abs=1)


def test_a_wav_file_is_said_whatever_its_rate_and_channels(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "tone.wav", 24000, 2)
    tone = (8000 * np.sin(np.arange(24000) / 10)).astype("<i2")
    writer.write(np.column_stack([tone, np.zeros_like(tone)]).tobytes())
    writer.close()
    scene = from_dict({"caller": [{"wav": "tone.wav"}]}, source=str(tmp_path / "scene.yaml"))
    assert len(utterance(scene, scene.caller[0], seed=0)) == pytest.approx(8000, abs=2)


def test_voice_and_line_of_the_file_reach_the_caller() -> None:
    scene = scenario(
        {"say": WORDS, "voice": {"level_dbfs": -30}},
        {"say": WORDS},
        voice={"level_dbfs": -20, "snr_db": 30},
        line={"latency_ms": 60, "jitter_ms": 5, "lost": 0.1, "noise_dbfs": -50, "suppress_silence": True},
    )
    assert utterance(scene, scene.caller[0], seed=1) != utterance(scene, scene.caller[1], seed=1)
    caller = caller_of(scene, seed=7)
    assert (caller.network.latency_ms, caller.network.jitter_ms, caller.network.lost) == (60, 5, 0.1)
    assert (caller.noise_dbfs, caller.suppress_silence, caller.network.seed) == (-50, True, 7)
