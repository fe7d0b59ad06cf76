"""The input audio buffer: what the client appended and nobody committed yet, with its place in the session's audio
time."""

from __future__ import annotations

from bridge.audio.formats import AudioFormat

KEEP_QUIET_MS = 5_000  # while listening for speech to begin: enough for any prefix padding
KEEP_MOST_MS = 300_000


class CallerAudio:
    def __init__(self, format: AudioFormat) -> None:
        self.format = format
        self.written_ms = 0.0  # in the whole session, as the positions of speech events count
        self._buffer = bytearray()

    @property
    def start_ms(self) -> float:
        """Where in the session the buffer begins."""
        return self.written_ms - self.ms

    @property
    def ms(self) -> float:
        return len(self._buffer) / self.format.bytes_per_ms

    def append(self, audio: bytes, *, quiet: bool) -> None:
        """`quiet`: a detector listens and hears no speech, so old sound may be forgotten."""
        self._buffer += audio
        self.written_ms += len(audio) / self.format.bytes_per_ms
        most = int((KEEP_QUIET_MS if quiet else KEEP_MOST_MS) * self.format.bytes_per_ms)
        if len(self._buffer) > 2 * most:
            del self._buffer[:-most]

    def clear(self) -> None:
        self._buffer.clear()

    def take(self) -> bytes:
        """All of it."""
        audio = bytes(self._buffer)
        self._buffer.clear()
        return audio

    def cut(self, start_ms: float, end_ms: float) -> bytes:
        """The sound between two positions of the session; what lies before the end leaves the buffer."""
        audio = self.look(start_ms, end_ms)
        del self._buffer[: self._offset(end_ms - self.start_ms)]
        return audio

    def look(self, start_ms: float, end_ms: float) -> bytes:
        """The sound between two positions of the session, left where it is."""
        begins_ms = self.start_ms
        return bytes(self._buffer[self._offset(start_ms - begins_ms) : self._offset(end_ms - begins_ms)])

    def change_format(self, format: AudioFormat) -> None:
        self._buffer.clear()
        self.format = format

    def _offset(self, ms: float) -> int:
        return max(int(ms * self.format.rate_hz / 1000), 0) * self.format.sample_bytes
