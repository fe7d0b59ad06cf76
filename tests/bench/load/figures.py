"""What a load measured, and what the machine says about a process."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")


class Spread(msgspec.Struct, frozen=True):
    """Milliseconds."""

    count: int
    p50: float
    p99: float
    p999: float
    worst: float


def spread(values: Iterable[float]) -> Spread | None:
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return Spread(len(ordered), at(0.5), at(0.99), at(0.999), round(ordered[-1], 3))


class Tally:
    """Everything that is counted while the window is open. Times in milliseconds."""

    def __init__(self) -> None:
        self.counting = False
        self.uplink = array("d")  # caller frame out -> its audio inside an append
        self.first = array("d")  # first delta of an answer out -> first media of it in
        self.clear = array("d")  # speech_started out -> clear in
        self.late = array("d")  # our own frames, behind their schedule
        self.probe = array("d")  # GET /healthz, there and back
        self.frames = 0
        self.appends = 0
        self.media = 0
        self.deltas = 0
        self.marks = 0
        self.barge_ins = 0
        self.truncates = 0
        self.lost: dict[str, int] = dict.fromkeys(
            (
                "uplink broken",  # a burst was not where it belongs: audio missing, doubled or shifted
                "uplink missing",  # bursts that never came
                "downlink broken",
                "answers incomplete",
                "no clear",
                "stale media",  # audio of an answer after its clear
                "disconnects",
                "unreadable",
            ),
            0,
        )

    def loses(self, what: str, count: int = 1) -> None:
        if self.counting:
            self.lost[what] += count


class Figures(msgspec.Struct):
    """One step of a load as the generator saw it."""

    calls: int
    window_s: float
    uplink: Spread | None
    first: Spread | None
    clear: Spread | None
    late: Spread | None
    probe: Spread | None
    own_cpu: float  # cores
    frames: int
    appends: int
    media: int
    deltas: int
    marks: int
    barge_ins: int
    truncates: int
    lost: dict[str, int]


def figures(tally: Tally, *, calls: int, window_s: float, own_cpu: float) -> Figures:
    return Figures(
        calls=calls,
        window_s=round(window_s, 2),
        uplink=spread(tally.uplink),
        first=spread(tally.first),
        clear=spread(tally.clear),
        late=spread(tally.late),
        probe=spread(tally.probe),
        own_cpu=round(own_cpu, 3),
        frames=tally.frames,
        appends=tally.appends,
        media=tally.media,
        deltas=tally.deltas,
        marks=tally.marks,
        barge_ins=tally.barge_ins,
        truncates=tally.truncates,
        lost={what: count for what, count in tally.lost.items() if count},
    )


# ---------------------------------------------------------------- processes (Linux)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                left += map(int, task.read_text().split())
            except OSError:
                continue  # it ended while we looked
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its living descendants."""
    total = 0
    for one in family(pid):
        try:
            stat = Path(f"/proc/{one}/stat").read_text()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    total = 0
    for one in family(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return total / 1024
