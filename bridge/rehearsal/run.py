"""Runs scenarios: the simulated caller against our service and a model that does as scripted, or against any server.

On the virtual clock a scenario is repeatable to the byte, so its timeline can be compared with a golden one. On the
real clock it goes over sockets. What is measured, expected and reported is the simulator's; this room adds what only
the service knows: words, tools, truncations, the reason of the end.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from bridge.call.transcript import Entry
from bridge.errors import BridgeError, UsageError
from bridge.localmodel.hearing import InlineRecogniser, Recogniser
from bridge.rehearsal.stage import AGENT, Stage
from bridge.rehearsal.telling import Result
from bridge.rehearsal.watch import Watch
from bridge.sim import actor, virtual
from bridge.sim.carrier import Carrier
from bridge.sim.judge import judge
from bridge.sim.leg import Leg
from bridge.sim.measures import measure
from bridge.sim.outcome import AgentTurn, Outcome, ToolCall, Truncation, of_leg, with_words
from bridge.sim.report import CallResult
from bridge.sim.scenario import Scenario

Clock = Literal["virtual", "real"]
Told = Callable[[CallResult], None]

_SLACK_MS: Final = 400.0  # a detector hears speech begin and end about then
_SHOWN_DIFFERENCE: Final = 3


@dataclass(frozen=True, slots=True)
class Run:
    """How scenarios are run. `calls` of each at once, every one with the next seed."""

    clock: Clock = "virtual"
    calls: int = 1
    golden: Path | None = None  # the folder of golden timelines; None: not compared
    update_golden: bool = False
    timelines: Path | None = None  # where each call's timeline is written
    against: str = ""  # a media-stream address of somebody else's


def run(scenarios: Sequence[Scenario], how: Run, told: Told = lambda result: None) -> list[CallResult]:
    """Every call of every scenario, judged; `told` hears of each as it ends."""
    results: list[CallResult] = []
    for scenario in scenarios:
        for result in run_one(scenario, how):
            results.append(result)
            told(result)
    return results


def run_one(scenario: Scenario, how: Run) -> list[CallResult]:
    """All calls of one scenario. What keeps it from running is said in its result."""
    results: list[CallResult] = []
    for number in range(scenario.repeat):
        seed = scenario.seed + number * how.calls
        work = _against(scenario, how.against, seed) if how.against else _ours(scenario, how, seed)
        try:
            outcomes = virtual.run(work) if how.clock == "virtual" and not how.against else asyncio.run(work)
        except BridgeError as error:
            results.append(CallResult(scenario, error=str(error)))
            continue
        for outcome in outcomes:
            numbered = replace(outcome, number=len(results) + 1)
            figures = measure(numbered)
            results.append(
                CallResult(
                    scenario,
                    numbered,
                    figures,
                    tuple(judge(scenario, numbered, figures)),
                    difference=_compared(scenario, numbered, how),
                )
            )
    return results


# ---------------------------------------------------------------- our own service


async def _ours(scenario: Scenario, how: Run, seed: int) -> list[Outcome]:
    stage = Stage(
        agent=scenario.changes,
        file=scenario.agent or AGENT,
        script=scenario.model or None,
        given=scenario.service,
        recogniser=_recogniser() if how.clock == "virtual" else None,
        detection="energy" if how.clock == "virtual" else "best",
        seed=seed,
    )
    async with stage:
        return list(await asyncio.gather(*(_call(scenario, stage, seed + n) for n in range(how.calls))))


def _recogniser() -> Recogniser | None:
    """Ears that keep virtual time; none where the speech extra is not installed."""
    try:
        return InlineRecogniser()
    except ImportError:
        return None


async def _call(scenario: Scenario, stage: Stage, seed: int) -> Outcome:
    caller = actor.caller_of(scenario, seed=seed)
    numbers = scenario.call
    leg = await stage.call(to=numbers.to, from_=numbers.from_, caller=caller, signing=numbers.signing)
    performance = await actor.perform(scenario, leg, seed=seed)
    rehearsed = stage.of(leg)
    outcome = of_leg(scenario, leg, performance, seed=seed)
    if rehearsed.watch is None:
        return outcome  # refused at the door: there is no call of ours
    reason = await asyncio.wait_for(asyncio.shield(rehearsed.over), 30)
    return account(outcome, Result(leg, rehearsed.watch, reason))


def account(outcome: Outcome, result: Result) -> Outcome:
    """The carrier's account with the service's laid beside it."""
    leg, watch = result.leg, result.watch
    lead_ms = watch.began_ms(leg)
    agent = [turn for entry in result.entries if (turn := _agent_turn(entry, watch, leg)) is not None]
    told = with_words(outcome, agent or outcome.agent_turns, _understood(outcome, result.entries, lead_ms))
    return replace(
        told,
        tools=tuple(
            ToolCall(entry.at_ms + lead_ms, entry.tool_name, _arguments(entry.tool_arguments), entry.text)
            for entry in result.entries
            if entry.role == "tool"
        ),
        truncations=tuple(
            Truncation(cut.at_ms + lead_ms, cut.item_id, cut.told_ms, cut.truth_ms)
            for cut in result.cuts
            if cut.told_ms
        ),
        end_reason=result.reason.value,
        timeline=_timeline(leg, watch, lead_ms),
    )


def _agent_turn(entry: Entry, watch: Watch, leg: Leg) -> AgentTurn | None:
    played = watch.played(entry.item_id, leg) if entry.role == "agent" else []
    if not played:
        return None
    unheard_ms = max(0.0, entry.received_ms - entry.heard_ms) if entry.cut else 0.0
    return AgentTurn(played[0][0], played[-1][1], entry.text, entry.heard_text, unheard_ms)


def _understood(outcome: Outcome, entries: Sequence[Entry], lead_ms: float) -> list[str]:
    """What the model made of each turn that was meant: the words that began while it was said."""
    heard = [entry for entry in entries if entry.role == "caller"]
    texts = []
    for turn in outcome.caller_turns:
        if not turn.meant:
            continue
        during = [
            entry for entry in heard if turn.start_ms - _SLACK_MS <= entry.at_ms + lead_ms <= turn.stop_ms + _SLACK_MS
        ]
        texts.append(" ".join(entry.text for entry in during if entry.text))
    return texts


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"unreadable": text}
    return found if isinstance(found, dict) else {"value": found}


# ---------------------------------------------------------------- somebody else's


async def _against(scenario: Scenario, address: str, seed: int) -> list[Outcome]:
    """The carrier alone against a media-stream server: no webhook, the stream is opened at once."""
    parts = urlsplit(address)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise UsageError(f"--against {address}: write ws://host/path or wss://host/path")
    door = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
    numbers = scenario.call
    stream = f'<Response><Connect><Stream url="wss://{parts.netloc}{parts.path or "/"}"/></Connect></Response>'
    async with Carrier(door, public_url=f"https://{parts.netloc}", seed=seed) as carrier:
        leg = await carrier.place_call(
            to=numbers.to, from_=numbers.from_, caller=actor.caller_of(scenario, seed=seed), twiml=stream
        )
        performance = await actor.perform(scenario, leg, seed=seed)
        return [of_leg(scenario, leg, performance, seed=seed)]


# ---------------------------------------------------------------- timelines


def _timeline(leg: Leg, watch: Watch, lead_ms: float) -> str:
    """Everything that happened on the line, and everything the service made of it, in one order."""
    lines = [(moment.at_ms, 0, moment.line()) for moment in leg.timeline.moments]
    lines += [(at_ms + lead_ms, 1, f"{at_ms + lead_ms:10.2f}  service  {text}") for at_ms, text in watch.story()]
    return "\n".join(text.rstrip() for _, _, text in sorted(lines, key=lambda line: line[:2])) + "\n"


def _compared(scenario: Scenario, outcome: Outcome, how: Run) -> str:
    """Write the timeline where it is wanted; how it differs from the golden one, in a few lines."""
    name = f"{scenario.name}.txt" if outcome.number == 1 else f"{scenario.name}-{outcome.number}.txt"
    if how.timelines is not None:
        how.timelines.mkdir(parents=True, exist_ok=True)
        (how.timelines / name).write_text(outcome.timeline, encoding="utf-8")
    if how.golden is None or how.clock != "virtual" or outcome.number != 1:
        return ""
    golden = how.golden / name
    if how.update_golden:
        how.golden.mkdir(parents=True, exist_ok=True)
        golden.write_text(outcome.timeline, encoding="utf-8")
        return ""
    if not golden.is_file():
        return ""
    wanted = golden.read_text(encoding="utf-8")
    if wanted == outcome.timeline:
        return ""
    changed = [
        line
        for line in difflib.unified_diff(wanted.splitlines(), outcome.timeline.splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    return f"differs from {golden}: " + " / ".join(" ".join(line.split()) for line in changed[:_SHOWN_DIFFERENCE])
