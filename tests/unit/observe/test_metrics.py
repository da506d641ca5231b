"""The exposition of real engines, parsed as Prometheus parses it."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from kdaemon.base.counters import (
    DeadReason,
    DropReason,
    FailureCode,
    NotPassedOn,
    PassedOnOutcome,
    RefuseReason,
)
from kdaemon.base.counting import OperationCounters
from kdaemon.base.description import Capacity
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.base.record import Record
from kdaemon.base.text import printable
from kdaemon.base.verdict import CALL_OUTCOMES, RETRY_REASONS
from kdaemon.engine import Engine
from kdaemon.http.counters import TIME_OUTS, ListenerCounters
from kdaemon.http.refusals import REFUSALS
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.metrics import STEP_SAMPLES, Metrics, accepts_openmetrics
from kdaemon.observe.reloads import Outcome, Reloads, Report
from kdaemon.observe.snapshot import HOT_SHARDS_MAX
from kdaemon.observe.table import (
    AUTH,
    LOG,
    PASSED_ON,
    SHARD,
    SPOOL,
    TABLE,
    TLS,
    WORKERS,
    Kind,
)
from kdaemon.sandbox.settings import Quota
from kdaemon.send.relay import Relay
from tests.kit.depth import some
from tests.kit.observing import At, Observing, reader_of
from tests.kit.queues import lanes_of
from tests.kit.upstreams import SeenUpstream
from tests.kit.watching import before
from tests.kit.world import MS, SECOND, Faults, World, make_frame
from tests.unit.observe.whole import whole

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

ENUMS = (RefuseReason, DeadReason, DropReason, RETRY_REASONS, FailureCode, CALL_OUTCOMES)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics, accept: str = "") -> Samples:
    """Every sample of a scrape; one series twice is an error, as it is to Prometheus."""
    page = whole(metrics.openmetrics() if accept else metrics.plain())
    body = page.body
    parse: Any = parse_openmetrics if accept else parse_plain
    found: Samples = {}
    for family in parse(body.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """Of the default upstream, where a stream or an operation is named; the door has none."""
    if labels.keys() & {"stream", "operation"}:
        labels.setdefault("upstream", "" if labels.get("stream") == "" else "default")
    return found[name, frozenset(labels.items())]


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum over the series of this name that have these labels."""
    wanted = frozenset(labels.items())
    return sum(number for (each, have), number in found.items() if each == name and wanted <= have)


def assert_conserved(found: Samples, where: str, *streams: str) -> None:
    for labels in ({}, *({"stream": stream} for stream in streams)):
        received = total(found, "kdaemon_records_received_total", **labels)
        parts = [
            total(found, f"kdaemon_records_{part}", **labels)
            for part in (
                "rejected_total",
                "delivered_total",
                "dead_total",
                "buffered",
                "in_flight",
            )
        ]
        assert received == sum(parts), (where, labels, received, parts)


def observe(world: World, *names: str, per_shard: bool = False) -> tuple[Observing, Metrics]:
    """Engines of these names in the world, and the metrics over them."""
    observing = Observing(world.memory, {name: world.add_engine() for name in names})
    reader = reader_of(
        observing,
        At(world),
        listeners={"http": ListenerCounters()},
        reloads=Reloads(lambda: 5.0, 1, 1),
    )
    return observing, Metrics(reader, per_shard=per_shard)


