"""One connection to a realtime server under examination: what came, with its moment, and ways to wait for more.

Also how every examination begins: the greeting, the shape it gives away, and the configuration it confirms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bridge.errors import RealtimeError
from bridge.realtime.connection import RealtimeConnection
from bridge.realtime.dialect import GA_NAMES, Dialect, code_of_status
from bridge.realtime.envelope import read_error
from bridge.realtime.session import read_format
from bridge.realtime.wire import table
from bridge.rehearsal.findings import Finding, Report, State, Weight

GREETING_S: Final = 15.0  # some servers load their model first
STEP_S: Final = 5.0
ANSWER_S: Final = 20.0
RATE_HZ: Final = 24_000

_KEY: Final = (
    "It does not take the key, or was given none: set BRIDGE_REALTIME__API_KEY, or name another variable with "
    "--key-from."
)
_MODEL: Final = "It knows no such path, or no such model: check the address and --model."
_REMEDIES: Final[dict[str, str]] = {  # by the code of the refusal
    "invalid_api_key": _KEY,
    "incorrect_api_key": _KEY,
    "insufficient_quota": "The account has no credit left: add some, or use the key of another.",
    "forbidden": "It refuses this key or this place: see what the account's project and region allow.",
    "not_found": _MODEL,
    "model_not_found": _MODEL,
    "rate_limit_exceeded": "It takes no more sessions at present: try again later, or raise the account's limit.",
    "redirect_refused": "It sends us elsewhere, where the key does not follow: give the address it sends to.",
    "http_5xx": "It answers, and is out of order: try again later, or ask those who run it.",
    "refused": "It answers, and refuses: check the address, --profile and --model.",
    "tls_failed": "It cannot be spoken to in confidence: mend its certificate, or check scheme and port.",
    "connection_failed": "No realtime server answers there: start it, or check the address.",
    "connection_timeout": "Nobody answers there: start the server, or check the address and the firewall.",
}

Event = dict[str, Any]
Wanted = Callable[[Event], bool]


class Session:
    """One connection under examination: what came, with its moment, and ways to wait for more."""

    def __init__(self, connection: RealtimeConnection, dialect: Dialect, report: Report) -> None:
        self.connection = connection
        self.dialect = dialect
        self.report = report
        self.events: list[tuple[float, Event]] = []
        self.over: RealtimeError | None = None  # why there is no session any more
        self._came = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="probe")

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await self.connection.receive()
                event = message.event
                if event is None and message.text is None and message.audio:
                    event = {"type": "response.output_audio.delta", "sound": len(message.audio)}
                    self.report.events["(binary audio)"] += 1
                elif event is None or not isinstance(event.get("type"), str):
                    self.report.unknown_frames += 1
                    continue
                else:
                    self.report.events[event["type"]] += 1
                    event = {**event, "sound": len(message.audio or b"")}
                self.events.append((loop.time(), {**event, "type": GA_NAMES.get(event["type"], event["type"])}))
                self._came.set()
        except RealtimeError as error:
            self.over = error
            self._came.set()

    async def end(self) -> None:
        await self.connection.close()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    # ------------------------------------------------------------ tools of the steps

    def found(self, name: str, state: State, detail: str = "", *, weight: Weight = "should", missing: str = "") -> None:
        self.report.findings.append(Finding(name, state, detail, weight, missing))

    async def send(self, event: Event) -> int:
        """Send; the number of the first event that can be an answer."""
        since = len(self.events)
        await self.connection.send(event)
        return since

    async def wait(self, wanted: Wanted, since: int, within_s: float | None = None) -> tuple[float, Event] | None:
        """The first such event from number `since` on; None when there is none in time."""
        try:
            async with asyncio.timeout(STEP_S if within_s is None else within_s):
                while True:
                    found = next((entry for entry in self.events[since:] if wanted(entry[1])), None)
                    if found is not None or self.over is not None:
                        return found
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            return None

    async def configure(self, **fields: Any) -> tuple[float, Event] | None:
        """A session.update in the server's shape, and its answer."""
        since = await self.send({"type": "session.update", "session": self.dialect.render(fields)})
        return await self.wait(of("session.updated", "error"), since)

    async def say(self, text: str, **response: Any) -> int:
        """A caller's message by text, and the wish for an answer."""
        part = {"type": "input_text", "text": text}
        message = {"type": "message", "role": "user", "content": [part]}
        since = await self.send({"type": "conversation.item.create", "item": message})
        fields = self.dialect.response_fields(instructions="") | response
        await self.send({"type": "response.create", "response": fields} if fields else {"type": "response.create"})
        return since

    async def answered(self, since: int) -> Event | None:
        """The response.done of an answer, or the error that came instead. An error may be about something else."""
        done = await self.wait(of("response.done", "error"), since, ANSWER_S)
        if done is not None and done[1]["type"] == "error":
            begun = await self.wait(of("response.created"), since, STEP_S)
            done = (await self.wait(of("response.done"), since, ANSWER_S) if begun else None) or done
        return None if done is None else done[1]

    def sound_ms(self, since: int = 0, item_id: str = "") -> float:
        """How much 24 kHz sound came."""
        sound = (e["sound"] for _, e in self.events[since:] if not item_id or e.get("item_id") == item_id)
        return float(sum(sound)) / (RATE_HZ * 2 / 1000)

    def spoken_item(self) -> str:
        """The agent's last item with sound."""
        items = [e.get("item_id") for _, e in self.events if e["sound"] and isinstance(e.get("item_id"), str)]
        return str(items[-1]) if items else ""

    # ------------------------------------------------------------ the beginning and the end

    async def begin(self) -> bool:
        """Greeting, shape, configuration. False: nothing more can be tried."""
        began = asyncio.get_running_loop().time()
        greeting = await self.wait(of("session.created", "error"), 0, GREETING_S)
        if greeting is None or greeting[1]["type"] == "error":
            why = self._why(greeting) or f"nothing came within {GREETING_S:.0f} s"
            meaning = "The server opens no session: a call waits for it in vain, then apologises and ends."
            code = read_error(greeting[1])[0] if greeting is not None else self.over.code if self.over else ""
            if code in _REMEDIES:
                meaning = f"{_REMEDIES[code]} {meaning}"
            self.found("session.created", "no", why, weight="must", missing=meaning)
            return False
        at, event = greeting
        session = table(event.get("session"))
        self.found("session.created", "yes", f"after {(at - began) * 1000:.0f} ms", weight="must")
        if session.get("type") == "transcription" or session.get("object") == "realtime.transcription_session":
            meaning = "It only writes down what it hears, and never answers."
            self.found("conversation", "no", "a transcription session", weight="must", missing=meaning)
            return False
        self._learn_shape(session)
        return await self._configured()

    def _learn_shape(self, session: Event) -> None:
        shape = self.dialect.profile.shape
        if "input_audio_format" in session or "modalities" in session:
            shape = "beta"
        elif shape == "beta" and ("audio" in session or session.get("type") == "realtime"):
            shape = "ga"
        self.report.shape = shape
        told = f"{shape}, profile {self.dialect.profile.name} says {self.dialect.profile.shape}"
        if shape == self.dialect.profile.shape:
            self.found("dialect", "yes", shape)
            return
        self.found(
            "dialect", "no", told, missing="Choose another profile, or set `shape:` in yours; the probe used it."
        )
        self.dialect = msgspec.structs.replace(self.dialect.profile, shape=shape).dialect()

    async def _configured(self) -> bool:
        answer = await self.configure(
            modalities=["audio"],
            instructions="You answer on the telephone, in one short sentence.",
            input_format=("pcm16", RATE_HZ),
            output_format=("pcm16", RATE_HZ),
            turn_detection=None,
            tools=[],
        )
        if answer is None:
            meaning = "A call goes on after two seconds of waiting, and has to trust that formats are as asked for."
            self.found("session.updated", "unclear", "no answer to session.update", missing=meaning)
            return True
        if answer[1]["type"] == "error":
            meaning = "It refuses our configuration: no instructions, no voice, no audio format hold."
            self.found("session.updated", "no", self._why(answer), weight="must", missing=meaning)
            return False
        session = table(answer[1].get("session"))
        audio = table(session.get("audio"))
        heard = read_format(table(audio.get("input")).get("format") or session.get("input_audio_format"))
        spoken = read_format(table(audio.get("output")).get("format") or session.get("output_audio_format"))
        self.found("session.updated", "yes", weight="must")
        if heard[0] is None or spoken[0] is None:
            meaning = "Formats are taken to be as asked for; check that voices do not sound too fast or too slow."
            self.found("formats read back", "unclear", "the session does not say", missing=meaning)
        else:
            fits = all(side[1] in (None, 8000, 16_000, 24_000) for side in (heard, spoken))
            told = ", ".join(
                f"{side} {one[0]} {one[1] or ''}".strip() for side, one in (("in", heard), ("out", spoken))
            )
            meaning = "We have no way between this rate and the telephone's."
            self.found("formats read back", "yes" if fits else "no", told, weight="must", missing=meaning)
        return True

    def survived(self) -> None:
        if self.over is not None:
            meaning = "It gives up on its client where it should only complain: calls will be cut and reconnected."
            self.found("session survives", "no", str(self.over), weight="must", missing=meaning)
        else:
            self.found("session survives", "yes", weight="must")

    def _why(self, answer: tuple[float, Event] | None) -> str:
        return why_of(answer[1]) if answer is not None else str(self.over or "")


def remedy(code: str, status: int) -> str:
    """What to do where the connection was refused: by the code, or HTTP's status where the service has its own."""
    return _REMEDIES.get(code) or _REMEDIES[code_of_status(status)]


def of(*types: str) -> Wanted:
    return lambda event: event["type"] in types


def sounds(event: Event) -> bool:
    return bool(event["sound"])


def why_of(event: Event) -> str:
    code, message, _, _ = read_error(event)
    return f"{code}: {message}"
