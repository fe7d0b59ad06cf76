"""A bystander on the caller's leg: hears by loudness alone what the model service should have heard, and says so where
the two disagree.

A service may miss that the caller stopped (its detector is stuck), or that they speak at all (it is gone, and nobody
has noticed). While there is no service, the bystander is all the call has.
"""

from __future__ import annotations

from typing import Final

from bridge.audio.formats import AudioFormat
from bridge.audio.loudness import Loudness
from bridge.call import events as ev
from bridge.call.plan import TurnDetection
from bridge.live.driver import Driver

_STUCK_MS: Final = 2000.0  # quiet for this long, the caller is surely not speaking
_GRACE_MS: Final = 1000.0  # more than a service waits itself
_ALONE_MS: Final = 700.0  # quiet for this long ends a turn while there is no service
_VOICE_MS: Final = 600.0  # of voice, pauses subtracted: by now a service has noticed
_AGAIN_MS: Final = 2000.0
_CLICK: Final = 5.0  # a loud frame takes back so much quiet; a click is not a voice

# How long OpenAI's semantic detection waits at most ("Voice activity detection" guide, eagerness).
_EAGERNESS_MS: Final = {"low": 8000.0, "medium": 4000.0, "auto": 4000.0, "high": 2000.0}


class Bystander:
    def __init__(self, driver: Driver, audio: AudioFormat) -> None:
        self._driver = driver
        self._loudness = Loudness(audio)
        self._stuck_ms = _stuck_after(driver.plan.session.turn_detection)
        self._quiet_ms = 0.0
        self._voice_ms = 0.0

    def hear(self, frame: bytes, ms: float) -> None:
        """One frame of the caller's, after the call was told of it."""
        loud = self._loudness.is_loud(frame, ms)
        state = self._driver.call.state
        alone = state.model != "ready"
        if not (state.voice if alone else state.turns.caller_speaking):
            self._quiet_ms = 0.0
            self._voice_ms = self._voice_ms + ms if loud else max(min(self._voice_ms, 0.0), self._voice_ms - ms)
            if self._voice_ms >= _VOICE_MS:
                self._voice_ms = -_AGAIN_MS
                self._driver.deliver(ev.CallerUnheard())
            return
        self._voice_ms = 0.0
        self._quiet_ms = max(0.0, self._quiet_ms - _CLICK * ms) if loud else self._quiet_ms + ms
        if self._quiet_ms >= (_ALONE_MS if alone else self._stuck_ms):
            self._quiet_ms = 0.0
            self._driver.deliver(ev.CallerQuiet())


def _stuck_after(detection: TurnDetection | None) -> float:
    if detection is None:
        return _STUCK_MS
    waits_ms = _EAGERNESS_MS[detection.eagerness] if detection.kind == "semantic_vad" else float(detection.silence_ms)
    return max(_STUCK_MS, waits_ms + _GRACE_MS)
