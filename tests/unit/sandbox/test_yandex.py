"""The imitated Yandex: what it refuses, how it throttles, how it is described."""

import base64
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import YANDEX
from kdaemon.sandbox import yandex
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings

NAME = "/ru-central1/b1gfolder/etndatabase/orders"
LOW, HIGH = "0", str(HASH_KEY_MAX)


def make_service(shard_count: int = 2, **settings: object) -> Service:
    service = Service(SandboxSettings(service=YANDEX, **settings))  # type: ignore[arg-type]
    service.create_stream(NAME, shard_count)
    return service


def test_a_sequence_number_is_the_offset_in_its_shard() -> None:
    service = make_service()
    records = [Record(b"a", "k", LOW), Record(b"b", "k", HIGH), Record(b"c", "k", LOW)]
    results = service.put_records(NAME, records, 0)
    assert [(result.shard_id, result.sequence_number) for result in results] == [
        ("shard-000000", "0"),
        ("shard-000001", "0"),
        ("shard-000000", "1"),
    ]
    assert all(result.is_delivered for result in results)


def test_all_records_of_a_shard_are_throttled_together_with_empty_strings() -> None:
    service = make_service(quota=Quota(3, MIB))
    low, high = Record(b"x", "k", LOW), Record(b"x", "k", HIGH)
    assert service.put_records(NAME, [low], 0)[0].is_delivered
    results = service.put_records(NAME, [low, high, low, low], 0)
    failed = RecordResult("", "", "ProvisionedThroughputExceededException", "quota exceeded")
    assert [results[0], results[2], results[3]] == [failed] * 3
    assert results[1].is_delivered
    assert msgspec.json.decode(msgspec.json.encode(results[0])) == {
        "SequenceNumber": "",
        "ShardId": "",
        "ErrorCode": "ProvisionedThroughputExceededException",
        "ErrorMessage": "quota exceeded",
    }


def test_request_units_throttle_every_record_without_a_message() -> None:
    service = make_service(request_units_per_second=3)
    record = Record(b"x" * 4096, "k")  # with its key 2 blocks: 3 units
    for _ in range(2):  # the second waits for a second, which is as long as one may wait
        assert service.put_records(NAME, [record], 0)[0].is_delivered
    results = service.put_records(NAME, [Record(b"", "k"), Record(b"", "k")], 0)
    assert results == [RecordResult("", "", "ThrottlingException")] * 2
    assert service.put_records(NAME, [Record(b"", "k")], 1_000_000_000)[0].is_delivered


def test_an_internal_failure_takes_its_whole_shard() -> None:
    service = make_service()
    low, high = Record(b"x", "k", LOW), Record(b"x", "k", HIGH)
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(0,))
    results = service.put_records(NAME, [low, high, low], 0, fault)
    assert [result.error_code for result in results] == ["InternalFailure", None, "InternalFailure"]
    assert len(service.stored(NAME)) == 1


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([Record(b"", "k")] * 501, "Too many records in a single PutRecords request: 501 > 500"),
        ([Record(b"", "")], "Empty partition key"),
        (
            [Record(b"x" * (MIB + 1), "k")],
            "Data of size of 1048577 bytes exceed limit of 1048576 bytes",
        ),
        ([Record(b"", "é" * 129)], "Partition key is too long: " + "é" * 129),
        ([Record(b"", "k", "007")], "007 is not a valid 128 bit decimal"),
        ([Record(b"", "k", str(2**128))], f"{2**128} is not a valid 128 bit decimal"),
        (
            [Record(b"x" * MIB, "k")] * 5,
            "Total size of PutRecords request of 5242885 bytes exceed limit of 5242880 bytes",
        ),
    ],
)
def test_refusals_carry_the_services_own_texts(records: list[Record], text: str) -> None:
    service = make_service()
    with pytest.raises(ServiceError) as caught:
        service.put_records(NAME, [Record(b"good", "k"), *records][-max(len(records), 2) :], 0)
    assert caught.value.code == "ValidationException"
    assert caught.value.message == f"<main>: Error: {text}, code: 500003\n"
    assert service.stored(NAME) == []


def test_the_key_is_not_counted_in_a_records_size_and_an_empty_hash_key_is_none() -> None:
    service = make_service(quota=Quota(1000, 10 * MIB))
    results = service.put_records(NAME, [Record(b"x" * MIB, "k" * 256), Record(b"", "k", "")], 0)
    assert all(result.is_delivered for result in results)


@pytest.mark.parametrize(
    "operation", ["ListShards", "DescribeStreamSummary", "SplitShard", "MergeShards", "Nonsense"]
)
def test_unsupported_operations_are_unknown_methods(operation: str) -> None:
    with pytest.raises(ServiceError) as caught:
        make_service().handle(operation, {"StreamName": NAME}, 0)
    assert caught.value.code == "InvalidAction"
    assert caught.value.message == f'Unknown method name "{operation}"'


