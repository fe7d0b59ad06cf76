"""RealtimeClient: what the reference client promises, and each of its known errors corrected."""

from __future__ import annotations

import array
import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from bridge.errors import RealtimeError, UsageError
from bridge.realtime import RealtimeClient
from bridge.realtime.client import SERVER_VAD
from bridge.realtime.profiles import builtin
from tests.realtime.service import Service, running

CREATED = {"type": "session.created", "event_id": "e", "session": {"id": "s"}}
WEATHER = {"name": "get_weather", "description": "Tells.", "parameters": {"type": "object", "properties": {}}}


@asynccontextmanager
async def talking(**options: Any) -> AsyncIterator[tuple[RealtimeClient, Service]]:
    """A connected client whose service has greeted it."""
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k", **options)
        await client.connect()
        await service.say(CREATED)
        await client.wait_for_session_created()
        await service.heard(1)
        try:
            yield client, service
        finally:
            await client.disconnect()


def created(response: str) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": response, "conversation_id": "c", "status": "in_progress"}}


def done(response: str, status: str = "completed") -> dict[str, Any]:
    return {"type": "response.done", "response": {"id": response, "status": status}}


def call(response: str, number: int, arguments: str = "{}", status: str = "completed") -> list[dict[str, Any]]:
    wire = {
        "id": f"f{number}",
        "type": "function_call",
        "call_id": f"c{number}",
        "name": "get_weather",
        "arguments": "",
    }
    return [
        {"type": "response.output_item.added", "response_id": response, "item": {**wire, "status": "in_progress"}},
        {"type": "conversation.item.added", "item": {**wire, "status": "in_progress"}},
        {"type": "conversation.item.done", "item": {**wire, "arguments": arguments, "status": status}},
        {
            "type": "response.output_item.done",
            "response_id": response,
            "item": {**wire, "arguments": arguments, "status": status},
        },
    ]


def spoken(response: str = "r", item: str = "a", ms: int = 1000, status: str = "completed") -> list[dict[str, Any]]:
    wire = {"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_audio", "transcript": "Hello"}
    return [
        {"type": "response.output_item.added", "response_id": response, "item": wire},
        {"type": "conversation.item.added", "item": wire},
        {
            "type": "response.content_part.added",
            "response_id": response,
            "item_id": item,
            "content_index": 0,
            "part": part,
        },
        {
            "type": "response.output_audio.delta",
            "response_id": response,
            "item_id": item,
            "content_index": 0,
            "delta": base64.b64encode(bytes(48 * ms)).decode(),
        },
    ]


async def settle(until: Any) -> None:
    async with asyncio.timeout(5):
        while not until():
            await asyncio.sleep(0)


async def quiet(client: RealtimeClient, service: Service) -> None:
    """Everything the client wanted to send has been sent and read."""
    for _ in range(20):
        await asyncio.sleep(0)
    await client.realtime.send("marker")
    await service.heard_type("marker", len([e for e in service.received if e["type"] == "marker"]) + 1)


# ---------------------------------------------------------------- the reference client's own assertions


async def test_the_first_events_are_our_configuration_and_the_services_greeting() -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        log: list[Any] = []
        client.on("realtime.event", lambda entry: log.append((entry["source"], entry["event"]["type"])))
        await client.connect()
        await service.say(CREATED)
        assert await client.wait_for_session_created() is True
        assert client.is_connected
        assert log == [("client", "session.update"), ("server", "session.created")]
        await client.send_user_message_content([{"type": "input_text", "text": "How are you?"}])
        assert log[2:] == [("client", "conversation.item.create"), ("client", "response.create")]
        await client.disconnect()
        assert not client.is_connected


async def test_a_spoken_answer_is_appended_in_progress_and_then_completed() -> None:
    async with talking() as (client, service):
        user = {"id": "u", "type": "message", "role": "user", "status": "completed"}
        waiting = asyncio.create_task(client.wait_for_next_item())
        await asyncio.sleep(0)
        await service.say(
            {"type": "conversation.item.added", "item": {**user, "content": [{"type": "input_text", "text": "Hi"}]}}
        )
        first = await waiting
        assert first is not None
        assert (first.type, first.role, first.status, first.formatted.text) == ("message", "user", "completed", "Hi")
        appended = asyncio.create_task(client.wait_for_next_item())
        completed = asyncio.create_task(client.wait_for_next_completed_item())
        await asyncio.sleep(0)
        await service.say(created("r"), *spoken()[:2])
        answer = await appended
        assert answer is not None
        assert (answer.role, answer.status, answer.formatted.text) == ("assistant", "in_progress", "")
        await service.say(*spoken()[2:], done("r"))
        assert await completed is answer
        assert answer.status == "completed"
        assert client.conversation.get_items() == [first, answer]


