"""Several processes on one port: a parent that starts them, replaces those that die, and ends them all together.

The parent answers no calls. It opens the listening socket once and every worker accepts from it: it works wherever
there are Unix sockets, a connection that waits to be accepted is not lost with a worker, and a busy worker simply
accepts less (SO_REUSEPORT would give each worker a queue of its own, to be lost with it; how evenly it spreads
connections would not matter here, because a call's worker follows from its CallSid). What the workers tell each other
is in `colleagues`.

Every worker, also one that takes a dead one's place, gets the settings the parent has read: pickled, over its standard
input, which stays open as long as the parent lives.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import signal
import socket as sockets
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from bridge import children
from bridge import log as logs
from bridge.errors import BridgeError, ConfigError
from bridge.live.companion import Companion
from bridge.live.places import lay_out
from bridge.records.journals import Journals
from bridge.settings import Directory, Settings
from bridge.web.colleagues import Colleagues
from bridge.web.listen import bound
from bridge.web.service import Service, signalled

log = structlog.get_logger()

_START_S: Final = 30.0
_SETTLED_S: Final = 60.0  # a worker that lived this long may die once more without a wait
_LONGEST_WAIT_S: Final = 30.0
_NOT_HIRED_S: Final = 5.0  # before it is tried again: no process or descriptor was to be had
_HURRY_S: Final = 5.0  # after a second signal; a worker that hangs does not hear it
_LAST_S: Final = 15.0  # beyond the drain's own time; then a worker is killed
_LONGEST_FOLDER: Final = 97  # a socket in it may have 107 characters in all (sun_path, unix(7))
_READY: Final = b"ready\n"


@dataclass(frozen=True, slots=True)
class Assignment:
    """All a worker must know."""

    worker: int
    workers: int
    folder: Path
    listener: int  # a descriptor
    model_url: str
    public_url: str
    journals: Path | None
    settings: Settings


class Workers:
    """The service as several processes. `start`, then `run` or `stop`, like `Service`."""

    def __init__(self, settings: Settings, *, loop: str = "auto", public_url: str = "", journals: Path | None = None):
        if not hasattr(sockets, "AF_UNIX") or not hasattr(sockets, "send_fds"):
            raise ConfigError(["workers: this system cannot hand sockets to another process. Set BRIDGE_WORKERS to 1"])
        self.settings = settings
        self.directory = Directory(settings)
        self._loop_kind = loop
        self._public_url = public_url
        self._journals = journals
        if journals is not None:
            Journals(journals)  # a folder that cannot be had is said now
        self._count = settings.workers
        self._listener: sockets.socket | None = None
        self._companion: Companion | None = None
        self._model_url = ""
        self._folder: Path | None = None
        self._held: int | None = None  # the folder, open
        self._page: memoryview[int] | None = None
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    # ------------------------------------------------------------ beginning

    async def start(self) -> None:
        """Listens, and returns when every worker accepts. Raises OSError, or BridgeError for a worker that cannot;
        nothing is left running then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def _start(self) -> None:
        import fcntl  # where there are no workers there may be no such module

        self._listener = bound(self.settings.host, self.settings.port)
        self._folder = Path(tempfile.mkdtemp(prefix="voice-bridge-"))  # for its owner alone
        if len(os.fsencode(self._folder)) > _LONGEST_FOLDER:
            raise ConfigError([f"workers: {self._folder} is too long a path for sockets. Set TMPDIR to a shorter one"])
        self._held = os.open(self._folder, os.O_RDONLY)
        with suppress(OSError):  # where folders have locks: it is not cleaned away when it is old (tmpfiles.d(5))
            fcntl.flock(self._held, fcntl.LOCK_SH)
        (self._folder / "metrics").mkdir()
        self._page = lay_out(self._folder / "places", self._count)
        if self.directory.needs_local_model:
            self._companion = Companion(["--config", str(self.settings.config)])
            self._model_url = await self._companion.start(port=self.settings.local_model.port)
            self.directory.local_model_at(self._model_url)
        ready = [asyncio.get_running_loop().create_future() for _ in range(self._count)]
        self._keepers = [
            asyncio.create_task(self._keep(worker, ready[worker]), name=f"worker {worker}")
            for worker in range(self._count)
        ]
        await asyncio.gather(*ready)

    @property
    def port(self) -> int:
        assert self._listener is not None, "a service has a port once it was started"
        return int(self._listener.getsockname()[1])

    @property
    def pids(self) -> dict[int, int]:
        """Of the workers that run now, by number."""
        return {worker: process.pid for worker, process in self._processes.items()}

    @property
    def active_calls(self) -> int:
        return sum(self._page or ())

    async def _keep(self, worker: int, ready: asyncio.Future[None]) -> None:
        """One worker, and whoever takes its place, until the service ends."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._stopping.is_set():
            try:
                process = await self._hire(worker)
            except OSError as error:
                if not ready.done():
                    ready.set_exception(BridgeError(f"worker {worker} could not be started: {error.strerror}"))
                    return
                log.error("worker_not_hired", worker=worker, why=error.strerror)
                await self._rest(_NOT_HIRED_S)
                continue
            began = loop.time()
            if await _is_ready(process):
                log.info("worker_ready", worker=worker, pid=process.pid)
                if not ready.done():
                    ready.set_result(None)
            elif not self._stopping.is_set():
                log.error("worker_not_ready", worker=worker, pid=process.pid)
                await _kill(process)
                if not ready.done():
                    ready.set_exception(BridgeError(f"worker {worker} did not start; its log says why"))
                    return
            code = await process.wait()
            del self._processes[worker]
            assert self._page is not None, "it was laid out before anybody was hired"
            lost, self._page[worker] = self._page[worker], 0
            if self._stopping.is_set():
                return
            deaths = 1 if loop.time() - began > _SETTLED_S else deaths + 1
            wait_s = min(_LONGEST_WAIT_S, 0.25 * 2**deaths) if deaths > 1 else 0.0
            tell, what = (log.error, "worker_died") if code else (log.warning, "worker_ended")  # somebody told it to
            tell(what, worker=worker, pid=process.pid, code=code, calls=lost, replaced_in_s=wait_s)
            await self._rest(wait_s)

    async def _rest(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()

    async def _hire(self, worker: int) -> asyncio.subprocess.Process:
        assert self._listener is not None and self._folder is not None, "start has made them"
        process = await asyncio.create_subprocess_exec(
            *children.command("bridge"),
            *("worker", "--loop", self._loop_kind),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._listener.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which says it once to each
        )
        self._processes[worker] = process
        assignment = Assignment(
            worker=worker,
            workers=self._count,
            folder=self._folder,
            listener=self._listener.fileno(),
            model_url=self._model_url,
            public_url=self._public_url,
            journals=self._journals,
            settings=self.settings,
        )
        data = pickle.dumps(assignment)
        assert process.stdin is not None, "it was asked for"
        process.stdin.write(len(data).to_bytes(4, "big") + data)
        return process

    # ------------------------------------------------------------ ending

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Every worker drains; what is then still there is killed. Harmless when it was never started."""
        self._stopping.set()
        self._tell(signal.SIGTERM)
        if grace_s is not None and grace_s <= 0:
            self._tell(signal.SIGINT)  # a second one of a kind might be lost
        limit_s = (self.settings.limits.drain_s if grace_s is None else grace_s) + _LAST_S
        if self._keepers:
            _, pending = await asyncio.wait(self._keepers, timeout=limit_s)
            if pending:
                log.error("workers_killed", workers=sorted(self._processes))
                self._tell(signal.SIGKILL)
                await asyncio.wait(pending, timeout=_LAST_S)
        for keeper in self._keepers:
            keeper.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._companion is not None:
            await self._companion.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _tell(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(number)

    async def run(self) -> None:
        """Until a signal; a second one ends it at once (`signalled`)."""
        asked = asyncio.Event()

        def hurry() -> None:
            self._tell(signal.SIGINT)
            asyncio.get_running_loop().call_later(_HURRY_S, self._tell, signal.SIGKILL)

        hear_no_more = signalled(asked.set, hurry)
        try:
            await asked.wait()
            log.info("stopping", calls=self.active_calls)
            await self.stop()
        finally:
            hear_no_more()


async def _is_ready(process: asyncio.subprocess.Process) -> bool:
    assert process.stdout is not None, "it was asked for"
    try:
        async with asyncio.timeout(_START_S):
            return await process.stdout.readline() == _READY
    except TimeoutError:
        return False


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


# ---------------------------------------------------------------- a worker's own side


def assignment() -> Assignment:
    """What the parent wants of this process: from standard input, at once."""
    size = int.from_bytes(sys.stdin.buffer.read(4), "big")
    given = pickle.loads(sys.stdin.buffer.read(size))
    assert isinstance(given, Assignment), "only a parent of ours writes here"
    return given


async def work(given: Assignment) -> None:
    """A worker's whole life."""
    settings = given.settings
    logs.configure(settings.log, secrets=settings.all_secrets())
    structlog.contextvars.bind_contextvars(worker=given.worker)
    told = os.dup(sys.stdout.fileno())  # the parent reads one line of it
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what tools print when they are imported is none
    colleagues = Colleagues(
        given.folder, worker=given.worker, workers=given.workers, max_calls=settings.limits.max_calls
    )
    journals = None if given.journals is None else Journals(given.journals)
    service = Service(settings, colleagues=colleagues, journals=journals)
    await service.start(
        model_url=given.model_url, public_url=given.public_url, sock=sockets.socket(fileno=given.listener)
    )
    orphaned = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _orphaned, orphaned)
    os.write(told, _READY)
    os.close(told)
    await service.run()
    if orphaned.is_set() and colleagues.all_gone:  # the others write what they count into it
        shutil.rmtree(given.folder, ignore_errors=True)


def _orphaned(orphaned: asyncio.Event) -> None:
    """Standard input has ended, so the parent is gone: end as if it had asked for it."""
    orphaned.set()
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    os.kill(os.getpid(), signal.SIGTERM)
