"""The audio path against its goals: a table on the terminal, JSON on request, exit status 1 when a "must" is missed.

    python -m tests.bench.audio [--json FILE]

Candidates one would use otherwise are measured in the same run, and CPU is a ratio to audioop in the same run:
microseconds move between machines, ratios hold. Delay includes what a way holds back. "cold" is 300 calls taking
turns.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bridge.audio import g711
from bridge.audio.formats import MULAW_8K, PCM16_24K, AudioFormat
from bridge.audio.path import CallerToModel, ModelToCaller
from bridge.audio.resample import toeplitz
from tests.audio import itu
from tests.audio.measure import (
    WAYS,
    Make,
    Push,
    delay_ms,
    held_back_ms,
    ours,
    pcm16,
    ripple_db,
    speech,
    splatter_db,
    streamed,
    tone,
    wrapped,
)
from tests.audio.speech import utterances_24k
from tests.audio.test_path import BOTH_WAYS, GOLDEN, signal

UP, DOWN = (8000, 24000), (24000, 8000)
VOICE_HZ = range(103, 3400, 50)
EDGE_HZ = range(3403, 3900, 10)
BEYOND_HZ = range(4603, 11900, 50)
NEAR_BEYOND_HZ = range(4103, 4600, 10)
OTHERS = [name for name in WAYS if name != "ours"]


@dataclass
class Row:
    """One line of the table. `must` and `goal` are limits for the number measured; a line without limits informs."""

    what: str
    measured: float | None
    unit: str = ""
    must: float | None = None
    goal: float | None = None
    better: str = "more"  # or less, or exactly
    others: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def within(self, limit: float | None) -> bool | None:
        if limit is None or self.measured is None:
            return None
        match self.better:
            case "more":
                return self.measured >= limit
            case "less":
                return self.measured <= limit
        return self.measured == limit

    @property
    def verdict(self) -> str:
        if self.within(self.must) is False:
            return "MISSED"
        if self.within(self.goal) is False:
            return "must"
        return "goal" if self.goal is not None and self.measured is not None else self.note or "-"


# ---------------------------------------------------------------- quality


def quality() -> list[Row]:
    def rejection(pair: tuple[int, int], *bands: range) -> Callable[[Make], float]:
        return lambda make: min(tone(make, *pair, hz).rejection_db for band in bands for hz in band)

    def ripple(make: Make) -> float:
        return max(ripple_db([tone(make, *pair, hz) for hz in VOICE_HZ]) for pair in (UP, DOWN))

    def edge(make: Make) -> float:
        return min(tone(make, *pair, 3600).gain_db for pair in (UP, DOWN))

    def delay(pair: tuple[int, int], places_hz: range) -> Callable[[Make], float]:
        ends = pcm16(pair[0]), pcm16(pair[1])
        return lambda make: max(delay_ms(make, *pair, hz) for hz in places_hz) + held_back_ms(make, *ends)[0]

    def sinad(pair: tuple[int, int]) -> Callable[[Make], float]:
        return lambda make: tone(make, *pair, 1000).sinad_db

    def wraps(make: Make) -> float:
        return sum(wrapped(make, *pair) for pair in BOTH_WAYS)

    middle, band = range(1000, 1001), range(300, 3401, 100)
    asked: list[tuple[str, str, float, float, str, Callable[[Make], float]]] = [
        ("image rejection 8->24 k, tones 0.1-3.4 kHz", "dB", 60, 80, "more", rejection(UP, VOICE_HZ)),
        ("  same incl. 3.4-3.9 kHz", "dB", 60, 70, "more", rejection(UP, VOICE_HZ, EDGE_HZ)),
        ("alias rejection 24->8 k, tones 4.6-11.9 kHz", "dB", 60, 80, "more", rejection(DOWN, BEYOND_HZ)),
        ("  same from 4.1 kHz", "dB", 60, 70, "more", rejection(DOWN, NEAR_BEYOND_HZ, BEYOND_HZ)),
        ("pass-band ripple 0.1-3.4 kHz, worse direction", "dB", 0.1, 0.01, "less", ripple),
        ("gain at 3.6 kHz, worse direction", "dB", -0.5, -0.05, "more", edge),
        ("delay up at 1 kHz", "ms", 2, 0.3, "less", delay(UP, middle)),
        ("delay down at 1 kHz", "ms", 2, 0.3, "less", delay(DOWN, middle)),
        ("delay up, worst in 0.3-3.4 kHz", "ms", 2, 1, "less", delay(UP, band)),
        ("delay down, worst in 0.3-3.4 kHz", "ms", 2, 1, "less", delay(DOWN, band)),
        ("SINAD up, 1 kHz -10 dBFS", "dB", 60, 85, "more", sinad(UP)),
        ("SINAD down, 1 kHz -10 dBFS", "dB", 80, 85, "more", sinad(DOWN)),
        ("wrapped samples on full-scale squares", "", 0, 0, "exactly", wraps),
        ("zeros in, bytes out that are not silence", "", 0, 0, "exactly", not_silent),
    ]
    rows = []
    for what, unit, must, goal, better, measure in asked:
        found = {name: measure(make) for name, make in WAYS.items()}
        rows.append(Row(what, found.pop("ours"), unit, must, goal, better, found))
    return rows


def not_silent(make: Make) -> int:
    """Bytes that are not the silence code after 200 ms of silence, both directions."""
    wrong = 0
    for source, target in BOTH_WAYS:
        out = streamed(make(source, target), source.silence_for(200), source.bytes_in(20))
        wrong += sum(a != b for a, b in zip(out, target.silence_for(200), strict=False))
    return wrong


def exactness() -> list[Row]:
    every = np.arange(-32768, 32768).astype("<i2").tobytes()
    codes = bytes(range(256))

    def count(got: Any, want: Any) -> int:
        return sum(a == b for a, b in zip(got, want, strict=True))

    def linear(data: bytes) -> list[int]:
        return list(np.frombuffer(data, "<i2").tolist())

    encoded = (
        ("mu-law encode as ITU-T G.191, of 65,536", g711.encode_mulaw(every), itu.mulaw_of),
        ("A-law encode as ITU-T G.191, of 65,536", g711.encode_alaw(every), itu.alaw_of),
    )
    decoded = (
        ("mu-law decode, of 256", g711.decode_mulaw(codes), itu.mulaw_value),
        ("A-law decode, of 256", g711.decode_alaw(codes), itu.alaw_value),
    )
    rows = [
        Row(what, count(got, map(rule, range(-32768, 32768))), "", 65536, 65536, "exactly")
        for what, got, rule in encoded
    ]
    rows += [
        Row(what, count(linear(got), map(rule, range(256))), "", 256, 256, "exactly") for what, got, rule in decoded
    ]
    golden = all(golden_in_chunks(*pair) for pair in BOTH_WAYS) and all(golden_with_threads(n) for n in (1, 2))
    up, frame = CallerToModel(MULAW_8K, PCM16_24K), signal(MULAW_8K, 0.02)
    lengths = {len(up.push(frame)) for _ in range(500)}
    return [
        *rows,
        Row("one golden hash: any chunking, 1 and 2 BLAS threads", float(golden), "", 1, 1, "exactly"),
        Row("160 bytes in, 960 out, every frame", float(lengths == {960}), "", 1, 1, "exactly"),
        Row("held back after a push, up", held_back_bytes(*BOTH_WAYS[0]), "bytes", 0, 0, "less"),
        Row("held back after a push, down (2 samples + 1 byte)", held_back_bytes(*BOTH_WAYS[1]), "bytes", 5, 5, "less"),
    ]


def golden_in_chunks(source: AudioFormat, target: AudioFormat) -> bool:
    data, chance = signal(source, 10), random.Random(4)
    outs = [streamed(ours(source, target), data, size) for size in (1, 7, 160, 161, 4799, 4801, len(data))]
    push, at = ours(source, target), 0
    pieces = []
    while at < len(data):
        size = chance.randint(0, 3000)
        pieces.append(push(data[at : at + size]))
        at += size
    outs.append(b"".join(pieces))
    return {hashlib.sha256(out).hexdigest() for out in outs} == {GOLDEN[source, target]}


def golden_with_threads(threads: int) -> bool:
    program = (
        "import hashlib\n"
        "from tests.audio.test_path import BOTH_WAYS, CallerToModel, signal\n"
        "for s, t in BOTH_WAYS:\n"
        "    print(hashlib.sha256(CallerToModel(s, t).push(signal(s, 10))).hexdigest())\n"
    )
    limits = {key: str(threads) for key in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **limits}, capture_output=True, text=True, check=True
    )
    return ran.stdout.split() == [GOLDEN[pair] for pair in BOTH_WAYS]


def held_back_bytes(source: AudioFormat, target: AudioFormat) -> float:
    """The most input bytes ever waiting, over pushes of many odd sizes."""
    path, went_in, came_out, worst = CallerToModel(source, target), 0, 0, 0.0
    for size in [*range(1, 60), 960, 961, 9599, 9600, 12_345]:
        went_in += size
        came_out += len(path.push(bytes(size)))
        worst = max(worst, went_in - came_out / target.bytes_per_ms * source.bytes_per_ms)
    return round(worst, 6)


# ---------------------------------------------------------------- speech


def spoken_rows() -> list[Row]:
    pesq_row = Row("PESQ-NB 24->8 k mu-law below the ideal filter + mu-law", None, "", 0.05, 0.03, "less")
    stoi_row = Row("STOI, same path", None, "", 0.99, 0.995)
    try:
        utterances = utterances_24k()
        found = {name: speech(make, utterances) for name, make in WAYS.items()}
    except (ImportError, OSError) as error:
        pesq_row.note = stoi_row.note = f"skipped: {error}"
        return [pesq_row, stoi_row]
    pesq_row.measured, stoi_row.measured = found["ours"].below_ideal, found["ours"].stoi
    pesq_row.others = {name: found[name].below_ideal for name in OTHERS}
    stoi_row.others = {name: found[name].stoi for name in OTHERS}
    ideal = Row(f"  PESQ-NB of the ideal filter + mu-law, {len(utterances)} utterances", found["ours"].ideal_pesq)
    return [pesq_row, ideal, stoi_row]


def comfort() -> list[Row]:
    """A cut in the middle of a vowel-like sound, hard and faded."""
    at = np.arange(4800) / 24000
    sound = np.rint(3000 * sum(np.sin(2 * np.pi * hz * at) for hz in (210, 420, 630, 840))).astype("<i2").tobytes()
    hard, faded, known = [], [], []
    for cut in range(2400, 4800, 73):  # at many phases of the sound
        path = ModelToCaller(PCM16_24K, AudioFormat("pcm16", 8000))
        before = path.push(sound[: 2 * cut])
        tail = path.fade_out()
        unheard = path.push(sound[2 * cut :])

        def shown(after: bytes, before: bytes = before) -> float:
            heard = np.frombuffer((before[-1600:] + after + bytes(1600))[:3200], "<i2").astype(np.float64)
            return splatter_db(heard, 8000, 1500)

        hard.append(shown(b""))
        faded.append(shown(tail))
        known.append(shown(path.fade_out(unheard)))
    return [
        Row("splatter of a cut, hard", float(np.mean(hard)), "dB"),
        Row("splatter of a cut, faded over the last sound", float(np.mean(faded)), "dB"),
        Row("splatter of a cut, faded over what would follow", float(np.mean(known)), "dB"),
    ]


# ---------------------------------------------------------------- cost


def voice_bytes(form: AudioFormat, seconds: float) -> bytes:
    """A loudness like speech on the telephone, without any package."""
    at = np.arange(int(form.rate_hz * seconds)) / form.rate_hz
    rng = np.random.default_rng(11)
    sound = sum(np.sin(2 * np.pi * 125 * n * at + n * n) / n for n in range(1, 26)) * np.sin(2 * np.pi * 2 * at) ** 2
    linear = np.rint(3500 * sound + rng.normal(0, 10, len(at))).astype("<i2").tobytes()
    return g711.encode_mulaw(linear) if form.encoding == "mulaw" else linear


def timed(pushes: list[Push], frames: list[bytes], rounds: int) -> float:
    """Best microseconds of a push over the rounds, each push getting its own frames in turn."""
    best = float("inf")
    order = [(push, frames[n % len(frames)]) for n, push in enumerate(pushes)]
    for _ in range(rounds):
        begin = time.perf_counter()
        for push, frame in order:
            push(frame)
        best = min(best, (time.perf_counter() - begin) / len(order))
    return best * 1e6


def cost() -> list[Row]:
    rows = []
    limits = {"up": (7, 2.7), "down": (3, 1.1)}
    for direction, (source, target), delta_ms in (("up", BOTH_WAYS[0], 200), ("down", BOTH_WAYS[1], 200)):
        sound = voice_bytes(source, 4)
        frame, delta = source.bytes_in(20), source.bytes_in(delta_ms)
        frames = [sound[at : at + frame] for at in range(0, len(sound), frame)]
        deltas = [sound[at : at + delta] for at in range(0, len(sound), delta)]
        made = {name: [make(source, target) for _ in range(300)] for name, make in WAYS.items()}
        best = {how: dict.fromkeys(WAYS, float("inf")) for how in ("hot", "cold", "delta")}
        gc.disable()
        for _ in range(12):  # candidates take turns, so that a slow moment of the machine hits all
            for name, pushes in made.items():
                few = 1 if name == "ours" or name == "audioop" else 0
                for how, turn in (
                    ("hot", ([pushes[0]] * 400, frames, 2 + 4 * few)),
                    ("cold", (pushes, frames, 2 + 2 * few)),
                    ("delta", ([pushes[0]] * 100, deltas, 1 + 2 * few)),
                ):
                    best[how][name] = min(best[how][name], timed(*turn))
        gc.enable()
        must, goal = limits[direction]
        for how, words in (("hot", "20 ms"), ("cold", "20 ms, 300 calls"), ("delta", f"{delta_ms} ms")):
            us = best[how]
            ratio = {name: us[name] / us["audioop"] for name in WAYS}
            bounds = (must, goal) if how == "hot" else (None, None)
            rows.append(Row(f"CPU {direction} / audioop, {words}", ratio.pop("ours"), "x", *bounds, "less", ratio))
            rows.append(Row(f"  microseconds {direction}, {words}", us.pop("ours"), "us", others=us))
    return [*rows, *footprint()]


def footprint() -> list[Row]:
    def size(thing: object) -> int:
        """Bytes of an object's own state: what a call adds, not the tables and matrices all calls share."""
        if isinstance(thing, bytes | int | float):
            return sys.getsizeof(thing)
        total = sys.getsizeof(thing)
        for kind in type(thing).__mro__:
            for slot in getattr(kind, "__slots__", ()):
                value = getattr(thing, slot)
                if isinstance(value, bytes) or type(value).__name__ in ("_Resampling", "_Recoding"):
                    total += size(value)
        return total

    up, down = CallerToModel(MULAW_8K, PCM16_24K), ModelToCaller(PCM16_24K, MULAW_8K)
    frame, delta = voice_bytes(MULAW_8K, 0.02), voice_bytes(PCM16_24K, 0.2)

    def minute() -> None:
        for _ in range(3000):
            up.push(frame)
        for _ in range(300):
            down.push(delta)

    minute()
    gc.collect()
    tracemalloc.start()
    minute()
    before = tracemalloc.get_traced_memory()[0]
    minute()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    cpu, own = time.process_time(), time.thread_time()
    minute()
    elsewhere = (time.process_time() - cpu) - (time.thread_time() - own)
    state = size(up) + size(down)
    shared = sum(toeplitz(from_hz=a, to_hz=b).matrix.nbytes for a, b in (UP, DOWN))
    return [
        Row("state per call, both directions", state, "bytes", 8192, 8192, "less", note=f"shared {shared // 1024} KiB"),
        Row("memory grown over a minute of a call", max(0, grown), "bytes", 512, 512, "less"),
        Row("CPU of other threads in that minute (BLAS)", elsewhere * 1000, "ms"),
    ]


