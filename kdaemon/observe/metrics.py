"""The collector: reads the table of metrics whole at a scrape, and writes it for Prometheus.

About: one pass over what the rooms have counted. Knows the table (table.py) and the forms that
Prometheus reads; must not count, touches nothing while records move, and keeps no value between two
scrapes.
Invariant: `collect` reads everything in one synchronous pass in the loop's thread, each engine
once, and looking changes nothing, so that at every scrape, for each stream and for all,

    received = sum(rejected) + delivered + sum(dead) + buffered + in_flight

Cost, all of it on the loop: 0.5 ms, and for each stream (130 samples) 0.5 ms as text or 1 ms as
OpenMetrics (one core, 2026-11-21). A shard adds 1 to 5 us, and if asked for 9 samples.
Flow: counters of the rooms -> here -> admin.py -> Prometheus.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from itertools import accumulate
from typing import Protocol

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
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Clock
from kdaemon.engine import Engine
from kdaemon.http.hub import HttpCounters
from kdaemon.observe.table import (
    ACCOUNTS,
    DELIVERY,
    HOT,
    HOT_SHARDS_MAX,
    LISTENER,
    MEMORY,
    SHARD,
    SPOOL,
    STREAM,
    TABLE,
    Kind,
    Metric,
    ShardNow,
    StreamNow,
    Subject,
)
from kdaemon.spool.spool import Spool

OPENMETRICS = "application/openmetrics-text"


class Observed(Protocol):
    """The streams in use, as `streams.py` keeps them."""

    @property
    def memory(self) -> ByteBudget:
        """The budget that all streams share."""
        ...

    @property
    def door(self) -> StreamCounters:
        """Records that were refused before their stream was known."""
        ...

    def engines(self) -> Iterable[tuple[str, Engine]]:
        """Every stream once: its name, unique, and its engine."""
        ...


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
        observed, now_ns = self._observed, self._clock.now_ns()
        streams = [
            ((name,), StreamNow(engine, engine.heat(now_ns))) for name, engine in observed.engines()
        ]
        counters = [(labels, stream.engine.counters) for labels, stream in streams]
        listeners = [((name,), counters) for name, counters in self._listeners.items()]
        hot = [
            ((*labels, shard.lane.shard_id or ""), shard)
            for labels, stream in streams
            for shard in stream.heat.hottest(HOT_SHARDS_MAX)
        ]
        families = [
            InfoMetricFamily("kdaemon_build", "This program.", {"version": self._version}),
            *_section(ACCOUNTS, ("stream",), [(("",), observed.door), *counters]),
            *_section(DELIVERY, ("stream",), counters),
            *_section(STREAM, ("stream",), streams),
            *_section(HOT, ("stream", "shard_id"), hot),
            *_section(LISTENER, ("listener",), listeners),
            *_section(MEMORY, (), [((), observed.memory)]),
        ]
        if self._spool is not None:
            families += _section(SPOOL, (), [((), self._spool)])
        if self._per_shard:
            shards = [
                ((*labels, shard.lane.shard_id or ""), ShardNow(shard, now_ns))
                for labels, stream in streams
                for shard in stream.heat.shards
            ]
            families += _section(SHARD, ("stream", "shard_id"), shards)
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
