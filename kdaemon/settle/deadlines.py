"""Frames whose clients wait, in the order of their deadlines.

Bound: one entry per unsettled frame, which the memory budget bounds. Looked at in coarse steps, so
that many deadlines cost one sweep; and taken in slices, so that many at once hold nobody up: what a
slice leaves is due at once.
"""

from collections import OrderedDict
from collections.abc import Iterable

from kdaemon.base.frame import Frame

SWEEP_INTERVAL_NS = 100_000_000
"""0.1 s: how late a deadline may be kept. Clients' own read timeouts are seconds above it."""

FRAME_PIECES = 4  # what a frame counts beside its records; measured, 2026-11-28


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

    def discard(self, frame: Frame) -> None:
        self._frames.pop(frame, None)

    def is_due(self, now_ns: int) -> bool:
        """Whether a deadline is to be kept now."""
        if now_ns < self._swept_at_ns + SWEEP_INTERVAL_NS:
            return False
        for deadline_ns in self._frames.values():
            return deadline_ns <= now_ns
        return False

    def next_sweep_ns(self) -> int | None:
        for deadline_ns in self._frames.values():
            return max(deadline_ns, self._swept_at_ns + SWEEP_INTERVAL_NS)
        return None

    def take_expired(self, now_ns: int, pieces_max: int) -> list[Frame]:
        """Frames whose deadline has come, as many as have `pieces_max` pieces (`pieces_of`) and one
        more at most; they are forgotten here.
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
                return expired  # the others are due still
            expired.append(frame)
            pieces += pieces_of(frame)
        self._swept_at_ns = now_ns
        self._forget(expired)
        return expired

    def take_first(self, pieces_max: int, accepted_until_ns: int) -> list[Frame]:
        """As `take_expired`, of the frames that were accepted by then, whatever their deadline."""
        first = first_of(self._frames, pieces_max, accepted_until_ns)
        self._forget(first)
        return first

    def _forget(self, frames: list[Frame]) -> None:
        for frame in frames:
            del self._frames[frame]


def pieces_of(frame: Frame) -> int:
    """How much work it is to end a frame before it is delivered, in records."""
    return len(frame.results) + FRAME_PIECES


def first_of(frames: Iterable[Frame], pieces_max: int, accepted_until_ns: int) -> list[Frame]:
    """Of frames in the order of their acceptance those that were accepted by then, as many as have
    `pieces_max` pieces and one more at most.
    """
    first: list[Frame] = []
    pieces = 0
    for frame in frames:
        if frame.accepted_ns > accepted_until_ns or pieces >= pieces_max:
            break
        first.append(frame)
        pieces += pieces_of(frame)
    return first
