"""A cache of one conversation as its session tells it: items, what is in them, what of it was cut off. Pure.

Server events go in (either shape's names), changes of items come out. Nothing a service sends raises: an item that was
never announced is made when it is first spoken of, so services without `output_item` and `content_part` events fill the
cache too.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pybase64

from bridge.realtime.dialect import GA_NAMES, MADE_UP
from bridge.realtime.input_audio import InputAudio
from bridge.realtime.wire import clean, rows, table, whole, wire_id

AUDIO_PARTS = frozenset({"audio", "output_audio"})
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_LONGEST = 1 << 24  # characters: as long as a message may be
NAMELESS = MADE_UP + "response"  # made an item, but its service gave it no id


@dataclass(slots=True)
class ToolCall:
    call_id: str
    name: str = ""
    arguments: str = ""  # JSON text, growing


@dataclass(slots=True)
class Formatted:
    """An item for people: what was said and heard, gathered from its parts."""

    audio: bytearray = field(default_factory=bytearray)  # in the session's format; old audio is dropped first
    audio_ms: float = 0.0  # how much there was, dropped or not
    text: str = ""
    transcript: str = ""
    tool: ToolCall | None = None
    output: str = ""  # of a function_call_output

    def add(self, audio: bytes) -> None:
        try:
            self.audio += audio
        except BufferError:  # somebody looks at it, with numpy say: what they see stays as it is
            self.audio = self.audio + audio

    def keep(self, size: int) -> None:
        """The first bytes of the audio, and no others."""
        try:
            del self.audio[size:]
        except BufferError:
            self.audio = self.audio[:size]


@dataclass(slots=True)
class Item:
    """One item of the conversation."""

    id: str
    type: str = "message"  # message, function_call, function_call_output, or a service's own
    role: str = ""
    status: str = "in_progress"  # in_progress, completed, incomplete
    content: list[dict[str, Any]] = field(default_factory=list)  # parts as the service sends them
    response_id: str = ""  # of the response that made it, as far as the service says
    formatted: Formatted = field(default_factory=Formatted)
    truncated: bool = False  # what is said of it from then on was not heard; its service may not know, and go on

    def audio_index(self) -> int | None:
        """Where its audio stands in `content`; 0 for a service that announces no parts; None if it has none."""
        for index, part in enumerate(self.content):
            if _is(part, AUDIO_PARTS):
                return index
        return 0 if self.formatted.audio_ms and not self.content else None


class Delta(msgspec.Struct, frozen=True):
    """What was added to an item; one of the fields."""

    transcript: str = ""
    text: str = ""
    arguments: str = ""
    audio: bytes = b""


class Change(msgspec.Struct, frozen=True):
    item: Item
    delta: Delta | None = None
    appended: bool = False  # the item is new
    completed: bool = False  # it has just become complete


Changes = tuple[Change, ...]


class Conversation:
    """Items in order. `keep_audio_ms` bounds the audio kept in all items together."""

    def __init__(self, *, bytes_per_ms: float = 48.0, keep_audio_ms: float = 600_000) -> None:
        self.bytes_per_ms = bytes_per_ms
        self._keep_audio_ms = keep_audio_ms
        self.clear()

    def clear(self) -> None:
        self._items: dict[str, Item] = {}
        self._speech: dict[str, tuple[float, bytes]] = {}  # by caller item not yet announced: start, audio
        self._transcripts: dict[str, str] = {}  # the same, transcribed before they were announced
        self._queued_input = b""  # audio committed by hand, for the next caller item
        self._current: dict[str, str] = {}  # response id -> its message item now being spoken
        self._maker: dict[str, str] = {}  # item id -> the response that makes it, until it is announced
        self._deleted: dict[str, None] = {}  # item ids: what is still said of them is late
        self._made_up = 0
        self._kept_bytes = 0

    def get_item(self, item_id: str) -> Item | None:
        return self._items.get(item_id)

    def get_items(self) -> list[Item]:
        return list(self._items.values())

    def queue_input_audio(self, audio: bytes) -> None:
        self._queued_input = audio

    def process(self, event: dict[str, Any], heard: InputAudio | None = None) -> Changes:
        """Changes of one server event. `heard` is our copy of the caller's audio, to cut what a detector found out of
        it.
        """
        kind = event.get("type")
        if not isinstance(kind, str) or wire_id(event.get("item_id")) in self._deleted:
            return ()
        reader = _READERS.get(GA_NAMES.get(kind, kind))
        return reader(self, event, heard) if reader is not None else ()

    # ------------------------------------------------------------ items

    def _item_added(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        wire = table(event.get("item"))
        item_id = wire_id(wire.get("id"))
        if not item_id:
            return ()
        known = self._known(wire)
        if known is not None:
            self._fill(known, wire)
            return (Change(known),)
        self._deleted.pop(item_id, None)  # its id is used again
        item = self._new(item_id, type=clean(wire.get("type"), 100) or "message", role=clean(wire.get("role"), 100))
        item.response_id = self._maker.pop(item_id, "")
        self._fill(item, wire)
        if item.type == "message" and item.role == "user":
            item.status = "completed"
            _start_ms, speech = self._speech.pop(item_id, (0.0, b""))
            self._add_audio(item, speech or self._queued_input, heard)
            if not speech:
                self._queued_input = b""
            item.formatted.transcript = self._transcripts.pop(item_id, "") or item.formatted.transcript
        elif item.type == "function_call_output":
            item.status = "completed"
        elif item.type == "message" and not item.response_id and wire.get("status") == "completed":
            item.status = "completed"  # a seed; what a response makes is complete when it is done
        return (Change(item, appended=True, completed=item.status == "completed"),)

    def _item_done(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        wire = table(event.get("item"))
        item_id = wire_id(wire.get("id"))
        item = self._known(wire)
        if item is None:
            if not item_id or item_id in self._deleted:
                return ()
            response_id = wire_id(event.get("response_id"))
            if response_id:
                self._remember(self._maker, item_id, response_id)
            (first,) = self._item_added(event, heard)
            if first.completed:
                return (first,)
            return (first, *self._item_done(event, heard))
        item.response_id = wire_id(event.get("response_id")) or item.response_id
        before = item.status
        self._fill(item, wire)
        item.status = clean(wire.get("status"), 100) or "completed"
        return (Change(item, completed=before != "completed" and item.status == "completed"),)

    def _fill(self, item: Item, wire: dict[str, Any]) -> None:
        """Take over what the service says of an item, without losing what deltas brought."""
        parts = rows(wire.get("content"))
        if len(parts) >= len(item.content):
            item.content = [dict(part) for part in parts]
            text = "".join(clean(part.get("text"), _LONGEST) for part in parts if _is(part, TEXT_PARTS))
            item.formatted.text = text or item.formatted.text
            if item.truncated:
                _take_words(item)
            spoken = "".join(clean(part.get("transcript"), _LONGEST) for part in item.content)
            item.formatted.transcript = spoken or item.formatted.transcript
        if item.type == "function_call":
            tool = item.formatted.tool or ToolCall(wire_id(wire.get("call_id")) or item.id)
            tool.name = clean(wire.get("name"), 500) or tool.name
            tool.arguments = clean(wire.get("arguments"), _LONGEST) or tool.arguments
            item.formatted.tool = tool
        elif item.type == "function_call_output":
            item.formatted.output = clean(wire.get("output"), _LONGEST)

    def _item_truncated(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item = self._items.get(wire_id(event.get("item_id")))
        if item is None:
            return ()
        self.truncate(item, whole(event.get("audio_end_ms")))
        return (Change(item),)

    def truncate(self, item: Item, audio_end_ms: int) -> None:
        """Cut an item to what was heard. Its words go: nobody knows how many of them that was."""
        kept = int(audio_end_ms * self.bytes_per_ms) // 2 * 2
        self._kept_bytes -= max(0, len(item.formatted.audio) - kept)
        item.formatted.keep(kept)
        item.formatted.audio_ms = min(item.formatted.audio_ms, float(audio_end_ms))
        item.truncated = True
        _take_words(item)

    def _item_deleted(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item = self._items.pop(wire_id(event.get("item_id")), None)
        if item is None:
            return ()
        self._remember(self._deleted, item.id, None)
        self._kept_bytes -= len(item.formatted.audio)
        return (Change(item),)

    # ------------------------------------------------------------ the caller

    def _speech_started(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        self._remember(self._speech, wire_id(event.get("item_id")), (float(whole(event.get("audio_start_ms"))), b""))
        return ()

    def _speech_stopped(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item_id, end_ms = wire_id(event.get("item_id")), float(whole(event.get("audio_end_ms")))
        start_ms, _ = self._speech.get(item_id, (end_ms, b""))
        audio = heard.cut(start_ms, end_ms) if heard is not None else b""
        item = self._items.get(item_id)
        if item is not None:  # announced before its end was heard
            self._speech.pop(item_id, None)
            self._add_audio(item, audio, heard)
            return (Change(item),)
        self._remember(self._speech, item_id, (start_ms, audio))
        return ()

    def _transcribed(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item_id = wire_id(event.get("item_id"))
        # One space says "nothing was understood", where an empty text would say "not transcribed yet".
        transcript = clean(event.get("transcript")) or " "
        item = self._items.get(item_id)
        if item is None:
            self._remember(self._transcripts, item_id, transcript)
            return ()
        item.formatted.transcript = transcript
        index = whole(event.get("content_index"))
        if index < len(item.content):
            item.content[index]["transcript"] = transcript
        return (Change(item, Delta(transcript=transcript)),)

    # ------------------------------------------------------------ the agent

    def _response_created(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        self._remember(self._current, wire_id(table(event.get("response")).get("id")), "")
        return ()

    def _response_done(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        """Ends what its items did not end themselves, and brings those of which nothing else was said."""
        response = table(event.get("response"))
        response_id = wire_id(response.get("id"))
        changes: list[Change] = []
        told = {item.type for item in self._items.values() if item.response_id in (response_id, NAMELESS)}
        for wire in rows(response.get("output")):
            if self._known(wire) is None and clean(wire.get("type"), 100) not in told:
                changes += self._item_done({"item": wire, "response_id": response_id or NAMELESS}, None)
        status = "completed" if response.get("status", "completed") == "completed" else "incomplete"
        self._current.pop(response_id, None)
        self._current.pop("", None)  # whatever was being said without a name
        for item in self._items.values():
            if item.status == "in_progress" and item.response_id in (response_id, NAMELESS, ""):
                item.status = status
                changes.append(Change(item, completed=status == "completed"))
        return tuple(changes)

    def _output_item_added(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        wire = table(event.get("item"))
        item_id, response_id = wire_id(wire.get("id")), wire_id(event.get("response_id"))
        if wire.get("type", "message") == "message":
            self._remember(self._current, response_id, item_id)
        item = self._items.get(item_id)
        if item is not None:
            item.response_id = response_id
        else:  # its place in the conversation comes with its own event
            self._remember(self._maker, item_id, response_id or NAMELESS)
        return ()

    def _content_part_added(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item, new = self._spoken_of(event)
        if item is None:
            return ()
        index = whole(event.get("content_index"), limit=1000)
        part = dict(table(event.get("part")))
        if index == len(item.content):
            item.content.append(part)
        return (Change(item, appended=new),)

    def _audio_delta(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        try:
            audio = pybase64.b64decode(event.get("delta", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            return ()
        item, new = self._spoken_of(event)
        if item is None:
            return ()
        self._add_audio(item, audio)
        return (Change(item, Delta(audio=audio), appended=new),)

    def _transcript_delta(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item, new = self._spoken_of(event)
        if item is None:
            return ()
        words = clean(event.get("delta"))
        item.formatted.transcript += words
        _grow(item, event, "transcript", words)
        return (Change(item, Delta(transcript=words), appended=new),)

    def _text_delta(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item, new = self._spoken_of(event)
        if item is None:
            return ()
        words = clean(event.get("delta"))
        item.formatted.text += words
        _grow(item, event, "text", words)
        return (Change(item, Delta(text=words), appended=new),)

    def _arguments_delta(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item, new, tool = self._called(event)
        more = clean(event.get("delta"))
        tool.arguments += more
        return (Change(item, Delta(arguments=more), appended=new),)

    def _arguments_done(self, event: dict[str, Any], heard: InputAudio | None) -> Changes:
        item, new, tool = self._called(event)
        tool.name = clean(event.get("name"), 500) or tool.name
        tool.arguments = clean(event.get("arguments"), _LONGEST) or tool.arguments
        return (Change(item, appended=new),)

    def _called(self, event: dict[str, Any]) -> tuple[Item, bool, ToolCall]:
        item_id, call_id = wire_id(event.get("item_id")), wire_id(event.get("call_id"))
        item = self._items.get(item_id) if item_id else self._making(call_id)
        new = item is None
        if item is None:
            item = self._new(item_id or call_id or self._make_up(), type="function_call")
        item.response_id = wire_id(event.get("response_id")) or item.response_id or NAMELESS
        if item.formatted.tool is None:
            item.formatted.tool = ToolCall(call_id or item.id)
        return item, new, item.formatted.tool

    def _making(self, call_id: str) -> Item | None:
        """The item of a tool call that is not complete, by the id of the call alone."""
        for item in self._items.values():
            tool = item.formatted.tool
            if call_id and item.status == "in_progress" and tool is not None and tool.call_id == call_id:
                return item
        return None

    def _known(self, wire: dict[str, Any]) -> Item | None:
        """The item a service describes. One that was named after its tool call, for want of an id, gets its own."""
        item_id, call_id = wire_id(wire.get("id")), wire_id(wire.get("call_id"))
        item = self._items.get(item_id)
        if item is None and item_id and wire.get("type") == "function_call":
            item = self._making(call_id)
            if item is None or item.id != call_id:
                return None
            del self._items[item.id]
            item.id = item_id
            self._items[item_id] = item
        return item

    def _spoken_of(self, event: dict[str, Any]) -> tuple[Item | None, bool]:
        """The agent's item a delta belongs to, and whether it is new: made if it was never announced, None if it was
        deleted or truncated. Without ids, as in a binary frame, the delta belongs to what is being said.
        """
        response_id = wire_id(event.get("response_id")) or next(reversed(self._current), "")
        item_id = wire_id(event.get("item_id")) or self._current.get(response_id, "") or self._make_up()
        self._remember(self._current, response_id, item_id)
        item = self._items.get(item_id)
        if item_id in self._deleted or (item is not None and item.truncated):
            return None, False
        if item is not None:
            return item, False
        item = self._new(item_id, role="assistant")
        item.response_id = response_id
        return item, True

    # ------------------------------------------------------------ keeping

    def _new(self, item_id: str, *, type: str = "message", role: str = "") -> Item:
        item = self._items[item_id] = Item(item_id, type=type, role=role)
        return item

    def _add_audio(self, item: Item, audio: bytes, heard: InputAudio | None = None) -> None:
        """The caller's is in the format in which it was `heard`, the agent's in the service's own."""
        item.formatted.add(audio)
        item.formatted.audio_ms += len(audio) / (self if heard is None else heard).bytes_per_ms
        self._kept_bytes += len(audio)
        most = int(self._keep_audio_ms * self.bytes_per_ms)  # a session's format is known when it has one
        if self._kept_bytes <= most:
            return
        for old in self._items.values():
            if old is item or self._kept_bytes <= most:
                break
            self._kept_bytes -= len(old.formatted.audio)
            old.formatted.keep(0)

    def _remember(self, what: dict[str, Any], key: str, value: Any) -> None:
        what[key] = value
        if len(what) > 100:
            del what[next(iter(what))]

    def _make_up(self) -> str:
        self._made_up += 1
        return f"{MADE_UP}item.{self._made_up}"


