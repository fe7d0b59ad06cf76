"""From an incoming call to its frozen plan: which agent answers the number, and all that agent needs.

A `Directory` reads the settings once. `plan` gives the `CallPlan`, which holds no secret, and beside it the targets,
which do: the same services in the same order.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec

from bridge.audio.formats import MULAW_8K
from bridge.audio.prompts import load_prompt
from bridge.call.plan import (
    AgentPlan,
    BargeIn,
    CallPlan,
    CarrierCapabilities,
    Policies,
    SessionPlan,
    ToolSpec,
    TurnDetection,
)
from bridge.realtime.profiles import Target
from bridge.settings.agents import AfterMs, AgentFile, FallbackMessage, FallbackTransfer, Tool
from bridge.settings.service import Settings
from bridge.settings.services import common_rates, runs_here, services_of, target


class IncomingCall(msgspec.Struct, frozen=True):
    """What the carrier says of a call that wants to begin. Numbers are as it gave them, and never parsed."""

    carrier: CarrierCapabilities
    carrier_call_id: str  # Twilio: CallSid
    account_id: str
    caller: str
    called: str
    direction: Literal["inbound", "outbound"] = "inbound"
    variables: Mapping[str, str] = {}


@cache
def packaged_clips() -> dict[str, bytes]:
    """What the service itself may have to say when no model can: 8 kHz mu-law, spoken by espeak-ng."""
    folder = resources.files("bridge.settings") / "clips"
    return {name: (folder / f"{name}.ulaw").read_bytes() for name in ("filler", "apology", "again")}


class Directory:
    """Who answers, and how. Shared by all calls; nothing in it changes but the address of the model on this machine."""

    def __init__(self, settings: Settings, *, new_id: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self._settings = settings
        self._new_id = new_id
        self._local_url = ""
        self._agents = {name: _agent_plan(settings, name) for name in settings.agents}
        self._sessions = {name: _session_plan(settings, name) for name in settings.agents}

    def route(self, called: str) -> str:
        """The agent for a number: listed exactly, else by the longest pattern that fits, else the default agent."""
        numbers = self._settings.numbers
        if called in numbers:
            return numbers[called]
        fitting = [pattern for pattern in numbers if "*" in pattern and _fits(pattern, called)]
        return numbers[max(fitting, key=len)] if fitting else self._settings.default_agent

    def plan(self, incoming: IncomingCall) -> tuple[CallPlan, tuple[Target, ...]]:
        """All this call must know. Raises UsageError where a model service's address cannot be used."""
        name = self.route(incoming.called)
        targets = self.targets(name)
        # Copies: frozen structs still hold tables and lists, and no call shares those with another.
        plan = CallPlan(
            call_id=self._new_id(),
            carrier_call_id=incoming.carrier_call_id,
            caller=incoming.caller,
            called=incoming.called,
            direction=incoming.direction,
            agent=copy.deepcopy(self._agents[name]),
            carrier=incoming.carrier,
            models=tuple(one.profile.capabilities() for one in targets),
            session=copy.deepcopy(self._sessions[name]),
            variables=dict(incoming.variables),
        )
        return plan, targets

    def targets(self, agent: str) -> tuple[Target, ...]:
        """The agent's model services, in order of preference."""
        names = services_of(self._settings.agents[agent])
        return tuple(target(self._settings, agent, name, local_url=self._local_url) for name in names)

    def places(self, agent: str) -> tuple[str, ...]:
        """Where those services are, for a person to read."""
        names = services_of(self._settings.agents[agent])
        return tuple(
            "started by serve" if not self._local_url and runs_here(self._settings, name) else target.where
            for name, target in zip(names, self.targets(agent), strict=True)
        )

    @property
    def needs_local_model(self) -> bool:
        """Whether any agent speaks through the model on this machine, which then has to run."""
        return any(
            runs_here(self._settings, service)
            for agent in self._settings.agents.values()
            for service in services_of(agent)
        )

    def local_model_at(self, url: str) -> None:
        """Where the model on this machine listens, ws://127.0.0.1:<port>/v1/realtime. Agents' names are its models."""
        self._local_url = url


