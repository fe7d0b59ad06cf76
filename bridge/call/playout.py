"""The heard-audio ledger: what the model said, what was sent, what the caller has heard.

Audio of items waits here and is released in slices, each followed by a mark, while less than the lead lies ahead of
the caller's ear; where that is, `reckoning` says. What was sent and not yet surely heard is kept, so that another
stream can take over where the caller stopped hearing.

Laws: 0 <= heard <= sent <= received, per item. Nothing of an older epoch changes anything. What a model can make us
keep is bounded: audio waiting, audio of one response, items.
"""

from __future__ import annotations

import msgspec

from bridge.call.actions import Action, PlaceMark, PlayAudio
from bridge.call.plan import CarrierCapabilities
from bridge.call.reckoning import Reckoning

_CERTAIN_MS = 1.0  # closer than this is the same
_FIRST_SLICE_MS = 20.0  # into an empty buffer: their marks tell soon with what lag the carrier begins
_FIRST_SLICES_MS = 60.0
_SHORTEST_LEAD_MS = 40.0
_POLL_MS = 20.0  # the least time between two looks at a carrier that stands still
_LONGEST_RESPONSE_MS = 120_000.0
_MOST_WAITING_MS = 180_000.0
_MOST_ITEMS = 64


class Item(msgspec.Struct, gc=False):
    """One item of the model's speech. `foreign`: of a session that is gone, so it must never be truncated."""

    item_id: str
    response_id: str
    content_index: int
    received_ms: float = 0.0
    sent_ms: float = 0.0
    heard_ms: float = 0.0  # surely: acknowledged, or long ago
    closed: bool = False  # all of its audio has been received
    foreign: bool = False


class _Piece(msgspec.Struct, gc=False):
    """Audio not yet sent. `item_id` is empty for clips of ours."""

    item_id: str
    audio: bytes
    taken: int = 0  # bytes already sent


class _Slice(msgspec.Struct, gc=False):
    """Audio sent and not yet surely heard: its place in this epoch."""

    item_id: str
    audio: bytes
    begin_ms: float
    end_ms: float


class Heard(msgspec.Struct, frozen=True):
    """How much of one item the caller heard."""

    item: Item
    heard_ms: float

    @property
    def whole(self) -> bool:
        return self.item.closed and self.heard_ms >= self.item.received_ms - _CERTAIN_MS