def feed(
    world: World, engine: Engine, frames: int, records: int, *, with_poison: bool = False
) -> None:
    """Frames of distinct records every 50 ms, every other with a deadline of 2 s. Poison: now and
    then a record that the sandbox refuses with its whole request (a partition key above 256).
    """

    def put(number: int) -> None:
        batch = [Record(b"%d.%d" % (number, i), f"key-{i}") for i in range(records)]
        if with_poison and number % 7 == 3:
            batch[records // 2].partition_key = "k" * 300
        deadline_ns = world.now_ns + 2 * SECOND if number % 2 else None
        world.submit(engine, make_frame(batch, deadline_ns=deadline_ns))

    for number in range(frames):
        world.at(world.now_ns + number * 50 * MS, partial(put, number))


FAULTS = Faults(lost_request=0.1, call_throttled=0.1, wrong_count=0.1, record_failure=0.05)


@pytest.mark.parametrize("seed", some(range(3)))
def test_the_exposed_counts_conserve_at_every_scrape_whatever_happens(seed: int) -> None:
    """Two streams' demand on one shard, with throttles, deadlines, poison and failed calls."""
    world = World(seed, shard_count=1, faults=FAULTS)
    observing, metrics = observe(world, "a", "b")
    for engine in observing.streams.values():
        feed(world, engine, frames=60, records=50, with_poison=True)
    observing.door.received += 3
    observing.door.rejected[RefuseReason.UNLISTED] += 3
    moving = 0
    for scrape in range(100):
        world.run_until(world.now_ns + 53 * MS)
        found = samples(metrics, OPENMETRICS if scrape % 2 else "")
        assert_conserved(found, f"seed {seed}, scrape {scrape}", "a", "b", "")
        assert total(found, "kdaemon_records_unaccounted") == 0
        moving += total(found, "kdaemon_records_in_flight") > 0
    assert moving > 10, "scrapes saw records on their way"
    world.faults = Faults()
    world.run_idle(seconds_max=600)
    found = samples(metrics)
    assert_conserved(found, f"seed {seed}, idle", "a", "b", "")
    # All of it was there to be counted.
    assert total(found, "kdaemon_records_received_total") == 2 * 60 * 50 + 3
    assert value(found, "kdaemon_records_rejected_total", stream="", reason="unlisted") == 3
    assert total(found, "kdaemon_records_delivered_total") > 0
    assert total(found, "kdaemon_records_dead_total", reason="poison") > 0
    assert total(found, "kdaemon_records_rejected_total", reason="deadline") > 0
    assert total(found, "kdaemon_records_throttled_total") > 0
    assert total(found, "kdaemon_records_possible_duplicates_total") > 0
    assert total(found, "kdaemon_record_failures_total", code="InternalFailure") > 0
    assert total(found, "kdaemon_records_retries_total", reason="bisected") > 0


def test_the_exposed_counts_conserve_while_answers_are_lost() -> None:
    world = World(5, faults=Faults(lost_answer=0.2, server_error=0.2, record_failure=0.1))
    observing, metrics = observe(world, "a")
    feed(world, observing.streams["a"], frames=60, records=50)
    for scrape in range(60):
        world.run_until(world.now_ns + 53 * MS)
        assert_conserved(samples(metrics), f"scrape {scrape}", "a")
    world.faults = Faults()
    world.run_idle()
    found = samples(metrics)
    assert_conserved(found, "idle", "a")
    again = sum(world.written.values()) - len(world.written)
    assert 0 < again <= total(found, "kdaemon_records_possible_duplicates_total")


def test_what_was_delivered_is_in_every_number_that_tells_of_it() -> None:
    world = World(1, round_trip_ns=(20 * MS, 20 * MS))
    observing, metrics = observe(world, "a")
    frame = make_frame([Record(b"12345", "key") for _ in range(10)])
    world.submit(observing.streams["a"], frame)
    before = samples(metrics)
    assert value(before, "kdaemon_records_in_flight", stream="a") == 10
    assert value(before, "kdaemon_put_records_in_flight", stream="a") == 1
    assert value(before, "kdaemon_stream_memory_bytes", stream="a") == frame.footprint_bytes
    assert value(before, "kdaemon_memory_bytes") == frame.footprint_bytes
    world.run_idle()
    found = samples(metrics)
    assert value(found, "kdaemon_records_received_total", stream="a") == 10
    assert value(found, "kdaemon_received_bytes_total", stream="a") == 80
    assert value(found, "kdaemon_records_accepted_total", stream="a") == 10
    assert value(found, "kdaemon_accepted_bytes_total", stream="a") == 80
    assert value(found, "kdaemon_records_delivered_total", stream="a") == 10
    assert value(found, "kdaemon_delivered_bytes_total", stream="a") == 80
    assert value(found, "kdaemon_records_attempts_total", stream="a") == 10
    assert value(found, "kdaemon_put_records_calls_total", stream="a", outcome="delivered") == 1
    assert value(found, "kdaemon_shards", stream="a") == 4
    assert value(found, "kdaemon_shard_map_refreshes_total", stream="a") == 1
    assert value(found, "kdaemon_stream_on_hold", stream="a") == 0
    assert value(found, "kdaemon_memory_bytes") == 0
    assert value(found, "kdaemon_memory_bytes_max") == world.memory.bytes_max
    assert value(found, "kdaemon_build_info", version="1.2.3") == 1


def test_an_upstream_tells_when_its_credentials_end_if_they_do() -> None:
    observing, metrics = observe(World(1))
    observing.upstreams += [SeenUpstream("eu", credentials_end_s=1_800_000_000.5)]
    name = "kdaemon_credentials_expire_timestamp_seconds"
    found = {key: each for key, each in samples(metrics).items() if key[0] == name}
    assert found == {(name, frozenset({("upstream", "eu")})): 1_800_000_000.5}


def test_the_age_of_the_oldest_queued_record_is_told() -> None:
    world = World(1)
    observing, metrics = observe(world, "a", "b")
    engine = observing.streams["a"]
    world.faults = Faults(call_throttled=1.0)
    world.submit(engine, make_frame([Record(b"1", "key")]))
    began_ns = world.now_ns
    world.run_until(began_ns + 3 * SECOND)
    world.submit(engine, make_frame([Record(b"2", "another key")]))
    world.run_until(began_ns + 7 * SECOND)
    found = samples(metrics)
    name = "kdaemon_stream_oldest_queued_seconds"
    assert value(found, name, stream="a") == 7
    assert value(found, name, stream="b") == 0


def test_histograms_are_cumulative_in_seconds_records_and_bytes() -> None:
    world = World(1, round_trip_ns=(20 * MS, 20 * MS))
    observing, metrics = observe(world, "a")
    world.submit(observing.streams["a"], make_frame([Record(b"12345", "key") for _ in range(10)]))
    world.run_idle()
    found = samples(metrics, OPENMETRICS)
    duration, delivery = "kdaemon_put_records_duration_seconds", "kdaemon_delivery_seconds"
    assert value(found, duration + "_bucket", stream="a", le="0.01") == 0
    assert value(found, duration + "_bucket", stream="a", le="0.025") == 1
    assert value(found, duration + "_bucket", stream="a", le="+Inf") == 1
    assert value(found, duration + "_sum", stream="a") == 0.02
    assert value(found, delivery + "_count", stream="a") == 10, "one for each record"
    assert value(found, delivery + "_sum", stream="a") == pytest.approx(0.2)
    batch = "kdaemon_put_records_batch_records"
    assert value(found, batch + "_bucket", stream="a", le="5.0") == 0
    assert value(found, batch + "_bucket", stream="a", le="10.0") == 1, "bounds are inclusive"
    assert value(found, batch + "_sum", stream="a") == 10
    assert value(found, "kdaemon_put_records_batch_bytes_sum", stream="a") == 80
    buckets = [
        (float(dict(labels)["le"]), number)
        for (name, labels), number in found.items()
        if name == duration + "_bucket"
    ]
    assert all(low[1] <= high[1] for low, high in pairwise(sorted(buckets)))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_label_value_of_every_stream_starts_at_zero(accept: str) -> None:
    _, metrics = observe(World(1), "a", "b")
    found = samples(metrics, accept)
    labelled: dict[str, tuple[str, Iterable[Any]]] = {
        "kdaemon_records_rejected_total": ("reason", RefuseReason),
        "kdaemon_records_dead_total": ("reason", DeadReason),
        "kdaemon_records_dropped_total": ("reason", DropReason),
        "kdaemon_records_retries_total": ("reason", RETRY_REASONS),
        "kdaemon_record_failures_total": ("code", FailureCode),
        "kdaemon_put_records_calls_total": ("outcome", CALL_OUTCOMES),
    }
    assert {enum for _, enum in labelled.values()} == set(ENUMS)
    for name, (label, enum) in labelled.items():
        for stream in ("a", "b"):
            for each in enum:
                assert value(found, name, stream=stream, **{label: each.value}) == 0
    for reason in REFUSALS:
        name = "kdaemon_client_connections_refused_total"
        assert value(found, name, listener="http", reason=reason) == 0
    for part in TIME_OUTS:
        assert value(found, "kdaemon_client_timeouts_total", listener="http", part=part) == 0
    for metric in TABLE:
        if metric.kind is Kind.COUNTER and metric not in (
            *SPOOL,
            *SHARD,
            *LOG,
            *PASSED_ON,
            *AUTH,
            *TLS,
            *WORKERS,
        ):  # not asked for here
            assert [number for (name, _), number in found.items() if name == metric.name]
            assert total(found, metric.name) == 0


class Passing:
    """As much of a relay as is counted."""

    def __init__(self) -> None:
        self.operations = ("ListShards",)
        self.counters = {name: OperationCounters() for name in (*self.operations, "other")}
        self.waiting_count = self.call_count = self.kept_bytes = 0


def test_what_is_passed_on_is_counted_by_operation() -> None:
    world, passing = World(1), Passing()
    relay = cast("Relay", passing)
    metrics = Metrics(reader_of(Observing(world.memory), At(world), relays={"default": relay}))
    found = samples(metrics)
    for operation in passing.counters:
        for name, label, enum in (
            ("kdaemon_passed_on_calls_total", "outcome", PassedOnOutcome),
            ("kdaemon_passed_on_refused_total", "reason", NotPassedOn),
        ):
            for each in enum:
                assert value(found, name, operation=operation, **{label: each.value}) == 0
    counters = passing.counters["ListShards"]
    counters.requests, counters.shared = 5, 2
    counters.calls[PassedOnOutcome.REFUSED] = 3
    passing.counters["other"].refused[NotPassedOn.NOT_ALLOWED] = 4
    found = samples(metrics)
    assert value(found, "kdaemon_passed_on_requests_total", operation="ListShards") == 5
    assert value(found, "kdaemon_passed_on_shared_total", operation="ListShards") == 2
    assert total(found, "kdaemon_passed_on_calls_total") == 3
    refused = value(
        found, "kdaemon_passed_on_refused_total", operation="other", reason="not_allowed"
    )
    assert refused == 4


def test_what_listeners_count_is_read_by_listener_and_a_late_listener_is_seen() -> None:
    world = World(1)
    counters = ListenerCounters()
    listeners = {"http": counters}
    metrics = Metrics(reader_of(Observing(world.memory), At(world), listeners=listeners))
    counters.opened = 7
    counters.open = 2
    counters.refused["malformed"] = 3
    counters.timed_out["head"] = 4
    counters.handler_failures = 5
    listeners["unix"] = ListenerCounters()
    found = samples(metrics)
    assert value(found, "kdaemon_client_connections", listener="http") == 2
    assert value(found, "kdaemon_client_connections_opened_total", listener="http") == 7
    refused = "kdaemon_client_connections_refused_total"
    assert value(found, refused, listener="http", reason="malformed") == 3
    assert value(found, "kdaemon_client_timeouts_total", listener="http", part="head") == 4
    assert value(found, "kdaemon_client_handler_failures_total", listener="http") == 5
    assert value(found, "kdaemon_client_connections_opened_total", listener="unix") == 0


def test_a_missing_stream_shows_as_on_hold_until_it_is_there() -> None:
    world = World(1)
    observing, metrics = observe(world, "a")
    world.run_until(world.now_ns + 100 * MS)  # the map is there
    world.service.handle("DeleteStream", {"StreamName": "sim"}, world.now_ns)
    world.submit(observing.streams["a"], make_frame([Record(b"a", "k")]))
    world.run_until(world.now_ns + 200 * MS)
    assert value(samples(metrics), "kdaemon_stream_on_hold", stream="a") == 1
    world.service.create_stream("sim", 2, world.now_ns)
    world.run_idle()
    assert value(samples(metrics), "kdaemon_stream_on_hold", stream="a") == 0


def test_how_a_stream_is_scaled_and_what_is_warm_of_it_is_told_as_far_as_it_is_known() -> None:
    world = World(1)
    observing, metrics = observe(world, "a")
    mode, warm = "kdaemon_stream_is_on_demand", "kdaemon_stream_warm_throughput_bytes_per_second"
    for capacity, expected in (
        (None, (0, {})),
        (Capacity(is_on_demand=True), (1, {})),
        (Capacity(is_on_demand=True, warm_bytes_per_second=0), (1, {"current": 0})),
        (Capacity(True, 4 * MIB, 9 * MIB), (1, {"current": 4 * MIB, "target": 9 * MIB})),
        (Capacity(is_on_demand=False), (0, {})),
    ):
        observing.streams["a"].capacity = capacity
        for accept in ("", OPENMETRICS):
            found = samples(metrics, accept)
            told = {
                dict(labels)["kind"]: each for (name, labels), each in found.items() if name == warm
            }
            assert (value(found, mode, stream="a"), told) == expected


def mapped(world: World, *names: str, per_shard: bool = False) -> tuple[Observing, Metrics]:
    """As `observe`, but the map is there and no share is to be learnt: 900 records at once, 1,000
    a second.
    """
    world.settings = replace(world.settings, first_share=1.0)
    observed = observe(world, *names, per_shard=per_shard)
    world.run_until(world.now_ns + 100 * MS)
    return observed


def pile(world: World, engine: Engine, shard: int, count: int, size: int = 2) -> None:
    """Puts records on a shard's queue; nothing is sent before the world runs on."""
    hash_key = lanes_of(engine)[shard].hash_key
    records = [Record(bytes(size - 1), "k", hash_key) for _ in range(count)]
    assert engine.handle_frame(make_frame(records), world.now_ns)


def test_no_series_has_a_shard_while_none_is_hot_and_they_are_not_asked_for() -> None:
    world = World(1)
    observing, metrics = observe(world, "a")
    world.submit(observing.streams["a"], make_frame([Record(b"a", "k")]))
    world.run_idle()
    assert not [key for key in samples(metrics) if "shard_id" in dict(key[1])]


def test_a_hot_shard_is_named_with_its_backlog_in_seconds_and_our_share_of_it() -> None:
    world = World(1)
    observing, metrics = mapped(world, "a", "b")
    engine = observing.streams["a"]
    pile(world, engine, 2, 3400)
    found = samples(metrics)
    hot = {"stream": "a", "shard_id": lanes_of(engine)[2].shard_id or ""}
    assert value(found, "kdaemon_hot_shard_backlog_seconds", **hot) == 2.5
    assert value(found, "kdaemon_hot_shard_share_ratio", **hot) == 1.0
    assert len([key for key in found if "shard_id" in dict(key[1])]) == 2
    assert value(found, "kdaemon_shards_backlogged", stream="a") == 1
    assert value(found, "kdaemon_shards_backlogged", stream="b") == 0
    world.pump(engine)
    world.run_idle()
    world.run_until(world.now_ns + SECOND)
    found = samples(metrics)
    assert not [key for key in found if "shard_id" in dict(key[1])]
    assert value(found, "kdaemon_shards_backlogged", stream="a") == 0


def test_of_many_hot_shards_the_hottest_five_of_each_stream_are_named() -> None:
    world = World(1, shard_count=40)
    observing, metrics = mapped(world, "a", "b")
    for engine in observing.streams.values():
        for shard in range(40):
            pile(world, engine, shard, 2000 + 100 * shard)
    found = samples(metrics)
    assert HOT_SHARDS_MAX == 5
    for name, engine in observing.streams.items():
        told = {
            dict(labels)["shard_id"]: seconds
            for (metric, labels), seconds in found.items()
            if metric == "kdaemon_hot_shard_backlog_seconds" and ("stream", name) in labels
        }
        hottest = {lanes_of(engine)[shard].shard_id: 1.1 + 0.1 * shard for shard in range(35, 40)}
        assert told == pytest.approx(hottest)
        assert value(found, "kdaemon_shards_backlogged", stream=name) == 40


def test_the_share_that_other_producers_leave_us_shows_without_a_shard_s_name() -> None:
    world = World(3, shard_count=2, quota=Quota(200, 1 << 20))  # a fifth of what we pace for
    observing, metrics = mapped(world, "a")
    engine = observing.streams["a"]
    assert value(samples(metrics), "kdaemon_shard_share_min_ratio", stream="a") == 1.0
    pile(world, engine, 0, 4000)
    world.pump(engine)
    world.run_until(world.now_ns + 8 * SECOND)
    found = samples(metrics)
    share = value(found, "kdaemon_shard_share_min_ratio", stream="a")
    assert 0.05 < share < 0.5
    hot = {"stream": "a", "shard_id": lanes_of(engine)[0].shard_id or ""}
    assert value(found, "kdaemon_hot_shard_share_ratio", **hot) == share


def test_a_stream_that_takes_nothing_shows_as_unavailable() -> None:
    observing, metrics = observe(World(1), "a")
    assert value(samples(metrics), "kdaemon_stream_unavailable", stream="a") == 0
    observing.streams["a"].unavailable = ServiceError("InvalidArgumentException", "AUTO")
    assert value(samples(metrics), "kdaemon_stream_unavailable", stream="a") == 1


def test_per_shard_series_tell_backlog_share_backoff_and_tokens_of_each_shard() -> None:
    world = World(1, shard_count=2)
    observing, metrics = mapped(world, "a", per_shard=True)
    engine = observing.streams["a"]
    hot, cold = (lane.shard_id or "" for lane in lanes_of(engine))
    pile(world, engine, 0, 3000)
    world.pump(engine)
    found = samples(metrics)
    queued = value(found, "kdaemon_shard_records_buffered", stream="a", shard_id=hot)
    assert queued == value(found, "kdaemon_records_buffered", stream="a") == 2100
    assert value(found, "kdaemon_shard_backlog_seconds", stream="a", shard_id=hot) == 2.1
    assert value(found, "kdaemon_shard_records_buffered", stream="a", shard_id=cold) == 0
    assert value(found, "kdaemon_shard_backlog_seconds", stream="a", shard_id=cold) == 0
    tokens = "kdaemon_shard_tokens"
    assert value(found, tokens, stream="a", shard_id=cold, kind="records") == 900
    assert value(found, tokens, stream="a", shard_id=hot, kind="records") == 0
    assert value(found, tokens, stream="a", shard_id=cold, kind="bytes") == 0.9 * 2**20 // 1
    for kind in ("records", "bytes"):
        share = value(found, "kdaemon_shard_share_ratio", stream="a", shard_id=hot, kind=kind)
        assert share == 1.0
    assert value(found, "kdaemon_shard_backoff_seconds", stream="a", shard_id=hot) == 0
    lanes_of(engine)[1].blocked_until_ns = world.now_ns + 250 * MS
    found = samples(metrics)
    assert value(found, "kdaemon_shard_backoff_seconds", stream="a", shard_id=cold) == 0.25
    world.run_idle()
    world.run_until(world.now_ns + 2 * SECOND)
    found = samples(metrics)
    assert value(found, tokens, stream="a", shard_id=hot, kind="records") == 900, "saved while idle"


def test_per_shard_counts_add_up_to_the_stream_s() -> None:
    world = World(3, shard_count=2, quota=Quota(300, 1 << 20))
    observing, metrics = mapped(world, "a", per_shard=True)
    engine = observing.streams["a"]
    for shard in (0, 1):
        pile(world, engine, shard, 2000)
    world.pump(engine)
    world.run_idle()
    found = samples(metrics)
    taken = total(found, "kdaemon_shard_records_taken_total", stream="a")
    assert taken == value(found, "kdaemon_records_delivered_total", stream="a") == 4000
    throttled = total(found, "kdaemon_shard_records_throttled_total", stream="a")
    assert throttled == value(found, "kdaemon_records_throttled_total", stream="a") > 0


def test_a_scrape_reads_each_engine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    observing, metrics = observe(World(1), "a", "b", per_shard=True)
    read: list[Engine] = []
    before(monkeypatch, Engine, "snapshot", lambda engine, *_: read.append(engine))
    whole(metrics.plain())
    assert read == list(observing.streams.values())


@pytest.mark.parametrize("seed", some(range(3)))
def test_looking_changes_nothing(seed: int) -> None:
    """Two worlds of one seed end alike, though one was scraped all the way."""

    def run(look: Callable[[Metrics], object]) -> tuple[Counter[bytes], int, int]:
        world = World(seed, shard_count=2, faults=FAULTS)
        observing, metrics = observe(world, "a", per_shard=True)
        feed(world, observing.streams["a"], frames=60, records=100)
        for _ in range(120):
            world.run_until(world.now_ns + 50 * MS)
            look(metrics)
        return world.written, world.call_count, observing.streams["a"].counters.throttled

    assert run(lambda metrics: whole(metrics.plain())) == run(lambda metrics: None)


def test_a_stream_without_a_shard_map_has_one_lane_without_a_shard() -> None:
    world = World(1, may_list=False)
    observing, metrics = observe(world, "a", per_shard=True)
    world.submit(observing.streams["a"], make_frame([Record(b"a", "k")]))
    found = samples(metrics)
    assert value(found, "kdaemon_shard_records_buffered", stream="a", shard_id="") == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "application/openmetrics-text;version=0.0.1,text/plain",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        # What a client writes there is not repeated, and does no harm.
        (
            "application/openmetrics-text;version=1.2.345",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("application/openmetrics-text;version=x.y", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=x", "text/plain; version=0.0.4; charset=utf-8"),
        (";,;=version,\xff", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_accept_header_chooses_between_two_forms(accept: str, content_type: str) -> None:
    _, metrics = observe(World(1), "a")
    is_openmetrics = accepts_openmetrics(accept)
    page = whole(metrics.openmetrics() if is_openmetrics else metrics.plain())
    assert page.content_type.decode() == content_type
    assert page.body.endswith(b"# EOF\n") is is_openmetrics
    parse: Any = parse_openmetrics if is_openmetrics else parse_plain
    assert (
        len(list(parse(page.body.decode()))) > len(TABLE) - len((*SPOOL, *AUTH, *TLS, *WORKERS)) - 5
    )


def test_both_forms_tell_the_same() -> None:
    world = World(2, faults=FAULTS)
    observing, metrics = observe(world, "a", per_shard=True)
    feed(world, observing.streams["a"], frames=20, records=50)
    world.run_until(world.now_ns + 700 * MS)

    def ours(accept: str) -> Samples:
        found = samples(metrics, accept)
        return {key: number for key, number in found.items() if key[0].startswith("kdaemon_")}

    assert ours("") == ours(OPENMETRICS)


def test_process_and_python_are_told_and_the_garbage_collector_is_not() -> None:
    _, metrics = observe(World(1))
    body = whole(metrics.plain()).body
    assert b"\nprocess_resident_memory_bytes " in body
    assert b"\npython_info{" in body
    assert b"python_gc" not in body


def test_a_stream_name_with_quotes_and_breaks_cannot_forge_a_series() -> None:
    name = 'a"} 1\nkdaemon_records_received_total{stream="b\\'
    _, metrics = observe(World(1), name)
    found = samples(metrics)
    assert value(found, "kdaemon_records_received_total", stream=printable(name)) == 0
    assert ("kdaemon_records_received_total", frozenset({("stream", "b\\")})) not in found


def test_names_follow_the_conventions() -> None:
    for metric in TABLE:
        assert metric.name.startswith("kdaemon_")
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert metric.text.endswith("."), metric.name
    assert len({metric.name for metric in TABLE}) == len(TABLE)


def test_openmetrics_names_the_unit_of_what_ends_with_one() -> None:
    _, metrics = observe(World(1), "a")
    body = whole(metrics.openmetrics()).body
    assert b"# UNIT kdaemon_delivery_seconds seconds\n" in body
    assert b"# UNIT kdaemon_received_bytes bytes\n" in body


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_what_is_counted_conserves_though_records_move_between_the_steps(accept: str) -> None:
    """The text is made while the daemon goes on: what it says of a stream is of one moment."""
    world = World(3, shard_count=1, faults=FAULTS)
    observing, metrics = observe(world, "a", "b", "c", per_shard=True)
    for engine in observing.streams.values():
        feed(world, engine, frames=60, records=50)
    world.run_until(world.now_ns + 500 * MS)
    steps = metrics.openmetrics() if accept else metrics.plain()
    next(steps)
    step_count = 1
    try:
        while True:
            world.run_until(world.now_ns + 20 * MS)
            next(steps)
            step_count += 1
    except StopIteration as end:
        body: bytes = end.value.body
    assert step_count > 50
    parse: Any = parse_openmetrics if accept else parse_plain
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }
    assert_conserved(found, "in steps", "a", "b", "c")
    assert total(found, "kdaemon_records_unaccounted") == 0
    for name in ("kdaemon_put_records_duration_seconds", "kdaemon_delivery_seconds"):
        for stream in ("a", "b", "c"):
            count = value(found, name + "_count", stream=stream)
            assert value(found, name + "_bucket", stream=stream, le="+Inf") == count


def test_totals_conserve_though_streams_close_and_open_while_they_are_read() -> None:
    """A closed one's counts move to the others' sum: they are told once."""
    world = World(3, shard_count=1)
    names = ("a", "b", "c", "d")
    observing, metrics = observe(world, *names)
    for engine in observing.streams.values():
        feed(world, engine, frames=4, records=50)
    world.run_until(world.now_ns + 500 * MS)
    received = sum(engine.counters.received for engine in observing.streams.values())
    observing.upstreams[0].closed.receive(3, 3)
    observing.upstreams[0].closed.rejected[RefuseReason.INVALID] += 3
    steps = metrics.plain()
    next(steps)
    for name in names[2:]:
        observing.upstreams[0].closed.add(observing.streams.pop(name).counters)
    observing.streams["late"] = world.add_engine()
    page = whole(steps)
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_plain(page.body.decode())
        for sample in family.samples
    }
    assert_conserved(found, "in steps", *names)
    assert total(found, "kdaemon_records_received_total") == received + 3


def test_the_lag_of_the_loop_is_a_histogram_of_seconds() -> None:
    observing, metrics = observe(World(1))
    for lag_ns in (0, 4 * MS, 30 * MS):
        observing.loop_lag.observe(lag_ns)
    found = samples(metrics)
    name = "kdaemon_loop_lag_seconds"
    assert value(found, f"{name}_count") == 3
    assert value(found, f"{name}_sum") == 0.034
    assert value(found, f"{name}_bucket", le="0.005") == 2


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_many_streams_are_written_in_small_steps_under_one_head(accept: str) -> None:
    world = World(1)
    _, metrics = observe(world, *(f"stream-{number}" for number in range(40)), per_shard=True)
    steps = metrics.openmetrics() if accept else metrics.plain()
    step_count = 1 + sum(1 for _ in steps)
    page = whole(metrics.openmetrics() if accept else metrics.plain())
    heads = [line for line in page.body.decode().splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    sample_count = len(samples(metrics, accept))
    assert sample_count > 40 * 100
    assert step_count > sample_count / STEP_SAMPLES


def test_lines_of_the_log_that_were_dropped_are_counted() -> None:
    world = World(1)
    queue = LogQueue(lambda _: None, lambda _: b"")
    metrics = Metrics(reader_of(Observing(world.memory), At(world), log_queue=queue))
    queue.lines_dropped = 7
    assert value(samples(metrics), "kdaemon_log_lines_dropped_total") == 7
    queue.close(5)


def test_what_became_of_reloads_is_shown_as_prometheus_has_it() -> None:
    world = World(1)
    wall = [5.0]
    reloads = Reloads(lambda: wall[0], 1, 1)
    metrics = Metrics(reader_of(Observing(world.memory), At(world), reloads=reloads))

    def shown() -> list[float]:
        found = samples(metrics)
        names = (
            "reloads_total",
            "reload_failures_total",
            "last_reload_successful",
            "last_reload_success_timestamp_seconds",
        )
        return [value(found, f"kdaemon_config_{name}") for name in names]

    assert shown() == [0, 0, 1, 5.0]  # it started with one that is right
    wall[0] = 7.0
    reloads.note(Report(Outcome.WRONG, problems=("x",)))
    assert shown() == [1, 1, 0, 5.0]
    wall[0] = 9.0
    reloads.note(Report(Outcome.RESTART, ("listen.http",)))
    assert shown() == [2, 2, 0, 5.0]
    reloads.note(Report(Outcome.UNCHANGED))
    assert shown() == [3, 2, 1, 9.0]
    assert reloads.generation == 1
    reloads.note(Report(Outcome.APPLIED, ("log.level",)))
    assert shown() == [4, 2, 1, 9.0]
    assert reloads.generation == 2
