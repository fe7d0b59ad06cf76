"""WAV files: reading what others made, writing what can be read even when the writer was killed.

The layout is RIFF/WAVE (IBM and Microsoft 1991; Microsoft's WAVEFORMATEXTENSIBLE): chunks of a four-letter name, a
size, and that many bytes padded to an even count. The writer puts the sizes into the header again with each half
second of audio.
"""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.audio.encoding import PCM16, decode
from bridge.audio.resample import convert
from bridge.errors import UsageError

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_LARGEST: Final = 0xFFFFFFFF
_UNTOLD: Final = 0x7FFFF000  # what SoX writes as the size into a pipe; FFmpeg writes _LARGEST
FLUSHED_MS: Final = 500  # audio that a killed writer may lose


def read_wav(path: Path | str, rate_hz: int | None = None) -> tuple[NDArray[np.int16], int]:
    """Samples (shape [n] for one channel, [n, channels] for more) and their rate, converted to `rate_hz` if that is
    given.

    PCM of 8, 16, 24 and 32 bits, floats, mu-law and A-law. A file cut short, or whose writer never filled in the
    sizes, is read to its end. Raises UsageError for anything else, OSError if the file cannot be read.
    """
    return wav_samples(Path(path).read_bytes(), path, rate_hz)


def wav_samples(content: bytes, name: Path | str, rate_hz: int | None = None) -> tuple[NDArray[np.int16], int]:
    """The same of a file's content; `name` is what mistakes call it."""
    return _samples(*_sound(memoryview(content), name)[:2], name, rate_hz)


def read_whole_wav(path: Path | str, rate_hz: int | None = None) -> tuple[NDArray[np.int16], int]:
    """The same for a file somebody prepared: UsageError as well for one that is empty or was cut short."""
    data, layout, missing = _sound(memoryview(Path(path).read_bytes()), path)
    if missing:
        raise UsageError(f"{path} is cut short: {missing} bytes fewer than its header says")
    samples, rate = _samples(data, layout, path, rate_hz)
    if not len(samples):
        raise UsageError(f"{path} has no sound in it")
    return samples, rate


def _sound(content: memoryview, path: Path | str) -> tuple[memoryview, tuple[int, int, int, int], int]:
    """The bytes of sound, their layout, and how many more the header promises."""
    if len(content) < 12 or bytes(content[:4]) != b"RIFF" or bytes(content[8:12]) != b"WAVE":
        raise UsageError(f"{path} is not a WAV file")
    layout: tuple[int, int, int, int] | None = None
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        at += 8
        if name == b"fmt ":
            layout = _layout(content[at : at + size], path)
        if name == b"data":
            if layout is None:
                raise UsageError(f"{path} has sound before its format")
            there = len(content) - at
            if size == 0 or size >= _UNTOLD:  # of a writer that never came back to fill it in
                size = there
            return content[at : at + size], layout, max(0, size - there)
        at += size + size % 2
    raise UsageError(f"{path} has no sound in it")


def _layout(chunk: memoryview, path: Path | str) -> tuple[int, int, int, int]:
    """Kind of code, channels, rate, bits."""
    if len(chunk) < 16:
        raise UsageError(f"{path} has a format chunk of {len(chunk)} bytes")
    kind, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        (kind,) = struct.unpack_from("<H", chunk, 24)  # the first two bytes of the sub-format's GUID
    if not channels or not rate_hz:
        raise UsageError(f"{path} has {channels} channels at {rate_hz} Hz")
    return kind, channels, rate_hz, bits


def _samples(
    data: memoryview, layout: tuple[int, int, int, int], path: Path | str, wanted_hz: int | None
) -> tuple[NDArray[np.int16], int]:
    kind, channels, rate_hz, bits = layout
    whole = bytes(data[: len(data) // (channels * bits // 8 or 1) * (channels * bits // 8)])
    samples: NDArray[Any]
    match kind, bits:
        case (1, 16):
            samples = np.frombuffer(whole, PCM16).astype(np.int16)
        case (1, 8):
            samples = (np.frombuffer(whole, np.uint8).astype(np.int16) - 128) << 8
        case (1, 24):  # the upper two of three bytes
            samples = np.frombuffer(whole, np.uint8).reshape(-1, 3)[:, 1:].copy().view(PCM16).ravel().astype(np.int16)
        case (1, 32):
            samples = (np.frombuffer(whole, "<i4") >> 16).astype(np.int16)
        case (3, 32 | 64):
            floats = np.frombuffer(whole, f"<f{bits // 8}")
            samples = np.clip(np.rint(np.nan_to_num(floats) * 32767.0), -32768, 32767).astype(np.int16)
        case (6, 8):
            samples = decode("alaw", whole)
        case (7, 8):
            samples = decode("mulaw", whole)
        case _:
            raise UsageError(f"{path} has sound of kind {kind} with {bits} bits, which is not read here")
    if channels > 1:
        samples = samples.reshape(-1, channels)
    if wanted_hz is None:
        return samples, rate_hz
    return convert(samples, rate_hz, wanted_hz), wanted_hz


class WavWriter:
    """Writes 16-bit PCM as it comes. Whatever kills the process, the file is a valid WAV and misses at most half a
    second.

    Four gigabytes are the format's limit; what comes after is dropped.
    """

    def __init__(self, path: Path | str, rate_hz: int, channels: int) -> None:
        self._frame_bytes = 2 * channels
        self._flush_bytes = rate_hz * FLUSHED_MS // 1000 * self._frame_bytes
        self._waiting = bytearray()
        self._size = 0
        header = _HEADER.pack(
            b"RIFF", _HEADER.size - 8, b"WAVE", b"fmt ", 16,
            _PCM, channels, rate_hz, rate_hz * self._frame_bytes, self._frame_bytes, 16, b"data", 0,
        )  # fmt: skip
        self._file = Path(path).open("wb", buffering=0)
        try:
            self._put(0, header)
        except OSError:
            self._file.close()
            raise

    def write(self, pcm16: bytes) -> None:
        """Samples of all channels, interleaved. Raises UsageError for a part of a frame."""
        if len(pcm16) % self._frame_bytes:
            raise UsageError(f"{len(pcm16)} bytes are not whole frames of {self._frame_bytes}")
        self._waiting += pcm16
        if len(self._waiting) >= self._flush_bytes:
            self._flush()

    def close(self) -> None:
        """Puts the rest on disk. Closing twice is harmless."""
        if not self._file.closed:
            try:
                self._flush()
            finally:
                self._file.close()

    def _flush(self) -> None:
        room = (_LARGEST - _HEADER.size - self._size) // self._frame_bytes * self._frame_bytes
        sound, self._waiting = self._waiting[:room], bytearray()
        if not sound:
            return
        # the sound first: a file whose header promises less than it has is valid, the other way round it is not
        self._put(_HEADER.size + self._size, sound)
        self._size += len(sound)
        self._put(4, struct.pack("<I", _HEADER.size - 8 + self._size))
        self._put(_HEADER.size - 4, struct.pack("<I", self._size))

    def _put(self, at: int, content: bytes | bytearray) -> None:
        """A disk that fills up takes what it has room for without a word, and complains of the rest alone."""
        self._file.seek(at)
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]


def write_wav(path: Path | str, rate_hz: int, pcm16: bytes, *, channels: int) -> None:
    """A whole file at once. Raises OSError if it cannot be written."""
    with closing(WavWriter(path, rate_hz, channels)) as file:
        file.write(pcm16)
