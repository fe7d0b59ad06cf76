"""`response.create` read: how the response is to be given, and what it is to be about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge.audio.formats import AudioFormat
from bridge.localmodel import settings
from bridge.localmodel.items import Conversation, Item, read_item
from bridge.localmodel.settings import Refused
from bridge.localmodel.wire import Dialect, Event, session_from_beta

_FIELDS = frozenset(
    "audio conversation input instructions max_output_tokens metadata output_modalities parallel_tool_calls prompt"
    " reasoning tool_choice tools".split()
)
_BETA_FIELDS = frozenset("modalities voice output_audio_format temperature max_response_output_tokens".split())
_TELLS_BETA = frozenset("modalities voice output_audio_format".split())


@dataclass(frozen=True, slots=True)
class Manner:
    """How this response is to be given: the session's ways with the overrides of one `response.create`."""

    modality: str
    format: AudioFormat
    described_format: Event
    voice: str
    speed: float
    max_output_tokens: int | str
    metadata: Event | None = None
    in_conversation: bool = True


@dataclass(frozen=True, slots=True)
class Wish:
    """`given` are the items to answer instead of the conversation; `forced` the tool that must be called, and with
    `must_call` it is any of them."""

    instructions: str = ""
    given: tuple[Item, ...] | None = None
    tools: tuple[str, ...] = ()
    forced: str = ""
    must_call: bool = False


def read_overrides(response: Any, dialect: Dialect) -> Event:
    """What one `response.create` asks for, in GA's shape. Raises Refused for a field the reference does not know."""
    described = settings.mapping({} if response is None else response, "response")
    beta = dialect == "beta" or bool(_TELLS_BETA & described.keys())
    _sure_of_fields(described, _FIELDS | _BETA_FIELDS if beta else _FIELDS, "response")
    return {**described, **session_from_beta(described)} if beta else described


def _sure_of_fields(described: Event, known: frozenset[str], path: str) -> None:
    for key in described:
        if key not in known:
            raise Refused("unknown_parameter", f"Unknown parameter: '{path}.{key}'.", f"{path}.{key}")


def read_manner(overrides: Event, session: Event) -> Manner:
    """The session's ways with one response's overrides. Raises Refused."""
    output = session["audio"]["output"]
    audio = settings.mapping(overrides.get("audio") or {}, "response.audio")
    given = settings.mapping(audio.get("output") or {}, "response.audio.output")
    _sure_of_fields(audio, frozenset({"output"}), "response.audio")
    _sure_of_fields(given, frozenset({"format", "voice"}), "response.audio.output")
    modalities = overrides.get("output_modalities", session["output_modalities"])
    if modalities not in (["audio"], ["text"]):
        raise Refused(
            "invalid_value",
            f"Invalid modalities: {modalities!r}. Use ['audio'] or ['text'], not both.",
            "response.output_modalities",
        )
    described = output["format"]
    if "format" in given:
        described = settings.described_format(given["format"], "response.audio.output.format")
    conversation = overrides.get("conversation", "auto")
    if conversation not in ("auto", "none"):
        raise Refused(
            "invalid_value", f"Invalid value: {conversation!r}. Use 'auto' or 'none'.", "response.conversation"
        )
    limit = overrides.get("max_output_tokens", session["max_output_tokens"])
    return Manner(
        modality=modalities[0],
        format=settings.audio_format(described),
        described_format=described,
        voice=settings.voice(given.get("voice") or output["voice"], "response.audio.output.voice"),
        speed=output["speed"],
        max_output_tokens=settings.output_tokens(limit, "response.max_output_tokens"),
        metadata=overrides.get("metadata"),
        in_conversation=conversation == "auto",
    )


def read_wish(overrides: Event, session: Event, conversation: Conversation, bytes_per_ms: float) -> Wish:
    """Raises Refused."""
    choice = settings.tool_choice(overrides.get("tool_choice", session["tool_choice"]), "response.tool_choice")
    declared = overrides.get("tools", session["tools"])
    names = settings.functions(settings.tools(declared, "response.tools"))
    settings.sure_of_choice(choice, names, "response.tool_choice")
    given = overrides.get("input")
    if given is not None and not isinstance(given, list):
        raise Refused("invalid_type", "Invalid type for 'response.input': expected an array.", "response.input")
    return Wish(
        instructions=str(overrides.get("instructions") or ""),
        given=None if given is None else tuple(_resolved(item, conversation, bytes_per_ms) for item in given),
        tools=() if choice == "none" else names,
        forced=choice["name"] if isinstance(choice, dict) and choice["type"] == "function" else "",
        must_call=choice == "required",
    )


def _resolved(described: Any, conversation: Conversation, bytes_per_ms: float) -> Item:
    if not isinstance(described, dict):
        raise Refused("invalid_type", "Invalid type for 'response.input': expected items.", "response.input")
    if described.get("type") == "item_reference":
        return conversation.retrieve(described.get("id"))
    return read_item(described, item_id="", bytes_per_ms=bytes_per_ms)
