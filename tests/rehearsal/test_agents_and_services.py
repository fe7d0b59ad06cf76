"""The same faults for agents that behave otherwise, and for services of other kinds."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import EndReason
from bridge.sim.caller import Caller
from bridge.sim.network import Network

from .scenes import SATURDAY, Scene, Story, on_virtual_time, words_heard

ASKED = "You asked about our opening hours."
AGENTS: dict[str, dict[str, Any]] = {
    "interrupted at once": {},
    "interrupted after 300 ms": {"barge_in": {"after_ms": 300}},
    "never interrupted": {"barge_in": "off"},
    "greeting protected": {"greeting_protected": True},
    "mu-law all the way": {"audio": "pcmu"},
    "frames of 60 ms": {"uplink_frame_ms": 60},
}
DROPS_IN_SPEECH = {"on": 1, "steps": [{"after_type": "input_audio_buffer.speech_started", "nth": 1, "drop": True}]}
DROPS_IN_ANSWER = {"on": 1, "steps": [{"after_type": "response.output_audio.delta", "nth": 36, "drop": True}]}
FAULTS: dict[str, Any] = {
    "lost in speech": {"connections": [DROPS_IN_SPEECH]},
    "lost in the answer": {"connections": [DROPS_IN_ANSWER, {"on": 2, "answers": [SATURDAY]}]},
    "no answer": {"responses": [{"nth": 2, "silent": True}]},
    "half-open": {"connections": [{"on": 1, "steps": [{"after_ms": 4600, "half_open": True}]}]},
    "stuck detector": {"stuck_vad": [1]},
}


@on_virtual_time
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("agent", AGENTS)
async def test_every_agent_comes_through_it(agent: str, fault: str) -> None:
    async with Scene(FAULTS[fault], agent=AGENTS[agent]) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(4.7 - story.leg.now_ms / 1000)
        await story.ask()
        await story.answered()
        assert words_heard(story).count(ASKED) == 1
        assert words_heard(story).endswith(SATURDAY)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("line", [Network(latency_ms=80, jitter_ms=20, seed=7), Network(latency_ms=150, seed=8)])
async def test_over_every_line(line: Network, fault: str) -> None:
    async with Scene(FAULTS[fault]) as scene:
        leg = await scene.call(caller=Caller(network=line, noise_dbfs=-55))
        story = Story(scene, leg)
        await leg.streaming()
        await leg.wait_until_agent_speaks()
        await leg.wait_until_quiet(700)
        await story.pass_s(max(0.0, 5.2 - leg.now_ms / 1000))
        await story.ask()
        await story.answered()
        assert words_heard(story).endswith(SATURDAY)
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds(dead_air_ms_most=3000 + 4 * line.latency_ms)


@on_virtual_time
@pytest.mark.parametrize(
    ("profile", "code"),
    [
        ("meshapi", "service_draining"),
        ("meshapi", "idle_timeout"),
        ("meshapi", "session_duration_exceeded"),
        ("meshapi", "session_token_cap_exceeded"),
        ("meshapi", "upstream_error"),
        ("meshapi", "internal_error"),
        ("openai", "session_expired"),
    ],
)
async def test_an_error_after_which_the_service_closes_is_followed_by_another_session(profile: str, code: str) -> None:
    """MeshAPI tells an error in words and then closes, with a code that means nothing."""
    told = {"type": "error", "error": {"code": code, "message": "ends here"}, "request_id": "req_1"}
    steps = [{"after_ms": 5000, "send": told}, {"after_ms": 5010, "close": {"code": 1008, "reason": ""}}]
    async with Scene({"connections": [{"on": 1, "steps": steps}]}, profile=profile) as scene:
        story = await Story.greeted(scene)
        await story.pass_s(6 - story.leg.now_ms / 1000)
        await story.ask()
        wait = await story.answered()
        assert wait.first_sound_ms is not None and wait.first_sound_ms <= 1000
        assert scene.model.connections == 2
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("code", ["insufficient_quota", "spend_limit_exceeded", "feature_not_enabled"])
async def test_an_error_that_no_other_session_helps_ends_in_the_apology(code: str) -> None:
    told = {"type": "error", "error": {"code": code, "message": "ends here"}, "request_id": "req_1"}
    steps = [{"after_ms": 5000, "send": told}, {"after_ms": 5010, "close": {"code": 1011, "reason": ""}}]
    async with Scene({"connections": [{"on": 1, "steps": steps}]}, profile="meshapi") as scene:
        story = await Story.greeted(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert story.heard_clip("apology") == 1
        assert scene.model.connections == 1
        await story.holds()


@on_virtual_time
async def test_a_beta_client_meets_a_service_that_has_dropped_the_shape() -> None:
    """The next service takes the call; without one the caller hears the apology, not silence."""
    async with Scene({"refuse_beta": True}, profile="openai-beta") as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert story.begins("apology") <= 1500
        await story.holds()


@on_virtual_time
async def test_a_service_that_refuses_the_sessions_configuration_is_not_spoken_to() -> None:
    """The model on this machine knows no xAI shape, and says so."""
    async with Scene({}, profile="xai") as scene:
        story = await Story.begin(scene)
        assert await scene.reason(story.leg) is EndReason.MODEL_REFUSED
        assert story.begins("apology") <= 3500
        await story.holds()


@on_virtual_time
@pytest.mark.parametrize("profile", ["openai-beta", "yuhuan", "azure-preview", "speaches", "localai"])
async def test_other_shapes_come_through_a_drop(profile: str) -> None:
    async with Scene({"connections": [DROPS_IN_SPEECH]}, profile=profile) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert scene.witness.share_of("opening-hours") == 1.0
        assert words_heard(story).count(ASKED) == 1
        story.leg.hang_up()
        assert await scene.reason(story.leg) is EndReason.CALLER_LEFT
        await story.holds()


@on_virtual_time
async def test_a_gateway_that_leaves_out_half_of_the_events_comes_through_a_drop() -> None:
    script = {"connections": [{**DROPS_IN_SPEECH, "profile": "speech-to-speech"}, {"profile": "speech-to-speech"}]}
    async with Scene(script, profile="speech-to-speech") as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered()
        assert words_heard(story).count(ASKED) == 1
        assert await story.say_goodbye() is EndReason.AGENT_HUNG_UP
        await story.holds()
