"""The collector: reads the table of metrics at a scrape, and writes it for Prometheus, in slices.

About: what the rooms have counted, as text. Knows the table (table.py) and the forms that
Prometheus reads; must not count, touches nothing while records move, and keeps no value between two
scrapes.
Invariant: which streams there are, and what the door and closed streams have counted, is read in
the first step, and all that a stream has counted in one synchronous pass; looking changes nothing.
So at every scrape, for each stream and for all,

    received = sum(rejected) + delivered + sum(dead) + buffered + in_flight

though a stream be closed or opened meanwhile. Some streams are read a step. How far each shard is
behind is looked at after that, a stream or some of its shards a step, because it takes a walk over
all of them; then the text is made, some samples a step.
Cost (one core, 2026-11-28): see STEP_SAMPLES. A stream's pass is 15 us; a look 30 us for 64 idle
shards, 0.3 ms for 64 that are behind; a sample 8 us as text or 12 as OpenMetrics.
Flow: counters of the rooms -> here -> slices.py -> Prometheus.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from io import BytesIO
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
from kdaemon.base.names import parse_qualified
from kdaemon.base.ports import Clock
from kdaemon.base.service import Service
from kdaemon.base.text import printable
from kdaemon.door.principals import Principals
from kdaemon.engine import Engine
from kdaemon.engine.heat import ShardHeat
from kdaemon.http.hub import HttpCounters
from kdaemon.http.renewal import Certificates
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.slices import Page, Steps
from kdaemon.observe.table import (
    ACCOUNTS,
    AUTH,
    CONFIG,
    DELIVERY,
    HOT,
    HOT_SHARDS_MAX,
    LISTENER,
    LOG,
    LOOP,
    MEMORY,
    PASSED_ON,
    SHARD,
    SPOOL,
    STREAM,
    TLS,
    Kind,
    Metric,
    Reading,
    ShardNow,
    StreamNow,
    Subject,
)
from kdaemon.send.relay import Relay

if TYPE_CHECKING:
    from kdaemon.spool.spool import Spool

OPENMETRICS = "application/openmetrics-text"

CLOSED = "(closed)"
"""The label of what closed streams have counted, so that sums over all streams never fall. No
stream can have this name.
"""

OF_STREAM = ("upstream", "stream")  # labels
NO_RELAYS: Mapping[str, Relay] = MappingProxyType({})


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
    def closed(self) -> StreamCounters:
        """What its streams have counted that are closed now."""
        ...


class Observed(Protocol):
    """The streams in use, as `streams.py` keeps them."""

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

    def engines(self) -> Iterable[tuple[str, Engine]]:
        """Every stream once: its name, unique (`Qualified.text`), and its engine."""
        ...


T = TypeVar("T")

STEP_SAMPLES = 100  # written in one step: about a millisecond; ours, 2026-11-28
STEP_STREAMS = 50  # read in one step: about a millisecond; ours, 2026-11-28
STEP_SHARDS = 25  # likewise, where each shard has metrics of its own


@dataclass(frozen=True, slots=True)
class _Buckets:
    """What a histogram was at the time of the pass. `counts`: cumulative."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    sum: int


_Labels = tuple[str, ...]
_Read = float | Mapping[Any, float] | _Buckets  # as table.Reading, but it does not change any more
_Row = tuple[_Labels, _Read]


