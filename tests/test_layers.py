"""The picture of the rooms in `bridge/__init__.py`, kept true by reading what each file imports and does."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bridge"
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")

# What a room may import of ours, beside itself.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "reading": set(),
    "children": set(),
    "call": {"errors"},
    "audio": {"errors"},
    "telephony": {"errors", "call"},
    "realtime": {"errors", "reading", "call", "audio"},
    "tools": {"errors", "call"},
    "settings": {"errors", "reading", "call", "audio", "telephony", "realtime", "tools"},
    "records": {"errors", "call", "audio"},
    "metrics": {"errors", "call"},
    "log": {"errors", "settings"},
    "process": {"errors", "records", "log"},
    "live": {
        *("errors", "children", "call", "audio", "telephony", "realtime", "tools", "settings", "records"),
        *("metrics", "log"),
    },
    "web": {
        *(
            "errors",
            "children",
            "call",
            "audio",
            "telephony",
            "realtime",
            "tools",
            "settings",
            "records",
            "metrics",
            "log",
        ),
        "live",
    },
    "sim": {"errors", "audio", "reading"},
    "localmodel": {"errors", "children", "audio", "reading"},
}
TOP = {"rehearsal", "cli", "__main__"}  # these may import every room

PURE_ROOMS = {"call", "audio", "telephony", "errors", "reading", "children"}
PURE_FILES = {  # dialects: the model's side that touches nothing
    f"realtime/{name}.py"
    for name in (
        *("dialect", "decoder", "openai", "openai_beta", "xai", "profiles", "session", "wire", "conversation"),
        "given",
    )
}
TOUCHES = {"asyncio", "socket", "threading", "subprocess", "aiohttp", "websockets", "logging", "structlog", "pydantic"}
CLOCKS = {"time", "datetime"}


def room_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of everything a file imports, wherever in it; relative ones made absolute."""
    found = []
    package = ("bridge", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            if module == "bridge":
                found += [(node.lineno, f"bridge.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, module))
    return found


def ours(path: Path) -> list[tuple[int, str]]:
    """(line, room) of the imports of other rooms of ours."""
    rooms = [(line, module.split(".")[1]) for line, module in imports(path) if module.startswith("bridge.")]
    return [(line, room) for line, room in rooms if room != room_of(path) and room != "__version__"]


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT.parent)}:{line}"


def test_every_room_is_in_the_picture() -> None:
    assert {room_of(path) for path in FILES} <= ROOMS.keys() | TOP


def test_the_picture_has_no_circles() -> None:
    above: dict[str, set[str]] = {}
    left = dict(ROOMS)
    while left:
        free = [room for room, needs in left.items() if needs <= above.keys()]
        assert free, f"these import each other: {sorted(left)}"
        for room in free:
            above[room] = left.pop(room)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{where(path, line)} imports {other}"
        for path in FILES
        if room_of(path) == room
        for line, other in ours(path)
        if other not in ROOMS[room]
    ]
    assert not wrong


@pytest.mark.parametrize("room", ["localmodel", "sim"])
def test_a_rooms_own_picture_names_all_its_modules_and_no_others(room: str) -> None:
    told = ast.get_docstring(tree(ROOT / room / "__init__.py")) or ""
    drawn = [re.split(r" {2,}", line.strip()) for line in told.splitlines() if line.startswith("    ")]
    names = {name for cells in drawn for cell in cells[::2] for name in cell.split(", ")}
    modules = {path.stem for path in FILES if room_of(path) == room} - {"__init__"}
    assert names <= modules
    assert modules <= set(re.findall(r"\w+", told))


def test_nothing_awaits_where_everything_is_pure() -> None:
    wrong = [
        f"{where(path, node.lineno)}: {type(node).__name__}"
        for path in FILES
        if room_of(path) in PURE_ROOMS or str(path.relative_to(ROOT)) in PURE_FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not wrong


@pytest.mark.parametrize("room", ["call", "errors"])
def test_the_core_knows_no_clock_no_loop_no_log_and_no_random(room: str) -> None:
    forbidden = TOUCHES | CLOCKS | {"random", "os", "io", "pathlib", "secrets", "uuid"}
    wrong = [
        f"{where(path, line)} imports {module}"
        for path in FILES
        if room_of(path) == room
        for line, module in imports(path)
        if module.split(".")[0] in forbidden
    ]
    assert not wrong


def test_dialects_touch_nothing() -> None:
    wrong = [
        f"{where(path, line)} imports {module}"
        for path in FILES
        if room_of(path) == "telephony" or str(path.relative_to(ROOT)) in PURE_FILES
        for line, module in imports(path)
        if module.split(".")[0] in TOUCHES | CLOCKS
    ]
    assert not wrong


def test_the_files_said_to_be_pure_exist() -> None:
    assert {name for name in PURE_FILES if not (ROOT / name).exists()} == set()


def test_pydantic_is_at_the_door_only() -> None:
    wrong = [
        where(path, line)
        for path in FILES
        if room_of(path) not in ("settings", "web")
        for line, module in imports(path)
        if module.split(".")[0].startswith("pydantic")
    ]
    assert not wrong


def test_no_shell_reads_a_clock_of_its_own() -> None:
    """Time is the running loop's, so that everything also runs on a virtual one. How often a real loop looks at its
    sockets is no call's time: the pace of `serve` alone has a clock."""
    wrong = [
        f"{where(path, node.lineno)}: time.{node.attr}"
        for path in FILES
        if room_of(path) in ("live", "web", "sim") and path.name != "pace.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and node.attr in ("monotonic", "perf_counter", "sleep")
    ]
    assert not wrong


def test_nobody_but_the_core_looks_into_its_state_to_change_it() -> None:
    """Others may read what a call remembers; only `call/` writes it."""
    wrong = [
        where(path, node.lineno)
        for path in FILES
        if room_of(path) != "call"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and ".call.state" in ast.unparse(target)
    ]
    assert not wrong
