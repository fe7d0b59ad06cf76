"""Named events and those who listen to them, for the client's side: `on`, `on_next`, `wait_for_next`, `dispatch`.

The contract is the one of OpenAI's reference client, with its waits made of futures instead of polling: handlers run at
once and in order, persistent ones first. A listener that raises is logged, and the others are called all the same.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from bridge.errors import UsageError
from bridge.realtime import given

log = logging.getLogger("bridge.realtime")  # which tells on standard error, and no values, where nobody set it up

Listener = Callable[[Any], object]


class Emitter:
    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}
        self._next: dict[str, list[Listener]] = {}
        self._waits: set[asyncio.Future[Any]] = set()

    def on(self, name: str, listener: Listener) -> Listener:
        """Call `listener` with the payload of every event of this name. It is a plain function: nobody would await
        an async one. Raises UsageError for what cannot be called so.
        """
        _check(name, listener)
        self._listeners.setdefault(name, []).append(listener)
        return listener

    def on_next(self, name: str, listener: Listener) -> Listener:
        """The same for the next event only."""
        _check(name, listener)
        self._next.setdefault(name, []).append(listener)
        return listener

    def off(self, name: str, listener: Listener | None = None) -> None:
        """Forget a listener, or all of this name. Raises UsageError for one that does not listen."""
        _forget(self._listeners, name, listener)

    def off_next(self, name: str, listener: Listener | None = None) -> None:
        _forget(self._next, name, listener)

    def clear_event_handlers(self) -> None:
        self._listeners.clear()
        self._next.clear()

    async def wait_for_next(self, name: str, timeout_s: float | None = None) -> Any:
        """The payload of the next event of this name; None when `timeout_s` passes, or the connection ends, first.
        With None it is waited for ever. Raises UsageError for a time that is none.
        """
        if timeout_s is not None:
            timeout_s = given.seconds("timeout_s", timeout_s, least=0.0)
        arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def arrive(payload: Any) -> None:
            if not arrived.done():
                arrived.set_result(payload)

        self.on_next(name, arrive)
        self._waits.add(arrived)
        try:
            async with asyncio.timeout(timeout_s):
                return await arrived
        except TimeoutError:
            return None
        finally:
            self._waits.discard(arrived)
            if arrive in self._next.get(name, ()):
                self.off_next(name, arrive)

    def end_waits(self) -> None:
        """Nothing more will come: every `wait_for_next` returns None."""
        for arrived in self._waits:
            if not arrived.done():
                arrived.set_result(None)

    def dispatch(self, name: str, payload: Any) -> None:
        for listener in list(self._listeners.get(name, ())):
            _call(name, listener, payload)
        for listener in self._next.pop(name, ()):
            _call(name, listener, payload)


def being_cancelled() -> bool:
    """Whether a CancelledError is meant for the present task, and not what it awaited or looked at."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _call(name: str, listener: Listener, payload: Any) -> None:
    try:
        answer = listener(payload)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("nobody awaits an async listener; give a plain one that starts a task")
    except (Exception, asyncio.CancelledError):  # it awaits nothing: something it looked at was cancelled
        log.exception("a listener of %s failed", name)


def _check(name: object, listener: object) -> None:
    given.event_name(name)
    if not callable(listener):
        raise UsageError(f"{name}: found {listener!r}; give something to call")
    if inspect.iscoroutinefunction(listener):
        raise UsageError(f"{name}: nobody awaits an async listener; give a plain one that starts a task")


def _forget(listeners: dict[str, list[Listener]], name: str, listener: Listener | None) -> None:
    given.event_name(name)
    if listener is None:
        listeners.pop(name, None)
        return
    if listener not in listeners.get(name, ()):
        raise UsageError(f"{name}: this listener does not listen")
    listeners[name].remove(listener)
