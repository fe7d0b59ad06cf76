from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.audio.wav import WavWriter
from bridge.sim import voices
from bridge.sim.actor import caller_of, perform
from bridge.sim.measures import measure
from bridge.sim.outcome import AgentTurn, Cut, Gap, Outcome, ToolCall, Truncation, of_leg, picture, with_words
from bridge.sim.scenario import from_dict
from tests.sim.double import Bridge, Stream, on_virtual_time

WORDS = voices.CLIPS["interruption"]
COUGH = voices.CLIPS["goodbye"]


async def agent(stream: Stream) -> None:
    """Speaks with a hole in it, is cut short, and speaks again at once."""
    await stream.play(500)
    await asyncio.sleep(0.6)  # the buffer was dry for 100 ms
    await stream.play(3000)
    await stream.mark("m")
    await asyncio.sleep(0.5)
    await stream.clear()
    await asyncio.sleep(0.1)  # not a gap: the bridge wanted it quiet
    await stream.play(1000)


async def outcome() -> Outcome:
    scene = from_dict(
        {
            "about": "x",
            "caller": [
                {"say": WORDS, "at_ms": 900},
                {"say": COUGH, "meant": False, "at_ms": 4000},
                {"dtmf": "7", "at_ms": 7000},
                {"hang_up": True, "at_ms": 9000},
            ],
            "faults": [{"stall_ms": 300, "at_ms": 8000}],
        },
        source="scene.yaml",
    )
    async with Bridge(act=agent) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(to="+1", from_="+2", caller=caller_of(scene, seed=0))
        stream = await bridge.stream()
        await stream.socket.send_bytes(b"x")
        performance = await perform(scene, leg)
        return of_leg(scene, leg, performance, seed=4, number=2)


@on_virtual_time
async def test_an_outcome_holds_what_the_carrier_knows() -> None:
    found = await outcome()
    assert (found.name, found.seed, found.number, found.status) == ("scene", 4, 2, "completed")
    assert found.length_ms == pytest.approx(9000, abs=1)
    assert len(found.caller) == len(found.agent) == found.length_ms * 8
    assert found.stream_from_ms == 0
    assert [(turn.words, turn.meant, turn.understood) for turn in found.caller_turns] == [
        (WORDS, True, None),
        (COUGH, False, None),
    ]
    assert found.gaps == (Gap(500, 100),)
    assert found.cuts == (Cut(1100, 1000, 2500),)
    assert [(round(t.start_ms), round(t.stop_ms)) for t in found.agent_turns] == [(0, 2200)]
    assert [(round(s.start_ms), round(s.stop_ms)) for s in found.agent_sounds] == [(0, 2200)]
    assert any(complaint.startswith("31950 ") for complaint in found.complaints)
    assert [sign.kind for sign in found.signs if sign.kind != "mark"] == ["clear", "key", "fault", "note"]
    assert "hang_up" in found.timeline
    assert measure(found).barge_ins == 1


@on_virtual_time
async def test_the_same_words_may_be_meant_in_one_step_and_not_in_another(tmp_path: Path) -> None:
    wav = WavWriter(tmp_path / "huh.wav", 8000, 1)
    wav.write(b"\x00\x20" * 800)
    wav.close()
    scene = from_dict(
        {
            "caller": [
                {"say": WORDS, "meant": False, "at_ms": 100},
                {"say": WORDS, "at_ms": 3000},
                {"wav": "huh.wav", "at_ms": 6000},
                {"wav": "huh.wav", "meant": False, "at_ms": 7000},
                {"hang_up": True, "at_ms": 8000},
            ],
        },
        source=str(tmp_path / "scene.yaml"),
    )
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(to="+1", from_="+2", caller=caller_of(scene, seed=0))
        found = of_leg(scene, leg, await perform(scene, leg))
    assert [(turn.words, turn.meant) for turn in found.caller_turns] == [
        (WORDS, False),
        (WORDS, True),
        ("huh.wav", True),
        ("huh.wav", False),
    ]


@on_virtual_time
async def test_the_services_account_is_laid_beside_it_and_drawn() -> None:
    found = await outcome()
    turns = [
        AgentTurn(0, 1100, "We are open from nine", "We are open", unheard_ms=2500),
        AgentTurn(1200, 2200, "Here.", "Here."),
    ]
    told = replace(
        with_words(found, turns, ["sorry wait where are you"]),
        tools=(ToolCall(2000, "transfer"),),
        truncations=(Truncation(1100, "item", 1000, 1000),),
        end_reason="caller_left",
    )
    assert [turn.understood for turn in told.caller_turns] == ["sorry wait where are you", None]
    shown = " ".join(element.text or "" for element in ET.fromstring(picture(told)).iter())
    for expected in (
        "We are",
        "Here.",
        "transfer",
        "told 1000 ms, heard 1000 ms",
        "stall for 300 ms",
        "key 7",
        "caller left",
    ):
        assert expected in shown, expected


@on_virtual_time
async def test_a_pause_between_two_speeches_is_no_gap_and_one_within_a_speech_is() -> None:
    found = await outcome()
    assert with_words(found, [AgentTurn(0, 1100, "One."), AgentTurn(1200, 2200)], []).gaps == (Gap(500, 100),)
    assert with_words(found, [AgentTurn(0, 500, "One."), AgentTurn(600, 1100, "Two.")], []).gaps == ()


def test_what_nobody_understood_is_empty_and_not_unknown() -> None:
    silent = np.zeros(0, np.int16)
    base = Outcome("x", 0, silent, silent, None, "completed")
    assert with_words(base, [], []).caller_turns == ()
