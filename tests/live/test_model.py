"""The model's leg: sessions that open late, twice, wrongly or not at all, and what a call hears of them."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
import time
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from bridge.audio.encoding import decode
from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import ModelCapabilities, SessionPlan
from bridge.errors import EndReason, RealtimeError
from bridge.live.circuit import Circuits
from bridge.live.connect import Refused
from tests.live.calls import plan, settle
from tests.live.services import KEY, Line, Service, call
from tests.live.test_driver import leftovers, on_virtual_time

FRAME = ev.CallerSpoke(b"\x10" * 160, 20.0)
PCMU = {"format": {"type": "audio/pcmu"}}


def busy() -> RealtimeError:
    return RealtimeError("service.example.test:443 cannot be reached", code="connection_failed")


def facts(line: Line) -> list[Any]:
    """What the call hears of its model from now on."""
    heard: list[Any] = []
    line.driver.watch([lambda at, event, actions: heard.append(event)])
    return heard


async def hang_up(line: Line) -> None:
    line.tell(ev.CallerLeft("stop"))
    await line.task
    await settle()
    assert not leftovers(), "nothing of a call outlives it"


# ---------------------------------------------------------------- opening


@on_virtual_time
async def test_a_session_is_greeted_configured_confirmed_and_only_then_ready() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    line.tell(FRAME)
    service.last.confirms()  # before anything was asked: means nothing
    assert not service.last.sent and not heard
    service.last.greets()
    assert [event["type"] for event in service.last.sent] == ["session.update"]
    service.last.greets()
    assert len(service.last.sent) == 1, "configured once"
    assert ev.ModelReady(1) not in heard
    service.last.confirms()
    assert ev.ModelReady(1) in heard
    assert service.last.of("input_audio_buffer.append"), "what the caller said meanwhile is not lost"
    await hang_up(line)
    assert service.last.closed == [1000]


@on_virtual_time
async def test_a_service_that_does_not_confirm_is_taken_at_its_word_after_two_seconds() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    await asyncio.sleep(1.9)
    assert ev.ModelReady(1) not in heard
    await asyncio.sleep(0.2)
    assert ev.ModelReady(1) in heard
    service.last.confirms()
    assert heard.count(ev.ModelReady(1)) == 1
    await hang_up(line)


@on_virtual_time
async def test_a_service_that_refuses_our_configuration_is_not_spoken_to_with_its_own() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    service.last.says("error", error={"code": "invalid_value", "message": "no such tool", "param": "session.tools"})
    with capture_logs() as logs:
        await asyncio.sleep(2.1)
    assert ev.ModelReady(1) not in heard
    (lost,) = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert (lost.why, lost.cure) == ("invalid_value", "fatal")
    (told,) = [entry for entry in logs if entry["event"] == "model_session_lost"]
    assert "configuration was refused: no such tool" in told["why"]
    await line.task


@on_virtual_time
async def test_a_service_that_has_not_the_agents_voice_is_asked_for_its_own() -> None:
    service = Service()
    session = SessionPlan(instructions="Be Ada.", voice="marin", transcription_model="whisper", language="en")
    line = await call(service, session=session)
    heard = facts(line)
    service.last.greets()
    gone = "The model `whisper` does not exist or you do not have access to it."
    for param, code, message in (
        ("session.audio.output.voice", "invalid_value", "not here"),
        ("session.audio.output.voice", "invalid_value", "not here"),
        ("session.audio.input.transcription.language", "invalid_value", "not here"),
        ("session.input_audio_transcription.model", "model_not_found", gone),
    ):
        service.last.says("error", error={"code": code, "message": message, "param": param})
    await asyncio.sleep(1.0)
    service.last.confirms()
    assert ev.ModelReady(1) in heard and not any(isinstance(fact, ev.ModelLost) for fact in heard)
    asked = [json.dumps(update["session"]) for update in service.last.of("session.update")]
    assert ["marin" in one for one in asked] == [True, False, False, False]
    assert ['"language": "en"' in one for one in asked] == [True, True, False, False]
    assert ["whisper" in one for one in asked] == [True, True, True, False]
    assert all("Be Ada." in one for one in asked)
    await hang_up(line)


@on_virtual_time
async def test_a_complaint_about_a_tool_that_knows_voices_takes_no_voice_away() -> None:
    service = Service()
    line = await call(service, session=SessionPlan(instructions="Be Ada.", voice="marin"))
    service.last.greets()
    about = "session.tools[0].parameters.properties.voice"
    service.last.says("error", error={"code": "invalid_value", "message": "not here", "param": about})
    assert len(service.last.of("session.update")) == 1
    await asyncio.sleep(2.1)
    assert service.last.closed, "refused"
    await line.task


@on_virtual_time
async def test_a_complaint_about_what_was_said_before_is_none_about_the_configuration() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    service.last.confirms()
    item = "item of r1"
    service.last.says("response.output_audio_transcript.delta", response_id="r1", item_id=item, delta="Hello.")
    service.last.answers("r1")
    await asyncio.sleep(3)
    service.last.drops()
    await asyncio.sleep(0.1)
    service.last.greets()
    for param in ("item.content[0].type", None):
        service.last.says("error", error={"code": "invalid_value", "message": "no such part", "param": param})
    await asyncio.sleep(2.1)
    assert ev.ModelReady(2) in heard
    await hang_up(line)


@on_virtual_time
async def test_a_complaint_that_names_our_configuration_is_about_it_whatever_was_said_before() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    service.last.confirms()
    service.last.says("response.output_audio_transcript.delta", response_id="r1", item_id="item of r1", delta="Hello.")
    service.last.answers("r1")
    await asyncio.sleep(3)
    service.last.drops()
    await asyncio.sleep(0.1)
    service.last.greets()
    (update,) = service.last.of("session.update")
    error = {"code": "unsupported", "message": "no such thing", "param": None, "event_id": update["event_id"]}
    service.last.says("error", error=error)
    await asyncio.sleep(2.1)
    assert ev.ModelReady(2) not in heard
    assert [fact.cure for fact in heard if isinstance(fact, ev.ModelLost)][-1] == "fatal"
    await hang_up(line)


@on_virtual_time
async def test_a_service_that_complains_and_confirms_is_taken_at_its_word() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    service.last.says("error", error={"code": "invalid_value", "message": "no such field", "type": "x"})
    service.last.confirms()
    await asyncio.sleep(3)
    assert ev.ModelReady(1) in heard and not any(isinstance(fact, ev.ModelLost) for fact in heard)
    await hang_up(line)


@on_virtual_time
async def test_a_profile_that_never_confirms_is_ready_at_once() -> None:
    service = Service()
    line = await call(service, profile={"confirms_update": False})
    heard = facts(line)
    service.last.greets()
    assert ev.ModelReady(1) in heard
    await hang_up(line)


@on_virtual_time
async def test_the_key_is_in_the_request_and_nowhere_else() -> None:
    service = Service(busy(), Refused(503, retry_after_s=None))
    with capture_logs() as logs:
        line = await call(service)
        await asyncio.sleep(1)
        service.last.greets()
        service.last.says("error", error={"code": "nonsense", "message": f"Incorrect key {KEY}", "type": "x"})
        service.last.drops(1008, f"key {KEY} is bad")
        await settle()
        await hang_up(line)
    assert KEY in str(service.requests)
    assert KEY not in str(logs)


@on_virtual_time
async def test_a_slow_connection_gets_a_rival_after_a_second_and_a_half_and_the_first_to_open_wins() -> None:
    service = Service(9.0, 0.3)
    line = await call(service)
    await asyncio.sleep(1.4)
    assert service.attempts == 1
    await asyncio.sleep(0.2)
    assert service.attempts == 2
    await asyncio.sleep(0.3)
    assert len(service.sockets) == 1 and service.given_up == 1
    service.last.greets()
    service.last.confirms()
    await asyncio.sleep(20)
    assert len(service.sockets) == 1 and not service.last.closed
    await hang_up(line)


@on_virtual_time
async def test_the_first_connection_may_still_win_and_the_rival_is_given_up() -> None:
    service = Service(1.7, 9.0)
    line = await call(service)
    await asyncio.sleep(1.8)
    assert service.given_up == 1 and len(service.sockets) == 1 and not service.last.closed
    await hang_up(line)


@on_virtual_time
async def test_of_two_that_open_together_one_is_closed() -> None:
    service = Service(2.0, 0.5)
    line = await call(service)
    await asyncio.sleep(2.1)
    assert len(service.sockets) == 2
    assert sorted(len(socket.closed) for socket in service.sockets) == [0, 1]
    await hang_up(line)
    assert all(socket.closed for socket in service.sockets)


@on_virtual_time
async def test_a_rival_that_fails_does_not_end_the_race() -> None:
    service = Service(2.5, busy())
    line = await call(service)
    heard = facts(line)
    await asyncio.sleep(2.6)
    assert len(service.sockets) == 1
    assert not [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    await hang_up(line)


@on_virtual_time
async def test_when_both_fail_the_call_is_told_once() -> None:
    service = Service((1.9, busy()), (1.0, busy()))
    line = await call(service)
    heard = facts(line)
    await asyncio.sleep(2.6)
    assert [fact.cure for fact in heard if isinstance(fact, ev.ModelLost)] == ["retry"]
    await hang_up(line)


@pytest.mark.parametrize("turns", range(8))
@on_virtual_time
async def test_a_caller_who_leaves_while_the_model_connects_leaves_no_socket(turns: int) -> None:
    """Whatever the moment: before the dialling, in it, just after it opened, with a rival or without."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    for delay_s, wait_s in ((0.0, 0.0), (1.0, 1.0), (1.5, 1.5), (2.0, 2.0), (3.0, 2.0), (busy(), 0.0)):
        service = Service(delay_s, 0.5)
        line = Line(service, plan())
        await asyncio.sleep(wait_s)
        for _ in range(turns):
            await asyncio.sleep(0)
        await hang_up(line)
        await asyncio.sleep(5)
        assert all(socket.closed for socket in service.sockets)
    gc.collect()
    assert not complaints


