"""What is passed on to the service, seen from outside: as its clients, its service and its operator
see it.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.kit import sdk
from tests.kit.daemon import MIB, Daemon, control_quota, from_scratch, get, running, sandbox
from tests.kit.endpoints import Endpoint, data_of, entry, post
from tests.kit.patience import wait_for
from tests.kit.sockets import read_answers
from tests.process.conftest import Run
from tests.process.test_upstream import KEY, SECRET, TOKEN, echo, upstream
from tests.process.test_upstream import daemon as daemon_before

READS = ["GetShardIterator", "GetRecords"]
DEFAULT = ["DescribeStream", "DescribeStreamSummary", "ListShards", "ListStreams", "DescribeLimits"]
ALL = {
    "listen.operations_passed_on": [*DEFAULT, *READS, "ListTagsForStream"],
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that passes on what it can, as fast as it may."""
    with running(tmp_path_factory.mktemp("passed-on"), ALL) as daemon:
        yield daemon
        assert not [line for line in daemon.log if line["level"] == "error"]
        assert daemon.stop() == 0


def passed_on(daemon: Daemon) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(daemon.page("/statusz")[1])
    status: dict[str, Any] = page["upstreams"][0]["passed_on"]
    return status


def wait_quiet(daemon: Daemon) -> None:
    """Until nothing is asked for any client, and nothing is kept."""

    def is_quiet() -> bool | None:
        status = passed_on(daemon)
        return not (status["waiting"] or status["in_flight"] or status["kept_bytes"]) or None

    wait_for(is_quiet, "everything that was passed on to be over")


ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/demo"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("DescribeStream", {"StreamName": "demo"}),
    ("DescribeStream", {"StreamName": "demo", "Limit": 1}),
    ("DescribeStream", {"StreamName": "demo", "ExclusiveStartShardId": "shardId-000000000001"}),
    ("DescribeStream", {"StreamName": "demo", "Limit": 0}),
    ("DescribeStream", {"StreamARN": ARN, "StreamId": "reserved"}),
    ("DescribeStream", {}),
    ("DescribeStreamSummary", {"StreamName": "demo"}),
    ("DescribeStreamSummary", {"StreamARN": ARN, "StreamName": "demo"}),
    ("DescribeStreamSummary", {"StreamName": "missing"}),
    ("ListShards", {"StreamName": "demo", "ShardFilter": {"Type": "AT_LATEST"}}),
    ("ListShards", {"StreamName": "demo", "ShardFilter": {"Type": "NEVER"}}),
    ("ListShards", {"ShardFilter": {"Type": "AT_LATEST"}}),  # as the KPL asks first
    ("ListShards", {"NextToken": "made up"}),
    ("ListStreams", {"Limit": 5, "ExclusiveStartStreamName": "a"}),
    ("ListStreams", {"NextToken": "made up"}),
    ("DescribeLimits", {}),
    ("ListTagsForStream", {"StreamName": "demo"}),
    ("GetShardIterator", {"StreamName": "demo", "ShardId": "none", "ShardIteratorType": "LATEST"}),
    ("GetRecords", {"ShardIterator": "made up"}),
]


@pytest.mark.parametrize(("operation", "members"), CASES)
def test_an_answer_is_the_service_s_byte_for_byte(
    daemon: Daemon, operation: str, members: dict[str, Any]
) -> None:
    body = json.dumps(members).encode()
    theirs = post(daemon.sandbox_url, operation, body)
    ours = post(daemon.url, operation, body)
    assert (ours.status, ours.body) == (theirs.status, theirs.body)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    # Of the same process: they differ in their number only.
    assert ours.headers["x-amzn-requestid"][:23] == theirs.headers["x-amzn-requestid"][:23]


