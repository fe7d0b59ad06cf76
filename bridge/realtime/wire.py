"""The door for what realtime services send: JSON that is read without trust, and text that is made safe once.

Laws: nothing here raises on anything a peer may send; text that leaves has no lone surrogates and no NUL, ids are short
or absent.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

MAX_ID = 256  # characters; services use 20 to 40
MAX_TEXT = 100_000
MAX_MESSAGE = 2_000
MAX_DEPTH = 32

_strict = msgspec.json.Decoder()


def read_object(data: bytes | str) -> dict[str, Any] | str:
    """A JSON object, or a sentence saying why there is none."""
    try:
        value = _strict.decode(data)
    except RecursionError:
        return "nested too deeply"
    except (msgspec.MsgspecError, ValueError):
        value = _second_reading(data)
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return "not a JSON object"
    if _deeper_than(value, MAX_DEPTH):
        return "nested too deeply"
    return value


def _second_reading(data: bytes | str) -> Any:
    """msgspec refuses half of a surrogate pair, yet services that cut text inside an emoji send it; json takes it."""
    if (b"\\u" if isinstance(data, bytes) else "\\u") not in data:  # type: ignore[operator]  # same type on both sides
        return "not JSON"
    try:
        value = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        return "nested too deeply"
    except ValueError:
        return "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def clean(value: Any, limit: int = MAX_TEXT) -> str:
    """Text every sink can take: no lone surrogates, no NUL, at most `limit` characters. Anything but text is empty."""
    if type(value) is not str:
        return ""
    text: str = value[:limit]
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Halves that met again become one character; single ones U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def scrub(value: Any) -> Any:
    """The same for a whole JSON value."""
    if isinstance(value, str):
        return clean(value, len(value))
    if isinstance(value, dict):
        return {scrub(key): scrub(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(inner) for inner in value]
    return value


def wire_id(value: Any) -> str:
    """An id as sent, or empty: an id cut short would name something else."""
    return clean(value, MAX_ID) if type(value) is str and len(value) <= MAX_ID else ""


def whole(value: Any, *, limit: int = 1_000_000_000) -> int:
    """A count between 0 and `limit`; anything else is 0."""
    if type(value) is float and math.isfinite(value):
        value = int(value)
    return value if type(value) is int and 0 <= value <= limit else 0


def number(value: Any, *, limit: float = 1e10) -> float | None:
    """A finite number between 0 and `limit`, or None."""
    if type(value) not in (int, float) or not 0 <= value <= limit:
        return None
    return float(value)


def table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
