"""Mistakes in configuration, as sentences: where it stands, what was found, what to do.

A value is shown only where it cannot be a secret. Nothing here reads a file.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

# What keys of known services look like. Better to refuse a line too many than to read a key to callers.
_KEYS = re.compile(
    r"""
    \b(?:sk|pk|rk|xai|gsk|key)-[A-Za-z0-9_-]{16,}    # model services
    | \bAKIA[0-9A-Z]{16}\b                           # Amazon
    | \bgh[pousr]_[A-Za-z0-9]{30,}                   # GitHub
    | \bSK[0-9a-f]{32}\b                             # Twilio API keys
    | (?<![A-Za-z0-9])[0-9a-f]{32}(?![A-Za-z0-9])    # Twilio auth tokens, Azure keys
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.  # signed web tokens
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----
    | \bBearer\s+[A-Za-z0-9._~+/-]{16,}
    """,
    re.VERBOSE,
)
_PASSWORD = re.compile(r"//[^/@\s]*@")
_KEY_NAMES = re.compile(
    r"(?i)^\s*-?\s*[\"']?[a-z_-]*(api_?key|auth_?token|secret|password|access_?token)[\"']?\s*:\s*\S"
)


def planted_keys(text: str, *, source: str, secrets: Collection[str] = ()) -> Iterator[str]:
    """A line for each line of an agent's file that holds something like a key, comments included; never the key itself.

    Whatever stands in an agent's file may be read aloud by a model that was talked into it.
    """
    for number, line in enumerate(text.splitlines(), 1):
        known = any(len(secret) >= 6 and secret in line for secret in secrets)
        if known or _KEYS.search(line) or _KEY_NAMES.search(line):
            yield (
                f"{source}, line {number}: looks like a key or password, which a model could be talked into saying."
                " Put it into the environment or the secrets folder, and delete it here"
            )


def nearest(name: str, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    """`; did you mean x?` with x as it is `written`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {written(found[0])}?" if found else ""


def key_of(path: Sequence[str | int]) -> str:
    """Lists count from 1."""
    return "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def of_validation(
    error: ValidationError, model: type[BaseModel], places: dict[Path, str], *, default: str
) -> list[str]:
    """One line per mistake. `places` says for a path where its value came from; `default` is for the rest."""
    lines: dict[str, None] = {}
    found = [
        (detail, _resolve(model, detail["loc"])) for detail in error.errors(include_url=False, include_context=False)
    ]
    for detail, (path, field, siblings, _) in _of_the_likeliest_branch(found):
        above = (places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places)
        below = (place for key, place in places.items() if key[: len(path)] == path)
        place = next(itertools.chain(above, below), default)
        lines[f"{place}: {_sentence(detail, path, field, siblings)}"] = None
    return list(lines)


def _of_the_likeliest_branch(found: list[tuple[ErrorDetails, _Place]]) -> Iterator[tuple[ErrorDetails, _Place]]:
    """What does not fit a union is told of each of its branches: leave the one that is nearest to what was written."""
    groups: dict[Path, dict[str | int, list[tuple[ErrorDetails, _Place]]]] = {}
    for detail, place in found:
        loc = detail["loc"]
        split = place.branch if place.branch is not None else len(loc)
        branch = loc[split] if split < len(loc) else ""
        groups.setdefault(loc[:split], {}).setdefault(branch, []).append((detail, place))
    for prefix, branches in groups.items():
        inside = [
            told
            for told in branches.values()
            if all(len(detail["loc"]) > len(prefix) + 1 or detail["type"] == "value_error" for detail, _ in told)
        ]
        least = min(map(len, inside), default=0)
        yield from next((told for told in inside if len(told) == least), next(iter(branches.values())))


def _sentence(detail: ErrorDetails, path: Path, field: FieldInfo | None, siblings: Collection[str]) -> str:
    key = key_of(path) or "the file"
    match detail["type"]:
        case "extra_forbidden":
            name = str(path[-1])
            return f"{key}: there is no such setting{nearest(name, siblings) or '; delete it'}"
        case "missing":
            return f"{key}: missing. {_what_it_is(field)}"
        case _:
            problem = detail["msg"].removeprefix("Value error, ")
            problem = problem[:1].lower() + problem[1:]
            return f"{key}{_shown(detail['input'], field)}: {problem}. {_what_it_is(field)}".rstrip()


def _shown(value: Any, field: FieldInfo | None) -> str:
    if field is None or is_secret(field) or isinstance(value, dict | list | tuple | BaseModel):
        return ""
    text = _PASSWORD.sub("//***@", repr(value))
    return "" if _KEYS.search(text) else f" = {text if len(text) <= 60 else text[:57] + '...'}"


def _what_it_is(field: FieldInfo | None) -> str:
    return (field.description or "") if field else ""


def is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in repr(field.annotation)


class _Place(NamedTuple):
    path: Path  # as written in the file
    field: FieldInfo | None
    siblings: Collection[str]  # the names that would have been possible there
    branch: int | None  # where in the location the branch of a union stands


def _resolve(model: type[BaseModel], loc: Path) -> _Place:
    """Pydantic puts a union's branch into the location as well ("function-before...", a model's name): left out."""
    path: list[str | int] = []
    field: FieldInfo | None = None
    models: list[type[BaseModel]] = [model]
    branch: int | None = None
    for index, step in enumerate(loc):
        names = {name: info for m in models for name, info in m.model_fields.items()}
        if isinstance(step, str) and step in names:
            field = names[step]
            models = list(models_in(field.annotation))
            path.append(step)
        elif isinstance(step, int) or not _is_branch(step, field):
            path.append(str(step) if _is_mapping(field) else step)
            if not isinstance(step, int) and not _is_mapping(field):
                return _Place(tuple(path), None, names, branch)
        elif branch is None:
            branch = index
    return _Place(tuple(path), field, {name for m in models for name in m.model_fields}, branch)


def _is_branch(step: str, field: FieldInfo | None) -> bool:
    if field is None:
        return False
    branches = {model.__name__ for model in models_in(field.annotation)}
    return step in branches or step in ("str", "int", "float", "bool") or "[" in step or step == "literal"


def _is_mapping(field: FieldInfo | None) -> bool:
    return field is not None and "dict" in repr(field.annotation)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)
