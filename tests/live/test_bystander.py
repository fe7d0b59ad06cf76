"""The bystander: what it hears by loudness alone, and when it speaks up."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio.formats import MULAW_8K
from bridge.audio.g711 import encode_mulaw
from bridge.call import events as ev
from bridge.call.plan import SessionPlan, TurnDetection
from bridge.live.bystander import Bystander
from tests.live.calls import Running, begin, plan
from tests.live.test_driver import on_virtual_time

QUIET = b"\xff" * 160
LOUD = encode_mulaw((8000 * np.sin(np.arange(160) * 2 * np.pi * 300 / 8000)).astype("<i2").tobytes())


class Ear:
    """A bystander of a call, and what it said."""

    def __init__(self, call: Running) -> None:
        self.call = call
        self.bystander = Bystander(call.driver, MULAW_8K)
        self.said: list[str] = []
        call.driver.watch([self._note])

    def _note(self, at: float, event: ev.Event, actions: object) -> None:
        if isinstance(event, ev.CallerUnheard | ev.CallerQuiet):
            self.said.append(type(event).__name__)

    def hear(self, frame: bytes, ms: int) -> None:
        for _ in range(ms // 20):
            self.call.tell(ev.CallerSpoke(frame, 20.0))
            self.bystander.hear(frame, 20.0)


async def ear(detection: TurnDetection | None = None, *, ready: bool = True) -> Ear:
    session = SessionPlan(turn_detection=detection or TurnDetection())
    one = Ear(await begin(call_plan=plan(session=session)))
    if not ready:
        one.call.tell(ev.ModelLost(1, "gone", "retry", 2.0))
    one.hear(QUIET, 1000)
    return one


async def hang_up(one: Ear) -> None:
    one.call.tell(ev.CallerLeft("stop"))
    await one.call.task


@on_virtual_time
async def test_silence_and_clicks_are_not_a_voice() -> None:
    one = await ear()
    for _ in range(50):
        one.hear(LOUD, 40)
        one.hear(QUIET, 300)
    assert one.said == []
    await hang_up(one)


@on_virtual_time
async def test_a_voice_the_service_does_not_notice_is_told_and_not_too_often() -> None:
    one = await ear()
    one.hear(LOUD, 900)
    assert one.said == ["CallerUnheard"]
    one.hear(LOUD, 1500)
    assert one.said == ["CallerUnheard"]
    one.hear(LOUD, 2000)
    assert one.said == ["CallerUnheard"] * 2
    assert one.call.model.probes >= 1, "the service is asked for a sign of life"
    await hang_up(one)


@on_virtual_time
async def test_a_voice_the_service_noticed_is_no_news() -> None:
    one = await ear()
    one.call.tell(ev.CallerSpeechStarted("c1"))
    one.hear(LOUD, 5000)
    assert one.said == []
    await hang_up(one)


@pytest.mark.parametrize(
    ("detection", "patience_ms"),
    [
        (TurnDetection(silence_ms=500), 2000),
        (TurnDetection(silence_ms=3000), 4000),
        (TurnDetection(kind="semantic_vad", eagerness="low"), 9000),
        (TurnDetection(kind="semantic_vad", eagerness="high"), 3000),
    ],
)
@on_virtual_time
async def test_a_detector_that_is_stuck_is_noticed_after_its_own_patience(
    detection: TurnDetection, patience_ms: int
) -> None:
    one = await ear(detection)
    one.call.tell(ev.CallerSpeechStarted("c1"))
    one.hear(LOUD, 1000)
    one.hear(QUIET, patience_ms - 200)
    assert one.said == []
    one.hear(QUIET, 400)
    assert one.said[:1] == ["CallerQuiet"]
    await hang_up(one)


@on_virtual_time
async def test_while_there_is_no_service_a_turn_begins_and_ends_by_ear() -> None:
    one = await ear(ready=False)
    one.hear(LOUD, 1000)
    assert one.said == ["CallerUnheard"] and one.call.driver.call.state.owes_answer
    one.hear(QUIET, 900)
    assert one.said == ["CallerUnheard", "CallerQuiet"]
    await hang_up(one)
