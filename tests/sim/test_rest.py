from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from bridge.sim.carrier import Carrier
from bridge.sim.rest import Callee
from tests.sim.double import PUBLIC, STREAM, TOKEN, Bridge, document, on_virtual_time

CALL = {"to": "+15550100", "from_": "+15550199"}


class Rest:
    """What a bridge's REST client would do."""

    def __init__(self, carrier: Carrier, base: str, session: aiohttp.ClientSession) -> None:
        self.base = f"{base}/2010-04-01/Accounts/{carrier.account.sid}"
        self.auth = (carrier.account.sid, TOKEN)
        self.session = session

    async def post(self, path: str, auth: tuple[str, str] | None = None, **form: Any) -> tuple[int, dict[str, Any]]:
        pairs = [(k, v) for k, value in form.items() for v in (value if isinstance(value, list) else [value])]
        said = base64.b64encode(":".join(auth or self.auth).encode()).decode()
        headers = {"Authorization": f"Basic {said}"}
        async with self.session.post(self.base + path, data=pairs, headers=headers) as response:
            return response.status, await response.json()


@asynccontextmanager
async def running(bridge: Bridge) -> AsyncIterator[tuple[Carrier, Rest]]:
    async with bridge, bridge.carrier() as carrier, aiohttp.ClientSession() as session:
        yield carrier, Rest(carrier, await carrier.start_rest(), session)


@on_virtual_time
async def test_status_completed_hangs_up_with_a_stop() -> None:
    async with running(bridge := Bridge(STREAM, "<Say>never</Say>")) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        status, body = await rest.post(f"/Calls/{leg.call_id}.json", Status="completed")
        assert (status, body["sid"]) == (200, leg.call_id)
        assert await leg.ended() == "completed"
        await stream.closed.wait()
    assert stream.messages[-1]["event"] == "stop"
    assert leg.timeline.of("prompt") == []
    assert leg.timeline.of("hang_up") == []


@on_virtual_time
async def test_a_call_already_gone_or_never_known_is_404_with_code_20404() -> None:
    async with running(Bridge("<Hangup/>")) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        await leg.ended()
        for call_id in (leg.call_id, "CA" + "0" * 32):
            status, body = await rest.post(f"/Calls/{call_id}.json", Status="completed")
            assert (status, body["code"]) == (404, 20404)


@pytest.mark.parametrize("how", ["Twiml", "Url"])
@on_virtual_time
async def test_new_twiml_stops_the_stream_and_runs_instead(how: str) -> None:
    transfer = document("<Dial><Number>+15550111</Number></Dial>")
    async with running(bridge := Bridge(STREAM, "<Say>never</Say>", transfer=transfer)) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        stream = await bridge.stream()
        change = {"Twiml": transfer} if how == "Twiml" else {"Url": f"{PUBLIC}/transfer"}
        assert (await rest.post(f"/Calls/{leg.call_id}.json", **change))[0] == 200
        assert await leg.ended() == "completed"
    assert stream.messages[-1]["event"] == "stop"
    assert [dialled.target for dialled in leg.dialled] == ["+15550111"]
    assert leg.timeline.of("prompt") == []


@on_virtual_time
async def test_what_the_interface_does_not_take_is_400() -> None:
    async with running(bridge := Bridge()) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        path = f"/Calls/{leg.call_id}.json"
        assert (await rest.post(path, Status="gone"))[0] == 400
        assert (await rest.post(path, Status="canceled"))[0] == 400
        assert (await rest.post(path, Twiml="<Response/>", Url=PUBLIC))[0] == 400
        assert (await rest.post(path, Twiml="x" * 4001))[0] == 400
        assert (await rest.post("/Calls.json", To="+1"))[0] == 400
        assert leg.status == "in-progress"


@on_virtual_time
async def test_credentials_are_checked_and_an_api_key_is_as_good_as_the_token() -> None:
    async with running(bridge := Bridge()) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        path = f"/Calls/{leg.call_id}.json"
        wrong = (carrier.account.sid, "wrong")
        assert (await rest.post(path, auth=wrong, Status="completed"))[0] == 401
        assert leg.status == "in-progress"
        carrier.account.keys["SK1"] = "secret"
        assert (await rest.post(path, auth=("SK1", "secret"), Status="completed"))[0] == 200


