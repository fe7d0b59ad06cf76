"""Running scenarios: processes, order, what is left behind, and timelines that fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import BridgeError
from bridge.localmodel.server import LocalModel
from bridge.rehearsal import run as runner
from bridge.rehearsal.folding import differences, timeline
from bridge.rehearsal.run import Run, run, run_one
from bridge.sim import actor
from bridge.sim.actor import Performance
from bridge.sim.leg import Leg
from bridge.sim.report import CallResult
from bridge.sim.scenario import Scenario, from_dict
from bridge.sim.timeline import Moment


def scenario(name: str, **more: object) -> Scenario:
    document = {"name": name, "caller": [{"silence": 500}, {"hang_up": True}], **more}
    return from_dict(document, source=f"{name}.yaml")


def test_many_scenarios_in_many_processes_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_cores", lambda: 2)
    given = [scenario(f"call-{number}", seed=number) for number in range(8)]
    heard: list[str] = []
    shared = run(given, Run(), lambda result: heard.append(result.title))
    assert heard == [one.name for one in given]
    alone = [result for one in given for result in run_one(one, Run())]
    assert [_line(result) for result in shared] == [_line(result) for result in alone]


def _line(result: CallResult) -> str:
    assert result.outcome is not None, result.error
    return result.outcome.timeline


def test_a_repeated_scenario_has_the_next_seed_each_time() -> None:
    results = run_one(scenario("call", repeat=3, seed=7), Run())
    assert [result.outcome and result.outcome.seed for result in results] == [7, 8, 9]
    assert [result.title for result in results] == ["call #1", "call #2", "call #3"]


def test_what_keeps_a_scenario_from_running_is_its_result() -> None:
    (result,) = run_one(scenario("call", agent="nobody"), Run())
    assert not result.passed
    (failure,) = result.failures
    assert "nobody.yaml: there is no agent 'nobody'; there are front-desk, pizza-order. Write `agent: " in failure


def test_there_is_room_for_all_calls_at_once() -> None:
    assert [result.failures for result in run_one(scenario("call"), Run(calls=12))] == [[]] * 12


def test_a_call_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    perform = actor.perform

    async def stumbles(scenario: Scenario, leg: Leg, *, seed: int) -> Performance:
        if seed == 1:
            raise BridgeError("the caller stumbled")
        return await perform(scenario, leg, seed=seed)

    monkeypatch.setattr(actor, "perform", stumbles)
    results = run_one(scenario("call"), Run(calls=3))
    assert [result.failures for result in results] == [[], ["the caller stumbled"], []]
    assert [result.outcome and result.outcome.seed for result in results] == [0, None, 2]


def test_what_a_stalled_line_kept_from_the_caller_was_not_heard() -> None:
    greeting = "How can I help you?"
    stalled = scenario(
        "call",
        caller=[{"silence": 9000}, {"hang_up": True}],
        faults=[{"stall_ms": 30_000, "at_ms": 700}],
        expect=[{"agent_says": greeting}, {"heard": "Hello"}, {"heard": greeting}, {"absent": greeting}],
    )
    (result,) = run_one(stalled, Run())
    assert [verdict.met for verdict in result.verdicts] == [True, True, False, True]
    assert result.outcome is not None
    (turn,) = result.outcome.agent_turns
    assert turn.unheard_ms > 1000


def test_a_session_that_outlives_its_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "sessions", property(lambda model: 1))
    (result,) = run_one(scenario("call"), Run())
    assert result.failures == ["1 sessions of the model are open 2 s after the calls"]


def test_a_timeline_folds_what_only_keeps_audio_flowing_and_keeps_each_time() -> None:
    moments = [
        Moment(0.0, "carrier", "start"),
        *(Moment(at, "bridge", "media", {"ms": 100, "position_ms": at, "ahead_ms": 0}) for at in (20.0, 120.0, 220.0)),
        Moment(300.0, "bridge", "clear", {"heard_ms": 280}),
        Moment(310.5, "bridge", "media", {"ms": 20, "position_ms": 0, "ahead_ms": 0}),
    ]
    assert timeline(moments, [(300.0, "CallerSpeechStarted item_1 -> ClearPlayback")]).splitlines() == [
        "      0.00  carrier  start",
        "     20.00  bridge   media 100x3 at 0 +100x2",
        "    300.00  service  CallerSpeechStarted item_1 -> ClearPlayback",
        "    300.00  bridge   clear          heard_ms=280",
        "    310.50  bridge   media          ms=20 position_ms=0 ahead_ms=0",
    ]


def test_a_decision_that_does_more_than_keep_audio_flowing_has_its_own_line() -> None:
    story = [
        (0.0, "MarkReturned 1.4 -> PlayAudio 100 ms"),
        (100.0, "MarkReturned 1.5 -> PlayAudio 100 ms"),
        (200.0, "MarkReturned 1.6 -> HangUp"),
    ]
    assert timeline([], story).splitlines() == [
        "      0.00  service  MarkReturned 1.4 -> PlayAudio 100 ms 1.5 -> PlayAudio 100 ms at 0 +100",
        "    200.00  service  MarkReturned 1.6 -> HangUp",
    ]


def test_a_difference_shows_changed_words_first_and_the_flow_of_audio_last() -> None:
    wanted = """\
      0.00  carrier  media          sound=silence from_ms=0 frames=209
      0.00  service  ModelSaid resp_1 item_2 Hello there, all of you. at 0 +40x2
     40.00  service  ModelSpoke resp_1 item_2 1600 bytes 200 -> PlayAudio 200 ms
    100.00  service  TruncateItem item_2 1500
    200.00  service  MarkReturned 1.6 -> HangUp
