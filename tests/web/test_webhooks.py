"""Webhooks over a real socket: who may ask, what is answered, and that asking twice changes nothing."""

import asyncio
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bridge import settings
from bridge.live.places import Places
from bridge.live.switchboard import Switchboard
from bridge.metrics import Metrics
from bridge.settings import Directory
from bridge.telephony.signature import SIGNATURE, sign
from bridge.web.webhooks import TwilioDoor
from tests.live import services
from tests.live.calls import Nobody, settle
from tests.live.houses import house
from tests.web.conftest import CALL, PUBLIC, TOKEN, Service, Start
from tests.web.switchboards import FakeSwitchboard


def verbs(document: str) -> list[str]:
    return [child.tag for child in ElementTree.fromstring(document)]


async def test_a_call_is_answered_with_its_stream_and_a_token(service: Service) -> None:
    status, text = await service.post("/twilio/voice", {**CALL, "CallerName": "Ada\x00", "Unknown": "field"})
    assert status == 200
    root = ElementTree.fromstring(text)
    stream = root.find("Connect/Stream")
    assert stream is not None and stream.attrib == {
        "url": "wss://bridge.example.test/twilio/media",
        "statusCallback": "https://bridge.example.test/twilio/stream-status",
    }
    assert [child.attrib for child in stream] == [{"name": "token", "value": "token-1"}]
    assert root.findtext("Redirect") == "https://bridge.example.test/twilio/resume"
    (incoming,) = service.switchboard.expected
    assert (incoming.carrier_call_id, incoming.account_id) == ("CA1", "AC1")
    assert (incoming.caller, incoming.called, incoming.direction) == ("+15550100", "+15550101", "inbound")
    assert incoming.variables == {"CallerName": "Ada"}


async def test_the_same_call_announced_again_gets_the_same_answer_and_is_one_call(service: Service) -> None:
    answers = {await service.post("/twilio/voice") for _ in range(5)}
    assert len(answers) == 1
    assert len(service.switchboard.expected) == 1
    _, other = await service.post("/twilio/voice", {**CALL, "CallSid": "CA2"})
    assert "token-2" in other


async def test_what_a_call_is_answered_follows_what_is_now_so(tmp_path: Path) -> None:
    settings = house(
        tmp_path / "config", twilio={"auth_token": TOKEN, "busy_redirect": "https://pbx.example.test/queue"}
    )
    board = Switchboard(Directory(settings), Nobody(), places=Places(1), dial=services.Service(talks=True).dial)
    door = TwilioDoor(settings, board, validator=None, base_url=PUBLIC, metrics=Metrics())

    def token() -> str:
        found = re.search('name="token" value="([^"]+)"', door.announced(CALL))
        assert found is not None
        return found[1]

    other = {**CALL, "CallSid": "CA2"}
    door.announced(other)
    assert verbs(door.announced(CALL)) == ["Redirect"], "the house is full"
    board.ended_by_status("CA2", "completed")
    await settle()
    assert verbs(door.announced(other)) == ["Hangup"], "an answer that is late is no second call"
    first = token()
    assert token() == first, "who waited in a queue is taken, and once"
    assert board.claim(first, "CA1") is not None
    again = token()
    assert board.claim(first, "CA1") is None and board.claim(again, "CA1") is not None
    await board.drain(0)


@pytest.mark.parametrize("path", ["/twilio/voice", "/twilio/status", "/twilio/stream-status", "/twilio/resume"])
@pytest.mark.parametrize("signature", ["", "nonsense", "HmnS4cW2uJWaePn5nuLB4QP4+9Q="])
async def test_a_forged_webhook_gets_403_and_has_no_effect(service: Service, path: str, signature: str) -> None:
    status, _ = await service.post(path, {**CALL, "CallStatus": "completed"}, signature=signature)
    assert status == 403
    assert not service.switchboard.expected and not service.switchboard.ended
    assert b"bridge_webhooks_forged_total 1.0" in service.metrics.text()


