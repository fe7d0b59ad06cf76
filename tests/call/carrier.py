"""A carrier in pure time: it buffers what it is sent, plays it in real time, and returns marks.

Written from the carriers' documents (Twilio, "WebSocket messages": media, mark, clear), not from the ledger. Every
message takes its way out and back, with jitter that keeps the order, as TCP does. What the caller has heard is known
exactly, per item, because each item's audio consists of one byte value.

Unrealistic: the jitter is uniform, the carrier's clock runs exactly like ours, and nothing is lost between the
carrier and the ear.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from bridge.call import actions as do
from bridge.call import events as ev

BYTES_PER_MS = 8


@dataclass(slots=True)
class Stretch:
    """Audio of one item that is played from `begins` to `ends`."""

    tag: int
    begins: float
    ends: float


@dataclass(slots=True)
class PendingMark:
    name: str
    due: float


@dataclass
class Carrier:
    out_ms: float = 0.0  # from us to the carrier
    back_ms: float = 0.0
    jitter_ms: float = 0.0  # each way, plus or minus
    lag_ms: float = 0.0  # it waits this long before it plays into silence
    frame_ms: float = 0.0  # it begins to play, and reports marks, at multiples of this; 0: at any moment
    seed: int = 0
    marks: bool = True
    marks_on_clear: bool = True
    clears: bool = True
    loses_marks: float = 0.0  # the share of marks that never come back

    played: list[Stretch] = field(default_factory=list)
    pending: list[PendingMark] = field(default_factory=list)
    wire_out: list[tuple[float, do.Action]] = field(default_factory=list)
    wire_back: list[tuple[float, str]] = field(default_factory=list)
    marks_held: tuple[float, float] = (0.0, 0.0)  # marks that would leave within this time leave at its end
    cleared_at: list[float] = field(default_factory=list)
    _last_out: float = 0.0
    _last_back: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    # ------------------------------------------------------------ the wire

    def _way(self, base: float) -> float:
        return max(0.0, base + self._random.uniform(-self.jitter_ms, self.jitter_ms)) if self.jitter_ms else base

    def take(self, actions: list[do.Action], now: float) -> None:
        """What the call asked of the caller's leg goes out onto the wire."""
        for action in actions:
            if isinstance(action, do.PlayAudio | do.PlaceMark | do.ClearPlayback):
                self._last_out = max(self._last_out, now + self._way(self.out_ms))
                self.wire_out.append((self._last_out, action))

    def clear_arrives_at(self) -> float:
        """When the clear sent last arrives."""
        return next(at for at, action in reversed(self.wire_out) if isinstance(action, do.ClearPlayback))

    def advance(self, now: float) -> None:
        while self.wire_out and self.wire_out[0][0] <= now:
            at, action = self.wire_out.pop(0)
            self._report(at)
            match action:
                case do.PlayAudio(audio=audio):
                    self._play(audio, at)
                case do.PlaceMark(name=name) if self.marks:
                    self.pending.append(PendingMark(name, self._tick(max(at, self._ends()))))
                case do.ClearPlayback():
                    self._clear(at)
        self._report(now)

    def _report(self, now: float) -> None:
        while self.pending and self.pending[0].due <= now:
            mark = self.pending.pop(0)
            if self.loses_marks and self._random.random() < self.loses_marks:
                continue
            self._return(mark.name, mark.due)

    def _return(self, name: str, at: float) -> None:
        held_from, held_to = self.marks_held
        leaves = held_to if held_from <= at < held_to else at
        self._last_back = max(self._last_back, leaves + self._way(self.back_ms))
        self.wire_back.append((self._last_back, name))

    def next_fact(self) -> float | None:
        """When the next mark reaches us, if nothing more is sent to the carrier."""
        return self.wire_back[0][0] if self.wire_back else None

    def next_event(self) -> float | None:
        """When something happens here or on the wire."""
        times = [at for at, _ in self.wire_out[:1]] + [at for at, _ in self.wire_back[:1]]
        times += [mark.due for mark in self.pending[:1]]
        return min(times, default=None)

    def facts(self, now: float) -> list[ev.MarkReturned]:
        """Marks that have reached us by `now`."""
        self.advance(now)
        names = []
        while self.wire_back and self.wire_back[0][0] <= now:
            names.append(self.wire_back.pop(0)[1])
        return [ev.MarkReturned(name) for name in names]

    # ------------------------------------------------------------ the buffer

    def _tick(self, at: float) -> float:
        return at if not self.frame_ms else -(-at // self.frame_ms) * self.frame_ms

    def _ends(self) -> float:
        return self.played[-1].ends if self.played else 0.0

    def _play(self, audio: bytes, at: float) -> None:
        ends = self._ends()
        begins = ends if ends > at else self._tick(at + self.lag_ms)
        position = 0
        while position < len(audio):  # the audio of one message may belong to two items
            tag = audio[position]
            size = len(audio) - position
            if audio.count(tag, position) != size:
                size = next(i for i in range(position, len(audio)) if audio[i] != tag) - position
            last = self.played[-1] if self.played else None
            if last is not None and last.tag == tag and last.ends == begins:
                last.ends += size / BYTES_PER_MS
            else:
                self.played.append(Stretch(tag, begins, begins + size / BYTES_PER_MS))
            begins += size / BYTES_PER_MS
            position += size

    def _clear(self, at: float) -> None:
        if not self.clears:
            return
        self.cleared_at.append(at)
        self.played = [stretch for stretch in self.played if stretch.begins < at]
        if self.played:
            self.played[-1].ends = min(self.played[-1].ends, at)
        pending, self.pending = self.pending, []
        if self.marks_on_clear:
            for mark in pending:
                self._return(mark.name, at)

    def pause(self, at: float, ms: float) -> None:
        """A fault: it stops playing for a while, then goes on."""
        self.advance(at)
        shifted: list[Stretch] = []
        for stretch in self.played:
            if stretch.ends <= at:
                shifted.append(stretch)
            elif stretch.begins >= at:
                shifted.append(Stretch(stretch.tag, stretch.begins + ms, stretch.ends + ms))
            else:
                shifted.append(Stretch(stretch.tag, stretch.begins, at))
                shifted.append(Stretch(stretch.tag, at + ms, stretch.ends + ms))
        self.played = shifted
        for mark in self.pending:
            if mark.due > at:
                mark.due += ms

    # ------------------------------------------------------------ the truth

    def heard_ms(self, tag: int, at: float) -> float:
        """How much of one item's audio had been played by then."""
        return sum(
            max(0.0, min(stretch.ends, at) - stretch.begins)
            for stretch in self.played
            if stretch.tag == tag and stretch.begins < at
        )

    def buffered_ms(self, at: float) -> float:
        return sum(max(0.0, stretch.ends - max(at, stretch.begins)) for stretch in self.played)
