"""A backlog on disk of which most is for one shard, after an outage: the other shards get theirs at
their own pace, in memory that is a small part of the backlog.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.engine.snapshot import BACKLOGGED_NS
from kdaemon.pack.batch import Batch
from kdaemon.route.shard_map import ShardMap
from kdaemon.sandbox.service import Taken
from tests.kit.disk_world import MIB, DiskWorld
from tests.kit.queues import lanes_of
from tests.kit.world import MS, SECOND, SETTINGS, Faults

PER_SECOND = 1_000  # records, of a shard
DATA_BYTES = 300
KEYS = 20  # of a shard
HOT = 0  # the shard


def keys_of_shards(world: DiskWorld, shard_count: int) -> list[list[str]]:
    """Keys for each shard, in the order of the map."""
    shards = world.description().shards
    assert shards is not None
    shard_map = ShardMap(shards)
    keys: list[list[str]] = [[] for _ in range(shard_count)]
    number = 0
    while min(map(len, keys)) < KEYS:
        keys[shard_map.index_of_key(f"k{number}")].append(f"k{number}")
        number += 1
    return keys


@pytest.mark.parametrize(
    ("shard_count", "times", "record_count", "frame_records", "buffer_mib"),
    [
        (8, 7, 60_000, 500, 16),  # half of all is for one of eight
        (64, 10, 100_000, 500, 64),
        (8, 7, 10_000, 1, 8),
        (2, 9, 20_000, 500, 8),
    ],
)
def test_the_others_drain_at_their_pace(
    tmp_path: Path,
    shard_count: int,
    times: int,
    record_count: int,
    frame_records: int,
    buffer_mib: int,
) -> None:
    """`times`: so much more comes for one shard than for each of the others."""
    settings = replace(SETTINGS, buffer_bytes_max=buffer_mib * MIB)
    world = DiskWorld(1, shard_count=shard_count, settings=settings)
    keys = keys_of_shards(world, shard_count)
    dice = random.Random(1)
    weights = [times if shard == HOT else 1 for shard in range(shard_count)]
    life = world.live(tmp_path / "spool")
    world.run_until(2 * SECOND)
    world.faults = Faults(lost_request=1.0)
    offered = [0] * shard_count
    for _ in range(record_count // frame_records):
        chosen = dice.choices(range(shard_count), weights, k=frame_records)
        for shard in chosen:
            offered[shard] += 1
        records = [Record(bytes(DATA_BYTES), dice.choice(keys[shard])) for shard in chosen]
        assert life.put(records)
        world.run_until(world.now_ns + (10 * MS if frame_records > 1 else MS // 2))
    world.run_until(world.now_ns + SECOND)
    assert life.engine.ledger.footprint_bytes < settings.buffer_bytes_max // 4, "it is safe on disk"

    shards = {shard.shard_id: n for n, shard in enumerate(lanes_of(life.engine)) if shard.shard_id}
    taken = [0] * shard_count
    took_ns = [0] * shard_count  # when the last of its records came

    def written(_engine: Engine, _batch: Batch, answer: Taken) -> None:
        for result in answer.results:
            if result.shard_id is not None:
                shard = shards[result.shard_id]
                taken[shard] += 1
                took_ns[shard] = world.now_ns

    world.on_written = written
    world.faults = Faults()
    while not sum(taken):
        world.run_until(world.now_ns + MS)
    begin_ns = world.now_ns  # of the service's being well
    backlogs_ns: list[int] = []  # of the hot shard, as pages show it, while some of it is left
    while life.frame_count:
        world.run_until(world.now_ns + SECOND)
        assert world.now_ns < begin_ns + 600 * SECOND
        if any(not lane.left.is_empty for lane in life.spool.streams):
            look = at_once(life.engine.snapshot(world.now_ns)).shards
            backlogs_ns.append(look.shards[HOT].backlog_ns)
    assert backlogs_ns
    assert min(backlogs_ns) > BACKLOGGED_NS, "the log names it"
    assert taken == offered
    assert life.counters.unaccounted() == 0
    for shard, count in enumerate(offered):
        needs_s = count / PER_SECOND
        took_s = (took_ns[shard] - begin_ns) / SECOND
        assert took_s <= needs_s * 1.1 + 1.0, f"shard {shard}: {took_s} s for {needs_s} s"
