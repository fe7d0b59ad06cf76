"""Where one call meets time: facts are handled where they arrive, requests are performed before anything else happens.

`deliver` is synchronous: decide, perform, re-arm one alarm. Facts that arise while requests are performed (a full
outbox) wait their turn. One task owns the call: `run` holds a TaskGroup with the model's connection attempts and the
errands at the carrier, and ends when the core says so. Tools run beside the group: they are not ours, and one that will
not be cancelled must not hold the call.

Law: an exception anywhere in a call's own code ends this call with `EndReason.BUG`, and no other call notices.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import CallPlan
from bridge.errors import EndReason

log = structlog.get_logger()

Watcher = Callable[[float, ev.Event, Sequence[do.Action]], None]
Work = Callable[[], Coroutine[Any, Any, None]]
_CLOSING_S: Final = 2.0
_MOST_NOTES: Final = 20  # of one kind in the log of a call; from then on each time their number has doubled
_HAIR_MS: Final = 0.5  # the alarm is set this much late: one that rings early, by rounding, would ring again at once


class Phone(Protocol):
    """The caller's leg as the driver uses it."""

    def play(self, action: do.PlayAudio) -> None: ...
    def mark(self, action: do.PlaceMark) -> None: ...
    def clear(self) -> None: ...
    def flush(self) -> None: ...
    def gave_silence(self, ms: float) -> None: ...
    def close(self) -> None: ...


class Model(Protocol):
    """The model's leg as the driver uses it."""

    def send_audio(self, audio: bytes) -> None: ...
    def send_silence(self, ms: float) -> None: ...
    def request(self, action: do.Action) -> None: ...
    def cleared(self) -> None: ...
    def probe(self) -> None: ...
    def open(self, action: do.OpenModel) -> None: ...
    def open_beside(self, action: do.OpenModel) -> None: ...
    def switch(self, action: do.SwitchModel) -> None: ...
    def close(self) -> None: ...


class Outside(Protocol):
    """Tools and the carrier's REST side: what takes time and is awaited in a task of the call."""

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None: ...
    async def hang_up(self, driver: Driver) -> None: ...
    async def transfer(self, driver: Driver, action: do.Transfer) -> None: ...


