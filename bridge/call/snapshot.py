"""A call as JSON and back. The plan is not in it: it is kept beside the record and given again."""

from __future__ import annotations

import msgspec

from bridge.call.machine import Call
from bridge.call.plan import CallPlan
from bridge.call.state import State
from bridge.errors import UsageError

VERSION = 1


class Snapshot(msgspec.Struct, frozen=True):
    version: int
    call_id: str
    elapsed_ms: float
    state: State


def take(call: Call, now: float) -> bytes:
    """The call at this moment as JSON."""
    return msgspec.json.encode(Snapshot(VERSION, call.plan.call_id, call.elapsed(now), call.state))


def resume(snapshot: bytes, plan: CallPlan, now: float) -> Call:
    """The same call again, on another clock. Raises UsageError for what is no snapshot of this call and version."""
    try:
        taken = msgspec.json.decode(snapshot, type=Snapshot)
    except msgspec.DecodeError as error:
        raise UsageError(f"this is not a snapshot of a call: {error}") from error
    if taken.version != VERSION:
        raise UsageError(f"snapshot version {taken.version} cannot be read, only {VERSION}")
    if taken.call_id != plan.call_id:
        raise UsageError(f"the snapshot is of call {taken.call_id}, the plan of call {plan.call_id}")
    return Call(plan, now, state=taken.state, elapsed=taken.elapsed_ms)
