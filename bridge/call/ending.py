"""How a call ends: what is being said is heard first, then the carrier is asked, then it is over, once."""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.state import Ending
from bridge.call.turns import Wish
from bridge.errors import EndReason

_GOODBYE = "Say a short goodbye."
_TRANSFER_FAILED = "The transfer did not work. Tell the caller and offer something else."
_LEAVING_MS = 5000.0  # the carrier has this long to take a hang-up or transfer of ours
_CLOCK_MS = 1000.0  # a mark this much later than the clock says will not come
_LONGEST_GOODBYE_MS = 60_000.0
_BACK_MS = 2000.0  # the carrier asks at once what comes next, and connects within a quarter of a second
_LONGEST_CLIP_MS = 600_000.0  # what an agent's fallback plays
_UNEXPECTED_MS = 1500.0
_MOST_OF_IT_MS = 1500.0  # of a goodbye: a short one lasts two or three seconds
_OVERTIME_MS = 20_000.0  # for what is being said at a limit, and the goodbye

_WISHED = {"agent": EndReason.AGENT_HUNG_UP, "operator": EndReason.ENDED_BY_OPERATOR, "drain": EndReason.DRAINED}
_TAKEN_BACK = (EndReason.AGENT_HUNG_UP, EndReason.TRANSFERRED)
_LONGEST_MS = {
    EndReason.MAX_DURATION: _OVERTIME_MS,
    EndReason.TOKEN_LIMIT: _OVERTIME_MS,
    EndReason.MODEL_UNAVAILABLE: _LONGEST_CLIP_MS,
    EndReason.MODEL_REFUSED: _LONGEST_CLIP_MS,
}


# ---------------------------------------------------------------- wishes


def hang_up_wished(desk: Desk, event: ev.HangUpWished) -> None:
    if not begin(desk, "hang_up", _WISHED[event.by]):
        return
    said_goodbye = event.by == "agent" and (desk.turns.spoke or desk.ledger.busy(desk.at))
    if not said_goodbye and desk.model_is_ready:
        desk.turns.want(Wish("goodbye", _GOODBYE))


def transfer_wished(desk: Desk, event: ev.TransferWished) -> None:
    begin(desk, "transfer", EndReason.TRANSFERRED, event.target)


def begin(desk: Desk, what: str, reason: EndReason, target: str = "") -> bool:
    """The call is to end when what is being said, or wished to be said, was heard. False: it is ending already."""
    if desk.state.ending is not None:
        return False
    latest_at = desk.at + _LONGEST_MS.get(reason, _LONGEST_GOODBYE_MS)
    desk.state.ending = Ending("transfer" if what == "transfer" else "hang_up", reason, target, latest_at)
    desk.after("goodbye", desk.policies.goodbye_wait_s * 1000)
    expect_no_longer(desk)
    return True


def expect_no_longer(desk: Desk) -> None:
    """An answer nobody is to hear is waited for a moment only: the goodbye cannot come before it."""
    if desk.turns.expecting and unanswered(desk):
        desk.after("unexpected", _UNEXPECTED_MS)


def on_unexpected(desk: Desk) -> None:
    if unanswered(desk):
        desk.turns.expecting = False


def may_be_taken_back(desk: Desk) -> bool:
    """A caller who speaks now keeps the call: always if it was thought nobody is there, else if the agent allows."""
    ending = desk.state.ending
    if ending is None or ending.leaving:
        return False
    if ending.reason is EndReason.CALLER_SILENT:
        return True
    return desk.policies.interrupt_hang_up and ending.reason in _TAKEN_BACK


def take_back(desk: Desk) -> None:
    desk.state.ending = None
    desk.timers.stop("goodbye")
    if desk.turns.wish is not None and desk.turns.wish.why == "goodbye":
        desk.turns.wish = None
    if desk.state.model == "lost":  # for the rest of the call there is to be one
        desk.timers.start("open_model", desk.at)


def unanswered(desk: Desk) -> bool:
    """The call is ending for good: what the caller says now is not answered any more."""
    return desk.state.ending is not None and not may_be_taken_back(desk)


# ---------------------------------------------------------------- leaving


def goodbye_lost(desk: Desk) -> None:
    """The session goes while it says the goodbye: if little of it has come, it is to be said anew."""
    turns, ledger, ending = desk.turns, desk.ledger, desk.state.ending
    if ending is None or ending.what == "transfer" or not (turns.being_made and turns.spoke):
        return
    unfinished = any(not item.closed for item in ledger.items.values())
    if unfinished and ledger.response_ms < _MOST_OF_IT_MS and turns.wish is None:
        named = turns.named
        turns.want(named if named is not None and named.why == "goodbye" else Wish("goodbye", _GOODBYE))


def goodbye_owed(desk: Desk) -> bool:
    """It waits for a session that can say it, or for the floor."""
    ending, wish = desk.state.ending, desk.turns.wish
    return ending is not None and not ending.leaving and wish is not None and wish.why == "goodbye"


def goodbye_goes_on(desk: Desk) -> None:
    """Something more was said: it is waited for anew."""
    ending = desk.state.ending
    if ending is not None and desk.timers.running("goodbye"):
        desk.timers.set("goodbye", min(desk.at + desk.policies.goodbye_wait_s * 1000, ending.latest_at))


