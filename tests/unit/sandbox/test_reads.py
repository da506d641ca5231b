"""Iterators and GetRecords, through `Service.handle` as a reader calls them."""

from typing import Any

import pytest

from kdaemon.base.limits import MIB
from kdaemon.base.record import Record
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from tests.unit.sandbox.calls import SECOND, WALL_OFFSET, refusal

MS = 1_000_000
SHARD = "shardId-000000000000"


@pytest.fixture
def service() -> Service:
    service = Service(SandboxSettings(quota=Quota(10**6, 10**9)), wall_offset_ns=WALL_OFFSET)
    service.create_stream("orders", 1)
    return service


def put(service: Service, *data: bytes, now_ns: int = 0) -> list[str]:
    results = service.put_records("orders", [Record(each, "k") for each in data], now_ns)
    return [result.sequence_number or "" for result in results]


def iterator(service: Service, kind: str, now_ns: int = 0, **members: object) -> str:
    members = {"StreamName": "orders", "ShardId": SHARD, "ShardIteratorType": kind, **members}
    return str(service.handle("GetShardIterator", members, now_ns)["ShardIterator"])


def read(service: Service, token: str, now_ns: int = 0, **members: object) -> dict[str, Any]:
    return service.handle("GetRecords", {"ShardIterator": token, **members}, now_ns)


def data_of(answer: dict[str, Any]) -> list[bytes]:
    return [record["Data"] for record in answer["Records"]]


def test_trim_horizon_reads_all_from_the_oldest_in_order(service: Service) -> None:
    numbers = put(service, b"a", b"b", now_ns=1500 * MS)
    answer = read(service, iterator(service, "TRIM_HORIZON"), 1500 * MS)
    assert answer["Records"] == [
        {
            "SequenceNumber": number,
            "ApproximateArrivalTimestamp": 1_700_000_001.5,
            "Data": data,
            "PartitionKey": "k",
        }
        for number, data in zip(numbers, (b"a", b"b"), strict=True)
    ]
    assert answer["MillisBehindLatest"] == 0


def test_latest_reads_only_what_comes_after(service: Service) -> None:
    put(service, b"before")
    token = iterator(service, "LATEST")
    assert data_of(read(service, token)) == []
    put(service, b"after")
    assert data_of(read(service, token)) == [b"after"]


def test_at_and_after_a_sequence_number(service: Service) -> None:
    numbers = put(service, b"a", b"b", b"c")
    at = iterator(service, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1])
    after = iterator(service, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1])
    assert data_of(read(service, at)) == [b"b", b"c"]
    assert data_of(read(service, after)) == [b"c"]


def test_at_timestamp_starts_at_the_first_record_of_that_time_or_later(service: Service) -> None:
    put(service, b"a", now_ns=1 * SECOND)
    put(service, b"b", now_ns=2 * SECOND)
    for timestamp, expected in (
        (1_700_000_000, [b"a", b"b"]),
        (1_700_000_002, [b"b"]),
        (1_700_000_001.5, [b"b"]),
    ):
        token = iterator(service, "AT_TIMESTAMP", 2 * SECOND, Timestamp=timestamp)
        assert data_of(read(service, token, 2 * SECOND)) == expected, timestamp


def test_at_a_timestamp_after_all_records_reads_what_comes_next(service: Service) -> None:
    put(service, b"a")
    token = iterator(service, "AT_TIMESTAMP", Timestamp=1_800_000_000)
    put(service, b"b")
    assert data_of(read(service, token)) == [b"b"]


def test_the_next_iterator_goes_on_where_the_last_read_ended(service: Service) -> None:
    put(service, *(b"%d" % index for index in range(10)))
    token, seen = iterator(service, "TRIM_HORIZON"), []
    for _ in range(4):
        answer = read(service, token, Limit=3)
        assert len(answer["Records"]) <= 3
        seen += data_of(answer)
        token = answer["NextShardIterator"]
    assert seen == [b"%d" % index for index in range(10)]


def test_millis_behind_latest_is_the_age_of_the_oldest_unread_record(service: Service) -> None:
    put(service, b"a", now_ns=0)
    put(service, b"b", now_ns=2 * SECOND)
    answer = read(service, iterator(service, "TRIM_HORIZON"), 5 * SECOND, Limit=1)
    assert answer["MillisBehindLatest"] == 3000
    answer = read(service, answer["NextShardIterator"], 5 * SECOND)
    assert answer["MillisBehindLatest"] == 0


