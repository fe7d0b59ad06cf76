"""Where the caller's ear is: a clock corrected by marks.

Positions are milliseconds of audio sent since the last clear (an *epoch*). "The ear" always means the ear *at the
moment a clear sent now would take effect*: the way out is the same for audio and for the clear, so it cancels.

A slice that begins at position p and is sent at t into an empty buffer is heard from t on (plus the lag with which
this carrier begins to play), and while the buffer does not run dry the ear is at `now - offset`. A returned mark of
position p says the same from the other side: `offset = returned_at - round_trip - p`, where the round trip is
measured by marks placed into an empty buffer, which the carrier returns at once (Twilio, "WebSocket messages": mark).
The ear can only fall behind, so an offset larger than all that follow was a mark that dawdled on its way.

A mark that is still out caps the ear: had it been reached a round trip ago, it would be back. So a carrier that falls
behind is believed, and one that falls silent stops the ear at its last word. One that stays silent for
`_MARKS_LOST_MS` is treated as one without marks until it returns another, unless nothing else comes from it either.
"""

from __future__ import annotations

import msgspec

_SAMPLES = 7  # how many round trips, offsets and lags are remembered
_CERTAIN_MS = 1.0  # closer than this is the same
_STRETCHES = 4
_LAG_TOLD_MS = 60.0  # marks so near to the beginning of a stretch tell the lag
_SLACK_MS = 20.0  # a telephone frame: a mark this much overdue is not late
_AGREE_MS = 50.0  # offsets further apart than this are not of the same stretch
_UNKNOWN_TRIP_MS = 1000.0  # the longest round trip believed of a carrier whose probe has not come back
_MARKS_LOST_MS = 5000.0
_LINE_QUIET_MS = 1000.0
_LINE_LOST_MS = 20_000.0  # by then a line that is dead has been given up; this one is quiet because its caller is
_PROBE_EVERY_MS = 1000.0
_FIRST_PROBES = 5  # spread over the first moments of the stream, while nothing plays
_FIRST_PROBE_EVERY_MS = 120.0


class Mark(msgspec.Struct, gc=False):
    name: str
    position_ms: float
    sent_at: float
    probe: bool  # placed into an empty buffer: measures the round trip


class Stretch(msgspec.Struct, gc=False):
    """Audio played in one go: it was sent into an empty buffer, at this position, with this offset."""

    begin_ms: float
    offset: float


