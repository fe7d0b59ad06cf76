"""The live audio path of one call and one direction: bytes of one format in, bytes of the other out.

`CallerToModel` and `ModelToCaller` take any chunking, even half a sample, and give the same bytes for each, pushed
alone or, with `push_together`, beside the frames of other calls. Nothing that could be said already is held back; at
most a group of the ratio (2 samples and one byte for 24 -> 8 kHz) waits for its rest. What is too loud for the target
is limited, never wrapped, and counted.

Law: an instance belongs to the thread that made it, because the scratch of `resample` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.audio.encoding import PCM16, codes_by_sample, decode, encode, samples_by_code
from bridge.audio.formats import AudioFormat
from bridge.audio.resample import MIDDLE, Workspace, scratch, toeplitz
from bridge.errors import UsageError

_CODES: Final = np.dtype(np.uint8)

FADE_MS: Final = 5
GAIN_LIMIT_DB: Final = 24.0
_MOST_PORTIONS: Final = 256
_LEAST, _MOST = MIDDLE - 32768, MIDDLE + 32767  # an index outside is a sample that is limited


class _Recoder:
    """Between two encodings of the same rate: one table from code to code. Shared by calls."""

    def __init__(self, source: AudioFormat, target: AudioFormat, gain: float) -> None:
        wanted = np.rint(samples_by_code(source.encoding) * gain).astype(np.int64) + 32768
        self.codes: np.dtype[Any] = np.dtype("<u2") if source.sample_bytes == 2 else _CODES
        self.table = codes_by_sample(target.encoding).take(wanted, mode="clip")
        self.limited = (wanted < 0) | (wanted > 65535)
        self.can_limit = bool(self.limited.any())


class _Portion:
    """What is to be done with a push of some size."""

    __slots__ = ("blocks", "bytes_due", "fresh", "samples_due", "span", "whole", "work")

    def __init__(self, resampler: _Resampler, size: int) -> None:
        matrix = resampler.matrix
        groups = (size - resampler.history_bytes) // resampler.group_bytes
        self.fresh = groups * resampler.group_bytes  # bytes that will not be needed again
        self.blocks = blocks = -(-self.fresh // resampler.block_bytes)
        self.span = resampler.history_bytes + blocks * resampler.block_bytes  # bytes that are looked at
        self.work = resampler.workspace(blocks, 1) if blocks else None  # None: nothing is due yet
        self.whole = self.span == size and blocks > 0  # whole blocks, and some
        self.samples_due = groups * matrix.samples_out_per_group
        self.bytes_due = groups * resampler.bytes_out_per_group


class _Resampler:
    """Decode, filter, encode: tables and matrix for two formats and a gain. Shared by the calls of one thread."""

    def __init__(self, source: AudioFormat, target: AudioFormat, gain: float) -> None:
        matrix = toeplitz(from_hz=source.rate_hz, to_hz=target.rate_hz, gain=gain)
        self.matrix = matrix
        self.scratch = scratch(matrix, threading.get_ident())
        self.group_bytes = matrix.group * source.sample_bytes
        self.block_bytes = matrix.block_in * source.sample_bytes
        self.history_bytes = matrix.history * source.sample_bytes
        self.bytes_out_per_group = matrix.samples_out_per_group * target.sample_bytes
        self.most_bytes = (matrix.most_blocks - 1) * self.block_bytes  # a begun group may make it one more
        self.portions: dict[int, _Portion] = {}
        self.workspaces: dict[tuple[int, int], Workspace] = {}
        self.silence = source.silence
        self.dtype: np.dtype[Any] = PCM16 if source.encoding == "pcm16" else _CODES
        self.samples = None if source.encoding == "pcm16" else samples_by_code(source.encoding).astype(np.float64)
        codes = codes_by_sample(target.encoding)
        self.encode = np.concatenate([np.full(MIDDLE - 32768, codes[0]), codes]).take  # indexed with sample + MIDDLE
        # Something was limited only if one of the outermost codes came out (G.711 out); or else if the input was loud
        # enough that the filter could make it so (G.711 in) and a look at the outcome shows it.
        self.loud_in = _codes_beyond(source, matrix.loudest)
        self.outermost = _codes_beyond(target, int(samples_by_code(target.encoding).max()))

    def portion(self, size: int) -> _Portion:
        """Of so many bytes, history included. Remembered, as a call's pushes are nearly always of one size."""
        portion = _Portion(self, size)
        if len(self.portions) < _MOST_PORTIONS:
            self.portions[size] = portion
        return portion

    def workspace(self, blocks: int, pushes: int) -> Workspace:
        """For so many pushes of so many blocks each."""
        work = self.workspaces.get((blocks, pushes))
        if work is None:
            work = self.workspaces[blocks, pushes] = Workspace(self.scratch, blocks, pushes)
        return work

    def filter(self, heard: bytes, work: Workspace) -> NDArray[np.intp]:
        """The blocks of one push, or of several one after the other, as `Workspace.filter` leaves them."""
        codes = np.frombuffer(heard, self.dtype)
        if self.samples is None:
            work.history[...] = codes
        else:
            self.samples.take(codes, axis=None, out=work.history, mode="clip")
        work.filter()
        return work.index

    def told(self, heard: bytes, index: NDArray[np.intp]) -> tuple[bytes, bool]:
        """What became of it, in the target's encoding, and whether any of it may have been limited."""
        if self.outermost is not None:
            codes: bytes = self.encode(index, mode="clip").tobytes()
            return codes, len(codes.translate(None, self.outermost)) != len(codes)
        quiet = self.loud_in is not None and len(heard.translate(None, self.loud_in)) == len(heard)
        if quiet or (index.min() >= _LEAST and index.max() <= _MOST):
            return index.astype(PCM16).tobytes(), False
        return self.encode(index, mode="clip").tobytes(), True


