"""Services as data: the packaged ones, an operator's changes, and how a service is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from bridge.errors import ConfigError, UsageError
from bridge.realtime.profiles import Profile, Target, builtin, is_loopback, load_profiles

NAMES = "openai openai-beta azure azure-preview meshapi yuhuan xai localai speaches speech-to-speech local"
KEY = "sk-very-secret"


def test_the_packaged_profiles_have_the_fixed_names() -> None:
    assert list(builtin()) == NAMES.split()


def test_the_file_in_config_changes_nothing_as_shipped() -> None:
    path = Path(__file__).parents[2] / "config" / "profiles.yaml"
    assert load_profiles(path.read_text("utf-8"), source=str(path)) == builtin()


def test_an_operator_changes_fields_and_adds_services() -> None:
    text = """
openai: {model: gpt-realtime-2.1-mini, errors: {odd_code: fatal}}
house:
  like: meshapi
  url: wss://gateway.example.net/v1/realtime
  max_session_s: null
  query: {tenant: "7"}
"""
    profiles = load_profiles(text, source="p.yaml")
    assert profiles["openai"].model == "gpt-realtime-2.1-mini"
    assert profiles["openai"].errors["odd_code"] == "fatal"
    assert profiles["openai"].errors["session_expired"] == "rotate"
    assert profiles["house"].keepalive_s == 20
    assert profiles["house"].max_session_s is None
    assert profiles["house"].query == {"tenant": "7"}
    assert profiles["meshapi"] == builtin()["meshapi"]


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    text = """
openai: {modell: x, can_cancel: 3, errors: {a: explode}, nme: y, qqq: 1}
house: {like: nobody}
bare: {shape: ga}
other: {like: openai, url: "http://x", auth: header}
7: {}
worse: hello
"""
    with pytest.raises(ConfigError) as caught:
        load_profiles(text, source="p.yaml")
    told = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 11
    for part in ("openai.modell: no such field; did you mean model?", "openai.can_cancel: found 3", "openai.errors"):
        assert f"p.yaml: {part}" in told
    assert "p.yaml: openai.qqq: no such field; there are auth, " in told
    for part in ("house.like", "bare.url", "other.url", "other.auth_name", "p.yaml: 7", "p.yaml: worse"):
        assert part in told


@pytest.mark.parametrize("text", ["{", "- a", "3"])
def test_a_file_that_is_no_table_is_one_mistake(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profiles(text, source="p.yaml")
    assert len(caught.value.mistakes) == 1


def test_an_empty_file_is_no_mistake() -> None:
    assert load_profiles("# nothing\n", source="p.yaml") == builtin()


def test_capabilities_are_the_profiles() -> None:
    able = builtin()["meshapi"].capabilities()
    assert (able.name, able.idle_limit_s, able.max_session_s, able.can_truncate) == ("meshapi", 60, 1800, True)
    assert builtin()["yuhuan"].capabilities().can_cancel is False


def test_no_service_is_reached_by_the_shape_it_does_not_speak() -> None:
    for name, profile in builtin().items():
        assert profile.dialect().profile.name == name


BEARER = ("Authorization", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("name", "url", "expected_url", "headers", "subprotocols"),
    [
        ("openai", "", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1", [BEARER], []),
        (
            "openai-beta",
            "",
            "wss://api.openai.com/v1/realtime?model=gpt-4o-realtime-preview",
            [("OpenAI-Beta", "realtime=v1"), BEARER],
            [],
        ),
        (
            "azure",
            "https://house.openai.azure.com/",
            "wss://house.openai.azure.com/openai/v1/realtime?model=gpt-realtime",
            [("api-key", KEY)],
            [],
        ),
        (
            "azure-preview",
            "https://house.openai.azure.com",
            "wss://house.openai.azure.com/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-4o-realtime-preview",
            [("api-key", KEY)],
            [],
        ),
        (
            "meshapi",
            "",
            f"wss://api.meshapi.ai/v1/realtime?model=openai%2Fgpt-realtime-mini&api_key={KEY}",
            [],
            ["openai-realtime"],
        ),
        ("yuhuan", "", f"wss://api.yuhuanstudio.com/v1/realtime?api_key={KEY}", [], []),
        ("xai", "", "wss://api.x.ai/v1/realtime?model=grok-voice-latest", [BEARER], []),
        ("localai", "", "ws://127.0.0.1:8080/v1/realtime", [BEARER], []),
        (
            "localai",
            "ws://localhost:9?model=gpt-realtime",
            "ws://localhost:9/v1/realtime?model=gpt-realtime",
            [BEARER],
            [],
        ),
        ("speaches", "", "ws://127.0.0.1:8000/v1/realtime", [BEARER], []),
        ("speech-to-speech", "ws://localhost:9/v1/realtime?x=1", "ws://localhost:9/v1/realtime?x=1", [], []),
        ("local", "", "ws://127.0.0.1:8765/v1/realtime?model=local", [BEARER], []),
        ("openai", "wss://h/p?model=mine", "wss://h/p?model=mine", [BEARER], []),
    ],
)
def test_a_request_proves_who_we_are_in_the_services_way(
    name: str, url: str, expected_url: str, headers: list[tuple[str, str]], subprotocols: list[str]
) -> None:
    assert Target(builtin()[name], url, KEY).request() == (expected_url, headers, subprotocols)


@pytest.mark.parametrize("name", NAMES.split())
def test_a_model_of_ones_choice_is_asked_for_in_the_services_way(name: str) -> None:
    profile = builtin()[name]
    url = "wss://house.example.net" if "{" in profile.url else ""
    query = dict(parse_qsl(urlsplit(Target(profile, url, KEY, model="house/mine").request()[0]).query))
    where = {"azure-preview": "deployment", "yuhuan": "", "speech-to-speech": ""}.get(name, "model")
    assert [key for key, value in query.items() if value == "house/mine"] == [where][: bool(where)]


def test_the_beta_shape_says_so_in_a_header() -> None:
    _, headers, _ = Target(builtin()["openai-beta"], "", KEY).request()
    assert ("OpenAI-Beta", "realtime=v1") in headers
    _, headers, _ = Target(builtin()["openai"], "", KEY).request()
    assert not any(name == "OpenAI-Beta" for name, _ in headers)


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({}, ["realtime", f"openai-insecure-api-key.{KEY}"]),
        ({"subprotocols": ("openai-realtime",), "auth_name": "Bearer."}, ["openai-realtime", f"Bearer.{KEY}"]),
        (
            {"subprotocols": ("realtime", "openai-beta.realtime-v1")},
            ["realtime", "openai-beta.realtime-v1", f"openai-insecure-api-key.{KEY}"],
        ),
    ],
)
def test_a_key_may_travel_as_a_subprotocol(fields: dict[str, Any], offered: list[str]) -> None:
    profile = Profile(name="p", url="wss://h/x", auth="subprotocol", **fields)
    url, headers, subprotocols = Target(profile, "", KEY).request()
    assert subprotocols == offered
    assert KEY not in url + str(headers)


def test_without_a_key_nothing_pretends_to_be_one() -> None:
    for name in ("openai", "meshapi"):
        url, headers, subprotocols = Target(builtin()[name]).request()
        assert "api_key" not in url
        assert headers == []
        assert all("key" not in name for name in subprotocols)


def test_a_target_never_shows_its_key() -> None:
    for profile in builtin().values():
        url = "wss://h.example/v1?api_key=" + KEY if "{" in profile.url else ""
        target = Target(profile, url, KEY)
        assert KEY not in f"{target!r} {target} {target.where} {[target]} {target.dialect()!r}"


def test_the_chosen_model_reaches_a_service_that_wants_it_in_the_session() -> None:
    assert Target(builtin()["yuhuan"], model="glm").profile.model == "glm"


@pytest.mark.parametrize(
    "url",
    [
        "ws://api.example.com/v1/realtime",
        "http://api.example.com/v1/realtime",
        "ws://10.0.0.1/",
        "ws://127.0.0.1.example.com/",
        "ftp://h/x",
        "api.example.com",
        "wss://",
        "wss://user:password@h/x",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_it_whole(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(builtin()["openai"], f"{url}?api_key={KEY}", KEY)
    assert KEY not in str(caught.value)
    assert "password" not in str(caught.value) or "name or password" in str(caught.value)
    assert url.partition("//")[0] in str(caught.value)  # as it was given


def test_plain_text_to_another_machine_needs_an_explicit_word() -> None:
    assert Target(builtin()["openai"], "ws://10.0.0.1/v1", allow_plain=True).url == "ws://10.0.0.1/v1"
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]"):
        Target(builtin()["openai"], f"ws://{host}:8000/v1")


def test_an_address_of_yours_is_asked_for_where_only_you_know_it() -> None:
    with pytest.raises(UsageError, match="azure needs an address"):
        Target(builtin()["azure"], "", KEY)


@pytest.mark.parametrize(
    ("host", "loops"), [("localhost", True), ("127.1.2.3", True), ("::1", True), ("10.0.0.1", False)]
)
def test_loopback_is_known_without_asking_anybody(host: str, loops: bool) -> None:
    assert is_loopback(host) is loops


@pytest.mark.parametrize("query", ["call_id=rtc_1", "intent=transcription"])
def test_no_model_is_named_where_the_session_has_its_own(query: str) -> None:
    url, _, _ = Target(builtin()["openai"], f"wss://h/v1/realtime?{query}", KEY).request()
    assert url == f"wss://h/v1/realtime?{query}"
