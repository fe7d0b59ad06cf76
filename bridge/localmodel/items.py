"""The conversation as the server keeps it: items in order, how long their audio is, and what a client may do to them.

Positions are kept per item, in ms of the item's own audio. Nothing here knows of sockets or events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pybase64

from bridge.localmodel.settings import Refused
from bridge.localmodel.wire import Event, content_from_beta

MAX_ID_LETTERS = 32
MAX_SOUND_BYTES = 15 * 1024 * 1024  # of one event, as documented
AUDIO_ITEMS_KEPT = 8  # callers' turns whose sound can still be retrieved


@dataclass(slots=True, eq=False)
class Item:
    id: str
    type: str  # message, function_call, function_call_output
    role: str = ""
    status: str = "completed"
    content: list[Event] = field(default_factory=list)
    fields: Event = field(default_factory=dict)  # call_id, name, arguments, output
    audio: bytes = b""  # sound of the audio part, in the format it came or was said in; may be longer than the item
    bytes_per_ms: float = 0.0
    audio_ms: float = 0.0
    generated: bool = False  # said by this server: only such items can be truncated
    truncated: bool = False

    def snapshot(self, *, with_audio: bool = False) -> Event:
        told: Event = {"id": self.id, "object": "realtime.item", "type": self.type, "status": self.status}
        if self.type != "message":
            return {**told, **self.fields}
        told["role"] = self.role
        told["content"] = [dict(part) for part in self.content]
        if with_audio:
            for part in told["content"]:
                if part["type"] in ("input_audio", "output_audio"):
                    part["audio"] = self.audio[: int(self.audio_ms * self.bytes_per_ms) & ~1]
        return told

    @property
    def text(self) -> str:
        """Everything written in it, transcripts included."""
        written = [part.get("text") or part.get("transcript") or "" for part in self.content]
        return " ".join(piece for piece in (*written, self.fields.get("arguments"), self.fields.get("output")) if piece)

    @property
    def is_audio(self) -> bool:
        return any(part["type"] in ("input_audio", "output_audio") for part in self.content)


class Conversation:
    def __init__(self) -> None:
        self._items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __reversed__(self) -> Iterator[Item]:
        return reversed(self._items)

    def find(self, item_id: Any) -> Item | None:
        return next((item for item in self._items if item.id == item_id), None)

    def called(self, call_id: str) -> bool:
        return any(item.type == "function_call" and item.fields["call_id"] == call_id for item in self._items)

    def append(self, item: Item) -> str | None:
        """The id of the item before it."""
        previous = self._items[-1].id if self._items else None
        self._items.append(item)
        self._forget_old_sound()
        return previous

    def insert(self, item: Item, after: Any) -> str | None:
        """Put behind the item `after` ("root": at the front; None: at the end). Raises Refused."""
        if self.find(item.id) is not None:
            raise Refused("item_create_duplicate_item_id", f"Item with id '{item.id}' already exists.", "item.id")
        if item.type == "function_call_output" and not self.called(item.fields["call_id"]):
            message = f"Tool call ID '{item.fields['call_id']}' not found in conversation."
            raise Refused("invalid_tool_call_id", message, "item.call_id")
        if after is None:
            return self.append(item)
        if after == "root":
            self._items.insert(0, item)
            return None
        place = next((index for index, known in enumerate(self._items) if known.id == after), None)
        if place is None:
            raise Refused(
                "item_create_invalid_previous_item_id",
                f"Error adding item: the previous item with id '{after}' does not exist.",
                "previous_item_id",
            )
        self._items.insert(place + 1, item)
        return str(after)

    def delete(self, item_id: Any) -> None:
        item = self.find(item_id)
        if item is None:
            raise _missing("delete", "deleting", item_id)
        self._items.remove(item)

    def retrieve(self, item_id: Any) -> Item:
        item = self.find(item_id)
        if item is None:
            raise _missing("retrieve", "retrieving", item_id)
        return item

    def truncate(self, item_id: Any, *, content_index: int, audio_end_ms: int) -> None:
        """Cut what was said after `audio_end_ms`; its transcript goes, nobody knows any more which words were heard."""
        item = self.find(item_id)
        if item is None:
            raise _missing("truncate", "truncating", item_id)
        if not (item.role == "assistant" and item.generated and item.is_audio):
            raise Refused("invalid_value", "Only model output audio messages can be truncated", "item_id")
        if content_index != 0:
            raise Refused("invalid_value", f"Content index {content_index} is not an audio part", "content_index")
        length_ms = int(item.audio_ms)
        if audio_end_ms > length_ms:
            raise Refused(
                "invalid_value",
                f"Audio content of {length_ms}ms is already shorter than {audio_end_ms}ms",
                "audio_end_ms",
            )
        item.truncated = True
        item.audio_ms = audio_end_ms
        item.content[0]["transcript"] = ""

    def _forget_old_sound(self) -> None:
        heard = [item for item in self._items if item.role == "user" and item.audio]
        for item in heard[:-AUDIO_ITEMS_KEPT]:
            item.audio = b""


def _missing(verb: str, doing: str, item_id: Any) -> Refused:
    return Refused(
        f"item_{verb}_invalid_item_id", f"Error {doing} item: the item with id '{item_id}' does not exist.", "item_id"
    )


# ---------------------------------------------------------------- clients' items

_CONTENT_OF = {
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text",),  # an assistant's sound cannot be given back
    "system": ("input_text",),
}


def read_item(described: Event, *, item_id: str, bytes_per_ms: float) -> Item:
    """A client's item; `item_id` where it gave none. Raises Refused."""
    given_id = described.get("id")
    if given_id is not None and (not isinstance(given_id, str) or len(given_id) > MAX_ID_LETTERS):
        raise Refused("string_above_max_length", "Invalid 'item.id': expected at most 32 characters.", "item.id")
    item_id = given_id or item_id
    match described.get("type"):
        case "message":
            return _message(item_id, described, bytes_per_ms)
        case "function_call_output":
            return Item(item_id, "function_call_output", fields=_texts(described, "call_id", "output"))
        case "function_call":
            return Item(item_id, "function_call", fields=_texts(described, "name", "call_id", "arguments"))
        case "mcp_approval_response":
            fields = {key: described.get(key) for key in ("approval_request_id", "approve", "reason")}
            return Item(item_id, "mcp_approval_response", fields=fields)
        case other:
            raise Refused("invalid_value", f"Invalid value: {other!r}. It is no item type.", "item.type")


