"""The programs of tests/bench run and print what they are for. Nothing here looks at how fast anything was."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from tests.bench.upstream import has_picows

SOCKETS = ["lean", "sansio", "websockets", "aiohttp", *(["picows"] if has_picows() else [])]
BRIEFLY = ("--calls", "2", "--seconds", "2", "--warm", "1")


async def printed(program: str, *options: str) -> str:
    """What a program of the bench prints; it may find something too slow, but it must not break."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", f"tests.bench.{program}", *options)
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode in (0, 1) and b"Traceback" not in err, err.decode()
    return out.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
async def test_calls_per_core_are_counted_with_each_socket_to_the_model_and_passed_through_in_batches() -> None:
    *tables, in_batches = await asyncio.gather(
        *(printed("calls", *BRIEFLY, "--upstream", upstream) for upstream in SOCKETS),
        printed("calls", *BRIEFLY, "--mode", "pcmu", "--uplink-ms", "60"),
    )
    for upstream, table in zip(SOCKETS, tables, strict=True):
        assert re.search(rf"│ +{upstream} +│ +2 │ +[0-9.]+ │", table), table
    assert "pcmu, 60 ms per append" in in_batches and re.search(r"│ +lean +│ +2 │", in_batches), in_batches


async def test_what_a_frame_costs_is_told_by_its_parts() -> None:
    out = await printed("frames", "--calls", "2", "--rounds", "2")
    assert re.search(r"caller frame, socket to socket +│ +[0-9.]+ │", out) and "transcode, 20 ms up" in out, out


async def test_the_dialects_and_the_cores_costs_are_told() -> None:
    assert "audio delta" in await printed("dialect")
    assert "mark" in await printed("core")


async def test_the_error_of_truncations_is_told_beside_other_formulas() -> None:
    out = await printed("barge_in", "--barges", "2", "--calls", "2", "--latency", "0", "--jitter", "0")
    assert "error of audio_end_ms" in out and "2 barge-ins" in out, out
