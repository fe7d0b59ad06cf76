"""A second opinion by loudness: a voice stands out, steady noise does not for long."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio.encoding import encode
from bridge.audio.formats import AudioFormat
from bridge.audio.loudness import Loudness

FORMATS = (AudioFormat("mulaw", 8000), AudioFormat("alaw", 8000), AudioFormat("pcm16", 16_000))


def tone(format: AudioFormat, ms: float, *, dbfs: float, noise_dbfs: float = -80.0, seed: int = 1) -> list[bytes]:
    """A buzz in noise, in frames of 20 ms."""
    rng = np.random.default_rng(seed)
    count = int(ms * format.rate_hz / 1000)
    at = np.arange(count) / format.rate_hz
    buzz = 32768 * 10 ** (dbfs / 20) * np.sign(np.sin(2 * np.pi * 130 * at)) * rng.uniform(0.5, 1.0, count)
    sound = buzz + rng.normal(0, 32768 * 10 ** (noise_dbfs / 20), count)
    audio = encode(format.encoding, np.clip(sound, -32768, 32767))
    size = format.bytes_in(20)
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def heard(loudness: Loudness, frames: list[bytes]) -> list[bool]:
    return [loudness.is_loud(frame, 20.0) for frame in frames]


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.encoding)
@pytest.mark.parametrize("noise_dbfs", [-80.0, -50.0, -40.0])
def test_a_voice_is_heard_in_silence_and_in_noise(format: AudioFormat, noise_dbfs: float) -> None:
    loudness = Loudness(format)
    room = tone(format, 3000, dbfs=-120, noise_dbfs=noise_dbfs)
    assert not any(heard(loudness, room))
    voice = heard(loudness, tone(format, 2000, dbfs=-22, noise_dbfs=noise_dbfs, seed=2))
    assert all(voice)
    assert not any(heard(loudness, tone(format, 3000, dbfs=-120, noise_dbfs=noise_dbfs, seed=3)))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.encoding)
def test_noise_that_begins_is_taken_for_a_voice_at_first_and_not_for_ever(format: AudioFormat) -> None:
    loudness = Loudness(format)
    heard(loudness, tone(format, 1000, dbfs=-120))
    noisy = heard(loudness, tone(format, 60_000, dbfs=-120, noise_dbfs=-45))
    assert noisy[0]
    assert not any(noisy[-500:])


def test_a_soft_voice_is_heard_after_a_loud_one() -> None:
    format = FORMATS[0]
    loudness = Loudness(format)
    heard(loudness, tone(format, 1000, dbfs=-120, noise_dbfs=-60))
    heard(loudness, tone(format, 5000, dbfs=-12, noise_dbfs=-60))
    heard(loudness, tone(format, 300, dbfs=-120, noise_dbfs=-60))
    assert all(heard(loudness, tone(format, 1000, dbfs=-38, noise_dbfs=-60)))


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\xff"])
def test_frames_of_any_length_are_judged(frame: bytes) -> None:
    for format in FORMATS:
        assert not Loudness(format).is_loud(frame, len(frame) / format.bytes_per_ms)
