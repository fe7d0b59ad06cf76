from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.sim.actor import Performance, StepDone
from bridge.sim.figures import Measures, Spread
from bridge.sim.judge import Verdict, contains, judge
from bridge.sim.outcome import AgentTurn, CallerTurn, Cut, Outcome, ToolCall, Truncation
from bridge.sim.scenario import from_dict
from tests.sim.test_measures import track

STEPS = [{"say": "Opening hours?"}, {"say": "Where are you?"}, {"hang_up": True}]
CALL = Outcome(
    name="test",
    length_ms=20_000,
    caller=track(20_000),
    agent=track(20_000),
    stream_from_ms=0,
    status="completed",
    performance=Performance(
        [StepDone(1, 'say "Opening hours?"', 3000, 4000), StepDone(2, 'say "Where are you?"', 6000, 7000)], [3]
    ),
    caller_turns=(
        CallerTurn(3000, 4000, "Opening hours?", "opening hours"),
        CallerTurn(6000, 7000, "Where are you?", "where are you"),
    ),
    agent_turns=(
        AgentTurn(0, 2000, "Hello!", "Hello!"),
        AgentTurn(4600, 6200, "We are open from nine until five.", "We are open from"),
        AgentTurn(7800, 9000, "At twelve, Station Road.", "At twelve, Station Road."),
    ),
    tools=(ToolCall(9500, "transfer", {"target": "operator", "note": "x"}),),
    truncations=(Truncation(6200, "item", 1580, 1600),),
    cuts=(Cut(6200, 3600, 900),),
    end_reason="agent_hung_up",
)
FIGURES = Measures(yield_ms=Spread.of([200]), answer_ms=Spread.of([600, 800]))


def verdicts(*expect: dict[str, Any], outcome: Outcome = CALL, **more: Any) -> list[Verdict]:
    return judge(from_dict({"caller": STEPS, "expect": list(expect), **more}, source="t.yaml"), outcome, FIGURES)


@pytest.mark.parametrize(
    "expected",
    [
        {"agent_says": "open from nine UNTIL five"},
        {"heard": "we are open"},
        {"heard": "twelve station road", "within_ms": 1000},
        {"heard": "we are open", "within_ms": 700, "of_step": 1},
        {"understood": "Where are you"},
        {"absent": "until five"},
        {"tool_call": "transfer", "arguments": {"target": "operator"}},
        {"tool_call": "transfer", "within_ms": 3000},
        {"agent_yields_within_ms": 200},
        {"truncated_at": {"near_ms": 1600, "tolerance_ms": 40}},
        {"end_reason": "agent_hung_up"},
        {"measure": "answer_ms.p95", "at_most": 800},
        {"measure": "answer_ms.count", "at_least": 2, "at_most": 2},
    ],
)
def test_what_happened_as_expected_is_met(expected: dict[str, Any]) -> None:
    (verdict,) = verdicts(expected)
    assert verdict.met, verdict.line()


@pytest.mark.parametrize(
    ("expected", "at_ms", "found"),
    [
        ({"agent_says": "closed"}, 20_000, "Station Road"),
        ({"heard": "until five"}, 20_000, "We are open from"),
        ({"heard": "twelve station road", "within_ms": 500}, 7800, "800 ms"),
        ({"heard": "hello", "within_ms": 3000}, 0, "already 7000 ms before"),
        ({"heard": "goodbye", "within_ms": 3000}, 10_000, "Hello!"),
        ({"heard": "we are open", "within_ms": 3000}, 4600, "already 2400 ms before step's end"),
        ({"heard": "hello", "within_ms": 3000, "of_step": 1}, 0, "already 4000 ms before step's end"),
        ({"understood": "parking"}, 7000, "opening hours"),
        ({"absent": "we are open"}, 4600, "We are open from"),
        ({"tool_call": "hang_up"}, 20_000, "transfer"),
        ({"tool_call": "transfer", "arguments": {"target": "boss"}}, 20_000, "operator"),
        ({"tool_call": "transfer", "within_ms": 2000}, 9000, "9.50 s"),
        ({"agent_yields_within_ms": 199}, 6200, "200"),
        ({"truncated_at": {"near_ms": 1630, "tolerance_ms": 40}}, 6200, "told 1580 ms, heard 1600 ms"),
        ({"end_reason": "caller_left"}, 20_000, "agent_hung_up"),
        ({"measure": "answer_ms.p95", "at_most": 799}, 4000, "800"),
        ({"measure": "first_sound_ms.p50", "at_most": 799}, 4000, "nothing to measure"),
    ],
)
def test_what_did_not_is_named_with_its_moment(expected: dict[str, Any], at_ms: float, found: str) -> None:
    (verdict,) = verdicts(expected)
    assert not verdict.met
    if "nothing to measure" not in found:
        assert verdict.at_ms == at_ms
    assert found in verdict.found
    assert verdict.line().startswith("FAILED at ")


def test_a_call_that_outlasts_its_limit_or_ends_too_early_has_failed() -> None:
    late = replace(CALL, performance=Performance(CALL.performance.done, [3], timed_out=True))
    assert "within 60 s" in verdicts(outcome=late)[0].expected
    early = replace(CALL, performance=Performance(CALL.performance.done[:1], [2, 3]))
    (verdict,) = verdicts(outcome=early)
    assert (verdict.met, verdict.at_ms) == (False, 20_000)
    assert 'step 2, say "Where are you?"' in verdict.expected
    assert verdicts() == [], "an agent may hang up before the caller does"


def test_words_are_compared_without_case_and_punctuation_but_whole() -> None:
    assert contains("We're open, from Nine.", "we're open from nine")
    assert not contains("We are opening", "open")
    assert not contains("", "open")
