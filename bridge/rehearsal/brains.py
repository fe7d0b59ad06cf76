"""What the model on this machine knows of the agents: their files' `local:` sections."""

from __future__ import annotations

from bridge.errors import ConfigError
from bridge.localmodel.brain import Brain
from bridge.settings import Settings


def brains_of(settings: Settings) -> dict[str, Brain]:
    """A brain for each agent that has one, the default agent's first. Raises ConfigError with every mistake in them."""
    brains: dict[str, Brain] = {}
    mistakes: list[str] = []
    for name in sorted(settings.agents, key=lambda name: name != settings.default_agent):
        local = settings.agents[name].local
        if local:
            try:
                brains[name] = Brain.from_dict(local, source=f"agents/{name}.yaml")
            except ConfigError as error:
                mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return brains or {"local": Brain.default()}
