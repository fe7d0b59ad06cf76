"""A model service at the other end of a dialling: it opens, refuses or hangs as told, and remembers what it was sent.

Messages arrive the moment they are sent; there is no TCP between.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bridge.audio.formats import MULAW_8K
from bridge.call.plan import CallPlan, SessionPlan
from bridge.live.circuit import Circuits
from bridge.live.driver import Driver
from bridge.live.model import ModelLeg
from bridge.live.together import Together
from bridge.realtime.profiles import Target, builtin
from tests.live.calls import FakePhone, Nobody, Running, plan, settle

KEY = "sk-the-canary-0123456789"


class Socket:
    """One connection, seen from the service's side."""

    def __init__(self, on_message: Callable[[bytes, bool], None], on_closed: Callable[[int, str], None]) -> None:
        self._on_message, self._on_closed = on_message, on_closed
        self.sent: list[dict[str, Any]] = []
        self.binary: list[bytes] = []
        self.closed: list[int] = []
        self.waiting_bytes = 0
        self.pings = 0

    # the leg's side

    def send(self, payload: bytes) -> None:
        assert not self.closed, "nothing is sent on a socket that was closed"
        self.sent.append(json.loads(payload))

    def send_binary(self, payload: bytes) -> None:
        self.binary.append(payload)

    def keep_alive(self, *, every_s: float, within_s: float) -> None:
        self.pings += 1

    def probe(self, *, within_s: float) -> None:
        self.pings += 1

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed.append(code)

    # the service's side

    def says(self, kind: str, **fields: Any) -> None:
        self._on_message(json.dumps({"type": kind, "event_id": f"e{next(_ids)}", **fields}).encode(), True)

    def says_binary(self, data: bytes) -> None:
        self._on_message(data, False)

    def drops(self, code: int = 1006, reason: str = "") -> None:
        self._on_closed(code, reason)

    def greets(self, **session: Any) -> None:
        self.says("session.created", session={"id": "s", **session})

    def confirms(self, **session: Any) -> None:
        self.says("session.updated", session={"id": "s", **session})

    def speaks(self, audio: bytes, *, response: str = "r1", item: str = "i1") -> None:
        delta = base64.b64encode(audio).decode()
        self.says("response.output_audio.delta", response_id=response, item_id=item, content_index=0, delta=delta)

    def answers(self, response: str, *, ms: int = 1000) -> None:
        """A whole response of one item."""
        item = f"item of {response}"
        self.says("response.created", response={"id": response, "status": "in_progress"})
        self.speaks(b"\x01\x02" * 24 * ms, response=response, item=item)
        self.says("response.output_audio.done", response_id=response, item_id=item, content_index=0)
        self.says("response.done", response={"id": response, "status": "completed", "output": []})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.sent if event["type"] == kind]

    @property
    def heard(self) -> bytes:
        return b"".join(base64.b64decode(event["audio"]) for event in self.of("input_audio_buffer.append"))


_ids = itertools.count()


class Service:
    """`outcomes`, one per attempt: seconds until it opens, or an exception, or both as a pair; then it opens at once.

    With `talks`, every connection that opens is greeted and confirmed.
    """

    def __init__(self, *outcomes: Any, talks: bool = False) -> None:
        self._outcomes = list(outcomes)
        self.talks = talks
        self.attempts = 0
        self.given_up = 0
        self.requests: list[tuple[str, Sequence[tuple[str, str]], Sequence[str]]] = []
        self.sockets: list[Socket] = []

    async def dial(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
        *,
        on_message: Callable[[bytes, bool], None],
        on_closed: Callable[[int, str], None],
    ) -> Socket:
        self.attempts += 1
        self.requests.append((url, headers, subprotocols))
        outcome = self._outcomes.pop(0) if self._outcomes else 0.0
        delay_s, error = outcome if isinstance(outcome, tuple) else (outcome, None)
        if isinstance(delay_s, Exception):
            delay_s, error = 0.0, delay_s
        try:
            await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if error is not None:
            raise error
        socket = Socket(on_message, on_closed)
        self.sockets.append(socket)
        if self.talks:
            socket.greets()
            socket.confirms()
        return socket

    @property
    def last(self) -> Socket:
        return self.sockets[-1]


class Line(Running):
    """A call whose model's leg is the real one."""

    driver: Driver
    phone: FakePhone

    def __init__(
        self,
        service: Service,
        call_plan: CallPlan,
        together: Together | None = None,
        circuits: Circuits | None = None,
        **profile: Any,
    ) -> None:
        driver = Driver(call_plan, outside=Nobody())
        chosen = msgspec.structs.replace(builtin()["openai"], truncate_margin_ms=0, **profile)
        self.target = Target(chosen, url="wss://service.example.test/v1/realtime", api_key=KEY, model="m")
        self.service = service
        targets = (self.target,) * len(call_plan.models)
        self.leg = ModelLeg(driver, targets, caller=MULAW_8K, dial=service.dial, together=together, circuits=circuits)
        driver.model = self.leg
        super().__init__(driver, None, FakePhone())  # type: ignore[arg-type]  # the model is the real one


async def call(
    service: Service | None = None,
    *,
    profile: dict[str, Any] | None = None,
    session: SessionPlan | None = None,
    together: Together | None = None,
    circuits: Circuits | None = None,
    **policies: Any,
) -> Line:
    """A call with a stream, whose model's session opens as the service likes."""
    line = Line(
        service or Service(talks=True), plan(session=session, **policies), together, circuits, **(profile or {})
    )
    await settle()
    line.driver.attach(line.phone, "MZ1")
    return line
