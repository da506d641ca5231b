"""Daemons that share one shard, simulated.

N engines, each with its own memory and dice as a daemon has them, and the sandbox service under
one clock that jumps: no sleep, no socket, no wall clock; a run is replayed by its seed. They are
offered twice the shard's quota in all, in small frames at jittered times; what does not fit a
daemon's buffer is refused, as a client would be. What is measured is what the service took.

Knows engines and the sandbox only through `tests/kit/world.py`. `bench/fleet.py` is the command,
`bench/fleet_report.py` makes tables; `bench/hot_sim.py` is the same for one daemon, many shards.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.limits import KIB, MIB, SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.service import AWS, YANDEX
from kdaemon.config.load import load_config
from kdaemon.config.parts import part_of
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken as ServiceTaken
from kdaemon.sandbox.settings import LimiterKind, SandboxSettings
from kdaemon.streams.laid_out import engine_settings
from tests.kit.world import MS, RECORD_FOOTPRINT_BYTES, SECOND, SETTINGS, STREAM, Client, World

ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}"
DEMAND = 2.0  # of the shard's quota, all daemons together
BUFFER_NS = 2 * SECOND  # of its own demand: what a daemon holds before it refuses
FRAME_NS = 50 * MS  # between frames of one client on average
START_NS = 1 * SECOND  # daemons start within this; the first at 0
SMALL_BYTES = (120, 280)  # a record of logs or clicks: the shard is short of records
LARGE_BYTES = (5 * KIB, 15 * KIB)  # a document: about 10 KiB, the shard is short of bytes
RETAINED_BYTES_MAX = 4 * MIB  # the sandbox forgets what is older: nobody reads it here
YANDEX_WAIT_MS = 5_000  # how long Yandex queues a write over quota; its own setting is not public
MEAN_S = 3  # seconds: rates are judged by a moving mean this long
POOL_RECORDS = 1_009  # distinct records of a daemon, used again and again; prime, so out of step


class Load(Enum):
    """What the daemons are offered."""

    RECORDS = "records"  # small ones: the quota of records binds
    BYTES = "bytes"  # large ones: the quota of bytes binds
    MIX = "mix"  # half of the daemons small, half large: both bind
    BOTH = "both"  # every daemon small and large in one frame: both bind


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `changes_at_s`: when one daemon leaves or joins, seconds; `daemons` counts it.
    `demand`: of the shard's quota, all daemons together. `start_ns`: within which they start.
    """

    daemons: int
    limiter: LimiterKind
    seed: int
    seconds: int = 120
    load: Load = Load.RECORDS
    joins_at_s: int | None = None  # the last daemon starts then
    leaves_at_s: int | None = None  # the first daemon is gone from then on
    is_yandex: bool = False  # the service holds what is over quota, and refuses late
    demand: float = DEMAND
    start_ns: int = START_NS
    is_warm: bool = False  # the stream is on demand, and warm for all that the shard takes
    workers: int = 0  # of one daemon, and `daemons` of them are busy; 0: daemons of their own

    def __str__(self) -> str:
        changes = ""
        if self.joins_at_s is not None:
            changes += f", one joins at {self.joins_at_s} s"
        if self.leaves_at_s is not None:
            changes += f", one leaves at {self.leaves_at_s} s"
        service = ", Yandex" if self.is_yandex else ", warm" if self.is_warm else ""
        who = f"of {self.workers} workers" if self.workers else "daemons"
        return (
            f"{self.daemons} {who}, {self.limiter.value}, {self.load.value}{service}{changes}, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What the service took of one daemon: records and bytes in each second of the run."""

    records: list[int]
    bytes: list[int]
    is_large: bool  # its records are the large ones of a mix

    def parts(self) -> list[float]:
        """Of the shard's quota in each second, in the side that its records need most."""
        by_records = sum(self.records) / SHARD_RECORDS_PER_SECOND
        by_bytes = sum(self.bytes) / SHARD_BYTES_PER_SECOND
        if by_bytes > by_records:
            return [count / SHARD_BYTES_PER_SECOND for count in self.bytes]
        return [count / SHARD_RECORDS_PER_SECOND for count in self.records]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan. `taken` by daemon, in the order of their names."""

    plan: Plan
    taken: list[Taken]
    attempts: int
    throttled: int
    held_ms: float  # a record's wait at the service for quota, mean (0 where it refuses at once)

    @property
    def records_used(self) -> float:
        """Of the quota of records over the whole run. A token bucket starts with a second's worth
        saved up, which counts as taken too: up to 1 / `seconds` above 1.0.
        """
        count = sum(sum(daemon.records) for daemon in self.taken)
        return count / (SHARD_RECORDS_PER_SECOND * self.plan.seconds)

    @property
    def bytes_used(self) -> float:
        count = sum(sum(daemon.bytes) for daemon in self.taken)
        return count / (SHARD_BYTES_PER_SECOND * self.plan.seconds)

    @property
    def used(self) -> float:
        """Of the quota that binds."""
        return max(self.records_used, self.bytes_used)

    @property
    def throttled_share(self) -> float:
        """Throttled records of all that were sent."""
        return self.throttled / max(1, self.attempts)

    @property
    def fairness(self) -> float:
        """Jain's index over what the daemons that were there all the time got; of a mix the worse
        of its two kinds, each among its like (an unequal demand has no one fair part).
        """
        first = 1 if self.plan.leaves_at_s is not None else 0
        last = len(self.taken) - (1 if self.plan.joins_at_s is not None else 0)
        there = self.taken[first:last]
        kinds = [[daemon for daemon in there if daemon.is_large is kind] for kind in (True, False)]
        return min(jain([sum(daemon.parts()) for daemon in kind]) for kind in kinds if kind)

    @property
    def total_by_second(self) -> list[float]:
        """Of the quota that binds, all daemons together."""
        if self.bytes_used > self.records_used:
            sides = [[count / SHARD_BYTES_PER_SECOND for count in d.bytes] for d in self.taken]
        else:
            sides = [[count / SHARD_RECORDS_PER_SECOND for count in d.records] for d in self.taken]
        return [sum(second) for second in zip(*sides, strict=True)]

    @property
    def join_seconds(self) -> int | None:
        """Until the daemon that joined had half of its fair part over the last 3 s."""
        joined_s = self.plan.joins_at_s
        if joined_s is None:
            return None
        return seconds_until(self.taken[-1].parts(), joined_s, 0.5 / self.plan.daemons)

    @property
    def leave_seconds(self) -> int | None:
        """Until those who stayed used 97 % of the shard over the last 3 s."""
        left_s = self.plan.leaves_at_s
        return None if left_s is None else seconds_until(self.total_by_second, left_s, 0.97)


def jain(parts: list[float]) -> float:
    """1 if all have the same, 1/n if one has everything; 0 if nobody has anything."""
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 0.0


def seconds_until(by_second: list[float], since_s: int, level: float) -> int:
    """The end of the first 3 s after `since_s` whose mean is at least `level`; the rest of the run
    if there are none.
    """
    for end_s in range(since_s + MEAN_S, len(by_second) + 1):
        if sum(by_second[end_s - MEAN_S : end_s]) >= level * MEAN_S:
            return end_s - since_s
    return len(by_second) - since_s


def pool_of(pool: list[Record], at: int) -> Callable[[int], tuple[list[Record], list[int]]]:
    """Makes frames of the records of a pool in turn, from `at` on, the same ones again and again:
    a record of one shard with a key is not changed by being sent.
    """
    sizes = [len(record.data) + len(record.partition_key) for record in pool]
    turn = at

    def make(count: int) -> tuple[list[Record], list[int]]:
        nonlocal turn
        picked = [(turn + step) % len(pool) for step in range(count)]
        turn += count
        return [pool[index] for index in picked], [sizes[index] for index in picked]

    return make


class Fleet:
    """The daemons of one run and what the service takes of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(
            plan.seed,
            shard_count=1,
            service_settings=SandboxSettings(
                service=YANDEX if plan.is_yandex else AWS,
                limiter=plan.limiter,
                quota_wait_ms=YANDEX_WAIT_MS if plan.is_yandex else None,
                retained_bytes_max=RETAINED_BYTES_MAX,
            ),
            keeps_records=False,
            on_written=self._written,
        )
        if plan.is_warm:
            self._warm()
        self._dice = random.Random(f"fleet {plan.seed}")
        self._started_ns = self.world.now_ns
        self._taken = [
            Taken([0] * plan.seconds, [0] * plan.seconds, self._is_large(index))
            for index in range(plan.daemons)
        ]
        self._held_ns = 0  # of all records taken
        self._daemons: dict[int, tuple[Engine, Client]] = {}
        self._index_of: dict[Engine, int] = {}

    def run(self) -> Run:
        plan, world = self.plan, self.world
        for index in range(plan.daemons):
            after_ns = 0 if index == 0 else self._dice.randrange(plan.start_ns)
            if plan.joins_at_s is not None and index == plan.daemons - 1:
                after_ns = plan.joins_at_s * SECOND
            world.at(self._started_ns + after_ns, _call(self._start, index))
        if plan.leaves_at_s is not None:
            world.at(self._started_ns + plan.leaves_at_s * SECOND, self._leave)
        world.run_until(self._started_ns + plan.seconds * SECOND)
        counters = [engine.counters for engine in self._index_of]
        record_count = sum(sum(each.records) for each in self._taken)
        return Run(
            plan,
            self._taken,
            sum(each.attempts for each in counters),
            sum(each.throttled for each in counters),
            self._held_ns / MS / max(1, record_count),
        )

    def _warm(self) -> None:
        service, now_ns = self.world.service, self.world.now_ns
        mode: dict[str, object] = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
        mode |= {"StreamARN": ARN, "WarmThroughputMiBps": SHARD_BYTES_PER_SECOND // MIB}
        service.handle("UpdateStreamMode", mode, now_ns)

    def _is_large(self, index: int) -> bool:
        load = self.plan.load
        return load is Load.BYTES or (load is Load.MIX and index % 2 == 1)

    def _demand(self, index: int) -> tuple[list[Record], float]:
        """A daemon's records, and how many of them it is offered a second."""
        plan = self.plan
        # When one leaves, the rest must still want more than all.
        wanting = plan.daemons - (1 if plan.leaves_at_s is not None else 0)
        small_mean, large_mean = sum(SMALL_BYTES) / 2, sum(LARGE_BYTES) / 2
        small_per_s = plan.demand * SHARD_RECORDS_PER_SECOND / wanting
        large_per_s = plan.demand * SHARD_BYTES_PER_SECOND / large_mean / wanting
        if plan.load is Load.MIX:
            larges = wanting // 2
            small_per_s *= wanting / max(1, wanting - larges)
            large_per_s *= wanting / max(1, larges)
        large_share = 1.0 if self._is_large(index) else 0.0
        if plan.load is Load.BOTH:
            mean = SHARD_BYTES_PER_SECOND / SHARD_RECORDS_PER_SECOND
            large_share = (mean - small_mean) / (large_mean - small_mean)
        pool = []
        for number in range(POOL_RECORDS):
            is_large = self._dice.random() < large_share
            size = self._dice.randint(*(LARGE_BYTES if is_large else SMALL_BYTES))
            pool.append(Record(_DATA[: size - 8], f"{index % 100:02d}{number:06d}"))
        return pool, large_per_s if self._is_large(index) else small_per_s

    def _start(self, index: int) -> None:
        pool, per_second = self._demand(index)
        mean_bytes = sum(len(record.data) for record in pool) / len(pool)
        buffer_bytes = (mean_bytes + RECORD_FOOTPRINT_BYTES) * per_second * BUFFER_NS / SECOND
        workers = self.plan.workers
        settings: EngineSettings = replace(
            settings_of_worker(workers) if workers else SETTINGS,
            buffer_bytes_max=max(64 * KIB, round(buffer_bytes)),
            is_shard_atomic=self.plan.is_yandex,
        )
        engine = self.world.add_engine(
            settings=settings,
            memory=ByteBudget(2 * settings.buffer_bytes_max),
            dice=random.Random(f"daemon {self.plan.seed}.{index}"),
        )
        self._index_of[engine] = index
        client = Client(
            self.world,
            engine,
            pool_of(pool, self._dice.randrange(len(pool))),
            per_second=per_second,
            gap_ns=FRAME_NS,
            dice=random.Random(f"client {self.plan.seed}.{index}"),
        )
        self._daemons[index] = (engine, client)

    def _leave(self) -> None:
        engine, client = self._daemons[0]
        client.is_gone = True
        self.world.remove_engine(engine)

    def _written(self, engine: Engine, batch: Batch, taken: ServiceTaken) -> None:
        mine = self._taken[self._index_of[engine]]
        stalled_ns = taken.stalled_until_ns - self.world.now_ns
        second = (taken.stalled_until_ns - self._started_ns) // SECOND
        if second >= self.plan.seconds:
            return  # held back beyond the end
        for record, result in zip(batch.records, taken.results, strict=True):
            if result.sequence_number and not result.error_code:
                mine.records[second] += 1
                mine.bytes[second] += len(record.data) + len(record.partition_key)
                self._held_ns += stalled_ns


def settings_of_worker(worker_count: int) -> EngineSettings:
    """What one of several workers has of the default configuration."""
    text = f"workers = {worker_count}\nmemory_bytes_max = {worker_count * 128 * MIB}"
    part = part_of(load_config(text=text), directory="").default
    return replace(engine_settings(part, AWS), max_age_ns=SETTINGS.max_age_ns)


_DATA = bytes(LARGE_BYTES[1])


def _call(method: Callable[[int], object], index: int) -> Callable[[], object]:
    return lambda: method(index)


def simulate(plan: Plan) -> Run:
    """Runs a plan; the same plan gives the same run."""
    return Fleet(plan).run()
