"""The two dialects on the wire: general availability (GA) and beta. Inside the local model everything has its GA name
and shape.

`to_beta` turns one GA server event into the beta events that stand for it, `session_from_beta` a beta session into a
GA one. Source: OpenAI's API reference for the Realtime API (GA), and its beta edition of 2024-10 for the older names.
"""

from __future__ import annotations

from typing import Any, Literal

Event = dict[str, Any]
Dialect = Literal["ga", "beta"]

CLIENT_EVENTS = frozenset(
    "session.update transcription_session.update input_audio_buffer.append input_audio_buffer.commit"
    " input_audio_buffer.clear output_audio_buffer.clear conversation.item.create conversation.item.retrieve"
    " conversation.item.truncate conversation.item.delete response.create response.cancel".split()
)
SERVER_EVENTS = frozenset(  # all the local model ever sends, unless a script says otherwise
    "error session.created session.updated rate_limits.updated"
    " conversation.item.added conversation.item.done conversation.item.retrieved conversation.item.truncated"
    " conversation.item.deleted conversation.item.input_audio_transcription.delta"
    " conversation.item.input_audio_transcription.completed"
    " input_audio_buffer.committed input_audio_buffer.cleared input_audio_buffer.speech_started"
    " input_audio_buffer.speech_stopped input_audio_buffer.timeout_triggered"
    " response.created response.done response.output_item.added response.output_item.done"
    " response.content_part.added response.content_part.done response.output_text.delta response.output_text.done"
    " response.output_audio.delta response.output_audio.done response.output_audio_transcript.delta"
    " response.output_audio_transcript.done response.function_call_arguments.delta"
    " response.function_call_arguments.done".split()
)
_BETA_TYPES = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
BETA_EVENTS = {beta: ga for ga, beta in _BETA_TYPES.items()}  # those with other names
_BETA_CONTENT = {"output_audio": "audio", "output_text": "text"}
_GA_CONTENT = {beta: ga for ga, beta in _BETA_CONTENT.items()}
_BETA_FORMATS = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
_GA_FORMATS: dict[str, Event] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
BETA_ONLY_FIELDS = frozenset(
    {
        "modalities",
        "voice",
        "input_audio_format",
        "output_audio_format",
        "input_audio_transcription",
        "input_audio_noise_reduction",
        "turn_detection",
        "max_response_output_tokens",
        "temperature",
        "speed",
    }
)


def to_beta(event: Event) -> tuple[Event, ...]:
    """The beta events which tell the same as this GA event; none where beta has no word for it."""
    kind = event["type"]
    if kind == "conversation.item.done":
        return ()
    told = dict(event)
    told["type"] = _BETA_TYPES.get(kind, kind)
    if "session" in told:
        told["session"] = session_to_beta(told["session"])
    if "item" in told:
        told["item"] = item_to_beta(told["item"])
    if "response" in told:
        response = dict(told["response"])
        response["output"] = [item_to_beta(item) for item in response["output"]]
        modalities = response.pop("output_modalities", ["audio"])
        response["modalities"] = ["text", "audio"] if "audio" in modalities else ["text"]
        output = response.pop("audio", {}).get("output", {})
        response["voice"] = output.get("voice")
        response["output_audio_format"] = _BETA_FORMATS[output.get("format", {}).get("type", "audio/pcm")]
        told["response"] = response
    if kind == "response.function_call_arguments.done":
        told.pop("name", None)
    return (told,)


def item_to_beta(item: Event) -> Event:
    if "content" not in item:
        return item
    content = [{**part, "type": _BETA_CONTENT.get(part["type"], part["type"])} for part in item["content"]]
    return {**item, "content": content}


def content_from_beta(kind: str) -> str:
    """The GA name of an assistant's content type; both dialects are taken from any client."""
    return _GA_CONTENT.get(kind, kind)


def session_to_beta(session: Event) -> Event:
    heard, spoken = session["audio"]["input"], session["audio"]["output"]
    return {
        "id": session["id"],
        "object": "realtime.session",
        "model": session["model"],
        "expires_at": session["expires_at"],
        "modalities": ["text", "audio"] if "audio" in session["output_modalities"] else ["text"],
        "instructions": session["instructions"],
        "voice": spoken["voice"],
        "speed": spoken["speed"],
        "input_audio_format": _BETA_FORMATS[heard["format"]["type"]],
        "output_audio_format": _BETA_FORMATS[spoken["format"]["type"]],
        "input_audio_transcription": heard["transcription"],
        "input_audio_noise_reduction": heard["noise_reduction"],
        "turn_detection": heard["turn_detection"],
        "tools": session["tools"],
        "tool_choice": session["tool_choice"],
        "temperature": 0.8,
        "max_response_output_tokens": session["max_output_tokens"],
    }


def looks_beta(session: Event) -> bool:
    """Whether a client's session has beta's flat shape."""
    return bool(BETA_ONLY_FIELDS & session.keys()) and "audio" not in session


def session_from_beta(session: Event) -> Event:
    """A beta session as the GA session it means. What beta allowed and GA has not (temperature) is dropped."""
    told = {key: value for key, value in session.items() if key not in BETA_ONLY_FIELDS}
    told["type"] = "realtime"
    heard: Event = {}
    spoken: Event = {}
    for key, value in session.items():
        match key:
            case "modalities":
                told["output_modalities"] = _ga_modalities(value)
            case "max_response_output_tokens":
                told["max_output_tokens"] = value
            case "voice" | "speed":
                spoken[key] = value
            case "input_audio_format":
                heard["format"] = _ga_format(value)
            case "output_audio_format":
                spoken["format"] = _ga_format(value)
            case "input_audio_transcription":
                heard["transcription"] = value
            case "input_audio_noise_reduction":
                heard["noise_reduction"] = value
            case "turn_detection":
                heard["turn_detection"] = value
    audio = {name: part for name, part in (("input", heard), ("output", spoken)) if part}
    if audio:
        told["audio"] = audio
    return told


def _ga_modalities(value: Any) -> Any:
    """What is no list stays what it is, to be refused where GA's fields are checked."""
    if not isinstance(value, list):
        return value
    return ["audio"] if "audio" in value else ["text"]


def _ga_format(value: Any) -> Event:
    known = _GA_FORMATS.get(value) if isinstance(value, str) else None
    return known or {"type": value}
