"""What a caller would complain about, measured on what they heard: how long they waited, and for how long nothing came.

Taken from the carrier's account of the call alone. The bridge's own idea of what is owed plays no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bridge.sim.leg import Leg, loud_blocks
from bridge.sim.playout import SAMPLES_PER_MS

_JOINED_MS = 300.0  # a pause shorter than this is one within a sentence


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of sound in the caller's ear, in milliseconds of the call."""

    begins_ms: float
    ends_ms: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A time in which the caller had said something, or had just been put through, and waited to hear something."""

    since_ms: float
    until_ms: float  # the caller spoke again, or the call was over
    sounds: tuple[Sound, ...]

    @property
    def first_sound_ms(self) -> float | None:
        """How long until anything was heard; None: nothing was."""
        return self.sounds[0].begins_ms - self.since_ms if self.sounds else None

    @property
    def longest_silence_ms(self) -> float:
        """Before the last sound: what came after it was not waited for. All of it, if there was none."""
        if not self.sounds:
            return self.until_ms - self.since_ms
        edges = [self.since_ms, *(sound.ends_ms for sound in self.sounds)]
        return max(sound.begins_ms - edge for edge, sound in zip(edges, self.sounds, strict=False))


def sounds(leg: Leg) -> list[Sound]:
    """What was heard of the bridge, pauses within a sentence closed."""
    joined: list[Sound] = []
    now_ms = leg.now_ms
    for chunk in leg.media:
        for start, stop in loud_blocks(chunk):
            begins_ms, ends_ms = start / SAMPLES_PER_MS, min(stop / SAMPLES_PER_MS, now_ms)
            if begins_ms >= now_ms:
                continue
            if joined and begins_ms - joined[-1].ends_ms < _JOINED_MS:
                joined[-1] = Sound(joined[-1].begins_ms, ends_ms)
            else:
                joined.append(Sound(begins_ms, ends_ms))
    return joined


def waits(leg: Leg) -> list[Waiting]:
    """From the first frame, and from the end of each thing the caller said, to what the caller said next."""
    heard = sounds(leg)
    return [
        Waiting(
            since,
            until,
            tuple(
                Sound(max(s.begins_ms, since), s.ends_ms) for s in heard if since < s.ends_ms and s.begins_ms < until
            ),
        )
        for since, until in _spans(leg)
    ]


def _spans(leg: Leg) -> Iterator[tuple[float, float]]:
    if not leg.streams:
        return
    since = leg.streams[0].started_at / SAMPLES_PER_MS
    for spoken in leg.line.spoken:
        yield since, spoken.start / SAMPLES_PER_MS
        since = spoken.stop / SAMPLES_PER_MS
    yield since, leg.now_ms


def dead_air_ms(leg: Leg) -> float:
    """The longest silence in the call while something was waited for."""
    return max((wait.longest_silence_ms for wait in waits(leg)), default=0.0)
