"""Where a request comes from, as far as that can be known.

Whoever forwards a port here (`ssh -R`, a TCP tunnel) makes strangers come from loopback, without a header that says so.
Their Host is the public name then, unless they forge it: only a signature keeps out who means harm.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import hdrs, web

from bridge.realtime.profiles import is_loopback
from bridge.settings import Settings

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")


def is_this_machine(request: web.Request, settings: Settings) -> bool:
    """Whether the client runs on this machine: it comes from loopback, no proxy says it was sent on, no page of
    somebody else's asks for it in a browser here, and it asks for this machine by name, or the settings say that the
    service has no other address.
    """
    if not is_loopback(request.remote or "") or any(name in request.headers for name in _FORWARDED):
        return False
    if hdrs.ORIGIN in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        return False
    return _is_at_home(settings.public_url) or _is_at_home(f"//{request.headers.get(hdrs.HOST, '')}")


def _is_at_home(address: str) -> bool:
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False