def _codes_beyond(form: AudioFormat, magnitude: int) -> bytes | None:
    """The G.711 codes at least this loud; None for pcm16."""
    if form.encoding == "pcm16":
        return None
    return bytes(np.flatnonzero(np.abs(samples_by_code(form.encoding).astype(int)) >= magnitude).tolist())


@cache
def _recoder(source: AudioFormat, target: AudioFormat, gain: float) -> _Recoder:
    return _Recoder(source, target, gain)


@cache
def _resampler(source: AudioFormat, target: AudioFormat, gain: float, thread: int) -> _Resampler:
    return _Resampler(source, target, gain)


class _Same:
    """Both ends speak the same format: bytes pass untouched."""

    __slots__ = ()
    clipped = 0

    def push(self, data: bytes) -> bytes:
        return bytes(data)

    def reset(self) -> None:
        pass


class _Recoding:
    __slots__ = ("_odd", "_recoder", "clipped")

    def __init__(self, recoder: _Recoder) -> None:
        self._recoder = recoder
        self._odd = b""
        self.clipped = 0

    def push(self, data: bytes) -> bytes:
        recoder = self._recoder
        if recoder.codes.itemsize == 2:
            data = self._odd + data
            whole = len(data) & ~1
            data, self._odd = data[:whole], data[whole:]
        codes = np.frombuffer(data, recoder.codes)
        if recoder.can_limit:
            self.clipped += int(np.count_nonzero(recoder.limited.take(codes)))
        recoded: NDArray[Any] = recoder.table.take(codes)
        return recoded.tobytes()

    def reset(self) -> None:
        self._odd = b""


class _Resampling:
    """One direction of one call: the last 10 ms of input as bytes, a begun group and an odd byte at their end."""

    __slots__ = ("clipped", "held", "resampler")

    def __init__(self, resampler: _Resampler) -> None:
        self.resampler = resampler
        self.clipped = 0
        self.reset()

    def reset(self) -> None:
        r = self.resampler
        self.held = r.silence * r.matrix.history

    def push(self, data: bytes) -> bytes:
        r = self.resampler
        if len(data) > r.most_bytes:
            size = r.most_bytes
            return b"".join([self.push(data[at : at + size]) for at in range(0, len(data), size)])
        heard = self.held + data
        portion = r.portions.get(len(heard)) or r.portion(len(heard))
        self.held = heard[portion.fresh :]
        if portion.work is None:
            return b""
        span = portion.span
        if len(heard) != span:  # not whole blocks: what is missing has no weight in the outputs that are due
            heard = heard[:span].ljust(span, b"\0")
        index = r.filter(heard, portion.work)
        told, limited = r.told(heard, index)
        if limited:
            self.count(index, portion)
        return told[: portion.bytes_due]

    def count(self, index: NDArray[np.intp], portion: _Portion) -> None:
        """How much of what is due was limited."""
        due = index.ravel()[: portion.samples_due]
        self.clipped += int(np.count_nonzero((due < _LEAST) | (due > _MOST)))


