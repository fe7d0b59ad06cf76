"""Tools under a hostile model, and tools that misbehave themselves."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.call import events as ev
from bridge.call.plan import ToolSpec
from bridge.errors import UsageError
from bridge.tools.builtin import hang_up, transfer
from bridge.tools.toolbox import CallInfo, Toolbox, load, mismatch
from tests.call.playbook import plan

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["a", "b"]},
        "count": {"type": "integer"},
        "price": {"type": "number"},
        "sure": {"type": "boolean"},
        "maybe": {"type": ["string", "null"]},
        "rows": {
            "type": "array",
            "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}},
        },
    },
    "required": ["name"],
    "additionalProperties": False,
}
ECHO = ToolSpec("echo", "echoes", SCHEMA)


def call(told: list[ev.Event] | None = None, **targets: str) -> CallInfo:
    import msgspec

    made = plan()
    agent = msgspec.structs.replace(made.agent, transfer_targets=targets)
    return CallInfo(msgspec.structs.replace(made, agent=agent), (told if told is not None else []).append)


async def echo(arguments: dict[str, Any], call: CallInfo) -> dict[str, Any]:
    return arguments


async def run(tool: Any, arguments: str = '{"name": "a"}', spec: ToolSpec = ECHO) -> tuple[Any, bool]:
    output, failed = await Toolbox({spec.name: tool}).run(spec, arguments, call())
    return json.loads(output), failed


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments",
    ['{"name": "a"}', '{"name":"b","count":3,"price":3,"sure":true,"maybe":null,"rows":[{"id":1},{"id":2,"x":0}]}'],
)
async def test_arguments_that_fit_reach_the_tool(arguments: str) -> None:
    assert await run(echo, arguments) == (json.loads(arguments), False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "lacks name"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ('"name"', "not an object"),
        ("[" * 100_000, "not JSON"),
        ('{"name":"\\ud800"}', "not JSON"),
        ('{"name":"c"}', "name should be one of"),
        ('{"name":1}', "name should be of type string"),
        ('{"name":"a","count":1.5}', "count should be of type integer"),
        ('{"name":"a","count":true}', "count should be of type integer"),
        ('{"name":"a","price":"1"}', "price should be of type number"),
        ('{"name":"a","sure":"yes"}', "sure should be of type boolean"),
        ('{"name":"a","maybe":1}', "maybe should be of type string or null"),
        ('{"name":"a","rows":{}}', "rows should be of type array"),
        ('{"name":"a","rows":[{"id":1},{}]}', "rows[1] lacks id"),
        ('{"name":"a","__class__":1}', "unknown fields: __class__"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_to_the_model_and_no_tool_runs(arguments: str, said: str) -> None:
    async def never(arguments: dict[str, Any], call: CallInfo) -> None:
        raise AssertionError("it ran")

    output, failed = await run(never, arguments)
    assert failed and said in output["error"]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_no_arguments_make_a_tool_raise(arguments: str) -> None:
    output, failed = asyncio.run(Toolbox({"echo": echo}).run(ECHO, arguments, call()))
    assert failed == ("error" in json.loads(output))


def test_mutated_arguments_never_raise() -> None:
    dice = random.Random(5)
    right = b'{"name":"b","count":3,"price":3,"sure":true,"maybe":null,"rows":[{"id":1},{"id":2}]}'

    async def all_of_them() -> None:
        box, info = Toolbox({"echo": echo}), call()
        for _ in range(3000):
            wrong = bytearray(right)
            for _ in range(dice.randrange(1, 5)):
                wrong[dice.randrange(len(wrong))] = dice.randrange(256)
            output, failed = await box.run(ECHO, wrong.decode("utf-8", "replace"), info)
            assert failed == ("error" in json.loads(output))

    asyncio.run(all_of_them())


def test_a_schema_of_unknown_words_refuses_nothing() -> None:
    assert mismatch({"x": 1}, {}) == ""
    assert mismatch(1, {"type": "novelty"}) == ""
    assert mismatch([1], {"type": "array", "items": True}) == ""


# ---------------------------------------------------------------- answers


async def test_a_text_goes_to_the_model_as_it_is_and_other_values_as_json() -> None:
    async def text(arguments: dict[str, Any], call: CallInfo) -> str:
        return '{"ready": "at noon"}'

    async def value(arguments: dict[str, Any], call: CallInfo) -> Any:
        return ["ü", None]

    assert await run(text) == ({"ready": "at noon"}, False)
    assert await run(value) == (["ü", None], False)


async def test_half_a_character_in_an_answer_is_replaced_because_nothing_could_carry_it() -> None:
    async def names_a_file(arguments: dict[str, Any], call: CallInfo) -> str:
        return '"caf\udce9.txt"'

    assert await run(names_a_file) == ("caf?.txt", False)


@pytest.mark.parametrize(
    "answer",
    [object(), float("nan"), {1, 2}, b"bytes", "x" * 70_000, ["x" * 70_000], {("a", "b"): 1}],
    ids=lambda a: type(a).__name__,
)
async def test_an_answer_that_is_no_json_or_too_long_is_a_failure_the_model_is_told_of(answer: Any) -> None:
    async def odd(arguments: dict[str, Any], call: CallInfo) -> Any:
        return answer

    with capture_logs():
        output, failed = await run(odd)
    assert failed and set(output) == {"error"}


@pytest.mark.parametrize("error", [KeyError("secret-canary"), SystemExit(3), RecursionError(), TimeoutError()])
async def test_what_a_tool_raises_is_one_line_to_the_model_and_a_traceback_to_the_log(error: BaseException) -> None:
    async def broken(arguments: dict[str, Any], call: CallInfo) -> None:
        raise error

    with capture_logs() as logs:
        output, failed = await run(broken)
    assert failed and output == {"error": type(error).__name__}
    assert [entry["event"] for entry in logs] == ["tool_failed"]


async def test_a_tool_that_is_no_coroutine_function_is_a_failure() -> None:
    with capture_logs():
        output, failed = await run(lambda arguments, call: {"ok": True})
    assert failed and output == {"error": "TypeError"}


async def test_cancelling_goes_through() -> None:
    async def slow(arguments: dict[str, Any], call: CallInfo) -> None:
        await asyncio.sleep(60)

    running = asyncio.ensure_future(run(slow))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# ---------------------------------------------------------------- where tools come from


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "kitchen_tools.py").write_text(
        "async def menu(arguments, call): return 'pizza'\n"
        "async def other(arguments, call): return 'pasta'\n"
        "def plain(arguments, call): return 'raw'\n"
        "number = 3\n"
    )
    (tmp_path / "kitchen_broken.py").write_text("raise SystemExit('import me not')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "kitchen_tools"  # type: ignore[misc]  # a fixture that cleans up
    sys.modules.pop("kitchen_tools", None)


async def test_tools_are_known_by_where_they_come_from_not_by_name(module: str) -> None:
    box = Toolbox()
    first = ToolSpec("menu", "", {"type": "object"}, entry=f"{module}:menu")
    second = ToolSpec("menu", "", {"type": "object"}, entry=f"{module}:other")
    assert await box.run(first, "{}", call()) == ("pizza", False)
    assert await box.run(second, "{}", call()) == ("pasta", False), "another agent's tool of the same name"


async def test_an_agents_own_tool_cannot_be_mistaken_for_a_built_in_one(module: str) -> None:
    own = ToolSpec("hang_up", "", {"type": "object"}, kind="python", entry=f"{module}:menu")
    built_in = ToolSpec("hang_up", "", {"type": "object"}, kind="builtin")
    told: list[ev.Event] = []
    box = Toolbox()
    assert await box.run(own, "{}", call(told)) == ("pizza", False) and not told
    await box.run(built_in, "{}", call(told))
    assert told == [ev.HangUpWished("agent")]


@pytest.mark.parametrize(
    "entry", ["nowhere:tool", "{}:nothing", "{}:number", "{}:plain", "{}", "", ":", "kitchen_broken:x", "..:x"]
)
async def test_what_cannot_be_imported_is_a_sentence_and_never_breaks_a_call(module: str, entry: str) -> None:
    entry = entry.format(module)
    with pytest.raises(UsageError, match="tool"):
        load(entry)
    assert len(Toolbox().import_all([entry, f"{module}:menu"])) == 1
    with capture_logs():
        output, failed = await Toolbox().run(ToolSpec("x", "", {"type": "object"}, entry=entry), "{}", call())
    assert failed and set(json.loads(output)) == {"error"}


def test_a_tool_must_take_its_arguments_and_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kitchen_takes.py").write_text(
        """from functools import wraps
