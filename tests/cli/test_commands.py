"""Commands as a person types them: what is printed, and what the exit code says."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge import cli, process
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.realtime.profiles import Target
from bridge.records.journal import Journal
from bridge.rehearsal import findings, probe
from bridge.settings import Directory, IncomingCall, load
from bridge.sim import voices
from bridge.telephony.twilio import CAPABILITIES
from bridge.web.service import Service

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "tests" / "sim" / "scenarios"
Run = Callable[..., tuple[int, str]]
Visit = Callable[[str], Awaitable[None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def leave(code: int) -> None:
        raise SystemExit(code)

    def command(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["voice-bridge", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return int(str(code or 0)), told.out + told.err

    monkeypatch.setattr(os, "_exit", leave)
    ended_by = signal.getsignal(signal.SIGTERM)
    yield command
    signal.signal(signal.SIGTERM, ended_by)


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


def test_a_journal_that_breaks_off_is_replayed_so_far_and_said_to_be_torn(run: Run, journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-20])
    code, told = run("replay", journal)
    assert code == 0
    assert told.splitlines() == [
        "3 facts, no difference: today's core decides the same.",
        "Line 5 is torn and was left out: its writer stopped there, and what followed is not known.",
    ]


def test_what_is_no_journal_is_said_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}\n")
    for file in (tmp_path / "x", tmp_path / "nowhere"):
        code, told = run("replay", file)
        assert code == 1 and file.name in told and "Traceback" not in told


def test_what_is_said_is_shown_as_it_is_said(run: Run) -> None:
    assert run("replay", ":-1:") == (1, ":-1: cannot be read: No such file or directory\n")


def test_a_probe_of_nobody_fails_and_says_so(run: Run) -> None:
    code, told = run("probe", "ws://127.0.0.1:9/v1/realtime")
    assert code == 1 and "A call would not work." in told


def test_a_probe_takes_no_key_in_an_address(run: Run) -> None:
    code, told = run("probe", "wss://a.example.test/v1/realtime?api_key=sk-secret")
    assert code == 1 and "environment" in told and "sk-secret" not in told


def test_a_probe_finds_its_key_where_serve_does(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    async def examine(target: Target, progress: object = None) -> findings.Report:
        keys.append(target.api_key)
        return findings.Report(target.where, target.profile.name, target.model)

    monkeypatch.setattr(probe, "probe", examine)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "realtime__api_key").write_text("sk-folder\n")
    (tmp_path / ".env").write_text("BRIDGE_SECRETS=secrets\nMY_KEY=sk-dotenv\n")
    run("probe", "openai")
    run("probe", "openai", "--key-from", "MY_KEY")
    assert keys == ["sk-folder", "sk-dotenv"]


def test_a_probe_reads_the_profiles_of_the_configuration_or_says_why_not(run: Run, tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text("mine: {like: openai, url: 'wss://[a'}\n")
    code, told = run("probe", "mine", "--config", tmp_path)
    assert code == 1 and "mine.url: 'wss://[a' is not an address" in told
    (tmp_path / "profiles.yaml").write_bytes(b"\xff")
    code, told = run("probe", "openai", "--config", tmp_path)
    assert code == 1 and "profiles.yaml: cannot be read as UTF-8" in told
    code, told = run("probe", "openai", "--config", tmp_path / "nowhere")
    assert code == 1 and "there is no such folder" in told


def test_talk_names_an_agent_it_does_not_know(run: Run) -> None:
    code, told = run("talk", "--agent", "front-dsk")
    assert code == 1 and "did you mean front-desk" in told


def test_serve_says_which_folder_it_cannot_write_journals_to(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workers in ("1", "2"):
        code, told = run("serve", "--port", "0", "--workers", workers, "--journal", tmp_path / "file")
        assert code == 1 and "Name a folder that can be written" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve", "--loop", "foo"), "'foo' is not one of 'auto', 'uvloop', 'asyncio'"),
        (("serve", "--port", "99999"), "'--port'"),
        (("model", "--port", "99999"), "'--port'"),
        (("model", "--port", "-1"), "'--port'"),
    ],
)
def test_a_value_an_option_cannot_have_is_refused(run: Run, words: tuple[str, ...], says: str) -> None:
    code, told = run(*words)
    assert code == 2 and says in re.sub(r"[\s│]+", " ", told)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_report_there_is_no_room_for_is_told_after_the_calls(run: Run, tmp_path: Path) -> None:
    scenario = tmp_path / "a.yaml"
    scenario.write_text("caller: [{silence: 1000}, {hang_up: true}]\nexpect: [{end_reason: caller_left}]\n")
    code, told = run("simulate", scenario, "--report", "html", "--out", "/dev/full")
    assert code == 1 and "1 call, all passed" in told and "Traceback" not in told
    assert told.endswith(
        "/dev/full cannot be written: No space left on device. Make room for it, or name another place\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_disk_too_full_to_print_to_is_told_in_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bridge", "check"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "No space left on device. Make room and try again\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_welcome_nobody_can_read_keeps_no_service_from_running(tmp_path: Path, unused_tcp_port: int) -> None:
    with open("/dev/full", "wb") as full, (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", "--port", str(unused_tcp_port)], stdout=full, stderr=log
        )
        try:
            assert _answers(unused_tcp_port)
            with pytest.raises(subprocess.TimeoutExpired):
                service.wait(1)
            service.terminate()
            assert service.wait(20) == 0
        finally:
            service.kill()
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


def _answers(port: int) -> bool:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def test_a_tool_that_will_not_stop_keeps_no_service_that_has_ended(tmp_path: Path, journal: Path) -> None:
    script = """if True:
        import asyncio, sys, time
        from pathlib import Path
        from bridge import process
        from bridge.call import events as ev
        from bridge.records.journal import Journal, read

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass

        async def service():
            asyncio.create_task(stubborn())
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 300)
            journal = Journal(Path(sys.argv[2]), read(Path(sys.argv[1]))[0])
            journal.watch(0.0, ev.CallRouted(), [])
            journal.close()
            await asyncio.sleep(0)

        process.run(process.for_good(service()))
        """
    command = [sys.executable, "-c", script, str(journal), str(tmp_path / "last.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "last.jsonl").read_text().splitlines()) == 2, "what was handed over is written"


def test_told_to_end_while_tools_are_imported_no_tool_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "config" / "agents").mkdir(parents=True)
    slow = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(2)\n"
    slow += "async def buy(arguments, call):\n    pass\n"
    (tmp_path / "shop.py").write_text(slow, "utf-8")
    agent = "instructions: Sell.\ntools: [{name: buy, description: Buy it., python: 'shop:buy'}]\n"
    (tmp_path / "config" / "agents" / "front-desk.yaml").write_text(agent, "utf-8")
    service = subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for _ in range(200):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.05)
    service.terminate()
    said, _ = service.communicate(timeout=20)
    assert (service.returncode, said) == (143, b"")


@pytest.mark.parametrize("words", [["demo"], ["simulate", str(SCENARIOS)]])
def test_what_a_command_began_is_put_away_when_it_is_told_to_end(tmp_path: Path, words: list[str]) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "tmp").mkdir()
    with (tmp_path / "said").open("wb") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "bridge", *words], cwd=tmp_path, env=env, stdout=said, stderr=said
        )
        try:
            for _ in range(200):
                if os.listdir(tmp_path / "tmp"):
                    break
                time.sleep(0.05)
            assert command.poll() is None
            command.terminate()
            assert command.wait(60) == 143
        finally:
            command.kill()
    assert os.listdir(tmp_path / "tmp") == [], "no folder, and nobody who will still make one"
    assert b"Traceback" not in (tmp_path / "said").read_bytes()


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_closed_is_done_without(closed: int) -> None:
    """libuv ends the process where it is given the number of one."""
    script = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", script, str(closed), "-m", "bridge", "probe", "ws://127.0.0.1:9/v1/realtime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "127.0.0.1:9" in done.stdout or closed == 1


def test_check_finds_mistakes_of_local_sections_and_tools_together(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents").mkdir()
    for name, more in (("a", "local: {intent: []}"), ("b", "tools: [{name: f, description: d, python: 'no.such:f'}]")):
        (tmp_path / f"agents/{name}.yaml").write_text(f"instructions: x\n{more}\n")
    monkeypatch.setenv("BRIDGE_DEFAULT_AGENT", "a")
    code, told = run("check", "--config", tmp_path)
    assert code == 1 and "agents/a.yaml: local.intent" in told and "agents/b.yaml: tool 'no.such:f'" in told


def test_check_finds_what_a_local_section_names_and_the_agent_has_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents").mkdir()
    sections = {
        "a": """tools: [hang_up]
