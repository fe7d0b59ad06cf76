"""Computes the figures of a simulated call (figures.py) from its two tracks and its events."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

import numpy as np

from .figures import Measures, Spread
from .outcome import CallerTurn, Cut, Outcome
from .sounds import RATE_HZ, Stretch, joined, loud_ms
from .words import words

LONG_SILENCE_MS = 2000.0
SOON_MS = 1000.0  # after the caller's words a clear may still be for them
_ANSWER_AT_MOST_MS = 15_000.0  # what comes later is not an answer
_JOINT_MS = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """One value behind a figure, and its moment of the call."""

    at_ms: float
    value: float = 1


_Raw = Mapping[str, Sequence[Found]]  # by figure, as they are named in figures.py


def measure(*outcomes: Outcome) -> Measures:
    """The figures of one call, or of several taken together."""
    raw = [_raw(outcome) for outcome in outcomes]
    agent_ms, caller_ms = (sum(one.value for r in raw for one in r[who]) for who in ("agent", "caller"))

    def values(figure: str) -> list[float]:
        return [one.value for r in raw for one in r[figure]]

    def total(figure: str) -> float:
        return round(sum(values(figure)), 1)

    meant = [turn for outcome in outcomes for turn in outcome.caller_turns if turn.meant]
    nobody_knows = bool(meant) and all(turn.understood is None for turn in meant)
    return Measures(
        first_sound_ms=Spread.of(values("first_sound_ms")),
        answer_ms=Spread.of(values("answer_ms")),
        yield_ms=Spread.of(values("yield_ms")),
        truncation_error_ms=Spread.of(values("truncation_error_ms")),
        barge_ins=int(total("barge_ins")),
        overlap_ms=total("overlap_ms"),
        dead_air_longest_ms=round(max(values("dead_air_longest_ms"), default=0.0), 1),
        dead_air_ms=total("dead_air_ms"),
        gaps=int(total("gaps")),
        gap_ms=total("gap_ms"),
        clicks=int(total("clicks")),
        words_lost_at_start=None if nobody_knows else int(total("words_lost_at_start")),
        talk_ratio=round(agent_ms / (agent_ms + caller_ms), 3) if agent_ms + caller_ms else 0.0,
        false_interruptions=int(total("false_interruptions")),
    )


def moment(outcome: Outcome, name: str, *, most: float = math.inf) -> float | None:
    """Where to look for a figure of one call: at the value that it is, or the one that took a count or a sum beyond
    `most`. None if it is no matter of one moment.
    """
    figure, _, part = name.partition(".")
    found = _raw(outcome).get(figure, ())
    if part == "count":
        found = [Found(one.at_ms) for one in found]
    elif part or figure == "dead_air_longest_ms":
        value = getattr(Spread.of(one.value for one in found), part or "max")
        return next((one.at_ms for one in found if round(one.value, 2) == value), None)
    totals = accumulate(one.value for one in found)
    return next((one.at_ms for one, total in zip(found, totals, strict=True) if round(total, 1) > most), None)


def _raw(outcome: Outcome) -> _Raw:
    sounds, turns = outcome.agent_sounds, outcome.caller_turns
    said = [Stretch(turn.start_ms, turn.stop_ms) for turn in turns]
    yields = _yields(turns, sounds)
    silences = _silences(outcome, sounds, said)
    return {
        "first_sound_ms": _first_sound(outcome, sounds),
        "answer_ms": _answers(turns, _spoken(outcome, sounds)),
        "yield_ms": yields,
        "truncation_error_ms": [Found(t.at_ms, abs(t.told_ms - t.truth_ms)) for t in outcome.truncations],
        "barge_ins": [Found(one.at_ms) for one in yields],
        "overlap_ms": [Found(max(a.start_ms, b.start_ms), a.overlap_ms(b)) for b in said for a in sounds],
        "dead_air_longest_ms": silences,
        "dead_air_ms": [one for one in silences if one.value >= LONG_SILENCE_MS],
        "gaps": [Found(gap.at_ms) for gap in outcome.gaps],
        "gap_ms": [Found(gap.at_ms, gap.ms) for gap in outcome.gaps],
        "clicks": [Found(at_ms) for at_ms in clicks(outcome)],
        "words_lost_at_start": [Found(turn.start_ms, _lost_words(turn)) for turn in turns],
        "false_interruptions": [Found(cut.at_ms) for cut in false_interruptions(outcome)],
        "agent": [Found(s.start_ms, s.ms) for s in joined(loud_ms(outcome.agent))],
        "caller": [Found(s.start_ms, s.ms) for s in said],
    }


def _first_sound(outcome: Outcome, sounds: Sequence[Stretch]) -> list[Found]:
    if outcome.stream_from_ms is None or not sounds:
        return []
    return [Found(sounds[0].start_ms, sounds[0].start_ms - outcome.stream_from_ms)]


def _spoken(outcome: Outcome, sounds: Sequence[Stretch]) -> Sequence[Stretch]:
    """The agent's own words, without our fillers, where the service told what it said; else every sound."""
    told = outcome.agent_turns
    if not any(turn.text for turn in told):
        return sounds
    both = [
        Stretch(max(sound.start_ms, turn.start_ms), min(sound.stop_ms, turn.stop_ms))
        for sound in sounds
        for turn in told
    ]
    return sorted((one for one in both if one.start_ms < one.stop_ms), key=lambda one: one.start_ms)


