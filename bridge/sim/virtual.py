"""An event loop whose time is virtual: when nothing is left to do now, the clock jumps to the next timer.

A minute of a call takes as long as its computations, and every run is the same, because nothing depends on the
machine: connections and servers live in memory (memory.py), work given to executors is done on the spot, and names
resolve to this process. Programs that keep time with the loop's clock run on it unchanged, aiohttp's and websockets'
servers and clients among them.

    virtual.run(main())

What it cannot do: other threads and processes live in real time. Hold the clock while waiting for one: `with
loop.clock_held(): ...`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from bridge.errors import BridgeError

from .memory import MemoryNetwork

T = TypeVar("T")

_START_S = 1000.0  # not zero: a time of 0.0 is taken for "never" here and there
_PATIENCE_S = 5.0  # real time to wait for another thread before giving up


class NothingLeft(BridgeError):
    """Everybody waits and no timer is set: the program would wait for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use it through `run`, or as `loop_factory` of an `asyncio.Runner`."""

    def __init__(self) -> None:
        self._now = _START_S
        self._held = 0
        self.network = MemoryNetwork(self)
        self._addresses: dict[int, int] = {}  # of client sockets, by descriptor: the port they "connected" to
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now

    @contextlib.contextmanager
    def clock_held(self) -> Iterator[None]:
        """Time stands still meanwhile: for waiting on a thread or a process, which live in real time."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def jump(self, timeout_s: float) -> None:
        """To the next timer: exactly, for the difference of two times within a factor of two has no rounding."""
        self._now += timeout_s

    @property
    def may_jump(self) -> bool:
        return not self._held

    # ------------------------------------------------ connections in memory

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        sock = options.get("sock")
        if sock is not None:
            port = sock.getsockname()[1]
        return self.network.listen(port or 0, protocol_factory)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        sock = options.get("sock")
        if sock is not None:  # connected by sock_connect, which only remembered where to
            port = self._addresses.pop(sock.fileno())
            sock.close()
        return await self.network.connect(port, protocol_factory)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if address[1] not in self.network.servers:
            raise ConnectionRefusedError(111, f"nobody listens on port {address[1]}")
        self._addresses[sock.fileno()] = address[1]

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        del host, options
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port or 0)))]

    # ------------------------------------------------ work for other threads is done here

    def run_in_executor(  # type: ignore[override]  # the base names its type variables, we pass everything on
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        del executor
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(contextvars.copy_context().run(func, *args))
        except Exception as error:
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at real descriptors without waiting; where asyncio would wait for a timer, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        only_self_pipe = len(self.get_map()) <= 1
        if timeout is not None and timeout <= 0 and only_self_pipe:
            return []
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if not self._loop.may_jump:
            return super().select(_PATIENCE_S)
        if timeout is None:
            found = super().select(_PATIENCE_S)
            if not found:
                raise NothingLeft("everybody waits and no timer is set")
            return found
        self._loop.jump(timeout)
        return []


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program on a virtual clock, as asyncio.run does on the real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
