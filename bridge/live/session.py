"""One session with the model service: opened, configured, spoken to, and lost.

Connect (a second attempt races the first when that is slow), wait for the service's greeting, configure, seed what was
said before, and read back the formats it really uses. What to do about a lost session is decided by the core.

Law: of a session that was lost or closed the call never hears again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from bridge.audio.formats import AudioFormat
from bridge.audio.path import CallerToModel, ModelToCaller
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import RealtimeError, UsageError
from bridge.live.allowance import BURST, Allowance
from bridge.live.circuit import Circuits
from bridge.live.dialling import Dial, Line, ModelSocket, race
from bridge.live.driver import Driver
from bridge.live.together import Together
from bridge.realtime import dialect as words
from bridge.realtime.decoder import Fact
from bridge.realtime.profiles import Target
from bridge.realtime.wire import clean

log = structlog.get_logger()

_PING_S: Final = 5.0
_PROBE_S: Final = 2.0
_BUSY_S: Final = 1.0  # before a service is asked again that has too much to do and does not say for how long
_GREETING_S: Final = 3.0  # an open socket whose service says nothing for this long is tried anew
_CONFIRM_S: Final = 2.0  # a service that does not confirm its configuration is taken at its word after this
_STALLED_BYTES: Final = 1 << 20
_PAGE_BITS: Final = 12  # a message counts once, and once more for every 4 KiB of it
_MOST_PER_S: Final = 1000  # of these; two minutes of speech in deltas of 20 ms, with their words, are 12,000
_MOST_AT_ONCE: Final = 12_000
# What one service of an agent has and another may not, by how complaints name it: a call goes on without.
_OF_TASTE: Final = {
    "voice": "voice",
    "language": "language",
    "transcription": "transcription_model",
    "input_audio_transcription": "transcription_model",
}
_NOT_WELCOME: Final = frozenset({3000, 3003})  # close codes Unauthorized and Forbidden (IANA's registry for RFC 6455)


class Leg(Protocol):
    """What a session needs of its call's leg."""

    driver: Driver
    caller: AudioFormat
    dial: Dial
    circuits: Circuits
    together: Together

    def in_use(self, session: Session) -> bool: ...


