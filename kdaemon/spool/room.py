"""How much memory the records of the disk may have: those that are read ahead, and those in
engines. Pure.

Knows sizes, and which streams are well; no frame. The backlog of all streams has half of
`memory_bytes_max`, and the backlog of the unlisted streams half of this half: the rest is for
clients that wait, and for commits. Within the half, a stream may have PARTS times what is left.

Beyond the half there are places for streams that have nothing, and find the half taken. The less is
known of a stream, the sooner its place ends (BEYOND): the engine of a stream whose calls fail keeps
its records for as long as the outage lasts, even if that is one record (`passing_on.py`), and such
streams must not take the place of those that are well. A stream that is well may have as much of
its place as keeps it going (WELL_PART), and one frame at a time may cross the end of the place.
Invariant: memory for reading ahead is taken from the budget of all before the read, and given back
when an engine takes the frame.
Where it sits: `delivery.py` asks before it reads, and `passing_on.py` before it hands over.
"""

from dataclasses import dataclass

from kdaemon.base.memory import ByteBudget
from kdaemon.engine.health import Health

BACKLOG_PART = 2
"""The backlog may have one of so many parts of the memory. Ours, 2026-11-28."""

UNLISTED_PART = 2  # the unlisted streams' backlog may have one of so many parts of that

PARTS = 2
"""A stream may have so many times what is left of the backlog's part: one stream alone gets two
thirds of the part, 8 that grow together get 94 %, 90 of them 99 %. Ours, 2026-11-28."""

BEYOND = {Health.ILL: 4, Health.UNTRIED: 5, Health.TOLD: 6, Health.WELL: 8}
BEYOND_PARTS = 16
"""BEYOND: how many of BEYOND_PARTS parts of the half the first frames of a stream may go beyond the
half, by what is known of the stream: ill ones to five eighths of the memory, those that are well to
six. Ours, 2026-11-28."""

CROSSING = (Health.TOLD, Health.WELL)  # a frame of these may cross the end of their place

WELL_PART = 256
"""In its place, a stream that is well may have one of so many parts of the memory: some 1,000
frames of one record, where one frame at a time would be 20 a second; and 100 such streams together
stay within the half. Ours, 2026-11-28."""

READ_BYTES_MAX = 4 * 1024 * 1024  # most that one read may bring, as footprint
READ_BYTES_MIN = 64 * 1024  # less is not worth a read


@dataclass(slots=True, eq=False)
class Share:
    """The memory of one stream. `ahead_bytes` are also taken from the budget of all."""

    is_listed: bool
    health: Health = Health.UNTRIED  # at the last look
    footprint_bytes: int = 0  # all of it, `ahead_bytes` included
    ahead_bytes: int = 0  # read, or about to be read, and in no engine
    next_bytes: int = 0  # of the next frame, if it was read and had no room


