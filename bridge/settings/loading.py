"""Reads every source of configuration, merges them, and lists all mistakes at once.

The order, first wins: what the caller of `load` gives, the environment, `.env`, the secrets folder, `bridge.yaml`.
Beside `bridge.yaml` lie `numbers.yaml`, `profiles.yaml` and `agents/*.yaml`; a folder that does not exist is replaced
by the packaged sample.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from bridge.audio.formats import MULAW_8K
from bridge.audio.prompts import load_prompt
from bridge.errors import ConfigError, UsageError
from bridge.realtime import profiles
from bridge.settings import mistakes
from bridge.settings.agents import NAME, AgentFile
from bridge.settings.service import ENV_PREFIX, Settings
from bridge.settings.services import check_services

_SAMPLE = Path(__file__).with_name("sample")  # in a wheel; a checkout has its own `config` beside the package
# as Twilio writes who was called: +15550123, sip:desk@pbx.example, client:desk
_NUMBER = re.compile(r"\+[0-9]+\*?[0-9]*|\+?\*[^\s*]*|[A-Za-z][^\s*]*\*?[^\s*]*")


def load(
    env: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    dotenv: Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings, with agents, numbers and profiles. Raises ConfigError with every mistake found.

    Without `env` the process's environment and `.env` in the working directory are read; with it only what is given.
    `config` is the folder (else BRIDGE_CONFIG, else `config`); `given` are settings that win over all others, nested
    as in bridge.yaml.
    """
    if env is None:
        env = os.environ
        dotenv = dotenv or Path(".env")
    wrong: list[str] = []
    from_dotenv = _ours(_dotenv(dotenv, wrong)) if dotenv else {}
    variables = {**from_dotenv, **_ours(env)}
    folder = _config_folder(config, variables, wrong)

    layers = [
        _Layer("a given setting", dict(given or {})),
        _from_variables(_ours(env), "the environment", ENV_PREFIX, wrong),
        _from_variables(from_dotenv, str(dotenv), ENV_PREFIX, wrong),
        _from_variables(_secret_files(variables.get("BRIDGE_SECRETS", ""), wrong), "the secrets folder", "", wrong),
        _from_yaml(folder / "bridge.yaml", wrong) if folder else _Layer("bridge.yaml", {}),
    ]
    merged, places = _merge(layers)
    merged["config"] = folder or Path()
    settings = _checked(merged, places, wrong)
    secrets = settings.all_secrets() if settings else _strings_at_secret_fields(merged)

    agents = _agents(folder / "agents", secrets, wrong) if folder else {}
    numbers = _numbers(folder / "numbers.yaml", agents, wrong) if folder else {}
    known = _profiles(folder / "profiles.yaml", wrong) if folder else {}
    if settings is None or wrong:
        if settings is not None:
            _check_agents_exist(settings, agents, wrong)
        raise ConfigError(wrong)

    settings._agents = {name: agent for name, agent in agents.items() if agent is not None}
    settings._numbers = numbers
    settings._profiles = known
    settings._plain_secrets = tuple(_secret_keys(layers[-1].values, Settings))
    _check_agents_exist(settings, agents, wrong)
    wrong += check_services(settings)
    if wrong:
        raise ConfigError(wrong)
    return settings


def config_folder(config: Path | None = None) -> Path:
    """The folder `load` would read, from `config`, BRIDGE_CONFIG, `config` here, or the sample. Raises ConfigError."""
    wrong: list[str] = []
    folder = _config_folder(config, _ours(_dotenv(Path(".env"), wrong)) | _ours(os.environ), wrong)
    if wrong or folder is None:
        raise ConfigError(wrong)
    return folder


def variable(name: str, *, config: Path | None = None) -> str:
    """One variable, found where `load` would find it: the environment, `.env`, the secrets folder, `bridge.yaml`.

    It need not be a setting: any program's key will do. Empty where it is nowhere; raises ConfigError for a source
    that cannot be read.
    """
    wrong: list[str] = []
    env, dotenv = dict(os.environ), _dotenv(Path(".env"), wrong)
    ours = _ours(dotenv) | _ours(env)
    own = name.upper().removeprefix(ENV_PREFIX)
    secrets = _secret_files(ours.get("BRIDGE_SECRETS", ""), wrong)
    folder = _config_folder(config, ours, wrong)
    in_yaml: Any = _from_yaml(folder / "bridge.yaml", wrong).values if folder else {}
    if wrong:
        raise ConfigError(wrong)
    for key in own.lower().split("__"):
        in_yaml = in_yaml.get(key) if isinstance(in_yaml, dict) else None
    layers = [{key.upper(): value for key, value in layer.items()} for layer in (env, dotenv)]
    found = [layer.get(name.upper()) for layer in layers] + [secrets.get(ENV_PREFIX + own), in_yaml]
    return next((value for value in found if value and isinstance(value, str)), "")


def profiles_in(folder: Path) -> dict[str, profiles.Profile]:
    """The model services known with this configuration folder. Raises ConfigError."""
    wrong: list[str] = []
    known = _profiles(folder / "profiles.yaml", wrong)
    if wrong:
        raise ConfigError(wrong)
    return known


