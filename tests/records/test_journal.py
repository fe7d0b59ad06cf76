"""A call written down as it happens can be lived through again, and shows where today's core decides differently."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import get_args

import pytest

from bridge.call import actions as do
from bridge.call import bargein
from bridge.call import events as ev
from bridge.call.plan import CallPlan
from bridge.errors import UsageError
from bridge.records import journal
from bridge.records.journal import Audio, Journal, read, replay, torn_line
from tests.call.playbook import Playbook
from tests.call.test_snapshot import A_LIFE, THE_PLAN


class _Watched(Playbook):
    journal: Journal

    def give(self, fact: ev.Event) -> list[do.Action]:
        actions = super().give(fact)
        self.journal.watch(self.call.elapsed(self.now), fact, actions)
        return actions


def _live(path: Path, audio: Audio = "lengths", plan: CallPlan = THE_PLAN, until: int = 99) -> _Watched:
    """A call with everything in it, journalled."""
    book = _Watched(plan)
    book.journal = Journal(path, plan, audio=audio)
    for at_ms, fact in A_LIFE[:until]:
        book.run_until(at_ms)
        book.give(fact)
    book.journal.wait_closed()
    return book


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "call.jsonl"


@pytest.mark.parametrize("audio", ["lengths", "full"])
def test_todays_core_makes_the_same_of_its_own_journal(path: Path, audio: Audio) -> None:
    book = _live(path, audio)
    assert book.call.over
    assert replay(path) is None
    assert len(path.read_text().splitlines()) > len(A_LIFE)


def test_every_fact_can_be_read_back() -> None:
    every = {kind for kind in ev.Event.__subclasses__() if kind.__module__ == ev.__name__}
    assert set(get_args(ev.AnyEvent)) == every
    assert all(kind.__struct_config__.tag for kind in every)


def test_sound_is_its_length_unless_asked_for(path: Path, tmp_path: Path) -> None:
    _live(path)
    _live(tmp_path / "full.jsonl", "full")
    facts = [json.loads(line)["fact"] for line in path.read_text().splitlines()[1:]]
    assert {fact["audio"] for fact in facts if fact["type"] == "ModelSpoke"} == {
        16_000,
        12_000,
        4000,
        24_000,
        8000,
        5600,
    }
    clips = {name: len(sound) for name, sound in THE_PLAN.agent.clips.items()}
    assert clips and json.loads(path.read_text().splitlines()[0])["plan"]["agent"]["clips"] == clips
    assert path.stat().st_size < (tmp_path / "full.jsonl").stat().st_size / 4


def test_a_fact_that_cannot_be_written_is_lost_alone_and_the_journal_says_so(path: Path) -> None:
    journal = Journal(path, THE_PLAN)
    facts = [ev.ToolFinished(f"t{n}", "\udcff" if n == 7 else "{}", False) for n in range(60)]
    for fact in facts:
        journal.watch(0.0, fact, [])
    journal.wait_closed()
    assert journal.lost == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [n for n, line in enumerate(lines) if "lost" in line] == [7] and len(lines) == 60
    with pytest.raises(UsageError, match="line 9: 1 facts are missing here"):
        list(read(path)[1])


def test_a_core_that_decides_differently_is_shown_the_first_difference(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _live(path)
    monkeypatch.setattr(bargein, "_cut_item", lambda desk, one: None)
    difference = replay(path)
    assert difference is not None
    text = str(difference)
    assert text.startswith(f"line {difference.line}, {difference.at_ms:.1f} ms: {difference.fact['type']}(")
    assert "    ClearPlayback()" in text
    assert "  - TruncateItem(item_id='a1'" in text


def test_a_core_that_breaks_is_a_difference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _live(path)

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("the ledger is upside down")

    monkeypatch.setattr(bargein, "interrupt", broken)
    difference = replay(path)
    assert difference is not None
    assert "! AssertionError: the ledger is upside down" in str(difference)


def test_a_changed_journal_is_a_difference_at_its_line(path: Path) -> None:
    _live(path)
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if '"type":"RequestResponse"' in line)
    lines[number] = lines[number].replace('"type":"RequestResponse"', '"type":"CancelResponse"', 1)
    path.write_text("\n".join(lines) + "\n")
    difference = replay(path)
    assert difference is not None
    assert difference.line == number + 1


def test_a_journal_broken_off_in_mid_line_is_good_up_to_there(path: Path) -> None:
    _live(path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert torn_line(path) == 0
    path.write_bytes(b"".join(lines)[:-1])  # nothing but its end is missing
    assert replay(path) is None and torn_line(path) == 0
    path.write_bytes(b"".join(lines)[:-20])
    assert replay(path) is None and torn_line(path) == len(lines)


def test_a_call_that_is_still_going_on_can_be_replayed(path: Path) -> None:
    _live(path, until=12)
    assert replay(path) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not the journal"),
        ("{}\n", "not the journal"),
        ("[]\n", "not the journal"),
        ("nonsense\n", "line 1"),
        ('{"journal": 99, "plan": {}}\n', "version 99"),
        ('{"journal": 2, "plan": {}}\n', "plan cannot be read"),
        ('{"journal": 2, "plan": 7}\n', "plan cannot be read"),
    ],
)
def test_what_is_no_journal_is_refused(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        replay(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"lost": 3}', "3 facts are missing"),
        ('{"at": 1}', "no line of a journal"),
        ("{]", "line 3"),
        ('{"at": 0, "fact": {"type": "Sneezed"}, "requests": []}', "no fact of a call"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(path: Path, line: str, why: str) -> None:
    _live(path, until=1)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=why):
        replay(path)


def test_only_its_owner_may_read_it(path: Path) -> None:
    _live(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_journal_loses_what_comes_after_and_says_how_much(path: Path) -> None:
    book = _Watched(THE_PLAN)
    book.journal = Journal(path, THE_PLAN, most_bytes=8000)
    for at_ms, fact in A_LIFE:
        book.run_until(at_ms)
        book.give(fact)
    book.journal.wait_closed()
    assert book.journal.lost > 0
    assert path.stat().st_size <= 8100
    with pytest.raises(UsageError, match=f": {book.journal.lost} facts are missing here"):
        replay(path)


def test_a_disk_that_stalls_loses_facts_and_never_the_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MOST_BATCHES", 0)
    book = _live(path)
    assert book.journal.lost > 0
    with pytest.raises(UsageError, match=f"line 2: {book.journal.lost} facts are missing here"):
        replay(path)


def test_a_journal_that_cannot_be_created_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Journal(tmp_path / "nowhere" / "call.jsonl", THE_PLAN)


@pytest.mark.parametrize(
    "damage",
    [{"fact": 5}, {"requests": 5}, {"requests": [5]}, {"at": "x"}, {"fact": {"type": "CallerSpoke", "audio": [1]}}],
)
def test_a_damaged_line_is_a_sentence(path: Path, damage: dict[str, object]) -> None:
    _live(path)
    lines = path.read_text().splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | damage)
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="line 4: this is no line of a journal"):
        replay(path)


def test_a_plan_alone_is_no_call_that_was_lived_through(path: Path) -> None:
    _live(path)
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="none of its facts"):
        replay(path)


def test_nothing_is_written_after_the_end(path: Path) -> None:
    book = _live(path)
    size = path.stat().st_size
    book.journal.watch(0.0, ev.CallRouted(), [])
    book.journal.close()
    book.journal.wait_closed()
    assert path.stat().st_size == size


def _press(one: Journal, facts: int) -> None:
    for _ in range(facts):
        one.watch(0.0, ev.CallerPressed("1"), [])


def test_a_disk_that_keeps_up_loses_nothing_of_a_long_call(path: Path) -> None:
    one = Journal(path, THE_PLAN)
    for _ in range(60):
        _press(one, 50)
        one._waiting[-1].result()
    one.wait_closed()
    assert one.lost == 0 and len(path.read_text().splitlines()) == 1 + 60 * 50


def test_what_was_lost_stands_in_the_journal_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Journal(path, THE_PLAN)
    monkeypatch.setattr(journal, "_MOST_BATCHES", 0)
    _press(one, 50)
    monkeypatch.setattr(journal, "_MOST_BATCHES", 40)
    _press(one, 100)
    one.wait_closed()
    lost = [line for line in map(json.loads, path.read_text().splitlines()) if "lost" in line]
    assert lost == [{"lost": 50}] and one.lost == 50


def test_after_a_write_that_failed_nothing_more_is_written_but_how_much_is_missing(path: Path) -> None:
    one = Journal(path, THE_PLAN)
    one._waiting[-1].result()
    file = one._file

    class Full:
        def write(self, data: bytes) -> None:
            one._file = file  # there is room again, after a piece is missing
            raise OSError("no space left")

        def close(self) -> None:
            file.close()

    one._file = Full()  # type: ignore[assignment]
    _press(one, 150)
    one.wait_closed()
    assert one.lost == 150 and path.read_text().splitlines()[1:] == ['{"lost":150}']
