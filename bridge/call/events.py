"""Everything that can happen to a call: facts, in the past tense.

Facts come from the caller's leg (a carrier), from the model, from tools, from the operator, and from time. They are
small frozen values; audio in them is opaque bytes *in the carrier's format* with its length in milliseconds. Unknown
things peers say never become facts here: the dialects drop and count them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all facts. The tag is the class's name, so a journal line reads as what happened."""


class CallRouted(Event, frozen=True, tag=True, gc=False):
    """The webhook was answered with this call's plan; the carrier will open its stream. Always the first fact."""


# ---------------------------------------------------------------- the caller's leg


class StreamStarted(Event, frozen=True, tag=True, gc=False):
    """The carrier opened its media stream and proved who it is. A second one replaces the first."""

    stream_id: str


class StreamOffered(Event, frozen=True, tag=True, gc=False):
    """The carrier asked what comes after its stream, and was given the way to another one."""


class StreamRefused(Event, frozen=True, tag=True, gc=False):
    """The carrier asked what comes after its stream, and is given no other one: it has had too many."""


class CallerSpoke(Event, frozen=True, tag=True, gc=False):
    """Audio from the caller (speech or not), gaps already filled with silence."""

    audio: bytes
    ms: float


class CallerPressed(Event, frozen=True, tag=True, gc=False):
    digit: str  # one of 0-9 * # A-D


class MarkReturned(Event, frozen=True, tag=True, gc=False):
    """The carrier returned a mark: its audio was played, or cleared (Twilio does not say which)."""

    name: str


class CallerLeft(Event, frozen=True, tag=True, gc=False):
    """The caller's leg is over."""

    how: Literal["stop", "closed", "status"]  # the carrier's word, a bare socket close, a REST status


class PhoneStalled(Event, frozen=True, tag=True, gc=False):
    """The carrier stopped reading: our outbox to it is full."""


class CarrierMisbehaved(Event, frozen=True, tag=True, gc=False):
    """The carrier broke its protocol in a way that cannot be ignored."""

    what: str


# ---------------------------------------------------------------- the model


class ModelReady(Event, frozen=True, tag=True, gc=False):
    """A session is open and has confirmed its configuration. `session` counts our attempts (1 is the first)."""

    session: int
    max_session_s: float | None = None  # what the service said of this session's life, if it said anything


class ModelLost(Event, frozen=True, tag=True, gc=False):
    """No session could be had, or the one we had is gone. Facts of a session older than this are never delivered."""

    session: int
    why: str
    cure: Literal["retry", "rotate", "fatal"]  # try again; try a new session at once; do not try again
    retry_after_s: float | None = None
    silent_ms: float = 0.0  # for so long before that nothing had come from the session


class ResponseStarted(Event, frozen=True, tag=True, gc=False):
    """The service named a response. Out-of-band ones (conversation "none") are never played."""

    response_id: str
    out_of_band: bool = False


class ModelSpoke(Event, frozen=True, tag=True, gc=False):
    """Audio of one item of a response, already in the carrier's format."""

    response_id: str
    item_id: str
    content_index: int
    audio: bytes
    ms: float


class ModelSaid(Event, frozen=True, tag=True, gc=False):
    """Words of what is being spoken; the text runs ahead of the audio."""

    response_id: str
    item_id: str
    text: str


class ItemSpoken(Event, frozen=True, tag=True, gc=False):
    """All audio of this item has been delivered to us."""

    response_id: str
    item_id: str


class ItemTranscribed(Event, frozen=True, tag=True, gc=False):
    """The whole transcript of one spoken item, replacing what `ModelSaid` brought."""

    response_id: str
    item_id: str
    text: str


class WordTimed(Event, frozen=True, tag=True, gc=False):
    """The service told at which audio position a word begins (some do; most do not)."""

    item_id: str
    text: str
    at_ms: float


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one response as the service billed them."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cached_tokens: int = 0


