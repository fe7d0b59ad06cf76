"""The caller's stream breaks without a word: the carrier comes back with another, or does not."""

from __future__ import annotations

import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities
from bridge.errors import EndReason
from tests.call.carrier import Carrier
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
IMPATIENT = plan(carrier=COMES_BACK.carrier, first_media_s=1.0)
LONG = (response("r1"), says("r1", "hello", 3000), ends("r1"))
LOST = (caller_leaves("closed"), note("stream_lost"))
BACK = (stream("MZ2"), note("stream_back"))

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
        at(1300, *BACK),
        at(9000, *LOST),
        at(9500, stream("MZ3"), note("stream_back")),
        at(12_000, caller_audio(20), sends_model(20)),
        on=COMES_BACK,
    ),
    story(
        "the other comes first, as nobody has told us of the break: the old one's end is no news",
        at(0, *LONG),
        at(1000, stream("MZ2"), note("stream_replaced")),
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
        "it breaks in the goodbye: the caller hears the rest of that on the next",
        at(0, *LONG),
        at(500, ev.HangUpWished("drain"), SAY_GOODBYE),
        at(600, response("r2"), says("r2", "bye", 1000), ends("r2")),
        at(3500, *LOST),
        at(4000, *BACK),
        at(4400),
        at(4620, do.HangUp()),
        at(4700, ev.HandedOver("hang_up", True), CLOSE_MODEL, end(EndReason.DRAINED)),
        on=COMES_BACK,
    ),
    story(
        "it breaks in the goodbye, and no other comes: the call ends for the reason there was",
        at(0, *LONG),
        at(500, ev.HangUpWished("drain"), SAY_GOODBYE),
        at(1000, *LOST),
        at(3000, CLOSE_MODEL, end(EndReason.DRAINED)),
        on=COMES_BACK,
    ),
    story(
        "nor can one come: the same, at once",
        at(500, ev.HangUpWished("drain"), SAY_GOODBYE),
        at(1000, caller_leaves("closed"), CLOSE_MODEL, end(EndReason.DRAINED)),
    ),
    story(
        "the carrier was given another: it has two seconds more to open it",
        at(0, *LONG),
        at(1000, *LOST),
        at(2900, ev.StreamOffered()),
        at(4800, *BACK),
        at(12_000, caller_audio(20), sends_model(20)),
        on=COMES_BACK,
    ),
    story(
        "it is given no other: the call is over at once",
        at(0, *LONG),
        at(1000, *LOST),
        at(1500, ev.StreamRefused(), CLOSE_MODEL, end(EndReason.STREAM_LOST)),
        on=COMES_BACK,
    ),
    story(
        "it is given no other while the caller is to be put through: they are",
        at(0, *LONG),
        at(500, ev.TransferWished("+15550199")),
        at(1000, *LOST),
        at(1500, ev.StreamRefused(), do.Transfer("+15550199")),
        at(1600, ev.HandedOver("transfer", True), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
        on=COMES_BACK,
    ),
    story(
        "it was given another before anybody noticed the break: that is no news yet",
        at(0, *LONG),
        at(900, ev.StreamOffered()),
        at(1000, *LOST),
        at(3000, CLOSE_MODEL, end(EndReason.STREAM_LOST)),
        on=COMES_BACK,
    ),
    story(
        "it breaks while the caller is told that they are put through: they hear the rest, and are",
        at(0, *LONG),
        at(500, ev.TransferWished("+15550199")),
        at(1000, *LOST),
        at(1500, *BACK),
        at(3400),
        at(3520, do.Transfer("+15550199")),
        at(3600, ev.HandedOver("transfer", True), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
        on=COMES_BACK,
    ),
    story(
        "no other comes: they are put through without it",
        at(0, *LONG),
        at(1000, *LOST),
        at(1200, ev.TransferWished("+15550199")),
        at(3000, do.Transfer("+15550199")),
        at(3100, ev.HandedOver("transfer", True), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
        on=COMES_BACK,
    ),
    story(
        "no other comes, nor can they be put through",
        at(0, *LONG),
        at(1000, *LOST),
        at(1200, ev.TransferWished("+15550199")),
        at(3000, do.Transfer("+15550199")),
        at(3100, ev.HandedOver("transfer", False, "no"), CLOSE_MODEL, end(EndReason.STREAM_LOST)),
        on=COMES_BACK,
    ),
    story(
        "no other comes, nor is there a model any more: they are put through when the carrier asks what comes next",
        at(0, *LONG),
        at(1000, *LOST),
        at(1200, ev.TransferWished("+15550199")),
        at(1300, ev.ModelLost(1, "gone", "fatal"), CLOSE_MODEL),
        at(3000, do.Transfer("+15550199")),
        at(3100, ev.HandedOver("transfer", False, "no"), do.Transfer("+15550199", by_closing=True)),
        at(3200, ev.HandedOver("transfer", True), end(EndReason.TRANSFERRED)),
        on=COMES_BACK,
    ),
    story(
        "whether the caller is still there is not asked of nobody, but some time after they are back",
        at(0, *LONG),
        at(12_500, *LOST),
        at(14_000, *BACK),
        at(23_900),
        at(24_000, do.RequestResponse("Still there?")),
        on=plan(
            carrier=COMES_BACK.carrier, idle_prompt_after_s=10.0, idle_hang_up_after_s=60.0, idle_prompt="Still there?"
        ),
    ),
    story(
        "a caller of whom nothing was heard before the break has as long as any to be heard",
        at(900, *LOST),
        at(1500, *BACK),
        at(2400),
        at(2500, CLOSE_MODEL, end(EndReason.NEVER_STARTED)),
        on=IMPATIENT,
    ),
    story(
        "another stream that brings no audio is no better than a first one",
        at(800, caller_audio(20), sends_model(20)),
        at(900, *LOST),
        at(1500, *BACK),
        at(2400),
        at(2500, CLOSE_MODEL, end(EndReason.NEVER_STARTED)),
        on=IMPATIENT,
    ),
    story(
        "one that brings some is",
        at(800, caller_audio(20), sends_model(20)),
        at(900, *LOST),
        at(1500, *BACK),
        at(1520, caller_audio(20), sends_model(40)),
        at(4000, caller_audio(20), sends_model(60)),
        on=IMPATIENT,
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
    book.play(at(2500, *BACK))
    book.run_until(10_000)
    assert sent_ms(book, 2500) == pytest.approx(2000, abs=1)
    assert book.conversation()[-1][0] == "agent"
    assert not book.call.state.ledger.items, "it was heard to its end"
    assert not book.all(do.TruncateItem)


def test_what_is_said_meanwhile_is_heard_afterwards() -> None:
    book = Playbook.connected(COMES_BACK)
    book.play(at(1000, *LOST), at(1500, *LONG), at(2000, *BACK))
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


def test_where_marks_had_stopped_nothing_after_the_last_of_them_counts_as_heard() -> None:
    """A connection that is half open: audio goes out for seconds, and nobody hears it."""
    book = Playbook.connected(COMES_BACK)
    for fact in (response("r1"), says("r1", "hello", 30_000), ends("r1")):
        book.give(fact)
    for now in range(0, 2000, 20):
        book.run_until(now)
        book.give(ev.CallerSpoke(bytes(160), 20.0))
    book.carrier.marks_held = (2000, 1e9)
    book.run_until(15_000)
    assert sent_ms(book, 0) < 3000, "and nothing more is sent than the line is known to take"
    book.give(caller_leaves("closed"))
    (item,) = book.call.state.ledger.items.values()
    assert 1800 <= item.heard_ms <= 2000
    book.give(stream("MZ2"))
    assert item.sent_ms < 3000, "it goes on where the last mark came from"


def test_what_was_on_its_way_when_it_broke_is_played_again() -> None:
    book = Playbook.connected(COMES_BACK, Carrier(out_ms=100, back_ms=50))
    for fact in LONG:
        book.give(fact)
    book.run_until(2000)
    heard_ms = book.heard_ms("hello")
    book.give(caller_leaves("closed"))
    (item,) = book.call.state.ledger.items.values()
    assert heard_ms - 200 <= item.heard_ms <= heard_ms
