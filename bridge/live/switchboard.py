"""All calls of one process: expected after their webhook, claimed by their stream, ended once.

The webhook leaves a plan and a single-use token here and the model's session begins to open at once; the media stream
brings the token back within a minute, bound to the same carrier call.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from bridge.audio.formats import AudioFormat
from bridge.call import events as ev
from bridge.call.plan import CallPlan
from bridge.errors import EndReason, UsageError
from bridge.live import connect
from bridge.live.circuit import Circuits
from bridge.live.dialling import Dial
from bridge.live.driver import Driver, Outside, Watcher
from bridge.live.model import ModelLeg
from bridge.live.places import Places
from bridge.live.together import Together
from bridge.realtime.profiles import Target
from bridge.settings.plans import Directory, IncomingCall
from bridge.telephony import twilio

log = structlog.get_logger()

_REMEMBERED: Final = 1000  # ended calls whose end can still be asked for
_MOST_BREAKS: Final = 3  # of one call's streams, in so many seconds
_BREAKS_S: Final = 60.0
_GOODBYE_S: Final = 10.0
_ASKED_S: Final = 1.5  # within which a carrier asks what comes after a stream that has closed
_LOOK_S: Final = 0.05
_CUT_S: Final = 3.0  # a driver gives errands at the carrier two seconds


@dataclass(frozen=True, slots=True)
class Expected:
    """The carrier may open its stream: with this token, for this call, once."""

    call_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    why: str  # "full", "draining", "misconfigured", or "over": a webhook that came again when its call had ended


@dataclass(slots=True)
class _Line:
    """One call in this process."""

    driver: Driver
    carrier_call_id: str
    account_id: str
    token: str = ""
    token_until: float = 0.0  # loop time
    task: asyncio.Task[EndReason] | None = None
    claimed: bool = False  # a stream has come
    broken_at: list[float] = field(default_factory=list)  # when another came in the place of one; loop time
    offers: int = 0  # of another stream, when there was none, since the last one came


@dataclass(slots=True)
class _Over:
    """A call that has ended."""

    handed_on_to: str
    at: float  # loop time
    will_ask: bool  # the carrier has not asked yet what comes after its stream
    may_return: bool  # the caller was put through to somebody, and may be sent back to us


Watchers = Callable[[Driver], tuple[Sequence[Watcher], Sequence[Watcher]]]


class Switchboard:
    """`watchers` gives a new call's observers: of all facts but frames, and of every fact.

    `token_prefix` stands before every token: the number of the worker that made it, where there are several.
    """

    def __init__(
        self,
        directory: Directory,
        services: Outside,
        *,
        places: Places,
        token_prefix: str = "",
        token_s: float = 60.0,
        watchers: Watchers | None = None,
        ended: Callable[[Driver, EndReason], None] | None = None,
        dial: Dial | None = None,
    ) -> None:
        self._directory = directory
        self._services = services
        self._places = places
        self._token_prefix = token_prefix
        self._token_s = token_s
        self._watchers = watchers
        self._ended = ended
        self._circuits = Circuits()
        self.together = Together()
        self._dial = dial or partial(connect.dial, together=self.together)
        self._lines: dict[str, _Line] = {}  # by carrier call id
        self._over: dict[str, _Over] = {}  # by carrier call id
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    # ------------------------------------------------------------ how full it is

    @property
    def accepting(self) -> bool:
        return not self._draining

    @property
    def full(self) -> bool:
        return self._places.full

    @property
    def active_calls(self) -> int:
        return len(self._lines)

    # ------------------------------------------------------------ a call comes

    def expect(self, incoming: IncomingCall) -> Expected | Refused:
        """A webhook announced a call. The same call announced again keeps its token, unless that is of no more use.

        One that has ended stays ended, unless its caller was put through and comes back.
        """
        known = self._lines.get(incoming.carrier_call_id)
        if known is not None:
            if not known.token or self._now > known.token_until:
                self._new_token(known)
            call_id = known.driver.plan.call_id
            log.info("call_announced_again", call_id=call_id, carrier_call_id=known.carrier_call_id)
            return Expected(call_id, known.token)
        over = self._over.get(incoming.carrier_call_id)
        if over is not None and not over.may_return:
            return Refused("over")
        if self._draining or self.full:
            return Refused("draining" if self._draining else "full")
        try:
            plan, targets = self._directory.plan(incoming)
        except UsageError as error:
            log.error("no_plan", carrier_call_id=incoming.carrier_call_id, why=str(error))
            return Refused("misconfigured")
        if not self._places.take():
            return Refused("full")  # another worker was faster
        try:
            driver = self._driver(plan, targets)
        except BaseException:
            self._places.leave()
            raise
        line = _Line(driver, incoming.carrier_call_id, incoming.account_id)
        self._new_token(line)
        self._lines[incoming.carrier_call_id] = line
        self._empty.clear()
        line.task = asyncio.create_task(driver.run(), name=f"call {plan.call_id}")
        line.task.add_done_callback(lambda task: self._gone(line, task))
        log.info("call_expected", call_id=plan.call_id, carrier_call_id=plan.carrier_call_id, agent=plan.agent.name)
        return Expected(plan.call_id, line.token)

    def _driver(self, plan: CallPlan, targets: Sequence[Target]) -> Driver:
        driver = Driver(plan, outside=self._services)
        caller = AudioFormat(plan.carrier.encoding, plan.carrier.rate_hz)
        driver.model = ModelLeg(
            driver, targets, caller=caller, dial=self._dial, circuits=self._circuits, together=self.together
        )
        if self._watchers is not None:
            driver.watch(*self._watchers(driver))
        return driver

    def _new_token(self, line: _Line) -> None:
        line.token = self._token_prefix + secrets.token_urlsafe(24)
        line.token_until = self._now + self._token_s

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def claim(self, token: str, carrier_call_id: str, *, account_id: str = "") -> Driver | None:
        """The call a stream belongs to; None unless the token is this call's, unused and still good.

        Where both the webhook and the stream named an account, it has to be the same.
        """
        line = self._lines.get(carrier_call_id)
        if line is None or not line.token or not token.isascii():
            return None
        if not hmac.compare_digest(line.token, token) or self._now > line.token_until:
            return None
        if account_id and line.account_id and account_id != line.account_id:
            return None
        line.token = ""
        if line.claimed:
            line.broken_at.append(self._now)
        line.claimed, line.offers = True, 0
        return line.driver

    def resume(self, carrier_call_id: str) -> Expected | None:
        """The carrier asks what comes after the stream of this call: another stream, where the call goes on.

        The stream may have broken, or never have reached us. Asked again before the stream is there, the answer is the
        same. A call whose streams break or fail to open again and again is over, or goes where it was to be
        transferred to.
        """
        line = self._lines.get(carrier_call_id)
        if line is None or not line.driver.goes_on:
            return None
        call_id = line.driver.plan.call_id
        line.broken_at = [at for at in line.broken_at if self._now - at < _BREAKS_S]
        if max(len(line.broken_at), line.offers) >= _MOST_BREAKS:
            log.warning("stream_breaks_too_often", call_id=call_id, broken=len(line.broken_at), offered=line.offers)
            line.driver.deliver(ev.StreamRefused())
            return None
        line.offers += not line.driver.has_stream  # else a question that was repeated, or came before its reason
        if not line.token or self._now > line.token_until:
            self._new_token(line)
        line.driver.deliver(ev.StreamOffered())
        log.info("call_resumed", call_id=call_id)
        return Expected(line.driver.plan.call_id, line.token)

    # ------------------------------------------------------------ a call goes

    def _gone(self, line: _Line, task: asyncio.Task[EndReason]) -> None:
        self._lines.pop(line.carrier_call_id, None)
        self._places.leave()
        if not self._lines:
            self._empty.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("call_task_broke", call_id=line.driver.plan.call_id, exc_info=error)
            line.driver.end(EndReason.BUG)
        line.driver.end(EndReason.DRAINED)  # a task cancelled before its first step
        reason = line.driver.ended.result()
        will_ask = line.claimed and reason is not EndReason.CALLER_LEFT
        may_return = reason is EndReason.TRANSFERRED
        self._over[line.carrier_call_id] = _Over(line.driver.handed_on_to, self._now, will_ask, may_return)
        if len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]
        plan = line.driver.plan
        log.info("call_ended", call_id=plan.call_id, carrier_call_id=plan.carrier_call_id, reason=reason.value)
        if self._ended is not None:
            self._ended(line.driver, reason)

    def ended_by_status(self, carrier_call_id: str, status: str) -> None:
        """The carrier's status callback. Only a final status says anything new."""
        line, over = self._lines.get(carrier_call_id), self._over.get(carrier_call_id)
        if status not in twilio.FINAL_STATUSES:
            return
        if line is not None:
            line.driver.deliver(ev.CallerLeft("status"))
        if over is not None:
            over.will_ask = over.may_return = False

    def find(self, carrier_call_id: str) -> Driver | None:
        line = self._lines.get(carrier_call_id)
        return None if line is None else line.driver

    def handed_on_to(self, carrier_call_id: str) -> str:
        """Whom a call whose stream has ended is to be connected to; empty: nobody."""
        line = self._lines.get(carrier_call_id)
        if line is not None:
            return line.driver.bound_for
        over = self._over.get(carrier_call_id)
        if over is None:
            return ""
        over.will_ask = False
        return over.handed_on_to

    async def drain(self, grace_s: float) -> None:
        """Take no more calls, and be without calls when `grace_s` is over.

        The last third of it, at most ten seconds, is for saying goodbye; what then still goes on is cut off.
        """
        self._draining = True
        goodbye_s = min(_GOODBYE_S, grace_s / 3)
        if not await self._empty_within(grace_s - goodbye_s):
            for line in list(self._lines.values()):
                line.driver.deliver(ev.HangUpWished("drain"))
            if not await self._empty_within(goodbye_s):
                await self._cut_off()
        await self._last_questions()

    async def _cut_off(self) -> None:
        for line in list(self._lines.values()):
            line.driver.end(EndReason.DRAINED)
        if not await self._empty_within(_CUT_S):
            for line in list(self._lines.values()):
                assert line.task is not None, "a line has a task from its first moment"
                line.task.cancel()

    async def _last_questions(self) -> None:
        """Carriers ask what comes after a stream that has closed; one that finds nobody plays its caller an error."""
        while any(over.will_ask and self._now - over.at < _ASKED_S for over in self._over.values()):
            await asyncio.sleep(_LOOK_S)

    async def _empty_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
