"""Metrics from a stream of (now, event, actions), as the driver shows it."""

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import AgentPlan, CallPlan, CarrierCapabilities, ModelCapabilities, SessionPlan
from bridge.errors import EndReason
from bridge.metrics import Metrics

OUTCOMES = ("done", "failed", "abandoned")


def plan(call_id: str = "call-1") -> CallPlan:
    return CallPlan(
        call_id=call_id,
        carrier_call_id="CA0123",
        caller="+15550100",
        called="+15550101",
        direction="inbound",
        agent=AgentPlan("front-desk"),
        carrier=CarrierCapabilities(),
        models=(ModelCapabilities(),),
        session=SessionPlan(),
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_tool_is_counted_once_however_late_its_answer_comes() -> None:
    metrics = Metrics()
    metrics.watch(plan(), 0.0, ev.StreamStarted("MZ1"), [do.AbandonTool("t1")])
    metrics.watch(plan(), 1.0, ev.ToolFinished("t1", "{}"), [do.Note("tool_result_ignored")])
    counted = [value(metrics, "bridge_tool_calls_total", agent="front-desk", outcome=one) for one in OUTCOMES]
    assert counted == [None, None, 1]


def a_call(metrics: Metrics, call_id: str = "call-1") -> None:
    watched = plan(call_id)
    usage = ev.Usage(input_tokens=10, output_tokens=20, input_audio_tokens=5, output_audio_tokens=15, cached_tokens=1)
    steps: list[tuple[float, ev.Event, list[do.Action]]] = [
        (0.0, ev.StreamStarted("MZ1"), [do.OpenModel(1, 0)]),
        (1000.0, ev.CallerSpeechStopped(), []),
        (1400.0, ev.ModelSpoke("r1", "i1", 0, b"\xff" * 800, 100.0), [do.PlayAudio(b"\xff" * 800, 100.0, "i1")]),
        (1500.0, ev.ModelSpoke("r1", "i1", 0, b"\xff" * 800, 100.0), [do.PlayAudio(b"\xff" * 800, 100.0, "i1")]),
        (2000.0, ev.CallerSpeechStarted(), [do.ClearPlayback(), do.TruncateItem("i1", 0, 300)]),
        (2100.0, ev.ResponseEnded("r1", "cancelled", usage=usage), [do.Note("odd", "+15550100")]),
        (2200.0, ev.ToolFinished("t1", "{}", failed=True), [do.AbandonTool("t2")]),
        (2300.0, ev.ModelLost(1, "closed", "retry"), []),
        (9000.0, ev.CallerLeft("stop"), [do.EndCall(EndReason.CALLER_LEFT)]),
    ]
    for now, event, actions in steps:
        metrics.watch(watched, now, event, actions)


def test_a_call_is_counted_by_what_happened_in_it() -> None:
    metrics = Metrics()
    a_call(metrics)
    agent = {"agent": "front-desk"}
    assert value(metrics, "bridge_calls_total", **agent) == 1
    assert value(metrics, "bridge_calls_ended_total", **agent, reason="caller_left") == 1
    assert value(metrics, "bridge_call_seconds_sum", **agent) == 9.0
    assert value(metrics, "bridge_barge_ins_total", **agent) == 1
    assert value(metrics, "bridge_truncations_total", **agent) == 1
    assert value(metrics, "bridge_responses_total", **agent, status="cancelled") == 1
    assert value(metrics, "bridge_tokens_total", **agent, kind="output_audio") == 15
    assert value(metrics, "bridge_model_sessions_total", **agent) == 1
    assert value(metrics, "bridge_model_lost_total", **agent, cure="retry") == 1
    assert value(metrics, "bridge_tool_calls_total", **agent, outcome="failed") == 1
    assert value(metrics, "bridge_tool_calls_total", **agent, outcome="abandoned") == 1
    assert value(metrics, "bridge_notes_total", what="odd") == 1


def test_the_wait_for_an_answer_ends_with_its_first_audio() -> None:
    metrics = Metrics()
    a_call(metrics)
    assert value(metrics, "bridge_answer_seconds_count", agent="front-desk") == 1
    assert value(metrics, "bridge_answer_seconds_sum", agent="front-desk") == pytest.approx(0.9), (
        "and half a second of silence before it was told"
    )


def test_a_caller_who_goes_on_speaking_is_not_waiting() -> None:
    metrics = Metrics()
    for now, event in ((0.0, ev.CallerSpeechStopped()), (100.0, ev.CallerSpeechStarted())):
        metrics.watch(plan(), now, event, [])
    metrics.watch(plan(), 200.0, ev.ModelSpoke("r", "i", 0, b"\xff", 1.0), [do.PlayAudio(b"\xff", 1.0, "i")])
    assert value(metrics, "bridge_answer_seconds_count", agent="front-desk") is None


def test_neither_a_clip_nor_the_rest_of_what_was_said_before_is_the_answer() -> None:
    metrics = Metrics()
    steps: list[tuple[float, ev.Event, list[do.Action]]] = [
        (0.0, ev.ModelSpoke("r1", "old", 0, b"", 100.0), [do.PlayAudio(b"", 100.0, "old")]),
        (1000.0, ev.CallerSpeechStopped(), [do.PlayAudio(b"", 100.0, "old")]),
        (1100.0, ev.ModelSpoke("r1", "old", 0, b"", 100.0), [do.PlayAudio(b"", 100.0, "old")]),
        (2500.0, ev.DeadlineReached(), [do.PlayAudio(b"", 100.0)]),
        (2600.0, ev.ModelSpoke("r1", "old too", 0, b"", 100.0), [do.PlayAudio(b"", 100.0, "old too")]),
        (2700.0, ev.ModelSpoke("r2", "never played", 0, b"", 100.0), []),
        (3000.0, ev.ModelSpoke("r3", "new", 0, b"", 100.0), [do.PlayAudio(b"", 100.0, "old")]),
        (3100.0, ev.MarkReturned("0.7"), [do.PlayAudio(b"", 100.0, "new")]),
        (3200.0, ev.MarkReturned("0.8"), [do.PlayAudio(b"", 100.0, "new")]),
    ]
    for now, event, actions in steps:
        metrics.watch(plan(), now, event, actions)
    assert value(metrics, "bridge_answer_seconds_count", agent="front-desk") == 1
    assert value(metrics, "bridge_answer_seconds_sum", agent="front-desk") == pytest.approx(2.6)


def test_nothing_is_remembered_of_a_call_that_ended() -> None:
    metrics = Metrics()
    for number in range(50):
        a_call(metrics, f"call-{number}")
    broken = plan("broken")
    metrics.watch(broken, 0.0, ev.StreamStarted("MZ1"), [])
    metrics.forget(broken, "bug")
    metrics.forget(broken, "bug")
    assert not metrics._calls
    assert value(metrics, "bridge_calls_ended_total", agent="front-desk", reason="bug") == 1


def test_no_label_holds_a_number_an_id_or_an_endless_set_of_words() -> None:
    metrics = Metrics()
    a_call(metrics)
    for number in range(200):
        metrics.watch(plan("other"), 0.0, ev.DeadlineReached(), [do.Note(f"what {number}")])
    text = metrics.text().decode()
    for leaked in ("+1555", "CA0123", "MZ1", "call-1"):
        assert leaked not in text
    assert text.count("bridge_notes_total{") <= 65
    assert value(metrics, "bridge_notes_total", what="other") == 200 - 63


def test_calls_at_this_moment_are_read_when_asked_for() -> None:
    metrics, now = Metrics(), [3]
    metrics.follow(lambda: now[0])
    assert value(metrics, "bridge_calls_active") == 3
    now[0] = 0
    assert value(metrics, "bridge_calls_active") == 0


def test_what_was_said_to_an_earlier_question_is_no_answer_to_the_next() -> None:
    metrics = Metrics()
    late = [do.PlayAudio(b"", 100.0, "late")]
    steps: list[tuple[float, ev.Event, list[do.Action]]] = [
        (0.0, ev.CallerSpeechStopped(), []),
        (500.0, ev.ModelSpoke("r1", "late", 0, b"", 100.0), []),
        (600.0, ev.CallerSpeechStarted(), []),
        (900.0, ev.CallerSpeechStopped(), []),
        (1000.0, ev.MarkReturned("0.1"), late),
    ]
    for now, event, actions in steps:
        metrics.watch(plan(), now, event, actions)
    assert value(metrics, "bridge_answer_seconds_count", agent="front-desk") is None


def test_tokens_are_counted_by_their_kind() -> None:
    metrics = Metrics()
    a_call(metrics)
    kinds = {"input": 10, "output": 20, "input_audio": 5, "output_audio": 15, "cached": 1}
    assert {kind: value(metrics, "bridge_tokens_total", agent="front-desk", kind=kind) for kind in kinds} == kinds
