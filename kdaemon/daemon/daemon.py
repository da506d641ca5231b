"""Builds every room, passes each what it needs, starts them, drains them, closes them. No logic.

Start: the listeners are bound before any service is asked anything; the spool is opened, and begins
to be read back, before a door opens. Stop: readiness is turned off, the drain runs (`drain.py`),
and the last line says what was delivered and what was not. The spool is closed last, and then
released to the process that took over. Until then that process takes records, and those that ask
for `stored` wait for the disk.
Where it sits: run.py -> here -> the other files of this package, each of which builds one part.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kdaemon import __version__
from kdaemon.config import Config
from kdaemon.config.load import Loaded
from kdaemon.config.settings import MEMORY_BESIDE_BYTES
from kdaemon.daemon.change import Change
from kdaemon.daemon.clients import Clients
from kdaemon.daemon.doors import Doors
from kdaemon.daemon.drain import Drain
from kdaemon.daemon.hubs import Hubs
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.memory import Memory, tell_memory
from kdaemon.daemon.observers import Observers, load_pages, needed_by_pages
from kdaemon.daemon.reach import Upstreams
from kdaemon.daemon.running import Running
from kdaemon.daemon.sandboxed import at_places, start_sandbox
from kdaemon.daemon.spool_opening import SpoolOpening
from kdaemon.daemon.takeover import Takeover
from kdaemon.door.door import Door
from kdaemon.door.guard import Guard
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.passthrough import Passthrough
from kdaemon.door.routes import make_handler
from kdaemon.door.spoken import lines_behind
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.hub import ConnectionLimits
from kdaemon.http.request import HttpHandler
from kdaemon.http.turns import Turns
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.logs import LogHandler
from kdaemon.observe.notify import Notifier, watchdog_interval_s
from kdaemon.observe.readiness import Readiness, is_memory_full
from kdaemon.observe.reading import SnapshotReader, Sources
from kdaemon.observe.snapshot import Snapshot
from kdaemon.observe.tap import Taps
from kdaemon.send.late import Libraries
from kdaemon.streams import Streams
from kdaemon.system import (
    FreedMemory,
    SystemDice,
    calm_collector,
    keep_loaded,
    memory_limit_bytes,
)

if TYPE_CHECKING:
    from kdaemon.daemon.part import Before, Part
    from kdaemon.http.passed import Inherited
    from kdaemon.http.takeover import Taken
    from kdaemon.spool.spool import Spool
    from kdaemon.streams.upstream import Reach

log = logging.getLogger("kdaemon")


class Daemon(Running):
    """A lone daemon, or one of several workers."""

    def __init__(
        self,
        loaded: Loaded,
        logs: LogHandler,
        read: Callable[[Config], Loaded] | None = None,
        inherited: "Inherited | None" = None,
        taken: "Taken | None" = None,
        part: "Part | None" = None,
    ) -> None:
        """`loaded`, `read`, `taken`: as `Running` has them. `logs`: the handler that keeps the last
        lines, for the admin pages. `inherited`: sockets that are bound already. `part`: given to
        one of several workers, instead of `read`, `inherited` and `taken`.
        """
        notifier = Notifier(os.environ) if part is None else part.notifier
        super().__init__(loaded, notifier, read, taken)
        config = loaded.config
        self._logs = logs
        self._dice = SystemDice()
        self._part = part
        self._memory = Memory(config)
        self._arrivals = Arrivals(self._memory.bodies, ConnectionLimits().body_bytes_max)
        self._turns = Turns(self.clock.now_ns)  # shared by everything that clients send
        before: Before | None = taken
        if part is None:
            self.listeners = Listeners(config.listen, inherited)
            self._takeover = Takeover(config, self.listeners, taken, self._end)
        else:
            self.listeners, self._takeover, before = part.listeners, part.turn, part.before
        self._spool_opening = SpoolOpening(
            config, notifier, before, self._end, is_lone=part is None
        )
        self.left: Snapshot | None = None  # at the end of the drain
        self.taps = Taps(self._dice, is_on=config.listen.admin_tap)
        self.streams: Streams
        self._clients: Clients
        self._observers: Observers
        self.change: Change
        self._drain: Drain
        self._libraries: Libraries

    async def start(self, *, with_sandbox: bool) -> None:
        """Binds everything and returns when the daemon is ready. Raises ListenerError, LoadError,
        OSError, ConfigError, SpoolError, TlsError; the caller calls `close` in any case.
        """
        config, clock, memory = self._config, self.clock, self._memory.all
        if self._part is None:
            tell_memory(config.memory_bytes_max, memory_limit_bytes(), MEMORY_BESIDE_BYTES)
        clients = self._clients = Clients(config, clock, self._turns)
        places = await start_sandbox(config, self._stack) if with_sandbox else None
        if self._part is not None:
            places = self._part.places
        if places is not None:
            config = at_places(config, places)
        self._release_at_end()
        upstreams, reaches = self._reach(config, is_anonymous=places is not None)
        opening = self._spool_opening
        spool = await opening.open(memory, clock, self._turns, is_sandboxed=with_sandbox)
        if spool is not None:
            self._stack.push_async_callback(spool.aclose)
        streams = self.streams = Streams(config, reaches, clock, self._dice, memory, spool)
        self._stack.push_async_callback(streams.aclose)
        self._readiness = Readiness(lambda: is_memory_full(memory), self._trouble)
        handshakes = clients.handshakes(self._stack)
        hubs = Hubs(config, self._arrivals, self._turns, handshakes, clock.now_ns)
        change = self.change = Change(streams, upstreams, self._memory, spool, places)
        self._observe(change, upstreams)
        change.rooms += [hubs, self._observers, self._takeover]
        reader = self._observers.reader
        self._drain = Drain(self.listeners, streams, spool, self._takeover, reader, self._notifier)
        if self._taken is None:  # otherwise probes would find a daemon that is not ready
            await self._start_admin(hubs)
        await self._open_doors(config, hubs, upstreams)
        if self._taken is not None:
            await self._start_admin(hubs)
        # The supervisor says "ready", for all its workers.
        await self._is_open(change, "ready" if self._part is None else "takes records")

    def _reach(self, config: Config, *, is_anonymous: bool) -> tuple[Upstreams, dict[str, "Reach"]]:
        """The upstreams, and how each is called. Nobody is called yet."""
        libraries = self._libraries = Libraries(
            self._loaded, partial(load_pages, config.listen), is_anonymous=is_anonymous
        )
        # May end the start: before there is anything to lose.
        libraries.look(needed_by_pages(config.listen))
        self._stack.push_async_callback(libraries.aclose)
        upstreams = Upstreams(self._dice, self._memory.all, libraries, is_anonymous=is_anonymous)
        self._stack.push_async_callback(upstreams.aclose)
        reached = upstreams.open(config, config.upstream_names)
        upstreams.adopt(reached)
        return upstreams, {name: each.reach for name, each in reached.items()}

    async def _open_doors(self, config: Config, hubs: Hubs, upstreams: Upstreams) -> None:
        """Opens what takes records, behind all that must come before the first of them."""
        streams, libraries = self.streams, self._libraries
        door = Door(streams, self.clock)
        self.taps.watch(door)
        handler_behind = self._handler_behind(door, upstreams)
        for _ in streams.open_listed():
            await asyncio.sleep(0)  # probes and signals are heard
        # A daemon that is taken over from goes on, unless this one can send. A worker that cannot
        # send is started again.
        if self._taken is not None or self._part is not None:
            await libraries.load_all()
        await self._takeover.keep_order()
        # Before the doors open: new records of a stream go behind the stored ones.
        await self._spool_opening.recover(streams, is_at_once=self._takeover.has_to_wait)
        self.takes_records = True
        calm_collector()
        lines_of = partial(lines_behind, door)
        guards = self._clients.guards()
        doors = Doors(config, self.listeners, hubs, lines_of, handler_behind, guards)
        await doors.open()
        libraries.load()  # calls wait for these; loading earlier would delay the doors

    def _handler_behind(
        self, door: Door, upstreams: Upstreams
    ) -> Callable[[Guard | None], HttpHandler]:
        """Makes the handler of a listener's requests, behind the guard of that listener."""
        widest = widest_limits([each.service for each in self.streams.upstreams])
        others = Passthrough(
            door,
            upstreams.relays,
            self._config.default.upstream,
            is_stream_name_free=widest.is_stream_name_free,
        )
        later = self._turns.later
        kinesis = KinesisDoor(door, widest, secrets.randbits(64), later, others)
        return partial(make_handler, kinesis, NdjsonDoor(door, later))

    def _loaded(self, problem: str | None) -> None:
        """The late libraries are loaded; or cannot be (`problem`): then nothing can be
        delivered.
        """
        if problem is not None:
            self._end(problem)
        elif self.takes_records:
            keep_loaded()

    def _trouble(self) -> str | None:
        """Why records cannot come in: a disk that takes none, or a listener that nobody can
        reach.
        """
        return self._spool_opening.trouble or self.listeners.trouble

    # Observers

    def _observe(self, change: Change, upstreams: Upstreams) -> None:
        """Starts the heartbeat, with all that is to be looked at every second, and the
        observers.
        """
        freed = FreedMemory(lambda: self._memory.all.bytes_taken)
        looks: list[Callable[[], object]] = [freed.look, change.look_for_left]
        if self._part is not None:
            looks.append(self._part.look)
        looks += self._clients.looks()
        heartbeat = Heartbeat(
            self.clock,
            self._notifier.watchdog,
            watchdog_interval_s(os.environ, os.getpid()),
            lambda: [look() for look in looks],
            self.streams.loop_lag,
        )
        sources = Sources(
            self.streams,
            self._readiness,
            heartbeat,
            __version__,
            listeners=self.listeners.counters,
            relays=upstreams.relays,
            spool=self.spool,
            log_queue=self._logs.queue,
            recent=self._logs.recent,
            principals=self._clients.principals,
            certificates=self._clients.certificates,
            reloads=self._reloads,
        )
        self._observers = Observers(
            self._config,
            self.clock,
            sources,
            self._stack,
            None if self._part is None else self._part.number,
        )
        looks.append(self._observers.hot_look())
        heartbeat.start()
        self._stack.callback(heartbeat.stop)
        self._observers.start_emf()

    async def _start_admin(self, hubs: Hubs) -> None:
        await self._observers.start_admin(self.listeners, hubs, self._reloads, self.taps)

    def take_config(self, new: Config) -> None:
        """A worker is told of the configuration that is in force now: for the drain."""
        self._config = new

    # The end

    @property
    def why_not_ready(self) -> str | None:
        """Why clients should stay away now; None: they may come."""
        return self._readiness.why_not()

    @property
    def reader(self) -> SnapshotReader:
        """Reads snapshots of the whole daemon."""
        return self._observers.reader

    @property
    def is_empty(self) -> bool:
        """Whether no record is in memory, or on disk for this configuration or another one."""
        spool = self.spool
        is_stored = spool is not None and not (spool.waits_for is None and spool.is_empty)
        return not is_stored and self.streams.unsettled == 0

    @property
    def held_spool(self) -> str:
        """As `run.Runs` has it."""
        return "" if self.spool is None else self._config.spool.directory

    @property
    def spool(self) -> "Spool | None":
        """The spool; None: the configuration has none, or it is not open yet."""
        return self._spool_opening.spool

    async def drain(self) -> int:
        """Runs from the first SIGTERM to the last line. The exit code: 0 if no record was left
        undelivered.
        """
        is_broken = self._libraries.problem is not None  # whatever is promised now would be lost
        times = await self._begin_drain(is_lame=not is_broken and self._part is None)
        self._spool_opening.stop_waiting()
        self._libraries.load()  # for records that came in although another door could not be opened
        left = self.left = await self._drain.run(times)
        await self._observers.last(left)
        log.info("stopped", extra={"fields": self.totals, "is_last": True})
        return 1 if left.undelivered else 0

    @property
    def totals(self) -> dict[str, int]:
        """What was delivered and what was left, after the drain; before, it is empty."""
        left = self.left
        if left is None:
            return {}
        stored = {} if left.spool is None else {"spooled": left.spooled}
        return {"delivered": left.delivered, "undelivered": left.undelivered, **stored}