@on_virtual_time
async def test_a_service_that_opens_and_says_nothing_is_tried_anew_after_three_seconds() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    await asyncio.sleep(3.1)
    assert [(fact.session, fact.cure) for fact in heard if isinstance(fact, ev.ModelLost)] == [(1, "retry")]
    assert service.sockets[0].closed and len(service.sockets) == 2
    service.sockets[0].greets()  # too late
    service.sockets[1].greets()
    service.sockets[1].confirms()
    assert [fact for fact in heard if isinstance(fact, ev.ModelReady)] == [ev.ModelReady(2)]
    assert not service.sockets[0].sent
    await hang_up(line)


@on_virtual_time
async def test_a_session_that_becomes_ready_after_it_was_given_up_is_not_mistaken_for_the_next() -> None:
    """What an attempt says that the call no longer waits for must not stand in the new one's way."""
    service = Service()
    line = await call(service, model_ready_s=2.0, model_retry_s=(2.0, 2.0))
    first = service.last
    first.greets()
    await asyncio.sleep(1.99)
    assert service.attempts == 1
    await asyncio.sleep(0.005)
    line.tell(FRAME)
    asyncio.get_running_loop().jump(0.01)  # type: ignore[attr-defined]  # the two seconds are over, nothing rang yet
    line.tell(FRAME)
    first.confirms()
    await asyncio.sleep(2.1)
    second = service.last
    assert second is not first and first.closed
    second.greets()
    second.confirms()
    line.tell(FRAME)
    assert second.of("input_audio_buffer.append")
    await hang_up(line)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("invalid_api_key", EndReason.MODEL_REFUSED), ("insufficient_quota", EndReason.MODEL_REFUSED)],
)
@on_virtual_time
async def test_an_error_instead_of_a_greeting_can_be_final(code: str, reason: EndReason) -> None:
    service = Service()
    line = await call(service)
    service.last.says("error", error={"type": "invalid_request_error", "code": code, "message": "no"})
    service.last.drops(3000, code)
    assert await asyncio.wait_for(line.task, 60) is reason
    assert service.attempts == 1


