"""One call and time: what is queued, what breaks, what rings, what ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import ToolSpec
from bridge.errors import EndReason
from bridge.live.driver import Driver
from bridge.sim import virtual
from tests.live.calls import FakeModel, FakePhone, Nobody, begin, plan, settle

FRAME = ev.CallerSpoke(b"\xff" * 160, 20.0)
SPEECH = (ev.ResponseStarted("r1"), ev.ModelSpoke("r1", "i1", 0, b"\x01" * 16_000, 2000.0))
TOOL = ev.ToolRequested("r1", "i2", "t1", "look_up", "{}")


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        virtual.run(test(*args, **named))

    return run


def leftovers() -> list[str]:
    """Tasks besides the test's own."""
    return [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# ---------------------------------------------------------------- facts and requests


@on_virtual_time
async def test_facts_that_arise_while_requests_are_performed_wait_their_turn() -> None:
    call = await begin()
    order: list[str] = []
    call.driver.watch([lambda at, event, actions: order.append(type(event).__name__)])

    def complain(action: do.Action) -> None:
        call.tell(ev.ModelComplained("note", "x"), ev.ModelSaid("r1", "i1", "hello"))
        order.append("asked")

    call.model.then = complain
    call.tell(*SPEECH, ev.CallerPressed("1"), ev.CallerPressed("#"))
    pressed = order.index("CallerPressed")
    assert order[pressed - 1] == "asked", "performed before the fact is shown"
    assert order.count("ModelComplained") == order.count("asked") > 0
    assert order[-2:] == ["ModelComplained", "ModelSaid"]
    call.tell(ev.CallerLeft("stop"))
    assert await call.task is EndReason.CALLER_LEFT


@on_virtual_time
async def test_facts_still_waiting_when_the_call_ends_are_dropped() -> None:
    call = await begin()
    seen: list[str] = []
    call.driver.watch([lambda at, event, actions: seen.append(type(event).__name__)])
    call.model.then = lambda action: call.tell(ev.CallerLeft("stop"), FRAME, ev.CallerPressed("2"))
    call.tell(ev.CallerPressed("#"), ev.CallerPressed("3"), FRAME)
    assert seen == ["CallerPressed", "CallerLeft"]
    assert await call.task is EndReason.CALLER_LEFT


@on_virtual_time
async def test_frames_are_shown_to_their_own_watchers_and_to_all_where_a_deadline_was_due() -> None:
    call = await begin()
    few: list[str] = []
    every: list[str] = []
    call.driver.watch(
        [lambda at, event, actions: few.append(type(event).__name__)],
        [lambda at, event, actions: every.append(type(event).__name__)],
    )
    call.tell(FRAME)
    assert (few, every) == ([], ["CallerSpoke"])
    call.tell(*SPEECH)
    few.clear()
    asyncio.get_running_loop().jump(0.5)  # type: ignore[attr-defined]  # the alarm is due and did not ring yet
    played = call.phone.played_ms
    call.tell(FRAME)
    assert few == ["CallerSpoke"] and every == ["CallerSpoke"] * 2
    assert call.phone.played_ms > played, "what became due leaves with the frame"
    call.tell(ev.CallerLeft("stop"))
    await call.task


@on_virtual_time
async def test_silence_given_to_the_model_is_credited_to_the_callers_timeline() -> None:
    call = await begin(caller_pause_ms=200)
    call.tell(FRAME, ev.CallerSpeechStarted("c1"))
    await asyncio.sleep(1.0)
    assert call.model.silence_ms > 0
    assert call.phone.silence_ms == call.model.silence_ms
    call.tell(ev.CallerLeft("stop"))
    await call.task


# ---------------------------------------------------------------- what breaks


@on_virtual_time
@pytest.mark.parametrize("fact", [ev.CallerPressed("1"), FRAME])
async def test_the_fact_that_broke_a_call_is_shown_before_it_ends(
    fact: ev.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await begin()
    seen: list[tuple[ev.Event, Any]] = []

    def watch(at: float, event: ev.Event, actions: Any) -> None:
        seen.append((event, actions))

    def breaks(event: ev.Event, now: float) -> Any:
        raise AssertionError("an invariant")

    call.driver.watch([watch], [watch])
    monkeypatch.setattr(call.driver.call, "handle", breaks)
    with capture_logs():
        call.tell(fact)
        assert await call.task is EndReason.BUG
    assert seen == [(fact, ())]


@on_virtual_time
async def test_so_is_one_whose_requests_could_not_be_performed() -> None:
    call = await begin()
    seen: list[tuple[ev.Event, int]] = []
    call.driver.watch([], [lambda at, event, actions: seen.append((event, len(actions)))])
    call.model.faults = ("send_audio",)
    with capture_logs():
        call.tell(FRAME)
        assert await call.task is EndReason.BUG
    assert seen == [(FRAME, 1)]


async def breaks_alone(call: Any, other: Any, do_it: Callable[[], Any]) -> str:
    """After `do_it` the call has ended with BUG, both legs are closed, and the other call goes on. Where the log says
    that it broke."""
    with capture_logs() as logs:
        outcome = do_it()
        if isinstance(outcome, Awaitable):
            await outcome
        assert await asyncio.wait_for(call.task, 10) is EndReason.BUG
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert told["event"] == "call_broke" and told["call_id"] == call.driver.plan.call_id
    assert call.model.closed and call.phone.closed
    handled = len(other.phone.done)
    other.tell(*SPEECH)
    assert len(other.phone.done) > handled and not other.task.done()
    other.tell(ev.CallerLeft("stop"))
    assert await other.task is EndReason.CALLER_LEFT
    assert not leftovers()
    return str(told["where"])


@pytest.mark.parametrize("fault", ["play", "mark", "clear", "flush"])
@on_virtual_time
async def test_an_exception_of_the_phone_leg_ends_this_call_only(fault: str) -> None:
    call, other = await begin(), await begin()
    call.phone.faults = (fault,)
    where = await breaks_alone(call, other, lambda: call.tell(*SPEECH, ev.CallerSpeechStarted("c1")))
    assert where == {"play": "ModelSpoke", "mark": "ModelSpoke", "clear": "CallerSpeechStarted"}.get(fault, where)


@pytest.mark.parametrize("fault", ["send_audio", "request"])
@on_virtual_time
async def test_an_exception_of_the_model_leg_ends_this_call_only(fault: str) -> None:
    call, other = await begin(), await begin()
    call.model.faults = (fault,)
    where = await breaks_alone(call, other, lambda: call.tell(FRAME, ev.CallerPressed("#")))
    assert where == {"send_audio": "CallerSpoke", "request": "CallerPressed"}[fault]


@on_virtual_time
async def test_an_exception_of_the_core_ends_this_call_only() -> None:
    class Strange(ev.Event, frozen=True, tag=True):
        pass

    call, other = await begin(), await begin()
    assert await breaks_alone(call, other, lambda: call.tell(Strange())) == "Strange"


@on_virtual_time
async def test_a_watcher_that_fails_watches_no_longer_and_the_call_goes_on() -> None:
    seen: list[str] = []

    def broken(at: float, event: ev.Event, actions: Any) -> None:
        raise ValueError("the disk is gone")

    call = await begin()
    call.driver.watch([broken, lambda at, event, actions: seen.append(type(event).__name__)], [broken])
    with capture_logs() as logs:
        call.tell(*SPEECH, FRAME, FRAME)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["watcher_failed"]
    assert seen == [type(fact).__name__ for fact in SPEECH]
    assert not call.driver.ended.done()
    call.driver.end(EndReason.CALLER_LEFT)
    await call.task


@on_virtual_time
async def test_an_exception_when_a_deadline_rings_ends_this_call_only() -> None:
    call, other = await begin(), await begin()
    call.tell(*SPEECH)
    call.phone.faults = ("play",)
    assert await breaks_alone(call, other, lambda: asyncio.sleep(1)) == "DeadlineReached"


@on_virtual_time
async def test_a_session_that_cannot_be_begun_ends_this_call_only() -> None:
    other = await begin()
    with capture_logs() as logs:
        call = await begin(model=FakeModel("open"), ready=False)
        assert await call.task is EndReason.BUG
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["call_broke"]
    other.tell(ev.CallerLeft("stop"))
    assert await other.task is EndReason.CALLER_LEFT


class Clumsy(Nobody):
    """An outside whose every errand fails, at once or after a moment."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        await asyncio.sleep(self._after_s)
        raise KeyError("tool")

    async def hang_up(self, driver: Driver) -> None:
        await asyncio.sleep(self._after_s)
        raise KeyError("hang up")

    async def transfer(self, driver: Driver, action: do.Transfer) -> None:
        await asyncio.sleep(self._after_s)
        raise KeyError("transfer")


@pytest.mark.parametrize("after_s", [0.0, 0.3])
@pytest.mark.parametrize("what", [TOOL, ev.HangUpWished("operator"), ev.TransferWished("+15550009")])
@on_virtual_time
async def test_an_errand_that_raises_ends_this_call_only(what: ev.Event, after_s: float) -> None:
    call, other = await begin(outside=Clumsy(after_s)), await begin()
    if isinstance(what, ev.ToolRequested):
        call.tell(ev.ResponseStarted("r1"))
    await breaks_alone(call, other, lambda: (call.tell(what), asyncio.sleep(10))[1])


@on_virtual_time
async def test_a_task_of_the_call_that_raises_takes_its_siblings_along_in_order() -> None:
    call = await begin()
    told: list[str] = []

    async def lasting() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            told.append("cancelled")

    async def failing() -> None:
        await asyncio.sleep(1)
        raise RuntimeError("no")

    call.driver.spawn(lasting, "lasting")
    call.driver.spawn(failing, "failing")
    with capture_logs():
        assert await call.task is EndReason.BUG
    assert told == ["cancelled"] and not leftovers()


@on_virtual_time
async def test_a_leg_that_will_not_close_does_not_keep_the_other_open() -> None:
    call = await begin(model=FakeModel("close model"), phone=FakePhone("close phone"))
    with capture_logs() as logs:
        call.tell(ev.CallerLeft("stop"))
        assert await call.task is EndReason.BUG
    assert call.model.closed and call.phone.closed
    assert {entry["event"] for entry in logs if entry["log_level"] == "error"} == {"call_broke", "leg_would_not_close"}


# ---------------------------------------------------------------- the alarm


class Rings:
    """Counts how often the loop is asked for an alarm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        loop = asyncio.get_running_loop()
        original = loop.call_at

        def counted(when: float, callback: Callable[..., Any], *args: Any, **named: Any) -> Any:
            if getattr(callback, "__name__", "") == "_ring":
                self.count += 1
            return original(when, callback, *args, **named)

        monkeypatch.setattr(loop, "call_at", counted)


@on_virtual_time
async def test_frames_do_not_move_the_alarm() -> None:
    call = await begin()
    with pytest.MonkeyPatch.context() as patch:
        rings = Rings(patch)
        for _ in range(500):
            call.tell(FRAME)
            await asyncio.sleep(0.02)
        assert rings.count < 10
    call.tell(ev.CallerLeft("stop"))
    await call.task


@on_virtual_time
async def test_an_alarm_that_rings_before_its_time_is_set_anew_and_never_spins() -> None:
    """Whatever the fractions of a millisecond: a deadline costs a ring or two, on any clock."""
    with pytest.MonkeyPatch.context() as patch:
        rings = Rings(patch)
        for number in range(200):
            call = await begin(ready=False, stream_wait_s=1 / 3 + number * 0.000_37)
            began = rings.count
            await asyncio.sleep(number * 1e-5)
            assert await call.task is EndReason.NEVER_STARTED
            assert rings.count - began <= 10  # the model that never answers is opened anew meanwhile


@on_virtual_time
async def test_a_nearer_deadline_rings_in_its_time() -> None:
    loop = asyncio.get_running_loop()
    call = await begin(digits_gap_ms=1500)
    began = loop.time()
    call.tell(ev.CallerPressed("1"))
    asked_at: list[float] = []
    call.model.then = lambda action: asked_at.append(loop.time() - began)
    await asyncio.sleep(2)
    assert 1.5 <= asked_at[0] < 1.502
    call.tell(ev.CallerLeft("stop"))
    await call.task


@on_virtual_time
async def test_no_alarm_rings_after_the_end() -> None:
    loop = asyncio.get_running_loop()
    for fact in (ev.CallerLeft("stop"), ev.CarrierMisbehaved("x")):
        call = await begin()
        call.tell(*SPEECH, fact)
        await call.task
        assert not [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]


# ---------------------------------------------------------------- ending


class Slow(Nobody):
    """Errands that take their time; a stubborn one does not let itself be cancelled."""

    def __init__(self, *, takes_s: float, stubborn_s: float = 0.0) -> None:
        self.takes_s, self.stubborn_s = takes_s, stubborn_s
        self.told: list[str] = []

    async def _work(self, what: str) -> None:
        try:
            await asyncio.sleep(self.takes_s)
            self.told.append(f"{what} done")
        except asyncio.CancelledError:
            self.told.append(f"{what} cancelled")
            if not self.stubborn_s:
                raise
            until = asyncio.get_running_loop().time() + self.stubborn_s
            while asyncio.get_running_loop().time() < until:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
            self.told.append(f"{what} gave in")

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        await self._work("tool")

    async def hang_up(self, driver: Driver) -> None:
        await self._work("hang up")


@on_virtual_time
async def test_tools_are_cancelled_at_the_end() -> None:
    outside = Slow(takes_s=9)
    call = await begin(outside=outside)
    call.tell(ev.ResponseStarted("r1"), TOOL)
    await asyncio.sleep(1)
    call.tell(ev.CallerLeft("stop"))
    assert await call.task is EndReason.CALLER_LEFT
    assert outside.told == ["tool cancelled"] and not leftovers()


@on_virtual_time
async def test_a_tool_asked_for_by_the_last_decision_leaves_nothing_behind() -> None:
    call = await begin(outside=Slow(takes_s=9))
    call.tell(ev.ResponseStarted("r1"), TOOL, ev.CallerLeft("stop"))  # it had no turn of the loop yet
    assert await call.task is EndReason.CALLER_LEFT
    await settle()
    assert not leftovers()


@on_virtual_time
async def test_a_tool_that_will_not_be_cancelled_does_not_hold_the_call() -> None:
    outside = Slow(takes_s=9, stubborn_s=60)
    call = await begin(outside=outside)
    call.tell(ev.ResponseStarted("r1"), TOOL)
    await asyncio.sleep(1)
    with capture_logs() as logs:
        call.tell(ev.CallerLeft("stop"))
        began = asyncio.get_running_loop().time()
        assert await call.task is EndReason.CALLER_LEFT
        assert asyncio.get_running_loop().time() - began < 2.5
    assert "tool_would_not_stop" in [entry["event"] for entry in logs]
    await asyncio.sleep(61)
    assert outside.told == ["tool cancelled", "tool gave in"]


@on_virtual_time
async def test_a_tool_that_took_too_long_is_cancelled_and_its_late_answer_means_nothing() -> None:
    outside = Slow(takes_s=9)
    slow = ToolSpec("look_up", "looks up", {"type": "object"}, timeout_s=2.0)
    call = await begin(outside=outside, call_plan=plan(tools=(slow,)))
    call.tell(ev.ResponseStarted("r1"), TOOL)
    await asyncio.sleep(3)
    assert outside.told == ["tool cancelled"] and not call.task.done()
    assert [action for action in call.model.asked if isinstance(action, do.SubmitToolOutput)]
    call.tell(ev.ToolFinished("t1", "{}"), ev.CallerLeft("stop"))
    assert await call.task is EndReason.CALLER_LEFT


@pytest.mark.parametrize(("takes_s", "outcome"), [(1.5, "hang up done"), (30.0, "hang up cancelled")])
@on_virtual_time
async def test_a_hang_up_on_its_way_gets_two_seconds(takes_s: float, outcome: str) -> None:
    outside = Slow(takes_s=takes_s)
    call = await begin(outside=outside)
    call.tell(ev.HangUpWished("operator"))
    await asyncio.sleep(9)  # the goodbye that never comes was waited for; then the carrier is asked
    began = asyncio.get_running_loop().time()
    call.tell(ev.CallerLeft("closed"))
    assert await call.task is EndReason.ENDED_BY_OPERATOR
    assert asyncio.get_running_loop().time() - began < 2.2
    assert call.phone.closed and outside.told == [outcome]
    assert not leftovers()


@on_virtual_time
async def test_a_cancelled_call_ends_in_order() -> None:
    outside = Slow(takes_s=9)
    call = await begin(outside=outside)
    call.tell(ev.ResponseStarted("r1"), TOOL)
    await settle()
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert call.driver.ended.result() is EndReason.DRAINED
    assert call.model.closed and call.phone.closed and outside.told == ["tool cancelled"]
    call.tell(FRAME)
    assert not call.model.audio
    assert not leftovers()


@on_virtual_time
async def test_the_first_reason_wins() -> None:
    call = await begin()
    call.driver.end(EndReason.DRAINED)
    call.tell(ev.CallerLeft("stop"))
    call.driver.end(EndReason.BUG)
    assert await call.task is EndReason.DRAINED


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["MZ2", "MZ1"])
@on_virtual_time
async def test_a_second_stream_replaces_the_first_even_under_the_same_name(name: str) -> None:
    call = await begin()
    second = FakePhone()
    call.driver.attach(second, name)
    assert call.phone.closed == 1 and not second.closed
    call.tell(*SPEECH)
    assert second.played_ms > 0 and "play" not in call.phone.done
    call.tell(ev.CallerLeft("stop"))
    await call.task
    assert second.closed


@on_virtual_time
async def test_a_stream_that_comes_after_the_end_is_closed() -> None:
    call = await begin()
    call.tell(ev.CallerLeft("stop"))
    late = FakePhone()
    call.driver.attach(late, "MZ2")
    assert late.closed
    await call.task
    later = FakePhone()
    call.driver.attach(later, "MZ3")
    assert later.closed


@on_virtual_time
async def test_a_clear_is_for_both_legs() -> None:
    call = await begin()
    call.tell(*SPEECH)
    assert call.model.clears == 0
    call.tell(ev.CallerSpeechStarted("c1"))
    assert call.phone.done.count("clear") == 1 and call.model.clears == 1
    call.tell(ev.CallerLeft("stop"))
    await call.task


@on_virtual_time
async def test_a_peer_that_complains_without_end_fills_no_log() -> None:
    call = await begin()
    with capture_logs() as logged:
        for _ in range(1000):
            call.tell(ev.ModelComplained("note", "x", "again"))
    told = [line.get("times") for line in logged if line["event"] == "model_error_note"]
    assert told == [None] * 20 + [32, 64, 128, 256, 512]
    call.tell(ev.CallerLeft("stop"))
    await call.task
