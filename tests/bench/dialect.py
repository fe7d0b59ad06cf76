"""Prints what the two hot paths of a dialect cost: appending caller audio, and reading the agent's audio.

python -m tests.bench.dialect
"""

from __future__ import annotations

import itertools
import os
import timeit
from collections.abc import Callable

import msgspec
import pybase64

from bridge.realtime.profiles import builtin


def microseconds(work: Callable[[], object], rounds: int = 5000) -> float:
    return min(timeit.repeat(work, number=rounds, repeat=7)) / rounds * 1e6


def delta(kind: str, number: int, payload: str) -> bytes:
    ids = {"response_id": "resp_C9CwG1", "item_id": "item_C9CwA1", "output_index": 0, "content_index": 0}
    return msgspec.json.encode({"type": kind, "event_id": f"event_{number}", **ids, "delta": payload})


def reading(frames: list[bytes]) -> float:
    decoder, at = builtin()["openai"].dialect().decoder(), itertools.count()
    return microseconds(lambda: decoder.decode(frames[next(at) % len(frames)]))


def main() -> None:
    dialect = builtin()["openai"].dialect()
    frame = os.urandom(960)
    print(f"append of 960 bytes                     {microseconds(lambda: dialect.append(frame)):6.2f} us")
    for name, size in (("9600 bytes (200 ms PCM16)", 9600), ("1600 bytes (200 ms mu-law)", 1600)):
        text = pybase64.b64encode(os.urandom(size)).decode()
        frames = [delta("response.output_audio.delta", number, text) for number in range(1000)]
        print(f"audio delta, {name:26} {reading(frames):6.2f} us")
    words = [delta("response.output_audio_transcript.delta", number, " there") for number in range(1000)]
    print(f"transcript delta                        {reading(words):6.2f} us")


if __name__ == "__main__":
    main()
