"""G.711 against the Recommendation's tables as `itu` reads them, and against audioop where that is exact."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from bridge.audio import g711
from bridge.errors import UsageError
from tests.audio.itu import alaw_of, alaw_value, mulaw_of, mulaw_value

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

EVERY_SAMPLE = np.arange(-32768, 32768).astype("<i2").tobytes()
EVERY_CODE = bytes(range(256))


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
