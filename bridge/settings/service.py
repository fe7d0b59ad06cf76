"""What the service as a whole must know: where it listens, who the carrier is, which model services it may use, its
limits.

These are the settings of `config/bridge.yaml`, of the environment (prefix `BRIDGE_`, nesting `__`) and of the secrets
folder. How an agent behaves is not here but in `config/agents/`. Every field has a description: it is the text of the
documentation and of error messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.realtime.profiles import Profile, fits_a_header, is_loopback
from bridge.settings.agents import AgentFile

ENV_PREFIX = "BRIDGE_"


def _address(value: str) -> str:
    """An http(s) address of ours or the carrier's, without its last slash."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not an address: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not value.isprintable() or " " in value:
        raise ValueError("is not an address like https://bridge.example.com")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("must not hold a user name, a password, a query or a fragment")
    return parts.geturl().rstrip("/")


def _before_our_paths(value: str) -> str:
    """An address as `_address` gives it."""
    own = re.search(r"/twilio(/[\w-]+)?$", value)
    if own:
        raise ValueError(f"must end before {own.group()}, which is ours to add")
    return value


def _key(value: SecretStr) -> SecretStr:
    if not fits_a_header(value.get_secret_value()):
        raise ValueError("has a line break, a space around it or other than ASCII characters; see what came with it")
    return value


def _beside_the_default(value: dict[str, ModelService]) -> dict[str, ModelService]:
    if "default" in value:
        raise ValueError("`default` is the service under `realtime` (BRIDGE_REALTIME__...); write it there")
    return value


def _listed(value: Any) -> Any:
    """The environment has no lists: commas separate."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Address = Annotated[str, AfterValidator(_address)]
Key = Annotated[SecretStr, AfterValidator(_key)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Twilio(Section):
    """The carrier's account."""

    account_sid: str = Field(
        default="", pattern=r"^(AC[0-9a-zA-Z]*)?$", description="The account's SID (AC...); needed for REST requests."
    )
    auth_token: Key = Field(
        default=SecretStr(""),
        description="The account's auth token: signs every webhook, and REST requests where no API key is given.",
    )
    other_secrets: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(),
        description="More secrets webhooks may be signed with: a rotation's old token, shared keys. Commas separate.",
    )
    api_key_sid: str = Field(
        default="",
        pattern=r"^(SK[0-9a-zA-Z]*)?$",
        description="An API key's SID (SK...), used for REST in place of the token.",
    )
    api_key_secret: Key = Field(default=SecretStr(""), description="The API key's secret.")
    api_url: Address = Field(
        default="https://api.twilio.com",
        description="The REST interface; other regions have api.<edge>.<region>.twilio.com.",
    )
    validate_signatures: bool = Field(
        default=True,
        description="Refuse webhooks without a right X-Twilio-Signature. `false` lets anybody make calls at your cost.",
    )
    transfer_caller_id: str = Field(
        default="",
        pattern=r"^(\+[1-9][0-9]{4,14}|[A-Za-z][\w.:@+-]*)?$",
        description="The number shown when a caller is transferred (+15551234567); empty: the caller's own.",
    )
    busy_message: str = Field(
        default="All our lines are busy. Please call again in a few minutes.",
        description="What a caller hears when the service is full or shutting down.",
    )
    busy_language: str = Field(default="en-US", description="The language of that message.")
    busy_redirect: Address = Field(
        default="",
        description="Where such a call is sent instead of hearing the message: an address that answers TwiML.",
    )

    @model_validator(mode="after")
    def _an_api_key_is_whole(self) -> Twilio:
        if bool(self.api_key_sid) != bool(self.api_key_secret.get_secret_value()):
            raise ValueError("api_key_sid and api_key_secret go together; give both or none")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets a webhook may be signed with."""
        given = (self.auth_token, *self.other_secrets)
        return tuple(secret.get_secret_value() for secret in given if secret.get_secret_value())


class ModelService(Section):
    """A model service: a profile with an address, a key and a model."""

    profile: str = Field(
        default="",
        description="What kind of service it is (config/profiles.yaml); empty: openai with a key or URL, else local.",
    )
    url: str = Field(default="", description="Its address, wss://...; empty: the profile's own.")
    api_key: Key = Field(default=SecretStr(""), description="The key it asks for.")
    model: str = Field(default="", description="The model; empty: the profile's own. An agent may name another.")


class Limits(Section):
    """What the service takes on, and how long it waits for others."""

    max_calls: int = Field(
        default=100, ge=1, le=10_000, description="Calls at the same time; one more hears the busy message."
    )
    pre_start: int = Field(
        default=200, ge=1, description="Unsigned media sockets that have not said who they are yet, in all."
    )
    pre_start_per_ip: int = Field(
        default=100, ge=1, description="The same from one address; behind a proxy, all have the proxy's."
    )
    start_s: float = Field(default=5.0, gt=0, le=60, description="Seconds a media socket has to say who it is.")
    token_s: float = Field(
        default=60.0, gt=0, le=600, description="Seconds the token in a webhook's answer stays good."
    )
    header_s: float = Field(
        default=10.0, gt=0, le=60, description="Seconds a client has to send the head of its request."
    )
    body_s: float = Field(default=5.0, gt=0, le=60, description="Seconds a client has to send the body of its request.")
    body_bytes: int = Field(default=65_536, ge=1024, le=1_048_576, description="Largest body of a request.")
    waiting_connections: int = Field(
        default=1024, ge=16, description="Connections that have not finished the head of a request, in all."
    )
    drain_s: float = Field(default=30.0, ge=0, le=14_400, description="Seconds running calls get to end after SIGTERM.")


class Log(Section):
    """What is written about calls while they run."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important entries to write."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="JSON lines or colours; auto: colours on a terminal."
    )
    mask_numbers: bool = Field(default=True, description="Write telephone numbers as +15***00.")


