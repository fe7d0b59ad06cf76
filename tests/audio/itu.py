"""G.711 read from the Recommendation a second time: the oracle of the tests, in no way our tables.

It walks the decision values of ITU-T G.711 tables 1a and 2a, segment after segment of sixteen equal intervals, and
looks for the interval a magnitude falls in; `bridge.audio.g711` computes codes from bits.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache


@cache
def mulaw_edges() -> list[int]:
    """Table 2a, 14-bit scale: 0, then 1, 3, 5 .. 31, then 35 in steps of 4, 95 in steps of 8, up to 7903."""
    edges = [0] + [1 + 2 * k for k in range(15)]
    width, edge = 2, 31
    for _ in range(7):
        width *= 2
        for _ in range(16):
            edges.append(edge)
            edge += width
    return edges


@cache
def alaw_edges() -> list[int]:
    """Table 1a, 13-bit scale with 2048 as half: 0, 1 .. 31 by ones, then sixteen intervals of 2, 4, 8 .. 64."""
    edges = list(range(32))
    width, edge = 1, 32
    for _ in range(6):
        width *= 2
        for _ in range(16):
            edges.append(edge)
            edge += width
    return edges


def mulaw_of(sample: int) -> int:
    magnitude = (sample if sample >= 0 else -sample - 1) // 4  # G.191 takes the ones' complement of what is negative
    interval = bisect_right(mulaw_edges(), magnitude) - 1
    return (0xFF if sample >= 0 else 0x7F) - interval


def alaw_of(sample: int) -> int:
    magnitude = (sample if sample >= 0 else -sample - 1) // 16
    interval = bisect_right(alaw_edges(), magnitude) - 1
    return ((0x80 if sample >= 0 else 0) + interval) ^ 0x55


def mulaw_value(code: int) -> int:
    """Output values of table 2a: the middle between neighbouring decision values (0 for the first interval)."""
    edges = [*mulaw_edges(), 8159]
    interval = 0x7F - (code & 0x7F)
    middle = 0 if interval == 0 else (edges[interval] + edges[interval + 1]) * 2
    return middle if code & 0x80 else -middle


def alaw_value(code: int) -> int:
    edges = [*alaw_edges(), 2048]
    interval = (code ^ 0x55) & 0x7F
    middle = (edges[interval] + edges[interval + 1]) * 8
    return middle if (code ^ 0x55) & 0x80 else -middle
