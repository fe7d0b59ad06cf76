"""`voice-bridge simulate` as a person uses it: exit codes, messages, reports, timelines, somebody else's server."""

from __future__ import annotations

import asyncio
import io
import json
import socket as sockets
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import WSMsgType, web
from rich.console import Console
from typer.testing import CliRunner

from bridge.audio.wav import WavWriter
from bridge.cli import app
from bridge.errors import ConfigError, UsageError
from bridge.rehearsal import run as runner
from bridge.rehearsal.simulate import simulate

QUIET = """
about: Nobody speaks; the agent greets, and the caller hangs up.
caller:
  - silence: 4000
  - hang_up: true
expect:
  - heard: this is the front desk
  - end_reason: caller_left
"""
SPEAKS = """
caller:
  - say: Hello, what are your opening hours?
    at_ms: 0
  - hang_up: true
    after: agent_quiet
expect:
  - measure: talk_ratio
    at_least: 0.3
"""

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
speech = pytest.mark.skipif(not runner.voices.speaks(), reason="the extra `local` is not installed")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def file(folder: Path, text: str, name: str = "a-call.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def told(*args: object, **options: object) -> tuple[int, str]:
    """The exit code and all that was printed."""
    printed = io.StringIO()
    code = simulate(*args, Console(file=printed, width=200), **options)  # type: ignore[arg-type]  # as given
    return code, printed.getvalue()


def test_a_call_as_expected_is_one_line_and_exit_code_0(tmp_path: Path) -> None:
    code, printed = told([file(tmp_path, QUIET)])
    assert code == 0
    assert "pass  a-call" in printed
    assert "1 call, all passed" in printed


SHOP = """
instructions: You sell bicycles.
greeting: 'Say exactly: "Bicycles, hello."'
model: { service: the-house, failover: [local] }
clips: { filler: hum.wav }
"""


def test_an_agent_of_ones_own_is_called_with_its_clips_and_without_its_model_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config" / "agents").mkdir(parents=True)
    hum = WavWriter(tmp_path / "config" / "agents" / "hum.wav", 8000, 1)
    hum.write(bytes(16_000))
    hum.close()
    (tmp_path / "config" / "agents" / "shop.yaml").write_text(SHOP, "utf-8")
    calls = "agent: shop\n" + QUIET.replace("this is the front desk", "bicycles, hello")
    monkeypatch.chdir(tmp_path)
    assert told([file(tmp_path, calls)]) == told([file(tmp_path, calls)], config=tmp_path / "config")
    assert told([file(tmp_path, calls)])[0] == 0
    assert told([file(tmp_path, calls.removeprefix("agent: shop\n"))])[0] == 0
    (tmp_path / "config" / "agents" / "bakery.yaml").write_text("instructions: You sell bread.\n", "utf-8")
    code, printed = told([file(tmp_path, QUIET)])
    assert code == 1
    assert "config/agents/front-desk.yaml: there is no agent 'front-desk'; there are bakery, shop" in printed
    assert "Write `agent: NAME` in the scenario, which without it calls front-desk" in printed
    code, printed = told([file(tmp_path, calls.replace("shop", "shopp"))])
    assert code == 1 and "no agent 'shopp'; did you mean shop? Write `agent: NAME` in the scenario" in printed
    code, printed = told([file(tmp_path, calls + "changes: { barge_in: sometimes }")])
    assert code == 1
    assert "changes.barge_in = 'sometimes'" in printed and "shop.yaml" not in printed
    with pytest.raises(ConfigError, match="nowhere"):
        told([file(tmp_path, calls)], config=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("- heard: we never say this", 'the caller hears "we never say this"'),
        ("- absent: front desk", 'nobody hears "front desk"'),
        ("- end_reason: agent_hung_up", "the call ends with agent_hung_up: it ended with caller_left"),
        ("- tool_call: transfer", "the tool transfer is used: used was nothing"),
        ("- agent_yields_within_ms: 100", "nobody interrupted it"),
        ("- truncated_at: {near_ms: 100}", "an item is truncated at 100 ms"),
        ("- {measure: dead_air_longest_ms, at_most: 10}", "dead_air_longest_ms is at most 10: it is"),
        ("- understood: opening hours", 'the model understands "opening hours"'),
        ("- {agent_says: front desk, within_ms: 1, of_step: 2}", "FAILED"),
    ],
)
def test_a_broken_expectation_is_exit_code_1_and_a_message_that_names_the_moment(
    tmp_path: Path, wrong: str, message: str
) -> None:
    result = CliRunner().invoke(app, ["simulate", str(file(tmp_path, QUIET + f"  {wrong}\n"))], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    line = next(line for line in result.output.splitlines() if "FAILED at" in line)
    assert message in line
    assert float(line.split("FAILED at ")[1].split(" s:")[0]) >= 0
    assert "1 call, 1 failed" in result.output


def test_a_mistake_in_a_file_is_told_with_its_place_and_not_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["simulate", str(file(tmp_path, "caller: [{sey: Hello}]"))], env={"COLUMNS": "300"}
    )
    assert result.exit_code not in (0, 1) or result.exception is not None
    assert "sey" in result.output or "sey" in str(result.exception)


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "br", "link", "input", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_html_report_is_well_formed_and_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = tmp_path / "calls.html"
    assert told([file(tmp_path, QUIET)], report="html", out=page)[0] == 0
    parser = _Balance()
    parser.feed(page.read_text("utf-8"))
    assert parser.open == []
    assert parser.sources and all(source.startswith(("#", "data:")) for source in parser.sources)


