"""Tool calls the model has asked for and not yet been answered.

A tool call is answered exactly once: by its result, by its time-out, or by a refusal; whatever comes later is
ignored. When the last one open is answered, the model should be asked to go on, once, however many there were.
"""

from __future__ import annotations

import json

import msgspec

from bridge.call.plan import ToolSpec

TIMED_OUT = json.dumps({"error": "the tool did not answer in time"})
UNKNOWN = json.dumps({"error": "there is no tool of that name"})
TOO_MANY = json.dumps({"error": "too many tool calls; answer with what you know"})
OUTCOME_UNKNOWN = json.dumps({"error": "the outcome is unknown; do not repeat the call"})


class ToolCall(msgspec.Struct):
    tool_call_id: str
    name: str
    arguments: str
    response_id: str


class ToolCalls(msgspec.Struct):
    open: dict[str, ToolCall] = {}
    seen: list[str] = []  # ids ever asked for: a repeated request is not run twice
    this_turn: int = 0
    ever: int = 0
    owed: bool = False  # answered tool calls the model has not been asked to speak about

    def request(self, call: ToolCall, specs: dict[str, ToolSpec], *, per_turn: int, per_call: int) -> str | None:
        """Take a request. None: run the tool; else the output to refuse it with (empty for a repeat: say nothing)."""
        if call.tool_call_id in self.seen:
            return ""
        self.seen.append(call.tool_call_id)
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
