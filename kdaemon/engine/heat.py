"""How far each shard of a stream is behind, and which shards are hot; for observers.

A shard is hot if more comes for it than it takes. That shows as time: how long its queue needs at
its present rate. Knows lanes and buckets. Nothing is kept between two looks, nothing is counted
while records move, and looking changes nothing (a bucket is not even refilled).
Cost: 0.3 us for each idle shard, 4 us for each that has records waiting or is reported, and 60 ns
for each client that waits there (one core, 2026-11-28); so a look is made in steps.
Flow: lanes -> here -> snapshot.py.
"""

from heapq import nlargest

from kdaemon.base.steps import Steps
from kdaemon.engine.snapshot import BACKLOGGED_NS, ShardSnapshot, ShardsSnapshot, hottest
from kdaemon.pace.bucket import BURST_NS, NS_PER_SECOND, TokenBucket
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer

LANES_A_STEP = 250  # lanes that one step looks at: a millisecond; ours, 2026-11-28
CLIENTS_A_LANE = 64  # waiting clients that count as one lane more to look at; ours, 2026-11-28


def look_at(
    packer: Packer, now_ns: int, shards_max: int | None, calm_max: int
) -> Steps[ShardsSnapshot]:
    """Looks once at every lane that exists when the look begins, with `now_ns` as the time of all
    of it. `shards_max`: the most shards that are reported, the hottest first; None: all shards are.
    `calm_max`: the most shards that are reported in addition though they are not hot: those that
    took most.
    """
    looked_at, keyless = tuple(packer.lanes), packer.keyless_lane
    linger_ns, aggregate_bytes_max = packer.linger_ns, packer.aggregate_bytes_max
    shards: list[ShardSnapshot] = []
    calm: list[Lane] = []
    backlogged_count, share_min = 0, 1.0
    heads_ns = [lane.oldest_ns() for lane in (keyless,) if lane.queue]
    keyless_records = keyless.queued_records
    looks = 0
    for lane in looked_at:
        looks += 1 if lane.turns is None else 1 + lane.turns.client_count // CLIENTS_A_LANE
        if looks >= LANES_A_STEP:
            looks = 0
            calm = _took_most(calm, calm_max)
            yield
        backlog_ns, is_hot = 0, lane.blocked_until_ns > now_ns
        has_backlog = _has_backlog(lane)
        if has_backlog:
            backlog_ns = _backlog_ns(lane, aggregate_bytes_max, now_ns)
            is_hot = backlog_ns > linger_ns or lane.failure_count > 0
            backlogged_count += backlog_ns > BACKLOGGED_NS
            if lane.queue:
                heads_ns.append(lane.oldest_ns())
        if has_backlog or lane.throttled:
            share_min = min(share_min, lane.budget.records_share, lane.budget.bytes_share)
        if is_hot or shards_max is None:
            shards.append(_shard(lane, backlog_ns, now_ns, is_hot=is_hot))
        elif calm_max:
            calm.append(lane)
    if shards_max is not None:
        shards = hottest(shards, shards_max)
    for lane in _took_most(calm, calm_max):
        backlog_ns = _backlog_ns(lane, aggregate_bytes_max, now_ns) if _has_backlog(lane) else 0
        shards.append(_shard(lane, backlog_ns, now_ns, is_hot=False))
    return ShardsSnapshot(
        shards=tuple(shards),
        count=len(looked_at),
        backlogged_count=backlogged_count,
        share_min=share_min,
        keyless_records=keyless_records,
        oldest_ns=min(heads_ns, default=None),
    )


def _has_backlog(lane: Lane) -> bool:
    return bool(lane.queued_records or lane.waiting_records)


def _took_most(lanes: list[Lane], count: int) -> list[Lane]:
    """At most `count` of them, in descending order of the records they took."""
    return nlargest(count, lanes, key=lambda lane: lane.taken)


def _shard(lane: Lane, backlog_ns: int, now_ns: int, *, is_hot: bool) -> ShardSnapshot:
    budget = lane.budget
    records, byte_bucket = budget.records, budget.bytes
    return ShardSnapshot(
        shard_id=lane.shard_id,
        state=lane.state,
        is_hot=is_hot,
        backlog_records=lane.backlog_records,
        backlog_bytes=lane.backlog_bytes,
        backlog_ns=backlog_ns,
        records_rate=records.rate,
        bytes_rate=byte_bucket.rate,
        records_share=budget.records_share,
        bytes_share=budget.bytes_share,
        records_tokens=records.available_at(now_ns),
        bytes_tokens=byte_bucket.available_at(now_ns),
        taken=lane.taken,
        throttled=lane.throttled,
        backoff_ns=max(0, lane.blocked_until_ns - now_ns),
        failure_count=lane.failure_count,
    )


def _backlog_ns(lane: Lane, aggregate_bytes_max: int, now_ns: int) -> int:
    """How long the shard needs for its backlog. Only while records wait. An aggregate costs the
    shard one record.
    """
    records, byte_count = lane.backlog_records, lane.backlog_bytes
    if aggregate_bytes_max and lane.shard_id is not None:
        records = min(records, 1 + byte_count // aggregate_bytes_max)
    budget = lane.budget
    return max(
        _payable_in_ns(budget.records, records, now_ns),
        _payable_in_ns(budget.bytes, byte_count, now_ns),
    )


def _payable_in_ns(bucket: TokenBucket, cost: int, now_ns: int) -> int:
    """How long until a cost of any size has been paid, in as many parts as needed: saved tokens pay
    first.
    """
    rate = bucket.rate
    beyond_capacity = max(0, cost * NS_PER_SECOND - rate * BURST_NS)
    return max(0, bucket.ready_at_ns(cost) - now_ns) + beyond_capacity // rate
