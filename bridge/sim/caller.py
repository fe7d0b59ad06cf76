"""The person on the phone: what they say, when, and how noisy their room is.

A caller's line produces 20 ms of mu-law for every frame of the call; speech that is queued starts with the next
frame, or at a given time of the call; otherwise there is silence (0xFF) or comfort noise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pybase64

from bridge.audio import g711
from bridge.errors import UsageError

from . import noise
from .network import Network
from .playout import SAMPLES_PER_MS

FRAME_MS = 20
FRAME = FRAME_MS * SAMPLES_PER_MS
SILENCE = b"\xff" * FRAME
SILENCE_PAYLOAD = pybase64.b64encode(SILENCE).decode()
_NOISE_FRAMES = 101  # about 2 s of noise, over and over


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls and over what line."""

    noise_dbfs: float | None = None  # comfort noise of the room (RMS against full scale); None is digital silence
    noise_seed: int = 0
    network: Network = field(default_factory=Network)
    suppress_silence: bool = False  # send no frames while silent: timestamps jump, as some carriers' lines do


@dataclass(slots=True)
class Spoken:
    """One utterance: where it lies on the call's clock, in samples. `stop` grows until it has been spoken."""

    label: str
    start: int
    stop: int
    size: int


@dataclass(slots=True)
class _Utterance:
    audio: bytes
    label: str
    at: int | None  # not before this sample of the call
    done: int = 0
    spoken: Spoken | None = None


class CallerLine:
    """Gives one frame after the other. `spoken` lists what was said and when, exactly."""

    def __init__(self, caller: Caller) -> None:
        self.spoken: list[Spoken] = []
        self._queue: deque[_Utterance] = deque()
        self._noise = None
        if caller.noise_dbfs is not None:
            self._noise = noise.room(_NOISE_FRAMES * FRAME, dbfs=caller.noise_dbfs, seed=caller.noise_seed)
        self._noise_at = 0

    def say(self, audio: bytes, *, at: int | None, label: str) -> None:
        """Queue mu-law speech; `at` is a sample of the call before which it does not begin."""
        if not audio:
            raise UsageError("an utterance needs audio")
        self._queue.append(_Utterance(audio, label, at))

    def hush(self) -> None:
        """Stop talking now; what was queued is forgotten."""
        self._queue.clear()

    @property
    def silent(self) -> bool:
        """True if nothing is being said or waits to be said."""
        return not self._queue

    def frame(self, start: int) -> tuple[bytes, bool]:
        """The frame beginning at sample `start` of the call, and whether speech is in it."""
        speech = self._speech(start)
        if self._noise is None:
            return (SILENCE, False) if speech is None else (speech, True)
        if self._noise_at + FRAME > len(self._noise):
            self._noise_at = 0
        hiss = self._noise[self._noise_at : self._noise_at + FRAME]
        self._noise_at += FRAME
        mixed = hiss if speech is None else hiss + np.frombuffer(g711.decode_mulaw(speech), "<i2").astype(np.int32)
        return g711.encode_mulaw(np.clip(mixed, -32768, 32767).astype("<i2").tobytes()), speech is not None

    def _speech(self, start: int) -> bytes | None:
        """The speech in this frame, silence around it; None if there is none."""
        if not self._queue:
            return None
        frame = bytearray()
        begun = False
        while self._queue and len(frame) < FRAME:
            here = start + len(frame)
            head = self._queue[0]
            if head.spoken is None and head.at is not None and head.at > here:
                if head.at >= start + FRAME:
                    break
                frame += b"\xff" * (head.at - here)
                here = head.at
            if head.spoken is None:
                head.spoken = Spoken(head.label, here, here, len(head.audio))
                self.spoken.append(head.spoken)
            piece = head.audio[head.done : head.done + FRAME - len(frame)]
            begun = True
            frame += piece
            head.done += len(piece)
            head.spoken.stop = here + len(piece)
            if head.done < len(head.audio):
                break
            self._queue.popleft()
            if not (self._queue and self._queue[0].at is not None):
                break  # what is queued without a time begins with a frame of its own
        if not begun:
            return None
        return bytes(frame) + b"\xff" * (FRAME - len(frame))
