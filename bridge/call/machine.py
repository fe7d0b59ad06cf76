"""The call itself: facts and the time go in, requests come out.

`handle` is total: whatever a peer may have sent, it returns a list of requests. A broken invariant is an
AssertionError and ends this call only. Between deciding and performing nothing is awaited, so what is decided here is
still true when it is performed.

Which fact is decided where:

    leg         the caller's stream, audio, keys and marks
    bargein     the caller's speech and turns; interruptions
    responses   the model's responses, audio and words; asking for them; its complaints
    toolcalls   tools asked for, answered, timed out
    sessions    the model's sessions: opened, lost, rolled over
    ending      hang-up, transfer, goodbye, a stream that is lost, the end
    limits      how long a call may last; the warning before
    silence     what happens when nothing happens

They share a `Desk` and keep what they remember in the `State`. Two of its parts keep laws of their own: `playout` (the
heard-audio ledger, with its `reckoning`) and `turns`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.call import actions as do
from bridge.call import bargein, ending, leg, limits, responses, sessions, silence, snapshot, toolcalls
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.plan import CallPlan
from bridge.call.playout import open_ledger
from bridge.call.state import State

Actions = list[do.Action]

_LEAST_MS = 1.0  # a deadline that was handled moves by at least this


class Call:
    """One call. Times given are milliseconds on the caller of `handle`'s monotonic clock."""

    def __init__(self, plan: CallPlan, now: float, *, state: State | None = None, elapsed: float = 0.0) -> None:
        self.plan = plan
        policies = plan.agent.policies
        self.state = state or State(
            ledger=open_ledger(lead_ms=policies.lead_ms, slice_ms=policies.slice_ms, carrier=plan.carrier)
        )
        self._desk = Desk(plan, self.state)
        self._base = now - elapsed

    # ------------------------------------------------------------ the contract

    @property
    def over(self) -> bool:
        """Becomes true once; from then on `handle` returns nothing."""
        return self.state.over

    def elapsed(self, now: float) -> float:
        """The call's own time: milliseconds since its first fact."""
        return now - self._base

    def deadline(self) -> float | None:
        """If nothing happens until then, give a `DeadlineReached`."""
        due = self.state.due
        return None if due is None else due + self._base

    def handle(self, event: ev.Event, now: float) -> Actions:
        """Take one fact; return what is to be done, in order."""
        state = self.state
        if state.over:
            return []
        desk = self._desk
        desk.at = at = now - self._base
        out: Actions = []
        desk.out = out
        kind = type(event)
        due = state.due
        if due is not None and due <= at:
            self._deadlines(desk)
            if self.over:
                state.due = None
                return out
        elif kind is ev.CallerSpoke:  # the frame path: nothing else can have changed
            leg.caller_spoke(desk, event)  # type: ignore[arg-type]  # its kind was just looked at
            return out
        elif kind in _MERE_WORDS:
            _FACTS[kind](desk, event)
            return out
        if kind is not ev.DeadlineReached:
            decide = _FACTS.get(kind)
            assert decide is not None, f"{kind.__name__} is not a fact a call knows"
            decide(desk, event)
            self._go_on(desk)
        self._rearm(at)
        return out

    def snapshot(self, now: float) -> bytes:
        """All of the call but its plan, as JSON."""
        return snapshot.encode(self.plan.call_id, self.elapsed(now), self.state)

    @classmethod
    def resume(cls, taken: bytes, plan: CallPlan, now: float) -> Call:
        """The call a snapshot was taken of, on another clock. Raises UsageError for what is no snapshot of it."""
        elapsed, state = snapshot.decode(taken, plan.call_id)
        return cls(plan, now, state=state, elapsed=elapsed)

    # ------------------------------------------------------------ inside

    def _deadlines(self, desk: Desk) -> None:
        for name in desk.timers.take_due(desk.at):
            if name.startswith(toolcalls.TIMER):
                toolcalls.timed_out(desk, name.removeprefix(toolcalls.TIMER))
            else:
                _TIMERS[name](desk)
            self._go_on(desk)
            if self.state.over:
                return
        self._go_on(desk)

    def _go_on(self, desk: Desk) -> None:
        """What may have become possible: play, ask, leave."""
        if self.state.over:
            return
        heard_at = self.state.last_frame_at
        desk.ledger.release(desk.at, desk.out, quiet_ms=0.0 if heard_at is None else desk.at - heard_at)
        responses.settle(desk)
        if desk.turns.wishing:
            responses.grant(desk)
        if self.state.next_ready:
            sessions.switch_if_due(desk)
        if self.state.ending is not None:
            ending.leave_if_heard(desk)
        silence.watch(desk)

    def _rearm(self, at: float) -> None:
        if self.state.over:
            self.state.due = None
            return
        due = self.state.timers.due()
        release = self.state.ledger.next_release(at)
        if due is None or (release is not None and release < due):
            due = release
        self.state.due = due if due is None or due > at else at + _LEAST_MS