@on_virtual_time
async def test_an_error_instead_of_a_greeting_can_be_worth_another_attempt() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.says("error", error={"type": "server_error", "code": "rate_limit_exceeded", "message": "slow down"})
    service.last.drops(1013, "")
    lost = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert [(fact.why, fact.cure) for fact in lost] == [("rate_limit_exceeded", "retry")]
    await asyncio.sleep(1.1)
    assert service.attempts == 2
    await hang_up(line)


@pytest.mark.parametrize(
    ("close", "cure"),
    [
        ((1006, ""), "retry"),
        ((1001, "Your session hit the maximum duration of 60 minutes."), "rotate"),
        ((1011, "keepalive"), "retry"),
        ((1000, ""), "retry"),
        ((3000, "invalid_request_error.invalid_api_key"), "fatal"),
        ((3003, ""), "fatal"),
        ((4000, "invalid_request_error.beta_api_shape_disabled"), "fatal"),
        ((1008, "Incorrect API key provided"), "fatal"),
        ((1013, "try again later"), "retry"),
    ],
)
@on_virtual_time
async def test_a_close_means_what_its_code_and_reason_say(close: tuple[int, str], cure: str) -> None:
    line = await call()
    heard = facts(line)
    line.service.last.drops(*close)
    assert [fact.cure for fact in heard if isinstance(fact, ev.ModelLost)] == [cure]
    await hang_up(line)


@pytest.mark.parametrize(
    ("status", "retry_after_s", "cure"),
    [(401, None, "fatal"), (403, None, "fatal"), (429, 2.0, "retry"), (500, None, "retry"), (302, None, "fatal")],
)
@on_virtual_time
async def test_a_refused_handshake_is_passed_on_with_its_retry_after(
    status: int, retry_after_s: float | None, cure: str
) -> None:
    service = Service(Refused(status, retry_after_s=retry_after_s), talks=True)
    line = Line(service, plan())
    heard = facts(line)
    await settle()
    lost = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert [(fact.cure, fact.retry_after_s) for fact in lost] == [(cure, retry_after_s)]
    assert KEY not in str(lost)
    if cure == "fatal":
        assert await line.task is EndReason.MODEL_REFUSED and service.attempts == 1
    else:
        await hang_up(line)


