"""The metrics: one table of names, and the collector that reads it whole at a scrape.

About: what is called how, what its labels are, and which plain integer it is read from. The rooms
count in integers of their own (`base/counters.py`, `ingest/http_hub.py`); nothing here is touched
while records move. Knows how to read; must not count, and keeps no value between two scrapes.
Invariant: `collect` reads everything in one synchronous pass in the loop's thread, so that at every
scrape, for each stream and for all,

    received = sum(rejected) + delivered + sum(dead) + buffered + in_flight

Cardinality: labels are enums, listeners and streams (`streams_max` bounds them); shards are opt-in.
A partition key is never a label. Cost, all of it on the loop: 0.5 ms, and for each stream (130
samples) 0.5 ms as text or 1 ms as OpenMetrics (one core, 2026-11-21). A shard adds 4 samples.
Flow: counters of the rooms -> here -> admin.py -> Prometheus.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import exposition as plain
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

from kdaemon.base.counters import StreamCounters
from kdaemon.base.histogram import Histogram
from kdaemon.base.memory import MemoryBudget
from kdaemon.base.ports import Clock
from kdaemon.engine import Engine
from kdaemon.ingest.http_hub import HttpCounters
from kdaemon.pack.lane import Lane
from kdaemon.spool.spool import Spool

NS = 1_000_000_000  # nanoseconds in a second

OPENMETRICS = "application/openmetrics-text"


class Observed(Protocol):
    """The streams in use, as `send/streams.py` keeps them."""

    @property
    def memory(self) -> MemoryBudget:
        """The budget that all streams share."""
        ...

    @property
    def door(self) -> StreamCounters:
        """Records that were refused before their stream was known."""
        ...

    def engines(self) -> Iterable[tuple[str, Engine]]:
        """Every stream once: its name, unique, and its engine."""
        ...


@dataclass(frozen=True, slots=True)
class ShardNow:
    """One shard's lane at the time of the scrape."""

    lane: Lane
    now_ns: int


class Kind(Enum):
    COUNTER = "counter"  # only grows; the name ends with `_total`
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Subject = TypeVar("Subject")
Reading = int | Mapping[Any, int] | Histogram  # of a mapping, keys are enums or words


@dataclass(frozen=True, slots=True)
class Metric(Generic[Subject]):
    """One row of the table.

    `read` gives a number; with a `label`, a number for each value of that label (all of them, so
    that each starts at 0); for a histogram, the histogram. `per`: what one unit of the name is in
    units of the reading (a second in nanoseconds).
    """

    name: str
    kind: Kind
    text: str
    read: Callable[[Subject], Reading]
    label: str = ""
    per: int = 1


def _tokens(shard: ShardNow) -> dict[str, int]:
    """Refilling first only writes down what time has given already; nothing is taken."""
    budget = shard.lane.budget
    budget.refill(shard.now_ns)
    return {"records": budget.records.available, "bytes": budget.bytes.available}


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

# The table, in sections by what is read. Labels of the section first, then the row's own.

