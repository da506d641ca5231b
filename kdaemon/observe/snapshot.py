"""One read of everything: all that metrics, pages, logs and the drain's last line may say.

About: what the rooms have counted and how they stand, as values that nothing changes any more. This
is the only file of `observe/` that reads a room; the others read a `Snapshot`, and an engine is
asked for its own (`engine/snapshot.py`) and for nothing else. Holds no data, key or secret of a
client; what others wrote (a hold, a trouble) is as they wrote it: whoever shows it cleans it.
Invariants: looking changes nothing. A read begins when it is asked for: no value is older than its
beginning. Which streams there are, and all that is not about streams, what the door and closed
streams have counted included, is read in the first step; then all that a stream has counted in one
synchronous pass, a stream a step. So in every snapshot, for each stream and for all,

    received = sum(rejected) + delivered + sum(dead) + buffered + in flight

though a stream be closed or opened meanwhile, and records move between the steps.
Cost (one core, 2026-11-28): a stream 20 us, and 0.3 us for each of its shards that is idle, or 4 us
where it is told of. A step is a stream, or 250 of its shards: a millisecond at most.
Flow: the rooms -> here -> metrics.py, status.py, hot.py, daemon/.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from kdaemon.base.counters import OperationCounts, RejectReason, StreamCounters, StreamCounts
from kdaemon.base.histogram import Buckets, Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import Qualified, parse_qualified
from kdaemon.base.ports import Clock
from kdaemon.base.service import Service
from kdaemon.base.steps import Steps
from kdaemon.engine.snapshot import EngineSnapshot, ShardSnapshot
from kdaemon.http.counters import HttpCounters, HttpCounts
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.readiness import Readiness, ReadyState, is_memory_full
from kdaemon.observe.recent import Recent, SaidSnapshot
from kdaemon.send.relay import Relay

if TYPE_CHECKING:  # who asks nobody, speaks no TLS and stores nothing does not load what does
    from kdaemon.door.principals import Principals
    from kdaemon.http.renewal import Certificates
    from kdaemon.observe.reloads import Reloads
    from kdaemon.spool.spool import Spool

HOT_SHARDS_MAX = 5  # of a stream, in metrics and on the page; ours: fits a screen, 2026-11-21


class SeenEngine(Protocol):
    """All that those who look may ask of an engine."""

    @property
    def is_idle(self) -> bool: ...

    def snapshot(
        self, now_ns: int, shards_max: int | None, calm_max: int
    ) -> Steps[EngineSnapshot]: ...

    def handle_hot(self, shard_ids: Iterable[str | None], watched_max: int, now_ns: int) -> int: ...


class SeenUpstream(Protocol):
    """An upstream, as `streams/upstream.py` has it."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> Service: ...

    @property
    def account(self) -> str:
        """Empty where it is not known."""
        ...

    @property
    def region(self) -> str:
        """The same."""
        ...

    @property
    def credentials_end_s(self) -> float | None: ...

    @property
    def closed(self) -> StreamCounters:
        """What its streams have counted that are closed now."""
        ...


class Observed(Protocol):
    """The streams in use, as `streams/registry.py` keeps them."""

    @property
    def memory(self) -> ByteBudget:
        """The budget that all streams share."""
        ...

    @property
    def loop_lag(self) -> Histogram:
        """How late the event loop comes to what is due, in nanoseconds."""
        ...

    @property
    def door(self) -> StreamCounters:
        """Records that were refused before their stream was known."""
        ...

    @property
    def upstreams(self) -> Iterable[SeenUpstream]: ...

    def engines(self) -> Iterable[tuple[str, SeenEngine]]:
        """Every stream once: its name, unique (`Qualified.text`), and its engine."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sources:
    """The rooms. `listeners`: by name (`http`, `unix`, `admin`); more may come. `relays`: by
    upstream. None: there is no such thing.
    """

    streams: Observed
    readiness: Readiness
    heartbeat: Heartbeat
    version: str
    listeners: Mapping[str, HttpCounters] = field(default_factory=dict)
    relays: Mapping[str, Relay] = field(default_factory=dict)
    spool: "Spool | None" = None
    log_queue: LogQueue | None = None
    recent: Recent | None = None
    principals: "Principals | None" = None
    certificates: "Certificates | None" = None
    reloads: "Reloads | None" = None


class MemorySnapshot(msgspec.Struct, frozen=True):
    held_bytes: int
    bytes_max: int
    is_full: bool


class RelaySnapshot(msgspec.Struct, frozen=True):
    """What is passed on for clients. `counters`: by operation. `waiting_count`: calls that wait for
    their turn; `call_count`: that are made now; `kept_bytes`: of answers that are kept for others.
    """

    operations: tuple[str, ...]
    counters: Mapping[str, OperationCounts]
    waiting_count: int
    call_count: int
    kept_bytes: int


class UpstreamSnapshot(msgspec.Struct, frozen=True):
    """Where records go. `closed`: what its streams have counted that are closed now.
    `credentials_end_s`: when its credentials end, since 1970, unless they are renewed; None: they
    do not, or nobody tells.
    """

    name: str
    service: str
    region: str
    account: str
    closed: StreamCounts
    relay: RelaySnapshot | None
    credentials_end_s: float | None


class StreamSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One stream. `name`: unique in the daemon; `called`: its upstream, and its name there."""

    name: str
    called: Qualified
    engine: EngineSnapshot

    def hottest(self) -> list[ShardSnapshot]:
        """Of the shards that are hot, the hottest HOT_SHARDS_MAX, the hottest first."""
        return self.engine.hottest(HOT_SHARDS_MAX)


class SpoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The disk. `held_records`: that an engine has, and the disk too. `oldest_ms`: when the oldest
    frame in hand was accepted, since 1970; 0: there is none. `trouble`: why it takes no frames.
    """

    frame_count: int
    held_records: int
    live_bytes: int
    file_bytes: int
    bytes_max: int
    oldest_ms: int
    corrupt_rows: int
    trouble: str | None
    commit_failures: int
    restorations: int
    letters_dropped: int
    commit_duration_ns: Buckets
    commit_frames: Buckets


class LogSnapshot(msgspec.Struct, frozen=True):
    """`recent`: its warnings and errors of late, the last first."""

    waiting: int
    lines_dropped: int
    recent: tuple[SaidSnapshot, ...]


class PrincipalsSnapshot(msgspec.Struct, frozen=True):
    """`problem`: why the file as it stands now is not used; None: it is."""

    key_count: int
    reload_count: int
    problem: str | None


class ReloadsSnapshot(msgspec.Struct, frozen=True):
    """What became of the configuration since the start."""

    count: int
    failures: int
    is_last_successful: bool
    last_success_s: float


class CertificatesSnapshot(msgspec.Struct, frozen=True):
    """The certificate that is served. `path`: its file. `expires_s`: since 1970. `faults`: why
    clients that check certificates refuse it. `failures`: changes that could not be used;
    `trouble`: why the files that stand there are not used.
    """

    path: str
    expires_s: float
    faults: tuple[str, ...]
    reloads: int
    failures: int
    trouble: str | None


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One of several workers, as its supervisor has it. `number`: 0, or that of a worker that is no
    more: an heir, which delivers what stands in a spool. `uptime_ns`: of its process; `restarts`:
    since the supervisor began. `why_not_ready`: None: clients come to it.
    """

    number: int
    is_heir: bool
    pid: int
    state: str
    is_serving: bool
    why_not_ready: str | None
    uptime_ns: int
    restarts: int
    connections: int
    handed: int
    held_bytes: int
    delivered: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon. `state`, `why_not_ready`: whether clients should come. `began_ns`: when the
    reader was made, by the machine's clock that never goes back; `uptime_ns`: since then. `door`:
    records that were refused before their stream was known. `workers`: of
    a supervisor.
    """

    version: str
    began_ns: int
    uptime_ns: int
    state: ReadyState
    why_not_ready: str | None
    heartbeat_age_ns: int
    memory: MemorySnapshot
    loop_lag: Buckets
    door: StreamCounts
    listeners: Mapping[str, HttpCounts]
    upstreams: tuple[UpstreamSnapshot, ...]
    spool: SpoolSnapshot | None
    log: LogSnapshot | None
    principals: PrincipalsSnapshot | None
    certificates: CertificatesSnapshot | None
    reloads: ReloadsSnapshot | None
    streams: tuple[StreamSnapshot, ...]
    workers: tuple[WorkerSnapshot, ...] = ()

    @property
    def delivered(self) -> int:
        """Records, since the start."""
        return sum(each.delivered for each in self._all())

    @property
    def spooled(self) -> int:
        """Records that stand on disk, whether an engine has them or not."""
        held = 0 if self.spool is None else self.spool.held_records
        return held + sum(each.spooled for each in self._all())

    @property
    def undelivered(self) -> int:
        """Records that are taken and neither delivered nor dead, or withdrawn by a drain's end; but
        for those that stand on disk.
        """
        held = 0 if self.spool is None else self.spool.held_records
        return -held + sum(
            each.buffered + each.in_flight + each.rejected[RejectReason.DRAINING]
            for each in self._all()
        )

    def _all(self) -> Iterable[StreamCounts]:
        """Of all streams, those that are closed too."""
        yield from (upstream.closed for upstream in self.upstreams)
        yield from (stream.engine.counters for stream in self.streams)


class StreamReading:
    """A stream that may be read."""

    __slots__ = ("_clock", "_engine", "name")

    def __init__(self, name: str, engine: SeenEngine, clock: Clock) -> None:
        self.name = name
        self._engine = engine
        self._clock = clock

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or in flight: it need not be read to know that nothing is hot."""
        return self._engine.is_idle

    def watch(self, shard_ids: Iterable[str | None], watched_max: int) -> int:
        """As `Engine.handle_hot`."""
        return self._engine.handle_hot(shard_ids, watched_max, self._clock.now_ns())

    def read(
        self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0
    ) -> Steps[StreamSnapshot]:
        """`shards_max`: so many of the hottest shards are told of; None: all. `calm_max`: beside
        them, so many of those that are not hot, those that took most.
        """
        read = yield from self._engine.snapshot(self._clock.now_ns(), shards_max, calm_max)
        return StreamSnapshot(self.name, parse_qualified(self.name), read)


