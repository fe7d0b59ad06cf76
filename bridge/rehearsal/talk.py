"""A conversation with an agent without a telephone: typed in a terminal, or played from a WAV file.

The session is the agent's own (instructions, voice, tools, turn detection), opened at the agent's first service that
can be had. What the agent says is shown as it comes; its tools really run, and a wish to hang up or to transfer ends
the conversation when the answer is complete, as it would end a call.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console

from bridge.audio.resample import convert
from bridge.audio.wav import read_wav, write_wav
from bridge.call import events as ev
from bridge.call.plan import CallPlan, ToolSpec
from bridge.call.toolcalls import TIMED_OUT
from bridge.errors import RealtimeError, UsageError
from bridge.live.companion import Companion
from bridge.realtime import RealtimeClient
from bridge.realtime.conversation import Item
from bridge.realtime.profiles import Target
from bridge.realtime.session import from_plan
from bridge.rehearsal.keeping import can_write, kept
from bridge.settings import Directory, IncomingCall, Settings
from bridge.settings.mistakes import nearest
from bridge.settings.services import common_rates, runs_here, services_of
from bridge.telephony.twilio import CAPABILITIES
from bridge.tools.toolbox import CallInfo, Toolbox

GREETED_S: Final = 15.0  # a service that has not opened the session by then is not one
ANSWER_S: Final = 60.0  # the longest an answer may take before it is given up
UNANSWERED_S: Final = 15.0  # no answer to a file began so long after its end, though the caller was heard
UNHEARD_S: Final = 8.0  # nothing at all came of a file so long after its end: there is nothing to understand in it
TOLD_AFTER_S: Final = 1.0  # whoever waits longer is told for what
_PIECE_MS: Final = 100
_TOLD_EVERY_S: Final = 10  # how far a file has been played
_SETTLED_S: Final = 1.0  # nothing new for so long after the last answer to a file: there is no more
_QUIT: Final = frozenset({"/quit", "/exit", "/q"})


class Talk:
    """One session with an agent. `console` is shown what is said, done and refused."""

    def __init__(self, plan: CallPlan, target: Target, console: Console, *, spoken: bool, toolbox: Toolbox) -> None:
        # Here the service itself decides when the caller's turn is over, whatever the agent's policy in a call is.
        self._profile = msgspec.structs.replace(target.profile, model_answers=True, model_interrupts=True)
        self.client = RealtimeClient(
            profile=self._profile,
            url=target.url,
            api_key=target.api_key,
            model=target.model,
            allow_plain=target.allow_plain,
        )
        self.rate_hz = common_rates([self._profile])[0]
        self.ended = ""  # what the agent wished for: the conversation is over after its answer
        self.failed = False  # an answer, or the connection
        self.audio: list[bytes] = []
        self._plan = plan
        self._console = console
        self._spoken = spoken
        self._toolbox = toolbox
        self._shown: dict[str, int] = {}  # characters of an item already shown
        self._speaker = ""  # whose line is open
        self._unshown: BaseException | None = None  # why nothing can be shown any more
        self._active = 0
        self._owed = False  # an answer was asked for and has not begun
        self._caller_speaks = False
        self.answers = 0
        self.heard = False  # the service has heard the caller, or begun an answer
        self.quiet = asyncio.Event()  # the agent has said all it had to say
        self.quiet.set()

    # ------------------------------------------------------------ the session

    async def open(self) -> None:
        """Raises RealtimeError when the service cannot be had."""
        session = msgspec.structs.replace(self._plan.session, model_encoding="pcm16", model_rate_hz=self.rate_hz)
        fields = from_plan(session, self._profile)
        del fields["input_format"], fields["output_format"]
        audio = ("pcm16", self.rate_hz)
        self.client.session = {**fields, "input_format": audio, "output_format": audio, "tools": []}
        if not self._spoken:
            self.client.session["modalities"] = ["text"]
        for spec in self._plan.session.tools:
            await self.client.add_tool(
                {"name": spec.name, "description": spec.description, "parameters": spec.parameters}, self._tool(spec)
            )
        self._listen()
        await self.client.connect()
        async with asyncio.timeout(GREETED_S):
            await self.client.wait_for_session_created()

    async def close(self) -> None:
        await self.client.disconnect()

    def _listen(self) -> None:
        client, wire = self.client, self.client.realtime
        client.on("conversation.updated", lambda change: self._say(change["item"], change["delta"]))
        client.on("conversation.item.completed", lambda change: self._completed(change["item"]))
        client.on("error", self._complaint)
        wire.on("client.response.create", lambda event: self._asked())
        wire.on("server.response.created", lambda event: self._begun())
        wire.on("server.response.done", self._done)
        wire.on("server.input_audio_buffer.speech_started", lambda event: self._caller(speaks=True))
        wire.on("server.input_audio_buffer.speech_stopped", lambda event: self._caller(speaks=False))
        wire.on("close", lambda how: self._over())

    def _tool(self, spec: ToolSpec) -> Any:
        async def run(arguments: Any) -> Any:
            given = msgspec.json.encode(arguments).decode()
            try:
                async with asyncio.timeout(spec.timeout_s):
                    output, _ = await self._toolbox.run(spec, given, CallInfo(self._plan, self._wish))
            except TimeoutError:
                output = TIMED_OUT
            self.line("tool", f"{spec.name}({given}) -> {output}", style="cyan")
            try:
                return msgspec.json.decode(output)
            except msgspec.DecodeError:
                return output

        return run

    def _wish(self, fact: ev.Event) -> None:
        match fact:
            case ev.HangUpWished():
                self.ended = "The agent hangs up."
            case ev.TransferWished(target=target):
                self.ended = f"The agent transfers the caller to {target}."

    # ------------------------------------------------------------ whose turn it is

    def _asked(self) -> None:
        self._owed = True
        self.quiet.clear()

    def _begun(self) -> None:
        self._owed = False
        self.heard = True
        self._active += 1
        self.quiet.clear()

    def _done(self, event: Mapping[str, Any]) -> None:
        self._active = max(0, self._active - 1)
        response = event.get("response")
        response = response if isinstance(response, dict) else {}
        status = response.get("status", "completed")
        if status != "completed":
            self._owed = False
            details = response.get("status_details")
            error = details.get("error") if isinstance(details, dict) else None
            why = error.get("message") if isinstance(error, dict) else None
            if status != "cancelled":
                self._failure(f"the answer is {status}" + (f": {why}" if why else ""))
        self.answers += 1
        self._settle()

    def _settle(self) -> None:
        if not self._active and not self._owed:
            self._end_line()
            self.quiet.set()

    def _caller(self, *, speaks: bool) -> None:
        self._caller_speaks = speaks
        self.heard = True
        self._asked()  # what is said wants an answer

    def _complaint(self, error: RealtimeError) -> None:
        if error.code == "conversation_already_has_active_response":
            return  # asked again by the client when that one ends
        if self._owed:
            self._failure(str(error))
        else:
            self.line("error", str(error), style="red")
        self._owed = False
        self._settle()

    def _over(self) -> None:
        self._active, self._owed = 0, False
        if not self.ended:
            self.ended, self.failed = "The service closed the session.", True
        self._settle()

    @property
    def listening(self) -> bool:
        """Nobody speaks, and nobody waits for an answer."""
        return self.quiet.is_set() and not self._caller_speaks

    # ------------------------------------------------------------ what a person sees

    def _say(self, item: Item, delta: Any) -> None:
        if delta is not None and delta.audio and item.role == "assistant":
            self.audio.append(delta.audio)
        text = item.formatted.transcript or (item.formatted.text if item.role == "assistant" else "")
        shown = self._shown.get(item.id, 0)
        if item.type != "message" or len(text) <= shown:
            return
        self._shown[item.id] = len(text)
        who = "agent" if item.role == "assistant" else "caller"
        if self._speaker != who:
            self._end_line()
            self._speaker = who
            self._print(f"[bold]{who}:[/] ", end="", markup=True)
        self._print(text[shown:], end="")

    def _completed(self, item: Item) -> None:
        tool = item.formatted.tool
        if tool is None:
            self._say(item, None)
        elif any(spec.name == tool.name for spec in self._plan.session.tools):
            self._asked()  # its output will be answered
        else:
            self.line("tool", f"{tool.name}: the agent has no such tool", style="red")

    def line(self, who: str, text: str, *, style: str = "") -> None:
        self._end_line()
        self._print(f"{who}: {text}", style=style)

    def _failure(self, text: str) -> None:
        self.failed = True
        self.line("error", text, style="red")

    def _end_line(self) -> None:
        if self._speaker:
            self._speaker = ""
            self._print()

    def _print(self, text: str = "", *, end: str = "\n", style: str = "", markup: bool = False) -> None:
        """What comes from the service is shown by the task that reads it. Where that fails, whoever waits is told:
        SystemExit, rich's word for a pipe that nobody reads, would end that task alone.
        """
        try:
            self._console.print(text, end=end, style=style, markup=markup, highlight=False, soft_wrap=True)
        except (OSError, SystemExit) as unshown:
            self._unshown = self._unshown or unshown
            self.quiet.set()

    # ------------------------------------------------------------ speaking with it

    async def greet(self) -> None:
        """Ask for the agent's greeting, if it has one."""
        if self._plan.agent.greeting:
            fields = self._profile.dialect().response_fields(instructions=self._plan.agent.greeting)
            fields.pop("output_modalities", None)
            fields.pop("modalities", None)
            await self.client.realtime.send("response.create", {"response": fields})
            await self.answered()

    async def type(self, text: str) -> None:
        """One message of the caller's, and the whole answer to it."""
        try:
            await self.client.send_user_message_content([{"type": "input_text", "text": text}])
        except RealtimeError:  # closed since the last answer
            self._over()
        await self.answered()

    async def answered(self) -> None:
        """The whole answer is there, or given up. Raises what kept it from being shown."""
        try:
            async with asyncio.timeout(ANSWER_S):
                with _told_after_a_moment(lambda: self._progress("Waiting for the answer ...")):
                    await self.quiet.wait()
        except TimeoutError:
            self._failure(f"no answer within {ANSWER_S:.0f} s")
            self._active, self._owed = 0, False
            self._settle()
        self._can_be_shown()

    def _can_be_shown(self) -> None:
        if self._unshown is not None:
            raise self._unshown

    async def play(self, pcm16: bytes) -> bool:
        """Speak as a caller would, at the pace of speech, and then be silent until all is answered.

        False where no answer came. Until the answer is there the line carries silence, as a telephone's does: services
        count audio, not time.
        """
        self._progress(f"Playing {self._seconds(len(pcm16)):.1f} s ...")
        loop = asyncio.get_running_loop()
        piece_bytes = self.rate_hz * 2 * _PIECE_MS // 1000
        due = loop.time()
        at, silent_since, settled_since = 0, 0.0, 0.0
        while self.client.is_connected:
            piece = pcm16[at : at + piece_bytes]
            at += piece_bytes
            await self.client.append_input_audio(piece.ljust(piece_bytes, b"\0"))
            self._can_be_shown()
            due += _PIECE_MS / 1000
            await asyncio.sleep(max(0.0, due - loop.time()))
            if at < len(pcm16):
                if at % (_TOLD_EVERY_S * self.rate_hz * 2) == 0:
                    self._progress(f"{self._seconds(at):.0f} of {self._seconds(len(pcm16)):.0f} s played ...")
                continue
            if not silent_since:
                silent_since = loop.time()
                self._progress("Played; waiting for the answer ...")
            if not (self.answers and self.listening):
                settled_since = 0.0
                if loop.time() - silent_since > self._patience_s():
                    return False
                continue
            settled_since = settled_since or loop.time()
            if loop.time() - max(settled_since, silent_since) >= _SETTLED_S:
                return True
        return bool(self.answers)

    def _patience_s(self) -> float:
        """How long after the end of a file there may be no end of the answers."""
        if self._active or self.answers:
            return ANSWER_S
        return UNANSWERED_S if self.heard else UNHEARD_S

    def _seconds(self, size: int) -> float:
        return size / 2 / self.rate_hz

    def _progress(self, what: str) -> None:
        if not self._speaker:  # a line that is being spoken is progress enough
            self._print(what, style="dim")


