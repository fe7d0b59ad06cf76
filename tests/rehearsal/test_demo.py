"""How the demo judges its call, what it shows of it and what it writes down."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import wave
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bridge.call.transcript import Entry
from bridge.errors import EndReason, UsageError
from bridge.rehearsal import demo, telling
from bridge.rehearsal.demo import CLIPS, SPOKEN, Evidence
from bridge.rehearsal.telling import Result
from bridge.rehearsal.watch import Cut
from bridge.sim import virtual, voices

from .scenes import HOURS, Scene


def caller(text: str) -> Entry:
    return Entry("caller", f"of {text}", 0.0, text, settled=True)


def agent(item_id: str, received_ms: float, *, heard_ms: float | None = None) -> Entry:
    cut = heard_ms is not None
    return Entry("agent", item_id, 0.0, f"Words of {item_id}.", True, received_ms, heard_ms or received_ms, cut=cut)


def cut(told_ms: float, truth_ms: float) -> Cut:
    return Cut(9600.0, "answer", told_ms, truth_ms, 9000.0)


GOOD = Evidence(
    entries=[
        agent("greeting", 3000.0),
        caller("What are your opening hours"),
        agent("answer", 9000.0, heard_ms=3200.0),
        caller("where are you located"),
        agent("address", 5000.0),
        caller("no that is all thank you"),
        agent("goodbye", 1800.0),
    ],
    cuts=[cut(3200.0, 3210.0)],
    played_ms={"greeting": 3000.0, "answer": 3210.0, "address": 5000.0, "goodbye": 1800.0},
    spoken_ms=13_000.0,
    reason=EndReason.AGENT_HUNG_UP,
)


def but(**changes: Any) -> Evidence:
    return dataclasses.replace(GOOD, **changes)


def heard_as(*texts: str) -> Evidence:
    """The same call, the caller's words understood otherwise."""
    return but(entries=[entry for entry in GOOD.entries if entry.role != "caller"] + [caller(text) for text in texts])


def played(item_id: str, ms: float) -> Evidence:
    return but(played_ms={**GOOD.played_ms, item_id: ms})


UNDERSTOOD = ("What are your opening hours", "where are you located", "that is all")

# what was otherwise, what the judge says
JUDGED: dict[str, tuple[Evidence, list[str]]] = {
    "nothing": (GOOD, []),
    "the caller left first": (but(reason=EndReason.CALLER_LEFT), []),
    "in capitals, with more words around": (heard_as(*(f"Well, {text.upper()}!" for text in UNDERSTOOD)), []),
    "a phrase taken for another": (
        heard_as("What are your opening hours", "We are relocated", "that is all"),
        [
            'the model did not understand "Where are you located?"'
            " (it heard: what are your opening hours; we are relocated; that is all)"
        ],
    ),
    "a phrase lost": (
        heard_as(*UNDERSTOOD[:2]),
        [
            'the model did not understand "No, that is all, thank you."'
            " (it heard: what are your opening hours; where are you located)",
            "the model heard 2 of the 3 things the caller said",
        ],
    ),
    "deaf": (
        heard_as(),
        [f'the model did not understand "{line.words}" (it heard: nothing)' for line in SPOKEN]
        + ["the model heard 0 of the 3 things the caller said"],
    ),
    "three seconds of the agent": (but(spoken_ms=3000.0), []),
    "less than three": (but(spoken_ms=2990.0), ["the caller heard less than 3 seconds of the agent"]),
    "silence": (but(spoken_ms=0.0), ["the caller heard less than 3 seconds of the agent"]),
    "never cut": (but(cuts=[]), ["the agent was not interrupted"]),
    "an answer deleted unheard": (but(cuts=[cut(0.0, 0.0)]), ["the agent was not interrupted"]),
    "an answer deleted that was heard": (
        but(cuts=[*GOOD.cuts, cut(0.0, 500.0)]),
        ["the model was told 0 ms were heard, the caller heard 500 ms"],
    ),
    "40 ms too many": (but(cuts=[cut(3240.0, 3200.0)]), []),
    "40 ms too few": (but(cuts=[cut(3160.0, 3200.0)]), []),
    "41 ms too many": (
        but(cuts=[cut(3241.0, 3200.0)]),
        ["the model was told 3241 ms were heard, the caller heard 3200 ms"],
    ),
    "41 ms too few, the second time": (
        but(cuts=[*GOOD.cuts, cut(3159.0, 3200.0)]),
        ["the model was told 3159 ms were heard, the caller heard 3200 ms"],
    ),
    "an answer not quite played": (played("address", 4960.0), []),
    "an answer half played": (
        played("address", 2500.0),
        ['of "Words of address." only 2500 of 5000 ms reached the caller'],
    ),
    "an interrupted answer half played": (played("answer", 4000.0), []),
    **{
        reason.value: (but(reason=reason), [f"the call ended with {reason.value}"])
        for reason in EndReason
        if reason not in (EndReason.AGENT_HUNG_UP, EndReason.CALLER_LEFT)
    },
}


