"""Recognition: what is decoded is judged, and the worker's process comes and goes."""

from __future__ import annotations

import asyncio
import math
import os
import signal

import numpy as np
import pytest

from bridge.localmodel.brain import Brain
from bridge.localmodel.hearing import (
    MOST_MARGIN,
    RATE_HZ,
    Decoder,
    Grammar,
    InlineRecogniser,
    WorkerRecogniser,
    judge,
    spoken_part,
)
from bridge.localmodel.phones import guessed_phones
from bridge.localmodel.speech import EspeakVoice
from bridge.sim import virtual
from tests.bench.recognition import through_telephone

pytest.importorskip("pocketsphinx")
pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def brain() -> Brain:
    return Brain.default()


def spoken(text: str) -> bytes:
    return through_telephone(EspeakVoice().say(text, voice="en-us").pcm, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("sentence", "margin", "intent"),
    [
        ("when are you open", 0.0, "opening hours"),
        ("hello when are you open please", MOST_MARGIN, "opening hours"),
        ("when are you open", MOST_MARGIN + 0.1, None),
        ("", math.inf, None),
    ],
)
def test_a_sentence_counts_when_it_fits_well_enough(
    brain: Brain, sentence: str, margin: float, intent: str | None
) -> None:
    heard = judge(sentence, margin, brain)
    assert heard.intent == intent
    assert (heard.text == "") == (intent is None)


def test_known_sentences_are_recognised_and_strangers_are_not(brain: Brain) -> None:
    decoder, grammar = Decoder(), Grammar.of(brain)
    for text, intent in (
        ("what is your address", "address"),
        ("hello, when are you open please", "opening hours"),
        ("the football match was very exciting", None),
    ):
        assert judge(*decoder.decode(spoken(text), grammar), brain).intent == intent


def test_what_is_heard_does_not_depend_on_what_was_heard_before(brain: Brain) -> None:
    grammar, decoder = Grammar.of(brain), Decoder()
    one, other = spoken("how much does it cost"), spoken("the football match was very exciting")
    first = decoder.decode(one, grammar)
    decoder.decode(other, grammar)
    assert decoder.decode(one, grammar) == first
    assert Decoder().decode(one, grammar) == first


def test_words_the_dictionary_does_not_have_are_guessed() -> None:
    phrases = ["i want one margherita", "connect me to novakova", "good evening"]
    intents = [{"name": phrase, "phrases": [phrase], "answer": "Yes."} for phrase in phrases]
    kitchen = Brain.from_dict({"intents": intents}, source="test")
    decoder = Decoder()
    assert judge(*decoder.decode(spoken("connect me to novakova"), Grammar.of(kitchen)), kitchen).intent == phrases[1]


@pytest.mark.parametrize(("word", "phones"), [("novak", "N AA V AE K"), ("anna's", "AE N AE S"), ("ž", "AH")])
def test_phones_are_guessed_by_the_letters(word: str, phones: str) -> None:
    assert guessed_phones(word) == phones


def test_silence_around_an_utterance_is_cut_but_for_a_margin() -> None:
    quiet, loud = np.zeros(RATE_HZ, "<i2"), np.tile(np.array([8000, -8000], "<i2"), RATE_HZ // 2)
    kept = len(spoken_part(np.concatenate((quiet, loud, quiet)).tobytes())) / 2 / RATE_HZ
    assert kept == pytest.approx(1.5)
    assert spoken_part(b"\0\0" * 10) == b""


@pytest.mark.parametrize("level", [0, 20, 1000, 8000])
def test_silence_and_noise_are_nothing(brain: Brain, level: int) -> None:
    decoder, grammar = Decoder(), Grammar.of(brain)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, level, RATE_HZ * 3 // 2).astype("<i2")
        sentence, margin = decoder.decode(noise.tobytes(), grammar)
        assert judge(sentence, margin, brain).intent is None


def test_inline_recognition_takes_its_time_on_the_loops_clock(brain: Brain) -> None:
    async def main() -> tuple[str | None, float]:
        recogniser = InlineRecogniser(latency_ms=60)
        began = asyncio.get_running_loop().time()
        heard = await recogniser.recognise(spoken("goodbye"), brain)
        await recogniser.close()
        return heard.intent, asyncio.get_running_loop().time() - began

    intent, took_s = virtual.run(main())
    assert intent == "goodbye"
    assert took_s == pytest.approx(0.06)


async def test_the_worker_answers_several_at_once_and_ends_when_closed(brain: Brain) -> None:
    recogniser = WorkerRecogniser()
    await recogniser.start()
    pid = recogniser.pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C in our terminal is not for it"
    texts = ["goodbye", "when are you open", "what is your address"]
    heard = await asyncio.gather(*(recogniser.recognise(spoken(text), brain) for text in texts))
    assert [one.intent for one in heard] == ["goodbye", "opening hours", "address"]
    await recogniser.close()
    await recogniser.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (await recogniser.recognise(b"", brain)).intent is None


async def test_a_worker_that_hangs_is_replaced(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = WorkerRecogniser()
    await recogniser.start()
    assert recogniser.pid is not None
    os.kill(recogniser.pid, signal.SIGSTOP)
    monkeypatch.setattr("bridge.localmodel.hearing.LONGEST_S", 0.01)
    assert (await recogniser.recognise(spoken("goodbye"), brain)).intent is None
    monkeypatch.undo()
    assert (await recogniser.recognise(spoken("goodbye"), brain)).intent == "goodbye"
    await recogniser.close()


async def test_more_than_it_can_hold_is_not_understood(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = WorkerRecogniser()
    monkeypatch.setattr("bridge.localmodel.hearing.WAITING_MOST", 1)
    await recogniser.start()
    heard = await asyncio.gather(*(recogniser.recognise(spoken("goodbye"), brain) for _ in range(2)))
    assert [one.intent for one in heard] == ["goodbye", None]
    await recogniser.close()


async def test_a_worker_that_dies_is_replaced_and_the_utterance_is_not_lost(brain: Brain) -> None:
    recogniser = WorkerRecogniser()
    await recogniser.start()
    pid = recogniser.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(recogniser.recognise(spoken("goodbye"), brain))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert (await asked).intent == "goodbye"
    assert recogniser.starts == 2
    assert recogniser.pid != pid
    await recogniser.close()
