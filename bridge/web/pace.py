"""Where many calls share a loop, it takes what two milliseconds brought together, stage by stage (see `together`), and
not each packet by itself.

A frame that comes alone finds cold caches and pays for a wake-up of its own; at a hundred calls packets come a sixth of
a millisecond apart. Taken together they cost a sixth less CPU in all, for one millisecond, on average, of a telephone
frame's twenty. A loop that is busy all that time never rests, and with few calls each packet is taken as it comes.

A rest is a real sleep of the thread. What is ready within a pass waits for it too: a task pays for each of its steps,
some ten milliseconds for the set-up of a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from bridge.live.together import Together

MANY: Final = 30  # calls: fewer bring less than a packet or two in a rest
EVERY_S: Final = 0.002  # 1 ms costs six percent more CPU at a hundred calls; 3 ms three less, and late frames
_LOOK_S: Final = 0.25  # how soon it is noticed that calls have become many


class Pace:
    """Runs from `start` to `stop` on the running loop. `calls` says how many there are; what a pass brought is done
    `together` before it rests."""

    def __init__(
        self,
        calls: Callable[[], int],
        together: Together,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._calls = calls
        self._together = together
        self._clock = clock
        self._sleep = sleep
        self._loop = loop = asyncio.get_running_loop()
        # asyncio's own loop calls what was asked for before what it found ready; uvloop the other way round
        self._awake = self._gather if isinstance(loop, asyncio.BaseEventLoop) else self._rest
        self._next_at = 0.0
        self._running = False

    def start(self) -> None:
        """Starting twice is harmless."""
        if not self._running:
            self._running = True
            self._look()

    def stop(self) -> None:
        """Stopping twice is harmless."""
        self._running = False
        self._together.end()

    def _look(self) -> None:
        if not self._running:
            return
        if self._calls() < MANY:
            self._together.end()
            self._loop.call_later(_LOOK_S, self._look)
        else:
            self._together.begin()
            self._next_at = self._clock() + EVERY_S
            self._loop.call_soon(self._awake)

    def _gather(self) -> None:
        """What came during the rest is called after this, and in the next pass it is all there."""
        self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        """Once in each pass of uvloop, in each second one of asyncio's own: then all that came meanwhile is there."""
        if not self._running:
            return
        try:
            self._together.turn()
        finally:  # whatever may have broken, the packets of all calls wait for the next
            now = self._clock()
            if now < self._next_at:
                self._sleep(self._next_at - now)
                now = self._next_at
            self._next_at = now + EVERY_S
            if self._calls() < MANY:
                self._look()
            else:
                self._loop.call_soon(self._awake)
