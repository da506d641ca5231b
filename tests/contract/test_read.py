"""Reading back: iterators and GetRecords."""

import pytest

from tests.kit.endpoints import Endpoint, data_of, entry

FIRST = "shardId-000000000000"


def put_in_first_shard(endpoint: Endpoint, stream: str, *data: bytes) -> list[str]:
    """Puts records under the lowest hash key; their sequence numbers."""
    results = endpoint.put_all(stream, [entry(each, "k", "0") for each in data])
    assert {result["ShardId"] for result in results} == {FIRST}
    return [result["SequenceNumber"] for result in results]


def read(endpoint: Endpoint, token: str, **members: object) -> list[bytes]:
    answer = endpoint.answer("GetRecords", ShardIterator=token, **members)
    return [data_of(record) for record in answer["Records"]]


def test_trim_horizon_reads_from_the_oldest(endpoint: Endpoint, stream: str) -> None:
    numbers = put_in_first_shard(endpoint, stream, b"a", b"b", b"c")
    records = endpoint.read_shard(stream, FIRST)
    assert [data_of(record) for record in records] == [b"a", b"b", b"c"]
    assert [record["SequenceNumber"] for record in records] == numbers
    assert all(record["ApproximateArrivalTimestamp"] > 1_600_000_000 for record in records)


def test_latest_reads_what_comes_after(endpoint: Endpoint, stream: str) -> None:
    put_in_first_shard(endpoint, stream, b"before")
    token = endpoint.iterator(stream, FIRST, "LATEST")
    put_in_first_shard(endpoint, stream, b"after")
    assert read(endpoint, token) == [b"after"]


def test_at_and_after_a_sequence_number(endpoint: Endpoint, stream: str) -> None:
    numbers = put_in_first_shard(endpoint, stream, b"a", b"b", b"c")
    at = endpoint.iterator(stream, FIRST, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1])
    after = endpoint.iterator(
        stream, FIRST, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]
    )
    assert read(endpoint, at) == [b"b", b"c"]
    assert read(endpoint, after) == [b"c"]


def test_at_a_timestamp_of_long_ago_reads_all(endpoint: Endpoint, stream: str) -> None:
    put_in_first_shard(endpoint, stream, b"a", b"b")
    token = endpoint.iterator(stream, FIRST, "AT_TIMESTAMP", Timestamp=1_600_000_000)
    assert read(endpoint, token) == [b"a", b"b"]


def test_a_limit_pages_and_the_next_iterator_goes_on(endpoint: Endpoint, stream: str) -> None:
    put_in_first_shard(endpoint, stream, *(b"%d" % index for index in range(5)))
    token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
    pages = []
    for _ in range(3):
        answer = endpoint.answer("GetRecords", ShardIterator=token, Limit=2)
        pages.append([data_of(record) for record in answer["Records"]])
        token = answer["NextShardIterator"]
    assert pages == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


def test_a_reader_at_the_tip_is_not_behind(endpoint: Endpoint, stream: str) -> None:
    put_in_first_shard(endpoint, stream, b"a")
    token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
    assert endpoint.answer("GetRecords", ShardIterator=token)["MillisBehindLatest"] == 0


def test_an_empty_shard_gives_no_records_and_an_iterator(endpoint: Endpoint, stream: str) -> None:
    token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
    answer = endpoint.answer("GetRecords", ShardIterator=token)
    assert answer["Records"] == []
    assert answer["NextShardIterator"]


def test_a_made_up_iterator_is_refused(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call("GetRecords", ShardIterator="x" * 20)
    assert answer.refusal == (400, "InvalidArgumentException")


def test_an_unknown_shard_is_not_found(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call(
        "GetShardIterator",
        StreamName=stream,
        ShardId="shardId-000000000099",
        ShardIteratorType="LATEST",
    )
    assert answer.refusal == (400, "ResourceNotFoundException")


def test_an_unknown_stream_has_no_iterators(endpoint: Endpoint) -> None:
    answer = endpoint.call(
        "GetShardIterator", StreamName="none", ShardId=FIRST, ShardIteratorType="LATEST"
    )
    assert answer.refusal == (400, "ResourceNotFoundException")


@pytest.mark.parametrize("case", ["kind", "limit"])
def test_what_is_out_of_bounds_is_refused(endpoint: Endpoint, stream: str, case: str) -> None:
    if case == "kind":
        answer = endpoint.call(
            "GetShardIterator", StreamName=stream, ShardId=FIRST, ShardIteratorType="SOMEWHERE"
        )
    else:
        token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
        answer = endpoint.call("GetRecords", ShardIterator=token, Limit=10_001)
    assert answer.refusal == (400, "ValidationException")
