"""Caller frames of many calls that came within one pass of the loop, put into their models' formats together.

One product of matrices for five frames costs two thirds of five products, and a frame waits for it only until the pass
is over. Apart, as at first and with few calls, every frame goes its own way at once.
"""

from __future__ import annotations

from typing import Protocol

from bridge.audio.path import CallerToModel, push_together


class Listener(Protocol):
    """A session with a model service."""

    def hear(self, sound: bytes) -> None:
        """Caller audio in the model's format. Never raises."""

    def broke(self, where: str) -> None:
        """To be called while an exception of ours is handled."""


class Together:
    """While `begun`, sessions leave their frames with `add`, and somebody calls `settle` in every pass of the loop."""

    def __init__(self) -> None:
        self.begun = False
        self._listeners: list[Listener] = []
        self._paths: list[CallerToModel] = []
        self._frames: list[bytes] = []

    def begin(self) -> None:
        """Beginning twice is harmless."""
        self.begun = True

    def end(self) -> None:
        """What waits goes first. Ending twice is harmless."""
        self.begun = False
        self.settle()

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
