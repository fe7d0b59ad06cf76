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
from typing import Final

import structlog

from bridge.audio.formats import AudioFormat
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.live import connect
from bridge.live.driver import Driver, Outside, Watcher
from bridge.live.model import Dial, ModelLeg
from bridge.settings.plans import Directory, IncomingCall

log = structlog.get_logger()

_REMEMBERED: Final = 1000  # ended calls whose end can still be asked for
_OVER: Final = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})


@dataclass(frozen=True, slots=True)
class Expected:
    """The carrier may open its stream: with this token, for this call, once."""

    call_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    why: str  # "full" or "draining"


@dataclass(slots=True)
class _Line:
    """One call in this process."""

    driver: Driver
    carrier_call_id: str
    token: str
    token_until: float  # loop time
    task: asyncio.Task[EndReason] | None = None


Watchers = Callable[[Driver], tuple[Sequence[Watcher], Sequence[Watcher]]]


class Switchboard:
    """`watchers` gives a new call's observers: of all facts but frames, and of every fact."""

    def __init__(
        self,
        directory: Directory,
        services: Outside,
        *,
        max_calls: int,
        token_s: float = 60.0,
        watchers: Watchers | None = None,
        ended: Callable[[Driver, EndReason], None] | None = None,
        dial: Dial = connect.dial,
    ) -> None:
        self._directory = directory
        self._services = services
        self._max_calls = max_calls
        self._token_s = token_s
        self._watchers = watchers
        self._ended = ended
        self._dial = dial
        self._lines: dict[str, _Line] = {}  # by carrier call id
        self._over: dict[str, tuple[EndReason, str]] = {}  # why it ended, and whom it was handed on to
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    # ------------------------------------------------------------ how full it is

    @property
    def accepting(self) -> bool:
        return not self._draining

    @property
    def full(self) -> bool:
        return len(self._lines) >= self._max_calls

    @property
    def active_calls(self) -> int:
        return len(self._lines)

    # ------------------------------------------------------------ a call comes

    def expect(self, incoming: IncomingCall) -> Expected | Refused:
        """A webhook announced a call. The same call announced again keeps its token, unless that was used already."""
        known = self._lines.get(incoming.carrier_call_id)
        if known is not None:
            if not known.token:
                self._new_token(known)
            return Expected(known.driver.plan.call_id, known.token)
        if self._draining or self.full:
            return Refused("draining" if self._draining else "full")
        plan, targets = self._directory.plan(incoming)
        driver = Driver(plan, outside=self._services)
        if self._watchers is not None:
            driver.watch(*self._watchers(driver))
        caller = AudioFormat(plan.carrier.encoding, plan.carrier.rate_hz)
        driver.model = ModelLeg(driver, targets, caller=caller, dial=self._dial)
        line = _Line(driver, incoming.carrier_call_id, "", 0.0)
        self._new_token(line)
        self._lines[incoming.carrier_call_id] = line
        self._empty.clear()
        line.task = asyncio.create_task(driver.run(), name=f"call {plan.call_id}")
        line.task.add_done_callback(lambda task: self._gone(line, task))
        log.info("call_expected", call_id=plan.call_id, agent=plan.agent.name)
        return Expected(plan.call_id, line.token)

    def _new_token(self, line: _Line) -> None:
        line.token = secrets.token_urlsafe(24)
        line.token_until = asyncio.get_running_loop().time() + self._token_s

    def claim(self, token: str, carrier_call_id: str) -> Driver | None:
        """The call a stream belongs to; None unless the token is this call's, unused and still good."""
        line = self._lines.get(carrier_call_id)
        if line is None or not line.token or not token.isascii():
            return None
        if not hmac.compare_digest(line.token, token) or asyncio.get_running_loop().time() > line.token_until:
            return None
        line.token = ""
        return line.driver

    # ------------------------------------------------------------ a call goes

    def _gone(self, line: _Line, task: asyncio.Task[EndReason]) -> None:
        self._lines.pop(line.carrier_call_id, None)
        if not self._lines:
            self._empty.set()
        broke = task.cancelled() or task.exception() is not None
        reason = EndReason.BUG if broke else task.result()
        self._over[line.carrier_call_id] = (reason, line.driver.handed_on_to)
        if len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]
        log.info("call_ended", call_id=line.driver.plan.call_id, reason=reason.value)
        if self._ended is not None:
            self._ended(line.driver, reason)

    def ended_by_status(self, carrier_call_id: str, status: str) -> None:
        """The carrier's status callback. Only a final status says anything new."""
        line = self._lines.get(carrier_call_id)
        if line is not None and status in _OVER:
            line.driver.deliver(ev.CallerLeft("status"))

    def find(self, carrier_call_id: str) -> Driver | None:
        line = self._lines.get(carrier_call_id)
        return None if line is None else line.driver

    def handed_on_to(self, carrier_call_id: str) -> str:
        """Whom a call whose stream has ended is to be connected to; empty: nobody."""
        line = self._lines.get(carrier_call_id)
        if line is not None:
            return line.driver.handed_on_to
        return self._over.get(carrier_call_id, (EndReason.CALLER_LEFT, ""))[1]

    async def drain(self, grace_s: float) -> None:
        """Take no more calls; give those there are `grace_s` to end, then ask each to say goodbye, then end them."""
        self._draining = True
        if not await self._empty_within(grace_s):
            for line in list(self._lines.values()):
                line.driver.deliver(ev.HangUpWished("drain"))
            if not await self._empty_within(min(10.0, max(grace_s, 1.0))):
                for line in list(self._lines.values()):
                    if line.task is not None:
                        line.task.cancel()
                await self._empty_within(2.0)

    async def _empty_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
