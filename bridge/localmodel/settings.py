"""The session object: its defaults, and `session.update` checked and merged as the GA reference describes it.

Only the fields present change; an error in any field refuses the whole update; `null` switches turn detection,
transcription and noise reduction off. The rates 8000 and 16000 of `audio/pcm` are this server's addition (OpenAI has
24000 only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.audio.formats import AudioFormat
from bridge.localmodel.wire import Event

_TAKEN_AS_GIVEN = frozenset("truncation tracing prompt include parallel_tool_calls reasoning".split())
_VAD: dict[str, Event] = {
    "server_vad": {
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": True,
        "idle_timeout_ms": None,
    },
    "semantic_vad": {"eagerness": "auto", "create_response": True, "interrupt_response": True},
}
# Semantic detection waits by what was said; without understanding, how long the caller is silent has to stand for it.
_EAGERNESS_SILENCE_MS = {"low": 1200, "medium": 700, "auto": 700, "high": 400}


class Refused(Exception):
    """A client's field does not hold: becomes an `error` event and changes nothing."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.message = message
        self.param = param
        super().__init__(message)


def default_session(*, session_id: str, model: str, voice: str, expires_at: int) -> Event:
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "expires_at": expires_at,
        "output_modalities": ["audio"],
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "truncation": "auto",
        "tracing": None,
        "prompt": None,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": {"type": "server_vad", **_VAD["server_vad"]},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": voice, "speed": 1.0},
        },
    }


def merged(current: Event, update: Event, *, spoke: bool) -> Event:
    """`current` with `update` in it. `spoke`: audio was already said, the voice is fixed. Raises Refused."""
    kind = update.get("type")
    if kind is None:
        raise Refused("missing_required_parameter", "Missing required parameter: 'session.type'.", "session.type")
    _one_of(kind, ("realtime",), "session.type")
    session = dict(current)
    for key, value in update.items():
        path = f"session.{key}"
        match key:
            case "output_modalities":
                if value not in (["audio"], ["text"]):
                    raise Refused(
                        "invalid_value", f"Invalid modalities: {value!r}. Use ['audio'] or ['text'], not both.", path
                    )
                session[key] = list(value)
            case "instructions":
                session[key] = _text(value, path)
            case "audio":
                session[key] = _audio(current["audio"], mapping(value, path), spoke=spoke)
            case "tools":
                session[key] = tools(value, path)
            case "tool_choice":
                session[key] = tool_choice(value, path)
            case "max_output_tokens":
                session[key] = output_tokens(value, path)
            case "type" | "model" | "id" | "object" | "expires_at":
                pass  # the model is fixed by the address, the rest are ours
            case _ if key in _TAKEN_AS_GIVEN:
                session[key] = value
            case _:
                raise Refused("unknown_parameter", f"Unknown parameter: '{path}'.", path)
    if {"tools", "tool_choice"} & update.keys():
        sure_of_choice(session["tool_choice"], functions(session["tools"]), "session.tool_choice")
    return session


def audio_format(described: Event) -> AudioFormat:
    """The format a checked session names."""
    match described["type"]:
        case "audio/pcmu":
            return AudioFormat("mulaw", 8000)
        case "audio/pcma":
            return AudioFormat("alaw", 8000)
        case _:
            return AudioFormat("pcm16", described.get("rate", 24000))


def silence_ms(turn_detection: Mapping[str, Any]) -> int:
    if turn_detection["type"] == "semantic_vad":
        return _EAGERNESS_SILENCE_MS[turn_detection["eagerness"]]
    return int(turn_detection["silence_duration_ms"])


