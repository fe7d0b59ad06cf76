"""What can go wrong, and why a call ended.

    BridgeError                      everything this package raises on purpose
    ├── ConfigError                  ours: the settings do not hold; lists every mistake with its remedy
    ├── UsageError                   ours: a public entry was given what it cannot handle
    └── PeerError                    theirs: somebody else's service said no, or said something strange
        ├── RealtimeError            the model service (code, message, param, request_id, status)
        └── CarrierError             the carrier's REST interface (status, code, message)

What a peer sends over a socket during a call is never an exception of ours: it becomes a note and a count.
A broken invariant is an AssertionError: it ends that one call with `EndReason.BUG`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class BridgeError(Exception):
    """Base of all errors this package raises on purpose."""


class UsageError(BridgeError, ValueError):
    """A public entry was given something it cannot handle; the message names it."""


class ConfigError(BridgeError):
    """The settings do not hold. `mistakes` has a line each: where, what was found, what to do."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class PeerError(BridgeError):
    """A service we talk to refused, or answered something that cannot be used."""


class RealtimeError(PeerError):
    """An error envelope of the model service, or a connection to it that could not be made.

    `code` is the service's stable identifier ("unknown" where it gave none), `param` the field it complains of,
    `request_id` what its support will ask for, `status` HTTP's where the opening handshake was refused (0 elsewhere).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "unknown",
        param: str | None = None,
        request_id: str | None = None,
        status: int = 0,
    ) -> None:
        self.code = code
        self.message = message
        self.param = param
        self.request_id = request_id
        self.status = status
        super().__init__(f"{code}: {message}")


class CarrierError(PeerError):
    """The carrier's REST interface refused a request. `status` is HTTP's, `code` the carrier's own (0 if none)."""

    def __init__(self, message: str, *, status: int, code: int = 0) -> None:
        self.status = status
        self.code = code
        super().__init__(f"{message} (HTTP {status}, code {code})")


class EndReason(enum.StrEnum):
    """Why a call ended. Every call has exactly one; the first that happens wins."""

    CALLER_LEFT = "caller_left"  # the carrier said stop, or reported the call completed
    STREAM_LOST = "stream_lost"  # the media socket closed without a stop
    NEVER_STARTED = "never_started"  # the webhook was answered, but no stream (or no audio) ever came
    AGENT_HUNG_UP = "agent_hung_up"  # the agent said goodbye and the caller heard it
    TRANSFERRED = "transferred"  # the caller was handed to somebody else
    CALLER_SILENT = "caller_silent"  # nothing was heard from the caller for longer than the agent allows
    MAX_DURATION = "max_duration"  # the agent's limit for one call
    TOKEN_LIMIT = "token_limit"  # the agent's limit of tokens for one call
    MODEL_UNAVAILABLE = "model_unavailable"  # no model session could be had, or kept
    MODEL_REFUSED = "model_refused"  # the model service said no for good: key, quota, model name
    STALLED = "stalled"  # a peer stopped reading and its outbox filled
    PROTOCOL = "protocol"  # the carrier broke its own protocol (a second start, floods)
    ENDED_BY_OPERATOR = "ended_by_operator"  # somebody asked us to end it
    DRAINED = "drained"  # the service was shutting down and the call outlived the grace
    BUG = "bug"  # an invariant of ours broke; no other call notices
