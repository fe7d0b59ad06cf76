"""The bystander says what the service should have said, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.audio.formats import MULAW_8K
from bridge.call import events as ev
from bridge.call.plan import SessionPlan, TurnDetection
from bridge.live.bystander import Bystander
from bridge.live.driver import Driver
from tests.call.playbook import plan

VOICE, SILENCE = b"\x20\xa0" * 80, b"\xff" * 160


class Leg:
    """A call's state as the bystander sees it, and what it was told."""

    def __init__(self, detection: TurnDetection | None = None, *, model: str = "ready") -> None:
        self.turns = SimpleNamespace(caller_speaking=False)
        self.state = SimpleNamespace(model=model, turns=self.turns, voice=False)
        self.told: list[tuple[float, ev.Event]] = []
        self.at_ms = 0.0
        self.plan = plan(session=SessionPlan(turn_detection=detection or TurnDetection()))
        self.call = SimpleNamespace(state=self.state)
        self._bystander = Bystander(cast(Driver, cast(Any, self)), MULAW_8K)
        self.hears(SILENCE, 1000)

    def deliver(self, event: ev.Event) -> None:
        self.told.append((self.at_ms, event))

    def hears(self, frame: bytes, ms: float) -> None:
        for _ in range(int(ms / 20)):
            self.at_ms += 20
            self._bystander.hear(frame, 20.0)

    @property
    def facts(self) -> list[ev.Event]:
        return [event for _, event in self.told]


def test_a_caller_the_service_hears_is_no_news() -> None:
    leg = Leg()
    leg.hears(VOICE, 300)
    leg.turns.caller_speaking = True
    leg.hears(VOICE, 3000)
    leg.hears(SILENCE, 600)
    leg.turns.caller_speaking = False
    leg.hears(SILENCE, 10_000)
    assert leg.told == []


def test_a_voice_the_service_says_nothing_of() -> None:
    leg = Leg()
    leg.hears(VOICE, 580)
    assert leg.told == []
    leg.hears(VOICE, 20)
    assert leg.facts == [ev.CallerUnheard()]
    leg.hears(VOICE, 2500)
    assert len(leg.told) == 1, "said again too soon"
    leg.hears(VOICE, 200)
    assert leg.facts == [ev.CallerUnheard()] * 2


def test_clicks_are_no_voice() -> None:
    leg = Leg()
    for _ in range(50):
        leg.hears(VOICE, 40)
        leg.hears(SILENCE, 200)
    assert leg.told == []


@pytest.mark.parametrize(
    ("detection", "after_ms"),
    [
        (TurnDetection(), 2000),
        (TurnDetection(silence_ms=3000), 4000),
        (TurnDetection("semantic_vad", eagerness="low"), 9000),
        (TurnDetection("semantic_vad"), 5000),
        (TurnDetection("semantic_vad", eagerness="high"), 3000),
    ],
)
def test_an_end_of_speech_the_service_misses_is_told_when_it_would_not_wait_any_more(
    detection: TurnDetection, after_ms: int
) -> None:
    leg = Leg(detection)
    leg.turns.caller_speaking = True
    leg.hears(VOICE, 2000)
    leg.hears(SILENCE, after_ms - 20)
    assert leg.told == []
    leg.hears(SILENCE, 20)
    assert leg.facts == [ev.CallerQuiet()]


def test_a_click_delays_the_end_of_speech_a_little() -> None:
    leg = Leg()
    leg.turns.caller_speaking = True
    leg.hears(SILENCE, 1000)
    leg.hears(VOICE, 20)
    leg.hears(SILENCE, 1000 + 80)
    assert leg.told == []
    leg.hears(SILENCE, 20)
    assert leg.facts == [ev.CallerQuiet()]


def test_while_there_is_no_service_it_tells_both_ends_of_what_the_caller_says() -> None:
    leg = Leg(model="opening")
    leg.hears(VOICE, 600)
    assert leg.facts == [ev.CallerUnheard()]
    leg.state.voice = True
    leg.hears(VOICE, 1000)
    leg.hears(SILENCE, 680)
    assert len(leg.told) == 1
    leg.hears(SILENCE, 20)
    assert leg.facts[1:] == [ev.CallerQuiet()]
