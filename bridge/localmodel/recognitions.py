"""Which recognition an item's meaning comes from: of the whole turn, or of the turn up to the pause it ended with."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.audio.formats import AudioFormat
from bridge.localmodel.brain import Heard


@dataclass(frozen=True, slots=True, eq=False)
class Recognise:
    """Please find out what was said here, and call `recognised` with this very object."""

    item_id: str
    audio: bytes
    format: AudioFormat


class Recognitions:
    def __init__(self) -> None:
        self._guess: Recognise | None = None  # of the present turn up to its pause, in case it ends there
        self._guessed: Heard | None = None
        self._awaited: dict[str, Recognise] = {}  # of items in the conversation

    def paused(self, guess: Recognise) -> Recognise:
        """The caller is quiet, and may have finished."""
        self._guess, self._guessed = guess, None
        return guess

    def forget_pause(self) -> None:
        """The caller went on, or what was said is taken away."""
        self._guess = self._guessed = None

    def ask(self, whole: Recognise) -> Recognise:
        """For an item that is in the conversation."""
        self._awaited[whole.item_id] = whole
        return whole

    def committed(self, whole: Recognise) -> Recognise | Heard | None:
        """For a turn that ended: what to ask, or what is known; None where the pause's recognition still runs."""
        guess, guessed = self._guess, self._guessed
        self.forget_pause()
        if guess is None or guess.item_id != whole.item_id:
            return self.ask(whole)
        if guessed is not None:
            return guessed
        self._awaited[guess.item_id] = guess
        return None

    def arrived(self, wanted: Recognise, heard: Heard) -> bool:
        """Whether this is what an item of the conversation waits for."""
        if wanted is self._guess:
            self._guessed = heard  # the turn may yet go on
            return False
        if wanted is not self._awaited.get(wanted.item_id):
            return False
        del self._awaited[wanted.item_id]
        return True
