"""Holds what a scenario expects against what happened, and says at which moment it was otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import msgspec

from bridge.errors import EndReason

from .figures import Measures
from .measures import SOON_MS, false_interruptions, moment
from .outcome import AgentTurn, Outcome, ToolCall
from .scenario import Expectation, Scenario
from .words import contains

_TextOf = Callable[[AgentTurn], str]

_SEEN_BY_THE_CARRIER = frozenset({"agent_yields_within_ms", "measure"})
_BROKEN = frozenset({EndReason.MODEL_UNAVAILABLE, EndReason.MODEL_REFUSED, EndReason.BUG})
_NOT_KNOWN = "it cannot be known of somebody else's server; expect agent_yields_within_ms or a measure there"
_NOT_WRITTEN_DOWN = "nobody wrote down what was understood: give the agent a `transcription`"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One expectation judged. `at_ms` is the moment it was decided at: of the words, the cut, or the call's end."""

    expected: str
    met: bool
    at_ms: float
    found: str

    def line(self) -> str:
        """For the terminal; names the moment."""
        return f"{'ok    ' if self.met else 'FAILED'} at {self.at_ms / 1000:.2f} s: {self.expected}: {self.found}"


def judge(scenario: Scenario, outcome: Outcome, measures: Measures) -> list[Verdict]:
    """A verdict for each expectation, and one more for each thing that no scenario wants."""
    verdicts = [_judged(expected, scenario, outcome, measures) for expected in scenario.expect]
    end_ms = outcome.length_ms
    if outcome.performance.timed_out:
        verdicts.append(Verdict(f"the call is over within {scenario.limit_s:g} s", False, end_ms, "it was not"))
    elif outcome.performance.undone:
        number = outcome.performance.undone[0]
        step = scenario.caller[number - 1]
        if not step.hang_up:  # the agent may hang up before the caller does
            found = f"the call had ended ({outcome.ended})"
            verdicts.append(Verdict(f"the caller gets to step {number}, {step.name}", False, end_ms, found))
    for number, why in outcome.performance.missed.items():
        fault = scenario.faults[number - 1]
        verdicts.append(Verdict(f"{fault.name} {fault.when}", False, end_ms, f"{why} ({outcome.ended})"))
    if outcome.end_reason in _BROKEN and not any(expected.end_reason for expected in scenario.expect):
        found = f"it ended with {outcome.end_reason}; expect that end_reason where it is wanted"
        verdicts.append(Verdict("the call does not break", False, end_ms, found))
    if not any(expected.measure == "false_interruptions" for expected in scenario.expect):
        verdicts += _silenced(outcome)
    return verdicts


def _silenced(outcome: Outcome) -> Iterable[Verdict]:
    """A verdict for each time something that was not meant made the agent stop."""
    for cut in false_interruptions(outcome):
        for turn in outcome.caller_turns:
            if turn.start_ms <= cut.at_ms <= turn.stop_ms + SOON_MS:
                found = f"{cut.dropped_ms:.0f} ms of it were thrown away"
                yield Verdict(f'the agent goes on through "{turn.words}", which is not meant', False, cut.at_ms, found)
                break


def _judged(expected: Expectation, scenario: Scenario, outcome: Outcome, measures: Measures) -> Verdict:
    verdict = _as_known(expected, scenario, outcome, measures)
    if outcome.foreign and expected.kind not in _SEEN_BY_THE_CARRIER:
        return replace(verdict, met=False, found=_NOT_KNOWN)
    return verdict


def _as_known(expected: Expectation, scenario: Scenario, outcome: Outcome, measures: Measures) -> Verdict:
    match expected.kind:
        case "agent_says":
            assert expected.agent_says is not None
            return _words(expected, "the agent says", expected.agent_says, outcome, lambda turn: turn.text)
        case "heard":
            assert expected.heard is not None
            return _words(expected, "the caller hears", expected.heard, outcome, lambda turn: turn.heard_text)
        case "understood":
            return _understood(expected, outcome)
        case "absent":
            return _absent(expected, outcome)
        case "tool_call":
            return _tool(expected, outcome)
        case "agent_yields_within_ms":
            return _yields(expected, outcome, measures)
        case "truncated_at":
            return _truncated(expected, outcome)
        case "end_reason":
            met = outcome.end_reason == expected.end_reason
            said = f"the call ends with {expected.end_reason}"
            return Verdict(said, met, outcome.length_ms, f"it ended with {outcome.ended}")
        case _:
            return _measured(expected, outcome, measures)


def _window(expected: Expectation, outcome: Outcome) -> tuple[float, float]:
    """From when to when a thing must begin."""
    if expected.within_ms is None and expected.of_step is None:
        return 0.0, outcome.length_ms
    done = outcome.performance.done
    if expected.of_step is not None:
        since = next((step.stop_ms for step in done if step.number == expected.of_step), outcome.length_ms)
    else:
        since = next((s.stop_ms for s in reversed(done) if s.name.startswith(("say", "play", "press"))), 0.0)
    return since, outcome.length_ms if expected.within_ms is None else since + expected.within_ms


