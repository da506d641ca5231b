"""The memory of requests that are arriving and not yet whole: who may take how much, and whose
request is dropped when it is full.

About: the parts of one `ByteBudget` that unfinished bodies and heads hold, over all listeners.
Knows sizes and speed. Must not know bytes or a protocol.
Invariants: each byte that is kept of an unfinished request is charged before it is kept, and given
back once. If the budget is full, the slowest request is dropped first, so that clients that stall
cannot lock out clients that send.
Where it sits: reader.py and http2_stream.py make one `Arrival` for each request that takes more
than one read. The request keeps its charge until the handler has parsed the body.
"""

from collections.abc import Callable
from itertools import islice

from kdaemon.base.memory import ByteBudget

# A body that holds more than the budget divided by this is dropped before a smaller one. Ours,
# 2026-11-28.
PART_OF_BUDGET = 8

# After GRACE_TICKS, an unfinished body must have come at this speed: a quarter of what the slowest
# mobile link gives (64 kbit/s). Ours, 2026-11-28.
BYTES_PER_TICK_MIN = 2 * 1024
GRACE_TICKS = 10  # a tick is a sweep of the listener, a second

STALLED_TICKS = 2  # after so many ticks without a byte, all are equally stalled
LOOKED_AT_MAX = 64  # arrivals that are compared to find the slowest


class Arrival:
    """The memory of one request that is arriving. `evict`: called when others need its memory.
    `waits`: the request is whole and waits for its turn or for room; it is dropped before those
    that still arrive.
    """

    __slots__ = (
        "_age_ticks",
        "_arrived_bytes",
        "_pool",
        "_recent_bytes",
        "_stalled_ticks",
        "charged_bytes",
        "evict",
        "reserved_bytes",
        "waits",
    )

    def __init__(self, pool: "Arrivals", evict: Callable[[], object]) -> None:
        self._pool = pool
        self.evict: Callable[[], object] | None = evict
        self.charged_bytes = 0
        self.reserved_bytes = 0  # the part of `charged_bytes` that is from the reserve
        self.waits = False
        self._arrived_bytes = 0
        self._recent_bytes = 0  # halved at each tick
        self._age_ticks = 0
        self._stalled_ticks = 0

    def grow(self, byte_count: int) -> bool:
        """Charges bytes before they are kept. False: there is no room, and the request is to be
        refused.
        """
        self._arrived_bytes += byte_count
        self._recent_bytes += byte_count
        self._stalled_ticks = 0
        if not self._pool.make_room(self, byte_count):
            return False
        self.charged_bytes += byte_count
        if self.evict is None:  # making room has ended the connection of this very request
            self.release()
        return True

    def tick(self) -> bool:
        """A sweep later. False: the request arrives too slowly."""
        self._age_ticks += 1
        self._stalled_ticks += 1
        self._recent_bytes //= 2
        return self._arrived_bytes >= (self._age_ticks - GRACE_TICKS) * BYTES_PER_TICK_MIN

    def arrived(self) -> None:
        """The request is whole. It keeps its charge, and is not evicted any more."""
        self._pool.forget(self)
        self.evict = None

    def release(self) -> None:
        """Gives the charge back. A second call does nothing."""
        self.arrived()
        if self.charged_bytes:
            self._pool.give(self.charged_bytes - self.reserved_bytes, self.reserved_bytes)
            self.charged_bytes = self.reserved_bytes = 0

    @property
    def is_stalled(self) -> bool:
        """No byte has come for a while."""
        return self._stalled_ticks >= STALLED_TICKS

    def rank(self) -> tuple[int, bool, int]:
        """The arrival with the lowest rank is dropped first: one that waits or stalls, then one
        that holds more than its part, then the slowest.
        """
        return (
            -STALLED_TICKS if self.waits else -min(self._stalled_ticks, STALLED_TICKS),
            self.charged_bytes <= self._pool.part_bytes,
            self._recent_bytes,
        )


class Kept:
    """The memory of what one connection has received and not handed over. It grows and shrinks."""

    __slots__ = ("_arrival", "_pool")

    def __init__(self, pool: "Arrivals") -> None:
        self._pool = pool
        self._arrival: Arrival | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing is charged."""
        return self._arrival is None

    def weigh(self, byte_count: int, evict: Callable[[], object], *, waits: bool) -> bool:
        """Sets the charge to `byte_count`. False: the memory for all arrivals has no room for it.
        `evict`: called when others need the memory. `waits`: all of a request is there.
        """
        if self._arrival is not None and byte_count < self._arrival.charged_bytes:
            self.release()
        if not byte_count:
            return True
        if self._arrival is None:
            self._arrival = Arrival(self._pool, evict)
        self._arrival.waits = waits
        return self._arrival.grow(byte_count - self._arrival.charged_bytes)

    def tick(self) -> None:
        """A sweep later. What is kept may wait for long, and is dropped first if memory is
        needed.
        """
        if self._arrival is not None:
            self._arrival.tick()

    def release(self) -> None:
        """Gives everything back. A second call does nothing."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.release()


class Arrivals:
    """All requests that are arriving. `budget` may be shared with other parts that take and give.

    `reserve_bytes`: memory beside the budget, for the time when records that wait for the service
    fill all memory. A request must still be able to arrive, so that the door can refuse it in the
    service's words.
    """

    def __init__(self, budget: ByteBudget, reserve_bytes: int = 0) -> None:
        self.budget = budget
        self._reserve = ByteBudget(reserve_bytes)
        self.part_bytes = budget.bytes_max // PART_OF_BUDGET
        # For requests that arrived and whose client closed before there was room for them. Beside
        # the budget and of the same whole, so that clients that come and go neither stop others nor
        # fill the memory.
        self.left_behind = ByteBudget(self.part_bytes, budget.whole)
        self._open: dict[Arrival, None] = {}  # in the order of their last byte, the oldest first

    def make_room(self, newcomer: Arrival, byte_count: int) -> bool:
        """Takes from the budget. If it is full, drops slower arrivals until there is room. False:
        nothing was taken.
        """
        self._open.pop(newcomer, None)
        self._open[newcomer] = None
        budget = self.budget
        while not budget.take(byte_count):
            if budget.bytes_taken + byte_count <= budget.bytes_max:
                if not self._reserve.take(byte_count):
                    return False
                newcomer.reserved_bytes += byte_count
                return True
            slowest = min((*islice(self._open, LOOKED_AT_MAX), newcomer), key=Arrival.rank)
            evict, kept_bytes = slowest.evict, slowest.charged_bytes
            slowest.release()
            if slowest is newcomer or evict is None or not kept_bytes:
                return False
            evict()
        return True

    def give(self, byte_count: int, reserved_bytes: int) -> None:
        """Gives bytes back to the budget and to the reserve."""
        self.budget.give(byte_count)
        self._reserve.give(reserved_bytes)

    def forget(self, arrival: Arrival) -> None:
        """The arrival is not evicted any more. Its charge stays."""
        self._open.pop(arrival, None)
