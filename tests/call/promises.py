"""What a call promises whatever happens to it, watched from outside: facts, requests, and what the ledger says."""

from __future__ import annotations

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from tests.call.carrier import BYTES_PER_MS

_TO_MODEL = (
    do.RequestResponse,
    do.CancelResponse,
    do.TruncateItem,
    do.DeleteItem,
    do.TellModel,
    do.SubmitToolOutput,
    do.CommitCallerAudio,
    do.SendCallerAudio,
    do.SendSilence,
)


_OVERTIME_MS = 91_000.0  # a hang-up begun just before the limit, that failed; and the goodbye at the limit


class Promises:
    """Give it every fact and what the call made of it. Audio of a response must consist of `tags`' byte value."""

    __slots__ = (
        "active",
        "answered",
        "asked",
        "cut",
        "cut_items",
        "ended",
        "known",
        "model_ready",
        "next_session",
        "owner",
        "received",
        "requested",
        "session",
        "stream",
        "stream_at",
        "tags",
    )

    def __init__(self, tags: dict[str, int]) -> None:
        self.tags = tags  # item -> byte value
        self.owner: dict[int, str] = {}  # byte value -> response
        self.received: dict[str, float] = {}  # item -> ms
        self.known: set[str] = set()  # responses heard of
        self.cut: set[str] = set()
        self.cut_items: set[str] = set()
        self.active = ""  # the response the service is making
        self.asked = False  # a response was asked for and not yet named
        self.model_ready = False
        self.session = self.next_session = 0
        self.stream = False
        self.stream_at = 0.0
        self.requested: set[str] = set()  # tools run
        self.answered: set[str] = set()
        self.ended = 0

    def copy(self) -> Promises:
        twin = Promises.__new__(Promises)
        twin.tags, twin.active, twin.asked = self.tags, self.active, self.asked
        twin.model_ready, twin.session, twin.next_session = self.model_ready, self.session, self.next_session
        twin.stream, twin.stream_at, twin.ended = self.stream, self.stream_at, self.ended
        twin.owner, twin.received = dict(self.owner), dict(self.received)
        twin.known, twin.cut, twin.cut_items = set(self.known), set(self.cut), set(self.cut_items)
        twin.requested, twin.answered = set(self.requested), set(self.answered)
        return twin

    # ------------------------------------------------------------ facts

    def fact(self, event: ev.Event) -> None:
        """Before the call hears of it."""
        match event:
            case ev.ResponseStarted(response_id=response_id, out_of_band=False):
                if response_id not in self.known:
                    self.active, self.asked = response_id, False
                    self.known.add(response_id)
            case ev.ModelSpoke(response_id=response_id, item_id=item_id, audio=audio):
                self.received[item_id] = self.received.get(item_id, 0.0) + len(audio) / BYTES_PER_MS
                self.owner.setdefault(self.tags[item_id], response_id)
                if response_id not in self.known:
                    self.active, self.asked = response_id, False
                    self.known.add(response_id)
            case ev.ResponseEnded(response_id=response_id):
                if self.active == response_id:
                    self.active = ""
                elif response_id not in self.known:
                    self.asked = False
            case ev.ModelComplained(cure="wait"):
                self.asked = False
            case ev.ModelReady(session=session) if session == self.session:
                self.model_ready = True
            case ev.StreamStarted():
                self.stream = True
            case ev.CallerLeft():
                self.stream = False

    # ------------------------------------------------------------ requests

    def requests(self, call: Call, now: float, event: ev.Event, actions: list[do.Action]) -> None:
        """After the call has decided."""
        if self.ended:
            assert not actions, "nothing after the end"
            return
        for action in actions:
            assert not self.ended, "the end is the last"
            self._request(action)
        deadline = call.deadline()
        if type(event) is ev.DeadlineReached:
            assert deadline is None or deadline > now, "a deadline that was handled moves"
        if type(event) is ev.StreamStarted and not self.stream_at:
            self.stream_at = now
        longest_s = call.plan.agent.policies.max_call_s
        if longest_s and not self.ended:
            assert now - self.stream_at <= longest_s * 1000 + _OVERTIME_MS, "no call lasts beyond its limit"
            if do.RequestResponse(call.plan.agent.policies.limit_warning) in actions:
                assert now - self.stream_at < longest_s * 1000, "a limit is announced before it is reached"
        ledger = call.state.ledger
        assert ledger.reckoning.ear(now) <= ledger.reckoning.sent_ms, "the ear is not ahead of what was sent"
        if ledger.items:
            for one in ledger.heard(now):
                item = one.item
                assert 0 <= one.heard_ms <= item.sent_ms + 1e-6, "heard at most what was sent"
                assert item.sent_ms <= item.received_ms + 1e-6, "sent at most what was received"
                assert item.received_ms <= self.received[item.item_id] + 1e-6

    def _request(self, action: do.Action) -> None:
        if isinstance(action, _TO_MODEL):
            assert self.model_ready, f"{action} was asked of no session"
        match action:
            case do.PlayAudio(audio=audio):
                assert self.stream, "there is a stream to play to"
                assert len(audio) <= 100 * BYTES_PER_MS, "slices are short"
                response_id = self.owner.get(audio[0], "")
                assert response_id not in self.cut, f"audio of {response_id} after it was cut"
            case do.ClearPlayback():
                self.cut |= self.known
            case do.CancelResponse(response_id=response_id):
                assert response_id in self.known, "only a response that was named can be cancelled"
                self.cut.add(response_id)
            case do.TruncateItem(item_id=item_id, audio_end_ms=audio_end_ms):
                assert 0 <= audio_end_ms <= self.received[item_id], "truncated to more than was received"
                assert item_id not in self.cut_items, "an item is cut once"
                self.cut_items.add(item_id)
                self.cut.add(self.owner[self.tags[item_id]])
            case do.DeleteItem(item_id=item_id):
                assert item_id not in self.cut_items, "an item is cut once"
                self.cut_items.add(item_id)
                self.cut.add(self.owner[self.tags[item_id]])
            case do.RequestResponse():
                assert not self.asked and not self.active, "two responses at once"
                self.asked = True
            case do.Note(what="answer_missing"):
                self.asked, self.active = False, ""  # given up, and cancelled where it had a name
            case do.OpenModel(session=session):
                assert session > max(self.session, self.next_session), "sessions are counted up"
                if self.model_ready:
                    self.next_session = session
                else:
                    self.session = session
            case do.SwitchModel(session=session):
                assert session == self.next_session, "the session opened beside takes over"
                self._forget_session()
                self.session, self.model_ready = session, True
            case do.CloseModel():
                self._forget_session()
                self.model_ready = False
            case do.RunTool(tool_call_id=tool_call_id):
                assert tool_call_id not in self.requested, "a tool is run once"
                self.requested.add(tool_call_id)
            case do.SubmitToolOutput(tool_call_id=tool_call_id):
                assert tool_call_id not in self.answered, "a tool is answered once"
                self.answered.add(tool_call_id)
            case do.EndCall():
                self.ended += 1

    def _forget_session(self) -> None:
        self.active, self.asked = "", False
        self.answered |= self.requested  # the next session is told of them in words
        self.cut_items |= self.received.keys()  # ids of a session that is gone are never truncated

    def at_rest(self, call: Call) -> None:
        """Long after the last fact."""
        assert call.over or self.requested <= self.answered, "every tool is answered"
        assert not call.over or self.ended == 1, "one end"
