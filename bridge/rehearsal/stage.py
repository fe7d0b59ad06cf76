"""Everything a rehearsed call needs, put together in one process: settings, service, models that do as scripted, a
carrier.

    async with Stage(script={"steps": [{"after_ms": 3000, "drop": True}]}) as stage:
        leg = await stage.call()
        await leg.wait_until_agent_speaks()
        ...

It runs on whatever loop runs it: on a virtual one (`bridge.sim.virtual.run`) a minute of a call costs only its
computations. The service is the real one, reached through its own door; nothing in it knows that it is rehearsed.
"""

from __future__ import annotations

import asyncio
import copy
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from bridge.errors import ConfigError, EndReason
from bridge.live.driver import Driver
from bridge.localmodel.brain import Brain
from bridge.localmodel.ear import Detection
from bridge.localmodel.hearing import Recogniser
from bridge.localmodel.script import Scripts
from bridge.localmodel.server import LocalModel
from bridge.localmodel.speech import Voice
from bridge.rehearsal.keeping import kept
from bridge.rehearsal.watch import Watch
from bridge.settings import Settings, agent_document, load, sample
from bridge.settings.services import LOCAL
from bridge.sim.account import Signing
from bridge.sim.caller import Caller
from bridge.sim.carrier import Carrier
from bridge.sim.leg import Leg
from bridge.web.service import Service

PUBLIC_URL: Final = "https://bridge.example.test"
TOKEN: Final = "rehearsal-signing-secret"
AGENT: Final = "front-desk"
NUMBER: Final = "+15550100"
CALLER: Final = "+15550199"
DEFAULT: Final = "default"
_ROOM: Final = 100  # calls, and as many sockets of one address: the carrier's

Script = Scripts | Mapping[str, Any] | Path | None


@dataclass(frozen=True, slots=True)
class Wired:
    """One event between the service and a model. `connection` counts that model's connections from 1."""

    service: str
    connection: int
    direction: str  # "client": from us; "server": from the model
    event: Any  # a mapping, unless a script or a client sent something else

    @property
    def type(self) -> str:
        return str(self.event.get("type", "")) if isinstance(self.event, dict) else ""


