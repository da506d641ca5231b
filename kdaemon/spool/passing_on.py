"""Handing frames of the disk to the engines: whole, or without what no shard has room for.

What a shard's queue is full for is left on disk (`left.py`); of a stream that is not known to be
well, one record goes where memory is short. When all of a part has settled, its memory is given
back, its dead records are buried, and what is delivered is owed to the disk. Knows rows, streams
and the memory; nothing of reads and commits. Invariants: the records of a stream for one shard
reach its engine in the order in which they are given here; what an engine did not take stands on
disk still. Where it sits: `delivery.py` gives what was committed or read, and reads on when
something settles.
"""

from collections.abc import Callable
from functools import partial

from kdaemon.base.frame import Frame
from kdaemon.engine.health import Health
from kdaemon.spool.held import Held, Part, Row, letters_of, narrowed
from kdaemon.spool.progress import Progress
from kdaemon.spool.spooled_stream import SpooledStream, WallClock, unix_ms
from kdaemon.spool.spooled_streams import SpooledStreams

LOOK_RECORDS = 1_000  # that are passed on between two looks at a stream's shards. Ours, 2026-11-28


class PassingOn:
    """Of all streams. `read_on` is told of each stream of which something has settled."""

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
        """Hands over what no shard's queue is full for; the rest is left on disk. How many records
        were handed over; None: there is no room.
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
        """Whether the stream may have no more than one record: it is not known to be well, its
        part of the memory is taken, and what an engine has once may stay there for an outage.
        """
        return part.frame.footprint_bytes > free_bytes and spooled.share.health is not Health.WELL

    def _is_crowded(self, spooled: SpooledStream, record_count: int, free_bytes: int) -> bool:
        """Whether a shard may be full. Where the stream has much memory left, nobody looks; else
        once for so many records, for a look and the ways of a frame take a part of its work.
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
        frame.on_settled = None  # the cycle part -> frame -> part would wait for the collector
        self._room.add(spooled.share, -frame.footprint_bytes)
        spooled.left.settled(part.loads, part.map_count)
        letters = letters_of(spooled.target.name, frame, row.accepted_ms, unix_ms(self._clock))
        row_bytes = 0
        if self._held.settle(row, part, letters):
            self._streams.frame_count -= 1
            row_bytes = row.row_bytes
        self._read_on(spooled)
        self._streams.add(spooled, -1, -row_bytes)
