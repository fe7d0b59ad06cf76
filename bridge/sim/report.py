"""Reports of simulated calls: lines for the terminal, JSON, JUnit's XML, and one HTML page that needs nothing but
itself.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import msgspec
import pybase64

from bridge.audio import g711

from .figures import Measures, Spread
from .judge import Verdict
from .measures import measure
from .outcome import Outcome, Track, picture
from .page import SCRIPT, STYLE
from .picture import well_formed
from .scenario import Scenario


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call of one scenario, judged. `difference` is how it differs from its golden timeline, `error` why there is
    no outcome.
    """

    scenario: Scenario
    outcome: Outcome | None = None
    measures: Measures = field(default_factory=Measures)
    verdicts: tuple[Verdict, ...] = ()
    difference: str = ""
    error: str = ""

    @property
    def passed(self) -> bool:
        return not (self.error or self.difference) and all(verdict.met for verdict in self.verdicts)

    @property
    def failures(self) -> list[str]:
        """A line for each thing that is wrong; each names its moment."""
        lines = [f"{self.error}"] if self.error else []
        lines += [verdict.line() for verdict in self.verdicts if not verdict.met]
        return [*lines, f"timeline: {self.difference}"] if self.difference else lines

    @property
    def title(self) -> str:
        if self.outcome is None or (self.outcome.number == 1 and self.scenario.repeat == 1):
            return self.scenario.name
        return f"{self.scenario.name} #{self.outcome.number}"


# ---------------------------------------------------------------- the terminal


def line(result: CallResult) -> str:
    """One line: whether it passed, and the figures that say most."""
    mark = "pass" if result.passed else "FAIL"
    if result.outcome is None:
        return f"{mark}  {result.title}"
    figures = result.measures
    shown = [f"{result.outcome.length_ms / 1000:5.1f} s"]
    shown += [_short("answer", figures.answer_ms), _short("yield", figures.yield_ms)]
    shown += [_short("truncation", figures.truncation_error_ms)]
    shown += [f"{figures.gaps} gaps" if figures.gaps else "", f"{figures.clicks} clicks" if figures.clicks else ""]
    shown += ["" if result.passed or result.outcome.served else result.outcome.left]
    return f"{mark}  {result.title:<34} {'  '.join(part for part in shown if part)}"


def _short(name: str, spread: Spread) -> str:
    return f"{name} {spread.p50:.0f}/{spread.max:.0f} ms" if spread.p50 is not None and spread.max is not None else ""


def summary(results: Sequence[CallResult]) -> str:
    """How many passed, and the figures of all calls together."""
    failed = sum(not result.passed for result in results)
    overall = measure(*(result.outcome for result in results if result.outcome is not None))
    calls = "1 call" if len(results) == 1 else f"{len(results)} calls"
    said = f"{calls}, {failed} failed" if failed else f"{calls}, all passed"
    answer = overall.answer_ms
    if answer.count:
        said += f"; answer p50 {answer.p50:.0f} ms, p95 {answer.p95:.0f} ms"
    if overall.truncation_error_ms.count:
        said += f"; truncation error p95 {overall.truncation_error_ms.p95:.0f} ms"
    return said


# ---------------------------------------------------------------- for machines


def as_data(results: Sequence[CallResult]) -> dict[str, Any]:
    """Plain values: what the JSON report holds."""
    return {
        "passed": all(result.passed for result in results),
        "measures": msgspec.to_builtins(measure(*(r.outcome for r in results if r.outcome is not None))),
        "calls": [_call_data(result) for result in results],
    }


