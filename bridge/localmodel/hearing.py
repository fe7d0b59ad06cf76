"""The local model's ears: what was said, out of the sentences its brain knows.

pocketsphinx decodes the whole utterance against the brain's JSGF grammar, and once more against free phonemes: speech
that fits free phonemes much better than any known sentence was something else. It holds the interpreter lock for tens
of milliseconds, so a server lets it work in a process of its own (`WorkerRecogniser`); `InlineRecogniser` does the
same at once, for runs on a virtual clock.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import OrderedDict
from typing import Any, Protocol

import msgspec
import numpy as np
import structlog

from bridge import children
from bridge.errors import UsageError
from bridge.localmodel import EXTRA
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.phones import guessed_phones

RATE_HZ = 16_000
# Log-likelihood a frame (10 ms), in units of 1e-4: how much worse than free phonemes a known sentence may fit.
# tests/bench/recognition.py prints what this costs and saves.
MOST_MARGIN = 19.0
# pocketsphinx scores a frame relative to the best state within the beam. With its usual narrow beams a wrong sentence
# is only ever compared to itself and looks as good as a right one; with wide ones the margin tells them apart.
BEAMS = {"beam": 1e-140, "pbeam": 1e-140, "wbeam": 1e-120}
QUIET_DB = 30.0  # below the loudest frame: silence around the utterance, cut off but for these margins
QUIETEST_SPEECH_DB = -50.0  # of full scale, in its loudest 10 ms: below it nobody spoke
LEAST_SWING_DB = 8.0  # between its louder and its softer parts: steadier sound is noise, whatever it resembles
KEPT_BEFORE_MS = 220
KEPT_AFTER_MS = 280
GRAMMARS_KEPT = 16
LONGEST_S = 15.0  # a worker that takes longer hangs
WAITING_MOST = 64  # utterances in the worker's queue; more are answered as not understood

log = structlog.get_logger()


class Recogniser(Protocol):
    """`pcm16k` is mono PCM16 at 16 kHz, a whole utterance."""

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard: ...

    async def close(self) -> None: ...


class NoEars:
    """For a server that is to go without recognition although it could have it."""

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard(None, "")

    async def close(self) -> None:
        pass


class Grammar(msgspec.Struct, frozen=True):
    """All of a brain that recognition needs."""

    text: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, brain: Brain) -> Grammar:
        return cls(brain.grammar(), tuple(sorted(brain.words())))


class Decoder:
    """pocketsphinx with the grammars of the last few brains. Raises UsageError where pocketsphinx is not installed."""

    def __init__(self) -> None:
        try:
            import pocketsphinx
        except ImportError as missing:
            raise UsageError(f"recognition needs {EXTRA}") from missing
        self._sphinx: Any = pocketsphinx.Decoder(samprate=RATE_HZ, lm=None, loglevel="FATAL", bestpath=False, **BEAMS)
        self._sphinx.add_allphone_file("free", pocketsphinx.get_model_path("en-us/en-us-phone.lm.bin"))
        self._names: OrderedDict[str, str] = OrderedDict()
        self._count = 0

    def decode(self, pcm16k: bytes, grammar: Grammar) -> tuple[str, float]:
        """The sentence that fits best, and its margin to free phonemes (small is sure); "" where none fits."""
        pcm16k = spoken_part(pcm16k)
        if not pcm16k:
            return "", math.inf
        self._sphinx.reinit_feat()  # forgets the last utterance's noise: who spoke before must not decide what is heard
        sentence, fit, _ = self._search(pcm16k, self._search_name(grammar))
        if not sentence:
            return "", math.inf
        _, free_fit, frames = self._search(pcm16k, "free")
        return sentence, (free_fit - fit) / max(frames, 1) * 1e4

    def _search(self, pcm16k: bytes, search: str) -> tuple[str, float, int]:
        sphinx = self._sphinx
        sphinx.activate_search(search)
        sphinx.start_utt()
        sphinx.process_raw(pcm16k, full_utt=True)  # whole utterance: the mean of all of it is what is normalised by
        sphinx.end_utt()
        found = sphinx.hyp()
        if found is None:
            return "", -math.inf, 0
        return found.hypstr, math.log(found.best_score), sphinx.n_frames()

    def _search_name(self, grammar: Grammar) -> str:
        if grammar.text in self._names:
            self._names.move_to_end(grammar.text)
            return self._names[grammar.text]
        for word in grammar.words:
            if self._sphinx.lookup_word(word) is None:
                self._sphinx.add_word(word, guessed_phones(word), True)
        self._count += 1
        name = f"grammar{self._count}"
        self._sphinx.add_jsgf_string(name, grammar.text)
        self._names[grammar.text] = name
        if len(self._names) > GRAMMARS_KEPT:
            self._sphinx.activate_search("free")
            self._sphinx.remove_search(self._names.popitem(last=False)[1])
        return name


def spoken_part(pcm16k: bytes) -> bytes:
    """An utterance with little silence around it, to save time; nothing where nobody spoke."""
    frame = RATE_HZ // 100
    samples = np.frombuffer(pcm16k, "<i2")
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float64)
    if not len(frames):
        return b""
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) / 32768**2 + 1e-12)
    swing_db = float(np.subtract(*np.percentile(level_db, (95, 5))))
    if level_db.max() < QUIETEST_SPEECH_DB or swing_db < LEAST_SWING_DB:
        return b""
    loud = np.flatnonzero(level_db > level_db.max() - QUIET_DB)
    begin = max(int(loud[0]) - KEPT_BEFORE_MS // 10, 0)
    end = int(loud[-1]) + 1 + KEPT_AFTER_MS // 10
    return samples[begin * frame : end * frame].tobytes()


def judge(sentence: str, margin: float, brain: Brain) -> Heard:
    """A decoded sentence as what the brain may act on."""
    intent = brain.intent_of_sentence(sentence) if sentence and margin <= MOST_MARGIN else None
    if intent is None:
        return Heard(None, "")
    return Heard(intent.name, sentence)


class InlineRecogniser:
    """Decodes at once, within the calling task; `latency_ms` later, by the loop's clock, the result is there."""

    def __init__(self, *, latency_ms: float = 60.0) -> None:
        self._decoder: Decoder | None = None
        self._latency_ms = latency_ms

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        if self._decoder is None:
            self._decoder = Decoder()
        heard = judge(*self._decoder.decode(pcm16k, Grammar.of(brain)), brain)
        await asyncio.sleep(self._latency_ms / 1000)
        return heard

    async def close(self) -> None:
        self._decoder = None


