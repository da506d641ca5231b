"""How much memory the records of the disk may have: what is read ahead, and what the engines have.

Knows sizes and which streams are well, no frame. Pure. The backlog of all streams has half of
`memory_bytes_max`, and that of the unlisted ones half of this: the rest is for clients that wait,
and for commits. Within the half, a stream may have PARTS times what is left.

Beyond the half there are places for those that have nothing, and found the half taken. The less is
known of a stream, the sooner its place ends (BEYOND): what an engine has of one whose calls fail
stays there for as long as the outage lasts, though it is one record (`delivery.py`), and none of
these may take the place of those that are well. A stream that is well may have as much of its place
as keeps it going (WELL_PART), and one frame at a time may cross the place's end.
Invariant: what is read ahead is taken from the memory of all before it is read, and given back when
an engine takes it. Where it sits: `delivery.py` asks before it reads and before it hands over.
"""

from dataclasses import dataclass

from kdaemon.base.memory import ByteBudget
from kdaemon.engine.health import Health

BACKLOG_PART = 2
"""The backlog may have one of so many parts of the memory. Ours, 2026-11-28."""

UNLISTED_PART = 2  # and that of streams which are not listed one of so many parts of it

PARTS = 2
"""A stream may have so many times what is left of the backlog's part: one alone two thirds of it, 8
that grow together 94 %, 90 of them 99 %. Ours, 2026-11-28."""

BEYOND = {Health.ILL: 4, Health.UNTRIED: 5, Health.TOLD: 6, Health.WELL: 8}
BEYOND_PARTS = 16
"""By how many 16ths of the half the first frames of streams may go beyond it, by what is known of
the stream: ill ones to five eighths of the memory, those that are well to six. Ours, 2026-11-28."""

CROSSING = (Health.TOLD, Health.WELL)  # these may have a frame that goes beyond the end of that

WELL_PART = 256
"""One of so many parts of the memory is what a stream that is well may have in its place: some
1,000 frames of one record, where one frame at a time would be 20 a second; and 100 streams together
stay within the half. Ours, 2026-11-28."""

READ_BYTES_MAX = 4 * 1024 * 1024  # of memory, as frames hold it, that one read may bring
READ_BYTES_MIN = 64 * 1024  # less is not worth a read


@dataclass(slots=True, eq=False)
class Share:
    """What one stream has of it: `ahead_bytes` are taken from the memory of all, too."""

    is_listed: bool
    health: Health = Health.UNTRIED  # at the last look
    footprint_bytes: int = 0  # all of it, `ahead_bytes` included
    ahead_bytes: int = 0  # read, or about to be read, and in no engine
    next_bytes: int = 0  # of the next frame, if that was read and there was no room for it


class Room:
    """Of all streams."""

    __slots__ = ("_memory", "footprint_bytes", "unlisted_bytes")

    def __init__(self, memory: ByteBudget) -> None:
        self._memory = memory
        self.footprint_bytes = 0
        self.unlisted_bytes = 0  # the part of it that unlisted streams have

    def has(self, share: Share, byte_count: int) -> bool:
        """Whether the stream may have so much more."""
        if byte_count <= self.free_bytes(share):
            return True
        return not share.footprint_bytes and self._may_begin(share, byte_count)

    def free_bytes(self, share: Share) -> int:
        """How much more the stream may have; less than 0 if it has too much. One that has nothing
        may have more: see `has`.
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
        """Takes memory for one read, one of so many parts of the most that one may bring, as far as
        there is so much; 0: there is none.
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
        """So much was read; one frame may be more than what was taken for it. False: there is not
        enough memory for that; nothing is ahead then, and the next read waits for more room.
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
        """So much is ahead no more: it is an engine's, or on disk alone."""
        self._memory.give(byte_count)
        share.ahead_bytes -= byte_count
        self.add(share, -byte_count)

    def take_back(self, share: Share, byte_count: int) -> None:
        """What was given a moment ago, and nobody took."""
        is_taken = self._memory.take(byte_count)
        assert is_taken, "somebody took memory in the meantime"
        share.ahead_bytes += byte_count
        self.add(share, byte_count)

    def add(self, share: Share, byte_count: int) -> None:
        """Counts what an engine takes, or has settled (less than 0)."""
        share.footprint_bytes += byte_count
        self.footprint_bytes += byte_count
        if not share.is_listed:
            self.unlisted_bytes += byte_count

    def move(self, share: Share, *, is_listed: bool) -> None:
        """The stream is listed now, or no more."""
        if share.is_listed is not is_listed:
            self.unlisted_bytes += (
                share.footprint_bytes if share.is_listed else -share.footprint_bytes
            )
            share.is_listed = is_listed

    def _left_bytes(self, share: Share, beyond: int = 0) -> int:
        """Of the half, or the unlisted streams' part of it, and so many 16ths as much; less than 0
        if others went beyond that.
        """
        bytes_max = self._memory.bytes_max // BACKLOG_PART
        left_bytes = bytes_max + bytes_max * beyond // BEYOND_PARTS - self.footprint_bytes
        if not share.is_listed:
            bytes_max //= UNLISTED_PART
            unlisted_bytes_max = bytes_max + bytes_max * beyond // BEYOND_PARTS
            left_bytes = min(left_bytes, unlisted_bytes_max - self.unlisted_bytes)
        return left_bytes

    def _place_bytes(self, share: Share) -> int:
        """What is left up to the end of the stream's place."""
        return self._left_bytes(share, BEYOND[share.health])

    def _may_have_frame(self, share: Share, byte_count: int) -> bool:
        """Whether what was read may be so much; it is more than what was taken for it."""
        if share.footprint_bytes == share.ahead_bytes:
            return self._may_begin(share, byte_count)
        more_bytes = byte_count - share.ahead_bytes
        return more_bytes <= max(self._left_bytes(share), self.free_bytes(share))

    def _may_begin(self, share: Share, byte_count: int) -> bool:
        """Of a stream of which no engine has anything: whether it may have so much in all."""
        left_bytes = self._place_bytes(share) + share.footprint_bytes
        return byte_count <= left_bytes or (left_bytes >= 0 and share.health in CROSSING)
