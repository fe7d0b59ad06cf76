"""What the parts of the core share while one fact is decided: the plan, the state, the time, the requests so far.

Each part is a module of plain functions that take the desk; `machine` says which fact goes to which. What they decide
they put into `out`, in the order in which it is to be done.
"""

from __future__ import annotations

from typing import Literal

from bridge.call import actions as do
from bridge.call.plan import CallPlan, ModelCapabilities, ToolSpec
from bridge.call.state import State

_MOST_UNTOLD = 64
_ENDED_MS = 500.0  # of silence kept behind what the caller said: more than a detector needs, with what follows
_BEGUN_MS = 1500.0  # and before the present: they may speak again, and it is not noticed yet


class Desk:
    __slots__ = (
        "at",
        "ledger",
        "out",
        "plan",
        "policies",
        "ring_bytes",
        "state",
        "timers",
        "tool_specs",
        "transcript",
        "turns",
    )

    def __init__(self, plan: CallPlan, state: State) -> None:
        self.plan = plan
        self.policies = plan.agent.policies
        self.tool_specs: dict[str, ToolSpec] = {spec.name: spec for spec in plan.session.tools}
        self.ring_bytes = int(self.policies.hold_caller_ms * plan.carrier.bytes_per_ms)
        self.state = state
        self.ledger = state.ledger
        self.turns = state.turns
        self.timers = state.timers
        self.transcript = state.transcript
        self.at = 0.0  # the call's own time
        self.out: list[do.Action] = []

    @property
    def model(self) -> ModelCapabilities:
        """What the service in use can do."""
        return self.plan.models[self.state.service]

    @property
    def model_is_ready(self) -> bool:
        return self.state.model == "ready"

    def ask(self, action: do.Action) -> None:
        self.out.append(action)

    def cancel(self, response_id: str) -> None:
        """A response is not wanted any more. A service that cannot be told so makes it to its end."""
        if response_id and self.model.can_cancel:
            self.out.append(do.CancelResponse(response_id))

    def note(self, what: str, detail: str = "") -> None:
        self.out.append(do.Note(what, detail))

    def after(self, name: str, ms: float) -> None:
        """Set a timer from now."""
        self.timers.set(name, self.at + ms)

    def play_clip(self, name: str) -> bool:
        """Put a clip of the agent's behind what is waiting. False: it has none of that name."""
        clip = self.plan.agent.clips.get(name)
        if not clip:
            return False
        self.ledger.receive_clip(clip)
        return True

    def tell_model(self, role: Literal["caller", "note"], text: str) -> None:
        """Add to the conversation: now, or as soon as the session being opened is there.

        A session that is still to be opened will find it in the history.
        """
        if self.state.model == "ready":
            self.out.append(do.TellModel(role, text))
        elif self.state.model == "opening" and len(self.state.untold) < _MOST_UNTOLD:
            self.state.untold.append(do.HistoryItem(role, text))

    def forget_oldest(self) -> None:
        """Of the caller's audio, to the ring's size: rather the silence in which they wait than what they said."""
        state = self.state
        if state.turn_bytes is not None and state.turn_bytes > self.ring_bytes:
            self.forget_silence()
        excess = len(state.recent) - self.ring_bytes
        if excess > 0:
            del state.recent[:excess]

    def forget_silence(self) -> None:
        """Enough of it is left to tell that the caller came to an end, and what they may just have begun to say."""
        state = self.state
        quiet, ended = min(state.quiet_bytes, len(state.recent)), self.ledger.bytes_in(_ENDED_MS)
        spare = quiet - ended - self.ledger.bytes_in(_BEGUN_MS)
        if state.turn_bytes is None or spare <= 0:
            return
        begin, after = len(state.recent) - quiet + ended, quiet - ended - spare
        del state.recent[begin : begin + spare]
        state.turn_bytes -= spare
        state.quiet_bytes = quiet - spare
        state.unsent_bytes = max(min(state.unsent_bytes, after), state.unsent_bytes - spare)

    def active(self) -> None:
        """Somebody did something: the idle clock starts anew."""
        self.state.active_at = self.at
