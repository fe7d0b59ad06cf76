"""Where settings come from, which source wins, and that every mistake is said at once, with place and remedy."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge import settings
from bridge.errors import ConfigError
from bridge.settings import IncomingCall
from bridge.settings.layers import variable_names
from bridge.settings.service import Settings
from bridge.telephony.twilio import CAPABILITIES
from tests.settings.conftest import AGENT, Folder

ROOT = Path(__file__).parents[2]


def test_everything_has_a_default(folder: Folder) -> None:
    found = folder.load()
    assert (found.host, found.port, found.base_url) == ("127.0.0.1", 8080, "http://127.0.0.1:8080")
    assert list(found.agents) == ["front-desk"]
    assert found.profiles["local"].name == "local"
    assert found.config == folder.path


def test_the_order_is_given_then_environment_then_dotenv_then_secrets_then_yaml(folder: Folder, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    dotenv = tmp_path / ".env"
    folder.write("bridge.yaml", "host: yaml\ntwilio: {account_sid: ACyaml, busy_message: yaml}\n")
    assert folder.load().twilio.account_sid == "ACyaml"

    (secrets / "twilio__account_sid").write_text("ACsecret\n")
    (secrets / "..data").write_text("left alone")
    env = {"BRIDGE_SECRETS": str(secrets)}
    assert folder.load(env).twilio.account_sid == "ACsecret"

    dotenv.write_text("BRIDGE_TWILIO__ACCOUNT_SID=ACdotenv\nOTHER_PROGRAM=1\n")
    assert folder.load(env, dotenv=dotenv).twilio.account_sid == "ACdotenv"

    env["BRIDGE_TWILIO__ACCOUNT_SID"] = "ACenv"
    assert folder.load(env, dotenv=dotenv).twilio.account_sid == "ACenv"

    found = folder.load(env, dotenv=dotenv, given={"twilio": {"account_sid": "ACgiven"}})
    assert (found.twilio.account_sid, found.twilio.busy_message, found.host) == ("ACgiven", "yaml", "yaml")


def test_the_secrets_folder_may_be_named_in_dotenv_and_its_files_with_the_prefix(
    folder: Folder, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "BRIDGE_REALTIME__API_KEY").write_text("key")
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"BRIDGE_SECRETS={secrets}\n")
    assert folder.load(dotenv=dotenv).realtime.api_key.get_secret_value() == "key"


def test_a_list_in_the_environment_is_written_with_commas(folder: Folder) -> None:
    found = folder.load({"BRIDGE_TWILIO__AUTH_TOKEN": "new", "BRIDGE_TWILIO__OTHER_SECRETS": "old, shared"})
    assert found.twilio.secrets == ("new", "old", "shared")


def test_an_empty_variable_is_one_that_is_not_set(folder: Folder) -> None:
    assert folder.load({"BRIDGE_PORT": "", "BRIDGE_TWILIO__AUTH_TOKEN": ""}).port == 8080


def test_variables_are_known_in_either_case_and_others_are_left_alone(folder: Folder) -> None:
    assert folder.load({"bridge_port": "9000", "PORT": "1", "BRIDGES": "2"}).port == 9000


def test_all_mistakes_are_said_at_once_each_with_its_place_and_remedy(folder: Folder) -> None:
    folder.write("bridge.yaml", "host: 1.2.3.4\nprot: 80\nlimits: {max_calls: none, body_byte: 3}\n")
    folder.write("numbers.yaml", '"+1555*": pizza\n"a b": front-desk\n')
    folder.write("agents/pizza-order.yaml", "instructions: x\nbarge_in: sometimes\ngreting: hi\nlead_ms: 5\n")
    folder.write("agents/Bad Name.yaml", AGENT)
    folder.write("profiles.yaml", "openai: {uri: x}\n")
    said = folder.mistakes({"BRIDGE_PROT": "1", "BRIDGE_PORT": "eighty", "BRIDGE_TWILIO__AUTH_TOKN": "x"})
    expected = [
        ("the environment: BRIDGE_PROT:", "did you mean BRIDGE_PORT?"),
        ("the environment: BRIDGE_TWILIO__AUTH_TOKN:", "did you mean BRIDGE_TWILIO__AUTH_TOKEN?"),
        ("the environment, BRIDGE_PORT: port = 'eighty':", "The port to listen on"),
        ("bridge.yaml: prot:", "did you mean port?"),
        ("bridge.yaml: limits.max_calls = 'none':", "Calls at the same time"),
        ("bridge.yaml: limits.body_byte:", "did you mean body_bytes?"),
        ("numbers.yaml: +1555*: there is no agent 'pizza'", "did you mean pizza-order?"),
        ("numbers.yaml: 'a b':", "Write digits"),
        ("agents/pizza-order.yaml: barge_in", "May the caller interrupt"),
        ("agents/pizza-order.yaml: greting:", "did you mean greeting?"),
        ("agents/pizza-order.yaml: lead_ms = 5:", "How far ahead"),
        ("agents/Bad Name.yaml: the name", "Rename"),
        ("profiles.yaml: openai.uri:", "did you mean url?"),
    ]
    for place, remedy in expected:
        assert any(line.startswith(place) and remedy in line for line in said), (place, said)
    unexpected = [line for line in said if not any(line.startswith(place) for place, _ in expected)]
    assert not unexpected


def test_how_values_fit_together_is_judged_in_the_same_reading(folder: Folder) -> None:
    folder.write("bridge.yaml", "services: {backup: {profile: lokal}}\n")
    folder.write("agents/front-desk.yaml", AGENT + "clips: {hold: nowhere.wav}\nlead_ms: 5\n")
    folder.write("agents/other.yaml", AGENT + "model: {failover: [bakup]}\n")
    said = folder.mistakes({"BRIDGE_PORT": "x", "BRIDGE_FOO": "1", "BRIDGE_DEFAULT_AGENT": "oter"})
    for place, remedy in [
        ("the environment, BRIDGE_PORT: port = 'x'", "The port"),
        ("the environment: BRIDGE_FOO: there is no such setting", "delete it"),
        ("default_agent = 'oter'", "did you mean other?"),
        ("services.backup.profile = 'lokal'", "did you mean local?"),
        ("agents/other.yaml: model: there is no service 'bakup'", "did you mean backup?"),
        ("agents/front-desk.yaml: lead_ms = 5", "How far ahead"),
        ("agents/front-desk.yaml: clips.hold = 'nowhere.wav': No such file", "Give a WAV file"),
    ]:
        assert any(line.startswith(place) and remedy in line for line in said), (place, said)
    assert len(said) == 7, said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\n\nBRIDGE_TWILIO__AUTH_TOKEN: s3cr3t\n", 3),
        ('# keys\nBRIDGE_REALTIME__API_KEY = "sk-s3cr3t\nBRIDGE_PORT=1\n', 2),
        ("BRIDGE_REALTIME__API_KEY\n", 1),
        ("what is s3cr3t\n", 1),
    ],
)
def test_a_line_of_dotenv_that_is_not_read_is_named_and_not_shown(
    folder: Folder, tmp_path: Path, text: str, line: int
) -> None:
    (tmp_path / ".env").write_text(text)
    (said,) = folder.mistakes(dotenv=tmp_path / ".env")
    assert said == f"{tmp_path}/.env, line {line}: not read. Write NAME=value, and close quotes"


def test_lines_of_dotenv_that_are_read_are_no_mistakes(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\n# BRIDGE_PORT\nexport BRIDGE_PORT='81' # so\nOTHERS\nEMPTY=\nX='a\nb'\n")
    assert folder.load(dotenv=tmp_path / ".env").port == 81


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("agents/sales.yml", "Call it sales.yaml"),
        ("bridge.yml", "Call it bridge.yaml"),
        ("brigde.yaml", "did you mean bridge.yaml?"),
        ("brigde.yml", "did you mean bridge.yaml?"),
        ("number.yaml", "did you mean numbers.yaml?"),
    ],
)
def test_a_file_that_is_not_read_because_of_its_name_is_named(folder: Folder, name: str, remedy: str) -> None:
    folder.write(name, AGENT)
    (said,) = folder.mistakes()
    assert said.startswith(f"{name}: is not read") and remedy in said


def test_files_of_somebody_elses_are_left_alone(folder: Folder) -> None:
    folder.write("bridge.yaml", "port: 81\n")
    names = (
        "README.md",
        "compose.yaml",
        "docker-compose.yml",
        "bridge.example.yaml",
        "bridge-old.yml",
        "agents/notes.txt",
    )
    for name in names:
        folder.write(name, "x: [")
    assert folder.load().port == 81


@pytest.mark.parametrize(
    "name", ["BRIDGE_REALTIME__API_KEY", "BRIDGE_TWILIO__AUTH_TOKEN", "BRIDGE_SERVICES__B__API_KEY"]
)
@pytest.mark.parametrize("key", ["sk-s3cr3t\nmore", "sk-s3cr3tü", " sk-s3cr3t"])
def test_a_key_no_header_can_carry_is_refused_and_not_shown(folder: Folder, name: str, key: str) -> None:
    (said,) = folder.mistakes({name: key, "BRIDGE_SERVICES__B__PROFILE": "local"})
    assert name in said and "see what came with it" in said and "s3cr3t" not in said


def test_a_mistake_in_a_group_makes_no_other_of_its_rest(folder: Folder) -> None:
    (said,) = folder.mistakes({"BRIDGE_TWILIO__API_KEY_SID": "5", "BRIDGE_TWILIO__API_KEY_SECRET": "x"})
    assert "BRIDGE_TWILIO__API_KEY_SID: twilio.api_key_sid = '5'" in said


@pytest.mark.parametrize("number", ["15551234567", "+1 555 123 4567", "+", "+0155512345", "the front desk"])
def test_a_number_no_carrier_would_show_is_refused(folder: Folder, number: str) -> None:
    (said,) = folder.mistakes({"BRIDGE_TWILIO__TRANSFER_CALLER_ID": number})
    assert "twilio.transfer_caller_id" in said and "+15551234567" in said
    for right in ("", "+15551234567", "client:front.desk", "front-desk"):
        assert folder.load({"BRIDGE_TWILIO__TRANSFER_CALLER_ID": right}).twilio.transfer_caller_id == right


def test_no_interface_is_a_mistake_and_not_all_of_them(folder: Folder) -> None:
    (said,) = folder.mistakes(given={"host": ""})
    assert "host = ''" in said and "0.0.0.0 for all of them" in said


@pytest.mark.parametrize("half", ["SID", "SECRET"])
def test_half_an_api_key_of_the_carriers_is_refused(folder: Folder, half: str) -> None:
    (said,) = folder.mistakes({f"BRIDGE_TWILIO__API_KEY_{half}": "SK1"})
    assert said.startswith("the environment, BRIDGE_TWILIO") and "api_key_sid and api_key_secret go together" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_the_model_on_this_machine_has_a_port_of_its_own(folder: Folder, host: str) -> None:
    folder.write("bridge.yaml", f"host: {host}\nport: 18432\nlocal_model: {{port: 18432}}\n")
    (said,) = folder.mistakes()
    assert said == (
        "local_model.port = 18432: the service itself listens there."
        " Choose another BRIDGE_LOCAL_MODEL__PORT, or 0 for any free one"
    )


@pytest.mark.parametrize(
    "yaml",
    [
        "port: 0\nlocal_model: {port: 0}\n",
        "host: 192.0.2.1\nport: 18432\nlocal_model: {port: 18432}\n",
        "port: 18432\nlocal_model: {port: 18432}\nrealtime: {api_key: sk-0123}\n",
    ],
)
def test_the_same_port_is_no_mistake_where_not_both_listen_on_it(folder: Folder, yaml: str) -> None:
    folder.write("bridge.yaml", yaml)
    loaded = folder.load()
    assert loaded.port == loaded.local_model.port, "taken as it stands there"


@pytest.mark.parametrize(
    ("yaml", "env", "said"),
    [
        ("services: {backup: 5}\n", {}, "services.backup"),
        ("services: {backup: {profile: []}}\n", {}, "services.backup.profile"),
        ("services: [\n", {}, "not YAML"),
        ("services: {backup: {profile: local}}\ndefault_agent: []\n", {}, "default_agent"),
        ("", {"BRIDGE_SERVICES": "x"}, "must be JSON"),
    ],
)
def test_nothing_is_missed_because_a_mistake_kept_it_from_being_read(
    folder: Folder, yaml: str, env: dict[str, str], said: str
) -> None:
    folder.write("bridge.yaml", yaml)
    folder.write("agents/front-desk.yaml", AGENT + "model: {failover: [backup]}\n")
    (only,) = folder.mistakes(env)
    assert said in only


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("barge_in: {after_ms: -4}", ["barge_in.after_ms = -4"]),
        ("barge_in: {after: 4}", ["barge_in.after_ms: missing", "barge_in.after: there is no such setting"]),
        ("barge_in: sometimes", ["barge_in = 'sometimes'"]),
        ("fallback: {message: 5}", ["fallback.message = 5"]),
        ("fallback: {}", ["fallback.transfer: missing"]),
        ("tools: [{name: f, description: d}]", ["tools[1].python: missing"]),
        (
            "tools: [{name: hang_up, description: d, python: 'a:b'}]",
            ["tools[1]: hang_up is the name of a tool that is"],
        ),
        (
            "tools: [{name: f, description: d, python: 'a:b', parameters: {type: objekt}}]",
            ["tools[1]: `parameters` must"],
        ),
        ("tools: [5]", ["tools[1] = 5: input should be a valid string"]),
        ("tools: [hang_up, 5]", ["tools[2] = 5: input should be a valid string"]),
        ("transfer_targets: {1: '+15550100'}", ["transfer_targets.1"]),
        ("tools: [fly, transfer]", ["the file: tool 'fly' is not built in"]),
    ],
)
def test_of_what_may_be_written_in_several_ways_the_nearest_is_judged(
    folder: Folder, text: str, said: list[str]
) -> None:
    folder.write("agents/front-desk.yaml", AGENT + text)
    found = folder.mistakes()
    assert [line.startswith(f"agents/front-desk.yaml: {start}") for line, start in zip(found, said, strict=True)] == [
        True
    ] * len(said), found


def test_a_value_from_the_secrets_folder_or_dotenv_is_named_with_its_place(folder: Folder, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "twilio__accountsid").write_text("AC1")
    dotenv = tmp_path / ".env"
    dotenv.write_text("BRIDGE_PORT=-1\nBRIDGE_HOTS=x\n")
    said = folder.mistakes({"BRIDGE_SECRETS": str(secrets)}, dotenv=dotenv)
    assert any(f"{dotenv}, BRIDGE_PORT: port = '-1'" in line for line in said)
    assert any(f"{dotenv}: BRIDGE_HOTS" in line and "BRIDGE_HOST" in line for line in said)
    assert any("the secrets folder: twilio__accountsid" in line and "twilio__account_sid" in line for line in said)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BRIDGE_CONFIG = .*no such folder"):
        settings.load({"BRIDGE_CONFIG": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"BRIDGE_SECRETS = .*no such folder"):
        settings.load({"BRIDGE_SECRETS": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host: [", "not YAML"),
        ("- a\n- b\n", "found a list"),
        ("port: 1\nport: 2\n", "line 2: port is written twice"),
        ("twilio:\n  account_sid: AC1\n  account_sid: AC2\n", "line 3: account_sid is written twice"),
        ("twilio: {[account_sid]: AC1}\n", "not YAML: found unhashable key"),
        ("config: elsewhere\n", "only the environment"),
        ("host: 2026-99-99\n", "it holds a date or a number that is none"),
        ("port: !!int ''\n", "it holds a date or a number that is none"),
        ("allow_plain: !!bool maybe\n", "it holds a date or a number that is none"),
        ("host: !!timestamp x\n", "it holds a date or a number that is none"),
        ("host: !!python/object/apply:os.system [id]\n", "not YAML"),
        ("twilio: &x\n  account_sid: *x\n", "line 1: not YAML: an anchor holds itself"),
        ("twilio: " + "[" * 2000 + "]" * 2000, "it is nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_table_of_settings_is_named(folder: Folder, text: str, complaint: str) -> None:
    folder.write("bridge.yaml", text)
    (said,) = folder.mistakes()
    assert said.startswith("bridge.yaml") and complaint in said


def test_bytes_that_are_no_text_are_named(folder: Folder) -> None:
    (folder.path / "bridge.yaml").write_bytes(b"\xff\xfe")
    assert any("cannot be read as UTF-8" in line for line in folder.mistakes())


def test_a_file_that_cannot_be_read_is_named_once(folder: Folder) -> None:
    folder.write("numbers.yaml", '"+1555*": front-desk\n')
    (folder.path / "agents/front-desk.yaml").write_bytes(b"\xff")
    (folder.path / "agents/a-folder.yaml").mkdir()
    (folder.path / "agents/a-link.yaml").symlink_to("nowhere")
    (folder.path / "bridge.yaml").mkdir()
    (folder.path / "profiles.yaml").mkdir()
    assert sorted(folder.mistakes()) == [
        "agents/a-folder.yaml: cannot be read: Is a directory. Make it a file this user may read",
        "agents/a-link.yaml: cannot be read: No such file or directory. Make it a file this user may read",
        "agents/front-desk.yaml: cannot be read as UTF-8 text from byte 1 on. Save it as UTF-8",
        "bridge.yaml: cannot be read: Is a directory. Make it a file this user may read",
        "profiles.yaml: cannot be read: Is a directory. Make it a file this user may read",
    ]


def test_agents_that_cannot_be_listed_are_not_told_as_missing(folder: Folder) -> None:
    folder.write("numbers.yaml", '"+1555*": front-desk\n')
    (folder.path / "agents").rename(folder.path / "elsewhere")
    folder.write("agents", "")
    assert folder.mistakes() == ("agents: cannot be read: Not a directory. Make it a folder this user may read",)


def test_a_dotenv_that_is_no_text_is_named_and_one_that_is_a_folder_is_somebody_elses(
    folder: Folder, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(b"BRIDGE_PORT=\xff\n")
    (said,) = folder.mistakes(dotenv=tmp_path / ".env")
    assert said.endswith(".env: cannot be read as UTF-8 text from byte 13 on. Save it as UTF-8")
    (tmp_path / "folder" / ".env").mkdir(parents=True)
    assert folder.load(dotenv=tmp_path / "folder" / ".env").port == 8080


def test_a_secret_that_cannot_be_read_is_named_and_not_shown(folder: Folder, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "a-folder").mkdir(parents=True)
    (secrets / "twilio__auth_token").write_bytes(b"hunter2\xff")
    (secrets / "realtime__api_key").symlink_to("nowhere")
    said = folder.mistakes({"BRIDGE_SECRETS": str(secrets)})
    assert [line.removeprefix(f"{secrets}/") for line in said] == [
        "realtime__api_key: cannot be read: No such file or directory. Make it a file this user may read",
        "twilio__auth_token: cannot be read as UTF-8 text from byte 8 on. Save it as UTF-8",
    ]
    (said_of_file,) = folder.mistakes({"BRIDGE_SECRETS": str(secrets / "twilio__auth_token")})
    assert "cannot be read: Not a directory. Name a folder this user may read" in said_of_file


def test_a_folder_that_lets_nobody_in_is_one_mistake(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    locked = (str(folder.path), str(tmp_path / "secrets"))

    def guarded(of: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if str(path).startswith(locked) and str(path) != locked[0]:
                raise PermissionError(13, "Permission denied", str(path))
            return of(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "stat", guarded(os.stat))
    monkeypatch.setattr(os, "listdir", guarded(os.listdir))
    monkeypatch.setattr(os, "scandir", guarded(os.scandir))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        settings.load({"BRIDGE_SECRETS": locked[1]}, config=folder.path)
    assert caught.value.mistakes == (
        f"{locked[0]}: cannot be read: Permission denied. Let this user read it, or name another with BRIDGE_CONFIG",
        f"BRIDGE_SECRETS = {locked[1]!r}: cannot be read: Permission denied. Name a folder this user may read, or unset"
        " the variable",
    )


@pytest.mark.parametrize("name", ["BRIDGE_REALTIME__API_KEY", "bridge_realtime__api_key", "SOMEBODYS_KEY"])
def test_a_variable_is_found_where_the_settings_are_the_nearest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.variable(name) == ""
    (tmp_path / "config").mkdir()
    if name.upper().startswith("BRIDGE_"):
        (tmp_path / "config" / "bridge.yaml").write_text("realtime: {api_key: in-yaml}\n")
        assert settings.variable(name) == "in-yaml"
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / name.lower()).write_text("in-secrets\n")
    (tmp_path / ".env").write_text("BRIDGE_SECRETS=secrets\n")
    assert settings.variable(name) == "in-secrets"
    (tmp_path / ".env").write_text(f"BRIDGE_SECRETS=secrets\n{name.upper()}=in-dotenv\n")
    assert settings.variable(name) == "in-dotenv"
    monkeypatch.setenv(name, "in-environment")
    assert settings.variable(name) == "in-environment"
    (tmp_path / ".env").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        settings.variable(name)


def test_a_folder_without_agents_and_a_default_agent_that_is_none_are_named(folder: Folder) -> None:
    assert any("there is no such agent" in line for line in folder.mistakes({"BRIDGE_DEFAULT_AGENT": "front-dsk"}))
    (folder.path / "agents/front-desk.yaml").unlink()
    assert any("there is no agent" in line for line in folder.mistakes())


def test_a_group_of_settings_in_one_variable_is_unknown(folder: Folder) -> None:
    assert any("BRIDGE_LIMITS:" in line for line in folder.mistakes({"BRIDGE_LIMITS": "x"}))


def test_a_table_in_one_variable_must_be_json(folder: Folder) -> None:
    assert any("must be JSON" in line for line in folder.mistakes({"BRIDGE_SERVICES": "x"}))
    found = folder.load({"BRIDGE_SERVICES": '{"backup": {"profile": "local"}}'})
    assert found.services["backup"].profile == "local"


@pytest.mark.parametrize(
    "url",
    [
        "bridge.example.com",
        "ftp://a",
        "https://",
        "https://a/?b=c",
        "https://a/#b",
        "https://user:pass@a",
        "https://a/twilio",
        "https://a/twilio/voice",
        "https://a/twilio/stream-status",
        "https://a:99999",
        "https://a b",
        "https://[a",
        "https://a/phone/twilio/status/",
    ],
)
def test_a_public_url_is_an_address_and_nothing_more(folder: Folder, url: str) -> None:
    (said,) = folder.mistakes({"BRIDGE_PUBLIC_URL": url})
    assert "BRIDGE_PUBLIC_URL: public_url" in said and "pass@" not in said


def test_a_services_address_that_cannot_be_read_is_named(folder: Folder) -> None:
    for url in ("wss://a.test:99999/x", "wss://[a/x"):
        said = folder.mistakes({"BRIDGE_REALTIME__URL": url, "BRIDGE_REALTIME__API_KEY": "k"})
        assert [line.partition(":")[0] for line in said] == ["realtime.url"]
        assert f"{url!r} is not an address" in said[0] and "Set BRIDGE_REALTIME__URL" in said[0]


def test_a_date_that_is_none_in_the_profiles_is_a_mistake(folder: Folder) -> None:
    folder.write("profiles.yaml", "x: 2026-02-30\n")
    (said,) = folder.mistakes()
    assert said.startswith("profiles.yaml: not YAML: it holds a date")


def test_a_key_written_twice_in_the_profiles_is_a_mistake(folder: Folder) -> None:
    folder.write("profiles.yaml", "mine: {like: openai}\nmine: {like: xai}\n")
    assert folder.mistakes() == ("profiles.yaml, line 2: mine is written twice. Keep one",)


def test_the_name_of_the_first_service_is_taken(folder: Folder) -> None:
    (said,) = folder.mistakes({"BRIDGE_SERVICES__DEFAULT__PROFILE": "openai"})
    assert "`default` is the service under `realtime`" in said


def test_a_public_url_loses_its_last_slash(folder: Folder) -> None:
    assert folder.load({"BRIDGE_PUBLIC_URL": "HTTPS://a.example"}).base_url == "https://a.example"
    assert folder.load({"BRIDGE_PUBLIC_URL": "https://a.example/phone/"}).base_url == "https://a.example/phone"


SECRET = "s3cr3t-canary-value"


@pytest.mark.parametrize(
    "env",
    [
        {"BRIDGE_TWILIO__AUTH_TOKEN": SECRET, "BRIDGE_PORT": "x"},
        {"BRIDGE_TWILIO__AUTH_TOKN": SECRET},
        {"BRIDGE_REALTIME__API_KEY": SECRET, "BRIDGE_REALTIME__PROFILE": "nonsense"},
        {"BRIDGE_SERVICES__B__API_KEY": SECRET, "BRIDGE_SERVICES__B__API_KEYS": SECRET},
        {"BRIDGE_SERVICES": f'{{"b": {{"api_key": ["{SECRET}"]}}}}'},
        {"BRIDGE_SERVICES": f'"{SECRET}'},
        {"BRIDGE_TWILIO__API_KEY_SID": f"sk-{SECRET}-0123456789"},
    ],
)
def test_no_mistake_shows_a_secret(folder: Folder, env: dict[str, str]) -> None:
    assert SECRET not in "\n".join(folder.mistakes(env))


def test_a_secret_mistyped_in_yaml_is_not_shown(folder: Folder) -> None:
    folder.write("bridge.yaml", f"twilio: {{auth_tokn: {SECRET}, auth_token: [{SECRET}]}}\n")
    assert SECRET not in "\n".join(folder.mistakes())


def test_a_secret_that_yaml_takes_for_a_number_is_not_shown(folder: Folder) -> None:
    folder.write("bridge.yaml", "twilio: {auth_token: 73580917}\n")
    (said,) = folder.mistakes()
    assert said.startswith("bridge.yaml: twilio.auth_token:") and "73580917" not in said


def test_settings_never_show_their_secrets(folder: Folder) -> None:
    env = {
        "BRIDGE_TWILIO__AUTH_TOKEN": SECRET,
        "BRIDGE_REALTIME__API_KEY": SECRET,
        "BRIDGE_TWILIO__OTHER_SECRETS": SECRET,
    }
    found = folder.load(env)
    assert found.all_secrets() == (SECRET,)
    for shown in (
        repr(found),
        str(found),
        found.model_dump_json(),
        repr(settings.Directory(found).targets("front-desk")),
    ):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "line",
    [
        "# sk-proj-abcdefghijklmnopqrstuvwx",
        "instructions: use key sk-abcdefghijklmnopqrstuvwx",
        "instructions: the token is 0123456789abcdef0123456789abcdef",
        "instructions: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl",
        "instructions: AKIAIOSFODNN7EXAMPLE",
        "instructions: Bearer abcdefghijklmnopqrstuvwxyz",
        "# -----BEGIN RSA PRIVATE KEY-----",
        "  api_key: hunter2",
        "password: hunter2",
        f"instructions: say {SECRET}",
    ],
)
def test_a_key_planted_in_an_agents_file_is_refused_without_showing_it(folder: Folder, line: str) -> None:
    folder.write("agents/leaky.yaml", AGENT + line + "\n")
    said = folder.mistakes({"BRIDGE_TWILIO__AUTH_TOKEN": SECRET})
    assert any(text.startswith("agents/leaky.yaml, line 2: looks like a key") for text in said)
    assert line.split()[-1] not in "\n".join(said)


def test_a_planted_key_is_found_even_when_other_settings_do_not_hold(folder: Folder) -> None:
    folder.write("agents/leaky.yaml", AGENT + f"greeting: {SECRET}\n")
    said = folder.mistakes({"BRIDGE_TWILIO__AUTH_TOKEN": SECRET, "BRIDGE_PORT": "x"})
    assert any("looks like a key" in line for line in said) and any("BRIDGE_PORT" in line for line in said)


def test_every_variable_can_be_set_and_is_known(folder: Folder) -> None:
    names = dict(variable_names(Settings))
    assert {"BRIDGE_HOST", "BRIDGE_PORT", "BRIDGE_PUBLIC_URL", "BRIDGE_CONFIG", "BRIDGE_TWILIO__ACCOUNT_SID"} <= set(
        names
    )
    assert {"BRIDGE_TWILIO__AUTH_TOKEN", "BRIDGE_REALTIME__PROFILE", "BRIDGE_REALTIME__URL"} <= set(names)
    assert names["BRIDGE_SERVICES"] and not names["BRIDGE_PORT"]
    assert folder.load({"BRIDGE_SERVICES__B2__PROFILE": "local"}).services["b2"].profile == "local"


def test_the_packaged_sample_is_used_where_there_is_no_config_folder(tmp_path: Path) -> None:
    program = "from bridge import settings; s = settings.load(); print(sorted(s.agents), s.default_agent)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert said.stdout == "['front-desk', 'pizza-order'] front-desk\n", said.stderr


def test_the_working_directorys_config_and_dotenv_are_used_where_they_are(tmp_path: Path, folder: Folder) -> None:
    (tmp_path / ".env").write_text("BRIDGE_PORT=9999\n")
    program = "from bridge import settings; s = settings.load(); print(sorted(s.agents), s.port, s.config)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert said.stdout == "['front-desk'] 9999 config\n", said.stderr


@pytest.mark.parametrize("number", ["15550123", "1555*", "+1-555-0123", "(555)0123", "+", "", "a b", "+1*5*", "+1555x"])
def test_a_number_nobody_can_be_called_by_is_refused(folder: Folder, number: str) -> None:
    folder.write("numbers.yaml", f"'{number}': front-desk\n")
    (said,) = folder.mistakes()
    assert said == (
        f"numbers.yaml: {number!r}: not a number or a pattern. Write digits with a + in front, and one * at most"
    )


@pytest.mark.parametrize(
    "number", ["+15550123", "+1555*", "+155*551", "+*", "*", "*551", "sip:*@pbx.example", "client:jo"]
)
def test_a_number_or_a_pattern_as_the_carrier_writes_it_is_taken(folder: Folder, number: str) -> None:
    folder.write("numbers.yaml", f"'{number}': front-desk\n")
    assert dict(folder.load().numbers) == {number: "front-desk"}


def test_the_key_of_every_service_is_a_secret(folder: Folder) -> None:
    secrets = {
        "realtime": {"profile": "openai", "api_key": "key-one"},
        "services": {"spare": {"profile": "openai", "api_key": "key-two"}},
        "twilio": {
            "auth_token": "token-one",
            "other_secrets": ["token-two"],
            "api_key_sid": "SK1",
            "api_key_secret": "key-three",
        },
    }
    found = folder.load(given=secrets)
    assert set(found.all_secrets()) == {"key-one", "key-two", "key-three", "token-one", "token-two"}


def test_a_service_on_this_machine_needs_no_key_of_its_profiles(folder: Folder) -> None:
    here = {"realtime": {"profile": "openai", "url": "ws://127.0.0.1:9/v1/realtime"}}
    assert folder.load(given=here).realtime.url == "ws://127.0.0.1:9/v1/realtime"
    with pytest.raises(ConfigError, match="api_key: missing"):
        folder.load(given={"realtime": {"profile": "openai", "url": "wss://relay.example.test/v1/realtime"}})


def test_the_rate_of_a_session_is_one_its_service_takes_and_gives(folder: Folder) -> None:
    folder.write("profiles.yaml", "narrow: {like: localai, input_rates_hz: [24000, 16000], output_rates_hz: [16000]}\n")
    found = folder.load(given={"realtime": {"profile": "narrow"}})
    plan, _ = settings.Directory(found).plan(IncomingCall(CAPABILITIES, "CA1", "AC1", "+15550100", "+15550101"))
    assert plan.session.model_rate_hz == 16_000


def test_a_planted_key_is_found_even_when_its_own_group_does_not_hold(folder: Folder) -> None:
    folder.write("agents/leaky.yaml", AGENT + f"greeting: {SECRET}\n")
    said = folder.mistakes({"BRIDGE_TWILIO__AUTH_TOKEN": SECRET, "BRIDGE_TWILIO__ACCOUNT_SID": "x"})
    assert any("looks like a key" in line for line in said) and SECRET not in str(said)


def test_the_folders_named_in_the_environment_win_over_dotenvs(folder: Folder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "realtime__api_key").write_text(f"key-{name}")
    (tmp_path / ".env").write_text(f"BRIDGE_SECRETS={tmp_path}/two\n")
    found = folder.load({"BRIDGE_SECRETS": f"{tmp_path}/one"}, dotenv=tmp_path / ".env")
    assert found.realtime.api_key.get_secret_value() == "key-one"


def test_the_accounts_token_travels_unencrypted_on_an_explicit_word_alone(folder: Folder) -> None:
    elsewhere = {"BRIDGE_TWILIO__API_URL": "http://api.example.test", "BRIDGE_TWILIO__AUTH_TOKEN": "x"}
    (said,) = folder.mistakes(elsewhere)
    assert "twilio.api_url = 'http://api.example.test': would send the token" in said and "BRIDGE_ALLOW_PLAIN" in said
    folder.load({**elsewhere, "BRIDGE_ALLOW_PLAIN": "true"})
    folder.load({**elsewhere, "BRIDGE_TWILIO__API_URL": "http://127.0.0.1:9"})