def _answers(turns: Sequence[CallerTurn], sounds: Sequence[Stretch]) -> list[Found]:
    """Sound that begins between the caller's end and their next turn. What was still playing is no answer."""
    answers = []
    for turn, following in zip_longest(turns, turns[1:]):
        if not turn.meant:
            continue
        until = min(following.start_ms if following else math.inf, turn.stop_ms + _ANSWER_AT_MOST_MS)
        first = next((s.start_ms for s in sounds if turn.stop_ms <= s.start_ms < until), None)
        if first is not None:
            answers.append(Found(turn.stop_ms, first - turn.stop_ms))
    return answers


def _yields(turns: Sequence[CallerTurn], sounds: Sequence[Stretch]) -> list[Found]:
    return [
        Found(turn.start_ms, sound.stop_ms - turn.start_ms)
        for turn in turns
        if turn.meant
        for sound in sounds
        if sound.start_ms < turn.start_ms < sound.stop_ms
    ]


def _silences(outcome: Outcome, sounds: Sequence[Stretch], said: Sequence[Stretch]) -> list[Found]:
    """Between the opening of the stream and the end of the call, or its handing on, what neither of them filled."""
    if outcome.stream_from_ms is None:
        return []
    end_ms = outcome.length_ms if outcome.put_through_ms is None else outcome.put_through_ms
    everything = joined(sorted([*sounds, *said], key=lambda s: s.start_ms), pause_ms=0.0)
    edges = [outcome.stream_from_ms, *(edge for s in everything for edge in (s.start_ms, s.stop_ms)), end_ms]
    return [Found(start, stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]


def clicks(outcome: Outcome) -> list[float]:
    """Where the agent's audio jumps at a border of two pieces: a step far beyond those of the sound around it."""
    track = outcome.agent.astype(np.int32)
    around = round(_JOINT_MS / 1000 * RATE_HZ)
    found = []
    for border_ms in outcome.borders_ms:
        at = round(border_ms / 1000 * RATE_HZ)
        if not around < at < len(track) - around:
            continue
        steps = np.abs(np.diff(track[at - around : at + around + 1]))
        here = int(steps[around - 1])
        steps[around - 1] = 0
        if here > 1000 and here > 2 * int(steps.max()):
            found.append(border_ms)
    return found


def _lost_words(turn: CallerTurn) -> int:
    """Leading words that are not in what was understood; none where nothing is known, all where nothing was."""
    if turn.understood is None or not turn.meant:
        return 0
    said, understood = words(turn.words), words(turn.understood)
    blocks = difflib.SequenceMatcher(None, said, understood, autojunk=False).get_matching_blocks()
    return blocks[0].a if blocks[0].size else len(said)


def false_interruptions(outcome: Outcome) -> list[Cut]:
    """Clears that took sound away while no speech that was meant lay in the second before, or under way."""
    meant = [turn for turn in outcome.caller_turns if turn.meant]
    return [
        cut
        for cut in outcome.cuts
        if cut.dropped_ms > 0 and not any(t.start_ms <= cut.at_ms <= t.stop_ms + SOON_MS for t in meant)
    ]
