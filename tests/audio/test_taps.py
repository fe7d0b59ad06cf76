"""The frozen filters are what their description says."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio.taps import GRID, TAPS_160, TAPS_240


def computed(count: int, rate_hz: int) -> np.ndarray:
    """Sinc x Kaiser (beta 7), edge at 3.85 kHz, minimum phase by the real cepstrum, on the coefficients' grid."""
    at = np.arange(count) - (count - 1) / 2
    linear = np.sinc(2 * 3850 / rate_hz * at) * np.kaiser(count, 7)
    size = 1 << 20
    magnitude = np.abs(np.fft.fft(linear, size))
    cepstrum = np.fft.ifft(np.log(np.maximum(magnitude, 1e-7 * magnitude.max()))).real
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    minimum = np.fft.ifft(np.exp(np.fft.fft(cepstrum))).real[:count]
    return minimum / minimum.sum() * GRID


@pytest.mark.parametrize(("frozen", "rate_hz"), [(TAPS_240, 24000), (TAPS_160, 16000)])
def test_the_frozen_coefficients_are_their_recomputation_to_one_step_of_the_grid(frozen, rate_hz):
    assert all(isinstance(tap, int) for tap in frozen)
    assert np.abs(np.array(frozen) - computed(len(frozen), rate_hz)).max() <= 1


@pytest.mark.parametrize("frozen", [TAPS_240, TAPS_160])
def test_no_sum_can_leave_the_integers_float64_holds(frozen):
    loudest_gain = 10 ** (24 / 20)
    assert 3 * loudest_gain * sum(map(abs, frozen)) * 32768 + 65536.5 * GRID < 2**53
