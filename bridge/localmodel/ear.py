"""A session's sound as detector and recogniser want it, and the detector's changes in audio time of the session.

Beside speech that started and stopped there are pauses: quiet long enough to be worth recognising what was said so far,
but not yet the end of the turn. Where the turn does end there, its meaning is known at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bridge.audio.encoding import decode
from bridge.audio.formats import AudioFormat
from bridge.audio.resample import convert
from bridge.audio.vad import EnergyGauge, Gauge, GaugedDetector, SileroGauge, silero_installed
from bridge.localmodel import settings

RECOGNISER_RATE_HZ = 16_000
MIN_SPEECH_MS = 90
PAUSE_MS = 220
LEAST_THRESHOLD = 0.05  # the services allow 0, where everything would be speech
QUIET_BELOW = 0.15  # under the threshold, as detectors have it

Detection = Literal["best", "energy"]


class Change(NamedTuple):
    """`at_ms` in the session's audio time. `paused` and `resumed` come between `started` and `stopped` only."""

    kind: Literal["started", "paused", "resumed", "stopped"]
    at_ms: float


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
        self._paused = False
        self._detector: GaugedDetector | None = None
        if turn_detection is None:
            return
        silence_ms = settings.silence_ms(turn_detection)
        threshold = max(float(turn_detection.get("threshold", 0.5)), LEAST_THRESHOLD)
        silero = kind == "best" and silero_installed()
        self._gauge = _Listened(SileroGauge() if silero else EnergyGauge(format.rate_hz), threshold - QUIET_BELOW)
        self._pauses = silence_ms > PAUSE_MS
        self._detector = GaugedDetector(
            self._gauge,
            format.rate_hz,
            silence_ms=silence_ms,
            prefix_ms=int(turn_detection.get("prefix_padding_ms", 300)),
            threshold=threshold,
            min_speech_ms=MIN_SPEECH_MS,
        )

    def go_on(self) -> None:
        """The caller's turn has started already: what comes next is where it stops."""
        if self._detector is not None:
            self._detector.go_on()

    def hear(self, audio: bytes) -> list[Change]:
        self.heard_ms += len(audio) / self._format.bytes_per_ms
        if self._detector is None:
            return []
        changes = [
            Change(change.kind, self._since_ms + change.at_ms)
            for change in self._detector.push(decode(self._format.encoding, audio).tobytes())
        ]
        paused = self._pauses and self._detector.speaking and self._gauge.quiet_ms >= PAUSE_MS
        if paused != self._paused:
            self._paused = paused
            if self._detector.speaking:
                changes.append(Change("paused" if paused else "resumed", self.heard_ms))
        return changes


class _Listened:
    """A gauge, and how long it has told of quiet."""

    def __init__(self, gauge: Gauge, speech_from: float) -> None:
        self.rate_hz = gauge.rate_hz
        self.frame_samples = gauge.frame_samples
        self.quiet_ms = 0.0
        self._gauge = gauge
        self._speech_from = speech_from

    def likelihood(self, frame: bytes) -> float:
        likely = self._gauge.likelihood(frame)
        frame_ms = self.frame_samples / self.rate_hz * 1000
        self.quiet_ms = 0.0 if likely >= self._speech_from else self.quiet_ms + frame_ms
        return likely

    def reset(self) -> None:
        self._gauge.reset()


def whole_at_16k(audio: bytes, format: AudioFormat) -> bytes:
    """An utterance for the recogniser, in full quality."""
    return convert(decode(format.encoding, audio), format.rate_hz, RECOGNISER_RATE_HZ).tobytes()
