"""One response of the local model, from `response.created` to `response.done`, in the documented order of events.

A response is given what to say and do, and then advanced by time: it yields its deltas at the pace of its rule. It
may be stopped at any moment; whatever was open is then closed with the same `.done` events as in a response that ran
to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from bridge.localmodel.brain import Reply, Say, UseTool
from bridge.localmodel.items import Conversation, Item
from bridge.localmodel.script import ResponseRule
from bridge.localmodel.speech import Mouth
from bridge.localmodel.wire import Event
from bridge.localmodel.wishes import Manner, Wish

TRANSCRIPT_AHEAD_MS = 400  # the words come before their sound
ASSISTANT_MS_PER_TOKEN = 50  # OpenAI's guide on managing costs of the Realtime API


class Ids:
    """Identifiers of one session: counted, so that two runs are the same."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._count = 0

    def new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._tag}{self._count:08d}"


class Response:
    def __init__(
        self,
        *,
        manner: Manner,
        wish: Wish,
        rule: ResponseRule,
        ids: Ids,
        conversation: Conversation,
        conversation_id: str,
        mouth: Mouth,
        usage: Callable[[Response], Event | None],
    ) -> None:
        self.id = ids.new("resp")
        self.manner = replace(manner, modality="text") if rule.text_only else manner
        self.wish = wish
        self.rule = rule
        self.status = "in_progress"
        self.output: list[Item] = []
        self.waits_for: str | None = None  # the item whose recognition decides the answer
        self.answers: frozenset[str] = frozenset()  # ids of the items this response is about
        self.audio_ms = 0.0
        self._ids = ids
        self._conversation = conversation
        self._conversation_id = conversation_id if manner.in_conversation else None
        self._mouth = mouth
        self._usage = usage
        self._details: Event | None = None
        self._billed: Event | None = None
        self._events: list[Event] = []
        self._open: Item | None = None
        self._said = ""
        self._steps: Iterator[float] | None = None
        self._due_ms: float | None = None

    @property
    def active(self) -> bool:
        return self.status == "in_progress"

    @property
    def unplayed_ms(self) -> float:
        """What a client that plays as it receives has still to play when the response ends."""
        return max(self.audio_ms * (1 - 1 / self.rule.speed), 0.0)

    @property
    def deadline_ms(self) -> float | None:
        return self._due_ms if self.active else None

    def begin(self) -> list[Event]:
        self._emit("response.created", response=self.snapshot())
        self._emit(
            "rate_limits.updated",
            rate_limits=[
                {"name": "requests", "limit": 5000, "remaining": 4999, "reset_seconds": 0.012},
                {"name": "tokens", "limit": 400_000, "remaining": 395_000, "reset_seconds": 0.75},
            ],
        )
        return self._taken()

    def plan(self, reply: Reply, now: float) -> None:
        """From now on `advance` has something to do."""
        self.waits_for = None
        self._steps = self._generate(_split(_joined(reply), self.rule.items))
        self._due_ms = now + self.rule.first_audio_ms

    def advance(self, now: float) -> list[Event]:
        while self.active and self._steps is not None and self._due_ms is not None and self._due_ms <= now:
            wait_ms = next(self._steps, None)
            if wait_ms is None:
                self._due_ms = None
            else:
                self._due_ms += wait_ms
        return self._taken()

    def stop(self, reason: str) -> list[Event]:
        """Cancelled: `turn_detected` or `client_cancelled`."""
        self._finish("cancelled", {"type": "cancelled", "reason": reason})
        return self._taken()

    def snapshot(self) -> Event:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": self._details,
            "output": [item.snapshot() for item in self.output] if not self.active else [],
            "conversation_id": self._conversation_id,
            "output_modalities": [self.manner.modality],
            "max_output_tokens": self.manner.max_output_tokens,
            "audio": {"output": {"format": self.manner.described_format, "voice": self.manner.voice}},
            "usage": self._billed,
            "metadata": self.manner.metadata,
        }

    # ------------------------------------------------------------ generating

    def _generate(self, reply: Reply) -> Iterator[float]:
        if self.rule.status and not self.rule.stop_after_ms:
            self._end_as_ruled()
            return
        for part in reply:
            match part:
                case Say(text) if self.manner.modality == "text":
                    self._write(text)
                case Say(text):
                    yield from self._speak(text)
                case UseTool(name, arguments):
                    self._call(name, msgspec.json.encode(arguments).decode())
            if not self.active:
                return
        if self.rule.status:
            self._end_as_ruled()
            return
        self._finish("completed", None)

    def _speak(self, text: str) -> Iterator[float]:
        manner, rule = self.manner, self.rule
        spoken = self._mouth.say(text, voice=manner.voice, speed=manner.speed, format=manner.format)
        item = self._add_item(Item(self._ids.new("item"), "message", role="assistant"))
        item.audio, item.bytes_per_ms, item.generated = spoken.audio, manner.format.bytes_per_ms, True
        item.content = [{"type": "output_audio", "transcript": ""}]
        self._emit_in(item, "response.content_part.added", part={"type": "audio", "transcript": ""})
        limit_ms = self._limit_ms()
        words = list(reversed(spoken.words))
        step = max(int(rule.delta_ms * item.bytes_per_ms) & ~1, 2)
        sent = 0
        while sent < len(spoken.audio):
            if sent:
                yield rule.delta_ms / rule.speed
            piece = spoken.audio[sent : sent + step]
            sent += len(piece)
            sent_ms = sent / item.bytes_per_ms
            written = ""
            while words and words[-1].start_ms <= sent_ms + TRANSCRIPT_AHEAD_MS:
                written += words.pop().text
            if written:
                self._said += written
                self._emit_in(item, "response.output_audio_transcript.delta", delta=written)
            self._emit_in(item, "response.output_audio.delta", delta=piece)
            self.audio_ms += len(piece) / item.bytes_per_ms
            if not item.truncated:
                item.audio_ms = max(sent_ms - rule.count_less_ms, 0.0)
            if rule.status and self.audio_ms >= rule.stop_after_ms:
                self._end_as_ruled()
                return
            if self.audio_ms >= limit_ms:
                self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
                return
        self._close_item("completed")

    def _write(self, text: str) -> None:
        item = self._add_item(Item(self._ids.new("item"), "message", role="assistant"))
        item.content = [{"type": "output_text", "text": ""}]
        self._emit_in(item, "response.content_part.added", part={"type": "text", "text": ""})
        for word in text.split(" "):
            piece = word if not self._said else f" {word}"
            self._said += piece
            self._emit_in(item, "response.output_text.delta", delta=piece)
        self._close_item("completed")

    def _call(self, name: str, arguments: str) -> None:
        call_id = self._ids.new("call")
        item = self._add_item(
            Item(self._ids.new("item"), "function_call", fields={"name": name, "call_id": call_id, "arguments": ""})
        )
        middle = len(arguments) // 2
        ids = {"response_id": self.id, "item_id": item.id, "output_index": self._index(item), "call_id": call_id}
        for piece in (arguments[:middle], arguments[middle:]):
            if piece:
                self._emit("response.function_call_arguments.delta", **ids, delta=piece)
        item.fields["arguments"] = arguments
        self._emit("response.function_call_arguments.done", **ids, name=name, arguments=arguments)
        self._close_item("completed")

    def _add_item(self, item: Item) -> Item:
        item.status = "in_progress"
        self._open = item
        self._said = ""
        self.output.append(item)
        added = item.snapshot()
        self._emit("response.output_item.added", response_id=self.id, output_index=self._index(item), item=added)
        if self.manner.in_conversation:
            previous = self._conversation.append(item)
            self._emit("conversation.item.added", previous_item_id=previous, item=added)
        return item

    def _close_item(self, status: str) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        kind = item.content[0]["type"] if item.content else ""
        if kind == "output_audio":
            if not item.truncated:
                item.content[0]["transcript"] = self._said
            self._emit_in(item, "response.output_audio.done")
            self._emit_in(item, "response.output_audio_transcript.done", transcript=self._said)
            self._emit_in(item, "response.content_part.done", part={"type": "audio", "transcript": self._said})
        if kind == "output_text":
            item.content[0]["text"] = self._said
            self._emit_in(item, "response.output_text.done", text=self._said)
            self._emit_in(item, "response.content_part.done", part={"type": "text", "text": self._said})
        if self.manner.in_conversation:
            self._emit("conversation.item.done", previous_item_id=self._before(item), item=item.snapshot())
        self._emit(
            "response.output_item.done", response_id=self.id, output_index=self._index(item), item=item.snapshot()
        )

    def _end_as_ruled(self) -> None:
        rule = self.rule
        details: Event = {"type": rule.status}
        if rule.status == "failed":
            details["error"] = {"type": rule.error_type, "code": rule.code, "message": rule.message}
        else:
            details["reason"] = rule.reason
        self._finish(rule.status, details)

    def _finish(self, status: str, details: Event | None) -> None:
        self._close_item("incomplete")
        self.status = status
        self._details = details
        self._steps = None
        self._billed = self._usage(self) if status != "failed" else None
        self._emit("response.done", response=self.snapshot())

    def _limit_ms(self) -> float:
        most = self.manner.max_output_tokens
        return most * ASSISTANT_MS_PER_TOKEN if isinstance(most, int) else float("inf")

    def _index(self, item: Item) -> int:
        return self.output.index(item)

    def _before(self, item: Item) -> str | None:
        previous: str | None = None
        for known in self._conversation:
            if known is item:
                return previous
            previous = known.id
        return None

    def _emit_in(self, item: Item, kind: str, **fields: Any) -> None:
        self._emit(
            kind, response_id=self.id, item_id=item.id, output_index=self._index(item), content_index=0, **fields
        )

    def _emit(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, **fields})

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _joined(reply: Reply) -> Reply:
    """Sentences that follow each other become one item."""
    parts: list[Say | UseTool] = []
    for part in reply:
        if isinstance(part, Say) and parts and isinstance(parts[-1], Say):
            parts[-1] = Say(f"{parts[-1].text} {part.text}")
        else:
            parts.append(part)
    return tuple(parts)


def _split(reply: Reply, items: int) -> Reply:
    """Each thing to say as `items` things, as models do with long replies."""
    if items <= 1:
        return reply
    parts: list[Say | UseTool] = []
    for part in reply:
        if not isinstance(part, Say):
            parts.append(part)
            continue
        words = part.text.split()
        size = -(-len(words) // items)
        parts.extend(Say(" ".join(words[start : start + size])) for start in range(0, len(words), size))
    return tuple(parts)
