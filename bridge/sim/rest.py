"""The carrier's REST interface: create a call, change a running one (twilio.com/docs/voice/api/call-resource).

As much of it as a bridge needs: hang up, replace the running document, dial out with status callbacks and
answering-machine detection. Every request is recorded, and faults can be put in its way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urljoin

import msgspec
from aiohttp import web
from multidict import MultiDictProxy

from .account import Account
from .caller import Caller
from .execution import Execution
from .leg import FINAL, CallbackWish, CallStatusUpdate, Leg
from .twiml import Document, parse

NOT_FOUND = 20404
MAX_TWIML = 4000


@dataclass(frozen=True, slots=True)
class Callee:
    """Who answers a call that was created over REST."""

    caller: Caller = field(default_factory=Caller)
    outcome: Literal["answered", "busy", "no-answer", "failed"] = "answered"
    rings_s: float = 0.5
    answered_by: str = "human"  # what answering-machine detection finds
    detection_s: float = 1.0


@dataclass(frozen=True, slots=True)
class OutboundCall:
    """A call to be made."""

    to: str
    from_: str
    url: str = ""
    method: str = "POST"
    twiml: str = ""
    fallback_url: str = ""
    callback: CallbackWish = field(default_factory=CallbackWish)
    timeout_s: float = 60.0
    detect: bool = False
    detect_async: bool = False
    detect_callback: str = ""
    time_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class RestRequest:
    """One request as it came, for tests to look at."""

    method: str
    path: str
    form: tuple[tuple[str, str], ...]
    status: int


@dataclass(slots=True)
class RestDesk:
    """What was asked of the interface, and the HTTP statuses it shall answer next instead of working."""

    requests: list[RestRequest] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)


async def outbound(execution: Execution, wish: OutboundCall, callee: Callee) -> None:
    """The life of a call created over REST: dial, ring, and once answered execute its document."""
    leg = execution.leg
    execution.tell("initiated")
    leg.set_status("ringing")
    execution.tell("ringing")
    ringing = min(callee.rings_s, wish.timeout_s)
    done, _ = await asyncio.wait({leg.interrupted}, timeout=ringing)
    outcome = "canceled" if done else "no-answer" if callee.rings_s > wish.timeout_s else callee.outcome
    if outcome != "answered":
        leg.set_status(outcome)
        await execution.run(Document(wish.url))
        return
    execution.answer()
    if wish.time_limit_s is not None:
        leg.clock.loop.call_later(wish.time_limit_s, leg.end)
    found = None
    if wish.detect and wish.detect_async:
        leg.clock.loop.call_later(callee.detection_s, execution.tell_detected, wish.detect_callback, callee.answered_by)
    elif wish.detect:
        await asyncio.wait({leg.interrupted}, timeout=callee.detection_s)
        found = [("AnsweredBy", callee.answered_by)]
    if wish.url:
        document = await execution.fetch(wish.url, wish.method, found)
    else:
        document = parse(wish.twiml, url="https://api.twilio.com/")
        leg.documents.append(document)
    await execution.run(document)


def rest_app(
    account: Account, legs: Mapping[str, Leg], create: Callable[[OutboundCall], Awaitable[Leg]], desk: RestDesk
) -> web.Application:
    """The interface as an application of its own."""
    app = web.Application()

    async def create_call(request: web.Request) -> web.Response:
        form = await request.post()
        wish = _outbound_call(form)
        if isinstance(wish, web.Response):
            return wish
        return _answer(_resource(await create(wish)), status=201)

    async def update_call(request: web.Request) -> web.Response:
        leg = legs.get(request.match_info["call"])
        if leg is None or leg.status in FINAL:
            return _error(404, NOT_FOUND, f"The requested resource {request.path} was not found")
        form = await request.post()
        status, twiml, url = (_text(form, name) for name in ("Status", "Twiml", "Url"))
        if status and status not in ("completed", "canceled"):
            return _error(400, 20001, f"Status {status!r} is not completed or canceled")
        if twiml and url:
            return _error(400, 20001, "Url and Twiml are mutually exclusive")
        leg.timeline.add(leg.now_ms, "rest", "update", status=status, twiml=len(twiml), url=url)
        if status == "completed" or (status == "canceled" and leg.status in ("queued", "ringing")):
            leg.end()
        elif status == "canceled":
            return _error(400, 21220, "Call is in progress: it can be completed, not canceled")
        elif twiml:
            if len(twiml) > MAX_TWIML:
                return _error(400, 21605, f"Twiml has {len(twiml)} characters, more than {MAX_TWIML}")
            leg.update(CallStatusUpdate(document=parse(twiml, url="https://api.twilio.com/")))
        elif url:
            leg.update(CallStatusUpdate(url=url, method=_text(form, "Method") or "POST"))
        return _answer(_resource(leg))

    async def read_call(request: web.Request) -> web.Response:
        leg = legs.get(request.match_info["call"])
        if leg is None:
            return _error(404, NOT_FOUND, f"The requested resource {request.path} was not found")
        return _answer(_resource(leg))

    @web.middleware
    async def admitted(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        form = tuple((name, str(value)) for name, value in (await request.post()).items())
        if not _knows(account, request.headers.get("Authorization", "")):
            response: web.StreamResponse = _error(401, 20003, "Authenticate")
        elif desk.faults:
            response = _error(desk.faults.pop(0), 20500, "fault on request")
        else:
            response = await handler(request)
        desk.requests.append(RestRequest(request.method, request.path, form, response.status))
        return response

    app.middlewares.append(admitted)
    base = f"/2010-04-01/Accounts/{account.sid}"
    app.router.add_post(f"{base}/Calls.json", create_call)
    app.router.add_post(f"{base}/Calls/{{call}}.json", update_call)
    app.router.add_get(f"{base}/Calls/{{call}}.json", read_call)
    return app


_Form = MultiDictProxy[str | bytes | bytearray | web.FileField]


def _text(form: _Form, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _outbound_call(form: _Form) -> OutboundCall | web.Response:
    to, from_, url, twiml = (_text(form, name) for name in ("To", "From", "Url", "Twiml"))
    if not to:
        return _error(400, 21201, "No 'To' number is specified")
    if not from_:
        return _error(400, 21213, "No 'From' number is specified")
    if not url and not twiml:
        return _error(400, 21205, "Url parameter is required")
    if len(twiml) > MAX_TWIML:
        return _error(400, 21605, f"Twiml has {len(twiml)} characters, more than {MAX_TWIML}")
    events = frozenset(str(event) for event in form.getall("StatusCallbackEvent", ["completed"]))
    limit = _text(form, "TimeLimit")
    return OutboundCall(
        to=to,
        from_=from_,
        url=url,
        method=_text(form, "Method") or "POST",
        twiml=twiml,
        fallback_url=_text(form, "FallbackUrl"),
        callback=CallbackWish(_text(form, "StatusCallback"), _text(form, "StatusCallbackMethod") or "POST", events),
        timeout_s=float(_text(form, "Timeout") or 60),
        detect=bool(_text(form, "MachineDetection")),
        detect_async=_text(form, "AsyncAmd") == "true",
        detect_callback=_text(form, "AsyncAmdStatusCallback"),
        time_limit_s=float(limit) if limit else None,
    )


def _knows(account: Account, header: str) -> bool:
    kind, _, said = header.partition(" ")
    try:
        user, _, password = base64.b64decode(said, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    known = account.keys | {account.sid: account.token}
    return kind.lower() == "basic" and known.get(user) == password


def _resource(leg: Leg) -> dict[str, object]:
    account = leg.account.sid
    return {
        "sid": leg.call_id,
        "account_sid": account,
        "to": leg.to,
        "from": leg.from_,
        "status": leg.status,
        "direction": leg.direction,
        "api_version": "2010-04-01",
        "uri": urljoin("/2010-04-01/Accounts/", f"{account}/Calls/{leg.call_id}.json"),
    }


def _answer(body: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _error(status: int, code: int, message: str) -> web.Response:
    body = {
        "code": code,
        "message": message,
        "status": status,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
    }
    return _answer(body, status=status)
