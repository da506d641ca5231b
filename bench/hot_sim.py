"""Hot shards and key-less records, simulated.

One engine and one stream of many shards under one clock that jumps, as in `bench/fleet_sim.py`.
`bench/hot.py` is the command.

hot: one shard is offered ten times its quota, each other half of it, by a client of its own
(`separate`) or in the same frames (`mixed`); beside it the same without the hot shard (`calm`).
keyless: other producers take half of the stream, and records without a key want more than what is
left; beside it the same with random keys.

Everything is measured after a warm-up, when the hot shard's queue is long and the pace has been
learned. Rates are what the service took; a time is from submit to the answer, per record.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from bench.disk import percentile
from kdaemon.base.limits import MIB, SHARD_RECORDS_PER_SECOND
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import LimiterKind, SandboxSettings
from kdaemon.sandbox.shards import Shard
from tests.kit.queues import lanes_of
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Client, World

SHARDS = 64
WARM_UP_S = 10  # simulated
SECONDS = 20  # simulated, after the warm-up
HOT_TIMES = 10.0  # of its quota, offered to the hot shard
COLD_TIMES = 0.5  # the same, to each of the others
KEYLESS_TIMES = 1.2  # of what other producers leave, wanted by records without a key
DATA = bytes(200)  # a record of logs or clicks; quotas of records bind
FRAME_NS = 10 * MS  # between frames of one client on average
FOREIGN_NS = 10 * MS  # between calls of the other producers on average
BUFFER_BYTES_MAX = (
    16 * MIB
)  # small, so that the hot shard's excess (5 MB/s) fills it in the warm-up
RETAINED_BYTES_MAX = 16 * MIB  # the sandbox forgets what is older: nobody reads it here
QUEUE_SAMPLE_NS = 100 * MS


class Case(Enum):
    """What the stream is put to."""

    CALM = "calm"  # no hot shard: what the others are compared with
    SEPARATE = "separate"  # the hot shard's client sends its own frames
    MIXED = "mixed"  # one client, frames for all shards
    HALF_TAKEN = "half of the shards taken"  # by other producers, each wholly
    HALF_OF_EACH = "half of each shard taken"


HOT_CASES = (Case.CALM, Case.SEPARATE, Case.MIXED)
KEYLESS_CASES = (Case.HALF_TAKEN, Case.HALF_OF_EACH)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Measured from `warm_up_s` on, for `seconds`."""

    case: Case
    limiter: LimiterKind
    seed: int
    is_keyless: bool = True  # of the two keyless cases; else random keys
    shards: int = SHARDS
    warm_up_s: int = WARM_UP_S
    seconds: int = SECONDS

    def __str__(self) -> str:
        return f"{self.case.value}, {self.limiter.value}, {self.shards} shards, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan, within the measured seconds. Shards by their place in the stream; the
    hot one is the first. `refused`: records for which there was no room, by client.
    """

    plan: Plan
    offered: list[int]
    taken: list[int]
    foreign: int  # records of other producers that the service took
    p99_ns: int  # of all shards but the hot one
    attempts: int
    throttled: int
    refused: dict[str, float]  # share of what the client offered
    hot_queue_bytes_max: int

    @property
    def hot_used(self) -> float:
        return self.taken[0] / (SHARD_RECORDS_PER_SECOND * self.plan.seconds)

    @property
    def cold_used(self) -> float:
        """Of what was offered to all shards but the hot one."""
        return sum(self.taken[1:]) / sum(self.offered[1:])

    @property
    def cold_used_min(self) -> float:
        """The same of the shard that fared worst."""
        pairs = zip(self.taken[1:], self.offered[1:], strict=True)
        return min(taken / offered for taken, offered in pairs)

    @property
    def left_used(self) -> float:
        """Of what the other producers left of the stream."""
        quota = SHARD_RECORDS_PER_SECOND * self.plan.seconds * self.plan.shards
        return sum(self.taken) / (quota - self.foreign)

    @property
    def throttled_share(self) -> float:
        return self.throttled / max(1, self.attempts)


class Bench:
    """One run: clients, other producers, and what is counted of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(
            plan.seed,
            shard_count=plan.shards,
            settings=replace(SETTINGS, buffer_bytes_max=BUFFER_BYTES_MAX),
            service_settings=SandboxSettings(
                limiter=plan.limiter, retained_bytes_max=RETAINED_BYTES_MAX
            ),
            keeps_records=False,
            on_written=self._written,
            on_answered=self._answered,
        )
        self._dice = random.Random(f"hot {plan.seed}")
        self._engine = self.world.add_engine()
        shards = self.world.service.stream(STREAM).open_shards
        self._place = {shard.shard_id: place for place, shard in enumerate(shards)}
        middles = [(shard.starting_hash_key + shard.ending_hash_key) // 2 for shard in shards]
        self._pool = [
            Record(DATA, f"k{place:03d}", str(middle)) for place, middle in enumerate(middles)
        ]
        self._keys = [f"{self._dice.randrange(10**6):06d}" for _ in range(10_007)]
        self._offered = [0] * plan.shards
        self._taken = [0] * plan.shards
        self._foreign = 0
        self._waits: list[int] = []  # nanoseconds from submit to answer, of each record
        self._hot_queue_bytes_max = 0
        self._clients: dict[str, Client] = {}
        self._foreign_owed = 0.0
        self._foreign_at_ns = self.world.now_ns

    def run(self) -> Run:
        plan, world = self.plan, self.world
        world.run_until(world.now_ns + 100 * MS)  # the shard map is there
        self._admit()
        world.run_until(world.now_ns + plan.warm_up_s * SECOND)
        counters = self._engine.counters
        before = (counters.attempts, counters.throttled)
        clients = self._clients
        fed = {name: (client.offered, client.refused) for name, client in clients.items()}
        self._offered = [0] * plan.shards
        self._taken = [0] * plan.shards
        self._foreign = 0
        self._waits.clear()
        self._sample()
        world.run_until(world.now_ns + plan.seconds * SECOND)
        return Run(
            plan,
            self._offered,
            self._taken,
            self._foreign,
            percentile(self._waits, 99),
            counters.attempts - before[0],
            counters.throttled - before[1],
            {
                name: (client.refused - fed[name][1]) / max(1, client.offered - fed[name][0])
                for name, client in clients.items()
            },
            self._hot_queue_bytes_max,
        )

    def _admit(self) -> None:
        """The clients of the case, and the other producers."""
        plan = self.plan
        quota = SHARD_RECORDS_PER_SECOND
        cold_per_s = COLD_TIMES * quota * (plan.shards - 1)
        if plan.case in (Case.CALM, Case.SEPARATE):
            self._client("others", self._cold, cold_per_s)
        if plan.case is Case.SEPARATE:
            self._client("hot", self._hot, HOT_TIMES * quota)
        if plan.case is Case.MIXED:
            self._client("all", self._mixed, cold_per_s + HOT_TIMES * quota)
        if plan.case in KEYLESS_CASES:
            self._client(
                "keyless" if plan.is_keyless else "keyed",
                self._unkeyed if plan.is_keyless else self._keyed,
                KEYLESS_TIMES * quota * plan.shards / 2,
            )
            self._others_wait()

    def _client(
        self, name: str, make: Callable[[int], tuple[list[Record], list[int]]], per_second: float
    ) -> None:
        dice = random.Random(f"{name} {self.plan.seed}")
        self._clients[name] = Client(
            self.world, self._engine, make, per_second=per_second, gap_ns=FRAME_NS, dice=dice
        )

    # What clients send

    def _cold(self, count: int) -> tuple[list[Record], list[int]]:
        return self._to([1 + self._pick(self.plan.shards - 1) for _ in range(count)])

    def _hot(self, count: int) -> tuple[list[Record], list[int]]:
        return self._to([0] * count)

    def _mixed(self, count: int) -> tuple[list[Record], list[int]]:
        hot_share = HOT_TIMES / (HOT_TIMES + COLD_TIMES * (self.plan.shards - 1))
        random_ = self._dice.random
        cold = self.plan.shards - 1
        return self._to(
            [0 if random_() < hot_share else 1 + self._pick(cold) for _ in range(count)]
        )

    def _pick(self, below: int) -> int:
        return int(self._dice.random() * below)

    def _to(self, places: list[int]) -> tuple[list[Record], list[int]]:
        for place in places:
            self._offered[place] += 1
        pool = self._pool
        return [pool[place] for place in places], [len(DATA) + 4] * len(places)

    def _unkeyed(self, count: int) -> tuple[list[Record], list[int]]:
        return [Record(DATA, "") for _ in range(count)], [len(DATA) + 6] * count

    def _keyed(self, count: int) -> tuple[list[Record], list[int]]:
        keys = self._keys
        picked = [keys[self._pick(len(keys))] for _ in range(count)]
        return [Record(DATA, key) for key in picked], [len(DATA) + 6] * count

    # Other producers: they ask the shard's limiter itself, and do not yield

    def _others_wait(self) -> None:
        gap_ns = round(FOREIGN_NS * self._dice.uniform(0.5, 1.5))
        self.world.at(self.world.now_ns + gap_ns, self._others_write)

    def _others_write(self) -> None:
        now_ns = self.world.now_ns
        shards = self.world.service.stream(STREAM).open_shards
        times = 0.5
        if self.plan.case is Case.HALF_TAKEN:
            shards, times = shards[::2], 1.0
        elapsed_ns = now_ns - self._foreign_at_ns
        self._foreign_at_ns = now_ns
        self._foreign_owed += times * SHARD_RECORDS_PER_SECOND * elapsed_ns / SECOND
        count = int(self._foreign_owed)
        self._foreign_owed -= count
        for shard in shards:
            self._foreign += _take(shard, count, now_ns)
        self._others_wait()

    # What is counted

    def _written(self, _: Engine, __: Batch, answer: Taken) -> None:
        taken, place = self._taken, self._place
        for result in answer.results:
            if result.sequence_number and not result.error_code:
                assert result.shard_id is not None
                taken[place[result.shard_id]] += 1

    def _answered(self, _: Engine, batch: Batch, results: list[RecordResult]) -> None:
        waits = self._waits
        now_ns = self.world.now_ns
        hot_id = lanes_of(self._engine)[0].shard_id
        offset = 0
        for run in batch.runs:
            answers = results[offset : offset + len(run.indices)]
            offset += len(run.indices)
            delivered = sum(result.is_delivered for result in answers)
            if delivered and answers[0].shard_id != hot_id:
                waits += [now_ns - run.frame.accepted_ns] * delivered

    def _sample(self) -> None:
        queued = lanes_of(self._engine)[0].queued_bytes
        self._hot_queue_bytes_max = max(self._hot_queue_bytes_max, queued)
        self.world.at(self.world.now_ns + QUEUE_SAMPLE_NS, self._sample)


def _take(shard: Shard, count: int, now_ns: int) -> int:
    """Writes that many records of others, one by one; how many the shard took."""
    return sum(shard.limiter.take(1, len(DATA), now_ns) for _ in range(count))


def simulate(plan: Plan) -> Run:
    """Runs a plan; the same plan gives the same run."""
    return Bench(plan).run()