# {stream}; the stream "" is the door: refused before its stream was known.
ACCOUNTS: tuple[Metric[StreamCounters], ...] = (
    Metric("kdaemon_records_received_total", _C, "Records that clients sent.",
           lambda c: c.received),
    Metric("kdaemon_received_bytes_total", _C, "Data and partition keys of received records.",
           lambda c: c.received_bytes),
    Metric("kdaemon_records_accepted_total", _C, "Records taken in, to be delivered.",
           lambda c: c.accepted),
    Metric("kdaemon_accepted_bytes_total", _C, "Data and partition keys of accepted records.",
           lambda c: c.accepted_bytes),
    Metric("kdaemon_records_rejected_total", _C,
           "Records whose client was told no: at the door, or at its deadline.",
           lambda c: c.rejected, label="reason"),
    Metric("kdaemon_records_delivered_total", _C, "Records that the service has.",
           lambda c: c.delivered),
    Metric("kdaemon_delivered_bytes_total", _C, "Data and partition keys of delivered records.",
           lambda c: c.delivered_bytes),
    Metric("kdaemon_records_dead_total", _C, "Records given up for good.",
           lambda c: c.dead, label="reason"),
    Metric("kdaemon_records_dropped_total", _C,
           "Records that were acknowledged and are gone, and are no dead letters either.",
           lambda c: c.dropped, label="reason"),
    Metric("kdaemon_records_recovered_total", _C, "Records found in the spool at start.",
           lambda c: c.recovered),
    Metric("kdaemon_records_settled_before_total", _C,
           "Recovered records that an earlier process is known to have delivered or buried.",
           lambda c: c.settled_before),
    Metric("kdaemon_records_spooled", _G,
           "Records on disk, or on their way there, and in no queue yet.",
           lambda c: c.spooled),
    Metric("kdaemon_records_buffered", _G, "Records queued for a PutRecords call.",
           lambda c: c.buffered),
    Metric("kdaemon_records_in_flight", _G, "Records in PutRecords calls without an answer yet.",
           lambda c: c.in_flight),
    Metric("kdaemon_records_unaccounted", _G,
           "Records that are nowhere: received + recovered - rejected - delivered - dead - dropped"
           " - settled before - spooled - buffered - in flight. Anything but 0 is a defect.",
           StreamCounters.unaccounted),
)  # fmt: skip

# {stream}
DELIVERY: tuple[Metric[StreamCounters], ...] = (
    Metric("kdaemon_records_attempts_total", _C, "Records in PutRecords calls that went out.",
           lambda c: c.attempts),
    Metric("kdaemon_records_retries_total", _C, "Records queued to be sent again.",
           lambda c: c.retries, label="reason"),
    Metric("kdaemon_record_failures_total", _C,
           "Records that failed inside an answered call, by the service's code.",
           lambda c: c.failures, label="code"),
    Metric("kdaemon_records_throttled_total", _C,
           "Records that the service refused for its rate, alone or with their call.",
           lambda c: c.throttled),
    Metric("kdaemon_records_possible_duplicates_total", _C,
           "Records that may be in the stream twice: sent again, or told as failed, while the"
           " outcome of a call was unknown.",
           lambda c: c.possible_duplicates),
    Metric("kdaemon_put_records_calls_total", _C, "PutRecords calls that ended.",
           lambda c: c.calls, label="outcome"),
    Metric("kdaemon_put_records_in_flight", _G, "PutRecords calls without an answer yet.",
           lambda c: c.in_flight_calls),
    Metric("kdaemon_put_records_duration_seconds", _H, "From a call's start to its end.",
           lambda c: c.call_duration_ns, per=NS),
    Metric("kdaemon_put_records_batch_records", _H, "Records in one call.",
           lambda c: c.batch_records),
    Metric("kdaemon_put_records_batch_bytes", _H, "Data and partition keys in one call.",
           lambda c: c.batch_bytes),
    Metric("kdaemon_delivery_seconds", _H, "From a record's acceptance to its delivery.",
           lambda c: c.delivery_ns, per=NS),
    Metric("kdaemon_shard_map_refreshes_total", _C, "Answers to the question for the shards.",
           lambda c: c.map_refreshes),
    Metric("kdaemon_shard_map_mismatches_total", _C,
           "Runs of records that landed on another shard than predicted: the map was stale.",
           lambda c: c.map_mismatches),
)  # fmt: skip

# {stream}
STREAM: tuple[Metric[Engine], ...] = (
    Metric("kdaemon_shards", _G, "Open shards, as far as known; 0: nothing is known.",
           lambda e: e.shard_count),
    Metric("kdaemon_stream_held_bytes", _G, "Memory that the stream's unsettled records hold.",
           lambda e: e.ledger.held_bytes),
    Metric("kdaemon_stream_on_hold", _G,
           "1: nothing can be sent until somebody acts (credentials, access, a missing stream);"
           " /statusz says why.",
           lambda e: int(e.hold is not None)),
)  # fmt: skip

