"""On-demand streams that the service keeps warm: used at once, and a fleet wastes little more.

Where a shard is begun is a wager: a daemon does not know how many others begin. What is held here:
one daemon has half of a warm shard in its first second, where it has a fifth of a cold one, and two
have all of it. A fleet that begins with more than the shard takes is throttled more than on a cold
shard once: over five seconds and some seeds, by a second's quota, and by a sixteenth of that for
each daemon if there are more than 16. (Found over eight seeds and ten seconds: 0.93 of a second
with 16, 1.9 with 32; a cold shard throttles 0.4 to 3.5 s of its quota in that time.) After that all
is as ever.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import pytest

from bench.fleet_sim import Load, Plan, Run, simulate
from kdaemon.base.limits import MIB, SHARD_RECORDS_PER_SECOND
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import LimiterKind
from tests.kit.depth import deeper, enough
from tests.kit.world import MS, SECOND, STREAM, Client, World

ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}"
SECONDS = 5
ALONE = Plan(1, LimiterKind.BUCKET, 1, seconds=3)
BACKLOG = 40.0  # times what the shard takes: every daemon has more than it can send


def used(run: Run, second: int) -> float:
    return sum(parts[second] for parts in (daemon.parts() for daemon in run.taken))


@pytest.mark.parametrize("load", [Load.RECORDS, Load.BYTES], ids=lambda load: load.value)
@pytest.mark.parametrize("limiter", LimiterKind, ids=lambda limiter: limiter.value)
def test_one_daemon_has_half_of_a_warm_shard_at_once_and_all_of_it_in_two_seconds(
    limiter: LimiterKind, load: Load
) -> None:
    cold, warm = (
        simulate(replace(ALONE, limiter=limiter, load=load, is_warm=is_warm))
        for is_warm in (False, True)
    )
    assert used(cold, 0) < 0.25
    assert used(warm, 0) >= 0.5
    assert used(warm, 0) + used(warm, 1) >= 1.19
    assert used(warm, 2) >= 0.97
    assert warm.throttled <= cold.throttled


@pytest.mark.parametrize("limiter", LimiterKind, ids=lambda limiter: limiter.value)
def test_two_daemons_have_all_of_it_at_once(limiter: LimiterKind) -> None:
    plan = replace(ALONE, daemons=2, limiter=limiter, start_ns=MS)
    cold, warm = (simulate(replace(plan, is_warm=is_warm)) for is_warm in (False, True))
    assert used(cold, 0) < 0.5
    assert used(warm, 0) >= 0.97
    assert warm.throttled <= cold.throttled + 0.15 * SHARD_RECORDS_PER_SECOND


@pytest.mark.parametrize(
    ("start_ns", "demand"),
    [(MS, 2.0), (SECOND, BACKLOG)],
    ids=["together", "with a backlog, within a second"],
)
@pytest.mark.parametrize("limiter", LimiterKind, ids=lambda limiter: limiter.value)
@pytest.mark.parametrize(("daemons", "seeds"), [(4, 2), *deeper((8, 2), (16, 2)), (32, 1)])
def test_a_fleet_on_a_warm_shard_is_throttled_little_more_than_on_a_cold_one(
    daemons: int, seeds: int, limiter: LimiterKind, start_ns: int, demand: float
) -> None:
    plan = Plan(daemons, limiter, 1, seconds=SECONDS, demand=demand, start_ns=start_ns)
    cold, warm = (
        [simulate(replace(plan, seed=seed + 1, is_warm=is_warm)) for seed in range(seeds)]
        for is_warm in (False, True)
    )
    more = mean(run.throttled for run in warm) - mean(run.throttled for run in cold)
    more_used = mean(run.used for run in warm) - mean(run.used for run in cold)
    print(f"{plan}: {more:.0f} more throttled, {more_used:.3f} more used")
    assert more <= SHARD_RECORDS_PER_SECOND * max(1.0, daemons / 16)
    assert more_used >= -0.05


@pytest.mark.parametrize(
    ("daemons", "limiter", "seconds"),
    [(2, LimiterKind.WINDOW, 120), (8, LimiterKind.BUCKET, enough(120, 60))],
)
def test_what_comes_after_the_beginning_is_as_on_a_cold_shard(
    daemons: int, limiter: LimiterKind, seconds: int
) -> None:
    """The figures that `test_fleet.py` holds of a cold one."""
    run = simulate(Plan(daemons, limiter, 1, seconds=seconds, is_warm=True))
    assert run.used >= 0.97
    assert run.throttled_share <= 0.025
    assert run.fairness >= 0.93


class Growing:
    """Daemons on an on-demand stream of two shards, offered more than eight take."""

    def __init__(self, daemons: int, seed: int) -> None:
        self.world = World(seed, shard_count=2, keeps_records=False, on_written=self._written)
        mode = {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
        self.world.service.handle("UpdateStreamMode", mode, self.world.now_ns)
        self.set_warm(2)
        self.taken = 0
        for number in range(daemons):
            dice = random.Random(f"{seed} {number}")
            settings = replace(self.world.settings, buffer_bytes_max=8 * MIB)
            engine = self.world.add_engine(
                settings=settings, memory=ByteBudget(16 * MIB), dice=dice
            )
            rate = 12.0 * SHARD_RECORDS_PER_SECOND / daemons
            Client(self.world, engine, _make(dice), per_second=rate, gap_ns=20 * MS, dice=dice)

    def set_warm(self, mib: int) -> None:
        members = {"StreamARN": ARN, "WarmThroughputMiBps": mib}
        self.world.service.handle("UpdateStreamWarmThroughput", members, self.world.now_ns)

    def _written(self, _engine: Engine, _batch: Batch, taken: Taken) -> None:
        self.taken += sum(result.is_delivered for result in taken.results)

    def rate_of(self, seconds: int) -> float:
        """Of a shard's quota, as many times as that, over so many seconds."""
        before = self.taken
        self.world.run_until(self.world.now_ns + seconds * SECOND)
        return (self.taken - before) / seconds / SHARD_RECORDS_PER_SECOND


def _make(dice: random.Random) -> Callable[[int], tuple[list[Record], list[int]]]:
    def make(count: int) -> tuple[list[Record], list[int]]:
        records = [Record(bytes(100), str(dice.random())) for _ in range(count)]
        return records, [100 + len(record.partition_key) for record in records]

    return make


@pytest.mark.parametrize("daemons", [1, 4])
def test_a_raised_warm_throughput_is_used_with_the_shards_that_it_brings(daemons: int) -> None:
    """Children begin with what was learnt of their parents: with all of it, or with a part that
    leaves the others theirs.
    """
    growing = Growing(daemons, seed=1)
    growing.rate_of(enough(20, 10))
    assert 1.8 <= growing.rate_of(5) <= 2.05
    growing.set_warm(8)
    growing.rate_of(3)  # the shards are found by the first records that land elsewhere
    assert growing.rate_of(5) >= 7.0
    for engine in growing.world.engines:
        assert engine.audit().queues.shards.shard_count == 8
        assert engine.capacity is not None
        assert engine.capacity.warm_bytes_per_second == 8 * MIB
