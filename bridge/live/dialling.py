"""How a session gets its connection: two attempts race where the first is slow, and what the winner brings before
anybody listens is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

_HEDGE_S: Final = 1.5


class ModelSocket(Protocol):
    """What a session needs of its socket; `CallSocket` is one."""

    @property
    def waiting_bytes(self) -> int: ...
    def send(self, payload: bytes) -> None: ...
    def send_binary(self, payload: bytes) -> None: ...
    def keep_alive(self, *, every_s: float, within_s: float) -> None: ...
    def probe(self, *, within_s: float) -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...


class Dial(Protocol):
    """How a socket to the service is opened; `connect.dial` is the real one."""

    def __call__(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
        *,
        on_message: Callable[[bytes, bool], None],
        on_closed: Callable[[int, str], None],
    ) -> Awaitable[ModelSocket]: ...


class Listening(Protocol):
    """Whom a line is for."""

    def receive(self, payload: bytes, is_text: bool) -> None: ...
    def socket_closed(self, code: int, reason: str) -> None: ...


class Line:
    """One attempt's callbacks. What comes before its session listens is kept; a line that lost is never heard."""

    def __init__(self) -> None:
        self._kept: list[tuple[bytes, bool]] = []
        self._kept_close: tuple[int, str] | None = None
        self._session: Listening | None = None

    def join(self, session: Listening) -> None:
        self._session = session
        for payload, is_text in self._kept:
            session.receive(payload, is_text)
        self._kept.clear()
        if self._kept_close is not None:
            session.socket_closed(*self._kept_close)

    def message(self, payload: bytes, is_text: bool) -> None:
        if self._session is not None:
            self._session.receive(payload, is_text)
        else:
            self._kept.append((payload, is_text))

    def closed(self, code: int, reason: str) -> None:
        if self._session is not None:
            self._session.socket_closed(code, reason)
        else:
            self._kept_close = (code, reason)


async def race(dial: Callable[[Line], Awaitable[ModelSocket]], name: str) -> tuple[ModelSocket, Line]:
    """The first connection that opens; a second attempt starts when the first is slow. The other leaves nothing.

    Nothing is awaited between the winning and the return: who assigns the socket at once can close it whatever happens.
    Raises what `dial` raised last, where none opened.
    """

    async def attempt() -> tuple[ModelSocket, Line]:
        line = Line()
        return await dial(line), line

    def begin(number: int) -> asyncio.Task[tuple[ModelSocket, Line]]:
        return asyncio.create_task(attempt(), name=f"attempt {number} at {name}")

    attempts = {begin(1)}
    try:
        done, waiting = await asyncio.wait(attempts, timeout=_HEDGE_S)
        if not done:
            attempts.add(begin(2))
            done, waiting = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        while True:
            for one in done:
                if one.exception() is None:
                    attempts.discard(one)
                    return one.result()
            if not waiting:
                done.pop().result()  # raises what went wrong
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in attempts:
            one.cancel()
            one.add_done_callback(_close_unused)


def _close_unused(attempt: asyncio.Task[tuple[ModelSocket, Line]]) -> None:
    """It was cancelled, or failed, or opened at the last moment."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].close()
