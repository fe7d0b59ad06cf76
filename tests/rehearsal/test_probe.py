"""The probe against servers that behave, that differ, and that misbehave."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from bridge.cli import app
from bridge.errors import RealtimeError, UsageError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from bridge.realtime import connection
from bridge.realtime.profiles import builtin
from bridge.rehearsal import examination, findings, probe

BRAIN = Brain.from_dict(
    {
        "greeting": "Hello.",
        "fallback": ["One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen."],
        "intents": [{"name": "hours", "phrases": ["what are your opening hours"], "answer": "From nine to five."}],
    },
    source="test",
)
ROOT = Path(__file__).parents[2]


class Hours:
    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard("hours", "what are your opening hours")

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come on loopback within these does not come."""
    monkeypatch.setattr(examination, "GREETING_S", 0.6)
    monkeypatch.setattr(examination, "STEP_S", 0.6)
    monkeypatch.setattr(examination, "ANSWER_S", 10.0)
    monkeypatch.setattr(probe, "PIECE_EVERY_S", 0.02)  # the model on this machine counts sound, not time


async def examined(script: Mapping[str, Any] | None = None, *, profile: str = "", **model: Any) -> findings.Report:
    running = LocalModel({"local": BRAIN}, script=script or {}, recogniser=Hours(), detection="energy", **model)
    async with running:
        url = f"ws://127.0.0.1:{running.port}/v1/realtime"
        return await probe.probe(probe.target_of(url, builtin(), profile=profile, plain=False))


def states(report: findings.Report) -> dict[str, str]:
    return {finding.name: finding.state for finding in report.findings}


async def test_a_server_that_behaves_can_do_everything() -> None:
    report = await examined()
    assert set(states(report).values()) == {"yes"}, states(report)
    assert report.would_work and report.shape == "ga" and report.profile_entry() == ""
    assert "already shorter" in report.detail("truncate beyond the end")
    assert report.detail("tools").startswith("lookup_order(")
    assert report.events["response.output_audio.delta"] > 5 and not report.unknown_frames


async def test_a_server_of_few_events_would_do_for_a_call_and_what_is_missing_is_said() -> None:
    report = await examined({"profile": "speech-to-speech"}, profile="speech-to-speech")
    found = states(report)
    assert report.would_work
    assert {found[name] for name in ("text turn", "voice turn", "cancel", "tools", "hears the caller")} == {"yes"}
    assert found["truncate"] == "no" and found["committed"] == "no"
    entry = report.profile_entry()
    assert "like: speech-to-speech" in entry and "can_truncate: false" in entry


async def test_the_beta_shape_is_recognised_and_spoken() -> None:
    report = await examined({"dialect": "beta"})
    found = states(report)
    assert report.shape == "beta" and found["dialect"] == "no"
    assert report.would_work and found["audio/pcmu"] == "yes" and found["tools"] == "yes"
    assert "response.audio.delta" in report.events
    assert "shape: beta" in report.profile_entry()


async def test_a_server_that_ignores_truncate_is_found_out() -> None:
    report = await examined({"ignore": ["conversation.item.truncate", "conversation.item.delete"]})
    found = states(report)
    assert report.would_work and found["truncate"] == found["delete"] == "no"
    assert "can_delete: false" in report.profile_entry()


async def test_a_server_that_counts_less_than_it_sent_still_cuts() -> None:
    report = await examined({"count_less_ms": 85})
    assert states(report)["truncate"] == "yes"


async def test_a_server_that_confirms_nothing_costs_time_and_no_call() -> None:
    report = await examined({"omit": ["session.updated"]})
    found = states(report)
    assert found["session.updated"] == "unclear" and report.would_work
    assert "confirms_update: false" in report.profile_entry()


async def test_garbage_is_counted_and_harms_nothing() -> None:
    steps: list[dict[str, Any]] = [
        {"after_ms": 100, "send_text": "{not json"},
        {"after_ms": 200, "send": [1, 2]},
        {"after_ms": 300, "send": {"type": "error", "error": "as a string"}},
        {"after_ms": 400, "send": {"type": 7}},
    ]
    report = await examined({"steps": steps})
    assert report.unknown_frames == 3 and report.would_work


async def test_binary_sound_is_sound() -> None:
    report = await examined({"binary_audio": True})
    assert states(report)["text turn"] == "yes" and report.events["(binary audio)"]


@pytest.mark.parametrize(
    ("script", "failing", "says"),
    [
        ({"refuse": {"status": 403}}, "connect", "403"),
        ({"no_created": True}, "session.created", "nothing came"),
        ({"created_error": {"code": "insufficient_quota", "message": "No money."}}, "session.created", "No money."),
        ({"text_only": True}, "voice turn", "no sound"),
        ({"stuck_vad": True}, "voice turn", "no sound"),
        ({"steps": [{"after_type": "response.done", "drop": True}]}, "session survives", "1006"),
        ({"steps": [{"after_type": "response.done", "nth": 3, "expire": True}]}, "session survives", "session_expired"),
    ],
)
async def test_what_no_call_can_do_without_fails_the_probe(script: dict[str, Any], failing: str, says: str) -> None:
    report = await examined(script)
    assert not report.would_work
    assert states(report)[failing] == "no" and says in report.detail(failing)
    assert next(finding for finding in report.findings if finding.name == failing).missing


async def test_a_wrong_key_is_told_from_a_server_that_is_not_there() -> None:
    report = await examined(api_key="k")
    assert not report.would_work and "Incorrect API key" in report.detail("session.created")
    assert "set BRIDGE_REALTIME__API_KEY" in next(f.missing for f in report.findings if f.name == "session.created")


