"""Order per key, whatever happens: the first occurrences of a key's records stand in the service's
logs in the order in which they were accepted, and nothing stands there twice that the service had
said it took.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest

from kdaemon.base import limits as base
from kdaemon.base import service as services
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.sandbox.shards import hash_key_of
from tests.kit.aggregates import python_reads
from tests.kit.depth import some
from tests.kit.queues import lanes_of
from tests.kit.world import (
    MS,
    SECOND,
    SETTINGS,
    STREAM,
    Faults,
    World,
    counters_of,
    make_frame,
)

SEEDS = some(range(8))
HOT_KEY = "hot"
HOT_PART = 0.2  # of all records
KEY_COUNTS = (1, 3, 30, 300, 3_000, 10_000, 10, 100)  # by seed
RECORD_BYTES_MAX = 60_000  # what an AWS stream takes here; what is larger is poison: refused whole
AGGREGATE_BYTES = 51_200
PLAIN = replace(SETTINGS, is_ordered=True, linger_ns=5 * MS)  # so that many calls are out at once
AGGREGATED = replace(PLAIN, aggregate_bytes_max=AGGREGATE_BYTES)
ATOMIC = replace(PLAIN, is_shard_atomic=True)


@dataclass(frozen=True)
class Way:
    """How the service treats a call, and what the engine is told of it."""

    name: str
    settings: EngineSettings
    service: SandboxSettings

    @property
    def is_yandex(self) -> bool:
        return self.service.service is services.YANDEX

    @property
    def poison_bytes(self) -> int:
        """So large a record is refused, and its whole call with it."""
        return 1 + (base.RECORD_BYTES_MAX if self.is_yandex else RECORD_BYTES_MAX)

    @property
    def rough(self) -> Faults:
        """At Yandex a record that fails takes all those of its shard in the call with it."""
        return replace(ROUGH, record_failure=0.002) if self.is_yandex else ROUGH

    def world(self, seed: int, **members: object) -> World:
        return World(
            seed,
            settings=self.settings,
            service_settings=self.service,
            **members,  # type: ignore[arg-type]
        )


AWS = Way("aws", PLAIN, SandboxSettings())
AWS_AGGREGATED = Way("aws-aggregated", AGGREGATED, SandboxSettings())
YANDEX = Way("yandex", ATOMIC, SandboxSettings(service=services.YANDEX))
YANDEX_HOLDING = Way(
    "yandex-holding", ATOMIC, SandboxSettings(service=services.YANDEX, quota_wait_ms=2_000)
)
WAYS = (AWS, AWS_AGGREGATED, YANDEX, YANDEX_HOLDING)

ROUGH = Faults(
    lost_answer=0.04,
    lost_request=0.04,
    server_error=0.04,
    call_throttled=0.04,
    wrong_count=0.04,
    record_failure=0.02,
)


class Watch:
    """Numbers the records of each key as they are accepted, and judges the service's logs."""

    def __init__(self, way: Way, world: World) -> None:
        self.way = way
        self.world = world
        self.accepted: Counter[str] = Counter()  # by key: how many
        self.withdrawn: set[bytes] = set()
        self.poison: set[bytes] = set()
        self.told: set[bytes] = set()  # the service said that it took them
        self.again: list[bytes] = []  # taken again after that
        self.is_aggregated = world.settings.aggregate_bytes_max > 0
        world.on_written = self._written
        world.on_answered = self._answered

    def record(self, key: str, padding: int = 0, *, is_poison: bool = False) -> Record:
        """The next one of a key."""
        number = self.accepted[key]
        self.accepted[key] += 1
        data = b"%s#%d#" % (key.encode(), number)
        if is_poison:
            self.poison.add(data)
            padding = self.way.poison_bytes
        return Record(data + bytes(padding), key)

    def settled(self, frame_records: list[Record], results: list[RecordResult | None]) -> None:
        for record, result in zip(frame_records, results, strict=True):
            if result is None or not result.is_delivered:
                self.withdrawn.add(ident(record.data))

    def _inner(self, batch: Batch) -> list[list[bytes]]:
        """For each record that was sent, those of clients that it carries."""
        if batch.widths is None:
            return [[ident(record.data)] for record in batch.records]
        of_runs = (run.frame.records[index] for run in batch.runs for index in run.indices)
        return [[ident(next(of_runs).data) for _ in range(width)] for width in batch.widths]

    def _written(self, _engine: Engine, batch: Batch, taken: Taken) -> None:
        for carried, result in zip(self._inner(batch), taken.results, strict=True):
            if result.is_delivered:
                self.again += self.told.intersection(carried)

    def _answered(self, _engine: Engine, batch: Batch, results: list[RecordResult]) -> None:
        if len(results) == len(batch.records):
            for carried, result in zip(self._inner(batch), results, strict=True):
                if result.is_delivered:
                    self.told.update(carried)

    def log(self, *, is_strict: bool) -> list[bytes]:
        """All that the service holds, in the order in which it wrote it. `is_strict`: as readers of
        aggregates see it that drop one with a key outside its shard's range.
        """
        stored = sorted(
            (
                (one, shard)
                for shard in self.world.service.stream(STREAM).shards
                for one in shard.log
            ),
            key=lambda each: (each[0].arrival_ns, each[0].sequence),
        )
        if not self.is_aggregated:
            return [ident(one.record.data) for one, _ in stored]
        seen: list[bytes] = []
        for one, shard in stored:
            carried = python_reads(one.record.data)
            is_plain = len(carried) == 1 and carried[0][2] == one.record.data
            if is_strict and not is_plain:
                low, high = shard.starting_hash_key, shard.ending_hash_key
                if not all(low <= hash_key_of(key.encode()) <= high for key, _, _ in carried):
                    continue
            seen += [ident(data) for _, _, data in carried]
        return seen

    def assert_in_order(self, *, may_stray: bool = False) -> None:
        """First occurrences of each key in the order accepted, and all of them but those whose
        clients heard that they failed. `may_stray`: aggregates may have landed where their readers
        drop them, and were taken again.
        """
        for is_strict in (False, True) if may_stray and self.is_aggregated else (False,):
            self._assert_in_order(self.log(is_strict=is_strict))
        if not may_stray:
            where = f"seed {self.world.seed}"
            assert self.again == [], f"{where}: taken again though the service had told of them"
        assert not any(lane.backlog_records for lane in lanes_of(self.world.engines[0]))

    def _assert_in_order(self, log: list[bytes]) -> None:
        where = f"seed {self.world.seed}"
        last: dict[bytes, int] = {}
        seen: set[bytes] = set()
        extra = 0
        for one in log:
            if one in seen:
                extra += 1
                continue
            seen.add(one)
            key, number, _ = one.split(b"#")
            assert int(number) > last.get(key, -1), f"{where}: {one!r} after {last[key]}"
            last[key] = int(number)
        accepted = {
            b"%s#%d#" % (key.encode(), number)
            for key, count in self.accepted.items()
            for number in range(count)
        }
        assert seen <= accepted - self.poison, where
        assert accepted - seen <= self.withdrawn | self.poison, f"{where}: lost"
        assert extra <= counters_of(self.world).possible_duplicates, where


