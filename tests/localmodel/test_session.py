"""The server's side of the protocol, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.localmodel.brain import Heard
from tests.localmodel.stage import TOOLS, Stage, audio_ms, b64, error, every, only, said, types

OPENING = ["response.created", "rate_limits.updated"]
ITEM_BEGINS = ["response.output_item.added", "conversation.item.added", "response.content_part.added"]
SPEAKING = ["response.output_audio_transcript.delta", "response.output_audio.delta"]
ITEM_ENDS = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
]
SPOKEN = [*OPENING, *ITEM_BEGINS, *SPEAKING, *ITEM_ENDS, "response.done"]
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


# ---------------------------------------------------------------- session


def test_a_session_opens_with_its_whole_default() -> None:
    stage = Stage()
    session = only(stage.seen, "session.created")["session"]
    assert session["type"] == "realtime"
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500


def test_an_update_changes_only_the_fields_present() -> None:
    stage = Stage()
    stage.update(instructions="Be kind.", audio={"output": {"voice": "cedar"}})
    session = only(stage.update(audio={"input": {"format": {"type": "audio/pcmu"}}}), "session.updated")["session"]
    assert session["instructions"] == "Be kind."
    assert session["audio"]["output"]["voice"] == "cedar"
    assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"


@pytest.mark.parametrize("update", [{"type": "realtime", "temperature": 0.8}, {"modalities": "loud"}])
def test_an_update_that_is_refused_leaves_the_session_in_its_shape(update: dict[str, Any]) -> None:
    stage = Stage()
    error(stage.client("session.update", session=update))
    assert stage.session.dialect == "ga"
    only(stage.client("session.update", session={"modalities": ["text"]}), "session.updated")
    assert stage.session.dialect == "beta"


def test_turn_detection_merges_within_its_type_and_starts_anew_in_another() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}}})
    stage.update(audio={"input": {"turn_detection": {"threshold": 0.7}}})
    assert stage.session.detection is not None
    assert (stage.session.detection["silence_duration_ms"], stage.session.detection["threshold"]) == (300, 0.7)
    stage.update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}})
    assert "silence_duration_ms" not in stage.session.detection


def test_null_switches_detection_transcription_and_noise_reduction_off() -> None:
    stage = Stage()
    off = {"turn_detection": None, "transcription": None, "noise_reduction": None}
    session = only(stage.update(audio={"input": off}), "session.updated")["session"]
    assert {key: session["audio"]["input"][key] for key in off} == off


def test_the_detector_starts_anew_only_when_what_it_hears_changes() -> None:
    stage = Stage()
    stage.update(instructions="x", audio={"input": {"transcription": {"model": "whisper-1"}}})
    assert not stage.listens_anew()
    stage.update(audio={"input": {"turn_detection": {"threshold": 0.9}}})
    assert stage.listens_anew()


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "realtime", "temperature": 0.8}, "unknown_parameter", "session.temperature"),
        ({"type": "realtime", "output_modalities": ["audio", "text"]}, "invalid_value", "session.output_modalities"),
        ({"type": "realtime", "max_output_tokens": 0}, "integer_below_min_value", "session.max_output_tokens"),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/mp3"}}}},
            "invalid_value",
            "session.audio.input.format.type",
        ),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 44100}}}},
            "invalid_value",
            "session.audio.input.format.rate",
        ),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"type": "realtime", "tools": [{"type": "function"}]},
            "missing_required_parameter",
            "session.tools[0].name",
        ),
        ({"type": "realtime", "tool_choice": "often"}, "invalid_value", "session.tool_choice"),
        (
            {"type": "realtime", "tools": TOOLS, "tool_choice": {"type": "function", "name": "find_odrer"}},
            "invalid_value",
            "session.tool_choice",
        ),
    ],
)
def test_one_bad_field_refuses_the_whole_update(session: dict[str, Any], code: str, param: str) -> None:
    stage = Stage()
    refused = error(stage.client("session.update", session={"instructions": "new", **session}, event_id="mine"))
    assert (refused["code"], refused["param"], refused["event_id"]) == (code, param, "mine")
    assert only(stage.update(), "session.updated")["session"]["instructions"] == ""


def test_the_voice_is_fixed_once_something_was_said() -> None:
    stage = Stage()
    stage.client("response.create")
    stage.run()
    assert error(stage.update(audio={"output": {"voice": "cedar"}}))["code"] == "cannot_update_voice"


def test_the_session_expires_with_an_error_and_a_close() -> None:
    stage = Stage(script={"max_session_s": 60})
    stage.run(60_000)
    assert error(stage.seen)["code"] == "session_expired"
    closing = stage.closes()
    assert closing is not None
    assert (closing.code, "maximum duration" in closing.reason) == (1001, True)


def test_the_model_of_the_session_chooses_the_brain_where_the_address_did_not() -> None:
    from bridge.localmodel.brain import Brain

    other = Brain.from_dict({"name": "other", "greeting": "I am another."}, source="test")
    stage = Stage(model="", brains={"other": other}.get)
    stage.client("session.update", session={"type": "realtime", "model": "other"})
    stage.client("response.create")
    assert said(stage.run()) == "I am another."


# ---------------------------------------------------------------- turns


def test_a_turn_is_told_in_the_documented_order_and_answered() -> None:
    stage = Stage()
    events = stage.turn()
    assert types(events) == [*TURN, *OPENING]
    started, committed = events[0], events[2]
    assert (started["audio_start_ms"], events[1]["audio_end_ms"]) == (100, 1500)
    assert started["item_id"] == committed["item_id"] == events[3]["item"]["id"]
    events = stage.heard(started["item_id"], "when are you open") + stage.run()
    assert types(events) == [*ITEM_BEGINS, *SPEAKING, *ITEM_ENDS, "response.done"]
    assert said(events) == "From nine to five."


def test_the_recogniser_gets_exactly_the_sound_between_start_and_stop() -> None:
    stage = Stage()
    stage.append(500)
    stage.session.append(b"\x11\x11" * 24 * 400)
    stage.append(300)
    stage.take(stage.session.speech_started(500, 0))
    stage.take(stage.session.speech_stopped(900, 0))
    (wanted,) = stage.asked()
    assert wanted.audio == b"\x11\x11" * 24 * 400


def test_sound_before_speech_is_forgotten_after_a_while_but_positions_go_on() -> None:
    stage = Stage()
    for _ in range(300):
        stage.append(100)
    (started,) = stage.take(stage.session.speech_started(28_000, 0))
    assert started["audio_start_ms"] == 28_000
    for _ in range(300):
        stage.append(100)
    stage.take(stage.session.speech_stopped(59_000, 0))
    assert len(stage.asked()[0].audio) == 31_000 * 48


def test_transcription_comes_when_it_was_asked_for() -> None:
    stage = Stage()
    stage.update(audio={"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}})
    item_id = stage.turn()[0]["item_id"]
    done = only(stage.heard(item_id, "goodbye"), "conversation.item.input_audio_transcription.completed")
    assert (done["item_id"], done["transcript"]) == (item_id, "goodbye")
    assert done["usage"] == {"type": "duration", "seconds": 1.4}


def test_the_next_speech_interrupts_the_running_response() -> None:
    stage = Stage()
    stage.client("response.create")
    stage.run(60)
    events = stage.take(stage.session.speech_started(10, stage.now))
    assert types(events) == ["input_audio_buffer.speech_started", *ITEM_ENDS, "response.done"]
    response = events[-1]["response"]
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["output"][0]["status"] == "incomplete"
    assert stage.run() == []


def test_speech_does_not_interrupt_where_the_session_forbids_it() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}})
    stage.client("response.create")
    events = stage.turn()
    assert types(events)[:5] == TURN
    assert error(events)["code"] == "conversation_already_has_active_response"
    assert only(stage.run(), "response.done")["response"]["status"] == "completed"


def paused(stage: Stage, at_ms: float = 900) -> str:
    stage.append(2000)
    (started,) = stage.take(stage.session.speech_started(100, 0))
    stage.take(stage.session.speech_paused(at_ms))
    item_id: str = started["item_id"]
    return item_id


def test_a_pause_is_recognised_and_its_meaning_is_there_when_the_turn_ends() -> None:
    stage = Stage()
    stage.update(audio={"input": {"transcription": {"model": "any"}}})
    item_id = paused(stage)
    assert len(stage.asked()[0].audio) == 800 * 48
    assert stage.heard(item_id, "goodbye") == []
    events = stage.take(stage.session.speech_stopped(1200, 0))
    assert stage.asked() == []
    told = "conversation.item.input_audio_transcription"
    assert types(events)[: len(TURN) + 3] == [*TURN[1:], f"{told}.delta", f"{told}.completed", *OPENING]
    assert said(events + stage.run()) == "Goodbye."


def test_a_turn_that_ends_before_its_pause_was_recognised_waits_for_that() -> None:
    stage = Stage()
    item_id = paused(stage)
    assert types(stage.take(stage.session.speech_stopped(1200, 0))) == [*TURN[1:], *OPENING]
    assert stage.asked() == []
    assert said(stage.heard(item_id, "goodbye") + stage.run()) == "Goodbye."


def test_what_was_guessed_at_a_pause_is_forgotten_when_speech_goes_on() -> None:
    stage = Stage()
    item_id = paused(stage)
    early = stage.wanted[item_id]
    stage.session.speech_resumed()
    events = stage.take(stage.session.speech_stopped(1800, 0))
    (whole,) = stage.asked()
    assert len(whole.audio) == 1700 * 48
    assert stage.take(stage.session.recognised(early, Heard("bye", "goodbye"), 0)) == []
    assert said(events + stage.heard(item_id, "when are you open") + stage.run()) == "From nine to five."


def test_a_pause_committed_by_hand_keeps_its_meaning() -> None:
    stage = Stage()
    item_id = paused(stage)
    stage.heard(item_id, "goodbye")
    assert stage.client("input_audio_buffer.commit")[0]["item_id"] == item_id
    assert said(stage.client("response.create") + stage.run()) == "Goodbye."


def test_no_response_is_created_where_the_session_forbids_it() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
    assert types(stage.turn()) == TURN


def test_speech_during_recognition_cancels_the_answer_that_was_not_begun() -> None:
    stage = Stage()
    first = stage.turn()[0]["item_id"]
    events = stage.take(stage.session.speech_started(1700, 0))
    assert types(events) == ["input_audio_buffer.speech_started", "response.done"]
    assert stage.heard(first, "when are you open") == []
    second = events[0]["item_id"]
    stage.append(2000)
    stage.take(stage.session.speech_stopped(3000, 0))
    assert said(stage.heard(second, "when are you open") + stage.run()) == "From nine to five."


def test_manual_turns_are_committed_and_answered_on_request_only() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": None}})
    stage.append(600)
    assert stage.take(stage.session.speech_started(0, 0)) == []
    events = stage.client("input_audio_buffer.commit")
    assert types(events) == TURN[2:]
    assert types(stage.client("response.create")) == OPENING
    assert said(stage.heard(events[0]["item_id"], "goodbye") + stage.run()) == "Goodbye."


@pytest.mark.parametrize("ms", [0, 99])
def test_less_than_100_ms_cannot_be_committed(ms: int) -> None:
    stage = Stage()
    stage.append(ms)
    refused = error(stage.client("input_audio_buffer.commit"))
    assert refused["code"] == "input_audio_buffer_commit_empty"
    assert f"only has {ms}.00ms" in refused["message"]


def test_a_cleared_buffer_is_empty_and_the_detector_starts_anew() -> None:
    stage = Stage()
    stage.append(600)
    assert types(stage.client("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert stage.listens_anew()
    assert error(stage.client("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"


def test_a_caller_who_says_nothing_after_the_answer_was_played_is_prompted() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}})
    stage.client("response.create")
    done = stage.run(2000)
    assert types(done)[-1] == "response.done"
    played_ms = audio_ms(stage.seen)
    stage.append(4000)
    assert stage.run(played_ms + 4000) == []
    events = stage.run(played_ms + 5200)
    assert types(events)[:4] == ["input_audio_buffer.timeout_triggered", *TURN[2:]]
    assert said(stage.seen).endswith("Are you still there?") or said(stage.run()) == "Are you still there?"


@pytest.mark.parametrize("detection", [None, {"idle_timeout_ms": None}, {"type": "semantic_vad"}])
def test_nobody_is_prompted_once_turn_detection_was_switched_off_or_changed(detection: Any) -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 1000}}})
    stage.client("response.create")
    assert types(stage.run(2000))[-1] == "response.done"
    stage.update(audio={"input": {"turn_detection": detection}})
    assert stage.run(20_000) == []


def test_without_ears_the_lines_follow_one_another() -> None:
    stage = Stage(hears=False)
    stage.turn()
    assert stage.asked() == []
    assert said(stage.run()) == "From nine to five."
    stage.turn(1700, 2500)
    assert said(stage.run()) == "Nine to five."


# ---------------------------------------------------------------- responses


def test_a_spoken_response_has_all_events_in_the_documented_order() -> None:
    stage = Stage()
    events = stage.client("response.create") + stage.run()
    assert types(events) == SPOKEN
    response = events[-1]["response"]
    assert (response["status"], response["status_details"]) == ("completed", None)
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello, this is the shop."}]
    assert len({event["event_id"] for event in stage.seen}) == len(stage.seen)


def test_deltas_come_five_times_as_fast_as_they_sound() -> None:
    stage = Stage()
    events = stage.client("response.create")
    assert audio_ms(events) == 200
    events += stage.run(200)
    assert audio_ms(events) == 1200
    assert audio_ms(events + stage.run()) == 1250


def test_the_words_come_before_their_sound() -> None:
    stage = Stage()
    events = stage.client("response.create")
    assert only(events, "response.output_audio_transcript.delta")["delta"] == "Hello, this is "
    deltas = every(events + stage.run(), "response.output_audio_transcript.delta")
    assert "".join(delta["delta"] for delta in deltas) == "Hello, this is the shop."


def test_usage_counts_100_ms_of_the_caller_and_50_ms_of_the_assistant_as_a_token() -> None:
    stage = Stage()
    stage.heard(stage.turn(0, 1450)[0]["item_id"], "when are you open")
    usage = only(stage.run(), "response.done")["response"]["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 15
    assert usage["output_token_details"]["audio_tokens"] == 20
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    stage.client("response.create")
    again = only(stage.run(), "response.done")["response"]["usage"]["input_token_details"]
    assert again["cached_tokens"] == usage["input_tokens"]
    assert again["audio_tokens"] == 35


def test_a_second_response_is_refused_while_one_is_active() -> None:
    stage = Stage()
    active = stage.client("response.create")[0]["response"]["id"]
    refused = error(stage.client("response.create"))
    assert refused["code"] == "conversation_already_has_active_response"
    assert active in refused["message"]


def test_a_response_beside_the_conversation_may_run_with_another() -> None:
    stage = Stage()
    stage.client("response.create")
    wish = {"conversation": "none", "metadata": {"for": "me"}, "instructions": 'Say "Aside."'}
    events = stage.client("response.create", response=wish)
    assert events[0]["response"]["conversation_id"] is None
    assert events[0]["response"]["metadata"] == {"for": "me"}
    assert "conversation.item.added" not in types(events)
    assert len(every(stage.run(), "response.done")) == 2


def aside(stage: Stage, **response: Any) -> str:
    """What a response beside the conversation says."""
    return said(stage.client("response.create", response={"conversation": "none", **response}) + stage.run())


def test_a_response_beside_the_conversation_knows_it_unless_it_is_given_its_own() -> None:
    stage = Stage()
    stage.text("when are you open")
    assert aside(stage, instructions="Classify the topic.") == "From nine to five."
    assert aside(stage, input=[]) == "Hello, this is the shop."
    assert said(stage.client("response.create") + stage.run()) == "Nine to five.", "the question was still open"
    assert aside(stage) == "From nine to five.", "and is known when it was answered"
    assert aside(stage, instructions="Say goodbye.") == "Goodbye then."


def test_a_response_beside_the_conversation_waits_for_what_the_caller_said() -> None:
    stage = Stage()
    stage.update(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
    item_id = stage.turn()[0]["item_id"]
    assert aside(stage) == ""
    assert said(stage.heard(item_id, "when are you open") + stage.run()) == "From nine to five."


def test_cancel_ends_the_active_response_and_nothing_else() -> None:
    stage = Stage()
    response_id = stage.client("response.create")[0]["response"]["id"]
    assert error(stage.client("response.cancel", response_id="resp_other"))["code"] == "response_cancel_not_active"
    events = stage.client("response.cancel", response_id=response_id)
    assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    refused = error(stage.client("response.cancel"))
    assert refused["code"] == "response_cancel_not_active"
    assert refused["message"] == "Cancellation failed: no active response found"


@pytest.mark.parametrize(
    ("response", "code", "param"),
    [
        ([], "invalid_type", "response"),
        ({"instruction": "Say hello."}, "unknown_parameter", "response.instruction"),
        ({"temperature": 0.8}, "unknown_parameter", "response.temperature"),
        ({"max_response_output_tokens": 5}, "unknown_parameter", "response.max_response_output_tokens"),
        ({"audio": {"input": {}}}, "unknown_parameter", "response.audio.input"),
        ({"audio": {"output": {"speed": 1.0}}}, "unknown_parameter", "response.audio.output.speed"),
        ({"modalities": ["text"], "modalites": []}, "unknown_parameter", "response.modalites"),
    ],
)
def test_a_field_of_a_response_that_nobody_knows_is_refused(response: Any, code: str, param: str) -> None:
    stage = Stage()
    refused = error(stage.client("response.create", response=response))
    assert (refused["code"], refused["param"]) == (code, param)
    assert stage.run() == []


def test_a_response_may_be_text() -> None:
    stage = Stage()
    events = stage.client("response.create", response={"output_modalities": ["text"]}) + stage.run()
    assert only(events, "response.output_text.done")["text"] == "Hello, this is the shop."
    assert not every(events, "response.output_audio.delta")


def test_max_output_tokens_cuts_a_response_short() -> None:
    stage = Stage()
    stage.client("response.create", response={"max_output_tokens": 10})
    stage.run()
    response = only(stage.seen, "response.done")["response"]
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert audio_ms(stage.seen) == 600


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_g711_is_spoken_in_eight_bytes_a_millisecond(kind: str) -> None:
    stage = Stage()
    stage.update(audio={"output": {"format": {"type": kind}}})
    stage.client("response.create")
    stage.run()
    assert sum(len(event["delta"]) for event in every(stage.seen, "response.output_audio.delta")) == 1250 * 8


def test_words_quoted_in_the_instructions_are_said_as_they_stand() -> None:
    stage = Stage()
    stage.client("response.create", response={"instructions": 'Say exactly: "We are closed today."'})
    stage.run()
    assert said(stage.seen) == "We are closed today."


# ---------------------------------------------------------------- tools


def test_a_tool_is_called_and_its_output_answered() -> None:
    stage = Stage()
    stage.update(tools=TOOLS)
    stage.text("where is my order")
    events = stage.client("response.create") + stage.run()
    assert said(events) == "One moment."
    call = only(events, "response.function_call_arguments.done")
    assert (call["name"], call["arguments"]) == ("find_order", '{"number":"A17"}')
    assert (
        "".join(event["delta"] for event in every(events, "response.function_call_arguments.delta"))
        == (call["arguments"])
    )
    item = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"status":"on its way"}'}
    stage.client("conversation.item.create", item=item)
    assert said(stage.client("response.create") + stage.run()) == "Your order is on its way."


def test_a_tool_that_failed_is_apologised_for() -> None:
    stage = Stage()
    stage.update(tools=TOOLS)
    stage.text("where is my order")
    events = stage.client("response.create") + stage.run()
    call_id = only(events, "response.function_call_arguments.done")["call_id"]
    item = {"type": "function_call_output", "call_id": call_id, "output": '{"error":"timed out"}'}
    stage.client("conversation.item.create", item=item)
    assert said(stage.client("response.create") + stage.run()) == "I'm sorry, that did not work."


def test_a_tool_nobody_declared_is_not_called() -> None:
    stage = Stage()
    stage.text("goodbye")
    events = stage.client("response.create") + stage.run()
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


def called(stage: Stage, **response: Any) -> list[str]:
    """The tools one response called."""
    events = stage.client("response.create", response=response) + stage.run()
    return [call["name"] for call in every(events, "response.function_call_arguments.done")]


def test_a_chosen_tool_is_called_whatever_was_said() -> None:
    stage = Stage()
    stage.update(tools=TOOLS)
    stage.text("when are you open")
    assert called(stage, tool_choice={"type": "function", "name": "hang_up"}) == ["hang_up"]


def test_where_a_tool_is_required_one_is_called() -> None:
    stage = Stage()
    stage.update(tools=TOOLS[::-1], tool_choice="required")
    stage.text("where is my order")
    assert called(stage) == ["find_order"]
    stage.text("when are you open")
    assert called(stage) == ["hang_up"]
    assert called(stage, tool_choice="auto") == []


def test_a_required_tool_waits_for_what_the_caller_said() -> None:
    stage = Stage()
    stage.update(tools=TOOLS[::-1], tool_choice="required")
    item_id = stage.turn()[0]["item_id"]
    assert stage.run() == []
    events = stage.heard(item_id, "where is my order") + stage.run()
    assert only(events, "response.function_call_arguments.done")["name"] == "find_order"


@pytest.mark.parametrize("response", [{}, {"tools": []}, {"conversation": "none", "input": []}])
def test_a_tool_that_is_not_there_cannot_be_chosen(response: dict[str, Any]) -> None:
    stage = Stage()
    choice = {"type": "function", "name": "nothere" if "tools" not in response else "find_order"}
    stage.update(tools=TOOLS)
    refused = error(stage.client("response.create", response={"tool_choice": choice, **response}))
    assert (refused["code"], refused["param"]) == ("invalid_value", "response.tool_choice")
    assert choice["name"] in refused["message"]


def test_speech_and_a_call_come_in_one_response() -> None:
    stage = Stage()
    stage.update(tools=TOOLS)
    stage.text("goodbye")
    events = stage.client("response.create") + stage.run()
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]
    assert only(events, "response.function_call_arguments.done")["output_index"] == 1


def test_an_output_for_a_call_that_never_was_is_refused() -> None:
    item = {"type": "function_call_output", "call_id": "call_x", "output": "{}"}
    assert error(Stage().client("conversation.item.create", item=item))["code"] == "invalid_tool_call_id"


def test_a_key_the_caller_pressed_is_an_intent() -> None:
    stage = Stage()
    stage.text("The caller pressed 1.")
    assert said(stage.client("response.create") + stage.run()) == "From nine to five."


def test_a_note_asks_nothing() -> None:
    stage = Stage()
    stage.client("response.create")
    stage.run()
    stage.text("The caller is on a train.", role="system")
    wish = {"instructions": "Say a short goodbye."}
    assert said(stage.client("response.create", response=wish) + stage.run()) == "Goodbye then."


def test_an_answer_cut_before_its_first_sound_is_given_again() -> None:
    stage = Stage(script={"responses": [{"nth": 1, "status": "failed"}]})
    stage.text("when are you open")
    assert only(stage.client("response.create"), "response.done")["response"]["status"] == "failed"
    assert said(stage.client("response.create") + stage.run()) in ("From nine to five.", "Nine to five.")


# ---------------------------------------------------------------- items


def test_a_created_item_is_added_and_done_in_its_place() -> None:
    stage = Stage()
    first = stage.text("one")[0]["item"]["id"]
    content = [{"type": "input_text", "text": "two"}]
    item = {"id": "mine", "type": "message", "role": "user", "content": content}
    events = stage.client("conversation.item.create", item=item, previous_item_id="root")
    assert types(events) == ["conversation.item.added", "conversation.item.done"]
    assert (events[0]["item"]["id"], events[0]["previous_item_id"]) == ("mine", None)
    assert stage.text("three")[0]["previous_item_id"] == first


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ({"type": "song"}, "invalid_value", "item.type"),
        ({"type": "message", "role": "poet", "content": []}, "invalid_value", "item.role"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "audio": ""}]},
            "invalid_value",
            "item.content[0].type",
        ),
        ({"type": "message", "role": "user"}, "missing_required_parameter", "item.content"),
        ({"id": "x" * 33, "type": "message"}, "string_above_max_length", "item.id"),
    ],
)
def test_items_that_do_not_hold_are_refused(item: dict[str, Any], code: str, param: str) -> None:
    refused = error(Stage().client("conversation.item.create", item=item))
    assert (refused["code"], refused["param"]) == (code, param)


def test_items_are_retrieved_with_their_sound_and_deleted() -> None:
    stage = Stage()
    item_id = stage.turn()[0]["item_id"]
    item = only(stage.client("conversation.item.retrieve", item_id=item_id), "conversation.item.retrieved")["item"]
    assert len(item["content"][0]["audio"]) == 1400 * 48
    assert only(stage.client("conversation.item.delete", item_id=item_id), "conversation.item.deleted")
    assert error(stage.client("conversation.item.delete", item_id=item_id))["code"] == "item_delete_invalid_item_id"
    refused = error(stage.client("conversation.item.retrieve", item_id=item_id))
    assert refused["code"] == "item_retrieve_invalid_item_id"


def test_sound_of_a_user_item_is_recognised() -> None:
    stage = Stage()
    content = [{"type": "input_audio", "audio": b64(b"\x01\x00" * 24 * 500)}]
    events = stage.client("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    (wanted,) = stage.asked()
    assert wanted.item_id == events[0]["item"]["id"]
    stage.client("response.create")
    assert said(stage.heard(wanted.item_id, "goodbye") + stage.run()) == "Goodbye."


# ---------------------------------------------------------------- truncation


def spoken_item(stage: Stage, until_ms: float | None = None) -> str:
    stage.client("response.create")
    stage.run(until_ms)
    item_id: str = only(stage.seen, "response.output_item.added")["item"]["id"]
    return item_id


@pytest.mark.parametrize("heard_ms", [0, 600, 1250])
def test_an_item_is_truncated_to_what_was_heard_and_loses_its_transcript(heard_ms: int) -> None:
    stage = Stage()
    item_id = spoken_item(stage)
    events = stage.client("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=heard_ms)
    assert only(events, "conversation.item.truncated")["audio_end_ms"] == heard_ms
    item = only(stage.client("conversation.item.retrieve", item_id=item_id), "conversation.item.retrieved")["item"]
    assert item["content"][0]["transcript"] == ""
    assert len(item["content"][0]["audio"]) == heard_ms * 48


def truncated(stage: Stage, **fields: Any) -> dict[str, Any]:
    return error(stage.client("conversation.item.truncate", **{"content_index": 0, "audio_end_ms": 0, **fields}))


def test_truncating_beyond_the_end_is_refused_in_the_documented_words() -> None:
    stage = Stage()
    item_id = spoken_item(stage)
    refused = truncated(stage, item_id=item_id, audio_end_ms=1251)
    assert refused["message"] == "Audio content of 1250ms is already shorter than 1251ms"
    assert (refused["code"], refused["type"]) == ("invalid_value", "invalid_request_error")


def test_an_interrupted_item_is_as_long_as_what_was_sent_of_it() -> None:
    stage = Stage()
    item_id = spoken_item(stage, until_ms=80)
    stage.client("response.cancel")
    assert "Audio content of 600ms" in truncated(stage, item_id=item_id, audio_end_ms=601)["message"]


def test_a_truncated_item_cannot_be_truncated_to_more() -> None:
    stage = Stage()
    item_id = spoken_item(stage)
    stage.client("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=300)
    assert "300ms is already shorter than 400ms" in truncated(stage, item_id=item_id, audio_end_ms=400)["message"]


def test_only_what_the_model_said_can_be_truncated() -> None:
    stage = Stage()
    refused = truncated(stage, item_id=stage.text("hello")[0]["item"]["id"])
    assert refused["message"] == "Only model output audio messages can be truncated"
    content = [{"type": "output_text", "text": "restored"}]
    item = {"id": "old", "type": "message", "role": "assistant", "content": content}
    stage.client("conversation.item.create", item=item)
    assert truncated(stage, item_id="old")["message"] == "Only model output audio messages can be truncated"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"item_id": "nobody"}, "item_truncate_invalid_item_id"),
        ({"audio_end_ms": -1}, "integer_below_min_value"),
        ({"audio_end_ms": 10.5}, "invalid_type"),
        ({"content_index": 1}, "invalid_value"),
    ],
)
def test_other_truncations_that_do_not_hold(fields: dict[str, Any], code: str) -> None:
    stage = Stage()
    assert truncated(stage, **{"item_id": spoken_item(stage), **fields})["code"] == code


# ---------------------------------------------------------------- nonsense


@pytest.mark.parametrize("event", [None, [], "text", 7, {}, {"type": None}])
def test_events_without_a_type_are_refused(event: Any) -> None:
    stage = Stage()
    assert error(stage.take(stage.session.receive(event, 0)))["code"] == "invalid_event"


def test_an_unknown_event_is_refused_by_its_name_and_id() -> None:
    refused = error(Stage().client("conversation.explode", event_id="evt_7"))
    assert "conversation.explode" in refused["message"]
    assert refused["event_id"] == "evt_7"


@pytest.mark.parametrize("audio", [None, 5, "not base64!"])
def test_sound_that_is_no_base64_is_refused(audio: Any) -> None:
    assert error(Stage().client("input_audio_buffer.append", audio=audio))["param"] == "audio"
