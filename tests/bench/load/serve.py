"""The real service as a bench starts it: with a chosen socket to the model service, and a stethoscope.

Reads `begin` and `end` from standard input; after `end` it writes what it heard in between as one JSON line: how late
a timer of 10 ms rang (loop lag), and how long each pause of the garbage collector was.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from array import array
from time import perf_counter
from typing import Any

import msgspec

from bridge import log
from bridge.process import in_large_pages, run, with_all_descriptors
from bridge.settings import load
from bridge.web.service import Service
from tests.bench.load.figures import Spread, spread
from tests.bench.upstream import dial_of

_EVERY_S = 0.01


class Heard(msgspec.Struct):
    lag: Spread | None
    gc_pause: Spread | None
    gc_by_generation: list[int]
    objects: int


class Stethoscope:
    """Measures from inside, between `begin` and `end`."""

    def __init__(self) -> None:
        self._lag = array("d")
        self._pauses = array("d")
        self._generations = [0, 0, 0]
        self._collecting_since = 0.0
        self._listening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        gc.callbacks.append(self._collected)
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    def end(self) -> Heard:
        gc.callbacks.remove(self._collected)
        if self._listening is not None:
            self._listening.cancel()
        return Heard(spread(self._lag), spread(self._pauses), self._generations, len(gc.get_objects()))

    async def _listen(self) -> None:
        while True:
            began = perf_counter()
            await asyncio.sleep(_EVERY_S)
            # uvloop counts timers in whole milliseconds from a clock it read before
            self._lag.append(max(0.0, (perf_counter() - began - _EVERY_S) * 1000))

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._collecting_since = perf_counter()
        else:
            self._pauses.append((perf_counter() - self._collecting_since) * 1000)
            self._generations[info["generation"]] += 1


async def serve(given: argparse.Namespace) -> None:
    settings = load()
    log.configure(settings.log, secrets=settings.all_secrets())
    service = Service(settings, dial=dial_of(given.upstream))
    await service.start()
    pace = service.pace()
    pace.start()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say({"port": service.port})
    stethoscope = Stethoscope()
    while line := await reader.readline():
        if line == b"begin\n":
            stethoscope.begin()
        elif line == b"end\n":
            _say(stethoscope.end())
    pace.stop()
    await service.stop(grace_s=1)


def _say(what: Any) -> None:
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", default="lean")
    parser.add_argument("--loop", default="auto")
    parser.add_argument("--cpu", type=int, action="append", help="run on this core")
    parser.add_argument("--nice", type=int, default=0)
    arguments = parser.parse_args()
    in_large_pages()
    with_all_descriptors()
    os.nice(arguments.nice)
    if arguments.cpu:
        os.sched_setaffinity(0, arguments.cpu)
    run(serve(arguments), loop=arguments.loop)
