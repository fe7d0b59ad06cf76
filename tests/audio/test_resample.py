"""The matrix behind the live path, and soxr for files."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio.resample import MIDDLE, Scratch, Workspace, convert, toeplitz
from bridge.audio.taps import GRID, TAPS_160, TAPS_240
from bridge.errors import UsageError

RATES = [(8000, 24000), (24000, 8000), (8000, 16000), (16000, 8000), (16000, 24000), (24000, 16000)]


def textbook(samples: np.ndarray, from_hz: int, to_hz: int) -> list[int]:
    """Zero-stuff, convolve, pick; in Python's integers. An output is due when its group of inputs is complete."""
    common = int(np.gcd(from_hz, to_hz))
    up, down = to_hz // common, from_hz // common
    taps = TAPS_160 if {up, down} == {1, 2} else TAPS_240
    stuffed = np.zeros(len(samples) * up, dtype=object)
    stuffed[::up] = [int(s) for s in samples]
    filtered = np.convolve(stuffed, np.array([up * tap for tap in taps], dtype=object))[: len(stuffed)]
    return [(2 * int(value) + GRID) // (2 * GRID) for value in filtered[down - 1 :: down]]


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_the_block_product_is_the_textbook_filter_to_the_last_bit(from_hz, to_hz):
    matrix = toeplitz(from_hz=from_hz, to_hz=to_hz)
    samples = np.random.default_rng(3).integers(-32768, 32768, 5 * matrix.block_in)
    push = Workspace(Scratch(matrix), 5, 1)
    push.history[: matrix.history] = 0
    push.history[matrix.history :] = samples
    push.filter()
    got, want = push.index.ravel() - MIDDLE, np.array(textbook(samples, from_hz, to_hz))
    # far below the range the fraction is cut off towards zero; those are limited anyway
    assert ((got == want) | ((want < -65536) & (got < -65535))).all()


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_products_are_too_small_for_blas_to_start_threads(from_hz, to_hz):
    matrix = toeplitz(from_hz=from_hz, to_hz=to_hz)
    assert matrix.most_blocks * matrix.matrix.size <= 4 * 65536
    assert matrix.most_blocks >= 32


def test_a_ratio_without_a_filter_is_refused():
    with pytest.raises(UsageError, match="4:1"):
        toeplitz(from_hz=8000, to_hz=32000)


def test_files_are_converted_without_dither_clicks_or_wrapping():
    assert convert(np.zeros(44_100, np.int16), 44_100, 8000).tolist() == [0] * 8000
    square = np.tile(np.repeat(np.array([32767, -32768], np.int16), 50), 100)
    out = convert(square, 8000, 24000).astype(int)
    middle = out.reshape(-1, 150)[:, 30:120]
    assert (np.sign(middle) == np.sign(middle[:, :1])).all()
    tone = np.rint(10000 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)).astype(np.int16)
    want = 10000 * np.sin(2 * np.pi * 1000 * np.arange(24000) / 24000)
    assert np.abs(convert(tone, 8000, 24000) - want)[600:-600].max() < 2


def test_every_channel_of_a_file_is_converted():
    both = np.stack([np.full(800, 1000, np.int16), np.full(800, -1000, np.int16)], axis=1)
    out = convert(both, 8000, 24000)
    assert out.shape == (2400, 2)
    assert set(out[600:-600, 0].tolist()) == {1000}


def test_the_same_rate_is_left_alone():
    samples = np.arange(5, dtype=np.int16)
    assert convert(samples, 8000, 8000) is samples
