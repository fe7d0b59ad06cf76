"""The model on this machine, as a child process of the service.

A process of its own, because its speech recognition holds the interpreter and its speech library is an optional,
separately licensed extra. The child prints its address in its first line and ends when its standard input closes, so
it never outlives us.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress

from bridge.errors import PeerError

_START_S = 30.0
_STOP_S = 5.0


class Companion:
    """`python -m bridge model --companion`, with further arguments for it."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._arguments = tuple(arguments)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, port: int = 0) -> str:
        """Its WebSocket address. Raises PeerError when it does not come up."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bridge",
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
            await self.stop()
            raise PeerError("the model on this machine did not start; `voice-bridge model` shows why")
        return line

    async def stop(self) -> None:
        """End it, at first politely. Stopping twice is harmless."""
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
