"""Token buckets: how much a shard can be sent now, and when it can be sent more.

Time and tokens are integers: a level is in token-nanoseconds (tokens x 1e9), so that refill never
rounds and the time at which a cost can be paid is exact. Knows nothing of records, shards or
queues.

Invariant: over any window of t nanoseconds at one rate, the tokens taken are at most
capacity + rate x t, plus one cost that is larger than the capacity (the debt).
"""

from typing import Final

NS_PER_SECOND: Final = 1_000_000_000  # nanoseconds in a second

BURST_NS: Final = 900_000_000
"""How long a bucket saves up while idle: 0.9 s of its rate. The service's own limiter saves one
second (quotas are per second [AD][YD], as in `base/limits.py`; checked 2026-11-21). The tenth that
we do not spend is for calls that arrive closer together than they were sent."""


class TokenBucket:
    """A bucket with one rate. It starts full.

    A cost above the capacity is taken from a full bucket and leaves a debt, so that a large record
    waits for its rate rather than for ever.
    """

    __slots__ = ("_capacity", "_level", "_rate", "_updated_ns")

    def __init__(self, rate: int, now_ns: int) -> None:
        """`rate`: tokens a second, at least 1."""
        self._rate = rate
        self._capacity = _capacity(rate)
        self._level = self._capacity
        self._updated_ns = now_ns

    @property
    def rate(self) -> int:
        return self._rate

    def set_rate(self, rate: int, now_ns: int) -> None:
        """Sets another rate from now on; savings and debts stay, within the new capacity."""
        self.refill(now_ns)
        self._rate = rate
        self._capacity = _capacity(rate)
        self._level = min(self._level, self._capacity)

    def take_over(self, other: "TokenBucket") -> None:
        """Becomes as short of full as `other` is (after its `refill`), at worst empty: what was
        taken there may have been taken here. A debt is not taken over.
        """
        self._level = min(self._level, max(0, self._capacity - other.missing))

    def refill(self, now_ns: int) -> None:
        """Must be called before `available` and `can_pay` at a later time; time never goes back."""
        elapsed_ns = now_ns - self._updated_ns
        if elapsed_ns > 0:
            level = self._level + self._rate * elapsed_ns
            capacity = self._capacity
            self._level = min(level, capacity)
            self._updated_ns = now_ns

    @property
    def available(self) -> int:
        """Whole tokens in the bucket; negative: a debt."""
        return self._level // NS_PER_SECOND

    def available_at(self, now_ns: int) -> int:
        """What `available` would be after a refill. Changes nothing; for observers."""
        elapsed_ns = max(0, now_ns - self._updated_ns)
        return min(self._level + self._rate * elapsed_ns, self._capacity) // NS_PER_SECOND

    @property
    def missing(self) -> int:
        """Token-nanoseconds below full."""
        return self._capacity - self._level

    def can_pay(self, cost: int) -> bool:
        cost_ns = cost * NS_PER_SECOND
        return self._level >= cost_ns or (cost_ns > self._capacity <= self._level)

    def take(self, cost: int, now_ns: int) -> bool:
        """Refills, and takes `cost` tokens if the bucket has them. False: nothing is taken."""
        elapsed_ns = now_ns - self._updated_ns
        if elapsed_ns > 0:
            self._level = min(self._level + self._rate * elapsed_ns, self._capacity)
            self._updated_ns = now_ns
        level = self._level - cost * NS_PER_SECOND
        if level < 0:
            return False
        self._level = level
        return True

    def pay(self, cost: int) -> None:
        """Takes `cost` tokens. Only after `can_pay(cost)`."""
        self._level -= cost * NS_PER_SECOND

    def keep_at_most(self, tokens: int) -> None:
        """Drops savings above `tokens`. Call it after `refill`."""
        self._level = min(self._level, tokens * NS_PER_SECOND)

    def ready_at_ns(self, cost: int) -> int:
        """The first nanosecond at which `cost` can be paid, if nothing else is paid before."""
        missing = min(cost * NS_PER_SECOND, self._capacity) - self._level
        return self._updated_ns if missing <= 0 else self._updated_ns - (-missing // self._rate)


def _capacity(rate: int) -> int:
    """In token-nanoseconds; at least one token, which at 1 a second is more than the burst."""
    return max(rate * BURST_NS, NS_PER_SECOND)
