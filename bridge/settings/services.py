"""From the name of a model service to the target a session is opened with.

`default` is the one of BRIDGE_REALTIME__...; further names stand under `services`; `local` is the model on this
machine, whose address is only known when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import msgspec

from bridge.errors import UsageError
from bridge.realtime.profiles import Profile, Target, is_loopback
from bridge.settings.agents import AgentFile
from bridge.settings.mistakes import nearest
from bridge.settings.service import ModelService, Settings

LOCAL = "local"
_WITH_OUR_LOOPBACK = ("127.0.0.1", "localhost", "0.0.0.0")  # hosts whose ports the model on this machine cannot have


def services_of(agent: AgentFile) -> tuple[str, ...]:
    """The services an agent speaks through, in order of preference."""
    return (agent.model.service, *agent.model.failover)


def service_named(settings: Settings, name: str) -> ModelService:
    """Raises KeyError for a name nobody configured."""
    if name == "default":
        return settings.realtime
    if name == LOCAL and LOCAL not in settings.services:
        return ModelService(profile=LOCAL)
    return settings.services[name]


def profile_of(settings: Settings, service: ModelService) -> Profile:
    """Raises KeyError for an unknown profile."""
    if service.profile:
        return settings.profiles[service.profile]
    return settings.profiles["openai" if service.url or service.api_key.get_secret_value() else LOCAL]


def runs_here(settings: Settings, name: str) -> bool:
    """Whether this service is the model on this machine, at the address it will be given."""
    service = service_named(settings, name)
    return profile_of(settings, service).name == LOCAL and not service.url


def target(settings: Settings, agent_name: str, service_name: str, *, local_url: str = "") -> Target:
    """Where and as whom the agent's sessions with this service are opened. Raises UsageError, KeyError for unknown
    names.

    An agent that may not simply be interrupted gets a session that neither interrupts nor answers by itself: the call
    decides both.
    """
    agent = settings.agents[agent_name]
    service = service_named(settings, service_name)
    profile = profile_of(settings, service)
    if agent.barge_in != "immediate" or agent.greeting_protected:
        profile = msgspec.structs.replace(profile, model_interrupts=False, model_answers=False)
    here = runs_here(settings, service_name)
    chosen = agent.model.model if service_name == agent.model.service else ""
    return Target(
        profile=profile,
        url=local_url if here else service.url,
        api_key=service.api_key.get_secret_value(),
        model=chosen or service.model or (agent_name if profile.name == LOCAL else ""),
        allow_plain=settings.allow_plain,
    )


def check_services(settings: Settings) -> Iterator[str]:
    """Everything that would keep an agent's model from being reached, as far as it can be seen without trying."""
    used = {name for agent in settings.agents.values() for name in services_of(agent)}
    names = {"default", LOCAL, *settings.services}
    for agent_name, agent in settings.agents.items():
        for name in dict.fromkeys(services_of(agent)):
            if name not in names:
                yield f"agents/{agent_name}.yaml: model: there is no service {name!r}{nearest(name, names)}"
    for name in sorted(used & names | set(settings.services)):
        yield from _check_service(settings, name)
    if any(name not in names for name in used):
        return
    yield from _check_port(settings, used)
    for agent_name, agent in settings.agents.items():
        yield from _check_audio(settings, agent_name, agent)


def _check_service(settings: Settings, name: str) -> Iterator[str]:
    service = service_named(settings, name)
    where = "realtime" if name == "default" else f"services.{name}"
    variable = f"BRIDGE_{where.upper().replace('.', '__')}"
    try:
        profile = profile_of(settings, service)
    except KeyError:
        near = nearest(service.profile, settings.profiles) or f"; there are {', '.join(settings.profiles)}"
        yield f"{where}.profile = {service.profile!r}: there is no such profile{near}"
        return
    at_home = False
    try:
        reached = Target(profile=profile, url=service.url, allow_plain=settings.allow_plain)
        at_home = bool(service.url) and is_loopback(urlsplit(reached.url).hostname or "")
    except UsageError as error:
        yield f"{where}.url: {error}. Set {variable}__URL"
    if profile.needs_key and not service.api_key.get_secret_value() and not at_home:
        yield f"{where}.api_key: missing; profile {profile.name} refuses who brings no key. Set {variable}__API_KEY"


def _check_port(settings: Settings, used: Iterable[str]) -> Iterator[str]:
    port = settings.local_model.port
    if not port or port != settings.port or settings.host not in _WITH_OUR_LOOPBACK:
        return
    try:
        needed = any(runs_here(settings, name) for name in used)
    except KeyError:
        return  # said already
    if needed:
        yield (
            f"local_model.port = {port}: the service itself listens there. Choose another BRIDGE_LOCAL_MODEL__PORT,"
            " or 0 for any free one"
        )


def _check_audio(settings: Settings, agent_name: str, agent: AgentFile) -> Iterator[str]:
    try:
        known = [profile_of(settings, service_named(settings, name)) for name in services_of(agent)]
    except KeyError:
        return  # said already
    wanted = "mulaw" if agent.audio == "pcmu" else "pcm16"
    for profile in known:
        if wanted not in profile.encodings:
            yield (
                f"agents/{agent_name}.yaml: audio = {agent.audio!r}: profile {profile.name} takes"
                f" {', '.join(profile.encodings)}. Choose another"
            )
    if wanted == "pcm16" and not common_rates(known):
        yield f"agents/{agent_name}.yaml: model: its services have no common audio rate. Let it fail over to another"


def common_rates(known: list[Profile]) -> list[int]:
    """Rates every one of these profiles takes and gives, the first one's best first."""
    return [
        rate
        for rate in known[0].input_rates_hz
        if all(rate in profile.input_rates_hz and rate in profile.output_rates_hz for profile in known)
    ]
