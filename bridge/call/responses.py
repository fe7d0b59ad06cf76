"""What the model says: its responses from the asking to the end, their audio and words, and its complaints."""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import bargein, ending, limits, sessions
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.toolcalls import ask_about_tools
from bridge.call.turns import Wish

AGAIN = "You did not understand what the caller said last. Ask them in one short sentence to say it again."
_ASK_AGAIN_MS = 500.0
_NOBODY_WAITS_FOR = ("tool", "idle", "limit_warning")  # what is wished for, and may come to nothing

# ---------------------------------------------------------------- asking


def grant(desk: Desk) -> None:
    """Ask for the response that is wished for, if the floor is free."""
    turns = desk.turns
    state = desk.state
    if state.model != "ready":
        return
    wish = turns.grant(announce=state.ending is None and not state.digits)
    if wish is None:
        return
    desk.ask(do.RequestResponse(wish.instructions))
    state.asked_at = desk.at
    if not desk.state.asked_twice:
        desk.state.progress_at = desk.at


def on_ask_again(desk: Desk) -> None:
    desk.turns.refused_once = False


def complained(desk: Desk, event: ev.ModelComplained) -> None:
    turns = desk.turns
    desk.note(f"model_error_{event.cure}", f"{event.code}: {event.message}")
    if event.cure in ("rotate", "fatal"):
        sessions.lose(desk, event.code, "fatal" if event.cure == "fatal" else "rotate")
    elif event.cure == "wait":
        turns.refused()
        if turns.wishing and not turns.response_id:
            turns.refused_once = True  # the service says one is active that we do not know: ask again in a moment
            desk.after("ask_again", _ASK_AGAIN_MS)


# ---------------------------------------------------------------- speaking


def started(desk: Desk, event: ev.ResponseStarted) -> None:
    if event.out_of_band:
        desk.turns.aside(event.response_id)
    else:
        _start(desk, event.response_id)


def _start(desk: Desk, response_id: str) -> None:
    turns = desk.turns
    if turns.doomed and turns.expecting and not turns.knows(response_id):
        turns.overtaken()
    if turns.asked is None and turns.welcome(response_id):
        bargein.service_answers(desk)
    if turns.expecting and turns.asked is None and desk.model.can_cancel and ending.unanswered(desk):
        turns.expecting, turns.doomed = False, True
    if turns.started(response_id):
        desk.cancel(response_id)


def spoke(desk: Desk, event: ev.ModelSpoke) -> None:
    state, turns = desk.state, desk.turns
    response_id = event.response_id
    if response_id in turns.finished:  # too late: nothing would ever say that this is all of it
        desk.transcript.agent_missed(event.item_id, len(event.audio) / desk.ledger.bytes_per_ms)
        return
    if response_id != turns.response_id and turns.welcome(response_id):
        _start(desk, response_id)  # a service that does not name its responses beforehand
    if not event.audio or not turns.welcome(response_id):
        return
    if not desk.ledger.receive(event.item_id, response_id, event.content_index, event.audio):
        _too_long(desk, event)
        return
    if response_id == turns.response_id:
        turns.spoke = True
    _answered(desk)
    desk.transcript.agent_spoke(event.item_id, len(event.audio) / desk.ledger.bytes_per_ms, desk.at)
    state.attempts = 0


def _answered(desk: Desk) -> None:
    """The caller is being answered: what they said last needs no second answer."""
    state = desk.state
    state.progress_at = desk.at
    state.owes_answer = state.asked_twice = False
    if state.turn_bytes is not None:
        desk.turns.greet_no_more()
    state.turn_bytes, state.fillers = None, 0


def _too_long(desk: Desk, event: ev.ModelSpoke) -> None:
    """More audio than a call can use: what is there plays out, the rest is not wanted, and never said."""
    desk.note("response_too_long", event.response_id)
    desk.transcript.agent_missed(event.item_id, len(event.audio) / desk.ledger.bytes_per_ms)
    if event.response_id == desk.turns.response_id and desk.turns.cut():
        desk.cancel(event.response_id)
        item = desk.ledger.items.get(event.item_id)
        if item is None and desk.model.can_delete:
            desk.ask(do.DeleteItem(event.item_id))
        elif desk.model.can_truncate:
            received_ms = 0.0 if item is None else item.received_ms
            desk.ask(do.TruncateItem(event.item_id, event.content_index, int(received_ms)))
    desk.ledger.close_response(event.response_id)


