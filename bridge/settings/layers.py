"""The sources of settings: what each brings, how it calls a setting, and all of them merged, the first winning."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from bridge.settings import mistakes
from bridge.settings.files import parsed, text_if_there, text_of
from bridge.settings.service import ENV_PREFIX, Settings


class Layer:
    """The settings one source brought, and how that source calls a setting."""

    def __init__(self, source: str, values: dict[str, Any], name: Callable[[mistakes.Path], str] | None = None) -> None:
        self.values = values
        self.place = name or (lambda path: source)


class _Variables(EnvSettingsSource):
    """pydantic-settings' reading of variables, from a mapping of ours instead of the process's environment."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


def ours_of(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.upper().startswith(ENV_PREFIX)}


def read_dotenv(path: Path, wrong: list[str]) -> dict[str, str]:
    """Empty where there is no such file. What cannot be read in it is a mistake: it may be the key's line."""
    text = "" if os.path.isdir(path) else text_if_there(path, wrong)  # a folder .env is somebody's virtualenv
    unread = [
        f"{path}, line {bound.original.line + _empty_lines(bound.original.string)}: not read. Write NAME=value, and"
        " close quotes"
        for bound in parse_stream(io.StringIO(text))
        if bound.error or (bound.value is None and (bound.key or "").upper().startswith(ENV_PREFIX))
    ]
    if unread:
        wrong += unread
        return {}
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def _empty_lines(text: str) -> int:
    """Before the first that is not."""
    return text[: len(text) - len(text.lstrip())].count("\n")


def secret_files(folder: str, wrong: list[str]) -> dict[str, str]:
    """One file per secret; the name is the variable's, with or without the prefix."""
    if not folder:
        return {}
    found: dict[str, str] = {}
    try:
        files = sorted(file for file in Path(folder).iterdir() if not file.name.startswith("."))
    except FileNotFoundError:
        wrong.append(f"BRIDGE_SECRETS = {folder!r}: there is no such folder. Create it, or unset the variable")
        return found
    except OSError as error:
        wrong.append(
            f"BRIDGE_SECRETS = {folder!r}: cannot be read: {error.strerror}. Name a folder this user may read, or unset"
            " the variable"
        )
        return found
    for file in files:
        if os.path.exists(file) and not os.path.isfile(file):
            continue  # a folder, a socket
        text = text_of(file, wrong)
        if text is not None:
            found[ENV_PREFIX + file.name.upper().removeprefix(ENV_PREFIX)] = text.strip()
    return found


def from_variables(variables: Mapping[str, str], source: str, prefix: str, wrong: list[str]) -> Layer:
    """The settings among them; `unknown` names the others."""
    known = dict(variable_names(Settings))
    usable = {name.upper(): value for name, value in variables.items() if value and _is_known(name.upper(), known)}
    for name in ("BRIDGE_CONFIG", "BRIDGE_SECRETS"):
        usable.pop(name, None)

    def place(path: mistakes.Path) -> str:
        name = ENV_PREFIX + "__".join(map(str, path)).upper()
        return f"{source}, {name if prefix else name.removeprefix(ENV_PREFIX).lower()}"

    try:
        return Layer(source, _Variables(usable)(), place)
    except SettingsError as error:
        said = str(error).partition(" from source ")[0]
        wrong.append(f"{source}: {said}. A group given in one variable must be JSON")
        return Layer(source, {}, place)


def unknown(variables: Iterable[str], source: str, prefix: str) -> Iterator[str]:
    """A sentence for each variable that no setting asks for: pydantic-settings does not see those."""

    def written(name: str) -> str:
        return (prefix + name).upper() if prefix else name

    known = dict(variable_names(Settings))
    names = [name.removeprefix(ENV_PREFIX).lower() for name in known]
    for variable in variables:
        if _is_known(variable.upper(), known):
            continue
        name = variable.upper().removeprefix(ENV_PREFIX).lower()
        near = mistakes.nearest(name, names, written) or "; delete it"
        yield f"{source}: {written(name)}: there is no such setting{near}"


def variable_names(model: type[BaseModel], prefix: str = ENV_PREFIX) -> Iterator[tuple[str, bool]]:
    """Every variable the service knows; True where further names of the operator's own may follow after `__`."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from variable_names(annotation, variable + "__")
        else:
            yield variable, "dict" in repr(annotation)


def _is_known(variable: str, known: Mapping[str, bool]) -> bool:
    below_a_mapping = any(own_names and variable.startswith(name + "__") for name, own_names in known.items())
    return variable in known or below_a_mapping


def from_yaml(path: Path, wrong: list[str]) -> Layer:
    document = parsed(text_if_there(path, wrong), path, yaml.SafeLoader, wrong)
    if "config" in document or "secrets" in document:
        wrong.append(
            f"{path}: config and secrets say where to look, so only the environment can hold them. Delete them here"
        )
    return Layer(str(path), {key: value for key, value in document.items() if key not in ("config", "secrets")})


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[mistakes.Path, str]]:
    merged: dict[str, Any] = {}
    places: dict[mistakes.Path, str] = {}

    def lay(onto: dict[str, Any], values: Mapping[str, Any], layer: Layer, path: mistakes.Path) -> None:
        for key, value in values.items():
            here = (*path, key)
            if isinstance(value, Mapping) and isinstance(onto.get(key, {}), dict):
                lay(onto.setdefault(key, {}), value, layer, here)
            elif key not in onto:
                onto[key] = value
                places[here] = layer.place(here)

    for layer in layers:
        lay(merged, layer.values, layer, ())
    return merged, places


def checked(
    merged: dict[str, Any], places: dict[mistakes.Path, str], wrong: list[str]
) -> tuple[Settings, frozenset[str | int]]:
    """The settings, and which of them, or which groups, hold a mistake and stand at their defaults because of it."""
    try:
        return Settings(**merged), frozenset()
    except ValidationError as error:
        wrong += mistakes.of_validation(error, Settings, places, default="bridge.yaml")
        doubtful = frozenset(detail["loc"][0] for detail in error.errors())
        return Settings(**{key: value for key, value in merged.items() if key not in doubtful}), doubtful


def strings_at_secret_fields(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """The secrets of settings that do not hold, so that agents' files are searched for them all the same."""
    return tuple(str(value) for _, value in _secret_items(merged, Settings))


def secret_keys(values: Mapping[str, Any], model: type[BaseModel]) -> Iterator[str]:
    for key, _ in _secret_items(values, model):
        yield key


def _secret_items(values: Mapping[str, Any], model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None or not value:
            continue
        for part in mistakes.models_in(field.annotation):
            inner = value.values() if "dict" in repr(field.annotation) and isinstance(value, Mapping) else [value]
            for one in inner:
                if isinstance(one, Mapping):
                    yield from _secret_items(one, part, f"{path}{key}.")
        if mistakes.is_secret(field):
            yield path + key, value