# {stream, shard}, only where asked for; the shard "" is a lane of the whole stream: no map.
SHARD: tuple[Metric[ShardNow], ...] = (
    Metric("kdaemon_shard_records_buffered", _G,
           "Records queued for this shard, but for those that are being bisected.",
           lambda s: s.lane.queued_records),
    Metric("kdaemon_shard_backoff_seconds", _G, "Time until the shard's backoff ends; 0: none.",
           lambda s: max(0, s.lane.blocked_until_ns - s.now_ns), per=NS),
    Metric("kdaemon_shard_tokens", _G,
           "What the shard could be sent at once; below 0: the debt of a large record.",
           _tokens, label="kind"),
)  # fmt: skip

# {listener}
LISTENER: tuple[Metric[HttpCounters], ...] = (
    Metric("kdaemon_client_connections", _G, "Open client connections.", lambda h: h.open),
    Metric("kdaemon_client_connections_opened_total", _C, "Client connections taken.",
           lambda h: h.opened),
    Metric("kdaemon_client_connections_refused_total", _C,
           "Client connections refused, or ended for what they sent.",
           lambda h: h.refused, label="reason"),
    Metric("kdaemon_client_timeouts_total", _C,
           "Client connections cut off because a part took too long.",
           lambda h: h.timed_out, label="part"),
    Metric("kdaemon_client_handler_failures_total", _C,
           "Requests that kdaemon failed to handle: a defect of kdaemon, and its log says which.",
           lambda h: h.handler_failures),
)  # fmt: skip

# no label
MEMORY: tuple[Metric[MemoryBudget], ...] = (
    Metric("kdaemon_memory_held_bytes", _G, "Memory that unsettled records of all streams hold.",
           lambda m: m.bytes_taken),
    Metric("kdaemon_memory_bytes_max", _G, "Bound of kdaemon_memory_held_bytes.",
           lambda m: m.bytes_max),
)  # fmt: skip

# no label, only where there is a spool
SPOOL: tuple[Metric[Spool], ...] = (
    Metric("kdaemon_spool_bytes", _G, "Pages of the spool's database that hold something.",
           lambda s: s.counters.live_bytes),
    Metric("kdaemon_spool_file_bytes", _G, "What the spool's files take on disk.",
           lambda s: s.counters.file_bytes),
    Metric("kdaemon_spool_bytes_max", _G, "Bound of kdaemon_spool_bytes.",
           lambda s: s.bytes_max),
    Metric("kdaemon_spool_frames", _G, "Frames on disk: requests, or blocks of lines.",
           lambda s: s.frame_count),
    Metric("kdaemon_spool_oldest_timestamp_seconds", _G,
           "When the oldest frame in hand was accepted, since 1970; 0: there is none.",
           lambda s: s.oldest_ms, per=1_000),
    Metric("kdaemon_spool_in_trouble", _G,
           "1: the disk takes no frames; /readyz says why. `stored` is refused meanwhile.",
           lambda s: int(s.trouble is not None)),
    Metric("kdaemon_spool_commit_duration_seconds", _H, "From a commit's start to its end.",
           lambda s: s.counters.commit_duration_ns, per=NS),
    Metric("kdaemon_spool_commit_frames", _H, "New frames in one commit.",
           lambda s: s.counters.commit_frames),
    Metric("kdaemon_spool_commit_failures_total", _C, "Commits that the disk did not take.",
           lambda s: s.counters.commit_failures),
    Metric("kdaemon_spool_corrupt_frames_total", _C, "Damaged frames, now in quarantine.",
           lambda s: s.corrupt_rows),
    Metric("kdaemon_dead_letters_dropped_total", _C,
           "Dead letters that made room for newer ones (spool.letters_bytes_max).",
           lambda s: s.counters.letters_dropped),
)  # fmt: skip

TABLE: tuple[Metric[Any], ...] = (
    *ACCOUNTS, *DELIVERY, *STREAM, *SHARD, *LISTENER, *MEMORY, *SPOOL,
)  # fmt: skip


