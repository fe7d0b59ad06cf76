"""Whose turn it is: at most one response in the conversation, none over the caller.

The service refuses a second response ("conversation already has an active response"), and some begin one by
themselves. So there is one response at a time, at most one wish for the next, granted when the floor is free, and a
list of responses nobody wants to hear any more.
"""

from __future__ import annotations

import msgspec


class Wish(msgspec.Struct, frozen=True):
    """A response we want. `why` is for the record; `instructions` apply to this response only."""

    why: str
    instructions: str = ""


class Turns(msgspec.Struct):
    response_id: str = ""  # the response being made; empty: none
    asked: Wish | None = None  # requested from the service, which has not named it yet
    named: Wish | None = None  # what the present response is thought to be the answer to
    doomed: bool = False  # what was asked for is cancelled as soon as it is named
    wish: Wish | None = None
    unwelcome: list[str] = []  # the last responses that were cut: nothing of theirs plays, even after their end
    out_of_band: list[str] = []
    caller_speaking: bool = False
    expecting: bool = False  # the caller's turn ended and the service will begin an answer by itself
    protected: str = ""  # the response the caller may not interrupt (a protected greeting, a goodbye)
    protect_next: bool = False
    spoke: bool = False  # the response being made has brought audio
    last_ended: str = ""

    @property
    def floor_is_free(self) -> bool:
        return not self.responding and not self.caller_speaking and not self.expecting

    @property
    def responding(self) -> bool:
        return bool(self.response_id) or self.asked is not None

    def want(self, wish: Wish) -> None:
        """One wish at a time: a later one replaces an earlier one, unless only the earlier says what to say."""
        if self.wish is None or wish.instructions or not self.wish.instructions:
            self.wish = wish

    def grant(self) -> Wish | None:
        """The wish, if it may be asked for now; it then counts as asked."""
        if self.wish is None or not self.floor_is_free:
            return None
        self.asked, self.wish, self.doomed = self.wish, None, False
        return self.asked

    def refused(self) -> None:
        """The service would not begin what we asked for: it goes back to being a wish."""
        refused = self.asked or self.named  # a response the service began by itself may have taken our wish's place
        if refused is not None and self.wish is None and not self.doomed:
            self.wish = refused
        self.asked = self.named = None
        self.doomed = False

    def started(self, response_id: str) -> bool:
        """The service named a response. True: it is doomed, cancel it."""
        doomed = self.asked is not None and self.doomed
        if self.response_id and self.response_id not in self.unwelcome:
            self.unwelcome.append(self.response_id)  # two at once: the newer is the one the service talks about
        self.response_id, self.spoke = response_id, False
        self.protected = response_id if self.protect_next and not doomed else self.protected
        self.protect_next = self.expecting = False
        self.named, self.asked, self.doomed = self.asked, None, False
        return doomed

    def welcome(self, response_id: str) -> bool:
        return response_id not in self.unwelcome and response_id not in self.out_of_band

    def cut(self) -> str:
        """Nothing more of the present response may play. Returns its id, empty if there was none to cut."""
        response_id = self.response_id
        if self.asked is not None:
            self.doomed = True
        if response_id and response_id not in self.unwelcome:
            self.unwelcome.append(response_id)
            return response_id
        return ""

    def ended(self, response_id: str) -> bool:
        """A response is over. True: it was the present one."""
        if response_id in self.out_of_band:
            return False
        self.last_ended = response_id
        if response_id == self.response_id:
            self.response_id = ""
            return True
        return False

    def forget_session(self) -> None:
        """The session is gone with all its responses; what we had asked of it is wished again."""
        if self.asked is not None and self.wish is None and not self.doomed:
            self.wish = self.asked
        self.response_id = self.protected = ""
        self.asked, self.doomed = None, False
        self.unwelcome.clear()
        self.out_of_band.clear()
        self.caller_speaking = self.expecting = False
