"""Counters and histograms, derived by watching (now, event, actions) go by; nothing is counted by hand in the middle
of logic.

One registry per process. Labels hold words of ours and agents' names, never a number or an id of a call. Frames of
audio are not watched: `watch` belongs into the driver's list of observers that see every other fact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CallPlan

_SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_CALL_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400)
_MOST_NOTES = 64  # kinds of notes; the core has fewer, and a label may not grow without end


# Facts that come many times a second and count for nothing themselves; what is played because of them does.
_MANY = frozenset({ev.ModelSaid, ev.MarkReturned, ev.WordTimed, ev.DeadlineReached})


class _Watched:
    """What has to be remembered of one call between two facts."""

    __slots__ = ("agent", "answers", "before", "began_ms", "response", "speech_stopped_ms")

    def __init__(self, agent: str, began_ms: float) -> None:
        self.agent = agent
        self.began_ms = began_ms
        self.speech_stopped_ms: float | None = None
        self.response = ""  # the one heard from last
        self.before = ""  # the one heard from last before the caller's speech
        self.answers: set[str] = set()  # items of others since


class Metrics:
    """Everything `/metrics` shows: of this process, or with a `folder` of all workers who count in it."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, folder: Path | None = None, worker: int = 0) -> None:
        self.registry = CollectorRegistry()
        self._shown = self.registry
        if folder is not None:
            self._shown = _shared(folder, worker)
        self._calls: dict[str, _Watched] = {}  # by our own call id
        self._note_kinds: set[str] = set()
        agent, reg = ("agent",), self.registry
        self._begun = Counter("bridge_calls", "Calls begun", agent, registry=reg)
        self._ended = Counter("bridge_calls_ended", "Calls ended, by reason", ("agent", "reason"), registry=reg)
        self._refused = Counter("bridge_calls_refused", "Calls not taken, by reason", ("why",), registry=reg)
        self._forged = Counter("bridge_webhooks_forged", "Webhooks without a right signature", registry=reg)
        self._stream_errors = Counter("bridge_stream_errors", "Stream errors the carrier reported", registry=reg)
        self._length = Histogram("bridge_call_seconds", "Length of calls", agent, buckets=_CALL_SECONDS, registry=reg)
        self._answer = Histogram(
            "bridge_answer_seconds",
            "From the end of the caller's words, the silence that tells it included, to the answer's first audio sent",
            agent,
            buckets=_SECONDS,
            registry=reg,
        )
        self._barge_ins = Counter("bridge_barge_ins", "Playback cleared because the caller spoke", agent, registry=reg)
        self._truncated = Counter("bridge_truncations", "Items cut to what was heard", agent, registry=reg)
        self._responses = Counter("bridge_responses", "Responses ended, by status", ("agent", "status"), registry=reg)
        self._tokens = Counter("bridge_tokens", "Tokens billed", ("agent", "kind"), registry=reg)
        self._sessions = Counter("bridge_model_sessions", "Model sessions asked for", agent, registry=reg)
        self._lost = Counter("bridge_model_lost", "Model sessions lost, by cure", ("agent", "cure"), registry=reg)
        self._tools = Counter("bridge_tool_calls", "Tools run, by outcome", ("agent", "outcome"), registry=reg)
        self._notes = Counter("bridge_notes", "Oddities that changed nothing", ("what",), registry=reg)

    def watch(self, plan: CallPlan, now: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        """One step of a call; `now` in milliseconds. Bind `plan` to make a driver's observer of it."""
        call = self._calls.get(plan.call_id)
        if call is None:
            call = self._calls[plan.call_id] = _Watched(plan.agent.name, now)
            self._begun.labels(call.agent).inc()
        if type(event) is ev.ModelSpoke:
            call.response = event.response_id
            if call.speech_stopped_ms is not None and event.response_id != call.before:
                call.answers.add(event.item_id)
        elif type(event) not in _MANY:
            self._saw(plan, call, now, event, actions)
        for action in actions:
            if type(action) is not do.PlaceMark:
                self._asked(plan.call_id, call, now, action)

    def _saw(self, plan: CallPlan, call: _Watched, now: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        match event:
            case ev.CallerSpeechStopped():
                detection = plan.session.turn_detection
                silence_ms = detection.silence_ms if detection is not None and detection.kind == "server_vad" else 0
                call.speech_stopped_ms, call.before = now - silence_ms, call.response
                call.answers.clear()
            case ev.CallerSpeechStarted():
                call.speech_stopped_ms = None
            case ev.ResponseEnded():
                self._responses.labels(call.agent, event.status).inc()
                if event.usage is not None:
                    self._tokens.labels(call.agent, "input").inc(event.usage.input_tokens)
                    self._tokens.labels(call.agent, "output").inc(event.usage.output_tokens)
                    self._tokens.labels(call.agent, "input_audio").inc(event.usage.input_audio_tokens)
                    self._tokens.labels(call.agent, "output_audio").inc(event.usage.output_audio_tokens)
                    self._tokens.labels(call.agent, "cached").inc(event.usage.cached_tokens)
            case ev.ModelLost():
                self._lost.labels(call.agent, event.cure).inc()
            case ev.ToolFinished() if do.Note("tool_result_ignored") not in actions:  # else it was abandoned before
                self._tools.labels(call.agent, "failed" if event.failed else "done").inc()

    def _asked(self, call_id: str, call: _Watched, now: float, action: do.Action) -> None:
        match action:
            case do.PlayAudio():  # neither a clip nor the rest of what was said before is the answer
                if call.speech_stopped_ms is not None and action.item_id in call.answers:
                    self._answer.labels(call.agent).observe((now - call.speech_stopped_ms) / 1000)
                    call.speech_stopped_ms = None
            case do.ClearPlayback():
                self._barge_ins.labels(call.agent).inc()
            case do.TruncateItem():
                self._truncated.labels(call.agent).inc()
            case do.OpenModel():
                self._sessions.labels(call.agent).inc()
            case do.AbandonTool():
                self._tools.labels(call.agent, "abandoned").inc()
            case do.Note():
                self._notes.labels(self._kind(action.what)).inc()
            case do.EndCall():
                self._ended.labels(call.agent, action.reason.value).inc()
                self._length.labels(call.agent).observe((now - call.began_ms) / 1000)
                self._calls.pop(call_id, None)

    def _kind(self, what: str) -> str:
        if what not in self._note_kinds:
            if len(self._note_kinds) >= _MOST_NOTES:
                return "other"
            self._note_kinds.add(what)
        return what

    def forget(self, plan: CallPlan, reason: str) -> None:
        """A call that ended without saying so (a broken invariant): counted under `reason`."""
        if self._calls.pop(plan.call_id, None) is not None:
            self._ended.labels(plan.agent.name, reason).inc()

    # ------------------------------------------------------------ what happens outside of calls

    def follow(self, active_calls: Callable[[], int]) -> None:
        """Where the number of calls is read when somebody asks for it."""
        self._shown.register(_Active(active_calls))

    def call_refused(self, why: str) -> None:
        self._refused.labels(why).inc()

    def webhook_forged(self) -> None:
        self._forged.inc()

    def stream_failed(self) -> None:
        self._stream_errors.inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._shown)


class _Active(Collector):
    """Read when somebody asks, and not added up: whoever is asked knows the calls of all workers."""

    def __init__(self, calls: Callable[[], int]) -> None:
        self._calls = calls

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("bridge_calls_active", "Calls at this moment", value=self._calls())


def _shared(folder: Path, worker: int) -> CollectorRegistry:
    """From now on this process counts in files of `folder`; the registry adds up those of all workers.

    A file belongs to the worker's number, not to its process: who takes the place of a dead one counts on from there,
    so that no sum ever falls.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]  # a library's
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]  # likewise
    return registry
