"""Tools: run once, answered once, spoken about once, and never in the way of the audio."""

from __future__ import annotations

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.sessions import RESUME
from bridge.call.toolcalls import STILL_RUNNING, TIMED_OUT, TOO_MANY, UNKNOWN
from tests.call.playbook import (
    ASK,
    CLEAR,
    CLIPS,
    CLOSE_MODEL,
    INTERRUPTS,
    OBEYS,
    TOOLS,
    Playbook,
    Story,
    ask,
    asks_tool,
    at,
    caller_speaks,
    caller_stops,
    ends,
    hears,
    lost,
    note,
    open_model,
    plan,
    ready,
    response,
    run_tool,
    says,
    story,
    submit,
    tool_done,
    truncate,
    words,
)


def told(output: str, name: str = "look_up") -> do.TellModel:
    """How a session hears of a tool it did not ask for."""
    return do.TellModel("note", f"The tool {name} has answered by now: {output}")


def called(call_id: str, output: str, name: str = "look_up") -> do.HistoryItem:
    return do.HistoryItem("tool", output, call_id, name, "{}")


LOST_IN_A_TOOL = (
    at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
    at(10, ends("r1")),
    at(100, lost(1), CLOSE_MODEL, open_model(2, 0, called("t1", STILL_RUNNING))),
)

