"""Measurements of a rate changer as a caller would meet it: pure tones and speech, streamed in 20 ms chunks.

A way is made by `make(source, target)` and gives a function from bytes to bytes. Beside ours stand the candidates one
would otherwise use: audioop, a soxr stream, and soxr chunk by chunk. Tones are read through a Kaiser window whose
side lobes are below -120 dB; rejection counts the mirrored components only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

from bridge.audio import g711
from bridge.audio.formats import AudioFormat
from bridge.audio.path import CallerToModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

Push = Callable[[bytes], bytes]
Make = Callable[[AudioFormat, AudioFormat], Push]

LEVEL_DBFS = -10.0
SETTLING_S = 0.25  # a soxr stream's first output comes late
_WINDOW_BETA = 18.0
_HALF_WIDTH = 8  # bins of a tone's main lobe


def pcm16(rate_hz: int) -> AudioFormat:
    return AudioFormat("pcm16", rate_hz)


def ours(source: AudioFormat, target: AudioFormat) -> Push:
    return CallerToModel(source, target).push


def with_audioop(source: AudioFormat, target: AudioFormat) -> Push:
    state = None

    def push(data: bytes) -> bytes:
        nonlocal state
        if source.encoding == "mulaw":
            data = audioop.ulaw2lin(data, 2)
        data, state = audioop.ratecv(data, 2, 1, source.rate_hz, target.rate_hz, state)
        return audioop.lin2ulaw(data, 2) if target.encoding == "mulaw" else data

    return push


def _coded(source: AudioFormat, target: AudioFormat, change: Callable[[NDArray[np.int16]], NDArray[np.int16]]) -> Push:
    def push(data: bytes) -> bytes:
        linear = g711.decode_mulaw(data) if source.encoding == "mulaw" else data
        out = change(np.frombuffer(linear, "<i2")).tobytes()
        return g711.encode_mulaw(out) if target.encoding == "mulaw" else out

    return push


def with_soxr_stream(source: AudioFormat, target: AudioFormat) -> Push:
    stream = soxr.ResampleStream(source.rate_hz, target.rate_hz, 1, dtype="int16", quality="HQ")
    return _coded(source, target, stream.resample_chunk)


def with_soxr_per_chunk(source: AudioFormat, target: AudioFormat) -> Push:
    return _coded(source, target, lambda x: soxr.resample(x, source.rate_hz, target.rate_hz, quality="HQ"))


WAYS: dict[str, Make] = {
    "ours": ours,
    "audioop": with_audioop,
    "soxr HQ stream": with_soxr_stream,
    "soxr per chunk": with_soxr_per_chunk,
}


def streamed(push: Push, data: bytes, size: int) -> bytes:
    return b"".join([push(data[at : at + size]) for at in range(0, len(data), size)])


# ---------------------------------------------------------------- tones


@cache
def _window(count: int) -> NDArray[np.float64]:
    return np.kaiser(count, _WINDOW_BETA)


@dataclass(frozen=True)
class Tone:
    """A tone of `hz` after a way: `spectrum` in steps of 1 Hz, scaled so that full scale is one."""

    hz: int
    from_hz: int
    to_hz: int
    spectrum: NDArray[np.complex128]

    def power(self, hz: int) -> float:
        """Of the component at this frequency, as heard after aliasing."""
        folded = abs(hz - self.to_hz * round(hz / self.to_hz))
        near = self.spectrum[max(0, folded - _HALF_WIDTH) : folded + _HALF_WIDTH + 1]
        return float(np.sum(np.abs(near) ** 2))

    @property
    def _full(self) -> float:
        """Power the tone had before the way, in the spectrum's terms."""
        window = _window(self.to_hz)
        return (10 ** (LEVEL_DBFS / 20) / 2) ** 2 * float(np.sum(window**2)) * self.to_hz / float(window.sum()) ** 2

    @property
    def gain_db(self) -> float:
        return 20 * float(np.log10(np.abs(self.spectrum[self.hz]) * 2)) - LEVEL_DBFS

    @property
    def rejection_db(self) -> float:
        """How far the mirrored components lie below the tone put in."""
        if self.hz < min(self.from_hz, self.to_hz) / 2:
            mirrors = {abs(k * self.from_hz + sign * self.hz) for k in (1, 2) for sign in (1, -1)}
            heard = {m for m in mirrors if m <= self.to_hz / 2}
        else:
            heard = {self.hz}
        return -10 * float(np.log10(sum(self.power(m) for m in heard) / self._full + 1e-20))

    @property
    def sinad_db(self) -> float:
        power = np.abs(self.spectrum) ** 2
        power[: _HALF_WIDTH + 1] = 0
        tone = slice(self.hz - _HALF_WIDTH, self.hz + _HALF_WIDTH + 1)
        rest = float(power.sum() - power[tone].sum())
        return 10 * float(np.log10(power[tone].sum() / rest))

    @property
    def phase(self) -> float:
        return float(np.angle(self.spectrum[self.hz]))


