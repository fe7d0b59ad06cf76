"""The neutral form of a session, which every shape is rendered from, and the ways into it.

Its fields, all optional; what is absent stays as the service has it: model, modalities (a list), instructions, voice,
speed, input_format and output_format (encoding, rate in Hz), transcription and noise_reduction (an object or None),
turn_detection (an object, or None for manual turns), tools, tool_choice, max_output_tokens, temperature. Others are a
service's own and pass through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from bridge.call.plan import SessionPlan, TurnDetection
from bridge.errors import UsageError
from bridge.realtime.wire import table

if TYPE_CHECKING:
    from bridge.realtime.profiles import Profile

Encoding = Literal["pcm16", "mulaw", "alaw"]

_ENCODINGS: dict[str, Encoding] = {
    "audio/pcm": "pcm16",
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
    "pcm16": "pcm16",
    "g711_ulaw": "mulaw",
    "g711_alaw": "alaw",
}


def read_format(wire: Any) -> tuple[Encoding | None, int | None]:
    """Encoding and rate of a format as any shape writes it: `{"type": "audio/pcm", "rate": 24000}` or `"pcm16"`."""
    if isinstance(wire, str):
        encoding = _ENCODINGS.get(wire)
        return encoding, {"pcm16": 24_000, "mulaw": 8000, "alaw": 8000}.get(encoding or "")
    if not isinstance(wire, dict):
        return None, None
    kind = wire.get("type")
    encoding = _ENCODINGS.get(kind) if isinstance(kind, str) else None
    rate = wire.get("rate")
    if type(rate) is not int or not 0 < rate <= 192_000:
        rate = 8000 if encoding in ("mulaw", "alaw") else None
    return encoding, rate


def from_plan(session: SessionPlan, profile: Profile) -> dict[str, Any]:
    """A call's session plan."""
    audio = (session.model_encoding, session.model_rate_hz)
    fields: dict[str, Any] = {
        "modalities": ["audio"],
        "input_format": audio,
        "output_format": audio,
        "turn_detection": _turn_detection(session.turn_detection, profile),
    }
    if profile.model_in == "session" and profile.model:
        fields["model"] = profile.model
    if session.instructions:
        fields["instructions"] = session.instructions
    if session.voice:
        fields["voice"] = session.voice
    if session.speed != 1.0:
        fields["speed"] = session.speed
    if session.transcription_model:
        transcription = {"model": session.transcription_model}
        fields["transcription"] = transcription | ({"language": session.language} if session.language else {})
    if session.noise_reduction:
        fields["noise_reduction"] = {"type": session.noise_reduction}
    if session.tools:
        fields["tools"] = [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in session.tools
        ]
        fields["tool_choice"] = "auto"
    if session.max_output_tokens:
        fields["max_output_tokens"] = session.max_output_tokens
    if session.temperature is not None:
        fields["temperature"] = session.temperature
    return fields


def _turn_detection(detection: TurnDetection | None, profile: Profile) -> dict[str, Any] | None:
    if detection is None:
        return None
    policy = {"create_response": profile.model_answers, "interrupt_response": profile.model_interrupts}
    if detection.kind == "semantic_vad":
        return {"type": "semantic_vad", "eagerness": detection.eagerness, **policy}
    return {
        "type": "server_vad",
        "threshold": detection.threshold,
        "prefix_padding_ms": detection.prefix_padding_ms,
        "silence_duration_ms": detection.silence_ms,
        **policy,
    }


_NEUTRAL = {
    "output_modalities": "modalities",
    "input_audio_transcription": "transcription",
    "input_audio_noise_reduction": "noise_reduction",
    "max_response_output_tokens": "max_output_tokens",
}
_FORMATS = {"input_audio_format": "input_format", "output_audio_format": "output_format"}


def from_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A session as a programmer writes it: flat as in the beta, nested as in GA, or mixed.

    `turn_detection` may also be "none", "disabled" or `{"type": "none"}`: manual turns. Raises UsageError for what we
    read ourselves and cannot: a format nobody knows, an object that is none. The rest is for the service to judge.
    """
    fields: dict[str, Any] = {}
    if given.get("type", "realtime") != "realtime":
        raise UsageError(f"type: found {given['type']!r}; only sessions of type realtime are kept here")
    flat = {name: value for name, value in given.items() if name not in ("audio", "type")}
    audio = _object("audio", given.get("audio"))
    for side in audio:
        if side not in ("input", "output"):
            raise UsageError(f"audio: found {side!r}; write input or output")
    for side in ("input", "output"):
        for name, value in _object(f"audio.{side}", audio.get(side)).items():
            flat[f"{side}_audio_format" if name == "format" else name] = value
    for name, value in flat.items():
        if name in _FORMATS:
            fields[_FORMATS[name]] = _format(name, value)
        elif name == "turn_detection":
            manual = value in ("none", "disabled") or _object(name, value).get("type") in ("none", "disabled")
            fields[name] = None if manual else value
        elif _NEUTRAL.get(name, name) == "modalities":
            if not isinstance(value, list | tuple):
                raise UsageError(f'{name}: found {value!r}; write a list, ["audio"] or ["text"]')
            fields["modalities"] = list(value)
        else:
            fields[_NEUTRAL.get(name, name)] = value
    return fields


def _object(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{name}: found {value!r}; write an object or None")
    return value or {}


def _format(name: str, value: Any) -> tuple[Encoding, int]:
    encoding, rate_hz = read_format(value)
    if encoding is None:
        raise UsageError(f"{name}: {value!r} is no audio format; write one of {', '.join(_ENCODINGS)}")
    said = table(value).get("rate")
    if said is not None and said != rate_hz:
        raise UsageError(f"{name}: found a rate of {said!r}; write a whole number of Hz")
    return encoding, rate_hz or 24_000
