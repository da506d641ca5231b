"""Streams that spread records over their shards (AUTO), and the calls that make them so."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.base.steps import at_once
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.sandbox.wire import read_call
from kdaemon.wire.refusals import ApiError
from tests.unit.sandbox.calls import refusal, summary

SECOND = 1_000_000_000
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/logs"
STRATEGY = "UpdateStreamRecordDistributionStrategy"


@pytest.fixture
def service() -> Service:
    service = Service()
    service.create_stream("logs", 4, is_auto=True)
    return service


def test_records_of_one_key_go_to_every_shard_alike(service: Service) -> None:
    for record in (Record(b"x", "k"), Record(b"x", "k", "0"), Record(b"x", "")):
        results = service.put_records("logs", [record] * 100, 0)
        assert Counter(result.shard_id for result in results) == {
            f"shardId-{index:012d}": 25 for index in range(4)
        }


def test_single_records_are_spread_over_calls(service: Service) -> None:
    found = {service.put_record("logs", Record(b"x", "k"), 0).shard_id for _ in range(4)}
    assert len(found) == 4


def test_a_record_is_throttled_only_when_no_shard_has_room(service: Service) -> None:
    service.set_quota(Quota(1000, 100), 0)
    service.stream("logs").shards[2].limiter.take(1, 100, 0)
    records = [Record(b"x" * 40, "")] * 6
    assert all(result.is_delivered for result in service.put_records("logs", records, 0))
    large, small = service.put_records("logs", [Record(b"x" * 40, ""), Record(b"x" * 20, "")], 0)
    assert large.error_code == "ProvisionedThroughputExceededException"
    assert "Rate exceeded for shard shardId-" in (large.error_message or "")
    assert small.is_delivered, "a smaller one may still fit"


def test_the_quota_of_all_shards_is_what_the_stream_takes(service: Service) -> None:
    taken = [
        result.is_delivered
        for _ in range(10)
        for result in service.put_records("logs", [Record(b"x", "")] * 500, 0)
    ]
    assert taken == [True] * 4000 + [False] * 1000
    state: Any = service.state()
    assert sum(shard["throttled"] for shard in state["streams"]["logs"]["shards"]) == 1000


def test_a_record_may_fail_there_too(service: Service) -> None:
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(1,))
    results = service.put_records("logs", [Record(b"x", "")] * 3, 0, fault)
    assert [result.error_code for result in results] == [None, "InternalFailure", None]


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([], "greater than or equal to 1"),
        ([Record(b"", "")] * 501, "less than or equal to 500"),
        ([Record(b"", "k" * 257)], "records.1.member.partitionKey"),
        ([Record(b"", ""), Record(b"x" * (MIB + 1), "")], "records.2.member.data"),
        ([Record(b"x" * MIB, "")] * 11, "exceeds 10 MB limit"),
    ],
)
def test_the_limits_of_a_request_stay(service: Service, records: list[Record], text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        service.put_records("logs", records, 0)
    assert service.stored("logs") == []


def test_a_reshard_changes_where_records_go_at_once(service: Service) -> None:
    stream = service.stream("logs")
    service.put_records("logs", [Record(b"x", "")] * 4, 0)
    service.split_shard("logs", "shardId-000000000000", 1)
    stream.merge(stream.shards[2], stream.shards[3], 2)
    results = service.put_records("logs", [Record(b"x", "")] * 8, 3)
    assert Counter(int((result.shard_id or "")[-2:]) for result in results) == {
        1: 2,
        4: 2,
        5: 2,
        6: 2,
    }


def test_the_strategy_is_switched_by_call_and_is_in_force_at_once() -> None:
    service = Service()
    service.create_stream("logs", 4)
    assert "RecordDistributionStrategy" not in summary(
        service, "logs"
    )  # provisioned: no such member
    assert refusal(service, STRATEGY, StreamARN=ARN, RecordDistributionStrategy="AUTO").code == (
        "InvalidArgumentException"
    )
    on_demand = {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    assert service.handle("UpdateStreamMode", on_demand, 0) == {}
    assert summary(service, "logs")["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert summary(service, "logs")["RecordDistributionStrategy"] == "USER_PARTITION_KEY"

    def shards_of_ten(strategy: str) -> int:
        payload = {"StreamARN": ARN, "RecordDistributionStrategy": strategy}
        assert service.handle(STRATEGY, payload, 0) == {}
        assert summary(service, "logs")["RecordDistributionStrategy"] == strategy
        results = service.put_records("logs", [Record(b"x", "k")] * 10, 0)
        return len({result.shard_id for result in results})

    assert shards_of_ten("AUTO") == 4
    assert shards_of_ten("USER_PARTITION_KEY") == 1
    assert shards_of_ten("AUTO") == 4
    provisioned: dict[str, Any] = {
        "StreamARN": ARN,
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
    }
    assert refusal(service, "UpdateStreamMode", **provisioned).code == "InvalidArgumentException"
    assert shards_of_ten("USER_PARTITION_KEY") == 1
    assert service.handle("UpdateStreamMode", provisioned, 0) == {}


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (STRATEGY, {"StreamName": "logs", "RecordDistributionStrategy": "AUTO"}),
        (STRATEGY, {"StreamARN": ARN, "RecordDistributionStrategy": "RANDOM"}),
        (STRATEGY, {"StreamARN": ARN}),
        ("UpdateStreamMode", {"StreamName": "logs"}),
        ("UpdateStreamMode", {"StreamARN": ARN}),
        ("UpdateStreamMode", {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "BOTH"}}),
    ],
)
def test_these_calls_want_the_arn_and_a_word_they_know(
    service: Service, operation: str, members: dict[str, Any]
) -> None:
    assert refusal(service, operation, **members).code == "ValidationException"
    assert service.stream("logs").is_auto


def test_a_stream_is_made_auto_only_on_demand() -> None:
    service = Service()
    auto: dict[str, Any] = {"StreamName": "new", "RecordDistributionStrategy": "AUTO"}
    assert refusal(service, "CreateStream", **auto).code == "InvalidArgumentException"
    assert service.stream_names == []
    mode = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    service.handle("CreateStream", {**auto, **mode}, 0)
    assert summary(service, "new")["RecordDistributionStrategy"] == "AUTO"
    assert summary(service, "new")["OpenShardCount"] == 4
    listed: Any = service.handle("ListStreams", {}, 0)
    assert listed["StreamSummaries"][0]["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("SplitShard", {"ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "9" * 30}),
        (
            "MergeShards",
            {
                "ShardToMerge": "shardId-000000000000",
                "AdjacentShardToMerge": "shardId-000000000001",
            },
        ),
        ("UpdateShardCount", {"TargetShardCount": 8, "ScalingType": "UNIFORM_SCALING"}),
    ],
)
def test_shards_of_an_on_demand_stream_are_the_services_business(
    service: Service, operation: str, members: dict[str, Any]
) -> None:
    error = refusal(service, operation, StreamName="logs", **members)
    assert error.code == "ValidationException"
    assert "On-Demand" in error.message
    assert len(service.stream("logs").shards) == 4


def test_yandex_knows_none_of_these_calls() -> None:
    service = Service(SandboxSettings(service=YANDEX))
    for operation in (STRATEGY, "UpdateStreamMode", "UpdateMaxRecordSize"):
        assert refusal(service, operation).code == "InvalidAction"


def perform(service: Service, operation: str, members: dict[str, Any]) -> tuple[int, Any]:
    """As a client's request; ApiError and ServiceError as they come."""
    head = {
        b"content-type": b"application/x-amz-json-1.1",
        b"x-amz-target": b"Kinesis_20131202." + operation.encode(),
    }
    call = at_once(read_call(service, "POST", "/", head, msgspec.json.encode(members)))
    reply = call.perform(0, None)
    return reply.status, msgspec.json.decode(reply.body)


