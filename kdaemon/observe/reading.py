"""One read of everything that observers may say.

About: the rooms, made into a `Snapshot`. Only this file of `observe/` reads rooms; the others read
a snapshot. An engine is asked for its own snapshot (`engine/snapshot.py`), and for nothing else.
Invariants: reading changes nothing. A read begins when it is asked for: no value is older than its
beginning. The first step reads which streams there are, and everything that is not of open streams,
with the counts of the door and of closed streams. Then each step reads all counts of one stream, in
one synchronous pass. So the sum of `snapshot.py` holds, although streams may close or open
meanwhile, and records move between the steps.
Cost (one core, 2026-11-28): a stream 20 us; each of its shards 0.3 us if it is idle, or 4 us if it
is in the snapshot. A step is a stream, or 250 of its shards: a millisecond at most.
Flow: the rooms -> here -> snapshot.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from kdaemon.base.counting import StreamCounters
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.histogram import Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import parse_qualified
from kdaemon.base.ports import Clock
from kdaemon.base.service import Service
from kdaemon.base.steps import Steps
from kdaemon.engine.snapshot import EngineSnapshot
from kdaemon.http.counters import ListenerCounters
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.readiness import Readiness, is_memory_full
from kdaemon.observe.recent import Recent
from kdaemon.observe.snapshot import (
    HOT_SHARDS_MAX,
    CertificatesSnapshot,
    LogSnapshot,
    MemorySnapshot,
    PrincipalsSnapshot,
    RelaySnapshot,
    ReloadsSnapshot,
    Snapshot,
    SpoolSnapshot,
    StreamSnapshot,
    UpstreamSnapshot,
)
from kdaemon.send.relay import Relay

if TYPE_CHECKING:  # a daemon without principals, TLS or a spool does not load their code
    from kdaemon.door.principals import Principals
    from kdaemon.http.renewal import Certificates
    from kdaemon.observe.reloads import Reloads
    from kdaemon.spool.spool import Spool


class SeenEngine(Protocol):
    """All that observers may ask of an engine."""

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
        """Empty: the account is not known."""
        ...

    @property
    def region(self) -> str:
        """Empty: the region is not known."""
        ...

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def credentials_end_s(self) -> float | None: ...

    @property
    def closed(self) -> StreamCounters:
        """The counts of its streams that are closed now."""
        ...


class Observed(Protocol):
    """The streams in use, as `streams/registry.py` has them."""

    @property
    def memory(self) -> ByteBudget:
        """The budget that all streams share."""
        ...

    @property
    def loop_lag(self) -> Histogram:
        """How late the event loop turns to what is due, in nanoseconds."""
        ...

    @property
    def door(self) -> StreamCounters:
        """Records that were refused before their stream was known."""
        ...

    @property
    def upstreams(self) -> Iterable[SeenUpstream]: ...

    def engines(self) -> Iterable[tuple[str, SeenEngine]]:
        """Every stream once: its unique name (`Qualified.text`), and its engine."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sources:
    """The rooms to read. `listeners`: by name (`http`, `unix`, `admin`); more may be added later.
    `relays`: by upstream. None: the daemon has no such room.
    """

    streams: Observed
    readiness: Readiness
    heartbeat: Heartbeat
    version: str
    listeners: Mapping[str, ListenerCounters] = field(default_factory=dict)
    relays: Mapping[str, Relay] = field(default_factory=dict)
    spool: "Spool | None" = None
    log_queue: LogQueue | None = None
    recent: Recent | None = None
    principals: "Principals | None" = None
    certificates: "Certificates | None" = None
    reloads: "Reloads | None" = None


class StreamReading:
    """A stream that can be read."""

    __slots__ = ("_clock", "_engine", "name")

    def __init__(self, name: str, engine: SeenEngine, clock: Clock) -> None:
        self.name = name
        self._engine = engine
        self._clock = clock

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or in flight: then no shard is hot, and no read is needed."""
        return self._engine.is_idle

    def watch(self, shard_ids: Iterable[str | None], watched_max: int) -> int:
        """As `Engine.handle_hot`."""
        return self._engine.handle_hot(shard_ids, watched_max, self._clock.now_ns())

    def read(
        self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0
    ) -> Steps[StreamSnapshot]:
        """`shards_max`: how many of the hottest shards are in the snapshot; None: all. `calm_max`:
        how many of the other shards are in it too, those that took most.
        """
        read = yield from self._engine.snapshot(self._clock.now_ns(), shards_max, calm_max)
        return StreamSnapshot(self.name, parse_qualified(self.name), read)


class Reader(Protocol):
    """Reads everything that may be told."""

    def read(
        self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0
    ) -> Steps[Snapshot]: ...

    @property
    def stream_count(self) -> int:
        """How many streams are in use now."""
        ...


class SnapshotReader:
    """Reads one daemon. In the loop's thread only. Several reads may run at a time."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._began_ns = clock.now_ns()

    @property
    def stream_count(self) -> int:
        return len(self.streams())

    def streams(self) -> list[StreamReading]:
        """The streams that are in use now."""
        return [
            StreamReading(name, engine, self._clock)
            for name, engine in self._sources.streams.engines()
        ]

    def read(self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0) -> Steps[Snapshot]:
        """Reads everything, in steps. `shards_max`, `calm_max`: of each stream, as
        `StreamReading.read` has them.
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
        upstream.endpoint,
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
    commits, space = spool.commits, spool.space
    counters, trouble = commits.counters, commits.trouble
    return SpoolSnapshot(
        frame_count=spool.streams.frame_count,
        held_records=spool.delivery.held_records,
        live_bytes=space.live_bytes,
        file_bytes=space.file_bytes,
        bytes_max=space.bytes_max,
        oldest_ms=spool.delivery.oldest_ms,
        corrupt_rows=spool.streams.corrupt_count,
        trouble=None if trouble is None else str(trouble),
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
    refused = reloads.refused
    return ReloadsSnapshot(
        reloads.count,
        reloads.failures,
        reloads.is_last_successful,
        reloads.last_success_s,
        None if refused is None else (refused[0].value, refused[1]),
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
