"""Runs scenarios: the simulated caller against our service and a model that does as scripted, or against any server.

On the virtual clock a scenario is repeatable to the byte, so its timeline can be compared with a golden one. On the
real clock it goes over sockets. What is measured, expected and reported is the simulator's; this room adds what only
the service knows: words, tools, truncations, the reason of the end.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from bridge.call.transcript import Entry
from bridge.errors import BridgeError, UsageError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.hearing import Grammar, InlineRecogniser, Recogniser
from bridge.rehearsal.folding import differences, timeline
from bridge.rehearsal.keeping import kept
from bridge.rehearsal.stage import Stage
from bridge.rehearsal.telling import Result
from bridge.sim import actor, virtual, voices
from bridge.sim.carrier import Carrier
from bridge.sim.judge import judge
from bridge.sim.measures import measure
from bridge.sim.outcome import AgentTurn, Outcome, ToolCall, Truncation, of_leg, with_words
from bridge.sim.report import CallResult
from bridge.sim.scenario import Scenario

Clock = Literal["virtual", "real"]
Told = Callable[[CallResult], None]

_SLACK_MS: Final = 400.0  # a detector hears speech begin and end about then
_SHOWN_DIFFERENCE: Final = 4
_WORTH_A_PROCESS: Final = 4  # scenarios: it takes about as long to start
_RECOGNITION_S: Final = 0.06
_CLOSING_S: Final = 2.0  # how soon after a call its session must be closed
_ENDING_S: Final = 30.0  # a service that has not noticed the end of a call by then never will


@dataclass(frozen=True, slots=True)
class Run:
    """How scenarios are run. `calls` of each at once, every one with the next seed."""

    clock: Clock = "virtual"
    calls: int = 1
    golden: Path | None = None  # the folder of golden timelines, beside each scenario; None: not compared
    update_golden: bool = False
    timelines: Path | None = None  # where each call's timeline is written
    against: str = ""  # a media-stream address of somebody else's
    config: Path | None = None  # the folder whose agents are called; None: the sample


def run(scenarios: Sequence[Scenario], how: Run, told: Told = lambda result: None) -> list[CallResult]:
    """Every call of every scenario, judged; `told` hears of each, in the order of the scenarios.

    Many scenarios on the virtual clock are shared out to as many processes as there are cores.
    """
    results: list[CallResult] = []
    for result in _results(scenarios, how):
        results.append(result)
        told(result)
    return results


def _results(scenarios: Sequence[Scenario], how: Run) -> Iterable[CallResult]:
    processes = min(_cores(), len(scenarios) // _WORTH_A_PROCESS)
    if how.against or how.clock == "real" or processes < 2:
        for scenario in scenarios:
            yield from run_one(scenario, how)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        for one in [pool.submit(run_one, scenario, how) for scenario in scenarios]:
            yield from one.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """A process of several: told to end, it puts away what it began, as the first one does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    silence_logs()


def silence_logs() -> None:
    """What a call logs is in its timeline."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def run_one(scenario: Scenario, how: Run) -> list[CallResult]:
    """All calls of one scenario. What keeps it from running is said in its result."""
    results: list[CallResult] = []
    for number in range(scenario.repeat):
        seed = scenario.seed + number * how.calls
        work = _against(scenario, how, seed) if how.against else _ours(scenario, how, seed)
        try:
            outcomes, left = virtual.run(work) if how.clock == "virtual" and not how.against else asyncio.run(work)
        except (BridgeError, OSError) as error:
            results.append(CallResult(scenario, error=str(error)))
            continue
        for outcome in outcomes:
            if isinstance(outcome, str):
                results.append(CallResult(scenario, error=outcome))
                continue
            numbered = replace(outcome, number=len(results) + 1)
            figures = measure(numbered)
            results.append(
                CallResult(
                    scenario,
                    numbered,
                    figures,
                    tuple(judge(scenario, numbered, figures)),
                    difference=_compared(scenario, numbered, how),
                    error=left or (_unserved(scenario, numbered) if how.against else ""),
                )
            )
    return results


def wants_speech(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that cannot be run here: somebody speaks in them, and the speech extra is not installed."""
    if voices.speaks() and importlib.util.find_spec("pocketsphinx") is not None:
        return []
    return [scenario for scenario in scenarios if any(step.say is not None for step in scenario.caller)]


