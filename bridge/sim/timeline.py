"""The record of one simulated call: every thing sent, received, played and said, with its time since the call began.

Made for reading and for comparing: a moment is one line of text, audio appears as lengths, and runs of caller frames
are one moment that grows. A run on a virtual clock gives the same lines every time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Literal

import msgspec

Who = Literal["caller", "carrier", "bridge", "network", "rest"]


class Moment(msgspec.Struct):
    """Something that happened. `what` is a short kind ("mark", "clear", "media"); `detail` holds plain values."""

    at_ms: float
    who: Who
    what: str
    detail: dict[str, Any] = {}

    def line(self) -> str:
        details = " ".join(f"{name}={_shown(value)}" for name, value in self.detail.items())
        return f"{self.at_ms:10.2f}  {self.who:<7}  {self.what:<14} {details}".rstrip()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, str) and value and not any(c in value for c in ' \t\n"='):
        return value
    return msgspec.json.encode(value).decode()


class Timeline:
    """Moments in the order in which they were recorded. `watch` hands each new one to a callback at once."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._watchers: list[Callable[[Moment], None]] = []

    def add(self, at_ms: float, who: Who, what: str, **detail: Any) -> Moment:
        moment = Moment(at_ms, who, what, detail)
        self.moments.append(moment)
        for watcher in tuple(self._watchers):
            watcher(moment)
        return moment

    def watch(self, watcher: Callable[[Moment], None]) -> Callable[[], None]:
        """Call `watcher(moment)` for every moment from now on; what is returned ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def of(self, what: str, who: Who | None = None) -> list[Moment]:
        return [m for m in self.moments if m.what == what and who in (None, m.who)]

    def text(self) -> str:
        """One line per moment: a golden file."""
        return "".join(moment.line() + "\n" for moment in self.moments)


def difference(golden: str, found: str) -> str:
    """Where two timelines part: the first line that differs, with both readings; empty if they are the same."""
    if golden == found:
        return ""
    expected_lines, found_lines = golden.splitlines(), found.splitlines()
    for number, (expected, here) in enumerate(zip_longest(expected_lines, found_lines), 1):
        if expected != here:
            was = "the end" if expected is None else " ".join(expected.split())
            now = "the end" if here is None else " ".join(here.split())
            return f"line {number}: expected {was!r}, found {now!r}"
    return "line ends differ"
