"""The GA shape of the OpenAI Realtime API: typed session, nested audio objects, one output modality.

Spoken by OpenAI, Azure, MeshAPI, LocalAI, speech-to-speech and our local model; they differ by profile only.
Source: OpenAI API reference, Realtime client events (session.update), November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.realtime.dialect import Dialect

_MIME = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}


class GaDialect(Dialect):
    assistant_text = "output_text"

    def render(self, session: Mapping[str, Any]) -> dict[str, Any]:
        rendered: dict[str, Any] = {"type": "realtime"}
        heard: dict[str, Any] = {}
        spoken: dict[str, Any] = {}
        for name, value in session.items():
            match name:
                case "modalities":
                    rendered["output_modalities"] = one_modality(value)
                case "input_format":
                    heard["format"] = audio_format(*value)
                case "output_format":
                    spoken["format"] = audio_format(*value)
                case "transcription" | "noise_reduction" | "turn_detection":
                    heard[name] = value
                case "voice" | "speed":
                    spoken[name] = value
                case "temperature":
                    pass  # refused since GA
                case _:
                    rendered[name] = value
        audio = {side: fields for side, fields in (("input", heard), ("output", spoken)) if fields}
        if audio:
            rendered["audio"] = audio
        return rendered

    def response_fields(self, *, instructions: str) -> dict[str, Any]:
        # Said again with every response: models seeded with text tend to answer in text.
        fields: dict[str, Any] = {"output_modalities": ["audio"]}
        if instructions:
            fields["instructions"] = instructions
        return fields


def audio_format(encoding: str, rate_hz: int) -> dict[str, Any]:
    """A GA format object; G.711 has no rate (it is 8 kHz by its nature)."""
    return {"type": _MIME[encoding], "rate": rate_hz} if encoding == "pcm16" else {"type": _MIME[encoding]}


def one_modality(modalities: list[str]) -> list[str]:
    """GA takes audio (its transcript included) or text, never both."""
    return ["audio"] if "audio" in modalities else ["text"]
