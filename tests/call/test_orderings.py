"""Every ordering of short independent streams, against the promises.

Within a stream the order is that of a real peer; between streams everything happens in every order. Between two facts
a step of time passes in which deadlines are kept. The tree of orderings is walked with copies of the call, so that
orderings with a common beginning share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial, prod

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import CallPlan
from bridge.call.state import State
from tests.call.playbook import (
    INTERRUPTS,
    OBEYS,
    ROUTED,
    asks_tool,
    caller_leaves,
    caller_speaks,
    caller_stops,
    complains,
    ends,
    item_done,
    lost,
    plan,
    pressed,
    ready,
    response,
    says,
    stream,
    tag_of,
    tool_done,
)
from tests.call.promises import Promises

STEP_MS = 130.0
MARKS = "marks"  # stands for: the three oldest marks that are out come back


@dataclass(frozen=True)
class Streams:
    """What independent peers do, each in its own order."""

    name: str
    plan: CallPlan
    streams: tuple[Sequence[ev.Event | str], ...]

    @property
    def orderings(self) -> int:
        lengths = [len(one) for one in self.streams]
        return factorial(sum(lengths)) // prod(factorial(length) for length in lengths)


def _reply(first: str, second: str) -> list[ev.Event | str]:
    """A reply of two items that asks for a tool, and the answer to the tool's output."""
    return [
        response("r1"),
        says("r1", first, 300),
        asks_tool("t1"),
        says("r1", second, 300),
        ends("r1"),
        response("r2"),
        says("r2", "third", 200),
    ]


ALL = [
    *(
        Streams(
            f"a reply, a tool and an interruption, with a service that {model.name}",
            plan(model=model),
            (_reply("first", "second"), [caller_speaks("c1"), caller_stops("c1")], [tool_done("t1")], [MARKS, MARKS]),
        )
        for model in (INTERRUPTS, OBEYS)
    ),
    Streams(
        "keys, a hang-up and a caller who leaves",
        plan(model=OBEYS, interrupt_hang_up=True),
        (
            [response("r1"), says("r1", "first", 600), ends("r1")],
            [caller_speaks(), caller_stops(), pressed("#"), caller_leaves("stop")],
            [ev.HangUpWished("agent"), ev.HandedOver("hang_up", True)],
            [MARKS, MARKS],
        ),
    ),
    Streams(
        "a session lost in mid-reply",
        plan(),
        (
            [response("r1"), says("r1", "first", 600), lost(1), ready(2), response("r2"), says("r2", "second", 200)],
            [caller_speaks(), caller_stops(), stream("MZ2")],
            [MARKS, MARKS],
        ),
    ),
    Streams(
        "responses asked for, refused, cancelled and late",
        plan(barge_in=100, model=OBEYS),
        (
            [response("r1"), says("r1", "first", 300), item_done("r1", "first"), ends("r1", "cancelled")],
            [complains("wait"), response("r2"), says("r2", "second", 300), ends("r2", "failed")],
            [caller_speaks(), caller_stops(), pressed("5")],
        ),
    ),
]


def test_there_are_at_least_a_hundred_thousand_orderings() -> None:
    assert sum(one.orderings for one in ALL) >= 100_000


@pytest.mark.parametrize("streams", ALL, ids=lambda one: one.name)
def test_every_ordering_keeps_the_promises(streams: Streams) -> None:
    items = {event.item_id for one in streams.streams for event in one if isinstance(event, ev.ModelSpoke)}
    promises = Promises({item_id: tag_of(item_id) for item_id in items})
    walk = _Walk(streams)
    call = Call(streams.plan, 0.0)
    marks: list[str] = []
    for fact in (ROUTED, stream(), ready()):
        _give(call, promises, marks, fact, 0.0)
    walk.from_here(call, promises, marks, 0.0, (0,) * len(streams.streams))
    assert walk.reached == streams.orderings


class _Walk:
    def __init__(self, streams: Streams) -> None:
        self.plan = streams.plan
        self.streams = streams.streams
        self.lengths = tuple(map(len, streams.streams))
        self.reached = 0
        self.path: list[str] = []
        self.encode: Callable[[State], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], State] = msgspec.msgpack.Decoder(State).decode

    def from_here(self, call: Call, promises: Promises, marks: list[str], now: float, places: tuple[int, ...]) -> None:
        choices = [i for i, length in enumerate(self.lengths) if places[i] < length]
        if not choices:
            self.reached += 1
            self._rest(call, promises, marks, now)
            return
        state = self.encode(call.state) if len(choices) > 1 else b""
        for number, i in enumerate(choices):
            last = number == len(choices) - 1
            if not last:
                next_call = Call(self.plan, now, state=self.decode(state), elapsed=now)
                next_promises, next_marks = promises.copy(), list(marks)
            else:
                next_call, next_promises, next_marks = call, promises, marks
            fact = self.streams[i][places[i]]
            self.path.append(f"{fact}")
            try:
                self._step(next_call, next_promises, next_marks, fact, now + STEP_MS)
            except AssertionError as error:
                raise AssertionError(f"{error}\n  after " + "\n  then ".join(self.path)) from error
            self.from_here(
                next_call,
                next_promises,
                next_marks,
                now + STEP_MS,
                (*places[:i], places[i] + 1, *places[i + 1 :]),
            )
            self.path.pop()

    def _step(self, call: Call, promises: Promises, marks: list[str], fact: ev.Event | str, now: float) -> None:
        _wait(call, promises, marks, now)
        if isinstance(fact, str):
            for name in marks[:3]:
                _give(call, promises, marks, ev.MarkReturned(name), now)
            del marks[:3]
        else:
            _give(call, promises, marks, fact, now)

    def _rest(self, call: Call, promises: Promises, marks: list[str], now: float) -> None:
        if self.reached % 10 == 0:  # a long silence is slow to live through: every tenth does
            try:
                _wait(call, promises, marks, now + 30_000)
                promises.at_rest(call)
            except AssertionError as error:
                raise AssertionError(f"{error}\n  long after " + "\n  then ".join(self.path)) from error


def _give(call: Call, promises: Promises, marks: list[str], fact: ev.Event, now: float) -> None:
    promises.fact(fact)
    actions = call.handle(fact, now)
    promises.requests(call, now, fact, actions)
    marks += [one.name for one in actions if type(one) is do.PlaceMark]


def _wait(call: Call, promises: Promises, marks: list[str], until: float) -> None:
    """Deadlines are kept at their time."""
    for _ in range(2000):
        deadline = call.deadline()
        if deadline is None or deadline > until:
            return
        _give(call, promises, marks, ev.DeadlineReached(), deadline)
    raise AssertionError("the call is busy for ever")
