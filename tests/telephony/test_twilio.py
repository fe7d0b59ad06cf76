"""The stream's messages: the documented ones, and everything that is not one."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.telephony import twilio
from bridge.telephony.twilio import Connected, Dtmf, Malformed, Mark, Media, Start, Stop, StreamEncoder, decode

SID = "MZ0123456789abcdef0123456789abcdef"
CALL = "CA0123456789abcdef0123456789abcdef"


def media(payload: object = "/v7+", *, sid: object = SID, **fields: object) -> bytes:
    body = {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": payload, **fields}
    return json.dumps({"event": "media", "sequenceNumber": "2", "streamSid": sid, "media": body}).encode()


def start(**changes: object) -> bytes:
    body: dict[str, object] = {
        "accountSid": "AC1",
        "streamSid": SID,
        "callSid": CALL,
        "tracks": ["inbound"],
        "customParameters": {"token": "t", "event": "not the event"},
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    }
    body.update(changes)
    return json.dumps({"event": "start", "sequenceNumber": "1", "streamSid": SID, "start": body}).encode()


DOCUMENTED = [
    (b'{"event":"connected","protocol":"Call","version":"1.0.0"}', Connected()),
    (media(), Media(SID, "inbound", 5, b"\xfe\xfe\xfe")),
    (
        f'{{"event":"dtmf","sequenceNumber":"9","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"5"}}}}'.encode(),
        Dtmf("5", SID),
    ),
    (
        f'{{"event":"mark","sequenceNumber":"10","streamSid":"{SID}","mark":{{"name":"3.14"}}}}'.encode(),
        Mark("3.14", SID),
    ),
    (
        f'{{"event":"stop","sequenceNumber":"11","streamSid":"{SID}","stop":{{"accountSid":"AC1","callSid":"{CALL}"}}}}'.encode(),
        Stop(SID),
    ),
]


@pytest.mark.parametrize(("frame", "message"), DOCUMENTED)
def test_a_documented_message_becomes_what_it_says(frame: bytes, message: object) -> None:
    assert decode(frame) == message


def test_start_brings_ids_parameters_and_the_format_of_the_audio() -> None:
    assert decode(start()) == Start(
        stream_id=SID,
        call_id=CALL,
        account_id="AC1",
        encoding="mulaw",
        rate_hz=8000,
        parameters={"token": "t", "event": "not the event"},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"mediaFormat": {"encoding": "audio/opus", "sampleRate": 8000, "channels": 1}},
        {"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 11025, "channels": 1}},
        {"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2}},
        {"callSid": ""},
        {"callSid": "x" * 101},
        {"callSid": 'CA"}'},
        {"callSid": 5},
        {"customParameters": {"token": 5}},
        {"customParameters": []},
    ],
)
def test_a_start_that_cannot_be_used_is_malformed(changes: dict[str, object]) -> None:
    assert isinstance(decode(start(**changes)), Malformed)


def test_a_stream_id_that_would_break_our_templates_is_malformed() -> None:
    frame = json.loads(start())
    frame["streamSid"] = 'MZ","x":"'
    assert isinstance(decode(json.dumps(frame).encode()), Malformed)


def test_numbers_may_come_as_numbers_or_as_strings() -> None:
    assert decode(media(timestamp=40)) == decode(media(timestamp="40"))
    as_text = {"encoding": "audio/x-mulaw", "sampleRate": "8000", "channels": "1"}
    assert decode(start(mediaFormat=as_text)) == decode(start())


def test_unknown_fields_are_skipped_and_an_unknown_event_is_none() -> None:
    assert decode(media(extra={"deep": [1, 2]})) == decode(media())
    assert decode(b'{"event":"transcription","streamSid":"MZ","text":"hello"}') is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"NaN",
        b"null",
        b"[]",
        b'"media"',
        b"{}",
        b'{"event":[]}',
        b'{"event":null}',
        b'{"event":{"a":1},"streamSid":"MZ"}',
        b'{"event":"media"}',
        b'{"event":"media","streamSid":"MZ"}',
        b'{"event":"media","streamSid":"MZ","media":[]}',
        b'{"event":"media","streamSid":"MZ","media":{}}',
        b'{"event":"mark","streamSid":"MZ","mark":{"name":"\\ud800"}}',
        b'{"event":"mark","streamSid":"\xff","mark":{"name":"a"}}',
        b'{"event":"mark","streamSid":"MZ","mark":{"name":1}}',
        b'{"event":"dtmf","streamSid":"MZ","dtmf":{"digit":"12"}}',
        b'{"event":"dtmf","streamSid":"MZ","dtmf":{"digit":""}}',
        b'{"event":"dtmf","streamSid":"MZ","dtmf":{"digit":"\\u0665"}}',
        b'{"event":"stop","streamSid":"MZ"} trailing',
        b"[" * 60_000,
        b'{"event":"stop","streamSid":"MZ","x":' + b"[" * 60_000,
        b'{"event":"stop","streamSid":"MZ","x":1' + b"0" * 5_000 + b"}",
        b'{"event":"stop","streamSid":"MZ","x":NaN}',
        media(None),
        media(5),
        media("////", sid=5),
        media(timestamp="-5"),
        media(timestamp="1e3"),
        media(timestamp="١٢"),
        media(timestamp="9" * 16),
        media(timestamp=-1),
        media(timestamp=10**15),
        media(timestamp=1.5),
        media(track=None),
    ],
)
def test_what_is_not_a_message_is_malformed_and_nothing_is_raised(frame: bytes) -> None:
    assert isinstance(decode(frame), Malformed)


@pytest.mark.parametrize(
    "payload", ["", "A", "AA", "AAA", "A A=", "AA=A", "AAAA====", "A-A_", "AAAA\n", "AA==AA==", "ü"]
)
def test_base64_that_is_empty_or_not_strict_is_malformed(payload: str) -> None:
    assert isinstance(decode(media(payload)), Malformed)


def test_a_payload_is_at_most_eight_kib() -> None:
    most = base64.b64encode(bytes(8192)).decode()
    one_more = base64.b64encode(bytes(8193)).decode()
    assert isinstance(decode(media(most)), Media)
    assert decode(media(one_more)) == Malformed("media.payload has 8193 bytes")


@pytest.mark.parametrize(
    "frame",
    [
        b'{"event":"media","streamSid":"MZ","media":{"payload":"////"},"event":"stop"}',
        b'{"event":"media","streamSid":"MZ","media":{"payload":"////"},"\\u0065vent":"media"}',
        b'{"event":"mark","streamSid":"MZ","mark":{"name":"a"},"event":"no such thing"}',
        b'{"event":"media","streamSid":"MZ","media":{"payload":"////"},"streamSid":"MX"}',
        b'{"event":"media","streamSid":"MZ","media":{"payload":"////"},"str\\u0065amSid":"MX"}',
        b'{"event":"stop","streamSid":"MZ","event":"stop"}',
        b'{"event":"stop","streamSid":"MZ","\\u0065vent":"stop"}',
        b'{"event":"mark","streamSid":"MZ","mark":{"name":"a"},"streamSid":"MX"}',
    ],
)
def test_a_repeated_event_or_stream_id_is_malformed(frame: bytes) -> None:
    assert isinstance(decode(frame), Malformed)


def test_an_event_that_says_the_same_twice_is_heard() -> None:
    frame = b'{"event":"media","streamSid":"MZ","media":{"payload":"/v7+"},"event":"media"}'
    assert decode(frame) == Media("MZ", "inbound", None, b"\xfe\xfe\xfe")


def test_escaped_slashes_in_a_payload_are_heard() -> None:
    frame = b'{"event":"media","streamSid":"MZ","media":{"payload":"\\/v7+"}}'
    assert decode(frame) == Media("MZ", "inbound", None, b"\xfe\xfe\xfe")


@given(st.binary(max_size=400))
def test_no_bytes_at_all_make_decode_raise(frame: bytes) -> None:
    assert isinstance(decode(frame), Malformed | None)


@given(st.data())
def test_no_mutation_of_a_message_makes_decode_raise(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([frame for frame, _ in DOCUMENTED] + [start()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    message = decode(bytes(frame))
    if isinstance(message, Media):
        assert 1 <= len(message.audio) <= twilio.MAX_PAYLOAD_BYTES


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["start", "media", "dtmf", "mark", "stop", "connected"]),
    st.sampled_from(["streamSid", "start", "media", "dtmf", "mark", "payload"]),
)
def test_any_json_in_any_place_is_a_message_or_malformed(value: object, event: str, place: str) -> None:
    body: dict[str, object] = {"event": event, "streamSid": SID, event: {"payload": "////", "name": "n", "digit": "1"}}
    if place == "payload":
        body[event] = {"payload": value, "name": value, "digit": value, "callSid": value}
    else:
        body[place] = value
    assert decode(json.dumps(body).encode()) is not None


# ---------------------------------------------------------------- what we say


def test_our_messages_have_exactly_the_documented_layout() -> None:
    encoder = StreamEncoder(SID)
    assert (
        encoder.media(b"\xff" * 3) == f'{{"event":"media","streamSid":"{SID}","media":{{"payload":"////"}}}}'.encode()
    )
    assert encoder.mark("3.14") == f'{{"event":"mark","streamSid":"{SID}","mark":{{"name":"3.14"}}}}'.encode()
    assert encoder.clear() == f'{{"event":"clear","streamSid":"{SID}"}}'.encode()


@given(st.binary(min_size=1, max_size=2000), st.text(st.characters(codec="utf-8"), max_size=50))
def test_what_we_send_is_json_and_says_the_same_to_any_reader(audio: bytes, name: str) -> None:
    encoder = StreamEncoder(SID)
    said = json.loads(encoder.media(audio))
    assert said == {"event": "media", "streamSid": SID, "media": {"payload": base64.b64encode(audio).decode()}}
    assert json.loads(encoder.mark(name)) == {"event": "mark", "streamSid": SID, "mark": {"name": name}}
    assert msgspec.json.decode(encoder.clear()) == {"event": "clear", "streamSid": SID}
