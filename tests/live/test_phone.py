"""The caller's leg: what a carrier may send, what it may not, and a carrier that does not read."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from bridge.audio.formats import MULAW_8K
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.live.phone import PhoneLeg
from bridge.telephony import twilio
from tests.live.calls import Running, begin, plan, settle
from tests.live.test_driver import on_virtual_time

TWO_SECONDS = (ev.ResponseStarted("r1"), ev.ModelSpoke("r1", "i1", 0, b"\x01" * 16_000, 2000.0))


class Socket:
    """A media socket whose network takes nothing while `crowded`."""

    def __init__(self) -> None:
        self.crowded = False
        self.waiting_bytes = 0
        self.writes: list[list[dict[str, object]]] = []  # the messages of each write
        self.most_waiting = 0
        self.closed: list[tuple[int, str]] = []

    def send_all(self, payloads: Iterable[bytes]) -> None:
        messages = list(payloads)
        self.writes.append([json.loads(message) for message in messages])
        if self.crowded:
            self.waiting_bytes += sum(map(len, messages))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed.append((code, reason))

    @property
    def sent(self) -> list[str]:
        return [str(message["event"]) for write in self.writes for message in write]


class Line:
    """A call whose caller's leg is the real one."""

    def __init__(self, call: Running, *, stream_id: str = "MZ1") -> None:
        self.call = call
        self.socket = Socket()
        self.leg = PhoneLeg(call.driver, self.socket, stream_id=stream_id, audio=MULAW_8K)
        self.stream_id = stream_id
        self.at_ms = 0
        call.driver.attach(self.leg, stream_id)
        self.socket.writes.clear()

    def says(self, message: dict[str, object] | bytes, *, is_text: bool = True) -> None:
        self.leg.receive(message if isinstance(message, bytes) else json.dumps(message).encode(), is_text)

    def media(self, sound: int = 1, *, track: str = "inbound", stream_id: str = "", at_ms: int | None = None) -> None:
        at_ms = self.at_ms if at_ms is None else at_ms
        payload = base64.b64encode(bytes([sound]) * 160).decode()
        self.says(
            {
                "event": "media",
                "sequenceNumber": "4",
                "media": {"track": track, "chunk": "2", "timestamp": str(at_ms), "payload": payload},
                "streamSid": stream_id or self.stream_id,
            }
        )
        self.at_ms = at_ms + 20

    async def ended(self) -> EndReason:
        return await asyncio.wait_for(self.call.task, 10)

    async def hang_up(self) -> None:
        self.call.tell(ev.CallerLeft("stop"))
        await self.ended()


async def line(**policies: object) -> Line:
    call = await begin(call_plan=plan(**policies), ready=False)
    made = Line(call)
    call.driver.deliver(ev.ModelReady(1))
    made.socket.writes.clear()
    return made


# ---------------------------------------------------------------- from the carrier


@on_virtual_time
async def test_audio_goes_to_the_model_as_it_was_sent() -> None:
    one = await line()
    for sound in range(3):
        one.media(sound)
    assert one.call.model.audio == b"".join(bytes([sound]) * 160 for sound in range(3))
    await one.hang_up()


@on_virtual_time
async def test_a_gap_in_the_timestamps_is_silence() -> None:
    one = await line()
    one.media(1)
    one.media(2, at_ms=100)
    assert one.call.model.audio == b"\x01" * 160 + b"\xff" * 640 + b"\x02" * 160
    await one.hang_up()


@on_virtual_time
async def test_silence_the_model_was_given_in_a_pause_does_not_come_twice() -> None:
    one = await line(caller_pause_ms=500)
    one.media(1)
    one.call.tell(ev.CallerSpeechStarted("c1"))
    await asyncio.sleep(1.2)
    given_ms = one.call.model.silence_ms
    assert given_ms > 0
    before = len(one.call.model.audio)
    one.media(2, at_ms=5000)
    assert (len(one.call.model.audio) - before) / 8 == pytest.approx(5000 - given_ms, abs=20)
    await one.hang_up()


@on_virtual_time
async def test_messages_of_other_streams_and_tracks_are_counted_and_dropped() -> None:
    one = await line()
    one.media(stream_id="MZ9")
    one.media(track="outbound")
    for message in (
        {"event": "mark", "streamSid": "MZ9", "mark": {"name": "0.0"}},
        {"event": "dtmf", "streamSid": "MZ9", "dtmf": {"digit": "#"}},
        {"event": "stop", "streamSid": "MZ9"},
        {"event": "something.new", "streamSid": "MZ1"},
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
    ):
        one.says(message)
    await settle()
    assert one.leg.foreign == 7
    assert not one.call.model.audio and len(one.call.model.asked) == 1 and not one.call.task.done()
    await one.hang_up()


