"""One realtime session on the server's side: client events, speech, recognition results and time in; server events out.

Nothing here waits, opens or looks at a clock: every entry takes `now` (ms) and returns what is to be sent,
`deadline_ms` says when `advance` is due. Server events are dicts with their GA names; sound in them is bytes, turned
into base64 when they are written to the wire. The order of events is that of the GA reference; the rules of
truncation, cancellation and turn detection too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pybase64

from bridge.audio.formats import AudioFormat
from bridge.localmodel import settings
from bridge.localmodel.brain import Brain, Dialogue, Heard, Reply, Say, UseTool, digits_in
from bridge.localmodel.items import Conversation, Item
from bridge.localmodel.response import ASSISTANT_MS_PER_TOKEN, USER_MS_PER_TOKEN, Ids, Manner, Response
from bridge.localmodel.script import Script
from bridge.localmodel.settings import Refused
from bridge.localmodel.speech import Mouth
from bridge.localmodel.wire import Dialect, Event, content_from_beta, looks_beta, session_from_beta

MIN_COMMIT_MS = 100
MAX_APPEND_BYTES = 15 * 1024 * 1024
KEEP_QUIET_MS = 5_000  # sound before speech that is kept while the detector decides
KEEP_MANUAL_MS = 300_000
EXPIRED = "Your session hit the maximum duration of 60 minutes."


@dataclass(frozen=True, slots=True)
class Recognise:
    """Please find out what was said here, and call `recognised`."""

    item_id: str
    audio: bytes
    format: AudioFormat


@dataclass(frozen=True, slots=True)
class ListenAnew:
    """The detector's settings, or the sound's format, changed."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    code: int
    reason: str


Outgoing = Event | Recognise | ListenAnew | CloseSession