def _call_data(result: CallResult) -> dict[str, Any]:
    data: dict[str, Any] = {
        "scenario": result.scenario.name,
        "about": result.scenario.about,
        "covers": list(result.scenario.covers),
        "passed": result.passed,
        "failures": result.failures,
    }
    outcome = result.outcome
    if outcome is None:
        return data
    return data | {
        "seed": outcome.seed,
        "number": outcome.number,
        "length_ms": outcome.length_ms,
        "end_reason": outcome.end_reason,
        "status": outcome.status,
        "measures": msgspec.to_builtins(result.measures),
        "expectations": msgspec.to_builtins(result.verdicts),
        "caller": msgspec.to_builtins(outcome.caller_turns),
        "agent": msgspec.to_builtins(outcome.agent_turns),
        "tools": msgspec.to_builtins(outcome.tools),
        "truncations": msgspec.to_builtins(outcome.truncations),
        "complaints": list(outcome.complaints),
    }


def as_json(results: Sequence[CallResult]) -> str:
    return msgspec.json.format(msgspec.json.encode(as_data(results)), indent=1).decode() + "\n"


def as_junit(results: Sequence[CallResult]) -> str:
    """One test case per call; its time is the call's length."""
    errors = sum(bool(result.error) for result in results)
    failures = sum(not result.passed for result in results) - errors
    counts = {"tests": str(len(results)), "failures": str(failures), "errors": str(errors)}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "simulated calls", **counts})
    for result in results:
        seconds = result.outcome.length_ms / 1000 if result.outcome else 0.0
        about = {"classname": "scenarios", "name": result.title, "time": f"{seconds:.3f}"}
        case = ET.SubElement(suite, "testcase", about)
        if not result.passed:
            kind = "error" if result.error else "failure"
            ET.SubElement(case, kind, {"message": result.failures[0]}).text = "\n".join(result.failures)
        ET.SubElement(case, "system-out").text = line(result)
    ET.indent(suites)
    return well_formed(ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n")


# ---------------------------------------------------------------- for people


def as_html(results: Sequence[CallResult], *, title: str = "Simulated calls") -> str:
    """The page: a list of all calls, then each with its picture, its sound, what was expected and what was measured."""
    many = len(results) > 3
    rows = "\n".join(_row(number, result) for number, result in enumerate(results))
    calls = "\n".join(_section(number, result, folded=many and result.passed) for number, result in enumerate(results))
    passed = all(result.passed for result in results)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="{"good" if passed else "bad"} big">{escape(summary(results))}</p>
<table class="list"><thead><tr><th></th><th>call</th><th>what it shows</th><th>length</th><th>answer after</th>
<th>yields after</th><th>truncation error</th></tr></thead><tbody>
{rows}
</tbody></table>
{calls}
<script>{SCRIPT}</script></body></html>
"""
    return well_formed(page)


def _row(number: int, result: CallResult) -> str:
    figures, outcome = result.measures, result.outcome
    cells = [
        f'<a href="#call{number}">{escape(result.title)}</a>',
        escape(result.scenario.about or result.error),
        f"{outcome.length_ms / 1000:.1f} s" if outcome else "",
        *(_spread(s) for s in (figures.answer_ms, figures.yield_ms, figures.truncation_error_ms)),
    ]
    return f"<tr><td>{_badge(result.passed)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _section(number: int, result: CallResult, *, folded: bool) -> str:
    outcome = result.outcome
    head = f"<summary><h2>{_badge(result.passed)} {escape(result.title)}</h2></summary>"
    parts = [f'<details class="call" id="call{number}"{"" if folded else " open"}>', head]
    if result.scenario.about:
        parts.append(f'<p class="about">{escape(result.scenario.about)}</p>')
    parts += [f'<p class="bad">{escape(failure)}</p>' for failure in result.failures]
    if outcome is not None:
        parts.append(f'<div class="picture">{picture(outcome)}</div>')
        parts.append(_players(outcome))
        parts.append('<div class="tables">')
        parts += [_expectations(result), _conversation(outcome), _figures(result.measures), _dealings(outcome)]
        parts.append("</div>")
        lines = escape(outcome.timeline)
        parts.append(f"<details><summary>everything that happened</summary><pre>{lines}</pre></details>")
    return "\n".join([*(part for part in parts if part), "</details>"])


def _badge(passed: bool) -> str:
    return '<span class="badge good">pass</span>' if passed else '<span class="badge bad">fail</span>'


def _spread(spread: Spread) -> str:
    if spread.count == 0:
        return ""
    if spread.count == 1:
        return f"{spread.p50:.0f} ms"
    return f"{spread.p50:.0f} ms, at most {spread.max:.0f}"


def _players(outcome: Outcome) -> str:
    return (
        '<div class="players"><button type="button" class="both">&#9654; both</button>'
        f'<label>caller <audio class="caller" controls preload="metadata" src="{_wav(outcome.caller)}"></audio></label>'
        f'<label>agent <audio class="agent" controls preload="metadata" src="{_wav(outcome.agent)}"></audio></label>'
        '<span class="hint">click the picture to go there</span></div>'
    )


def _wav(track: Track) -> str:
    """A mu-law WAV file as a data: address (format 7 of the WAVE registry)."""
    sound = g711.encode_mulaw(track.astype("<i2").tobytes())
    header = struct.pack(
        "<4sI4s4sIHHIIHHH4sII4sI",
        *(b"RIFF", 50 + len(sound), b"WAVE", b"fmt ", 18, 7, 1, 8000, 8000, 1, 8, 0),
        *(b"fact", 4, len(sound), b"data", len(sound)),
    )
    return "data:audio/wav;base64," + pybase64.b64encode(header + sound).decode()


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<section><h3>{title}</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"


def _expectations(result: CallResult) -> str:
    rows = [
        (_badge(v.met), escape(v.expected), escape(v.found), f'<a class="at" data-ms="{v.at_ms:.0f}">{_s(v.at_ms)}</a>')
        for v in result.verdicts
    ]
    return _table("Expected", ("", "that", "what was found", "at"), rows)


def _conversation(outcome: Outcome) -> str:
    said: list[tuple[float, str, str, str]] = []
    for caller in outcome.caller_turns:
        understood = "" if caller.understood is None else caller.understood or "(nothing)"
        said.append((caller.start_ms, "caller", caller.words, understood))
    for agent in outcome.agent_turns:
        heard = agent.heard_text if agent.heard_text != agent.text else "all of it" if agent.text else ""
        said.append((agent.start_ms, "agent", agent.text or f"({_s(agent.stop_ms - agent.start_ms)})", heard))
    rows = [
        (f'<a class="at" data-ms="{at:.0f}">{_s(at)}</a>', who, escape(words), escape(reached))
        for at, who, words, reached in sorted(said)
    ]
    return _table("Said", ("at", "who", "said", "understood or heard"), rows)


def _figures(figures: Measures) -> str:
    rows: list[tuple[str, str]] = []
    for name in figures.__struct_fields__:
        value = getattr(figures, name)
        if isinstance(value, Spread):
            if value.count > 1:
                rows.append((name, f"p50 {value.p50:g} &middot; p95 {value.p95:g} &middot; max {value.max:g}"))
            elif value.count:
                rows.append((name, f"{value.p50:g}"))
        elif value is not None:
            rows.append((name, f"{value:g}"))
    return _table("Measured", ("figure", "value"), rows)


def _dealings(outcome: Outcome) -> str:
    rows = [(t.at_ms, "tool", f"{t.name} {msgspec.json.encode(t.arguments).decode()}", t.result) for t in outcome.tools]
    rows += [
        (t.at_ms, "truncated", f"told {t.told_ms:.0f} ms, heard {t.truth_ms:.0f} ms", t.item_id)
        for t in outcome.truncations
    ]
    rows += [(c.at_ms, "cleared", f"{c.dropped_ms:.0f} ms thrown away", "") for c in outcome.cuts]
    shown = [(_s(at), what, escape(text), escape(more)) for at, what, text, more in sorted(rows)]
    shown += [("", "carrier's debugger", escape(complaint), "") for complaint in outcome.complaints]
    return _table("Happened", ("at", "what", "", ""), shown)


def _s(ms: float) -> str:
    return f"{ms / 1000:.2f} s"
