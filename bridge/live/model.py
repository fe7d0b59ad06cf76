"""The model's leg of a call: the sessions it has with model services, and what is gathered for them."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.audio.formats import AudioFormat
from bridge.call import actions as do
from bridge.live import connect
from bridge.live.circuit import Circuits
from bridge.live.dialling import Dial
from bridge.live.driver import Driver
from bridge.live.session import Session
from bridge.live.together import Together
from bridge.realtime.profiles import Target


class ModelLeg:
    """All sessions of one call: the one in use, and at times the one that will take its place.

    `targets` stand in the order of the plan's models; `circuits` and `together` are shared with the other
    calls of the process.
    """

    def __init__(
        self,
        driver: Driver,
        targets: Sequence[Target],
        *,
        caller: AudioFormat,
        dial: Dial = connect.dial,
        circuits: Circuits | None = None,
        together: Together | None = None,
    ) -> None:
        self.driver = driver
        self._targets = targets
        self.caller = caller
        self.dial = dial
        self.circuits = circuits or Circuits()
        self.together = together or Together()
        self._session: Session | None = None
        self._next: Session | None = None
        plan = driver.plan
        self._uplink_bytes = int(plan.agent.policies.uplink_frame_ms * caller.bytes_per_ms)
        self._uplink = bytearray()

    # ------------------------------------------------------------ requests

    def open(self, action: do.OpenModel) -> None:
        """A session in place of whatever there was."""
        self.close()
        self._session = self._begin(action)

    def open_beside(self, action: do.OpenModel) -> None:
        """A session beside the one in use, which it may succeed."""
        if self._next is not None:
            self._next.close()
        self._next = self._begin(action)

    def _begin(self, action: do.OpenModel) -> Session:
        session = Session(self, action, self._targets[action.service])
        session.start()
        return session

    def switch(self, action: do.SwitchModel) -> None:
        """The session kept beside takes the place of the one in use."""
        assert self._next is not None, "only a session that is ready takes over"
        if self._session is not None:
            self._session.close()
        self._uplink.clear()
        self._session, self._next = self._next, None
        self._session.seed(action.news)

    def close(self) -> None:
        """End every session. Closing twice is harmless."""
        self._uplink.clear()
        for session in (self._session, self._next):
            if session is not None:
                session.close()
        self._session = self._next = None

    def in_use(self, session: Session) -> bool:
        return self._session is session

    def send_audio(self, audio: bytes) -> None:
        session = self._session
        if session is None:
            return
        if len(audio) < self._uplink_bytes or self._uplink:
            self._uplink += audio
            if len(self._uplink) < self._uplink_bytes:
                return
            audio = bytes(self._uplink)
            self._uplink.clear()
        session.send_audio(audio)

    def send_silence(self, ms: float) -> None:
        if self._session is not None:
            self._flush_uplink(self._session)
            self._session.send_audio(self.caller.silence_for(ms))

    def request(self, action: do.Action) -> None:
        if self._session is not None:
            if isinstance(action, do.CommitCallerAudio):
                self._flush_uplink(self._session)
            self._session.request(action)

    def _flush_uplink(self, session: Session) -> None:
        """What was gathered for a whole uplink frame goes first."""
        if self._uplink:
            session.send_audio(bytes(self._uplink))
            self._uplink.clear()

    def probe(self) -> None:
        """Is it still there? One that gives no sign of life is lost."""
        if self._session is not None:
            self._session.probe()

    def cleared(self) -> None:
        """Playback was cleared: what comes next has nothing to do with what came before."""
        if self._session is not None and self._session.down is not None:
            self._session.down.reset()
