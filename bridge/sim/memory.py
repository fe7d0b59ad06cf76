"""TCP inside one process: transports, connections and servers that are two queues and nothing else.

Used by the virtual-time loop, where real sockets would make the order of events a matter of the kernel. What one end
writes the other receives on the next turn of the loop; writers are paused and resumed as by a socket buffer. Unlike
TCP nothing is ever split, and there is no TLS: an `ssl` argument is accepted and means nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

_RECEIVE_AT_MOST = 256 * 1024
_HIGH, _LOW = 64 * 1024, 16 * 1024


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._loop = loop
        self._protocol: asyncio.BaseProtocol | None = None
        self._peer: MemoryTransport | None = None
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._eof_coming = False  # the peer has sent its last byte
        self._eof_sent = False
        self._delivery: asyncio.Handle | None = None
        self._reading = True
        self._writer_paused = False
        self._high, self._low = _HIGH, _LOW
        self._closing = False

    @classmethod
    def pair(
        cls, loop: asyncio.AbstractEventLoop, client: tuple[str, int], server: tuple[str, int]
    ) -> tuple[MemoryTransport, MemoryTransport]:
        """The client's end and the server's."""
        ends = (
            cls(loop, {"sockname": client, "peername": server}),
            cls(loop, {"sockname": server, "peername": client}),
        )
        ends[0]._peer, ends[1]._peer = ends[1], ends[0]
        return ends

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    # -- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof_sent or not data:
            return
        peer = self._peer
        if peer is None or peer._closing:
            return
        peer._inbox.append(bytes(data))
        peer._inbox_size += len(data)
        peer._schedule()
        if peer._inbox_size > self._high and not self._writer_paused and self._protocol is not None:
            self._writer_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._eof_sent and not self._closing:
            self._eof_sent = True
            self._tell_eof()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._peer._inbox_size if self._peer is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else (4 * low if low is not None else _HIGH)
        self._low = low if low is not None else self._high // 4

    def _tell_eof(self) -> None:
        if self._peer is not None:
            self._peer._eof_coming = True
            self._peer._schedule()

    # -- reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._schedule()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def _schedule(self) -> None:
        if self._delivery is None and self._reading and not self._closing:
            self._delivery = self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        if self._closing or not self._reading or self._protocol is None:
            return
        if self._inbox:
            pieces = [self._inbox.popleft()]
            size = len(pieces[0])
            while self._inbox and size + len(self._inbox[0]) <= _RECEIVE_AT_MOST:
                size += len(self._inbox[0])
                pieces.append(self._inbox.popleft())
            self._inbox_size -= size
            self._receive(b"".join(pieces))
            self._unpause_writer()
            if self._inbox or self._eof_coming:
                self._schedule()
        elif self._eof_coming:
            self._eof_coming = False
            assert isinstance(self._protocol, asyncio.Protocol | asyncio.BufferedProtocol)
            if not self._protocol.eof_received():
                self.close()

    def _receive(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            while data:
                buffer = memoryview(self._protocol.get_buffer(len(data)))
                taken = min(len(buffer), len(data))
                buffer[:taken] = data[:taken]
                self._protocol.buffer_updated(taken)
                data = data[taken:]
        else:
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.data_received(data)

    def _unpause_writer(self) -> None:
        peer = self._peer
        if peer is not None and peer._writer_paused and self._inbox_size <= peer._low:
            peer._writer_paused = False
            if peer._protocol is not None and not peer._closing:
                peer._protocol.resume_writing()

    # -- closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._eof_sent:
            self._tell_eof()
        self._loop.call_soon(self._lost, None)

    def abort(self) -> None:
        if self._closing:
            return
        self._closing = True
        peer = self._peer
        if peer is not None and not peer._closing:
            peer._closing = True
            self._loop.call_soon(peer._lost, ConnectionResetError("connection reset by peer"))
        self._loop.call_soon(self._lost, None)

    def _lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        self._inbox.clear()
        self._inbox_size = 0
        self._unpause_writer()
        if protocol is not None:
            protocol.connection_lost(error)

    def is_closing(self) -> bool:
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None, "the connection is closed"
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol


class _ListeningSocket:
    """Just enough of a socket to be asked for its address."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address

    def fileno(self) -> int:
        return -1


class MemoryServer(asyncio.AbstractServer):
    """Listens on one port of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, address: tuple[str, int], accept: Callable[[], Any]) -> None:
        self.address = address
        self.accept = accept
        self.sockets: tuple[_ListeningSocket, ...] = (_ListeningSocket(address),)
        self._network = network
        self._closed = asyncio.Event()

    def close(self) -> None:
        self._network.servers.pop(self.address[1], None)
        self.sockets = ()
        self._closed.set()

    def close_clients(self) -> None:
        pass

    abort_clients = close_clients

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def is_serving(self) -> bool:
        return not self._closed.is_set()

    async def start_serving(self) -> None:
        pass

    async def serve_forever(self) -> None:
        await self._closed.wait()

    async def wait_closed(self) -> None:
        await self._closed.wait()


class MemoryNetwork:
    """The ports of one virtual machine; every host name leads to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.servers: dict[int, MemoryServer] = {}
        self.connected = 0  # how many connections were ever made
        self._loop = loop
        self._next_port = 40000

    def listen(self, port: int, accept: Callable[[], Any]) -> MemoryServer:
        """Raises OSError if the port is taken; port 0 takes a free one."""
        if port == 0:
            port = self._free_port()
        if port in self.servers:
            raise OSError(98, f"port {port} is in use")
        server = MemoryServer(self, ("127.0.0.1", port), accept)
        self.servers[port] = server
        return server

    async def connect(self, port: int, factory: Callable[[], Any]) -> tuple[MemoryTransport, Any]:
        """Raises ConnectionRefusedError if nobody listens."""
        server = self.servers.get(port)
        if server is None:
            raise ConnectionRefusedError(111, f"nobody listens on port {port}")
        self.connected += 1
        near, far = MemoryTransport.pair(self._loop, ("127.0.0.1", self._free_port()), server.address)
        far.begin(server.accept())
        protocol = factory()
        near.begin(protocol)
        await asyncio.sleep(0)
        return near, protocol

    def _free_port(self) -> int:
        self._next_port += 1
        return self._next_port
