"""Tools for rehearsed agents: they pretend to work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.tools.toolbox import CallInfo


async def take_time(arguments: dict[str, Any], call: CallInfo) -> dict[str, Any]:
    """Takes as many `seconds` as it is told to."""
    del call
    seconds = float(arguments.get("seconds", 1))
    await asyncio.sleep(seconds)
    return {"took_s": seconds}