@pytest.mark.parametrize(("operation", "members"), CASES)
def test_an_answer_in_cbor_says_the_same(
    daemon: Daemon, operation: str, members: dict[str, Any]
) -> None:
    """As Java's SDKs ask by default."""
    theirs = Endpoint("sandbox", daemon.sandbox_url, daemon.sandbox_url, encoding="cbor")
    ours = Endpoint("daemon", daemon.url, daemon.url, encoding="cbor")
    expected, found = theirs.call(operation, **members), ours.call(operation, **members)
    assert (found.status, found.members) == (expected.status, expected.members)


def test_large_records_are_read_in_cbor(daemon: Daemon) -> None:
    writing = Endpoint("sandbox", url=daemon.sandbox_url, put_url=daemon.sandbox_url)
    stream = writing.make_stream("large-in-cbor", 1)
    data = [bytes([65 + number]) * 200_000 for number in range(5)]
    writing.put_all(stream, [entry(each, "k") for each in data])
    reading = Endpoint("daemon", daemon.url, daemon.url, encoding="cbor")
    found = [data_of(each) for each in reading.read_shard(stream, "shardId-000000000000")]
    assert found == data


def test_pages_of_a_list_follow_each_other(daemon: Daemon) -> None:
    endpoint = Endpoint("daemon", url=daemon.url, put_url=daemon.url)
    first = endpoint.answer("ListShards", StreamName="demo", MaxResults=3)
    second = endpoint.answer("ListShards", NextToken=first["NextToken"])
    assert [shard["ShardId"][-1] for shard in first["Shards"] + second["Shards"]] == list("0123")


