"""When nothing happens: dead air is covered, a model that does not answer is asked again, then replaced."""

from __future__ import annotations

import itertools

import pytest

from bridge.call import actions as do
from bridge.call.sessions import RESUME
from tests.call.playbook import (
    ASK,
    CLIPS,
    CLOSE_MODEL,
    OBEYS,
    Playbook,
    Story,
    ask,
    asks_tool,
    at,
    caller_speaks,
    caller_stops,
    cancel,
    ends,
    hears,
    note,
    open_model,
    plan,
    pressed,
    ready,
    response,
    run_tool,
    says,
    story,
    submit,
    tool_done,
    words,
)

STORIES: list[Story] = [
    story(
        "the service does not answer: a filler, another attempt, another session",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(2500, note("dead_air")),
        at(5000, note("answer_missing", "asking again"), ASK, note("dead_air")),
        at(8999),
        at(9000, CLOSE_MODEL, open_model(2, 0)),
        at(9200, ready(2), ask(RESUME)),
        on=plan(),
    ),
    story(
        "a response that was named and never speaks is not asked for again, but of another session",
        at(0, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(100, response("r1")),
        at(7999),
        at(8000, CLOSE_MODEL, open_model(2, 0, do.HistoryItem("caller", "The caller pressed #"))),
        at(8200, ready(2), ASK),
        at(8300, response("r2"), says("r2", "i", 500), ends("r2")),
        at(9000, hears("i", 500)),
        on=plan(model=OBEYS),
    ),
    story(
        "one that is named when it was asked for again is waited for as long, from then on",
        at(0, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(4000, ASK),
        at(4100, response("r1")),
        at(11_999),
        at(12_000, CLOSE_MODEL, open_model(2, 0, do.HistoryItem("caller", "The caller pressed #"))),
        on=plan(model=OBEYS),
    ),
    *(
        story(
            f"a service that takes {wait_ms} ms to its first sound, every time, is waited for",
            at(0, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
            at(100, response("r1")),
            at(wait_ms, says("r1", "i", 500), ends("r1")),
            at(10_000, caller_speaks()),
            at(11_000, caller_stops()),
            at(11_100, response("r2"), asks_tool("t1", response_id="r2"), run_tool("t1"), ends("r2")),
            at(11_200, tool_done("t1"), submit("t1"), ASK),
            at(11_300, response("r3")),
            at(11_200 + wait_ms, says("r3", "j", 500), ends("r3")),
            at(30_000, hears("i", 500), hears("j", 500)),
        )
        for wait_ms in (4500, 7000)
    ),
    *(
        story(
            f"the asking for the greeting was swallowed: what the caller asks is answered, once; interruptions {mode}",
            at(1000, caller_speaks()),
            at(2000, caller_stops()),
            at(2200, response("r1")),
            at(2700, says("r1", "i", 500), ends("r1")),
            at(20_000, hears("i", 500)),
            on=plan(greeting="Greet.", barge_in=mode),
        )
        for mode in ("immediate", "off")
    ),
    *(
        story(
            f"the same with a service that answers when it is asked; interruptions {mode}",
            at(1000, caller_speaks()),
            at(2000, caller_stops()),
            at(6000, ASK),
            at(6100, response("r1")),
            at(6500, says("r1", "i", 500), ends("r1")),
            at(20_000, hears("i", 500)),
            on=plan(greeting="Greet.", model=OBEYS, barge_in=mode),
        )
        for mode in ("immediate", "off")
    ),
    story(
        "the same with a service that swallows its own answer too",
        at(1000, caller_speaks()),
        at(2000, caller_stops()),
        at(6000, ASK),
        at(6100, response("r1")),
        at(6500, says("r1", "i", 500), ends("r1")),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet."),
    ),
    story(
        "what the caller has to be told and was swallowed comes after the answer to what they said since",
        at(970_000, ask("Tell the caller politely that the call has to end in about half a minute.")),
        at(970_100, caller_speaks()),
        at(971_000, caller_stops()),
        at(975_000, ASK),
        at(975_100, response("r1"), says("r1", "i", 500)),
        at(975_200, ends("r1"), ask("Tell the caller politely that the call has to end in about half a minute.")),
        on=plan(max_call_s=1000, barge_in="off"),
    ),
    story(
        "a response that stops in mid-sentence is cancelled, and the agent goes on from there",
        at(0, response("r1"), says("r1", "i", 2000)),
        at(5999),
        at(6000, cancel("r1"), ask(RESUME)),
        at(6100, response("r2"), says("r2", "j", 500), says("r1", "i", 500), ends("r2")),
        at(9000, hears("i", 2000), hears("j", 500)),
        on=plan(model=OBEYS),
    ),
    story(
        "a model that is slow, but speaks, is left alone",
        at(0, response("r1"), says("r1", "i", 500)),
        at(2000, says("r1", "i", 500)),
        at(5000, says("r1", "i", 500)),
        at(8000, says("r1", "i", 500), ends("r1")),
        at(20_000, hears("i", 2000)),
        on=plan(model=OBEYS),
    ),
    story(
        "an answer in time needs no filler",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(2400, response("r1"), words("r1", "i", "yes"), says("r1", "i", 3000), ends("r1")),
        at(20_000, lambda book: _fillers(book, 0)),
        on=plan(clips=CLIPS),
    ),
    story(
        "the time that what is being said still takes is not dead air",
        at(0, response("r1"), says("r1", "i", 5000), ends("r1")),
        at(100, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(1500, response("r2"), says("r2", "j", 500), ends("r2")),
        at(20_000, hears("i", 5000), hears("j", 500), lambda book: _fillers(book, 0)),
        on=plan(clips=CLIPS, barge_in="off", model=OBEYS),
    ),
    story(
        "a tool runs while the agent still speaks: nobody talks over that",
        at(0, response("r1"), says("r1", "i", 5000), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(4000, tool_done("t1"), submit("t1"), ASK),
        at(4100, response("r2"), says("r2", "j", 500), ends("r2")),
        at(20_000, hears("i", 5000), hears("j", 500), lambda book: _fillers(book, 0)),
        on=plan(clips=CLIPS),
    ),
    story(
        "nothing is owed to a caller who is speaking",
        at(0, caller_speaks()),
        at(20_000, lambda book: _fillers(book, 0)),
        on=plan(clips=CLIPS),
    ),
    story(
        "an interruption ends a filler, which was never part of the conversation",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(2600, lambda book: _fillers(book, 1)),
        at(2700, caller_speaks(), do.ClearPlayback()),
        at(2800, lambda book: _conversation(book, [])),
        on=plan(clips=CLIPS),
    ),
]


def _played(book: Playbook) -> int:
    """How many fillers."""
    book.carrier.advance(book.now)
    return sum(stretch.tag == CLIPS["filler"][0] for stretch in book.carrier.played)


def _fillers(book: Playbook, count: int) -> None:
    assert _played(book) == count


def _conversation(book: Playbook, expected: list[tuple[str, str]]) -> None:
    assert book.conversation() == expected


@pytest.mark.parametrize("row", STORIES, ids=str)
def test_silence(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_dead_air_is_never_longer_than_three_seconds_while_something_is_owed() -> None:
    book = Playbook.connected(plan(clips=CLIPS, answer_retry_s=60, answer_rotate_s=120))
    book.give(caller_speaks())
    book.run_until(1000)
    book.give(caller_stops())
    book.run_until(30_000)
    begins = [stretch.begins for stretch in book.carrier.played]
    assert begins[0] == 2500
    assert all(after - before <= 3000 for before, after in itertools.pairwise(begins))
    assert begins[-1] > 26_000


def test_a_filler_that_is_cut_short_is_followed_no_later_than_one_that_was_heard() -> None:
    book = Playbook.connected(plan(clips={"filler": b"\x01" * 48_000}, answer_retry_s=60, answer_rotate_s=120))
    book.give(caller_speaks())
    book.run_until(1000)
    book.give(caller_stops())
    book.run_until(3000)  # half a second into six
    book.give(pressed("#"))
    assert book.all(do.ClearPlayback)
    book.run_until(9000)
    assert [round(stretch.begins) for stretch in book.carrier.played if stretch.begins > 3000] == [5500]


def test_one_filler_is_enough_for_a_sentence_that_halts() -> None:
    book = Playbook.connected(plan(clips=CLIPS, answer_retry_s=60, answer_rotate_s=120))
    book.give(response("r1"))
    book.give(says("r1", "i", 1000))
    book.run_until(30_000)
    assert _played(book) == 1


def test_every_wait_has_a_first_filler_of_its_own() -> None:
    book = Playbook.connected(plan(clips=CLIPS))
    for began in (0, 3000):
        book.run_until(began)
        book.give(caller_speaks())
        book.run_until(began + 1000)
        book.give(caller_stops())
    book.run_until(6500)
    assert [stretch.begins for stretch in book.carrier.played] == [2500, 5500]
