"""What a realtime service says, as facts of a call: one decoder per session, holding only what ids and once-only rules
need.

Laws: `decode` never raises. Every response that is spoken of is started once and ended once; one that was ended never
starts again. A tool is requested at most once per call id, and only when its item or its response is complete. What a
service does not name (response and item ids, the end of an item, the end of the caller's turn) is made up from state,
with ids no service would use.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pybase64

from bridge.call.events import (
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
from bridge.realtime.caller_turns import CallerTurns
from bridge.realtime.dialect import (
    GA_NAMES,
    MADE_UP,
    SILENT,
    AudioDelta,
    SessionCreated,
    SessionUpdated,
    Unknown,
)
from bridge.realtime.envelope import Complaint, read_error
from bridge.realtime.memory import Call, Conversations, Recent, Repeats, Response
from bridge.realtime.outcome import read_arguments, read_status, read_usage
from bridge.realtime.session import read_format
from bridge.realtime.wire import MAX_MESSAGE, clean, number, read_object, rows, table, whole, wire_id

if TYPE_CHECKING:
    from bridge.realtime.dialect import Dialect

Fact = Event | SessionCreated | SessionUpdated | AudioDelta | Unknown
Facts = tuple[Fact, ...]

_MAX_OPEN = 32  # responses a service may leave open; older ones are ended for it
_SHORTEST_SECRET = 8  # characters; a shorter key may be a word of the protocol
_LONGEST_EVENT = 4_000_000  # bytes of what is not a delta: a minute of audio in an item, as LocalAI sends it
_MAX_ITEMS = 64  # of a response, and tool calls in it; what is beyond is not read


class _Head(msgspec.Struct, gc=False):
    """The fields of the deltas; every frame is read as this first, and a big one only once."""

    type: str = ""
    event_id: str | None = None
    response_id: str | None = None
    item_id: str | None = None
    content_index: int | None = 0
    delta: str | None = None
    start_ms: float | None = None


class Decoder:
    """Reads one session. `complaint` is the last error envelope, for whoever must judge a close that follows it."""

    def __init__(self, dialect: Dialect, *, secret: str = "") -> None:
        self.complaint: Complaint | None = None
        self._secret = secret.encode() if len(secret) >= _SHORTEST_SECRET else b""
        self._dialect = dialect
        self._read_head = msgspec.json.Decoder(_Head).decode
        self._open: dict[str, Response] = {}
        self._current: Response | None = None  # the one events without a response id belong to
        self._repeats = Repeats()
        self._ended = Recent()
        self._requested = Recent()  # tool calls that were asked for, or must never be
        self._caller = CallerTurns(self._make_up)
        self._conversations = Conversations(named=dialect.profile.names_conversations)
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
            "conversation.item.added": self._caller.item_added,
            "conversation.item.done": self._caller.item_added,
            "conversation.item.input_audio_transcription.completed": self._caller.transcribed,
            "conversation.item.input_audio_transcription.failed": self._caller.transcribed,
            "input_audio_buffer.speech_started": self._caller.started,
            "input_audio_buffer.speech_stopped": self._caller.stopped,
            "input_audio_buffer.committed": self._caller.committed,
            "error": self._error,
        }

    def decode(self, frame: bytes) -> Facts:
        """Facts of one text frame, in order. A frame that means nothing gives `Unknown`, or nothing at all."""
        facts: list[Fact] = []
        kind = ""
        try:
            head = self._read_head(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # some field is odd: the slow reading below decides
        else:
            kind = GA_NAMES.get(head.type, head.type)
            if head.delta is not None and head.event_id and self._repeats.again(head.event_id, head.delta):
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
            if kind in SILENT:
                return ()
        known = kind in self._readers
        if self._secret and self._secret in frame:  # quoted in a complaint, most likely
            frame = frame.replace(self._secret, b"***")
        elif kind and not known:
            return (Unknown(clean(head.type, 100)),)
        if len(frame) > _LONGEST_EVENT:
            return (Unknown(kind if known else "", "too long"),)
        event = read_object(frame)
        if isinstance(event, str):
            return (Unknown("", event),)
        name = event.get("type")
        if type(name) is not str or not name:
            return (Unknown("", "no type"),)
        reader = self._readers.get(GA_NAMES.get(name, name))
        if reader is not None:
            reader(event, facts)
        elif name not in SILENT:
            facts.append(Unknown(clean(name, 100)))
        return tuple(facts)

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

    def _response(self, response_id: Any, facts: list[Fact]) -> Response:
        """The response an event belongs to; it is started here if the service forgot to say so."""
        current = self._current
        if current is not None and (response_id == current.id or not response_id):
            return current
        known = wire_id(response_id)
        if known in self._open:
            return self._open[known]
        if known and known in self._ended:
            return Response(known)  # late: passed on under its name, and kept out of the state
        if not known and current is not None:
            return current
        return self._start(known or self._make_up("response"), facts)

    def _start(self, response_id: str, facts: list[Fact], *, out_of_band: bool = False) -> Response:
        if not out_of_band:
            self._caller.end_before_answer(facts)
            if self._current is not None and self._current.id.startswith(MADE_UP):
                self._end(self._current, facts)  # nobody else will
        while len(self._open) >= _MAX_OPEN:
            self._end(next(iter(self._open.values())), facts)
        response = self._open[response_id] = Response(response_id, out_of_band=out_of_band)
        if not out_of_band:
            self._current = response
        facts.append(ResponseStarted(response_id, out_of_band))
        return response

    def _end(
        self,
        response: Response,
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
        out_of_band = self._conversations.outside(body)
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
        status = read_status(body.get("status"))
        reason = clean(details.get("reason"), 100) or clean(error.get("code"), 100) or clean(error.get("type"), 100)
        message = clean(error.get("message"), MAX_MESSAGE)
        for item in rows(body.get("output"))[:_MAX_ITEMS]:
            self._output_item(response, item, facts, announced=False)
        cure: Literal["", "rotate", "fatal"] = ""
        if status == "failed":
            match self._dialect.cure(reason, message):
                case "rotate" | "fatal" as more:
                    cure = more
                    self.complaint = Complaint(reason, message, more)
        self._end(response, facts, status, reason, message, read_usage(body.get("usage")), cure)

    # ------------------------------------------------------------ items of a response

    def _item(self, response: Response, item_id: Any) -> str:
        """The id of the item a delta belongs to."""
        if item_id == response.current_item and item_id:
            return response.current_item
        known = wire_id(item_id) or response.current_item or self._make_up("item")
        response.current_item = known
        return known

    def _spoke(self, response: Response, item_id: str) -> None:
        if item_id not in response.audio_items:
            response.audio_items[item_id] = None

    def _audio_ended(self, response: Response, item_id: str, facts: list[Fact]) -> None:
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

    def _whole_transcript(self, response: Response, item_id: str, text: Any, facts: list[Fact]) -> None:
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

    def _output_item(self, response: Response, item: dict[str, Any], facts: list[Fact], *, announced: bool) -> None:
        """An item in its final form: announced by output_item.done, or listed in response.done."""
        item_id = wire_id(item.get("id"))
        if item.get("type") == "function_call":
            call_id, call = self._call(response, item, item_id)
            arguments = read_arguments(item.get("arguments"))
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

    def _call(self, response: Response, named: dict[str, Any], item_id: str) -> tuple[str, Call]:
        """The call an item or an arguments event is about; services give it a call id, an item id, or both."""
        call_id = wire_id(named.get("call_id"))
        if not call_id:
            call_id = next((key for key, call in response.calls.items() if call.item_id == item_id), "") or item_id
        if not call_id:
            call_id = self._make_up("call")
        call = response.calls.get(call_id)
        if call is None:
            call = Call(item_id or call_id)
            if len(response.calls) < _MAX_ITEMS:
                response.calls[call_id] = call
        call.name = clean(named.get("name"), MAX_MESSAGE) or call.name
        return call_id, call

    def _arguments_done(self, event: dict[str, Any], facts: list[Fact]) -> None:
        # Not acted on by itself: it is also sent for calls that were cut off. The item's or the response's end decides.
        response = self._response(event.get("response_id"), facts)
        _call_id, call = self._call(response, event, wire_id(event.get("item_id")))
        arguments = read_arguments(event.get("arguments"))
        call.arguments = arguments if arguments is not None else call.arguments

    def _request_tool(self, response: Response, call_id: str, call: Call, facts: list[Fact]) -> None:
        if call_id in self._requested or call.arguments is None or response.calls.get(call_id) is not call:
            return
        self._requested.add(call_id)
        facts.append(ToolRequested(response.id, call.item_id, call_id, call.name, call.arguments))

    def _audio_timestamp(self, event: dict[str, Any], facts: list[Fact]) -> None:
        """Azure Voice Live tells where words lie."""
        at_ms, text = number(event.get("audio_offset_ms")), clean(event.get("text"), MAX_MESSAGE)
        if at_ms is not None and text:
            facts.append(WordTimed(wire_id(event.get("item_id")), text, at_ms))

    # ------------------------------------------------------------ errors

    def _error(self, event: dict[str, Any], facts: list[Fact]) -> None:
        code, message, param, request_id = read_error(event)
        cure = self._dialect.cure(code, message)
        event_id = wire_id(table(event.get("error")).get("event_id"))
        self.complaint = Complaint(code, message, cure, param, request_id, event_id)
        facts.append(ModelComplained("note" if cure == "retry" else cure, code, message))

    def _make_up(self, what: str) -> str:
        self._made_up += 1
        return f"{MADE_UP}{what}.{self._made_up}"