@on_virtual_time
async def test_a_service_that_refused_is_asked_again_however_often_calls_come() -> None:
    circuits = Circuits()
    service = Service(Refused(401, retry_after_s=None), talks=True)  # the key is put right after the first call
    for _ in range(2):
        assert await (await call(service, circuits=circuits)).task is EndReason.MODEL_REFUSED
        await asyncio.sleep(4)
    assert service.attempts == 1
    line = await call(service, circuits=circuits)
    assert service.attempts == 2 and line.driver.call.state.model == "ready"
    await hang_up(line)


@on_virtual_time
async def test_what_a_service_refused_by_its_close_is_refused_to_the_next_call_at_once() -> None:
    circuits, service = Circuits(), Service()
    first = await call(service, circuits=circuits)
    service.last.drops(3000, "unauthorized")
    assert await first.task is EndReason.MODEL_REFUSED
    second = await call(service, circuits=circuits)
    assert second.driver.ended.done() and await second.task is EndReason.MODEL_REFUSED
    assert service.attempts == 1


# ---------------------------------------------------------------- audio


@on_virtual_time
async def test_audio_goes_up_in_the_models_format_and_down_in_the_carriers() -> None:
    line = await call()
    heard = facts(line)
    for _ in range(50):
        line.tell(FRAME)
    assert len(line.service.last.heard) == pytest.approx(48_000, abs=480)
    line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
    line.service.last.speaks(b"\x01\x02" * 24_000)
    spoken = [fact for fact in heard if isinstance(fact, ev.ModelSpoke)]
    assert sum(fact.ms for fact in spoken) == pytest.approx(1000, abs=10)
    assert all(len(fact.audio) == fact.ms * 8 for fact in spoken)
    await hang_up(line)


@on_virtual_time
async def test_deltas_of_any_length_add_up_to_the_same_sound() -> None:
    """Odd bytes are carried over; nothing is lost, nothing shifts."""
    dice = random.Random(7)
    audio = dice.randbytes(48_000)
    sounds = []
    for odd in (False, True):
        line = await call()
        heard = facts(line)
        line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
        at = 0
        while at < len(audio):
            size = dice.randrange(1, 999) if odd else 4800
            line.service.last.speaks(audio[at : at + size])
            at += size
        sounds.append(b"".join(fact.audio for fact in heard if isinstance(fact, ev.ModelSpoke)))
        await hang_up(line)
    assert sounds[0] == sounds[1] and len(sounds[0]) == pytest.approx(8000, abs=80)


@pytest.mark.parametrize("when", ["at once", "after it was taken at its word", "in mid-session"])
@on_virtual_time
async def test_other_formats_than_we_asked_for_rebuild_the_path(when: str) -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    if when == "after it was taken at its word":
        await asyncio.sleep(2.5)
    elif when == "in mid-session":
        service.last.confirms()
        line.tell(FRAME)
    already = len(service.last.heard)
    service.last.confirms(audio={"input": PCMU, "output": PCMU})
    assert heard.count(ev.ModelReady(1)) == 1
    line.tell(FRAME)
    assert service.last.heard[already:] == FRAME.audio, "8 kHz mu-law passes as it is"
    service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
    service.last.speaks(b"\x2a" * 800)
    assert [fact.audio for fact in heard if isinstance(fact, ev.ModelSpoke)] == [b"\x2a" * 800]
    await hang_up(line)


@on_virtual_time
async def test_sixteen_kilohertz_is_heard_at_sixteen_kilohertz() -> None:
    service = Service()
    line = await call(service)
    service.last.greets()
    wide = {"format": {"type": "audio/pcm", "rate": 16_000}}
    service.last.confirms(audio={"input": wide, "output": wide})
    for _ in range(50):
        line.tell(FRAME)
    assert len(service.last.heard) == pytest.approx(32_000, abs=320)
    await hang_up(line)


@on_virtual_time
async def test_a_format_nobody_can_hear_is_a_refusal() -> None:
    service = Service()
    line = await call(service)
    service.last.greets()
    service.last.confirms(audio={"input": {"format": {"type": "audio/pcm", "rate": 48_000}}})
    assert await line.task is EndReason.MODEL_REFUSED


@pytest.mark.parametrize(("frame_ms", "frames"), [(20, 60), (40, 30), (60, 20)])
@on_virtual_time
async def test_caller_audio_is_gathered_into_uplink_frames(frame_ms: int, frames: int) -> None:
    line = await call(uplink_frame_ms=frame_ms, profile={"encodings": ("mulaw",)}, session=_mulaw())
    for number in range(60):
        line.tell(ev.CallerSpoke(bytes([number]) * 160, 20.0))
    appended = line.service.last.of("input_audio_buffer.append")
    assert len(appended) == frames
    assert line.service.last.heard == b"".join(bytes([number]) * 160 for number in range(60))
    await hang_up(line)


