"""The caller speaks: may they interrupt, and what an interruption does.

The order within one is the ear first (clear), then the response (cancel), then the memory (truncate, delete).
"""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import ending
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.playout import Heard
from bridge.call.toolcalls import ask_about_tools
from bridge.call.turns import Wish

_PREFIX_MS = 500.0  # speech is reported this much after it began, at most
_UNHEARD_MS = 1500.0  # a voice is noticed by ourselves this much after it began, at most
VOICE_MS = 3000.0  # heard again within this, if the caller speaks on
_ALREADY_WAITED_MS = 1000.0  # of the patience with an answer, when the service missed the end of the caller's turn
_STILL_MS = 400.0  # what a session heard of held audio ends by itself within this, or the caller speaks on
_TELLING_MS = 300.0  # until we hear of the end of speech, beyond the silence the service waits for
_LONGEST_SILENCE_MS = 2000.0  # waited for by a service whose detector goes by the meaning, of a brief sound
_NEARLY = 0.8  # of an announcement: what it says was understood without the last words
_REPETITIONS = 2  # of an announcement: who cut it so often has been told
_LONGEST_SPEECH_MS = 60_000.0  # a detector that hears nothing else for this long is stuck


def speech_started(desk: Desk, event: ev.CallerSpeechStarted) -> None:
    state, turns = desk.state, desk.turns
    is_there(desk)
    if not turns.caller_speaking:
        _turn_begins(desk, _PREFIX_MS)
        desk.after("caller_pause", desk.policies.caller_pause_ms)
        desk.after("long_speech", _LONGEST_SPEECH_MS)
    turns.caller_speaking, turns.expecting = True, False
    desk.transcript.caller_began(event.item_id, desk.at)
    agent_holds = turns.responding or desk.ledger.busy(desk.at)
    mode = desk.policies.barge_in.mode
    state.replaying = desk.at < state.replay_until and event.at_ms < state.replayed_ms
    if state.replaying:  # said before: it interrupts only if they still speak
        if mode != "off" and not protected(desk):
            desk.timers.start("barge_in", desk.at + max(_STILL_MS, desk.policies.barge_in.after_ms))
    elif agent_holds and mode == "after_ms":
        detection = desk.plan.session.turn_detection  # a brief sound is told to be over by then, or nearly always
        told_ms = min(detection.waits_ms, _LONGEST_SILENCE_MS) + _TELLING_MS if detection else 0.0
        desk.timers.start("barge_in", desk.at + desk.policies.barge_in.after_ms + told_ms)
    elif agent_holds and (mode == "off" or protected(desk)):
        if ending.may_be_taken_back(desk):
            ending.take_back(desk)  # and it is answered when the agent has finished
    else:
        _barge_in(desk)


def is_there(desk: Desk) -> None:
    """The caller did something: whether they are there may be asked anew."""
    desk.active()
    if desk.state.idle_prompted:
        desk.state.idle_prompted = False
        desk.after("idle", desk.policies.idle_prompt_after_s * 1000)


def caller_persists(desk: Desk, event: ev.CallerPersists) -> None:
    """Our own detector has heard the caller speak for as long as it takes to interrupt."""
    if desk.state.weighing:
        on_barge_in(desk)


def on_barge_in(desk: Desk) -> None:
    """The caller has spoken for long enough to mean it."""
    desk.timers.stop("barge_in")
    if desk.turns.caller_speaking and not protected(desk):
        _barge_in(desk)


def _barge_in(desk: Desk) -> None:
    desk.state.replaying = False
    desk.timers.stop("barge_in")
    if ending.may_be_taken_back(desk):
        ending.take_back(desk)
    if not protected(desk):
        interrupt(desk, cancels_itself=desk.model.model_interrupts)


def protected(desk: Desk) -> bool:
    """The caller may not interrupt what is being said now."""
    turns = desk.turns
    if desk.state.ending is not None:
        return not ending.may_be_taken_back(desk)
    if turns.asked is not None and turns.asked.protected:
        return True
    if not turns.protected:
        return False
    if turns.response_id == turns.protected:
        return True
    return any(item.response_id == turns.protected for item in desk.ledger.items.values())


def interrupt(desk: Desk, *, cancels_itself: bool) -> None:
    """Silence the agent: the ear first, then the response, then what the model believes it said."""
    ledger, turns = desk.ledger, desk.turns
    if not turns.responding and not ledger.busy(desk.at):
        return
    heard = ledger.heard(desk.at)
    _wish_again(desk, heard)
    if not ledger.can_clear:
        ledger.drop()
    elif ledger.playing(desk.at) or (turns.responding and not ledger.reckoning.confirmed):
        desk.ask(do.ClearPlayback())
        ledger.clear()
    else:
        ledger.drop()
    response_id = turns.cut()
    if not cancels_itself:
        desk.cancel(response_id)
    for one in heard:
        _cut_item(desk, one)


def _wish_again(desk: Desk, heard: list[Heard]) -> None:
    """What the caller has to be told is told at the next pause, if it is cut before they could hear it."""
    turns = desk.turns
    told = [one for one in heard if one.item.response_id == turns.told_in]
    wish = turns.asked
    if turns.being_made and turns.response_id == turns.told_in and not turns.spoke:
        wish = turns.told
    elif not all(map(_nearly_whole, told)):
        turns.told_in_part += any(one.heard_ms >= 1 for one in told)
        wish = turns.told if turns.told_in_part <= _REPETITIONS else None
    if wish is not None and wish.again:
        turns.want(wish)


def _nearly_whole(one: Heard) -> bool:
    return one.whole or (one.item.closed and one.heard_ms >= one.item.received_ms * _NEARLY)


