"""An engine at one time, for those who look: values that nothing changes any more.

About: what metrics, pages and logs may know of a stream and its shards. They read this and nothing
else of an engine, so that the rooms below may change as they like. Holds no record and no data,
and keys of hot shards alone.
Invariant: what is counted of a stream was read in one synchronous pass, and each shard in one pass
of its own. Structs of msgspec, because a scrape makes thousands: each costs a tenth of a frozen
dataclass, in time and in memory of its class, and the collector leaves values without cycles alone.
Flow: engine.py, heat.py -> here -> `observe/snapshot.py`.
"""

from collections.abc import Iterable, Mapping
from heapq import nlargest

import msgspec

from kdaemon.base.billing import Bill
from kdaemon.base.counters import StreamCounts
from kdaemon.base.description import Capacity
from kdaemon.base.errors import ServiceError
from kdaemon.engine.failures import FailureSnapshot
from kdaemon.engine.health import Health
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.pack.lane import LaneState

BACKLOGGED_NS = 1_000_000_000
"""1 s: a shard that is so far behind counts as backlogged. Ours, 2026-11-21: ten lingers, and more
than what a bucket saves up, so that no burst that the shard can take looks like it."""


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why nothing is sent, or taken: a code, and the words of the service or our own, as they are:
    they may be long, and hold what is not to be shown.
    """

    code: str
    message: str


class ShardSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One shard. `shard_id`: None where shards are not predicted: all of the stream waits there.

    `backlog_ns`: how long the shard takes for all that waits for it, records or bytes, whichever is
    longer; 0: at once. `is_hot`: it is behind by more than a linger, or what waits was refused by
    it just now. `*_rate`: a second, at most, now; `*_share`: what part of the quota that is, 0..1;
    `*_tokens`: what could be sent at once; below 0: the debt of a large record. `taken`,
    `throttled`: records of ours, since the shard is known. `backoff_ns`: 0: none.
    """

    shard_id: str | None
    state: LaneState
    is_hot: bool
    backlog_records: int
    backlog_bytes: int
    backlog_ns: int
    records_rate: int
    bytes_rate: int
    records_share: float
    bytes_share: float
    records_tokens: int
    bytes_tokens: int
    taken: int
    throttled: int
    backoff_ns: int
    failure_count: int

    @property
    def share(self) -> float:
        """Of the quota of records or of bytes, whichever is smaller."""
        return min(self.records_share, self.bytes_share)


class ShardsSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All shards of a stream. `shards`: in the order of the map; or, where so many were not asked
    for, the hottest, and behind them those that are calm and took most, if asked for. `count`: of
    all. `backlogged_count`: of all, those that are more than BACKLOGGED_NS behind.
    `share_min`: the smallest share of a shard that said something of it: of those that never
    throttled and that nothing waits for, nothing is known, and they count as whole.
    `keyless_records`: wait for any shard; they are in no shard's backlog. `oldest_ns`: since when
    the oldest queued record is accepted; None: nothing is queued.
    """

    shards: tuple[ShardSnapshot, ...]
    count: int
    backlogged_count: int
    share_min: float
    keyless_records: int
    oldest_ns: int | None


class EngineSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One stream. `read_ns`: when. `hold`: why nothing can be sent until somebody acts;
    `unavailable`: why nothing is even taken. `shard_count`: 0: nothing is known. `is_asking`: the
    service is asked for the shards; `asks_in_ns`: otherwise, when it will be; below 0 is due. What
    the service tells of the stream is as far as it told: see `Engine`. `splits_shards`: one can be
    split where one likes. `is_joined`: records go out in aggregates. `loads`: what comes for hot
    shards, and by which keys, by shard. `failures`: of late, the last first.
    """

    read_ns: int
    counters: StreamCounts
    bill: Bill
    footprint_bytes: int
    health: Health
    hold: Reason | None
    unavailable: Reason | None
    failures: tuple[FailureSnapshot, ...]
    capacity: Capacity | None
    record_bytes_max: int
    is_auto: bool
    has_record_readers: bool
    shard_bytes_per_second: int
    shard_count: int
    is_asking: bool
    asks_in_ns: int
    shards: ShardsSnapshot
    splits_shards: bool
    is_joined: bool
    loads: Mapping[str, ShardLoad]

    @property
    def is_on_demand(self) -> bool:
        return self.capacity is not None and self.capacity.is_on_demand

    def hottest(self, count: int) -> list[ShardSnapshot]:
        """At most `count` of those that are hot."""
        return hottest(self.shards.shards, count)


def hottest(shards: Iterable[ShardSnapshot], count: int) -> list[ShardSnapshot]:
    """At most `count` of those that are hot, the hottest first; of two that are equally far behind,
    first the one that throttled more.
    """
    hot = (shard for shard in shards if shard.is_hot)
    return nlargest(count, hot, key=lambda shard: (shard.backlog_ns, shard.throttled))


def reason_of(error: ServiceError | None) -> Reason | None:
    return None if error is None else Reason(error.code, error.message)