class Session:
    """One session: from dialling to its end."""

    def __init__(self, leg: Leg, action: do.OpenModel, target: Target) -> None:
        self._leg = leg
        self._driver = leg.driver
        self._number = action.session
        self._history = action.history
        self._in_words = action.in_words
        self._target = target
        self._dialect = target.dialect()
        self._binary_audio = target.profile.binary_audio
        self._decoder = self._dialect.decoder(secret=target.api_key)
        self._loop = asyncio.get_running_loop()
        self._socket: ModelSocket | None = None
        self._opening: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None  # for the greeting, then the confirmation, then the keepalive
        self._ready = False
        self._closed = False
        self._configured = False
        self._refused: ev.ModelComplained | None = None  # what was said against our configuration, it seems
        self._formats: tuple[AudioFormat, AudioFormat] | None = None  # what the service hears and speaks
        self._expires_at: float | None = None  # Unix time
        self._plan = leg.driver.plan.session  # as it is asked for
        self._instructions = self._plan.instructions.strip()
        self._sent = False  # since the last keepalive
        self._together = leg.together
        self._waits = False  # audio of this session, with that of others
        self._heard_at = self._loop.time()
        self._brought = 0
        self._allowance = Allowance(self._heard_at, per_s=_MOST_PER_S, at_first=_MOST_AT_ONCE, at_once=_MOST_AT_ONCE)
        self.up: CallerToModel | None = None
        self.down: ModelToCaller | None = None
        self.unknown = 0  # frames that meant nothing to us

    @property
    def closed(self) -> bool:
        return self._closed

    # ------------------------------------------------------------ opening

    def start(self) -> None:
        self._opening = self._driver.spawn(self._open, f"session {self._number}")

    async def _open(self) -> None:
        broken = self._leg.circuits.broken(self._target)
        if broken is not None:
            known = RealtimeError(broken.why, code=broken.code)
            self._give_up(known, "fatal" if broken.left_s is None else None, broken.left_s)
            return
        try:
            self._socket, line = await race(self._dial, f"session {self._number} of {self._driver.plan.call_id}")
        except RealtimeError as error:
            self._lost(error)
            return
        self._set_alarm(_GREETING_S, self._not_greeted)
        self._socket.keep_alive(every_s=_PING_S, within_s=_PING_S)
        line.join(self)

    async def _dial(self, line: Line) -> ModelSocket:
        url, headers, subprotocols = self._target.request()
        return await self._leg.dial(url, headers, subprotocols, on_message=line.message, on_closed=line.closed)

    def receive(self, payload: bytes, is_text: bool) -> None:
        """One frame of the service."""
        if self._closed:
            return
        self._heard_at = self._loop.time()
        self._brought += 1 + (len(payload) >> _PAGE_BITS)
        if self._brought >= BURST:
            brought, self._brought = self._brought, 0
            if self._allowance.overdrawn(self._heard_at, brought):
                self._lost(RealtimeError("the service sends too much", code="connection_lost"))
                return
        try:
            for fact in self._decoder.decode(payload) if is_text else self._decoder.decode_binary(payload):
                self._take(fact)
                if self.closed:
                    return
        except Exception:
            self._driver.broke("a frame of the model")

    def _take(self, fact: Fact) -> None:
        if isinstance(fact, words.AudioDelta):
            self._spoke(fact)
        elif isinstance(fact, ev.Event):
            self._tell(fact)
        elif isinstance(fact, words.SessionCreated):
            self._configure(fact)
        elif isinstance(fact, words.SessionUpdated):
            self._confirmed(fact)
        else:
            self.unknown += 1

    def _tell(self, fact: ev.Event) -> None:
        """Of a session that is not in use yet the call hears only whether it is ready, or lost."""
        if isinstance(fact, ev.ModelComplained) and self._configured and not self._ready:
            if self._goes_without():
                return
            if fact.cure == "note" and self._is_about_us():
                self._refused = fact
        if isinstance(fact, (ev.ModelComplained, ev.ResponseEnded)) and fact.cure == "fatal":
            code = fact.code if isinstance(fact, ev.ModelComplained) else fact.reason
            self._leg.circuits.refused(self._target, code, fact.message)
        if self._leg.in_use(self):
            self._driver.deliver(fact)
        elif isinstance(fact, ev.ModelComplained) and fact.cure in ("rotate", "fatal"):
            self._lost(RealtimeError(fact.message, code=fact.code))

    def _is_about_us(self) -> bool:
        """Of a session that is not ready: about its configuration, or about what it was told of a session before it?"""
        complaint = self._decoder.complaint
        event_id, about = (complaint.event_id, complaint.param) if complaint is not None else ("", "")
        return event_id == words.UPDATE_ID or about.startswith("session") or not (about or self._history)

    def _goes_without(self) -> bool:
        """A voice the service does not have makes it refuse all of our configuration: then it speaks in its own."""
        complaint = self._decoder.complaint
        path = "" if complaint is None else complaint.param.replace("[", ".")
        parts = path.split(".")
        name = next((_OF_TASTE[part] for part in reversed(parts) if part in _OF_TASTE and "tools" not in parts), "")
        if not name or not getattr(self._driver.plan.session, name):
            return False
        if getattr(self._plan, name):
            log.warning("model_session_without", call_id=self._driver.plan.call_id, field=name)
            self._plan = msgspec.structs.replace(self._plan, **{name: ""})
            self._send(self._dialect.session_update(self._plan))
            self._set_alarm(_CONFIRM_S, self._not_confirmed)
        return True

    def seed(self, items: Sequence[do.HistoryItem]) -> None:
        """Tell the session what was said."""
        for frame in self._dialect.history(tuple(items)):
            self._send(frame)

    def _not_greeted(self) -> None:
        self._together.read()  # where this process stood still, the greeting may lie unread
        if not self._configured:
            self._lost(RealtimeError("the connection opened, but no session did", code="connection_timeout"))

    def _configure(self, fact: words.SessionCreated) -> None:
        """The service greeted us: say what we want, and what was said before."""
        if self._configured or self._socket is None:
            return
        self._configured = True
        self._expires_at = fact.expires_at
        if self._in_words and self._history:
            lasting = f"{self._instructions}\n\n{self._dialect.in_words(self._history)}".strip()
            self._instructions, self._history = lasting, ()
            self._plan = msgspec.structs.replace(self._plan, instructions=lasting)
        self._send(self._dialect.session_update(self._plan))
        self.seed(self._history)
        if self._target.profile.confirms_update:
            self._set_alarm(_CONFIRM_S, self._not_confirmed)
        else:
            self._confirmed(words.SessionUpdated())

    def _not_confirmed(self) -> None:
        """A service that complained instead has kept its own configuration: no instructions, tools, formats of ours."""
        self._together.read()
        if self._ready or self._closed:
            return
        if self._refused is None:
            self._confirmed(words.SessionUpdated())
            return
        why = f"the session's configuration was refused: {self._refused.message}"
        self._lost(RealtimeError(why, code=self._refused.code), "fatal")

    def _confirmed(self, fact: words.SessionUpdated) -> None:
        """The session is as the service says: at first, after a late confirmation, and whenever it says so again."""
        if not self._configured:
            return
        plan, caller = self._driver.plan, self._leg.caller
        wanted = plan.session
        try:
            heard = AudioFormat(
                fact.input_encoding or wanted.model_encoding,
                fact.input_rate_hz or _rate(fact.input_encoding, wanted.model_rate_hz),
            )
            spoken = AudioFormat(
                fact.output_encoding or wanted.model_encoding,
                fact.output_rate_hz or _rate(fact.output_encoding, wanted.model_rate_hz),
            )
        except UsageError as error:
            self._lost(RealtimeError(str(error), code="refused"))
            return
        if self._formats != (heard, spoken):
            self._formats = (heard, spoken)
            self.up = CallerToModel(caller, heard)
            self.down = ModelToCaller(spoken, caller, gain_db=plan.agent.gain_db)
        if self._ready:
            return
        self._ready = True
        self._keep_alive()
        life_s, expires_at = None, fact.expires_at or self._expires_at
        if expires_at is not None:
            # A date, so the only place where the wall clock counts; to the minute, because it never matters more.
            left_s = round((expires_at - time.time()) / 60) * 60.0
            life_s = left_s if 0 < left_s < 86_400 else None
        self._driver.deliver(ev.ModelReady(self._number, life_s))

    def _keep_alive(self) -> None:
        """Some services close a session that hears nothing from us."""
        every_s = self._target.profile.keepalive_s
        if every_s:
            if not self._sent:
                self._send(self._dialect.keepalive())
            self._sent = False
            self._set_alarm(every_s, self._keep_alive)
        else:
            self._stop_alarm()

    def _set_alarm(self, after_s: float, ring: Callable[[], None]) -> None:
        self._stop_alarm()
        self._alarm = self._loop.call_later(after_s, ring)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # ------------------------------------------------------------ open

    def _spoke(self, delta: words.AudioDelta) -> None:
        if self.down is None or not self._leg.in_use(self):
            return  # audio before the session was agreed on, or took over, is not for this caller
        audio = self.down.push(delta.audio)
        self._driver.deliver(
            ev.ModelSpoke(
                delta.response_id, delta.item_id, delta.content_index, audio, len(audio) / self._leg.caller.bytes_per_ms
            )
        )

    def send_audio(self, audio: bytes) -> None:
        up = self.up
        if up is None:
            return
        if self._together.begun:
            self._waits = True
            self._together.frames.append((self, up, audio))
        else:
            self.hear(up.push(audio))

    def hear(self, sound: bytes) -> None:
        """Caller audio in the service's format."""
        socket = self._socket
        if socket is None or self._closed:
            return
        self._waits = False
        try:
            if self._binary_audio:
                socket.send_binary(sound)
            else:
                socket.send(self._dialect.append(sound))
            self._sent = True
            if socket.waiting_bytes > _STALLED_BYTES:
                self._lost(RealtimeError("the service stopped reading", code="connection_lost"))
        except Exception:
            self.broke("caller audio")

    def broke(self, where: str) -> None:
        """To be called while an exception of ours is handled."""
        self._driver.broke(where)

    def probe(self) -> None:
        if self._socket is not None:
            self._socket.probe(within_s=_PROBE_S)

    def request(self, action: do.Action) -> None:
        if isinstance(action, do.RequestResponse) and action.instructions:
            # Instructions of a response replace the session's (OpenAI, response.create): the agent would forget itself.
            action = do.RequestResponse(f"{self._instructions}\n\n{action.instructions}".strip())
        for frame in self._dialect.encode(action):
            self._send(frame)

    def _send(self, frame: bytes) -> None:
        if self._waits:
            self._together.settle()  # what the caller said before comes before
        if self._socket is not None:
            self._sent = True
            self._socket.send(frame)

    # ------------------------------------------------------------ ending

    def socket_closed(self, code: int, reason: str) -> None:
        """Why a connection closed is said in an error before it, in its reason, or not at all."""
        complaint = self._decoder.complaint
        if complaint is not None and not self._ready:
            self._lost(RealtimeError(complaint.message, code=complaint.code), complaint.cure)
            return
        cure = "fatal" if code in _NOT_WELCOME else self._dialect.cure(reason, reason)
        reason = clean(reason, 123)
        if self._target.api_key:
            reason = reason.replace(self._target.api_key, "***")
        self._lost(RealtimeError(f"closed with {code} {reason}".rstrip(), code="connection_lost"), cure)

    def _lost(self, error: RealtimeError, cure: words.Cure | None = None) -> None:
        """By what the service did or said, which other calls of this process hear of too."""
        if self._closed:
            return
        cure = cure or self._dialect.cure(error.code, error.message)
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is None and error.code == "rate_limit_exceeded":
            retry_after_s = _BUSY_S
        if cure == "fatal":
            self._leg.circuits.refused(self._target, error.code, error.message)
        elif retry_after_s is not None:
            self._leg.circuits.busy(self._target, error.code, error.message, retry_after_s)
        self._give_up(error, cure, retry_after_s)

    def _give_up(self, error: RealtimeError, cure: words.Cure | None, retry_after_s: float | None) -> None:
        if self._closed:
            return
        self.close()
        cure = cure or self._dialect.cure(error.code, error.message)
        log.warning("model_session_lost", call_id=self._driver.plan.call_id, code=error.code, why=error.message)
        self._driver.deliver(
            ev.ModelLost(
                self._number,
                error.code,
                "fatal" if cure == "fatal" else "rotate" if cure == "rotate" else "retry",
                retry_after_s,
                (self._loop.time() - self._heard_at) * 1000 if self._ready else 0.0,
            )
        )

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._stop_alarm()
        if self._opening is not None and self._opening is not asyncio.current_task():
            self._opening.cancel()
        if self._socket is not None:
            self._socket.close()


def _rate(encoding: str | None, wanted_hz: int) -> int:
    return 8000 if encoding in ("mulaw", "alaw") else wanted_hz