# ---------------------------------------------------------------- our own service

# The calls, or what kept one from its outcome; and what was left running when they were over.
_Lived = tuple[list[Outcome | str], str]


async def _ours(scenario: Scenario, how: Run, seed: int) -> _Lived:
    before = asyncio.all_tasks()
    stage = Stage(
        agent=scenario.changes,
        file=scenario.agent,
        config=how.config,
        script=scenario.model or None,
        given=scenario.service,
        recogniser=_ears() if how.clock == "virtual" else None,
        detection="energy" if how.clock == "virtual" else "best",
        seed=seed,
        calls=how.calls,
    )
    async with stage:
        outcomes = await _each(_call(scenario, stage, seed + number) for number in range(how.calls))
        left = "" if any(isinstance(one, str) for one in outcomes) else await _still_open(stage)
    await asyncio.sleep(0)
    tasks = sorted(task.get_name() for task in asyncio.all_tasks() - before if not task.done())
    if tasks:
        left = f"{left}; " * bool(left) + f"tasks still run after the calls: {', '.join(tasks)}"
    return outcomes, left


async def _each(calls: Iterable[Coroutine[Any, Any, Outcome]]) -> list[Outcome | str]:
    """All of them at once. What keeps one from its outcome is no matter of the others."""

    async def lived(call: Coroutine[Any, Any, Outcome]) -> Outcome | str:
        try:
            return await call
        except (BridgeError, OSError) as error:
            return str(error)

    return list(await asyncio.gather(*map(lived, calls)))


