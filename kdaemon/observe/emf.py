"""A snapshot as lines in CloudWatch's Embedded Metric Format, for sites without Prometheus.

About: one line a stream, and one for the daemon. A line has the metrics of the table, under their
names, as members of a JSON object that CloudWatch Logs takes apart. A gauge is written as it is. Of
a counter a line says how much was added since the line before, because CloudWatch sums. Of a
histogram a line has the sum, the count and two quantiles of what was added, reckoned as Prometheus
does. A metric with values by reason or code is written as their sum; the values stand beside it, in
members that are no metrics and so cost nothing.
Knows the table and snapshots; no log, no clock and no loop. Pure, but for the values of the last
lines.
Invariant: over all lines, the sum of what was added is what the daemon has counted, even if a
stream closes or opens meanwhile: the line of CLOSED has what closed streams had not yet told.
Bound: METRICS_MAX metrics a line; the last values of each stream in use.
Cost (one core, 2026-11-28): a line 0.1 to 0.25 ms and 5 KB.
Flow: snapshot.py -> here -> emf_log.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum
from itertools import accumulate
from typing import Any

import msgspec

from kdaemon.base.counters import Buckets
from kdaemon.base.text import printable
from kdaemon.observe.metrics import CLOSED
from kdaemon.observe.snapshot import Snapshot, StreamSnapshot
from kdaemon.observe.table import (
    ACCOUNTS,
    CREDENTIALS,
    DELIVERY,
    LISTENER,
    STREAM,
    Kind,
    Metric,
    Reading,
    of_daemon,
)

METRICS_MAX = 100
"""The limit of one directive; a line has one directive here: "Specification: Embedded metric
format" of the CloudWatch User Guide, 2026-11-28."""

DOOR = "(door)"
"""The value of both labels where records were refused before their stream was known: a dimension
may not be empty."""

OF_STREAM = ("upstream", "stream")  # dimensions
QUANTILES = {"p50": 0.5, "p99": 0.99}

OF_A_SUM = frozenset({"reason", "code", "outcome", "part"})
"""Labels of the table whose values can be summed. The values of other labels (`kind`, `unit`)
become metrics of their own."""

# A section of the table, and the subject that it reads.
_Subject = tuple[tuple[Metric[Any], ...], Any]
_Labels = tuple[str, ...]
_Told = dict[str, Reading]  # by name of the metric: counters and histograms, as they stood

_encode = msgspec.json.Encoder().encode


class Emf:
    """Makes the lines. `host` and `worker` (the number of one of several workers) are members of
    each line, and no dimensions.
    """

    def __init__(self, namespace: str, host: str, worker: int | None = None) -> None:
        self._namespace = namespace
        self._of: dict[str, Any] = {"host": host}
        if worker is not None:
            self._of["worker"] = worker
        self._told: dict[_Labels, _Told] = {}  # by upstream and stream

    def lines(self, snapshot: Snapshot, unix_ms: int) -> Iterator[bytes | None]:
        """Makes the lines of a snapshot. None, like a line, means that the loop may turn. If the
        caller stops before a line, its values are in a later line.
        """
        streams = {_labels(stream): stream for stream in snapshot.streams}
        for labels in self._told.keys() - streams.keys():
            if len(labels) > 1 and labels[1] not in {CLOSED, DOOR}:
                self._leave_to_closed(labels)
                yield None
        yield self._line(unix_ms, {}, _of_daemon(snapshot))
        for upstream in snapshot.upstreams:
            if upstream.credentials_end_s is not None:
                ends: list[_Subject] = [(CREDENTIALS, upstream.credentials_end_s)]
                yield self._line(unix_ms, {"upstream": upstream.name}, ends)
        for labels, stream in streams.items():
            names = dict(zip(OF_STREAM, labels, strict=True))
            yield self._line(unix_ms, names, self._of_stream(labels, stream))
        yield from self._rest(snapshot, unix_ms)

    def _rest(self, snapshot: Snapshot, unix_ms: int) -> Iterator[bytes]:
        """Lines for the door and for closed streams, if these have counted anything since."""
        rest: list[tuple[str, str, list[_Subject]]] = [
            (DOOR, DOOR, [(ACCOUNTS, snapshot.door)]),
            *(
                (each.name, CLOSED, [(ACCOUNTS, each.closed), (DELIVERY, each.closed)])
                for each in snapshot.upstreams
            ),
        ]
        for upstream, stream, read in rest:
            told = self._told.get((upstream, stream), {})
            if any(_is_more(added) for added in _added(_growing(read), told).values()):
                yield self._line(unix_ms, {"upstream": upstream, "stream": stream}, read)

    def _leave_to_closed(self, labels: _Labels) -> None:
        """A stream was closed since its last line: the values of that line are a part of what
        CLOSED counts.
        """
        closed = (labels[0], CLOSED)
        gone = self._told.pop(labels)
        self._told[closed] = _sums(gone, self._told.get(closed, {}), 1)

    def _of_stream(self, labels: _Labels, stream: StreamSnapshot) -> list[_Subject]:
        """The subjects of a stream's line. The stream may be a new one of the same name."""
        counters = stream.engine.counters
        read: list[_Subject] = [(ACCOUNTS, counters), (DELIVERY, counters)]
        told = self._told.get(labels)
        if told is not None and _is_less(_growing(read), told):
            self._leave_to_closed(labels)
        return [*read, (STREAM, stream.engine)]

    def _line(self, unix_ms: int, labels: dict[str, str], read: Iterable[_Subject]) -> bytes:
        values: dict[str, float] = {}
        units: dict[str, str] = {}
        apart: dict[str, dict[str, float]] = {}
        key = tuple(labels.values())
        growing = _growing(read)
        added = _added(growing, self._told.get(key, {}))
        self._told[key] = growing
        for section, subject in read:
            for metric in section:
                reading = added[metric.name] if metric.name in added else metric.read(subject)
                tell_reading(metric, reading, values, units, apart)
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [list(labels)],
            "Metrics": [{"Name": name, "Unit": units[name]} for name in values],
        }
        assert len(values) <= METRICS_MAX, "the table has grown: leave metrics out"
        aws = {"Timestamp": unix_ms, "CloudWatchMetrics": [directive]}
        return _encode({"_aws": aws, **self._of, **labels, **values, **apart}) + b"\n"


