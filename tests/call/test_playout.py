"""The ledger against a carrier whose truth is known: what the caller had heard when the clear arrived there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from bridge.call import actions as do
from bridge.call.plan import CarrierCapabilities
from tests.call.carrier import Carrier
from tests.call.playbook import (
    Playbook,
    caller_speaks,
    caller_stops,
    ends,
    item_done,
    plan,
    response,
    says,
    stream,
    tag_of,
)

DELTA_MS = 200.0
SPEED = 5.0  # how much faster than real time the model speaks


@dataclass
class Cut:
    """One item at one interruption."""

    told_ms: float  # what the model was told the caller heard
    heard_ms: float  # what the carrier had played when the clear arrived
    received_ms: float

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
                self.cuts.append(Cut(told.get(item_id, ms), heard, ms))


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


def cuts_of(*, speed: float = SPEED, calls: int = 12, turns: int = 20, **carrier: float) -> list[Cut]:
    """What many callers' interruptions came to, over one kind of network and carrier."""
    made = (Caller(Carrier(seed=seed, **carrier), seed, speed=speed).call(turns) for seed in range(calls))  # type: ignore[arg-type]
    return list(itertools.chain.from_iterable(made))


def check(cuts: list[Cut], p95_ms: float) -> None:
    assert len(cuts) >= 200
    errors = sorted(abs(one.error_ms) for one in cuts)
    assert errors[int(len(errors) * 0.95)] <= p95_ms
    assert all(0 <= one.told_ms <= one.received_ms for one in cuts)


# ---------------------------------------------------------------- how exact it is

NETWORKS = [(0, 0), (60, 0), (150, 0), (0, 20), (60, 20), (150, 20)]  # one-way latency, jitter


@pytest.mark.parametrize(("latency", "jitter"), NETWORKS)
@pytest.mark.parametrize("lag", [0, 200])
def test_the_model_is_told_what_was_heard_when_the_clear_arrived(latency: float, jitter: float, lag: float) -> None:
    """A model five times faster than real time, in deltas of 200 ms; a carrier that plays in frames of 20 ms."""
    cuts = cuts_of(out_ms=latency, back_ms=latency, jitter_ms=jitter, lag_ms=lag, frame_ms=20)
    check(cuts, 40 if jitter else 20)


@pytest.mark.parametrize(("latency", "jitter"), [(0, 0), (60, 0), (150, 0), (60, 20)])
@pytest.mark.parametrize(("speed", "lag"), [(0.7, 0), (0.95, 0), (0.7, 200)])
def test_a_model_slower_than_the_ear_runs_the_buffer_dry_and_confuses_nothing(
    latency: float, jitter: float, speed: float, lag: float
) -> None:
    """Where the lag is about as long as the pauses, nobody can tell in time whether the buffer was dry: not here."""
    cuts = cuts_of(speed=speed, out_ms=latency, back_ms=latency, jitter_ms=jitter, lag_ms=lag, frame_ms=20)
    check(cuts, 40 if jitter else 20)


@pytest.mark.parametrize(("out_ms", "back_ms"), [(20, 200), (200, 20)])
def test_the_way_out_and_the_way_back_need_not_be_alike(out_ms: float, back_ms: float) -> None:
    check(cuts_of(out_ms=out_ms, back_ms=back_ms, frame_ms=20), 20)


def test_some_marks_may_be_lost() -> None:
    check(cuts_of(out_ms=60, back_ms=60, frame_ms=20, loses_marks=0.05), 20)


def test_without_marks_the_clock_alone_is_good_while_nothing_goes_wrong() -> None:
    check(cuts_of(marks=False, out_ms=60, back_ms=60), 20)


def _talking(carrier: Carrier, ms: float = 30_000) -> Playbook:
    book = Playbook.connected(plan(), carrier)
    book.run_until(1000)
    book.give(response("r1"))
    book.give(says("r1", "long", ms))
    book.give(ends("r1"))
    return book


def _told(book: Playbook) -> float:
    book.give(caller_speaks())
    return float(next(one.audio_end_ms for one in book.all(do.TruncateItem) if isinstance(one, do.TruncateItem)))


@pytest.mark.parametrize("after_ms", [0, 50, 100, 200, 300, 500, 1000, 2000])
def test_a_carrier_that_halts_is_never_believed_to_be_further_than_a_round_trip(after_ms: float) -> None:
    """While it stands still nobody can know more; the longer it does, the nearer the guess to where it stands."""
    book = _talking(Carrier(out_ms=60, back_ms=60))
    book.run_until(3000)
    book.carrier.pause(3000, 10_000)
    book.run_until(3000 + after_ms)
    truth = book.heard_ms("long")
    told = _told(book)
    assert truth - 1 <= told <= truth + 120 + 60 + 100
    if after_ms >= 500:
        assert told <= truth + 100  # a slice


def test_a_carrier_that_halted_is_reckoned_with_as_before_when_it_goes_on() -> None:
    for cut_at in range(4000, 6000, 170):
        book = _talking(Carrier(out_ms=60, back_ms=60))
        book.run_until(3000)
        book.carrier.pause(3000, 400)
        book.run_until(cut_at)
        told = _told(book)
        book.run_until(cut_at + 61)
        assert abs(told - book.heard_ms("long")) <= 20