@dataclass(frozen=True, slots=True)
class _Section:
    """Metrics of one kind of subject, read: for each metric, its rows."""

    metrics: tuple[Metric[Any], ...]
    label_names: tuple[str, ...]
    rows: list[list[_Row]]


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
        spool: "Spool | None" = None,
        log_queue: LogQueue | None = None,
        relays: Mapping[str, Relay] = NO_RELAYS,
        principals: Principals | None = None,
        certificates: Certificates | None = None,
        reloads: Reloads | None = None,
    ) -> None:
        self._observed = observed
        self._principals = principals
        self._certificates = certificates
        self._reloads = reloads
        self._spool = spool
        self._log_queue = log_queue
        self._relays = relays
        self._listeners = listeners
        self._clock = clock
        self._version = version
        self._per_shard = per_shard
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)

    def openmetrics(self) -> Steps:
        """A scrape as OpenMetrics 1.0.0."""
        return self._write(_OpenMetrics())

    def plain(self) -> Steps:
        """A scrape as text 0.0.4."""
        return self._write(_Plain())

    def _write(self, form: "_Form") -> Steps:
        sections, engines = yield from self._read()
        info = InfoMetricFamily("kdaemon_build", "This program.", {"version": self._version})
        page = BytesIO()  # to join 50 MB at the end would take 50 ms
        page.write(form.family(info))
        page.write(form.family(self._upstreams()))
        sections[2:2] = yield from self._look(engines)
        for section in sections:
            for metric, rows in zip(section.metrics, section.rows, strict=True):
                names = section.label_names
                for index, some in enumerate(_in_steps(rows)):
                    text = form.family(_family(metric, names, some))
                    page.write(_without_head(text) if index else text)
                    yield
        page.write(form.registry(self._process))
        page.write(form.end)
        return Page(200, page.getvalue(), form.content_type)

    def _upstreams(self) -> Family:
        """Where records go: a row for each upstream, which other metrics name by its label."""
        names = ("upstream", "service", "region", "account")
        family = InfoMetricFamily("kdaemon_upstream", "Where records go.", labels=names)
        for each in self._observed.upstreams:
            family.add_metric((each.name, each.service.name, each.region, each.account), {})
        return family

    def _read(
        self,
    ) -> Generator[None, None, tuple[list[_Section], list[tuple[_Labels, Engine]]]]:
        """All that is counted: a stream in one pass, some streams a step."""
        observed = self._observed
        engines: list[tuple[_Labels, Engine]] = [
            (_of_stream(name), engine) for name, engine in observed.engines()
        ]
        accounts = _section(ACCOUNTS, OF_STREAM, [(("", ""), observed.door)])
        delivery = _section(DELIVERY, OF_STREAM, ())
        closed = [
            ((each.name, CLOSED), each.closed)
            for each in observed.upstreams
            if each.closed.received or each.closed.recovered
        ]
        closed_sections = [_section(each, OF_STREAM, closed) for each in (ACCOUNTS, DELIVERY)]
        listeners = [((name,), counters) for name, counters in self._listeners.items()]
        sections = [
            accounts,
            delivery,
            _section(LISTENER, ("listener",), listeners),
            _section(MEMORY, (), [((), observed.memory)]),
            _section(LOOP, (), [((), observed.loop_lag)]),
        ]
        if self._relays:
            operations = [
                ((upstream, name), counted)
                for upstream, relay in self._relays.items()
                for name, counted in relay.counters.items()
            ]
            sections.append(_section(PASSED_ON, ("upstream", "operation"), operations))
        if self._reloads is not None:
            sections.append(_section(CONFIG, (), [((), self._reloads)]))
        if self._certificates is not None:
            sections.append(_section(TLS, (), [((), self._certificates)]))
        if self._spool is not None:
            sections.append(_section(SPOOL, (), [((), self._spool)]))
        if self._log_queue is not None:
            sections.append(_section(LOG, (), [((), self._log_queue)]))
        if self._principals is not None:
            sections.append(_section(AUTH, (), [((), self._principals)]))
        for some in _parts(engines, STEP_STREAMS):
            yield
            counters = [(labels, engine.counters) for labels, engine in some]
            _read_into(accounts, counters)
            _read_into(delivery, counters)
        for section, of_closed in zip((accounts, delivery), closed_sections, strict=True):
            for rows, of_metric in zip(section.rows, of_closed.rows, strict=True):
                rows.extend(of_metric)
        yield
        return sections, engines

    def _look(self, engines: list[tuple[_Labels, Engine]]) -> Generator[None, None, list[_Section]]:
        """How the streams and their shards are: a stream in a step, and more where it has many
        shards.
        """
        of_streams = _Section(STREAM, OF_STREAM, [[] for _ in STREAM])
        of_hot = _Section(HOT, (*OF_STREAM, "shard_id"), [[] for _ in HOT])
        of_shards = _Section(SHARD, (*OF_STREAM, "shard_id"), [[] for _ in SHARD])
        for labels, engine in engines:
            now_ns = self._clock.now_ns()
            heat = yield from engine.heat(now_ns)
            _read_into(of_streams, [(labels, StreamNow(engine, heat))])
            yield
            _read_into(
                of_hot,
                [(_of_shard(labels, shard), shard) for shard in heat.hottest(HOT_SHARDS_MAX)],
            )
            if self._per_shard:
                for some in _parts(heat.shards, STEP_SHARDS):
                    _read_into(
                        of_shards,
                        [(_of_shard(labels, shard), ShardNow(shard, now_ns)) for shard in some],
                    )
                    yield
            yield
        return [of_streams, of_hot, *([of_shards] if self._per_shard else [])]


class _Plain:
    content_type = plain.CONTENT_TYPE_PLAIN_0_0_4.encode()
    end = b""

    def family(self, family: Family) -> bytes:
        return self.registry(_One(family))

    def registry(self, registry: Any) -> bytes:
        return plain.generate_latest(registry)


