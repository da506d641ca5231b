"""What one shard takes from this daemon, a second: records and bytes, together or not at all.

The quota bounds both; under it, each has an adaptive share that follows the shard's own throttles
(`adaptive.py`), apart: a shard that is short of bytes is not short of records. Bytes are data +
partition key, as the service counts them. Sits between the lanes and the two buckets.
"""

from kdaemon.pace.adaptive import ALONE_TAKEN, FIRST_SHARE, AdaptiveShare
from kdaemon.pace.bucket import NS, TokenBucket

GROWTH_STEP_NS = 20_000_000  # 20 ms: how often a share that grows moves its bucket's rate
INTERVAL_NS = 900_000_000
"""0.9 s: what one daemon sees of a shard is counted over about the second that quotas are counted
in. Found by simulation, as the constants of `adaptive.py`."""

HELD_SPAN_NS = 300_000_000  # 0.3 s: over less than that the growth of a queue is noise
HELD_WHOLE_NS = 5_000_000_000  # 5 s: in which a queue that does not grow is to go
QUIET_NS = 300_000_000  # 0.3 s without a throttle: a share that was levelled need wait no longer
IDLE_NS = 5_000_000_000
"""5 s without a call: no backoff of a shard is longer (`backoff.SHARD_BACKOFF`), so that nobody
wanted to send. A rate over such a time says nothing of what the shard takes."""

BURST_S = 0.5  # what was sent in less than half a second says nothing of a rate


class Interval:
    """What was sent to the shard and throttled, since the last decision."""

    __slots__ = (
        "bytes",
        "calls",
        "held",
        "last_sent_ns",
        "quiet_since_ns",
        "records",
        "since_ns",
        "throttled",
        "throttled_calls",
    )

    def __init__(self, now_ns: int) -> None:
        self.begin(now_ns)

    def begin(self, now_ns: int) -> None:
        self.since_ns = self.last_sent_ns = self.quiet_since_ns = now_ns
        self.calls = self.records = self.bytes = self.throttled_calls = 0
        self.throttled = 0.0  # records
        self.held: list[tuple[int, int]] = []  # when sent, for how long held: first and last

    def hold(self, sent_ns: int, held_ns: int) -> None:
        """A call that left then was held for so long. The first and the last are kept."""
        self.held[1:] = [(sent_ns, held_ns)]

    def part(self) -> float:
        """Of what was sent, how much was too much, 0..1: refused, or held.

        Of what is held, the growth of the queue tells: a queue that grows by half a second in a
        second means a third too much. And the queue itself has to go.
        """
        part = self.throttled / self.records
        if self.held:
            (first_sent_ns, first_ns), (last_sent_ns, last_ns) = self.held[0], self.held[-1]
            growth = max(0, last_ns - first_ns) / max(HELD_SPAN_NS, last_sent_ns - first_sent_ns)
            part += growth / (1.0 + growth)
            if last_ns >= first_ns:
                part += last_ns / HELD_WHOLE_NS
        return min(1.0, part)


class Quota:
    """A bucket of one kind of token, at the part of its ceiling that is ours now."""

    __slots__ = ("_grown_at_ns", "bucket", "ceiling", "share")

    def __init__(self, ceiling: int, first_share: float, now_ns: int) -> None:
        """`ceiling`: tokens a second, at least 1."""
        self.ceiling = ceiling
        self.share = AdaptiveShare(first_share, now_ns)
        self.bucket = TokenBucket(self._rate(), now_ns)
        self._grown_at_ns = now_ns

    def grow(self, now_ns: int) -> None:
        """Time has passed for the share; the bucket is refilled."""
        if not self.share.is_settled and now_ns - self._grown_at_ns >= GROWTH_STEP_NS:
            self._grown_at_ns = now_ns
            self.share.grow(now_ns)
            self.bucket.set_rate(self._rate(), now_ns)

    def set_rate(self, now_ns: int) -> None:
        """After a change of the ceiling or of the share."""
        self.bucket.set_rate(self._rate(), now_ns)

    def _rate(self) -> int:
        return max(1, int(self.ceiling * self.share.share))


