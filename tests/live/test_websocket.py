"""The call's WebSocket held against the `websockets` library, frame by frame and byte by byte."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Side

from bridge.live.together import Together
from bridge.live.websocket import CallSocket
from bridge.sim import virtual
from tests.live.wires import LIMIT, End, Transport, frame, wire

SIDES = pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
LENGTHS = (0, 1, 125, 126, 127, 65_535, LIMIT)


def mask_for(side: Side) -> bytes | None:
    """What a peer of this side has to mask with."""
    return b"\xde\xad\xbe\xef" if side is Side.SERVER else None


# ---------------------------------------------------------------- messages


@SIDES
@pytest.mark.parametrize("length", LENGTHS)
async def test_a_message_of_every_length_class_arrives_whole_in_any_chunks(side: Side, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    whole = frame(payload, opcode=2, mask=mask_for(side))
    for size in (1, 2, 3, 7, 4096, len(whole)) if length < 1000 else (4096, 65_537, len(whole)):
        end = End(side)
        end.hears(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert end.messages == [(payload, False)]
        assert not end.closed


@SIDES
async def test_a_header_split_anywhere_is_put_together(side: Side) -> None:
    whole = frame(b"a" * 300, mask=mask_for(side)) + frame(b"b" * 70_000, mask=mask_for(side), opcode=2)
    for cut in [*range(1, 20), *range(300, 330)]:
        end = End(side, limit=100_000)
        end.hears(whole[:cut], whole[cut:])
        assert end.messages == [(b"a" * 300, True), (b"b" * 70_000, False)]


@SIDES
@pytest.mark.parametrize("length", LENGTHS)
async def test_what_is_sent_is_what_the_library_reads(side: Side, length: int) -> None:
    end = End(side)
    payload = random.Random(length).randbytes(length)
    end.socket.send(payload)
    end.socket.send_binary(payload)
    end.socket.send_all([payload, b"", payload])
    assert len(end.transport.writes) == 3, "several messages leave in one write"
    frames = end.to_peer()
    assert [frame.opcode for frame in frames] == [Opcode.TEXT, Opcode.BINARY, Opcode.TEXT, Opcode.TEXT, Opcode.TEXT]
    assert [bytes(frame.data) for frame in frames] == [payload, payload, payload, b"", payload]


async def test_a_client_masks_every_frame_with_another_key() -> None:
    end = End(Side.CLIENT)
    for _ in range(600):  # more than one page of keys
        end.socket.send(b"x")
    keys = {write[2:6] for write in end.transport.writes}
    assert len(keys) > 590


@SIDES
async def test_fragments_with_control_frames_between_are_one_message(side: Side) -> None:
    end, mask = End(side), mask_for(side)
    stream = (
        frame(b"one ", fin=False, mask=mask)
        + frame(b"are you there", opcode=9, mask=mask)
        + frame(b"two ", opcode=0, fin=False, mask=mask)
        + frame(b"", opcode=10, mask=mask)
        + frame(b"three", opcode=0, mask=mask)
        + frame(b"whole", mask=mask)
        + frame(b"\x00", opcode=2, fin=False, mask=mask)
        + frame(b"\x01", opcode=0, mask=mask)
    )
    end.hears(*(stream[at : at + 1] for at in range(len(stream))))
    assert end.messages == [(b"one two three", True), (b"whole", True), (b"\x00\x01", False)]
    assert [(f.opcode, bytes(f.data)) for f in end.to_peer()] == [(Opcode.PONG, b"are you there")]


async def test_text_that_is_not_utf8_is_delivered_for_the_dialect_to_judge() -> None:
    end = End()
    end.hears(frame(b"\xff\xfe"), frame(b"\xff", fin=False), frame(b"\xfe", opcode=0))
    assert end.messages == [(b"\xff\xfe", True), (b"\xff\xfe", True)]


# ---------------------------------------------------------------- what breaks the protocol


@SIDES
@pytest.mark.parametrize(
    "name",
    [
        "masked the wrong way",
        "a reserved bit",
        "a reserved opcode",
        "a reserved control opcode",
        "a fragmented ping",
        "a ping of 126 bytes",
        "a continuation of nothing",
        "a new message among fragments",
        "a close frame of one byte",
        "a close code nobody may send",
    ],
)
async def test_a_broken_frame_closes_with_1002_and_nothing_more_is_delivered(side: Side, name: str) -> None:
    right, wrong = mask_for(side), None if side is Side.SERVER else b"\x01\x02\x03\x04"
    broken = {
        "masked the wrong way": frame(b"x", mask=wrong),
        "a reserved bit": frame(b"x", rsv=4, mask=right),
        "a reserved opcode": frame(b"x", opcode=3, mask=right),
        "a reserved control opcode": frame(b"x", opcode=11, mask=right),
        "a fragmented ping": frame(b"x", opcode=9, fin=False, mask=right),
        "a ping of 126 bytes": frame(b"x" * 126, opcode=9, mask=right),
        "a continuation of nothing": frame(b"x", opcode=0, mask=right),
        "a new message among fragments": frame(b"x", fin=False, mask=right) + frame(b"y", mask=right),
        "a close frame of one byte": frame(b"x", opcode=8, mask=right),
        "a close code nobody may send": frame((1006).to_bytes(2, "big"), opcode=8, mask=right),
    }[name]
    end = End(side)
    end.hears(frame(b"before", mask=right), broken + frame(b"after", mask=right), frame(b"later", mask=right))
    assert end.messages == [(b"before", True)]
    assert [code for code, _ in end.closed] == [1002]
    assert end.close_frame()[0] == 1002
    assert end.transport.closed


@SIDES
async def test_a_message_one_byte_too_long_closes_with_1009(side: Side) -> None:
    end = End(side, limit=1000)
    end.hears(frame(b"x" * 1000, mask=mask_for(side)), frame(b"x" * 1001, mask=mask_for(side)))
    assert len(end.messages) == 1
    assert [code for code, _ in end.closed] == [1009]
    assert end.close_frame()[0] == 1009
    assert end.transport.closed


@SIDES
async def test_fragments_that_add_up_to_too_much_close_with_1009(side: Side) -> None:
    end, mask = End(side, limit=1000), mask_for(side)
    end.hears(frame(b"x" * 600, fin=False, mask=mask), frame(b"x" * 401, opcode=0, mask=mask))
    assert end.messages == [] and [code for code, _ in end.closed] == [1009]
    assert end.transport.closed


@SIDES
@pytest.mark.parametrize("claimed", [2**40, 2**63, 2**64 - 1])
async def test_a_header_that_claims_a_terabyte_costs_nothing(side: Side, claimed: int) -> None:
    head = bytes((0x82, 0xFF if side is Side.SERVER else 0x7F)) + claimed.to_bytes(8, "big")
    end = End(side)
    tracemalloc.start()
    end.hears(*(head[at : at + 1] for at in range(len(head))), b"x" * 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [code for code, _ in end.closed] == [1009]
    assert peak < 1 << 20


@SIDES
@pytest.mark.parametrize("size", [0, 1, 100])
async def test_fragments_without_end_are_cut_off(side: Side, size: int) -> None:
    """Too large is 1009; so is too many of a service's; a carrier has no business with fragments at all."""
    end, mask = End(side), mask_for(side)
    end.hears(frame(b"x" * size, fin=False, mask=mask))
    piece = frame(b"x" * size, opcode=0, fin=False, mask=mask)
    for _ in range(2000):
        end.hears(piece)
        if end.closed:
            break
    assert [code for code, _ in end.closed] == [1008 if side is Side.SERVER and size < 66 else 1009]
    assert end.messages == []