def test_describe_stream_pages_by_at_most_100_shards() -> None:
    service = make_service(150)
    first = service.handle("DescribeStream", {"StreamName": NAME}, 0)["StreamDescription"]
    assert isinstance(first, dict)
    assert first["StreamARN"] == NAME
    assert first["WriteQuotaKbPerSec"] == 1024
    assert first["HasMoreShards"]
    assert len(first["Shards"]) == 100
    rest = service.handle(
        "DescribeStream",
        {"StreamName": NAME, "ExclusiveStartShardId": first["Shards"][-1]["ShardId"]},
        0,
    )["StreamDescription"]
    assert isinstance(rest, dict)
    assert len(rest["Shards"]) == 50
    assert not rest["HasMoreShards"]
    with pytest.raises(ServiceError) as caught:
        service.handle("DescribeStream", {"StreamName": NAME, "Limit": 101}, 0)
    assert caught.value.code == "ValidationException"


def test_a_write_quota_is_chosen_at_creation() -> None:
    service = make_service()
    payload = {"StreamName": "small", "ShardCount": 1, "WriteQuotaKbPerSec": 128}
    service.handle("CreateStream", payload, 0)
    assert service.stream("small").quota == Quota(1000, 128 * 1024)
    with pytest.raises(ServiceError):
        service.handle("CreateStream", {**payload, "WriteQuotaKbPerSec": 256}, 0)


def test_shards_only_grow_in_number_and_all_stay_open() -> None:
    service = make_service(2)
    service.handle("UpdateShardCount", {"StreamName": NAME, "TargetShardCount": 5}, 0)
    assert [shard.shard_id for shard in service.stream(NAME).open_shards] == [
        f"shard-{index:06d}" for index in range(5)
    ]
    with pytest.raises(ServiceError) as caught:
        service.handle("UpdateShardCount", {"StreamName": NAME, "TargetShardCount": 4}, 0)
    assert caught.value.code == "InvalidArgumentException"
    assert "must be non-decreasing, old value is 5 new value is 4" in caught.value.message


def described(service: Service, name: str = NAME) -> list[dict[str, Any]]:
    answer: Any = service.handle("DescribeStream", {"StreamName": name}, 0)
    shards: list[dict[str, Any]] = answer["StreamDescription"]["Shards"]
    return shards


def range_of(shard: dict[str, Any]) -> tuple[int, int]:
    told = shard["HashKeyRange"]
    return int(told["StartingHashKey"]), int(told["EndingHashKey"])


def test_growing_a_static_stream_maps_every_key_anew_among_open_shards() -> None:
    service = make_service(2)
    key = Record(b"x", "k", str(2**127 - 2**120))  # near the end of the first half
    (before,) = service.put_records(NAME, [key], 0)
    service.handle("UpdateShardCount", {"StreamName": NAME, "TargetShardCount": 4}, 1)
    (after,) = service.put_records(NAME, [key], 2)
    assert (before.shard_id, after.shard_id) == ("shard-000000", "shard-000001")
    shards = described(service)
    quarter = HASH_KEY_MAX // 4
    assert [range_of(shard)[0] for shard in shards] == [index * quarter for index in range(4)]
    for shard in shards:
        assert "ParentShardId" not in shard
        assert list(shard["SequenceNumberRange"]) == ["StartingSequenceNumber"]
        for hash_key in range_of(shard):
            (result,) = service.put_records(NAME, [Record(b"x", "k", str(hash_key))], 3)
            assert result.shard_id == shard["ShardId"], "a static stream tells its true ranges"


def make_splitting_service() -> Service:
    service = Service(SandboxSettings(service=YANDEX))
    service.create_stream(NAME, 2, can_split=True)
    return service


def test_a_shard_that_split_is_told_as_if_open_and_its_children_name_it() -> None:
    service = make_splitting_service()
    service.put_records(NAME, [Record(b"before", "k", LOW)], 0)
    service.split_shard(NAME, "shard-000000", 1)
    shards = described(service)
    assert [shard["ShardId"] for shard in shards] == [f"shard-{index:06d}" for index in range(4)]
    assert [shard.get("ParentShardId") for shard in shards] == [None, None, *["shard-000000"] * 2]
    for shard in shards:
        assert list(shard["SequenceNumberRange"]) == ["StartingSequenceNumber"]
    (after,) = service.put_records(NAME, [Record(b"after", "k", LOW)], 2)
    assert (after.shard_id, after.sequence_number) == ("shard-000002", "0")
    parent = service.stream(NAME).shards[0]
    assert [stored.record.data for stored in parent.log] == [b"before"]


