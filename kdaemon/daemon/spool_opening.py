"""Opens the spool of a daemon and has it read back: now, or when the daemon before lets go of it.

About: which process has the directory at a start. Must not know what is in the spool.
Invariant: a spool is read back once, before or after doors open, by the process that holds it. If
the spool turns out to be unusable after doors have opened, the daemon ends and says why.
Where it sits: daemon.py -> here -> spool/.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kdaemon.base.errors import SpoolError
from kdaemon.config import Config
from kdaemon.daemon.telling import tell_on
from kdaemon.http.turns import Turns
from kdaemon.observe.notify import Notifier
from kdaemon.streams import Streams
from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.base.memory import ByteBudget
    from kdaemon.daemon.part import Before
    from kdaemon.spool.spool import Spool

log = logging.getLogger("kdaemon")

LOOK_S = 0.02  # between two looks whether the spool is free. Ours


class SpoolOpening:
    """The spool of one daemon. `spool`: None: the configuration names no directory."""

    def __init__(
        self,
        config: Config,
        notifier: Notifier,
        before: "Before | None",
        end: Callable[[str], object],
        *,
        is_lone: bool,
    ) -> None:
        """`before`: the daemon before, which may still hold the directory. `end`: is told why the
        spool cannot be used, if that is found after doors have opened. `is_lone`: no supervisor has
        looked for other processes at work there, nor for records of the other kind.
        """
        self._is_lone = is_lone
        self._config = config
        self._notifier = notifier
        self._before = before
        self._end = end
        self._waiting: asyncio.Task[None] | None = None  # the wait for the daemon before
        self.spool: Spool | None = None

    async def open(
        self, memory: "ByteBudget", clock: SystemClock, turns: Turns, *, is_sandboxed: bool
    ) -> "Spool | None":
        """Opens the spool; the caller closes it. None: the configuration has none. `is_sandboxed`:
        its records go to a sandbox. Raises SpoolError.
        """
        settings = self._config.spool
        if not settings.directory:
            return None
        from kdaemon.spool.apart import keep_apart  # noqa: PLC0415 - as the next but one
        from kdaemon.spool.shared import refuse_workers  # noqa: PLC0415 - as the next
        from kdaemon.spool.spool import Spool  # noqa: PLC0415 - 1 MiB, only for a spool
        from kdaemon.spool.store import Store  # noqa: PLC0415 - the same

        if self._is_lone and self._before is None:
            refuse_workers(settings.directory)
        if self._is_lone:
            keep_apart(settings.directory, is_sandboxed=is_sandboxed)
        open_store = partial(
            Store,
            settings.directory,
            letters_bytes_max=settings.letters_bytes_max,
            wall_ms=lambda: int(clock.wall_seconds() * 1000),
        )
        spool = Spool(
            open_store,
            settings.bytes_max,
            memory,
            clock,
            turns.later,
            has_upstreams=bool(self._config.upstreams),
        )
        if not await self._is_opened(spool):
            assert self._before is not None
            spool.wait_for(f"process {self._before.pid}")
        self.spool = spool
        return spool

    async def recover(self, streams: Streams, *, is_at_once: bool) -> None:
        """Begins to read the spool back: now, or when the daemon before lets go of it.
        `is_at_once`: returns only after that. Raises SpoolError.
        """
        spool = self.spool
        if spool is None:
            return
        if spool.waits_for is None:
            await spool.recover(streams.find_stored)
            return
        if is_at_once:
            await self._wait_for(spool, streams)
            return
        log.info("the spool is still held: what is to be stored waits for it")
        waiting = self._wait_for(spool, streams)
        self._waiting = asyncio.get_running_loop().create_task(waiting)
        self._waiting.add_done_callback(self._waited)

    def stop_waiting(self) -> None:
        """Leaves a spool to the daemon that still holds it."""
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def trouble(self) -> str | None:
        """Why nothing can be stored now, as a text for people; None: it can, or there is no
        spool.
        """
        if self.spool is None:
            return None
        if self.spool.waits_for is not None:
            return f"spool: it is held by {self.spool.waits_for} still"
        trouble = self.spool.commits.trouble
        return None if trouble is None else f"spool: {trouble}"

    async def _wait_for(self, spool: "Spool", streams: Streams) -> None:
        assert self._before is not None
        await self._before.released()
        # A process that dies closes its files one after another.
        while not await self._is_opened(spool):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(LOOK_S)
        await spool.recover(streams.find_stored)
        spool.go_on()

    async def _is_opened(self, spool: "Spool") -> bool:
        """Opens the spool. False: the daemon that we take over from has it. Raises SpoolError."""
        telling = tell_on(self._notifier, lambda: ("starting: opening the spool", True))
        try:
            await spool.open()
        except SpoolError as error:
            if error.kind != "busy" or not self._is_left_to_us():
                raise
            return False
        finally:
            telling.cancel()
        log.info("spool", extra={"fields": {"directory": self._config.spool.directory}})
        return True

    def _is_left_to_us(self) -> bool:
        """Whether the directory is held by the daemon that we take over from, or by one that it
        waits for itself. No other process would ever let go of it.
        """
        if self._before is None:
            return False
        from kdaemon.spool.lock import holder_pid  # noqa: PLC0415 - see open

        directory = self._config.spool.directory
        return self._before.has_spool(directory) or holder_pid(directory) in {
            None,
            self._before.pid,
        }

    def _waited(self, waiting: asyncio.Task[None]) -> None:
        error = None if waiting.cancelled() else waiting.exception()
        if error is not None:
            self._end(f"cannot use the spool: {error}")
