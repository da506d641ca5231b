"""The composition root: builds every room, passes each what it needs, runs it, drains it. No logic.

Start: listeners are bound before the service is asked anything. Stop: SIGTERM (or another of
`system.ENDING`) turns readiness off, clients are served for a short lame-duck time, then listening
ends, what is buffered is delivered up to a deadline, and the last line says what was delivered and
what was not.
A second signal ends it at once, and so does the first before a door is open. The end takes the sum
of the two times of [drain] at most: the grace for last answers is a part of the deadline, the same
part for all doors. What is closed then has CLOSE_TIMEOUT_S: milliseconds, unless a disk hangs.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdaemon.base.endpoint import host_port, http_url
from kdaemon.base.errors import ConfigError, SpoolError, TlsError
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
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.notify import Notifier, watchdog_interval_s
from kdaemon.observe.readiness import Readiness, is_memory_full
from kdaemon.observe.snapshot import SnapshotReader, Sources
from kdaemon.observe.status import Status
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
    on_signals,
    raise_open_files_limit,
)

if TYPE_CHECKING:
    from kdaemon.door.principals import Principals
    from kdaemon.http.renewal import Certificates
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
CLOSE_GRACE_S = 1.0  # for answers on their way out when everything else is done
CLOSE_TIMEOUT_S = 10.0
"""For what is closed after the drain: what takes longer waits for a disk that does not answer, and
nothing that was promised depends on it. Ours, 2026-11-28."""


class Daemon:
    """Everything that runs, from `start` to `stop`."""

    def __init__(self, config: Config, log_queue: LogQueue) -> None:
        self._config = config
        self._log_queue = log_queue
        self.takes_records = False  # a door may be open: the end is a drain
        self._clock = SystemClock()
        self._dice = SystemDice()
        self._stack = AsyncExitStack()
        self._notifier = Notifier(os.environ)
        self._doors: list[HttpServer] = []  # where records come in
        self._listeners: dict[str, HttpCounters] = {}
        self._memory = ByteBudget(config.memory_bytes_max)
        self._arrivals = Arrivals(
            ByteBudget(_bodies_bytes_max(config), self._memory), HttpLimits().body_bytes_max
        )
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

    async def start(self, *, with_sandbox: bool) -> None:
        """Binds everything and is ready. Raises ListenerError or OSError; `stop` is owed anyway."""
        config = self._config
        if config.auth.principals_file:
            from kdaemon.door.principals import Principals  # noqa: PLC0415 - 0.4 MiB of who asks nobody

            self._principals = Principals(config.auth.principals_file, self._clock.wall_seconds)
        if with_sandbox:
            config = await self._start_sandbox()
        memory = self._memory
        reaches, relays = await self._reach(config, is_anonymous=with_sandbox)
        self._spool = await self._open_spool(memory)
        streams = Streams(config, reaches, self._clock, self._dice, memory, self._spool)
        self._streams = streams
        self._stack.push_async_callback(streams.aclose)
        self._readiness = Readiness(lambda: is_memory_full(memory), self._trouble)
        self._open_certificates()
        await self._start_admin(relays)
        door = Door(streams, self._clock)
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
        if self._spool is not None:  # before the doors: what comes in goes behind what is there
            await self._spool.recover(streams.find_stored, streams.is_listed)
        self.takes_records = True
        calm_collector()
        ndjson = NdjsonDoor(door, self._turns.later)
        await self._start_doors(partial(make_handler, kinesis, ndjson), door)
        self._readiness.started()
        self._notifier.ready()
        log.info("ready", extra={"fields": {"version": version("kdaemon")}})

    async def _reach(
        self, config: Config, *, is_anonymous: bool
    ) -> tuple[dict[str, Reach], dict[str, Relay]]:
        """How each upstream is called, and asked for clients: nobody is called yet."""
        reaches: dict[str, Reach] = {}
        relays: dict[str, Relay] = {}
        for name in config.upstream_names:
            upstream = config.upstream(name)
            settings = _client_settings(config, upstream, is_anonymous=is_anonymous)
            client = await ServiceClient.open(settings)
            self._stack.push_async_callback(client.aclose)
            service, rate = upstream.traits, upstream.control_calls_per_second
            control = ControlCalls(client.call, ControlSettings(service, rate), self._dice)
            self._stack.push_async_callback(control.aclose)
            reaches[name] = Reach(client, Discovery(control.ask, service))
            allowed, turn = config.listen.operations_passed_on, control.turn_for_client
            relays[name] = Relay(client.pass_on, turn, service, self._memory, allowed)
            self._stack.push_async_callback(relays[name].aclose)
        return reaches, relays

    def _trouble(self) -> str | None:
        """What keeps records out: a disk that takes none, a listener that nobody can reach."""
        if self._spool is not None and self._spool.trouble is not None:
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
        await spool.open()
        self._stack.push_async_callback(spool.aclose)
        log.info("spool", extra={"fields": {"directory": settings.directory}})
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

    async def _start_admin(self, relays: Mapping[str, Relay]) -> None:
        """Metrics, probes and status, before the doors: a probe may look while they open."""
        config, clock = self._config, self._clock
        freed = FreedMemory(lambda: self._memory.bytes_taken)
        looks: list[Callable[[], object]] = [freed.look]
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
        )
        self._reader = SnapshotReader(sources, clock)
        looks.append(HotWatch(self._reader, clock).look)
        heartbeat.start()
        self._stack.callback(heartbeat.stop)
        if config.metrics.emf_namespace:
            self._start_emf(config.metrics.emf_namespace)
        address = config.listen.admin_address
        if address is None:
            return
        metrics = Metrics(self._reader, per_shard=config.metrics.per_shard)
        status = Status(self._reader)
        admin = Admin(metrics, status, self._readiness, heartbeat, clock)
        self._stack.callback(admin.close)
        tls = self._tls if config.listen.admin_tls else None
        gate = gate_of(address.host, config.listen.hosts)
        hub = HttpHub(ADMIN_LIMITS, gate=gate, now_ns=clock.now_ns, tls=tls)
        server = await _listen(admin.handle, address, "listen.admin", hub)
        self._stack.push_async_callback(server.aclose)
        self._listeners["admin"] = server.counters
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
            server = await _listen(handler, address, "listen.http", hub, lines)
            self._doors.append(server)
            self._listeners["http"] = server.counters
            is_tls = self._tls is not None
            _log_listening("http", http_url(address.host, server.port, is_tls=is_tls))
        new_unix_hub = partial(new_hub, gate=UNIX_GATE, **_asks(unix_guard))
        await self._start_stream_sockets(handler_behind(unix_guard), door, new_unix_hub)
        is_auto = config.listen.unix == "auto"
        path = resolve_unix_path(config.listen.unix, os.environ, os.path.isdir)
        if path is None:
            problem = user_runtime_problem(os.environ, os.path.isdir) if is_auto else None
            if problem is None:
                log.info("no Unix socket: listen.unix is off, or auto finds no runtime directory")
            elif self._doors:
                log.warning("no Unix socket: %s", problem)
            else:
                raise ListenerError(f"listen.unix: {problem}. Correct it, or set listen.unix.")
            return
        file = SocketFile(path, config.listen.unix_mode_bits)
        try:
            _make_directory(Path(path).parent, with_parents=not is_auto)
            sock = file.bind()
        except ListenerError as error:
            # A place that was not asked for by name, and cannot be used, is done without.
            is_wanted = not is_auto or not self._doors
            if is_wanted or isinstance(error, SocketInUseError):
                raise
            log.warning("no Unix socket: %s", error)
            return
        handler = handler_behind(unix_guard)
        unix = await serve_sockets([sock], handler, new_unix_hub(), lines=lines, file=file)
        self._doors.append(unix)
        self._listeners["unix"] = unix.hub.counters
        _log_listening("unix", path)

    async def _start_stream_sockets(
        self, handler: HttpHandler, door: Door, new_hub: Callable[[], HttpHub]
    ) -> None:
        """A listener for each stream that has a socket of its own: raw lines, and nothing else."""
        for name, stream in self._config.streams.items():
            if not stream.socket:
                continue
            file = SocketFile(stream.socket, self._config.listen.unix_mode_bits)
            key = f"streams.{name}.socket"
            _make_directory(Path(stream.socket).parent, with_parents=True, key=key)
            lines = raw_lines_to(door, stream.arn or name)
            server = await serve_sockets([file.bind()], handler, new_hub(), lines=lines, file=file)
            self._doors.append(server)
            self._listeners[f"streams.{name}"] = server.counters
            _log_listening(f"streams.{name}", stream.socket)

    async def drain(self) -> int:
        """From the first SIGTERM on. The exit code: 0 if nothing was left undelivered."""
        drain = self._config.drain
        self._readiness.told_to_stop()
        self._notifier.stopping("lame duck: clients are still served")
        log.info("draining", extra={"fields": {"lame_duck_ms": drain.lame_duck_ms}})
        await asyncio.sleep(drain.lame_duck_ms / 1000)
        for door in self._doors:
            door.close_listener()
            door.close_idle()
        streams = self._streams
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
        left = at_once(self._reader.read())  # all at one moment: the last line adds up
        if self._emf_log is not None:
            await self._emf_log.last(left)
        totals = {"delivered": left.delivered, "undelivered": left.undelivered}
        if left.spool is not None:
            totals["spooled"] = left.spooled
        log.info("stopped", extra={"fields": totals, "is_last": True})
        return 1 if left.undelivered else 0

    async def _settle_until(self, deadline_s: float) -> None:
        """Waits until all that was taken is settled; at the deadline (loop time) clients that wait
        are told that it is over.
        """
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._streams.wait_idle()
        except TimeoutError:
            await self._streams.give_up()

    async def close(self) -> None:
        """Ends whatever still runs, in the reverse order of its start."""
        for door in self._doors:
            await door.aclose(0.0)
        await self._stack.aclose()


async def serve(config: Config, log_queue: LogQueue, *, with_sandbox: bool) -> int:
    """Runs the daemon until it is told to stop; the exit code."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    on_signals(loop, signals.put_nowait)
    daemon = Daemon(config, log_queue)
    first = loop.create_task(signals.get())
    try:
        if not await _started(daemon, first, with_sandbox=with_sandbox):
            log.info("stopped before it was ready: nothing was taken", extra={"is_last": True})
            return 0
        await first
        draining = loop.create_task(daemon.drain())
        second = loop.create_task(signals.get())
        await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        if draining.done():
            return draining.result()
        draining.cancel()
        text = "stopped at once, by a second signal: what was buffered is not delivered"
        log.warning(text, extra={"is_last": True})
    except (ConfigError, ListenerError, SpoolError, TlsError) as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - the stack tells an operator nothing
    finally:
        first.cancel()
        await _close(daemon, signals)
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
    """Starts the daemon, unless it is told to stop before it takes anything: False."""
    starting = asyncio.get_running_loop().create_task(daemon.start(with_sandbox=with_sandbox))
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not daemon.takes_records:
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        return False
    await starting
    return True


async def _listen(
    handler: HttpHandler,
    address: Address,
    key: str,
    hub: HttpHub,
    lines: Lines | None = None,
) -> HttpServer:
    try:
        return await serve_sockets(bind_tcp(address.host, address.port), handler, hub, lines=lines)
    except OSError as error:
        raise _cannot_listen(key, address, error) from error


def _asks(guard: Guard | None) -> dict[str, Any]:
    """What a hub asks of new connections, and of heads."""
    return {} if guard is None else {"who": guard.who, "early": guard.early}


def _look_each(looks: Sequence[Callable[[], object]]) -> None:
    for look in looks:
        look()


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


def _client_settings(
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
