"""The model on this machine, as a child process of the service.

A process of its own, because its speech recognition holds the interpreter and its speech library is an optional,
separately licensed extra. The child prints its address in its first line and ends when its standard input closes, so
it never outlives us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import structlog

from bridge import children
from bridge.errors import PeerError

log = structlog.get_logger()

_START_S: Final = 30.0
_AGAIN_S: Final = 0.5
_AGAIN_LATER_S: Final = 10.0
_STOP_S: Final = 5.0


class Companion:
    """`python -m bridge model --companion`, with further arguments for it."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._arguments = tuple(arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, *, port: int = 0) -> str:
        """Its WebSocket address. Raises PeerError when it does not come up; one that dies later is replaced there."""
        address = await self._spawn(port)
        self._watch = asyncio.create_task(self._replace(urlsplit(address).port or port), name="companion")
        return address

    async def _replace(self, port: int) -> None:
        while self._process is not None:
            code = await self._process.wait()
            log.error("local_model_died", code=code)
            await asyncio.sleep(_AGAIN_S)
            while True:
                try:
                    await self._spawn(port)
                    break
                except (PeerError, OSError) as error:
                    log.error("local_model_not_replaced", why=str(error))
                    await asyncio.sleep(_AGAIN_LATER_S)
            log.warning("local_model_replaced")

    async def _spawn(self, port: int) -> str:
        self._process = await asyncio.create_subprocess_exec(
            *children.command("bridge"),
            "model",
            "--companion",
            "--port",
            str(port),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours alone: calls that say goodbye still need their model
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = (await self._process.stdout.readline()).decode().strip()
        except TimeoutError:
            line = ""
        if not line.startswith("ws://"):
            await self._end()
            raise PeerError("the model on this machine did not start; it says why above, or to `voice-bridge model`")
        return line

    async def stop(self) -> None:
        """End it, at first politely. Stopping twice is harmless."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
