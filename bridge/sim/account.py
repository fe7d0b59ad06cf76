"""The carrier's signed HTTP requests: webhooks that fetch TwiML, and callbacks that only tell.

Timing follows Twilio's documents: 5 s to connect, 15 s in all, one retry when no connection could be made; an address
may change that in its fragment (`#ct=1000&rt=3000&tt=15000&rc=3&rp=all`), which is neither sent nor signed. A failed
fetch goes to the fallback address with ErrorCode and ErrorUrl; without one the call ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog

from .doors import Answer, Door, Unreachable
from .signature import sign
from .twiml import Document, Problem, parse

Signing = Literal["right", "forged", "missing"]
HTTP_FAILURE = 11200

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DialOutcome:
    """What happens when TwiML dials somebody: how long it rings, whether they answer, how long they talk."""

    status: Literal["completed", "busy", "no-answer", "failed"] = "completed"
    rings_s: float = 1.0
    talks_s: float = 2.0


@dataclass(slots=True)
class Account:
    """One account at the carrier, and what the network behind it does where the documents leave it open."""

    sid: str
    token: str
    door: Door
    seed: int | None = None  # ids are random without one
    speak: Callable[[str], bytes] | None = None  # <Say> as mu-law; without it silence of the likely length
    after_close_s: float = 0.3  # from the end of a stream's socket to the next verb; documented nowhere
    on_broken_socket: Literal["continue", "nothing"] = "continue"  # undocumented: does a reset end the Connect?
    takes_query: bool = False  # in a stream's address; Twilio refuses one (31920)
    dials: dict[str, DialOutcome] = field(default_factory=dict)  # by number or address
    keys: dict[str, str] = field(default_factory=dict)  # further REST credentials: key sid -> secret
    _made: int = 0

    def new_id(self, prefix: str) -> str:
        """Two letters and 32 hexadecimal digits."""
        self._made += 1
        if self.seed is None:
            return prefix + secrets.token_hex(16)
        return prefix + hashlib.md5(f"{self.seed}/{prefix}/{self._made}".encode(), usedforsecurity=False).hexdigest()

    def signature(
        self, url: str, form: Sequence[tuple[str, str]] = (), *, signing: Signing = "right"
    ) -> dict[str, str]:
        """The header for a request; a forged one is well-formed and made with another token."""
        if signing == "missing":
            return {}
        token = self.token if signing == "right" else self.token + "-forged"
        return {"X-Twilio-Signature": sign(token, url, form)}

    async def fetch(
        self, url: str, form: Sequence[tuple[str, str]], *, method: str = "POST", signing: Signing = "right"
    ) -> Document:
        """Ask a web server for TwiML. A failure stands in the document's problems; it never raises."""
        try:
            answer = await self.send(url, form, method=method, signing=signing)
        except Unreachable as error:
            return Document(url, (), (Problem(error.code, str(error)),))
        if not 200 <= answer.status < 300:
            text = answer.body.decode("utf-8", "replace")[:200]
            return Document(url, (), (Problem(HTTP_FAILURE, f"HTTP status {answer.status}: {text}"),))
        try:
            text = answer.body.decode("utf-8")
        except UnicodeDecodeError as error:
            return Document(url, (), (Problem(12100, str(error)),))
        return parse(text, url=url, content_type=answer.content_type)

    async def send(
        self, url: str, form: Sequence[tuple[str, str]], *, method: str = "POST", signing: Signing = "right"
    ) -> Answer:
        """One signed request with the retries its address asks for. Raises Unreachable."""
        policy = _Policy.of(url)
        if method == "GET" and form:
            joint = "&" if urlsplit(url).query else "?"
            url, form = url.split("#", 1)[0] + joint + urlencode(form), ()
        headers = {"User-Agent": "TwilioProxy/1.1", "Accept": "*/*"} | self.signature(url, form, signing=signing)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + policy.total_s
        attempt = 0
        while True:
            try:
                answer = await self.door.request(
                    method,
                    url,
                    form=form,
                    headers=headers,
                    connect_s=policy.connect_s,
                    total_s=min(policy.read_s, give_up - loop.time()),
                )
                if attempt >= policy.retries or not policy.repeats(answer.status):
                    return answer
            except Unreachable:
                if attempt >= policy.retries or not policy.repeats(None) or loop.time() >= give_up:
                    raise
            attempt += 1
            headers["I-Twilio-Idempotency-Token"] = self.new_id("")

    async def tell(self, url: str, form: Sequence[tuple[str, str]], *, method: str = "POST") -> int | None:
        """A callback: nobody executes the answer. The HTTP status, or None if nobody answered."""
        try:
            return (await self.send(url, form, method=method)).status
        except Unreachable as error:
            _log.info("callback not delivered", url=url, why=str(error))
            return None


@dataclass(frozen=True, slots=True)
class _Policy:
    connect_s: float = 5.0
    read_s: float = 15.0
    total_s: float = 15.0
    retries: int = 1
    on: frozenset[str] = frozenset({"ct"})

    @classmethod
    def of(cls, url: str) -> _Policy:
        said: Mapping[str, str] = dict(parse_qsl(urlsplit(url).fragment))

        def number(name: str, default: float) -> float:
            value = said.get(name, "")
            return float(value) if value.isdigit() else default

        return cls(
            connect_s=number("ct", 5000) / 1000,
            read_s=number("rt", 15000) / 1000,
            total_s=number("tt", 15000) / 1000,
            retries=int(min(5, number("rc", 1))),
            on=frozenset(said.get("rp", "ct").split(",")),
        )

    def repeats(self, status: int | None) -> bool:
        """Whether this outcome is tried again; None is no answer at all."""
        if status is None:
            return bool(self.on & {"ct", "rt", "all"})
        return (400 <= status < 500 and bool(self.on & {"4xx", "all"})) or (
            status >= 500 and bool(self.on & {"5xx", "all"})
        )
