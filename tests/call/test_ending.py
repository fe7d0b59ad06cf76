"""How calls end: every reason, exactly once, and never before the goodbye was heard."""

from __future__ import annotations

import msgspec
import pytest

from bridge.call import actions as do
from bridge.call import events as ev
from bridge.call.plan import CarrierCapabilities
from bridge.errors import EndReason
from tests.call.carrier import BYTES_PER_MS, Carrier
from tests.call.playbook import (
    ASK,
    CLEAR,
    CLIPS,
    CLOSE_MODEL,
    HANG_UP,
    INTERRUPTS,
    OBEYS,
    ROUTED,
    Playbook,
    Story,
    ask,
    asks_tool,
    at,
    caller_audio,
    caller_leaves,
    caller_speaks,
    caller_stops,
    cancel,
    delete,
    end,
    ends,
    hears,
    item_done,
    lost,
    note,
    open_model,
    plan,
    pressed,
    ready,
    response,
    run_tool,
    says,
    story,
    stream,
    submit,
    tool_done,
    truncate,
)

GOODBYE = "Say a short goodbye."
AT_THE_LIMIT = "The call has reached its time limit. Say a short goodbye."
TRANSFER_FAILED = "The transfer did not work. Tell the caller and offer something else."
WARNING = "Tell the caller politely that the call has to end in about half a minute."
HUNG_UP = ev.HandedOver("hang_up", True)
POLITE = {"answer_filler_s": 1e6, "answer_retry_s": 1e6, "answer_rotate_s": 1e6}  # the model takes its time unwatched

