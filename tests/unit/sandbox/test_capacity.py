"""A stream's mode, and the warm throughput of one on demand; also as a real client calls it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from kdaemon.base.limits import MIB
from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.testing import Sandbox
from tests.kit.sdk import kinesis
from tests.unit.sandbox.calls import call, refusal, summary

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/clicks"
MODE = "UpdateStreamMode"
WARM = "UpdateStreamWarmThroughput"
ON_DEMAND: dict[str, Any] = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
PROVISIONED: dict[str, Any] = {"StreamModeDetails": {"StreamMode": "PROVISIONED"}}


@pytest.fixture
def service() -> Service:
    """With a provisioned stream of four shards."""
    service = Service()
    service.create_stream("clicks", 4)
    return service


def test_a_stream_is_made_warm_and_has_shards_for_it() -> None:
    service = Service()
    call(service, "CreateStream", StreamName="new", WarmThroughputMiBps=10, **ON_DEMAND)
    assert summary(service, "new")["WarmThroughput"] == {"TargetMiBps": 10, "CurrentMiBps": 10}
    assert summary(service, "new")["OpenShardCount"] == 10
    call(service, "CreateStream", StreamName="small", WarmThroughputMiBps=1, **ON_DEMAND)
    assert summary(service, "small")["OpenShardCount"] == 4, "as many as without"
    call(service, "CreateStream", StreamName="cold", **ON_DEMAND)
    assert "WarmThroughput" not in summary(service, "cold")


def test_a_warm_throughput_is_raised_by_halving_shards_and_lowered_without(
    service: Service,
) -> None:
    call(service, MODE, StreamARN=ARN, **ON_DEMAND)
    answer = call(service, WARM, StreamName="clicks", WarmThroughputMiBps=9)
    warm = {"TargetMiBps": 9, "CurrentMiBps": 9}
    assert answer == {"StreamName": "clicks", "StreamARN": ARN, "WarmThroughput": warm}
    stream = service.stream("clicks")
    assert summary(service, "clicks")["WarmThroughput"] == warm
    assert summary(service, "clicks")["OpenShardCount"] == 16
    assert [shard.parents[0].parents[0].index for shard in stream.open_shards[::4]] == [0, 1, 2, 3]
    call(service, WARM, StreamARN=ARN, WarmThroughputMiBps=0)
    assert summary(service, "clicks")["WarmThroughput"] == {"TargetMiBps": 0, "CurrentMiBps": 0}
    assert summary(service, "clicks")["OpenShardCount"] == 16


def test_a_shard_s_own_limit_holds_whatever_is_warm(service: Service) -> None:
    call(service, MODE, StreamARN=ARN, WarmThroughputMiBps=100, **ON_DEMAND)
    results = service.put_records("clicks", [Record(b"x", "one key")] * 500, 0)
    results += service.put_records("clicks", [Record(b"x", "one key")] * 500, 0)
    assert all(result.is_delivered for result in results)
    (result,) = service.put_records("clicks", [Record(b"x", "one key")], 0)
    assert result.error_code == "ProvisionedThroughputExceededException"


def test_a_provisioned_stream_has_none(service: Service) -> None:
    code = "InvalidArgumentException"
    assert refusal(service, WARM, StreamName="clicks", WarmThroughputMiBps=4).code == code
    assert refusal(service, MODE, StreamARN=ARN, WarmThroughputMiBps=4, **PROVISIONED).code == code
    for mode in ({}, PROVISIONED):
        assert refusal(
            service, "CreateStream", StreamName="n", WarmThroughputMiBps=4, **mode
        ).code == (code)
    assert service.stream_names == ["clicks"]
    call(service, MODE, StreamARN=ARN, WarmThroughputMiBps=4, **ON_DEMAND)
    call(service, MODE, StreamARN=ARN, **ON_DEMAND)
    assert summary(service, "clicks")["WarmThroughput"]["CurrentMiBps"] == 4, (
        "nothing new was said of it"
    )
    call(service, MODE, StreamARN=ARN, **PROVISIONED)
    assert "WarmThroughput" not in summary(service, "clicks")
    call(service, MODE, StreamARN=ARN, **ON_DEMAND)
    assert "WarmThroughput" not in summary(service, "clicks")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"StreamName": "clicks"}, "ValidationException"),
        ({"StreamName": "clicks", "WarmThroughputMiBps": -1}, "ValidationException"),
        ({"StreamName": "clicks", "WarmThroughputMiBps": 2**31}, "ValidationException"),
        ({"StreamName": "clicks", "WarmThroughputMiBps": "9"}, "SerializationException"),
        ({"StreamName": "clicks", "WarmThroughputMiBps": 10 * 1024 + 1}, "LimitExceededException"),
        ({"StreamName": "other", "WarmThroughputMiBps": 9}, "ResourceNotFoundException"),
        ({"WarmThroughputMiBps": 9}, "InvalidArgumentException"),
        (
            {"StreamName": "other", "StreamARN": ARN, "WarmThroughputMiBps": 9},
            "InvalidArgumentException",
        ),
    ],
)
def test_a_bad_warm_throughput_is_refused_and_changes_nothing(
    service: Service, members: dict[str, Any], code: str
) -> None:
    call(service, MODE, StreamARN=ARN, WarmThroughputMiBps=4, **ON_DEMAND)
    assert refusal(service, WARM, **members).code == code
    assert summary(service, "clicks")["WarmThroughput"]["CurrentMiBps"] == 4
    assert len(service.stream("clicks").shards) == 4


def test_there_must_be_room_for_the_shards_that_it_needs() -> None:
    service = Service(SandboxSettings(shard_count_max=20, quota=Quota(1000, MIB)))
    service.create_stream("clicks", 4)
    code = "LimitExceededException"
    assert refusal(service, MODE, StreamARN=ARN, WarmThroughputMiBps=9, **ON_DEMAND).code == code
    assert summary(service, "clicks")["StreamModeDetails"] == PROVISIONED["StreamModeDetails"]
    assert len(service.stream("clicks").shards) == 4
    assert (
        refusal(service, "CreateStream", StreamName="n", WarmThroughputMiBps=900, **ON_DEMAND).code
        == code
    )
    call(service, MODE, StreamARN=ARN, WarmThroughputMiBps=8, **ON_DEMAND)
    assert len(service.stream("clicks").shards) == 12


def test_yandex_has_no_warm_throughput() -> None:
    service = Service(SandboxSettings(service=YANDEX))
    service.create_stream("/r/c/d/s", 1)
    assert (
        refusal(service, WARM, StreamName="/r/c/d/s", WarmThroughputMiBps=4).code == "InvalidAction"
    )


# A real client


@pytest.fixture
def client(kinesis_sandbox: Sandbox) -> Iterator[Any]:
    with closing(kinesis(kinesis_sandbox.url)) as client:
        yield client


def test_boto3_makes_changes_and_describes_a_warm_stream(client: Any) -> None:
    client.create_stream(StreamName="warm", WarmThroughputMiBps=5, **ON_DEMAND)
    found = client.describe_stream_summary(StreamName="warm")["StreamDescriptionSummary"]
    assert found["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert found["WarmThroughput"] == {"TargetMiBps": 5, "CurrentMiBps": 5}
    assert found["OpenShardCount"] == 5
    answer = client.update_stream_warm_throughput(
        StreamARN=found["StreamARN"], WarmThroughputMiBps=6
    )
    assert answer["StreamName"] == "warm"
    assert answer["StreamARN"] == found["StreamARN"]
    assert answer["WarmThroughput"] == {"TargetMiBps": 6, "CurrentMiBps": 6}
    client.update_stream_mode(StreamARN=found["StreamARN"], **PROVISIONED)
    found = client.describe_stream_summary(StreamName="warm")["StreamDescriptionSummary"]
    assert "WarmThroughput" not in found
    client.update_stream_mode(StreamARN=found["StreamARN"], WarmThroughputMiBps=20, **ON_DEMAND)
    found = client.describe_stream_summary(StreamName="warm")["StreamDescriptionSummary"]
    assert found["WarmThroughput"]["CurrentMiBps"] == 20
    assert found["OpenShardCount"] == 20


def test_boto3_raises_the_model_s_errors(client: Any) -> None:
    client.create_stream(StreamName="fixed", ShardCount=1)
    with pytest.raises(client.exceptions.InvalidArgumentException, match="on-demand"):
        client.update_stream_warm_throughput(StreamName="fixed", WarmThroughputMiBps=5)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.update_stream_warm_throughput(StreamName="none", WarmThroughputMiBps=5)
    client.create_stream(StreamName="free", **ON_DEMAND)
    with pytest.raises(client.exceptions.LimitExceededException):
        client.update_stream_warm_throughput(StreamName="free", WarmThroughputMiBps=20_000)
    with pytest.raises(client.exceptions.ValidationException):
        client.create_stream(StreamName="free", WarmThroughputMiBps=2**31, **ON_DEMAND)
