"""Model services as data, and how one of them is reached.

A `Profile` says everything about a service that is not code: its API shape, address, way of proving who we are, limits,
capabilities, and what its error codes mean for us. The packaged profiles.yaml is the source of truth; an operator's
file in the same words is laid over it. A `Target` is a profile with an address, a key and a model; its key never
appears in any text about it.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from bridge.call.plan import ModelCapabilities
from bridge.errors import ConfigError, UsageError
from bridge.reading import choices, nearest, parse
from bridge.realtime.dialect import Cure, Dialect
from bridge.realtime.openai import GaDialect
from bridge.realtime.openai_beta import BetaDialect
from bridge.realtime.xai import HybridDialect

Encoding = Literal["pcm16", "mulaw", "alaw"]
_MERGED = ("errors", "query", "headers")  # tables: a profile `like` another adds to them


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One model service. The fields are explained at the top of profiles.yaml."""

    name: str
    title: str = ""
    shape: Literal["ga", "beta", "hybrid"] = "ga"
    url: str = ""
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    subprotocols: tuple[str, ...] = ()
    auth: Literal["bearer", "header", "query", "subprotocol", "none"] = "bearer"
    auth_name: str = ""
    needs_key: bool = False
    model_in: Literal["query", "session", "none"] = "query"
    model_query: str = "model"
    model: str = ""  # when nobody names another
    encodings: tuple[Encoding, ...] = ("pcm16",)
    input_rates_hz: tuple[Literal[8000, 16000, 24000], ...] = (24000,)
    output_rates_hz: tuple[Literal[8000, 16000, 24000], ...] = (24000,)
    binary_audio: bool = False  # caller audio goes as binary frames instead of base64 in append events
    confirms_update: bool = True
    names_conversations: bool = False
    can_cancel: bool = True
    can_truncate: bool = True
    can_delete: bool = True
    model_interrupts: bool = True
    model_answers: bool = True
    needs_silence: bool = True
    truncate_margin_ms: int = 90
    max_session_s: float | None = None
    idle_limit_s: float | None = None
    keepalive_s: float | None = None
    errors: dict[str, Cure] = {}

    def capabilities(self) -> ModelCapabilities:
        """What the core needs to know of this service, for the call's plan."""
        return ModelCapabilities(
            name=self.name,
            can_cancel=self.can_cancel,
            can_truncate=self.can_truncate,
            can_delete=self.can_delete,
            model_interrupts=self.model_interrupts,
            model_answers=self.model_answers,
            needs_silence=self.needs_silence,
            truncate_margin_ms=self.truncate_margin_ms,
            max_session_s=self.max_session_s,
            idle_limit_s=self.idle_limit_s,
        )

    def dialect(self) -> Dialect:
        """The translation this service speaks. Stateless; `dialect().decoder()` gives the state of one session."""
        match self.shape:
            case "ga":
                return GaDialect(self)
            case "beta":
                return BetaDialect(self)
            case "hybrid":
                return HybridDialect(self)


_FIELDS = {f.name: f for f in msgspec.structs.fields(Profile)}


@functools.cache
def builtin() -> dict[str, Profile]:
    """The services this package knows."""
    text = resources.files("bridge.realtime").joinpath("profiles.yaml").read_text("utf-8")
    return _read(text, source="bridge/realtime/profiles.yaml", base={})


def load_profiles(text: str, *, source: str) -> dict[str, Profile]:
    """All services after laying an operator's file over the packaged one.

    A known name changes fields of that profile; a new one starts from `like`, or from nothing. Raises ConfigError with
    every mistake: the file (`source`), the key, what was found and what to do.
    """
    return _read(text, source=source, base=builtin())


def _read(text: str, *, source: str, base: Mapping[str, Profile]) -> dict[str, Profile]:
    try:
        written, mistakes = parse(text, source)
    except ValueError as mistake:
        raise ConfigError([str(mistake)]) from None
    if written is None:
        return dict(base)
    if not isinstance(written, dict):
        raise ConfigError([f"{source}: found {type(written).__name__}; write profile names with their fields below"])

    profiles = dict(base)
    for name, fields in written.items():
        where = f"{source}: {name}"
        if not isinstance(name, str) or not isinstance(fields, dict):
            mistakes.append(f"{where}: found {fields!r}; write fields below the profile's name")
            continue
        parent = fields.pop("like", name if name in base else None)
        if parent is not None and parent not in profiles:
            mistakes.append(f"{where}.like: {parent!r} is not a profile above it; known: {', '.join(profiles)}")
            continue
        start = msgspec.structs.asdict(profiles[parent]) if parent is not None else {}
        made = _profile(name, {**start, "name": name}, fields, where=where, mistakes=mistakes)
        if made is not None:
            profiles[name] = made
    if mistakes:
        raise ConfigError(mistakes)
    return profiles


def _profile(
    name: str, start: dict[str, Any], fields: dict[Any, Any], *, where: str, mistakes: list[str]
) -> Profile | None:
    values = start
    before = len(mistakes)
    for key, given in fields.items():
        known = _FIELDS.get(key) if key != "name" else None
        if known is None:
            mistakes.append(f"{where}.{key}: no such field{nearest(str(key), _FIELDS.keys() - {'name'})}")
            continue
        value = given
        if key in _MERGED and given is None:
            value = {}
        elif key in _MERGED and isinstance(given, dict):
            value = {**values.get(key, {}), **given}
        try:
            values[key] = msgspec.convert(value, known.type)
        except msgspec.ValidationError as error:
            words = choices(known.type)
            mistakes.append(f"{where}.{key}: found {given!r}: {f'write {words}' if words else error}")
    if len(mistakes) > before:
        return None
    profile = Profile(**values)
    if not profile.url:
        mistakes.append(f"{where}.url: missing; write where the service listens, wss://...")
    elif not profile.url.startswith(("ws://", "wss://")):
        mistakes.append(f"{where}.url: found {profile.url!r}; it must begin with wss:// (ws:// on this machine)")
    else:
        try:
            split_address(profile.url)
        except UsageError as error:
            mistakes.append(f"{where}.url: {error}")
    if profile.auth == "header" and not profile.auth_name:
        mistakes.append(f"{where}.auth_name: missing; auth: header needs the header's name")
    return profile if len(mistakes) == before else None


