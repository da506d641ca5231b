"""Clients that read by SubscribeToShard, each on its defaults, from `kdaemon sandbox`.

A program is started as `PROGRAM NAME ENDPOINT CONSUMER_ARN SHARD` and reads from TRIM_HORIZON. It
writes a line for each event, {"data": [TEXT, ...], "next": NUMBER or null, "children": [SHARD,
...]}, and at last {"end": true} or {"error": TEXT}. Java's is there after `make clients`.
"""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.program import PROGRAMS
from tests.kit.daemon import Process, environment, started
from tests.kit.endpoints import NODE, Endpoint, entry
from tests.kit.patience import PATIENCE_S, wait_for

FIRST = "shardId-000000000000"
STREAM = "demo"


@dataclass(frozen=True)
class Subscriber:
    """`needs`: what must be there to run it, beneath `directory`."""

    name: str
    command: tuple[str, ...]
    directory: Path
    needs: str
    marks: tuple[pytest.MarkDecorator, ...] = ()

    def __str__(self) -> str:
        return self.name


_JAVA = ("java", "-cp", "target/classes:target/jars/*", "Subscribe")
_PYTHON = (sys.executable, "subscribe.py")
_NODE = ("node", "subscribe-v3.js")
_NODE_NEEDS = "node_modules/@aws-sdk/client-kinesis"

SUBSCRIBERS = (
    Subscriber("boto3", _PYTHON, PROGRAMS / "python", "subscribe.py"),
    Subscriber("aiobotocore", _PYTHON, PROGRAMS / "python", "subscribe.py"),
    Subscriber("js-v3", _NODE, NODE, _NODE_NEEDS, (pytest.mark.node,)),
    Subscriber("js-v3-http1", _NODE, NODE, _NODE_NEEDS, (pytest.mark.node,)),
    Subscriber(
        "java-v2-async",
        _JAVA,
        PROGRAMS / "java",
        "target/classes/Subscribe.class",
        (pytest.mark.java,),
    ),
)


class Running:
    """A program that reads; its lines arrive through a thread."""

    def __init__(self, subscriber: Subscriber, endpoint: str, arn: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._process = subprocess.Popen(
            [*subscriber.command, subscriber.name, endpoint, arn, FIRST],
            cwd=subscriber.directory,
            env=environment(AWS_REGION="us-east-1"),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def next(self) -> dict[str, Any]:
        line = self._lines.get(timeout=PATIENCE_S)
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"it ended without a word:\n{self._errors.read().decode()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def read(self, count: int) -> list[str]:
        """The data of so many records, and of what came with them."""
        found: list[str] = []
        while len(found) < count:
            event = self.next()
            assert "data" in event, event
            found += event["data"]
        return found

    def last(self) -> dict[str, Any]:
        """What it says when no event comes any more."""
        while "data" in (found := self.next()):
            pass
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@dataclass
class Place:
    """A sandbox of one shard, and a client that reads it."""

    name: str
    process: Process
    endpoint: Endpoint
    reader: Running

    def put(self, *data: str) -> None:
        self.endpoint.put_all(STREAM, [entry(each.encode(), "k") for each in data])


@pytest.fixture(params=[pytest.param(each, marks=each.marks) for each in SUBSCRIBERS], ids=str)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    subscriber: Subscriber = request.param
    if not (subscriber.directory / subscriber.needs).exists():
        pytest.skip(f"{subscriber.name} is not built; `make clients` does")
    arguments = ["sandbox", "--listen", "127.0.0.1:0", "--stream", STREAM, "--shards", "1"]
    with started([*arguments, "--set", "sandbox.shard_bytes_per_second=100000000"]) as process:
        url = process.wait_log("listening")["fields"]["at"]
        endpoint = Endpoint("sandbox", url=url, put_url=url)
        arn = active_consumer(endpoint)
        with contextlib.closing(Running(subscriber, url, arn)) as reader:
            yield Place(subscriber.name, process, endpoint, reader)


def active_consumer(endpoint: Endpoint) -> str:
    summary = endpoint.answer("DescribeStreamSummary", StreamName=STREAM)
    stream_arn = summary["StreamDescriptionSummary"]["StreamARN"]
    made = endpoint.answer("RegisterStreamConsumer", StreamARN=stream_arn, ConsumerName="mine")
    arn = str(made["Consumer"]["ConsumerARN"])

    def is_active() -> bool | None:
        answer = endpoint.answer("DescribeStreamConsumer", ConsumerARN=arn)
        return answer["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE" or None

    wait_for(is_active, "the consumer to be ACTIVE")
    return arn


def test_it_reads_a_shard_to_its_end_while_records_come(place: Place) -> None:
    place.put("before")
    assert place.reader.read(1) == ["before"]
    large = [letter * 700_000 for letter in "abcdefgh"]  # more than any window
    for each in large:
        place.put(each)
    small = [str(index) for index in range(300)]
    place.put(*small)
    assert place.reader.read(308) == [*large, *small]
    place.endpoint.answer_empty(
        "SplitShard", StreamName=STREAM, ShardToSplit=FIRST, NewStartingHashKey=str(2**127)
    )
    event = place.reader.next()
    while not event["children"]:
        assert event["next"]
        event = place.reader.next()
    assert event["next"] is None
    assert event["children"] == ["shardId-000000000001", "shardId-000000000002"]
    assert place.reader.next() == {"end": True}


def test_a_consumer_that_is_no_more_is_told_in_the_stream(place: Place) -> None:
    place.put("a")
    assert place.reader.read(1) == ["a"]
    summary = place.endpoint.answer("DescribeStreamSummary", StreamName=STREAM)
    stream_arn = summary["StreamDescriptionSummary"]["StreamARN"]
    place.endpoint.answer_empty(
        "DeregisterStreamConsumer", StreamARN=stream_arn, ConsumerName="mine"
    )
    assert "ResourceNotFound" in place.reader.last()["error"]


def test_a_sandbox_that_stops_ends_the_stream_cleanly(place: Place) -> None:
    place.put("a")
    assert place.reader.read(1) == ["a"]
    place.process.signal()
    assert place.reader.last() == {"end": True}
    assert place.process.wait() == 0


def test_a_sandbox_that_dies_never_looks_like_an_end(place: Place) -> None:
    if place.name == "js-v3":
        pytest.skip("over HTTP/2 it takes a connection that is lost for the end of the answer")
    place.put("a")
    assert place.reader.read(1) == ["a"]
    place.process.signal(signal.SIGKILL)
    assert "error" in place.reader.last()
