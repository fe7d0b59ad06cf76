"""A session on a stage: a voice that needs no library, a clock that is a number, and words for what came out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.recognitions import Recognise
from bridge.localmodel.script import Scripts
from bridge.localmodel.session import CloseSession, ListenAnew, Outgoing, Session
from bridge.localmodel.speech import SPEECH_RATE_HZ, Mouth, Utterance, Word

WORD_MS = 250

SHOP: dict[str, Any] = {
    "name": "shop",
    "greeting": "Hello, this is the shop.",
    "fallback": ["Pardon?", "Sorry, what was that?"],
    "prompts": {"goodbye": "Goodbye then."},
    "intents": [
        {
            "name": "hours",
            "phrases": ["when are you open"],
            "answer": ["From nine to five.", "Nine to five."],
            "digits": "1",
        },
        {
            "name": "order",
            "phrases": ["where is my order"],
            "before": "One moment.",
            "tool": {"name": "find_order", "arguments": {"number": "A17"}},
            "answer": "Your order is {output[status]}.",
        },
        {"name": "bye", "phrases": ["goodbye"], "answer": "Goodbye.", "then": "hang_up"},
    ],
}
TOOLS = [{"type": "function", "name": name, "description": "", "parameters": {}} for name in ("find_order", "hang_up")]


class FlatVoice:
    """Every word is a quarter of a second of a constant."""

    def say(self, text: str, *, voice: str = "", speed: float = 1.0) -> Utterance:
        pieces = [f"{piece} " for piece in text.split()]
        pieces[-1] = pieces[-1].strip()
        words = tuple(Word(piece, index * WORD_MS) for index, piece in enumerate(pieces))
        samples = int(len(words) * WORD_MS * SPEECH_RATE_HZ / 1000)
        return Utterance(text, b"\x10\x00" * samples, words)


class Stage:
    def __init__(self, *, script: Mapping[str, Any] | None = None, opened: bool = True, **given: Any) -> None:
        self.now = 0.0
        self.script = Scripts.from_dict(script or {}).of(1)
        self.session = Session(
            brain=Brain.from_dict(SHOP, source="shop"),
            mouth=Mouth(FlatVoice()),
            model=given.pop("model", "shop"),
            now=self.now,
            script=self.script,
            **given,
        )
        self.last: list[Outgoing] = []
        self.seen: list[dict[str, Any]] = []
        self.wanted: dict[str, Recognise] = {}  # the last recognition asked for, by item
        if opened:
            self.take(self.session.open())

    def take(self, out: list[Outgoing]) -> list[dict[str, Any]]:
        """The server events among it."""
        self.last = out
        self.wanted.update({one.item_id: one for one in out if isinstance(one, Recognise)})
        events = [event for event in out if isinstance(event, dict)]
        self.seen.extend(events)
        return events

    def client(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return self.take(self.session.receive({"type": kind, **fields}, self.now))

    def update(self, **session: Any) -> list[dict[str, Any]]:
        return self.client("session.update", session={"type": "realtime", **session})

    def text(self, text: str, role: str = "user") -> list[dict[str, Any]]:
        content = [{"type": "input_text", "text": text}]
        return self.client("conversation.item.create", item={"type": "message", "role": role, "content": content})

    def append(self, ms: float) -> None:
        self.session.append(b"\x00" * int(self.session.input_format.bytes_per_ms * ms))

    def run(self, until_ms: float | None = None) -> list[dict[str, Any]]:
        """Let time pass: to `until_ms`, else twenty seconds at most, ending where nothing more was due."""
        events: list[dict[str, Any]] = []
        end_ms = self.now + 20_000 if until_ms is None else until_ms
        while self.session.deadline_ms <= end_ms:
            self.now = max(self.now, self.session.deadline_ms)
            events += self.take(self.session.advance(self.now))
        self.now = max(self.now, until_ms or 0.0)
        return events

    def turn(self, start_ms: float = 100, stop_ms: float = 1500) -> list[dict[str, Any]]:
        """The caller says something; nobody recognised it yet."""
        self.append(stop_ms + 100)
        events = self.take(self.session.speech_started(start_ms, self.now))
        return events + self.take(self.session.speech_stopped(stop_ms, self.now))

    def heard(self, item_id: str, text: str) -> list[dict[str, Any]]:
        brain = self.session.brain
        intent = brain.intent_of_sentence(text)
        heard = Heard(intent.name if intent else None, text)
        return self.take(self.session.recognised(self.wanted[item_id], heard, self.now))

    def asked(self) -> list[Recognise]:
        return [one for one in self.last if isinstance(one, Recognise)]

    def listens_anew(self) -> bool:
        return any(isinstance(one, ListenAnew) for one in self.last)

    def closes(self) -> CloseSession | None:
        return next((one for one in self.last if isinstance(one, CloseSession)), None)


def types(events: list[dict[str, Any]]) -> list[str]:
    """Event types in order, a run of deltas told once."""
    told: list[str] = []
    for event in events:
        kind = event["type"]
        if kind.endswith(".delta") and kind in told[-2:]:
            continue
        told.append(kind)
    return told


def only(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (event,) = [event for event in events if event["type"] == kind]
    return event


def every(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def error(events: list[dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = only(events, "error")["error"]
    return described


def said(events: list[dict[str, Any]]) -> str:
    return " ".join(event["transcript"] for event in every(events, "response.output_audio_transcript.done"))


def audio_ms(events: list[dict[str, Any]]) -> float:
    return sum(len(event["delta"]) for event in every(events, "response.output_audio.delta")) / 48


def wire(event: dict[str, Any]) -> dict[str, Any]:
    """As a client reads it."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return read


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()
