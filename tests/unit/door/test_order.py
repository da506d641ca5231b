"""On a stream that keeps order, no request of a connection overtakes an earlier one."""

import base64
import json
from collections.abc import AsyncIterator, Callable

import pytest

from kdaemon.door.door import Door
from kdaemon.http.connection import HttpProtocol
from tests.kit.clock import HandClock
from tests.kit.doors import Doors, open_session
from tests.kit.streams import FakeService, make_streams, turn

ORDERED = "[default]\nordering = 'partition_key'\nlinger_ms = 0\n"
LISTED = ORDERED + "[streams.s]\n"


class Client:
    """One connection to the HTTP door."""

    def __init__(self, text: str) -> None:
        self.service = FakeService()
        self.streams = make_streams(self.service, text)
        self.protocol: HttpProtocol = Doors(self.streams).http().protocol

    def sent(self) -> list[bytes]:
        """What reached the service, in order: how each record begins."""
        return [data[:4] for _, records in self.service.calls for data in records]


Make = Callable[[str], Client]


@pytest.fixture
async def client() -> AsyncIterator[Make]:
    made: list[Client] = []

    def make(text: str) -> Client:
        made.append(Client(text))
        return made[-1]

    yield make
    for each in made:
        each.protocol.connection_lost(None)


def put_record(data: bytes, acknowledge: str) -> bytes:
    members = {"StreamName": "s", "Data": base64.b64encode(data).decode(), "PartitionKey": "k"}
    body = json.dumps(members).encode()
    return (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: Kinesis_20131202.PutRecord\r\n"
        b"Content-Type: application/x-amz-json-1.1\r\nX-Kdaemon-Acknowledge: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (acknowledge.encode(), len(body), body)
    )


def numbered(count: int, size: int = 4) -> list[bytes]:
    return [b"%04d" % number + b"x" * (size - 4) for number in range(count)]


@pytest.mark.parametrize("acknowledges", [["accepted"], ["accepted", "delivered"]])
async def test_requests_that_wait_for_word_of_their_stream_go_in_their_order(
    client: Make, acknowledges: list[str]
) -> None:
    one = client(ORDERED)
    one.service.word.clear()
    data = numbered(200)
    for start in range(0, 200, 50):
        one.protocol.data_received(
            b"".join(
                put_record(each, acknowledges[number % len(acknowledges)])
                for number, each in enumerate(data[start : start + 50])
            )
        )
    await turn()
    assert one.sent() == []
    one.service.word.set()
    await turn(500)
    sent = one.sent()
    assert len(sent) > 50, "as many as its shard's rate allows at once"
    assert sent == data[: len(sent)]


async def test_what_comes_behind_a_large_record_waits_with_it(client: Make) -> None:
    one = client(LISTED)
    one.service.word.clear()
    large = b"0000" + b"x" * 2_000_000
    request = put_record(large, "delivered") + put_record(b"0001", "delivered")
    for start in range(0, len(request), 200_000):
        one.protocol.data_received(request[start : start + 200_000])
        await turn()
    assert one.sent() == []
    one.service.word.set()
    await turn()
    # The service of this test takes 1 MiB a record: the large one is refused, and not overtaken.
    assert one.sent() == [b"0001"]


def put_lines(data: list[bytes]) -> bytes:
    body = b"\n".join(b'{"partition_key":"k","data":"%b"}' % each for each in data)
    return (
        b"POST /v1/streams/s/records HTTP/1.1\r\nHost: localhost\r\n"
        b"X-Kdaemon-Acknowledge: accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


@pytest.mark.parametrize("next_way", ["lines", "api"])
async def test_a_body_of_lines_that_takes_several_turns_is_not_overtaken(
    client: Make, next_way: str
) -> None:
    one = client(LISTED)
    await turn()
    body, last = numbered(1_000, 1_000), b"9999"
    behind = put_lines([last]) if next_way == "lines" else put_record(last, "accepted")
    requests = put_lines(body) + behind * 3
    for start in range(0, len(requests), 200_000):
        one.protocol.data_received(requests[start : start + 200_000])
    await turn(500)
    sent = one.sent()
    assert len(sent) > 50, "as many as its shard's rate allows at once"
    assert sent == [data[:4] for data in body[: len(sent)]]
    counters = {name: engine.counters for name, engine in one.streams.engines()}["s"]
    assert counters.accepted == 1_003


@pytest.mark.parametrize("acknowledge", ["delivered", "accepted"])
async def test_lines_that_call_one_stream_by_two_names_keep_their_order(acknowledge: str) -> None:
    service = FakeService()
    service.account_id = "1" * 12
    streams = make_streams(service, LISTED)
    session, _ = open_session(Door(streams, HandClock()))
    names = ["s", f"arn:aws:kinesis:eu-central-1:{service.account_id}:stream/s", "t"]
    lines = [
        b'{"stream":"%b","partition_key":"k","data":"%04d"}\n' % (names[n % 3].encode(), n)
        for n in range(60)
    ]
    session.data_received(b'{"acknowledge":"%b"}\n' % acknowledge.encode() + b"".join(lines))
    await turn(500)
    sent = [data for target, each in service.calls if target.name == "s" for data in each]
    assert sent == [b"%04d" % n for n in range(60) if n % 3 < 2]
    session.connection_lost(None)
