"""A service on a loopback port, told to believe it is https://bridge.example.test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import pytest

from bridge import settings
from bridge.metrics import Metrics
from bridge.telephony.signature import SIGNATURE, sign
from bridge.web.app import make_app
from bridge.web.listen import Listener
from tests.web.switchboards import FakeSwitchboard

TOKEN = "12345"
PUBLIC = "https://bridge.example.test"
CALL = {"CallSid": "CA1", "AccountSid": "AC1", "From": "+15550100", "To": "+15550101", "Direction": "inbound"}


@dataclass
class Service:
    """A running HTTP face, and a client that signs like Twilio."""

    listener: Listener
    switchboard: FakeSwitchboard
    metrics: Metrics
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    async def post(
        self,
        path: str,
        fields: Mapping[str, str] = CALL,
        *,
        signature: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        right = sign(TOKEN, PUBLIC + path, fields.items())
        sent = {SIGNATURE: right if signature is None else signature, **(headers or {})}
        if signature == "":
            del sent[SIGNATURE]
        async with self.client.post(self.url + path, data=fields, headers=sent) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        async with self.client.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[Service] = []

    async def begin(env: Mapping[str, str] | None = None, **options: object) -> Service:
        signed = {"BRIDGE_PUBLIC_URL": PUBLIC, "BRIDGE_TWILIO__AUTH_TOKEN": TOKEN}
        read = settings.load({"BRIDGE_PORT": "0", **(signed if env is None else env)})
        switchboard, metrics = FakeSwitchboard(), Metrics()
        listener = Listener(make_app(read, switchboard, metrics=metrics, **options), read)  # type: ignore[arg-type]
        await listener.start()
        service = Service(listener, switchboard, metrics, aiohttp.ClientSession())
        running.append(service)
        return service

    yield begin
    for service in running:
        await service.client.close()
        await service.listener.close()
        await service.listener.close()


@pytest.fixture
async def service(start: Start) -> Service:
    return await start()
