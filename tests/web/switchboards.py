"""A switchboard for the HTTP face alone: takes every call, remembers what it was told, is full or draining on request.

Unlike the real one it opens no sessions and its calls never end by themselves.
"""

from bridge.live.switchboard import Expected, Refused
from bridge.settings import IncomingCall


class FakeSwitchboard:
    def __init__(self) -> None:
        self.accepting = True
        self.full = False
        self.expected: list[IncomingCall] = []
        self.ended: list[tuple[str, str]] = []
        self.targets: dict[str, str] = {}
        self.live: set[str] = set()  # calls that go on without their stream

    @property
    def active_calls(self) -> int:
        return len(self.expected)

    def expect(self, incoming: IncomingCall) -> Expected | Refused:
        if self.full or not self.accepting:
            return Refused("full" if self.full else "draining")
        if incoming not in self.expected:
            self.expected.append(incoming)
        number = self.expected.index(incoming) + 1
        return Expected(call_id=f"call-{number}", token=f"token-{number}")

    def ended_by_status(self, carrier_call_id: str, status: str) -> None:
        self.ended.append((carrier_call_id, status))

    def handed_on_to(self, carrier_call_id: str) -> str:
        return self.targets.get(carrier_call_id, "")

    def resume(self, carrier_call_id: str) -> Expected | None:
        return Expected(call_id="call-1", token="token-again") if carrier_call_id in self.live else None
