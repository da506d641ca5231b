"""Client and discovery against the sandbox: another implementation of the same wire."""

from collections.abc import AsyncIterator

import pytest

from kdaemon.base.description import StreamTarget
from kdaemon.base.record import Record
from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from kdaemon.send.client import ClientSettings
from kdaemon.send.control import ControlCalls, ControlSettings
from kdaemon.send.discovery import Discovery
from kdaemon.system import SystemClock, SystemDice
from tests.unit.send.scripted import failure, opened


@pytest.fixture
async def sandbox() -> AsyncIterator[SandboxServer]:
    server = SandboxServer(Service(SandboxSettings(), SystemDice(7)), SystemClock())
    await server.start(port=0)
    yield server
    await server.aclose()


async def test_the_sandbox_is_described_and_takes_records(sandbox: SandboxServer) -> None:
    target = StreamTarget("orders")
    sandbox.service.create_stream("orders", 4)
    settings = ClientSettings(endpoint_url=f"http://127.0.0.1:{sandbox.port}", is_anonymous=True)
    async with opened(settings) as client:
        control = ControlCalls(client.call, ControlSettings(), SystemDice(7))
        asking = Discovery(control.ask)
        description = await asking.describe(target)
        assert description.shards is not None
        assert [shard.shard_id[-1] for shard in description.shards] == list("0123")
        assert description.shards[0].first_hash_key == 0
        assert description.shards[-1].last_hash_key == 2**128 - 1
        assert description.record_bytes_max == 2**20
        assert description.stream_arn is not None

        middle = description.shards[2].first_hash_key + 1
        by_arn = StreamTarget("orders", description.stream_arn)
        for stream in (target, by_arn):
            answer = await client.put_records(stream, [Record(b"x", "k", str(middle))] * 3)
            results = answer.records
            assert [result.shard_id for result in results] == ["shardId-000000000002"] * 3
            assert all(result.is_delivered for result in results)

        missing = StreamTarget("returns")
        assert (await failure(asking.describe(missing))).code == "ResourceNotFoundException"
        error = await failure(client.put_records(missing, [Record(b"x", "k")]))
        assert (error.code, error.status) == ("ResourceNotFoundException", 400)
