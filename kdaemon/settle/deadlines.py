"""Frames whose clients wait, in the order of their deadlines.

Bound: one entry per unsettled frame, which the memory budget bounds. Looked at in coarse steps, so
that many deadlines cost one sweep.
"""

from collections import OrderedDict

from kdaemon.base.frame import Frame

SWEEP_INTERVAL_NS = 100_000_000
"""0.1 s: how late a deadline may be kept. Clients' own read timeouts are seconds above it."""


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

    def next_sweep_ns(self) -> int | None:
        for deadline_ns in self._frames.values():
            return max(deadline_ns, self._swept_at_ns + SWEEP_INTERVAL_NS)
        return None

    def take_expired(self, now_ns: int) -> list[Frame]:
        """The frames whose deadline has come; they are forgotten here."""
        due_ns = self.next_sweep_ns()
        if due_ns is None or now_ns < due_ns:
            return []
        self._swept_at_ns = now_ns
        expired = []
        for frame, deadline_ns in self._frames.items():
            if deadline_ns > now_ns:
                break
            expired.append(frame)
        for frame in expired:
            del self._frames[frame]
        return expired

    def take_all(self) -> list[Frame]:
        frames = list(self._frames)
        self._frames.clear()
        return frames
