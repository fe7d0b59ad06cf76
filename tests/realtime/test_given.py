"""What programs may give to `connect` and `RealtimeClient`, and how the rest is refused."""

from __future__ import annotations

import array
import ctypes
import math
import re
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest

from bridge.errors import UsageError
from bridge.realtime import given
from bridge.realtime.profiles import Target, builtin
from bridge.realtime.session import from_fields

PIECE = np.arange(4, dtype=np.int16)


@pytest.mark.parametrize("value", [0.001, 5, np.float32(2), np.int64(3), Fraction(1, 2)])
def test_any_number_of_seconds_is_taken(value: Any) -> None:
    assert given.seconds("timeout_s", value) == float(value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, 10**400, "5", None, True, 1j, [], b"1"])
def test_what_is_no_time_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^timeout_s: found .*; write seconds, more than 0$"):
        given.seconds("timeout_s", value)


def test_a_time_may_have_a_least() -> None:
    assert given.seconds("timeout_s", 0, least=0.0) == 0.0
    with pytest.raises(UsageError, match=r"^keep_audio_s: found 0; write seconds, 0\.1 or more$"):
        given.seconds("keep_audio_s", 0, least=0.1)


@pytest.mark.parametrize(
    "audio",
    [
        *(b"\0\0\1\0\2\0\3\0", bytearray(PIECE.tobytes()), memoryview(PIECE), PIECE, PIECE.reshape(4, 1)),
        *(array.array("h", range(4)), (ctypes.c_int16 * 4)(*range(4)), np.repeat(PIECE, 2)[::2]),
    ],
)
def test_bytes_and_samples_of_16_bits_are_sound(audio: Any) -> None:
    assert given.sound("audio", audio, encoding="pcm16", rate_hz=24_000) == PIECE.tobytes()
    assert given.sound("audio", audio) == PIECE.tobytes()


def test_nothing_is_sound_of_no_length() -> None:
    assert given.sound("audio", np.zeros(0, np.int16)) == given.sound("audio", b"") == b""


@pytest.mark.parametrize(
    "audio",
    [
        *("text", None, 5, [0, 1], {}, object()),
        *(np.zeros(4, np.float32), np.zeros(4, np.int32), np.zeros((2, 2), np.int16), np.zeros(4, ">i2")),
        *(np.array(["a"], object), array.array("d", [0.0])),
    ],
)
def test_what_is_no_sound_is_refused_with_what_would_be(audio: Any) -> None:
    wanted = "give bytes of the session's format (pcm16, 24000 Hz) or one channel of 16-bit samples"
    with pytest.raises(UsageError, match=rf"^audio: found .*; {re.escape(wanted)}$"):
        given.sound("audio", audio, encoding="pcm16", rate_hz=24_000)


def test_samples_of_16_bits_are_no_telephone_audio() -> None:
    assert given.sound("audio", np.zeros(4, np.uint8), encoding="mulaw", rate_hz=8000) == bytes(4)
    with pytest.raises(UsageError, match=r"give bytes of the session's format \(mulaw, 8000 Hz\)$"):
        given.sound("audio", PIECE, encoding="mulaw", rate_hz=8000)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"profile": "opnai"}, "profile 'opnai' is not known; there are openai, "),
        ({"profile": None}, "profile: found None; give a name (openai, "),
        ({"url": 5}, "url: found 5; give text"),
        ({"model": ["m"]}, "model: found ['m']; give text"),
        ({"model": "\ud800"}, "model: '\\ud800' holds half of a character"),
        ({"allow_plain": "no"}, "allow_plain: found 'no'; write True or False"),
        ({"api_key": b"sk-secret"}, "api_key: found bytes; give the key as text"),
        *(({"api_key": key}, "api_key: a key has") for key in ("sk-secret\n", " sk-secret", "sk-s\0cret", "sk-sécret")),
    ],
)
def test_what_names_no_service_is_refused_by_name_and_never_shows_a_key(what: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"profile": "openai", "url": "", "api_key": "k", "model": "", "allow_plain": False, **what}
    with pytest.raises(UsageError) as refused:
        given.target(fields.pop("profile"), **fields)
    assert str(refused.value).startswith(says)
    assert "cret" not in str(refused.value)


def test_what_the_environment_does_not_have_is_as_if_it_was_not_given() -> None:
    assert given.target("openai", None, None, None, allow_plain=False) == Target(builtin()["openai"])


@pytest.mark.parametrize(
    ("profile", "url", "key", "lacks"),
    [
        *(("openai", "", "", True), ("openai", "", "k", False), ("openai", "wss://a.example.test", "", True)),
        *(("openai", "ws://127.0.0.1:9", "", False), ("openai", "ws://[::1]:9", "", False)),
        *(("openai", "ws://localhost:9", "", False), ("local", "wss://a.example.test", "", False)),
        *(("meshapi", "wss://a.example.test?api_key=k", "", False), ("meshapi", "wss://a.example.test?key=", "", True)),
        ("azure", "wss://a.example.test/v1?api-key=k", "", False),
    ],
)
def test_a_key_is_missing_where_it_is_wanted_and_in_no_place(profile: str, url: str, key: str, lacks: bool) -> None:
    assert Target(builtin()[profile], url, key).lacks_key is lacks


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"audio": "loud"}, "audio: found 'loud'; write an object or None"),
        ({"audio": {"input": 3}}, "audio.input: found 3; write an object or None"),
        ({"turn_detection": "server_vad"}, "turn_detection: found 'server_vad'; write an object or None"),
        ({"modalities": "audio"}, "modalities: found 'audio'; write a list"),
        ({"output_modalities": None}, "output_modalities: found None; write a list"),
        ({"input_audio_format": 3}, "input_audio_format: 3 is no audio format; write one of audio/pcm, "),
        (
            {"audio": {"output": {"format": {"type": "audio/pcm", "rate": "24k"}}}},
            "output_audio_format: found a rate of '24k'; write a whole number of Hz",
        ),
    ],
)
def test_a_session_we_cannot_read_is_refused_by_its_field(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_fields(fields)
    assert str(refused.value).startswith(says)


def test_rows_may_come_from_anything_that_gives_them() -> None:
    rows = [MappingProxyType({"name": "a"})]
    assert given.tables("tools", iter(rows), "") == given.tables("tools", rows, "") == [{"name": "a"}]
    assert given.tables("tools", None, "") == given.tables("tools", (), "") == []


def test_what_json_cannot_say_is_refused_by_name() -> None:
    assert msgspec.json.decode(given.as_json("x", {"a": [1]})) == {"a": [1]}
    with pytest.raises(UsageError, match=r"^instructions cannot be written as JSON: "):
        given.as_json("instructions", object())