def tool_choice(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return _one_of(value, ("auto", "none", "required"), path)
    if mapping(value, path).get("type") == "function" and isinstance(value.get("name"), str):
        return dict(value)
    if value.get("type") == "mcp":
        return dict(value)
    raise Refused("invalid_value", "Invalid value for tool_choice: expected a function with its name.", path)


def functions(declared: list[Event]) -> tuple[str, ...]:
    """The names of those tools the client itself runs."""
    return tuple(tool["name"] for tool in declared if tool["type"] == "function")


def sure_of_choice(choice: Any, names: tuple[str, ...], path: str) -> None:
    """Raises Refused for a function that is not among the tools."""
    if isinstance(choice, dict) and choice["type"] == "function" and choice["name"] not in names:
        raise Refused("invalid_value", f"Invalid value: there is no tool '{choice['name']}' to choose.", path)


def output_tokens(value: Any, path: str) -> Any:
    if value == "inf":
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected an integer or 'inf'.", path)
    if value < 1:
        raise Refused("integer_below_min_value", f"Invalid '{path}': expected a value >= 1, but got {value}.", path)
    if value > 4096:
        raise Refused("integer_above_max_value", f"Invalid '{path}': expected a value <= 4096, but got {value}.", path)
    return value


def described_format(value: Any, path: str) -> Event:
    described = mapping(value, path)
    kind = _one_of(described.get("type"), ("audio/pcm", "audio/pcmu", "audio/pcma"), f"{path}.type")
    if kind != "audio/pcm":
        return {"type": kind}
    rate = described.get("rate", 24000)
    if rate not in (8000, 16000, 24000):
        raise Refused(
            "invalid_value", f"Invalid value: {rate!r}. Supported rates are 8000, 16000 and 24000.", f"{path}.rate"
        )
    return {"type": kind, "rate": rate}


def _audio(current: Event, update: Event, *, spoke: bool) -> Event:
    audio = {"input": dict(current["input"]), "output": dict(current["output"])}
    for side, fields in update.items():
        if side not in audio:
            raise Refused("unknown_parameter", f"Unknown parameter: 'session.audio.{side}'.", f"session.audio.{side}")
        for key, value in mapping(fields, f"session.audio.{side}").items():
            path = f"session.audio.{side}.{key}"
            match side, key:
                case _, "format":
                    audio[side][key] = described_format(value, path)
                case "input", "turn_detection":
                    audio[side][key] = None if value is None else _detection(current["input"][key], value, path)
                case "input", "transcription" | "noise_reduction":
                    audio[side][key] = None if value is None else dict(mapping(value, path))
                case "output", "voice":
                    if spoke and value != current["output"]["voice"]:
                        raise Refused(
                            "cannot_update_voice",
                            "Cannot update a conversation's voice if assistant audio is present.",
                            path,
                        )
                    voice(value, path)
                    audio[side][key] = value
                case "output", "speed":
                    audio[side][key] = _number(value, 0.25, 1.5, path)
                case _:
                    raise Refused("unknown_parameter", f"Unknown parameter: '{path}'.", path)
    return audio


def _detection(current: Event | None, value: Any, path: str) -> Event:
    update = mapping(value, path)
    default_kind = current["type"] if current else "server_vad"
    kind = _one_of(update.get("type", default_kind), tuple(_VAD), f"{path}.type")
    detection = {"type": kind, **_VAD[kind]}
    if current and current["type"] == kind:
        detection.update(current)
    for key, given in update.items():
        where = f"{path}.{key}"
        match key:
            case "type":
                continue
            case "threshold":
                given = _number(given, 0.0, 1.0, where)
            case "prefix_padding_ms" | "silence_duration_ms":
                given = _milliseconds(given, where)
            case "idle_timeout_ms":
                given = None if given is None else _milliseconds(given, where)
            case "eagerness":
                _one_of(given, tuple(_EAGERNESS_SILENCE_MS), where)
            case "create_response" | "interrupt_response":
                if not isinstance(given, bool):
                    raise Refused("invalid_type", f"Invalid type for '{where}': expected a boolean.", where)
        if key not in detection:
            raise Refused("unknown_parameter", f"Unknown parameter: '{where}'.", where)
        detection[key] = given
    return detection


def tools(value: Any, path: str) -> list[Event]:
    if not isinstance(value, list):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected an array.", path)
    for index, tool in enumerate(value):
        where = f"{path}[{index}]"
        kind = _one_of(mapping(tool, where).get("type"), ("function", "mcp"), f"{where}.type")
        needed = "name" if kind == "function" else "server_label"
        if not isinstance(tool.get(needed), str):
            raise Refused(
                "missing_required_parameter", f"Missing required parameter: '{where}.{needed}'.", f"{where}.{needed}"
            )
    return value


def voice(value: Any, path: str) -> str:
    """A voice's name, or the id of one's own."""
    name = value.get("id") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected a voice.", path)
    return name


def mapping(value: Any, path: str) -> Event:
    if not isinstance(value, dict):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected an object.", path)
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected a string.", path)
    return value


def _number(value: Any, least: float, most: float, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected a number.", path)
    if not least <= value <= most:
        raise Refused("invalid_value", f"Invalid '{path}': expected {least} to {most}, but got {value}.", path)
    return value


def _milliseconds(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("invalid_type", f"Invalid type for '{path}': expected an integer.", path)
    if not 0 <= value <= 60_000:
        raise Refused("invalid_value", f"Invalid '{path}': expected 0 to 60000 ms, but got {value}.", path)
    return value


def _one_of(value: Any, allowed: tuple[str, ...], path: str) -> str:
    if value in allowed and isinstance(value, str):
        return value
    if value is None:
        raise Refused("missing_required_parameter", f"Missing required parameter: '{path}'.", path)
    listed = ", ".join(f"'{name}'" for name in allowed)
    raise Refused("invalid_value", f"Invalid value: {value!r}. Supported values are: {listed}.", path)