def test_the_json_report_holds_every_figure(tmp_path: Path) -> None:
    page = tmp_path / "calls.json"
    assert told([file(tmp_path, QUIET)], report="json", out=page)[0] == 0
    data = json.loads(page.read_text("utf-8"))
    assert data["passed"] is True
    assert data["calls"][0]["scenario"] == "a-call"
    assert data["calls"][0]["measures"]["first_sound_ms"]["count"] == 1


def test_the_junit_report_counts_failures(tmp_path: Path) -> None:
    page = tmp_path / "calls.xml"
    good, bad = file(tmp_path, QUIET), file(tmp_path, QUIET + "  - heard: nothing like it\n", "b-call.yaml")
    assert told([good, bad], report="junit", out=page)[0] == 1
    suites = ET.parse(page).getroot()
    assert (suites.attrib["tests"], suites.attrib["failures"], suites.attrib["errors"]) == ("2", "1", "0")
    assert "FAILED at" in suites.findall(".//failure")[0].attrib["message"]


def test_golden_timelines_are_written_compared_and_missed(tmp_path: Path) -> None:
    scenario = file(tmp_path, QUIET)
    assert "want of a golden timeline" in told([scenario])[1]
    assert told([scenario], update_golden=True, timeline=tmp_path / "lines")[0] == 0
    golden = tmp_path / "golden" / "a-call.txt"
    assert golden.read_bytes() == (tmp_path / "lines" / "a-call.txt").read_bytes()
    code, printed = told([scenario])
    assert code == 0 and "want of" not in printed
    golden.write_text(golden.read_text("utf-8").replace("CallerLeft", "CallerStayed"), encoding="utf-8")
    code, printed = told([scenario])
    assert code == 1
    assert "timeline: differs from" in printed and "CallerStayed" in printed


def test_each_scenario_has_its_golden_timeline_in_its_own_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, silence in zip(folders, ("4000", "5000"), strict=True):
        folder.mkdir()
        file(folder, QUIET.replace("4000", silence))
    assert told(folders, update_golden=True)[0] == 0
    first, second = ((folder / "golden" / "a-call.txt").read_text("utf-8") for folder in folders)
    assert first != second
    assert told(folders)[0] == told(folders[::-1])[0] == 0


def test_two_scenarios_of_one_name_do_not_write_to_one_file(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    same = [file(tmp_path, QUIET), file(tmp_path / "two", QUIET)]
    with pytest.raises(
        UsageError, match=r"--timeline: .* would both write .*lines/a-call\.txt; give one another `name"
    ):
        told(same, timeline=tmp_path / "lines")
    numbered = [file(tmp_path, QUIET + "repeat: 2\n"), file(tmp_path, QUIET, "a-call-2.yaml")]
    with pytest.raises(UsageError, match=r"would both write .*lines/a-call-2\.txt"):
        told(numbered, timeline=tmp_path / "lines")
    named = [file(tmp_path, QUIET + f"name: call\n# {n}\n", f"{n}.yaml") for n in "ab"]
    with pytest.raises(UsageError, match=r"--update-golden: .* would both write .*golden/call\.txt"):
        told(named, update_golden=True)
    assert not (tmp_path / "lines").exists() and not (tmp_path / "golden").exists()


def test_calls_at_once_have_a_seed_each(tmp_path: Path) -> None:
    page = tmp_path / "calls.json"
    code, printed = told([file(tmp_path, QUIET)], calls=5, report="json", out=page)
    assert code == 0, printed
    calls = json.loads(page.read_text("utf-8"))["calls"]
    assert [call["seed"] for call in calls] == [0, 1, 2, 3, 4]
    assert [call["number"] for call in calls] == [1, 2, 3, 4, 5]


def test_without_the_speech_extra_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.voices, "speaks", lambda: False)
    with pytest.raises(UsageError, match=r"a-call needs speech .* pip install -e '\.\[local\]'"):
        told([file(tmp_path, SPEAKS)])
    assert told([file(tmp_path, QUIET)])[0] == 0


