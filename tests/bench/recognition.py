"""How well the local model understands its own front desk through a telephone: `python -m tests.bench.recognition`.

Every phrase in several synthetic voices, through 8 kHz mu-law with noise, and as many sentences it does not know.
Prints how many were understood, how many strangers were refused, the margins behind that decision, and the time taken.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np
from numpy.typing import NDArray

from bridge.audio import g711
from bridge.audio.resample import convert
from bridge.localmodel.brain import Brain
from bridge.localmodel.hearing import MOST_MARGIN, RATE_HZ, Decoder, Grammar, judge
from bridge.localmodel.speech import SPEECH_RATE_HZ, EspeakVoice

VOICES = ("en-us", "en-us+f3", "en-us+m3", "en-gb", "en-gb-x-rp", "en-gb-scotland")
SNR_DB = 25.0
STRANGERS = (
    "i like to eat bananas in the morning",
    "the weather is terrible today isn't it",
    "my dog chased the neighbour's cat",
    "seven white horses crossed the river",
    "please cancel my newspaper subscription",
    "do you sell electric bicycles",
    "the football match was very exciting",
    "i forgot my umbrella on the train",
    "turn the music down a little",
    "she wrote a long letter to her sister",
    "can you recommend a good restaurant",
    "my computer does not start any more",
)


def through_telephone(pcm: bytes, noise: np.random.Generator) -> bytes:
    """24 kHz speech as it arrives: quiet before and after, noise, mu-law at 8 kHz, back to 16 kHz."""
    narrow = convert(np.frombuffer(pcm, "<i2"), SPEECH_RATE_HZ, 8000).astype(np.float64)
    padded = np.concatenate((np.zeros(2400), narrow, np.zeros(4000)))
    level = math.sqrt(float(np.mean(narrow**2))) * 10 ** (-SNR_DB / 20)
    noisy: NDArray[np.int16] = np.clip(padded + noise.normal(0, level, len(padded)), -32768, 32767).astype("<i2")
    coded = g711.decode_mulaw(g711.encode_mulaw(noisy.tobytes()))
    return convert(np.frombuffer(coded, "<i2"), 8000, RATE_HZ).astype("<i2").tobytes()


def main() -> int:
    brain = Brain.default()
    grammar, decoder, voice = Grammar.of(brain), Decoder(), EspeakVoice()
    noise = np.random.default_rng(1)
    known = [(intent.name, phrase) for intent in brain.intents for phrase in intent.phrases]
    margins: dict[bool, list[float]] = {True: [], False: []}
    took_ms = []
    understood = refused = 0
    for name in VOICES:
        right = 0
        for wanted, text in [*known, *((None, text) for text in STRANGERS)]:
            sound = through_telephone(voice.say(text, voice=name).pcm, noise)
            began = time.perf_counter()
            sentence, margin = decoder.decode(sound, grammar)
            took_ms.append((time.perf_counter() - began) * 1000)
            heard = judge(sentence, margin, brain)
            margins[wanted is not None].append(margin)
            right += wanted is not None and heard.intent == wanted
            refused += wanted is None and heard.intent is None
            if heard.intent != wanted and "-v" in sys.argv:
                print(f"  {name}: {text!r} -> {sentence!r} ({margin:.1f})")
        understood += right
        print(f"{name:16} {right:3} of {len(known)} phrases")
    phrases, strangers = len(known) * len(VOICES), len(STRANGERS) * len(VOICES)
    print(
        f"understood {understood / phrases:.1%} of {phrases} phrases, refused {refused / strangers:.1%} of {strangers}"
    )
    for label, in_grammar in (("known", True), ("unknown", False)):
        finite = [margin for margin in margins[in_grammar] if math.isfinite(margin)]
        marks = ", ".join(f"{share}%: {np.percentile(finite, share):.1f}" for share in (5, 10, 50, 90, 95, 98))
        print(f"margin of {label}: {marks}; allowed {MOST_MARGIN}")
    print(f"recognition took {np.median(took_ms):.0f} ms in the middle, {max(took_ms):.0f} ms at most")
    return 0 if understood / phrases >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