async def test_a_large_message_in_many_small_fragments_is_not_mistaken_for_an_attack() -> None:
    end = End(Side.CLIENT, limit=8 << 20)
    end.hears(frame(b"x" * 1024, fin=False, mask=None))
    for _ in range(4000):
        end.hears(frame(b"x" * 1024, opcode=0, fin=False, mask=None))
    end.hears(frame(b"x", opcode=0, mask=None))
    assert [len(payload) for payload, _ in end.messages] == [4001 * 1024 + 1]


@pytest.mark.parametrize("kind", ["pings", "pongs", "fragments"])
async def test_a_flood_of_frames_that_are_no_messages_is_closed_with_1008(kind: str) -> None:
    end = End()
    flood = {
        "pings": frame(b"x" * 125, opcode=9),
        "pongs": frame(b"", opcode=10),
        "fragments": frame(b"x", fin=False) + frame(b"y", opcode=0),
    }[kind]
    for _ in range(3000):
        end.hears(flood)
        if end.closed:
            break
    assert [code for code, _ in end.closed] == [1008] and end.transport.closed


def test_a_peer_that_pings_now_and_then_for_a_day_is_welcome() -> None:
    async def main() -> None:
        end = End()
        end.socket.keep_alive(every_s=10.0, within_s=5.0)
        for _ in range(8640):
            await asyncio.sleep(10.0)
            end.hears(frame(b"x", opcode=9))
            end.transport.taken()
        assert not end.closed
        end.socket.abort()

    virtual.run(main())


