"""The conversation cache: OpenAI's reference rules, their errors corrected, and services that say less."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from bridge.realtime.conversation import Change, Conversation, Item
from bridge.realtime.input_audio import InputAudio
from bridge.realtime.profiles import builtin
from tests.realtime.test_wire import WIRE


def play(conversation: Conversation, *events: dict[str, Any], heard: InputAudio | None = None) -> list[Change]:
    return [change for event in events for change in conversation.process(event, heard)]


def item(kind: str = "message", role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"id": "i", "type": kind, "role": role, "status": "in_progress", "content": [], **more}


def added(wire: dict[str, Any], name: str = "conversation.item.added") -> dict[str, Any]:
    return {"type": name, "item": wire}


def audio(payload: bytes, **ids: str) -> dict[str, Any]:
    return {"type": "response.output_audio.delta", "delta": base64.b64encode(payload).decode(), "item_id": "i", **ids}


def turn(start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    """The caller's, found by the service's detector."""
    return [
        {"type": "input_audio_buffer.speech_started", "item_id": "i", "audio_start_ms": start_ms},
        {"type": "input_audio_buffer.speech_stopped", "item_id": "i", "audio_end_ms": end_ms},
        added(item(role="user", content=[{"type": "input_audio"}])),
    ]


def only(conversation: Conversation) -> Item:
    (it,) = conversation.get_items()
    return it


def test_a_callers_message_is_complete_when_it_appears() -> None:
    conversation = Conversation()
    parts = [{"type": "input_text", "text": "How "}, {"type": "input_text", "text": "are you?"}]
    (change,) = play(conversation, added(item(role="user", content=parts)))
    assert change.appended and change.completed
    assert (change.item.status, change.item.formatted.text) == ("completed", "How are you?")


def test_an_agents_message_grows_and_completes_once() -> None:
    conversation = Conversation()
    done = item(status="completed", content=[{"type": "output_audio", "transcript": "Hello there"}])
    changes = play(
        conversation,
        {"type": "response.output_item.added", "response_id": "r", "item": item()},
        added(item()),
        {"type": "response.content_part.added", "item_id": "i", "content_index": 0, "part": {"type": "audio"}},
        {"type": "response.output_audio_transcript.delta", "item_id": "i", "content_index": 0, "delta": "Hello"},
        {"type": "response.output_audio_transcript.delta", "item_id": "i", "content_index": 0, "delta": " there"},
        audio(bytes(480)),
        {"type": "conversation.item.done", "item": done},
        {"type": "response.output_item.done", "response_id": "r", "item": done},
        {"type": "response.done", "response": {"id": "r", "status": "completed"}},
    )
    it = only(conversation)
    assert [change.appended for change in changes].count(True) == 1
    assert [change.completed for change in changes].count(True) == 1
    assert (it.formatted.transcript, it.formatted.audio_ms, it.response_id) == ("Hello there", 10.0, "r")
    assert it.content[0]["transcript"] == "Hello there"
    assert [change.delta.transcript for change in changes if change.delta and change.delta.transcript] == [
        "Hello",
        " there",
    ]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_message_announced_as_completed_is_completed_once_and_no_answers_end_changes_it(role: str) -> None:
    conversation = Conversation()
    seed = item(role=role, status="completed")
    changes = play(
        conversation,
        added(seed, "conversation.item.created"),
        {"type": "response.done", "response": {"id": "r", "status": "cancelled"}},
        {"type": "conversation.item.done", "item": seed},
    )
    assert [(change.appended, change.completed) for change in changes] == [(True, True), (False, False)]
    assert only(conversation).status == "completed"


def test_an_answers_message_is_completed_when_it_is_done_whatever_it_was_announced_as() -> None:
    conversation = Conversation()
    wire = item(status="completed")
    changes = play(
        conversation,
        {"type": "response.output_item.added", "response_id": "r", "item": wire},
        added(wire, "conversation.item.created"),
        {"type": "response.output_item.done", "response_id": "r", "item": wire},
    )
    assert [(change.appended, change.completed) for change in changes] == [(True, False), (False, True)]


@pytest.mark.parametrize("name", ["conversation.item.added", "conversation.item.created"])
def test_an_item_announced_twice_is_the_same_item(name: str) -> None:
    conversation = Conversation()
    first, second = play(conversation, added(item(), name), added(item(), name))
    assert first.item is second.item is only(conversation)
    assert not second.appended


def test_a_transcript_that_comes_before_its_item_is_kept_for_it() -> None:
    conversation = Conversation()
    transcribed = {"type": "conversation.item.input_audio_transcription.completed", "item_id": "i", "transcript": "Hi"}
    assert play(conversation, transcribed) == []
    play(conversation, added(item(role="user", content=[{"type": "input_audio"}])))
    assert only(conversation).formatted.transcript == "Hi"


def test_a_transcript_of_nothing_is_one_space() -> None:
    conversation = Conversation()
    transcribed = {"type": "conversation.item.input_audio_transcription.completed", "item_id": "i", "transcript": ""}
    play(conversation, added(item(role="user", content=[{"type": "input_audio"}])))
    (change,) = play(conversation, {**transcribed, "content_index": 0})
    assert change.delta is not None and change.delta.transcript == " "
    assert only(conversation).content[0]["transcript"] == " "


def test_what_the_caller_said_is_cut_out_of_what_was_sent() -> None:
    heard = InputAudio(bytes_per_ms=48, keep_ms=1000)
    heard.append(b"\1\0" * 24 * 50)
    heard.append(b"\2\0" * 24 * 50)
    conversation = Conversation()
    play(conversation, *turn(40, 60), heard=heard)
    assert bytes(only(conversation).formatted.audio) == b"\1\0" * 240 + b"\2\0" * 240


def test_what_the_caller_said_is_as_long_as_its_own_format_says() -> None:
    heard = InputAudio(bytes_per_ms=8, keep_ms=1000)
    heard.append(b"\x55" * 800)
    conversation = Conversation(bytes_per_ms=48)
    play(conversation, *turn(20, 60), heard=heard)
    assert only(conversation).formatted.audio_ms == 40
    play(conversation, audio(bytes(4800), item_id="agent"), heard=heard)
    assert conversation.get_items()[1].formatted.audio_ms == 100


def test_the_copy_of_the_callers_audio_is_bounded_and_positions_stay_true() -> None:
    heard = InputAudio(bytes_per_ms=48, keep_ms=100)
    for number in range(1000):
        heard.append(bytes([number % 256, 0]) * 480)
    assert len(heard) <= 48 * 100 * 1.25 + 960
    assert heard.cut(19_980, 20_000) == bytes([999 % 256, 0]) * 480
    assert heard.cut(0, 20) == b""
    heard.take()
    heard.append(b"\7\0" * 480)
    assert heard.cut(20_000, 20_020) == b"\7\0" * 480


def test_audio_committed_by_hand_belongs_to_the_next_callers_item() -> None:
    conversation = Conversation()
    conversation.queue_input_audio(b"\1\0" * 10)
    play(conversation, added(item(role="user", content=[{"type": "input_audio"}])), added(item(id="j", role="user")))
    first, second = conversation.get_items()
    assert bytes(first.formatted.audio) == b"\1\0" * 10
    assert second.formatted.audio == b""


def test_truncating_cuts_the_audio_and_takes_the_words_everywhere() -> None:
    conversation = Conversation()
    part = {"type": "output_audio", "transcript": "Hello"}
    play(conversation, added(item(content=[part])), audio(bytes(4800)))
    (change,) = play(conversation, {"type": "conversation.item.truncated", "item_id": "i", "audio_end_ms": 30})
    it = change.item
    assert (len(it.formatted.audio), it.formatted.audio_ms, it.formatted.transcript) == (30 * 48, 30.0, "")
    assert it.content[0]["transcript"] == ""


@pytest.mark.parametrize("odd", [{}, [], ["audio"], 3, None])
def test_a_part_whose_type_is_no_text_is_neither_audio_nor_text(odd: Any) -> None:
    conversation = Conversation()
    part = {"type": odd, "text": "Hi", "transcript": "Hello"}
    play(
        conversation,
        added(item(content=[part])),
        {"type": "response.content_part.added", "item_id": "i", "content_index": 1, "part": {"type": odd}},
        {"type": "conversation.item.truncated", "item_id": "i", "audio_end_ms": 30},
    )
    assert only(conversation).audio_index() is None
    assert only(conversation).formatted.text == ""


def test_unknown_items_are_neither_cut_nor_deleted() -> None:
    conversation = Conversation()
    assert play(conversation, {"type": "conversation.item.truncated", "item_id": "x", "audio_end_ms": 1}) == []
    assert play(conversation, {"type": "conversation.item.deleted", "item_id": "x"}) == []


def test_a_deleted_item_is_gone() -> None:
    conversation = Conversation()
    play(conversation, added(item()), {"type": "conversation.item.deleted", "item_id": "i"})
    assert conversation.get_items() == []
    assert conversation.get_item("i") is None


def test_what_is_still_said_of_a_deleted_item_does_not_bring_it_back() -> None:
    conversation = Conversation()
    bare = {"type": "response.output_audio.delta", "delta": "AAAA"}
    words = {"type": "response.output_audio_transcript.delta", "item_id": "i", "delta": "Hello"}
    call = {"type": "response.function_call_arguments.done", "item_id": "f", "name": "f", "arguments": "{}"}
    play(
        conversation,
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "response_id": "r", "item": item()},
        added(item()),
        added(item("function_call", id="f")),
        bare,
        {"type": "conversation.item.deleted", "item_id": "i"},
        {"type": "conversation.item.deleted", "item_id": "f"},
    )
    late = [bare, words, call, {"type": "response.content_part.added", "item_id": "i", "part": {"type": "audio"}}]
    done = {"type": "response.output_item.done", "response_id": "r", "item": item(status="completed")}
    assert play(conversation, *late, done, {"type": "response.done", "response": {"id": "r"}}) == []
    assert conversation.get_items() == []
    (again,) = play(conversation, added(item()))
    assert again.appended, "the id may be given to another item"
    assert play(conversation, words)[0].item is only(conversation)


def test_a_tool_call_gathers_its_arguments_and_completes_with_its_item() -> None:
    conversation = Conversation()
    wire = {"id": "i", "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "in_progress"}
    delta = {"type": "response.function_call_arguments.delta", "response_id": "r", "item_id": "i", "call_id": "c"}
    changes = play(
        conversation,
        {"type": "response.output_item.added", "response_id": "r", "item": wire},
        added(wire),
        {**delta, "delta": '{"a"'},
        {**delta, "delta": ":1}"},
        {"type": "conversation.item.done", "item": {**wire, "arguments": '{"a":1}', "status": "completed"}},
    )
    tool = only(conversation).formatted.tool
    assert tool is not None and (tool.call_id, tool.name, tool.arguments) == ("c", "f", '{"a":1}')
    assert [change.completed for change in changes].count(True) == 1
    assert only(conversation).response_id == "r"


@pytest.mark.parametrize("announced", [False, True])
def test_a_tool_call_told_by_its_call_id_alone_is_one_item(announced: bool) -> None:
    conversation = Conversation()
    wire = {"id": "i", "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "in_progress"}
    changes = play(
        conversation,
        *([added(wire)] if announced else []),
        {"type": "response.function_call_arguments.delta", "call_id": "c", "delta": '{"a"'},
        {"type": "response.function_call_arguments.done", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
        {"type": "response.output_item.done", "response_id": "r", "item": {**wire, "status": "completed"}},
        {"type": "response.done", "response": {"id": "r"}},
    )
    tool = only(conversation).formatted.tool
    assert tool is not None and (tool.call_id, tool.name, tool.arguments) == ("c", "f", '{"a":1}')
    assert [change.completed for change in changes].count(True) == 1
    assert [change.appended for change in changes].count(True) == 1
    assert conversation.get_item("i") is only(conversation)


def test_items_told_by_the_end_of_their_response_alone_are_there() -> None:
    conversation = Conversation()
    said = item(id="m", status="completed", content=[{"type": "output_text", "text": "Well."}])
    tools = [
        {"id": f"i{number}", "type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}
        for number in range(2)
    ]
    end = {"type": "response.done", "response": {"id": "r", "status": "completed", "output": [said, *tools, {}]}}
    changes = play(conversation, end)
    assert [it.id for it in conversation.get_items()] == ["m", "i0", "i1"]
    assert all(it.status == "completed" and it.response_id == "r" for it in conversation.get_items())
    assert [(change.appended, change.completed) for change in changes] == [(True, False), (False, True)] * 3
    assert play(conversation, end) == []


def test_an_interrupted_item_is_incomplete_and_never_completed() -> None:
    conversation = Conversation()
    changes = play(
        conversation,
        added(item()),
        {"type": "response.done", "response": {"id": "r", "status": "cancelled"}},
    )
    assert only(conversation).status == "incomplete"
    assert not any(change.completed for change in changes)


def test_a_service_that_announces_nothing_fills_the_cache_too() -> None:
    conversation = Conversation()
    changes = play(
        conversation,
        {"type": "response.text.delta", "delta": "Hi"},
        {"type": "response.audio.delta", "delta": "AAAA"},
        {"type": "response.done"},
    )
    it = only(conversation)
    assert (it.role, it.status, it.formatted.text, bytes(it.formatted.audio)) == (
        "assistant",
        "completed",
        "Hi",
        b"\0\0\0",
    )
    assert [(change.appended, change.completed) for change in changes] == [(True, False), (False, False), (False, True)]
    assert it.audio_index() == 0


def test_sound_without_ids_belongs_to_the_item_being_said() -> None:
    conversation = Conversation()
    bare = {"type": "response.output_audio.delta", "delta": base64.b64encode(bytes(480)).decode()}
    words = {"type": "response.output_audio_transcript.delta", "delta": "A"}
    for name in ("i", "j"):
        play(
            conversation,
            {"type": "response.created", "response": {"id": f"r{name}"}},
            {"type": "response.output_item.added", "response_id": f"r{name}", "item": item(id=name)},
            bare,
            {**words, "response_id": f"r{name}", "item_id": name},
            bare,
            {"type": "response.done", "response": {"id": f"r{name}", "status": "completed"}},
        )
    assert [(it.id, it.formatted.transcript, it.formatted.audio_ms) for it in conversation.get_items()] == [
        ("i", "A", 20.0),
        ("j", "A", 20.0),
    ]


def test_answers_whose_only_name_is_that_of_their_end_are_items_each() -> None:
    conversation = Conversation()
    completed = []
    for number in range(3):
        completed += [
            change.item.id
            for change in play(
                conversation,
                {"type": "response.text.delta", "delta": f"{number}"},
                {"type": "response.audio.delta", "delta": "AAAA"},
                {"type": "response.done", "response": {"id": f"r{number}", "status": "completed"}},
            )
            if change.completed
        ]
    assert [it.formatted.text for it in conversation.get_items()] == ["0", "1", "2"]
    assert completed == [it.id for it in conversation.get_items()]


def test_the_audio_kept_of_all_items_is_bounded_and_its_length_is_not_forgotten() -> None:
    conversation = Conversation(keep_audio_ms=100)
    for name in ("a", "b", "c"):
        play(conversation, audio(bytes(48 * 60), item_id=name))
    kept = [len(it.formatted.audio) // 48 for it in conversation.get_items()]
    assert sum(kept) <= 100
    assert kept[-1] == 60
    assert [it.formatted.audio_ms for it in conversation.get_items()] == [60.0] * 3


def test_the_bound_on_audio_is_in_the_sessions_own_format() -> None:
    conversation = Conversation(keep_audio_ms=100)
    conversation.bytes_per_ms = 8.0
    for name in ("a", "b", "c"):
        play(conversation, audio(bytes(8 * 60), item_id=name))
    assert [len(it.formatted.audio) // 8 for it in conversation.get_items()] == [0, 0, 60]


def test_forgetting_what_was_said() -> None:
    conversation = Conversation()
    play(conversation, added(item()), audio(bytes(10)))
    conversation.clear()
    assert conversation.get_items() == []


@pytest.mark.parametrize("name", sorted(builtin()))
def test_every_golden_file_leaves_no_item_in_progress(name: str) -> None:
    conversation = Conversation()
    for line in (WIRE / f"{name}.jsonl").read_bytes().splitlines():
        conversation.process(json.loads(line))
    assert conversation.get_items() or name in ("localai",)
    assert [it for it in conversation.get_items() if it.status == "in_progress"] == []


@pytest.mark.parametrize(
    "event", [{}, {"type": 3}, {"type": "x"}, {"type": "conversation.item.added"}, {"type": "response.done"}]
)
def test_events_that_say_nothing_change_nothing(event: dict[str, Any]) -> None:
    assert Conversation().process(event) == ()


def test_what_was_cut_does_not_come_back_with_the_end_of_its_item() -> None:
    conversation = Conversation()
    item = {"id": "i", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    whole = {**item, "status": "incomplete", "content": [{"type": "output_audio", "transcript": "all of it"}]}
    play(
        conversation,
        {"type": "conversation.item.added", "item": item},
        {"type": "conversation.item.truncated", "item_id": "i", "audio_end_ms": 30},
        {"type": "response.output_audio_transcript.delta", "response_id": "r", "item_id": "i", "delta": "of it"},
        {"type": "response.output_item.done", "response_id": "r", "item": whole},
        {"type": "conversation.item.done", "item": whole},
    )
    (kept,) = conversation.get_items()
    assert kept.formatted.transcript == kept.content[0]["transcript"] == "" and kept.status == "incomplete"


def test_a_long_text_is_whole_in_its_part_as_well() -> None:
    conversation = Conversation()
    item = {"id": "i", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
    words = {"type": "response.output_text.delta", "response_id": "r", "item_id": "i", "content_index": 0}
    play(conversation, {"type": "conversation.item.added", "item": item}, *[{**words, "delta": "a" * 5000}] * 30)
    (kept,) = conversation.get_items()
    assert len(kept.formatted.text) == len(kept.content[0]["text"]) == 150_000
    whole = {**item, "content": [{"type": "output_text", "text": "a" * 150_000}]}
    play(conversation, {"type": "conversation.item.done", "item": whole})
    assert len(kept.formatted.text) == 150_000


def test_an_item_of_no_kind_we_can_read_breaks_nothing() -> None:
    conversation = Conversation()
    odd = {"id": "i", "type": {"an": "object"}, "status": "completed"}
    play(conversation, {"type": "response.done", "response": {"id": "r", "status": "completed", "output": [odd]}})
    assert conversation.get_item("i") is not None
