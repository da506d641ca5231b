"""Making, describing, listing and resharding streams."""

from itertools import pairwise
from typing import Any

import pytest

from tests.kit.endpoints import Endpoint, data_of, entry

FIRST = "shardId-000000000000"
SECOND = "shardId-000000000001"


def is_open(shard: dict[str, Any]) -> bool:
    return not shard["SequenceNumberRange"].get("EndingSequenceNumber")


def open_ranges(shards: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted(
        (
            int(shard["HashKeyRange"]["StartingHashKey"]),
            int(shard["HashKeyRange"]["EndingHashKey"]),
        )
        for shard in shards
        if is_open(shard)
    )


def split_first(endpoint: Endpoint, stream: str) -> int:
    """Splits the first shard in its middle; the hash key that was used."""
    end = int(endpoint.shards(stream)[0]["HashKeyRange"]["EndingHashKey"])
    middle = (end + 1) // 2
    endpoint.answer_empty(
        "SplitShard", StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(middle)
    )
    endpoint.wait_active(stream)
    return middle


def test_a_stream_is_described(endpoint: Endpoint, stream: str) -> None:
    description = endpoint.wait_active(stream)
    assert description["StreamName"] == stream
    assert description["StreamARN"].startswith("arn:aws:kinesis:")
    assert description["StreamARN"].endswith(f":stream/{stream}")
    assert description["HasMoreShards"] is False
    assert description["RetentionPeriodHours"] == 24
    assert [shard["ShardId"][-3:] for shard in description["Shards"]] == ["000", "001", "002"]


def test_shards_divide_the_hash_keys_evenly(endpoint: Endpoint, stream: str) -> None:
    third = 2**128 // 3
    assert open_ranges(endpoint.shards(stream)) == [
        (0, third - 1),
        (third, 2 * third - 1),
        (2 * third, 2**128 - 1),
    ]


def test_a_stream_is_summed_up(endpoint: Endpoint, stream: str) -> None:
    summary = endpoint.answer("DescribeStreamSummary", StreamName=stream)
    assert summary["StreamDescriptionSummary"]["OpenShardCount"] == 3
    assert summary["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"


def test_a_stream_is_switched_to_on_demand_and_back(endpoint: Endpoint, stream: str) -> None:
    arn = endpoint.wait_active(stream)["StreamARN"]
    for mode in ("ON_DEMAND", "PROVISIONED"):
        endpoint.answer_empty(
            "UpdateStreamMode", StreamARN=arn, StreamModeDetails={"StreamMode": mode}
        )
        endpoint.wait_active(stream)
        summary = endpoint.answer("DescribeStreamSummary", StreamName=stream)
        found = summary["StreamDescriptionSummary"]
        assert found["StreamModeDetails"] == {"StreamMode": mode}
        assert found.get("WarmThroughput") is None


def test_a_stream_is_kept_warm_on_demand_alone(endpoint: Endpoint, stream: str) -> None:
    warm = {"StreamName": stream, "WarmThroughputMiBps": 5}
    answer = endpoint.call("UpdateStreamWarmThroughput", **warm)
    assert answer.refusal == (400, "InvalidArgumentException")
    endpoint.answer_empty(
        "UpdateStreamMode",
        StreamARN=endpoint.wait_active(stream)["StreamARN"],
        StreamModeDetails={"StreamMode": "ON_DEMAND"},
    )
    told = endpoint.answer("UpdateStreamWarmThroughput", **warm)["WarmThroughput"]
    assert told["TargetMiBps"] == 5
    endpoint.wait_active(stream)
    summary = endpoint.answer("DescribeStreamSummary", StreamName=stream)
    found = summary["StreamDescriptionSummary"]["WarmThroughput"]
    assert found == {"TargetMiBps": 5, "CurrentMiBps": 5}


def test_a_stream_is_listed(endpoint: Endpoint, stream: str) -> None:
    assert stream in endpoint.answer("ListStreams", Limit=100)["StreamNames"]


def test_tags_are_added_replaced_listed_and_removed(endpoint: Endpoint, stream: str) -> None:
    endpoint.answer_empty("AddTagsToStream", StreamName=stream, Tags={"team": "a", "stage": "test"})
    endpoint.answer_empty("AddTagsToStream", StreamName=stream, Tags={"team": "b"})
    listed = endpoint.answer("ListTagsForStream", StreamName=stream)
    tags = [{"Key": "stage", "Value": "test"}, {"Key": "team", "Value": "b"}]
    assert sorted(listed["Tags"], key=lambda tag: str(tag["Key"])) == tags
    assert listed["HasMoreTags"] is False
    endpoint.answer_empty("RemoveTagsFromStream", StreamName=stream, TagKeys=["team", "none"])
    listed = endpoint.answer("ListTagsForStream", StreamName=stream)
    assert [tag["Key"] for tag in listed["Tags"]] == ["stage"]


def test_tags_are_listed_in_pages(endpoint: Endpoint, stream: str) -> None:
    tags = {f"k{number}": "v" for number in range(3)}
    endpoint.answer_empty("AddTagsToStream", StreamName=stream, Tags=tags)
    first = endpoint.answer("ListTagsForStream", StreamName=stream, Limit=2)
    assert [tag["Key"] for tag in first["Tags"]] == ["k0", "k1"]
    assert first["HasMoreTags"] is True
    rest = endpoint.answer("ListTagsForStream", StreamName=stream, ExclusiveStartTagKey="k1")
    assert [tag["Key"] for tag in rest["Tags"]] == ["k2"]


def test_the_limits_of_the_account_count_open_shards(endpoint: Endpoint, stream: str) -> None:
    limits = endpoint.answer("DescribeLimits")
    assert 0 < limits["OpenShardCount"] <= limits["ShardLimit"]


def test_a_name_is_taken_once(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call("CreateStream", StreamName=stream, ShardCount=1)
    assert answer.refusal == (400, "ResourceInUseException")


@pytest.mark.parametrize("case", ["no name", "bad name", "no shards"])
def test_a_bad_create_is_refused(endpoint: Endpoint, case: str) -> None:
    cases: dict[str, dict[str, Any]] = {
        "no name": {"ShardCount": 1},
        "bad name": {"StreamName": "no/such name", "ShardCount": 1},
        "no shards": {"StreamName": "zero", "ShardCount": 0},
    }
    assert endpoint.call("CreateStream", **cases[case]).refusal == (400, "ValidationException")


@pytest.mark.parametrize(
    "case", ["DescribeStream", "DescribeStreamSummary", "DeleteStream", "ListShards"]
)
def test_an_unknown_stream_is_not_found(endpoint: Endpoint, case: str) -> None:
    answer = endpoint.call(case, StreamName="no-such-stream")
    assert answer.refusal == (400, "ResourceNotFoundException")


def test_shards_are_listed(endpoint: Endpoint, stream: str) -> None:
    listed = endpoint.answer("ListShards", StreamName=stream)["Shards"]
    assert [shard["ShardId"] for shard in listed] == [
        shard["ShardId"] for shard in endpoint.shards(stream)
    ]


def test_shards_at_latest_are_the_open_ones(endpoint: Endpoint, stream: str) -> None:
    split_first(endpoint, stream)
    listed = endpoint.answer("ListShards", StreamName=stream, ShardFilter={"Type": "AT_LATEST"})
    assert len(listed["Shards"]) == 4
    assert all(is_open(shard) for shard in listed["Shards"])


def test_shards_are_listed_in_pages(endpoint: Endpoint, stream: str) -> None:
    first = endpoint.answer("ListShards", StreamName=stream, MaxResults=2)
    second = endpoint.answer("ListShards", NextToken=first["NextToken"])
    assert [shard["ShardId"][-1] for shard in first["Shards"]] == ["0", "1"]
    assert [shard["ShardId"][-1] for shard in second["Shards"]] == ["2"]
    assert not second.get("NextToken")


def test_a_token_and_a_name_exclude_each_other(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call("ListShards", StreamName=stream, NextToken="x" * 20)
    assert answer.refusal == (400, "InvalidArgumentException")


def test_a_split_closes_the_parent_and_opens_two(endpoint: Endpoint, stream: str) -> None:
    middle = split_first(endpoint, stream)
    shards = endpoint.shards(stream)
    assert [is_open(shard) for shard in shards] == [False, True, True, True, True]
    end = int(shards[0]["HashKeyRange"]["EndingHashKey"])
    assert open_ranges(shards[3:]) == [(0, middle - 1), (middle, end)]
    assert all(shard["ParentShardId"] == FIRST for shard in shards[3:])


def test_after_a_split_records_go_to_the_children(endpoint: Endpoint, stream: str) -> None:
    endpoint.put_all(stream, [entry(b"before", "k", "0")])
    middle = split_first(endpoint, stream)
    low, high = endpoint.put_all(
        stream, [entry(b"low", "k", "0"), entry(b"high", "k", str(middle + 1))]
    )
    assert low["ShardId"] == "shardId-000000000003"
    assert high["ShardId"] == "shardId-000000000004"
    assert [data_of(record) for record in endpoint.read_shard(stream, FIRST)] == [b"before"]


def test_a_closed_shard_comes_to_an_end(endpoint: Endpoint, stream: str) -> None:
    endpoint.put_all(stream, [entry(b"before", "k", "0")])
    split_first(endpoint, stream)
    token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
    answer = endpoint.answer("GetRecords", ShardIterator=token)
    if answer.get("NextShardIterator"):  # the end may take one more read to show
        answer = endpoint.answer("GetRecords", ShardIterator=answer["NextShardIterator"])
    assert not answer.get("NextShardIterator")


def test_the_end_of_a_closed_shard_names_its_children(endpoint: Endpoint, stream: str) -> None:
    split_first(endpoint, stream)
    token = endpoint.iterator(stream, FIRST, "TRIM_HORIZON")
    answer = endpoint.answer("GetRecords", ShardIterator=token)
    children = answer["ChildShards"]
    assert [child["ShardId"][-1] for child in children] == ["3", "4"]
    assert [child["ParentShards"] for child in children] == [[FIRST], [FIRST]]


@pytest.mark.parametrize("case", ["lowest", "lowest + 1", "highest of all"])
def test_a_split_needs_a_key_inside_the_shard(endpoint: Endpoint, stream: str, case: str) -> None:
    key = {"lowest": 0, "lowest + 1": 1, "highest of all": 2**128 - 1}[case]
    answer = endpoint.call(
        "SplitShard", StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(key)
    )
    assert answer.refusal == (400, "InvalidArgumentException")


def test_an_unknown_shard_is_not_split(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call(
        "SplitShard",
        StreamName=stream,
        ShardToSplit="shardId-000000000099",
        NewStartingHashKey="1000",
    )
    assert answer.refusal == (400, "ResourceNotFoundException")


def test_a_closed_shard_is_not_split_again(endpoint: Endpoint, stream: str) -> None:
    middle = split_first(endpoint, stream)
    answer = endpoint.call(
        "SplitShard", StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(middle)
    )
    assert answer.status == 400


def test_a_merge_closes_two_and_opens_one(endpoint: Endpoint, stream: str) -> None:
    endpoint.answer_empty(
        "MergeShards", StreamName=stream, ShardToMerge=FIRST, AdjacentShardToMerge=SECOND
    )
    endpoint.wait_active(stream)
    shards = endpoint.shards(stream)
    assert [is_open(shard) for shard in shards] == [False, False, True, True]
    merged = shards[3]
    assert (merged["ParentShardId"], merged["AdjacentParentShardId"]) == (FIRST, SECOND)
    assert merged["HashKeyRange"]["StartingHashKey"] == "0"
    (result,) = endpoint.put_all(stream, [entry(b"x", "k", "0")])
    assert result["ShardId"] == merged["ShardId"]


def test_only_neighbours_merge(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call(
        "MergeShards",
        StreamName=stream,
        ShardToMerge=FIRST,
        AdjacentShardToMerge="shardId-000000000002",
    )
    assert answer.refusal == (400, "InvalidArgumentException")


@pytest.mark.parametrize("case", ["6", "2", "4"])
def test_the_shard_count_is_updated(endpoint: Endpoint, stream: str, case: str) -> None:
    target = int(case)
    answer = endpoint.answer(
        "UpdateShardCount",
        StreamName=stream,
        TargetShardCount=target,
        ScalingType="UNIFORM_SCALING",
    )
    assert (answer["CurrentShardCount"], answer["TargetShardCount"]) == (3, target)
    ranges = open_ranges(endpoint.shards(stream))
    assert len(ranges) == target
    assert ranges[0][0] == 0
    assert all(upper[0] == lower[1] + 1 for lower, upper in pairwise(ranges))


def test_the_shard_count_does_not_more_than_double(endpoint: Endpoint, stream: str) -> None:
    answer = endpoint.call(
        "UpdateShardCount", StreamName=stream, TargetShardCount=7, ScalingType="UNIFORM_SCALING"
    )
    assert answer.status == 400


def test_a_deleted_stream_is_gone_and_its_name_is_free(endpoint: Endpoint, stream: str) -> None:
    endpoint.put_all(stream, [entry(b"x", "k")])
    endpoint.answer_empty("DeleteStream", StreamName=stream)
    endpoint.wait_gone(stream)
    endpoint.make_stream(stream, 1)
    assert endpoint.read_stream(stream) == []
