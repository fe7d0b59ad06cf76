"""Speech for tests and the bench: espeak-ng from `espeakng-loader`, where that is installed."""

from __future__ import annotations

import _ctypes
import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bridge.audio.resample import convert

_RETRIEVAL = 1  # espeak_AUDIO_OUTPUT: hand the samples to the callback and play nothing
_UTF8 = 1
SENTENCES = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls. The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us. A large size in stockings is hard to sell.",
)  # IEEE Harvard sentences, list 1
VOICES = ("en", "en-us", "en+f3", "en-gb-scotland")


@cache
def spoken(text: str, voice: str = "en") -> tuple[NDArray[np.int16], int]:
    """Samples and their rate. Raises ImportError where the package is missing."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz: int = library.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate_hz <= 0:
        raise ImportError("espeak-ng has no voices here")
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def heard(samples, count, _events):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        return 0

    library.espeak_SetSynthCallback(heard)
    library.espeak_SetVoiceByName(voice.encode())
    words = text.encode()
    library.espeak_Synth(words, ctypes.c_size_t(len(words) + 1), 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    library.espeak_Terminate()
    if hasattr(_ctypes, "dlclose"):
        _ctypes.dlclose(library._handle)  # what others in this process say depends on all it has said
    return np.concatenate(pieces), rate_hz


def utterances_24k() -> list[NDArray[np.int16]]:
    """Every sentence in every voice, at 24 kHz and half of full scale. Raises ImportError as `spoken` does."""
    sounds = [convert(*spoken(sentence, voice), 24000) for voice in VOICES for sentence in SENTENCES]
    return [np.rint(sound * (16000 / np.abs(sound.astype(int)).max())).astype(np.int16) for sound in sounds]
