"""The figures of a simulated call, by name. Milliseconds throughout; measures.py computes them.

| name | what it says |
|---|---|
| `first_sound_ms` | from the opening of the media stream to the first sound of the agent |
| `answer_ms` | from the end of what the caller said to the first sound of the answer |
| `yield_ms` | from the caller's first sound, while the agent speaks, to the agent's last |
| `truncation_error_ms` | what the model was told the caller heard, less what was heard; spread of its size |
| `barge_ins` | how often the caller began to speak, meaning it, while the agent spoke |
| `overlap_ms` | how long both were heard at once |
| `dead_air_longest_ms`, `dead_air_ms` | silence of both: the longest, and the sum of all longer than 2 s |
| `gaps`, `gap_ms` | how often the agent's audio ran dry within a speech, and for how long in all |
| `clicks` | jumps in the agent's audio where two pieces meet or one was cut |
| `words_lost_at_start` | words at the beginning of the caller's turns that were not understood, if that is known |
| `talk_ratio` | the agent's share of all speech, 0 to 1 |
| `false_interruptions` | times the agent was silenced though the caller had said nothing, or nothing that was meant |

A spread has `count`, `p50`, `p95`, `p99` and `max`; in an expectation it is named with a dot, as in `answer_ms.p95`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Many values of one kind. Percentiles are values that occurred (nearest rank)."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        if not ordered:
            return cls()

        def at(share: float) -> float:
            return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2)

        return cls(len(ordered), at(0.5), at(0.95), at(0.99), round(ordered[-1], 2))


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """One call's figures, or those of many calls together."""

    first_sound_ms: Spread = Spread()
    answer_ms: Spread = Spread()
    yield_ms: Spread = Spread()
    truncation_error_ms: Spread = Spread()
    barge_ins: int = 0
    overlap_ms: float = 0.0
    dead_air_longest_ms: float = 0.0
    dead_air_ms: float = 0.0
    gaps: int = 0
    gap_ms: float = 0.0
    clicks: int = 0
    words_lost_at_start: int | None = 0
    talk_ratio: float = 0.0
    false_interruptions: int = 0

    def value(self, name: str) -> float | None:
        """A figure by its name in an expectation; None where nothing of the kind happened. Raises KeyError."""
        first, _, part = name.partition(".")
        if first not in self.__struct_fields__:
            raise KeyError(name)
        found = getattr(self, first)
        if isinstance(found, Spread):
            if part not in Spread.__struct_fields__:
                raise KeyError(name)
            value: float | None = getattr(found, part)
            return value
        if part:
            raise KeyError(name)
        return None if found is None else float(found)


NAMES: frozenset[str] = frozenset(
    name
    for field in Measures.__struct_fields__
    for name in (
        [f"{field}.{part}" for part in Spread.__struct_fields__]
        if isinstance(getattr(Measures(), field), Spread)
        else [field]
    )
)
