"""The caller's timeline: in order, complete by the carrier's clock, nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.audio.formats import MULAW_8K, PCM16_24K
from bridge.audio.timeline import CallerTimeline

QUIET = b"\xff"


def frame(number: int) -> bytes:
    """20 ms of mu-law that tell which frame they are (never the silence code)."""
    return bytes([number % 250]) * 160


def ordered() -> CallerTimeline:
    return CallerTimeline(MULAW_8K, ordered=True)


def unordered() -> CallerTimeline:
    return CallerTimeline(MULAW_8K, ordered=False)


def play(timeline: CallerTimeline, *frames: tuple[int | None, bytes]) -> bytes:
    return b"".join(timeline.push(at, data) for at, data in frames)


def test_frames_in_order_pass_untouched_wherever_the_stream_begins():
    timeline = ordered()
    assert play(timeline, *((5 + 20 * n, frame(n)) for n in range(9))) == b"".join(map(frame, range(9)))
    assert (timeline.filled_ms, timeline.late, timeline.duplicate) == (0, 0, 0)


def test_missing_frames_become_silence_of_their_length():
    timeline = ordered()
    assert play(timeline, (0, frame(0)), (60, frame(3))) == frame(0) + QUIET * 320 + frame(3)
    assert timeline.filled_ms == 40


def test_pcm16_gaps_are_filled_with_whole_samples():
    timeline = CallerTimeline(PCM16_24K, ordered=True)
    assert play(timeline, (0, b"ab" * 480), (41, b"cd" * 480)) == b"ab" * 480 + bytes(21 * 48) + b"cd" * 480


def test_at_most_ten_seconds_are_filled():
    timeline = ordered()
    assert len(play(timeline, (0, frame(0)), (3_600_000, frame(1)), (3_600_020, frame(2)))) == 80_000 + 480
    assert timeline.filled_ms == 10_000


def test_silence_already_given_to_the_model_is_not_given_again():
    timeline = ordered()
    timeline.push(0, frame(0))
    timeline.credit(1000)
    assert timeline.push(1220, frame(1)) == QUIET * 1600 + frame(1)
    assert timeline.push(1280, frame(2)) == QUIET * 320 + frame(2)


def test_more_silence_given_than_was_missing_shortens_no_later_gap():
    timeline = ordered()
    timeline.push(0, frame(0))
    timeline.credit(1000)
    assert timeline.push(300, frame(1)) == frame(1)
    assert timeline.push(360, frame(2)) == QUIET * 320 + frame(2)


@pytest.mark.parametrize("at_ms", [20, 21])  # 21: the carrier's clock jitters
def test_a_pause_of_the_network_leaves_no_credit(at_ms):
    timeline = ordered()
    timeline.push(0, frame(0))
    timeline.credit(1000)
    assert timeline.push(at_ms, frame(1)) == frame(1)
    assert timeline.push(140, frame(7)) == QUIET * 800 + frame(7)


def test_jitter_of_the_carriers_clock_neither_fills_nor_drops():
    timeline = ordered()
    stamps = [0, 21, 35, 70, 78, 100, 131, 129, 160]
    assert play(timeline, *((at, frame(n)) for n, at in enumerate(stamps))) == b"".join(map(frame, range(9)))
    assert (timeline.filled_ms, timeline.late) == (0, 0)


def test_a_clock_that_drifts_is_followed_to_within_a_frame():
    timeline, out = ordered(), 0
    for n in range(2000):
        out += len(timeline.push(round(n * 20.1), frame(n)))
    assert abs(out / 8 - 2000 * 20.1) <= 20
    assert timeline.late == timeline.duplicate == 0


def test_the_same_frame_twice_is_heard_once():
    timeline = ordered()
    assert play(timeline, (0, frame(0)), (20, frame(1)), (20, frame(1)), (40, frame(2))) == frame(0) + frame(1) + frame(
        2
    )
    assert (timeline.duplicate, timeline.late, timeline.filled_ms) == (1, 0, 0)


def test_a_late_frame_whose_place_was_filled_is_dropped():
    timeline = ordered()
    out = play(timeline, (0, frame(0)), (40, frame(2)), (20, frame(1)), (60, frame(3)))
    assert out == frame(0) + QUIET * 160 + frame(2) + frame(3)
    assert (timeline.late, timeline.filled_ms) == (1, 20)


def test_a_clock_that_begins_anew_is_believed():
    timeline = ordered()
    timeline.push(600_000, frame(0))
    assert play(timeline, (0, frame(1)), (20, frame(2))) == frame(1) + frame(2)
    timeline = ordered()
    timeline.push(500, frame(0))
    assert play(timeline, (0, frame(1)), (20, frame(2)), (40, frame(3))) == frame(2) + frame(3)
    assert timeline.filled_ms == 0


def test_frames_without_a_timestamp_pass():
    timeline = ordered()
    assert play(timeline, (None, frame(0)), (None, frame(1)), (-5, frame(2)), (10**400, frame(3))) == b"".join(
        map(frame, range(4))
    )


def test_nothing_is_nothing():
    assert ordered().push(100, b"") == b""


def test_swapped_frames_are_put_in_order_where_order_is_not_guaranteed():
    timeline = unordered()
    out = [timeline.push(at, frame(at // 20)) for at in (0, 40, 20, 60)]
    assert out == [frame(0), b"", frame(1) + frame(2), frame(3)]
    assert (timeline.filled_ms, timeline.late) == (0, 0)


def test_a_frame_that_never_comes_is_waited_for_sixty_milliseconds():
    timeline = unordered()
    out = [timeline.push(at, frame(at // 20)) for at in (0, 40, 60, 80, 100, 20)]
    assert out == [frame(0), b"", b"", QUIET * 160 + frame(2) + frame(3) + frame(4), frame(5), b""]
    assert timeline.late == 1


def test_a_held_frame_that_comes_again_counts_as_duplicate():
    timeline = unordered()
    assert play(timeline, (0, frame(0)), (40, frame(2)), (40, frame(2)), (20, frame(1))) == b"".join(
        map(frame, range(3))
    )
    assert timeline.duplicate == 1


def test_what_is_held_can_be_had_at_the_end():
    timeline = unordered()
    timeline.push(0, frame(0))
    assert timeline.push(40, frame(2)) == b""
    assert timeline.flush() == QUIET * 160 + frame(2)
    assert timeline.flush() == b""


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_neighbours_swapped_lost_and_repeated_in_any_way_come_out_in_order_and_complete(data):
    """Frames arrive at most two places early or late; some never, some twice."""
    count = data.draw(st.integers(3, 40))
    lost = data.draw(st.sets(st.integers(1, count - 2)))
    arrivals = sorted(
        (n + data.draw(st.floats(0, 1.9)), n)
        for n in range(count)
        if n not in lost
        for _ in range(data.draw(st.integers(1, 2)))
    )
    if arrivals[0][1] != 0:
        arrivals.insert(0, (0.0, 0))
    timeline = unordered()
    out = play(timeline, *((20 * n, frame(n)) for _, n in arrivals)) + timeline.flush()
    want = b"".join(QUIET * 160 if n in lost else frame(n) for n in range(count))
    assert out == want
    assert timeline.filled_ms == 20 * len(lost)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-10, 10**13) | st.integers(0, 3000), st.integers(0, 400))), st.booleans())
def test_no_stamps_can_break_it_and_every_frame_is_given_or_counted(frames, in_order):
    timeline = CallerTimeline(MULAW_8K, ordered=in_order)
    out = play(timeline, *((at, bytes(size)) for at, size in frames)) + timeline.flush()
    given_out = len(out) - timeline.filled_ms * 8
    dropped = timeline.late + timeline.duplicate
    assert sum(size for _, size in frames) - 400 * dropped <= given_out + len(frames)
    assert given_out <= sum(size for _, size in frames)


def test_two_late_frames_with_a_frame_in_time_between_them_are_no_new_clock():
    timeline = ordered()
    assert play(timeline, *((20 * n, frame(n)) for n in range(5) if n not in (1, 2))) != b""
    assert timeline.push(20, frame(1)) == b""
    assert timeline.push(100, frame(5)) == frame(5)
    assert timeline.push(40, frame(2)) == b""
    assert timeline.late == 2


def test_a_clock_that_begins_anew_at_stamps_that_were_just_heard_is_a_new_clock():
    timeline = ordered()
    play(timeline, *((20 * n, frame(n)) for n in range(60)))
    assert timeline.push(0, frame(1)) == frame(1)
    assert timeline.push(20, frame(2)) == frame(2) and timeline.duplicate == 0


def test_late_frames_in_a_row_are_late_where_order_is_not_guaranteed():
    timeline = unordered()
    play(timeline, (0, frame(0)), *((20 * n, frame(n)) for n in range(3, 9)))
    late = timeline.late
    assert timeline.push(20, frame(1)) == timeline.push(40, frame(2)) == b""
    assert timeline.late == late + 2
