"""SubscribeToShard over HTTP: events as clients read them, and how a subscription ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import cbor2
import pytest
from aiobotocore.session import get_session
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from kdaemon.base.record import Record
from kdaemon.sandbox.consumer import CREATING_NS
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.subscription import (
    EVENT_INTERVAL_NS,
    LIFETIME_NS,
    TAKEOVER_NS,
    Subscription,
)
from kdaemon.system import SystemClock
from tests.kit.clock import jump
from tests.kit.patience import PATIENCE_S, until
from tests.unit.sandbox.test_server import Sandbox, running

FIRST = "shardId-000000000000"
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
CONTENT_TYPES = {"json": "application/x-amz-json-1.1", "cbor": "application/x-amz-cbor-1.1"}


def from_cbor(data: bytes) -> Any:
    """Moments in seconds, data in bytes."""
    return cbor2.loads(data, semantic_decoders={1: lambda number, _: number / 1000})


class Clock(SystemClock):
    """A real one, ahead by what a test lets pass."""

    ahead_ns = 0

    def now_ns(self) -> int:
        return SystemClock.now_ns() + self.ahead_ns

    def wait(self, ns: int) -> None:
        self.ahead_ns += ns
        jump(ns / 1_000_000_000)


class Place:
    """A sandbox with a stream of one shard and a consumer that is active."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        self.sandbox = sandbox
        self.service = sandbox.service
        self.clock = clock
        self.service.create_stream("orders", 1, clock.now_ns())
        self.arn = self.register("mine")

    def call(self, operation: str, **members: Any) -> Any:
        return self.service.handle(operation, members, self.clock.now_ns())

    def register(self, name: str) -> str:
        answer = self.call("RegisterStreamConsumer", StreamARN=ARN, ConsumerName=name)
        self.clock.wait(CREATING_NS)
        return str(answer["Consumer"]["ConsumerARN"])

    def put(self, *data: bytes) -> None:
        records = [Record(each, "k") for each in data]
        self.service.put_records("orders", records, self.clock.now_ns())

    def readers(self) -> int:
        return len(self.service.stream("orders").consumers["mine"].readers)

    def asked(self, kind: str = "TRIM_HORIZON") -> dict[str, Any]:
        return {"ConsumerARN": self.arn, "ShardId": FIRST, "StartingPosition": {"Type": kind}}

    async def subscribe(self, kind: str = "TRIM_HORIZON", encoding: str = "json") -> "Raw":
        body = json.dumps(self.asked(kind)).encode()
        if encoding == "cbor":
            body = cbor2.dumps(self.asked(kind))
        headers = {
            "Content-Type": CONTENT_TYPES[encoding],
            "X-Amz-Target": "Kinesis_20131202.SubscribeToShard",
        }
        response = await self.sandbox.session.post(self.sandbox.url, data=body, headers=headers)
        return Raw(response, encoding)


class Raw:
    """Messages of an answer, taken apart by botocore."""

    def __init__(self, response: aiohttp.ClientResponse, encoding: str) -> None:
        self.response = response
        self.headers = response.headers
        self.decode: Any = json.loads if encoding == "json" else from_cbor
        self._buffer = EventStreamBuffer()

    async def next(self) -> tuple[dict[str, str], Any] | None:
        """Headers and payload; None: the answer is whole."""
        while True:
            for message in self._buffer:
                return message.headers, self.decode(message.payload)
            async with asyncio.timeout(PATIENCE_S):
                data = await self.response.content.readany()
            if not data:
                return None
            self._buffer.add_data(data)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    clock = Clock()
    async with running(clock=clock) as sandbox:
        yield Place(sandbox, clock)


@pytest.mark.parametrize("encoding", ["json", "cbor"])
async def test_the_answer_begins_as_the_service_answers(place: Place, encoding: str) -> None:
    place.put(b"\x00\xff")
    events = await place.subscribe(encoding=encoding)
    assert events.headers["Content-Type"] == "application/vnd.amazon.eventstream"
    assert len(events.headers["x-amzn-RequestId"]) == 36
    kind = f"application/{encoding}"
    assert await events.next() == (
        {":message-type": "event", ":event-type": "initial-response", ":content-type": kind},
        {},
    )
    found = await events.next()
    assert found is not None
    headers, event = found
    assert headers[":event-type"] == "SubscribeToShardEvent"
    assert headers[":message-type"] == "event"
    (record,) = event["Records"]
    assert record["Data"] == ("AP8=" if encoding == "json" else b"\x00\xff")
    assert record["PartitionKey"] == "k"
    assert event["ContinuationSequenceNumber"] == record["SequenceNumber"]
    events.response.close()


@pytest.mark.parametrize("encoding", ["json", "cbor"])
async def test_a_call_that_is_refused_is_an_ordinary_answer(place: Place, encoding: str) -> None:
    first = await place.subscribe(encoding=encoding)
    second = await place.subscribe(encoding=encoding)
    assert second.response.status == 400
    assert second.headers["Content-Type"] == CONTENT_TYPES[encoding]
    told = second.decode(await second.response.read())
    assert told["__type"] == "ResourceInUseException"
    first.response.close()


