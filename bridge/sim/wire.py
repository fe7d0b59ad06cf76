"""Twilio's media-stream messages as the carrier writes and reads them
(twilio.com/docs/voice/media-streams/websocket-messages).

Writing: numbers that Twilio sends as strings are strings here, and every message but `connected` carries a running
sequence number. Reading is as strict as Twilio is: a message that is not exactly one of its three layouts is a
warning and otherwise ignored.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any

import msgspec
import pybase64

CONNECTED = '{"event":"connected","protocol":"Call","version":"1.0.0"}'
BINARY_FRAME = 31950  # warning: malformed message
INVALID_MESSAGE = 31951  # warning: invalid message
MEDIA_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class PlayThis:
    audio: bytes  # mu-law


@dataclass(frozen=True, slots=True)
class MarkThis:
    name: str


@dataclass(frozen=True, slots=True)
class ClearAll:
    pass


@dataclass(frozen=True, slots=True)
class Unusable:
    code: int
    why: str


class Messages:
    """Writes the messages of one stream; keeps its sequence and chunk numbers."""

    def __init__(self, *, account_id: str, call_id: str, stream_id: str) -> None:
        self.account_id = account_id
        self.call_id = call_id
        self.stream_id = stream_id
        self._sequence = 0
        self._chunk = 0

    def _numbered(self, event: str, body: dict[str, Any]) -> str:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self.stream_id, event: body}
        return _json.encode(message).decode()

    def start(self, parameters: dict[str, str]) -> str:
        body = {
            "accountSid": self.account_id,
            "streamSid": self.stream_id,
            "callSid": self.call_id,
            "tracks": ["inbound"],
            "mediaFormat": MEDIA_FORMAT,
            "customParameters": parameters,
        }
        return self._numbered("start", body)

    def media(self, timestamp_ms: int, payload: str) -> str:
        """`payload` is base64 already: silence is encoded once for all frames."""
        self._sequence += 1
        self._chunk += 1
        return (
            f'{{"event":"media","sequenceNumber":"{self._sequence}","media":{{"track":"inbound","chunk":"{self._chunk}",'
            f'"timestamp":"{timestamp_ms}","payload":"{payload}"}},"streamSid":"{self.stream_id}"}}'
        )

    def dtmf(self, digit: str) -> str:
        return self._numbered("dtmf", {"track": "inbound_track", "digit": digit})

    def mark(self, name: str) -> str:
        return self._numbered("mark", {"name": name})

    def stop(self) -> str:
        return self._numbered("stop", {"accountSid": self.account_id, "callSid": self.call_id})


def read(message: str | bytes, stream_id: str) -> PlayThis | MarkThis | ClearAll | Unusable:
    """One frame from the bridge. `bytes` is a binary frame, which Twilio does not accept."""
    if isinstance(message, bytes | bytearray):
        return Unusable(BINARY_FRAME, f"binary frame of {len(message)} bytes")
    try:
        fields = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Unusable(INVALID_MESSAGE, "not JSON")
    if not isinstance(fields, dict):
        return Unusable(INVALID_MESSAGE, "not a JSON object")
    event = fields.get("event")
    if event not in ("media", "mark", "clear"):
        return Unusable(INVALID_MESSAGE, f"unknown event {event!r}")
    wanted = {"event", "streamSid"} if event == "clear" else {"event", "streamSid", event}
    if fields.keys() != wanted:
        return Unusable(INVALID_MESSAGE, _difference(event, fields.keys(), wanted))
    if fields["streamSid"] != stream_id:
        return Unusable(INVALID_MESSAGE, f"streamSid {fields['streamSid']!r} is not this stream")
    if event == "clear":
        return ClearAll()
    body, key = fields[event], "payload" if event == "media" else "name"
    if not isinstance(body, dict):
        return Unusable(INVALID_MESSAGE, f"{event}: its body is not an object")
    if body.keys() != {key}:
        return Unusable(INVALID_MESSAGE, _difference(f"the body of {event}", body.keys(), {key}))
    if not isinstance(body[key], str):
        return Unusable(INVALID_MESSAGE, f"{event}.{key} is not a string")
    if event == "mark":
        return MarkThis(body[key])
    try:
        return PlayThis(pybase64.b64decode(body[key], validate=True))
    except (binascii.Error, ValueError):
        return Unusable(INVALID_MESSAGE, "media.payload is not base64")


def _difference(where: str, found: Any, wanted: set[str]) -> str:
    missing, extra = sorted(wanted - set(found)), sorted(map(str, set(found) - wanted))
    said = [f"lacks {', '.join(missing)}"] if missing else []
    said += [f"has the extra field {', '.join(extra)}"] if extra else []
    return f"{where} {' and '.join(said)}"
