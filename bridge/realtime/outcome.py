"""How a response or a tool call came out: status, usage, arguments, as far as the service says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bridge.call.events import Usage
from bridge.realtime.wire import MAX_TEXT, clean, table, whole


def read_status(value: Any) -> Literal["completed", "cancelled", "incomplete", "failed"]:
    match value:
        case "cancelled" | "canceled":
            return "cancelled"
        case "incomplete":
            return "incomplete"
        case "failed":
            return "failed"
        case _:
            return "completed"


def read_arguments(value: Any) -> str | None:
    """Arguments as JSON text; a service that sends the object itself is understood too."""
    if isinstance(value, dict):
        try:
            return clean(msgspec.json.encode(value).decode())
        except ValueError:  # half a surrogate pair
            return None
    return clean(value, MAX_TEXT) if isinstance(value, str) else None


def read_usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    heard, spoken = table(value.get("input_token_details")), table(value.get("output_token_details"))
    return Usage(
        input_tokens=whole(value.get("input_tokens")),
        output_tokens=whole(value.get("output_tokens")),
        input_audio_tokens=whole(heard.get("audio_tokens")),
        output_audio_tokens=whole(spoken.get("audio_tokens")),
        cached_tokens=whole(heard.get("cached_tokens")),
    )
