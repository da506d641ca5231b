"""All streams that have something in the spool, and how much of the disk each has.

A spooled stream is made when a frame of its stream is stored, or when a stream that was found at
the start is taken. It is forgotten when no frame of it is on disk or in hand. Frames that were
found of a stream that is not taken stay on disk until it is taken; then they go before all later
frames. Knows counts and sizes; no disk, no engine's state, and nothing of which frame is next.
Invariants: a stream has one `SpooledStream`; `unlisted_bytes` is the sum of the bytes of streams
that are not listed, and of those on disk of streams that are not taken; `upstream_bytes` is the sum
of all streams of an upstream, which may be one that the configuration no longer has.
Where it sits: `spool.py` adds stored frames, `recovery.py` found ones, and `delivery.py` and
`passing_on.py` settled ones.
"""

from collections import defaultdict
from collections.abc import Iterator

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.held import frames_bytes
from kdaemon.spool.read_position import ReadPosition
from kdaemon.spool.room import Room, Share
from kdaemon.spool.spooled_stream import SpooledStream, Target, upstream_of
from kdaemon.spool.values import StoredTotals


class SpooledStreams:
    """`room`: their part of the memory. `frame_count`: frames on disk, of streams that are taken.
    `corrupt_count`: frames found damaged since the start.
    """

    __slots__ = (
        *("_found", "_streams", "corrupt_count", "frame_count", "room"),
        *("unlisted_bytes", "upstream_bytes"),
    )

    def __init__(self, memory: ByteBudget) -> None:
        self.room = Room(memory)
        self._streams: dict[str, SpooledStream] = {}
        self._found: dict[str, StoredTotals] = {}  # at the start, of streams that are not taken
        self.frame_count = 0
        self.unlisted_bytes = 0
        self.upstream_bytes: defaultdict[str, int] = defaultdict(int)
        self.corrupt_count = 0

    def __iter__(self) -> Iterator[SpooledStream]:
        return iter(self._streams.values())

    def get(self, target: Target, *, is_listed: bool) -> SpooledStream:
        """The spooled stream of a target; a new one has nothing on disk."""
        spooled = self._streams.get(target.name)
        if spooled is None:
            spooled = self._streams[target.name] = SpooledStream(target, Share(is_listed))
        elif spooled.target is not target:  # its stream was closed while idle, and opened again
            spooled.target = target
            spooled.is_called_back = False  # the target that was asked is gone
            spooled.left.forget(target.map_count)  # with nothing on disk there is no mark
        if spooled.share.is_listed is not is_listed:
            self.unlisted_bytes += -spooled.stored_bytes if is_listed else spooled.stored_bytes
            self.room.move(spooled.share, is_listed=is_listed)
        if self._found:
            self._take_up(spooled)
        return spooled

    def found(self, stored: StoredTotals) -> None:
        """Adds the frames that were on disk at the start of one stream, which is not taken yet, or
        no longer.
        """
        byte_count = _row_bytes(stored)
        self._found[stored.stream] = stored
        self.unlisted_bytes += byte_count
        self.upstream_bytes[upstream_of(stored.stream)] += byte_count

    @property
    def not_taken(self) -> list[StoredTotals]:
        """The totals that were found of streams that are not taken."""
        return list(self._found.values())

    def _take_up(self, spooled: SpooledStream) -> None:
        """Takes up the frames that were found of a stream that is taken now, before a new frame of
        it is committed.
        """
        stored = self._found.pop(spooled.target.name, None)
        if stored is None:
            return
        byte_count = _row_bytes(stored)
        spooled.target.counters.recovered += stored.record_count
        spooled.target.counters.spooled += stored.record_count
        spooled.position = ReadPosition(read_until=stored.first_id - 1, last_id=stored.last_id)
        spooled.stored_bytes += byte_count
        self.frame_count += stored.frame_count
        if spooled.share.is_listed:
            self.unlisted_bytes -= byte_count

    def find(self, target: Target) -> SpooledStream | None:
        """The spooled stream; None if the stream has none. Makes none."""
        return self._streams.get(target.name)

    def add(self, spooled: SpooledStream, frame_count: int, byte_count: int) -> None:
        """Adds frames in hand and bytes of rows; negative numbers take them away. A stream that has
        nothing left is forgotten.
        """
        spooled.in_hand += frame_count
        # The bytes found at the start are an estimate.
        byte_count = max(byte_count, -spooled.stored_bytes)
        spooled.stored_bytes += byte_count
        self.upstream_bytes[spooled.upstream] += byte_count
        if not spooled.share.is_listed:
            self.unlisted_bytes += byte_count
        if frame_count <= 0:
            self.forget_if_empty(spooled)

    def forget_if_empty(self, spooled: SpooledStream) -> None:
        """Forgets the stream if none of its frames is in hand, read ahead, being read or only on
        disk. Bytes that it still counts, of damaged rows, leave the sums.
        """
        if spooled.in_hand or spooled.ahead or spooled.is_reading or not spooled.is_passed_on:
            return
        if self._streams.get(spooled.target.name) is spooled:
            del self._streams[spooled.target.name]
            if spooled.timer is not None:
                spooled.timer.cancel()
            stored_bytes, spooled.stored_bytes = spooled.stored_bytes, 0  # of rows found damaged
            self.upstream_bytes[spooled.upstream] -= stored_bytes
            if not spooled.share.is_listed:
                self.unlisted_bytes -= stored_bytes

    @property
    def oldest_left_ms(self) -> int | None:
        """When the frame was accepted that has been left behind longest; None: none is left."""
        times = (spooled.left.oldest_ms for spooled in self)
        return min((each for each in times if each is not None), default=None)

    @property
    def is_passing_on(self) -> bool:
        """Whether frames are on their way from the disk to an engine: a stream has some on disk,
        and waits only for the disk and its turn.
        """
        return any(
            not (spooled.is_waiting_for_room or spooled.is_pausing or spooled.is_passed_on)
            for spooled in self
        )

    def stop(self) -> None:
        """Ends the waits of all streams."""
        for spooled in self:
            if spooled.timer is not None:
                spooled.timer.cancel()


def _row_bytes(stored: StoredTotals) -> int:
    return frames_bytes(stored.frame_count, stored.byte_count)