def sound(value: Any, path: str) -> bytes:
    """Base64 of a client. Raises Refused."""
    if not isinstance(value, str):
        raise Refused("missing_required_parameter", f"Missing required parameter: '{path}'.", path)
    try:
        audio = pybase64.b64decode(value, validate=True)
    except ValueError:
        raise Refused("invalid_value", f"Invalid '{path}'. Expected base64-encoded audio bytes.", path) from None
    if len(audio) > MAX_SOUND_BYTES:
        raise Refused("string_above_max_length", f"Invalid '{path}': at most 15 MiB in one event.", path)
    return audio


def _message(item_id: str, described: Event, bytes_per_ms: float) -> Item:
    role, content = described.get("role"), described.get("content")
    allowed = _CONTENT_OF.get(str(role))
    if allowed is None:
        raise Refused("invalid_value", f"Invalid value: {role!r}. It is no role.", "item.role")
    if not isinstance(content, list):
        raise Refused("missing_required_parameter", "Missing required parameter: 'item.content'.", "item.content")
    item = Item(item_id, "message", role=str(role), bytes_per_ms=bytes_per_ms)
    for index, part in enumerate(content):
        path = f"item.content[{index}]"
        kind = content_from_beta(str(part.get("type"))) if isinstance(part, dict) else ""
        if kind not in allowed:
            supported = ", ".join(f"'{name}'" for name in allowed)
            raise Refused(
                "invalid_value", f"Invalid value: '{kind}'. Supported values are: {supported}.", f"{path}.type"
            )
        if kind == "input_audio":
            item.audio += sound(part.get("audio"), f"{path}.audio")
            item.content.append({"type": kind, "transcript": part.get("transcript")})
        elif kind == "input_image":
            item.content.append({"type": kind, "image_url": part.get("image_url")})
        else:
            item.content.append({"type": kind, "text": str(part.get("text") or "")})
    item.audio_ms = len(item.audio) / bytes_per_ms
    return item


def _texts(described: Event, *names: str) -> Event:
    for name in names:
        if not isinstance(described.get(name), str):
            raise Refused("missing_required_parameter", f"Missing required parameter: 'item.{name}'.", f"item.{name}")
    return {name: described[name] for name in names}
