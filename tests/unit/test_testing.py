"""`kdaemon.testing` as the tests of others use it."""

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from kdaemon.base.errors import ServiceError
from kdaemon.testing import Sandbox, sandbox
from tests.kit.certificates import Files
from tests.kit.daemon import ROOT, environment
from tests.kit.endpoints import send
from tests.kit.patience import PATIENCE_S
from tests.kit.sdk import kinesis


def client_of(running: Sandbox, region_name: str = "us-east-1") -> closing[Any]:
    return closing(kinesis(running.url, region_name=region_name))


@pytest.fixture
def client(kinesis_sandbox: Sandbox) -> Iterator[object]:
    with client_of(kinesis_sandbox) as client:
        yield client


def test_what_an_sdk_puts_is_there(kinesis_sandbox: Sandbox, client: object) -> None:
    kinesis_sandbox.create_stream("orders", shard_count=3)
    records = [{"Data": b"%d" % n, "PartitionKey": f"key-{n}"} for n in range(20)]
    answer = client.put_records(StreamName="orders", Records=records)  # type: ignore[attr-defined]
    stored = {each.sequence_number: each for each in kinesis_sandbox.records("orders")}
    assert len(stored) == 20
    for sent, result in zip(records, answer["Records"], strict=True):
        found = stored[result["SequenceNumber"]]
        assert (found.data, found.partition_key) == (sent["Data"], sent["PartitionKey"])
        assert found.shard_id == result["ShardId"]
    assert kinesis_sandbox.records("demo") == []


def test_it_fails_as_it_is_told(kinesis_sandbox: Sandbox, client: object) -> None:
    kinesis_sandbox.fail(kind="record_failure", indices=[1])
    records = [{"Data": b"x", "PartitionKey": "k"}] * 3
    answer = client.put_records(StreamName="demo", Records=records)  # type: ignore[attr-defined]
    assert [each.get("ErrorCode") for each in answer["Records"]] == [None, "InternalFailure", None]
    with pytest.raises(msgspec.ValidationError, match=r"'earthquake'.*latency, reset, hang"):
        kinesis_sandbox.fail(kind="earthquake")
    with pytest.raises(msgspec.ValidationError, match=r"`operatoin`.*kind, calls, operation"):
        kinesis_sandbox.fail(kind="reset", operatoin="PutRecord")
    kinesis_sandbox.fail(kind="throttle", calls=None)
    kinesis_sandbox.clear_faults()
    answer = client.put_records(StreamName="demo", Records=records)  # type: ignore[attr-defined]
    assert answer["FailedRecordCount"] == 0


def test_a_closed_shard_s_records_are_read_too(kinesis_sandbox: Sandbox, client: object) -> None:
    for text in (b"before", b"after"):
        client.put_record(StreamName="demo", Data=text, PartitionKey="k")  # type: ignore[attr-defined]
        if text == b"before":
            kinesis_sandbox.call(
                "SplitShard",
                StreamName="demo",
                ShardToSplit="shardId-000000000000",
                NewStartingHashKey=str(2**127),
            )
    assert [each.data for each in kinesis_sandbox.records("demo")] == [b"before", b"after"]
    with pytest.raises(ServiceError) as raised:
        kinesis_sandbox.records("no-such-stream")
    assert raised.value.code == "ResourceNotFoundException"


def test_nothing_of_it_is_left_behind() -> None:
    before = threading.active_count()
    with sandbox(service="yandex", streams=()) as running:
        assert running.call("ListStreams")["StreamNames"] == []
    assert threading.active_count() == before
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(running.url, timeout=PATIENCE_S)


def test_a_setting_that_cannot_be_leaves_nothing_behind() -> None:
    before = threading.active_count()
    with pytest.raises(ServiceError), sandbox(shard_count=1_000_000):
        pass
    assert threading.active_count() == before


def test_the_fixture_is_there_for_who_only_installed_kdaemon(tmp_path: Path) -> None:
    test = tmp_path / "test_theirs.py"
    test.write_text(
        "def test_it(kinesis_sandbox):\n    assert kinesis_sandbox.records('demo') == []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_command_prints_the_url_of_a_port_that_the_system_chose(
    scheme: str, certificate: Files
) -> None:
    command = [sys.executable, "-m", "kdaemon", "sandbox", "--ephemeral-port"]
    if scheme == "https":
        command += ["--set", f"sandbox.tls_certificate={certificate.certificate}"]
        command += ["--set", f"sandbox.tls_key={certificate.key}"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert url.startswith(f"{scheme}://")
        trusted = certificate.client() if scheme == "https" else None
        state = url + "/sandbox/state"
        with urllib.request.urlopen(state, timeout=PATIENCE_S, context=trusted) as answer:
            assert b'"demo"' in answer.read()
        process.terminate()
    assert process.returncode == 0


def test_a_port_is_not_chosen_twice() -> None:
    command = [sys.executable, "-m", "kdaemon", "sandbox", "--ephemeral-port"]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:1"], cwd=ROOT, env=environment(), capture_output=True
    )
    assert done.returncode == 2
    assert b"leave --listen out" in done.stderr


def test_what_a_stream_of_yandex_holds_can_be_read() -> None:
    with (
        sandbox(("orders",), 150, service="yandex") as running,
        client_of(running, "ru-central1") as client,
    ):
        keys = [f"key-{index}" for index in range(20)]
        for key in keys:
            client.put_record(StreamName="orders", Data=key.encode(), PartitionKey=key)
        assert sorted(each.data.decode() for each in running.records("orders")) == sorted(keys)


def test_another_region_is_refused_as_yandex_does() -> None:
    with (
        sandbox(("orders",), service="yandex") as running,
        client_of(running) as client,
        pytest.raises(ClientError, match="Wrong service region: got us-east-1"),
    ):
        client.put_record(StreamName="orders", Data=b"x", PartitionKey="k")


def test_a_token_can_be_made_to_expire() -> None:
    with sandbox(("orders",), service="yandex") as running:
        running.accept_tokens("t1.new")
        body = b'{"StreamName": "orders"}'
        head = {"content-type": "application/json", "x-amz-target": "x.DescribeStream"}
        assert running.records("orders") == []
        for token, status in (("t1.old", 400), ("t1.new", 200)):
            answer = send(running.url, "POST", body, {**head, "x-yacloud-subjecttoken": token})
            assert answer.status == status
        running.accept_tokens()
        answer = send(running.url, "POST", body, {**head, "x-yacloud-subjecttoken": "t1.new"})
        assert answer.refusal == (400, "AccessDeniedException")