class Metrics:
    """Exposes the table, and what prometheus_client tells of the process and of Python.

    `listeners`: counters by listener name (`http`, `unix`, `admin`), read anew at each scrape.
    """

    def __init__(
        self,
        observed: Observed,
        listeners: Mapping[str, HttpCounters],
        clock: Clock,
        version: str,
        *,
        per_shard: bool = False,
        spool: Spool | None = None,
    ) -> None:
        self._observed = observed
        self._spool = spool
        self._listeners = listeners
        self._clock = clock
        self._version = version
        self._per_shard = per_shard
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def describe(self) -> Iterable[Family]:
        """For the registry, which refuses two metrics of one name. No sample yet."""
        return [_family(metric, (), ()) for metric in TABLE]

    def collect(self) -> list[Family]:
        """All families, read in one pass. Call it in the loop's thread only."""
        observed = self._observed
        engines = [((name,), engine) for name, engine in observed.engines()]
        counters = [(labels, engine.counters) for labels, engine in engines]
        listeners = [((name,), counters) for name, counters in self._listeners.items()]
        families = [
            InfoMetricFamily("kdaemon_build", "This program.", {"version": self._version}),
            *_section(ACCOUNTS, ("stream",), [(("",), observed.door), *counters]),
            *_section(DELIVERY, ("stream",), counters),
            *_section(STREAM, ("stream",), engines),
            *_section(LISTENER, ("listener",), listeners),
            *_section(MEMORY, (), [((), observed.memory)]),
        ]
        if self._spool is not None:
            families += _section(SPOOL, (), [((), self._spool)])
        if self._per_shard:
            now_ns = self._clock.now_ns()
            shards = [
                ((*labels, lane.shard_id or ""), ShardNow(lane, now_ns))
                for labels, engine in engines
                for lane in engine.lanes
            ]
            families += _section(SHARD, ("stream", "shard"), shards)
        return families

    def render(self, accept: str) -> tuple[bytes, str]:
        """A scrape: (body, content type), in the form that the `Accept` header asks for.

        OpenMetrics 1.0.0 or text 0.0.4, nothing else: the version in a header is the client's word,
        and neither an answer nor a table of answers should grow with it.
        """
        if _accepts_openmetrics(accept):
            body: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return plain.generate_latest(self._registry), plain.CONTENT_TYPE_PLAIN_0_0_4


def _accepts_openmetrics(accept: str) -> bool:
    """prometheus_client's judgement; a version that is no number counts as none of ours."""
    try:
        _, content_type = plain.choose_encoder(accept)
    except TypeError:  # it compares `version=x.y` with (1, 0, 0)
        return False
    return content_type.startswith(OPENMETRICS)


def _section(
    metrics: Iterable[Metric[Subject]],
    label_names: tuple[str, ...],
    subjects: Sequence[tuple[tuple[str, ...], Subject]],
) -> list[Family]:
    return [_family(metric, label_names, subjects) for metric in metrics]


def _family(
    metric: Metric[Subject],
    label_names: tuple[str, ...],
    subjects: Iterable[tuple[tuple[str, ...], Subject]],
) -> Family:
    """One metric of all its subjects. `subjects`: values for `label_names`, and whom to read."""
    per, read = metric.per, metric.read
    unit = metric.name.removesuffix("_total").rpartition("_")[2]
    unit = unit if unit in {"seconds", "bytes"} else ""
    if metric.kind is Kind.HISTOGRAM:
        histogram_family = HistogramMetricFamily(
            metric.name, metric.text, labels=label_names, unit=unit
        )
        for labels, subject in subjects:
            histogram = read(subject)
            assert isinstance(histogram, Histogram), metric.name
            counts = accumulate(histogram.counts)
            buckets = list(zip(_edges(histogram.bounds, per), counts, strict=True))
            histogram_family.add_metric(labels, buckets, histogram.sum / per)
        return histogram_family
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    names = (*label_names, metric.label) if metric.label else label_names
    family = make(metric.name, metric.text, labels=names, unit=unit)
    for labels, subject in subjects:
        reading = read(subject)
        if isinstance(reading, Mapping):
            for key, value in reading.items():
                word = key.value if isinstance(key, Enum) else key
                family.add_metric((*labels, word), value)
        else:
            assert not isinstance(reading, Histogram), metric.name
            family.add_metric(labels, reading if per == 1 else reading / per)
    return family


@cache
def _edges(bounds: tuple[int, ...], per: int) -> tuple[str, ...]:
    """Upper bounds as the formats write them. As many entries as there are histogram layouts."""
    return (*(repr(bound / per) for bound in bounds), "+Inf")
