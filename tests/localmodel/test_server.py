"""The server over real sockets: connecting, keys, models, and one whole spoken conversation."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import numpy as np
import pytest

from bridge.audio.formats import MULAW_8K
from bridge.localmodel.brain import Brain
from bridge.localmodel.hearing import NoEars
from bridge.localmodel.server import LocalModel
from bridge.localmodel.speech import EspeakVoice, PackagedVoice, encode
from bridge.sim import virtual
from tests.localmodel.client import Client, connected, model
from tests.localmodel.stage import b64, error, every, only, said

KEY = "sk-0123456789"


async def test_a_plain_get_is_told_to_upgrade() -> None:
    async with model() as server, aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{server.port}/v1/realtime") as answer:
            assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
        async with http.get(f"http://127.0.0.1:{server.port}/healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "place",
    [
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"api-key": KEY}},
        {"query": f"?api_key={KEY}"},
        {"protocols": ("realtime", f"openai-insecure-api-key.{KEY}")},
    ],
)
async def test_the_key_is_taken_from_every_place_clients_put_it(place: dict[str, Any]) -> None:
    async with model(api_key=KEY) as server, connected(server, **place) as client:
        await client.read_until("session.created")
    assert [event["type"] for event in client.events] == ["session.created"]


@pytest.mark.parametrize(
    ("page", "served"),
    [("https://evil.example", False), ("null", False), ("http://[", False), ("http://localhost:3000", True)],
)
async def test_without_a_key_pages_of_other_machines_are_refused(page: str, served: bool) -> None:
    async with model() as server:
        try:
            async with connected(server, headers={"Origin": page}) as client:
                await client.read_until("session.created")
        except aiohttp.WSServerHandshakeError as refusal:
            assert not served
            assert refusal.status == 403
        else:
            assert served
    keyed = {"Origin": page, "api-key": KEY}
    async with model(api_key=KEY) as server, connected(server, headers=keyed) as one:
        await one.read_until("session.created")


@pytest.mark.parametrize("place", [{}, {"headers": {"Authorization": "Bearer sk-wrong-wrong"}}])
async def test_a_wrong_key_opens_the_socket_and_is_refused_in_it(place: dict[str, Any]) -> None:
    async with model(api_key=KEY) as server, connected(server, **place) as client:
        await client.read_until("closed")
    assert error(client.events)["code"] == "invalid_api_key"
    assert "Incorrect API key provided" in error(client.events)["message"]
    assert "wrong-wrong" not in json.dumps(client.events)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(("realtime", "openai-insecure-api-key.x"), "realtime"), (("openai-realtime",), "openai-realtime"), ((), None)],
)
async def test_subprotocols_are_answered(offered: tuple[str, ...], chosen: str | None) -> None:
    async with model() as server, connected(server, protocols=offered) as client:
        assert client.socket.protocol == chosen


@pytest.mark.parametrize("gives_up", [True, False])
async def test_a_handshake_held_back_by_script_ends_when_the_model_stops(gives_up: bool) -> None:
    before = asyncio.all_tasks()
    async with model({"handshake_delay_ms": 60_000}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        while not server.connections:
            await asyncio.sleep(0)
        if gives_up:
            writer.close()
            await writer.wait_closed()
    assert asyncio.all_tasks() == before
    assert await reader.read() == b""
    writer.close()


# What OpenAI's reference client in JavaScript (openai-realtime-api-beta) offers and sends first.
REFERENCE_PROTOCOLS = ("realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1")
REFERENCE_SESSION = {
    "modalities": ["text", "audio"],
    "instructions": "",
    "voice": "verse",
    "input_audio_format": "pcm16",
    "output_audio_format": "pcm16",
    "input_audio_transcription": None,
    "turn_detection": None,
    "tools": [],
    "tool_choice": "auto",
    "temperature": 0.8,
    "max_response_output_tokens": 4096,
}


async def test_the_reference_client_configures_before_it_reads_a_greeting_and_is_answered_in_beta() -> None:
    async with model(api_key=KEY) as server, connected(server, protocols=REFERENCE_PROTOCOLS) as client:
        assert client.socket.protocol == "realtime"
        await client.send("session.update", event_id="evt_1", session=REFERENCE_SESSION)
        await client.read_until("session.updated")
        assert client.types() == ["session.created", "session.updated"]
        content = [{"type": "input_text", "text": "When are you open?"}]
        await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await client.send("response.create")
        await client.read_until("response.done")
    told = client.first("session.updated")["session"]
    assert {name: told[name] for name in REFERENCE_SESSION} == REFERENCE_SESSION
    assert "audio" not in told and "audio" not in client.first("session.created")["session"]
    heard = set(client.types())
    assert {"conversation.item.created", "response.audio.delta", "response.audio_transcript.done"} <= heard
    assert not {"error", "conversation.item.added", "response.output_audio.delta"} & heard


@pytest.mark.parametrize("key", ["", "sk-wrong-wrong"])
async def test_the_reference_client_with_a_wrong_key_gets_its_protocol_and_one_error(key: str) -> None:
    offered = ("realtime", *([f"openai-insecure-api-key.{key}"] if key else []), "openai-beta.realtime-v1")
    async with model(api_key=KEY) as server, connected(server, protocols=offered) as client:
        assert client.socket.protocol == "realtime"
        await client.send("session.update", session=REFERENCE_SESSION)
        await client.read_until("closed")
    assert client.types() == ["error", "closed"]
    assert error(client.events)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("query", "greeting"), [("?model=second", "I am second."), ("?model=unknown", "I am first."), ("", "I am first.")]
)
async def test_the_address_chooses_the_brain(query: str, greeting: str) -> None:
    names = ("first", "second")
    brains = {name: Brain.from_dict({"name": name, "greeting": f"I am {name}."}, source="test") for name in names}
    async with LocalModel(brains, recogniser=NoEars()) as server, connected(server, query=query) as client:
        await client.send("response.create")
        await client.read_until("response.done")
    assert said(client.events) == greeting


@pytest.mark.parametrize("frame", ["{", "[1,", '"a', "", "\x00", "[" * 100_000])
async def test_frames_that_are_no_json_are_answered_with_an_error(frame: str) -> None:
    async with model() as server, connected(server) as client:
        await client.socket.send_str(frame)
        await client.read_until("error")
        await client.send("response.create")
        await client.read_until("response.done")
    assert only(client.events, "error")["error"]["code"] in ("invalid_json", "invalid_event")


def test_every_event_is_watched_with_its_connection() -> None:
    seen: list[tuple[int, str, str]] = []

    async def main() -> None:
        watch = lambda number, direction, event: seen.append((number, direction, event["type"]))  # noqa: E731
        async with model(on_event=watch) as server:
            for _ in range(2):
                async with connected(server) as client:
                    await client.send("input_audio_buffer.clear")
                    await client.read_until("input_audio_buffer.cleared")

    virtual.run(main())
    assert [event for event in seen if event[0] == 2] == [
        (2, "server", "session.created"),
        (2, "client", "input_audio_buffer.clear"),
        (2, "server", "input_audio_buffer.cleared"),
    ]


def test_a_session_needs_no_socket() -> None:
    async def main() -> tuple[list[str], list[tuple[int, str]]]:
        frames: list[str | bytes] = []
        ends: list[tuple[int, str]] = []
        server = model({"max_session_s": 5})
        attached = server.attach(frames.append, close=lambda *end: ends.append(end), query={"model": "shop"})
        attached.receive('{"type":"response.create"}')
        await asyncio.sleep(10)
        attached.receive('{"type":"response.create"}')
        attached.closed()
        attached.closed()
        await server.stop()
        return [json.loads(frame)["type"] for frame in frames], ends

    types, ends = virtual.run(main())
    assert types[0] == "session.created"
    assert types.count("response.done") == 1
    assert types[-1] == "error"
    assert [code for code, _ in ends] == [1001]


@pytest.mark.parametrize("when", ["while the caller speaks", "in the pause at the end"])
def test_a_turn_ends_once_also_when_its_detection_changes_meanwhile(when: str) -> None:
    async def main() -> list[str]:
        frames: list[str | bytes] = []
        server = model()
        attached = server.attach(frames.append, close=lambda *end: None, query={"model": "shop"})

        def say(loud: int, ms: int) -> None:
            sound = np.random.default_rng(1).normal(0, 8000 * loud, 24 * ms).astype("<i2").tobytes()
            for at in range(0, len(sound), 960):
                attached.receive(json.dumps({"type": "input_audio_buffer.append", "audio": b64(sound[at : at + 960])}))

        def update(silence_ms: int) -> None:
            vad = {"type": "server_vad", "silence_duration_ms": silence_ms}
            session = {"type": "realtime", "audio": {"input": {"turn_detection": vad}}}
            attached.receive(json.dumps({"type": "session.update", "session": session}))

        update(600)
        say(0, 500)
        say(1, 500)
        say(0, 0 if when == "while the caller speaks" else 300)
        update(500)
        say(0, 1000)
        say(1, 500)
        say(0, 1000)
        attached.closed()
        await server.stop()
        kinds = [json.loads(frame)["type"] for frame in frames]
        return [kind.rpartition(".")[2] for kind in kinds if kind.startswith("input_audio_buffer.")]

    assert virtual.run(main()) == ["speech_started", "speech_stopped", "committed"] * 2


def test_without_a_socket_refusals_and_drops_are_closes() -> None:
    async def main(script: dict[str, Any]) -> list[int]:
        codes: list[int] = []
        server = model(script)
        server.attach(lambda frame: None, close=lambda code, reason: codes.append(code))
        await asyncio.sleep(1)
        await server.stop()
        return codes

    assert virtual.run(main({"refuse": {"status": 503}})) == [503]
    assert virtual.run(main({"steps": [{"after_ms": 500, "drop": True}]})) == [1006]


def test_two_runs_on_a_virtual_clock_are_the_same_to_the_byte() -> None:
    async def main() -> list[tuple[float, str | bytes]]:
        loop = asyncio.get_running_loop()
        frames: list[tuple[float, str | bytes]] = []
        server = LocalModel({"shop": Brain.default()}, recogniser=NoEars(), detection="energy")
        attached = server.attach(lambda frame: frames.append((loop.time(), frame)))
        attached.receive('{"type":"response.create"}')
        await asyncio.sleep(3)
        attached.closed()
        await server.stop()
        return frames

    assert virtual.run(main()) == virtual.run(main())


def test_without_extras_it_answers_line_by_line_in_the_packaged_voice() -> None:
    async def main() -> Client:
        server = LocalModel(recogniser=NoEars(), speech=PackagedVoice(), detection="energy")
        async with server, connected(server, query="") as client:
            for sound in [b"\0\0"] * 30 + [b"\x00\x40\x00\xc0"] * 30 + [b"\0\0"] * 60:
                await client.send("input_audio_buffer.append", audio=b64((sound * 480)[:960]))
            await client.read_until("response.done")
        return client

    client = virtual.run(main())
    assert said(client.events).startswith("We are open from nine")
    assert audio_ms_of(client) > 4000


def audio_ms_of(client: Client) -> float:
    deltas = every(client.events, "response.output_audio.delta")
    return sum(len(base64.b64decode(delta["delta"])) for delta in deltas) / 48


async def speak(client: Client, text: str, *, silence_ms: int = 1200) -> None:
    """Says it in real time as a telephone would, and hushes."""
    sound = encode(EspeakVoice().say(text, voice="en-us").pcm, MULAW_8K) + b"\xff" * 8 * silence_ms
    began = client.now_ms
    for at in range(0, len(sound), 160):
        await client.send("input_audio_buffer.append", audio=b64(sound[at : at + 160].ljust(160, b"\xff")))
        await asyncio.sleep(max(began + (at + 160) / 8 - client.now_ms, 0) / 1000)


async def test_a_spoken_conversation_with_an_interruption() -> None:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("pocketsphinx")
    session = {
        "type": "realtime",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "transcription": {"model": "any"}},
            "output": {"format": {"type": "audio/pcmu"}},
        },
    }
    async with LocalModel() as server, connected(server, query="") as client:
        await client.send("session.update", session=session)
        await client.read_until("session.updated")
        reading = asyncio.create_task(client.read_until("closed", "lost", within_ms=60_000))
        await speak(client, "when are you open")
        await _until(client, "response.output_audio.delta")
        item_id = client.first("response.output_audio.delta")["item_id"]
        await speak(client, "what is your address", silence_ms=1500)
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1500)
        await _until(client, "conversation.item.truncated")
        await _until(client, "response.done", 2)
        await client.socket.close()
        await asyncio.gather(reading, return_exceptions=True)

    done = [event["response"] for event in every(client.events, "response.done")]
    transcripts = every(client.events, "conversation.item.input_audio_transcription.completed")
    assert [event["transcript"] for event in transcripts] == ["when are you open", "what is your address"]
    assert done[0]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done[1]["output"][0]["content"][0]["transcript"].endswith("opposite the railway station.")
    assert "error" not in client.types()


async def _until(client: Client, kind: str, count: int = 1) -> None:
    async with asyncio.timeout(15):
        while client.types().count(kind) < count:
            await asyncio.sleep(0.01)