async def test_records_come_as_they_are_put(place: Place) -> None:
    events = await place.subscribe("LATEST")
    await events.next()
    await events.next()
    for data in ("YQ==", "Yg=="):
        put = {"StreamName": "orders", "Data": data, "PartitionKey": "k"}
        await place.sandbox.answer("PutRecord", put)
        found = await events.next()
        assert found is not None
        assert [record["Data"] for record in found[1]["Records"]] == [data]
    events.response.close()


async def test_a_quiet_shard_is_told_of_and_five_minutes_are_the_end(place: Place) -> None:
    events = await place.subscribe()
    await events.next()
    await events.next()
    place.clock.wait(EVENT_INTERVAL_NS)
    found = await events.next()
    assert found is not None
    assert found[1]["Records"] == []
    place.clock.wait(LIFETIME_NS)
    assert await events.next() is None
    assert place.readers() == 0


@pytest.mark.parametrize("encoding", ["json", "cbor"])
async def test_who_takes_over_ends_the_one_before(place: Place, encoding: str) -> None:
    first = await place.subscribe(encoding=encoding)
    await first.next()
    await first.next()
    place.clock.wait(TAKEOVER_NS)
    second = await place.subscribe()
    found = await first.next()
    while found is not None and found[0][":message-type"] == "event":
        found = await first.next()
    assert found is not None
    headers, told = found
    assert headers == {
        ":message-type": "exception",
        ":exception-type": "ResourceInUseException",
        ":content-type": f"application/{encoding}",
    }
    assert "Another active subscription" in told["message"]
    assert await first.next() is None
    assert place.readers() == 1
    second.response.close()


@pytest.mark.parametrize("encoding", ["json", "cbor"])
async def test_a_defect_of_ours_is_told_in_the_stream(
    place: Place, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    events = await place.subscribe(encoding=encoding)
    await events.next()
    await events.next()

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(Subscription, "take", fail)
    place.put(b"a")
    found = await events.next()
    assert found is not None
    assert found[0][":exception-type"] == "InternalFailureException"
    monkeypatch.undo()
    assert await events.next() is None
    assert isinstance(reported[0]["exception"], ValueError)
    assert place.readers() == 0
    assert not place.sandbox.server.pushes


async def test_a_client_that_goes_leaves_nothing(place: Place) -> None:
    events = await place.subscribe()
    await events.next()
    assert place.readers() == 1
    _, state = await place.sandbox.script("GET", "/sandbox/state")
    assert state["streams"]["orders"]["consumers"] == {"mine": [FIRST]}
    events.response.close()
    await until(lambda: place.readers() == 0)
    _, state = await place.sandbox.script("GET", "/sandbox/state")
    assert state["streams"]["orders"]["consumers"] == {"mine": []}
    assert not place.sandbox.server.pushes


async def test_a_sandbox_that_ends_ends_its_subscriptions_cleanly(place: Place) -> None:
    events = await place.subscribe()
    await events.next()
    await events.next()
    closing = asyncio.ensure_future(place.sandbox.server.aclose())
    assert await events.next() is None
    events.response.close()
    await closing
    assert not place.sandbox.server.pushes


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_fault_comes_instead_of_events(place: Place, is_written: bool) -> None:
    fault = Fault(kind=FaultKind.STATUS, operation="SubscribeToShard", is_written=is_written)
    place.service.add_faults(fault)
    events = await place.subscribe()
    assert events.response.status == 500
    place.clock.wait(TAKEOVER_NS)
    late = Fault(kind=FaultKind.LATENCY, operation="SubscribeToShard", latency_ms=20)
    place.service.add_faults(late)
    events = await place.subscribe()
    assert await events.next() is not None
    events.response.close()


# --- through an SDK


@pytest.fixture
async def sdk(place: Place) -> AsyncIterator[Any]:
    client = get_session().create_client(
        "kinesis",
        endpoint_url=place.sandbox.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    async with client as kinesis:
        yield kinesis


async def test_an_sdk_follows_a_shard_to_its_children(place: Place, sdk: Any) -> None:
    place.put(b"a")
    answer = await sdk.subscribe_to_shard(**place.asked())
    place.put(b"b")
    half = str(2**127)
    place.call("SplitShard", StreamName="orders", ShardToSplit=FIRST, NewStartingHashKey=half)
    data, children = [], []
    async for event in answer["EventStream"]:
        told = event["SubscribeToShardEvent"]
        data += [record["Data"] for record in told["Records"]]
        children = [child["ShardId"][-1] for child in told.get("ChildShards", [])]
    assert data == [b"a", b"b"]
    assert children == ["1", "2"]


async def test_an_sdk_is_told_that_another_one_reads(place: Place, sdk: Any) -> None:
    answer = await sdk.subscribe_to_shard(**place.asked())
    with pytest.raises(ClientError, match="ResourceInUseException"):
        await sdk.subscribe_to_shard(**place.asked())
    place.clock.wait(TAKEOVER_NS)
    other = await sdk.subscribe_to_shard(**place.asked())
    with pytest.raises(EventStreamError, match="ResourceInUseException"):
        async for _ in answer["EventStream"]:
            pass
    other["EventStream"].close()
