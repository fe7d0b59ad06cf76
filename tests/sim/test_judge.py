from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.sim.actor import Performance, StepDone
from bridge.sim.judge import Verdict, judge
from bridge.sim.measures import measure
from bridge.sim.outcome import AgentTurn, CallerTurn, Cut, Gap, Outcome, ToolCall, Truncation
from bridge.sim.scenario import from_dict
from tests.sim.test_measures import track

STEPS = [{"say": "Opening hours?"}, {"say": "Where are you?"}, {"hang_up": True}]
CALL = Outcome(
    name="test",
    length_ms=20_000,
    caller=track(20_000),
    agent=track(20_000, (0, 2000), (4600, 6200), (7800, 9000)),
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


def verdicts(*expect: dict[str, Any], outcome: Outcome = CALL, **more: Any) -> list[Verdict]:
    scenario = from_dict({"caller": STEPS, "expect": list(expect), **more}, source="t.yaml")
    return judge(scenario, outcome, measure(outcome))


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
        ({"tool_call": "transfer", "arguments": {"reason": None}}, 20_000, "operator"),
        ({"tool_call": "transfer", "within_ms": 2000}, 9000, "9.50 s"),
        ({"agent_yields_within_ms": 199}, 6000, "200"),
        ({"truncated_at": {"near_ms": 1630, "tolerance_ms": 40}}, 6200, "told 1580 ms, heard 1600 ms"),
        ({"end_reason": "caller_left"}, 20_000, "agent_hung_up"),
        ({"measure": "answer_ms.p95", "at_most": 799}, 7000, "800"),
        ({"measure": "answer_ms.p50", "at_least": 601}, 4000, "600"),
        ({"measure": "answer_ms.count", "at_most": 1}, 7000, "2"),
        ({"measure": "answer_ms.count", "at_least": 3}, 20_000, "2"),
        ({"measure": "first_sound_ms.max", "at_least": 1}, 0, "0"),
        ({"measure": "dead_air_longest_ms", "at_most": 5000}, 9000, "11000"),
        ({"measure": "overlap_ms", "at_most": 100}, 6000, "200"),
        ({"measure": "words_lost_at_start", "at_least": 1}, 20_000, "0"),
        ({"measure": "talk_ratio", "at_most": 0.1}, 20_000, "0.7"),
    ],
)
def test_what_did_not_is_named_with_its_moment(expected: dict[str, Any], at_ms: float, found: str) -> None:
    (verdict,) = verdicts(expected)
    assert not verdict.met
    assert verdict.at_ms == at_ms
    assert found in verdict.found
    assert verdict.line().startswith("FAILED at ")


@pytest.mark.parametrize(
    "expected",
    [
        {"agent_says": "hello"},
        {"heard": "hello"},
        {"understood": "where are you"},
        {"absent": "until five"},
        {"tool_call": "transfer"},
        {"truncated_at": {"near_ms": 1600}},
        {"end_reason": "agent_hung_up"},
    ],
)
def test_of_somebody_elses_server_it_is_not_known_what_only_a_service_knows(expected: dict[str, Any]) -> None:
    silent = replace(CALL, foreign=True, agent_turns=(), tools=(), truncations=(), end_reason="")
    (verdict,) = verdicts(expected, outcome=silent)
    assert not verdict.met
    assert verdict.found == (
        "it cannot be known of somebody else's server; expect agent_yields_within_ms or a measure there"
    )


def test_of_somebody_elses_server_is_known_what_the_carrier_saw() -> None:
    expected = {"agent_yields_within_ms": 200}, {"measure": "answer_ms.count", "at_least": 2}
    assert all(verdict.met for verdict in verdicts(*expected, outcome=replace(CALL, foreign=True)))


@pytest.mark.parametrize("reason", ["model_refused", "model_unavailable", "bug"])
def test_a_call_that_broke_fails_unless_that_end_is_expected(reason: str) -> None:
    broken = replace(CALL, end_reason=reason)
    (verdict,) = verdicts(outcome=broken)
    assert not verdict.met
    assert verdict.line() == (
        f"FAILED at 20.00 s: the call does not break: it ended with {reason}; expect that end_reason where it is wanted"
    )
    (expected,) = verdicts({"end_reason": reason}, outcome=broken)
    assert expected.met
    (other,) = verdicts({"end_reason": "caller_left"}, outcome=broken)
    assert not other.met


@pytest.mark.parametrize("reason", ["agent_hung_up", "transferred", "caller_silent", "max_duration", "caller_left"])
def test_the_agent_may_end_the_call_before_the_caller_hangs_up(reason: str) -> None:
    assert verdicts(outcome=replace(CALL, end_reason=reason)) == []


def test_an_argument_that_is_null_is_met_by_null_alone() -> None:
    expected = {"tool_call": "hang_up", "arguments": {"reason": None}}
    for arguments, met in (({"reason": None}, True), ({}, False), ({"reason": ""}, False)):
        (verdict,) = verdicts(expected, outcome=replace(CALL, tools=(ToolCall(9500, "hang_up", arguments),)))
        assert verdict.met is met, arguments


