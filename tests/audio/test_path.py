"""The live path: the same bytes for any chunking, nothing held back, limits kept, silence silent."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.audio import g711
from bridge.audio.formats import MULAW_8K, PCM16_24K, AudioFormat
from bridge.audio.path import CallerToModel, ModelToCaller, push_together
from bridge.errors import UsageError

FORMATS = [AudioFormat(encoding, rate) for encoding in ("mulaw", "alaw", "pcm16") for rate in (8000, 16000, 24000)]
PAIRS = list(itertools.product(FORMATS, FORMATS))
BOTH_WAYS = [(MULAW_8K, PCM16_24K), (PCM16_24K, MULAW_8K)]

# sha256 of `signal(form, 10 s)` through each way, on every machine, numpy, BLAS and number of its threads
GOLDEN = {
    (MULAW_8K, PCM16_24K): "c423927dce45e3bac724785a5e7e8f56710010694eb9c54930ece243868f9b48",
    (PCM16_24K, MULAW_8K): "7e3be6d9c033e7366bea7fe78c2c00557cd70346e6ab6ca029a33f80a647478d",
}


def name(value: object) -> str | None:
    return f"{value.encoding}-{value.rate_hz}" if isinstance(value, AudioFormat) else None


def signal(form: AudioFormat, seconds: float) -> bytes:
    """Bursts of noise, squares and silence, in integers only, so that it is the same everywhere."""
    n = int(form.rate_hz * seconds)
    state, out = 12345, []
    for i in range(n):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        loud = (i * 8000 // form.rate_hz // 1600) % 7
        noise = (state >> 8) % 65536 - 32768
        square = 30000 if (i * 8000 // form.rate_hz // 11) % 2 else -30000
        out.append((0, noise >> 8, noise >> 4, noise >> 1, square, noise, square // 3)[loud])
    pcm16 = np.array(out, "<i2").tobytes()
    return {"mulaw": g711.encode_mulaw, "alaw": g711.encode_alaw, "pcm16": bytes}[form.encoding](pcm16)


def through(source: AudioFormat, target: AudioFormat, data: bytes, sizes: object) -> bytes:
    path, out, at = CallerToModel(source, target), [], 0
    for size in sizes:  # type: ignore[attr-defined]
        out.append(path.push(data[at : at + size]))
        at += size
        if at >= len(data):
            break
    return b"".join(out)


@pytest.mark.parametrize(("source", "target"), BOTH_WAYS, ids=name)
def test_ten_seconds_have_one_golden_hash_for_every_chunking(source, target):
    data, chance = signal(source, 10), random.Random(4)
    ways = {size: itertools.repeat(size) for size in (1, 7, 160, 161, 4799, 4801, len(data))}
    ways["random"] = (chance.randint(0, 3000) for _ in itertools.count())
    hashes = {how: hashlib.sha256(through(source, target, data, sizes)).hexdigest() for how, sizes in ways.items()}
    assert set(hashes.values()) == {GOLDEN[source, target]}, hashes


@pytest.mark.parametrize(("threads", "kernels"), [("1", ""), ("2", ""), ("2", "Haswell"), ("1", "Prescott")])
def test_the_golden_hash_does_not_depend_on_the_threads_or_kernels_of_blas(threads, kernels):
    program = (
        "import hashlib\n"
        "from tests.audio.test_path import *\n"
        "for s, t in BOTH_WAYS:\n"
        "    print(hashlib.sha256(CallerToModel(s, t).push(signal(s, 10))).hexdigest())\n"
    )
    limits = {key: threads for key in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    if kernels:
        limits["OPENBLAS_CORETYPE"] = kernels  # another BLAS, or another processor, ignores it
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **limits}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [GOLDEN[pair] for pair in BOTH_WAYS]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=name)
def test_any_pair_of_formats_gives_the_same_for_odd_splits_as_for_one_push(source, target):
    data, chance = signal(source, 0.25), random.Random(9)
    whole = CallerToModel(source, target).push(data)
    assert through(source, target, data, itertools.repeat(1)) == whole
    assert through(source, target, data, (chance.randint(0, 700) for _ in itertools.count())) == whole
    assert len(whole) == 0.25 * target.rate_hz * target.sample_bytes


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_reset_path_is_a_new_path(data):
    source, target = data.draw(st.sampled_from(PAIRS))
    before, after = data.draw(st.binary(max_size=700)), data.draw(st.binary(max_size=700))
    used = ModelToCaller(source, target)
    used.push(before)
    used.reset()
    assert used.push(after) == ModelToCaller(source, target).push(after)


def test_every_frame_of_160_bytes_becomes_960():
    path, frame = CallerToModel(MULAW_8K, PCM16_24K), signal(MULAW_8K, 0.02)
    assert {len(path.push(frame)) for _ in range(100)} == {960}


def test_at_most_two_samples_and_a_byte_wait_for_their_rest():
    path, pushed, out = ModelToCaller(PCM16_24K, MULAW_8K), 0, 0
    for size in [1, 2, 3, 5, 7, 11, 960, 961, 959, 9601]:
        out += len(path.push(bytes(size)))
        pushed += size
        assert 0 <= pushed - out * 6 <= 5


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[0].encoding != "alaw"], ids=name)
def test_silence_comes_out_as_the_silence_code(source, target):
    assert CallerToModel(source, target).push(source.silence_for(100)) == target.silence_for(100)


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[0].encoding == "alaw"], ids=name)
def test_alaw_which_has_no_zero_stays_at_its_smallest_step(source, target):
    """0xD5 is +8; the filter's phases may differ by a unit."""
    out = CallerToModel(source, target).push(source.silence_for(100))
    decode = {"mulaw": g711.decode_mulaw, "alaw": g711.decode_alaw, "pcm16": bytes}[target.encoding]
    assert set(np.frombuffer(decode(out), "<i2").tolist()) <= {7, 8, 9}


