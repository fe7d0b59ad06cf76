"""Room for calls: how many there may be at the same time, and how many there are.

Laws: a place is taken before its call exists and given back once when it is gone; there are never more calls than
places, over all workers together.
"""

from __future__ import annotations

import mmap
from collections.abc import MutableSequence
from pathlib import Path


class Places:
    """`page` has the number of calls of each worker, each written by that worker alone; without it there is only one.

    A place is counted before it is looked whether there was one: two workers after the last place may both get none,
    and never both get it.
    """

    def __init__(
        self, most: int, page: MutableSequence[int] | memoryview[int] | None = None, *, worker: int = 0
    ) -> None:
        self.most = most
        self._page = [0] if page is None else page
        self._worker = worker
        self._page[worker] = 0

    @property
    def taken(self) -> int:
        """In all."""
        return sum(self._page)

    @property
    def full(self) -> bool:
        return self.taken >= self.most

    def take(self) -> bool:
        """A place, if one is free."""
        self._page[self._worker] += 1
        if self.taken > self.most:
            self._page[self._worker] -= 1
            return False
        return True

    def leave(self) -> None:
        assert self._page[self._worker] > 0, "a place is given back once"
        self._page[self._worker] -= 1


def lay_out(path: Path, workers: int) -> memoryview[int]:
    """A page for so many workers, shared by every process that opens the file."""
    path.write_bytes(bytes(8 * workers))
    return shared(path)


def shared(path: Path) -> memoryview[int]:
    """The page of this service; writes are seen by all who have it."""
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
