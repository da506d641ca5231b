"""Throttling that shows as time: Yandex holds a write until its shard has quota for it.

A call that takes much longer than the quickest one lately was held. How much longer tells how much
too much is sent: the queue at the shard. What is held counts as throttled in part, so that shares
adapt to it as they do to refusals (services.md 0.12 and B: the tablet asks for quota and waits).
Pure: time is an argument. Bound: four numbers a stream.
"""

SLOT_NS = 30_000_000_000  # 30 s: the quickest call of the last 30 to 60 s is what a call takes

HELD_MIN_NS = 150_000_000
"""0.15 s over the quickest: below it is the network, and calls in a row. Found by simulation
(`bench/fleet.py --yandex`, 2026-11-21)."""


class CallLatency:
    """The quickest call lately, and by how much another one was held."""

    __slots__ = ("_slot_ns", "_young_ns", "quickest_ns")

    def __init__(self, now_ns: int) -> None:
        self._slot_ns = now_ns
        self._young_ns = 0
        self.quickest_ns = 0  # 0: no call yet

    @property
    def held_after_ns(self) -> int:
        """A call that is out for longer than this is held; 0: no call yet."""
        return self.quickest_ns + HELD_MIN_NS if self.quickest_ns else 0

    def held_ns(self, duration_ns: int, now_ns: int) -> int:
        """For how long a call that took so long was held; 0: it was not. Notes the call."""
        if now_ns - self._slot_ns >= SLOT_NS:
            self._slot_ns = now_ns
            self.quickest_ns, self._young_ns = self._young_ns or duration_ns, duration_ns
        self._young_ns = min(self._young_ns or duration_ns, duration_ns)
        self.quickest_ns = min(self.quickest_ns or duration_ns, duration_ns)
        over_ns = duration_ns - self.quickest_ns
        return over_ns if over_ns > HELD_MIN_NS else 0
