"""RealtimeClient: a conversation with a realtime service in a few lines, by the contract of OpenAI's reference client.

It keeps the session's configuration, runs tools, and tells what changed in the conversation:

    realtime.event               {"time", "source": "client" | "server", "event"}: everything sent and received
    conversation.updated         {"item", "delta"}: any change; delta is None or what was added
    conversation.item.appended   {"item"}
    conversation.item.completed  {"item"}
    conversation.interrupted     {}: the service heard the caller begin; stop playing
    error                        RealtimeError: an error envelope, or a connection lost

Where the reference client is known to err this one does not: it uses the address and model it was given, keeps a
bounded copy of audio, asks for one response after all tool calls of a response, runs no tool of a cut-off one, and
checks before it cancels.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge.errors import RealtimeError, UsageError
from bridge.realtime import given
from bridge.realtime.answers import Answers
from bridge.realtime.api import RealtimeAPI
from bridge.realtime.connection import pieces
from bridge.realtime.conversation import NAMELESS, Change, Conversation, Item
from bridge.realtime.dialect import GA_NAMES, MADE_UP
from bridge.realtime.emitter import Emitter
from bridge.realtime.envelope import read_error
from bridge.realtime.input_audio import InputAudio
from bridge.realtime.memory import Conversations
from bridge.realtime.opening import redacted
from bridge.realtime.profiles import Profile
from bridge.realtime.session import Encoding, from_fields, read_format
from bridge.realtime.toolbelt import Tool, ToolBelt
from bridge.realtime.wire import table, whole, wire_id

Audio = bytes | bytearray | memoryview | Any  # anything that gives its bytes: numpy int16, array("h")

# The reference client's, without its voice: other services have other voices, and each has a default.
DEFAULT_SESSION: dict[str, Any] = {
    "modalities": ["text", "audio"],
    "instructions": "",
    "input_audio_format": "pcm16",
    "output_audio_format": "pcm16",
    "input_audio_transcription": None,
    "turn_detection": None,
    "tool_choice": "auto",
    "temperature": 0.8,  # beta services only
    "max_response_output_tokens": 4096,
}
SERVER_VAD: dict[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 200,
}

_SHORTEST_KEPT_S = 0.1  # of no audio it could not be told whether there is any to commit
_PART = '{"type": "input_text", "text": ...} or {"type": "input_audio", "audio": ...}'


class RealtimeClient(Emitter):
    """One conversation. Methods that send are async; events are dispatched as frames arrive.

    `profile`, `url`, `api_key`, `model` as for `connect`. `keep_audio_s` bounds the local copy of the caller's audio.
    What cannot be used raises UsageError, naming it, before anything is sent: here, and in every method.
    `realtime` is the layer below, for events this class has no method for; `conversation` the cache of items.
    """

    def __init__(
        self,
        *,
        profile: str | Profile = "openai",
        url: str = "",
        api_key: str = "",
        model: str = "",
        allow_plain: bool = False,
        timeout_s: float = 5.0,
        keep_audio_s: float = 120.0,
    ) -> None:
        super().__init__()
        target = given.target(profile, url, api_key, model, allow_plain=allow_plain)
        self.realtime = RealtimeAPI(target, timeout_s=timeout_s)
        self.conversation = Conversation()
        self.session: dict[str, Any] = from_fields(DEFAULT_SESSION)  # in the neutral form of session.py
        self._own: dict[str, Any] | None = None  # our configuration, while the session is somebody else's
        self._dialect = target.dialect()
        self._keep_audio_s = given.seconds("keep_audio_s", keep_audio_s, least=_SHORTEST_KEPT_S)
        self._tools = ToolBelt(self._answer_tool, self._ask_after_tools)
        self._one_by_one = asyncio.Lock()  # connecting and disconnecting, in the order they were asked for
        self._created: asyncio.Future[bool] | None = None
        self._heard = self._new_input()
        self._answers = self._new_answers()
        self._turn_end_ms = 0.0  # where in the caller's audio the service heard their last turn end
        self._committed = ""  # the event that last committed the caller's audio
        self._complaint: RealtimeError | None = None  # the last error envelope of this session
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listen()

    def __repr__(self) -> str:
        return f"<RealtimeClient {self.realtime.target!r} {'connected' if self.is_connected else 'not connected'}>"

    # ------------------------------------------------------------ connection

    @property
    def is_connected(self) -> bool:
        return self.realtime.is_connected

    async def connect(self, *, configure: bool = True) -> None:
        """Open the session and send its configuration. Raises UsageError when connected, or without a key where the
        profile's own host wants one, RealtimeError when refused.

        `configure` False leaves a session as somebody else has configured it: a call under way (`call_id`), a client
        secret, a stored prompt. Its formats and turn detection are read from its greeting, and what is changed later
        is sent alone.
        """
        async with self._one_by_one:
            if self.is_connected:
                raise UsageError("already connected; disconnect first")
            self._created = asyncio.get_running_loop().create_future()
            self._complaint = None
            await self.realtime.connect()
            self._heard = self._new_input()  # what somebody appended before was not sent
            self._turn_end_ms = 0.0
            self.conversation.clear()  # of a session that was lost
            if self._own is not None:
                self.session, self._own = self._own, None
            if not configure:
                self._own = dict(self.session)
            else:
                # Closed already? Why comes as an "error", and to who waits for a greeting.
                with contextlib.suppress(RealtimeError):
                    await self._send_session()

    async def wait_for_session_created(self, timeout_s: float | None = None) -> bool:
        """True once the service has greeted us, False when `timeout_s` passes first. Raises RealtimeError when not
        connected, or when it closed instead: with the error it gave.
        """
        if timeout_s is not None:
            timeout_s = given.seconds("timeout_s", timeout_s, least=0.0)
        if self._created is None or not (self.is_connected or self._created.done()):
            raise RealtimeError("the client is not connected", code="not_connected")
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._created)
        except TimeoutError:
            return False

    async def disconnect(self) -> None:
        """Close the session and forget its conversation; tools still running are cancelled. A session that is just
        being opened is waited for, `timeout_s` at most, and closed.
        """
        async with self._one_by_one:
            for task in list(self._tasks):
                if task is not asyncio.current_task():
                    task.cancel()
            try:
                await self.realtime.disconnect()
            finally:
                self._ended(RealtimeError("the client disconnected", code="connection_closed"))
                self.conversation.clear()

    async def reset(self) -> None:
        """Disconnect, and forget configuration, tools and listeners."""
        await self.disconnect()
        self.clear_event_handlers()
        self.realtime.clear_event_handlers()
        self.session = from_fields(DEFAULT_SESSION)
        self._tools.clear()
        self._listen()

    # ------------------------------------------------------------ session

    @property
    def turn_detection_type(self) -> str | None:
        """The kind of turn detection configured; None for manual turns."""
        kind = table(self.session.get("turn_detection")).get("type")
        return kind if isinstance(kind, str) else None

    async def update_session(self, **fields: Any) -> None:
        """Change the given fields and send the whole configuration if connected.

        Fields may be named as in the beta (flat) or as in GA (`audio={...}`); the service gets its own shape. Tools
        given here stand beside those of `add_tool`. Raises UsageError for a tool name in both, a format that is none of
        the profile's, another format once the session has had audio, or what JSON cannot say; then nothing has changed.
        What the service refuses comes as an "error"; it is sent again with every later update until it is changed.
        """
        if "tools" in fields:
            tools = given.tables("tools", fields["tools"], '{"name": ..., "description": ..., "parameters": {...}}')
            fields["tools"] = [{"type": "function", **tool} for tool in tools]
            for tool in fields["tools"]:
                if tool["type"] == "function" and not (isinstance(tool.get("name"), str) and tool["name"]):
                    raise UsageError("tools: a tool needs a name")
                if tool.get("name") in self._tools:
                    raise UsageError(f"tool {tool['name']!r} was added by add_tool already")
        for name, value in fields.items():
            given.as_json(name, value)
        changed = from_fields(fields)
        for side in ("input", "output"):
            encoding, rate_hz = now = self.session[f"{side}_format"]
            wanted = changed.get(f"{side}_format", now)
            if wanted == now:
                continue
            self._require_format(side, *wanted)
            if self._has_had_audio():
                raise UsageError(
                    f"{side}_audio_format: the session has had audio, and keeps its format ({encoding}, {rate_hz} Hz);"
                    " disconnect, change it, and connect again"
                )
        had_turns = self.turn_detection_type is not None
        self.session |= changed
        if had_turns and self.turn_detection_type is None:
            self._heard.forget(self._turn_end_ms)  # the service has committed that, turn by turn
        if self.is_connected:
            await self._send_session(*changed)

    def _require_format(self, side: str, encoding: Encoding, rate_hz: int) -> None:
        """All reckoning here, of milliseconds and of what was heard, is in the format that is asked for."""
        profile = self.realtime.target.profile
        rates_hz = profile.input_rates_hz if side == "input" else profile.output_rates_hz
        if encoding not in profile.encodings:
            raise UsageError(
                f"{side}_audio_format: {profile.name} takes {', '.join(profile.encodings)}, not {encoding}"
            )
        possible = rates_hz if encoding == "pcm16" else (8000,)
        if rate_hz not in possible:
            rates = " or ".join(map(str, possible))
            raise UsageError(f"{side}_audio_format: {encoding} has {rates} Hz at {profile.name}, not {rate_hz}")

    async def add_tool(self, definition: Mapping[str, Any], run: Callable[..., Any]) -> Tool:
        """Offer a tool to the model; `run` (plain or async) is called with its arguments as one dict.

        Its result is sent as JSON, what it raises as `{"error": message}`. Raises UsageError for a missing or known
        name.
        """
        for known in self.session.get("tools") or ():
            if isinstance(definition, Mapping) and known.get("name") == definition.get("name"):
                raise UsageError(f"tool {known['name']!r} was given to update_session already")
        tool = self._tools.add(definition, run)
        if self.is_connected:
            await self._send_session("tools")
        return tool

    async def remove_tool(self, name: str) -> None:
        """Raises UsageError for a tool that was not added."""
        self._tools.remove(name)
        if self.is_connected:
            await self._send_session("tools")

    async def _send_session(self, *changed: str) -> None:
        tools = [*(self.session.get("tools") or ()), *self._tools.definitions()]
        profile = self.realtime.target.profile
        model = {"model": profile.model} if profile.model_in == "session" and profile.model else {}
        fields = {**model, **self.session, "tools": tools}
        if self._own is not None:
            fields = {name: fields[name] for name in changed}
        self._reckon()
        await self.realtime.send("session.update", {"session": self._dialect.render(fields)})

    def _adopt(self, session: dict[str, Any]) -> None:
        """What the service says of a session that somebody else has configured, as far as we reckon with it. Our own
        configuration is there again with the next `connect`.
        """
        audio = table(session.get("audio"))
        for side in ("input", "output"):
            encoding, rate_hz = read_format(table(audio.get(side)).get("format") or session.get(f"{side}_audio_format"))
            if encoding is not None:
                self.session[f"{side}_format"] = (encoding, rate_hz or self.session[f"{side}_format"][1])
        for told in (session, table(audio.get("input"))):
            if "turn_detection" in told:
                detection = told["turn_detection"]
                self.session["turn_detection"] = detection if isinstance(detection, dict) else None
        self._reckon()

    def _reckon(self) -> None:
        """The formats may have changed."""
        if not self._heard.appended:
            self._heard = self._new_input()
        self.conversation.bytes_per_ms = self._bytes_per_ms("output_format")

    # ------------------------------------------------------------ the caller's side

    async def send_user_message_content(self, content: Sequence[Mapping[str, Any]]) -> None:
        """Add a caller's message and ask for an answer. Parts are `{"type": "input_text", "text"}` and `{"type":
        "input_audio", "audio"}` with audio as bytes, samples or base64 text. Without parts only the answer is asked
        for.
        """
        parts = [self._part(part) for part in given.tables("content", content, _PART)]
        if parts:
            item = {"type": "message", "role": "user", "content": parts}
            await self.realtime.send("conversation.item.create", {"item": item})
        await self.create_response()

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        kind = part.get("type")
        if kind == "input_audio" and "audio" in part:
            encoding, rate_hz = self.session["input_format"]
            part["audio"] = given.sound_as_text("audio", part["audio"], encoding=encoding, rate_hz=rate_hz)
        elif not isinstance(kind, str) or kind == "input_audio":
            raise UsageError(f"content: found a part with {', '.join(map(repr, part)) or 'nothing'}; write {_PART}")
        elif kind == "input_text" and not isinstance(part.get("text"), str):
            raise UsageError(f"content: found {part.get('text')!r} as text; write {_PART}")
        given.as_json("content", part)
        return part

    async def append_input_audio(self, audio: Audio) -> None:
        """Caller audio in the session's input format, of any length: bytes, or 16-bit samples for PCM."""
        encoding, rate_hz = self.session["input_format"]
        for piece in pieces(given.sound("audio", audio, encoding=encoding, rate_hz=rate_hz)):
            self._heard.append(piece)  # the service may speak of it before the sending returns
            await self.realtime.send_audio(piece)

    async def create_response(self) -> None:
        """Ask for an answer; in manual mode the audio appended so far is committed first. While a response is being
        made the asking waits for its end.
        """
        if self.turn_detection_type is None and len(self._heard):
            await self.realtime.send("input_audio_buffer.commit")
        if self._answers.active:
            self._answers.wanted = True
            return
        await self.realtime.send("response.create")

    # ------------------------------------------------------------ the agent's side

    async def cancel_response(self, item_id: str = "", sample_count: int = 0) -> Item | None:
        """Stop the answer, if one is being made or was asked for. With the item being played and how many of its
        samples were heard, the rest is cut off as well, also of an answer that is over.

        Returns the item, or None without one. Raises UsageError, before anything is sent, for an item that is unknown
        or not the agent's message, and for a count that is none; RealtimeError when not connected.
        """
        heard_samples = given.samples("sample_count", sample_count)
        item = None
        if item_id:
            given.item_id(item_id)
            item = self.conversation.get_item(item_id)
            if item is None:
                raise UsageError(f"item {item_id!r} is not in the conversation")
            if item.type != "message" or item.role != "assistant":
                raise UsageError(f"item {item_id!r} is not a message of the agent")
        if not self.is_connected:
            raise RealtimeError("the client is not connected", code="not_connected")
        self._answers.wanted = False
        profile = self.realtime.target.profile
        if profile.can_cancel and self._answers.under_way:
            await self.realtime.send("response.cancel")
        if item is None:
            return None
        index = item.audio_index()
        if index is None:
            return item
        _encoding, rate_hz = self.session["output_format"]
        heard_ms = int(heard_samples / rate_hz * 1000)
        if item.status == "completed" and heard_ms >= item.formatted.audio_ms - profile.truncate_margin_ms:
            return item  # all of it was heard
        # More than was received is an error to the service, and then nothing is cut.
        heard_ms = min(heard_ms, int(item.formatted.audio_ms))
        if profile.can_truncate and not item_id.startswith(MADE_UP):
            cut = {"item_id": item_id, "content_index": index, "audio_end_ms": heard_ms}
            await self.realtime.send("conversation.item.truncate", cut)
        else:
            self.conversation.truncate(item, heard_ms)
        return item

    async def delete_item(self, item_id: str) -> None:
        """Ask the service to forget an item; the cache does when it has."""
        given.item_id(item_id)
        if item_id.startswith(MADE_UP):
            raise UsageError(f"item_id: {item_id!r} was made up here, its service gave it none: it cannot be deleted")
        if not self.realtime.target.profile.can_delete:
            raise UsageError(f"profile {self.realtime.target.profile.name} deletes no items; leave it where it is")
        await self.realtime.send("conversation.item.delete", {"item_id": item_id})

    async def wait_for_next_item(self, timeout_s: float | None = None) -> Item | None:
        """The next item that is appended; None when `timeout_s` passes first."""
        return _item_of(await self.wait_for_next("conversation.item.appended", timeout_s))

    async def wait_for_next_completed_item(self, timeout_s: float | None = None) -> Item | None:
        return _item_of(await self.wait_for_next("conversation.item.completed", timeout_s))

    # ------------------------------------------------------------ what the service says

    def _listen(self) -> None:
        self.realtime.on("client.*", self._client_event)
        self.realtime.on("server.*", self._server_event)
        self.realtime.on("close", self._connection_closed)

    def _log(self, source: str, event: dict[str, Any]) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat()  # a date for people, as the contract has it
        self.dispatch("realtime.event", {"time": time, "source": source, "event": event})

    def _client_event(self, event: dict[str, Any]) -> None:
        self._log("client", event)
        if event["type"] == "response.create":
            self._answers.asked(event)
        elif event["type"] == "input_audio_buffer.commit":
            self._committed = event["event_id"]
            if self.turn_detection_type is None:
                # What is appended while it is sent comes after it; a refusal may come before the sending returns.
                self.conversation.queue_input_audio(self._heard.take())
        elif event["type"] == "input_audio_buffer.clear":
            self._heard.take()

    def _server_event(self, event: dict[str, Any]) -> None:
        self._log("server", event)
        kind = GA_NAMES.get(event["type"], event["type"])
        if self._answers.beside(kind, event):
            return
        match kind:
            case "session.created":
                if self._own is not None:
                    self._adopt(table(event.get("session")))
                if self._created is not None and not self._created.done():
                    self._created.set_result(True)
            case "input_audio_buffer.speech_stopped":
                self._turn_end_ms = float(whole(event.get("audio_end_ms")))
            case "input_audio_buffer.speech_started":
                self.dispatch("conversation.interrupted", {})
            case "response.created":
                self._answers.created(wire_id(table(event.get("response")).get("id")))
            case "error":
                self._error(event)
        try:
            for change in self.conversation.process(event, self._heard):
                self._changed(change)
        finally:  # whatever became of its items, the response is over
            if kind == "response.done":
                self._response_done(event)

    def _changed(self, change: Change) -> None:
        self.dispatch("conversation.updated", {"item": change.item, "delta": change.delta})
        if change.appended:
            self.dispatch("conversation.item.appended", {"item": change.item})
        if change.completed:
            self.dispatch("conversation.item.completed", {"item": change.item})
            tool, response_id = change.item.formatted.tool, change.item.response_id
            if tool is not None and tool.name in self._tools and response_id:  # without one it is our own seed
                self._spawn(self._tools.run(tool, response_id))

    def _response_done(self, event: dict[str, Any]) -> None:
        response = table(event.get("response"))
        response_id = wire_id(response.get("id"))
        self._answers.done(response_id)
        completed = response.get("status", "completed") == "completed"
        if response.get("status") == "failed":
            code, message, _, _ = read_error(table(response.get("status_details")))
            message = redacted(message, self.realtime.target)
            self.dispatch("error", RealtimeError(f"a response failed: {message}", code=code))
        self._tools.response_ended(response_id, completed=completed)
        self._tools.response_ended(NAMELESS, completed=completed)
        self._ask()

    def _error(self, event: dict[str, Any]) -> None:
        code, message, param, request_id = read_error(event)
        message = redacted(message, self.realtime.target)
        refused = wire_id(table(event.get("error")).get("event_id"))
        if self._dialect.cure(code, message) == "wait":  # a response is active that we do not know
            self._answers.put_off(refused)
        self._answers.refused(refused)
        if refused and refused == self._committed:
            self.conversation.queue_input_audio(b"")  # there will be no item for it
        self._complaint = RealtimeError(message, code=code, param=param or None, request_id=request_id or None)
        self.dispatch("error", self._complaint)

    def _connection_closed(self, how: dict[str, Any]) -> None:
        lost = RealtimeError(f"the connection closed ({how['code']})", code="connection_lost")
        if how["error"]:
            self.dispatch("error", lost)
        self._ended(self._complaint or lost)

    def _ended(self, why: RealtimeError) -> None:
        self._answers = self._new_answers()
        self._tools.forget()
        self.end_waits()
        if self._created is not None and not self._created.done():
            self._created.set_exception(why)
        if self._created is not None and self._created.exception() is None:  # waiting for it is optional
            self._created = None  # the greeting was that session's

    # ------------------------------------------------------------ answers after tools

    async def _answer_tool(self, call_id: str, output: str) -> None:
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        await self.realtime.send("conversation.item.create", {"item": item})

    def _ask_after_tools(self) -> None:
        """All outputs of a response are in: one answer for all of them, when nothing else is being said."""
        self._answers.wanted = True
        self._ask()

    def _ask(self) -> None:
        if self.is_connected and self._answers.take():
            self._spawn(self.realtime.send("response.create"))

    # ------------------------------------------------------------ the rest

    def _bytes_per_ms(self, side: str) -> float:
        encoding, rate_hz = self.session[side]
        return float(rate_hz * (2 if encoding == "pcm16" else 1) / 1000)

    def _has_had_audio(self) -> bool:
        """Audio is counted in bytes: of two formats in one session it could not be told where in it anything is."""
        items = self.conversation.get_items()
        return self.is_connected and (self._heard.appended > 0 or any(item.formatted.audio_ms for item in items))

    def _new_answers(self) -> Answers:
        return Answers(Conversations(named=self.realtime.target.profile.names_conversations))

    def _new_input(self) -> InputAudio:
        return InputAudio(bytes_per_ms=self._bytes_per_ms("input_format"), keep_ms=self._keep_audio_s * 1000)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(self._finish(work), name="realtime client")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, work: Any) -> None:
        try:
            await work
        except RealtimeError as error:  # closed meanwhile
            self.dispatch("error", error)


def _item_of(payload: Any) -> Item | None:
    return payload["item"] if payload is not None else None
