"""A backlog of hot shards, whatever else happens: shards split and merge, the daemon is killed and
starts again, memory is short, clients go on. Nothing is lost, nothing is sent twice but what a kill
cut off, what is counted adds up, and each key keeps its order.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdaemon.base.counters import DropReason
from kdaemon.base.frame import Frame
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import Quota
from kdaemon.spool.pending import STORED
from tests.kit.depth import some
from tests.kit.disk_world import MIB, DiskWorld, Life
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Faults

SEEDS = some(range(4))
SHARDS = 6
KEYS = 200
HOT_KEYS = (1, 2, 8)  # that most records are of, by seed
PLAIN = replace(SETTINGS, buffer_bytes_max=4 * MIB, linger_ns=5 * MS)
ORDERED = replace(PLAIN, is_ordered=True)


@dataclass
class Load:
    """Clients that store numbered records; what they were told, and what the service took."""

    world: DiskWorld
    dice: random.Random
    has_explicit: bool
    hot_keys: int
    sent: Counter[str] = field(default_factory=Counter)
    promised: set[bytes] = field(default_factory=set)
    written: list[tuple[str, bytes]] = field(default_factory=list)
    answered: set[bytes] = field(default_factory=set)
    again: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.on_written = self._written
        self.world.on_answered = self._answered

    def record(self) -> Record:
        key = f"k{self.dice.randrange(self.hot_keys if self.dice.random() < 0.8 else KEYS)}"
        number = self.sent[key]
        self.sent[key] += 1
        explicit = None
        if self.has_explicit and self.dice.random() < 0.3:
            explicit = str(self.dice.randrange(2**128))
        padding = self.dice.choice((10, 200, 2_000))
        return Record(b"%s#%06d#" % (key.encode(), number) + bytes(padding), key, explicit)

    def put(self, life: Life) -> None:
        records = [self.record() for _ in range(self.dice.choice((1, 3, 40, 120)))]
        if not life.put(records, partial(self._told, records)):
            for record in reversed(records):  # refused: as if it had never been
                self.sent[record.partition_key] -= 1

    def _told(self, records: list[Record], frame: Frame) -> None:
        assert frame.results == [STORED] * len(records)
        self.promised.update(ident(record) for record in records)

    def _written(self, _engine: Engine, batch: Batch, taken: Taken) -> None:
        for record, result in zip(batch.records, taken.results, strict=True):
            if result.is_delivered:
                if ident(record) in self.answered:
                    self.again.append(ident(record))
                self.written.append((record.partition_key, ident(record)))

    def _answered(self, _engine: Engine, batch: Batch, results: list[RecordResult]) -> None:
        for record, result in zip(batch.records, results, strict=True):
            if result.is_delivered:
                self.answered.add(ident(record))


def ident(record: Record) -> bytes:
    return record.data[: record.data.index(b"#", record.data.index(b"#") + 1)]


def control(world: DiskWorld, operation: str, **payload: object) -> None:
    world.service.handle(operation, {"StreamName": STREAM, **payload}, world.now_ns)


def reshard(world: DiskWorld, dice: random.Random) -> None:
    shards = world.service.stream(STREAM).open_shards
    if dice.random() < 0.5 and len(shards) > 2:
        left, right = shards[(at := dice.randrange(len(shards) - 1)) : at + 2]
        control(
            world, "MergeShards", ShardToMerge=left.shard_id, AdjacentShardToMerge=right.shard_id
        )
    else:
        shard = dice.choice(shards)
        start, end = shard.starting_hash_key, shard.ending_hash_key
        at_key = str(start + (end - start) // 3)
        control(world, "SplitShard", ShardToSplit=shard.shard_id, NewStartingHashKey=at_key)


def assert_in_order(load: Load, where: str) -> None:
    """Of each key, the first occurrences stand in the order sent."""
    last: dict[str, int] = {}
    seen: set[bytes] = set()
    for key, one in load.written:
        if one not in seen:
            seen.add(one)
            number = int(one.partition(b"#")[2])
            assert number > last.get(key, -1), f"{where}: {one!r} after {last[key]}"
            last[key] = number


def is_behind(life: Life) -> bool:
    return any(not lane.left.is_empty for lane in life.spool.streams)


@pytest.mark.parametrize("kind", ["plain", "ordered", "dropping"])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_turned_round(tmp_path: Path, seed: int, kind: str) -> None:
    is_ordered, is_dropping = kind != "plain", kind == "dropping"
    where = f"seed {seed}"
    limits: dict[str, Any] = {}
    if is_dropping:
        limits = {"when_full": "drop_oldest", "spool_bytes_max": 6 * MIB}
    dice = random.Random(seed)
    world = DiskWorld(
        seed,
        shard_count=SHARDS,
        settings=ORDERED if is_ordered else PLAIN,
        quota=Quota(1_000, MIB),
        round_trip_ns=(2 * MS, 8 * MS),  # one key goes a record a round trip
    )
    load = Load(world, dice, has_explicit=seed % 2 == 1, hot_keys=HOT_KEYS[seed % 3])
    behind_count = kill_count = 0
    may_kill = seed % 4 < 2 and not is_dropping
    life = world.live(tmp_path / "spool", **limits)
    for _ in range(50):
        for _ in range(dice.randrange(30)):
            load.put(life)
            world.run_until(world.now_ns + dice.choice((0, 0, 5, 30)) * MS)
        world.run_until(world.now_ns + dice.choice((20, 100, 400)) * MS)
        behind_count += is_behind(life)
        assert life.counters.unaccounted() == 0, where
        roll = dice.random()
        if roll < 0.1:
            reshard(world, dice)
        elif roll < 0.2:
            world.faults = Faults(lost_request=0.5) if dice.random() < 0.3 else Faults()
        elif roll < 0.25 and may_kill:
            kill_count += 1
            life.kill()
            world.run_until(world.now_ns + 100 * MS)
            life = world.live(tmp_path / "spool", **limits)
    world.faults = Faults()
    until_ns = world.now_ns + 600 * SECOND
    while life.frame_count and world.now_ns < until_ns:
        world.run_until(world.now_ns + SECOND)
        assert life.counters.unaccounted() == 0, where
    assert not life.frame_count, where
    taken = {one for _, one in load.written}
    dropped = life.counters.dropped[DropReason.SPOOL_FULL]
    assert len(load.promised - taken) == dropped, f"{where}: lost"
    assert (dropped > 0) is is_dropping, where
    assert behind_count or load.hot_keys > 1, f"{where}: nothing was left behind"
    if is_ordered:
        assert_in_order(load, where)
    counters = life.counters
    assert counters.spooled == counters.buffered == counters.in_flight == 0, where
    assert life.memory.bytes_taken == 0, where
    assert not list(life.spool.streams), where
    assert kill_count or not load.again, f"{where}: sent twice"
