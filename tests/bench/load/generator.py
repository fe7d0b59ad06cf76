"""The load itself, in a process of its own: places calls one after the other, lets all of them talk, and measures.

Writes one JSON object per line to standard output: `up` when all calls are up, `begin` and `end` of the window, then
`figures`. Callers' frames follow an absolute schedule of 20 ms, each caller at its own place in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import xml.etree.ElementTree as ET
from time import perf_counter
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from bridge.sim.signature import sign
from tests.bench.load.call import FRAME_S, Caller, Session, Talk
from tests.bench.load.figures import Tally, figures

_SLOTS = 20  # one per millisecond of a frame
_UP_S = 15.0


def tell(event: str, **fields: Any) -> None:
    sys.stdout.write(msgspec.json.encode({"event": event, **fields}).decode() + "\n")
    sys.stdout.flush()


class Load:
    """All calls of one step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._given = arguments
        self.tally = Tally()
        self.talks: list[Talk] = []
        self._slots: list[list[Caller]] = [[] for _ in range(_SLOTS)]
        self._session_opened: asyncio.Future[Session] | None = None

    # ------------------------------------------------------------ the model service

    def answer(self) -> Session:
        """A session was dialled: it belongs to the call that was placed last."""
        session = Session(self.talks[-1])
        self.talks[-1].session = session
        return session

    # ------------------------------------------------------------ the carrier

    async def place(self, number: int) -> None:
        """Webhook, TwiML, stream, and the model's session."""
        given = self._given
        talk = Talk(number, self.tally)
        self.talks.append(talk)
        call_id = f"CA{os.getpid():08d}{number:024d}"
        form = {
            "CallSid": call_id,
            "AccountSid": "AC" + "0" * 31 + "1",
            "From": "+15550111",
            "To": "+15550100",
            "CallStatus": "ringing",
            "Direction": "inbound",
        }
        url = given.public_url + "/twilio/voice"
        host = urlsplit(given.public_url).netloc
        twiml = ET.fromstring(await self._post("/twilio/voice", host, sign(given.token, url, form), urlencode(form)))
        stream = twiml.find("./Connect/Stream")
        assert stream is not None, "the service did not take the call"
        parameters = {one.get("name", ""): one.get("value", "") for one in stream.iter("Parameter")}
        address = stream.get("url", "")
        talk.caller = caller = Caller(
            talk,
            path=urlsplit(address).path,
            host=host,
            signature=sign(given.token, address),
            call_id=call_id,
            parameters=parameters,
        )
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: caller, "127.0.0.1", given.port)
        self._slots[number * 7 % _SLOTS].append(caller)
        await asyncio.wait_for(talk.ready.wait(), _UP_S)

    async def _post(self, path: str, host: str, signature: str, body: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._given.port)
        lines = (
            f"POST {path} HTTP/1.1",
            f"Host: {host}",
            f"X-Twilio-Signature: {signature}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "",
            body,
        )
        writer.write("\r\n".join(lines).encode())
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise ConnectionError(f"the webhook answered {head[:60].decode(errors='replace')}")
        return rest.decode()

    async def speak(self) -> None:
        """Frames, for as long as the load lasts."""
        began, number = perf_counter(), 0
        while True:
            now = perf_counter()
            while (due := began + number * FRAME_S / _SLOTS) <= now:
                for caller in self._slots[number % _SLOTS]:
                    if caller.open:
                        caller.frame(due)
                number += 1
            await asyncio.sleep(0.001)

    async def probe(self) -> None:
        """How long the service takes to answer the simplest question."""
        while True:
            await asyncio.sleep(0.1)
            began = perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", self._given.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.read()
            writer.close()
            if self.tally.counting:
                self.tally.probe.append((perf_counter() - began) * 1000)

    # ------------------------------------------------------------ one step

    async def run(self) -> None:
        given, loop = self._given, asyncio.get_running_loop()
        server = await loop.create_server(self.answer, "127.0.0.1", given.listen)
        tasks = [loop.create_task(self.speak())]
        if given.probe:
            tasks.append(loop.create_task(self.probe()))
        for number in range(given.calls):
            await self.place(number)
            if number % 50 == 49:
                tell("placed", calls=number + 1)
        tell("up")
        for talk in self.talks:
            talk.begin_marking()
            assert talk.session is not None
            talk.session.begin_talking()
        await asyncio.sleep(given.warm)
        began, cpu = perf_counter(), _own_cpu_s()
        tell("begin")
        self.tally.counting = True
        await asyncio.sleep(given.seconds)
        window_s = perf_counter() - began
        for talk in self.talks:
            if talk.session is not None:
                self.tally.loses("uplink missing", talk.session.missing())
        self.tally.counting = False
        tell("end")
        own_cpu = (_own_cpu_s() - cpu) / window_s
        for task in tasks:
            task.cancel()
        for talk in self.talks:
            talk.ending = True
            if talk.caller is not None:
                talk.caller.hang_up()
        await asyncio.sleep(0.3)
        server.close()
        for talk in self.talks:
            if talk.session is not None:
                talk.session.close()
        found = figures(self.tally, calls=given.calls, window_s=window_s, own_cpu=own_cpu)
        tell("figures", figures=msgspec.to_builtins(found))


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the service's")
    parser.add_argument("--listen", type=int, required=True, help="the model service's port")
    parser.add_argument("--public-url", required=True)
    parser.add_argument("--token", required=True, help="what webhooks are signed with")
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--warm", type=float, required=True, help="seconds of talking before the window opens")
    parser.add_argument("--seconds", type=float, required=True, help="length of the window")
    parser.add_argument("--probe", action="store_true", help="also ask GET /healthz ten times a second")
    parser.add_argument("--cpu", type=int, action="append", help="run on this core")
    parser.add_argument("--nice", type=int, default=0)
    given = parser.parse_args()
    os.nice(given.nice)
    if given.cpu:
        os.sched_setaffinity(0, given.cpu)
    load = Load(given)
    try:
        import uvloop
    except ImportError:
        asyncio.run(load.run())
    else:
        uvloop.run(load.run())


if __name__ == "__main__":
    main()
