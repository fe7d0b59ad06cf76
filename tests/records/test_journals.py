"""A journal for every call of a running service, and what a folder that fails costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from bridge.call import events as ev
from bridge.errors import ConfigError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from bridge.records.journal import read, replay
from bridge.records.journals import Journals
from bridge.settings import Directory, IncomingCall, load
from bridge.sim import voices
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.telephony.twilio import CAPABILITIES
from bridge.web.service import Service
from tests.call.test_snapshot import THE_PLAN

BRAIN = Brain.from_dict(
    {"greeting": "Hello.", "intents": [{"name": "hours", "phrases": ["when are you open"], "answer": "At nine."}]},
    source="test",
)
PUBLIC = "https://bridge.example.test"


class Hours:
    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard("hours", "when are you open")

    async def close(self) -> None:
        pass


def _fallen_silent(leg: Leg) -> Awaitable[bool]:
    return leg.wait_for(lambda: leg.line.silent)


async def test_every_call_of_a_service_leaves_a_journal_that_todays_core_agrees_with(tmp_path: Path) -> None:
    async with LocalModel({"front-desk": BRAIN}, recogniser=Hours(), detection="energy") as model:
        url = f"ws://127.0.0.1:{model.port}/v1/realtime"
        settings = load(
            {
                "BRIDGE_PORT": "0",
                "BRIDGE_PUBLIC_URL": PUBLIC,
                "BRIDGE_TWILIO__AUTH_TOKEN": "12345",
                "BRIDGE_REALTIME__PROFILE": "local",
                "BRIDGE_REALTIME__URL": url,
            }
        )
        journals = Journals(tmp_path / "journals")
        service = Service(settings, journals=journals)
        await service.start()
        try:
            address = f"http://127.0.0.1:{service.port}"
            async with Carrier(address, public_url=PUBLIC, auth_token="12345", seed=3) as carrier:
                legs = [await carrier.place_call(to="+15550101", from_="+15550199") for _ in range(2)]
                await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
                for leg in legs:
                    leg.say(voices.clip("opening-hours"))  # into the greeting: an interruption
                    leg.press("1")
                await asyncio.gather(*(_fallen_silent(leg) for leg in legs))
                await asyncio.gather(*(leg.wait_until_agent_speaks() for leg in legs))
                for leg in legs:
                    leg.hang_up()
                await asyncio.gather(*(leg.ended() for leg in legs))
        finally:
            await service.stop(grace_s=2)
    journals.wait_closed()
    files = list((tmp_path / "journals").iterdir())
    assert len(files) == 2
    for file in files:
        facts = [line["fact"]["type"] for _, line in read(file)[1]]
        assert facts[0] == "CallRouted" and facts.count("CallerSpoke") > 50 and "ModelSpoke" in facts
        assert replay(file) is None
        assert file.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Name a folder"):
        Journals(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder is known that takes no files from anybody")
def test_a_folder_that_takes_no_files_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"/proc/self: .* Name a folder that can be written"):
        Journals(Path("/proc/self"))


def test_trying_the_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    Journals(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_a_calls_end_is_said(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    plan, _ = Directory(load({})).plan(IncomingCall(CAPABILITIES, "CA1", "AC1", "", ""))
    (tmp_path / f"{plan.call_id}.jsonl").symlink_to("/dev/full")
    journal = journals.begin(plan)
    assert journal is not None
    journal.watch(0.0, ev.CallRouted(), [])
    with capture_logs() as told:
        journals.end(plan.call_id)
        journal.wait_closed()
        time.sleep(0.05)  # the writer's thread tells after it is done
    assert [(entry["event"], entry["lost"]) for entry in told] == [("journal_incomplete", 1)]


def test_a_call_without_a_journal_goes_on(tmp_path: Path) -> None:
    journals = Journals(tmp_path / "journals")
    plan, _ = Directory(load({})).plan(IncomingCall(CAPABILITIES, "CA1", "AC1", "", ""))
    (tmp_path / "journals").rmdir()
    with capture_logs() as told:
        assert journals.begin(plan) is None
        journals.end(plan.call_id)
    assert [entry["event"] for entry in told] == ["no_journal"]


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    Journals(tmp_path / "journals")
    assert (tmp_path / "journals").stat().st_mode & 0o777 == 0o700


def test_a_journal_that_lost_facts_is_told_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    for call_id, lost in (("whole", 0), ("torn", 3)):
        one = journals.begin(msgspec.structs.replace(THE_PLAN, call_id=call_id))
        assert one is not None
        one.lost = lost
    with capture_logs() as logs:
        journals.end("whole")
        journals.end("torn")
        journals.end("torn")
        time.sleep(0.1)  # the writer's thread tells
    assert [(entry["event"], entry["call_id"], entry["lost"]) for entry in logs] == [("journal_incomplete", "torn", 3)]
    assert not journals._open
