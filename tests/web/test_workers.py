"""Several real processes on one port: a call finds its worker, a dead worker costs only its own calls, and all end
together.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from bridge.errors import BridgeError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from bridge.settings import load
from bridge.sim import voices
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.telephony.signature import SIGNATURE, sign
from bridge.web import workers
from bridge.web.workers import Workers

TOKEN = "12345"
PUBLIC = "https://bridge.example.test"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
BRAIN = Brain.from_dict(
    {
        "greeting": "Hello.",
        "intents": [
            {
                "name": "person",
                "phrases": ["a person please"],
                "tool": {"name": "transfer", "arguments": {"target": "operator"}},
                "answer": "One moment.",
            }
        ],
    },
    source="test",
)


class Person:
    """Understands everything as the wish for a person."""

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard("person", "a person please")

    async def close(self) -> None:
        pass


class House:
    """A service of several workers, a model, and a carrier."""

    def __init__(self, workers: Workers, model: LocalModel, carrier: Carrier) -> None:
        self.workers = workers
        self.model = model
        self.carrier = carrier
        self.client = aiohttp.ClientSession()
        self.url = f"http://127.0.0.1:{workers.port}"

    async def call(self) -> Leg:
        return await self.carrier.place_call(
            to="+15550101", from_="+15550199", status_callback=f"{PUBLIC}/twilio/status", keep_audio=False
        )

    async def calls(self, number: int) -> list[Leg]:
        """Placed one after the other, so that a seed decides which worker each belongs to; all in their streams."""
        legs = [await self.call() for _ in range(number)]
        await asyncio.gather(*(leg.streaming() for leg in legs))
        return legs

    async def post(self, path: str, fields: dict[str, str]) -> str:
        signed = {SIGNATURE: sign(TOKEN, PUBLIC + path, fields.items())}
        async with self.client.post(self.url + path, data=fields, headers=signed) as answer:
            return await answer.text()

    async def figure(self, name: str) -> float:
        """The sum of a metric over its labels."""
        async with self.client.get(f"{self.url}/metrics") as answer:
            page = await answer.text()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? ([0-9.e+]+)$", page, re.M))


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await true():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def house(*, loop: str = "auto", **env: str) -> AsyncIterator[House]:
    async with LocalModel({"front-desk": BRAIN}, recogniser=Person(), detection="energy") as model:
        settings = load(
            {
                "BRIDGE_PORT": "0",
                "BRIDGE_WORKERS": "2",
                "BRIDGE_PUBLIC_URL": PUBLIC,
                "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN,
                "BRIDGE_REALTIME__PROFILE": "local",
                "BRIDGE_REALTIME__URL": f"ws://127.0.0.1:{model.port}/v1/realtime",
                "BRIDGE_LIMITS__DRAIN_S": "3",
                "BRIDGE_LIMITS__PRE_START_PER_IP": "100",
                **env,
            }
        )
        workers = Workers(settings, loop=loop)
        try:
            await workers.start()
            url = f"http://127.0.0.1:{workers.port}"
            async with Carrier(url, public_url=PUBLIC, auth_token=TOKEN, seed=1) as carrier:
                running = House(workers, model, carrier)
                try:
                    yield running
                finally:
                    await running.client.close()
        finally:
            await workers.stop(grace_s=0)


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
async def test_twenty_calls_over_two_workers_each_with_one_model_session_from_its_webhook_on(loop: str) -> None:
    async with house(loop=loop) as running:
        legs = await running.calls(20)
        await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
        assert running.model.connections == 20  # none was opened twice, though streams came in anywhere
        assert running.workers.active_calls == 20
        page = running.workers._page
        assert page is not None and min(page) > 0
        for _ in range(4):  # whichever worker answers
            assert await running.figure("bridge_calls_active") == 20
            assert await running.figure("bridge_calls_total") == 20
        for leg in legs:
            leg.hang_up()
        await asyncio.gather(*(leg.ended() for leg in legs))
        await until(lambda: _is(running.figure("bridge_calls_ended_total"), 20))
        assert running.workers.active_calls == 0
        assert not [problem for leg in legs for problem in leg.errors]


async def _is(figure: Awaitable[float], wanted: float) -> bool:
    return await figure == wanted


async def test_a_worker_that_hangs_while_it_takes_a_dead_ones_place_is_replaced_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_LONGEST_WAIT_S", 0.01)
    lives = [(PATIENCE_S, "echo ready"), (0.01, "exec sleep 1000"), (PATIENCE_S, "echo ready; exec sleep 1000")]
    hired: list[asyncio.subprocess.Process] = []

    class Agency(Workers):
        async def _hire(self, worker: int) -> asyncio.subprocess.Process:
            start_s, life = lives[len(hired)]
            monkeypatch.setattr(workers, "_START_S", start_s)
            process = await asyncio.create_subprocess_exec("sh", "-c", life, stdout=asyncio.subprocess.PIPE)
            hired.append(process)
            self._processes[worker] = process
            return process

    agency = Agency(load({"BRIDGE_WORKERS": "1"}))
    agency._page = memoryview(bytearray(8)).cast("q")
    keeper = asyncio.create_task(agency._keep(0, asyncio.get_running_loop().create_future()))
    try:
        with capture_logs() as told:
            await until(lambda: _true(len(hired) == 3))
        assert [process.returncode for process in hired] == [0, -signal.SIGKILL, None]
        gone = [(entry["log_level"], entry["event"]) for entry in told if "code" in entry]
        assert gone == [("warning", "worker_ended"), ("error", "worker_died")]
    finally:
        agency._stopping.set()
        hired[-1].kill()
        await keeper


async def test_a_killed_worker_is_replaced_and_nobody_elses_call_notices() -> None:
    async with house() as running:
        legs = await running.calls(8)
        await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
        pids = running.workers.pids
        page = running.workers._page
        assert page is not None
        others = page[1]
        assert page[0] and others
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: _true(running.workers.pids.get(0, pids[0]) != pids[0]))
        await until(lambda: _true(sum(leg.over.done() for leg in legs) == 8 - others))
        assert running.workers.pids[1] == pids[1] and page[1] == others
        survivors = [leg for leg in legs if not leg.over.done()]
        assert len(survivors) == others
        async with asyncio.timeout(PATIENCE_S):
            more = await running.calls(8)  # also those that belong to the new worker
            await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in more))
        await until(lambda: _true(running.workers.active_calls == others + 8))
        assert not any(leg.over.done() for leg in survivors)
        for leg in survivors:
            leg.say(voices.clip("opening-hours"))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(_dialled(leg) for leg in survivors))
        # a sum that fell would count again for whoever watches its rate
        assert await running.figure("bridge_calls_total") == 16


def _dialled(leg: Leg) -> Awaitable[bool]:
    return leg.wait_for(lambda: bool(leg.dialled))


async def _true(what: bool) -> bool:
    return what


async def test_all_workers_together_take_no_more_calls_than_there_are_places() -> None:
    async with house(BRIDGE_LIMITS__MAX_CALLS="3") as running:
        legs = await asyncio.gather(*(running.call() for _ in range(8)))
        taken = [leg for leg in legs if leg.documents and "Connect" in str(leg.documents[0])]
        assert len(taken) == 3 == running.workers.active_calls
        async with running.client.get(f"{running.url}/readyz") as answer:
            assert answer.status == 503 and "full" in await answer.text()
        taken[0].hang_up()
        await taken[0].ended()
        await until(lambda: _true(running.workers.active_calls == 2))
        assert "<Stream" in await running.post("/twilio/voice", _form("CA77"))


def _form(call_sid: str) -> dict[str, str]:
    return {"CallSid": call_sid, "AccountSid": "AC1", "From": "+15550100", "To": "+15550101", "Direction": "inbound"}


async def test_a_webhook_that_comes_again_meets_the_same_call_wherever_it_lands() -> None:
    async with house() as running:
        answers = await asyncio.gather(*(running.post("/twilio/voice", _form(f"CA{n % 4}")) for n in range(40)))
        assert len(set(answers)) == 4
        assert running.workers.active_calls == 4
        await until(lambda: _true(running.model.connections == 4))


async def test_a_token_opens_one_stream_and_no_second_at_any_worker() -> None:
    async with house() as running:
        document = await running.post("/twilio/voice", _form("CA1"))
        token = re.search(r'name="token" value="([^"]+)"', document)
        assert token is not None
        codes = await asyncio.gather(*(_stream(running, "CA1", token.group(1)) for _ in range(12)))
        assert sorted(codes, key=str) == [1008] * 11 + [None]
        stranger = await running.post("/twilio/voice", _form("CA2"))
        other = re.search(r'name="token" value="([^"]+)"', stranger)
        assert other is not None
        assert await _stream(running, "CA1", other.group(1)) == 1008  # right token, wrong call
        assert await _stream(running, "CA2", "7." + other.group(1)) == 1008  # a worker that never was


async def _stream(running: House, call_sid: str, token: str) -> int | None:
    """The code a media stream is closed with; None: it was taken."""
    start = {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "streamSid": "MZ1",
            "accountSid": "AC1",
            "callSid": call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": token},
        },
    }
    async with running.client.ws_connect(f"{running.url}/twilio/media") as socket:
        await socket.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await socket.send_json(start)
        message = await socket.receive(timeout=PATIENCE_S)
        return socket.close_code if message.type is aiohttp.WSMsgType.CLOSE else None


async def test_a_transferred_caller_is_connected_whichever_worker_is_asked() -> None:
    async with house() as running:
        legs = await running.calls(6)
        await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
        await asyncio.gather(*(leg.wait_until_quiet(500) for leg in legs))
        for leg in legs:
            leg.say(voices.clip("opening-hours"))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(_dialled(leg) for leg in legs))
        assert {leg.dialled[0].target for leg in legs} == {"+15550100"}


async def test_a_worker_that_cannot_start_stops_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BridgeError, match="did not start"):
        async with house():
            pass


async def test_a_worker_for_whom_there_is_no_room_stops_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "create_subprocess_exec", _no_room)
    async with asyncio.timeout(10):
        with pytest.raises(BridgeError, match="could not be started: Too many open files"):
            async with house():
                pass


async def test_a_worker_for_whom_there_is_no_room_is_hired_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_NOT_HIRED_S", 0.2)
    async with house() as running:
        with monkeypatch.context() as without_room:
            without_room.setattr(asyncio, "create_subprocess_exec", _no_room)
            with capture_logs() as told:
                before = running.workers.pids
                os.kill(before[0], signal.SIGKILL)
                await until(lambda: _true(len([one for one in told if one["event"] == "worker_not_hired"]) > 1))
        await until(lambda: _true(len(running.workers.pids) == 2))
        now = running.workers.pids
        assert now[0] != before[0] and now[1] == before[1]


async def _no_room(*command: object, **options: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_the_workers_folder_is_held_against_whoever_cleans_up() -> None:
    async with house() as running:
        folder = running.workers._folder
        assert folder is not None
        other = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


async def test_what_tools_print_when_they_are_imported_is_no_word_of_a_worker(tmp_path: Path) -> None:
    (tmp_path / "config" / "agents").mkdir(parents=True)
    (tmp_path / "shop.py").write_text(
        "print('ready to sell', flush=True)\n\nasync def buy(arguments, call) -> str:\n    return 'sold'\n"
    )
    tool = "{name: buy, description: Buy it., python: 'shop:buy'}"
    agent = f"instructions: Sell.\ntools: [{tool}]\n"
    (tmp_path / "config" / "agents" / "front-desk.yaml").write_text(agent)
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "serve", "--workers", "2", "--port", "0"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await _url(service)
    finally:
        service.terminate()
        await service.wait()


async def test_sigterm_drains_every_worker_and_none_is_left() -> None:
    async with LocalModel({"front-desk": BRAIN}, recogniser=Person(), detection="energy") as model:
        service = await _serving(f"ws://127.0.0.1:{model.port}/v1/realtime", drain_s=20)
        assert service.stdout is not None
        url = await _url(service)
        workers = _children(service.pid)
        assert len(workers) == 2
        async with Carrier(url, public_url=PUBLIC, auth_token=TOKEN, seed=1) as carrier:
            legs = [await carrier.place_call(to="+15550101", from_="+15550199") for _ in range(4)]
            await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
            service.send_signal(signal.SIGTERM)
            async with aiohttp.ClientSession() as client:
                await until(lambda: _drains(client, url))
            refused = await carrier.place_call(to="+15550101", from_="+15550199")
            await refused.ended()
            assert not refused.streams
            assert not any(leg.over.done() for leg in legs)
            for leg in legs:
                leg.hang_up()
            async with asyncio.timeout(PATIENCE_S):
                assert await service.wait() == 0
        assert not [pid for pid in workers if _lives(pid)]


async def test_workers_end_when_their_parent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with LocalModel({"front-desk": BRAIN}, recogniser=Person(), detection="energy") as model:
        service = await _serving(f"ws://127.0.0.1:{model.port}/v1/realtime", drain_s=0)
        await _url(service)
        workers = _children(service.pid)
        service.kill()
        await service.wait()
        await until(lambda: _true(not any(_lives(pid) for pid in workers)))
        assert not os.listdir(tmp_path)  # nothing of theirs is left lying about


async def test_a_call_outlives_the_parent_and_the_workers_that_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with LocalModel({"front-desk": BRAIN}, recogniser=Person(), detection="energy") as model:
        service = await _serving(f"ws://127.0.0.1:{model.port}/v1/realtime", drain_s=20)
        url = await _url(service)
        workers = _children(service.pid)
        async with Carrier(url, public_url=PUBLIC, auth_token=TOKEN, seed=1) as carrier:
            leg = await carrier.place_call(to="+15550101", from_="+15550199")
            await leg.wait_until_agent_speaks()
            service.kill()
            await service.wait()
            await until(lambda: _true(sum(_lives(pid) for pid in workers) == 1))
            assert os.listdir(tmp_path), "the other counts what happens in it"
            await leg.wait_until_quiet()
            leg.say(voices.clip("opening-hours"))
            await leg.wait_until_agent_speaks()
            assert not leg.over.done()
            leg.hang_up()
            await leg.ended()
        await until(lambda: _true(not any(_lives(pid) for pid in workers)))
        assert not os.listdir(tmp_path)


async def _serving(model_url: str, *, drain_s: int) -> asyncio.subprocess.Process:
    env = {
        **os.environ,
        "BRIDGE_PORT": "0",
        "BRIDGE_PUBLIC_URL": PUBLIC,
        "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN,
        "BRIDGE_REALTIME__PROFILE": "local",
        "BRIDGE_REALTIME__URL": model_url,
        "BRIDGE_LIMITS__DRAIN_S": str(drain_s),
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "serve", "--workers", "2"),
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
    )


async def _url(service: asyncio.subprocess.Process) -> str:
    assert service.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            line = await service.stdout.readline()
            assert line, "it has ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", line.decode())
            if found:
                return found.group()


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(entry.parent.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def _drains(client: aiohttp.ClientSession, url: str) -> bool:
    async with client.get(f"{url}/readyz") as answer:
        return "draining" in await answer.text()


async def test_a_worker_keeps_every_secret_out_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Exception):
        pass

    def configure(settings: object, *, secrets: tuple[str, ...]) -> None:
        raise Told(*secrets)

    monkeypatch.setattr("bridge.web.workers.logs.configure", configure)
    found = load({"BRIDGE_TWILIO__AUTH_TOKEN": "token-canary", "BRIDGE_REALTIME__API_KEY": "key-canary"})
    given = workers.Assignment(0, 1, tmp_path, 0, "", "", None, found)
    with pytest.raises(Told) as told:
        await workers.work(given)
    assert set(told.value.args) == {"token-canary", "key-canary"}
