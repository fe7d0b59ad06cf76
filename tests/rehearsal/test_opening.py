"""F01 to F06 and F14: a model session cannot be had, or not at once, while the caller is on the line."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.rehearsal.listening import waits

from .scenes import FILLER_MS, Scene, Story, on_virtual_time

REFUSED_KEY = {"refuse": {"status": 401, "body": "no"}}
BUSY: dict[str, Any] = {"refuse": {"status": 429, "headers": {"Retry-After": "1"}}}
DOWN: dict[str, Any] = {"refuse": {"status": 503}}


async def apologised_after(story: Story) -> float:
    """Ms from the first frame to the apology's first sound; the call has ended after it."""
    await story.leg.ended()
    apology = story.begins("apology")
    assert story.heard_clip("apology") == 1
    return apology


@on_virtual_time
async def test_f01_nobody_listens_the_caller_hears_the_filler_then_the_apology() -> None:
    async with Scene() as scene:
        await scene.model.stop()
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        (wait,) = waits(story.leg)
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= FILLER_MS
        assert 5000 <= await apologised_after(story) <= 7000
        await story.holds()


@on_virtual_time
async def test_f01_a_service_that_comes_back_within_five_seconds_answers_the_call() -> None:
    async with Scene() as scene:
        port = scene.model.port
        await scene.model.stop()
        story = await Story.begin(scene)
        await story.pass_s(4.2)
        await scene.model.start(port=port)
        await story.answered(700)
        assert story.heard_clip("filler") and not story.heard_clip("apology")
        assert story.transcript() == [("agent", scene.settings.agents["front-desk"].local["greeting"])]
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f02_a_refused_key_is_not_tried_again_and_the_apology_comes_at_once() -> None:
    async with Scene(REFUSED_KEY) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert len(story.sessions) == 1 and scene.model.connections == 1
        assert await apologised_after(story) <= 1500
        await story.holds()


@on_virtual_time
async def test_f02_the_agents_fallback_follows_the_apology() -> None:
    async with Scene(REFUSED_KEY, agent={"fallback": {"transfer": "operator"}}) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert [one.target for one in story.leg.dialled] == ["+15550100"]
        await story.holds()


@on_virtual_time
async def test_f03_a_busy_service_is_asked_again_when_it_said_and_answers() -> None:
    async with Scene({"connections": [{"on": 1, **BUSY}]}) as scene:
        story = await Story.greeted(scene)
        greeting = waits(story.leg)[0]
        assert greeting.first_sound_ms is not None and greeting.first_sound_ms <= FILLER_MS + 100
        assert scene.model.connections == 2
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("wait", ["1", "2", "60", ""])
async def test_f03_a_service_that_stays_busy_is_given_up_within_three_seconds(wait: str) -> None:
    headers = {"Retry-After": wait} if wait else {}
    async with Scene({"refuse": {"status": 429, "headers": headers}}) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert len(story.sessions) == 2
        assert await apologised_after(story) <= 3000 + 1700  # a filler that plays is not cut off
        await story.holds()


@on_virtual_time
async def test_f03_with_another_service_nobody_waits_for_one_that_asks_for_long() -> None:
    busy = {"refuse": {"status": 429, "headers": {"Retry-After": "30"}}}
    async with Scene(busy, services={"second": None}) as scene:
        story = await Story.greeted(scene)
        greeting = waits(story.leg)[0]
        assert greeting.first_sound_ms is not None and greeting.first_sound_ms <= 200
        assert not story.heard_clip("filler")
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f04_a_service_with_errors_of_its_own_is_tried_for_five_seconds() -> None:
    async with Scene(DOWN) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert len(story.sessions) == 6
        assert 5000 <= await apologised_after(story) <= 7000
        await story.holds()