class LocalModel(Section):
    """The realtime model that runs on this machine, for trying everything without a key."""

    port: int = Field(default=0, ge=0, le=65_535, description="Its port on the loopback interface; 0: any free one.")


class Settings(BaseSettings):
    """Everything from the environment and `bridge.yaml`, with the agents, numbers and profiles found beside it.

    Made by `bridge.settings.load`, which merges the sources itself so that a mistake can be named with the place it
    came from.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The interface to listen on; 0.0.0.0 for all of them."
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="The port to listen on; 0: any free one.")
    workers: int = Field(default=1, ge=1, le=64, description="Worker processes, each with its own event loop.")
    public_url: Annotated[Address, AfterValidator(_before_our_paths)] = Field(
        default="",
        description="Where the carrier reaches this service, https://...; signatures cover it. Empty: this machine.",
    )
    config: Path = Field(
        default=Path("config"), description="The folder of bridge.yaml, numbers.yaml, profiles.yaml and agents/."
    )
    secrets: Path | None = Field(
        default=None,
        description="A folder with one file per secret, named like the variable, for example twilio__auth_token.",
    )
    default_agent: str = Field(
        default="front-desk", description="The agent that answers numbers which numbers.yaml does not list."
    )
    allow_plain: bool = Field(
        default=False,
        description="Allow http:// and ws:// to other machines: keys and voices then travel unencrypted.",
    )
    metrics_access: Literal["loopback", "anyone"] = Field(
        default="loopback", description="Who may read /metrics: this machine, or everybody who can reach the port."
    )
    twilio: Twilio = Field(default=Twilio(), description="The carrier's account.")
    realtime: ModelService = Field(
        default=ModelService(), description="The model service agents use, under the name `default`."
    )
    services: Annotated[dict[str, ModelService], AfterValidator(_beside_the_default)] = Field(
        default={}, description="Further model services, by names of yours, for agents to choose and fail over to."
    )
    limits: Limits = Field(default=Limits(), description="What the service takes on.")
    log: Log = Field(default=Log(), description="What is written about calls.")
    local_model: LocalModel = Field(default=LocalModel(), description="The model on this machine.")

    _agents: Mapping[str, AgentFile] = PrivateAttr(default_factory=dict)
    _numbers: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _profiles: Mapping[str, Profile] = PrivateAttr(default_factory=dict)
    _plain_secrets: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *rest: Any, **more: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def agents(self) -> Mapping[str, AgentFile]:
        """By name: the file's, without `.yaml`."""
        return self._agents

    @property
    def numbers(self) -> Mapping[str, str]:
        """Number or pattern -> agent."""
        return self._numbers

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return self._profiles

    @property
    def plain_secrets(self) -> tuple[str, ...]:
        """Keys of secrets that stand in bridge.yaml."""
        return self._plain_secrets

    @property
    def base_url(self) -> str:
        """Where the carrier finds us: the public address, or this machine."""
        return self.public_url or self.own_url(self.port)

    def own_url(self, port: int) -> str:
        """Where this machine finds us, listening on that port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def is_public(self) -> bool:
        return bool(self.public_url) and not is_loopback(urlsplit(self.public_url).hostname or "")

    def all_secrets(self) -> tuple[str, ...]:
        """Every secret value there is, for the log's redaction and for finding one where it should not be."""
        keys = [self.realtime.api_key, self.twilio.api_key_secret, *(s.api_key for s in self.services.values())]
        values = [*self.twilio.secrets, *(key.get_secret_value() for key in keys)]
        return tuple(dict.fromkeys(value for value in values if value))
