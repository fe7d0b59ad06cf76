"""What all realtime services share: the frames we send, the error codes they answer with, and the words both use.

A `Dialect` turns requests of a call into JSON text frames; its subclasses (one file per API shape) differ only in how a
session and an item's text are written down. `Decoder` (decoder.py) reads what comes back. Both are pure. The internal
vocabulary is the GA one; the beta names are aliases, accepted from every service (reference: OpenAI Realtime API,
client and server events).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
import pybase64

from bridge.call.actions import (
    Action,
    CancelResponse,
    CommitCallerAudio,
    DeleteItem,
    HistoryItem,
    RequestResponse,
    SubmitToolOutput,
    TellModel,
    TruncateItem,
)
from bridge.call.plan import SessionPlan
from bridge.realtime.session import from_plan
from bridge.realtime.wire import scrub

if TYPE_CHECKING:
    from bridge.realtime.decoder import Decoder
    from bridge.realtime.profiles import Profile

Cure = Literal[
    "ignore",  # harmless: the race was lost, or the thing is already gone
    "wait",  # a response is active: ask again when it ended
    "note",  # one request of ours, or nothing we know; the session goes on
    "rotate",  # this session is over or useless, another may be opened at once
    "fatal",  # key, quota, model: another attempt will fail too
    "retry",  # try again after a pause
]

# ---------------------------------------------------------------- facts only the model's leg is concerned with


class SessionCreated(msgspec.Struct, frozen=True, gc=False):
    session_id: str
    expires_at: float | None = None  # Unix time


class SessionUpdated(msgspec.Struct, frozen=True, gc=False):
    """The session as the service now has it; None where it does not say."""

    input_encoding: Literal["pcm16", "mulaw", "alaw"] | None = None
    input_rate_hz: int | None = None
    output_encoding: Literal["pcm16", "mulaw", "alaw"] | None = None
    output_rate_hz: int | None = None
    expires_at: float | None = None  # Unix time


class AudioDelta(msgspec.Struct, frozen=True, gc=False):
    """Audio of one item in the model's format. Ids beginning with `~` were made up by us (the service sent none)."""

    response_id: str
    item_id: str
    content_index: int
    audio: bytes


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A frame that means nothing to us: to be counted. `why` is set where the frame itself was broken."""

    type: str
    why: str = ""


# ---------------------------------------------------------------- names

UPDATE_ID = "configuration"  # the event_id of our session.update
MADE_UP = "~"  # ids the decoder had to make up begin with this; they are never sent to a service

GA_NAMES: dict[str, str] = {
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "conversation.item.created": "conversation.item.added",
}
BETA_NAMES: dict[str, str] = {ga: beta for beta, ga in GA_NAMES.items()}

# Server events we know, and that are no fact of a call.
SILENT = frozenset(
    {
        "conversation.created",
        "conversation.item.retrieved",
        "conversation.item.truncated",
        "conversation.item.deleted",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.segment",
        "conversation.item.input_audio_transcription.updated",  # xAI: the whole text so far
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.dtmf_event_received",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
        "output_audio_buffer.cleared",
        "response.content_part.added",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "rate_limits.updated",
        "ping",  # xAI, Inworld
    }
)

# ---------------------------------------------------------------- errors

# Older services and gateways send a message and no code. The first fragment found in the lower-cased message decides.
_FRAGMENTS: tuple[tuple[str, Cure], ...] = (
    ("no active response", "ignore"),
    ("already shorter than", "ignore"),
    ("buffer too small", "ignore"),
    ("buffer is empty", "ignore"),
    ("active response in progress", "wait"),
    ("already has an active response", "wait"),
    ("maximum duration", "rotate"),
    ("session has expired", "rotate"),
    ("incorrect api key", "fatal"),
    ("invalid api key", "fatal"),
    ("exceeded your current quota", "fatal"),
    ("does not exist or you do not have access", "fatal"),
)

# What the connection itself can say, in the same words as a service's error code. HTTP: RFC 9110 section 15.
_STATUS_CODES: dict[int, str] = {
    401: "invalid_api_key",
    402: "insufficient_quota",
    403: "forbidden",
    404: "not_found",
    429: "rate_limit_exceeded",
}
_OWN_CODES: dict[str, Cure] = {
    "connection_failed": "retry",
    "connection_lost": "retry",
    "connection_timeout": "retry",
    "rate_limit_exceeded": "retry",
    "http_5xx": "retry",
    "tls_failed": "fatal",
    "redirect_refused": "fatal",
    "forbidden": "fatal",
    "not_found": "fatal",
    "invalid_api_key": "fatal",
    "insufficient_quota": "fatal",
    "refused": "fatal",
}


def code_of_status(status: int) -> str:
    """The error code that stands for an HTTP answer to the opening handshake."""
    if status in _STATUS_CODES:
        return _STATUS_CODES[status]
    if 300 <= status < 400:
        return "redirect_refused"
    return "http_5xx" if status >= 500 else "refused"


# ---------------------------------------------------------------- what we send

_APPEND_HEAD = b'{"type":"input_audio_buffer.append","audio":"'
_APPEND_TAIL = b'"}'
_COMMIT = b'{"type":"input_audio_buffer.commit"}'


class Dialect(abc.ABC):
    """Requests of a call as JSON text frames for one service. Stateless, shared between calls."""

    assistant_text: ClassVar[str]  # the content type of what the agent said, as text

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def decoder(self, *, secret: str = "") -> Decoder:
        """A reader for one session. `secret`, a service's key, does not come back in what the service says."""
        from bridge.realtime.decoder import Decoder  # it needs the names above

        return Decoder(self, secret=secret)

    @abc.abstractmethod
    def render(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """The `session` object of session.update, from the neutral form of session.py."""

    @abc.abstractmethod
    def response_fields(self, *, instructions: str) -> dict[str, Any]:
        """The `response` object of response.create; empty: the event goes without one."""

    def session_update(self, session: SessionPlan) -> bytes:
        """An error about it names `UPDATE_ID` (OpenAI, error: the `event_id` of the client event that caused it)."""
        fields = self.render(from_plan(session, self.profile))
        return frame({"event_id": UPDATE_ID, "type": "session.update", "session": fields})

    def keepalive(self) -> bytes:
        """The smallest frame that changes nothing."""
        return frame({"type": "session.update", "session": self.render({})})

    def append(self, audio: bytes) -> bytes:
        """Caller audio in the model's format. The hot path: once per telephone frame."""
        return _APPEND_HEAD + pybase64.b64encode(audio) + _APPEND_TAIL

    def encode(self, action: Action) -> tuple[bytes, ...]:
        """Frames for one request; none where the service cannot do it, or never knew the id."""
        match action:
            case RequestResponse(instructions=instructions):
                fields = self.response_fields(instructions=instructions)
                return (
                    frame({"type": "response.create", "response": fields} if fields else {"type": "response.create"}),
                )
            case CancelResponse(response_id=response_id):
                if not self.profile.can_cancel:
                    return ()
                if not response_id or response_id.startswith(MADE_UP):
                    return (frame({"type": "response.cancel"}),)
                return (frame({"type": "response.cancel", "response_id": response_id}),)
            case TruncateItem(item_id=item_id, content_index=content_index, audio_end_ms=audio_end_ms):
                if not self.profile.can_truncate or not _known(item_id):
                    return ()
                cut = {"item_id": item_id, "content_index": content_index, "audio_end_ms": max(0, int(audio_end_ms))}
                return (frame({"type": "conversation.item.truncate", **cut}),)
            case DeleteItem(item_id=item_id):
                if not self.profile.can_delete or not _known(item_id):
                    return ()
                return (frame({"type": "conversation.item.delete", "item_id": item_id}),)
            case TellModel(role=role, text=text):
                return (self._item(_message("user" if role == "caller" else "system", "input_text", text)),)
            case SubmitToolOutput(tool_call_id=tool_call_id, output=output):
                return (self._item({"type": "function_call_output", "call_id": tool_call_id, "output": output}),)
            case CommitCallerAudio():
                return (_COMMIT,)
            case _:
                raise AssertionError(f"{type(action).__name__} is not a request to a model")

    def history(self, items: Sequence[HistoryItem]) -> tuple[bytes, ...]:
        """The conversation as it was heard, for a new session; text only, as services refuse the agent's audio."""
        frames: list[bytes] = []
        for number, item in enumerate(items):
            match item.role:
                case "caller":
                    frames.append(self._item(_message("user", "input_text", item.text)))
                case "agent":
                    frames.append(self._item(_message("assistant", self.assistant_text, item.text)))
                case "note":
                    frames.append(self._item(_message("system", "input_text", item.text)))
                case "tool":
                    call_id = item.tool_call_id if _known(item.tool_call_id) else f"call_{number}"
                    call = {"type": "function_call", "call_id": call_id, "name": item.tool_name}
                    frames.append(self._item({**call, "arguments": item.tool_arguments or "{}"}))
                    frames.append(self._item({"type": "function_call_output", "call_id": call_id, "output": item.text}))
        return tuple(frames)

    @staticmethod
    def in_words(items: Sequence[HistoryItem]) -> str:
        """The same as a paragraph of instructions."""
        lines = ["The telephone call so far, as the caller heard it:"]
        for item in items:
            match item.role:
                case "caller":
                    lines.append(f"Caller: {item.text}")
                case "agent":
                    lines.append(f"You: {item.text}")
                case "note":
                    lines.append(f"Note: {item.text}")
                case "tool":
                    lines.append(f"Tool {item.tool_name}({item.tool_arguments}) answered: {item.text}")
        return "\n".join(lines)

    def cure(self, code: str, message: str = "") -> Cure:
        """What an error code means for us. Where the code says little, the message decides."""
        code = code.rsplit(".", 1)[-1]  # invalid_request_error.beta_api_shape_disabled
        cure = self.profile.errors.get(code) or _OWN_CODES.get(code)
        if cure is not None and cure != "note":
            return cure
        said = message[:1000].lower()
        for fragment, meaning in _FRAGMENTS:
            if fragment in said:
                return meaning
        return "note"

    def _item(self, item: dict[str, Any]) -> bytes:
        return frame({"type": "conversation.item.create", "item": item})


def frame(value: Any) -> bytes:
    """A JSON value as one text frame, UTF-8. Raises TypeError for what JSON does not know."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, from a tool or a file
        return msgspec.json.encode(scrub(value))


def _known(wire_id: str) -> bool:
    return bool(wire_id) and not wire_id.startswith(MADE_UP)


def _message(role: str, content_type: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": content_type, "text": text}]}
