"""How much a peer may bring, over time: one that brings more costs every call of this process its time."""

from __future__ import annotations

from typing import Final

BURST: Final = 128  # looked at together, so that one costs next to nothing


class Allowance:
    """`per_s` more each second, never more than `at_once`; `at_first` to begin with. Times are seconds."""

    def __init__(self, now: float, *, per_s: float, at_first: float, at_once: float) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._left = at_first
        self._looked_at = now

    def overdrawn(self, now: float, brought: int = BURST) -> bool:
        """So much has come; whether it was more than the peer may bring."""
        earned = self._left + (now - self._looked_at) * self._per_s
        self._left, self._looked_at = min(earned, self._at_once) - brought, now
        return self._left < 0
