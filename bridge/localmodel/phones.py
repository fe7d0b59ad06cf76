"""A guess at how a word sounds that the recogniser's dictionary does not have: names of people, streets, products.

Letters to the phones of the CMU pronouncing dictionary by the commonest English reading; crude, but a grammar
forgives much.
"""

from __future__ import annotations

_READINGS = {
    "tion": "SH AH N",
    "sion": "ZH AH N",
    "ough": "AO",
    "igh": "AY",
    "gh": "G",
    "tch": "CH",
    "sch": "SH",
    "ch": "CH",
    "sh": "SH",
    "th": "TH",
    "ph": "F",
    "ck": "K",
    "ng": "NG",
    "qu": "K W",
    "wh": "W",
    "kn": "N",
    "wr": "R",
    "ee": "IY",
    "ea": "IY",
    "ie": "IY",
    "oo": "UW",
    "ou": "AW",
    "ow": "OW",
    "oi": "OY",
    "oy": "OY",
    "ai": "EY",
    "ay": "EY",
    "au": "AO",
    "aw": "AO",
    "ar": "AA R",
    "or": "AO R",
    "er": "ER",
    "ir": "ER",
    "ur": "ER",
    "a": "AE",
    "b": "B",
    "c": "K",
    "d": "D",
    "e": "EH",
    "f": "F",
    "g": "G",
    "h": "HH",
    "i": "IH",
    "j": "JH",
    "k": "K",
    "l": "L",
    "m": "M",
    "n": "N",
    "o": "AA",
    "p": "P",
    "q": "K",
    "r": "R",
    "s": "S",
    "t": "T",
    "u": "AH",
    "v": "V",
    "w": "W",
    "x": "K S",
    "y": "IY",
    "z": "Z",
}
_SOFT_C = ("ce", "ci", "cy")
_LONGEST = max(map(len, _READINGS))


def guessed_phones(word: str) -> str:
    letters = word.lower()
    if len(letters) > 3 and letters.endswith("e"):
        letters = letters[:-1]
    phones: list[str] = []
    at = 0
    while at < len(letters):
        if letters.startswith(_SOFT_C, at):
            phones.append("S")
            at += 1
            continue
        for size in range(_LONGEST, 0, -1):
            reading = _READINGS.get(letters[at : at + size])
            if reading and len(letters[at : at + size]) == size:
                phones.append(reading)
                at += size
                break
        else:
            at += 1  # an apostrophe, a letter of another alphabet
        if at < len(letters) and letters[at] == letters[at - 1] and letters[at] not in "aeiou":
            at += 1  # a doubled consonant sounds once
    return " ".join(phones) or "AH"
