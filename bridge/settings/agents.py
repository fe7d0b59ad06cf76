"""An agent's file: what it says, how it behaves on the telephone, and which model service speaks for it.

One file per agent, `config/agents/<name>.yaml`. It holds no secret and no address of a machine of yours (those are
settings of the service); `plans.py` makes the frozen plan of a call from it. A field's description is its
documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bridge.call.plan import Policies
from bridge.errors import UsageError
from bridge.settings.mistakes import nearest
from bridge.telephony.twiml import dial

JSON_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
BUILTIN_TOOLS = ("hang_up", "transfer")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_defaults = Policies()


def _off_is_a_word(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


def _barge_in(value: Any) -> Any:
    """`off`, `immediate`, `after_ms: 300` (as a mapping, or written in one string)."""
    if isinstance(value, str):
        found = re.fullmatch(r"after_ms\s*[:=]?\s*([0-9]+)", value.strip())
        return {"after_ms": int(found.group(1))} if found else value.strip()
    return _off_is_a_word(value)


def _target(value: str) -> str:
    try:
        dial(value)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return value


TransferTarget = Annotated[str, AfterValidator(_target)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class AfterMs(Part):
    after_ms: int = Field(ge=1, le=5000, description="Speech shorter than this does not interrupt.")


class ModelChoice(Part):
    """Which model service speaks, and which take over when it cannot."""

    service: str = Field(
        default="default",
        description="`default` (BRIDGE_REALTIME__...), a name under `services`, or `local` for this machine's.",
    )
    model: str = Field(default="", description="The model's name at that service; empty: the service's own.")
    failover: tuple[str, ...] = Field(
        default=(), description="Services to try, in this order, when the first cannot be had."
    )


class TurnDetectionChoice(Part):
    """When the caller's turn begins and ends, as the model service judges it."""

    kind: Literal["server_vad", "semantic_vad"] = Field(
        default="server_vad", description="By loudness, or by what is being said."
    )
    threshold: float = Field(default=0.5, ge=0, le=1, description="server_vad: how loud speech must be.")
    prefix_padding_ms: int = Field(
        default=300, ge=0, le=5000, description="server_vad: audio kept from before the speech."
    )
    silence_ms: int = Field(default=500, ge=50, le=10_000, description="server_vad: silence that ends a turn.")
    eagerness: Literal["low", "medium", "high", "auto"] = Field(
        default="auto", description="semantic_vad: how soon a turn counts as over."
    )


class Idle(Part):
    """What happens when nobody says anything."""

    prompt_after_s: float = Field(
        default=_defaults.idle_prompt_after_s,
        ge=0,
        le=3600,
        description="Silence after which the agent asks once whether the caller is there; 0: never.",
    )
    hang_up_after_s: float = Field(
        default=_defaults.idle_hang_up_after_s,
        ge=0,
        le=3600,
        description="Silence, since it asked where it does, after which it says goodbye and hangs up; 0: never.",
    )
    prompt: str = Field(default=_defaults.idle_prompt, description="Instructions for the question.")
    goodbye: str = Field(default=_defaults.idle_goodbye, description="Instructions for the goodbye.")

    @model_validator(mode="before")
    @classmethod
    def _who_is_not_asked_is_let_go_only_where_it_says_so(cls, written: Any) -> Any:
        if isinstance(written, Mapping) and written.get("prompt_after_s") == 0 and "hang_up_after_s" not in written:
            return {**written, "hang_up_after_s": 0}
        return written


class Duration(Part):
    """How long a call may last."""

    max_s: float = Field(
        default=_defaults.max_call_s,
        ge=10,
        le=14_400,
        description="The longest call. Twilio itself ends one after four hours.",
    )
    warn_before_s: float = Field(
        default=_defaults.warn_before_end_s, ge=0, le=600, description="A spoken warning this long before; 0: none."
    )
    warning: str = Field(default=_defaults.limit_warning, description="Instructions for the warning.")
    goodbye: str = Field(default=_defaults.limit_goodbye, description="Instructions for the goodbye at the limit.")

    @model_validator(mode="after")
    def _warning_comes_before_the_end(self) -> Duration:
        if self.warn_before_s >= self.max_s:
            raise ValueError("warn_before_s must be smaller than max_s")
        return self


