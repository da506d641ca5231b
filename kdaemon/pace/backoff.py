"""Backoff: how long to wait after failures in a row, with jitter, so that a fleet does not act in
step.
"""

from dataclasses import dataclass

from kdaemon.base.ports import Dice


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits double from `first_ns` to at most `last_ns`; an actual wait is uniform in the upper
    half.
    """

    first_ns: int
    last_ns: int

    def wait_ns(self, failure_count: int, dice: Dice) -> int:
        """Nanoseconds to wait after `failure_count` (>= 1) failures in a row."""
        doublings = min(failure_count - 1, 40)
        ceiling_ns = min(self.last_ns, self.first_ns << doublings)
        return ceiling_ns // 2 + int(dice.random() * (ceiling_ns // 2))


SHARD_BACKOFF = Backoff(first_ns=100_000_000, last_ns=5_000_000_000)
"""For a shard that throttled or failed a record: 0.1 s to 5 s. The first wait is a tenth of the
second over which quotas are counted."""

STREAM_BACKOFF = Backoff(first_ns=50_000_000, last_ns=10_000_000_000)
"""For a whole call that failed: 50 ms (a blip) to 10 s (an outage, probed by one call at a
time)."""

HOLD_BACKOFF = Backoff(first_ns=1_000_000_000, last_ns=30_000_000_000)
"""For credentials, access, a missing stream: a person must act, so probe slowly: 1 s to 30 s."""