def test_on_the_wire_the_key_is_optional_and_not_given_back(service: Service) -> None:
    keyless = {"Data": b"a"}
    keyed = {"Data": b"b", "PartitionKey": "k"}
    named = {"StreamName": "logs", "Records": [keyless, keyed, {**keyless, "PartitionKey": None}]}
    status, answer = perform(service, "PutRecords", named)
    assert (status, answer["FailedRecordCount"], len(answer["Records"])) == (200, 0, 3)
    status, answer = perform(service, "PutRecord", {"StreamARN": ARN, **keyless})
    assert status == 200
    assert answer["ShardId"] == "shardId-000000000003"
    assert [stored.record.partition_key for stored in service.stored("logs")] == ["", "k", "", ""]
    payload = {
        "StreamName": "logs",
        "ShardId": "shardId-000000000000",
        "ShardIteratorType": "TRIM_HORIZON",
    }
    token = service.handle("GetShardIterator", payload, 0)["ShardIterator"]
    records: Any = service.handle("GetRecords", {"ShardIterator": token}, 0)["Records"]
    assert len(records) == 1
    assert sorted(records[0]) == ["ApproximateArrivalTimestamp", "Data", "SequenceNumber"]


def test_on_the_wire_a_record_of_exactly_the_limit_needs_no_room_for_a_key(
    service: Service,
) -> None:
    service.stream("logs").record_bytes_max = 10 * MIB
    service.set_quota(Quota(1000, 100 * MIB), 0)
    one = {"StreamName": "logs", "Data": b"x" * (10 * MIB)}
    assert perform(service, "PutRecord", one)[0] == 200
    two = {"StreamName": "logs", "Records": [{"Data": b"x" * (5 * MIB)}] * 2}
    assert perform(service, "PutRecords", two)[0] == 200


def test_on_the_wire_there_is_no_order_to_ask_for(service: Service) -> None:
    service.create_stream("keyed", 1)
    one = {"Data": b"a", "PartitionKey": "k", "SequenceNumberForOrdering": "7"}
    assert perform(service, "PutRecord", {"StreamName": "keyed", **one})[0] == 200
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        perform(service, "PutRecord", {"StreamName": "logs", **one})


@pytest.mark.parametrize(
    "members",
    [
        {"StreamName": "keyed", "Records": [{"Data": b"a"}]},
        {"StreamName": "nothing", "Records": [{"Data": b"a"}]},
        {"Records": [{"Data": b"a"}]},
        {"StreamName": 7, "Records": [{"Data": b"a"}]},
        {"StreamName": "logs", "Records": [{}]},
        {"StreamName": "logs", "Records": [{"Data": b"a", "PartitionKey": ""}]},
        {"StreamName": "logs", "Records": [{"Data": b"a", "ExplicitHashKey": "007"}]},
        {"StreamName": "logs", "Records": [{"Data": b"a", "PartitionKey": 7}]},
        {"StreamName": "logs", "Records": ["a"]},
        {"StreamName": "logs", "Records": {"Data": b"a"}},
        {"StreamName": "logs", "Records": 7},
        {"StreamName": "logs", "Records": []},
    ],
)
def test_on_the_wire_all_else_is_refused_as_ever(service: Service, members: dict[str, Any]) -> None:
    service.create_stream("keyed", 1)
    with pytest.raises((ServiceError, ApiError)):
        perform(service, "PutRecords", members)
    assert service.stored("logs") == service.stored("keyed") == []
