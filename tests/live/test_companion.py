"""The model on this machine as a child process: it comes up, it goes, and it never outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.errors import PeerError
from bridge.live import companion
from bridge.live.companion import Companion

ROOT = Path(__file__).parents[2]


def pid_of(one: Companion) -> int:
    assert one._process is not None
    return one._process.pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_it_comes_up_answers_and_goes() -> None:
    one = Companion()
    try:
        address = await one.start()
        assert address.startswith("ws://127.0.0.1:") and address.endswith("/v1/realtime")
        pid = pid_of(one)
        assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C in our terminal is not for it"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[2].split("/")[0]))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    finally:
        await one.stop()
        await one.stop()
    assert not alive(pid)


async def test_a_file_where_it_is_started_takes_the_place_of_no_standard_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("calendar", "email", "queue", "numbers", "bridge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a tool of the operator')\n")
    monkeypatch.chdir(tmp_path)
    one = Companion()
    try:
        assert (await one.start()).startswith("ws://127.0.0.1:")
    finally:
        await one.stop()


async def test_one_that_dies_is_told_and_replaced_at_the_same_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(companion, "_AGAIN_S", 0.01)
    one = Companion()
    try:
        address = await one.start()
        pid = pid_of(one)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while "local_model_replaced" not in capsys.readouterr().out:
                await asyncio.sleep(0.05)
        assert pid_of(one) != pid
        _, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[2].split("/")[0]))
        writer.close()
        last = pid_of(one)
    finally:
        await one.stop()
    assert not alive(last)


async def test_one_that_cannot_start_is_a_plain_error_and_leaves_no_process(tmp_path: Path) -> None:
    one = Companion(["--config", str(tmp_path / "nowhere")])
    with pytest.raises(PeerError, match="did not start"):
        await one.start()
    assert one._process is None


async def test_one_whose_port_is_taken_names_the_setting(capfd: pytest.CaptureFixture[str]) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    with pytest.raises(PeerError, match="did not start"):
        await Companion().start(port=port)
    assert f"cannot listen on 127.0.0.1:{port}" in (said := capfd.readouterr().err)
    assert "Choose another BRIDGE_LOCAL_MODEL__PORT" in said
    taken.close()
    await taken.wait_closed()


async def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion, "_START_S", 0.3)
    monkeypatch.setattr(companion, "_STOP_S", 0.3)
    monkeypatch.setattr(sys, "executable", "/bin/sleep")  # sleep does not know these arguments and ends
    with pytest.raises(PeerError):
        await Companion().start()


async def test_one_that_does_not_go_politely_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Companion()
    await one.start()
    pid = pid_of(one)
    monkeypatch.setattr(companion, "_STOP_S", 0.3)
    os.kill(pid, signal.SIGSTOP)  # it cannot see its standard input close
    await one.stop()
    assert not alive(pid)


def test_it_ends_when_its_parent_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from bridge.live.companion import Companion\n"
        "async def main():\n"
        "    one = Companion()\n"
        "    await one.start()\n"
        "    print(one._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()

    async def gone() -> None:
        async with asyncio.timeout(15):
            while alive(child):
                await asyncio.sleep(0.05)

    asyncio.run(gone())


async def test_one_that_was_stopped_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(companion, "_AGAIN_S", 0.01)
    one = Companion()
    try:
        await one.start()
        await asyncio.sleep(0.1)
        await one.stop()
        await asyncio.sleep(0.1)
        assert one._process is None and "local_model_died" not in capsys.readouterr().out
    finally:
        await one.stop()
