"""Calls per core: `python -m tests.bench.calls`.

The real service in a process of its own on one core, callers and a model service in another on another core, more
calls with every step. Per step: CPU of the service per second of call, added latency (caller frame in -> append out;
first delta of an answer in -> first media out; speech_started -> clear), how late the service's loop was, its memory
per call, what was lost, and how late and busy the load itself was. Latency counts from the frame that completes an
append, so that batching (--uplink-ms) is not taken for slowness.

The verdict is `ok` when every p99 is below 20 ms and nothing was lost. With several sockets (--upstream lean,aiohttp)
each step is run with each of them in turn, --repeat times, and a second table compares their medians.

On a machine that does other work as well, `chrt -r 5` before the command (as root) keeps that out of the latencies;
CPU still rises with what the others leave in the caches, so compare within one run.

    python -m tests.bench.calls --calls 10,50,100,200
    python -m tests.bench.calls --calls 100 --upstream lean,sansio,websockets,aiohttp,picows --repeat 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.load.figures import Figures, Spread, cpu_s, rss_mb
from tests.bench.load.serve import Heard
from tests.bench.upstream import has_picows

PUBLIC_URL = "https://bridge.example.test"
TOKEN = "bench-signing-secret"
LIMIT_MS = 20.0
WARM_S = 5.0
START_S = 20.0

AGENT = """
instructions: bench
greeting: ""
idle: {{prompt_after_s: 0, hang_up_after_s: 0}}
transcription: "off"
audio: {audio}
uplink_frame_ms: {uplink_ms}
"""


@dataclass
class Step:
    """One number of calls with one socket."""

    upstream: str
    calls: int
    figures: Figures
    cpu_ms: float  # of the service, per second of call
    setup_cpu_ms: float  # per call
    base_mb: float
    call_kib: float
    heard: Heard | None  # by the stethoscope inside the service, where there is one

    @property
    def lag(self) -> Spread | None:
        """Of the service's loop; where nobody listens inside, the round trip of GET /healthz."""
        return self.heard.lag if self.heard is not None else self.figures.probe

    @property
    def holds(self) -> bool:
        parts = (self.figures.uplink, self.figures.first, self.figures.clear)
        return not self.figures.lost and all(part is None or part.p99 < LIMIT_MS for part in parts)


