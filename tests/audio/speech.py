"""Speech for tests and the bench: espeak-ng from `espeakng-loader`, where that is installed."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

_RETRIEVAL = 1  # espeak_AUDIO_OUTPUT: hand the samples to the callback and play nothing
_UTF8 = 1
SENTENCES = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
)  # IEEE Harvard sentences, list 1


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
    return np.concatenate(pieces), rate_hz