def _is(part: dict[str, Any], kinds: frozenset[str]) -> bool:
    return clean(part.get("type"), 100) in kinds


def _take_words(item: Item) -> None:
    item.formatted.transcript = ""
    for part in item.content:
        if _is(part, AUDIO_PARTS):
            part["transcript"] = ""


def _grow(item: Item, event: dict[str, Any], field_name: str, words: str) -> None:
    index = whole(event.get("content_index"), limit=1000)
    if index < len(item.content):
        part = item.content[index]
        said = part.get(field_name)
        part[field_name] = (said if isinstance(said, str) else "") + words


_READERS: dict[str, Callable[[Conversation, dict[str, Any], InputAudio | None], Changes]] = {
    "conversation.item.added": Conversation._item_added,
    "conversation.item.done": Conversation._item_done,
    "conversation.item.truncated": Conversation._item_truncated,
    "conversation.item.deleted": Conversation._item_deleted,
    "conversation.item.input_audio_transcription.completed": Conversation._transcribed,
    "input_audio_buffer.speech_started": Conversation._speech_started,
    "input_audio_buffer.speech_stopped": Conversation._speech_stopped,
    "response.created": Conversation._response_created,
    "response.done": Conversation._response_done,
    "response.output_item.added": Conversation._output_item_added,
    "response.output_item.done": Conversation._item_done,
    "response.content_part.added": Conversation._content_part_added,
    "response.output_audio.delta": Conversation._audio_delta,
    "response.output_audio_transcript.delta": Conversation._transcript_delta,
    "response.output_text.delta": Conversation._text_delta,
    "response.function_call_arguments.delta": Conversation._arguments_delta,
    "response.function_call_arguments.done": Conversation._arguments_done,
}
