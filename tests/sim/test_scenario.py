from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.audio.wav import write_wav
from bridge.errors import ConfigError
from bridge.sim import scenario as module
from bridge.sim import voices
from bridge.sim.scenario import from_dict, load, load_all


def mistakes(document: Any, source: str = "a.yaml") -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        from_dict(document, source=source)
    return list(wrong.value.mistakes)


def test_the_documented_example_is_a_scenario(tmp_path: Path) -> None:
    assert module.__doc__ is not None
    example = "\n".join(line[4:] for line in module.__doc__.splitlines() if line.startswith("    "))
    write_wav(tmp_path / "cough.wav", 8000, b"\x00\x20" * 800, channels=1)
    file = tmp_path / "interrupt.yaml"
    file.write_text(example)
    found = load(file)
    assert found.name == "interrupted"
    assert found.folder == tmp_path
    assert [step.name for step in found.caller[:3]] == [
        'say "What are your opening hours?"',
        'say "Sorry, where are you?"',
        'say "mm-hm"',
    ]
    assert found.call.from_ == "+15550199"
    assert len(found.expect) == len(yaml.safe_load(example)["expect"])


def test_every_key_is_documented() -> None:
    assert module.__doc__ is not None
    for kind in (module.Scenario, module.CallerStep, module.Fault, module.Expectation, module.Line, module.Numbers):
        for key in kind.__struct_encode_fields__:
            if key != "source":
                assert re.search(rf"\b{key}:", module.__doc__), f"{kind.__name__}.{key}"


@pytest.mark.parametrize("text", ["", "about: Nobody calls.", "caller: []"])
def test_a_scenario_without_a_caller_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "quiet.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"quiet\.yaml: caller: a scenario needs a caller; say what they do"):
        load(tmp_path / "quiet.yaml")


