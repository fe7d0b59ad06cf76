"""The conversation as it was heard.

Entries stand in the order of the conversation, placed by item id when they begin, so that a caller's words that are
transcribed late still stand where they were said. The agent's words are cut to what the caller heard: at the word's
own time where the service tells it, else in proportion to the audio.
"""

from __future__ import annotations

import itertools
from math import isfinite
from typing import Literal

import msgspec

from bridge.call.actions import HistoryItem
from bridge.call.playout import Item

_KEPT = 400  # entries of one call that are kept; a longer call loses its oldest
_LONGEST_TEXT = 20_000  # characters of one entry
_MOST_WORDS = 4000
_FRAME_MS = 20.0  # less than this of a word is not missed
_MS_PER_CHARACTER = 65.0  # of English speech: fifteen characters a second
_SEED_CHARS = 32_000  # of history given to a new session: about 8,000 tokens


class Entry(msgspec.Struct):
    role: Literal["caller", "agent", "tool", "note"]
    item_id: str
    at_ms: float  # the call's own time when it began
    text: str = ""
    settled: bool = False  # nothing more will be heard of it
    received_ms: float = 0.0
    heard_ms: float = 0.0
    partial: bool = False  # not all of its audio came, so its text, which runs ahead, says more than was spoken
    cut: bool = False  # the caller interrupted it
    words: list[tuple[float, str]] = []  # (audio ms at which it begins, word), where the service tells
    tool_name: str = ""
    tool_arguments: str = ""
    tool_call_id: str = ""
    foreign: bool = False  # of a session that is gone: another's items may have the same ids
    told: bool = False  # to the session that is to take over from the present one

    @property
    def heard_text(self) -> str:
        """What of `text` was heard, to the last whole word."""
        if self.role == "agent" and not self.received_ms:
            return ""  # in writing only
        whole_ms = max(self.received_ms, len(self.text) * _MS_PER_CHARACTER if self.partial else 0.0)
        if self.role != "agent" or not self.cut or self.heard_ms > max(whole_ms - _FRAME_MS, 0.0):
            return self.text
        if self.words:
            return " ".join(word for at_ms, word in self.words if at_ms < self.heard_ms)
        if whole_ms <= 0 or self.heard_ms <= 0:
            return ""
        return whole_words(self.text, int(len(self.text) * self.heard_ms / whole_ms))


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

    def find(self, item_id: str, *, foreign: bool = False) -> Entry | None:
        if item_id:
            for entry in reversed(self.entries):
                if entry.item_id == item_id and entry.foreign == foreign:
                    return entry
        return None

    def disown(self) -> None:
        """The session is gone."""
        for entry in self.entries:
            entry.foreign = True

    def _agents(self, item_id: str, now: float) -> Entry:
        """The agent's entry of this item."""
        entry = self.find(item_id)
        return entry if entry is not None and entry.role == "agent" else self._add(Entry("agent", item_id, now))

    def _callers(self, item_id: str, now: float, after: str = "") -> Entry:
        entry = self.find(item_id)
        return (
            entry if entry is not None and entry.role == "caller" else self._add(Entry("caller", item_id, now), after)
        )

    def _add(self, entry: Entry, after: str = "") -> Entry:
        place = next(
            (i + 1 for i, known in enumerate(self.entries) if after and known.item_id == after and not known.foreign),
            len(self.entries),
        )
        self.entries.insert(place, entry)
        if len(self.entries) > _KEPT:
            del self.entries[0]
        return entry

    def caller_began(self, item_id: str, now: float) -> None:
        if item_id:
            self._callers(item_id, now)

    def caller_ended(self, item_id: str, previous: str, now: float) -> None:
        """The caller's audio became an item; `previous` is the item it follows, where the service says so."""
        self._callers(item_id, now, previous)

    def caller_said(self, item_id: str, text: str, now: float) -> None:
        entry = self._callers(item_id, now)
        entry.text, entry.settled = text[:_LONGEST_TEXT], True

    def caller_is_heard_again(self) -> None:
        """What they said last, of which nothing is known in words, will be another session's item."""
        while self.entries and self.entries[-1].role == "caller" and not self.entries[-1].settled:
            self.entries.pop()

    def caller_typed(self, text: str, now: float) -> None:
        self._add(Entry("caller", "", now, text, settled=True))

    def noted(self, text: str, now: float) -> None:
        """Something the model was told, for a session to come too."""
        self._add(Entry("note", "", now, text, settled=True))

    def agent_spoke(self, item_id: str, ms: float, now: float) -> None:
        self._agents(item_id, now).received_ms += ms

    def agent_missed(self, item_id: str, ms: float) -> None:
        """So much of an item was never played: its words are not all heard."""
        entry = self.find(item_id)
        if entry is not None and entry.role == "agent":
            entry.received_ms += ms
            entry.partial = entry.cut = True

    def agent_said(self, item_id: str, text: str, now: float) -> None:
        entry = self._agents(item_id, now)
        if len(entry.text) < _LONGEST_TEXT:
            entry.text += text[: _LONGEST_TEXT - len(entry.text)]

    def agent_said_all(self, item_id: str, text: str) -> None:
        entry = self.find(item_id)
        if entry is not None and entry.role == "agent":
            entry.text = text[:_LONGEST_TEXT]

    def word_timed(self, item_id: str, text: str, at_ms: float) -> None:
        entry = self.find(item_id)
        if entry is not None and entry.role == "agent" and len(entry.words) < _MOST_WORDS and isfinite(at_ms):
            entry.words.append((at_ms, text[:_LONGEST_TEXT]))

    def agent_heard(self, item: Item, heard_ms: float, *, cut: bool) -> None:
        entry = self.find(item.item_id, foreign=item.foreign)
        if entry is None or entry.role != "agent":
            return
        entry.partial = entry.partial or not item.closed
        entry.heard_ms, entry.cut, entry.settled = heard_ms, cut or entry.partial, True

    def tool_asked(self, item_id: str, tool_call_id: str, name: str, arguments: str, now: float) -> None:
        entry = Entry("tool", item_id, now, tool_call_id=tool_call_id, tool_name=name[:_LONGEST_TEXT])
        entry.tool_arguments = arguments[:_LONGEST_TEXT]
        self._add(entry)

    def tool_answered(self, tool_call_id: str, output: str) -> None:
        for entry in reversed(self.entries):
            if entry.role == "tool" and entry.tool_call_id == tool_call_id and not entry.settled:
                entry.text, entry.settled = output[:_LONGEST_TEXT], True
                return

    def history(self, unanswered_tool: str) -> tuple[HistoryItem, ...]:
        """The conversation as heard, to seed a new session with. Open tool calls get `unanswered_tool` as output."""
        return _seed(self.entries, unanswered_tool)

    def settled_history(self, unanswered_tool: str) -> tuple[HistoryItem, ...]:
        """The same up to the first entry that may still change; the rest is for `untold_history`."""
        settled = list(itertools.takewhile(lambda entry: entry.settled, self.entries))
        for place, entry in enumerate(self.entries):
            entry.told = place < len(settled) and (entry.role == "tool" or bool(entry.heard_text))  # words may be late
        return _seed(settled, unanswered_tool)

    def untold_history(self, unanswered_tool: str) -> tuple[HistoryItem, ...]:
        """What `settled_history` did not hold, or not yet."""
        return _seed([entry for entry in self.entries if not entry.told], unanswered_tool)


def _seed(entries: list[Entry], unanswered_tool: str) -> tuple[HistoryItem, ...]:
    """As much of the end of these entries as a new session should be told."""
    items: list[HistoryItem] = []
    left = _SEED_CHARS
    for entry in reversed(entries):
        if entry.role == "tool":
            output = entry.text if entry.settled else unanswered_tool
            items.append(HistoryItem("tool", output, entry.tool_call_id, entry.tool_name, entry.tool_arguments))
            left -= len(output) + len(entry.tool_arguments)
        elif text := entry.heard_text:
            items.append(HistoryItem(entry.role, text))
            left -= len(text)
        if left <= 0:
            break
    return tuple(reversed(items))
