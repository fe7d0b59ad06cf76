"""All calls of a process: announced, claimed once, ended once, and none left when the process goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from structlog.testing import capture_logs

from bridge.call import events as ev
from bridge.errors import EndReason, UsageError
from bridge.live.driver import Driver
from bridge.live.places import Places
from bridge.live.switchboard import Expected, Refused, Switchboard
from bridge.settings import Directory
from bridge.sim import virtual
from tests.live.calls import FakePhone, Nobody, settle
from tests.live.houses import house, incoming
from tests.live.services import Service
from tests.live.test_driver import leftovers

Test = Callable[["Office"], Coroutine[Any, Any, None]]


class Office:
    """A switchboard with a model service that opens every session at once."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.service = Service(talks=True)
        self.ended: list[tuple[str, EndReason]] = []
        self.directory = Directory(house(folder / "config"))
        options["places"] = Places(options.pop("max_calls", 100))
        self.board = Switchboard(
            self.directory,
            options.pop("outside", Nobody()),
            dial=self.service.dial,
            ended=lambda driver, reason: self.ended.append((driver.plan.carrier_call_id, reason)),
            **options,
        )

    def expect(self, call_id: str = "CA1", **more: Any) -> Expected:
        answer = self.board.expect(incoming(call_id, **more))
        assert isinstance(answer, Expected)
        return answer

    def connect(self, call_id: str = "CA1", **more: Any) -> tuple[Driver, FakePhone]:
        """A whole call: announced, and its stream is there."""
        driver = self.board.claim(self.expect(call_id, **more).token, call_id)
        assert driver is not None
        phone = FakePhone()
        driver.attach(phone, f"MZ {call_id}")
        return driver, phone


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def start(test: Test, **options: Any) -> None:
        async def main() -> None:
            await test(Office(tmp_path, **options))

        virtual.run(main())

    return start


# ---------------------------------------------------------------- announced and claimed


