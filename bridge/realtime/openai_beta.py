"""The beta shape of the OpenAI Realtime API: a flat session, formats as words, both modalities at once.

OpenAI switched it off in 2026; Azure's preview paths, Speaches, YuhuanStudio and other gateways still speak it.
Source: OpenAI API reference of 2024-10 to 2025-08, Realtime (beta).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.realtime.dialect import Dialect

_FORMATS = {"pcm16": "pcm16", "mulaw": "g711_ulaw", "alaw": "g711_alaw"}
_NAMES = {
    "input_format": "input_audio_format",
    "output_format": "output_audio_format",
    "transcription": "input_audio_transcription",
    "noise_reduction": "input_audio_noise_reduction",
    "max_output_tokens": "max_response_output_tokens",
}


class BetaDialect(Dialect):
    assistant_text = "text"

    def render(self, session: Mapping[str, Any]) -> dict[str, Any]:
        rendered: dict[str, Any] = {}
        for name, value in session.items():
            if name in ("input_format", "output_format"):
                encoding, _rate_hz = value  # the word implies the rate
                rendered[_NAMES[name]] = _FORMATS[encoding]
            elif name == "modalities":
                rendered[name] = both_modalities(value)
            else:
                rendered[_NAMES.get(name, name)] = value
        return rendered

    def response_fields(self, *, instructions: str) -> dict[str, Any]:
        # Said again with every response: preview models seeded with text tend to answer in text.
        fields: dict[str, Any] = {"modalities": both_modalities(["audio"])}
        if instructions:
            fields["instructions"] = instructions
        return fields


def both_modalities(modalities: list[str]) -> list[str]:
    """Beta knows text alone, or text with audio."""
    return ["text", "audio"] if "audio" in modalities else ["text"]