async def test_without_a_key_the_services_error_is_told() -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url)
        errors: list[RealtimeError] = []
        client.on("error", errors.append)
        await client.connect()
        await service.say(
            {"type": "error", "error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}}
        )
        await settle(lambda: errors)
        assert "Incorrect API key provided" in errors[0].message
        await client.disconnect()


async def test_sending_needs_a_connection_and_connecting_none() -> None:
    client = RealtimeClient(api_key="k")
    for attempt in (client.create_response, client.wait_for_session_created, client.cancel_response):
        with pytest.raises(RealtimeError, match="not connected"):
            await attempt()
    async with talking() as (client, _):
        with pytest.raises(UsageError, match="already connected"):
            await client.connect()


@pytest.mark.parametrize("layer", ["the client", "the layer below"])
async def test_of_two_who_connect_at_once_the_second_is_refused_and_one_session_is_open(layer: str) -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        one = client if layer == "the client" else client.realtime
        first, second = await asyncio.gather(one.connect(), one.connect(), return_exceptions=True)
        assert first is None
        assert isinstance(second, UsageError)
        assert len(service.requests) == 1
        await service.say(CREATED)
        if one is client:
            assert await asyncio.wait_for(client.wait_for_session_created(), 5)
        await one.disconnect()
        await settle(lambda: service.sessions == 0)


@pytest.mark.parametrize("layer", ["the client", "the layer below"])
async def test_who_disconnects_while_connecting_is_disconnected(layer: str) -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        one = client if layer == "the client" else client.realtime
        await asyncio.gather(one.connect(), one.disconnect())
        assert not one.is_connected
        await settle(lambda: service.sessions == 0)
        if one is client:
            with pytest.raises(RealtimeError, match="the connection closed"):
                await client.wait_for_session_created()


async def test_who_connects_while_disconnecting_has_a_new_session() -> None:
    async with talking() as (client, service):
        service.connected.clear()
        await asyncio.gather(client.disconnect(), client.connect())
        assert client.is_connected
        await service.say(CREATED)
        assert await asyncio.wait_for(client.wait_for_session_created(), 5)
        await settle(lambda: service.sessions == 1)


# ---------------------------------------------------------------- what cannot be used

NO_TIME = (-1, 0, float("nan"), float("inf"), "5", None, True)
PART = {"type": "input_text", "text": "Hi"}


@pytest.mark.parametrize("timeout_s", NO_TIME)
async def test_a_time_limit_that_is_none_is_refused_by_name(timeout_s: Any) -> None:
    with pytest.raises(UsageError, match=r"timeout_s: found .*; write seconds, more than 0"):
        RealtimeClient(api_key="k", timeout_s=timeout_s)


@pytest.mark.parametrize(
    "option",
    [
        *({"keep_audio_s": 0}, {"keep_audio_s": "long"}, {"profile": 3}, {"url": 3}, {"model": 3}),
        *({"api_key": 3}, {"api_key": "k\n"}, {"allow_plain": 1}),
    ],
)
async def test_an_option_that_cannot_be_used_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(UsageError, match=f"^{name}: "):
        RealtimeClient(**{"api_key": "k", **option})


async def test_without_a_key_the_service_wants_nobody_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async def called(*_: object, **__: object) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("bridge.realtime.connection.open_socket", called)
    for profile in ("openai", "meshapi", "xai"):
        client = RealtimeClient(profile=profile)
        with pytest.raises(
            UsageError, match=f"^api_key: missing; profile {profile} refuses .* Give api_key="
        ) as refused:
            await client.connect()
        assert "environment" in str(refused.value)
        assert not client.is_connected
    with pytest.raises(AssertionError, match="touched"):
        await RealtimeClient(profile="speech-to-speech").connect()
    with pytest.raises(AssertionError, match="touched"):
        await RealtimeClient(url="wss://relay.example.test").connect()


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("append_input_audio", ("text",), "audio: found str; give bytes of the session's format (pcm16, 24000 Hz) or"),
        ("append_input_audio", (np.zeros(4, np.float32),), "audio: found 4 items of format 'f'"),
        ("send_user_message_content", ("Hello",), "content: found 'Hello'; give a list like"),
        ("send_user_message_content", (PART,), "content: found {"),
        ("send_user_message_content", ([PART, "Hello"],), "content: found ["),
        ("send_user_message_content", ([{}],), "content: found a part with nothing; write {"),
        ("send_user_message_content", ([{"type": 3}],), "content: found a part with 'type'; write {"),
        ("send_user_message_content", ([{"type": "input_text"}],), "content: found None as text; write {"),
        ("send_user_message_content", ([{"type": "input_audio"}],), "content: found a part with 'type'; write {"),
        ("send_user_message_content", ([{"type": "input_audio", "audio": "@"}],), "audio: this text is not base64"),
        ("send_user_message_content", ([{"type": "input_audio", "audio": 3}],), "audio: found int; give bytes"),
        ("send_user_message_content", ([{**PART, "x": object()}],), "content cannot be written as JSON"),
        ("cancel_response", ("", "all"), "sample_count: found 'all'; write how many samples were heard, 0 or more"),
        ("cancel_response", ("", -1), "sample_count: found -1"),
        ("cancel_response", ("", float("nan")), "sample_count: found nan"),
        ("cancel_response", (["a"],), "item_id: found ['a']; give the id of an item"),
        ("delete_item", ("",), "item_id: found ''; give the id of an item"),
        ("delete_item", (None,), "item_id: found None"),
        ("delete_item", ("~item.1",), "item_id: '~item.1' was made up here"),
        ("add_tool", (None, print), "definition: found None; give a mapping with"),
        ("add_tool", ({**WEATHER, "x": object()}, print), "the definition of tool 'get_weather' cannot be written"),
        ("add_tool", (WEATHER, None), "tool 'get_weather' needs something to call"),
        ("remove_tool", (["x"],), "tool ['x'] was never added"),
        ("wait_for_next_item", (-1,), "timeout_s: found -1; write seconds, 0 or more"),
        ("wait_for_next_completed_item", ("5",), "timeout_s: found '5'"),
        ("wait_for_next", ("error", float("nan")), "timeout_s: found nan"),
        ("wait_for_next", (None,), "an event's name is text, not None"),
        ("on", (["error"], print), "an event's name is text, not ['error']"),
        ("on", ("error", None), "error: found None; give something to call"),
        ("on_next", ("error", asyncio.sleep), "error: nobody awaits an async listener; give a plain one"),
        ("off", (3,), "an event's name is text, not 3"),
        ("off_next", (3,), "an event's name is text, not 3"),
    ],
)
async def test_what_a_method_cannot_use_is_refused_by_name_and_nothing_is_sent(
    method: str, given: tuple[Any, ...], says: str
) -> None:
    async with talking() as (client, service):
        with pytest.raises(UsageError) as refused:
            answer = getattr(client, method)(*given)
            await answer
        assert str(refused.value).startswith(says)
        await quiet(client, service)
        assert [event["type"] for event in service.received] == ["session.update", "marker"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tools": "get_weather"}, "tools: found 'get_weather'; give a list like"),
        ({"tools": WEATHER}, "tools: found {"),
        ({"tools": [print]}, "tools: found ["),
        ({"tools": [{"description": "Nameless."}]}, "tools: a tool needs a name"),
        ({"tools": [{"name": ["x"]}]}, "tools: a tool needs a name"),
        ({"instructions": object()}, "instructions cannot be written as JSON"),
        ({"modalities": "audio"}, "modalities: found 'audio'; write a list"),
        ({"turn_detection": "server_vad"}, "turn_detection: found 'server_vad'"),
        ({"audio": "loud"}, "audio: found 'loud'"),
    ],
)
async def test_a_session_that_cannot_be_sent_leaves_the_one_there_is(fields: dict[str, Any], says: str) -> None:
    async with talking() as (client, service):
        before = dict(client.session)
        with pytest.raises(UsageError) as refused:
            await client.update_session(voice="other", **fields)
        assert str(refused.value).startswith(says)
        assert client.session == before
        await quiet(client, service)
        assert [event["type"] for event in service.received] == ["session.update", "marker"]


async def test_a_service_that_deletes_nothing_is_not_asked_to() -> None:
    async with talking(profile="speech-to-speech") as (client, service):
        with pytest.raises(UsageError, match="profile speech-to-speech deletes no items"):
            await client.delete_item("a")
        await quiet(client, service)
        assert "conversation.item.delete" not in [event["type"] for event in service.received]


async def test_the_layer_below_refuses_what_makes_no_event_and_tells_nobody_of_it() -> None:
    async with talking() as (client, service):
        told: list[Any] = []
        client.realtime.on("client.*", told.append)
        for name, fields in (("", {}), (3, {}), ("x", [1]), ("x", {"y": object()})):
            with pytest.raises(UsageError):
                await client.realtime.send(name, fields)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="audio: found str"):
            await client.realtime.send_audio("text")  # type: ignore[arg-type]
        assert told == []
        await quiet(client, service)


# ---------------------------------------------------------------- session


async def test_the_address_and_model_given_are_the_ones_used() -> None:
    async with talking(model="my-model") as (_, service):
        assert service.requests[0].path == "/v1/realtime?model=my-model"


