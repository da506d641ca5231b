"""The drain: from the first signal to stop, until what was taken is delivered, or the time is over.

Clients are served for a short lame-duck time, then listening ends, what is buffered is delivered up
to a deadline, and clients that still wait are told that it is over. Sockets that systemd has bound,
or that another process took over, are left at once instead, and who is connected has the lame-duck
time to come anew.
Invariant: the drain takes the sum of the two times of [drain] at most: the grace for last answers
is a part of the deadline, the same part for all doors.
Where it sits: daemon.py begins it; it moves listeners.py, streams/ and spool/ and reads a snapshot.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdaemon.base.steps import at_once
from kdaemon.config import DrainConfig
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.telling import tell_on
from kdaemon.observe.notify import Notifier
from kdaemon.observe.snapshot import Snapshot, SnapshotReader
from kdaemon.streams import Streams

if TYPE_CHECKING:
    from kdaemon.daemon.part import Turn
    from kdaemon.spool.spool import Spool

LOOK_S = 0.02  # how often it is looked whether all clients have left, and all is settled. Ours
CLOSE_GRACE_S = 1.0  # for answers on their way out when everything else is done


class Drain:
    """Of one daemon; once."""

    def __init__(
        self,
        listeners: Listeners,
        streams: Streams,
        spool: "Spool | None",
        takeover: "Turn",
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
        """What was delivered, and what was not: all of it at one moment."""
        self._listeners.yield_kept()
        await self._lame_duck(times.lame_duck_ms / 1000)
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
        grace_s = min(CLOSE_GRACE_S, times.deadline_ms / 1000 / 4)  # a part of the deadline
        await self._settle_until(ends_s - grace_s)
        await asyncio.gather(*(door.aclose(grace_s) for door in doors))
        # Once more, for requests that were half here and ended while the doors closed.
        await self._settle_until(ends_s)
        if self._takeover.leaves_spool:
            await self._finish_calls(ends_s)
        telling.cancel()
        return at_once(self._reader.read())  # the last line adds up

    async def _lame_duck(self, seconds: float) -> None:
        """Ends early where new connections go elsewhere and the last one has gone."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + seconds
        while loop.time() < ends_s and self._listeners.has_clients:  # noqa: ASYNC110 - many counters
            await asyncio.sleep(min(LOOK_S, seconds))

    def _drained(self) -> Callable[[], tuple[str, bool]]:
        """How many records are left, and whether some were delivered since the last time."""
        before = at_once(self._reader.read(0)).delivered

        def state() -> tuple[str, bool]:
            nonlocal before
            now = at_once(self._reader.read(0))
            last, before = before, now.delivered
            return f"draining: {now.undelivered:,} records are left", before > last

        return state

    async def _settle_until(self, deadline_s: float) -> None:
        """Waits until all that was taken is settled; at the deadline (loop time) clients that wait
        are told that it is over.
        """
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._settle()
        except TimeoutError:
            await self._streams.give_up()

    async def _settle(self) -> None:
        """Until nothing is left; or, where another process waits for the spool, nothing but what
        stands there: that one delivers it.
        """
        spool = self._spool
        if spool is None or not self._takeover.leaves_spool:
            await self._streams.wait_idle()
            return
        while self._streams.unsettled > spool.held_records:  # noqa: ASYNC110 - many counters
            await asyncio.sleep(LOOK_S)

    async def _finish_calls(self, deadline_s: float) -> None:
        """Whose records the next process would send again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._streams.finish_calls()