async def test_no_combination_of_headers_makes_a_forged_webhook_right_or_a_right_one_wrong(service: Service) -> None:
    chance = random.Random(3)
    names = ["X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "X-Original-URL", "X-Real-IP"]
    names += ["X-Forwarded-Port", "X-HTTP-Method-Override", "X-Rewrite-URL", "Referer", "Origin", "Host"]
    values = ["evil.example", "127.0.0.1", "https", "bridge.example.test", "for=127.0.0.1;host=evil", "/twilio/status"]
    elsewhere = sign(TOKEN, "https://evil.example/twilio/voice", CALL.items())
    for _ in range(500):
        headers = {name: chance.choice(values) for name in chance.sample(names, chance.randint(1, 5))}
        assert (await service.post("/twilio/voice", signature=elsewhere, headers=headers))[0] == 403
        assert (await service.post("/twilio/voice", headers=headers))[0] == 200
    assert len(service.switchboard.expected) == 1


async def test_a_query_is_part_of_what_is_signed(service: Service) -> None:
    assert (await service.post("/twilio/voice?tenant=7"))[0] == 200
    right = sign(TOKEN, PUBLIC + "/twilio/voice?tenant=7", CALL.items())
    assert (await service.post("/twilio/voice?tenant=8", signature=right))[0] == 403
    assert (await service.post("/twilio/voice", signature=right))[0] == 403


async def test_both_tokens_are_accepted_while_they_rotate(start: Start) -> None:
    env = {"BRIDGE_PUBLIC_URL": PUBLIC, "BRIDGE_TWILIO__AUTH_TOKEN": "new", "BRIDGE_TWILIO__OTHER_SECRETS": TOKEN}
    service = await start(env)
    assert (await service.post("/twilio/voice"))[0] == 200
    new = sign("new", PUBLIC + "/twilio/voice", CALL.items())
    assert (await service.post("/twilio/voice", signature=new))[0] == 200


async def test_without_a_token_only_this_machine_is_believed_and_no_proxy_on_it(start: Start) -> None:
    service = await start({})
    assert (await service.post("/twilio/voice", signature=""))[0] == 200
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert (await service.post("/twilio/voice", signature="", headers={name: "1.2.3.4"}))[0] == 403


@pytest.mark.parametrize(
    "page", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_without_a_token_no_page_in_a_browser_on_this_machine_makes_calls(
    start: Start, page: dict[str, str]
) -> None:
    service = await start({})
    assert (await service.post("/twilio/voice", signature="", headers=page))[0] == 403
    assert (await service.get("/metrics", headers=page))[0] == 403
    assert (await service.get("/metrics", headers={"Sec-Fetch-Site": "none"}))[0] == 200, "typed by a person"


AT_HOME = ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1", "127.8.0.1:8080", "[::1]", "[::1]:8080"]
ELSEWHERE = ["bridge.example.test", "bridge.example.test:443", "10.0.0.1", "localhost.example", "127.0.0.1.example"]
NOWHERE = ["", "[", "[::1", ":8080", "[::2]:80", "0.0.0.0"]


@pytest.mark.parametrize(
    ("host", "status"), [(host, 200) for host in AT_HOME] + [(host, 403) for host in (*ELSEWHERE, *NOWHERE)]
)
async def test_without_a_token_a_webhook_must_be_addressed_to_this_machine(
    start: Start, host: str, status: int
) -> None:
    service = await start({})
    assert (await service.post("/twilio/voice", signature="", headers={"Host": host}))[0] == status
    assert (await service.get("/metrics", headers={"Host": host}))[0] == status


@pytest.mark.parametrize(("public_url", "status"), [("http://localhost:8080", 200), (PUBLIC, 403)])
async def test_a_service_whose_public_address_is_this_machine_need_not_be_addressed_so(
    start: Start, public_url: str, status: int
) -> None:
    service = await start({"BRIDGE_PUBLIC_URL": public_url})
    assert (await service.post("/twilio/voice", signature="", headers={"Host": "bridge.local"}))[0] == status
    assert (await service.get("/metrics", headers={"Host": "bridge.local"}))[0] == status


async def test_with_a_token_the_signature_decides_and_not_the_host(start: Start) -> None:
    service = await start()
    assert (await service.post("/twilio/voice", headers={"Host": "bridge.example.test"}))[0] == 200
    assert (await service.post("/twilio/voice", signature="", headers={"Host": "localhost"}))[0] == 403


async def test_signatures_are_ignored_only_by_explicit_word(start: Start) -> None:
    service = await start({"BRIDGE_TWILIO__VALIDATE_SIGNATURES": "false", "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN})
    status, _ = await service.post("/twilio/voice", signature="", headers={"X-Forwarded-For": "1.2.3.4"})
    assert status == 200


async def test_a_full_or_draining_service_says_so_to_the_caller(service: Service) -> None:
    service.switchboard.full = True
    status, text = await service.post("/twilio/voice")
    assert (status, verbs(text)) == (200, ["Say", "Hangup"])
    service.switchboard.full, service.switchboard.accepting = False, False
    _, text = await service.post("/twilio/voice", {**CALL, "CallSid": "CA2"})
    assert verbs(text) == ["Say", "Hangup"]
    assert not service.switchboard.expected
    assert b'bridge_calls_refused_total{why="draining"} 1.0' in service.metrics.text()


async def test_a_full_service_can_send_its_callers_elsewhere(start: Start) -> None:
    env = {"BRIDGE_PUBLIC_URL": PUBLIC, "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN}
    service = await start({**env, "BRIDGE_TWILIO__BUSY_REDIRECT": "https://elsewhere.example/voice"})
    service.switchboard.full = True
    _, text = await service.post("/twilio/voice")
    assert ElementTree.fromstring(text).findtext("Redirect") == "https://elsewhere.example/voice"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"Content-Type": "text/plain"}, b"CallSid=CA1", 415),
        ({"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}, b"x", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a" * 65_537, 413),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=\xff", 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"&".join([b"a=1"] * 201), 400),
    ],
)
async def test_what_is_not_a_small_form_is_not_read(
    service: Service, headers: dict[str, str], body: bytes, status: int
) -> None:
    signed = {SIGNATURE: "wrong", **headers}
    async with service.client.post(service.url + "/twilio/voice", data=body, headers=signed) as answer:
        assert answer.status == status


async def test_the_body_of_an_unsigned_request_is_not_waited_for(service: Service) -> None:
    head = b"POST /twilio/voice HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", service.listener.port)
    writer.write(head + b"Content-Length: 65000\r\n\r\nCallSid=")
    assert (await asyncio.wait_for(reader.read(), 4)).startswith(b"HTTP/1.1 403 ")
    writer.close()


async def test_of_too_many_bodies_the_one_that_takes_longest_makes_way(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.web.webhooks._MOST_BODIES", 4)
    head = b"POST /twilio/voice HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    head += SIGNATURE.encode() + b": wrong\r\nContent-Length: 65000\r\n\r\nCallSid="
    slow = []
    for _ in range(4):
        slow.append(await asyncio.open_connection("127.0.0.1", service.listener.port))
        slow[-1][1].write(head)
    await asyncio.sleep(0.1)
    both = await asyncio.gather(service.post("/twilio/voice"), service.post("/twilio/status"))
    assert [status for status, _ in both] == [200, 204]
    assert (await asyncio.wait_for(slow[0][0].read(), 4)).startswith(b"HTTP/1.1 408 ")
    assert not slow[2][0].at_eof() and not slow[3][0].at_eof()
    for _, writer in slow:
        writer.close()


@pytest.mark.parametrize("call_sid", ["", "C" * 101, "CÄ1"])
async def test_a_webhook_without_a_usable_call_sid_is_refused(service: Service, call_sid: str) -> None:
    assert (await service.post("/twilio/voice", {**CALL, "CallSid": call_sid}))[0] == 400
    assert not service.switchboard.expected


async def test_get_is_not_a_way_to_announce_a_call(service: Service) -> None:
    assert (await service.get("/twilio/voice?CallSid=CA1"))[0] == 405


async def test_only_a_final_status_ends_a_call(service: Service) -> None:
    for status in ("queued", "initiated", "ringing", "in-progress", "nonsense", ""):
        assert (await service.post("/twilio/status", {**CALL, "CallStatus": status}))[0] == 204
    assert not service.switchboard.ended
    final = ["completed", "busy", "failed", "no-answer", "canceled"]
    for status in final:
        await service.post("/twilio/status", {**CALL, "CallStatus": status})
    assert service.switchboard.ended == [("CA1", status) for status in final]


async def test_a_stream_error_is_counted(service: Service) -> None:
    await service.post("/twilio/stream-status", {**CALL, "StreamEvent": "stream-started"})
    assert b"bridge_stream_errors_total 0.0" in service.metrics.text()
    await service.post("/twilio/stream-status", {**CALL, "StreamEvent": "stream-error", "StreamError": "31921"})
    assert b"bridge_stream_errors_total 1.0" in service.metrics.text()


async def test_after_its_stream_a_call_hangs_up_or_goes_where_it_wished(service: Service) -> None:
    service.switchboard.targets["CA1"] = "+15550199"
    service.switchboard.live.add("CA1")  # the wish comes first
    _, text = await service.post("/twilio/resume")
    assert verbs(text) == ["Dial", "Hangup"]
    assert ElementTree.fromstring(text).findtext("Dial/Number") == "+15550199"
    _, text = await service.post("/twilio/resume", {**CALL, "CallSid": "CA2"})
    assert verbs(text) == ["Hangup"]


async def test_a_call_that_goes_on_without_its_stream_is_given_another(service: Service) -> None:
    _, first = await service.post("/twilio/voice")
    service.switchboard.live.add("CA1")
    _, text = await service.post("/twilio/resume")
    assert verbs(text) == ["Connect", "Redirect"]
    assert text == first.replace("token-1", "token-again")
    assert not service.switchboard.expected[1:], "it is the same call"


async def test_of_many_mutated_forms_none_is_taken_for_a_call(service: Service) -> None:
    """The ten thousand are in tests/telephony/test_signature.py; these go through a socket."""
    chance = random.Random(4)
    right = sign(TOKEN, PUBLIC + "/twilio/voice", CALL.items())
    for _ in range(300):
        fields = dict(CALL)
        name = chance.choice(list(fields))
        if chance.random() < 0.3:
            del fields[name]
        else:
            fields[name] += chance.choice(["0", " ", "\x00", "é", "&From=x"])
        assert (await service.post("/twilio/voice", fields, signature=right))[0] == 403
    assert not service.switchboard.expected


async def test_a_public_service_without_a_token_believes_nobody_not_even_this_machine(start: Start) -> None:
    service = await start({"BRIDGE_PUBLIC_URL": PUBLIC})
    for host in (None, "localhost"):
        headers = {} if host is None else {"Host": host}
        assert (await service.post("/twilio/voice", signature="", headers=headers))[0] == 403
    assert not service.switchboard.expected


async def test_a_call_that_is_given_no_other_stream_goes_where_it_was_to_be_transferred_to(service: Service) -> None:
    board = service.switchboard

    def refuse(carrier_call_id: str) -> None:
        board.targets[carrier_call_id] = "+15550199"

    board.resume = refuse  # type: ignore[method-assign,assignment]
    _, text = await service.post("/twilio/resume")
    assert verbs(text) == ["Dial", "Hangup"]


async def test_what_a_call_is_told_of_its_caller_has_an_end(service: Service) -> None:
    await service.post("/twilio/voice", {**CALL, "CallerName": "A" * 5000})
    assert service.switchboard.expected[0].variables == {"CallerName": "A" * 256}


async def test_a_body_whose_patience_ends_as_it_is_to_make_way_harms_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.web.webhooks._MOST_BODIES", 1)

    class Body:
        def __init__(self, *, stalls: bool) -> None:
            self.stalls = stalls

        async def read(self) -> bytes:
            await asyncio.sleep(100 if self.stalls else 0)
            return b"whole"

    quick = settings.load({"BRIDGE_LIMITS__BODY_S": "0.2"})
    board = FakeSwitchboard()
    door = TwilioDoor(quick, board, validator=None, base_url=PUBLIC, metrics=Metrics())  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    slow = loop.create_task(door._body(Body(stalls=True)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    (patience,) = door._reading
    others: list[asyncio.Task[bytes]] = []
    due = patience.when()
    assert due is not None
    # in the very pass in which the patience with the slow one ends
    loop.call_at(due - 1e-7, lambda: others.append(loop.create_task(door._body(Body(stalls=False)))))  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await slow
    assert await others[0] == b"whole" and not door._reading