async def test_the_session_is_sent_whole_in_the_services_shape() -> None:
    async with talking() as (client, service):
        await client.update_session(instructions="Be kind.", voice="alloy", turn_detection=SERVER_VAD)
        first, second = await service.heard_type("session.update", 2)
        assert first["session"]["audio"]["input"]["turn_detection"] is None
        session = second["session"]
        assert (session["type"], session["instructions"], session["output_modalities"]) == (
            "realtime",
            "Be kind.",
            ["audio"],
        )
        assert session["audio"]["output"]["voice"] == "alloy"
        assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
        assert "temperature" not in session
        assert client.turn_detection_type == "server_vad"
    async with talking(profile="openai-beta") as (client, service):
        (update,) = await service.heard_type("session.update")
        assert update["session"]["modalities"] == ["text", "audio"]
        assert update["session"]["temperature"] == 0.8


async def test_a_session_may_be_written_in_either_shape_and_the_last_word_counts() -> None:
    client = RealtimeClient(api_key="k")
    await client.update_session(
        audio={"output": {"voice": "cedar"}, "input": {"turn_detection": {"type": "semantic_vad"}}}
    )
    assert (client.session["voice"], client.turn_detection_type) == ("cedar", "semantic_vad")
    await client.update_session(voice="marin", input_audio_format="g711_ulaw", turn_detection="none")
    assert (client.session["voice"], client.turn_detection_type) == ("marin", None)
    assert client.session["input_format"] == ("mulaw", 8000)
    with pytest.raises(UsageError, match="no audio format"):
        await client.update_session(input_audio_format="mp3")


@pytest.mark.parametrize("manual", [None, "none", "disabled", {"type": "none"}, {"type": "disabled"}])
async def test_every_documented_way_to_say_manual_turns_is_understood(manual: Any) -> None:
    client = RealtimeClient(api_key="k")
    await client.update_session(turn_detection=SERVER_VAD)
    await client.update_session(turn_detection=manual)
    assert client.turn_detection_type is None


async def test_reset_forgets_configuration_tools_and_listeners() -> None:
    async with talking() as (client, _):
        heard: list[Any] = []
        client.on("realtime.event", heard.append)
        await client.add_tool(WEATHER, print)
        await client.update_session(voice="x")
        await client.reset()
        assert not client.is_connected
        assert "voice" not in client.session
        await client.add_tool(WEATHER, print)
        heard.clear()
        await client.connect()
        assert heard == []


# ---------------------------------------------------------------- tools


async def test_a_tool_runs_and_its_result_is_answered() -> None:
    async with talking() as (client, service):

        async def weather(arguments: dict[str, Any]) -> dict[str, Any]:
            return {"degrees": 7, "city": arguments["city"]}

        tool = await client.add_tool(WEATHER, weather)
        assert tool.definition["type"] == "function"
        *_, update = await service.heard_type("session.update", 2)
        assert [given["name"] for given in update["session"]["tools"]] == ["get_weather"]
        await service.say(created("r"), *call("r", 1, '{"city":"Oslo"}'), done("r"))
        (answer,) = await service.heard_type("conversation.item.create")
        assert answer["item"]["call_id"] == "c1"
        assert json.loads(answer["item"]["output"]) == {"degrees": 7, "city": "Oslo"}
        await service.heard_type("response.create")


@pytest.mark.parametrize("arguments", ["{}", "{not json", '{"odd":1}'])
async def test_what_a_tool_cannot_do_is_told_to_the_model(arguments: str) -> None:
    async with talking() as (client, service):

        def weather(given: dict[str, Any]) -> object:
            if "odd" in given:
                return object()  # JSON has no word for it
            raise ValueError("no city")

        await client.add_tool(WEATHER, weather)
        await service.say(created("r"), *call("r", 1, arguments), done("r"))
        (answer,) = await service.heard_type("conversation.item.create")
        told = json.loads(answer["item"]["output"])
        assert list(told) == ["error"]
        assert arguments != "{}" or told["error"] == "no city"
        await service.heard_type("response.create")


async def test_a_tool_that_gives_up_what_it_awaited_is_answered_like_any_that_fails() -> None:
    async with talking() as (client, service):

        async def weather(arguments: Any) -> None:
            asked = asyncio.create_task(asyncio.sleep(60))
            asked.cancel()
            await asked

        await client.add_tool(WEATHER, weather)
        await service.say(created("r"), *call("r", 1), done("r"))
        (answer,) = await service.heard_type("conversation.item.create")
        assert json.loads(answer["item"]["output"]) == {"error": "CancelledError"}
        await service.heard_type("response.create")


async def test_several_calls_of_one_response_get_one_answer_when_the_last_is_in() -> None:
    async with talking() as (client, service):
        gates = {number: asyncio.Event() for number in range(3)}

        async def weather(arguments: dict[str, Any]) -> int:
            await gates[arguments["n"]].wait()
            return int(arguments["n"])

        await client.add_tool(WEATHER, weather)
        await service.say(created("r"))
        for number in range(3):
            await service.say(*call("r", number, json.dumps({"n": number})))
        gates[2].set()
        gates[0].set()
        assert len(await service.heard_type("conversation.item.create", 2)) == 2
        await service.say(done("r"))
        await quiet(client, service)
        assert [e for e in service.received if e["type"] == "response.create"] == []
        gates[1].set()
        await service.heard_type("response.create")
        await quiet(client, service)
        assert [e["type"] for e in service.received].count("response.create") == 1
        assert [e["type"] for e in service.received].count("conversation.item.create") == 3


async def test_the_answer_waits_for_a_response_in_progress_and_is_not_asked_twice() -> None:
    async with talking() as (client, service):
        gate = asyncio.Event()

        async def weather(arguments: dict[str, Any]) -> int:
            await gate.wait()
            return 1

        await client.add_tool(WEATHER, weather)
        await service.say(created("r1"), *call("r1", 1), done("r1"), created("r2"))
        await settle(lambda: client._answers.active == {"r2"})
        gate.set()
        await service.heard_type("conversation.item.create")
        await quiet(client, service)
        assert "response.create" not in [e["type"] for e in service.received]
        await service.say(done("r2"))
        await service.heard_type("response.create")


async def test_a_response_that_began_after_the_outputs_is_the_answer() -> None:
    async with talking() as (client, service):
        await client.add_tool(WEATHER, lambda arguments: 1)
        await service.say(created("r1"), *call("r1", 1))
        await service.heard_type("conversation.item.create")
        await service.say(created("r2"), done("r1"))
        await settle(lambda: client._answers.active == {"r2"})
        await quiet(client, service)
        await service.say(created("r3"), done("r2"), done("r3"))
        await settle(lambda: not client._answers.active)
        await quiet(client, service)
        assert "response.create" not in [e["type"] for e in service.received]


@pytest.mark.parametrize("status", ["cancelled", "incomplete", "failed"])
async def test_no_tool_runs_for_a_call_that_was_cut_off(status: str) -> None:
    async with talking() as (client, service):
        ran: list[Any] = []
        await client.add_tool(WEATHER, ran.append)
        await service.say(created("r"), *call("r", 1, '{"ci', "incomplete"), *call("r", 2)[:2], done("r", status))
        await settle(lambda: not client._answers.active)
        await quiet(client, service)
        assert ran == []
        assert "response.create" not in [e["type"] for e in service.received]


