"""Places: taken before a call exists, given back once, never more than there are."""

from pathlib import Path

import pytest

from bridge.live.places import Places, lay_out, shared


def test_places_run_out_and_come_back() -> None:
    places = Places(2)
    assert [places.take() for _ in range(3)] == [True, True, False]
    assert places.full and places.taken == 2
    places.leave()
    assert [places.take() for _ in range(2)] == [True, False]


def test_a_place_is_given_back_once() -> None:
    places = Places(1)
    with pytest.raises(AssertionError, match="given back once"):
        places.leave()


def test_workers_share_their_places(tmp_path: Path) -> None:
    page = lay_out(tmp_path / "places", 2)
    one = Places(3, shared(tmp_path / "places"), worker=0)
    two = Places(3, shared(tmp_path / "places"), worker=1)
    assert one.take() and one.take() and two.take()
    assert one.full and two.full and not one.take() and not two.take()
    assert list(page) == [2, 1]
    page[0] = 0  # the first is dead
    assert two.taken == 1 and two.take()


def test_who_takes_a_dead_workers_number_begins_without_calls(tmp_path: Path) -> None:
    lay_out(tmp_path / "places", 2)
    Places(3, shared(tmp_path / "places"), worker=1).take()
    assert Places(3, shared(tmp_path / "places"), worker=1).taken == 0
