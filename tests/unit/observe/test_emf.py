"""Snapshots of real engines as Embedded Metric Format: valid lines, and what they add up to."""

from typing import Any

import pytest

from kdaemon.base.counters import Buckets, RefuseReason, StreamCounts
from kdaemon.base.counting import StreamCounters
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.http.counters import ListenerCounters
from kdaemon.observe.emf import DOOR, OF_A_SUM, Emf, quantile_of, tell_reading
from kdaemon.observe.metrics import CLOSED
from kdaemon.observe.reloads import Outcome, Reloads, Report
from kdaemon.observe.snapshot import Snapshot
from kdaemon.observe.table import ACCOUNTS, DELIVERY, STREAM, TABLE, Metric
from tests.kit.emf import EmfLine, read_line, summed
from tests.kit.observing import At, Observing, reader_of
from tests.kit.upstreams import SeenUpstream
from tests.kit.world import SECOND, Faults, World, make_frame


class Told:
    """Engines of a world, and the lines of them so far."""

    def __init__(self, *names: str) -> None:
        self.world = World(1)
        self.observing = Observing(self.world.memory)
        for name in names:
            self.open(name)
        listeners = {"http": ListenerCounters(), "unix": ListenerCounters()}
        listeners["http"].opened, listeners["unix"].opened = 3, 4
        self._reader = reader_of(self.observing, At(self.world), listeners=listeners)
        self._emf = Emf("kdaemon", "host-1")
        self.lines: list[EmfLine] = []

    def open(self, name: str) -> None:
        self.observing.streams[name] = self.world.add_engine()

    def close(self, name: str) -> None:
        engine = self.observing.streams.pop(name)
        self.observing.upstreams[0].closed.add(engine.counters)

    def deliver(self, name: str, count: int) -> None:
        records = [Record(b"12345", f"key-{number}") for number in range(count)]
        self.world.submit(self.observing.streams[name], make_frame(records))
        self.world.run_until(self.world.now_ns + 5 * SECOND)

    @property
    def snapshot(self) -> Snapshot:
        return at_once(self._reader.read())

    def tell(self, take: int | None = None) -> list[EmfLine]:
        """A minute's lines; `take`: only so many are taken, and the log is closed."""
        lines = []
        for line in self._emf.lines(self.snapshot, 1_800_000_000_000):
            if line is not None:
                lines.append(read_line(line))
            if len(lines) == take:
                break
        self.lines += lines
        return lines

    def total(self, name: str) -> float:
        """Of the streams', the door's and the closed ones' lines so far."""
        return summed(self.lines)[name]


def test_a_stream_has_a_line_with_its_dimensions_and_the_numbers_of_the_table() -> None:
    told = Told("a", "@eu/b")
    told.observing.upstreams.append(SeenUpstream("eu", credentials_end_s=1.5))
    told.world.faults = Faults(record_failure=0.3)
    told.deliver("a", 40)
    lines = {(line.labels.get("upstream"), line.stream): line for line in told.tell()}
    assert lines.keys() == {(None, ""), ("eu", ""), ("default", "a"), ("eu", "b")}
    assert lines["eu", ""].values == {"kdaemon_credentials_expire_timestamp_seconds": 1.5}
    line = lines["default", "a"]
    assert line.members["_aws"]["Timestamp"] == 1_800_000_000_000
    assert line.members["host"] == "host-1"
    engine = next(each.engine for each in told.snapshot.streams if each.name == "a")
    sections: list[tuple[tuple[Metric[Any], ...], object]] = [
        (ACCOUNTS, engine.counters),
        (DELIVERY, engine.counters),
        (STREAM, engine),
    ]
    for section, subject in sections:
        for metric in section:
            reading = metric.read(subject)
            if isinstance(reading, Buckets):
                assert line.values[metric.name + "_sum"] == reading.sum / metric.per
                assert line.values[metric.name + "_count"] == sum(reading.counts)
            elif isinstance(reading, int | float):
                assert line.values[metric.name] == reading / metric.per
            elif metric.label in OF_A_SUM:
                assert line.values[metric.name] == sum(reading.values())
    assert line.values["kdaemon_records_delivered_total"] == 40
    assert line.members["kdaemon_records_retries_total_by_reason"]["ambiguous"] > 0
    assert (
        0
        < line.values["kdaemon_delivery_seconds_p50"]
        <= line.values["kdaemon_delivery_seconds_p99"]
    )


def test_units_follow_from_the_names() -> None:
    told = Told("a")
    told.deliver("a", 1)
    daemon, stream = told.tell()
    assert stream.units["kdaemon_received_bytes_total"] == "Bytes"
    assert stream.units["kdaemon_records_received_total"] == "Count"
    assert stream.units["kdaemon_delivery_seconds_p99"] == "Seconds"
    assert stream.units["kdaemon_delivery_seconds_count"] == "Count"
    assert stream.units["kdaemon_shard_share_min_ratio"] == "None"
    assert daemon.units["kdaemon_memory_bytes_max"] == "Bytes"
    assert daemon.values["kdaemon_client_connections_opened_total"] == 7, "all listeners together"