def ident(data: bytes) -> bytes:
    return data[: data.rindex(b"#") + 1]


def feed(
    watch: Watch,
    *,
    key_count: int,
    frames: int,
    records: int,
    every_ns: int = 20 * MS,
    deadline_ns: int | None = None,
    poison_every: int = 0,
) -> None:
    """Frames of records whose keys are drawn from so many, every fifth of the one hot key."""
    world = watch.world
    (engine,) = world.engines
    dice = world.dice
    put_count = 0

    def put() -> None:
        nonlocal put_count
        batch = []
        for _ in range(records):
            put_count += 1
            is_poison = poison_every > 0 and put_count % poison_every == 0
            key = HOT_KEY if dice.random() < HOT_PART else f"key-{dice.randrange(key_count)}"
            batch.append(watch.record(key, dice.randint(0, 60), is_poison=is_poison))
        deadline = None if deadline_ns is None else world.now_ns + deadline_ns
        frame = make_frame(
            batch,
            deadline_ns=deadline,
            on_settled=lambda frame: watch.settled(frame.records, frame.results),
        )
        assert world.submit(engine, frame)

    for number in range(frames):
        world.at(world.now_ns + number * every_ns, put)
    world.run_until(world.now_ns + frames * every_ns)


def started(way: Way, seed: int, **members: object) -> Watch:
    world = way.world(seed, **members)
    world.add_engine()
    world.service.stream(STREAM).record_bytes_max = RECORD_BYTES_MAX
    return Watch(way, world)


def in_every_way(test: Callable[[Way, int], object]) -> Callable[[Way, int], object]:
    by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
    marked: Callable[[Way, int], object] = by_way(pytest.mark.parametrize("seed", SEEDS)(test))
    return marked


@in_every_way
def test_faults_of_all_kinds_turn_nothing_round(way: Way, seed: int) -> None:
    watch = started(way, seed, faults=way.rough, quota=Quota(600, 1 << 20))
    feed(watch, key_count=KEY_COUNTS[seed], frames=30, records=30)
    watch.world.run_idle(seconds_max=900)
    watch.assert_in_order()
    assert counters_of(watch.world).delivered == 900, f"seed {seed}"


@in_every_way
def test_poison_and_deadlines_leave_gaps_and_no_inversions(way: Way, seed: int) -> None:
    watch = started(way, seed, faults=way.rough)
    feed(
        watch,
        key_count=KEY_COUNTS[seed],
        frames=30,
        records=30,
        deadline_ns=3 * SECOND,
        poison_every=101,
    )
    watch.world.run_idle(seconds_max=900)
    watch.assert_in_order()
    assert watch.world.memory.bytes_taken == 0


