"""The carrier's REST side: tried again where it is busy, given up where it says no, and never an exception."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import ToolSpec
from bridge.errors import EndReason
from bridge.live.carrier import CallServices, RestClient
from bridge.live.driver import Driver
from bridge.telephony import rest
from bridge.tools.toolbox import CallInfo, Toolbox
from tests.live.calls import FakeModel, FakePhone, Running, plan, settle
from tests.live.test_driver import on_virtual_time

ACCOUNT = rest.Account("AC1", "AC1", "token-canary", "https://api.example.test")


class Desk:
    """Answers requests as told, the last answer again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[rest.Request] = []
        self.times: list[float] = []

    async def __call__(self, request: rest.Request) -> tuple[int, bytes]:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return int(answer), b'{"code": 20404, "message": "gone"}' if answer == 404 else b'{"message": "no"}'


async def begin(
    desk: Desk, *, account: rest.Account | None = ACCOUNT, toolbox: Toolbox | None = None, caller_id: str = ""
) -> Running:
    services = CallServices(account=account, client=desk, toolbox=toolbox or Toolbox(), transfer_caller_id=caller_id)
    spec = ToolSpec("look_up", "", {"type": "object"})
    driver = Driver(plan(tools=(spec,), goodbye_wait_s=0.5), outside=services)
    driver.model = FakeModel()
    call = Running(driver, driver.model, FakePhone())
    await settle()
    driver.attach(call.phone, "MZ1")
    driver.deliver(ev.ModelReady(1))
    return call


def handed(call: Running) -> list[ev.HandedOver]:
    heard: list[ev.HandedOver] = []
    call.driver.watch([lambda at, event, actions: heard.append(event) if isinstance(event, ev.HandedOver) else None])
    return heard


@pytest.mark.parametrize(
    ("answers", "tries", "ok"),
    [
        ((200,), 1, True),
        ((404,), 1, True),
        ((500, 503, 200), 3, True),
        ((429, 204), 2, True),
        ((503,), 3, False),
        ((400,), 1, False),
        ((401,), 1, False),
        ((302,), 1, False),
        ((TimeoutError(), aiohttp.ServerDisconnectedError(), 200), 3, True),
        ((OSError("no route"),), 3, False),
    ],
)
@on_virtual_time
async def test_hanging_up_is_tried_three_times_and_ends_the_call_whatever_comes(
    answers: tuple[Any, ...], tries: int, ok: bool
) -> None:
    desk = Desk(*answers)
    call = await begin(desk)
    heard = handed(call)
    call.tell(ev.HangUpWished("operator"))
    assert await asyncio.wait_for(call.task, 20) is EndReason.ENDED_BY_OPERATOR
    assert len(desk.requests) == tries
    assert desk.times[-1] - desk.times[0] <= 2.0
    assert [fact.ok for fact in heard] == [ok]
    assert dict(desk.requests[0].form)["Status"] == "completed"
    assert call.phone.closed, "where the carrier did not hear us, the closed stream tells it"


@on_virtual_time
async def test_without_an_account_closing_the_stream_is_the_hang_up() -> None:
    desk = Desk(500)
    call = await begin(desk, account=None)
    call.tell(ev.HangUpWished("operator"))
    assert await call.task is EndReason.ENDED_BY_OPERATOR
    assert not desk.requests and call.phone.closed


@on_virtual_time
async def test_a_transfer_replaces_the_calls_document_and_shows_the_callers_own_number_unless_told_another() -> None:
    for caller_id in ("", "+15550100"):
        desk = Desk(200)
        call = await begin(desk, caller_id=caller_id)
        call.tell(ev.TransferWished("+15550009"))
        assert await call.task is EndReason.TRANSFERRED
        document = dict(desk.requests[0].form)["Twiml"]
        assert "+15550009" in document
        assert f'callerId="{caller_id}"' in document if caller_id else "callerId" not in document


@on_virtual_time
async def test_without_an_account_the_stream_closes_and_the_carrier_asks_whom_to_dial() -> None:
    desk = Desk(500)
    call = await begin(desk, account=None)
    call.tell(ev.TransferWished("+15550009"))
    assert await call.task is EndReason.TRANSFERRED
    assert call.driver.handed_on_to == "+15550009" and not desk.requests


