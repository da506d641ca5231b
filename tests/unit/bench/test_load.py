"""The load generators believe nothing: an answer that does not deliver is counted as failed."""

import json
import socket
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from hpack import Decoder

from bench.load import ClosedLoop, HttpConnection, NdjsonConnection, acknowledged_in
from bench.load_http2 import Http2Connection
from bench.records import make_records, put_records_body, put_records_cbor, request_head
from bench.targets import started_sink
from bench.worker import Worker
from kdaemon.base.record import RecordResult
from kdaemon.wire import put, put_cbor
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.results import ACCEPTED, encode_put_records_cbor
from tests.kit.linux import cpu_seconds
from tests.kit.puts import members_of

Pair = tuple[socket.socket, socket.socket]
OK = '{"SequenceNumber":"1","ShardId":"shardId-000000000000"}'
FAILED = '{"ErrorCode":"InternalFailure","ErrorMessage":"x"}'


def answer(entries: list[str], status: str = "200 OK") -> bytes:
    failed = sum(entry == FAILED for entry in entries)
    body = f'{{"FailedRecordCount":{failed},"Records":[{",".join(entries)}]}}'
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    ("entries", "status", "delivered"),
    [
        ([OK, OK], "200 OK", 2),
        ([OK, FAILED], "200 OK", 1),
        ([OK], "200 OK", 0),
        ([OK, OK, OK], "200 OK", 0),
        ([OK, OK], "500 Internal Server Error", 0),
    ],
)
def test_only_what_an_answer_delivers_counts(
    entries: list[str], status: str, delivered: int
) -> None:
    assert acknowledged_in(answer(entries, status), 2) == delivered


def test_an_answer_spaced_as_json_dumps_spaces_it_delivers_too() -> None:
    body = json.dumps({"SequenceNumber": "1", "ShardId": "shardId-000000000000"})
    assert acknowledged_in(f"HTTP/1.1 200 OK\r\n\r\n{body}".encode(), 1) == 1


def test_an_answer_in_cbor_delivers_as_one_in_json() -> None:
    delivered = RecordResult("1", "shardId-000000000000")
    failed = RecordResult(error_code="InternalFailure", error_message="x")
    for results, count in (([delivered] * 2, 2), ([delivered, failed], 1), ([delivered] * 3, 0)):
        body = encode_put_records_cbor(results)
        assert acknowledged_in(b"HTTP/1.1 200 OK\r\n\r\n" + body, 2) == count
    accepted = b"HTTP/1.1 200 OK\r\n\r\n" + encode_put_records_cbor([ACCEPTED])
    assert acknowledged_in(accepted, 1, b"accepted") == 1
    assert acknowledged_in(accepted, 1) == 0


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_bodies_in_cbor_hold_the_records_of_those_in_json(size: int) -> None:
    records = list(make_records(3, data_bytes=size))
    limits = PutLimits()
    found = put_cbor.parse_put_records(put_records_cbor(records), limits)
    in_json = put.parse_put_records(put_records_body(records), limits)
    assert members_of(found) == members_of(in_json)
    assert b"x-amz-cbor-1.1" in request_head("PutRecords", 1, encoding="cbor")


def test_an_answer_counts_when_its_last_byte_is_there(pair: Pair) -> None:
    ours, theirs = pair
    connection = HttpConnection(ours)
    connection.start(b"request", 2)
    whole = answer([OK, FAILED])
    for byte in whole[:-1]:
        theirs.send(bytes([byte]))
        assert connection.readable() == 0
        assert not connection.wants_to_start()
    theirs.send(whole[-1:])
    assert connection.readable() == 2
    assert connection.wants_to_start()
    assert connection.failed == 1
    assert len(connection.latencies_ns) == 1


def test_a_server_that_hangs_up_ends_the_load(pair: Pair) -> None:
    ours, theirs = pair
    connection = HttpConnection(ours)
    connection.start(b"request", 1)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="closed a connection"):
        connection.readable()


def test_acknowledgements_are_cumulative_and_may_be_cut_anywhere(pair: Pair) -> None:
    ours, theirs = pair
    connection = NdjsonConnection(ours, "s", window=100)
    connection.start(b"lines\n", 60)
    answered = 0
    for byte in b'{"acknowledged":20}\n{"acknowledged": 60}\n':
        theirs.send(bytes([byte]))
        answered += connection.readable()
    assert answered == 60


def test_no_more_than_the_window_is_in_flight(pair: Pair) -> None:
    ours, theirs = pair
    connection = NdjsonConnection(ours, "s", window=100)
    started = 0
    while connection.wants_to_start():
        connection.start(b"lines\n", 50)
        started += 50
    assert started == 100
    theirs.send(b'{"acknowledged":50}\n')
    assert connection.readable() == 50
    assert connection.wants_to_start()


def test_a_rejected_line_ends_the_load(pair: Pair) -> None:
    ours, theirs = pair
    connection = NdjsonConnection(ours, "s", window=100)
    theirs.send(b'{"rejected":3,"code":"X","message":"y"}\n')
    with pytest.raises(ConnectionError, match="refused"):
        connection.readable()


def test_what_the_socket_does_not_take_is_sent_later(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    connection = HttpConnection(ours)
    payload = b"x" * 5_000_000
    connection.start(payload, 1)
    assert connection.has_unsent()
    received = 0
    while received < len(payload):
        received += len(theirs.recv(1_000_000))
        connection.writable()
    assert not connection.has_unsent()


def test_a_closed_loop_tells_what_failed(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(answer([OK, FAILED]))  # the answer is there before the request is
    result = ClosedLoop([HttpConnection(ours)], repeat(b"request"), 2).run(2)
    assert (result["records"], result["failed"]) == (2, 1)


@pytest.mark.linux
@pytest.mark.parametrize("scenario", ["put_records", "put_record"])
def test_the_generator_and_the_sink_count_the_same(scenario: str, tmp_path: Path) -> None:
    path = str(tmp_path / "sink.sock")
    with started_sink("--unix", path) as sink:
        where = ["--unix", path] if scenario == "put_records" else ["--tcp", str(sink.port)]
        arguments = ["bench.load", scenario, *where, "--connections", "3", "--batch", "50"]
        with Worker(arguments, sink.cores.load, {}) as worker:
            before = cpu_seconds(worker.pid)
            first, second = worker.run(1000), worker.run(500)
            assert cpu_seconds(worker.pid) > before
            assert worker.peak_rss_bytes() > 2**20
        assert first.result["failed"] == second.result["failed"] == 0
        assert sink.counts()[0] == 1500


def test_a_head_of_http2_that_was_sent_before_says_the_same_again(pair: Pair) -> None:
    """Its block is kept, and stays right though heads between had other values."""
    ours, theirs = pair
    connection = Http2Connection(ours, "delivered", 8)
    numbers = [0, 100, 200, 100, 200, 0]
    for number in numbers:
        connection.start(request_head("PutRecord", 2, number=number) + b"{}", 1)
    sent = theirs.recv(1 << 16).split(b"SM\r\n\r\n", 1)[1]
    decoder, told = Decoder(), []
    while sent:
        end = 9 + int.from_bytes(sent[:3], "big")
        if sent[3] == 1:
            told.append(dict(decoder.decode(sent[9:end], raw=True)))
        sent = sent[end:]
    for number, fields in zip(numbers, told, strict=True):
        lines = request_head("PutRecord", 2, number=number).split(b"\r\n")[1:-2]
        names = [
            (name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)
        ]
        assert {name: fields[name] for name, _ in names if name != b"host"} == dict(names[1:])
        assert fields[b":authority"] == b"127.0.0.1"
