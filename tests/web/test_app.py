"""Probes, metrics and what every answer carries."""

import asyncio

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.web.conftest import CALL, PUBLIC, TOKEN, Service, Start


async def test_the_process_lives_and_is_ready(service: Service) -> None:
    assert await service.get("/healthz") == (200, '{"status": "alive"}')
    assert await service.get("/readyz") == (200, '{"status": "ready", "calls": 0}')


async def test_a_full_or_draining_service_lives_and_is_not_ready(service: Service) -> None:
    service.switchboard.full = True
    assert await service.get("/readyz") == (503, '{"status": "full"}')
    service.switchboard.accepting = False
    assert await service.get("/readyz") == (503, '{"status": "draining"}')
    assert (await service.get("/healthz"))[0] == 200


async def test_metrics_hold_neither_numbers_nor_ids(service: Service) -> None:
    await service.post("/twilio/voice")
    status, text = await service.get("/metrics")
    assert status == 200 and "bridge_calls_active 1.0" in text
    assert "+1555" not in text and "CA1" not in text and "token-1" not in text


async def test_metrics_are_for_this_machine_unless_told_otherwise(start: Start) -> None:
    service = await start()
    assert (await service.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}))[0] == 403
    opened = await start({"BRIDGE_METRICS_ACCESS": "anyone"})
    assert (await opened.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}))[0] == 200


async def test_every_answer_carries_the_same_headers_and_ends_its_connection(service: Service) -> None:
    for path in ("/healthz", "/nowhere", "/twilio/voice"):
        async with service.client.get(service.url + path) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Server"] == "voice-bridge"
            assert answer.headers["Connection"] == "close"


async def test_an_expectation_nobody_knows_ends_its_connection_too(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: the-unknown\r\n\r\n")
    async with asyncio.timeout(3):
        assert (await reader.read()).startswith(b"HTTP/1.1 417 ")  # and then its end
    writer.close()


async def test_a_mistake_of_ours_is_not_shown_to_the_client(start: Start) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        raise RuntimeError("the secret reason")

    service = await start(media=broken)
    with capture_logs() as logged:
        status, text = await service.get("/twilio/media")
    assert status == 500 and "secret" not in text
    assert logged[0]["log_level"] == "error" and logged[0]["exc_info"]
    assert (await service.get("/healthz"))[0] == 200


async def test_neither_query_nor_token_is_logged(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    await service.post("/twilio/voice?canary=8f3a", CALL)
    await service.post("/twilio/voice?canary=8f3a", CALL, signature="wrong")
    await service.get("/nowhere?canary=8f3a")
    written = "".join(capsys.readouterr())
    assert "webhook_refused" in written
    for secret in ("8f3a", "token-1", TOKEN):
        assert secret not in written


async def test_the_public_address_can_be_told_late(start: Start) -> None:
    service = await start({"BRIDGE_TWILIO__AUTH_TOKEN": TOKEN}, public_url=PUBLIC)
    status, text = await service.post("/twilio/voice")
    assert status == 200 and "wss://bridge.example.test/twilio/media" in text


async def test_aiohttp_keeps_no_list_of_requests_of_its_own(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        await service.post("/twilio/voice?canary=8f3a", CALL)
    assert not [record for record in caplog.records if "8f3a" in record.getMessage()]