ENDINGS: list[Story] = [
    story(
        "the goodbye is heard to its last word, then the call is hung up",
        at(0, response("r1"), says("r1", "goodbye", 1500), ev.HangUpWished("agent")),
        at(10, ends("r1")),
        at(1499),
        at(1500, HANG_UP, hears("goodbye", 1500)),
        at(1600, HUNG_UP, CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
    ),
    story(
        "an agent who hangs up without a word is asked for one",
        at(0, response("r1"), asks_tool("t1", "hang_up"), run_tool("t1", "hang_up")),
        at(10, ev.HangUpWished("agent"), tool_done("t1"), submit("t1")),
        at(20, ends("r1"), ask(GOODBYE)),
        at(300, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(1300, HANG_UP, hears("goodbye", 1000)),
        at(1310, HUNG_UP, CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
        on=plan(**POLITE),
    ),
    story(
        "an agent who hangs up without a word says one goodbye, also where the tool answers after its response's end",
        at(0, response("r1"), asks_tool("t1", "hang_up"), run_tool("t1", "hang_up"), ends("r1")),
        at(10, ev.HangUpWished("agent"), ask(GOODBYE), tool_done("t1"), submit("t1")),
        at(300, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(1300, HANG_UP, hears("goodbye", 1000)),
        on=plan(**POLITE),
    ),
    story(
        "hang_up called after the goodbye was said: nothing more is asked for",
        at(0, response("r1"), says("r1", "goodbye", 1000), asks_tool("t1", "hang_up"), run_tool("t1", "hang_up")),
        at(10, ev.HangUpWished("agent"), tool_done("t1"), submit("t1")),
        at(20, ends("r1")),
        at(1000, HANG_UP),
    ),
    story(
        "a response that fails while the goodbye waits is not asked for again: the goodbye is",
        at(0, response("r1"), ev.HangUpWished("drain")),
        at(100, ends("r1", "failed"), note("response_failed", "failed : "), ask(GOODBYE)),
        at(300, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(1300, HANG_UP, hears("goodbye", 1000)),
        on=plan(greeting="Greet."),
    ),
    story(
        "nor is one that fails because the limit was reached with it",
        at(0, response("r1")),
        at(100, ends("r1", "failed", usage=ev.Usage(1000, 5)), note("response_failed", "failed : "), ask(AT_THE_LIMIT)),
        on=plan(greeting="Greet.", max_tokens=1000),
    ),
    story(
        "a goodbye that is taken back is not made again, and nobody is asked to say anything again",
        at(0, ev.HangUpWished("operator"), ask(GOODBYE)),
        at(200, response("r1"), ends("r1", "cancelled"), HANG_UP),
        at(210, HUNG_UP, CLOSE_MODEL, end(EndReason.ENDED_BY_OPERATOR)),
        on=plan(**POLITE),
    ),
    story(
        "a goodbye that never comes is waited for eight seconds",
        at(0, ev.HangUpWished("operator"), ask(GOODBYE)),
        at(7999),
        at(8000, HANG_UP),
        at(8010, HUNG_UP, CLOSE_MODEL, end(EndReason.ENDED_BY_OPERATOR)),
        on=plan(**POLITE),
    ),
    story(
        "a goodbye whose last mark never comes is waited for eight seconds",
        at(0, response("r1"), says("r1", "goodbye", 1000), ev.HangUpWished("agent"), ends("r1")),
        at(7999),
        at(8000, note("goodbye_not_confirmed"), HANG_UP),
        carrier=lambda: Carrier(marks_held=(950, 1e9)),
    ),
    story(
        "a goodbye longer than the wait is not clipped",
        at(0, response("r1"), says("r1", "goodbye", 12_000), ev.HangUpWished("agent"), ends("r1")),
        at(12_000, HANG_UP, hears("goodbye", 12_000)),
    ),
    story(
        "but no goodbye keeps a call for longer than a minute",
        at(0, response("r1"), says("r1", "goodbye", 100_000), ev.HangUpWished("agent"), ends("r1")),
        at(59_999),
        at(60_000, HANG_UP),
    ),
    story(
        "a carrier without marks: the clock says when the goodbye was heard",
        at(0, response("r1"), says("r1", "goodbye", 1000), ev.HangUpWished("agent"), ends("r1")),
        at(1100, HANG_UP, hears("goodbye", 1000)),
        on=plan(carrier=CarrierCapabilities(marks=False)),
        carrier=lambda: Carrier(marks=False),
    ),
    story(
        "the caller leaves while the hang-up is on its way: the agent hung up",
        at(0, response("r1"), says("r1", "goodbye", 500), ev.HangUpWished("agent"), ends("r1")),
        at(500, HANG_UP),
        at(510, caller_leaves("stop"), CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
    ),
    story(
        "a carrier that does not answer a hang-up has five seconds",
        at(0, response("r1"), says("r1", "goodbye", 500), ev.HangUpWished("agent"), ends("r1")),
        at(500, HANG_UP),
        at(5499),
        at(5500, CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
    ),
    story(
        "a hang-up that fails ends the call all the same: closing the socket does it",
        at(0, response("r1"), says("r1", "goodbye", 500), ev.HangUpWished("agent"), ends("r1")),
        at(500, HANG_UP),
        at(600, ev.HandedOver("hang_up", False, "500"), CLOSE_MODEL, end(EndReason.AGENT_HUNG_UP)),
    ),
    story(
        "an answer of the carrier's to a question nobody asked means nothing",
        at(0, response("r1"), says("r1", "goodbye", 500), ev.HangUpWished("agent"), ends("r1")),
        at(100, HUNG_UP, ev.HandedOver("transfer", True)),
        at(500, HANG_UP, hears("goodbye", 500)),
        at(510, ev.HandedOver("transfer", True)),
    ),
    story(
        "a transfer happens after what was said has been heard",
        at(0, response("r1"), says("r1", "one moment", 800), ev.TransferWished("+1555"), ends("r1")),
        at(800, do.Transfer("+1555"), hears("one moment", 800)),
        at(1200, ev.HandedOver("transfer", True), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
    ),
    story(
        "a transfer that fails gives the call back to the agent",
        at(0, response("r1"), says("r1", "one moment", 800), ev.TransferWished("+1555"), ends("r1")),
        at(800, do.Transfer("+1555")),
        at(
            1200,
            ev.HandedOver("transfer", False, "busy"),
            do.TellModel("note", TRANSFER_FAILED),
            ASK,
        ),
        at(1300, response("r2"), says("r2", "sorry", 500), ends("r2")),
        at(60_000, hears("sorry", 500)),
    ),
    story(
        "the session that comes after one lost on the way is told that the transfer failed",
        at(0, ev.TransferWished("+1555"), do.Transfer("+1555")),
        at(200, ev.HandedOver("transfer", False, "busy"), do.TellModel("note", TRANSFER_FAILED), ASK),
        at(300, lost(1), CLOSE_MODEL, open_model(2, 0, do.HistoryItem("note", TRANSFER_FAILED))),
    ),
    story(
        "a transfer that fails with no model to speak hangs up",
        at(0, ev.TransferWished("+1555"), do.Transfer("+1555")),
        at(100, lost(1), CLOSE_MODEL),
        at(200, ev.HandedOver("transfer", False), do.Transfer("+1555", by_closing=True)),
        at(300, ev.HandedOver("transfer", False), HANG_UP),
        at(400, HUNG_UP, end(EndReason.MODEL_UNAVAILABLE)),
    ),
    story(
        "a transfer that the carrier refuses with no model to speak is made by closing the stream",
        at(0, ev.TransferWished("+1555"), do.Transfer("+1555")),
        at(100, lost(1), CLOSE_MODEL),
        at(200, ev.HandedOver("transfer", False), do.Transfer("+1555", by_closing=True)),
        at(300, ev.HandedOver("transfer", True), end(EndReason.TRANSFERRED)),
    ),
    story(
        "the operator ends a call with a goodbye",
        at(0, response("r1"), says("r1", "hello", 500), ends("r1")),
        at(2000, ev.HangUpWished("operator"), ask(GOODBYE)),
        at(2100, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(3100, HANG_UP),
        at(3200, HUNG_UP, CLOSE_MODEL, end(EndReason.ENDED_BY_OPERATOR)),
    ),
    story(
        "a call that is drained cannot be taken back by the caller",
        at(0, ev.HangUpWished("drain"), ask(GOODBYE)),
        at(100, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(500, caller_speaks()),
        at(1100, HANG_UP, hears("goodbye", 1000)),
        at(1200, HUNG_UP, CLOSE_MODEL, end(EndReason.DRAINED)),
        on=plan(interrupt_hang_up=True),
    ),
    story(
        "who answers the goodbye to silence was there after all",
        at(5000, ask("Ask briefly whether the caller is still there.")),
        at(5100, response("r1"), says("r1", "still there", 1000), ends("r1")),
        at(11_100, ask("The caller has gone quiet. Say a short goodbye.")),
        at(11_200, response("r2"), says("r2", "goodbye", 2000), ends("r2")),
        at(12_200, caller_speaks(), CLEAR, truncate("goodbye", 1000)),
        at(14_000, caller_stops()),
        at(14_100, response("r3"), says("r3", "good", 500), ends("r3")),
        at(19_500),
        on=plan(idle_prompt_after_s=5, idle_hang_up_after_s=5),
    ),
    story(
        "the caller is asked once whether they are there, then told goodbye",
        at(5000, ask("Ask briefly whether the caller is still there.")),
        at(5100, response("r1"), says("r1", "still there", 1000), ends("r1")),
        at(11_099),
        at(11_100, ask("The caller has gone quiet. Say a short goodbye.")),
        at(11_200, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(12_200, HANG_UP),
        at(12_300, HUNG_UP, CLOSE_MODEL, end(EndReason.CALLER_SILENT)),
        on=plan(idle_prompt_after_s=5, idle_hang_up_after_s=5),
    ),
    story(
        "silence is counted from when the agent has been heard",
        at(0, response("r1"), says("r1", "hello", 4000), ends("r1")),
        at(8999),
        at(9000, ask("Ask briefly whether the caller is still there.")),
        on=plan(idle_prompt_after_s=5),
    ),
    story(
        "without a question who is silent is let go, and who speaks then keeps the call, for as long again",
        at(8000, ask("The caller has gone quiet. Say a short goodbye.")),
        at(8100, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(8600, caller_speaks(), CLEAR, truncate("goodbye", 500)),
        at(9000, caller_stops()),
        at(9100, response("r2"), says("r2", "fine", 900), ends("r2")),
        at(17_999),
        at(18_000, ask("The caller has gone quiet. Say a short goodbye.")),
        on=plan(idle_prompt_after_s=0, idle_hang_up_after_s=8),
    ),
    story(
        "an answer starts the silence anew, and the question may be asked again",
        at(5000, ask("Ask briefly whether the caller is still there.")),
        at(5100, response("r1"), says("r1", "still there", 1000), ends("r1")),
        at(7000, caller_speaks()),
        at(8000, caller_stops()),
        at(8100, response("r2"), says("r2", "fine", 900), ends("r2")),
        at(13_999),
        at(14_000, ask("Ask briefly whether the caller is still there.")),
        on=plan(idle_prompt_after_s=5, idle_hang_up_after_s=10),
    ),
    story(
        "the time limit is announced, then kept after a goodbye",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 1000), ends("r1")),
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_100, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(61_100, HANG_UP),
        at(61_200, HUNG_UP, CLOSE_MODEL, end(EndReason.MAX_DURATION)),
        on=plan(max_call_s=60),
    ),
    story(
        "a limit of tokens is kept after a goodbye, which is all that comes on top; cut responses count too",
        at(0, response("r1"), says("r1", "i", 1000)),
        at(500, caller_speaks(), CLEAR, truncate("i", 500)),
        at(600, ev.ResponseEnded("r1", "cancelled", usage=ev.Usage(400, 100))),
        at(1000, caller_stops()),
        at(1100, response("r2"), says("r2", "j", 1000)),
        at(
            1200,
            ev.ResponseEnded("r2", "completed", usage=ev.Usage(400, 100)),
            ask(AT_THE_LIMIT),
        ),
        at(1300, response("r3"), says("r3", "goodbye", 1000)),
        at(1400, ev.ResponseEnded("r3", "completed", usage=ev.Usage(500, 50))),
        at(3100, HANG_UP),
        at(3200, HUNG_UP, CLOSE_MODEL, end(EndReason.TOKEN_LIMIT)),
        on=plan(max_tokens=1000),
    ),
    story(
        "the time limit is kept although the caller speaks over the goodbye",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_100, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(60_500, caller_speaks()),
        at(61_100, HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0, interrupt_hang_up=True),
    ),
    story(
        "at a limit the caller is not answered any more, and the goodbye comes all the same",
        at(59_000, caller_speaks()),
        at(60_500, caller_stops()),
        at(60_600, response("r1"), cancel("r1")),
        at(60_650, says("r1", "answer", 1000), ends("r1", "cancelled"), ask(AT_THE_LIMIT)),
        at(60_700, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(60_900, caller_speaks()),
        at(61_200, caller_stops()),
        at(61_300, response("r3"), cancel("r3")),
        at(61_400, ends("r3", "cancelled")),
        at(61_700, HANG_UP, hears("goodbye", 1000), hears("answer", 0)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "at a limit who is answered only when we ask is not answered any more either",
        at(59_000, caller_speaks()),
        at(60_500, caller_stops(), ask(AT_THE_LIMIT)),
        at(60_700, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(60_800, pressed("#"), do.TellModel("caller", "The caller pressed #")),
        at(60_900, caller_speaks()),
        at(61_200, caller_stops()),
        at(61_700, HANG_UP, hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=0, model=OBEYS),
    ),
    story(
        "a caller who talks on and on does not keep the call",
        at(59_000, caller_speaks()),
        at(67_999),
        at(68_000, note("goodbye_not_confirmed"), HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "a caller who asks again and again does not keep the call",
        at(59_000, caller_speaks()),
        at(59_500, caller_stops()),
        *(
            step
            for n in range(9)
            for step in (
                at(59_600 + 2000 * n, response(f"r{n}"), *([cancel(f"r{n}")] if n else [])),
                at(59_700 + 2000 * n, caller_speaks()),
                at(60_100 + 2000 * n, ends(f"r{n}", "cancelled")),
                at(61_500 + 2000 * n, caller_stops()),
            )
        ),
        at(79_000, ask(AT_THE_LIMIT)),
        at(80_000, note("goodbye_not_confirmed"), HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "at a limit an answer that never comes is waited for a moment, then the goodbye is said",
        at(59_000, caller_speaks()),
        at(59_900, caller_stops()),
        at(61_500, ask(AT_THE_LIMIT)),
        at(61_600, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(62_600, HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "at a limit an answer that cannot be cancelled is heard before the goodbye",
        at(59_000, caller_speaks()),
        at(60_500, caller_stops()),
        at(60_600, response("r1"), says("r1", "answer", 1000), ends("r1"), ask(AT_THE_LIMIT)),
        at(61_000, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(62_600, HANG_UP, hears("answer", 1000), hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=0, model=msgspec.structs.replace(INTERRUPTS, can_cancel=False)),
    ),
    story(
        "at a limit nothing is said about a tool that has answered, before or after the goodbye",
        at(59_500, response("r1"), asks_tool("t1"), run_tool("t1"), asks_tool("t2"), run_tool("t2"), ends("r1")),
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_050, tool_done("t1"), submit("t1")),
        at(60_100, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(60_300, caller_speaks()),
        at(60_600, caller_stops()),
        at(60_700, response("r3"), cancel("r3"), ends("r3", "cancelled")),
        at(62_000, tool_done("t2"), submit("t2"), HANG_UP, hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "a session that becomes ready after a limit is asked for nothing",
        at(57_500, caller_speaks()),
        at(57_800, caller_stops()),
        at(57_850, lost(1), CLOSE_MODEL, open_model(2)),
        at(59_350),
        at(60_000),
        at(60_200, ready(2)),
        at(61_750, HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0, clips={"filler": bytes([250]) * 2400 * BYTES_PER_MS}),
    ),
    story(
        "a limit that falls into a transfer that fails is kept all the same",
        at(59_900, ev.TransferWished("+15559999"), do.Transfer("+15559999")),
        at(60_000),
        at(62_500, ev.HandedOver("transfer", False), do.TellModel("note", TRANSFER_FAILED), ASK),
        at(63_100, response("r1"), says("r1", "sorry", 400), ends("r1"), ask(AT_THE_LIMIT)),
        at(63_200, response("r2"), says("r2", "goodbye", 500), ends("r2")),
        at(64_000, HANG_UP),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "what is being said at a limit, and the goodbye, are heard for 20 seconds more at most",
        at(59_000, response("r1"), says("r1", "i", 40_000), ends("r1")),
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_100, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(79_999),
        at(80_000, note("goodbye_not_confirmed"), HANG_UP, hears("i", 21_000)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "the announcement of a limit is made again if the caller spoke before they could hear it",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 3000), ends("r1")),
        at(30_500, caller_speaks(), CLEAR, truncate("soon", 400)),
        at(31_000, caller_stops()),
        at(31_100, response("r2"), says("r2", "answer", 1000)),
        at(31_200, ends("r2"), ask(WARNING)),
        at(32_000, caller_speaks(), CLEAR, truncate("answer", 900)),
        at(32_050, response("r3"), cancel("r3")),
        at(32_100, ends("r3", "cancelled")),
        at(32_500, caller_stops()),
        at(32_600, response("r4"), says("r4", "more", 500), ends("r4"), ask(WARNING)),
        at(32_700, response("r5"), says("r5", "at last", 3000), ends("r5")),
        at(35_600, caller_speaks(), CLEAR, truncate("at last", 2500)),
        at(36_000, caller_stops()),
        at(36_100, response("r6"), says("r6", "enough", 500), ends("r6")),
        at(59_999),
        on=plan(max_call_s=60),
    ),
    story(
        "it counts as made when no more than its last words are missing, and is made again twice at most",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 3000), ends("r1")),
        at(32_400, caller_speaks(), CLEAR, truncate("soon", 2300)),
        at(33_000, caller_stops()),
        at(33_100, response("r2"), says("r2", "answer", 500), ends("r2"), ask(WARNING)),
        at(33_200, response("r3"), says("r3", "once more", 1500)),  # and there is more of it
        at(35_050, caller_speaks(), CLEAR, truncate("once more", 1450)),
        at(35_060, ends("r3", "cancelled")),
        at(35_500, caller_stops()),
        at(35_600, response("r4"), says("r4", "more", 500), ends("r4"), ask(WARNING)),
        at(35_700, response("r5"), says("r5", "at last", 3000), ends("r5")),
        at(37_100, caller_speaks(), CLEAR, truncate("at last", 1000)),
        at(37_500, caller_stops()),
        at(37_600, response("r6"), says("r6", "enough", 500), ends("r6")),
        at(59_999),
        on=plan(max_call_s=60),
    ),
    story(
        "what of it was not heard at all is no time it was made",
        at(29_000, response("b0"), says("b0", "a0", 9000), ends("b0")),
        at(30_000, ask(WARNING)),
        *(
            step
            for n, heard_ms in enumerate((1300, 800, 800, 800))
            for step in (
                at(30_100 + 2000 * n, response(f"w{n}"), says(f"w{n}", f"i{n}", 1000), ends(f"w{n}")),
                at(30_300 + 2000 * n, caller_speaks(), CLEAR, truncate(f"a{n}", heard_ms), delete(f"i{n}")),
                at(31_000 + 2000 * n, caller_stops()),
                at(31_500 + 2000 * n, response(f"b{n + 1}"), says(f"b{n + 1}", f"a{n + 1}", 4000)),
                at(31_600 + 2000 * n, ends(f"b{n + 1}"), ask(WARNING)),
            )
        ),
        on=plan(max_call_s=60),
    ),
    story(
        "the announcement of a limit comes after what the caller has asked",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 3000), ends("r1")),
        at(30_500, caller_speaks(), CLEAR, truncate("soon", 400)),
        at(32_000, caller_stops(), ASK),
        at(32_100, response("r2"), says("r2", "answer", 500), ends("r2"), ask(WARNING)),
        on=plan(max_call_s=60, model=OBEYS),
    ),
    story(
        "and after the keys they press, all of them",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 3000), ends("r1")),
        at(30_500, pressed("1"), CLEAR, truncate("soon", 400)),
        at(31_000, pressed("#"), do.TellModel("caller", "The caller pressed 1#"), ASK),
        at(31_100, response("r2"), says("r2", "answer", 500), ends("r2"), ask(WARNING)),
        on=plan(max_call_s=60),
    ),
    story(
        "it does not come after the agent's goodbye",
        at(30_000, ask(WARNING)),
        at(30_100, response("r1"), says("r1", "soon", 3000), ends("r1")),
        at(30_500, caller_speaks(), CLEAR, truncate("soon", 400)),
        at(32_000, caller_stops()),
        at(32_100, response("r2"), says("r2", "goodbye", 1000), ev.HangUpWished("agent"), ends("r2")),
        at(33_100, HANG_UP),
        on=plan(max_call_s=60),
    ),
    story(
        "but it does if the caller takes the call back",
        at(29_500, ask("The caller has gone quiet. Say a short goodbye.")),
        at(29_600, response("r1"), says("r1", "goodbye", 2000), ends("r1")),
        at(30_500, caller_speaks(), CLEAR, truncate("goodbye", 900)),
        at(31_000, caller_stops()),
        at(31_100, response("r2"), says("r2", "fine", 500), ends("r2"), ask(WARNING)),
        on=plan(max_call_s=60, idle_prompt_after_s=0, idle_hang_up_after_s=29.5),
    ),
    story(
        "an announcement still waiting behind a long answer at the limit is not made any more",
        at(29_000, response("r1"), says("r1", "long", 35_000), ends("r1")),
        at(30_000, ask(WARNING)),
        at(30_100, response("r2"), says("r2", "soon", 1000), ends("r2")),
        at(60_000, delete("soon"), ask(AT_THE_LIMIT)),
        at(60_100, response("r3"), says("r3", "goodbye", 1000), ends("r3")),
        at(65_000, HANG_UP, hears("long", 35_000), hears("soon", 0), hears("goodbye", 1000)),
        on=plan(max_call_s=60),
    ),
    story(
        "nor one that is only being made",
        at(29_000, response("r1"), says("r1", "long", 35_000), ends("r1")),
        at(30_000, ask(WARNING)),
        at(59_000, response("r2"), says("r2", "soon", 500)),
        at(60_000, cancel("r2"), delete("soon")),
        at(60_050, says("r2", "soon", 500), ends("r2", "cancelled"), ask(AT_THE_LIMIT)),
        at(60_100, response("r3"), says("r3", "goodbye", 1000), ends("r3")),
        at(65_000, HANG_UP, hears("soon", 0), hears("goodbye", 1000)),
        on=plan(max_call_s=60, **POLITE),
    ),
    story(
        "nor one of which nothing has come",
        at(59_000, ask(WARNING)),
        at(59_900, response("r1")),
        at(60_000, cancel("r1")),
        at(60_050, ends("r1", "cancelled"), ask(AT_THE_LIMIT)),
        on=plan(max_call_s=60, warn_before_end_s=1, **POLITE),
    ),
    story(
        "nor one that was asked for and is not begun",
        at(59_000, ask(WARNING)),
        at(60_000),
        at(60_100, response("r1"), cancel("r1")),
        at(60_150, says("r1", "soon", 500), ends("r1", "cancelled"), ask(AT_THE_LIMIT)),
        at(60_200, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(61_200, HANG_UP, hears("soon", 0), hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=1, **POLITE),
    ),
    story(
        "but one that has begun is heard to its end",
        at(59_000, ask(WARNING)),
        at(59_500, response("r1"), says("r1", "soon", 1000)),
        at(60_000),
        at(60_100, says("r1", "soon", 1000), ends("r1"), ask(AT_THE_LIMIT)),
        at(60_200, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(62_500, HANG_UP, hears("soon", 2000), hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=1),
    ),
    story(
        "at a limit of tokens it is the same",
        at(29_000, response("r1"), says("r1", "long", 9000), ends("r1")),
        at(30_000, ask(WARNING)),
        at(30_100, response("r2"), says("r2", "soon", 1000)),
        at(30_200, ends("r2", usage=ev.Usage(900, 200)), delete("soon"), ask(AT_THE_LIMIT)),
        at(30_300, response("r3"), says("r3", "goodbye", 1000), ends("r3")),
        at(39_000, HANG_UP, hears("soon", 0), hears("goodbye", 1000)),
        on=plan(max_call_s=60, max_tokens=1000),
    ),
    story(
        "nor is it made in a call that is taken back after its limit",
        at(59_000, ask("The caller has gone quiet. Say a short goodbye.")),
        at(59_100, response("r1"), says("r1", "goodbye", 2000), ends("r1")),
        at(60_500, caller_speaks(), CLEAR, truncate("goodbye", 1400)),
        at(60_600, caller_stops()),
        at(60_700, response("r2"), says("r2", "fine", 500), ends("r2")),
        at(61_000, ask(AT_THE_LIMIT)),
        on=plan(max_call_s=60, warn_before_end_s=0.5, idle_prompt_after_s=0, idle_hang_up_after_s=59),
    ),
    story(
        "a caller taken for gone keeps the call also where they may not interrupt",
        at(8000, ask("The caller has gone quiet. Say a short goodbye.")),
        at(8100, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(8600, caller_speaks()),
        at(9500, caller_stops()),
        at(9600, response("r2"), says("r2", "fine", 500), ends("r2")),
        at(15_000, hears("goodbye", 1000), hears("fine", 500)),
        on=plan(barge_in="off", idle_prompt_after_s=0, idle_hang_up_after_s=8),
    ),
    story(
        "who presses a key during the goodbye to silence was there after all, and may be asked again",
        at(5000, ask("Ask briefly whether the caller is still there.")),
        at(5100, response("r1"), says("r1", "still there", 1000), ends("r1")),
        at(26_100, ask("The caller has gone quiet. Say a short goodbye.")),
        at(26_200, response("r2"), says("r2", "goodbye", 2000), ends("r2")),
        at(27_200, pressed("4"), CLEAR, truncate("goodbye", 1000)),
        at(27_700, pressed("2")),
        at(29_200, do.TellModel("caller", "The caller pressed 42"), ASK),
        at(29_300, response("r3"), says("r3", "fine", 700), ends("r3")),
        at(34_999, hears("fine", 700)),
        at(35_000, ask("Ask briefly whether the caller is still there.")),
        on=plan(idle_prompt_after_s=5, idle_hang_up_after_s=20),
    ),
    story(
        "a key takes back the agent's goodbye where it may be interrupted, also one asked for and not begun",
        at(0, ev.HangUpWished("agent"), ask(GOODBYE)),
        at(300, pressed("1")),
        at(400, response("r1"), cancel("r1")),
        at(410, says("r1", "goodbye", 1000), ends("r1", "cancelled")),
        at(500, pressed("#"), do.TellModel("caller", "The caller pressed 1#"), ASK),
        at(600, response("r2"), says("r2", "fine", 2000), ev.HangUpWished("agent"), ends("r2")),
        at(1100, pressed("#"), CLEAR, truncate("fine", 500), do.TellModel("caller", "The caller pressed #"), ASK),
        at(1200, response("r3"), says("r3", "well", 500), ends("r3")),
        at(60_000, hears("goodbye", 0), hears("well", 500)),
        on=plan(interrupt_hang_up=True, **POLITE),
    ),
    story(
        "a key goes on with those pressed before the goodbye began",
        at(0, pressed("1")),
        at(500, response("r1"), says("r1", "goodbye", 2000), ev.HangUpWished("agent"), ends("r1")),
        at(1000, pressed("2"), CLEAR, truncate("goodbye", 500)),
        at(2500, do.TellModel("caller", "The caller pressed 12"), ASK),
        at(2600, response("r2"), says("r2", "fine", 500), ends("r2")),
        at(60_000, hears("fine", 500)),
        on=plan(interrupt_hang_up=True),
    ),
    story(
        "a key takes back a transfer that is not under way, and no other",
        at(0, response("r1"), says("r1", "one moment", 800), ev.TransferWished("+1555"), ends("r1")),
        at(300, pressed("#"), CLEAR, truncate("one moment", 300), do.TellModel("caller", "The caller pressed #"), ASK),
        at(400, response("r2"), says("r2", "then", 800), ev.TransferWished("+1666"), ends("r2")),
        at(1200, do.Transfer("+1666")),
        at(1300, pressed("#"), do.TellModel("caller", "The caller pressed #")),
        at(1400, ev.HandedOver("transfer", True), CLOSE_MODEL, end(EndReason.TRANSFERRED)),
        on=plan(interrupt_hang_up=True),
    ),
    story(
        "a key takes the call back also when the session is gone: there is another one then",
        at(0, response("r1"), says("r1", "goodbye", 2000), ev.HangUpWished("agent"), ends("r1")),
        at(500, lost(1), CLOSE_MODEL),
        at(1000, pressed("#"), CLEAR),
        at(1001, open_model(2, 0, do.HistoryItem("caller", "The caller pressed #"))),
        at(1200, ready(2), ASK),
        at(1300, response("r2"), says("r2", "fine", 500), ends("r2")),
        at(60_000, hears("goodbye", 1000), hears("fine", 500)),
        on=plan(interrupt_hang_up=True),
    ),
    story(
        "a goodbye that may not be interrupted is not disturbed by a key",
        at(0, response("r1"), says("r1", "goodbye", 1000), ev.HangUpWished("agent"), ends("r1")),
        at(300, pressed("#"), do.TellModel("caller", "The caller pressed #")),
        at(1000, HANG_UP, hears("goodbye", 1000)),
    ),
    story(
        "where the agent may not be interrupted, a key keeps the call and is answered after the goodbye",
        at(8000, ask("The caller has gone quiet. Say a short goodbye.")),
        at(8100, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(8600, pressed("#"), do.TellModel("caller", "The caller pressed #"), ASK),
        at(8700, response("r2"), says("r2", "fine", 500), ends("r2")),
        at(15_000, hears("goodbye", 1000), hears("fine", 500)),
        on=plan(barge_in="off", idle_prompt_after_s=0, idle_hang_up_after_s=8),
    ),
    story(
        "a session lost before the goodbye at a limit has begun is followed by another, which says it",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, lost(1), CLOSE_MODEL, open_model(2)),
        at(60_800, ready(2), ask(AT_THE_LIMIT)),
        at(61_000, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(62_000, HANG_UP, hears("goodbye", 1000)),
        at(62_100, HUNG_UP, CLOSE_MODEL, end(EndReason.MAX_DURATION)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "also when what was said before is still to be heard, and the caller speaks meanwhile",
        at(59_000, response("r1"), says("r1", "long", 5000)),
        at(60_000),
        at(60_500, lost(1), CLOSE_MODEL, open_model(2)),
        at(60_800, ready(2), ask(AT_THE_LIMIT)),
        at(60_900, caller_speaks()),
        at(61_000, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(65_000, HANG_UP, hears("long", 5000), hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "a goodbye of which little had come is heard so far, then said anew",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, response("r1"), says("r1", "good", 600)),
        at(60_700, lost(1), CLOSE_MODEL, open_model(2)),
        at(61_500, ready(2), ask(AT_THE_LIMIT)),
        at(61_600, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(62_600, HANG_UP, hears("good", 600), hears("goodbye", 1000)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "so is the agent's own",
        at(0, response("r1"), says("r1", "good", 600), ev.HangUpWished("agent")),
        at(200, lost(1), CLOSE_MODEL, open_model(2)),
        at(500, ready(2), ask(GOODBYE)),
        at(600, response("r2"), says("r2", "goodbye", 1000), ends("r2")),
        at(1600, HANG_UP, hears("good", 600), hears("goodbye", 1000)),
    ),
    story(
        "and the operator's, from the next service where the first refuses for good",
        at(0, ev.HangUpWished("operator"), ask(GOODBYE)),
        at(500, lost(1, "fatal"), CLOSE_MODEL, open_model(2, 1)),
        at(800, ready(2), ask(GOODBYE)),
        at(900, response("r1"), says("r1", "goodbye", 1000), ends("r1")),
        at(1900, HANG_UP, hears("goodbye", 1000)),
        on=plan(models=(INTERRUPTS, OBEYS)),
    ),
    story(
        "a goodbye of which most had come is not said again",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, response("r1"), says("r1", "goodbye", 1600)),
        at(60_700, lost(1), CLOSE_MODEL),
        at(62_100, HANG_UP, hears("goodbye", 1600)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "nor a short one to its end",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, response("r1"), says("r1", "bye", 500), item_done("r1", "bye")),
        at(60_700, lost(1), CLOSE_MODEL),
        at(61_000, HANG_UP, hears("bye", 500)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "a goodbye that no session comes for is waited for no longer than any",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, lost(1), CLOSE_MODEL, open_model(2)),
        at(65_500),
        at(66_000, open_model(3)),
        at(67_999),
        at(68_000, note("goodbye_not_confirmed"), HANG_UP),
        at(68_100, HUNG_UP, CLOSE_MODEL, end(EndReason.MAX_DURATION)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "nor one that fails again and again",
        at(0, ev.HangUpWished("operator"), ask(GOODBYE)),
        at(900, response("r1"), ends("r1", "failed"), ask(GOODBYE)),
        at(1900, response("r2"), ends("r2", "failed"), CLOSE_MODEL, open_model(2)),
        at(4900, ready(2), ask(GOODBYE)),
        at(5900, response("r3"), ends("r3", "failed"), ask(GOODBYE)),
        at(7999),
        at(8000, note("goodbye_not_confirmed"), HANG_UP),
    ),
    story(
        "nor is it waited for, or apologised for, where no session can be had",
        at(60_000, ask(AT_THE_LIMIT)),
        at(60_500, lost(1), CLOSE_MODEL, open_model(2)),
        at(60_600, lost(2, "fatal"), HANG_UP, lambda book: _heard_clip(book, "apology", 0)),
        on=plan(max_call_s=60, warn_before_end_s=0, clips=CLIPS),
    ),
    story(
        "a session lost while the hang-up is on its way is not followed by another",
        at(59_000, caller_speaks()),
        at(68_000, HANG_UP),
        at(68_100, lost(1), CLOSE_MODEL),
        at(68_200, HUNG_UP, end(EndReason.MAX_DURATION)),
        on=plan(max_call_s=60, warn_before_end_s=0),
    ),
    story(
        "a transfer does not wait for another session",
        at(0, response("r1"), says("r1", "one", 500), ev.TransferWished("+1555")),
        at(200, lost(1), CLOSE_MODEL),
        at(500, do.Transfer("+1555"), hears("one", 500)),
    ),
    story(
        "who takes the call back while another session comes is answered by that",
        at(8000, ask("The caller has gone quiet. Say a short goodbye.")),
        at(8500, lost(1), CLOSE_MODEL, open_model(2)),
        at(8600, pressed("#")),
        at(8800, ready(2), do.TellModel("caller", "The caller pressed #"), ASK),
        at(8900, response("r1"), says("r1", "fine", 500), ends("r1")),
        at(15_000, hears("fine", 500)),
        on=plan(idle_prompt_after_s=0, idle_hang_up_after_s=8),
    ),
    story(
        "a long message in place of the model is heard to its end",
        at(0, lost(1, "fatal"), CLOSE_MODEL),
        at(71_000, HANG_UP, lambda book: _heard_clip(book, "message", 70_000)),
        on=plan(clips=CLIPS | {"message": bytes([253]) * 70_000 * BYTES_PER_MS}, fallback_message="message"),
    ),
    story(
        "the carrier stops reading",
        at(0, ev.PhoneStalled(), CLOSE_MODEL, end(EndReason.STALLED)),
    ),
    story(
        "the carrier breaks its protocol",
        at(0, ev.CarrierMisbehaved("a second start"), CLOSE_MODEL, end(EndReason.PROTOCOL)),
    ),
    story(
        "a stream that brings no audio",
        at(14_999),
        at(15_000, CLOSE_MODEL, end(EndReason.NEVER_STARTED)),
        on=plan(first_media_s=15.0),
    ),
    story(
        "a stream that brings audio, if only silence, stays",
        at(14_000, caller_audio()),
        at(30_000),
        on=plan(first_media_s=15.0),
    ),
    story(
        "the model service refuses for good: an apology, then the call is hung up",
        at(0, lost(1, "fatal"), CLOSE_MODEL),
        at(1000, HANG_UP, lambda book: _heard_clip(book, "apology", 1000)),
        at(1100, HUNG_UP, end(EndReason.MODEL_REFUSED)),
        on=plan(clips=CLIPS),
    ),
    story(
        "the model service refuses for good: an apology, then the caller is handed on where the agent says so",
        at(0, lost(1, "fatal"), CLOSE_MODEL),
        at(1000, do.Transfer("+15559999"), lambda book: _heard_clip(book, "apology", 1000)),
        at(1100, ev.HandedOver("transfer", True), end(EndReason.MODEL_REFUSED)),
        on=plan(clips=CLIPS, fallback="transfer"),
    ),
    story(
        "the model service refuses for good: an apology, then a message, where the agent has one, to its last word",
        at(0, lost(1, "fatal"), CLOSE_MODEL),
        at(13_000, HANG_UP, lambda book: _heard_clip(book, "apology", 1000)),
        at(13_100, HUNG_UP, end(EndReason.MODEL_REFUSED), lambda book: _heard_clip(book, "message", 12_000)),
        on=plan(clips=CLIPS | {"message": bytes([253]) * 12_000 * BYTES_PER_MS}, fallback_message="message"),
    ),
]


def _heard_clip(book: Playbook, clip: str, ms: float) -> None:
    assert book.clip_ms(clip) == ms


@pytest.mark.parametrize("row", ENDINGS, ids=str)
def test_ending(row: Story) -> None:
    Playbook.connected(row.plan, row.carrier()).play(*row.steps)


def test_a_call_whose_stream_never_comes() -> None:
    book = Playbook(plan())
    book.play(
        at(0, ROUTED, do.OpenModel(1, 0)),
        at(300, ready()),
        at(60_000, CLOSE_MODEL, end(EndReason.NEVER_STARTED)),
    )


def test_a_model_that_cannot_be_had_is_tried_for_five_seconds_then_apologised_for() -> None:
    book = Playbook(plan(clips=CLIPS))
    book.play(
        at(0, ROUTED, do.OpenModel(1, 0)),
        at(10, stream()),
        at(20, lost(1), do.OpenModel(2, 0)),
        at(30, lost(2)),
        at(530, do.OpenModel(3, 0)),
        at(540, lost(3)),
        at(2040, do.OpenModel(4, 0)),
        at(2050, lost(4)),
        at(3550, do.OpenModel(5, 0)),
        at(3560, lost(5)),
        at(5060, do.OpenModel(6, 0)),
        at(5070, lost(6)),
    )
    book.run_until(7000)
    assert book.read() == (HANG_UP,)
    assert book.clip_ms("apology") == 1000
    assert book.give(HUNG_UP)[-1] == end(EndReason.MODEL_UNAVAILABLE)


def test_a_broken_invariant_is_an_assertion_and_not_a_reason_of_the_core() -> None:
    """BUG is the driver's: it is what a call ends with that could not decide."""
    book = Playbook.connected()

    class Unknown(ev.Event, frozen=True):
        pass

    with pytest.raises(AssertionError, match="not a fact"):
        book.call.handle(Unknown(), 0)


def test_every_reason_but_a_bug_has_been_reached() -> None:
    reached = {
        one.reason for row in ENDINGS for step in row.steps for one in step.requests if isinstance(one, do.EndCall)
    }
    elsewhere = {
        EndReason.CALLER_LEFT,  # the races
        EndReason.STREAM_LOST,
        EndReason.MODEL_UNAVAILABLE,  # above
        EndReason.BUG,  # the driver's
    }
    assert reached | elsewhere == set(EndReason)


@pytest.mark.parametrize(
    "fact",
    [ROUTED, stream("MZ9"), ready(), response("r9"), says("r9", "i9", 100), caller_speaks(), lost(1), HUNG_UP],
    ids=lambda fact: type(fact).__name__,
)
def test_nothing_comes_after_the_end(fact: ev.Event) -> None:
    book = Playbook.connected()
    book.give(caller_leaves())
    assert book.call.over
    assert book.give(fact) == []
    assert book.call.deadline() is None


def test_a_caller_may_take_back_only_what_the_agent_wished() -> None:
    for wished, taken in (("agent", True), ("operator", False), ("drain", False)):
        book = Playbook.connected(plan(model=OBEYS, interrupt_hang_up=True))
        book.give(response("r1"))
        book.give(says("r1", "goodbye", 2000))
        book.give(ev.HangUpWished(wished))  # type: ignore[arg-type]
        book.run_until(500)
        done = book.give(caller_speaks())
        assert (cancel("r1") in done) == taken, wished
