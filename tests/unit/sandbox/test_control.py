"""Making, describing, listing and resharding streams."""

from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.record import Record
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from tests.unit.sandbox.calls import SECOND, WALL_OFFSET, call, refusal

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"


@pytest.fixture
def service() -> Service:
    service = Service(wall_offset_ns=WALL_OFFSET)
    service.create_stream("orders", 2)
    return service


def ids(shards: list[dict[str, Any]]) -> list[int]:
    return [int(shard["ShardId"][-12:]) for shard in shards]


def test_a_stream_made_by_call_is_described_as_the_service_does(service: Service) -> None:
    assert call(service, "CreateStream", StreamName="new", ShardCount=1, now_ns=3 * SECOND) == {}
    description = call(service, "DescribeStream", StreamName="new")["StreamDescription"]
    (shard,) = description.pop("Shards")
    assert description == {
        "StreamName": "new",
        "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/new",
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "HasMoreShards": False,
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_003,
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
    }
    assert shard["ShardId"] == "shardId-000000000000"
    assert shard["HashKeyRange"] == {
        "StartingHashKey": "0",
        "EndingHashKey": str(HASH_KEY_MAX),
    }
    assert list(shard["SequenceNumberRange"]) == ["StartingSequenceNumber"]


def test_a_stream_is_found_by_arn(service: Service) -> None:
    summary = call(service, "DescribeStreamSummary", StreamARN=ARN)["StreamDescriptionSummary"]
    assert summary["StreamName"] == "orders"
    assert summary["OpenShardCount"] == 2
    assert summary["MaxRecordSizeInKiB"] == 1024


def test_name_and_arn_must_name_one_stream_and_one_must_be_there(service: Service) -> None:
    foreign = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"  # another account: the same
    assert call(service, "DescribeStream", StreamARN=foreign, StreamName="orders")
    wrong: list[dict[str, Any]] = [{"StreamARN": foreign, "StreamName": "other"}, {}]
    for members in wrong:
        assert refusal(service, "DescribeStream", **members).code == "InvalidArgumentException"
    assert refusal(service, "DescribeStream", StreamARN="orders").code == "ValidationException"


def test_a_stream_can_be_made_for_larger_records(service: Service) -> None:
    call(service, "CreateStream", StreamName="new", ShardCount=1, MaxRecordSizeInKiB=10240)
    summary = call(service, "DescribeStreamSummary", StreamName="new")["StreamDescriptionSummary"]
    assert summary["MaxRecordSizeInKiB"] == 10240
    assert service.stream("new").record_bytes_max == 10240 * 1024


def test_a_name_is_taken_once_and_free_after_deletion(service: Service) -> None:
    error = refusal(service, "CreateStream", StreamName="orders", ShardCount=1)
    assert error.code == "ResourceInUseException"
    service.put_records("orders", [Record(b"x", "k")], 0)
    call(service, "DeleteStream", StreamName="orders")
    assert service.state()["retained_bytes"] == 0
    assert refusal(service, "DeleteStream", StreamName="orders").code == "ResourceNotFoundException"
    call(service, "CreateStream", StreamName="orders", ShardCount=1)
    assert service.stored("orders") == []


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"StreamName": "no/such", "ShardCount": 1}, "ValidationException"),
        ({"StreamName": "", "ShardCount": 1}, "ValidationException"),
        ({"StreamName": "n" * 129, "ShardCount": 1}, "ValidationException"),
        ({"StreamName": "new\n", "ShardCount": 1}, "ValidationException"),
        ({"StreamName": 7, "ShardCount": 1}, "SerializationException"),
        ({"ShardCount": 1}, "ValidationException"),
        ({"StreamName": "new", "ShardCount": 0}, "ValidationException"),
        ({"StreamName": "new", "ShardCount": "1"}, "SerializationException"),
        ({"StreamName": "new", "ShardCount": True}, "SerializationException"),
        ({"StreamName": "new", "ShardCount": 10**30}, "ValidationException"),
        ({"StreamName": "new", "MaxRecordSizeInKiB": 1023}, "ValidationException"),
    ],
)
def test_a_bad_create_is_refused(service: Service, members: dict[str, Any], code: str) -> None:
    assert refusal(service, "CreateStream", **members).code == code
    assert service.stream_names == ["orders"]


