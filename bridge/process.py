"""This process: how it begins, runs its work on an event loop, is told to end, and ends."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from bridge.errors import ConfigError

_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}
_DESCRIPTORS = 65_536
_WRITTEN_S = 5.0  # for the last lines of journals

T = TypeVar("T")
_told = 0  # 128 and the number of the signal we were told to end by


def begin() -> None:
    """Before anything else: SIGTERM ends it as Ctrl-C does, until somebody ends in a way of their own."""
    _fill_standard_streams()
    signal.signal(signal.SIGTERM, _told_to_end)


def exit_code(otherwise: int | str | None) -> int | str | None:
    """What to end with: by the signal we were told to end by, where there was one."""
    return _told or otherwise


def _told_to_end(number: int, frame: object) -> NoReturn:
    """As by Ctrl-C: what was begun is put away (folders, processes), and no tool takes it for an exit of its own."""
    global _told
    _told = 128 + number
    raise KeyboardInterrupt


def _fill_standard_streams() -> None:
    """One that was closed when we were started: the next file or socket of ours would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def give_up_printing() -> None:
    """What could not be printed would be tried once more when the process ends, and fail with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def in_large_pages() -> None:
    """Begin anew with all memory in large pages: a call costs 3 to 12 % less CPU, measured with 100 calls; the more,
    the slower the machine's memory.

    Only the environment a process is started with can ask for that: glibc's tunable `glibc.malloc.hugetlb` (where the
    kernel leaves the choice to programs), and PYTHONMALLOC for Python's objects. Whoever has set either has their way.
    """
    started_by_this = sys.orig_argv[1 - len(sys.argv) :] == sys.argv[1:]
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and started_by_this:
        if not _LARGE_PAGES.keys() & os.environ.keys():
            os.execve(sys.executable, sys.orig_argv, {**os.environ, **_LARGE_PAGES})


def with_all_descriptors() -> None:
    """A call takes two or three, and 1,024 is what most processes are started with; more is theirs for the asking."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < _DESCRIPTORS:
            most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(work: Coroutine[Any, Any, T], *, loop: str = "auto") -> T:
    """Run to the end on uvloop where there is one. Told to end meanwhile, the work is cancelled."""
    work = _until_told(work)
    if loop != "asyncio" and sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            if loop == "uvloop":
                raise ConfigError(["--loop uvloop: it is not installed. Run: pip install uvloop"]) from None
        else:
            return uvloop.run(work)
    return asyncio.run(work)


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def told() -> None:
        global _told
        _told = 128 + signal.SIGTERM
        assert task is not None, "this runs in one"
        task.cancel()

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGTERM, told)  # an exception in the midst of anything might be lost
    return await work


async def for_good(work: Coroutine[Any, Any, None]) -> NoReturn:
    """The service has ended, and so does the process: a tool that would not stop, or its thread, does not keep it."""
    from bridge import log
    from bridge.records.journal import wait_written

    await work
    with suppress(TimeoutError):
        await asyncio.wait_for(wait_written(), _WRITTEN_S)
    give_up_printing()
    log.wait_written()
    os._exit(0)
