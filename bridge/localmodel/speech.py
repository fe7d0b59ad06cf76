"""The local model's mouth: text to sound, with the time of every word.

With the extra `local` it is espeak-ng, loaded through ctypes; without it, clips that are packaged beside this file.
Everything is produced once and remembered, so that a hundred calls which hear the same greeting cost one synthesis.

espeak-ng keeps oscillator state in static variables from one sentence to the next, so the same text comes out
slightly different each time. The library is therefore unloaded after every sentence where the platform allows it: the
same text is the same sound, bit for bit.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bridge.audio import encoding, g711
from bridge.audio.encoding import PCM16
from bridge.audio.formats import AudioFormat
from bridge.audio.resample import convert
from bridge.errors import UsageError
from bridge.localmodel import EXTRA

SPEECH_RATE_HZ = 24_000
CLIPS = Path(__file__).parent / "clips"

# The realtime services' voice names and espeak-ng's nearest; names beginning with "en" are espeak-ng's own.
# Variants that breathe (f2, f3, f5) sound a little different every time: a call with them is not repeatable.
VOICES = {
    "alloy": "en-us",
    "ash": "en-us+m3",
    "ballad": "en-gb",
    "cedar": "en-gb-scotland",
    "coral": "en-us+f1",
    "echo": "en-us+m1",
    "marin": "en-us+f4",
    "sage": "en-gb-x-rp",
    "shimmer": "en-us+f1",
    "verse": "en-us+m7",
}
WORDS_PER_MINUTE = 165


@dataclass(frozen=True, slots=True)
class Word:
    text: str  # with the blanks and signs up to the next word, so that all words together are the text
    start_ms: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text as sound: 16-bit mono at 24 kHz, and when each of its words begins."""

    text: str
    pcm: bytes
    words: tuple[Word, ...]

    @property
    def ms(self) -> float:
        return len(self.pcm) / 2 / SPEECH_RATE_HZ * 1000


class Voice(Protocol):
    """Whatever can say a text. `voice` is a realtime service's voice name or one of its own; `speed` is a factor."""

    def say(self, text: str, *, voice: str = "", speed: float = 1.0) -> Utterance: ...


def spread_words(text: str, ms: float) -> tuple[Word, ...]:
    """Words placed by their share of the letters: for sound that came without word times."""
    return tuple(Word(match.group(), int(match.start() / len(text) * ms)) for match in re.finditer(r"\s*\S+\s*", text))


# ---------------------------------------------------------------- espeak-ng

