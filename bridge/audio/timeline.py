"""The caller's audio put in order by the carrier's timestamps, with silence where frames are missing.

A model's voice activity detection counts audio time, not wall time: a pause the carrier left out has to be put back,
or the model never hears that the caller stopped. Timestamps are milliseconds of the first sample of a frame since the
stream began; carriers leave out frames for silence, mute and hold, and some deliver them out of order.

Law: what is given out is in order and never twice, and is as long as the timestamps say to within one frame, save for
gaps beyond ten seconds and silence that was credited.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from bridge.audio.formats import AudioFormat

MOST_FILLED_MS: Final = 10_000
RESTART_MS: Final = 1_000  # a timestamp this far back is a new clock, not a late frame
REORDER_MS: Final = 60  # audio held while a missing frame may still come, where order is not guaranteed
_LATEST_MS: Final = 2**40  # no stream is that old: such a timestamp is rubbish, and none
_REMEMBERED: Final = 64  # timestamps, to tell a duplicate from a late frame


def _jitter(frame_ms: float) -> float:
    """How far off a timestamp may be before a frame counts as missing; not corrected until it adds up to a frame."""
    return max(frame_ms - 1, 2)


class CallerTimeline:
    """One stream's timeline. With `ordered` frames nothing is ever held back.

    `filled_ms` counts silence put in, `late` frames dropped for coming too late, `duplicate` frames dropped for
    having come before.
    """

    __slots__ = (
        "_bytes_per_ms",
        "_credit_ms",
        "_early",
        "_format",
        "_late_end_ms",
        "_next_ms",
        "_ordered",
        "_seen",
        "duplicate",
        "filled_ms",
        "late",
    )

    def __init__(self, form: AudioFormat, *, ordered: bool) -> None:
        self._format = form
        self._bytes_per_ms = form.bytes_per_ms
        self._ordered = ordered
        self._next_ms: float | None = None  # where the next sample belongs; None before the first frame
        self._late_end_ms: float | None = (
            None  # where the last late frame ended: a second one going on there is a new clock
        )
        self._credit_ms = 0.0
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._early: dict[int, bytes] = {}
        self.filled_ms = 0.0
        self.late = 0
        self.duplicate = 0

    def push(self, timestamp_ms: int | None, data: bytes) -> bytes:
        """A frame as it arrived; gives what follows in order by now, silence included. None: no timestamps here."""
        if not data:
            return b""
        ms = len(data) / self._bytes_per_ms
        if timestamp_ms is None or not 0 <= timestamp_ms <= _LATEST_MS:
            self._next_ms = None if self._next_ms is None else self._next_ms + ms
            return data
        if timestamp_ms == self._next_ms and not self._early:  # as nearly always
            self._credit_ms = 0.0
            self._seen.append(timestamp_ms)
            self._late_end_ms = None
            self._next_ms = timestamp_ms + ms
            return data
        if self._next_ms is None:
            self._next_ms = float(timestamp_ms)
        gap_ms = timestamp_ms - self._next_ms
        if abs(gap_ms) < _jitter(ms):
            return self._follow(timestamp_ms, data, ms)
        if gap_ms < 0:
            return self._behind(timestamp_ms, data, ms)
        if timestamp_ms in self._early:
            self.duplicate += 1
            return b""
        if self._ordered:
            return self._fill(gap_ms) + self._accept(timestamp_ms, data, timestamp_ms + ms)
        self._early[timestamp_ms] = data
        out = b""
        while self._format.ms_of(sum(map(len, self._early.values()))) >= REORDER_MS:
            out += self._give_up()
        return out

    def credit(self, ms: float) -> None:
        """So much silence was given to the model already, as the leg was quiet; the next gap is shorter by it."""
        self._credit_ms += ms

    def flush(self) -> bytes:
        """Gives up waiting for all that is missing: what is held, in order, with silence between."""
        out = b""
        while self._early:
            out += self._give_up()
        return out

    def _give_up(self) -> bytes:
        """The first missing frames will not come: silence for them, then what is held up to the next gap."""
        assert self._next_ms is not None, "only a frame ahead of another is held"
        at = min(self._early)
        data = self._early.pop(at)
        silence = self._fill(at - self._next_ms)
        return silence + self._accept(at, data, at + self._format.ms_of(len(data))) + self._continuation()

    def _follow(self, at: int, data: bytes, ms: float) -> bytes:
        """The expected frame, and those held which continue it."""
        assert self._next_ms is not None, "set before any comparison"
        self._credit_ms = 0.0  # the pause was the network's: its audio came after all
        accepted = self._accept(at, data, self._next_ms + ms)
        return accepted + self._continuation() if self._early else accepted

    def _continuation(self) -> bytes:
        """Frames held that belong where we are now."""
        assert self._next_ms is not None, "a frame was accepted"
        out = b""
        while self._early:
            at = min(self._early)
            ms = self._format.ms_of(len(self._early[at]))
            if at - self._next_ms >= _jitter(ms):
                break
            out += self._accept(at, self._early.pop(at), self._next_ms + ms)
        return out

    def _behind(self, at: int, data: bytes, ms: float) -> bytes:
        """A frame of the past: dropped, unless the carrier's clock began anew."""
        assert self._next_ms is not None, "set before any comparison"
        if at in self._seen and self._next_ms - at < RESTART_MS:
            self.duplicate += 1
            return b""
        two_in_a_row = self._ordered and self._late_end_ms is not None and abs(at - self._late_end_ms) <= 1
        if two_in_a_row or self._next_ms - at >= RESTART_MS:
            self._seen.clear()
            return self.flush() + self._accept(at, data, at + ms)
        self.late += 1
        self._late_end_ms = at + ms
        return b""

    def _accept(self, at: int, data: bytes, next_ms: float) -> bytes:
        self._seen.append(at)
        self._late_end_ms = None
        self._next_ms = next_ms
        return data

    def _fill(self, gap_ms: float) -> bytes:
        missing_ms = max(0.0, min(gap_ms, MOST_FILLED_MS) - self._credit_ms)
        self._credit_ms = 0.0
        self.filled_ms += missing_ms
        return self._format.silence_for(missing_ms)
