"""The client's tools: definitions, running them, and the rule that several calls of one response get one answer.

Law: outputs are submitted as they come; an answer is asked for once, when the response that made the calls has ended
completely and all its outputs are in.
"""

from __future__ import annotations

import asyncio
import inspect
import reprlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge.errors import UsageError
from bridge.realtime import given
from bridge.realtime.conversation import ToolCall
from bridge.realtime.dialect import frame
from bridge.realtime.emitter import being_cancelled


@dataclass(frozen=True, slots=True)
class Tool:
    definition: dict[str, Any]
    run: Callable[..., Any]


@dataclass(slots=True)
class _Round:
    """The calls of one response."""

    running: int = 0
    answered: int = 0
    ended: bool = False
    completed: bool = False


class ToolBelt:
    """`answer(call_id, output)` submits an output; `ask()` wants one response."""

    def __init__(self, answer: Callable[[str, str], Awaitable[None]], ask: Callable[[], None]) -> None:
        self._answer = answer
        self._ask = ask
        self._tools: dict[str, Tool] = {}
        self._rounds: dict[str, _Round] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._tools

    def add(self, definition: Mapping[str, Any], run: Callable[..., Any]) -> Tool:
        if not isinstance(definition, Mapping):
            raise UsageError(
                f"definition: found {reprlib.repr(definition)}; give a mapping with the tool's name, description and"
                " parameters"
            )
        name = definition.get("name")
        if not isinstance(name, str) or not name:
            raise UsageError("a tool needs a name")
        if name in self._tools:
            raise UsageError(f"tool {name!r} was added already; remove it first")
        if not callable(run):
            raise UsageError(f"tool {name!r} needs something to call")
        given.as_json(f"the definition of tool {name!r}", {**definition})
        tool = self._tools[name] = Tool({"type": "function", **definition}, run)
        return tool

    def remove(self, name: str) -> None:
        if name not in self:
            raise UsageError(f"tool {name!r} was never added")
        del self._tools[name]

    def clear(self) -> None:
        self._tools.clear()
        self.forget()

    def forget(self) -> None:
        """The session is over: nothing of it is answered any more."""
        self._rounds.clear()

    def definitions(self) -> list[dict[str, Any]]:
        return [tool.definition for tool in self._tools.values()]

    def run(self, call: ToolCall, response_id: str) -> Coroutine[Any, Any, None]:
        """One call, from its arguments to its submitted output; counted as running from now, not its first step."""
        calls = self._rounds.setdefault(response_id, _Round())
        calls.running += 1
        return self._run(call, response_id, calls)

    async def _run(self, call: ToolCall, response_id: str, calls: _Round) -> None:
        try:
            output = await self._output(call)
            if self._rounds.get(response_id) is calls:
                await self._answer(call.call_id, output)
                calls.answered += 1
        finally:
            calls.running -= 1
        self._settle(response_id, calls)

    async def _output(self, call: ToolCall) -> str:
        try:
            arguments = msgspec.json.decode(call.arguments or "{}")
            result = self._tools[call.name].run(arguments)
            if inspect.isawaitable(result):
                result = await result
            return frame(result).decode()
        except (Exception, asyncio.CancelledError) as error:
            # Whatever it is, the model should hear of it and the conversation go on.
            if isinstance(error, asyncio.CancelledError) and being_cancelled():
                raise
            return frame({"error": str(error) or type(error).__name__}).decode()

    def response_ended(self, response_id: str, *, completed: bool) -> None:
        calls = self._rounds.get(response_id)
        if calls is not None:
            calls.ended, calls.completed = True, completed
            self._settle(response_id, calls)

    def _settle(self, response_id: str, calls: _Round) -> None:
        if not calls.ended or calls.running or self._rounds.get(response_id) is not calls:
            return
        del self._rounds[response_id]
        if calls.completed and calls.answered:
            self._ask()
