"""Text to sound: espeak-ng where it is installed, packaged clips everywhere."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bridge.audio.encoding import decode
from bridge.audio.formats import MULAW_8K, PCM16_24K, AudioFormat
from bridge.localmodel.brain import Brain
from bridge.localmodel.make_clips import sentences_of
from bridge.localmodel.speech import (
    CLIPS,
    EspeakVoice,
    Mouth,
    PackagedVoice,
    Utterance,
    encode,
    plain,
    spread_words,
)
from tests.localmodel.stage import FlatVoice


def loudness(utterance: Utterance) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(utterance.pcm, "<i2").astype(float) ** 2)))


@pytest.fixture
def espeak() -> EspeakVoice:
    pytest.importorskip("espeakng_loader")
    return EspeakVoice()


def test_the_same_text_is_the_same_sound_whatever_was_said_before(espeak: EspeakVoice) -> None:
    first = espeak.say("Hello there.", voice="marin")
    espeak.say("Something else entirely, and longer.", voice="cedar")
    assert espeak.say("Hello there.", voice="marin") == first
    assert 400 < first.ms < 2000
    assert loudness(first) > 500


SAYS_WITH_DATA_IN = """
import sys, espeakng_loader
from bridge.errors import UsageError
from bridge.localmodel.speech import EspeakVoice
espeakng_loader.get_data_path = lambda: sys.argv[1]
try:
    print(len(EspeakVoice().say("Hello there.").pcm))
except UsageError as error:
    print(error)
"""


def said_with_data_in(folder: Path) -> str:
    """By a process of its own: without its data the library used to end it."""
    done = subprocess.run([sys.executable, "-c", SAYS_WITH_DATA_IN, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("length", [159, 160, 200])
def test_the_librarys_data_may_have_a_path_of_any_length(espeak: EspeakVoice, length: int) -> None:
    import espeakng_loader

    with tempfile.TemporaryDirectory() as folder:
        rest = length - len(f"{folder}//data")
        data = Path(folder, "a" * rest, "data")
        data.parent.mkdir()
        data.symlink_to(espeakng_loader.get_data_path())
        assert len(str(data)) == length
        assert int(said_with_data_in(data)) == len(espeak.say("Hello there.").pcm)


def test_without_its_data_the_library_is_told_of_and_ends_no_process(espeak: EspeakVoice, tmp_path: Path) -> None:
    assert "espeak-ng could not be initialised" in said_with_data_in(tmp_path)


@pytest.mark.parametrize("text", ["", " ", "...", "\u2014"])
def test_what_has_no_word_in_it_is_said_all_the_same(espeak: EspeakVoice, text: str) -> None:
    assert "".join(word.text for word in espeak.say(text).words) == text.strip()


def test_words_have_their_times_and_together_are_the_text(espeak: EspeakVoice) -> None:
    text = "It costs 25 dollars, Mr. Brown."
    utterance = espeak.say(text)
    assert "".join(word.text for word in utterance.words) == text
    starts = [word.start_ms for word in utterance.words]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] < utterance.ms


def test_voices_differ_and_speed_shortens(espeak: EspeakVoice) -> None:
    usual = espeak.say("Good morning to everybody.", voice="alloy")
    assert espeak.say("Good morning to everybody.", voice="cedar").pcm != usual.pcm
    assert espeak.say("Good morning to everybody.", voice="alloy", speed=1.5).ms < usual.ms * 0.85


def test_every_sentence_of_the_front_desk_has_a_clip() -> None:
    voice = PackagedVoice()
    unknown = voice.say("a sentence nobody recorded").pcm
    for sentence in sentences_of(Brain.default()):
        utterance = voice.say(sentence)
        assert utterance.pcm != unknown
        assert loudness(utterance) > 500


def test_sentences_of_a_reply_are_put_together_from_their_clips() -> None:
    voice = PackagedVoice()
    both = voice.say("You are welcome. Is there anything else?")
    parts = [voice.say(text).ms for text in ("You are welcome.", "Is there anything else?")]
    assert both.ms == pytest.approx(sum(parts), abs=1)


def test_the_clips_stay_small() -> None:
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 700_000


def test_spread_words_are_the_whole_text() -> None:
    words = spread_words("One, two and three.", 1000)
    assert "".join(word.text for word in words) == "One, two and three."
    assert words[0].start_ms == 0


@pytest.mark.parametrize(
    "format", [PCM16_24K, MULAW_8K, AudioFormat("alaw", 8000), AudioFormat("pcm16", 16000), AudioFormat("pcm16", 8000)]
)
def test_every_format_is_spoken_at_the_same_length(format: AudioFormat) -> None:
    spoken = Mouth(FlatVoice()).say("one two three four", voice="", speed=1.0, format=format)
    assert spoken.ms == pytest.approx(1000, abs=1)
    assert len(decode(format.encoding, spoken.audio)) == format.rate_hz


def test_a_mouth_says_a_text_once() -> None:
    class Counting(FlatVoice):
        said = 0

        def say(self, text: str, *, voice: str = "", speed: float = 1.0) -> Utterance:
            self.said += 1
            return super().say(text)

    voice = Counting()
    mouth = Mouth(voice, keep=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        mouth.say(text, voice="", speed=1.0, format=MULAW_8K)
    assert voice.said == 4


def test_a_text_is_compared_by_its_words() -> None:
    assert plain("Hello,  World!") == plain("hello world")


def test_pcm_at_24_khz_is_left_alone() -> None:
    assert encode(b"\x01\x02", PCM16_24K) == b"\x01\x02"