def test_a_token_admits_one_stream_of_its_own_call_once(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        token = office.expect("CA1").token
        other = office.expect("CA2").token
        claim = office.board.claim
        for wrong in ("", "x", token[:-1], token + "x", other, "ü" * 32, "\x00"):
            assert claim(wrong, "CA1") is None
        assert claim(token, "CA2") is None and claim(token, "CA9") is None and claim(token, "") is None
        assert claim(token, "CA1", account_id="AC2") is None
        driver = claim(token, "CA1", account_id="AC1")
        assert driver is not None and driver.plan.carrier_call_id == "CA1"
        assert claim(token, "CA1") is None, "used"
        assert claim(other, "CA2") is not None
        await office.board.drain(0)

    run(main)


def test_a_token_is_good_for_a_minute_and_a_call_announced_again_gets_a_fresh_one(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        token = office.expect().token
        assert office.expect().token == token, "a repeated webhook changes nothing"
        await asyncio.sleep(10.5)
        assert office.board.claim(token, "CA1") is None
        fresh = office.expect().token
        assert fresh != token
        driver = office.board.claim(fresh, "CA1")
        assert driver is not None
        driver.attach(FakePhone(), "MZ1")
        again = office.expect().token
        assert again not in (token, fresh), "and so does one whose token was used"
        assert office.board.claim(again, "CA1") is driver
        assert office.service.attempts == 1 and office.board.active_calls == 1
        await office.board.drain(0)

    run(main, token_s=10.0)


def test_a_token_appears_in_no_text(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        with capture_logs() as logs:
            expected = office.expect()
            office.board.claim(expected.token + "x", "CA1")
            assert expected.token not in f"{expected!r} {expected}"
            assert expected.token not in str(logs)
            await office.board.drain(0)

    run(main)


def test_the_model_session_opens_while_the_carrier_connects(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        office.expect()
        await settle()
        assert office.service.attempts == 1
        await office.board.drain(0)

    run(main)


def test_a_stream_that_never_comes_ends_the_call_after_a_minute(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        office.expect()
        await asyncio.sleep(61)
        assert office.ended == [("CA1", EndReason.NEVER_STARTED)]
        assert office.service.last.closed and office.board.active_calls == 0
        assert not leftovers()

    run(main)


def test_a_full_switchboard_refuses_and_takes_calls_again_when_one_ends(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect("CA1")
        office.connect("CA2")
        assert office.board.full
        assert office.board.expect(incoming("CA3")) == Refused("full")
        assert isinstance(office.board.expect(incoming("CA1")), Expected), "a call that is there is not a new one"
        driver.deliver(ev.CallerLeft("stop"))
        await settle()
        assert not office.board.full and isinstance(office.board.expect(incoming("CA3")), Expected)
        await office.board.drain(0)

    run(main, max_calls=2)


def test_a_call_no_plan_can_be_made_for_is_refused(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        def broken(call: Any) -> Any:
            raise UsageError("profile azure needs an address of yours")

        office.directory.plan = broken  # type: ignore[method-assign]
        with capture_logs() as logs:
            assert office.board.expect(incoming()) == Refused("misconfigured")
        assert [entry["event"] for entry in logs] == ["no_plan"]
        assert office.board.active_calls == 0 and office.service.attempts == 0

    run(main)


def test_observers_that_cannot_be_made_take_no_place(run: Callable[..., None]) -> None:
    def broken(driver: Driver) -> Any:
        raise OSError("no space left on device")

    async def main(office: Office) -> None:
        for number in range(5):
            with pytest.raises(OSError):
                office.board.expect(incoming(f"CA{number}"))
        assert not office.board.full and office.board.active_calls == 0

    run(main, watchers=broken, max_calls=1)


# ---------------------------------------------------------------- two calls


def test_two_calls_with_different_agents_share_nothing(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        alpha, alpha_phone = office.connect("CA1", agent="alpha")
        beta, beta_phone = office.connect("CA2", agent="beta")
        await settle()
        first, second = office.service.sockets
        said = [socket.of("session.update")[0]["session"] for socket in (first, second)]
        assert [one["instructions"].strip() for one in said] == ["You are alpha.", "You are beta."]
        assert [one["audio"]["output"]["voice"] for one in said] == ["marin", "cedar"]
        assert alpha.plan.call_id != beta.plan.call_id
        assert alpha.plan.session.tools is not beta.plan.session.tools
        assert alpha.plan.session.tools[0].parameters is not beta.plan.session.tools[0].parameters

        alpha.deliver(ev.CallerSpoke(b"\x01" * 1600, 200.0))
        assert first.heard and not second.heard
        second.says("response.created", response={"id": "r1", "status": "in_progress"})
        second.speaks(b"\x01\x02" * 24_000)
        assert beta_phone.played_ms > 0 and alpha_phone.played_ms == 0
        second.drops(1011)
        assert not first.closed
        beta.deliver(ev.CallerLeft("stop"))
        await settle()
        assert office.ended == [("CA2", EndReason.CALLER_LEFT)]
        assert not first.closed and not alpha.ended.done()
        await office.board.drain(0)

    run(main)


# ---------------------------------------------------------------- ended


@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
def test_a_final_status_ends_a_call_once(run: Callable[..., None], status: str) -> None:
    async def main(office: Office) -> None:
        _, phone = office.connect()
        for word in ("ringing", "in-progress", "queued", "", "nonsense"):
            office.board.ended_by_status("CA1", word)
        office.board.ended_by_status("CA9", status)
        await settle()
        assert not office.ended
        for _ in range(3):
            office.board.ended_by_status("CA1", status)
            await settle()
        assert office.ended == [("CA1", EndReason.CALLER_LEFT)]
        assert phone.closed and office.service.last.closed

    run(main)


def test_a_status_before_the_stream_ends_the_call_and_its_session(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        token = office.expect().token
        office.board.ended_by_status("CA1", "completed")  # in the same moment
        await settle()
        assert office.ended == [("CA1", EndReason.CALLER_LEFT)]
        assert office.board.claim(token, "CA1") is None
        assert all(socket.closed for socket in office.service.sockets)
        assert not leftovers()

    run(main)


def test_a_call_announced_again_after_its_end_is_no_second_call(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.deliver(ev.CallerLeft("stop"))
        await settle()
        assert office.board.expect(incoming("CA1")) == Refused("over")
        assert office.board.active_calls == 0

    run(main)


def test_a_question_that_is_repeated_ends_no_call_whose_stream_is_there(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, phone = office.connect()
        for number in range(10):
            driver.deliver(ev.CallerSpoke(b"\xff" * 160, number * 1000.0))
            assert office.board.resume("CA1") is not None
            await asyncio.sleep(1)
        assert driver.goes_on and not phone.closed
        driver.deliver(ev.CallerLeft("closed"))
        for _ in range(3):
            assert office.board.resume("CA1") is not None
        assert office.board.resume("CA1") is None, "now it has none, and brings none"

    run(main)


def test_a_caller_who_was_put_through_may_come_back(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.handed_on_to = "+15550009"
        driver.end(EndReason.TRANSFERRED)
        await settle()
        again = office.expect("CA1")
        assert again.call_id != driver.plan.call_id and office.board.active_calls == 1
        assert office.board.handed_on_to("CA1") == "", "the new call's own"
        office.board.find("CA1").end(EndReason.TRANSFERRED)
        await settle()
        office.board.ended_by_status("CA1", "completed")
        assert office.board.expect(incoming("CA1")) == Refused("over")

    run(main)


def test_whom_a_call_was_handed_on_to_is_remembered_after_its_end(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.handed_on_to = "+15550009"
        assert office.board.handed_on_to("CA1") == "+15550009"
        driver.deliver(ev.CallerLeft("stop"))
        await settle()
        assert office.board.handed_on_to("CA1") == "+15550009"
        for number in range(1100):
            office.expect(f"CB{number}")
            office.board.ended_by_status(f"CB{number}", "completed")
            await settle()
        assert office.board.handed_on_to("CA1") == "", "not for ever"
        assert len(office.board._over) == 1000

    run(main)


def test_a_call_that_goes_on_without_its_stream_is_given_another(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        first, _ = office.connect()
        tokens = set()
        for number in range(3):
            first.deliver(ev.CallerLeft("closed"))
            again = office.board.resume("CA1")
            assert again is not None and again.call_id == first.plan.call_id
            assert office.board.resume("CA1") == again, "asked twice, the same answer"
            tokens.add(again.token)
            assert office.board.claim("another", "CA1") is None
            assert office.board.claim(again.token, "CA1") is first
            phone = FakePhone()
            first.attach(phone, f"MZ {number}")
            await settle()
            assert not phone.closed and not office.ended
        assert len(tokens) == 3
        assert len(office.service.sockets) == 1, "one session served them all"

    run(main)


@pytest.mark.parametrize("age_s", [0, 7])
def test_a_call_whose_streams_break_again_and_again_is_over(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, age_s: float
) -> None:
    monkeypatch.setattr("bridge.live.switchboard._BREAKS_S", 6.0)  # no caller is silent for a minute

    async def main(office: Office) -> None:
        driver, _ = office.connect()

        def breaks() -> None:
            driver.deliver(ev.CallerLeft("closed"))
            again = office.board.resume("CA1")
            assert again is not None
            assert office.board.claim(again.token, "CA1") is driver
            driver.attach(FakePhone(), "MZ")

        await asyncio.sleep(age_s)
        for _ in range(3):
            breaks()
        await asyncio.sleep(6)
        for _ in range(3):
            breaks()  # as many again, some time later
        await settle()
        assert not office.ended
        driver.deliver(ev.CallerLeft("closed"))
        assert office.board.resume("CA1") is None, "the fourth"
        await settle()
        assert office.ended == [("CA1", EndReason.STREAM_LOST)], "the carrier is told to hang up"

    run(main)


def test_a_carrier_that_opens_none_of_the_streams_it_is_given_is_given_three(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.deliver(ev.CallerLeft("closed"))
        for _ in range(3):
            assert office.board.resume("CA1") is not None
            await asyncio.sleep(0.3)
        assert office.board.resume("CA1") is None
        await settle()
        assert office.ended == [("CA1", EndReason.STREAM_LOST)]

    run(main)


def test_a_token_that_is_too_old_is_replaced(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.deliver(ev.CallerLeft("closed"))
        first = office.board.resume("CA1")
        assert first is not None
        office.board._lines["CA1"].token_until = 0.0
        again = office.board.resume("CA1")
        assert again is not None and again.token != first.token
        assert office.board.claim(first.token, "CA1") is None and office.board.claim(again.token, "CA1") is driver

    run(main)


def test_who_is_given_no_other_stream_is_put_through_where_that_was_agreed_on(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.deliver(ev.TransferWished("+15550123"))
        driver.deliver(ev.CallerLeft("closed"))
        for _ in range(3):
            office.board.resume("CA1")
        assert office.board.resume("CA1") is None
        assert office.board.handed_on_to("CA1") == "+15550123"

    run(main)


def test_a_carrier_given_another_stream_has_its_time_to_open_it(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        driver.deliver(ev.CallerLeft("closed"))
        await asyncio.sleep(1.9)
        again = office.board.resume("CA1")
        await asyncio.sleep(1.9)
        assert again is not None and office.board.claim(again.token, "CA1") is driver

    run(main)


def test_a_call_whose_stream_never_came_is_given_another(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        lost = office.expect()
        again = office.board.resume("CA1")
        assert again == lost, "the token is as good as it was"
        assert office.board.claim(again.token, "CA1") is not None

    run(main)


def test_a_call_that_is_over_or_about_to_be_is_given_no_other_stream(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        assert office.board.resume("CA0") is None
        ending, _ = office.connect("CA1")
        await settle()
        ending.deliver(ev.HangUpWished("operator"))
        assert office.board.resume("CA1") is not None, "the goodbye is still to be heard"
        await asyncio.sleep(60)
        assert office.board.resume("CA1") is None
        office.connect("CA2")
        office.board.ended_by_status("CA2", "completed")
        assert office.board.resume("CA2") is None
        await settle()
        assert office.board.resume("CA2") is None

    run(main)


def test_an_observer_that_breaks_at_the_end_of_a_call_breaks_nothing_else(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

        def broken(driver: Driver, reason: EndReason) -> None:
            raise RuntimeError("the record cannot be written")

        office.board._ended = broken
        driver, _ = office.connect("CA1")
        office.connect("CA2")
        driver.deliver(ev.CallerLeft("stop"))
        await settle()
        assert office.board.active_calls == 1 and len(complaints) == 1
        await office.board.drain(0)
        assert office.board.active_calls == 0

    run(main)


# ---------------------------------------------------------------- draining


async def hear(driver: Driver, phone: FakePhone, seconds: float) -> None:
    """A carrier that returns every mark at once, and a caller who breathes."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        for name in phone.marks:
            driver.deliver(ev.MarkReturned(name))
        phone.marks.clear()
        driver.deliver(ev.CallerSpoke(b"\xff" * 160, 20.0))
        await asyncio.sleep(0.02)


def test_draining_takes_no_call_and_ends_when_the_last_one_does(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        loop = asyncio.get_running_loop()
        driver, _ = office.connect()
        began = loop.time()
        draining = asyncio.ensure_future(office.board.drain(30))
        await asyncio.sleep(5)
        assert not office.board.accepting
        assert office.board.expect(incoming("CA2")) == Refused("draining")
        driver.deliver(ev.CallerLeft("stop"))
        await draining
        assert loop.time() - began < 5.1
        assert office.ended == [("CA1", EndReason.CALLER_LEFT)]

    run(main)


def test_a_call_that_outlives_the_grace_is_asked_to_say_goodbye(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        loop = asyncio.get_running_loop()
        driver, phone = office.connect()
        await settle()
        service = office.service.last
        service.answers("r0")
        await hear(driver, phone, 2.0)
        already = len(service.of("response.create"))
        began = loop.time()
        draining = asyncio.ensure_future(office.board.drain(30))
        await hear(driver, phone, 19.9)
        assert len(service.of("response.create")) == already
        await asyncio.sleep(0.2)
        asked = service.of("response.create")[already:]
        assert len(asked) == 1 and "goodbye" in asked[0]["response"]["instructions"]
        service.answers("r1")
        while not draining.done():
            await hear(driver, phone, 0.02)
        assert office.ended == [("CA1", EndReason.DRAINED)]
        assert phone.played_ms >= 1990 and loop.time() - began < 30

    run(main)


@pytest.mark.parametrize("grace_s", [0, 1, 30])
def test_a_call_that_does_not_end_by_itself_is_cut_off_when_the_grace_is_over(
    run: Callable[..., None], grace_s: float
) -> None:
    class Never(Nobody):
        async def hang_up(self, driver: Driver) -> None:
            await asyncio.sleep(1000)

    async def main(office: Office) -> None:
        loop = asyncio.get_running_loop()
        _, phone = office.connect()
        office.expect("CA2")
        await settle()
        began = loop.time()
        await office.board.drain(grace_s)
        assert {reason for _, reason in office.ended} <= {EndReason.DRAINED, EndReason.NEVER_STARTED}
        assert len(office.ended) == 2 and office.board.active_calls == 0
        assert loop.time() - began < grace_s + 2.5
        assert phone.closed and all(socket.closed for socket in office.service.sockets)
        await settle()
        assert not leftovers()

    run(main, outside=Never())


@pytest.mark.parametrize("asks", ["resume", "status", "nothing"])
def test_a_carrier_still_finds_somebody_to_ask_what_comes_after_the_last_call(
    run: Callable[..., None], asks: str
) -> None:
    async def main(office: Office) -> None:
        loop = asyncio.get_running_loop()
        office.connect()
        await settle()
        began = loop.time()
        draining = asyncio.ensure_future(office.board.drain(0))
        while not office.ended:
            await asyncio.sleep(0.01)
        ended_s = loop.time() - began
        await asyncio.sleep(0.3)
        assert not draining.done()
        if asks == "resume":
            assert office.board.handed_on_to("CA1") == ""
        elif asks == "status":
            office.board.ended_by_status("CA1", "completed")
        await draining
        waited_s = loop.time() - began - ended_s
        assert waited_s < 0.4 if asks != "nothing" else 1.4 < waited_s < 1.6

    run(main)


def test_a_call_is_found_in_the_log_by_the_carriers_id(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        with structlog.testing.capture_logs() as entries:
            driver, _ = office.connect("CA7")
            driver.deliver(ev.CallerLeft("stop"))
            await settle()
        told = {entry["event"]: entry for entry in entries}
        for event in ("call_expected", "call_ended"):
            assert (told[event]["carrier_call_id"], told[event]["call_id"]) == ("CA7", driver.plan.call_id)

    run(main)


def test_nobody_is_waited_for_whose_caller_has_hung_up_or_never_came(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, _ = office.connect()
        office.expect("CA2")
        driver.deliver(ev.CallerLeft("stop"))
        await settle()
        began = asyncio.get_running_loop().time()
        await office.board.drain(0)
        assert len(office.ended) == 2 and asyncio.get_running_loop().time() - began < 0.1

    run(main)


def test_three_hundred_short_calls_leave_nothing_behind(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        import gc
        import weakref

        drivers: list[weakref.ref[Driver]] = []
        for number in range(300):
            driver, phone = office.connect(f"CA{number}")
            drivers.append(weakref.ref(driver))
            await settle()
            service = office.service.last
            driver.deliver(ev.CallerSpoke(b"\x01" * 160, 20.0))
            service.says("response.created", response={"id": "r1", "status": "in_progress"})
            service.speaks(b"\x01\x02" * 2400)
            match number % 5:
                case 0:
                    driver.deliver(ev.CallerLeft("stop"))
                case 1:
                    office.board.ended_by_status(f"CA{number}", "completed")
                case 2:
                    driver.deliver(ev.PhoneStalled())
                case 3:
                    service.drops(1006)
                    await settle()
                    driver.deliver(ev.CallerLeft("closed"))
                    office.board.ended_by_status(f"CA{number}", "completed")
                case 4:
                    driver.end(EndReason.BUG)
            await settle()
            assert phone.closed
        assert len(office.ended) == 300 and office.board.active_calls == 0
        assert not leftovers()
        del driver, phone, service
        office.service.sockets.clear()
        gc.collect()
        assert not [driver for driver in drivers if driver() is not None]
        assert not [timer for timer in getattr(asyncio.get_running_loop(), "_scheduled", []) if not timer.cancelled()]

    run(main)


def test_the_goodbye_takes_ten_seconds_of_a_long_grace_at_most(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        driver, phone = office.connect()
        await settle()
        office.service.last.answers("r1")
        loop = asyncio.get_running_loop()
        asked: list[float] = []
        driver.watch([lambda at, event, actions: asked.append(loop.time()) if type(event) is ev.HangUpWished else None])

        async def breathe() -> None:
            while not driver.ended.done():
                driver.deliver(ev.CallerSpoke(b"\xff" * 160, 20.0))
                while phone.marks:
                    driver.deliver(ev.MarkReturned(phone.marks.pop(0)))
                await asyncio.sleep(0.02)

        began, breathing = loop.time(), asyncio.ensure_future(breathe())
        await office.board.drain(60)
        assert asked and 49.9 < asked[0] - began < 50.1
        await breathing

    run(main)


def test_an_errand_that_ignores_being_cancelled_is_cancelled_again(run: Callable[..., None]) -> None:
    async def main(office: Office) -> None:
        cancelled = 0

        async def stubborn() -> None:
            nonlocal cancelled
            while cancelled < 2:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    cancelled += 1

        driver, _ = office.connect()
        await settle()
        driver.spawn(stubborn, "errand")
        await settle()
        await office.board.drain(0)
        await settle()
        assert cancelled == 2 and office.board.active_calls == 0 and not leftovers()

    run(main)