def leave_if_heard(desk: Desk) -> None:
    state = desk.state
    if state.ending is None or state.ending.leaving:
        return
    waiting = desk.turns.responding or desk.turns.wish is not None or bool(state.tools.open)
    if state.model == "ready" and waiting:
        return
    if (state.model == "opening" or desk.timers.running("open_model")) and goodbye_owed(desk):
        return
    if desk.ledger.confirmed() and not desk.ledger.busy(desk.at):
        _leave(desk, state.ending)


def on_goodbye(desk: Desk) -> None:
    """It was waited long enough, unless the clock says that a long goodbye is still playing."""
    ending = desk.state.ending
    if ending is None or ending.leaving:
        return
    heard_at = desk.ledger.by_the_clock_at() + _CLOCK_MS
    if desk.ledger.open and desk.at < heard_at and desk.at < ending.latest_at:
        desk.timers.set("goodbye", min(heard_at, ending.latest_at))
        return
    desk.note("goodbye_not_confirmed")
    _leave(desk, ending)


def _leave(desk: Desk, ending: Ending) -> None:
    ending.leaving = True
    desk.timers.stop("goodbye")
    desk.after("leaving", _LEAVING_MS)
    desk.ask(do.HangUp() if ending.what == "hang_up" else do.Transfer(ending.target, ending.by_closing))


def on_leaving(desk: Desk) -> None:
    ending = desk.state.ending
    assert ending is not None, "leaving means there is an ending"
    end(desk, ending.reason)


def handed_over(desk: Desk, event: ev.HandedOver) -> None:
    ending = desk.state.ending
    if ending is None or not ending.leaving or event.what != ending.what:
        return
    if event.ok or ending.what == "hang_up":
        end(desk, ending.reason)
        return
    if not desk.state.stream_id and (desk.model_is_ready or ending.by_closing):
        end(desk, EndReason.STREAM_LOST)
        return
    desk.note("transfer_failed", event.detail)
    desk.timers.stop("leaving")
    if not desk.model_is_ready:  # nobody is there to go on with the caller
        if ending.by_closing:
            reason = EndReason.MODEL_UNAVAILABLE if ending.reason is EndReason.TRANSFERRED else ending.reason
            ending = desk.state.ending = Ending("hang_up", reason)
        else:
            ending.by_closing = True
        _leave(desk, ending)
        return
    desk.state.ending = None
    desk.transcript.noted(_TRANSFER_FAILED, desk.at)
    desk.ask(do.TellModel("note", _TRANSFER_FAILED))
    desk.turns.want(Wish("transfer_failed"))


# ---------------------------------------------------------------- the end


def caller_left(desk: Desk, event: ev.CallerLeft) -> None:
    state = desk.state
    if state.ending is not None and state.ending.leaving:
        end(desk, state.ending.reason)
    elif event.how != "closed":
        end(desk, EndReason.CALLER_LEFT)
    elif state.stream_id and state.goes_on and desk.plan.carrier.resumes_after_drop:
        desk.note("stream_lost")
        state.stream_id = ""
        desk.timers.stop("first_media")
        desk.ledger.lose_stream(desk.at)
        desk.after("stream_back", _BACK_MS)
    else:
        end(desk, EndReason.STREAM_LOST if state.ending is None else state.ending.reason)


def stream_offered(desk: Desk, event: ev.StreamOffered) -> None:
    """The carrier asked what comes next, and was told to open another stream."""
    if desk.timers.running("stream_back"):
        desk.after("stream_back", _BACK_MS)


def stream_refused(desk: Desk, event: ev.StreamRefused) -> None:
    desk.timers.stop("stream_back")
    on_stream_back(desk)


def on_stream_back(desk: Desk) -> None:
    """No other stream came in the place of the one that was lost."""
    ending = desk.state.ending
    if ending is not None and ending.what == "transfer":
        _leave(desk, ending)  # the caller may be there all the same
    else:
        end(desk, EndReason.STREAM_LOST if ending is None else ending.reason)


def phone_stalled(desk: Desk, event: ev.PhoneStalled) -> None:
    end(desk, EndReason.STALLED)


def carrier_misbehaved(desk: Desk, event: ev.CarrierMisbehaved) -> None:
    desk.note("carrier_misbehaved", event.what)
    end(desk, EndReason.PROTOCOL)


def end(desk: Desk, reason: EndReason) -> None:
    state = desk.state
    assert not state.over, "a call ends once"
    for one in desk.ledger.heard(desk.at):
        desk.transcript.agent_heard(one.item, one.heard_ms, cut=not one.whole)
    for tool_call_id in state.tools.open:
        desk.ask(do.AbandonTool(tool_call_id))
    if state.model in ("opening", "ready"):
        desk.ask(do.CloseModel())
    state.model, state.over = "closed", True
    desk.ask(do.EndCall(reason))


def on_stream_wait(desk: Desk) -> None:
    end(desk, EndReason.NEVER_STARTED)


def on_first_media(desk: Desk) -> None:
    heard_at = desk.state.last_frame_at
    if heard_at is None or desk.at - heard_at >= desk.policies.first_media_s * 1000:
        end(desk, EndReason.NEVER_STARTED)
