from __future__ import annotations

import json

import pytest

from bridge.sim.wire import CONNECTED, ClearAll, MarkThis, Messages, PlayThis, Unusable, read


def messages() -> Messages:
    return Messages(account_id="AC1", call_id="CA1", stream_id="MZ1")


def test_messages_have_the_documented_fields_with_numbers_as_strings() -> None:
    write = messages()
    assert json.loads(CONNECTED) == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert json.loads(write.start({"a": 'q"<'})) == {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "accountSid": "AC1",
            "streamSid": "MZ1",
            "callSid": "CA1",
            "tracks": ["inbound"],
            "customParameters": {"a": 'q"<'},
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        },
    }
    assert json.loads(write.media(0, "/w==")) == {
        "event": "media",
        "sequenceNumber": "2",
        "streamSid": "MZ1",
        "media": {"track": "inbound", "chunk": "1", "timestamp": "0", "payload": "/w=="},
    }
    assert json.loads(write.dtmf("#"))["dtmf"] == {"track": "inbound_track", "digit": "#"}
    assert json.loads(write.media(20, "/w=="))["media"]["chunk"] == "2"
    assert json.loads(write.mark("m")) == {
        "event": "mark",
        "sequenceNumber": "5",
        "streamSid": "MZ1",
        "mark": {"name": "m"},
    }
    assert json.loads(write.stop())["stop"] == {"accountSid": "AC1", "callSid": "CA1"}


def test_the_three_documented_messages_are_read() -> None:
    assert read('{"event":"media","streamSid":"MZ1","media":{"payload":"/w=="}}', "MZ1") == PlayThis(b"\xff")
    assert read('{"event":"mark","streamSid":"MZ1","mark":{"name":"m"}}', "MZ1") == MarkThis("m")
    assert read('{"event":"clear","streamSid":"MZ1"}', "MZ1") == ClearAll()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "nonsense",
        "[]",
        "[" * 5000,
        '{"event":"start","streamSid":"MZ1"}',
        '{"streamSid":"MZ1"}',
        '{"event":["clear"],"streamSid":"MZ1"}',
        '{"event":"clear"}',
        '{"event":"clear","streamSid":"MZ2"}',
        '{"event":"clear","streamSid":"MZ1","sequenceNumber":"1"}',
        '{"event":"mark","streamSid":"MZ1","mark":"m"}',
        '{"event":"mark","streamSid":"MZ1","mark":{"name":7}}',
        '{"event":"mark","streamSid":"MZ1","mark":{}}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":"/w==","track":"outbound"}}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":"not base64!"}}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":"/w="}}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":"AAA!A"}}',
        '{"event":"media","media":{"payload":"/w=="}}',
    ],
)
def test_anything_else_is_warning_31951(message: str) -> None:
    found = read(message, "MZ1")
    assert isinstance(found, Unusable)
    assert found.code == 31951


def test_a_binary_frame_is_warning_31950() -> None:
    found = read(b'{"event":"clear","streamSid":"MZ1"}', "MZ1")
    assert isinstance(found, Unusable)
    assert found.code == 31950
