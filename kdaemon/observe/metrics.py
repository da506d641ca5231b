"""The exposition: writes a snapshot for Prometheus, as the table of metrics says, in slices.

About: the counts of the rooms, as text. Knows the table (table.py) and the formats that Prometheus
reads; must not count, and keeps no value between two scrapes. All values of a scrape are of one
snapshot, which is read first; snapshot.py says which sums hold in it.
Cost (one core, 2026-11-28): see STEP_SAMPLES. A sample takes 8 us as text, 12 us as OpenMetrics.
Flow: snapshot.py -> here -> slices.py -> Prometheus.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from io import BytesIO
from itertools import accumulate
from typing import Any, NamedTuple

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

from kdaemon.base.counters import Buckets
from kdaemon.base.text import printable
from kdaemon.engine.snapshot import ShardSnapshot
from kdaemon.observe.reading import Reader
from kdaemon.observe.slices import Page, Steps
from kdaemon.observe.snapshot import HOT_SHARDS_MAX, Snapshot
from kdaemon.observe.table import (
    ACCOUNTS,
    CONFIG,
    CREDENTIALS,
    DELIVERY,
    HOT,
    LISTENER,
    LOG,
    LOOP,
    PASSED_ON,
    READINESS,
    SHARD,
    STREAM,
    TLS,
    WORKERS,
    Kind,
    Metric,
    Reading,
    of_daemon,
)

OPENMETRICS = "application/openmetrics-text"

CLOSED = "(closed)"
"""The label of the counts of closed streams, so that sums over all streams never fall. No stream
can have this name.
"""

STEP_SAMPLES = 100  # samples written in one step: about a millisecond; ours, 2026-11-28
STEP_SHARDS = 250  # shards whose labels are made in one step: half a millisecond; ours, 2026-11-28

_Labels = tuple[str, ...]
_Row = tuple[_Labels, Reading]
_Subject = tuple[_Labels, Any]


class Metrics:
    """Writes the table, and what prometheus_client knows of the process and of Python."""

    def __init__(
        self,
        reader: Reader,
        *,
        per_shard: bool = False,
        workers: "Callable[[], Workers] | None" = None,
    ) -> None:
        """`workers`: for a supervisor: each worker's own snapshot, once its reader has read
        them.
        """
        self._reader = reader
        self._workers = workers
        self.per_shard = per_shard
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)

    def openmetrics(self) -> Steps:
        """Makes a scrape as OpenMetrics 1.0.0."""
        return self._write(_OPENMETRICS)

    def plain(self) -> Steps:
        """Makes a scrape as text 0.0.4."""
        return self._write(_PLAIN)

    def _write(self, form: "_Form") -> Steps:
        per_shard = self.per_shard
        snapshot = yield from self._reader.read(None if per_shard else HOT_SHARDS_MAX)
        page = BytesIO()  # joining 50 MB at the end would take 50 ms
        info = InfoMetricFamily("kdaemon_build", "This program.", {"version": snapshot.version})
        page.write(form.family(info))
        page.write(form.family(_upstreams(snapshot)))
        if self._workers is None:
            sections = yield from _sections(snapshot, per_shard=per_shard)
        else:
            sections = yield from _of_workers(snapshot, self._workers(), per_shard=per_shard)
        sections.reverse()
        pids = [(str(each.number), each.pid) for each in snapshot.workers if each.pid]
        del snapshot  # its parts are freed as they are written: freeing all at once takes long
        while sections:
            section = sections.pop()
            yield
            last = section.metrics[-1]
            for metric in section.metrics:
                some = section.in_steps(metric, is_last=metric is last)
                for index, rows in enumerate(some):
                    text = form.family(_family(metric, section.label_names, rows))
                    page.write(_without_head(text) if index else text)
                    yield
        for family in _processes(self._process, pids):
            page.write(form.family(family))
        page.write(form.end)
        return Page(200, page.getvalue(), form.content_type.encode())


@dataclass(frozen=True, slots=True)
class Workers:
    """`own`: the supervisor's snapshot. `parts`: of each worker that answered, with its number."""

    own: Snapshot
    parts: list[tuple[str, Snapshot]]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Section:
    """Metrics of one kind of subject, and the subjects."""

    metrics: tuple[Metric[Any], ...]
    label_names: tuple[str, ...]
    subjects: list[_Subject]

    def in_steps(self, metric: Metric[Any], *, is_last: bool) -> Iterator[Sequence[_Row]]:
        """The metric's rows in parts: at least one part, which may be empty. `is_last`: the
        subjects are not needed any more, and are freed.
        """
        subjects, read = self.subjects, metric.read
        if not subjects:
            yield ()
            return
        length = max(1, STEP_SAMPLES // _width(read(subjects[0][1])))
        if is_last:
            subjects.reverse()
            while subjects:
                yield [(labels, read(each)) for labels, each in reversed(subjects[-length:])]
                del subjects[-length:]
            return
        for at in range(0, len(subjects), length):
            yield [(labels, read(each)) for labels, each in subjects[at : at + length]]


def _sections(snapshot: Snapshot, *, per_shard: bool) -> Generator[None, None, list[_Section]]:
    """The sections in the order of the page. A step is a stream, or a part of its shards."""
    counted: list[_Subject] = []
    engines: list[_Subject] = []
    hot: list[_Subject] = []
    shards: list[_Subject] = []
    for stream in snapshot.streams:
        labels, engine = (stream.called.upstream, printable(stream.called.name)), stream.engine
        counted.append((labels, engine.counters))
        engines.append((labels, engine))
        hot += [(_of_shard(labels, shard), shard) for shard in stream.hottest()]
        if per_shard:
            for some in _parts(engine.shards.shards, STEP_SHARDS):
                shards += [(_of_shard(labels, shard), shard) for shard in some]
                yield
        yield
    counted += [
        ((each.name, CLOSED), each.closed)
        for each in snapshot.upstreams
        if each.closed.received or each.closed.recovered
    ]
    of_stream, of_shard = ("upstream", "stream"), ("upstream", "stream", "shard_id")
    listeners = [((name,), each) for name, each in snapshot.listeners.items()]
    sections = [
        _Section(ACCOUNTS, of_stream, [(("", ""), snapshot.door), *counted]),
        _Section(DELIVERY, of_stream, counted),
        _Section(STREAM, of_stream, engines),
        _Section(HOT, of_shard, hot),
        *([_Section(SHARD, of_shard, shards)] if per_shard else ()),
        _Section(LISTENER, ("listener",), list(listeners)),
        *(_Section(rows, (), [((), of)]) for rows, of in of_daemon(snapshot)),
        _Section(CREDENTIALS, ("upstream",), _credential_ends(snapshot)),
    ]
    relays = [(each.name, each.relay) for each in snapshot.upstreams if each.relay is not None]
    if relays:
        operations: list[_Subject] = [
            ((upstream, operation), counters)
            for upstream, relay in relays
            for operation, counters in relay.counters.items()
        ]
        sections.append(_Section(PASSED_ON, ("upstream", "operation"), operations))
    return sections


def _of_workers(
    merged: Snapshot, workers: Workers, *, per_shard: bool
) -> Generator[None, None, list[_Section]]:
    """Sections in which a label names the worker of each row; the supervisor's own rows have "",
    which is the same as no label. Workers are not summed: such a sum would fall when a worker ends,
    and Prometheus would take the rest of it for newly counted.
    """
    found: dict[int, _Section] = {}
    own = yield from _sections(workers.own, per_shard=False)
    of_each = [("", [each for each in own if each.metrics in _OF_SUPERVISOR])]
    for word, snapshot in workers.parts:
        theirs = yield from _sections(snapshot, per_shard=per_shard)
        of_each.append((word, [each for each in theirs if each.metrics is not CONFIG]))
    for word, sections in of_each:
        for each in sections:
            names = ("worker", *each.label_names)
            into = found.setdefault(id(each.metrics), _Section(each.metrics, names, []))
            into.subjects.extend(((word, *labels), subject) for labels, subject in each.subjects)
            yield
    sections = list(found.values())
    rows: list[_Subject] = [((str(each.number),), each) for each in merged.workers]
    sections.append(_Section(WORKERS, ("worker",), rows))
    if merged.reloads is not None:
        sections.append(_Section(CONFIG, (), [((), merged.reloads)]))
    return sections


_OF_SUPERVISOR = (LISTENER, READINESS, LOOP, LOG, TLS)


def _processes(own: CollectorRegistry, pids: Iterable[tuple[str, int]]) -> Iterable[Family]:
    """What the system and Python know of this process, and of the workers' processes by a label."""
    families = {family.name: family for family in own.collect()}
    for word, pid in pids:
        collector = ProcessCollector(pid=partial(str, pid), registry=None)
        for family in collector.collect():
            into = families.get(family.name)
            if into is not None:
                into.samples += [
                    sample._replace(labels={"worker": word, **sample.labels})
                    for sample in family.samples
                ]
    return families.values()


def _credential_ends(snapshot: Snapshot) -> list[_Subject]:
    """When credentials end, of the upstreams whose credentials end."""
    ends = ((each.name, each.credentials_end_s) for each in snapshot.upstreams)
    return [((name,), end_s) for name, end_s in ends if end_s is not None]


def _upstreams(snapshot: Snapshot) -> Family:
    """A row for each upstream: where records go. Other metrics name the upstream by its label."""
    names = ("upstream", "service", "region", "account")
    family = InfoMetricFamily("kdaemon_upstream", "Where records go.", labels=names)
    for each in snapshot.upstreams:
        family.add_metric((each.name, each.service, each.region, each.account), {})
    return family


class _Form(NamedTuple):
    """A format of the exposition. `end` is its last line, which prometheus_client writes each
    time.
    """

    content_type: str
    generate: Callable[[Any], bytes]
    end: bytes

    def family(self, family: Family) -> bytes:
        return self.generate(_One(family)).removesuffix(self.end)


_PLAIN = _Form(plain.CONTENT_TYPE_PLAIN_0_0_4, plain.generate_latest, b"")
_OPENMETRICS = _Form(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n")


@dataclass(frozen=True, slots=True)
class _One:
    """A registry of one family, for prometheus_client's encoders."""

    family: Family

    def collect(self) -> list[Family]:
        return [self.family]


def accepts_openmetrics(accept: str) -> bool:
    """Whether an `Accept` header asks for OpenMetrics 1.0.0; if not, text 0.0.4 is written. There
    is no third format: the version in a header is the client's text, and neither an answer nor a
    table of answers should grow with it.

    prometheus_client decides; a version that is no number is not for OpenMetrics.
    """
    try:
        _, content_type = plain.choose_encoder(accept)
    except TypeError:  # prometheus_client compares `version=x.y` with (1, 0, 0)
        return False
    return content_type.startswith(OPENMETRICS)


def _of_shard(labels: _Labels, shard: ShardSnapshot) -> _Labels:
    return (*labels, printable(shard.shard_id or ""))


def _parts(whole: Sequence[ShardSnapshot], length: int) -> Iterable[Sequence[ShardSnapshot]]:
    return (whole[at : at + length] for at in range(0, len(whole), length))


def _width(reading: Reading) -> int:
    """How many samples a row has."""
    if isinstance(reading, Buckets):
        return len(reading.counts) + 2
    return max(1, len(reading)) if isinstance(reading, Mapping) else 1


def _without_head(text: bytes) -> bytes:
    """The samples alone, for a family whose head is already written."""
    while text.startswith(b"#"):
        text = text[text.index(b"\n") + 1 :]
    return text


def _family(metric: Metric[Any], label_names: tuple[str, ...], rows: Iterable[_Row]) -> Family:
    """A metric of some subjects. `rows`: values for `label_names`, and the reading."""
    per = metric.per
    unit = metric.name.removesuffix("_total").rpartition("_")[2]
    unit = unit if unit in {"seconds", "bytes"} else ""
    if metric.kind is Kind.HISTOGRAM:
        histogram_family = HistogramMetricFamily(
            metric.name, metric.text, labels=label_names, unit=unit
        )
        for labels, read in rows:
            assert isinstance(read, Buckets), metric.name
            buckets = list(zip(_edges(read.bounds, per), accumulate(read.counts), strict=True))
            histogram_family.add_metric(labels, buckets, read.sum / per)
        return histogram_family
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    names = (*label_names, metric.label) if metric.label else label_names
    family = make(metric.name, metric.text, labels=names, unit=unit)
    for labels, read in rows:
        assert not isinstance(read, Buckets), metric.name
        if isinstance(read, Mapping):
            for key, value in read.items():
                word = key.value if isinstance(key, Enum) else key
                family.add_metric((*labels, word), value)
        else:
            family.add_metric(labels, read if per == 1 else read / per)
    return family


@cache
def _edges(bounds: tuple[int, ...], per: int) -> tuple[str, ...]:
    """Upper bounds as the formats write them. The cache has an entry for each layout of buckets."""
    return (*(repr(bound / per) for bound in bounds), "+Inf")
