"""The heard-audio ledger: what the model said, what was sent, what the caller has heard.

Audio of items waits here and is released in slices, each followed by a mark, while less than the lead lies ahead of
the caller's ear. Positions are milliseconds of audio sent since the last clear (an *epoch*).

The reckoning. A slice that begins at position p and is sent at t cannot play before t; while the carrier's buffer
does not run dry the ear is at `now - offset`, with `offset = max(t - p)`. "The ear" always means the ear *at the
moment a clear sent now would take effect*: the way out is the same for slices and for the clear, so it cancels. A
returned mark of position p says the same from the other side: `offset = returned_at - round_trip - p`, where the
round trip is measured by marks placed into an empty buffer, which the carrier returns at once (Twilio, WebSocket
messages: "mark"). A mark that is still out caps the ear: had it been reached a round trip ago, it would be back. So a
carrier that falls behind is believed, and one that falls silent freezes the ear at its last word.

Laws: 0 <= heard <= sent <= received, per item. Nothing of an older epoch changes anything.
"""

from __future__ import annotations

from statistics import median

import msgspec

from bridge.call.actions import Action, PlaceMark, PlayAudio
from bridge.call.plan import CarrierCapabilities

_SAMPLES = 7  # how many round trips and offsets are remembered
_CERTAIN_MS = 1.0  # closer than this is the same
_SLACK_MS = 20.0  # a frame's length: what the network may do to a returning mark without being called late
_PROBE_EVERY_MS = 1000.0


class Item(msgspec.Struct):
    """One item of the model's speech. `foreign`: of a session that is gone, so it must never be truncated."""

    item_id: str
    response_id: str
    content_index: int
    received_ms: float = 0.0
    sent_ms: float = 0.0
    heard_before_ms: float = 0.0  # on a stream that was replaced
    lost_ms: float = 0.0  # sent to a stream that was replaced before it was heard
    closed: bool = False  # all of its audio has been received
    foreign: bool = False


class _Piece(msgspec.Struct):
    """Audio not yet sent. `item_id` is empty for clips of ours."""

    item_id: str
    audio: bytes
    taken: int = 0  # bytes already sent


class _Span(msgspec.Struct):
    """A stretch of the sent audio: positions in this epoch."""

    item_id: str
    begin_ms: float
    end_ms: float


class _Mark(msgspec.Struct):
    name: str
    position_ms: float
    sent_at: float
    probe: bool  # placed into an empty buffer: measures the round trip


class Heard(msgspec.Struct, frozen=True):
    """How much of one item the caller heard."""

    item: Item
    heard_ms: float

    @property
    def whole(self) -> bool:
        return self.item.closed and self.heard_ms + self.item.lost_ms >= self.item.received_ms - _CERTAIN_MS


