"""Tool calls the model has asked for and not yet been answered.

A tool call is answered exactly once: by its result, by its time-out, or by a refusal; whatever comes later is
ignored. When the last one open is answered, the model is asked to go on, once, however many there were. A session that
follows a lost one is told that its tools still run, and their answers in words: it never asked for them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import ToolSpec
from bridge.call.turns import Wish

if TYPE_CHECKING:
    from bridge.call.desk import Desk  # which knows the state, which knows what is here

TIMED_OUT = json.dumps({"error": "the tool did not answer in time"})
UNKNOWN = json.dumps({"error": "there is no tool of that name"})
TOO_MANY = json.dumps({"error": "too many tool calls; answer with what you know"})
STILL_RUNNING = json.dumps({"status": "still running; its answer will follow; do not repeat the call"})
TIMER = "tool "  # and the tool call's id

_REMEMBERED = 256
_PATIENCE = 2  # so many refused calls in one turn; then the model is not asked to go on any more


class ToolCall(msgspec.Struct):
    tool_call_id: str
    name: str
    arguments: str
    response_id: str
    foreign: bool = False  # asked for in a session that is gone, whose successor was told that it still runs


class ToolCalls(msgspec.Struct):
    open: dict[str, ToolCall] = {}
    seen: list[str] = []  # the last ids asked for: a repeated request is not run twice
    this_turn: int = 0
    ever: int = 0
    owed: bool = False  # answered tool calls the model has not been asked to speak about

    def request(self, call: ToolCall, specs: dict[str, ToolSpec], *, per_turn: int, per_call: int) -> str | None:
        """Take a request. None: run the tool; else the output to refuse it with (empty for a repeat: say nothing)."""
        if call.tool_call_id in self.seen:
            return ""
        self.seen.append(call.tool_call_id)
        del self.seen[:-_REMEMBERED]
        if call.tool_call_id in self.open:  # a session that is gone gave a call this id, too
            return STILL_RUNNING
        self.this_turn += 1
        self.ever += 1
        if self.this_turn > per_turn or self.ever > per_call:
            return TOO_MANY
        if call.name not in specs:
            return UNKNOWN
        self.open[call.tool_call_id] = call
        return None

    def finish(self, tool_call_id: str) -> ToolCall | None:
        """The call this answers, or None if nobody waits for it."""
        return self.open.pop(tool_call_id, None)

    def new_turn(self) -> None:
        self.this_turn = 0

    def disown(self) -> None:
        """The session that asked is gone; another may give its calls the same ids."""
        self.seen.clear()
        for call in self.open.values():
            call.foreign = True


# ---------------------------------------------------------------- what is decided about them


def requested(desk: Desk, event: ev.ToolRequested) -> None:
    if not desk.turns.welcome(event.response_id):
        return  # asked for by a response that was cut: not run
    state, policies = desk.state, desk.policies
    call = ToolCall(event.tool_call_id, event.name, event.arguments, event.response_id)
    refusal = state.tools.request(
        call, desk.tool_specs, per_turn=policies.tools_per_turn, per_call=policies.tools_per_call
    )
    if refusal == "":
        return
    state.progress_at, state.asked_twice = desk.at, False
    desk.turns.expecting = False
    desk.transcript.tool_asked(event.item_id, event.tool_call_id, event.name, event.arguments, desk.at)
    if refusal is None:
        state.turn_bytes = None  # it was understood: another session that heard it again would run the tool again
        desk.ask(do.RunTool(event.tool_call_id, event.name, event.arguments))
        desk.after(TIMER + event.tool_call_id, desk.tool_specs[event.name].timeout_s * 1000)
        return
    desk.note("tool_refused", event.name)
    _answer(desk, call, refusal)


def finished(desk: Desk, event: ev.ToolFinished) -> None:
    call = desk.state.tools.finish(event.tool_call_id)
    if call is None:
        desk.note("tool_result_ignored")
        return
    desk.timers.stop(TIMER + event.tool_call_id)
    desk.active()
    _answer(desk, call, event.output)


def timed_out(desk: Desk, tool_call_id: str) -> None:
    call = desk.state.tools.finish(tool_call_id)
    if call is None:
        return
    desk.ask(do.AbandonTool(tool_call_id))
    desk.note("tool_timed_out", call.name)
    _answer(desk, call, TIMED_OUT)


def _answer(desk: Desk, call: ToolCall, output: str) -> None:
    state = desk.state
    desk.transcript.tool_answered(call.tool_call_id, output)
    if call.foreign or state.model != "ready":
        desk.tell_model("note", f"The tool {call.name} has answered by now: {output}")
    else:
        desk.ask(do.SubmitToolOutput(call.tool_call_id, output))
    state.progress_at = desk.at
    state.tools.owed = True
    ask_about_tools(desk)


def ask_about_tools(desk: Desk) -> None:
    """All answers are in and the response that asked is over: the model should go on.

    Not while the caller speaks: the answer to the caller will know, if there is to be one. Not over a goodbye.
    """
    state, turns = desk.state, desk.turns
    if not state.tools.owed or state.tools.open or turns.response_id or turns.caller_speaking:
        return
    state.tools.owed = False
    if turns.expecting:
        return
    goodbye_asked = turns.asked is not None and turns.asked.why == "goodbye"
    if state.ending is not None and (turns.spoke or turns.wish or goodbye_asked or state.ending.at_a_limit):
        return
    if state.tools.this_turn > desk.policies.tools_per_turn + _PATIENCE:
        desk.note("tools_without_end")
        return
    turns.want(Wish("tool"))