async def test_a_completed_call_of_an_interrupted_response_is_answered_without_asking() -> None:
    async with talking() as (client, service):
        await client.add_tool(WEATHER, lambda arguments: 1)
        await service.say(created("r"), *call("r", 1), done("r", "cancelled"))
        await service.heard_type("conversation.item.create")
        await quiet(client, service)
        assert "response.create" not in [e["type"] for e in service.received]


async def test_tools_work_with_a_service_that_sends_only_the_end_of_the_arguments() -> None:
    async with talking(profile="speech-to-speech") as (client, service):
        await client.add_tool(WEATHER, lambda arguments: arguments)
        ended = {"type": "response.function_call_arguments.done", "response_id": "r", "item_id": "f", "call_id": "c"}
        await service.say(created("r"), {**ended, "name": "get_weather", "arguments": '{"a":1}'}, done("r"))
        (answer,) = await service.heard_type("conversation.item.create")
        assert answer["item"] == {"type": "function_call_output", "call_id": "c", "output": '{"a":1}'}
        await service.heard_type("response.create")


async def test_a_call_of_our_own_seed_is_not_run() -> None:
    async with talking() as (client, service):
        ran: list[Any] = []
        await client.add_tool(WEATHER, ran.append)
        wire = {"id": "f", "type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
        item = {**wire, "status": "completed"}
        await service.say(
            {"type": "conversation.item.added", "item": item}, {"type": "conversation.item.done", "item": item}
        )
        await settle(lambda: client.conversation.get_items())
        await quiet(client, service)
        assert ran == []


async def test_tools_are_added_once_removed_with_an_update_and_never_clash() -> None:
    async with talking() as (client, service):
        await client.update_session(tools=[{"name": "mine", "parameters": {}}])
        *_, update = await service.heard_type("session.update", 2)
        assert update["session"]["tools"] == [{"type": "function", "name": "mine", "parameters": {}}]
        await client.add_tool(WEATHER, print)
        for definition, run in ((WEATHER, print), ({"name": "mine"}, print), ({}, print), ({"name": "x"}, 3)):
            with pytest.raises(UsageError):
                await client.add_tool(definition, run)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="get_weather"):
            await client.update_session(tools=[{"name": "get_weather"}])
        *_, update = await service.heard_type("session.update", 3)
        assert [tool["name"] for tool in update["session"]["tools"]] == ["mine", "get_weather"]
        await client.remove_tool("get_weather")
        *_, update = await service.heard_type("session.update", 4)
        assert [tool["name"] for tool in update["session"]["tools"]] == ["mine"]
        with pytest.raises(UsageError, match="never added"):
            await client.remove_tool("get_weather")


# ---------------------------------------------------------------- the caller's audio


@pytest.mark.parametrize("piece", [b"\1\0" * 480, np.ones(480, np.int16), array.array("h", [1] * 480)])
async def test_manual_turns_are_committed_when_an_answer_is_asked_for(piece: Any) -> None:
    async with talking() as (client, service):
        for _ in range(5):
            await client.append_input_audio(piece)
        await client.append_input_audio(b"")
        await client.create_response()
        await service.heard_type("response.create")
        kinds = [event["type"] for event in service.received[1:]]
        assert kinds == ["input_audio_buffer.append"] * 5 + ["input_audio_buffer.commit", "response.create"]
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
        await service.say({"type": "conversation.item.added", "item": wire})
        await settle(lambda: client.conversation.get_items())
        assert bytes(client.conversation.get_items()[0].formatted.audio) == b"\1\0" * 2400
        await client.create_response()
        await service.heard_type("response.create", 2)
        assert [event["type"] for event in service.received].count("input_audio_buffer.commit") == 1


async def test_audio_goes_in_binary_frames_where_the_profile_says_so_and_is_told_all_the_same() -> None:
    binary = msgspec.structs.replace(builtin()["local"], binary_audio=True)
    async with talking(profile=binary) as (client, service):
        told: list[Any] = []
        client.on("realtime.event", lambda entry: told.append(entry["event"]) if entry["source"] == "client" else None)
        await client.append_input_audio(b"\1\2" * 10)
        assert (await service.heard(2))[1] == b"\1\2" * 10
        assert [(one["type"], base64.b64decode(one["audio"])) for one in told] == [
            ("input_audio_buffer.append", b"\1\2" * 10)
        ]