def test_streams_and_shards_are_bounded() -> None:
    service = Service(SandboxSettings(stream_count_max=2, shard_count_max=5))
    service.create_stream("a", 3)
    code = "LimitExceededException"
    assert refusal(service, "CreateStream", StreamName="b", ShardCount=3).code == code
    service.create_stream("b", 1)
    assert refusal(service, "CreateStream", StreamName="c", ShardCount=1).code == code
    split: dict[str, Any] = {
        "ShardToSplit": "shardId-000000000000",
        "NewStartingHashKey": str(2**100),
    }
    assert refusal(service, "SplitShard", StreamName="a", **split).code == code
    update: dict[str, Any] = {"TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING"}
    assert refusal(service, "UpdateShardCount", StreamName="a", **update).code == code
    assert len(service.stream("a").shards) == 3


def test_describe_stream_pages_by_shard(service: Service) -> None:
    first = call(service, "DescribeStream", StreamName="orders", Limit=1)["StreamDescription"]
    assert first["HasMoreShards"]
    assert ids(first["Shards"]) == [0]
    rest = call(
        service, "DescribeStream", StreamName="orders", ExclusiveStartShardId="shardId-000000000000"
    )["StreamDescription"]
    assert not rest["HasMoreShards"]
    assert ids(rest["Shards"]) == [1]


def test_streams_are_listed_in_pages(service: Service) -> None:
    for name in ("b", "a", "c"):
        service.create_stream(name, 1)
    first = call(service, "ListStreams", Limit=3)
    assert first["StreamNames"] == ["a", "b", "c"]
    assert first["HasMoreStreams"]
    assert [summary["StreamName"] for summary in first["StreamSummaries"]] == ["a", "b", "c"]
    second = call(service, "ListStreams", NextToken=first["NextToken"])
    assert second["StreamNames"] == ["orders"]
    assert not second["HasMoreStreams"]
    assert "NextToken" not in second
    after_b = call(service, "ListStreams", ExclusiveStartStreamName="b")
    assert after_b["StreamNames"] == ["c", "orders"]


def test_list_shards_at_latest_gives_the_open_ones(service: Service) -> None:
    call(
        service,
        "SplitShard",
        StreamName="orders",
        ShardToSplit="shardId-000000000000",
        NewStartingHashKey=str(2**126),
    )
    everything = call(service, "ListShards", StreamName="orders")["Shards"]
    assert ids(everything) == [0, 1, 2, 3]
    assert "EndingSequenceNumber" in everything[0]["SequenceNumberRange"]
    assert everything[2]["ParentShardId"] == "shardId-000000000000"
    assert "AdjacentParentShardId" not in everything[2]
    latest = call(service, "ListShards", StreamName="orders", ShardFilter={"Type": "AT_LATEST"})
    assert ids(latest["Shards"]) == [1, 2, 3]


def test_list_shards_filters_by_time_and_id(service: Service) -> None:
    stream = service.stream("orders")
    stream.split(stream.shards[0], 2**126, now_ns=10 * SECOND)

    def listed(**shard_filter: object) -> list[int]:
        answer = call(
            service, "ListShards", 20 * SECOND, StreamName="orders", ShardFilter=shard_filter
        )
        return ids(answer["Shards"])

    assert listed(Type="AT_TRIM_HORIZON") == [0, 1]
    assert listed(Type="FROM_TRIM_HORIZON") == [0, 1, 2, 3]
    assert listed(Type="AT_TIMESTAMP", Timestamp=1_700_000_005) == [0, 1]
    assert listed(Type="AT_TIMESTAMP", Timestamp=1_700_000_010) == [1, 2, 3]
    assert listed(Type="FROM_TIMESTAMP", Timestamp=1_700_000_005) == [0, 1, 2, 3]
    assert listed(Type="FROM_TIMESTAMP", Timestamp=1_700_000_010) == [1, 2, 3]
    assert listed(Type="AFTER_SHARD_ID", ShardId="shardId-000000000001") == [2, 3]
    error = refusal(
        service, "ListShards", StreamName="orders", ShardFilter={"Type": "AT_TIMESTAMP"}
    )
    assert error.code == "InvalidArgumentException"


def test_list_shards_pages_show_the_shards_of_the_first_page(service: Service) -> None:
    shard_filter = {"Type": "AT_LATEST"}
    first = call(
        service, "ListShards", 1, StreamName="orders", ShardFilter=shard_filter, MaxResults=1
    )
    assert ids(first["Shards"]) == [0]
    stream = service.stream("orders")
    stream.split(stream.shards[1], 2**127 + 2**126, now_ns=2)
    second = call(service, "ListShards", 3, NextToken=first["NextToken"])
    assert ids(second["Shards"]) == [1]
    assert "NextToken" not in second


