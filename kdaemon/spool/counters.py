"""What is counted of the spool as a whole, for metrics; of each stream, its own counters count.

Knows no disk. Where it sits: `spool.py` and `alarms.py` count, `observe/` reads.
"""

from kdaemon.base.histogram import BATCH_RECORDS_BOUNDS, LATENCY_BOUNDS_NS, Histogram


class SpoolCounters:
    """Since the start."""

    def __init__(self) -> None:
        self.commit_failures = 0
        self.restorations = 0  # of files that were taken away
        self.letters_dropped = 0
        self.commit_duration_ns = Histogram(LATENCY_BOUNDS_NS)
        self.commit_frames = Histogram(BATCH_RECORDS_BOUNDS)
