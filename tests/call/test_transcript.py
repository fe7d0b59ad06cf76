"""The conversation as it was heard: cut where the caller stopped hearing, in the order in which it was said."""

from __future__ import annotations

import pytest

from bridge.call import events as ev
from bridge.call.transcript import Entry, whole_words
from tests.call.playbook import (
    OBEYS,
    Playbook,
    at,
    caller_said,
    caller_speaks,
    caller_stops,
    ends,
    item_done,
    lost,
    plan,
    pressed,
    response,
    says,
    turn_ends,
    words,
)

TEXT = "one two three four five six seven eight nine ten"


def _cut(at_ms: float, *more: ev.Event, text: str = TEXT, ms: float = 4800) -> Playbook:
    """An item of 4.8 seconds, interrupted."""
    book = Playbook.connected()
    book.give(response("r1"))
    book.give(words("r1", "i", text))
    book.give(says("r1", "i", ms))
    for fact in more:
        book.give(fact)
    book.run_until(at_ms)
    book.give(caller_speaks("c1"))
    return book


def test_what_was_heard_is_cut_in_proportion_to_the_audio_at_a_whole_word() -> None:
    assert _cut(2400).conversation()[0] == ("agent", "one two three four five")


def test_what_was_heard_to_its_end_is_all_there() -> None:
    book = _cut(4900, item_done("r1", "i"), ends("r1"))
    assert book.conversation()[0] == ("agent", TEXT)


def test_a_word_of_which_less_than_a_frame_is_missing_was_heard() -> None:
    said = Entry("agent", "i", 0.0, TEXT, received_ms=4800, heard_ms=4785, cut=True)
    assert said.heard_text == TEXT
    said.heard_ms = 4780
    assert said.heard_text == TEXT.removesuffix(" ten")
    assert Entry("agent", "i", 0.0, TEXT, received_ms=10, cut=True).heard_text == "", "and nothing of a crumb"


def test_with_the_times_of_words_the_cut_is_exact() -> None:
    timed = [ev.WordTimed("i", word, number * 100.0) for number, word in enumerate(TEXT.split())]
    assert _cut(350, *timed).conversation()[0] == ("agent", "one two three four")


def test_text_that_ran_ahead_of_the_audio_does_not_count_as_heard() -> None:
    """The whole text is there, a second of its audio has come: what was heard is a part of the whole."""
    book = _cut(900, ms=1000)
    heard = book.conversation()[0][1]
    assert heard in ("one two", "one two three")


def test_an_item_that_was_never_heard_is_not_in_the_conversation() -> None:
    book = Playbook.connected()
    book.give(response("r1"))
    book.give(words("r1", "i", "first"))
    book.give(says("r1", "i", 2000))
    book.give(item_done("r1", "i"))
    book.give(words("r1", "j", "second"))
    book.give(says("r1", "j", 2000))
    book.run_until(1000)
    book.give(caller_speaks())
    assert [text for _, text in book.conversation()][1] == ""
    assert "second" not in str(book.call.state.transcript.history(""))


def test_the_whole_transcript_of_a_cut_item_comes_later_and_is_cut_too() -> None:
    book = _cut(2400, text="one two")
    book.give(ev.ItemTranscribed("r1", "i", TEXT))
    book.give(ends("r1", "cancelled"))
    assert book.conversation()[0] == ("agent", "one two three four five")


def test_words_of_a_response_that_was_cut_are_not_added() -> None:
    book = _cut(2400)
    book.give(words("r1", "i", " eleven twelve"))
    book.give(words("r1", "k", "never"))
    assert book.conversation()[0] == ("agent", "one two three four five")
    assert not any(text == "never" for _, text in book.conversation())


def test_what_the_caller_said_stands_where_it_was_said_though_it_is_written_down_late() -> None:
    book = Playbook.connected()
    for number in (1, 2):
        book.give(caller_speaks(f"c{number}"))
        book.give(caller_stops(f"c{number}"))
        book.give(turn_ends(f"c{number}"))
        book.give(response(f"r{number}"))
        book.give(words(f"r{number}", f"a{number}", f"answer {number}"))
        book.give(says(f"r{number}", f"a{number}", 300))
        book.give(ends(f"r{number}"))
        book.run_until(book.now + 1000)
    book.give(caller_said("c2", "second question"))
    book.give(caller_said("c1", "first question"))
    assert book.conversation() == [
        ("caller", "first question"),
        ("agent", "answer 1"),
        ("caller", "second question"),
        ("agent", "answer 2"),
    ]


def test_an_item_committed_without_a_beginning_is_placed_by_the_item_before_it() -> None:
    book = Playbook.connected()
    book.give(response("r1"))
    book.give(words("r1", "a1", "hello"))
    book.give(says("r1", "a1", 300))
    book.give(ends("r1"))
    book.give(response("r2"))
    book.give(words("r2", "a2", "answer"))
    book.give(says("r2", "a2", 300))
    book.give(turn_ends("c1", after="a1"))
    book.give(caller_said("c1", "question"))
    book.run_until(2000)
    assert [text for _, text in book.conversation()] == ["hello", "question", "answer"]


def test_keys_are_part_of_the_conversation() -> None:
    book = Playbook.connected()
    book.give(pressed("4"))
    book.give(pressed("#"))
    assert book.conversation() == [("caller", "The caller pressed 4#")]


def test_what_could_not_be_transcribed_is_not_told_to_a_new_session() -> None:
    book = Playbook.connected()
    book.give(caller_speaks("c1"))
    book.give(caller_said("c1", ""))
    assert book.call.state.transcript.history("") == ()


def test_the_history_of_a_session_lost_in_mid_sentence_is_corrected_when_the_caller_interrupts() -> None:
    book = Playbook.connected(plan(model=OBEYS))
    book.play(at(0, response("r1"), words("r1", "i", TEXT), says("r1", "i", 4800)))
    book.run_until(1000)
    book.give(lost(1))
    assert book.conversation() == [("agent", TEXT)]
    book.run_until(2400)
    book.give(caller_speaks())
    assert book.conversation() == [("agent", "one two three four five")]


def test_a_call_that_ends_in_mid_sentence_keeps_what_was_heard() -> None:
    book = Playbook.connected()
    book.give(response("r1"))
    book.give(words("r1", "i", TEXT))
    book.give(says("r1", "i", 4800))
    book.run_until(2400)
    book.give(ev.CallerLeft("stop"))
    assert book.conversation() == [("agent", "one two three four five")]


@pytest.mark.parametrize(
    ("text", "length", "heard"),
    [
        ("one two", 7, "one two"),
        ("one two", 6, "one"),
        ("one two", 4, "one"),
        ("one two", 3, "one"),
        ("one two", 2, ""),
        ("one", 99, "one"),
        ("", 0, ""),
        ("one  two", 5, "one"),
    ],
)
def test_no_word_is_broken(text: str, length: int, heard: str) -> None:
    assert whole_words(text, length) == heard
