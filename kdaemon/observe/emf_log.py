"""Puts the lines of emf.py into the log, once a minute.

About: when the lines are made, and how fast. A snapshot is read one stream in a turn of the loop.
Lines go to the log's queue only as fast as the log is read, so that they push neither each other
nor other lines out. Knows the loop, a clock and the queue; must not know what a line says.
Invariants: no line is lost in silence: a line that nobody reads is dropped by the queue, and
counted there. The loop turns between two lines. An error here is logged, and the next minute is
told all the same.
Flow: snapshot.py, emf.py -> here -> log_queue.py.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from kdaemon.base.ticks import next_tick_s
from kdaemon.observe.emf import Emf
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.reading import SnapshotReader
from kdaemon.observe.snapshot import Snapshot

INTERVAL_S = 60.0  # CloudWatch's standard resolution is a minute
LINES_WAITING_MAX = (
    100  # in the queue before more are put there: half of its bytes; ours, 2026-11-28
)
LAST_WAITS_S = 1.0  # at the end, for a slow reader of the log; ours, 2026-11-28
PAUSE_S = 0.1  # between two looks at the queue; ours, 2026-11-28

log = logging.getLogger("kdaemon.observe")


class EmfLog:
    """Writes lines from `start` to `aclose`."""

    def __init__(
        self,
        reader: SnapshotReader,
        emf: Emf,
        queue: LogQueue,
        wall_seconds: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._emf = emf
        self._queue = queue
        self._wall_seconds = wall_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write. Is called once, in the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="emf")

    async def aclose(self) -> None:
        """Writes no more lines. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def last(self, snapshot: Snapshot) -> None:
        """Writes the last lines: everything counted since the last minute. Then writes no more."""
        await self.aclose()
        await self._put(snapshot, asyncio.get_running_loop().time() + LAST_WAITS_S)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = next_tick_s(loop.time(), INTERVAL_S)
            await asyncio.sleep(due_s - loop.time())
            try:
                await self.tell(due_s + INTERVAL_S)
            except Exception:
                log.exception(
                    "metrics could not be told in Embedded Metric Format: a defect of kdaemon"
                )

    async def tell(self, until_s: float) -> None:
        """Writes one line for each stream, and one for the daemon. `until_s`: loop time until which
        a slow reader of the log is waited for.
        """
        steps = self._reader.read()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                snapshot: Snapshot = end.value
                break
            await asyncio.sleep(0)
        await self._put(snapshot, until_s)

    async def _put(self, snapshot: Snapshot, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        lines = self._emf.lines(snapshot, self._unix_ms())
        while True:
            while (  # noqa: ASYNC110 - the queue has no event for it
                self._queue.waiting > LINES_WAITING_MAX and loop.time() < until_s
            ):
                await asyncio.sleep(PAUSE_S)
            try:
                line = next(lines)
            except StopIteration:
                return
            # No turn between making a line and putting it: else its values could be lost.
            if line is not None:
                self._queue.put(line)
            await asyncio.sleep(0)

    def _unix_ms(self) -> int:
        return int(self._wall_seconds() * 1000)
