"""A timeline for reading and for comparing: everything that happened on a call's line and everything the service made
of it, in one order, with what repeats itself folded.

The caller hears ten pieces of audio a second, each with its mark, its return and the decision to send the next. Such
lines of one kind are folded into one, up to the next line that says something of its own; each keeps its time, as the
milliseconds since the one before ("+100x7": seven more, 100 ms apart). So nothing is lost, and a difference is one
line.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge.sim.timeline import Moment

# decisions of the service that only keep audio flowing; the first group is the kind, "more" is kept piece by piece
_FLOWING: Final = (
    re.compile(r"(?P<kind>ModelSpoke \S+ \S+) (?P<more>.*)"),
    re.compile(r"(?P<kind>ModelSaid \S+ \S+) (?P<more>.*)"),
    re.compile(r"(?P<kind>MarkReturned) (?P<more>\S+ -> PlayAudio [\d.]+ ms)"),
    re.compile(r"(?P<kind>DeadlineReached) (?P<more>-> PlayAudio [\d.]+ ms)"),
    re.compile(
        r"(?P<kind>CallerSpoke) (?P<more>\d+ bytes \d+(?: -> (?:PlayAudio [\d.]+ ms)?(?:, )?(?:SendCallerAudio.*)?)?)"
    ),
)
_PIECES: Final = re.compile(
    r" *[\d.]+ +(\w+ +(media|mark)|service +(ModelSpoke|MarkReturned|DeadlineReached|CallerSpoke))\b"
)


@dataclass(slots=True)
class _Line:
    at_ms: float
    who: str
    text: str
    kind: str = ""  # lines of one kind may be folded; empty: never
    more: str = ""
    after_bridge: bool = False


@dataclass(slots=True)
class _Fold:
    first: _Line
    at_ms: list[float] = field(default_factory=list)
    more: list[str] = field(default_factory=list)

    def text(self) -> str:
        line = self.first
        if len(self.at_ms) == 1:
            return _written(line.at_ms, line.who, line.text)
        shown = " ".join(part for part in (line.kind, _together(self.more), f"at {_steps(self.at_ms)}") if part)
        return _written(line.at_ms, line.who, shown)


def timeline(moments: Sequence[Moment], story: Iterable[tuple[float, str]]) -> str:
    """`moments` are the line's, `story` the service's decisions with their times, both in milliseconds of the call.

    What the carrier and the caller do at a moment comes before what the service decides at it, and that before what it
    therefore sends.
    """
    lines = [*_of_line(moments), *(_of_service(at_ms, text) for at_ms, text in story)]
    lines.sort(key=lambda line: (round(line.at_ms, 2), 1 if line.who == "service" else 2 * line.after_bridge))
    written: list[str] = []
    folds: dict[tuple[str, str], _Fold] = {}
    for line in lines:
        if not line.kind:
            written += [fold.text() for fold in folds.values()]
            folds.clear()
            written.append(_written(line.at_ms, line.who, line.text))
            continue
        fold = folds.setdefault((line.who, line.kind), _Fold(line))
        fold.at_ms.append(line.at_ms)
        fold.more.append(line.more)
    written += [fold.text() for fold in folds.values()]
    return "".join(line + "\n" for line in written)


def differences(wanted: str, found: str) -> list[str]:
    """The changed lines of two timelines, "-" wanted and "+" found: those of other words or decisions first, then those
    of other figures, and the flow of the audio last.
    """
    lines = wanted.splitlines(), found.splitlines()
    telling = [line for line in lines[0] if not _flows(line)], [line for line in lines[1] if not _flows(line)]
    changed = [*_changed(*telling, key=_words), *_changed(*telling, key=_untimed), *_changed(*lines, key=str)]
    return list(dict.fromkeys(changed))


def _changed(wanted: Sequence[str], found: Sequence[str], *, key: Callable[[str], str]) -> Iterable[str]:
    """Pair by pair, so that the first lines show both sides."""
    pairing = difflib.SequenceMatcher(None, [key(line) for line in wanted], [key(line) for line in found], False)
    for kind, a, to_a, b, to_b in pairing.get_opcodes():
        if kind == "equal":
            continue
        for old, new in itertools.zip_longest(wanted[a:to_a], found[b:to_b]):
            yield from (
                f"{sign} {' '.join(line.split())}" for sign, line in (("-", old), ("+", new)) if line is not None
            )


def _flows(line: str) -> bool:
    """Whether a line counts pieces of audio, and nothing else comes of them."""
    return _PIECES.match(line) is not None and set(re.findall(r"(?:-> |, )(\w+)", line)) <= {"PlayAudio"}


def _untimed(line: str) -> str:
    return re.sub(r"^ *[\d.]+|( at 0( \+\S+)+$)", "", line)


def _words(line: str) -> str:
    """Without its times, the ids and all other figures."""
    return re.sub(r"\d[\w.]*", "#", _untimed(line))


def _of_line(moments: Iterable[Moment]) -> Iterable[_Line]:
    sent_at: float | None = None  # when the service last sent something
    for moment in moments:
        at_ms = round(moment.at_ms, 2)
        if moment.who == "bridge":
            sent_at = at_ms
        text = moment.line()[21:].strip()
        line = _Line(moment.at_ms, moment.who, text, after_bridge=at_ms == sent_at)
        match moment.who, moment.what:
            case "bridge", "media":
                line.kind, line.more = "media", f"{moment.detail['ms']:g}"
            case "bridge", "mark":
                line.kind, line.more = "mark", str(moment.detail["name"])
            case "carrier", "mark":
                line.kind, line.more = f"mark {moment.detail['after']}", str(moment.detail["name"])
            case _:
                pass
        yield line


def _of_service(at_ms: float, text: str) -> _Line:
    for pattern in _FLOWING:
        found = pattern.fullmatch(text)
        if found is not None:
            return _Line(at_ms, "service", text, found["kind"], found["more"].strip())
    return _Line(at_ms, "service", text)


def _written(at_ms: float, who: str, text: str) -> str:
    return f"{round(at_ms, 2) + 0.0:10.2f}  {who:<7}  {text}".rstrip()


def _steps(times_ms: Sequence[float]) -> str:
    """Each time as what was added to the one before."""
    steps = [f"+{after - before:.2f}".rstrip("0").rstrip(".") for before, after in itertools.pairwise(times_ms)]
    return _together(["0", *steps])


def _together(texts: Sequence[str]) -> str:
    """Equal neighbours counted, names that count up as first..last."""
    texts = [text for text in texts if text]
    if len(texts) > 1 and all(_follows(a, b) for a, b in itertools.pairwise(texts)):
        return f"{texts[0]}..{texts[-1]}"
    shown: list[str] = []
    count = 0
    for number, text in enumerate(texts):
        count += 1
        if number + 1 == len(texts) or texts[number + 1] != text:
            shown.append(text if count == 1 else f"{text}x{count}")
            count = 0
    return " ".join(shown)


def _follows(before: str, after: str) -> bool:
    """Names of marks: the same generation, the next number."""
    a, b = re.fullmatch(r"(\d+\.)(\d+)", before), re.fullmatch(r"(\d+\.)(\d+)", after)
    return a is not None and b is not None and a[1] == b[1] and int(b[2]) == int(a[2]) + 1