@on_virtual_time
async def test_f04_two_failures_are_not_even_noticed() -> None:
    async with Scene({"connections": [{"on": [1, 2], **DOWN}]}) as scene:
        story = await Story.greeted(scene)
        greeting = waits(story.leg)[0]
        assert greeting.first_sound_ms is not None and greeting.first_sound_ms <= 700
        assert not story.heard_clip("filler")
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("first", [DOWN, REFUSED_KEY, {"created_error": {"code": "insufficient_quota"}}])
async def test_the_agents_next_service_takes_the_call(first: dict[str, Any]) -> None:
    async with Scene(first, services={"second": None}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert story.sessions[-1][1] == 1
        assert "failover" in story.notes
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f05_a_slow_handshake_is_overtaken_by_a_second_attempt() -> None:
    async with Scene({"connections": [{"on": 1, "handshake_delay_ms": 4000}]}) as scene:
        story = await Story.greeted(scene)
        (greeting,) = waits(story.leg)
        assert greeting.first_sound_ms is not None and greeting.first_sound_ms <= FILLER_MS
        assert len(story.sessions) == 1 and scene.model.connections == 2
        await story.pass_s(3)
        assert scene.model.sessions == 1, "the attempt that lost was left open"
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f05_handshakes_that_never_end_are_given_up_after_five_seconds() -> None:
    async with Scene({"handshake_delay_ms": 60_000}) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert await apologised_after(story) <= 7000
        await story.holds()


@on_virtual_time
async def test_f06_a_socket_without_a_session_is_given_up_after_three_seconds() -> None:
    async with Scene({"connections": [{"on": 1, "no_created": True}]}) as scene:
        story = await Story.greeted(scene)
        lost = [step.at_ms for step in scene.watch(story.leg).steps if isinstance(step.event, ev.ModelLost)]
        assert len(lost) == 1 and abs(lost[0] - 3000) < 100
        assert story.heard_clip("filler") == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f06_then_it_is_as_if_nobody_listened() -> None:
    async with Scene({"no_created": True}) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_UNAVAILABLE
        assert await apologised_after(story) <= 8000
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key", "model_not_found", "account_deactivated"])
async def test_f14_a_service_that_will_never_do_is_not_asked_twice(code: str) -> None:
    async with Scene({"created_error": {"code": code, "message": "no"}}) as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert scene.model.connections == 1
        assert await apologised_after(story) <= 1500
        await story.holds()


@on_virtual_time
async def test_f14_a_quota_that_is_gone_in_mid_call_ends_in_the_apology() -> None:
    script = {"responses": [{"nth": 2, "status": "failed", "code": "insufficient_quota"}]}
    async with Scene(script) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        wait = waits(story.leg)[-1]
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1500
        assert story.heard_clip("apology") == 1
        await story.holds()


@on_virtual_time
async def test_f14_or_in_the_agents_next_service_which_heard_the_question() -> None:
    script = {"responses": [{"nth": 2, "status": "failed", "code": "insufficient_quota"}]}
    async with Scene(script, services={"second": None}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1500
        assert story.transcript()[-1][0] == "agent" and "nine in the morning" in story.transcript()[-1][1]
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f02_f14_a_service_that_refused_one_call_is_not_asked_by_the_next() -> None:
    async with Scene(REFUSED_KEY, services={"second": None}) as scene:
        for number in (1, 2):
            story = await Story.begin(scene)
            await story.leg.wait_until_agent_speaks()
            assert scene.model.connections == 1, "it was asked again"
            assert scene.models["second"].connections == number
            story.leg.hang_up()
            assert await scene.reason(story.leg) is EndReason.CALLER_LEFT
        await story.pass_s(5)
        story = await Story.greeted(scene)
        assert scene.model.connections == 2, "it may be better by now"
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
async def test_f14_a_quota_that_ends_in_one_call_is_known_to_the_next_within_a_second() -> None:
    script = {"connections": [{"on": 1, "responses": [{"nth": 2, "status": "failed", "code": "insufficient_quota"}]}]}
    async with Scene(script) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.leg.wait_until_agent_speaks()  # the apology
        second = await Story.begin(scene)
        assert await scene.reason(second.leg) is EndReason.MODEL_REFUSED
        assert scene.model.connections == 1
        assert await apologised_after(second) <= 1000
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        await story.holds()


@on_virtual_time
async def test_f03_a_busy_service_is_left_alone_by_new_calls_for_as_long_as_it_asked() -> None:
    busy = {"on": 1, "refuse": {"status": 429, "headers": {"Retry-After": "4"}}}
    async with Scene({"connections": [busy]}, services={"second": None}) as scene:
        for _ in range(3):
            story = await Story.begin(scene)
            await story.leg.wait_until_agent_speaks()
        assert scene.model.connections == 1 and scene.models["second"].connections == 3
        await story.pass_s(5)
        story = await Story.greeted(scene)
        assert scene.model.connections == 2
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