def _mulaw(**fields: Any) -> SessionPlan:
    return SessionPlan(model_encoding="mulaw", model_rate_hz=8000, **fields)


@on_virtual_time
async def test_what_was_gathered_goes_before_silence_and_before_a_commit() -> None:
    line = await call(uplink_frame_ms=60, session=_mulaw())
    line.tell(ev.CallerSpoke(b"\x01" * 160, 20.0))
    line.leg.send_silence(100)
    assert line.service.last.heard == b"\x01" * 160 + b"\xff" * 800
    line.tell(ev.CallerSpoke(b"\x02" * 160, 20.0))
    line.leg.request(do.CommitCallerAudio())
    kinds = [event["type"] for event in line.service.last.sent[-2:]]
    assert kinds == ["input_audio_buffer.append", "input_audio_buffer.commit"]
    assert line.service.last.heard.endswith(b"\x02" * 160)
    await hang_up(line)


@on_virtual_time
async def test_what_was_gathered_for_one_session_is_not_said_to_the_next() -> None:
    line = await call(uplink_frame_ms=60, session=_mulaw())
    line.leg.send_audio(b"\x05" * 160)
    line.leg.open_beside(do.OpenModel(2, 0))
    await settle()
    line.leg.switch(do.SwitchModel(2))
    line.leg.send_audio(b"\x06" * 480)
    first, second = line.service.sockets
    assert (first.heard, second.heard) == (b"", b"\x06" * 480)
    await hang_up(line)


@on_virtual_time
async def test_binary_audio_goes_as_bare_bytes_both_ways() -> None:
    line = await call(profile={"binary_audio": True}, session=_mulaw())
    heard = facts(line)
    line.tell(FRAME)
    assert line.service.last.binary == [FRAME.audio]
    assert not line.service.last.of("input_audio_buffer.append")
    line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
    line.service.last.says_binary(b"\x33" * 160)
    assert [fact.audio for fact in heard if isinstance(fact, ev.ModelSpoke)] == [b"\x33" * 160]
    await hang_up(line)


@on_virtual_time
async def test_a_service_that_stops_reading_is_lost_and_its_memory_bounded() -> None:
    line = await call()
    heard = facts(line)
    first = line.service.last
    first.waiting_bytes = (1 << 20) + 1
    line.tell(FRAME)
    assert [fact.cure for fact in heard if isinstance(fact, ev.ModelLost)] == ["retry"]
    assert first.closed
    await settle()
    assert line.service.last is not first
    await hang_up(line)


# ---------------------------------------------------------------- one session after the other


@on_virtual_time
async def test_a_new_session_is_told_what_was_said_in_order_before_any_audio() -> None:
    line = await call()
    first = line.service.last
    first.says("input_audio_buffer.speech_started", item_id="c1", audio_start_ms=0)
    line.tell(FRAME)
    first.says("input_audio_buffer.speech_stopped", item_id="c1", audio_end_ms=20)
    first.says("input_audio_buffer.committed", item_id="c1", previous_item_id=None)
    first.says("conversation.item.input_audio_transcription.completed", item_id="c1", content_index=0, transcript="One")
    first.says("response.created", response={"id": "r1", "status": "in_progress"})
    first.says("response.output_audio_transcript.delta", response_id="r1", item_id="i1", content_index=0, delta="Two")
    first.speaks(b"\x01\x02" * 2400)
    first.says("response.output_audio.done", response_id="r1", item_id="i1", content_index=0)
    first.says("response.done", response={"id": "r1", "status": "completed", "output": []})
    await asyncio.sleep(2)
    line.tell(FRAME)
    first.drops()
    line.tell(FRAME)
    await settle()
    second = line.service.last
    assert second is not first
    kinds = [event["type"] for event in second.sent]
    assert kinds[:3] == ["session.update", "conversation.item.create", "conversation.item.create"]
    said = [item["item"]["content"][0]["text"] for item in second.of("conversation.item.create")]
    assert said[:2] == ["One", "Two"]
    assert "input_audio_buffer.append" in kinds[3:]
    await hang_up(line)


@on_virtual_time
async def test_late_frames_and_the_close_of_an_old_session_never_reach_the_call() -> None:
    line = await call()
    first = line.service.last
    first.drops(1011, "oops")
    await settle()
    heard = facts(line)
    first.says("response.created", response={"id": "r9", "status": "in_progress"})
    first.speaks(b"\x01" * 4800, response="r9")
    first.says("error", error={"code": "insufficient_quota", "message": "x", "type": "x"})
    first.drops(1006)
    assert heard == [] and not line.task.done()
    line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
    assert heard == [ev.ResponseStarted("r1")]
    await hang_up(line)