def other_rates() -> list[Row]:
    """The same class at the other pairs; bands scale with the lower rate."""
    rows = []
    for low, high in ((8000, 16000), (16000, 24000)):
        scale = low // 8000
        voice = [hz * scale for hz in VOICE_HZ]
        beyond = [hz for hz in (h * scale for h in BEYOND_HZ) if hz < high / 2 - 50]
        up, down = (low, high), (high, low)
        for pair, band in ((up, voice), (down, beyond)):
            found = [tone(ours, *pair, hz) for hz in (voice if pair == up else band)]
            name = f"{pair[0] // 1000}->{pair[1] // 1000} k"
            kind = "image" if pair == up else "alias"
            worst = min((t.rejection_db for t in found), default=float("nan"))
            rows.append(Row(f"{kind} rejection {name}", worst, "dB", 60, 80))
            inner = [tone(ours, *pair, hz) for hz in voice[::4]]
            rows.append(Row(f"  ripple {name}", ripple_db(inner), "dB", 0.1, 0.01, "less"))
            slow = max(delay_ms(ours, *pair, hz * scale) for hz in range(300, 3401, 310))
            rows.append(Row(f"  worst delay {name}", slow, "ms", 2, 1, "less"))
    return rows


# ---------------------------------------------------------------- the table


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}{' ' + unit if unit and unit != 'x' else unit}"
    digits = 4 if abs(value) < 0.1 else 3 if abs(value) < 1 else 2
    return f"{value:.{digits}f}{' ' + unit if unit and unit != 'x' else unit}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.audio", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    wanted = parser.parse_args()
    rows = [*quality(), *exactness(), *spoken_rows(), *comfort(), *cost(), *other_rates()]
    table = Table(title=f"Audio path, Python {sys.version.split()[0]}, numpy {np.__version__}")
    for name in ("", "must", "goal", "measured", "holds", *OTHERS):
        table.add_column(name, justify="left" if not name else "right")
    sign = {"more": ">= ", "less": "<= ", "exactly": ""}
    for row in rows:
        limits = [f"{sign[row.better]}{limit:g}" if limit is not None else "" for limit in (row.must, row.goal)]
        others = [shown(row.others[name], row.unit) if name in row.others else "" for name in OTHERS]
        table.add_row(row.what, *limits, shown(row.measured, row.unit), row.verdict, *others)
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    missed = [row.what.strip() for row in rows if row.verdict == "MISSED"]
    below = [row.what.strip() for row in rows if row.verdict == "must"]
    print("every must holds" if not missed else f"MISSED: {'; '.join(missed)}")
    print("every goal holds" if not missed + below else f"goals missed: {'; '.join(missed + below)}")
    if wanted.json:
        figures = [
            {
                "what": row.what.strip(), "unit": row.unit, "must": row.must, "goal": row.goal, "better": row.better,
                "measured": row.measured, "must_holds": row.within(row.must), "goal_holds": row.within(row.goal),
                "others": row.others, "note": row.note,
            }
            for row in rows
        ]  # fmt: skip
        with open(wanted.json, "w", encoding="utf-8") as file:
            json.dump({"python": sys.version, "numpy": np.__version__, "rows": figures}, file, indent=1)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