@pytest.mark.parametrize("form", FORMATS, ids=name)
def test_the_same_format_at_both_ends_passes_untouched(form):
    assert CallerToModel(form, form).push(b"\x00\x7f\x80") == b"\x00\x7f\x80"


@pytest.mark.parametrize(("source", "target"), [(a, b) for a, b in PAIRS if a.rate_hz != b.rate_hz], ids=name)
def test_full_scale_squares_are_limited_and_counted_but_never_wrap(source, target):
    """Where the filter overshoots, a wrapped sample would jump by the whole range."""
    half = source.rate_hz // 250
    square = np.tile(np.repeat(np.array([32767, -32768], "<i2"), half), 40).tobytes()
    encode = {"mulaw": g711.encode_mulaw, "alaw": g711.encode_alaw, "pcm16": bytes}
    decode = {"mulaw": g711.decode_mulaw, "alaw": g711.decode_alaw, "pcm16": bytes}
    path = CallerToModel(source, target)
    out = np.frombuffer(decode[target.encoding](path.push(encode[source.encoding](square))), "<i2").astype(int)
    quiet = CallerToModel(source, target, gain_db=-18)
    shape = np.frombuffer(decode[target.encoding](quiet.push(encode[source.encoding](square))), "<i2").astype(int)
    assert quiet.clipped == 0
    assert path.clipped > 0
    loud = np.abs(shape) > 100
    assert (np.sign(out[loud]) == np.sign(shape[loud])).all()


def test_a_gain_is_exact_in_level_and_counts_what_it_limits():
    tone = (8000 * np.sin(np.arange(24000) * 2 * np.pi * 440 / 24000)).astype("<i2").tobytes()
    pcm16_8k = AudioFormat("pcm16", 8000)
    plain, louder, too_loud = (ModelToCaller(PCM16_24K, pcm16_8k, gain_db=db) for db in (0.0, 6.0, 20.0))
    a, b = (np.frombuffer(p.push(tone), "<i2").astype(float) for p in (plain, louder))
    too_loud.push(tone)
    assert 20 * np.log10(np.std(b[800:]) / np.std(a[800:])) == pytest.approx(6.0, abs=0.01)
    assert plain.clipped == louder.clipped == 0
    assert too_loud.clipped > 4000


def test_a_gain_without_a_change_of_rate_limits_and_counts_too():
    path = CallerToModel(AudioFormat("pcm16", 8000), AudioFormat("pcm16", 8000), gain_db=6.0)
    out = np.frombuffer(path.push(np.array([100, 20000, -20000], "<i2").tobytes()), "<i2")
    assert out.tolist() == [200, 32767, -32768]
    assert path.clipped == 2


def test_a_gain_out_of_reason_is_refused():
    with pytest.raises(UsageError, match="40"):
        CallerToModel(MULAW_8K, PCM16_24K, gain_db=40)
    with pytest.raises(UsageError, match="nan"):
        CallerToModel(MULAW_8K, PCM16_24K, gain_db=float("nan"))


