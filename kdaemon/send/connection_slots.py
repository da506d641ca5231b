"""How many connections to a service are in use at one time, and whose turn the next one is.

Knows a number and waiters; no connection. Invariant: no slot is given beyond `limit` (a lowered
limit takes no slot away). A slot that was given to a waiter who has gone meanwhile goes to the
next one. Where it sits: `exchange.py` takes a slot for each request of any kind.
"""

import asyncio
from collections import deque


class ConnectionSlots:
    """The slots of one client. In the loop's thread only."""

    __slots__ = ("_taken", "_waiters", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting_count(self) -> int:
        return len(self._waiters)

    def take(self) -> bool:
        """Takes a slot at once. False: there is none, or others wait."""
        if self._taken >= self.limit or self._waiters:
            return False
        self._taken += 1
        return True

    async def wait(self) -> None:
        """Waits for a slot, and returns with it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():  # it was given a slot, and does not know it
                self.give()
            raise

    def give(self) -> None:
        """Gives a slot back."""
        self._taken -= 1
        self._wake()

    def set_limit(self, limit: int) -> None:
        """Sets the number of slots from now on."""
        self.limit = limit
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self._taken < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else it is cancelled, and does not know it yet
                self._taken += 1
                waiter.set_result(None)
