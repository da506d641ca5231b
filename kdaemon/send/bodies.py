"""How much memory the bodies of calls may take, from their encoding until they are written.

Knows sizes and streams; no record, no connection. If a service reads slowly, or not at all, bodies
pile up here: 16 calls of a stream may have 7 MB each, or 14.
Invariants: a body is encoded only while all bodies have less than BODIES_BYTES_MAX together. So at
most one body goes beyond that, and one body can always go. A stream that has a body here may add
one only while all have less than half of it, so that a stream which is not read leaves room to the
others. Memory that is given back wakes those who wait, one after another.
Where it sits: `client.py` asks before it encodes, and gives back when a body is written or dropped.
"""

import asyncio
from collections import deque

from kdaemon.base.limits import MIB

BODIES_BYTES_MAX = 16 * MIB
"""Beside `memory_bytes_max`, which holds the records of the calls that wait here. Two calls of 7 MB
keep a connection of 1 GB/s busy. Ours, 2026-11-28."""

STREAM_PART = 2  # a stream with a body here waits once 1 / this of the room is taken


class Bodies:
    """The room of one client. In the loop's thread only."""

    __slots__ = ("_counts", "_waiters", "byte_count")

    def __init__(self) -> None:
        self.byte_count = 0
        self._counts: dict[str, int] = {}  # bodies by stream
        self._waiters: deque[tuple[str, asyncio.Future[None]]] = deque()

    def has_room(self, stream: str) -> bool:
        """Whether this stream may encode one more body, of any size."""
        if self.byte_count < BODIES_BYTES_MAX // STREAM_PART:
            return True
        return self.byte_count < BODIES_BYTES_MAX and stream not in self._counts

    async def room(self, stream: str) -> None:
        """Returns when there is room; the caller then encodes its body and adds it at once."""
        is_first = True
        while not self.has_room(stream):
            waiter = stream, asyncio.get_running_loop().create_future()
            if is_first:
                self._waiters.append(waiter)
            else:  # this one had its turn, but another was quicker
                self._waiters.appendleft(waiter)
            is_first = False
            try:
                await waiter[1]
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                else:  # this one was woken: the turn is for another that still waits
                    self._wake()
                raise

    def add(self, stream: str, byte_count: int) -> "Held":
        """Counts a body that is encoded."""
        self.byte_count += byte_count
        self._counts[stream] = self._counts.get(stream, 0) + 1
        if self._waiters:
            self._wake()
        return Held(self, stream, byte_count)

    def give(self, stream: str, byte_count: int) -> None:
        """Counts a body that is written, or dropped."""
        self.byte_count -= byte_count
        count = self._counts.pop(stream) - 1
        if count:
            self._counts[stream] = count
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        """Wakes the first that may go. When that one has added its body, it wakes the next."""
        for waiter in self._waiters:
            stream, future = waiter
            if not future.done() and self.has_room(stream):  # done: cancelled, but not yet told
                self._waiters.remove(waiter)
                future.set_result(None)
                return


class Held:
    """The memory of one body. It is given back once."""

    __slots__ = ("_bodies", "_byte_count", "_stream")

    def __init__(self, bodies: Bodies, stream: str, byte_count: int) -> None:
        self._bodies: Bodies | None = bodies
        self._stream = stream
        self._byte_count = byte_count

    def give(self) -> None:
        """Gives the memory back. A second call does nothing."""
        bodies, self._bodies = self._bodies, None
        if bodies is not None:
            bodies.give(self._stream, self._byte_count)
