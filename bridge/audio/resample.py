"""Changing the rate: the live path's filter as one matrix product a push, and soxr for whole files.

The live filter is a polyphase FIR of minimum phase whose coefficients are integers (`taps`). A push becomes blocks of
2.5 ms; each block's outputs are its window of input samples times one block-Toeplitz matrix, shared by every call in
the process.

Laws: samples and coefficients are integers on a 2^-20 grid and sums stay below 2^53, so float64 is exact and the
result is the same for any chunking, any BLAS and any number of its threads. Products stay below the size at which
OpenBLAS starts threads. The scratch is shared by all calls of one thread: a result must be taken out before the next
product.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any, Final

import numpy as np
import soxr
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from bridge.audio.taps import GRID, TAPS_160, TAPS_240
from bridge.errors import UsageError

Floats = NDArray[np.float64]

BLOCKS_PER_S: Final = 400
MIDDLE: Final = 65536  # the index of sample 0: cutting a fraction off rounds down, and the low 16 bits are the sample
# OpenBLAS stays on one thread up to m*n*k = 4 * 65536 (interface/gemm.c); bigger pushes are cut
_LARGEST_PRODUCT: Final = 4 * 65536


class Workspace:
    """What some pushes of so many blocks each work in: fill `history`, call `filter`, read `index`.

    Views into a `Scratch`, which has room for `most_blocks` in all.
    """

    __slots__ = ("_matrix", "_product", "_rows", "_rows_and_one", "_windows", "history", "index")

    def __init__(self, scratch: Scratch, blocks: int, pushes: int) -> None:
        matrix = scratch.toeplitz
        span, length = matrix.history + matrix.block_in, matrix.history + blocks * matrix.block_in
        self._matrix = matrix.matrix
        self.history = scratch.history[: pushes * length]
        strides = (length * 8, matrix.block_in * 8, 8)
        self._windows = as_strided(self.history, (pushes, blocks, span), strides, writeable=False)
        self._rows_and_one = scratch.rows_and_one[: pushes * blocks]
        self._rows = self._rows_and_one.reshape(pushes, blocks, span + 1)[:, :, :span]
        self._product = scratch.product[: pushes * blocks]
        self.index = scratch.index[: pushes * blocks]

    def filter(self) -> None:
        """Leaves in `index` each output sample + MIDDLE, rounded to the nearest and not yet limited to 16 bits."""
        self._rows[...] = self._windows
        np.dot(self._rows_and_one, self._matrix, self._product)
        self.index[...] = self._product  # a cast on purpose: it cuts the fraction off


class Scratch:
    """The arrays of the largest push; each `Workspace` looks at a part of them."""

    def __init__(self, toeplitz: Toeplitz) -> None:
        most = toeplitz.most_blocks
        self.toeplitz = toeplitz
        self.history: Floats = np.zeros(most * (toeplitz.history + toeplitz.block_in))  # pushes of one block each
        # the last column stays one: its row of the matrix moves the sum to where cutting off is rounding
        self.rows_and_one: Floats = np.ones((most, toeplitz.history + toeplitz.block_in + 1))
        self.product: Floats = np.zeros((most, toeplitz.block_out))
        self.index: NDArray[np.intp] = np.zeros((most, toeplitz.block_out), np.intp)


class Toeplitz:
    """The filter between two rates as a matrix: [history + block_in + 1, block_out], in float64.

    `history` input samples are remembered between pushes; whole groups of `group` input samples become output.
    `loudest` is the largest input magnitude that can in no case be limited at the output.
    """

    def __init__(self, *, from_hz: int, to_hz: int, gain: float = 1.0) -> None:
        common = gcd(from_hz, to_hz)
        up, down = to_hz // common, from_hz // common
        taps = np.array(_prototype(up, down), dtype=np.int64)
        scaled = np.rint(taps * (up * gain)) / GRID
        self.group = down
        self.history = len(taps) // up - 1
        self.block_in = from_hz // BLOCKS_PER_S
        self.block_out = to_hz // BLOCKS_PER_S
        # the memory order is the one OpenBLAS multiplies faster in 20 ms frames, measured
        shape = (self.history + self.block_in + 1, self.block_out)
        self.matrix: Floats = np.zeros(shape, order="F" if down > up else "C")
        for m in range(self.block_out):
            # the newest moment of the group: an output is due when its group is complete, so it may look at all of it
            newest, phase = divmod(m * down + down - 1, up)
            column = scaled[phase::up]
            self.matrix[self.history + newest - np.arange(len(column)), m] = column
        self.matrix[-1] = MIDDLE + 0.5
        self.loudest = int(32766 / np.abs(self.matrix[:-1]).sum(axis=0).max())
        self.most_blocks = _LARGEST_PRODUCT // self.matrix.size

    @property
    def samples_out_per_group(self) -> int:
        return self.block_out * self.group // self.block_in


def _prototype(up: int, down: int) -> tuple[int, ...]:
    match up, down:
        case (3, 1) | (1, 3) | (3, 2) | (2, 3):
            return TAPS_240
        case (2, 1) | (1, 2):
            return TAPS_160
    raise UsageError(f"no filter for the ratio {up}:{down}")


@cache
def toeplitz(*, from_hz: int, to_hz: int, gain: float = 1.0) -> Toeplitz:
    """The matrix of one pair of rates and one gain, made once per process."""
    return Toeplitz(from_hz=from_hz, to_hz=to_hz, gain=gain)


@cache
def scratch(matrix: Toeplitz, thread: int) -> Scratch:
    """The scratch of one thread."""
    return Scratch(matrix)


def convert(samples: NDArray[np.int16], from_hz: int, to_hz: int) -> NDArray[np.int16]:
    """Whole recordings and prompts, any rates: soxr HQ, rounded, limited, no dither. Shape [n] or [n, channels]."""
    if from_hz == to_hz:
        return samples
    wide: Any = soxr.resample(samples.astype(np.float64), from_hz, to_hz, quality="HQ")
    limited: NDArray[np.float64] = np.clip(np.rint(wide), -32768, 32767)
    return limited.astype(np.int16)