@on_virtual_time
async def test_malformed_messages_are_counted_and_the_call_goes_on() -> None:
    one = await line()
    with capture_logs() as logs:
        for message in (b"{", b"\xff\xfe", b"[]", b'{"event":"media"}', b"[" * 10_000, b"", b"null") * 10:
            one.says(message)
        one.says(b"\x00\x01", is_text=False)
        one.says({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": "!"}})
        one.media(7)
    assert one.leg.malformed == 72
    assert len(logs) == 3, "an attacker does not fill the log"
    assert one.call.model.audio == b"\x07" * 160
    await one.hang_up()


@on_virtual_time
async def test_an_exception_of_ours_in_a_message_ends_this_call_only() -> None:
    one, other = await line(), await line()

    def broken(frame: bytes) -> twilio.StreamMessage | None:
        raise ZeroDivisionError

    one.leg._decode = broken
    with capture_logs() as logs:
        one.media()
        assert await one.ended() is EndReason.BUG
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["call_broke"]
    assert one.socket.closed
    other.media(5)
    assert other.call.model.audio
    await other.hang_up()


@on_virtual_time
async def test_a_second_start_ends_the_call_and_closes_with_1008() -> None:
    one = await line()
    one.says({"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1"}})
    assert await one.ended() is EndReason.PROTOCOL
    assert one.socket.closed[0][0] == 1008


@on_virtual_time
async def test_a_stop_ends_the_call_and_closes_the_socket() -> None:
    one = await line()
    with capture_logs() as told:
        one.says({"event": "stop", "streamSid": "MZ1", "stop": {"callSid": "CA1"}})
        one.leg.socket_closed(1000, "")
        assert await one.ended() is EndReason.CALLER_LEFT
    assert "stream_closed" not in [entry["event"] for entry in told]
    assert one.socket.closed[0][0] == 1000


@on_virtual_time
async def test_a_socket_that_closes_without_a_stop_is_a_lost_stream() -> None:
    one = await line()
    with capture_logs() as told:
        one.leg.socket_closed(1009, "message too big")
        assert await one.ended() is EndReason.STREAM_LOST
    (why,) = (entry for entry in told if entry["event"] == "stream_closed")
    assert (why["code"], why["reason"]) == (1009, "message too big")


@on_virtual_time
async def test_a_replaced_stream_is_closed_with_1000_and_no_longer_heard() -> None:
    one = await line()
    newer = Line(one.call, stream_id="MZ2")
    assert one.socket.closed[0][0] == 1000
    one.media(1)
    one.says({"event": "stop", "streamSid": "MZ1"})
    one.leg.socket_closed(1000, "")
    newer.media(2)
    await settle()
    assert one.call.model.audio == b"\x02" * 160 and not one.call.task.done()
    await one.hang_up()


# ---------------------------------------------------------------- floods


@on_virtual_time
async def test_a_stream_in_time_and_a_burst_after_a_stall_are_welcome() -> None:
    one = await line(idle_prompt_after_s=0.0, idle_hang_up_after_s=0.0)
    for round_ in range(20):
        for _ in range(50):
            one.media()
            await asyncio.sleep(0.02)
        await asyncio.sleep(9 if round_ % 5 == 0 else 0)
        if round_ % 5 == 0:
            for _ in range(450):  # what a carrier kept for us while we did not read
                one.media()
    assert not one.call.task.done()
    await one.hang_up()


@pytest.mark.parametrize("stall_s", [15, 50])
@on_virtual_time
async def test_all_that_was_kept_during_a_long_stall_is_welcome_and_a_flood_after_it_is_not(stall_s: int) -> None:
    one = await line(idle_prompt_after_s=0.0, idle_hang_up_after_s=0.0)
    for _ in range(50):
        one.media()
        await asyncio.sleep(0.02)
    await asyncio.sleep(stall_s)
    for _ in range(stall_s * 50):
        one.media()
    assert not one.call.task.done() and not one.socket.closed
    for _ in range(3000):
        one.media()
    assert await one.ended() is EndReason.PROTOCOL


@pytest.mark.parametrize("kind", ["media", "mark", "unknown", "malformed"])
@on_virtual_time
async def test_a_flood_of_anything_ends_the_call_with_1008(kind: str) -> None:
    one = await line()
    mark = json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": "99.99"}}).encode()
    for _ in range(2000):
        match kind:
            case "media":
                one.media()
            case "mark":
                one.says(mark)
            case "unknown":
                one.says(b'{"event":"novelty"}')
            case "malformed":
                one.says(b"{")
        if one.socket.closed:
            break
    assert await one.ended() is EndReason.PROTOCOL
    assert one.socket.closed[0][0] == 1008
    assert one.leg._messages <= 1000


@on_virtual_time
async def test_a_flood_in_time_ends_too() -> None:
    one = await line()
    for _ in range(5000):
        one.says(b'{"event":"novelty"}')
        await asyncio.sleep(0.001)
    assert one.call.task.done() and await one.ended() is EndReason.PROTOCOL


# ---------------------------------------------------------------- to the carrier


@on_virtual_time
async def test_one_decision_is_one_write() -> None:
    one = await line(lead_ms=400)
    one.call.tell(*TWO_SECONDS)
    assert len(one.socket.writes) == 1
    assert one.socket.sent[:2] == ["media", "mark"]
    sent = [message for write in one.socket.writes for message in write]
    assert all(message["streamSid"] == "MZ1" for message in sent)
    await one.hang_up()


@on_virtual_time
async def test_a_clear_overtakes_audio_that_waits() -> None:
    one = await line()
    one.socket.crowded, one.socket.waiting_bytes = True, 9000
    one.call.tell(*TWO_SECONDS)
    assert one.socket.writes == []
    one.call.tell(ev.CallerSpeechStarted("c1"))
    assert one.socket.sent == ["clear"]
    one.socket.crowded, one.socket.waiting_bytes = False, 0
    await asyncio.sleep(1)
    assert "media" not in one.socket.sent, "what waited is void"
    await one.hang_up()


@on_virtual_time
async def test_audio_that_waited_leaves_when_the_network_takes_it() -> None:
    one = await line()
    one.socket.crowded, one.socket.waiting_bytes = True, 9000
    one.call.tell(*TWO_SECONDS)
    await asyncio.sleep(0.05)
    assert one.socket.writes == []
    one.socket.crowded, one.socket.waiting_bytes = False, 0
    await asyncio.sleep(0.03)
    assert one.socket.sent[:2] == ["media", "mark"]
    await one.hang_up()


@on_virtual_time
async def test_a_carrier_that_does_not_read_ends_the_call_within_ten_seconds_and_little_memory() -> None:
    one = await line()
    one.socket.crowded = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    one.call.tell(ev.ResponseStarted("r1"))
    for number in range(300):
        one.call.tell(ev.ModelSpoke("r1", "i1", 0, b"\x01" * 1600, 200.0))
        waiting = one.socket.waiting_bytes + sum(map(len, one.leg._media))
        assert waiting < 100_000
        if one.call.task.done():
            break
        await asyncio.sleep(0.2 if number > 10 else 0)
    assert await one.ended() is EndReason.STALLED
    assert loop.time() - began < 10
    assert one.socket.closed


@on_virtual_time
async def test_nothing_is_left_of_a_leg_that_closed() -> None:
    one = await line()
    one.socket.crowded, one.socket.waiting_bytes = True, 9000
    one.call.tell(*TWO_SECONDS)
    one.leg.close()
    one.leg.close()
    one.leg.flush()
    one.leg.clear()
    one.leg.play(do.PlayAudio(b"\x01" * 80, 10.0))
    one.leg.flush()
    assert one.socket.writes == []
    await one.hang_up()
    assert not [timer for timer in getattr(asyncio.get_running_loop(), "_scheduled", []) if not timer.cancelled()]


# ---------------------------------------------------------------- anything at all


@on_virtual_time
async def test_no_order_of_messages_breaks_a_call() -> None:
    """Right ones, wrong ones, ours, others', late, early, twice: a call goes on or ends with a reason, never a bug."""
    dice = random.Random(20)
    reasons: set[EndReason] = set()
    for _ in range(150):
        one = await line()
        one.call.tell(ev.ResponseStarted("r1"))
        for _ in range(80):
            stream = dice.choice(["MZ1"] * 6 + ["MZ9"])
            match dice.randrange(14):
                case 0 | 1 | 2 | 3:
                    one.media(
                        dice.randrange(256),
                        stream_id=stream,
                        at_ms=max(0, one.at_ms + dice.choice([0] * 9 + [-40, 60, -5000, 10**9])),
                    )
                case 4 | 5:
                    sent = [m["mark"]["name"] for w in one.socket.writes for m in w if m["event"] == "mark"]  # type: ignore[index]
                    name = dice.choice([*sent[-4:], "0.0", "9.9", "", "x" * 500])
                    one.says({"event": "mark", "streamSid": stream, "mark": {"name": name}})
                case 6:
                    one.says(
                        {"event": "dtmf", "streamSid": stream, "dtmf": {"digit": dice.choice("0123456789*#ABCDx")}}
                    )
                case 7:
                    one.says(dice.randbytes(dice.randrange(60)), is_text=dice.random() < 0.8)
                case 8:
                    one.call.tell(ev.ModelSpoke("r1", f"i{dice.randrange(3)}", 0, b"\x01" * 800, 100.0))
                case 9:
                    one.call.tell(dice.choice([ev.CallerSpeechStarted("c1"), ev.CallerSpeechStopped("c1")]))
                case 10:
                    one.socket.crowded = not one.socket.crowded
                    one.socket.waiting_bytes = 9000 if one.socket.crowded else 0
                case 11 | 12:
                    await asyncio.sleep(dice.choice([0, 0.02, 0.3, 2.0]))
                case 13 if dice.random() < 0.1:
                    last = dice.choice(["stop", "start", "close"])
                    if last == "close":
                        one.leg.socket_closed(1006, "")
                    else:
                        one.says({"event": last, "streamSid": stream, "start": {"callSid": "CA1"}})
        await one.hang_up()
        reasons.add(one.call.driver.ended.result())
        assert one.socket.closed and not one.leg._media
    assert EndReason.BUG not in reasons and len(reasons) >= 3
