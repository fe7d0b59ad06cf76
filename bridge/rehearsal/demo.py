"""The first call: a real spoken call through the whole path, with no key and no network.

Service and model run on free loopback ports, the simulated telephone network calls them, the caller speaks,
interrupts the agent in mid-sentence and says goodbye. Afterwards the conversation is shown as a table and written
down as sound, picture and data. The demo succeeds only if both directions carried what was said and the interruption
was told to the model right within 40 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog
from rich.console import Console
from rich.markup import escape

from bridge.call.transcript import Entry
from bridge.errors import BridgeError, EndReason
from bridge.live.driver import Driver
from bridge.localmodel import EXTRA
from bridge.rehearsal import telling
from bridge.rehearsal.keeping import can_fill
from bridge.rehearsal.telling import Result
from bridge.rehearsal.watch import Cut, Watch
from bridge.settings import load, sample
from bridge.sim import voices
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.web.service import Service

Progress = Callable[[str], object]

PUBLIC_URL: Final = "https://bridge.example.test"
TOKEN: Final = "demo-signing-secret"
LIMIT_S: Final = 40.0
TOLERANCE_MS: Final = 40.0
ENOUGH_MS: Final = 3000.0  # of the agent's voice


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


async def demo(folder: Path, console: Console) -> int:
    """Make the call, show it, write it down. The exit code. Raises UsageError where it could not be written down."""
    can_fill(folder, "--out")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        async with asyncio.timeout(LIMIT_S):
            with console.status("Starting the service and the model ...") as status:
                result = await make_call(status.update if console.is_terminal else console.print)
    except TimeoutError:
        console.print(f"[red]The call did not end within {LIMIT_S:.0f} seconds.[/]")
        return 1
    telling.show(result, console)
    lines = SPOKEN if voices.speaks() else CLIPS
    wrong = faults(Evidence.of(result), lines)
    for fault in wrong:
        console.print(f"[red]Not as it should be:[/] {escape(fault)}", highlight=False, soft_wrap=True)
    if not wrong:
        console.print("[green]Both directions carried speech, and the interruption was told right.[/]")
    if not voices.speaks():
        deaf = f"Nobody listened: the model took its lines in turn, as the caller did. To be understood, get {EXTRA}."
        console.print(deaf, markup=False, highlight=False, soft_wrap=True)
    telling.write(result, folder, faults=wrong)
    written = f"Written: {folder}/call.wav (caller left, agent right), call.svg (the timeline), call.json"
    console.print(written, markup=False, soft_wrap=True)
    return 1 if wrong else 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the call is judged by."""

    entries: Sequence[Entry]
    cuts: Sequence[Cut]
    played_ms: Mapping[str, float]  # by item: how much of the agent's the carrier really played
    spoken_ms: float  # the agent's sound that reached the caller
    reason: EndReason

    @classmethod
    def of(cls, result: Result) -> Self:
        played_ms = {entry.item_id: result.played_ms(entry) for entry in result.entries if entry.role == "agent"}
        return cls(result.entries, result.cuts, played_ms, telling.spoken_ms(result.leg), result.reason)


def faults(call: Evidence, lines: tuple[Line, ...]) -> list[str]:
    """What did not go as it should; empty: the call is a success."""
    wrong = []
    heard = [entry.text.lower() for entry in call.entries if entry.role == "caller"]
    wrong += [
        f'the model did not understand "{line.words}" (it heard: {"; ".join(heard) or "nothing"})'
        for line in lines
        if line.understood and not any(line.understood in text for text in heard)
    ]
    if len(heard) < len(lines):
        wrong.append(f"the model heard {len(heard)} of the {len(lines)} things the caller said")
    if call.spoken_ms < ENOUGH_MS:
        wrong.append(f"the caller heard less than {ENOUGH_MS / 1000:.0f} seconds of the agent")
    if not any(cut.told_ms > 0 for cut in call.cuts):
        wrong.append("the agent was not interrupted")
    wrong += [
        f"the model was told {cut.told_ms:.0f} ms were heard, the caller heard {cut.truth_ms:.0f} ms"
        for cut in call.cuts
        if abs(cut.error_ms) > TOLERANCE_MS
    ]
    wrong += [
        f'of "{entry.text}" only {call.played_ms[entry.item_id]:.0f} of {entry.received_ms:.0f} ms reached the caller'
        for entry in call.entries
        if entry.role == "agent" and not entry.cut
        if call.played_ms[entry.item_id] < entry.received_ms - TOLERANCE_MS
    ]
    if call.reason not in (EndReason.AGENT_HUNG_UP, EndReason.CALLER_LEFT):
        wrong.append(f"the call ended with {call.reason.value}")
    return wrong


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
            await converse(leg, SPOKEN if voices.speaks() else CLIPS, progress)
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
        return Result(leg, watches[0], reason)
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
