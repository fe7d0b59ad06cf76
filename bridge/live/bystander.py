"""A bystander on the caller's leg: hears by loudness alone what the model service should have heard, and says so where
the two disagree.

A service may miss that the caller stopped (its detector is stuck), or that they speak at all (it is gone, and nobody
has noticed). While there is no service, the bystander is all the call has. And a service tells the end of speech only
after a silence: that a caller speaks for longer than an agent may ignore is known here first.
"""

from __future__ import annotations

from typing import Final

from bridge.audio.formats import AudioFormat
from bridge.audio.loudness import Loudness
from bridge.call import events as ev
from bridge.live.driver import Driver

_STUCK_MS: Final = 2000.0  # quiet for this long, the caller is surely not speaking
_GRACE_MS: Final = 1000.0  # more than a service waits itself
_ALONE_MS: Final = 700.0  # quiet for this long ends a turn while there is no service
_VOICE_MS: Final = 600.0  # of voice, pauses subtracted: by now a service has noticed
_AGAIN_MS: Final = 2000.0
_BREATH_MS: Final = 100.0  # a shorter pause is part of a word
_PAUSE_MS: Final = 500.0  # a longer one ends what is being said
_NOTICED_MS: Final = 300.0  # speech has been going on for this long at most when a service reports it
_CLICK: Final = 5.0  # a loud frame takes back so much quiet; a click is not a voice
_GLANCE_MS: Final = 40.0  # a frame in so much tells enough of who is heard for seconds


class Bystander:
    def __init__(self, driver: Driver, audio: AudioFormat) -> None:
        self._driver = driver
        self._loudness = Loudness(audio)
        detection = driver.plan.session.turn_detection
        self._stuck_ms = max(_STUCK_MS, detection.waits_ms + _GRACE_MS if detection else 0.0)
        self._quiet_ms = 0.0
        self._voice_ms = 0.0
        barge_in = driver.plan.agent.policies.barge_in
        self._persists_ms = float(barge_in.after_ms) if barge_in.mode == "after_ms" else 0.0
        self._since_glance_ms = 0.0
        self._weighing = False
        self._spoken_ms = 0.0  # the caller's present speech, without its pauses
        self._paused_ms = 0.0

    def hear(self, frame: bytes, ms: float) -> None:
        """One frame of the caller's, after the call was told of it."""
        self._since_glance_ms += ms
        if self._since_glance_ms < _GLANCE_MS and not self._persists_ms:
            return
        ms, self._since_glance_ms = self._since_glance_ms, 0.0
        loud = self._loudness.is_loud(frame, ms)
        state = self._driver.call.state
        if self._persists_ms:
            self._weigh(loud, ms, state.weighing)
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

    def _weigh(self, loud: bool, ms: float, weighing: bool) -> None:
        if weighing and not self._weighing:
            self._spoken_ms = min(self._spoken_ms, _NOTICED_MS, self._persists_ms / 2)
        self._weighing = weighing
        self._paused_ms = 0.0 if loud else self._paused_ms + ms
        if self._paused_ms >= _PAUSE_MS:
            self._spoken_ms = 0.0
        elif self._paused_ms < _BREATH_MS:
            self._spoken_ms += ms
        if weighing and loud and self._spoken_ms >= self._persists_ms:
            self._driver.deliver(ev.CallerPersists())
