from __future__ import annotations

import pytest

from bridge.sim.words import contains, words


def test_words_are_compared_without_case_and_punctuation_but_whole() -> None:
    assert contains("We're open, from Nine.", "we're open from nine")
    assert not contains("We are opening", "open")
    assert not contains("", "open")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I\u2019m sorry", "I'm sorry"),
        ("don`t", "don't"),
        ("O\u00b4Neil", "o\uff07neil"),
        ("She said \u2018hello\u2019.", "said hello"),
        ("'hello'", '"hello"'),
        ("the dogs' bowls", "the dogs bowls"),
        ("forty-two", "forty two"),
        ("nine\u2013five\u2014no", "nine-five, no"),
        ("cafe\u0301", "caf\xe9"),
        ("Stra\xdfe", "STRASSE"),
        ("infor\xadma\u200btion\ufeff", "information"),
        ("call \u260e\ufe0f now", "call now"),
        ("\uff11\uff12 o\u2019clock", "12 o'clock"),
        ("front_desk", "front desk"),
        ("\u6211\u4eec\u4e5d\u70b9\u5f00\u95e8", "\u4e5d\u70b9"),  # we open at nine: Chinese has no spaces
    ],
)
def test_the_same_words_are_the_same_however_they_are_written_down(text: str, wanted: str) -> None:
    assert contains(text, wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("can't", "cant"),
        ("sch\xf6n", "schon"),
        ("twelve", "12"),
        ("\u0915\u093f\u0924\u093e\u092c", "\u0915\u093e\u0924\u093f\u092c"),  # in Hindi vowels are marks on letters
        ("\u0e01\u0e34\u0e19", "\u0e01\u0e31\u0e19"),  # in Thai as well
    ],
)
def test_other_words_are_other_words(text: str, wanted: str) -> None:
    assert not contains(text, wanted)


@pytest.mark.parametrize(
    "text", ["", " ", "?!", "_'", "\u2019", "\u02bc", "\u201c\u201d", "\xad", "\u200b", "\u260e\ufe0f"]
)
def test_signs_alone_are_no_words(text: str) -> None:
    assert words(text) == []