@pytest.mark.parametrize("binary_audio", [False, True])
async def test_much_audio_goes_in_pieces_of_whole_samples_and_is_kept_as_it_is_sent(binary_audio: bool) -> None:
    profile = msgspec.structs.replace(builtin()["local"], binary_audio=binary_audio)
    async with talking(profile=profile) as (client, service):
        told: list[bytes] = []
        kept: list[int] = []
        client.realtime.on(
            "client.input_audio_buffer.append", lambda event: told.append(base64.b64decode(event["audio"]))
        )
        client.realtime.on("client.input_audio_buffer.append", lambda _: kept.append(len(client._heard)))
        samples = np.arange(3_000_000 // 2, dtype=np.int16)
        await client.append_input_audio(samples)
        await service.heard(1 + 3)
        sent = [one if binary_audio else base64.b64decode(one["audio"]) for one in service.received[1:]]
        assert [len(piece) for piece in sent] == [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]
        assert b"".join(sent) == samples.tobytes()
        assert told == sent
        assert kept == [1 << 20, 2 << 20, 3_000_000], "of each piece as it goes"
        assert client._heard.take() == samples.tobytes()
        await client.realtime.send_audio(samples.tobytes())
        await service.heard(1 + 6)
        assert told[3:] == sent


async def test_of_audio_whose_sending_was_given_up_only_what_was_sent_is_kept() -> None:
    async with talking() as (client, service):
        going: list[asyncio.Task[None]] = []
        client.realtime.on("client.input_audio_buffer.append", lambda _: going[0].cancel())
        going.append(asyncio.create_task(client.append_input_audio(bytes(20 << 20))))
        await asyncio.wait(going)
        client.realtime.off("client.input_audio_buffer.append")
        await quiet(client, service)
        sent = sum(len(base64.b64decode(one["audio"])) for one in service.received if "audio" in one)
        assert 0 < sent < 20 << 20
        assert len(client._heard) == sent


async def test_audio_appended_before_there_is_a_session_is_refused_and_not_kept() -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        refused = (client.append_input_audio(bytes(480)), client.append_input_audio(bytes(480)))
        with pytest.raises(RealtimeError, match="not connected"):
            await refused[0]
        connected, second = await asyncio.gather(client.connect(), refused[1], return_exceptions=True)
        assert connected is None
        assert isinstance(second, RealtimeError)
        assert len(client._heard) == 0
        await client.disconnect()


async def test_audio_appended_while_a_turn_is_committed_belongs_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking() as (client, service):
        await client.append_input_audio(b"\1\0" * 2400)
        send = client.realtime.send

        async def slowly(name: str, fields: Any = None) -> dict[str, Any]:
            sent = await send(name, fields)
            if name == "input_audio_buffer.commit":
                await client.append_input_audio(b"\2\0" * 2400)
            return sent

        monkeypatch.setattr(client.realtime, "send", slowly)
        await client.create_response()
        await service.heard_type("response.create")
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
        await service.say({"type": "conversation.item.added", "item": wire})
        await settle(lambda: client.conversation.get_items())
        assert bytes(client.conversation.get_items()[0].formatted.audio) == b"\1\0" * 2400
        assert client._heard.take() == b"\2\0" * 2400


async def test_audio_whose_commit_is_refused_is_not_that_of_the_next_item() -> None:
    async with talking() as (client, service):
        await client.append_input_audio(b"\1\0" * 240)
        await client.create_response()
        (commit,) = await service.heard_type("input_audio_buffer.commit")
        code = "input_audio_buffer_commit_empty"
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        await service.say(
            {"type": "error", "error": {"code": code, "message": "too small", "event_id": commit["event_id"]}},
            {"type": "conversation.item.added", "item": wire},
        )
        await settle(lambda: client.conversation.get_items())
        assert not client.conversation.get_items()[0].formatted.audio


async def test_with_turn_detection_nothing_is_committed_by_hand_and_the_copy_is_bounded() -> None:
    async with talking(keep_audio_s=1.0) as (client, service):
        await client.update_session(turn_detection=SERVER_VAD)
        for _ in range(100):
            await client.append_input_audio(bytes(48 * 100))
        assert len(client._heard) <= 48_000 * 1.25 + 4800
        await client.create_response()
        await service.heard_type("response.create")
        assert "input_audio_buffer.commit" not in [event["type"] for event in service.received]
        interrupted: list[Any] = []
        client.on("conversation.interrupted", interrupted.append)
        start = {"type": "input_audio_buffer.speech_started", "item_id": "u", "audio_start_ms": 9500}
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
        await service.say(
            start,
            {"type": "input_audio_buffer.speech_stopped", "item_id": "u", "audio_end_ms": 9800},
            {"type": "conversation.item.added", "item": wire},
        )
        await settle(lambda: client.conversation.get_items())
        assert len(interrupted) == 1
        assert len(client.conversation.get_items()[0].formatted.audio) == 300 * 48


async def test_a_format_changed_before_the_first_audio_is_the_one_audio_is_kept_in() -> None:
    async with talking(keep_audio_s=1.0) as (client, service):
        await client.update_session(turn_detection=SERVER_VAD, audio={"input": {"format": {"type": "audio/pcmu"}}})
        await client.append_input_audio(bytes(8 * 500) + b"\1" * 8 * 500)
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
        await service.say(
            {"type": "input_audio_buffer.speech_started", "item_id": "u", "audio_start_ms": 500},
            {"type": "input_audio_buffer.speech_stopped", "item_id": "u", "audio_end_ms": 900},
            {"type": "conversation.item.added", "item": wire},
        )
        await settle(lambda: client.conversation.get_items())
        assert bytes(client.conversation.get_items()[0].formatted.audio) == b"\1" * 8 * 400
        await client.append_input_audio(bytes(8 * 5000))
        assert len(client._heard) <= 8000 * 1.25


async def test_a_session_after_one_that_was_lost_begins_with_no_conversation_and_any_format() -> None:
    async with talking() as (client, service):
        await service.say(created("r"), *spoken())
        await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        service.break_off()
        await settle(lambda: not client.is_connected)
        assert client.conversation.get_items(), "what was said can still be read"
        await client.connect()
        assert not client.conversation.get_items()
        await client.update_session(input_audio_format="g711_ulaw")


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("whose", ["caller", "agent"])
async def test_once_there_was_audio_its_format_is_kept_until_the_next_session(side: str, whose: str) -> None:
    async with talking() as (client, service):
        if whose == "caller":
            await client.append_input_audio(bytes(480))
            await client.create_response()
        else:
            await service.say(created("r"), *spoken())
            await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        changed, same = {f"{side}_audio_format": "g711_ulaw"}, {f"{side}_audio_format": "pcm16"}
        before = dict(client.session)
        with pytest.raises(UsageError, match=f"^{side}_audio_format: .* disconnect, change it, and connect again"):
            await client.update_session(voice="other", **changed)
        assert client.session == before
        await client.update_session(voice="other", **same)
        await client.disconnect()
        await client.update_session(**changed)
        service.connected.clear()
        await client.connect()
        *_, update = await service.heard_type("session.update", 3)
        assert update["session"]["audio"][side]["format"] == {"type": "audio/pcmu"}


async def test_audio_in_a_message_is_written_as_base64() -> None:
    async with talking() as (client, service):
        parts = [{"type": "input_audio", "audio": np.zeros(2, np.int16)}, {"type": "input_audio", "audio": "AAAA"}]
        await client.send_user_message_content(parts)
        (sent,) = await service.heard_type("conversation.item.create")
        assert [part["audio"] for part in sent["item"]["content"]] == ["AAAAAA==", "AAAA"]
        await client.send_user_message_content([])
        await service.heard_type("response.create", 2)
        assert len(await service.heard_type("conversation.item.create")) == 1


# ---------------------------------------------------------------- interrupting


async def test_cancelling_cuts_the_item_to_what_was_heard() -> None:
    async with talking() as (client, service):
        await service.say(created("r"), *spoken())
        await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        item = await client.cancel_response("a", sample_count=12_345)
        assert item is client.conversation.get_item("a")
        (cut,) = await service.heard_type("conversation.item.truncate")
        assert (cut["item_id"], cut["content_index"], cut["audio_end_ms"]) == ("a", 0, 514)
        assert [e["type"] for e in service.received[-2:]] == ["response.cancel", "conversation.item.truncate"]


async def test_more_is_never_cut_off_than_was_received() -> None:
    async with talking() as (client, service):
        await service.say(created("r"), *spoken(ms=100))
        await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        await client.cancel_response("a", sample_count=10**9)
        (cut,) = await service.heard_type("conversation.item.truncate")
        assert cut["audio_end_ms"] == 100


async def test_what_was_heard_to_its_end_is_not_cut() -> None:
    async with talking() as (client, service):
        await service.say(created("r"), *spoken(), done("r"))
        await settle(
            lambda: client.conversation.get_items() and client.conversation.get_items()[0].status == "completed"
        )
        await client.cancel_response("a", sample_count=24_000)
        await quiet(client, service)
        assert "conversation.item.truncate" not in [event["type"] for event in service.received]


async def test_of_an_answer_that_is_over_nothing_is_cancelled_and_the_rest_is_cut() -> None:
    async with talking() as (client, service):
        assert await client.cancel_response() is None
        await service.say(created("r"), *spoken(), done("r"))
        await settle(
            lambda: client.conversation.get_items() and client.conversation.get_items()[0].status == "completed"
        )
        assert await client.cancel_response("a", sample_count=2400) is client.conversation.get_item("a")
        (cut,) = await service.heard_type("conversation.item.truncate")
        assert cut["audio_end_ms"] == 100
        assert "response.cancel" not in [event["type"] for event in service.received]


async def test_an_answer_asked_for_and_not_yet_begun_is_cancelled_unless_it_was_refused() -> None:
    async with talking() as (client, service):
        await client.create_response()
        await client.cancel_response()
        await service.heard_type("response.cancel")
        (asked,) = await service.heard_type("response.create")
        told = asyncio.create_task(client.wait_for_next("error", 5))
        await asyncio.sleep(0)
        await service.say({"type": "error", "error": {"message": "no", "event_id": asked["event_id"]}})
        await told
        await client.cancel_response()
        await client.realtime.send("response.create", {"response": {"conversation": "none"}})
        await client.cancel_response()
        await quiet(client, service)
        assert len(await service.heard_type("response.cancel")) == 1


async def test_cancelling_what_cannot_be_cancelled_raises_before_anything_is_sent() -> None:
    async with talking() as (client, service):
        wire = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        await service.say({"type": "conversation.item.added", "item": wire}, *call("r", 1))
        await settle(lambda: len(client.conversation.get_items()) == 2)
        for item_id in ("nobody", "u", "f1"):
            with pytest.raises(UsageError):
                await client.cancel_response(item_id, 10)
        await quiet(client, service)
        assert "response.cancel" not in [event["type"] for event in service.received]


async def test_a_text_answer_is_cancelled_and_not_cut() -> None:
    async with talking() as (client, service):
        wire = {"id": "a", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
        await service.say(created("r"), {"type": "conversation.item.added", "item": wire})
        await settle(lambda: client.conversation.get_items())
        assert await client.cancel_response("a", 10) is not None
        assert await client.cancel_response() is None
        await service.heard_type("response.cancel", 2)
        assert "conversation.item.truncate" not in [event["type"] for event in service.received]


async def test_where_a_service_cannot_cut_the_cache_is_cut_alone() -> None:
    async with talking(profile="speech-to-speech") as (client, service):
        await service.say(created("r"), *spoken())
        await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        item = await client.cancel_response("a", sample_count=2400)
        assert item is not None
        assert item.formatted.audio_ms == 100
        await quiet(client, service)
        assert "conversation.item.truncate" not in [event["type"] for event in service.received]


async def test_an_item_its_service_gave_no_id_is_cut_here_alone() -> None:
    async with talking() as (client, service):
        await service.say({"type": "response.output_audio.delta", "delta": base64.b64encode(bytes(48_000)).decode()})
        await settle(lambda: client.conversation.get_items())
        (item,) = client.conversation.get_items()
        assert await client.cancel_response(item.id, sample_count=2400) is item
        assert item.formatted.audio_ms == 100
        await quiet(client, service)
        assert "conversation.item.truncate" not in [event["type"] for event in service.received]


async def test_what_was_cut_here_alone_stays_cut_whatever_the_service_goes_on_to_say() -> None:
    async with talking(profile="speech-to-speech") as (client, service):
        await service.say(created("r"), *spoken())
        await settle(lambda: client.conversation.get_items() and client.conversation.get_items()[0].formatted.audio)
        item = await client.cancel_response("a", sample_count=2400)
        assert item is not None
        deltas: list[Any] = []
        client.on("conversation.updated", lambda change: deltas.append(change["delta"]))
        more = spoken()[-1]
        words = {**more, "type": "response.output_audio_transcript.delta", "delta": " there"}
        part = {"type": "output_audio", "transcript": "Hello there"}
        wire = {"id": "a", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        over = {"type": "response.output_item.done", "response_id": "r", "item": wire}
        await service.say(more, words, over, done("r"))
        await settle(lambda: item.status == "completed")
        assert (item.formatted.audio_ms, len(item.formatted.audio), item.formatted.transcript) == (100, 4800, "")
        assert item.content == [{"type": "output_audio", "transcript": ""}]
        assert deltas == [None]


async def test_an_answer_that_waits_for_another_one_is_cancelled_with_it() -> None:
    async with talking() as (client, service):
        await service.say(created("r"))
        await settle(lambda: client._answers.active)
        await client.create_response()
        await client.cancel_response()
        await service.say(done("r", "cancelled"))
        await settle(lambda: not client._answers.active)
        await quiet(client, service)
        assert "response.create" not in [event["type"] for event in service.received]


async def test_an_answer_asked_for_while_one_is_made_comes_after_it() -> None:
    async with talking() as (client, service):
        await service.say(created("r"))
        await settle(lambda: client._answers.active)
        await client.create_response()
        await quiet(client, service)
        assert "response.create" not in [event["type"] for event in service.received]
        await service.say(done("r"))
        await service.heard_type("response.create")


ASIDE = {"id": "o", "status": "in_progress", "output": []}


@pytest.mark.parametrize(
    ("profile", "aside"),
    [
        ("openai", {**ASIDE, "conversation_id": None}),
        ("xai", {**ASIDE, "conversation_id": None}),
        ("yuhuan", {**ASIDE, "conversation": "none"}),
    ],
)
async def test_a_response_beside_the_conversation_is_shown_and_changes_nothing(
    profile: str, aside: dict[str, Any]
) -> None:
    async with talking(profile=profile) as (client, service):
        ran: list[Any] = []
        shown: list[str] = []
        await client.add_tool(WEATHER, ran.append)
        client.on("realtime.event", lambda entry: shown.append(entry["event"]["type"]))
        begun = {"type": "response.created", "response": aside}
        events = [begun, *spoken("o", "b"), *call("o", 1), done("o"), *spoken("o", "b"), *call("o", 2)]
        events = [event for event in events if not event["type"].startswith("conversation.")]
        named = [created("r"), *spoken("r", "a"), done("r")]
        await service.say(*named, *events, created("s"), *spoken("s", "c"), {"type": "marker"})
        await settle(lambda: "marker" in shown)
        assert [item.id for item in client.conversation.get_items()] == ["a", "c"]
        assert not ran
        assert client._answers.active == {"s"}
        assert shown == [event["type"] for event in [*named, *events, created("s"), *spoken()]] + ["marker"]


async def test_a_null_in_place_of_the_conversation_says_nothing_where_none_is_ever_named() -> None:
    async with talking(profile="xai") as (client, service):
        await service.say({"type": "response.created", "response": {**ASIDE, "conversation_id": None}}, *spoken("o"))
        await settle(lambda: client.conversation.get_items())
        assert client._answers.active == {"o"}


@pytest.mark.parametrize(
    "events",
    [
        [done("r"), created("r")],
        [{"type": "response.created", "response": {"conversation_id": "c"}}, done("r")],
    ],
    ids=["in the wrong order", "only the end has an id"],
)
async def test_a_response_that_is_over_holds_no_later_one_up(events: list[dict[str, Any]]) -> None:
    async with talking() as (client, service):
        seen: list[Any] = []
        client.realtime.on("server.marker", seen.append)
        await service.say(*events, {"type": "marker"})
        await settle(lambda: seen)
        assert not client._answers.active
        await client.create_response()
        (asked,) = await service.heard_type("response.create")
        assert asked["event_id"] == client._answers._asked


@pytest.mark.parametrize(
    "refused",
    [
        {"code": "conversation_already_has_active_response", "message": "busy"},
        {"code": None, "message": "Conversation already has an active response"},
    ],
)
async def test_an_answer_refused_because_one_is_active_is_asked_for_again(refused: dict[str, Any]) -> None:
    async with talking() as (client, service):
        await client.create_response()
        await service.say(created("r"), {"type": "error", "error": refused}, done("r"))
        await service.heard_type("response.create", 2)
        await quiet(client, service)
        assert len(await service.heard_type("response.create")) == 2, "once more, and not again and again"


async def test_items_are_deleted_by_the_service() -> None:
    async with talking() as (client, service):
        await service.say(*spoken()[:2])
        await settle(lambda: client.conversation.get_items())
        await client.delete_item("a")
        await service.heard_type("conversation.item.delete")
        assert client.conversation.get_item("a") is not None
        await service.say({"type": "conversation.item.deleted", "item_id": "a"})
        await settle(lambda: not client.conversation.get_items())


# ---------------------------------------------------------------- errors and ends


async def test_a_lost_connection_is_an_error_and_ends_every_wait() -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        errors: list[RealtimeError] = []
        client.on("error", errors.append)
        await client.connect()
        await asyncio.wait_for(service.connected.wait(), 5)
        waits = [asyncio.create_task(wait()) for wait in (client.wait_for_next_item, client.wait_for_session_created)]
        await asyncio.sleep(0)
        service.break_off()
        item, greeting = await asyncio.gather(*waits, return_exceptions=True)
        assert item is None
        assert isinstance(greeting, RealtimeError)
        assert [error.code for error in errors] == ["connection_lost"]
        assert not client.is_connected


@pytest.mark.parametrize("who", ["the service", "the client"])
async def test_the_greeting_of_a_session_that_is_over_counts_no_more(who: str) -> None:
    async with talking() as (client, service):
        await (service.hang_up(1011) if who == "the service" else client.disconnect())
        await settle(lambda: not client.is_connected)
        with pytest.raises(RealtimeError) as caught:
            await client.wait_for_session_created()
        assert caught.value.code == "not_connected"


@pytest.mark.parametrize("who", ["the service", "the client"])
async def test_the_end_of_a_session_ends_the_waits_of_the_layer_below(who: str) -> None:
    async with talking() as (client, service):
        waiting = asyncio.create_task(client.realtime.wait_for_next("server.response.done"))
        told = asyncio.create_task(client.realtime.wait_for_next("close"))
        await asyncio.sleep(0)
        await (service.hang_up() if who == "the service" else client.realtime.disconnect())
        assert await asyncio.wait_for(waiting, 5) is None
        assert await asyncio.wait_for(told, 5) == {"error": False, "code": 1000}


async def test_a_disconnect_that_is_cancelled_leaves_nothing_open_and_ends_no_later_session() -> None:
    async with talking() as (client, service):
        closes: list[Any] = []
        client.realtime.on("close", closes.append)
        service.stop_reading()
        leaving = asyncio.create_task(client.disconnect())
        await settle(lambda: client.realtime._leaving)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert closes == [{"error": False, "code": 1000}]
        assert not client.is_connected
        (closing,) = client.realtime._closing
        late: list[Any] = []
        client.realtime.on("server.late", late.append)
        await service.say({"type": "late"})
        service.go_on_reading()
        service.connected.clear()
        await client.connect()
        await asyncio.wait_for(closing, 5)
        await service.say(CREATED)
        assert await client.wait_for_session_created()
        assert len(closes) == 1
        assert late == []
        await settle(lambda: service.sessions == 1)


async def test_a_session_that_was_lost_is_kept_alive_no_longer() -> None:
    async with talking(profile="meshapi") as (client, service):
        keeper = client.realtime._keeper
        assert keeper is not None
        await service.hang_up(1011)
        await settle(lambda: not client.is_connected)
        await asyncio.wait([keeper], timeout=5)
        assert keeper.cancelled()


async def test_a_listener_that_raises_does_not_stop_the_conversation() -> None:
    async with talking() as (client, service):

        def broken(payload: Any) -> None:
            raise ValueError("mine")

        client.on("conversation.updated", broken)
        client.realtime.on("server.*", broken)
        client.realtime.on("server.response.created", broken)
        await service.say(created("r"), *spoken(), done("r"))
        await settle(
            lambda: client.conversation.get_items() and client.conversation.get_items()[0].status == "completed"
        )


async def test_a_tool_still_running_is_cancelled_when_the_client_leaves() -> None:
    async with talking() as (client, service):
        started, ended = asyncio.Event(), asyncio.Event()

        async def weather(arguments: Any) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        await client.add_tool(WEATHER, weather)
        await service.say(created("r"), *call("r", 1))
        await asyncio.wait_for(started.wait(), 5)
        await client.disconnect()
        await asyncio.wait_for(ended.wait(), 5)
        assert client.conversation.get_items() == []


async def test_events_have_both_shapes_names() -> None:
    async with talking() as (client, service):
        heard: list[str] = []
        client.realtime.on("server.response.text.delta", lambda event: heard.append(event["delta"]))
        client.realtime.on("server.response.output_text.delta", lambda event: heard.append(event["delta"]))
        await service.say(
            {"type": "response.output_text.delta", "delta": "ga"}, {"type": "response.text.delta", "delta": "beta"}
        )
        await settle(lambda: len(heard) == 4)
        assert heard == ["ga", "ga", "beta", "beta"]


async def test_bare_binary_audio_is_an_audio_delta() -> None:
    async with talking() as (client, service):
        await service.say(b"\1\0\2\0")
        await settle(lambda: client.conversation.get_items())
        assert bytes(client.conversation.get_items()[0].formatted.audio) == b"\1\0\2\0"


async def test_a_quiet_service_that_hangs_up_on_quiet_clients_is_kept_awake() -> None:
    profile = msgspec.structs.replace(builtin()["meshapi"], keepalive_s=0.01)
    async with talking(profile=profile) as (_, service):
        updates = await service.heard_type("session.update", 3)
        assert updates[-1] == {"type": "session.update", "session": {"type": "realtime"}}


async def test_the_key_is_not_in_the_clients_repr() -> None:
    assert "sk-secret" not in repr(RealtimeClient(api_key="sk-secret"))


async def test_what_an_earlier_session_complained_of_does_not_explain_the_end_of_the_next() -> None:
    async with talking() as (client, service):
        await service.say({"type": "error", "error": {"code": "invalid_value", "message": "no"}})
        await client.wait_for_next("error", 5)
        await client.disconnect()
        service.connected.clear()
        await client.connect()
        await asyncio.wait_for(service.connected.wait(), 5)
        service.break_off()
        with pytest.raises(RealtimeError) as caught:
            await client.wait_for_session_created()
        assert caught.value.code == "connection_lost"


@pytest.mark.parametrize(
    ("profile", "fields", "why"),
    [
        ("openai-beta", {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8000}}}}, "24000 Hz"),
        ("openai", {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}, "24000 Hz"),
        ("openai", {"audio": {"input": {"format": {"type": "audio/pcmu", "rate": 16_000}}}}, "8000 Hz"),
        ("yuhuan", {"input_audio_format": "g711_ulaw"}, "takes pcm16, not mulaw"),
        ("openai", {"type": "transcription"}, "type: found 'transcription'"),
    ],
)
async def test_a_session_the_service_does_not_have_is_refused(profile: str, fields: dict[str, Any], why: str) -> None:
    client = RealtimeClient(profile=profile, api_key="k")
    with pytest.raises(UsageError, match=why):
        await client.update_session(**fields)
    await client.update_session(type="realtime", audio={"input": {"format": {"type": "audio/pcm", "rate": 24_000}}})


