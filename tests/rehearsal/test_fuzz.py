"""200,000 mutated server events into a whole call: session, decoder, transcoder, core and driver, on virtual time.

Nothing a service sends may break the call that hears it, or be noticed by another call on the same loop.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from bridge.audio.formats import MULAW_8K
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import AgentPlan, CallPlan, CarrierCapabilities, Policies, SessionPlan, ToolSpec
from bridge.errors import EndReason
from bridge.live.driver import Driver
from bridge.live.model import ModelLeg
from bridge.realtime.profiles import Target, builtin
from bridge.sim import virtual
from tests.realtime.test_decoder import as_frame, mutate

EVENTS = 200_000
TURNS = 5  # of the other call meanwhile
WIRE = Path(__file__).parents[1] / "realtime" / "wire"
PROFILES = sorted(path.stem for path in WIRE.glob("*.jsonl"))
FRAME = b"\xff" * 160
TOOLS = tuple(ToolSpec(name, f"does {name}", {"type": "object"}) for name in ("look_up", "get_weather", "book_table"))
CLIPS = {"filler": b"\x20" * 3200, "apology": b"\x21" * 3200, "again": b"\x22" * 3200}


class Socket:
    """One connection to a service that takes everything."""

    def __init__(self, on_message: Callable[[bytes, bool], None], on_closed: Callable[[int, str], None]) -> None:
        self.on_message, self.on_closed = on_message, on_closed
        self.sent: list[bytes] = []
        self.open = True
        self.waiting_bytes = 0

    def send(self, payload: bytes) -> None:
        assert self.open and json.loads(payload)["type"]
        self.sent.append(payload)

    def send_binary(self, payload: bytes) -> None:
        assert self.open

    def keep_alive(self, *, every_s: float, within_s: float) -> None: ...

    def probe(self, *, within_s: float) -> None: ...

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.open = False


class Phone:
    """A carrier that plays at once; its marks come back when asked for."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.marks: list[str] = []

    def play(self, action: do.PlayAudio) -> None:
        self.heard += action.audio

    def mark(self, action: do.PlaceMark) -> None:
        self.marks.append(action.name)

    def clear(self) -> None: ...
    def flush(self) -> None: ...
    def gave_silence(self, ms: float) -> None: ...
    def close(self) -> None: ...


class Nobody:
    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        driver.deliver(ev.ToolFinished(action.tool_call_id, '"ok"'))

    async def hang_up(self, driver: Driver) -> None:
        driver.deliver(ev.HandedOver("hang_up", True))

    async def transfer(self, driver: Driver, action: do.Transfer) -> None:
        driver.deliver(ev.HandedOver("transfer", True))


class Line:
    """A call with a stream, and whatever socket its session has at present."""

    def __init__(self, profile: str) -> None:
        chosen = builtin()[profile]
        rate_hz = chosen.input_rates_hz[0] if chosen.input_rates_hz else 24_000
        call_plan = CallPlan(
            call_id="call",
            carrier_call_id="CA1",
            caller="+15550199",
            called="+15550100",
            direction="inbound",
            agent=AgentPlan(
                "agent",
                greeting="Greet.",
                policies=Policies(idle_prompt_after_s=0, idle_hang_up_after_s=0),
                clips=CLIPS,
            ),
            carrier=CarrierCapabilities(),
            models=(chosen.capabilities(),),
            session=SessionPlan(tools=TOOLS, model_rate_hz=rate_hz),
        )
        self.driver = Driver(call_plan, outside=Nobody())
        self.sockets: list[Socket] = []
        target = Target(chosen, url="wss://service.example.test/v1/realtime", api_key="k", model="m")
        self.driver.model = ModelLeg(self.driver, (target,), caller=MULAW_8K, dial=self._dial)
        self.phone = Phone()
        self.task = asyncio.create_task(self.driver.run())

    async def _dial(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
        *,
        on_message: Callable[[bytes, bool], None],
        on_closed: Callable[[int, str], None],
    ) -> Socket:
        self.sockets.append(Socket(on_message, on_closed))
        return self.sockets[-1]

    @property
    def over(self) -> bool:
        return self.driver.ended.done()

    async def begin(self) -> None:
        await asyncio.sleep(0.001)
        self.driver.attach(self.phone, "MZ1")

    def says(self, frame: bytes, *, is_text: bool = True) -> None:
        if self.sockets:
            self.sockets[-1].on_message(frame, is_text)

    def breathes(self) -> None:
        """The caller's next frame, and the marks that were due."""
        self.driver.deliver(ev.CallerSpoke(FRAME, 20.0))
        marks, self.phone.marks = self.phone.marks, []
        for name in marks:
            self.driver.deliver(ev.MarkReturned(name))

    async def end(self) -> EndReason:
        if not self.over:
            self.driver.deliver(ev.CallerLeft("stop"))
        return await self.task


