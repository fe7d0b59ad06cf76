"""TwiML: the few verbs we answer a carrier with, as a tree that one function writes.

No text is ever pasted into a template: every name and value goes through `escape`, so that no caller, agent file or
model can add a verb. Only the verbs below exist, with only the attributes they take (Twilio's TwiML Voice reference).
Element and attribute names are case-sensitive at Twilio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from bridge.errors import UsageError

PARAMETER_LIMIT = 500  # characters of name and value together must stay under it
INLINE_LIMIT = 4000  # characters of a document given to the REST interface

_REFERENCES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2 (Char)
_NUMBER = re.compile(r"\+?[0-9]{2,15}", re.ASCII)  # ITU-T E.164: at most 15 digits
_SIP = re.compile(r"sips?:[\x21-\x7e]+", re.ASCII | re.IGNORECASE)


class Verb(msgspec.Struct, frozen=True):
    """One element. Only the functions below make them."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    content: str | tuple[Verb, ...] = ()


def document(*verbs: Verb) -> str:
    """The whole answer, in UTF-8 when encoded. No verbs at all hang up."""
    return '<?xml version="1.0" encoding="UTF-8"?>' + _write(Verb("Response", (), verbs))


def escape(text: str) -> str:
    """For attributes and text alike. What XML cannot hold (control characters, lone surrogates) becomes U+FFFD."""
    return _NOT_XML.sub("\ufffd", text).translate(_REFERENCES)


def _write(verb: Verb) -> str:
    head = verb.name + "".join(f' {name}="{escape(value)}"' for name, value in verb.attributes)
    if isinstance(verb.content, str):
        return f"<{head}>{escape(verb.content)}</{verb.name}>"
    if not verb.content:
        return f"<{head}/>"
    return f"<{head}>{''.join(map(_write, verb.content))}</{verb.name}>"


def _given(**attributes: str) -> tuple[tuple[str, str], ...]:
    """Attributes that have a value."""
    return tuple((name, value) for name, value in attributes.items() if value)


# ---------------------------------------------------------------- verbs


def connect_stream(url: str, *, parameters: Mapping[str, str], status_callback: str = "") -> Verb:
    """A bidirectional media stream to `url` (no query string: Twilio refuses the handshake with error 31920).

    The call stays in it until our side closes the socket; then the next verb runs.
    Raises UsageError for a URL Twilio would refuse or a parameter that is too long.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("wss", "ws") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"stream URL {url!r} is not a wss:// address without a query")
    for key, value in parameters.items():
        if not key or len(key) + len(value) >= PARAMETER_LIMIT:
            raise UsageError(f"stream parameter {key!r}: name and value must stay under {PARAMETER_LIMIT} characters")
    children = tuple(Verb("Parameter", (("name", key), ("value", value))) for key, value in parameters.items())
    stream = Verb("Stream", _given(url=url, statusCallback=status_callback), children)
    return Verb("Connect", (), (stream,))


def say(text: str, *, language: str = "") -> Verb:
    """The carrier's own speech synthesis."""
    return Verb("Say", _given(language=language), text)


def redirect(url: str) -> Verb:
    """Asks `url` for the next document; runs even when our server that wrote this one is gone."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError(f"URL {url!r} is not an http(s) address")
    return Verb("Redirect", (("method", "POST"),), url)


def hangup() -> Verb:
    return Verb("Hangup")


def dial(target: str, *, caller_id: str = "") -> Verb:
    """Hands the caller on to a number (E.164) or a SIP address; the ringing is heard until somebody answers.

    Raises UsageError for a target that is neither: it would otherwise be Twilio's to interpret.
    """
    if _SIP.fullmatch(target):
        to = Verb("Sip", (), target)
    elif _NUMBER.fullmatch(target):
        to = Verb("Number", (), target)
    else:
        raise UsageError(f"transfer target {target!r} is neither a telephone number like +15550100 nor a sip: address")
    attributes = _given(callerId=caller_id, answerOnBridge="true", timeout="25")
    return Verb("Dial", attributes, (to,))
