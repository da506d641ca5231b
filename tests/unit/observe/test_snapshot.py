"""One read of everything: what is in it, of which moment, and in how small steps."""

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import OperationCounters, StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps, at_once
from kdaemon.engine import Engine
from kdaemon.engine.heat import LANES_A_STEP
from kdaemon.http.counters import ListenerCounters
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.slices import Page
from kdaemon.observe.snapshot import Snapshot
from kdaemon.observe.status import status_steps
from kdaemon.pack.lane import Lane
from tests.kit.depth import some
from tests.kit.engine_rig import SETTINGS, T
from tests.kit.frames import LoadedDice, describe, even_shards
from tests.kit.observing import At, Observing, reader_of
from tests.kit.queues import lanes_of
from tests.kit.watching import before
from tests.kit.world import MS, SECOND, Faults, World, make_frame

STREAMS, SHARDS = 20, 64  # of a hundred no step is longer


def feed(world: World, engine: Engine, frames: int) -> None:
    def put(number: int) -> None:
        records = [Record(b"%d.%d" % (number, i), f"key-{i}") for i in range(50)]
        world.submit(engine, make_frame(records))

    for number in range(frames):
        world.at(world.now_ns + number * 20 * MS, partial(put, number))


def deep(value: Any) -> Any:
    """All that is in a snapshot, as plain values of their own."""
    if isinstance(value, msgspec.Struct):
        return [deep(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return {key: deep(each) for key, each in value.items()}
    return [deep(each) for each in value] if isinstance(value, tuple | list) else value


def assert_conserved(snapshot: Snapshot) -> None:
    counts = [snapshot.door, *(each.engine.counters for each in snapshot.streams)]
    assert [each.unaccounted() for each in counts] == [0] * len(counts)


def steps_of(steps: Steps[Any]) -> tuple[int, Any]:
    """How many there are, and what comes of them."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


@pytest.mark.parametrize("counters", [StreamCounters(), OperationCounters(), ListenerCounters()])
def test_a_snapshot_has_each_field_of_what_it_is_of(counters: Any) -> None:
    public = [name for name in dir(counters) if not name.startswith("_")]
    names = {name for name in public if not callable(getattr(counters, name))}
    snapshot = counters.snapshot()
    assert set(snapshot.__struct_fields__) == names
    for name in names:
        value = getattr(counters, name)
        still = value.snapshot() if hasattr(value, "snapshot") else value
        assert getattr(snapshot, name) == still


def test_nothing_changes_a_snapshot() -> None:
    """Neither who has it nor what happens to what it was made of."""
    world = World(1, shard_count=2, faults=Faults(call_throttled=0.2, record_failure=0.1))
    observing = Observing(world.memory, {"a": world.add_engine()})
    listeners = {"http": ListenerCounters()}
    reader = reader_of(observing, At(world), listeners=listeners)
    feed(world, observing.streams["a"], 40)
    world.run_until(world.now_ns + 300 * MS)
    snapshot = at_once(reader.read(None))
    before = deep(snapshot)
    observing.streams["a"].hold = ServiceError("AccessDeniedException", "no")
    listeners["http"].refused["malformed"] += 1
    listeners["unix"] = ListenerCounters()
    observing.upstreams[0].closed.receive(1, 1)
    observing.loop_lag.observe(1)
    world.run_until(world.now_ns + 2 * SECOND)
    assert deep(at_once(reader.read(None))) != before
    assert deep(snapshot) == before
    for value in (snapshot, snapshot.streams[0], snapshot.streams[0].engine, snapshot.door):
        with pytest.raises(AttributeError):
            setattr(value, value.__struct_fields__[0], None)


def test_a_read_begins_when_it_is_asked_for_and_a_stream_is_read_at_its_turn() -> None:
    world = World(1)
    observing = Observing(world.memory, {"a": world.add_engine(), "b": world.add_engine()})
    reader = reader_of(observing, At(world))
    steps = reader.read()
    observing.door.refuse(RefuseReason.UNLISTED, 3, 3)  # before its first step
    next(steps)
    observing.door.refuse(RefuseReason.UNLISTED, 4, 4)
    world.submit(observing.streams["b"], make_frame([Record(b"x", "k")]))
    world.run_idle()
    _, snapshot = steps_of(steps)
    assert snapshot.door.received == 3
    assert [each.engine.counters.delivered for each in snapshot.streams] == [0, 1]
    assert_conserved(snapshot)


@pytest.mark.parametrize("seed", some(range(3)))
def test_what_is_counted_conserves_though_records_move_and_streams_close_and_open(
    seed: int,
) -> None:
    """Between the steps. What a closed stream has counted is told once, of all or of itself."""
    faults = Faults(lost_request=0.1, call_throttled=0.1, record_failure=0.05)
    world = World(seed, shard_count=1, faults=faults)
    names = [f"s{number}" for number in range(8)]
    observing = Observing(world.memory, {name: world.add_engine() for name in names})
    for engine in observing.streams.values():
        feed(world, engine, 2)
    world.run_until(world.now_ns + 100 * MS)
    world.run_idle(seconds_max=600)
    for name in names[1::2]:
        feed(world, observing.streams[name], 10)
    world.run_until(world.now_ns + 50 * MS)
    reader = reader_of(observing, At(world))
    steps = reader.read()
    for round_number in range(4):
        next(steps)
        closed = observing.streams.pop(names[2 * round_number])
        observing.upstreams[0].closed.add(closed.counters)
        late = observing.streams[f"late{round_number}"] = world.add_engine()
        feed(world, late, 2)
        world.run_until(world.now_ns + 10 * MS)
    _, snapshot = steps_of(steps)
    assert [each.name for each in snapshot.streams] == names
    assert_conserved(snapshot)
    assert snapshot.upstreams[0].closed.received == 0
    assert [each.engine.counters.received for each in snapshot.streams[::2]] == [100] * 4
    assert sum(each.engine.counters.buffered for each in snapshot.streams) > 0, "some move"
    after = at_once(reader.read())
    assert_conserved(after)
    assert len(after.streams) == 8
    assert after.upstreams[0].closed.received == 400


def test_what_is_left_at_the_end_is_summed_over_open_and_closed_streams_and_the_disk() -> None:
    world = World(1)
    observing = Observing(world.memory, {"a": world.add_engine(), "b": world.add_engine()})
    for number, engine in enumerate(observing.streams.values(), 1):
        counters = engine.counters
        counters.delivered, counters.buffered, counters.in_flight = 10 * number, 3, 2
        counters.rejected[RefuseReason.DRAINING] = 1
        counters.spooled = 7
    observing.upstreams[0].closed.delivered = 100
    observing.upstreams[0].closed.rejected[RefuseReason.DRAINING] = 5
    snapshot = at_once(reader_of(observing, At(world)).read())
    assert (snapshot.delivered, snapshot.undelivered, snapshot.spooled) == (130, 17, 14)


class Place:
    """Streams of 64 shards each, and how many parts of the rooms a step has looked at."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, streams: int = STREAMS, shards: int = SHARDS
    ) -> None:
        settings = replace(SETTINGS, buffer_bytes_max=1 << 30)
        memory = ByteBudget(1 << 30)
        engines = [Engine(settings, memory, LoadedDice(0.5), T) for _ in range(streams)]
        for engine in engines:
            engine.freshness.ask(T)
            at_once(engine.take_description(describe(even_shards(shards)), T))
            for lane in lanes_of(engine):
                lane.throttled = 1
                lane.blocked_until_ns = T + SECOND
        named = {f"s{number}": engine for number, engine in enumerate(engines)}
        self.reader = reader_of(Observing(memory, named), self)
        self.read = {"streams": 0, "shards": 0}
        backlog = Lane.backlog_records

        def counted(counters: StreamCounters) -> None:
            self.read["streams"] += 1

        def looked_at(lane: Lane) -> Any:
            self.read["shards"] += 1
            return backlog.fget(lane)  # type: ignore[attr-defined]

        before(monkeypatch, StreamCounters, "snapshot", counted)
        monkeypatch.setattr(Lane, "backlog_records", property(looked_at))

    def now_ns(self) -> int:
        return T

    def most_in_a_step(self, steps: Steps[Any]) -> dict[str, int]:
        """But for the first one, which reads the door and what closed streams have counted."""
        most = dict.fromkeys(self.read, 0)
        next(steps)
        before = dict(self.read)
        for _ in steps:
            most = {name: max(most[name], self.read[name] - before[name]) for name in most}
            before = dict(self.read)
        return most


@pytest.mark.parametrize("per_shard", [False, True])
@pytest.mark.pure("counts the calls of a method")
def test_a_stream_is_read_in_a_step(monkeypatch: pytest.MonkeyPatch, per_shard: bool) -> None:
    """Of 64 hot shards: a step is 0.4 ms (2026-11-28)."""
    place = Place(monkeypatch)
    pages = (Metrics(place.reader, per_shard=per_shard).plain(), status_steps(place.reader))
    for page in pages:
        most = place.most_in_a_step(page)
        assert most["streams"] == 1
        assert most["shards"] <= 2 * SHARDS
    assert place.read["streams"] >= 2 * STREAMS
    assert place.read["shards"] >= 2 * STREAMS * SHARDS


@pytest.mark.pure("counts the calls of a method")
def test_a_stream_of_many_shards_is_read_in_several_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(monkeypatch, 1, 4 * LANES_A_STEP)
    most = place.most_in_a_step(Metrics(place.reader, per_shard=True).plain())
    assert 0 < most["shards"] <= 2 * LANES_A_STEP


def test_no_part_of_a_large_page_is_made_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch)
    count, page = steps_of(Metrics(place.reader, per_shard=True).plain())
    assert isinstance(page, Page)
    lines = page.body.count(b"\n")
    assert lines > STREAMS * SHARDS * 9
    assert lines / count < 100, "lines a step"


def test_a_loop_lag_that_is_read_stays_as_it_was() -> None:
    lag = Histogram(LAG_BOUNDS_NS)
    lag.observe(4 * MS)
    read = lag.snapshot()
    lag.observe(4 * MS)
    assert (sum(read.counts), read.sum) == (1, 4 * MS)
    lag.add(lag)
    assert (sum(lag.counts), read.sum) == (4, 4 * MS)
