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

    def __init__(
        self, detection: TurnDetection | None = None, *, model: str = "ready", barge_in: int | str = "immediate"
    ) -> None:
        self.turns = SimpleNamespace(caller_speaking=False)
        self.state = SimpleNamespace(model=model, turns=self.turns, voice=False, weighing=False)
        self.told: list[tuple[float, ev.Event]] = []
        self.at_ms = 0.0
        self.plan = plan(session=SessionPlan(turn_detection=detection or TurnDetection()), barge_in=barge_in)
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
    leg.hears(VOICE, 40)
    leg.hears(SILENCE, 1000 + 180)
    assert leg.told == []
    leg.hears(SILENCE, 20)
    assert leg.facts == [ev.CallerQuiet()]


def test_while_there_is_no_service_it_tells_both_ends_of_what_the_caller_says() -> None:
    leg = Leg(model="opening")
    leg.hears(VOICE, 600)
    assert leg.facts == [ev.CallerUnheard()]
    leg.state.voice = True
    leg.hears(VOICE, 1000)
    leg.hears(SILENCE, 700)
    assert len(leg.told) == 1
    leg.hears(SILENCE, 20)
    assert leg.facts[1:] == [ev.CallerQuiet()]


def weighed(leg: Leg) -> list[float]:
    return [at_ms for at_ms, event in leg.told if isinstance(event, ev.CallerPersists)]


def speaks_into_the_agent(leg: Leg, *, noticed_ms: float, ms: float) -> float:
    """Speech that the service notices when it has gone on for so long; when it began."""
    began = leg.at_ms
    leg.hears(VOICE, noticed_ms)
    leg.turns.caller_speaking = leg.state.weighing = True
    leg.hears(VOICE, ms - noticed_ms)
    return began


def test_speech_that_lasts_is_told_when_it_has() -> None:
    leg = Leg(barge_in=400)
    began = speaks_into_the_agent(leg, noticed_ms=100, ms=600)
    assert weighed(leg)[0] == began + 400


@pytest.mark.parametrize("ms", [120, 240, 380])
def test_brief_speech_is_never_told_to_last(ms: float) -> None:
    leg = Leg(barge_in=400)
    speaks_into_the_agent(leg, noticed_ms=100, ms=ms)
    leg.hears(SILENCE, 3000)
    assert weighed(leg) == []


def test_words_with_pauses_between_them_are_one_speech_and_a_long_pause_ends_it() -> None:
    leg = Leg(barge_in=400)
    began = speaks_into_the_agent(leg, noticed_ms=100, ms=360)
    leg.hears(SILENCE, 220)
    leg.hears(VOICE, 360)  # digits, read out
    assert weighed(leg)[0] < began + 360 + 220 + 100
    leg = Leg(barge_in=400)
    speaks_into_the_agent(leg, noticed_ms=100, ms=200)
    leg.hears(SILENCE, 600)
    leg.hears(VOICE, 300)
    assert weighed(leg) == []


def test_what_was_loud_long_before_the_service_noticed_is_not_counted_as_speech() -> None:
    leg = Leg(barge_in=800)
    leg.hears(VOICE, 3000)
    leg.turns.caller_speaking = leg.state.weighing = True
    leg.hears(VOICE, 480)
    assert weighed(leg) == []
    leg.hears(VOICE, 100)
    assert weighed(leg)
    leg = Leg(barge_in=200)
    leg.hears(VOICE, 3000)
    leg.turns.caller_speaking = leg.state.weighing = True
    leg.hears(VOICE, 80)
    assert weighed(leg) == []


def test_an_agent_that_is_interrupted_at_once_is_not_told() -> None:
    leg = Leg()
    speaks_into_the_agent(leg, noticed_ms=100, ms=3000)
    assert weighed(leg) == []
