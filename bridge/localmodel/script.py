"""How the local model misbehaves: a script in YAML (`voice-bridge model --script FILE`), or the same as a dict.

A script is one mapping of the keys below, or `connections:` with a list of such mappings, each with `on:` to say
which connections it is for: a number (1 is the first), a list of numbers, `{from: N}`, or `every`. The first entry
that names a connection is the one it gets; connections nobody names are well-behaved.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ResponseRule:
    """How responses are given. All times in ms; `speed` is a factor to real time."""

    silent: bool = False
    text_only: bool = False
    answer: str = ""
    items: int = 1
    first_audio_ms: float = 0.0
    delta_ms: float = 200.0
    speed: float = 5.0
    count_less_ms: float = 0.0
    status: str = ""
    reason: str = "content_filter"
    code: str = "server_error"
    error_type: str = "server_error"
    message: str = "The server had an error while processing your request."
    stop_after_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    max_session_s: float = 3600.0
    dialect: str = ""
    refuse_beta: bool = False
    ignore: frozenset[str] = frozenset()
    stuck_vad: bool = False
    rules: tuple[ResponseRule, ...] = field(default=())

    def response(self, number: int) -> ResponseRule:
        return ResponseRule()
