"""What a shard may take per second, counted exactly: token buckets, or fixed windows.

Pure: the time comes in as an argument and every number is an integer, so that a test can say to
the nanosecond when a record fits again. A quota has two sides, records and bytes, taken together or
not at all. Knows nothing of streams or records. Invariant: a refusal takes nothing.

AWS documents the quota (1,000 records and 1 MiB a second), not how it is counted. `TokenBuckets`
holds one second's worth and refills continuously; `FixedWindows` starts anew on every whole second.
A pacer that holds under both holds under what lies between them.

`take` is for a service that refuses, `grant` for one that holds a write until there is quota,
`take_by` for one that waits for so long and then refuses.
"""

from typing import Protocol

from kdaemon.sandbox.settings import LimiterKind, Quota

NS_PER_SECOND = 1_000_000_000


class Limiter(Protocol):
    """One shard's quota in force."""

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
        """Takes both or neither; False when the quota is exceeded. `now_ns` never goes back."""
        ...

    def grant(self, record_count: int, byte_count: int, now_ns: int) -> int:
        """Takes both at the first time from `now_ns` on at which there is quota; that time, ns.

        That time counts as the limiter's `now_ns` for what is asked next.
        """
        ...


class TokenBuckets:
    """Two buckets of one second's capacity, full at the start, refilled continuously.

    Levels are in token-nanoseconds: a rate of R a second adds exactly R of them each nanosecond,
    and one record costs 10**9, so refill never rounds. A single call larger than a whole bucket
    passes when the bucket is full and leaves it in debt (AWS: bursts up to 10 MiB, 1 MiB/s on
    average); without that a 5 MiB record could never be written.
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
        """Takes so many records' worth as soon as the bucket has all of it (or is full), if that is
        by the deadline; when that is, or None, and nothing is taken. A time that is given counts as
        `now_ns` for what is asked next, which queues behind it.
        """
        self.take(0, 0, now_ns)  # nothing is taken: it refills
        missing = min(record_count * NS_PER_SECOND, self._records_full) - self._record_level
        taken_ns = max(now_ns, self._refilled_ns) + max(0, -(-missing // self._record_rate))
        if taken_ns > deadline_ns:
            return None
        is_taken = self.take(record_count, 0, taken_ns)
        assert is_taken, "there is enough by then"
        return taken_ns

    def grant(self, record_count: int, byte_count: int, now_ns: int) -> int:
        """As soon as anything is left on both sides, in debt for the rest: whoever asks next waits
        for it. (`TQuotaTracker::CanExaust` and `Exaust` of ydb-platform/ydb, read 2026-11-21.)
        """
        self.take(0, 0, now_ns)  # nothing is taken: it refills
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
    """Nanoseconds of refill until a level is above 0."""
    return max(0, (rate - level) // rate)


class FixedWindows:
    """Counts from zero in every whole second of `now_ns`; a lone call over the quota passes."""

    __slots__ = ("_bytes_taken", "_quota", "_records_taken", "_window")

    def __init__(self, quota: Quota, now_ns: int) -> None:
        self._quota = quota
        self._window = now_ns // NS_PER_SECOND
        self._records_taken = 0
        self._bytes_taken = 0

    def take(self, record_count: int, byte_count: int, now_ns: int) -> bool:
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
        """In the window of `now_ns`, or at the start of the next."""
        now_ns = max(now_ns, self._window * NS_PER_SECOND)
        if self.take(record_count, byte_count, now_ns):
            return now_ns
        next_window_ns = (self._window + 1) * NS_PER_SECOND
        is_taken = self.take(record_count, byte_count, next_window_ns)
        assert is_taken, "an empty window takes any call"
        return next_window_ns


def make_limiter(kind: LimiterKind, quota: Quota, now_ns: int) -> Limiter:
    """A fresh limiter: nothing of the quota is spent."""
    if kind is LimiterKind.WINDOW:
        return FixedWindows(quota, now_ns)
    return TokenBuckets(quota, now_ns)