def golden(profile: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WIRE / f"{profile}.jsonl").read_text("utf-8").splitlines() if line.strip()]


def mutations(profile: str, number: int, chance: random.Random) -> Iterator[tuple[bytes, bool]]:
    """The service's session over and over, each event changed, some not; the first two of a session mostly are not."""
    events = golden(profile)
    ids = [str(value) for event in events for key, value in event.items() if key.endswith("_id")] or ["x"]
    for count in range(number):
        at = count % len(events)
        event = copy.deepcopy(events[at])
        if chance.random() < (0.05 if at < 2 else 0.85):
            event = mutate(event, chance, ids)
        yield as_frame(event, chance), chance.random() > 0.005


def turn(number: int) -> Iterator[dict[str, Any]]:
    """The caller asks, the service answers with a second of sound: as documented."""
    ids = {"response_id": f"resp_{number}", "item_id": f"item_{number}", "output_index": 0, "content_index": 0}
    caller = {"item_id": f"caller_{number}"}
    yield {"type": "input_audio_buffer.speech_started", "audio_start_ms": number * 1000, **caller}
    yield {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": number * 1000 + 500, **caller}
    yield {"type": "input_audio_buffer.committed", "previous_item_id": None, **caller}
    yield {"type": "response.created", "response": {"id": ids["response_id"], "status": "in_progress"}}
    sound = base64.b64encode(bytes([number % 256, 1]) * 2400).decode()
    for _ in range(10):
        yield {"type": "response.output_audio_transcript.delta", "delta": "word ", **ids}
        yield {"type": "response.output_audio.delta", "delta": sound, **ids}
    yield {"type": "response.output_audio.done", **ids}
    yield {"type": "response.done", "response": {"id": ids["response_id"], "status": "completed", "output": []}}


async def other_call(turns: int) -> list[Any]:
    """A well-behaved service in another call, and all that came of it."""
    line = Line("openai")
    record: list[Any] = []
    line.driver.watch([lambda at_ms, event, actions: record.append((round(at_ms, 3), event, list(actions)))])
    await line.begin()
    for event in golden("openai")[:2]:
        line.says(json.dumps(event).encode())
    for number in range(turns):
        for count, event in enumerate(turn(number)):
            line.says(json.dumps({"event_id": f"event_{number}_{count}", **event}).encode())
            line.breathes()
            await asyncio.sleep(0.02)
    reason = await line.end()
    return [*record, bytes(line.phone.heard), reason]


async def assault(profile: str, events: int) -> tuple[Counter[EndReason], list[Any]]:
    """`events` mutated events into calls that are replaced when they end; meanwhile another call goes on."""
    chance = random.Random(f"fuzz {profile}")
    other = asyncio.create_task(other_call(TURNS))
    reasons: Counter[EndReason] = Counter()
    line = Line(profile)
    await line.begin()
    for count, (frame, is_text) in enumerate(mutations(profile, events, chance)):
        if line.over:
            reasons[await line.end()] += 1
            line = Line(profile)
            await line.begin()
        line.says(frame, is_text=is_text)
        if count % 5 == 0:
            line.breathes()
        if count % 10 == 0:
            await asyncio.sleep(0.002)
    reasons[await line.end()] += 1
    return reasons, await other


@pytest.fixture
def quiet_log() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("profile", PROFILES)
def test_whatever_a_service_sends_the_call_decides_and_no_other_call_notices(profile: str) -> None:
    events = EVENTS // len(PROFILES) + 1
    reasons, other = virtual.run(assault(profile, events))
    assert EndReason.BUG not in reasons, reasons
    assert other == virtual.run(other_call(TURNS))
    assert other[-1] is EndReason.CALLER_LEFT and len(other[-2]) > TURNS * 3000, "the other call was none"
