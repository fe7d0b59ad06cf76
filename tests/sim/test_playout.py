from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.sim.playout import Playout


def test_audio_plays_at_once_when_nothing_lies_before_it() -> None:
    playout = Playout()
    assert playout.play(b"\x20" * 160, 1000).plays_from == 1000
    assert playout.heard(1000) == 0
    assert playout.heard(1080) == 80
    assert playout.heard(5000) == 160


def test_audio_plays_after_what_is_buffered_and_after_a_gap_at_once_again() -> None:
    playout = Playout()
    playout.play(b"\x20" * 160, 0)
    assert playout.play(b"\x20" * 160, 10).plays_from == 160
    assert playout.play(b"\x20" * 160, 1000).plays_from == 1000
    assert playout.heard(1000) == 320


def test_a_mark_into_an_empty_buffer_is_due_at_once() -> None:
    playout = Playout()
    assert playout.mark("a", 50) == 50
    assert playout.due_marks(50) == ["a"]


def test_a_mark_is_due_to_the_sample_when_the_audio_before_it_has_been_played() -> None:
    playout = Playout()
    playout.play(b"\x20" * 160, 100)
    playout.mark("a", 101)
    assert playout.due_marks(259) == []
    assert playout.due_marks(260) == ["a"]


def test_a_clear_gives_back_every_waiting_mark_and_knows_what_was_heard() -> None:
    playout = Playout()
    for number in range(3):
        playout.play(b"\x20" * 800, 0)
        playout.mark(str(number), 0)
    assert playout.due_marks(1000) == ["0"]
    cleared = playout.clear(1000)
    assert (cleared.heard, cleared.dropped, cleared.received, cleared.marks) == (1000, 1400, 2400, ("1", "2"))
    assert playout.heard(9999) == 1000
    assert playout.play(b"\x20" * 80, 1001).plays_from == 1001


def test_what_was_heard_of_one_stretch_counts_from_where_it_was_received() -> None:
    playout = Playout()
    playout.play(b"\x20" * 800, 0)  # item A
    playout.play(b"\x20" * 1600, 0)  # item B
    assert playout.heard_of(800, 2400, 800) == 0
    assert playout.heard_of(800, 2400, 1000) == 200
    playout.clear(1000)
    assert playout.heard_of(800, 2400, 5000) == 200
    assert playout.heard_of(0, 800, 5000) == 800
    assert playout.heard_of(0, 800, 300) == 300, "asked for the past it answers as of then"


ACTS = st.lists(
    st.tuples(st.sampled_from(["play", "mark", "clear", "wait"]), st.integers(min_value=1, max_value=60)), max_size=40
)


@settings(max_examples=300, deadline=None)
@given(ACTS)
def test_it_agrees_with_a_buffer_played_sample_by_sample(acts: list[tuple[str, int]]) -> None:
    playout, now = Playout(), 0
    buffer: list[int | str] = []  # position of a received sample, or the name of a mark
    heard: list[int] = []
    received = 0
    returned: list[str] = []
    expected: list[str] = []

    def pass_marks() -> None:
        while buffer and isinstance(buffer[0], str):
            expected.append(str(buffer.pop(0)))

    for number, (act, amount) in enumerate(acts):
        if act == "play":
            playout.play(b"\x20" * amount, now)
            buffer += range(received, received + amount)
            received += amount
        elif act == "mark":
            playout.mark(str(number), now)
            buffer.append(str(number))
        elif act == "clear":
            returned += playout.due_marks(now)
            returned += playout.clear(now).marks
            expected += [name for name in buffer if isinstance(name, str)]
            buffer = []
        else:
            for _ in range(amount):
                pass_marks()
                if buffer:
                    heard.append(int(buffer.pop(0)))
                now += 1
        pass_marks()
        returned += playout.due_marks(now)
        assert returned == expected
        assert playout.heard(now) == len(heard)
        middle = received // 2
        assert playout.heard_of(middle, received, now) == sum(position >= middle for position in heard)
        assert playout.buffered(now) == sum(isinstance(each, int) for each in buffer)