def tone(make: Make, from_hz: int, to_hz: int, hz: int) -> Tone:
    """One whole second of the steady state."""
    at = np.arange(int(1.5 * from_hz)) / from_hz
    samples = np.rint(32768 * 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * hz * at)).astype("<i2")
    out = streamed(make(pcm16(from_hz), pcm16(to_hz)), samples.tobytes(), from_hz // 50 * 2)
    begin = int(SETTLING_S * to_hz)
    heard = np.frombuffer(out, "<i2")[begin : begin + to_hz] / 32768
    window = _window(to_hz)
    return Tone(hz, from_hz, to_hz, np.fft.rfft(heard * window) / window.sum())


def ripple_db(tones: list[Tone]) -> float:
    gains = [tone.gain_db for tone in tones]
    return max(gains) - min(gains)


def delay_ms(make: Make, from_hz: int, to_hz: int, hz: int, apart_hz: int = 10) -> float:
    """Group delay of the waveform around `hz`, with output sample n at n / to_hz; not what a way holds back beyond."""
    low, high = (tone(make, from_hz, to_hz, hz + step) for step in (-apart_hz, apart_hz))
    # the window begins at a whole number of the tone's periods, or at half of one: both tones alike for an even
    # distance
    turned = (high.phase - low.phase - 2 * np.pi * 2 * apart_hz * SETTLING_S + np.pi) % (2 * np.pi) - np.pi
    return -turned / (2 * np.pi * 2 * apart_hz) * 1000


def held_back_ms(make: Make, source: AudioFormat, target: AudioFormat) -> tuple[float, float]:
    """Mean and worst audio that went in and has not come out after a 20 ms push, over 4 s."""
    push, went_in, came_out, held = make(source, target), 0.0, 0.0, []
    frame = source.silence_for(20)
    for _ in range(200):
        went_in += 20
        came_out += target.ms_of(len(push(frame)))
        held.append(went_in - came_out)
    return float(np.mean(held[50:])), max(held[50:])


# ---------------------------------------------------------------- loudness, cuts, speech


def wrapped(make: Make, source: AudioFormat, target: AudioFormat) -> int:
    """Samples on the wrong side of zero when a full-scale square overshoots, against the same square 18 dB down."""
    half = source.rate_hz // 250
    signs = np.tile(np.repeat([1, -1], half), 60)
    loud, quiet = (
        _linear(target, make(source, target)(_bytes(source, np.where(signs > 0, top, -top - 1))))
        for top in (32767, 4095)
    )
    certain = np.abs(quiet) > 400
    return int(np.count_nonzero(np.sign(loud[certain]) != np.sign(quiet[certain])))


def _bytes(form: AudioFormat, samples: NDArray[np.int64]) -> bytes:
    linear = samples.astype("<i2").tobytes()
    return g711.encode_mulaw(linear) if form.encoding == "mulaw" else linear


def _linear(form: AudioFormat, data: bytes) -> NDArray[np.int64]:
    linear = g711.decode_mulaw(data) if form.encoding == "mulaw" else data
    return np.frombuffer(linear, "<i2").astype(np.int64)


def splatter_db(sound: NDArray[np.float64], rate_hz: int, above_hz: float) -> float:
    """Energy above a frequency in the 40 ms around the middle of `sound`, against all energy before the middle."""
    middle, reach = len(sound) // 2, rate_hz // 50
    around = sound[middle - reach : middle + reach] * np.hanning(2 * reach)
    before = sound[middle - 2 * reach : middle] * np.hanning(2 * reach)
    power = np.abs(np.fft.rfft(around)) ** 2
    high = np.fft.rfftfreq(2 * reach, 1 / rate_hz) > above_hz
    return 10 * float(np.log10(power[high].sum() / np.sum(np.abs(np.fft.rfft(before)) ** 2)))


# ---------------------------------------------------------------- speech


def ideal_8k(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """24 kHz to 8 kHz by a long linear-phase filter over the whole recording."""
    from scipy.signal import firwin, resample_poly

    filtered = resample_poly(samples.astype(np.float64), 1, 3, window=firwin(1441, 3850, fs=24000))
    return np.clip(np.rint(filtered), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class Speech:
    """Means over utterances, 24 -> 8 kHz mu-law: PESQ-NB below the ideal filter with mu-law, and STOI."""

    ideal_pesq: float
    below_ideal: float
    stoi: float


def speech(make: Make, utterances: list[NDArray[np.int16]]) -> Speech:
    """Of utterances at 24 kHz. Raises ImportError where pesq, pystoi or scipy are missing."""
    from pesq import pesq
    from pystoi import stoi

    scores = []
    for sound in utterances:
        clean = ideal_8k(sound)
        ideal = np.frombuffer(g711.decode_mulaw(g711.encode_mulaw(clean.astype("<i2").tobytes())), "<i2")
        codes = streamed(make(pcm16(24000), AudioFormat("mulaw", 8000)), sound.astype("<i2").tobytes(), 960)
        heard = np.frombuffer(g711.decode_mulaw(codes), "<i2")
        count = min(len(heard), len(clean))
        best = pesq(8000, clean, ideal, "nb")
        scores.append((best, best - pesq(8000, clean, heard, "nb"), stoi(clean[:count], heard[:count], 8000)))
    return Speech(*(float(mean) for mean in np.mean(scores, axis=0)))
