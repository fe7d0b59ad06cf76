"""The README and its companions, held to the code: what they name exists, and what exists is named.

Tables of settings and model services are compared word by word with what the code says of itself, so a test that fails
here prints the rows to put in.
"""

import ast
import asyncio
import importlib.metadata
import io
import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import typer.main
from dotenv import dotenv_values
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bridge
from bridge import cli, settings
from bridge.errors import EndReason
from bridge.localmodel.server import LocalModel
from bridge.metrics import Metrics
from bridge.realtime import profiles
from bridge.rehearsal.run import Run, run_one
from bridge.sim import scenario, voices
from bridge.tools.toolbox import Toolbox
from bridge.web.app import make_app
from bridge.web.service import import_tools
from tests.web.switchboards import FakeSwitchboard

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
BLOCKS = [
    (language, textwrap.dedent(block))
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # a group, since there are several

FIRST = "python3 -m venv .venv && .venv/bin/pip install -e '.[local,test]' && .venv/bin/"


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def in_plain_words(value: str) -> str:
    return re.sub(r"(?<![\d.])(\d+)\.0(?![\d.])", r"\1", value)


def rows_of_variables() -> list[str]:
    return [
        row(code(variable(one.key)), one.type, in_plain_words(one.default), one.description)
        for one in settings.describe()
    ]


def variable(key: str) -> str:
    return "BRIDGE_" + key.upper().replace("*", "<NAME>").replace(".", "__")


def rows_of_agents_fields() -> list[str]:
    return [
        row(code(one.key), one.type, in_plain_words(one.default), one.description) for one in settings.describe_agent()
    ]


def rows_of_profiles() -> list[str]:
    shapes = {"ga": "current", "beta": "beta", "hybrid": "current, xAI's form"}
    return [
        row(
            code(name),
            one.title,
            code(one.url),
            "asked for" if one.needs_key else "not asked for",
            shapes[one.shape],
            "yes" if one.can_truncate else "no",
        )
        for name, one in profiles.builtin().items()
    ]


def commands_in_blocks() -> Iterable[list[str]]:
    for language, block in BLOCKS:
        if language != "sh":
            continue
        for line in block.splitlines():
            for part in re.split(r"&&|\|\||[;|]", line.split(" #")[0]):
                words = shlex.split(part)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if words and Path(words[0]).name == "voice-bridge":
                    yield words[1:]


@pytest.mark.parametrize("table", [rows_of_variables, rows_of_agents_fields, rows_of_profiles])
def test_the_readme_says_of_every_setting_what_the_code_says(table: Callable[[], list[str]]) -> None:
    rows = table()
    missing = [one for one in rows if one not in README.splitlines()]
    assert not missing, "not in the README:\n" + "\n".join(missing)


def test_the_readme_knows_no_setting_that_is_gone() -> None:
    named = set(re.findall(r"BRIDGE_[A-Z_<>]*[A-Z>]", README)) - {"BRIDGE_REALTIME"}  # the last: a group's name
    assert named == {variable(one.key) for one in settings.describe()}
    fields = {one.key for one in settings.describe_agent()}
    table = README.split("### An agent's file")[1].split("\n### ")[0].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w.*]+)` \|", table, re.MULTILINE)) == fields


def test_the_examples_in_the_readme_are_a_configuration_without_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env: dict[str, str] = {}
    for language, block in BLOCKS:
        if language in ("yaml", "python") and block.startswith("# "):
            place = tmp_path / block.split()[1].rstrip(",")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block, "utf-8")
        elif language == "dotenv":
            env |= {name: value or "" for name, value in dotenv_values(stream=io.StringIO(block)).items()}
    read = settings.load(env, config=tmp_path / "config")
    assert read.agents.keys() == {"front-desk"} and len(read.numbers) == 2
    assert not settings.insecure(read)
    monkeypatch.syspath_prepend(tmp_path)
    import_tools(read, Toolbox())


@pytest.mark.skipif(not voices.speaks(), reason="nobody can speak here: the extra `local` is not installed")
def test_the_scenario_in_the_readme_holds(tmp_path: Path) -> None:
    block = next(block for language, block in BLOCKS if language == "yaml" and "expect:" in block)
    file = tmp_path / block.splitlines()[0].removeprefix("# ")
    file.write_text(block, "utf-8")
    (result,) = run_one(scenario.load(file), Run())
    assert result.outcome is not None and result.outcome.truncations and not result.failures


@pytest.mark.skipif(not voices.speaks(), reason="nobody can speak here: the extra `local` is not installed")
async def test_the_program_in_the_readme_gets_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    program = next(block for language, block in BLOCKS if language == "python" and "RealtimeClient" in block)
    async with LocalModel() as model:
        own = f'profile="local", url="ws://127.0.0.1:{model.port}/v1/realtime"'
        assert program.count('profile="local"') == 1
        await asyncio.to_thread(exec, program.replace('profile="local"', own), {})
    assert re.fullmatch(r".*We are open from nine .* \(\d{4,5} ms\)\n", capsys.readouterr().out)


def test_the_two_commands_stand_in_the_readme_as_they_are_tested() -> None:
    lines = {line for language, block in BLOCKS if language == "sh" for line in block.splitlines()}
    assert {FIRST + "voice-bridge demo", FIRST + "pytest"} <= lines


def test_every_end_of_a_call_is_explained() -> None:
    explained = dict(re.findall(r"^\| `([a-z_]+)` \| (.{20,}) \|$", README, re.MULTILINE))
    assert {reason.value for reason in EndReason} <= set(explained)


def test_every_failure_of_the_model_service_in_the_readme_is_tried_and_no_other() -> None:
    explained = re.findall(r"^\| F(\d\d) \| .{10,} \| .{4,} \|$", README, re.MULTILINE)
    assert explained == [f"{number:02}" for number in range(1, 23)]
    calls = "".join(path.read_text("utf-8") for path in (TOP / "tests" / "rehearsal").glob("test_*.py"))
    assert set(explained) <= set(re.findall(r"_f(\d\d)(?=_)", calls))


def test_every_command_in_the_readme_exists_with_its_options() -> None:
    found = list(commands_in_blocks())
    assert {words[0] for words in found} >= {"serve", "demo", "check"}
    for words in found:
        assert words[0] in COMMANDS, words
        known = {name for parameter in COMMANDS[words[0]].params for name in parameter.opts}
        assert {word for word in words[1:] if word.startswith("--")} <= known, words


def test_every_command_is_named_in_the_readme_and_no_other() -> None:
    assert set(re.findall(r"`voice-bridge (\w+)`", README)) == {n for n, one in COMMANDS.items() if not one.hidden}


def test_every_link_and_every_path_of_ours_leads_somewhere() -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in link]
    paths = re.findall(r"`((?:bridge|config|tests)/[\w./*-]*)`", README)
    assert paths
    assert not [path for path in [*links, *paths] if path and not list(TOP.glob(path))]


def test_every_anchor_in_the_readme_is_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_every_http_address_in_the_readme_is_answered() -> None:
    async def media(request: object) -> None: ...

    app = make_app(settings.load({}), FakeSwitchboard(), media=media)  # type: ignore[arg-type]
    ours = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    named = set(
        re.findall(r"(?<![\w/.-])(?:https://[\w.<> -]+?)?(/(?:twilio/[a-z-]+|healthz|readyz|metrics))\b", README)
    )
    assert named == ours


def test_every_metric_in_the_readme_is_counted() -> None:
    metrics = Metrics()
    metrics.follow(lambda: 0)
    text = metrics.text().decode()
    named = set(re.findall(r"`(bridge_[a-z_]+)`", README))
    assert named
    assert not [name for name in named if f"# HELP {name} " not in text]


def test_every_room_stands_in_the_package_docstring_and_in_the_readme() -> None:
    rooms = {path.parent.name for path in (TOP / "bridge").glob("*/__init__.py")}
    assert bridge.__doc__ is not None
    assert rooms <= set(re.findall(r"\w+", bridge.__doc__))
    layout = README.split("## Layout")[1].split("\n## ")[0]
    assert rooms <= set(re.findall(r"\w+", layout))


def test_no_document_names_a_path_of_somebodys_machine() -> None:
    documents = [TOP / name for name in ("README.md", "CHANGELOG.md", "Dockerfile", "pyproject.toml", ".ci/run")]
    documents += (TOP / "config").rglob("*.yaml")
    own_paths = re.compile(r"(?<![\w./<])/(?:home|root|work|Users|tmp)/")
    assert not [path.name for path in documents if own_paths.search(path.read_text("utf-8"))]


def test_the_changelog_begins_with_this_version() -> None:
    changes = (TOP / "CHANGELOG.md").read_text("utf-8")
    first = re.search(r"^## ([\w.]+)", changes, re.MULTILINE)
    assert first is not None and first[1] == bridge.__version__


# ---------------------------------------------------------------- what is required


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    optional = [one for extra in project["optional-dependencies"].values() for one in extra]
    return [Requirement(one) for one in [*project["dependencies"], *optional]]


def test_the_lock_knows_every_requirement_and_no_index_but_the_public_one() -> None:
    lock = tomllib.loads((TOP / "uv.lock").read_text("utf-8"))
    ours = next(one for one in lock["package"] if one["name"] == "voice-bridge")
    locked = {(one["name"], one.get("specifier", "")) for one in ours["metadata"]["requires-dist"]}
    assert locked == {(canonicalize_name(one.name), str(one.specifier)) for one in requirements()}, "run: uv lock"
    sources = {one["source"].get("registry") for one in lock["package"] if one is not ours}
    assert sources == {"https://pypi.org/simple"}


def test_everything_that_is_imported_is_required() -> None:
    asked_for = {canonicalize_name(one.name) for one in requirements()} | {"pydantic-core"}  # pydantic pins its core
    installed = importlib.metadata.packages_distributions()
    own = {"bridge", "tests"}
    foreign = {}
    benches = TOP / "tests" / "bench"  # they compare with what happens to be installed
    for path in [*(TOP / "bridge").rglob("*.py"), *(TOP / "tests").rglob("*.py")]:
        if benches in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import():
                    names = [one.name for one in node.names]
                case ast.ImportFrom(level=0):
                    names = [node.module or ""]
                case _:
                    continue
            foreign.update({name.split(".")[0]: path.name for name in names})
    unasked = {
        name: where
        for name, where in foreign.items()
        if name not in own and name in installed and not asked_for & {canonicalize_name(one) for one in installed[name]}
    }
    assert unasked == {}
