"""How far each shard of a stream is behind: what is hot, for those who look.

About: a shard is hot if more comes for it than it takes, and that shows as time: how long its queue
needs at the rate that it has now. Knows lanes and buckets; nothing is kept between two looks,
nothing is counted while records move, and looking changes nothing (a bucket is not even refilled).
Cost: 0.5 us for each shard, 4 us for each that records wait for (one core, 2026-11-21); so a look
is made in steps.
Flow: lanes -> here -> the pages and logs of `observe/`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest

from kdaemon.base.steps import Steps
from kdaemon.pace.bucket import BURST_NS, NS, TokenBucket
from kdaemon.pack.lane import Lane

BACKLOGGED_NS = 1_000_000_000
"""1 s: a shard that is so far behind counts as backlogged. Ours, 2026-11-21: ten lingers, and more
than what a bucket saves up, so that no burst that the shard can take looks like it."""

LANES_A_STEP = 250  # that are looked at in one step: a millisecond; ours, 2026-11-28


@dataclass(slots=True)
class ShardHeat:
    """One shard at the time of a look. `backlog_ns`: how long the shard takes for all that waits
    for it, records or bytes, whichever is longer; 0: at once. `is_hot`: it is behind by more than a
    linger, or what waits was refused by it just now.
    """

    lane: Lane
    backlog_ns: int
    is_hot: bool

    @property
    def share(self) -> float:
        """Of the shard's quota: the part that we use at most now, of records or of bytes, whichever
        is smaller. 0..1.
        """
        budget = self.lane.budget
        return min(budget.records_share, budget.bytes_share)


@dataclass(slots=True)
class StreamHeat:
    """All shards of a stream, in the order of the map. `keyless`: where records wait that any shard
    may take; they are in no shard's backlog.
    """

    shards: list[ShardHeat]
    keyless: Lane

    def hottest(self, count: int) -> list[ShardHeat]:
        """At most `count` of those that are hot, the hottest first; of two that are equally far
        behind, first the one that throttled more.
        """
        hot = (shard for shard in self.shards if shard.is_hot)
        return nlargest(count, hot, key=lambda shard: (shard.backlog_ns, shard.lane.throttled))

    @property
    def backlogged_count(self) -> int:
        """Shards that are more than BACKLOGGED_NS behind."""
        return sum(shard.backlog_ns > BACKLOGGED_NS for shard in self.shards)

    @property
    def share_min(self) -> float:
        """The smallest share of a shard that said something of it: of those that never throttled
        and that nothing waits for, nothing is known, and they count as whole.
        """
        shares = (
            shard.share
            for shard in self.shards
            if shard.lane.throttled or shard.lane.backlog_records
        )
        return min(shares, default=1.0)


def heat_of(
    lanes: Iterable[Lane], keyless: Lane, linger_ns: int, aggregate_bytes_max: int, now_ns: int
) -> Steps[StreamHeat]:
    """Looks once at every lane that is there when the look begins, as if all of it were at one
    time. `aggregate_bytes_max`: as the packer's.
    """
    shards: list[ShardHeat] = []
    for number, lane in enumerate(tuple(lanes), 1):
        if not number % LANES_A_STEP:
            yield
        if not (lane.queued_records or lane.waiting_records):
            shards.append(ShardHeat(lane, 0, is_hot=lane.blocked_until_ns > now_ns))
            continue
        backlog_ns = _backlog_ns(lane, aggregate_bytes_max, now_ns)
        is_hot = backlog_ns > linger_ns or lane.failure_count > 0
        shards.append(ShardHeat(lane, backlog_ns, is_hot))
    return StreamHeat(shards, keyless)


def _backlog_ns(lane: Lane, aggregate_bytes_max: int, now_ns: int) -> int:
    """Only while something waits. An aggregate costs the shard one record."""
    records, byte_count = lane.backlog_records, lane.backlog_bytes
    if aggregate_bytes_max and lane.shard_id is not None:
        records = min(records, 1 + byte_count // aggregate_bytes_max)
    budget = lane.budget
    return max(
        _payable_in_ns(budget.records, records, now_ns),
        _payable_in_ns(budget.bytes, byte_count, now_ns),
    )


def _payable_in_ns(bucket: TokenBucket, cost: int, now_ns: int) -> int:
    """How long until a cost of any size has been paid, in as many parts as it takes: what is saved
    up pays first.
    """
    rate = bucket.rate
    beyond_capacity = max(0, cost * NS - rate * BURST_NS)
    return max(0, bucket.ready_at_ns(cost) - now_ns) + beyond_capacity // rate
