"""Clients of what settles together are told in turns of the loop: held by counting who is told in
one turn.
"""

import asyncio
from collections import Counter

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.send.driver import (
    DRAWN_A_TURN,
    FRAME_PIECES,
    LETTER_PIECES,
    TOLD_A_TURN,
    TOLD_AT_ONCE,
)
from kdaemon.streams.stream import Stream
from tests.kit.patience import PATIENCE_S, until
from tests.kit.streams import FakeService, make_streams, turn

COUNT = 400  # of one record: one call, which the shard can pay for at once
TOLD = TOLD_A_TURN // (1 + FRAME_PIECES) + 1
TEXT = """
[streams.s]
acknowledge = "delivered"
only_writer = true
"""


class Clients:
    """Those who wait for single records; who was told in which turn of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.told: list[bytes] = []
        self.by_turn: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.turn += 1
        self._handle = self._loop.call_soon(self._next)

    def tell(self, frame: Frame) -> None:
        self.by_turn[self.turn] += 1
        self.told.append(frame.records[0].data)

    def put(self, stream: Stream, count: int) -> None:
        for number in range(count):
            records = [Record(b"%d" % number, f"k{number}")]
            frame = make_frame(records, [10], Acknowledge.DELIVERED, self.tell, None)
            assert stream.submit(frame)

    async def wait(self, count: int) -> None:
        await until(lambda: len(self.told) >= count)

    def close(self) -> None:
        self._handle.cancel()


async def test_those_of_one_call_are_told_in_turns_and_in_order() -> None:
    service = FakeService()
    streams, clients = make_streams(service, TEXT), Clients()
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()
    clients.put(stream, COUNT)
    await clients.wait(COUNT)
    assert len(service.calls) == 1
    assert clients.told == [b"%d" % number for number in range(COUNT)]
    assert max(clients.by_turn.values()) <= TOLD
    clients.close()
    await streams.aclose()


async def test_a_stream_is_not_idle_before_all_are_told() -> None:
    streams, clients = make_streams(FakeService(), TEXT), Clients()
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()
    clients.put(stream, COUNT)
    await clients.wait(1)
    assert (stream.engine.is_idle, stream.is_idle) == (True, False)
    async with asyncio.timeout(PATIENCE_S):
        await streams.wait_idle()
    assert len(clients.told) == COUNT
    assert stream.is_idle
    clients.close()
    await streams.aclose()


@pytest.mark.parametrize("calls_end", [False, True])
async def test_at_a_drains_end_all_are_told_in_turns_before_it_is_over(*, calls_end: bool) -> None:
    service = FakeService()
    service.answer.clear()
    streams, clients = make_streams(service, TEXT), Clients()
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()
    count = 20 * COUNT
    clients.put(stream, count)
    await turn()
    if calls_end:
        service.answer.set()
    await streams.give_up()
    assert len(clients.told) == count
    assert max(clients.by_turn.values()) <= TOLD
    assert stream.counters.unaccounted() == 0
    clients.close()
    await streams.aclose()


async def test_a_client_whose_telling_breaks_holds_up_no_other() -> None:
    streams, clients = make_streams(FakeService(), TEXT), Clients()
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()

    def broken(_frame: Frame) -> None:
        raise ValueError("broken")

    frame = make_frame([Record(b"x", "k")], [2], Acknowledge.DELIVERED, broken, None)
    assert stream.submit(frame)
    clients.put(stream, 100)
    await clients.wait(100)
    clients.close()
    await streams.aclose()


async def test_calls_are_drawn_in_turns() -> None:
    """All that may be out at once, 16 calls of 500 records, are drawn in several turns."""
    service = FakeService()
    service.answer.clear()
    streams = make_streams(service, TEXT + "shard_records_per_second = 100000\n")
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()
    assert stream.deadline_ns
    for number in range(40):
        records = [Record(b"x", f"k{number}-{index}") for index in range(500)]
        frame = make_frame(records, [6] * 500, Acknowledge.DELIVERED, lambda _: None, None)
        assert stream.submit(frame)
    (driver,) = streams.audit()
    most = before = 0
    for _ in range(200):
        await asyncio.sleep(0)
        now = stream.counters.attempts
        most, before = max(most, now - before), now
    assert stream.counters.in_flight_calls == 16
    assert most <= DRAWN_A_TURN
    assert not driver.engine.is_idle
    service.answer.set()
    await streams.aclose()


async def test_clients_of_frames_full_of_dead_records_are_told_in_turns_though_they_are_few() -> (
    None
):
    """A letter is made of each record, which takes longer than an answer."""
    service = FakeService()
    service.record_code = "ValidationException"
    streams, clients = make_streams(service, TEXT), Clients()
    stream = streams.find("s")
    assert isinstance(stream, Stream)
    await turn()
    for _ in range(TOLD_AT_ONCE):
        records = [Record(b"x", f"k{number}") for number in range(30)]
        frame = make_frame(records, [10] * 30, Acknowledge.DELIVERED, clients.tell, None)
        assert stream.submit(frame)
    await clients.wait(TOLD_AT_ONCE)
    assert len(service.calls) == 1
    assert max(clients.by_turn.values()) <= TOLD_A_TURN // (30 * LETTER_PIECES) + 1 < TOLD_AT_ONCE
    clients.close()
    await streams.aclose()
