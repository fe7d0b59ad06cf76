"""What services send, kept as files, and what each line means.

`wire/<profile>.jsonl` has one frame a line, as the service's documents or captures show it; `wire/<profile>.facts` says
which facts the line gives, as `<line> <fact> <its fields>`. `python -m tests.realtime.test_wire` writes the second
anew: read the difference.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge.realtime.profiles import builtin

WIRE = Path(__file__).parent / "wire"


def facts_of(name: str) -> list[str]:
    decoder = builtin()[name].dialect().decoder()
    lines: list[str] = []
    for number, frame in enumerate((WIRE / f"{name}.jsonl").read_bytes().splitlines(), start=1):
        for fact in decoder.decode(frame):
            fields = msgspec.json.encode(msgspec.structs.asdict(fact)).decode()
            lines.append(f"{number} {type(fact).__name__} {fields}")
    return lines


@pytest.mark.parametrize("name", sorted(builtin()))
def test_every_line_a_service_sends_means_what_is_written_down(name: str) -> None:
    assert facts_of(name) == (WIRE / f"{name}.facts").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", sorted(builtin()))
def test_what_a_service_sends_twice_starts_and_ends_nothing_twice(name: str) -> None:
    decoder = builtin()[name].dialect().decoder()
    once_only = ("ResponseStarted", "ResponseEnded", "ToolRequested", "CallerTurnEnded")
    seen: list[object] = []
    for frame in (WIRE / f"{name}.jsonl").read_bytes().splitlines():
        if b'"response.done"' in frame and b'"id"' not in frame:
            continue  # names nothing, so nobody can tell it from the next one
        facts = (*decoder.decode(frame), *decoder.decode(frame))
        seen += [fact for fact in facts if type(fact).__name__ in once_only]
    keys = [
        (type(fact).__name__, getattr(fact, "tool_call_id", "") or getattr(fact, "response_id", "")) for fact in seen
    ]
    keys = [key for key in keys if key[1]]
    assert len(keys) == len(set(keys))


if __name__ == "__main__":
    for profile in builtin():
        (WIRE / f"{profile}.facts").write_text("\n".join(facts_of(profile)) + "\n", "utf-8")
