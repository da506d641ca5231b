"""The drain: from the first signal to stop, until every taken record is delivered or time is over.

Clients are served for a short lame-duck time. Then listening ends, buffered records are delivered
up to a deadline, and clients that still wait are told that the daemon ends. Sockets that systemd
bound, or that another process took over, are left at once instead: connected clients have the
lame-duck time to connect again.
Invariant: the drain takes at most the sum of the two times of [drain]: the grace for last answers
is a part of the deadline, and the same part for all doors.
Where it sits: daemon.py begins it; it moves listeners.py, streams/ and spool/ and reads a snapshot.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdaemon.base.steps import at_once
from kdaemon.config import DrainConfig
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.takeover import Turn
from kdaemon.daemon.telling import tell_on
from kdaemon.observe.notify import Notifier
from kdaemon.observe.reading import SnapshotReader
from kdaemon.observe.snapshot import Snapshot
from kdaemon.streams import Streams

if TYPE_CHECKING:
    from kdaemon.spool.spool import Spool

LOOK_S = 0.02  # between two looks whether all is settled. Ours
CLOSE_GRACE_S = 1.0  # for answers that are being sent when everything else is done


class Drain:
    """The drain of one daemon. It runs once."""

    def __init__(
        self,
        listeners: Listeners,
        streams: Streams,
        spool: "Spool | None",
        takeover: Turn,
        reader: SnapshotReader,
        notifier: Notifier,
    ) -> None:
        self._listeners = listeners
        self._streams = streams
        self._spool = spool
        self._takeover = takeover
        self._reader = reader
        self._notifier = notifier

    async def run(self, times: DrainConfig) -> Snapshot:
        """Drains. Returns what was delivered and what was not, all read at one moment."""
        self._listeners.yield_kept()
        await self._listeners.lame_duck(times.lame_duck_ms / 1000)
        self._takeover.close()
        doors = self._listeners.doors
        for door in doors:
            door.close_listener()
            door.close_idle()
        telling = tell_on(self._notifier, self._drained())
        self._streams.begin_drain()
        if self._spool is not None:
            self._spool.begin_drain()
        ends_s = asyncio.get_running_loop().time() + times.deadline_ms / 1000
        # A part of the deadline, not added to it.
        grace_s = min(CLOSE_GRACE_S, times.deadline_ms / 1000 / 4)
        await self._settle_until(ends_s - grace_s)
        await asyncio.gather(*(door.aclose(grace_s) for door in doors))
        # Once more, for requests that had begun to arrive and were complete while doors closed.
        await self._settle_until(ends_s)
        if self._takeover.leaves_spool:
            await self._finish_calls(ends_s)
        telling.cancel()
        # In one step, so that the numbers of the last line add up.
        return at_once(self._reader.read())

    def _drained(self) -> Callable[[], tuple[str, bool]]:
        """Makes the state for `tell_on`: how many records are left, and whether some were delivered
        since the last call.
        """
        before = at_once(self._reader.read(0)).delivered

        def state() -> tuple[str, bool]:
            nonlocal before
            now = at_once(self._reader.read(0))
            last, before = before, now.delivered
            return f"draining: {now.undelivered:,} records are left", before > last

        return state

    async def _settle_until(self, deadline_s: float) -> None:
        """Waits until all taken records are settled. At the deadline (loop time) clients that still
        wait are told that the daemon ends.
        """
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._settle()
        except TimeoutError:
            await self._streams.give_up()

    async def _settle(self) -> None:
        """Returns when nothing is left. If another process waits for the spool, stored records may
        be left: that process delivers them.
        """
        spool = self._spool
        if spool is None or not self._takeover.leaves_spool:
            await self._streams.wait_idle()
            return
        while self._streams.unsettled > spool.delivery.held_records:  # noqa: ASYNC110 - many counters
            await asyncio.sleep(LOOK_S)

    async def _finish_calls(self, deadline_s: float) -> None:
        """Waits for the calls in flight: the next process would send their records again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._streams.finish_calls()
