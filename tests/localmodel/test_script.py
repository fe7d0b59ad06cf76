"""Every key of a script, over a WebSocket, on a clock of our own."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.errors import ConfigError
from bridge.localmodel import wire
from bridge.localmodel.script import Scripts
from bridge.sim import virtual
from tests.localmodel.client import Client, connected, conversation, model
from tests.localmodel.stage import audio_ms, error, every, only, said

Scene = Callable[[Client], Awaitable[None]]


def play(script: dict[str, Any], scene: Scene, **options: Any) -> Client:
    """One connection to a server with this script; what it received."""

    async def main() -> Client:
        async with conversation(script, **options) as client:
            await scene(client)
        return client

    return virtual.run(main())


async def ask(client: Client) -> None:
    """One response, to its end or for three seconds."""
    await client.read_until("session.created")
    await client.send("response.create")
    await client.read_for(3000)


async def listen(client: Client) -> None:
    await client.read_for(5000)


def deltas_ms(client: Client) -> float:
    deltas = every(client.events, "response.output_audio.delta")
    return sum(len(base64.b64decode(delta["delta"])) for delta in deltas) / 48


# ---------------------------------------------------------------- connecting


def test_refuse_answers_with_the_status_and_headers() -> None:
    script = {"refuse": {"status": 429, "headers": {"Retry-After": "2"}, "body": "busy"}}
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        play(script, listen)
    assert raised.value.status == 429
    assert raised.value.headers is not None
    assert raised.value.headers["Retry-After"] == "2"


def test_a_client_that_leaves_before_the_delayed_upgrade_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with model({"handshake_delay_ms": 4000}) as server:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), connected(server):
                    pass
            await asyncio.sleep(4)

    virtual.run(main())
    assert caplog.records == []


def test_handshake_delay_holds_the_upgrade_back() -> None:
    client = play({"handshake_delay_ms": 4000}, listen)
    assert client.at_ms("session.created") == pytest.approx(4000, abs=1)


def test_created_delay_holds_the_first_event_back() -> None:
    client = play({"created_delay_ms": 2000}, listen)
    assert client.at_ms("session.created") == pytest.approx(2000, abs=1)


def test_no_created_is_silence_whatever_one_sends() -> None:
    async def scene(client: Client) -> None:
        await client.send("session.update", session={"type": "realtime"})
        await client.read_for(5000)

    assert play({"no_created": True}, scene).events == []


def test_created_error_comes_in_place_of_the_session_and_ends_it() -> None:
    client = play({"created_error": {"code": "insufficient_quota", "message": "no credit"}}, listen)
    assert client.types() == ["error", "closed"]
    assert client.events[0]["error"]["code"] == "insufficient_quota"


def test_a_script_may_be_for_some_connections_only() -> None:
    script = {"connections": [{"on": 1, "no_created": True}, {"on": [3], "created_error": {"code": "x"}}]}

    async def main() -> list[list[str]]:
        seen = []
        async with model(script) as server:
            for _ in range(4):
                async with connected(server) as client:
                    await client.read_for(100)
                    seen.append(client.types())
        return seen

    assert virtual.run(main()) == [[], ["session.created"], ["error", "closed"], ["session.created"]]


def test_dialect_beta_speaks_beta_to_whoever_comes() -> None:
    client = play({"dialect": "beta"}, ask)
    assert "audio" not in client.first("session.created")["session"]
    assert "response.audio.delta" in client.types()


def test_refuse_beta_ends_a_beta_client_with_4000() -> None:
    client = play({"refuse_beta": True}, listen, headers={"OpenAI-Beta": "realtime=v1"})
    assert error(client.events)["code"] == "beta_api_shape_disabled"
    assert client.events[-1]["code"] == 4000


def test_max_session_expires_the_session() -> None:
    client = play({"max_session_s": 3}, listen)
    assert error(client.events)["code"] == "session_expired"
    assert client.events[-1] == {"type": "closed", "code": 1001, "reason": error(client.events)["message"]}
    assert client.at_ms("closed") == pytest.approx(3000, abs=1)


def test_binary_audio_goes_both_ways() -> None:
    async def scene(client: Client) -> None:
        await client.read_until("session.created")
        await client.socket.send_bytes(b"\0" * 48 * 500)
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        await client.read_until("response.done")

    client = play({"binary_audio": True}, scene)
    assert only(client.events, "input_audio_buffer.committed")
    assert sum(len(event["data"]) for event in every(client.events, "binary")) == 4 * 250 * 48
    assert "response.output_audio.delta" not in client.types()


def test_binary_frames_are_refused_otherwise() -> None:
    async def scene(client: Client) -> None:
        await client.socket.send_bytes(b"\0\0")
        await client.read_until("error")

    assert error(play({}, scene).events)["code"] == "invalid_event"


# ---------------------------------------------------------------- what is sent


def test_the_speech_to_speech_profile_leaves_out_what_that_server_leaves_out() -> None:
    async def scene(client: Client) -> None:
        await ask(client)
        await client.socket.send_str(
            '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[]}}'
        )
        await client.send("input_audio_buffer.clear")
        item_id = client.first("response.output_audio.done")["item_id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=10)
        await client.read_for(100)

    client = play({"profile": "speech-to-speech"}, scene)
    assert set(client.types()) == {
        "session.created",
        "response.created",
        "conversation.item.created",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.done",
    }


def test_omitted_events_never_come() -> None:
    assert "response.done" not in play({"omit": ["response.done"]}, ask).types()


def test_duplicated_events_come_twice() -> None:
    assert play({"duplicate": ["response.created"]}, ask).types().count("response.created") == 2


def test_a_delayed_event_comes_so_much_later_and_others_overtake_it() -> None:
    prompt, late = play({}, ask), play({"delay": {"response.created": 300}}, ask)
    assert late.at_ms("response.created") == pytest.approx(prompt.at_ms("response.created") + 300, abs=1)
    assert late.types().index("response.output_audio.delta") < late.types().index("response.created")
    with pytest.raises(ConfigError, match="not negative"):
        Scripts.from_dict({"delay": {"response.created": -1}})


def test_reordered_events_change_places_with_their_successor() -> None:
    types = play({"reorder": ["response.created"]}, ask).types()
    assert types[1:3] == ["rate_limits.updated", "response.created"]


def test_ignored_client_events_are_not_answered() -> None:
    async def scene(client: Client) -> None:
        await client.send("conversation.item.truncate", item_id="nobody", content_index=0, audio_end_ms=0)
        await client.send("response.cancel")
        await client.read_for(100)

    client = play({"ignore": ["conversation.item.truncate", "response.cancel"]}, scene)
    assert client.types() == ["session.created"]


def test_the_callers_sound_may_be_ignored() -> None:
    async def scene(client: Client) -> None:
        loud = base64.b64encode(b"\x00\x40\x00\xc0" * 4800).decode()
        for _ in range(5):
            await client.send("input_audio_buffer.append", audio=loud)
        await client.read_for(1000)

    assert "input_audio_buffer.speech_started" in play({}, scene).types()
    assert play({"ignore": ["input_audio_buffer.append"]}, scene).types() == ["session.created"]


@pytest.mark.parametrize(("stuck", "stops"), [(True, 0), ([1], 1), (False, 2)])
def test_stuck_detection_never_hears_the_end(stuck: Any, stops: int) -> None:
    loud, quiet = (base64.b64encode(sound * 480).decode() for sound in (b"\x00\x40\x00\xc0", b"\0\0\0\0"))

    async def scene(client: Client) -> None:
        await client.read_until("session.created")
        for _ in range(2):
            for sound in [quiet] * 25 + [loud] * 25 + [quiet] * 50:
                await client.send("input_audio_buffer.append", audio=sound)
            await client.send("input_audio_buffer.commit")  # what a client does that listens for itself
            await client.read_for(200)

    client = play({"stuck_vad": stuck}, scene)
    assert len(every(client.events, "input_audio_buffer.speech_started")) == 2
    assert len(every(client.events, "input_audio_buffer.speech_stopped")) == stops


# ---------------------------------------------------------------- steps


def test_drop_resets_the_connection_after_the_nth_event() -> None:
    client = play({"steps": [{"after_events": 5, "drop": True}]}, ask)
    assert len(client.events) <= 6
    assert client.types()[-1] in ("lost", "closed")
    assert client.events[-1].get("code") in (None, 1006)


def test_close_comes_after_the_nth_event_of_a_type() -> None:
    step = {"after_type": "response.output_audio.delta", "nth": 3, "close": {"code": 1011, "reason": "oops"}}
    client = play({"steps": [step]}, ask)
    assert len(every(client.events, "response.output_audio.delta")) == 3
    assert client.events[-1] == {"type": "closed", "code": 1011, "reason": "oops"}


def test_a_step_may_name_a_beta_event() -> None:
    step = {"after_type": "response.audio.delta", "close": {"code": 1011}}
    assert play({"dialect": "beta", "steps": [step]}, ask).types().count("response.audio.delta") == 1


@pytest.mark.parametrize(
    ("what", "received"),
    [
        ({"error": "gone wrong"}, {"type": "error", "event_id": "event_scripted", "error": "gone wrong"}),
        ({"send": {"type": "error", "code": "upstream_error"}}, {"type": "error", "code": "upstream_error"}),
        ({"send": {"type": "conversation.item.speaker", "x": 1}}, {"type": "conversation.item.speaker", "x": 1}),
        ({"send_text": "{not json"}, {"type": "garbage", "text": "{not json"}),
        ({"send_binary": "00ff10"}, {"type": "binary", "data": b"\x00\xff\x10"}),
    ],
)
def test_anything_can_be_sent_at_a_time(what: dict[str, Any], received: dict[str, Any]) -> None:
    client = play({"steps": [{"after_ms": 1500, **what}]}, listen)
    assert client.received[-1][1] == received
    assert client.received[-1][0] == pytest.approx(1500, abs=1)


@pytest.mark.parametrize("sent", [{"type": "response.output_audio.delta", "delta": "AAAA"}, [1, 2], "words", {}])
def test_what_a_script_sends_goes_out_as_written_also_where_sound_is_binary(sent: Any) -> None:
    async def main() -> list[str]:
        frames: list[str] = []
        server = model({"binary_audio": True, "steps": [{"after_ms": 100, "send": sent}]})
        server.attach(lambda frame: frames.append(str(frame)))
        await asyncio.sleep(1)
        return frames

    assert json.loads(virtual.run(main())[-1]) == sent


def test_error_envelopes_are_complete() -> None:
    client = play({"steps": [{"after_ms": 10, "error": {"code": "server_error", "message": "m"}}]}, listen)
    described = error(client.events)
    assert described == {
        "type": "invalid_request_error",
        "code": "server_error",
        "message": "m",
        "param": None,
        "event_id": None,
    }


def test_expire_ends_the_session_as_its_time_limit_does() -> None:
    client = play({"steps": [{"after_ms": 700, "expire": True}]}, listen)
    assert error(client.events)["code"] == "session_expired"
    assert client.events[-1]["code"] == 1001


def test_half_open_neither_speaks_nor_answers_pings() -> None:
    async def scene(client: Client) -> None:
        await client.read_until("session.created")
        await client.read_for(200)
        await client.send("response.create")
        await client.socket.ping()
        await client.read_for(10_000)

    client = play({"steps": [{"after_ms": 100, "half_open": True}]}, scene, autoping=False)
    assert client.types() == ["session.created"]


def test_a_stall_holds_everything_back_and_loses_nothing() -> None:
    step = {"after_type": "response.content_part.added", "stall_ms": 2500}
    client = play({"steps": [step]}, ask)
    assert client.at_ms("response.output_audio.delta") == pytest.approx(2500, abs=5)
    assert deltas_ms(client) == 1250


# ---------------------------------------------------------------- responses


def test_a_silent_response_never_comes_and_the_next_does() -> None:
    async def scene(client: Client) -> None:
        await client.read_until("session.created")
        for _ in range(2):
            await client.send("response.create")
            await client.read_for(1500)

    client = play({"responses": [{"nth": 1, "silent": True}]}, scene)
    assert client.at_ms("response.created") >= 1500


def test_failed_responses_say_so_in_their_status() -> None:
    client = play({"responses": [{"status": "failed", "code": "rate_limit_exceeded", "message": "slow down"}]}, ask)
    response = client.first("response.done")["response"]
    assert response["status"] == "failed"
    assert response["status_details"]["error"]["code"] == "rate_limit_exceeded"
    assert response["usage"] is None
    assert "error" not in client.types()


def test_a_response_may_fail_in_the_middle() -> None:
    client = play({"responses": [{"status": "incomplete", "reason": "content_filter", "stop_after_ms": 400}]}, ask)
    response = client.first("response.done")["response"]
    assert response["status_details"] == {"type": "incomplete", "reason": "content_filter"}
    assert response["output"][0]["status"] == "incomplete"
    assert deltas_ms(client) == 400


def test_answers_take_the_brains_place_until_they_are_used_up() -> None:
    async def scene(client: Client) -> None:
        await client.read_until("session.created")
        for _ in range(3):
            await client.send("response.create")
            await client.read_until("response.done")

    client = play({"answers": ["One.", "Two."]}, scene)
    assert said(client.events) == "One. Two. Are you still there?"


def test_a_reply_may_come_in_several_items() -> None:
    client = play({"items": 3}, ask)
    assert [item["type"] for item in client.first("response.done")["response"]["output"]] == ["message"] * 3
    assert said(client.events) == "Hello, this is the shop."


def test_generation_may_be_slower_than_the_ear() -> None:
    client = play({"speed": 0.5, "delta_ms": 100, "first_audio_ms": 300}, ask)
    times = [at for at, event in client.received if event["type"] == "response.output_audio.delta"]
    assert times[0] == pytest.approx(300, abs=5)
    assert times[1] - times[0] == pytest.approx(200, abs=1)


def test_the_server_may_reckon_less_than_it_sent() -> None:
    async def scene(client: Client) -> None:
        await ask(client)
        item_id = client.first("response.output_audio.done")["item_id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1200)
        await client.read_for(100)

    client = play({"count_less_ms": 85}, scene)
    assert error(client.events)["message"] == "Audio content of 1165ms is already shorter than 1200ms"


def test_replies_may_be_text_where_sound_was_due() -> None:
    client = play({"text_only": True}, ask)
    assert only(client.events, "response.output_text.done")["text"] == "Hello, this is the shop."
    assert "response.output_audio.delta" not in client.types()


# ---------------------------------------------------------------- reading


def test_a_script_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("connections:\n  - {on: 2, speed: 0.5, responses: [{nth: 2, answer: Well.}]}\n")
    scripts = Scripts.load(path)
    assert scripts.of(1).response(1).speed == 5
    assert scripts.of(2).response(1).speed == 0.5
    assert (scripts.of(2).response(2).answer, scripts.of(2).response(2).speed) == ("Well.", 0.5)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "expected a mapping"),
        ({"drop": True}, "drop: unknown key; there are answers, "),
        ({"frist_audio_ms": 300}, "frist_audio_ms: unknown key; did you mean first_audio_ms?"),
        ({"response": [{"nth": 2}]}, "response: unknown key; did you mean responses?"),
        ({"refuse": {"state": 503}}, "refuse.state: unknown key; did you mean status?"),
        ({"refuse": {"status": 101}}, "refuse: status is from 200 to 599, found 101"),
        ({"refuse": {"headers": {"A": "1\r\nB: 2"}}}, "refuse: headers: names and values are one line each"),
        ({"refuse": 503}, "refuse: expected a mapping of keys, found 503"),
        ({"handshake_delay_ms": -1, "created_delay_ms": -2}, "created_delay_ms is not negative, found -2"),
        ({"max_session_s": 0}, "max_session_s is"),
        ({"first_audio_ms": -1}, "first_audio_ms is not negative, found -1"),
        ({"stop_after_ms": float("nan")}, "stop_after_ms: nan is no number to reckon with"),
        ({"stuck_vad": [0]}, "stuck_vad: turns are counted from 1"),
        ({"omit": ["response.don"]}, "omit: no event 'response.don'; did you mean response.done?"),
        ({"reorder": ["response.audio.delta"]}, "no event 'response.audio.delta'; write response.output_audio.delta"),
        ({"duplicate": ["response.create"]}, "duplicate: no event 'response.create'; did you mean response.created?"),
        ({"delay": {"sesion.created": 5}}, "delay: no event 'sesion.created'; did you mean session.created?"),
        ({"ignore": ["response.cancelled"]}, "ignore: no event 'response.cancelled'; did you mean response.cancel?"),
        ({"answer": "Hello."}, "answer: it is for single responses; write it under `responses`"),
        ({"speed": 0}, "speed must be above 0"),
        ({"speed": "fast"}, "speed: expected `float`, got `str`, found 'fast'"),
        ({"steps": [{"drop": True}]}, "one of after_events, after_type, after_ms"),
        ({"steps": [{"after_ms": 1}]}, "does one thing"),
        ({"steps": [{"after_ms": 1, "drop": True, "expire": True}]}, "does one thing"),
        ({"steps": [{"after_ms": 1, "send_binary": "xyz"}]}, "steps[1]: send_binary: 'xyz' is not hexadecimal"),
        ({"steps": [{"after_ms": 1, "close": {"code": 1006}}]}, "steps[1].close: code: 1006 is no code to close with"),
        ({"steps": [{"after_ms": 1, "close": {"reason": "é" * 62}}]}, "longer than the 123 bytes"),
        ({"steps": [{"after_ms": 1, "send": {"a": {True: 1}}}]}, "steps[1]: send: cannot be written as JSON"),
        ({"steps": [{"after_ms": 1, "stal_ms": 3}]}, "steps[1].stal_ms: unknown key; did you mean stall_ms?"),
        ({"steps": [{"after_ms": -1, "drop": True}]}, "after_ms is not negative, found -1"),
        ({"steps": [{"after_events": -1, "drop": True}]}, "after_events is at least 1, found -1"),
        ({"steps": [{"after_type": "error", "nth": 0, "drop": True}]}, "nth is at least 1, found 0"),
        ({"steps": [{"after_type": "response.doen", "drop": True}]}, "after_type: no event 'response.doen'; did you"),
        ({"steps": {"after_ms": 1}}, "steps: expected a list"),
        ({"responses": [{"nth": 1, "silnt": True}]}, "responses[1].silnt: unknown key; did you mean silent?"),
        ({"responses": [{"code": "server_error"}]}, "responses[1]: code belongs to `status: failed`"),
        (
            {"responses": [{"nth": 1}, {"status": "failed", "reason": "x"}]},
            "responses[2]: reason belongs to `status: i",
        ),
        ({"stop_after_ms": 400}, "stop_after_ms belongs to `status: failed` or `status: incomplete`"),
        ({"message": "x", "responses": [{"status": "incomplete"}]}, "message belongs to `status: failed`"),
        ({"responses": [{"silent": True, "answer": "Hello."}]}, "responses[1]: answer: a response that is silent"),
        ({"steps": [{"after_events": 3, "nth": 1, "drop": True}]}, "steps[1]: nth belongs to after_type"),
        ({"responses": [{"nth": True}]}, "nth: write a number from 1"),
        ({"responses": [{"nth": 0}]}, "nth: write a number from 1"),
        ({"responses": {"nth": 2, "silent": True}}, "responses: make it a list of mappings"),
        ({"responses": [2]}, "responses: make it a list of mappings"),
        ({"responses": None}, "responses: make it a list of mappings"),
        ({"connections": [{"on": "first"}]}, "connections[1]: on: write a number"),
        ({"connections": [], "speed": 2}, "the only key on its level"),
    ],
)
def test_scripts_that_do_not_hold_say_why(document: Any, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Scripts.from_dict(document, source="bad.yaml")
    assert told in str(raised.value)
    assert "bad.yaml" in str(raised.value)


def test_what_is_said_for_all_responses_may_mean_something_in_one_of_them_alone() -> None:
    failing = {"status": "failed", "stop_after_ms": 400}
    script = Scripts.from_dict({"code": "rate_limit_exceeded", "responses": [{"nth": 2, **failing}]}).of(1)
    assert (script.response(2).status, script.response(2).code) == ("failed", "rate_limit_exceeded")
    script = Scripts.from_dict({**failing, "responses": [{"nth": 2, "message": "Too fast."}]}).of(1)
    assert (script.response(2).status, script.response(2).message) == ("failed", "Too fast.")
    script = Scripts.from_dict({"speed": 2, "responses": [{"nth": 2, "silent": True}]}).of(1)
    assert script.response(2).silent


def test_all_mistakes_of_a_script_are_told_at_once() -> None:
    wrong = {"omitt": [], "speed": 0, "steps": [{"after_ms": -1}], "responses": [{"nth": 0}, {"itmes": 2}]}
    with pytest.raises(ConfigError) as raised:
        Scripts.from_dict(wrong, source="bad.yaml")
    keys = [mistake.removeprefix("bad.yaml: ").split(":")[0] for mistake in raised.value.mistakes]
    assert keys == ["responses[1].nth", "responses[2].itmes", "omitt", "steps[1]", "speed must be above 0"]


def test_a_key_written_twice_in_a_script_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("steps:\n  - {after_ms: 1, after_ms: 2, drop: true}\nspeed: 0\nsteps: []\n")
    with pytest.raises(ConfigError) as raised:
        Scripts.load(path)
    assert list(raised.value.mistakes) == [
        f"{path}, line 2: after_ms is written twice. Keep one",
        f"{path}, line 4: steps is written twice. Keep one",
        f"{path}: speed must be above 0",
    ]


@pytest.mark.parametrize("room", ["session.py", "response.py"])
def test_every_event_that_is_sent_or_read_can_be_named_in_a_script(room: str) -> None:
    text = Path(wire.__file__).with_name(room).read_text("utf-8")
    sent = set(re.findall(r'_emit(?:_in)?\(\s*(?:item, )?"([a-z_.]+)"', text))
    taken = {
        name for line in re.findall(r"case (\".*\"):", text) for name in re.findall(r'"([a-z_]+\.[a-z_.]+)"', line)
    }
    assert sent and sent <= wire.SERVER_EVENTS
    assert taken <= wire.CLIENT_EVENTS and (taken == wire.CLIENT_EVENTS or room == "response.py")


def test_every_key_is_explained_in_the_modules_text() -> None:
    from bridge.localmodel import script

    keys = {*script.Script.__struct_fields__, *script.ResponseRule.__struct_fields__, *script.Step.__struct_fields__}
    explained = script.__doc__ or ""
    assert [key for key in keys - {"rule", "rules"} if f"{key}:" not in explained] == []


def test_audio_is_counted_as_it_was_sent() -> None:
    assert deltas_ms(play({}, ask)) == audio_ms([{"type": "response.output_audio.delta", "delta": b"\0" * 60_000}])


def test_asyncio_is_left_clean() -> None:
    async def main() -> int:
        async with conversation({"steps": [{"after_ms": 50, "drop": True}]}) as client:
            await client.read_for(1000)
        await asyncio.sleep(1)
        return len(asyncio.all_tasks())

    assert virtual.run(main()) == 1
