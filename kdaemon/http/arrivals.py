"""What is arriving and not yet whole holds memory: who may take how much, and who goes when it is
full.

About: the parts of one `ByteBudget` that unfinished bodies and heads hold, over all listeners.
Knows sizes and speed; no bytes, no protocol. Invariants: each byte that is kept of an unfinished
request is charged before it is kept, and given back once; where the budget is full the slowest
goes first, so that clients who stall cannot keep those out who send.
Where it sits: reader.py and http2_stream.py begin one `Arrival` a request that takes more than one
read; the request keeps its charge until the handler has parsed the body.
"""

from collections.abc import Callable
from itertools import islice

from kdaemon.base.memory import ByteBudget

# A body that is larger than this part of the budget goes before a smaller one. Ours, 2026-11-28.
PART_OF_BUDGET = 8

# An unfinished body must come at this speed, once it had this time: a quarter of what the slowest
# mobile link gives (64 kbit/s). Ours, 2026-11-28.
BYTES_PER_TICK_MIN = 2 * 1024
GRACE_TICKS = 10  # a tick is a sweep of the listener: a second

STALLED_TICKS = 2  # without a byte for so long, all are equally stalled
LOOKED_AT_MAX = 64  # arrivals that are compared to find the slowest


class Arrival:
    """One request that is arriving. `evict`: told when others need its room. `waits`: it has come,
    and waits for its turn or for room: it goes before those that arrive.
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
        self.reserved_bytes = 0  # of these: out of the reserve
        self.waits = False
        self._arrived_bytes = 0
        self._recent_bytes = 0  # halved at each tick
        self._age_ticks = 0
        self._stalled_ticks = 0

    def grow(self, byte_count: int) -> bool:
        """Charges what is to be kept. False: there is no room; the request is to be refused."""
        self._arrived_bytes += byte_count
        self._recent_bytes += byte_count
        self._stalled_ticks = 0
        if not self._pool.make_room(self, byte_count):
            return False
        self.charged_bytes += byte_count
        if self.evict is None:  # who made room ended the very connection that this is of
            self.release()
        return True

    def tick(self) -> bool:
        """One sweep later. False: the request arrives too slowly."""
        self._age_ticks += 1
        self._stalled_ticks += 1
        self._recent_bytes //= 2
        return self._arrived_bytes >= (self._age_ticks - GRACE_TICKS) * BYTES_PER_TICK_MIN

    def arrived(self) -> None:
        """The request is whole: it keeps its charge, and nobody can evict it any more."""
        self._pool.forget(self)
        self.evict = None

    def release(self) -> None:
        """Gives the charge back. Twice is nothing."""
        self.arrived()
        if self.charged_bytes:
            self._pool.give(self.charged_bytes - self.reserved_bytes, self.reserved_bytes)
            self.charged_bytes = self.reserved_bytes = 0

    @property
    def is_stalled(self) -> bool:
        """Nothing came for a while."""
        return self._stalled_ticks >= STALLED_TICKS

    def rank(self) -> tuple[int, bool, int]:
        """The lowest goes first: who waits or stalls, who holds more than a part, who is slow."""
        return (
            -STALLED_TICKS if self.waits else -min(self._stalled_ticks, STALLED_TICKS),
            self.charged_bytes <= self._pool.part_bytes,
            self._recent_bytes,
        )


class Kept:
    """What one connection has that was not handed over, as it grows and shrinks."""

    __slots__ = ("_arrival", "_pool")

    def __init__(self, pool: "Arrivals") -> None:
        self._pool = pool
        self._arrival: Arrival | None = None

    @property
    def is_empty(self) -> bool:
        return self._arrival is None

    def weigh(self, byte_count: int, evict: Callable[[], object], *, waits: bool) -> bool:
        """Holds it to what all clients together may have arriving. False: there is no room for it.
        `evict`: told when others need its room. `waits`: all of a request is there.
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
        """One sweep later. It may wait for long, and goes first where room is needed."""
        if self._arrival is not None:
            self._arrival.tick()

    def release(self) -> None:
        """Gives all back. Twice is nothing."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.release()


class Arrivals:
    """All requests that are arriving. `budget` may be shared with others who take and give.

    `reserve_bytes`: beside the budget, for when all memory is full of records that wait for the
    service: a request must be able to arrive to be told so, by the door, in the service's words.
    """

    def __init__(self, budget: ByteBudget, reserve_bytes: int = 0) -> None:
        self.budget = budget
        self._reserve = ByteBudget(reserve_bytes)
        self.part_bytes = budget.bytes_max // PART_OF_BUDGET
        # What arrived, and its client closed before there was room for it: beside the budget, of
        # the same whole, so that clients who come and go neither stop others nor fill the memory.
        self.left_behind = ByteBudget(self.part_bytes, budget.whole)
        self._open: dict[Arrival, None] = {}  # the one that had no byte for longest is the first

    def make_room(self, newcomer: Arrival, byte_count: int) -> bool:
        """Takes from the budget, if need be what slower ones hold. False: nothing was taken."""
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
            evict, held_bytes = slowest.evict, slowest.charged_bytes
            slowest.release()
            if slowest is newcomer or evict is None or not held_bytes:
                return False
            evict()
        return True

    def give(self, byte_count: int, reserved_bytes: int) -> None:
        self.budget.give(byte_count)
        self._reserve.give(reserved_bytes)

    def forget(self, arrival: Arrival) -> None:
        self._open.pop(arrival, None)
