"""Beta names and shapes, and what a beta client may send; GA events against the typed events of OpenAI's package."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.realtime import RealtimeResponseCreateParams, RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter

from tests.localmodel.stage import TOOLS, Stage, b64, error, every, only, types, wire


def test_a_beta_shaped_session_is_understood_and_turns_the_session_beta() -> None:
    stage = Stage()
    session = {
        "modalities": ["text", "audio"],
        "voice": "verse",
        "input_audio_format": "g711_ulaw",
        "output_audio_format": "g711_alaw",
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
        "input_audio_transcription": {"model": "whisper-1"},
        "temperature": 0.8,
        "max_response_output_tokens": 200,
    }
    updated = only(stage.client("session.update", session=session), "session.updated")["session"]
    assert stage.session.dialect == "beta"
    assert updated["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert updated["audio"]["output"] == {"format": {"type": "audio/pcma"}, "voice": "verse", "speed": 1.0}
    assert updated["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert updated["max_output_tokens"] == 200


def test_a_beta_session_is_told_in_beta_shape() -> None:
    from bridge.localmodel.wire import to_beta

    stage = Stage()
    (told,) = to_beta(stage.seen[0])
    session = told["session"]
    assert "audio" not in session
    assert (session["input_audio_format"], session["modalities"]) == ("pcm16", ["text", "audio"])
    assert session["turn_detection"]["type"] == "server_vad"


@pytest.mark.parametrize(
    ("ga", "beta"),
    [
        ("response.output_audio.delta", "response.audio.delta"),
        ("response.output_audio_transcript.done", "response.audio_transcript.done"),
        ("response.output_text.delta", "response.text.delta"),
        ("conversation.item.added", "conversation.item.created"),
        ("input_audio_buffer.committed", "input_audio_buffer.committed"),
    ],
)
def test_events_have_their_beta_names(ga: str, beta: str) -> None:
    from bridge.localmodel.wire import to_beta

    assert [event["type"] for event in to_beta({"type": ga})] == [beta]


def test_beta_has_no_item_done_and_calls_sound_audio() -> None:
    from bridge.localmodel.wire import to_beta

    stage = Stage()
    stage.client("response.create")
    stage.run()
    told = [beta for event in stage.seen for beta in to_beta(event)]
    assert not every(told, "conversation.item.done")
    (output,) = only(told, "response.done")["response"]["output"]
    assert output["content"][0]["type"] == "audio"


def test_one_response_may_be_asked_for_in_beta_words() -> None:
    stage = Stage()
    stage.client("response.create", response={"modalities": ["text"]})
    assert only(stage.run() or stage.seen, "response.output_text.done")


def test_in_a_beta_session_a_response_has_betas_own_fields() -> None:
    stage = Stage(script={"dialect": "beta"})
    stage.client("response.create", response={"max_response_output_tokens": 10, "temperature": 0.8})
    assert only(stage.run(), "response.done")["response"]["max_output_tokens"] == 10
    assert error(stage.client("response.create", response={"temprature": 1}))["param"] == "response.temprature"


def test_assistant_text_of_either_dialect_is_taken() -> None:
    for kind in ("text", "output_text"):
        item = {"type": "message", "role": "assistant", "content": [{"type": kind, "text": "hello"}]}
        added = Stage().client("conversation.item.create", item=item)[0]
        assert added["item"]["content"] == [{"type": "output_text", "text": "hello"}]


def test_the_beta_shape_is_refused_as_openai_does_since_2026() -> None:
    stage = Stage(script={"refuse_beta": True})
    assert error(stage.client("session.update", session={"voice": "verse"}))["code"] == "beta_api_shape_disabled"
    closing = stage.closes()
    assert closing is not None
    assert closing.code == 4000


# ---------------------------------------------------------------- the typed events of the `openai` package

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


def all_kinds_of_events() -> list[dict[str, Any]]:
    stage = Stage()
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    stage.update(tools=TOOLS, audio={"input": {"transcription": {"model": "whisper-1"}, "turn_detection": detection}})
    stage.client("response.create")
    stage.run(3000)
    item_id = only(stage.seen, "response.output_item.added")["item"]["id"]
    stage.client("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=100)
    stage.append(1000)
    stage.run(8000)
    heard = stage.turn(2000, 3000)[0]["item_id"]
    stage.heard(heard, "where is my order")
    stage.run()
    call_id = only(stage.seen, "response.function_call_arguments.done")["call_id"]
    output = {"type": "function_call_output", "call_id": call_id, "output": '{"status":"ready"}'}
    stage.client("conversation.item.create", item=output)
    stage.client("response.create")
    stage.client("response.cancel")
    stage.client("response.create", response={"output_modalities": ["text"]})
    stage.client("response.create", response={"conversation": "none", "metadata": {"a": "b"}})
    stage.run()
    content = [{"type": "input_audio", "audio": b64(b"\0\0" * 4800)}]
    stage.client("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    stage.client("conversation.item.retrieve", item_id=heard)
    stage.client("conversation.item.delete", item_id=heard)
    stage.client("input_audio_buffer.clear")
    stage.client("nonsense")
    return stage.seen


def test_every_event_we_send_is_one_of_openais_typed_server_events() -> None:
    events = all_kinds_of_events()
    assert len(set(types(events))) >= 29
    for event in events:
        sent = wire(event)
        typed = EVENT.validate_python(sent)
        assert typed.type == sent["type"]
        assert set(unknown_fields(typed)) <= SNAPSHOT, sent["type"]


# In every snapshot the live service sends, and not in the package's types.
SNAPSHOT = {".session.id", ".session.object", ".session.expires_at"}


def unknown_fields(value: Any, path: str = "") -> list[str]:
    """Fields, at any depth, that the reference does not name."""
    if isinstance(value, list):
        return [found for index, entry in enumerate(value) for found in unknown_fields(entry, f"{path}[{index}]")]
    if not isinstance(value, BaseModel):
        return []
    found = [f"{path}.{name}" for name in value.model_extra or {}]
    for name in type(value).model_fields:
        found += unknown_fields(getattr(value, name), f"{path}.{name}")
    return found


def test_typed_events_would_notice_a_missing_field() -> None:
    with pytest.raises(ValueError):
        EVENT.validate_python({"type": "input_audio_buffer.speech_started", "event_id": "e", "item_id": "i"})


def test_every_documented_field_of_a_response_is_taken() -> None:
    fields: dict[str, Any] = {
        "audio": {"output": {"format": {"type": "audio/pcmu"}, "voice": "cedar"}},
        "conversation": "none",
        "input": [],
        "instructions": "x",
        "max_output_tokens": "inf",
        "metadata": {"a": "b"},
        "output_modalities": ["audio"],
        "parallel_tool_calls": True,
        "prompt": None,
        "reasoning": {"effort": "low"},
        "tool_choice": "auto",
        "tools": TOOLS,
    }
    assert RealtimeResponseCreateParams.model_fields.keys() <= fields.keys()
    assert types(Stage().client("response.create", response=fields))[0] == "response.created"
