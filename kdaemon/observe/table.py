"""The table of metrics: what each is called, what its labels are, and what it is read from.

About: one row a metric, in sections by the part of a snapshot (snapshot.py) that is read. Holds no
value and does no work: metrics.py reads the rows at a scrape. Knows no room. Labels are enums,
listeners, upstreams and streams (`streams_max` bounds them). Of the shards of a stream, the
HOT_SHARDS_MAX hottest are shown; all of them only if the configuration asks for that. A partition
key is never a label.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from kdaemon.base.counters import Buckets, OperationCounts, StreamCounts
from kdaemon.engine.snapshot import EngineSnapshot, ShardSnapshot, StreamState
from kdaemon.http.counters import ListenerCounts
from kdaemon.observe.snapshot import (
    CertificatesSnapshot,
    LogSnapshot,
    MemorySnapshot,
    PrincipalsSnapshot,
    ReloadsSnapshot,
    Snapshot,
    SpoolSnapshot,
    WorkerSnapshot,
)

NS_PER_SECOND = 1_000_000_000  # nanoseconds in a second


class Kind(Enum):
    COUNTER = "counter"  # only grows
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Subject = TypeVar("Subject")
Reading = float | Mapping[Any, float] | Buckets  # the keys of a mapping are enums or words


@dataclass(frozen=True, slots=True)
class Metric(Generic[Subject]):
    """One row of the table. A name that ends with `_total` is a counter's.

    `read` gives a number. With a `label`, it gives a number for each value of that label (for all
    values, so that each starts at 0); for a histogram, its buckets. `per`: one unit of the name, in
    units of the reading (for seconds: a second in nanoseconds).
    """

    name: str
    text: str
    read: Callable[[Subject], Reading]
    label: str = ""
    per: int = 1
    is_histogram: bool = False

    @property
    def kind(self) -> Kind:
        if self.is_histogram:
            return Kind.HISTOGRAM
        return Kind.COUNTER if self.name.endswith("_total") else Kind.GAUGE


def _tokens(shard: ShardSnapshot) -> dict[str, int]:
    return {"records": shard.records_tokens, "bytes": shard.bytes_tokens}


def _shares(shard: ShardSnapshot) -> dict[str, float]:
    return {"records": shard.records_share, "bytes": shard.bytes_share}


def _oldest_queued_ns(stream: EngineSnapshot) -> int:
    """0: nothing is queued."""
    oldest_ns = stream.shards.oldest_ns
    return 0 if oldest_ns is None else stream.read_ns - oldest_ns


def _warm(stream: EngineSnapshot) -> dict[str, int]:
    told = stream.capacity
    if told is None:
        return {}
    of = {"current": told.warm_bytes_per_second, "target": told.warm_target_bytes_per_second}
    return {kind: value for kind, value in of.items() if value is not None}


# The table, in sections by what is read. The labels of a section come first, then the row's own.

# {upstream, stream}; both are "" for records that were refused before their stream was known.
ACCOUNTS: tuple[Metric[StreamCounts], ...] = (
    Metric("kdaemon_records_received_total", "Records that clients sent.", lambda c: c.received),
    Metric("kdaemon_received_bytes_total", "Data and partition keys of received records.",
           lambda c: c.received_bytes),
    Metric("kdaemon_records_accepted_total", "Records taken in, to be delivered.",
           lambda c: c.accepted),
    Metric("kdaemon_accepted_bytes_total", "Data and partition keys of accepted records.",
           lambda c: c.accepted_bytes),
    Metric("kdaemon_records_rejected_total",
           "Records whose client was told no: at the door, or at its deadline.",
           lambda c: c.rejected, label="reason"),
    Metric("kdaemon_lines_without_key_total",
           "Raw lines in which partition_key_field told no key: they were spread over the shards.",
           lambda c: c.lines_without_key),
    Metric("kdaemon_lines_without_stream_total",
           "Raw lines in which stream_field told no listed stream: they went to this one.",
           lambda c: c.lines_without_stream),
    Metric("kdaemon_records_delivered_total", "Records that the service has.",
           lambda c: c.delivered),
    Metric("kdaemon_delivered_bytes_total", "Data and partition keys of delivered records.",
           lambda c: c.delivered_bytes),
    Metric("kdaemon_records_dead_total", "Records given up for good.",
           lambda c: c.dead, label="reason"),
    Metric("kdaemon_records_dropped_total",
           "Records that were acknowledged and are gone, and are no dead letters either.",
           lambda c: c.dropped, label="reason"),
    Metric("kdaemon_records_recovered_total", "Records found in the spool at start.",
           lambda c: c.recovered),
    Metric("kdaemon_records_recovered_settled_total",
           "Recovered records that an earlier process is known to have delivered or buried.",
           lambda c: c.recovered_settled),
    Metric("kdaemon_records_settled_before_total",
           "The old name of kdaemon_records_recovered_settled_total: gone with 0.3.0.",
           lambda c: c.recovered_settled),
    Metric("kdaemon_records_spooled",
           "Records on disk, or on their way there, and in no queue yet.", lambda c: c.spooled),
    Metric("kdaemon_records_buffered", "Records queued for a PutRecords call.",
           lambda c: c.buffered),
    Metric("kdaemon_records_in_flight", "Records in PutRecords calls without an answer yet.",
           lambda c: c.in_flight),
    Metric("kdaemon_records_unaccounted",
           "Records that are nowhere: received + recovered - rejected - delivered - dead - dropped"
           " - recovered settled - spooled - buffered - in flight. Anything but 0 is a defect.",
           StreamCounts.unaccounted),
)  # fmt: skip

# {upstream, stream}
DELIVERY: tuple[Metric[StreamCounts], ...] = (
    Metric("kdaemon_billed_units_total",
           "What the service bills for delivered records. AWS bills one of: PUT payload units of"
           " 25 KiB a record (provisioned), bytes with each record rounded up to 1 KiB"
           " (on-demand); Yandex: units of 40 KiB a call and shard; or what [billing] sets. An"
           " aggregate is one record.", lambda c: c.billed, label="unit"),
    Metric("kdaemon_records_attempts_total", "Records in PutRecords calls that went out.",
           lambda c: c.attempts),
    Metric("kdaemon_records_retries_total", "Records queued to be sent again.",
           lambda c: c.retries, label="reason"),
    Metric("kdaemon_record_failures_total",
           "Records that failed inside an answered call, by the service's code.",
           lambda c: c.failures, label="code"),
    Metric("kdaemon_records_throttled_total",
           "Records that the service refused for its rate, alone or with their call.",
           lambda c: c.throttled),
    Metric("kdaemon_records_possible_duplicates_total",
           "Records that may be in the stream twice: sent again, or told as failed, while the"
           " outcome of a call was unknown.", lambda c: c.possible_duplicates),
    Metric("kdaemon_put_records_calls_total", "PutRecords calls that ended.",
           lambda c: c.calls, label="outcome"),
    Metric("kdaemon_put_records_in_flight", "PutRecords calls without an answer yet.",
           lambda c: c.in_flight_calls),
    Metric("kdaemon_put_records_duration_seconds", "From a call's start to its end.",
           lambda c: c.call_duration_ns, per=NS_PER_SECOND, is_histogram=True),
    Metric("kdaemon_put_records_batch_records", "Records in one call.",
           lambda c: c.batch_records, is_histogram=True),
    Metric("kdaemon_put_records_batch_bytes", "Data and partition keys in one call.",
           lambda c: c.batch_bytes, is_histogram=True),
    Metric("kdaemon_delivery_seconds", "From a record's acceptance to its delivery.",
           lambda c: c.delivery_ns, per=NS_PER_SECOND, is_histogram=True),
    Metric("kdaemon_shard_map_refreshes_total", "Answers to the question for the shards.",
           lambda c: c.map_refreshes),
    Metric("kdaemon_shard_map_mismatches_total",
           "Runs of records that landed on another shard than predicted: the map was stale.",
           lambda c: c.map_mismatches),
)  # fmt: skip

# {upstream, stream}
STREAM: tuple[Metric[EngineSnapshot], ...] = (
    Metric("kdaemon_shards", "Open shards, as far as known; 0: nothing is known.",
           lambda s: s.shard_count),
    Metric("kdaemon_stream_memory_bytes", "Memory that the stream's unsettled records take.",
           lambda s: s.footprint_bytes),
    Metric("kdaemon_stream_held_bytes",
           "The old name of kdaemon_stream_memory_bytes: gone with 0.3.0.",
           lambda s: s.footprint_bytes),
    Metric("kdaemon_stream_oldest_queued_seconds",
           "How long ago the oldest record was taken that is queued; 0: nothing is. A record from"
           " the spool counts from when it was stored.", _oldest_queued_ns, per=NS_PER_SECOND),
    Metric("kdaemon_stream_on_hold",
           "1: nothing can be sent until somebody acts (credentials, access, a missing stream that"
           " is listed); /statusz says why.", lambda s: int(s.hold is not None)),
    Metric("kdaemon_stream_missing",
           "1: clients name this stream, no configuration lists it, and the service does not have"
           " it: its records are refused, and each client is told.",
           lambda s: int(s.missing is not None)),
    Metric("kdaemon_stream_unseen",
           "1: nothing has shown yet that the stream is there: no record was taken, and the"
           " service did not tell of it; or it said of late that there is none. /statusz says why.",
           lambda s: int(s.state is StreamState.UNSEEN)),
    Metric("kdaemon_stream_failing",
           "1: records wait and none goes out, though kdaemon goes on trying; /statusz says why.",
           lambda s: int(s.state is StreamState.FAILING)),
    Metric("kdaemon_stream_unavailable",
           "1: no record is taken, because the stream cannot keep what was configured for it;"
           " /statusz says why.", lambda s: int(s.unavailable is not None)),
    Metric("kdaemon_stream_is_on_demand",
           "1: the service adds and takes away shards by itself; 0: it does not, or tells not.",
           lambda s: int(s.capacity is not None and s.capacity.is_on_demand)),
    Metric("kdaemon_stream_warm_throughput_bytes_per_second",
           "What an on-demand stream takes at once, from all who write to it (current), and what"
           " the service is making that (target); nothing where the service tells none.",
           _warm, label="kind"),
    Metric("kdaemon_shards_backlogged",
           "Shards that more than a second's worth of records waits for.",
           lambda s: s.shards.backlogged_count),
    Metric("kdaemon_shard_share_min_ratio",
           "Of the shard with the least of it: the part of its quota that kdaemon lets itself use"
           " now. Below 1, other producers write there. Shards that never throttled count as 1"
           " while nothing waits for them.", lambda s: s.shards.share_min),
)  # fmt: skip

# {upstream, stream, shard_id}, of the hottest shards of each stream.
HOT: tuple[Metric[ShardSnapshot], ...] = (
    Metric("kdaemon_hot_shard_backlog_seconds",
           "How long a shard that more comes for than it takes needs for what waits for it.",
           lambda h: h.backlog_ns, per=NS_PER_SECOND),
    Metric("kdaemon_hot_shard_share_ratio",
           "The part of such a shard's quota that kdaemon lets itself use now.", lambda h: h.share),
)  # fmt: skip

# {upstream, stream, shard_id}, only if asked for; shard "": the whole stream, without a shard map.
SHARD: tuple[Metric[ShardSnapshot], ...] = (
    Metric("kdaemon_shard_records_buffered",
           "Records that wait for this shard, but for those that are being bisected.",
           lambda s: s.backlog_records),
    Metric("kdaemon_shard_backlog_seconds", "How long the shard needs for what waits for it.",
           lambda s: s.backlog_ns, per=NS_PER_SECOND),
    Metric("kdaemon_shard_backoff_seconds", "Time until the shard's backoff ends; 0: none.",
           lambda s: s.backoff_ns, per=NS_PER_SECOND),
    Metric("kdaemon_shard_tokens",
           "What the shard could be sent at once; below 0: the debt of a large record.",
           _tokens, label="kind"),
    Metric("kdaemon_shard_share_ratio",
           "The part of the shard's quota that kdaemon lets itself use now.",
           _shares, label="kind"),
    Metric("kdaemon_shard_records_taken_total", "Records that the shard has taken.",
           lambda s: s.taken),
    Metric("kdaemon_shard_records_throttled_total", "Records that the shard refused for its rate.",
           lambda s: s.throttled),
)  # fmt: skip

# {listener}
LISTENER: tuple[Metric[ListenerCounts], ...] = (
    Metric("kdaemon_client_connections", "Open client connections.", lambda h: h.open),
    Metric("kdaemon_client_connections_opened_total", "Client connections taken.",
           lambda h: h.opened),
    Metric("kdaemon_client_connections_refused_total",
           "Client connections refused, or ended for what they sent.",
           lambda h: h.refused, label="reason"),
    Metric("kdaemon_client_rebinds_total",
           "Times that the socket file was gone and was made again.", lambda h: h.rebound),
    Metric("kdaemon_client_timeouts_total",
           "Client connections cut off because a part took too long.",
           lambda h: h.timed_out, label="part"),
    Metric("kdaemon_client_tls_handshakes_total", "TLS handshakes of clients that succeeded.",
           lambda h: h.handshakes),
    Metric("kdaemon_client_handler_failures_total",
           "Requests that kdaemon failed to handle: a defect of kdaemon, and its log says which.",
           lambda h: h.handler_failures),
)  # fmt: skip

# {upstream, operation}: operations that may be passed on; "other": all that may not.
PASSED_ON: tuple[Metric[OperationCounts], ...] = (
    Metric("kdaemon_passed_on_requests_total",
           "Requests of clients for operations that kdaemon does not answer itself.",
           lambda o: o.requests),
    Metric("kdaemon_passed_on_shared_total",
           "Of these: told what the service had just said to another, or was being asked.",
           lambda o: o.shared),
    Metric("kdaemon_passed_on_refused_total",
           "Of these: refused by kdaemon, or not answered in time.",
           lambda o: o.refused, label="reason"),
    Metric("kdaemon_passed_on_calls_total",
           "Calls to the service for such requests: answered, refused by the service, failed.",
           lambda o: o.calls, label="outcome"),
)  # fmt: skip

# {upstream}, only of upstreams whose credentials end
CREDENTIALS: tuple[Metric[float], ...] = (
    Metric("kdaemon_credentials_expire_timestamp_seconds",
           "When the credentials that the upstream is called with end, since 1970. Calls renew"
           " them ahead of that: what is not called may let them end.", lambda end_s: end_s),
)  # fmt: skip

# no label, only where there is a certificate
TLS: tuple[Metric[CertificatesSnapshot], ...] = (
    Metric("kdaemon_tls_certificate_expires_timestamp_seconds",
           "When the certificate that is served now expires, since 1970.", lambda c: c.expires_s),
    Metric("kdaemon_tls_certificate_reloads_total",
           "Times that changed files of the certificate were taken.", lambda c: c.reloads),
    Metric("kdaemon_tls_certificate_reload_failures_total",
           "Times that they could not be used, and the old certificate was kept; the log says why.",
           lambda c: c.failures),
)  # fmt: skip

# no label
CONFIG: tuple[Metric[ReloadsSnapshot], ...] = (
    Metric("kdaemon_config_reloads_total",
           "Times that the configuration was read again, whatever became of it.",
           lambda r: r.count),
    Metric("kdaemon_config_reload_failures_total",
           "Times that it could not be taken, and the old one was kept; the log says why.",
           lambda r: r.failures),
    Metric("kdaemon_config_last_reload_successful",
           "1: what was read last is in force; 0: it was refused.",
           lambda r: int(r.is_last_successful)),
    Metric("kdaemon_config_last_reload_success_timestamp_seconds",
           "When the configuration was read that is in force, since 1970.",
           lambda r: r.last_success_s),
)  # fmt: skip

# no label
READINESS: tuple[Metric[bool], ...] = (
    Metric("kdaemon_ready", "1: clients should come; 0: /readyz says why not.", int),
)  # fmt: skip

# no label
MEMORY: tuple[Metric[MemorySnapshot], ...] = (
    Metric("kdaemon_memory_bytes", "Memory that unsettled records of all streams take.",
           lambda m: m.bytes_taken),
    Metric("kdaemon_memory_held_bytes", "The old name of kdaemon_memory_bytes: gone with 0.3.0.",
           lambda m: m.bytes_taken),
    Metric("kdaemon_memory_bytes_max", "Bound of kdaemon_memory_bytes.", lambda m: m.bytes_max),
)  # fmt: skip

# no label
LOOP: tuple[Metric[Buckets], ...] = (
    Metric("kdaemon_loop_lag_seconds",
           "How late the event loop came to what was due: the heartbeat's beat, once a second, and"
           " the wake-ups of streams under load. Clients wait as long.",
           lambda h: h, per=NS_PER_SECOND, is_histogram=True),
)  # fmt: skip

# no label, only where there is a spool
SPOOL: tuple[Metric[SpoolSnapshot], ...] = (
    Metric("kdaemon_spool_bytes", "Pages of the spool's database that are in use.",
           lambda s: s.live_bytes),
    Metric("kdaemon_spool_file_bytes", "What the spool's files take on disk.",
           lambda s: s.file_bytes),
    Metric("kdaemon_spool_bytes_max", "Bound of kdaemon_spool_bytes.", lambda s: s.bytes_max),
    Metric("kdaemon_spool_frames", "Frames on disk: requests, or blocks of lines.",
           lambda s: s.frame_count),
    Metric("kdaemon_spool_oldest_timestamp_seconds",
           "When the oldest frame in hand, or left on disk for a hot shard, was accepted, since"
           " 1970; 0: there is none.", lambda s: s.oldest_ms, per=1_000),
    Metric("kdaemon_spool_in_trouble",
           "1: the disk takes no frames; /readyz says why. `stored` is refused meanwhile.",
           lambda s: int(s.trouble is not None)),
    Metric("kdaemon_spool_commit_duration_seconds", "From a commit's start to its end.",
           lambda s: s.commit_duration_ns, per=NS_PER_SECOND, is_histogram=True),
    Metric("kdaemon_spool_commit_frames", "New frames in one commit.",
           lambda s: s.commit_frames, is_histogram=True),
    Metric("kdaemon_spool_commit_failures_total", "Commits that the disk did not take.",
           lambda s: s.commit_failures),
    Metric("kdaemon_spool_restorations_total",
           "Times that files taken away under the running daemon were made again.",
           lambda s: s.restorations),
    Metric("kdaemon_spool_corrupt_frames_total", "Damaged frames, now in quarantine.",
           lambda s: s.corrupt_rows),
    Metric("kdaemon_dead_letters_dropped_total",
           "Dead letters that made room for newer ones (spool.letters_bytes_max).",
           lambda s: s.letters_dropped),
)  # fmt: skip

# no label
LOG: tuple[Metric[LogSnapshot], ...] = (
    Metric("kdaemon_log_lines_dropped_total",
           "Lines of the log that nobody read in time, or that could not be written.",
           lambda q: q.lines_dropped),
)  # fmt: skip

# no label, only where clients must show who they are
AUTH: tuple[Metric[PrincipalsSnapshot], ...] = (
    Metric("kdaemon_principals_keys", "Access keys that clients may sign with.",
           lambda p: p.key_count),
    Metric("kdaemon_principals_reloads_total",
           "Times that auth.principals_file was read again and taken.", lambda p: p.reload_count),
    Metric("kdaemon_principals_is_stale",
           "1: auth.principals_file cannot be used as it is now, and the principals that were read"
           " before are kept; the log says why.", lambda p: int(p.problem is not None)),
)  # fmt: skip

# {worker}, only where there are several
WORKERS: tuple[Metric[WorkerSnapshot], ...] = (
    Metric("kdaemon_worker_up", "1: the worker takes records.", lambda w: int(w.is_serving)),
    Metric("kdaemon_worker_restarts_total",
           "Times that the worker ended without being told to, and was started again.",
           lambda w: w.restarts),
    Metric("kdaemon_worker_connections", "Client connections that the worker has.",
           lambda w: w.connections),
    Metric("kdaemon_worker_connections_handed_total",
           "Client connections that the supervisor gave to the worker.", lambda w: w.handed),
)  # fmt: skip

TABLE: tuple[Metric[Any], ...] = (
    *ACCOUNTS, *DELIVERY, *STREAM, *HOT, *SHARD, *LISTENER, *CREDENTIALS, *TLS, *PASSED_ON,
    *CONFIG, *READINESS, *MEMORY, *LOOP, *SPOOL, *LOG, *AUTH, *WORKERS,
)  # fmt: skip


def of_daemon(snapshot: Snapshot) -> list[tuple[tuple[Metric[Any], ...], Any]]:
    """The sections that have one subject without a label, each with it; without those that this
    daemon does not have.
    """
    sections: tuple[tuple[tuple[Metric[Any], ...], Any], ...] = (
        (READINESS, snapshot.why_not_ready is None),
        (MEMORY, snapshot.memory),
        (LOOP, snapshot.loop_lag),
        (TLS, snapshot.certificates),
        (SPOOL, snapshot.spool),
        (LOG, snapshot.log),
        (AUTH, snapshot.principals),
        (CONFIG, snapshot.reloads),
    )
    return [(section, subject) for section, subject in sections if subject is not None]
