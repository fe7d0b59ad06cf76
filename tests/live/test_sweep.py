"""An exception at any await of one call ends that call and no other: every await point, one after the other.

A whole call is lived again and again on virtual time; each time one more step of one of its tasks is answered with an
exception instead of with what was awaited. The sweep ends with the first run in which nothing was left to break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.live.driver import Driver
from bridge.sim import virtual
from tests.live.calls import FakePhone, plan, settle
from tests.live.services import Line, Service
from tests.live.test_driver import leftovers


class Injected(Exception):
    """What is thrown."""


class Sabotage:
    """Wraps the coroutines of tasks while it is on, and throws into the one that takes step number `at`."""

    def __init__(self, at: int, error: type[Exception]) -> None:
        self.at = at
        self.error = error
        self.steps = 0
        self.where = ""
        self.on = False

    def factory(self, loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Wrapped(coro, self) if self.on else coro, loop=loop, **options)


class _Wrapped(Coroutine[Any, Any, Any]):
    def __init__(self, inner: Coroutine[Any, Any, Any], sabotage: Sabotage) -> None:
        self._inner = inner
        self._sabotage = sabotage
        self._began = False

    def send(self, value: Any) -> Any:
        sabotage = self._sabotage
        if self._began:  # the first step is a beginning, not an await
            sabotage.steps += 1
            task = asyncio.current_task()
            assert task is not None
            if sabotage.steps == sabotage.at:
                sabotage.where = task.get_name()
                return self._inner.throw(sabotage.error("injected"))
        self._began = True
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("a task is stepped, not awaited")


class Busy:
    """Errands with awaits in them."""

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        await asyncio.sleep(0.2)
        await asyncio.sleep(0)
        driver.deliver(ev.ToolFinished(action.tool_call_id, "{}"))

    async def hang_up(self, driver: Driver) -> None:
        await asyncio.sleep(0.3)
        driver.deliver(ev.HandedOver("hang_up", True))

    async def transfer(self, driver: Driver, action: do.Transfer) -> None:
        await asyncio.sleep(0.3)
        driver.deliver(ev.HandedOver("transfer", False, "no"))


async def live(line: Line) -> None:
    """A call with everything in it that is awaited: a rival, a session lost, a tool, a transfer, a hang-up."""
    line.driver._outside = Busy()
    await asyncio.sleep(2.0)  # the first attempt is slow, its rival opens
    line.driver.attach(line.phone, "MZ1")
    await settle()
    if line.service.sockets:
        line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
        line.tell(ev.ToolRequested("r1", "i1", "t1", "look_up", "{}"))
        await asyncio.sleep(0.5)
        line.service.last.drops(1011)
    await asyncio.sleep(1.0)
    line.tell(ev.TransferWished("+15550009"))
    await asyncio.sleep(10.0)
    line.tell(ev.HangUpWished("operator"))
    await asyncio.sleep(20.0)
    line.tell(ev.CallerLeft("stop"))


async def one_run(at: int, error: type[Exception]) -> tuple[Sabotage, EndReason]:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    other = Line(Service(talks=True), plan())
    await settle()
    other.driver.attach(FakePhone(), "MZ9")

    sabotage = Sabotage(at, error)
    loop.set_task_factory(sabotage.factory)
    sabotage.on = True
    line = Line(Service(9.0, 0.1, talks=True), plan())
    living = asyncio.Task(live(line), name="the world")
    try:
        reason = await asyncio.wait_for(line.task, 120)
    except BaseExceptionGroup as broken:
        # Thrown into the end itself: whoever owns the task is told, and the call has its reason.
        assert sabotage.where == line.task.get_name(), broken
        reason = line.driver.ended.result()
    sabotage.on = False
    living.cancel()
    await settle()
    loop.set_task_factory(None)

    assert line.phone.closed or line.driver.phone is not line.phone, sabotage.where
    assert all(socket.closed for socket in line.service.sockets), sabotage.where
    assert not other.task.done(), "no other call notices"
    other.tell(ev.CallerLeft("stop"))
    assert await other.task is EndReason.CALLER_LEFT
    await settle()
    assert not leftovers(), sabotage.where
    assert not complaints, sabotage.where
    return sabotage, reason


@pytest.mark.parametrize("error", [Injected, OSError, TimeoutError])
def test_an_exception_at_any_await_of_a_call_ends_that_call_alone(error: type[Exception]) -> None:
    seen: dict[str, EndReason] = {}
    at = 1
    with capture_logs():
        while True:
            sabotage, reason = virtual.run(one_run(at, error))
            if not sabotage.where:
                break
            seen.setdefault(sabotage.where, reason)
            at += 1
    names = " ".join(seen)
    for part in ("session 1", "attempt 1", "attempt 2", "tool look_up", "hang up", "transfer"):
        assert part in names, f"{part} was never broken: {names}"
    assert at > 9
    for part in ("session 1", "tool", "hang up", "transfer"):
        assert [reason for name, reason in seen.items() if name.startswith(part)] == [EndReason.BUG], part
