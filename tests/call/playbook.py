"""Calls as transcripts: at a time, what happened, and what the call does.

    story(
        at(0, response("r1"), says("r1", "hello", 2000)),
        at(1500, caller_speaks(), CLEAR, cancel("r1"), truncate("hello", 1500)),
    )

Facts and requests are told apart by their type. A step lists every request made since the step before, except audio
and marks (the playbook's carrier plays those and returns the marks) and notes (listed where they are the point). A
step without facts says what the call does by itself until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import (
    AgentPlan,
    BargeIn,
    CallPlan,
    CarrierCapabilities,
    ModelCapabilities,
    Policies,
    SessionPlan,
    ToolSpec,
)
from bridge.errors import EndReason
from tests.call.carrier import BYTES_PER_MS, Carrier

# ---------------------------------------------------------------- plans

INTERRUPTS = ModelCapabilities(name="interrupts", truncate_margin_ms=0)
OBEYS = ModelCapabilities(name="obeys", truncate_margin_ms=0, model_interrupts=False, model_answers=False)
TOOLS = tuple(ToolSpec(name, f"does {name}", {"type": "object"}) for name in ("look_up", "book", "hang_up"))
CLIPS = {"filler": bytes([250]) * 400 * BYTES_PER_MS, "apology": bytes([251]) * 1000 * BYTES_PER_MS}
CLIPS["again"] = bytes([252]) * 300 * BYTES_PER_MS


def plan(
    *,
    model: ModelCapabilities = INTERRUPTS,
    models: tuple[ModelCapabilities, ...] = (),
    carrier: CarrierCapabilities | None = None,
    greeting: str = "",
    clips: dict[str, bytes] | None = None,
    tools: tuple[ToolSpec, ...] = TOOLS,
    session: SessionPlan | None = None,
    fallback: Literal["hang_up", "transfer"] = "hang_up",
    fallback_message: str = "",
    **policies: Any,
) -> CallPlan:
    """A plan with the policies given; the rest as they are by default, but silence has no consequences."""
    policies.setdefault("idle_prompt_after_s", 0.0)
    policies.setdefault("idle_hang_up_after_s", 0.0)
    policies.setdefault("first_media_s", 1e6)  # the playbook's caller need not breathe
    if isinstance(policies.get("barge_in"), str):
        policies["barge_in"] = BargeIn(mode=policies["barge_in"])
    if isinstance(policies.get("barge_in"), int):
        policies["barge_in"] = BargeIn(mode="after_ms", after_ms=policies["barge_in"])
    return CallPlan(
        call_id="call",
        carrier_call_id="CA1",
        caller="+15550001",
        called="+15550002",
        direction="inbound",
        agent=AgentPlan(
            name="agent",
            greeting=greeting,
            policies=Policies(**policies),
            clips=clips or {},
            fallback=fallback,
            fallback_message=fallback_message,
            fallback_target="+15559999" if fallback == "transfer" else "",
        ),
        carrier=carrier or CarrierCapabilities(),
        models=models or (model,),
        session=session or SessionPlan(tools=tools),
    )


# ---------------------------------------------------------------- facts, in the words of the design

ROUTED = ev.CallRouted()


def stream(name: str = "MZ1") -> ev.StreamStarted:
    return ev.StreamStarted(name)


def ready(session: int = 1, max_session_s: float | None = None) -> ev.ModelReady:
    return ev.ModelReady(session, max_session_s)


def lost(session: int = 1, cure: Literal["retry", "rotate", "fatal"] = "retry", **more: Any) -> ev.ModelLost:
    return ev.ModelLost(session, "gone", cure, **more)


def response(response_id: str) -> ev.ResponseStarted:
    return ev.ResponseStarted(response_id)


_TAGS: dict[str, int] = {}


def tag_of(item_id: str) -> int:
    """The byte value the audio of this item consists of."""
    return _TAGS.setdefault(item_id, len(_TAGS) % 240 + 1)


def sound(item_id: str, ms: float) -> bytes:
    return bytes([tag_of(item_id)]) * round(ms * BYTES_PER_MS)


def says(response_id: str, item_id: str, ms: float) -> ev.ModelSpoke:
    return ev.ModelSpoke(response_id, item_id, 0, sound(item_id, ms), ms)


def words(response_id: str, item_id: str, text: str) -> ev.ModelSaid:
    return ev.ModelSaid(response_id, item_id, text)


def item_done(response_id: str, item_id: str) -> ev.ItemSpoken:
    return ev.ItemSpoken(response_id, item_id)


def ends(response_id: str, status: Any = "completed", **more: Any) -> ev.ResponseEnded:
    return ev.ResponseEnded(response_id, status, **more)


def caller_speaks(item_id: str = "") -> ev.CallerSpeechStarted:
    return ev.CallerSpeechStarted(item_id)


def caller_stops(item_id: str = "") -> ev.CallerSpeechStopped:
    return ev.CallerSpeechStopped(item_id)


def turn_ends(item_id: str, after: str = "") -> ev.CallerTurnEnded:
    return ev.CallerTurnEnded(item_id, after)


def caller_said(item_id: str, text: str) -> ev.CallerTranscribed:
    return ev.CallerTranscribed(item_id, text)


def caller_audio(ms: float = 20.0, value: int = 255) -> ev.CallerSpoke:
    return ev.CallerSpoke(bytes([value]) * round(ms * BYTES_PER_MS), ms)


def pressed(digit: str) -> ev.CallerPressed:
    return ev.CallerPressed(digit)


def asks_tool(call_id: str, name: str = "look_up", response_id: str = "r1", arguments: str = "{}") -> ev.ToolRequested:
    return ev.ToolRequested(response_id, f"item_{call_id}", call_id, name, arguments)


def tool_done(call_id: str, output: str = '"ok"') -> ev.ToolFinished:
    return ev.ToolFinished(call_id, output)


def complains(cure: Any, code: str = "", message: str = "") -> ev.ModelComplained:
    return ev.ModelComplained(cure, code, message)


def caller_leaves(how: Literal["stop", "closed", "status"] = "stop") -> ev.CallerLeft:
    return ev.CallerLeft(how)


# ---------------------------------------------------------------- requests

CLEAR = do.ClearPlayback()
HANG_UP = do.HangUp()
CLOSE_MODEL = do.CloseModel()
ASK = do.RequestResponse()
COMMIT = do.CommitCallerAudio()


def ask(instructions: str) -> do.RequestResponse:
    return do.RequestResponse(instructions)


def cancel(response_id: str) -> do.CancelResponse:
    return do.CancelResponse(response_id)


def truncate(item_id: str, ms: int, content_index: int = 0) -> do.TruncateItem:
    return do.TruncateItem(item_id, content_index, ms)


def delete(item_id: str) -> do.DeleteItem:
    return do.DeleteItem(item_id)


def open_model(session: int, service: int = 0, *history: do.HistoryItem) -> do.OpenModel:
    return do.OpenModel(session, service, history)


def run_tool(call_id: str, name: str = "look_up", arguments: str = "{}") -> do.RunTool:
    return do.RunTool(call_id, name, arguments)


def submit(call_id: str, output: str = '"ok"') -> do.SubmitToolOutput:
    return do.SubmitToolOutput(call_id, output)


def note(what: str, detail: str = "") -> do.Note:
    return do.Note(what, detail)


def end(reason: EndReason) -> do.EndCall:
    return do.EndCall(reason)


# ---------------------------------------------------------------- the story


@dataclass(frozen=True)
class Step:
    at_ms: float
    facts: tuple[ev.Event, ...]
    requests: tuple[do.Action, ...]
    checks: tuple[Callable[[Playbook], None], ...] = ()


def at(ms: float, *what: ev.Event | do.Action | Callable[[Playbook], None]) -> Step:
    """At `ms` after the call is up: facts, then every request they lead to."""
    return Step(
        ms,
        tuple(one for one in what if isinstance(one, ev.Event)),
        tuple(one for one in what if isinstance(one, do.Action)),
        tuple(one for one in what if not isinstance(one, ev.Event | do.Action)),
    )


_SOUND = (do.PlayAudio, do.PlaceMark, do.SendCallerAudio)
_ASIDE = (do.Note, do.SendSilence, do.ProbeModel)  # listed where they are the point


@dataclass
class Playbook:
    """A call, its carrier, and the time. `log` has every request with its time."""

    plan: CallPlan = field(default_factory=plan)
    carrier: Carrier = field(default_factory=Carrier)
    now: float = 0.0
    log: list[tuple[float, do.Action]] = field(default_factory=list)
    unread: list[do.Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.call = Call(self.plan, self.now)

    @classmethod
    def connected(cls, call_plan: CallPlan | None = None, carrier: Carrier | None = None) -> Playbook:
        """A call whose stream and model session are up, with nothing said yet."""
        book = cls(call_plan or plan(), carrier or Carrier())
        for fact in (ROUTED, stream(), ready()):
            book.give(fact)
        book.unread.clear()
        return book

    def give(self, fact: ev.Event) -> list[do.Action]:
        actions = self.call.handle(fact, self.now)
        self.log += [(self.now, action) for action in actions]
        self.unread += actions
        self.carrier.take(actions, self.now)
        return actions

    def run_until(self, until: float) -> None:
        """Let time pass: marks come back, deadlines are kept."""
        for _ in range(1_000_000):
            due = [at for at in (self.call.deadline(), self.carrier.next_event()) if at is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            facts = self.carrier.facts(self.now)
            for fact in facts:
                self.give(fact)
            deadline = self.call.deadline()
            if deadline is not None and deadline <= self.now:
                self.give(ev.DeadlineReached())
                later = self.call.deadline()
                assert later is None or later > self.now, "a deadline handled at its time must move"
        else:
            raise AssertionError("the call is busy for ever")
        self.now = max(self.now, until)

    def read(self, *listed: type[do.Action]) -> tuple[do.Action, ...]:
        """Requests since the last read, without sound, and without asides of kinds that are not listed."""
        unread, self.unread = self.unread, []
        left_out = _SOUND + tuple(kind for kind in _ASIDE if kind not in listed)
        return tuple(one for one in unread if not isinstance(one, left_out))

    def play(self, *steps: Step) -> Playbook:
        for step in steps:
            self.run_until(step.at_ms)
            if step.facts:
                assert self.read() == (), f"nothing was to happen before {step.at_ms}"
            for fact in step.facts:
                self.give(fact)
            assert self.read(*map(type, step.requests)) == step.requests, f"at {step.at_ms} ms"
            for check in step.checks:
                check(self)
        return self

    # ------------------------------------------------------------ what can be asked of it

    def heard_ms(self, item_id: str) -> float:
        """How much of an item the caller really heard."""
        self.carrier.advance(self.now)
        return self.carrier.heard_ms(tag_of(item_id), self.now)

    def clip_ms(self, clip: str) -> float:
        self.carrier.advance(self.now)
        return self.carrier.heard_ms(self.plan.agent.clips[clip][0], self.now)

    def all(self, kind: type[do.Action]) -> list[do.Action]:
        return [action for _, action in self.log if isinstance(action, kind)]

    def conversation(self) -> list[tuple[str, str]]:
        """The transcript as heard."""
        return [(entry.role, entry.heard_text) for entry in self.call.state.transcript.entries]


def hears(item_id: str, ms: float) -> Callable[[Playbook], None]:
    """A check: by now the caller has heard this much of the item."""

    def check(book: Playbook) -> None:
        heard = book.heard_ms(item_id)
        assert abs(heard - ms) < 1, f"{heard} ms of {item_id} heard, not {ms}"

    return check


def sends_model(ms: float) -> Callable[[Playbook], None]:
    """A check: this much caller audio has been given to the model since the story began."""

    def check(book: Playbook) -> None:
        sent = sum(len(one.audio) for one in book.all(do.SendCallerAudio) if isinstance(one, do.SendCallerAudio))
        assert abs(sent / BYTES_PER_MS - ms) < 1, f"{sent / BYTES_PER_MS} ms were sent, not {ms}"

    return check


def encoded(call: Call) -> bytes:
    """All a call remembers, to compare."""
    return msgspec.json.encode(call.state)


@dataclass(frozen=True)
class Story:
    """One row of a table."""

    race: int
    title: str
    steps: tuple[Step, ...]
    plan: CallPlan
    carrier: Callable[[], Carrier] = Carrier

    def __str__(self) -> str:
        return f"{self.race:02d} {self.title}" if self.race else self.title


def story(
    title: str,
    *steps: Step,
    race: int = 0,
    on: CallPlan | None = None,
    carrier: Callable[[], Carrier] = Carrier,
) -> Story:
    return Story(race, title, steps, on or plan(), carrier)


def ids(stories: list[Story]) -> Iterator[str]:
    return (str(one) for one in stories)