def test_one_answer_holds_at_most_10_mib_but_always_one_record(service: Service) -> None:
    service.create_stream("large", 1, record_bytes_max=10 * MIB)
    sizes = (10 * MIB - 1, 6 * MIB, 4 * MIB, 1)
    for size in sizes:
        service.put_records("large", [Record(b"x" * size, "k")], 0)
    token = iterator(service, "TRIM_HORIZON", StreamName="large")
    read_sizes = []
    for _ in range(3):
        answer = read(service, token)
        read_sizes.append([len(data) for data in data_of(answer)])
        token = answer["NextShardIterator"]
    assert read_sizes == [[10 * MIB - 1], [6 * MIB, 4 * MIB], [1]]


def test_a_closed_shard_ends_with_null_and_its_children(service: Service) -> None:
    put(service, b"a", b"b")
    stream = service.stream("orders")
    stream.split(stream.shards[0], 2**127, 0)
    answer = read(service, iterator(service, "TRIM_HORIZON"), Limit=1)
    assert answer["NextShardIterator"] is not None
    assert "ChildShards" not in answer
    answer = read(service, answer["NextShardIterator"])
    assert data_of(answer) == [b"b"]
    assert answer["NextShardIterator"] is None
    assert answer["ChildShards"] == [
        {
            "ShardId": "shardId-000000000001",
            "ParentShards": [SHARD],
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(2**127 - 1)},
        },
        {
            "ShardId": "shardId-000000000002",
            "ParentShards": [SHARD],
            "HashKeyRange": {
                "StartingHashKey": str(2**127),
                "EndingHashKey": str(2**128 - 1),
            },
        },
    ]


def test_an_iterator_lives_five_minutes(service: Service) -> None:
    token = iterator(service, "TRIM_HORIZON")
    read(service, token, 300 * SECOND)
    error = refusal(service, "GetRecords", 300 * SECOND + 1, ShardIterator=token)
    assert error.code == "ExpiredIteratorException"


def test_an_iterator_of_a_deleted_stream_does_not_read_its_namesake(service: Service) -> None:
    token = iterator(service, "TRIM_HORIZON")
    service.handle("DeleteStream", {"StreamName": "orders"}, 0)
    error = refusal(service, "GetRecords", ShardIterator=token)
    assert error.code == "ResourceNotFoundException"
    service.create_stream("orders", 1, now_ns=1)
    error = refusal(service, "GetRecords", ShardIterator=token)
    assert error.code == "InvalidArgumentException"


@pytest.mark.parametrize("token", ["x", "", "AAAA", "é", "kZGRkZE=", "A" * 1000])
def test_a_made_up_iterator_is_refused(service: Service, token: str) -> None:
    error = refusal(service, "GetRecords", ShardIterator=token)
    assert (error.code, error.message) == ("InvalidArgumentException", "Invalid ShardIterator.")


def test_iterators_ask_for_what_they_need(service: Service) -> None:
    (number,) = put(service, b"a")
    base: dict[str, Any] = {"StreamName": "orders", "ShardId": SHARD}
    for members, code in (
        ({"ShardIteratorType": "AT_SEQUENCE_NUMBER"}, "InvalidArgumentException"),
        ({"ShardIteratorType": "AT_TIMESTAMP"}, "InvalidArgumentException"),
        ({"ShardIteratorType": "SOMEWHERE"}, "ValidationException"),
        ({}, "ValidationException"),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "12"},
            "InvalidArgumentException",
        ),
        (
            {"ShardIteratorType": "LATEST", "StartingSequenceNumber": number},
            "InvalidArgumentException",
        ),
        ({"ShardIteratorType": "LATEST", "ShardId": "shardId-9"}, "ResourceNotFoundException"),
        ({"ShardIteratorType": "LATEST", "StreamName": "none"}, "ResourceNotFoundException"),
        ({"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": "now"}, "SerializationException"),
        (
            {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": float("nan")},
            "ValidationException",
        ),
    ):
        error = refusal(service, "GetShardIterator", **{**base, **members})
        assert error.code == code, members


def test_reading_survives_retention(service: Service) -> None:
    numbers = put(service, b"a", b"b", b"c")
    start = iterator(service, "TRIM_HORIZON")
    at = iterator(service, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[0])
    del service.stream("orders").shards[0].log[:2]
    assert data_of(read(service, start)) == [b"c"]
    assert data_of(read(service, at)) == [b"c"]
