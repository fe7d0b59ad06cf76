"""The decoder's promises, beyond the golden files."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from typing import Any

import msgspec
import pybase64
import pytest

from bridge.call import events as ev
from bridge.realtime import dialect as words
from bridge.realtime.decoder import Decoder
from bridge.realtime.dialect import MADE_UP
from bridge.realtime.memory import Recent, Repeats
from bridge.realtime.profiles import builtin
from tests.realtime.test_wire import WIRE


def decoder(profile: str = "openai") -> Decoder:
    return builtin()[profile].dialect().decoder()


def read(reader: Decoder, *events: Any) -> list[Any]:
    return [fact for event in events for fact in reader.decode(json.dumps(event).encode())]


def kinds(facts: list[Any]) -> list[str]:
    return [type(fact).__name__ for fact in facts]


def call(status: str = "completed", arguments: str = "{}") -> dict[str, Any]:
    item = {"id": "i", "type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, "status": status}
    return {"type": "response.output_item.done", "response_id": "r", "item": item}


ARGUMENTS_DONE = {"type": "response.function_call_arguments.done", "response_id": "r", "item_id": "i", "call_id": "c"}
ARGUMENTS_DONE |= {"name": "f", "arguments": "{}"}
CREATED = {"type": "response.created", "response": {"id": "r", "conversation_id": "conv"}}


def done(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"type": "response.done", "response": {"id": "r", "status": status, **more}}


@pytest.mark.parametrize(
    ("events", "requested"),
    [
        ([CREATED, call(), done()], 1),
        ([CREATED, ARGUMENTS_DONE, done()], 1),
        ([CREATED, ARGUMENTS_DONE, call(), done(output=[call()["item"]])], 1),
        ([CREATED, done(output=[call()["item"]])], 1),
        ([CREATED, call("incomplete", '{"a'), done("cancelled")], 0),
        ([CREATED, ARGUMENTS_DONE, done("cancelled")], 0),
        ([CREATED, ARGUMENTS_DONE, done("incomplete")], 0),
        ([CREATED, ARGUMENTS_DONE, call("incomplete"), done()], 0),
        ([CREATED, call("cancelled"), call(), done()], 0),
        ([CREATED, ARGUMENTS_DONE], 0),
        ([call(), done(), call(), done()], 1),
    ],
)
def test_a_tool_is_requested_once_and_only_when_its_call_is_complete(events: list[Any], requested: int) -> None:
    facts = read(decoder(), *events)
    assert kinds(facts).count("ToolRequested") == requested


def test_a_tool_request_carries_what_scattered_events_told() -> None:
    added = {"type": "response.output_item.added", "response_id": "r"}
    added["item"] = {"id": "i", "type": "function_call", "call_id": "c", "name": "f", "status": "in_progress"}
    ended = {
        "type": "response.function_call_arguments.done",
        "response_id": "r",
        "item_id": "i",
        "arguments": '{"a":1}',
    }
    facts = read(decoder(), CREATED, added, ended, done())
    assert ev.ToolRequested("r", "i", "c", "f", '{"a":1}') in facts


def test_arguments_sent_as_an_object_become_text() -> None:
    event = call()
    event["item"]["arguments"] = {"city": "Oslo"}
    (request,) = [f for f in read(decoder(), CREATED, event) if isinstance(f, ev.ToolRequested)]
    assert request.arguments == '{"city":"Oslo"}'


def test_null_conversation_marks_a_response_out_of_band_only_where_conversations_are_named() -> None:
    beside = {"type": "response.created", "response": {"id": "x", "conversation_id": None}}
    assert read(decoder("openai"), beside) == [ev.ResponseStarted("x", True)]
    assert read(decoder("speech-to-speech"), beside) == [ev.ResponseStarted("x", False)]
    named = decoder("local")
    read(named, CREATED)
    assert read(named, beside) == [ev.ResponseStarted("x", True)]


def test_an_out_of_band_response_is_not_the_one_bare_events_belong_to() -> None:
    reader = decoder()
    beside = {"type": "response.created", "response": {"id": "x", "conversation_id": None}}
    facts = read(reader, CREATED, beside, {"type": "response.audio.delta", "delta": "AAAA"})
    assert facts[-1] == words.AudioDelta("r", f"{MADE_UP}item.1", 0, b"\0\0\0")


def test_an_item_without_an_announced_end_is_ended_by_its_response() -> None:
    delta = {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "AAAA"}
    assert kinds(read(decoder(), CREATED, delta, done())) == [
        "ResponseStarted",
        "AudioDelta",
        "ItemSpoken",
        "ResponseEnded",
    ]


def test_the_same_delta_twice_is_heard_once() -> None:
    delta = {
        "type": "response.output_audio.delta",
        "event_id": "e1",
        "response_id": "r",
        "item_id": "i",
        "delta": "AAAA",
    }
    other = {**delta, "event_id": "e2"}
    assert kinds(read(decoder(), CREATED, delta, delta, other)).count("AudioDelta") == 2


def test_a_service_that_gives_every_event_the_same_id_loses_nothing_but_a_guess() -> None:
    delta = {"type": "response.audio_transcript.delta", "event_id": "e", "response_id": "r", "item_id": "i"}
    facts = read(decoder(), *({**delta, "delta": word} for word in ("a", "b", "a", "a", "b")))
    assert [fact.text for fact in facts if isinstance(fact, ev.ModelSaid)] == ["a", "b", "a", "a", "b"]


def test_text_is_spoken_words_unless_a_transcript_brings_them() -> None:
    text = {"type": "response.text.delta", "response_id": "r", "item_id": "i", "delta": "Hi"}
    transcript = {"type": "response.audio_transcript.delta", "response_id": "r", "item_id": "i", "delta": "Hi"}
    assert kinds(read(decoder(), CREATED, text)) == ["ResponseStarted", "ModelSaid"]
    assert kinds(read(decoder(), CREATED, transcript, text)) == ["ResponseStarted", "ModelSaid"]


def test_late_audio_of_an_ended_response_starts_nothing() -> None:
    reader = decoder()
    read(reader, CREATED, done())
    delta = {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "AAAA"}
    assert kinds(read(reader, delta)) == ["AudioDelta"]


def test_a_made_up_response_ends_when_the_service_names_the_next() -> None:
    reader = decoder("yuhuan")
    read(reader, {"type": "response.audio.delta", "delta": "AAAA"})
    assert kinds(read(reader, CREATED)) == ["ItemSpoken", "ResponseEnded", "ResponseStarted"]


def test_binary_frames_are_audio_of_what_is_being_spoken() -> None:
    reader = decoder()
    read(reader, CREATED)
    (fact,) = reader.decode_binary(b"\1\2")
    assert fact == words.AudioDelta("r", f"{MADE_UP}item.1", 0, b"\1\2")


@pytest.mark.parametrize(
    ("event", "code", "message", "cure"),
    [
        ({"error": {"code": "session_expired", "message": "over"}}, "session_expired", "over", "rotate"),
        ({"error": "no realtime here", "code": "unsupported"}, "unsupported", "no realtime here", "note"),
        ({"code": "idle_timeout", "message": "quiet"}, "idle_timeout", "quiet", "note"),
        (
            {"error": {"code": None, "message": "Cancellation failed: no active response found"}},
            "unknown",
            None,
            "ignore",
        ),
        ({"error": {"type": "server_error", "message": "oops"}}, "server_error", "oops", "note"),
        ({"error": {"code": "invalid_request_error.beta_api_shape_disabled", "message": "x"}}, None, "x", "fatal"),
        ({}, "unknown", "the service reported an error", "note"),
        ({"error": None}, "unknown", None, "note"),
        ({"error": ["x"]}, "unknown", None, "note"),
        ({"error": {"code": 7, "message": 8}}, "unknown", "", "note"),
    ],
)
def test_error_envelopes_of_every_make_are_read(event: Any, code: str | None, message: str | None, cure: str) -> None:
    (fact,) = read(decoder(), {"type": "error", **event})
    assert fact.cure == cure
    assert code is None or fact.code == code
    assert message is None or fact.message == message


def test_the_last_complaint_keeps_the_full_judgement_for_a_close_that_follows() -> None:
    reader = decoder("meshapi")
    error = {"code": "provider_error", "message": "down", "param": "p"}
    (fact,) = read(reader, {"type": "error", "error": error, "request_id": "req_1"})
    assert fact.cure == "note"
    assert reader.complaint is not None
    assert (reader.complaint.cure, reader.complaint.param, reader.complaint.request_id) == ("retry", "p", "req_1")


def test_a_key_quoted_in_an_error_is_masked() -> None:
    said = "Incorrect API key provided: sk-proj-abcdEFGH1234567890. You can find your key at example.com"
    (fact,) = read(decoder(), {"type": "error", "error": {"code": "invalid_api_key", "message": said}})
    assert "abcdEFGH" not in fact.message
    assert "Incorrect API key provided" in fact.message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b'{"type":1}',
        b'{"type":""}',
        b'{"type":["error"]}',
        b'{"type":"x","a":' + b"[" * 100_000,
        b'{"type":"x","a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"type":"x","a":NaN}',
        b'{"type":"x","a":' + b"9" * 5000 + b"}",
        b'{"type":"response.output_audio.delta","delta":"@@@@"}',
        b'{"type":"response.output_audio.delta","delta":5}',
        b'{"type":"response.output_audio.delta","delta":"AA"}',
        b'{"type":"response.output_audio.delta","delta":"\\ud800"}',
        b'{"type":"response.output_audio.delta"}',
    ],
)
def test_a_broken_frame_is_unknown_and_nothing_else(frame: bytes) -> None:
    facts = decoder().decode(frame)
    assert kinds(list(facts)) == ["Unknown"]


def test_text_leaves_without_lone_surrogates_or_nul() -> None:
    frame = b'{"type":"response.audio_transcript.delta","response_id":"r","item_id":"i","delta":"a\\ud83d b\\u0000c"}'
    said = [f for f in decoder().decode(frame) if isinstance(f, ev.ModelSaid)]
    assert said == [ev.ModelSaid("r", "i", "a\ufffd bc")]


def test_an_id_too_long_to_be_one_is_no_id() -> None:
    delta = {"type": "response.audio.delta", "response_id": "r" * 300, "item_id": "i", "delta": "AAAA"}
    facts = read(decoder(), delta)
    assert facts[0].response_id.startswith(MADE_UP)


def test_responses_a_service_never_ends_are_ended_for_it() -> None:
    reader = decoder()
    facts = [
        fact
        for number in range(100)
        for fact in read(reader, {"type": "response.created", "response": {"id": f"r{number}", "conversation_id": "c"}})
    ]
    assert kinds(facts).count("ResponseStarted") == 100
    assert kinds(facts).count("ResponseEnded") >= 60


# ---------------------------------------------------------------- 200,000 mutated events

MUTATIONS = 200_000
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    2**63,
    "",
    "\ud800",
    "\0",
    "x" * 300,
    [],
    {},
    [[]],
    {"id": 1},
    "AAAA",
    ["a", {}],
]


def mutate(event: Any, chance: random.Random, ids: list[str]) -> Any:
    """One event with a few of its values replaced, moved, doubled or taken away."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        holder = event
        while True:
            keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = chance.choice(keys)
            inner = holder[key]
            if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
                holder = inner
                continue
            match chance.randrange(4):
                case 0:
                    holder[key] = copy.deepcopy(chance.choice(ODD))
                case 1 if isinstance(holder, dict):
                    del holder[key]
                case 2:
                    holder[key] = chance.choice(ids)
                case _ if isinstance(holder, dict):
                    holder[chance.choice(("response_id", "item_id", "delta", "type", "response", "item"))] = (
                        copy.deepcopy(inner)
                    )
            break
    return event


