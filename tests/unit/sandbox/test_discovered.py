"""What the daemon's discovery makes of the sandbox's descriptions: both must mean the same."""

from typing import Any

import pytest

from kdaemon.base.description import Capacity, StreamDescription, StreamTarget
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import Record
from kdaemon.base.service import AWS, SERVICES, YANDEX
from kdaemon.route.shard_map import ShardMap
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from kdaemon.send.control import ControlCalls, ControlSettings
from kdaemon.send.discovery import Discovery
from kdaemon.system import SystemDice

NAME = "orders"
ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{NAME}"


async def discovered(service: Service, fault: Fault | None = None) -> StreamDescription:
    async def call(operation: str, payload: dict[str, object], _: StreamTarget) -> dict[str, Any]:
        return service.handle(operation, payload, 0, fault)

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
    service = Service(SandboxSettings(service=YANDEX))
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
    for which in SERVICES.values():
        service = Service(SandboxSettings(service=which))
        service.create_stream(NAME, 2, can_split=which is YANDEX)
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


@pytest.mark.parametrize("kib", [128, 512, 1024])
async def test_what_a_shard_of_yandex_takes_is_discovered(kib: int) -> None:
    service = Service(SandboxSettings(service=YANDEX))
    payload = {"StreamName": NAME, "ShardCount": 1, "WriteQuotaKbPerSec": kib}
    service.handle("CreateStream", payload, 0)
    assert (await discovered(service)).shard_bytes_per_second == kib * KIB


async def test_all_pages_of_a_stream_of_yandex_are_read() -> None:
    service = Service(SandboxSettings(service=YANDEX))
    service.create_stream(NAME, 250)
    found = (await discovered(service)).shards
    assert found is not None
    assert [shard.shard_id for shard in found] == [f"shard-{index:06d}" for index in range(250)]
    assert service.call_counts == {"DescribeStream": 3}


@pytest.mark.parametrize("shard_count", [1, 2, 3, 7])
@pytest.mark.parametrize("change", ["as made", "more shards", "splits"])
async def test_where_a_key_goes_at_yandex_is_foretold(change: str, shard_count: int) -> None:
    service = Service(SandboxSettings(service=YANDEX))
    service.create_stream(NAME, shard_count, can_split=change == "splits")
    if change == "more shards":
        payload = {"StreamName": NAME, "TargetShardCount": shard_count + 2}
        service.handle("UpdateShardCount", payload, 0)
    elif change == "splits":
        service.split_shard(NAME, "shard-000000", 0)
        service.split_shard(NAME, f"shard-{shard_count:06d}", 0)
    shards = (await discovered(service)).shards
    assert shards is not None
    foretold = ShardMap(shards)
    records = [Record(b"x", f"key-{index}") for index in range(200)]
    records += [Record(b"x", "k", hash_key) for hash_key in foretold.hash_keys]
    results = service.put_records(NAME, records, 0)
    for record, result in zip(records, results, strict=True):
        assert foretold.shards[foretold.index_of(record)].shard_id == result.shard_id


async def test_a_stream_of_yandex_that_may_not_be_described_is_unknown_and_not_missing() -> None:
    service = Service(SandboxSettings(service=YANDEX))
    service.create_stream(NAME, 2)
    fault = Fault(kind=FaultKind.ACCESS_DENIED, operation="DescribeStream")
    description = await discovered(service, fault)
    assert description.shards is None
    assert description.shard_bytes_per_second is None