async def nothing(): ...
async def one(arguments): ...
async def named(*, arguments, call): ...
async def three(arguments, call, more): ...
async def both(arguments, call, more=1): ...
async def all(*given): ...
@wraps(one)
async def wrapped(arguments, call): ...
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nothing", "one", "named", "three"):
        with pytest.raises(UsageError, match=rf"'kitchen_takes:{name}' cannot be called with \(arguments, call\): "):
            load(f"kitchen_takes:{name}")
    for name in ("both", "all", "wrapped"):
        load(f"kitchen_takes:{name}")


def test_a_name_is_given_once() -> None:
    box = Toolbox()
    box.add("menu", echo)
    for name in ("menu", "hang_up"):
        with pytest.raises(UsageError):
            box.add(name, echo)


# ---------------------------------------------------------------- built in


async def test_hanging_up_is_a_wish() -> None:
    told: list[ev.Event] = []
    assert await hang_up({}, call(told)) == {"ok": True}
    assert told == [ev.HangUpWished("agent")]


async def test_a_transfer_goes_only_where_the_agents_file_says() -> None:
    told: list[ev.Event] = []
    info = call(told, operator="+15550009")
    assert await transfer({"target": "operator"}, info) == {"ok": True}
    assert told == [ev.TransferWished("+15550009")]
    for hostile in ("+15550009", "Operator", "", "operator ", "../operator", None, 3):
        answer = await transfer({"target": hostile}, info)
        assert "no such target" in answer["error"] and "+15550009" not in str(answer)
    assert len(told) == 1