class Child:
    """A process that speaks in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *command: str, env: dict[str, str] | None = None) -> Child:
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(sys.executable, *command, env=env, stdin=pipe, stdout=pipe))

    async def hear(self, within_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the bench ended with {await self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def stop(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), 8)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


class Bench:
    def __init__(self, given: argparse.Namespace, console: Console) -> None:
        self._given = given
        self._console = console
        cores = sorted(os.sched_getaffinity(0))
        self._service_cores = (given.pin or cores[:1]) if len(cores) > 1 else []
        self._load_cores = [core for core in cores if core not in self._service_cores][-1:] if len(cores) > 1 else []

    async def step(self, upstream: str, calls: int) -> Step:
        """A fresh service, a fresh load."""
        given, listen, port = self._given, free_port(), free_port()
        with tempfile.TemporaryDirectory() as folder:
            agents = Path(folder) / "agents"
            agents.mkdir()
            text = AGENT.format(audio=given.mode, uplink_ms=given.uplink_ms)
            (agents / "front-desk.yaml").write_text(text, encoding="utf-8")
            env = os.environ | {
                "BRIDGE_CONFIG": folder,
                "BRIDGE_PORT": str(port),
                "BRIDGE_PUBLIC_URL": PUBLIC_URL,
                "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN,
                "BRIDGE_REALTIME__PROFILE": "openai",
                "BRIDGE_REALTIME__API_KEY": "none",
                "BRIDGE_REALTIME__URL": f"ws://127.0.0.1:{listen}/v1/realtime",
                "BRIDGE_LIMITS__MAX_CALLS": "5000",
                "BRIDGE_LIMITS__PRE_START_PER_IP": "5000",
                "BRIDGE_LOG__LEVEL": "error",
            }
            service = await self._start_service(upstream, port, env)
            try:
                return await self._load(service, upstream, calls, port, listen)
            finally:
                await service.stop()

    async def _start_service(self, upstream: str, port: int, env: dict[str, str]) -> Child:
        cpu = [word for core in self._service_cores for word in ("--cpu", str(core))]
        if self._given.workers == 1:
            options = ("--upstream", upstream, "--loop", self._given.loop, "--nice", str(self._given.nice))
            service = await Child.start("-m", "tests.bench.load.serve", *options, *cpu, env=env)
            await service.hear(START_S)
            return service
        command = ("-m", "bridge", "serve", "--workers", str(self._given.workers), "--loop", self._given.loop)
        service = await Child.start(*command, env=env)
        if self._service_cores:
            os.sched_setaffinity(service.process.pid, self._service_cores)
        os.setpriority(os.PRIO_PROCESS, service.process.pid, os.getpriority(os.PRIO_PROCESS, 0) + self._given.nice)
        try:
            await _listening(port)
        except TimeoutError:
            await service.stop()
            raise
        return service

    async def _load(self, service: Child, upstream: str, calls: int, port: int, listen: int) -> Step:
        given, pid = self._given, service.process.pid
        inside = given.workers == 1
        await asyncio.sleep(0.3)
        base_mb, cpu_at_start = rss_mb(pid), cpu_s(pid)
        load = await Child.start(
            "-m",
            "tests.bench.load.generator",
            *("--port", str(port), "--listen", str(listen), "--public-url", PUBLIC_URL, "--token", TOKEN),
            *("--calls", str(calls), "--warm", str(given.warm), "--seconds", str(given.seconds)),
            *("--nice", str(given.nice)),
            *(() if inside else ("--probe",)),
            *[word for core in self._load_cores for word in ("--cpu", str(core))],
        )
        setup_s = cpu_began = cpu_ended = rss = 0.0
        heard = None
        try:
            while True:
                said = await load.hear(given.warm + given.seconds + 30)
                match said["event"]:
                    case "placed":
                        self._console.print(f"  {upstream}: {said['calls']} calls placed", style="dim")
                    case "up":
                        setup_s = cpu_s(pid) - cpu_at_start
                    case "begin":
                        cpu_began = cpu_s(pid)
                        if inside:
                            service.tell("begin")
                    case "end":
                        cpu_ended, rss = cpu_s(pid), rss_mb(pid)
                        if inside:
                            service.tell("end")
                            heard = msgspec.convert(await service.hear(5), Heard)
                    case "figures":
                        figures = msgspec.convert(said["figures"], Figures)
                        break
        finally:
            await load.stop()
        return Step(
            upstream=upstream,
            calls=calls,
            figures=figures,
            cpu_ms=(cpu_ended - cpu_began) / figures.window_s / calls * 1000,
            setup_cpu_ms=setup_s / calls * 1000,
            base_mb=base_mb,
            call_kib=(rss - base_mb) / calls * 1024,
            heard=heard,
        )


async def _listening(port: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- tables


def pair(part: Spread | None) -> str:
    return "-" if part is None else f"{part.p50:.1f} / {part.p99:.1f}"


def table_of(steps: list[Step], title: str, *, inside: bool) -> Table:
    table = Table(title=title, header_style="bold")
    lag = "loop lag p99.9" if inside else "healthz p99.9"
    measured = ("CPU ms per call-s", "setup CPU ms", "frame->append", "delta->media", "speech->clear", lag)
    of_load = ("lost", "load: CPU", "late p99", "")
    for name in ("upstream", "calls", *measured, "longest gc", "MB + KiB per call", *of_load):
        table.add_column(name, justify="right")
    for step in steps:
        found, heard = step.figures, step.heard
        table.add_row(
            step.upstream,
            str(step.calls),
            f"{step.cpu_ms:.2f}",
            f"{step.setup_cpu_ms:.1f}",
            pair(found.uplink),
            pair(found.first),
            pair(found.clear),
            "-" if step.lag is None else f"{step.lag.p999:.1f}",
            "-" if heard is None or heard.gc_pause is None else f"{heard.gc_pause.worst:.1f}",
            f"{step.base_mb:.0f} + {step.call_kib:.0f}",
            ", ".join(f"{count} {what}" for what, count in found.lost.items()) or "nothing",
            f"{found.own_cpu:.0%}",
            "-" if found.late is None else f"{found.late.p99:.1f}",
            "ok" if step.holds else "MISSED",
        )
    return table


def comparison(steps: list[Step]) -> Table:
    """Medians of CPU per call-second, beside those of the socket that was named first."""
    table = Table(title="sockets to the model service, CPU ms per call-second (median, runs)", header_style="bold")
    for name in ("upstream", "calls", "median", "runs", "of the first"):
        table.add_column(name, justify="right")
    first: dict[int, float] = {}
    for upstream, calls in dict.fromkeys((step.upstream, step.calls) for step in steps):
        runs = [step.cpu_ms for step in steps if (step.upstream, step.calls) == (upstream, calls)]
        middle = median(runs)
        first.setdefault(calls, middle)
        each = " ".join(f"{run:.2f}" for run in runs)
        table.add_row(upstream, str(calls), f"{middle:.2f}", each, f"{middle / first[calls]:.0%}")
    return table


async def main(given: argparse.Namespace) -> int:
    console = Console(width=180)
    bench = Bench(given, console)
    steps: list[Step] = []
    for round_number in range(given.repeat):
        for calls in given.calls:
            for upstream in given.upstream:
                console.print(f"{upstream}, {calls} calls, round {round_number + 1} of {given.repeat}", style="dim")
                step = await bench.step(upstream, calls)
                steps.append(step)
                verdict = "ok" if step.holds else "MISSED"
                console.print(
                    f"  {step.cpu_ms:.2f} ms per call-second, {pair(step.figures.uplink)} ms uplink: {verdict}"
                )
    batch = "" if given.uplink_ms == 20 else f", {given.uplink_ms} ms per append"
    title = f"{given.mode}{batch}, {given.workers} worker(s), {given.seconds:g} s; latency p50 / p99 in ms"
    console.print(table_of(steps, title, inside=given.workers == 1))
    if len(given.upstream) > 1 or given.repeat > 1:
        console.print(comparison(steps))
    if given.json:
        rows = msgspec.json.encode([vars(step) | {"ok": step.holds} for step in steps])
        await asyncio.to_thread(Path(given.json).write_bytes, rows)
    return int(not all(step.holds for step in steps))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    known = ("lean", "sansio", "websockets", "aiohttp", "picows")
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        if name == "picows" and not has_picows():
            raise argparse.ArgumentTypeError("picows is not installed: pip install picows")
    return names


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=_numbers, default=[10, 50, 100, 200], help="steps, separated by commas")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a step's window")
    parser.add_argument("--warm", type=float, default=WARM_S, help="seconds of talking before it")
    parser.add_argument("--mode", choices=("pcm16", "pcmu"), default="pcm16", help="transcoded, or passed through")
    parser.add_argument("--uplink-ms", type=int, choices=(20, 40, 60), default=20, help="caller audio per append")
    parser.add_argument(
        "--workers", type=int, default=1, help="more than one: `serve --workers`, observed from outside"
    )
    parser.add_argument("--upstream", type=_names, default=["lean"], help="sockets to the model service, by commas")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the comparison takes medians")
    parser.add_argument(
        "--loop", choices=("auto", "uvloop", "asyncio"), default="auto", help="the service's event loop"
    )
    parser.add_argument(
        "--pin", type=_numbers, help="the service's cores (the first); the load takes the last other one"
    )
    parser.add_argument("--nice", type=int, default=0, help="of service and load; below 0 needs privileges")
    parser.add_argument("--json", help="also write all figures to this file")
    given = parser.parse_args(words)
    if given.workers > 1 and given.upstream != ["lean"]:
        parser.error("worker processes dial as they always do: leave --upstream out")
    return given


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(arguments())))
