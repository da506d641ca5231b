"""A spool over a real store, and a stream that takes what it is told to."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.counting import StreamCounters
from kdaemon.base.errors import RefusedError, SpoolError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine.health import Health
from kdaemon.engine.ways import Queued, Way
from kdaemon.http.turns import Later, soon
from kdaemon.spool.spool import Spool
from kdaemon.spool.spooled_stream import WallClock
from kdaemon.spool.store import Store
from kdaemon.system import SystemClock
from tests.kit.patience import until
from tests.kit.watching import before

MIB = 1024 * 1024
KEYS = [f"k{number}" for number in range(20)]
DELIVERED = RecordResult(sequence_number="1", shard_id="shardId-000000000000")


class FakeTarget:
    """A stream whose engine takes `room` frames, and settles them when the test says so. Each key
    has a shard of its own; those in `full` take nothing more.
    """

    def __init__(self, name: str = "s", room: int = 1_000_000) -> None:
        self.name = name
        self.is_listed = True
        self.counters = StreamCounters()
        self.drops_oldest = False
        self.room = room
        self.frames: list[Frame] = []
        self.waiters: list[Callable[[], object]] = []
        self.map_count = 0
        self.full: set[str] = set()
        self.has_outage = False
        self.health = Health.WELL

    def is_calm(self, free_bytes: int) -> bool:
        return not (self.full or self.has_outage)

    def is_crowded(self, free_bytes: int) -> bool:
        return True

    def ways(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        if self.has_outage:
            return None
        ways: dict[str, Way] = {}
        for index, record in enumerate(frame.records):
            key = record.partition_key
            way = ways.setdefault(key, Way(key, key, [], 0, is_full=key in self.full))
            way.indices.append(index)
        return list(ways.values())

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        if self.has_outage:
            return set(), 1_000_000
        return {key for key in KEYS if key not in self.full}, 1_000_000

    def submit_spooled(self, frame: Frame) -> bool:
        if self.room == 0:
            return False
        self.room -= 1
        self.counters.spooled -= len(frame.records)
        self.counters.buffered += len(frame.records)
        self.frames.append(frame)
        return True

    def when_settled(self, callback: Callable[[], object]) -> None:
        self.waiters.append(callback)

    @property
    def data(self) -> list[bytes]:
        return [record.data for frame in self.frames for record in frame.records]

    def settle(self, frame: Frame, results: list[RecordResult] | None = None) -> None:
        frame.results = list(results or [DELIVERED] * len(frame.records))
        dead = [index for index, each in enumerate(frame.results) if each and each.error_code]
        frame.attempt_counts = dict.fromkeys(dead, 0) | (frame.attempt_counts or {}) or None
        delivered = sum(1 for result in frame.results if result and result.is_delivered)
        self.counters.delivered += delivered
        self.counters.buffered -= frame.unsettled
        frame.unsettled = 0
        assert frame.on_settled is not None
        frame.on_settled(frame)

    def make_room(self, room: int) -> None:
        self.room += room
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()


def a_frame(*data: bytes, on_settled: Callable[[Frame], object] | None = None) -> Frame:
    records = [Record(one, f"k{index}") for index, one in enumerate(data)]
    sizes = [len(record.data) + len(record.partition_key) for record in records]
    return make_frame(records, sizes, Acknowledge.STORED, on_settled, None)


def open_store(directory: Path) -> Callable[[], Store]:
    return lambda: Store(str(directory), letters_bytes_max=MIB, wall_ms=lambda: 1_000)


async def let_through(spool: Spool, target: FakeTarget, frame: Frame) -> None:
    """Puts it as a client that comes again while the spool is in trouble: one is let through, now
    and then.
    """

    def is_put() -> bool:
        try:
            return spool.put(target, frame)
        except RefusedError:
            return False

    await until(is_put)


def failing_commits(patch: pytest.MonkeyPatch, count: int, error: SpoolError) -> None:
    """So many commits from now on fail by this."""
    left = iter(range(count))

    def fail(*_: object) -> None:
        if next(left, None) is not None:
            raise error

    before(patch, Store, "commit", fail)


@asynccontextmanager
async def a_spool(
    directory: Path,
    *targets: FakeTarget,
    bytes_max: int = 64 * MIB,
    store: Callable[[], Store] | None = None,
    listed: set[str] | None = None,
    later: Later = soon,
    memory: ByteBudget | None = None,
    has_upstreams: bool = False,
    clock: WallClock | None = None,
) -> AsyncIterator[Spool]:
    """Open, recovered for `targets`; closed at the end."""
    memory, clock = memory or ByteBudget(64 * MIB), clock or SystemClock()
    spool = Spool(
        store or open_store(directory),
        bytes_max,
        memory,
        clock,
        later,
        has_upstreams=has_upstreams,
    )
    await spool.open()
    by_name = {target.name: target for target in targets}
    for target in targets:
        target.is_listed = listed is None or target.name in listed

    def find(name: str) -> FakeTarget:
        if name not in by_name:
            raise RefusedError("ResourceNotFoundException", "not listed")
        return by_name[name]

    await spool.recover(find)
    try:
        yield spool
    finally:
        await spool.aclose()