STORIES: list[Story] = [
    story(
        "two calls of one response: one answer, when both are in, whatever their order",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t2", "book"), run_tool("t2", "book")),
        at(10, ends("r1")),
        at(300, tool_done("t2"), submit("t2")),
        at(900, tool_done("t1"), submit("t1"), ASK),
    ),
    story(
        "a fast tool does not bring its answer before the second call of the same response",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), tool_done("t1"), submit("t1")),
        at(10, asks_tool("t2"), run_tool("t2")),
        at(20, ends("r1")),
        at(800, tool_done("t2"), submit("t2"), ASK),
    ),
    story(
        "one of two calls times out: its answer says so, and the model goes on",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t2"), run_tool("t2")),
        at(10, ends("r1")),
        at(300, tool_done("t2"), submit("t2")),
        at(10_000, do.AbandonTool("t1"), submit("t1", TIMED_OUT), ASK),
    ),
    story(
        "a tool nobody knows is answered at once",
        at(0, response("r1"), asks_tool("t1", "dance"), submit("t1", UNKNOWN)),
        at(10, ends("r1"), ASK),
    ),
    story(
        "a call repeated by the service is not run twice",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t1")),
        at(10, ends("r1")),
        at(300, tool_done("t1"), submit("t1"), ASK),
        at(310, asks_tool("t1", response_id="r1")),
    ),
    story(
        "more calls in one turn than the agent allows are refused",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, asks_tool("t2"), run_tool("t2")),
        at(20, asks_tool("t3"), note("tool_refused", "look_up"), submit("t3", TOO_MANY)),
        at(30, ends("r1")),
        on=plan(tools_per_turn=2),
    ),
    story(
        "a new turn of the caller's starts the count anew, the call's own count goes on",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1"), tool_done("t1"), submit("t1"), ASK),
        at(20, response("r2"), says("r2", "done", 200), ends("r2")),
        at(1000, caller_speaks()),
        at(2000, caller_stops()),
        at(2100, response("r3"), asks_tool("t2", response_id="r3"), run_tool("t2")),
        at(2110, ends("r3"), tool_done("t2"), submit("t2"), ASK),
        at(2120, response("r4"), says("r4", "done", 200), ends("r4")),
        at(3000, caller_speaks()),
        at(4000, caller_stops()),
        at(4100, response("r5"), asks_tool("t3", response_id="r5"), submit("t3", TOO_MANY)),
        on=plan(tools_per_turn=1, tools_per_call=2),
    ),
    story(
        "a call asked for by a response that was cut is not run",
        at(0, response("r1"), says("r1", "hello", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(510, asks_tool("t1")),
        at(520, ends("r1", "cancelled")),
    ),
    story(
        "a tool that runs while the caller interrupts: its output goes in, one reply covers both",
        at(0, response("r1"), says("r1", "one moment", 1000), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(500, caller_speaks(), CLEAR, truncate("one moment", 500)),
        at(700, tool_done("t1"), submit("t1")),
        at(900, caller_stops(), ASK),
        at(1000, response("r2"), says("r2", "both", 500), ends("r2")),
        at(5000, hears("both", 500)),
        on=plan(model=OBEYS),
    ),
    story(
        "the session is lost while a tool runs: the next one is told the outcome when it is known",
        *LOST_IN_A_TOOL,
        at(200, tool_done("t1", '"42"')),
        at(300, ready(2), told('"42"'), ASK),
    ),
    story(
        "nor is the next one asked for anything before that",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(6000, lambda book: _fillers(book, 2)),
        at(6300, tool_done("t1", '"42"'), told('"42"'), ASK),
        at(6500, response("r2"), says("r2", "forty-two", 500), ends("r2")),
        at(20_000, hears("forty-two", 500), lambda book: _fillers(book, 2)),
        on=plan(clips=CLIPS),
    ),
    story(
        "a tool that does not answer in time is told of in the same way",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(10_000, do.AbandonTool("t1"), told(TIMED_OUT), ASK),
        at(10_500, response("r2"), says("r2", "sorry", 500), ends("r2")),
        at(20_000, hears("sorry", 500)),
    ),
    story(
        "a caller who speaks meanwhile is answered, and hears of the tool when it is done",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(1000, caller_speaks()),
        at(2000, caller_stops()),
        at(2200, response("r2"), says("r2", "a moment", 500), ends("r2")),
        at(4000, tool_done("t1", '"42"'), told('"42"'), ASK),
        at(4200, response("r3"), says("r3", "forty-two", 500), ends("r3")),
        at(20_000, hears("a moment", 500), hears("forty-two", 500)),
    ),
    story(
        "and where the service does not begin that answer, it is asked for",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(1000, caller_speaks()),
        at(2000, caller_stops()),
        at(6000, ASK),
        at(6200, response("r2"), says("r2", "a moment", 500), ends("r2")),
        at(8000, tool_done("t1", '"42"'), told('"42"'), ASK),
    ),
    story(
        "of two tools the one that has answered is told as any other; the model goes on when both have",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t2", "book"), run_tool("t2", "book")),
        at(10, ends("r1")),
        at(50, tool_done("t1", '"42"'), submit("t1", '"42"')),
        at(
            100,
            lost(1),
            CLOSE_MODEL,
            open_model(2, 0, called("t1", '"42"'), called("t2", STILL_RUNNING, "book")),
        ),
        at(300, ready(2)),
        at(4000, tool_done("t2", '"booked"'), told('"booked"', "book"), ASK),
    ),
    story(
        "the session that followed is lost as well: a tool that still runs is still running",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(2000, lost(2, "rotate"), CLOSE_MODEL),
        at(2500, open_model(3, 0, called("t1", STILL_RUNNING))),
        at(2600, ready(3)),
        at(4000, tool_done("t1", '"42"'), told('"42"'), ASK),
    ),
    story(
        "what was told and not spoken is in the history of the third session, which speaks it",
        *LOST_IN_A_TOOL,
        at(300, ready(2)),
        at(1000, tool_done("t1", '"42"'), told('"42"'), ASK),
        at(1100, lost(2, "rotate"), CLOSE_MODEL),
        at(1600, open_model(3, 0, called("t1", '"42"'))),
        at(1700, ready(3), ASK),
    ),
    story(
        "the session beside takes over while a tool runs",
        at(479_900, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(479_910, ends("r1")),
        at(480_000, open_model(2, 0)),
        at(480_100, ready(2)),
        at(480_200, lost(1), do.SwitchModel(2, (called("t1", STILL_RUNNING),))),
        at(484_000, tool_done("t1", '"42"'), told('"42"'), ASK),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
    story(
        "the session is lost when the tool has answered and its response has not ended: it is spoken of once",
        at(0, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(50, tool_done("t1", '"42"'), submit("t1", '"42"')),
        at(100, lost(1), CLOSE_MODEL, open_model(2, 0, called("t1", '"42"'))),
        at(300, ready(2), ask(RESUME)),
        at(500, response("r2"), says("r2", "forty-two", 500), ends("r2")),
        at(20_000, hears("forty-two", 500)),
    ),
]


def _fillers(book: Playbook, count: int) -> None:
    assert book.clip_ms("filler") == 400 * count


@pytest.mark.parametrize("row", STORIES, ids=str)
def test_tools(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_a_model_that_calls_tools_for_ever_is_not_asked_to_go_on_for_ever() -> None:
    book = Playbook.connected(plan(tools_per_turn=3))
    book.give(response("r0"))
    for number in range(100):
        book.give(asks_tool(f"t{number}", "look_up", f"r{number}"))
        book.give(tool_done(f"t{number}"))
        book.give(ends(f"r{number}"))
        if ASK not in book.read():
            break
        book.give(response(f"r{number + 1}"))
    assert number == 5  # three that run, two refusals, and then enough


def test_a_long_tool_is_covered_by_a_word() -> None:
    slow = TOOLS[:1]
    book = Playbook.connected(plan(tools=slow, clips=CLIPS))
    book.give(response("r1"))
    book.give(asks_tool("t1"))
    book.give(ends("r1"))
    book.run_until(1400)
    assert book.clip_ms("filler") == 0
    book.run_until(2000)
    assert book.clip_ms("filler") == 400


def test_the_order_of_the_conversation_holds_when_a_tool_interrupts() -> None:
    """What the caller said is written down after the tool was asked for, and stands before it all the same."""
    book = Playbook.connected()
    book.give(caller_speaks("c1"))
    book.run_until(900)
    book.give(caller_stops("c1"))
    book.give(ev.CallerTurnEnded("c1"))
    book.give(response("r1"))
    book.give(asks_tool("t1"))
    book.give(ends("r1"))
    book.give(tool_done("t1", '"four"'))
    book.give(response("r2"))
    book.give(words("r2", "answer", "It is four."))
    book.give(says("r2", "answer", 800))
    book.give(ev.CallerTranscribed("c1", "what is two and two"))
    book.give(ends("r2"))
    book.run_until(5000)
    assert book.conversation() == [("caller", "what is two and two"), ("tool", '"four"'), ("agent", "It is four.")]
