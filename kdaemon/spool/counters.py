"""Counters of the spool as a whole, for metrics; each stream has counters of its own.

Knows no disk. Invariant: a counter never falls. Where it sits: `commits.py` and `alarms.py` count,
`observe/` reads.
"""

from kdaemon.base.histogram import BATCH_RECORDS_BOUNDS, LATENCY_BOUNDS_NS, Histogram


class SpoolCounters:
    """Since the start."""

    def __init__(self) -> None:
        self.commit_failures = 0
        self.restorations = 0  # times that files were taken away and made again
        self.letters_dropped = 0
        self.commit_duration_ns = Histogram(LATENCY_BOUNDS_NS)
        self.commit_frames = Histogram(BATCH_RECORDS_BOUNDS)