class Reckoning(msgspec.Struct):
    """State of the clock. Plain data, so that a snapshot is its encoding."""

    has_marks: bool = True
    trusted: bool = True  # marks come back, as far as we know
    epoch: int = 0
    placed: int = 0
    sent_ms: float = 0.0
    acknowledged_ms: float = 0.0
    floor_ms: float = 0.0  # all before this was heard, for the buffer was empty then
    offset: float | None = None  # the best we know; None: nothing was sent in this epoch
    stretches: list[Stretch] = []  # the last ones; audio of the newest is being sent
    marks: list[Mark] = []
    offsets: list[float] = []  # as marks told them, since the buffer last ran dry
    lags: list[float] = []  # how much later than sent the carrier began to play
    lag_ms: float = 0.0
    round_trips: list[float] = []
    round_trip_ms: float = 0.0
    slack_ms: float = _SLACK_MS
    probed_at: float = -1e12
    probes: int = 0

    # ------------------------------------------------------------ what was sent

    def sent(self, ms: float, now: float) -> None:
        """Audio goes out, to be played after all that was sent before."""
        offset = now - self.sent_ms
        if self.offset is None or offset > self.offset + _CERTAIN_MS:
            self.floor_ms = self.sent_ms
            self.stretches.append(Stretch(self.sent_ms, offset))
            del self.stretches[:-_STRETCHES]
            self.offset = offset + self.lag_ms
            self.offsets.clear()
        self.sent_ms += ms

    def fresh_ms(self, now: float) -> float:
        """How much audio has followed since the buffer was last empty; 0 if it is now."""
        if self.offset is None or now - self.sent_ms > self.offset + _CERTAIN_MS:
            return 0.0
        return self.sent_ms - self.stretches[-1].begin_ms

    def place(self, now: float, *, probe: bool = False) -> str:
        """The name for a mark behind all that was sent."""
        self.placed += 1
        name = f"{self.epoch}.{self.placed}"
        self.marks.append(Mark(name, self.sent_ms, now, probe))
        if probe:
            self.probed_at = now
            self.probes += 1
        elif not self.trusted and len(self.marks) > _SAMPLES:
            del self.marks[0]
        return name

    def probe_due(self) -> float | None:
        """When the next probe should go out, if nothing is playing then."""
        if not self.has_marks or self.marks or not self.trusted:
            return None
        every = _FIRST_PROBE_EVERY_MS if self.probes < _FIRST_PROBES else _PROBE_EVERY_MS
        return self.probed_at + every

    @property
    def probing(self) -> bool:
        """The first probes are not all out yet."""
        return self.probes < _FIRST_PROBES

    # ------------------------------------------------------------ what the carrier tells

    def returned(self, name: str, now: float) -> bool:
        """A mark came back. False: not one of this epoch, or a repeat; it says nothing."""
        marks = self.marks
        for index, mark in enumerate(marks):  # noqa: B007  (used after the loop)
            if mark.name == name:
                break
        else:
            return False
        del marks[: index + 1]  # marks return in order; an older one that was lost will not come any more
        self.trusted = True
        self.acknowledged_ms = max(self.acknowledged_ms, mark.position_ms)
        if mark.probe:
            _remember(self.round_trips, now - mark.sent_at)
            self.round_trip_ms = _middle(self.round_trips)
            self.slack_ms = max(_SLACK_MS, max(self.round_trips) - min(self.round_trips))
        elif self.round_trips:
            self._learn(mark.position_ms, now - self.round_trip_ms - mark.position_ms)
        return True

    def _learn(self, position_ms: float, offset: float) -> None:
        stretch = next((one for one in reversed(self.stretches) if one.begin_ms < position_ms), None)
        if stretch is None:
            return
        if position_ms <= stretch.begin_ms + _LAG_TOLD_MS:
            _remember(self.lags, max(0.0, offset - stretch.offset))
            self.lag_ms = _middle(self.lags)
        if stretch is not self.stretches[-1]:
            if not self.offsets:  # nothing better is known of the newest
                self.offset = self.stretches[-1].offset + self.lag_ms
            return
        self.offsets = [known for known in self.offsets[1 - _SAMPLES :] if abs(known - offset) <= _AGREE_MS]
        self.offsets.append(offset)
        if len(self.offsets) >= 2 or not self.lags:  # what this carrier usually does is better than a single mark
            self.offset = _middle(self.offsets)

    def doubt(self, now: float, quiet_ms: float) -> None:
        """Marks that stay out for very long will not come: go by the clock. Where nothing else comes either, it is the
        line that is gone, or stands still: the ear waits for it."""
        if now - self.marks[0].sent_at < _MARKS_LOST_MS or _LINE_QUIET_MS < quiet_ms < _LINE_LOST_MS:
            return
        if self.trusted and self.offset is not None and (late := self._out()) is not None:
            trip = self.round_trip_ms if self.round_trips else _UNKNOWN_TRIP_MS
            if now > late.position_ms + self.offset + trip + _MARKS_LOST_MS:
                self.trusted = False

    # ------------------------------------------------------------ where the ear is

    def _out(self) -> Mark | None:
        """The oldest mark behind audio that has not come back."""
        for mark in self.marks:
            if not mark.probe:
                return mark
        return None

    def ear(self, now: float) -> float:
        """Position the caller will have heard when a clear sent now takes effect."""
        offset = self.offset
        if offset is None:
            return 0.0
        ear = max(now - offset, self.floor_ms)
        late = self.marks[0] if self.marks else None
        if late is not None and self.trusted:
            if late.probe:
                late = self._out()
            if late is not None:
                trip = self.round_trip_ms if self.round_trips else _UNKNOWN_TRIP_MS
                overdue = ear - late.position_ms - trip - self.slack_ms
                if overdue > 0:  # it stands still, the longer the likelier, and before that mark
                    ear = late.position_ms + max(0.0, trip + self.slack_ms - overdue)
        if ear < self.acknowledged_ms:
            ear = self.acknowledged_ms
        return min(ear, self.sent_ms)

    def surely_heard(self, now: float) -> float:
        """Position the caller has heard where the carrier is gone now, or has been for a while.

        What was on its way either way at the break is not counted; where marks had come and then no more, nothing after
        the last of them is.
        """
        ear = self.ear(now)
        if not self.round_trips:
            return ear
        late = self._out()
        if not self.trusted or (late is not None and ear >= late.position_ms):
            return self.acknowledged_ms
        return max(ear - self.round_trip_ms, self.acknowledged_ms)

    def dry_at(self) -> float:
        """When the ear reaches the end of what was sent, by the clock; may be long ago."""
        return -1e12 if self.offset is None else self.sent_ms + self.offset

    @property
    def confirmed(self) -> bool:
        """All that was sent was acknowledged, or could not be."""
        return not self.has_marks or not self.trusted or self._out() is None

    # ------------------------------------------------------------ new beginnings

    def restart(self) -> None:
        """The carrier's buffer is empty: a new epoch."""
        self.epoch += 1
        self.marks.clear()
        self.offsets.clear()
        self.stretches.clear()
        self.sent_ms = self.acknowledged_ms = self.floor_ms = 0.0
        self.offset = None

    def new_stream(self) -> None:
        """Another media stream: its way and its carrier's habits are unknown."""
        self.restart()
        self.round_trips.clear()
        self.lags.clear()
        self.lag_ms, self.round_trip_ms, self.slack_ms = 0.0, 0.0, _SLACK_MS
        self.probes, self.probed_at = 0, -1e12
        self.trusted = True


def _middle(samples: list[float]) -> float:
    """Their median."""
    ranked = sorted(samples)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _remember(samples: list[float], value: float) -> None:
    samples.append(value)
    if len(samples) > _SAMPLES:
        del samples[0]