class Timing(Part):
    """Fine adjustment; the defaults are good."""

    slice_ms: int = Field(
        default=_defaults.slice_ms,
        ge=20,
        le=100,
        description="Largest piece of audio sent to the carrier with one mark.",
    )
    goodbye_wait_s: float = Field(
        default=_defaults.goodbye_wait_s,
        ge=0,
        le=30,
        description="How long a hang-up waits for the goodbye to be heard.",
    )
    stream_wait_s: float = Field(
        default=_defaults.stream_wait_s, gt=0, le=600, description="How long a call waits for its media stream."
    )
    first_media_s: float = Field(
        default=_defaults.first_media_s, gt=0, le=120, description="A stream without audio for this long is ended."
    )
    caller_pause_ms: int = Field(
        default=_defaults.caller_pause_ms,
        ge=100,
        le=10_000,
        description="When the caller's line falls silent this long in mid-speech, the model gets silence.",
    )
    hold_caller_ms: int = Field(
        default=_defaults.hold_caller_ms,
        ge=0,
        le=30_000,
        description="Caller audio kept for a model that is not ready.",
    )
    digits_gap_ms: int = Field(
        default=_defaults.digits_gap_ms,
        ge=0,
        le=10_000,
        description="Keys pressed within this of each other are told to the model together.",
    )
    filler_after_s: float = Field(
        default=_defaults.filler_after_s,
        ge=0,
        le=10,
        description="Silence after which the filler clip plays while the model is missing.",
    )
    answer_filler_s: float = Field(
        default=_defaults.answer_filler_s,
        ge=0,
        le=30,
        description="The caller waits this long for an answer: the filler clip plays.",
    )
    answer_retry_s: float = Field(
        default=_defaults.answer_retry_s,
        ge=0,
        le=60,
        description="And this long, and no response has begun: the model is asked again.",
    )
    answer_rotate_s: float = Field(
        default=_defaults.answer_rotate_s, ge=0, le=60, description="And this long: another session is opened."
    )
    model_ready_s: float = Field(
        default=_defaults.model_ready_s,
        gt=0,
        le=120,
        description="A model session not ready after this long has failed.",
    )
    model_retry_s: tuple[Annotated[float, Field(ge=0, le=60)], ...] = Field(
        default=_defaults.model_retry_s,
        min_length=1,
        description="Waits before each new attempt to open a model session.",
    )


class Tool(Part):
    """A tool of yours: a coroutine function `(arguments, call)`."""

    name: str = Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$", description="What the model calls it.")
    description: str = Field(min_length=1, description="What it does and when to use it, for the model.")
    parameters: dict[str, Any] = Field(
        default={"type": "object", "properties": {}},
        description="JSON Schema of its arguments; the type must be object.",
    )
    python: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="The function, as package.module:function."
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="After this long the model is told that it took too long."
    )
    filler: str = Field(default="", description="The clip to play when it takes longer than a moment.")

    @model_validator(mode="after")
    def _can_be_offered(self) -> Tool:
        if self.name in BUILTIN_TOOLS:
            raise ValueError(f"{self.name} is the name of a tool that is built in")
        if self.parameters.get("type") != "object":
            raise ValueError("`parameters` must be a JSON Schema of type object")
        mistakes = [*_not_text(self.parameters), *_not_offerable(self.parameters, "`parameters`")]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


