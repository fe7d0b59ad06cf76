"""The call itself: facts and the time go in, requests come out.

`handle` is total: whatever a peer may have sent, it returns a list of requests. A broken invariant is an
AssertionError and ends this call only. Between deciding and performing nothing is awaited, so what is decided here is
still true when it is performed.

The order within one decision is the ear first (clear), then the response (cancel), then the memory (truncate,
delete).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CallPlan, ModelCapabilities, Policies
from bridge.call.playout import Heard, open_ledger
from bridge.call.state import Ending, State
from bridge.call.toolcalls import OUTCOME_UNKNOWN, TIMED_OUT, ToolCall
from bridge.call.turns import Wish
from bridge.errors import EndReason

Actions = list[do.Action]

_RESUME = (
    "The connection was interrupted for a moment. Go on from the last words the caller heard, "
    "answer what they said meanwhile, do not repeat what was said."
)
_GOODBYE = "Say a short goodbye."
_LEAVING_MS = 5000.0  # the carrier has this long to take a hang-up or transfer of ours
_PREFIX_MS = 500.0  # speech is reported this much after it began, at most; kept for a new session
_FILLER_AGAIN_MS = 2500.0
_SILENCE_MS = 1000.0
_ASK_AGAIN_MS = 500.0
_SESSION_MARGIN_MS = 120_000.0


class Call:
    """One call. Times given are milliseconds on the caller of `handle`'s monotonic clock."""

    def __init__(self, plan: CallPlan, now: float, *, state: State | None = None, elapsed: float = 0.0) -> None:
        self.plan = plan
        self._base = now - elapsed
        self._tools = {spec.name: spec for spec in plan.session.tools}
        policies = plan.agent.policies
        self.state = state or State(
            ledger=open_ledger(lead_ms=policies.lead_ms, slice_ms=policies.slice_ms, carrier=plan.carrier)
        )
        self._frame_bytes_per_ms = plan.carrier.bytes_per_ms
        self._due: float | None = None
        self._rearm(elapsed)

    # ------------------------------------------------------------ the contract

    @property
    def over(self) -> bool:
        return self.state.over

    @property
    def policies(self) -> Policies:
        return self.plan.agent.policies

    @property
    def model(self) -> ModelCapabilities:
        return self.plan.models[self.state.service]

    def elapsed(self, now: float) -> float:
        """The call's own time: milliseconds since its first fact."""
        return now - self._base

    def deadline(self) -> float | None:
        """If nothing happens until then, give a `DeadlineReached`."""
        return None if self._due is None else self._due + self._base

    def handle(self, event: ev.Event, now: float) -> Actions:
        """Take one fact; return what is to be done, in order."""
        state = self.state
        if state.over:
            return []
        at = now - self._base
        out: Actions = []
        if self._due is not None and self._due <= at:
            self._deadline(at, out)
            if self.over:
                return out
        elif type(event) is ev.CallerSpoke:  # the frame path: nothing else can have changed
            self._caller_spoke(event, at, out)
            return out
        if type(event) is not ev.DeadlineReached:
            take = _FACTS.get(type(event))
            assert take is not None, f"{type(event).__name__} is not a fact a call knows"
            take(self, event, at, out)
        if not state.over:
            self._go_on(at, out)
        self._rearm(at)
        return out

    def _go_on(self, at: float, out: Actions) -> None:
        """What may have become possible: play, ask, leave."""
        state = self.state
        state.ledger.release(at, out)
        self._settle(at)
        self._grant(at, out)
        self._leave_if_heard(at, out)
        self._watch_idleness(at)

    def _rearm(self, at: float) -> None:
        if self.state.over:
            self._due = None
            return
        due = self.state.timers.due()
        release = self.state.ledger.next_release(at)
        self._due = release if due is None or (release is not None and release < due) else due

    # ------------------------------------------------------------ the caller's leg

    def _call_routed(self, event: ev.CallRouted, at: float, out: Actions) -> None:
        self.state.timers.set("stream_wait", at + self.policies.stream_wait_s * 1000)
        self._open_model(at, out)

    def _stream_started(self, event: ev.StreamStarted, at: float, out: Actions) -> None:
        state, timers, policies = self.state, self.state.timers, self.policies
        if state.stream_id == event.stream_id:
            return
        if state.stream_id:
            out.append(do.DropStream(state.stream_id))
            out.append(do.Note("stream_replaced"))
        else:
            timers.stop("stream_wait")
            if policies.max_call_s:
                timers.set("limit", at + policies.max_call_s * 1000)
                if policies.warn_before_end_s:
                    timers.set("limit_warning", at + (policies.max_call_s - policies.warn_before_end_s) * 1000)
            if state.model != "ready":
                timers.start("filler", at + policies.filler_after_s * 1000)
        timers.set("first_media", at + policies.first_media_s * 1000)
        state.stream_id = event.stream_id
        state.active_at = at
        state.ledger.new_stream(at)
        if self.plan.carrier.marks:
            state.ledger.probe(at, out)

    def _caller_spoke(self, event: ev.CallerSpoke, at: float, out: Actions) -> None:
        state = self.state
        if not state.last_frame_at:
            state.timers.stop("first_media")
        state.last_frame_at = at or 1e-9
        state.caller_quiet_filled = False
        recent = state.recent
        recent += event.audio
        if state.turns.caller_speaking:
            state.speech_ms += event.ms
        keep = int(self.policies.hold_caller_ms * self._frame_bytes_per_ms)
        if len(recent) > keep + 8192:  # seldom, so that a frame costs no copy of the whole
            del recent[: len(recent) - keep]
        if state.model == "ready":
            out.append(do.SendCallerAudio(event.audio))
        else:
            state.unsent_ms += event.ms

    def _caller_pressed(self, event: ev.CallerPressed, at: float, out: Actions) -> None:
        state = self.state
        state.active_at, state.idle_prompted = at, False
        if not state.digits and self.policies.barge_in.mode != "off" and not self._protected():
            self._interrupt(at, out, by_model=False)
        state.digits += event.digit
        if event.digit == "#":
            self._digits_done(at, out)
        else:
            state.timers.set("digits", at + self.policies.digits_gap_ms)

    def _digits_done(self, at: float, out: Actions) -> None:
        state = self.state
        digits, state.digits = state.digits, ""
        state.timers.stop("digits")
        text = f"The caller pressed {digits}"
        state.transcript.caller_typed(text, at)
        if state.model == "ready":
            out.append(do.TellModel("caller", text))
        state.tools.new_turn()
        state.turns.want(Wish("digits"))

    def _mark_returned(self, event: ev.MarkReturned, at: float, out: Actions) -> None:
        if not self.state.ledger.mark_returned(event.name, at) and event.name.partition(".")[0] == str(
            self.state.ledger.epoch
        ):
            out.append(do.Note("unknown_mark"))

    def _caller_left(self, event: ev.CallerLeft, at: float, out: Actions) -> None:
        ending = self.state.ending
        if ending is not None and ending.leaving:
            self._end(ending.reason, at, out)
        else:
            self._end(EndReason.STREAM_LOST if event.how == "closed" else EndReason.CALLER_LEFT, at, out)

    def _phone_stalled(self, event: ev.PhoneStalled, at: float, out: Actions) -> None:
        self._end(EndReason.STALLED, at, out)

    def _carrier_misbehaved(self, event: ev.CarrierMisbehaved, at: float, out: Actions) -> None:
        out.append(do.Note("carrier_misbehaved", event.what))
        self._end(EndReason.PROTOCOL, at, out)

    # ------------------------------------------------------------ barge-in

    def _caller_speech_started(self, event: ev.CallerSpeechStarted, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        for name in ("answer_filler", "answer_retry", "answer_rotate", "digits_answer"):
            state.timers.stop(name)
        state.active_at, state.idle_prompted = at, False
        if not turns.caller_speaking:
            state.speech_ms = _PREFIX_MS
        turns.caller_speaking, turns.expecting = True, False
        state.timers.set("caller_pause", at + self.policies.caller_pause_ms)
        state.transcript.caller_began(event.item_id, at)
        agent_holds = turns.responding or state.ledger.busy(at)
        mode = self.policies.barge_in.mode
        if self._protected() or (mode == "off" and agent_holds):
            state.overheard = agent_holds
            return
        if mode == "after_ms" and agent_holds:
            state.overheard = True
            state.timers.start("barge_in", at + self.policies.barge_in.after_ms)
            return
        self._barge_in(at, out)

    def _barge_in(self, at: float, out: Actions) -> None:
        state = self.state
        state.overheard = False
        if state.ending is not None and not state.ending.leaving:
            state.ending = None  # the caller takes the call back
            state.timers.stop("goodbye")
        self._interrupt(at, out, by_model=True)

    def _protected(self) -> bool:
        """The caller may not interrupt what is being said now."""
        state, turns = self.state, self.state.turns
        if state.ending is not None:
            return not self.policies.interrupt_hang_up or state.ending.leaving
        if turns.asked is not None and turns.protect_next:
            return True
        if not turns.protected:
            return False
        if turns.response_id == turns.protected:
            return True
        return any(item.response_id == turns.protected for item in state.ledger.items.values())

    def _interrupt(self, at: float, out: Actions, *, by_model: bool) -> None:
        """Silence the agent: the ear first, then the response, then what the model believes it said."""
        ledger, turns = self.state.ledger, self.state.turns
        if not turns.responding and not ledger.busy(at):
            return
        heard = ledger.heard(at)
        marks_out = any(not mark.probe for mark in ledger.marks)
        if ledger.playing(at) or (marks_out and turns.responding):
            out.append(do.ClearPlayback())
            ledger.clear()
        else:
            ledger.drop()
        response_id = turns.cut()
        if response_id and self.model.can_cancel and not (by_model and self.model.model_interrupts):
            out.append(do.CancelResponse(response_id))
        for one in heard:
            self._cut_item(one, out)

    def _cut_item(self, one: Heard, out: Actions) -> None:
        item, heard_ms = one.item, one.heard_ms
        margin = self.model.truncate_margin_ms
        nearly_whole = item.closed and heard_ms > 0 and heard_ms >= item.received_ms - margin
        self.state.transcript.agent_heard(item.item_id, heard_ms, cut=not (one.whole or nearly_whole))
        if one.whole or nearly_whole or item.foreign:
            return
        if heard_ms < 1 and self.model.can_delete:
            out.append(do.DeleteItem(item.item_id))
        elif self.model.can_truncate:
            end = min(heard_ms, max(0.0, item.received_ms - margin))
            out.append(do.TruncateItem(item.item_id, item.content_index, int(end)))

    def _caller_speech_stopped(self, event: ev.CallerSpeechStopped, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if not turns.caller_speaking:
            return
        turns.caller_speaking = False
        state.active_at, state.speech_ms = at, 0.0
        state.timers.stop("caller_pause")
        brief = state.overheard and self.policies.barge_in.mode == "after_ms"
        state.timers.stop("barge_in")
        state.overheard = False
        if brief:
            return  # too short to be a turn: nothing happened
        state.tools.new_turn()
        if self.model.model_answers:
            if turns.wish is not None and not turns.wish.instructions:
                turns.wish = None  # the service's answer to the caller will know it
            turns.expecting = not turns.responding
            self._watch_answer(at)
        else:
            turns.want(Wish("answer"))

    def _caller_turn_ended(self, event: ev.CallerTurnEnded, at: float, out: Actions) -> None:
        self.state.transcript.caller_ended(event.item_id, event.previous_item_id, at)

    def _caller_transcribed(self, event: ev.CallerTranscribed, at: float, out: Actions) -> None:
        self.state.transcript.caller_said(event.item_id, event.text, at)

    # ------------------------------------------------------------ what the model says

    def _response_started(self, event: ev.ResponseStarted, at: float, out: Actions) -> None:
        turns = self.state.turns
        if event.out_of_band:
            turns.out_of_band.append(event.response_id)
            return
        if turns.started(event.response_id):
            turns.unwelcome.append(event.response_id)
            if self.model.can_cancel:
                out.append(do.CancelResponse(event.response_id))

    def _model_spoke(self, event: ev.ModelSpoke, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if not turns.welcome(event.response_id):
            return
        if event.response_id not in (turns.response_id, turns.last_ended):
            turns.started(event.response_id)  # a service that does not name its responses beforehand
        if event.response_id == turns.response_id:
            turns.spoke = True
        self._answered()
        state.transcript.agent_spoke(event.item_id, event.ms, at)
        state.ledger.receive(event.item_id, event.response_id, event.content_index, event.audio, event.ms)

    def _answered(self) -> None:
        self.state.owes_answer = False
        self.state.turns.expecting = False
        for name in ("answer_filler", "answer_retry", "answer_rotate"):
            self.state.timers.stop(name)

    def _model_said(self, event: ev.ModelSaid, at: float, out: Actions) -> None:
        if self.state.turns.welcome(event.response_id):
            self.state.transcript.agent_said(event.item_id, event.text, at)

    def _item_transcribed(self, event: ev.ItemTranscribed, at: float, out: Actions) -> None:
        if (
            event.response_id not in self.state.turns.out_of_band
            and self.state.transcript.find(event.item_id) is not None
        ):
            self.state.transcript.agent_said_all(event.item_id, event.text, at)

    def _word_timed(self, event: ev.WordTimed, at: float, out: Actions) -> None:
        self.state.transcript.word_timed(event.item_id, event.text, event.at_ms)

    def _item_spoken(self, event: ev.ItemSpoken, at: float, out: Actions) -> None:
        self.state.ledger.close_item(event.item_id)

    def _response_ended(self, event: ev.ResponseEnded, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        known = event.response_id == turns.response_id
        was_welcome = turns.welcome(event.response_id)
        present = turns.ended(event.response_id)
        state.ledger.close_response(event.response_id)
        if not known or not present:
            return
        state.active_at = at
        if state.ending is not None and state.timers.running("goodbye"):
            state.timers.set("goodbye", at + self.policies.goodbye_wait_s * 1000)
        if event.status in ("failed", "incomplete") and was_welcome and not turns.spoke:
            self._response_failed(event, at, out)
            return
        if event.status == "completed":
            state.failures = state.attempts = 0
            if not turns.spoke and not state.tools.open and not state.tools.owed and was_welcome and turns.wish is None:
                out.append(do.Note("silent_response"))
        self._ask_about_tools()

    def _response_failed(self, event: ev.ResponseEnded, at: float, out: Actions) -> None:
        state = self.state
        state.failures += 1
        out.append(do.Note("response_failed", f"{event.reason}: {event.message}"))
        if event.cure == "fatal":
            self._model_lost(ev.ModelLost(state.session, event.reason, "fatal"), at, out)
        elif event.cure == "rotate" or state.failures >= 2:
            state.failures = 0
            state.owes_answer = True
            self._model_lost(ev.ModelLost(state.session, event.reason, "rotate"), at, out)
        else:
            state.turns.want(Wish("retry"))

    def _model_complained(self, event: ev.ModelComplained, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        out.append(do.Note(f"model_error_{event.cure}", f"{event.code}: {event.message}"))
        match event.cure:
            case "wait":
                if turns.asked is not None or turns.named is not None:
                    turns.refused()
                elif turns.expecting:
                    turns.expecting = False
                    turns.want(Wish("answer"))
                if turns.wish is not None and not turns.response_id:
                    turns.expecting = True  # the service says one is active that we do not know: ask again in a moment
                    state.timers.set("ask_again", at + _ASK_AGAIN_MS)
            case "rotate" | "fatal":
                self._model_lost(ev.ModelLost(state.session, event.code, event.cure), at, out)
            case _:
                pass

    # ------------------------------------------------------------ asking

    def _grant(self, at: float, out: Actions) -> None:
        if self.state.model != "ready":
            return
        wish = self.state.turns.grant()
        if wish is not None:
            out.append(do.RequestResponse(wish.instructions))
            self._watch_answer(at)

    def _watch_answer(self, at: float) -> None:
        timers, policies = self.state.timers, self.policies
        timers.set("answer_filler", at + policies.answer_filler_s * 1000)
        timers.set("answer_retry", at + policies.answer_retry_s * 1000)
        timers.set("answer_rotate", at + policies.answer_rotate_s * 1000)

    def _settle(self, at: float) -> None:
        for one in self.state.ledger.settle(at):
            self.state.transcript.agent_heard(one.item.item_id, one.heard_ms, cut=False)
            self.state.active_at = at
        turns = self.state.turns
        if turns.protected and turns.protected != turns.response_id and not self.state.ledger.items:
            turns.protected = ""

    # ------------------------------------------------------------ tools

    def _tool_requested(self, event: ev.ToolRequested, at: float, out: Actions) -> None:
        state = self.state
        if not state.turns.welcome(event.response_id):
            return  # asked for by a response that was cut: not run
        self._answered()
        call = ToolCall(event.tool_call_id, event.name, event.arguments, event.response_id)
        refusal = state.tools.request(
            call, self._tools, per_turn=self.policies.tools_per_turn, per_call=self.policies.tools_per_call
        )
        if refusal == "":
            return
        state.transcript.tool_asked(event.item_id, event.tool_call_id, event.name, event.arguments, at)
        if refusal is None:
            out.append(do.RunTool(event.tool_call_id, event.name, event.arguments))
            state.timers.set(f"tool {event.tool_call_id}", at + self._tools[event.name].timeout_s * 1000)
            return
        out.append(do.Note("tool_refused", event.name))
        self._submit(event.tool_call_id, refusal, out)

    def _tool_finished(self, event: ev.ToolFinished, at: float, out: Actions) -> None:
        if self.state.tools.finish(event.tool_call_id) is None:
            out.append(do.Note("tool_result_ignored"))
            return
        self.state.timers.stop(f"tool {event.tool_call_id}")
        self.state.active_at = at
        self._submit(event.tool_call_id, event.output, out)

    def _tool_timed_out(self, tool_call_id: str, out: Actions) -> None:
        if self.state.tools.finish(tool_call_id) is not None:
            out.append(do.AbandonTool(tool_call_id))
            out.append(do.Note("tool_timed_out"))
            self._submit(tool_call_id, TIMED_OUT, out)

    def _submit(self, tool_call_id: str, output: str, out: Actions) -> None:
        state = self.state
        state.transcript.tool_answered(tool_call_id, output)
        if state.model == "ready":
            out.append(do.SubmitToolOutput(tool_call_id, output))
        state.tools.owed = True
        self._ask_about_tools()

    def _ask_about_tools(self) -> None:
        """All answers are in: the model should go on, unless the caller's own turn will make it."""
        state = self.state
        if state.tools.open or not state.tools.owed:
            return
        state.tools.owed = False
        if state.turns.caller_speaking or state.turns.expecting:
            return
        if state.ending is not None and (state.turns.spoke or state.turns.wish is not None):
            return
        state.turns.want(Wish("tool"))

    # ------------------------------------------------------------ the model's session

    def _open_model(self, at: float, out: Actions) -> None:
        state = self.state
        state.session += 1
        state.attempts += 1
        state.model = "opening"
        state.timers.stop("open_model")
        state.timers.set("model_ready", at + self.policies.model_ready_s * 1000)
        history = state.transcript.history(OUTCOME_UNKNOWN) if state.session > 1 else ()
        out.append(do.OpenModel(state.session, state.service, history))

    def _model_ready(self, event: ev.ModelReady, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if event.session != state.session or state.model != "opening":
            return
        state.model = "ready"
        state.timers.stop("model_ready")
        state.timers.stop("filler")
        limits = [s for s in (event.max_session_s, self.model.max_session_s) if s]
        if limits:
            state.timers.set("session_limit", at + max(min(limits) * 1000 - _SESSION_MARGIN_MS, 1000.0))
        unsent = int(state.unsent_ms * self._frame_bytes_per_ms)
        if unsent:
            out.append(do.SendCallerAudio(bytes(state.recent[-unsent:])))
            state.unsent_ms = 0.0
        if not state.greeted:
            state.greeted = True
            if self.plan.agent.greeting:
                turns.protect_next = self.policies.greeting_protected
                turns.want(Wish("greeting", self.plan.agent.greeting))
        elif state.owes_answer:
            turns.want(Wish("resume", _RESUME))

    def _model_lost(self, event: ev.ModelLost, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if event.session != state.session or state.model in ("closed", "lost"):
            return
        out.append(do.Note("model_lost", event.why))
        if state.model == "ready":
            out.append(do.CloseModel())
            state.unsent_ms = state.speech_ms if turns.caller_speaking else 0.0
            state.owes_answer = (
                state.owes_answer
                or turns.responding
                or turns.expecting
                or turns.caller_speaking
                or bool(state.tools.open)
            )
            for item in state.ledger.items.values():
                state.transcript.agent_heard(item.item_id, item.received_ms, cut=False)
        state.model = "lost"
        turns.forget_session()
        state.ledger.disown()
        for name in (
            "model_ready",
            "session_limit",
            "answer_filler",
            "answer_retry",
            "answer_rotate",
            "caller_pause",
            "ask_again",
        ):
            state.timers.stop(name)
        if state.ending is None and (state.owes_answer or not state.greeted):
            state.timers.start("filler", max(at + self.policies.filler_after_s * 1000, state.ledger.silent_at(at)))
        waits = self.policies.model_retry_s
        if event.cure == "fatal" or state.attempts > len(waits):
            self._next_service(event, at, out)
            return
        wait_s = 0.0 if event.cure == "rotate" and state.attempts <= 1 else waits[min(state.attempts, len(waits)) - 1]
        wait_s = max(wait_s, min(event.retry_after_s or 0.0, 2.0))
        if wait_s <= 0:
            self._open_model(at, out)
        else:
            state.timers.set("open_model", at + wait_s * 1000)

    def _next_service(self, event: ev.ModelLost, at: float, out: Actions) -> None:
        state = self.state
        if state.service + 1 < len(self.plan.models):
            state.service += 1
            state.attempts = 0
            out.append(do.Note("failover", self.model.name))
            self._open_model(at, out)
            return
        state.timers.stop("filler")
        reason = EndReason.MODEL_REFUSED if event.cure == "fatal" else EndReason.MODEL_UNAVAILABLE
        self._play_clip("apology")
        agent = self.plan.agent
        if agent.fallback == "transfer" and agent.fallback_target:
            self._begin_ending(Ending("transfer", reason, agent.fallback_target), at)
        else:
            self._begin_ending(Ending("hang_up", reason), at)

    def _play_clip(self, name: str) -> None:
        clip = self.plan.agent.clips.get(name)
        if clip:
            self.state.ledger.receive_clip(clip)

    # ------------------------------------------------------------ ending

    def _hang_up_wished(self, event: ev.HangUpWished, at: float, out: Actions) -> None:
        reason = {
            "agent": EndReason.AGENT_HUNG_UP,
            "operator": EndReason.ENDED_BY_OPERATOR,
            "drain": EndReason.DRAINED,
        }[event.by]
        self._begin_ending(Ending("hang_up", reason), at)
        said_goodbye = event.by == "agent" and (self.state.turns.spoke or self.state.ledger.busy(at))
        if not said_goodbye and self.state.model == "ready":
            self.state.turns.want(Wish("goodbye", _GOODBYE))

    def _transfer_wished(self, event: ev.TransferWished, at: float, out: Actions) -> None:
        self._begin_ending(Ending("transfer", EndReason.TRANSFERRED, event.target), at)

    def _begin_ending(self, ending: Ending, at: float) -> None:
        if self.state.ending is None:
            self.state.ending = ending
            self.state.timers.set("goodbye", at + self.policies.goodbye_wait_s * 1000)

    def _leave_if_heard(self, at: float, out: Actions) -> None:
        state = self.state
        if state.ending is None or state.ending.leaving:
            return
        waiting = state.turns.responding or state.turns.wish is not None or bool(state.tools.open)
        if state.model == "ready" and waiting:
            return
        if not state.ledger.busy(at) and state.ledger.confirmed():
            self._leave(at, out)

    def _leave(self, at: float, out: Actions) -> None:
        ending = self.state.ending
        assert ending is not None and not ending.leaving, "a call leaves once"
        ending.leaving = True
        self.state.timers.stop("goodbye")
        self.state.timers.set("leaving", at + _LEAVING_MS)
        out.append(do.HangUp() if ending.what == "hang_up" else do.Transfer(ending.target))

    def _handed_over(self, event: ev.HandedOver, at: float, out: Actions) -> None:
        state = self.state
        ending = state.ending
        if ending is None or not ending.leaving:
            return
        if event.ok or ending.what == "hang_up":
            self._end(ending.reason, at, out)
            return
        out.append(do.Note("transfer_failed", event.detail))
        state.timers.stop("leaving")
        if state.model != "ready":
            state.ending = Ending("hang_up", ending.reason, leaving=True)
            state.timers.set("leaving", at + _LEAVING_MS)
            out.append(do.HangUp())
            return
        state.ending = None
        out.append(do.TellModel("note", "The transfer did not work. Tell the caller and offer something else."))
        state.turns.want(Wish("transfer_failed"))

    def _end(self, reason: EndReason, at: float, out: Actions) -> None:
        state = self.state
        assert not state.over, "a call ends once"
        for one in state.ledger.heard(at):
            state.transcript.agent_heard(one.item.item_id, one.heard_ms, cut=not one.whole)
        out.extend(do.AbandonTool(tool_call_id) for tool_call_id in state.tools.open)
        if state.model in ("opening", "ready"):
            out.append(do.CloseModel())
        state.model, state.over, state.reason = "closed", True, reason
        out.append(do.EndCall(reason))

    # ------------------------------------------------------------ time

    def _deadline(self, at: float, out: Actions) -> None:
        for name in self.state.timers.expired(at):
            if self.state.over:
                return
            if name.startswith("tool "):
                self._tool_timed_out(name[5:], out)
            else:
                _TIMERS[name](self, at, out)
        if not self.state.over:
            self._go_on(at, out)
        self._rearm(at)

    def _on_stream_wait(self, at: float, out: Actions) -> None:
        self._end(EndReason.NEVER_STARTED, at, out)

    def _on_first_media(self, at: float, out: Actions) -> None:
        if not self.state.last_frame_at:
            self._end(EndReason.NEVER_STARTED, at, out)

    def _on_barge_in(self, at: float, out: Actions) -> None:
        if self.state.turns.caller_speaking and not self._protected():
            self._barge_in(at, out)

    def _on_caller_pause(self, at: float, out: Actions) -> None:
        """The caller's leg went quiet in mid-speech: a detector that counts audio time would wait for ever."""
        state, pause = self.state, self.policies.caller_pause_ms
        if not state.turns.caller_speaking or state.model != "ready":
            return
        if at - state.last_frame_at < pause or state.caller_quiet_filled:
            state.timers.set("caller_pause", max(state.last_frame_at, at - pause / 2) + pause)
            return
        state.caller_quiet_filled = True
        state.timers.set("caller_pause", at + pause)
        if self.model.needs_silence:
            out.append(do.SendSilence(_SILENCE_MS))

    def _on_answer_filler(self, at: float, out: Actions) -> None:
        state = self.state
        if state.ledger.busy(at):
            state.timers.set("answer_filler", state.ledger.silent_at(at) + self.policies.answer_filler_s * 1000)
        elif not state.tools.open:
            out.append(do.Note("answer_late"))
            self._play_clip("filler")

    def _on_answer_retry(self, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if state.ledger.busy(at) and turns.asked is not None:
            state.timers.set("answer_retry", state.ledger.silent_at(at) + self.policies.answer_retry_s * 1000)
            state.timers.set("answer_rotate", state.ledger.silent_at(at) + self.policies.answer_rotate_s * 1000)
            return
        out.append(do.Note("answer_missing", "asking again"))
        if turns.response_id:
            if self.model.can_cancel:
                out.append(do.CancelResponse(turns.response_id))
            turns.unwelcome.append(turns.response_id)
            turns.response_id = ""
        wish = turns.asked or Wish("answer")
        turns.asked, turns.expecting, turns.doomed = None, False, False
        turns.want(wish)
        rotate_at = state.timers.at.get("answer_rotate")
        self._grant(at, out)
        if rotate_at is not None:
            state.timers.set("answer_rotate", rotate_at)

    def _on_answer_rotate(self, at: float, out: Actions) -> None:
        self.state.owes_answer = True
        self._model_lost(ev.ModelLost(self.state.session, "no answer came", "rotate"), at, out)

    def _on_ask_again(self, at: float, out: Actions) -> None:
        self.state.turns.expecting = False

    def _on_model_ready(self, at: float, out: Actions) -> None:
        self._model_lost(ev.ModelLost(self.state.session, "no session in time", "retry"), at, out)

    def _on_open_model(self, at: float, out: Actions) -> None:
        self._open_model(at, out)

    def _on_session_limit(self, at: float, out: Actions) -> None:
        state, turns = self.state, self.state.turns
        if turns.responding or turns.caller_speaking or turns.expecting or state.tools.open:
            state.timers.set("session_limit", at + 1000)  # at a turn's border
            return
        self._model_lost(ev.ModelLost(state.session, "the session's time is nearly up", "rotate"), at, out)

    def _on_filler(self, at: float, out: Actions) -> None:
        state = self.state
        if state.model == "ready" or not state.stream_id:
            return
        if not state.ledger.busy(at):
            self._play_clip("filler")
        state.timers.set("filler", max(state.ledger.silent_at(at), at) + _FILLER_AGAIN_MS)

    def _on_limit_warning(self, at: float, out: Actions) -> None:
        if self.state.ending is None:
            self.state.turns.want(Wish("limit_warning", self.policies.limit_warning))

    def _on_limit(self, at: float, out: Actions) -> None:
        if self.state.ending is None:
            self._begin_ending(Ending("hang_up", EndReason.MAX_DURATION), at)
            self.state.turns.want(Wish("goodbye", self.policies.limit_goodbye))

    def _watch_idleness(self, at: float) -> None:
        """Nobody says anything: ask once, then say goodbye."""
        state, turns, policies = self.state, self.state.turns, self.policies
        wait_s = policies.idle_hang_up_after_s if state.idle_prompted else policies.idle_prompt_after_s
        busy = turns.responding or turns.caller_speaking or turns.expecting or turns.wish is not None
        if (
            not wait_s
            or busy
            or state.tools.open
            or state.ending is not None
            or state.model != "ready"
            or not state.stream_id
        ):
            state.timers.stop("idle")
            return
        quiet_from = max(state.active_at, state.ledger.silent_at(at) if state.ledger.busy(at) else 0.0)
        state.timers.set("idle", max(quiet_from + wait_s * 1000, at + 1))

    def _on_idle(self, at: float, out: Actions) -> None:
        state = self.state
        if state.ledger.busy(at):
            return  # armed anew from when that has been heard
        state.active_at = at
        if not state.idle_prompted:
            state.idle_prompted = True
            state.turns.want(Wish("idle", self.policies.idle_prompt))
            return
        self._begin_ending(Ending("hang_up", EndReason.CALLER_SILENT), at)
        state.turns.want(Wish("goodbye", self.policies.idle_goodbye))

    def _on_goodbye(self, at: float, out: Actions) -> None:
        if self.state.ending is not None and not self.state.ending.leaving:
            out.append(do.Note("goodbye_not_confirmed"))
            self._leave(at, out)

    def _on_leaving(self, at: float, out: Actions) -> None:
        ending = self.state.ending
        assert ending is not None, "leaving means there is an ending"
        self._end(ending.reason, at, out)


_Take = Callable[[Call, Any, float, Actions], None]
_FACTS: dict[type[ev.Event], _Take] = {
    ev.CallRouted: Call._call_routed,
    ev.StreamStarted: Call._stream_started,
    ev.CallerSpoke: Call._caller_spoke,
    ev.CallerPressed: Call._caller_pressed,
    ev.MarkReturned: Call._mark_returned,
    ev.CallerLeft: Call._caller_left,
    ev.PhoneStalled: Call._phone_stalled,
    ev.CarrierMisbehaved: Call._carrier_misbehaved,
    ev.ModelReady: Call._model_ready,
    ev.ModelLost: Call._model_lost,
    ev.ResponseStarted: Call._response_started,
    ev.ModelSpoke: Call._model_spoke,
    ev.ModelSaid: Call._model_said,
    ev.ItemTranscribed: Call._item_transcribed,
    ev.WordTimed: Call._word_timed,
    ev.ItemSpoken: Call._item_spoken,
    ev.ResponseEnded: Call._response_ended,
    ev.CallerSpeechStarted: Call._caller_speech_started,
    ev.CallerSpeechStopped: Call._caller_speech_stopped,
    ev.CallerTurnEnded: Call._caller_turn_ended,
    ev.CallerTranscribed: Call._caller_transcribed,
    ev.ToolRequested: Call._tool_requested,
    ev.ModelComplained: Call._model_complained,
    ev.ToolFinished: Call._tool_finished,
    ev.HangUpWished: Call._hang_up_wished,
    ev.TransferWished: Call._transfer_wished,
    ev.HandedOver: Call._handed_over,
}
_TIMERS: dict[str, Callable[[Call, float, Actions], None]] = {
    "stream_wait": Call._on_stream_wait,
    "first_media": Call._on_first_media,
    "barge_in": Call._on_barge_in,
    "caller_pause": Call._on_caller_pause,
    "digits": Call._digits_done,
    "answer_filler": Call._on_answer_filler,
    "answer_retry": Call._on_answer_retry,
    "answer_rotate": Call._on_answer_rotate,
    "ask_again": Call._on_ask_again,
    "model_ready": Call._on_model_ready,
    "open_model": Call._on_open_model,
    "session_limit": Call._on_session_limit,
    "filler": Call._on_filler,
    "limit_warning": Call._on_limit_warning,
    "limit": Call._on_limit,
    "idle": Call._on_idle,
    "goodbye": Call._on_goodbye,
    "leaving": Call._on_leaving,
}
