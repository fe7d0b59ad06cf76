"""What went on inside a rehearsed call, beside what the simulated carrier really played.

A `Watch` is an observer of one driver. Its account of which item each piece of audio belonged to, laid over the
carrier's exact playout, says what the caller had heard of an item when a clear arrived: the truth that `audio_end_ms`
is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.live.driver import Driver
from bridge.sim.leg import Leg
from bridge.sim.playout import SAMPLES_PER_MS


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the call; `at_ms` is the call's own time."""

    at_ms: float
    event: ev.Event
    actions: Sequence[do.Action]


@dataclass(frozen=True, slots=True)
class Cut:
    """One item the caller interrupted: what we told the model, and what had been played when the clear arrived."""

    at_ms: float
    item_id: str
    told_ms: float  # 0 for an item that was deleted
    truth_ms: float
    received_ms: float

    @property
    def error_ms(self) -> float:
        return self.told_ms - self.truth_ms


@dataclass(frozen=True, slots=True)
class _Told:
    at_ms: float
    clear: int  # which clear of the call it belongs to; -1: none was needed
    item_id: str
    told_ms: float
    pieces: int  # sent to the carrier until then


@dataclass(frozen=True, slots=True)
class _Piece:
    """Audio sent to the carrier: its place in its stream, in bytes."""

    stream_id: str
    begin: int
    end: int
    item_id: str


class Watch:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._began_ms: float | None = None  # the loop's clock when the call's own was zero
        self.steps: list[Step] = []
        self._pieces: list[_Piece] = []
        self._stream_id = ""  # empty while there is none
        self._sent = 0  # bytes, on this stream
        self._clears = 0
        self._told: list[_Told] = []
        self._received: dict[str, float] = {}

    def __call__(self, at_ms: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        """The observer itself. Runs after the requests were performed."""
        if self._began_ms is None:
            self._began_ms = self.driver.now - at_ms
        self.steps.append(Step(at_ms, event, actions))
        if isinstance(event, ev.ModelSpoke):
            self._received[event.item_id] = self._received.get(event.item_id, 0.0) + event.ms
        elif isinstance(event, ev.CallerLeft):
            self._stream_id = ""
        elif isinstance(event, ev.StreamStarted) and event.stream_id != self._stream_id:
            self._stream_id, self._sent = event.stream_id, 0
        self._note_pieces(actions)
        cleared = -1
        for action in actions:
            if isinstance(action, do.ClearPlayback) and self._stream_id:
                cleared, self._clears = self._clears, self._clears + 1
            elif isinstance(action, do.TruncateItem):
                self._told.append(_Told(at_ms, cleared, action.item_id, action.audio_end_ms, len(self._pieces)))
            elif isinstance(action, do.DeleteItem):
                self._told.append(_Told(at_ms, cleared, action.item_id, 0.0, len(self._pieces)))

    def began_ms(self, leg: Leg) -> float:
        """The call's own time zero on the leg's clock."""
        return 0.0 if self._began_ms is None else self._began_ms - leg.clock.began * 1000

    def story(self) -> list[tuple[float, str]]:
        """Every decision as a line of text, audio as its length; the marks and slices of one decision are counted."""
        lines = []
        for step in self.steps:
            asked = _asked(step.actions)
            if asked or not isinstance(step.event, ev.MarkReturned | ev.DeadlineReached):
                lines.append((step.at_ms, f"{_shown(step.event)}{' -> ' if asked else ''}{', '.join(asked)}"))
        return lines

    def _note_pieces(self, actions: Sequence[do.Action]) -> None:
        for action in actions:
            if isinstance(action, do.PlayAudio):
                end = self._sent + len(action.audio)
                self._pieces.append(_Piece(self._stream_id, self._sent, end, action.item_id))
                self._sent = end

    def played(self, item_id: str, leg: Leg) -> list[tuple[float, float]]:
        """When the carrier played the pieces of an item: (from, to) in milliseconds of the call."""
        media = {(one.stream_id, chunk.position): chunk for one in leg.streams for chunk in one.playout.chunks}
        spans = []
        for piece in self._pieces:
            chunk = media.get((piece.stream_id, piece.begin))
            if piece.item_id == item_id and chunk is not None and chunk.played:
                spans.append((chunk.plays_from / SAMPLES_PER_MS, (chunk.plays_from + chunk.played) / SAMPLES_PER_MS))
        return spans

    def cuts(self, leg: Leg) -> list[Cut]:
        """Every interruption, with the truth of the carrier. For a carrier of 8 kHz mu-law."""
        clears = leg.clears
        playouts = {stream.stream_id: stream.playout for stream in leg.streams}
        cuts = []
        for told in self._told:
            # a clear that never reached the carrier took nothing away: what was played was heard
            arrived = 0 <= told.clear < len(clears)
            at = clears[told.clear].at if arrived else leg.clock.samples()
            heard = sum(
                playouts[piece.stream_id].heard_of(piece.begin, piece.end, at)
                for piece in self._pieces[: told.pieces]
                if piece.item_id == told.item_id and piece.stream_id in playouts
            )
            received_ms = self._received.get(told.item_id, 0.0)
            cuts.append(Cut(told.at_ms, told.item_id, told.told_ms, heard / SAMPLES_PER_MS, received_ms))
        return cuts


def _asked(actions: Sequence[do.Action]) -> list[str]:
    played_ms = sum(action.ms for action in actions if isinstance(action, do.PlayAudio))
    shown = [f"PlayAudio {played_ms:g} ms"] if played_ms else []
    return shown + [_shown(action) for action in actions if not isinstance(action, do.PlayAudio | do.PlaceMark)]


def _shown(thing: ev.Event | do.Action) -> str:
    """Its name and fields; audio as a length, ids of ours that chance made left out."""
    fields = []
    for name, value in msgspec.structs.asdict(thing).items():
        if isinstance(value, bytes):
            fields.append(f"{len(value)} bytes")
        elif name == "stream_id":
            continue
        elif isinstance(value, float):
            fields.append(f"{value:g}")
        elif value not in ("", None, (), False):
            fields.append(str(value))
    return " ".join([type(thing).__name__, *fields])