async def test_in_manual_mode_only_what_the_service_still_holds_is_committed() -> None:
    async with talking() as (client, service):
        await client.update_session(turn_detection="none")
        await client.append_input_audio(bytes(4800))
        await client.realtime.send("input_audio_buffer.clear")
        await client.create_response()
        await client.append_input_audio(b"\x01" * 4800)
        await client.realtime.send("input_audio_buffer.commit")
        await service.say(created("r"), done("r"))
        await client.create_response()
        await quiet(client, service)
        assert len(await service.heard_type("input_audio_buffer.commit")) == 1
        await service.say(
            {"type": "input_audio_buffer.committed", "item_id": "u"},
            {"type": "conversation.item.added", "item": {"id": "u", "type": "message", "role": "user", "content": []}},
        )
        await settle(lambda: client.conversation.get_item("u"))
        assert bytes(client.conversation.get_item("u").formatted.audio) == b"\x01" * 4800


async def test_what_a_service_committed_turn_by_turn_is_not_committed_again() -> None:
    async with talking() as (client, service):
        await client.update_session(turn_detection={"type": "server_vad"})
        await client.append_input_audio(bytes(4800))
        await service.say({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 100, "item_id": "u"})
        await settle(lambda: client._turn_end_ms)
        await client.update_session(turn_detection="none")
        await client.create_response()
        await quiet(client, service)
        assert not await service.heard_type("input_audio_buffer.commit", 0)


