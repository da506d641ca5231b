"""Frames whose clients wait, in the order of their deadlines.

Knows frames and times; nothing of shards or calls. Bound: one entry per unsettled frame, which the
memory budget bounds. Deadlines are looked at in coarse steps, so that many deadlines cost one
sweep. Expired frames are taken in slices, so that many at once do not block the loop; the frames
that a slice leaves are due at once.
Where it sits: `ledger.py` has one for deadlines, and others for the ages of records.
"""

from collections import OrderedDict
from collections.abc import Iterable

from kdaemon.base.frame import Frame

SWEEP_INTERVAL_NS = 100_000_000
"""0.1 s: a deadline is kept at most this late. Clients' own read timeouts are seconds above
this."""

FRAME_PIECES = 4  # a frame counts as this many pieces more than its records; measured, 2026-11-28


class Deadlines:
    """Frames enter in the order of their deadlines (one stream, one deadline)."""

    __slots__ = ("_frames", "_swept_at_ns")

    def __init__(self) -> None:
        self._frames: OrderedDict[Frame, int] = OrderedDict()
        self._swept_at_ns = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame, deadline_ns: int) -> None:
        self._frames[frame] = deadline_ns

    def add_first(self, frames: list[Frame]) -> None:
        """Frames that were taken from the front, in that order, enter there again."""
        for frame in reversed(frames):
            assert frame.deadline_ns is not None
            self._frames[frame] = frame.deadline_ns
            self._frames.move_to_end(frame, last=False)

    def discard(self, frame: Frame) -> None:
        self._frames.pop(frame, None)

    def is_due(self, now_ns: int) -> bool:
        """Whether a deadline must be kept now."""
        if now_ns < self._swept_at_ns + SWEEP_INTERVAL_NS:
            return False
        for deadline_ns in self._frames.values():
            return deadline_ns <= now_ns
        return False

    def next_sweep_ns(self) -> int | None:
        """When the next deadline must be kept; None if no frame waits."""
        for deadline_ns in self._frames.values():
            return max(deadline_ns, self._swept_at_ns + SWEEP_INTERVAL_NS)
        return None

    def take_expired(self, now_ns: int, pieces_max: int) -> list[Frame]:
        """Removes and returns frames whose deadline has come: as many as have `pieces_max` pieces
        (`pieces_of`), and at most one more frame.
        """
        if not self.is_due(now_ns):
            return []
        expired: list[Frame] = []
        pieces = 0
        for frame, deadline_ns in self._frames.items():
            if deadline_ns > now_ns:
                break
            if pieces >= pieces_max:
                self._forget(expired)
                return expired  # the other frames are still due
            expired.append(frame)
            pieces += pieces_of(frame)
        self._swept_at_ns = now_ns
        self._forget(expired)
        return expired

    def take_first(self, pieces_max: int, accepted_until_ns: int) -> list[Frame]:
        """As `take_expired`, but frames that were accepted by `accepted_until_ns`, whatever their
        deadline.
        """
        first = first_of(self._frames, pieces_max, accepted_until_ns)
        self._forget(first)
        return first

    def _forget(self, frames: list[Frame]) -> None:
        for frame in frames:
            del self._frames[frame]


def pieces_of(frame: Frame) -> int:
    """How much work it is to end a frame before it is delivered; the unit is one record."""
    return len(frame.results) + FRAME_PIECES


def first_of(frames: Iterable[Frame], pieces_max: int, accepted_until_ns: int) -> list[Frame]:
    """The frames that were accepted by `accepted_until_ns`: as many as have `pieces_max` pieces,
    and at most one more frame. `frames` must be in the order of their acceptance.
    """
    first: list[Frame] = []
    pieces = 0
    for frame in frames:
        if frame.accepted_ns > accepted_until_ns or pieces >= pieces_max:
            break
        first.append(frame)
        pieces += pieces_of(frame)
    return first