def test_a_key_written_twice_is_told_with_its_line_beside_every_other_mistake(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(
        "caller:\n  - say: hello\n    say: goodbye\nexpect:\n  - heard: hello\nexpect:\n  - heard: goodbye\n"
        "changes: &same {barge_in: never, barge_in: immediate}\nmodel: *same\nabot: x\n"
    )
    with pytest.raises(ConfigError) as wrong:
        load(file)
    assert list(wrong.value.mistakes) == [
        f"{file}, line 3: say is written twice. Keep one",
        f"{file}, line 6: expect is written twice. Keep one",
        f"{file}, line 8: barge_in is written twice. Keep one",
        f"{file}: abot: unknown key; did you mean about?",
    ]


@pytest.mark.parametrize("kind", ["agent_says", "heard", "understood", "absent", "tool_call"])
def test_words_that_are_none_cannot_be_expected(kind: str) -> None:
    for words in ("", " ", "?!", "_'", "\u2019", "\u02bc", "\u02bb\u02bc", "\xa8", "\u0301"):
        assert mistakes({"caller": [SPEAKS], "expect": [{kind: words}]}) == [
            f"a.yaml: expect[1]: {kind} needs a letter or a digit, found {words!r}"
        ]
    assert from_dict({"caller": [SPEAKS], "expect": [{kind: "Grüß' 7"}]})


@pytest.mark.parametrize(
    ("expected", "mistake"),
    [
        ({"heard": "x", "arguments": {"a": 1}}, "arguments belongs to tool_call"),
        ({"heard": "x", "at_most": 0}, "at_most belongs to measure"),
        (
            {"end_reason": "caller_left", "at_least": 0, "of_step": 1},
            "at_least belongs to measure; of_step belongs to within_ms",
        ),
        ({"understood": "x", "within_ms": 100}, "within_ms belongs to agent_says or heard or tool_call"),
        ({"heard": "x", "of_step": 1}, "of_step belongs to within_ms"),
    ],
)
def test_a_key_that_would_mean_nothing_is_refused_by_name(expected: dict[str, Any], mistake: str) -> None:
    assert mistakes({"caller": [SPEAKS], "expect": [expected]}) == [f"a.yaml: expect[1]: {mistake}"]


SPEAKS = {"say": "hello"}
BEYOND = [
    ({"voice": {"words_per_minute": -5}}, "voice: words_per_minute is from 80 to 450, found -5"),
    ({"voice": {"pitch": 100}}, "voice: pitch is from 0 to 99, found 100"),
    ({"voice": {"level_dbfs": 3, "snr_db": 200}}, "voice: level_dbfs is from -90 to 0, found 3; snr_db is from -30 to"),
    ({"caller": [{**SPEAKS, "voice": {"pitch": -1}}]}, "caller[1].voice: pitch is from 0 to 99, found -1"),
    ({"caller": [{**SPEAKS, "at_ms": -1}]}, "caller[1]: at_ms is not negative, found -1"),
    ({"caller": [{"silence": -1}]}, "caller[1]: silence is not negative, found -1"),
    ({"caller": [{"dtmf": "12", "every_ms": -1}]}, "caller[1]: every_ms is not negative, found -1"),
    ({"faults": [{"stall_ms": -1, "at_ms": 1}]}, "faults[1]: stall_ms is not negative, found -1"),
    ({"faults": [{"close_without_stop": 1006, "at_ms": 1}]}, "faults[1]: close_without_stop: 1006 is no code to close"),
    ({"line": {"latency_ms": -1}}, "line: latency_ms is not negative, found -1"),
    ({"line": {"noise_dbfs": 20}}, "line: noise_dbfs is from -90 to 0, found 20"),
    ({"expect": [{"heard": "x", "within_ms": -1}]}, "expect[1]: within_ms is not negative, found -1"),
    ({"expect": [{"truncated_at": {"near_ms": -1}}]}, "expect[1].truncated_at: near_ms is not negative, found -1"),
]


@pytest.mark.parametrize(("part", "mistake"), BEYOND)
def test_a_value_beyond_its_range_is_told_with_its_key_and_the_range(part: dict[str, Any], mistake: str) -> None:
    (found,) = mistakes({"caller": [SPEAKS], **part})
    assert found.startswith(f"a.yaml: {mistake}")


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    "place",
    [
        "caller[1].at_ms",
        "caller[1].voice.level_dbfs",
        "faults[1].stall_ms",
        "line.lost",
        "limit_s",
        "expect[1].at_most",
        "changes.limits.max_call_s",
        "model.answers[2].delay_ms",
        "seed",
    ],
)
def test_a_number_that_is_none_or_has_no_end_is_refused_wherever_it_stands(place: str, number: str) -> None:
    document: dict[str, Any] = {
        "caller": [{"say": "hello", "at_ms": 1, "voice": {"level_dbfs": -20}}],
        "faults": [{"stall_ms": 1, "at_ms": 1}],
        "line": {"lost": 0},
        "expect": [{"measure": "gaps", "at_most": 1}],
        "changes": {"limits": {}},
        "model": {"answers": [{}, {}]},
    }
    here: Any = document
    *way, last = re.findall(r"\w+", place)
    for key in way:
        here = here[int(key) - 1] if key.isdigit() else here[key]
    here[last] = value = yaml.safe_load(number)
    assert mistakes(document) == [f"a.yaml: {place}: {value} is no number to reckon with; write one that is finite"]


@pytest.mark.skipif(not voices.speaks(), reason="the extra `local` is not installed")
def test_a_voice_nobody_has_is_told_before_the_call() -> None:
    found = mistakes(
        {
            "voice": {"name": "klingon"},
            "caller": [
                {**SPEAKS, "voice": {"name": "en-uss"}},
                {**SPEAKS, "voice": {"name": "en-gb+f33"}},
                {**SPEAKS, "voice": {"name": "EN-GB+f3"}},
            ],
        }
    )
    assert found == [
        "a.yaml: voice.name: there is no voice 'klingon'; write a language of espeak-ng, as en-us, en-gb or de",
        "a.yaml: caller[1].voice.name: there is no voice 'en-uss'; did you mean en-us?",
        "a.yaml: caller[2].voice.name: there is no variant 'f33' of the voice 'en-gb'; did you mean f3?",
    ]


