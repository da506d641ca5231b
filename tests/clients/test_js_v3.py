"""The SDK of JavaScript, version 3, on its defaults: HTTP/2 by prior knowledge, and JSON."""

import base64
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.kit.daemon import Daemon, environment, running, sandbox
from tests.kit.endpoints import NODE, Endpoint, data_of
from tests.kit.patience import PATIENCE_S, wait_for

pytestmark = pytest.mark.node

THROUGHPUT = "ProvisionedThroughputExceededException"


class Sdk:
    """One client in a process of node; what it says of its handler."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            ["node", "kinesis-v3.js", url],
            cwd=NODE,
            env=environment(
                AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.handler = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"node ended with {self._process.poll()}"
        return json.loads(line)

    def ask(self, asked: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def put(self, stream: str, data: bytes, key: str = "k") -> Any:
        return self.ask(put_record(stream, data, key))

    def put_all(self, stream: str, *data: bytes) -> Any:
        records = [{"Data": in_base64(each), "PartitionKey": str(n)} for n, each in enumerate(data)]
        return self.ask(
            {"command": "PutRecords", "input": {"StreamName": stream, "Records": records}}
        )

    def close(self) -> int:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            return process.wait()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def put_record(stream: str, data: bytes, key: str = "k") -> dict[str, Any]:
    given = {"StreamName": stream, "Data": in_base64(data), "PartitionKey": key}
    return {"command": "PutRecord", "input": given}


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[Sdk]:
    sdk = Sdk(daemon.url)
    yield sdk
    assert sdk.close() == 0


def texts(endpoint: Endpoint, stream: str) -> Counter[str]:
    return Counter(data_of(record).decode() for record in endpoint.read_stream(stream))


def test_it_speaks_http_2_and_a_record_is_where_its_answer_says(
    sdk: Sdk, endpoint: Endpoint, stream: str
) -> None:
    assert sdk.handler == {"handlerProtocol": "h2"}
    answer = sdk.put(stream, "grüße".encode(), "ключ")
    assert (answer["status"], bool(answer["id"])) == (200, True)
    (record,) = endpoint.read_stream(stream)
    assert answer["SequenceNumber"] == record["SequenceNumber"]
    assert record["PartitionKey"] == "ключ"
    assert data_of(record).decode() == "grüße"


def test_records_of_requests_at_once_are_there_once(
    sdk: Sdk, endpoint: Endpoint, stream: str
) -> None:
    """More than the streams of one connection: 100 requests, of which 64 may be open."""
    answers = sdk.ask([put_record(stream, b"%d" % n, str(n)) for n in range(100)])
    assert {answer.get("status") for answer in answers} == {200}, answers
    assert texts(endpoint, stream) == Counter(str(n) for n in range(100))


def test_a_batch_of_five_hundred_and_one_of_mebibytes(
    sdk: Sdk, endpoint: Endpoint, stream: str
) -> None:
    answer = sdk.put_all(stream, *(b"%d" % n for n in range(500)))
    assert (answer["status"], answer["FailedRecordCount"]) == (200, 0)
    large = [b"%d" % n * 900_000 for n in range(4)]
    answer = sdk.put_all(stream, *large)
    assert (answer["status"], answer["FailedRecordCount"]) == (200, 0)
    got = texts(endpoint, stream)
    assert len(got) == 504
    assert set(got.values()) == {1}


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "record_failure", "indices": [0, 3, 7]},
        {"kind": "throttle", "calls": 2},
        {"kind": "status", "status": 500},
    ],
    ids=["partial", "throttle", "500"],
)
def test_what_the_service_refuses_for_a_moment_is_there_once(
    sdk: Sdk, daemon: Daemon, endpoint: Endpoint, stream: str, fault: dict[str, Any]
) -> None:
    daemon.inject({**fault, "stream": stream})
    answer = sdk.put_all(stream, *(b"%d" % n for n in range(10)))
    assert (answer["status"], answer["FailedRecordCount"]) == (200, 0)
    assert texts(endpoint, stream) == Counter(str(n) for n in range(10))


def test_an_error_is_the_services(sdk: Sdk, stream: str) -> None:
    answer = sdk.put("no-such-stream", b"x")
    assert answer["error"] == "ResourceNotFoundException"
    answer = sdk.put(stream, b"x", "k" * 257)
    assert (answer["error"], answer["status"]) == ("ValidationException", 400)
    answer = sdk.put_all(stream, *[b"x"] * 501)
    assert answer["error"] == "ValidationException"


def test_a_full_buffer_is_told_and_then_there_is_room(tmp_path: Path) -> None:
    settings = {"default.buffer_bytes_max": 1024 * 1024, "default.deadline_ms": 1000}
    with running(tmp_path, settings) as daemon:
        sdk = Sdk(daemon.url)
        daemon.inject({"kind": "throttle", "calls": None})
        filling = [put_record("demo", bytes(400_000), str(n)) for n in range(5)]
        answers = sdk.ask(filling)
        told = {answer.get("error") for answer in answers}
        # InternalFailure: the service's answer was not yet there at the deadline of one second.
        assert THROUGHPUT in told, answers
        assert told <= {THROUGHPUT, "InternalFailure"}, answers
        daemon.clear_faults()
        assert sdk.put("demo", b"after")["status"] == 200
        endpoint = Endpoint.of(daemon)
        assert texts(endpoint, "demo")["after"] == 1
        assert sdk.close() == 0
        assert daemon.stop() == 0


def test_what_is_in_flight_when_the_daemon_stops_is_answered(tmp_path: Path) -> None:
    """GOAWAY comes while answers are owed: the SDK takes them, and begins nothing more."""
    with sandbox() as service, running(tmp_path, {}, service=service) as daemon:
        sdk = Sdk(daemon.url)
        assert sdk.put("demo", b"first")["status"] == 200
        daemon.inject({"kind": "latency", "latency_ms": 1500, "calls": None})
        answers: list[Any] = []
        asked = [put_record("demo", b"%d" % n, str(n)) for n in range(20)]
        asking = Thread(target=lambda: answers.extend(sdk.ask(asked)))
        asking.start()
        received = "kdaemon_records_received_total"
        wait_for(lambda: daemon.counted(received) >= 21 or None, "the requests to be there")
        assert daemon.stop() == 0
        asking.join(PATIENCE_S)
        assert {answer.get("status") for answer in answers} == {200}, answers
        daemon.clear_faults()
        endpoint = Endpoint("sandbox", url=service, put_url=service)
        expected = Counter(["first", *(str(n) for n in range(20))])
        assert texts(endpoint, "demo") == expected
        assert sdk.close() == 0
