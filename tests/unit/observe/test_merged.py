"""Snapshots of several workers as one: sums conserve, and nothing is left out."""

import json
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from kdaemon.base.counters import RefuseReason, StreamCounts
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps, at_once
from kdaemon.cli.screen import screen
from kdaemon.daemon.questions import pickled
from kdaemon.http.counters import ListenerCounters
from kdaemon.observe.live_event import event_steps
from kdaemon.observe.merged import merged
from kdaemon.observe.metrics import Metrics, Workers
from kdaemon.observe.reading import SnapshotReader
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.snapshot import Snapshot, WorkerSnapshot
from kdaemon.observe.status import status_steps
from tests.kit.depth import some
from tests.kit.observing import At, Observing, reader_of
from tests.kit.world import MS, SECOND, Faults, World, make_frame
from tests.unit.observe.whole import whole

FAULTS = Faults(lost_request=0.1, call_throttled=0.1, record_failure=0.1)


def worker(number: int, **other: Any) -> WorkerSnapshot:
    given: dict[str, Any] = {
        "number": number,
        "is_heir": False,
        "pid": 0,
        "state": "serving",
        "is_serving": True,
        "why_not_ready": None,
        "why_not_told": None,
        "uptime_ns": SECOND,
        "restarts": number,
        "connections": 3,
        "handed": 4,
        "memory_bytes": 5,
        "delivered": 6,
    }
    return WorkerSnapshot(**{**given, **other})


class Fleet:
    """Workers; their supervisor has no stream. As `snapshot.Reader`."""

    def __init__(self, streams: list[tuple[str, ...]], seed: int = 1) -> None:
        self.worlds = [
            World(seed + number, shard_count=2, faults=FAULTS) for number in range(len(streams))
        ]
        self.readers: list[SnapshotReader] = []
        self.observed: list[Observing] = []
        for world, names in zip(self.worlds, streams, strict=True):
            observing = Observing(world.memory, {name: world.add_engine() for name in names})
            self.observed.append(observing)
            self.readers.append(
                reader_of(observing, At(world), listeners={"http": ListenerCounters()})
            )
        alone = Observing(ByteBudget(0), upstreams=[])
        clock = At(self.worlds[0])
        self.own = reader_of(
            alone,
            clock,
            listeners={"admin": ListenerCounters()},
            reloads=Reloads(lambda: 5.0, 1, 1),
        )
        self.parts: list[Snapshot] = []
        self.workers = tuple(worker(number + 1) for number in range(len(streams)))

    def feed(self) -> None:
        for world, observing in zip(self.worlds, self.observed, strict=True):
            for engine in observing.streams.values():
                for number in range(20):
                    records = [Record(b"%d.%d" % (number, i), f"key-{i}") for i in range(30)]
                    frame = make_frame(records, deadline_ns=world.now_ns + 2 * SECOND)
                    world.at(world.now_ns + number * 50 * MS, partial(world.submit, engine, frame))

    def gather(self) -> None:
        self.parts = [at_once(reader.read(5, 16)) for reader in self.readers]

    def read(self, _shards_max: int | None = 5, _calm_max: int = 0) -> Steps[Snapshot]:
        return merged(at_once(self.own.read()), self.parts, self.workers)

    @property
    def stream_count(self) -> int:
        return len({each.name for part in self.parts for each in part.streams})

    def by_worker(self) -> Workers:
        parts = [(str(number + 1), part) for number, part in enumerate(self.parts)]
        return Workers(at_once(self.own.read()), parts)


def test_counts_of_another_worker_are_no_part_of_the_same_chart() -> None:
    """They begin at 0, and so a sum falls; without a worker that does not answer it falls, too."""
    fleet = Fleet([("a",), ("a",)])
    fleet.gather()

    def began(**other: Any) -> str:
        fleet.workers = (worker(1, pid=7), worker(2, **{"pid": 8, **other}))
        event = at_once(event_steps(fleet)).partition(b"data: ")[2]
        told: str = json.loads(event)["began"]
        return told

    assert began() == began(restarts=5)
    assert len({began(), began(pid=9), began(is_serving=False)}) == 3


def counts_of(snapshot: Snapshot) -> list[StreamCounts]:
    return [stream.engine.counters for stream in snapshot.streams]


@pytest.mark.parametrize("seed", some(range(3)))
def test_sums_conserve_at_every_moment(seed: int) -> None:
    fleet = Fleet([("a", "b"), ("a",), ("b", "c")], seed)
    fleet.feed()
    for _ in range(12):
        for world in fleet.worlds:
            world.run_until(world.now_ns + 200 * MS)
        fleet.gather()
        together = at_once(fleet.read())
        assert [stream.name for stream in together.streams] == ["a", "b", "c"]
        for each in counts_of(together):
            assert each.unaccounted() == 0
        for name in ("received", "delivered", "buffered", "in_flight", "attempts"):
            sums = sum(getattr(each, name) for part in fleet.parts for each in counts_of(part))
            assert sum(getattr(each, name) for each in counts_of(together)) == sums
        refused = sum(each.rejected[RefuseReason.DEADLINE] for each in counts_of(together))
        assert refused == sum(
            each.rejected[RefuseReason.DEADLINE] for part in fleet.parts for each in counts_of(part)
        )
        assert together.delivered == sum(part.delivered for part in fleet.parts)
        assert together.memory.bytes_taken == sum(part.memory.bytes_taken for part in fleet.parts)


