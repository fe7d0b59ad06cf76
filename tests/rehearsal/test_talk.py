"""Conversations with an agent by text and by file, against the model on this machine."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bridge.audio.wav import WavWriter, read_wav
from bridge.errors import RealtimeError, UsageError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from bridge.rehearsal import talk
from bridge.settings import Settings, load
from bridge.tools.toolbox import Toolbox

BRAIN = Brain.from_dict(
    {
        "greeting": "Front desk.",
        "intents": [
            {"name": "hours", "phrases": ["when are you open"], "answer": "From nine to five."},
            {
                "name": "person",
                "phrases": ["a person please"],
                "tool": {"name": "transfer", "arguments": {"target": "operator"}},
                "answer": "I will put you through.",
            },
            {"name": "bye", "phrases": ["goodbye"], "tool": {"name": "hang_up"}, "answer": "Goodbye then."},
        ],
    },
    source="test",
)


class Hours:
    """Understands everything as the same question."""

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard("hours", "when are you open")

    async def close(self) -> None:
        pass


def model(script: Mapping[str, Any] | None = None) -> LocalModel:
    return LocalModel({"front-desk": BRAIN}, script=script or {}, recogniser=Hours(), detection="energy")


def settings_for(url: str, **more: str) -> Settings:
    return load({"BRIDGE_REALTIME__PROFILE": "local", "BRIDGE_REALTIME__URL": url, **more})


def address(running: LocalModel) -> str:
    return f"ws://127.0.0.1:{running.port}/v1/realtime"


async def typed(*lines: str) -> AsyncIterator[str]:
    for line in lines:
        yield line


async def converse(url: str, *lines: str, agent: str = "") -> tuple[int, str]:
    page = io.StringIO()
    code = await talk.talk(
        settings_for(url), agent, Console(file=page, width=200), lines=typed(*lines), toolbox=Toolbox()
    )
    return code, page.getvalue()


async def test_the_agent_greets_and_answers_what_is_typed() -> None:
    async with model() as running:
        code, shown = await converse(address(running), "When are you open?", "", "/quit", "never read")
    assert code == 0
    assert (
        "agent: Hello, this is the front desk. How can I help you?\n" in shown
        and "agent: From nine to five.\n" in shown
    )
    assert "never read" not in shown


async def test_a_tool_runs_and_a_wish_to_transfer_ends_the_conversation_after_the_answer() -> None:
    async with model() as running:
        _, shown = await converse(address(running), "A person please", "never read")
    assert 'tool: transfer({"target":"operator"}) -> {"ok": true}' in shown
    assert "I will put you through." in shown
    assert shown.endswith("The agent transfers the caller to +15550100.\n")
    assert "never read" not in shown


async def test_a_wish_to_hang_up_ends_the_conversation() -> None:
    async with model() as running:
        _, shown = await converse(address(running), "Goodbye", "never read")
    assert "Goodbye then." in shown and shown.endswith("The agent hangs up.\n")


async def test_an_error_of_the_service_is_shown_and_the_conversation_goes_on() -> None:
    script = {"responses": [{"nth": 2, "status": "failed", "code": "rate_limit_exceeded", "message": "Too fast."}]}
    async with model(script) as running:
        code, shown = await converse(address(running), "When are you open?", "When are you open?")
    assert code == 1 and "error: the answer is failed: Too fast." in shown
    assert shown.count("From nine to five.") >= 1


async def test_a_session_that_the_service_closes_ends_the_conversation_plainly() -> None:
    script = {"steps": [{"after_type": "response.done", "nth": 1, "close": {"code": 1001, "reason": "over"}}]}
    async with model(script) as running:
        code, shown = await converse(address(running), "When are you open?", "never read", "never read")
    assert code == 1 and shown.endswith("The service closed the session.\n")


async def test_whoever_waits_for_the_service_is_told_so_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(talk, "GREETED_S", 0.3)
    page = io.StringIO()
    async with model({"no_created": True}) as running:
        with pytest.raises(RealtimeError, match="did not greet us within"):
            await talk.talk(settings_for(address(running)), "", Console(file=page), lines=typed(), toolbox=Toolbox())
    assert page.getvalue() == "Waiting for the service ...\n"


async def test_whoever_waits_for_an_answer_is_told_so_and_that_none_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(talk, "ANSWER_S", 0.3)
    async with model({"responses": [{"nth": 1, "silent": True}]}) as running:
        code, shown = await converse(address(running))
    _, *told, _ = shown.splitlines()
    assert code == 1 and told == ["Waiting for the answer ...", "error: no answer within 0 s"]


class Unread(io.StringIO):
    """Taken until the agent speaks."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        if "agent" in text and "Talking" not in text:
            raise self._error
        return super().write(text)


