"""Clips are ready to be sent: right format, right rate, whole frames."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio import g711
from bridge.audio.formats import MULAW_8K, PCM16_24K
from bridge.audio.prompts import load_prompt
from bridge.audio.wav import WavWriter
from bridge.errors import UsageError


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


def test_a_clip_without_a_sample_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a\.wav has no sound in it"):
        load_prompt(stereo_tone(tmp_path / "a.wav", seconds=0), MULAW_8K)


def test_a_clip_cut_short_is_refused(tmp_path):
    file = stereo_tone(tmp_path / "a.wav")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"a\.wav is cut short: 1000 bytes fewer than its header says"):
        load_prompt(file, MULAW_8K)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_clip_that_came_out_of_a_pipe_and_never_tells_its_size_is_read_to_its_end(tmp_path, size):
    file = stereo_tone(tmp_path / "a.wav")
    content = bytearray(file.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    file.write_bytes(content)
    assert len(load_prompt(file, MULAW_8K)) == 26 * 160