class Playout(msgspec.Struct):
    """State of the ledger; every field is plain data, so that a snapshot is its encoding."""

    lead_ms: float
    slice_ms: float
    bytes_per_ms: float = 8.0
    sample_bytes: int = 1
    can_clear: bool = True
    reckoning: Reckoning = msgspec.field(default_factory=Reckoning)
    open: bool = False  # a stream is there to play to
    items: dict[str, Item] = {}  # insertion order is playing order
    queue: list[_Piece] = []
    queued_ms: float = 0.0
    slices: list[_Slice] = []
    response_id: str = ""  # the response heard from last, and how much it has said
    response_ms: float = 0.0

    @property
    def epoch(self) -> int:
        return self.reckoning.epoch

    # ------------------------------------------------------------ what comes in

    def receive(self, item_id: str, response_id: str, content_index: int, audio: bytes) -> bool:
        """Audio of an item arrives from the model. False: there is more of it than a call can use; it is dropped."""
        if response_id != self.response_id:
            self.response_id, self.response_ms = response_id, 0.0
        ms = len(audio) / self.bytes_per_ms
        self.response_ms += ms
        if self.response_ms > _LONGEST_RESPONSE_MS or self.queued_ms > _MOST_WAITING_MS:
            return False
        item = self.items.get(item_id)
        if item is None:
            if len(self.items) >= _MOST_ITEMS:
                return False
            item = self.items[item_id] = Item(item_id, response_id, content_index)
        item.received_ms += ms
        self._enqueue(item_id, audio)
        return True

    def receive_clip(self, audio: bytes) -> None:
        """A clip of ours takes its place in the queue; it belongs to no item."""
        self._enqueue("", audio)

    def _enqueue(self, item_id: str, audio: bytes) -> None:
        if not audio:
            return
        self.queued_ms += len(audio) / self.bytes_per_ms
        last = self.queue[-1] if self.queue else None
        if last is not None and last.item_id == item_id and len(last.audio) < self.slice_ms * self.bytes_per_ms:
            last.audio += audio
        else:
            self.queue.append(_Piece(item_id, audio))

    def close_item(self, item_id: str) -> None:
        item = self.items.get(item_id)
        if item is not None:
            item.closed = True

    def close_response(self, response_id: str) -> None:
        for item in self.items.values():
            if item.response_id == response_id:
                item.closed = True

    def disown(self) -> None:
        """The session these items belong to is gone: they play out, and are never truncated. Another session's items
        may have the same ids: no service sends a NUL.
        """
        for item in self.items.values():
            item.foreign = item.closed = True
        self.items = {f"{name}\0": item for name, item in self.items.items()}
        self.response_id, self.response_ms = "", 0.0
        for piece in self.queue:
            piece.item_id = piece.item_id and f"{piece.item_id}\0"
        for one in self.slices:
            one.item_id = one.item_id and f"{one.item_id}\0"

    # ------------------------------------------------------------ what goes out

    def release(self, now: float, out: list[Action], *, quiet_ms: float = 0.0) -> None:
        """Send slices while less than the lead lies ahead of the ear. Nothing came from the carrier for `quiet_ms`."""
        reckoning = self.reckoning
        if not self.open:
            return
        if reckoning.marks:
            reckoning.doubt(now, quiet_ms)
        elif reckoning.probing and not self.queue:
            self._probe(now, out)
        while self.queue:
            ahead = reckoning.sent_ms - reckoning.ear(now)
            if ahead >= self.lead_ms - _CERTAIN_MS:
                return
            item_id = self.queue[0].item_id
            fresh = reckoning.fresh_ms(now)
            want = self.bytes_in(_FIRST_SLICE_MS if fresh < _FIRST_SLICES_MS else self.slice_ms)
            if ahead > self.lead_ms / 2 and not self._closed(item_id) and self._waiting_bytes(item_id, want) < want:
                return  # more of this item will come in time; do not send crumbs
            if not fresh:
                self._probe(now, out)
            self._send(item_id, self._take(item_id, want), now, out)

    def next_release(self, now: float) -> float | None:
        """When to look again even if no mark returns before: the lead has shrunk by more than marks explain."""
        if not self.open:
            return None
        reckoning = self.reckoning
        if not self.queue:
            if self.slices and not (reckoning.has_marks and reckoning.trusted):
                return max(reckoning.dry_at(), now + _POLL_MS)  # no mark will tell when this was heard
            return self._next_probe(now)
        ahead = reckoning.sent_ms - reckoning.ear(now)
        item_id = self.queue[0].item_id
        want = self.bytes_in(self.slice_ms)
        if not self._closed(item_id) and self._waiting_bytes(item_id, want) < want:
            floor = self.lead_ms / 2
        elif reckoning.has_marks and reckoning.trusted:
            floor = max(self.lead_ms - 1.5 * self.slice_ms, self.lead_ms / 2)
        else:
            floor = self.lead_ms - self.slice_ms / 2
        return now + max(ahead - floor, _POLL_MS)

    def _next_probe(self, now: float) -> float | None:
        reckoning = self.reckoning
        due = reckoning.probe_due() if reckoning.probing else None
        return None if due is None else max(due, reckoning.dry_at(), now + _POLL_MS)

    def _probe(self, now: float, out: list[Action]) -> None:
        """A mark into the empty buffer: it comes back after one round trip."""
        due = self.reckoning.probe_due()
        if due is not None and due <= now and self.reckoning.dry_at() <= now:
            out.append(PlaceMark(self.reckoning.place(now, probe=True)))

    def bytes_in(self, ms: float) -> int:
        """Of whole samples."""
        size = int(ms * self.bytes_per_ms)
        return size - size % self.sample_bytes

    def _closed(self, item_id: str) -> bool:
        item = self.items.get(item_id)
        return item is None or item.closed

    def _waiting_bytes(self, item_id: str, want: int) -> int:
        """Bytes at the head of the queue that belong to the same item; it stops counting at `want`."""
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
                del self.queue[0]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _send(self, item_id: str, audio: bytes, now: float, out: list[Action]) -> None:
        reckoning = self.reckoning
        ms = len(audio) / self.bytes_per_ms
        begin = reckoning.sent_ms
        reckoning.sent(ms, now)
        self.slices.append(_Slice(item_id, audio, begin, reckoning.sent_ms))
        self.queued_ms = max(0.0, self.queued_ms - ms)
        item = self.items.get(item_id)
        if item is not None:
            item.sent_ms += ms
        out.append(PlayAudio(audio, ms, item.item_id if item is not None else ""))
        if reckoning.has_marks:
            out.append(PlaceMark(reckoning.place(now)))

    def mark_returned(self, name: str, now: float) -> bool:
        """A mark came back. False: not one of this epoch, or a repeat; it says nothing."""
        return self.reckoning.returned(name, now)

    # ------------------------------------------------------------ what was heard

    def playing(self, now: float) -> bool:
        """Something sent has, as far as we can know, not been heard yet."""
        return self.reckoning.ear(now) < self.reckoning.sent_ms - _CERTAIN_MS

    def busy(self, now: float) -> bool:
        """Something is waiting to be sent or heard."""
        return bool(self.queue) or self.playing(now)

    def confirmed(self) -> bool:
        """Everything sent has been acknowledged, or could not be because the carrier has no marks."""
        return not self.queue and self.reckoning.confirmed

    def silent_at(self, now: float) -> float:
        """When the caller has heard all that is waiting, if nothing is added; in the past if that is so already."""
        if self.queue:
            return now + self.reckoning.sent_ms - self.reckoning.ear(now) + self.queued_ms
        if self.playing(now):
            return now + self.reckoning.sent_ms - self.reckoning.ear(now)
        return min(now, self.reckoning.dry_at())

    def by_the_clock_at(self) -> float:
        """When the caller would have heard all that is waiting if the carrier had not once stood still."""
        return self.reckoning.dry_at() + self.queued_ms

    def heard(self, now: float) -> list[Heard]:
        """Every item that is not settled yet, in playing order, with what the caller heard of it.

        Where the carrier cannot clear, all that was sent will be heard.
        """
        ear = self.reckoning.ear(now) if self.can_clear else self.reckoning.sent_ms
        unsure = dict.fromkeys(self.items, 0.0)
        for one in self.slices:
            if one.begin_ms < ear and one.item_id in unsure:
                unsure[one.item_id] += min(one.end_ms, ear) - one.begin_ms
        return [Heard(item, min(item.heard_ms + unsure[item_id], item.sent_ms)) for item_id, item in self.items.items()]

    def settle(self, now: float) -> list[Heard]:
        """Forget what was surely heard; return the items heard to their end."""
        reckoning, slices = self.reckoning, self.slices
        if slices:
            sure = reckoning.acknowledged_ms if reckoning.has_marks and reckoning.trusted else reckoning.ear(now)
            count = 0
            for one in slices:
                if one.end_ms > sure + _CERTAIN_MS:
                    break
                count += 1
                item = self.items.get(one.item_id)
                if item is not None:
                    item.heard_ms += one.end_ms - one.begin_ms
            if count:
                del slices[:count]
        done: dict[str, Heard] = {}
        for name, item in self.items.items():
            if not item.closed or item.heard_ms < item.received_ms - _CERTAIN_MS:
                break
            done[name] = Heard(item, item.heard_ms)
        for name in done:
            del self.items[name]
        return list(done.values())

    # ------------------------------------------------------------ ends

    def clear(self) -> None:
        """The carrier's buffer is emptied: a new epoch begins, nothing sent before counts any more."""
        self.reckoning.restart()
        self.slices.clear()
        self.drop()

    def drop(self) -> None:
        """Nothing more of what waits is to be sent; what was sent plays out, if there is any."""
        self.items.clear()
        self.queue.clear()
        self.queued_ms = 0.0

    def withdraw(self, response_id: str) -> list[Item]:
        """A response of which nothing was sent yet is not to be heard. Returns its items, none if it has begun."""
        items = {name: item for name, item in self.items.items() if item.response_id == response_id}
        if any(item.sent_ms >= _CERTAIN_MS for item in items.values()):
            return []
        for name, item in items.items():
            del self.items[name]
            self.queue = [piece for piece in self.queue if piece.item_id != name]
            self.queued_ms = max(0.0, self.queued_ms - item.received_ms)
        return list(items.values())

    def new_stream(self, now: float) -> None:
        """Another media stream is there, in place of the one there was."""
        self.lose_stream(now)
        self.open = True

    def lose_stream(self, now: float) -> None:
        """The media stream is gone: what it had buffered and the caller did not hear waits to be sent again."""
        ear = self.reckoning.surely_heard(now)
        again: list[_Piece] = []
        for one in self.slices:
            item = self.items.get(one.item_id)
            heard = min(max(self.bytes_in(ear - one.begin_ms), 0), len(one.audio))
            rest = one.audio[heard:]
            rest_ms = len(rest) / self.bytes_per_ms
            if item is not None:
                item.heard_ms += heard / self.bytes_per_ms
                item.sent_ms -= rest_ms
            if rest and (item is not None or not one.item_id):
                again.append(_Piece(one.item_id, rest))
                self.queued_ms += rest_ms
        self.queue[:0] = again
        self.slices.clear()
        self.reckoning.new_stream()
        self.open = False


def open_ledger(*, lead_ms: float, slice_ms: float, carrier: CarrierCapabilities) -> Playout:
    return Playout(
        lead_ms=max(min(lead_ms, carrier.max_lead_ms), _SHORTEST_LEAD_MS),
        slice_ms=slice_ms,
        bytes_per_ms=carrier.bytes_per_ms,
        sample_bytes=2 if carrier.encoding == "pcm16" else 1,
        can_clear=carrier.can_clear,
        reckoning=Reckoning(has_marks=carrier.marks),
    )
