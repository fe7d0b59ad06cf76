"""Prepared clips for the caller's ear: greetings, fillers and apologies from WAV files, made ready before a call
begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bridge.audio.encoding import encode
from bridge.audio.formats import AudioFormat
from bridge.audio.wav import read_whole_wav


def load_prompt(path: Path | str, form: AudioFormat, *, frame_ms: int = 20) -> bytes:
    """A WAV file of any rate and number of channels as bytes of `form`, padded with silence to whole frames.

    Raises UsageError for a file that is no WAV, is empty or was cut short; OSError if it cannot be read.
    """
    samples, _ = read_whole_wav(path, form.rate_hz)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float64)
    sound = encode(form.encoding, mono)
    frame = form.bytes_in(frame_ms)
    return sound + form.silence * (-len(sound) % frame // form.sample_bytes)
