"""Who may interrupt whom, by the agent's policy; and how the caller's turn ends."""

from __future__ import annotations

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities, SessionPlan
from bridge.errors import EndReason
from tests.call.carrier import Carrier
from tests.call.playbook import (
    ASK,
    CLEAR,
    CLOSE_MODEL,
    COMMIT,
    INTERRUPTS,
    OBEYS,
    TOOLS,
    Playbook,
    Story,
    asks_tool,
    at,
    caller_audio,
    caller_speaks,
    caller_stops,
    cancel,
    end,
    ends,
    hears,
    note,
    plan,
    pressed,
    response,
    run_tool,
    says,
    story,
    submit,
    tool_done,
    truncate,
    turn_ends,
)

CANNOT_CLEAR = CarrierCapabilities(name="cannot clear", can_clear=False, max_lead_ms=200)
MARKS_LOST_ON_CLEAR = CarrierCapabilities(name="no marks on clear", marks_return_on_clear=False)
MANUAL = SessionPlan(tools=TOOLS, turn_detection=None)
MUTE = msgspec.structs.replace(INTERRUPTS, can_cancel=False, can_truncate=False, can_delete=False)

POLICIES: list[Story] = [
    story(
        "off: the agent finishes, then the caller is answered",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks()),
        at(1000, caller_stops()),
        at(1500, ends("r1"), ASK),
        at(1600, response("r2"), says("r2", "answer", 500), ends("r2")),
        at(4000, hears("hello", 2000), hears("answer", 500)),
        on=plan(model=OBEYS, barge_in="off"),
    ),
    story(
        "off: keys do not interrupt either",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, pressed("1")),
        at(2000, do.TellModel("caller", "The caller pressed 1")),
        at(2100, ends("r1"), ASK, hears("hello", 2000)),
        on=plan(model=OBEYS, barge_in="off"),
    ),
    story(
        "immediate: the first sign of speech interrupts",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks(), CLEAR, cancel("r1"), truncate("hello", 500)),
        on=plan(model=OBEYS, barge_in="immediate"),
    ),
    story(
        "after_ms: two short sounds are not one long one",
        at(0, response("r1"), says("r1", "hello", 3000)),
        at(500, caller_speaks()),
        at(700, caller_stops()),
        at(800, caller_speaks()),
        at(1000, caller_stops()),
        at(2900, ends("r1")),
        at(5000, hears("hello", 3000)),
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "after_ms: speech into silence is a turn, however short",
        at(500, caller_speaks()),
        at(600, caller_stops(), ASK),
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "after_ms: a tool that finishes during a short sound is spoken about all the same",
        at(0, response("r1"), says("r1", "one moment", 1000), asks_tool("t1"), run_tool("t1")),
        at(10, ends("r1")),
        at(500, caller_speaks()),
        at(600, tool_done("t1"), submit("t1")),
        at(700, caller_stops(), ASK),
        on=plan(model=OBEYS, barge_in=300),
    ),
    story(
        "a service that starts to answer by itself has ended the caller's turn, though it never said so",
        at(0, caller_speaks()),
        at(900, response("r1"), says("r1", "hello", 500), ends("r1")),
        at(3000, ev.CallerPressed("#"), do.TellModel("caller", "The caller pressed #"), ASK, hears("hello", 500)),
    ),
    story(
        "without a detector at the service the turn is ended by hand",
        at(0, caller_speaks()),
        at(900, caller_stops(), COMMIT, ASK),
        at(1000, turn_ends("c1"), response("r1"), says("r1", "hello", 500), ends("r1")),
        on=plan(model=INTERRUPTS, session=MANUAL),
    ),
    story(
        "a detector that hears speech for ever is overruled by our own",
        at(0, caller_speaks()),
        at(4000, ev.CallerQuiet(), note("speech_ended_by_hand"), COMMIT, ASK),
        at(4010, ev.CallerQuiet()),
        at(4100, response("r1"), says("r1", "hello", 500), ends("r1")),
    ),
    story(
        "and by the clock after a minute",
        at(0, caller_speaks()),
        at(59_999),
        at(60_000, note("speech_ended_by_hand"), COMMIT, ASK),
    ),
    story(
        "where the carrier cannot clear, what was sent will be heard, and the model is told so",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks(), cancel("r1"), truncate("hello", 660)),
        at(2000, hears("hello", 660)),
        on=plan(model=OBEYS, carrier=CANNOT_CLEAR),
        carrier=lambda: Carrier(clears=False),
    ),
    story(
        "where the carrier keeps marks to itself on clear, the next reckoning is not confused",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(600, caller_stops(), ends("r1", "cancelled")),
        at(700, response("r2"), says("r2", "again", 2000)),
        at(1000, caller_speaks(), CLEAR, truncate("again", 300)),
        on=plan(carrier=MARKS_LOST_ON_CLEAR),
        carrier=lambda: Carrier(marks_on_clear=False),
    ),
    story(
        "a service that can neither cancel nor truncate nor delete is at least not heard any more",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks(), CLEAR),
        at(510, says("r1", "hello", 2000)),
        at(5000, hears("hello", 500)),
        on=plan(model=MUTE),
    ),
    story(
        "a response outside the conversation is never played, and is nobody's turn",
        at(0, ev.ResponseStarted("side", out_of_band=True), says("side", "aside", 1000)),
        at(10, ev.ItemTranscribed("side", "aside", "not for the caller")),
        at(20, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(2000, ends("side"), hears("aside", 0)),
        on=plan(answer_filler_s=100, answer_retry_s=100),
    ),
]


