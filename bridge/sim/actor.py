"""Plays the caller of a scenario on a leg: speaks, presses and hangs up when the file says so, and makes the faults
happen.

It knows the leg alone, so the same scenario can be acted against any server behind the carrier, on any clock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from bridge.audio import g711
from bridge.audio.wav import read_wav

from . import voices
from .caller import Caller
from .leg import Leg, loud_blocks
from .network import Network
from .playout import SAMPLES_PER_MS
from .scenario import CallerStep, Fault, Moment, Occasion, Scenario
from .sounds import RATE_HZ, Stretch, joined
from .voices import Voice

POLITE_MS = 700.0  # how long the agent must be quiet before a caller speaks who was not told when
PATIENCE_MS = 10_000.0  # who gets no answer for so long goes on
_ENDED = "the call had ended"


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step of the caller's, as it happened. Numbers count from 1."""

    number: int
    name: str
    start_ms: float
    stop_ms: float


@dataclass(slots=True)
class Performance:
    """What came of a scenario's caller."""

    done: list[StepDone] = field(default_factory=list)
    undone: list[int] = field(default_factory=list)  # the call ended before them
    timed_out: bool = False  # the scenario's limit_s was reached
    missed: dict[int, str] = field(default_factory=dict)  # faults that never happened, and why

    def step(self, number: int) -> StepDone | None:
        return next((step for step in self.done if step.number == number), None)


def caller_of(scenario: Scenario, *, seed: int) -> Caller:
    """The caller with their line, for `Carrier.place_call`."""
    line = scenario.line
    network = Network(
        latency_ms=line.latency_ms,
        jitter_ms=line.jitter_ms,
        lost=line.lost,
        doubled=line.doubled,
        swapped=line.swapped,
        seed=seed,
    )
    return Caller(noise_dbfs=line.noise_dbfs, noise_seed=seed, network=network, suppress_silence=line.suppress_silence)


def utterance(scenario: Scenario, step: CallerStep, *, seed: int) -> bytes:
    """The sound of a step that speaks, 8 kHz mu-law. Raises UsageError where it cannot be said here."""
    if step.wav is not None:
        samples, _ = read_wav(scenario.folder / step.wav, RATE_HZ)
        return g711.encode_mulaw((samples if samples.ndim == 1 else samples[:, 0]).astype("<i2").tobytes())
    assert step.say is not None
    changes = [msgspec.structs.asdict(change) for change in (scenario.voice, step.voice)]
    said = {key: value for change in changes for key, value in change.items() if value is not None}
    return voices.say(step.say, Voice(**said, noise_seed=seed))


async def perform(scenario: Scenario, leg: Leg, *, seed: int | None = None) -> Performance:
    """Act until the call is over. Never raises for what the other side does."""
    seed = scenario.seed if seed is None else seed
    performance = Performance()
    faults = [
        asyncio.create_task(_fault(fault, leg), name=f"fault {number} of {scenario.name}")
        for number, fault in enumerate(scenario.faults, 1)
    ]
    try:
        async with asyncio.timeout(scenario.limit_s):
            await _steps(scenario, leg, performance, seed)
            await leg.ended()
    except TimeoutError:
        performance.timed_out = True
        leg.hang_up()
        await leg.ended()
    finally:
        for task in faults:
            task.cancel()
        reasons = await asyncio.gather(*faults, return_exceptions=True)
    missed = ((number, why if isinstance(why, str) else _ENDED) for number, why in enumerate(reasons, 1))
    performance.missed = {number: why for number, why in missed if why}
    reached = len(performance.done)
    performance.undone = list(range(reached + 1, len(scenario.caller) + 1))
    return performance


