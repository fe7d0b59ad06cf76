"""Twilio Media Streams: the messages of the bidirectional stream, in both directions.

Facts are from Twilio's "WebSocket Messages" page and its error pages 31950 and 31951. Pure translation: bytes to typed
messages, requests to bytes. `decode` never raises, whatever the peer sends; it is on the path of every audio frame, so
a media message costs one typed JSON pass (which also decodes the base64, strictly) and one small object. What we send
has exactly the documented fields: Twilio drops a message with a missing or an extra one.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pybase64

from bridge.call.plan import CarrierCapabilities

# A stream that ends, however it does, lets the call go on with the TwiML behind its <Connect>: ours asks us again.
CAPABILITIES = CarrierCapabilities(resumes_after_drop=True)

TOKEN = "token"  # the <Parameter> that pairs a stream with its call
FINAL_STATUSES = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})  # of a call
MAX_PAYLOAD_BYTES = 8192  # one second of mu-law; Twilio sends 160 bytes
DIGITS = frozenset("0123456789*#ABCD")
ENCODINGS: dict[str, Literal["mulaw", "alaw", "pcm16"]] = {
    "audio/x-mulaw": "mulaw",
    "audio/x-alaw": "alaw",
    "audio/x-l16": "pcm16",
}


# ---------------------------------------------------------------- what the carrier says


class Connected(msgspec.Struct, frozen=True, gc=False):
    """The first message; the stream has no name yet."""


class Start(msgspec.Struct, frozen=True):
    """The stream begins. `parameters` are the TwiML `<Parameter>`s, names and values as strings."""

    stream_id: str
    call_id: str
    account_id: str
    encoding: Literal["mulaw", "alaw", "pcm16"]
    rate_hz: int
    parameters: dict[str, str]


class Media(msgspec.Struct, frozen=True, gc=False):
    """Audio of one track, 1 to 8,192 bytes. `timestamp_ms` counts from the start of the stream; None: not given."""

    stream_id: str
    track: str
    timestamp_ms: int | None
    audio: bytes


class Dtmf(msgspec.Struct, frozen=True, gc=False):
    digit: str
    stream_id: str


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A mark of ours came back: the audio before it was played, or cleared."""

    name: str
    stream_id: str


class Stop(msgspec.Struct, frozen=True, gc=False):
    stream_id: str


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """Not a message of this protocol. `what` says why, without quoting more than a field's path."""

    what: str


StreamMessage = Connected | Start | Media | Dtmf | Mark | Stop | Malformed


# ---------------------------------------------------------------- their layout on the wire
# Unknown fields are skipped. Numbers come as strings on Twilio; look-alikes send some of them as numbers.


class _Connected(msgspec.Struct, tag_field="event", tag="connected", gc=False):
    pass


class _MediaFormat(msgspec.Struct):
    encoding: str = "audio/x-mulaw"
    sampleRate: int | str = 8000
    channels: int | str = 1


class _StartBody(msgspec.Struct):
    callSid: str
    accountSid: str = ""
    customParameters: dict[str, str] = {}
    mediaFormat: _MediaFormat = msgspec.field(default_factory=_MediaFormat)


class _Start(msgspec.Struct, tag_field="event", tag="start"):
    streamSid: str
    start: _StartBody


class _MediaBody(msgspec.Struct, gc=False):
    payload: (
        bytes  # base64 on the wire; decoded strictly here: one pass costs half of a second call to a base64 library
    )
    track: str = "inbound"
    timestamp: str | int | None = None


class _Media(msgspec.Struct, tag_field="event", tag="media", gc=False):
    streamSid: str
    media: _MediaBody


class _DtmfBody(msgspec.Struct, gc=False):
    digit: str


class _Dtmf(msgspec.Struct, tag_field="event", tag="dtmf", gc=False):
    streamSid: str
    dtmf: _DtmfBody


class _MarkBody(msgspec.Struct, gc=False):
    name: str


class _Mark(msgspec.Struct, tag_field="event", tag="mark", gc=False):
    streamSid: str
    mark: _MarkBody


class _Stop(msgspec.Struct, tag_field="event", tag="stop", gc=False):
    streamSid: str


_FREQUENT = frozenset((_Media, _Mark))
_BACKSLASH = ord("\\")  # a number is found in bytes seven times as fast as a byte
_wire = msgspec.json.Decoder(_Connected | _Start | _Media | _Dtmf | _Mark | _Stop)