def _words(expected: Expectation, who: str, words: str, outcome: Outcome, text_of: _TextOf) -> Verdict:
    since, until = _window(expected, outcome)
    said = f'{who} "{words}"' + (f" within {expected.within_ms:g} ms" if expected.within_ms is not None else "")
    early, late = None, None
    for turn in outcome.agent_turns:
        if not contains(text_of(turn), words):
            continue
        if since <= turn.start_ms <= until:
            return Verdict(said, True, turn.start_ms, f'"{text_of(turn)}"')
        if turn.start_ms < since:
            early = turn
        else:
            late = late or turn
    if late is not None:
        return Verdict(said, False, late.start_ms, f"only {late.start_ms - since:.0f} ms after step's end")
    if early is not None:
        return Verdict(said, False, early.start_ms, f"already {since - early.start_ms:.0f} ms before step's end")
    return Verdict(said, False, min(until, outcome.length_ms), f"there was {_list(map(text_of, outcome.agent_turns))}")


def _understood(expected: Expectation, outcome: Outcome) -> Verdict:
    assert expected.understood is not None
    said = f'the model understands "{expected.understood}"'
    texts = [turn.understood for turn in outcome.caller_turns if turn.meant]
    for turn in outcome.caller_turns:
        if turn.understood and contains(turn.understood, expected.understood):
            return Verdict(said, True, turn.stop_ms, f'"{turn.understood}"')
    at_ms = outcome.caller_turns[-1].stop_ms if outcome.caller_turns else outcome.length_ms
    if texts and not any(text is not None for text in texts):
        return Verdict(said, False, at_ms, _NOT_WRITTEN_DOWN)
    return Verdict(said, False, at_ms, f"it understood {_list(text or '' for text in texts)}")


def _absent(expected: Expectation, outcome: Outcome) -> Verdict:
    assert expected.absent is not None
    said = f'nobody hears "{expected.absent}"'
    for turn in outcome.agent_turns:
        if contains(turn.heard_text, expected.absent):
            return Verdict(said, False, turn.start_ms, f'the caller heard "{turn.heard_text}"')
    return Verdict(said, True, outcome.length_ms, "nobody did")


def _tool(expected: Expectation, outcome: Outcome) -> Verdict:
    since, until = _window(expected, outcome)
    arguments = msgspec.json.encode(expected.arguments).decode() if expected.arguments else ""
    said = f"the tool {expected.tool_call} is used" + (f" with {arguments}" if arguments else "")
    for tool in outcome.tools:
        given = tool.arguments
        asked = all(name in given and given[name] == value for name, value in expected.arguments.items())
        if tool.name == expected.tool_call and asked and since <= tool.at_ms <= until:
            return Verdict(said, True, tool.at_ms, _tool_text(tool))
    used = _list(map(_tool_text, outcome.tools), quoted=False)
    return Verdict(said, False, min(until, outcome.length_ms), f"used was {used}")


def _tool_text(tool: ToolCall) -> str:
    return f"{tool.name} {msgspec.json.encode(tool.arguments).decode()} at {tool.at_ms / 1000:.2f} s"


def _yields(expected: Expectation, outcome: Outcome, measures: Measures) -> Verdict:
    limit = expected.agent_yields_within_ms
    said = f"the agent yields within {limit:g} ms"
    if measures.yield_ms.max is None:
        return Verdict(said, False, outcome.length_ms, "nobody interrupted it")
    met = limit is not None and measures.yield_ms.max <= limit
    often = "1 interruption" if measures.barge_ins == 1 else f"{measures.barge_ins} interruptions, the longest"
    found = f"{often} {measures.yield_ms.max:g} ms"
    return Verdict(said, met, _moment("yield_ms.max", outcome), found)


def _truncated(expected: Expectation, outcome: Outcome) -> Verdict:
    assert expected.truncated_at is not None
    near, tolerance = expected.truncated_at.near_ms, expected.truncated_at.tolerance_ms
    said = f"an item is truncated at {near:g} ms, give or take {tolerance:g}"
    if not outcome.truncations:
        return Verdict(said, False, outcome.length_ms, "none was")
    nearest = min(outcome.truncations, key=lambda t: abs(t.told_ms - near))
    found = f"told {nearest.told_ms:.0f} ms, heard {nearest.truth_ms:.0f} ms"
    return Verdict(said, abs(nearest.told_ms - near) <= tolerance, nearest.at_ms, found)


def _measured(expected: Expectation, outcome: Outcome, measures: Measures) -> Verdict:
    assert expected.measure is not None
    limits = [f"at most {expected.at_most:g}"] if expected.at_most is not None else []
    limits += [f"at least {expected.at_least:g}"] if expected.at_least is not None else []
    said = f"{expected.measure} is {' and '.join(limits)}"
    value = measures.value(expected.measure)
    if expected.measure == "words_lost_at_start" and value is None:
        return Verdict(said, False, outcome.length_ms, _NOT_WRITTEN_DOWN)
    if value is None:
        return Verdict(said, False, outcome.length_ms, "there is nothing to measure")
    too_much = expected.at_most is not None and value > expected.at_most
    too_little = expected.at_least is not None and value < expected.at_least
    at_ms = _moment(expected.measure, outcome, most=expected.at_most if too_much else None)
    return Verdict(said, not (too_much or too_little), at_ms, f"it is {value:g}")


def _moment(name: str, outcome: Outcome, *, most: float | None = None) -> float:
    """Where to look for a figure; the end of the call if nowhere else."""
    found = moment(outcome, name, most=math.inf if most is None else most)
    return outcome.length_ms if found is None else found


def _list(texts: Iterable[str], *, quoted: bool = True) -> str:
    shown = [f'"{text}"' if quoted else text for text in texts if text]
    return "; ".join(shown) or "nothing"
