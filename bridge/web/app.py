"""The HTTP face as one aiohttp application: webhooks, the media socket, probes, metrics.

Every answer carries the same few headers, says nothing of what failed, and ends its connection: one request each, so
that a slow client has one deadline (`listen.py`) and never a second request to be slow in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from aiohttp import hdrs, web

from bridge.live.switchboard import Expected, Refused
from bridge.metrics import Metrics
from bridge.settings import IncomingCall, Settings
from bridge.telephony.signature import Validator
from bridge.web.colleagues import Colleagues
from bridge.web.origin import is_this_machine
from bridge.web.webhooks import TwilioDoor

log = structlog.get_logger()

DOOR: Final = web.AppKey("door", TwilioDoor)
HEADERS: Final = {
    hdrs.SERVER: "voice-bridge",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Switchboard(Protocol):
    """What the HTTP face needs of `live.switchboard`."""

    @property
    def accepting(self) -> bool: ...
    @property
    def full(self) -> bool: ...
    @property
    def active_calls(self) -> int: ...
    def expect(self, incoming: IncomingCall) -> Expected | Refused: ...
    def ended_by_status(self, carrier_call_id: str, status: str) -> None: ...
    def handed_on_to(self, carrier_call_id: str) -> str: ...
    def resume(self, carrier_call_id: str) -> Expected | None: ...


def validator_for(settings: Settings, *, public_url: str = "") -> Validator | None:
    """What judges signatures; None where the settings give nothing to judge by, or say not to."""
    if not settings.twilio.validate_signatures or not settings.twilio.secrets:
        return None
    return Validator(settings.twilio.secrets, public_url or settings.base_url)


def make_app(
    settings: Settings,
    switchboard: Switchboard,
    *,
    media: Handler | None = None,
    metrics: Metrics | None = None,
    public_url: str = "",
    colleagues: Colleagues | None = None,
) -> web.Application:
    """The application. `media` takes GET /twilio/media; `public_url` stands in for the settings' own where the port
    was chosen late.
    """
    metrics = metrics or Metrics()
    places = None if colleagues is None else colleagues.places

    def active_calls() -> int:
        return switchboard.active_calls if places is None else places.taken

    metrics.follow(active_calls)
    door = TwilioDoor(
        settings,
        switchboard,
        validator=validator_for(settings, public_url=public_url),
        base_url=public_url or settings.base_url,
        metrics=metrics,
        colleagues=colleagues,
    )

    async def readyz(request: web.Request) -> web.Response:
        if not switchboard.accepting:
            return web.json_response({"status": "draining"}, status=503)
        if switchboard.full:
            return web.json_response({"status": "full"}, status=503)
        return web.json_response({"status": "ready", "calls": active_calls()})

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def show_metrics(request: web.Request) -> web.Response:
        if settings.metrics_access == "loopback" and not is_this_machine(request, settings):
            raise web.HTTPForbidden(text="/metrics is for this machine, as localhost (BRIDGE_METRICS_ACCESS).\n")
        return web.Response(body=metrics.text(), headers={hdrs.CONTENT_TYPE: metrics.content_type})

    app = web.Application(middlewares=[_one_request], client_max_size=settings.limits.body_bytes)
    app.on_response_prepare.append(_headers)
    app[DOOR] = door
    app.add_routes(
        [
            web.post("/twilio/voice", door.voice),
            web.post("/twilio/status", door.status),
            web.post("/twilio/stream-status", door.stream_status),
            web.post("/twilio/resume", door.resume),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", show_metrics),
        ]
    )
    if media is not None:
        app.router.add_get("/twilio/media", media)
    return app


@web.middleware
async def _one_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ends the connection with the answer, logs the path without its query, tells a client nothing of our mistakes."""
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.force_close()
        log.info("request_refused", method=request.method, path=request.path, status=refusal.status)
        raise
    except Exception:
        log.exception("request_broke", method=request.method, path=request.path)
        response = web.Response(status=500, text="Something broke here; it is in our log.\n")
    if not response.prepared:
        response.force_close()
        log.debug("request", method=request.method, path=request.path, status=response.status)
    return response


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    if response.status == 417:  # an Expect nobody knows: told before any handler of ours is asked
        response.force_close()
    response.headers.update(HEADERS)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
