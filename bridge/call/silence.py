"""Silence, watched: dead air while the caller is owed something, a model that does not answer, a caller who is gone.

These timers are not moved by every piece of audio: each looks, when it is due, at what happened since, and moves
itself on.
"""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import ending, sessions
from bridge.call.desk import Desk
from bridge.call.turns import Wish
from bridge.errors import EndReason

_FILLER_AGAIN_MS = 2500.0
_STEP_MS = 20.0  # the least a watch moves on by


def _owed(desk: Desk) -> bool:
    """The caller waits to hear something."""
    state, turns = desk.state, desk.turns
    if not state.stream_id or state.voice or state.ending is not None:
        return False
    if turns.caller_speaking:
        return state.replaying
    if turns.expecting or turns.asked is not None or turns.wish is not None or state.tools.open:
        return True
    if state.model == "ready":
        return turns.being_made
    return state.owes_answer or (not state.greeted and bool(desk.plan.agent.greeting))


def watch(desk: Desk) -> None:
    """Begin to wait with the caller, or stop."""
    state = desk.state
    if not _owed(desk):
        if state.owed_since is not None:
            state.owed_since = None
            desk.timers.stop("dead_air", "no_answer")
        return
    if state.owed_since is None:
        state.owed_since, state.fillers, state.asked_twice = desk.at - state.waited_ms, 0, False
        desk.after("dead_air", _patience_ms(desk) - state.waited_ms)
        state.waited_ms = 0.0
        desk.after("no_answer", desk.policies.answer_retry_s * 1000)
    elif state.fillers:
        _not_later(desk)


def _not_later(desk: Desk) -> None:
    """A clip that was cut short is followed as soon as one that came to its end."""
    latest = max(desk.ledger.silent_at(desk.at), desk.at) + _FILLER_AGAIN_MS
    if desk.timers.at.get("dead_air", latest) > latest:
        desk.timers.set("dead_air", latest)


def _patience_ms(desk: Desk) -> float:
    if desk.state.fillers:
        return _FILLER_AGAIN_MS
    policies = desk.policies
    patience_s = policies.answer_filler_s if desk.state.model == "ready" else policies.filler_after_s
    return max(patience_s * 1000, _STEP_MS)


def on_dead_air(desk: Desk) -> None:
    """Something is owed to the caller and nothing is heard: a clip says that somebody is still there."""
    state = desk.state
    if state.owed_since is None:
        return
    due_at = max(state.owed_since, desk.ledger.silent_at(desk.at)) + _patience_ms(desk)
    if desk.at < due_at:
        desk.timers.set("dead_air", due_at)
        return
    if desk.turns.being_made and desk.turns.spoke and state.fillers:
        desk.after("dead_air", _FILLER_AGAIN_MS)
        return  # one is enough in mid-sentence
    state.fillers += 1
    desk.note("dead_air")
    if state.model == "ready" and not state.tools.open:
        desk.ask(do.ProbeModel())
    clips = [desk.tool_specs[call.name].filler for call in state.tools.open.values() if call.name in desk.tool_specs]
    for name in (*clips[:1], "filler"):
        if name and desk.play_clip(name):
            break
    desk.timers.set("dead_air", max(desk.ledger.silent_at(desk.at), desk.at) + _FILLER_AGAIN_MS)


def on_no_answer(desk: Desk) -> None:
    """The service was asked, or should have begun by itself, and nothing came: ask again, then try another session.

    One that has named its response is at work on it, and is not asked again: it would only begin anew.
    """
    state, turns, policies = desk.state, desk.turns, desk.policies
    if state.owed_since is None:
        return
    retry_ms, rotate_ms = max(policies.answer_retry_s * 1000, _STEP_MS), policies.answer_rotate_s * 1000
    waiting = state.model == "ready" and (turns.expecting or turns.responding)
    since = max(state.progress_at, state.owed_since)
    if desk.ledger.items:  # it has spoken, and that is still being heard
        since = max(since, desk.ledger.silent_at(desk.at))
    at_work = turns.being_made and not turns.spoke
    if at_work:
        since = max(since, state.asked_at)
    patience_ms = max(retry_ms, rotate_ms) if at_work else retry_ms
    if not waiting or desk.at < since + patience_ms:
        desk.timers.set("no_answer", max(since, desk.at if not waiting else since) + patience_ms)
        return
    if at_work or (desk.at >= since + rotate_ms and state.asked_twice):
        state.owes_answer = True
        sessions.lose(desk, "no answer came", "rotate")
        desk.after("no_answer", retry_ms)
        return
    if not state.asked_twice:
        _ask_again(desk)
    desk.timers.set("no_answer", max(since + rotate_ms, desk.at + _STEP_MS))


def _ask_again(desk: Desk) -> None:
    turns = desk.turns
    desk.note("answer_missing", "asking again")
    desk.state.asked_twice = True
    asked, spoken_over, cut_short = turns.asked, turns.doomed or turns.expecting, turns.being_made
    desk.cancel(turns.give_up())
    if asked is not None and asked.again:
        turns.want(asked)
    if cut_short:
        turns.want(Wish("resume", sessions.RESUME))
    elif turns.wish is None:  # what the caller has said since we asked comes before what we asked for
        turns.want(Wish("answer", must=False) if asked is None or spoken_over else asked)


# ---------------------------------------------------------------- nobody says anything


def on_idle(desk: Desk) -> None:
    """Ask once, where that is wanted, then say goodbye."""
    state, turns, policies = desk.state, desk.turns, desk.policies
    asked = state.idle_prompted or not policies.idle_prompt_after_s
    wait_ms = 1000 * (policies.idle_hang_up_after_s if asked else policies.idle_prompt_after_s)
    if not wait_ms:
        return
    waiting = state.ending is not None or state.model != "ready" or state.owed_since is not None
    if waiting or not state.stream_id or turns.caller_speaking or desk.ledger.busy(desk.at):
        desk.after("idle", wait_ms)  # it is quiet from a later moment than this, so this is not too late
        return
    due_at = max(state.active_at, desk.ledger.silent_at(desk.at)) + wait_ms
    if desk.at < due_at:
        desk.timers.set("idle", due_at)
        return
    if asked:
        desk.after("idle", wait_ms)  # for a caller who takes the call back
        ending.begin(desk, "hang_up", EndReason.CALLER_SILENT)
        turns.want(Wish("goodbye", policies.idle_goodbye))
        return
    state.idle_prompted = True
    turns.want(Wish("idle", policies.idle_prompt))
    if policies.idle_hang_up_after_s:
        desk.after("idle", policies.idle_hang_up_after_s * 1000)
