"""Slow, silent and endless clients: each is closed by its deadline, and nobody else notices.

Deadlines are set to a fraction of a second; what is asserted is that the connection ends, never how long it took.
"""

import asyncio
import contextlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.errors import ConfigError
from bridge.web import listen
from tests.web.conftest import PUBLIC, TOKEN, Start

QUICK = {
    "BRIDGE_PUBLIC_URL": PUBLIC,
    "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN,
    "BRIDGE_LIMITS__HEADER_S": "0.2",
    "BRIDGE_LIMITS__BODY_S": "0.2",
}
PATIENCE_S = 10.0
ROOT = Path(__file__).parents[2]


async def talk(port: int, *pieces: bytes, drip_s: float = 0.0) -> bytes:
    """Everything the server says until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = asyncio.ensure_future(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(drip_s)
            if said.done():
                break
        async with asyncio.timeout(PATIENCE_S):
            return await said
    except ConnectionError:
        return b""
    finally:
        said.cancel()
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_silent_and_dripping_clients_are_closed_and_others_are_served(start: Start) -> None:
    service = await start(QUICK)
    port = service.listener.port
    drip = [b"x-drip: 1\r\n"] * 500
    slow = [
        *(talk(port) for _ in range(20)),
        *(talk(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n") for _ in range(20)),
        *(talk(port, b"GET /healthz HTTP/1.1\r\n", *drip, drip_s=0.02) for _ in range(20)),
    ]
    said, answer = await asyncio.gather(asyncio.gather(*slow), service.post("/twilio/voice"))
    assert answer[0] == 200
    assert set(said) == {b""}


async def test_a_body_that_never_comes_is_answered_408(start: Start) -> None:
    service = await start(QUICK)
    head = (
        b"POST /twilio/voice HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"X-Twilio-Signature: wrong\r\nContent-Length: 100\r\n\r\n"
    )
    assert (await talk(service.listener.port, head)).startswith(b"HTTP/1.1 408 ")
    assert (await talk(service.listener.port, head, *[b"a"] * 50, drip_s=0.02)).startswith(b"HTTP/1.1 408 ")
    assert not service.switchboard.expected


async def test_a_body_nobody_reads_does_not_keep_the_connection(start: Start) -> None:
    service = await start(QUICK)
    head = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    assert (await talk(service.listener.port, head)).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("cut", [1, 3, 16, 37, 38, 39])
async def test_a_head_may_come_in_any_pieces(start: Start, cut: int) -> None:
    service = await start()
    head = b"GET /healthz HTTP/1.1\r\nHost: bridge\r\n\r\n"
    pieces = [head[at : at + cut] for at in range(0, len(head), cut)]
    assert (await talk(service.listener.port, *pieces, drip_s=0.001)).startswith(b"HTTP/1.1 200 ")


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class _Inner(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("cut", range(1, 8))
async def test_the_doorkeeper_steps_aside_when_the_head_is_there_and_not_before(cut: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: bridge\r\n\r\n"
    pieces = [head[at : at + cut] for at in range(0, len(head), cut)]
    inner, transport, waiting = _Inner(), _Transport(), listen.Waiting(most=1, head_s=60)
    keeper = listen.Doorkeeper(inner, waiting)
    keeper.connection_made(transport)
    for piece in pieces:
        assert transport.protocol is None and len(waiting.doorkeepers) == 1
        keeper.data_received(piece)
    assert transport.protocol is inner and not waiting.doorkeepers
    assert inner.data == head


async def test_a_head_without_end_is_cut_off(start: Start) -> None:
    service = await start()
    said = await talk(service.listener.port, b"GET / HTTP/1.1\r\n", *[b"x: " + b"y" * 4000 + b"\r\n"] * 40)
    assert not said or said.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x01" * 160,  # TLS's ClientHello
        b"GARBAGE\r\n\r\n",
        b"GET /?canary=8f3a" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Canary 8f3a: 1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_one_line_without_a_traceback(
    start: Start, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    service = await start()
    with capture_logs() as logged, caplog.at_level(logging.DEBUG, "aiohttp.server"):
        said = await talk(service.listener.port, sent)
    assert said.startswith(b"HTTP/1.0 400 ") and b"\r\nServer: voice-bridge\r\n" in said and b"no-store" in said
    assert said.endswith(b"\r\n\r\nThis is no request we can read.\n")
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("request_unreadable", "info")
    assert "8f3a" not in str(line)
    assert not [record for record in caplog.records if record.name == "aiohttp.server"]


def test_any_other_error_of_the_server_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("a mistake of ours")
    except RuntimeError as error:
        listen._Faults(logging.getLogger("aiohttp.server"), {}).exception("Unhandled", exc_info=error)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "a mistake of ours" in caplog.text and "Traceback" in caplog.text


async def test_a_body_that_breaks_off_is_refused_and_no_error(start: Start) -> None:
    service = await start()
    head = b"POST /twilio/voice HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    with capture_logs() as logged:
        _, writer = await asyncio.open_connection("127.0.0.1", service.listener.port)
        writer.write(head + b"X-Twilio-Signature: wrong\r\nContent-Length: 100\r\n\r\nCallSid=")
        await end(writer)
        async with asyncio.timeout(PATIENCE_S):
            while not logged:
                await asyncio.sleep(0)
    assert [(line["event"], line["status"]) for line in logged] == [("request_refused", 400)]


async def test_one_request_per_connection(start: Start) -> None:
    service = await start()
    said = await talk(service.listener.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert said.count(b"HTTP/1.1 200 ") == 1


async def test_beyond_the_most_that_may_wait_whoever_has_waited_longest_makes_way(start: Start) -> None:
    service = await start({**QUICK, "BRIDGE_LIMITS__HEADER_S": "60", "BRIDGE_LIMITS__WAITING_CONNECTIONS": "16"})
    port = service.listener.port
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(16)]
    said = await talk(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 "), "one that means it is through at once"
    assert await asyncio.wait_for(waiting[0][0].read(), PATIENCE_S) == b"", "the oldest was closed"
    assert not waiting[1][0].at_eof()
    for _, writer in waiting:
        await end(writer)


async def test_the_parser_in_python_is_refused(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.setattr(listen.http_parser, "HttpRequestParser", listen.http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigError, match="C parser"):
        await start()


def test_an_interpreter_without_assertions_is_refused() -> None:
    program = (
        "from bridge import settings; from bridge.web.listen import Listener; from aiohttp import web;"
        "Listener(web.Application(), settings.load({}))"
    )
    said = subprocess.run([sys.executable, "-O", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode != 0 and "Python runs with -O" in said.stderr


@pytest.mark.parametrize(
    "head", ["GET /healthz?{} HTTP/1.1\r\nHost: x\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n"]
)
async def test_a_line_of_more_than_8_kib_is_refused(start: Start, head: str) -> None:
    service = await start()
    for length, status in ((8000, b"200"), (9000, b"400")):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.listener.port)
        writer.write(head.format("a" * length).encode())
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == status
        writer.close()
