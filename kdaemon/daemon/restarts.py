"""When a worker that ended is started again.

Pure: time is an argument. At once after it had run for a while; the sooner it ends, the later the
next start, so that what cannot run costs little and is not given up: a disk or a file may be mended
meanwhile.
Where it sits: crew.py asks.
"""

FIRST_WAIT_S = 0.5  # after a worker that ended early; ours, 2026-11-28
WAIT_S_MAX = 30.0  # ours, 2026-11-28: an operator who has mended what is wrong waits no longer
SOUND_NS = 60_000_000_000  # 60 s: who ran so long ends for another reason. Ours, 2026-11-28


class Restarts:
    """Of one worker. `count`: since the supervisor began."""

    __slots__ = ("_began_ns", "_early_count", "count")

    def __init__(self) -> None:
        self.count = 0
        self._began_ns = 0
        self._early_count = 0  # ends in a row, each too soon after its start

    def began(self, now_ns: int) -> None:
        """It was started."""
        self._began_ns = now_ns

    def ended(self, now_ns: int) -> float:
        """It ended, and was not told to: seconds to wait before it is started again. The first end
        of a worker is followed by a start at once: its clients wait.
        """
        self.count += 1
        is_sound = now_ns - self._began_ns >= SOUND_NS
        self._early_count = 0 if is_sound else self._early_count + 1
        if self._early_count <= 1:
            return 0.0
        return float(min(WAIT_S_MAX, FIRST_WAIT_S * 2 ** min(self._early_count - 2, 10)))
