"""Carries out a call: rings, fetches TwiML, executes its verbs one after the other, and tells the callbacks.

A call is one task. The caller hanging up, or a REST update, interrupts whatever verb is running; a media stream so
interrupted gets its `stop`. When a document has no more verbs the call ends (Twilio, "Programmable Voice: TwiML").
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import structlog

from bridge.audio import g711
from bridge.audio.wav import wav_samples
from bridge.errors import UsageError

from .account import Account, DialOutcome
from .doors import Unreachable
from .leg import FINAL, CallStatusUpdate, Dialled, Leg, Prompt
from .playout import RATE_HZ, SAMPLES_PER_MS
from .stream import MediaStream
from .twiml import Document, Noun, Problem, Verb
from .wire import Messages

_log = structlog.get_logger()
_MAX_DOCUMENTS = 200  # a redirect loop ends somewhere
_APOLOGY = Verb("Say", {}, "We are sorry, an application error has occurred. Goodbye.")


class Execution:
    """Runs one leg. `run()` returns when the call is over."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.account = leg.account
        self._callbacks: set[asyncio.Task[int | None]] = set()
        self._told = 0
        self._answered_at: float | None = None

    async def run(self, first: Document) -> None:
        """Execute `first` and what follows from it, then end the call. Never raises but CancelledError."""
        leg = self.leg
        document: Document | None = first
        try:
            for _ in range(_MAX_DOCUMENTS):
                if document is None or leg.status in FINAL:
                    break
                document = await self._until_interrupted(document)
            else:
                self._error(Problem(11206, "too many documents in one call"))
        finally:
            self._end()

    async def finished_telling(self) -> None:
        """Wait for the callbacks that are under way."""
        if self._callbacks:
            await asyncio.gather(*self._callbacks, return_exceptions=True)

    async def _until_interrupted(self, document: Document) -> Document | None:
        """Execute one document; what comes next, None for the end of the call."""
        leg = self.leg
        verbs = asyncio.create_task(self._document(document), name=f"twiml {leg.call_id}")
        try:
            either: set[asyncio.Future[Any]] = {verbs, leg.interrupted}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not verbs.done():
                verbs.cancel()
                await asyncio.gather(verbs, return_exceptions=True)
        if not leg.interrupted.done():
            return verbs.result()
        wish = leg.interrupted.result()
        leg.interrupted = leg.clock.loop.create_future()
        return await self._updated(wish, document)

    async def _updated(self, wish: CallStatusUpdate, document: Document) -> Document | None:
        if wish.complete:
            return None
        if wish.document is not None:
            self.leg.documents.append(wish.document)
            return wish.document
        return await self.fetch(urljoin(document.url, wish.url), wish.method)

    def _end(self) -> None:
        leg = self.leg
        if leg.stream is not None:
            leg.stream.stop()
        leg.set_status("completed" if leg.status == "in-progress" else "canceled")
        extra = []
        if self._answered_at is not None:
            seconds = leg.clock.loop.time() - self._answered_at
            extra = [("CallDuration", str(round(seconds))), ("Duration", str(max(1, math.ceil(seconds / 60))))]
        self.tell("completed", extra)
        if not leg.over.done():
            leg.over.set_result(None)
        leg.wake()

    # ------------------------------------------------ requests

    def form(self, extra: list[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
        """Twilio's standard parameters of a request about this call."""
        leg = self.leg
        return [
            ("CallSid", leg.call_id),
            ("AccountSid", self.account.sid),
            ("From", leg.from_),
            ("To", leg.to),
            ("Caller", leg.from_),
            ("Called", leg.to),
            ("CallStatus", leg.status),
            ("ApiVersion", "2010-04-01"),
            ("Direction", leg.direction),
            *leg.extra.items(),
            *(extra or []),
        ]

    async def fetch(self, url: str, method: str = "POST", extra: list[tuple[str, str]] | None = None) -> Document:
        """The next document. What is wrong is noted; one that cannot be had is asked for at the fallback address,
        once.
        """
        leg = self.leg
        if leg.caller.network.latency_ms:
            await asyncio.sleep(2 * leg.caller.network.latency_ms / 1000)
        document = await self.account.fetch(url, self.form(extra), method=method.upper() or "POST", signing=leg.signing)
        leg.documents.append(document)
        verbs = [verb.name for verb in document.verbs]
        leg.timeline.add(leg.now_ms, "carrier", "twiml", path=urlsplit(url).path, verbs=",".join(verbs))
        self._take_problems(document)
        if not any(p.code < 12000 for p in document.problems) and document.usable:
            return document
        why = next(p for p in document.problems if p.code != 12200)
        if not leg.fallback_url or url == leg.fallback_url:
            return Document(url, (_APOLOGY,))
        asked = [("ErrorCode", str(why.code)), ("ErrorUrl", url)]
        return await self.fetch(leg.fallback_url, "POST", asked)

    def _take_problems(self, document: Document) -> None:
        for problem in document.problems:
            if problem.code == 12200:
                self.leg.warnings.append(problem)
                self.leg.timeline.add(self.leg.now_ms, "carrier", "warning", code=problem.code, why=problem.why)
            else:
                self._error(problem)

    def _error(self, problem: Problem) -> None:
        self.leg.errors.append(problem)
        self.leg.timeline.add(self.leg.now_ms, "carrier", "error", code=problem.code, why=problem.why)

    def tell(self, event: str, extra: list[tuple[str, str]] | None = None) -> None:
        """Post a status callback, if this event was subscribed to. The call does not wait for it."""
        wish = self.leg.callback
        if not wish.url or event not in wish.events:
            return
        form = self.form(
            [*(extra or []), ("SequenceNumber", str(self._told)), ("CallbackSource", "call-progress-events")]
        )
        self._told += 1
        self._tell_later(wish.url, form, wish.method)

    def _date(self) -> datetime:
        """What the carrier's calendar says: every call begins with the year 2026."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.leg.now_ms)

    def tell_detected(self, url: str, answered_by: str) -> None:
        """The result of asynchronous answering-machine detection."""
        if url and self.leg.status not in FINAL:
            self._tell_later(url, self.form([("AnsweredBy", answered_by), ("MachineDetectionDuration", "1000")]))

    def _tell_later(self, url: str, form: list[tuple[str, str]], method: str = "POST") -> None:
        task = asyncio.create_task(self.account.tell(url, form, method=method), name=f"callback {self.leg.call_id}")
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    # ------------------------------------------------ verbs

    async def _document(self, document: Document) -> Document | None:
        for verb in document.verbs:
            if verb.name == "Reject":
                self.leg.set_status("busy" if verb.attributes.get("reason") == "busy" else "no-answer")
                return None
            self.answer()
            self.leg.timeline.add(self.leg.now_ms, "carrier", "verb", verb=verb.name)
            match verb.name:
                case "Hangup":
                    return None
                case "Redirect":
                    return await self.fetch(urljoin(document.url, verb.text), verb.attributes.get("method", "POST"))
                case "Pause":
                    await asyncio.sleep(_number(verb.attributes.get("length"), 1.0))
                case "Say":
                    await self._play(self._spoken(verb.text), verb)
                case "Play":
                    await self._play(await self._recording(urljoin(document.url, verb.text)), verb)
                case "Dial":
                    after = await self._dial(verb)
                    if "action" in verb.attributes:
                        action = urljoin(document.url, verb.attributes["action"])
                        return await self.fetch(action, verb.attributes.get("method", "POST"), after)
                case "Connect":
                    for noun in verb.nouns[:1]:
                        await self._stream(document, noun)
                    if "action" in verb.attributes:
                        action = urljoin(document.url, verb.attributes["action"])
                        return await self.fetch(action, verb.attributes.get("method", "POST"))
        self.answer()
        return None

    def answer(self) -> None:
        """The carrier picks up: at the first verb that is not a Reject."""
        if self._answered_at is None:
            self._answered_at = self.leg.clock.loop.time()
            self.leg.set_status("in-progress")
            self.tell("answered")

    def _spoken(self, text: str) -> bytes:
        if self.account.speak is not None:
            return self.account.speak(text)
        return b"\xff" * round(RATE_HZ * (0.3 + 0.065 * len(text)))  # about 15 characters a second

    async def _recording(self, url: str) -> bytes:
        try:
            answer = await self.account.send(url, (), method="GET")
            samples, _ = wav_samples(answer.body, url, RATE_HZ)
        except (Unreachable, UsageError, ValueError) as error:
            self._error(Problem(11200, f"<Play> {url}: {error}"))
            return b""
        first = samples if samples.ndim == 1 else samples[:, 0]
        return g711.encode_mulaw(first.tobytes())

    async def _play(self, audio: bytes, verb: Verb) -> None:
        audio *= max(1, int(_number(verb.attributes.get("loop"), 1.0)))
        leg = self.leg
        start = leg.clock.samples()
        leg.timeline.add(leg.now_ms, "carrier", "prompt", text=verb.text, ms=len(audio) / SAMPLES_PER_MS)
        try:
            await asyncio.sleep(len(audio) / RATE_HZ)
        finally:
            leg.prompts.append(Prompt(start, audio[: leg.clock.samples() - start], verb.text))

    async def _dial(self, verb: Verb) -> list[tuple[str, str]]:
        noun = verb.nouns[0] if verb.nouns else Noun("Number", {}, verb.text)
        leg = self.leg
        leg.dialled.append(Dialled(leg.now_ms, noun.name, noun.text, dict(verb.attributes)))
        outcome = self.account.dials.get(noun.text, DialOutcome())
        leg.timeline.add(leg.now_ms, "carrier", "dial", kind=noun.name, target=noun.text)
        ring_limit_s = _number(verb.attributes.get("timeout"), 30.0)
        status = outcome.status if outcome.rings_s <= ring_limit_s else "no-answer"
        await asyncio.sleep(min(outcome.rings_s, ring_limit_s))
        if status == "completed":
            leg.timeline.add(leg.now_ms, "carrier", "bridged", target=noun.text)
            await asyncio.sleep(outcome.talks_s)
        leg.timeline.add(leg.now_ms, "carrier", "dial_ended", status=status)
        duration = [("DialCallDuration", str(round(outcome.talks_s)))] if status == "completed" else []
        return [("DialCallStatus", status), ("DialCallSid", self.account.new_id("CA")), *duration]

    async def _stream(self, document: Document, noun: Noun) -> None:
        """<Connect><Stream>: returns when the stream has ended and the carrier has noticed."""
        leg, attributes = self.leg, noun.attributes
        url = urljoin(document.url, attributes.get("url", ""))
        wrong = _wrong_stream(url, attributes, self.account)
        if wrong is not None:
            self._error(wrong)
            return
        stream_id = self.account.new_id("MZ")
        stream = MediaStream(
            clock=leg.clock,
            messages=Messages(account_id=self.account.sid, call_id=leg.call_id, stream_id=stream_id),
            parameters=noun.parameters,
            name=attributes.get("name", stream_id),
            caller=leg.caller,
            line=leg.line,
            timeline=leg.timeline,
            warnings=leg.warnings,
            said=leg.note_said,
            changed=leg.wake,
            keep_audio=leg.keep_audio,
        )
        callback = attributes.get("statusCallback", "")
        if leg.caller.network.latency_ms:
            await asyncio.sleep(2 * leg.caller.network.latency_ms / 1000)
        try:
            headers = {"User-Agent": "Twilio.TmeWs/1.0"} | {
                name.lower(): value for name, value in self.account.signature(url, signing=leg.signing).items()
            }  # the upgrade's headers were seen in small letters
            socket = await self.account.door.open(url, headers=headers, listener=stream, connect_s=10.0)
        except Unreachable as error:
            self._error(Problem(error.code, str(error)))
            self._tell_stream(stream, callback, "stream-error", str(error))
            return
        leg.streams.append(stream)
        stream.begin(socket)
        self._tell_stream(stream, callback, "stream-started")
        try:
            how = await asyncio.shield(stream.ended)
        finally:
            stream.stop()
            self._tell_stream(stream, callback, "stream-stopped")
        if how == "closed":
            self._error(Problem(31921, stream.left))
        if how == "broken":
            self._error(Problem(31903, "the connection broke"))
            if self.account.on_broken_socket == "nothing":
                await asyncio.get_running_loop().create_future()  # until the caller hangs up
        if how == "stopped":  # whoever stopped it says in a moment what comes next
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.account.after_close_s)

    def _tell_stream(self, stream: MediaStream, url: str, event: str, error: str = "") -> None:
        if not url:
            return
        form = [
            ("AccountSid", self.account.sid),
            ("CallSid", self.leg.call_id),
            ("StreamSid", stream.stream_id),
            ("StreamName", stream.name),
            ("StreamEvent", event),
            ("Timestamp", self._date().isoformat(timespec="milliseconds").replace("+00:00", "Z")),
        ]
        self._tell_later(url, [*form, ("StreamError", error)] if error else form)


def _wrong_stream(url: str, attributes: dict[str, str], account: Account) -> Problem | None:
    parts = urlsplit(url)
    if parts.scheme != "wss":
        return Problem(31922, f"stream url {url!r} is not wss")
    if not parts.hostname:
        return Problem(31923, f"stream url {url!r} has no host")
    if parts.query and not account.takes_query:
        return Problem(31920, f"stream url {url!r} has a query string")
    track = attributes.get("track", "inbound_track")
    if track != "inbound_track":
        return Problem(31941, f"track {track!r} cannot be used with <Connect>")
    return None


def _number(text: str | None, default: float) -> float:
    try:
        return max(0.0, float(text)) if text is not None else default
    except ValueError:
        return default
