"""Everything a call remembers, as plain data: a snapshot is its encoding, and a resumed call is its decoding."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.call.playout import Playout
from bridge.call.timers import Timers
from bridge.call.toolcalls import ToolCalls
from bridge.call.transcript import Transcript
from bridge.call.turns import Turns
from bridge.errors import EndReason


class Ending(msgspec.Struct):
    """The call is to end once what is being said has been heard."""

    what: Literal["hang_up", "transfer"]
    reason: EndReason
    target: str = ""
    leaving: bool = False  # the carrier has been asked


class State(msgspec.Struct):
    """All times are the call's own milliseconds: zero is its first fact."""

    ledger: Playout
    turns: Turns = msgspec.field(default_factory=Turns)
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    timers: Timers = msgspec.field(default_factory=Timers)
    transcript: Transcript = msgspec.field(default_factory=Transcript)

    over: bool = False
    reason: EndReason | None = None
    ending: Ending | None = None
    limit_warned: bool = False

    stream_id: str = ""
    last_frame_at: float = 0.0
    caller_quiet_filled: bool = False  # silence was sent for the present pause of the caller's leg

    model: Literal["closed", "opening", "ready", "lost"] = "closed"
    session: int = 0
    service: int = 0
    attempts: int = 0  # in a row that brought nothing
    failures: int = 0  # responses in a row that failed
    greeted: bool = False
    owes_answer: bool = False  # the session was lost while somebody waited to hear something

    recent: bytearray = msgspec.field(default_factory=bytearray)  # the caller's last seconds, for a session to come
    unsent_ms: float = 0.0  # at the end of `recent`: not yet given to the model
    speech_ms: float = 0.0  # at the end of `recent`: since the caller began to speak
    overheard: bool = False  # the caller's present speech began while the agent could not be interrupted

    active_at: float = 0.0  # when somebody last did something
    idle_prompted: bool = False
    digits: str = ""
