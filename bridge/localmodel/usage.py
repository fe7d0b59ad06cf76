"""What a response costs, in tokens, by the rules of OpenAI's guide on the costs of the Realtime API.

A caller's sound is one token per 100 ms, an assistant's one per 50 ms; text is estimated by its length. Every response
bills the whole conversation again, and what an earlier response had read already counts as cached.
"""

from __future__ import annotations

import math

from bridge.localmodel.items import Conversation
from bridge.localmodel.response import ASSISTANT_MS_PER_TOKEN, Response
from bridge.localmodel.wire import Event

USER_MS_PER_TOKEN = 100
LETTERS_PER_TOKEN = 4


class Bill:
    """Of one session."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._read_before = 0

    def of(self, response: Response, session: Event) -> Event:
        audio, text = self._read(response, session)
        cached = min(self._read_before, audio + text)
        self._read_before = audio + text
        cached_audio = min(cached, audio)
        said_audio = math.ceil(response.audio_ms / ASSISTANT_MS_PER_TOKEN)
        said_text = sum(text_tokens(item.text) for item in response.output)
        return {
            "total_tokens": audio + text + said_audio + said_text,
            "input_tokens": audio + text,
            "output_tokens": said_audio + said_text,
            "input_token_details": {
                "text_tokens": text,
                "audio_tokens": audio,
                "image_tokens": 0,
                "cached_tokens": cached,
                "cached_tokens_details": {
                    "text_tokens": cached - cached_audio,
                    "audio_tokens": cached_audio,
                    "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": said_text, "audio_tokens": said_audio},
        }

    def _read(self, response: Response, session: Event) -> tuple[int, int]:
        """Audio and text tokens of everything the model had before it."""
        produced = {id(item) for item in response.output}
        audio = 0
        text = text_tokens(session["instructions"]) + sum(text_tokens(str(tool)) for tool in session["tools"])
        for item in self._conversation:
            if id(item) in produced:
                continue
            if item.role == "user" and item.is_audio:
                audio += math.ceil(item.audio_ms / USER_MS_PER_TOKEN)
                continue
            audio += math.ceil(item.audio_ms / ASSISTANT_MS_PER_TOKEN)
            text += text_tokens(item.text)
        return audio, text


def text_tokens(text: str) -> int:
    return math.ceil(len(text) / LETTERS_PER_TOKEN)
