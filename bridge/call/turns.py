"""Whose turn it is: at most one response in the conversation, none over the caller.

The service refuses a second response ("conversation already has an active response"), and some begin one by
themselves. So there is one response at a time, at most one wish for the next, granted when the floor is free, and a
list of responses nobody wants to hear any more. What the caller has to be told (an announcement) waits beside the wish,
and comes after it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

_REMEMBERED = 16  # ids of responses kept per list; a service has two or three on its mind


Why = Literal[
    "greeting", "answer", "goodbye", "resume", "tool", "digits", "again", "idle", "limit_warning", "transfer_failed"
]


class Wish(msgspec.Struct, frozen=True):
    """A response we want. A greeting, an answer and a goodbye have rules of their own; `instructions` apply to this
    response only.
    """

    why: Why
    instructions: str = ""
    protected: bool = False  # the caller may not interrupt it
    must: bool = True  # another response does not do instead
    again: bool = False  # an announcement: if it is cut before it was heard, it is made again


class Turns(msgspec.Struct):
    response_id: str = ""  # the response being made; empty: none
    spoke: bool = False  # it has brought audio
    worded: bool = False  # it has brought words
    named: Wish | None = None  # what it is thought to be the answer to; None: the service began it by itself
    asked: Wish | None = None  # requested from the service, which has not named it yet
    doomed: bool = False  # what was asked for is cancelled as soon as it is named
    wish: Wish | None = None
    announcement: Wish | None = None  # comes when nothing else is wished, and not at all when the call ends
    unwelcome: list[str] = []  # the last responses that were cut: nothing of theirs plays, even after their end
    out_of_band: list[str] = []
    finished: list[str] = []
    caller_speaking: bool = False
    expecting: bool = False  # the caller's turn ended and the service will begin an answer by itself
    refused_once: bool = False  # a response is active that we do not know of: asking waits a moment
    protected: str = ""  # the response the caller may not interrupt
    told: Wish | None = None  # the last announcement
    told_in: str = ""  # the response with it
    told_in_part: int = 0  # so often it was cut when some of it had been heard

    @property
    def floor_is_free(self) -> bool:
        return not (
            self.response_id or self.asked is not None or self.caller_speaking or self.expecting or self.refused_once
        )

    @property
    def wishing(self) -> bool:
        return self.wish is not None or self.announcement is not None

    @property
    def responding(self) -> bool:
        return bool(self.response_id) or self.asked is not None

    def want(self, wish: Wish) -> None:
        """One wish at a time: a later one replaces an earlier one, unless only the earlier says what to say."""
        if wish.again:
            self.announcement = wish
        elif self.wish is None or wish.instructions or not self.wish.instructions:
            self.wish = wish

    def grant(self, *, announce: bool) -> Wish | None:
        """The wish, or an announcement, if it may be asked for now; it then counts as asked."""
        if not self.floor_is_free:
            return None
        if self.wish is not None:
            self.asked, self.wish, self.doomed = self.wish, None, False
        elif self.announcement is not None and announce:
            self.asked, self.announcement, self.doomed = self.announcement, None, False
        else:
            return None
        return self.asked

    def greet_no_more(self) -> None:
        """The caller did not wait for the greeting: after the answer to them it would be out of place.

        A protected one has to be heard in any case.
        """
        if self.wish is not None and self.wish.why == "greeting" and not self.wish.protected:
            self.wish = None

    def refused(self) -> None:
        """The service would not begin what we asked for: it goes back to being a wish.

        If a response was named since we asked, then it was not ours: the service had begun it by itself.
        """
        if self.asked is not None:
            refused, self.asked = (None if self.doomed else self.asked), None
            self.doomed = False
        else:  # of a response that is over, nothing can be refused
            ours = self.named is not None and self.named.must and self.response_id
            refused, self.named = (self.named if ours else None), None
        if refused is not None and (refused.again or self.wish is None):
            self.want(refused)

    def knows(self, response_id: str) -> bool:
        """It was named before."""
        return response_id == self.response_id or response_id in self.finished or response_id in self.unwelcome

    def overtaken(self) -> None:
        """What we asked for was swallowed: the service would have begun it before its answer to the caller."""
        self.asked, self.doomed = None, False

    def started(self, response_id: str) -> bool:
        """The service named a response. True: it is doomed, cancel it."""
        if self.knows(response_id):
            return False
        doomed = self.doomed
        if self.response_id:
            self.cut()  # two at once: the newer is the one the service talks about
        self.named, self.asked, self.doomed = self.asked, None, False
        self.response_id, self.spoke, self.worded = response_id, False, False
        if doomed:
            _remember(self.unwelcome, response_id)
            return True
        self.expecting = self.refused_once = False
        if self.named is not None and self.named.protected:
            self.protected = response_id
        if self.named is not None and self.named.again:
            self.told, self.told_in = self.named, response_id
        return False

    def welcome(self, response_id: str) -> bool:
        return response_id not in self.unwelcome and response_id not in self.out_of_band

    @property
    def being_made(self) -> bool:
        """A response is being made that the caller is to hear."""
        return bool(self.response_id) and self.response_id not in self.unwelcome

    def cut(self) -> str:
        """Nothing more of the present response may play. Returns its id, empty if there was none to cut."""
        if self.asked is not None:
            self.doomed = True
        if not self.being_made:
            return ""
        _remember(self.unwelcome, self.response_id)
        return self.response_id

    def give_up(self) -> str:
        """What is asked for or being made will not come any more. Returns the id to cancel, if it is known."""
        response_id = self.response_id
        self.cut()
        self.response_id = ""
        self.asked, self.expecting, self.doomed = None, False, False
        return response_id

    def ended(self, response_id: str) -> bool:
        """A response is over. True: it was the present one."""
        if response_id in self.out_of_band or response_id in self.finished:
            return False
        if self.asked is not None and not self.response_id and response_id not in self.unwelcome:
            self.started(response_id)  # over before it was named: some failures are
        _remember(self.finished, response_id)
        if response_id != self.response_id:
            return False
        self.response_id = ""
        return True

    def aside(self, response_id: str) -> None:
        """A response outside the conversation: it is nobody's turn and is never played."""
        if response_id not in self.out_of_band:
            _remember(self.out_of_band, response_id)

    def forget_session(self) -> None:
        """The session is gone with all its responses; what we had asked of it and not heard is wished again."""
        again = None if self.doomed else self.asked
        if again is None and self.being_made and not self.spoke:
            again = self.named
        if again is not None and again.must and (again.again or self.wish is None):
            self.want(again)
        self.response_id = self.protected = ""
        self.asked = self.named = None
        self.doomed = self.caller_speaking = self.expecting = self.refused_once = False
        self.unwelcome.clear()
        self.out_of_band.clear()
        self.finished.clear()


def _remember(ids: list[str], response_id: str) -> None:
    ids.append(response_id)
    if len(ids) > _REMEMBERED:
        del ids[0]
