"""Is there a voice, judged by loudness alone and for next to nothing: a second opinion on somebody else's detector.

Each sample is looked up on a logarithmic scale, and a frame's mean is compared with the surrounding's, which is
learned from the quietest frames. About a microsecond a frame. It is fooled by music and by many voices, never by
steady noise for long.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from bridge.audio.encoding import samples_by_code
from bridge.audio.formats import AudioFormat, Encoding

_STEPS_A_DB: Final = 20 / 6.02  # of the scale: 20 steps are a factor of two
_LOUD: Final = 6.0 * _STEPS_A_DB  # above the surrounding: a voice
_RISE: Final = 6.0 * _STEPS_A_DB / 1000  # a millisecond: how fast the floor follows a louder surrounding
_RISE_IN_VOICE: Final = 1.0 * _STEPS_A_DB / 1000
_FALL: Final = 0.2  # of the way a frame


class Loudness:
    """Hears the frames of one leg."""

    __slots__ = ("_floor", "_high_bytes", "_table")

    def __init__(self, format: AudioFormat) -> None:
        self._table = _scale(format.encoding)
        self._high_bytes = format.encoding == "pcm16"
        self._floor: float | None = None

    def is_loud(self, frame: bytes, ms: float) -> bool:
        """Whether this frame stands out from its surrounding."""
        codes = frame[1::2] if self._high_bytes else frame
        if not codes:
            return False
        level = sum(codes.translate(self._table)) / len(codes)
        floor = level if self._floor is None else self._floor
        loud = level > floor + _LOUD
        if level < floor:
            self._floor = floor + _FALL * (level - floor)
        else:
            self._floor = min(level, floor + ms * (_RISE_IN_VOICE if loud else _RISE))
        return loud


@cache
def _scale(encoding: Encoding) -> bytes:
    """For each byte how loud it is; of 16-bit samples the high byte tells enough."""
    samples = np.arange(256, dtype=np.uint8).view(np.int8) * 256.0 if encoding == "pcm16" else samples_by_code(encoding)
    scale = np.rint(20 * np.log2(1 + np.abs(samples.astype(np.float64)) / 16))
    return bytes(scale.astype(np.uint8).tolist())
