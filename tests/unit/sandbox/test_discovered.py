"""What the daemon's discovery makes of the sandbox's descriptions: both must mean the same."""

from typing import Any

from kdaemon.base.description import Capacity, StreamDescription, StreamTarget
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import Record
from kdaemon.base.service import AWS, YANDEX
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Flavour, SandboxSettings
from kdaemon.send.control import ControlCalls, ControlSettings
from kdaemon.send.discovery import Discovery
from kdaemon.system import SystemDice

NAME = "orders"
ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{NAME}"


async def discovered(service: Service) -> StreamDescription:
    async def call(operation: str, payload: dict[str, object], _: StreamTarget) -> dict[str, Any]:
        return service.handle(operation, payload, 0)

    which = YANDEX if service.is_yandex else AWS
    control = ControlCalls(call, ControlSettings(which, calls_per_second=1000.0), SystemDice(1))
    return await Discovery(control.ask, which).describe(StreamTarget(NAME))


async def test_a_switch_to_auto_and_back_is_discovered() -> None:
    service = Service()
    service.create_stream(NAME, 2)
    assert not (await discovered(service)).is_auto
    mode = {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    service.handle("UpdateStreamMode", mode, 0)
    for strategy, is_auto in (("AUTO", True), ("USER_PARTITION_KEY", False)):
        payload = {"StreamARN": ARN, "RecordDistributionStrategy": strategy}
        service.handle("UpdateStreamRecordDistributionStrategy", payload, 0)
        assert (await discovered(service)).is_auto is is_auto


async def test_a_changed_record_limit_is_discovered() -> None:
    service = Service()
    service.create_stream(NAME, 2)
    assert (await discovered(service)).record_bytes_max == MIB
    payload = {"StreamARN": ARN, "MaxRecordSizeInKiB": 3000}
    service.handle("UpdateMaxRecordSize", payload, 0)
    assert (await discovered(service)).record_bytes_max == 3000 * KIB


async def test_yandex_s_write_quota_is_discovered() -> None:
    service = Service(SandboxSettings(flavour=Flavour.YANDEX))
    payload = {"StreamName": NAME, "ShardCount": 1, "WriteQuotaKbPerSec": 128}
    service.handle("CreateStream", payload, 0)
    assert (await discovered(service)).shard_bytes_per_second == 128 * KIB


async def test_what_is_warm_of_a_stream_is_discovered() -> None:
    service = Service()
    service.create_stream(NAME, 2)
    assert (await discovered(service)).capacity == Capacity(is_on_demand=False)
    mode = {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    service.handle("UpdateStreamMode", mode, 0)
    assert (await discovered(service)).capacity == Capacity(is_on_demand=True)
    warm = {"StreamARN": ARN, "WarmThroughputMiBps": 5}
    service.handle("UpdateStreamWarmThroughput", warm, 0)
    found = await discovered(service)
    assert found.capacity == Capacity(True, 5 * MIB, 5 * MIB)
    assert found.shards is not None
    assert len(found.shards) == 8


async def test_closed_shards_of_both_services_are_left_out() -> None:
    for flavour in Flavour:
        service = Service(SandboxSettings(flavour=flavour))
        service.create_stream(NAME, 2, can_split=flavour is Flavour.YANDEX)
        parent = service.stream(NAME).shards[0].shard_id
        service.split_shard(NAME, parent, 0)
        found = (await discovered(service)).shards
        assert found is not None
        open_ids = [shard.shard_id for shard in service.stream(NAME).open_shards]
        assert sorted(shard.shard_id for shard in found) == sorted(open_ids)
        for shard in found:
            middle = (shard.first_hash_key + shard.last_hash_key) // 2
            for hash_key in (shard.first_hash_key, middle):
                result = service.put_record(NAME, Record(b"x", "k", str(hash_key)), 0)
                assert result.shard_id == shard.shard_id
