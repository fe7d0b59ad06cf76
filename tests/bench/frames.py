"""What one frame costs before it meets the kernel: `python -m tests.bench.frames`.

The service's own driver, legs and sockets in this process, on transports that swallow what is written: microseconds
for a caller's frame from the bytes of the media socket to the bytes for the model's, for a delta of 200 ms the other
way with the slices that leave at once, and for a mark that comes back. The calls take turns, as they do in service, so
caches are as cold as there. Each figure is the median of the rounds; the stages of a frame are measured by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import pybase64
from rich.console import Console
from rich.table import Table
from websockets.protocol import State

from bridge.audio.formats import MULAW_8K, AudioFormat
from bridge.audio.path import CallerToModel, ModelToCaller, push_together
from bridge.call import actions as do
from bridge.call.events import CallerSpoke
from bridge.call.machine import Call
from bridge.call.plan import AgentPlan, CallPlan, Policies, SessionPlan
from bridge.live.connect import _parsed
from bridge.live.dialling import ModelSocket
from bridge.live.driver import Driver
from bridge.live.model import ModelLeg
from bridge.live.phone import PhoneLeg
from bridge.live.websocket import CallSocket, client_wire, server_wire
from bridge.metrics import Metrics
from bridge.realtime.profiles import Target, builtin
from bridge.telephony import twilio
from tests.bench.load.sound import caller_payloads, delta_payload
from tests.bench.load.wire import framed, framed_by_client

PCM16_24K = AudioFormat("pcm16", 24_000)
DELTA_MS = 200


def plan_of(number: int) -> CallPlan:
    quiet = Policies(idle_prompt_after_s=0, idle_hang_up_after_s=0)
    return CallPlan(
        call_id=f"call-{number}",
        carrier_call_id=f"CA{number:032d}",
        caller="+15550111",
        called="+15550100",
        direction="inbound",
        agent=AgentPlan(name="bench", policies=quiet),
        carrier=twilio.CAPABILITIES,
        models=(builtin()["openai"].capabilities(),),
        session=SessionPlan(instructions="bench"),
    )


class Nowhere:
    """A transport that swallows everything, and remembers the last it was given."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class NoErrands:
    async def run_tool(self, driver: Driver, action: do.RunTool) -> None: ...
    async def hang_up(self, driver: Driver) -> None: ...
    async def transfer(self, driver: Driver, action: do.Transfer) -> None: ...


class Line:
    """One call with both its sockets, and no network."""

    def __init__(self, number: int, metrics: Metrics) -> None:
        profile = builtin()["openai"]
        self.number = number
        self.plan = plan_of(number)
        target = Target(profile, "ws://127.0.0.1:9/v1/realtime", "none", "model", allow_plain=True)
        self.driver = Driver(self.plan, outside=NoErrands())
        self.driver.watch([lambda at, event, actions: metrics.watch(self.plan, at, event, actions)])
        self.model_end, self.phone_end = Nowhere(), Nowhere()
        self.driver.model = ModelLeg(self.driver, (target,), caller=MULAW_8K, dial=self._dial)
        self.running = asyncio.get_running_loop().create_task(self.driver.run())
        self.from_model: CallSocket | None = None
        self.frames = self.events = 0

    def _dial(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
        *,
        on_message: Callable[[bytes, bool], None],
        on_closed: Callable[[int, str], None],
    ) -> Awaitable[ModelSocket]:
        async def opened() -> ModelSocket:
            uri = _parsed(url)
            assert uri is not None
            wire = client_wire(uri, (), 1 << 20)
            wire.state = State.OPEN
            self.from_model = CallSocket(
                wire, self.model_end, max_bytes=1 << 20, on_message=on_message, on_closed=on_closed
            )
            return self.from_model

        return opened()

    async def open(self) -> None:
        while self.from_model is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.says({"type": "session.created", "session": {"id": "sess"}})
        self.says({"type": "session.updated", "session": {}})
        stream_id = f"MZ{self.number:032d}"
        self.media = CallSocket(
            server_wire(65_536),
            self.phone_end,
            max_bytes=65_536,
            on_message=lambda payload, is_text: None,
            on_closed=lambda code, reason: None,
        )
        leg = PhoneLeg(self.driver, self.media, stream_id=stream_id, audio=MULAW_8K)
        self.media.on_message = leg.receive
        self.driver.attach(leg, stream_id)
        head = b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d'
        tail = b'","payload":"' + caller_payloads()[0] + b'"},"streamSid":"' + stream_id.encode() + b'"}'
        self._layout = head + tail
        self._mark = '{{"event":"mark","sequenceNumber":"{}","streamSid":"' + stream_id + '","mark":{{"name":"{}"}}}}'

    def says(self, event: dict[str, Any]) -> None:
        assert self.from_model is not None
        self.events += 1
        self.from_model.feed(framed(msgspec.json.encode({"event_id": f"event_{self.events}", **event})))

    def next_frame(self) -> bytes:
        self.frames += 1
        return framed_by_client(self._layout % (self.frames + 1, self.frames, 20 * (self.frames - 1)))

    def next_delta(self, response: int, audio: bytes) -> bytes:
        self.events += 1
        ids = b'"response_id":"resp_%d","item_id":"item_%d","output_index":0,"content_index":0' % (response, response)
        head = b'{"type":"response.output_audio.delta","event_id":"event_%d",' % self.events
        return framed(head + ids + b',"delta":"' + audio + b'"}')

    def next_words(self, response: int) -> bytes:
        self.events += 1
        ids = b'"response_id":"resp_%d","item_id":"item_%d","output_index":0,"content_index":0' % (response, response)
        head = b'{"type":"response.output_audio_transcript.delta","event_id":"event_%d",' % self.events
        return framed(head + ids + b',"delta":"and so on "}')

    def mark_back(self) -> bytes:
        """The oldest mark that is out, returned."""
        name = self.driver.call.state.ledger.reckoning.marks[0].name
        return framed_by_client(self._mark.format(self.frames, name).encode())


