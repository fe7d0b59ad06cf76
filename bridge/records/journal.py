"""The flight recorder: every (time, fact, requests) of a call as lines of JSON, and a way to live through them again.

The first line is the journal's version and the call's plan; each further line is one fact with what was made of it, in
the call's own milliseconds. Because a call decides by nothing else, today's core given the same facts must make the
same requests: `replay` shows the first where it does not. Sound is written as its length in bytes unless asked for
otherwise; a replay puts silence in its place.

A journal holds what was said and pressed. It is written by a thread of its own, in batches, into a file only its owner
may read; a disk that does not keep up loses facts, and the journal says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import pybase64

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.machine import Call
from bridge.call.plan import CallPlan
from bridge.errors import UsageError

VERSION = 2
Audio = Literal["lengths", "full"]
Entry = tuple[float, ev.Event, Sequence[do.Action]]

_BATCH = 50  # facts: about a second of a call
_MOST_BATCHES = 40  # waiting for the disk
_MOST_BYTES = 256 << 20  # of one journal; an hour of a call has about 20 MB
_ROOM_FOR_A_LINE = 100
_SILENCE = {"mulaw": b"\xff", "alaw": b"\xd5", "pcm16": b"\x00"}  # ITU-T G.711, tables 2a and 1a: zero

_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")


async def wait_written() -> None:
    """All that journals of this process have handed over is written, or lost."""
    await asyncio.wrap_future(_writer.submit(lambda: None))


class Journal:
    """Writes one call's journal. `watch` is an observer of the call; it never waits for the disk.

    Raises OSError at once where the file cannot be created, and never later: from then on what cannot be written is
    counted in `lost`.
    """

    def __init__(self, path: Path, plan: CallPlan, *, audio: Audio = "lengths", most_bytes: int = _MOST_BYTES) -> None:
        self.path = path
        self.lost = 0  # facts
        self._audio = audio
        self._room = most_bytes
        self._batch: list[Entry] = []
        self._waiting: list[Future[None]] = []
        self._closed = False
        self._gap = 0  # facts that were not handed over since the last batch
        self._cut = 0  # facts at the end for which there was no room
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        header = {"journal": VERSION, "audio": audio, "plan": _plain(plan, audio)}
        self._later(lambda: self._write([msgspec.json.encode(header)]))

    def watch(self, now: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        """One fact at the call's own time, and what the call asked for."""
        if self._closed:
            return
        self._batch.append((now, event, actions))
        if len(self._batch) >= _BATCH:
            self._hand_over()

    def watch_others(self, now: float, event: ev.Event, actions: Sequence[do.Action]) -> None:
        """The same without frames, beside a `watch` that is shown every frame: each fact is to stand there once."""
        if type(event) is not ev.CallerSpoke:
            self.watch(now, event, actions)

    def close(self) -> None:
        """No more will come. Returns at once; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._later(self._finish)

    def when_written(self, told: Callable[[], None]) -> None:
        """Calls `told` on the writer's thread when all that was handed over so far is written, or lost."""
        self._waiting[-1].add_done_callback(lambda _: told())

    def wait_closed(self) -> None:
        """Blocks until all is written."""
        self.close()
        for written in self._waiting:
            written.result()

    # ------------------------------------------------------------ the writer's side

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        self._waiting = [written for written in self._waiting if not written.done()]
        if len(self._waiting) >= _MOST_BATCHES:
            self.lost += len(batch)
            self._gap += len(batch)
            return
        gap, self._gap = self._gap, 0
        self._later(lambda: self._write_batch(batch, gap))

    def _later(self, work: Any) -> None:
        self._waiting.append(_writer.submit(work))

    def _write_batch(self, batch: list[Entry], gap: int) -> None:
        lines = [msgspec.json.encode({"lost": gap})] if gap else []
        for entry in batch:
            try:
                lines.append(_line(entry, self._audio))
            except (ValueError, TypeError):  # text that is none: half of a character
                self.lost += 1
                lines.append(msgspec.json.encode({"lost": 1}))
        if not self._write(lines):
            self.lost += len(batch)
            self._cut += len(batch) + gap

    def _finish(self) -> None:
        missing = self._cut + self._gap
        if missing:
            self._room = _ROOM_FOR_A_LINE
            self._write([msgspec.json.encode({"lost": missing})])
        with suppress(OSError):  # what could not be written is counted already
            self._file.close()

    def _write(self, lines: list[bytes]) -> bool:
        data = b"\n".join(lines) + b"\n" if lines else b""
        self._room -= len(data)
        if self._room < 0:
            return False
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._room = 0
            return False
        return True


def _line(entry: Entry, audio: Audio) -> bytes:
    at_ms, event, actions = entry
    return msgspec.json.encode(
        {"at": at_ms, "fact": _plain(event, audio), "requests": [_plain(action, audio) for action in actions]}
    )


