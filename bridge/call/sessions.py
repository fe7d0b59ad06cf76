"""The model's sessions: opened, lost, opened again, handed from one service to the next, rolled over in time.

The caller's leg stays whatever happens here. What the caller says meanwhile is kept and given to the next session,
which is told the conversation as it was heard. A session whose time is nearly up is succeeded by one opened beside
it, which takes over between two turns, when everything said has been heard.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal

from bridge.call import actions as do
from bridge.call import bargein, ending
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.toolcalls import STILL_RUNNING
from bridge.call.turns import Wish
from bridge.errors import EndReason

RESUME = (
    "The connection was interrupted for a moment. Go on from the last words the caller heard, "
    "answer what they said meanwhile, do not repeat what was said."
)
_TAIL_MS = 500.0  # a detector may not yet have told of speech that began this long ago
_LIMIT_MARGIN_MS = 120_000.0  # a session is succeeded this long before its end, or after four fifths of a short life
_ROLL_AGAIN_MS = 10_000.0
_OUTAGE_MS = 15_000.0  # no session for this long: the next service's turn, or the apology
_PATIENCE_MS = 5000.0  # the last service is tried for at least this long, and for no longer before the first word
_STEADY_MS = 10_000.0  # a session lost sooner while somebody waited, without an answer to its end, was no help
_MOMENT_MS = 2000.0  # nor was one that went as soon as it came
_MOST_BRIEF = 6  # such sessions in a row; the next waits longer each time
_REPLAY_MS = 3000.0  # in this time a session has made out what is in the held audio
_LONGEST_WAIT_S = 2.0  # of what a service asks us to wait before the next attempt

_OF_A_SESSION = ("caller_pause", "long_speech", "barge_in", "ask_again")  # timers that end with it

Cure = Literal["retry", "rotate", "fatal"]


# ---------------------------------------------------------------- opening


def routed(desk: Desk, event: ev.CallRouted) -> None:
    if desk.state.opened:
        return
    desk.after("stream_wait", desk.policies.stream_wait_s * 1000)
    desk.state.missing_since = desk.at
    _open(desk)


def _open(desk: Desk) -> None:
    state = desk.state
    state.opened += 1
    state.attempts += 1
    state.session, state.model = state.opened, "opening"
    state.untold.clear()
    desk.timers.stop("open_model")
    desk.after("model_ready", desk.policies.model_ready_s * 1000)
    desk.ask(do.OpenModel(state.session, state.service, desk.transcript.history(STILL_RUNNING), state.in_words))


def on_open_model(desk: Desk) -> None:
    _open(desk)


def ready(desk: Desk, event: ev.ModelReady) -> None:
    state = desk.state
    limit_at = _limit_at(desk, event.max_session_s)
    if event.session == state.next_session and state.next_session:
        state.next_ready, state.next_limit_at = True, limit_at
        desk.timers.stop("next_model_ready")
        return
    if event.session != state.session or state.model != "opening":
        return
    if state.voice:
        state.voice_at = desk.at
    state.model, state.ready_at, state.served, state.voice = "ready", desk.at, False, False
    state.progress_at, state.asked_twice, state.put_off = desk.at, False, False
    desk.timers.stop("model_ready", "voice")
    _keep_limit(desk, limit_at)
    for item in state.untold:
        desk.ask(do.TellModel("caller" if item.role == "caller" else "note", item.text))
    state.untold.clear()
    _give_held_audio(desk)
    _say_something(desk)


def _limit_at(desk: Desk, max_session_s: float | None) -> float:
    lives = [s for s in (max_session_s, desk.model.max_session_s) if s is not None and isfinite(s) and s > 0]
    if not lives:
        return 0.0
    life_ms = min(lives) * 1000
    return desk.at + max(life_ms - _LIMIT_MARGIN_MS, life_ms * 0.8)


def _keep_limit(desk: Desk, limit_at: float) -> None:
    desk.timers.stop("session_limit")
    if limit_at:
        desk.timers.set("session_limit", limit_at)


def _give_held_audio(desk: Desk) -> None:
    """What the caller said while nobody listened; if a whole turn of theirs is in it, it will be answered."""
    state, turns = desk.state, desk.turns
    desk.forget_oldest()
    unsent, state.unsent_bytes = min(state.unsent_bytes, len(state.recent)), 0
    if unsent:
        desk.ask(do.SendCallerAudio(bytes(state.recent[-unsent:])))
        state.replayed_ms, state.replay_until = unsent / desk.ledger.bytes_per_ms, desk.at + _REPLAY_MS
    if state.turn_bytes and state.owes_answer and not turns.caller_speaking:
        if desk.plan.session.turn_detection is None:
            desk.ask(do.CommitCallerAudio())
            bargein.want_answer(desk)
        elif turns.wish is None:
            turns.expecting = True  # that it hears the end of a turn in it, whoever begins the answer then


def _say_something(desk: Desk) -> None:
    state, turns = desk.state, desk.turns
    if ending.unanswered(desk):
        return
    if not state.greeted:
        state.greeted = True
        answering = turns.wish is not None and turns.wish.why == "answer"
        if desk.plan.agent.greeting and not answering:
            turns.want(Wish("greeting", desk.plan.agent.greeting, protected=desk.policies.greeting_protected))
    elif state.owes_answer and turns.wish is None and not turns.expecting and not state.tools.open:
        turns.want(Wish("resume", RESUME))


# ---------------------------------------------------------------- losing


def lost(desk: Desk, event: ev.ModelLost) -> None:
    state = desk.state
    if state.next_session and event.session == state.next_session:
        desk.note("next_model_lost", event.why)
        state.next_session, state.next_ready = 0, False
        desk.timers.stop("next_model_ready")
        if event.cure != "fatal":
            desk.after("session_limit", _ROLL_AGAIN_MS)
    elif event.session == state.session:
        lose(desk, event.why, event.cure, retry_after_s=event.retry_after_s, silent_ms=event.silent_ms)


def lose(
    desk: Desk,
    why: str,
    cure: Cure,
    *,
    retry_after_s: float | None = None,
    silent_ms: float = 0.0,
    mute: bool = False,
) -> None:
    """The session in use, or being opened, is gone or of no more use; nothing came from it for the last `silent_ms`.

    `mute`: it answered with nothing, which was no help however long it lived.
    """
    state = desk.state
    if state.model in ("closed", "lost"):
        return
    desk.note("model_lost", why)
    if state.model == "ready":
        lived_ms = desk.at - state.ready_at
        if not state.attempts or state.owed_since is None or lived_ms >= _STEADY_MS:
            state.attempts, state.missing_since = 1, desk.at  # else it is one more that left the caller waiting
        brief = lived_ms < (_STEADY_MS if _busy(desk) else _MOMENT_MS) and not state.served
        state.brief = state.brief + 1 if brief or mute else 0
        ending.goodbye_lost(desk)
        _forget(desk, silent_ms)
        if state.next_ready:
            _switch(desk)
            _give_held_audio(desk)
            _say_something(desk)
            return
        desk.ask(do.CloseModel())
    state.next_session, state.next_ready = 0, False
    state.model = "lost"
    desk.timers.stop("model_ready", "session_limit", "next_model_ready", *_OF_A_SESSION)
    if state.ending is not None and not ending.goodbye_owed(desk):
        return  # what was received is heard, then the call is over
    if cure == "fatal" or _given_up(desk, retry_after_s):
        _next_service(desk, cure)
        return
    waits = desk.policies.model_retry_s
    tries = max(state.attempts, state.brief - 1)  # once may be chance
    at_once = cure == "rotate" and tries <= 1
    wait_s = 0.0 if at_once else waits[min(tries, len(waits)) - 1]
    if retry_after_s is not None:
        state.put_off, wait_s = True, max(wait_s, min(retry_after_s, _LONGEST_WAIT_S))
    if wait_s <= 0:
        _open(desk)
    else:
        desk.after("open_model", wait_s * 1000)


def _given_up(desk: Desk, retry_after_s: float | None) -> bool:
    """It was tried often and long enough; one that says when to come back is asked once more, if that is soon."""
    state = desk.state
    is_last = state.service + 1 == len(desk.plan.models)
    if retry_after_s is not None and (state.put_off or (retry_after_s > _LONGEST_WAIT_S and not is_last)):
        return True
    if state.brief > _MOST_BRIEF:
        return True
    missing_ms = desk.at - state.missing_since
    if missing_ms >= (_OUTAGE_MS if state.greeted else _PATIENCE_MS):
        return True
    return state.attempts > len(desk.policies.model_retry_s) and (not is_last or missing_ms >= _PATIENCE_MS)


def _busy(desk: Desk) -> bool:
    """Somebody speaks, or waits to hear something."""
    turns = desk.turns
    made = turns.being_made or turns.asked is not None or bool(desk.state.tools.open)
    return made or turns.expecting or turns.caller_speaking


def _forget(desk: Desk, silent_ms: float = 0.0) -> None:
    """Nothing of the old session is spoken of again; what it owed the caller is remembered.

    What the caller said since it last gave a sign of life is taken as not heard.
    """
    state, turns = desk.state, desk.turns
    busy = _busy(desk)
    silent_ms = min(max(0.0, silent_ms), desk.policies.hold_caller_ms)
    tail = desk.ledger.bytes_in(_TAIL_MS + silent_ms)
    if state.voice_at is not None and desk.at - state.voice_at < silent_ms:
        if state.turn_bytes is None:
            state.quiet_bytes = 0
        busy, state.turn_bytes = True, max(state.turn_bytes or 0, min(tail, len(state.recent)))
    state.owes_answer = state.owes_answer or busy
    if state.tools.owed and not state.tools.open:
        state.tools.owed, state.owes_answer = False, True  # the next session finds the answers in its history
    state.unsent_bytes = max(state.turn_bytes or 0, tail)
    if state.turn_bytes is not None:
        desk.transcript.caller_is_heard_again()
    if turns.caller_speaking:
        bargein.hear_out(desk)
    for item in desk.ledger.items.values():
        desk.transcript.agent_heard(item, item.received_ms, cut=False)
    state.replaying = False
    turns.forget_session()
    state.tools.disown()
    desk.ledger.disown()
    desk.transcript.disown()


def _next_service(desk: Desk, cure: Cure) -> None:
    state, agent = desk.state, desk.plan.agent
    if state.service + 1 < len(desk.plan.models):
        state.service += 1
        state.attempts, state.brief, state.put_off, state.missing_since = 0, 0, False, desk.at
        desk.note("failover", desk.model.name)
        _open(desk)
        return
    if state.ending is not None:
        return  # without the goodbye that a session was to say
    desk.play_clip("apology")
    desk.play_clip(agent.fallback_message)
    reason = EndReason.MODEL_REFUSED if cure == "fatal" else EndReason.MODEL_UNAVAILABLE
    if agent.fallback == "transfer" and agent.fallback_target:
        ending.begin(desk, "transfer", reason, agent.fallback_target)
    else:
        ending.begin(desk, "hang_up", reason)


def on_model_ready(desk: Desk) -> None:
    lose(desk, "no session in time", "retry")


# ---------------------------------------------------------------- rolling over


def on_session_limit(desk: Desk) -> None:
    """Its time is nearly up: open the next one beside it."""
    state = desk.state
    if state.model != "ready" or state.next_session:
        return
    if state.ending is not None:  # the caller may take it back
        desk.after("session_limit", _ROLL_AGAIN_MS)
        return
    state.opened += 1
    state.next_session, state.next_ready = state.opened, False
    desk.after("next_model_ready", desk.policies.model_ready_s * 1000)
    history = desk.transcript.settled_history(STILL_RUNNING)
    desk.ask(do.OpenModel(state.next_session, state.service, history, state.in_words))


def on_next_model_ready(desk: Desk) -> None:
    lost(desk, ev.ModelLost(desk.state.next_session, "no session in time", "retry"))


def switch_if_due(desk: Desk) -> None:
    """Between two turns, when all that was said has been heard, the next session takes over."""
    state, turns = desk.state, desk.turns
    if not state.next_ready or state.ending is not None or not turns.floor_is_free or turns.wishing:
        return
    if state.tools.open or desk.ledger.items:
        return
    _forget(desk)
    _switch(desk)
    _give_held_audio(desk)


def _switch(desk: Desk) -> None:
    state = desk.state
    news = desk.transcript.untold_history(STILL_RUNNING)
    desk.ask(do.SwitchModel(state.next_session, news))
    state.session, state.model, state.ready_at, state.served = state.next_session, "ready", desk.at, False
    state.next_session, state.next_ready, state.attempts, state.brief, state.voice = 0, False, 0, 0, False
    desk.timers.stop("voice", *_OF_A_SESSION)
    _keep_limit(desk, state.next_limit_at)
