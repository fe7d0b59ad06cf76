"""What the core costs: microseconds per caller frame, per piece of model audio, per mark, beside an empty call.

    python -m tests.bench.core [--json]

One call is driven through a conversation whose facts are made beforehand, so that only `handle` and `deadline` are
timed, as the driver calls them. Of several rounds the fastest of each fact counts: what disturbs one is not the core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import AgentPlan, CallPlan, CarrierCapabilities, ModelCapabilities, Policies, SessionPlan

ROUNDS = 7
FRAME = ev.CallerSpoke(bytes(160), 20.0)
DELTA = bytes(1600)  # 200 ms


@dataclass(frozen=True)
class Figure:
    what: str
    us: float
    goal_us: float | None = None


class _Nothing:
    """What a method call and a clock's arithmetic cost without a call behind them."""

    def handle(self, event: ev.Event, now: float) -> list[do.Action]:
        return []

    def deadline(self) -> float | None:
        return None


def plan() -> CallPlan:
    return CallPlan(
        call_id="bench",
        carrier_call_id="CA0",
        caller="+15550001",
        called="+15550002",
        direction="inbound",
        agent=AgentPlan(name="bench", policies=Policies(first_media_s=1e6)),
        carrier=CarrierCapabilities(),
        models=(ModelCapabilities(),),
        session=SessionPlan(),
    )


def connected() -> Call:
    call = Call(plan(), 0.0)
    for fact in (ev.CallRouted(), ev.StreamStarted("MZ"), ev.ModelReady(1)):
        call.handle(fact, 0.0)
    call.handle(ev.MarkReturned("1.1"), 60.0)
    return call


def timed(take: Callable[[ev.Event, float], object], facts: Sequence[tuple[float, ev.Event]]) -> float:
    """Microseconds per fact."""
    began = time.perf_counter()
    for now, fact in facts:
        take(fact, now)
    return (time.perf_counter() - began) / len(facts) * 1e6


def best(once: Callable[[], float]) -> float:
    return min(once() for _ in range(ROUNDS))


def empty() -> float:
    nothing = _Nothing()

    def take(fact: ev.Event, now: float) -> None:
        nothing.handle(fact, now)
        nothing.deadline()

    return timed(take, [(float(i), FRAME) for i in range(20_000)])


def frames(*, ready: bool) -> float:
    """Caller frames of a call in which nothing else happens."""
    call = connected() if ready else Call(plan(), 0.0)

    def take(fact: ev.Event, now: float) -> None:
        call.handle(fact, now)
        call.deadline()

    return timed(take, [(100 + i * 0.001, FRAME) for i in range(20_000)])


Spent = dict[type[ev.Event], list[float]]


def conversation() -> Spent:
    """Answers of five seconds, five times faster than real time, with the marks a carrier returns for them.

    Seconds per fact, in order: the same in every round, so that rounds can be compared fact by fact.
    """
    call = connected()
    spent: Spent = {ev.ModelSpoke: [], ev.MarkReturned: [], ev.DeadlineReached: []}
    clock = time.perf_counter
    now = 1000.0

    def take(fact: ev.Event, now: float) -> list[do.Action]:
        began = clock()
        actions = call.handle(fact, now)
        call.deadline()
        took = clock() - began
        if type(fact) in spent:
            spent[type(fact)].append(took)
        return actions

    for turn in range(60):
        response_id, item_id = f"resp_{turn:024}", f"item_{turn:024}"
        deltas = [(now + i * 40.0, ev.ModelSpoke(response_id, item_id, 0, DELTA, 200.0)) for i in range(25)]
        due: list[tuple[float, str]] = []  # marks on their way back
        heard_until = now
        take(ev.ResponseStarted(response_id), now)
        while deltas or due:
            deadline = call.deadline()
            times = [deltas[0][0] if deltas else 1e12, due[0][0] if due else 1e12, deadline or 1e12]
            now = max(now, min(times))
            if times[0] <= now:
                actions = take(deltas.pop(0)[1], now)
            elif times[1] <= now:
                actions = take(ev.MarkReturned(due.pop(0)[1]), now)
            else:
                actions = take(ev.DeadlineReached(), now)
            for action in actions:
                if type(action) is do.PlayAudio:
                    heard_until = max(heard_until, now + 30) + action.ms
                elif type(action) is do.PlaceMark:
                    due.append((max(heard_until, now + 30) + 30, action.name))
            if not deltas and take_end(call, response_id, now):
                continue
        now += 500.0
    assert not call.over, "a call that ended is cheap"
    return spent


def undisturbed(rounds: Sequence[Spent], kind: type[ev.Event]) -> float:
    """Microseconds per fact of this kind, each fact as fast as it went in any round."""
    fastest = [min(times) for times in zip(*(spent[kind] for spent in rounds), strict=True)]
    return sum(fastest) / len(fastest) * 1e6


def take_end(call: Call, response_id: str, now: float) -> bool:
    """The response is over once all of it has come. True if that was news."""
    if call.state.turns.response_id != response_id:
        return False
    call.handle(ev.ResponseEnded(response_id, "completed"), now)
    return True


def barge_in() -> float:
    """From the caller's first sound to the requests that silence the agent: what a decision takes, without a wire."""
    worst = []
    for turn in range(200):
        call = connected()
        call.handle(ev.ResponseStarted("r"), 1000.0)
        for i in range(10):
            call.handle(ev.ModelSpoke("r", "i", 0, DELTA, 200.0), 1000.0 + i)
        began = time.perf_counter()
        call.handle(ev.CallerSpeechStarted("c"), 1100.0 + turn)
        worst.append(time.perf_counter() - began)
    return sorted(worst)[len(worst) // 2] * 1e6


def measure() -> list[Figure]:
    rounds = [conversation() for _ in range(ROUNDS)]
    return [
        Figure("an empty call, for comparison", best(empty)),
        Figure("caller frame (20 ms)", best(lambda: frames(ready=True)), 2.0),
        Figure("caller frame while the model is not ready", best(lambda: frames(ready=False)), 2.0),
        Figure("model delta (200 ms, 1600 bytes)", undisturbed(rounds, ev.ModelSpoke), 10.0),
        Figure("mark returned", undisturbed(rounds, ev.MarkReturned)),
        Figure("deadline", undisturbed(rounds, ev.DeadlineReached)),
        Figure("barge-in: speech started to clear, decided", best(barge_in)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    figures = measure()
    if parser.parse_args().json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return 0
    for figure in figures:
        goal = "" if figure.goal_us is None else f"goal {figure.goal_us:g}"
        print(f"{figure.what:50} {figure.us:8.2f} us   {goal}")
    frame, delta, mark = figures[1].us, figures[3].us, figures[4].us
    share = (50 * frame + 5 * delta + 10 * mark) / 1e4
    print(f"{'300 calls at once, both speaking':50} {300 * share:8.1f} % of one core")
    return 0 if all(figure.goal_us is None or figure.us <= figure.goal_us for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
