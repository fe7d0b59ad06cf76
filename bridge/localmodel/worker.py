"""The recogniser's process: jobs in by standard input, results out by standard output, until the input ends."""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

import msgspec

from bridge.localmodel.hearing import Decoder, Job, Result, frame


def main() -> None:
    jobs = sys.stdin.buffer
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the results
    decoder = Decoder()
    read = msgspec.msgpack.Decoder(Job)
    while (job := _next(jobs, read)) is not None:
        try:
            sentence, margin = decoder.decode(job.pcm16k, job.grammar)
        except (RuntimeError, ValueError) as wrong:  # pocketsphinx's word for sound it can do nothing with
            print(f"recognition failed: {wrong}", file=sys.stderr)  # noqa: T201  (standard error is this process's log)
            sentence, margin = "", float("inf")
        results.write(frame(Result(job.number, sentence, margin)))
        results.flush()


def _next(jobs: BinaryIO, read: msgspec.msgpack.Decoder[Job]) -> Job | None:
    head = jobs.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack(">I", head)
    body = jobs.read(size)
    return read.decode(body) if len(body) == size else None


if __name__ == "__main__":
    main()
