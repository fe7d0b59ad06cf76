"""The media socket's door over loopback: who gets in, who does not, and what that costs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientConnectionResetError, WSMsgType, web
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from bridge.errors import EndReason
from bridge.live.driver import Driver
from bridge.live.places import Places
from bridge.live.switchboard import Expected, Switchboard
from bridge.live.websocket import CallSocket
from bridge.settings import Directory
from bridge.telephony.signature import SIGNATURE, sign
from bridge.web import media as media_door
from bridge.web.app import make_app, validator_for
from bridge.web.listen import Listener
from bridge.web.media import MediaDoor
from tests.live.calls import Nobody
from tests.live.houses import PUBLIC_URL, TOKEN, house, incoming
from tests.live.services import Service
from tests.live.wires import frame

PATH = "/twilio/media"
SIGNED_URL = PUBLIC_URL.replace("https:", "wss:") + PATH
PATIENCE_S = 10.0


class House:
    """A listening door, its switchboard, and a model service that opens at once."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        settings = house(folder / "config")
        self.service = Service(talks=True)
        self.ended: dict[str, EndReason] = {}
        self.board = Switchboard(
            Directory(settings),
            Nobody(),
            places=Places(1000),
            dial=self.service.dial,
            ended=lambda driver, reason: self.ended.update({driver.plan.carrier_call_id: reason}),
        )
        self.door = MediaDoor(self.board, validator_for(settings), **limits)
        self.listener = Listener(make_app(settings, self.board, media=self.door.handle), settings)
        self.open: list[ClientConnection] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener.port}{PATH}"

    def token(self, call_id: str = "CA1", **more: Any) -> str:
        answer = self.board.expect(incoming(call_id, **more))
        assert isinstance(answer, Expected)
        return answer.token

    async def knock(self, *, headers: dict[str, str] | None = None, **more: Any) -> ClientConnection:
        connection = await connect(
            self.url, additional_headers=headers, compression=None, proxy=None, open_timeout=PATIENCE_S, **more
        )
        self.open.append(connection)
        return connection

    async def stream(self, token: str, call_id: str = "CA1", stream_id: str = "MZ1", **more: Any) -> ClientConnection:
        connection = await self.knock()
        await connection.send(CONNECTED)
        await connection.send(start(token, call_id, stream_id, **more))
        return connection

    async def until(self, ready: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not ready():
                await asyncio.sleep(0.002)

    def driver(self, call_id: str = "CA1") -> Driver:
        driver = self.board.find(call_id)
        assert driver is not None
        return driver


CONNECTED = json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})


