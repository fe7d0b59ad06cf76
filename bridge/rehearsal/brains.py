"""What the model on this machine knows of the agents: their files' `local:` sections."""

from __future__ import annotations

from bridge.localmodel.brain import Brain
from bridge.settings import Settings


def brains_of(settings: Settings) -> dict[str, Brain]:
    """A brain for each agent that has one, the default agent's first."""
    names = sorted(settings.agents, key=lambda name: name != settings.default_agent)
    brains = {
        name: Brain.from_dict(settings.agents[name].local, source=f"agents/{name}.yaml")
        for name in names
        if settings.agents[name].local
    }
    return brains or {"local": Brain.default()}