@pytest.mark.parametrize("option", [{"clock": "sidereal"}, {"report": "pdf"}])
def test_an_option_that_is_none_is_told(tmp_path: Path, option: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="write"):
        told([file(tmp_path, QUIET)], **option)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": "calls.txt"}, "--out calls.txt: what kind of report is this"),
        ({"out": "-", "report": "json"}, "--out -: a report is a file"),
        ({"out": "file/calls.html"}, "--out file/calls.html: .* Name a file that can be written"),
        ({"out": "nowhere/calls.html", "report": "html"}, "--out nowhere/calls.html: .* Name a file that can be"),
        ({"timeline": "file"}, "--timeline file: .* Name a folder that can be written"),
        ({"timeline": "taken"}, "--timeline taken/a-call.txt: Is a directory. Name a file that can be written"),
        ({"update_golden": True}, "--update-golden golden: .* Name a folder that can be written"),
        ({"update_golden": True, "calls": 2}, "--update-golden: .* leave out --clock and --calls"),
        ({"update_golden": True, "clock": "real"}, "--update-golden: .* leave out --clock and --calls"),
        ({"update_golden": True, "against": "ws://a.test/x"}, "--against: .* leave out --update-golden"),
        ({"clock": "virtual", "against": "ws://a.test/x"}, "--against: .* leave out --clock virtual"),
    ],
)
def test_what_cannot_be_done_as_asked_is_told_before_anybody_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bridge.rehearsal.simulate.run", lambda *_: pytest.fail("somebody called"))
    for name in ("file", "golden"):
        (tmp_path / name).write_text("")
    (tmp_path / "taken" / "a-call.txt").mkdir(parents=True)
    given = {name: Path(value) if name in ("out", "timeline") else value for name, value in options.items()}
    with pytest.raises(UsageError, match=f"^{says}"):
        told([file(Path(), QUIET)], **given)


def test_the_reports_file_tells_its_kind(tmp_path: Path) -> None:
    assert told([file(tmp_path, QUIET)], out=tmp_path / "calls.JSON")[0] == 0
    assert json.loads((tmp_path / "calls.JSON").read_text("utf-8"))["passed"] is True


def test_a_scenario_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"x: File name too long\. Name scenarios this user may read"):
        told([tmp_path / ("x" * 300)])

    def locked(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("bridge.rehearsal.simulate.os.listdir", locked)
    with pytest.raises(UsageError, match=f"^{tmp_path}: Permission denied. Name scenarios this user may read"):
        told([tmp_path])


def test_a_golden_timeline_that_is_no_text_fails_the_call_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "a-call.txt").write_bytes(b"\xff")
    code, printed = told([file(tmp_path, QUIET)])
    assert code == 1
    assert "golden/a-call.txt cannot be read: it is not UTF-8 text. Renew it with --update-golden" in printed


@full
@pytest.mark.parametrize("update", [False, True])
def test_a_timeline_there_is_no_room_for_fails_its_call_and_not_the_others(tmp_path: Path, update: bool) -> None:
    lines = tmp_path / "golden" if update else tmp_path / "lines"
    lines.mkdir()
    (lines / "a-call.txt").symlink_to("/dev/full")
    scenarios = [file(tmp_path, QUIET), file(tmp_path, QUIET, "b-call.yaml")]
    code, printed = told(scenarios, update_golden=update, timeline=None if update else lines)
    assert code == 1
    assert f"timeline: {lines}/a-call.txt cannot be written: No space left on device. Make room for it, or" in printed
    assert "FAIL  a-call" in printed and "pass  b-call" in printed and "2 calls, 1 failed" in printed
    assert (lines / "b-call.txt").stat().st_size > 1000


def test_an_agents_file_there_is_no_room_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def full_disk(path: Path, text: str, **how: Any) -> int:
        if path.parent.name == "agents":
            raise OSError(28, "No space left on device")
        return write_text(path, text, **how)

    scenario = file(tmp_path, QUIET)
    monkeypatch.setattr(Path, "write_text", full_disk)
    code, printed = told([scenario])
    assert code == 1 and "/agents/" in printed and "cannot be written: No space left on device" in printed


