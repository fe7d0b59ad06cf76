"""What we send: every frame against OpenAI's own typed events, and the three shapes against each other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pybase64
import pytest
from openai.types.beta.realtime import RealtimeClientEvent as BetaClientEvent
from openai.types.realtime import RealtimeClientEvent
from pydantic import TypeAdapter

from bridge.call import actions as do
from bridge.call.plan import SessionPlan, ToolSpec, TurnDetection
from bridge.realtime.dialect import Dialect, code_of_status, frame
from bridge.realtime.profiles import builtin
from bridge.realtime.session import from_plan, read_format

FULL = SessionPlan(
    instructions="You are Ada. Ä 😀",
    voice="marin",
    tools=(ToolSpec("look_up", "Looks up.", {"type": "object", "properties": {"q": {"type": "string"}}}),),
    turn_detection=TurnDetection(),
    transcription_model="gpt-4o-mini-transcribe",
    language="en",
    noise_reduction="near_field",
    speed=1.1,
    max_output_tokens=800,
    temperature=0.7,
)
ACTIONS: list[do.Action] = [
    do.RequestResponse(),
    do.RequestResponse("Say hello."),
    do.CancelResponse("resp_1"),
    do.CancelResponse("~response.1"),
    do.TruncateItem("item_1", 0, 1200),
    do.TruncateItem("item_1", 1, -5),
    do.DeleteItem("item_1"),
    do.TellModel("caller", "They pressed 5."),
    do.TellModel("note", "One minute left."),
    do.SubmitToolOutput("call_1", '{"ok":true}'),
    do.CommitCallerAudio(),
]
HISTORY = (
    do.HistoryItem("caller", "Hi"),
    do.HistoryItem("agent", "Hello, you are"),
    do.HistoryItem("tool", '{"ok":true}', "call_1", "look_up", '{"q":"x"}'),
    do.HistoryItem("tool", "", "~call.3", "look_up", ""),
    do.HistoryItem("note", "The line dropped for a moment."),
)


def plans() -> list[SessionPlan]:
    def but(**changes: Any) -> SessionPlan:
        return SessionPlan(**({f: getattr(FULL, f) for f in FULL.__struct_fields__} | changes))

    return [
        SessionPlan(),
        FULL,
        but(turn_detection=None),
        but(turn_detection=TurnDetection(kind="semantic_vad", eagerness="low")),
        but(model_encoding="mulaw", model_rate_hz=8000),
        but(model_encoding="alaw", model_rate_hz=8000),
    ]


def everything(dialect: Dialect) -> list[bytes]:
    frames = [dialect.session_update(plan) for plan in plans()]
    frames += [sent for action in ACTIONS for sent in dialect.encode(action)]
    frames += dialect.history(HISTORY)
    return [*frames, dialect.append(bytes(960)), dialect.keepalive()]


def dialect(name: str = "openai") -> Dialect:
    return builtin()[name].dialect()


def events(frames: Any) -> list[Any]:
    return [json.loads(sent) for sent in frames]


@pytest.mark.parametrize("name", [name for name, profile in builtin().items() if profile.shape == "ga"])
def test_every_ga_frame_is_a_typed_event_of_the_sdk(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
    for sent in everything(dialect(name)):
        event = adapter.validate_json(sent)
        assert unknown_fields(event) == [], sent


@pytest.mark.parametrize("name", [name for name, profile in builtin().items() if profile.shape == "beta"])
def test_every_beta_frame_is_a_typed_event_of_the_sdk(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(BetaClientEvent)
    for sent in everything(dialect(name)):
        event = adapter.validate_json(sent)
        assert unknown_fields(event) == [], sent


def unknown_fields(model: Any, path: str = "") -> list[str]:
    """Fields the SDK's models kept as extras, which is how they take what they do not know."""
    found: list[str] = []
    if isinstance(model, list):
        for number, inner in enumerate(model):
            found += unknown_fields(inner, f"{path}[{number}]")
    elif hasattr(model, "model_fields_set"):
        found += [f"{path}.{name}" for name in model.model_extra or ()]
        for name in type(model).model_fields:
            found += unknown_fields(getattr(model, name), f"{path}.{name}")
    return found


