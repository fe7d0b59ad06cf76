"""Named deadlines of one call. The driver keeps one clock alarm; which of ours it stands for is decided here."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class Timers(msgspec.Struct):
    """Times are the call's own milliseconds. A timer set again moves; one that is due is taken by `take_due`."""

    at: dict[str, float] = {}

    def set(self, name: str, at: float) -> None:
        self.at[name] = at

    def start(self, name: str, at: float) -> None:
        """Set it unless it already runs."""
        self.at.setdefault(name, at)

    def stop(self, *names: str) -> None:
        for name in names:
            self.at.pop(name, None)

    def running(self, name: str) -> bool:
        return name in self.at

    def due(self) -> float | None:
        return min(self.at.values()) if self.at else None

    def take_due(self, now: float) -> Iterator[str]:
        """The timers whose time has come, the earliest first, each as it is reached.

        What one of them stops or moves on, the later ones of the same moment find stopped or moved; what it sets anew
        waits for the next deadline.
        """
        names = sorted((name for name, at in self.at.items() if at <= now), key=self.at.__getitem__)
        for name in names:
            if self.at.get(name, now + 1) <= now:
                del self.at[name]
                yield name
