"""Named deadlines of one call. The driver keeps one clock alarm; which of ours it stands for is decided here."""

from __future__ import annotations

import msgspec


class Timers(msgspec.Struct):
    """Times are the call's own milliseconds. A timer set again moves; one that is due is taken by `expired`."""

    at: dict[str, float] = {}

    def set(self, name: str, at: float) -> None:
        self.at[name] = at

    def start(self, name: str, at: float) -> None:
        """Set it unless it already runs."""
        self.at.setdefault(name, at)

    def stop(self, name: str) -> None:
        self.at.pop(name, None)

    def running(self, name: str) -> bool:
        return name in self.at

    def due(self) -> float | None:
        return min(self.at.values(), default=None)

    def expired(self, now: float) -> list[str]:
        """Take the timers whose time has come, the earliest first."""
        names = sorted((name for name, at in self.at.items() if at <= now), key=self.at.__getitem__)
        for name in names:
            del self.at[name]
        return names
