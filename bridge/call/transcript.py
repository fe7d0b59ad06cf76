"""The conversation as it was heard.

Entries stand in the order of the conversation, placed by item id when they begin, so that a caller's words that are
transcribed late still stand where they were said. The agent's words are cut to what the caller heard: at the word's
own time where the service tells it, else in proportion to the audio.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.call.actions import HistoryItem

_KEPT = 400  # entries of one call that are kept; a longer call loses its oldest


class Entry(msgspec.Struct):
    role: Literal["caller", "agent", "tool", "note"]
    item_id: str
    at_ms: float  # the call's own time when it began
    text: str = ""
    settled: bool = False  # nothing more will be heard of it
    received_ms: float = 0.0
    heard_ms: float = 0.0
    cut: bool = False  # the caller interrupted it
    words: list[tuple[float, str]] = []  # (audio ms at which it begins, word), where the service tells
    tool_name: str = ""
    tool_arguments: str = ""
    tool_call_id: str = ""

    @property
    def heard_text(self) -> str:
        """What of `text` was heard, to the last whole word."""
        if self.role != "agent" or not self.cut or self.heard_ms >= self.received_ms:
            return self.text
        if self.words:
            return " ".join(word for at_ms, word in self.words if at_ms < self.heard_ms)
        if self.received_ms <= 0 or self.heard_ms <= 0:
            return ""
        return whole_words(self.text, int(len(self.text) * self.heard_ms / self.received_ms))


def whole_words(text: str, length: int) -> str:
    """The first `length` characters of `text`, without a word that would be broken."""
    if length >= len(text):
        return text
    head = text[:length]
    if text[length].isspace() or not head or head[-1].isspace():
        return head.rstrip()
    return head.rpartition(" ")[0].rstrip()


class Transcript(msgspec.Struct):
    entries: list[Entry] = []

    def find(self, item_id: str) -> Entry | None:
        return next((entry for entry in reversed(self.entries) if entry.item_id == item_id), None) if item_id else None

    def _add(self, entry: Entry, after: str = "") -> Entry:
        place = next(
            (i + 1 for i, known in enumerate(self.entries) if after and known.item_id == after), len(self.entries)
        )
        self.entries.insert(place, entry)
        if len(self.entries) > _KEPT:
            del self.entries[0]
        return entry

    def caller_began(self, item_id: str, now: float) -> None:
        if item_id and self.find(item_id) is None:
            self._add(Entry("caller", item_id, now))

    def caller_ended(self, item_id: str, previous: str, now: float) -> None:
        """The caller's audio became an item; `previous` is the item it follows, where the service says so."""
        if self.find(item_id) is None:
            self._add(Entry("caller", item_id, now), previous)

    def caller_said(self, item_id: str, text: str, now: float) -> None:
        entry = self.find(item_id) or self._add(Entry("caller", item_id, now))
        entry.text, entry.settled = text, True

    def caller_typed(self, text: str, now: float) -> None:
        self._add(Entry("caller", "", now, text, settled=True))

    def noted(self, text: str, now: float) -> None:
        self._add(Entry("note", "", now, text, settled=True))

    def agent_spoke(self, item_id: str, ms: float, now: float) -> None:
        entry = self.find(item_id) or self._add(Entry("agent", item_id, now))
        entry.received_ms += ms

    def agent_said(self, item_id: str, text: str, now: float) -> None:
        entry = self.find(item_id) or self._add(Entry("agent", item_id, now))
        entry.text += text

    def agent_said_all(self, item_id: str, text: str, now: float) -> None:
        entry = self.find(item_id) or self._add(Entry("agent", item_id, now))
        entry.text = text

    def word_timed(self, item_id: str, text: str, at_ms: float) -> None:
        entry = self.find(item_id)
        if entry is not None:
            entry.words.append((at_ms, text))

    def agent_heard(self, item_id: str, heard_ms: float, *, cut: bool) -> None:
        entry = self.find(item_id)
        if entry is not None:
            entry.heard_ms, entry.cut, entry.settled = heard_ms, cut, True

    def tool_asked(self, item_id: str, tool_call_id: str, name: str, arguments: str, now: float) -> None:
        self._add(Entry("tool", item_id, now, tool_call_id=tool_call_id, tool_name=name, tool_arguments=arguments))

    def tool_answered(self, tool_call_id: str, output: str) -> None:
        for entry in reversed(self.entries):
            if entry.tool_call_id == tool_call_id:
                entry.text, entry.settled = output, True
                return

    def history(self, unanswered_tool: str) -> tuple[HistoryItem, ...]:
        """The conversation as heard, to seed a new session with. Open tool calls get `unanswered_tool` as output."""
        items: list[HistoryItem] = []
        for entry in self.entries:
            if entry.role == "tool":
                output = entry.text if entry.settled else unanswered_tool
                items.append(HistoryItem("tool", output, entry.tool_call_id, entry.tool_name, entry.tool_arguments))
            elif text := entry.heard_text:
                items.append(HistoryItem(entry.role, text))
        return tuple(items)