def _labels(stream: StreamSnapshot) -> _Labels:
    return stream.called.upstream, printable(stream.called.name)


def _of_daemon(snapshot: Snapshot) -> list[_Subject]:
    """The subjects that are of no stream; the listeners all together."""
    read = of_daemon(snapshot)
    listeners = list(snapshot.listeners.values())
    if listeners:
        read.append((tuple(map(_summed, LISTENER)), listeners))
    return read


def _summed(metric: Metric[Any]) -> Metric[Any]:
    """The same metric, but read from several subjects and summed."""

    def read(subjects: list[Any]) -> Reading:
        readings = [metric.read(each) for each in subjects]
        total = readings[0]
        for each in readings[1:]:
            total = _sum(total, each, 1)
        return total

    return replace(metric, read=read)


def _growing(read: Iterable[_Subject]) -> _Told:
    return {
        metric.name: metric.read(subject)
        for section, subject in read
        for metric in section
        if metric.kind is not Kind.GAUGE
    }


def _sums(one: _Told, other: _Told, sign: int) -> _Told:
    return {
        name: _sum(reading, other[name], sign) if name in other else reading
        for name, reading in one.items()
    }


def _added(now: _Told, before: _Told) -> _Told:
    return _sums(now, before, -1)


def _sum(one: Reading, other: Reading, sign: int) -> Reading:
    """`one + sign * other`, for two readings of one metric."""
    if isinstance(one, Buckets):
        assert isinstance(other, Buckets)
        pairs = zip(one.counts, other.counts, strict=True)
        counts = tuple(here + sign * there for here, there in pairs)
        return Buckets(one.bounds, counts, one.sum + sign * other.sum)
    if isinstance(one, Mapping):
        assert isinstance(other, Mapping)
        return {key: value + sign * other.get(key, 0) for key, value in one.items()}
    assert not isinstance(other, Buckets | Mapping)
    return one + sign * other


def _numbers(reading: Reading) -> Iterable[float]:
    if isinstance(reading, Buckets):
        return reading.counts
    return reading.values() if isinstance(reading, Mapping) else (reading,)


def _is_more(reading: Reading) -> bool:
    return any(number > 0 for number in _numbers(reading))


def _is_less(now: _Told, before: _Told) -> bool:
    """Whether some counter is less than before: then it is the counter of another stream."""
    return any(number < 0 for added in _added(now, before).values() for number in _numbers(added))


def tell_reading(
    metric: Metric[Any],
    reading: Reading,
    values: dict[str, float],
    units: dict[str, str],
    apart: dict[str, dict[str, float]],
) -> None:
    """Writes the members of one metric."""
    name, per = metric.name, metric.per
    unit = _unit(metric)

    def member(suffix: str, value: float, unit: str) -> None:
        values[name + suffix] = value
        units[name + suffix] = unit

    if isinstance(reading, Buckets):
        count = sum(reading.counts)
        member("_sum", reading.sum / per, unit)
        member("_count", count, "Count")
        for suffix, quantile in QUANTILES.items():
            if count:
                member(f"_{suffix}", quantile_of(reading, quantile) / per, unit)
    elif not isinstance(reading, Mapping):
        member("", reading if per == 1 else reading / per, unit)
    elif metric.label not in OF_A_SUM:
        for key, value in reading.items():
            member(f"_{_word(key)}", value / per, unit)
    else:
        member("", sum(reading.values()), unit)
        some = {_word(key): value for key, value in reading.items() if value}
        if some:
            apart[f"{name}_by_{metric.label}"] = some


def _word(key: Any) -> str:
    return str(key.value) if isinstance(key, Enum) else str(key)


def _unit(metric: Metric[Any]) -> str:
    """The metric's unit, in CloudWatch's words (`MetricDatum` of its API)."""
    name = metric.name.removesuffix("_total").removesuffix("_max")
    if name.endswith("_bytes_per_second"):
        return "Bytes/Second"
    if name.endswith("_bytes"):
        return "Bytes"
    if name.endswith("_seconds"):
        return "Seconds"
    return "None" if name.endswith("_ratio") else "Count"


def quantile_of(buckets: Buckets, quantile: float) -> float:
    """Reckons as Prometheus's `histogram_quantile`: values lie evenly within a bucket; those beyond
    the last bound count as that bound.
    """
    rank = quantile * sum(buckets.counts)
    for number, until in enumerate(accumulate(buckets.counts)):
        if until >= rank and buckets.counts[number]:
            break
    if number == len(buckets.bounds):
        return buckets.bounds[-1]
    low = buckets.bounds[number - 1] if number else 0
    inside = rank - (until - buckets.counts[number])
    return low + (buckets.bounds[number] - low) * inside / buckets.counts[number]
