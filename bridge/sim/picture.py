"""Draws a call so that a stranger understands it: who spoke when, what was heard, where one cut the other short.

Time runs from left to right, in rows of at most 24 seconds, as in a score. Above the middle is the caller, below it the
agent as the caller heard it; bars hold the words; what the agent meant to say and nobody heard is hatched. The result
is one SVG text with no outside references.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

Track = npt.NDArray[np.int16]
_Place = Callable[[float], float]  # milliseconds of the call -> where on the page
SignKind = Literal["barge_in", "clear", "mark", "key", "tool", "fault", "note"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of speech with its words. `unheard_ms` of it were cut off: they follow `stop_ms` and nobody heard
    them.
    """

    who: Literal["caller", "agent"]
    start_ms: float
    stop_ms: float
    text: str = ""
    unheard_ms: float = 0.0
    unheard_text: str = ""


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that happened at a moment, or (a fault) from `at_ms` to `until_ms`."""

    at_ms: float
    kind: SignKind
    text: str = ""
    until_ms: float | None = None


LONGEST_ROW_S = 24.0
_LEFT, _RIGHT, _WIDTH = 96, 24, 1360
_FLAGS, _BAR, _WAVE, _AXIS, _GAP = 52, 46, 58, 22, 18
_ROW = _FLAGS + 2 * _BAR + 2 * _WAVE + _AXIS + _GAP
_HEAD, _FOOT = 58, 76

_CALLER, _AGENT = "#2563a8", "#16805a"
_INK, _SOFT, _PAPER = "#1f2933", "#7b8794", "#ffffff"
_SIGN: dict[SignKind, tuple[str, str]] = {
    "barge_in": ("#c62828", "the caller interrupts"),
    "clear": ("#e07b00", "what waited to be played is thrown away"),
    "mark": ("#8d99a6", "the carrier confirms what was played"),
    "key": ("#6a3fb5", "key pressed"),
    "tool": ("#00838f", "the agent uses a tool"),
    "fault": ("#9e9d24", "trouble on the line"),
    "note": ("#52606d", "note"),
}


@dataclass(frozen=True, slots=True)
class _Scale:
    per_s: float  # pixels
    rate_hz: int
    peak: float  # the loudest sample of the call


def draw(
    caller: Track,
    agent: Track,
    *,
    turns: Sequence[Turn] = (),
    signs: Sequence[Sign] = (),
    title: str = "A call",
    subtitle: str = "",
    rate_hz: int = 8000,
) -> str:
    """The call as SVG. Both tracks are mono PCM16 from the call's beginning; what was never played is no part of
    them.
    """
    shown_ms = [turn.stop_ms + turn.unheard_ms for turn in turns] + [sign.at_ms for sign in signs]
    length_s = max([len(caller) / rate_hz, len(agent) / rate_hz, *(ms / 1000 for ms in shown_ms), 1.0])
    peak = float(max(np.abs(track.astype(np.int32)).max(initial=1) for track in (caller, agent)))
    rows = max(1, math.ceil(length_s / LONGEST_ROW_S - 1e-9))
    row_s = float(max(10, math.ceil(length_s / rows)))
    height = _HEAD + rows * _ROW + _FOOT
    scale = _Scale((_WIDTH - _LEFT - _RIGHT) / row_s, rate_hz, peak)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" role="img" aria-label={quoteattr(title)}>',
        _STYLE,
        f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>',
        f'<text x="16" y="27" class="title">{escape(title)}</text>',
        f'<text x="16" y="46" class="soft">{escape(subtitle)}</text>' if subtitle else "",
    ]
    for row in range(rows):
        begin_s = row * row_s
        stop_s = min(begin_s + row_s, length_s)
        window = slice(round(begin_s * rate_hz), round(stop_s * rate_hz))
        parts += _row(
            _HEAD + row * _ROW,
            begin_ms=begin_s * 1000,
            stop_ms=stop_s * 1000,
            caller=caller[window],
            agent=agent[window],
            scale=scale,
            turns=turns,
            signs=signs,
        )
    parts += _legend(_HEAD + rows * _ROW + 8, signs, any(turn.unheard_ms for turn in turns))
    parts.append("</svg>")
    return well_formed("\n".join(part for part in parts if part) + "\n")


def well_formed(xml: str) -> str:
    """With a replacement character for what no XML may hold, however it is escaped (XML 1.0, section 2.2)."""
    return _NO_XML.sub("\ufffd", xml)


_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = f"""<style>
.title {{ font-size: 19px; font-weight: bold; fill: {_INK}; }}
.soft {{ font-size: 12px; fill: {_SOFT}; }}
.who {{ font-size: 13px; font-weight: bold; }}
.words {{ font-size: 11px; fill: {_INK}; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }}
.flag {{ font-size: 11px; font-weight: bold; }}
.tick {{ font-size: 10px; fill: {_SOFT}; text-anchor: middle; }}
</style>
<defs>
<pattern id="unheard" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="7" height="7" fill="#f4f6f5"/><rect width="2" height="7" fill="#9fb8ad"/></pattern>
</defs>"""


def _row(
    top: float,
    *,
    begin_ms: float,
    stop_ms: float,
    caller: Track,
    agent: Track,
    scale: _Scale,
    turns: Sequence[Turn],
    signs: Sequence[Sign],
) -> list[str]:
    def x(ms: float) -> float:
        return round(_LEFT + (ms - begin_ms) / 1000 * scale.per_s, 1)

    upper_bar = top + _FLAGS
    upper_wave = upper_bar + _BAR + _WAVE / 2
    lower_wave = upper_wave + _WAVE
    lower_bar = lower_wave + _WAVE / 2
    bottom = lower_bar + _BAR
    right = x(stop_ms)
    parts = [  # the row's place in time and on the page, for a player that shows where it is
        f'<g class="row" data-begin="{begin_ms:.0f}" data-stop="{stop_ms:.0f}" data-left="{_LEFT}" '
        f'data-right="{right}" data-top="{upper_bar}" data-bottom="{bottom}">',
        f'<rect x="{_LEFT}" y="{upper_bar}" width="{right - _LEFT:.1f}" height="{_BAR + _WAVE}" fill="#f3f7fc"/>',
        f'<rect x="{_LEFT}" y="{lower_wave - _WAVE / 2}" width="{right - _LEFT:.1f}" height="{_BAR + _WAVE}" '
        'fill="#f2f9f6"/>',
        f'<text x="16" y="{upper_wave - 4}" class="who" fill="{_CALLER}">Caller</text>',
        f'<text x="16" y="{upper_wave + 11}" class="soft">says</text>',
        f'<text x="16" y="{lower_wave - 4}" class="who" fill="{_AGENT}">Agent</text>',
        f'<text x="16" y="{lower_wave + 11}" class="soft">as heard</text>',
    ]
    here = [s for s in signs if s.at_ms < stop_ms and max(s.at_ms, s.until_ms or s.at_ms) >= begin_ms]
    for sign in here:
        if sign.kind == "fault" and sign.until_ms is not None:
            left, end = x(max(sign.at_ms, begin_ms)), x(min(sign.until_ms, stop_ms))
            parts.append(
                f'<rect x="{left}" y="{upper_bar}" width="{max(end - left, 2):.1f}" height="{bottom - upper_bar}" '
                f'fill="{_SIGN["fault"][0]}" opacity="0.18"/>'
            )
    parts += _seconds(begin_ms, stop_ms, x=x, top=upper_bar, bottom=bottom)
    parts.append(_wave(caller, middle=upper_wave, colour=_CALLER, scale=scale))
    parts.append(_wave(agent, middle=lower_wave, colour=_AGENT, scale=scale))
    parts += _signs(here, begin_ms=begin_ms, x=x, lane=upper_bar, bottom=bottom)
    for turn in turns:
        y = upper_bar + 4 if turn.who == "caller" else lower_bar + 4
        following = min(
            (t.start_ms for t in turns if t.who == turn.who and t.start_ms >= turn.stop_ms), default=math.inf
        )
        unheard_until_ms = min(turn.stop_ms + turn.unheard_ms, following - 80)  # what came next hides the rest of it
        parts += _turn(turn, unheard_until_ms, begin_ms=begin_ms, stop_ms=stop_ms, x=x, y=y)
    return [*parts, "</g>"]


def _seconds(begin_ms: float, stop_ms: float, *, x: _Place, top: float, bottom: float) -> list[str]:
    parts = []
    for second in range(math.ceil(begin_ms / 1000), math.floor(stop_ms / 1000 + 1e-9) + 1):
        strong = second % 5 == 0
        at = x(second * 1000)
        parts.append(
            f'<line x1="{at}" y1="{top}" x2="{at}" y2="{bottom + (6 if strong else 3)}" '
            f'stroke="{"#c5ced8" if strong else "#e4e9ee"}" stroke-width="1"/>'
        )
        parts.append(f'<text x="{at}" y="{bottom + 17}" class="tick">{second} s</text>')
    return parts


def _wave(track: Track, *, middle: float, colour: str, scale: _Scale) -> str:
    """The outline of the loudness, two pixels a step: the same shape up and down."""
    step = max(1, round(2 / scale.per_s * scale.rate_hz))
    columns = math.ceil(len(track) / step)
    if not columns:
        return ""
    padded = np.zeros(columns * step, np.int32)
    padded[: len(track)] = np.abs(track.astype(np.int32))
    loudest = padded.reshape(columns, step).max(axis=1) / scale.peak
    reach = (np.sqrt(loudest) * (_WAVE / 2 - 3)).clip(0.4)  # the root shows quiet speech too
    xs = _LEFT + np.arange(columns) * step / scale.rate_hz * scale.per_s
    upper = [f"{at:.0f},{middle - r:.1f}" for at, r in zip(xs, reach, strict=True)]
    lower = [f"{at:.0f},{middle + r:.1f}" for at, r in zip(xs[::-1], reach[::-1], strict=True)]
    return f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.8"/>'


def _turn(turn: Turn, unheard_until_ms: float, *, begin_ms: float, stop_ms: float, x: _Place, y: float) -> list[str]:
    colour = _CALLER if turn.who == "caller" else _AGENT
    parts = []
    if turn.start_ms < stop_ms and turn.stop_ms > begin_ms:
        start, end = max(turn.start_ms, begin_ms), min(turn.stop_ms, stop_ms)
        left, right = x(start), x(end)
        # where a row ends within a turn, the words stand in its longer part
        words = turn.text if end - start >= (turn.stop_ms - turn.start_ms) / 2 else "…" * bool(turn.text)
        parts += _bar(left, right, y, words, fill="#ffffff", stroke=colour, tooltip=turn.text)
    if turn.unheard_ms and turn.stop_ms < stop_ms and unheard_until_ms > max(begin_ms, turn.stop_ms):
        left, right = x(max(turn.stop_ms, begin_ms)), x(min(unheard_until_ms, stop_ms))
        words = turn.unheard_text or f"never heard: {turn.unheard_ms / 1000:.1f} s"
        parts += _bar(left, right, y, words, fill="url(#unheard)", stroke="#9fb8ad", tooltip=words, dashed=True)
    return parts


def _bar(
    left: float, right: float, y: float, words: str, *, fill: str, stroke: str, tooltip: str, dashed: bool = False
) -> list[str]:
    width = max(right - left, 2.0)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    parts = [
        f'<g><title>{escape(tooltip)}</title><rect x="{left}" y="{y}" width="{width:.1f}" height="{_BAR - 8}" rx="4" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.4"{dash}/>'
    ]
    for line, text in enumerate(_folded(words, width - 8)):
        parts.append(f'<text x="{left + 5}" y="{y + 12.5 + 11.5 * line}" class="words">{escape(text)}</text>')
    parts.append("</g>")
    return parts


def _folded(words: str, width: float) -> list[str]:
    """At most three lines that fit; the last ends in an ellipsis where words are left over."""
    room = int(width / 5.4)
    if room < 3 or not words:
        return []
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += " " + word
        else:
            lines.append(word)
    lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][: room - 1] + "…"]
    return lines


def _signs(signs: Sequence[Sign], *, begin_ms: float, x: _Place, lane: float, bottom: float) -> list[str]:
    """Marks are small ticks under the agent; everything else has a line through the row and a flag above it."""
    parts = []
    taken = [-1e9] * 4  # where the last flag of each level ends
    for sign in sorted(signs, key=lambda s: s.at_ms):
        at = x(max(sign.at_ms, begin_ms))
        colour = _SIGN[sign.kind][0]
        if sign.kind == "mark":
            points = f"{at},{bottom - 6} {at - 3},{bottom} {at + 3},{bottom}"
            parts.append(f'<polygon points="{points}" fill="{colour}"><title>{escape(sign.text)}</title></polygon>')
            continue
        if sign.at_ms >= begin_ms:
            dash = ' stroke-dasharray="5 3"' if sign.kind == "clear" else ""
            parts.append(
                f'<line x1="{at}" y1="{lane - 4}" x2="{at}" y2="{bottom}" stroke="{colour}" stroke-width="1.6"{dash}/>'
            )
        text = sign.text or _SIGN[sign.kind][1]
        width = 6.1 * len(text) + 10
        level = next((n for n, end in enumerate(taken) if at - 8 >= end), taken.index(min(taken)))
        start = min(at, _WIDTH - _RIGHT - width + 16)
        taken[level] = start + width
        y = lane - 6 - 12 * level
        parts.append(f'<circle cx="{at}" cy="{y - 4}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{start + 6}" y="{y}" class="flag" fill="{colour}">{escape(text)}</text>')
    return parts


def _legend(top: float, signs: Sequence[Sign], anything_unheard: bool) -> list[str]:
    entries: list[tuple[str, str]] = [
        (f'<rect width="22" height="11" y="-9" rx="3" fill="#fff" stroke="{_CALLER}"/>', "the caller's words"),
        (f'<rect width="22" height="11" y="-9" rx="3" fill="#fff" stroke="{_AGENT}"/>', "the agent's words, as heard"),
    ]
    if anything_unheard:
        hatched = '<rect width="22" height="11" y="-9" rx="3" fill="url(#unheard)" stroke="#9fb8ad"/>'
        entries.append((hatched, "generated, but never heard"))
    present = {sign.kind for sign in signs}
    for kind, (colour, meaning) in _SIGN.items():
        if kind not in present or kind == "note":
            continue
        if kind == "mark":
            shape = f'<polygon points="11,-8 6,0 16,0" fill="{colour}"/>'
        elif kind == "fault":
            shape = f'<rect width="22" height="11" y="-9" fill="{colour}" opacity="0.3"/>'
        else:
            shape = f'<line x1="11" y1="-11" x2="11" y2="2" stroke="{colour}" stroke-width="2"/>'
        entries.append((shape, meaning))
    parts = [f'<line x1="16" y1="{top}" x2="{_WIDTH - 16}" y2="{top}" stroke="#e4e9ee"/>']
    left, y = 16.0, top + 24
    for shape, meaning in entries:
        width = 30 + 6.4 * len(meaning) + 22
        if left + width > _WIDTH - 16:
            left, y = 16.0, y + 20
        parts.append(
            f'<g transform="translate({left:.0f} {y:.0f})">{shape}<text x="30" class="soft">{meaning}</text></g>'
        )
        left += width
    return parts
