"""Twilio's webhooks: a call arrives, changes its status, or comes back after its stream.

Before anything else happens a request proves itself by its signature, over the configured address and the raw path:
403 otherwise. Only forms are read, of at most `limits.body_bytes`, within `limits.body_s`. The answer to a call is
given at once: its model is dialled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.live.switchboard import Expected, Refused
from bridge.metrics import Metrics
from bridge.settings import IncomingCall, Settings
from bridge.telephony import twilio, twiml
from bridge.telephony.signature import SIGNATURE, Validator, Verdict
from bridge.web.origin import is_this_machine

if TYPE_CHECKING:
    from bridge.web.app import Switchboard

log = structlog.get_logger()

_FORM: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 200
_MOST_BODIES: Final = 256  # read at a time; beyond it whoever has taken longest makes way
# what the call may know of its caller, beside the numbers
_TOLD: Final = ("CallerName", "ForwardedFrom", "StirVerstat", "CallerCity", "CallerState", "CallerCountry")


class Colleagues(Protocol):
    """The other workers, where there are any: a call may be one of theirs."""

    async def announce(self, carrier_call_id: str, fields: Mapping[str, str]) -> str | None: ...
    async def ended(self, carrier_call_id: str, status: str) -> None: ...
    async def resumed(self, carrier_call_id: str) -> str: ...


class TwilioDoor:
    """The four webhooks. A call announced again is the same call, and one that is over is hung up."""

    def __init__(
        self,
        settings: Settings,
        switchboard: Switchboard,
        *,
        validator: Validator | None,
        base_url: str,
        metrics: Metrics,
        colleagues: Colleagues | None = None,
    ) -> None:
        self._settings = settings
        self._switchboard = switchboard
        self._validator = validator
        self._base_url = base_url.rstrip("/")
        self._metrics = metrics
        self._colleagues = colleagues
        self._reading: dict[asyncio.Timeout, None] = {}  # the oldest first

    # ------------------------------------------------------------ the four addresses

    async def voice(self, request: web.Request) -> web.Response:
        """A call arrives."""
        fields = await self._proven(request)
        call_sid = _id(fields, "CallSid")
        answer = None if self._colleagues is None else await self._colleagues.announce(call_sid, fields)
        return _twiml(self.announced(fields) if answer is None else answer)

    def announced(self, fields: Mapping[str, str]) -> str:
        """The document for a call of this worker's."""
        call_sid = _id(fields, "CallSid")
        answer = self._switchboard.expect(
            IncomingCall(
                carrier=twilio.CAPABILITIES,
                carrier_call_id=call_sid,
                account_id=fields.get("AccountSid", ""),
                caller=fields.get("From", ""),
                called=fields.get("To", ""),
                direction="inbound" if fields.get("Direction", "inbound") == "inbound" else "outbound",
                variables={name: fields[name] for name in _TOLD if fields.get(name)},
            )
        )
        if isinstance(answer, Refused):
            log.warning("call_refused", carrier_call_id=call_sid, why=answer.why)
            self._metrics.call_refused(answer.why)
            return twiml.document(twiml.hangup()) if answer.why == "over" else self._busy()
        return self._connect(answer)

    async def status(self, request: web.Request) -> web.Response:
        """The call's own status. Only final ones matter; a late or repeated one finds nothing left to end."""
        fields = await self._proven(request)
        status = fields.get("CallStatus", "")
        if status in twilio.FINAL_STATUSES:
            call_sid = _id(fields, "CallSid")
            self._switchboard.ended_by_status(call_sid, status)
            if self._colleagues is not None:
                await self._colleagues.ended(call_sid, status)
        return web.Response(status=204)

    async def stream_status(self, request: web.Request) -> web.Response:
        """What became of a media stream, for the log. The socket itself tells the call."""
        fields = await self._proven(request)
        call_sid, event = _id(fields, "CallSid"), fields.get("StreamEvent", "")
        if event == "stream-error":
            self._metrics.stream_failed()
            log.warning("stream_error", carrier_call_id=call_sid, error=fields.get("StreamError", "")[:200])
        else:
            log.debug("stream_status", carrier_call_id=call_sid, status=event[:50])
        return web.Response(status=204)

    async def resume(self, request: web.Request) -> web.Response:
        """What comes after a call's stream: whom it was to be transferred to, another stream, or nothing."""
        fields = await self._proven(request)
        call_sid = _id(fields, "CallSid")
        answer = self.resumed(call_sid)
        if not answer and self._colleagues is not None:
            answer = await self._colleagues.resumed(call_sid)
        return _twiml(answer or twiml.document(twiml.hangup()))

    def resumed(self, call_sid: str) -> str:
        """The document that a call of this worker's goes on with; empty: with none."""
        expected = None
        target = self._switchboard.handed_on_to(call_sid)
        if not target:
            expected = self._switchboard.resume(call_sid)
            target = self._switchboard.handed_on_to(call_sid)  # who is given no other stream may be put through
        if target:
            caller_id = self._settings.twilio.transfer_caller_id
            return twiml.document(twiml.dial(target, caller_id=caller_id), twiml.hangup())
        return "" if expected is None else self._connect(expected)

    # ------------------------------------------------------------ proof

    async def _proven(self, request: web.Request) -> Mapping[str, str]:
        """The form of a request that is Twilio's (of a repeated field the last value). Raises the refusal otherwise."""
        if request.content_type != _FORM or "Content-Encoding" in request.headers:
            raise web.HTTPUnsupportedMediaType(text=f"Only {_FORM} is read here.\n")
        self._check_origin(request)
        try:
            body = await self._body(request)
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The body took too long.\n") from None
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
            raise web.HTTPBadRequest(text="The body broke off, or is not chunked as it says.\n") from None
        try:
            pairs = parse_qsl(
                body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
            )
        except ValueError:
            raise web.HTTPBadRequest(text="The body is not a form.\n") from None
        self._check_signature(request, pairs)
        return {name: _plain(value) for name, value in pairs}

    async def _body(self, request: web.Request) -> bytes:
        """Raises TimeoutError for one that takes too long, also for want of room for others."""
        async with asyncio.timeout(self._settings.limits.body_s) as patience:
            try:
                self._reading[patience] = None
                if len(self._reading) > _MOST_BODIES:
                    slowest = next(iter(self._reading))
                    del self._reading[slowest]
                    if not slowest.expired():  # one that has goes by itself
                        slowest.reschedule(0.0)
                return await request.read()
            finally:
                self._reading.pop(patience, None)

    def _check_origin(self, request: web.Request) -> None:
        """Before its body is read: whether the request can be Twilio's at all."""
        if self._validator is not None:
            if SIGNATURE not in request.headers:
                self._refuse(Verdict.UNSIGNED.value, request)
        elif self._settings.twilio.validate_signatures and (
            self._settings.is_public or not is_this_machine(request, self._settings)  # many a proxy seems to be that
        ):
            why = "BRIDGE_TWILIO__AUTH_TOKEN is not set, and the service is public, or the request not of this machine"
            self._refuse(why, request)

    def _check_signature(self, request: web.Request, pairs: list[tuple[str, str]]) -> None:
        if self._validator is not None:
            verdict = self._validator.judge_form(request.raw_path, pairs, request.headers)
            if verdict is not Verdict.ACCEPTED:
                self._refuse(verdict.value, request)

    def _refuse(self, why: str, request: web.Request) -> None:
        self._metrics.webhook_forged()
        log.warning("webhook_refused", why=why, path=request.path)
        raise web.HTTPForbidden(text="The signature is missing or wrong.\n")

    # ------------------------------------------------------------ the answer to a call

    def _connect(self, expected: Expected) -> str:
        stream = twiml.connect_stream(
            "ws" + self._base_url.removeprefix("http") + "/twilio/media",
            parameters={twilio.TOKEN: expected.token},
            status_callback=f"{self._base_url}/twilio/stream-status",
        )
        return twiml.document(stream, twiml.redirect(f"{self._base_url}/twilio/resume"))

    def _busy(self) -> str:
        carrier = self._settings.twilio
        if carrier.busy_redirect:
            return twiml.document(twiml.redirect(carrier.busy_redirect))
        return twiml.document(twiml.say(carrier.busy_message, language=carrier.busy_language), twiml.hangup())


def _twiml(document: str) -> web.Response:
    return web.Response(body=document.encode("utf-8"), content_type="text/xml", charset="utf-8")


def _id(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "")
    if not 0 < len(value) <= 100 or not value.isascii():
        raise web.HTTPBadRequest(text=f"{name} is missing or not an id.\n")
    return value


def _plain(text: str) -> str:
    """Without what breaks logs and databases: control characters and endless lengths."""
    return "".join(char for char in text if char.isprintable())[:256]
