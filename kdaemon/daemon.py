"""The composition root: builds every room, passes each what it needs, runs it, drains it. No logic.

Start: listeners are bound before the service is asked anything. Stop: SIGTERM (or another of
`system.ENDING`) turns readiness off, clients are served for a short lame-duck time, then listening
ends, what is buffered is delivered up to a deadline, and the last line says what was delivered and
what was not.
Sockets that systemd has bound, or that another process took over, are left at once instead, and who
is connected has the lame-duck time to come anew. The spool is closed last, and then released to who
took over; that one takes records meanwhile, and what asks for `stored` there waits for the disk.
A second signal ends it at once, and so does the first before a door is open. The end takes the sum
of the two times of [drain] at most: the grace for last answers is a part of the deadline, the same
part for all doors. What is closed then has CLOSE_TIMEOUT_S: milliseconds, unless a disk hangs.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from kdaemon.base.endpoint import host_port, http_url
from kdaemon.base.errors import ConfigError, SpoolError, TlsError
from kdaemon.base.limits import MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import full_path
from kdaemon.base.service import SERVICES
from kdaemon.base.steps import at_once
from kdaemon.config import (
    Config,
    ReachConfig,
    SandboxConfig,
    UpstreamConfig,
    resolve_unix_path,
    user_runtime_problem,
)
from kdaemon.config.settings import MEMORY_BESIDE_BYTES
from kdaemon.config.values import Address
from kdaemon.door.door import DRY_RUNS_MAX, Door
from kdaemon.door.guard import Guard, Strangers
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.passthrough import Passthrough
from kdaemon.door.routes import make_handler
from kdaemon.door.spoken import lines_to, raw_lines_to
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.hub import HttpCounters, HttpHub, HttpLimits, Places
from kdaemon.http.listener import ListenerError, SocketFile, SocketInUseError, bind_tcp
from kdaemon.http.opening import Lines
from kdaemon.http.origin import gate_of
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import UNIX_GATE, HttpServer
from kdaemon.http.server import serve as serve_sockets
from kdaemon.http.turns import Turns
from kdaemon.observe.admin import Admin
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.hot import HotWatch
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.logs import set_level
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.notify import Notifier, watchdog_interval_s
from kdaemon.observe.readiness import Readiness, is_memory_full
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.snapshot import SnapshotReader, Sources
from kdaemon.observe.status import Status
from kdaemon.observe.tap import Taps
from kdaemon.reload import Reload
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.control import ControlCalls, ControlSettings
from kdaemon.send.discovery import Discovery
from kdaemon.send.relay import CALLS_MAX, Relay
from kdaemon.streams import Streams
from kdaemon.streams.upstream import Reach
from kdaemon.system import (
    FreedMemory,
    SystemClock,
    SystemDice,
    calm_collector,
    memory_limit_bytes,
    on_signals,
    raise_open_files_limit,
    start_of,
)

if TYPE_CHECKING:
    from kdaemon.door.principals import Principals
    from kdaemon.http.passed import Inherited, Passed
    from kdaemon.http.renewal import Certificates
    from kdaemon.http.takeover import Giver, Taken
    from kdaemon.observe.emf_log import EmfLog
    from kdaemon.spool.spool import Spool

log = logging.getLogger("kdaemon")

BODIES_FRACTION = 4  # request bodies still arriving may hold this part of memory_bytes_max
# Of the open files that the system allows, clients leave these to the rest: the spool, the log, the
# admin pages; and for calls to the service as many as they may take, a quarter at most.
OPEN_FILES_RESERVE = 128
UPSTREAM_FRACTION = 4

# The admin pages are for a few scrapers and probes, which send no bodies. Ours, 2026-11-28.
ADMIN_LIMITS = HttpLimits(
    body_bytes_max=0,
    head_bytes_max=8 * 1024,
    head_timeout_s=5.0,
    idle_timeout_s=30.0,
    connections_max=64,
    pipeline_max=2,  # a page may have megabytes: who asks without reading gets no pile of them
)
SANDBOX_REGION = "us-east-1"  # where none is configured; ours: any would do, nothing checks it
BESIDE_SANDBOX: dict[str, Any] = {
    **dict.fromkeys(("profile", "role_arn", "role_external_id", "role_session_name"), ""),
    **dict.fromkeys(("iam_token_file", "iam_token_url", "ca_file"), ""),
    **dict.fromkeys(("fips", "dual_stack", "account_endpoints"), "auto"),
}
"""Settings that lead to a service, where an embedded one stands in its place."""
TELL_S = 1.0  # how often the service manager hears how the start, or the drain, goes on. Ours
EXTEND_S = 15.0  # the manager waits so much longer each time it hears of progress. Ours, 2026-11-28
LOOK_S = 0.02  # how often it is looked whether all clients have left, and the spool is free. Ours
CLOSE_GRACE_S = 1.0  # for answers on their way out when everything else is done
CLOSE_TIMEOUT_S = 10.0
"""For what is closed after the drain: what takes longer waits for a disk that does not answer, and
nothing that was promised depends on it. Ours, 2026-11-28."""


class Reached(NamedTuple):
    """One upstream, as it is called."""

    client: ServiceClient
    control: ControlCalls
    relay: Relay
    reach: Reach

    async def aclose(self) -> None:
        await self.relay.aclose()
        await self.control.aclose()
        await self.client.aclose()


class Daemon:
    """Everything that runs, from `start` to `stop`."""

    def __init__(
        self,
        config: Config,
        log_queue: LogQueue,
        read: Callable[[Config], Config] | None = None,
        inherited: "Inherited | None" = None,
        taken: "Taken | None" = None,
    ) -> None:
        """`read`: the configuration as its sources have it now; see `Reload`. None: it is not read
        again. `inherited`: sockets that are bound already. `taken`: by the daemon that they are
        taken over from.
        """
        self._config = config
        self._inherited = inherited
        self._taken = taken
        self._names_taken = frozenset(() if inherited is None else inherited.socks)
        self._giver: Giver | None = None
        self._servers: dict[str, HttpServer] = {}  # by the names of their listeners
        self._kept: set[str] = set()  # of them, those whose sockets outlive this process
        self._waiting: asyncio.Task[None] | None = None  # for the spool of the daemon before
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._read = read
        self._reload: Reload | None = None
        self._is_reload_asked = False  # before the start was over
        self._sandboxed: Config | None = None  # what leads to the embedded services
        self._log_queue = log_queue
        self.takes_records = False  # a door may be open: the end is a drain
        self._is_ready = False  # the start is over
        self._clock = SystemClock()
        self._dice = SystemDice()
        self._stack = AsyncExitStack()
        self._notifier = Notifier(os.environ)
        self._doors: list[HttpServer] = []  # where records come in
        self._listeners: dict[str, HttpCounters] = {}
        self._memory = ByteBudget(config.memory_bytes_max)
        self._bodies = ByteBudget(_bodies_bytes_max(config), self._memory)
        self._arrivals = Arrivals(self._bodies, HttpLimits().body_bytes_max)
        self._reloads = Reloads(self._clock.wall_seconds, os.getpid(), start_of(os.getpid()))
        self._reached: dict[str, Reached] = {}  # by their upstream
        self._relays: dict[str, Relay] = {}  # the same, of the configuration
        self._closing: set[asyncio.Task[None]] = set()
        self._turns = Turns(self._clock.now_ns)  # of all that clients bring
        self._certificates: Certificates | None = None
        self._tls: Handshakes | None = None
        self._streams: Streams
        self._spool: Spool | None = None
        self._readiness: Readiness
        self._reader: SnapshotReader
        self._emf_log: EmfLog | None = None
        self._principals: Principals | None = None
        self._strangers = Strangers(self._clock.wall_seconds)
        self._taps = Taps(self._dice, is_on=config.listen.admin_tap)

    async def start(self, *, with_sandbox: bool) -> None:
        """Binds everything and is ready. Raises ListenerError or OSError; `stop` is owed anyway."""
        config = self._config
        _tell_memory(config.memory_bytes_max, memory_limit_bytes())
        if config.auth.principals_file:
            from kdaemon.door.principals import Principals  # noqa: PLC0415 - 0.4 MiB of who asks nobody

            self._principals = Principals(config.auth.principals_file, self._clock.wall_seconds)
        if with_sandbox:
            config = self._sandboxed = await self._start_sandbox()
        memory = self._memory
        self._stack.callback(self._released)
        if self._taken is not None:
            self._stack.callback(self._taken.close)
        self._stack.push_async_callback(self._close_reached)
        self._reached = await self._reach(config, config.upstream_names)
        relays = self._relays
        relays |= {name: each.relay for name, each in self._reached.items()}
        reaches = {name: each.reach for name, each in self._reached.items()}
        self._spool = await self._open_spool(memory)
        streams = Streams(config, reaches, self._clock, self._dice, memory, self._spool)
        self._streams = streams
        self._stack.push_async_callback(streams.aclose)
        self._readiness = Readiness(lambda: is_memory_full(memory), self._trouble)
        self._open_certificates()
        self._start_heartbeat()
        if self._taken is None:  # else probes would hear of a daemon that is not ready
            await self._start_admin()
        door = Door(streams, self._clock)
        self._taps.watch(door)
        widest = widest_limits([each.service for each in streams.upstreams])
        others = Passthrough(
            door,
            relays,
            config.default.upstream,
            is_stream_name_free=widest.is_stream_name_free,
        )
        number = secrets.randbits(64)
        kinesis = KinesisDoor(door, widest, number, self._turns.later, others)
        for _ in streams.open_listed():
            await asyncio.sleep(0)  # probes and signals are heard
        if self._taken is not None and _keeps_order_in_memory(config):
            self._bind_ahead()
            await self._tell_listening(self._taken)
            await self._taken.released()  # what the other has in memory goes first
        if self._spool is not None:  # before the doors: what comes in goes behind what is there
            await self._recover(self._spool)
        self.takes_records = True
        calm_collector()
        ndjson = NdjsonDoor(door, self._turns.later)
        await self._start_doors(partial(make_handler, kinesis, ndjson), door)
        if self._taken is not None:
            await self._start_admin()
        self._readiness.started()
        await self._take_turns()
        self._is_ready = True
        self._notifier.ready("takes records")
        log.info("ready", extra={"fields": {"version": version("kdaemon")}})
        self._allow_reload()

    async def _recover(self, spool: "Spool") -> None:
        """Begins to read back what stands on disk, now or when the daemon before lets go of it."""
        if spool.waits_for is None:
            await spool.recover(self._streams.find_stored, self._streams.is_listed)
            return
        log.info("the spool is still held: what is to be stored waits for it")
        self._waiting = asyncio.get_running_loop().create_task(self._wait_for(spool))
        self._waiting.add_done_callback(self._waited)

    async def _wait_for(self, spool: "Spool") -> None:
        assert self._taken is not None
        await self._taken.released()
        # A process that dies closes one file after another.
        while not await self._is_opened(spool):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(LOOK_S)
        await spool.recover(self._streams.find_stored, self._streams.is_listed)
        spool.go_on()

    async def _is_opened(self, spool: "Spool") -> bool:
        """False: the daemon that we take over from has it. Raises SpoolError."""
        telling = self._tell_on(lambda: ("starting: opening the spool", True))
        try:
            await spool.open()
        except SpoolError as error:
            if self._taken is None or error.kind != "busy":
                raise
            return False
        finally:
            telling.cancel()
        log.info("spool", extra={"fields": {"directory": self._config.spool.directory}})
        return True

    def _waited(self, waiting: asyncio.Task[None]) -> None:
        error = None if waiting.cancelled() else waiting.exception()
        if error is not None and not self.ended.done():
            self.ended.set_result(f"cannot use the spool: {error}")

    def _tell_on(self, state: Callable[[], tuple[str, bool]]) -> asyncio.Task[None]:
        """Tells the service manager how it goes, until it is cancelled: `state` is what to say, and
        whether it went on since the last time, for which the manager waits longer.
        """

        async def tell() -> None:
            while True:
                await asyncio.sleep(TELL_S)
                text, has_moved = state()
                self._notifier.status(text)
                if has_moved:
                    self._notifier.extend_timeout(EXTEND_S)

        return asyncio.get_running_loop().create_task(tell())

    # --- sockets that are passed on

    async def _take_turns(self) -> None:
        """The daemon before this one, if there is one, stops listening; the next one may come."""
        if self._taken is not None:
            await self._tell_listening(self._taken)
            for server in self._servers.values():
                server.own_file()
        self._offer_takeover()

    async def _tell_listening(self, taken: "Taken") -> None:
        from kdaemon.http.takeover import place_of  # noqa: PLC0415 - as Giver

        await taken.listening(self._names_taken, place_of(self._config.spool.directory))

    def _offer_takeover(self) -> None:
        from kdaemon.config.listeners import TAKEOVER, takeover_path  # noqa: PLC0415 - see below

        path = takeover_path(self._config, os.environ, os.path.isdir)
        if path is None:
            return
        # Memory of those that have no place where daemons meet.
        from kdaemon.http.takeover import Giver  # noqa: PLC0415

        refusal = None
        if self._is_of_systemd or os.environ.get("NOTIFY_SOCKET"):
            refusal = "the daemon that runs belongs to a service manager: systemctl restart kdaemon"
        giver = Giver(self._sockets, self._was_taken, refusal)
        try:
            giver.start(path, self._inherit(TAKEOVER))
        except (ListenerError, OSError) as error:
            log.info("no other process can take over: %s", error)
            return
        self._giver = giver
        self._stack.callback(giver.close)

    def _sockets(self) -> "list[Passed]":
        from kdaemon.http.passed import Passed  # noqa: PLC0415 - it was, by who asks

        return [Passed(name, sock) for name, each in self._servers.items() for sock in each.socks]

    def _was_taken(self, names: frozenset[str]) -> None:
        """Another process accepts on these sockets."""
        self._kept |= names & self._servers.keys()
        self._yield()
        if not self.ended.done():
            self.ended.set_result(None)

    def _yield(self) -> None:
        for name in self._kept:
            self._servers[name].yield_listener()

    def _released(self) -> None:
        """The spool is closed."""
        if self._giver is not None:
            self._giver.released()

    async def _reach(self, config: Config, names: Iterable[str]) -> dict[str, Reached]:
        """How each of these upstreams is called, and asked for clients: nobody is called yet."""
        async with AsyncExitStack() as opened:  # closed again where one cannot be opened
            reached: dict[str, Reached] = {}
            for name in names:
                upstream = config.upstream(name)
                client = await ServiceClient.open(self._client_settings(config, upstream))
                service, rate = upstream.traits, upstream.control_calls_per_second
                control = ControlCalls(client.call, ControlSettings(service, rate), self._dice)
                allowed, turn = config.listen.operations_passed_on, control.turn_for_client
                relay = Relay(client.pass_on, turn, service, self._memory, allowed)
                reach = Reach(client, Discovery(control.ask, service))
                reached[name] = Reached(client, control, relay, reach)
                opened.push_async_callback(reached[name].aclose)
            opened.pop_all()
        return reached

    def _client_settings(self, config: Config, upstream: UpstreamConfig) -> ClientSettings:
        return client_settings(config, upstream, is_anonymous=self._sandboxed is not None)

    async def _close_reached(self) -> None:
        await asyncio.gather(*(each.aclose() for each in self._reached.values()), *self._closing)

    # Another configuration

    def reload(self) -> None:
        """The configuration is read again: now, or when the start is over."""
        if self._reload is None:
            self._is_reload_asked = True
        else:
            self._reload.ask()

    def _allow_reload(self) -> None:
        if self._read is None:
            return
        now_ns, notifier = self._clock.now_ns, self._notifier
        self._reload = Reload(self._config, self._read, self, self._reloads, notifier, now_ns)
        if self._is_reload_asked:
            self._reload.ask()

    async def change(self, old: Config, new: Config) -> tuple[str, ...]:
        """As `reload.Live`: what is new is built first, and then all is swapped at once."""
        come = [name for name in new.upstreams if name not in old.upstreams]
        if self._sandboxed is not None:
            if come:  # an embedded service is opened by a start alone
                return tuple(f"upstreams.{name}" for name in come)
            new = _beside_sandbox(new, self._sandboxed)
        reached = await self._reach(new, come)
        conflicts = self._streams.conflicts(new)
        if conflicts:
            await asyncio.gather(*(each.aclose() for each in reached.values()))
            return conflicts
        self._memory.bytes_max = new.memory_bytes_max
        self._bodies.bytes_max = _bodies_bytes_max(new)
        reaches = {name: each.reach for name, each in reached.items()}
        steps = self._streams.take_config(new, reaches)
        next(steps)  # from here on no stream is found by the old one
        self._config = new
        for name in reached.keys() & self._reached.keys():  # it went a moment ago
            self._close_left(name)
        self._reached |= reached
        self._relays |= {name: each.relay for name, each in reached.items()}
        for name in old.upstreams.keys() - new.upstreams.keys():
            del self._relays[name]
        for name in new.upstream_names:
            settings = self._client_settings(new, new.upstream(name))
            self._reached[name].client.take_limits(settings)
        if self._spool is not None:
            self._spool.has_upstreams = bool(new.upstreams)
        set_level(new.log.level)
        for _ in steps:
            await asyncio.sleep(0)
        return ()

    def _look_for_left(self) -> None:
        """Closes what a reload left behind, once it has delivered what it had."""
        self._streams.look()
        for name in self._streams.left_upstreams & self._reached.keys():
            self._close_left(name)

    def _close_left(self, name: str) -> None:
        closing = asyncio.get_running_loop().create_task(self._reached.pop(name).aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        text = "an upstream that the configuration has no more is closed"
        log.info(text, extra={"fields": {"upstream": name}})

    # Rooms

    def _trouble(self) -> str | None:
        """What keeps records out: a disk that takes none, a listener that nobody can reach."""
        if self._spool is not None:
            if self._spool.waits_for is not None:
                return f"spool: it is held by {self._spool.waits_for} still"
            if self._spool.trouble is not None:
                return f"spool: {self._spool.trouble}"
        return next((door.trouble for door in self._doors if door.trouble is not None), None)

    def _open_certificates(self) -> None:
        """Raises TlsError."""
        if not self._config.listen.tls_certificate:
            return
        from kdaemon.http.renewal import Certificates, files_of  # noqa: PLC0415 - as Principals

        files = files_of(self._config.listen, "listen")
        assert files is not None, "there is a certificate"
        self._certificates = Certificates(files, self._clock.wall_seconds)
        self._stack.callback(self._certificates.stop)
        self._certificates.start()
        self._tls = Handshakes(self._certificates.context, self._clock.now_ns)

    async def _open_spool(self, memory: ByteBudget) -> "Spool | None":
        settings = self._config.spool
        if not settings.directory:
            return None
        from kdaemon.spool.spool import Spool  # noqa: PLC0415 - 1 MiB that who stores nothing has not
        from kdaemon.spool.store import Store  # noqa: PLC0415 - the same

        clock = self._clock
        open_store = partial(
            Store.open,
            settings.directory,
            letters_bytes_max=settings.letters_bytes_max,
            wall_ms=lambda: int(clock.wall_seconds() * 1000),
        )
        spool = Spool(
            open_store,
            settings.bytes_max,
            memory,
            clock,
            self._turns.later,
            has_upstreams=bool(self._config.upstreams),
        )
        if not await self._is_opened(spool):
            assert self._taken is not None
            spool.wait_for(f"process {self._taken.pid}")
        self._stack.push_async_callback(spool.aclose)
        return spool

    async def _start_sandbox(self) -> Config:
        """A sandbox for each upstream, and the configuration that leads to them. That of the
        default one is at `sandbox.listen`, the others at free ports of the same address, where the
        streams that are listed for them are made, too.
        """
        config, sandbox = self._config, self._config.sandbox
        endpoint = await self._open_sandbox(sandbox, "sandbox", config)
        upstreams = {}
        for name, upstream in config.upstreams.items():
            database = urlsplit(upstream.endpoint_url).path  # of Yandex
            listed = [each.upstream_name or each.name for each in config.listed_of(name).values()]
            streams = (*sandbox.streams, *listed)
            if not upstream.traits.has_arns:
                streams = tuple(full_path(each, database) for each in streams)
            own = replace(
                sandbox,
                listen=host_port(sandbox.address.host, 0),
                flavour=upstream.service,
                streams=streams,
            )
            region = upstream.region or upstream.traits.region or SANDBOX_REGION
            url = await self._open_sandbox(own, f"sandbox of upstreams.{name}", upstream) + database
            upstreams[name] = replace(upstream, endpoint_url=url, region=region, **BESIDE_SANDBOX)
        return replace(
            config,
            endpoint_url=endpoint,
            service=sandbox.flavour,
            region=config.region or SERVICES[sandbox.flavour].region or SANDBOX_REGION,
            upstreams=upstreams,
            **BESIDE_SANDBOX,
        )

    async def _open_sandbox(self, settings: SandboxConfig, name: str, reach: ReachConfig) -> str:
        """One service, embedded; its address. `reach`: whose account and region it has."""
        from kdaemon.sandbox.run import open_sandbox  # noqa: PLC0415 - memory of those without one

        address, hosts = settings.address, self._config.listen.hosts
        region = reach.region or reach.traits.region or SANDBOX_REGION
        try:
            sandbox = await open_sandbox(settings, hosts, account=reach.account, region=region)
        except OSError as error:
            raise _cannot_listen("sandbox.listen", address, error) from error
        self._stack.push_async_callback(sandbox.aclose)
        endpoint = http_url(address.host, sandbox.port, is_tls=bool(settings.tls_certificate))
        _log_listening(name, endpoint)
        return endpoint

    def _start_heartbeat(self) -> None:
        config, clock, relays = self._config, self._clock, self._relays
        freed = FreedMemory(lambda: self._memory.bytes_taken)
        looks: list[Callable[[], object]] = [freed.look, self._look_for_left]
        if self._principals is not None:
            looks += [self._principals.look, self._strangers.look]
        heartbeat = Heartbeat(
            clock,
            self._notifier.watchdog,
            watchdog_interval_s(os.environ, os.getpid()),
            partial(_look_each, looks),
            self._streams.loop_lag,
        )
        sources = Sources(
            self._streams,
            self._readiness,
            heartbeat,
            version("kdaemon"),
            listeners=self._listeners,
            relays=relays,
            spool=self._spool,
            log_queue=self._log_queue,
            principals=self._principals,
            certificates=self._certificates,
            reloads=self._reloads,
        )
        self._reader = SnapshotReader(sources, clock)
        shows_keys = config.observe.show_keys
        looks.append(HotWatch(self._reader, clock, shows_keys=shows_keys).look)
        heartbeat.start()
        self._stack.callback(heartbeat.stop)
        self._heartbeat = heartbeat
        if config.metrics.emf_namespace:
            self._start_emf(config.metrics.emf_namespace)

    async def _start_admin(self) -> None:
        """Metrics, probes and status, before the doors: a probe may look while they open."""
        config, clock, heartbeat = self._config, self._clock, self._heartbeat
        address = config.listen.admin_address
        if address is None:
            return
        metrics = Metrics(self._reader, per_shard=config.metrics.per_shard)
        status = Status(self._reader, shows_keys=config.observe.show_keys)
        admin = Admin(metrics, status, self._readiness, heartbeat, clock, self._reloads, self._taps)
        self._stack.callback(admin.close)
        tls = self._tls if config.listen.admin_tls else None
        gate = gate_of(address.host, config.listen.hosts)
        hub = HttpHub(ADMIN_LIMITS, gate=gate, now_ns=clock.now_ns, tls=tls)
        server = await self._listen("admin", address, admin.handle, hub)
        self._stack.push_async_callback(server.aclose)
        _log_listening("admin", http_url(address.host, server.port, is_tls=tls is not None))

    def _start_emf(self, namespace: str) -> None:
        from kdaemon.observe.emf import Emf  # noqa: PLC0415 - memory of those without one
        from kdaemon.observe.emf_log import EmfLog  # noqa: PLC0415 - the same

        emf = Emf(namespace, os.uname().nodename)
        self._emf_log = EmfLog(self._reader, emf, self._log_queue, self._clock.wall_seconds)
        self._emf_log.start()
        self._stack.push_async_callback(self._emf_log.aclose)

    def _guards(self) -> tuple[Guard | None, Guard | None]:
        """Who asks clients over TCP who they are, and who does through the Unix socket."""
        auth, principals = self._config.auth, self._principals
        if principals is None:
            assert (auth.http, auth.unix) == ("none", "none"), "config/rules.py asks for the file"
            return None, None
        from kdaemon.door.access import Peers, Signed  # noqa: PLC0415 - as Principals

        strangers, wall = self._strangers, self._clock.wall_seconds
        signed = Signed(principals, strangers, wall, self._turns.later)
        peers = Peers(principals, strangers)
        return signed if auth.http == "sigv4" else None, peers if auth.unix == "peer" else None

    async def _start_doors(
        self, handler_behind: Callable[[Guard | None], HttpHandler], door: Door
    ) -> None:
        """The listeners that take records: HTTP and lines on each."""
        config = self._config
        limits = HttpLimits(
            head_timeout_s=config.listen.head_timeout_ms / 1000,
            body_timeout_s=config.listen.body_timeout_ms / 1000,
            idle_timeout_s=config.listen.idle_timeout_ms / 1000,
            connections_max=config.listen.connections_max,
        )
        new_hub = partial(
            HttpHub,
            limits,
            arrivals=self._arrivals,
            places=Places(_connections_max(config, raise_open_files_limit())),
            turns=self._turns,
        )
        lines = lines_to(door)
        tcp_guard, unix_guard = self._guards()
        address = config.listen.http_address
        if address is not None:
            gate = gate_of(address.host, config.listen.hosts)
            hub = new_hub(gate=gate, tls=self._tls, **_asks(tcp_guard))
            handler = handler_behind(tcp_guard)
            server = await self._listen("http", address, handler, hub, lines)
            self._doors.append(server)
            is_tls = self._tls is not None
            _log_listening("http", http_url(address.host, server.port, is_tls=is_tls))
        new_unix_hub = partial(new_hub, gate=UNIX_GATE, **_asks(unix_guard))
        await self._start_stream_sockets(handler_behind(unix_guard), door, new_unix_hub)
        is_auto = config.listen.unix == "auto"
        path = resolve_unix_path(config.listen.unix, os.environ, os.path.isdir)
        handler = handler_behind(unix_guard)
        if self._is_of_systemd and "unix" in self._names_taken:
            assert self._inherited is not None
            path = self._inherited.socks["unix"][0].getsockname()
            await self._listen_unix("unix", path, handler, new_unix_hub(), lines)
            return
        if path is None:
            problem = user_runtime_problem(os.environ, os.path.isdir) if is_auto else None
            if problem is None:
                log.info("no Unix socket: listen.unix is off, or auto finds no runtime directory")
            elif self._doors:
                log.warning("no Unix socket: %s", problem)
            else:
                raise ListenerError(f"listen.unix: {problem}. Correct it, or set listen.unix.")
            return
        try:
            _make_directory(Path(path).parent, with_parents=not is_auto)
            await self._listen_unix("unix", path, handler, new_unix_hub(), lines)
        except ListenerError as error:
            # A place that was not asked for by name, and cannot be used, is done without.
            is_wanted = not is_auto or not self._doors
            if is_wanted or isinstance(error, SocketInUseError):
                raise
            log.warning("no Unix socket: %s", error)

    async def _start_stream_sockets(
        self, handler: HttpHandler, door: Door, new_hub: Callable[[], HttpHub]
    ) -> None:
        """A listener for each stream that has a socket of its own: raw lines, and nothing else."""
        for name, stream in self._config.streams.items():
            if not stream.socket:
                continue
            key = f"streams.{name}"
            _make_directory(Path(stream.socket).parent, with_parents=True, key=f"{key}.socket")
            lines = raw_lines_to(door, stream.arn or name)
            await self._listen_unix(key, stream.socket, handler, new_hub(), lines)

    async def _listen(
        self,
        name: str,
        address: Address,
        handler: HttpHandler,
        hub: HttpHub,
        lines: Lines | None = None,
    ) -> HttpServer:
        """On a TCP address: the sockets that are bound already, or new ones."""
        try:
            socks = self._inherit(name)
            if not (socks and self._is_of_systemd):
                socks = [*socks, *bind_tcp(address.host, address.port, socks)]
            server = await serve_sockets(socks, handler, hub, lines=lines)
        except OSError as error:
            raise _cannot_listen(f"listen.{name}", address, error) from error
        self._servers[name] = server
        self._listeners[name] = server.counters
        return server

    async def _listen_unix(
        self, name: str, path: str, handler: HttpHandler, hub: HttpHub, lines: Lines
    ) -> None:
        """On a Unix socket. The file of one that systemd has bound is systemd's."""
        file: SocketFile | None = None
        socks = self._inherit(name)
        if name not in self._kept:
            file = SocketFile(path, self._config.listen.unix_mode_bits)
            socks = [file.adopt(socks[0]) if socks else file.bind()]
        server = await serve_sockets(socks, handler, hub, lines=lines, file=file)
        self._doors.append(server)
        self._servers[name] = server
        self._listeners[name] = server.counters
        _log_listening(name, path)

    @property
    def _is_of_systemd(self) -> bool:
        """Who is to keep its sockets when this process ends."""
        return self._inherited is not None and self._inherited.is_systemd

    def _bind_ahead(self) -> None:
        """What the other daemon has not is bound before that one is told to end: a place that
        cannot be had leaves it alone. Raises ListenerError.
        """
        from kdaemon.config.listeners import wanted_listeners  # noqa: PLC0415 - most do without

        assert self._inherited is not None, "there are sockets, or nobody was asked"
        bound = self._inherited.socks
        for each in wanted_listeners(self._config, os.environ, os.path.isdir):
            try:
                if isinstance(each.at, Address):
                    there = bound.get(each.name, [])
                    bound[each.name] = [*there, *bind_tcp(each.at.host, each.at.port, there)]
                elif each.at is not None and each.name not in bound and not each.is_auto:
                    _make_directory(Path(each.at).parent, with_parents=True, key=each.key)
                    file = SocketFile(each.at, self._config.listen.unix_mode_bits)
                    bound[each.name] = [file.bind()]
            except OSError as error:
                assert isinstance(each.at, Address), "a file's trouble is a ListenerError"
                raise _cannot_listen(each.key, each.at, error) from error

    def _inherit(self, name: str) -> list[socket.socket]:
        if self._inherited is None:
            return []
        socks = self._inherited.take(name)
        if socks and self._is_of_systemd and name != "admin":  # whose probes go on
            self._kept.add(name)
        return socks

    async def drain(self) -> int:
        """From the first SIGTERM on. The exit code: 0 if nothing was left undelivered."""
        if self._reload is not None:
            await self._reload.aclose()
        drain = self._config.drain
        if self._waiting is not None:
            self._waiting.cancel()
        self._readiness.told_to_stop()
        self._notifier.stopping("lame duck: clients are still served")
        lame_duck_ms = drain.lame_duck_ms if self._is_ready else 0  # nobody was told to come
        log.info("draining", extra={"fields": {"lame_duck_ms": lame_duck_ms}})
        self._yield()
        await self._lame_duck(lame_duck_ms / 1000)
        if self._giver is not None:  # whoever has the sockets by now has their files, too
            self._giver.close()
            self._kept |= self._giver.passed & self._servers.keys()
            self._yield()
        for door in self._doors:
            door.close_listener()
            door.close_idle()
        streams = self._streams
        telling = self._tell_on(self._drained())
        streams.begin_drain()
        if self._spool is not None:
            self._spool.begin_drain()
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + drain.deadline_ms / 1000
        grace_s = min(CLOSE_GRACE_S, drain.deadline_ms / 1000 / 4)  # a part of the deadline
        await self._settle_until(ends_s - grace_s)
        await asyncio.gather(*(door.aclose(grace_s) for door in self._doors))
        # Once more, for requests that were half here and ended while the doors closed.
        await self._settle_until(ends_s)
        if self._leaves_spool:
            await self._finish_calls(ends_s)
        telling.cancel()
        left = at_once(self._reader.read())  # all at one moment: the last line adds up
        if self._emf_log is not None:
            await self._emf_log.last(left)
        totals = {"delivered": left.delivered, "undelivered": left.undelivered}
        if left.spool is not None:
            totals["spooled"] = left.spooled
        log.info("stopped", extra={"fields": totals, "is_last": True})
        return 1 if left.undelivered else 0

    async def _lame_duck(self, seconds: float) -> None:
        """Ends early where new connections go elsewhere and the last one has gone."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + seconds
        while loop.time() < ends_s and self._has_clients():  # noqa: ASYNC110 - many counters
            await asyncio.sleep(min(LOOK_S, seconds))

    def _has_clients(self) -> bool:
        """Somebody is connected, or may come still."""
        has_own = any(name not in self._kept for name in self._servers if name != "admin")
        return has_own or any(door.counters.open for door in self._doors)

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
        if spool is None or not self._leaves_spool:
            await self._streams.wait_idle()
            return
        while self._streams.unsettled > spool.held_records:  # noqa: ASYNC110 - many counters
            await asyncio.sleep(LOOK_S)

    async def _finish_calls(self, deadline_s: float) -> None:
        """Whose records the next process would send again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._streams.finish_calls()

    @property
    def _leaves_spool(self) -> bool:
        """Another process took over, and is to have this very spool."""
        if self._giver is None or not self._giver.has_given:
            return False
        from kdaemon.http.takeover import place_of  # noqa: PLC0415 - as Giver

        own = place_of(self._config.spool.directory)
        return bool(own) and own == self._giver.taken_spool

    async def close(self) -> None:
        """Ends whatever still runs, in the reverse order of its start."""
        if self._reload is not None:
            await self._reload.aclose()
        for door in self._doors:
            await door.aclose(0.0)
        await self._stack.aclose()


