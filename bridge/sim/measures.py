"""Computes the figures of a simulated call (figures.py) from its two tracks and its events."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from itertools import zip_longest

import msgspec
import numpy as np

from .figures import Measures, Spread
from .outcome import CallerTurn, Outcome
from .sounds import RATE_HZ, Stretch, joined, loud_ms

LONG_SILENCE_MS = 2000.0
_ANSWER_AT_MOST_MS = 15_000.0  # what comes later is not an answer
_JOINT_MS = 10.0


class _Raw(msgspec.Struct):
    """The single values behind one call's figures."""

    first_sound_ms: list[float]
    answer_ms: list[float]
    yield_ms: list[float]
    truncation_error_ms: list[float]
    barge_ins: int
    overlap_ms: float
    silences_ms: list[float]
    gap_ms: list[float]
    clicks: int
    words_lost_at_start: int
    agent_ms: float
    caller_ms: float
    false_interruptions: int


def measure(*outcomes: Outcome) -> Measures:
    """The figures of one call, or of several taken together."""
    raw = [_raw(outcome) for outcome in outcomes]
    agent_ms, caller_ms = sum(r.agent_ms for r in raw), sum(r.caller_ms for r in raw)
    silences = [ms for r in raw for ms in r.silences_ms]
    return Measures(
        first_sound_ms=Spread.of(ms for r in raw for ms in r.first_sound_ms),
        answer_ms=Spread.of(ms for r in raw for ms in r.answer_ms),
        yield_ms=Spread.of(ms for r in raw for ms in r.yield_ms),
        truncation_error_ms=Spread.of(abs(ms) for r in raw for ms in r.truncation_error_ms),
        barge_ins=sum(r.barge_ins for r in raw),
        overlap_ms=round(sum(r.overlap_ms for r in raw), 1),
        dead_air_longest_ms=round(max(silences, default=0.0), 1),
        dead_air_ms=round(sum(ms for ms in silences if ms >= LONG_SILENCE_MS), 1),
        gaps=sum(len(r.gap_ms) for r in raw),
        gap_ms=round(sum(ms for r in raw for ms in r.gap_ms), 1),
        clicks=sum(r.clicks for r in raw),
        words_lost_at_start=sum(r.words_lost_at_start for r in raw),
        talk_ratio=round(agent_ms / (agent_ms + caller_ms), 3) if agent_ms + caller_ms else 0.0,
        false_interruptions=sum(r.false_interruptions for r in raw),
    )


def _raw(outcome: Outcome) -> _Raw:
    sounds = outcome.agent_sounds
    said = [Stretch(turn.start_ms, turn.stop_ms) for turn in outcome.caller_turns]
    yields = _yields(outcome.caller_turns, sounds)
    return _Raw(
        first_sound_ms=_first_sound(outcome, sounds),
        answer_ms=_answers(outcome.caller_turns, sounds),
        yield_ms=yields,
        truncation_error_ms=[t.told_ms - t.truth_ms for t in outcome.truncations],
        barge_ins=len(yields),
        overlap_ms=sum(a.overlap_ms(b) for a in sounds for b in said),
        silences_ms=_silences(outcome, sounds, said),
        gap_ms=[gap.ms for gap in outcome.gaps],
        clicks=len(clicks(outcome)),
        words_lost_at_start=sum(_lost_words(turn) for turn in outcome.caller_turns),
        agent_ms=sum(s.ms for s in joined(loud_ms(outcome.agent))),
        caller_ms=sum(s.ms for s in said),
        false_interruptions=_false_interruptions(outcome),
    )


def _first_sound(outcome: Outcome, sounds: Sequence[Stretch]) -> list[float]:
    if outcome.stream_from_ms is None or not sounds:
        return []
    return [sounds[0].start_ms - outcome.stream_from_ms]


def _answers(turns: Sequence[CallerTurn], sounds: Sequence[Stretch]) -> list[float]:
    """Sound that begins between the caller's end and their next turn. What was still playing is no answer."""
    answers = []
    for turn, following in zip_longest(turns, turns[1:]):
        if not turn.meant:
            continue
        until = min(following.start_ms if following else math.inf, turn.stop_ms + _ANSWER_AT_MOST_MS)
        first = next((s.start_ms for s in sounds if turn.stop_ms <= s.start_ms < until), None)
        if first is not None:
            answers.append(first - turn.stop_ms)
    return answers


def _yields(turns: Sequence[CallerTurn], sounds: Sequence[Stretch]) -> list[float]:
    return [
        sound.stop_ms - turn.start_ms
        for turn in turns
        if turn.meant
        for sound in sounds
        if sound.start_ms < turn.start_ms < sound.stop_ms
    ]


def _silences(outcome: Outcome, sounds: Sequence[Stretch], said: Sequence[Stretch]) -> list[float]:
    """Between the opening of the stream and the end of the call, or its handing on, what neither of them filled."""
    if outcome.stream_from_ms is None:
        return []
    end_ms = outcome.length_ms if outcome.put_through_ms is None else outcome.put_through_ms
    everything = joined(sorted([*sounds, *said], key=lambda s: s.start_ms), pause_ms=0.0)
    edges = [outcome.stream_from_ms, *(edge for s in everything for edge in (s.start_ms, s.stop_ms)), end_ms]
    return [stop - start for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]


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


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _lost_words(turn: CallerTurn) -> int:
    """Leading words that are not in what was understood; none where nothing is known, all where nothing was."""
    if turn.understood is None or not turn.meant:
        return 0
    said, understood = _words(turn.words), _words(turn.understood)
    blocks = difflib.SequenceMatcher(None, said, understood, autojunk=False).get_matching_blocks()
    return blocks[0].a if blocks[0].size else len(said)


def _false_interruptions(outcome: Outcome) -> int:
    """Clears that took sound away while no speech that was meant lay in the second before, or under way."""
    meant = [turn for turn in outcome.caller_turns if turn.meant]
    return sum(
        1
        for cut in outcome.cuts
        if cut.dropped_ms > 0 and not any(t.start_ms <= cut.at_ms <= t.stop_ms + 1000 for t in meant)
    )
