"""What a session is told that follows a lost one: the conversation as it was heard, and nothing of it touched again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.toolcalls import STILL_RUNNING
from bridge.errors import EndReason
from bridge.rehearsal.listening import waits
from bridge.sim import voices

from .scenes import Scene, Story, on_virtual_time, words_heard

GREETING = "Hello, this is the front desk. How can I help you?"
PRICES = "You asked about our prices. A visit costs twenty five dollars. Children pay half."
LOOKS_UP: dict[str, Any] = {
    "tools": [
        "hang_up",
        "transfer",
        {
            "name": "look_up",
            "description": "Looks something up.",
            "python": "tests.rehearsal.test_memory:look_up",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
            "timeout_s": 30,
        },
    ],
    "local": {
        "intents": [
            {
                "name": "opening hours",
                "phrases": ["what are your opening hours"],
                "tool": {"name": "look_up", "arguments": {"what": "hours"}},
                "answer": "On Saturday we are open until noon, and on Sunday we are closed.",
            },
            {
                "name": "goodbye",
                "phrases": ["that is all"],
                "answer": "Thank you for calling. Goodbye.",
                "then": "hang_up",
            },
        ]
    },
}


async def look_up(arguments: dict[str, Any], call: object) -> dict[str, str]:
    await asyncio.sleep(4)
    return {"found": arguments["what"]}


@on_virtual_time
async def test_an_interrupted_answer_is_told_as_far_as_it_was_heard() -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 30_000, "drop": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.leg.wait_until_agent_speaks()
        await story.pass_s(3)
        await story.ask("interruption")
        await story.answered(2000)
        await story.pass_s(31 - story.leg.now_ms / 1000)
        told = story.seeded(2)
        assert [role for role, _, _ in told] == ["assistant", "user", "assistant", "user", "assistant"]
        assert told[1][2] == voices.CLIPS["opening-hours"] and told[3][2] == voices.CLIPS["interruption"]
        cut = told[2][2]
        assert cut.startswith("You asked about our opening hours. We are open") and "Monday" not in cut
        assert [(role, text) for role, _, text in told] == [
            ("assistant" if role == "agent" else "user", text) for role, text in story.transcript()
        ]
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_keys_and_tools_are_told_in_pairs() -> None:
    drops = {"on": 1, "steps": [{"after_ms": 25_000, "drop": True}]}
    async with Scene({"connections": [drops]}, agent=LOOKS_UP) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered(3000)
        await story.pass_s(26 - story.leg.now_ms / 1000)
        told = story.seeded(2)
        call, output = told[2], told[3]
        assert call[:2] == ("function_call", "look_up")
        assert output == ("function_call_output", '{"found": "hours"}', call[2])
        assert told[4][:2] == ("assistant", "output_text")
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_a_tool_that_runs_while_its_session_is_lost_is_not_run_again_and_its_answer_is_told() -> None:
    drops = {"on": 1, "steps": [{"after_ms": 8000, "drop": True}]}
    async with Scene({"connections": [drops, {"on": 2, "answers": [PRICES]}]}, agent=LOOKS_UP) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered(3000)
        assert sum(isinstance(one, do.RunTool) for one in story.requests) == 1
        told = story.seeded(2)
        assert ("function_call_output", STILL_RUNNING, told[2][2]) in told
        notes = [text for role, _, text in told if role == "system"]
        assert len(notes) == 1 and '{"found": "hours"}' in notes[0]
        assert len(scene.events("response.create", connection=2, direction="client")) == 1
        assert words_heard(story).count(PRICES) == 1
        assert wait.longest_silence_ms <= 3000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("after_ms", range(500, 12_000, 1100))
async def test_whenever_the_session_is_lost_nothing_is_told_that_was_not_heard(after_ms: int) -> None:
    """A whole conversation, cut at another moment each time: greeting, question, answer, interruption, keys."""
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 4000 + after_ms, "drop": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.leg.wait_until_agent_speaks()
        await story.pass_s(2)
        await story.ask("interruption")
        await story.leg.wait_until_agent_speaks()
        story.leg.press("3#")
        await story.answered()
        told = [(role, text) for role, _, text in story.seeded(2)]
        heard = [("assistant" if role == "agent" else "user", text) for role, text in story.transcript() if text]
        for role, text in told:
            same = [one for who, one in heard if who == role and (one.startswith(text) or text.startswith(one))]
            assert same or role == "system", f"{text!r} was told and never said"
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("moment_ms", [0, 50, 1500, 5000])
async def test_the_session_is_closed_within_a_second_of_the_callers_hanging_up(moment_ms: int) -> None:
    """While it opens, greets, is silent or answers."""
    async with Scene({"created_delay_ms": 300}) as scene:
        story = await Story.begin(scene)
        leg = story.leg
        await story.pass_s(moment_ms / 1000)
        leg.hang_up()
        hung_up = asyncio.get_running_loop().time()
        assert await scene.reason(leg) is EndReason.CALLER_LEFT
        await story.pass_s(hung_up + 1.0 - asyncio.get_running_loop().time())
        assert scene.model.sessions == 0
        assert scene.service.switchboard.active_calls == 0


@on_virtual_time
async def test_the_session_is_closed_within_a_second_when_a_drop_and_a_hang_up_meet() -> None:
    async with Scene(
        {"connections": [{"on": 1, "steps": [{"after_ms": 5000, "drop": True}]}, {"created_delay_ms": 500}]}
    ) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(5.1 - story.leg.now_ms / 1000)
        story.leg.hang_up()
        await scene.reason(story.leg)
        await story.pass_s(1.0)
        assert scene.model.sessions == 0
        await story.holds()


@on_virtual_time
async def test_a_session_rolled_over_during_a_long_call_loses_nothing() -> None:
    """Sessions of a minute in a call of four: every question is answered."""
    async with Scene({"max_session_s": 60}) as scene:
        story = await Story.greeted(scene)
        for _ in range(6):
            await story.pass_s(25)
            await story.ask()
            wait = await story.answered()
            assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
            assert wait.longest_silence_ms <= 1000
        assert scene.model.connections >= 4
        assert not any(isinstance(fact, ev.ModelLost) for fact in story.facts)
        assert words_heard(story).count("You asked about our opening hours.") == 6
        assert max(wait.longest_silence_ms for wait in waits(story.leg)) <= 1000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()
