"""WAV files: what others write is read, what we write is read by others, even after a crash."""

from __future__ import annotations

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest

from bridge.audio import g711
from bridge.audio.wav import WavWriter, read_wav, write_wav
from bridge.errors import UsageError

SAMPLES = np.array([0, 1, -1, 300, -300, 32767, -32768], "<i2")


def riff(
    kind: int, bits: int, data: bytes, *, channels: int = 1, rate_hz: int = 8000, size: int | None = None
) -> bytes:
    frame = channels * bits // 8
    layout = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * frame, frame, bits)
    body = b"WAVE" + b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk before: padded
    body += b"fmt " + struct.pack("<I", len(layout)) + layout
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def read(tmp_path, content: bytes):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    return read_wav(path)[0].tolist()


def test_what_we_write_python_reads(tmp_path):
    path = tmp_path / "a.wav"
    writer = WavWriter(path, 8000, 2)
    for _ in range(10_000):
        writer.write(np.array([5, -7], "<i2").tobytes())
    writer.close()
    writer.close()
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth(), file.getnframes()) == (
            2,
            8000,
            2,
            10_000,
        )
        assert file.readframes(10_000) == np.tile(np.array([5, -7], "<i2"), 10_000).tobytes()
    samples, rate_hz = read_wav(path)
    assert rate_hz == 8000
    assert samples.shape == (10_000, 2)


def test_what_python_writes_we_read(tmp_path):
    path = str(tmp_path / "a.wav")
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(SAMPLES.tobytes())
    samples, rate_hz = read_wav(path)
    assert rate_hz == 16000
    assert samples.tolist() == SAMPLES.tolist()


def test_every_kind_of_sample_is_read(tmp_path):
    want = SAMPLES.tolist()
    wide = SAMPLES.astype("<i4")
    assert read(tmp_path, riff(1, 16, SAMPLES.tobytes())) == want
    assert read(tmp_path, riff(1, 32, (wide << 16).tobytes())) == want
    three = b"".join(int(s << 8).to_bytes(3, "little", signed=True) for s in want)
    assert read(tmp_path, riff(1, 24, three)) == want
    assert read(tmp_path, riff(1, 8, bytes([128, 129, 0, 255]))) == [0, 256, -32768, 127 * 256]
    assert read(tmp_path, riff(3, 32, np.array([0, 1, -1, 0.5, 9, np.nan], "<f4").tobytes())) == [
        0, 32767, -32767, 16384, 32767, 0,
    ]  # fmt: skip
    codes = bytes(range(256))
    assert read(tmp_path, riff(7, 8, codes)) == np.frombuffer(g711.decode_mulaw(codes), "<i2").tolist()
    assert read(tmp_path, riff(6, 8, codes)) == np.frombuffer(g711.decode_alaw(codes), "<i2").tolist()


def test_the_extensible_layout_is_read(tmp_path):
    content = riff(0xFFFE, 16, SAMPLES.tobytes())
    plain = struct.pack("<I", 16) + struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 16000, 2, 16)
    wide = struct.pack("<I", 40) + plain[4:] + struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    assert read(tmp_path, content.replace(plain, wide)) == SAMPLES.tolist()


def test_other_rates_are_converted_on_request(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(1, 16, np.zeros(44_100, "<i2").tobytes(), rate_hz=44_100))
    samples, rate_hz = read_wav(path, 8000)
    assert (len(samples), rate_hz) == (8000, 8000)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 10**6])
def test_a_file_whose_writer_never_came_back_is_read_to_its_end(tmp_path, size):
    assert read(tmp_path, riff(1, 16, SAMPLES.tobytes() + b"x", size=size)) == SAMPLES.tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ID3",
        b"RIFF\0\0\0\0WAVE",
        riff(1, 12, b"abc"),
        riff(85, 16, b"mp3."),
        riff(1, 16, b"ab", channels=0),
        riff(1, 16, b"ab")[:24] + b"\0",
        b"RIFF\0\0\0\0WAVEdata\2\0\0\0ab",
    ],
)
def test_what_is_not_a_wav_is_refused_by_name(tmp_path, content):
    path = tmp_path / "odd.wav"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"odd\.wav"):
        read_wav(path)


def test_half_a_frame_is_refused(tmp_path):
    writer = WavWriter(tmp_path / "a.wav", 8000, 2)
    with pytest.raises(UsageError):
        writer.write(b"ab")
    writer.close()


class Crowded(io.FileIO):
    """On a disk with room for so many bytes, which takes what fits of a write, as disks do."""

    room = 0

    def write(self, content) -> int:
        fits = max(0, Crowded.room - self.tell())
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(content)[:fits])


@pytest.fixture
def crowded(monkeypatch):
    monkeypatch.setattr("bridge.audio.wav.Path.open", lambda path, mode, **_: Crowded(path, mode))


@pytest.mark.parametrize("room", [20, 44, 1000])
def test_a_disk_that_fills_up_in_the_middle_of_a_write_is_no_secret(crowded, monkeypatch, tmp_path, room):
    monkeypatch.setattr(Crowded, "room", room)
    with pytest.raises(OSError, match="No space left"):
        write_wav(tmp_path / "a.wav", 8000, bytes(8000), channels=2)
    assert (tmp_path / "a.wav").stat().st_size == room


def test_what_is_written_when_there_is_room_again_stands_where_the_header_says(crowded, monkeypatch, tmp_path):
    monkeypatch.setattr(Crowded, "room", 1001)
    writer = WavWriter(tmp_path / "a.wav", 8000, 1)
    with pytest.raises(OSError, match="No space left"):
        writer.write(b"\1\0" * 4000)
    monkeypatch.setattr(Crowded, "room", 1 << 20)
    writer.write(b"\2\0" * 4000)
    writer.close()
    samples, _ = read_wav(tmp_path / "a.wav")
    assert samples.tolist() == [2] * 4000


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_a_killed_writer_leaves_a_valid_file_that_misses_at_most_half_a_second(tmp_path):
    path = tmp_path / "killed.wav"
    program = (
        "import os, signal, sys\n"
        "from bridge.audio.wav import WavWriter\n"
        "writer = WavWriter(sys.argv[1], 8000, 1)\n"
        "for n in range(173):\n"
        "    writer.write(bytes([n, 0]) * 160)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ran.returncode == -signal.SIGKILL
    with wave.open(str(path)) as file:
        count = file.getnframes()
        sound = file.readframes(count)
    assert 173 * 160 - 4000 <= count <= 173 * 160
    assert sound == b"".join(bytes([n, 0]) * 160 for n in range(173))[: len(sound)]
    assert path.stat().st_size == 44 + len(sound)
