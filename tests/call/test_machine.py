"""The call takes anything: nonsense in any order, peers that keep their rules and peers that do not."""

from __future__ import annotations

from math import inf, nan

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import CarrierCapabilities, ModelCapabilities
from tests.call.carrier import BYTES_PER_MS
from tests.call.playbook import (
    CLIPS,
    INTERRUPTS,
    OBEYS,
    ROUTED,
    Playbook,
    asks_tool,
    caller_audio,
    caller_leaves,
    caller_speaks,
    caller_stops,
    complains,
    ends,
    lost,
    plan,
    pressed,
    ready,
    response,
    says,
    stream,
    tag_of,
    tool_done,
    words,
)
from tests.call.promises import Promises

# ---------------------------------------------------------------- nonsense

_IDS = st.sampled_from(["", "a", "b", "c", "t1", "~1", "\x00", "é" * 300])
_MS = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**63), 2**63).map(float))
_AUDIO = st.sampled_from([b"", b"a", b"abc", b"a" * 160, b"a" * 333])
_TEXT = st.text(max_size=40)
_FIELDS = {"audio": _AUDIO, "ms": _MS, "at_ms": _MS, "text": _TEXT, "arguments": _TEXT, "output": _TEXT, "digit": _TEXT}


def _nonsense(kind: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    """Any value of one kind of fact: right types, wild values."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {}
    for field in info.fields:
        known = _FIELDS.get(field.name)
        fields[field.name] = known if known is not None else _value(field.type)
    return st.builds(kind, **fields)


def _value(kind: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    match kind:
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(_value, types))
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType():
            return st.integers(-3, 5)
        case msgspec.inspect.FloatType():
            return _MS
        case msgspec.inspect.NoneType() | msgspec.inspect.StructType():
            return st.none()
        case _:
            return _IDS


FACTS = [kind for kind in ev.Event.__subclasses__() if kind.__module__ == ev.__name__]
_ANYTHING = st.one_of(*map(_nonsense, FACTS))
_PLANS = {
    "usual": plan(clips=CLIPS, greeting="Greet.", idle_prompt_after_s=3.0, idle_hang_up_after_s=3.0),
    "careful": plan(
        model=OBEYS,
        carrier=CarrierCapabilities(resumes_after_drop=True),
        barge_in=200,
        greeting="Greet.",
        greeting_protected=True,
        interrupt_hang_up=True,
    ),
    "no marks": plan(models=(INTERRUPTS, OBEYS), carrier=CarrierCapabilities(marks=False), max_call_s=20.0),
    "poor": plan(
        model=ModelCapabilities(can_cancel=False, can_truncate=False, can_delete=False, max_session_s=8.0),
        carrier=CarrierCapabilities(encoding="pcm16", can_clear=False, marks_return_on_clear=False),
        barge_in="off",
    ),
    "impatient": plan(
        lead_ms=0, caller_pause_ms=0, answer_filler_s=0.0, answer_retry_s=0.0, answer_rotate_s=0.0, clips=CLIPS
    ),
}
_PAUSES = st.sampled_from([0, 0, 1, 20, 400, 3000])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("usual", [(ev.ModelLost(1, "", "retry", inf, inf), 0)], True)
@example("usual", [(ev.ModelLost(1, "", "retry", nan, nan), 0)], True)
@example("usual", [(ev.ModelReady(1, nan), 0), (ev.ModelReady(1, inf), 0)], False)
@given(st.sampled_from(sorted(_PLANS)), st.lists(st.tuples(_ANYTHING, _PAUSES), max_size=60), st.booleans())
def test_no_sequence_of_facts_is_too_strange(name: str, facts: list[tuple[ev.Event, int]], up: bool) -> None:
    call_plan = _PLANS[name]
    call, now = Call(call_plan, 0.0), 0.0
    beginning = [ROUTED, stream(), ready()] if up else []
    for fact, pause_ms in [*((one, 0) for one in beginning), *facts]:
        now += pause_ms
        for _ in range(500):
            deadline = call.deadline()
            if deadline is None or deadline > now:
                break
            call.handle(ev.DeadlineReached(), max(deadline, 0.0))
            later = call.deadline()
            assert later is None or later > deadline, "a deadline that was handled moves"
        else:
            raise AssertionError("the call is busy for ever")
        actions = call.handle(fact, now)
        assert isinstance(actions, list)
        ends_here = [one for one in actions if isinstance(one, do.EndCall)]
        assert ends_here == actions[-1:] if call.over and ends_here else not ends_here
        Call.resume(call.snapshot(now), call_plan, now)  # whatever it remembers can be written down and read


def test_a_timer_that_lies_in_the_past_is_kept_a_moment_from_now() -> None:
    """Whatever asks for the past, the alarm is never due before now: that would be a loop without an end."""
    book = Playbook.connected()
    book.run_until(1000)
    book.call.state.timers.set("ask_again", -5.0)
    book.give(response("r1"))
    deadline = book.call.deadline()
    assert deadline is not None and deadline > book.now


# ---------------------------------------------------------------- bounds


def test_what_peers_say_without_end_is_not_kept_without_end() -> None:
    """Memory of one call is bounded, whatever the model and the carrier send."""
    book = Playbook.connected(plan(first_media_s=1e9))
    call = book.call
    for number in range(3000):
        book.now += 1
        item = f"i{number}"
        book.give(response(f"r{number}"))
        book.give(words(f"r{number}", item, "word " * 100))
        book.give(ev.WordTimed(item, "word", float(number)))
        book.give(ev.ModelSpoke(f"r{number}", item, 0, bytes(800), 100))
        book.give(ev.ResponseStarted(f"oob{number}", out_of_band=True))
        book.give(asks_tool(f"t{number}", "look_up" if number % 2 else "unknown", f"r{number}"))
        book.give(pressed("1"))
        book.give(ev.CallerTranscribed(f"c{number}", "x" * 1000))
        book.give(caller_audio())
        book.give(complains("note", "x", "y"))
    size = len(call.snapshot(book.now))
    assert size < 8_000_000
    turns, tools = call.state.turns, call.state.tools
    for kept in (turns.unwelcome, turns.out_of_band, turns.finished, tools.seen, tools.open, call.state.digits):
        assert len(kept) <= 256
    assert len(call.state.transcript.entries) <= 400
    assert len(call.state.timers.at) < 64
    assert len(call.state.recent) <= call.plan.agent.policies.hold_caller_ms * BYTES_PER_MS + 10_000  # of 60 s


def test_a_response_that_never_ends_is_cut_at_two_minutes() -> None:
    book = Playbook.connected(plan(model=OBEYS))
    book.give(response("r1"))
    for _ in range(700):
        book.give(says("r1", "endless", 200))
    ledger = book.call.state.ledger
    assert ledger.items["endless"].received_ms == 120_000
    assert book.all(do.CancelResponse) == [do.CancelResponse("r1")]
    assert book.all(do.TruncateItem) == [do.TruncateItem("endless", 0, 120_000)], "what nobody will hear was not said"
    assert book.call.state.transcript.find("endless").cut


def test_an_item_that_begins_beyond_the_limit_was_not_said_at_all() -> None:
    book = Playbook.connected(plan(model=OBEYS))
    book.give(response("r1"))
    for _ in range(600):
        book.give(says("r1", "a", 200))
    book.give(says("r1", "b", 200))
    book.give(says("r1", "c", 200))
    assert book.all(do.DeleteItem) == [do.DeleteItem("b")] and not book.all(do.TruncateItem)


def test_a_speech_of_many_items_is_cut_off() -> None:
    book = Playbook.connected()
    book.give(response("r1"))
    for number in range(500):
        book.give(ev.ModelSpoke("r1", f"item {number}", 0, bytes(8), 1))
    assert len(book.call.state.ledger.items) <= 64


# ---------------------------------------------------------------- a service, well-behaved or not

_ITEMS = [f"item{number}" for number in range(60)]


class ACall(RuleBasedStateMachine):
    """A call with a service that begins, speaks, ends, loses sessions and runs tools, a caller, and a carrier."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.responses = 0
        self.items = 0
        self.item_of = ""
        self.open: list[str] = []  # responses the service is making
        self.asked = 0
        self.wants: list[str] = []  # tools running
        self.tools = 0
        self.session = 0
        self.up = False
        self.sessions_open: list[int] = []
        self.marks: list[str] = []

    @initialize(
        model=st.sampled_from([INTERRUPTS, OBEYS]),
        barge_in=st.sampled_from(["immediate", "off", 200]),
        marks=st.booleans(),
        protected=st.booleans(),
        taken_back=st.booleans(),
        longest_s=st.sampled_from([20.0, 300.0]),
    )
    def begin(
        self,
        model: ModelCapabilities,
        barge_in: str | int,
        marks: bool,
        protected: bool,
        taken_back: bool,
        longest_s: float,
    ) -> None:
        self.plan = plan(
            model=model,
            barge_in=barge_in,
            carrier=CarrierCapabilities(marks=marks, resumes_after_drop=True),
            greeting="Greet.",
            greeting_protected=protected,
            interrupt_hang_up=taken_back,
            idle_prompt_after_s=6.0,
            idle_hang_up_after_s=6.0,
            clips=CLIPS,
            max_call_s=longest_s,
            warn_before_end_s=10.0,
        )
        self.call = Call(self.plan, 0.0)
        self.promises = Promises({item_id: tag_of(item_id) for item_id in _ITEMS})
        self.give(ROUTED)
        self.give(stream())
        self.session_opens()
        self.named()

    def give(self, fact: ev.Event) -> None:
        self.promises.fact(fact)
        actions = self.call.handle(fact, self.now)
        self.promises.requests(self.call, self.now, fact, actions)
        for action in actions:
            match action:
                case do.PlaceMark(name=name):
                    self.marks.append(name)
                case do.ClearPlayback():
                    pass  # the marks come back all the same
                case do.RequestResponse():
                    self.asked += 1
                case do.RunTool(tool_call_id=tool_call_id):
                    self.wants.append(tool_call_id)
                case do.AbandonTool(tool_call_id=tool_call_id):
                    self.wants.remove(tool_call_id)
                case do.OpenModel(session=session):
                    self.sessions_open.append(session)
                case do.CloseModel() | do.SwitchModel():
                    self.open.clear()
                    self.asked = 0

    @rule(ms=st.sampled_from([1, 20, 150, 600, 1500, 5000]))
    def time_passes(self, ms: int) -> None:
        until = self.now + ms
        for _ in range(1000):
            deadline = self.call.deadline()
            if deadline is None or deadline > until:
                break
            self.now = deadline
            self.give(ev.DeadlineReached())
        else:
            raise AssertionError("the call is busy for ever")
        self.now = until

    @rule()
    @precondition(lambda self: self.sessions_open)
    def session_opens(self) -> None:
        session = self.sessions_open.pop(0)
        self.session = max(self.session, session)
        self.give(ready(session, 30.0))

    @rule(cure=st.sampled_from(["retry", "rotate"]))
    @precondition(lambda self: self.session)
    def session_is_lost(self, cure: str) -> None:
        self.open.clear()
        self.asked = 0
        self.give(lost(self.call.state.session, cure))  # type: ignore[arg-type]

    @rule()
    @precondition(lambda self: self.asked and not self.open)
    def named(self) -> None:
        """The response that was asked for begins."""
        self.asked -= 1
        self.response_begins()

    @rule()
    @precondition(lambda self: self.call.state.model == "ready" and not self.open)
    def response_begins(self) -> None:
        self.responses += 1
        self.open = [f"r{self.responses}"]
        self.give(response(self.open[0]))
        self.model_speaks(1500, True)

    @rule(ms=st.sampled_from([20, 200, 1500]))
    @precondition(lambda self: self.open)
    def model_goes_on(self, ms: int) -> None:
        self.model_speaks(ms, False)

    @rule(ms=st.sampled_from([20, 200, 1500]), new_item=st.booleans())
    @precondition(lambda self: self.open)
    def model_speaks(self, ms: int, new_item: bool) -> None:
        if (new_item or self.item_of != self.open[0]) and self.items < len(_ITEMS) - 1:
            self.items += 1
            self.item_of = self.open[0]
        if self.item_of == self.open[0]:
            self.give(words(self.open[0], _ITEMS[self.items], "some words "))
            self.give(says(self.open[0], _ITEMS[self.items], ms))

    @rule(status=st.sampled_from(["completed", "cancelled", "failed", "incomplete"]))
    @precondition(lambda self: self.open)
    def response_ends(self, status: str) -> None:
        self.give(ends(self.open.pop(), status))

    @rule()
    @precondition(lambda self: self.asked and not self.open)
    def response_is_refused(self) -> None:
        self.asked -= 1
        self.give(complains("wait", "conversation_already_has_active_response"))

    @rule()
    @precondition(lambda self: self.open)
    def tool_is_asked_for(self) -> None:
        self.tools += 1
        self.give(asks_tool(f"t{self.tools}", "look_up", self.open[0]))

    @rule()
    @precondition(lambda self: self.wants)
    def tool_finishes(self) -> None:
        self.give(tool_done(self.wants.pop(0)))

    @rule()
    def caller_begins(self) -> None:
        self.give(caller_speaks(f"c{self.now}"))

    @rule()
    def caller_ends(self) -> None:
        self.give(caller_stops())

    @rule(digit=st.sampled_from("12#"))
    def caller_presses(self, digit: str) -> None:
        self.give(pressed(digit))

    @rule(count=st.integers(1, 5))
    def marks_come_back(self, count: int) -> None:
        for name in self.marks[:count]:
            self.give(ev.MarkReturned(name))
        del self.marks[:count]

    @rule()
    @precondition(lambda self: self.now > 3000)
    def stream_is_replaced(self) -> None:
        self.give(stream(f"MZ{self.now}"))

    @rule()
    @precondition(lambda self: self.now > 3000 and self.promises.stream)
    def stream_is_lost(self) -> None:
        self.give(caller_leaves("closed"))

    @rule(by=st.sampled_from(["agent", "operator"]))
    @precondition(lambda self: self.now > 15_000)
    def somebody_wants_to_end_it(self, by: str) -> None:
        self.give(ev.HangUpWished(by))  # type: ignore[arg-type]

    @rule()
    @precondition(lambda self: self.call.state.ending is not None)
    def carrier_answers(self) -> None:
        self.give(ev.HandedOver("hang_up", True))

    @rule()
    @precondition(lambda self: self.now > 20_000)
    def caller_hangs_up(self) -> None:
        self.give(caller_leaves())

    @invariant()
    def a_resumed_call_is_the_same_call(self) -> None:
        if hasattr(self, "call") and not self.call.over and int(self.now) % 7 == 0:
            twin = Call.resume(self.call.snapshot(self.now), self.plan, self.now)
            assert twin.state == self.call.state
            assert twin.deadline() == self.call.deadline()

    def teardown(self) -> None:
        if hasattr(self, "call"):
            self.time_passes(30_000)
            self.promises.at_rest(self.call)


TestACall = ACall.TestCase
TestACall.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
