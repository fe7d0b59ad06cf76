from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bridge.sim.figures import NAMES, Measures, Spread
from bridge.sim.measures import clicks, measure
from bridge.sim.outcome import AgentTurn, CallerTurn, Cut, Gap, Outcome, Truncation
from bridge.sim.sounds import Stretch, joined, loud_ms

RATE = 8


def track(length_ms: int, *sounds: tuple[int, int]) -> np.ndarray:
    samples = np.zeros(length_ms * RATE, np.int16)
    for start, stop in sounds:
        at = np.arange((stop - start) * RATE)
        samples[start * RATE : stop * RATE] = (6000 * np.sin(at / 4)).astype(np.int16)
    return samples


def outcome(length_ms: int = 20_000, *, agent: list[tuple[int, int]], caller: list[CallerTurn], **more: Any) -> Outcome:
    return Outcome(
        name="test",
        length_ms=length_ms,
        caller=track(length_ms, *((int(t.start_ms), int(t.stop_ms)) for t in caller)),
        agent=track(length_ms, *agent),
        stream_from_ms=100,
        status="completed",
        caller_turns=tuple(caller),
        **more,
    )


def test_stretches_of_sound_are_found_and_short_pauses_closed() -> None:
    found = loud_ms(track(3000, (100, 500), (700, 900), (1200, 1300), (2000, 2010)))
    assert found == [Stretch(100, 500), Stretch(700, 900), Stretch(1200, 1300), Stretch(2000, 2010)]
    assert joined(found) == [Stretch(100, 900), Stretch(1200, 1300), Stretch(2000, 2010)]
    assert loud_ms(np.zeros(0, np.int16)) == []


def test_a_calm_conversation() -> None:
    found = measure(
        outcome(
            12_000,
            agent=[(400, 2000), (4500, 7000), (10_000, 11_000)],
            caller=[CallerTurn(3000, 4000, "a"), CallerTurn(8000, 9200, "b")],
        )
    )
    assert found.first_sound_ms.p50 == 300
    assert (found.answer_ms.count, found.answer_ms.p50, found.answer_ms.max) == (2, 500, 800)
    assert found.yield_ms == Spread()
    assert (found.barge_ins, found.overlap_ms, found.false_interruptions) == (0, 0, 0)
    assert found.dead_air_longest_ms == 1000
    assert found.dead_air_ms == 0
    assert found.talk_ratio == pytest.approx(5100 / 7300, abs=0.001)


def test_an_interruption_is_yielded_to_and_answered() -> None:
    found = measure(
        outcome(
            agent=[(400, 5300), (7100, 8000)],
            caller=[CallerTurn(5000, 6500, "wait")],
            cuts=(Cut(5250, 4900, 3000),),
            truncations=(Truncation(5250, "item", 4880, 4900), Truncation(9000, "item", 1000, 990)),
        )
    )
    assert found.yield_ms.p50 == 300
    assert found.barge_ins == 1
    assert found.overlap_ms == 300
    assert found.answer_ms.p50 == 600
    assert (found.truncation_error_ms.count, found.truncation_error_ms.p50, found.truncation_error_ms.max) == (
        2,
        10,
        20,
    )
    assert found.false_interruptions == 0
    assert found.dead_air_longest_ms == 12_000


def test_ringing_somewhere_else_is_no_dead_air() -> None:
    found = measure(outcome(12_000, agent=[(400, 2000)], caller=[], put_through_ms=2300))
    assert (found.dead_air_longest_ms, found.dead_air_ms) == (300, 0)


def test_silencing_the_agent_for_a_cough_is_a_false_interruption_and_no_barge_in() -> None:
    found = measure(
        outcome(
            agent=[(400, 5300)],
            caller=[CallerTurn(5000, 5200, "cough", meant=False)],
            cuts=(Cut(5250, 4900, 3000), Cut(9000, 4900, 0)),
        )
    )
    assert (found.false_interruptions, found.barge_ins, found.answer_ms.count) == (1, 0, 0)


