"""What a shard takes per second, counted exactly: by token buckets, or by fixed windows.

Pure: time is an argument and every number is an integer, so that a test can say to the nanosecond
when a record fits again. A quota has two sides, records and bytes, which are taken together or not
at all. Knows nothing of streams or records. Invariant: a refusal takes nothing.

AWS documents the quota (1,000 records and 1 MiB a second), not how it is counted. `TokenBuckets`
holds one second's quota and refills continuously. `FixedWindows` starts again at every whole
second. A pacer that works with both works with anything in between.

`take` is for a service that refuses; `grant` is for a service that stalls a write until there is
quota; `take_by` is for a service that waits until a deadline and then refuses.
"""

from typing import Protocol

from kdaemon.sandbox.settings import LimiterKind, Quota

NS_PER_SECOND = 1_000_000_000


class Limiter(Protocol):
    """The quota of one shard, as it is counted."""

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """Takes both sides or neither. False: the quota is exceeded. `now_ns` never goes back."""
        ...

    def grant(self, record_count: int, byte_count: int, now_ns: int) -> int:
        """Takes both sides at the first time from `now_ns` on at which there is quota. Returns that
        time, in nanoseconds; later calls count it as the limiter's `now_ns`.
        """
        ...


class TokenBuckets:
    """Two buckets with the capacity of one second, full at the start, refilled continuously.

    Levels are in token-nanoseconds: a rate of R a second adds exactly R of them each nanosecond,
    and one record costs 10**9, so a refill never rounds. A single call larger than a whole bucket
    passes if the bucket is full, and leaves the bucket in debt (AWS: bursts up to 10 MiB, 1 MiB/s
    on average). Without that a 5 MiB record could never be written.
    """

    __slots__ = (
        "_byte_level",
        "_byte_rate",
        "_bytes_full",
        "_record_level",
        "_record_rate",
        "_records_full",
        "_refilled_ns",
    )

    def __init__(self, quota: Quota, now_ns: int) -> None:
        self._record_rate = quota.records_per_second
        self._byte_rate = quota.bytes_per_second
        self._records_full = self._record_level = quota.records_per_second * NS_PER_SECOND
        self._bytes_full = self._byte_level = quota.bytes_per_second * NS_PER_SECOND
        self._refilled_ns = now_ns

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """As `Limiter.take`: passes if each level covers its cost, or is full. Refills first."""
        elapsed_ns = now_ns - self._refilled_ns
        if elapsed_ns > 0:
            self._refilled_ns = now_ns
            self._record_level = min(
                self._records_full, self._record_level + elapsed_ns * self._record_rate
            )
            self._byte_level = min(
                self._bytes_full, self._byte_level + elapsed_ns * self._byte_rate
            )
        record_cost = record_count * NS_PER_SECOND
        byte_cost = byte_count * NS_PER_SECOND
        if self._record_level < record_cost and self._record_level < self._records_full:
            return False
        if self._byte_level < byte_cost and self._byte_level < self._bytes_full:
            return False
        self._record_level -= record_cost
        self._byte_level -= byte_cost
        return True

    def take_by(self, record_count: int, now_ns: int, deadline_ns: int) -> int | None:
        """Takes `record_count` records as soon as the bucket has them (or is full). Returns that
        time; None, and nothing is taken, if it is after the deadline. Later calls count the
        returned time as `now_ns`, so they queue behind this one.
        """
        self.take(0, 0, now_ns)  # takes nothing, but refills
        missing = min(record_count * NS_PER_SECOND, self._records_full) - self._record_level
        taken_ns = max(now_ns, self._refilled_ns) + max(0, -(-missing // self._record_rate))
        if taken_ns > deadline_ns:
            return None
        is_taken = self.take(record_count, 0, taken_ns)
        assert is_taken, "there is enough by then"
        return taken_ns

    def grant(self, record_count: int, byte_count: int, now_ns: int) -> int:
        """Grants as soon as both sides have anything left. The rest is a debt, for which the next
        call waits. (`TQuotaTracker::CanExaust` and `Exaust` of ydb-platform/ydb, read 2026-11-21.)
        """
        self.take(0, 0, now_ns)  # takes nothing, but refills
        wait_ns = max(
            _until_positive_ns(self._record_level, self._record_rate),
            _until_positive_ns(self._byte_level, self._byte_rate),
        )
        granted_ns = self._refilled_ns + wait_ns
        self.take(0, 0, granted_ns)
        self._record_level -= record_count * NS_PER_SECOND
        self._byte_level -= byte_count * NS_PER_SECOND
        return granted_ns


def _until_positive_ns(level: int, rate: int) -> int:
    """Nanoseconds of refill until the level is above 0."""
    return max(0, (rate - level) // rate)


class FixedWindows:
    """Counts from zero in every whole second of `now_ns`. A single call over the quota passes."""

    __slots__ = ("_bytes_taken", "_quota", "_records_taken", "_window")

    def __init__(self, quota: Quota, now_ns: int) -> None:
        self._quota = quota
        self._window = now_ns // NS_PER_SECOND
        self._records_taken = 0
        self._bytes_taken = 0

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """As `Limiter.take`, within the window of `now_ns`; the first call in it always passes."""
        window = now_ns // NS_PER_SECOND
        if window > self._window:
            self._window = window
            self._records_taken = self._bytes_taken = 0
        records_taken = self._records_taken + record_count
        bytes_taken = self._bytes_taken + byte_count
        if self._records_taken and (
            records_taken > self._quota.records_per_second
            or bytes_taken > self._quota.bytes_per_second
        ):
            return False
        self._records_taken = records_taken
        self._bytes_taken = bytes_taken
        return True

    def grant(self, record_count: int, byte_count: int, now_ns: int) -> int:
        """Grants in the window of `now_ns`, or at the start of the next window."""
        now_ns = max(now_ns, self._window * NS_PER_SECOND)
        if self.take(record_count, byte_count, now_ns):
            return now_ns
        next_window_ns = (self._window + 1) * NS_PER_SECOND
        is_taken = self.take(record_count, byte_count, next_window_ns)
        assert is_taken, "an empty window takes any call"
        return next_window_ns


def make_limiter(kind: LimiterKind, quota: Quota, now_ns: int) -> Limiter:
    """A new limiter with its whole quota."""
    if kind is LimiterKind.WINDOW:
        return FixedWindows(quota, now_ns)
    return TokenBuckets(quota, now_ns)
