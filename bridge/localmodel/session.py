"""One realtime session on the server's side: client events, speech, recognition results and time in; server events out.

Nothing here waits, opens or looks at a clock: every entry takes `now` (ms) and returns what is to be done, and
`deadline_ms` says when `advance` is due. Server events are dicts with their GA names; sound in them is bytes, turned
into base64 when they are written to the wire. The order of events is that of the GA reference; the rules of
truncation, cancellation and turn detection too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.audio.formats import AudioFormat
from bridge.localmodel import settings
from bridge.localmodel.brain import Brain, Heard, Say
from bridge.localmodel.caller_audio import CallerAudio
from bridge.localmodel.items import Conversation, Item, read_item, sound
from bridge.localmodel.mind import Mind
from bridge.localmodel.recognitions import Recognise, Recognitions
from bridge.localmodel.response import Ids, Response
from bridge.localmodel.script import Script
from bridge.localmodel.settings import Refused
from bridge.localmodel.speech import Mouth
from bridge.localmodel.usage import Bill
from bridge.localmodel.wire import Dialect, Event, looks_beta, session_from_beta
from bridge.localmodel.wishes import Manner, Wish, read_manner, read_overrides, read_wish

MIN_COMMIT_MS = 100
EXPIRED = "Your session hit the maximum duration of 60 minutes."
BETA_IS_GONE = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."


@dataclass(frozen=True, slots=True)
class ListenAnew:
    """The sound's format or the detection's settings changed, or what was being said was taken away."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    code: int
    reason: str


Outgoing = Event | Recognise | ListenAnew | CloseSession


