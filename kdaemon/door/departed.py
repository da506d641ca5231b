"""Memory for the lines of clients that have gone, where these lines still wait for room. Pure.

While a client is connected, its connection bounds what waits. After it has gone, its lines wait in
memory that all such clients share (`left_behind` of http/arrivals.py). Knows sizes. Must not know
lines.
Invariant: what was taken of the shared memory is given back once, at the end.
Where it sits: handover.py asks it before a block keeps waiting.
"""

from collections.abc import Callable

from kdaemon.base.limits import KIB
from kdaemon.base.memory import ByteBudget

# Of a session that waits, beside its lines. Measured: 3.4 KiB, 2026-11-28.
SESSION_FOOTPRINT_BYTES = 8 * KIB


class Waker:
    """The callback that a session gives to a stream without room. The stream keeps its callbacks
    until there is room; a session that is over sets `go_on` to None, so that the stream keeps this
    small object alone and not the session.
    """

    __slots__ = ("go_on",)

    def __init__(self, go_on: Callable[[], object]) -> None:
        self.go_on: Callable[[], object] | None = go_on

    def __call__(self) -> None:
        if self.go_on is not None:
            self.go_on()


class LeftBehind:
    """The part of the shared memory in which one session's lines wait. `may_wait`: False once a
    request for memory failed; from then on the session's lines are refused.
    """

    __slots__ = ("_budget", "_byte_count", "may_wait")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._byte_count = 0
        self.may_wait = True

    def keep(self, byte_count: int) -> bool:
        """Takes memory for lines of this size and for their session. False: there is none."""
        size = SESSION_FOOTPRINT_BYTES + byte_count
        more_bytes = size - self._byte_count
        if more_bytes > 0:  # where it needs less than before, `release` gives the difference back
            if not self._budget.take(more_bytes):
                self.may_wait = False
                return False
            self._byte_count = size
        return True

    def release(self) -> None:
        """Gives all memory back, when nothing waits any more. A second call does nothing."""
        if self._byte_count:
            self._budget.give(self._byte_count)
            self._byte_count = 0