def agent_document(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """An agent's file as it is written and not yet checked, with its clips named in full; and where it is.

    Raises ConfigError for one that is not there or is no YAML.
    """
    file = folder / "agents" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(other.stem for other in file.parent.glob("*.yaml"))
        near = mistakes.nearest(name, known) or f"; there are {', '.join(known) or 'none'}"
        raise ConfigError([f"{file}: there is no agent {name!r}{near}"])
    wrong: list[str] = []
    document = _parsed(_text(file, wrong) or "", file, yaml.SafeLoader, wrong)
    if wrong:
        raise ConfigError(wrong)
    clips = document.get("clips")
    if isinstance(clips, dict):
        document["clips"] = {clip: str((file.parent / str(wav)).absolute()) for clip, wav in clips.items()}
    return file, document


# ---------------------------------------------------------------- layers


class _Layer:
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


def _ours(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.upper().startswith(ENV_PREFIX)}


def _dotenv(path: Path, wrong: list[str]) -> dict[str, str]:
    text = "" if os.path.isdir(path) else _text_if_there(path, wrong)  # a folder .env is somebody's virtualenv
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def _secret_files(folder: str, wrong: list[str]) -> dict[str, str]:
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
        text = _text(file, wrong)
        if text is not None:
            found[ENV_PREFIX + file.name.upper().removeprefix(ENV_PREFIX)] = text.strip()
    return found


def _config_folder(config: Path | None, variables: Mapping[str, str], wrong: list[str]) -> Path | None:
    """None for one that cannot be used."""
    named = config or (Path(variables["BRIDGE_CONFIG"]) if variables.get("BRIDGE_CONFIG") else None)
    folder = named or (Path("config") if os.path.isdir("config") else sample())
    try:
        os.stat(f"{folder}/.")  # fails too where the files in it cannot be reached
    except (FileNotFoundError, NotADirectoryError):
        wrong.append(
            f"BRIDGE_CONFIG = {str(named)!r}: there is no such folder. Create it, or leave it unset for the sample"
        )
        return None
    except OSError as error:
        wrong.append(
            f"{folder}: cannot be read: {error.strerror}. Let this user read it, or name another with BRIDGE_CONFIG"
        )
        return None
    return folder


def sample() -> Path:
    """The packaged configuration: what an installation without a `config` folder runs with."""
    return _SAMPLE if _SAMPLE.is_dir() else Path(__file__).parents[2] / "config"


def _from_variables(variables: Mapping[str, str], source: str, prefix: str, wrong: list[str]) -> _Layer:
    """Unknown names are mistakes here: pydantic-settings does not see a variable that no field asks for."""
    known = dict(variable_names(Settings))
    usable: dict[str, str] = {}
    for name, value in variables.items():
        plain = name.upper()
        if plain in known or _below_a_mapping(plain, known):
            if value:
                usable[plain] = value
        else:
            shown = plain if prefix else plain.removeprefix(ENV_PREFIX).lower()
            names = known if prefix else [name.removeprefix(ENV_PREFIX).lower() for name in known]
            wrong.append(
                f"{source}: {shown}: there is no such setting{mistakes.nearest(shown, names) or '; delete it'}"
            )
    for name in ("BRIDGE_CONFIG", "BRIDGE_SECRETS"):
        usable.pop(name, None)

    def place(path: mistakes.Path) -> str:
        name = ENV_PREFIX + "__".join(map(str, path)).upper()
        return f"{source}, {name if prefix else name.removeprefix(ENV_PREFIX).lower()}"

    try:
        return _Layer(source, _Variables(usable)(), place)
    except SettingsError as error:
        wrong.append(f"{source}: {error}. A group given in one variable must be JSON")
        return _Layer(source, {}, place)


def variable_names(model: type[BaseModel], prefix: str = ENV_PREFIX) -> Iterator[tuple[str, bool]]:
    """Every variable the service knows; True where further names of the operator's own may follow after `__`."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from variable_names(annotation, variable + "__")
        else:
            yield variable, "dict" in repr(annotation)


def _below_a_mapping(variable: str, known: Mapping[str, bool]) -> bool:
    return any(own_names and variable.startswith(name + "__") for name, own_names in known.items())


def _from_yaml(path: Path, wrong: list[str]) -> _Layer:
    document = _parsed(_text_if_there(path, wrong), path, yaml.SafeLoader, wrong)
    if "config" in document or "secrets" in document:
        wrong.append(
            f"{path}: config and secrets say where to look, so only the environment can hold them. Delete them here"
        )
    return _Layer(str(path), {key: value for key, value in document.items() if key not in ("config", "secrets")})


def _merge(layers: Iterable[_Layer]) -> tuple[dict[str, Any], dict[mistakes.Path, str]]:
    merged: dict[str, Any] = {}
    places: dict[mistakes.Path, str] = {}

    def lay(onto: dict[str, Any], values: Mapping[str, Any], layer: _Layer, path: mistakes.Path) -> None:
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


def _checked(merged: dict[str, Any], places: dict[mistakes.Path, str], wrong: list[str]) -> Settings | None:
    try:
        return Settings(**merged)
    except ValidationError as error:
        wrong += mistakes.of_validation(error, Settings, places, default="bridge.yaml")
        return None


def _strings_at_secret_fields(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """The secrets of settings that do not hold, so that agents' files are searched for them all the same."""
    return tuple(str(value) for _, value in _secret_items(merged, Settings))


def _secret_keys(values: Mapping[str, Any], model: type[BaseModel]) -> Iterator[str]:
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


# ---------------------------------------------------------------- files beside bridge.yaml


def _agents(folder: Path, secrets: Iterable[str], wrong: list[str]) -> dict[str, AgentFile | None]:
    """By name; None for a file that is there and does not hold."""
    files = []
    try:
        files = sorted(file for file in folder.iterdir() if file.name.endswith(".yaml"))
    except FileNotFoundError:
        pass  # told as one without files
    except OSError as error:
        wrong.append(f"{folder}: cannot be read: {error.strerror}. Make it a folder this user may read")
        return {}
    if not files:
        wrong.append(f"{folder}: there is no agent. Write one as {folder / 'front-desk.yaml'}")
    found: dict[str, AgentFile | None] = {}
    for file in files:
        found[file.stem] = None
        if not NAME.fullmatch(file.stem):
            wrong.append(f"{file}: the name must be lower-case letters, digits, - and _. Rename the file")
        before = len(wrong)
        text = _text(file, wrong) or ""
        wrong += mistakes.planted_keys(text, source=str(file), secrets=tuple(secrets))
        document = _parsed(text, file, yaml.SafeLoader, wrong)
        if len(wrong) > before:
            continue
        try:
            agent = AgentFile.model_validate(document)
        except ValidationError as error:
            wrong += mistakes.of_validation(error, AgentFile, {}, default=str(file))
            continue
        found[file.stem] = agent
        wrong += _silent_clips(file, agent)
    return found


def _silent_clips(file: Path, agent: AgentFile) -> Iterator[str]:
    for name, clip in agent.clips.items():
        try:
            load_prompt(file.parent / clip, MULAW_8K)
        except (UsageError, OSError) as error:
            yield f"{file}: clips.{name}: {error}. Give a WAV file, its name relative to this file"


def _numbers(path: Path, agents: Mapping[str, Any], wrong: list[str]) -> dict[str, str]:
    """Number or pattern -> agent. Read as text: YAML takes a bare +15550100 for an integer and drops the plus."""
    found: dict[str, str] = {}
    for number, agent in _parsed(_text_if_there(path, wrong), path, yaml.BaseLoader, wrong).items():
        if not _NUMBER.fullmatch(number):
            wrong.append(
                f"{path}: {number!r}: not a number or a pattern. Write digits with a + in front, and one * at most"
            )
        elif not isinstance(agent, str) or (agents and agent not in agents):
            near = mistakes.nearest(str(agent), agents) or f"; there are {', '.join(agents) or 'none'}"
            wrong.append(f"{path}: {number}: there is no agent {agent!r}{near}")
        else:
            found[number] = agent
    return found


def _profiles(path: Path, wrong: list[str]) -> dict[str, profiles.Profile]:
    try:
        return profiles.load_profiles(_text_if_there(path, wrong), source=str(path))
    except ConfigError as error:
        wrong += error.mistakes
        return dict(profiles.builtin())


def _check_agents_exist(settings: Settings, agents: Mapping[str, Any], wrong: list[str]) -> None:
    if agents and settings.default_agent not in agents:
        near = mistakes.nearest(settings.default_agent, agents) or f"; there are {', '.join(agents)}"
        wrong.append(f"default_agent = {settings.default_agent!r}: there is no such agent{near}")


def _text(path: Path, wrong: list[str]) -> str | None:
    """None where it cannot be read. What it holds is not quoted: it may be a secret."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        wrong.append(f"{path}: cannot be read: {error.strerror}. Make it a file this user may read")
    except UnicodeDecodeError as error:
        wrong.append(f"{path}: cannot be read as UTF-8 text from byte {error.start + 1} on. Save it as UTF-8")
    return None


def _text_if_there(path: Path, wrong: list[str]) -> str:
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError:
        pass  # told by reading it
    return _text(path, wrong) or ""


def _parsed(
    text: str, path: Path, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader], wrong: list[str]
) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=loader)
        if node is None:
            return {}
        wrong += [f"{path}, line {line}: {key} is written twice. Keep one" for key, line in _repeated(node)]
        document = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        # Not the error's own text: it quotes the file, which may hold a secret.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        wrong.append(f"{path}{where}: not YAML: {problem or 'it holds characters no text has'}. Mend the line")
        return {}
    if not isinstance(document, dict):
        wrong.append(f"{path}: found a {type(document).__name__}. Write settings as `name: value`")
        return {}
    return {str(key): value for key, value in document.items()}


def _repeated(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys written twice in one mapping, which YAML readers let pass: the last would win."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(key.value if isinstance(key.value, str) else "")
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item)
