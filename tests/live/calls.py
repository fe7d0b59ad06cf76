"""Calls without sockets: a real driver and core, and legs that remember what they were asked.

The legs take everything at once and never say anything by themselves; what the world says is delivered by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CallPlan
from bridge.live.driver import Driver, Outside
from tests.call.playbook import plan

__all__ = ["FakeModel", "FakePhone", "Nobody", "begin", "plan", "settle"]


class FakePhone:
    """Remembers; `faults` names methods that raise."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.done: list[str] = []
        self.waiting: list[do.PlayAudio | do.PlaceMark] = []  # until flush
        self.played_ms = 0.0
        self.marks: list[str] = []
        self.silence_ms = 0.0
        self.closed = 0

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.faults:
            raise RuntimeError(f"{what} is broken")

    def play(self, action: do.PlayAudio) -> None:
        self._do("play")
        self.waiting.append(action)

    def mark(self, action: do.PlaceMark) -> None:
        self._do("mark")
        self.waiting.append(action)

    def clear(self) -> None:
        self._do("clear")
        self.waiting.clear()

    def flush(self) -> None:
        self._do("flush")
        for action in self.waiting:
            if isinstance(action, do.PlayAudio):
                self.played_ms += action.ms
            else:
                self.marks.append(action.name)
        self.waiting.clear()

    def gave_silence(self, ms: float) -> None:
        self._do("gave_silence")
        self.silence_ms += ms

    def close(self) -> None:
        self.closed += 1
        self._do("close phone")


class FakeModel:
    """Remembers; `faults` names methods that raise; `then` is called with every request."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.audio = b""
        self.silence_ms = 0.0
        self.asked: list[do.Action] = []
        self.then: Callable[[do.Action], None] = lambda action: None
        self.closed = 0
        self.clears = 0
        self.probes = 0

    def _do(self, what: str) -> None:
        if what in self.faults:
            raise RuntimeError(f"{what} is broken")

    def send_audio(self, audio: bytes) -> None:
        self._do("send_audio")
        self.audio += audio

    def send_silence(self, ms: float) -> None:
        self.silence_ms += ms

    def request(self, action: do.Action) -> None:
        self._do("request")
        self.asked.append(action)
        self.then(action)

    def cleared(self) -> None:
        self.clears += 1

    def probe(self) -> None:
        self.probes += 1

    def open(self, action: do.OpenModel) -> None:
        self._do("open")
        self.asked.append(action)

    def open_beside(self, action: do.OpenModel) -> None:
        self.asked.append(action)

    def switch(self, action: do.SwitchModel) -> None:
        self.asked.append(action)

    def close(self) -> None:
        self.closed += 1
        self._do("close model")


class Nobody:
    """An outside that does everything asked at once."""

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        driver.deliver(ev.ToolFinished(action.tool_call_id, "{}"))

    async def hang_up(self, driver: Driver) -> None:
        driver.deliver(ev.HandedOver("hang_up", True))

    async def transfer(self, driver: Driver, action: do.Transfer) -> None:
        driver.deliver(ev.HandedOver("transfer", True))


class Running:
    """A call that runs, with its legs."""

    def __init__(self, driver: Driver, model: FakeModel, phone: FakePhone) -> None:
        self.driver, self.model, self.phone = driver, model, phone
        self.task = asyncio.create_task(driver.run())

    def tell(self, *facts: ev.Event) -> None:
        for fact in facts:
            self.driver.deliver(fact)


async def settle() -> None:
    """Everything that can happen now, happens."""
    for _ in range(10):
        await asyncio.sleep(0)


async def begin(
    *,
    outside: Outside | None = None,
    phone: FakePhone | None = None,
    model: FakeModel | None = None,
    call_plan: CallPlan | None = None,
    ready: bool = True,
    **policies: Any,
) -> Running:
    """A call with a stream, and a model session that is ready."""
    driver = Driver(call_plan or plan(**policies), outside=outside or Nobody())
    driver.model = model or FakeModel()
    call = Running(driver, driver.model, phone or FakePhone())
    await settle()
    if ready and not driver.ended.done():
        driver.attach(call.phone, "MZ1")
        driver.deliver(ev.ModelReady(1))
    return call