@dataclass(slots=True)
class Rehearsed:
    """One call on the stage: what the caller lives, what the service decides, and how it ended."""

    leg: Leg
    watch: Watch | None = None
    over: asyncio.Future[EndReason] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Stage:
    """`agent` changes fields of the agent `file` (mappings are merged), read from the folder `config` or, without one,
    from the sample; which model services that file names counts for nothing. Without `file` it is the only agent of
    that folder, or the front desk. `script` is the default model's.

    `services` are further models by name, each with its script, for `agent["model"]["failover"]`; an agent that does
    not say fails over to them in their order. `profile` is what kind of service they are taken for, `given` are
    settings of the service (`limits`, ...), merged as well; there is room for `calls` at once. `recogniser` and `voice`
    are the models' ears and mouth: what is installed, if not given. A recogniser that lives in another process does not
    keep virtual time.

    Raises ConfigError, here or when it is entered. Mistakes are told by a scenario's names: `changes` for `agent`,
    `service` for `given`, `model` for `script`.
    """

    def __init__(
        self,
        *,
        agent: Mapping[str, Any] | None = None,
        file: str = "",
        config: Path | None = None,
        script: Script = None,
        services: Mapping[str, Script] | None = None,
        profile: str = "local",
        given: Mapping[str, Any] | None = None,
        brain: Brain | None = None,
        recogniser: Recogniser | None = None,
        voice: Voice | None = None,
        detection: Detection = "energy",
        seed: int | None = 0,
        calls: int = 1,
    ) -> None:
        self.seed = seed
        self.wire: list[Wired] = []
        self.calls: list[Rehearsed] = []
        self._profile = profile
        self._given = dict(given or {})
        self._changes = dict(agent or {})
        self._room = dict.fromkeys(("max_calls", "pre_start", "pre_start_per_ip"), max(calls, _ROOM))
        self._file, written = _agent_document(config or sample(), file)
        written["model"] = {"failover": list(services or ())}
        self._agent = _merged(written, self._changes)
        if LOCAL not in (services or {}):
            self._agent["model"] = _at_home(self._agent["model"])
        if isinstance(clips := self._agent.get("clips"), Mapping):
            folder = self._file.parent.absolute()
            self._agent["clips"] = {clip: str(folder / str(wav)) for clip, wav in clips.items()}
        try:
            brain = brain or _brain(self._agent.get("local"), str(self._file))
        except ConfigError as error:
            raise ConfigError([self._told(mistake, self._file) for mistake in error.mistakes]) from None
        self.models: dict[str, LocalModel] = {
            name: LocalModel(
                {AGENT: brain},
                script=_script(one, "model" if name == DEFAULT else f"services.{name}"),
                recogniser=recogniser,
                speech=voice,
                on_event=self._wire(name),
                detection=detection,
            )
            for name, one in {DEFAULT: script, **(services or {})}.items()
        }
        self._waiting: dict[str, Watch] = {}  # by the carrier's call id, until the call is known
        self._ended: dict[str, EndReason] = {}
        self.service: Service
        self.carrier: Carrier

    # ------------------------------------------------------------ up and down

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as up:
            folder = Path(up.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
            for model in self.models.values():
                await model.start()
                up.push_async_callback(model.stop)
            copy_of_it = folder / "agents" / f"{AGENT}.yaml"
            with kept(copy_of_it):
                copy_of_it.parent.mkdir()
                copy_of_it.write_text(yaml.safe_dump(self._agent), encoding="utf-8")
            try:
                self.settings = self._settings(folder)
                self.service = Service(self.settings, observe=self._observe, ended=self._call_ended)
                await self.service.start(public_url=PUBLIC_URL)
            except ConfigError as error:
                raise ConfigError([self._told(mistake, copy_of_it) for mistake in error.mistakes]) from None
            up.push_async_callback(self.service.stop, grace_s=0)
            self.carrier = Carrier(
                f"http://127.0.0.1:{self.service.port}", public_url=PUBLIC_URL, auth_token=TOKEN, seed=self.seed
            )
            up.push_async_callback(self.carrier.close)
            self._up = up.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._up.aclose()

    @property
    def model(self) -> LocalModel:
        return self.models[DEFAULT]

    def _settings(self, folder: Path) -> Settings:
        services = {name: self._address(model) for name, model in self.models.items()}
        given = {
            "port": 0,
            "public_url": PUBLIC_URL,
            "twilio": {"auth_token": TOKEN},
            "realtime": services.pop(DEFAULT),
            "services": services,
            "limits": self._room,
        }
        return load({}, config=folder, given=_merged(given, self._given))

    def _address(self, model: LocalModel) -> dict[str, str]:
        return {"profile": self._profile, "url": f"ws://127.0.0.1:{model.port}/v1/realtime", "model": AGENT}

    def _told(self, mistake: str, file: Path) -> str:
        """`file` is what was made of the agent's own and the changes: whose mistake it is says its key."""
        place, _, rest = mistake.partition(": ")
        if place.startswith((str(file), f"agents/{AGENT}.yaml")):
            if _holds(self._changes, _key(rest)):
                return f"changes.{rest}"
            both = bool(self._changes) and (rest.startswith("the file") or ", line " in place)
            return f"{self._file}{' with `changes`' if both else ''}: {rest}"
        if place in ("a given setting", "bridge.yaml"):
            return f"service.{rest}"
        return f"service.{mistake}" if _holds(self._given, _key(mistake)) else mistake

    # ------------------------------------------------------------ calls

    async def call(
        self, *, to: str = NUMBER, from_: str = CALLER, caller: Caller | None = None, signing: Signing = "right"
    ) -> Leg:
        """Somebody rings; returns when the webhook has been answered."""
        leg = await self.carrier.place_call(to=to, from_=from_, caller=caller, signing=signing)
        call = Rehearsed(leg, self._waiting.pop(leg.call_id, None))
        self.calls.append(call)
        if leg.call_id in self._ended:
            call.over.set_result(self._ended[leg.call_id])
        return leg

    def of(self, leg: Leg) -> Rehearsed:
        return next(call for call in self.calls if call.leg is leg)

    def watch(self, leg: Leg) -> Watch:
        """What the service decided in this call."""
        watch = self.of(leg).watch
        assert watch is not None, "the service never saw this call"
        return watch

    async def reason(self, leg: Leg) -> EndReason:
        """Why the call ended, once both sides have ended it."""
        reason = await asyncio.shield(self.of(leg).over)
        await leg.ended()
        return reason

    # ------------------------------------------------------------ what is written down

    def events(
        self, type: str = "", *, direction: str = "", connection: int = 0, service: str = DEFAULT
    ) -> list[dict[str, Any]]:
        """Events between the service and one of the models, in their order; filtered by what is given."""
        return [
            one.event
            for one in self.wire
            if one.service == service
            and type in ("", one.type)
            and direction in ("", one.direction)
            and connection in (0, one.connection)
        ]

    def _wire(self, service: str) -> Callable[[int, str, dict[str, Any]], None]:
        def write(connection: int, direction: str, event: dict[str, Any]) -> None:
            self.wire.append(Wired(service, connection, direction, event))

        return write

    def _observe(self, driver: Driver) -> Watch:
        watch = self._waiting[driver.plan.carrier_call_id] = Watch(driver)
        return watch

    def _call_ended(self, driver: Driver, reason: EndReason) -> None:
        call_id = driver.plan.carrier_call_id
        self._ended[call_id] = reason
        for call in self.calls:
            if call.leg.call_id == call_id and not call.over.done():
                call.over.set_result(reason)


def _agent_document(config: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The named agent's file; else the only one there is, or the front desk's. Raises ConfigError."""
    known = sorted(file.stem for file in (config / "agents").glob("*.yaml"))
    wanted = name or (known[0] if len(known) == 1 else AGENT)
    try:
        return agent_document(config, wanted)
    except ConfigError as error:
        if wanted in known:
            raise
        remedy = "Write `agent: NAME` in the scenario" + ("" if name else f", which without it calls {AGENT}")
        raise ConfigError([f"{mistake}. {remedy}".replace("?.", "?") for mistake in error.mistakes]) from None


def _brain(local: Any, source: str) -> Brain:
    """What the model knows of the agent; of one whose file says nothing, what it knows of any."""
    return Brain.from_dict(local, source=source) if local else Brain.default()


def _script(script: Script, source: str) -> Script:
    return Scripts.from_dict(script, source=source) if isinstance(script, Mapping) else script


def _key(mistake: str) -> str:
    """The key a mistake begins with: `idle.prompt_after_s`, `tools.0.name`, `local.intents[0]`."""
    return re.split(r"[:=\s]", mistake, maxsplit=1)[0]


def _holds(given: Any, key: str) -> bool:
    """Whether a key is among what was given, or within it."""
    for step in re.split(r"[.\[]", key):
        if not isinstance(given, Mapping):
            return True
        if step not in given:
            return False
        given = given[step]
    return True


def _at_home(model: Any) -> Any:
    """The model on this machine is here already: the stage's own, which keeps its time."""
    if not isinstance(model, Mapping):
        return model  # said later
    here = dict(model)
    if here.get("service") == LOCAL:
        here["service"] = DEFAULT
    if isinstance(here.get("failover"), list):
        here["failover"] = [name for name in here["failover"] if name != LOCAL]
    return here


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        here = merged.get(key)
        merged[key] = _merged(here, value) if isinstance(here, Mapping) and isinstance(value, Mapping) else value
    return merged
