"""Where a request comes from, as far as that can be known."""

from __future__ import annotations

from aiohttp import web

from bridge.realtime.profiles import is_loopback

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")


def is_this_machine(request: web.Request) -> bool:
    """Whether the client runs on this machine. A proxy here comes from loopback too, but says so in a header."""
    return is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDED)
