"""What one pass of the loop brings for many calls, done in stages: all that came is read, then what callers said is put
into their models' formats in one product of matrices, then all that is to be said is written.

Taken in turn, each packet finds the caches full of what the kernel did for the one before, and the kernel finds them
full of ours: in stages a pass costs a twentieth less. One product for five frames costs two thirds of five products.
Nothing waits longer than until its pass is over. Apart, as at first and with few calls, everything is done at once.

Law: of one socket nothing overtakes anything, neither of what came nor of what is written.
"""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from bridge.audio.path import CallerToModel, push_together

log = structlog.get_logger()

_MOST_KEPT: Final = 16_384  # bytes of one packet: whoever brings more is read at once


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
    """While `begun`, sockets leave packets with `arrived` and `write`, sessions leave frames with `add`, and somebody
    calls `turn` in every pass of the loop.
    """

    def __init__(self) -> None:
        self.begun = False
        self._packets: list[tuple[Reader, bytes]] = []
        self._listeners: list[Listener] = []
        self._paths: list[CallerToModel] = []
        self._frames: list[bytes] = []
        self._writes: list[tuple[Writer, bytes]] = []

    def begin(self) -> None:
        """Beginning twice is harmless."""
        self.begun = True

    def end(self) -> None:
        """What waits goes first. Ending twice is harmless."""
        self.turn()
        self.begun = False

    def turn(self) -> None:
        """A pass is over: read, transcode, write. Never raises."""
        self.read()
        self.settle()
        self.flush()

    # ------------------------------------------------------------ what comes

    def arrived(self, reader: Reader, data: bytes) -> None:
        """A packet for `reader` to be fed when the pass is over."""
        self._packets.append((reader, data))
        if len(data) > _MOST_KEPT:
            self.read()

    def read(self) -> None:
        """All that came is fed. A reader that comes to its end calls this before."""
        if not self._packets:
            return
        packets, self._packets = self._packets, []
        for reader, data in packets:
            try:
                reader.feed(data)
            except Exception:
                log.exception("socket_broke")
                reader.abort()

    # ------------------------------------------------------------ what callers say

    def add(self, listener: Listener, path: CallerToModel, audio: bytes) -> None:
        """A frame for `listener` to hear when the pass is over."""
        self._listeners.append(listener)
        self._paths.append(path)
        self._frames.append(audio)

    def settle(self) -> None:
        """All that waits is heard. A listener that must not hear out of order calls this before it says anything."""
        if not self._listeners:
            return
        listeners, paths, frames = self._listeners, self._paths, self._frames
        self._listeners, self._paths, self._frames = [], [], []
        try:
            sounds = push_together(paths, frames)
        except Exception:
            for listener in listeners:
                listener.broke("caller audio")
            return
        for listener, sound in zip(listeners, sounds, strict=True):
            listener.hear(sound)

    # ------------------------------------------------------------ what is said

    def write(self, writer: Writer, data: bytes) -> None:
        """Bytes for `writer` to be written when the pass is over."""
        self._writes.append((writer, data))

    def flush(self) -> None:
        """All that is to be said is written. Whoever writes or closes by itself calls this before."""
        if not self._writes:
            return
        writes, self._writes = self._writes, []
        for writer, data in writes:
            try:
                if not writer.is_closing():
                    writer.write(data)
            except Exception:
                log.exception("write_failed")
