"""The carrier's REST side, performed: hang up, transfer, and what is done where it is not configured.

Tried three times where the carrier is busy, or as often as fits before the call gives the carrier up. A call it does
not know counts as hung up; where it was to be transferred its stream is closed, as without REST. So it is where the
transfer is refused and there is no model that could go on.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

import aiohttp
import structlog

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import PeerError, UsageError
from bridge.live.driver import Driver
from bridge.telephony import rest, twiml
from bridge.tools.toolbox import CallInfo, Toolbox

log = structlog.get_logger()

_WAITS_S: Final = (0.0, 0.5, 1.0)
_LIMIT: Final = aiohttp.ClientTimeout(total=2, connect=1)
_IN_ALL_S: Final = 4.5  # the call gives the carrier up after five, and would take a transfer for done
_MOST_BODY: Final = 65_536


class HttpClient(Protocol):
    """Performs one request; gives status and body."""

    async def __call__(self, request: rest.Request) -> tuple[int, bytes]: ...


class RestClient:
    """The shared HTTP session towards the carrier."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, request: rest.Request) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_LIMIT, trust_env=False)
        async with self._session.request(
            request.method,
            request.url,
            data=list(request.form),
            headers={"Authorization": aiohttp.encode_basic_auth(*request.auth)},
            allow_redirects=False,
        ) as answer:
            body = b""
            while len(body) < _MOST_BODY and (chunk := await answer.content.read(_MOST_BODY - len(body))):
                body += chunk
            return answer.status, body

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class CallServices:
    """What a call has done for it in tasks of its own: tools, hanging up, transferring.

    Without `account` the stream is closed instead, and the carrier asks what comes next (POST /twilio/resume).
    """

    def __init__(
        self, *, account: rest.Account | None, client: HttpClient, toolbox: Toolbox, transfer_caller_id: str = ""
    ) -> None:
        self._account = account
        self._client = client
        self._toolbox = toolbox
        self._caller_id = transfer_caller_id

    async def run_tool(self, driver: Driver, action: do.RunTool) -> None:
        spec = next(spec for spec in driver.plan.session.tools if spec.name == action.name)
        output, failed = await self._toolbox.run(spec, action.arguments, CallInfo(driver.plan, driver.deliver))
        driver.deliver(ev.ToolFinished(action.tool_call_id, output, failed))

    async def hang_up(self, driver: Driver) -> None:
        """By REST; where that is not configured or fails, closing the stream lets the TwiML's next verb hang up."""
        if self._account is not None:
            error = await self._ask(rest.hang_up(self._account, driver.plan.carrier_call_id))
            done = error is None or rest.no_such_call(error)
            driver.deliver(ev.HandedOver("hang_up", done, "" if done else str(error)))
        else:
            driver.deliver(ev.HandedOver("hang_up", True))

    async def transfer(self, driver: Driver, action: do.Transfer) -> None:
        try:
            document = twiml.document(twiml.dial(action.target, caller_id=self._caller_id))
        except UsageError as mistake:
            driver.deliver(ev.HandedOver("transfer", False, str(mistake)))
            return
        if self._account is None or action.by_closing:
            driver.handed_on_to = action.target  # the verb after <Connect> asks for it when the stream has closed
            driver.deliver(ev.HandedOver("transfer", True))
            return
        request = rest.replace_document(self._account, driver.plan.carrier_call_id, document)
        error = await self._ask(request)
        if error is not None and rest.no_such_call(error):
            # Gone, or of a subaccount, whose caller is still there: the carrier asks us, whoever's the call is.
            log.warning("carrier_knows_no_such_call", call_id=driver.plan.call_id, request=repr(request))
            driver.handed_on_to, error = action.target, None
        driver.deliver(ev.HandedOver("transfer", error is None, "" if error is None else str(error)))

    async def _ask(self, request: rest.Request) -> PeerError | None:
        """None: done; else what went wrong."""
        wrong = PeerError("the carrier did not answer")
        with suppress(TimeoutError):
            async with asyncio.timeout(_IN_ALL_S):
                for wait_s in _WAITS_S:
                    await asyncio.sleep(wait_s)
                    try:
                        status, body = await self._client(request)
                    except (aiohttp.ClientError, TimeoutError, OSError) as error:
                        wrong = PeerError(type(error).__name__)
                        continue
                    refusal = rest.error_of(status, body)
                    if refusal is None or rest.no_such_call(refusal):
                        return refusal
                    wrong = refusal
                    if status < 500 and status != 429:
                        break
        log.warning("carrier_refused", request=repr(request), why=str(wrong))
        return wrong
