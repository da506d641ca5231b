"""What a producer meets: PutRecord and PutRecords, well-formed. Runs through `put_url`."""

import hashlib

import pytest

from tests.kit.endpoints import CONTENT_TYPES, Endpoint, data_of, entry

HASH_KEY_END = 2**128
MIB = 1024 * 1024


def ranges_of(endpoint: Endpoint, stream: str) -> dict[str, range]:
    """Open shards and the hash keys they hold."""
    return {
        shard["ShardId"]: range(
            int(shard["HashKeyRange"]["StartingHashKey"]),
            int(shard["HashKeyRange"]["EndingHashKey"]) + 1,
        )
        for shard in endpoint.shards(stream)
        if not shard["SequenceNumberRange"].get("EndingSequenceNumber")
    }


def test_each_record_goes_to_the_shard_that_holds_the_md5_of_its_key(
    endpoint: Endpoint, stream: str
) -> None:
    keys = ["a", "b", "é", "日本語", "k" * 256, *(f"key-{index}" for index in range(50))]
    results = endpoint.put_all(stream, [entry(b"x", key) for key in keys])
    ranges = ranges_of(endpoint, stream)
    for key, result in zip(keys, results, strict=True):
        hash_key = int(hashlib.md5(key.encode()).hexdigest(), 16)
        assert hash_key in ranges[result["ShardId"]], key


def test_an_explicit_hash_key_decides_the_shard(endpoint: Endpoint, stream: str) -> None:
    third = HASH_KEY_END // 3
    hash_keys = [0, 1, third // 2, third + 1, 2 * third + 2, HASH_KEY_END - 10**30]
    results = endpoint.put_all(stream, [entry(b"x", "same", str(each)) for each in hash_keys])
    found = [int(result["ShardId"][-1]) for result in results]
    assert found == [0, 0, 0, 1, 2, 2]


def test_the_highest_hash_key_belongs_to_the_last_shard(endpoint: Endpoint, stream: str) -> None:
    (result,) = endpoint.put_all(stream, [entry(b"x", "k", str(HASH_KEY_END - 1))])
    assert result["ShardId"] == "shardId-000000000002"


def test_a_null_explicit_hash_key_is_none(endpoint: Endpoint, stream: str) -> None:
    plain, null = endpoint.put_all(
        stream, [entry(b"x", "k"), {**entry(b"x", "k"), "ExplicitHashKey": None}]
    )
    assert plain["ShardId"] == null["ShardId"]


def test_put_record_answers_shard_and_sequence_number(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.put("PutRecord", StreamName=stream, **entry(b"hello", "k"))
    assert answer.status == 200
    (record,) = endpoint.read_stream(stream)
    assert answer.members["SequenceNumber"] == record["SequenceNumber"]
    assert answer.members["ShardId"].startswith("shardId-0000000000")


def test_a_success_has_no_error_code(endpoint: Endpoint, stream: str) -> None:
    (result,) = endpoint.put_all(stream, [entry(b"x", "k")])
    assert not result.get("ErrorCode")
    assert result["SequenceNumber"].isdigit()


def test_every_byte_arrives_unchanged(endpoint: Endpoint, stream: str) -> None:
    data = [b"", bytes(range(256)), b"\x00", "żółw".encode(), b"x" * 100_000]
    endpoint.put_all(stream, [entry(each, "same") for each in data])
    records = endpoint.read_stream(stream)
    assert [data_of(record) for record in records] == data
    assert {record["PartitionKey"] for record in records} == {"same"}


def test_500_records_in_one_call(endpoint: Endpoint, stream: str) -> None:
    entries = [entry(b"%d" % index, f"key-{index}") for index in range(500)]
    results = endpoint.put_all(stream, entries)
    assert all(result["SequenceNumber"] for result in results)
    found = sorted(int(data_of(record)) for record in endpoint.read_stream(stream))
    assert found == list(range(500))


def test_sequence_numbers_increase_within_a_shard(endpoint: Endpoint, stream: str) -> None:
    numbers = [
        int(result["SequenceNumber"])
        for _ in range(3)
        for result in endpoint.put_all(stream, [entry(b"x", "same")] * 10)
    ]
    assert numbers == sorted(set(numbers))


def test_a_record_may_fill_its_limit_with_its_key(endpoint: Endpoint, stream: str) -> None:
    (result,) = endpoint.put_all(stream, [entry(b"x" * (MIB - 10), "k" * 10)])
    assert result["SequenceNumber"]


def test_256_characters_of_two_bytes_are_a_key(endpoint: Endpoint, stream: str) -> None:
    endpoint.put_all(stream, [entry(b"x", "é" * 256)])
    (record,) = endpoint.read_stream(stream)
    assert record["PartitionKey"] == "é" * 256


@pytest.mark.parametrize("case", ["PutRecord", "PutRecords"])
def test_a_stream_may_be_named_by_arn(endpoint: Endpoint, stream: str, case: str) -> None:
    arn = endpoint.wait_active(stream)["StreamARN"]
    records = entry(b"x", "k") if case == "PutRecord" else {"Records": [entry(b"x", "k")]}
    answer = endpoint.put(case, StreamARN=arn, **records)
    assert answer.status == 200, answer
    assert len(endpoint.read_stream(stream)) == 1


def test_members_that_are_not_known_are_ignored(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.put(
        "PutRecords", StreamName=stream, Records=[{**entry(b"x", "k"), "Colour": 1}], Shape=[]
    )
    assert answer.status == 200, answer


def test_a_charset_beside_the_content_type_is_ignored(endpoint: Endpoint, stream: str) -> None:
    body = b'{"StreamName":"%b","Records":[{"Data":"eA==","PartitionKey":"k"}]}' % stream.encode()
    headers = {"content_type": "application/x-amz-json-1.1; charset=utf-8"}
    answer = endpoint.put_raw("PutRecords", body, **headers)
    assert answer.status == 200, answer


def test_an_answer_names_its_request(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.put("PutRecords", StreamName=stream, Records=[entry(b"x", "k")])
    assert answer.headers["x-amzn-requestid"]
    assert answer.headers["content-type"] == CONTENT_TYPES[endpoint.encoding]
