"""How exactly the model is told what the caller heard: `python -m tests.bench.barge_in`.

The real service in a process of its own; here a model that speaks five times faster than real time in 200 ms deltas and
interrupts at random moments, and the simulated carrier, which knows to the sample what was played when each clear
arrived. For every setting of the network the table gives the error of `audio_end_ms` against that truth, and beside it
what the published formulas of other bridges give on the same calls:

    sent        milliseconds of audio received from the model so far ("everything sent was heard")
    clock       time since the first delta of the response, for its last item
    last mark   acknowledged marks, one per delta
    mark + 50   the last acknowledged mark plus 50 ms

`latency` is one way, each way. "ours to wire" is speech_started leaving the model to clear
reaching the carrier, less the way there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pybase64
from aiohttp import WSMsgType, web
from rich.console import Console
from rich.table import Table

from bridge.sim.caller import Caller
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.sim.network import Network

DELTA_MS = 200
SPEED = 5
MARGIN_MS = 90  # so near to its end an item counts as heard (`truncate_margin_ms`): nothing is truncated
PAUSE_S = 0.55  # how long the caller speaks
PUBLIC_URL = "https://bridge.example.test"
TOKEN = "bench-signing-secret"
SOUND = pybase64.b64encode(
    bytes(range(1, 121)) * 80
).decode()  # 200 ms of PCM16 at 24 kHz, loud enough to be no silence

AGENT = """
instructions: bench
greeting: ""
idle: {prompt_after_s: 0, hang_up_after_s: 0}
transcription: "off"
"""


@dataclass
class Barge:
    """One interruption, as the model saw it."""

    items: list[tuple[str, int]]  # id, milliseconds generated until then
    since_first_delta_ms: float
    asked_at: float  # loop time when speech_started left
    told: dict[str, float] = field(default_factory=dict)  # item id -> audio_end_ms; 0 where it was deleted
    began_at: float = 0.0


@dataclass
class Session:
    """One connection of the bridge."""

    socket: web.WebSocketResponse
    barges: list[Barge] = field(default_factory=list)
    errors: int = 0
    events: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, kind: str, **fields: Any) -> None:
        self.events += 1
        await self.socket.send_str(json.dumps({"type": kind, "event_id": f"event_{self.events}", **fields}))


class Model:
    """A model service that does nothing but speak and be interrupted."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.opened = asyncio.Event()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, max_msg_size=1 << 24)
        await ws.prepare(request)
        session = Session(ws)
        self.sessions.append(session)
        self.opened.set()
        await session.send("session.created", session={"id": f"sess_{len(self.sessions)}", "type": "realtime"})
        async for message in ws:
            if message.type is WSMsgType.TEXT and not message.data.startswith('{"type":"input_audio_buffer.append"'):
                await self._take(session, json.loads(message.data))
        return ws

    async def _take(self, session: Session, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                await session.send("session.updated", session=event["session"])
                session.ready.set()
            case "conversation.item.truncate" if session.barges:
                barge = session.barges[-1]
                length = dict(barge.items).get(event["item_id"], 0)
                if event["audio_end_ms"] > length:
                    session.errors += 1
                barge.told[event["item_id"]] = event["audio_end_ms"]
            case "conversation.item.delete" if session.barges:
                session.barges[-1].told[event["item_id"]] = 0.0


async def converse(session: Session, *, items: int, barges: int, chance: random.Random, tag: str) -> None:
    """Speak, be interrupted at a random moment, again and again."""
    loop = asyncio.get_running_loop()
    for number in range(barges):
        response = f"resp_{tag}_{number}"
        lengths = [DELTA_MS * chance.randint(8, 15) for _ in range(items)]
        cut_ms = chance.uniform(250, sum(lengths) - 150)
        await session.send("response.created", response={"id": response, "status": "in_progress", "output": []})
        began = loop.time()
        done: list[tuple[str, int]] = []
        cut = asyncio.create_task(asyncio.sleep(cut_ms / 1000))
        for index, length in enumerate(lengths):
            item = f"item_{tag}_{number}_{index}"
            done.append((item, 0))
            for position in range(0, length, DELTA_MS):
                if cut.done():
                    break
                await session.send(
                    "response.output_audio.delta",
                    response_id=response,
                    item_id=item,
                    output_index=index,
                    content_index=0,
                    delta=SOUND,
                )
                done[-1] = (item, position + DELTA_MS)
                await asyncio.wait({cut}, timeout=DELTA_MS / SPEED / 1000)
            if not cut.done():
                await session.send(
                    "response.output_audio.done",
                    response_id=response,
                    item_id=item,
                    output_index=index,
                    content_index=0,
                )
        complete = not cut.done()
        if complete:
            await session.send("response.done", response={"id": response, "status": "completed", "output": []})
        await cut
        barge = Barge([entry for entry in done if entry[1]], (loop.time() - began) * 1000, loop.time(), began_at=began)
        session.barges.append(barge)
        await session.send("input_audio_buffer.speech_started", audio_start_ms=0, item_id=f"user_{tag}_{number}")
        if not complete:
            details = {"type": "cancelled", "reason": "turn_detected"}
            await session.send(
                "response.done",
                response={"id": response, "status": "cancelled", "status_details": details, "output": []},
            )
        await asyncio.sleep(PAUSE_S)
        await session.send("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id=f"user_{tag}_{number}")
        await asyncio.sleep(0.05)


def goal_ms(jitter_ms: float) -> float:
    return 40.0 if jitter_ms else 20.0


@dataclass
class Figures:
    """All errors of one setting, in ms."""

    ours: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    mark: list[float] = field(default_factory=list)
    mark50: list[float] = field(default_factory=list)
    wire_ms: list[float] = field(default_factory=list)
    barges: int = 0
    missing: int = 0
    stale: int = 0
    too_long: int = 0
    errors: int = 0


def measure(session: Session, leg: Leg, latency_ms: float, jitter_ms: float, figures: Figures) -> None:
    """Lay what the model was told over what the carrier had played."""
    figures.errors += session.errors
    playout = leg.streams[0].playout
    loop_began = leg.clock.began
    before = 0
    for barge, cleared in zip(session.barges, leg.clears, strict=False):
        figures.barges += 1
        arrived_ms = cleared.at / 8
        figures.wire_ms.append(arrived_ms - (barge.asked_at - loop_began) * 1000 - latency_ms)
        position = before
        last = len(barge.items) - 1
        total_heard = (playout.heard_of(before, cleared.received, cleared.at)) / 8
        for index, (item, generated_ms) in enumerate(barge.items):
            stop = min(position + generated_ms * 8, cleared.received)
            truth = playout.heard_of(position, stop, cleared.at) / 8 if stop > position else 0.0
            position += generated_ms * 8
            told = barge.told.get(item)
            whole = truth >= generated_ms - MARGIN_MS - goal_ms(jitter_ms)
            if told is None and not whole:
                figures.missing += 1
            elif told is not None:
                figures.ours.append(told - truth)
                figures.too_long += told > generated_ms
            if index == last:
                figures.sent.append(generated_ms - truth)
                figures.clock.append(min(barge.since_first_delta_ms, generated_ms) - truth)
            if truth > 0 and not whole:
                back = max(0.0, total_heard - 2 * latency_ms)  # what a returned mark can have told by then
                acknowledged = back // DELTA_MS * DELTA_MS - (total_heard - truth)
                figures.mark.append(max(0.0, acknowledged) - truth)
                figures.mark50.append(min(generated_ms, max(0.0, acknowledged) + 50) - truth)
        before = cleared.received
        # After the last one nobody answers any more: what is heard then is the service's own filler.
        following = next((b.began_at for b in session.barges if b.began_at > barge.asked_at), barge.asked_at + PAUSE_S)
        figures.stale += sum(
            1 for chunk in leg.media if chunk.arrived > cleared.at and loop_began + chunk.arrived / 8000 < following
        )
    figures.missing += max(0, len(session.barges) - len(leg.clears))


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def p95(values: list[float]) -> str:
    return f"{quantile([abs(v) for v in values], 0.95):.0f}" if values else "-"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def one_setting(
    service_url: str,
    model: Model,
    *,
    latency_ms: float,
    jitter_ms: float,
    items: int,
    calls: int,
    barges: int,
    seed: int,
) -> Figures:
    figures = Figures()
    async with Carrier(service_url, public_url=PUBLIC_URL, auth_token=TOKEN) as carrier:
        pairs: list[tuple[Session, Leg]] = []
        for number in range(calls):
            model.opened.clear()
            caller = Caller(network=Network(latency_ms=latency_ms, jitter_ms=jitter_ms, seed=seed + number))
            leg = await carrier.place_call(to="+15550100", from_="+15550199", caller=caller)
            await asyncio.wait_for(model.opened.wait(), 5)
            session = model.sessions[-1]
            await asyncio.wait_for(session.ready.wait(), 5)
            await leg.streaming()
            pairs.append((session, leg))
        await asyncio.sleep(0.7)  # the round trip is known
        chance = random.Random(seed)
        await asyncio.gather(
            *(
                converse(session, items=items, barges=barges, chance=random.Random(chance.random()), tag=str(number))
                for number, (session, _) in enumerate(pairs)
            )
        )
        await asyncio.sleep(0.5 + 4 * latency_ms / 1000)
        for session, leg in pairs:
            measure(session, leg, latency_ms, jitter_ms, figures)
            leg.hang_up()
        await asyncio.sleep(0.3)
    return figures


async def main(arguments: argparse.Namespace) -> int:
    console = Console(width=150)
    model = Model()
    app = web.Application()
    app.router.add_get("/v1/realtime", model.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    model_port = runner.addresses[0][1]
    port = free_port()
    failed = False
    table = Table(title="error of audio_end_ms, |p95| in ms", header_style="bold")
    names = (
        "latency",
        "jitter",
        "items",
        "barge-ins",
        "ours p50",
        "ours p95",
        "worst",
        "sent",
        "clock",
        "last mark",
        "mark + 50",
        "wire p50",
        "wire p99",
        "no truncate",
        "too long",
        "stale",
        "errors",
        "",
    )
    for name in names:
        table.add_column(name, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agents").mkdir()
        (Path(folder) / "agents" / "front-desk.yaml").write_text(AGENT, encoding="utf-8")
        env = os.environ | {
            "BRIDGE_CONFIG": folder,
            "BRIDGE_PORT": str(port),
            "BRIDGE_PUBLIC_URL": PUBLIC_URL,
            "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN,
            "BRIDGE_REALTIME__PROFILE": "openai",
            "BRIDGE_REALTIME__API_KEY": "none",
            "BRIDGE_REALTIME__URL": f"ws://127.0.0.1:{model_port}/v1/realtime",
            "BRIDGE_LOG__LEVEL": "error",
        }
        service = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bridge", "serve", env=env, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.1)
            for latency_ms in arguments.latency:
                for jitter_ms in arguments.jitter:
                    for items in (1, 2):
                        figures = await one_setting(
                            f"http://127.0.0.1:{port}",
                            model,
                            latency_ms=latency_ms,
                            jitter_ms=jitter_ms,
                            items=items,
                            calls=arguments.calls,
                            barges=-(-arguments.barges // arguments.calls),
                            seed=arguments.seed,
                        )
                        goal = goal_ms(jitter_ms)
                        ours = quantile([abs(v) for v in figures.ours], 0.95)
                        good = ours <= goal and not (
                            figures.missing or figures.stale or figures.errors or figures.too_long
                        )
                        failed |= not good
                        table.add_row(
                            f"{latency_ms:.0f}",
                            f"{jitter_ms:.0f}",
                            str(items),
                            str(figures.barges),
                            f"{quantile(figures.ours, 0.5):.1f}",
                            f"{ours:.1f}",
                            f"{max(map(abs, figures.ours), default=0):.0f}",
                            p95(figures.sent),
                            p95(figures.clock),
                            p95(figures.mark),
                            p95(figures.mark50),
                            f"{quantile(figures.wire_ms, 0.5):.1f}",
                            f"{quantile(figures.wire_ms, 0.99):.1f}",
                            str(figures.missing),
                            str(figures.too_long),
                            str(figures.stale),
                            str(figures.errors),
                            "ok" if good else "MISSED",
                        )
                        rows.append({"latency_ms": latency_ms, "jitter_ms": jitter_ms, "items": items, **vars(figures)})
                        console.print(
                            f"latency {latency_ms:.0f}, jitter {jitter_ms:.0f}, {items} items: "
                            f"{figures.barges} barge-ins, p95 {ours:.1f} ms"
                        )
        finally:
            service.terminate()
            await service.wait()
    await runner.cleanup()
    console.print(table)
    if arguments.json:
        await asyncio.to_thread(Path(arguments.json).write_text, json.dumps(rows), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--barges", type=int, default=200, help="interruptions per setting")
    parser.add_argument("--calls", type=int, default=20, help="calls at the same time")
    parser.add_argument("--latency", type=float, nargs="+", default=[0, 60, 150], help="ms, one way each way")
    parser.add_argument("--jitter", type=float, nargs="+", default=[0, 20], help="+- ms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write all figures to this file")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
