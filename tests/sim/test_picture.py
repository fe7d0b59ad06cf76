from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bridge.sim.picture import Sign, Turn, draw

SECOND = 8000


def loud(seconds: float) -> np.ndarray:
    return (8000 * np.sin(np.arange(int(seconds * SECOND)) / 5)).astype(np.int16)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_call_is_drawn_with_words_signs_seconds_and_a_legend_of_what_it_shows() -> None:
    svg = draw(
        loud(6),
        loud(9),
        turns=[
            Turn("caller", 500, 2500, "What are your <opening> hours?"),
            Turn("agent", 3000, 6000, "From nine & on", unheard_ms=2000),
        ],
        signs=[
            Sign(5700, "barge_in", "the caller interrupts"),
            Sign(5900, "clear", "cleared"),
            Sign(3100, "mark", "1.1"),
            Sign(7000, "key", "key 5"),
            Sign(7500, "fault", "line stalls", until_ms=8000),
        ],
        title="A <call>",
        subtitle="to the front desk",
    )
    shown = " ".join(texts(svg))
    for expected in ("A <call>", "front desk", "Caller", "Agent", "<opening>", "From nine & on", "never heard: 2.0 s"):
        assert expected in shown
    for expected in ("the caller interrupts", "key 5", "line stalls", "0 s", "9 s", "key pressed", "never heard"):
        assert expected in shown
    assert "uses a tool" not in shown, "the legend names only what is there"


@pytest.mark.parametrize(("seconds", "rows"), [(0.1, 1), (23, 1), (25, 2), (100, 5)])
def test_long_calls_continue_in_further_rows(seconds: float, rows: int) -> None:
    svg = draw(loud(seconds), loud(seconds / 2))
    assert texts(svg).count("Caller") == rows


def test_an_empty_call_is_still_a_picture() -> None:
    svg = draw(np.zeros(0, np.int16), np.zeros(0, np.int16))
    assert "A call" in texts(svg)


def test_a_turn_that_crosses_rows_keeps_its_words_in_the_longer_part() -> None:
    svg = draw(loud(48), loud(48), turns=[Turn("agent", 22000, 32000, "words")])
    assert texts(svg).count("words") == 1
    assert texts(svg).count("…") == 1


def test_it_refers_to_nothing_outside_itself() -> None:
    svg = draw(loud(2), loud(2), turns=[Turn("caller", 0, 500, "hi")], signs=[Sign(100, "note", "n")])
    assert "href" not in svg
    assert svg.count("http") == 1, "the namespace alone"
