"""What the model on this machine knows of the agents: their files' `local:` sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bridge.errors import ConfigError
from bridge.localmodel.brain import Brain
from bridge.localmodel.speech import VOICES
from bridge.reading import nearest
from bridge.settings import Settings
from bridge.sim import voices


def brains_of(settings: Settings) -> dict[str, Brain]:
    """A brain for each agent that has one, the default agent's first. Raises ConfigError with every mistake in them."""
    brains: dict[str, Brain] = {}
    mistakes: list[str] = []
    for name in sorted(settings.agents, key=lambda name: name != settings.default_agent):
        agent, source = settings.agents[name], f"agents/{name}.yaml"
        if not agent.local:
            continue
        try:
            brains[name] = Brain.from_dict(agent.local, source=source)
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        tools = [tool if isinstance(tool, str) else tool.name for tool in agent.tools]
        mistakes += [f"{source}: local.{wrong}" for wrong in _amiss(brains[name], tools)]
    if mistakes:
        raise ConfigError(mistakes)
    return brains or {"local": Brain.default()}


def _amiss(brain: Brain, tools: Sequence[str]) -> Iterator[str]:
    """What the section alone cannot know: the agent's tools, and the voices there are."""
    for number, intent in enumerate(brain.intents, 1):
        for key, use in (("tool", intent.tool), ("then", intent.then)):
            if use is not None and use.name not in tools:
                hint = nearest(use.name, tools) if tools else "; list it there"
                yield f"intents[{number}].{key}: the agent's `tools` have no {use.name!r}{hint}"
    if wrong := _unknown_voice(brain.voice):
        yield f"voice: {wrong}"


def _unknown_voice(name: str) -> str:
    if not name or name in VOICES:
        return ""
    if name.startswith("en"):
        return voices.unknown(name)
    return f"there is no voice {name!r} beside espeak-ng's for English, as en-gb{nearest(name, VOICES)}"
