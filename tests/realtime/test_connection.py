"""The connection, against a service that does what each test writes down."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from typing import Any

import msgspec
import pytest
from websockets.typing import Subprotocol

from bridge.errors import RealtimeError, UsageError
from bridge.realtime import connect
from bridge.realtime.connection import RealtimeConnection
from bridge.realtime.opening import MAX_FRAME_BYTES
from bridge.realtime.profiles import builtin
from tests.realtime.service import Service, refusal, running

KEY = "sk-very-secret-0123456789"
HARMLESS = {"type": "error", "error": {"code": "response_cancel_not_active", "message": "no active response"}}
FATAL = {
    "type": "error",
    "error": {"code": "insufficient_quota", "message": "no credit", "param": "p"},
    "request_id": "r1",
}


async def join(service: Service, **options: Any) -> RealtimeConnection:
    connection = await connect(url=service.url, api_key=KEY, **options)
    await asyncio.wait_for(service.connected.wait(), 5)
    return connection


async def test_events_go_both_ways() -> None:
    async with running() as service, connect(url=service.url, api_key=KEY, model="m") as connection:
        await connection.send({"type": "session.update", "session": {}})
        await connection.send('{"type":"response.create"}')
        await connection.send(b'{"type":"response.cancel"}')
        assert [event["type"] for event in await service.heard(3)] == [
            "session.update",
            "response.create",
            "response.cancel",
        ]
        await service.say({"type": "session.created", "session": {"id": "s"}})
        message = await connection.receive()
        assert message.event == {"type": "session.created", "session": {"id": "s"}}
        assert message.text is not None and json.loads(message.text) == message.event
        assert message.audio is None
        assert service.requests[0].path == "/v1/realtime?model=m"
        assert service.requests[0].headers["Authorization"] == f"Bearer {KEY}"
        assert "Sec-WebSocket-Extensions" not in service.requests[0].headers


async def test_audio_is_decoded_beside_its_event_in_both_shapes_and_from_binary_frames() -> None:
    async with running() as service:
        connection = await join(service)
        delta = base64.b64encode(b"\1\2\3\4").decode()
        await service.say(
            {"type": "response.output_audio.delta", "delta": delta},
            {"type": "response.audio.delta", "delta": delta},
            b"\5\6",
        )
        first, second, third = [await connection.receive() for _ in range(3)]
        assert first.audio == second.audio == b"\1\2\3\4"
        assert first.event is not None and first.event["delta"] == delta
        assert (third.event, third.text, third.audio) == (None, None, b"\5\6")
        await connection.close()


async def test_what_is_no_event_is_still_a_message() -> None:
    async with running() as service:
        connection = await join(service)
        await service.say(
            "not json", "[1]", '{"type":"never.heard.of","x":1}', '{"type":"response.audio.delta","delta":"@"}'
        )
        texts = [await connection.receive() for _ in range(4)]
        assert [(m.text, m.event) for m in texts[:2]] == [("not json", None), ("[1]", None)]
        assert texts[2].event == {"type": "never.heard.of", "x": 1}
        assert texts[3].audio is None and texts[3].event is not None
        await connection.close()


async def test_send_audio_appends_base64_or_sends_binary_frames_as_the_profile_says() -> None:
    async with running() as service:
        connection = await join(service)
        await connection.send_audio(b"\1\2" * 10)
        await connection.send_audio(memoryview(bytearray(4)))
        first, second = await service.heard(2)
        assert (first["type"], base64.b64decode(first["audio"])) == ("input_audio_buffer.append", b"\1\2" * 10)
        assert base64.b64decode(second["audio"]) == bytes(4)
        await connection.close()
    binary = msgspec.structs.replace(builtin()["local"], binary_audio=True)
    async with running() as service:
        connection = await join(service, profile=binary)
        await connection.send_audio(b"\1\2")
        assert await service.heard(1) == [b"\1\2"]
        await connection.close()


async def test_long_audio_is_appended_in_pieces() -> None:
    async with running() as service:
        connection = await join(service)
        await connection.send_audio(bytes((1 << 20) + 2))
        first, second = await service.heard(2)
        assert (len(base64.b64decode(first["audio"])), len(base64.b64decode(second["audio"]))) == (1 << 20, 2)
        await connection.close()


async def test_harmless_errors_are_messages_and_harmful_ones_raise() -> None:
    async with running() as service:
        connection = await join(service)
        await service.say(HARMLESS, FATAL, {"type": "ping"})
        assert (await connection.receive()).event == HARMLESS
        with pytest.raises(RealtimeError) as caught:
            await connection.receive()
        error = caught.value
        assert (error.code, error.message, error.param, error.request_id) == (
            "insufficient_quota",
            "no credit",
            "p",
            "r1",
        )
        assert (await connection.receive()).event == {"type": "ping"}
        await connection.close()


async def test_strict_raises_for_every_envelope() -> None:
    async with running() as service:
        connection = await join(service, strict=True)
        await service.say(HARMLESS, {"type": "error", "error": "just words"}, {"type": "error"})
        for code in ("response_cancel_not_active", "unknown", "unknown"):
            with pytest.raises(RealtimeError) as caught:
                await connection.receive()
            assert caught.value.code == code
        await connection.close()


async def test_iteration_ends_when_the_service_closes_in_order() -> None:
    async with running() as service:
        connection = await join(service)
        await service.say({"type": "a"}, {"type": "b"})
        await service.hang_up(1000)
        assert [message.event["type"] async for message in connection if message.event] == ["a", "b"]
        assert connection.close_code == 1000
        with pytest.raises(RealtimeError, match="connection_closed"):
            await connection.receive()


async def test_an_error_said_just_before_closing_is_why_the_iteration_ends() -> None:
    async with running() as service:
        connection = await join(service, profile="meshapi")
        busy = {"type": "error", "error": {"code": "concurrent_sessions_exceeded", "message": "too many"}}
        await service.say({"type": "a"}, busy)
        await service.hang_up(1008)
        seen = 0
        with pytest.raises(RealtimeError, match="concurrent_sessions_exceeded"):
            async for _ in connection:
                seen += 1
        assert seen == 2


async def test_a_broken_connection_is_told_from_a_closed_one() -> None:
    async with running() as service:
        connection = await join(service)
        service.break_off()
        with pytest.raises(RealtimeError, match="connection_lost"):
            await connection.receive()
        with pytest.raises(RealtimeError, match="connection_closed"):
            await connection.send({"type": "x"})


async def test_cancelling_a_receive_takes_effect_at_once_and_loses_nothing() -> None:
    async with running() as service:
        connection = await join(service)
        waiting = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await service.say({"type": "kept"})
        assert (await connection.receive()).event == {"type": "kept"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.receive()
        await service.say({"type": "kept too"})
        assert (await connection.receive()).event == {"type": "kept too"}
        await connection.close()


async def test_several_tasks_may_receive_and_each_message_goes_to_one() -> None:
    async with running() as service:
        connection = await join(service)
        receivers = [asyncio.create_task(connection.receive()) for _ in range(5)]
        await asyncio.gather(*(connection.send({"type": f"e{n}"}) for n in range(20)))
        assert len(await service.heard(20)) == 20
        await service.say(*({"type": str(number)} for number in range(5)))
        messages = await asyncio.gather(*receivers)
        assert sorted(m.event["type"] for m in messages if m.event) == ["0", "1", "2", "3", "4"]
        waiting = [asyncio.create_task(connection.receive()) for _ in range(3)]
        await asyncio.sleep(0)
        await connection.close()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, RealtimeError) for end in ends)


async def test_handlers_hear_messages_errors_and_the_close() -> None:
    async with running() as service:
        connection = await join(service)
        heard: list[Any] = []
        closed = asyncio.Event()

        async def on_message(message: Any) -> None:
            await asyncio.sleep(0)
            heard.append(message.event["type"])

        connection.on("message", on_message).on("error", lambda error: heard.append(error.code))
        connection.on("close", lambda code, reason: (heard.append((code, reason)), closed.set()))
        await service.say({"type": "a"}, HARMLESS, {"type": "b"})
        await service.hang_up(1001, "away")
        await asyncio.wait_for(closed.wait(), 5)
        assert heard == ["a", "error", "response_cancel_not_active", "b", (1001, "away")]


async def test_what_came_before_the_first_handler_is_not_lost() -> None:
    async with running() as service:
        connection = await join(service)
        errors: list[RealtimeError] = []
        connection.on("error", errors.append)
        await service.say({"type": "early"}, HARMLESS)
        while not errors:
            await asyncio.sleep(0)
        heard: list[Any] = []
        connection.on("message", lambda message: heard.append(message.event["type"]))
        await service.say({"type": "late"})
        while "late" not in heard:
            await asyncio.sleep(0)
        assert heard == ["early", "error", "late"]
        await connection.close()


@pytest.mark.parametrize("failure", [ValueError("mine"), asyncio.CancelledError()])
async def test_a_handler_that_raises_does_not_end_the_session(failure: BaseException) -> None:
    async with running() as service:
        connection = await join(service)
        heard: list[Any] = []

        async def broken(message: Any) -> None:
            raise failure

        def broken_close(code: int, reason: str) -> None:
            raise failure

        connection.on("message", broken).on("message", heard.append)
        await service.say({"type": "a"}, {"type": "b"})
        async with asyncio.timeout(5):
            while len(heard) < 2:
                await asyncio.sleep(0)
        closes: list[Any] = []
        connection.on("close", broken_close).on("close", lambda *how: closes.append(how))
        await connection.close()
        assert closes == [(1000, "")]
        with pytest.raises(UsageError):
            connection.on("mesage", broken)  # type: ignore[arg-type]


async def test_a_handler_may_close() -> None:
    async with running() as service:
        connection = await join(service)

        async def leave(message: Any) -> None:
            await connection.close()

        connection.on("message", leave)
        await service.say({"type": "a"})
        await asyncio.wait_for(connection._reader, 5)
        assert connection.close_code == 1000


async def test_closing_waits_for_the_handshake_and_twice_is_harmless() -> None:
    async with running() as service:
        connection = await join(service)
        await asyncio.gather(connection.close(), connection.close())
        assert connection.close_code == 1000
        await connection.close()
        async for _ in connection:
            raise AssertionError("nothing comes after the end")


async def test_a_large_message_is_taken_and_a_larger_one_ends_the_session() -> None:
    minutes_of_audio = 140 * 48_000 * 4 // 3  # as an item that is retrieved has it
    assert MAX_FRAME_BYTES > max(16 << 20, minutes_of_audio)
    async with running() as service:
        connection = await join(service)
        await service.say('"' + "x" * (MAX_FRAME_BYTES - 2) + '"')
        assert len((await connection.receive()).text or "") == MAX_FRAME_BYTES
        await service.say("x" * (MAX_FRAME_BYTES + 1))
        with pytest.raises(RealtimeError, match="connection_lost"):
            await connection.receive()
        assert connection.close_code == 1009


async def test_a_handler_that_takes_its_time_keeps_no_ping_from_being_answered() -> None:
    async with running() as service:
        connection = await join(service)
        go_on = asyncio.Event()
        heard: list[Any] = []

        async def slow(message: Any) -> None:
            await go_on.wait()
            heard.append(message.event["type"])

        connection.on("message", slow)
        await service.say(*({"type": str(number)} for number in range(600)))
        await service.answered_ping()
        assert heard == []
        go_on.set()
        await service.hang_up()
        await asyncio.wait_for(connection._reader, 5)
        assert heard == [str(number) for number in range(600)]


async def test_who_receives_slowly_keeps_no_ping_from_being_answered_and_loses_nothing() -> None:
    async with running() as service:
        connection = await join(service)
        await service.say({"type": "first"})
        await connection.receive()
        await service.say(*({"type": str(number)} for number in range(600)))
        await service.answered_ping()
        await service.hang_up()
        heard = [message.event["type"] async for message in connection if message.event]
        assert heard == [str(number) for number in range(600)]


async def test_the_socket_is_not_read_while_too_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.realtime.connection._MAX_WAITING_BYTES", 1 << 20)
    monkeypatch.setattr("bridge.realtime.connection._MAX_WAITING", 1)
    async with running() as service:
        connection = await join(service)
        frame = '"' + "x" * (1 << 17) + '"'
        async with asyncio.TaskGroup() as group:
            saying = group.create_task(service.say(*([frame] * 400)))
            while connection._waiting_bytes < 1 << 20:
                await asyncio.sleep(0)
            for _ in range(200):
                await asyncio.sleep(0)
            assert connection._waiting_bytes < (1 << 20) + 2 * len(frame)
            assert not saying.done()
            for _ in range(400):
                assert (await connection.receive()).text == frame
        await connection.close()


async def test_whoever_closes_while_too_much_waits_hears_how_the_service_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.realtime.connection._MAX_WAITING_BYTES", 1)
    monkeypatch.setattr("bridge.realtime.connection._MAX_WAITING", 1)
    async with running() as service:
        connection = await join(service)
        await service.say(*('{"type":"x"}' for _ in range(20)))
        await connection.close()
        assert connection.close_code == 1000


async def test_a_handler_that_hangs_is_left_and_the_close_is_told_with_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.realtime.connection.CLOSE_S", 0.05)
    async with running() as service:
        connection = await join(service)
        hangs = asyncio.Event()
        closes: list[Any] = []

        async def hang(message: Any) -> None:
            hangs.set()
            await asyncio.Event().wait()

        connection.on("message", hang).on("close", lambda *how: closes.append(how))
        await service.say({"type": "a"})
        await asyncio.wait_for(hangs.wait(), 5)
        await connection.close(1000, "enough")
        assert connection.close_code == 1000
        assert closes == [(1000, "enough")]
        await connection.close()
        assert len(closes) == 1


async def test_of_messages_nobody_asks_for_a_few_are_read_ahead() -> None:
    async with running() as service:
        connection = await join(service)
        async with asyncio.TaskGroup() as group:
            group.create_task(service.say(*('{"type":"x"}' for _ in range(600))))
            while connection._inbox.qsize() < 256:
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0)
            assert connection._inbox.qsize() == 256
            for _ in range(600):
                await connection.receive()
        await connection.close()


@pytest.mark.parametrize(
    ("status", "headers", "body", "code"),
    [
        (401, {}, "", "invalid_api_key"),
        (
            401,
            {"x-request-id": "q1"},
            '{"error":{"code":"account_deactivated","message":"gone"}}',
            "account_deactivated",
        ),
        (403, {}, "{", "forbidden"),
        (429, {"Retry-After": "2"}, "", "rate_limit_exceeded"),
        (503, {}, "<html>", "http_5xx"),
        (404, {}, "", "not_found"),
        (302, {"Location": "wss://elsewhere.example/steal"}, "", "redirect_refused"),
    ],
)
async def test_a_refused_handshake_has_a_code(status: int, headers: dict[str, str], body: str, code: str) -> None:
    service = Service()
    service.refuse = refusal(status, headers, body)
    async with running(service):
        with pytest.raises(RealtimeError) as caught:
            await connect(url=service.url, api_key=KEY)
    assert caught.value.code == code
    assert caught.value.request_id == headers.get("x-request-id")
    assert len(service.requests) == 1


async def test_a_redirect_to_another_place_of_the_same_service_is_not_followed_either() -> None:
    async with running() as target:
        service = Service()
        service.refuse = refusal(307, {"Location": target.url})
        async with running(service):
            with pytest.raises(RealtimeError, match="redirect_refused"):
                await connect(url=service.url, api_key=KEY)
        assert target.requests == []


async def test_nobody_listening_and_nobody_answering_are_told_apart() -> None:
    async with running() as service:
        port = service.port
    with pytest.raises(RealtimeError, match="connection_failed"):
        await connect(url=f"ws://127.0.0.1:{port}/")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never reads them
        port = silent.getsockname()[1]
        with pytest.raises(RealtimeError, match="connection_timeout"):
            await connect(url=f"ws://127.0.0.1:{port}/", timeout_s=0.05)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with running() as service:
        await (await join(service)).close()
        assert len(service.requests) == 1


async def test_a_key_as_subprotocol_is_offered_and_never_echoed() -> None:
    profile = msgspec.structs.replace(builtin()["openai"], auth="subprotocol")
    service = Service()
    service.subprotocols = [Subprotocol("realtime")]
    async with running(service):
        connection = await join(service, profile=profile)
        assert service.requests[0].headers["Sec-WebSocket-Protocol"] == f"realtime, openai-insecure-api-key.{KEY}"
        await connection.close()


async def test_the_key_is_in_no_log_error_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "meshapi"):
        service = Service()
        async with running(service):
            connection = await join(service, profile=name)
            await service.say({"type": "error", "error": {"code": "invalid_api_key", "message": f"bad key {KEY}"}})
            with pytest.raises(RealtimeError) as caught:
                await connection.receive()
            assert KEY not in f"{caught.value} {caught.value!r} {connection!r} {connection.target}"
            await connection.close()
        service = Service()
        service.refuse = refusal(401, body=json.dumps({"error": {"code": "invalid_api_key", "message": f"key {KEY}"}}))
        async with running(service):
            with pytest.raises(RealtimeError) as caught:
                await connect(profile=name, url=service.url, api_key=KEY)
            assert KEY not in f"{caught.value} {caught.value!r}"
    with pytest.raises(UsageError, match="api_key") as refused:
        await connect(url=service.url, api_key="bad\nkey")
    assert "bad" not in str(refused.value)
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert not [line for line in ours if KEY in line]


@pytest.mark.parametrize("timeout_s", [-1, 0, float("nan"), float("inf"), "5", None, True])
async def test_a_time_limit_that_is_none_is_refused_by_name(timeout_s: Any) -> None:
    with pytest.raises(UsageError, match=r"^timeout_s: found .*; write seconds, more than 0$"):
        await connect(url="ws://127.0.0.1:9", timeout_s=timeout_s)


@pytest.mark.parametrize(
    "option",
    [{"profile": None}, {"url": 5}, {"api_key": b"k"}, {"model": 5}, {"allow_plain": "no"}, {"strict": None}],
)
async def test_an_option_that_cannot_be_used_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(UsageError, match=f"^{name}: found"):
        await connect(**{"url": "ws://127.0.0.1:9", **option})


async def test_without_a_key_the_service_wants_nobody_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async def called(*_: object, **__: object) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("bridge.realtime.connection.open_socket", called)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-read")
    with pytest.raises(UsageError, match=r"^api_key: missing; profile openai refuses .*no variable of the environment"):
        await connect(profile="openai")
    for profile, url in (("openai", "wss://api.openai.com/v1/realtime"), ("azure", "wss://me.openai.azure.com")):
        with pytest.raises(UsageError, match=r"^api_key: missing"):
            async with connect(profile=profile, url=url):
                pass
    relay = "wss://relay.example.test/v1/realtime"
    for profile, url in (("openai", "ws://127.0.0.1:9"), ("local", relay), ("openai", relay), ("azure", relay)):
        with pytest.raises(AssertionError, match="touched"):
            await connect(profile=profile, url=url)


async def test_what_is_no_sound_no_handler_or_no_close_is_refused_and_nothing_is_sent() -> None:
    async with running() as service:
        connection = await join(service)
        with pytest.raises(UsageError, match=r"^pcm: found str; give bytes of the session's format"):
            await connection.send_audio("text")  # type: ignore[arg-type]
        for name, handler in (("message", None), (["message"], print)):
            with pytest.raises(UsageError):
                connection.on(name, handler)  # type: ignore[arg-type]
        for code, reason in ((5, ""), (1005, ""), ("x", ""), (1000, 5), (1000, "x" * 124)):
            with pytest.raises(UsageError, match=r"^close: code"):
                await connection.close(code, reason)  # type: ignore[arg-type]
        await connection.send({"type": "still open"})
        assert await service.heard(1) == [{"type": "still open"}]
        await connection.close()


async def test_what_cannot_be_an_event_is_refused_before_it_is_sent() -> None:
    async with running() as service:
        connection = await join(service)
        for event in ({}, {"type": 3}, {"type": "x", "y": object()}, [1], None, '{"type":"\ud800"}'):
            with pytest.raises(UsageError):
                await connection.send(event)  # type: ignore[arg-type]
        await connection.close()
        assert service.received == []


def test_an_unknown_profile_is_named_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match="there are openai, openai-beta"):
        connect(profile="opneai")


def test_an_address_that_cannot_be_read_is_named_without_its_query() -> None:
    with pytest.raises(UsageError, match=r"'ws://127\.0\.0\.1:99999/x' is not an address: Port out of range"):
        connect(url="ws://127.0.0.1:99999/x?key=k")


def test_plain_text_to_another_machine_needs_an_explicit_word() -> None:
    with pytest.raises(UsageError, match="unencrypted"):
        connect(url="ws://192.0.2.1/v1/realtime", api_key=KEY)


async def test_a_key_that_looks_like_nothing_in_particular_is_not_shown_either() -> None:
    key = "0123456789abcdef0123456789abcdef"  # an Azure resource's
    async with running() as service:
        async with await connect(url=service.url, api_key=key) as connection:
            await service.say({"type": "error", "error": {"code": "invalid_api_key", "message": f"bad key {key}"}})
            with pytest.raises(RealtimeError, match=r"bad key \[key\]"):
                await connection.receive()
            await service.hang_up(1008, f"bad key {key}")
            with pytest.raises(RealtimeError):
                await connection.receive()
            assert connection.close_reason == "bad key [key]"
        service.refuse = refusal(401, body=json.dumps({"error": {"code": "invalid_api_key", "message": f"key {key}"}}))
        with pytest.raises(RealtimeError, match=r"key \[key\]"):
            await connect(url=service.url, api_key=key)


async def test_a_service_that_goes_away_in_order_ends_an_iteration_in_order_and_tells_it_once() -> None:
    async with running() as service:
        connection = await join(service)
        ends: list[Any] = []
        connection.on("close", lambda code, reason: ends.append(code))
        await service.hang_up(1001, "going away")
        assert [message async for message in connection] == []
        await connection.close()
        await connection.close()
        assert ends == [1001]


async def test_a_service_that_takes_nothing_any_more_is_noticed_while_something_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library's own pings wait behind what is being sent."""
    monkeypatch.setattr("bridge.realtime.connection.PING_S", 0.2)
    async with running() as service:
        connection = await join(service)
        ended: list[object] = []
        connection.on("close", lambda *how: ended.append(how))
        service.stop_reading()

        async with asyncio.timeout(20):
            with pytest.raises(RealtimeError, match="closed"):
                await connection.send({"type": "long", "text": "x" * (24 << 20)})
            with pytest.raises(RealtimeError) as lost:
                await connection.receive()
        assert lost.value.code == "connection_lost" and connection.close_code == 1006 and ended


async def test_closing_does_not_wait_for_a_service_that_takes_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.realtime.connection._CUT_S", 0.2)
    async with running() as service:
        connection = await join(service)
        service.stop_reading()
        talking = [asyncio.create_task(connection.send_audio(bytes(1 << 23))) for _ in range(4)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await connection.close()
            assert all(isinstance(end, RealtimeError) for end in await asyncio.gather(*talking, return_exceptions=True))


async def test_a_slow_service_that_takes_something_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.realtime.connection.PING_S", 0.1)
    async with running() as service:
        connection = await join(service)
        sending = asyncio.create_task(connection.send({"type": "long", "text": "x" * (24 << 20)}))
        while not sending.done():
            service.stop_reading()
            await asyncio.sleep(0.03)
            service.go_on_reading()
            await asyncio.sleep(0.01)
        await sending
        assert (await service.heard_type("long"))[0]["type"] == "long"
        await connection.close()


async def test_bytes_that_are_no_text_are_refused_and_the_way_for_audio_is_said() -> None:
    async with running() as service, connect(url=service.url, api_key=KEY) as connection:
        with pytest.raises(UsageError, match="send_audio"):
            await connection.send(bytes([0xFF, 0x00]))
