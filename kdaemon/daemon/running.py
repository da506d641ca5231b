"""What a daemon and a supervisor of workers have alike, from their start to their end.

About: reloads that are asked for at any time, who is told that records are taken, and the order in
which everything is closed. Must not know a room, nor a worker.
Invariant: everything that is built is on one stack, and is closed in the reverse order of its
start, also where the start failed.
Where it sits: daemon.py and supervisor.py -> here -> reload.py, takeover.py, listeners.py.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kdaemon import __version__
from kdaemon.config import Config, DrainConfig
from kdaemon.config.load import Loaded
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.reload import Live, Reload
from kdaemon.daemon.takeover import Turn
from kdaemon.observe.notify import Notifier
from kdaemon.observe.readiness import Readiness
from kdaemon.observe.reloads import Reloads
from kdaemon.system import SystemClock, start_of

if TYPE_CHECKING:
    from kdaemon.http.takeover import Taken

log = logging.getLogger("kdaemon")


class Running:
    """The common part of everything that runs, from `start` to `close`. As `run.Runs`."""

    listeners: Listeners
    _takeover: Turn
    _readiness: Readiness

    def __init__(
        self,
        loaded: Loaded,
        notifier: Notifier,
        read: Callable[[Config], Loaded] | None,
        taken: "Taken | None",
    ) -> None:
        """`loaded`: the configuration, and which source gave each value. `read`: reads the
        configuration again, as `Reload` has it; None: it is never read again. `taken`: what was
        taken over from the daemon before.
        """
        self._config = loaded.config
        self._notifier = notifier
        self._read = read
        self._taken = taken
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.takes_records = False  # a door may be open: from now on the end is a drain
        self.ready = asyncio.Event()  # the start is done
        self.clock = SystemClock()
        self._stack = AsyncExitStack()
        self._reloads = Reloads(self.clock.wall_seconds, os.getpid(), start_of(os.getpid()))
        self._reloads.loaded = loaded
        self._reload: Reload | None = None
        self._is_reload_asked = False  # before the start was done

    def _end(self, failure: str | None) -> None:
        """The daemon is to drain: another process listens now (None), or something failed."""
        if not self.ended.done():
            self.ended.set_result(failure)

    def _release_at_end(self) -> None:
        """When all that is built from now on is closed, the process that took over is told so."""
        self._stack.callback(self._takeover.released)
        if self._taken is not None:
            self._stack.callback(self._taken.close)

    async def _is_open(self, live: Live, text: str) -> None:
        """The doors are open: makes the daemon before leave, and tells everybody. `live`: takes new
        configurations from now on. `text`: for the log.
        """
        self._readiness.started()
        await self._takeover.take_turns()
        self.ready.set()
        self._notifier.ready("takes records")
        log.info(text, extra={"fields": {"version": __version__}})
        if self._read is not None:
            now_ns, notifier = self.clock.now_ns, self._notifier
            self._reload = Reload(self._config, self._read, live, self._reloads, notifier, now_ns)
            if self._is_reload_asked:
                self._reload.ask()

    def reload(self) -> None:
        """Reads the configuration again: now, or when the start is done."""
        if self._reload is None:
            self._is_reload_asked = True
        else:
            self._reload.ask()

    async def _begin_drain(self, *, is_lame: bool = True) -> DrainConfig:
        """Ends reloads, and tells everybody of the drain. Returns the times that it may take.
        `is_lame`: False: nobody has to be given time to go elsewhere.
        """
        times = self._config.drain
        if self._reload is not None:
            await self._reload.aclose()
            times = self._reload.config.drain
        if not (is_lame and self.ready.is_set()):
            times = replace(times, lame_duck_ms=0)
        self._readiness.told_to_stop()
        self._notifier.stopping("lame duck: clients are still served")
        log.info("draining", extra={"fields": {"lame_duck_ms": times.lame_duck_ms}})
        return times

    async def close(self) -> None:
        """Closes everything that still runs, in the reverse order of its start."""
        if self._reload is not None:
            await self._reload.aclose()
        self._takeover.close()
        for door in self.listeners.doors:
            await door.aclose(0.0)
        await self._stack.aclose()