class _Path:
    __slots__ = ("_way",)

    _way: _Same | _Recoding | _Resampling

    def __init__(self, source: AudioFormat, target: AudioFormat, gain_db: float) -> None:
        if not abs(gain_db) <= GAIN_LIMIT_DB:
            raise UsageError(f"a gain of {gain_db} dB is outside -{GAIN_LIMIT_DB:g}..{GAIN_LIMIT_DB:g}")
        gain = 10 ** (gain_db / 20)
        if source.rate_hz != target.rate_hz:
            self._way = _Resampling(_resampler(source, target, gain, threading.get_ident()))
        elif source != target or gain != 1.0:
            self._way = _Recoding(_recoder(source, target, gain))
        else:
            self._way = _Same()

    @property
    def clipped(self) -> int:
        """Samples that were too loud for the target and were limited, since the path was made."""
        return self._way.clipped


class CallerToModel(_Path):
    """What the caller says, on its way to the model.

    `push` takes the next bytes from the caller and gives all that can be said to the model by now.
    """

    __slots__ = ("push",)

    def __init__(self, caller: AudioFormat, model: AudioFormat, *, gain_db: float = 0.0) -> None:
        super().__init__(caller, model, gain_db)
        self.push: Callable[[bytes], bytes] = self._way.push  # once a frame: no call of our own in between

    def reset(self) -> None:
        """Forgets the filter's past, an odd byte too; the next push begins as after silence."""
        self._way.reset()


class ModelToCaller(_Path):
    """What the model says, on its way to the caller. `gain_db` is the agent's fixed gain."""

    __slots__ = ("_caller", "_fade_bytes", "_recent")

    def __init__(self, model: AudioFormat, caller: AudioFormat, *, gain_db: float = 0.0) -> None:
        super().__init__(model, caller, gain_db)
        self._caller = caller
        self._recent = b""
        self._fade_bytes = caller.bytes_in(FADE_MS)

    def push(self, data: bytes) -> bytes:
        """The next bytes of an answer, across its deltas; gives all that can be played to the caller by now."""
        out = self._way.push(data)
        size = self._fade_bytes
        self._recent = out[-size:] if len(out) >= size else (self._recent + out)[-size:]
        return out

    def reset(self) -> None:
        """At clear and cancel: forgets the filter's past, an odd byte and what could be faded out."""
        self._way.reset()
        self._recent = b""

    def fade_out(self, unheard: bytes = b"") -> bytes:
        """Five milliseconds of raised cosine for the caller's ear when we cut an answer; to be taken before `reset`.

        `unheard` is what would have been played next, in the caller's format, where the leg still has it. Without it
        the last sound pushed is continued backwards: no step, never louder, but a bend where they join.
        """
        encoding = self._caller.encoding
        following = decode(encoding, unheard[: self._fade_bytes] if unheard else self._recent)
        if not unheard:
            following = following[::-1]
        falling = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, len(following) + 1) / (len(following) + 1))
        return encode(encoding, following * falling)


def push_together(paths: Sequence[CallerToModel], frames: Sequence[bytes]) -> list[bytes]:
    """What `push` would give for each frame, one after the other; a path may come more than once.

    Those that are like the first which is whole blocks, in formats and size, become one product, or a few as large as
    they may be; the others go alone. Five telephone frames cost two thirds of what they cost one by one.
    """
    out: list[bytes | None] = []
    alike: _Portion | None = None
    ways: list[_Resampling] = []
    heard: list[bytes] = []
    for path, data in zip(paths, frames, strict=True):
        way = path._way
        if type(way) is _Resampling:
            joined = way.held + data
            portion = way.resampler.portions.get(len(joined))
            if portion is not None and (portion is alike or (alike is None and portion.whole)):
                alike = portion
                way.held = joined[portion.fresh :]
                ways.append(way)
                heard.append(joined)
                out.append(None)
                continue
        out.append(way.push(data))
    told: list[bytes] = []
    if alike is not None:
        products = -(-len(ways) // (ways[0].resampler.matrix.most_blocks // alike.blocks))
        size = -(-len(ways) // products)
        for first in range(0, len(ways), size):
            told += _tell_together(alike, ways[first : first + size], heard[first : first + size])
    if len(told) == len(out):
        return told
    together = iter(told)
    return [next(together) if alone is None else alone for alone in out]


def _tell_together(portion: _Portion, ways: Sequence[_Resampling], heard: Sequence[bytes]) -> list[bytes]:
    """One product."""
    resampler, size, blocks = ways[0].resampler, portion.bytes_due, portion.blocks
    joined = b"".join(heard)
    index = resampler.filter(joined, resampler.workspace(blocks, len(ways)))
    told, limited = resampler.told(joined, index)
    if limited:
        for k, way in enumerate(ways):
            way.count(index[k * blocks : (k + 1) * blocks], portion)
    return [told[begin : begin + size] for begin in range(0, len(told), size)]
