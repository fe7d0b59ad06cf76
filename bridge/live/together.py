"""What one pass of the loop brings for many calls, done in stages: all that came is read, then what callers said is put
into their models' formats in one product of matrices, then all that is to be said is written.

Taken in turn, each packet finds the caches full of what the kernel did for the one before, and the kernel finds them
full of ours: in stages a pass costs a twentieth less. One product for five frames costs two thirds of five products.
Nothing waits longer than until its pass is over. Apart, as at first and with few calls, everything is done at once.

Law: of one socket nothing overtakes anything, neither of what came nor of what is written.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Protocol

import structlog

from bridge.audio.path import CallerToModel, push_together

log = structlog.get_logger()


class Listener(Protocol):
    """A session with a model service."""

    def hear(self, sound: bytes) -> None:
        """Caller audio in the model's format. Never raises."""

    def broke(self, where: str) -> None:
        """To be called while an exception of ours is handled."""


class Reader(Protocol):
    """A socket, as bytes come in; `CallSocket` is one."""

    def feed(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class Writer(Protocol):
    """The part of asyncio.Transport used here."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...


class Together:
    """While `begun`, sockets append their packets and writes and sessions their frames, and somebody calls `turn` in
    every pass of the loop. The lists are appended to directly: that spares each frame of each call a call.
    """

    def __init__(self) -> None:
        self.begun = False
        self.packets: deque[tuple[Reader, bytes]] = deque()  # to be fed when the pass is over
        self.frames: list[tuple[Listener, CallerToModel, bytes]] = []  # to be heard
        self.writes: list[tuple[Writer, bytes]] = []  # to be written

    def begin(self) -> None:
        """Beginning twice is harmless."""
        self.begun = True

    def end(self) -> None:
        """What waits goes first. Ending twice is harmless."""
        while self.packets or self.frames or self.writes:  # what is heard may make somebody say more
            self.turn()
        self.begun = False

    def turn(self) -> None:
        """A pass is over: read, transcode, write. Never raises."""
        self.read()
        self.settle()
        self.flush()

    def read(self) -> None:
        """All that came is fed. Who comes to its end, is fed at once or judges by what has not come calls it before."""
        packets = self.packets
        while packets:
            reader, data = packets.popleft()
            try:
                reader.feed(data)
            except Exception:
                log.exception("socket_broke")
                with suppress(Exception):
                    reader.abort()

    def settle(self) -> None:
        """All that callers said is heard. A listener that must not hear out of order calls this before it speaks."""
        if not self.frames:
            return
        listeners, paths, frames = zip(*self.frames, strict=True)
        self.frames = []
        try:
            sounds = push_together(paths, frames)
        except Exception:
            for listener in listeners:
                listener.broke("caller audio")
            return
        for listener, sound in zip(listeners, sounds, strict=True):
            listener.hear(sound)

    def flush(self) -> None:
        """All that is to be said is written. Whoever writes or closes by itself calls this before."""
        if not self.writes:
            return
        writes, self.writes = self.writes, []
        for writer, data in writes:
            try:
                if not writer.is_closing():
                    writer.write(data)
            except Exception:
                log.exception("write_failed")