def _fits(pattern: str, called: str) -> bool:
    head, _, tail = pattern.partition("*")
    return len(called) >= len(head) + len(tail) and called.startswith(head) and called.endswith(tail)


# ---------------------------------------------------------------- an agent's file as plans


def _agent_plan(settings: Settings, name: str) -> AgentPlan:
    agent = settings.agents[name]
    folder = settings.config / "agents"
    to_somebody = agent.fallback.transfer if isinstance(agent.fallback, FallbackTransfer) else ""
    return AgentPlan(
        name=name,
        greeting=agent.greeting,
        policies=policies(agent),
        clips=packaged_clips() | {name: load_prompt(folder / file, MULAW_8K) for name, file in agent.clips.items()},
        gain_db=agent.gain_db,
        fallback="transfer" if to_somebody else "hang_up",
        fallback_target=agent.transfer_targets.get(to_somebody, ""),
        fallback_message=agent.fallback.message if isinstance(agent.fallback, FallbackMessage) else "",
        transfer_targets=dict(agent.transfer_targets),
    )


def policies(agent: AgentFile) -> Policies:
    barge_in = (
        BargeIn("after_ms", agent.barge_in.after_ms) if isinstance(agent.barge_in, AfterMs) else BargeIn(agent.barge_in)
    )
    return Policies(
        barge_in=barge_in,
        greeting_protected=agent.greeting_protected,
        interrupt_hang_up=agent.interrupt_goodbye,
        lead_ms=agent.lead_ms,
        uplink_frame_ms=agent.uplink_frame_ms,
        idle_prompt_after_s=agent.idle.prompt_after_s,
        idle_hang_up_after_s=agent.idle.hang_up_after_s,
        idle_prompt=agent.idle.prompt,
        idle_goodbye=agent.idle.goodbye,
        max_call_s=agent.duration.max_s,
        warn_before_end_s=agent.duration.warn_before_s,
        limit_warning=agent.duration.warning,
        limit_goodbye=agent.duration.goodbye,
        max_tokens=agent.max_tokens,
        tools_per_turn=agent.tools_per_turn,
        tools_per_call=agent.tools_per_call,
        **agent.timing.model_dump(),
    )


def _session_plan(settings: Settings, name: str) -> SessionPlan:
    agent = settings.agents[name]
    passes_through = agent.audio == "pcmu"
    rates = common_rates([one.profile for one in (target(settings, name, s) for s in services_of(agent))])
    return SessionPlan(
        instructions=agent.instructions,
        voice=agent.voice,
        tools=tuple(_tool(tool, agent) for tool in agent.tools),
        turn_detection=TurnDetection(**agent.turn_detection.model_dump()),
        transcription_model="" if agent.transcription == "off" else agent.transcription,
        language=agent.language,
        noise_reduction="" if agent.noise_reduction == "off" else agent.noise_reduction,
        speed=agent.speed,
        max_output_tokens=agent.max_output_tokens,
        temperature=agent.temperature,
        model_encoding="mulaw" if passes_through else "pcm16",
        model_rate_hz=8000 if passes_through else rates[0],
    )


def _tool(tool: str | Tool, agent: AgentFile) -> ToolSpec:
    if isinstance(tool, Tool):
        return ToolSpec(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            timeout_s=tool.timeout_s,
            kind="python",
            entry=tool.python,
            filler=tool.filler,
        )
    description, parameters = _builtin(tool, agent)
    return ToolSpec(name=tool, description=description, parameters=parameters, kind="builtin")


def _builtin(name: str, agent: AgentFile) -> tuple[str, dict[str, Any]]:
    """What the model is told of a built-in tool. It sees the names of transfer targets; the numbers stay with us."""
    if name == "hang_up":
        return "End the call, after you have said goodbye.", {"type": "object", "properties": {}}
    target = {"type": "string", "enum": sorted(agent.transfer_targets), "description": "Whom to connect the caller to."}
    return (
        "Hand the caller on to somebody else, after you have said so.",
        {"type": "object", "properties": {"target": target}, "required": ["target"]},
    )