def test_silencing_the_agent_just_after_a_turn_is_no_false_interruption_and_long_after_it_is_one() -> None:
    turn = CallerTurn(5000, 6000, "wait")
    for cut_at_ms, expected in ((4990, 1), (5200, 0), (6900, 0), (7100, 1)):
        found = measure(outcome(agent=[(400, 9000)], caller=[turn], cuts=(Cut(cut_at_ms, 1, 3000),)))
        assert found.false_interruptions == expected, cut_at_ms


def test_an_answer_belongs_to_the_turn_before_it() -> None:
    found = measure(
        outcome(agent=[(9000, 9500)], caller=[CallerTurn(1000, 2000, "hello"), CallerTurn(5000, 6000, "hello?")])
    )
    assert (found.answer_ms.count, found.answer_ms.p50) == (1, 3000)


def test_words_lost_at_the_start_are_counted() -> None:
    turns = [
        CallerTurn(1000, 2000, "What are your opening hours?", understood="your opening hours"),
        CallerTurn(3000, 4000, "Where are you?", understood="where are you"),
        CallerTurn(5000, 6000, "Two words", understood=""),
        CallerTurn(7000, 8000, "Nobody can tell"),
    ]
    assert measure(outcome(agent=[], caller=turns)).words_lost_at_start == 4


def test_gaps_are_summed_and_clicks_heard_where_pieces_meet() -> None:
    calm = outcome(agent=[(1000, 3000)], caller=[], gaps=(Gap(1500, 40), Gap(1800, 60)), borders_ms=(1200.0, 2000.0))
    found = measure(calm)
    assert (found.gaps, found.gap_ms, found.clicks) == (2, 100, 0)
    jumpy = calm.agent.copy()
    crest = 2000 * RATE + int(np.argmax(np.abs(jumpy[2000 * RATE : 2000 * RATE + 40]))) + 1
    jumpy[crest:] = 0  # cut off at the top of a wave, without a fade
    assert clicks(replace(calm, agent=jumpy, borders_ms=(crest / RATE,))) == [crest / RATE]


def test_many_calls_are_measured_together() -> None:
    one = outcome(agent=[(4500, 7000)], caller=[CallerTurn(3000, 4000, "a")])
    two = outcome(agent=[(4900, 7000)], caller=[CallerTurn(3000, 4000, "a")])
    found = measure(one, two)
    assert (found.answer_ms.count, found.answer_ms.p50, found.answer_ms.p99) == (2, 500, 900)
    assert measure() == Measures()


def test_a_call_without_a_stream_has_nothing_to_measure() -> None:
    empty = Outcome("x", 0, np.zeros(0, np.int16), np.zeros(0, np.int16), None, "canceled")
    assert measure(empty) == Measures()


def test_figures_are_found_by_their_names() -> None:
    figures = Measures(gaps=3, answer_ms=Spread.of([1, 2, 3]))
    assert figures.value("gaps") == 3
    assert figures.value("answer_ms.p50") == 2
    assert figures.value("yield_ms.max") is None
    for name in NAMES:
        figures.value(name)
    for wrong in ("answer_ms", "gaps.p50", "answer_ms.p42", "nothing"):
        assert wrong not in NAMES
        with pytest.raises(KeyError):
            figures.value(wrong)


def test_percentiles_are_values_that_occurred() -> None:
    assert Spread.of(range(1, 101)) == Spread(100, 50, 95, 99, 100)
    assert Spread.of([]) == Spread()
    assert AgentTurn(0, 1).heard_text == ""


def test_a_filler_is_no_answer_where_the_agents_words_are_known() -> None:
    turn = CallerTurn(1000, 2000, "Is it open?")
    call = outcome(agent=[(4000, 4500), (5600, 7000)], caller=[turn])
    assert measure(call).answer_ms.p50 == 2000
    told = replace(call, agent_turns=(AgentTurn(5600, 7000, "It is.", "It is."),))
    assert measure(told).answer_ms.p50 == 3600
    quiet = replace(call, agent_turns=(AgentTurn(4000, 4500, "", ""), *told.agent_turns))
    assert measure(quiet).answer_ms.p50 == 2000, "an answer whose words nobody wrote down"
    joined = replace(outcome(agent=[(4000, 7000)], caller=[turn]), agent_turns=told.agent_turns)
    assert measure(joined).answer_ms.p50 == 3600
