"""How long a call may last: the warning of its limit, and what happens there."""

from __future__ import annotations

from bridge.call import bargein, ending
from bridge.call import events as ev
from bridge.call.desk import Desk
from bridge.call.turns import Wish
from bridge.errors import EndReason

_LOOK_AGAIN_MS = 1000.0


def on_limit_warning(desk: Desk) -> None:
    desk.turns.want(Wish("limit_warning", desk.policies.limit_warning, again=True))


def on_limit(desk: Desk) -> None:
    if not _reached(desk, EndReason.MAX_DURATION):
        desk.after("limit", _LOOK_AGAIN_MS)  # what ends the call now may be taken back, or fail


def used(desk: Desk, usage: ev.Usage | None) -> None:
    """A response was billed; all of them, cut and failed ones too."""
    if usage is None:
        return
    desk.state.tokens += max(0, usage.input_tokens) + max(0, usage.output_tokens)
    limit = desk.policies.max_tokens
    if limit and desk.state.tokens >= limit:
        _reached(desk, EndReason.TOKEN_LIMIT)


def _reached(desk: Desk, reason: EndReason) -> bool:
    """False: the call is ending already."""
    bargein.drop_announcement(desk)  # the goodbye takes its place
    if not ending.begin(desk, "hang_up", reason):
        return False
    if desk.model_is_ready:
        desk.turns.want(Wish("goodbye", desk.policies.limit_goodbye))
    return True