class Reader(Protocol):
    """Who reads, and tells all that may be told."""

    def read(
        self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0
    ) -> Steps[Snapshot]: ...

    @property
    def stream_count(self) -> int:
        """Those that are in use now."""
        ...


class SnapshotReader:
    """In the loop's thread only. Several may read at a time."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._began_ns = clock.now_ns()

    @property
    def stream_count(self) -> int:
        return len(self.streams())

    def streams(self) -> list[StreamReading]:
        """Those that are in use now."""
        return [
            StreamReading(name, engine, self._clock)
            for name, engine in self._sources.streams.engines()
        ]

    def read(self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0) -> Steps[Snapshot]:
        """Everything, in steps. `shards_max`, `calm_max`: of each stream, as `StreamReading.read`
        has them.
        """
        sources, observed, now_ns = self._sources, self._sources.streams, self._clock.now_ns()
        readings, memory, readiness = self.streams(), observed.memory, sources.readiness
        snapshot = Snapshot(
            version=sources.version,
            began_ns=self._began_ns,
            uptime_ns=now_ns - self._began_ns,
            state=readiness.state,
            why_not_ready=readiness.why_not(),
            heartbeat_age_ns=sources.heartbeat.age_ns(now_ns),
            memory=MemorySnapshot(memory.bytes_taken, memory.bytes_max, is_memory_full(memory)),
            loop_lag=observed.loop_lag.snapshot(),
            door=observed.door.snapshot(),
            listeners={name: each.snapshot() for name, each in sources.listeners.items()},
            upstreams=tuple(
                _upstream(each, sources.relays.get(each.name)) for each in observed.upstreams
            ),
            spool=None if sources.spool is None else _spool(sources.spool),
            log=None if sources.log_queue is None else _log(sources, now_ns),
            principals=None if sources.principals is None else _principals(sources.principals),
            certificates=(
                None if sources.certificates is None else _certificates(sources.certificates)
            ),
            reloads=None if sources.reloads is None else _reloads(sources.reloads),
            streams=(),
        )
        yield
        streams: list[StreamSnapshot] = []
        for reading in readings:
            streams.append((yield from reading.read(shards_max, calm_max)))
            yield
        return msgspec.structs.replace(snapshot, streams=tuple(streams))


def _upstream(upstream: SeenUpstream, relay: Relay | None) -> UpstreamSnapshot:
    return UpstreamSnapshot(
        upstream.name,
        upstream.service.name,
        upstream.region,
        upstream.account,
        upstream.closed.snapshot(),
        None if relay is None else _relay(relay),
        upstream.credentials_end_s,
    )


def _relay(relay: Relay) -> RelaySnapshot:
    return RelaySnapshot(
        relay.operations,
        {name: counters.snapshot() for name, counters in relay.counters.items()},
        relay.waiting_count,
        relay.call_count,
        relay.kept_bytes,
    )


def _spool(spool: "Spool") -> SpoolSnapshot:
    counters, space = spool.counters, spool.space
    return SpoolSnapshot(
        frame_count=spool.frame_count,
        held_records=spool.held_records,
        live_bytes=space.live_bytes,
        file_bytes=space.file_bytes,
        bytes_max=space.bytes_max,
        oldest_ms=spool.oldest_ms,
        corrupt_rows=spool.corrupt_rows,
        trouble=None if spool.trouble is None else str(spool.trouble),
        commit_failures=counters.commit_failures,
        restorations=counters.restorations,
        letters_dropped=counters.letters_dropped,
        commit_duration_ns=counters.commit_duration_ns.snapshot(),
        commit_frames=counters.commit_frames.snapshot(),
    )


def _log(sources: Sources, now_ns: int) -> LogSnapshot:
    queue, recent = sources.log_queue, sources.recent
    assert queue is not None, "who asks has looked"
    lines = () if recent is None else recent.snapshot(now_ns)
    return LogSnapshot(queue.waiting, queue.lines_dropped, lines)


def _principals(principals: "Principals") -> PrincipalsSnapshot:
    return PrincipalsSnapshot(len(principals.keys), principals.reload_count, principals.problem)


def _reloads(reloads: "Reloads") -> ReloadsSnapshot:
    return ReloadsSnapshot(
        reloads.count, reloads.failures, reloads.is_last_successful, reloads.last_success_s
    )


def _certificates(certificates: "Certificates") -> CertificatesSnapshot:
    return CertificatesSnapshot(
        certificates.files.certificate,
        certificates.expires_s,
        tuple(certificates.faults),
        certificates.reloads,
        certificates.failures,
        certificates.trouble,
    )