def test_a_failure_names_the_moment_of_the_value_that_broke_the_limit() -> None:
    call = replace(
        CALL,
        agent=track(20_000, (1000, 3100), (4600, 6900), (7800, 9000)),
        cuts=(Cut(3050, 2000, 100), Cut(6800, 3600, 900), Cut(9000, 1, 1), Cut(12_000, 1, 1)),
        gaps=(Gap(1500, 40), Gap(5000, 90), Gap(8000, 30)),
        truncations=(Truncation(3100, "a", 1000, 990), Truncation(6900, "b", 1000, 900)),
    )
    wanted: list[tuple[dict[str, Any], float]] = [
        ({"agent_yields_within_ms": 300}, 6000),
        ({"measure": "yield_ms.max", "at_most": 300}, 6000),
        ({"measure": "yield_ms.p50", "at_most": 50}, 3000),
        ({"measure": "barge_ins", "at_most": 1}, 6000),
        ({"measure": "truncation_error_ms.max", "at_most": 50}, 6900),
        ({"measure": "false_interruptions", "at_most": 1}, 12_000),
        ({"measure": "gaps", "at_most": 0}, 1500),
        ({"measure": "gaps", "at_most": 2}, 8000),
        ({"measure": "gap_ms", "at_most": 129}, 5000),
        ({"measure": "gap_ms", "at_most": 130}, 8000),
    ]
    for expected, at_ms in wanted:
        (verdict,) = verdicts(expected, outcome=call)
        assert (verdict.met, verdict.at_ms) == (False, at_ms), expected


def test_a_figure_of_nothing_fails_at_the_end_of_the_call() -> None:
    silent = replace(CALL, agent=track(20_000), truncations=())
    for expected in ({"measure": "first_sound_ms.p50", "at_most": 799}, {"agent_yields_within_ms": 300}):
        (verdict,) = verdicts(expected, outcome=silent)
        assert (verdict.met, verdict.at_ms) == (False, 20_000)
        assert verdict.found in ("there is nothing to measure", "nobody interrupted it")


def test_a_call_that_outlasts_its_limit_or_ends_too_early_has_failed() -> None:
    late = replace(CALL, performance=Performance(CALL.performance.done, [3], timed_out=True))
    assert "within 60 s" in verdicts(outcome=late)[0].expected
    early = replace(CALL, performance=Performance(CALL.performance.done[:1], [2, 3]))
    (verdict,) = verdicts(outcome=early)
    assert (verdict.met, verdict.at_ms) == (False, 20_000)
    assert 'step 2, say "Where are you?"' in verdict.expected
    assert verdicts() == [], "an agent may hang up before the caller does"


def test_a_fault_that_never_happened_is_a_failure_named_with_its_moment() -> None:
    faults: list[dict[str, Any]] = [
        {"stall_ms": 800, "at_ms": 50_000},
        {"cut": True, "after": "clear", "plus_ms": 200},
        {"half_open": True, "into_agent_ms": 1500},
        {"stop_reading_ms": 300, "after": "agent_quiet"},
        {"close_without_stop": 1001, "at_ms": 1000},
    ]
    missed = {number: "the call had ended" for number in range(1, 6)}
    found = verdicts(outcome=replace(CALL, performance=replace(CALL.performance, missed=missed)), faults=faults)
    assert [verdict.expected for verdict in found] == [
        "the line stalls for 800 ms at 50 s",
        "the connection breaks 200 ms after clear",
        "the line is half open once 1500 ms of the agent's speech were heard",
        "the carrier reads nothing for 300 ms after agent_quiet",
        "the carrier closes its socket with code 1001 at 1 s",
    ]
    assert {(verdict.met, verdict.at_ms, verdict.found) for verdict in found} == {
        (False, 20_000, "the call had ended (agent_hung_up)")
    }


def test_an_agent_that_stops_for_what_is_not_meant_has_failed_unless_the_scenario_measures_it() -> None:
    cough = CallerTurn(1500, 1700, "ahem", meant=False)
    call = replace(CALL, caller_turns=(cough, *CALL.caller_turns), cuts=(Cut(1800, 1800, 700), *CALL.cuts))
    (verdict,) = verdicts(outcome=call)
    assert verdict.line() == (
        'FAILED at 1.80 s: the agent goes on through "ahem", which is not meant: 700 ms of it were thrown away'
    )
    (measured,) = verdicts({"measure": "false_interruptions", "at_most": 1}, outcome=call)
    assert measured.met
    assert verdicts(outcome=replace(call, cuts=(Cut(1800, 1800, 0),))) == [], "nothing was taken away"
    assert verdicts(outcome=replace(call, cuts=(Cut(2900, 1800, 700),))) == [], "long after it"


@pytest.mark.parametrize("drawn", ["I'm sorry", "I\u2019m sorry", "I\u02bcm sorry", "\u2018I\u00b4m sorry\u2019"])
def test_words_heard_are_not_absent_however_they_are_written_down(drawn: str) -> None:
    for said in ("I'm sorry.", "I\u2019m sorry."):
        call = replace(CALL, agent_turns=(AgentTurn(0, 2000, said, said),))
        heard, absent = verdicts({"heard": drawn}, {"absent": drawn}, outcome=call)
        assert (heard.met, absent.met) == (True, False)


def test_what_nobody_wrote_down_fails_as_that_and_is_no_figure() -> None:
    unknown = replace(CALL, caller_turns=tuple(replace(turn, understood=None) for turn in CALL.caller_turns))
    assert measure(unknown).words_lost_at_start is None
    expected: list[dict[str, Any]] = [{"understood": "opening hours"}, {"measure": "words_lost_at_start", "at_most": 0}]
    for verdict in verdicts(*expected, outcome=unknown):
        assert not verdict.met and "`transcription`" in verdict.found
