"""Whatever a client sends, a session answers with events and never with an exception."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import msgspec
import pytest

from bridge.localmodel.wire import to_beta
from tests.localmodel.stage import TOOLS, Stage, b64

SEEDS: list[dict[str, Any]] = [
    {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "model": "x",
            "instructions": "x",
            "output_modalities": ["audio"],
            "tools": TOOLS,
            "tool_choice": {"type": "function", "name": "find_order"},
            "max_output_tokens": 100,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": {"model": "x"},
                    "noise_reduction": {"type": "near_field"},
                    "turn_detection": {"type": "server_vad", "threshold": 0.5, "idle_timeout_ms": 5000},
                },
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin", "speed": 1.0},
            },
        },
    },
    {
        "type": "session.update",
        "session": {
            "modalities": ["text", "audio"],
            "voice": "verse",
            "input_audio_format": "pcm16",
            "output_audio_format": "g711_ulaw",
            "turn_detection": {"type": "server_vad"},
            "max_response_output_tokens": 5,
        },
    },
    {"type": "input_audio_buffer.append", "audio": b64(b"\0\0" * 4800)},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {
        "type": "conversation.item.create",
        "previous_item_id": "root",
        "item": {
            "id": "mine",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "when are you open"}, {"type": "input_audio", "audio": "AAAA"}],
        },
    },
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "call_1", "output": "{}"}},
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call", "call_id": "call_1", "name": "find_order", "arguments": "{}"},
    },
    {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": 10},
    {"type": "conversation.item.retrieve", "item_id": "mine"},
    {"type": "conversation.item.delete", "item_id": "mine"},
    {
        "type": "response.create",
        "response": {
            "conversation": "none",
            "input": [{"type": "item_reference", "id": "mine"}],
            "instructions": 'Say "hello there".',
            "metadata": {"a": "b"},
            "output_modalities": ["audio"],
            "audio": {"output": {"format": {"type": "audio/pcma"}, "voice": "cedar"}},
            "tools": TOOLS,
            "tool_choice": "auto",
            "max_output_tokens": "inf",
        },
    },
    {"type": "response.create"},
    {"type": "response.cancel", "response_id": "resp_1"},
]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**20,
    "",
    "x",
    "root",
    [],
    {},
    [None],
    {"type": None},
    {"type": "message"},
    [[]],
]


def mutated(event: Any, chance: random.Random) -> Any:
    """A copy with something odd somewhere in it."""
    if chance.random() < 0.15:
        return chance.choice(ODD)
    if isinstance(event, dict) and event:
        key = chance.choice(list(event))
        if chance.random() < 0.1:
            return {name: value for name, value in event.items() if name != key}
        return {**event, key: mutated(event[key], chance)}
    if isinstance(event, list) and event:
        at = chance.randrange(len(event))
        return [*event[:at], mutated(event[at], chance), *event[at + 1 :]]
    return chance.choice(ODD)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_client_events_never_raise(seed: int) -> None:
    chance = random.Random(seed)
    stage = Stage()
    for step in range(2500):
        event = copy.deepcopy(chance.choice(SEEDS))
        if chance.random() < 0.7:
            event = mutated(event, chance)
        stage.take(stage.session.receive(msgspec.json.decode(json.dumps(event)), stage.now))
        if chance.random() < 0.1:
            stage.take(stage.session.speech_started(stage.now, stage.now))
        if chance.random() < 0.1:
            stage.take(stage.session.speech_stopped(stage.now + 100, stage.now))
        for item_id in [*stage.wanted]:
            stage.heard(item_id, chance.choice(["goodbye", "bananas"]))
            del stage.wanted[item_id]
        stage.run(stage.now + chance.choice([0, 50, 500]))
        for told in stage.seen:
            msgspec.json.encode(told)
            msgspec.json.encode(to_beta(told))
        stage.seen.clear()
        assert stage.session.deadline_ms >= stage.now, f"step {step}: a deadline was missed"
