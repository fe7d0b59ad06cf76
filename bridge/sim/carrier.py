"""The telephone network, simulated: a carrier with an account, numbers, callers, TwiML, media streams and a REST
interface.

Written from Twilio's documents and from nothing of this project's own: it drives any server that speaks Twilio's
webhooks and media streams. Time is the running loop's, ids and faults can be seeded, so that on a virtual clock every
run is the same.

    async with Carrier("http://127.0.0.1:8080", account_sid="AC…", auth_token="…") as carrier:
        leg = await carrier.place_call(to="+15550100", from_="+15550199")
        await leg.wait_until_agent_speaks()
        leg.say(mulaw)
        await leg.wait_until_quiet(700)
        leg.hang_up()
        await leg.ended()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit
from xml.sax.saxutils import quoteattr

from aiohttp import web

from bridge.errors import UsageError

from .account import Account, DialOutcome, Signing
from .caller import Caller
from .doors import Door, NetworkDoor
from .execution import Execution
from .leg import CallbackWish, Leg
from .rest import Callee, OutboundCall, RestDesk, outbound, rest_app
from .twiml import SCHEMA_WARNING, Document, parse

ACCOUNT_SID = "AC" + "0" * 31 + "1"


class Carrier:
    """One account at the simulated carrier. Close it (or use `async with`): its calls end with it."""

    def __init__(
        self,
        service_url: str = "http://127.0.0.1:8080",
        *,
        public_url: str = "https://bridge.example.test",
        voice_path: str = "/twilio/voice",
        account_sid: str = ACCOUNT_SID,
        auth_token: str = "12345",
        seed: int | None = None,
        speak: Callable[[str], bytes] | None = None,
        after_close_s: float = 0.3,
        dials: Mapping[str, DialOutcome] | None = None,
        door: Door | None = None,
    ) -> None:
        self.public_url = public_url.rstrip("/")
        self.voice_url = self.public_url + voice_path
        self.account = Account(
            account_sid,
            auth_token,
            door or NetworkDoor(service_url=service_url, public_url=public_url),
            seed=seed,
            speak=speak,
            after_close_s=after_close_s,
            dials=dict(dials or {}),
        )
        self.document = ""  # executed instead of asking the webhook, if there is one
        self.legs: dict[str, Leg] = {}  # by CallSid, ended ones too
        self.callees: dict[str, Callee] = {}  # who answers the calls created over REST, by number
        self._tasks: set[asyncio.Task[None]] = set()
        self._executions: list[Execution] = []
        self._arrivals: asyncio.Queue[Leg] = asyncio.Queue()
        self.rest = RestDesk()
        self._rest_runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @classmethod
    def against(cls, url: str, *, parameters: Mapping[str, str] | None = None, **options: Any) -> Self:
        """A carrier whose numbers all lead to one media-stream server, with no webhook before it.

        `wss://host/path` is dialled as it stands; `ws://host:port/path` and a query behind the path, which Twilio would
        not dial, stand for a server under development. `options` are the constructor's. Raises UsageError for any
        other address.
        """
        parts = _media_address(url)
        plain = parts.scheme == "ws"
        carrier = cls(f"http{'' if plain else 's'}://{parts.netloc}", **options)
        carrier.account.takes_query = True
        behind = parts.path + f"?{parts.query}" * bool(parts.query)
        target = carrier.public_url.replace("http", "ws", 1) + behind if plain else url
        said = "".join(
            f"<Parameter name={quoteattr(name)} value={quoteattr(value)}/>"
            for name, value in (parameters or {}).items()
        )
        stream = f"<Stream url={quoteattr(target)}>{said}</Stream>"
        carrier.document = f"<Response><Connect>{stream}</Connect></Response>"
        return carrier

    async def place_call(
        self,
        *,
        to: str,
        from_: str,
        caller: Caller | None = None,
        signing: Signing = "right",
        twiml: str | None = None,
        fallback_url: str = "",
        status_callback: str = "",
        extra: Mapping[str, str] | None = None,
        keep_audio: bool = True,
    ) -> Leg:
        """A caller dials a number of the account. Returns when the webhook has been answered and the call goes on by
        itself.

        `twiml` is executed instead of asking the webhook; `extra` adds form fields (SipHeader_X-..., CallerName).
        `signing` forges or omits the signature of the webhook and of the media socket. With `keep_audio` off there
        are no tracks, and less memory.
        """
        leg = Leg(
            self.account,
            to=to,
            from_=from_,
            caller=caller or Caller(),
            signing=signing,
            fallback_url=fallback_url,
            callback=CallbackWish(url=status_callback),
            extra=dict(extra or {}),
            keep_audio=keep_audio,
        )
        leg.set_status("ringing")
        execution = self._register(leg)
        twiml = twiml or self.document
        document = self._given(leg, twiml) if twiml else await execution.fetch(self.voice_url)
        self._start(leg, execution.run(document))
        return leg

    async def repeat_webhook(self, leg: Leg) -> Document:
        """A fault: the webhook of a running call is posted once more, as after a lost answer. Nobody executes it."""
        return await Execution(leg).fetch(self.voice_url)

    async def create_call(self, wish: OutboundCall) -> Leg:
        """What the REST interface does for POST /Calls.json: dial somebody, and run the TwiML once they answer."""
        callee = self.callees.get(wish.to, Callee())
        leg = Leg(
            self.account,
            to=wish.to,
            from_=wish.from_,
            caller=callee.caller,
            direction="outbound-api",
            fallback_url=wish.fallback_url,
            callback=wish.callback,
            keep_audio=True,
        )
        self._start(leg, outbound(self._register(leg), wish, callee))
        self._arrivals.put_nowait(leg)
        return leg

    async def next_outbound(self) -> Leg:
        """The next call somebody created over REST."""
        return await self._arrivals.get()

    def rest_app(self) -> web.Application:
        """The carrier's REST interface, for a server of one's own."""
        return rest_app(self.account, self.legs, self.create_call, self.rest)

    async def start_rest(self, *, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve the REST interface; its base address, to be used in place of https://api.twilio.com."""
        self._rest_runner = web.AppRunner(self.rest_app(), access_log=None)
        await self._rest_runner.setup()
        await web.TCPSite(self._rest_runner, host, port).start()
        host, port = self._rest_runner.addresses[0][:2]
        return f"http://{host}:{port}"

    def _given(self, leg: Leg, twiml: str) -> Document:
        document = parse(twiml, url=self.voice_url)
        leg.documents.append(document)
        leg.errors += [p for p in document.problems if p.code != SCHEMA_WARNING]
        leg.warnings += [p for p in document.problems if p.code == SCHEMA_WARNING]
        return document

    def _register(self, leg: Leg) -> Execution:
        self.legs[leg.call_id] = leg
        execution = Execution(leg)
        self._executions.append(execution)
        return execution

    def _start(self, leg: Leg, run: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(run, name=f"call {leg.call_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Every call ends, every socket closes. Closing twice is harmless."""
        for leg in self.legs.values():
            leg.end()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for execution in self._executions:
            await execution.finished_telling()
        await self._linger()
        for leg in self.legs.values():
            for stream in leg.streams:
                stream.abort()
        if self._rest_runner is not None:
            await self._rest_runner.cleanup()
            self._rest_runner = None
        await self.account.door.close()

    async def _linger(self) -> None:
        """Let the last messages travel, at most a second."""
        if any(stream.under_way for leg in self.legs.values() for stream in leg.streams):
            await asyncio.sleep(1.0)


def _media_address(url: str) -> SplitResult:
    """Raises UsageError for what no media stream can be opened at."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        dialled = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:  # brackets, ports and names that are none
        dialled = False
    if not dialled or parts.fragment:
        raise UsageError(f"{url!r} is not ws(s)://host/path or ws(s)://host:port/path")
    return parts