# ---------------------------------------------------------------- the two ways of talking


async def talk(
    settings: Settings, agent: str, console: Console, *, lines: AsyncIterator[str] | None = None, toolbox: Toolbox
) -> int:
    """Type with an agent until the input ends. The exit code: 1 where an answer failed or the connection was lost."""
    async with _session(settings, agent, console, spoken=False, toolbox=toolbox) as conversation:
        await conversation.greet()
        given = lines or typed()
        while not conversation.ended:
            console.print("[bold]you:[/] ", end="")
            line = (await anext(given, "/quit")).strip()
            if not sys.stdin.isatty():
                console.print(line, markup=False, highlight=False)
            if line in _QUIT:
                break
            if line:
                await conversation.type(line)
        if conversation.ended:
            console.print(conversation.ended, style="dim")
        return int(conversation.failed)


async def play(settings: Settings, agent: str, console: Console, *, heard: Path, said: Path, toolbox: Toolbox) -> int:
    """Play one WAV file to an agent and write its answer to another. The exit code: 1 where there was no answer, one
    failed, or the connection was lost.
    """
    try:
        samples, rate_hz = await asyncio.to_thread(read_wav, heard)
    except OSError as error:
        raise UsageError(f"{heard} cannot be read: {error.strerror}") from None
    if not len(samples):
        raise UsageError(f"{heard} holds no sound at all. Give a recording of somebody who speaks")
    can_write(said, "--wav", besides=heard)
    async with _session(settings, agent, console, spoken=True, toolbox=toolbox) as conversation:
        if samples.ndim > 1:
            samples = samples.mean(axis=1).astype(np.int16)
        if rate_hz != conversation.rate_hz:
            samples = convert(samples, rate_hz, conversation.rate_hz)
        answered = await conversation.play(samples.astype("<i2").tobytes())
        ended, failed = conversation.ended, conversation.failed  # not by us
    sound = b"".join(conversation.audio)
    if not answered or not sound:
        why = "The agent did not answer."
        if not conversation.heard:
            why = (
                f"Nothing was understood of {heard}: {UNHEARD_S:.0f} s after its end the agent is still silent."
                " Give a recording of somebody who speaks."
            )
        console.print(ended or why, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    with kept(said):
        write_wav(said, conversation.rate_hz, sound, channels=1)
    seconds = len(sound) / 2 / conversation.rate_hz
    console.print(f"Written: {said}, {seconds:.1f} s of the agent.", highlight=False, soft_wrap=True)
    if failed and ended:
        console.print(ended, style="red", soft_wrap=True)
    return int(failed)


@asynccontextmanager
async def _session(
    settings: Settings, agent: str, console: Console, *, spoken: bool, toolbox: Toolbox
) -> AsyncIterator[Talk]:
    """An open session with the agent, at the first of its services that can be had."""
    agent = agent or settings.default_agent
    if agent not in settings.agents:
        near = nearest(agent, settings.agents) or f"; there are {', '.join(settings.agents)}"
        raise UsageError(f"there is no agent {agent!r}{near}")
    directory = _Extension(settings, agent)
    companion: Companion | None = None
    opened: Talk | None = None
    try:
        if any(runs_here(settings, service) for service in services_of(settings.agents[agent])):
            companion = Companion(["--config", str(settings.config)])
            with _waiting(console, "Starting the model on this machine ..."):
                directory.local_model_at(await companion.start(port=settings.local_model.port))
        plan, targets = directory.plan(IncomingCall(CAPABILITIES, "talk", "", "", ""))
        for number, target in enumerate(targets):
            opened = Talk(plan, target, console, spoken=spoken, toolbox=toolbox)
            try:
                with _waiting(console, "Waiting for the service ..."):
                    await opened.open()
                break
            except (RealtimeError, TimeoutError) as error:
                await opened.close()
                if number == len(targets) - 1:
                    raise _plainly(error, target) from None
                told = f"{target.where}: {error}; trying the next service"
                console.print(told, style="yellow", markup=False, soft_wrap=True)
        assert opened is not None, "an agent has a service"
        where = f"{target.profile.title or target.profile.name}, {target.model or 'its own model'}"
        ends_by = "Ctrl-C" if spoken else "/quit or Ctrl-D"
        console.print(f"Talking with {agent} ({where}). {ends_by} ends it.", style="dim", soft_wrap=True)
        yield opened
    finally:
        if opened is not None:
            await opened.close()
        if companion is not None:
            await companion.stop()


class _Extension(Directory):
    """Everybody who calls reaches the same agent."""

    def __init__(self, settings: Settings, agent: str) -> None:
        super().__init__(settings)
        self._agent = agent

    def route(self, called: str) -> str:
        return self._agent


def _plainly(error: Exception, target: Target) -> RealtimeError:
    if isinstance(error, RealtimeError):
        return error
    return RealtimeError(f"{target.where} did not greet us within {GREETED_S:.0f} s", code="connection_timeout")


def _waiting(console: Console, what: str) -> AbstractContextManager[Any]:
    if console.is_terminal:
        return console.status(what)
    return _told_after_a_moment(lambda: console.print(what, highlight=False))


@contextmanager
def _told_after_a_moment(tell: Callable[[], None]) -> Iterator[None]:
    timer = asyncio.get_running_loop().call_later(TOLD_AFTER_S, tell)
    try:
        yield
    finally:
        timer.cancel()


async def typed() -> AsyncIterator[str]:
    """Lines of standard input, read beside the loop. A thread left waiting keeps nobody from leaving."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        while True:
            data = os.read(descriptor, 4096)  # not sys.stdin: its lock, held here, would keep the interpreter alive
            rest += decoder.decode(data)
            *whole, rest = rest.split("\n")
            told: list[str | None] = list(whole)
            if not data:
                told += [rest, None] if rest else [None]
            try:
                for line in told:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                return  # the loop is gone
            if not data:
                return

    threading.Thread(target=read, name="standard input", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line