async def _still_open(stage: Stage) -> str:
    """What the calls left behind in the service, a little after they ended."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _CLOSING_S
    while stage.model.sessions and loop.time() < until:
        await asyncio.sleep(0.05)
    open_ = stage.model.sessions
    return f"{open_} sessions of the model are open {_CLOSING_S:g} s after the calls" if open_ else ""


class _Ears:
    """Recognises at once, and the same audio once only: what is decided is the same whichever scenario asks first."""

    def __init__(self) -> None:
        self._decoding = InlineRecogniser(latency_ms=0)
        self._known: dict[tuple[bytes, Grammar], Heard] = {}

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        heard = self._known.get(key := (pcm16k, Grammar.of(brain)))
        if heard is None:
            heard = self._known[key] = await self._decoding.recognise(pcm16k, brain)
        await asyncio.sleep(_RECOGNITION_S)
        return heard

    async def close(self) -> None:
        pass


@functools.cache
def _ears() -> Recogniser | None:
    """Ears that keep virtual time; none where the speech extra is not installed."""
    return _Ears() if importlib.util.find_spec("pocketsphinx") is not None else None


async def _call(scenario: Scenario, stage: Stage, seed: int) -> Outcome:
    caller = actor.caller_of(scenario, seed=seed)
    numbers = scenario.call
    leg = await stage.call(to=numbers.to, from_=numbers.from_, caller=caller, signing=numbers.signing)
    performance = await actor.perform(scenario, leg, seed=seed)
    rehearsed = stage.of(leg)
    outcome = of_leg(scenario, leg, performance, seed=seed)
    if rehearsed.watch is None:
        return replace(outcome, timeline=timeline(leg.timeline.moments, ()))  # refused at the door: no call of ours
    try:
        async with asyncio.timeout(_ENDING_S):
            reason = await asyncio.shield(rehearsed.over)
    except TimeoutError:
        raise BridgeError(f"the service still holds the call {_ENDING_S:g} s after its caller left") from None
    return account(outcome, Result(leg, rehearsed.watch, reason))


def account(outcome: Outcome, result: Result) -> Outcome:
    """The carrier's account with the service's laid beside it."""
    leg, watch = result.leg, result.watch
    lead_ms = watch.began_ms(leg)
    agent = [turn for entry in result.entries if (turn := _agent_turn(entry, result)) is not None]
    written_down = watch.driver.plan.session.transcription_model
    understood = _understood(outcome, result.entries, lead_ms) if written_down else None
    told = with_words(outcome, agent or outcome.agent_turns, understood)
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
        timeline=timeline(leg.timeline.moments, [(round(at_ms + lead_ms, 2), text) for at_ms, text in watch.story()]),
    )


def _agent_turn(entry: Entry, result: Result) -> AgentTurn | None:
    played = result.watch.played(entry.item_id, result.leg) if entry.role == "agent" else []
    if not played:
        return None
    truth = result.as_heard(entry)
    unheard_ms = truth.received_ms - truth.heard_ms if truth.cut else 0.0
    return AgentTurn(played[0][0], played[-1][1], truth.text, truth.heard_text, unheard_ms)


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


async def _against(scenario: Scenario, how: Run, seed: int) -> _Lived:
    """The carrier alone against a media-stream server: no webhook, the stream is opened at once."""
    numbers = scenario.call
    async with Carrier.against(how.against, seed=seed) as carrier:

        async def call(seed: int) -> Outcome:
            caller = actor.caller_of(scenario, seed=seed)
            leg = await carrier.place_call(to=numbers.to, from_=numbers.from_, caller=caller)
            performance = await actor.perform(scenario, leg, seed=seed)
            outcome = of_leg(scenario, leg, performance, seed=seed)
            return replace(outcome, foreign=True, timeline=timeline(leg.timeline.moments, ()))

        return await _each(call(seed + number) for number in range(how.calls)), ""


def _unserved(scenario: Scenario, outcome: Outcome) -> str:
    """What the carrier saw of a server that took no stream, or broke it off though nothing was wrong with the line."""
    if outcome.served:
        return ""
    if outcome.stream_from_ms is None:
        return f"no media stream: {outcome.left}. See that a server takes media streams at this address"
    if scenario.faults:
        return ""
    if "code 1008" in outcome.left:
        return f"{outcome.left}. It may want a token that its own webhook gives; no webhook is asked with --against"
    return f"{outcome.left}. The server's own log may say why"


# ---------------------------------------------------------------- timelines


def not_compared(scenarios: Sequence[Scenario], how: Run) -> list[str]:
    """Those that have no golden timeline, by name; nothing where timelines are not compared at all."""
    if not _compares(how) or how.golden is None:
        return []
    golden = how.golden
    return [one.name for one in scenarios if not (one.folder / golden / timeline_name(one)).is_file()]


def timeline_name(scenario: Scenario, number: int = 1) -> str:
    """The file of a call's timeline."""
    return f"{scenario.name}.txt" if number == 1 else f"{scenario.name}-{number}.txt"


def _compares(how: Run) -> bool:
    """Only one call at a time on the virtual clock is the same every time."""
    return how.golden is not None and how.clock == "virtual" and how.calls == 1 and not how.against


def _compared(scenario: Scenario, outcome: Outcome, how: Run) -> str:
    """Write the timeline where it is wanted; how it differs from the golden one, in a few lines, or that it could not
    be written."""
    name = timeline_name(scenario, outcome.number)
    wrong = [] if how.timelines is None else [_written(how.timelines / name, outcome.timeline)]
    if how.golden is not None and _compares(how) and outcome.number == 1:
        golden = scenario.folder / how.golden / name
        wrong.append((_written if how.update_golden else _differs)(golden, outcome.timeline))
    return " / ".join(filter(None, wrong))


def _written(file: Path, text: str) -> str:
    """Why it could not be; no matter of the other calls."""
    try:
        with kept(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except UsageError as error:
        return str(error)
    return ""


def _differs(golden: Path, found: str) -> str:
    if not golden.is_file():
        return ""  # `not_compared` tells of it
    try:
        wanted = golden.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return f"{golden} cannot be read: {why}. Renew it with --update-golden"
    if wanted == found:
        return ""
    changed = differences(wanted, found)
    return f"differs from {golden}: " + " / ".join(changed[:_SHOWN_DIFFERENCE])