_SYNCHRONOUS = 2  # speak_lib.h: AUDIO_OUTPUT_SYNCHRONOUS, the callback runs within espeak_Synth
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: without it a library that finds no data ends the process
_PATH_BYTES = 160  # what the library has for the path of its data, NUL included; it cuts what is longer
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1
_EVENT_END, _EVENT_WORD = 0, 1  # espeak_EVENT_TYPE
_LOCK = threading.Lock()  # one library, one set of globals


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakVoice:
    """espeak-ng as espeakng-loader ships it. Raises UsageError where that package is not installed."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as missing:
            raise UsageError(f"speech needs {EXTRA}") from missing
        self._library = str(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        if len(os.fsencode(data)) >= _PATH_BYTES:
            self._near = tempfile.TemporaryDirectory(prefix="espeak-ng-")
            data = _brought_near(data, Path(self._near.name))
        self._data = os.fsencode(data)

    def say(self, text: str, *, voice: str = "", speed: float = 1.0) -> Utterance:
        name = VOICES.get(voice, voice if voice.startswith("en") else "en-us")
        with _LOCK:
            samples, rate_hz, words = self._synthesize(text, name, int(WORDS_PER_MINUTE * speed))
        pcm = convert(np.frombuffer(samples, dtype="<i2"), rate_hz, SPEECH_RATE_HZ).astype("<i2").tobytes()
        return Utterance(text, pcm, words)

    def _synthesize(self, text: str, name: str, words_per_minute: int) -> tuple[bytes, int, tuple[Word, ...]]:
        library = ctypes.CDLL(self._library)
        samples = bytearray()
        starts: dict[int, int] = {}  # position in the text -> ms

        def receive(wave: Any, count: int, events: Any) -> int:
            if wave and count > 0:
                samples.extend(ctypes.string_at(wave, count * 2))
            index = 0
            while events[index].type != _EVENT_END:
                event = events[index]
                if event.type == _EVENT_WORD:
                    starts.setdefault(event.text_position - 1, event.audio_position)
                index += 1
            return 0

        callback = _CALLBACK(receive)
        try:
            rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 200, self._data, _DONT_EXIT)
            if rate_hz <= 0:
                raise UsageError("espeak-ng could not be initialised from the espeakng-loader package")
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(name.encode()) != 0:
                library.espeak_SetVoiceByName(b"en-us")
            library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
            encoded = text.encode() + b"\0"
            library.espeak_Synth(
                ctypes.c_char_p(encoded), ctypes.c_size_t(len(encoded)), 0, 1, 0, _CHARS_UTF8, None, None
            )
            library.espeak_Terminate()
        finally:
            _unload(library)
        return bytes(samples), int(rate_hz), _words(text, starts)


def _brought_near(data: Path, folder: Path) -> Path:
    """The same data under a short path."""
    near = folder / data.name
    try:
        near.symlink_to(data, target_is_directory=True)
    except OSError:  # no links here
        shutil.copytree(data, near)
    return near


def _words(text: str, starts: dict[int, int]) -> tuple[Word, ...]:
    """A number spoken as several words has its position told several times; the first one counts."""
    if not starts:  # a dash, three dots: nothing to pronounce
        return (Word(text, 0),) if text.strip() else ()
    positions = sorted(starts)
    ends = [*positions[1:], len(text)]
    words = [Word(text[at:end], starts[at]) for at, end in zip(positions, ends, strict=True)]
    if words and positions[0] > 0:
        words[0] = Word(text[: positions[0]] + words[0].text, words[0].start_ms)
    return tuple(words)


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        return
    import _ctypes

    _ctypes.dlclose(library._handle)


# ---------------------------------------------------------------- packaged clips


class PackagedVoice:
    """Clips of whole sentences (G.711 mu-law, 8 kHz, `clips/NAME.ulaw`, their texts in `clips/index.txt`).

    A sentence without a clip is answered by the clip named `unknown`, which says how to install a voice for any text.
    """

    def __init__(self, folder: Path = CLIPS) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}
        for line in (folder / "index.txt").read_text("utf-8").splitlines():
            name, _, text = line.partition("\t")
            self._names[plain(text)] = name

    def say(self, text: str, *, voice: str = "", speed: float = 1.0) -> Utterance:
        pieces = [self._clip(name) for name in self._clip_names(text)]
        narrow = np.frombuffer(g711.decode_mulaw(b"".join(pieces)), dtype="<i2")
        pcm = convert(narrow, 8000, SPEECH_RATE_HZ).astype("<i2").tobytes()
        return Utterance(text, pcm, spread_words(text, len(pcm) / 2 / SPEECH_RATE_HZ * 1000))

    def _clip_names(self, text: str) -> list[str]:
        whole = self._names.get(plain(text))
        if whole:
            return [whole]
        found = [self._names.get(plain(sentence)) for sentence in sentences(text)]
        return [name for name in found if name] or ["unknown"]

    def _clip(self, name: str) -> bytes:
        return (self._folder / f"{name}.ulaw").read_bytes()


def sentences(text: str) -> list[str]:
    return [piece for piece in re.split(r"(?<=[.!?])\s+", text.strip()) if piece]


def plain(text: str) -> str:
    """A text's words, for comparing."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


# ---------------------------------------------------------------- the mouth


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance in the format a session asked for."""

    audio: bytes
    format: AudioFormat
    words: tuple[Word, ...]

    @property
    def ms(self) -> float:
        return len(self.audio) / self.format.bytes_per_ms


class Mouth:
    """Says texts in any format, and remembers the last `keep` of them."""

    def __init__(self, voice: Voice, *, keep: int = 256) -> None:
        self._voice = voice
        self._keep = keep
        self._said: OrderedDict[tuple[str, str, float, AudioFormat], Spoken] = OrderedDict()

    def say(self, text: str, *, voice: str, speed: float, format: AudioFormat) -> Spoken:
        key = (text, voice, speed, format)
        if key in self._said:
            self._said.move_to_end(key)
            return self._said[key]
        utterance = self._voice.say(text, voice=voice, speed=speed)
        spoken = Spoken(encode(utterance.pcm, format), format, utterance.words or spread_words(text, utterance.ms))
        self._said[key] = spoken
        if len(self._said) > self._keep:
            self._said.popitem(last=False)
        return spoken


def encode(pcm: bytes, format: AudioFormat) -> bytes:
    """24 kHz PCM16 in another format."""
    samples = convert(np.frombuffer(pcm, PCM16), SPEECH_RATE_HZ, format.rate_hz)
    return encoding.encode(format.encoding, samples)


def make_voice() -> Voice:
    """espeak-ng where the extra `local` is installed, else the packaged clips."""
    try:
        return EspeakVoice()
    except UsageError:
        return PackagedVoice()
