"""All a call must know, resolved and frozen before it begins.

The webhook makes one `CallPlan` from the configuration and nothing reads the configuration again during the call.
Carriers and models differ here, by capabilities, and never by name. No secret is in a plan: keys and addresses stay
with the door (`settings/`) and the model's side (`realtime/`), so that a plan may be written into a journal.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class CarrierCapabilities(msgspec.Struct, frozen=True):
    """What this carrier's media stream can do (dialect table in the carriers' documents)."""

    name: str = "twilio"
    encoding: Literal["mulaw", "alaw", "pcm16"] = "mulaw"
    rate_hz: int = 8000
    frame_ms: int = 20
    marks: bool = True  # returns a mark when the audio before it has been played
    marks_return_on_clear: bool = True  # clear returns the pending ones too, looking the same
    can_clear: bool = True
    max_lead_ms: int = 60_000  # how much it will buffer for us
    resumes_after_drop: bool = False  # asks what comes next when its stream breaks, and can be given another
    ordered_frames: bool = True  # False: caller frames may arrive out of order

    @property
    def bytes_per_ms(self) -> float:
        return self.rate_hz * (2 if self.encoding == "pcm16" else 1) / 1000


class ModelCapabilities(msgspec.Struct, frozen=True):
    """What one model service can do, from its profile."""

    name: str = "openai"
    can_cancel: bool = True
    can_truncate: bool = True
    can_delete: bool = True
    model_interrupts: bool = True  # cancels its own response when its detector hears the caller
    model_answers: bool = True  # begins a response by itself when the caller's turn ends
    needs_silence: bool = True  # its detector counts audio time: fill pauses of the caller's leg
    truncate_margin_ms: int = 90  # it may count this much less than it sent
    max_session_s: float | None = 3600.0
    idle_limit_s: float | None = None  # closes the socket after this long without a frame from us


class ToolSpec(msgspec.Struct, frozen=True):
    name: str
    description: str
    parameters: dict[str, Any]  # JSON Schema
    timeout_s: float = 10.0
    kind: Literal["builtin", "python"] = "python"
    entry: str = ""  # python: package.module:function
    filler: str = ""  # what to play when it takes longer than a moment: a clip's name, or nothing


# How long OpenAI's semantic detection waits at most ("Voice activity detection" guide, eagerness).
_EAGERNESS_MS = {"low": 8000.0, "medium": 4000.0, "auto": 4000.0, "high": 2000.0}


class TurnDetection(msgspec.Struct, frozen=True):
    """Neutral form of the service's voice activity detection; `None` in the session means manual turns."""

    kind: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_ms: int = 500
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"

    @property
    def waits_ms(self) -> float:
        """The longest silence after which the service says that speech has ended."""
        return _EAGERNESS_MS[self.eagerness] if self.kind == "semantic_vad" else float(self.silence_ms)


class SessionPlan(msgspec.Struct, frozen=True):
    """The session as we want it, in no dialect. `realtime/` renders it for the service."""

    instructions: str = ""
    voice: str = ""
    tools: tuple[ToolSpec, ...] = ()
    turn_detection: TurnDetection | None = TurnDetection()
    transcription_model: str = ""  # empty: no transcription of the caller
    language: str = ""
    noise_reduction: Literal["", "near_field", "far_field"] = ""
    speed: float = 1.0
    max_output_tokens: int = 0  # 0: the service's own limit
    temperature: float | None = None  # beta dialects only
    model_encoding: Literal["pcm16", "mulaw", "alaw"] = "pcm16"
    model_rate_hz: int = 24_000


class BargeIn(msgspec.Struct, frozen=True):
    mode: Literal["off", "immediate", "after_ms"] = "immediate"
    after_ms: int = 0  # with mode after_ms: speech shorter than this does not interrupt


class Policies(msgspec.Struct, frozen=True):
    """How this agent behaves on the telephone. All durations have their unit in the name."""

    barge_in: BargeIn = BargeIn()
    greeting_protected: bool = False  # the caller cannot interrupt the first response
    lead_ms: int = 400  # how far ahead of the caller's ear audio is sent
    slice_ms: int = 100  # largest piece sent with one mark
    uplink_frame_ms: int = 20  # caller audio per append event: 20, 40 or 60
    idle_prompt_after_s: float = 10.0  # ask "are you still there?" once after this much silence of both; 0: never
    idle_hang_up_after_s: float = 20.0  # and say goodbye after this much more; 0: never
    max_call_s: float = 3600.0
    warn_before_end_s: float = 30.0  # spoken warning this long before max_call_s; 0: none
    max_tokens: int = 0  # of one call, as the service counts them; 0: no limit
    digits_gap_ms: int = 1500  # keys pressed within this of each other are one message to the model; # ends it at once
    answer_filler_s: float = 1.5  # the caller's turn ended and no answer is heard: play the filler clip
    answer_retry_s: float = 4.0  # still none, and no response has begun: ask again
    answer_rotate_s: float = 8.0  # still none: open another session
    goodbye_wait_s: float = 8.0  # how long a hang-up of ours waits for the goodbye to be heard
    stream_wait_s: float = 60.0  # the webhook was answered and no stream came for this long
    first_media_s: float = 15.0  # a stream that brings no audio for this long is ended
    caller_pause_ms: int = 750  # the caller's leg silent this long in mid-speech: send the model silence
    hold_caller_ms: int = 8000  # caller audio kept for a model that is not ready
    filler_after_s: float = 1.0  # dead air this long while the model is missing: play the filler clip
    model_retry_s: tuple[float, ...] = (0.0, 0.5, 1.5)  # waits before each new attempt
    model_ready_s: float = 5.0  # an attempt that is not ready after this long counts as failed
    tools_per_turn: int = 8
    tools_per_call: int = 50
    interrupt_hang_up: bool = False  # the caller may take the call back during the goodbye
    idle_prompt: str = "Ask briefly whether the caller is still there."
    idle_goodbye: str = "The caller has gone quiet. Say a short goodbye."
    limit_warning: str = "Tell the caller politely that the call has to end in about half a minute."
    limit_goodbye: str = "The call has reached its time limit. Say a short goodbye."


class AgentPlan(msgspec.Struct, frozen=True):
    name: str
    greeting: str = ""  # instructions for the first response; empty: the agent waits for the caller
    policies: Policies = Policies()
    clips: dict[str, bytes] = {}  # filler, apology, ... in the carrier's format
    gain_db: float = 0.0  # a fixed gain on what the caller hears
    fallback: Literal["hang_up", "transfer"] = "hang_up"  # when no model can be had, after the apology
    fallback_target: str = ""
    fallback_message: str = ""  # the clip to play before hanging up; empty: none
    transfer_targets: dict[str, str] = {}  # names the model may use -> numbers or SIP addresses


class CallPlan(msgspec.Struct, frozen=True):
    call_id: str  # ours
    carrier_call_id: str  # Twilio: CallSid
    caller: str  # as the carrier gave it; never parsed
    called: str
    direction: Literal["inbound", "outbound"]
    agent: AgentPlan
    carrier: CarrierCapabilities
    models: tuple[ModelCapabilities, ...]  # in order of preference; the same order as the services' addresses
    session: SessionPlan
    variables: dict[str, str] = {}
