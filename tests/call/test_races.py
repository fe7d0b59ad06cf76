"""The races of a telephone call, one row or more each: when, what happened, what we do.

Every story begins with a call that is up: the stream is there, the model's session is ready, nothing has been said.
The carrier in them answers at once; what latency does to the figures is in test_playout.py.
"""

from __future__ import annotations

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities
from bridge.errors import EndReason
from tests.call.carrier import Carrier
from tests.call.playbook import (
    ASK,
    CLEAR,
    CLOSE_MODEL,
    HANG_UP,
    INTERRUPTS,
    OBEYS,
    ROUTED,
    TOOLS,
    Playbook,
    Story,
    ask,
    asks_tool,
    at,
    caller_audio,
    caller_leaves,
    caller_speaks,
    caller_stops,
    cancel,
    complains,
    delete,
    end,
    ends,
    hears,
    item_done,
    lost,
    note,
    open_model,
    plan,
    ready,
    response,
    run_tool,
    says,
    story,
    stream,
    submit,
    tool_done,
    truncate,
    turn_ends,
    words,
)

CANNOT_DELETE = msgspec.structs.replace(INTERRUPTS, can_delete=False)
CAREFUL = msgspec.structs.replace(INTERRUPTS, truncate_margin_ms=90)
NO_MARKS = CarrierCapabilities(name="no marks", marks=False, marks_return_on_clear=False)