@dataclass(frozen=True, slots=True)
class Target:
    """A service with the address, key and model to use. Its `repr` shows neither the key nor the address's query.

    Empty `url` and `model` mean the profile's own. `http(s)://` is read as `ws(s)://`; an address without a path gets
    the profile's path. Raises UsageError for an address that cannot be used: not a WebSocket, a `{resource}` nobody
    filled in, a password in it, or plain `ws://` to another machine without `allow_plain`.
    """

    profile: Profile
    url: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    model: str = ""
    allow_plain: bool = False

    def __post_init__(self) -> None:
        model = self.model or self.profile.model
        object.__setattr__(self, "model", model)
        # So that `target.profile.dialect()` renders this model where the service wants it in the session.
        object.__setattr__(self, "profile", msgspec.structs.replace(self.profile, model=model))
        object.__setattr__(self, "url", _address(self.url, self.profile, allow_plain=self.allow_plain))

    @property
    def where(self) -> str:
        """The address without its query: safe to show."""
        return urlunsplit(urlsplit(self.url)._replace(query=""))

    def __repr__(self) -> str:
        return f"Target(profile={self.profile.name!r}, where={self.where!r}, model={self.model!r})"

    @property
    def lacks_key(self) -> bool:
        """Whether the service will refuse for want of a key. One on this machine is its owner's own affair, and a key
        may stand in the address.
        """
        parts = urlsplit(self.url)
        if self.api_key or not self.profile.needs_key or is_loopback(parts.hostname or ""):
            return False
        names = {name.lower().replace("-", "_") for name, _ in parse_qsl(parts.query)}
        return not names & {"api_key", self.profile.auth_name.lower().replace("-", "_")}

    @property
    def is_relay(self) -> bool:
        """Whether the address is not the profile's own host: who stands there may hold the key."""
        own = urlsplit(self.profile.url).hostname or ""
        host = urlsplit(self.url).hostname or ""
        return host != own and not ("}" in own and host.endswith(own.rpartition("}")[2]))

    def dialect(self) -> Dialect:
        return self.profile.dialect()

    def request(self) -> tuple[str, list[tuple[str, str]], list[str]]:
        """URL, headers and subprotocols of the opening handshake. They hold the key: never log them."""
        profile = self.profile
        parts = urlsplit(self.url)
        query = dict(profile.query) | dict(parse_qsl(parts.query, keep_blank_values=True))
        if profile.model_in == "query" and self.model and not _has_its_model(query):
            query.setdefault(profile.model_query, self.model)
        headers = list(profile.headers.items())
        subprotocols = list(profile.subprotocols)
        if self.api_key:
            match profile.auth:
                case "bearer":
                    headers.append((profile.auth_name or "Authorization", f"Bearer {self.api_key}"))
                case "header":
                    headers.append((profile.auth_name, self.api_key))
                case "query":
                    query[profile.auth_name or "api_key"] = self.api_key
                case "subprotocol":
                    subprotocols = subprotocols or ["realtime"]
                    subprotocols.append((profile.auth_name or "openai-insecure-api-key.") + self.api_key)
                case "none":
                    pass
        url = urlunsplit(parts._replace(query=urlencode(query, quote_via=quote, safe="")))
        return url, headers, subprotocols


def _has_its_model(query: Mapping[str, str]) -> bool:
    """A session that is joined has a model, a transcription session names it elsewhere (OpenAI refuses it here)."""
    return "call_id" in query or query.get("intent") == "transcription"


def _address(given: str, profile: Profile, *, allow_plain: bool) -> str:
    url = given or profile.url
    if "{" in url:
        raise UsageError(f"profile {profile.name} needs an address of yours in place of {profile.url}")
    try:
        parts = split_address(url)
    except UsageError as error:
        raise UsageError(f"profile {profile.name}: {error}") from None
    scheme = {"https": "wss", "http": "ws"}.get(parts.scheme, parts.scheme)
    host = parts.hostname or ""
    shown = f"{parts.scheme}://{host}{parts.path}"
    if scheme not in ("ws", "wss") or not host:
        raise UsageError(f"profile {profile.name}: {shown!r} is not a WebSocket address; write wss://host/path")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"profile {profile.name}: {shown}: a name or password in the address is not used; give api_key"
        )
    if scheme == "ws" and not allow_plain and not is_loopback(host):
        raise UsageError(
            f"profile {profile.name}: {shown} would send the key and the caller's voice unencrypted; "
            "use wss://, or allow plain text"
        )
    path = parts.path.rstrip("/") or urlsplit(profile.url).path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def split_address(url: str) -> SplitResult:
    """An address in its parts. Raises UsageError for one whose host or port cannot be read; it shows no key."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        scheme, _, rest = url.partition("?")[0].partition("://")
        shown = f"{scheme}://{rest.rpartition('@')[2]}"
        raise UsageError(f"{shown!r} is not an address: {error}. Write wss://host:port/path") from None
    return parts


def fits_a_header(key: str) -> bool:
    """Whether a request's header can hold this key, as it would be written there."""
    return key.isascii() and key.isprintable() and key == key.strip()


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine for certain, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
