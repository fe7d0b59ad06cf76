"""Named events: order, once-only listeners, waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.errors import UsageError
from bridge.realtime.emitter import Emitter


def test_lasting_listeners_hear_before_those_of_one_event() -> None:
    emitter, heard = Emitter(), []
    emitter.on_next("a", lambda payload: heard.append(("once", payload)))
    emitter.on("a", lambda payload: heard.append(("always", payload)))
    emitter.dispatch("a", 1)
    emitter.dispatch("a", 2)
    emitter.dispatch("b", 3)
    assert heard == [("always", 1), ("once", 1), ("always", 2)]


def test_listeners_are_forgotten_one_by_one_or_all() -> None:
    emitter: Emitter = Emitter()
    heard: list[Any] = []
    emitter.on("a", heard.append)
    emitter.off("a", heard.append)
    emitter.on("a", heard.append)
    emitter.on_next("a", heard.append)
    emitter.off("a")
    emitter.off_next("a", heard.append)
    for forget in (emitter.off, emitter.off_next):
        with pytest.raises(UsageError):
            forget("a", heard.append)
    emitter.on("a", heard.append)
    emitter.clear_event_handlers()
    emitter.dispatch("a", 1)
    assert heard == []


async def test_waiting_gives_the_payload_even_a_false_one() -> None:
    emitter = Emitter()
    waiting = asyncio.create_task(emitter.wait_for_next("a"))
    await asyncio.sleep(0)
    emitter.dispatch("a", 0)
    assert await waiting == 0


async def test_a_wait_that_ends_leaves_no_listener_behind() -> None:
    emitter = Emitter()
    assert await emitter.wait_for_next("a", 0.001) is None
    waiting = asyncio.create_task(emitter.wait_for_next("a"))
    await asyncio.sleep(0)
    emitter.end_waits()
    assert await waiting is None
    assert not any(emitter._next.values())


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError])
async def test_a_listener_that_raises_is_logged_and_every_other_one_is_called(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    emitter = Emitter()
    heard: list[Any] = []

    def broken(payload: Any) -> None:
        raise failure(payload)

    for listen in (emitter.on, emitter.on_next):
        listen("a", broken)
        listen("a", heard.append)
    waiting = asyncio.create_task(emitter.wait_for_next("a", 5))
    await asyncio.sleep(0)
    emitter.dispatch("a", "boom")
    assert heard == ["boom", "boom"]
    assert await waiting == "boom"
    assert [record.getMessage() for record in caplog.records] == ["a listener of a failed"] * 2


async def test_a_listener_that_would_have_to_be_awaited_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()

    async def late(payload: Any) -> None: ...

    emitter.on("a", lambda payload: late(payload))
    emitter.dispatch("a", 1)
    assert "nobody awaits an async listener" in caplog.text


async def test_nothing_is_kept_of_a_wait_that_is_over() -> None:
    emitter = Emitter()
    assert await emitter.wait_for_next("a", 0.0) is None
    waiting = asyncio.ensure_future(emitter.wait_for_next("a"))
    await asyncio.sleep(0)
    emitter.dispatch("a", 1)
    assert await waiting == 1 and not emitter._waits and not emitter._next.get("a")
