"""The copy of the caller's audio from which their turns are cut."""

from __future__ import annotations


class InputAudio:
    """The last `keep_ms` of the audio we appended, found by its position in the whole."""

    def __init__(self, *, bytes_per_ms: float, keep_ms: float) -> None:
        self.bytes_per_ms = bytes_per_ms
        self._keep = int(keep_ms * bytes_per_ms)
        self._kept = bytearray()
        self._dropped = 0  # bytes before the first kept one

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def appended(self) -> int:
        """Bytes in all, kept or not."""
        return self._dropped + len(self._kept)

    def append(self, audio: bytes) -> None:
        self._kept += audio
        excess = len(self._kept) - self._keep
        if excess > self._keep // 4:  # not with every frame
            del self._kept[:excess]
            self._dropped += excess

    def cut(self, start_ms: float, end_ms: float) -> bytes:
        """What is still there of the audio between two positions."""
        start, end = (int(ms * self.bytes_per_ms) // 2 * 2 - self._dropped for ms in (start_ms, end_ms))
        return bytes(self._kept[max(0, start) : max(0, end)])

    def forget(self, until_ms: float) -> None:
        """What lies before a position is not needed any more."""
        size = min(max(int(until_ms * self.bytes_per_ms) // 2 * 2 - self._dropped, 0), len(self._kept))
        del self._kept[:size]
        self._dropped += size

    def take(self) -> bytes:
        """All that is kept; positions go on from here."""
        taken = bytes(self._kept)
        self._dropped += len(taken)
        self._kept.clear()
        return taken
