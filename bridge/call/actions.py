"""Everything a call may ask of the world: requests, in the imperative.

The driver performs them in the order given, without awaiting anything in between. Audio to the caller is in the
carrier's format.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.errors import EndReason


class Action(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all requests."""


# ---------------------------------------------------------------- to the caller's leg


class PlayAudio(Action, frozen=True, tag=True, gc=False):
    audio: bytes  # at most 100 ms
    ms: float
    item_id: str = ""  # whose; empty: a clip of ours


class PlaceMark(Action, frozen=True, tag=True, gc=False):
    name: str  # "<epoch>.<n>"


class ClearPlayback(Action, frozen=True, tag=True, gc=False):
    """Empty the carrier's buffer, and whatever of ours still waits in the outbox; the transcoder forgets its state."""


class HangUp(Action, frozen=True, tag=True, gc=False):
    """End the call at the carrier: by REST where it is configured, else by closing the media socket."""


class Transfer(Action, frozen=True, tag=True, gc=False):
    """Connect the caller to somebody else: by REST where it is configured, else, or if asked to, by closing the media
    socket: the carrier then asks what comes next.
    """

    target: str
    by_closing: bool = False


# ---------------------------------------------------------------- to the model


class HistoryItem(msgspec.Struct, frozen=True, gc=False):
    """One item of the conversation as it was heard, to seed a new session with."""

    role: Literal["caller", "agent", "tool", "note"]
    text: str  # for "tool": the output
    tool_call_id: str = ""
    tool_name: str = ""
    tool_arguments: str = ""


class OpenModel(Action, frozen=True, tag=True, gc=False):
    """Open session number `session` with the plan's model service number `service`, seeded with what was said so far.

    If a session is in use, it stays in use: the new one is opened beside it, says `ModelReady` or `ModelLost`, and
    nothing else of it is told before a `SwitchModel` names it.
    """

    session: int
    service: int
    history: tuple[HistoryItem, ...] = ()
    in_words: bool = (
        False  # the history goes into the instructions: told as items it made the service answer in writing
    )


class SwitchModel(Action, frozen=True, tag=True, gc=False):
    """The session opened beside the one in use takes its place, after it was told what was said meanwhile."""

    session: int
    news: tuple[HistoryItem, ...] = ()


class CloseModel(Action, frozen=True, tag=True, gc=False):
    """Close every session of the call: the one in use, and one being opened."""


class SendCallerAudio(Action, frozen=True, tag=True, gc=False):
    audio: bytes


class SendSilence(Action, frozen=True, tag=True, gc=False):
    """Silence to the model: its voice activity detection counts audio time, not wall time."""

    ms: float


class CommitCallerAudio(Action, frozen=True, tag=True, gc=False):
    """End the caller's turn by hand."""


class RequestResponse(Action, frozen=True, tag=True, gc=False):
    instructions: str = ""  # for this response only; empty means the session's own


class CancelResponse(Action, frozen=True, tag=True, gc=False):
    response_id: str


class TruncateItem(Action, frozen=True, tag=True, gc=False):
    item_id: str
    content_index: int
    audio_end_ms: int


class DeleteItem(Action, frozen=True, tag=True, gc=False):
    item_id: str


class TellModel(Action, frozen=True, tag=True, gc=False):
    """Add a text message to the conversation: keys the caller pressed ("caller"), or a note from us ("note")."""

    role: Literal["caller", "note"]
    text: str


class ProbeModel(Action, frozen=True, tag=True, gc=False):
    """Ask the session in use for a sign of life: one that gives none within two seconds is lost."""


class SubmitToolOutput(Action, frozen=True, tag=True, gc=False):
    tool_call_id: str
    output: str


# ---------------------------------------------------------------- tools, records, the end


class RunTool(Action, frozen=True, tag=True, gc=False):
    tool_call_id: str
    name: str
    arguments: str


class AbandonTool(Action, frozen=True, tag=True, gc=False):
    tool_call_id: str


class Note(Action, frozen=True, tag=True, gc=False):
    """Something worth a log line and a count, and nothing else."""

    what: str
    detail: str = ""


class EndCall(Action, frozen=True, tag=True, gc=False):
    """The call is over: close both legs, end tools. Always the last action of a call."""

    reason: EndReason
