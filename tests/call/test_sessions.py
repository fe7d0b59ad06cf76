"""The model's sessions come and go; the caller's leg stays, and nothing they said is lost."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities, SessionPlan
from bridge.call.responses import AGAIN
from bridge.call.sessions import RESUME
from bridge.call.toolcalls import STILL_RUNNING
from bridge.errors import EndReason
from tests.call.playbook import (
    ASK,
    CLEAR,
    CLIPS,
    CLOSE_MODEL,
    COMMIT,
    HANG_UP,
    INTERRUPTS,
    OBEYS,
    ROUTED,
    Playbook,
    Step,
    Story,
    ask,
    asks_tool,
    at,
    caller_audio,
    caller_said,
    caller_speaks,
    caller_stops,
    complains,
    end,
    ends,
    hears,
    lost,
    note,
    open_model,
    plan,
    pressed,
    ready,
    response,
    run_tool,
    says,
    sends_model,
    story,
    stream,
    submit,
    tool_done,
    truncate,
    turn_ends,
    words,
)

SECOND = msgspec.structs.replace(INTERRUPTS, name="second", max_session_s=None)


def agent(text: str) -> do.HistoryItem:
    return do.HistoryItem("agent", text)


def caller(text: str) -> do.HistoryItem:
    return do.HistoryItem("caller", text)


def switch(session: int, *news: do.HistoryItem) -> do.SwitchModel:
    return do.SwitchModel(session, news)


def _serves_for_a_moment(session: int, at_ms: float, *then: do.Action) -> tuple[Step, Step]:
    """It becomes ready, says something, and is lost."""
    name = f"r{session}"
    heard = (response(name), says(name, f"i{session}", 100))
    return (
        at(at_ms, ready(session), ask(RESUME)),
        at(at_ms + 10, *heard, lost(session), CLOSE_MODEL, *then),
    )


STORIES: list[Story] = [
    story(
        "lost while idle: nothing is heard of it",
        at(0, response("r1"), words("r1", "i", "hello"), says("r1", "i", 500), ends("r1")),
        at(1000, lost(1), CLOSE_MODEL, open_model(2, 0, agent("hello"))),
        at(1300, ready(2)),
        at(9000, lambda book: _clip(book, "filler", 0)),
        on=plan(clips=CLIPS),
    ),
    story(
        "ids of the lost session mean nothing in the next, which may use them again",
        at(0, response("r1"), says("r1", "i", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("i", 500)),
        at(600, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(800, ready(2), ask(RESUME)),
        at(900, response("r1"), says("r1", "j", 600), ends("r1")),
        at(3000, hears("j", 600)),
    ),
    story(
        "lost in mid-sentence: what was received plays out, then the agent goes on",
        at(0, response("r1"), words("r1", "i", "hello there"), says("r1", "i", 2000)),
        at(500, lost(1), CLOSE_MODEL, open_model(2, 0, agent("hello there"))),
        at(800, ready(2), ask(RESUME)),
        at(1000, response("r9"), says("r9", "j", 500), ends("r9")),
        at(4000, hears("i", 2000), hears("j", 500)),
    ),
    story(
        "sessions that end as soon as they begin are not opened ever faster",
        at(0, lost(1, "rotate"), CLOSE_MODEL, open_model(2, 0)),
        at(10, lost(2, "rotate")),
        at(510, open_model(3, 0)),
        at(520, lost(3, "rotate")),
        at(2020, open_model(4, 0)),
        at(2030, ready(4)),
        at(9000),
    ),
    story(
        "an answer in writing: the next session has the history in its instructions, and every later one",
        at(
            100,
            response("r1"),
            words("r1", "i", "I can only write."),
            ends("r1"),
            CLOSE_MODEL,
            do.OpenModel(2, 0, (), True),
        ),
        at(200, ready(2), ask(RESUME)),
        at(300, response("r3"), words("r3", "k", "spoken"), says("r3", "k", 500), ends("r3")),
        at(
            1000,
            lost(2),
            CLOSE_MODEL,
            do.OpenModel(3, 0, (agent("spoken"),), True),
        ),
    ),
    story(
        "what cannot be answered twice is asked to be said again, and in the end by a clip",
        at(0, response("r1"), ends("r1", "incomplete", reason="content_filter"), ASK),
        at(10, response("r2"), ends("r2", "incomplete", reason="content_filter"), ask(AGAIN)),
        at(20, response("r3"), ends("r3", "incomplete", reason="content_filter")),
        at(2000, lambda book: _clip(book, "again", 300)),
        at(2100, caller_speaks()),
        at(3000, caller_stops()),
        at(3100, response("r4"), says("r4", "i", 500), ends("r4")),
        on=plan(clips=CLIPS),
    ),
    story(
        "an answer the service takes back by itself, before its first sound, is asked for",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(1200, response("r1")),
        at(1600, ends("r1", "cancelled"), ASK),
        at(1700, response("r2"), ends("r2", "cancelled"), ask(AGAIN)),
        at(1800, response("r3"), says("r3", "i", 500), ends("r3")),
    ),
    story(
        "one taken back for a turn nobody else heard is asked for in time",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(1200, response("r1")),
        at(1600, ends("r1", "cancelled", reason="turn_detected")),
        at(5000, ASK),
        at(5100, response("r2"), says("r2", "i", 500), ends("r2")),
    ),
    story(
        "one that is taken back because the caller goes on, or has gone on, is not",
        at(0, caller_speaks()),
        at(1000, caller_stops()),
        at(1200, response("r1")),
        at(1300, caller_speaks()),
        at(1350, ends("r1", "cancelled", reason="turn_detected")),
        at(2000, caller_stops()),
        at(2200, response("r2"), says("r2", "i", 500), ends("r2")),
    ),
    story(
        "words whose sound never came are not told as heard",
        at(0, response("r1"), words("r1", "i", "one two three four five six seven"), says("r1", "i", 1000)),
        at(500, lost(1), CLOSE_MODEL, open_model(2, 0, agent("one two three"))),
        at(800, ready(2), ask(RESUME)),
        at(3000, lost(2, "rotate"), CLOSE_MODEL),
        at(3500, open_model(3, 0, agent("one two three"))),
    ),
    story(
        "items of the lost session may be interrupted, and are not truncated",
        at(0, response("r1"), says("r1", "i", 2000), says("r1", "j", 500)),
        at(500, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(800, ready(2), ask(RESUME)),
        at(1000, caller_speaks(), CLEAR),
        at(4000, hears("i", 1000), hears("j", 0)),
    ),
    story(
        "what was asked for and not heard is asked for again",
        at(0, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(100, lost(1), CLOSE_MODEL, open_model(2, 0, caller("The caller pressed #"))),
        at(300, ready(2), ASK),
    ),
    story(
        "keys pressed while a session opens are told to it",
        at(0, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(100, pressed("4"), pressed("#")),
        at(300, ready(2), do.TellModel("caller", "The caller pressed 4#"), ASK),
    ),
    story(
        "sessions that serve for a moment and break, again and again, are waited for and then given up",
        at(0, response("r1"), says("r1", "i1", 100), lost(1), CLOSE_MODEL, open_model(2)),
        *_serves_for_a_moment(2, 10, open_model(3)),
        *_serves_for_a_moment(3, 30),
        *(at(540, open_model(4)), *_serves_for_a_moment(4, 550)),
        *(at(2060, open_model(5)), *_serves_for_a_moment(5, 2070)),
        *(at(3580, open_model(6)), *_serves_for_a_moment(6, 3590)),
        *(at(5100, open_model(7)), *_serves_for_a_moment(7, 5110)),
        at(5220, HANG_UP),
        on=plan(),
    ),
    story(
        "a session that breaks after it served for a while is followed by another at once, however often",
        *(
            step
            for n in range(1, 10)
            for step in (
                at(10_000 * n, lost(n), CLOSE_MODEL, open_model(n + 1)),
                at(10_000 * n, ready(n + 1)),
            )
        ),
        on=plan(),
    ),
    story(
        "a session that was there in silence for long was no failed attempt",
        at(1000, response("r1"), says("r1", "i", 500), ends("r1")),
        at(10_000, lost(1), CLOSE_MODEL, open_model(2)),
        at(10_100, ready(2)),
        at(40_000, caller_speaks()),
        at(40_500, caller_stops()),
        at(41_000, lost(2), CLOSE_MODEL, open_model(3)),
        on=plan(clips=CLIPS),
    ),
    story(
        "sessions that live for some seconds serve all the same, while nobody waits",
        *(
            step
            for n in range(1, 20)
            for step in (
                at(8000 * n, lost(n, "rotate"), CLOSE_MODEL, open_model(n + 1)),
                at(8000 * n + 100, ready(n + 1)),
            )
        ),
        on=plan(),
    ),
    story(
        "or where each gives its answer",
        *(
            step
            for n in range(1, 20)
            for step in (
                at(8000 * n - 1500, caller_speaks()),
                at(8000 * n - 1000, caller_stops()),
                at(8000 * n - 900, response(f"r{n}"), says(f"r{n}", f"i{n}", 300), ends(f"r{n}")),
                at(8000 * n, lost(n, "rotate"), CLOSE_MODEL, open_model(n + 1)),
                at(8000 * n + 100, ready(n + 1)),
            )
        ),
        on=plan(),
    ),
    story(
        "attempts wait longer each time; a rotation does not wait",
        at(0, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(10, lost(2)),
        at(10),
        at(10 + 0, lost(2)),  # said twice: once is enough
        at(509),
        at(510, open_model(3, 0)),
        at(520, ready(3)),
        at(600, lost(3, "rotate"), CLOSE_MODEL, open_model(4, 0)),
        on=plan(model_retry_s=(0.0, 0.5, 1.5)),
    ),
    story(
        "a service that asks for time gets up to two seconds",
        at(0, lost(1, retry_after_s=30.0), CLOSE_MODEL),
        at(1999),
        at(2000, open_model(2, 0)),
    ),
    story(
        "and is asked once more, not for ever",
        at(0, lost(1, retry_after_s=1.0), CLOSE_MODEL),
        at(1000, open_model(2, 0)),
        at(1010, lost(2, retry_after_s=1.0), HANG_UP),
        at(1020, ev.HandedOver("hang_up", True), end(EndReason.MODEL_UNAVAILABLE)),
    ),
    story(
        "where another service is there, nobody waits for one that asks for long",
        at(0, lost(1, retry_after_s=30.0), CLOSE_MODEL, open_model(2, 1)),
        at(100, ready(2)),
        at(5000),
        on=plan(models=(INTERRUPTS, SECOND)),
    ),
    story(
        "a service that was heard before is tried for five seconds at least, and the next one's turn comes sooner",
        at(0, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(10, lost(2)),
        at(510, open_model(3, 0)),
        at(520, lost(3)),
        at(2020, open_model(4, 0)),
        at(2030, lost(4), open_model(5, 1)),
        at(2040, lost(5), open_model(6, 1)),
        at(2050, lost(6)),
        at(2550, open_model(7, 1)),
        at(2560, lost(7)),
        at(4060, open_model(8, 1)),
        at(4070, lost(8)),
        at(5570, open_model(9, 1)),
        at(5580, ready(9)),
        at(9000),
        on=plan(models=(INTERRUPTS, SECOND)),
    ),
    story(
        "an attempt that is not ready in time has failed",
        at(0, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(4999),
        at(5000),
        at(5500, open_model(3, 0)),
        at(5600, ready(2)),  # too late: nobody listens to it any more
        at(5700, ready(3)),
    ),
    story(
        "the first service is down: the next one takes over, with the conversation",
        at(0, response("r1"), words("r1", "i", "hello"), says("r1", "i", 500), ends("r1")),
        at(
            1000,
            lost(1, "fatal"),
            CLOSE_MODEL,
            open_model(2, 1, agent("hello")),
        ),
        at(1200, ready(2)),
        at(1300, caller_speaks()),
        at(2000, caller_stops(), ASK),
        on=plan(models=(INTERRUPTS, OBEYS)),
    ),
    story(
        "two responses in a row that fail: another session",
        at(0, response("r1"), ends("r1", "failed", reason="server_error"), ASK),
        at(10, response("r2"), ends("r2", "failed", reason="server_error"), CLOSE_MODEL, open_model(2, 0)),
        at(200, ready(2), ask(RESUME)),
    ),
    story(
        "a response that was refused for its content is asked for once more",
        at(0, response("r1"), ends("r1", "incomplete", reason="content_filter"), ASK),
        at(10, response("r2"), says("r2", "j", 300), ends("r2")),
    ),
    story(
        "a failed response that says the quota is gone ends the service",
        at(0, response("r1"), ends("r1", "failed", reason="insufficient_quota", cure="fatal"), CLOSE_MODEL, HANG_UP),
        at(100, ev.HandedOver("hang_up", True), end(EndReason.MODEL_REFUSED)),
    ),
    story(
        "a session that expires is followed by another at once",
        at(0, complains("rotate", "session_expired"), CLOSE_MODEL, open_model(2, 0)),
    ),
    story(
        "an unknown complaint is a note",
        at(0, complains("note", "weird"), note("model_error_note", "weird: ")),
        at(5000),
    ),
    story(
        "a session's end in sight: the next is opened beside it and takes over between two turns",
        at(0, response("r1"), words("r1", "i", "hello"), says("r1", "i", 500), ends("r1")),
        at(479_000, response("r2"), words("r2", "j", "well then"), says("r2", "j", 4000)),
        at(480_000, open_model(2, 0, agent("hello"))),
        at(480_400, ready(2, 600.0)),
        at(481_000, ends("r2")),
        at(482_999),
        at(483_000, switch(2, agent("well then")), hears("j", 4000)),
        at(484_000, caller_speaks()),
        at(485_000, caller_stops()),
        at(485_200, response("r3"), says("r3", "k", 300), ends("r3")),
        at(486_000, hears("k", 300)),
        at(960_399),
        at(960_400, open_model(3, 0, agent("hello"), agent("well then"))),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
    story(
        "it never takes over while somebody speaks, waits for an answer or for a tool",
        at(479_500, caller_speaks("c1")),
        at(480_000, open_model(2, 0)),
        at(480_100, ready(2)),
        at(481_000, caller_stops("c1"), turn_ends("c1"), caller_said("c1", "what is it")),
        at(481_500, response("r1"), asks_tool("t1"), run_tool("t1")),
        at(481_510, ends("r1")),
        at(482_000, tool_done("t1", '"4"'), submit("t1", '"4"'), ASK),
        at(482_200, response("r2"), words("r2", "i", "four"), says("r2", "i", 600), ends("r2")),
        at(
            482_800,
            switch(
                2,
                caller("what is it"),
                do.HistoryItem("tool", '"4"', "t1", "look_up", "{}"),
                agent("four"),
            ),
        ),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
    story(
        "the old session ends before a turn does: the next takes over at once",
        at(480_000, open_model(2, 0)),
        at(480_100, response("r1"), words("r1", "i", "one two"), says("r1", "i", 3000)),
        at(480_200, ready(2)),
        at(480_500, lost(1, "rotate"), switch(2, agent("one two")), ask(RESUME)),
        at(481_000, response("r2"), says("r2", "j", 500), ends("r2")),
        at(484_000, hears("i", 3000), hears("j", 500)),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
    story(
        "the old session ends before the next is there: both are closed and one is opened",
        at(480_000, open_model(2, 0)),
        at(480_500, lost(1, "rotate"), CLOSE_MODEL, open_model(3, 0)),
        at(480_600, ready(2)),
        at(480_700, ready(3)),
        at(481_000, lost(2)),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
    story(
        "the next session cannot be had: the old one serves on, and another attempt follows",
        at(480_000, open_model(2, 0)),
        at(480_100, lost(2), note("next_model_lost", "gone")),
        at(490_100, open_model(3, 0)),
        at(490_200, ready(3), switch(3)),
        on=plan(model=msgspec.structs.replace(INTERRUPTS, max_session_s=600.0), max_call_s=0),
    ),
]


STORIES += [
    story(
        "a voice the service says nothing of: is it still there? What was said since its last word is sent again",
        at(0, response("r1"), words("r1", "i", "hello"), says("r1", "i", 500), ends("r1")),
        at(3000, caller_audio(1000), ev.CallerUnheard(), do.ProbeModel()),
        at(4500, lost(1, silent_ms=3500), CLOSE_MODEL, open_model(2, 0, agent("hello"))),
        at(4600, ready(2)),
        at(8600, ASK),  # it heard no turn in that: it is asked
    ),
    story(
        "a service that was silent while nobody spoke owes nothing",
        at(0, response("r1"), words("r1", "i", "hello"), says("r1", "i", 500), ends("r1")),
        at(9000, lost(1, silent_ms=8500), CLOSE_MODEL, open_model(2, 0, agent("hello"))),
        at(9100, ready(2)),
        at(20_000, lambda book: _clip(book, "filler", 0)),
        on=plan(clips=CLIPS),
    ),
    story(
        "nobody talks over a caller who speaks while there is no session; then they are owed an answer",
        at(0, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(600, ev.CallerUnheard()),
        at(2000, lost(2)),
        at(2500, open_model(3, 0), lambda book: _clip(book, "filler", 0)),
        at(2600, ev.CallerUnheard()),
        at(3000, ev.CallerQuiet()),
        at(4400, lambda book: _clip(book, "filler", 400)),
        at(4500, ready(3), ask(RESUME)),
        on=plan(clips=CLIPS),
    ),
    story(
        "a caller nothing more is heard of has come to an end",
        at(0, caller_speaks()),
        at(100, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(3000, lambda book: _clip(book, "filler", 0)),
        at(4600, lambda book: _clip(book, "filler", 400)),
        on=plan(clips=CLIPS),
    ),
    story(
        "speech in held audio, told of late, does not silence who speaks now",
        at(0, caller_audio(1000), caller_speaks()),
        at(500, caller_stops()),
        at(600, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(2000, ready(2)),
        at(2050, caller_speaks("c1"), caller_stops("c1")),
        at(2400, lambda book: _clip(book, "filler", 400)),
        at(2500, response("r1"), says("r1", "i", 500), ends("r1")),
        at(3500, hears("i", 500)),
        on=plan(clips=CLIPS),
    ),
    story(
        "but a caller who goes on speaking interrupts, a little later",
        at(0, caller_audio(1000), caller_speaks()),
        at(600, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(700, ev.CallerQuiet()),
        at(1750, ready(2)),
        at(1800, caller_speaks("c1")),
        at(2200, CLEAR, lambda book: _clip(book, "filler", 500)),
        at(4000, lambda book: _clip(book, "filler", 500)),
        on=plan(clips={"filler": bytes([250]) * 8000}),
    ),
]


def _clip(book: Playbook, clip: str, ms: float) -> None:
    assert book.clip_ms(clip) == ms


@pytest.mark.parametrize("row", STORIES, ids=str)
def test_sessions(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_a_caller_who_speaks_before_the_model_is_there_is_heard_from_the_first_word() -> None:
    book = Playbook(plan())
    book.play(at(0, ROUTED, open_model(1, 0)), at(50, stream()))
    for value in range(1, 21):
        book.run_until(book.now + 20)
        book.give(caller_audio(20, value))
    done = book.give(ready())
    held = next(one for one in done if isinstance(one, do.SendCallerAudio))
    assert held.audio == b"".join(caller_audio(20, value).audio for value in range(1, 21))
    assert book.give(caller_audio(20, 99)) == [do.SendCallerAudio(caller_audio(20, 99).audio)]


def test_of_a_long_wait_the_last_eight_seconds_are_kept() -> None:
    book = Playbook(plan())
    book.play(at(0, ROUTED, open_model(1, 0)), at(50, stream()))
    for _ in range(600):
        book.give(caller_audio(20))
    book.give(ready())
    sends_model(8000)(book)


def test_a_session_lost_while_the_caller_speaks_loses_no_word() -> None:
    """The new session is given the speech from before its beginning was noticed."""
    book = Playbook.connected()
    for _ in range(100):
        book.give(caller_audio(20, 1))
    book.give(caller_speaks())
    for _ in range(50):
        book.give(caller_audio(20, 2))
    book.give(lost(1))
    for _ in range(25):
        book.give(caller_audio(20, 3))
    done = book.give(ready(2))
    held = next(one for one in done if isinstance(one, do.SendCallerAudio)).audio
    assert held == bytes([1]) * 4000 + bytes([2]) * 8000 + bytes([3]) * 4000
    assert ask(RESUME) not in done  # it will hear the caller out, then answer


def test_a_session_lost_before_it_answered_is_followed_by_one_that_heard_the_question() -> None:
    book = Playbook.connected()
    book.give(caller_speaks())
    for _ in range(50):
        book.give(caller_audio(20, 2))
    book.give(caller_stops())
    for _ in range(10):
        book.give(caller_audio(20, 255))
    book.give(lost(1))
    done = book.give(ready(2))
    held = next(one for one in done if isinstance(one, do.SendCallerAudio)).audio
    assert held.count(2) == 8000
    book.run_until(book.now + 4000)
    assert book.all(do.RequestResponse) == [ASK]  # it did not hear a turn in that: it is asked


def test_a_greeting_that_was_not_heard_is_greeted_again() -> None:
    book = Playbook(plan(greeting="Greet the caller."))
    book.play(
        at(0, ROUTED, open_model(1, 0)),
        at(10, stream()),
        at(100, ready(), ask("Greet the caller.")),
        at(200, response("r1")),
        at(300, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(400, ready(2), ask("Greet the caller.")),
    )


ANSWER = (response("r1"), says("r1", "i", 500), ends("r1"))
LATE = (at(0, ROUTED, open_model(1)), at(10, stream()), at(1200, caller_audio(1000), ev.CallerUnheard()))
UNGREETED: list[Story] = [
    story(
        "the service answers by itself",
        *LATE,
        at(2000, ready()),
        at(2050, caller_speaks("c1")),
        at(2060, caller_stops("c1")),
        at(2500, *ANSWER),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet."),
    ),
    story(
        "it answers when it is asked",
        *LATE,
        at(2000, ready()),
        at(2050, caller_speaks("c1")),
        at(2060, caller_stops("c1"), ASK),
        at(2500, *ANSWER),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet.", model=OBEYS),
    ),
    story(
        "turns are ended by us",
        *LATE,
        at(2000, ready(), COMMIT, ASK),
        at(2500, *ANSWER),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet.", model=OBEYS, session=SessionPlan(turn_detection=None)),
    ),
    story(
        "the service answers by itself and says nothing of the turn",
        *LATE,
        at(2000, ready()),
        at(2500, *ANSWER),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet."),
    ),
    story(
        "it refuses the greeting for the sake of its answer",
        *LATE[:2],
        at(2000, caller_audio(1000), ready(), ask("Greet.")),
        at(2050, caller_speaks("c1")),
        at(2060, caller_stops("c1"), response("r1"), complains("wait", "conversation_already_has_active_response")),
        at(2500, *ANSWER),
        at(20_000, hears("i", 500)),
        on=plan(greeting="Greet."),
    ),
]


@pytest.mark.parametrize("row", UNGREETED, ids=str)
def test_a_caller_who_did_not_wait_for_the_greeting_is_not_greeted_after_the_answer(row: Story) -> None:
    Playbook(row.plan).play(*row.steps)


def test_a_greeting_that_has_to_be_heard_comes_after_the_answer() -> None:
    book = Playbook(plan(greeting="Greet.", greeting_protected=True))
    book.play(*LATE, at(2000, ready()), at(2500, *ANSWER, ask("Greet.")), at(4000, hears("i", 500)))


def test_a_caller_of_whom_the_service_made_out_nothing_is_greeted() -> None:
    book = Playbook(plan(greeting="Greet."))
    book.play(*LATE, at(2000, ready()), at(6000, ask("Greet.")))


def test_a_model_that_is_missing_is_covered_within_a_second_and_never_silent_for_three() -> None:
    book = Playbook.connected(plan(clips=CLIPS, model_retry_s=(2.0, 2.0, 2.0)))
    book.give(response("r1"))
    book.give(says("r1", "i", 500))
    book.run_until(200)
    book.give(lost(1))
    book.run_until(8000)
    stretches = book.carrier.played
    assert stretches[1].begins <= stretches[0].ends + 1000
    for before, after in itertools.pairwise(stretches):
        assert after.begins - before.ends <= 3000
    assert len(stretches) >= 3


def test_history_is_bounded() -> None:
    book = Playbook.connected()
    for number in range(300):
        book.give(ev.CallerTranscribed(f"c{number}", "x" * 500))
    book.give(lost(1))
    (opened,) = [one for one in book.all(do.OpenModel) if isinstance(one, do.OpenModel) and one.session == 2]
    assert sum(len(item.text) for item in opened.history) <= 33_000


def test_only_one_session_is_routed() -> None:
    book = Playbook(plan())
    book.play(at(0, ROUTED, open_model(1, 0)), at(10, ROUTED))


SHORT_LIVED = msgspec.structs.replace(INTERRUPTS, max_session_s=600.0)


def test_a_next_session_that_neither_comes_nor_fails_is_given_up_and_another_tried() -> None:
    book = Playbook.connected(plan(model=SHORT_LIVED, max_call_s=0))
    book.play(
        at(480_000, open_model(2, 0)),
        at(488_000, note("next_model_lost", "no session in time")),
        at(488_100, ready(2)),  # too late: it is closed when the next is opened
        at(498_000, open_model(3, 0)),
        at(499_000, ready(3), switch(3)),
        at(520_000),
    )


def test_a_limit_in_a_goodbye_that_is_taken_back_is_met_later() -> None:
    book = Playbook.connected(plan(model=SHORT_LIVED, max_call_s=0, interrupt_hang_up=True))
    book.play(
        at(479_000, response("r1"), says("r1", "bye", 5000), ends("r1"), ev.HangUpWished("agent")),
        at(481_000, caller_speaks("c1"), CLEAR, truncate("bye", 2000)),
        at(490_000, open_model(2, 0)),
    )
    assert book.call.state.ending is None


def test_what_happens_while_the_next_session_opens_is_told_to_it_once_wherever_it_stands() -> None:
    book = Playbook.connected(plan(model=SHORT_LIVED, max_call_s=0))
    book.play(
        at(0, response("r1"), words("r1", "a1", "Press one."), says("r1", "a1", 500), ends("r1")),
        at(470_000, pressed("1")),
        at(472_500, do.TellModel("caller", "The caller pressed 1"), ASK),
        at(474_000, response("r2"), words("r2", "a2", "Well."), says("r2", "a2", 100), ends("r2")),
        at(480_000, open_model(2, 0, agent("Press one."), caller("The caller pressed 1"), agent("Well."))),
        at(480_100, caller_speaks()),
        at(481_000, caller_stops(), turn_ends("c1", after="a1"), caller_said("c1", "I want apples.")),
        at(481_100, response("r3"), words("r3", "a3", "Apples then."), says("r3", "a3", 300), ends("r3")),
        at(481_200, ready(2)),
        at(482_000, switch(2, caller("I want apples."), agent("Apples then."))),
    )


@pytest.mark.parametrize("losing", ["at the end", "at once"])
@pytest.mark.parametrize("waited_s", [6, 9, 40])
def test_a_question_is_kept_however_long_its_answer_is_waited_for(waited_s: int, losing: str) -> None:
    book = Playbook.connected()

    def hear(ms: int, value: int) -> None:
        for _ in range(ms // 20):
            book.give(caller_audio(20, value))

    hear(20_000, 9)
    book.give(caller_speaks())
    hear(3000, 1)
    book.give(caller_stops())
    if losing == "at once":
        book.give(lost(1))
    hear(waited_s * 1000, 2)
    if losing == "at the end":
        book.give(lost(1))
    done = book.give(ready(2))
    held = next(one for one in done if isinstance(one, do.SendCallerAudio)).audio
    assert held == bytes([9]) * 4000 + bytes([1]) * 24_000 + bytes([2]) * (len(held) - 28_000)
    assert 2000 * 8 <= held.count(2) <= waited_s * 8000 and len(held) <= 64_000


def test_words_that_only_we_have_heard_are_no_silence() -> None:
    """The session is dead, and nobody knows yet."""
    book = Playbook.connected()

    def hear(ms: int, value: int) -> None:
        for _ in range(ms // 20):
            book.give(caller_audio(20, value))
            book.run_until(book.now + 20)

    book.give(caller_speaks())
    hear(2000, 1)
    book.give(caller_stops())
    hear(800, 2)
    hear(800, 3)
    book.give(ev.CallerUnheard())
    hear(800, 3)
    hear(900, 2)
    book.give(lost(1, silent_ms=3000))
    hear(1200, 4)
    book.give(ev.CallerUnheard())
    hear(200, 4)
    held = next(one for one in book.give(ready(2)) if isinstance(one, do.SendCallerAudio)).audio
    assert [held.count(value) // 8 for value in (1, 3, 4)] == [2000, 1600, 1400]


def test_what_the_caller_begins_to_say_while_they_wait_is_kept_from_its_first_word() -> None:
    book = Playbook.connected()

    def hear(ms: int, value: int) -> None:
        for _ in range(ms // 20):
            book.give(caller_audio(20, value))

    book.give(caller_speaks())
    hear(2000, 1)
    book.give(caller_stops())
    book.give(lost(1))
    hear(18_000, 2)
    hear(1200, 3)
    book.give(ev.CallerUnheard())
    hear(1000, 3)
    book.give(ev.CallerQuiet())
    hear(500, 2)
    held = next(one for one in book.give(ready(2)) if isinstance(one, do.SendCallerAudio)).audio
    assert held.count(1) == 16_000 and held.count(3) == 17_600 and held.index(3) < held.rindex(3)
    assert held.lstrip(bytes([1])).lstrip(bytes([2])).rstrip(bytes([2])) == bytes([3]) * 17_600


def test_a_session_lost_while_the_caller_speaks_leaves_no_clock_of_it_to_the_next() -> None:
    book = Playbook.connected(plan(model=SHORT_LIVED, max_call_s=0, barge_in=400))
    book.play(
        at(480_000, open_model(2, 0)),
        at(480_100, response("r1"), words("r1", "i", "one two"), says("r1", "i", 3000), ready(2)),
        at(480_500, caller_speaks("c1")),
        at(480_600, lost(1), switch(2, agent("one two")), ask(RESUME)),
    )
    state = book.call.state
    assert not state.voice
    assert not any(map(state.timers.running, ("voice", "barge_in", "long_speech", "caller_pause", "ask_again")))


def test_held_audio_is_of_whole_samples() -> None:
    book = Playbook.connected(plan(carrier=CarrierCapabilities(encoding="pcm16", rate_hz=8000)))
    for _ in range(100):
        book.give(ev.CallerSpoke(bytes(320), 20.0))
    book.give(lost(1, silent_ms=123.4567))
    book.give(ready(2))
    held = [one.audio for one in book.all(do.SendCallerAudio) if isinstance(one, do.SendCallerAudio)][-1]
    assert len(held) == int(623.4567 * 16) // 2 * 2


def test_ids_of_a_lost_session_mean_nothing_in_the_next() -> None:
    """Services that send no ids, or count from one, use them again."""
    book = Playbook.connected()
    book.play(
        at(0, caller_speaks("c1"), caller_stops("c1"), turn_ends("c1"), caller_said("c1", "My number is five.")),
        at(100, response("r1"), asks_tool("t1"), run_tool("t1"), tool_done("t1"), submit("t1"), ends("r1"), ASK),
        at(200, response("r2"), words("r2", "i", "First."), says("r2", "i", 1000), ends("r2")),
        at(
            300,
            lost(1),
            CLOSE_MODEL,
            open_model(
                2,
                0,
                caller("My number is five."),
                do.HistoryItem("tool", '"ok"', "t1", "look_up", "{}"),
                agent("First."),
            ),
        ),
        at(400, ready(2)),
        at(500, caller_speaks("c1"), CLEAR),
        at(600, caller_stops("c1"), turn_ends("c1"), caller_said("c1", "And my name is Ada.")),
        at(700, response("r1"), asks_tool("t1"), run_tool("t1"), tool_done("t1"), submit("t1"), ends("r1"), ASK),
        at(800, response("r2"), words("r2", "i", "Second."), says("r2", "i", 3000), ends("r2")),
        at(2800, caller_speaks("c2"), CLEAR, truncate("i", 2000)),
    )
    assert [text for role, text in book.conversation() if role == "caller"] == [
        "My number is five.",
        "And my name is Ada.",
        "",
    ]


def test_a_response_with_nothing_in_it_is_asked_for_once_more() -> None:
    book = Playbook.connected(plan(greeting="Greet."))
    book.play(
        at(0, response("r0"), words("r0", "i0", "hello"), says("r0", "i0", 500), ends("r0")),
        at(1000, caller_speaks("c1")),
        at(2000, caller_stops("c1"), turn_ends("c1"), response("r1")),
        at(2100, ends("r1"), note("response_failed", "completed : "), ASK),
        at(2200, response("r2"), ends("r2"), note("response_failed", "completed : "), ask(AGAIN)),
        at(2300, response("r3"), says("r3", "i3", 500), ends("r3")),
        at(9000, hears("i3", 500), caller_speaks("c2")),
        at(9500, caller_stops("c2"), turn_ends("c2"), response("r4")),
        at(9600, ends("r4"), ASK),
        at(9700, response("r5"), says("r5", "i5", 500), ends("r5")),
        at(12_000, hears("i5", 500)),
    )


def test_a_service_that_has_nothing_to_say_at_all_is_left_for_the_next() -> None:
    book = Playbook(plan(greeting="Greet.", models=(INTERRUPTS, SECOND), clips=CLIPS))
    for fact in (ROUTED, stream()):
        book.give(fact)
    said, session = 0, 0
    while not book.call.state.service and not book.call.over:
        book.give(ready(book.call.state.session))
        book.run_until(book.now + 50)
        if book.call.state.turns.asked is not None:
            said += 1
            book.give(response(f"r{said}"))
            book.give(ends(f"r{said}"))
        session = max(session, book.call.state.session)
        assert book.now < 60_000, "nobody is heard"
    assert book.call.state.service == 1 and session > 2
    assert book.clip_ms("filler")


def test_a_service_that_takes_long_to_say_nothing_is_given_up_as_well() -> None:
    book = Playbook(plan(greeting="Greet.", models=(INTERRUPTS,), clips=CLIPS, answer_rotate_s=60.0))
    for fact in (ROUTED, stream()):
        book.give(fact)
    said = 0
    while not book.call.over:
        if book.call.state.model == "opening":
            book.give(ready(book.call.state.session))
        book.run_until(book.now + 5200)
        if book.call.state.turns.asked is not None:
            said += 1
            book.give(response(f"r{said}"))
            book.give(ends(f"r{said}"))
        assert book.now < 120_000, "nobody is heard"
    assert book.call.state.opened < 8


def test_an_agent_who_has_nothing_to_add_after_a_tool_keeps_its_call() -> None:
    book = Playbook.connected()
    book.play(
        at(1000, response("r1"), says("r1", "noted", 500), asks_tool("t1"), run_tool("t1"), ends("r1")),
        at(2000, tool_done("t1"), submit("t1"), ASK),
        at(2100, response("r2"), ends("r2"), note("response_failed", "completed : "), ASK),
        at(2200, response("r3"), ends("r3"), note("response_failed", "completed : ")),
        at(30_000, hears("noted", 500)),
    )


@pytest.mark.parametrize(
    "policies", [{"idle_prompt_after_s": 5, "idle_hang_up_after_s": 0}, {"max_call_s": 60, "warn_before_end_s": 30}]
)
def test_an_announcement_that_comes_to_nothing_costs_no_call(policies: dict[str, Any]) -> None:
    book = Playbook.connected(plan(**policies))
    said = 0
    while book.now < 50_000:
        book.run_until(book.now + 500)
        if book.call.state.turns.asked is not None:
            said += 1
            book.give(response(f"r{said}"))
            book.give(ends(f"r{said}"))
    assert said >= 2 and book.call.state.session == 1 and not book.call.over


def test_who_says_nothing_even_when_asked_for_other_words_is_spoken_for() -> None:
    book = Playbook.connected(plan(clips=CLIPS | {"again": bytes([252]) * 8000}))
    book.play(
        at(1000, caller_speaks("c1")),
        at(2000, caller_stops("c1"), turn_ends("c1"), response("r1"), ends("r1"), ASK),
        at(2100, response("r2"), ends("r2"), ask(AGAIN)),
        at(2200, response("r3"), ends("r3")),
        at(4000),
    )
    assert book.clip_ms("again") and book.call.state.session == 1


def test_an_empty_response_is_not_asked_for_again_where_another_answer_is_expected() -> None:
    book = Playbook.connected(plan(barge_in="off"))
    book.play(
        at(0, caller_speaks("c1")),
        at(500, caller_stops("c1"), turn_ends("c1"), response("r1")),
        at(600, caller_speaks("c2")),
        at(900, caller_stops("c2"), turn_ends("c2")),
        at(950, ends("r1")),
        at(1000, response("r2"), says("r2", "i2", 100), ends("r2")),
        at(3000),
    )


def test_words_of_audio_that_came_too_late_are_not_heard() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), words("r1", "i", "one two"), says("r1", "i", 1000), ends("r1")),
        at(500, words("r1", "i", " three four"), says("r1", "i", 1000)),
        at(2000, lost(1), CLOSE_MODEL, open_model(2, 0, agent("one two"))),
    )


def test_words_that_come_after_the_next_session_was_opened_are_told_to_it_when_it_takes_over() -> None:
    book = Playbook.connected(plan(model=SHORT_LIVED, max_call_s=0))
    book.play(
        at(479_000, response("r1"), says("r1", "i", 500), ends("r1")),
        at(480_000, open_model(2, 0)),
        at(480_050, words("r1", "i", "Your code is 4711.")),
        at(480_100, ready(2), switch(2, agent("Your code is 4711."))),
    )


def test_a_long_response_of_a_lost_session_leaves_the_next_ones_its_whole_length() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), says("r1", "i", 90_000)),
        at(1000, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(1100, ready(2), ask(RESUME)),
        at(1200, response("r1"), says("r1", "i", 50_000)),
    )
    assert [item.received_ms for item in book.call.state.ledger.items.values()] == [90_000, 50_000]


def test_items_of_the_same_id_are_heard_one_after_the_other() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), words("r1", "i", "First."), says("r1", "i", 1000)),
        at(300, lost(1), CLOSE_MODEL, open_model(2, 0, agent("First."))),
        at(400, ready(2), ask(RESUME)),
        at(500, response("r1"), words("r1", "i", "Second."), says("r1", "i", 2000), ends("r1")),
        at(1500, caller_speaks("c1"), CLEAR, truncate("i", 500)),
    )
    assert [entry.heard_ms for entry in book.call.state.transcript.entries[:2]] == [1000, 500]


def test_a_tool_call_whose_id_a_lost_session_still_waits_for_is_put_off() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), asks_tool("t1"), run_tool("t1"), ends("r1")),
        at(
            300,
            lost(1),
            CLOSE_MODEL,
            open_model(2, 0, do.HistoryItem("tool", STILL_RUNNING, "t1", "look_up", "{}")),
        ),
        at(400, ready(2)),
        at(500, response("r1"), asks_tool("t1", arguments='{"b": 1}'), submit("t1", STILL_RUNNING)),
        at(510, asks_tool("t1", arguments='{"b": 1}'), ends("r1")),
        at(600, tool_done("t1"), do.TellModel("note", 'The tool look_up has answered by now: "ok"'), ASK),
    )


def test_a_truncation_never_names_an_item_of_another_session() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), says("r1", "old", 3000)),
        at(200, lost(1), CLOSE_MODEL, open_model(2, 0)),
        at(300, ready(2), ask(RESUME)),
        at(400, response("r2"), says("r2", "new", 3000)),
        at(3500, caller_speaks(), CLEAR, truncate("new", 500)),
    )