def _plain(value: Any, audio: Audio) -> Any:
    """As JSON has it, sound as its length if so wanted."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    return _elided(plain) if audio == "lengths" else plain


def _elided(plain: Any) -> Any:
    if isinstance(plain, bytes):
        return len(plain)
    if isinstance(plain, dict):
        return {name: _elided(value) for name, value in plain.items()}
    return plain


# ---------------------------------------------------------------- living through it again


@dataclass(frozen=True)
class Difference:
    """The first fact of which today's core makes something else."""

    line: int  # in the file, from 1
    at_ms: float
    fact: dict[str, Any]
    then: list[dict[str, Any]]  # what was asked for when it was written
    now: list[dict[str, Any]]
    broke: str = ""  # the core raised this instead

    def __str__(self) -> str:
        place = next(
            (i for i, (then, now) in enumerate(zip(self.then, self.now, strict=False)) if then != now),
            min(len(self.then), len(self.now)),
        )
        lines = [f"line {self.line}, {self.at_ms:.1f} ms: {_words(self.fact)}"]
        lines += [f"    {_words(same)}" for same in self.then[:place]]
        lines += [f"  - {_words(then)}" for then in self.then[place:]]
        lines += [f"  + {_words(now)}" for now in self.now[place:]]
        if self.broke:
            lines.append(f"  ! {self.broke}")
        return "\n".join(lines)


def replay(path: Path) -> Difference | None:
    """Give a journal's facts to today's core. None: it asks for the same all through.

    A last line that is broken off is left out. Raises UsageError for what is no journal, or one with facts missing.
    """
    plan, lines = read(path)
    call = Call(plan, 0.0)
    number = 0
    for number, line in lines:
        fact = _event(line["fact"], plan)
        audio: Audio = "full" if isinstance(line["fact"].get("audio"), str) else "lengths"
        try:
            actions = call.handle(fact, line["at"])
        except Exception as error:
            return Difference(
                number, line["at"], line["fact"], line["requests"], [], f"{type(error).__name__}: {error}"
            )
        made = [_plain(action, audio) for action in actions]
        made = msgspec.json.decode(msgspec.json.encode(made))  # as they would have been written
        then = line["requests"]
        if audio == "lengths":  # a line of a full journal may have sound in its requests only
            then = [_lengths(request) for request in then]
        if made != then:
            return Difference(number, line["at"], line["fact"], then, made)
    if not number:
        raise UsageError(f"{path} holds the plan of a call and none of its facts")
    return None


def read(path: Path) -> tuple[CallPlan, Iterator[tuple[int, dict[str, Any]]]]:
    """The plan of a journal, and its lines with their numbers. Raises UsageError, also while the lines are read."""
    lines = _json_lines(path)
    number, header = next(lines, (0, {}))
    if not isinstance(header, dict) or number != 1 or "journal" not in header:
        raise UsageError(f"{path} is not the journal of a call")
    if header["journal"] != VERSION:
        raise UsageError(f"{path} is a journal of version {header['journal']}; only {VERSION} can be read")
    try:
        plan = _plan(header["plan"])
    except KeyError as missing:
        raise UsageError(f"{path}: the plan cannot be read: it has no {missing}") from missing
    except (msgspec.ValidationError, TypeError) as error:
        raise UsageError(f"{path}: the plan cannot be read: {error}") from error
    return plan, _checked(path, lines)


def torn_line(path: Path) -> int:
    """The number of the last line where its writer stopped in the middle of it; else 0."""
    number, line = 0, b"\n"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):  # noqa: B007  (the last ones are wanted)
            pass
    return number if _is_torn(line) else 0


def _is_torn(line: bytes) -> bool:
    if line.endswith(b"\n"):
        return False
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return True
    return False


def _checked(path: Path, lines: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if isinstance(line, dict) and "lost" in line:
            raise UsageError(f"{path}, line {number}: {line['lost']} facts are missing here; it ends here")
        if not _is_step(line):
            raise UsageError(f"{path}, line {number}: this is no line of a journal")
        yield number, line


def _is_step(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("requests"), list):
        return False
    told = [line.get("fact"), *line["requests"]]
    sound = all(isinstance(one, dict) and isinstance(one.get("audio", 0), int | str) for one in told)
    return sound and isinstance(line.get("at"), int | float)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, msgspec.json.decode(line)
            except msgspec.DecodeError as error:
                if _is_torn(line):
                    return
                raise UsageError(f"{path}, line {number}: {error}") from error


def _event(plain: dict[str, Any], plan: CallPlan) -> ev.Event:
    audio = plain.get("audio")
    if audio is not None:
        plain = plain | {"audio": _sound(audio, plan.carrier.encoding)}
    try:
        fact: ev.Event = msgspec.convert(plain, ev.AnyEvent, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise UsageError(f"{_words(plain)} is no fact of a call: {error}") from error
    return fact


def _plan(plain: dict[str, Any]) -> CallPlan:
    encoding = plain["carrier"]["encoding"]
    agent = plain["agent"]
    clips = {name: _sound(audio, encoding) for name, audio in agent["clips"].items()}
    return msgspec.convert(plain | {"agent": agent | {"clips": clips}}, CallPlan, builtin_types=(bytes,))


def _sound(audio: int | str, encoding: str) -> bytes:
    return _SILENCE[encoding] * audio if isinstance(audio, int) else pybase64.b64decode(audio)


def _lengths(request: dict[str, Any]) -> dict[str, Any]:
    audio = request.get("audio")
    return request | {"audio": len(pybase64.b64decode(audio))} if isinstance(audio, str) else request


def _words(plain: dict[str, Any]) -> str:
    """A fact or request in one line."""
    fields = ", ".join(f"{name}={value!r}" for name, value in plain.items() if name != "type")
    return f"{plain.get('type', '?')}({fields[:300]})"