def test_the_check_for_unknown_fields_finds_one() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
    event = {"type": "session.update", "session": {"type": "realtime", "temperature": 0.8}}
    assert unknown_fields(adapter.validate_python(event)) == [".session.temperature"]


def test_the_ga_session_nests_audio_and_knows_no_temperature() -> None:
    (update,) = events([dialect().session_update(FULL)])
    session = update["session"]
    assert session["type"] == "realtime"
    assert session["output_modalities"] == ["audio"]
    assert "temperature" not in session
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "voice": "marin",
        "speed": 1.1,
    }
    heard = session["audio"]["input"]
    assert heard["transcription"] == {"model": "gpt-4o-mini-transcribe", "language": "en"}
    assert heard["turn_detection"]["silence_duration_ms"] == 500
    assert session["tools"][0]["type"] == "function"


def test_the_beta_session_is_flat() -> None:
    (update,) = events([dialect("openai-beta").session_update(FULL)])
    session = update["session"]
    assert session["modalities"] == ["text", "audio"]
    assert (session["input_audio_format"], session["output_audio_format"]) == ("pcm16", "pcm16")
    assert session["temperature"] == 0.7
    assert session["max_response_output_tokens"] == 800
    assert session["input_audio_transcription"]["model"] == "gpt-4o-mini-transcribe"
    assert "audio" not in session and "type" not in session


def test_the_hybrid_session_has_flat_voice_and_turns_and_nested_audio() -> None:
    (update,) = events([dialect("xai").session_update(FULL)])
    session = update["session"]
    assert session["voice"] == "marin"
    assert set(session["turn_detection"]) == {"type", "threshold", "prefix_padding_ms", "silence_duration_ms"}
    assert session["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert "turn_detection" not in session["audio"]["input"]


@pytest.mark.parametrize("name", ["openai", "openai-beta", "xai"])
def test_manual_turns_are_said_and_not_left_out(name: str) -> None:
    (update,) = events([dialect(name).session_update(SessionPlan(turn_detection=None))])
    session = update["session"]
    held = session["audio"]["input"] if name == "openai" else session
    assert held["turn_detection"] is None


@pytest.mark.parametrize(
    ("encoding", "ga", "beta"), [("mulaw", "audio/pcmu", "g711_ulaw"), ("alaw", "audio/pcma", "g711_alaw")]
)
def test_g711_has_its_name_in_each_shape(encoding: Any, ga: str, beta: str) -> None:
    plan = SessionPlan(model_encoding=encoding, model_rate_hz=8000)
    (update,) = events([dialect().session_update(plan)])
    assert update["session"]["audio"]["input"]["format"] == {"type": ga}
    (update,) = events([dialect("openai-beta").session_update(plan)])
    assert update["session"]["output_audio_format"] == beta


def test_a_model_named_in_the_session_is_named_there_only() -> None:
    profile = msgspec.structs.replace(builtin()["yuhuan"], model="glm")
    (update,) = events([profile.dialect().session_update(SessionPlan())])
    assert update["session"]["model"] == "glm"
    (update,) = events([dialect().session_update(SessionPlan())])
    assert "model" not in update["session"]


def test_append_is_what_the_documents_show() -> None:
    audio = bytes(range(256)) * 4
    event = json.loads(dialect().append(audio))
    assert event == {"type": "input_audio_buffer.append", "audio": pybase64.b64encode(audio).decode()}


def test_ids_of_ours_never_reach_a_service() -> None:
    speaker = dialect()
    assert events(speaker.encode(do.CancelResponse("~response.1"))) == [{"type": "response.cancel"}]
    assert speaker.encode(do.TruncateItem("~item.1", 0, 5)) == ()
    assert speaker.encode(do.DeleteItem("~item.1")) == ()
    frames = speaker.history((do.HistoryItem("tool", "{}", "~call.1", "f", "{}"),))
    assert all(not event["item"]["call_id"].startswith("~") for event in events(frames))


def test_what_a_service_cannot_do_is_not_asked_of_it() -> None:
    speaker = dialect("yuhuan")
    for action in (do.CancelResponse("r"), do.TruncateItem("i", 0, 5), do.DeleteItem("i")):
        assert speaker.encode(action) == ()


def test_history_is_text_with_tool_calls_paired_to_their_outputs() -> None:
    items = [event["item"] for event in events(dialect().history(HISTORY))]
    said = [(i.get("role"), i["content"][0]["type"]) for i in items if i["type"] == "message"]
    assert said == [("user", "input_text"), ("assistant", "output_text"), ("system", "input_text")]
    assert [i["call_id"] for i in items if "call_id" in i] == ["call_1", "call_1", "call_3", "call_3"]
    items = [event["item"] for event in events(dialect("openai-beta").history(HISTORY))]
    assert items[1]["content"][0]["type"] == "text"


def test_half_a_surrogate_pair_from_a_tool_does_not_stop_the_answer() -> None:
    (event,) = events(dialect().encode(do.SubmitToolOutput("c", "a\ud83d")))
    assert event["item"]["output"] == "a\ufffd"
    assert json.loads(frame(["\ud800"])) == ["\ufffd"]


@pytest.mark.parametrize(
    ("profile", "code", "message", "cure"),
    [
        ("openai", "response_cancel_not_active", "", "ignore"),
        ("openai", "conversation_already_has_active_response", "", "wait"),
        ("openai", "", "Conversation already has an active response", "wait"),
        ("openai", "invalid_value", "Audio content of 10ms is already shorter than 20ms", "ignore"),
        ("openai", "invalid_value", "something else", "note"),
        ("openai", "never_heard_of", "", "note"),
        ("openai", "session_expired", "", "rotate"),
        ("openai", "", "Your session hit the maximum duration of 60 minutes.", "rotate"),
        ("openai", "insufficient_quota", "", "fatal"),
        ("openai", "server_error", "", "retry"),
        ("openai", "service_draining", "", "note"),
        ("meshapi", "service_draining", "", "rotate"),
        ("meshapi", "session_expired", "", "rotate"),
        ("meshapi", "spend_limit_exceeded", "", "fatal"),
        ("meshapi", "upstream_overload", "", "retry"),
        ("openai", code_of_status(401), "", "fatal"),
        ("openai", code_of_status(403), "", "fatal"),
        ("openai", code_of_status(404), "", "fatal"),
        ("openai", code_of_status(400), "", "fatal"),
        ("openai", code_of_status(302), "", "fatal"),
        ("openai", code_of_status(429), "", "retry"),
        ("openai", code_of_status(503), "", "retry"),
        ("openai", "connection_failed", "", "retry"),
    ],
)
def test_error_codes_have_their_cures(profile: str, code: str, message: str, cure: str) -> None:
    assert dialect(profile).cure(code, message) == cure


def test_a_request_that_is_not_for_a_model_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="HangUp"):
        dialect().encode(do.HangUp())


