"""What kind of sound a stream of bytes is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bridge.errors import UsageError

Encoding = Literal["mulaw", "alaw", "pcm16"]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Mono audio. `pcm16` is signed 16-bit little-endian; `mulaw` and `alaw` are ITU-T G.711 bytes."""

    encoding: Encoding
    rate_hz: int

    def __post_init__(self) -> None:
        if self.encoding not in ("mulaw", "alaw", "pcm16"):
            raise UsageError(f"audio encoding {self.encoding!r} is not one of mulaw, alaw, pcm16")
        if self.rate_hz not in (8000, 16000, 24000):
            raise UsageError(f"audio rate {self.rate_hz} Hz is not one of 8000, 16000, 24000")

    @property
    def bytes_per_ms(self) -> float:
        return self.rate_hz * self.sample_bytes / 1000

    def bytes_in(self, ms: float) -> int:
        """Bytes of whole samples in a length of time, rounded down."""
        return int(ms * self.rate_hz / 1000) * self.sample_bytes

    def ms_of(self, size: int) -> float:
        """How long this many bytes sound."""
        return size / self.bytes_per_ms

    def silence_for(self, ms: float) -> bytes:
        """Digital silence of this length."""
        return self.silence * int(ms * self.rate_hz / 1000)

    @property
    def sample_bytes(self) -> int:
        return 2 if self.encoding == "pcm16" else 1

    @property
    def silence(self) -> bytes:
        """One sample of digital silence (G.711: 0xFF for mu-law, 0xD5 for A-law)."""
        return {"mulaw": b"\xff", "alaw": b"\xd5", "pcm16": b"\x00\x00"}[self.encoding]


MULAW_8K = AudioFormat("mulaw", 8000)
PCM16_24K = AudioFormat("pcm16", 24000)