@speech
async def test_somebody_elses_media_stream_server_is_driven(tmp_path: Path) -> None:
    """One that sends back what it hears."""
    seen: list[str] = []

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            event = json.loads(message.data)
            seen.append(event["event"])
            if event["event"] == "media":
                payload = event["media"]["payload"]
                sent = {"event": "media", "streamSid": event["streamSid"], "media": {"payload": payload}}
                await socket.send_str(json.dumps(sent))
        return socket

    service = web.Application()
    service.router.add_get("/media", echo)
    server = web.AppRunner(service)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        address = f"ws://127.0.0.1:{server.addresses[0][1]}/media"
        code, printed = await asyncio.to_thread(told, [file(tmp_path, SPEAKS)], against=address)
    finally:
        await server.cleanup()
    assert code == 0, printed
    assert seen[:2] == ["connected", "start"] and seen[-1] == "stop"
    assert seen.count("media") > 50
    assert "pass  a-call" in printed


async def _closing(request: web.Request) -> web.WebSocketResponse:
    """Closes, or breaks off, as the address says."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.receive()
    if request.match_info["code"] == "none":
        assert request.transport is not None
        request.transport.abort()
    else:
        await socket.close(code=int(request.match_info["code"]), message=b"no call\x1b expects this stream")
    return socket


@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        ("/nowhere", "HTTP status 404", "See that a server takes media streams at this address"),
        ("/1008", "code 1008 (no call? expects this stream)", "It may want a token that its own webhook gives"),
        ("/1011", "code 1011 (no call? expects this stream)", "The server's own log may say why"),
        ("/none", "the connection broke", "The server's own log may say why"),
    ],
)
async def test_a_server_that_does_not_serve_the_stream_is_told_with_its_reason(
    tmp_path: Path, path: str, reason: str, remedy: str
) -> None:
    service = web.Application()
    service.router.add_get(r"/{code:\d+|none}", _closing)
    server = web.AppRunner(service)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    page = tmp_path / "calls.json"
    try:
        address = f"ws://127.0.0.1:{server.addresses[0][1]}{path}"
        options = {"against": address, "report": "json", "out": page}
        code, printed = await asyncio.to_thread(told, [file(tmp_path, QUIET)], **options)
    finally:
        await server.cleanup()
    assert code == 1
    assert reason in printed.splitlines()[0] and remedy in printed.splitlines()[1]
    assert reason in json.loads(page.read_text("utf-8"))["calls"][0]["failures"][0]


def test_a_server_that_is_not_there_is_told_by_the_address_that_was_given(tmp_path: Path) -> None:
    with sockets.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}/media"
        code, printed = told([file(tmp_path, QUIET)], against=address)
    assert code == 1
    assert f"no media stream: {address}: connection refused" in printed
    assert printed.count("it cannot be known of somebody else's server") == 2  # what was heard, and the reason


async def test_a_server_is_not_blamed_where_the_scenario_harms_the_line(tmp_path: Path) -> None:
    service = web.Application()
    service.router.add_get(r"/{code:none}", _closing)
    server = web.AppRunner(service)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    text = "caller: [{silence: 200}]\nfaults: [{stop_reading_ms: 10, after: stream}]\n"
    try:
        address = f"ws://127.0.0.1:{server.addresses[0][1]}/none"
        _, printed = await asyncio.to_thread(told, [file(tmp_path, text)], against=address)
    finally:
        await server.cleanup()
    assert "own log" not in printed


def test_an_address_that_is_no_media_stream_is_told(tmp_path: Path) -> None:
    code, printed = told([file(tmp_path, QUIET)], against="https://example.test/media")
    assert code == 1
    assert "ws" in printed and "example.test" in printed


def test_an_address_with_a_port_that_is_none_is_told(tmp_path: Path) -> None:
    code, printed = told([file(tmp_path, QUIET)], against="ws://127.0.0.1:99999/media")
    assert code == 1
    assert "is not ws(s)://host/path or ws(s)://host:port/path" in printed


@pytest.mark.parametrize("model", ["{service: local}", "{failover: [local]}"])
def test_the_model_on_this_machine_is_the_stages_own(tmp_path: Path, model: str) -> None:
    code, printed = told([file(tmp_path, f"changes: {{model: {model}}}\n" + QUIET)])
    assert code == 0, printed


@speech
def test_what_an_agent_without_transcription_understood_is_not_known(tmp_path: Path) -> None:
    scenario = SPEAKS.replace("expect:", "expect:\n  - understood: opening hours") + "changes: {transcription: 'off'}\n"
    code, printed = told([file(tmp_path, scenario)])
    assert code == 1 and "nobody wrote down what was understood" in printed