def test_a_fade_out_goes_on_where_the_sound_was_cut_and_ends_in_silence():
    path = ModelToCaller(PCM16_24K, MULAW_8K)
    tone = (8000 * np.sin(np.arange(4800) * 2 * np.pi * 300 / 24000 + 1.1)).astype("<i2").tobytes()
    heard = np.frombuffer(g711.decode_mulaw(path.push(tone)), "<i2").astype(int)
    fade = np.frombuffer(g711.decode_mulaw(path.fade_out()), "<i2").astype(int)
    assert len(fade) == 40
    assert abs(fade[0] - heard[-1]) < 500
    assert abs(fade[-1]) < 100


def test_a_fade_out_uses_what_would_have_been_played_where_it_is_known():
    path, unheard = ModelToCaller(PCM16_24K, MULAW_8K), g711.encode_mulaw(np.full(400, 8000, "<i2").tobytes())
    fade = np.frombuffer(g711.decode_mulaw(path.fade_out(unheard)), "<i2").astype(int)
    assert len(fade) == 40
    assert (np.diff(fade) <= 0).all()
    assert fade[0] > 7500
    assert fade[-1] < 100


def test_nothing_is_faded_after_a_reset():
    path = ModelToCaller(PCM16_24K, MULAW_8K)
    path.push(bytes(960))
    path.reset()
    assert path.fade_out() == b""


LOUD = signal(MULAW_8K, 1.2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_frames_pushed_together_become_what_each_would_alone(data):
    """Of many calls, formats and sizes at once; a path may come several times, and what is limited is counted."""
    pairs = data.draw(st.lists(st.sampled_from([BOTH_WAYS[0]] * 3 + PAIRS), min_size=1, max_size=8))
    together = [CallerToModel(*pair) for pair in pairs]
    alone = [CallerToModel(*pair) for pair in pairs]
    sizes = st.one_of(st.just(160), st.integers(0, 1000), st.sampled_from([160, 320, 20, 8000]))
    for _ in range(data.draw(st.integers(1, 4))):
        turns = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=20))
        frames = []
        for _ in turns:
            size = data.draw(sizes)
            at = data.draw(st.integers(0, len(LOUD) - size)) if size <= len(LOUD) else 0
            frames.append(LOUD[at : at + size])
        told = push_together([together[turn] for turn in turns], frames)
        assert told == [alone[turn].push(frame) for turn, frame in zip(turns, frames, strict=True)]
    assert [path.clipped for path in together] == [path.clipped for path in alone]


@pytest.mark.parametrize("calls", [1, 2, 5, 6, 11, 40])
def test_the_telephone_frames_of_any_number_of_calls_are_what_they_would_be_alone(calls):
    together, alone = ([CallerToModel(*BOTH_WAYS[0]) for _ in range(calls)] for _ in range(2))
    for moment in range(0, len(LOUD) - 480, 160):
        frames = [LOUD[moment + 7 * call : moment + 7 * call + 160] for call in range(calls)]
        assert push_together(together, frames) == [path.push(frame) for path, frame in zip(alone, frames, strict=True)]
    assert [path.clipped for path in together] == [path.clipped for path in alone]
    assert any(path.clipped for path in alone)


def test_two_calls_do_not_hear_each_other():
    """They share tables and scratch."""
    one, two = signal(MULAW_8K, 0.5), signal(MULAW_8K, 0.5)[::-1]
    a, b = CallerToModel(MULAW_8K, PCM16_24K), CallerToModel(MULAW_8K, PCM16_24K)
    mixed = [(a.push(one[i : i + 160]), b.push(two[i : i + 97])) for i in range(0, 4000, 160)]
    assert b"".join(x for x, _ in mixed) == CallerToModel(MULAW_8K, PCM16_24K).push(one)


def test_what_is_faded_out_does_not_depend_on_how_it_was_cut_up() -> None:
    sound = bytes(range(256)) * 10
    ends = []
    for size in (len(sound), 6):
        path = ModelToCaller(AudioFormat("pcm16", 8000), AudioFormat("mulaw", 8000))
        for at in range(0, len(sound), size):
            path.push(sound[at : at + size])
        ends.append(path.fade_out())
    assert ends[0] == ends[1] and len(ends[0]) == 40


def test_half_a_sample_is_forgotten_by_a_reset_between_formats_of_one_rate() -> None:
    path = CallerToModel(AudioFormat("pcm16", 8000), AudioFormat("mulaw", 8000))
    whole = path.push(b"\x01\x20" * 80)
    path.push(b"\x01")
    path.reset()
    assert path.push(b"\x01\x20" * 80) == whole