class Driver:
    """Runs one `Call`: decides with it, performs what it asks, keeps its one alarm."""

    def __init__(self, plan: CallPlan, *, outside: Outside) -> None:
        self._loop = asyncio.get_running_loop()
        self.plan = plan
        self.call = Call(plan, self.now)
        self.phone: Phone = _NoPhone()
        self.model: Model = _NoModel()
        self._outside = outside
        self.handed_on_to = ""  # whom the carrier connects the caller to when the stream has closed
        self._watchers: Sequence[Watcher] = ()
        self._frame_watchers: Sequence[Watcher] = ()
        self._inbox: deque[ev.Event] = deque()
        self._handling = False
        self._noted: Counter[str] = Counter()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._tools: dict[str, asyncio.Task[None]] = {}  # those the core may still abandon
        self._running: set[asyncio.Task[None]] = set()  # every tool that has not come to its end
        self._errands: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self.ended: asyncio.Future[EndReason] = self._loop.create_future()
        self._perform: dict[type[do.Action], Callable[[Any], None]] = {
            do.SendCallerAudio: lambda action: self.model.send_audio(action.audio),
            do.PlayAudio: lambda action: self.phone.play(action),
            do.PlaceMark: lambda action: self.phone.mark(action),
            do.ClearPlayback: self._clear,
            do.SendSilence: self._send_silence,
            do.ProbeModel: lambda action: self.model.probe(),
            do.OpenModel: self._open_model,
            do.SwitchModel: lambda action: self.model.switch(action),
            do.CloseModel: lambda action: self.model.close(),
            do.RunTool: self._run_tool,
            do.AbandonTool: self._abandon_tool,
            do.HangUp: self._hang_up,
            do.Transfer: self._transfer,
            do.Note: self._note,
            do.EndCall: self._end,
        }

    # ------------------------------------------------------------ facts in, requests out

    @property
    def now(self) -> float:
        """Milliseconds on the loop's clock."""
        return self._loop.time() * 1000.0

    @property
    def goes_on(self) -> bool:
        """Nothing has ended it, and the carrier has not been asked to."""
        return not self.ended.done() and self.call.state.goes_on

    @property
    def has_stream(self) -> bool:
        """As far as we know: a line that is dead may not have been noticed yet."""
        return self.call.state.ledger.open

    @property
    def bound_for(self) -> str:
        """Whom the carrier is to connect the caller to when the stream is closed; empty: nobody."""
        ending = self.call.state.ending
        return self.handed_on_to or (ending.target if ending is not None and ending.leaving else "")

    def deliver(self, event: ev.Event) -> None:
        """A fact. It is decided and performed before this returns, unless it arises inside another's performance."""
        if self.ended.done():
            return
        if self._handling:
            self._inbox.append(event)
            return
        self._handling = True
        try:
            self._take(event)
            while self._inbox and not self.ended.done():
                event = self._inbox.popleft()
                self._take(event)
        except Exception:
            self.broke(type(event).__name__)
        finally:
            self._handling = False

    def broke(self, where: str) -> None:
        """To be called while an exception of ours is handled: this call ends, loudly, and no other notices."""
        log.exception("call_broke", call_id=self.plan.call_id, where=where)
        self.end(EndReason.BUG)

    def end(self, reason: EndReason) -> None:
        """The call is over, whatever the core thinks of it. Only the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(reason)
            self._inbox.clear()

    def watch(self, watchers: Sequence[Watcher], frame_watchers: Sequence[Watcher] = ()) -> None:
        """Observers of every (now, fact, requests), in the call's own milliseconds.

        Frames (CallerSpoke) are shown only to `frame_watchers`: at fifty a second they are worth their own list.
        """
        self._watchers, self._frame_watchers = watchers, frame_watchers

    def attach(self, phone: Phone, stream_id: str) -> None:
        """The carrier opened its stream and proved who it is. What an older stream may still say is no longer heard."""
        replaced, self.phone = self.phone, phone
        replaced.close()
        if self.ended.done():
            phone.close()
        else:
            self.deliver(ev.StreamStarted(stream_id))

    def _take(self, event: ev.Event) -> None:
        now = self._loop.time() * 1000.0
        frame = type(event) is ev.CallerSpoke
        watchers = self._frame_watchers if frame else self._watchers
        actions: Sequence[do.Action] = ()
        try:
            actions = self.call.handle(event, now)
            if frame and len(actions) == 1 and type(actions[0]) is do.SendCallerAudio:
                # Every telephone frame: it brings nothing to play and, unless a deadline was due with it, moves no
                # alarm; the alarm of one that was due rings in a moment and is set anew.
                self.model.send_audio(actions[0].audio)
            else:
                if frame and actions:
                    watchers = (*self._frame_watchers, *self._watchers)
                self._do(actions)
        finally:  # what broke the call is shown as well: a journal ends with it
            if watchers:
                self._show(watchers, self.call.elapsed(now), event, actions)

    def _show(self, watchers: Sequence[Watcher], at: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        """A watcher that fails watches this call no longer, and the call goes on."""
        for watch in watchers:
            try:
                watch(at, event, actions)
            except Exception:
                log.exception("watcher_failed", call_id=self.plan.call_id)
                self._watchers = [one for one in self._watchers if one is not watch]
                self._frame_watchers = [one for one in self._frame_watchers if one is not watch]

    def _do(self, actions: Sequence[do.Action]) -> None:
        for action in actions:
            perform = self._perform.get(type(action))
            if perform is not None:
                perform(action)
            else:
                self.model.request(action)
        self.phone.flush()
        self._arm()

    def _arm(self) -> None:
        due = self.call.deadline()
        if due is None or self.ended.done():
            return
        if self._alarm is not None:
            if due >= self._alarm_at - _HAIR_MS:
                return  # it rings early and is set anew: cheaper than moving it with every frame
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._loop.call_at((due + _HAIR_MS) / 1000.0, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        due = self.call.deadline()
        if due is not None and due <= self.now:
            self.deliver(ev.DeadlineReached())
        else:
            self._arm()

    # ------------------------------------------------------------ performing

    def _clear(self, action: do.ClearPlayback) -> None:
        self.phone.clear()
        self.model.cleared()

    def _open_model(self, action: do.OpenModel) -> None:
        if action.session == self.call.state.next_session:
            self.model.open_beside(action)
        else:
            self.model.open(action)

    def _send_silence(self, action: do.SendSilence) -> None:
        self.model.send_silence(action.ms)
        self.phone.gave_silence(action.ms)

    def _run_tool(self, action: do.RunTool) -> None:
        work = self._errand(lambda: self._outside.run_tool(self, action), f"tool {action.name}")
        task = self._loop.create_task(work, name=f"tool {action.name} of {self.plan.call_id}")
        self._tools[action.tool_call_id] = task
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: self._tools.pop(action.tool_call_id, None))

    def _abandon_tool(self, action: do.AbandonTool) -> None:
        task = self._tools.pop(action.tool_call_id, None)
        if task is not None:
            task.cancel()

    def _hang_up(self, action: do.HangUp) -> None:
        self.spawn(lambda: self._outside.hang_up(self), "hang up")

    def _transfer(self, action: do.Transfer) -> None:
        self.spawn(lambda: self._outside.transfer(self, action), "transfer")

    def _note(self, action: do.Note) -> None:
        self._noted[action.what] += 1
        times = self._noted[action.what]
        if times <= _MOST_NOTES:
            log.info(action.what, call_id=self.plan.call_id, detail=action.detail)
        elif times.bit_count() == 1:  # a peer decides how often it complains
            log.info(action.what, call_id=self.plan.call_id, detail=action.detail, times=times)

    def _end(self, action: do.EndCall) -> None:
        self.end(action.reason)

    # ------------------------------------------------------------ the task that owns the call

    def spawn(self, work: Work, name: str) -> asyncio.Task[None]:
        """A task of this call; it never outlives it, and what it raises breaks this call."""
        assert self._tasks is not None, "a call's tasks live while it runs"
        task = self._tasks.create_task(self._errand(work, name), name=f"{name} of {self.plan.call_id}")
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _errand(self, work: Work, name: str) -> None:
        try:
            await work()
        except Exception:
            self.broke(name)

    async def run(self) -> EndReason:
        """The call, from the webhook to its end. Closes both legs whatever happens.

        Cancelled, it still ends in order: `ended` says DRAINED, as only a process that goes away cancels its calls.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self.deliver(ev.CallRouted())
                try:
                    await asyncio.shield(self.ended)
                except Exception:
                    self.broke("the call's own task")
                finally:
                    self.end(EndReason.DRAINED)
                    self._close()
                await self._let_finish()
        finally:
            self._close()
        return self.ended.result()

    async def _let_finish(self) -> None:
        """What is under way at the carrier (a hang-up) gets a moment, then it is cancelled; tools were already."""
        if self._errands or self._running:
            await asyncio.wait({*self._errands, *self._running}, timeout=_CLOSING_S)
        for task in self._errands:
            task.cancel()
        for task in self._running:
            log.error("tool_would_not_stop", call_id=self.plan.call_id, task=task.get_name())

    def _close(self) -> None:
        """Closing twice is harmless: a stream may come in while the last errands finish."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for tool in self._running:
            tool.cancel()
        for close in (self.model.close, self.phone.close):
            try:
                close()
            except Exception:
                log.exception("leg_would_not_close", call_id=self.plan.call_id)


class _NoPhone:
    """Before the stream is there: the core plays nothing to it."""

    def play(self, action: do.PlayAudio) -> None: ...
    def mark(self, action: do.PlaceMark) -> None: ...
    def clear(self) -> None: ...
    def flush(self) -> None: ...
    def gave_silence(self, ms: float) -> None: ...
    def close(self) -> None: ...


class _NoModel:
    def send_audio(self, audio: bytes) -> None: ...
    def send_silence(self, ms: float) -> None: ...
    def request(self, action: do.Action) -> None: ...
    def cleared(self) -> None: ...
    def probe(self) -> None: ...
    def open(self, action: do.OpenModel) -> None: ...
    def open_beside(self, action: do.OpenModel) -> None: ...
    def switch(self, action: do.SwitchModel) -> None: ...
    def close(self) -> None: ...