def _not_text(value: Any) -> Iterator[str]:
    """Names that are none in JSON, however deep: YAML reads a bare on, off, yes or no as a truth value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(name, bool) or not isinstance(name, str | int):
                yield f"`parameters` has a name that YAML reads as {name!r}; write it in quotes"
            yield from _not_text(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_text(inner)


def _not_offerable(schema: Any, where: str) -> Iterator[str]:
    """What a model service would refuse or misread, of what a tool's arguments are checked by."""
    if not isinstance(schema, dict):
        yield f"{where} must be a schema, such as {{type: string}}, not {schema!r}"
        return
    properties, required, enum = schema.get("properties", {}), schema.get("required", []), schema.get("enum", [])
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in JSON_TYPES:
            near = nearest(str(kind), JSON_TYPES) or f"; there are {', '.join(map(repr, JSON_TYPES))}"
            yield f"{where}: there is no type {kind!r}{near}"
    if isinstance(properties, dict):
        for name, inner in properties.items():
            yield from _not_offerable(inner, f"{where}.{name}")
    else:
        yield f"{where}: `properties` must be names with their schemas, not {properties!r}"
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{where}: `required` must be a list of names, not {required!r}"
    elif isinstance(properties, dict) and not (schema.get("additionalProperties") or "patternProperties" in schema):
        known = list(map(str, properties))
        for name in required:
            if name not in known:
                yield f"{where}: `required` names {name!r}, which is none of `properties`{nearest(name, known)}"
    if not isinstance(enum, list):
        yield f"{where}: `enum` must be a list, not {enum!r}"
    elif schema.get("type") == "string" and not all(value is None or isinstance(value, str) for value in enum):
        yield f"{where}: `enum` must hold text only, not {enum!r}; write each in quotes"
    if isinstance(schema.get("items"), dict):
        yield from _not_offerable(schema["items"], f"{where}[]")


class FallbackTransfer(Part):
    transfer: str = Field(description="The transfer target (a name) callers are sent to.")


class FallbackMessage(Part):
    message: str = Field(description="The clip that is played before the call ends: when to call again, say.")