def test_the_last_hash_key_told_of_a_splitting_shard_goes_to_the_next_one() -> None:
    service = make_splitting_service()
    service.split_shard(NAME, "shard-000000", 1)
    in_order = sorted(described(service)[1:], key=range_of)
    assert range_of(in_order[0])[0] == 0
    assert range_of(in_order[-1])[1] == HASH_KEY_MAX
    for shard, following in pairwise(in_order):
        start, end = range_of(shard)
        assert range_of(following)[0] == end + 1
        records = [Record(b"x", "k", str(key)) for key in (start, (start + end) // 2, end)]
        results = service.put_records(NAME, records, 2)
        assert [result.shard_id for result in results] == [
            shard["ShardId"],
            shard["ShardId"],
            following["ShardId"],
        ]


def test_a_splitting_stream_is_made_by_call_and_only_grows_by_splits() -> None:
    service = make_service()
    payload = {
        "StreamName": "growing",
        "ShardCount": 1,
        "PartitioningSettings": {
            "MinActivePartitions": 3,
            "MaxActivePartitions": 10,
            "AutoPartitioningSettings": {"Strategy": "AUTO_PARTITIONING_STRATEGY_SCALE_UP"},
        },
    }
    body = msgspec.json.encode(payload)
    service.handle("CreateStream", yandex.read_payload("CreateStream", body), 0)
    assert len(described(service, "growing")) == 3
    service.split_shard("growing", "shard-000001", 0)
    assert len(described(service, "growing")) == 5
    update = {"StreamName": "growing", "TargetShardCount": 8}
    with pytest.raises(ServiceError) as caught:
        service.handle("UpdateShardCount", update, 0)
    assert caught.value.code == "InvalidArgumentException"
    with pytest.raises(ServiceError, match="static"):
        service.split_shard(NAME, "shard-000000", 0)
    assert len(described(service)) == 2


def test_records_are_read_back_by_offset() -> None:
    service = make_service(1)
    service.put_records(NAME, [Record(b"%d" % index, "k") for index in range(5)], 0)
    payload = {
        "StreamName": NAME,
        "ShardId": "shard-000000",
        "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
        "StartingSequenceNumber": "2",
    }
    token = service.handle("GetShardIterator", payload, 0)["ShardIterator"]
    records = service.handle("GetRecords", {"ShardIterator": token}, 0)["Records"]
    assert isinstance(records, list)
    assert [record["SequenceNumber"] for record in records] == ["3", "4"]


def test_the_envelope_takes_json_and_any_service_name() -> None:
    for content_type in (b"application/json", b"application/x-amz-json-1.1; charset=utf-8"):
        headers = {b"content-type": content_type, b"x-amz-target": b"legacyApi.PutRecords"}
        assert yandex.read_operation(headers) == "PutRecords"
        yandex.check_body(headers, b"{}")
    with pytest.raises(ServiceError, match="Unknown ContentType"):
        yandex.check_body({b"content-type": b"text/plain"}, b"{}")


def test_put_records_reads_exactly_its_own_keys() -> None:
    data = base64.b64encode(b"\x00\xff").decode()
    body = {"StreamName": NAME, "Records": [{"Data": data, "PartitionKey": "k"}]}
    assert yandex.parse_put_records(msgspec.json.encode(body)) == (
        NAME,
        [Record(b"\x00\xff", "k")],
    )
    extra_entry = {"Data": data, "PartitionKey": "k", "Colour": 1}
    for bad, code, text in (
        ({**body, "StreamARN": "x"}, "InvalidArgumentException", "Unexpected json key: StreamARN"),
        ({**body, "DryRun": True}, "InvalidArgumentException", "Unexpected json key: DryRun"),
        (
            {"StreamName": NAME, "Records": [extra_entry]},
            "InvalidArgumentException",
            "Unexpected json key: Colour",
        ),
        ({"Records": []}, "ValidationException", "Stream name is empty"),
        ({**body, "StreamName": 7}, "InvalidArgumentException", "Unexpected json value"),
        (None, "MissingParameter", "Top level of json value is not a map"),
        ([], "InvalidArgumentException", "Unexpected json value"),
    ):
        with pytest.raises(ServiceError) as caught:
            yandex.parse_put_records(msgspec.json.encode(bad))
        assert caught.value.code == code
        assert text in caught.value.message
    for noise in (b"", b"{", b"\xff\xfe"):
        with pytest.raises(ServiceError, match="Can not parse"):
            yandex.parse_put_records(noise)
        with pytest.raises(ServiceError, match="Can not parse"):
            yandex.parse_put_record(noise)


def test_put_record_reads_its_own_keys() -> None:
    body = {"StreamName": NAME, "Data": "", "PartitionKey": "k", "SequenceNumberForOrdering": "1"}
    assert yandex.parse_put_record(msgspec.json.encode(body)) == (NAME, [Record(b"", "k")])
    with pytest.raises(ServiceError, match="Unexpected json key: StreamId"):
        yandex.parse_put_record(msgspec.json.encode({**body, "StreamId": "x"}))


def test_control_calls_refuse_unknown_keys() -> None:
    body = msgspec.json.encode({"StreamName": NAME, "StreamARN": NAME})
    with pytest.raises(ServiceError, match="Unexpected json key: StreamARN"):
        yandex.read_payload("DescribeStream", body)
    assert yandex.read_payload("DescribeStream", b'{"Limit":1}') == {"Limit": 1}
