"""A Kinesis for other projects' tests: a service to write to and read from, in the test's process.

    from kdaemon.testing import sandbox

    with sandbox(streams=("orders",)) as kinesis:
        client = boto3.client("kinesis", endpoint_url=kinesis.url, ...)
        client.put_record(StreamName="orders", Data=b"one", PartitionKey="k")
        assert [each.data for each in kinesis.records("orders")] == [b"one"]

The sandbox listens on a loopback port that the system chooses. It has the quotas, limits and errors
of the service, and fails on request. In pytest it is the fixture `kinesis_sandbox`
(pytest_plugin.py). Its event loop runs in a thread of its own, so a test may block, or have a loop
itself.
Invariant: when the `with` block ends, the port is free, and the thread and its records are gone.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from kdaemon.base.endpoint import http_url
from kdaemon.base.limits import SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND
from kdaemon.config import SandboxConfig
from kdaemon.config.values import ServiceName
from kdaemon.sandbox.faults import Fault
from kdaemon.sandbox.run import open_sandbox
from kdaemon.sandbox.scripting import explained
from kdaemon.sandbox.server import SandboxServer
from kdaemon.system import SystemClock

HOST = "127.0.0.1"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record as a reader of its shard gets it."""

    data: bytes
    partition_key: str
    shard_id: str
    sequence_number: str


class Sandbox:
    """A running sandbox. Each method may be called from any thread. A `ServiceError` is an error of
    the service.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, server: SandboxServer) -> None:
        self._loop = loop
        self._server = server
        self._clock = SystemClock()
        self._url = http_url(HOST, server.port)

    @property
    def url(self) -> str:
        """The endpoint to give to an SDK. Any keys will do, and any region; for Yandex only its
        own region.
        """
        return self._url

    def create_stream(self, name: str, shard_count: int = 1) -> None:
        """Makes a stream that takes records at once."""
        service = self._server.service
        self._do(lambda: service.create_stream(name, shard_count, self._clock.now_ns()))

    def call(self, operation: str, **members: Any) -> dict[str, Any]:
        """Calls an operation of the service other than PutRecord(s), such as SplitShard. Returns
        its answer.
        """
        service = self._server.service
        return self._do(lambda: service.handle(operation, members, self._clock.now_ns()))

    def records(self, stream: str) -> list[StoredRecord]:
        """All records of the stream, shard after shard, those of a shard in their order. Each has
        `data`, `partition_key`, `shard_id` and `sequence_number`.
        """
        found = []
        for shard in self._shards(stream):
            asked = {"StreamName": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
            token = self.call("GetShardIterator", **asked)["ShardIterator"]
            while token:
                answer = self.call("GetRecords", ShardIterator=token)
                found += [
                    StoredRecord(
                        record["Data"], record["PartitionKey"], shard, record["SequenceNumber"]
                    )
                    for record in answer["Records"]
                ]
                token = answer.get("NextShardIterator") if answer["Records"] else None
        return found

    def fail(self, **fault: Any) -> None:
        """Makes calls fail, as `POST /sandbox/faults` does: `fail(kind="throttle", calls=2)`.
        Raises msgspec.ValidationError if there is no such fault, ValueError if there is no such
        operation.
        """
        try:
            read = msgspec.convert(fault, Fault)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(explained(error, Fault)) from None
        self._do(lambda: self._server.service.add_faults(read))

    def accept_tokens(self, *tokens: str) -> None:
        """For Yandex: accepts only these IAM tokens from now on, as if all others had expired.
        Signatures are still accepted. Raises ValueError for AWS.
        """
        self._do(lambda: self._server.service.accept_tokens(list(tokens)))

    def clear_faults(self) -> None:
        """Ends all faults."""
        self._do(self._server.service.clear_faults)

    def _shards(self, stream: str) -> list[str]:
        """The ids of the stream's shards, by DescribeStream, the one call that both services
        have.
        """
        shards: list[str] = []
        has_more = True
        while has_more:
            after = {"ExclusiveStartShardId": shards[-1]} if shards else {}
            answer = self.call("DescribeStream", StreamName=stream, **after)["StreamDescription"]
            shards += [str(shard["ShardId"]) for shard in answer["Shards"]]
            has_more = answer["HasMoreShards"]
        return shards

    def _do(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


@contextmanager
def sandbox(
    streams: tuple[str, ...] = ("demo",),
    shard_count: int = 1,
    *,
    service: ServiceName = "aws",
    shard_records_per_second: int = SHARD_RECORDS_PER_SECOND,
    shard_bytes_per_second: int = SHARD_BYTES_PER_SECOND,
) -> Iterator[Sandbox]:
    """A sandbox with these streams. `service`: "aws" or "yandex". The quotas are for each shard:
    records a second, and bytes a second of data and partition keys.
    """
    config = SandboxConfig(
        listen=f"{HOST}:0",
        streams=streams,
        shard_count=shard_count,
        shard_records_per_second=shard_records_per_second,
        shard_bytes_per_second=shard_bytes_per_second,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="kdaemon sandbox", daemon=True)
    thread.start()

    def wait(work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    try:
        server = wait(open_sandbox(config, service=service))
        try:
            yield Sandbox(loop, server)
        finally:
            wait(server.aclose())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