def reshard(world: World, seed: int) -> None:
    """Changes of the shards while records flow: what this service can do, by turns."""
    stream = world.service.stream(STREAM)
    if world.service.is_yandex and seed % 2:
        stream.can_split = True
        for at_ms in (500, 1_200):
            world.at(
                world.now_ns + at_ms * MS,
                lambda: world.service.split_shard(
                    STREAM, stream.open_shards[1].shard_id, world.now_ns
                ),
            )
        return

    def target() -> dict[str, object]:
        return {
            "TargetShardCount": 2 + len(stream.open_shards),
            "ScalingType": "UNIFORM_SCALING",
        }

    calls: list[tuple[int, str, Callable[[], dict[str, object]]]] = [
        (1_600, "UpdateShardCount", target)
    ]
    if not world.service.is_yandex:
        calls += [
            (
                500,
                "SplitShard",
                lambda: {
                    "ShardToSplit": stream.open_shards[0].shard_id,
                    "NewStartingHashKey": str(stream.open_shards[0].ending_hash_key // 3),
                },
            ),
            (
                1_000,
                "MergeShards",
                lambda: {
                    "ShardToMerge": stream.open_shards[2].shard_id,
                    "AdjacentShardToMerge": stream.open_shards[3].shard_id,
                },
            ),
        ]

    def change(operation: str, members: Callable[[], dict[str, object]]) -> None:
        world.service.handle(operation, {"StreamName": STREAM, **members()}, world.now_ns)

    for at_ms, operation, members in calls:
        world.at(world.now_ns + at_ms * MS, partial(change, operation, members))


@in_every_way
def test_a_reshard_under_load_turns_nothing_round(way: Way, seed: int) -> None:
    watch = started(way, seed, faults=way.rough if seed % 4 > 1 else Faults())
    reshard(watch.world, seed)
    feed(watch, key_count=KEY_COUNTS[seed], frames=60, records=60, every_ns=40 * MS)
    watch.world.run_idle(seconds_max=900)
    watch.assert_in_order(may_stray=True)
    counters = counters_of(watch.world)
    assert counters.delivered == 3_600, f"seed {seed}"
    assert counters.map_refreshes > 1 or KEY_COUNTS[seed] < 30, f"seed {seed}"


@in_every_way
def test_order_needs_no_map(way: Way, seed: int) -> None:
    """Nobody may list the shards, or not yet: then what is queued is routed anew."""
    watch = started(way, seed, faults=way.rough, may_list=False)
    if seed % 2:
        engine = watch.world.engines[0]

        def told() -> None:
            watch.world.may_list = True
            at_once(engine.take_description(watch.world.description(), watch.world.now_ns))
            watch.world.pump(engine)

        watch.world.at(watch.world.now_ns + 700 * MS, told)
    feed(watch, key_count=KEY_COUNTS[seed], frames=20, records=30)
    watch.world.run_idle(seconds_max=900)
    watch.assert_in_order()
    assert lanes_of(watch.world.engines[0])[0].shard_id is None or seed % 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_key_that_fails_again_and_again_holds_up_no_other(seed: int) -> None:
    """The service fails its records for 9 s, and takes all others: within a second."""
    watch = started(AWS, seed, faults=Faults(failing_keys=frozenset({HOT_KEY})))
    world = watch.world
    feed(watch, key_count=300, frames=400, records=10)
    world.run_until(world.now_ns + SECOND)
    others = {one for one in watch.log(is_strict=False) if not one.startswith(b"hot#")}
    expected = sum(count for key, count in watch.accepted.items() if key != HOT_KEY)
    assert len(others) == expected, f"seed {seed}"
    assert counters_of(world).delivered == expected, f"seed {seed}: and nothing of that key"
    world.faults = Faults()
    world.run_idle()
    watch.assert_in_order()


@in_every_way
def test_a_poisoned_key_holds_up_no_other(way: Way, seed: int) -> None:
    watch = started(way, seed)
    world = watch.world
    records = [watch.record(HOT_KEY, is_poison=number % 2 == 0) for number in range(8)]
    world.submit(world.engines[0], make_frame(records))
    feed(watch, key_count=300, frames=40, records=20)
    pays_s = (
        8 if way.is_yandex else 0
    )  # a record of 1 MiB takes a second of its shard, refused or not
    world.run_until(world.now_ns + (1 + pays_s) * SECOND)
    others = [one for one in watch.log(is_strict=False) if not one.startswith(b"hot#")]
    assert len(others) == sum(watch.accepted[key] for key in watch.accepted if key != HOT_KEY)
    world.run_idle()
    watch.assert_in_order()
    assert len(watch.poison) == sum(counters_of(world).dead.values()) == 4, f"seed {seed}"
