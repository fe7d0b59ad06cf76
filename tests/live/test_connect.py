"""Dialling a model service that answers in every way a service can answer, and in some no service should."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.server import ServerProtocol

from bridge.errors import RealtimeError
from bridge.live import connect
from bridge.live.websocket import CallSocket
from tests.live.wires import frame

KEY = "sk-the-canary-0123456789"
HEADERS = [("Authorization", f"Bearer {KEY}")]
CERTIFICATE = Path(__file__).with_name("self-signed.pem")


class Line:
    """The callbacks of one dialling."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[int] = []
        self.changed = asyncio.Event()

    def message(self, payload: bytes, is_text: bool) -> None:
        self.messages.append(payload)
        self.changed.set()

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)
        self.changed.set()

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not ready():
                self.changed.clear()
                await self.changed.wait()

    async def dial(self, url: str, *, subprotocols: tuple[str, ...] = ()) -> CallSocket:
        async with asyncio.timeout(5):
            return await connect.dial(url, HEADERS, subprotocols, on_message=self.message, on_closed=self.close)


class Door:
    """A listening socket that answers the first bytes of each connection with what it was given."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.open: set[asyncio.StreamWriter] = set()
        self.left = asyncio.Event()  # a client has gone


@asynccontextmanager
async def door(
    *pieces: bytes | Callable[[bytes], bytes], pause_s: float = 0.0, tls: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Door, str]]:
    """`pieces` are written one after the other; a callable is given the request."""
    seen = Door()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.open.add(writer)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            seen.requests.append(request)
            for piece in pieces:
                writer.write(piece(request) if callable(piece) else piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            while await reader.read(65536):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            seen.open.discard(writer)
            writer.close()
            seen.left.set()

    server = await asyncio.start_server(answer, host, 0, ssl=own_tls() if tls else None)
    port = server.sockets[0].getsockname()[1]
    try:
        yield seen, f"{'wss' if tls else 'ws'}://{host}:{port}/v1/realtime?model=m&api_key={KEY}"
    finally:
        server.close()
        for writer in seen.open:
            writer.close()
        await server.wait_closed()


def own_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def welcome(request: bytes) -> bytes:
    """The right answer 101 to this request."""
    server = ServerProtocol()
    server.receive_data(request)
    (event,) = server.events_received()
    server.send_response(server.accept(event))  # type: ignore[arg-type]
    return b"".join(server.data_to_send())


async def refusal(url: str) -> RealtimeError:
    with pytest.raises(RealtimeError) as caught:
        await Line().dial(url)
    said = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__!r}"
    assert KEY not in said, "the key is in no error"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@asynccontextmanager
async def service(talk: Callable[[ServerConnection], Any], **options: Any) -> AsyncIterator[str]:
    async with serve(talk, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/realtime"


# ---------------------------------------------------------------- a service that behaves


async def _every_size_comes_back(line: Line, url: str) -> None:
    """From a peer that echoes; then the socket is closed."""
    socket = await line.dial(url)
    sent = [b"x" * length for length in (0, 1, 125, 126, 65_535, 65_536, 3 << 20)]
    for payload in sent:
        socket.send_binary(payload)
    await line.until(lambda: len(line.messages) == len(sent))
    assert line.messages == sent
    socket.close(1000)
    await line.until(lambda: bool(line.closed))


async def test_messages_of_every_length_go_both_ways() -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    line = Line()
    async with service(echo, max_size=16 << 20) as url:
        await _every_size_comes_back(line, url)
    assert line.closed == [1000]


async def test_the_key_and_the_subprotocols_travel_in_the_handshake_and_no_compression_is_offered() -> None:
    async with door(welcome) as (seen, url):
        socket = await Line().dial(url)
        request = seen.requests[0].decode()
        socket.abort()
    assert f"Authorization: Bearer {KEY}\r\n" in request
    assert "Sec-WebSocket-Extensions" not in request


async def test_what_comes_together_with_the_handshake_is_not_lost_and_stays_in_order() -> None:
    def eager(request: bytes) -> bytes:
        return welcome(request) + frame(b"created", mask=None) + frame(b"split", mask=None)[:3]

    line = Line()
    async with door(eager, frame(b"split", mask=None)[3:], frame(b"last", mask=None)) as (_, url):
        socket = await line.dial(url)
        await line.until(lambda: len(line.messages) == 3)
        assert line.messages == [b"created", b"split", b"last"]
        socket.abort()


async def test_a_handshake_answered_byte_by_byte_is_understood() -> None:
    async with door(lambda request: welcome(request)[:40], lambda request: welcome(request)[40:], pause_s=0.01) as (
        _,
        url,
    ):
        socket = await Line().dial(url)
        assert socket.open
        socket.abort()


async def test_the_service_closes() -> None:
    async def goodbye(connection: ServerConnection) -> None:
        await connection.close(1001, "maximum duration")

    line = Line()
    async with service(goodbye) as url:
        await line.dial(url)
        await line.until(lambda: bool(line.closed))
    assert line.closed == [1001]


async def test_the_service_is_cut_off() -> None:
    async def vanish(connection: ServerConnection) -> None:
        connection.transport.abort()

    line = Line()
    async with service(vanish) as url:
        await line.dial(url)
        await line.until(lambda: bool(line.closed))
    assert line.closed == [1006]


async def test_a_message_of_more_than_eight_mebibytes_ends_the_connection() -> None:
    left = asyncio.Event()

    async def shout(connection: ServerConnection) -> None:
        try:
            await connection.send(b"x" * (connect.MAX_BYTES + 1))
            await connection.wait_closed()
        finally:
            left.set()

    line = Line()
    async with service(shout) as url:
        await line.dial(url)
        await line.until(lambda: bool(line.closed))
        assert line.closed == [1009]
        async with asyncio.timeout(5):
            await left.wait()


# ---------------------------------------------------------------- one that refuses


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "invalid_api_key"),
        (403, "forbidden"),
        (404, "not_found"),
        (429, "rate_limit_exceeded"),
        (500, "http_5xx"),
        (503, "http_5xx"),
        (418, "refused"),
        (599, "http_5xx"),
        (200, "refused"),
    ],
)
async def test_an_http_status_is_a_plain_reason(status: int, code: str) -> None:
    body = b'{"error":"' + KEY.encode() + b'"}'
    answer = b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n" % (status, KEY.encode(), len(body))
    async with door(answer + body) as (_, url):
        error = await refusal(url)
    assert isinstance(error, connect.Refused)
    assert (error.status, error.code, error.retry_after_s) == (status, code, None)


async def test_a_refusal_is_known_without_its_body() -> None:
    async with door(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n") as (_, url):
        assert (await refusal(url)).code == "http_5xx"


@pytest.mark.parametrize(
    ("value", "expected"), [(b"2", 2.0), (b" 30 ", 30.0), (b"Wed, 21 Oct 2026", None), (b"-1", None), (b"9" * 9, None)]
)
async def test_retry_after_in_seconds_is_passed_on(value: bytes, expected: float | None) -> None:
    async with door(b"HTTP/1.0 429 Slow down\r\nretry-AFTER:%s\r\n\r\n" % value) as (_, url):
        error = await refusal(url)
    assert isinstance(error, connect.Refused) and error.retry_after_s == expected


async def test_a_redirect_is_refused_and_the_key_goes_nowhere_else() -> None:
    async with door(welcome) as (other, other_url):
        location = other_url.split("?")[0].encode()
        async with door(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % location) as (seen, url):
            error = await refusal(url)
        assert error.code == "redirect_refused"
        assert len(seen.requests) == 1 and not other.requests


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x00\x01\x02" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        b"HTTP/1.1 1",
        b"",
        b"x" * 70_000,
    ],
    ids=["ssh", "binary", "bare 101", "wrong accept", "half a line", "nothing", "no end"],
)
async def test_garbage_is_a_failed_connection(answer: bytes) -> None:
    async def answer_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(answer_and_leave, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await refusal(f"ws://127.0.0.1:{port}/?api_key={KEY}")
    assert error.code == "connection_failed"
    server.close()
    await server.wait_closed()


async def test_a_subprotocol_nobody_offered_is_refused() -> None:
    def presumptuous(request: bytes) -> bytes:
        return welcome(request).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: %s\r\n\r\n" % KEY.encode())

    async with door(presumptuous) as (_, url):
        assert (await refusal(url)).code == "connection_failed"


async def test_a_subprotocol_we_offered_may_be_chosen() -> None:
    async def nothing(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with service(nothing, subprotocols=["realtime"]) as url:
        socket = await Line().dial(url, subprotocols=("realtime", f"openai-insecure-api-key.{KEY}"))
        assert socket.open
        socket.close()


# ---------------------------------------------------------------- one that is not there


async def test_a_refused_connection_is_a_plain_reason(unused_tcp_port: int) -> None:
    error = await refusal(f"ws://127.0.0.1:{unused_tcp_port}/?api_key={KEY}")
    assert error.code == "connection_failed" and str(unused_tcp_port) in error.message


async def test_a_name_nobody_knows_is_a_plain_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await refusal(f"wss://nowhere.invalid/?api_key={KEY}")
    assert error.code == "connection_failed" and "nowhere.invalid" in error.message


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1/?api_key={KEY}",
        f"ws://127.0.0.1:99999/?api_key={KEY}",
        f"ws://127.0.0.1:x/?api_key={KEY}",
        f"ws:///?api_key={KEY}",
        f"ws://{'a' * 70}.example/?api_key={KEY}",
    ],
)
async def test_an_address_that_is_none_is_a_plain_reason(url: str) -> None:
    assert (await refusal(url)).code == "refused"


async def test_a_key_with_a_line_break_does_not_become_a_header_of_its_own() -> None:
    line = Line()
    async with door(welcome) as (seen, url):
        with pytest.raises(RealtimeError) as caught:
            await connect.dial(
                url, [("Authorization", f"Bearer {KEY}\r\nX: y")], (), on_message=line.message, on_closed=line.close
            )
        assert caught.value.code == "refused" and KEY not in str(caught.value)
        assert not seen.requests


# ---------------------------------------------------------------- TLS


async def test_a_certificate_nobody_we_trust_signed_is_refused() -> None:
    async with door(welcome, tls=True) as (seen, url):
        assert (await refusal(url)).code == "tls_failed"
        assert not seen.requests, "the key never left"


async def test_a_certificate_we_trust_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_tls", lambda: ssl.create_default_context(cafile=str(CERTIFICATE)))
    line = Line()
    async with door(lambda request: welcome(request) + frame(b"created", mask=None), tls=True) as (_, url):
        socket = await line.dial(url)
        await line.until(lambda: bool(line.messages))
        assert line.messages == [b"created"]
        socket.abort()


async def test_a_trusted_certificate_of_another_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_tls", lambda: ssl.create_default_context(cafile=str(CERTIFICATE)))
    async with door(welcome, tls=True, host="127.0.0.2") as (seen, url):
        error = await refusal(url)
        assert error.code == "tls_failed" and not seen.requests


async def test_a_peer_that_speaks_no_tls_is_worth_another_attempt() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (await refusal(f"wss://127.0.0.1:{port}/?api_key={KEY}")).code == "connection_failed"
    server.close()
    await server.wait_closed()


def test_certificates_are_checked_against_the_systems_authorities() -> None:
    context = connect._tls()
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


# ---------------------------------------------------------------- giving up


@pytest.mark.parametrize("tls", [False, True])
async def test_giving_up_during_the_handshake_leaves_no_socket(tls: bool) -> None:
    """Whatever the moment: the peer sees the connection end, and no future is left with an unread exception."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with door(b"HTTP/1.1 1") as (seen, url):
        if tls:  # TLS against a peer that never answers the client's hello
            url = url.replace("ws://", "wss://")
        line = Line()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect.dial(url, HEADERS, (), on_message=line.message, on_closed=line.close)
        async with asyncio.timeout(5):
            await seen.left.wait()
    gc.collect()
    assert not complaints and not line.closed


