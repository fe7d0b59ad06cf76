"""The door for what programs give to `connect` and `RealtimeClient`: what cannot be used is refused by name, with what
to give instead, before anything is sent. The door for what services send is wire.py.

Law: no message shows a key.
"""

from __future__ import annotations

import binascii
import math
import reprlib
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import pybase64

from bridge.errors import UsageError
from bridge.realtime.dialect import frame
from bridge.realtime.profiles import Profile, Target, builtin, fits_a_header

_LONGEST_S = 1e9
_BYTES = ("B", "b", "c")  # formats of a buffer's items, in the words of the module struct
_SAMPLES = ("h", "<h", "=h", "@h")


def target(profile: Any, url: Any, api_key: Any, model: Any, *, allow_plain: Any) -> Target:
    """Where and as whom to connect. Raises UsageError for what names no service."""
    if isinstance(profile, str):
        known = builtin()
        if profile not in known:
            raise UsageError(f"profile {profile!r} is not known; there are {', '.join(known)}")
        profile = known[profile]
    if not isinstance(profile, Profile):
        raise UsageError(f"profile: found {reprlib.repr(profile)}; give a name ({', '.join(builtin())}) or a Profile")
    switch("allow_plain", allow_plain)
    return Target(profile, _text("url", url), _key(api_key), _text("model", model), allow_plain)


def _text(name: str, value: Any) -> str:
    """None is none, as from `os.environ.get`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{name}: found {reprlib.repr(value)}; give text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: {value!r} holds half of a character; give text that is whole") from None
    return value


def _key(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"api_key: found {type(value).__name__}; give the key as text")
    if not fits_a_header(value):
        raise UsageError(
            "api_key: a key has no spaces around it, no line break and only ASCII characters; see what came with it"
        )
    return value


def switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: found {reprlib.repr(value)}; write True or False")


def event_name(value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise UsageError(f"an event's name is text, not {reprlib.repr(value)}")


def item_id(value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise UsageError(f"item_id: found {reprlib.repr(value)}; give the id of an item of the conversation")


# ---------------------------------------------------------------- numbers


def seconds(name: str, value: Any, *, least: float | None = None) -> float:
    """A length of time; without `least`, any that is more than nothing."""
    found = _number(value)
    if least is None and not 0 < found <= _LONGEST_S:
        raise UsageError(f"{name}: found {reprlib.repr(value)}; write seconds, more than 0")
    if least is not None and not least <= found <= _LONGEST_S:
        raise UsageError(f"{name}: found {reprlib.repr(value)}; write seconds, {least:g} or more")
    return found


def samples(name: str, value: Any) -> float:
    found = _number(value)
    if not 0 <= found < math.inf:
        raise UsageError(f"{name}: found {reprlib.repr(value)}; write how many samples were heard, 0 or more")
    return found


def _number(value: Any) -> float:
    """Not a number where it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


# ---------------------------------------------------------------- sound


def sound(name: str, audio: Any, *, encoding: str = "", rate_hz: int = 0) -> bytes:
    """The bytes of audio: bytes as they are, or one channel of 16-bit samples. `encoding` and `rate_hz` are those of
    the session, where they are known: samples are of no use to one that takes G.711.
    """
    if isinstance(audio, bytes):
        return _whole_samples(name, audio, encoding)
    wanted = (
        f"bytes of the session's format ({encoding}, {rate_hz} Hz)" if encoding else "bytes of the session's format"
    )
    if encoding in ("", "pcm16"):
        wanted += " or one channel of 16-bit samples"
    try:
        view = memoryview(audio)
    except (TypeError, ValueError, BufferError):
        raise UsageError(f"{name}: found {type(audio).__name__}; give {wanted}") from None
    allowed = _BYTES if encoding not in ("", "pcm16") else _BYTES + _SAMPLES
    if view.format not in allowed or sum(length > 1 for length in view.shape or ()) > 1:
        shape = "x".join(map(str, view.shape or ()))
        raise UsageError(f"{name}: found {shape} items of format {view.format!r} (module struct); give {wanted}")
    return _whole_samples(name, view.tobytes(), encoding)


def _whole_samples(name: str, audio: bytes, encoding: str) -> bytes:
    if encoding == "pcm16" and len(audio) % 2:
        raise UsageError(f"{name}: found {len(audio)} bytes; samples of 16 bits have two each: keep the odd one back")
    return audio


def sound_as_text(name: str, audio: Any, *, encoding: str, rate_hz: int) -> str:
    """Audio of a message: base64 text as it is, anything else as for `sound`."""
    if not isinstance(audio, str):
        return pybase64.b64encode(sound(name, audio, encoding=encoding, rate_hz=rate_hz)).decode("ascii")
    try:
        pybase64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{name}: this text is not base64; give bytes, samples or base64 text") from None
    return audio


# ---------------------------------------------------------------- what goes out as JSON


def as_json(name: str, value: Any) -> bytes:
    try:
        return frame(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{name} cannot be written as JSON: {error}") from None


def tables(name: str, value: Any, example: str) -> list[dict[str, Any]]:
    """A list of mappings; None is an empty one."""
    if value is None:
        return []
    rows = value if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else [None]
    found = list(rows)
    if not all(isinstance(row, Mapping) for row in found):
        raise UsageError(f"{name}: found {reprlib.repr(value)}; give a list like [{example}]")
    return [dict(row) for row in found]
