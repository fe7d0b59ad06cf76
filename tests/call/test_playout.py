"""The ledger against a carrier whose truth is known: what the caller had heard when the clear arrived there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge.call import actions as do
from bridge.call.plan import CarrierCapabilities
from tests.call.carrier import Carrier
from tests.call.playbook import Playbook, caller_speaks, caller_stops, ends, item_done, plan, response, says, tag_of

DELTA_MS = 200.0
SPEED = 5.0  # how much faster than real time the model speaks


@dataclass
class Cut:
    """One item at one interruption."""

    told_ms: float  # what the model was told the caller heard
    heard_ms: float  # what the carrier had played when the clear arrived
    received_ms: float
    spoken_ms: float  # since the response began to play, when the caller interrupted

    @property
    def error_ms(self) -> float:
        return self.told_ms - self.heard_ms


@dataclass
class Caller:
    """A caller who interrupts every response at a random moment, and what came of it."""

    carrier: Carrier
    seed: int
    speed: float = SPEED
    lead_ms: float = 400
    cuts: list[Cut] = field(default_factory=list)

    def call(self, turns: int) -> list[Cut]:
        chance = random.Random(self.seed)
        capabilities = CarrierCapabilities(marks=self.carrier.marks, marks_return_on_clear=self.carrier.marks_on_clear)
        book = Playbook.connected(plan(carrier=capabilities, lead_ms=self.lead_ms), self.carrier)
        book.run_until(chance.uniform(400, 1500))  # nobody answers the moment the stream is there
        for turn in range(turns):
            self._turn(book, turn, chance)
            book.run_until(book.now + chance.uniform(300, 2000))
        return self.cuts

    def _turn(self, book: Playbook, turn: int, chance: random.Random) -> None:
        response_id = f"r{self.seed}.{turn}"
        lengths = [chance.uniform(500, 6000) for _ in range(chance.choice((1, 1, 2)))]
        items = {f"i{turn % 100}.{number}": length for number, length in enumerate(lengths)}
        began = book.now
        cut_at = began + chance.uniform(100, sum(lengths) + 200)
        before = {item_id: book.carrier.heard_ms(tag_of(item_id), 1e12) for item_id in items}
        received = dict.fromkeys(items, 0.0)
        book.give(response(response_id))
        for at_ms, item_id, ms in deltas(items, began + 300, self.speed):
            if at_ms >= cut_at:
                break
            book.run_until(at_ms)
            if ms:
                received[item_id] += ms
                book.give(says(response_id, item_id, ms))
            else:
                book.give(item_done(response_id, item_id))
        else:
            book.give(ends(response_id))
        book.run_until(cut_at)
        expected = book.now
        done = book.give(caller_speaks())
        cleared = any(isinstance(one, do.ClearPlayback) for one in done)
        arrives = book.carrier.clear_arrives_at() if cleared else 1e12
        told = {one.item_id: float(one.audio_end_ms) for one in done if isinstance(one, do.TruncateItem)}
        told |= {one.item_id: 0.0 for one in done if isinstance(one, do.DeleteItem)}
        book.give(ends(response_id, "cancelled"))
        book.give(caller_stops())
        book.run_until(max(book.now, min(arrives, book.now + 1000)) + 1)
        for item_id, ms in received.items():
            heard = book.carrier.heard_ms(tag_of(item_id), arrives) - before[item_id]
            if ms:
                self.cuts.append(Cut(told.get(item_id, ms), heard, ms, expected - began))


def deltas(items: dict[str, float], began: float, speed: float) -> Iterator[tuple[float, str, float]]:
    """(time, item, ms of audio) as a model streams it; 0 ms stands for the end of an item."""
    at_ms = began
    for item_id, length in items.items():
        left = length
        while left > 0:
            ms = min(DELTA_MS, round(left))
            if not ms:
                break
            yield at_ms, item_id, ms
            at_ms += ms / speed
            left -= ms
        yield at_ms, item_id, 0.0


def cuts_of(calls: int, turns: int, **settings: float) -> list[Cut]:
    seeds = range(calls)
    return list(
        itertools.chain.from_iterable(Caller(Carrier(seed=seed, **settings), seed).call(turns) for seed in seeds)
    )  # type: ignore[arg-type]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
