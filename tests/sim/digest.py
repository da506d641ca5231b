"""What a simulated world comes to, in one line a seed: `python -m tests.sim.digest SEED ...`.

Two builds of kdaemon that do the same say the same: everything that left an engine and when, and
everything that it counted, goes into the line. Faults of all kinds, deadlines, hot shards, a
reshard, records without a key, order and aggregates are in each world.
"""

import random
import sys
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import Quota
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Faults, World, make_frame

FAULTS = Faults(
    lost_answer=0.03,
    lost_request=0.03,
    server_error=0.03,
    call_throttled=0.03,
    wrong_count=0.02,
    record_failure=0.02,
)
FRAMES = 40
RECORDS = 40
EVERY_NS = 40 * MS
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"is_ordered": True},
    {"aggregate_bytes_max": 50_000},
    {"first_share": 1.0, "max_age_ns": 10 * SECOND},
)


def digest(seed: int) -> str:
    """Of a world whose settings follow from the seed."""
    told = sha256()
    settings = replace(SETTINGS, **VARIANTS[seed % len(VARIANTS)])
    quota = Quota(60, 20_000)
    world = World(seed, settings=settings, faults=FAULTS, quota=quota)

    def tell(*values: object) -> None:
        told.update(repr((world.now_ns, *values)).encode())

    def written(_: Engine, batch: Batch, taken: Taken) -> None:
        sent = [(record.partition_key, record.explicit_hash_key) for record in batch.records]
        tell("call", batch.byte_count, sent, taken.results)

    def answered(_: Engine, batch: Batch, results: list[RecordResult]) -> None:
        tell("answer", len(batch.records), results)

    world.on_written, world.on_answered = written, answered
    engine = world.add_engine()
    dice = random.Random(f"clients {seed}")
    keyed = 1.0 if settings.is_ordered else 0.9

    def put(number: int) -> None:
        records = [
            Record(
                b"%d.%d." % (number, index) + bytes(dice.randint(0, 400)),
                f"key-{int(dice.paretovariate(0.7))}" if dice.random() < keyed else "",
            )
            for index in range(RECORDS)
        ]
        deadline_ns = world.now_ns + dice.randint(1, 20) * SECOND
        frame = make_frame(records, deadline_ns=deadline_ns)
        tell("frame", number, world.submit(engine, frame))

    for number in range(FRAMES):
        world.at(world.now_ns + number * EVERY_NS, partial(put, number))
    world.at(world.now_ns + FRAMES * EVERY_NS // 2, lambda: split(world))
    world.run_until(world.now_ns + FRAMES * EVERY_NS)
    world.run_idle(seconds_max=600)
    for frame in world.settled:
        tell("settled", frame.results)
    tell(sorted(world.written.items()), engine.counters.snapshot())
    return told.hexdigest()


def split(world: World) -> None:
    shard = max(
        world.service.stream(STREAM).open_shards,
        key=lambda each: each.ending_hash_key - each.starting_hash_key,
    )
    middle = (shard.starting_hash_key + shard.ending_hash_key) // 2
    world.service.handle(
        "SplitShard",
        {
            "StreamName": STREAM,
            "ShardToSplit": shard.shard_id,
            "NewStartingHashKey": str(middle),
        },
        world.now_ns,
    )


if __name__ == "__main__":
    for number in map(int, sys.argv[1:]):
        print(number, digest(number))
