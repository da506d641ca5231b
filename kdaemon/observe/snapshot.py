"""All that metrics, pages, logs and the drain's last line may say, as values that nothing changes.

About: the counts and the states of the rooms at one time. `reading.py` makes them. Holds no data,
key or secret of a client. Texts of others (a hold, a trouble) are kept as they are: the file that
shows one cleans it.
Invariant: for each stream, and for all, in every snapshot

    received = sum(rejected) + delivered + sum(dead) + buffered + in flight

Flow: reading.py -> here -> metrics.py, status.py, hot.py, daemon/.
"""

from collections.abc import Iterable, Mapping

import msgspec

from kdaemon.base.counters import Buckets, OperationCounts, RefuseReason, StreamCounts
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.names import Qualified
from kdaemon.engine.snapshot import EngineSnapshot, ShardSnapshot
from kdaemon.http.counters import ListenerCounts
from kdaemon.observe.readiness import ReadyState
from kdaemon.observe.recent import SaidSnapshot

# Of a stream, in metrics and on the page; ours: as many as a screen shows, 2026-11-21.
HOT_SHARDS_MAX = 5


class MemorySnapshot(msgspec.Struct, frozen=True):
    bytes_taken: int
    bytes_max: int
    is_full: bool


class RelaySnapshot(msgspec.Struct, frozen=True):
    """Calls that are passed on for clients. `counters`: by operation. `waiting_count`: calls that
    wait for their turn; `call_count`: calls that are made now; `kept_bytes`: of answers that are
    kept for other requests.
    """

    operations: tuple[str, ...]
    counters: Mapping[str, OperationCounts]
    waiting_count: int
    call_count: int
    kept_bytes: int


class UpstreamSnapshot(msgspec.Struct, frozen=True):
    """Where records go. `endpoint`: as `Endpoint` has it. `closed`: the
    counts of its streams that are closed now.
    `credentials_end_s`: when its credentials end, since 1970, unless they are renewed; None: they
    do not end, or their source does not tell.
    """

    name: str
    service: str
    region: str
    account: str
    endpoint: Endpoint
    closed: StreamCounts
    relay: RelaySnapshot | None
    credentials_end_s: float | None


class StreamSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One stream. `name`: unique in the daemon. `called`: its upstream, and its name there."""

    name: str
    called: Qualified
    engine: EngineSnapshot

    def hottest(self) -> list[ShardSnapshot]:
        """The hottest HOT_SHARDS_MAX of the hot shards, the hottest first."""
        return self.engine.hottest(HOT_SHARDS_MAX)


class SpoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The disk. `held_records`: records that both an engine and the disk have. `oldest_ms`: when
    the oldest frame in hand was accepted, since 1970; 0: there is none. `trouble`: why the disk
    takes no frames.
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
    """`recent`: the log's recent warnings and errors, the last first."""

    waiting: int
    lines_dropped: int
    recent: tuple[SaidSnapshot, ...]


class PrincipalsSnapshot(msgspec.Struct, frozen=True):
    """`problem`: why the present file is not used; None: it is used."""

    key_count: int
    reload_count: int
    problem: str | None


class ReloadsSnapshot(msgspec.Struct, frozen=True):
    """The reloads since the start. `refused`: of the last one, if it was refused: the outcome, and
    why.
    """

    count: int
    failures: int
    is_last_successful: bool
    last_success_s: float
    refused: tuple[str, str] | None


class CertificatesSnapshot(msgspec.Struct, frozen=True):
    """The certificate that is served. `path`: its file. `expires_s`: since 1970. `faults`: why
    clients that check certificates refuse it. `failures`: changed files that could not be used.
    `trouble`: why the present files are not used.
    """

    path: str
    expires_s: float
    faults: tuple[str, ...]
    reloads: int
    failures: int
    trouble: str | None


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One of several workers, as its supervisor sees it. `number`: of an heir: 0, or the number of
    a worker that no longer exists; an heir delivers the records in a spool. `uptime_ns`: of its
    process. `restarts`: since the supervisor began. `why_not_ready`: None: clients come to it.
    `why_not_told`: why it gave no answer, so that its counts are missing; None: it answered, or was
    not asked, because it does not serve.
    """

    number: int
    is_heir: bool
    pid: int
    state: str
    is_serving: bool
    why_not_ready: str | None
    why_not_told: str | None
    uptime_ns: int
    restarts: int
    connections: int
    handed: int
    memory_bytes: int
    delivered: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon. `state`, `why_not_ready`: whether clients should come. `began_ns`: when the
    reader was made, by the monotonic clock; `uptime_ns`: since then. `door`: records that were
    refused before their stream was known. `workers`: only of a supervisor.
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
    listeners: Mapping[str, ListenerCounts]
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
        return sum(each.delivered for each in self.counts())

    @property
    def spooled(self) -> int:
        """Records on disk, whether an engine has them or not."""
        held = 0 if self.spool is None else self.spool.held_records
        return held + sum(each.spooled for each in self.counts())

    @property
    def undelivered(self) -> int:
        """Records that were admitted and are neither delivered nor dead, and those that the drain
        withdrew at its end; without those on disk.
        """
        held = 0 if self.spool is None else self.spool.held_records
        return -held + sum(
            each.buffered + each.in_flight + each.rejected[RefuseReason.DRAINING]
            for each in self.counts()
        )

    def counts(self) -> Iterable[StreamCounts]:
        """The counts of all streams, closed ones too."""
        yield from (upstream.closed for upstream in self.upstreams)
        yield from (stream.engine.counters for stream in self.streams)