@pytest.mark.parametrize("otherwise", JUDGED)
def test_the_judgement_names_what_was_not_as_it_should_be_and_nothing_else(otherwise: str) -> None:
    evidence, found = JUDGED[otherwise]
    assert demo.faults(evidence, SPOKEN) == found


def test_every_fault_of_a_call_is_told() -> None:
    nothing = Evidence([agent("greeting", 3000.0)], [], {"greeting": 0.0}, 0.0, EndReason.STALLED)
    assert len(demo.faults(nothing, SPOKEN)) == 3 + 5


def test_without_recognition_it_counts_that_something_was_heard_each_time() -> None:
    assert demo.faults(heard_as("", "", ""), CLIPS) == []
    for count in (0, 2):
        told = demo.faults(heard_as(*[""] * count), CLIPS)
        assert told == [f"the model heard {count} of the 3 things the caller said"]


# ---------------------------------------------------------------- the call itself, on virtual time, with the clips


@pytest.fixture(scope="module")
def result() -> Result:
    async def call() -> Result:
        async with Scene() as scene:
            leg = await scene.call()
            await leg.streaming()
            await demo.converse(leg, CLIPS, lambda told: None)
            return Result(leg, scene.watch(leg), await scene.reason(leg))

    return virtual.run(call())


Demo = Callable[..., tuple[int, str]]


@pytest.fixture
def page() -> io.StringIO:
    """What the demo prints."""
    return io.StringIO()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, result: Result, page: io.StringIO) -> Demo:
    """The demo, with this call or another instead of its own."""

    def run(folder: Path, call: Callable[[], Result] = lambda: result) -> tuple[int, str]:
        async def make_call(progress: demo.Progress) -> Result:
            progress("The telephone rings ...")
            return call()

        monkeypatch.setattr(demo, "make_call", make_call)
        monkeypatch.setattr(voices, "speaks", lambda: False)
        return virtual.run(demo.demo(folder, Console(file=page, width=600))), page.getvalue()

    return run


def test_a_folder_that_takes_nothing_is_told_before_the_call(run: Demo, tmp_path: Path) -> None:
    def no_call() -> Result:
        raise AssertionError("it must not be made")

    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"--out .*file.* Name a folder that can be written"):
            run(folder, no_call)


def test_the_caller_asks_interrupts_and_says_goodbye(result: Result) -> None:
    told = [(row.who, row.said) for row in telling.rows(result) if row.who == "caller"]
    assert told == [("caller", line.words) for line in CLIPS]
    (cut,) = result.cuts
    assert 3200 <= cut.truth_ms < 3600, "interrupted so far into the answer, give or take the detection"
    assert demo.faults(Evidence.of(result), CLIPS) == []


def test_evidence_is_taken_from_the_carriers_account(result: Result) -> None:
    evidence = Evidence.of(result)
    for entry in evidence.entries:
        if entry.role == "agent" and not entry.cut:
            assert evidence.played_ms[entry.item_id] == pytest.approx(entry.received_ms, abs=1.0)
    assert 3000 < evidence.spoken_ms < sum(evidence.played_ms.values()), "sound, and not the pauses in it"
    assert evidence.reason is EndReason.AGENT_HUNG_UP


def test_a_good_call_is_a_table_a_sound_a_picture_and_a_success(run: Demo, result: Result, tmp_path: Path) -> None:
    code, told = run(tmp_path / "new" / "folder")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in told.splitlines() if "│" in line]
    assert [who for _, who, *_ in rows] == "agent caller agent caller agent caller agent tool".split()
    assert all(latency.endswith(" ms") for _, who, *_, latency in rows if who == "caller")
    (cut,) = result.cuts
    assert rows[2][2].startswith("You asked about our opening hours. " + HOURS)
    assert rows[2][3].endswith(f"nine | interrupted: told {cut.told_ms:.0f} ms, heard {cut.truth_ms:.0f} ms")
    assert "The telephone rings ..." in told
    assert f"Written: {tmp_path / 'new' / 'folder'}/call.wav" in told
    assert "Both directions carried speech" in told and "Not as it should be" not in told


