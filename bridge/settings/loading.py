"""Reads every source of configuration, merges them, and lists all mistakes at once.

The order, first wins: what the caller of `load` gives, the environment, `.env`, the secrets folder, `bridge.yaml`.
Beside `bridge.yaml` lie `numbers.yaml`, `profiles.yaml` and `agents/*.yaml`; a folder that does not exist is replaced
by the packaged sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from bridge.audio.formats import MULAW_8K
from bridge.audio.prompts import load_prompt
from bridge.errors import ConfigError, UsageError
from bridge.realtime import profiles
from bridge.realtime.profiles import is_loopback
from bridge.settings import mistakes
from bridge.settings.agents import NAME, AgentFile
from bridge.settings.files import parsed, text_if_there, text_of
from bridge.settings.layers import (
    Layer,
    checked,
    from_variables,
    from_yaml,
    merge,
    ours_of,
    read_dotenv,
    secret_files,
    secret_keys,
    strings_at_secret_fields,
    unknown,
)
from bridge.settings.service import ENV_PREFIX, Settings
from bridge.settings.services import check_services

_FILES = ("bridge", "numbers", "profiles")
_SAMPLE = Path(__file__).with_name("sample")  # in a wheel; a checkout has its own `config` beside the package
_REMEDY_FOR_CLIPS = "Give a WAV file, its name relative to this file"
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
    from_dotenv = ours_of(read_dotenv(dotenv, wrong)) if dotenv else {}
    from_env = ours_of(env)
    variables = {**from_dotenv, **from_env}
    folder = _config_folder(config, variables, wrong)
    from_secrets = secret_files(variables.get("BRIDGE_SECRETS", ""), wrong)

    layers = [
        Layer("a given setting", dict(given or {})),
        from_variables(from_env, "the environment", ENV_PREFIX, wrong),
        from_variables(from_dotenv, str(dotenv), ENV_PREFIX, wrong),
        from_variables(from_secrets, "the secrets folder", "", wrong),
        from_yaml(folder / "bridge.yaml", wrong) if folder else Layer("bridge.yaml", {}),
    ]
    known = _profiles(folder / "profiles.yaml", wrong) if folder else {}
    wrong += _misnamed(folder) if folder else ()
    all_read = not wrong  # else what seems to be missing may stand where nothing could be read
    wrong += unknown(from_env, "the environment", ENV_PREFIX)
    wrong += unknown(from_dotenv, str(dotenv), ENV_PREFIX)
    wrong += unknown(from_secrets, "the secrets folder", "")
    merged, places = merge(layers)
    merged["config"] = folder or Path()
    settings, doubtful = checked(merged, places, wrong)

    secrets = (*settings.all_secrets(), *strings_at_secret_fields(merged))
    agents = _agents(folder / "agents", secrets, wrong) if folder else {}
    numbers = _numbers(folder / "numbers.yaml", agents, wrong) if folder else {}

    settings._agents = {name: agent for name, agent in agents.items() if agent is not None}
    settings._numbers = numbers
    settings._profiles = known
    settings._plain_secrets = tuple(secret_keys(layers[-1].values, Settings))
    if not {"twilio", "allow_plain"} & doubtful:
        wrong += _key_in_the_open(settings)
    if all_read and "default_agent" not in doubtful:
        wrong += _no_such_agent(settings, agents)
    if all_read and not {"realtime", "services"} & doubtful:
        wrong += check_services(settings)
    if wrong:
        raise ConfigError(wrong)
    return settings


def config_folder(config: Path | None = None) -> Path:
    """The folder `load` would read, from `config`, BRIDGE_CONFIG, `config` here, or the sample. Raises ConfigError."""
    wrong: list[str] = []
    folder = _config_folder(config, ours_of(read_dotenv(Path(".env"), wrong)) | ours_of(os.environ), wrong)
    if wrong or folder is None:
        raise ConfigError(wrong)
    return folder


def variable(name: str, *, config: Path | None = None) -> str:
    """One variable, found where `load` would find it: the environment, `.env`, the secrets folder, `bridge.yaml`.

    It need not be a setting: any program's key will do. Empty where it is nowhere; raises ConfigError for a source
    that cannot be read.
    """
    wrong: list[str] = []
    env, dotenv = dict(os.environ), read_dotenv(Path(".env"), wrong)
    ours = ours_of(dotenv) | ours_of(env)
    own = name.upper().removeprefix(ENV_PREFIX)
    secrets = secret_files(ours.get("BRIDGE_SECRETS", ""), wrong)
    folder = _config_folder(config, ours, wrong)
    in_yaml: Any = from_yaml(folder / "bridge.yaml", wrong).values if folder else {}
    if wrong:
        raise ConfigError(wrong)
    for key in own.lower().split("__"):
        in_yaml = in_yaml.get(key) if isinstance(in_yaml, dict) else None
    if in_yaml is True:
        in_yaml = "true"
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
    """An agent's file as it is written and not yet checked, and where it is.

    Raises ConfigError for one that is not there or is no YAML.
    """
    file = folder / "agents" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(other.stem for other in file.parent.glob("*.yaml"))
        near = mistakes.nearest(name, known) or f"; there are {', '.join(known) or 'none'}"
        raise ConfigError([f"{file}: there is no agent {name!r}{near}"])
    wrong: list[str] = []
    document = parsed(text_of(file, wrong) or "", file, yaml.SafeLoader, wrong)
    if wrong:
        raise ConfigError(wrong)
    return file, document


# ---------------------------------------------------------------- the folder


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


def _key_in_the_open(settings: Settings) -> Iterator[str]:
    address = urlsplit(settings.twilio.api_url)
    if address.scheme == "http" and not settings.allow_plain and not is_loopback(address.hostname or ""):
        yield (
            f"twilio.api_url = {settings.twilio.api_url!r}: would send the token of the account unencrypted."
            " Write https://, or set BRIDGE_ALLOW_PLAIN=true"
        )


def _misnamed(folder: Path) -> Iterator[str]:
    """Files that look like ours, where ours are not there, and would not be read."""
    missing = [stem for stem in _FILES if not (folder / f"{stem}.yaml").exists()]
    for file in sorted(folder.glob("*.y*ml")):
        near = mistakes.nearest(file.stem, missing, lambda name: f"{name}.yaml") if file.stem not in _FILES else ""
        if file.suffix == ".yml" and file.stem in missing:
            yield from _not_read([file])
        elif near:
            yield f"{file}: is not read{near} Rename it, or delete it"


# ---------------------------------------------------------------- files beside bridge.yaml


def _agents(folder: Path, secrets: Iterable[str], wrong: list[str]) -> dict[str, AgentFile | None]:
    """By name; None for a file that is there and does not hold."""
    files = []
    try:
        there = sorted(folder.iterdir())
        files = [file for file in there if file.name.endswith(".yaml")]
        wrong += _not_read(there)
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
        text = text_of(file, wrong) or ""
        wrong += mistakes.planted_keys(text, source=str(file), secrets=tuple(secrets))
        document = parsed(text, file, yaml.SafeLoader, wrong)
        if len(wrong) > before:
            continue
        try:
            found[file.stem] = AgentFile.model_validate(document)
        except ValidationError as error:
            wrong += mistakes.of_validation(error, AgentFile, {}, default=str(file))
        wrong += _silent_clips(file, document.get("clips"))
    return found


def _not_read(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        if file.suffix == ".yml":
            yield f"{file}: is not read. Call it {file.with_suffix('.yaml').name}"


def _silent_clips(file: Path, clips: Any) -> Iterator[str]:
    for name, clip in clips.items() if isinstance(clips, dict) else ():
        if not isinstance(clip, str):
            continue  # said already
        try:
            load_prompt(file.parent / clip, MULAW_8K)
        except UsageError as error:
            yield f"{file}: clips.{name}: {error}. {_REMEDY_FOR_CLIPS}"
        except OSError as error:
            yield f"{file}: clips.{name} = {clip!r}: {error.strerror}. {_REMEDY_FOR_CLIPS}"


def _numbers(path: Path, agents: Mapping[str, Any], wrong: list[str]) -> dict[str, str]:
    """Number or pattern -> agent. Read as text: YAML takes a bare +15550100 for an integer and drops the plus."""
    found: dict[str, str] = {}
    for number, agent in parsed(text_if_there(path, wrong), path, yaml.BaseLoader, wrong).items():
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
        return profiles.load_profiles(text_if_there(path, wrong), source=str(path))
    except ConfigError as error:
        wrong += error.mistakes
        return dict(profiles.builtin())


def _no_such_agent(settings: Settings, agents: Mapping[str, Any]) -> Iterator[str]:
    if agents and settings.default_agent not in agents:
        near = mistakes.nearest(settings.default_agent, agents) or f"; there are {', '.join(agents)}"
        yield f"default_agent = {settings.default_agent!r}: there is no such agent{near}"
