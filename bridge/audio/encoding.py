"""Codes and the samples behind them, for each encoding of `formats`: the tables the live path looks up, and
whole-array versions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.audio import g711
from bridge.audio.formats import Encoding

PCM16: Final = np.dtype("<i2")


def samples_by_code(encoding: Encoding) -> NDArray[np.int16]:
    """The sample behind each possible code; for pcm16 the code is the 16 bits read as an unsigned number."""
    match encoding:
        case "mulaw":
            return g711.MULAW_SAMPLES
        case "alaw":
            return g711.ALAW_SAMPLES
        case "pcm16":
            return np.arange(65536, dtype=np.uint16).view(np.int16)


def codes_by_sample(encoding: Encoding) -> NDArray[Any]:
    """The code of each sample from -32768 to 32767, in that order: index it with sample + 32768."""
    match encoding:
        case "mulaw":
            return g711.MULAW_CODES
        case "alaw":
            return g711.ALAW_CODES
        case "pcm16":
            return np.arange(-32768, 32768).astype(PCM16)


def decode(encoding: Encoding, data: bytes) -> NDArray[np.int16]:
    """All whole samples of `data`, shape [n]."""
    if encoding == "pcm16":
        return np.frombuffer(data, PCM16, len(data) // 2).astype(np.int16)
    return samples_by_code(encoding).take(np.frombuffer(data, np.uint8))


def encode(encoding: Encoding, samples: NDArray[Any]) -> bytes:
    """Samples of any number type, rounded to the nearest and limited, as bytes."""
    index = np.floor(samples + 32768.5).astype(np.int64)
    codes: NDArray[Any] = codes_by_sample(encoding).take(index, mode="clip")
    return codes.tobytes()
