"""Whose words the caller's items are: begun, stopped, taken as a turn, transcribed.

Law: the turn of an item ends once, by whatever a service sends of it first: `committed`, the item itself, its
transcript, or the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.call.events import CallerSpeechStarted, CallerSpeechStopped, CallerTranscribed, CallerTurnEnded
from bridge.realtime.memory import Recent
from bridge.realtime.wire import clean, number, rows, table, wire_id


class CallerTurns:
    """Reads the events about the caller. Facts are appended to the list given; `make_up` gives ids nobody sent."""

    def __init__(self, make_up: Callable[[str], str]) -> None:
        self._make_up = make_up
        self._ended = Recent()
        self._item = ""  # being spoken, or spoken and its turn not yet ended
        self._stopped = False

    def started(self, event: dict[str, Any], facts: list[Any]) -> None:
        self._item = wire_id(event.get("item_id"))
        self._stopped = False
        facts.append(CallerSpeechStarted(self._item, number(event.get("audio_start_ms")) or 0.0))

    def stopped(self, event: dict[str, Any], facts: list[Any]) -> None:
        self._item = wire_id(event.get("item_id")) or self._item or self._make_up("item")
        self._stopped = True
        facts.append(CallerSpeechStopped(self._item, number(event.get("audio_end_ms")) or 0.0))

    def committed(self, event: dict[str, Any], facts: list[Any]) -> None:
        item_id = wire_id(event.get("item_id")) or self._item or self._make_up("item")
        self._end(item_id, facts, previous=wire_id(event.get("previous_item_id")))

    def _end(self, item_id: str, facts: list[Any], *, previous: str = "") -> None:
        self._item, self._stopped = "", False
        if item_id not in self._ended:
            self._ended.add(item_id)
            facts.append(CallerTurnEnded(item_id, previous))

    def end_before_answer(self, facts: list[Any]) -> None:
        """Services that never send `committed`: an answer after the caller stopped means the turn was taken."""
        if self._stopped:
            self._end(self._item, facts)

    def item_added(self, event: dict[str, Any], facts: list[Any]) -> None:
        item = table(event.get("item"))
        item_id = wire_id(item.get("id"))
        if item.get("type") == "function_call" or item.get("role") != "user" or not item_id:
            return
        audible = any(part.get("type") == "input_audio" for part in rows(item.get("content")))
        if item_id == self._item or audible:
            self._end(item_id, facts, previous=wire_id(event.get("previous_item_id")))

    def transcribed(self, event: dict[str, Any], facts: list[Any]) -> None:
        item_id = wire_id(event.get("item_id")) or self._item or self._make_up("item")
        if item_id == self._item:
            self._end(item_id, facts)
        facts.append(CallerTranscribed(item_id, clean(event.get("transcript")).strip()))