@on_virtual_time
async def test_a_session_opened_beside_is_silent_until_it_takes_over() -> None:
    line = await call(models=(_short_lived(),))
    first = line.service.last
    heard = facts(line)
    line.service.talks = False
    for _ in range(500):
        if line.service.last is not first:
            break
        await asyncio.sleep(0.2)
    second = line.service.last
    assert second is not first and not first.closed, "the old one stays in use"
    second.greets()
    second.says("response.created", response={"id": "r8", "status": "in_progress"})
    second.speaks(b"\x01" * 4800, response="r8")
    assert not [fact for fact in heard if isinstance(fact, ev.ResponseStarted | ev.ModelSpoke)]
    line.tell(FRAME)
    assert first.of("input_audio_buffer.append") and not second.of("input_audio_buffer.append")
    second.confirms()
    await asyncio.sleep(1)
    assert first.closed and not second.closed
    line.tell(FRAME)
    assert second.of("input_audio_buffer.append")
    await hang_up(line)
    assert second.closed


def _short_lived() -> ModelCapabilities:
    return ModelCapabilities(max_session_s=30.0, truncate_margin_ms=0)


@on_virtual_time
async def test_a_session_beside_that_is_refused_leaves_the_one_in_use_alone() -> None:
    line = await call(models=(_short_lived(),))
    first = line.service.last
    heard = facts(line)
    line.service.talks = False
    for _ in range(500):
        if line.service.last is not first:
            break
        await asyncio.sleep(0.2)
    line.service.last.says("error", error={"code": "insufficient_quota", "message": "x", "type": "x"})
    lost = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert [(fact.session, fact.cure) for fact in lost] == [(2, "fatal")]
    assert not first.closed and not line.task.done() and line.service.last.closed
    await hang_up(line)


# ---------------------------------------------------------------- staying alive


@on_virtual_time
async def test_a_session_that_hears_nothing_from_us_gets_a_small_frame_and_others_do_not() -> None:
    line = await call(profile={"keepalive_s": 5.0}, caller_pause_ms=10**9)
    socket = line.service.last
    already = len(socket.sent)
    for _ in range(600):
        line.tell(FRAME)
        await asyncio.sleep(0.02)
    assert len(socket.sent) - already == 600, "audio is sign of life enough"
    await asyncio.sleep(21)
    assert 3 <= len(socket.sent) - already - 600 <= 4
    await hang_up(line)
    sent = len(socket.sent)
    await asyncio.sleep(60)
    assert len(socket.sent) == sent, "no timer outlives the session"


@on_virtual_time
async def test_no_timer_of_a_session_outlives_it() -> None:
    loop = asyncio.get_running_loop()
    for phase in ("dialling", "silent", "greeted", "ready"):
        service = Service(9.0 if phase == "dialling" else 0.0)
        line = await call(service, profile={"keepalive_s": 5.0})
        if phase in ("greeted", "ready"):
            service.last.greets()
        if phase == "ready":
            service.last.confirms()
        await hang_up(line)
        assert not [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()], phase


@on_virtual_time
async def test_how_long_a_session_lives_is_read_from_either_announcement() -> None:
    for where in ("created", "updated"):
        service = Service()
        line = await call(service)
        heard = facts(line)
        expires = {"expires_at": time.time() + 1800}
        service.last.greets(**(expires if where == "created" else {}))
        service.last.confirms(**(expires if where == "updated" else {}))
        assert ev.ModelReady(1, 1800.0) in heard, where
        await hang_up(line)


# ---------------------------------------------------------------- our own mistakes


@on_virtual_time
async def test_an_exception_of_ours_in_a_frame_ends_this_call_only() -> None:
    line, other = await call(), await call()

    class Broken:
        def push(self, data: bytes) -> bytes:
            raise ZeroDivisionError

    session = line.leg._session
    assert session is not None
    session.down = Broken()  # type: ignore[assignment]
    with capture_logs() as logs:
        line.service.last.says("response.created", response={"id": "r1", "status": "in_progress"})
        line.service.last.speaks(b"\x01" * 4800)
        assert await line.task is EndReason.BUG
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["call_broke"]
    assert line.service.last.closed and line.phone.closed
    assert not other.task.done()
    await hang_up(other)


@on_virtual_time
async def test_a_dialling_that_breaks_ends_this_call_only() -> None:
    other = await call()
    with capture_logs():
        line = Line(Service(ZeroDivisionError()), plan())
        assert await line.task is EndReason.BUG
    await hang_up(other)