RACES: list[Story] = [
    story(
        "speech over a playing response: clear, cancel, truncate to what was heard",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(1500, caller_speaks(), CLEAR, cancel("r1"), truncate("hello", 1500)),
        at(4000, hears("hello", 1500)),
        race=1,
        on=plan(model=OBEYS),
    ),
    story(
        "a service that interrupts by itself is not told to cancel",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(1500, caller_speaks(), CLEAR, truncate("hello", 1500)),
        at(1520, ends("r1", "cancelled", reason="turn_detected")),
        at(4000, hears("hello", 1500)),
        race=1,
    ),
    story(
        "the truncation stays a margin below what was received, as services count less than they send",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(960, caller_speaks(), CLEAR, truncate("hello", 910)),
        race=1,
        on=plan(model=CAREFUL),
    ),
    story(
        "the response ended but its audio still plays: clear and truncate, no cancel",
        at(0, response("r1"), says("r1", "hello", 3000), item_done("r1", "hello"), ends("r1")),
        at(1500, caller_speaks(), CLEAR, truncate("hello", 1500)),
        race=2,
        on=plan(model=OBEYS),
    ),
    story(
        "an item heard almost to its end counts as heard: a truncation within the margin could only fail",
        at(0, response("r1"), says("r1", "hello", 1000), item_done("r1", "hello"), ends("r1")),
        at(940, caller_speaks(), CLEAR),
        race=2,
        on=plan(model=CAREFUL),
    ),
    story(
        "everything was heard: speech changes nothing",
        at(0, response("r1"), says("r1", "hello", 1000), ends("r1")),
        at(1200, caller_speaks()),
        race=3,
    ),
    story(
        "later audio of a cut response is dropped",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(510, says("r1", "hello", 1000)),
        at(520, says("r1", "more", 1000)),
        at(3000, hears("hello", 500), hears("more", 0)),
        race=4,
    ),
    story(
        "audio of a cut response is dropped even after its end",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(510, ends("r1", "cancelled")),
        at(520, says("r1", "hello", 1000), says("r1", "more", 1000)),
        at(3000, hears("hello", 500), hears("more", 0)),
        race=4,
    ),
    story(
        "marks of the cleared epoch do not move the ear of the next one",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(510, ends("r1", "cancelled"), caller_stops()),
        at(600, response("r2"), says("r2", "again", 3000)),
        at(800, ev.MarkReturned("1.4"), ev.MarkReturned("1.5"), ev.MarkReturned("1.6")),
        at(850, caller_speaks(), CLEAR, truncate("again", 250)),
        race=5,
    ),
    story(
        "the next response plays while the cut one has not ended; the cut one stays silent",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(600, caller_stops()),
        at(700, response("r2"), says("r2", "again", 500), says("r1", "hello", 1000)),
        at(710, ends("r1", "cancelled")),
        at(2000, hears("again", 500), hears("hello", 500)),
        race=6,
    ),
    story(
        "the next response may be cut in its turn, though the service never named it",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(600, caller_stops()),
        at(700, says("r2", "again", 2000)),
        at(900, caller_speaks(), CLEAR, truncate("again", 200)),
        at(920, says("r2", "again", 1000)),
        at(3000, hears("again", 200)),
        race=6,
    ),
    story(
        "speech starts again after an interruption: nothing more is to be done",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks(), CLEAR, cancel("r1"), truncate("hello", 500)),
        at(550, caller_stops()),
        at(600, caller_speaks()),
        race=7,
        on=plan(model=OBEYS),
    ),
    story(
        "a response asked for and not yet named is cancelled as soon as it is named",
        at(0, ev.CallerPressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(100, caller_speaks()),
        at(150, response("r1"), cancel("r1")),
        at(160, says("r1", "hello", 1000)),
        at(2000, hears("hello", 0)),
        race=8,
    ),
    story(
        "an interruption before the first audio cancels, and truncates nothing",
        at(0, response("r1")),
        at(100, caller_speaks(), cancel("r1")),
        at(150, says("r1", "hello", 1000)),
        at(2000, hears("hello", 0)),
        race=8,
        on=plan(model=OBEYS),
    ),
    story(
        "an item that was never heard is deleted",
        at(0, response("r1"), says("r1", "first", 1000), item_done("r1", "first"), says("r1", "second", 1000)),
        at(400, caller_speaks(), CLEAR, truncate("first", 400), delete("second")),
        race=9,
    ),
    story(
        "an item that was never heard is truncated to nothing where the service cannot delete",
        at(0, response("r1"), says("r1", "first", 1000), item_done("r1", "first"), says("r1", "second", 1000)),
        at(400, caller_speaks(), CLEAR, truncate("first", 400), truncate("second", 0)),
        race=9,
        on=plan(model=CANNOT_DELETE),
    ),
    story(
        "the buffer is dry and the response still open: cancel and truncate, nothing to clear",
        at(0, response("r1"), says("r1", "hello", 300)),
        at(800, caller_speaks(), cancel("r1"), truncate("hello", 300)),
        race=10,
        on=plan(model=OBEYS),
    ),
    story(
        "the buffer should be dry but its marks are out: clear all the same",
        at(0, response("r1"), says("r1", "hello", 300)),
        at(800, caller_speaks(), CLEAR, cancel("r1"), truncate("hello", 300)),
        race=10,
        on=plan(model=OBEYS),
        carrier=lambda: Carrier(loses_marks=1.0),
    ),
    story(
        "a carrier without marks is believed to play by the clock",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(1500, caller_speaks(), CLEAR, truncate("hello", 1500)),
        race=10,
        on=plan(carrier=NO_MARKS),
        carrier=lambda: Carrier(marks=False),
    ),
    story(
        "a tool finishes while the agent speaks: its output goes in now, the response is asked for at the end",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(10, asks_tool("t1"), run_tool("t1")),
        at(500, tool_done("t1"), submit("t1")),
        at(600, ends("r1"), ASK),
        race=12,
    ),
    story(
        "a tool finishes while the caller speaks: its output goes in, nothing is asked for",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(300, caller_speaks()),
        at(500, tool_done("t1"), submit("t1")),
        at(900, caller_stops(), turn_ends("c1")),
        at(1200, response("r2"), says("r2", "both", 500), ends("r2")),
        at(3000, hears("both", 500)),
        race=13,
    ),
    story(
        "the same where the service does not answer by itself: one response is asked for, when the caller has finished",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(300, caller_speaks()),
        at(500, tool_done("t1"), submit("t1")),
        at(900, caller_stops(), ASK),
        at(1200, response("r2"), says("r2", "both", 500), ends("r2")),
        at(3000, hears("both", 500)),
        race=13,
        on=plan(model=OBEYS),
    ),
    story(
        "a tool that finishes twice is heard once",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(300, tool_done("t1"), submit("t1"), ASK),
        at(310, tool_done("t1"), note("tool_result_ignored")),
        race=14,
    ),
    story(
        "a tool that finishes after its time is ignored; the model was told it did not answer",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(
            10_000,
            do.AbandonTool("t1"),
            submit("t1", '{"error": "the tool did not answer in time"}'),
            ASK,
        ),
        at(10_100, response("r2"), tool_done("t1")),
        race=14,
    ),
    story(
        "a tool that finishes after the end is ignored",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(100, caller_leaves(), do.AbandonTool("t1"), CLOSE_MODEL, end(EndReason.CALLER_LEFT)),
        at(200, tool_done("t1")),
        race=14,
    ),
    story(
        "speech that stops before it counts does not interrupt",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks()),
        at(700, caller_stops()),
        at(900, says("r1", "hello", 1000), ends("r1")),
        at(5000, hears("hello", 4000)),
        race=15,
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "speech that lasts long enough interrupts when it does",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks()),
        at(800, ev.CallerPersists(), CLEAR, cancel("r1"), truncate("hello", 800)),
        race=15,
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "speech that only the service hears interrupts when it would have told that it is over",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks()),
        at(1599),
        at(1600, CLEAR, cancel("r1"), truncate("hello", 1600)),
        race=15,
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "an answer that begins under the agent's last word is an answer, however short",
        at(0, response("r1"), says("r1", "hello", 3000), ends("r1")),
        at(2900, caller_speaks()),
        at(3650, caller_stops(), ASK, hears("hello", 3000)),
        race=15,
        on=plan(model=OBEYS, barge_in=400),
    ),
    story(
        "a cough under the agent's last word is a cough",
        at(0, response("r1"), says("r1", "hello", 3000), ends("r1")),
        at(2800, caller_speaks()),
        at(3400, caller_stops()),
        at(9000, hears("hello", 3000)),
        race=15,
        on=plan(model=OBEYS, barge_in=400),
    ),
    story(
        "what has interrupted does not interrupt once more",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks()),
        at(900, ev.CallerPersists(), CLEAR, cancel("r1"), truncate("hello", 900)),
        at(950, ends("r1", "cancelled")),
        at(1000, response("r2"), says("r2", "two", 3000), ends("r2")),
        at(4000, caller_stops(), ASK, hears("two", 3000)),
        race=15,
        on=plan(model=OBEYS, barge_in=400),
    ),
    story(
        "a cough over a protected greeting changes nothing where short sounds do not",
        at(0, response("r1"), says("r1", "welcome", 2000)),
        at(500, caller_speaks()),
        at(1100, caller_stops()),
        at(1600, ends("r1")),
        at(3000, hears("welcome", 2000)),
        race=16,
        on=plan(model=OBEYS, greeting="Greet.", greeting_protected=True, barge_in=400),
    ),
    story(
        "speech over a protected greeting is answered also by an agent that ignores short sounds",
        at(0, response("r1"), says("r1", "welcome", 2000)),
        at(500, caller_speaks()),
        at(900, ev.CallerPersists()),
        at(1500, caller_stops()),
        at(1600, ends("r1"), ASK),
        at(3000, hears("welcome", 2000)),
        race=16,
        on=plan(model=OBEYS, greeting="Greet.", greeting_protected=True, barge_in=300),
    ),
    story(
        "a protected greeting plays on over the caller, who is answered after it",
        at(0, response("r1"), says("r1", "welcome", 2000)),
        at(500, caller_speaks()),
        at(1500, caller_stops()),
        at(1600, ends("r1"), ASK),
        at(3000, hears("welcome", 2000)),
        race=16,
        on=plan(model=OBEYS, greeting="Greet.", greeting_protected=True),
    ),
    story(
        "after a protected greeting was heard the caller may interrupt",
        at(0, response("r1"), says("r1", "welcome", 500), ends("r1")),
        at(700, response("r2"), says("r2", "more", 2000)),
        at(1000, caller_speaks(), CLEAR, cancel("r2"), truncate("more", 300)),
        race=16,
        on=plan(model=OBEYS, greeting="Greet.", greeting_protected=True),
    ),
    story(
        "during the goodbye the caller is let go",
        at(0, response("r1"), says("r1", "goodbye", 1000)),
        at(10, ev.HangUpWished("agent")),
        at(20, ends("r1")),
        at(500, caller_speaks()),
        at(1000, HANG_UP, hears("goodbye", 1000)),
        at(1100, ev.HandedOver("hang_up", True), CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
        race=17,
    ),
    story(
        "during the goodbye the caller may take the call back, where the agent allows it",
        at(0, response("r1"), says("r1", "goodbye", 1000)),
        at(10, ev.HangUpWished("agent")),
        at(20, ends("r1")),
        at(500, caller_speaks(), CLEAR, truncate("goodbye", 500)),
        at(20_000),
        race=17,
        on=plan(interrupt_hang_up=True, answer_retry_s=100, answer_rotate_s=100, answer_filler_s=100),
    ),
    story(
        "a transfer under way when the caller leaves: one end, and the transfer's reason",
        at(0, response("r1"), says("r1", "one moment", 500)),
        at(10, ev.TransferWished("+15550003")),
        at(20, ends("r1")),
        at(500, do.Transfer("+15550003")),
        at(600, caller_leaves("stop"), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
        at(700, ev.HandedOver("transfer", True), caller_leaves("closed")),
        race=18,
    ),
    story(
        "the caller leaves while a tool runs: the tool is abandoned once",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t2"), run_tool("t2")),
        at(500, tool_done("t1"), submit("t1")),
        at(
            600,
            caller_leaves("status"),
            do.AbandonTool("t2"),
            CLOSE_MODEL,
            end(EndReason.CALLER_LEFT),
        ),
        race=18,
    ),
    story(
        "an announcement waits for what the caller is owed, and is not replaced by it",
        at(0, response("r1"), says("r1", "hello", 500), asks_tool("t1"), run_tool("t1")),
        at(970_000),
        at(970_001, tool_done("t1"), submit("t1")),
        at(970_100, ends("r1"), ASK),
        at(970_200, response("r2"), says("r2", "answer", 500)),
        at(970_300, ends("r2"), ask("Tell the caller politely that the call has to end in about half a minute.")),
        race=12,
        on=plan(
            max_call_s=1000,
            tools=tuple(msgspec.structs.replace(tool, timeout_s=2000.0) for tool in TOOLS),
            answer_retry_s=1e6,
        ),
    ),
    *(
        story(
            f"{what} is a note, and the call goes on",
            at(0, response("r1"), says("r1", "hello", 500)),
            at(100, complains("ignore", what), note("model_error_ignore", f"{what}: ")),
            at(2000, ends("r1"), hears("hello", 500)),
            race=19,
        )
        for what in ("response_cancel_not_active", "invalid_value", "item_truncate_invalid_item_id")
    ),
    story(
        "a refusal after what we had asked for was heard asks for nothing again",
        at(0, response("r1"), says("r1", "welcome", 1000), ends("r1")),
        at(2000, caller_speaks()),
        at(2500, caller_stops()),
        at(2510, complains("wait", "conversation_already_has_active_response")),
        at(2600, response("r2"), says("r2", "answer", 500), ends("r2")),
        at(9000, hears("welcome", 1000), hears("answer", 500)),
        race=19,
        on=plan(greeting="Greet."),
    ),
    story(
        "a response refused because another is active is asked for again when that one ended",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(500, tool_done("t1"), submit("t1"), ASK),
        at(510, complains("wait", "conversation_already_has_active_response")),
        at(520, response("r2"), says("r2", "hello", 500)),
        at(600, ends("r2"), ASK),
        race=19,
    ),
    story(
        "a refused response is asked for again in a moment when no other is known",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(500, tool_done("t1"), submit("t1"), ASK),
        at(510, complains("wait", "conversation_already_has_active_response")),
        at(1010, ASK),
        race=19,
    ),
    story(
        "a response the service began by itself is not mistaken for the one we asked for",
        at(0, response("r1"), says("r1", "hello", 500)),
        at(10, ends("r1")),
        at(970_000 - 10),
        at(970_000, ask("Tell the caller politely that the call has to end in about half a minute.")),
        at(970_010, response("r2"), says("r2", "something else", 500)),
        at(970_020, complains("wait", "conversation_already_has_active_response")),
        at(970_100, ends("r2"), ask("Tell the caller politely that the call has to end in about half a minute.")),
        race=19,
        on=plan(max_call_s=1000),
    ),
    story(
        "the session is lost while the agent speaks: what was received plays out, and is never truncated",
        at(0, response("r1"), words("r1", "hello", "one two three four"), says("r1", "hello", 2000)),
        at(
            500,
            lost(1),
            CLOSE_MODEL,
            open_model(2, 0, do.HistoryItem("agent", "one two three four")),
        ),
        at(1500, hears("hello", 1500)),
        race=20,
    ),
    *(
        story(
            f"{' then '.join(order)}: one end, the first reason",
            at(0, response("r1"), says("r1", "hello", 500)),
            at(100, caller_leaves(order[0]), CLOSE_MODEL, end(reason)),  # type: ignore[arg-type]
            at(110, caller_leaves(order[1])),  # type: ignore[arg-type]
            at(120, caller_leaves(order[2])),  # type: ignore[arg-type]
            race=21,
        )
        for order, reason in (
            (("stop", "closed", "status"), EndReason.CALLER_LEFT),
            (("closed", "stop", "status"), EndReason.STREAM_LOST),
            (("status", "closed", "stop"), EndReason.CALLER_LEFT),
            (("closed", "status", "stop"), EndReason.STREAM_LOST),
        )
    ),
    story(
        "two items of one response: positions are counted per item",
        at(0, response("r1"), says("r1", "first", 1000), item_done("r1", "first"), says("r1", "second", 3000)),
        at(1600, caller_speaks(), CLEAR, truncate("second", 600)),
        race=24,
    ),
    story(
        "two parts of one item: the content index is that of the audio",
        at(0, response("r1"), ev.ModelSpoke("r1", "item", 1, bytes(16_000), 2000)),
        at(600, caller_speaks(), CLEAR, truncate("item", 600, content_index=1)),
        race=24,
    ),
    story(
        "a second stream takes over: the old one is dropped, there is one session",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, stream("MZ2"), note("stream_replaced")),
        at(600, stream("MZ2")),
        race=25,
    ),
]


