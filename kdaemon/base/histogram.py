"""A histogram as plain integers: cheap to fill on the hot path, read whole by observers.

Bounds are upper and inclusive, as Prometheus counts them; the last bucket has no bound.
"""

from bisect import bisect_left

from kdaemon.base.counters import Buckets

LATENCY_BOUNDS_NS = tuple(
    int(seconds * 1e9)
    for seconds in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
)
LAG_BOUNDS_NS = tuple(
    int(seconds * 1e9)
    for seconds in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
)
BATCH_RECORDS_BOUNDS = (1, 2, 5, 10, 25, 50, 100, 200, 300, 400, 500)
BATCH_BYTES_BOUNDS = tuple(1024 * 4**power for power in range(8))  # 1 KiB to 16 MiB


class Histogram:
    """Counts of integer values by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def add(self, other: "Histogram") -> None:
        """Adds the values of another histogram with the same bounds."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def observe(self, value: int, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def snapshot(self) -> Buckets:
        return Buckets(self.bounds, tuple(self.counts), self.sum)
