"""A session's sound as detector and recogniser want it, and the detector's changes in audio time of the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bridge.audio.formats import AudioFormat
from bridge.audio.resample import convert
from bridge.audio.vad import EnergyGauge, GaugedDetector, SpeechChange, SpeechDetector, make_detector
from bridge.localmodel import settings
from bridge.localmodel.speech import decode

RECOGNISER_RATE_HZ = 16_000
MIN_SPEECH_MS = 90
LEAST_THRESHOLD = 0.05  # the services allow 0, where everything would be speech

Detection = Literal["best", "energy"]


class Ear:
    """Turn detection over one stretch of a session; `since_ms` is how much audio the session had before.

    `kind` "best" is what is installed; "energy" costs next to nothing, for load.
    """

    def __init__(
        self,
        format: AudioFormat,
        turn_detection: Mapping[str, Any] | None,
        *,
        kind: Detection = "best",
        since_ms: float = 0.0,
    ) -> None:
        self.heard_ms = since_ms
        self._since_ms = since_ms
        self._format = format
        self._detector = None if turn_detection is None else _detector(format.rate_hz, turn_detection, kind)

    def hear(self, audio: bytes) -> list[SpeechChange]:
        self.heard_ms += len(audio) / self._format.bytes_per_ms
        if self._detector is None:
            return []
        changes = self._detector.push(decode(audio, self._format))
        return [SpeechChange(change.kind, self._since_ms + change.at_ms) for change in changes]


def _detector(rate_hz: int, turn_detection: Mapping[str, Any], kind: Detection) -> SpeechDetector:
    silence_ms = settings.silence_ms(turn_detection)
    prefix_ms = int(turn_detection.get("prefix_padding_ms", 300))
    threshold = max(float(turn_detection.get("threshold", 0.5)), LEAST_THRESHOLD)
    if kind == "best":
        return make_detector(
            rate_hz, silence_ms=silence_ms, prefix_ms=prefix_ms, threshold=threshold, min_speech_ms=MIN_SPEECH_MS
        )
    return GaugedDetector(
        EnergyGauge(rate_hz),
        rate_hz,
        silence_ms=silence_ms,
        prefix_ms=prefix_ms,
        threshold=threshold,
        min_speech_ms=MIN_SPEECH_MS,
    )


def whole_at_16k(audio: bytes, format: AudioFormat) -> bytes:
    """An utterance for the recogniser, in full quality."""
    pcm = decode(audio, format)
    if format.rate_hz == RECOGNISER_RATE_HZ:
        return pcm
    return convert(np.frombuffer(pcm, dtype="<i2"), format.rate_hz, RECOGNISER_RATE_HZ).astype("<i2").tobytes()