async def test_a_service_may_send_as_many_fragments_as_it_likes() -> None:
    end = End(Side.CLIENT, limit=8 << 20)
    for _ in range(1500):
        end.hears(frame(b"x", fin=False, mask=None) + frame(b"y", opcode=0, mask=None))
    assert len(end.messages) == 1500 and not end.closed


async def test_a_peer_that_makes_us_answer_and_does_not_read_is_cut_off() -> None:
    end = End()
    end.transport.crowded = 262_145
    end.hears(frame(b"x" * 125, opcode=9))
    assert [code for code, _ in end.closed] == [1006] and end.transport.aborted


# ---------------------------------------------------------------- the same as the library, whatever comes

FRAMES = st.builds(
    frame,
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([0, 125, 126, 200, 299, 300, 301]).map(lambda size: b"p" * size),
        st.sampled_from([b"\x03\xe8", b"\x03\xe8bye", b"\x0b\xb8", b"\x03\xee"]),
    ),
    opcode=st.sampled_from([0, 1, 1, 1, 2, 2, 8, 9, 10, 3, 15]),
    fin=st.sampled_from([True, True, True, False]),
    rsv=st.sampled_from([0] * 12 + [1, 4]),
    mask=st.sampled_from([b"\x01\x02\x03\x04", b"\x00\x00\x00\x00", b"\xff\x00\xff\x00"] * 4 + [None]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_any_frames_in_any_chunks_mean_what_the_library_says(frames: list[bytes], sizes: list[int]) -> None:
    async def compare() -> None:
        stream, chunks, at, turn = b"".join(frames), [], 0, 0
        while at < len(stream):
            chunks.append(stream[at : at + sizes[turn % len(sizes)]])
            at += sizes[turn % len(sizes)]
            turn += 1
        end = End(limit=300)
        end.hears(*chunks)

        reference = wire(Side.SERVER, 300)
        reference.receive_data(stream)
        expected, begun, is_text = [], b"", True
        for event in reference.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                is_text = is_text if event.opcode is Opcode.CONT else event.opcode is Opcode.TEXT
                begun += bytes(event.data)
                if event.fin:
                    expected.append((begun, is_text))
                    begun = b""
        assert end.messages == expected
        sent = reference.close_sent
        assert bool(end.closed) == (sent is not None or reference.close_rcvd is not None)
        if end.closed and end.closed[0][0] == 1009:  # in our words; a frame may be wrong in a second way
            assert sent is not None and sent.code in (1009, 1002)
        else:
            assert end.transport.taken() == b"".join(reference.data_to_send())

    asyncio.run(compare())


# ---------------------------------------------------------------- closing


@SIDES
async def test_the_peer_closes_and_is_answered(side: Side) -> None:
    end = End(side)
    end.peer.send_close(1001, "going away")
    end.hears(end.from_peer() + frame(b"late", mask=mask_for(side)))
    assert end.closed == [(1001, "going away")]
    assert end.close_frame() == (1001, "going away")
    assert end.transport.closed and not end.transport.aborted
    assert end.messages == []
    assert end.socket.closed.done()


@SIDES
async def test_we_close_and_the_peer_answers(side: Side) -> None:
    end = End(side)
    end.socket.close(1008, "no")
    end.socket.close(1000, "again")
    end.hears(frame(b"late", mask=mask_for(side)))
    assert not end.closed, "the peer has not answered yet"
    assert end.close_frame() == (1008, "no")
    end.hears(end.from_peer())
    assert end.closed == [(1008, "no")]
    assert end.messages == [] and end.transport.closed


@SIDES
def test_a_peer_that_does_not_answer_a_close_is_cut_off_within_a_second(side: Side) -> None:
    async def main() -> None:
        end = End(side)
        end.socket.close(1000)
        await asyncio.sleep(0.9)
        assert not end.closed
        await asyncio.sleep(0.2)
        assert end.closed == [(1000, "")] and end.transport.aborted

    virtual.run(main())


def test_a_peer_that_closes_but_does_not_read_is_cut_off() -> None:
    async def main() -> None:
        end = End()
        end.transport.crowded = 5000
        end.hears(frame((1000).to_bytes(2, "big"), opcode=8))
        assert end.closed == [(1000, "")] and not end.transport.aborted
        await asyncio.sleep(1.1)
        assert end.transport.aborted

    virtual.run(main())


@SIDES
async def test_a_vanished_peer_is_1006_once(side: Side) -> None:
    end = End(side)
    end.hears(frame(b"half", mask=mask_for(side))[:3])
    end.socket.feed_end()
    end.socket.feed_end()
    end.socket.abort()
    end.socket.close()
    end.socket.send(b"into the void")
    end.hears(frame(b"ghost", mask=mask_for(side)))
    assert end.closed == [(1006, "")] and end.messages == []
    assert not end.socket.open and end.socket.finished


@SIDES
async def test_a_callback_that_closes_gets_no_more_messages(side: Side) -> None:
    end, mask = End(side), mask_for(side)
    end.socket.on_message = lambda payload, is_text: (end.messages.append((payload, is_text)), end.socket.close(1000))
    end.hears(frame(b"1", mask=mask) + frame(b"2", mask=mask) + frame(b"3", fin=False, mask=mask))
    end.hears(frame(b"4", opcode=0, mask=mask), frame(b"5", mask=mask))
    assert end.messages == [(b"1", True)]
    assert end.close_frame() == (1000, "")
    end.hears(frame(b"\x03\xe8", opcode=8, mask=mask))
    assert end.closed == [(1000, "")]


async def test_a_callback_that_aborts_gets_no_more_messages() -> None:
    end = End()
    end.socket.on_message = lambda payload, is_text: (end.messages.append((payload, is_text)), end.socket.abort())
    end.hears(frame(b"1") + frame(b"2"))
    assert end.messages == [(b"1", True)] and end.closed == [(1006, "")]


async def test_a_callback_may_be_replaced_between_two_messages_of_one_read() -> None:
    end, later = End(), []
    first = end.socket.on_message

    def replace(payload: bytes, is_text: bool) -> None:
        first(payload, is_text)
        end.socket.on_message = lambda payload, is_text: later.append(payload)

    end.socket.on_message = replace
    end.hears(frame(b"start") + frame(b"media"))
    assert end.messages == [(b"start", True)] and later == [b"media"]


async def test_a_close_from_within_the_close_is_harmless() -> None:
    transport, ends = Transport(), []
    socket = CallSocket(
        wire(Side.SERVER),
        transport,
        max_bytes=LIMIT,
        on_message=lambda payload, is_text: None,
        on_closed=lambda code, reason: (ends.append(code), socket.close(), socket.abort(), socket.feed_end()),
    )
    socket.feed(frame(b"\x03\xe8", opcode=8))
    assert ends == [1000]


async def test_a_long_reason_is_cut_to_what_a_close_frame_holds() -> None:
    end = End()
    end.socket.close(1008, "é" * 100)
    code, reason = end.close_frame()
    assert code == 1008 and reason == "é" * 61


# ---------------------------------------------------------------- in stages, with other sockets


def pair() -> tuple[Together, End, End]:
    together = Together()
    together.begin()
    return together, End(together=together), End(together=together)


async def test_what_came_in_a_pass_is_read_when_it_is_over() -> None:
    together, one, two = pair()
    one.hears(frame(b"1"), frame(b"2")[:5])
    two.hears(frame(b"3"))
    one.hears(frame(b"2")[5:])
    assert one.messages == two.messages == []
    together.turn()
    assert [payload for payload, _ in one.messages] == [b"1", b"2"] and two.messages == [(b"3", True)]


async def test_what_is_said_in_a_pass_is_written_when_it_is_over() -> None:
    together, one, two = pair()
    one.socket.on_message = lambda payload, is_text: one.socket.send(b"heard " + payload)
    one.socket.send(b"1")
    two.socket.send_all([b"2", b"3"])
    one.hears(frame(b"4"))
    assert not one.transport.writes and not two.transport.writes
    together.turn()
    assert [bytes(said.data) for said in one.to_peer()] == [b"1", b"heard 4"]
    assert [bytes(said.data) for said in two.to_peer()] == [b"2", b"3"]


async def test_a_large_packet_is_read_at_once_and_behind_what_came_before() -> None:
    together, one, two = pair()
    two.hears(frame(b"1"))
    one.hears(frame(b"2"))
    one.hears(frame(b"3" * 20_000))
    assert [len(payload) for payload, _ in one.messages] == [1, 20_000] and two.messages == [(b"1", True)]
    together.turn()
    assert len(one.messages) == 2


async def test_a_connection_ends_behind_what_it_brought() -> None:
    _, one, two = pair()
    one.hears(frame(b"1"))
    two.hears(frame(b"2"))
    one.socket.feed_end()
    assert one.messages == [(b"1", True)] and one.closed == [(1006, "")]
    assert two.messages == [(b"2", True)]


async def test_what_was_said_before_a_close_leaves_before_it() -> None:
    together, one, two = pair()
    one.socket.send(b"1")
    two.socket.send(b"2")
    one.socket.close(1001, "goodbye")
    assert [said.opcode for said in one.to_peer()] == [Opcode.TEXT, Opcode.CLOSE]
    one.socket.send(b"too late")
    together.turn()
    assert not one.transport.writes and [bytes(said.data) for said in two.to_peer()] == [b"2"]


async def test_of_a_connection_that_was_cut_nothing_more_is_read_or_written() -> None:
    together, one, two = pair()
    one.socket.send(b"1")
    one.hears(frame(b"2"))
    two.hears(frame(b"3"))
    one.socket.abort()
    together.turn()
    assert not one.transport.writes and not one.messages and two.messages == [(b"3", True)]


async def test_a_socket_that_breaks_is_cut_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    together, one, two = pair()

    def breaks(*given: object) -> None:
        raise RuntimeError("broken")

    one.socket.on_message = breaks
    one.hears(frame(b"1"))
    two.hears(frame(b"2"))
    together.turn()
    assert one.transport.aborted and len(one.closed) == 1 and two.messages == [(b"2", True)]
    three = End(together=together)
    monkeypatch.setattr(three.transport, "write", breaks)
    three.socket.send(b"3")
    two.socket.send(b"4")
    together.turn()
    assert [bytes(said.data) for said in two.to_peer()] == [b"4"]


class Packet:
    """A reader that does something with what it is fed."""

    def __init__(self, does: Callable[[bytes], object]) -> None:
        self.feed = does

    def abort(self) -> None:
        raise RuntimeError("broken in breaking")


async def test_what_breaks_in_breaking_costs_others_nothing() -> None:
    together, one, two = pair()
    together.packets.append((Packet(lambda data: 1 // 0), b""))
    one.hears(frame(b"1"))
    together.packets.append((Packet(lambda data: two.socket.feed_end()), b""))
    two.hears(frame(b"2"))
    together.turn()
    assert one.messages == [(b"1", True)]
    assert two.messages == [(b"2", True)] and two.closed, "whoever comes to its end has been fed all"


async def test_ended_nothing_waits_not_even_what_reading_brought() -> None:
    together, one, _ = pair()
    one.socket.on_message = lambda payload, is_text: one.socket.send(b"heard")
    together.writes.append((Packet(lambda data: None), b""))  # type: ignore[arg-type]  # breaks as well
    one.hears(frame(b"1"))
    together.end()
    assert [bytes(said.data) for said in one.to_peer()] == [b"heard"] and not together.begun
    one.socket.send(b"at once")
    assert len(one.to_peer()) == 1


@pytest.mark.parametrize(
    ("waits", "ends"), [(frame(b"here"), []), (frame(b"\x03\xe8", opcode=8), [(1000, "")])], ids=["answer", "goodbye"]
)
def test_a_peer_is_not_given_up_whose_word_waits_to_be_read(waits: bytes, ends: list[tuple[int, str]]) -> None:
    async def main() -> None:
        together, one, two = pair()
        one.socket.keep_alive(every_s=10.0, within_s=5.0)
        two.socket.probe(within_s=2.0)
        await asyncio.sleep(2.1)
        two.hears(waits)
        await asyncio.sleep(13.0)
        one.hears(waits)
        await asyncio.sleep(1.0)
        assert one.closed == two.closed == ends
        together.turn()
        one.socket.abort()
        two.socket.abort()

    virtual.run(main())


async def test_a_transport_that_closes_already_is_not_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    end, closes = End(), list[bool]()
    end.transport.closed = True  # as where TLS ended in the packet of the close frame
    monkeypatch.setattr(end.transport, "close", lambda: closes.append(True))
    end.hears(frame(b"\x03\xe8", opcode=8))
    assert not closes and end.closed == [(1000, "")]


STEPS = st.lists(
    st.tuples(st.sampled_from(["hear", "hear ping", "say", "ping", "turn", "end"]), st.integers(0, 1)),
    max_size=30,
)


@given(steps=STEPS, cut=st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_in_stages_each_socket_hears_and_says_the_same_in_the_same_order(
    steps: list[tuple[str, int]], cut: int
) -> None:
    async def run(together: Together | None) -> list[object]:
        ends = [End(together=together), End(together=together)]
        said: list[object] = []
        for number, (step, which) in enumerate(steps):
            end = ends[which]
            whole = frame(b"%d" % number) if step == "hear" else frame(b"%d" % number, opcode=9)
            match step:
                case "hear" | "hear ping":
                    end.hears(whole[:cut], whole[cut:])
                case "say":
                    end.socket.send(b"%d" % number)
                case "ping":
                    end.socket.probe(within_s=9.0)
                case "end":
                    end.socket.feed_end()
                case "turn" if together is not None:
                    together.turn()
        if together is not None:
            together.end()
        for end in ends:
            frames = end.to_peer()
            texts = [bytes(sent.data) for sent in frames if sent.opcode is Opcode.TEXT]
            pongs = [bytes(sent.data) for sent in frames if sent.opcode is Opcode.PONG]
            said.append((end.messages, end.closed, texts, pongs))
            end.socket.abort()
        return said

    async def both() -> None:
        together = Together()
        together.begin()
        assert await run(together) == await run(None)

    asyncio.run(both())


# ---------------------------------------------------------------- staying alive


def pings(end: End) -> list[bytes]:
    return [bytes(frame.data) for frame in end.to_peer() if frame.opcode is Opcode.PING]


def test_a_half_open_peer_is_found_within_sixteen_seconds() -> None:
    async def main() -> None:
        end = End()
        end.socket.keep_alive(every_s=10.0, within_s=5.0)
        await asyncio.sleep(9.9)
        end.hears(frame(b"the last word"))
        await asyncio.sleep(5.0)
        assert len(pings(end)) == 1 and not end.closed
        await asyncio.sleep(0.6)
        assert [code for code, _ in end.closed] == [1011] and end.transport.aborted

    virtual.run(main())


@pytest.mark.parametrize("answer", ["pong", "audio", "half a frame"])
def test_a_peer_that_says_anything_lives(answer: str) -> None:
    async def main() -> None:
        end = End()
        end.socket.keep_alive(every_s=10.0, within_s=5.0)
        whole = frame(b"x" * 1000)
        for second in range(600):
            await asyncio.sleep(1.0)
            sent = pings(end)  # the library's peer answers by itself
            match answer:
                case "pong":
                    end.hears(end.from_peer())
                case "audio" if sent:
                    end.hears(whole)
                case "half a frame" if second < 500:
                    end.hears(whole[second : second + 1])
                case "half a frame":
                    end.hears(b"x")
        assert not end.closed
        end.socket.close()

    virtual.run(main())


def test_an_answer_that_lay_unread_while_this_process_stood_still_counts() -> None:
    async def main() -> None:
        end = End()
        end.socket.keep_alive(every_s=10.0, within_s=5.0)
        await asyncio.sleep(15.1)  # the alarm rang before the read
        assert not end.closed
        pings(end)
        end.hears(end.from_peer())
        await asyncio.sleep(5.0)
        assert not end.closed
        await asyncio.sleep(30.0)
        assert [code for code, _ in end.closed] == [1011]

    virtual.run(main())


@SIDES
def test_no_alarm_rings_after_the_end(side: Side) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for how in ("peer", "vanish", "abort", "close", "too late"):
            end = End(side)
            if how != "too late":
                end.socket.keep_alive(every_s=10.0, within_s=5.0)
            match how:
                case "peer":
                    end.peer.send_close(1000)
                    end.hears(end.from_peer())
                case "vanish":
                    end.socket.feed_end()
                case "abort" | "too late":
                    end.socket.abort()
                case "close":
                    end.socket.close()
                    end.close_frame()
                    end.hears(end.from_peer())
            end.socket.keep_alive(every_s=10.0, within_s=5.0)  # too late, and harmless
            timers = [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]
            assert not timers, how

    virtual.run(main())


@pytest.mark.parametrize("answers", [True, False])
def test_a_probe_gives_up_a_peer_that_says_nothing_at_all(answers: bool) -> None:
    async def main() -> None:
        end = End(Side.CLIENT)
        end.socket.keep_alive(every_s=5.0, within_s=5.0)
        end.socket.probe(within_s=2.0)
        end.socket.probe(within_s=2.0)
        assert len(pings(end)) == 1, "one probe at a time"
        if answers:
            end.hears(end.from_peer())
            await asyncio.sleep(4.0)
            assert not end.closed
            end.socket.probe(within_s=2.0)
            assert len(pings(end)) == 1
            end.socket.close()
            end.socket.probe(within_s=2.0)
        else:
            await asyncio.sleep(2.1)
            assert not end.closed, "a second look"
            await asyncio.sleep(0.3)
            assert [code for code, _ in end.closed] == [1011] and end.transport.aborted
        await asyncio.sleep(1.1)
        timers = [timer for timer in getattr(asyncio.get_running_loop(), "_scheduled", []) if not timer.cancelled()]
        assert not timers

    virtual.run(main())


@SIDES
async def test_of_two_closes_that_cross_the_peers_is_the_one_that_counts(side: Side) -> None:
    end = End(side)
    end.socket.close(1008, "no")
    end.peer.send_close(1001, "going away")
    end.hears(end.from_peer())
    assert end.closed == [(1001, "going away")]