@on_virtual_time
async def test_the_carrier_asks_whom_to_dial_for_a_call_that_its_rest_interface_does_not_know() -> None:
    call = await begin(Desk(404))
    call.tell(ev.TransferWished("+15550009"))
    assert await call.task is EndReason.TRANSFERRED
    assert call.driver.handed_on_to == "+15550009" and call.phone.closed


@pytest.mark.parametrize("target", ["+15550009", "not a number", "javascript:alert(1)"])
@on_virtual_time
async def test_a_transfer_that_fails_leaves_the_call_with_the_agent(target: str) -> None:
    call = await begin(Desk(400))
    heard = handed(call)
    call.tell(ev.TransferWished(target))
    await asyncio.sleep(3)
    assert [fact.ok for fact in heard] == [False]
    assert not call.task.done()
    assert any(isinstance(action, do.TellModel) for action in call.model.asked)
    call.tell(ev.CallerLeft("stop"))
    await call.task


@pytest.mark.parametrize("answer", [401, 503, TimeoutError()])
@on_virtual_time
async def test_a_caller_whom_no_model_serves_is_put_through_whatever_the_rest_interface_says(answer: Any) -> None:
    """An agent's fallback, `transfer`."""
    call = await begin(Desk(answer))
    call.tell(ev.TransferWished("+15550009"))
    call.tell(ev.ModelLost(1, "gone", "fatal"))
    assert await call.task is EndReason.TRANSFERRED
    assert call.driver.handed_on_to == "+15550009" and call.phone.closed


@pytest.mark.parametrize("limit_s", [2.0, 60.0])
@on_virtual_time
async def test_a_carrier_that_hangs_has_failed_before_the_call_takes_the_transfer_for_done(limit_s: float) -> None:
    asked: list[rest.Request] = []

    class Hanging(Desk):
        async def __call__(self, request: rest.Request) -> tuple[int, bytes]:
            asked.append(request)
            await asyncio.sleep(limit_s)
            raise TimeoutError

    call = await begin(Hanging())
    heard = handed(call)
    call.tell(ev.TransferWished("+15550009"))
    await asyncio.sleep(20)
    assert [fact.ok for fact in heard] == [False] and not call.task.done()
    assert len(asked) == (2 if limit_s == 2.0 else 1)
    call.tell(ev.CallerLeft("stop"))
    await call.task


@on_virtual_time
async def test_a_tool_is_run_with_the_calls_own_plan() -> None:
    seen: list[str] = []

    async def look_up(arguments: dict[str, Any], call: CallInfo) -> dict[str, Any]:
        seen.append(call.plan.call_id)
        return {"found": 1}

    call = await begin(Desk(200), toolbox=Toolbox({"look_up": look_up}))
    call.tell(ev.ResponseStarted("r1"), ev.ToolRequested("r1", "i1", "t1", "look_up", "{}"))
    await settle()
    assert seen == ["call"]
    assert [a.output for a in call.model.asked if isinstance(a, do.SubmitToolOutput)] == ['{"found": 1}']
    call.tell(ev.CallerLeft("stop"))
    await call.task


# ---------------------------------------------------------------- over loopback


async def test_the_shared_client_signs_in_follows_nowhere_and_reads_a_bounded_body() -> None:
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        form = await request.post()
        if form.get("Status") == "redirect":
            raise web.HTTPFound("/elsewhere")
        response = web.StreamResponse(status=400)
        await response.prepare(request)
        for _ in range(200):
            await response.write(b"x" * 1000)
            await asyncio.sleep(0)
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = RestClient()
    auth = ("AC1", "token-canary")
    try:
        status, body = await client(
            rest.Request("POST", f"http://127.0.0.1:{port}/a", (("Status", "completed"),), auth)
        )
        assert status == 400 and len(body) == 65_536
        status, _ = await client(rest.Request("POST", f"http://127.0.0.1:{port}/b", (("Status", "redirect"),), auth))
        assert status == 302 and [request.path for request in seen] == ["/a", "/b"]
        assert seen[0].headers["Authorization"] == aiohttp.encode_basic_auth(*auth)
    finally:
        await client.close()
        await client.close()
        await runner.cleanup()


@on_virtual_time
async def test_a_request_that_fails_is_logged_without_what_signs_it() -> None:
    with capture_logs() as logs:
        call = await begin(Desk(401))
        call.tell(ev.HangUpWished("operator"))
        await asyncio.wait_for(call.task, 20)
    (told,) = [entry for entry in logs if entry["event"] == "carrier_refused"]
    assert "/Calls/CA1.json" in told["request"] and "token-canary" not in str(logs)
