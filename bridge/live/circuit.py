"""What the calls of one process know of each model service together: one that has just refused for good, or has asked
for time, is not asked by every call again.

While the circuit of a service is open, a session with it fails at once, with the reason it gave; the call goes on to
the agent's next service, or to the apology. The first call after that asks again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from bridge.realtime.profiles import Target

log = structlog.get_logger()

_REFUSED_S: Final = 5.0  # a key or a quota may be put right at any time
_LONGEST_S: Final = 10.0  # of what a service asks for
_MOST: Final = 256
_HAIR_S: Final = 0.05  # who was told to wait for so long is not turned away for having been a little early


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a service is not asked, and for how long still."""

    code: str
    why: str
    left_s: float | None  # None: it is not a matter of time


class Circuits:
    def __init__(self) -> None:
        self._broken: dict[tuple[str, str, str], tuple[float, Broken]] = {}

    def refused(self, target: Target, code: str, why: str) -> None:
        """It will not have us: key, quota, model."""
        if self.broken(target) is None:
            log.error("model_service_refuses", service=target.profile.name, where=target.where, code=code, why=why)
        self._keep(target, _REFUSED_S, Broken(code, why, None))

    def busy(self, target: Target, code: str, why: str, wait_s: float) -> None:
        """It has too much to do, and said when to come back."""
        self._keep(target, min(wait_s, _LONGEST_S), Broken(code, why, wait_s))

    def broken(self, target: Target) -> Broken | None:
        """None: it may be asked."""
        key = _key(target)
        until, broken = self._broken.get(key, (0.0, None))
        left_s = until - asyncio.get_running_loop().time()
        if broken is None or left_s <= _HAIR_S:
            self._broken.pop(key, None)
            return None
        return broken if broken.left_s is None else Broken(broken.code, broken.why, left_s)

    def _keep(self, target: Target, for_s: float, broken: Broken) -> None:
        if len(self._broken) >= _MOST:
            self._broken.pop(next(iter(self._broken)))
        self._broken[_key(target)] = (asyncio.get_running_loop().time() + for_s, broken)


def _key(target: Target) -> tuple[str, str, str]:
    return target.url, target.api_key, target.model
