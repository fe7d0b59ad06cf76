from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

from bridge.sim.judge import judge
from bridge.sim.measures import measure
from bridge.sim.outcome import picture
from bridge.sim.report import CallResult, as_html, as_json, as_junit, line, summary
from bridge.sim.scenario import from_dict
from bridge.sim.timeline import Timeline, difference
from tests.sim.test_judge import CALL, STEPS


def result(**expect: object) -> CallResult:
    scenario = from_dict(
        {"about": "Hours & <address>", "caller": STEPS, "expect": [expect] if expect else []}, source="hours.yaml"
    )
    figures = measure(CALL)
    return CallResult(scenario, CALL, figures, tuple(judge(scenario, CALL, figures)))


GOOD = result(heard="we are open")
BAD = result(heard="parking </script>")
BROKEN = CallResult(from_dict({"caller": STEPS}, source="broken.yaml"), error="UsageError: cannot say it")


def test_a_line_names_the_call_and_its_figures_and_a_summary_counts() -> None:
    assert line(GOOD).startswith("pass  hours ")
    assert "20.0 s" in line(GOOD)
    assert "truncation 20/20 ms" in line(GOOD)
    assert line(BAD).startswith("FAIL")
    assert line(BROKEN) == "FAIL  broken"
    assert BROKEN.failures == ["UsageError: cannot say it"]
    assert summary([GOOD]).startswith("1 call, all passed")
    assert summary([GOOD, BAD, BROKEN]).startswith("3 calls, 2 failed")
    assert BAD.failures[0].startswith("FAILED at 20.00 s")
    assert "#2" in line(replace(GOOD, outcome=replace(CALL, number=2)))


def test_a_changed_timeline_is_a_failure() -> None:
    changed = replace(GOOD, difference="line 3: expected 'a', found 'b'")
    assert not changed.passed
    assert changed.failures == ["timeline: line 3: expected 'a', found 'b'"]


def test_json_holds_everything_but_the_sound() -> None:
    data = json.loads(as_json([GOOD, BAD, BROKEN]))
    assert data["passed"] is False
    assert data["measures"]["truncation_error_ms"]["max"] == 20
    good, bad, broken = data["calls"]
    assert good["expectations"][0]["met"] is True
    assert good["agent"][1]["heard_text"] == "We are open from"
    assert bad["failures"]
    assert broken["failures"] == ["UsageError: cannot say it"]
    assert len(as_json([GOOD])) < 10_000


def test_junit_has_a_case_for_each_call() -> None:
    suites = ET.fromstring(as_junit([GOOD, BAD, BROKEN]))
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    good, bad, broken = suites.iter("testcase")
    assert good.find("failure") is None
    assert good.get("time") == "20.000"
    failure = bad.find("failure")
    assert failure is not None
    assert "parking" in failure.get("message", "")
    assert broken.find("error") is not None


def test_a_control_character_breaks_no_report() -> None:
    words = "a\x07b\x1b[1m\ud800c\ufffe \U0001f600\t."
    turns = (replace(CALL.agent_turns[0], text=words, heard_text=words),)
    bad = replace(result(heard="parking"), error=words, outcome=replace(CALL, agent_turns=turns))
    error = ET.fromstring(as_junit([bad])).find(".//error")
    assert error is not None
    assert error.get("message", "").startswith("a\ufffdb\ufffd[1m\ufffdc\ufffd \U0001f600")
    html = as_html([bad])
    assert html.encode() and "\x07" not in html
    assert bad.outcome is not None
    assert ET.fromstring(picture(bad.outcome)) is not None


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_refers_to_nothing_outside_itself() -> None:
    page = _Page()
    html = as_html([GOOD, BAD, BROKEN])
    page.feed(html)
    page.close()
    assert page.open == []
    assert all(source.startswith(("#", "data:audio/wav;base64,")) for source in page.sources)
    assert sum(source.startswith("data:") for source in page.sources) == 4
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    for shown in (
        "Hours & <address>",
        "Station Road",
        "told 1580 ms, heard 1600 ms",
        "parking </script>",
        "truncation_error_ms",
    ):
        assert shown in page.text


def test_passed_calls_are_folded_where_there_are_many_and_failures_are_open() -> None:
    html = as_html([GOOD, GOOD, GOOD, BAD])
    states = re.findall(r'<details class="call" id="call\d"( open)?>', html)
    assert states == ["", "", "", " open"]


def test_the_first_difference_of_two_timelines_is_named() -> None:
    one, two = Timeline(), Timeline()
    for timeline in (one, two):
        timeline.add(0, "carrier", "connected")
    assert difference(one.text(), two.text()) == ""
    one.add(20.0, "bridge", "mark", name="m 1")
    two.add(20.5, "bridge", "mark", name="m 1")
    found = difference(one.text(), two.text())
    assert found.startswith("line 2: expected '20.00 bridge mark name=\"m 1\"'")
    assert "20.50" in found
    assert "the end" in difference(one.text(), "")