local:
  voice: cedr
  intents:
    - {name: one, phrases: [bye], answer: Bye., then: hangup}
    - {name: two, phrases: [order], answer: "{output}", tool: find_order, then: hang_up}
""",
        "b": "local: {voice: en-klingon, intents: [{name: one, phrases: [bye], answer: Bye., then: hang_up}]}\n",
    }
    for name, more in sections.items():
        (tmp_path / f"agents/{name}.yaml").write_text(f"instructions: x\n{more}")
    monkeypatch.setenv("BRIDGE_DEFAULT_AGENT", "a")
    code, told = run("check", "--config", tmp_path)
    assert code == 1
    for expected in (
        "agents/a.yaml: local.intents[1].then: the agent's `tools` have no 'hangup'; did you mean hang_up?",
        "agents/a.yaml: local.intents[2].tool: the agent's `tools` have no 'find_order'; there are hang_up",
        "agents/a.yaml: local.voice: there is no voice 'cedr' beside espeak-ng's for English, as en-gb; did you",
        "agents/b.yaml: local.intents[1].then: the agent's `tools` have no 'hang_up'; list it there",
    ):
        assert expected in told
    assert "intents[2].then" not in told
    if voices.speaks():
        assert "agents/b.yaml: local.voice: there is no voice 'en-klingon'; " in told


def test_addresses_are_whole_where_there_is_no_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_REALTIME__API_KEY", "sk-test")
    for address in (f"wss://{'long.' * 20}example.test/v1/realtime", "wss://[fe80::1]/v1/realtime"):
        monkeypatch.setenv("BRIDGE_REALTIME__URL", address)
        assert address in run("check")[1]


def test_a_key_that_is_asked_for_by_name_must_be_there(run: Run) -> None:
    code, told = run("probe", "ws://127.0.0.1:9/v1/realtime", "--key-from", "NOPE")
    assert code == 1 and "--key-from NOPE: there is no such variable" in " ".join(told.split())


@pytest.mark.parametrize(("command", "remedy"), [("model", "Choose another --host"), ("serve", "Set BRIDGE_HOST")])
def test_an_interface_that_is_not_there_is_said_with_what_to_do(
    run_visited: Run, monkeypatch: pytest.MonkeyPatch, command: str, remedy: str
) -> None:
    monkeypatch.setenv("BRIDGE_REALTIME__API_KEY", "sk-test")
    code, told = run_visited(nobody_comes, command, "--host", "192.0.2.1", "--port", "0")
    assert code == 1 and "cannot listen on 192.0.2.1:0: " in told and remedy in told


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "Set TMPDIR"),
        (OSError(24, "Too many open files"), "cannot start: Too many open files. Raise the limits"),
    ],
)
def test_a_start_that_fails_names_the_remedy_for_what_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    async def fail(service: Service) -> None:
        raise error

    monkeypatch.setattr(Service, "start", fail)
    code, told = run("serve")
    assert code == 1 and says in told and "BRIDGE_HOST" not in told


def test_a_failure_that_is_no_full_disk_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(PermissionError):
        run("check")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked for large pages")
@pytest.mark.parametrize("given", [{}, {"PYTHONMALLOC": "pymalloc"}, {"GLIBC_TUNABLES": ""}])
def test_serve_begins_anew_in_large_pages_unless_memory_is_somebodys_choice(given: dict[str, str]) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONMALLOC", "GLIBC_TUNABLES")}
    env |= {"BRIDGE_REALTIME__API_KEY": "sk-test", **given}
    command = [sys.executable, "-m", "bridge", "serve", "--port", "0"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        try:
            assert serving.stdout is not None
            assert "listens" in serving.stdout.readline()
            found = dict(
                line.split("=", 1) for line in Path(f"/proc/{serving.pid}/environ").read_text().split("\0") if line
            )
        finally:
            serving.terminate()
            serving.communicate(timeout=10)
    wanted = given or {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert {name: value for name, value in found.items() if name in ("PYTHONMALLOC", "GLIBC_TUNABLES")} == wanted


def test_a_worker_is_started_by_serve_alone(run: Run) -> None:
    code, told = run("--help")
    assert code == 0 and "probe" in told and " worker " not in told


# ---------------------------------------------------------------- commands that run until they are signalled


@pytest.fixture
def run_visited(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command until what it listens at has been visited, and then signals it; for half a minute at most."""

    def command(visit: Visit, *words: str | Path, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        told: list[str] = []

        async def visited(wait: Awaitable[None]) -> None:
            waiting = asyncio.ensure_future(wait)
            await asyncio.sleep(0)
            assert not waiting.done()
            assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler), "it listens for it"
            told.append(capsys.readouterr().out)
            found = re.search(r"(?:ws|http)://[^\s]*:[1-9]\d*[^\s.]*", told[0])
            assert found, told[0]
            await visit(found[0])
            signal.raise_signal(number)
            await waiting

        async def bounded(work: Coroutine[Any, Any, Any]) -> Any:
            async with asyncio.timeout(30):
                return await work

        until_signalled, serve = cli._until_signalled, Service.run
        monkeypatch.setattr(process, "run", lambda work, loop="": asyncio.run(bounded(work)))
        monkeypatch.setattr(cli, "_until_signalled", lambda: visited(until_signalled()))
        monkeypatch.setattr(Service, "run", lambda service: visited(serve(service)))
        code, rest = run(*words)
        return code, "".join(told) + rest

    return command


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody else listens at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