def as_frame(event: Any, chance: random.Random) -> bytes:
    frame = json.dumps(event).encode("utf-8", "surrogatepass")
    roll = chance.random()
    if roll < 0.03:
        return frame[: chance.randrange(len(frame) + 1)]
    if roll < 0.06 and frame:
        at = chance.randrange(len(frame))
        return frame[:at] + bytes([chance.randrange(256)]) + frame[at + 1 :]
    return frame


def storable(fact: Any) -> None:
    """Every string of a fact can be stored anywhere."""
    for value in msgspec.structs.asdict(fact).values():
        if isinstance(value, str):
            value.encode()
            assert "\0" not in value


def test_two_hundred_thousand_mutated_events_raise_nothing_and_break_no_promise() -> None:
    chance = random.Random(20_261_121)
    names = sorted(builtin())
    lines = {n: (WIRE / f"{n}.jsonl").read_bytes().splitlines() for n in names}
    seen: Counter[str] = Counter()
    count = 0
    while count < MUTATIONS:
        name = chance.choice(names)
        reader = decoder(name)
        started: set[str] = set()
        ended: set[str] = set()
        requested: set[str] = set()
        events = lines[name] * chance.choice((1, 2))
        if chance.random() < 0.2:
            events = chance.sample(events, len(events))
        for line in events:
            frame = as_frame(
                mutate(msgspec.json.decode(line), chance, ["resp_C9CwG1", "item_C9CwA1", "resp_other", ""]), chance
            )
            count += 1
            for fact in reader.decode(frame):
                seen[type(fact).__name__] += 1
                storable(fact)
                match fact:
                    case ev.ResponseStarted(response_id=response_id):
                        assert response_id not in started
                        started.add(response_id)
                    case ev.ResponseEnded(response_id=response_id):
                        assert response_id in started
                        assert response_id not in ended
                        ended.add(response_id)
                    case ev.ToolRequested(tool_call_id=call_id):
                        assert call_id not in requested
                        requested.add(call_id)
    assert len(seen) >= 15, seen  # the mutations leave enough alive to mean something


