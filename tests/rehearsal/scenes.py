"""What the scenario tests of this folder have in common: virtual time, a caller who asks, and what must always hold."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.errors import EndReason
from bridge.localmodel.speech import PackagedVoice
from bridge.rehearsal.listening import Waiting, dead_air_ms, waits
from bridge.rehearsal.stage import DEFAULT, Script, Stage
from bridge.settings.plans import packaged_clips
from bridge.sim import virtual, voices
from bridge.sim.leg import Leg

from .witness import Witness

DEAD_AIR_MS = 3000.0
FILLER_MS = 1000.0
HOURS = "We are open from nine in the morning until five in the afternoon, Monday to Friday."
SATURDAY = "On Saturday we are open until noon, and on Sunday we are closed."
QUIET: dict[str, Any] = {
    "idle": {"prompt_after_s": 0, "hang_up_after_s": 0}
}  # nobody asks whether the caller is still there


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        virtual.run(test(*args, **kwargs))

    return run


class Scene(Stage):
    """A stage whose model knows the caller's lines by heart, and speaks with the packaged voice."""

    def __init__(
        self,
        script: Script = None,
        *,
        agent: Mapping[str, Any] | None = None,
        services: Mapping[str, Script] | None = None,
        profile: str = "local",
    ) -> None:
        self.witness = Witness()
        super().__init__(
            agent={**QUIET, **(agent or {})},
            script=script,
            services=services,
            profile=profile,
            recogniser=self.witness,
            voice=PackagedVoice(),
        )


@dataclass(slots=True)
class Story:
    """One call as it was lived."""

    scene: Scene
    leg: Leg

    @classmethod
    async def begin(cls, scene: Scene) -> Story:
        leg = await scene.call()
        await leg.streaming()
        return cls(scene, leg)

    @classmethod
    async def greeted(cls, scene: Scene) -> Story:
        """The agent has said its greeting and it is quiet."""
        story = await cls.begin(scene)
        await story.leg.wait_until_agent_speaks()
        await story.leg.wait_until_quiet(700)
        return story

    async def ask(self, clip: str = "opening-hours") -> None:
        """The caller says something; returns when they have said it."""
        self.leg.say(voices.clip(clip), label=clip)
        await self.leg.wait_for(lambda: self.leg.line.silent)

    async def answered(self, quiet_ms: float = 3500.0) -> Waiting:
        """The caller listens until nothing has come for so long; what they heard since they spoke last."""
        await self.leg.wait_until_agent_speaks()
        await self.leg.wait_until_quiet(quiet_ms)
        return waits(self.leg)[-1]

    async def say_goodbye(self) -> EndReason:
        """The call goes on to its end as if nothing had been."""
        await self.ask("goodbye")
        return await self.scene.reason(self.leg)

    async def pass_s(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # ------------------------------------------------------------ what was

    @property
    def facts(self) -> list[ev.Event]:
        return [step.event for step in self.scene.watch(self.leg).steps]

    @property
    def requests(self) -> list[do.Action]:
        return [action for step in self.scene.watch(self.leg).steps for action in step.actions]

    @property
    def notes(self) -> list[str]:
        return [action.what for action in self.requests if isinstance(action, do.Note)]

    @property
    def sessions(self) -> list[tuple[int, int]]:
        """Every session asked for: its number, and its service's."""
        return [(one.session, one.service) for one in self.requests if isinstance(one, do.OpenModel)]

    def transcript(self) -> list[tuple[str, str]]:
        entries = self.scene.watch(self.leg).driver.call.state.transcript.entries
        return [(entry.role, entry.heard_text) for entry in entries]

    def seeded(self, connection: int, service: str = DEFAULT) -> list[tuple[str, str, str]]:
        """The items a session was told of after its opening: role or type, content type, text."""
        told = self.scene.events("conversation.item.create", connection=connection, service=service)
        return [_described(event["item"]) for event in told]

    def heard_clip(self, name: str) -> int:
        """How often a clip of ours was heard."""
        return self.leg.heard_track().count(_middle_of(name))

    def begins(self, name: str) -> float:
        """Ms from the first frame to the first time the clip was heard."""
        at = self.leg.heard_track().index(_middle_of(name)) - 800
        return (at - self.leg.streams[0].started_at) / 8

    def errors(self) -> list[str]:
        """Error envelopes the models sent, their scripted ones included."""
        return [
            str(one.event.get("error")) for one in self.scene.wire if one.direction == "server" and one.type == "error"
        ]

    # ------------------------------------------------------------ what must always hold

    async def holds(self, *, dead_air_ms_most: float = DEAD_AIR_MS) -> None:
        """After the end: nobody waited in silence, nothing is left, the carrier had nothing to complain of."""
        silent = dead_air_ms(self.leg)
        assert silent <= dead_air_ms_most, f"{silent:.0f} ms of silence while something was owed: {waits(self.leg)}"
        await asyncio.sleep(3.0)
        assert self.scene.service.switchboard.active_calls == 0
        assert all(model.sessions == 0 for model in self.scene.models.values()), "a session outlived its call"
        assert not [task for task in asyncio.all_tasks() if "session" in task.get_name()]
        problems = [one for one in (*self.leg.warnings, *self.leg.errors) if one.code != 31921]  # our close is one, too
        assert not problems, problems
        facts = self.facts
        assert sum(isinstance(request, do.EndCall) for request in self.requests) == 1
        assert not any(isinstance(fact, ev.CarrierMisbehaved | ev.PhoneStalled) for fact in facts)
        self.restored_items_were_left_alone()

    def restored_items_were_left_alone(self) -> None:
        """What a session was told of is never truncated or deleted there."""
        for service, model in self.scene.models.items():
            for connection in range(1, model.connections + 1):
                events = self.scene.events(connection=connection, service=service)
                made = {
                    item["id"]
                    for event in events
                    if event.get("type") == "response.output_item.added" and (item := event["item"])
                }
                for event in events:
                    if event.get("type") in ("conversation.item.truncate", "conversation.item.delete"):
                        assert event["item_id"] in made, "an item of another session was cut"


def words_heard(story: Story) -> str:
    """The agent's, as far as they were heard."""
    return " ".join(text for role, text in story.transcript() if role == "agent")


def _middle_of(clip: str) -> bytes:
    return packaged_clips()[clip][800:4800]


def _described(item: dict[str, Any]) -> tuple[str, str, str]:
    if item["type"] == "function_call":
        return "function_call", item["name"], item["call_id"]
    if item["type"] == "function_call_output":
        return "function_call_output", item["output"], item["call_id"]
    (part,) = item["content"]
    return item["role"], part["type"], part["text"]
