"""Throttling that shows as time: Yandex stalls a write until its shard has quota for it.

A call that takes much longer than the quickest call lately was stalled. The extra time tells the
length of the shard's queue, and so how much too much is sent. Stalled records count as throttled in
part, so that shares adapt to stalls as they do to refusals ([YS: `partition_write.cpp`]: the batch
asks for quota and waits). Pure: time is an argument. Bound: four numbers a stream.
"""

# 30 s: the quickest call of the last 30 to 60 s is the normal time of a call.
SLOT_NS = 30_000_000_000

STALL_MIN_NS = 150_000_000
"""0.15 s above the quickest: smaller differences are the network, and calls in a row. Found by
simulation (`bench/fleet.py --yandex`, 2026-11-21)."""


class CallLatency:
    """The quickest call lately, and how long other calls were stalled."""

    __slots__ = ("_slot_ns", "_young_ns", "quickest_ns")

    def __init__(self, now_ns: int) -> None:
        self._slot_ns = now_ns
        self._young_ns = 0
        self.quickest_ns = 0  # 0: there was no call yet

    @property
    def stalled_after_ns(self) -> int:
        """A call in flight for longer than this is stalled; 0: there was no call yet."""
        return self.quickest_ns + STALL_MIN_NS if self.quickest_ns else 0

    def stalled_ns(self, duration_ns: int, now_ns: int) -> int:
        """How long a call with this duration was stalled; 0: it was not. Notes the call."""
        if now_ns - self._slot_ns >= SLOT_NS:
            self._slot_ns = now_ns
            self.quickest_ns, self._young_ns = self._young_ns or duration_ns, duration_ns
        self._young_ns = min(self._young_ns or duration_ns, duration_ns)
        self.quickest_ns = min(self.quickest_ns or duration_ns, duration_ns)
        over_ns = duration_ns - self.quickest_ns
        return over_ns if over_ns > STALL_MIN_NS else 0
