"""A call's state as JSON and back. The plan is not in it: whoever resumes the call gives it again."""

from __future__ import annotations

import msgspec

from bridge.call.state import State
from bridge.errors import UsageError

VERSION = 2


class Snapshot(msgspec.Struct, frozen=True):
    version: int
    call_id: str
    elapsed_ms: float
    state: State


def encode(call_id: str, elapsed_ms: float, state: State) -> bytes:
    return msgspec.json.encode(Snapshot(VERSION, call_id, elapsed_ms, state))


def decode(snapshot: bytes, call_id: str) -> tuple[float, State]:
    """The call's own time and its state. Raises UsageError for what is no snapshot of this call and version."""
    try:
        taken = msgspec.json.decode(snapshot, type=Snapshot)
    except msgspec.DecodeError as error:
        raise UsageError(f"this is not a snapshot of a call: {error}") from error
    if taken.version != VERSION:
        raise UsageError(f"snapshot version {taken.version} cannot be read, only {VERSION}")
    if taken.call_id != call_id:
        raise UsageError(f"the snapshot is of call {taken.call_id}, the plan of call {call_id}")
    return taken.elapsed_ms, taken.state