def test_what_a_profile_says_of_an_error_counts_more_than_what_it_means_elsewhere() -> None:
    profile = msgspec.structs.replace(builtin()["openai"], errors={"rate_limit_exceeded": "fatal"})
    assert profile.dialect().cure("rate_limit_exceeded") == "fatal"


def test_a_rate_nobody_can_mean_is_none() -> None:
    for rate in (0, -8000, 10**9, 24000.0, True):
        assert read_format({"type": "audio/pcm", "rate": rate}) == ("pcm16", None), rate
        assert read_format({"type": "audio/pcmu", "rate": rate}) == ("mulaw", 8000), rate


def test_a_temperature_of_zero_is_one() -> None:
    assert from_plan(SessionPlan(temperature=0.0), builtin()["openai"])["temperature"] == 0.0


def test_interrupting_and_answering_are_two_things() -> None:
    for interrupts, answers in ((True, False), (False, True)):
        profile = msgspec.structs.replace(builtin()["openai"], model_interrupts=interrupts, model_answers=answers)
        detection = from_plan(SessionPlan(turn_detection=TurnDetection()), profile)["turn_detection"]
        assert (detection["interrupt_response"], detection["create_response"]) == (interrupts, answers)


def test_nothing_is_cut_before_its_beginning() -> None:
    (cut,) = builtin()["openai"].dialect().encode(do.TruncateItem("i", 0, -20))
    assert msgspec.json.decode(cut)["audio_end_ms"] == 0