def test_the_sound_has_the_caller_on_the_left_and_the_agent_on_the_right(
    run: Demo, result: Result, tmp_path: Path
) -> None:
    run(tmp_path)
    with wave.open(str(tmp_path / "call.wav")) as wav:
        assert (wav.getnchannels(), wav.getframerate()) == (2, 8000)
        sound = np.frombuffer(wav.readframes(wav.getnframes()), "<i2").astype(np.int32).reshape(-1, 2)
    assert len(sound) == pytest.approx(result.leg.now_ms * 8, abs=8)
    levels = {who: np.abs(sound[:, side]) for side, who in enumerate(("caller", "agent"))}
    question = result.leg.line.spoken[0]
    assert levels["caller"][question.start : question.stop].mean() > 300
    assert levels["agent"][question.start : question.stop].mean() < 30, "the agent listens"
    assert levels["agent"][: question.start].mean() > 300, "the greeting"
    assert levels["caller"][: question.start].mean() < 30


def test_the_data_has_every_turn_and_every_interruption(run: Demo, result: Result, tmp_path: Path) -> None:
    run(tmp_path)
    data = json.loads((tmp_path / "call.json").read_text("utf-8"))
    assert (data["agent"], data["ended"], data["success"], data["faults"]) == ("front-desk", "agent_hung_up", True, [])
    assert [turn["said"] for turn in data["turns"] if turn["who"] == "caller"] == [line.words for line in CLIPS]
    assert all(400 < turn["latency_ms"] < 1500 for turn in data["turns"] if turn["who"] == "caller")
    (told,), (cut,) = data["interruptions"], result.cuts
    assert (told["item_id"], told["told_ms"]) == (cut.item_id, cut.told_ms)
    assert told["error_ms"] == pytest.approx(told["told_ms"] - told["heard_ms"], abs=0.1)


def test_the_picture_says_who_was_called_and_how_it_ended(run: Demo, result: Result, tmp_path: Path) -> None:
    run(tmp_path)
    picture = "".join(ET.parse(tmp_path / "call.svg").getroot().itertext())
    assert "A call to +15550100, answered by front-desk" in picture
    assert "ended: agent hung up" in picture and CLIPS[1].words in picture


def test_a_call_that_went_wrong_is_written_down_too_and_fails(run: Demo, result: Result, tmp_path: Path) -> None:
    code, told = run(tmp_path, lambda: Result(result.leg, result.watch, EndReason.STALLED))
    assert code == 1
    assert "Not as it should be: the call ended with stalled" in told and "Both directions" not in told
    data = json.loads((tmp_path / "call.json").read_text("utf-8"))
    assert (data["success"], data["faults"]) == (False, ["the call ended with stalled"])
    assert (tmp_path / "call.wav").exists() and (tmp_path / "call.svg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("name", ["call.json", "call.svg", "call.wav"])
def test_a_disk_that_fills_up_costs_a_file_and_not_what_was_found_out(
    run: Demo, page: io.StringIO, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(UsageError, match=rf"^{tmp_path}/{name} cannot be written: No space left on device\. Make room"):
        run(tmp_path)
    assert "The call ended after" in page.getvalue() and "Both directions carried speech" in page.getvalue()
    assert "Written" not in page.getvalue()


def test_a_folder_that_becomes_a_file_during_the_call_is_told(
    run: Demo, page: io.StringIO, result: Result, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"

    def call() -> Result:
        folder.rmdir()
        folder.write_text("")
        return result

    with pytest.raises(UsageError, match=rf"^{folder} cannot be written: File exists\. "):
        run(folder, call)
    assert "Both directions carried speech" in page.getvalue()


def test_words_are_shown_as_they_are_whatever_they_are(
    run: Demo, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greeting, question, *_ = result.entries
    monkeypatch.setattr(question, "text", "[/] what [laughs] now")
    monkeypatch.setattr(greeting, "text", "[/] good [day]")
    monkeypatch.setattr(greeting, "received_ms", greeting.received_ms + 1000)
    _, told = run(tmp_path / "[a] folder")
    assert "│ [/] what [laughs] now " in told and "│ [/] good [day] " in told
    assert 'Not as it should be: of "[/] good [day]" only' in told
    assert "[a] folder/call.wav" in told


def test_a_call_that_does_not_end_is_given_up_after_forty_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def never(progress: demo.Progress) -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(demo, "make_call", never)
    page = io.StringIO()

    async def take() -> tuple[int, float]:
        began = asyncio.get_running_loop().time()
        code = await demo.demo(tmp_path, Console(file=page))
        return code, asyncio.get_running_loop().time() - began

    assert virtual.run(take()) == (1, 40.0)
    assert "The call did not end within 40 seconds." in page.getvalue()
    assert not list(tmp_path.iterdir())
