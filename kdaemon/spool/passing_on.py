"""Hands frames of the disk over to the engines: whole, or without the records whose shards have no
room.

Records of a shard whose queue is full are left on disk (`left.py`). Where memory is short, a stream
that is not known to be well gets one record. When all of a part has settled, its memory is given
back, its dead records are buried, and the disk is owed the note of what was delivered.
Knows rows, streams and the memory; nothing of reads and commits.
Invariants: the records of a stream for one shard reach its engine in the order in which they are
given here; a record that an engine did not take still stands on disk.
Where it sits: `delivery.py` gives frames that were committed or read, and reads on when something
settles.
"""

from collections.abc import Callable
from functools import partial

from kdaemon.base.frame import Frame
from kdaemon.engine.health import Health
from kdaemon.spool.held import Held, Part, Row, letters_of, narrowed
from kdaemon.spool.progress import Progress
from kdaemon.spool.spooled_stream import SpooledStream, WallClock, unix_ms
from kdaemon.spool.spooled_streams import SpooledStreams

LOOK_RECORDS = 1_000  # passed on between two looks at a stream's shards. Ours, 2026-11-28


class PassingOn:
    """For all streams. `read_on` is called with each stream of which a part has settled."""

    __slots__ = ("_clock", "_held", "_progress", "_read_on", "_room", "_streams")

    def __init__(
        self,
        streams: SpooledStreams,
        held: Held,
        clock: WallClock,
        progress: Progress,
        read_on: Callable[[SpooledStream], object],
    ) -> None:
        self._streams = streams
        self._room = streams.room
        self._held = held
        self._clock = clock
        self._progress = progress
        self._read_on = read_on

    def hand_over(
        self, spooled: SpooledStream, row: Row, part: Part, *, is_again: bool
    ) -> int | None:
        """Hands over the records whose shards' queues are not full; the rest is left on disk.
        Returns how many records were handed over; None: there is no room.
        """
        free_bytes = self._room.free_bytes(spooled.share)
        left, target = spooled.left, spooled.target
        is_probe = self._is_probe(spooled, part, free_bytes)
        if is_probe and spooled.share.footprint_bytes > spooled.share.ahead_bytes:
            return None
        if (
            is_probe
            or not left.is_empty
            or self._is_crowded(spooled, len(part.positions), free_bytes)
        ):
            ways = target.ways(part.frame, left.queued, free_bytes)
            if ways is None:
                return None
            ways = left.take(row.frame_id, row.accepted_ms, ways, is_again=is_again)
            if not ways:
                return 0
            if is_probe:
                frame = part.frame
                ways = [left.probe(row.frame_id, row.accepted_ms, ways, frame.sizes)]
            part = narrowed(part, ways, left.map_count)
        part.frame.on_settled = partial(self._settled, spooled, row, part)
        if not target.submit_spooled(part.frame):
            part.frame.on_settled = None  # no cycle holds data
            return None
        self._held.add(row, part)
        if self._progress.timer is None:
            self._progress.expect()
        left.handed_over(part.loads)
        spooled.in_hand += 1
        self._room.add(spooled.share, part.frame.footprint_bytes)
        return len(part.positions)

    def _is_probe(self, spooled: SpooledStream, part: Part, free_bytes: int) -> bool:
        """Whether the stream may have only one record: it is not known to be well, and its part of
        the memory is taken. Whatever its engine has may stay there for as long as an outage lasts.
        """
        return part.frame.footprint_bytes > free_bytes and spooled.share.health is not Health.WELL

    def _is_crowded(self, spooled: SpooledStream, record_count: int, free_bytes: int) -> bool:
        """Whether a shard may be full. While the stream has much memory left, no shard is looked
        at; otherwise they are looked at once in LOOK_RECORDS records, for a look and the ways of a
        frame cost work.
        """
        if spooled.target.is_calm(free_bytes):
            spooled.next_look_count = 0
            return False
        if spooled.next_look_count <= 0:
            spooled.next_look_count = LOOK_RECORDS
            spooled.is_crowded = spooled.target.is_crowded(free_bytes)
        spooled.next_look_count -= record_count
        return spooled.is_crowded

    def _settled(self, spooled: SpooledStream, row: Row, part: Part, frame: Frame) -> None:
        """Every record of a part is delivered or dead."""
        frame.on_settled = None  # else the cycle part -> frame -> part waits for the collector
        self._room.add(spooled.share, -frame.footprint_bytes)
        spooled.left.settled(part.loads, part.map_count)
        letters = letters_of(spooled.target.name, frame, row.accepted_ms, unix_ms(self._clock))
        row_bytes = 0
        if self._held.settle(row, part, letters):
            self._streams.frame_count -= 1
            row_bytes = row.row_bytes
        self._read_on(spooled)
        self._streams.add(spooled, -1, -row_bytes)
