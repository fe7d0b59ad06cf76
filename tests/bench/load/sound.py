"""What callers and model say in a load: quiet noise with a loud burst of 5 ms in marked places, so that every marked
frame can be found again at the other end, whatever was done to it on the way.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pybase64

from bridge.audio.g711 import encode_mulaw

BURST_MS: Final = 5
BURST_AT_MS: Final = 5  # into its frame or delta
_LOUD: Final = 9830  # three tenths of full scale: filters soften an edge, but never this far down
_MOST_KEPT: Final = 4096


def _noise(rate_hz: int, ms: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-600, 600, rate_hz * ms // 1000).astype(np.int16)


def _burst(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    at, size = rate_hz * BURST_AT_MS // 1000, rate_hz * BURST_MS // 1000
    marked = samples.copy()
    marked[at : at + size] = (19_660 * np.sin(np.arange(size) * 2 * np.pi * 1000 / rate_hz + 0.8)).astype(np.int16)
    return marked


def caller_payloads() -> tuple[bytes, bytes]:
    """A frame of 20 ms as a carrier sends it, in base64: plain, and marked."""
    plain = _noise(8000, 20, seed=1)
    frames = (encode_mulaw(samples.tobytes()) for samples in (plain, _burst(plain, 8000)))
    plain64, marked64 = (pybase64.b64encode(frame) for frame in frames)
    return plain64, marked64


def delta_payload(encoding: str, ms: int) -> bytes:
    """A delta of the model's, marked, in base64. `encoding`: pcm16 (24 kHz) or mulaw (8 kHz)."""
    rate_hz = 24_000 if encoding == "pcm16" else 8000
    samples = _burst(_noise(rate_hz, ms, seed=2), rate_hz).astype("<i2").tobytes()
    return pybase64.b64encode(samples if encoding == "pcm16" else encode_mulaw(samples))


class Finder:
    """Finds bursts in audio that comes in base64. The same audio comes over and over, so it is looked at once."""

    def __init__(self, encoding: str) -> None:
        self.per_ms = 24 if encoding == "pcm16" else 8  # samples
        self._pcm16 = encoding == "pcm16"
        levels = np.abs(_samples_by_mulaw())
        self._loud = re.compile(
            b"[" + b"".join(re.escape(bytes((code,))) for code in np.flatnonzero(levels > _LOUD)) + b"]"
        )
        self._known: dict[bytes, tuple[int, tuple[int, ...]]] = {}

    def look(self, payload: bytes) -> tuple[int, tuple[int, ...]]:
        """(samples, where bursts begin). Raises ValueError for what is no base64."""
        known = self._known.get(payload)
        if known is None:
            known = self._look(pybase64.b64decode(payload, validate=True))
            if len(self._known) < _MOST_KEPT:
                self._known[payload] = known
        return known

    def _look(self, audio: bytes) -> tuple[int, tuple[int, ...]]:
        if self._pcm16:
            size = len(audio) // 2
            loud = np.flatnonzero(np.abs(np.frombuffer(audio, "<i2").astype(np.int32)) > _LOUD).tolist()
        else:
            size = len(audio)
            loud = [found.start() for found in self._loud.finditer(audio)]
        begins: list[int] = []
        for at in loud:
            if not begins or at - begins[-1] > 4 * BURST_MS * self.per_ms:
                begins.append(at)
        return size, tuple(begins)


def _samples_by_mulaw() -> np.ndarray:
    from bridge.audio.g711 import decode_mulaw

    return np.frombuffer(decode_mulaw(bytes(range(256))), "<i2").astype(np.int32)


class Trail:
    """Bursts expected every `every_ms` of one direction's audio: where each was, and whether any is missing."""

    def __init__(self, finder: Finder, every_ms: int) -> None:
        self._finder = finder
        self._every_ms = every_ms
        self._last: int | None = None
        self.samples = 0
        self.found = 0  # number of the next burst, counting those that are missing
        self.broken = 0

    def restart(self) -> None:
        self._last = None
        self.samples = self.found = 0

    def follow(self, payload: bytes) -> list[tuple[int, float]]:
        """More audio: (number of a burst, milliseconds of this audio from where it begins) for each burst in it."""
        per_ms = self._finder.per_ms
        size, begins = self._finder.look(payload)
        hits: list[tuple[int, float]] = []
        for begin in begins:
            at = self.samples + begin
            if self._last is not None:
                distance_ms = (at - self._last) / per_ms
                if distance_ms < 4 * BURST_MS:
                    continue  # the same burst, cut in two by a message's edge
                steps = max(1, round(distance_ms / self._every_ms))
                if steps > 1 or abs(distance_ms - self._every_ms) > 3:
                    self.broken += 1
                self.found += steps - 1
            self._last = at
            hits.append((self.found, (size - begin) / per_ms))
            self.found += 1
        self.samples += size
        return hits
