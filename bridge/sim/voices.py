"""What simulated callers say: text spoken by espeak-ng where it is installed, packaged clips where it is not.

espeak-ng comes with the `local` extra (GPL, loaded at run time, never packaged). It keeps its state in globals, so a
private copy of the library is loaded: other users of it in this process are not disturbed. The result is always 8 kHz
mu-law.
"""

from __future__ import annotations

import _ctypes
import ctypes
import difflib
import functools
import importlib.resources
import importlib.util
import re
import shutil
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bridge.audio import g711, resample
from bridge.errors import UsageError

from . import noise

CLIPS = {
    "opening-hours": "Hello, what are your opening hours?",
    "interruption": "Sorry, wait, where are you?",
    "goodbye": "Thank you very much. Goodbye!",
}


PACES = 80, 450  # words per minute (espeakRATE)
PITCHES = 0, 99  # espeakPITCH


@dataclass(frozen=True, slots=True)
class Voice:
    """How somebody speaks and over what. `name` is a voice of espeak-ng, with a variant if wanted: "en-us",
    "en-gb+f3".
    """

    name: str = "en-us"
    words_per_minute: int = 165
    pitch: int = 50
    level_dbfs: float = -20.0  # of the speech itself, pauses not counted
    snr_db: float | None = None  # room noise under the speech; None is a quiet room
    noise_seed: int = 0


def speaks() -> bool:
    """True if any text can be spoken; else there are the packaged clips."""
    return importlib.util.find_spec("espeakng_loader") is not None


def unknown(name: str) -> str:
    """What is wrong with the name of a voice. Nothing if it is one, or if espeak-ng is not there to know."""
    if not speaks():
        return ""
    languages, variants = _voices()
    language, plus, variant = name.partition("+")
    if language.lower() not in languages:
        near = difflib.get_close_matches(language.lower(), languages, n=1)
        hint = f"did you mean {near[0]}?" if near else "write a language of espeak-ng, as en-us, en-gb or de"
        return f"there is no voice {name!r}; {hint}"
    if plus and variant not in variants:
        near = difflib.get_close_matches(variant, variants, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one of espeak-ng, as f1 to f5 or m1 to m8"
        return f"there is no variant {variant!r} of the voice {language!r}; {hint}"
    return ""


@functools.cache
def _voices() -> tuple[frozenset[str], frozenset[str]]:
    """Languages and variants of espeak-ng, from its files."""
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    files = [file.read_bytes() for file in (data / "lang").rglob("*") if file.is_file()]
    languages = {tag.decode().lower() for file in files for tag in re.findall(rb"(?m)^language\s+([\w-]+)", file)}
    return frozenset(languages), frozenset(file.name for file in (data / "voices" / "!v").iterdir())


def say(text: str, voice: Voice | None = None) -> bytes:
    """`text` as 8 kHz mu-law, without silence at its ends. The same text and voice give the same bytes.

    Without espeak-ng the packaged clips are all there is: raises UsageError for any other text.
    """
    voice = voice or Voice()
    return _finished(_spoken(text, replace(voice, level_dbfs=0.0, snr_db=None, noise_seed=0)), voice)


def clip(name: str, voice: Voice | None = None) -> bytes:
    """A packaged clip by its name (`CLIPS`), at the voice's level and noise; as recorded without one."""
    audio = _clip(name)
    return audio if voice is None else _finished(np.frombuffer(g711.decode_mulaw(audio), "<i2"), voice)


@functools.cache
def _clip(name: str) -> bytes:
    if name not in CLIPS:
        raise UsageError(f"no clip {name!r}; there are {', '.join(CLIPS)}")
    return (importlib.resources.files("bridge.sim") / "clips" / f"{name}.ulaw").read_bytes()


@functools.lru_cache(maxsize=256)
def _spoken(text: str, voice: Voice) -> npt.NDArray[np.int16]:
    if speaks():
        return _trimmed(_espeak().speak(text, voice))
    wanted = _plain(text)
    for name, words in CLIPS.items():
        if _plain(words) == wanted:
            return np.frombuffer(g711.decode_mulaw(_clip(name)), "<i2")
    known = "; ".join(CLIPS.values())
    raise UsageError(f"cannot say {text!r} without the extra 'local' (espeak-ng); packaged are: {known}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower())


def _trimmed(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 200)
    if not len(loud):
        return samples
    return samples[max(0, loud[0] - 80) : loud[-1] + 160]


def _finished(samples: npt.NDArray[np.int16], voice: Voice) -> bytes:
    gain = 10 ** ((voice.level_dbfs - noise.speech_level_dbfs(samples)) / 20)
    mixed = np.rint(samples * gain).astype(np.int32)
    if voice.snr_db is not None:
        mixed += noise.room(len(mixed), dbfs=voice.level_dbfs - voice.snr_db, seed=voice.noise_seed)
    return g711.encode_mulaw(np.clip(mixed, -32768, 32767).astype("<i2").tobytes())


# ---------------------------------------------------------------- espeak-ng (speak_lib.h)

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come to the callback before espeak_Synth returns
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_UTF8 = 1  # espeakCHARS_UTF8
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Espeak:
    """Loads the library afresh for every text: what it says depends on all it said before, and here it must not."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="voices-")
        folder = Path(self._folder.name)
        self._data = folder / "espeak-ng-data"  # a short path: the library cuts what is longer than 160 characters
        try:
            self._data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
        except OSError:  # no links here
            shutil.copytree(espeakng_loader.get_data_path(), self._data)
        self._file = folder / Path(espeakng_loader.get_library_path()).name
        shutil.copy(espeakng_loader.get_library_path(), self._file)

    def speak(self, text: str, voice: Voice) -> npt.NDArray[np.int16]:
        """8 kHz samples."""
        pieces: list[bytes] = []

        def take(samples: Any, count: int, events: Any) -> int:
            del events
            if samples and count > 0:
                pieces.append(ctypes.string_at(samples, count * 2))
            return 0

        callback = _CALLBACK(take)
        words = text.encode()
        with self._lock:
            library: Any = ctypes.CDLL(str(self._file))
            try:
                rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), _DONT_EXIT)
                if rate_hz <= 0:
                    raise UsageError("espeak-ng found no voices: reinstall espeakng-loader")
                library.espeak_SetSynthCallback(callback)
                if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                    raise UsageError(f"espeak-ng has no voice {voice.name!r}")
                library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
                library.espeak_SetParameter(_PITCH, voice.pitch, 0)
                library.espeak_Synth(words, ctypes.c_size_t(len(words) + 1), 0, 0, 0, _UTF8, None, None)
                library.espeak_Synchronize()
                library.espeak_Terminate()
            finally:
                _unload(library)
        return resample.convert(np.frombuffer(b"".join(pieces), np.int16), rate_hz, 8000)


def _unload(library: ctypes.CDLL) -> None:
    """Gives the library back, so that loading it again begins with fresh globals (ctypes keeps it for ever)."""
    unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary", None)
    if unload is not None:
        unload(library._handle)


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()
