from __future__ import annotations

import asyncio
import threading
import time

import aiohttp
import pytest
import websockets
from aiohttp import web

from bridge.sim import virtual
from bridge.sim.virtual import NothingLeft, VirtualLoop
from tests.sim.double import on_virtual_time


@on_virtual_time
async def test_a_day_passes_at_once_and_exactly() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(86_400.5)
    assert loop.time() == began + 86_400.5


@on_virtual_time
async def test_timers_fire_in_their_order_and_time_does_not_pass_between_them() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen: list[tuple[str, float]] = []
    for name, delay in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("a2", 0.1)):
        loop.call_later(delay, lambda name=name: seen.append((name, round(loop.time() - began, 9))))
    await asyncio.sleep(1)
    assert seen == [("a", 0.1), ("a2", 0.1), ("b", 0.2), ("c", 0.3)]


@on_virtual_time
async def test_a_timer_fires_at_exactly_its_time() -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[float, float]] = []
    for number in range(1, 200):
        when = loop.time() + number / 7
        loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
    await asyncio.sleep(60)
    assert len(seen) == 199
    assert all(when == fired for when, fired in seen)


@on_virtual_time
async def test_timeouts_work() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()


def test_waiting_for_what_can_never_come_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "_PATIENCE_S", 0.01)

    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft):
        virtual.run(forever())


@on_virtual_time
async def test_executors_work_on_the_spot() -> None:
    thread = threading.get_ident()
    assert await asyncio.to_thread(threading.get_ident) == thread
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(None, lambda: 1 // 0)


@on_virtual_time
async def test_the_clock_can_be_held_while_another_thread_works() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    answer: asyncio.Future[int] = loop.create_future()
    ticks: list[float] = []
    loop.call_later(0.001, lambda: ticks.append(loop.time()))
    began = loop.time()
    worker = threading.Thread(target=lambda: (time.sleep(0.05), loop.call_soon_threadsafe(answer.set_result, 7)))
    worker.start()
    with loop.clock_held():
        assert await answer == 7
    worker.join()
    assert loop.time() == began
    assert ticks == []


@on_virtual_time
async def test_aiohttp_and_websockets_talk_to_each_other_in_memory() -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        if request.path == "/slow":
            await asyncio.sleep(100)
        return web.Response(text=await request.text() + str(len(await request.read())))

    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        body = "x" * 1_000_000
        async with session.post(f"http://127.0.0.1:{port}/", data=body[:500_000]) as response:
            assert len(await response.text()) == 500_006
        with pytest.raises(TimeoutError):
            await session.get(f"http://localhost:{port}/slow", timeout=aiohttp.ClientTimeout(total=10))
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://127.0.0.1:1/")
    async with websockets.connect(f"ws://127.0.0.1:{port}/echo", max_size=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        await asyncio.sleep(120)  # pings are answered meanwhile
        await socket.send(body)
        assert await socket.recv() == body.upper()
    await runner.cleanup()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@on_virtual_time
async def test_a_reader_who_pauses_stops_the_writer_and_a_reset_reaches_both_ends() -> None:
    served: list[asyncio.StreamReader] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(reader)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(10_000_000)
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0)
    served[0]._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"x" * 500_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await writer.drain()
    served[0]._transport.resume_reading()  # type: ignore[attr-defined]
    await writer.drain()
    writer.transport.abort()
    await ended.wait()
    assert await reader.read() == b""
    server.close()


@on_virtual_time
async def test_a_port_belongs_to_one_server_until_it_is_closed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"bye"
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 8080)
    with pytest.raises(OSError, match="in use"):
        await asyncio.start_server(serve, "127.0.0.1", 8080)
    reader, writer = await asyncio.open_connection("127.0.0.1", 8080)
    assert await reader.read() == b"hello"
    writer.write(b"bye")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    again = await asyncio.start_server(serve, "127.0.0.1", 8080)
    again.close()
