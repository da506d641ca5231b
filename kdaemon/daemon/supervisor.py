"""Several workers as one daemon: the supervisor listens, starts the workers, and speaks for them.

About: the order of a start and of an end, as daemon.py has it for one process. The supervisor takes
no record: it hands connections to the workers (handing.py), each of which is a daemon with its part
of the memory, its own engines and its own spool. Signals, reloads, a takeover, the admin pages and
the service manager are the supervisor's work: it asks the workers and tells them (crew.py).
Invariants: no door opens before all workers take records, and none is open after they were told to
end. Listening sockets are passed on, or closed, before a worker drains. A worker that is killed
loses its connections and its memory, and nothing of another worker.
Where it sits: run.py -> here -> crew.py, handing.py, doors.py, pages.py.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.config import Config
from kdaemon.config.load import Loaded
from kdaemon.config.settings import MEMORY_BESIDE_BYTES, SUPERVISOR_BYTES
from kdaemon.daemon.clients import open_certificates
from kdaemon.daemon.crew import Crew
from kdaemon.daemon.doors import Doors, Guards
from kdaemon.daemon.drain import CLOSE_GRACE_S
from kdaemon.daemon.handing import Handing, SharedListeners
from kdaemon.daemon.hubs import Hubs
from kdaemon.daemon.memory import Memory, tell_memory
from kdaemon.daemon.pages import Pages
from kdaemon.daemon.part import Former, in_words
from kdaemon.daemon.running import Running
from kdaemon.daemon.sandboxed import start_sandbox
from kdaemon.daemon.takeover import Takeover
from kdaemon.daemon.workers_change import WorkersChange
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.hub import ConnectionLimits
from kdaemon.http.opening import Lines
from kdaemon.http.request import HttpHandler, HttpRequest
from kdaemon.http.turns import Turns
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.logs import LogHandler
from kdaemon.observe.notify import Notifier, watchdog_interval_s
from kdaemon.observe.readiness import Readiness
from kdaemon.system import memory_limit_bytes

if TYPE_CHECKING:
    from kdaemon.http.passed import Inherited
    from kdaemon.http.takeover import Taken

log = logging.getLogger("kdaemon")

EXTEND_LOOK_S = 1.0  # between two reports to the service manager on a long start or a drain; ours


class Supervisor(Running):
    """The supervisor of several workers."""

    listeners: SharedListeners

    def __init__(
        self,
        loaded: Loaded,
        logs: LogHandler,
        read: Callable[[Config], Loaded] | None = None,
        inherited: "Inherited | None" = None,
        taken: "Taken | None" = None,
    ) -> None:
        """As the arguments of `Daemon`."""
        super().__init__(loaded, Notifier(os.environ), read, taken)
        config = loaded.config
        self._sources = loaded.sources
        self._logs = logs
        self._readiness = Readiness(lambda: False, self._trouble)
        self._crew: Crew | None = None
        handing = Handing(lambda: [] if self._crew is None else self._crew.takers)
        self.listeners = SharedListeners(config.listen, inherited, handing, self._open_count)
        self._takeover = Takeover(config, self.listeners, taken, self._end)
        self._pages: Pages

    def _open_count(self) -> int:
        return 0 if self._crew is None else self._crew.open_count

    def _trouble(self) -> str | None:
        """Why clients should come to no worker; None: some should, or no worker was started yet."""
        listening = self.listeners.trouble
        if listening is not None or self._crew is None:
            return listening
        reasons = [(each.number, each.why_not_ready) for each in self._crew.members]
        said = [(number, why) for number, why in reasons if why is not None]
        return in_words(said) if said and len(said) == len(reasons) else None

    # The start

    async def start(self, *, with_sandbox: bool) -> None:
        """Starts the workers, opens the doors and returns when the daemon is ready. Raises
        ListenerError, SpoolError, WorkerError, OSError; the caller calls `close` in any case.
        """
        config = self._config
        log.info("workers", extra={"fields": {"workers": config.worker_count}})
        beside_bytes = config.worker_count * MEMORY_BESIDE_BYTES + SUPERVISOR_BYTES
        tell_memory(config.memory_bytes_max, memory_limit_bytes(), beside_bytes)
        places = await start_sandbox(config, self._stack) if with_sandbox else None
        self._release_at_end()
        self._prepare_spool(is_sandboxed=with_sandbox)
        crew = self._crew = Crew(config, self._sources, places, self.listeners.resume)
        self._stack.push_async_callback(crew.stop)
        self._logs.queue.shared_by = crew.board.descriptor
        hubs = self._hubs()
        self._observe(crew)
        if self._taken is None:  # otherwise probes would find a daemon that is not ready
            await self._pages.open(hubs)
        self._begin(self._tell_on(crew))
        if self._taken is not None:
            await self._come_after(crew, self._taken)
        await crew.start()
        self.takes_records = True
        await Doors(config, self.listeners, hubs, _no_lines, _no_handler, Guards()).open()
        if self._taken is not None:
            await self._pages.open(hubs)
        change = WorkersChange(crew, [hubs, self._pages, self._takeover])
        if self._read is not None:
            self._read = change.reading(self._read)
        await self._is_open(change, "ready")
        if crew.former is not None:
            self._begin(self._release(crew))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Runs until it is done, or until the supervisor closes."""
        self._stack.callback(asyncio.get_running_loop().create_task(work).cancel)

    def _prepare_spool(self, *, is_sandboxed: bool) -> None:
        """Makes the directory of the spools, and checks that no other process has it, nor records
        of the other kind. Raises SpoolError.
        """
        root = self._config.spool.directory
        if not root:
            return
        from kdaemon.spool.apart import keep_apart  # noqa: PLC0415 - as daemon.py
        from kdaemon.spool.lock import holder_pid  # noqa: PLC0415 - the same
        from kdaemon.spool.shared import prepare_root, refuse_held  # noqa: PLC0415 - the same

        warning = prepare_root(root)
        if warning is not None:
            fields = {"directory": root, "error": warning}
            log.warning("the directory of the spools is doubtful", extra={"fields": fields})
        taken = self._taken
        is_left = taken is not None and (taken.has_spool(root) or taken.pid == holder_pid(root))
        if not is_left:
            refuse_held(root)
        keep_apart(root, is_sandboxed=is_sandboxed)

    async def _come_after(self, crew: Crew, taken: "Taken") -> None:
        """Lets the daemon before go on until each worker can send, and waits for its end if order
        needs that.
        """
        root, has_to_wait = self._config.spool.directory, self._takeover.has_to_wait
        crew.former = Former(taken.pid, taken.has_spool(root), has_to_wait)
        await crew.prepare()
        await self._takeover.keep_order()
        if has_to_wait:
            crew.released()

    async def _release(self, crew: Crew) -> None:
        assert self._taken is not None
        await self._taken.released()
        crew.released()

    def _hubs(self) -> Hubs:
        """The hubs of the listeners. Those of the doors count nothing: the workers do."""
        config, now_ns = self._config, self.clock.now_ns
        turns = Turns(now_ns)
        arrivals = Arrivals(Memory(config).bodies, ConnectionLimits().body_bytes_max)
        tls: Handshakes | None = None
        if config.listen.admin_tls:
            certificates = open_certificates(config.listen, self.clock, self._stack)
            tls = Handshakes(certificates.context, now_ns)
        return Hubs(config, arrivals, turns, tls, now_ns)

    def _observe(self, crew: Crew) -> None:
        loop_lag = Histogram(LAG_BOUNDS_NS)
        heartbeat = Heartbeat(
            self.clock,
            self._notifier.watchdog,
            watchdog_interval_s(os.environ, os.getpid()),
            crew.look,
            loop_lag,
        )
        heartbeat.start()
        self._stack.callback(heartbeat.stop)
        self._pages = Pages(
            self._config,
            self.clock,
            crew,
            self.listeners,
            self._readiness,
            heartbeat,
            self._reloads,
            self._logs,
            loop_lag,
        )
        self._stack.callback(self._pages.close)

    async def _tell_on(self, crew: Crew) -> None:
        """Passes on to the service manager what workers say of a long start, or of their drains."""
        while True:
            await asyncio.sleep(EXTEND_LOOK_S)
            for member in crew.all:
                if member.status:
                    self._notifier.status(f"worker {member.number}: {member.status}")
                    member.status = ""
                if member.extend_s:
                    self._notifier.extend_timeout(member.extend_s)
                    member.extend_s = 0.0

    @property
    def held_spool(self) -> str:
        """As `run.Runs` has it: the directory of the workers' spools."""
        return "" if self._crew is None else self._config.spool.directory

    # The end

    async def drain(self) -> int:
        """Runs from the first SIGTERM to the last line. The exit code: 0 if no record was left
        undelivered.
        """
        times = await self._begin_drain()
        crew = self._crew
        assert crew is not None, "a door was open"
        self.listeners.yield_kept()
        if self.listeners.leaves_kept:
            crew.tell({"leave": True})
        await self.listeners.lame_duck(times.lame_duck_ms / 1000)
        self._takeover.close()
        for door in self.listeners.doors:
            door.close_listener()
        self._notifier.status("draining: the workers deliver what they have")
        crew.leave(leaves_spool=self._takeover.leaves_spool)
        limit_s = times.deadline_ms / 1000 + CLOSE_GRACE_S + WORKER_CLOSE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await crew.ended()
        log.info("stopped", extra={"fields": crew.totals, "is_last": True})
        return crew.exit_code


WORKER_CLOSE_S = 15.0
"""After the deadline of a drain, for closing a worker: `CLOSE_TIMEOUT_S` of run.py, and a reserve.
After that, the worker's process is killed. Ours, 2026-11-28."""


def _no_lines(_stream: str | None) -> Lines:
    """The lines of a listener whose connections are all handed on: nothing is served here."""
    return Lines(_never, _never, _never)


def _no_handler(_guard: object) -> HttpHandler:
    return _unserved


def _unserved(_request: HttpRequest) -> None:
    raise AssertionError("a supervisor serves no client")


def _never(*_given: Any) -> Any:
    raise AssertionError("a supervisor serves no client")
