"""Whole simulated calls against a small bridge, on the virtual clock: times are exact."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import re
import wave

import numpy as np
import numpy.typing as npt
import pytest

from bridge.audio import g711
from bridge.errors import UsageError
from bridge.sim.account import DialOutcome
from bridge.sim.caller import Caller
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.sim.network import Network
from bridge.sim.signature import sign
from tests.sim.double import PUBLIC, STREAM, TOKEN, Bridge, Stream, document, hang_up, on_virtual_time

CALL = {"to": "+15550100", "from_": "+15550199"}


def codes(leg: Leg) -> list[int]:
    return [problem.code for problem in leg.errors]


# ---------------------------------------------------------------- the webhook


@on_virtual_time
async def test_the_webhook_is_a_signed_form_with_the_standard_parameters() -> None:
    async with Bridge("<Hangup/>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, extra={"CallerName": "Ann"})
        assert await leg.ended() == "completed"
        path, form, headers = bridge.forms[0]
    assert path == "/twilio/voice"
    assert form == {
        "CallSid": leg.call_id,
        "AccountSid": carrier.account.sid,
        "From": "+15550199",
        "To": "+15550100",
        "Caller": "+15550199",
        "Called": "+15550100",
        "CallStatus": "ringing",
        "ApiVersion": "2010-04-01",
        "Direction": "inbound",
        "CallerName": "Ann",
    }
    assert headers["host"] == "bridge.example.test"
    assert headers["x-twilio-signature"] == sign(TOKEN, f"{PUBLIC}/twilio/voice", form)


@pytest.mark.parametrize("signing", ["forged", "missing"])
@on_virtual_time
async def test_a_signature_can_be_forged_or_left_out(signing: str) -> None:
    async with Bridge(STREAM) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, signing=signing)
        stream = await bridge.stream()
        _, form, headers = bridge.forms[0]
        right = sign(TOKEN, f"{PUBLIC}/twilio/voice", form)
        assert headers.get("x-twilio-signature") != right
        assert stream.headers.get("X-Twilio-Signature") != sign(TOKEN, "wss://bridge.example.test/media")
        assert ("x-twilio-signature" in headers) == (signing == "forged")
        leg.hang_up()


@pytest.mark.parametrize(
    ("answer", "code"), [(403, 11200), (500, 11200), ("no xml", 12100), ("<Connect/>", 12100), (302, 11200)]
)
@on_virtual_time
async def test_a_webhook_that_fails_is_the_carriers_error_and_an_apology(answer: str | int, code: int) -> None:
    async with Bridge(voice=answer) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
    assert codes(leg) == [code]
    assert "application error" in leg.timeline.of("prompt")[0].detail["text"]


@on_virtual_time
async def test_the_fallback_address_is_asked_once_with_error_code_and_url() -> None:
    async with Bridge(voice=500, fallback=document("<Hangup/>")) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, fallback_url=f"{PUBLIC}/fallback")
        assert await leg.ended() == "completed"
        (form,) = bridge.posts("fallback")
    assert (form["ErrorCode"], form["ErrorUrl"]) == ("11200", f"{PUBLIC}/twilio/voice")


@on_virtual_time
async def test_nobody_listening_is_tried_twice_and_then_error_11205() -> None:
    async with Carrier("http://127.0.0.1:1", seed=1) as carrier:
        leg = await carrier.place_call(**CALL)
        await leg.ended()
    assert codes(leg) == [11205]


@on_virtual_time
async def test_a_fragment_sets_retries_and_is_neither_sent_nor_signed() -> None:
    answers = [500, 500, document("<Hangup/>")]
    async with Bridge(f"<Redirect>{PUBLIC}/resume#rc=3&amp;rp=5xx</Redirect>") as bridge, bridge.carrier() as carrier:
        bridge.documents["resume"] = lambda form: answers.pop(0)
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
        asked = [(path, headers) for path, _, headers in bridge.forms if path == "/resume"]
    assert len(asked) == 3
    assert asked[0][1]["x-twilio-signature"] == sign(TOKEN, f"{PUBLIC}/resume", bridge.posts("resume")[0])


# ---------------------------------------------------------------- verbs


@on_virtual_time
async def test_verbs_run_one_after_the_other_and_the_call_ends_after_the_last() -> None:
    async with (
        Bridge('<Pause length="2"/>', "<Say>one moment</Say>", "<Redirect>/next</Redirect>", "<Hangup/>") as bridge,
        bridge.carrier() as carrier,
    ):
        bridge.documents["next"] = document("<Pause/>")
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
    assert [moment.detail["verb"] for moment in leg.timeline.of("verb")] == ["Pause", "Say", "Redirect", "Pause"]
    assert leg.timeline.of("verb")[1].at_ms == pytest.approx(2000)
    assert leg.timeline.of("prompt")[0].detail == {"text": "one moment", "ms": 950}
    assert leg.now_ms == pytest.approx(3950)


@pytest.mark.parametrize(("reason", "status"), [("busy", "busy"), ("rejected", "no-answer")])
@on_virtual_time
async def test_reject_declines_without_answering(reason: str, status: str) -> None:
    async with Bridge(f'<Reject reason="{reason}"/>') as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == status
    assert "in-progress" not in leg.status_at_ms


@on_virtual_time
async def test_an_empty_response_hangs_up() -> None:
    async with Bridge(voice="<Response/>") as bridge, bridge.carrier() as carrier:
        assert await (await carrier.place_call(**CALL)).ended() == "completed"


@on_virtual_time
async def test_dial_tells_its_action_how_it_went() -> None:
    dial = '<Dial action="/after" timeout="5" callerId="+15550100"><Number>+15550111</Number></Dial>'
    outcomes = {"+15550111": DialOutcome("busy", rings_s=2)}
    async with Bridge(dial, after=document("<Hangup/>")) as bridge, bridge.carrier(dials=outcomes) as carrier:
        leg = await carrier.place_call(**CALL)
        await leg.ended()
        assert bridge.posts("after")[0]["DialCallStatus"] == "busy"
    assert [(d.kind, d.target, d.attributes["callerId"]) for d in leg.dialled] == [("Number", "+15550111", "+15550100")]


@on_virtual_time
async def test_dial_rings_no_longer_than_its_timeout_and_goes_on_with_the_next_verb() -> None:
    outcomes = {"sip:a@b": DialOutcome(rings_s=60)}
    verbs = '<Dial timeout="5"><Sip>sip:a@b</Sip></Dial>', "<Pause/>"
    async with Bridge(*verbs) as bridge, bridge.carrier(dials=outcomes) as carrier:
        leg = await carrier.place_call(**CALL)
        await leg.ended()
    assert leg.timeline.of("dial_ended")[0].detail == {"status": "no-answer"}
    assert leg.now_ms == pytest.approx(6000)


@on_virtual_time
async def test_an_unknown_verb_is_a_warning_and_skipped() -> None:
    async with Bridge("<Speak>hi</Speak>", "<Hangup/>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
    assert [warning.code for warning in leg.warnings] == [12200]


def wav(samples: npt.NDArray[np.int32], sample_bytes: int, channels: int) -> bytes:
    """32-bit samples as a WAV of fewer bits; what is below zero at eight bits is written as a WAV has it."""
    kept = samples.astype("<i4").tobytes()
    cut = b"".join(kept[at + 4 - sample_bytes : at + 4] * channels for at in range(0, len(kept), 4))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, sample_bytes, 8000, 0, "NONE", ""))
        writer.writeframes(bytes(byte ^ 0x80 for byte in cut) if sample_bytes == 1 else cut)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_bytes", [1, 2, 3, 4])
@on_virtual_time
async def test_a_recording_of_any_width_is_played_as_it_sounds(sample_bytes: int, channels: int) -> None:
    tone = (8000 * np.sin(np.arange(4000) / 4)).astype(np.int32)
    sound = wav(tone << 16, sample_bytes, channels)
    async with Bridge("<Play>/sound</Play>", sound=sound) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
    (prompt,) = leg.prompts
    heard = np.frombuffer(g711.decode_mulaw(prompt.audio), "<i2")
    assert len(heard) == len(tone) and np.abs(heard - tone).max() < 600


@pytest.mark.parametrize("sound", [b"", b"ID3 not a wav", wav(np.zeros(400, np.int32), 2, 1)[:30]])
@on_virtual_time
async def test_a_recording_that_is_none_is_an_error_of_the_carrier(sound: bytes) -> None:
    async with Bridge("<Play>/sound</Play>", sound=sound) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        assert await leg.ended() == "completed"
    assert codes(leg) == [11200]


@on_virtual_time
async def test_a_redirect_loop_ends() -> None:
    async with Bridge("<Redirect>/twilio/voice</Redirect>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        await leg.ended()
    assert 11206 in codes(leg)


# ---------------------------------------------------------------- the media stream


@on_virtual_time
async def test_a_stream_introduces_itself_and_sends_a_frame_every_20_ms() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(1.0)
        leg.hang_up()
        assert await leg.ended() == "completed"
        await stream.closed.wait()
    assert [message["event"] for message in stream.messages[:2]] == ["connected", "start"]
    assert stream.messages[1]["start"]["customParameters"] == {"agent": "front-desk"}
    assert stream.messages[1]["start"]["callSid"] == leg.call_id
    assert stream.headers["X-Twilio-Signature"] == sign(TOKEN, "wss://bridge.example.test/media")
    frames = stream.of("media")
    assert [frame["media"]["timestamp"] for frame in frames[:3]] == ["0", "20", "40"]
    assert [frame["media"]["chunk"] for frame in frames[:3]] == ["1", "2", "3"]
    assert all(base64.b64decode(frame["media"]["payload"]) == b"\xff" * 160 for frame in frames)
    assert len(frames) == 50
    times = [at for at, message in zip(stream.times_ms, stream.messages, strict=True) if message["event"] == "media"]
    assert times == pytest.approx([20 * (number + 1) for number in range(50)], abs=0.01)
    numbered = [message for message in stream.messages if message["event"] != "connected"]
    assert [m["sequenceNumber"] for m in numbered] == [str(n + 1) for n in range(len(numbered))]
    assert stream.messages[-1]["event"] == "stop"


@on_virtual_time
async def test_what_the_caller_says_arrives_in_place_and_keys_arrive_as_dtmf() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(0.1)
        leg.say(bytes(range(100)) * 4, label="hello")
        leg.press("5#", every_ms=100)
        await asyncio.sleep(0.5)
        leg.hang_up()
        await leg.ended()
    sent = b"".join(base64.b64decode(frame["media"]["payload"]) for frame in stream.of("media"))
    at = sent.index(bytes(range(100)))
    assert at in (800, 960)
    assert sent[at : at + 480] == bytes(range(100)) * 4 + b"\xff" * 80
    assert leg.said_track()[: len(sent)] == sent
    assert [message["dtmf"]["digit"] for message in stream.of("dtmf")] == ["5", "#"]
    with pytest.raises(UsageError):
        leg.press("x")


@on_virtual_time
async def test_marks_come_back_exactly_when_the_audio_before_them_was_played() -> None:
    async def act(stream: Stream) -> None:
        await stream.mark("probe")
        await asyncio.sleep(0.1)
        for number in range(3):
            await stream.play(200)
            await stream.mark(f"m{number}")

    async with Bridge(act=act) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(1)
        leg.hang_up()
        await leg.ended()
    began = stream.marks()[0][0]
    assert [(round(at - began, 2), name) for at, name in stream.marks()] == [
        (0, "probe"),
        (300, "m0"),
        (500, "m1"),
        (700, "m2"),
    ]


@pytest.mark.parametrize("one_way_ms", [0, 60, 150])
@on_virtual_time
async def test_the_round_trip_of_a_probe_mark_is_twice_the_latency(one_way_ms: float) -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, caller=Caller(network=Network(latency_ms=one_way_ms)))
        stream = await bridge.stream()
        began = stream.times_ms[-1]
        await stream.mark("probe")
        await asyncio.sleep(1)
        leg.hang_up()
        await leg.ended()
    assert stream.marks()[0][0] - began == pytest.approx(2 * one_way_ms, abs=0.01)


@on_virtual_time
async def test_a_clear_empties_the_buffer_returns_all_marks_and_the_carrier_knows_what_was_heard() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, caller=Caller(network=Network(latency_ms=60)))
        stream = await bridge.stream()
        for number in range(20):
            await stream.play(100)
            await stream.mark(f"m{number}")
        await asyncio.sleep(1.0)  # the audio arrives after 60 ms; so does the clear
        await stream.clear()
        await asyncio.sleep(0.5)
        names = [name for _, name in stream.marks()]
        assert names == [f"m{number}" for number in range(20)]
        (cleared,) = leg.clears
        assert cleared.heard == 8000
        assert len(cleared.marks) == 10
        assert leg.heard_ms() == 1000
        assert leg.heard_of(500) == 500
        assert leg.heard_of(1000) == 0
        assert leg.heard_of(0, 300) == 300
        arrived = leg.media[0].arrived / 8
        assert leg.heard_of(0, at_ms=arrived + 250) == 250
        await stream.play(100)
        await asyncio.sleep(0.2)
        assert leg.heard_ms() == 1100
        leg.hang_up()
        await leg.ended()


@on_virtual_time
async def test_both_tracks_lie_on_the_same_clock() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(0.5)
        await stream.play(1000)
        await asyncio.sleep(0.3)
        leg.say(b"\x10" * 1600, at_ms=1200)
        await stream.clear()
        await asyncio.sleep(1.2)
        leg.hang_up()
        await leg.ended()
    heard, said = leg.heard_track(), leg.said_track()
    assert len(heard) == len(said) == 16000
    assert heard == b"\xff" * 4000 + b"\x20\xa0" * 1200 + b"\xff" * 9600
    assert said == b"\xff" * 9600 + b"\x10" * 1600 + b"\xff" * 4800


@on_virtual_time
async def test_what_is_buffered_when_the_call_ends_is_never_heard() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await stream.play(1000)
        await asyncio.sleep(0.4)
        await hang_up(stream)
        await leg.ended()
    assert leg.heard_ms() == 400
    assert leg.clears == []


@on_virtual_time
async def test_messages_twilio_would_not_take_are_warnings_and_change_nothing() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await stream.socket.send_bytes(b"123")
        await stream.socket.send_str("{")
        await stream.send(event="clear", streamSid="MZother")
        await stream.send(event="media", streamSid=stream.stream_id, track="x", media={"payload": "/w=="})
        await stream.mark("still here")
        await asyncio.sleep(0.1)
        assert [warning.code for warning in leg.warnings] == [31950, 31951, 31951, 31951]
        assert [name for _, name in stream.marks()] == ["still here"]
        assert leg.media == []
        leg.hang_up()
        await leg.ended()


# ---------------------------------------------------------------- how streams and calls end


@on_virtual_time
async def test_after_the_bridge_closes_the_next_verb_runs_when_the_carrier_has_noticed() -> None:
    async with Bridge(STREAM, "<Say>bye</Say>") as bridge, bridge.carrier(after_close_s=0.3) as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(1)
        await hang_up(stream, 1001)
        await leg.ended()
    assert codes(leg) == [31921]
    assert leg.timeline.of("prompt")[0].at_ms == pytest.approx(1300)
    assert stream.of("stop") == []


@on_virtual_time
async def test_with_an_action_it_is_asked_and_the_following_verbs_are_not_reached() -> None:
    connect = STREAM.replace("<Connect>", '<Connect action="/after">')
    async with Bridge(connect, "<Say>never</Say>", after=document("<Hangup/>")) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        await hang_up(await bridge.stream())
        await leg.ended()
        assert bridge.posts("after")[0]["CallStatus"] == "in-progress"
    assert leg.timeline.of("prompt") == []


@on_virtual_time
async def test_a_caller_who_hangs_up_stops_the_stream_and_no_verb_follows() -> None:
    async with Bridge(STREAM, "<Say>never</Say>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, status_callback=f"{PUBLIC}/status")
        stream = await bridge.stream()
        await asyncio.sleep(2.5)
        leg.hang_up()
        leg.hang_up()
        assert await leg.ended() == "completed"
        await stream.closed.wait()
        await carrier.close()
        (form,) = bridge.posts("status")
    assert stream.messages[-1]["stop"] == {"accountSid": carrier.account.sid, "callSid": leg.call_id}
    assert stream.close_code == 1000
    assert leg.timeline.of("prompt") == []
    assert (form["CallStatus"], form["SequenceNumber"], form["CallDuration"]) == ("completed", "0", "2")


@pytest.mark.parametrize(("status", "code"), [(403, 31920), (404, 31920), (302, 31920)])
@on_virtual_time
async def test_a_refused_upgrade_is_error_31920_and_the_document_goes_on(status: int, code: int) -> None:
    async with Bridge(STREAM, "<Pause/>") as bridge, bridge.carrier() as carrier:
        bridge.refuse = status
        leg = await carrier.place_call(**CALL)
        with pytest.raises(UsageError):
            await leg.streaming()
        assert await leg.ended() == "completed"
    assert codes(leg) == [code]
    assert leg.now_ms == pytest.approx(1000)


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ('url="ws://bridge.example.test/media"', 31922),
        ('url="wss://bridge.example.test/media?token=1"', 31920),
        ('url="wss://bridge.example.test/media" track="both_tracks"', 31941),
        ('url="wss:///media"', 31923),
        ('url="wss://bridge.example.test/media#there"', 31923),
        ("", 31922),
    ],
)
@on_virtual_time
async def test_a_stream_twilio_would_not_open_is_an_error(attributes: str, code: int) -> None:
    async with Bridge(f"<Connect><Stream {attributes}/></Connect>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        await leg.ended()
        assert bridge.streams == []
    assert codes(leg) == [code]


@on_virtual_time
async def test_the_stream_tells_its_status_callback() -> None:
    stream_verb = STREAM.replace("<Stream ", f'<Stream name="main" statusCallback="{PUBLIC}/stream-status" ')
    async with Bridge(stream_verb) as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        leg.hang_up()
        await leg.ended()
        await carrier.close()
        forms = bridge.posts("stream-status")
    assert [form["StreamEvent"] for form in forms] == ["stream-started", "stream-stopped"]
    assert {form["StreamName"] for form in forms} == {"main"}


# ---------------------------------------------------------------- trouble on the line


@on_virtual_time
async def test_a_cut_line_is_a_close_without_stop_and_the_document_goes_on() -> None:
    async with Bridge(STREAM, "<Pause/>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(0.5)
        (await leg.streaming()).cut()
        await stream.closed.wait()
        assert await leg.ended() == "completed"
    assert stream.of("stop") == []
    assert codes(leg) == [31903]
    assert leg.now_ms == pytest.approx(1500)


@on_virtual_time
async def test_a_bridge_that_vanishes_is_a_broken_connection_and_no_close() -> None:
    async with Bridge(STREAM, "<Pause/>") as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        transport = stream.request.transport
        assert transport is not None
        transport.abort()
        assert await leg.ended() == "completed"
    assert codes(leg) == [31903]
    assert leg.streams[0].close_code is None


@on_virtual_time
async def test_a_carrier_that_never_reacts_to_a_broken_socket_waits_for_the_caller() -> None:
    async with Bridge(STREAM, "<Say>never</Say>") as bridge, bridge.carrier() as carrier:
        carrier.account.on_broken_socket = "nothing"
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        (await leg.streaming()).cut()
        await asyncio.sleep(30)
        assert leg.status == "in-progress"
        leg.hang_up()
        assert await leg.ended() == "completed"
    assert leg.timeline.of("prompt") == []


@on_virtual_time
async def test_a_half_open_line_is_silence_without_a_close() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await asyncio.sleep(1.01)
        (await leg.streaming()).half_open()
        count = len(stream.messages)
        await stream.mark("lost")
        await asyncio.sleep(20)
        assert len(stream.messages) == count
        assert not stream.closed.is_set()
        leg.hang_up()
        await leg.ended()
        await asyncio.sleep(5)
        assert not stream.closed.is_set(), "even the hang-up does not come through"


@on_virtual_time
async def test_close_without_stop_has_the_given_code() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        (await leg.streaming()).close_without_stop(1011)
        await stream.closed.wait()
        await leg.ended()
    assert stream.of("stop") == []
    assert stream.close_code == 1011


@on_virtual_time
async def test_lost_frames_leave_a_gap_in_the_timestamps_only() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, caller=Caller(network=Network(lost=0.2, seed=5)))
        stream = await bridge.stream()
        await asyncio.sleep(4)
        leg.hang_up()
        await leg.ended()
    frames = stream.of("media")
    assert 140 < len(frames) < 180
    assert [frame["media"]["chunk"] for frame in frames] == [str(n + 1) for n in range(len(frames))]
    gaps = [int(b["media"]["timestamp"]) - int(a["media"]["timestamp"]) for a, b in itertools.pairwise(frames)]
    assert set(gaps) > {20, 40}


@on_virtual_time
async def test_a_line_that_suppresses_silence_sends_frames_only_while_the_caller_speaks() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL, caller=Caller(suppress_silence=True))
        stream = await bridge.stream()
        leg.say(b"\x10" * 800, at_ms=1000)
        await asyncio.sleep(2)
        leg.hang_up()
        await leg.ended()
    assert [frame["media"]["timestamp"] for frame in stream.of("media")] == ["1000", "1020", "1040", "1060", "1080"]


@on_virtual_time
async def test_while_the_carrier_does_not_read_its_socket_the_bridges_writes_pile_up() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        (await leg.streaming()).stop_reading(3000)

        async def flood() -> None:
            for _ in range(400):
                await stream.play(100)

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(2.9)
        assert not flooding.done(), "the socket's buffers are full"
        await asyncio.sleep(1)
        assert flooding.done()
        assert len(leg.media) == 400
        leg.hang_up()
        await leg.ended()


@on_virtual_time
async def test_frames_twilio_would_not_send_can_be_injected() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        (await leg.streaming()).inject('{"event":"surprise"}')
        (await leg.streaming()).inject(b"ignored by the double")
        await asyncio.sleep(0.1)
        leg.hang_up()
        await leg.ended()
    assert len(stream.of("surprise")) == 1


@on_virtual_time
async def test_a_webhook_can_come_twice_for_one_call() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        again = await carrier.repeat_webhook(leg)
        assert [verb.name for verb in again.verbs] == ["Connect"]
        first, second = bridge.posts("voice")
        assert first["CallSid"] == second["CallSid"]
        leg.hang_up()


@on_virtual_time
async def test_a_media_server_can_be_called_without_a_webhook() -> None:
    async with Bridge() as bridge:
        url = bridge.url.replace("http", "ws") + "/media"
        async with Carrier.against(url, parameters={"who": 'A & "B"'}, auth_token=TOKEN) as carrier:
            leg = await carrier.place_call(**CALL)
            stream = await bridge.stream()
            assert stream.messages[1]["start"]["customParameters"] == {"who": 'A & "B"'}
            leg.hang_up()
            await leg.ended()
        assert bridge.forms == []
    assert leg.errors == []


@on_virtual_time
async def test_a_media_server_under_development_may_want_a_query() -> None:
    async with Bridge() as bridge:
        url = bridge.url.replace("http", "ws") + "/media?token=abc"
        async with Carrier.against(url, auth_token=TOKEN) as carrier:
            leg = await carrier.place_call(**CALL)
            assert dict((await bridge.stream()).request.query) == {"token": "abc"}
            leg.hang_up()
            await leg.ended()
    assert leg.errors == []


@pytest.mark.parametrize(
    "url",
    [
        "https://bridge.example.test/media",
        "ws:///media",
        "ws://127.0.0.1:99999/media",
        "ws://127.0.0.1:0/media",
        "ws://[::1/media",
        "ws://..test/media",
        "wss://bridge.example.test/media#there",
        "media",
    ],
)
def test_an_address_no_media_stream_can_be_opened_at_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(url))):
        Carrier.against(url)


# ---------------------------------------------------------------- waiting for things


@on_virtual_time
async def test_the_caller_can_wait_for_the_agent_to_speak_and_to_be_quiet() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await stream.play(300, sound=0xFF)  # silence is no speech (0xFF and 0x7F are plus and minus zero)
        await stream.play(500)
        assert await leg.wait_until_agent_speaks()
        assert leg.now_ms == pytest.approx(300, abs=1)
        assert await leg.wait_until_heard(600)
        assert leg.now_ms == pytest.approx(600, abs=1)
        await stream.play(200)
        assert await leg.wait_until_quiet(700)
        assert leg.now_ms == pytest.approx(1700, abs=1)
        waiting = asyncio.create_task(leg.wait_until_agent_speaks())
        await asyncio.sleep(1)
        leg.hang_up()
        assert not await waiting, "the call ended first"


@on_virtual_time
async def test_a_clear_makes_it_quiet() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await stream.play(5000)
        await leg.wait_until_heard(1000)
        waiting = asyncio.create_task(leg.wait_until_quiet(400))
        await stream.clear()
        assert await waiting
        assert leg.now_ms == pytest.approx(1400, abs=2)
        leg.hang_up()


@on_virtual_time
async def test_events_come_as_a_stream_until_the_call_is_over() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        seen: list[str] = []

        async def listen() -> None:
            seen.extend([moment.what async for moment in leg.events()])

        listening = asyncio.create_task(listen())
        stream = await bridge.stream()
        await stream.mark("m")
        await asyncio.sleep(0.1)
        leg.hang_up()
        await listening
    assert seen[-3:] == ["hang_up", "stop", "status"]
    assert "mark" in seen


@on_virtual_time
async def test_the_same_call_twice_gives_the_same_timeline() -> None:
    texts = []
    for _ in range(2):
        async with Bridge() as bridge, bridge.carrier() as carrier:
            caller = Caller(network=Network(latency_ms=50, jitter_ms=20, lost=0.05, seed=9))
            leg = await carrier.place_call(**CALL, caller=caller)
            stream = await bridge.stream()
            for number in range(10):
                await stream.play(100)
                await stream.mark(str(number))
                await asyncio.sleep(0.03)
            leg.say(b"\x10" * 4000, label="hello there")
            await asyncio.sleep(1)
            await stream.clear()
            await asyncio.sleep(1)
            leg.hang_up()
            await leg.ended()
            texts.append(leg.timeline.text())
    assert texts[0] == texts[1]
    assert "hang_up" in texts[0]


async def test_a_call_over_real_sockets() -> None:
    async with Bridge() as bridge, bridge.carrier() as carrier:
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        await stream.play(100)
        await stream.mark("m")
        assert await leg.wait_for(lambda: bool(leg.timeline.of("mark", "carrier")))
        leg.hang_up()
        assert await leg.ended() == "completed"
        await stream.closed.wait()
    assert [name for _, name in stream.marks()] == ["m"]
    assert stream.close_code == 1000
