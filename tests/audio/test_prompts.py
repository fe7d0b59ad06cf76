"""Clips are ready to be sent: right format, right rate, whole frames."""

from __future__ import annotations

import numpy as np

from bridge.audio import g711
from bridge.audio.formats import MULAW_8K, PCM16_24K
from bridge.audio.prompts import load_prompt
from bridge.audio.wav import WavWriter


def stereo_tone(path, rate_hz=44_100, seconds=0.511):
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    tone = 12000 * np.sin(2 * np.pi * 440 * t)
    writer = WavWriter(path, rate_hz, 2)
    writer.write(np.stack([tone, tone / 2], axis=1).astype("<i2").tobytes())
    writer.close()
    return path


def test_a_prompt_is_mixed_converted_encoded_and_padded_to_whole_frames(tmp_path):
    clip = load_prompt(stereo_tone(tmp_path / "a.wav"), MULAW_8K)
    assert len(clip) == 26 * 160
    assert clip[-60:] == b"\xff" * 60
    sound = np.frombuffer(g711.decode_mulaw(clip), "<i2")[400:3600].astype(float)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) * 8000 / len(sound) == 440
    assert abs(np.abs(sound).max() - 9000) < 400


def test_a_prompt_for_another_format_has_that_format(tmp_path):
    clip = load_prompt(stereo_tone(tmp_path / "a.wav"), PCM16_24K, frame_ms=100)
    assert len(clip) == 6 * 4800
