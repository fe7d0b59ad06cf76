"""The whole service in one object: settings in, a listening port out, and an orderly end.

service = Service(settings)
await service.start()
...
await service.stop()  # no new calls, time for those there are, then a goodbye
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket as sockets
from collections.abc import Callable
from functools import partial

import structlog

from bridge.errors import ConfigError, EndReason
from bridge.live.carrier import CallServices, HttpClient, RestClient
from bridge.live.companion import Companion
from bridge.live.dialling import Dial
from bridge.live.driver import Driver, Watcher
from bridge.live.places import Places
from bridge.live.switchboard import Switchboard
from bridge.metrics import Metrics
from bridge.records.journals import Journals
from bridge.settings import Directory, Settings
from bridge.settings.agents import Tool
from bridge.telephony.rest import Account
from bridge.tools.toolbox import Toolbox
from bridge.web.app import DOOR, make_app, validator_for
from bridge.web.colleagues import Colleagues
from bridge.web.listen import Listener, bound
from bridge.web.media import MediaDoor
from bridge.web.pace import Pace
from bridge.web.webhooks import TwilioDoor

log = structlog.get_logger()


def import_tools(settings: Settings, toolbox: Toolbox) -> None:
    """Before the first call, which would have to wait for it. Raises ConfigError with every one that cannot be had."""
    mistakes = [
        f"{settings.config / 'agents' / name}.yaml: {mistake}"
        for name, agent in settings.agents.items()
        for tool in agent.tools
        if isinstance(tool, Tool) and tool.name not in toolbox
        for mistake in toolbox.import_all([tool.python])
    ]
    if mistakes:
        raise ConfigError(mistakes)


class _Office:
    """What this process does for its colleagues."""

    def __init__(self, switchboard: Switchboard, webhooks: TwilioDoor, media: MediaDoor) -> None:
        self.announced = webhooks.announced
        self.ended = switchboard.ended_by_status
        self.resumed = webhooks.resumed
        self.adopt = media.adopt


class Service:
    """One process of the service; with `colleagues` it is one of several that share a port.

    `observe` gives a new call further observers; `dial` and `client` stand in for the network to model and carrier.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[Driver], Watcher] | None = None,
        ended: Callable[[Driver, EndReason], None] | None = None,
        toolbox: Toolbox | None = None,
        dial: Dial | None = None,
        client: HttpClient | None = None,
        colleagues: Colleagues | None = None,
        journals: Journals | None = None,
    ) -> None:
        self.settings = settings
        self.directory = Directory(settings)
        self._colleagues = colleagues
        if colleagues is None:
            self.metrics = Metrics()
        else:
            self.metrics = Metrics(folder=colleagues.metrics_folder, worker=colleagues.worker)
        self._journals = journals
        self._observe = observe
        self._ended = ended
        self._toolbox = toolbox or Toolbox()
        self._companion: Companion | None = None
        self._rest = RestClient()
        self._listener: Listener | None = None
        self._door: MediaDoor | None = None
        limits = settings.limits
        self.switchboard = Switchboard(
            self.directory,
            CallServices(
                account=account_of(settings),
                client=client or self._rest,
                toolbox=self._toolbox,
                transfer_caller_id=settings.twilio.transfer_caller_id,
            ),
            places=Places(limits.max_calls) if colleagues is None else colleagues.places,
            token_prefix="" if colleagues is None else colleagues.token_prefix,
            token_s=limits.token_s,
            watchers=self._watchers,
            ended=self._call_ended,
            dial=dial,
        )

    def _watchers(self, driver: Driver) -> tuple[list[Watcher], list[Watcher]]:
        plan = driver.plan
        watchers: list[Watcher] = [partial(self.metrics.watch, plan)]
        if self._observe is not None:
            watchers.append(self._observe(driver))
        journal = None if self._journals is None else self._journals.begin(plan)
        if journal is None:
            return watchers, []
        return [journal.watch_others, *watchers], [journal.watch]  # the journal first: whatever the others do

    def _call_ended(self, driver: Driver, reason: EndReason) -> None:
        self.metrics.forget(driver.plan, reason.value)
        if self._journals is not None:
            self._journals.end(driver.plan.call_id)
        if self._ended is not None:
            self._ended(driver, reason)

    async def start(self, *, model_url: str = "", public_url: str = "", sock: sockets.socket | None = None) -> None:
        """Listens. `model_url`: a model on this machine that runs already; else one is started if an agent needs it.

        Raises ConfigError, OSError or PeerError; nothing is left running then.
        """
        try:
            await self._start(model_url, public_url, sock)
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def _start(self, model_url: str, public_url: str, sock: sockets.socket | None) -> None:
        import_tools(self.settings, self._toolbox)
        if model_url:
            self.directory.local_model_at(model_url)
        elif self.directory.needs_local_model:
            self._companion = Companion(["--config", str(self.settings.config)])
            self.directory.local_model_at(await self._companion.start(port=self.settings.local_model.port))
        if not (public_url or self.settings.public_url):
            if sock is None and not self.settings.port:
                sock = bound(self.settings.host, 0)  # its number stands in what the carrier is told
            public_url = self.settings.own_url(sock.getsockname()[1]) if sock is not None else ""
        limits = self.settings.limits
        self._door = door = MediaDoor(
            self.switchboard,
            validator_for(self.settings, public_url=public_url),
            start_s=limits.start_s,
            pre_start=limits.pre_start,
            pre_start_per_ip=limits.pre_start_per_ip,
            colleagues=self._colleagues,
        )
        app = make_app(
            self.settings,
            self.switchboard,
            media=door.handle,
            metrics=self.metrics,
            public_url=public_url,
            colleagues=self._colleagues,
        )
        if self._colleagues is not None:
            await self._colleagues.start(_Office(self.switchboard, app[DOOR], door))
        self._listener = Listener(app, self.settings)
        await self._listener.start(sock=sock)
        _settle_collector()

    @property
    def port(self) -> int:
        assert self._listener is not None, "a service has a port once it was started"
        return self._listener.port

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Drain, then close everything. Stopping twice is harmless."""
        await self.switchboard.drain(self.settings.limits.drain_s if grace_s is None else grace_s)
        if self._door is not None:
            self._door.close()
        if self._listener is not None:
            await self._listener.close()
        if self._colleagues is not None:
            await self._colleagues.stop()
        if self._companion is not None:
            await self._companion.stop()
        await self._rest.close()
        gc.unfreeze()

    def pace(self) -> Pace:
        """At which the running loop is to serve many calls: for `run`, and for who does without it."""
        return Pace(lambda: self.switchboard.active_calls, self.switchboard.together)

    async def run(self) -> None:
        """Until a signal; a second one ends it at once (`signalled`)."""
        asked = asyncio.Event()
        hurry = asyncio.Event()
        hear_no_more = signalled(asked.set, hurry.set, is_worker=self._colleagues is not None)
        hurried = asyncio.create_task(hurry.wait(), name="hurried")
        pace = self.pace()
        pace.start()
        try:
            await asked.wait()
            log.info("stopping", calls=self.switchboard.active_calls)
            stopping = asyncio.create_task(self.stop(), name="stop")
            await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                stopping.result()  # raises what went wrong
            else:
                stopping.cancel()
                await asyncio.wait({stopping})
                await self.stop(grace_s=0.0)
        finally:
            pace.stop()
            hurried.cancel()
            hear_no_more()


def signalled(first: Callable[[], None], again: Callable[[], None], *, is_worker: bool = False) -> Callable[[], None]:
    """SIGTERM and SIGINT call `first`, and from then on `again`. SIGHUP, of a terminal that went away, is only ever the
    first, because it may come twice; where it is ignored (nohup) it stays so. For a worker that is true of SIGTERM as
    well: its parent sends one, and whoever ends all processes of a service (systemd) another. The result undoes that.
    """
    loop = asyncio.get_running_loop()
    heard = False

    def hear(*, once: bool) -> None:
        nonlocal heard
        if not heard:
            heard = True
            first()
        elif not once:
            again()

    hang_up = getattr(signal, "SIGHUP", None)
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        numbers.append(hang_up)
    for number in numbers:
        once = number == hang_up or (is_worker and number == signal.SIGTERM)
        loop.add_signal_handler(number, partial(hear, once=once))

    def undo() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    return undo


def account_of(settings: Settings) -> Account | None:
    """Who we are at the carrier's REST interface; None where nothing is configured."""
    twilio = settings.twilio
    token, secret = twilio.auth_token.get_secret_value(), twilio.api_key_secret.get_secret_value()
    if not twilio.account_sid:
        return None
    if twilio.api_key_sid and secret:
        return Account(twilio.account_sid, twilio.api_key_sid, secret, twilio.api_url)
    return Account(twilio.account_sid, twilio.account_sid, token, twilio.api_url) if token else None


def _settle_collector() -> None:
    """What lives as long as the process need not be looked at again by each collection."""
    gc.collect()
    gc.freeze()
