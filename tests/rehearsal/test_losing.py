"""F07 to F09, F12, F13 and F19: a session is lost, or its time is up, in the middle of a call."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.sim import voices

from .scenes import HOURS, SATURDAY, Scene, Story, on_virtual_time, words_heard

EXPIRED = "Your session hit the maximum duration of 60 minutes."
ASKED = "You asked about our opening hours."
ENDS: dict[str, dict[str, Any]] = {
    "reset": {"drop": True},
    "1011": {"close": {"code": 1011, "reason": "internal error"}},
    "1001": {"close": {"code": 1001, "reason": "going away"}},
    "1000": {"close": {"code": 1000, "reason": ""}},
}


@on_virtual_time
@pytest.mark.parametrize("how", ENDS)
async def test_f07_lost_in_mid_sentence_what_came_is_heard_and_the_agent_goes_on(how: str) -> None:
    script = {
        "connections": [
            # 5 s of the answer are there after 1 s; then it is gone
            {"on": 1, "steps": [{"after_type": "response.output_audio.delta", "nth": 36, **ENDS[how]}]},
            {"on": 2, "answers": [SATURDAY]},
        ]
    }
    async with Scene(script) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 2
        assert wait.longest_silence_ms <= 1000
        assert not story.heard_clip("filler") and not story.heard_clip("apology")
        # seeded as heard: the cut answer to the last word that came, and the question
        seeded = story.seeded(2)
        assert seeded[0] == ("assistant", "output_text", scene.settings.agents["front-desk"].local["greeting"])
        assert seeded[1] == ("user", "input_text", voices.CLIPS["opening-hours"])
        role, kind, text = seeded[2]
        assert (role, kind) == ("assistant", "output_text")
        assert f"{ASKED} {HOURS} {SATURDAY}".startswith(text) and len(ASKED) < len(text) < len(f"{ASKED} {HOURS}")
        # it goes on by itself, once
        asked = scene.events("response.create", connection=2)
        assert len(asked) == 1 and "Go on from the last words" in asked[0]["response"]["instructions"]
        assert words_heard(story).count(SATURDAY) == 1 and words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f07_no_other_session_can_be_had_what_came_is_heard_then_fillers_then_the_apology() -> None:
    gone = {"after_type": "response.output_audio.delta", "nth": 36, "drop": True}
    async with Scene({"connections": [{"on": 1, "steps": [gone]}, {"refuse": {"status": 502}}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert "nine" in words_heard(story)
        assert story.heard_clip("apology") == 1
        await story.holds()


@on_virtual_time
async def test_f07_an_outage_of_four_seconds_is_bridged() -> None:
    gone = {"after_type": "response.output_audio.delta", "nth": 36, "drop": True}
    down = {"on": [2, 3, 4], "refuse": {"status": 502}}
    async with Scene({"connections": [{"on": 1, "steps": [gone]}, down, {"answers": [SATURDAY]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert SATURDAY in words_heard(story)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("outage", [0, 2, 3])
async def test_f08_lost_while_the_caller_speaks_no_word_is_lost(outage: int) -> None:
    """Three refusals last two seconds: the caller has long finished when somebody listens again."""
    gone = {"after_type": "input_audio_buffer.speech_started", "nth": 1, "drop": True}
    refused = {"on": list(range(2, 2 + outage)) or [99], "refuse": {"status": 503}}
    async with Scene({"connections": [{"on": 1, "steps": [gone]}, refused]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert scene.witness.share_of("opening-hours") == 1.0
        assert ("caller", voices.CLIPS["opening-hours"]) in story.transcript()
        assert words_heard(story).count(ASKED) == 1, "answered once"
        assert wait.longest_silence_ms <= 1600
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("after_ms", [600, 1200, 1800, 2200, 2600, 3000])
async def test_f08_whenever_it_is_lost_the_caller_is_understood_and_answered_once(after_ms: int) -> None:
    """From before the speech is noticed to after the answer began, against the start of what the caller says."""
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 5000 + after_ms, "drop": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(5.0 - story.leg.now_ms / 1000)
        await story.ask()
        wait = await story.answered()
        assert scene.witness.share_of("opening-hours") == 1.0
        if not any("Go on from" in str(event) for event in scene.events("response.create", connection=2)):
            assert words_heard(story).count(ASKED) == 1
        assert wait.longest_silence_ms <= 2000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f09_lost_while_nobody_speaks_nothing_is_heard_of_it() -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 8000, "drop": True}]}]}) as scene:
        story = await Story.greeted(scene)
        heard_ms = story.leg.heard_ms()
        await story.pass_s(10)
        assert len(story.sessions) == 2
        assert story.leg.heard_ms() == heard_ms
        assert story.seeded(2) == [("assistant", "output_text", words_heard(story))]
        assert not scene.events("response.create", connection=2)
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f12_a_session_is_succeeded_before_its_time_is_up() -> None:
    async with Scene({"connections": [{"on": 1, "max_session_s": 120}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        await story.pass_s(96 - story.leg.now_ms / 1000)
        heard_ms = story.leg.heard_ms()
        await story.pass_s(30)
        assert story.leg.heard_ms() == heard_ms, "the caller heard something of it"
        assert [type(one) for one in story.requests].count(do.SwitchModel) == 1
        assert not story.errors(), "it was not left in time"
        assert not any(isinstance(fact, ev.ModelLost) for fact in story.facts)
        told = [(role, text) for role, _, text in story.seeded(2)]
        assert told == [("assistant" if role == "agent" else "user", text) for role, text in story.transcript()]
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f12_the_successor_waits_for_the_end_of_the_turn() -> None:
    async with Scene({"connections": [{"on": 1, "max_session_s": 120}]}) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(95 - story.leg.now_ms / 1000)
        await story.ask()  # 96 s is in the middle of it
        wait = await story.answered()
        (switched,) = [
            step.at_ms
            for step in scene.watch(story.leg).steps
            if any(isinstance(one, do.SwitchModel) for one in step.actions)
        ]
        assert wait.sounds[-1].ends_ms <= switched <= wait.sounds[-1].ends_ms + 500
        assert wait.longest_silence_ms <= 1000
        assert words_heard(story).endswith(SATURDAY)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("step", [{"expire": True}, {"close": {"code": 1001, "reason": EXPIRED}}])
async def test_f12_f13_a_session_that_ends_without_warning_is_replaced_at_once(step: dict[str, Any]) -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 8000, **step}]}]}) as scene:
        story = await Story.greeted(scene)
        heard_ms = story.leg.heard_ms()
        await story.pass_s(6)
        assert len(story.sessions) == 2
        assert story.leg.heard_ms() == heard_ms
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("step", [{"expire": True}, {"close": {"code": 1001, "reason": EXPIRED}}])
async def test_f12_f13_in_mid_sentence_too(step: dict[str, Any]) -> None:
    dies = {"after_type": "response.output_audio.delta", "nth": 36, **step}
    async with Scene({"connections": [{"on": 1, "steps": [dies]}, {"on": 2, "answers": [SATURDAY]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert wait.longest_silence_ms <= 1000
        assert words_heard(story).count(ASKED) == 1 and words_heard(story).count(SATURDAY) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f19_half_open_while_nobody_speaks_is_found_within_ten_seconds() -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 8000, "half_open": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(20 - story.leg.now_ms / 1000)
        (lost,) = [step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.ModelLost)]
        assert lost <= 18_300
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f19_half_open_before_the_caller_speaks_they_are_heard_all_the_same() -> None:
    async with Scene({"connections": [{"on": 1, "steps": [{"after_ms": 5000, "half_open": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(6 - story.leg.now_ms / 1000)
        await story.ask()
        await story.answered()
        assert scene.witness.share_of("opening-hours") == 1.0
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f19_half_open_when_an_answer_is_due_is_found_within_four_seconds() -> None:
    script = {"connections": [{"on": 1, "first_audio_ms": 3000, "steps": [{"after_ms": 10_000, "half_open": True}]}]}
    async with Scene(script) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(7.0 - story.leg.now_ms / 1000)
        await story.ask()
        wait = await story.answered()
        (lost,) = [step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.ModelLost)]
        (stopped,) = [
            step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.CallerSpeechStopped)
        ][:1]
        assert lost - stopped <= 4000
        assert wait.longest_silence_ms <= 2000
        assert scene.witness.share_of("opening-hours") == 1.0
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f19_half_open_just_as_the_caller_ends() -> None:
    """The end of their turn is never told: the bystander notices."""
    dies = {"after_type": "input_audio_buffer.speech_stopped", "half_open": True}
    async with Scene({"connections": [{"on": 1, "steps": [dies]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        (lost,) = [step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.ModelLost)]
        assert lost - wait.since_ms <= 4500
        assert wait.longest_silence_ms <= 2600
        assert scene.witness.share_of("opening-hours") == 1.0
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()
