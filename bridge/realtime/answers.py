"""Who is to speak in one session, as a client sees it: which responses are being made, what was asked for, and what is
wanted when they are over. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.realtime.memory import Conversations, Recent
from bridge.realtime.wire import table, wire_id


class Answers:
    """`active` are the ids of responses being made, empty for one without; `wanted`: another, as soon as none is."""

    def __init__(self, conversations: Conversations) -> None:
        self.active: set[str] = set()
        self.wanted = False
        self._asked = ""  # the event that asked for a response, until it is created or refused
        self._worded = Recent()  # events that asked for a response with fields of its own
        self._over = Recent()  # responses that ended
        self._aside = Recent()  # responses beside the conversation; what is late of them is, too
        self._conversations = conversations

    @property
    def under_way(self) -> bool:
        """One is being made, or was asked for."""
        return bool(self.active or self._asked)

    def asked(self, event: Mapping[str, Any]) -> None:
        """A response.create was sent."""
        if table(event.get("response")).get("conversation") != "none":
            self._asked = event["event_id"]
        if event.get("response"):
            self._worded.add(event["event_id"])

    def put_off(self, event_id: str) -> None:
        """The service would not do it yet. What was asked for in words of its own is for whoever asked to ask again."""
        if (event_id or self._asked) not in self._worded:
            self.wanted = True

    def refused(self, event_id: str) -> None:
        """The service would not do what this event asked for."""
        if event_id and event_id == self._asked:
            self._asked = ""

    def take(self) -> bool:
        """Whether one is to be asked for now; it then counts as wanted no more."""
        now = self.wanted and not self.active
        self.wanted = self.wanted and not now
        return now

    def beside(self, kind: str, event: Mapping[str, Any]) -> bool:
        """Whether an event is of a response beside the conversation: its items are no part of that, and its calls are
        for whoever asked for it.
        """
        response = table(event.get("response"))
        response_id = wire_id(event.get("response_id")) or wire_id(response.get("id"))
        if kind == "response.created" and self._conversations.outside(response):
            if response_id:
                self._aside.add(response_id)
            return True
        return response_id in self._aside

    def created(self, response_id: str) -> None:
        if response_id not in self._over:
            self.active.add(response_id)
        self._asked, self.wanted = "", False  # it knows all that was said before it

    def done(self, response_id: str) -> None:
        """One without an id ends with whatever ends, and all end with one without an id."""
        if response_id:
            self._over.add(response_id)
            self.active -= {response_id, ""}
        else:
            self.active.clear()