class Session:
    """`hears` is False where no recogniser is at hand: the brain's lines then follow one another, one per turn."""

    def __init__(
        self,
        *,
        brain: Brain,
        mouth: Mouth,
        model: str,
        now: float,
        opened_at: int = 0,
        tag: str = "",
        script: Script | None = None,
        dialect: Dialect = "ga",
        hears: bool = True,
        brains: Callable[[str], Brain | None] = lambda name: None,
    ) -> None:
        self.dialect: Dialect = dialect
        self.script = script or Script()
        self._ids = Ids(tag)
        self._mouth = mouth
        self._brains = brains
        self._hears = hears
        self._dialogue = Dialogue(brain)
        self._conversation = Conversation()
        self._conversation_id = self._ids.new("conv")
        self._expires_ms = now + self.script.max_session_s * 1000
        self._settings = settings.default_session(
            session_id=self._ids.new("sess"),
            model=model,
            voice=brain.voice or "marin",
            expires_at=opened_at + int(self.script.max_session_s),
        )
        self._model_given = bool(model)
        self._input_format = settings.audio_format(self._settings["audio"]["input"]["format"])
        self._buffer = bytearray()
        self._written_ms = 0.0  # audio written in this session
        self._speech_item = ""  # the item the caller's present speech will become
        self._speech_start_ms = 0.0
        self._heard: dict[str, Heard | None] = {}  # user item -> recognition; None while it runs
        self._answered: set[str] = set()
        self._responses: list[Response] = []  # in progress
        self._response_count = 0
        self._spoke = False
        self._input_tokens_before = 0
        self._idle_due_ms: float | None = None
        self._out: list[Outgoing] = []

    # ------------------------------------------------------------ what the shell needs to know

    @property
    def brain(self) -> Brain:
        return self._dialogue.brain

    @property
    def input_format(self) -> AudioFormat:
        return self._input_format

    @property
    def detection(self) -> Event | None:
        """The session's turn detection, or None for manual turns."""
        detection: Event | None = self._settings["audio"]["input"]["turn_detection"]
        return detection

    @property
    def deadline_ms(self) -> float:
        due = [self._expires_ms]
        due.extend(response.deadline_ms for response in self._responses if response.deadline_ms is not None)
        if self._idle_due_ms is not None:
            due.append(self._idle_due_ms)
        return min(due)

    # ------------------------------------------------------------ facts

    def open(self) -> list[Outgoing]:
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

    def malformed(self, what: str) -> list[Outgoing]:
        """A frame that is not JSON, or not text."""
        self._error("invalid_json", f"We could not parse the body of your event: {what}", None, None)
        return self._taken()

    def append(self, audio: bytes) -> None:
        """Caller audio in the session's input format; detection is told separately."""
        self._buffer += audio
        self._written_ms += len(audio) / self._input_format.bytes_per_ms
        self._forget_quiet()

    def speech_started(self, audio_ms: float, now: float) -> list[Outgoing]:
        """`audio_ms` is where speech began, prefix padding included, counted in audio written."""
        if self.detection is None or self._speech_item:
            return []
        self._idle_due_ms = None
        self._speech_item = self._ids.new("item")
        self._speech_start_ms = max(audio_ms, self._buffer_start_ms)
        self._emit("input_audio_buffer.speech_started", audio_start_ms=int(audio_ms), item_id=self._speech_item)
        if self.detection["interrupt_response"]:
            self._cancel_spoken("turn_detected", now)
        return self._taken()

    def speech_stopped(self, audio_ms: float, now: float) -> list[Outgoing]:
        if self.detection is None or not self._speech_item or self.script.stuck_vad:
            return []
        item_id, self._speech_item = self._speech_item, ""
        self._emit("input_audio_buffer.speech_stopped", audio_end_ms=int(audio_ms), item_id=item_id)
        audio = self._cut(self._speech_start_ms, audio_ms)
        self._commit(item_id, audio)
        if self.detection["create_response"]:
            self._respond_by_itself(now)
        return self._taken()

    def recognised(self, item_id: str, heard: Heard, now: float) -> list[Outgoing]:
        self._heard[item_id] = heard
        if self._settings["audio"]["input"]["transcription"] and self._conversation.find(item_id):
            self._transcribe(item_id, heard)
        for response in self._responses:
            if response.waits_for == item_id:
                self._plan(response, None, now)
        self._advance(now)
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
            self._idle(now)
        return self._taken()

    # ------------------------------------------------------------ client events

    def _receive(self, event: Event, now: float) -> None:
        match event["type"]:
            case "input_audio_buffer.append":
                self.append(_sound(event.get("audio"), "audio"))
            case "session.update" | "transcription_session.update":
                self._update(event, now)
            case "input_audio_buffer.commit":
                self._commit_by_hand()
            case "input_audio_buffer.clear":
                self._buffer.clear()
                self._speech_item = ""
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
                raise Refused(
                    "invalid_value", "output_audio_buffer.clear is for WebRTC and SIP connections only.", "type"
                )
            case unknown:
                raise Refused("invalid_value", f"Invalid value: '{unknown}'. It is no client event.", "type")

    def _update(self, event: Event, now: float) -> None:
        update = event.get("session")
        if not isinstance(update, dict):
            raise Refused("missing_required_parameter", "Missing required parameter: 'session'.", "session")
        if looks_beta(update) and self.script.refuse_beta:
            self.refuse_beta()
            return
        if looks_beta(update) and not self.script.dialect:
            self.dialect = "beta"
        if self.dialect == "beta" and "type" not in update:
            update = session_from_beta(update)
        before = self._settings
        self._settings = settings.merged(before, update, spoke=self._spoke)
        if not self._model_given and isinstance(update.get("model"), str):
            self._choose_model(update["model"])
        heard = self._settings["audio"]["input"]
        if heard["format"] != before["audio"]["input"]["format"]:
            self._input_format = settings.audio_format(heard["format"])
            self._buffer.clear()
        if heard != before["audio"]["input"]:
            self._out.append(ListenAnew())
        if self.detection is None:
            self._speech_item = ""
        self._emit("session.updated", session=self._settings)

    def refuse_beta(self) -> None:
        message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
        self._error("beta_api_shape_disabled", message, None, None)
        self._out.append(CloseSession(4000, "invalid_request_error.beta_api_shape_disabled"))

    def _choose_model(self, model: str) -> None:
        self._model_given = True
        self._settings = {**self._settings, "model": model}
        brain = self._brains(model)
        if brain is not None:
            self._dialogue = Dialogue(brain)

    def _commit_by_hand(self) -> None:
        ms = len(self._buffer) / self._input_format.bytes_per_ms
        if ms < MIN_COMMIT_MS:
            raise Refused(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer"
                f" only has {ms:.2f}ms of audio.",
            )
        item_id = self._speech_item or self._ids.new("item")
        self._speech_item = ""
        audio = bytes(self._buffer)
        self._buffer.clear()
        self._commit(item_id, audio)
        self._out.append(ListenAnew())

    def _create_item(self, event: Event) -> None:
        described = event.get("item")
        if not isinstance(described, dict):
            raise Refused("missing_required_parameter", "Missing required parameter: 'item'.", "item")
        item = self._item(described)
        previous = self._conversation.insert(item, event.get("previous_item_id"))
        self._emit("conversation.item.added", previous_item_id=previous, item=item.snapshot())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.snapshot())
        if item.role == "user" and item.audio:
            self._recognise(item.id, item.audio)

    def _truncate(self, event: Event) -> None:
        audio_end_ms, index = event.get("audio_end_ms"), event.get("content_index", 0)
        if isinstance(audio_end_ms, bool) or not isinstance(audio_end_ms, int):
            raise Refused(
                "invalid_type", "Invalid type for 'audio_end_ms': expected an integer, but got another.", "audio_end_ms"
            )
        if audio_end_ms < 0:
            raise Refused("integer_below_min_value", "Invalid 'audio_end_ms': expected a value >= 0.", "audio_end_ms")
        self._conversation.truncate(event.get("item_id"), content_index=index, audio_end_ms=audio_end_ms)
        self._emit(
            "conversation.item.truncated", item_id=event["item_id"], content_index=index, audio_end_ms=audio_end_ms
        )

    def _create_response(self, event: Event, now: float) -> None:
        overrides = event.get("response") or {}
        if not isinstance(overrides, dict):
            raise Refused("invalid_type", "Invalid type for 'response': expected an object.", "response")
        manner = self._manner(overrides)
        running = self._spoken_response
        if manner.in_conversation and running is not None:
            raise Refused(
                "conversation_already_has_active_response",
                f"Conversation already has an active response in progress: {running.id}. Wait until the response is"
                " finished before creating a new one.",
            )
        self._respond(manner, overrides, now)

    def _cancel(self, event: Event, now: float) -> None:
        wanted = event.get("response_id")
        if wanted is None:
            found = self._spoken_response
        else:
            found = next((response for response in self._responses if response.id == wanted), None)
        if found is None:
            raise Refused("response_cancel_not_active", "Cancellation failed: no active response found")
        self._stop(found, "client_cancelled", now)

    # ------------------------------------------------------------ turns

    def _commit(self, item_id: str, audio: bytes) -> None:
        item = Item(item_id, "message", role="user", content=[{"type": "input_audio", "transcript": None}])
        item.audio, item.bytes_per_ms = audio, self._input_format.bytes_per_ms
        item.audio_ms = len(audio) / item.bytes_per_ms
        previous = self._conversation.append(item)
        self._emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.snapshot())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.snapshot())
        self._recognise(item_id, audio)

    def _recognise(self, item_id: str, audio: bytes) -> None:
        if not self._hears:
            return
        self._heard[item_id] = None
        self._out.append(Recognise(item_id, audio, self._input_format))

    def _transcribe(self, item_id: str, heard: Heard) -> None:
        item = self._conversation.retrieve(item_id)
        for part in item.content:
            part["transcript"] = heard.text
        kind = "conversation.item.input_audio_transcription"
        if heard.text:
            self._emit(f"{kind}.delta", item_id=item_id, content_index=0, delta=heard.text)
        usage = {"type": "duration", "seconds": round(item.audio_ms / 1000, 3)}
        self._emit(f"{kind}.completed", item_id=item_id, content_index=0, transcript=heard.text, usage=usage)

    def _idle(self, now: float) -> None:
        """The caller said nothing for `idle_timeout_ms` after the last response had been played."""
        self._idle_due_ms = None
        item_id = self._ids.new("item")
        start_ms = self._buffer_start_ms
        self._emit(
            "input_audio_buffer.timeout_triggered",
            audio_start_ms=int(start_ms),
            audio_end_ms=int(self._written_ms),
            item_id=item_id,
        )
        audio = bytes(self._buffer)
        self._buffer.clear()
        self._heard[item_id] = Heard(None, "")
        item = Item(item_id, "message", role="user", content=[{"type": "input_audio", "transcript": None}])
        item.audio_ms = len(audio) / self._input_format.bytes_per_ms
        self._answered.add(item_id)
        previous = self._conversation.append(item)
        self._emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.snapshot())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.snapshot())
        self._respond(self._manner({}), {"instructions": f'"{self.brain.still_there}"'}, now)

    def _respond_by_itself(self, now: float) -> None:
        running = self._spoken_response
        if running is None:
            self._respond(self._manner({}), {}, now)
            return
        self._error(
            "conversation_already_has_active_response",
            f"Conversation already has an active response in progress: {running.id}. Wait until the response is"
            " finished before creating a new one.",
            None,
            None,
        )

    def _respond(self, manner: Manner, overrides: Event, now: float) -> None:
        self._response_count += 1
        rule = self.script.response(self._response_count)
        self._idle_due_ms = None
        if rule.silent:
            return
        response = Response(
            manner=manner,
            rule=rule,
            ids=self._ids,
            conversation=self._conversation,
            conversation_id=self._conversation_id,
            mouth=self._mouth,
            usage=self._usage,
        )
        self._responses.append(response)
        self._pass_on(response.begin())
        self._plan(response, overrides, now)
        self._advance(now)

    def _plan(self, response: Response, overrides: Event | None, now: float) -> None:
        """Decide the reply, or leave `waits_for` set; `overrides` is None when what was waited for is there."""
        if response.rule.answer:
            response.plan((Say(response.rule.answer),), now)
            return
        reply = self._reply(response, overrides or {})
        if reply is not None:
            response.plan(reply, now)

    def _reply(self, response: Response, overrides: Event) -> Reply | None:
        """What to answer; None while recognition runs."""
        instructed = self._dialogue.instructed(str(overrides.get("instructions") or ""))
        tools = self._callable_tools(overrides)
        if overrides.get("input") is not None or not response.manner.in_conversation:
            texts = [
                item.text for item in [self._resolved(given) for given in overrides.get("input") or []] if item.text
            ]
            if instructed or not texts:
                return instructed or self._dialogue.greeting()
            return self._dialogue.answer(self.brain.understand(texts[-1]), tools=tools)
        forced = self._forced_tool(overrides)
        if forced is not None:
            return (forced,)
        if instructed and '"' in str(overrides.get("instructions")):
            return instructed
        question = self._open_question(response)
        if question:
            return self._answer(question, response, tools)
        if instructed:
            return instructed
        if self._spoke:
            return (Say(self.brain.still_there),)
        return self._dialogue.greeting()

    def _open_question(self, response: Response) -> list[Item]:
        """The items at the end of the conversation which nobody answered yet, oldest first."""
        tail: list[Item] = []
        for item in reversed(self._conversation):
            if item.role == "assistant" or item.type == "function_call" or item.id in self._answered:
                break
            tail.append(item)
        response.answers = frozenset(item.id for item in tail)
        return tail[::-1]

    def _answer(self, question: list[Item], response: Response, tools: list[str]) -> Reply | None:
        outputs = [item for item in question if item.type == "function_call_output"]
        spoken = [item for item in question if item.role == "user"]
        notes = [item for item in question if item.role == "system"]
        waited = next(
            (item.id for item in spoken[-1:] if item.id in self._heard and self._heard[item.id] is None), None
        )
        if waited is not None:
            response.waits_for = waited
            return None
        reply: list[Say | UseTool] = []
        for item in outputs:
            reply.extend(self._dialogue.after_tool(self._tool_name(item), item.fields["output"]))
        for item in spoken[-1:]:
            reply.extend(self._answer_caller(item, tools))
        for item in notes[-1:]:
            if not reply and digits_in(item.text):
                reply.extend(self._dialogue.digits(digits_in(item.text), tools=tools))
        return tuple(reply)

    def _answer_caller(self, item: Item, tools: list[str]) -> Reply:
        if item.is_audio and not self._hears:
            return self._dialogue.next_line()
        if item.is_audio:
            return self._dialogue.answer(self._heard.get(item.id) or Heard(None, ""), tools=tools)
        digits = digits_in(item.text)
        if digits and self.brain.intent_of_digits(digits):
            return self._dialogue.digits(digits, tools=tools)
        return self._dialogue.answer(self.brain.understand(item.text), tools=tools)

    def _tool_name(self, output: Item) -> str:
        called = (item for item in self._conversation if item.type == "function_call")
        return next((i.fields["name"] for i in called if i.fields["call_id"] == output.fields["call_id"]), "")

    def _callable_tools(self, overrides: Event) -> list[str]:
        if overrides.get("tool_choice", self._settings["tool_choice"]) == "none":
            return []
        declared = overrides.get("tools", self._settings["tools"])
        return [tool["name"] for tool in declared if tool.get("type") == "function"]

    def _forced_tool(self, overrides: Event) -> UseTool | None:
        choice = overrides.get("tool_choice", self._settings["tool_choice"])
        if not isinstance(choice, dict) or choice.get("type") != "function":
            return None
        name = str(choice.get("name"))
        known = (intent.tool for intent in self.brain.intents if intent.tool and intent.tool.name == name)
        return next(known, UseTool(name))

    # ------------------------------------------------------------ responses under way

    @property
    def _spoken_response(self) -> Response | None:
        return next((response for response in self._responses if response.manner.in_conversation), None)

    def _cancel_spoken(self, reason: str, now: float) -> None:
        running = self._spoken_response
        if running is not None:
            self._stop(running, reason, now)

    def _stop(self, response: Response, reason: str, now: float) -> None:
        self._pass_on(response.stop(reason, now))
        self._ended(response, now)

    def _advance(self, now: float) -> None:
        for response in list(self._responses):
            self._pass_on(response.advance(now))
            if not response.active:
                self._ended(response, now)

    def _ended(self, response: Response, now: float) -> None:
        self._responses.remove(response)
        self._spoke = self._spoke or response.audio_ms > 0
        if response.output:
            self._answered |= response.answers
        idle_ms = (self.detection or {}).get("idle_timeout_ms")
        if idle_ms and response.status == "completed" and not self._speech_item:
            generating_ms = response.audio_ms / response.rule.speed
            self._idle_due_ms = now + max(response.audio_ms - generating_ms, 0.0) + idle_ms

    def _manner(self, overrides: Event) -> Manner:
        base = self._settings
        output = base["audio"]["output"]
        given = (overrides.get("audio") or {}).get("output") or {}
        modalities = overrides.get("output_modalities", base["output_modalities"])
        if "modalities" in overrides:
            modalities = ["audio"] if "audio" in overrides["modalities"] else ["text"]
        if modalities not in (["audio"], ["text"]):
            raise Refused(
                "invalid_value",
                f"Invalid modalities: {modalities!r}. Use ['audio'] or ['text'], not both.",
                "response.output_modalities",
            )
        described = output["format"]
        if "format" in given:
            described = settings.described_format(given["format"], "response.audio.output.format")
        conversation = overrides.get("conversation", "auto")
        if conversation not in ("auto", "none"):
            raise Refused(
                "invalid_value", f"Invalid value: {conversation!r}. Use 'auto' or 'none'.", "response.conversation"
            )
        if "tool_choice" in overrides:
            settings.tool_choice(overrides["tool_choice"], "response.tool_choice")
        limit = overrides.get("max_output_tokens", base["max_output_tokens"])
        return Manner(
            modality=modalities[0],
            format=settings.audio_format(described),
            described_format=described,
            voice=given.get("voice") or output["voice"],
            speed=output["speed"],
            max_output_tokens=settings.output_tokens(limit, "response.max_output_tokens"),
            metadata=overrides.get("metadata"),
            in_conversation=conversation == "auto",
        )

    def _usage(self, response: Response) -> Event:
        """Every response bills the whole conversation again; what an earlier one had read is cached."""
        produced = set(map(id, response.output))
        audio = text = 0
        for item in self._conversation:
            if id(item) in produced:
                continue
            per_token = ASSISTANT_MS_PER_TOKEN if item.role == "assistant" else USER_MS_PER_TOKEN
            audio += math.ceil(item.audio_ms / per_token)
            text += _text_tokens(item.text) if not (item.role == "user" and item.is_audio) else 0
        text += _text_tokens(self._settings["instructions"])
        text += sum(_text_tokens(str(tool)) for tool in self._settings["tools"])
        total_in = audio + text
        cached = min(self._input_tokens_before, total_in)
        self._input_tokens_before = total_in
        cached_audio = min(cached, audio)
        said_audio = math.ceil(response.audio_ms / ASSISTANT_MS_PER_TOKEN)
        said_text = sum(_text_tokens(item.text) for item in response.output)
        return {
            "total_tokens": total_in + said_audio + said_text,
            "input_tokens": total_in,
            "output_tokens": said_audio + said_text,
            "input_token_details": {
                "text_tokens": text,
                "audio_tokens": audio,
                "image_tokens": 0,
                "cached_tokens": cached,
                "cached_tokens_details": {
                    "text_tokens": cached - cached_audio,
                    "audio_tokens": cached_audio,
                    "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": said_text, "audio_tokens": said_audio},
        }

    # ------------------------------------------------------------ items

    def _resolved(self, described: Any) -> Item:
        if isinstance(described, dict) and described.get("type") == "item_reference":
            return self._conversation.retrieve(described.get("id"))
        if not isinstance(described, dict):
            raise Refused("invalid_type", "Invalid type for 'response.input': expected items.", "response.input")
        return self._item(described)

    def _item(self, described: Event) -> Item:
        """A client's item, checked."""
        given_id = described.get("id")
        if given_id is not None and (not isinstance(given_id, str) or len(given_id) > 32):
            raise Refused("string_above_max_length", "Invalid 'item.id': expected a string of at most 32.", "item.id")
        if given_id is not None and self._conversation.find(given_id):
            raise Refused("item_create_duplicate_item_id", f"Item with id '{given_id}' already exists.", "item.id")
        item_id = given_id or self._ids.new("item")
        match described.get("type"):
            case "message":
                return self._message(item_id, described)
            case "function_call_output":
                fields = {key: str(described.get(key) or "") for key in ("call_id", "output")}
                known = any(
                    item.type == "function_call" and item.fields["call_id"] == fields["call_id"]
                    for item in self._conversation
                )
                if not known:
                    raise Refused(
                        "item_create_invalid_call_id",
                        f"Tool call ID '{fields['call_id']}' not found in conversation.",
                        "item.call_id",
                    )
                return Item(item_id, "function_call_output", fields=fields)
            case "function_call":
                fields = {key: str(described.get(key) or "") for key in ("name", "call_id", "arguments")}
                return Item(item_id, "function_call", fields=fields)
            case "mcp_approval_response":
                approval = {key: described.get(key) for key in ("approval_request_id", "approve", "reason")}
                return Item(item_id, "mcp_approval_response", fields=approval)
            case other:
                raise Refused("invalid_value", f"Invalid value: {other!r}. It is no item type.", "item.type")

    def _message(self, item_id: str, described: Event) -> Item:
        role = described.get("role")
        allowed = {
            "user": ("input_text", "input_audio", "input_image"),
            "assistant": ("output_text",),
            "system": ("input_text",),
        }.get(str(role))
        if allowed is None:
            raise Refused("invalid_value", f"Invalid value: {role!r}. It is no role.", "item.role")
        content = described.get("content")
        if not isinstance(content, list):
            raise Refused("missing_required_parameter", "Missing required parameter: 'item.content'.", "item.content")
        item = Item(item_id, "message", role=str(role), bytes_per_ms=self._input_format.bytes_per_ms)
        for index, part in enumerate(content):
            kind = content_from_beta(part.get("type", "")) if isinstance(part, dict) else ""
            if kind not in allowed:
                supported = ", ".join(f"'{name}'" for name in allowed)
                raise Refused(
                    "invalid_value",
                    f"Invalid value: '{kind}'. Supported values are: {supported}.",
                    f"item.content[{index}].type",
                )
            if kind == "input_audio":
                item.audio += _sound(part.get("audio"), f"item.content[{index}].audio")
                item.content.append({"type": kind, "transcript": part.get("transcript")})
            elif kind == "input_image":
                item.content.append({"type": kind, "image_url": part.get("image_url")})
            else:
                item.content.append({"type": kind, "text": str(part.get("text") or "")})
        item.audio_ms = len(item.audio) / item.bytes_per_ms
        return item

    # ------------------------------------------------------------ the buffer

    @property
    def _buffer_start_ms(self) -> float:
        return self._written_ms - len(self._buffer) / self._input_format.bytes_per_ms

    def _cut(self, start_ms: float, end_ms: float) -> bytes:
        """Take the sound up to `end_ms` out of the buffer, and return it from `start_ms` on."""
        offset = self._buffer_start_ms
        size = self._input_format.sample_bytes
        start = max(int((start_ms - offset) * self._input_format.rate_hz / 1000) * size, 0)
        end = max(int((end_ms - offset) * self._input_format.rate_hz / 1000) * size, start)
        audio = bytes(self._buffer[start:end])
        del self._buffer[:end]
        return audio

    def _forget_quiet(self) -> None:
        listening = self.detection is not None and not self._speech_item
        most = int((KEEP_QUIET_MS if listening else KEEP_MANUAL_MS) * self._input_format.bytes_per_ms)
        if len(self._buffer) > 2 * most:
            del self._buffer[:-most]

    # ------------------------------------------------------------ out

    def _error(self, code: str, message: str, param: str | None, event: Any) -> None:
        event_id = event.get("event_id") if isinstance(event, dict) else None
        kind = "invalid_request_error"
        described = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        self._emit("error", error=described)

    def _pass_on(self, events: list[Event]) -> None:
        for event in events:
            self._out.append({"event_id": self._ids.new("event"), **event})

    def _emit(self, kind: str, **fields: Any) -> None:
        self._out.append({"event_id": self._ids.new("event"), "type": kind, **fields})

    def _taken(self) -> list[Outgoing]:
        out, self._out = self._out, []
        return out


def _sound(value: Any, path: str) -> bytes:
    if not isinstance(value, str):
        raise Refused("missing_required_parameter", f"Missing required parameter: '{path}'.", path)
    try:
        audio = pybase64.b64decode(value, validate=True)
    except ValueError:
        raise Refused("invalid_value", f"Invalid '{path}'. Expected base64-encoded audio bytes.", path) from None
    if len(audio) > MAX_APPEND_BYTES:
        raise Refused("string_above_max_length", f"Invalid '{path}': at most 15 MiB in one event.", path)
    return audio


def _text_tokens(text: str) -> int:
    return math.ceil(len(text) / 4)
