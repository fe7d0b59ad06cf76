"""Words as they sound: what is compared of two texts, whoever wrote them down.

Case, punctuation, hyphens and invisible signs are no part of a word, nor is the way an accent is encoded; an
apostrophe is one within a word, however it is drawn. What is spelled otherwise is another word: `12` is not `twelve`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_APOSTROPHES: Final = "\u2018\u2019\u201b\u02bb\u02bc\u2032\u00b4`"  # curly ones, a prime, accents standing alone
_UNSEEN: Final = (0xAD, *range(0x200B, 0x2010), 0x2060, *range(0xFE00, 0xFE10), 0xFEFF)  # hyphens, joiners, selectors
_ALIKE: Final = {**dict.fromkeys(map(ord, _APOSTROPHES), "'"), **dict.fromkeys(_UNSEEN, "")}
# Thai, Lao, Myanmar, Khmer, kana, ideographs: written without spaces, so every sign is taken for a word.
_UNSPACED: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff])"
)


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text.translate(_ALIKE)).casefold()
    spaced = "".join(sign if _in_words(sign) else " " for sign in _UNSPACED.sub(r" \1 ", plain))
    return [word for run in spaced.split() if (word := run.strip("'"))]


def contains(text: str, wanted: str) -> bool:
    """Whether the words of `wanted` occur in `text` one after the other."""
    return f" {' '.join(words(wanted))} " in f" {' '.join(words(text))} "


def _in_words(sign: str) -> bool:
    return sign.isalnum() or sign == "'" or unicodedata.category(sign) in ("Mn", "Mc")