def test_list_shards_tokens_expire_and_come_alone(service: Service) -> None:
    token = call(service, "ListShards", StreamName="orders", MaxResults=1)["NextToken"]
    error = refusal(service, "ListShards", 300 * SECOND + 1, NextToken=token)
    assert error.code == "ExpiredNextTokenException"
    error = refusal(service, "ListShards", StreamName="orders", NextToken=token)
    assert error.code == "InvalidArgumentException"
    assert refusal(service, "ListShards").code == "InvalidArgumentException"
    for bad in ("x", "e30=", "W10=", "é"):
        error = refusal(service, "ListShards", NextToken=bad)
        assert error.code == "InvalidArgumentException"


def test_list_shards_starts_after_a_shard(service: Service) -> None:
    answer = call(
        service, "ListShards", StreamName="orders", ExclusiveStartShardId="shardId-000000000000"
    )
    assert ids(answer["Shards"]) == [1]


def test_merging_neighbours_by_call(service: Service) -> None:
    call(
        service,
        "MergeShards",
        StreamName="orders",
        ShardToMerge="shardId-000000000000",
        AdjacentShardToMerge="shardId-000000000001",
    )
    merged = call(service, "ListShards", StreamName="orders")["Shards"][2]
    assert merged["ParentShardId"] == "shardId-000000000000"
    assert merged["AdjacentParentShardId"] == "shardId-000000000001"
    assert len(service.stream("orders").open_shards) == 1


def test_only_neighbours_merge(service: Service) -> None:
    service.create_stream("wide", 3)
    error = refusal(
        service,
        "MergeShards",
        StreamName="wide",
        ShardToMerge="shardId-000000000000",
        AdjacentShardToMerge="shardId-000000000002",
    )
    assert error.code == "InvalidArgumentException"
    assert "not an adjacent pair" in error.message
    assert len(service.stream("wide").open_shards) == 3


@pytest.mark.parametrize("key", [0, 1, 2**127 - 1, 2**127, HASH_KEY_MAX])
def test_a_split_needs_a_key_inside_the_shard(service: Service, key: int) -> None:
    error = refusal(
        service,
        "SplitShard",
        StreamName="orders",
        ShardToSplit="shardId-000000000000",
        NewStartingHashKey=str(key),
    )
    assert error.code == "InvalidArgumentException"
    assert len(service.stream("orders").shards) == 2


def test_an_unknown_or_closed_shard_is_not_split(service: Service) -> None:
    split: dict[str, Any] = {"StreamName": "orders", "NewStartingHashKey": str(2**126)}
    error = refusal(service, "SplitShard", ShardToSplit="shardId-000000000009", **split)
    assert error.code == "ResourceNotFoundException"
    call(service, "SplitShard", ShardToSplit="shardId-000000000000", **split)
    error = refusal(service, "SplitShard", ShardToSplit="shardId-000000000000", **split)
    assert error.code == "ResourceInUseException"
    assert len(service.stream("orders").shards) == 4


def test_update_shard_count_says_what_it_does_and_keeps_to_its_bounds(service: Service) -> None:
    update: dict[str, Any] = {"StreamName": "orders", "ScalingType": "UNIFORM_SCALING"}
    answer = call(service, "UpdateShardCount", TargetShardCount=3, **update)
    assert answer == {
        "StreamName": "orders",
        "StreamARN": ARN,
        "CurrentShardCount": 2,
        "TargetShardCount": 3,
    }
    assert len(service.stream("orders").open_shards) == 3
    error = refusal(service, "UpdateShardCount", TargetShardCount=7, **update)
    assert error.code == "LimitExceededException"
    error = refusal(service, "UpdateShardCount", TargetShardCount=1, **update)
    assert error.code == "LimitExceededException"
    assert len(service.stream("orders").open_shards) == 3


def test_records_put_before_resharding_stay_readable(service: Service) -> None:
    service.put_records("orders", [Record(b"%d" % n, f"key-{n}") for n in range(50)], 0)
    call(
        service,
        "UpdateShardCount",
        StreamName="orders",
        TargetShardCount=4,
        ScalingType="UNIFORM_SCALING",
    )
    service.put_records("orders", [Record(b"%d" % n, f"key-{n}") for n in range(50, 100)], 0)
    assert {int(stored.record.data) for stored in service.stored("orders")} == set(range(100))