def test_boto3_lists_writes_and_reads_at_one_place(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    kinesis = sdk.kinesis(daemon.url)
    try:
        names = [
            name
            for page in kinesis.get_paginator("list_streams").paginate()
            for name in page["StreamNames"]
        ]
        assert "demo" in names
        kinesis.get_waiter("stream_exists").wait(StreamName="demo")
        assert kinesis.describe_limits()["OpenShardCount"] >= 4
        put = kinesis.put_record(StreamName="demo", Data=b"here and back", PartitionKey="k")
        iterator = kinesis.get_shard_iterator(
            StreamName="demo",
            ShardId=put["ShardId"],
            ShardIteratorType="AT_SEQUENCE_NUMBER",
            StartingSequenceNumber=put["SequenceNumber"],
        )["ShardIterator"]
        (record,) = kinesis.get_records(ShardIterator=iterator)["Records"]
        assert record["Data"] == b"here and back"
        with pytest.raises(kinesis.exceptions.ResourceNotFoundException):
            kinesis.describe_stream_summary(StreamName="missing")
        with pytest.raises(ClientError) as caught:
            kinesis.create_stream(StreamName="new", ShardCount=1)
        assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
        assert "kdaemon delivers records" in str(caught.value)
    finally:
        kinesis.close()


def test_large_records_are_read_whole(daemon: Daemon) -> None:
    """12 MiB in one answer, as many as GetRecords gives."""
    writing = Endpoint("sandbox", url=daemon.sandbox_url, put_url=daemon.sandbox_url)
    stream = writing.make_stream("large", 1)
    data = [bytes([65 + number]) * (MIB - 100) for number in range(9)]
    for each in data:
        wait_for(
            lambda each=each: (  # type: ignore[misc]  # until the shard's quota has room
                writing.put("PutRecord", StreamName=stream, **entry(each, "k")).status == 200
                or None
            ),
            "a record to be written",
        )
    reading = Endpoint("daemon", url=daemon.url, put_url=daemon.url)
    found = [data_of(each) for each in reading.read_shard(stream, "shardId-000000000000")]
    assert found == data
    wait_quiet(daemon)
    assert daemon.counted("kdaemon_memory_bytes") == 0


# One call for many, in turns


def request(operation: str, body: bytes) -> bytes:
    return (
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
        f"X-Amz-Target: Kinesis_20131202.{operation}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def calls_at(sandbox_url: str) -> dict[str, int]:
    calls: dict[str, int] = json.loads(get(sandbox_url + "/sandbox/state")[1])["calls"]
    return calls


def test_a_fleet_that_asks_the_same_costs_the_service_one_call(run: Run) -> None:
    """With a quota of one call in a minute and forty."""
    daemon = run(before=control_quota(0.01))
    daemon.inject({"kind": "latency", "operation": "DescribeStream", "latency_ms": 3_000})
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(50)]
        for client in clients:
            client.sendall(10 * request("DescribeStream", b'{"StreamName":"demo"}'))
        for client in clients:
            assert [status for status, _ in read_answers(client, 10)] == [200] * 10
    assert calls_at(daemon.sandbox_url)["DescribeStream"] == 1
    metrics = daemon.metrics()
    assert metrics.total("kdaemon_passed_on_requests_total", operation="DescribeStream") == 500
    assert metrics.total("kdaemon_passed_on_shared_total", operation="DescribeStream") == 499


def test_a_flood_of_one_client_harms_neither_another_nor_the_daemon_s_own_look_ups(
    run: Run,
) -> None:
    daemon = run(before=control_quota(10))
    endpoint = Endpoint.of(daemon)
    stream = endpoint.make_stream("not-looked-up-yet", 1)
    with daemon.connect() as flood, daemon.connect() as quiet:
        wanted = [
            request("DescribeStream", json.dumps({"StreamName": "demo", "Limit": n}).encode())
            for n in range(1, 61)
        ]
        flood.sendall(b"".join(wanted))
        wait_for(lambda: passed_on(daemon)["requests"] >= 60 or None, "the flood to arrive")
        quiet.sendall(request("DescribeStream", b'{"StreamName":"demo"}'))
        assert [status for status, _ in read_answers(quiet, 1)] == [200]
        assert endpoint.put_all(stream, [entry(b"x", "k")])
        found = [status for status, _ in read_answers(flood, 60)]
    assert set(found) <= {200, 400}
    refused = daemon.counted("kdaemon_passed_on_refused_total", reason="full")
    assert 0 < refused <= found.count(400), "beyond its part of the places it is refused"


# Clients that go, services that do not answer


def test_a_client_that_goes_leaves_nothing_behind(run: Run) -> None:
    daemon = run()
    daemon.inject({"kind": "hang", "operation": "DescribeStream", "calls": None})
    with daemon.connect() as client:
        for number in range(1, 9):
            members = json.dumps({"StreamName": "demo", "Limit": number}).encode()
            client.sendall(request("DescribeStream", members))
        wait_for(lambda: passed_on(daemon)["in_flight"] >= 1 or None, "a call to be made")
    wait_quiet(daemon)
    daemon.clear_faults()
    assert post(daemon.url, "DescribeStream", b'{"StreamName":"demo"}').status == 200
    wait_quiet(daemon)
    assert daemon.counted("kdaemon_memory_bytes") == 0


def test_a_service_that_does_not_answer_is_told_within_the_patience_of_every_sdk(
    run: Run,
) -> None:
    daemon = run()
    daemon.inject({"kind": "hang", "operation": "DescribeStream"})
    answer = post(daemon.url, "DescribeStream", b'{"StreamName":"demo"}')
    assert answer.refusal == (503, "ServiceUnavailable")
    assert "within 5 s" in answer.members["message"]
    assert post(daemon.url, "DescribeStream", b'{"StreamName":"demo"}').status == 200


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        ({"kind": "throttle"}, (400, "ProvisionedThroughputExceededException")),
        ({"kind": "access_denied"}, (400, "AccessDeniedException")),
        ({"kind": "status", "status": 500}, (500, "InternalFailureException")),
        ({"kind": "status", "status": 503}, (503, "ServiceUnavailableException")),
        ({"kind": "reset"}, (503, "ServiceUnavailable")),
        ({"kind": "unparsable_body"}, (503, "ServiceUnavailable")),
        ({"kind": "empty_body"}, (503, "ServiceUnavailable")),
    ],
)
def test_what_goes_wrong_is_told_by_its_type_and_kept_for_nobody(
    daemon: Daemon, fault: dict[str, Any], refusal: tuple[int, str]
) -> None:
    body = json.dumps({"StreamName": "demo", "Limit": 17}).encode()
    wait_quiet(daemon)
    daemon.inject({**fault, "operation": "DescribeStream"})
    assert post(daemon.url, "DescribeStream", body).refusal == refusal
    assert post(daemon.url, "DescribeStream", body).status == 200