def test_all_mistakes_are_listed_with_file_and_key() -> None:
    found = mistakes(
        {
            "abot": 1,
            "seed": "x",
            "limit_s": -1,
            "voice": 7,
            "line": {"lost": 2},
            "caller": [
                {"say": "x", "dtmf": "1"},
                {"say": 3},
                "no",
                {"dtmf": "x"},
                {"say": "x", "at_ms": 1, "after": "clear"},
            ],
            "faults": [{"cut": True}, {"cut": True, "half_open": True, "at_ms": 1}],
            "expect": [{"heard": "x", "absent": "y"}, {"measure": "gaps"}],
        }
    )
    wanted = [
        "abot: unknown key; did you mean about?",
        "seed: ",
        "voice: expected a mapping",
        "line: lost, doubled and swapped",
        "caller[1]: a step does one thing",
        "caller[2].say: ",
        "caller[3]: expected a mapping",
        "caller[4]: 'x' are not keys",
        "caller[5]: only one of at_ms, after and into_agent_ms",
        "faults[1]: a fault needs a moment",
        "faults[2]: a fault is one thing",
        "expect[1]: an expectation is one thing",
        "expect[2]: measure needs at_most or at_least",
    ]
    assert len(found) == len(wanted)
    for start in wanted:
        assert any(mistake.startswith(f"a.yaml: {start}") for mistake in found), start


@pytest.mark.parametrize("name", ["a/b", "../escaped", "..", "a\\b", "a\nb"])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    (found,) = mistakes({"name": name, "caller": [{"silence": 100}]})
    assert found.startswith(
        f"a.yaml: name: files are called by it, and {name!r} is no plain file name; leave out / and"
    )


def test_what_only_the_whole_can_be_wrong_in_is_found_too() -> None:
    found = mistakes(
        {
            "caller": [{"wav": "missing.wav"}, {"hang_up": True}, {"say": "hello"}],
            "expect": [
                {"heard": "x", "within_ms": 100, "of_step": 9},
                {"measure": "anser_ms.p95", "at_most": 1},
                {"end_reason": "bored"},
            ],
        }
    )
    assert len(found) == 5
    assert "a.yaml: caller[1].wav: no file 'missing.wav' beside the scenario" in found
    assert "a.yaml: caller[2].hang_up: nothing can follow it" in found
    assert any("expect[1].of_step: there is no step 9" in mistake for mistake in found)
    assert any("did you mean answer_ms.p95?" in mistake for mistake in found)
    assert any("'bored' is none; there are caller_left" in mistake for mistake in found)


def test_a_wav_file_without_sound_is_named_before_the_call(tmp_path: Path) -> None:
    write_wav(tmp_path / "empty.wav", 8000, b"", channels=1)
    write_wav(tmp_path / "click.wav", 48000, b"\x00\x20", channels=1)
    write_wav(tmp_path / "short.wav", 8000, b"\x00\x20" * 800, channels=1)
    (tmp_path / "short.wav").write_bytes((tmp_path / "short.wav").read_bytes()[:-10])
    (tmp_path / "nothing.wav").write_bytes(b"")
    names = ["empty.wav", "click.wav", "short.wav", "nothing.wav"]
    found = mistakes({"caller": [{"wav": name} for name in names]}, source=str(tmp_path / "a.yaml"))
    remedy = "Give a WAV file that somebody speaks in, or write `silence` for a caller who says nothing"
    said = ["has no sound in it", "has no sound in it", "is cut short: 10 bytes fewer than its header says"]
    assert found == [
        f"{tmp_path}/a.yaml: caller[{number}].wav: {tmp_path}/{name} {wrong}. {remedy}"
        for number, (name, wrong) in enumerate(zip(names, [*said, "is not a WAV file"], strict=True), 1)
    ]


def test_folders_are_read_by_name_and_the_mistakes_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("{about: second, caller: [hang_up: true]}")
    (tmp_path / "a.yaml").write_text("{about: first, caller: [hang_up: true]}")
    (tmp_path / "notes.txt").write_text("not a scenario")
    assert [scenario.about for scenario in load_all([tmp_path])] == ["first", "second"]
    (tmp_path / "a.yaml").write_text("abot: first")
    (tmp_path / "b.yaml").write_text("about: [")
    with pytest.raises(ConfigError) as wrong:
        load_all([tmp_path, tmp_path / "missing.yaml"])
    assert len(wrong.value.mistakes) == 3


def test_who_calls_is_always_the_caller() -> None:
    found = mistakes({"caller": [SPEAKS], "call": {"direction": "outbound"}})
    assert found == ["a.yaml: call.direction: unknown key; there are from, signing, to"]


def test_a_file_cannot_claim_to_be_another() -> None:
    for key in ("source", "sauce", "xyzzy"):
        (found,) = mistakes({key: "b.yaml"})
        assert found.startswith(f"a.yaml: {key}: unknown key; ")
        assert "source" not in found.removeprefix(f"a.yaml: {key}")