async def test_a_server_is_asked_itself_whether_it_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(*_: object, **__: object) -> Any:
        raise RealtimeError("Incorrect API key provided", code="invalid_api_key", status=401)

    monkeypatch.setattr(connection, "open_socket", refuses)
    target = probe.target_of("wss://service.example.test/v1/realtime", builtin(), plain=False)
    report = await probe.probe(target)
    assert report.state("connect") == "no"
    assert "Incorrect API key" in next(one.detail for one in report.findings if one.name == "connect")


async def test_a_port_where_nobody_listens() -> None:
    report = await probe.probe(probe.target_of("ws://127.0.0.1:9/v1/realtime", builtin(), plain=False))
    assert states(report) == {"connect": "no"} and not report.would_work
    assert report.findings[0].missing.startswith("No realtime server answers there: start it, or check the address.")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, "", "It does not take the key, or was given none: set BRIDGE_REALTIME__API_KEY"),
        (401, '{"error": {"code": "who_are_you", "message": "No."}}', "It does not take the key"),
        (404, "", "check the address and --model"),
        (429, "", "try again later"),
        (418, "", "check the address, --profile and --model"),
        (502, "", "out of order"),
    ],
)
async def test_a_refusal_is_told_with_its_cause_and_what_to_do(status: int, body: str, says: str) -> None:
    report = await examined({"refuse": {"status": status, "body": body}})
    assert says in report.findings[0].missing and "obody answers" not in report.findings[0].missing


async def test_what_a_server_says_is_shown_as_it_says_it() -> None:
    body = '{"error": {"message": "[/nonsense] :-1: [red]"}}'
    page = io.StringIO()
    findings.show(await examined({"refuse": {"status": 401, "body": body}}), Console(file=page, width=300))
    assert "[/nonsense] :-1: [red]" in page.getvalue()


async def test_the_table_says_what_is_missing_in_words_and_never_the_key() -> None:
    running = LocalModel({"local": BRAIN}, api_key="sk-not-to-be-seen", script={"no_created": True})
    async with running:
        url = f"ws://127.0.0.1:{running.port}/v1/realtime"
        report = await probe.probe(probe.target_of(url, builtin(), key="sk-not-to-be-seen", plain=False))
    page = io.StringIO()
    findings.show(report, Console(file=page, width=200))
    assert "a call waits for it in vain" in page.getvalue() and "A call would not work." in page.getvalue()
    assert "not-to-be-seen" not in page.getvalue() + str(report.as_data())


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("opnai", "neither an address"),
        ("wss://a.test/v1?api_key=k", "seen by everybody"),
        ("ws://a.test", "unencrypted"),
        ("ws://127.0.0.1:99999/x?a=k", r"^'ws://127\.0\.0\.1:99999/x' is not an address: Port out of range"),
        ("wss://me:pass@[a/x", r"^'wss://\[a/x' is not an address: .* Write wss://host"),
    ],
)
def test_addresses_that_are_not_probed(where: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        probe.target_of(where, builtin(), plain=False)


@pytest.mark.parametrize(
    ("where", "profile", "says"),
    [
        ("local", "nosuch", "there is no profile 'nosuch'; there are openai, "),
        ("ws://127.0.0.1:9/x", "nosuch", "there is no profile 'nosuch'; there are openai, "),
        ("local", "openai", "'local' is a profile already: leave --profile openai out"),
    ],
)
def test_a_profile_that_cannot_be_spoken_is_refused(where: str, profile: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        probe.target_of(where, builtin(), profile=profile, plain=False)
    assert probe.target_of("local", builtin(), profile="local", plain=False).profile.name == "local"


def test_an_address_is_spoken_to_by_the_profile_of_its_host() -> None:
    assert probe.target_of("wss://api.meshapi.ai/v1/realtime", builtin(), plain=False).profile.name == "meshapi"
    stranger = probe.target_of("wss://a.test/v1/realtime", builtin(), plain=False)
    assert (stranger.profile.name, stranger.model) == ("openai", "")


async def test_the_command_prints_data_and_tells_by_its_exit_code() -> None:
    async def command(url: str) -> tuple[int, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bridge", "probe", url, "--json", cwd=ROOT, env=os.environ, stdout=subprocess.PIPE
        )
        said, _ = await process.communicate()
        return process.returncode or 0, msgspec.json.decode(said)

    async with LocalModel({"local": BRAIN}, recogniser=Hours(), detection="energy") as running:
        code, data = await command(f"ws://127.0.0.1:{running.port}/v1/realtime")
    assert (code, data["would_work"], data["shape"]) == (0, True, "ga")
    code, data = await command("ws://127.0.0.1:9/v1/realtime")
    assert (code, data["would_work"]) == (1, False)


def test_a_profile_is_probed_where_and_for_the_model_that_calls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(probe, "target_of", lambda where, known, **how: asked.append((where, how)) or 1 / 0)
    for name, value in (("URL", "ws://elsewhere.test/v1"), ("MODEL", "mine"), ("PROFILE", "azure")):
        monkeypatch.setenv(f"BRIDGE_REALTIME__{name}", value)
    monkeypatch.setenv("BRIDGE_ALLOW_PLAIN", "true")
    for words in (["azure"], ["azure", "--model", "other"], ["openai"]):
        assert isinstance(CliRunner().invoke(app, ["probe", *words]).exception, ZeroDivisionError)
    found = [(where, how["url"], how["model"], how["plain"]) for where, how in asked]
    assert found == [
        ("azure", "ws://elsewhere.test/v1", "mine", True),
        ("azure", "ws://elsewhere.test/v1", "other", True),
        ("openai", "", "", False),
    ]
