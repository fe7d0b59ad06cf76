"""Room noise: seeded, so that the same caller sounds the same in every run."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

FULL_SCALE = 32768


def room(samples: int, *, dbfs: float, seed: int) -> npt.NDArray[np.int32]:
    """Noise of the given RMS level against full scale, softened at the top as by walls and a telephone."""
    drawn = np.random.RandomState(zlib.crc32(f"room-{seed}".encode()))  # the one stream numpy promises never to change
    hiss = drawn.randint(-500, 501, (4, samples + 8)).sum(axis=0)
    soft = np.convolve(hiss, (1, 2, 3, 4, 5, 4, 3, 2, 1), mode="valid")  # whole numbers: the same on every machine
    power = int((soft.astype(np.int64) ** 2).sum()) / samples
    scaled: npt.NDArray[np.int32] = np.rint(soft * (FULL_SCALE * 10 ** (dbfs / 20) / power**0.5)).astype(np.int32)
    return scaled


def speech_level_dbfs(samples: npt.NDArray[np.int16]) -> float:
    """The level of the speech itself: RMS over the 20 ms blocks within 20 dB of the loudest (8 kHz)."""
    blocks = samples[: len(samples) // 160 * 160].astype(np.float64).reshape(-1, 160)
    if not len(blocks):
        return -96.0
    power = (blocks**2).mean(axis=1)
    loud = power[power > power.max() / 100]
    return float(10 * np.log10(max(loud.mean() if len(loud) else 0.0, 1e-3) / FULL_SCALE**2))