def test_the_record_limit_is_changed_for_the_next_call(service: Service) -> None:
    two_mib = Record(b"x" * (2 * MIB - 1), "k")
    update: dict[str, Any] = {"StreamARN": ARN, "MaxRecordSizeInKiB": 2048}
    with pytest.raises(ServiceError, match="1048576"):
        service.put_records("orders", [two_mib], 0)
    assert call(service, "UpdateMaxRecordSize", **update) == {}
    summary = call(service, "DescribeStreamSummary", StreamName="orders")[
        "StreamDescriptionSummary"
    ]
    assert summary["MaxRecordSizeInKiB"] == 2048
    assert service.put_records("orders", [two_mib], 0)[0].is_delivered
    call(service, "UpdateMaxRecordSize", **{**update, "MaxRecordSizeInKiB": 1024})
    with pytest.raises(ServiceError, match="1048576"):
        service.put_records("orders", [two_mib], 9 * SECOND)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"StreamARN": ARN, "MaxRecordSizeInKiB": 1023}, "ValidationException"),
        ({"StreamARN": ARN, "MaxRecordSizeInKiB": 10241}, "ValidationException"),
        ({"StreamARN": ARN}, "ValidationException"),
        ({"StreamName": "orders", "MaxRecordSizeInKiB": 2048}, "ValidationException"),
        ({"StreamARN": f"{ARN}x", "MaxRecordSizeInKiB": 2048}, "ResourceNotFoundException"),
    ],
)
def test_a_record_limit_out_of_bounds_changes_nothing(
    service: Service, members: dict[str, Any], code: str
) -> None:
    assert refusal(service, "UpdateMaxRecordSize", **members).code == code
    assert service.stream("orders").record_bytes_max == MIB


def test_a_stream_made_anew_counts_its_shards_from_zero_and_repeats_no_sequence_number(
    service: Service,
) -> None:
    split: dict[str, Any] = {"NewStartingHashKey": str(2**126)}
    call(service, "SplitShard", StreamName="orders", ShardToSplit=f"shardId-{0:012d}", **split)
    before = service.put_record("orders", Record(b"before", "k", "0"), 1)
    assert before.shard_id == f"shardId-{2:012d}"
    shard = {"StreamName": "orders", "ShardId": before.shard_id}
    token = call(service, "GetShardIterator", 1, ShardIteratorType="TRIM_HORIZON", **shard)
    call(service, "DeleteStream", StreamName="orders")
    with pytest.raises(ServiceError) as caught:
        service.put_records("orders", [Record(b"between", "k", "0")], 2)
    assert caught.value.code == "ResourceNotFoundException"
    call(service, "CreateStream", 3, StreamName="orders", ShardCount=3)
    assert ids(call(service, "ListShards", 3, StreamName="orders")["Shards"]) == [0, 1, 2]
    after = service.put_record("orders", Record(b"after", "k", "0"), 3)
    assert after.shard_id == f"shardId-{0:012d}"
    assert int(after.sequence_number or 0) > int(before.sequence_number or 0)
    assert [stored.record.data for stored in service.stored("orders")] == [b"after"]
    error = refusal(service, "GetRecords", 3, **token)
    assert error.code == "InvalidArgumentException"


def test_a_stream_made_anew_has_its_whole_quota(service: Service) -> None:
    batch = [Record(b"x", "k")] * 500
    for _ in range(3):
        service.put_records("orders", batch, 0)
    call(service, "DeleteStream", StreamName="orders")
    call(service, "CreateStream", StreamName="orders", ShardCount=2)
    assert all(result.is_delivered for result in service.put_records("orders", batch, 0))


def test_the_service_halves_a_shard_of_its_own_accord(service: Service) -> None:
    service.split_shard("orders", "shardId-000000000001", 5)
    shards = call(service, "ListShards", 5, StreamName="orders")["Shards"]
    assert [shard.get("ParentShardId", "")[-1:] for shard in shards] == ["", "", "1", "1"]
    assert shards[3]["HashKeyRange"]["StartingHashKey"] == str(2**127 + 2**126)
    for unknown in ("shardId-000000000001", "shardId-000000000009"):
        with pytest.raises(ServiceError):
            service.split_shard("orders", unknown, 6)
    assert len(service.stream("orders").shards) == 4


def test_an_operation_that_is_not_offered_is_unknown(service: Service) -> None:
    assert refusal(service, "EnableEnhancedMonitoring").code == "UnknownOperationException"
    assert refusal(service, "PutRecords").code == "UnknownOperationException"  # these come typed


def test_an_arn_has_the_partition_of_its_region() -> None:
    service = Service(SandboxSettings(region="cn-north-1"))
    service.create_stream("orders", 1)
    arn = ARN.replace("aws:kinesis:us-east-1", "aws-cn:kinesis:cn-north-1")
    answers = (
        call(service, "DescribeStreamSummary", StreamName="orders"),
        call(service, "DescribeStreamSummary", StreamARN=arn),
    )
    assert {each["StreamDescriptionSummary"]["StreamARN"] for each in answers} == {arn}
    error = refusal(service, "DescribeStreamSummary", StreamARN=arn.replace("aws-cn", "aws"))
    assert error.code == "ValidationException"
    assert "cn-north-1 is of aws-cn" in error.message
