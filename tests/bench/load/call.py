"""Both ends of one call: the caller's media stream, and the model's session, which talks, listens and is interrupted.

The caller sends a frame every 20 ms, every eleventh marked, plays what it gets in real time, returns marks when they
are reached and honours clear. The model speaks five times faster than real time, in rotation an answer that is heard
to its end (F), one interrupted when all of it has been sent (B), and one interrupted while it is being made (E).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Final

import msgspec

from tests.bench.load.figures import Tally
from tests.bench.load.sound import Finder, Trail, caller_payloads, delta_payload
from tests.bench.load.wire import Wire

FRAME_S: Final = 0.02
MARK_EVERY: Final = 11  # frames: no beat with deltas, slices or batches of two and three
DELTA_MS: Final = 200
FASTER: Final = 5
ANSWER_MS: Final = 6000
SPEECH_S: Final = 0.8
THINKING_S: Final = 0.3
LATE_BARGE_IN_S: Final = 3.0
EARLY_BARGE_IN_S: Final = 0.7
TURNS: Final = "FBE"
_REMEMBERED: Final = 64  # frames

_PLAIN, _MARKED = caller_payloads()
_APPEND: Final = b'{"type":"input_audio_buffer.append","audio":"'
_MEDIA: Final = b'{"event":"media"'
_PAYLOAD: Final = b'"payload":"'


class Talk:
    """What the two ends of one call know of each other."""

    def __init__(self, number: int, tally: Tally) -> None:
        self.number = number
        self.tally = tally
        self.ending = False
        self.caller: Caller | None = None
        self.session: Session | None = None
        self.ready = asyncio.Event()  # the session is configured
        # uplink
        self.sent_at = [0.0] * _REMEMBERED  # frames, by number
        self.frames = 0
        self.first_marked: int | None = None
        # downlink
        self.first_delta_at: float | None = None  # until its media has come
        self.speech_at: float | None = None  # until the clear has come
        self.welcome = False  # between an answer's first delta and the next speech

    def begin_marking(self) -> None:
        self.first_marked = self.frames


class Caller(Wire):
    """The carrier's side of one call."""

    is_client = True

    def __init__(self, talk: Talk, *, path: str, host: str, signature: str, call_id: str, parameters: dict[str, str]):
        super().__init__()
        self._talk = talk
        self._tally = talk.tally
        self._request = (path, host, f"X-Twilio-Signature: {signature}", "User-Agent: Twilio.TmeWs/1.0")
        self._call_id = call_id
        self._parameters = parameters
        self._stream_id = f"MZ{talk.number + 1:032d}"
        tail = b'","payload":"%b"},"streamSid":"' + self._stream_id.encode() + b'"}'
        head = b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d'
        self._layouts = [head + tail.replace(b"%b", payload) for payload in (_PLAIN, _MARKED)]
        self._mark_head = b'{"event":"mark","sequenceNumber":"%d","streamSid":"' + self._stream_id.encode()
        self._sequence = 1
        self._loop = asyncio.get_running_loop()
        self._finder = Finder("mulaw")
        self.heard = Trail(self._finder, DELTA_MS)
        self._play_end = 0.0
        self._marks: deque[tuple[float, bytes]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ask_to_upgrade(*self._request)

    def opened(self) -> None:
        self.send(b'{"event":"connected","protocol":"Call","version":"1.0.0"}')
        start = {
            "accountSid": "AC" + "0" * 31 + "1",
            "streamSid": self._stream_id,
            "callSid": self._call_id,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": self._parameters,
        }
        message = {"event": "start", "sequenceNumber": "1", "start": start, "streamSid": self._stream_id}
        self.send(msgspec.json.encode(message))

    def lost(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._talk.ending:
            self._tally.loses("disconnects")

    # ------------------------------------------------------------ speaking

    def frame(self, due: float) -> None:
        """The next 20 ms."""
        talk, number = self._talk, self._talk.frames
        talk.frames = number + 1
        marked = talk.first_marked is not None and (number - talk.first_marked) % MARK_EVERY == 0
        self._sequence += 1
        payload = self._layouts[marked] % (self._sequence, number + 1, 20 * number)
        now = perf_counter()
        talk.sent_at[number % _REMEMBERED] = now
        self.send(payload)
        tally = self._tally
        if tally.counting:
            tally.frames += 1
            tally.late.append((now - due) * 1000)

    # ------------------------------------------------------------ hearing

    def text(self, payload: bytes) -> None:
        now = perf_counter()
        if payload.startswith(_MEDIA):
            self._play(payload, now)
        elif payload.startswith(b'{"event":"mark"'):
            self._tally.marks += self._tally.counting
            name = payload[payload.index(b'"name":') + 7 :].rstrip(b"}")
            if self._play_end <= now and not self._marks:
                self._return(name)
            else:
                self._marks.append((max(self._play_end, now), name))
                if self._alarm is None:
                    self._wait(now)
        elif payload.startswith(b'{"event":"clear"'):
            self._clear(now)
        else:
            self._tally.loses("unreadable")

    def _play(self, payload: bytes, now: float) -> None:
        talk, tally = self._talk, self._tally
        at = payload.index(_PAYLOAD) + len(_PAYLOAD)
        audio = payload[at : payload.index(b'"', at)]
        tally.media += tally.counting
        if not talk.welcome:
            tally.loses("stale media")
            return
        if talk.first_delta_at is not None:
            if tally.counting:
                tally.first.append((now - talk.first_delta_at) * 1000)
            talk.first_delta_at = None
        before = self.heard.samples
        broken = self.heard.broken
        self.heard.follow(audio)
        tally.loses("downlink broken", self.heard.broken - broken)
        self._play_end = max(self._play_end, now) + (self.heard.samples - before) / 8000

    def _clear(self, now: float) -> None:
        talk = self._talk
        if talk.speech_at is not None:
            if self._tally.counting:
                self._tally.clear.append((now - talk.speech_at) * 1000)
            talk.speech_at = None
        talk.welcome = False
        self._play_end = now
        while self._marks:
            self._return(self._marks.popleft()[1])

    def _return(self, name: bytes) -> None:
        self._sequence += 1
        self.send(self._mark_head % self._sequence + b'","mark":{"name":' + name + b"}}")

    def _wait(self, now: float) -> None:
        self._alarm = self._loop.call_later(self._marks[0][0] - now, self._reached)

    def _reached(self) -> None:
        self._alarm = None
        now = perf_counter()
        while self._marks and self._marks[0][0] <= now + 0.0005:
            self._return(self._marks.popleft()[1])
        if self._marks:
            self._wait(now)

    def hang_up(self) -> None:
        self._sequence += 1
        body = {"accountSid": "AC" + "0" * 31 + "1", "callSid": self._call_id}
        stop = {"event": "stop", "sequenceNumber": str(self._sequence), "streamSid": self._stream_id, "stop": body}
        self.send(msgspec.json.encode(stop))
        self.close()


class Session(Wire):
    """The model service's side of one call. `found` gives it the call it belongs to."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk
        self._tally = talk.tally
        self._events = 0
        self._turns = talk.number  # callers do not speak in chorus
        self._heard: Trail | None = None
        self._delta = b""
        self._talking: asyncio.Task[None] | None = None
        self._speaking = False  # the caller, since a barge-in

    def opened(self) -> None:
        session = {"id": f"sess_{self._talk.number}", "type": "realtime", "object": "realtime.session"}
        self.say("session.created", session=session)

    def lost(self) -> None:
        if self._talking is not None:
            self._talking.cancel()
        if not self._talk.ending:
            self._tally.loses("disconnects")

    def say(self, kind: str, **fields: object) -> None:
        self._events += 1
        self.send(msgspec.json.encode({"type": kind, "event_id": f"event_{self._events}", **fields}))

    def begin_talking(self) -> None:
        self._talking = asyncio.get_running_loop().create_task(self._talk_on())

    # ------------------------------------------------------------ listening

    def text(self, payload: bytes) -> None:
        if payload.startswith(_APPEND):
            now = perf_counter()
            self._tally.appends += self._tally.counting
            if self._heard is None:
                return
            broken = self._heard.broken
            try:
                hits = self._heard.follow(payload[len(_APPEND) : -2])
            except ValueError:
                self._tally.loses("unreadable")
                return
            self._tally.loses("uplink broken", self._heard.broken - broken)
            for number, rest_ms in hits:
                self._arrived(number, rest_ms, now)
            return
        event = msgspec.json.decode(payload)
        match event["type"]:
            case "session.update":
                self._configure(event["session"])
            case "conversation.item.truncate":
                self._tally.truncates += self._tally.counting
                self.say(
                    "conversation.item.truncated",
                    item_id=event["item_id"],
                    content_index=0,
                    audio_end_ms=event["audio_end_ms"],
                )

    def _arrived(self, number: int, rest_ms: float, now: float) -> None:
        """A marked frame came. Where several frames travel together the last of them says when they could."""
        talk = self._talk
        if talk.first_marked is None or not self._tally.counting:
            return
        completed_by = talk.first_marked + number * MARK_EVERY + int(rest_ms / 20)
        self._tally.uplink.append((now - talk.sent_at[completed_by % _REMEMBERED]) * 1000)

    def missing(self) -> int:
        """Marked frames that should be here by now."""
        talk = self._talk
        if talk.first_marked is None or self._heard is None:
            return 0
        due = max(0, talk.frames - 10 - talk.first_marked) // MARK_EVERY
        return max(0, due - self._heard.found)

    def _configure(self, session: dict[str, object]) -> None:
        self.say("session.updated", session=session)
        if self._heard is None:
            wanted = msgspec.json.encode(session)
            encoding = "mulaw" if b"audio/pcmu" in wanted else "pcm16"
            self._heard = Trail(Finder(encoding), MARK_EVERY * 20)
            self._delta = delta_payload(encoding, DELTA_MS)
            self._talk.ready.set()

    # ------------------------------------------------------------ talking

    async def _talk_on(self) -> None:
        await asyncio.sleep(1 + (self._talk.number * 0.618 % 1.0) * 3)
        while True:
            await self._turn(TURNS[self._turns % len(TURNS)])

    async def _turn(self, kind: str) -> None:
        talk, turn = self._talk, self._turns
        self._turns += 1
        user, response, item = f"item_u{talk.number}_{turn}", f"resp_{talk.number}_{turn}", f"item_{talk.number}_{turn}"
        if not self._speaking:
            self.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id=user)
        await asyncio.sleep(SPEECH_S)
        self._speaking = False
        said = {"id": user, "type": "message", "status": "completed", "role": "user", "content": []}
        self.say("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id=user)
        self.say("input_audio_buffer.committed", previous_item_id=None, item_id=user)
        self.say("conversation.item.added", previous_item_id=None, item=said)
        self.say("conversation.item.done", previous_item_id=None, item=said)
        await asyncio.sleep(THINKING_S)
        body = {"id": response, "object": "realtime.response", "status": "in_progress", "output": []}
        answer = {"id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        where = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        self.say("response.created", response=body)
        self.say("response.output_item.added", response_id=response, output_index=0, item=answer)
        self.say("response.content_part.added", **where, part={"type": "audio", "transcript": ""})
        assert talk.caller is not None
        talk.caller.heard.restart()
        deltas = ANSWER_MS // DELTA_MS
        until = min(deltas, int(EARLY_BARGE_IN_S * FASTER * 1000 / DELTA_MS)) if kind == "E" else deltas
        began = perf_counter()
        head = msgspec.json.encode({"type": "response.output_audio.delta", **where})[:-1]
        delta = head + b',"delta":"' + self._delta + b'","event_id":"event_%d"}'
        talk.welcome = True
        for number in range(until):
            if number == 0:
                talk.first_delta_at = perf_counter()
            self._events += 1
            self.send(delta % self._events)
            self._tally.deltas += self._tally.counting
            self.say("response.output_audio_transcript.delta", **where, delta="and so on ")
            await self._until(began + (number + 1) * DELTA_MS / FASTER / 1000)
        if kind != "E":
            self.say("response.output_audio.done", **where)
            self.say("response.output_audio_transcript.done", **where, transcript="and so on " * until)
            self.say("response.output_item.done", response_id=response, output_index=0, item=answer)
            self._done(body, "completed", None)
        jitter_s = (turn * 0.618 + talk.number * 0.377) % 1.0 * DELTA_MS / 1000
        if kind == "F":
            await self._until(began + ANSWER_MS / 1000 + 0.7)
            if talk.caller.heard.samples < (ANSWER_MS - 60) * 8:
                self._tally.loses("answers incomplete")
            talk.welcome = False
        else:
            await self._until(began + (LATE_BARGE_IN_S if kind == "B" else EARLY_BARGE_IN_S) + jitter_s)
            await self._barge_in(kind, body)

    async def _barge_in(self, kind: str, body: Mapping[str, object]) -> None:
        """The caller speaks into the answer; the turn that follows begins with it."""
        talk, tally = self._talk, self._tally
        tally.barge_ins += tally.counting
        talk.speech_at = perf_counter()
        self.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id=f"item_u{talk.number}_{self._turns}")
        self._speaking = True
        if kind == "E":
            self._done(body, "cancelled", {"type": "cancelled", "reason": "turn_detected"})
        await asyncio.sleep(0.2)
        if talk.speech_at is not None:
            tally.loses("no clear")
            talk.speech_at, talk.welcome = None, False

    def _done(self, body: Mapping[str, object], status: str, details: object) -> None:
        usage = {"total_tokens": 300, "input_tokens": 200, "output_tokens": 100}
        self.say("response.done", response={**body, "status": status, "status_details": details, "usage": usage})

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - perf_counter()))
