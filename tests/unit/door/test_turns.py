"""A large body or line is read over several turns of the loop: others are served in between, its
own client's next request waits, and each record is counted once, whenever its client leaves.
"""

import asyncio
import gc
import json
import tracemalloc
from typing import Any

import pytest

from kdaemon.base.limits import MIB
from kdaemon.door import line_forms, ndjson
from kdaemon.door.session import NdjsonSession
from kdaemon.http.connection import HttpProtocol
from kdaemon.wire import put
from kdaemon.wire.line_buffer import BLOCK_BYTES
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.lines import footprint_bytes_bound, read_lines
from tests.kit.doors import Doors, FakeTransport
from tests.kit.streams import FakeService, make_streams, turn
from tests.kit.watching import before

KINESIS = "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202."
READ = 256 * 1024
TURNS_MIN = 3  # that a text of more than a mebibyte takes
DATA = "QUJD" * (MIB // 3 - 10)
SMALL = {"StreamName": "s", "Data": "QUJD", "PartitionKey": "k"}


def api(operation: str, members: dict[str, Any], acknowledge: str = "accepted") -> bytes:
    body = json.dumps(members).encode()
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{KINESIS}{operation}\r\n"
    asked = f"X-Kdaemon-Acknowledge: {acknowledge}\r\n"
    return f"{head}{asked}Content-Length: {len(body)}\r\n\r\n".encode() + body


def lines(*texts: str) -> bytes:
    body = "".join(f"{text}\n" for text in texts).encode()
    head = "POST /v1/streams/s/records HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    asked = "X-Kdaemon-Acknowledge: accepted\r\n"
    return f"{head}{asked}Content-Length: {len(body)}\r\n\r\n".encode() + body


RECORD = api("PutRecord", {**SMALL, "Data": DATA})
LARGE = {
    "PutRecord": (RECORD, 1),
    "PutRecords": (
        api(
            "PutRecords",
            {"StreamName": "s", "Records": [{"Data": DATA[:80_000], "PartitionKey": "k"}] * 20},
        ),
        20,
    ),
    "a line": (
        lines(
            json.dumps({"data_base64": DATA, "partition_key": "k"}),
            '{"data":"b","partition_key":"k"}',
        ),
        2,
    ),
}
REFUSED = {
    "lists": (api("PutRecords", {**SMALL, "X": [[]] * 400_000}), 1),
    "Records of a PutRecord": (api("PutRecord", {**SMALL, "Records": [[]] * 400_000}), 1),
    "no base64": (api("PutRecord", {**SMALL, "Data": f"{DATA}#"}), 1),
    "an escaped line": (lines('{"data":"%s"}' % ("\\n" * 2 * MIB)), 1),
    "a line of lists": (lines(json.dumps({"x": [[]] * 400_000})), 1),
}


class Place(Doors):
    """The record listener over a service in memory."""

    def __init__(self) -> None:
        self.service = FakeService()
        text = (
            "[streams.s]\nacknowledge = 'accepted'\n"
            "shard_bytes_per_second = 100_000_000\nonly_writer = true"
        )
        super().__init__(make_streams(self.service, text))

    def connect(self) -> tuple[HttpProtocol, FakeTransport]:
        transport = self.http()
        return transport.protocol, transport

    def counted(self) -> tuple[int, int]:
        """Records received, and those in a counter of what became of them."""
        received = ended = 0
        for counters in (self.streams.door, *(each.counters for _, each in self.streams.engines())):
            received += counters.received
            ended += sum(counters.rejected.values()) + counters.delivered + counters.buffered
            ended += sum(counters.dead.values()) + counters.in_flight
        return received, ended


@pytest.fixture
async def place() -> Place:
    found = Place()
    await turn()
    return found


async def feed(protocol: HttpProtocol, data: bytes) -> None:
    """All of it, a read in a turn."""
    for at in range(0, len(data), READ):
        protocol.data_received(data[at : at + READ])
        if at + READ < len(data):
            await asyncio.sleep(0)


async def turns_until_answered(transport: FakeTransport) -> int:
    for turns in range(1_000):
        if b"\r\n\r\n" in transport.written:
            return turns
        await asyncio.sleep(0)
    raise AssertionError("no answer")


@pytest.mark.parametrize("name", LARGE)
async def test_others_are_served_while_a_large_request_is_read(place: Place, name: str) -> None:
    request, count = LARGE[name]
    protocol, transport = place.connect()
    other, others = place.connect()
    await feed(protocol, request)
    other.data_received(api("PutRecord", SMALL))
    assert b" 200 OK" in others.take()
    assert not transport.written
    assert await turns_until_answered(transport) >= TURNS_MIN
    assert transport.take().startswith(b"HTTP/1.1 200")
    await turn()
    assert place.counted() == (count + 1, count + 1)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_large_request_is_refused_and_counted_once(place: Place, name: str) -> None:
    request, count = REFUSED[name]
    protocol, transport = place.connect()
    await feed(protocol, request)
    await turns_until_answered(transport)
    assert transport.take().startswith(b"HTTP/1.1 400")
    assert place.counted() == (count, count)
    assert place.hub.bodies.bytes_taken == 0


@pytest.mark.parametrize("name", [*LARGE, *REFUSED])
async def test_no_collector_is_needed_to_free_a_large_request(place: Place, name: str) -> None:
    request, _ = LARGE.get(name) or REFUSED[name]
    protocol, transport = place.connect()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(2):
            await feed(protocol, request)
            await turn(50)
            assert transport.take()
        place.service.calls.clear()  # the records, as the service has them
        assert tracemalloc.get_traced_memory()[0] < MIB // 2
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("name", LARGE)
async def test_the_next_request_of_its_client_does_not_overtake(place: Place, name: str) -> None:
    request, count = LARGE[name]
    protocol, transport = place.connect()
    await feed(protocol, request + api("PutRecord", {**SMALL, "Data": "bGFzdA=="}))
    await turn(50)
    assert transport.take().count(b"HTTP/1.1 200") == 2
    assert place.counted() == (count + 1, count + 1)
    sent = [data for _, batch in place.service.calls for data in batch]
    assert sent[-1] == b"last"


@pytest.mark.parametrize("acknowledge", ["accepted", "delivered"])
@pytest.mark.parametrize("turns", range(8))
async def test_a_client_that_leaves_meanwhile_takes_nothing_with_it(
    place: Place, turns: int, acknowledge: str
) -> None:
    protocol, _ = place.connect()
    await feed(protocol, api("PutRecord", {**SMALL, "Data": DATA}, acknowledge))
    await turn(turns)
    protocol.connection_lost(None)
    await turn(50)
    assert place.counted() == (1, 1)
    assert place.hub.bodies.bytes_taken == 0
    assert place.streams.memory.bytes_taken == 0
    sent = [data for _, batch in place.service.calls for data in batch]
    assert len(sent) <= 1
    if acknowledge == "accepted":
        assert len(sent) == 1


async def test_a_defect_while_a_body_is_read_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("a defect of ours")

    place = Place()
    await turn()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(put, "_decode_open_record", broken)
    protocol, transport = place.connect()
    await feed(protocol, RECORD + api("PutRecord", SMALL))
    await turn(20)
    answers = transport.take()
    assert answers.startswith(b"HTTP/1.1 500")
    assert b"HTTP/1.1 200" in answers
    assert isinstance(told[0]["exception"], KeyError)
    assert place.hub.bodies.bytes_taken == 0


SHORT = '{"data":"","partition_key":"k"}'


@pytest.mark.parametrize("text", [SHORT, f'{{"data":"{"a" * 180}"}}', f'{{"data":"{DATA}"}}'])
@pytest.mark.pure("counts the calls of a method")
async def test_of_many_lines_no_more_than_its_part_is_worked_on_in_a_turn(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []  # bytes in each turn
    counted: list[int] = []  # lines
    admitted: list[int] = []
    place = Place()
    await turn()

    def reading(block: bytes, *rest: Any) -> Any:
        read[-1] += len(block)
        counted[-1] += block.count(b"\n")
        return read_lines(block, *rest)

    def admitting(spelling: str, block: Any, *rest: Any) -> None:
        admitted[-1] += len(block.sizes)

    form = LineForm(reading, footprint_bytes_bound)
    monkeypatch.setattr(line_forms, "ENVELOPE", form)
    before(monkeypatch, place.door, "admit", admitting)
    protocol, transport = place.connect()
    request = lines(*[text] * (3 * MIB // len(text)))
    for data in [request[at : at + READ] for at in range(0, len(request), READ)] + [b""] * 400:
        read.append(0)
        counted.append(0)
        admitted.append(0)
        if data:
            protocol.data_received(data)
        await asyncio.sleep(0)
    assert transport.take().startswith(b"HTTP/1.1 ")
    block = 2 * BLOCK_BYTES + len(text)  # what the last one of a turn may have beyond
    assert 0 < max(read) <= ndjson.BLOCKS_A_TURN * BLOCK_BYTES + block
    assert 0 < max(counted) <= ndjson.LINES_A_TURN + block // len(text)
    assert max(admitted) <= ndjson.LINES_A_TURN + block // len(text)
    assert sum(counted) == 3 * MIB // len(text)


# --- sessions of lines


def open_session(place: Place) -> tuple[NdjsonSession, FakeTransport]:
    session, transport = NdjsonSession(place.door, place.hub), FakeTransport()
    transport.protocol = session
    session.take_over(transport)
    return session, transport


SETUP = b'{"stream":"s","acknowledge":"accepted"}\n'
LONG = b'{"data_base64":"%b"}\n' % DATA.encode()


@pytest.mark.parametrize("first", [SETUP, b""], ids=["later", "first"])
async def test_a_long_line_of_a_session_takes_turns_and_keeps_its_place(
    place: Place, first: bytes
) -> None:
    session, transport = open_session(place)
    long = LONG[:-2] + b',"stream":"s"}\n' if not first else LONG
    session.data_received(first + long + b'{"data":"x"}\n' + b'{"data":"last","stream":"s"}\n')
    assert not transport.reads()
    await asyncio.sleep(0)
    assert place.counted() == (0, 0)
    session.eof_received()
    await turn(50)
    assert transport.has_ended()
    answers = transport.lines()
    assert answers[-1] == {"acknowledged": 3 if first else 2}
    rejected = [each["rejected"] for each in answers if "rejected" in each]
    assert rejected == ([] if first else [2])  # which names no stream
    assert place.counted() == (3, 3)
    sent = [data for _, batch in place.service.calls for data in batch]
    assert sent[-1] == b"last"


@pytest.mark.parametrize("turns", range(8))
async def test_a_session_that_is_lost_meanwhile_loses_no_record(place: Place, turns: int) -> None:
    session, _ = open_session(place)
    session.data_received(SETUP + LONG + b'{"data":"last"}\n')
    await turn(turns)
    session.connection_lost(None)
    await turn(50)
    assert place.counted() == (2, 2)
    assert len(place.service.calls) > 0


async def test_a_line_without_an_end_behind_a_long_one_has_its_number(place: Place) -> None:
    session, transport = open_session(place)
    session.data_received(SETUP + LONG)
    session.data_received(b'{"data":"%b' % (b"x" * 15 * MIB))
    await turn(50)
    assert [each.get("rejected") for each in transport.lines()] == [None, 3]
    assert place.counted() == (2, 2)