class _OpenMetrics:
    content_type = openmetrics.CONTENT_TYPE_LATEST.encode()
    end = b"# EOF\n"

    def family(self, family: Family) -> bytes:
        return self.registry(_One(family))

    def registry(self, registry: Any) -> bytes:
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text.removesuffix(self.end)


_Form = _Plain | _OpenMetrics


@dataclass(frozen=True, slots=True)
class _One:
    """A registry of one family, for prometheus_client's encoders."""

    family: Family

    def collect(self) -> list[Family]:
        return [self.family]


def accepts_openmetrics(accept: str) -> bool:
    """Which form an `Accept` header asks for: OpenMetrics 1.0.0, or text 0.0.4. Nothing else: the
    version in a header is the client's word, and neither an answer nor a table of answers should
    grow with it.

    prometheus_client's judgement; a version that is no number counts as none of ours.
    """
    try:
        _, content_type = plain.choose_encoder(accept)
    except TypeError:  # it compares `version=x.y` with (1, 0, 0)
        return False
    return content_type.startswith(OPENMETRICS)


def _of_stream(name: str) -> _Labels:
    stream = parse_qualified(name)
    return stream.upstream, printable(stream.name)


def _of_shard(labels: _Labels, shard: ShardHeat) -> _Labels:
    return (*labels, printable(shard.lane.shard_id or ""))


def _section(
    metrics: tuple[Metric[Subject], ...],
    label_names: tuple[str, ...],
    subjects: Sequence[tuple[_Labels, Subject]],
) -> _Section:
    section = _Section(metrics, label_names, [[] for _ in metrics])
    _read_into(section, subjects)
    return section


def _read_into(section: _Section, subjects: Sequence[tuple[_Labels, Any]]) -> None:
    for metric, rows in zip(section.metrics, section.rows, strict=True):
        read = metric.read
        rows += [(labels, _still(read(subject))) for labels, subject in subjects]


def _still(reading: Reading) -> _Read:
    """What the reading is now: the rooms go on counting while the text is made."""
    if isinstance(reading, Histogram):
        return _Buckets(reading.bounds, tuple(accumulate(reading.counts)), reading.sum)
    return dict(reading) if isinstance(reading, Mapping) else reading


def _in_steps(rows: list[_Row]) -> Iterable[Sequence[_Row]]:
    """At least one, though it may have no row. Takes them out: to free all at once takes long."""
    if not rows:
        yield ()
        return
    read = rows[0][1]
    width = len(read) if isinstance(read, Mapping) else 1
    if isinstance(read, _Buckets):
        width = len(read.counts) + 2
    length = max(1, STEP_SAMPLES // max(1, width))
    while rows:
        some = rows[:length]
        del rows[:length]
        yield some


def _parts(whole: Sequence[T], length: int) -> Iterable[Sequence[T]]:
    return (whole[at : at + length] for at in range(0, len(whole), length))


def _without_head(text: bytes) -> bytes:
    """Samples alone, for a family whose head is written."""
    while text.startswith(b"#"):
        text = text[text.index(b"\n") + 1 :]
    return text


def _family(metric: Metric[Any], label_names: tuple[str, ...], rows: Iterable[_Row]) -> Family:
    """One metric of some of its subjects. `rows`: values for `label_names`, and what was read."""
    per = metric.per
    unit = metric.name.removesuffix("_total").rpartition("_")[2]
    unit = unit if unit in {"seconds", "bytes"} else ""
    if metric.kind is Kind.HISTOGRAM:
        histogram_family = HistogramMetricFamily(
            metric.name, metric.text, labels=label_names, unit=unit
        )
        for labels, read in rows:
            assert isinstance(read, _Buckets), metric.name
            buckets = list(zip(_edges(read.bounds, per), read.counts, strict=True))
            histogram_family.add_metric(labels, buckets, read.sum / per)
        return histogram_family
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    names = (*label_names, metric.label) if metric.label else label_names
    family = make(metric.name, metric.text, labels=names, unit=unit)
    for labels, read in rows:
        assert not isinstance(read, _Buckets), metric.name
        if isinstance(read, Mapping):
            for key, value in read.items():
                word = key.value if isinstance(key, Enum) else key
                family.add_metric((*labels, word), value)
        else:
            family.add_metric(labels, read if per == 1 else read / per)
    return family


@cache
def _edges(bounds: tuple[int, ...], per: int) -> tuple[str, ...]:
    """Upper bounds as the formats write them. As many entries as there are histogram layouts."""
    return (*(repr(bound / per) for bound in bounds), "+Inf")
