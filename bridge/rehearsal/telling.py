"""A rehearsed call told afterwards: as a table, a sound file, a picture, and data.

Everything is derived from two accounts: the simulated carrier's (what was said and really played, to the sample) and
the observer's (what the call decided and why).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.audio import g711
from bridge.audio.wav import write_wav
from bridge.call.transcript import Entry
from bridge.errors import EndReason
from bridge.rehearsal.keeping import kept
from bridge.rehearsal.watch import Cut, Watch
from bridge.sim.leg import Leg, loud_blocks
from bridge.sim.picture import Sign, Turn, draw
from bridge.sim.sounds import loud_ms

RATE_HZ: Final = 8000
_MS: Final = 8  # samples
_PAUSE_MS: Final = 90.0
_ROUNDING_MS: Final = 1.0


@dataclass
class Result:
    """One call that is over."""

    leg: Leg
    watch: Watch
    reason: EndReason

    @property
    def entries(self) -> list[Entry]:
        return self.watch.driver.call.state.transcript.entries

    @cached_property
    def cuts(self) -> list[Cut]:
        return self.watch.cuts(self.leg)

    @cached_property
    def onsets(self) -> list[float]:
        """When the agent's voice was heard, every 10 ms of it."""
        return [start / _MS for chunk in self.leg.media for start, _ in loud_blocks(chunk)]

    def played_ms(self, entry: Entry) -> float:
        """How much of an item the carrier really played."""
        return sum(stop - start for start, stop in self.watch.played(entry.item_id, self.leg))

    def as_heard(self, entry: Entry) -> Entry:
        """The agent's entry with what the carrier really played of it, in place of what the service reckons."""
        played_ms = min(self.played_ms(entry), entry.received_ms)
        cut = entry.cut or played_ms < entry.received_ms - _ROUNDING_MS
        return msgspec.structs.replace(entry, heard_ms=played_ms, cut=cut)

    def answer_ms(self, after_ms: float) -> float | None:
        """From the end of the caller's words to the first sound after a pause of the agent."""
        for sound in self.onsets:
            if sound > after_ms + 60 and not self._sounds(sound - _PAUSE_MS - 10):
                return sound - after_ms
        return None

    def _sounds(self, at_ms: float) -> bool:
        return any(at_ms <= sound < at_ms + _PAUSE_MS for sound in self.onsets)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the conversation."""

    who: str
    at_ms: float
    said: str
    heard: str  # the caller's words as the model understood them; the agent's as far as the caller heard them
    latency_ms: float | None = None  # from the end of the caller's words to the first sound of the answer
    cut: Cut | None = None


def rows(result: Result) -> list[Row]:
    """The conversation in its order."""
    cuts = {cut.item_id: cut for cut in result.cuts}
    spoken = iter(result.leg.line.spoken)
    rows: list[Row] = []
    for entry in result.entries:
        match entry.role:
            case "caller":
                words = next(spoken, None)
                if words is None:
                    rows.append(Row("caller", entry.at_ms, entry.text, entry.text))
                else:
                    latency_ms = result.answer_ms(words.stop / _MS)
                    rows.append(Row("caller", words.start / _MS, words.label, entry.text, latency_ms))
            case "agent" if entry.text:
                heard = result.as_heard(entry).heard_text
                rows.append(Row("agent", entry.at_ms, entry.text, heard, cut=cuts.get(entry.item_id)))
            case "tool":
                rows.append(Row("tool", entry.at_ms, f"{entry.tool_name} {entry.tool_arguments}", entry.text))
    return rows


def spoken_ms(leg: Leg) -> float:
    """How much of the agent's sound reached the caller."""
    return sum(stretch.stop_ms - stretch.start_ms for stretch in loud_ms(_pcm(leg.heard_track())))