def test_a_service_that_is_away_is_an_error_that_sdks_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with running(tmp_path, service="http://127.0.0.1:1") as daemon:
        twice = Config(retries={"mode": "standard", "total_max_attempts": 2})
        kinesis = sdk.kinesis(daemon.url, config=twice)
        try:
            with pytest.raises(ClientError) as caught:
                kinesis.describe_stream(StreamName="demo")
        finally:
            kinesis.close()
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 1
        assert "127.0.0.1:1" in str(caught.value)


def test_a_client_hears_what_was_said_and_nothing_that_was_signed(tmp_path: Path) -> None:
    with upstream(echo) as url, daemon_before(tmp_path, url) as process:
        answer = post(process.address("http"), "DescribeStream", b'{"StreamName":"demo"}')
        assert answer.refusal == (400, "AccessDeniedException")
        assert "denied: " in answer.members["message"]
        for shown in (answer.body.decode(), str(answer.headers), *process.lines):
            assert not any(secret in shown for secret in (KEY, SECRET, TOKEN))


def test_yandex_says_itself_what_it_does_not_have(run: Run) -> None:
    daemon = run({"service": "yandex"})
    for operation in ("ListShards", "DescribeStreamSummary", "DescribeLimits"):
        answer = post(daemon.url, operation, b'{"StreamName":"demo"}')
        assert answer.refusal == (400, "InvalidAction")
    answer = post(daemon.url, "DescribeStream", b'{"StreamName":"demo"}')
    assert answer.members["StreamDescription"]["StreamName"] == "demo"
    answer = post(daemon.url, "DescribeStream", b'{"StreamARN":"demo"}')
    assert answer.refusal == (400, "InvalidArgumentException"), "its own word on unknown keys"


def test_a_stop_does_not_wait_for_what_is_passed_on(run: Run) -> None:
    daemon = run({"drain.deadline_ms": 1_000})
    daemon.inject({"kind": "hang", "operation": "DescribeStream"})
    with daemon.connect() as client:
        client.sendall(request("DescribeStream", b'{"StreamName":"demo"}'))
        wait_for(lambda: passed_on(daemon)["in_flight"] or None, "the call to be made")
        assert daemon.stop() == 0
    assert not [line for line in daemon.log if line["level"] in {"warning", "error"}]


# Memory


def test_large_answers_that_nobody_reads_stay_within_the_memory(tmp_path: Path) -> None:
    """60 clients ask for 3 MiB each, some for the same, and read nothing."""
    settings = {"memory_bytes_max": 64 * MIB}
    with (
        sandbox(shard_count=9_000) as service,
        from_scratch(),
        running(tmp_path, settings, service=service, before=control_quota(1000)) as daemon,
        ExitStack() as stack,
    ):
        whole = json.dumps({"StreamName": "demo", "Limit": 10_000}).encode()
        assert len(post(service, "DescribeStream", whole).body) > 2 * MIB
        before_bytes = daemon.peak_bytes()
        for number in range(60):
            members = {"StreamName": "demo", "Limit": 10_000 - number % 20}
            client = stack.enter_context(daemon.connect())
            client.sendall(request("DescribeStream", json.dumps(members).encode()))
        wait_for(
            lambda: (
                (
                    passed_on(daemon)["requests"] == 60
                    and not passed_on(daemon)["in_flight"] + passed_on(daemon)["waiting"]
                )
                or None
            ),
            "all to be told",
        )
        assert daemon.peak_bytes() - before_bytes < 64 * MIB + 90 * MIB
        assert post(daemon.url, "DescribeStreamSummary", b'{"StreamName":"demo"}').status == 200
