"""Everything a call remembers, as plain data: a snapshot is its encoding, and a resumed call is its decoding."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.call.actions import HistoryItem
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
    latest_at: float = 0.0  # it is not waited for the goodbye longer than this, however much is still said
    leaving: bool = False  # the carrier has been asked
    by_closing: bool = False  # and has refused: a transfer is tried the other way

    @property
    def at_a_limit(self) -> bool:
        return self.reason in (EndReason.MAX_DURATION, EndReason.TOKEN_LIMIT)


class State(msgspec.Struct):
    """All times are the call's own milliseconds: zero is its first fact."""

    ledger: Playout
    turns: Turns = msgspec.field(default_factory=Turns)
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    timers: Timers = msgspec.field(default_factory=Timers)
    transcript: Transcript = msgspec.field(default_factory=Transcript)

    due: float | None = None  # when to look again if nothing happens
    over: bool = False
    ending: Ending | None = None

    stream_id: str = ""
    last_frame_at: float | None = None
    pause_filled: bool = False  # silence was sent for the present pause of the caller's leg
    recent: bytearray = msgspec.field(default_factory=bytearray)  # the caller's last seconds, for a session to come
    unsent_bytes: int = 0  # at the end of `recent`: not yet given to the model
    turn_bytes: int | None = None  # at the end of `recent`: since the caller began to say what was not answered yet
    quiet_bytes: int = 0  # the last of them: since the caller came to an end, and waits for the answer
    replayed_ms: float = 0.0  # held audio the session in use was given at its beginning
    replay_until: float = 0.0  # what it tells until then may be of that
    replaying: bool = False  # the speech it reports began in that: the caller spoke, and may be silent now
    voice: bool = False  # while there is no session: the caller speaks, as far as we can hear ourselves
    voice_at: float | None = None  # when a voice was heard last of which the service said nothing
    digits: str = ""

    model: Literal["closed", "opening", "ready", "lost"] = "closed"
    session: int = 0  # of the session in use, or being opened
    opened: int = 0  # sessions ever asked for
    service: int = 0
    attempts: int = 0  # in a row that brought nothing
    missing_since: float = 0.0  # when the first of those began
    ready_at: float = 0.0  # when the session in use became so
    served: bool = False  # it has given an answer to its end
    brief: int = 0  # sessions in a row that were no help
    put_off: bool = False  # the service has asked us to wait once already
    tokens: int = 0  # billed so far
    failures: int = 0  # responses in a row that failed
    in_words: bool = False  # sessions are told the history in their instructions
    greeted: bool = False
    owes_answer: bool = False  # the session was lost while somebody waited to hear something
    untold: list[HistoryItem] = []  # happened since the session being opened was given its history
    next_session: int = 0  # being opened to take over from the present one; 0: none
    next_ready: bool = False
    next_limit_at: float = 0.0  # when its own time will be nearly up; 0: not known

    active_at: float = 0.0  # when somebody last did something
    idle_prompted: bool = False
    owed_since: float | None = None  # the caller waits to hear something
    waited_ms: float = 0.0  # for so long already, when the next wait is noticed
    progress_at: float = 0.0  # when the model last did something about it
    asked_at: float = 0.0  # when a response was last asked for
    asked_twice: bool = False
    fillers: int = 0  # clips played into the present wait

    @property
    def weighing(self) -> bool:
        """The caller speaks into the agent's words, and may be too brief to interrupt."""
        return self.timers.running("barge_in") and not self.replaying

    @property
    def goes_on(self) -> bool:
        """The caller is to hear more, be it a goodbye: the carrier has not been asked to take the call away."""
        return self.ending is None or not self.ending.leaving
