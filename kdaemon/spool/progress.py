"""Noting on disk, from time to time, what is delivered of frames that an engine has not ended with,
so that a crash sends only the rest.

Knows the rows that engines have (`held.py`) and the clock of the loop; no disk and no engine: what
is noted goes with the next commit. Invariants: while nothing is held, nobody is woken; a look at
all of them is spread over turns of the loop, and the next look begins after its last part.
Where it sits: `passing_on.py` says that something is held.
"""

import asyncio
from collections import deque
from functools import partial

from kdaemon.http.turns import Later
from kdaemon.spool.held import Held, Row

PROGRESS_INTERVAL_S = 0.25  # how often partly delivered frames are noted, while there are any held
PROGRESS_A_TURN = 5_000  # held frames, and records of noted ones, a turn of the loop: 1 ms. Ours


class Progress:
    """`timer`: of the next look; None: nothing is held, or a look is on its way."""

    __slots__ = ("_held", "_is_stopped", "_later", "_loop", "timer")

    def __init__(self, held: Held, later: Later) -> None:
        self._held = held
        self._later = later
        self._loop = asyncio.get_running_loop()
        self._is_stopped = False
        self.timer: asyncio.TimerHandle | None = None

    def expect(self) -> None:
        """Something may be held."""
        if self._held.rows and self.timer is None and not self._is_stopped:
            self.timer = self._loop.call_later(PROGRESS_INTERVAL_S, self.look)

    def look(self) -> None:
        """Notes it of all of them, in turns."""
        self.timer = None
        self._note_some(deque(self._held.rows.values()))

    def note_all(self) -> None:
        """At once, for the end."""
        for row in self._held.rows.values():
            self._held.note(row)

    def stop(self) -> None:
        self._is_stopped = True
        if self.timer is not None:
            self.timer.cancel()

    def _note_some(self, looked_at: deque[Row]) -> None:
        """A part of them in this turn of the loop."""
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