async def serve(
    config: Config,
    log_queue: LogQueue,
    *,
    with_sandbox: bool,
    read: Callable[[Config], Config] | None = None,
    inherited: "Inherited | None" = None,
    taken: "Taken | None" = None,
) -> int:
    """Runs the daemon until it is told to stop, or another one takes over; the exit code. `read`:
    as `Daemon`'s.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    daemon = Daemon(config, log_queue, read, inherited, taken)
    on_signals(loop, signals.put_nowait, None if read is None else daemon.reload)
    first = loop.create_task(signals.get())
    failure: str | None = None
    try:
        try:
            if not await _started(daemon, first, with_sandbox=with_sandbox):
                log.info("stopped before it was ready: nothing was taken", extra={"is_last": True})
                return 0
        except (ConfigError, ListenerError, SpoolError, TlsError, OSError) as error:
            failure = f"cannot start: {error}"
            if not daemon.takes_records:
                log.error(failure)  # noqa: TRY400 - the stack tells an operator nothing
                return 1
        else:
            either: set[asyncio.Future[Any]] = {first, daemon.ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            failure = daemon.ended.result() if daemon.ended.done() else None
        if failure is not None:
            log.error(failure)
        exit_code = await _drained(daemon, first, signals)  # some door was open
        return 1 if failure is not None else exit_code
    finally:
        first.cancel()
        await _close(daemon, signals)


async def _drained(
    daemon: Daemon, first: "asyncio.Task[int]", signals: "asyncio.Queue[int]"
) -> int:
    """Drains until a second signal comes; the exit code. Where the drain began by itself (another
    process took over, the start failed) the first signal asks for what goes on already.
    """
    draining = asyncio.get_running_loop().create_task(daemon.drain())
    await asyncio.wait({draining, first}, return_when=asyncio.FIRST_COMPLETED)
    second = asyncio.get_running_loop().create_task(signals.get())
    await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    text = "stopped at once, by a second signal: what was buffered is not delivered"
    log.warning(text, extra={"is_last": True})
    return 1


async def _close(daemon: Daemon, signals: asyncio.Queue[int]) -> None:
    """Closes the daemon; after CLOSE_TIMEOUT_S, or at another signal, what hangs is left to die
    with the process.
    """
    loop = asyncio.get_running_loop()
    closing, told = loop.create_task(daemon.close()), loop.create_task(signals.get())
    await asyncio.wait(
        {closing, told}, timeout=CLOSE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
    )
    told.cancel()
    if closing.done():
        closing.result()
        return
    closing.cancel()
    text = "not all could be closed: something waits for a disk, or for a thread"
    log.warning(text, extra={"is_last": True})


async def _started(daemon: Daemon, told: asyncio.Task[int], *, with_sandbox: bool) -> bool:
    """Starts the daemon, as far as it comes before it is told to stop. False: nothing was taken."""
    starting = asyncio.get_running_loop().create_task(daemon.start(with_sandbox=with_sandbox))
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        return daemon.takes_records
    await starting
    return True


def _keeps_order_in_memory(config: Config) -> bool:
    """Whether records of one key could pass those that the daemon before has in memory."""
    streams = (config.default, *config.defaults.values(), *config.streams.values())
    return any(
        each.ordering == "partition_key" and each.acknowledge != "stored" for each in streams
    )


def _asks(guard: Guard | None) -> dict[str, Any]:
    """What a hub asks of new connections, and of heads."""
    return {} if guard is None else {"who": guard.who, "early": guard.early}


def _look_each(looks: Sequence[Callable[[], object]]) -> None:
    for look in looks:
        look()


def _tell_memory(bytes_max: int, limit_bytes: int | None) -> None:
    fields = {"memory_bytes_max": bytes_max}
    if limit_bytes is not None:
        fields["container_bytes"] = limit_bytes
    if limit_bytes is None or bytes_max + MEMORY_BESIDE_BYTES <= limit_bytes:
        log.info("memory for the records of clients", extra={"fields": fields})
        return
    text = (
        "the container's memory limit is too low for memory_bytes_max and the %d MiB beside it:"
        " raise the limit, or lower the setting"
    )
    log.warning(text, MEMORY_BESIDE_BYTES // MIB, extra={"fields": fields})


def _beside_sandbox(config: Config, sandboxed: Config) -> Config:
    """A configuration that was read again, with the embedded services that are there."""
    upstreams = {
        name: replace(
            upstream,
            endpoint_url=sandboxed.upstreams[name].endpoint_url,
            region=sandboxed.upstreams[name].region,
            **BESIDE_SANDBOX,
        )
        for name, upstream in config.upstreams.items()
    }
    return replace(
        config,
        endpoint_url=sandboxed.endpoint_url,
        service=sandboxed.service,
        region=sandboxed.region,
        upstreams=upstreams,
        **BESIDE_SANDBOX,
    )


def _bodies_bytes_max(config: Config) -> int:
    """What is arriving may hold a part of all memory, and the largest body fits in any case."""
    largest = min(HttpLimits().body_bytes_max, config.memory_bytes_max)
    return max(config.memory_bytes_max // BODIES_FRACTION, largest)


def _connections_max(config: Config, open_files_max: int) -> int:
    """Clients of all listeners that take records, together: as configured, or as many as leave
    open files to everything else.
    """
    upstream = min(_upstream_connections_max(config), open_files_max // UPSTREAM_FRACTION)
    allowed = max(1, open_files_max - OPEN_FILES_RESERVE - upstream)
    wanted = config.listen.connections_max
    if allowed < wanted:
        log.warning(
            "the limit of open files (%d) allows %d client connections, not the %d of"
            " listen.connections_max: raise it (ulimit -n, LimitNOFILE), or lower the setting",
            open_files_max,
            allowed,
            wanted,
        )
    return min(wanted, allowed)


def _upstream_connections_max(config: Config) -> int:
    """Connections to all upstreams together."""
    return sum(_pool_size(config, config.upstream(name)) for name in config.upstream_names)


def _pool_size(config: Config, upstream: UpstreamConfig) -> int:
    """As configured; or so that no stream waits for a connection because the calls of others, or
    dry runs, have them all.
    """
    if upstream.connections_max:
        return upstream.connections_max
    streams = (config.default_of(upstream.name), *config.listed_of(upstream.name).values())
    calls_max = max(each.in_flight_max for each in streams)
    # One of each stream's is to ask for the shards.
    # Looks and reads that are passed on have as many each.
    return (calls_max + 1) * config.streams_max + DRY_RUNS_MAX + 2 * CALLS_MAX


def _cannot_listen(key: str, address: Address, error: OSError) -> ListenerError:
    where = host_port(address.host, address.port)
    return ListenerError(
        f"{key}: cannot listen on {where}: {error.strerror or error}."
        f" Is another kdaemon running? Set {key} to another address."
    )


def _make_directory(directory: Path, *, with_parents: bool, key: str = "listen.unix") -> None:
    """`with_parents`: where the operator named the place; one that we choose is ours alone."""
    try:
        directory.mkdir(mode=0o755, parents=with_parents, exist_ok=True)
    except OSError as error:
        raise ListenerError(
            f"{key}: cannot make the directory {directory}: {error.strerror}."
            f" Make it, or set {key} to another path."
        ) from error


def client_settings(
    config: Config, upstream: UpstreamConfig, *, is_anonymous: bool
) -> ClientSettings:
    is_on = {"auto": None, "on": True, "off": False}
    return ClientSettings(
        connections_max=_pool_size(config, upstream),
        service=upstream.traits,
        region=upstream.region or None,
        endpoint_url=upstream.endpoint_url or None,
        profile=upstream.profile or None,
        account_id=upstream.account_id or None,
        connect_timeout_s=upstream.connect_timeout_ms / 1000,
        read_timeout_s=upstream.read_timeout_ms / 1000,
        call_timeout_s=upstream.call_timeout_ms / 1000,
        is_anonymous=is_anonymous,
        name=upstream.name,
        role_arn=upstream.role_arn or None,
        role_external_id=upstream.role_external_id or None,
        role_session_name=upstream.role_session_name or None,
        use_fips=is_on[upstream.fips],
        use_dualstack=is_on[upstream.dual_stack],
        account_id_endpoint_mode=_unless_auto(upstream.account_endpoints),
        proxy_url=_unless_auto(upstream.proxy_url),
        iam_token_file=upstream.iam_token_file or None,
        iam_token_url=upstream.iam_token_url or None,
        ca_bundle=upstream.ca_file or None,
    )


def _unless_auto(text: str) -> str | None:
    return None if text == "auto" else text


def _log_listening(name: str, where: str) -> None:
    log.info(
        "listening", extra={"fields": {"listener": name, "at": where}, "is_always_shown": True}
    )