_FACTS: dict[type[ev.Event], Callable[[Desk, Any], None]] = {
    ev.CallRouted: sessions.routed,
    ev.StreamStarted: leg.stream_started,
    ev.StreamOffered: ending.stream_offered,
    ev.StreamRefused: ending.stream_refused,
    ev.CallerSpoke: leg.caller_spoke,
    ev.CallerPressed: leg.caller_pressed,
    ev.MarkReturned: leg.mark_returned,
    ev.CallerLeft: ending.caller_left,
    ev.PhoneStalled: ending.phone_stalled,
    ev.CarrierMisbehaved: ending.carrier_misbehaved,
    ev.ModelReady: sessions.ready,
    ev.ModelLost: sessions.lost,
    ev.ResponseStarted: responses.started,
    ev.ModelSpoke: responses.spoke,
    ev.ModelSaid: responses.said,
    ev.ItemTranscribed: responses.item_transcribed,
    ev.WordTimed: responses.word_timed,
    ev.ItemSpoken: responses.item_spoken,
    ev.ResponseEnded: responses.ended,
    ev.CallerSpeechStarted: bargein.speech_started,
    ev.CallerSpeechStopped: bargein.speech_stopped,
    ev.CallerTurnEnded: bargein.turn_ended,
    ev.CallerTranscribed: bargein.transcribed,
    ev.CallerQuiet: bargein.caller_quiet,
    ev.CallerUnheard: bargein.caller_unheard,
    ev.CallerPersists: bargein.caller_persists,
    ev.ToolRequested: toolcalls.requested,
    ev.ModelComplained: responses.complained,
    ev.ToolFinished: toolcalls.finished,
    ev.HangUpWished: ending.hang_up_wished,
    ev.TransferWished: ending.transfer_wished,
    ev.HandedOver: ending.handed_over,
}
# They come many times a second and are only written down: nothing becomes possible by them.
_MERE_WORDS: frozenset[type[ev.Event]] = frozenset({ev.ModelSaid, ev.WordTimed})
_TIMERS: dict[str, Callable[[Desk], None]] = {
    "stream_wait": ending.on_stream_wait,
    "first_media": ending.on_first_media,
    "barge_in": bargein.on_barge_in,
    "voice": bargein.on_voice,
    "long_speech": bargein.on_long_speech,
    "caller_pause": leg.on_caller_pause,
    "digits": leg.on_digits,
    "dead_air": silence.on_dead_air,
    "no_answer": silence.on_no_answer,
    "idle": silence.on_idle,
    "ask_again": responses.on_ask_again,
    "model_ready": sessions.on_model_ready,
    "open_model": sessions.on_open_model,
    "session_limit": sessions.on_session_limit,
    "next_model_ready": sessions.on_next_model_ready,
    "limit_warning": limits.on_limit_warning,
    "limit": limits.on_limit,
    "goodbye": ending.on_goodbye,
    "stream_back": ending.on_stream_back,
    "unexpected": ending.on_unexpected,
    "leaving": ending.on_leaving,
}