@pytest.mark.parametrize("row", RACES, ids=str)
def test_race(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_every_race_of_the_design_has_a_row() -> None:
    below = {11, 22, 23}  # these need a carrier that falls behind, or a deadline that is kept late
    assert {row.race for row in RACES} | below == set(range(1, 26))


def test_a_caller_who_leaves_while_the_model_connects_closes_it_once() -> None:
    """Race 18, before anybody has spoken."""
    book = Playbook(plan())
    book.play(
        at(0, ROUTED, open_model(1)),
        at(100, stream()),
        at(200, caller_leaves(), CLOSE_MODEL, end(EndReason.CALLER_LEFT)),
        at(300, ready(1)),
    )


def test_a_carrier_that_falls_behind_is_believed() -> None:
    """Race 11: its marks come late, so the caller heard less than the clock says."""
    book = Playbook.connected()
    book.play(at(0, response("r1"), says("r1", "hello", 5000)))
    book.run_until(1000)
    book.carrier.pause(1000, 400)
    book.play(at(2500, caller_speaks(), CLEAR, truncate("hello", 2100), hears("hello", 2100)))


def test_a_deadline_that_is_due_goes_before_the_callers_next_frame() -> None:
    """Race 22: the loop was late, and the frame comes first; the barge-in that was due is decided first."""
    book = Playbook.connected(plan(model=OBEYS, barge_in=300))
    book.play(at(0, response("r1"), says("r1", "hello", 300)), at(200, caller_speaks()))
    book.now = 1400
    assert book.call.deadline() is not None
    done = book.give(caller_audio())
    kinds = [type(one) for one in done]
    assert kinds.index(do.CancelResponse) < kinds.index(do.SendCallerAudio)


def test_when_marks_stop_the_ear_stops_and_is_never_ahead_of_what_was_sent() -> None:
    """Race 23: a carrier that has fallen silent is not believed to have played on."""
    book = Playbook.connected(carrier=Carrier(marks_held=(1000.0, 1e9)))
    book.play(at(0, response("r1"), says("r1", "hello", 20_000)))
    book.run_until(4000)
    done = book.give(caller_speaks())
    cut = next(one for one in done if isinstance(one, do.TruncateItem))
    sent = sum(one.ms for one in book.all(do.PlayAudio) if isinstance(one, do.PlayAudio))
    assert 1000 <= cut.audio_end_ms <= 1300
    assert cut.audio_end_ms <= sent < 2000


def test_a_carrier_whose_marks_never_come_again_is_played_to_by_the_clock() -> None:
    """Race 23: the caller must not be left in silence because marks are lost."""
    book = Playbook.connected(carrier=Carrier(marks_held=(1000.0, 1e9)))
    book.play(at(0, response("r1"), says("r1", "hello", 20_000), ends("r1")))
    book.run_until(60_000)
    assert book.heard_ms("hello") == 20_000
    assert not book.call.state.ledger.busy(book.now)


def test_audio_after_a_responses_end_is_not_heard() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), says("r1", "i", 2000), ends("r1")),
        at(1000, caller_speaks("c1"), CLEAR, truncate("i", 1000)),
        at(1050, says("r1", "i", 500)),
        at(1700, caller_stops("c1"), lambda book: _nothing_waits(book)),
        at(2000, response("r2"), says("r2", "j", 500), ends("r2")),
        at(2600, says("r2", "j", 20)),
        at(5000, response("r3"), says("r3", "k", 500), ends("r3")),
        at(6000, hears("j", 500), hears("k", 500)),
    )


def _nothing_waits(book: Playbook) -> None:
    assert not book.call.state.ledger.items and not book.call.state.ledger.busy(book.now)