class Session:
    """`model` is what the address asked for, or ""; `brains` finds the brain of a model the session names later."""

    def __init__(
        self,
        *,
        brain: Brain,
        mouth: Mouth,
        model: str,
        now: float,
        opened_at_s: int = 0,
        tag: str = "",
        script: Script | None = None,
        dialect: Dialect = "ga",
        hears: bool = True,
        brains: Callable[[str], Brain | None] = lambda name: None,
    ) -> None:
        self.script = script or Script()
        self.dialect: Dialect = self.script.dialect or dialect
        self._ids = Ids(tag)
        self._mouth = mouth
        self._brains = brains
        self._hears = hears
        self._model_is_open = not model
        self._conversation = Conversation()
        self._conversation_id = self._ids.new("conv")
        self._mind = Mind(brain, self._conversation, hears=hears)
        self._bill = Bill(self._conversation)
        self._expires_ms = now + self.script.max_session_s * 1000
        self._settings = settings.default_session(
            session_id=self._ids.new("sess"),
            model=model or brain.name,
            voice=brain.voice or "marin",
            expires_at=opened_at_s + int(self.script.max_session_s),
        )
        self._audio = CallerAudio(settings.audio_format(self._settings["audio"]["input"]["format"]))
        self._turn_item = ""  # the item the caller's present speech will become; "": the caller is silent
        self._turn_start_ms = 0.0
        self._turn = 0
        self._recognitions = Recognitions()
        self._responses: list[Response] = []  # in progress: one of the conversation, any number beside it
        self._response_count = 0
        self._spoke = False
        self._idle_due_ms: float | None = None
        self._out: list[Outgoing] = []

    # ------------------------------------------------------------ what the shell needs to know

    @property
    def brain(self) -> Brain:
        return self._mind.brain

    @property
    def input_format(self) -> AudioFormat:
        return self._audio.format

    @property
    def detection(self) -> Event | None:
        """The session's turn detection, or None for manual turns."""
        detection: Event | None = self._settings["audio"]["input"]["turn_detection"]
        return detection

    @property
    def in_turn(self) -> bool:
        """Whether the start of the caller's turn was told, and not its end."""
        return bool(self._turn_item)

    @property
    def deadline_ms(self) -> float:
        due = [self._expires_ms]
        due.extend(response.deadline_ms for response in self._responses if response.deadline_ms is not None)
        if self._idle_due_ms is not None:
            due.append(self._idle_due_ms)
        return min(due)

    # ------------------------------------------------------------ facts

    def open(self) -> list[Outgoing]:
        if self.dialect == "beta" and self.script.refuse_beta:
            self._refuse_beta()
        else:
            self._emit("session.created", session=self._settings)
        return self._taken()

    def receive(self, event: Any, now: float) -> list[Outgoing]:
        """One client event, already parsed."""
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            self._error("invalid_event", "The event needs a 'type' that is a string.", "type", event)
            return self._taken()
        if event["type"] in self.script.ignore:
            return []
        try:
            self._receive(event, now)
        except Refused as refused:
            self._error(refused.code, refused.message, refused.param, event)
        return self._taken()

    def malformed(self, code: str, message: str) -> list[Outgoing]:
        """A frame that is no JSON, or no text."""
        self._error(code, message, None, None)
        return self._taken()

    def append(self, audio: bytes) -> None:
        """Caller audio in the session's input format; what a detector makes of it is told separately."""
        self._audio.append(audio, quiet=self.detection is not None and not self._turn_item)

    def speech_started(self, audio_ms: float, now: float) -> list[Outgoing]:
        """`audio_ms` is where speech began, prefix padding included, in the audio time of the session."""
        if self.detection is None or self._turn_item:
            return []
        self._idle_due_ms = None
        self._turn += 1
        self._turn_item = self._ids.new("item")
        self._turn_start_ms = audio_ms
        self._emit("input_audio_buffer.speech_started", audio_start_ms=int(audio_ms), item_id=self._turn_item)
        running = self._running
        if running is not None and self.detection["interrupt_response"]:
            self._stop(running, "turn_detected", now)
        return self._taken()

    def speech_paused(self, audio_ms: float) -> list[Outgoing]:
        """Quiet, but not yet long enough to end the turn: what was said so far can be recognised meanwhile."""
        if self._turn_item and self._hears:
            audio = self._audio.look(self._turn_start_ms, audio_ms)
            self._out.append(self._recognitions.paused(Recognise(self._turn_item, audio, self._audio.format)))
        return self._taken()

    def speech_resumed(self) -> None:
        self._recognitions.forget_pause()

    def speech_stopped(self, audio_ms: float, now: float) -> list[Outgoing]:
        if self.detection is None or not self._turn_item or self.script.turn_gets_stuck(self._turn):
            return []
        item_id, self._turn_item = self._turn_item, ""
        self._emit("input_audio_buffer.speech_stopped", audio_end_ms=int(audio_ms), item_id=item_id)
        self._commit(item_id, self._audio.cut(self._turn_start_ms, audio_ms), now)
        if self.detection["create_response"]:
            self._respond_unasked(now)
        return self._taken()

    def recognised(self, wanted: Recognise, heard: Heard, now: float) -> list[Outgoing]:
        if self._recognitions.arrived(wanted, heard):
            self._understood(wanted.item_id, heard, now)
        return self._taken()

    def advance(self, now: float) -> list[Outgoing]:
        """Whatever is due."""
        if now >= self._expires_ms:
            self._expires_ms = math.inf
            self._error("session_expired", EXPIRED, None, None)
            self._out.append(CloseSession(1001, EXPIRED))
            return self._taken()
        self._advance(now)
        if self._idle_due_ms is not None and now >= self._idle_due_ms:
            self._prompt_idle_caller(now)
        return self._taken()

    # ------------------------------------------------------------ client events

    def _receive(self, event: Event, now: float) -> None:
        match event["type"]:
            case "input_audio_buffer.append":
                self.append(sound(event.get("audio"), "audio"))
            case "session.update" | "transcription_session.update":
                self._update(event)
            case "input_audio_buffer.commit":
                self._commit_by_hand(now)
            case "input_audio_buffer.clear":
                self._audio.clear()
                self._turn_item = ""
                self._recognitions.forget_pause()
                self._out.append(ListenAnew())
                self._emit("input_audio_buffer.cleared")
            case "conversation.item.create":
                self._create_item(event)
            case "conversation.item.retrieve":
                item = self._conversation.retrieve(event.get("item_id"))
                self._emit("conversation.item.retrieved", item=item.snapshot(with_audio=True))
            case "conversation.item.delete":
                self._conversation.delete(event.get("item_id"))
                self._emit("conversation.item.deleted", item_id=event["item_id"])
            case "conversation.item.truncate":
                self._truncate(event)
            case "response.create":
                self._create_response(event, now)
            case "response.cancel":
                self._cancel(event, now)
            case "output_audio_buffer.clear":
                raise Refused("invalid_value", "output_audio_buffer.clear is for WebRTC and SIP only.", "type")
            case unknown:
                raise Refused("invalid_value", f"Invalid value: '{unknown}'. It is no client event.", "type")

    def _update(self, event: Event) -> None:
        update = event.get("session")
        if not isinstance(update, dict):
            raise Refused("missing_required_parameter", "Missing required parameter: 'session'.", "session")
        dialect = self.dialect
        if looks_beta(update):
            if self.script.refuse_beta:
                self._refuse_beta()
                return
            dialect = self.script.dialect or "beta"
        if dialect == "beta" and "type" not in update:
            update = session_from_beta(update)
        before = self._settings["audio"]["input"]
        self._settings = settings.merged(self._settings, update, spoke=self._spoke)
        self.dialect = dialect
        if self._model_is_open and isinstance(update.get("model"), str):
            self._choose_model(update["model"])
        self._listen_as_set(before)
        self._emit("session.updated", session=self._settings)

    def _listen_as_set(self, before: Event) -> None:
        heard = self._settings["audio"]["input"]
        if heard["format"] != before["format"]:
            self._audio.change_format(settings.audio_format(heard["format"]))
        if heard["turn_detection"] is None:
            self._turn_item = ""
        if heard["turn_detection"] != before["turn_detection"]:
            self._idle_due_ms = None
        if heard["format"] != before["format"] or heard["turn_detection"] != before["turn_detection"]:
            self._out.append(ListenAnew())

    def _choose_model(self, model: str) -> None:
        self._model_is_open = False
        self._settings = {**self._settings, "model": model}
        brain = self._brains(model)
        if brain is not None:
            self._mind.change_brain(brain)

    def _refuse_beta(self) -> None:
        self._error("beta_api_shape_disabled", BETA_IS_GONE, None, None)
        self._out.append(CloseSession(4000, "invalid_request_error.beta_api_shape_disabled"))

    def _commit_by_hand(self, now: float) -> None:
        if self._audio.ms < MIN_COMMIT_MS:
            raise Refused(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer"
                f" only has {self._audio.ms:.2f}ms of audio.",
            )
        item_id = self._turn_item or self._ids.new("item")
        self._turn_item = ""
        self._commit(item_id, self._audio.take(), now)
        self._out.append(ListenAnew())

    def _create_item(self, event: Event) -> None:
        described = event.get("item")
        if not isinstance(described, dict):
            raise Refused("missing_required_parameter", "Missing required parameter: 'item'.", "item")
        item = read_item(described, item_id=self._ids.new("item"), bytes_per_ms=self._audio.format.bytes_per_ms)
        previous = self._conversation.insert(item, event.get("previous_item_id"))
        self._announce(item, previous)
        if item.role == "user" and item.audio and self._hears:
            self._mind.listening(item.id)
            self._out.append(self._recognitions.ask(Recognise(item.id, item.audio, self._audio.format)))

    def _truncate(self, event: Event) -> None:
        item_id, index, audio_end_ms = event.get("item_id"), event.get("content_index", 0), event.get("audio_end_ms")
        if isinstance(audio_end_ms, bool) or not isinstance(audio_end_ms, int):
            raise Refused("invalid_type", "Invalid type for 'audio_end_ms': expected an integer.", "audio_end_ms")
        if audio_end_ms < 0:
            raise Refused("integer_below_min_value", "Invalid 'audio_end_ms': expected 0 or more.", "audio_end_ms")
        self._conversation.truncate(item_id, content_index=index, audio_end_ms=audio_end_ms)
        self._emit("conversation.item.truncated", item_id=item_id, content_index=index, audio_end_ms=audio_end_ms)

    def _create_response(self, event: Event, now: float) -> None:
        overrides = read_overrides(event.get("response"), self.dialect)
        manner = read_manner(overrides, self._settings)
        wish = read_wish(overrides, self._settings, self._conversation, self._audio.format.bytes_per_ms)
        if manner.in_conversation and self._running is not None:
            raise _already_active(self._running)
        self._respond(manner, wish, now)

    def _cancel(self, event: Event, now: float) -> None:
        wanted = event.get("response_id")
        named = next((response for response in self._responses if response.id == wanted), None)
        found = self._running if wanted is None else named
        if found is None:
            raise Refused("response_cancel_not_active", "Cancellation failed: no active response found")
        self._stop(found, "client_cancelled", now)

    # ------------------------------------------------------------ the caller's turns

    def _commit(self, item_id: str, audio: bytes, now: float) -> None:
        item = Item(item_id, "message", role="user", content=[{"type": "input_audio", "transcript": None}])
        item.audio, item.bytes_per_ms = audio, self._audio.format.bytes_per_ms
        item.audio_ms = len(audio) / item.bytes_per_ms
        previous = self._conversation.append(item)
        self._emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        self._announce(item, previous)
        if not self._hears:
            return
        self._mind.listening(item_id)
        match self._recognitions.committed(Recognise(item_id, audio, self._audio.format)):
            case Recognise() as wanted:
                self._out.append(wanted)
            case Heard() as known:
                self._understood(item_id, known, now)

    def _understood(self, item_id: str, heard: Heard, now: float) -> None:
        self._mind.heard(item_id, heard)
        if self._settings["audio"]["input"]["transcription"]:
            self._transcribe(item_id, heard)
        for response in self._responses:
            if response.waits_for == item_id:
                self._plan(response, now)
        self._advance(now)

    def _transcribe(self, item_id: str, heard: Heard) -> None:
        item = self._conversation.find(item_id)
        if item is None:
            return  # deleted meanwhile
        for part in item.content:
            part["transcript"] = heard.text
        ids = {"item_id": item_id, "content_index": 0}
        kind = "conversation.item.input_audio_transcription"
        if heard.text:
            self._emit(f"{kind}.delta", **ids, delta=heard.text)
        usage = {"type": "duration", "seconds": round(item.audio_ms / 1000, 3)}
        self._emit(f"{kind}.completed", **ids, transcript=heard.text, usage=usage)

    def _prompt_idle_caller(self, now: float) -> None:
        """The caller said nothing for `idle_timeout_ms` after the last response had been played."""
        self._idle_due_ms = None
        item_id = self._ids.new("item")
        start_ms, end_ms = int(self._audio.start_ms), int(self._audio.written_ms)
        self._emit(
            "input_audio_buffer.timeout_triggered", audio_start_ms=start_ms, audio_end_ms=end_ms, item_id=item_id
        )
        self._mind.nothing_to_answer(item_id)
        self._commit(item_id, self._audio.take(), now)
        self._respond(read_manner({}, self._settings), Wish(instructions=f'"{self.brain.still_there}"'), now)

    def _respond_unasked(self, now: float) -> None:
        running = self._running
        if running is None:
            wish = read_wish({}, self._settings, self._conversation, self._audio.format.bytes_per_ms)
            self._respond(read_manner({}, self._settings), wish, now)
            return
        refused = _already_active(running)
        self._error(refused.code, refused.message, None, None)

    # ------------------------------------------------------------ responses

    @property
    def _running(self) -> Response | None:
        """The response of the conversation that is in progress."""
        return next((response for response in self._responses if response.manner.in_conversation), None)

    def _respond(self, manner: Manner, wish: Wish, now: float) -> None:
        self._response_count += 1
        rule = self.script.response(self._response_count)
        self._idle_due_ms = None
        if rule.silent:
            return
        response = Response(
            manner=manner,
            wish=wish,
            rule=rule,
            ids=self._ids,
            conversation=self._conversation,
            conversation_id=self._conversation_id,
            mouth=self._mouth,
            usage=lambda done: self._bill.of(done, self._settings),
        )
        self._responses.append(response)
        self._pass_on(response.begin())
        self._plan(response, now)
        self._advance(now)

    def _plan(self, response: Response, now: float) -> None:
        reply = (Say(response.rule.answer),) if response.rule.answer else self._mind.reply(response)
        if reply is not None:
            response.plan(reply, now)

    def _advance(self, now: float) -> None:
        for response in list(self._responses):
            self._pass_on(response.advance(now))
            if not response.active:
                self._ended(response, now)

    def _stop(self, response: Response, reason: str, now: float) -> None:
        self._pass_on(response.stop(reason))
        self._ended(response, now)

    def _ended(self, response: Response, now: float) -> None:
        self._responses.remove(response)
        self._mind.responded(response)
        self._spoke = self._spoke or response.audio_ms > 0
        idle_ms = (self.detection or {}).get("idle_timeout_ms")
        if idle_ms and response.status == "completed" and not self._turn_item:
            self._idle_due_ms = now + response.unplayed_ms + idle_ms

    # ------------------------------------------------------------ out

    def _announce(self, item: Item, previous: str | None) -> None:
        self._emit("conversation.item.added", previous_item_id=previous, item=item.snapshot())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.snapshot())

    def _error(self, code: str, message: str, param: str | None, event: Any) -> None:
        event_id = event.get("event_id") if isinstance(event, dict) else None
        described = {"type": "invalid_request_error", "code": code, "message": message, "param": param}
        self._emit("error", error={**described, "event_id": event_id})

    def _pass_on(self, events: list[Event]) -> None:
        for event in events:
            self._out.append({"event_id": self._ids.new("event"), **event})

    def _emit(self, kind: str, **fields: Any) -> None:
        self._out.append({"event_id": self._ids.new("event"), "type": kind, **fields})

    def _taken(self) -> list[Outgoing]:
        out, self._out = self._out, []
        return out


def _already_active(running: Response) -> Refused:
    return Refused(
        "conversation_already_has_active_response",
        f"Conversation already has an active response in progress: {running.id}. Wait until the response is finished"
        " before creating a new one.",
    )
