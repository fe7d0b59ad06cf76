"""Tools every agent may be given: hang up, and hand the caller on.

They act only by wishes: the call ends, or is transferred, when what is being said has been heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.call import events as ev

if TYPE_CHECKING:
    from bridge.tools.toolbox import CallInfo, Tool


async def hang_up(arguments: dict[str, Any], call: CallInfo) -> dict[str, Any]:
    call.tell(ev.HangUpWished("agent"))
    return {"ok": True}


async def transfer(arguments: dict[str, Any], call: CallInfo) -> dict[str, Any]:
    """Only targets from the agent's file: the model names one, it does not invent one."""
    targets = call.plan.agent.transfer_targets
    name = str(arguments.get("target", ""))
    if name not in targets:
        return {"error": f"there is no such target; known: {', '.join(targets) or 'none'}"}
    call.tell(ev.TransferWished(targets[name]))
    return {"ok": True}


BUILTIN: dict[str, Tool] = {"hang_up": hang_up, "transfer": transfer}
