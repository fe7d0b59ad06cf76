"""The tools of all agents: found, arguments checked, run under the call's own time limit (the core's deadline).

A tool is a coroutine function `(arguments: dict, call: CallInfo)` that returns text, or what JSON can say. What it
raises becomes an error the model is told in one line; the traceback goes to the log. Assume the model is hostile:
arguments are checked against the schema, names against the agent's list.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import msgspec
import structlog

from bridge.call import events as ev
from bridge.call.plan import CallPlan, ToolSpec
from bridge.errors import UsageError
from bridge.tools.builtin import BUILTIN

log = structlog.get_logger()

_MOST_OUTPUT = 65_536


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a tool may know and do about the call it serves."""

    plan: CallPlan
    tell: Callable[[ev.Event], None] = field(repr=False)  # give the call a fact, such as HangUpWished


Tool = Callable[[dict[str, Any], CallInfo], Awaitable[Any]]


class Toolbox:
    """Tools given by name, those of the package, and those agents' files name as `package.module:function`.

    A given one wins over the others of its name. Imported ones are known by where they come from, never by name: two
    agents may call different things the same.
    """

    def __init__(self, tools: Mapping[str, Tool] | None = None) -> None:
        self._given: dict[str, Tool] = dict(tools or {})
        self._imported: dict[str, Tool] = {}

    def add(self, name: str, tool: Tool) -> None:
        if name in self._given or name in BUILTIN:
            raise UsageError(f"there is already a tool {name!r}")
        self._given[name] = tool

    def __contains__(self, name: str) -> bool:
        """Whether a tool of this name was given."""
        return name in self._given

    def import_all(self, entries: Iterable[str]) -> list[str]:
        """Imports what calls will need, so that none has to wait for it. What cannot be imported, a sentence each."""
        mistakes = []
        for entry in entries:
            try:
                self._import(entry)
            except UsageError as error:
                mistakes.append(str(error))
        return mistakes

    async def run(self, spec: ToolSpec, arguments: str, call: CallInfo) -> tuple[str, bool]:
        """(What the model gets: a text as it is, anything else as JSON; whether it failed). Never raises of itself."""
        try:
            given = msgspec.json.decode(arguments or "{}")
        except (ValueError, RecursionError):
            return _failed("the arguments are not JSON"), True
        if not isinstance(given, dict):
            return _failed("the arguments are not an object"), True
        try:
            mistake = mismatch(given, spec.parameters)
            if mistake:
                return _failed(mistake), True
            tool = self._find(spec)
            if tool is None:
                return _failed("the tool is not installed"), True
            answer = await tool(given, call)
            text = answer if isinstance(answer, str) else json.dumps(answer, allow_nan=False)
            text = text.encode("utf-8", "replace").decode("utf-8")  # half a character, of a file's name say
        except (Exception, SystemExit) as error:  # sys.exit() in a tool would end every call
            log.exception("tool_failed", call_id=call.plan.call_id, tool=spec.name)
            return _failed(type(error).__name__), True
        if len(text) > _MOST_OUTPUT:
            return _failed("the answer was too long"), True
        return text, False

    def _find(self, spec: ToolSpec) -> Tool | None:
        given = self._given.get(spec.name)
        if given is not None:
            return given
        if spec.kind == "builtin":
            return BUILTIN.get(spec.name)
        return self._import(spec.entry) if spec.kind == "python" and spec.entry else None

    def _import(self, entry: str) -> Tool:
        if entry not in self._imported:
            self._imported[entry] = load(entry)
        return self._imported[entry]


def load(entry: str) -> Tool:
    """A tool from `package.module:function`. Raises UsageError for what is not an importable async function of
    (arguments, call).
    """
    module, _, name = entry.partition(":")
    try:
        tool = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        remedy = ". Install it, or start where its file lies" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"tool {entry!r} cannot be imported: {type(error).__name__}: {error}{remedy}") from error
    if not inspect.iscoroutinefunction(tool):
        raise UsageError(f"tool {entry!r} is not an async function")
    try:
        inspect.signature(tool, follow_wrapped=False).bind({}, None)
    except TypeError as error:
        raise UsageError(f"tool {entry!r} cannot be called with (arguments, call): {error}") from None
    return tool  # type: ignore[no-any-return]  # getattr gives Any; what it is was just checked


def _failed(why: str) -> str:
    return json.dumps({"error": why})


_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


def _is(given: Any, kind: str) -> bool:
    """A type nobody knows is no reason to refuse. True and false are numbers in Python alone."""
    if kind not in _TYPES:
        return True
    return isinstance(given, _TYPES[kind]) and not (isinstance(given, bool) and kind in ("number", "integer"))


def mismatch(given: Any, schema: Mapping[str, Any], where: str = "arguments") -> str:
    """The first way in which a value breaks a JSON Schema, in words; empty: none.

    Knows type, required, properties, enum, items, additionalProperties: what tool schemas of realtime models use.
    """
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(given, kind) for kind in kinds):
        return f"{where} should be of type {' or '.join(kinds)}"
    if "enum" in schema and given not in schema["enum"]:
        return f"{where} should be one of {schema['enum']}"
    if isinstance(given, dict):
        properties = schema.get("properties", {})
        missing = [name for name in schema.get("required", ()) if name not in given]
        if missing:
            return f"{where} lacks {', '.join(missing)}"
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            extra = [name for name in given if name not in properties]
            if extra:
                return f"{where} has unknown fields: {', '.join(extra)}"
        for name, value in given.items():
            if name in properties and (mistake := mismatch(value, properties[name], f"{where}.{name}")):
                return mistake
    if isinstance(given, list) and isinstance(schema.get("items"), dict):
        for number, value in enumerate(given):
            if mistake := mismatch(value, schema["items"], f"{where}[{number}]"):
                return mistake
    return ""
