"""OpenAI's own Python client holds a conversation with the local model and notices no difference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from tests.localmodel.client import KnowingEar, model
from tests.localmodel.stage import TOOLS, b64

LOUD = b64(b"\x00\x40\x00\xc0" * 240)  # 20 ms at 24 kHz
QUIET = b64(b"\0\0" * 480)


@asynccontextmanager
async def sdk(ear: KnowingEar, **given: Any) -> AsyncIterator[Any]:
    async with model(recogniser=ear, **given) as server:
        address = f"127.0.0.1:{server.port}/v1"
        client = AsyncOpenAI(api_key="none", base_url=f"http://{address}", websocket_base_url=f"ws://{address}")
        async with client, client.realtime.connect(model="shop") as connection:
            yield connection


async def until(connection: Any, kind: str) -> Any:
    async with asyncio.timeout(10):
        async for event in connection:
            assert event.type != "error", event
            if event.type == kind:
                return event


async def say_something(connection: Any) -> None:
    for sound in [QUIET] * 20 + [LOUD] * 25 + [QUIET] * 40:
        await connection.input_audio_buffer.append(audio=sound)


async def test_a_voice_turn_a_function_call_and_an_interruption() -> None:
    ear = KnowingEar("where is my order")
    async with sdk(ear, script={"speed": 0.5}) as connection:
        await until(connection, "session.created")
        transcription = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}
        await connection.session.update(session={"type": "realtime", "tools": TOOLS, "audio": transcription})
        updated = await until(connection, "session.updated")
        assert [tool.name for tool in updated.session.tools] == ["find_order", "hang_up"]

        await say_something(connection)
        heard = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert heard.transcript == "where is my order"
        call = await until(connection, "response.function_call_arguments.done")
        assert (call.name, call.arguments) == ("find_order", '{"number":"A17"}')
        await until(connection, "response.done")

        output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"status":"on its way"}'}
        await connection.conversation.item.create(item=output)
        await connection.response.create()
        first = await until(connection, "response.output_audio.delta")
        await say_something(connection)
        done = await until(connection, "response.done")
        assert done.response.status_details.reason == "turn_detected"
        await connection.conversation.item.truncate(item_id=first.item_id, content_index=0, audio_end_ms=150)
        truncated = await until(connection, "conversation.item.truncated")
        assert truncated.audio_end_ms == 150


async def test_truncating_too_much_is_the_error_the_client_expects() -> None:
    async with sdk(KnowingEar()) as connection:
        await connection.response.create()
        item_id = (await until(connection, "response.output_item.added")).item.id
        await until(connection, "response.done")
        await connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=99_000)
        async for event in connection:
            if event.type == "error":
                assert "already shorter than 99000ms" in event.error.message
                break