def test_of_what_grows_a_line_says_what_was_added() -> None:
    told = Told("a")
    told.deliver("a", 10)
    told.tell()
    told.deliver("a", 5)
    _, second = told.tell()
    assert second.values["kdaemon_records_delivered_total"] == 5
    assert second.values["kdaemon_delivery_seconds_count"] == 5
    _, third = told.tell()
    assert third.values["kdaemon_records_delivered_total"] == 0
    assert third.values["kdaemon_shards"] == 4, "a gauge is as it is"
    assert "kdaemon_delivery_seconds_p99" not in third.values, "of nothing there is no quantile"


@pytest.mark.parametrize("is_told_between", [False, True])
@pytest.mark.parametrize("again", [0, 3, 30])
def test_nothing_is_counted_twice_or_never_though_streams_close_and_open(
    again: int, *, is_told_between: bool
) -> None:
    """`again`: so many records after the stream was opened once more; 0: it was not."""
    told = Told("a")
    told.deliver("a", 10)
    told.tell()
    told.deliver("a", 7)
    told.close("a")
    if is_told_between:
        told.tell()
        closed = [line for line in told.lines if line.stream == CLOSED]
        assert [line.values["kdaemon_records_delivered_total"] for line in closed] == [7]
    if again:
        told.open("a")
        told.deliver("a", again)
    for _ in range(2):
        told.tell()
        assert told.total("kdaemon_records_delivered_total") == 17 + again
        assert told.total("kdaemon_delivery_seconds_count") == 17 + again
    assert all(value >= 0 for line in told.lines for value in line.values.values())


def test_lines_that_nobody_took_are_told_by_the_next() -> None:
    told = Told("a", "b")
    told.deliver("a", 10)
    told.deliver("b", 20)
    told.tell(take=2)  # the daemon's and that of one stream
    assert told.total("kdaemon_records_delivered_total") == 10
    told.tell()
    assert told.total("kdaemon_records_delivered_total") == 30


def test_the_door_has_a_line_when_it_refused_something() -> None:
    told = Told("a")
    assert DOOR not in {line.stream for line in told.tell()}
    told.observing.door.refuse(RefuseReason.UNLISTED, 3, 30)
    (line,) = (each for each in told.tell() if each.stream == DOOR)
    assert line.values["kdaemon_records_rejected_total"] == 3
    assert line.members["kdaemon_records_rejected_total_by_reason"] == {"unlisted": 3}
    assert DOOR not in {line.stream for line in told.tell()}


def test_the_daemon_s_line_tells_of_reloads() -> None:
    """Where there is no Prometheus nothing else could wake somebody."""
    told = Told()
    reloads = Reloads(lambda: 1_800_000_000.0, 1, 1)
    reloads.note(Report(Outcome.WRONG))
    reader = reader_of(told.observing, At(told.world), reloads=reloads)
    line = next(Emf("kdaemon", "host-1").lines(at_once(reader.read()), 1_800_000_000_000))
    assert line is not None
    values = read_line(line).values
    assert values["kdaemon_config_last_reload_successful"] == 0
    assert values["kdaemon_config_reload_failures_total"] == 1
    assert b"true" not in line
    assert b"false" not in line


def test_every_counter_that_there_can_be_fits_into_a_line() -> None:
    told = Told("a")
    counters: StreamCounters = told.observing.streams["a"].counters
    for name in StreamCounts.__struct_fields__:
        value = getattr(counters, name)
        if isinstance(value, dict):
            value.update(dict.fromkeys(value, 1))
        elif hasattr(value, "observe"):
            value.observe(1)
    _, line = told.tell()
    assert len(line.values) <= 100


def test_a_rare_name_is_still_a_dimension() -> None:
    told = Told("arn:aws:kinesis:eu-central-1:123456789012:stream/" + "s" * 128)
    told.tell()
    assert told.lines[1].labels["upstream"] == "default"


def test_what_is_no_part_of_a_sum_is_a_metric_of_its_own() -> None:
    metric: Metric[dict[str, int]] = Metric(
        "kdaemon_billed_total", "", lambda units: units, label="unit"
    )
    values: dict[str, float] = {}
    units: dict[str, str] = {}
    apart: dict[str, dict[str, float]] = {}
    tell_reading(metric, {"put": 3, "bytes": 2048}, values, units, apart)
    assert values == {"kdaemon_billed_total_put": 3, "kdaemon_billed_total_bytes": 2048}
    assert units.keys() == values.keys()
    assert not apart


def test_the_labels_of_the_table_are_told_apart_as_they_mean() -> None:
    labels = {metric.label for metric in TABLE if metric.label}
    assert labels - OF_A_SUM <= {"kind", "unit"}, "say in emf.py whether it can be summed"


@pytest.mark.parametrize(
    ("counts", "quantile", "expected"),
    [
        ((10, 0, 0), 0.5, 5.0),
        ((0, 10, 0), 0.5, 15.0),
        ((5, 5, 0), 0.5, 10.0),
        ((5, 5, 0), 0.99, 19.8),
        ((0, 0, 10), 0.5, 20.0),
        ((9, 0, 1), 0.99, 20.0),
    ],
)
def test_a_quantile_is_what_prometheus_would_say(
    counts: tuple[int, ...], quantile: float, expected: float
) -> None:
    assert quantile_of(Buckets((10, 20), counts, 0), quantile) == pytest.approx(expected)
