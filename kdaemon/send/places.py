"""How many connections to a service are in use at one time; who waits for one goes in turn.

Knows a number and who waits; no connection. Invariant: not more places are taken than `limit` says
(a limit that was lowered takes none away), and a place that was given to somebody who has gone
meanwhile goes to the next. Where it sits: `exchange.py` takes one for each request of any kind.
"""

import asyncio
from collections import deque


class Places:
    """Of one client. In the loop's thread only."""

    __slots__ = ("_taken", "_waiters", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting_count(self) -> int:
        return len(self._waiters)

    def take(self) -> bool:
        """One at once, if there is one and nobody waits."""
        if self._taken >= self.limit or self._waiters:
            return False
        self._taken += 1
        return True

    async def wait(self) -> None:
        """Returns with a place."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():  # it was given one, and has not heard of it
                self.give()
            raise

    def give(self) -> None:
        """Gives one back."""
        self._taken -= 1
        self._wake()

    def set_limit(self, limit: int) -> None:
        """So many from now on."""
        self.limit = limit
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self._taken < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else it is cancelled, and has not heard of it
                self._taken += 1
                waiter.set_result(None)