def test_a_call_of_a_response_that_was_cut_off_is_not_run_by_what_comes_late() -> None:
    facts = read(decoder(), CREATED, ARGUMENTS_DONE, done("cancelled"), call())
    assert "ToolRequested" not in kinds(facts)


def test_an_end_that_is_told_twice_of_a_response_nobody_named_is_one_end() -> None:
    delta = {"type": "response.output_audio.delta", "delta": "AAAA"}
    facts = read(decoder(), delta, done(), done())
    assert kinds(facts).count("ResponseStarted") == kinds(facts).count("ResponseEnded") == 1


def test_a_delta_without_an_id_is_never_of_a_response_outside_the_conversation() -> None:
    aside = {"type": "response.created", "response": {"id": "aside", "conversation": "none"}}
    delta = {"type": "response.output_audio.delta", "delta": "AAAA"}
    facts = read(decoder(), aside, CREATED, done(), delta)
    assert [fact.response_id for fact in facts if isinstance(fact, words.AudioDelta)] != ["aside"]


def test_an_item_without_its_arguments_does_not_take_them_away() -> None:
    told = {**ARGUMENTS_DONE, "arguments": '{"a":1}'}
    (request,) = [
        fact for fact in read(decoder(), CREATED, told, call(arguments="")) if isinstance(fact, ev.ToolRequested)
    ]
    assert request.arguments == '{"a":1}'


