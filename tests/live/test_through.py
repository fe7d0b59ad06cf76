"""Both real legs of one call, from the bytes of one socket to the bytes of the other: what happens in one pass.

Between two `await`s nothing else of the process runs, so what stands in a transport when `feed` returns was not kept
waiting by anybody. The transports take everything at once; how the kernel sends it is not part of this.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
from websockets.frames import Frame
from websockets.protocol import Side

from bridge.call import events as ev
from bridge.metrics import Metrics
from tests.bench.frames import Line
from tests.bench.load.wire import framed
from tests.live.calls import settle
from tests.live.test_driver import on_virtual_time
from tests.live.wires import Transport, wire

ANSWER = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
SECOND = base64.b64encode(b"\x00\x10" * 24_000).decode()
STARTED = {"type": "response.created", "response": {"id": "r1", "status": "in_progress"}}
SPOKEN = {"type": "response.output_audio.delta", **ANSWER, "delta": SECOND}
CLEAR = {"event": "clear", "streamSid": "MZ" + "1".zfill(32)}
CALLER_BEGAN = {"type": "input_audio_buffer.speech_started", "item_id": "c1", "audio_start_ms": 0}


class Far:
    """The other end of a socket: what it has been sent since it was asked last."""

    def __init__(self, side: Side) -> None:
        self.transport = Transport()
        self._protocol = wire(side, 1 << 20)

    def gets(self) -> list[dict[str, Any]]:
        self._protocol.receive_data(self.transport.taken())
        assert self._protocol.parser_exc is None
        return [json.loads(frame.data) for frame in self._protocol.events_received() if isinstance(frame, Frame)]


class Call(Line):
    """A call with its stream, and a session that is ready."""

    def __init__(self) -> None:
        super().__init__(1, Metrics())
        self.carrier, self.model = Far(Side.CLIENT), Far(Side.SERVER)
        self.phone_end, self.model_end = self.carrier.transport, self.model.transport  # type: ignore[assignment]

    @classmethod
    async def begin(cls) -> Call:
        call = cls()
        await call.open()
        await settle()
        assert call.driver.call.state.model == "ready"
        call.carrier.gets()
        return call

    def feed(self, *events: dict[str, Any]) -> None:
        """Bytes of the model that came together."""
        assert self.from_model is not None
        self.from_model.feed(as_bytes(*events))

    async def end(self) -> None:
        assert not self.driver.ended.done()
        self.driver.deliver(ev.CallerLeft("stop"))
        await self.running


def as_bytes(*events: dict[str, Any]) -> bytes:
    numbered = ({"event_id": f"e{number}", **event} for number, event in enumerate(events))
    return b"".join(framed(msgspec.json.encode(event)) for event in numbered)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    """Each kind once, in the order of its first."""
    return list(dict.fromkeys(message.get("event") or message["type"] for message in messages))


@on_virtual_time
async def test_when_the_models_word_that_the_caller_began_has_been_fed_the_clear_is_written() -> None:
    call = await Call.begin()
    call.feed(STARTED, SPOKEN)
    assert kinds(call.carrier.gets()) == ["media", "mark"]
    await asyncio.sleep(0.5)
    call.carrier.gets()
    call.model.gets()
    call.feed(CALLER_BEGAN)
    first, *more = call.carrier.gets()
    assert first == CLEAR and "media" not in kinds(more)
    (cut,) = call.model.gets()
    assert (cut["type"], cut["item_id"]) == ("conversation.item.truncate", "i1")
    await call.end()


@on_virtual_time
async def test_the_clear_comes_after_audio_that_was_fed_with_it_and_none_comes_after_the_clear() -> None:
    call = await Call.begin()
    call.feed(STARTED, SPOKEN, CALLER_BEGAN, SPOKEN)
    told = call.carrier.gets()
    assert kinds(told) == ["media", "mark", "clear"] and told[-1] == CLEAR
    await call.end()


@on_virtual_time
async def test_the_clear_is_written_with_the_last_byte_of_the_models_word_and_not_before() -> None:
    call = await Call.begin()
    call.feed(STARTED, SPOKEN)
    call.carrier.gets()
    data = as_bytes(CALLER_BEGAN)
    assert call.from_model is not None
    call.from_model.feed(data[:-1])
    assert call.carrier.gets() == []
    call.from_model.feed(data[-1:])
    assert call.carrier.gets() == [CLEAR]
    await call.end()
