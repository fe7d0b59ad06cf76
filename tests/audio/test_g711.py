"""G.711 against the Recommendation's tables, read a second time and not from our code.

The oracle walks the decision values of ITU-T G.711 tables 1a and 2a: a segment after the other, sixteen equal
intervals each, and looks for the interval in which a magnitude falls. It shares no formula with `bridge.audio.g711`,
which computes codes from bits.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right

import numpy as np
import pytest

from bridge.audio import g711
from bridge.errors import UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

EVERY_SAMPLE = np.arange(-32768, 32768).astype("<i2").tobytes()
EVERY_CODE = bytes(range(256))


def mulaw_edges() -> list[int]:
    """Table 2a, 14-bit scale: 0, then 1, 3, 5 .. 31, then 35 in steps of 4, 95 in steps of 8, up to 7903."""
    edges = [0] + [1 + 2 * k for k in range(15)]
    width, edge = 2, 31
    for _ in range(7):
        width *= 2
        for _ in range(16):
            edges.append(edge)
            edge += width
    return edges


def alaw_edges() -> list[int]:
    """Table 1a, 13-bit scale with 2048 as half: 0, 1 .. 31 by ones, then sixteen intervals of 2, 4, 8 .. 64."""
    edges = list(range(32))
    width, edge = 1, 32
    for _ in range(6):
        width *= 2
        for _ in range(16):
            edges.append(edge)
            edge += width
    return edges


def mulaw_of(sample: int) -> int:
    magnitude = (sample if sample >= 0 else -sample - 1) // 4  # G.191 takes the ones' complement of what is negative
    interval = bisect_right(mulaw_edges(), magnitude) - 1
    return (0xFF if sample >= 0 else 0x7F) - interval


def alaw_of(sample: int) -> int:
    magnitude = (sample if sample >= 0 else -sample - 1) // 16
    interval = bisect_right(alaw_edges(), magnitude) - 1
    return ((0x80 if sample >= 0 else 0) + interval) ^ 0x55


def mulaw_value(code: int) -> int:
    """Output values of table 2a: the middle between neighbouring decision values (0 for the first interval)."""
    edges = [*mulaw_edges(), 8159]
    interval = 0x7F - (code & 0x7F)
    middle = 0 if interval == 0 else (edges[interval] + edges[interval + 1]) * 2
    return middle if code & 0x80 else -middle


def alaw_value(code: int) -> int:
    edges = [*alaw_edges(), 2048]
    interval = (code ^ 0x55) & 0x7F
    middle = (edges[interval] + edges[interval + 1]) * 8
    return middle if (code ^ 0x55) & 0x80 else -middle


def test_every_sample_has_the_mulaw_code_of_the_itu_rule():
    assert list(g711.encode_mulaw(EVERY_SAMPLE)) == [mulaw_of(s) for s in range(-32768, 32768)]


def test_every_sample_has_the_alaw_code_of_the_itu_rule():
    assert list(g711.encode_alaw(EVERY_SAMPLE)) == [alaw_of(s) for s in range(-32768, 32768)]


def test_every_code_decodes_to_the_value_of_the_itu_table():
    assert np.frombuffer(g711.decode_mulaw(EVERY_CODE), "<i2").tolist() == [mulaw_value(c) for c in range(256)]
    assert np.frombuffer(g711.decode_alaw(EVERY_CODE), "<i2").tolist() == [alaw_value(c) for c in range(256)]


def test_audioop_agrees_where_it_is_exact():
    assert g711.decode_mulaw(EVERY_CODE) == audioop.ulaw2lin(EVERY_CODE, 2)
    assert g711.decode_alaw(EVERY_CODE) == audioop.alaw2lin(EVERY_CODE, 2)
    assert g711.encode_alaw(EVERY_SAMPLE) == audioop.lin2alaw(EVERY_SAMPLE, 2)


def test_audioop_mulaw_differs_only_in_508_negative_samples():
    theirs, ours = audioop.lin2ulaw(EVERY_SAMPLE, 2), g711.encode_mulaw(EVERY_SAMPLE)
    different = [s for s in range(-32768, 32768) if theirs[s + 32768] != ours[s + 32768]]
    assert len(different) == 508
    assert max(different) == -1


def test_the_smallest_noise_is_silence():
    noise = np.array([-3, -2, -1, 0, 1, 2, 3], "<i2").tobytes()
    assert g711.decode_mulaw(g711.encode_mulaw(noise)) == bytes(14)


def test_every_mulaw_code_survives_decode_and_encode_but_minus_zero():
    again = g711.encode_mulaw(g711.decode_mulaw(EVERY_CODE))
    assert [(c, a) for c, a in enumerate(again) if c != a] == [(0x7F, 0xFF)]


def test_every_alaw_code_survives_decode_and_encode():
    assert g711.encode_alaw(g711.decode_alaw(EVERY_CODE)) == EVERY_CODE


@pytest.mark.parametrize("encode", [g711.encode_mulaw, g711.encode_alaw])
def test_half_a_sample_is_refused(encode):
    with pytest.raises(UsageError, match="3 bytes"):
        encode(b"abc")
