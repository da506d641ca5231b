"""An engine at one time: values that never change, for observers.

They are all that metrics, pages and logs may know of a stream and its shards. Observers read
nothing else of an engine, so that the rooms below may change as they like. Holds no record and no
data, and only the keys of hot shards.
Invariant: the counters of a stream were read in one synchronous pass, and each shard in one pass of
its own. They are msgspec Structs, because a scrape makes thousands: each costs a tenth of a frozen
dataclass, in time and in memory of its class, and the garbage collector does not track values
without cycles.
Flow: engine.py, heat.py -> here -> `observe/reading.py`.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from heapq import nlargest

import msgspec

from kdaemon.base.billing import Bill
from kdaemon.base.counters import StreamCounts
from kdaemon.base.description import Capacity
from kdaemon.base.errors import ServiceError
from kdaemon.base.failures import FailureSnapshot
from kdaemon.engine.health import Health
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.pack.lane import LaneState

BACKLOGGED_NS = 1_000_000_000
"""1 s: a shard that is so far behind counts as backlogged. Ours, 2026-11-21: ten lingers, and more
than a bucket saves up, so that a burst that the shard can take does not count."""


FAILING_IN_A_ROW = 3
"""So many answers in which a shard took nothing: it is failing. Ours, 2026-11-29: by chance, or by
a burst of another producer, one or two answers are such."""


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why nothing is sent, or taken: a code, and a message of the service or our own, as it is. The
    message may be long, and may hold text that must not be shown.
    """

    code: str
    message: str


class StreamState(Enum):
    """How a stream is, in one word: the first of these that is so."""

    HOLD = "hold"  # nothing goes out until somebody acts
    OFF = "off"  # no record is even taken
    MISSING = "missing"  # there is no such stream, and no configuration lists it
    FAILING = "failing"  # records wait and none goes out, though kdaemon goes on trying
    UNSEEN = "unseen"  # nothing has shown yet that the stream is there
    OK = "ok"


class ShardSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One shard. `shard_id`: None where shards are not predicted: all of the stream waits there.

    `backlog_ns`: how long the shard needs for its backlog, in records or bytes, whichever is
    longer; 0: no time. `is_hot`: it is behind by more than a linger, or it has just refused records
    that wait. `*_rate`: the most a second that it may get now; `*_share`: that rate as a part of
    the quota, 0..1; `*_tokens`: what could be sent at once; below 0: the debt of a large record.
    `taken`, `throttled`: records of ours, since the shard is known. `backoff_ns`: 0: none.
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
        """The share of the quota of records or of bytes, whichever is smaller."""
        return min(self.records_share, self.bytes_share)


class ShardsSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All shards of a stream. `shards`: in the order of the map. If fewer were asked for: the
    hottest, and behind them, if asked for, the calm shards that took most. `count`: of all shards.
    `backlogged_count`: the shards, of all, that are more than BACKLOGGED_NS behind. `share_min`:
    the smallest share of the shards that have throttled or have a backlog; 1.0 if there are none.
    `keyless_records`: records that wait for any shard; they are in no shard's backlog. `oldest_ns`:
    when the oldest queued record was accepted; None: nothing is queued.
    """

    shards: tuple[ShardSnapshot, ...]
    count: int
    backlogged_count: int
    share_min: float
    keyless_records: int
    oldest_ns: int | None


NO_SHARDS = ShardsSnapshot(
    shards=(), count=0, backlogged_count=0, share_min=1.0, keyless_records=0, oldest_ns=None
)


class EngineSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One stream. `read_ns`: the time of the look. `hold`: why nothing can be sent until somebody
    acts; `unavailable`: why no record is even admitted; `missing`: the service has no such stream,
    and no configuration lists it, so that no record is kept; `unseen`: why the service, when it was
    asked last, did not tell of the stream, and no record was taken since. `shard_count`: 0:
    unknown. `is_asking`: the service is being asked for the shards; `asks_in_ns`: otherwise, the
    time until it is asked; below 0: it is due. Facts of the stream are as far as the service told
    them: see `Engine`. `splits_shards`: an operator can split a shard at any hash key. `is_joined`:
    records go out in aggregates. `loads`: the input of hot shards and its keys, by shard.
    `failures`: the latest failures, the last first.
    """

    read_ns: int
    counters: StreamCounts
    bill: Bill
    footprint_bytes: int
    health: Health
    hold: Reason | None
    unavailable: Reason | None
    missing: Reason | None
    unseen: Reason | None
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

    @property
    def state(self) -> StreamState:
        if self.hold is not None:
            return StreamState.HOLD
        if self.unavailable is not None:
            return StreamState.OFF
        if self.missing is not None:
            return StreamState.MISSING
        if self.failing is not None:
            return StreamState.FAILING
        is_unseen = self.unseen is not None or self.health is Health.UNTRIED
        return StreamState.UNSEEN if is_unseen else StreamState.OK

    @property
    def failing(self) -> Reason | None:
        """Why the records that wait do not go out now, in the words of the last failure: calls fail
        whole, or no hot shard takes any record. None: they go out, none waits, or `hold` or
        `unavailable` says why.
        """
        if self.hold is not None or self.unavailable is not None or not self.failures:
            return None
        if not (self.counters.buffered or self.counters.in_flight):
            return None
        hot = [shard for shard in self.shards.shards if shard.is_hot]
        is_taken = not hot or any(shard.failure_count < FAILING_IN_A_ROW for shard in hot)
        if is_taken and self.health is not Health.ILL:
            return None
        return Reason(self.failures[0].code, self.failures[0].message)

    def hottest(self, count: int) -> list[ShardSnapshot]:
        """At most `count` of the hot shards."""
        return hottest(self.shards.shards, count)


def hottest(shards: Iterable[ShardSnapshot], count: int) -> list[ShardSnapshot]:
    """At most `count` of the hot shards, the hottest first. Of two shards that are equally far
    behind, the shard that throttled more comes first.
    """
    hot = (shard for shard in shards if shard.is_hot)
    return nlargest(count, hot, key=lambda shard: (shard.backlog_ns, shard.throttled))


def reason_of(error: ServiceError | None) -> Reason | None:
    return None if error is None else Reason(error.code, error.message)