async def test_what_a_service_still_holds_of_a_turn_is_committed_where_turns_become_manual() -> None:
    async with talking() as (client, service):
        await client.update_session(turn_detection={"type": "server_vad"})
        await client.append_input_audio(b"\1" * 4800 + b"\2" * 4800)
        await service.say({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 100, "item_id": "u"})
        await settle(lambda: client._turn_end_ms)
        await client.update_session(turn_detection="none")
        await client.create_response()
        await quiet(client, service)
        assert len(await service.heard_type("input_audio_buffer.commit")) == 1
        wire = {"id": "v", "type": "message", "role": "user", "content": []}
        await service.say({"type": "conversation.item.added", "item": wire})
        await settle(lambda: client.conversation.get_item("v"))
        assert bytes(client.conversation.get_item("v").formatted.audio) == b"\2" * 4800


async def test_half_a_sample_is_refused() -> None:
    async with talking() as (client, _):
        with pytest.raises(UsageError, match=r"^audio: found 4801 bytes"):
            await client.append_input_audio(bytes(4801))


async def test_who_looks_at_an_items_audio_does_not_stop_it_from_growing_or_being_cut() -> None:
    async with talking() as (client, service):
        views: list[memoryview] = []
        client.on("conversation.updated", lambda change: views.append(memoryview(change["item"].formatted.audio)))
        await service.say(*spoken(ms=100), *spoken(ms=100)[-1:])
        await settle(lambda: (item := client.conversation.get_item("a")) and item.formatted.audio_ms == 200)
        item = client.conversation.get_item("a")
        assert item is not None and len(item.formatted.audio) == 48 * 200
        cut = {"item_id": "a", "content_index": 0, "audio_end_ms": 50}
        await service.say({"type": "conversation.item.truncated", **cut})
        await settle(lambda: item.truncated)
        assert len(item.formatted.audio) == 48 * 50 and any(len(view) == 48 * 200 for view in views)