def test_a_shard_of_several_is_one_with_their_rates_together() -> None:
    fleet = Fleet([("a",), ("a",)])
    fleet.feed()
    for world in fleet.worlds:
        world.run_until(world.now_ns + SECOND)
    fleet.gather()
    (stream,) = at_once(fleet.read()).streams
    parts = [part.streams[0].engine.shards for part in fleet.parts]
    shards = {each.shard_id: each for each in stream.engine.shards.shards}
    assert len(shards) == 2
    for shard_id, shard in shards.items():
        of_each = [each for part in parts for each in part.shards if each.shard_id == shard_id]
        assert shard.taken == sum(each.taken for each in of_each)
        assert shard.records_rate == sum(each.records_rate for each in of_each)
        assert shard.backlog_ns == max(each.backlog_ns for each in of_each)
        assert 0 < shard.share <= 1


def test_of_one_worker_the_merged_is_what_it_says() -> None:
    fleet = Fleet([("a",)])
    fleet.feed()
    fleet.worlds[0].run_until(SECOND)
    fleet.gather()
    together, part = at_once(fleet.read()), fleet.parts[0]
    assert counts_of(together) == counts_of(part)
    assert together.memory == part.memory
    assert together.upstreams == part.upstreams
    assert together.listeners.keys() == {"http", "admin"}
    assert together.reloads is not None, "the supervisor's"


def test_without_any_answer_there_is_a_page() -> None:
    fleet = Fleet([("a",)])
    fleet.workers = (worker(1, is_serving=False, why_not_ready="starting"),)
    fleet.gather()
    fleet.parts = []
    page = json.loads(whole(status_steps(fleet)).body)
    assert page["streams"] == []
    assert page["workers"][0]["not_ready_because"] == "starting"
    assert whole(Metrics(fleet, workers=fleet.by_worker).plain()).status == 200
    assert at_once(event_steps(fleet))


def test_a_worker_that_gave_no_answer_is_told_with_the_reason() -> None:
    fleet = Fleet([("a",), ("a",)])
    fleet.feed()
    for world in fleet.worlds:
        world.run_until(SECOND)
    fleet.gather()
    del fleet.parts[1]
    why = "no answer within 3 s"
    fleet.workers = (worker(1), worker(2, is_serving=False, why_not_told=why))
    page = json.loads(whole(status_steps(fleet)).body)
    assert [each["missing_because"] for each in page["workers"]] == [None, why]
    assert page["streams"][0]["delivered"] == fleet.parts[0].delivered
    (line,) = [line for line in screen(page).head if line.startswith("workers: ")]
    assert f", 2: not counted here, {why}" in line


def test_the_pages_are_made_of_all() -> None:
    fleet = Fleet([("a", "b"), ("a",)])
    fleet.feed()
    for world in fleet.worlds:
        world.run_until(world.now_ns + 3 * SECOND)
    fleet.gather()
    delivered = sum(part.delivered for part in fleet.parts)
    assert delivered > 0
    page = json.loads(whole(status_steps(fleet)).body)
    assert sum(stream["delivered"] for stream in page["streams"]) == delivered
    assert [each["worker"] for each in page["workers"]] == [1, 2]
    event = json.loads(at_once(event_steps(fleet)).partition(b"data: ")[2])
    assert event["records"]["delivered"] == delivered
    text = whole(Metrics(fleet, workers=fleet.by_worker).plain()).body.decode()
    families = {family.name: family for family in parse_plain(text)}
    assert len(families) == text.count("# TYPE "), "each family stands in one place"
    samples = families["kdaemon_records_delivered"].samples
    assert sum(each.value for each in samples) == delivered
    assert {each.labels["worker"] for each in samples} == {"1", "2", ""} - {""}
    (total,) = [sum(sample.value for sample in families["kdaemon_records_unaccounted"].samples)]
    assert total == 0
    assert [each.value for each in families["kdaemon_worker_restarts"].samples] == [1, 2]
    assert {each.labels["worker"] for each in families["kdaemon_loop_lag_seconds"].samples} == {
        *("", "1", "2"),
    }
    assert [each.labels for each in families["kdaemon_config_reloads"].samples] == [{}]


def test_each_part_of_a_snapshot_can_be_sent() -> None:
    """As questions.py sends it."""
    import pickle

    fleet = Fleet([("a",)])
    fleet.feed()
    fleet.worlds[0].run_until(SECOND)
    fleet.gather()
    (part,) = fleet.parts
    sent = pickle.loads(pickled(part))
    assert sent.streams[0].engine.counters == part.streams[0].engine.counters
    assert sent.streams[0].engine.shards == part.streams[0].engine.shards
    assert type(sent.streams[0].engine.health) is type(part.streams[0].engine.health)
    assert not _shared(sent, part)


def _shared(one: object, other: object) -> bool:
    """Whether an enum became another object, by which no table would find it."""
    if isinstance(one, msgspec.Struct):
        return any(
            _shared(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__
        )
    if is_dataclass(one):
        return any(_shared(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return any(
            mine is not its
            for mine, its in zip(one, other, strict=True)
            if not isinstance(mine, str)
        )
    return False
