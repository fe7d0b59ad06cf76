"""The network between the carrier and the bridge: delay, jitter, stalls, silence, and what TCP makes of them.

Each direction is a `Pipe`: things come out in the order in which they went in (TCP keeps order, so delays are
monotone), each after the one-way latency and a seeded jitter. Caller frames can be lost, doubled or swapped before
they reach the carrier's socket, as happens on the caller's side of the carrier. Everything is decided by the seed and
the loop's clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Network:
    """How the line between carrier and bridge behaves. Shares are probabilities from 0 to 1."""

    latency_ms: float = 0.0  # one way, each way
    jitter_ms: float = 0.0  # added to each delay, evenly spread over +-jitter_ms; order is kept
    lost: float = 0.0  # caller frames the carrier never got: their timestamps are missing
    doubled: float = 0.0  # caller frames sent twice
    swapped: float = 0.0  # caller frames sent after their successor
    seed: int = 0


@dataclass(slots=True)
class Pipe(Generic[T]):
    """One direction. `deliver` is called with each thing when it arrives, in order, from the loop."""

    deliver: Callable[[T], None]
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    seed: int = 0
    _queue: deque[tuple[float, T]] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None
    _stalled_until: float = 0.0
    _dead: bool = False
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._random.seed(self.seed)

    def send(self, thing: T) -> None:
        if self._dead:
            return
        loop = asyncio.get_running_loop()
        delay_ms = self.latency_ms
        if self.jitter_ms:
            delay_ms = max(0.0, delay_ms + self._random.uniform(-self.jitter_ms, self.jitter_ms))
        now = loop.time()
        due = max(now + delay_ms / 1000, self._stalled_until)
        if due <= now and not self._queue:
            self.deliver(thing)
            return
        self._queue.append((due, thing))
        if self._timer is None:
            self._timer = loop.call_at(due, self._arrive)

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    def stall(self, ms: float) -> None:
        """Nothing arrives for so long; what was sent meanwhile arrives after it, all at once."""
        loop = asyncio.get_running_loop()
        self._stalled_until = max(self._stalled_until, loop.time() + ms / 1000)

    def half_open(self) -> None:
        """From now on everything vanishes, and neither end is told."""
        self._dead = True
        self.discard()

    def discard(self) -> None:
        """Forget what is under way."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arrive(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._stalled_until:
            self._timer = loop.call_at(self._stalled_until, self._arrive)
            return
        while self._queue and self._queue[0][0] <= now and not self._dead and now >= self._stalled_until:
            self.deliver(self._queue.popleft()[1])
        if self._queue and self._timer is None:
            self._timer = loop.call_at(max(self._queue[0][0], self._stalled_until), self._arrive)


class FrameFate:
    """What becomes of each caller frame on its way to the carrier: passed, lost, doubled, or swapped with the next."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._random = random.Random(f"frames-{network.seed}")
        self._held: str | None = None
        self.lost = self.doubled = self.swapped = 0

    @property
    def quiet(self) -> bool:
        """True if every frame simply passes."""
        return not (self._network.lost or self._network.doubled or self._network.swapped)

    def loses(self) -> bool:
        if self._network.lost and self._random.random() < self._network.lost:
            self.lost += 1
            return True
        return False

    def ways(self, message: str) -> list[str]:
        """The messages to send now, given the one just made."""
        if self._held is not None:
            held, self._held = self._held, None
            return [message, held]
        if self._network.swapped and self._random.random() < self._network.swapped:
            self.swapped += 1
            self._held = message
            return []
        if self._network.doubled and self._random.random() < self._network.doubled:
            self.doubled += 1
            return [message, message]
        return [message]
