"""Error envelopes of realtime services, in every form they come in."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bridge.realtime.dialect import Cure
from bridge.realtime.wire import MAX_MESSAGE, clean, wire_id

# Services quote a refused key in their message; what they leave of it is still too much for a log.
_KEY = re.compile(r"\b(?:sk|rsk|xai|gsk)[-_][\w*.-]{6,}\w")


class Complaint(msgspec.Struct, frozen=True, gc=False):
    """The last error envelope, fully judged: a call in progress knows no `retry`, a close that follows does."""

    code: str
    message: str
    cure: Cure
    param: str = ""
    request_id: str = ""
    event_id: str = ""  # of the event of ours it is about, where that had one


def read_error(event: dict[str, Any]) -> tuple[str, str, str, str]:
    """Code, message, param and request id of an error envelope, in any of the forms services send.

    `error` is an object (OpenAI), a string (vLLM-Omni), or missing with its fields at the top (gateways). Where there
    is no code the error's type says a little.
    """
    body = event.get("error")
    error = body if isinstance(body, dict) else {}
    spoken = body if isinstance(body, str) else None
    code = next(
        (
            clean(value, 100)
            for value in (error.get("code"), event.get("code"), error.get("type"))
            if isinstance(value, str) and value
        ),
        "unknown",
    )
    message = spoken or error.get("message") or event.get("message") or "the service reported an error"
    param = error.get("param") or event.get("param")
    request_id = event.get("request_id") or error.get("request_id")
    return code, _KEY.sub("[key]", clean(message, MAX_MESSAGE)), clean(param, 200), wire_id(request_id)