async def test_giving_up_at_any_step_of_the_loop_leaves_no_socket() -> None:
    """The dialling is cancelled after 0, 1, 2, ... turns of the loop, until it is quicker than the cancellation."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    opened = 0
    async with door(welcome) as (seen, url):
        for turns in range(40):
            line = Line()
            dialling = asyncio.ensure_future(
                connect.dial(url, HEADERS, (), on_message=line.message, on_closed=line.close)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            try:
                (await dialling).abort()
                opened += 1
            except asyncio.CancelledError:
                pass
        async with asyncio.timeout(5):
            while seen.open:
                await asyncio.sleep(0.005)
    gc.collect()
    assert not complaints


# ---------------------------------------------------------------- other peers, other loops


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_aiohttps_server_on_either_loop(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async def echo(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(max_msg_size=16 << 20)
            await socket.prepare(request)
            await socket.ping()
            async for message in socket:
                await socket.send_bytes(message.data)
            return socket

        app = web.Application()
        app.router.add_get("/v1/realtime", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        line = Line()
        await _every_size_comes_back(line, f"ws://127.0.0.1:{runner.addresses[0][1]}/v1/realtime?model=m")
        assert line.closed == [1000]
        await runner.cleanup()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_giving_up_on_uvloop_leaves_no_socket_either(tls: bool) -> None:
    async def main() -> None:
        async with door(b"HTTP/1.1 1") as (seen, url):
            line = Line()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connect.dial(
                        url.replace("ws://", "wss://") if tls else url,
                        HEADERS,
                        (),
                        on_message=line.message,
                        on_closed=line.close,
                    )
            async with asyncio.timeout(5):
                await seen.left.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_certificate_is_checked_on_uvloop_as_well() -> None:
    async def main() -> None:
        async with door(welcome, tls=True) as (seen, url):
            assert (await refusal(url)).code == "tls_failed" and not seen.requests

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# ---------------------------------------------------------------- heads and ends


async def test_the_end_of_a_head_may_come_in_two_pieces() -> None:
    for cut in (1, 2, 3):
        begin, end = slice(None, -cut), slice(-cut, None)
        pieces = [partial(lambda part, request: welcome(request)[part], part) for part in (begin, end)]
        async with door(*pieces, pause_s=0.01) as (_, url):
            socket = await Line().dial(url)
            assert socket.open
            socket.abort()


async def test_a_head_without_end_is_not_read_for_ever() -> None:
    async with door(b"HTTP/1.1 101 X\r\nX: " + b"x" * 70_000) as (seen, url):
        error = await refusal(url)
        assert error.code == "connection_failed" and "no end" in str(error)
        async with asyncio.timeout(5):
            await seen.left.wait()


async def test_who_refuses_is_hung_up_on() -> None:
    async with door(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") as (seen, url):
        error = await refusal(url)
        assert error.status == 503
        async with asyncio.timeout(5):
            assert await seen.left.wait(), "the socket was closed"