def test_marks_that_dawdle_and_come_all_at_once_are_forgotten_when_they_are_back() -> None:
    for cut_at in range(4000, 6000, 170):
        book = _talking(Carrier(out_ms=60, back_ms=60, marks_held=(3000.0, 3300.0)))
        book.run_until(cut_at)
        told = _told(book)
        book.run_until(cut_at + 61)
        assert abs(told - book.heard_ms("long")) <= 20


# ---------------------------------------------------------------- how much is sent ahead


@pytest.mark.parametrize("lead", [200, 400, 1000])
@pytest.mark.parametrize("latency", [0, 150])
def test_never_much_more_than_the_lead_lies_in_the_carriers_buffer_nor_less_than_half(
    lead: float, latency: float
) -> None:
    book = Playbook.connected(plan(lead_ms=lead), Carrier(out_ms=latency, back_ms=latency))
    book.run_until(1000)
    book.give(response("r1"))
    for number in range(50):
        book.run_until(1000 + number * 40)
        book.give(says("r1", "long", 200))
    for _ in range(300):
        book.run_until(book.now + 20)
        if book.now > 1500 + latency:
            assert lead / 2 - 100 <= book.carrier.buffered_ms(book.now) <= lead + 101


def test_what_the_caller_hears_has_no_gap_and_is_in_order() -> None:
    book = Playbook.connected(plan(), Carrier(out_ms=80, back_ms=80, jitter_ms=20, seed=3))
    book.run_until(700)
    book.give(response("r1"))
    for item, ms in (("a", 1234.0), ("b", 777.0), ("c", 2001.0)):
        book.give(says("r1", item, ms))
        book.give(item_done("r1", item))
    book.give(ends("r1"))
    book.run_until(8000)
    played = book.carrier.played
    assert [one.tag for one in played] == [tag_of("a"), tag_of("b"), tag_of("c")]
    assert [round(one.ends - one.begins) for one in played] == [1234, 777, 2001]
    assert all(before.ends == after.begins for before, after in itertools.pairwise(played))


def test_slices_are_short_and_each_has_its_mark() -> None:
    book = _talking(Carrier())
    book.run_until(5000)
    sound = [one for _, one in book.log if isinstance(one, do.PlayAudio | do.PlaceMark)]
    first = next(i for i, one in enumerate(sound) if isinstance(one, do.PlayAudio))
    pairs = list(zip(sound[first::2], sound[first + 1 :: 2], strict=False))
    assert all(isinstance(audio, do.PlayAudio) and audio.ms <= 100 for audio, _ in pairs)
    names = [mark.name for _, mark in pairs if isinstance(mark, do.PlaceMark)]
    assert len(names) == len(pairs) == len(set(names))


def test_the_stream_begins_with_marks_that_measure_the_way() -> None:
    book = Playbook.connected(plan(), Carrier(out_ms=70, back_ms=50))
    book.run_until(3000)
    reckoning = book.call.state.ledger.reckoning
    assert reckoning.round_trip_ms == pytest.approx(120)
    assert 3 <= len(book.all(do.PlaceMark)) <= 5  # and then no more, while nothing is said


def test_samples_of_two_bytes_are_never_cut_in_half() -> None:
    carrier = CarrierCapabilities(encoding="pcm16", rate_hz=11_025)
    book = Playbook.connected(plan(carrier=carrier))
    book.give(response("r1"))
    book.give(says("r1", "a", 3000))
    played = [one for one in book.all(do.PlayAudio) if isinstance(one, do.PlayAudio)]
    assert played
    assert all(len(one.audio) % 2 == 0 for one in played)


def test_another_stream_takes_over_where_the_caller_stopped_hearing() -> None:
    """What the old stream had buffered is sent again; positions go on."""
    book = _talking(Carrier(), 3000)
    book.run_until(2000)
    assert book.heard_ms("long") == 1000
    book.carrier = Carrier()  # the new stream has a buffer of its own
    book.carrier.advance(book.now)
    book.give(stream("MZ2"))
    book.run_until(2500)
    assert book.heard_ms("long") == 500
    assert _told(book) == 1500


def test_nothing_is_lost_between_two_streams() -> None:
    book = _talking(Carrier(), 3000)
    book.run_until(2000)
    heard = book.heard_ms("long")
    book.carrier = Carrier()
    book.give(stream("MZ2"))
    book.run_until(10_000)
    assert heard + book.heard_ms("long") == 3000


def test_a_mark_names_its_epoch_so_that_no_two_are_alike() -> None:
    book = _talking(Carrier(), 3000)
    book.run_until(2000)
    before = {one.name.split(".")[0] for one in book.all(do.PlaceMark) if isinstance(one, do.PlaceMark)}
    book.log.clear()
    book.give(caller_speaks())
    book.give(caller_stops())
    book.give(response("r2"))
    book.give(says("r2", "again", 1000))
    after = {one.name.split(".")[0] for one in book.all(do.PlaceMark) if isinstance(one, do.PlaceMark)}
    assert (before, after) == ({"1"}, {"2"})
