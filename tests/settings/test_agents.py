"""An agent's file: what may be written, and what is said of what may not."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from bridge import settings
from bridge.localmodel.brain import Brain
from bridge.localmodel.frontdesk import FRONT_DESK
from bridge.settings.agents import AfterMs, AgentFile, Tool


def agent(text: str) -> AgentFile:
    return AgentFile.model_validate({"instructions": "x", **(yaml.safe_load(text) or {})})


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("barge_in: off", "off"),
        ("barge_in: 'off'", "off"),
        ("barge_in: immediate", "immediate"),
        ("barge_in: {after_ms: 300}", AfterMs(after_ms=300)),
        ("barge_in:\n  after_ms: 300", AfterMs(after_ms=300)),
        ('barge_in: "after_ms: 300"', AfterMs(after_ms=300)),
        ("", "immediate"),
    ],
)
def test_barge_in_can_be_written_in_each_of_its_ways(text: str, meaning: object) -> None:
    assert agent(text).barge_in == meaning


@pytest.mark.parametrize("text", ["transcription: off", "noise_reduction: off"])
def test_off_is_a_word_even_where_yaml_takes_it_for_false(text: str) -> None:
    name = text.split(":")[0]
    assert getattr(agent(text), name) == "off"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("instructions: ''", "at least 1 character"),
        ("barge_in: later", "barge_in"),
        ("barge_in: true", "barge_in"),
        ("barge_in: {after_ms: 0}", "after_ms"),
        ("uplink_frame_ms: 30", "20, 40 or 60"),
        ("lead_ms: 50", "lead_ms"),
        ("gain_db: 40", "gain_db"),
        ("max_output_tokens: 4097", "less than or equal to 4096"),
        ("audio: opus", "pcm16"),
        ("duration: {max_s: 20, warn_before_s: 30}", "smaller than max_s"),
        ("tools: [fly]", "not built in"),
        ("tools: [hang_up, hang_up]", "twice"),
        ("tools: [transfer]", "needs `transfer_targets`"),
        ("transfer_targets: {boss: '555 0100'}", "transfer target"),
        ("transfer_targets: {boss: 'sip:a b'}", "transfer target"),
        ("fallback: {transfer: boss}", "not one of `transfer_targets`"),
        ("fallback: {message: later}", "not one of `clips`"),
        ("clips: {filer: a.wav}", "nothing plays 'filer'; did you mean filler?"),
        ("tools: [{name: hang_up, description: d, python: 'a:b'}]", "built in"),
        ("tools: [{name: f, description: d, python: a.b}]", "python"),
        ("tools: [{name: f, description: d, python: 'a:b', parameters: {type: string}}]", "type object"),
        ("tools: [{name: f, description: d, python: 'a:b', filler: hum}]", "not one of `clips`"),
        ("timing: {model_retry_s: [-1]}", "greater than or equal to 0"),
        ("timing: {model_retry_s: [.inf]}", "less than or equal to 60"),
    ],
)
def test_what_an_agent_cannot_be_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        agent(text)


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("properties: {on: {type: boolean}}", "a name that YAML reads as True; write it in quotes"),
        ("properties: {a: {default: {off: 1}}}", "a name that YAML reads as False"),
        ("properties: {a: {anyOf: [{no: 1}]}}", "a name that YAML reads as False"),
        ("properties: {number: string}", r"`parameters`.number must be a schema, such as {type: string}, not 'string'"),
        ("properties: {list: {type: array, items: {enum: word}}}", r"`parameters`.list\[\]: `enum` must be a list"),
        ("properties: [number]", "`properties` must be names with their schemas"),
        ("properties: {a: {}}, required: a", "`required` must be a list of names, not 'a'"),
        ("properties: {a: {type: strng}}", r"`parameters`.a: there is no type 'strng'; did you mean string\?"),
        (
            "properties: {a: {type: [string, null]}}",
            "`parameters`.a: there is no type None; there are 'string', .*'null'",
        ),
        (
            "properties: {name: {}, 1: {}}, required: [name, '1', nam]",
            "names 'nam', which is none .* did you mean name",
        ),
        ("required: [b]", "`parameters`: `required` names 'b', which is none of `properties`"),
        ("properties: {a: {type: string, enum: [yes, no]}}", r"`parameters`.a: `enum` must hold text only, not \[True"),
    ],
)
def test_what_no_tool_can_take_is_said_before_a_call(schema: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        agent(f"tools: [{{name: f, description: d, python: 'a:b', parameters: {{type: object, {schema}}}}}]")


def test_a_tool_takes_every_schema_of_json() -> None:
    schema = (
        "properties: {a: {type: [string, 'null'], enum: [x, null]}, b: {enum: [1, true]}, 'on': {}, "
        "c: {type: string, nullable: true, enum: [x, null]}, d: {x-labels: {1: one}}, "
        "e: {type: object, additionalProperties: {type: string}, required: [f]}, 2: {}}, required: [a, '2']"
    )
    (tool,) = agent(
        f"tools: [{{name: f, description: d, python: 'a:b', parameters: {{type: object, {schema}}}}}]"
    ).tools
    assert isinstance(tool, Tool)
    assert tool.parameters == {"type": "object", **yaml.safe_load(f"{{{schema}}}")}


def sample(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((settings.sample() / "agents" / f"{name}.yaml").read_text("utf-8"))
    return loaded


@pytest.mark.parametrize("name", ["front-desk", "pizza-order"])
def test_the_model_on_this_machine_understands_each_samples_local_section(name: str) -> None:
    brain = Brain.from_dict(sample(name)["local"], source=name)
    assert brain.greeting and len(brain.intents) >= 5


@pytest.mark.parametrize("name", ["front-desk", "pizza-order"])
def test_what_a_samples_local_section_does_the_agent_may_do(name: str) -> None:
    found = AgentFile.model_validate(sample(name))
    for intent in found.local["intents"]:
        act = intent.get("then") or intent.get("tool")
        if act is None:
            continue
        tool = act if isinstance(act, str) else act["name"]
        assert tool in found.tools
        if tool == "transfer":
            assert act["arguments"]["target"] in found.transfer_targets


def test_the_sample_front_desk_says_what_the_packaged_clips_hold() -> None:
    """Its sentences are those of the brain the local model has clips of, so it speaks without any extra installed."""

    def sentences(section: dict[str, Any]) -> list[object]:
        intents = [(each["name"], each["phrases"], each["answer"], each.get("about")) for each in section["intents"]]
        return [section["greeting"], section["fallback"], section["prompts"], section["confirm"], intents]

    assert sentences(sample("front-desk")["local"]) == sentences(FRONT_DESK)