"""
    found = """\
      0.00  carrier  media          sound=silence from_ms=0 frames=211
      0.00  service  ModelSaid resp_1 item_2 Hello there, both of you. at 0 +40x3
     40.00  service  ModelSpoke resp_1 item_2 1600 bytes 200 -> PlayAudio 180 ms
    120.00  service  TruncateItem item_2 1520
    210.00  service  MarkReturned 1.6 -> EndCall
"""
    assert differences(wanted, found) == [
        "- 0.00 service ModelSaid resp_1 item_2 Hello there, all of you. at 0 +40x2",
        "+ 0.00 service ModelSaid resp_1 item_2 Hello there, both of you. at 0 +40x3",
        "- 200.00 service MarkReturned 1.6 -> HangUp",
        "+ 210.00 service MarkReturned 1.6 -> EndCall",
        "- 100.00 service TruncateItem item_2 1500",
        "+ 120.00 service TruncateItem item_2 1520",
        "- 0.00 carrier media sound=silence from_ms=0 frames=209",
        "+ 0.00 carrier media sound=silence from_ms=0 frames=211",
        "- 40.00 service ModelSpoke resp_1 item_2 1600 bytes 200 -> PlayAudio 200 ms",
        "+ 40.00 service ModelSpoke resp_1 item_2 1600 bytes 200 -> PlayAudio 180 ms",
    ]


def test_the_first_differences_from_a_golden_timeline_are_told(tmp_path: Path) -> None:
    run_one(scenario("call"), Run(golden=tmp_path, update_golden=True))
    golden = tmp_path / "call.txt"
    golden.write_text(golden.read_text().replace("frames=", "frames=9").replace("CallRouted", "CallLost"))
    (result,) = run_one(scenario("call"), Run(golden=tmp_path))
    told = result.difference.removeprefix(f"differs from {golden}: ").split(" / ")
    assert told[0].startswith("- 0.00 service CallLost")
    assert told[1].startswith("+ 0.00 service CallRouted")
    assert len(told) == 4 and "frames=" in told[2]


def test_only_one_call_at_a_time_on_the_virtual_clock_is_compared(tmp_path: Path) -> None:
    given = [scenario("call")]
    assert runner.not_compared(given, Run(golden=tmp_path)) == ["call"]
    assert runner.not_compared(given, Run(golden=tmp_path, calls=2)) == []
    assert runner.not_compared(given, Run(golden=tmp_path, clock="real")) == []
    (tmp_path / "call.txt").write_text("", encoding="utf-8")
    assert runner.not_compared(given, Run(golden=tmp_path)) == []
