"""What settings exist, which of them are in an unsafe position, and the shape of an agent's file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr

from bridge.settings.agents import AgentFile
from bridge.settings.mistakes import models_in
from bridge.settings.service import Settings

_PLAIN_TYPES = (
    ("SecretStr", "secret"),
    ("dict", "table"),
    ("tuple", "list"),
    ("bool", "true | false"),
    ("int", "number"),
    ("float", "number"),
)


class Described(NamedTuple):
    key: str
    type: str
    default: str
    description: str


def describe() -> Iterator[Described]:
    """Every setting of the service, in the order of the files; `*` stands for a name of the operator's own."""
    yield from _rows(Settings, "")


def describe_agent() -> Iterator[Described]:
    """Every field of an agent's file."""
    yield from _rows(AgentFile, "")


def agent_schema() -> dict[str, Any]:
    """JSON Schema of an agent's file, for editors (`# yaml-language-server: $schema=...`)."""
    schema = AgentFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "voice-bridge agent"
    return schema


def insecure(settings: Settings) -> list[str]:
    """A sentence for each setting that trades safety for convenience."""
    found = []
    if not settings.twilio.validate_signatures:
        found.append(
            "BRIDGE_TWILIO__VALIDATE_SIGNATURES is false: whoever knows the address can start calls at your cost."
        )
    elif not settings.twilio.secrets and not settings.is_public:
        found.append(
            "BRIDGE_TWILIO__AUTH_TOKEN is not set: unsigned webhooks are accepted, from this machine and for it only; "
            "through a TCP tunnel anybody can seem to be that."
        )
    if settings.public_url.startswith("http://") and settings.is_public:
        found.append(
            "BRIDGE_PUBLIC_URL is http://: calls travel readable by everybody on the way; Twilio itself refuses it."
        )
    if settings.allow_plain:
        found.append("BRIDGE_ALLOW_PLAIN is true: keys and voices may travel unencrypted to other machines.")
    if settings.metrics_access == "anyone":
        found.append("BRIDGE_METRICS_ACCESS is anyone: whoever reaches the port can read how many calls there are.")
    found += [
        f"bridge.yaml holds {key} in plain text: move it to the environment or the secrets folder."
        for key in settings.plain_secrets
    ]
    return found


def _rows(model: type[BaseModel], prefix: str) -> Iterator[Described]:
    for name, field in model.model_fields.items():
        parts = list(models_in(field.annotation))
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if not nested:
            default = "" if field.is_required() else _shown(field.default)
            yield Described(prefix + name, _type_name(field.annotation), default, field.description or "")
        for part in parts:
            own_names = "dict" in repr(field.annotation)
            below = f"{prefix}{name}." if not own_names else f"{prefix}{name}.*."
            yield from _rows(part, below)


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr) or value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(map(str, value))
    return str(value)


def _type_name(annotation: Any) -> str:
    text = repr(annotation)
    if "Literal" in text:
        words = [str(word) for word in _words(annotation)]
        return " | ".join(words + [f"{name}: ..." for part in models_in(annotation) for name in part.model_fields])
    for python, plain in _PLAIN_TYPES:
        if python in text:
            return plain
    return "text"


def _words(annotation: Any) -> Iterator[Any]:
    """The words a value may be, of a Literal however deep in the annotation."""
    for argument in getattr(annotation, "__args__", ()):
        if isinstance(argument, str | int):
            yield argument
        else:
            yield from _words(argument)
