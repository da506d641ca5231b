"""Aggregates as their readers see them: nothing that was acknowledged is missing for a reader that
drops a whole aggregate when one of its keys lies outside its shard's range (`kcl.py`).
"""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.base.verdict import Verdict
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from tests.kit.depth import some
from tests.kit.kcl import Read, inner_records, read
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Faults, World, counters_of, make_frame
from tests.sim.test_resharding import (
    AWS_CHANGES,
    CHANGED_AT_S,
    CONVERGES_S,
    Change,
    control,
    in_steps,
    merge,
    resize,
    split,
    switch,
)

SEEDS = some(range(2))
JOINED = replace(SETTINGS, aggregate_bytes_max=51_200)
PER_SECOND = 8_000  # on four shards that take 1,000 records a second each, were they plain
ANEW = [change for name, change in AWS_CHANGES.items() if "anew" in name and "once" not in name]


class Load:
    """Distinct records of about 200 B: keyed, with explicit hash keys, and without a key."""

    def __init__(self, world: World, per_second: int = PER_SECOND) -> None:
        self.frames: list[Frame] = []
        self.is_over = False
        self._world = world
        self._dice = random.Random(world.seed)
        self._made = 0
        self._count = per_second // 50
        (self._engine,) = world.engines
        self._feed()

    def _feed(self) -> None:
        if self.is_over:
            return
        frame = make_frame([self._make() for _ in range(self._count)])
        if self._world.submit(self._engine, frame):
            self.frames.append(frame)
        self._world.at(self._world.now_ns + 20 * MS, self._feed)

    def _make(self) -> Record:
        dice = self._dice
        self._made += 1
        data = b"%d." % self._made + bytes(dice.randrange(100, 300))
        kind = dice.randrange(10)
        if kind == 0:
            return Record(data, "")
        if kind == 1:
            return Record(data, "k", str(dice.randrange(2**128)))
        return Record(data, f"key-{dice.randrange(5_000)}")

    @property
    def acknowledged(self) -> Counter[bytes]:
        return Counter(
            record.data
            for frame in self.frames
            for record, result in zip(frame.records, frame.results, strict=True)
            if result is not None and result.is_delivered
        )


class Limits:
    """Looks at every call as the service gets it."""

    def __init__(self, world: World) -> None:
        world.on_written = self.look
        self.widest = 0
        self.calls = 0

    def look(self, engine: Engine, batch: Batch, _taken: Taken) -> None:
        sizes = [len(each.data) + len(each.partition_key.encode()) for each in batch.records]
        assert len(batch.records) <= SETTINGS.batch_records_max
        assert sum(sizes) <= SETTINGS.batch_bytes_max
        for record, size in zip(batch.records, sizes, strict=True):
            if inner_records(record.data) is not None:
                assert size <= JOINED.aggregate_bytes_max
                self.widest = max(self.widest, size)
        self.calls += 1


def joined_world(seed: int = 1, **more: object) -> World:
    world = World(seed, settings=JOINED, **more)  # type: ignore[arg-type]
    world.add_engine()
    return world


def run(world: World, *, change: Change | None = None, seconds: int = 6) -> tuple[Load, Read]:
    """Load, a change in the middle of it, and the end of all; what a reader finds."""
    world.run_until(SECOND + 100 * MS)  # the map is there
    load = Load(world)
    if change is not None:
        world.at(CHANGED_AT_S * SECOND, partial(change, world))
    world.run_until(seconds * SECOND)
    load.is_over = True
    world.run_idle(seconds_max=600)
    return load, read(world.service.stream(STREAM))


