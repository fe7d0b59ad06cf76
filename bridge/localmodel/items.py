"""The conversation as the server keeps it: items in order, how long their audio is, and what a client may do to them.

Positions are kept per item, in ms of the item's own audio. Nothing here knows of sockets or events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bridge.localmodel.settings import Refused
from bridge.localmodel.wire import Event

AUDIO_ITEMS_KEPT = 8  # callers' turns whose sound can still be retrieved


@dataclass(slots=True)
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

    def append(self, item: Item) -> str | None:
        """The id of the item before it."""
        previous = self._items[-1].id if self._items else None
        self._items.append(item)
        self._forget_old_sound()
        return previous

    def insert(self, item: Item, after: Any) -> str | None:
        """Put behind the item `after` ("root": at the front; None: at the end). Raises Refused."""
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
