"""Where a host is: one look-up of a name at a time in the whole process, whoever waits for it.

The system's resolver blocks, for half a minute where a name server does not answer. In the few threads a loop has for
that, one such name would keep all others waiting, and the end of the process too.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from concurrent.futures import Future
from threading import Thread
from typing import Final

_LATE_S: Final = 1.0  # a name whose addresses are known from before is not waited for any longer

Name = tuple[str, int]

_looking: dict[Name, Future[list[str]]] = {}
_known: dict[Name, list[str]] = {}


async def find(host: str, port: int) -> list[str]:
    """The addresses of a host, best first. Those it had before, where they cannot be had now or not soon.

    Raises OSError for a name that is not known, UnicodeError for what is none.
    """
    if _is_address(host):
        return [host]
    name = (host, port)
    found = _looking.get(name)
    if found is None:
        found = _looking[name] = Future()
        try:
            Thread(target=_look, args=(name, found), name=f"look-up of {host}", daemon=True).start()
        except RuntimeError as error:  # no thread is to be had
            del _looking[name]
            raise OSError(errno.EAGAIN, str(error)) from None
    before = _known.get(name)
    try:
        async with asyncio.timeout(None if before is None else _LATE_S):
            return await asyncio.shield(asyncio.wrap_future(found))
    except (TimeoutError, OSError):
        if before is None:
            raise
        return before


def _look(name: Name, found: Future[list[str]]) -> None:
    try:
        told = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
        _known[name] = list(dict.fromkeys(str(address[0]) for *_, address in told))
    except (OSError, UnicodeError) as error:
        _looking.pop(name, None)
        found.set_exception(error)
    else:
        _looking.pop(name, None)
        found.set_result(_known[name])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