def start(
    token: str | None, call_id: str = "CA1", stream_id: str = "MZ1", *, account_id: str = "AC1", **body: Any
) -> str:
    begun = {
        "accountSid": account_id,
        "streamSid": stream_id,
        "callSid": call_id,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {} if token is None else {"token": token},
        **body,
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": begun, "streamSid": stream_id})


def media(number: int, sound: int = 1, stream_id: str = "MZ1") -> str:
    payload = base64.b64encode(bytes([sound]) * 160).decode()
    body = {"track": "inbound", "chunk": str(number + 1), "timestamp": str(number * 20), "payload": payload}
    return json.dumps({"event": "media", "sequenceNumber": str(number + 2), "media": body, "streamSid": stream_id})


async def closed(connection: ClientConnection) -> int:
    """The code the door closed with."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await connection.recv()
            except ConnectionClosed:
                assert connection.close_code is not None
                return connection.close_code


Open = Callable[..., Awaitable[House]]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    houses: list[House] = []

    async def begin(**limits: Any) -> House:
        one = House(tmp_path, **limits)
        await one.listener.start()
        houses.append(one)
        return one

    yield begin
    for one in houses:
        for connection in one.open:
            connection.transport.abort()
        await one.board.drain(0)
        one.door.close()
        await one.listener.close()


# ---------------------------------------------------------------- getting in


async def test_a_stream_with_its_token_is_the_calls_leg_and_audio_goes_both_ways(opened: Open) -> None:
    one = await opened()
    stream = await one.stream(one.token())
    for number in range(5):
        await stream.send(media(number))
    await one.until(lambda: one.service.sockets and len(one.service.last.heard) > 0)
    one.service.last.answers("r1", ms=300)
    events = []
    async with asyncio.timeout(PATIENCE_S):
        while "media" not in events:
            events.append(json.loads(await stream.recv())["event"])
    await stream.send(json.dumps({"event": "stop", "sequenceNumber": "9", "stop": {}, "streamSid": "MZ1"}))
    assert await closed(stream) == 1000
    await one.until(lambda: one.ended == {"CA1": EndReason.CALLER_LEFT})
    assert one.service.attempts == 1 and one.service.last.closed


async def test_aiohttps_client_gets_in_as_well(opened: Open) -> None:
    one = await opened()
    token = one.token()
    async with aiohttp.ClientSession() as session, session.ws_connect(one.url, compress=15) as socket:
        assert not socket.compress, "compression is not agreed on"
        await socket.send_str(CONNECTED)
        await socket.send_str(start(token))
        await socket.ping(b"x")
        await socket.send_str(media(0))
        message = await asyncio.wait_for(socket.receive(), PATIENCE_S)
        assert message.type is WSMsgType.TEXT and message.json()["event"] == "mark"
        await socket.close(code=1000)
    await one.until(lambda: one.ended == {"CA1": EndReason.STREAM_LOST})


async def test_messages_that_come_with_the_handshake_are_not_lost(opened: Open) -> None:
    one = await opened()
    token = one.token()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
    head = (
        f"GET {PATH} HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    everything = head + b"".join(frame(text.encode()) for text in (CONNECTED, start(token), media(0), media(1)))
    for at in range(0, len(everything), 211):
        writer.write(everything[at : at + 211])
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 101 ")
    await one.until(lambda: one.service.sockets and one.service.last.heard)
    writer.transport.abort()
    await one.until(lambda: one.ended == {"CA1": EndReason.STREAM_LOST})


class Alone:
    """A worker whose colleagues own nothing."""

    def worker_of(self, token: str) -> int | None:
        return None

    async def hand_over(self, worker: int, descriptor: int, *, ip: str, said: bytes) -> bool:
        raise AssertionError("nobody to hand it over to")


@pytest.mark.parametrize("ending", ["refused", "cut off"])
async def test_of_a_stream_that_was_refused_or_has_closed_nothing_is_kept(opened: Open, ending: str) -> None:
    one = await opened(colleagues=Alone())
    _, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    writer.write(frame(CONNECTED.encode()))
    await one.until(lambda: any(stream.said for stream in one.door.streams))
    (stream,) = one.door.streams
    if ending == "refused":
        writer.write(frame(media(0).encode()))
        await one.until(lambda: not stream.socket.open)
    else:
        writer.transport.abort()
        await one.until(lambda: stream.socket.finished)
    assert stream.said is None
    writer.transport.abort()


async def test_two_calls_at_once_hear_only_themselves(opened: Open) -> None:
    one = await opened()
    tokens = {"CA1": one.token("CA1", agent="alpha"), "CA2": one.token("CA2", agent="beta")}
    alpha = await one.stream(tokens["CA1"], "CA1", "MZ1")
    beta = await one.stream(tokens["CA2"], "CA2", "MZ2")
    await one.until(lambda: len(one.service.sockets) == 2)
    await one.until(lambda: all(socket.of("response.create") for socket in one.service.sockets))
    voices = {s.of("session.update")[0]["session"]["audio"]["output"]["voice"]: s for s in one.service.sockets}
    for number in range(20):
        await beta.send(media(number, 9, "MZ2"))
        await alpha.send(media(number, 9, "MZ2"))  # says it is the other's: dropped
    await one.until(lambda: len(voices["cedar"].heard) >= 20 * 960 - 960)
    assert voices["marin"].heard == b""
    voices["cedar"].answers("r1", ms=100)
    async with asyncio.timeout(PATIENCE_S):
        while json.loads(await beta.recv())["event"] != "media":
            pass
    await alpha.send(json.dumps({"event": "stop", "streamSid": "MZ1"}))
    while True:
        try:
            assert json.loads(await alpha.recv())["event"] != "media"
        except ConnectionClosed:
            break
    assert one.board.active_calls == 1 and not voices["cedar"].closed


# ---------------------------------------------------------------- not getting in


@pytest.mark.parametrize(
    "what",
    [
        "no token",
        "wrong token",
        "used token",
        "expired token",
        "another call",
        "an unknown call",
        "another account",
        "other audio",
        "a call that ended",
    ],
)
async def test_a_stream_that_cannot_prove_itself_is_closed_with_1008(opened: Open, what: str) -> None:
    one = await opened()
    token, other = one.token("CA1"), one.token("CA2")
    said = start(token)
    match what:
        case "no token":
            said = start(None)
        case "wrong token":
            said = start(token[:-1] + "?")
        case "used token":
            await one.stream(token)
            await one.until(lambda: one.driver().call.state.stream_id)
        case "expired token":
            one.board._lines["CA1"].token_until = 0.0
        case "another call":
            said = start(other, "CA1")
        case "an unknown call":
            said = start(token, "CA9")
        case "another account":
            said = start(token, account_id="AC2")
        case "other audio":
            said = start(token, mediaFormat={"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1})
        case "a call that ended":
            one.board.ended_by_status("CA1", "completed")
            await one.until(lambda: "CA1" in one.ended)
    connection = await one.knock()
    await connection.send(CONNECTED)
    with capture_logs() as logs:
        await connection.send(said)
        assert await closed(connection) == 1008
    assert token not in str(logs) and other not in str(logs)
    assert one.service.attempts <= 2, "the webhooks' own sessions and no more"


@pytest.mark.parametrize(
    "said",
    [
        media(0),
        json.dumps({"event": "stop", "streamSid": "MZ1"}),
        json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": "x"}}),
        json.dumps({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": "1"}}),
        "{",
        "[]",
        b"\x00",
        json.dumps({"event": "start", "streamSid": "MZ1", "start": {}}),
    ],
    ids=["media", "stop", "mark", "dtmf", "broken", "list", "binary", "bare start"],
)
async def test_anything_before_start_is_closed_with_1008(opened: Open, said: str | bytes) -> None:
    one = await opened()
    connection = await one.knock()
    await connection.send(CONNECTED)
    await connection.send(said)
    assert await closed(connection) == 1008
    assert one.service.attempts == 0


async def test_events_nobody_knows_are_tolerated_before_start_but_not_for_ever(opened: Open) -> None:
    one = await opened()
    connection = await one.knock()
    novelty = json.dumps({"event": "novelty"})
    for _ in range(5):
        await connection.send(novelty)
    await connection.send(start(one.token()))
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    flood = await one.knock()
    for _ in range(11):
        await flood.send(novelty)
    assert await closed(flood) == 1008
    heavy = await one.knock()
    for _ in range(2):
        await heavy.send(json.dumps({"event": "novelty", "x": "y" * 40_000}))
    assert await closed(heavy) == 1008


async def test_a_socket_that_says_nothing_is_closed_with_1008(opened: Open) -> None:
    one = await opened(start_s=0.1)
    silent, polite = await one.knock(), await one.knock()
    await polite.send(CONNECTED)
    assert [await closed(silent), await closed(polite)] == [1008, 1008]
    late = await one.stream(one.token())
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    await asyncio.sleep(0.15)
    assert late.close_code is None, "whoever has proven itself has no deadline"


async def test_a_start_that_waits_to_be_read_came_in_time(opened: Open) -> None:
    one = await opened(start_s=0.3)
    one.board.together.begin()  # and nobody turns: the process stands still
    silent = await one.knock()
    late = await one.stream(one.token())
    await one.until(lambda: one.board.together.packets)
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    assert await closed(silent) == 1008
    one.board.together.end()
    assert late.close_code is None


async def test_a_second_start_on_a_stream_ends_the_call(opened: Open) -> None:
    one = await opened()
    token = one.token()
    stream = await one.stream(token)
    await stream.send(start(token))
    assert await closed(stream) == 1008
    await one.until(lambda: one.ended == {"CA1": EndReason.PROTOCOL})


async def test_ten_thousand_guesses_open_no_session_with_a_model(opened: Open) -> None:
    """One socket per guess would only measure the loopback: the door is asked directly, and over sockets a hundred."""
    one = await opened()
    dice = random.Random(11)
    one.token()
    for _ in range(10_000):
        guess = base64.urlsafe_b64encode(dice.randbytes(24)).decode()
        assert one.board.claim(guess, "CA1") is None
    for _ in range(100):
        connection = await one.stream(base64.urlsafe_b64encode(dice.randbytes(24)).decode())
        assert await closed(connection) == 1008
    assert one.service.attempts == 1 and one.board.active_calls == 1
    stream = await one.stream(one.token())
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    assert stream.close_code is None, "the right one still works"


# ---------------------------------------------------------------- signatures


async def test_a_rightly_signed_upgrade_is_welcome_and_a_forged_one_is_403(opened: Open) -> None:
    one = await opened()
    right = sign(TOKEN, SIGNED_URL, ())
    connection = await one.knock(headers={SIGNATURE: right})
    await connection.close()
    other = sign(TOKEN, SIGNED_URL + "?x=1", ())
    for forged in ("", "x", "A" + right[1:], right + "=", right.swapcase(), sign("other", SIGNED_URL, ()), other):
        with pytest.raises(InvalidStatus) as refused:
            await one.knock(headers={SIGNATURE: forged})
        assert refused.value.response.status_code == 403, forged
    assert one.service.attempts == 0


@pytest.mark.parametrize(
    "change",
    [
        {"Upgrade": "h2c"},
        {"Connection": "close"},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZQ=="},
        {"Sec-WebSocket-Key": "???"},
        {"Sec-WebSocket-Version": "8"},
        {"Content-Length": "5"},
    ],
)
async def test_what_is_no_upgrade_to_a_websocket_is_426(opened: Open, change: dict[str, str]) -> None:
    one = await opened()
    headers = {
        "Host": "bridge",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **change,
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
    head = f"GET {PATH} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    writer.write(head.encode() + b"hello")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert answer.split(b" ")[1] in (b"426", b"400"), answer
    assert not one.door._waiting


# ---------------------------------------------------------------- caps


async def test_who_resets_while_they_are_let_in_is_no_fault_of_ours(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset(self: media_door._Upgrade, request: web.BaseRequest) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    one = await opened()
    monkeypatch.setattr(media_door._Upgrade, "prepare", reset)
    with capture_logs() as logs:
        with pytest.raises((InvalidMessage, InvalidStatus)):
            await one.knock()
        assert one.door._waiting.total() == 0
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_sockets_without_a_start_are_capped_per_address_and_given_back(opened: Open) -> None:
    one = await opened(pre_start=5, pre_start_per_ip=3)
    waiting = [await one.knock() for _ in range(3)]
    with pytest.raises(InvalidStatus) as refused:
        await one.knock()
    assert refused.value.response.status_code == 503
    waiting[0].transport.abort()
    await waiting[1].close()
    await one.until(lambda: one.door._waiting.total() == 1)
    proven = await one.stream(one.token())
    await one.until(lambda: one.door._waiting.total() == 1)
    for _ in range(2):
        await one.knock()
    with pytest.raises(InvalidStatus):
        await one.knock()
    assert proven.close_code is None
    await proven.close()
    await one.until(lambda: "CA1" in one.ended)
    assert one.door._waiting.total() == 3, "a proven stream was given back once"


async def test_a_signed_stream_is_not_held_back_by_those_who_say_nothing(opened: Open) -> None:
    """Behind a proxy all of them come from one address."""
    one = await opened(pre_start=3, pre_start_per_ip=3)
    for _ in range(3):
        await one.knock()
    with capture_logs() as logs, pytest.raises(InvalidStatus):
        await one.knock()
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["media_stream_held_back"]
    for _ in range(5):
        await one.knock(headers={SIGNATURE: sign(TOKEN, SIGNED_URL, ())})
    assert one.door._waiting.total() == 8


async def test_a_hundred_silent_sockets_are_all_gone_and_calls_connect_meanwhile(opened: Open) -> None:
    one = await opened(start_s=0.3, pre_start=200, pre_start_per_ip=200)
    silent = await asyncio.gather(*(one.knock() for _ in range(100)))
    stream = await one.stream(one.token())
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    assert set(await asyncio.gather(*map(closed, silent))) == {1008}
    await one.until(lambda: not one.door._waiting)
    assert stream.close_code is None


@pytest.mark.parametrize("proven", [False, True])
async def test_a_message_of_more_than_64_kib_is_closed_with_1009(opened: Open, proven: bool) -> None:
    one = await opened()
    connection = await (one.stream(one.token()) if proven else one.knock())
    await connection.send("x" * 65_537)
    assert await closed(connection) == 1009
    if proven:
        await one.until(lambda: one.ended == {"CA1": EndReason.STREAM_LOST})


# ---------------------------------------------------------------- the second stream


async def test_what_a_carrier_does_not_read_is_not_piled_up_in_the_kernel(opened: Open) -> None:
    one = await opened()
    await one.stream(one.token())
    (stream,) = one.door.streams
    connection = stream._transport.get_extra_info("socket")
    assert connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF) <= 2 * 32_768


async def test_of_two_streams_of_a_call_the_newest_wins(opened: Open) -> None:
    one = await opened()
    older = await one.stream(one.token(), stream_id="MZ1")
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    await one.until(lambda: one.service.sockets)
    newer = await one.stream(one.token(), stream_id="MZ2")
    assert await closed(older) == 1000
    await one.until(lambda: one.driver().call.state.stream_id == "MZ2")
    await newer.send(media(0, stream_id="MZ2"))
    await one.until(lambda: one.service.last.heard)
    assert one.service.attempts == 1 and one.board.active_calls == 1 and not one.ended
    await newer.send(json.dumps({"event": "stop", "streamSid": "MZ2"}))
    assert await closed(newer) == 1000
    await one.until(lambda: one.ended == {"CA1": EndReason.CALLER_LEFT})


async def test_a_hundred_races_of_two_streams_leave_one(opened: Open) -> None:
    one = await opened(pre_start_per_ip=200)
    for number in range(100):
        call_id = f"CA{number}"
        first = one.token(call_id)
        one.board._lines[call_id].token = ""  # it was used, and the webhook came again
        second = one.token(call_id)
        one.board._lines[call_id].token = first
        streams = [await one.stream(first, call_id, "MZa")]
        await one.until(lambda call_id=call_id: not one.board._lines[call_id].token)
        one.board._lines[call_id].token = second
        streams.append(await one.stream(second, call_id, "MZb"))
        assert await closed(streams[0]) == 1000
        await one.until(lambda call_id=call_id: one.driver(call_id).call.state.stream_id == "MZb")
        assert streams[1].close_code is None
    assert one.service.attempts == 100
    await one.board.drain(0)
    assert len(one.ended) == 100


# ---------------------------------------------------------------- the end of the house


async def test_streams_are_closed_in_order_when_the_house_closes(opened: Open) -> None:
    one = await opened()
    stream, waiting = await one.stream(one.token()), await one.knock()
    await one.until(lambda: one.driver().call.state.stream_id == "MZ1")
    await one.board.drain(0)
    assert await closed(stream) == 1000
    assert one.ended == {"CA1": EndReason.DRAINED}
    one.door.close()
    one.door.close()
    assert await closed(waiting) == 1001
    await one.listener.close()
    assert not one.door._waiting


async def test_sockets_leave_no_file_and_no_task_behind(opened: Open) -> None:
    one = await opened(pre_start_per_ip=200)
    await (await one.knock()).close()
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    for number in range(40):
        call_id = f"CA{number}"
        stream = await one.stream(one.token(call_id), call_id)
        await one.until(lambda call_id=call_id: one.driver(call_id).call.state.stream_id)
        match number % 4:
            case 0:
                await stream.send(json.dumps({"event": "stop", "streamSid": "MZ1"}))
                await closed(stream)
            case 1:
                stream.transport.abort()
            case 2:
                await stream.close(1001)
            case 3:
                one.board.ended_by_status(call_id, "completed")
                await closed(stream)
    await one.until(lambda: len(one.ended) == 40)
    one.open.clear()
    await one.until(lambda: len(os.listdir("/proc/self/fd")) <= files and len(asyncio.all_tasks()) <= tasks)
    assert not one.door._waiting and not one.door.streams


async def test_an_upgrade_that_breaks_gives_its_place_back(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Any, request: Any) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("bridge.web.media._Upgrade.prepare", broken)
    one = await opened()
    with pytest.raises(InvalidStatus):
        await one.knock()
    assert not one.door._waiting


async def test_sockets_without_a_start_are_capped_in_all_and_signed_ones_do_not_count(opened: Open) -> None:
    one = await opened(pre_start=3, pre_start_per_ip=10)
    for _ in range(3):
        await one.knock(headers={SIGNATURE: sign(TOKEN, SIGNED_URL, ())})
    for _ in range(3):
        await one.knock()
    with pytest.raises(InvalidStatus) as refused:
        await one.knock()
    assert refused.value.response.status_code == 503


async def test_a_stream_of_another_rate_than_was_agreed_on_is_closed_with_1008(opened: Open) -> None:
    one = await opened()
    wide = {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1}
    assert await closed(await one.stream(one.token(), mediaFormat=wide)) == 1008
    assert one.driver().call.state.stream_id == ""


async def test_a_stream_that_has_proven_itself_is_pinged_from_then_on(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(CallSocket, "keep_alive", lambda self, *, every_s, within_s: asked.append((every_s, within_s)))
    one = await opened()
    await one.knock()
    await one.stream(one.token())
    await one.until(lambda: asked)
    assert asked == [(10.0, 5.0)]


class Elsewhere:
    """Colleagues one of whom has every call, and who take a stream when they are let."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.let = asyncio.Event()

    def worker_of(self, token: str) -> int | None:
        return 1

    async def hand_over(self, worker: int, descriptor: int, *, ip: str, said: bytes) -> bool:
        self.given.append(said)
        await self.let.wait()
        return True


async def test_a_stream_that_is_handed_over_takes_all_it_said_along_and_is_read_here_no_more(opened: Open) -> None:
    elsewhere = Elsewhere()
    one = await opened(colleagues=elsewhere)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    said = b"".join(frame(text.encode()) for text in (CONNECTED, start("1.token"), media(0), media(1)))
    writer.write(said)
    await one.until(lambda: elsewhere.given)
    (stream,) = one.door.streams
    assert elsewhere.given == [said]
    assert not one.door._waiting, "it waits for nothing here any more"
    assert not stream._transport.is_reading(), "what follows is for the other worker"
    elsewhere.let.set()
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b"", "nothing is said on the wire here"
    writer.close()


async def test_a_stream_that_cannot_be_adopted_gives_its_place_back(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise OSError("bad file descriptor")

    one = await opened()
    ours, theirs = sockets.socketpair()
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", broken)
    with ours:
        await one.door.adopt(theirs, "10.0.0.1", b"")
        assert not one.door._waiting and theirs.fileno() == -1
