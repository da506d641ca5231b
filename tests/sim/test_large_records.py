"""Records above `batch_bytes_max`: each goes in a call of its own, once, at both services.

AWS takes records up to 10 MiB of a stream that was made to; at Yandex, where no record is larger
than a call, batches are made smaller than a record.
"""

import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from kdaemon.base import service as services
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.limits import MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.settings import SandboxSettings
from tests.kit.depth import some
from tests.kit.world import (
    MS,
    SECOND,
    SETTINGS,
    STREAM,
    Faults,
    World,
    counters_of,
    make_frame,
    total,
)

SEEDS = some(range(4))
KEYS = ("a", "b", "c", "")  # the last: without a key


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    settings: EngineSettings
    service: SandboxSettings
    large_bytes: int

    def world(self, seed: int, faults: Faults | None = None) -> World:
        world = World(
            seed,
            settings=self.settings,
            service_settings=self.service,
            faults=faults or Faults(),
        )
        if not world.service.is_yandex:
            world.service.stream(STREAM).record_bytes_max = 10 * MIB  # MaxRecordSizeInKiB 10240
        world.add_engine()
        return world


ROOMY = replace(SETTINGS, buffer_bytes_max=1 << 29)  # no shard's queue is ever full
AWS = Place("aws", replace(ROOMY, record_bytes_max=10 * MIB), SandboxSettings(), 6 * MIB)
YANDEX = Place(
    "yandex",
    replace(ROOMY, batch_bytes_max=MIB // 2, is_shard_atomic=True),
    SandboxSettings(service=services.YANDEX),
    900_000,
)
PLACES = [
    AWS,
    replace(AWS, name="aws-ordered", settings=replace(AWS.settings, is_ordered=True)),
    replace(AWS, name="aws-kpl", settings=replace(AWS.settings, aggregate_bytes_max=51_200)),
    replace(
        AWS,
        name="aws-ordered-kpl",
        settings=replace(AWS.settings, is_ordered=True, aggregate_bytes_max=51_200),
    ),
    YANDEX,
    replace(YANDEX, name="yandex-ordered", settings=replace(YANDEX.settings, is_ordered=True)),
    replace(
        YANDEX,
        name="yandex-holding",
        service=SandboxSettings(service=services.YANDEX, quota_wait_ms=2_000),
    ),
]
everywhere = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)


class Watch:
    """What was put, and how the service took it."""

    def __init__(self, place: Place, world: World) -> None:
        self.place = place
        self.world = world
        self.put: Counter[bytes] = Counter()  # by the first bytes of the data
        self.written: Counter[bytes] = Counter()
        self.of_key: dict[str, list[int]] = {}  # numbers as they were written first
        world.keeps_records = False
        world.on_answered = self._answered
        self._number = 0

    def feed(self, frames: int, *, every_ns: int) -> None:
        dice = random.Random(self.world.seed)
        for _ in range(frames):
            sizes = [dice.choice([20, 300, 5000]) for _ in range(dice.randint(1, 30))]
            sizes.insert(dice.randint(0, len(sizes)), self.place.large_bytes)
            records = []
            for size in sizes:
                self._number += 1
                head = b"%08d" % self._number
                self.put[head] += 1
                records.append(Record(head.ljust(size, b"."), dice.choice(KEYS)))
            assert self.world.submit(self.world.engines[0], make_frame(records))
            self.world.run_until(self.world.now_ns + every_ns)

    def _answered(self, _: Engine, batch: Batch, results: list[RecordResult]) -> None:
        limit = self.place.settings.batch_bytes_max
        assert batch.byte_count <= limit or batch.record_count == 1
        widths = iter(batch.widths or [1] * len(results))
        flat = [result for result in results for _ in range(next(widths))]
        runs = [(run, index) for run in batch.runs for index in run.indices]
        for (run, index), result in zip(runs, flat, strict=True):
            if not result.is_delivered:
                continue
            record = run.frame.records[index]
            head = bytes(record.data[:8])
            self.written[head] += 1
            if self.written[head] == 1 and not run.is_keyless:
                self.of_key.setdefault(record.partition_key, []).append(int(head))

    def assert_in_order(self) -> None:
        if self.place.settings.is_ordered:
            for numbers in self.of_key.values():
                assert all(before < after for before, after in pairwise(numbers))


@everywhere
@pytest.mark.parametrize("seed", SEEDS)
def test_where_nothing_fails_each_is_delivered_once(place: Place, seed: int) -> None:
    world = place.world(seed)
    watch = Watch(place, world)
    world.run_until(2 * SECOND)
    watch.feed(8, every_ns=200 * MS)
    world.run_idle(seconds_max=300)
    assert watch.written == watch.put, f"seed {seed}"
    watch.assert_in_order()
    counters = counters_of(world)
    assert counters.delivered == watch.put.total()
    assert counters.possible_duplicates == 0
    assert total(world, "dead") == 0


@everywhere
@pytest.mark.parametrize("seed", SEEDS)
def test_where_calls_fail_each_is_delivered_and_none_is_turned_round(
    place: Place, seed: int
) -> None:
    faults = Faults(lost_request=0.1, lost_answer=0.1, server_error=0.1, call_throttled=0.1)
    world = place.world(seed, faults)
    watch = Watch(place, world)
    watch.feed(5, every_ns=300 * MS)
    world.run_idle(seconds_max=600)
    assert set(watch.written) == set(watch.put), f"seed {seed}"
    watch.assert_in_order()
    assert counters_of(world).delivered == watch.put.total()
    assert world.memory.bytes_taken == 0
