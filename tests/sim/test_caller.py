from __future__ import annotations

import numpy as np
import pytest

from bridge.audio import g711
from bridge.errors import UsageError
from bridge.sim.caller import SILENCE, Caller, CallerLine


def test_a_silent_caller_sends_mulaw_silence() -> None:
    assert CallerLine(Caller()).frame(0) == (SILENCE, False)


def test_speech_begins_with_the_next_frame_and_its_last_frame_is_filled_up() -> None:
    line = CallerLine(Caller())
    line.frame(0)
    line.say(b"\x10" * 200, at=None, label="hello")
    assert line.frame(160) == (b"\x10" * 160, True)
    assert line.frame(320) == (b"\x10" * 40 + b"\xff" * 120, True)
    assert line.silent
    assert line.frame(480) == (SILENCE, False)
    assert [(s.label, s.start, s.stop) for s in line.spoken] == [("hello", 160, 360)]


def test_speech_for_a_moment_begins_on_its_sample() -> None:
    line = CallerLine(Caller())
    line.say(b"\x10" * 100, at=200, label="later")
    assert line.frame(0) == (SILENCE, False)
    frame, spoken = line.frame(160)
    assert spoken
    assert frame == b"\xff" * 40 + b"\x10" * 100 + b"\xff" * 20
    assert (line.spoken[0].start, line.spoken[0].stop) == (200, 300)


def test_speech_for_a_moment_can_begin_in_the_frame_in_which_other_speech_ends() -> None:
    line = CallerLine(Caller())
    line.say(b"\x10" * 60, at=0, label="one")
    line.say(b"\x20" * 100, at=40, label="two")  # its moment has passed when it can begin
    line.say(b"\x30" * 100, at=300, label="three")
    assert line.frame(0)[0] == b"\x10" * 60 + b"\x20" * 100
    assert line.frame(160)[0] == b"\xff" * 140 + b"\x30" * 20
    assert [(s.start, s.stop) for s in line.spoken] == [(0, 60), (60, 160), (300, 320)]


def test_utterances_follow_each_other_and_hush_forgets_them() -> None:
    line = CallerLine(Caller())
    line.say(b"\x10" * 160, at=None, label="one")
    line.say(b"\x20" * 320, at=None, label="two")
    assert line.frame(0)[0] == b"\x10" * 160
    assert line.frame(160)[0] == b"\x20" * 160
    line.hush()
    assert line.frame(320) == (SILENCE, False)
    assert [(s.label, s.start, s.stop) for s in line.spoken] == [("one", 0, 160), ("two", 160, 320)]


def test_room_noise_has_its_level_lies_under_speech_and_repeats_with_its_seed() -> None:
    def sound(seed: int) -> bytes:
        line = CallerLine(Caller(noise_dbfs=-40, noise_seed=seed))
        return b"".join(line.frame(160 * number)[0] for number in range(250))

    assert sound(1) == sound(1) != sound(2)
    samples = np.frombuffer(g711.decode_mulaw(sound(1)), "<i2").astype(np.float64) / 32768
    assert 20 * np.log10(np.sqrt((samples**2).mean())) == pytest.approx(-40, abs=0.5)
    line = CallerLine(Caller(noise_dbfs=-40))
    line.say(g711.encode_mulaw(np.full(160, 8000, "<i2").tobytes()), at=None, label="loud")
    frame, spoken = line.frame(0)
    mixed = np.frombuffer(g711.decode_mulaw(frame), "<i2")
    assert spoken
    assert abs(mixed.mean() - 8000) < 400
    assert mixed.std() > 100


def test_an_utterance_without_audio_is_refused() -> None:
    with pytest.raises(UsageError):
        CallerLine(Caller()).say(b"", at=None, label="")
