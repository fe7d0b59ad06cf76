"""What a decoder remembers of a session: open responses, tool calls in the making, and a few ids of the past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

_REMEMBERED = 512
_DELTAS = 64  # a gateway that repeats one does so at once


class Call(msgspec.Struct, gc=False):
    """A tool call in the making."""

    item_id: str
    name: str = ""
    arguments: str | None = None  # None until they are complete


class Response:
    """A response that has started and not ended."""

    __slots__ = ("audio_items", "calls", "current_item", "id", "out_of_band", "transcribed", "words")

    def __init__(self, response_id: str, *, out_of_band: bool = False) -> None:
        self.id = response_id
        self.out_of_band = out_of_band
        self.current_item = ""  # the message item deltas without an id belong to
        self.audio_items: dict[str, None] = {}  # with audio whose end was not announced yet, in order
        self.transcribed: set[str] = set()  # items whose whole transcript is known
        self.words: Literal["", "transcript", "text"] = ""  # where its words come from; a transcript wins over text
        self.calls: dict[str, Call] = {}  # by call id


class Recent:
    """A set that forgets its oldest members."""

    def __init__(self) -> None:
        self._members: dict[str, None] = {}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def add(self, member: str) -> None:
        self._members[member] = None
        if len(self._members) > _REMEMBERED:
            del self._members[next(iter(self._members))]


class Conversations:
    """Tells responses outside the conversation: a service that names conversations (`named`, or it is seen to) says
    null for theirs.
    """

    def __init__(self, *, named: bool) -> None:
        self._named = named

    def outside(self, response: Mapping[str, Any]) -> bool:
        """Of a response that was created, as the service describes it."""
        conversation = response.get("conversation_id", "")
        self._named = self._named or bool(conversation)
        return (conversation is None and self._named) or response.get("conversation") == "none"


class Repeats:
    """Knows a delta sent twice by its event id, until a service shows that it numbers its events carelessly."""

    def __init__(self) -> None:
        self._ends: dict[str, str] = {}  # event id -> how its delta ended
        self._believed = True

    def again(self, event_id: str, delta: str) -> bool:
        """Whether this very delta came before."""
        if not self._believed:
            return False
        end = delta[-48:]
        before = self._ends.get(event_id)
        if before is not None:
            self._believed = before == end
            return self._believed
        self._ends[event_id] = end
        if len(self._ends) > _DELTAS:
            del self._ends[next(iter(self._ends))]
        return False