class ResponseEnded(Event, frozen=True, tag=True, gc=False):
    """The response is over, however it went. Comes exactly once per response from a well-behaved service."""

    response_id: str
    status: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: str = ""  # turn_detected, client_cancelled, max_output_tokens, content_filter, an error code
    message: str = ""
    usage: Usage | None = None
    cure: Literal["", "rotate", "fatal"] = ""  # for a failed one: more than asking once more is needed


class CallerSpeechStarted(Event, frozen=True, tag=True, gc=False):
    """The service's voice activity detection heard the caller begin. `item_id` will be the caller's item."""

    item_id: str = ""
    at_ms: float = 0.0  # position in the audio we appended, in ms


class CallerSpeechStopped(Event, frozen=True, tag=True, gc=False):
    item_id: str = ""
    at_ms: float = 0.0


class CallerQuiet(Event, frozen=True, tag=True, gc=False):
    """Our own detector has heard no voice on the caller's leg for long, whatever the service's thinks it hears."""


class CallerUnheard(Event, frozen=True, tag=True, gc=False):
    """Our own detector hears a voice on the caller's leg, of which the service, if there is one, has said nothing."""


class CallerPersists(Event, frozen=True, tag=True, gc=False):
    """Our own detector has heard the caller speak for the agent's `after_ms`, pauses not counted."""


class CallerTurnEnded(Event, frozen=True, tag=True, gc=False):
    """The caller's audio became an item of the conversation (committed)."""

    item_id: str
    previous_item_id: str = ""


class CallerTranscribed(Event, frozen=True, tag=True, gc=False):
    """What the caller said; may come long after the answer began. Empty text: it could not be transcribed."""

    item_id: str
    text: str


class ToolRequested(Event, frozen=True, tag=True, gc=False):
    """The model asks for a tool. `arguments` is JSON text as sent, not yet checked."""

    response_id: str
    item_id: str
    tool_call_id: str
    name: str
    arguments: str


class ModelComplained(Event, frozen=True, tag=True, gc=False):
    """An in-band error of the service, judged by its dialect."""

    cure: Literal[
        "ignore",  # harmless: cancel without response, truncate too long, item gone
        "wait",  # a response is already active: ask again after it ends
        "note",  # unknown or about one request of ours; the session goes on
        "rotate",  # this session is over or useless: open another
        "fatal",  # key, quota, model: another attempt will fail too
    ]
    code: str
    message: str = ""


# ---------------------------------------------------------------- tools, operator, time


class ToolFinished(Event, frozen=True, tag=True, gc=False):
    tool_call_id: str
    output: str  # for the model: JSON, or a text of the tool's own
    failed: bool = False


class HangUpWished(Event, frozen=True, tag=True, gc=False):
    """A tool or the operator wants the call ended, after what is being said has been heard."""

    by: Literal["agent", "operator", "drain"]


class TransferWished(Event, frozen=True, tag=True, gc=False):
    """A tool wants the caller handed on, after what is being said has been heard."""

    target: str


class HandedOver(Event, frozen=True, tag=True, gc=False):
    """The carrier answered a HangUp or Transfer of ours."""

    what: Literal["hang_up", "transfer"]
    ok: bool
    detail: str = ""


class DeadlineReached(Event, frozen=True, tag=True, gc=False):
    """The time `Call.deadline()` named has come."""


AnyEvent = (
    CallRouted
    | StreamStarted
    | StreamOffered
    | StreamRefused
    | CallerSpoke
    | CallerPressed
    | MarkReturned
    | CallerLeft
    | PhoneStalled
    | CarrierMisbehaved
    | ModelReady
    | ModelLost
    | ResponseStarted
    | ModelSpoke
    | ModelSaid
    | ItemSpoken
    | ItemTranscribed
    | WordTimed
    | ResponseEnded
    | CallerSpeechStarted
    | CallerSpeechStopped
    | CallerQuiet
    | CallerUnheard
    | CallerPersists
    | CallerTurnEnded
    | CallerTranscribed
    | ToolRequested
    | ModelComplained
    | ToolFinished
    | HangUpWished
    | TransferWished
    | HandedOver
    | DeadlineReached
)