class Playout(msgspec.Struct):
    """State of the ledger; every field is plain data, so that a snapshot is its encoding."""

    lead_ms: float
    slice_ms: float
    epoch: int = 0
    marks_placed: int = 0
    open: bool = False  # a stream is there to play to
    items: dict[str, Item] = {}  # insertion order is playing order
    queue: list[_Piece] = []
    queued_ms: float = 0.0
    spans: list[_Span] = []
    sent_ms: float = 0.0
    marks: list[_Mark] = []
    acknowledged_ms: float = 0.0
    offset_sent: float | None = None
    offsets: list[float] = []  # as marks told them, since the buffer last ran dry
    lag_ms: float = 0.0  # how much later than sent the carrier begins to play, as marks told it
    round_trips: list[float] = []
    probed_at: float = -1e12
    bytes_per_ms: float = 8.0
    has_marks: bool = True

    # ------------------------------------------------------------ what comes in

    def receive(self, item_id: str, response_id: str, content_index: int, audio: bytes, ms: float) -> None:
        """Audio of an item arrives from the model."""
        item = self.items.get(item_id)
        if item is None:
            item = self.items[item_id] = Item(item_id, response_id, content_index)
        item.received_ms += ms
        self._enqueue(item_id, audio, ms)

    def receive_clip(self, audio: bytes) -> None:
        """A clip of ours takes its place in the queue; it belongs to no item."""
        self._enqueue("", audio, len(audio) / self.bytes_per_ms)

    def _enqueue(self, item_id: str, audio: bytes, ms: float) -> None:
        self.queue.append(_Piece(item_id, audio))
        self.queued_ms += ms

    def close_item(self, item_id: str) -> None:
        item = self.items.get(item_id)
        if item is not None:
            item.closed = True

    def close_response(self, response_id: str) -> None:
        for item in self.items.values():
            if item.response_id == response_id:
                item.closed = True

    def disown(self) -> None:
        """The session these items belong to is gone: they play out, and are never truncated."""
        for item in self.items.values():
            item.foreign = item.closed = True

    # ------------------------------------------------------------ what goes out

    def release(self, now: float, out: list[Action]) -> None:
        """Send slices while less than the lead lies ahead of the ear."""
        if not self.open:
            return
        while self.queue:
            ahead = self.sent_ms - self.ear(now)
            if ahead >= self.lead_ms - _CERTAIN_MS:
                return
            piece = self.queue[0]
            waiting = self._waiting_bytes(piece.item_id)
            want = int(self.slice_ms * self.bytes_per_ms)
            if waiting < want and ahead > self.lead_ms / 2 and not self._closed(piece.item_id):
                return  # more of this item will come in time; do not send crumbs
            self._send(piece.item_id, self._take(piece.item_id, want), now, out)

    def next_release(self, now: float) -> float | None:
        """When release() is due even if no mark returns before: the lead has shrunk by more than marks explain."""
        if not self.open or not self.queue:
            return None
        ahead = self.sent_ms - self.ear(now)
        floor = (
            max(self.lead_ms - 1.5 * self.slice_ms, self.lead_ms / 2)
            if self.has_marks
            else self.lead_ms - self.slice_ms / 2
        )
        if self._waiting_bytes(self.queue[0].item_id) < int(self.slice_ms * self.bytes_per_ms):
            floor = min(floor, self.lead_ms / 2)
        return now + max(ahead - floor, _CERTAIN_MS)

    def _closed(self, item_id: str) -> bool:
        item = self.items.get(item_id)
        return item is None or item.closed

    def _waiting_bytes(self, item_id: str) -> int:
        """Bytes at the head of the queue that belong to the same item, up to one slice."""
        want = int(self.slice_ms * self.bytes_per_ms)
        total = 0
        for piece in self.queue:
            if piece.item_id != item_id or total >= want:
                break
            total += len(piece.audio) - piece.taken
        return total

    def _take(self, item_id: str, want: int) -> bytes:
        parts: list[bytes] = []
        while want and self.queue and self.queue[0].item_id == item_id:
            piece = self.queue[0]
            part = piece.audio[piece.taken : piece.taken + want]
            piece.taken += len(part)
            want -= len(part)
            parts.append(part)
            if piece.taken >= len(piece.audio):
                self.queue.pop(0)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _send(self, item_id: str, audio: bytes, now: float, out: list[Action]) -> None:
        ms = len(audio) / self.bytes_per_ms
        offset = now - self.sent_ms
        dry = self.offset_sent is None or offset > self._offset() + _CERTAIN_MS
        if dry:
            if self.has_marks and not self.marks and now - self.probed_at >= _PROBE_EVERY_MS:
                self.probe(now, out)
            self.offset_sent = offset
            self.offsets.clear()
        begin = self.sent_ms
        self.sent_ms += ms
        self.queued_ms = max(0.0, self.queued_ms - ms)
        item = self.items.get(item_id)
        if item is not None:
            item.sent_ms += ms
        last = self.spans[-1] if self.spans else None
        if last is not None and last.item_id == item_id and last.end_ms == begin:
            last.end_ms = self.sent_ms
        else:
            self.spans.append(_Span(item_id, begin, self.sent_ms))
        out.append(PlayAudio(audio, ms))
        if self.has_marks:
            self._place(self.sent_ms, now, out, probe=False)

    def probe(self, now: float, out: list[Action]) -> None:
        """A mark into the empty buffer: it comes back after one round trip."""
        self.probed_at = now
        self._place(self.sent_ms, now, out, probe=True)

    def _place(self, position_ms: float, now: float, out: list[Action], *, probe: bool) -> None:
        self.marks_placed += 1
        name = f"{self.epoch}.{self.marks_placed}"
        self.marks.append(_Mark(name, position_ms, now, probe))
        out.append(PlaceMark(name))

    # ------------------------------------------------------------ what the carrier tells

    def mark_returned(self, name: str, now: float) -> bool:
        """A mark came back. False: not one of this epoch, or a repeat; it says nothing."""
        index = next((i for i, mark in enumerate(self.marks) if mark.name == name), None)
        if index is None:
            return False
        mark = self.marks[index]
        del self.marks[: index + 1]  # marks return in order; an older one that was lost will not come any more
        if mark.probe:
            _remember(self.round_trips, now - mark.sent_at)
            return True
        self.acknowledged_ms = max(self.acknowledged_ms, mark.position_ms)
        if self.round_trips:
            _remember(self.offsets, now - self.round_trip_ms - mark.position_ms)
            if self.offset_sent is not None and len(self.offsets) >= 3:
                self.lag_ms += (max(0.0, median(self.offsets) - self.offset_sent) - self.lag_ms) / 4
        return True

    @property
    def round_trip_ms(self) -> float:
        return median(self.round_trips) if self.round_trips else 0.0

    # ------------------------------------------------------------ where the ear is

    def _offset(self) -> float:
        assert self.offset_sent is not None, "the ear has an offset only once something was sent"
        if len(self.offsets) >= 2:
            return median(self.offsets)
        return self.offset_sent + self.lag_ms

    def ear(self, now: float) -> float:
        """Position the caller will have heard when a clear sent now takes effect."""
        if self.offset_sent is None:
            return 0.0
        ear = now - self._offset()
        late = next((mark for mark in self.marks if not mark.probe), None)
        if late is not None and self.round_trips:
            spread = max(self.round_trips) - min(self.round_trips)
            ear = min(ear, late.position_ms + self.round_trip_ms + max(spread, _SLACK_MS))
        return min(max(ear, self.acknowledged_ms, 0.0), self.sent_ms)

    def playing(self, now: float) -> bool:
        """Something sent has, as far as we can know, not been heard yet."""
        return self.ear(now) < self.sent_ms - _CERTAIN_MS

    def busy(self, now: float) -> bool:
        """Something is waiting to be sent or heard."""
        return bool(self.queue) or self.playing(now)

    def confirmed(self) -> bool:
        """Everything sent has been acknowledged, or could not be because the carrier has no marks."""
        return not self.queue and (not self.has_marks or not any(not mark.probe for mark in self.marks))

    def silent_at(self, now: float) -> float:
        """When the caller will have heard all that is waiting, if nothing is added."""
        return now + (self.sent_ms - self.ear(now)) + self.queued_ms

    def heard_of(self, item_id: str, now: float) -> float:
        """Milliseconds of one item the caller has heard. Clips of ours have the empty id."""
        ear = self.ear(now)
        heard = sum(max(0.0, min(span.end_ms, ear) - span.begin_ms) for span in self.spans if span.item_id == item_id)
        item = self.items.get(item_id)
        return heard if item is None else min(item.heard_before_ms + heard, item.sent_ms)

    def heard(self, now: float) -> list[Heard]:
        """Every item that is not settled yet, in playing order, with what the caller heard of it."""
        return [Heard(item, self.heard_of(item_id, now)) for item_id, item in self.items.items()]

    # ------------------------------------------------------------ ends

    def settle(self, now: float) -> list[Heard]:
        """Forget items heard to their end; return them."""
        if not self.items:
            return []
        done = [heard for heard in self.heard(now) if heard.whole]
        for heard in done:
            del self.items[heard.item.item_id]
        if done:
            ear = self.ear(now)
            self.spans = [span for span in self.spans if span.item_id in self.items or span.end_ms > ear]
        return done

    def clear(self) -> None:
        """The carrier's buffer is emptied: a new epoch begins, nothing sent before counts any more."""
        self._restart()
        self.drop()

    def drop(self) -> None:
        """Nothing is playing; forget what waits, and the items. What was sent stays sent."""
        self.items.clear()
        self.queue.clear()
        self.queued_ms = 0.0

    def new_stream(self, now: float) -> None:
        """Another media stream took over: what the old one had buffered is lost, what waits here is not."""
        for heard in self.heard(now):
            heard.item.heard_before_ms = heard.heard_ms
            heard.item.lost_ms = heard.item.sent_ms - heard.heard_ms
        self._restart()
        self.round_trips.clear()
        self.lag_ms = 0.0
        self.probed_at = -1e12
        self.open = True

    def _restart(self) -> None:
        self.epoch += 1
        self.spans.clear()
        self.marks.clear()
        self.sent_ms = self.acknowledged_ms = 0.0
        self.offset_sent = None
        self.offsets.clear()


def _remember(samples: list[float], value: float) -> None:
    samples.append(value)
    if len(samples) > _SAMPLES:
        del samples[0]


def open_ledger(*, lead_ms: float, slice_ms: float, carrier: CarrierCapabilities) -> Playout:
    return Playout(
        lead_ms=min(lead_ms, carrier.max_lead_ms),
        slice_ms=slice_ms,
        bytes_per_ms=carrier.bytes_per_ms,
        has_marks=carrier.marks,
    )