class Piped(Console):
    """As rich has it, but for the process's own standard output, which is put away there."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("error", "ends_as"), [(BrokenPipeError(), SystemExit), (OSError(errno.ENOSPC, "No space left on device"), OSError)]
)
async def test_where_nothing_can_be_shown_any_more_the_conversation_ends(
    error: OSError, ends_as: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(10), model() as running:
        settings, console = settings_for(address(running)), Piped(file=Unread(error))
        with pytest.raises(ends_as):
            await talk.talk(settings, "", console, lines=typed("When are you open?"), toolbox=Toolbox())
    assert caplog.records == []


async def test_a_service_that_cannot_be_had_is_an_error_with_its_reason() -> None:
    async with model({"refuse": {"status": 403}}) as running:
        with pytest.raises(RealtimeError, match="403"):
            await converse(address(running), "Hello")


async def test_an_agent_nobody_knows_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean front-desk"):
        await converse("ws://127.0.0.1:9/v1/realtime", agent="front-dsk")


async def test_an_agent_is_reached_by_name_whatever_number_it_has() -> None:
    async with model() as running:
        _, shown = await converse(address(running), agent="pizza-order")
    assert "Welcome to the pizza kitchen." in shown


async def play(url: str, folder: Path, samples: Any, rate_hz: int) -> tuple[int, str]:
    writer = WavWriter(folder / "in.wav", rate_hz, 1 if samples.ndim == 1 else samples.shape[1])
    writer.write(samples.astype("<i2").tobytes())
    writer.close()
    page = io.StringIO()
    code = await talk.play(
        settings_for(url),
        "",
        Console(file=page, width=200),
        heard=folder / "in.wav",
        said=folder / "out.wav",
        toolbox=Toolbox(),
    )
    return code, page.getvalue()


async def test_a_stereo_file_of_any_rate_is_answered_into_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    loud = (rng.normal(0, 6000, (44_100 // 2, 2))).astype(np.int16)
    async with model() as running:
        code, shown = await play(address(running), tmp_path, loud, 44_100)
    answer, rate_hz = read_wav(tmp_path / "out.wav")
    assert code == 0 and rate_hz == 24_000
    assert len(answer) > rate_hz // 2 and np.abs(answer.astype(int)).max() > 500
    assert "caller: when are you open" in shown and "agent: From nine to five." in shown


async def test_a_file_after_whose_answer_the_service_hangs_up_is_written_and_has_failed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    script = {"steps": [{"after_type": "response.done", "nth": 1, "close": {"code": 1011, "reason": "over"}}]}
    async with model(script) as running:
        code, shown = await play(address(running), tmp_path, rng.normal(0, 6000, 8000), 8000)
    assert code == 1 and shown.endswith("s of the agent.\nThe service closed the session.\n")
    assert (tmp_path / "out.wav").exists()


async def test_a_file_nobody_answers_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "UNANSWERED_S", 0.5)
    rng = np.random.default_rng(1)
    async with model({"stuck_vad": True}) as running:
        code, shown = await play(address(running), tmp_path, rng.normal(0, 6000, 8000), 8000)
    assert code == 1 and shown.endswith("The agent did not answer.\n")
    assert not (tmp_path / "out.wav").exists()


async def test_a_file_in_which_nobody_speaks_is_given_up_soon_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "UNHEARD_S", 0.5)
    (tmp_path / "out.wav").write_bytes(b"of another day")
    async with asyncio.timeout(10), model() as running:
        code, shown = await play(address(running), tmp_path, np.zeros(800, np.int16), 8000)
    _, *told, verdict = shown.splitlines()
    assert code == 1 and told == ["Playing 0.1 s ...", "Played; waiting for the answer ..."]
    assert verdict.startswith(f"Nothing was understood of {tmp_path}/in.wav: ") and "somebody who speaks" in verdict
    assert (tmp_path / "out.wav").read_bytes() == b"of another day"


async def test_a_file_without_sound_or_a_place_for_the_answer_is_refused_before_anything_is_played(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=r"in\.wav holds no sound at all"):
        await play("ws://127.0.0.1:9/v1/realtime", tmp_path, np.zeros(0, np.int16), 8000)
    (tmp_path / "out.wav").mkdir()
    with pytest.raises(UsageError, match=r"--wav .*out\.wav: Is a directory\. Name a file that can be written"):
        await play("ws://127.0.0.1:9/v1/realtime", tmp_path, np.zeros(80, np.int16), 8000)
    (tmp_path / "out.wav").rmdir()
    (tmp_path / "out.wav").symlink_to(tmp_path / "in.wav")
    with pytest.raises(UsageError, match=r"--wav .*out\.wav: that is the file to be read\. Name another"):
        await play("ws://127.0.0.1:9/v1/realtime", tmp_path, np.zeros(80, np.int16), 8000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
async def test_a_disk_that_fills_up_under_the_answer_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.wav").symlink_to("/dev/full")
    async with model() as running:
        with pytest.raises(UsageError, match=r"out\.wav cannot be written: No space left on device\. Make room"):
            await play(address(running), tmp_path, np.random.default_rng(1).normal(0, 6000, 8000), 8000)


async def test_a_long_file_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "UNHEARD_S", 0.1)
    monkeypatch.setattr(talk, "_TOLD_EVERY_S", 1)
    async with model() as running:
        _, shown = await play(address(running), tmp_path, np.zeros(20_000, np.int16), 8000)
    assert "Playing 2.5 s ...\n1 of 2 s played ...\n2 of 2 s played ...\nPlayed;" in shown


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.wav cannot be read"):
        await talk.play(
            settings_for("ws://127.0.0.1:9/v1/realtime"),
            "",
            Console(file=io.StringIO()),
            heard=tmp_path / "no.wav",
            said=tmp_path / "out.wav",
            toolbox=Toolbox(),
        )
