"""How much one shard takes from this daemon a second: records and bytes, both or neither.

The quota bounds both. Under it, each has an adaptive share of its own, which follows the shard's
throttles (`adaptive.py`): a shard that is short of bytes is not short of records. Bytes are those
of data + partition key, as the service counts them. Sits between the lanes and the two buckets.
"""

from typing import Final

from kdaemon.pace.adaptive import ALONE_TAKEN, FIRST_SHARE, AdaptiveShare
from kdaemon.pace.bucket import NS_PER_SECOND, TokenBucket

GROWTH_STEP_NS: Final = 20_000_000  # 20 ms: how often a growing share moves its bucket's rate
INTERVAL_NS: Final = 900_000_000
"""0.9 s: what one daemon sees of a shard is counted over about the second over which quotas are
counted. Found by simulation, as the constants of `adaptive.py`."""

STALL_SPAN_NS: Final = 300_000_000  # 0.3 s: over less time the growth of a queue is noise
# 5 s: a queue that does not grow should be gone after this time.
STALL_WHOLE_NS: Final = 5_000_000_000
QUIET_NS: Final = (
    300_000_000  # 0.3 s without a throttle: a share that was levelled need wait no longer
)
IDLE_NS: Final = 5_000_000_000
"""5 s without a call: no backoff of a shard is longer (`backoff.SHARD_BACKOFF`), so there was
nothing to send. A rate over such a time says nothing of what the shard takes."""

BURST_S: Final = 0.5  # sending for less than half a second says nothing of a rate


class Interval:
    """What was sent to the shard, and what was throttled, since the last decision."""

    __slots__ = (
        "bytes",
        "calls",
        "last_sent_ns",
        "quiet_since_ns",
        "records",
        "since_ns",
        "stalls",
        "throttled",
        "throttled_calls",
    )

    def __init__(self, now_ns: int) -> None:
        self.begin(now_ns)

    def begin(self, now_ns: int) -> None:
        self.since_ns = self.last_sent_ns = self.quiet_since_ns = now_ns
        self.calls = self.records = self.bytes = self.throttled_calls = 0
        self.throttled = 0.0  # in records
        # Of calls: when sent, and how long stalled; the first and the last.
        self.stalls: list[tuple[int, int]] = []

    def stall(self, sent_ns: int, stalled_ns: int) -> None:
        """Notes that a call, sent at `sent_ns`, was stalled. The first and the last are kept."""
        self.stalls[1:] = [(sent_ns, stalled_ns)]

    def part(self) -> float:
        """The part of what was sent that was too much, 0..1: refused, or stalled.

        For stalled calls the growth of the queue tells the part: a queue that grows by half a
        second in a second means a third too much. And the queue itself must shrink.
        """
        part = self.throttled / self.records
        if self.stalls:
            (first_sent_ns, first_ns), (last_sent_ns, last_ns) = self.stalls[0], self.stalls[-1]
            growth = max(0, last_ns - first_ns) / max(STALL_SPAN_NS, last_sent_ns - first_sent_ns)
            part += growth / (1.0 + growth)
            if last_ns >= first_ns:
                part += last_ns / STALL_WHOLE_NS
        return min(1.0, part)


class Quota:
    """A bucket for one kind of token. Its rate is our share of the ceiling."""

    __slots__ = ("_grown_at_ns", "bucket", "ceiling", "share")

    def __init__(self, ceiling: int, first_share: float, now_ns: int) -> None:
        """`ceiling`: tokens a second, at least 1."""
        self.ceiling = ceiling
        self.share = AdaptiveShare(first_share, now_ns)
        self.bucket = TokenBucket(self._rate(), now_ns)
        self._grown_at_ns = now_ns

    def grow(self, now_ns: int) -> None:
        """Grows the share for the time that has passed, and refills the bucket."""
        if not self.share.is_settled and now_ns - self._grown_at_ns >= GROWTH_STEP_NS:
            self._grown_at_ns = now_ns
            self.share.grow(now_ns)
            self.bucket.set_rate(self._rate(), now_ns)

    def set_rate(self, now_ns: int) -> None:
        """Sets the bucket's rate after a change of the ceiling or of the share."""
        self.bucket.set_rate(self._rate(), now_ns)

    def _rate(self) -> int:
        return max(1, int(self.ceiling * self.share.share))