def show(result: Result, console: Console) -> None:
    """The conversation as a table."""
    table = Table(title="The call", header_style="bold", expand=False)
    for column, style in (("at", "dim"), ("who", "bold"), ("said", ""), ("heard", ""), ("latency", "")):
        table.add_column(column, style=style, justify="right" if column in ("at", "latency") else "left")
    for row in rows(result):
        heard = Text(row.heard or "(not transcribed)")
        if row.cut is not None:
            heard.append(" | ", "yellow")
            heard.append(f"interrupted: told {row.cut.told_ms:.0f} ms, heard {row.cut.truth_ms:.0f} ms", "dim")
        latency = "" if row.latency_ms is None else f"{row.latency_ms:.0f} ms"
        table.add_row(f"{row.at_ms / 1000:.1f} s", row.who, Text(row.said), heard, latency)
    console.print(table)
    console.print(f"The call ended after {result.leg.now_ms / 1000:.1f} s: {result.reason.value}.", highlight=False)


def write(result: Result, folder: Path, *, faults: list[str]) -> None:
    """call.json, call.svg and call.wav (caller left, agent right) in `folder`: the smallest first, where room is short.
    Raises UsageError for the first that cannot be written.
    """
    said, heard = _pcm(result.leg.said_track()), _pcm(result.leg.heard_track())
    with kept(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with kept(data := folder / "call.json"):
        data.write_bytes(msgspec.json.format(msgspec.json.encode(as_data(result, faults)), indent=1))
    with kept(drawing := folder / "call.svg"):
        drawing.write_text(picture(result, said, heard), encoding="utf-8")
    with kept(sound := folder / "call.wav"):
        write_wav(sound, RATE_HZ, np.column_stack([said, heard]).astype("<i2").tobytes(), channels=2)


def picture(result: Result, said: npt.NDArray[np.int16], heard: npt.NDArray[np.int16]) -> str:
    """The call as an SVG timeline."""
    leg, watch = result.leg, result.watch
    turns = [Turn("caller", s.start / _MS, s.stop / _MS, s.label) for s in leg.line.spoken]
    signs = [Sign(cleared.at / _MS, "clear") for cleared in leg.clears]
    signs += [Sign(moment.at_ms, "mark") for moment in leg.timeline.of("mark", "carrier")]
    for entry in result.entries:
        if entry.role == "tool":
            signs.append(Sign(entry.at_ms, "tool", entry.tool_name))
        if entry.role != "agent" or not (played := watch.played(entry.item_id, leg)):
            continue
        truth = result.as_heard(entry)
        unheard_ms = truth.received_ms - truth.heard_ms if truth.cut else 0.0
        unheard = truth.text[len(truth.heard_text) :].strip() if truth.cut else ""
        turns.append(Turn("agent", played[0][0], played[-1][1], truth.heard_text, unheard_ms, unheard))
    for cut in result.cuts:
        signs.append(Sign(cut.at_ms, "barge_in", f"told {cut.told_ms:.0f} ms, heard {cut.truth_ms:.0f} ms"))
    plan = watch.driver.plan
    return draw(
        said,
        heard,
        turns=turns,
        signs=signs,
        title=f"A call to {plan.called}, answered by {plan.agent.name}",
        subtitle=f"{leg.now_ms / 1000:.1f} s, ended: {result.reason.value.replace('_', ' ')}",
    )


def as_data(result: Result, faults: list[str]) -> dict[str, object]:
    plan = result.watch.driver.plan
    return {
        "call_id": plan.call_id,
        "agent": plan.agent.name,
        "ended": result.reason.value,
        "success": not faults,
        "faults": faults,
        "turns": [
            {
                "who": row.who,
                "at_ms": round(row.at_ms, 1),
                "said": row.said,
                "heard": row.heard,
                "latency_ms": None if row.latency_ms is None else round(row.latency_ms, 1),
            }
            for row in rows(result)
        ],
        "interruptions": [
            {
                "at_ms": round(cut.at_ms, 1),
                "item_id": cut.item_id,
                "told_ms": cut.told_ms,
                "heard_ms": round(cut.truth_ms, 1),
                "error_ms": round(cut.error_ms, 1),
            }
            for cut in result.cuts
        ],
    }


def _pcm(mulaw: bytes) -> npt.NDArray[np.int16]:
    return np.frombuffer(g711.decode_mulaw(mulaw), "<i2")
