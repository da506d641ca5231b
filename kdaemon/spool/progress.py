"""Notes on disk, from time to time, which records of unsettled frames are delivered, so that after
a crash only the rest is sent again.

Knows the rows of which engines have records (`held.py`), and the loop's clock; no disk and no
engine: a note goes with the next commit.
Invariants: while no row is held, no timer runs; a look at all rows is spread over turns of the
loop, and the next look begins after the last part of this one.
Where it sits: `passing_on.py` says when a row is held.
"""

import asyncio
from collections import deque
from functools import partial

from kdaemon.http.turns import Later
from kdaemon.spool.held import Held, Row

PROGRESS_INTERVAL_S = 0.25  # between two looks, while any row is held
PROGRESS_A_TURN = 5_000  # held rows, and records of noted ones, a turn of the loop: 1 ms. Ours


class Progress:
    """`timer`: of the next look; None: no row is held, or a look is under way."""

    __slots__ = ("_held", "_is_stopped", "_later", "_loop", "timer")

    def __init__(self, held: Held, later: Later) -> None:
        self._held = held
        self._later = later
        self._loop = asyncio.get_running_loop()
        self._is_stopped = False
        self.timer: asyncio.TimerHandle | None = None

    def expect(self) -> None:
        """A row may be held: makes a look follow."""
        if self._held.rows and self.timer is None and not self._is_stopped:
            self.timer = self._loop.call_later(PROGRESS_INTERVAL_S, self.look)

    def look(self) -> None:
        """Looks at all held rows, a part in each turn of the loop."""
        self.timer = None
        self._note_some(deque(self._held.rows.values()))

    def note_all(self) -> None:
        """Notes all held rows at once, when the daemon ends."""
        for row in self._held.rows.values():
            self._held.note(row)

    def stop(self) -> None:
        """Begins no look any more; one that is under way ends with its present part."""
        self._is_stopped = True
        if self.timer is not None:
            self.timer.cancel()

    def _note_some(self, looked_at: deque[Row]) -> None:
        """Notes a part of the rows in this turn of the loop."""
        if self._is_stopped:
            return
        pieces = 0
        while looked_at and pieces < PROGRESS_A_TURN:
            row = looked_at.popleft()
            pieces += 1
            if row.frame_id in self._held.rows and self._held.note(row):
                pieces += row.record_count
        if looked_at:
            self._later(partial(self._note_some, looked_at))
        else:
            self.expect()
