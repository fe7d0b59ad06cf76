"""ITU-T G.711, the sound of the telephone: mu-law and A-law codes to linear 16-bit samples and back.

Exact to the reference coder of ITU-T G.191 (Software Tool Library) for all 65,536 samples and all 256 codes: the
tables are built here by its rule and every conversion is one look-up. Two properties follow from that rule and are
wanted: a mu-law code with the sign "minus" and the value zero (0x7F) decodes to 0 and comes back as 0xFF; and samples
-1..-3 are silence, not -8.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.errors import UsageError

_MULAW_BIAS: Final = 33  # in 14-bit units: moves the first segment's edge to a power of two
_MULAW_TOP: Final = 0x1FFF  # largest biased 14-bit magnitude
_ALAW_EVEN_BITS: Final = 0x55  # G.711 sends A-law with its even bits inverted


def _highest_bit(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of the highest set bit, counted from 1; 0 for 0."""
    exponents: NDArray[np.int32] = np.frexp(values.astype(np.float64))[1]
    return exponents.astype(np.int64)


def _mulaw_codes() -> NDArray[np.uint8]:
    """The mu-law code of each sample -32768..32767, in that order."""
    sample = np.arange(-32768, 32768)
    # 14 bits count; a negative sample's magnitude is its ones' complement, so -1 is as small as 0
    magnitude = np.minimum((np.where(sample < 0, ~sample, sample) >> 2) + _MULAW_BIAS, _MULAW_TOP)
    segment = _highest_bit(magnitude >> 6)
    step = (magnitude >> (segment + 1)) & 0x0F
    positive = np.where(sample >= 0, 0x80, 0)
    codes: NDArray[np.int64] = positive | (7 - segment) << 4 | 0x0F - step
    return codes.astype(np.uint8)


def _mulaw_samples() -> NDArray[np.int16]:
    code = np.arange(256)
    segment, step = (~code >> 4) & 7, ~code & 0x0F
    # the middle of the interval, the bias taken off again, in 16-bit units
    magnitude = ((((step << 1) + _MULAW_BIAS) << segment) - _MULAW_BIAS) << 2
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _alaw_codes() -> NDArray[np.uint8]:
    """The A-law code of each sample -32768..32767, in that order."""
    sample = np.arange(-32768, 32768)
    magnitude = np.where(sample < 0, ~sample, sample) >> 4  # 12 bits count
    segment = _highest_bit(magnitude >> 4)
    step = np.where(segment > 1, magnitude >> np.maximum(segment - 1, 0), magnitude) & 0x0F
    positive = np.where(sample >= 0, 0x80, 0)
    codes: NDArray[np.int64] = (positive | segment << 4 | step) ^ _ALAW_EVEN_BITS
    return codes.astype(np.uint8)


def _alaw_samples() -> NDArray[np.int16]:
    code = np.arange(256) ^ _ALAW_EVEN_BITS
    segment, step = (code >> 4) & 7, code & 0x0F
    middle = (step << 4) + 8  # of the interval, in 16-bit units
    magnitude = np.where(segment == 0, middle, (middle + 0x100) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


# Encoding tables run from sample -32768 to 32767: index them with sample + 32768. All four are read only.
MULAW_CODES: Final = _mulaw_codes()
MULAW_SAMPLES: Final = _mulaw_samples()
ALAW_CODES: Final = _alaw_codes()
ALAW_SAMPLES: Final = _alaw_samples()
for _table in (MULAW_CODES, MULAW_SAMPLES, ALAW_CODES, ALAW_SAMPLES):
    _table.setflags(write=False)


def encode_mulaw(pcm16: bytes) -> bytes:
    """Little-endian 16-bit samples to mu-law codes. Raises UsageError for half a sample."""
    return _encode(MULAW_CODES, pcm16)


def decode_mulaw(codes: bytes) -> bytes:
    """Mu-law codes to little-endian 16-bit samples."""
    return _decode(MULAW_SAMPLES, codes)


def encode_alaw(pcm16: bytes) -> bytes:
    """Little-endian 16-bit samples to A-law codes. Raises UsageError for half a sample."""
    return _encode(ALAW_CODES, pcm16)


def decode_alaw(codes: bytes) -> bytes:
    """A-law codes to little-endian 16-bit samples."""
    return _decode(ALAW_SAMPLES, codes)


def _encode(table: NDArray[np.uint8], pcm16: bytes) -> bytes:
    if len(pcm16) % 2:
        raise UsageError(f"{len(pcm16)} bytes are not whole 16-bit samples")
    samples: NDArray[np.uint16] = np.frombuffer(pcm16, "<u2")
    codes: NDArray[np.uint8] = table[samples ^ 0x8000]
    return codes.tobytes()


def _decode(table: NDArray[np.int16], codes: bytes) -> bytes:
    samples: NDArray[np.int16] = table[np.frombuffer(codes, np.uint8)]
    return samples.astype("<i2", copy=False).tobytes()