@on_virtual_time
async def test_faults_answer_in_its_place_and_every_request_is_recorded() -> None:
    async with running(bridge := Bridge()) as (carrier, rest):
        leg = await carrier.place_call(**CALL)
        await bridge.stream()
        carrier.rest.faults += [503, 429]
        statuses = [(await rest.post(f"/Calls/{leg.call_id}.json", Status="completed"))[0] for _ in range(3)]
    assert statuses == [503, 429, 200]
    assert [(request.form, request.status) for request in carrier.rest.requests] == [
        ((("Status", "completed"),), status) for status in statuses
    ]


@on_virtual_time
async def test_an_outbound_call_rings_is_answered_and_tells_its_callbacks_in_order() -> None:
    async with running(bridge := Bridge(STREAM)) as (carrier, rest):
        status, body = await rest.post(
            "/Calls.json",
            To="+15550142",
            From="+15550100",
            Url=f"{PUBLIC}/twilio/voice",
            StatusCallback=f"{PUBLIC}/status",
            StatusCallbackEvent=["initiated", "ringing", "answered", "completed"],
        )
        assert (status, body["status"]) == (201, "queued")
        leg = await carrier.next_outbound()
        await bridge.stream()
        await asyncio.sleep(2)
        leg.hang_up()
        await leg.ended()
        await carrier.close()
        forms = bridge.posts("status")
        (voice,) = bridge.posts("voice")
    assert (voice["Direction"], voice["CallStatus"], voice["To"]) == ("outbound-api", "in-progress", "+15550142")
    told = [(form["SequenceNumber"], form["CallStatus"]) for form in forms]
    assert told == [("0", "queued"), ("1", "ringing"), ("2", "in-progress"), ("3", "completed")]
    assert "CallDuration" in forms[-1]


@pytest.mark.parametrize("outcome", ["busy", "no-answer", "failed"])
@on_virtual_time
async def test_a_callee_who_does_not_answer_ends_the_call_without_twiml(outcome: Any) -> None:
    async with running(bridge := Bridge()) as (carrier, rest):
        carrier.callees["+15550142"] = Callee(outcome=outcome)
        form = {"To": "+15550142", "From": "+15550100", "Url": f"{PUBLIC}/twilio/voice"}
        await rest.post("/Calls.json", **form, StatusCallback=f"{PUBLIC}/status")
        leg = await carrier.next_outbound()
        assert await leg.ended() == outcome
        await carrier.close()
        assert bridge.posts("voice") == []
        assert [form["CallStatus"] for form in bridge.posts("status")] == [outcome]


@on_virtual_time
async def test_nobody_is_rung_longer_than_the_timeout_and_a_ringing_call_can_be_canceled() -> None:
    async with running(Bridge()) as (carrier, rest):
        carrier.callees["+15550142"] = Callee(rings_s=600)
        form = {"To": "+15550142", "From": "+15550100", "Url": f"{PUBLIC}/twilio/voice"}
        await rest.post("/Calls.json", **form, Timeout="10")
        leg = await carrier.next_outbound()
        assert await leg.ended() == "no-answer"
        assert leg.now_ms == pytest.approx(10_000, abs=1)
        _, body = await rest.post("/Calls.json", **form)
        assert (await rest.post(f"/Calls/{body['sid']}.json", Status="canceled"))[0] == 200
        assert await (await carrier.next_outbound()).ended() == "canceled"


@on_virtual_time
async def test_machine_detection_tells_who_answered() -> None:
    async with running(bridge := Bridge("<Pause length='3'/>")) as (carrier, rest):
        carrier.callees["+15550142"] = Callee(answered_by="machine_start", detection_s=1.0)
        form = {"To": "+15550142", "From": "+15550100", "Url": f"{PUBLIC}/twilio/voice", "MachineDetection": "Enable"}
        await rest.post("/Calls.json", **form)
        await (await carrier.next_outbound()).ended()
        assert bridge.posts("voice")[0]["AnsweredBy"] == "machine_start"
        await rest.post("/Calls.json", **form, AsyncAmd="true", AsyncAmdStatusCallback=f"{PUBLIC}/amd")
        await (await carrier.next_outbound()).ended()
        assert "AnsweredBy" not in bridge.posts("voice")[1]
        assert bridge.posts("amd")[0]["AnsweredBy"] == "machine_start"