class ShardBudget:
    """Both quotas of a shard, and the interval over which its answers are judged."""

    __slots__ = ("_bytes", "_may_grow", "_records", "bytes", "interval", "records")

    def __init__(
        self,
        records_per_second: int,
        bytes_per_second: int,
        now_ns: int,
        first_share: float = FIRST_SHARE,
        first_bytes_share: float | None = None,
    ) -> None:
        """The ceilings are the shard's quotas, times our configured share of them. `first_share`:
        the part of them to begin with, 0..1; `first_bytes_share`: that of the bytes, if it is
        another one.
        """
        if first_bytes_share is None:
            first_bytes_share = first_share
        self._records = Quota(records_per_second, first_share, now_ns)
        self._bytes = Quota(bytes_per_second, first_bytes_share, now_ns)
        self.interval = Interval(now_ns)
        # False when all of both quotas is ours: then most refills have nothing more to do.
        self._may_grow = not (self._records.share.is_settled and self._bytes.share.is_settled)
        self.records = self._records.bucket
        self.bytes = self._bytes.bucket

    @property
    def quotas(self) -> tuple[Quota, Quota]:
        """The quota of records, and that of bytes."""
        return self._records, self._bytes

    @property
    def records_share(self) -> float:
        """The part of the quota of records that we use at most now."""
        return self._records.share.share

    @property
    def bytes_share(self) -> float:
        return self._bytes.share.share

    def set_ceilings(self, records_per_second: int, bytes_per_second: int, now_ns: int) -> None:
        self._records.ceiling, self._bytes.ceiling = records_per_second, bytes_per_second
        self._records.set_rate(now_ns)
        self._bytes.set_rate(now_ns)

    def inherit(self, other: "ShardBudget", now_ns: int) -> None:
        """Takes the shares of `other`, the budget of the parent shard."""
        self._may_grow = True
        for mine, theirs in zip(self.quotas, other.quotas, strict=True):
            mine.share.inherit(theirs.share)
            mine.set_rate(now_ns)

    def begin_at(self, share: float, now_ns: int) -> None:
        """Raises shares that know nothing of the shard yet to `share`. Savings stay as they are:
        many daemons that begin so together send little more than their rates before they get a
        throttled answer.
        """
        for quota in self.quotas:
            quota.share.begin_at(share, now_ns)
            quota.set_rate(now_ns)

    def use(self, record_count: int, byte_count: int) -> float:
        """Such records as a part of a second's quota, of the quota that they use most of."""
        return max(record_count / self._records.ceiling, byte_count / self._bytes.ceiling)

    def take_over(self, other: "ShardBudget") -> None:
        self.records.take_over(other.records)
        self.bytes.take_over(other.bytes)

    def hear(
        self,
        records: int,
        byte_count: int,
        throttled: float,
        sent_ns: int,
        now_ns: int,
        stalled_ns: int = 0,
    ) -> None:
        """Reports one call's outcome for this shard: what was sent and when, how many records were
        throttled (`throttled`), and by how much the service delayed taking them (`stalled_ns`).

        The service does not say which quota is short. The one of which we used the larger part
        lately is taken to be short.
        """
        interval = self.interval
        if sent_ns < interval.since_ns:
            return  # sent before the last decision
        if sent_ns > interval.last_sent_ns:
            if sent_ns - interval.last_sent_ns > IDLE_NS:
                self._end_before_idleness(now_ns)
            interval.last_sent_ns = sent_ns
        if not interval.records:
            interval.since_ns = interval.quiet_since_ns = sent_ns  # the shard may have been idle
        interval.calls += 1
        interval.records += records
        interval.bytes += byte_count
        if throttled or stalled_ns:
            if stalled_ns:
                interval.stall(sent_ns, stalled_ns)
            interval.throttled += throttled
            interval.throttled_calls += 1
            self._may_grow = True
            quota = self._short_one()
            if quota.share.hit(self._used(quota), now_ns):
                quota.set_rate(now_ns)
                interval.begin(now_ns)
            interval.quiet_since_ns = now_ns
            if stalled_ns and self._is_waiting:
                return  # records sent before still wait there: that is no news
        if now_ns - interval.since_ns >= INTERVAL_NS:
            self._end_interval(interval.part(), now_ns)
        elif self._may_grow and now_ns - interval.quiet_since_ns >= QUIET_NS and self._is_waiting:
            self._end_interval(0.0, now_ns)  # it was the end of a second, and that second is over

    @property
    def _is_waiting(self) -> bool:
        """Whether a share fell, and waits until the effect shows."""
        return self._records.share.is_waiting or self._bytes.share.is_waiting

    @property
    def is_contended(self) -> bool:
        """Whether less than the whole quota is ours."""
        return self._records.share.share < 1.0 or self._bytes.share.share < 1.0

    def _short_one(self) -> Quota:
        """The quota that is taken to be short."""
        interval = self.interval
        of_records = interval.records * self._bytes.ceiling
        of_bytes = interval.bytes * self._records.ceiling
        return self._records if of_records >= of_bytes else self._bytes

    def _used(self, quota: Quota) -> float:
        """The used part of the quota in this interval, over the time in which something was
        sent.
        """
        interval = self.interval
        if interval.stalls:
            return quota.share.share  # while a shard stalls a call, we send less than we may
        sent = interval.records if quota is self._records else interval.bytes
        # A call stands for the time until the next one: n calls have n - 1 gaps between them.
        gaps_ns = interval.last_sent_ns - interval.since_ns
        seconds = gaps_ns * interval.calls / max(1, interval.calls - 1) / NS_PER_SECOND
        return sent / quota.ceiling / seconds if seconds >= BURST_S else quota.share.share

    def _end_interval(self, part: float, now_ns: int) -> None:
        """Ends the interval. `part`: the throttled part of what was sent."""
        interval = self.interval
        short = self._short_one()
        used = self._used(short)
        for quota in self.quotas:
            quota.share.end_interval(
                part if quota is short else 0.0,
                used,
                now_ns,
                is_single=interval.throttled_calls == 1,
                is_alone=used * (1.0 - part) >= ALONE_TAKEN,
            )
            quota.set_rate(now_ns)
        interval.begin(now_ns)
        self._may_grow = not (self._records.share.is_settled and self._bytes.share.is_settled)

    def _end_before_idleness(self, now_ns: int) -> None:
        """Ends an interval in which nothing was sent lately, without the idle time.

        No answer may come to end it: a share that waits for one does not grow, and a large record
        in debt at a small share would keep the shard from being sent anything, for minutes.
        """
        interval = self.interval
        last_sent_ns = interval.last_sent_ns
        if interval.records:
            self._end_interval(interval.part(), now_ns)
        elif self._is_waiting:
            self._end_interval(0.0, now_ns)
        else:
            return
        interval.begin(last_sent_ns)  # answers for what was sent since then still count

    def keep_at_most(self, record_count: int, byte_count: int) -> None:
        """Drops savings above these. Call it after `refill`."""
        self.records.keep_at_most(record_count)
        self.bytes.keep_at_most(byte_count)

    def refill(self, now_ns: int) -> None:
        self.records.refill(now_ns)
        self.bytes.refill(now_ns)
        if self._may_grow:
            if now_ns - self.interval.last_sent_ns > IDLE_NS:
                self._end_before_idleness(now_ns)
            self._records.grow(now_ns)
            self._bytes.grow(now_ns)

    def can_pay(self, record_count: int, byte_count: int) -> bool:
        return self.records.can_pay(record_count) and self.bytes.can_pay(byte_count)

    def pay(self, record_count: int, byte_count: int) -> None:
        self.records.pay(record_count)
        self.bytes.pay(byte_count)

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """Refills, and pays if both buckets have enough. False: nothing was paid. A cost above a
        bucket's capacity is never there: `pay` takes it into debt.
        """
        if self._may_grow:
            self.refill(now_ns)
        if not self.records.take(record_count, now_ns):
            return False
        if self.bytes.take(byte_count, now_ns):
            return True
        self.records.pay(-record_count)
        return False

    def give_back(self, record_count: int, byte_count: int) -> None:
        """Gives back what was just taken and is not used."""
        self.pay(-record_count, -byte_count)

    def ready_at_ns(self, record_count: int, byte_count: int) -> int:
        return max(self.records.ready_at_ns(record_count), self.bytes.ready_at_ns(byte_count))
