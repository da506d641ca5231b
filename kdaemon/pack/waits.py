"""The lanes that wait for a time: when each is due, the soonest first.

A lane that is put off again, or leaves, stays in the heap under its old time until that entry comes
up: it is stale, and passed over. Pure; knows when a lane is ready, not why.
Invariant: every lane that is WAITING has an entry with its `ready_at_ns`.
Where it sits: `packer.py` has one.
"""

from heapq import heapify, heappop, heappush
from typing import Final

from kdaemon.pack.lane import Lane, LaneState

# An attribute of an Enum costs four times a global.
_WAITING: Final[LaneState] = LaneState.WAITING

STALE_WAITS_MAX = 1_024
"""Stale entries tolerated above twice the lanes before the heap is built anew. Ours, 2026-11-21."""


class Waits:
    """Of one stream's lanes."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Lane]] = []
        self._count = 0  # breaks ties

    def put(self, lane: Lane, lane_count: int) -> None:
        """The lane waits until its `ready_at_ns`. `lane_count`: of the stream."""
        if len(self._heap) > 2 * lane_count + STALE_WAITS_MAX:
            self._heap = [
                each
                for each in self._heap
                if each[2].state is _WAITING and each[2].ready_at_ns == each[0]
            ]
            heapify(self._heap)
        self._count += 1
        heappush(self._heap, (lane.ready_at_ns, self._count, lane))

    def take_due(self, now_ns: int) -> Lane | None:
        """A lane that is due, which is taken out; None: there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            ready_at_ns, _, lane = heappop(heap)
            if lane.state is _WAITING and lane.ready_at_ns == ready_at_ns:
                return lane
        return None

    def next_due_ns(self) -> int | None:
        """When the next lane is due."""
        heap = self._heap
        while heap:
            ready_at_ns, _, lane = heap[0]
            if lane.state is _WAITING and lane.ready_at_ns == ready_at_ns:
                return ready_at_ns
            heappop(heap)
        return None

    def audit(self) -> list[tuple[int, Lane]]:
        """For tests: all entries, the stale ones too."""
        return [(ready_at_ns, lane) for ready_at_ns, _, lane in self._heap]
