"""F10, F11, F15, F17, F18, F20 to F22: the session is there, and does not do what it should."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.rehearsal.listening import sounds
from bridge.sim import voices

from .scenes import HOURS, SATURDAY, Scene, Story, on_virtual_time, words_heard

ASKED = "You asked about our opening hours."
HARMLESS = (
    "response_cancel_not_active",
    "conversation_already_has_active_response",
    "input_audio_buffer_commit_empty",
    "item_truncate_invalid_item_id",
    "invalid_value",
    "rate_limit_exceeded",
    "server_error",
    "something_new_in_2031",
    "",
)


def envelope(code: str) -> dict[str, Any]:
    return {"type": "invalid_request_error", "code": code or None, "message": "said the service", "param": None}


@on_virtual_time
@pytest.mark.parametrize("code", HARMLESS)
async def test_f10_an_error_after_which_the_session_is_usable_is_not_heard(code: str) -> None:
    steps = [
        {"after_ms": 4500, "error": envelope(code)},  # nobody speaks
        {"after_type": "response.output_audio.delta", "nth": 30, "error": envelope(code)},  # in mid-sentence
    ]
    async with Scene({"steps": steps}) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(5.0 - story.leg.now_ms / 1000)
        await story.ask()
        wait = await story.answered()
        assert len(story.errors()) == 2
        assert len(story.sessions) == 1
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert wait.longest_silence_ms <= 1000
        assert words_heard(story).endswith(f"{ASKED} {HOURS} {SATURDAY}")
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("what", [{"error": "gone wrong"}, {"send_text": "{not json"}, {"send_binary": "00ff00ff"}])
async def test_f10_nor_is_an_error_in_no_known_shape(what: dict[str, Any]) -> None:
    async with Scene({"steps": [{"after_type": "response.output_audio.delta", "nth": 30, **what}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert len(story.sessions) == 1
        assert words_heard(story).endswith(SATURDAY)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f10_a_wish_that_meets_an_active_response_is_answered_once() -> None:
    """The service's words are held up for five seconds, so we ask for what it is saying already."""
    stall = {"after_type": "input_audio_buffer.speech_started", "stall_ms": 5000}
    async with Scene({"connections": [{"on": 1, "speed": 1.2, "steps": [stall]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        told = " ".join(story.errors())
        assert "conversation_already_has_active_response" in told
        assert len(story.sessions) == 1
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f11_a_server_error_on_every_response_rotates_the_session() -> None:
    failing = {"on": 1, "responses": [{"nth": list(range(2, 50)), "status": "failed", "code": "server_error"}]}
    async with Scene({"connections": [failing]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 2
        failed = [fact for fact in story.facts if isinstance(fact, ev.ResponseEnded) and fact.status == "failed"]
        assert len(failed) == 2
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1500
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f11_on_every_session_the_call_ends_with_an_apology() -> None:
    failing = {"status": "failed", "code": "server_error"}
    script = {"connections": [{"on": 1, "responses": [{"nth": 1}, failing]}, {"responses": [failing]}]}
    async with Scene(script) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert len(story.sessions) <= 6
        assert story.heard_clip("apology") == 1
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize(
    "how",
    [
        {"status": "failed", "code": "server_error"},
        {"status": "incomplete", "reason": "max_output_tokens"},
        {"status": "incomplete", "reason": "content_filter"},
    ],
)
async def test_f15_a_response_that_brings_nothing_is_asked_for_again(how: dict[str, Any]) -> None:
    async with Scene({"responses": [{"nth": 2, **how}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 1
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f15_a_response_cut_short_by_the_service_is_heard_as_far_as_it_came() -> None:
    rule = {"nth": 2, "status": "incomplete", "reason": "max_output_tokens", "stop_after_ms": 2000}
    async with Scene({"responses": [rule]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert len(story.sessions) == 1
        assert ASKED in words_heard(story) and SATURDAY not in words_heard(story)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f15_what_the_filter_takes_every_time_is_not_silence_nor_the_end_of_the_call() -> None:
    """The caller is asked to say it otherwise; what they say then is answered."""
    rule = {"nth": [2, 3], "status": "incomplete", "reason": "content_filter"}
    async with Scene({"responses": [rule, {"nth": 4, "answer": "I did not catch that."}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 1
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1500
        asked = scene.events("response.create", direction="client")[-1]
        assert "say it again" in asked["response"]["instructions"]
        await story.ask()
        await story.answered()
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f15_and_if_not_even_that_can_be_said_a_clip_says_it() -> None:
    rule = {"nth": [2, 3, 4], "status": "incomplete", "reason": "content_filter"}
    async with Scene({"responses": [rule]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert story.heard_clip("again") == 1
        assert wait.longest_silence_ms <= 1500
        await story.ask()
        await story.answered()
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f17_no_answer_the_filler_then_it_is_asked_again() -> None:
    async with Scene({"responses": [{"nth": 2, "silent": True}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 1
        assert story.heard_clip("filler") == 1
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 2100  # 1.5 s after the turn was over
        assert words_heard(story).count(ASKED) == 1
        assert wait.longest_silence_ms <= 2100
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f17_a_session_that_stays_silent_is_replaced() -> None:
    silent = {"on": 1, "responses": [{"nth": list(range(2, 50)), "silent": True}]}
    async with Scene({"connections": [silent]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 2
        (lost,) = [
            step.at_ms
            for step in scene.watch(story.leg).steps
            if any(isinstance(one, do.OpenModel) and one.session == 2 for one in step.actions)
        ]
        assert lost - wait.since_ms <= 8700
        spoke = [step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.ModelSpoke)]
        assert min(at_ms for at_ms in spoke if at_ms > lost) - lost <= 1500, "it was given the question"
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("wait_ms", [4500, 7000])
async def test_f17_a_service_that_is_slow_every_time_is_waited_for(wait_ms: int) -> None:
    async with Scene({"first_audio_ms": wait_ms}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 1
        assert not [one for one in story.requests if isinstance(one, do.CancelResponse)]
        assert words_heard(story).count(ASKED) == 1
        assert wait.longest_silence_ms <= 3000
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f17_a_service_that_never_speaks_at_all_ends_in_the_apology() -> None:
    async with Scene({"responses": [{"silent": True}]}) as scene:
        story = await Story.begin(scene)
        reason = await scene.reason(story.leg)
        assert reason is EndReason.MODEL_UNAVAILABLE
        assert story.heard_clip("apology") == 1
        await story.holds()


@on_virtual_time
async def test_f18_a_detector_that_misses_the_end_of_speech_is_overruled() -> None:
    async with Scene({"stuck_vad": [1]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert "speech_ended_by_hand" in story.notes
        assert scene.events("input_audio_buffer.commit", direction="client")
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 2700
        assert scene.witness.share_of("opening-hours") == 1.0
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f18_every_turn_if_need_be() -> None:
    async with Scene({"stuck_vad": True}) as scene:
        story = await Story.greeted(scene)
        for count in (1, 2):
            await story.ask()
            await story.answered()
            assert words_heard(story).count(ASKED) == count
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f20_events_twice_and_in_other_orders_say_nothing_twice() -> None:
    twice = [
        "response.created",
        "response.output_item.added",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_item.done",
        "response.done",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
    late = ["response.content_part.done", "response.output_audio.done", "conversation.item.done", "session.updated"]
    async with Scene({"duplicate": twice, "reorder": late}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        # not a sound more than a well-behaved service brings
        heard = sum(sound.ends_ms - sound.begins_ms for sound in wait.sounds)
        assert 9500 <= heard <= 10_700
        assert words_heard(story).endswith(f"{ASKED} {HOURS} {SATURDAY}")
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f20_a_cancelled_response_that_goes_on_is_not_heard() -> None:
    """The service ignores the cancel and sends all of it: seconds of sound after the clear, of which nothing plays."""
    agent = {"barge_in": {"after_ms": 200}}
    async with Scene({"ignore": ["response.cancel"], "speed": 1.2}, agent=agent) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.leg.wait_until_agent_speaks()
        await story.pass_s(3)
        story.leg.say(voices.clip("interruption"), label="interruption")
        await story.leg.wait_for(lambda: bool(story.leg.clears))
        cleared_ms = story.leg.now_ms
        await story.leg.wait_for(lambda: story.leg.line.silent)
        silent_ms = story.leg.now_ms
        late = [one for one in scene.wire if one.type == "response.output_audio.delta"]
        stale = [s for s in sounds(story.leg) if s.ends_ms > cleared_ms + 20 and s.begins_ms < silent_ms]
        assert not stale and len(late) > 20
        await story.answered()
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("speed", [1.0, 5.0, 100.0])
async def test_f21_sound_that_comes_faster_than_it_is_heard_is_paced(speed: float) -> None:
    async with Scene({"speed": speed, "delta_ms": 200}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        ahead = [moment.detail["ahead_ms"] for moment in story.leg.timeline.of("media", "bridge")]
        assert max(ahead) <= 400
        assert len(wait.sounds) == 1 and wait.longest_silence_ms <= 1000, "it was heard in one piece"
        assert not story.heard_clip("filler")
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("speed", [0.9, 0.6, 0.3])
async def test_f21_sound_that_comes_slower_has_gaps_and_at_most_one_filler(speed: float) -> None:
    async with Scene({"responses": [{"nth": 2, "speed": speed, "delta_ms": 400}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert story.heard_clip("filler") <= 1
        assert words_heard(story).endswith(SATURDAY)
        assert wait.longest_silence_ms <= 1600
        assert len(story.sessions) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f21_a_stall_in_mid_sentence_is_covered_by_one_filler() -> None:
    stall = {"after_type": "response.output_audio.delta", "nth": 30, "stall_ms": 8000}
    async with Scene({"steps": [stall]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered(4000)
        assert story.heard_clip("filler") >= 1
        await story.ask("goodbye")
        await scene.reason(story.leg)
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("nth", [2, [2, 3]])
async def test_f22_an_answer_in_writing_is_followed_by_a_session_that_has_the_history_in_its_instructions(
    nth: int | list[int],
) -> None:
    async with Scene({"connections": [{"on": 1, "responses": [{"nth": nth, "text_only": True}]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert len(story.sessions) == 2
        assert story.seeded(2) == [], "items would make it write again"
        (told,) = scene.events("session.update", direction="client", connection=2)
        assert "How can I help you?" in told["session"]["instructions"]
        assert told["session"]["instructions"].startswith(scene.settings.agents["front-desk"].instructions.strip()[:40])
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1500
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f22_every_response_is_asked_for_in_sound() -> None:
    async with Scene() as scene:
        story = await Story.greeted(scene)
        for event in scene.events("response.create", direction="client"):
            assert event.get("response", {}).get("output_modalities", ["audio"]) == ["audio"]
        (told,) = scene.events("session.update", direction="client")
        assert told["session"]["output_modalities"] == ["audio"]
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f16_a_limit_of_tokens_ends_the_call_with_a_goodbye_and_one_response_more() -> None:
    async with Scene(agent={"max_tokens": 2000}) as scene:
        story = await Story.greeted(scene)
        while not story.leg.over.done():
            await story.ask()
            await story.answered()
        assert await scene.reason(story.leg) is EndReason.TOKEN_LIMIT
        bills = [event["response"]["usage"]["total_tokens"] for event in scene.events("response.done")]
        assert sum(bills[:-1]) >= 2000 > sum(bills[:-2]), "one response more than the limit, which is the goodbye"
        assert words_heard(story).endswith("Goodbye.")
        await story.holds()
