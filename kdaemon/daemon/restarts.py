"""When a worker that ended is started again.

Pure: time is an argument. A worker that ran for a while is started again at once. A worker that
ends soon after its start waits longer each time: so a worker that cannot run costs little. It is
never given up, since an operator may mend the disk or the file that it lacks.
Where it sits: member.py asks.
"""

FIRST_WAIT_S = 0.5  # after the second early end in a row; ours, 2026-11-28
# Ours, 2026-11-28: an operator who has mended the cause waits no longer than this.
WAIT_S_MAX = 30.0
# 60 s: a worker that ran so long did not fail at its start. Ours, 2026-11-28.
SOUND_NS = 60_000_000_000


class Restarts:
    """The restarts of one worker. `count`: all since the supervisor began."""

    __slots__ = ("_began_ns", "_early_count", "count")

    def __init__(self) -> None:
        self.count = 0
        self._began_ns = 0
        self._early_count = 0  # ends in a row that each came too soon after the start

    def began(self, now_ns: int) -> None:
        """The worker was started."""
        self._began_ns = now_ns

    def ended(self, now_ns: int) -> float:
        """The worker ended without an order. Returns the seconds to wait before the next start. The
        first early end in a row waits 0 s: clients wait for the worker.
        """
        self.count += 1
        is_sound = now_ns - self._began_ns >= SOUND_NS
        self._early_count = 0 if is_sound else self._early_count + 1
        if self._early_count <= 1:
            return 0.0
        return float(min(WAIT_S_MAX, FIRST_WAIT_S * 2 ** min(self._early_count - 2, 10)))
