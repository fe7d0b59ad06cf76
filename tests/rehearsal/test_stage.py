"""A stage is set from a scenario's parts: what is not given stays, and a mistake is told by the part it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from bridge.rehearsal.stage import TOKEN, Stage
from bridge.sim import virtual


async def _entered(stage: Stage) -> Stage:
    async with stage:
        return stage


def staged(**given: Any) -> Stage:
    return virtual.run(_entered(Stage(**given)))


def mistakes(**given: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        staged(**given)
    return list(raised.value.mistakes)


def test_settings_that_are_given_leave_their_neighbours_as_they_are() -> None:
    given = {"twilio": {"busy_message": "Later."}, "realtime": {"model": "x"}, "limits": {"max_calls": 1}}
    settings = staged(given=given, calls=300).settings
    assert settings.twilio.secrets == (TOKEN,)
    assert settings.twilio.busy_message == "Later."
    assert settings.realtime.profile == "local" and settings.realtime.url and settings.realtime.model == "x"
    limits = settings.limits
    assert (limits.max_calls, limits.pre_start, limits.pre_start_per_ip) == (1, 300, 300)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"agent": {"barge_in": "sometimes"}}, "changes.barge_in = 'sometimes': "),
        ({"agent": {"idle": {"promt_after_s": 3}}}, "changes.idle.promt_after_s: there is no such setting; did you"),
        ({"agent": {"tools": [{"nam": "x"}]}}, "changes.tools[1].name: missing"),
        ({"agent": {"model": {"service": "elsewhere"}}}, "changes.model: there is no service 'elsewhere'"),
        ({"agent": {"clips": {"filler": "nowhere.wav"}}}, "changes.clips.filler = "),
        ({"agent": {"local": {"greting": "Hi."}}}, "changes.local.greting: unknown key"),
        ({"agent": {"local": 5}}, "changes.local: expected a mapping"),
        ({"given": {"limit": {"max_calls": 1}}}, "service.limit: there is no such setting; did you mean limits?"),
        ({"given": {"limits": {"max_calls": 0}}}, "service.limits.max_calls = 0: "),
        ({"given": {"limits": 3}}, "service.limits = 3: "),
        ({"given": {"default_agent": "nobody"}}, "service.default_agent = 'nobody': there is no such agent"),
        ({"given": {"realtime": {"profile": "no"}}}, "service.realtime.profile = 'no': there is no such profile"),
        ({"script": {"frist_audio_ms": 3}}, "model: frist_audio_ms: unknown key; did you mean first_audio_ms?"),
        ({"services": {"other": {"speed": 0}}}, "services.other: speed must be above 0"),
    ],
)
def test_a_mistake_is_told_by_the_key_of_the_scenario_it_stands_in(part: Mapping[str, Any], told: str) -> None:
    found = mistakes(**part)
    assert any(mistake.startswith(told) for mistake in found), found


def test_a_mistake_of_the_agents_own_file_is_told_by_that_file(tmp_path: Path) -> None:
    file = tmp_path / "agents" / "shop.yaml"
    file.parent.mkdir()
    file.write_text("instructions: You sell bread.\nbarge_inn: off\nspeed: 9\nlocal: {greting: Hi.}\n", "utf-8")
    with pytest.raises(ConfigError) as raised:
        Stage(config=tmp_path)
    assert raised.value.mistakes[0].startswith(f"{file}: local.greting: unknown key")
    file.write_text("instructions: You sell bread.\nbarge_inn: off\nspeed: 9\n", "utf-8")
    told = mistakes(config=tmp_path, agent={"speed": 8})
    assert [mistake.partition(":")[0] for mistake in told] == ["changes.speed = 8", str(file)]


def test_a_mistake_of_both_together_names_both(tmp_path: Path) -> None:
    file = tmp_path / "agents" / "shop.yaml"
    file.parent.mkdir()
    file.write_text("instructions: You sell bread.\n", "utf-8")
    (told,) = mistakes(config=tmp_path, agent={"tools": ["hang_up", "hang_up"]})
    assert told.startswith(f"{file} with `changes`: the file: tool hang_up is listed twice")