def decode(frame: bytes) -> StreamMessage | None:
    """One text frame of the media socket. None for an event this protocol may have learnt since; never raises."""
    try:
        message = _wire.decode(frame)
    except (ValueError, RecursionError) as error:
        # Invalid UTF-8 and malformed JSON are ValueErrors here, and so are two events that differ; deep nesting in a
        # skipped field is a RecursionError.
        return _refused(error, frame)
    # Of the frequent ones a look at the bytes tells that they need no second reading.
    if type(message) not in _FREQUENT or frame.count(b'"streamSid"') != 1 or _BACKSLASH in frame:
        repeated = _repeated_key(frame)
        if repeated:
            return Malformed(repeated)
    if type(message) is _Media:
        body = message.media
        if not 0 < len(body.payload) <= MAX_PAYLOAD_BYTES:
            return Malformed(f"media.payload has {len(body.payload)} bytes")
        stamp = body.timestamp
        if stamp is not None:
            stamp = _whole(stamp)
            if stamp is None:
                return Malformed("media.timestamp is not a whole number")
        return Media(message.streamSid, body.track, stamp, body.payload)
    return _translate(message)


def _translate(message: _Connected | _Start | _Dtmf | _Mark | _Stop) -> StreamMessage:
    """Everything that is not audio."""
    match message:
        case _Mark():
            return Mark(message.mark.name, message.streamSid)
        case _Dtmf():
            if message.dtmf.digit not in DIGITS:
                return Malformed("dtmf.digit is not a key of a telephone")
            return Dtmf(message.dtmf.digit, message.streamSid)
        case _Stop():
            return Stop(message.streamSid)
        case _Start():
            return _started(message.streamSid, message.start)
        case _:
            return Connected()


def _started(stream_id: str, body: _StartBody) -> Start | Malformed:
    if not _is_id(stream_id) or not _is_id(body.callSid):
        return Malformed("start has an id that is empty, long, or not plain text")
    encoding = ENCODINGS.get(body.mediaFormat.encoding.lower())
    rate_hz = _whole(body.mediaFormat.sampleRate)
    if encoding is None or rate_hz not in (8000, 16000, 24000) or _whole(body.mediaFormat.channels) != 1:
        return Malformed("start.mediaFormat is not one we can hear")
    return Start(
        stream_id=stream_id,
        call_id=body.callSid,
        account_id=body.accountSid,
        encoding=encoding,
        rate_hz=rate_hz,
        parameters=body.customParameters,
    )


def _refused(error: Exception, frame: bytes) -> Malformed | None:
    if isinstance(error, RecursionError):
        return Malformed("nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Malformed("not UTF-8")
    text = str(error)
    if text.startswith("Invalid value ") and text.endswith("`$.event`"):
        repeated = _repeated_key(frame)
        return Malformed(repeated) if repeated else None
    return Malformed(text[:120])


def _repeated_key(frame: bytes) -> str:
    """Which of `event` and `streamSid` appears twice at the top level; Python's parsers would let the last one win."""
    try:
        pairs = json.loads(
            frame, object_pairs_hook=list
        )  # innermost first, so the outermost object is what is returned
    except (ValueError, RecursionError):
        return "not JSON to a strict reader"
    keys: list[Any] = [key for key, _ in pairs]
    for name in ("event", "streamSid"):
        if keys.count(name) > 1:
            return f"{name} appears twice"
    return ""


def _whole(value: int | str) -> int | None:
    """A whole number of at most 15 digits, also where it was written as a string; None for anything else."""
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 15):
            return None
        return int(value)
    return value if 0 <= value < 10**15 else None


def _is_id(text: str) -> bool:
    """Ids go back out inside templates: plain characters that JSON need not escape."""
    return 0 < len(text) <= 100 and text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


# ---------------------------------------------------------------- what we say


class StreamEncoder:
    """The three messages we may send on one stream, as text frames. `stream_id` is the one `Start` brought."""

    __slots__ = ("_clear", "_mark_head", "_media_head")

    def __init__(self, stream_id: str) -> None:
        sid = stream_id.encode("ascii")
        self._media_head = b'{"event":"media","streamSid":"' + sid + b'","media":{"payload":"'
        self._mark_head = b'{"event":"mark","streamSid":"' + sid + b'","mark":{"name":'
        self._clear = b'{"event":"clear","streamSid":"' + sid + b'"}'

    def media(self, audio: bytes) -> bytes:
        """Audio in the stream's own format, without any container header: a header would be played as noise."""
        return self._media_head + pybase64.b64encode(audio) + b'"}}'

    def mark(self, name: str) -> bytes:
        """Asks for `name` back when everything sent before it was played (or cleared)."""
        return self._mark_head + msgspec.json.encode(name) + b"}}"

    def clear(self) -> bytes:
        """Empties Twilio's buffer; every pending mark comes back."""
        return self._clear
