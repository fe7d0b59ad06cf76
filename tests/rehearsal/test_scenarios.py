"""The library of scenarios: each on the virtual clock against its golden timeline, a dozen of them over sockets too."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from bridge.rehearsal.run import Run, run_one, wants_speech
from bridge.sim.report import CallResult
from bridge.sim.scenario import Scenario, load_all

FOLDER: Final = Path(__file__).parent.parent / "sim" / "scenarios"
TESTS: Final = Path(__file__).parent.parent
SCENARIOS: Final = load_all([FOLDER])
OVER_SOCKETS: Final = [scenario for scenario in SCENARIOS if scenario.sockets]
COMPLAINTS: Final = range(1, 24)

# What a scenario cannot say, because it takes more than one call or more than one carrier; the tests that show it.
ELSEWHERE: Final = {
    13: ("live/test_switchboard.py", "test_three_hundred_short_calls_leave_nothing_behind"),
    18: ("live/test_switchboard.py", "test_a_token_admits_one_stream_of_its_own_call_once"),
    20: ("web/test_workers.py", "test_a_token_opens_one_stream_and_no_second_at_any_worker"),
    21: ("web/test_workers.py", "test_sigterm_drains_every_worker_and_none_is_left"),
}
# On a busy machine words, ends and truncations hold; how long things take does not.
TIMELESS: Final = ("agent_says", "heard", "understood", "absent", "tool_call", "end_reason")
TRUNCATION_MS: Final = 60.0

speech = pytest.mark.skipif(
    bool(wants_speech(SCENARIOS)), reason="nobody can speak or listen here: the extra `local` is not installed"
)


@speech
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_is_as_expected_and_as_its_golden_timeline(scenario: Scenario) -> None:
    golden = FOLDER / "golden"
    assert (golden / f"{scenario.name}.txt").is_file(), "voice-bridge simulate tests/sim/scenarios --update-golden"
    for result in run_one(scenario, Run(golden=golden)):
        assert not result.failures, "\n".join(result.failures)


@speech
@pytest.mark.parametrize("name", ["10-a-bad-line", "42-interrupted-again-and-again", "17-a-slow-tool"])
def test_two_runs_are_the_same_to_the_byte(name: str) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    first, second = (run_one(scenario, Run())[0].outcome for _ in range(2))
    assert first is not None and second is not None
    assert len(first.timeline) > 1000
    assert first.timeline == second.timeline
    assert (first.agent == second.agent).all() and (first.caller == second.caller).all()


@speech
@pytest.mark.timeout(300)
def test_a_dozen_hold_over_sockets_and_on_the_real_clock() -> None:
    assert len(OVER_SOCKETS) >= 12
    with ThreadPoolExecutor(3, thread_name_prefix="calls") as pool:
        results = [result for found in pool.map(_over_sockets, OVER_SOCKETS) for result in found]
    # A call in real time may stumble on a busy machine: what did is made once more, alone.
    stumbled = {result.scenario.name for result in results if _timeless_failures(result)}
    again = [result for one in OVER_SOCKETS if one.name in stumbled for result in _over_sockets(one)]
    wrong = [f"{result.scenario.name}: {line}" for result in again for line in _timeless_failures(result)]
    assert not wrong, "\n".join(wrong)


def _over_sockets(scenario: Scenario) -> list[CallResult]:
    return run_one(scenario, Run(clock="real"))


def _timeless_failures(result: CallResult) -> list[str]:
    if result.outcome is None or result.error:
        return [result.error]
    judged = zip(result.scenario.expect, result.verdicts, strict=False)  # what nobody expects comes after them
    wrong = [
        verdict.line()
        for expected, verdict in judged
        if expected.kind in TIMELESS and expected.within_ms is None and not verdict.met
    ]
    wrong += [verdict.line() for verdict in result.verdicts[len(result.scenario.expect) :] if not verdict.met]
    return wrong + [
        f"at {cut.at_ms / 1000:.2f} s: told {cut.told_ms:.0f} ms, heard {cut.truth_ms:.0f} ms"
        for cut in result.outcome.truncations
        if abs(cut.told_ms - cut.truth_ms) > TRUNCATION_MS
    ]


def test_every_complaint_is_covered_by_a_scenario_or_by_a_test_that_exists() -> None:
    covered = {number for scenario in SCENARIOS for number in scenario.covers}
    for path, name in ELSEWHERE.values():
        tree = ast.parse((TESTS / path).read_text("utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in found, f"tests/{path} has no {name}"
    assert set(COMPLAINTS) - covered - set(ELSEWHERE) == set()
    assert covered <= set(COMPLAINTS)


def test_every_scenario_says_what_it_shows_and_expects_how_it_ends() -> None:
    for scenario in SCENARIOS:
        assert scenario.about.strip(), scenario.name
        ends = any(expected.end_reason is not None for expected in scenario.expect)
        assert ends or scenario.call.signing != "right", f"{scenario.name}: an accepted call has an end"


@speech
def test_the_services_own_complaints_really_happen_in_the_scenarios_about_them() -> None:
    """A scenario about an error must contain the error."""
    for name, words in {
        "01-the-service-counts-less": "is already shorter than",
        "03b-already-active": "conversation_already_has_active_response",
        "04-nothing-to-cancel": "response_cancel_not_active",
        "11-the-session-expires": "session_expired",
    }.items():
        assert words in (FOLDER / "golden" / f"{name}.txt").read_text("utf-8"), name


def test_golden_timelines_belong_to_scenarios_and_stay_small() -> None:
    golden = list((FOLDER / "golden").glob("*"))
    assert {file.stem for file in golden} <= {scenario.name for scenario in SCENARIOS}
    assert sum(file.stat().st_size for file in golden) < 1_000_000
