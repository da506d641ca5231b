"""Streams that change under load: shards, mode, limits. Nothing is lost, nothing written twice, the
map is asked for seldom and out of step, and the new one is in force soon.

Every change is made to the sandbox service at one moment of simulated time, under steady load from
several engines (daemons), with no fault injected.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.base.description import StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.sandbox.settings import SandboxSettings
from tests.kit.depth import some
from tests.kit.queues import lanes_of
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, World, make_frame, total

SEEDS = some(range(2))
PER_SECOND = 1_200  # records of all engines together: a third of what the four first shards take
CHANGED_AT_S = 2
CONVERGES_S = 5
KIB = 1024
ORDERED = replace(SETTINGS, is_ordered=True)
JOINED = replace(SETTINGS, aggregate_bytes_max=51_200)

Change = Callable[[World], object]


def control(operation: str, **payload: object) -> Change:
    def change(world: World) -> None:
        world.service.handle(operation, {"StreamName": STREAM, **payload}, world.now_ns)

    return change


def split(world: World, index: int = 0) -> None:
    """Unevenly, so that what is left in the middle of the range tells the children apart."""
    shard = world.service.stream(STREAM).open_shards[index]
    start, end = shard.starting_hash_key, shard.ending_hash_key
    at = str(start + (end - start) // 3)
    control("SplitShard", ShardToSplit=shard.shard_id, NewStartingHashKey=at)(world)


def merge(world: World) -> None:
    left, right = world.service.stream(STREAM).open_shards[1:3]
    control("MergeShards", ShardToMerge=left.shard_id, AdjacentShardToMerge=right.shard_id)(world)


def make_anew(shard_count: int) -> Change:
    """The old one is gone at once, and the new one there 3 s later."""

    def change(world: World) -> None:
        control("DeleteStream")(world)
        world.at(
            world.now_ns + 3 * SECOND,
            lambda: world.service.create_stream(STREAM, shard_count, world.now_ns),
        )

    return change


def make_anew_at_once(world: World) -> None:
    control("DeleteStream")(world)
    world.service.create_stream(STREAM, 3, world.now_ns)


def split_by_itself(world: World) -> None:
    shard = world.service.stream(STREAM).open_shards[1]
    world.service.split_shard(STREAM, shard.shard_id, world.now_ns)


def resize(shard_count: int, **more: str) -> Change:
    return control("UpdateShardCount", TargetShardCount=shard_count, **more)


def in_steps(world: World) -> None:
    """As UpdateShardCount does it: children split again before anybody knows them."""
    split(world)
    for step in range(1, 4):
        world.at(world.now_ns + step * 150 * MS, partial(split, world))


UNIFORM = {"ScalingType": "UNIFORM_SCALING"}
AWS_CHANGES: dict[str, Change] = {
    "split": split,
    "merge": merge,
    "more shards": resize(7, **UNIFORM),
    "fewer shards": resize(3, **UNIFORM),
    "more shards, in steps": in_steps,
    "made anew with as many shards": make_anew(4),
    "made anew with more shards": make_anew(6),
    "made anew with fewer shards": make_anew(2),
    "made anew at once": make_anew_at_once,
}


@dataclass
class Watched:
    """When a change was made and noticed, by one engine."""

    engine: Engine
    mismatches: int  # before the change
    mismatch_ns: int | None = None
    current_ns: int | None = None

    def look(self, world: World) -> None:
        if self.mismatch_ns is None and self.engine.counters.map_mismatches > self.mismatches:
            self.mismatch_ns = world.now_ns
        if self.current_ns is None and is_current(world, self.engine):
            self.current_ns = world.now_ns


def is_current(world: World, engine: Engine) -> bool:
    """Whether the engine's map is the service's: the same shards with the same ranges."""
    if STREAM not in world.service.stream_names:
        return False
    stream = world.service.stream(STREAM)
    told = [
        (shard.shard_id, str(sum(stream.told_range(shard)) // 2)) for shard in stream.open_shards
    ]
    return [(lane.shard_id, lane.hash_key) for lane in lanes_of(engine)] == told


def every(world: World, gap_ns: int, action: Callable[[], object]) -> None:
    def again() -> None:
        action()
        world.at(world.now_ns + gap_ns, again)

    world.at(world.now_ns + gap_ns, again)


class Load:
    """Distinct records for every engine, some without a key, none offered twice. No client waits
    for them (they were `accepted`, say), so that none hears that a stream is missing.
    """

    def __init__(
        self, world: World, *, per_second: int = PER_SECOND, data_bytes: int = 200
    ) -> None:
        self.sent: list[bytes] = []
        self.refused = 0
        self.is_over = False
        self._world = world
        self._dice = random.Random(world.seed)
        self._pad = bytes(data_bytes)
        self._count = max(1, per_second // len(world.engines) // 50)
        for engine in world.engines:
            self._feed(engine)

    def _feed(self, engine: Engine) -> None:
        if self.is_over:
            return
        world = self._world
        if not world.submit(engine, make_frame([self._make() for _ in range(self._count)])):
            self.refused += self._count
        gap_ns = round(20 * MS * self._dice.uniform(0.5, 1.5))
        world.at(world.now_ns + gap_ns, partial(self._feed, engine))

    def _make(self) -> Record:
        data = b"%d." % len(self.sent) + self._pad
        self.sent.append(data)
        number = self._dice.randrange(5_000)
        return Record(data, "" if number < 1_000 else f"key-{number}")

    def stop(self) -> None:
        self.is_over = True


def assert_asked_seldom(world: World) -> None:
    """At most one refresh a second, and several engines not in step."""
    by_engine: dict[Engine, list[int]] = {engine: [] for engine in world.engines}
    for at_ns, engine in world.asked:
        by_engine[engine].append(at_ns)
    for times in by_engine.values():
        for before, after in pairwise(times):
            assert after - before >= SECOND, f"seed {world.seed}"


def change_under_load(world: World, change: Change, *, engines: int = 3) -> list[Watched]:
    """Load, the change, load until it is noticed, the end of all; asserts what always holds."""
    for _ in range(engines):
        world.add_engine()
    load = Load(world)
    world.run_until(CHANGED_AT_S * SECOND)
    assert all(is_current(world, engine) for engine in world.engines)
    watched = [Watched(engine, engine.counters.map_mismatches) for engine in world.engines]
    for each in watched:
        every(world, 10 * MS, partial(each.look, world))
    asked_before = len(world.asked)
    world.at(world.now_ns, partial(change, world))
    world.run_until((CHANGED_AT_S + 8) * SECOND)
    load.stop()
    world.run_idle()
    assert world.written == Counter(load.sent), f"seed {world.seed}"
    assert load.refused == 0
    assert total(world, "delivered") == len(load.sent)
    assert total(world, "possible_duplicates") == 0
    assert_asked_seldom(world)
    asked = [at_ns for at_ns, _ in world.asked[asked_before:]]
    assert len(asked) == len(set(asked)), "jitter: no two engines ask at the same time"
    for each in watched:
        assert each.current_ns is not None, f"seed {world.seed}: never noticed"
        if each.mismatch_ns is not None:
            assert each.current_ns - each.mismatch_ns <= CONVERGES_S * SECOND, f"seed {world.seed}"
    return watched


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", AWS_CHANGES.values(), ids=AWS_CHANGES.keys())
def test_a_change_of_shards_loses_and_doubles_nothing_and_is_soon_known(
    seed: int, change: Change
) -> None:
    change_under_load(World(seed), change)


@pytest.mark.parametrize("seed", SEEDS)
def test_yandex_grows_and_every_key_may_move(seed: int) -> None:
    world = World(seed, service_settings=SandboxSettings(service=YANDEX))
    watched = change_under_load(world, resize(5))
    assert all(each.mismatch_ns is not None for each in watched)


@pytest.mark.parametrize("seed", SEEDS)
def test_yandex_splits_by_itself_and_closes_the_parent(seed: int) -> None:
    world = World(seed, service_settings=SandboxSettings(service=YANDEX))
    control("DeleteStream")(world)
    world.service.create_stream(STREAM, 4, world.now_ns, can_split=True)
    watched = change_under_load(world, split_by_itself)
    assert all(each.mismatch_ns is not None for each in watched)


@pytest.mark.parametrize("seed", SEEDS)
def test_daemons_that_notice_together_do_not_ask_together(seed: int) -> None:
    """Eight daemons with a record for the split shard in every call: without jitter they would
    all ask within one round trip.
    """
    world = World(seed)
    for _ in range(8):
        world.add_engine()
    load = Load(world)
    world.run_until(CHANGED_AT_S * SECOND)
    before = len(world.asked)
    split(world)
    world.run_until((CHANGED_AT_S + 3) * SECOND)
    load.stop()
    asked = sorted(at_ns for at_ns, _ in world.asked[before:])
    assert len(asked) == 8, "one refresh each"
    assert asked[-1] - asked[0] >= 200 * MS, f"seed {seed}"
    in_one_trip = max(sum(at <= other < at + 50 * MS for other in asked) for at in asked)
    assert in_one_trip <= 4, f"seed {seed}"


def seconds_to_notice(world: World, change: Change) -> float:
    """From the first record that landed elsewhere to the new map, under load; one engine."""
    (engine,) = world.engines
    watched = Watched(engine, engine.counters.map_mismatches)
    every(world, 10 * MS, partial(watched.look, world))
    load = Load(world)
    change(world)
    world.run_until(world.now_ns + 15 * SECOND)
    load.stop()
    world.run_idle()
    assert world.written == Counter(load.sent)
    assert watched.mismatch_ns is not None
    assert watched.current_ns is not None, "never"
    return (watched.current_ns - watched.mismatch_ns) / SECOND


def test_a_quiet_day_makes_nobody_slow_to_notice() -> None:
    """Refreshes by the clock that changed nothing say nothing of what a mismatch is worth."""
    world = World(1)
    world.add_engine()
    while len(world.asked) < 12:
        world.run_until(world.now_ns + 60 * SECOND)
    world.run_until(world.asked[-1][0] + SECOND)
    assert seconds_to_notice(world, split) <= CONVERGES_S


def test_records_that_the_service_refuses_make_nobody_slow_to_notice() -> None:
    """A refused record asks for the map too (its limits may have changed), less and less often."""
    world = World(1)
    engine = world.add_engine()
    for _ in range(200):
        world.submit(engine, make_frame([Record(b"x", "k" * 300)]))
        world.run_until(world.now_ns + SECOND)
    assert engine.counters.dead[DeadReason.POISON] == 200
    assert len(world.asked) <= 12, "2 s, 4 s, ... a minute apart"
    world.written.clear()
    world.run_until(world.asked[-1][0] + SECOND)
    assert seconds_to_notice(world, split) <= CONVERGES_S


def test_a_stream_that_was_missing_for_long_is_known_soon_after() -> None:
    world = World(1)
    engine = world.add_engine()
    world.run_until(SECOND * 2)
    control("DeleteStream")(world)
    assert world.submit(engine, make_frame([Record(b"kept", "k")]))
    world.run_until(300 * SECOND)
    assert len(world.asked) <= 15
    world.service.create_stream(STREAM, 6, world.now_ns)
    world.run_idle()
    back_ns = world.now_ns
    while not is_current(world, engine):
        world.run_until(world.now_ns + 10 * MS)
        assert world.now_ns - back_ns <= CONVERGES_S * SECOND, "known, but for its new shards"
    assert world.written == Counter({b"kept": 1})


# AUTO: the service itself spreads records


def auto_world(settings: EngineSettings = SETTINGS, seed: int = 1, shard_count: int = 4) -> World:
    """A stream that may be switched, and is not yet."""
    world = World(seed, settings=settings)
    control("DeleteStream")(world)
    world.service.create_stream(STREAM, shard_count, world.now_ns, is_auto=True)
    switch(world, is_auto=False)
    world.add_engine()
    return world


def switch(world: World, *, is_auto: bool) -> None:
    world.service.stream(STREAM).is_auto = is_auto


@pytest.mark.parametrize("seed", SEEDS)
def test_a_switch_to_auto_and_back_loses_and_doubles_nothing(seed: int) -> None:
    world = auto_world(seed=seed)
    (engine,) = world.engines
    load = Load(world)
    world.at(2 * SECOND, partial(switch, world, is_auto=True))
    world.run_until(10 * SECOND)
    assert [lane.shard_id for lane in lanes_of(engine)] == [None], "one lane: nothing is predicted"
    assert engine.audit().queues.shards.shard_count == 4
    assert len(world.asked) <= 3, "records land anywhere, and nobody asks because of it"
    world.at(10 * SECOND, partial(switch, world, is_auto=False))
    world.run_until(20 * SECOND)
    load.stop()
    world.run_idle()
    assert world.written == Counter(load.sent)
    assert load.refused == 0
    assert_asked_seldom(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_is_paced_for_the_whole_stream_and_uses_it(seed: int) -> None:
    world = auto_world(replace(SETTINGS, buffer_bytes_max=1 << 28), seed)
    (engine,) = world.engines
    Load(world, per_second=8_000)
    world.at(2 * SECOND, partial(switch, world, is_auto=True))
    world.run_until(8 * SECOND)
    counters = engine.counters
    before, attempts, throttled = counters.delivered, counters.attempts, counters.throttled
    asked = len(world.asked)
    world.run_until(28 * SECOND)
    used = (counters.delivered - before) / (20 * 4_000)
    wasted = (counters.throttled - throttled) / (counters.attempts - attempts)
    assert used >= 0.97, f"seed {seed}: {used:.3f} of the stream's quota"
    assert wasted <= 0.025, f"seed {seed}"
    assert len(world.asked) - asked <= 4, "no storm"


def test_auto_that_grows_is_noticed_by_its_shards() -> None:
    world = auto_world(replace(SETTINGS, buffer_bytes_max=1 << 28))
    (engine,) = world.engines
    switch(world, is_auto=True)
    Load(world, per_second=4_000)
    world.run_until(5 * SECOND)
    assert engine.audit().queues.shards.shard_count == 4
    for _ in range(2):
        shard = world.service.stream(STREAM).open_shards[0]
        world.service.split_shard(STREAM, shard.shard_id, world.now_ns)
    world.run_until(5 * SECOND + CONVERGES_S * SECOND)
    assert engine.audit().queues.shards.shard_count == 6


def test_a_switch_back_is_noticed_where_it_matters() -> None:
    """Without a prediction nothing lands elsewhere; but a hot shard throttles, and that is new."""
    world = auto_world()
    (engine,) = world.engines
    switch(world, is_auto=True)
    world.run_until(5 * SECOND)
    assert lanes_of(engine)[0].shard_id is None
    switch(world, is_auto=False)
    for _ in range(100):
        world.submit(engine, make_frame([Record(b"hot", "one key") for _ in range(40)]))
        world.run_until(world.now_ns + 20 * MS)
    world.run_until(world.now_ns + CONVERGES_S * SECOND)
    assert is_current(world, engine)


def test_auto_that_may_not_be_told_of_is_no_storm() -> None:
    """Shards may be listed, the strategy not: every record seems to land elsewhere, for ever."""

    class Untold(World):
        def description(self, name: str = STREAM) -> StreamDescription:
            return replace(super().description(name), is_auto=False)

    world = Untold(1)
    control("DeleteStream")(world)
    world.service.create_stream(STREAM, 4, world.now_ns, is_auto=True)
    world.add_engine()
    load = Load(world, per_second=50)
    world.run_until(300 * SECOND)
    load.stop()
    world.run_idle()
    assert len(world.asked) <= 12, "1, 2, 4, ... 60 s apart"
    assert world.written == Counter(load.sent)


def is_taking(engine: Engine) -> bool:
    return engine.unavailable is None


@pytest.mark.parametrize("settings", [ORDERED, JOINED], ids=["ordered", "aggregated"])
def test_auto_takes_nothing_that_it_cannot_keep_and_keeps_what_was_taken(
    settings: EngineSettings,
) -> None:
    world = auto_world(settings)
    (engine,) = world.engines
    load = Load(world)
    world.at(2 * SECOND, partial(switch, world, is_auto=True))
    while is_taking(engine):
        world.run_until(world.now_ns + 10 * MS)
        assert world.now_ns <= (2 + CONVERGES_S) * SECOND
    load.stop()  # the door refuses from now on
    assert "AUTO" in str(engine.unavailable)
    world.run_until(world.now_ns + SECOND)  # what was in flight comes back
    calls, kept = world.call_count, engine.counters.buffered + engine.counters.in_flight
    assert kept
    asked = len(world.asked)
    world.run_until(world.now_ns + 200 * SECOND)
    assert world.call_count == calls, "nothing is sent"
    assert engine.counters.buffered == kept
    assert 5 <= len(world.asked) - asked <= 7, "every 30 s"
    switch(world, is_auto=False)
    switched_ns = world.now_ns
    while not is_taking(engine):
        world.run_until(world.now_ns + 100 * MS)
        assert world.now_ns <= switched_ns + 31 * SECOND
    world.run_idle()
    assert total(world, "delivered") == len(load.sent)


def test_who_may_not_ask_any_more_does_not_take_auto_for_over() -> None:
    world = auto_world(ORDERED)
    (engine,) = world.engines
    switch(world, is_auto=True)
    at_once(engine.take_description(world.description(), world.now_ns))
    assert not is_taking(engine)
    unknown = StreamDescription(None, None, is_auto=False, stream_arn=None)
    at_once(engine.take_description(unknown, world.now_ns))
    assert not is_taking(engine)
    switch(world, is_auto=False)
    at_once(engine.take_description(world.description(), world.now_ns))
    assert is_taking(engine)


# The limit of one record


def test_a_lower_record_limit_is_learnt_and_costs_only_what_is_too_large() -> None:
    world = World(1)
    world.service.stream(STREAM).record_bytes_max = 2048 * KIB
    engine = world.add_engine()
    world.run_until(2 * SECOND)
    assert engine.record_bytes_max == 2048 * KIB
    world.service.stream(STREAM).record_bytes_max = 1024 * KIB
    large = Record(bytes(1500 * KIB), "k")
    world.submit(engine, make_frame([Record(b"a", "k"), large, Record(b"b", "k")]))
    world.run_idle()
    world.run_until(world.now_ns + 2 * SECOND)
    assert world.written == Counter({b"a": 1, b"b": 1})
    assert engine.counters.dead[DeadReason.POISON] == 1
    assert engine.record_bytes_max == 1024 * KIB
