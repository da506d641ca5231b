"""SDKs of AWS, with nothing changed but `endpoint_url`."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.kit import sdk
from tests.kit.daemon import Daemon, environment
from tests.kit.endpoints import Endpoint, data_of
from tests.kit.patience import PATIENCE_S

MIB = 1024 * 1024


@pytest.fixture
def kinesis(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3 as its documentation has it."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = sdk.kinesis(daemon.url)
    yield client
    client.close()


def texts(endpoint: Endpoint, stream: str) -> list[str]:
    return [data_of(record).decode() for record in endpoint.read_stream(stream)]


def test_boto3_put_records_are_in_the_stream_as_answered(
    kinesis: Any, endpoint: Endpoint, stream: str
) -> None:
    records = [{"Data": b"%d" % n, "PartitionKey": f"key-{n}"} for n in range(500)]
    answer = kinesis.put_records(StreamName=stream, Records=records)
    assert answer["FailedRecordCount"] == 0
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RequestId"]
    stored = {
        record["SequenceNumber"]: (shard["ShardId"], data_of(record).decode())
        for shard in endpoint.shards(stream)
        for record in endpoint.read_shard(stream, shard["ShardId"])
    }
    assert len(stored) == 500
    for number, result in enumerate(answer["Records"]):
        assert stored[result["SequenceNumber"]] == (result["ShardId"], str(number))


def test_boto3_put_record_answers_where_it_is(
    kinesis: Any, endpoint: Endpoint, stream: str
) -> None:
    answer = kinesis.put_record(StreamName=stream, Data="grüße".encode(), PartitionKey="ключ")
    (record,) = endpoint.read_stream(stream)
    assert answer["SequenceNumber"] == record["SequenceNumber"]
    assert record["PartitionKey"] == "ключ"
    assert data_of(record).decode() == "grüße"


def test_boto3_by_arn_and_with_an_explicit_hash_key(
    kinesis: Any, endpoint: Endpoint, stream: str
) -> None:
    arn = endpoint.wait_active(stream)["StreamARN"]
    last = str(2**128 - 1)
    answer = kinesis.put_record(StreamARN=arn, Data=b"x", PartitionKey="k", ExplicitHashKey=last)
    assert answer["ShardId"] == "shardId-000000000003"
    answer = kinesis.put_records(
        StreamARN=arn, Records=[{"Data": b"y", "PartitionKey": "k", "ExplicitHashKey": "0"}]
    )
    assert answer["Records"][0]["ShardId"] == "shardId-000000000000"
    assert sorted(texts(endpoint, stream)) == ["x", "y"]


def test_boto3_from_threads_puts_each_record_once(
    kinesis: Any, endpoint: Endpoint, stream: str
) -> None:
    def put(number: int) -> int:
        records = [{"Data": b"%d-%d" % (number, n), "PartitionKey": str(n)} for n in range(100)]
        failed: int = kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"]
        return failed

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(20))) == 0
    expected = Counter(f"{number}-{n}" for number in range(20) for n in range(100))
    assert Counter(texts(endpoint, stream)) == expected


@pytest.mark.parametrize(
    ("operation", "members", "code"),
    [
        pytest.param(
            "put_record",
            {"StreamName": "no-such-stream", "Data": b"x", "PartitionKey": "k"},
            "ResourceNotFoundException",
            id="unknown stream",
        ),
        pytest.param(
            "put_records",
            {"StreamName": "no-such-stream", "Records": [{"Data": b"x", "PartitionKey": "k"}]},
            "ResourceNotFoundException",
            id="unknown stream, batch",
        ),
        pytest.param(
            "put_record",
            {"StreamName": "demo", "Data": b"x", "PartitionKey": "k" * 257},
            "ValidationException",
            id="long key",
        ),
        pytest.param(
            "put_record",
            {"StreamName": "demo", "Data": b"x" * (MIB + 1), "PartitionKey": "k"},
            "ValidationException",
            id="large record",
        ),
        pytest.param(
            "put_record",
            {"StreamName": "demo", "Data": b"", "PartitionKey": "k", "ExplicitHashKey": "01"},
            "ValidationException",
            id="hash key",
        ),
        pytest.param(
            "put_records",
            {"StreamName": "demo", "Records": [{"Data": b"x", "PartitionKey": "k"}] * 501},
            "ValidationException",
            id="501 records",
        ),
        pytest.param(
            "put_record",
            {
                "StreamName": "demo",
                "Data": b"x",
                "PartitionKey": "k",
                "ExplicitHashKey": str(2**128),
            },
            "InvalidArgumentException",
            id="hash key too high",
        ),
        pytest.param(
            "put_records",
            {
                "StreamName": "demo",
                "Records": [{"Data": b"x" * (MIB - 1), "PartitionKey": "k"}] * 11,
            },
            "InvalidArgumentException",
            id="over 10 MiB",
        ),
    ],
)
def test_boto3_raises_the_service_s_own_exception(
    kinesis: Any, operation: str, members: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as raised:
        getattr(kinesis, operation)(**members)
    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["Error"]["Message"]
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    modelled = getattr(kinesis.exceptions, code, ClientError)
    assert isinstance(raised.value, modelled)


def test_boto3_takes_an_operation_that_is_not_for_the_daemon_as_an_error(kinesis: Any) -> None:
    """It says what the daemon is for, and what it passes on."""
    with pytest.raises(ClientError) as raised:
        kinesis.create_stream(StreamName="new", ShardCount=1)
    assert raised.value.response["Error"]["Code"] == "UnknownOperationException"
    assert "passes on DescribeStream, " in raised.value.response["Error"]["Message"]


def test_boto3_describes_its_stream_first(
    kinesis: Any, endpoint: Endpoint, stream: str, daemon: Daemon
) -> None:
    kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    assert stream in kinesis.list_streams()["StreamNames"]
    shards = kinesis.list_shards(StreamName=stream)["Shards"]
    assert shards == endpoint.answer("ListShards", StreamName=stream)["Shards"]
    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    assert summary["OpenShardCount"] == len(shards)
    with pytest.raises(kinesis.exceptions.ResourceNotFoundException):
        kinesis.describe_stream(StreamName="no-such-stream")


def test_boto3_hears_of_records_that_the_service_throttles(daemon: Daemon) -> None:
    """In position, and with the service's code; the client's own deadline is not reached."""
    endpoint = Endpoint.of(daemon)
    name = endpoint.make_stream("throttled", 1)
    daemon.inject({"kind": "throttle", "calls": 3, "stream": name})
    config = Config(retries={"total_max_attempts": 1})
    client = sdk.kinesis(daemon.url, config=config)
    try:
        records = [{"Data": b"%d" % n, "PartitionKey": "k"} for n in range(10)]
        answer = client.put_records(StreamName=name, Records=records)
    finally:
        client.close()
    assert answer["FailedRecordCount"] == 0, "the daemon retries so that the client need not"
    assert daemon.counted("kdaemon_records_throttled_total", stream=name) == 30
    assert sorted(texts(endpoint, name)) == [str(n) for n in range(10)]


async def test_aiobotocore_puts_one_and_many(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    async with get_session().create_client(
        "kinesis", endpoint_url=daemon.url, **sdk.ANYBODY
    ) as client:
        one = await client.put_record(StreamName=stream, Data=b"one", PartitionKey="k")
        many = await client.put_records(
            StreamName=stream,
            Records=[{"Data": b"%d" % n, "PartitionKey": str(n)} for n in range(100)],
        )
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            await client.put_record(StreamName="no-such-stream", Data=b"x", PartitionKey="k")
    assert one["SequenceNumber"].isdigit()
    assert many["FailedRecordCount"] == 0
    assert sorted(texts(endpoint, stream)) == sorted(["one", *map(str, range(100))])


def test_the_aws_cli_puts_a_record(daemon: Daemon, endpoint: Endpoint, stream: str) -> None:
    aws = shutil.which("aws")
    if aws is None:
        pytest.skip("there is no aws on this machine")
    command = [aws, "kinesis", "put-record", "--stream-name", stream, "--partition-key", "k"]
    command += ["--data", "eA==", "--endpoint-url", daemon.url, "--region", "us-east-1"]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert len(endpoint.read_stream(stream)) == 1
