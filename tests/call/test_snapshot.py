"""A call written down and read again is the same call, and behaves the same from there."""

from __future__ import annotations

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.errors import UsageError
from tests.call.playbook import (
    CLIPS,
    ROUTED,
    Playbook,
    asks_tool,
    caller_audio,
    caller_said,
    caller_speaks,
    caller_stops,
    ends,
    item_done,
    lost,
    plan,
    pressed,
    ready,
    response,
    says,
    stream,
    tool_done,
    words,
)

THE_PLAN = plan(clips=CLIPS, greeting="Greet.", idle_prompt_after_s=8.0, idle_hang_up_after_s=8.0)
A_LIFE: list[tuple[float, ev.Event]] = [
    (0, ROUTED),
    (100, stream()),
    (150, caller_audio()),
    (300, ready()),
    (500, response("r1")),
    (510, words("r1", "a1", "hello there")),
    (520, says("r1", "a1", 2000)),
    (530, item_done("r1", "a1")),
    (540, says("r1", "a2", 1500)),
    (1700, caller_speaks("c1")),
    (1710, says("r1", "a2", 500)),
    (1720, ends("r1", "cancelled")),
    (2400, caller_audio(200)),
    (2500, caller_stops("c1")),
    (2900, response("r2")),
    (2950, asks_tool("t1", response_id="r2")),
    (2960, ends("r2")),
    (4700, tool_done("t1")),
    (4900, caller_said("c1", "what time is it")),
    (5000, response("r3")),
    (5100, says("r3", "a3", 3000)),
    (5900, lost(1)),
    (6500, ready(2)),
    (6900, response("r4")),
    (7000, says("r4", "a4", 1000)),
    (7100, ends("r4")),
    (8200, pressed("1")),
    (8400, pressed("2")),
    (10_500, response("r5")),
    (10_600, says("r5", "a5", 700)),
    (10_700, ends("r5")),
    (12_000, stream("MZ2")),
    (40_000, ev.CallerLeft("stop")),
]


def _live(book: Playbook, facts: list[tuple[float, ev.Event]]) -> None:
    for at_ms, fact in facts:
        book.run_until(at_ms)
        book.give(fact)


@pytest.mark.parametrize("count", range(len(A_LIFE)))
def test_a_resumed_call_goes_on_as_the_first_would_have(count: int) -> None:
    first = Playbook(THE_PLAN)
    _live(first, A_LIFE[:count])
    second = Playbook(THE_PLAN)
    _live(second, A_LIFE[:count])
    taken = second.call.snapshot(second.now)
    second.call = Call.resume(taken, THE_PLAN, second.now)
    assert second.call.state == first.call.state
    first.log.clear()
    second.log.clear()
    _live(first, A_LIFE[count:])
    _live(second, A_LIFE[count:])
    assert second.log == first.log
    assert first.call.over


def test_a_call_is_resumed_on_another_clock() -> None:
    book = Playbook(THE_PLAN)
    _live(book, A_LIFE[:10])
    taken = book.call.snapshot(book.now)
    call = Call.resume(taken, THE_PLAN, 1_000_000.0)
    deadline, before = call.deadline(), book.call.deadline()
    assert deadline is not None and before is not None
    assert deadline - 1_000_000.0 == pytest.approx(before - book.now)


def test_the_worker_died_and_a_new_stream_goes_on_where_the_caller_stopped_hearing() -> None:
    book = Playbook.connected()
    book.give(response("r1"))
    book.give(says("r1", "hello", 3000))
    book.give(ends("r1"))
    book.run_until(1000)
    call = Call.resume(book.call.snapshot(1000), book.plan, 1000)
    played = [one for one in call.handle(stream("MZ2"), 1000) if isinstance(one, do.PlayAudio)]
    assert sum(one.ms for one in played) == pytest.approx(400, abs=100)
    (item,) = call.state.ledger.items.values()
    assert item.heard_ms == pytest.approx(1000, abs=1)
    assert item.sent_ms == pytest.approx(1000 + sum(one.ms for one in played), abs=1)


@pytest.mark.parametrize(
    ("taken", "why"),
    [
        (b"", "not a snapshot"),
        (b"{}", "not a snapshot"),
        (b'{"version": 1}', "not a snapshot"),
        (Playbook.connected().call.snapshot(0).replace(b'"version":2', b'"version":99'), "version 99"),
        (Playbook.connected().call.snapshot(0).replace(b'"call_id":"call"', b'"call_id":"other"'), "of call other"),
    ],
    ids=["nothing", "an empty object", "a part", "another version", "another call"],
)
def test_what_is_no_snapshot_of_this_call_is_refused(taken: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Call.resume(taken, plan(), 0)