def test_an_answer_ends_the_turn_of_a_caller_who_had_stopped() -> None:
    stopped = {"type": "input_audio_buffer.speech_stopped", "item_id": "u"}
    facts = read(decoder(), {"type": "input_audio_buffer.speech_started", "item_id": "u"}, stopped, CREATED)
    assert kinds(facts) == ["CallerSpeechStarted", "CallerSpeechStopped", "CallerTurnEnded", "ResponseStarted"]


def test_a_service_that_names_one_conversation_names_them_all() -> None:
    nameless = {"type": "response.created", "response": {"id": "aside", "conversation_id": None}}
    for before, outside in (([], False), ([CREATED, done()], True)):
        started = read(decoder("localai"), *before, nameless)[-1]
        assert (started.response_id, started.out_of_band) == ("aside", outside)


def test_what_is_remembered_of_the_past_is_bounded() -> None:
    past, repeats = Recent(), Repeats()
    for number in range(1000):
        past.add(str(number))
        assert not repeats.again(f"e{number}", "x")
    assert len(past._members) == 512 and "999" in past and "400" not in past
    assert len(repeats._ends) == 64 and repeats.again("e940", "x") and not repeats.again("e900", "x")


def test_a_response_with_tool_calls_without_end_asks_for_some_of_them() -> None:
    item = call()["item"]
    crowd = [{**item, "id": f"i{n}", "call_id": f"c{n}"} for n in range(5000)]
    assert kinds(read(decoder(), CREATED, done(output=crowd))).count("ToolRequested") == 64
    reader = decoder()
    one_by_one = [{**call(), "item": one} for one in crowd]
    assert kinds(read(reader, CREATED, *one_by_one, done())).count("ToolRequested") == 64


def test_of_what_nobody_reads_only_the_name_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that sends much of it does not stop all calls of this process."""
    monkeypatch.setattr("bridge.realtime.decoder.read_object", lambda frame: pytest.fail("it was read"))
    reader = decoder()
    assert reader.decode(b'{"type":"house.news","x":[' + b"{}," * 1000 + b"1]}") == (words.Unknown("house.news"),)
    assert reader.decode(b'{"type":"error","x":"' + b"x" * 4_000_000 + b'"}') == (words.Unknown("error", "too long"),)
    assert reader.decode(b'{"type":5,"x":"' + b"x" * 4_000_000 + b'"}') == (words.Unknown("", "too long"),)


def test_a_delta_may_be_long() -> None:
    delta = pybase64.b64encode_as_string(bytes(1_200_000))
    event = {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": delta}
    (spoken,) = [fact for fact in read(decoder(), event) if isinstance(fact, words.AudioDelta)]
    assert len(spoken.audio) == 1_200_000


def test_a_key_that_a_service_quotes_is_not_passed_on() -> None:
    key = "0123456789abcdef0123456789abcdef"
    reader = builtin()["openai"].dialect().decoder(secret=key)
    error = {"type": "error", "error": {"code": f"bad_{key}", "message": f"the key {key} is wrong"}}
    failed = done("failed", status_details={"error": {"code": "x", "message": f"the key {key} is wrong"}})
    for fact in read(reader, error, CREATED, failed):
        assert key not in repr(fact)
    assert reader.complaint is not None and key not in repr(reader.complaint)
    assert read(reader, {"type": f"house.{key}"}) == [words.Unknown("house.***")]
    assert read(builtin()["openai"].dialect().decoder(secret="error"), error)[0].code == f"bad_{key}"