def drop_announcement(desk: Desk) -> None:
    """It comes too late, unless some of it is on its way to the caller's ear."""
    turns = desk.turns
    turns.announcement = None
    if turns.asked is not None and turns.asked.again:
        turns.doomed = True
    unsent = desk.ledger.withdraw(turns.told_in) if turns.told_in else []
    if turns.being_made and turns.response_id == turns.told_in and (unsent or not turns.spoke):
        desk.cancel(turns.cut())
    for item in unsent:
        _cut_item(desk, Heard(item, 0.0))


def _cut_item(desk: Desk, one: Heard) -> None:
    item, heard_ms = one.item, one.heard_ms
    margin = desk.model.truncate_margin_ms
    nearly_whole = item.closed and heard_ms > 0 and heard_ms >= item.received_ms - margin
    whole = one.whole or nearly_whole
    desk.transcript.agent_heard(item, heard_ms, cut=not whole)
    if whole or item.foreign:
        return
    if heard_ms < 1 and desk.model.can_delete:
        desk.ask(do.DeleteItem(item.item_id))
    elif desk.model.can_truncate:
        end_ms = min(heard_ms, max(0.0, item.received_ms - margin))
        desk.ask(do.TruncateItem(item.item_id, item.content_index, int(end_ms)))


# ---------------------------------------------------------------- the caller has spoken


def speech_stopped(desk: Desk, event: ev.CallerSpeechStopped) -> None:
    if desk.turns.caller_speaking:
        _stopped(desk)


def caller_quiet(desk: Desk, event: ev.CallerQuiet) -> None:
    """Our own detector hears nothing where the service's still hears speech: the turn is ended by hand."""
    if desk.turns.caller_speaking:
        _end_by_hand(desk)
        desk.state.waited_ms = _ALREADY_WAITED_MS
        if desk.model_is_ready:
            desk.ask(do.ProbeModel())
    elif desk.state.voice:
        on_voice(desk)


def caller_unheard(desk: Desk, event: ev.CallerUnheard) -> None:
    """The caller speaks and the service says nothing of it: perhaps it is gone. Or it is known to be."""
    state, turns = desk.state, desk.turns
    if turns.caller_speaking:
        return
    state.voice_at = desk.at
    if state.model == "ready":
        desk.forget_silence()
        state.quiet_bytes = 0
        desk.ask(do.ProbeModel())
        return
    desk.active()
    hear_out(desk)
    state.owes_answer = True
    _turn_begins(desk, _UNHEARD_MS)


def _turn_begins(desk: Desk, noticed_ms: float) -> None:
    """Or goes on. It was noticed so much later, at most."""
    state = desk.state
    if state.turn_bytes is None:
        state.turn_bytes = min(desk.ledger.bytes_in(noticed_ms), len(state.recent))
    else:
        desk.forget_silence()
    state.quiet_bytes = 0


def hear_out(desk: Desk) -> None:
    """There is no session and the caller speaks: nobody talks over them, unless nothing more is heard of it."""
    desk.state.voice = True
    desk.after("voice", VOICE_MS)


def on_voice(desk: Desk) -> None:
    """The caller has come to an end."""
    desk.state.voice = False
    desk.timers.stop("voice")


def on_long_speech(desk: Desk) -> None:
    if desk.turns.caller_speaking:
        _end_by_hand(desk)


def _end_by_hand(desk: Desk) -> None:
    desk.note("speech_ended_by_hand")
    if desk.model_is_ready and desk.plan.session.turn_detection is not None:
        desk.ask(do.CommitCallerAudio())
    _stopped(desk)
    if desk.turns.expecting:
        desk.turns.expecting = False
        want_answer(desk)


def service_answers(desk: Desk) -> None:
    """The service began a response by itself, so for it the caller's turn is over, whatever it did not say."""
    if desk.turns.caller_speaking and desk.model.model_answers:
        _stopped(desk)


def _stopped(desk: Desk) -> None:
    state, turns = desk.state, desk.turns
    turns.caller_speaking = False
    desk.active()
    brief = state.weighing and _spoke_into_the_agent(desk)
    desk.timers.stop("caller_pause", "long_speech", "barge_in")
    state.replaying = False
    if brief:  # too short to be a turn: nothing happened
        state.turn_bytes = None
        ask_about_tools(desk)
        return
    turns.greet_no_more()
    state.tools.new_turn()
    state.tools.owed = False  # the answer to the caller will know
    state.progress_at, state.asked_twice = desk.at, False
    if desk.plan.session.turn_detection is None and desk.model_is_ready:
        desk.ask(do.CommitCallerAudio())
    if desk.model.model_answers and desk.plan.session.turn_detection is not None:
        turns.expecting = True
        ending.expect_no_longer(desk)
        if turns.wish is not None and not turns.wish.instructions:
            turns.wish = None
    else:
        turns.expecting = False
        want_answer(desk)


def want_answer(desk: Desk) -> None:
    """Ask for the answer to what the caller has said, unless it is too late for one."""
    if not ending.unanswered(desk):
        desk.turns.want(Wish("answer", must=False))


def _spoke_into_the_agent(desk: Desk) -> bool:
    """The agent was still to be heard when the caller fell silent, which is told a silence later: no answer to it."""
    detection = desk.plan.session.turn_detection
    ended_at = desk.at - (detection.silence_ms if detection else 0)
    return desk.turns.responding or desk.ledger.silent_at(desk.at) > ended_at


def turn_ended(desk: Desk, event: ev.CallerTurnEnded) -> None:
    desk.transcript.caller_ended(event.item_id, event.previous_item_id, desk.at)


def transcribed(desk: Desk, event: ev.CallerTranscribed) -> None:
    desk.transcript.caller_said(event.item_id, event.text, desk.at)