class AgentFile(Part):
    """One agent."""

    instructions: str = Field(min_length=1, description="Who the agent is and what it does: the model's instructions.")
    greeting: str = Field(
        default="Greet the caller and ask how you can help.",
        description="Instructions for the first thing it says; empty: it waits for the caller.",
    )
    language: str = Field(
        default="",
        pattern=r"^([a-zA-Z]{2,3}(-[A-Za-z0-9]{2,8})*)?$",
        description="The caller's language, such as en; empty: any.",
    )
    voice: str = Field(
        default="", description="The model service's voice; empty, or one it says it does not have: its own."
    )
    speed: float = Field(default=1.0, ge=0.25, le=1.5, description="How fast it speaks.")
    model: ModelChoice = Field(
        default=ModelChoice(), description="Which model service speaks, and which take over when it cannot."
    )
    max_output_tokens: int = Field(
        default=0, ge=0, le=4096, description="Longest answer in tokens, 4096 at most; 0: the service's own limit."
    )
    max_tokens: int = Field(
        default=0,
        ge=0,
        description="Tokens one call may use, as the service counts them; then it says goodbye. 0: no limit.",
    )
    temperature: float | None = Field(default=None, ge=0, le=2, description="For services of the older dialect only.")
    audio: Literal["pcm16", "pcmu"] = Field(
        default="pcm16",
        description="What is sent to the model: resampled 16-bit sound, or the telephone's own mu-law passed through.",
    )
    gain_db: float = Field(
        default=0.0, ge=-20, le=20, description="Makes the agent louder or softer in the caller's ear."
    )
    noise_reduction: Annotated[Literal["off", "near_field", "far_field"], BeforeValidator(_off_is_a_word)] = Field(
        default="off", description="The service's noise reduction, for handsets (near) or loudspeakers (far)."
    )
    transcription: Annotated[str, BeforeValidator(_off_is_a_word)] = Field(
        default="off", description="The model that writes down what callers say; `off`: nothing is written down."
    )
    turn_detection: TurnDetectionChoice = Field(
        default=TurnDetectionChoice(), description="When the caller's turn begins and ends."
    )
    barge_in: Annotated[Literal["off", "immediate"] | AfterMs, BeforeValidator(_barge_in)] = Field(
        default="immediate", description="May the caller interrupt: `off`, `immediate`, or `after_ms: N` of speech."
    )
    greeting_protected: bool = Field(
        default=False, description="The caller cannot interrupt the first thing the agent says."
    )
    interrupt_goodbye: bool = Field(
        default=False, description="A caller who speaks or presses a key during the goodbye takes the call back."
    )
    lead_ms: int = Field(
        default=_defaults.lead_ms, ge=100, le=5000, description="How far ahead of the caller's ear audio is sent."
    )
    uplink_frame_ms: Literal[20, 40, 60] = Field(
        default=20, description="Caller audio per message to the model: 20, 40 or 60 ms."
    )
    idle: Idle = Field(default=Idle(), description="What happens when nobody says anything.")
    duration: Duration = Field(default=Duration(), description="How long a call may last.")
    tools: tuple[str | Tool, ...] = Field(
        default=(), description="What it can do: `hang_up`, `transfer`, and tools of yours."
    )
    tools_per_turn: int = Field(
        default=_defaults.tools_per_turn, ge=0, le=100, description="Most tool calls between two words of the caller."
    )
    tools_per_call: int = Field(
        default=_defaults.tools_per_call, ge=0, le=1000, description="Most tool calls in one call."
    )
    transfer_targets: dict[str, TransferTarget] = Field(
        default={},
        description="Whom it may transfer to: name -> number or sip: address. The model sees the names only.",
    )
    fallback: Literal["hang_up"] | FallbackTransfer | FallbackMessage = Field(
        default="hang_up",
        description="After the apology when no model can be had: `hang_up`, `transfer: NAME`, or `message: CLIP`.",
    )
    clips: dict[str, str] = Field(
        default={},
        description="Sound files, WAV, relative to the agent's file: `filler`, `apology`, `again` (say that again), "
        "and fillers of tools.",
    )
    timing: Timing = Field(default=Timing(), description="Fine adjustment.")
    local: dict[str, Any] = Field(
        default={}, description="What the model on this machine understands and answers, for trying without a key."
    )

    @model_validator(mode="after")
    def _names_agree(self) -> AgentFile:
        problems = list(self._disagreements())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _disagreements(self) -> Iterator[str]:
        named = [tool if isinstance(tool, str) else tool.name for tool in self.tools]
        for name in dict.fromkeys(named):
            if named.count(name) > 1:
                yield f"tool {name} is listed twice"
        for tool in self.tools:
            if isinstance(tool, str) and tool not in BUILTIN_TOOLS:
                yield f"tool {tool!r} is not built in (those are {', '.join(BUILTIN_TOOLS)}); describe it with a name"
            if isinstance(tool, Tool) and tool.filler and tool.filler not in self.clips:
                yield f"tool {tool.name}: filler {tool.filler!r} is not one of `clips`"
        if "transfer" in named and not self.transfer_targets:
            yield "the transfer tool needs `transfer_targets`"
        if isinstance(self.fallback, FallbackTransfer) and self.fallback.transfer not in self.transfer_targets:
            yield f"fallback: {self.fallback.transfer!r} is not one of `transfer_targets`"
        if isinstance(self.fallback, FallbackMessage) and self.fallback.message not in self.clips:
            yield f"fallback: {self.fallback.message!r} is not one of `clips`"
        played = {"filler", "apology", "again", *(tool.filler for tool in self.tools if isinstance(tool, Tool))}
        if isinstance(self.fallback, FallbackMessage):
            played.add(self.fallback.message)
        for name in self.clips:
            meant = "" if name in played else nearest(name, ("filler", "apology", "again"))
            if meant:
                yield f"clips: nothing plays {name!r}{meant}"
