"""The reference client's own test suite, against the model on this machine instead of a service with a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from openai.types.realtime import RealtimeClientEvent
from pydantic import TypeAdapter

from bridge.errors import RealtimeError
from bridge.localmodel.brain import Brain, Heard
from bridge.localmodel.server import LocalModel
from bridge.realtime import RealtimeClient, connect
from bridge.realtime.client import SERVER_VAD
from bridge.realtime.profiles import builtin
from tests.realtime.test_dialect import unknown_fields

BRAIN = Brain.from_dict(
    {
        "greeting": "Hello.",
        "intents": [
            {"name": "city", "phrases": ["what city is this"], "answer": "This is San Francisco, in California."},
            {
                "name": "order",
                "phrases": ["where is my order"],
                "tool": {"name": "find_order", "arguments": {"number": "A17"}},
                "answer": "Your order is {output[status]}.",
            },
        ],
    },
    source="test",
)

ORDER = """
session.created session.updated conversation.item.added conversation.item.done response.created
response.output_item.added response.content_part.added
response.output_audio_transcript.delta response.output_audio.delta
response.output_audio.done response.output_audio_transcript.done response.content_part.done
""".split()  # in which the kinds of events come first


class Toronto:
    """Understands everything as one sentence."""

    async def recognise(self, pcm16k: bytes, brain: Brain) -> Heard:
        return Heard("city", "what city is this")

    async def close(self) -> None:
        pass


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    async with LocalModel({"local": BRAIN}, api_key="k", recogniser=Toronto(), detection="energy") as running:
        yield running


def address(model: LocalModel) -> str:
    return f"ws://127.0.0.1:{model.port}/v1/realtime"


@pytest.mark.parametrize("profile", ["local", "openai", "openai-beta", "meshapi"])
async def test_a_conversation_by_text_goes_as_the_reference_client_has_it(model: LocalModel, profile: str) -> None:
    client = RealtimeClient(profile=profile, url=address(model), api_key="k")
    log: list[tuple[str, str]] = []
    client.on("realtime.event", lambda entry: log.append((entry["source"], entry["event"]["type"])))
    await client.connect()
    assert client.is_connected
    await client.wait_for_session_created()
    assert log == [("client", "session.update"), ("server", "session.created")]
    await client.send_user_message_content([{"type": "input_text", "text": "What city is this?"}])
    assert log[2:] == [("client", "conversation.item.create"), ("client", "response.create")]
    item = await client.wait_for_next_item(5)
    assert item is not None
    assert (item.type, item.role, item.status, item.formatted.text) == (
        "message",
        "user",
        "completed",
        "What city is this?",
    )
    item = await client.wait_for_next_item(5)
    assert item is not None
    assert (item.type, item.role, item.status, item.formatted.text) == ("message", "assistant", "in_progress", "")
    done = await client.wait_for_next_completed_item(5)
    assert done is item
    assert "san francisco" in done.formatted.transcript.lower()
    assert len(done.formatted.audio) == round(done.formatted.audio_ms * 48) > 48_000
    await client.disconnect()
    assert not client.is_connected


async def test_a_conversation_by_audio_goes_the_same_way(model: LocalModel) -> None:
    client = RealtimeClient(profile="local", url=address(model), api_key="k")
    log: list[tuple[str, str]] = []
    words: list[str] = []
    client.on("realtime.event", lambda entry: log.append((entry["source"], entry["event"]["type"])))
    client.on(
        "conversation.updated", lambda change: words.append(change["delta"].transcript if change["delta"] else "")
    )
    await client.connect()
    await client.wait_for_session_created()
    await client.send_user_message_content([{"type": "input_audio", "audio": b"\1\0" * 24_000}])
    item = await client.wait_for_next_item(5)
    assert item is not None
    assert (item.role, item.status, item.formatted.text) == ("user", "completed", "")
    done = await client.wait_for_next_completed_item(5)
    assert done is not None
    assert (done.role, done.formatted.transcript) == ("assistant", "This is San Francisco, in California.")
    assert "".join(words) == done.formatted.transcript
    assert len(done.formatted.audio) == round(done.formatted.audio_ms * 48) > 48_000
    told = [kind for source, kind in log if source == "client"]
    assert told == ["session.update", "conversation.item.create", "response.create"]
    order = list(dict.fromkeys(kind for source, kind in log if source == "server" and kind != "rate_limits.updated"))
    assert order[: len(ORDER)] == ORDER
    assert [one.role for one in client.conversation.get_items()] == ["user", "assistant"]
    await client.disconnect()


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_without_the_right_key_the_socket_opens_and_an_error_names_it(model: LocalModel, key: str) -> None:
    client = RealtimeClient(profile="local", url=address(model), api_key=key)
    errors: list[RealtimeError] = []
    client.on("error", errors.append)
    await client.connect()
    with pytest.raises(RealtimeError, match="API key"):
        await client.wait_for_session_created()
    assert "API key" in errors[0].message
    await client.disconnect()
    async with connect(profile="local", url=address(model), api_key=key) as connection:
        with pytest.raises(RealtimeError, match="invalid_api_key"):
            await connection.receive()


async def test_a_missing_key_is_refused_within_a_second(model: LocalModel) -> None:
    client = RealtimeClient(profile="local", url=address(model))
    async with asyncio.timeout(1):
        await client.connect()
        with pytest.raises(RealtimeError, match="API key"):
            await client.wait_for_session_created()
    await client.disconnect()


async def test_a_tool_is_called_and_its_answer_spoken(model: LocalModel) -> None:
    client = RealtimeClient(profile="local", url=address(model), api_key="k")
    given: list[Any] = []

    def find_order(arguments: dict[str, Any]) -> dict[str, str]:
        given.append(arguments)
        return {"status": "on its way"}

    definition = {"name": "find_order", "description": "Finds.", "parameters": {"type": "object", "properties": {}}}
    await client.add_tool(definition, find_order)
    await client.connect()
    await client.wait_for_session_created()
    completed: list[Any] = []
    client.on("conversation.item.completed", lambda change: completed.append(change["item"]))
    await client.send_user_message_content([{"type": "input_text", "text": "Where is my order?"}])
    async with asyncio.timeout(10):
        while not completed or "on its way" not in completed[-1].formatted.transcript:
            await client.wait_for_next_completed_item(10)
    assert given == [{"number": "A17"}]
    assert [item.type for item in completed if item.type != "message"] == ["function_call", "function_call_output"]
    await client.disconnect()


async def test_an_interruption_cuts_what_was_said_to_what_was_heard(model: LocalModel) -> None:
    client = RealtimeClient(profile="local", url=address(model), api_key="k")
    errors: list[RealtimeError] = []
    client.on("error", errors.append)
    await client.connect()
    await client.wait_for_session_created()
    await client.send_user_message_content([{"type": "input_text", "text": "What city is this?"}])
    await client.wait_for_next_item(5)
    item = await client.wait_for_next_item(5)
    assert item is not None
    async with asyncio.timeout(5):
        while item.formatted.audio_ms < 200:
            await client.wait_for_next("conversation.updated", 5)
    truncated = asyncio.create_task(client.realtime.wait_for_next("server.conversation.item.truncated", 5))
    await asyncio.sleep(0)
    await client.cancel_response(item.id, sample_count=2400)
    assert (await truncated)["audio_end_ms"] == 100
    assert item.formatted.transcript == ""
    assert len(item.formatted.audio) == 4800
    assert [error.code for error in errors if error.code != "response_cancel_not_active"] == []
    await client.disconnect()


async def test_sound_in_binary_frames_belongs_to_the_answer_being_said() -> None:
    profile = msgspec.structs.replace(builtin()["local"], binary_audio=True)
    script = {"binary_audio": True, "speed": 4}
    async with LocalModel({"local": BRAIN}, recogniser=Toronto(), detection="energy", script=script) as model:
        client = RealtimeClient(profile=profile, url=address(model))
        await client.connect()
        await client.send_user_message_content([{"type": "input_text", "text": "What city is this?"}])
        async with asyncio.timeout(10):
            while not (answers := [it for it in client.conversation.get_items() if it.role == "assistant"]) or (
                answers[0].formatted.audio_ms < 300
            ):
                await client.wait_for_next("conversation.updated")
        (answer,) = answers
        errors: list[RealtimeError] = []
        client.on("error", errors.append)
        await client.cancel_response(answer.id, sample_count=4800)
        await client.realtime.wait_for_next("server.conversation.item.truncated", 10)
        assert client.conversation.get_items()[1:] == [answer]
        assert answer.formatted.audio_ms == 200
        assert not errors
        await client.disconnect()


async def test_the_first_response_beside_the_conversation_is_known_as_one(model: LocalModel) -> None:
    client = RealtimeClient(profile="local", url=address(model), api_key="k")
    await client.connect()
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What city is this?"}]}
    await client.realtime.send("response.create", {"response": {"conversation": "none", "input": [question]}})
    done = await client.realtime.wait_for_next("server.response.done", 10)
    assert done["response"]["output"]
    assert client.conversation.get_items() == []
    await client.disconnect()


async def test_every_event_the_client_sends_is_a_typed_event_of_the_sdk(model: LocalModel) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
    client = RealtimeClient(profile="local", url=address(model), api_key="k")
    sent: list[dict[str, Any]] = []
    client.realtime.on("client.*", sent.append)
    await client.update_session(
        turn_detection=SERVER_VAD, input_audio_transcription={"model": "gpt-4o-mini-transcribe"}, voice="marin"
    )
    definition = {"name": "find_order", "description": "Finds.", "parameters": {"type": "object", "properties": {}}}
    await client.add_tool(definition, lambda arguments: {"status": "lost"})
    await client.connect()
    await client.wait_for_session_created()
    await client.update_session(turn_detection=None)
    await client.append_input_audio(bytes(4800))
    await client.send_user_message_content([{"type": "input_text", "text": "Where is my order?"}])
    async with asyncio.timeout(10):
        while not any(item.role == "assistant" and item.formatted.audio for item in client.conversation.get_items()):
            await client.wait_for_next("conversation.updated", 10)
    spoken = client.conversation.get_items()[-1]
    await client.cancel_response(spoken.id, 0)
    await client.delete_item(spoken.id)
    await client.disconnect()
    assert len({event["type"] for event in sent}) == 8
    for event in sent:
        assert unknown_fields(adapter.validate_python(event)) == [], event
