"""What the documents and the start-up are made from."""

import json

import pytest
import yaml
from pydantic import BaseModel

from bridge import settings
from bridge.settings.agents import AgentFile
from bridge.settings.describing import Described
from bridge.settings.layers import variable_names
from bridge.settings.mistakes import models_in
from bridge.settings.service import Settings
from tests.settings.conftest import Folder


def undescribed(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        if not field.description or not field.description.endswith("."):
            found.append(prefix + name)
        for part in models_in(field.annotation):
            found += undescribed(part, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("model", [Settings, AgentFile])
def test_every_setting_has_a_sentence(model: type[BaseModel]) -> None:
    assert undescribed(model) == []


def test_every_variable_is_described_once() -> None:
    rows = list(settings.describe())
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    variables = {"BRIDGE_" + key.upper().replace(".", "__") for key in keys if "*" not in key}
    assert variables == {name for name, _ in variable_names(Settings)}
    assert {"services.*.profile", "services.*.api_key"} <= set(keys)


def test_rows_show_type_and_default_and_no_secret() -> None:
    rows = {row.key: row for row in settings.describe()}
    assert rows["port"] == Described("port", "number", "8080", "The port to listen on; 0: any free one.")
    assert rows["twilio.auth_token"].type == "secret" and rows["twilio.auth_token"].default == ""
    assert rows["log.level"].type == "debug | info | warning | error"
    agent = {row.key: row for row in settings.describe_agent()}
    assert agent["barge_in"].type == "off | immediate | after_ms: ..." and agent["barge_in"].default == "immediate"
    assert agent["fallback"].type == "hang_up | transfer: ... | message: ..." and agent["temperature"].type == "number"
    assert agent["uplink_frame_ms"].type == "20 | 40 | 60"
    assert agent["timing.model_retry_s"].default == "0.0, 0.5, 1.5"


def test_the_schema_of_an_agents_file_is_json_and_knows_its_fields() -> None:
    schema = json.loads(json.dumps(settings.agent_schema()))
    sample = yaml.safe_load((settings.sample() / "agents/front-desk.yaml").read_text("utf-8"))
    assert set(sample) <= set(schema["properties"])
    assert schema["required"] == ["instructions"] and schema["additionalProperties"] is False


def test_a_safe_configuration_has_nothing_to_say(folder: Folder) -> None:
    env = {"BRIDGE_PUBLIC_URL": "https://bridge.example.com", "BRIDGE_TWILIO__AUTH_TOKEN": "t"}
    assert settings.insecure(folder.load(env)) == []


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "BRIDGE_TWILIO__AUTH_TOKEN is not set"),
        ({"BRIDGE_TWILIO__VALIDATE_SIGNATURES": "false"}, "BRIDGE_TWILIO__VALIDATE_SIGNATURES is false"),
        ({"BRIDGE_PUBLIC_URL": "http://bridge.example.com"}, "BRIDGE_PUBLIC_URL is http://"),
        ({"BRIDGE_ALLOW_PLAIN": "true"}, "BRIDGE_ALLOW_PLAIN"),
        ({"BRIDGE_METRICS_ACCESS": "anyone"}, "BRIDGE_METRICS_ACCESS"),
    ],
)
def test_each_unsafe_setting_is_said(folder: Folder, env: dict[str, str], named: str) -> None:
    said = settings.insecure(folder.load({**({"BRIDGE_TWILIO__AUTH_TOKEN": "t"} if env else {}), **env}))
    assert len(said) == 1 and named in said[0]


def test_a_secret_in_the_yaml_file_is_said_without_showing_it(folder: Folder) -> None:
    folder.write("bridge.yaml", "twilio: {auth_token: canary}\nservices: {b: {profile: local, api_key: canary}}\n")
    said = settings.insecure(folder.load())
    assert len(said) == 2 and "canary" not in "".join(said)
    assert "twilio.auth_token" in said[0] and "services.api_key" in said[1]
