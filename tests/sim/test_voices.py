from __future__ import annotations

import numpy as np
import pytest

from bridge.audio import g711
from bridge.errors import UsageError
from bridge.sim import noise, voices
from bridge.sim.voices import CLIPS, Voice, clip, say

espeak = pytest.mark.skipif(not voices.speaks(), reason="espeak-ng comes with the extra 'local'")


def samples(audio: bytes) -> np.ndarray:
    return np.frombuffer(g711.decode_mulaw(audio), "<i2")


@espeak
def test_text_is_spoken_at_the_asked_level_without_silence_at_its_ends() -> None:
    audio = samples(say("Where are you located?", Voice(level_dbfs=-26)))
    assert 0.8 < len(audio) / 8000 < 2.5
    assert noise.speech_level_dbfs(audio) == pytest.approx(-26, abs=0.3)
    assert np.abs(audio[:400]).max() > 50
    assert np.abs(audio[-400:]).max() > 20


@espeak
def test_the_same_text_sounds_the_same_whatever_was_said_before() -> None:
    first = say("What are your opening hours?")
    voices._spoken.cache_clear()
    say("Something quite different.", Voice("de", words_per_minute=200))
    assert say("What are your opening hours?") == first
    assert say("What are your opening hours?", Voice("en-us+f3")) != first


@espeak
def test_noise_lies_under_the_speech_at_the_asked_distance() -> None:
    clean = samples(say("Hello there.")).astype(np.int32)
    noisy = samples(say("Hello there.", Voice(snr_db=15))).astype(np.int32)
    added = (noisy - clean).astype(np.float64)
    level = 10 * np.log10((added**2).mean() / 32768**2)
    assert level == pytest.approx(-35, abs=1)


@espeak
def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(UsageError, match="klingon-x"):
        say("hello", Voice("klingon-x"))


def test_without_espeak_the_packaged_clips_are_said_and_anything_else_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(voices, "speaks", lambda: False)
    voices._spoken.cache_clear()
    try:
        for name, words in CLIPS.items():
            assert len(say(words.lower())) == len(clip(name))
        with pytest.raises(UsageError, match="local"):
            say("Something nobody packaged.")
    finally:
        voices._spoken.cache_clear()


def test_clips_are_packaged_small_and_loud_enough() -> None:
    assert sum(len(clip(name)) for name in CLIPS) < 300_000
    for name in CLIPS:
        assert noise.speech_level_dbfs(samples(clip(name))) == pytest.approx(-20, abs=0.5)
    assert clip("goodbye", Voice(level_dbfs=-30)) != clip("goodbye")
    with pytest.raises(UsageError, match="opening-hours"):
        clip("unknown")