# ---------------------------------------------------------------- a process of its own


class Job(msgspec.Struct, frozen=True):
    number: int
    grammar: Grammar
    pcm16k: bytes


class Result(msgspec.Struct, frozen=True):
    number: int
    sentence: str
    margin: float


def frame(message: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(body)) + body


class WorkerRecogniser:
    """Recognition in a child process, spoken to through its pipes. It is started when first needed, and again when it
    died.

    An utterance that was with a worker when it died is given to the next one once, then counts as not understood.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[tuple[str, float]]] = {}
        self._count = 0
        self._closed = False
        self.starts = 0

    async def start(self) -> None:
        """Have the worker ready before the first caller needs it."""
        async with self._starting:
            if self._closed or self._alive:
                return
            self._process = await asyncio.create_subprocess_exec(
                *children.command("bridge.localmodel.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us; it ends when its input does
            )
            self.starts += 1
            self._reader = asyncio.create_task(self._read(self._process), name="recogniser")

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._alive else None

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        for _attempt in range(2):
            if self._closed or len(self._waiting) >= WAITING_MOST:
                break
            await self.start()
            try:
                async with asyncio.timeout(LONGEST_S):
                    return judge(*await self._ask(pcm16k, brain), brain)
            except (ConnectionError, TimeoutError) as wrong:
                log.warning("recogniser lost, starting another", starts=self.starts, error=str(wrong))
                await self._bury()
        return Heard(None, "")

    async def _bury(self) -> None:
        """Its end is known to everybody before another one starts."""
        if self._process is not None and self._alive:
            self._process.kill()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    async def _ask(self, pcm16k: bytes, brain: Brain) -> tuple[str, float]:
        assert self._process is not None and self._process.stdin is not None, "start() made both"
        self._count += 1
        number = self._count
        answer: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._process.stdin.write(frame(Job(number, Grammar.of(brain), pcm16k)))
            await self._process.stdin.drain()
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "the pipe was asked for"
        decoder = msgspec.msgpack.Decoder(Result)
        try:
            while True:
                (size,) = struct.unpack(">I", await process.stdout.readexactly(4))
                result = decoder.decode(await process.stdout.readexactly(size))
                answer = self._waiting.get(result.number)
                if answer is not None and not answer.done():
                    answer.set_result((result.sentence, result.margin))
        except (asyncio.IncompleteReadError, msgspec.DecodeError):
            await process.wait()
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError("the recogniser's process ended"))

    async def close(self) -> None:
        """Ends the worker; closing twice is harmless."""
        self._closed = True
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.close()
        try:
            async with asyncio.timeout(2):
                await asyncio.shield(reader)
        except TimeoutError:
            process.kill()
            await reader
