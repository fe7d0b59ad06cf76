"""The caller's stream breaks without a word: the carrier comes back with another, or does not."""

from __future__ import annotations

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities
from bridge.errors import EndReason
from tests.call.playbook import (
    CLOSE_MODEL,
    Playbook,
    Story,
    at,
    caller_audio,
    caller_leaves,
    caller_speaks,
    caller_stops,
    end,
    ends,
    note,
    plan,
    response,
    says,
    sends_model,
    story,
    stream,
)

COMES_BACK = plan(carrier=CarrierCapabilities(resumes_after_drop=True))
LONG = (response("r1"), says("r1", "hello", 3000), ends("r1"))
LOST = (caller_leaves("closed"), note("stream_lost"))

SAY_GOODBYE = do.RequestResponse("Say a short goodbye.")

STORIES: list[Story] = [
    story(
        "no other stream comes: the call ends after two seconds",
        at(0, *LONG),
        at(1000, *LOST),
        at(2999),
        at(3000, CLOSE_MODEL, end(EndReason.STREAM_LOST)),
        on=COMES_BACK,
    ),
    story(
        "another one does: the call goes on with the session it has, and may lose that one too",
        at(0, *LONG),
        at(1000, *LOST),
        at(1300, stream("MZ2"), note("stream_back")),
        at(9000, *LOST),
        at(9500, stream("MZ3"), note("stream_back")),
        at(12_000, caller_audio(20), sends_model(20)),
        on=COMES_BACK,
    ),
    story(
        "the other comes first, as nobody has told us of the break: the old one's end is no news",
        at(0, *LONG),
        at(1000, stream("MZ2"), do.DropStream("MZ1")),
        at(12_000, caller_audio(20), sends_model(20)),
        on=COMES_BACK,
    ),
    story(
        "the carrier says meanwhile that the caller is gone",
        at(1000, *LOST),
        at(1200, caller_leaves("status"), CLOSE_MODEL, end(EndReason.CALLER_LEFT)),
        on=COMES_BACK,
    ),
    story(
        "the operator ends the call meanwhile: there is nobody to say goodbye to",
        at(0, *LONG),
        at(1000, *LOST),
        at(1500, ev.HangUpWished("operator"), SAY_GOODBYE),
        at(3000, CLOSE_MODEL, end(EndReason.ENDED_BY_OPERATOR)),
        on=COMES_BACK,
    ),
    story(
        "it breaks in the goodbye: the call was over anyway",
        at(0, *LONG),
        at(500, ev.HangUpWished("drain"), SAY_GOODBYE),
        at(1000, caller_leaves("closed"), CLOSE_MODEL, end(EndReason.STREAM_LOST)),
        on=COMES_BACK,
    ),
    story(
        "a carrier that does not ask what comes next is not waited for",
        at(1000, caller_leaves("closed"), CLOSE_MODEL, end(EndReason.STREAM_LOST)),
    ),
]


@pytest.mark.parametrize("row", STORIES, ids=str)
def test_a_stream_that_is_lost(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def sent_ms(book: Playbook, since: float) -> float:
    return sum(action.ms for sent_at, action in book.log if isinstance(action, do.PlayAudio) and sent_at >= since)


def test_the_answer_goes_on_where_the_caller_stopped_hearing_and_nothing_is_played_to_nobody() -> None:
    book = Playbook.connected(COMES_BACK)
    book.play(at(0, *LONG), at(1000, *LOST))
    book.run_until(2500)
    assert sent_ms(book, 1000) == 0
    book.play(at(2500, stream("MZ2"), note("stream_back")))
    book.run_until(10_000)
    assert sent_ms(book, 2500) == pytest.approx(2000, abs=1)
    assert book.conversation()[-1][0] == "agent"
    assert not book.call.state.ledger.items, "it was heard to its end"
    assert not book.all(do.TruncateItem)


def test_what_is_said_meanwhile_is_heard_afterwards() -> None:
    book = Playbook.connected(COMES_BACK)
    book.play(at(1000, *LOST), at(1500, *LONG), at(2000, stream("MZ2"), note("stream_back")))
    book.run_until(10_000)
    assert sent_ms(book, 2000) == pytest.approx(3000, abs=1)


def test_a_caller_who_was_speaking_when_it_broke_is_answered_when_they_are_back() -> None:
    book = Playbook.connected(COMES_BACK)
    book.play(at(0, caller_speaks("c1"), caller_audio(500)), at(600, *LOST))
    book.run_until(1500)
    assert book.all(do.SendSilence), "the service's detector is given the silence that ends the turn"
    book.give(caller_stops("c1"))
    for fact in LONG:
        book.give(fact)
    book.run_until(2000)
    assert sent_ms(book, 0) == 0
    book.give(stream("MZ2"))
    book.run_until(10_000)
    assert sent_ms(book, 2000) == pytest.approx(3000, abs=1)


def test_speech_the_service_reports_late_interrupts_what_waits_for_the_next_stream() -> None:
    book = Playbook.connected(COMES_BACK)
    book.play(at(0, *LONG), at(1000, *LOST))
    book.run_until(1200)
    book.give(caller_speaks("c1"))
    (cut,) = book.all(do.TruncateItem)
    assert isinstance(cut, do.TruncateItem)
    assert 900 <= cut.audio_end_ms <= 1000, "what had been heard when it broke"
    book.give(stream("MZ2"))
    book.run_until(4000)
    assert sent_ms(book, 1000) == 0