async def _steps(scenario: Scenario, leg: Leg, performance: Performance, seed: int) -> None:
    previous: CallerStep | None = None
    for number, step in enumerate(scenario.caller, 1):
        there = await (_moment(step, leg) if step.told or step.silence is not None else _politely(previous, leg))
        if not there or not await leg.sleep(step.plus_ms):
            return
        start_ms = leg.now_ms
        stop_ms: float | None = None
        if step.speaks:
            spoken = len(leg.line.spoken)
            leg.say(utterance(scenario, step, seed=seed), label=step.say or step.wav or "")
            complete = await leg.wait_for(lambda: leg.line.silent)
            if len(leg.line.spoken) > spoken:
                start_ms = leg.line.spoken[-1].start / SAMPLES_PER_MS
                stop_ms = leg.line.spoken[-1].stop / SAMPLES_PER_MS
            if not complete:
                return
        elif step.dtmf is not None:
            leg.press(step.dtmf, every_ms=step.every_ms)
            await leg.sleep((len(step.dtmf) - 1) * step.every_ms)
        elif step.silence is not None:
            await leg.sleep(step.silence)
        else:
            leg.hang_up()
        performance.done.append(StepDone(number, step.name, start_ms, leg.now_ms if stop_ms is None else stop_ms))
        previous = step


async def _politely(previous: CallerStep | None, leg: Leg) -> bool:
    """Wait for the agent to have said something and to be quiet again, as people do."""
    if previous is None or previous.silence is None:
        try:
            async with asyncio.timeout(PATIENCE_MS / 1000):
                if not await leg.wait_until_agent_speaks():
                    return False
        except TimeoutError:
            return not leg.over.done()
    return await leg.wait_until_quiet(POLITE_MS)


async def _moment(moment: Moment, leg: Leg) -> bool:
    """Wait for a moment without its `plus_ms`; False if the call ended first."""
    if moment.at_ms is not None:
        return await leg.sleep(moment.at_ms - leg.now_ms)
    if moment.into_agent_ms is not None:
        return await _into_agent(moment.into_agent_ms, leg)
    return await _occasion(moment.after, leg) if moment.after is not None else True


async def _into_agent(ms: float, leg: Leg) -> bool:
    if not await leg.wait_until_agent_speaks():
        return False
    present = agent_stretches(leg)
    began_ms = next((s.start_ms for s in reversed(present) if s.start_ms <= leg.now_ms + 0.5), leg.now_ms)
    return await leg.wait_until_heard(leg.heard_ms(began_ms) + ms)


async def _occasion(occasion: Occasion, leg: Leg) -> bool:
    def counted() -> int:
        match occasion:
            case "said":
                return sum(spoken.stop - spoken.start >= spoken.size for spoken in leg.line.spoken)
            case "clear":
                return len(leg.clears)
            case "key":
                return len(leg.timeline.of("press", "caller"))
            case _:
                return sum(stream.ended.done() for stream in leg.streams)

    match occasion:
        case "stream":
            return await leg.wait_for(lambda: leg.stream is not None)
        case "agent_speaks":
            return await leg.wait_until_agent_speaks()
        case "agent_quiet":
            return await leg.wait_until_quiet(POLITE_MS)
        case _:
            before = counted()
            return await leg.wait_for(lambda: counted() > before)


async def _fault(fault: Fault, leg: Leg) -> str:
    """Why it did not happen; nothing if it did."""
    if not await _moment(fault, leg) or not await leg.sleep(fault.plus_ms):
        return _ENDED
    stream = leg.stream
    if stream is None:
        return "no media stream was open then"
    if fault.stall_ms is not None:
        stream.stall(fault.stall_ms)
    elif fault.stop_reading_ms is not None:
        stream.stop_reading(fault.stop_reading_ms)
    elif fault.close_without_stop is not None:
        stream.close_without_stop(fault.close_without_stop)
    elif fault.half_open:
        stream.half_open()
    else:
        stream.cut()
    return ""


def agent_stretches(leg: Leg) -> list[Stretch]:
    """When the bridge sounds in the caller's ear, as scheduled at this moment; pauses within a sentence closed."""
    blocks = (block for chunk in leg.media for block in loud_blocks(chunk))
    return joined(Stretch(start / SAMPLES_PER_MS, stop / SAMPLES_PER_MS) for start, stop in blocks)
