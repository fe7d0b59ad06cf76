"""A recogniser that knows what the callers of these tests can say, and finds out by the sound how much of it arrived.

Nothing is guessed: a clip is cut into pieces, and each piece is looked for in what the model was given. So "no word
was lost" is a number here, and no extra has to be installed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bridge.audio import g711
from bridge.localmodel.brain import Brain, Heard
from bridge.sim import voices

CLIPS = {"opening-hours": "opening hours", "interruption": "address", "goodbye": "goodbye"}  # clip -> intent
_PIECE = 1600  # samples: 200 ms
_FADE = 0.7  # correlation from which a piece counts as found
_LOUD = 400.0  # mean magnitude from which a piece says anything


class Witness:
    """`heard` has every utterance it was given, at 8 kHz."""

    def __init__(self) -> None:
        self.heard: list[npt.NDArray[np.float64]] = []

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        samples = np.frombuffer(pcm16k, "<i2").astype(np.float64)[::2]
        self.heard.append(samples)
        shares = {name: _share(samples, voices.clip(name)) for name in CLIPS}
        name = max(shares, key=shares.__getitem__)
        if shares[name] < 0.5:
            return Heard(None, "")
        return Heard(CLIPS[name], voices.CLIPS[name])

    async def close(self) -> None: ...

    def share_of(self, clip: str) -> float:
        """How much of the clip's sound is in the utterance that has most of it; 1.0: not a word was lost."""
        return max((_share(samples, voices.clip(clip)) for samples in self.heard), default=0.0)


def _share(heard: npt.NDArray[np.float64], clip: bytes) -> float:
    said = np.frombuffer(g711.decode_mulaw(clip), "<i2").astype(np.float64)
    pieces = [said[at : at + _PIECE] for at in range(0, len(said) - _PIECE + 1, _PIECE)]
    loud = [piece for piece in pieces if np.abs(piece).mean() > _LOUD]
    return sum(_contains(heard, piece) for piece in loud) / len(loud)


def _contains(heard: npt.NDArray[np.float64], piece: npt.NDArray[np.float64]) -> bool:
    if len(heard) < len(piece):
        return False
    size = 1 << (len(heard) + len(piece) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(piece[::-1], size), size)
    overlap = product[len(piece) - 1 : len(heard)]
    energy = np.convolve(heard**2, np.ones(len(piece)), "valid") if len(heard) < 4000 else _running(heard, len(piece))
    level = np.sqrt(np.maximum(energy, 1.0) * (piece**2).sum())
    return bool((overlap / level).max() > _FADE)


def _running(heard: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    sums = np.concatenate(([0.0], np.cumsum(heard**2)))
    return sums[size:] - sums[:-size]