def said(desk: Desk, event: ev.ModelSaid) -> None:
    if not desk.turns.welcome(event.response_id):
        return
    if event.response_id == desk.turns.response_id:
        desk.turns.worded = True
    desk.transcript.agent_said(event.item_id, event.text, desk.at)


def item_transcribed(desk: Desk, event: ev.ItemTranscribed) -> None:
    """Of a response that was cut too: the whole text, of which the heard part is taken."""
    if event.response_id not in desk.turns.out_of_band:
        desk.transcript.agent_said_all(event.item_id, event.text)


def word_timed(desk: Desk, event: ev.WordTimed) -> None:
    desk.transcript.word_timed(event.item_id, event.text, event.at_ms)


def item_spoken(desk: Desk, event: ev.ItemSpoken) -> None:
    desk.ledger.close_item(event.item_id)


def settle(desk: Desk) -> None:
    """Items that were heard to their end are history."""
    for one in desk.ledger.settle(desk.at):
        desk.transcript.agent_heard(one.item, one.heard_ms, cut=False)
        desk.active()
        desk.state.progress_at = max(desk.state.progress_at, desk.at)


# ---------------------------------------------------------------- ending


def ended(desk: Desk, event: ev.ResponseEnded) -> None:
    state, turns = desk.state, desk.turns
    was_wanted = turns.welcome(event.response_id)
    present = turns.ended(event.response_id)
    desk.ledger.close_response(event.response_id)
    limits.used(desk, event.usage)
    if not present:
        return
    desk.active()
    heard_the_caller = event.status == "cancelled" and event.reason == "turn_detected" and not turns.spoke
    if heard_the_caller and was_wanted and desk.model.model_answers:
        turns.expecting = True  # that turn it will answer; in time it is asked all the same
    if was_wanted and _brought_nothing(desk, event):
        _failed(desk, event)
        return
    ending.goodbye_goes_on(desk)
    if event.status == "completed":
        state.failures = 0
        if turns.spoke:
            state.attempts, state.served = 0, True
    ask_about_tools(desk)


def _brought_nothing(desk: Desk, event: ev.ResponseEnded) -> bool:
    """Nothing the caller could hear, where something was to be said."""
    if desk.turns.spoke or desk.state.tools.open or desk.state.tools.owed:
        return False
    if event.status == "completed" and not desk.turns.worded:
        return desk.state.ending is None and not desk.turns.expecting  # nothing at all
    if event.status == "cancelled":  # by the service: for the caller's sake, who is answered anyway, or for no reason
        return desk.state.ending is None and not (desk.turns.caller_speaking or desk.turns.expecting or desk.turns.wish)
    return True


def _failed(desk: Desk, event: ev.ResponseEnded) -> None:
    state, turns = desk.state, desk.turns
    state.failures += 1
    desk.note("response_failed", f"{event.status} {event.reason}: {event.message}")
    wish = turns.named or Wish("answer", must=False)
    in_writing = event.status == "completed" and turns.worded  # it thinks that it has answered
    if event.cure == "" and ending.goodbye_owed(desk):
        return  # that comes next, whatever this was to say
    if event.cure == "" and state.failures < 2 and not in_writing:
        turns.want(wish)
        return
    nothing_at_all = event.status == "completed" and not in_writing
    taken_back = event.cure == "" and event.status == "cancelled"
    if (nothing_at_all or taken_back) and wish.why in _NOBODY_WAITS_FOR:  # asked twice, it has nothing to say
        state.failures = 0
        return
    left_off = event.cure == "" and event.status == "incomplete"
    if ((nothing_at_all or taken_back) and wish.why != "greeting") or left_off:
        # Another session would say as little.
        _say_it_again(desk)
        return
    if in_writing:
        state.in_words = True
    state.failures = 0
    if wish.must and (wish.again or turns.wish is None):
        turns.want(wish)
    state.owes_answer = True
    sessions.lose(desk, event.reason, "fatal" if event.cure == "fatal" else "rotate", mute=nothing_at_all)


def _say_it_again(desk: Desk) -> None:
    """What the caller said cannot be answered: they are asked for other words, by the service, else by a clip."""
    state = desk.state
    if state.failures < 3:
        desk.turns.want(Wish("again", AGAIN))
        return
    state.failures, state.owes_answer = 0, False
    desk.play_clip("again")