@on_virtual_time
async def test_garbage_from_the_service_is_counted_and_the_call_goes_on() -> None:
    line = await call()
    heard = facts(line)
    dice = random.Random(3)
    session = line.leg._session
    assert session is not None
    for number in range(3000):
        junk = dice.choice(
            [
                b"",
                b"null",
                b"[" * 5000,
                b"\xff\xfe",
                dice.randbytes(40),
                b'{"type":"response.output_audio.delta","delta":"!!!"}',
                b'{"type":"response.output_audio.delta","response_id":[],"item_id":{},"delta":"AAAA"}',
                b'{"type":"response.done","response":null}',
                b'{"type":"input_audio_buffer.speech_started","audio_start_ms":"soon"}',
                b'{"type":%d}' % number,
            ]
        )
        session.receive(junk, True)
    assert session.unknown > 1000 and not line.task.done()
    assert not [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    await hang_up(line)


# ---------------------------------------------------------------- one session, and the next


@on_virtual_time
async def test_a_key_that_is_quoted_in_a_close_is_not_logged() -> None:
    line = await call()
    with capture_logs() as logs:
        line.service.last.drops(1008, f"key {KEY} is bad")
    (told,) = [entry for entry in logs if entry["event"] == "model_session_lost"]
    assert "closed with 1008 key *** is bad" in told["why"]
    assert KEY not in str(logs)
    await hang_up(line)


@on_virtual_time
async def test_an_end_that_is_past_or_beyond_a_day_says_nothing_of_a_session() -> None:
    for expires_at in (1.0, time.time() - 600, time.time() + 3 * 86_400):
        service = Service()
        line = await call(service)
        heard = facts(line)
        service.last.greets(expires_at=expires_at)
        service.last.confirms()
        assert ev.ModelReady(1, None) in heard, expires_at
        await hang_up(line)


@on_virtual_time
async def test_a_service_that_asked_for_time_is_left_alone_by_the_next_call() -> None:
    circuits = Circuits()
    service = Service(Refused(429, retry_after_s=3.0), talks=True)
    first = await call(service, circuits=circuits)
    second = await call(service, circuits=circuits)
    await asyncio.sleep(2.5)
    assert service.attempts == 1
    await hang_up_beside(second)
    await hang_up(first)


@on_virtual_time
async def test_a_service_that_has_too_much_to_do_is_left_alone_for_a_second_by_the_next_call() -> None:
    circuits, service = Circuits(), Service()
    first = await call(service, circuits=circuits)
    heard = facts(first)
    service.last.says("error", error={"type": "server_error", "code": "rate_limit_exceeded", "message": "slow down"})
    service.last.drops(1013, "")
    assert [fact.retry_after_s for fact in heard if isinstance(fact, ev.ModelLost)] == [1.0]
    second = await call(service, circuits=circuits)
    assert service.attempts == 1
    await hang_up_beside(second)
    await hang_up(first)


async def hang_up_beside(line: Line) -> None:
    line.tell(ev.CallerLeft("stop"))
    await line.task


@on_virtual_time
async def test_a_session_that_is_lost_tells_for_how_long_it_had_been_silent() -> None:
    line = await call()
    heard = facts(line)
    await asyncio.sleep(3)
    line.service.last.drops()
    assert [round(fact.silent_ms) for fact in heard if isinstance(fact, ev.ModelLost)] == [3000]
    await hang_up(line)


@on_virtual_time
async def test_what_a_session_beside_says_is_not_heard_however_ready_it_is() -> None:
    line = await call(models=(_short_lived(),))
    first = line.service.last
    heard = facts(line)
    line.service.talks = False
    for _ in range(500):
        if line.service.last is not first:
            break
        await asyncio.sleep(0.2)
    second = line.service.last
    first.says("response.created", response={"id": "r1", "status": "in_progress"})
    first.speaks(b"\x01\x02" * 24_000)
    second.greets()
    second.confirms()
    assert not first.closed, "it is in the middle of an answer"
    heard.clear()
    second.speaks(b"\x01\x02" * 2400, response="r8")
    assert not [fact for fact in heard if isinstance(fact, ev.ModelSpoke)]
    await hang_up(line)


@on_virtual_time
async def test_a_service_is_pinged_from_the_moment_its_connection_opens() -> None:
    service = Service()
    line = await call(service)
    assert service.last.pings == 1, "a line that is dead is found out however quiet the session is"
    await hang_up(line)


@on_virtual_time
async def test_the_agents_gain_is_that_of_what_its_caller_hears() -> None:
    loud: list[int] = []
    for gain_db in (0.0, -12.0):
        call_plan = plan()
        agent = msgspec.structs.replace(call_plan.agent, gain_db=gain_db)
        line = Line(Service(talks=True), msgspec.structs.replace(call_plan, agent=agent))
        await settle()
        line.driver.attach(line.phone, "MZ1")
        heard = facts(line)
        line.service.last.speaks(b"\x00\x20" * 4800)
        (spoke,) = [fact for fact in heard if isinstance(fact, ev.ModelSpoke)]
        loud.append(int(abs(decode("mulaw", spoke.audio).astype(int)).max()))
        await hang_up(line)
    assert 3.5 < loud[0] / loud[1] < 4.5


@on_virtual_time
async def test_a_complaint_about_nothing_in_particular_is_about_our_configuration() -> None:
    service = Service()
    line = await call(service)
    heard = facts(line)
    service.last.greets()
    service.last.says("error", error={"code": "invalid_value", "message": "no such voice"})
    await asyncio.sleep(2.1)
    assert [(fact.why, fact.cure) for fact in heard if isinstance(fact, ev.ModelLost)] == [("invalid_value", "fatal")]
    await line.task


@on_virtual_time
async def test_a_service_that_will_not_go_on_is_not_asked_by_the_next_call() -> None:
    circuits, service = Circuits(), Service(talks=True)
    first = await call(service, circuits=circuits)
    service.last.says("error", error={"code": "insufficient_quota", "message": "no more", "type": "x"})
    assert await first.task is EndReason.MODEL_REFUSED
    second = await call(service, circuits=circuits)
    assert await second.task is EndReason.MODEL_REFUSED
    assert service.attempts == 1


@on_virtual_time
async def test_what_was_gathered_for_a_session_that_is_lost_is_not_said_to_the_next() -> None:
    line = await call(uplink_frame_ms=40)
    line.leg.send_audio(b"\x10" * 160)
    line.service.last.drops()
    await asyncio.sleep(3)
    assert line.service.attempts == 2
    line.leg.send_audio(b"\x20" * 320)
    (event,) = line.service.last.of("input_audio_buffer.append")
    assert len(base64.b64decode(event["audio"])) == 40 * 48
    await hang_up(line)


@on_virtual_time
async def test_a_session_beside_makes_way_for_another_beside() -> None:
    line = await call()
    first = line.service.last
    line.leg.open_beside(do.OpenModel(2, 0))
    await settle()
    second = line.service.last
    line.leg.open_beside(do.OpenModel(3, 0))
    await settle()
    assert second is not first and second.closed and not first.closed and not line.service.last.closed
    await hang_up(line)


@on_virtual_time
async def test_after_a_clear_an_answer_begins_as_after_silence() -> None:
    line = await call()
    heard = facts(line)
    sound = b"\x01\x02" * 2400
    line.service.last.speaks(sound)
    line.leg.cleared()
    line.service.last.speaks(b"\x01")  # half a sample
    line.leg.cleared()
    line.service.last.speaks(sound)
    first, _, second = (fact.audio for fact in heard if isinstance(fact, ev.ModelSpoke))
    assert first == second
    await hang_up(line)


@on_virtual_time
async def test_a_service_that_floods_us_is_lost_and_one_that_answers_quickly_is_not() -> None:
    service = Service()
    line = await call(service)
    service.last.greets()
    service.last.confirms()
    heard = facts(line)
    for _ in range(6000):  # two minutes of speech in deltas of 20 ms, all at once
        service.last.speaks(bytes(960))
        service.last.says("response.output_audio_transcript.delta", response_id="r1", item_id="i1", delta="a")
        if len(heard) % 128 == 0:
            heard.clear()
    assert not [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    heard.clear()
    flooding = service.last
    for _ in range(13_000):
        if not flooding.closed:
            flooding.says("house.news")
    (lost,) = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert lost.why == "connection_lost" and flooding.closed
    await hang_up(line)


@on_virtual_time
async def test_a_service_that_floods_us_with_bytes_is_lost() -> None:
    service = Service()
    line = await call(service)
    service.last.greets()
    service.last.confirms()
    heard = facts(line)
    flooding, sent = service.last, 0
    while not flooding.closed and sent < 100:
        sent += 1
        flooding.says("house.news", news="x" * 1_000_000)
    (lost,) = [fact for fact in heard if isinstance(fact, ev.ModelLost)]
    assert lost.why == "connection_lost" and 40 < sent < 60
    await hang_up(line)


@on_virtual_time
async def test_a_service_may_go_on_for_as_long_as_it_likes_at_an_honest_pace() -> None:
    service = Service()
    line = await call(service)
    service.last.greets()
    service.last.confirms()
    for _ in range(4):
        for _ in range(9000):
            service.last.says("house.news")
        await asyncio.sleep(10)
    assert not service.last.closed
    await hang_up(line)


@on_virtual_time
async def test_who_is_asked_again_without_a_voice_has_its_time_to_confirm() -> None:
    service = Service()
    line = await call(service, session=SessionPlan(voice="marin"))
    heard = facts(line)
    service.last.greets()
    await asyncio.sleep(1.5)
    service.last.says("error", error={"code": "invalid_value", "message": "not here", "param": "session.voice"})
    await asyncio.sleep(1.5)
    assert ev.ModelReady(1) not in heard
    service.last.confirms()
    assert ev.ModelReady(1) in heard
    await hang_up(line)
