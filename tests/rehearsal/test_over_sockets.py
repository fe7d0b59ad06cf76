"""What the kernel makes of a reset: the one fault that memory cannot play, over TCP and on the real clock."""

from __future__ import annotations

from bridge.errors import EndReason
from bridge.sim import voices

from .scenes import SATURDAY, Scene, Story, words_heard


async def test_f07_a_reset_in_mid_sentence_over_tcp() -> None:
    gone = {"after_type": "response.output_audio.delta", "nth": 36, "drop": True}
    async with Scene({"connections": [{"on": 1, "steps": [gone]}, {"on": 2, "answers": [SATURDAY]}]}) as scene:
        story = await Story.greeted(scene)
        await story.ask()
        await story.answered(1500)
        assert len(story.sessions) == 2
        assert "model_lost" in story.notes
        told = story.seeded(2)
        assert [role for role, _, _ in told] == ["assistant", "user", "assistant"]
        assert told[1][2] == voices.CLIPS["opening-hours"]
        assert words_heard(story).count(SATURDAY) == 1
        assert not story.heard_clip("apology")
        story.leg.hang_up()
        assert await scene.reason(story.leg) is EndReason.CALLER_LEFT
        await story.pass_s(1.0)
        assert scene.model.sessions == 0
