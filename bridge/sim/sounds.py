"""Where a track sounds: stretches of speech in a recording, by loudness alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE_HZ = 8000
QUIET = 60  # mean magnitude (of 32768) below which 10 ms count as silence: about -54 dBFS
PAUSE_MS = 300.0  # a shorter pause is one within a sentence
_BLOCK = RATE_HZ // 100


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sound from one millisecond of the call to another."""

    start_ms: float
    stop_ms: float

    @property
    def ms(self) -> float:
        return self.stop_ms - self.start_ms

    def overlap_ms(self, other: Stretch) -> float:
        return max(0.0, min(self.stop_ms, other.stop_ms) - max(self.start_ms, other.start_ms))


def loud_ms(track: npt.NDArray[np.int16]) -> list[Stretch]:
    """The blocks of 10 ms that sound; neighbours are joined."""
    blocks = np.abs(track[: len(track) // _BLOCK * _BLOCK].astype(np.int32)).reshape(-1, _BLOCK).mean(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (blocks > QUIET).astype(np.int8), [0]))))
    return [Stretch(10.0 * start, 10.0 * stop) for start, stop in edges.reshape(-1, 2).tolist()]


def joined(stretches: Iterable[Stretch], *, pause_ms: float = PAUSE_MS) -> list[Stretch]:
    """Stretches in their order, with pauses shorter than `pause_ms` closed."""
    result: list[Stretch] = []
    for stretch in stretches:
        if result and stretch.start_ms - result[-1].stop_ms < pause_ms:
            result[-1] = Stretch(result[-1].start_ms, max(result[-1].stop_ms, stretch.stop_ms))
        else:
            result.append(stretch)
    return result
