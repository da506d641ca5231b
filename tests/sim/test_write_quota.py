"""A Yandex stream whose shards take less than 1 MiB/s says so: its calls are not held for that."""

import random
from dataclasses import replace

import pytest

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import Quota, SandboxSettings
from tests.kit.world import MS, SECOND, SETTINGS, Client, World

QUOTA = Quota(1000, 128 * KIB)
RECORD_BYTES = 2_000


@pytest.mark.parametrize(("daemons", "held_ms_max"), [(1, 5), (4, 200)])
def test_a_small_shard_is_used_and_holds_little(daemons: int, held_ms_max: int) -> None:
    """Without knowing, four daemons are held for 0.65 s each time, and one for 0.09."""
    taken_records = stalled_ns = 0

    def written(_engine: Engine, _batch: Batch, taken: Taken) -> None:
        nonlocal taken_records, stalled_ns
        count = sum(result.is_delivered for result in taken.results)
        taken_records += count
        stalled_ns += count * (taken.stalled_until_ns - world.now_ns)

    service = SandboxSettings(service=YANDEX, quota_wait_ms=5_000, retained_bytes_max=4 * MIB)
    world = World(
        1,
        shard_count=1,
        quota=QUOTA,
        service_settings=service,
        keeps_records=False,
        on_written=written,
    )
    for number in range(daemons):
        dice = random.Random(number)
        engine = world.add_engine(
            settings=replace(SETTINGS, is_shard_atomic=True, buffer_bytes_max=2 * MIB),
            memory=ByteBudget(4 * MIB),
            dice=dice,
        )
        rate = 2 * QUOTA.bytes_per_second / RECORD_BYTES / daemons
        Client(world, engine, _make, per_second=rate, gap_ns=50 * MS, dice=dice)
    world.run_until(world.now_ns + 20 * SECOND)
    assert taken_records * RECORD_BYTES >= 0.9 * 20 * QUOTA.bytes_per_second
    assert stalled_ns / MS / taken_records <= held_ms_max


def _make(count: int) -> tuple[list[Record], list[int]]:
    return [Record(bytes(RECORD_BYTES - 1), "k")] * count, [RECORD_BYTES] * count
