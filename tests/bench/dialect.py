"""Prints what the two hot paths of a dialect cost: appending caller audio, and reading the agent's audio.

python -m tests.bench.dialect
"""

from __future__ import annotations

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


def main() -> None:
    dialect = builtin()["openai"].dialect()
    frame = os.urandom(960)
    print(f"append of 960 bytes                     {microseconds(lambda: dialect.append(frame)):6.2f} us")
    for name, audio in (
        ("9600 bytes (200 ms PCM16)", os.urandom(9600)),
        ("1600 bytes (200 ms mu-law)", os.urandom(1600)),
    ):
        text = pybase64.b64encode(audio).decode()
        frames = [delta("response.output_audio.delta", number, text) for number in range(1000)]
        decoder = dialect.decoder()
        at = iter(range(10**9))
        cost = microseconds(lambda f=frames, d=decoder, a=at: d.decode(f[next(a) % 1000]))  # type: ignore[misc]
        print(f"audio delta, {name:26} {cost:6.2f} us")
    words = [delta("response.output_audio_transcript.delta", number, " there") for number in range(1000)]
    decoder, at = dialect.decoder(), iter(range(10**9))
    print(
        f"transcript delta                        {microseconds(lambda: decoder.decode(words[next(at) % 1000])):6.2f} us"
    )


if __name__ == "__main__":
    main()
