"""Commands as a person types them: what is printed, and what the exit code says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge import cli
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.records.journal import Journal
from bridge.settings import Directory, IncomingCall, load
from bridge.telephony.twilio import CAPABILITIES

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["voice-bridge", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return int(str(code or 0)), told.out + told.err

    return command


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a call that was answered, heard something and was hung up."""
    plan, _ = Directory(load({})).plan(IncomingCall(CAPABILITIES, "CA1", "AC1", "+15550100", "+15550101"))
    path = tmp_path / "call.jsonl"
    written, call = Journal(path, plan), Call(plan, 0.0)
    facts = [ev.CallRouted(), ev.StreamStarted("MZ1"), ev.CallerSpoke(b"\xff" * 160, 20.0), ev.CallerLeft("stop")]
    for at, fact in enumerate(facts):
        written.watch(at * 20.0, fact, call.handle(fact, at * 20.0))
    written.wait_closed()
    return path


def test_a_journal_of_today_has_no_difference(run: Run, journal: Path) -> None:
    assert run("replay", journal) == (0, "4 facts, no difference: today's core decides the same.\n")


def test_a_journal_of_another_core_shows_the_first_difference(run: Run, journal: Path) -> None:
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    assert "caller_left" in lines[-1]
    journal.write_text("".join(lines[:-1]) + lines[-1].replace("caller_left", "stalled"), "utf-8")
    code, told = run("replay", journal)
    assert code == 1 and "line 5" in told and "stalled" in told and "caller_left" in told


def test_what_is_no_journal_is_said_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}\n")
    for file in (tmp_path / "x", tmp_path / "nowhere"):
        code, told = run("replay", file)
        assert code == 1 and file.name in told and "Traceback" not in told


def test_a_probe_of_nobody_fails_and_says_so(run: Run) -> None:
    code, told = run("probe", "ws://127.0.0.1:9/v1/realtime")
    assert code == 1 and "A call would not work." in told


def test_a_probe_takes_no_key_in_an_address(run: Run) -> None:
    code, told = run("probe", "wss://a.example.test/v1/realtime?api_key=sk-secret")
    assert code == 1 and "environment" in told and "sk-secret" not in told


def test_talk_names_an_agent_it_does_not_know(run: Run) -> None:
    code, told = run("talk", "--agent", "front-dsk")
    assert code == 1 and "did you mean front-desk" in told


def test_serve_says_which_folder_it_cannot_write_journals_to(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workers in ("1", "2"):
        code, told = run("serve", "--port", "0", "--workers", workers, "--journal", tmp_path / "file")
        assert code == 1 and "Name a folder that can be written" in told


def test_a_worker_is_started_by_serve_alone(run: Run) -> None:
    code, told = run("--help")
    assert code == 0 and "probe" in told and " worker " not in told