def duplicates(found: Read) -> int:
    return (found.kept.total() - len(found.kept)) + sum(
        count for data, count in found.dropped.items() if data in found.kept
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_record_arrives_once_in_few_records_of_the_stream(seed: int) -> None:
    world = joined_world(seed)
    limits = Limits(world)
    load, found = run(world)
    assert found.kept == load.acknowledged, f"seed {seed}"
    assert not found.dropped
    assert len(load.acknowledged) == sum(len(frame.records) for frame in load.frames)
    assert sum(found.widths) >= 0.98 * found.kept.total()
    assert len(found.widths) <= found.kept.total() / 25, "three kinds of records on four shards"
    assert 0.9 * JOINED.aggregate_bytes_max <= limits.widest
    assert counters_of(world).throttled <= 0.005 * counters_of(world).attempts
    assert counters_of(world).possible_duplicates == 0


CHANGES: dict[str, Change] = {
    "split": split,
    "merge": merge,
    "more shards": resize(7, ScalingType="UNIFORM_SCALING"),
    "fewer shards": resize(3, ScalingType="UNIFORM_SCALING"),
    "more shards, in steps": in_steps,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_reader_misses_nothing_that_was_acknowledged_after_a_change_of_shards(
    seed: int, change: Change
) -> None:
    world = joined_world(seed)
    Limits(world)
    load, found = run(world, change=change)
    assert set(found.kept) == set(load.acknowledged), f"seed {seed}"
    assert len(load.acknowledged) == sum(len(frame.records) for frame in load.frames)
    counters = counters_of(world)
    again = counters.retries[Verdict.OUTSIDE]
    assert duplicates(found) == again == counters.possible_duplicates, f"seed {seed}"
    if change is merge:
        assert again == 0, "a child of both holds the keys of each"
        assert not found.dropped
    shards_changed = 1 if change is split else 2 if change is in_steps else 4
    assert again <= 0.2 * PER_SECOND * shards_changed / 4, "what was out then, and no more"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", ANEW)
def test_a_stream_made_anew_is_sent_no_aggregates_for_the_shards_of_the_old(
    seed: int, change: Change
) -> None:
    """Its shards have the same names and other ranges: nothing shows that a record went wrong."""
    world = joined_world(seed)
    load = None

    def note(_engine: Engine, _batch: Batch, taken: Taken) -> None:
        if world.service.stream(STREAM).created_ns > 2 * SECOND:
            lasting.update(each.sequence_number for each in taken.results if each.is_delivered)

    lasting: set[str | None] = set()
    world.on_written = note
    load, found = run(world, change=change, seconds=8)
    expected = {
        record.data
        for frame in load.frames
        for record, result in zip(frame.records, frame.results, strict=True)
        if result is not None and result.sequence_number in lasting
    }
    assert len(expected) > PER_SECOND
    assert set(found.kept) == expected, f"seed {seed}"
    assert len(found.widths) > 50, "once the map is there"


@pytest.mark.parametrize("seed", SEEDS)
def test_strays_are_resolved_within_5_s_though_nobody_tells_the_new_shards(seed: int) -> None:
    world = joined_world(seed)
    oldest_ns = 0
    (engine,) = world.engines

    def forbid_and_split() -> None:
        world.may_list = False
        split(world)

    world.at(CHANGED_AT_S * SECOND, forbid_and_split)
    world.run_until(SECOND + 100 * MS)
    load = Load(world, 2_000)
    taken_ns: dict[Frame, int] = {}
    while world.now_ns < 12 * SECOND:
        world.run_until(world.now_ns + 50 * MS)
        for frame in load.frames:
            if frame.unsettled and frame not in taken_ns:
                taken_ns[frame] = world.now_ns
            elif not frame.unsettled and frame in taken_ns:
                oldest_ns = max(oldest_ns, world.now_ns - taken_ns.pop(frame))
    load.is_over = True
    world.run_idle()
    assert 4 * SECOND < oldest_ns <= 7 * SECOND, "5 s, and once more through the queue"
    found = read(world.service.stream(STREAM))
    assert set(found.kept) == set(load.acknowledged), f"seed {seed}"
    assert counters_of(world).retries[Verdict.OUTSIDE] > 0
    assert engine.is_idle


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", [None, split], ids=["at rest", "split"])
def test_faults_lose_nothing_and_duplicate_only_what_was_counted(
    seed: int, change: Change | None
) -> None:
    world = joined_world(
        seed,
        faults=Faults(
            lost_answer=0.03,
            lost_request=0.03,
            server_error=0.03,
            call_throttled=0.03,
            wrong_count=0.03,
            record_failure=0.03,
        ),
    )
    Limits(world)
    load, found = run(world, change=change)
    assert set(found.kept) == set(load.acknowledged), f"seed {seed}"
    assert len(load.acknowledged) == sum(len(frame.records) for frame in load.frames)
    assert 0 < duplicates(found) <= counters_of(world).possible_duplicates


@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_that_the_service_refuses_costs_its_company_nothing(seed: int) -> None:
    """Too large for the stream as it is now, it goes plain, beside aggregates in one call."""
    world = joined_world(seed)
    world.service.stream(STREAM).record_bytes_max = 2 * 1024 * 1024
    world.run_until(SECOND + 100 * MS)
    world.service.stream(STREAM).record_bytes_max = 1024 * 1024
    load = Load(world)
    poison = make_frame([Record(bytes(1_300_000), "k")])
    world.at(CHANGED_AT_S * SECOND, lambda: load.frames.append(poison))
    world.at(CHANGED_AT_S * SECOND, partial(world.submit, world.engines[0], poison))
    world.run_until(4 * SECOND)
    load.is_over = True
    world.run_idle()
    found = read(world.service.stream(STREAM))
    assert found.kept == load.acknowledged, f"seed {seed}"
    assert len(load.acknowledged) == sum(len(frame.records) for frame in load.frames) - 1
    counters = counters_of(world)
    assert counters.dead[DeadReason.POISON] == 1
    assert poison.results[0] is not None
    assert poison.results[0].error_code == "ValidationException"


@pytest.mark.parametrize("is_auto", [False, True], ids=["no map", "AUTO"])
def test_without_a_map_no_aggregate_is_made(*, is_auto: bool) -> None:
    """On AUTO nothing is taken; what was taken before that was known goes plain, or waits."""
    world = World(1, settings=JOINED, may_list=is_auto)
    if is_auto:
        control("DeleteStream")(world)
        world.service.create_stream(STREAM, 4, world.now_ns, is_auto=True)
    engine = world.add_engine()
    load = Load(world, 500)  # before the map could be there, too
    world.run_until(4 * SECOND)
    assert (engine.unavailable is not None) is is_auto
    load.is_over = True
    if not is_auto:
        world.run_idle()
    found = read(world.service.stream(STREAM))
    assert found.plain > 0
    assert found.widths == []
    assert found.kept == load.acknowledged


def test_a_switch_to_auto_and_back_loses_nothing_to_a_reader() -> None:
    """The strategy of a reader of AUTO streams is not ours to know: what was acknowledged is where
    its keys belong, whatever the service did in between.
    """
    world = World(1, settings=JOINED)
    control("DeleteStream")(world)
    world.service.create_stream(STREAM, 4, world.now_ns, is_auto=True)
    switch(world, is_auto=False)
    (engine,) = [world.add_engine()]
    world.run_until(SECOND + 100 * MS)
    load = Load(world)
    world.at(2 * SECOND, partial(switch, world, is_auto=True))
    while engine.unavailable is None:
        world.run_until(world.now_ns + 10 * MS)
        assert world.now_ns <= (2 + CONVERGES_S) * SECOND
    load.is_over = True
    world.run_until(30 * SECOND)
    switch(world, is_auto=False)
    world.run_idle()
    found = read(world.service.stream(STREAM))
    assert set(found.kept) == set(load.acknowledged)
    assert len(load.acknowledged) == sum(len(frame.records) for frame in load.frames)
    assert duplicates(found) <= counters_of(world).possible_duplicates


def test_records_without_a_key_fill_aggregates_of_their_own() -> None:
    world = joined_world()
    world.run_until(SECOND + 100 * MS)
    for number in range(20):
        records = [Record(b"%d.%d" % (number, at) + bytes(200), "") for at in range(500)]
        world.submit(world.engines[0], make_frame(records))
    world.run_idle()
    found = read(world.service.stream(STREAM))
    assert found.kept.total() == len(found.kept) == 10_000
    assert not found.dropped
    assert found.plain <= 4
    assert len(found.widths) <= 10_000 / 100, (
        "few are small: while the share of a shard still grows"
    )


def test_one_shard_takes_its_bytes_and_not_its_thousand_records() -> None:
    """200 B each: 4,500 a second are 0.95 MB of data, keys and overhead."""
    world = World(1, shard_count=1, settings=replace(JOINED, first_share=1.0))
    world.add_engine()
    world.run_until(SECOND + 100 * MS)
    made = 0

    def feed() -> None:
        nonlocal made
        records = [Record(bytes(200), f"user-{made + at:06d}") for at in range(200)]
        made += 200
        world.submit(world.engines[0], make_frame(records))
        world.at(world.now_ns + 40 * MS, feed)

    feed()
    world.run_until(5 * SECOND)
    before = counters_of(world).delivered
    world.run_until(15 * SECOND)
    per_second = (counters_of(world).delivered - before) / 10
    assert per_second >= 4_500, per_second
    assert counters_of(world).throttled <= 0.005 * counters_of(world).attempts


def test_one_odd_answer_ends_aggregation_on_its_shard_only_until_the_map_was_told_twice() -> None:
    world = joined_world()
    (engine,) = world.engines
    world.run_until(SECOND + 100 * MS)
    take = world.service.take_records

    def odd(*given: object) -> Taken:
        taken = take(*given)  # type: ignore[arg-type]
        taken.results[0].shard_id = "shardId-000000000099"
        world.service.take_records = take  # type: ignore[method-assign]
        return taken

    world.service.take_records = odd  # type: ignore[method-assign, assignment]

    def put(name: str) -> int:
        """Sends some to one shard; how many aggregates they made."""
        before = len(read(world.service.stream(STREAM)).widths)
        records = [Record(f"{name}-{number}".encode(), "k") for number in range(100)]
        world.submit(engine, make_frame(records))
        world.run_until(world.now_ns + 10 * SECOND)
        return len(read(world.service.stream(STREAM)).widths) - before

    assert put("odd") == 1
    assert len(world.asked) == 2, "the map was asked for, and had not changed"
    assert put("doubted") == 0
    world.run_until(world.now_ns + 3600 * SECOND)
    assert len(world.asked) == 3
    assert put("trusted") == 1
    assert counters_of(world).retries[Verdict.OUTSIDE] == 100, "nobody knows what the odd holds"