async def is_greeted(address: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(address) as connection:
        assert (await connection.receive_json(timeout=10))["type"] == "session.created"


async def is_busy(address: str) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(address)
    assert refused.value.status == 503


async def is_healthy(address: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/healthz") as answer:
        assert answer.status == 200


async def nobody_comes(address: str) -> None:
    raise AssertionError("it must not have started")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_model_says_where_it_listens_and_ends_when_signalled(run_visited: Run, number: signal.Signals) -> None:
    code, told = run_visited(is_greeted, "model", "--port", "0", number=number)
    assert code == 0
    assert re.fullmatch(
        r"The model on this machine listens at ws://127\.0\.0\.1:\d+/v1/realtime\. Press Ctrl-C to stop it\.",
        " ".join(told.split()),
    )


def test_the_model_misbehaves_as_its_script_says(run_visited: Run, tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("refuse: {status: 503, body: busy}\n")
    code, told = run_visited(is_busy, "model", "--port", "0", "--script", tmp_path / "script.yaml")
    assert code == 0 and "listens at" in told


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        (b"dialect: gamma\n", ["dialect: write ga or beta, found 'gamma'"]),
        (b"connections:\n  - {speed: 0}\n  - {on: first}\n", ["connections[1]: speed", "connections[2]: on"]),
        (b"responses: [2]\n", ["make it a list of mappings"]),
        (b"steps: [\n", ["not YAML: expected the node content"]),
        (b"\xff\xfe\n", ["cannot be read as UTF-8"]),
        (None, ["No such file"]),
    ],
)
def test_a_wrong_script_is_told_mistake_by_mistake(
    run_visited: Run, tmp_path: Path, text: bytes | None, mistakes: list[str]
) -> None:
    if text is not None:
        (tmp_path / "script.yaml").write_bytes(text)
    code, told = run_visited(nobody_comes, "model", "--port", "0", "--script", tmp_path / "script.yaml")
    assert code == 1 and "The configuration has mistakes" in told and "Traceback" not in told
    for mistake in mistakes:
        assert re.search(rf"^  - .*script\.yaml[:,] .*{re.escape(mistake)}", told, re.MULTILINE), told


@pytest.mark.parametrize(("command", "remedy"), [("model", "Choose another --port"), ("serve", "set BRIDGE_PORT")])
def test_a_port_that_is_taken_is_said_with_what_to_do(
    run_visited: Run, taken: int, monkeypatch: pytest.MonkeyPatch, command: str, remedy: str
) -> None:
    monkeypatch.setenv("BRIDGE_REALTIME__API_KEY", "sk-test")  # so that no model is started for it
    code, told = run_visited(nobody_comes, command, "--host", "127.0.0.1", "--port", str(taken))
    assert code == 1 and f"cannot listen on 127.0.0.1:{taken}: " in told and remedy in told


def test_serve_says_where_it_listens_and_what_to_do_next(run_visited: Run) -> None:
    code, told = run_visited(is_healthy, "serve", "--host", "127.0.0.1", "--port", "0")
    assert code == 0
    where, _, next_steps = told.partition("What to do next")
    assert re.match(r"voice-bridge listens on http://127\.0\.0\.1:[1-9]\d*\n", where) and "front-desk" in where
    assert re.findall(r"^  (\d)\. .*(BRIDGE_\w+)", next_steps, re.MULTILINE) == [
        ("1", "BRIDGE_PUBLIC_URL"),
        ("2", "BRIDGE_TWILIO__AUTH_TOKEN"),
        ("3", "BRIDGE_REALTIME__PROFILE"),
    ]
    assert "<that address>/twilio/voice" in next_steps and "Ctrl-C ends it" in next_steps


def test_a_public_service_without_the_carriers_token_is_told_that_no_call_gets_through(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_PUBLIC_URL", "https://bridge.example.test")
    assert "No call will get through: BRIDGE_TWILIO__AUTH_TOKEN is not set" in run("check")[1]
    monkeypatch.setenv("BRIDGE_TWILIO__AUTH_TOKEN", "the-token")
    assert "No call will get through" not in run("check")[1]


def test_serve_has_nothing_to_add_where_everything_is_set(run_visited: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_PUBLIC_URL", "https://bridge.example.test")
    monkeypatch.setenv("BRIDGE_TWILIO__AUTH_TOKEN", "the-token")
    monkeypatch.setenv("BRIDGE_REALTIME__API_KEY", "sk-test")
    code, told = run_visited(is_healthy, "serve", "--host", "127.0.0.1", "--port", "0", number=signal.SIGINT)
    assert code == 0
    assert "OpenAI Realtime" in told and "What to do next" not in told and "Ctrl-C ends it" in told
    assert "sk-test" not in told and "the-token" not in told
