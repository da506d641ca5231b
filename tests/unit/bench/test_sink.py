"""The bench's sink answers as the service would, so that figures against it mean something."""

import asyncio
import hashlib
import json
from itertools import pairwise
from typing import Any, cast

import pytest

from bench.records import make_records, put_records_body, request_head
from bench.sink import SHARD_COUNT, Answers, SinkProtocol


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data


def connected(answers: Answers) -> tuple[SinkProtocol, FakeTransport]:
    protocol, transport = SinkProtocol(answers, latency_s=0.0), FakeTransport()
    protocol.connection_made(cast("asyncio.BaseTransport", transport))
    return protocol, transport


def bodies(written: bytes) -> list[dict[str, Any]]:
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        found.append(json.loads(rest[:size]))
        written = rest[size:]
    return found


def test_every_record_is_answered_with_the_shard_its_key_hashes_to() -> None:
    records = list(make_records(500))
    status, body = Answers(has_map=True).answer(b"PutRecords", put_records_body(records))
    shards = [entry["ShardId"] for entry in json.loads(body)["Records"]]
    assert status == 200
    assert len(set(shards)) == SHARD_COUNT
    for record, shard in zip(records, shards, strict=True):
        hashed = int.from_bytes(hashlib.md5(record.key.encode()).digest(), "big")
        assert shard == f"shardId-{hashed // 2**124:012d}"


def test_an_explicit_hash_key_decides_the_shard() -> None:
    body = json.dumps(
        {"Records": [{"Data": "", "PartitionKey": "k", "ExplicitHashKey": str(2**128 - 1)}]}
    ).encode()
    _, answer = Answers(has_map=True).answer(b"PutRecords", body)
    assert json.loads(answer)["Records"][0]["ShardId"] == "shardId-000000000015"


@pytest.mark.parametrize("has_map", [True, False])
def test_sequence_numbers_have_56_digits_and_are_never_given_twice(has_map: bool) -> None:
    answers = Answers(has_map=has_map)
    body = put_records_body(list(make_records(500)))
    seen = [
        entry["SequenceNumber"]
        for _ in range(3)
        for entry in json.loads(answers.answer(b"PutRecords", body)[1])["Records"]
    ]
    assert len(set(seen)) == len(seen) == 1500
    assert {len(number) for number in seen} == {56}
    assert answers.record_count == 1500
    assert answers.call_count == 3


@pytest.mark.parametrize("has_map", [True, False])
def test_records_are_counted_whatever_their_keys_contain(has_map: bool) -> None:
    keys = ['"PartitionKey"', '\\"PartitionKey"', "PartitionKey", "é"]
    body = json.dumps({"Records": [{"Data": "", "PartitionKey": key} for key in keys]}).encode()
    answers = Answers(has_map=has_map)
    _, answer = answers.answer(b"PutRecords", body)
    assert answers.record_count == len(json.loads(answer)["Records"]) == 4


def test_without_a_map_nothing_may_be_listed() -> None:
    answers = Answers(has_map=False)
    for operation in (b"ListShards", b"DescribeStreamSummary", b"DescribeStream"):
        status, body = answers.answer(operation, b"{}")
        assert status == 400
        assert json.loads(body)["__type"] == "AccessDeniedException"


def test_the_described_shards_cover_every_hash_key_once() -> None:
    _, body = Answers(has_map=True).answer(b"ListShards", b"{}")
    ranges = [shard["HashKeyRange"] for shard in json.loads(body)["Shards"]]
    edges = [(int(one["StartingHashKey"]), int(one["EndingHashKey"])) for one in ranges]
    assert edges[0][0] == 0
    assert edges[-1][1] == 2**128 - 1
    assert all(after[0] == before[1] + 1 for before, after in pairwise(edges))


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 10**6])
def test_requests_are_answered_in_order_however_they_are_cut(piece_bytes: int) -> None:
    sizes = [1, 3, 2]
    requests = [put_records_body(list(make_records(size))) for size in sizes]
    stream = b"".join(request_head("PutRecords", len(body)) + body for body in requests)
    protocol, transport = connected(Answers(has_map=True))
    for at in range(0, len(stream), piece_bytes):
        protocol.data_received(stream[at : at + piece_bytes])
    assert [len(answer["Records"]) for answer in bodies(transport.written)] == sizes


def test_the_count_is_told_on_request() -> None:
    answers = Answers(has_map=True)
    answers.answer(b"PutRecords", put_records_body(list(make_records(7))))
    protocol, transport = connected(answers)
    protocol.data_received(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n")
    assert bodies(transport.written) == [{"records": 7, "calls": 1}]


def test_a_put_record_is_answered_with_one_shard() -> None:
    body = b'{"StreamName": "bench", "Data": "", "PartitionKey": "a"}'
    status, answer = Answers(has_map=True).answer(b"PutRecord", body)
    hashed = int.from_bytes(hashlib.md5(b"a").digest(), "big")
    assert status == 200
    assert json.loads(answer)["ShardId"] == f"shardId-{hashed // 2**124:012d}"
