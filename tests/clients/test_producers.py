"""Producers that others wrote, on their defaults but for the endpoint: each describes its stream
first. One that is not installed is skipped.
"""

import asyncio
import json

import pytest

from tests.kit.aggregates import python_reads
from tests.kit.daemon import Daemon
from tests.kit.endpoints import Endpoint, data_of
from tests.kit.patience import PATIENCE_S

RECORDS = 100


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize("lists_shards", [False, True])
async def test_async_kinesis_starts_and_writes(
    daemon: Daemon, endpoint: Endpoint, stream: str, lists_shards: bool
) -> None:
    kinesis = pytest.importorskip("kinesis", reason="async-kinesis is not installed")
    async with asyncio.timeout(PATIENCE_S):
        async with kinesis.Producer(
            stream_name=stream,
            endpoint_url=daemon.url,
            region_name="us-east-1",
            use_list_shards=lists_shards,
        ) as producer:
            for number in range(RECORDS):
                await producer.put({"number": number})
            await producer.flush()
    lines = [
        json.loads(line)["number"]
        for record in endpoint.read_stream(stream)
        for line in data_of(record).splitlines()
    ]
    assert sorted(lines) == list(range(RECORDS))


async def test_async_kinesis_hears_of_a_stream_that_is_missing(daemon: Daemon) -> None:
    kinesis = pytest.importorskip("kinesis", reason="async-kinesis is not installed")
    missing = pytest.importorskip("kinesis.exceptions").StreamDoesNotExist
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(missing):
            async with kinesis.Producer(
                stream_name="no-such-stream", endpoint_url=daemon.url, region_name="us-east-1"
            ):
                pass


async def test_aiokpl_learns_the_shards_and_aggregates(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    aiokpl = pytest.importorskip("aiokpl", reason="aiokpl is not installed")
    config = aiokpl.Config(region="us-east-1", endpoint_url=daemon.url)
    async with asyncio.timeout(PATIENCE_S), aiokpl.Producer(config) as producer:
        outcomes = [
            await producer.put_record(
                stream=stream, partition_key=f"key-{number}", data=b"%d" % number
            )
            for number in range(RECORDS)
        ]
        results = [await outcome.wait() for outcome in outcomes]
    assert all(result.success for result in results)
    stored = endpoint.read_stream(stream)
    assert len(stored) < RECORDS, "it packs them, because it knows the shards"
    found = [data for each in stored for _, _, data in python_reads(data_of(each))]
    assert sorted(map(int, found)) == list(range(RECORDS))
