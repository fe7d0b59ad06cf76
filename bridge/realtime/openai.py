"""The GA shape of the OpenAI Realtime API: typed session, nested audio objects, one output modality.

Spoken by OpenAI, Azure, MeshAPI, LocalAI, speech-to-speech and our local model; they differ by profile only.
Source: OpenAI API reference, Realtime client events (session.update), November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.realtime.dialect import Dialect

_MIME = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
# Neutral names that move into an audio object; the rest keeps its name, save modalities.
_INPUT = {"transcription": "transcription", "noise_reduction": "noise_reduction", "turn_detection": "turn_detection"}
_OUTPUT = {"voice": "voice", "speed": "speed"}


class GaDialect(Dialect):
    assistant_text = "output_text"

    def render(self, session: Mapping[str, Any]) -> dict[str, Any]:
        rendered: dict[str, Any] = {"type": "realtime"}
        heard: dict[str, Any] = {}
        spoken: dict[str, Any] = {}
        for name, value in session.items():
            if name == "modalities":
                rendered["output_modalities"] = one_modality(value)
            elif name == "input_format":
                heard["format"] = audio_format(*value)
            elif name == "output_format":
                spoken["format"] = audio_format(*value)
            elif name in _INPUT:
                heard[_INPUT[name]] = value
            elif name in _OUTPUT:
                spoken[_OUTPUT[name]] = value
            elif name != "temperature":  # refused since GA
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
