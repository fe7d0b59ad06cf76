"""The caller's leg: a media socket on one side, facts and requests of a call on the other.

Audio for the caller waits in an outbox while the carrier does not read; a clear overtakes it, and an outbox that
stays full ends the leg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import structlog

from bridge.audio.formats import AudioFormat
from bridge.audio.timeline import CallerTimeline
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.live.allowance import BURST, Allowance
from bridge.live.bystander import Bystander
from bridge.live.driver import Driver
from bridge.telephony import twilio

log = structlog.get_logger()

_CROWDED_BYTES: Final = 8192  # the network takes no more for now: half a second of audio in base64
_STALLED_BYTES: Final = 49_152  # four and a half seconds of audio
_RETRY_S: Final = 0.02
_MOST_PER_S: Final = 400  # a stream brings 50 frames and some marks
_MOST_AT_FIRST: Final = 640
_MOST_AT_ONCE: Final = 3000  # a minute of frames, kept for us while we, or the network, stood still
_POLICY: Final = 1008  # close code: policy violation (RFC 6455 section 7.4.1)


class MediaSocket(Protocol):
    """What a leg needs of its socket; `CallSocket` is one."""

    @property
    def waiting_bytes(self) -> int: ...
    def send_all(self, payloads: Iterable[bytes]) -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...


class PhoneLeg:
    """One media stream of one call."""

    def __init__(
        self,
        driver: Driver,
        socket: MediaSocket,
        *,
        stream_id: str,
        audio: AudioFormat,
    ) -> None:
        self._driver = driver
        self._socket = socket
        self._stream_id = stream_id
        self._decode = twilio.decode
        self._encoder = twilio.StreamEncoder(stream_id)
        self._timeline = CallerTimeline(audio, ordered=driver.plan.carrier.ordered_frames)
        self._bystander = Bystander(driver, audio)
        self._bytes_per_ms = audio.bytes_per_ms
        self._loop = asyncio.get_running_loop()
        self._media: list[bytes] = []  # audio and marks, which a clear makes void
        self._retry: asyncio.TimerHandle | None = None
        self._messages = 0
        self._allowance = Allowance(
            self._loop.time(), per_s=_MOST_PER_S, at_first=_MOST_AT_FIRST, at_once=_MOST_AT_ONCE
        )
        self._closed = False
        self.foreign = 0  # messages of another stream or track
        self.malformed = 0

    # ------------------------------------------------------------ from the carrier

    def receive(self, payload: bytes, is_text: bool) -> None:
        """One message of the media socket."""
        driver = self._driver
        if driver.phone is not self:
            return
        try:
            self._messages += 1
            if self._messages % BURST == 0 and self._allowance.overdrawn(self._loop.time()):
                self._misbehaved("too many messages")
            message = self._decode(payload) if is_text else twilio.Malformed("binary")
            if type(message) is not twilio.Media:
                self._other(message)
            elif message.stream_id != self._stream_id or message.track != "inbound":
                self.foreign += 1
            else:
                audio = self._timeline.push(message.timestamp_ms, message.audio)
                if audio:
                    ms = len(audio) / self._bytes_per_ms
                    driver.deliver(ev.CallerSpoke(audio, ms))
                    self._bystander.hear(audio, ms)
        except Exception:
            driver.broke("a message of the carrier")

    def _other(self, message: twilio.StreamMessage | None) -> None:
        driver = self._driver
        match message:
            case twilio.Mark(name=name, stream_id=self._stream_id):
                driver.deliver(ev.MarkReturned(name))
            case twilio.Dtmf(digit=digit, stream_id=self._stream_id):
                driver.deliver(ev.CallerPressed(digit))
            case twilio.Stop(stream_id=self._stream_id):
                driver.deliver(ev.CallerLeft("stop"))
            case twilio.Start():
                self._misbehaved("a second start on one stream")
            case twilio.Malformed(what=what):
                self.malformed += 1
                if self.malformed <= 3:
                    log.warning("media_message_malformed", call_id=driver.plan.call_id, what=what)
            case _:
                self.foreign += 1

    def _misbehaved(self, what: str) -> None:
        self._driver.deliver(ev.CarrierMisbehaved(what))
        self._socket.close(_POLICY, what)

    def socket_closed(self, code: int, reason: str) -> None:
        """The media socket is gone, with or without a stop before."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        driver = self._driver
        if driver.phone is self:
            if not driver.call.over:  # else there was a stop before
                log.info("stream_closed", call_id=driver.plan.call_id, code=code, reason=reason)
            driver.deliver(ev.CallerLeft("closed"))

    # ------------------------------------------------------------ to the carrier

    def play(self, action: do.PlayAudio) -> None:
        self._media.append(self._encoder.media(action.audio))

    def mark(self, action: do.PlaceMark) -> None:
        self._media.append(self._encoder.mark(action.name))

    def clear(self) -> None:
        self._media.clear()
        if not self._closed:
            self._socket.send_all((self._encoder.clear(),))

    def flush(self) -> None:
        """Everything of one decision leaves in one write."""
        if not self._media or self._closed:
            return
        if self._socket.waiting_bytes <= _CROWDED_BYTES:
            self._socket.send_all(self._media)
            self._media.clear()
            return
        if sum(map(len, self._media)) + self._socket.waiting_bytes > _STALLED_BYTES:
            self._driver.deliver(ev.PhoneStalled())
        elif self._retry is None:
            self._retry = self._loop.call_later(_RETRY_S, self._flush_again)

    def _flush_again(self) -> None:
        self._retry = None
        self.flush()

    def gave_silence(self, ms: float) -> None:
        """The model was given silence for a pause of this leg: the gap's own silence must not come on top."""
        self._timeline.credit(ms)

    def close(self) -> None:
        """Closing twice is harmless."""
        self._closed = True
        self._media.clear()
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close()