async def test_a_response_that_failed_is_an_error() -> None:
    async with talking() as (client, service):
        errors: list[RealtimeError] = []
        client.on("error", errors.append)
        why = {
            "type": "failed",
            "error": {"type": "server_error", "code": "insufficient_quota", "message": "no credit"},
        }
        await service.say(created("r"), {"type": "response.done", "response": {"id": "r", "status": "failed"}})
        await service.say({"type": "response.done", "response": {"id": "s", "status": "failed", "status_details": why}})
        await settle(lambda: len(errors) == 2)
        assert [error.code for error in errors] == ["unknown", "insufficient_quota"]
        assert "no credit" in str(errors[1])


@pytest.mark.parametrize("named", [True, False])
async def test_what_was_asked_for_in_words_of_its_own_is_not_repeated_without_them(named: bool) -> None:
    async with talking() as (client, service):
        await service.say(created("r"))
        await settle(lambda: client._answers.active)
        await client.realtime.send("response.create", {"response": {"instructions": "Greet the caller now."}})
        (asked,) = await service.heard_type("response.create")
        refusal = {"code": "conversation_already_has_active_response", "message": "", "event_id": asked["event_id"]}
        await service.say({"type": "error", "error": refusal if named else {**refusal, "event_id": None}}, done("r"))
        await settle(lambda: not client._answers.active)
        await quiet(client, service)
        assert len(await service.heard_type("response.create")) == 1


async def test_a_greeting_that_does_not_come_is_waited_for_as_long_as_one_likes() -> None:
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="k")
        await client.connect()
        assert not await client.wait_for_session_created(0.05)
        await service.say(CREATED)
        assert await client.wait_for_session_created(5)
        await client.disconnect()


async def test_a_session_that_somebody_else_configured_is_left_as_it_is() -> None:
    """A call under way, a client secret, a stored prompt."""
    heard = {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "semantic_vad"}}
    session = {"id": "s", "instructions": "Book tables.", "audio": {"input": heard, "output": {"format": "nonsense"}}}
    async with running() as service:
        client = RealtimeClient(url=service.url, api_key="ek_0")
        await client.connect(configure=False)
        await service.say({**CREATED, "session": session})
        await client.wait_for_session_created()
        assert client.session["input_format"] == ("mulaw", 8000) and client.turn_detection_type == "semantic_vad"
        assert client.session["output_format"] == ("pcm16", 24000)
        await client.update_session(voice="cedar")
        await client.add_tool(WEATHER, lambda arguments: 1)
        await client.remove_tool("get_weather")
        voice, tools, no_tools = await service.heard(3)
        assert voice["session"] == {"type": "realtime", "audio": {"output": {"voice": "cedar"}}}
        assert tools["session"] == {"type": "realtime", "tools": [{"type": "function", **WEATHER}]}
        assert no_tools["session"] == {"type": "realtime", "tools": []}
        await client.disconnect()
        await client.connect()
        ours = (await service.heard(4))[3]["session"]
        assert ours["tool_choice"] == "auto" and ours["audio"]["input"]["turn_detection"] is None
        assert ours["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
        await client.disconnect()


async def test_a_side_of_audio_that_there_is_not_is_refused_by_name() -> None:
    client = RealtimeClient(api_key="k")
    with pytest.raises(UsageError, match="'inpt'; write input or output"):
        await client.update_session(audio={"inpt": {"turn_detection": None}})
