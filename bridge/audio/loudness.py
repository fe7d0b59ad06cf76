"""Is there a voice, judged by loudness alone and for next to nothing: a second opinion on somebody else's detector.

Samples are looked up on a logarithmic scale, and a frame's mean is compared with the surrounding's, which is
learned from the quietest frames. For G.711 half a microsecond a frame. It is fooled by music and by many voices,
never by steady noise for long.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.audio.encoding import decode, samples_by_code
from bridge.audio.formats import AudioFormat, Encoding

_STEPS_A_DB: Final = 20 / 6.02  # of the scale: 20 steps are a factor of two
_EVERY: Final = 4  # of G.711's samples one is looked at: forty a frame tell its mean well enough
_LOUD: Final = 6.0 * _STEPS_A_DB  # above the surrounding: a voice
_RISE: Final = 6.0 * _STEPS_A_DB / 1000  # a millisecond: how fast the floor follows a louder surrounding
_RISE_IN_VOICE: Final = 1.0 * _STEPS_A_DB / 1000
_FALL: Final = 0.2  # of the way a frame


class Loudness:
    """Hears the frames of one leg."""

    __slots__ = ("_floor", "_table")

    def __init__(self, format: AudioFormat) -> None:
        self._table = None if format.encoding == "pcm16" else _table(format.encoding)
        self._floor: float | None = None

    def is_loud(self, frame: bytes, ms: float) -> bool:
        """Whether this frame stands out from its surrounding."""
        if len(frame) < 2:
            return False
        if self._table is not None:
            heard = frame[::_EVERY].translate(self._table)
            level = sum(heard) / len(heard)
        else:
            level = float(_scale(decode("pcm16", frame)).mean())
        floor = level if self._floor is None else self._floor
        loud = level > floor + _LOUD
        if level < floor:
            self._floor = floor + _FALL * (level - floor)
        else:
            self._floor = min(level, floor + ms * (_RISE_IN_VOICE if loud else _RISE))
        return loud


@cache
def _table(encoding: Encoding) -> bytes:
    """For each byte how loud it is."""
    return bytes(np.rint(_scale(samples_by_code(encoding))).astype(np.uint8).tolist())


def _scale(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """0 to 220; twice as loud is 20 more."""
    return 20 * np.log2(1 + np.abs(samples.astype(np.float64)) / 16)