class ShardBudget:
    """Both quotas of a shard."""

    __slots__ = ("_bytes", "_interval", "_may_grow", "_records", "bytes", "records")

    def __init__(
        self,
        records_per_second: int,
        bytes_per_second: int,
        now_ns: int,
        first_share: float = FIRST_SHARE,
    ) -> None:
        """The ceilings: the shard's quotas, times our configured share of them. `first_share`: the
        part of them to begin with, 0..1.
        """
        self._records = Quota(records_per_second, first_share, now_ns)
        self._bytes = Quota(bytes_per_second, first_share, now_ns)
        self._interval = Interval(now_ns)
        # False when all of both quotas is ours: most refills have no more to do.
        self._may_grow = not (self._records.share.is_settled and self._bytes.share.is_settled)
        self.records = self._records.bucket
        self.bytes = self._bytes.bucket

    @property
    def quotas(self) -> tuple[Quota, Quota]:
        """Of records, of bytes."""
        return self._records, self._bytes

    @property
    def records_share(self) -> float:
        """Of the quota of records: what we use at most now."""
        return self._records.share.share

    @property
    def bytes_share(self) -> float:
        return self._bytes.share.share

    def set_ceilings(self, records_per_second: int, bytes_per_second: int, now_ns: int) -> None:
        self._records.ceiling, self._bytes.ceiling = records_per_second, bytes_per_second
        self._records.set_rate(now_ns)
        self._bytes.set_rate(now_ns)

    def inherit(self, other: "ShardBudget", now_ns: int) -> None:
        """Shares of `other`, whose shard this one's came from."""
        self._may_grow = True
        for mine, theirs in zip(self.quotas, other.quotas, strict=True):
            mine.share.inherit(theirs.share)
            mine.set_rate(now_ns)

    def begin_at(self, share: float, now_ns: int) -> None:
        """Shares that know nothing of the shard yet are at least so large. What is saved up stays
        as it is: many that begin so together send little more than their rates before they hear of
        a throttle.
        """
        for quota in self.quotas:
            quota.share.begin_at(share, now_ns)
            quota.set_rate(now_ns)

    def use(self, record_count: int, byte_count: int) -> float:
        """So much as a part of a second's quota, of the one that it takes most of."""
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
        held_ns: int = 0,
    ) -> None:
        """An answer for a call that left at `sent_ns` with so many records and bytes for the shard;
        `throttled`: how many of the records it did not take. `held_ns`: it took them,
        but so much later.

        The service does not say of what it is short. It is taken to be that of which we used more
        of its quota lately.
        """
        interval = self._interval
        if sent_ns < interval.since_ns:
            return  # of the time before the last decision
        if sent_ns > interval.last_sent_ns:
            if sent_ns - interval.last_sent_ns > IDLE_NS:
                self._end_before_idleness(now_ns)
            interval.last_sent_ns = sent_ns
        if not interval.records:
            interval.since_ns = interval.quiet_since_ns = sent_ns  # the shard may have been idle
        interval.calls += 1
        interval.records += records
        interval.bytes += byte_count
        if throttled or held_ns:
            if held_ns:
                interval.hold(sent_ns, held_ns)
            interval.throttled += throttled
            interval.throttled_calls += 1
            self._may_grow = True
            quota = self._short_one()
            if quota.share.hit(self._used(quota), now_ns):
                quota.set_rate(now_ns)
                interval.begin(now_ns)
            interval.quiet_since_ns = now_ns
            if held_ns and self._is_waiting:
                return  # what was sent before is still waiting there: that is no news
        if now_ns - interval.since_ns >= INTERVAL_NS:
            self._end_interval(interval.part(), now_ns)
        elif self._may_grow and now_ns - interval.quiet_since_ns >= QUIET_NS and self._is_waiting:
            self._end_interval(0.0, now_ns)  # it was the end of a second, and that is over

    @property
    def _is_waiting(self) -> bool:
        """Whether a share fell and waits until that shows."""
        return self._records.share.is_waiting or self._bytes.share.is_waiting

    @property
    def is_contended(self) -> bool:
        """Whether less than the quota is ours."""
        return self._records.share.share < 1.0 or self._bytes.share.share < 1.0

    def _short_one(self) -> Quota:
        """Of which the shard is taken to be short."""
        interval = self._interval
        of_records = interval.records * self._bytes.ceiling
        of_bytes = interval.bytes * self._records.ceiling
        return self._records if of_records >= of_bytes else self._bytes

    def _used(self, quota: Quota) -> float:
        """The part of the quota that was sent in this interval, while something was sent."""
        interval = self._interval
        if interval.held:
            return quota.share.share  # while a shard holds a call, less is sent than may be
        sent = interval.records if quota is self._records else interval.bytes
        # Calls stand for the time until the next one: n of them for n of the n - 1 gaps between.
        gaps_ns = interval.last_sent_ns - interval.since_ns
        seconds = gaps_ns * interval.calls / max(1, interval.calls - 1) / NS
        return sent / quota.ceiling / seconds if seconds >= BURST_S else quota.share.share

    def _end_interval(self, part: float, now_ns: int) -> None:
        """`part`: of what was sent, throttled."""
        interval = self._interval
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
        """Ends an interval in which nothing was sent lately, without the time of idleness.

        No answer may come to end it: a share that waits for one does not grow, and a large record
        in debt at a small share would keep its shard from being sent anything, for minutes.
        """
        interval = self._interval
        last_sent_ns = interval.last_sent_ns
        if interval.records:
            self._end_interval(interval.part(), now_ns)
        elif self._is_waiting:
            self._end_interval(0.0, now_ns)
        else:
            return
        interval.begin(last_sent_ns)  # what was sent since, and is not answered yet, is heard

    def keep_at_most(self, record_count: int, byte_count: int) -> None:
        """Lets go of what was saved up beyond this; after `refill`."""
        self.records.keep_at_most(record_count)
        self.bytes.keep_at_most(byte_count)

    def refill(self, now_ns: int) -> None:
        self.records.refill(now_ns)
        self.bytes.refill(now_ns)
        if self._may_grow:
            if now_ns - self._interval.last_sent_ns > IDLE_NS:
                self._end_before_idleness(now_ns)
            self._records.grow(now_ns)
            self._bytes.grow(now_ns)

    def can_pay(self, record_count: int, byte_count: int) -> bool:
        return self.records.can_pay(record_count) and self.bytes.can_pay(byte_count)

    def pay(self, record_count: int, byte_count: int) -> None:
        self.records.pay(record_count)
        self.bytes.pay(byte_count)

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """Refills, and pays for so much if it is there; False: nothing was paid. What is above a
        bucket's capacity is never there: it is paid into debt, by `pay`.
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
        """What was just taken and is not used."""
        self.pay(-record_count, -byte_count)

    def ready_at_ns(self, record_count: int, byte_count: int) -> int:
        return max(self.records.ready_at_ns(record_count), self.bytes.ready_at_ns(byte_count))
