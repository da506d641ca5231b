"""The records that are left on disk because their shards are slower than the records that come.
Pure.

A stored frame has records for many shards. When the frame is read, the records of a shard whose
queue is full are left on disk, and the rest of the frame is handed over; so one hot shard holds up
no other. For such a shard a mark gives the id of a frame: up to this frame nothing of the shard is
left. A mark is one id, however much stands behind it. Which records of a frame were handed over is
noted on its row, not here.

Where memory is short, one record of a stream that is not known to be well is handed over, to try
the stream; the rest of the frame is left, too.

Each record belongs to an `order`: its shard, or the shard of its key where order per key is kept.
Invariants: records of one order are handed over in the order in which they stand on disk, because
all that is marked stays left until it is read again from its mark on; an order without a mark has
nothing left up to the place where the stream is read. When the shards change, all is read again
from the first mark on.
Bound: a mark a shard.
Where it sits: `passing_on.py` asks it about each frame that it hands over.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdaemon.engine.ways import Way


@dataclass(slots=True)
class Mark:
    """Nothing of an order is left up to `after_id`. `accepted_ms`: about when the first record that
    is left was accepted. `lane`: the shard whose queue was full.
    """

    after_id: int
    accepted_ms: int
    lane: str | None


class Load(NamedTuple):
    """Records that were handed over for one shard."""

    lane: str
    record_count: int
    byte_count: int


class Left:
    """What is left of one stream. `queued`: records and bytes by shard, of the loads that are not
    settled.
    """

    __slots__ = ("_active", "map_count", "marks", "queued")

    def __init__(self) -> None:
        self.marks: dict[str | None, Mark] = {}
        self.queued: dict[str, tuple[int, int]] = {}
        self.map_count = 0  # of the map by which marks and queues are
        self._active: set[str | None] = set()  # orders that are handed over in this reading

    @property
    def is_empty(self) -> bool:
        return not self.marks

    @property
    def first_id(self) -> int | None:
        """Up to this id nothing is left; None: nothing is left at all."""
        return min((mark.after_id for mark in self.marks.values()), default=None)

    @property
    def oldest_ms(self) -> int | None:
        """About when the oldest record that is left was accepted; None: none is left."""
        return min((mark.accepted_ms for mark in self.marks.values()), default=None)

    def first_id_of(self, lanes: AbstractSet[str | None]) -> int | None:
        """As `first_id`, for these shards only."""
        ids = (mark.after_id for mark in self.marks.values() if mark.lane in lanes)
        return min(ids, default=None)

    def begin(self, after_id: int) -> None:
        """All frames after this id are read again. An order whose mark is before this id stays
        left.
        """
        self._active = {order for order, mark in self.marks.items() if mark.after_id >= after_id}

    @property
    def is_all_left(self) -> bool:
        """Whether reading on would bring nothing more to hand over."""
        return not self._active

    def take(
        self, frame_id: int, accepted_ms: int, ways: list[Way], *, is_again: bool
    ) -> list[Way]:
        """The ways of a frame that may be handed over; the rest is left. `is_again`: the frame is
        read again; otherwise it is the first one that was not passed on yet.
        """
        for way in ways:
            if way.is_full and self._may_go(way.order, is_again=is_again):
                self._active.discard(way.order)
                self.marks[way.order] = Mark(frame_id - 1, accepted_ms, way.lane)
        return [way for way in ways if self._may_go(way.order, is_again=is_again)]

    def probe(self, frame_id: int, accepted_ms: int, ways: list[Way], sizes: list[int]) -> Way:
        """One record, of the ways of a frame that `take` returned: the smallest of those that are
        first in their order. The rest is left.
        """
        for way in ways:
            self._active.discard(way.order)
            self.marks[way.order] = Mark(frame_id - 1, accepted_ms, way.lane)
        way = min(ways, key=lambda each: sizes[each.indices[0]])
        first = way.indices[0]
        return replace(way, indices=[first], byte_count=sizes[first])

    def end(self, until_id: int, read_until: int) -> None:
        """Frames were read again up to `until_id`. `read_until`: the stream is passed on up to this
        id; an order whose mark has reached it has nothing left any more.
        """
        for order in self._active:
            mark = self.marks[order]
            mark.after_id = max(mark.after_id, until_id)
        self._active = set()
        done = [order for order, mark in self.marks.items() if mark.after_id >= read_until]
        for order in done:
            del self.marks[order]

    def forget(self, map_count: int) -> None:
        """The shards have changed: no mark and no queue is of the new ones."""
        self.map_count = map_count
        self.marks.clear()
        self.queued.clear()
        self._active = set()

    def handed_over(self, loads: Iterable[Load]) -> None:
        """Counts these loads as queued until `settled` is called with them."""
        for load in loads:
            records, byte_count = self.queued.get(load.lane, (0, 0))
            self.queued[load.lane] = (records + load.record_count, byte_count + load.byte_count)

    def settled(self, loads: Iterable[Load], map_count: int) -> None:
        """These loads, handed over by the map of that count, are settled."""
        if map_count != self.map_count:
            return
        for load in loads:
            records, byte_count = self.queued[load.lane]
            if records > load.record_count:
                queued = (records - load.record_count, byte_count - load.byte_count)
                self.queued[load.lane] = queued
            else:
                del self.queued[load.lane]

    def _may_go(self, order: str | None, *, is_again: bool) -> bool:
        return order not in self.marks or (is_again and order in self._active)
