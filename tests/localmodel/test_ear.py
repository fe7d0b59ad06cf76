"""What the ear makes of sound: turns, pauses within them, and audio time that never begins again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bridge.audio.formats import MULAW_8K, PCM16_24K, AudioFormat
from bridge.localmodel.ear import Ear, whole_at_16k
from bridge.localmodel.speech import encode

VAD: dict[str, Any] = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}


def sound(ms: int, *, loud: bool) -> bytes:
    """24 kHz."""
    level = 8000 if loud else 0
    return np.random.default_rng(1).normal(0, level, 24 * ms).astype("<i2").tobytes()


def changes(*parts: tuple[int, bool], format: AudioFormat = PCM16_24K, **vad: Any) -> list[tuple[str, float]]:
    ear = Ear(format, {**VAD, **vad}, kind="energy")
    audio = encode(b"".join(sound(ms, loud=loud) for ms, loud in parts), format)
    step = int(20 * format.bytes_per_ms)
    return [tuple(change) for at in range(0, len(audio), step) for change in ear.hear(audio[at : at + step])]


@pytest.mark.parametrize("format", [PCM16_24K, MULAW_8K, AudioFormat("pcm16", 16000)])
def test_a_turn_starts_pauses_and_stops(format: AudioFormat) -> None:
    told = changes((1000, False), (800, True), (1000, False), format=format)
    assert [kind for kind, _ in told] == ["started", "paused", "stopped"]
    assert [at for _, at in told] == pytest.approx([700, 2020, 2300], abs=45)


def test_speech_that_goes_on_is_told_as_resumed() -> None:
    told = changes((600, False), (800, True), (350, False), (800, True), (700, False))
    assert [kind for kind, _ in told] == ["started", "paused", "resumed", "paused", "stopped"]


def test_a_turn_which_ends_as_soon_as_a_pause_has_no_pause() -> None:
    told = changes((600, False), (800, True), (700, False), silence_duration_ms=200)
    assert [kind for kind, _ in told] == ["started", "stopped"]


def test_a_turn_another_ear_began_stops_after_the_next_silence() -> None:
    ear = Ear(PCM16_24K, VAD, kind="energy", since_ms=5000)
    ear.go_on()
    told = ear.hear(sound(1000, loud=False) + sound(800, loud=True))
    assert [change.kind for change in told] == ["stopped", "started"]
    assert told[0].at_ms == pytest.approx(5500, abs=45)
    speaking = Ear(PCM16_24K, VAD, kind="energy")
    speaking.go_on()
    (stopped,) = speaking.hear(sound(800, loud=True) + sound(700, loud=False))
    assert (stopped.kind, stopped.at_ms) == ("stopped", pytest.approx(1300, abs=45))
    Ear(PCM16_24K, None).go_on()


def test_without_turn_detection_nothing_is_told_and_time_is_counted() -> None:
    ear = Ear(MULAW_8K, None)
    assert ear.hear(b"\x00" * 8000) == []
    assert ear.heard_ms == 1000


def test_a_new_ear_goes_on_where_the_old_one_was() -> None:
    ear = Ear(PCM16_24K, VAD, kind="energy", since_ms=5000)
    told = ear.hear(sound(1000, loud=False) + sound(800, loud=True))
    assert told[0].kind == "started"
    assert told[0].at_ms == pytest.approx(5700, abs=45)


@pytest.mark.parametrize("detection", [{"type": "semantic_vad", "eagerness": "low"}, {**VAD, "threshold": 0}])
def test_other_settings_make_an_ear_too(detection: Mapping[str, Any]) -> None:
    assert Ear(PCM16_24K, detection, kind="energy").hear(sound(100, loud=False)) == []


@pytest.mark.parametrize("format", [PCM16_24K, MULAW_8K, AudioFormat("alaw", 8000), AudioFormat("pcm16", 16000)])
def test_an_utterance_reaches_the_recogniser_at_16_khz(format: AudioFormat) -> None:
    assert len(whole_at_16k(encode(sound(500, loud=True), format), format)) == 16 * 500 * 2
