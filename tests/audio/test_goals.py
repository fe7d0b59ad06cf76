"""The goal numbers that do not depend on the machine, on a coarser grid of tones than the bench's."""

from __future__ import annotations

import pytest

from bridge.audio.formats import MULAW_8K, PCM16_24K
from tests.audio.measure import delay_ms, held_back_ms, ours, ripple_db, speech, tone, wrapped
from tests.audio.speech import utterances_24k

UPWARD = [(8000, 24000), (8000, 16000), (16000, 24000)]
DOWNWARD = [(high, low) for low, high in UPWARD]


def band(begin_hz: int, end_hz: int, step_hz: int, pair: tuple[int, int]) -> list[int]:
    """Tones of the 8 kHz band, scaled to a pair whose lower rate is another."""
    scale = min(pair) // 8000
    return [hz * scale for hz in range(begin_hz, end_hz, step_hz) if hz * scale < pair[0] / 2 - 50]


@pytest.mark.parametrize("pair", UPWARD)
def test_images_are_rejected_by_80_db_and_near_the_edge_by_70(pair):
    assert min(tone(ours, *pair, hz).rejection_db for hz in band(103, 3400, 300, pair)) >= 80
    assert min(tone(ours, *pair, hz).rejection_db for hz in band(3403, 3900, 50, pair)) >= 70


@pytest.mark.parametrize("pair", DOWNWARD)
def test_aliases_are_rejected_by_80_db_and_near_the_edge_by_70(pair):
    assert min(tone(ours, *pair, hz).rejection_db for hz in band(4603, 11900, 300, pair)) >= 80
    assert min(tone(ours, *pair, hz).rejection_db for hz in band(4103, 4600, 50, pair)) >= 70


@pytest.mark.parametrize("pair", UPWARD + DOWNWARD)
def test_the_pass_band_is_flat_and_reaches_3600_hz(pair):
    scale = min(pair) // 8000
    assert ripple_db([tone(ours, *pair, hz) for hz in band(103, 3400, 300, pair)]) <= 0.01
    assert tone(ours, *pair, 3600 * scale).gain_db >= -0.05


@pytest.mark.parametrize("pair", UPWARD + DOWNWARD)
def test_the_delay_is_below_a_third_of_a_millisecond_and_nowhere_above_one(pair):
    scale = min(pair) // 8000
    assert delay_ms(ours, *pair, 1000 * scale) <= 0.3
    assert max(delay_ms(ours, *pair, hz) for hz in band(300, 3401, 310, pair)) <= 1.0


@pytest.mark.parametrize("pair", [(8000, 24000), (24000, 8000)])
def test_a_tone_stands_85_db_above_everything_else(pair):
    assert tone(ours, *pair, 1000).sinad_db >= 85


@pytest.mark.parametrize(("source", "target"), [(MULAW_8K, PCM16_24K), (PCM16_24K, MULAW_8K)])
def test_nothing_is_held_back_of_whole_frames_and_nothing_wraps(source, target):
    assert held_back_ms(ours, source, target) == (0, 0)
    assert wrapped(ours, source, target) == 0


def test_speech_stays_as_good_as_through_the_ideal_filter():
    pytest.importorskip("pesq", reason="test-only, needs a compiler where there is no wheel")
    pytest.importorskip("pystoi", reason="test-only")
    pytest.importorskip("espeakng_loader", reason="the speech is made by espeak-ng")
    found = speech(ours, utterances_24k())
    assert found.below_ideal <= 0.03
    assert found.stoi >= 0.995
