"""What a realtime service says, as facts of a call: one decoder per session, holding only what ids and once-only rules
need.

Laws: `decode` never raises. Every response that is spoken of is started once and ended once; one that was ended never
starts again. A tool is requested at most once per call id, and only when its item or its response is complete. What a
service does not name (response and item ids, the end of an item, the end of the caller's turn) is made up from state,
with ids no service would use.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pybase64

from bridge.call.events import (
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerTranscribed,
    CallerTurnEnded,
    Event,
    ItemSpoken,
    ItemTranscribed,
    ModelComplained,
    ModelSaid,
    ResponseEnded,
    ResponseStarted,
    ToolRequested,
    Usage,
    WordTimed,
)
from bridge.realtime.dialect import (
    GA_NAMES,
    MADE_UP,
    AudioDelta,
    Cure,
    SessionCreated,
    SessionUpdated,
    Unknown,
)
from bridge.realtime.session import read_format
from bridge.realtime.wire import MAX_ID, MAX_MESSAGE, MAX_TEXT, clean, number, read_object, rows, table, whole, wire_id

if TYPE_CHECKING:
    from bridge.realtime.dialect import Dialect

Fact = Event | SessionCreated | SessionUpdated | AudioDelta | Unknown
Facts = tuple[Fact, ...]

_MAX_OPEN = 32  # responses a service may leave open; older ones are ended for it
_REMEMBERED = 512

# Known, and no fact of a call.
_SILENT = frozenset(
    {
        "conversation.created",
        "conversation.item.retrieved",
        "conversation.item.truncated",
        "conversation.item.deleted",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.segment",
        "conversation.item.input_audio_transcription.updated",  # xAI: the whole text so far
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.dtmf_event_received",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
        "output_audio_buffer.cleared",
        "response.content_part.added",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "rate_limits.updated",
        "ping",  # xAI, Inworld
    }
)


# Services quote a refused key in their message; what they leave of it is still too much for a log.
_KEY = re.compile(r"\b(?:sk|rsk|xai|gsk)[-_][\w*.-]{6,}\w")


class Complaint(msgspec.Struct, frozen=True, gc=False):
    """The last error envelope, fully judged: a call in progress knows no `retry`, a close that follows does."""

    code: str
    message: str
    cure: Cure
    param: str = ""
    request_id: str = ""


class _Head(msgspec.Struct, gc=False):
    """The fields of the deltas; every frame is read as this first, and a big one only once."""

    type: str = ""
    event_id: str | None = None
    response_id: str | None = None
    item_id: str | None = None
    content_index: int | None = 0
    delta: str | None = None
    start_ms: float | None = None


class _Call(msgspec.Struct, gc=False):
    """A tool call in the making."""

    item_id: str
    name: str = ""
    arguments: str | None = None  # None until they are complete


class _Response:
    """A response that has started and not ended."""

    __slots__ = ("audio_items", "calls", "current_item", "id", "out_of_band", "transcribed", "words")

    def __init__(self, response_id: str, *, out_of_band: bool = False) -> None:
        self.id = response_id
        self.out_of_band = out_of_band
        self.current_item = ""  # the message item deltas without an id belong to
        self.audio_items: dict[str, None] = {}  # with audio whose end was not announced yet, in order
        self.transcribed: set[str] = set()  # items whose whole transcript is known
        self.words: Literal["", "transcript", "text"] = ""  # where its words come from; a transcript wins over text
        self.calls: dict[str, _Call] = {}  # by call id


class _Recent:
    """A set that forgets its oldest members."""

    def __init__(self) -> None:
        self._members: dict[str, None] = {}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def add(self, member: str) -> None:
        self._members[member] = None
        if len(self._members) > _REMEMBERED:
            del self._members[next(iter(self._members))]


class Decoder:
    """Reads one session. `complaint` is the last error envelope, for whoever must judge a close that follows it."""

    def __init__(self, dialect: Dialect) -> None:
        self.complaint: Complaint | None = None
        self._dialect = dialect
        self._read_head = msgspec.json.Decoder(_Head).decode
        self._open: dict[str, _Response] = {}
        self._current: _Response | None = None  # the one events without a response id belong to
        self._deltas = _Recent()
        self._ended = _Recent()
        self._requested = _Recent()  # tool calls that were asked for, or must never be
        self._turns = _Recent()  # caller items whose turn is known to have ended
        self._caller_item = ""  # the caller's item being spoken, or spoken and not yet ended
        self._caller_stopped = False
        self._conversation_named = dialect.profile.names_conversations
        self._made_up = 0
        self._readers: dict[str, Callable[[dict[str, Any], list[Fact]], None]] = {
            "session.created": self._session_created,
            "session.updated": self._session_updated,
            "response.created": self._response_created,
            "response.output_item.added": self._output_item_added,
            "response.output_item.done": self._output_item_done,
            "response.content_part.done": self._content_part_done,
            "response.output_audio.delta": self._odd_delta,
            "response.output_audio_transcript.delta": self._odd_delta,
            "response.output_text.delta": self._odd_delta,
            "response.output_audio.done": self._audio_done,
            "response.output_audio_transcript.done": self._transcript_done,
            "response.output_text.done": self._text_done,
            "response.function_call_arguments.done": self._arguments_done,
            "response.audio_timestamp.delta": self._audio_timestamp,
            "response.done": self._response_done,
            "conversation.item.added": self._item_added,
            "conversation.item.done": self._item_added,
            "conversation.item.input_audio_transcription.completed": self._caller_transcribed,
            "conversation.item.input_audio_transcription.failed": self._caller_transcribed,
            "input_audio_buffer.speech_started": self._speech_started,
            "input_audio_buffer.speech_stopped": self._speech_stopped,
            "input_audio_buffer.committed": self._committed,
            "error": self._error,
        }

    def decode(self, frame: bytes) -> Facts:
        """Facts of one text frame, in order. A frame that means nothing gives `Unknown`, or nothing at all."""
        facts: list[Fact] = []
        try:
            head = self._read_head(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # some field is odd: the slow reading below decides
        else:
            kind = GA_NAMES.get(head.type, head.type)
            if head.delta is not None and head.event_id and self._seen(head.event_id, head.delta):
                return ()
            if kind == "response.output_audio.delta" and head.delta is not None:
                self._audio(head.response_id, head.item_id, head.content_index, head.delta, facts)
                return tuple(facts)
            if kind == "response.output_audio_transcript.delta" and head.delta is not None:
                self._words(head.response_id, head.item_id, head.delta, head.start_ms, facts, source="transcript")
                return tuple(facts)
            if kind == "response.output_text.delta" and head.delta is not None:
                self._words(head.response_id, head.item_id, head.delta, head.start_ms, facts, source="text")
                return tuple(facts)
            if kind in _SILENT:
                return ()
        event = read_object(frame)
        if isinstance(event, str):
            return (Unknown("", event),)
        name = event.get("type")
        if type(name) is not str or not name:
            return (Unknown("", "no type"),)
        reader = self._readers.get(GA_NAMES.get(name, name))
        if reader is not None:
            reader(event, facts)
        elif name not in _SILENT:
            facts.append(Unknown(clean(name, 100)))
        return tuple(facts)

    def _seen(self, event_id: str, delta: str) -> bool:
        """Whether this very delta came before; its end counts too, for services that number events carelessly."""
        key = event_id[:MAX_ID] + delta[-48:]
        if key in self._deltas:
            return True
        self._deltas.add(key)
        return False

    def decode_binary(self, frame: bytes) -> Facts:
        """Facts of one binary frame: bare audio of what is being spoken."""
        facts: list[Fact] = []
        response = self._response("", facts)
        item_id = self._item(response, "")
        self._spoke(response, item_id)
        facts.append(AudioDelta(response.id, item_id, 0, frame))
        return tuple(facts)

    # ------------------------------------------------------------ deltas

    def _audio(
        self, response_id: str | None, item_id: str | None, content_index: int | None, delta: str, facts: list[Fact]
    ) -> None:
        try:
            audio = pybase64.b64decode(delta, validate=True)
        except (binascii.Error, ValueError):
            facts.append(Unknown("response.output_audio.delta", "not base64"))
            return
        if not audio:
            return
        response = self._response(response_id, facts)
        item = self._item(response, item_id)
        self._spoke(response, item)
        facts.append(AudioDelta(response.id, item, whole(content_index, limit=1000), audio))

    def _words(
        self,
        response_id: str | None,
        item_id: str | None,
        delta: str,
        start_ms: float | None,
        facts: list[Fact],
        *,
        source: Literal["transcript", "text"],
    ) -> None:
        text = clean(delta)
        if not text:
            return
        response = self._response(response_id, facts)
        item = self._item(response, item_id)
        if source == "text" and response.words == "transcript":
            return  # the same words again
        response.words = source
        facts.append(ModelSaid(response.id, item, text))
        at_ms = number(start_ms)
        if at_ms is not None:
            facts.append(WordTimed(item, text, at_ms))

    def _odd_delta(self, event: dict[str, Any], facts: list[Fact]) -> None:
        """A delta whose fields were not of their documented types."""
        delta = event.get("delta")
        if type(delta) is not str:
            facts.append(Unknown(clean(event.get("type"), 100), "no delta"))
            return
        kind = GA_NAMES.get(event["type"], event["type"])
        if kind == "response.output_audio.delta":
            self._audio(event.get("response_id"), event.get("item_id"), event.get("content_index"), delta, facts)
            return
        source: Literal["transcript", "text"] = "text" if kind == "response.output_text.delta" else "transcript"
        self._words(event.get("response_id"), event.get("item_id"), delta, event.get("start_ms"), facts, source=source)

    # ------------------------------------------------------------ session

    def _session_created(self, event: dict[str, Any], facts: list[Fact]) -> None:
        session = table(event.get("session"))
        facts.append(SessionCreated(wire_id(session.get("id")), number(session.get("expires_at"))))

    def _session_updated(self, event: dict[str, Any], facts: list[Fact]) -> None:
        session = table(event.get("session"))
        audio = table(session.get("audio"))
        heard = table(audio.get("input")).get("format") or session.get("input_audio_format")
        spoken = table(audio.get("output")).get("format") or session.get("output_audio_format")
        facts.append(SessionUpdated(*read_format(heard), *read_format(spoken), number(session.get("expires_at"))))

    # ------------------------------------------------------------ responses

    def _response(self, response_id: Any, facts: list[Fact]) -> _Response:
        """The response an event belongs to; it is started here if the service forgot to say so."""
        current = self._current
        if current is not None and (response_id == current.id or not response_id):
            return current
        known = wire_id(response_id)
        if known in self._open:
            return self._open[known]
        if known and known in self._ended:
            return _Response(known)  # late: passed on under its name, and kept out of the state
        if not known and current is not None:
            return current
        return self._start(known or self._make_up("response"), facts)

    def _start(self, response_id: str, facts: list[Fact], *, out_of_band: bool = False) -> _Response:
        if not out_of_band:
            self._end_turn_before_answer(facts)
            if self._current is not None and self._current.id.startswith(MADE_UP):
                self._end(self._current, facts)  # nobody else will
        while len(self._open) >= _MAX_OPEN:
            self._end(next(iter(self._open.values())), facts)
        response = self._open[response_id] = _Response(response_id, out_of_band=out_of_band)
        if not out_of_band:
            self._current = response
        facts.append(ResponseStarted(response_id, out_of_band))
        return response

    def _end(
        self,
        response: _Response,
        facts: list[Fact],
        status: Literal["completed", "cancelled", "incomplete", "failed"] = "completed",
        reason: str = "",
        message: str = "",
        usage: Usage | None = None,
        cure: Literal["", "rotate", "fatal"] = "",
    ) -> None:
        facts.extend(ItemSpoken(response.id, item) for item in response.audio_items)
        if status == "completed":
            for call_id, call in list(response.calls.items()):
                self._request_tool(response, call_id, call, facts)
        else:
            for call_id in response.calls:
                self._requested.add(call_id)
        self._open.pop(response.id, None)
        self._ended.add(response.id)
        if self._current is response:
            self._current = next((r for r in reversed(self._open.values()) if not r.out_of_band), None)
        facts.append(ResponseEnded(response.id, status, reason, message, usage, cure))

    def _response_created(self, event: dict[str, Any], facts: list[Fact]) -> None:
        body = table(event.get("response"))
        response_id = wire_id(body.get("id")) or wire_id(event.get("response_id"))
        if response_id and (response_id in self._open or response_id in self._ended):
            return
        conversation = body.get("conversation_id", "")
        if conversation:
            self._conversation_named = True
        out_of_band = (conversation is None and self._conversation_named) or body.get("conversation") == "none"
        self._start(response_id or self._make_up("response"), facts, out_of_band=out_of_band)

    def _response_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        body = table(event.get("response"))
        response_id = wire_id(body.get("id")) or wire_id(event.get("response_id"))
        if response_id in self._ended:
            return
        response = self._open.get(response_id)
        if response is None and self._current is not None:
            # A service that names nothing ends what is open; one that names only the end means what we named.
            if not response_id or self._current.id.startswith(MADE_UP):
                response = self._current
                if response_id:
                    self._ended.add(response_id)
        if response is None:
            if not body:
                return
            response = self._start(response_id or self._make_up("response"), facts)

        details = table(body.get("status_details"))
        error = table(details.get("error"))
        status = _status(body.get("status"))
        reason = clean(details.get("reason"), 100) or clean(error.get("code"), 100) or clean(error.get("type"), 100)
        message = clean(error.get("message"), MAX_MESSAGE)
        for item in rows(body.get("output")):
            self._output_item(response, item, facts, announced=False)
        cure: Literal["", "rotate", "fatal"] = ""
        if status == "failed":
            match self._dialect.cure(reason, message):
                case "rotate" | "fatal" as more:
                    cure = more
                    self.complaint = Complaint(reason, message, more)
        self._end(response, facts, status, reason, message, _usage(body.get("usage")), cure)

    # ------------------------------------------------------------ items of a response

    def _item(self, response: _Response, item_id: Any) -> str:
        """The id of the item a delta belongs to."""
        if item_id == response.current_item and item_id:
            return response.current_item
        known = wire_id(item_id) or response.current_item or self._make_up("item")
        response.current_item = known
        return known

    def _spoke(self, response: _Response, item_id: str) -> None:
        if item_id not in response.audio_items:
            response.audio_items[item_id] = None

    def _audio_ended(self, response: _Response, item_id: str, facts: list[Fact]) -> None:
        if item_id in response.audio_items:
            del response.audio_items[item_id]
            facts.append(ItemSpoken(response.id, item_id))

    def _audio_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        response = self._response(event.get("response_id"), facts)
        item_id = wire_id(event.get("item_id")) or next(reversed(response.audio_items), "")
        self._audio_ended(response, item_id, facts)

    def _transcript_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        response = self._response(event.get("response_id"), facts)
        self._whole_transcript(response, self._item(response, event.get("item_id")), event.get("transcript"), facts)

    def _text_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        response = self._response(event.get("response_id"), facts)
        if response.words != "transcript":
            self._whole_transcript(response, self._item(response, event.get("item_id")), event.get("text"), facts)

    def _content_part_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        part = table(event.get("part"))
        response = self._response(event.get("response_id"), facts)
        item_id = self._item(response, event.get("item_id"))
        self._whole_transcript(response, item_id, part.get("transcript") or part.get("text"), facts)

    def _whole_transcript(self, response: _Response, item_id: str, text: Any, facts: list[Fact]) -> None:
        said = clean(text)
        if said and item_id not in response.transcribed:
            response.transcribed.add(item_id)
            facts.append(ItemTranscribed(response.id, item_id, said))

    def _output_item_added(self, event: dict[str, Any], facts: list[Fact]) -> None:
        response = self._response(event.get("response_id"), facts)
        item = table(event.get("item"))
        item_id = wire_id(item.get("id"))
        if item.get("type") == "function_call":
            self._call(response, item, item_id)
        elif item_id and item.get("type", "message") == "message":
            response.current_item = item_id

    def _output_item_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        response = self._response(event.get("response_id"), facts)
        self._output_item(response, table(event.get("item")), facts, announced=True)

    def _output_item(self, response: _Response, item: dict[str, Any], facts: list[Fact], *, announced: bool) -> None:
        """An item in its final form: announced by output_item.done, or listed in response.done."""
        item_id = wire_id(item.get("id"))
        if item.get("type") == "function_call":
            call_id, call = self._call(response, item, item_id)
            arguments = _arguments(item.get("arguments"))
            if arguments is not None and (arguments or call.arguments is None):
                call.arguments = arguments
            status = item.get("status", "completed")
            if status in ("incomplete", "cancelled", "failed"):
                self._requested.add(call_id)
            elif announced and status == "completed":
                self._request_tool(response, call_id, call, facts)
            return
        for part in rows(item.get("content")):
            self._whole_transcript(response, item_id, part.get("transcript"), facts)
        if announced:
            self._audio_ended(response, item_id, facts)

    # ------------------------------------------------------------ tool calls

    def _call(self, response: _Response, named: dict[str, Any], item_id: str) -> tuple[str, _Call]:
        """The call an item or an arguments event is about; services give it a call id, an item id, or both."""
        call_id = wire_id(named.get("call_id"))
        if not call_id:
            call_id = next((key for key, call in response.calls.items() if call.item_id == item_id), "") or item_id
        if not call_id:
            call_id = self._make_up("call")
        call = response.calls.get(call_id)
        if call is None:
            call = response.calls[call_id] = _Call(item_id or call_id)
        call.name = clean(named.get("name"), MAX_MESSAGE) or call.name
        return call_id, call

    def _arguments_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        # Not acted on by itself: it is also sent for calls that were cut off. The item's or the response's end decides.
        response = self._response(event.get("response_id"), facts)
        _call_id, call = self._call(response, event, wire_id(event.get("item_id")))
        arguments = _arguments(event.get("arguments"))
        call.arguments = arguments if arguments is not None else call.arguments

    def _request_tool(self, response: _Response, call_id: str, call: _Call, facts: list[Fact]) -> None:
        if call_id in self._requested or call.arguments is None:
            return
        self._requested.add(call_id)
        facts.append(ToolRequested(response.id, call.item_id, call_id, call.name, call.arguments))

    def _audio_timestamp(self, event: dict[str, Any], facts: list[Fact]) -> None:
        """Azure Voice Live tells where words lie."""
        at_ms, text = number(event.get("audio_offset_ms")), clean(event.get("text"), MAX_MESSAGE)
        if at_ms is not None and text:
            facts.append(WordTimed(wire_id(event.get("item_id")), text, at_ms))

    # ------------------------------------------------------------ the caller

    def _speech_started(self, event: dict[str, Any], facts: list[Fact]) -> None:
        self._caller_item = wire_id(event.get("item_id"))
        self._caller_stopped = False
        facts.append(CallerSpeechStarted(self._caller_item, number(event.get("audio_start_ms")) or 0.0))

    def _speech_stopped(self, event: dict[str, Any], facts: list[Fact]) -> None:
        self._caller_item = wire_id(event.get("item_id")) or self._caller_item or self._make_up("item")
        self._caller_stopped = True
        facts.append(CallerSpeechStopped(self._caller_item, number(event.get("audio_end_ms")) or 0.0))

    def _committed(self, event: dict[str, Any], facts: list[Fact]) -> None:
        item_id = wire_id(event.get("item_id")) or self._caller_item or self._make_up("item")
        self._end_turn(item_id, facts, previous=wire_id(event.get("previous_item_id")))

    def _end_turn(self, item_id: str, facts: list[Fact], *, previous: str = "") -> None:
        self._caller_item, self._caller_stopped = "", False
        if item_id not in self._turns:
            self._turns.add(item_id)
            facts.append(CallerTurnEnded(item_id, previous))

    def _end_turn_before_answer(self, facts: list[Fact]) -> None:
        """Services that never send `committed`: an answer after the caller stopped means the turn was taken."""
        if self._caller_stopped:
            self._end_turn(self._caller_item, facts)

    def _item_added(self, event: dict[str, Any], facts: list[Fact]) -> None:
        if table(event.get("response")):
            return
        item = table(event.get("item"))
        item_id = wire_id(item.get("id"))
        if item.get("type") == "function_call" or item.get("role") != "user" or not item_id:
            return
        audible = any(part.get("type") == "input_audio" for part in rows(item.get("content")))
        if item_id == self._caller_item or audible:
            self._end_turn(item_id, facts, previous=wire_id(event.get("previous_item_id")))

    def _caller_transcribed(self, event: dict[str, Any], facts: list[Fact]) -> None:
        item_id = wire_id(event.get("item_id")) or self._caller_item or self._make_up("item")
        if item_id == self._caller_item:
            self._end_turn(item_id, facts)
        facts.append(CallerTranscribed(item_id, clean(event.get("transcript")).strip()))

    # ------------------------------------------------------------ errors

    def _error(self, event: dict[str, Any], facts: list[Fact]) -> None:
        code, message, param, request_id = read_error(event)
        cure = self._dialect.cure(code, message)
        self.complaint = Complaint(code, message, cure, param, request_id)
        facts.append(ModelComplained("note" if cure == "retry" else cure, code, message))

    def _make_up(self, what: str) -> str:
        self._made_up += 1
        return f"{MADE_UP}{what}.{self._made_up}"


def read_error(event: dict[str, Any]) -> tuple[str, str, str, str]:
    """Code, message, param and request id of an error envelope, in any of the forms services send.

    `error` is an object (OpenAI), a string (vLLM-Omni), or missing with its fields at the top (gateways). Where there
    is no code the error's type says a little.
    """
    body = event.get("error")
    error = body if isinstance(body, dict) else {}
    spoken = body if isinstance(body, str) else None
    code = next(
        (
            clean(value, 100)
            for value in (error.get("code"), event.get("code"), error.get("type"))
            if isinstance(value, str) and value
        ),
        "unknown",
    )
    message = spoken or error.get("message") or event.get("message") or "the service reported an error"
    param = error.get("param") or event.get("param")
    request_id = event.get("request_id") or error.get("request_id")
    return code, _KEY.sub("[key]", clean(message, MAX_MESSAGE)), clean(param, 200), wire_id(request_id)


def _status(value: Any) -> Literal["completed", "cancelled", "incomplete", "failed"]:
    match value:
        case "cancelled" | "canceled":
            return "cancelled"
        case "incomplete":
            return "incomplete"
        case "failed":
            return "failed"
        case _:
            return "completed"


def _arguments(value: Any) -> str | None:
    """Arguments as JSON text; a service that sends the object itself is understood too."""
    if isinstance(value, dict):
        try:
            return clean(msgspec.json.encode(value).decode())
        except ValueError:  # half a surrogate pair
            return None
    return clean(value, MAX_TEXT) if isinstance(value, str) else None


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    heard, spoken = table(value.get("input_token_details")), table(value.get("output_token_details"))
    return Usage(
        input_tokens=whole(value.get("input_tokens")),
        output_tokens=whole(value.get("output_tokens")),
        input_audio_tokens=whole(heard.get("audio_tokens")),
        output_audio_tokens=whole(spoken.get("audio_tokens")),
        cached_tokens=whole(heard.get("cached_tokens")),
    )
