"""The service as one object: whole calls over loopback and on virtual time, and an orderly end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from websockets.asyncio.client import connect

from bridge import settings
from bridge.call import actions as do
from bridge.errors import ConfigError, EndReason
from bridge.localmodel.speech import PackagedVoice
from bridge.records.journals import Journals
from bridge.rehearsal.stage import Stage
from bridge.sim import voices
from bridge.tools.toolbox import CallInfo, Toolbox
from bridge.web.service import Service, account_of, signalled
from tests.live.calls import settle
from tests.live.houses import house, incoming
from tests.live.services import Service as ModelService
from tests.live.test_driver import on_virtual_time

ROOT = Path(__file__).parents[2]
CALM: dict[str, Any] = {"idle": {"prompt_after_s": 0, "hang_up_after_s": 0}}


def stage(**more: Any) -> Stage:
    return Stage(agent={**CALM, **more.pop("agent", {})}, voice=PackagedVoice(), **more)


# ---------------------------------------------------------------- calls


@on_virtual_time
async def test_a_call_answers_is_interrupted_and_the_model_is_told_what_was_heard_within_20_ms() -> None:
    async with stage() as one:
        leg = await one.call()
        await leg.wait_until_agent_speaks()
        await leg.wait_until_heard(1500)
        leg.say(voices.clip("interruption"), label="interruption")
        await leg.wait_for(lambda: leg.line.silent)
        await leg.wait_until_quiet(1500)
        cuts = one.watch(leg).cuts(leg)
        assert cuts and all(abs(cut.error_ms) <= 20 for cut in cuts), [cut.error_ms for cut in cuts]
        leg.hang_up()
        assert await one.reason(leg) is EndReason.CALLER_LEFT
        assert one.service.switchboard.active_calls == 0
        assert not leg.errors


@on_virtual_time
async def test_a_forged_webhook_is_no_call() -> None:
    async with stage() as one:
        for signing in ("forged", "missing"):
            leg = await one.call(signing=signing)  # type: ignore[arg-type]  # one of the carrier's words
            await leg.ended()
            assert not leg.streams
        assert one.model.connections == 0 and one.service.switchboard.active_calls == 0
        assert not one.calls[0].watch


@on_virtual_time
async def test_a_caller_who_hangs_up_while_the_model_connects_leaves_nothing() -> None:
    async with stage(script={"handshake_delay_ms": 4000}) as one:
        tasks = len(asyncio.all_tasks())
        leg = await one.call()
        await leg.streaming()
        await asyncio.sleep(0.5)
        leg.hang_up()
        assert await one.reason(leg) is EndReason.CALLER_LEFT
        await asyncio.sleep(6)
        assert len(asyncio.all_tasks()) <= tasks
        assert not one.events("session.update")


@on_virtual_time
async def test_a_model_that_is_cut_off_in_mid_call_is_replaced_and_the_call_goes_on() -> None:
    script = {"connections": [{"on": 1, "steps": [{"after_ms": 2500, "drop": True}]}]}
    async with stage(script=script) as one:
        leg = await one.call()
        await leg.wait_until_agent_speaks()
        await asyncio.sleep(6)
        assert one.model.connections == 2 and one.service.switchboard.active_calls == 1
        heard = leg.heard_ms()
        leg.say(voices.clip("opening-hours"), label="opening-hours")
        await leg.wait_for(lambda: leg.line.silent)
        await leg.wait_until_heard(heard + 500)
        leg.hang_up()
        assert await one.reason(leg) is EndReason.CALLER_LEFT


@on_virtual_time
async def test_a_model_that_refuses_the_key_ends_the_call_after_one_attempt() -> None:
    async with stage(script={"refuse": {"status": 401}}) as one:
        leg = await one.call()
        assert await one.reason(leg) is EndReason.MODEL_REFUSED
        assert one.model.connections == 1


@on_virtual_time
async def test_a_call_that_breaks_ends_alone() -> None:
    async with stage() as one:
        first, second = await one.call(), await one.call(from_="+15550198")
        await first.wait_until_agent_speaks()
        await second.wait_until_agent_speaks()
        driver = one.watch(first).driver
        driver.model.request = None  # type: ignore[method-assign, assignment]  # a mistake of ours
        driver.deliver(do.Note("not a fact"))  # type: ignore[arg-type]
        assert await one.reason(first) is EndReason.BUG
        assert one.service.switchboard.active_calls == 1
        second.hang_up()
        assert await one.reason(second) is EndReason.CALLER_LEFT


@on_virtual_time
async def test_stopping_says_goodbye_to_whoever_is_on_the_line() -> None:
    async with stage() as one:
        leg = await one.call()
        await leg.wait_until_agent_speaks()
        await leg.wait_until_quiet(700)
        began = asyncio.get_running_loop().time()
        stopping = asyncio.ensure_future(one.service.stop(grace_s=15))
        await asyncio.sleep(1)
        late = await one.call(from_="+15550198")
        await late.ended()
        assert not late.streams, "the busy message, and no stream"
        await stopping
        assert asyncio.get_running_loop().time() - began <= 18
        assert await one.reason(leg) is EndReason.DRAINED
        asked = one.events("response.create")[-1]["response"]["instructions"]
        assert "goodbye" in asked
        await one.service.stop()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_calls_over_loopback_leave_no_task_and_no_file_behind(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with stage() as one:
            await one.carrier.place_call(to="+15550100", from_="+15550197", signing="forged")
            files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
            legs = await asyncio.gather(*(one.call(from_=f"+1555019{number}") for number in range(6)))
            await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
            for leg in legs:
                leg.hang_up()
            reasons = await asyncio.gather(*map(one.reason, legs))
            assert set(reasons) == {EndReason.CALLER_LEFT}
            async with asyncio.timeout(10):
                while len(os.listdir("/proc/self/fd")) > files or len(asyncio.all_tasks()) > tasks:
                    await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


# ---------------------------------------------------------------- beginning and ending


async def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path, unused_tcp_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_tcp_port))
        taken.listen()
        service = Service(house(tmp_path / "config", port=unused_tcp_port, host="127.0.0.1"))
        tasks = len(asyncio.all_tasks())
        with pytest.raises(OSError):
            await service.start()
        await service.stop()
        assert len(asyncio.all_tasks()) == tasks


async def test_tools_that_cannot_be_imported_are_named_before_anything_starts(tmp_path: Path) -> None:
    made = house(tmp_path / "config")
    for name, entry in (("alpha", "no_such_room:tool"), ("beta", "json:dumps")):
        path = tmp_path / "config" / "agents" / f"{name}.yaml"
        tools = f"tools: [{{name: look_up, description: looks, python: '{entry}'}}]"
        path.write_text(path.read_text().replace("tools: [hang_up]", tools))
    made = settings.load(
        {},
        config=tmp_path / "config",
        given={"port": 0, "default_agent": "alpha", "realtime": made.realtime.model_dump()},
    )
    with pytest.raises(ConfigError) as caught:
        await Service(made).start()
    assert len(caught.value.mistakes) == 2
    missing, wrong = caught.value.mistakes
    assert missing.startswith(f"{tmp_path / 'config' / 'agents' / 'alpha.yaml'}: ") and "no_such_room" in missing
    assert "beta.yaml" in wrong and "json:dumps" in wrong


async def test_a_tool_that_is_given_need_not_be_importable(tmp_path: Path) -> None:
    async def look_up(arguments: dict[str, Any], call: CallInfo) -> str:
        return "{}"

    path = tmp_path / "config" / "agents" / "alpha.yaml"
    made = house(tmp_path / "config")
    tool = "tools: [{name: look_up, description: looks, python: 'no_such_room:tool'}]"
    path.write_text(path.read_text().replace("tools: [hang_up]", tool))
    made = settings.load(
        {},
        config=tmp_path / "config",
        given={"port": 0, "default_agent": "alpha", "realtime": made.realtime.model_dump()},
    )
    service = Service(made, toolbox=Toolbox({"look_up": look_up}))
    await service.start()
    assert service.port > 0, "it listens"
    await service.stop(grace_s=0)


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
async def test_where_any_port_will_do_the_carrier_is_told_the_one_there_is(
    tmp_path: Path, host: str, where: str
) -> None:
    service = Service(house(tmp_path / "config", host=host, port=0, public_url="", twilio={}))
    await service.start()
    url = f"{where}:{service.port}"
    async with aiohttp.ClientSession() as client:
        async with client.post(f"http://{url}/twilio/voice", data={"CallSid": "CA1", "AccountSid": "AC1"}) as answer:
            told = await answer.text()
    await service.stop(grace_s=0)
    assert f"ws://{url}/twilio/media" in told and f"http://{url}/twilio/resume" in told


@pytest.mark.parametrize("second", [None, signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order_and_a_second_one_at_once(
    tmp_path: Path, second: signal.Signals | None
) -> None:
    model = ModelService(talks=True)
    ended: list[EndReason] = []
    made = house(tmp_path / "config", host="127.0.0.1", limits={"drain_s": 60 if second else 0.2})
    service = Service(made, dial=model.dial, ended=lambda driver, reason: ended.append(reason))
    await service.start()
    port = service.port
    service.switchboard.expect(incoming())
    running = asyncio.ensure_future(service.run())
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.05)
    assert not service.switchboard.accepting
    if second is not None:
        assert not running.done()
        os.kill(os.getpid(), second)
    await asyncio.wait_for(running, 10)
    assert ended == [EndReason.DRAINED] and model.last.closed
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the handlers are given back"
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_terminal_that_goes_away_is_a_first_signal_and_none_where_it_is_ignored() -> None:
    said: list[str] = []
    undo = signalled(lambda: said.append("first"), lambda: said.append("again"))
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        signal.raise_signal(number)
        await asyncio.sleep(0.01)
    assert said == ["first", "again"]
    undo()
    undo = signalled(lambda: said.append("worker's first"), lambda: said.append("its again"), is_worker=True)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
        await asyncio.sleep(0.01)
    assert said[2:] == ["worker's first", "its again"]
    undo()
    said = said[:2]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    undo = signalled(lambda: said.append("first"), lambda: said.append("again"))
    signal.raise_signal(signal.SIGHUP)
    await asyncio.sleep(0.01)
    assert len(said) == 2 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    undo()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


async def test_a_stop_that_fails_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(house(tmp_path / "config", host="127.0.0.1", limits={"drain_s": 0}))
    await service.start()
    running = asyncio.ensure_future(service.run())
    await asyncio.sleep(0.01)
    original = service.switchboard.drain

    async def broken(grace_s: float) -> None:
        raise RuntimeError("the drain is blocked")

    monkeypatch.setattr(service.switchboard, "drain", broken)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(RuntimeError, match="blocked"):
        await asyncio.wait_for(running, 10)
    monkeypatch.setattr(service.switchboard, "drain", original)
    await service.stop()


def test_the_collector_is_given_back_what_was_frozen(tmp_path: Path) -> None:
    async def main() -> None:
        service = Service(house(tmp_path / "config", host="127.0.0.1"))
        await service.start()
        assert gc.get_freeze_count() > 0
        await service.stop(grace_s=0)

    asyncio.run(main())
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_serve_ends_cleanly_on_a_signal(
    tmp_path: Path, unused_tcp_port: int, loop: str, number: signal.Signals
) -> None:
    """A process of its own, with the model on this machine as a child of it: exit code 0, and no child left."""
    port = unused_tcp_port
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve", "--host", "127.0.0.1", "--port", str(port), "--loop", loop],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_LIMITS__DRAIN_S": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _until_ready(process, port)
        children = _children(process.pid)
        assert children, "the model on this machine runs"
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    for child in children:
        assert not Path(f"/proc/{child}").exists()


def _until_ready(process: subprocess.Popen[str], port: int) -> None:
    for _ in range(300):
        assert process.poll() is None, process.communicate()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("it never became ready")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


async def test_a_start_that_fails_late_stops_what_was_started(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Child:
        def __init__(self, arguments: Any) -> None: ...

        async def start(self, port: int) -> str:
            done.append("start")
            return "ws://127.0.0.1:1/v1/realtime"

        async def stop(self) -> None:
            done.append("stop")

    monkeypatch.setattr("bridge.web.service.Companion", Child)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_tcp_port))
        taken.listen()
        here = {"port": unused_tcp_port, "host": "127.0.0.1", "realtime": {"profile": "local"}}
        with pytest.raises(OSError):
            await Service(house(tmp_path / "config", **here)).start()
    assert done == ["start", "stop"]


async def test_a_call_that_is_over_is_forgotten_by_metrics_and_journals(tmp_path: Path) -> None:
    journals = Journals(tmp_path / "journals")
    service = Service(house(tmp_path / "config"), dial=ModelService(talks=True).dial, journals=journals)
    service.switchboard.expect(incoming())
    await settle()
    driver = service.switchboard.find("CA1")
    assert driver is not None and journals._open
    driver.end(EndReason.BUG)  # without a word of the core's
    await service.stop(grace_s=0)
    assert not journals._open
    assert b'bridge_calls_ended_total{agent="alpha",reason="bug"} 1.0' in service.metrics.text()


async def test_the_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    limits = {"token_s": 7.0, "start_s": 0.1, "pre_start": 3, "pre_start_per_ip": 2, "max_calls": 5}
    service = Service(house(tmp_path / "config", host="127.0.0.1", limits=limits))
    await service.start()
    door, board = service._door, service.switchboard
    assert door is not None
    assert (board._token_s, board._places.most) == (7.0, 5)
    assert (door.start_s, door._most, door._most_per_ip) == (0.1, 3, 2)
    await service.stop(grace_s=0)


async def test_who_has_not_said_who_they_are_is_sent_away_when_the_house_closes(tmp_path: Path) -> None:
    service = Service(house(tmp_path / "config", host="127.0.0.1"))
    await service.start()
    async with connect(f"ws://127.0.0.1:{service.port}/twilio/media", proxy=None) as stream:
        await service.stop(grace_s=0)
        await stream.wait_closed()
        assert stream.close_code == 1001


async def test_the_way_to_the_carrier_is_closed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []

    async def close(self: object) -> None:
        closed.append(self)

    monkeypatch.setattr("bridge.web.service.RestClient.close", close)
    service = Service(house(tmp_path / "config", host="127.0.0.1"))
    await service.start()
    await service.stop(grace_s=0)
    assert closed == [service._rest]


def test_an_api_key_is_asked_with_in_place_of_the_token(tmp_path: Path) -> None:
    twilio = {"account_sid": "AC1", "auth_token": "token", "api_key_sid": "SK1", "api_key_secret": "secret"}
    account = account_of(house(tmp_path / "config", twilio=twilio))
    assert account is not None and (account.account_sid, account.user, account.password) == ("AC1", "SK1", "secret")
    account = account_of(house(tmp_path / "other", twilio={"account_sid": "AC1", "auth_token": "token"}))
    assert account is not None and (account.user, account.password) == ("AC1", "token")
