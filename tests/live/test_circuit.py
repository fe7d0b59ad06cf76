"""What calls know of a service together, by the loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from structlog.testing import capture_logs

from bridge.live.circuit import Circuits
from bridge.realtime.profiles import Target, builtin
from bridge.sim import virtual


def target(key: str = "sk-canary", url: str = "wss://a.example.test/v1/realtime") -> Target:
    return Target(builtin()["openai"], url=url, api_key=key)


def on_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        virtual.run(test())

    return run


@on_virtual_time
async def test_a_service_that_refuses_is_left_alone_for_five_seconds() -> None:
    circuits = Circuits()
    assert circuits.broken(target()) is None
    circuits.refused(target(), "invalid_api_key", "HTTP 401 Unauthorized")
    broken = circuits.broken(target())
    assert broken is not None and broken.code == "invalid_api_key" and broken.left_s is None
    await asyncio.sleep(4.9)
    assert circuits.broken(target()) is not None
    await asyncio.sleep(0.1)
    assert circuits.broken(target()) is None


@on_virtual_time
async def test_another_key_or_address_is_another_matter() -> None:
    circuits = Circuits()
    circuits.refused(target(), "insufficient_quota", "")
    assert circuits.broken(target("another")) is None
    assert circuits.broken(target(url="wss://b.example.test/v1/realtime")) is None


@on_virtual_time
async def test_a_busy_service_says_how_long_still() -> None:
    circuits = Circuits()
    circuits.busy(target(), "rate_limit_exceeded", "", 3.0)
    await asyncio.sleep(1.0)
    broken = circuits.broken(target())
    assert broken is not None and broken.left_s is not None and abs(broken.left_s - 2.0) < 0.01
    await asyncio.sleep(2.0)
    assert circuits.broken(target()) is None, "who comes when told is let in"


@on_virtual_time
async def test_nobody_is_kept_away_for_longer_than_ten_seconds() -> None:
    circuits = Circuits()
    circuits.busy(target(), "rate_limit_exceeded", "", 3600.0)
    await asyncio.sleep(10)
    assert circuits.broken(target()) is None


@on_virtual_time
async def test_it_is_written_down_once_and_without_the_key() -> None:
    circuits = Circuits()
    with capture_logs() as entries:
        for _ in range(10):
            circuits.refused(target(), "invalid_api_key", "no")
    assert len(entries) == 1 and entries[0]["log_level"] == "error"
    assert "canary" not in str(entries)


@on_virtual_time
async def test_what_is_remembered_is_bounded() -> None:
    circuits = Circuits()
    for number in range(1000):
        circuits.busy(target(f"key {number}"), "rate_limit_exceeded", "", 5.0)
    assert sum(circuits.broken(target(f"key {number}")) is not None for number in range(1000)) == 256


@on_virtual_time
async def test_another_model_of_a_service_is_another_matter() -> None:
    circuits = Circuits()
    circuits.refused(target(), "model_not_found", "")
    another = Target(builtin()["openai"], url=target().url, api_key="sk-canary", model="another")
    assert circuits.broken(target()) is not None and circuits.broken(another) is None


@on_virtual_time
async def test_who_is_a_twentieth_of_a_second_early_is_let_in() -> None:
    circuits = Circuits()
    circuits.busy(target(), "rate_limit_exceeded", "", 3.0)
    await asyncio.sleep(2.96)
    assert circuits.broken(target()) is None