class Room:
    """For all streams."""

    __slots__ = ("_memory", "footprint_bytes", "unlisted_bytes")

    def __init__(self, memory: ByteBudget) -> None:
        self._memory = memory
        self.footprint_bytes = 0
        self.unlisted_bytes = 0  # of these, those of unlisted streams

    def has(self, share: Share, byte_count: int) -> bool:
        """Whether the stream may have `byte_count` bytes more."""
        if byte_count <= self.free_bytes(share):
            return True
        return not share.footprint_bytes and self._may_begin(share, byte_count)

    def free_bytes(self, share: Share) -> int:
        """How many bytes more the stream may have; below 0 if it has too many. A stream that has
        nothing may have more: see `has`.
        """
        free_bytes = (PARTS * self._left_bytes(share) - share.footprint_bytes) // (PARTS + 1)
        if share.health is not Health.WELL:
            return free_bytes
        well_bytes = (
            max(self._memory.bytes_max // WELL_PART, READ_BYTES_MIN) - share.footprint_bytes
        )
        if well_bytes <= free_bytes:
            return free_bytes
        return max(free_bytes, min(well_bytes, self._place_bytes(share)))

    def take_ahead(self, share: Share, parts: int = 1) -> int:
        """Takes memory for one read: one of `parts` parts of the most that a read may bring, or
        less if there is less. Returns how much was taken; 0: there is none.
        """
        least_bytes = max(READ_BYTES_MIN, share.next_bytes)
        byte_count = min(READ_BYTES_MAX // parts, self.free_bytes(share))
        if byte_count < least_bytes:
            byte_count = least_bytes
            if not self.has(share, byte_count):
                return 0
        if not self._memory.take(byte_count):
            return 0
        share.ahead_bytes += byte_count
        self.add(share, byte_count)
        return byte_count

    def was_read(self, share: Share, byte_count: int) -> bool:
        """A read brought `byte_count` bytes; one frame may be more than the memory that was taken
        for it. Returns False if there is not enough memory for it: then no memory is taken ahead,
        and the next read waits for more room.
        """
        more_bytes = byte_count - share.ahead_bytes
        if more_bytes > 0 and not (
            self._may_have_frame(share, byte_count) and self._memory.take(more_bytes)
        ):
            self.give_ahead(share, share.ahead_bytes)
            share.next_bytes = byte_count
            return False
        share.next_bytes = 0
        if more_bytes < 0:
            self.give_ahead(share, -more_bytes)
        else:
            share.ahead_bytes += more_bytes
            self.add(share, more_bytes)
        return True

    def give_ahead(self, share: Share, byte_count: int) -> None:
        """Gives back memory of frames that are ahead no more: they are in an engine, or on disk
        alone.
        """
        self._memory.give(byte_count)
        share.ahead_bytes -= byte_count
        self.add(share, -byte_count)

    def take_back(self, share: Share, byte_count: int) -> None:
        """Takes memory again that was given back a moment ago, and that no other took since."""
        is_taken = self._memory.take(byte_count)
        assert is_taken, "somebody took memory in the meantime"
        share.ahead_bytes += byte_count
        self.add(share, byte_count)

    def add(self, share: Share, byte_count: int) -> None:
        """Counts memory that an engine takes, or that has settled (below 0)."""
        share.footprint_bytes += byte_count
        self.footprint_bytes += byte_count
        if not share.is_listed:
            self.unlisted_bytes += byte_count

    def move(self, share: Share, *, is_listed: bool) -> None:
        """The stream is listed now, or no longer."""
        if share.is_listed is not is_listed:
            self.unlisted_bytes += (
                share.footprint_bytes if share.is_listed else -share.footprint_bytes
            )
            share.is_listed = is_listed

    def _left_bytes(self, share: Share, beyond: int = 0) -> int:
        """Bytes left of the half (or of the unlisted streams' part of it), where the half is longer
        by `beyond` of BEYOND_PARTS parts of itself; below 0 if others went beyond that.
        """
        bytes_max = self._memory.bytes_max // BACKLOG_PART
        left_bytes = bytes_max + bytes_max * beyond // BEYOND_PARTS - self.footprint_bytes
        if not share.is_listed:
            bytes_max //= UNLISTED_PART
            unlisted_bytes_max = bytes_max + bytes_max * beyond // BEYOND_PARTS
            left_bytes = min(left_bytes, unlisted_bytes_max - self.unlisted_bytes)
        return left_bytes

    def _place_bytes(self, share: Share) -> int:
        """Bytes left up to the end of the stream's place."""
        return self._left_bytes(share, BEYOND[share.health])

    def _may_have_frame(self, share: Share, byte_count: int) -> bool:
        """Whether the frames of a read may take `byte_count`, which is more than was taken for
        them.
        """
        if share.footprint_bytes == share.ahead_bytes:
            return self._may_begin(share, byte_count)
        more_bytes = byte_count - share.ahead_bytes
        return more_bytes <= max(self._left_bytes(share), self.free_bytes(share))

    def _may_begin(self, share: Share, byte_count: int) -> bool:
        """Whether a stream of which no engine has a record may have `byte_count` in all."""
        left_bytes = self._place_bytes(share) + share.footprint_bytes
        return byte_count <= left_bytes or (left_bytes >= 0 and share.health in CROSSING)