def timed(feeds: Sequence[tuple[Callable[[bytes], None], bytes]]) -> float:
    """Microseconds of one of these, on average."""
    began = perf_counter()
    for feed, data in feeds:
        feed(data)
    return (perf_counter() - began) / len(feeds) * 1e6


async def whole(calls: int, rounds: int) -> dict[str, float]:
    """Frames, deltas and marks through everything."""
    metrics = Metrics()
    lines = [Line(number, metrics) for number in range(calls)]
    for line in lines:
        await line.open()
    delta = delta_payload("pcm16", DELTA_MS)
    frame_us, delta_us, words_us, mark_us = [], [], [], []
    for number in range(rounds):
        frame_us += [timed([(line.media.feed, line.next_frame()) for line in lines]) for _ in range(10)]
        for line in lines:
            line.says({"type": "response.created", "response": {"id": f"resp_{number}"}})
        for _ in range(3):
            feeds = []
            for line in lines:
                assert line.from_model is not None
                feeds.append((line.from_model.feed, line.next_delta(number, delta)))
            delta_us.append(timed(feeds))
            feeds = []
            for line in lines:
                assert line.from_model is not None
                feeds.append((line.from_model.feed, line.next_words(number)))
            words_us.append(timed(feeds))
        mark_us += [timed([(line.media.feed, line.mark_back()) for line in lines]) for _ in range(4)]
        for line in lines:
            line.says({"type": "response.done", "response": {"id": f"resp_{number}", "status": "completed"}})
            line.says({"type": "input_audio_buffer.speech_started", "item_id": f"user_{number}"})
            line.says({"type": "input_audio_buffer.speech_stopped", "item_id": f"user_{number}"})
        await asyncio.sleep(0)
    for line in lines:
        assert b"append" not in line.phone_end.last and line.model_end.last, "frames reached the model"
        assert not line.driver.ended.done(), "no call broke"
        line.running.cancel()
    await asyncio.gather(*(line.running for line in lines), return_exceptions=True)
    return {
        "caller frame, socket to socket": median(frame_us),
        f"delta of {DELTA_MS} ms, with the slices sent at once": median(delta_us),
        "words of an answer": median(words_us),
        "mark returned, with the slice it releases": median(mark_us),
    }


def stages(calls: int, rounds: int) -> dict[str, float]:
    """The parts of a frame's way, each by itself over all calls in turn."""
    plain = caller_payloads()[0]
    audio = pybase64.b64decode(plain)
    text = b'{"event":"media","sequenceNumber":"7","media":{"track":"inbound","chunk":"6","timestamp":"100","payload":"'
    text += plain + b'"},"streamSid":"MZ00000000000000000000000000000001"}'
    frame = framed_by_client(text)
    sockets = [
        CallSocket(
            server_wire(65_536),
            Nowhere(),
            max_bytes=65_536,
            on_message=lambda payload, is_text: None,
            on_closed=lambda code, reason: None,
        )
        for _ in range(calls)
    ]
    uri = _parsed("ws://127.0.0.1/")
    assert uri is not None
    outward = []
    for _ in range(calls):
        wire = client_wire(uri, (), 65_536)
        wire.state = State.OPEN
        outward.append(
            CallSocket(
                wire,
                Nowhere(),
                max_bytes=65_536,
                on_message=lambda payload, is_text: None,
                on_closed=lambda code, reason: None,
            )
        )
    dialect = builtin()["openai"].dialect()
    ups = [CallerToModel(MULAW_8K, PCM16_24K) for _ in range(calls)]
    downs = [ModelToCaller(PCM16_24K, MULAW_8K) for _ in range(calls)]
    sound = ups[0].push(audio)
    append = dialect.append(sound)
    slice_of_delta = pybase64.b64decode(delta_payload("pcm16", DELTA_MS))
    cores = [Call(plan_of(number), 0.0) for number in range(calls)]
    for core in cores:
        core.state.model = "ready"
    spoke = CallerSpoke(audio, 20.0)
    fives = [audio] * len(ups[:5])
    parts: dict[str, Callable[[int], object]] = {
        "  media socket: frame, unmask": lambda i: sockets[i].feed(frame),
        "  carrier's JSON": lambda i: twilio.decode(text),
        "  the call decides": lambda i: cores[i].handle(spoke, 1.0),
        "  transcode, 20 ms up": lambda i: ups[i].push(audio),
        "  the same, five together": lambda i: None if i % 5 else push_together(ups[i : i + 5], fives[: calls - i]),
        "  append event": lambda i: dialect.append(sound),
        "  model's socket: mask, frame": lambda i: outward[i].send(append),
        f"  (transcode, {DELTA_MS} ms down)": lambda i: downs[i].push(slice_of_delta),
    }
    found = {}
    for name, part in parts.items():
        times = []
        for _ in range(rounds):
            began = perf_counter()
            for number in range(calls):
                part(number)
            times.append((perf_counter() - began) / calls * 1e6)
        found[name] = median(times)
    return found


async def main(given: argparse.Namespace) -> None:
    table = Table(title=f"{given.calls} calls in turn", header_style="bold")
    table.add_column("")
    table.add_column("us", justify="right")
    for name, us in (await whole(given.calls, given.rounds) | stages(given.calls, 10 * given.rounds)).items():
        table.add_row(name, f"{us:.2f}")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(arguments))
    else:
        uvloop.run(main(arguments))
