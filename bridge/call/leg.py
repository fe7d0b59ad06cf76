"""The caller's leg: its stream, its audio, its keys, and the marks it returns."""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.bargein import VOICE_MS, interrupt, is_there, protected
from bridge.call.desk import Desk
from bridge.call.ending import may_be_taken_back, take_back, unanswered
from bridge.call.turns import Wish

_SLOP_BYTES = 8192  # the ring of caller audio is trimmed seldom, so that a frame costs no copy of the whole
_MOST_DIGITS = 64
_SILENCE_MS = 1000.0
_FRAME_MS = 20


def stream_started(desk: Desk, event: ev.StreamStarted) -> None:
    """A second one takes over: the newest that proved who it is wins."""
    state, timers, policies = desk.state, desk.timers, desk.policies
    if state.stream_id == event.stream_id and desk.ledger.open:
        return
    if state.stream_id:
        desk.note("stream_replaced")
    elif timers.running("stream_back"):
        timers.stop("stream_back")
        desk.note("stream_back")
    elif not timers.running("limit"):
        timers.stop("stream_wait")
        if policies.max_call_s:
            desk.after("limit", policies.max_call_s * 1000)
            if 0 < policies.warn_before_end_s < policies.max_call_s:
                desk.after("limit_warning", (policies.max_call_s - policies.warn_before_end_s) * 1000)
        idle_s = policies.idle_prompt_after_s or policies.idle_hang_up_after_s
        if idle_s:
            desk.after("idle", idle_s * 1000)
    desk.after("first_media", policies.first_media_s * 1000)
    state.stream_id = event.stream_id
    desk.active()
    desk.ledger.new_stream(desk.at)


def caller_spoke(desk: Desk, event: ev.CallerSpoke) -> None:
    """Once per telephone frame."""
    state, audio = desk.state, event.audio
    if state.last_frame_at is None:
        desk.timers.stop("first_media")
    state.last_frame_at = desk.at
    state.pause_filled = False
    recent = state.recent
    recent += audio
    if state.turn_bytes is not None:
        state.turn_bytes += len(audio)
        heard = state.voice_at is not None and desk.at - state.voice_at < VOICE_MS
        if not (desk.turns.caller_speaking or state.voice or heard):
            state.quiet_bytes += len(audio)
    if state.model == "ready":
        desk.out.append(do.SendCallerAudio(audio))
    else:
        state.unsent_bytes += len(audio)
    if len(recent) > desk.ring_bytes + _SLOP_BYTES:
        desk.forget_oldest()


def caller_pressed(desk: Desk, event: ev.CallerPressed) -> None:
    state = desk.state
    is_there(desk)
    first = not state.digits
    if may_be_taken_back(desk):
        take_back(desk)
        first = True  # into the goodbye
    if first and desk.policies.barge_in.mode != "off" and not protected(desk):
        interrupt(desk, cancels_itself=False)
    state.digits += event.digit[:1]
    if event.digit == "#" or len(state.digits) >= _MOST_DIGITS:
        on_digits(desk)
    else:
        desk.after("digits", desk.policies.digits_gap_ms)


def on_digits(desk: Desk) -> None:
    """The caller has pressed all they meant to press: one message to the model."""
    state = desk.state
    digits, state.digits = state.digits, ""
    desk.timers.stop("digits")
    if not digits:
        return
    text = f"The caller pressed {digits}"
    desk.transcript.caller_typed(text, desk.at)
    desk.tell_model("caller", text)
    state.tools.new_turn()
    if not unanswered(desk):
        desk.turns.want(Wish("digits"))


def mark_returned(desk: Desk, event: ev.MarkReturned) -> None:
    ledger = desk.ledger
    if not ledger.mark_returned(event.name, desk.at) and event.name.partition(".")[0] == str(ledger.epoch):
        desk.note("unknown_mark")


def on_caller_pause(desk: Desk) -> None:
    """The caller's leg went quiet in mid-speech: a detector that counts audio time would wait for ever."""
    state, pause = desk.state, max(desk.policies.caller_pause_ms, _FRAME_MS)
    if not desk.turns.caller_speaking or state.model != "ready":
        return
    quiet_from = state.last_frame_at if state.last_frame_at is not None else desk.at - pause
    if state.pause_filled or desk.at - quiet_from < pause:
        desk.timers.set("caller_pause", max(quiet_from, desk.at - pause / 2) + pause)
        return
    state.pause_filled = True
    desk.after("caller_pause", pause)
    if desk.model.needs_silence:
        detection = desk.plan.session.turn_detection
        desk.ask(do.SendSilence(max(_SILENCE_MS, detection.silence_ms + 500.0 if detection else 0.0)))
