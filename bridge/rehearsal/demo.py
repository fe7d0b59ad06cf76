"""The first call: a real spoken call through the whole path, with no key and no network.

Service and model run on free loopback ports, the simulated telephone network calls them, the caller speaks,
interrupts the agent in mid-sentence and says goodbye. Afterwards the conversation is shown as a table and written
down as sound, picture and data. The demo succeeds only if both directions carried what was said and the interruption
was told to the model right within 40 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import structlog
from rich.console import Console
from rich.table import Table

from bridge.audio import g711
from bridge.audio.wav import WavWriter
from bridge.call.transcript import Entry
from bridge.errors import BridgeError, EndReason
from bridge.live.driver import Driver
from bridge.rehearsal.watch import Cut, Watch
from bridge.settings import load, sample
from bridge.sim import picture, voices
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg, loud_blocks
from bridge.web.service import Service

Progress = Callable[[str], object]

PUBLIC_URL: Final = "https://bridge.example.test"
TOKEN: Final = "demo-signing-secret"
LIMIT_S: Final = 60.0
TOLERANCE_MS: Final = 40.0
_RATE: Final = 8000


@dataclass(frozen=True, slots=True)
class Line:
    """One thing the caller says, what it should be understood as, and, for an interruption, how far into the answer."""

    words: str
    understood: str
    into_answer_ms: float | None = None


SPOKEN: Final = (
    Line("What are your opening hours?", "what are your opening hours"),
    Line("Where are you located?", "where are you located", into_answer_ms=3200.0),
    Line("No, that is all, thank you.", "that is all"),
)
# Without the speech extra nothing is recognised: the packaged clips are said, and the model takes its lines in turn.
CLIPS: Final = (
    Line(voices.CLIPS["opening-hours"], ""),
    Line(voices.CLIPS["interruption"], "", into_answer_ms=3200.0),
    Line(voices.CLIPS["goodbye"], ""),
)


@dataclass(slots=True)
class Result:
    """Everything one may want to know of the call."""

    leg: Leg
    watch: Watch
    reason: EndReason
    lines: tuple[Line, ...]
    speaks: bool

    @property
    def entries(self) -> list[Entry]:
        return self.watch.driver.call.state.transcript.entries

    def cuts(self) -> list[Cut]:
        return self.watch.cuts(self.leg)

    def faults(self) -> list[str]:
        """What did not go as it should; empty: the call is a success."""
        faults = []
        heard = [entry.text.lower() for entry in self.entries if entry.role == "caller"]
        if self.speaks:
            faults += [
                f'the model did not understand "{line.words}" (it heard: {"; ".join(heard) or "nothing"})'
                for line in self.lines
                if not any(line.understood in text for text in heard)
            ]
        elif len(heard) < len(self.lines):
            faults.append(f"the model heard {len(heard)} of {len(self.lines)} things the caller said")
        if spoken_ms(self.leg) < 3000:
            faults.append("the caller heard less than three seconds of the agent")
        cuts = [cut for cut in self.cuts() if cut.told_ms > 0]
        if not cuts:
            faults.append("the agent was not interrupted")
        faults += [
            f"the model was told {cut.told_ms:.0f} ms were heard, the caller heard {cut.truth_ms:.0f} ms"
            for cut in cuts
            if abs(cut.error_ms) > TOLERANCE_MS
        ]
        if self.reason not in (EndReason.AGENT_HUNG_UP, EndReason.CALLER_LEFT):
            faults.append(f"the call ended with {self.reason.value}")
        return faults


def spoken_ms(leg: Leg) -> float:
    """How much of the agent's loud sound reached the caller."""
    heard = np.frombuffer(g711.decode_mulaw(leg.heard_track()), "<i2").astype(np.int32)
    blocks = heard[: len(heard) // 80 * 80].reshape(-1, 80)
    return 10.0 * float((np.abs(blocks).mean(axis=1) > 60).sum())


async def demo(folder: Path, console: Console) -> int:
    """Make the call, show it, write it down. The exit code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        async with asyncio.timeout(LIMIT_S):
            with console.status("Starting the service and the model ...") as status:
                result = await make_call(status.update if console.is_terminal else console.print)
    except TimeoutError:
        console.print(f"[red]The call did not end within {LIMIT_S:.0f} seconds.[/]")
        return 1
    show(result, console)
    write(result, folder)
    console.print(f"Written: {folder}/call.wav (caller left, agent right), call.svg (the timeline), call.json")
    faults = result.faults()
    for fault in faults:
        console.print(f"[red]Not as it should be:[/] {fault}", highlight=False, soft_wrap=True)
    if not faults:
        console.print("[green]Both directions carried speech, and the interruption was told right.[/]")
    return 1 if faults else 0


async def make_call(progress: Progress) -> Result:
    """One call from the first webhook to the end."""
    watches: list[Watch] = []
    over: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()

    def observe(driver: Driver) -> Watch:
        watches.append(Watch(driver))
        return watches[-1]

    def ended(driver: Driver, reason: EndReason) -> None:
        if not over.done():
            over.set_result(reason)

    settings = load({}, config=sample(), given={"port": 0, "public_url": PUBLIC_URL, "twilio": {"auth_token": TOKEN}})
    service = Service(settings, observe=observe, ended=ended)
    try:
        await service.start(public_url=PUBLIC_URL)
        service_url = f"http://127.0.0.1:{service.port}"
        async with Carrier(service_url, public_url=PUBLIC_URL, auth_token=TOKEN) as carrier:
            progress("The telephone rings ...")
            leg = await carrier.place_call(to="+15550100", from_="+15550199")
            await leg.streaming()
            speaks = voices.speaks()
            lines = SPOKEN if speaks else CLIPS
            await converse(leg, lines, progress)
            progress("Saying goodbye ...")
            try:
                async with asyncio.timeout(12):
                    await asyncio.shield(over)
            except TimeoutError:
                leg.hang_up()
            reason = await over
            await leg.ended()
        if not watches:
            raise BridgeError("the service never saw the call")
        return Result(leg, watches[0], reason, lines, speaks)
    finally:
        await service.stop(grace_s=0)


async def converse(leg: Leg, lines: tuple[Line, ...], progress: Progress) -> None:
    """The caller's side of the conversation."""
    progress("The agent answers ...")
    await leg.wait_until_agent_speaks()
    for line in lines:
        if line.into_answer_ms is None:
            await leg.wait_until_quiet(700)
        else:
            spoken = leg.heard_ms()
            await leg.wait_until_heard(spoken + line.into_answer_ms)
        progress(f'The caller says: "{line.words}"')
        leg.say(voices.say(line.words), label=line.words)
        await leg.wait_for(lambda: leg.line.silent)
        await leg.wait_until_agent_speaks()
        progress("The agent speaks ...")
    await leg.wait_until_quiet(700)


# ---------------------------------------------------------------- what a person gets to see


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the conversation."""

    who: str
    at_ms: float
    said: str
    heard: str  # the caller's words as the model understood them; the agent's as far as the caller heard them
    latency_ms: float | None  # from the end of the caller's words to the first sound of the answer
    cut: Cut | None


def onsets(leg: Leg) -> list[float]:
    """When the agent's voice was heard, every 10 ms of it."""
    return [start / 8 for chunk in leg.media for start, stop in loud_blocks(chunk)]


def rows(result: Result) -> list[Row]:
    """The conversation in its order."""
    leg = result.leg
    sounds = onsets(leg)
    cuts = {cut.item_id: cut for cut in result.cuts()}
    spoken = [(s.start / 8, s.stop / 8, s.label) for s in leg.line.spoken]
    rows: list[Row] = []
    said = iter(spoken)
    for entry in result.entries:
        if entry.role == "caller":
            begin, end, words = next(said, (entry.at_ms, entry.at_ms, entry.text))
            # an interruption's answer begins after what was still playing when the caller fell silent
            first = next((at for at in sounds if at > end + 60 and not _sounding(sounds, at - 100)), None)
            rows.append(Row("caller", begin, words, entry.text, None if first is None else first - end, None))
        elif entry.role == "agent" and entry.text:
            rows.append(Row("agent", entry.at_ms, entry.text, entry.heard_text, None, cuts.get(entry.item_id)))
        elif entry.role == "tool":
            rows.append(Row("tool", entry.at_ms, f"{entry.tool_name} {entry.tool_arguments}", entry.text, None, None))
    return rows


def _sounding(sounds: list[float], at_ms: float) -> bool:
    return any(at_ms <= sound < at_ms + 90 for sound in sounds)


def show(result: Result, console: Console) -> None:
    """The conversation as a table."""
    table = Table(title="The call", header_style="bold", expand=False)
    for column, style in (("at", "dim"), ("who", "bold"), ("said", ""), ("heard", ""), ("latency", "")):
        table.add_column(column, style=style, justify="right" if column in ("at", "latency") else "left")
    for row in rows(result):
        heard = row.heard or "(not transcribed)"
        if row.cut is not None:
            heard += (
                f" [yellow]|[/] [dim]interrupted: told {row.cut.told_ms:.0f} ms, heard {row.cut.truth_ms:.0f} ms[/]"
            )
        latency = "" if row.latency_ms is None else f"{row.latency_ms:.0f} ms"
        table.add_row(f"{row.at_ms / 1000:.1f} s", row.who, row.said, heard, latency)
    console.print(table)
    console.print(f"The call ended after {result.leg.now_ms / 1000:.1f} s: {result.reason.value}.", highlight=False)


def write(result: Result, folder: Path) -> None:
    """call.wav, call.svg and call.json in `folder`."""
    leg = result.leg
    folder.mkdir(parents=True, exist_ok=True)
    said = np.frombuffer(g711.decode_mulaw(leg.said_track()), "<i2")
    heard = np.frombuffer(g711.decode_mulaw(leg.heard_track()), "<i2")
    wav = WavWriter(folder / "call.wav", _RATE, 2)
    wav.write(np.column_stack([said, heard]).astype("<i2").tobytes())
    wav.close()
    (folder / "call.json").write_bytes(msgspec.json.format(msgspec.json.encode(as_data(result)), indent=1))
    (folder / "call.svg").write_text(drawn(result, said, heard), encoding="utf-8")


def as_data(result: Result) -> dict[str, object]:
    plan = result.watch.driver.plan
    return {
        "call_id": plan.call_id,
        "agent": plan.agent.name,
        "ended": result.reason.value,
        "success": not result.faults(),
        "faults": result.faults(),
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
            for cut in result.cuts()
        ],
    }
