"""What the carrier plays into the caller's ear, exact to the sample.

Audio received is buffered and played in the order of its arrival, at once if nothing lies before it; a mark comes
back when the audio before it has been played; a clear empties the buffer and gives back every mark still waiting
(Twilio, "WebSocket messages"). All arithmetic is in whole samples of 8 kHz on the call's clock, so that the answer to
"what had been heard at that moment" is a number and not an estimate. Pure: the time is an argument.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

RATE_HZ = 8000
SAMPLES_PER_MS = 8


@dataclass(slots=True)
class Received:
    """One media message of the bridge: where its audio lies in what was received, and when it was played."""

    position: int  # samples of audio received on this stream before it
    size: int  # samples
    arrived: int  # call clock
    plays_from: int  # call clock
    played: int  # samples of it that were, or will be, played: less than `size` only after a clear
    audio: bytes | None  # None where tracks are not kept


@dataclass(frozen=True, slots=True)
class Cleared:
    """One clear: what had been heard when it came, and what it took away."""

    at: int  # call clock, samples
    received: int  # samples received until then
    heard: int  # samples of them really played
    dropped: int  # samples taken out of the buffer by this clear
    marks: tuple[str, ...]  # names given back by it


@dataclass(slots=True)
class Playout:
    """The playback buffer of one media stream."""

    keep_audio: bool = True
    received: int = 0  # samples
    chunks: list[Received] = field(default_factory=list)
    clears: list[Cleared] = field(default_factory=list)
    _ends: int = 0  # call clock: when the last buffered sample has been played
    _waiting: deque[tuple[int, str]] = field(default_factory=deque)  # (due, name)
    _positions: list[int] = field(default_factory=list)

    def play(self, audio: bytes, now: int) -> Received:
        """Buffer mu-law audio that arrived `now`."""
        begins = max(now, self._ends)
        chunk = Received(self.received, len(audio), now, begins, len(audio), audio if self.keep_audio else None)
        self.chunks.append(chunk)
        self._positions.append(chunk.position)
        self.received += len(audio)
        self._ends = begins + len(audio)
        return chunk

    def mark(self, name: str, now: int) -> int:
        """Queue a mark behind what is buffered; the moment at which it is due (`now` with nothing buffered)."""
        due = max(now, self._ends)
        self._waiting.append((due, name))
        return due

    def next_due(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    def due_marks(self, now: int) -> list[str]:
        """Takes out the marks whose audio has been played by `now`, oldest first."""
        names = []
        while self._waiting and self._waiting[0][0] <= now:
            names.append(self._waiting.popleft()[1])
        return names

    def clear(self, now: int) -> Cleared:
        """Empty the buffer. Marks that were due stay due: take them first."""
        names = tuple(name for _, name in self._waiting)
        dropped = self.end(now)
        cleared = Cleared(now, self.received, self.heard(now), dropped, names)
        self.clears.append(cleared)
        return cleared

    def end(self, now: int) -> int:
        """The stream is over: nothing more is played and no mark goes back. Samples that were never heard."""
        dropped = 0
        for chunk in reversed(self.chunks):
            if chunk.plays_from + chunk.played <= now:
                break
            keeps = max(0, now - chunk.plays_from)
            dropped += chunk.played - keeps
            chunk.played = keeps
        self._waiting.clear()
        self._ends = min(self._ends, now)
        return dropped

    def buffered(self, now: int) -> int:
        """Samples received and not yet played."""
        return max(0, self._ends - now)

    def heard(self, now: int) -> int:
        """Samples of everything received that had been played by `now`; 0 <= heard <= received."""
        return self.heard_of(0, self.received, now)

    def heard_of(self, start: int, stop: int, now: int) -> int:
        """Samples heard by `now` out of the audio received at stream positions [start, stop), in samples.

        Asked for a moment in the past it answers as of then: later clears only take away what had not been played.
        """
        heard = 0
        first = max(0, bisect_right(self._positions, start) - 1)
        for chunk in self.chunks[first:]:
            if chunk.position >= stop or chunk.arrived > now:
                break
            until_now = min(chunk.played, max(0, now - chunk.plays_from))
            heard += max(0, min(chunk.position + until_now, stop) - max(chunk.position, start))
        return heard