@pytest.mark.parametrize("row", POLICIES, ids=str)
def test_policy(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


KEYS: list[Story] = [
    story(
        "keys pressed in a row are one message",
        at(0, pressed("4")),
        at(500, pressed("2")),
        at(1000, pressed("1")),
        at(2499),
        at(2500, do.TellModel("caller", "The caller pressed 421"), ASK),
    ),
    story(
        "the hash key ends the row at once",
        at(0, pressed("4")),
        at(300, pressed("#"), do.TellModel("caller", "The caller pressed 4#"), ASK),
    ),
    story(
        "a key interrupts the agent, who is cancelled even where speech would do it",
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, pressed("1"), CLEAR, cancel("r1"), truncate("hello", 500)),
        at(520, ends("r1", "cancelled")),
        at(2000, do.TellModel("caller", "The caller pressed 1"), ASK),
    ),
    story(
        "keys pressed while the caller speaks are answered with what was said",
        at(0, caller_speaks()),
        at(100, pressed("7"), pressed("#"), do.TellModel("caller", "The caller pressed 7#")),
        at(900, caller_stops()),
        at(1200, response("r1"), says("r1", "hello", 500), ends("r1")),
        at(3000),
    ),
]


@pytest.mark.parametrize("row", KEYS, ids=str)
def test_keys(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_a_thousand_keys_are_all_told_in_order() -> None:
    book = Playbook.connected(plan(answer_retry_s=1e6))
    keys = "".join(str(number % 10) for number in range(1000))
    for key in keys:
        book.now += 100
        book.give(pressed(key))
    book.run_until(book.now + 2000)
    told = [
        one.text.removeprefix("The caller pressed ") for one in book.all(do.TellModel) if isinstance(one, do.TellModel)
    ]
    assert "".join(told) == keys


def test_a_caller_whose_leg_goes_quiet_in_mid_word_is_continued_as_silence_once() -> None:
    """A detector that counts audio time would wait for ever for the end of the word."""
    book = Playbook.connected()
    for _ in range(50):
        book.run_until(book.now + 20)
        book.give(caller_audio())
    book.give(caller_speaks())
    book.run_until(10_000)
    assert book.all(do.SendSilence) == [do.SendSilence(1000.0)]
    book.give(caller_audio())
    book.run_until(12_000)
    assert len(book.all(do.SendSilence)) == 2


def test_a_service_that_hears_nothing_in_silence_is_given_none() -> None:
    book = Playbook.connected(plan(model=msgspec.structs.replace(INTERRUPTS, needs_silence=False)))
    book.give(caller_speaks())
    book.run_until(10_000)
    assert book.all(do.SendSilence) == []


def test_the_callers_audio_is_never_kept_from_a_service_that_is_ready() -> None:
    book = Playbook.connected(plan(model=OBEYS, greeting="Greet.", greeting_protected=True))
    book.give(response("r1"))
    book.give(says("r1", "hello", 2000))
    book.give(caller_speaks())
    for _ in range(10):
        assert book.give(caller_audio()) == [do.SendCallerAudio(caller_audio().audio)]


def test_ending_after_an_interruption_keeps_one_reason() -> None:
    book = Playbook.connected()
    book.play(
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(500, caller_speaks(), CLEAR, truncate("hello", 500)),
        at(600, ev.CallerLeft("stop"), CLOSE_MODEL, end(EndReason.CALLER_LEFT)),
    )
