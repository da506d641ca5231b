"""What a client of lines left behind: it has gone, and lines of it wait for room. Pure.

While the client is there, its place bounds what waits; then the memory that all who have gone share
does (`left_behind` of http/arrivals.py). Knows sizes, no line. Invariant: what was taken of that
memory is given back once, at the end.
Where it sits: handover.py asks it before a block waits on.
"""

from collections.abc import Callable

from kdaemon.base.limits import KIB
from kdaemon.base.memory import ByteBudget

SESSION_HELD_BYTES = 8 * KIB  # of one that waits, beside what was read; 3.4 measured, 2026-11-28


class Waker:
    """What is told of room on behalf of a session. A stream that has none keeps whom it is to tell:
    of a session that is over it keeps this alone.
    """

    __slots__ = ("go_on",)

    def __init__(self, go_on: Callable[[], object]) -> None:
        self.go_on: Callable[[], object] | None = go_on

    def __call__(self) -> None:
        if self.go_on is not None:
            self.go_on()


class LeftBehind:
    """The memory of one session in which its lines wait. `may_wait`: false once there was none: the
    rest is refused.
    """

    __slots__ = ("_budget", "_byte_count", "may_wait")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._byte_count = 0
        self.may_wait = True

    def keep(self, byte_count: int) -> bool:
        """Takes memory for lines of this size and their session. False: there is none."""
        size = SESSION_HELD_BYTES + byte_count
        more_bytes = size - self._byte_count
        if more_bytes > 0:  # what it needs no more is given back with the rest
            if not self._budget.take(more_bytes):
                self.may_wait = False
                return False
            self._byte_count = size
        return True

    def release(self) -> None:
        """Nothing waits any more. Twice is nothing."""
        if self._byte_count:
            self._budget.give(self._byte_count)
            self._byte_count = 0
