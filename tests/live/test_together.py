"""Frames of several calls, transcoded together at the end of a pass: each session hears its own, in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bridge.audio.formats import MULAW_8K, PCM16_24K
from bridge.audio.path import CallerToModel
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.live.together import Together
from tests.live.services import Line, Service, call
from tests.live.test_driver import on_virtual_time

FRAMES = [bytes([code]) * 160 for code in (0x20, 0x35, 0xC0, 0x7F)]


def alone(*frames: bytes) -> bytes:
    path = CallerToModel(MULAW_8K, PCM16_24K)
    return b"".join(map(path.push, frames))


async def calls(together: Together, count: int) -> list[Line]:
    return [await call(Service(talks=True), together=together) for _ in range(count)]


async def hang_up(*lines: Line) -> None:
    for line in lines:
        line.tell(ev.CallerLeft("stop"))
        await line.task


def spoken(line: Line, *frames: bytes) -> None:
    for frame in frames:
        line.tell(ev.CallerSpoke(frame, 20.0))


@on_virtual_time
async def test_begun_it_keeps_frames_until_the_pass_is_over_and_each_call_hears_its_own() -> None:
    together = Together()
    together.begin()
    lines = await calls(together, 3)
    for line, frame in zip(lines, FRAMES, strict=False):
        spoken(line, frame, frame)
    assert [line.service.last.heard for line in lines] == [b""] * 3
    together.settle()
    assert [line.service.last.heard for line in lines] == [alone(frame, frame) for frame in FRAMES[:3]]
    await hang_up(*lines)


@on_virtual_time
async def test_not_begun_each_frame_goes_at_once_and_ended_what_waited_goes_first() -> None:
    together = Together()
    (line,) = await calls(together, 1)
    spoken(line, FRAMES[0])
    assert line.service.last.heard == alone(FRAMES[0])
    together.begin()
    spoken(line, FRAMES[1])
    together.end()
    spoken(line, FRAMES[2])
    together.settle()
    together.end()
    assert line.service.last.heard == alone(*FRAMES[:3])
    await hang_up(line)


@on_virtual_time
async def test_what_a_session_is_told_comes_after_what_the_caller_said_before_it() -> None:
    together = Together()
    together.begin()
    one, two = await calls(together, 2)
    spoken(two, FRAMES[1])
    spoken(one, FRAMES[0])
    one.leg.request(do.CommitCallerAudio())
    kinds = [event["type"] for event in one.service.last.sent[-2:]]
    assert kinds == ["input_audio_buffer.append", "input_audio_buffer.commit"]
    spoken(one, FRAMES[2])
    one.leg.send_silence(20)
    together.settle()
    assert one.service.last.heard == alone(FRAMES[0], FRAMES[2], b"\xff" * 160)
    assert two.service.last.heard == alone(FRAMES[1])
    await hang_up(one, two)


@on_virtual_time
async def test_a_session_that_ends_within_the_pass_hears_nothing_more_and_the_others_do() -> None:
    together = Together()
    together.begin()
    one, two = await calls(together, 2)
    spoken(one, FRAMES[0])
    spoken(two, FRAMES[1])
    await hang_up(one)
    together.settle()
    assert one.service.last.heard == b""
    assert two.service.last.heard == alone(FRAMES[1])
    await hang_up(two)


@on_virtual_time
async def test_a_service_that_stopped_reading_is_noticed_when_the_pass_is_over() -> None:
    together = Together()
    together.begin()
    (line,) = await calls(together, 1)
    line.service.last.waiting_bytes = 2 << 20
    spoken(line, FRAMES[0])
    together.settle()
    assert line.service.last.closed
    assert line.driver.call.state.model != "ready"
    await hang_up(line)


@on_virtual_time
async def test_a_socket_that_breaks_ends_its_own_call_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Together()
    together.begin()
    one, two = await calls(together, 2)

    def breaks(payload: bytes) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(one.service.last, "send", breaks)
    spoken(one, FRAMES[0])
    spoken(two, FRAMES[1])
    together.settle()
    assert await one.driver.ended is EndReason.BUG
    assert two.service.last.heard == alone(FRAMES[1])
    assert not two.driver.ended.done()
    await hang_up(two)


@on_virtual_time
async def test_a_product_that_fails_ends_the_calls_in_it_and_the_next_pass_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = Together()
    together.begin()
    one, two = await calls(together, 2)
    with monkeypatch.context() as patch:
        patch.setattr("bridge.live.together.push_together", lambda paths, frames: 1 // 0)
        spoken(one, FRAMES[0])
        together.settle()
    assert await one.driver.ended is EndReason.BUG
    spoken(two, FRAMES[1])
    together.settle()
    assert two.service.last.heard == alone(FRAMES[1])
    await hang_up(two)


class Unread:
    """A packet of the service that has come and was not read yet."""

    def __init__(self, says: Callable[[], None]) -> None:
        self._says = says

    def feed(self, data: bytes) -> None:
        self._says()

    def abort(self) -> None: ...


@on_virtual_time
async def test_a_greeting_that_waits_to_be_read_came_in_time() -> None:
    together, service = Together(), Service()
    together.begin()
    line = await call(service, together=together)
    together.packets.append((Unread(service.last.greets), b""))
    await asyncio.sleep(3.1)
    assert [event["type"] for event in service.last.sent] == ["session.update"] and not service.last.closed
    await hang_up(line)


@on_virtual_time
async def test_a_confirmation_that_waits_to_be_read_came_in_time() -> None:
    together, service = Together(), Service()
    together.begin()
    line = await call(service, together=together)
    service.last.greets()
    told = {"input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw"}
    together.packets.append((Unread(lambda: service.last.confirms(**told)), b""))
    await asyncio.sleep(2.1)
    session = line.leg._session
    assert line.driver.call.state.model == "ready" and session is not None
    assert session._formats == (MULAW_8K, MULAW_8K), "it was heard, and not taken at its word"
    await hang_up(line)
