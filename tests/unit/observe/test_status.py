"""Readiness move by move, and the status page of real engines in a simulated world."""

import json
from dataclasses import replace
from hashlib import sha256
from itertools import product
from typing import Any

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.description import Capacity, OpenShard, StreamDescription
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.http.counters import ListenerCounters
from kdaemon.observe.readiness import Readiness, ReadyMove, ReadyState, is_memory_full
from kdaemon.observe.reloads import Outcome, Reloads, Report
from kdaemon.observe.slices import Steps
from kdaemon.observe.snapshot import HOT_SHARDS_MAX
from kdaemon.observe.status import status_steps
from kdaemon.sandbox.settings import Quota
from tests.kit.observing import At, Observing, reader_of
from tests.kit.queues import lanes_of
from tests.kit.world import MS, SECOND, SETTINGS, Faults, World, make_frame
from tests.unit.observe.whole import whole

ALLOWED = {
    (ReadyState.STARTING, ReadyMove.STARTED): ReadyState.READY,
    (ReadyState.STARTING, ReadyMove.TOLD_TO_STOP): ReadyState.DRAINING,
    (ReadyState.READY, ReadyMove.TOLD_TO_STOP): ReadyState.DRAINING,
}

SIGNATURE_TEXT = "The request signature we calculated does not match the signature you provided."


class Place:
    """A world, its streams, and the page over them."""

    def __init__(self, world: World, *names: str, shows_keys: bool = False) -> None:
        self.world = world
        self.observing = Observing(world.memory, {name: world.add_engine() for name in names})
        self.listeners = {"http": ListenerCounters()}
        self.readiness = Readiness(lambda: is_memory_full(world.memory))
        reader = reader_of(
            self.observing, At(world), listeners=self.listeners, readiness=self.readiness
        )
        self.reader, self.shows_keys = reader, shows_keys

    def steps(self) -> Steps:
        return status_steps(self.reader, shows_keys=self.shows_keys)

    def page(self) -> Any:
        return json.loads(whole(self.steps()).body)

    def put(self, name: str, *records: Record, deadline_ns: int | None = None) -> None:
        engine = self.observing.streams[name]
        self.world.submit(engine, make_frame(list(records), deadline_ns=deadline_ns))

    def run(self, duration_ns: int) -> None:
        self.world.run_until(self.world.now_ns + duration_ns)


@pytest.mark.parametrize(("state", "move"), list(product(ReadyState, ReadyMove)))
def test_every_move_of_readiness_is_allowed_or_raises_and_changes_nothing(
    state: ReadyState, move: ReadyMove
) -> None:
    readiness = Readiness(lambda: False)
    readiness.state = state
    act = {ReadyMove.STARTED: readiness.started, ReadyMove.TOLD_TO_STOP: readiness.told_to_stop}
    if (state, move) in ALLOWED:
        act[move]()
        assert readiness.state is ALLOWED[state, move]
    else:
        with pytest.raises(KeyError):
            act[move]()
        assert readiness.state is state


def test_only_a_started_daemon_with_room_is_ready() -> None:
    is_full = True
    readiness = Readiness(lambda: is_full)
    assert readiness.why_not() == "starting"
    readiness.started()
    assert readiness.why_not() == "memory is full"
    is_full = False
    assert readiness.why_not() is None
    readiness.told_to_stop()
    assert readiness.why_not() == "draining"


def test_memory_is_full_when_less_than_a_sixteenth_is_free() -> None:
    memory = ByteBudget(1600)
    assert not is_memory_full(memory)
    memory.take(1500)
    assert not is_memory_full(memory)
    memory.take(1)
    assert is_memory_full(memory)


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(lost_request=1.0), "ConnectError"),
        (Faults(call_throttled=1.0), "ThrottlingException"),
        (Faults(record_failure=1.0), "InternalFailure"),
    ],
    ids=["no answer", "throttled", "each record fails"],
)
def test_a_stream_that_delivers_nothing_says_why_until_it_delivers(
    faults: Faults, code: str
) -> None:
    """Whether calls fail whole or each of their records does: it comes first, and names the last
    error. It is nobody's fault here, so that it is no hold.
    """
    world = World(1, faults=faults)
    place = Place(world, "idle", "orders")
    place.run(100 * MS)
    place.put("orders", *(Record(b"x", f"key-{i}") for i in range(50)))
    place.run(2 * SECOND)
    first, second = place.page()["streams"]
    assert first["name"] == "orders"
    assert first["hold"] is second["failing"] is None
    assert first["failing"]["code"] == code
    world.faults = Faults()
    world.run_idle()
    assert {each["failing"] for each in place.page()["streams"]} == {None}


def test_a_stream_of_which_some_records_fail_is_not_failing() -> None:
    place = Place(World(1, faults=Faults(failing_keys=frozenset({"k1"}))), "orders")
    place.run(100 * MS)
    place.put("orders", *(Record(b"x", f"k{i}") for i in range(50)))
    place.run(50 * MS)
    (stream,) = place.page()["streams"]
    assert stream["buffered"] + stream["in_flight"] > 0
    assert stream["failing"] is None


def test_a_missing_stream_that_nobody_listed_is_no_hold_and_its_upstream_is_not_ill() -> None:
    world = World(1)
    place = Place(world, "bogus", "orders")
    place.run(100 * MS)
    place.put("orders", Record(b"x", "k"))
    world.run_idle()
    missing = ServiceError("ResourceNotFoundException", "Stream bogus not found.", status=400)
    bogus = place.observing.streams["bogus"]
    bogus.hold = missing
    assert place.page()["upstreams"][0]["on_hold"] == 1
    bogus.give_up_missing(missing, world.now_ns)
    page = place.page()
    (stream,) = (each for each in page["streams"] if each["name"] == "bogus")
    assert stream["hold"] is stream["failing"] is None
    assert stream["missing"] == {"code": missing.code, "message": missing.message}
    (upstream,) = page["upstreams"]
    assert (upstream["on_hold"], upstream["health"]) == (0, "well")
    place.observing.streams.pop("orders")
    assert place.page()["upstreams"][0]["health"] == "untried"


def test_the_last_reload_is_told_while_it_is_refused() -> None:
    world = World(1)
    reloads = Reloads(lambda: 5.0, 1, 1)
    reader = reader_of(Observing(world.memory), At(world), reloads=reloads)

    def told() -> Any:
        return json.loads(whole(status_steps(reader)).body)["refused_reload"]

    assert told() is None
    reloads.note(Report(Outcome.WRONG, problems=("k.toml: region: is 3", "y")))
    assert told() == {"outcome": "wrong", "why": "k.toml: region: is 3, and 1 more"}
    reloads.note(Report(Outcome.RESTART, ("listen.http",)))
    assert told() == {"outcome": "restart", "why": "listen.http"}
    reloads.note(Report(Outcome.UNCHANGED))
    assert told() is None


def test_an_idle_daemon_s_page_says_so() -> None:
    place = Place(World(1), "orders")
    place.readiness.started()
    place.run(2500 * MS)
    page = place.page()
    assert page["version"] == "1.2.3"
    assert page["uptime_s"] == 2.5
    assert page["state"] == "ready"
    assert page["not_ready_because"] is None
    assert page["heartbeat_age_s"] == 2.5
    assert page["memory"] == {"bytes_taken": 0, "bytes_max": 1 << 30, "is_full": False}
    assert page["listeners"]["http"]["connections"] == 0
    (stream,) = page["streams"]
    assert stream["name"] == "orders"
    assert stream["hold"] is stream["oldest_queued_s"] is stream["call_mean_s"] is None
    assert stream["shard_map"]["shards"] == 4
    assert stream["shard_map"]["refreshes"] == 1
    assert stream["shard_map"]["asks_in_s"] > 0
    assert stream["rejected"] == stream["calls"] == {}, "what never happened is not listed"
    assert stream["unavailable"] is None
    assert stream["keyless"] == stream["shards_backlogged"] == 0
    assert stream["hottest_shards"] == []


def test_what_was_delivered_and_how_fast_is_on_the_page() -> None:
    world = World(1, round_trip_ns=(20 * MS, 20 * MS))
    place = Place(world, "orders")
    place.put("orders", *(Record(b"12345", "key") for _ in range(10)))
    place.run(4 * SECOND)
    (stream,) = place.page()["streams"]
    assert stream["received"] == stream["delivered"] == stream["attempts"] == 10
    assert stream["calls"] == {"delivered": 1}
    assert stream["call_mean_s"] == stream["delivery_mean_s"] == 0.02
    assert stream["per_second"] == {"received": 2.5, "delivered": 2.5, "delivered_bytes": 20.0}
    assert stream["billing"] == {
        "units": {"put_payload_units": 10},
        "units_per_second": {"put_payload_units": 2.5},
        "record_mean_bytes": 8.0,
        "aggregation_saves": {"put_payload_units": 0.9},
    }
    assert stream["throttled_share"] == 0


def test_a_throttled_stream_shows_its_hottest_shards_and_how_far_they_are_behind() -> None:
    world = World(1, shard_count=8, quota=Quota(50, 1 << 20))  # far below what we pace for
    place = Place(world, "orders")
    place.run(100 * MS)
    for _ in range(10):
        place.put("orders", *(Record(b"x", f"key-{i}") for i in range(500)))
        place.run(100 * MS)
    (stream,) = place.page()["streams"]
    assert stream["throttled_share"] == round(stream["throttled"] / stream["attempts"], 4)
    assert 0 < stream["throttled_share"] < 1
    assert stream["retries"]["throttled"] > 0
    assert stream["failures"]["ProvisionedThroughputExceededException"] > 0
    (said,) = stream["last_errors"]
    assert said["code"] == "ProvisionedThroughputExceededException"
    assert said["records"] == stream["failures"]["ProvisionedThroughputExceededException"]
    assert said["calls"] == 0
    assert 0 <= said["age_s"] < 1
    assert stream["buffered"] > 0
    assert stream["memory_bytes"] > 0
    assert 0.5 < stream["oldest_queued_s"] <= 1.0
    shards = stream["hottest_shards"]
    assert len(shards) == HOT_SHARDS_MAX
    behind = [shard["backlog"]["seconds"] for shard in shards]
    assert behind == sorted(behind, reverse=True)
    assert behind[-1] > 1
    assert stream["shards_backlogged"] == 8
    assert all(shard["shard_id"].startswith("shardId-") for shard in shards)
    assert all(shard["throttled"] > 0 for shard in shards)
    for shard in shards:
        pace = shard["pace"]
        assert 0 < pace["records_share"] < 1
        assert pace["records_per_second"] == pytest.approx(1000 * pace["records_share"], abs=1.5)


def test_a_hot_shard_is_told_in_records_bytes_seconds_and_pace() -> None:
    world = World(1, settings=replace(SETTINGS, first_share=1.0))
    place = Place(world, "orders")
    place.run(100 * MS)
    engine = place.observing.streams["orders"]
    lane = lanes_of(engine)[2]
    place.put("orders", *(Record(b"12345", "key", lane.hash_key) for _ in range(3000)))
    lane.taken, lane.throttled, lane.failure_count = 70, 30, 2
    lane.blocked_until_ns = world.now_ns + 125 * MS
    (stream,) = place.page()["streams"]
    assert stream["buffered"] == 2100, "two calls are out"
    assert stream["hottest_shards"] == [
        {
            "shard_id": lane.shard_id,
            "backlog": {"records": 2100, "bytes": 16_800, "seconds": 2.1},
            "pace": {
                "records_per_second": 1000,
                "bytes_per_second": 1024 * 1024,
                "records_share": 1.0,
                "bytes_share": 1.0,
            },
            "taken": 70,
            "throttled": 30,
            "state": "waiting",
            "backoff_s": 0.125,
            "failures_in_a_row": 2,
            "load": None,
        }
    ]


@pytest.mark.parametrize("shows_keys", [False, True])
def test_the_keys_of_a_hot_shard_are_told_hashed_unless_they_may_be_shown(
    *, shows_keys: bool
) -> None:
    world = World(1, settings=replace(SETTINGS, first_share=1.0))
    place = Place(world, "orders", shows_keys=shows_keys)
    place.run(100 * MS)
    engine = place.observing.streams["orders"]
    lane = lanes_of(engine)[2]
    assert engine.handle_hot([lane.shard_id], 8, world.now_ns) == 1
    mine = [Record(b"12345", "key", lane.hash_key)] * 3000
    place.put("orders", *mine)
    place.run(SECOND)
    (stream,) = place.page()["streams"]
    digits = sha256(lane.hash_key.encode()).hexdigest()[:12]
    assert stream["hottest_shards"][0]["load"] == {
        "records_per_second": 3000.0,
        "bytes_per_second": 24_000.0,
        "quota_part": 3.0,
        "advice": "at 300% of its quota of records: key #1 is 100% of that, more than a shard"
        " takes: splitting will not help; spread this key",
        "keys": [
            {
                "key": lane.hash_key if shows_keys else digits,
                "is_explicit_hash_key": True,
                "records_part": 1.0,
                "bytes_part": 1.0,
            }
        ],
    }


def test_records_without_a_key_that_wait_are_told_apart_and_have_an_age() -> None:
    world = World(1, faults=Faults(lost_request=1.0))
    place = Place(world, "orders")
    place.run(100 * MS)
    place.put("orders", *(Record(b"x", "") for _ in range(300)))
    place.run(2 * SECOND)
    (stream,) = place.page()["streams"]
    assert stream["keyless"] + stream["in_flight"] == 300
    assert stream["keyless"] > 0
    assert stream["oldest_queued_s"] == 2.0
    assert stream["hottest_shards"] == []


def test_a_stream_on_hold_comes_first_and_says_why() -> None:
    place = Place(World(1, faults=Faults(lost_request=1.0)), "a", "busy", "held")
    place.run(100 * MS)
    place.put("busy", *(Record(b"x", f"k{i}") for i in range(50)))
    place.put("a", Record(b"x", "k"))
    place.observing.streams["held"].hold = ServiceError(
        "AccessDeniedException", "User: u is not authorized to perform: kinesis:PutRecords"
    )
    place.run(500 * MS)
    page = place.page()
    assert [stream["name"] for stream in page["streams"]] == ["held", "busy", "a"]
    assert page["streams"][0]["hold"] == {
        "code": "AccessDeniedException",
        "message": "User: u is not authorized to perform: kinesis:PutRecords",
    }


def test_a_stream_that_takes_nothing_comes_first_and_says_why_in_full() -> None:
    settings = replace(SETTINGS, is_ordered=True, aggregate_bytes_max=50 * 1024)
    place = Place(World(1, settings=settings), "a", "auto")
    engine = place.observing.streams["auto"]
    shards = (OpenShard("shardId-0", 0, HASH_KEY_MAX),)
    at_once(
        engine.take_description(StreamDescription(shards, None, True, None), place.world.now_ns)
    )
    first, second = place.page()["streams"]
    assert (first["name"], second["name"]) == ("auto", "a")
    assert second["unavailable"] is None
    assert first["unavailable"]["code"] == "InvalidArgumentException"
    why = first["unavailable"]["message"]
    assert "AUTO" in why
    assert why.endswith("or switch the stream back."), "the remedy is not cut off"


def test_what_the_service_told_of_a_stream_is_shown() -> None:
    place = Place(World(1), "a")
    (stream,) = place.page()["streams"]
    assert stream["capacity"] is None
    engine = place.observing.streams["a"]
    capacity = Capacity(is_on_demand=True, warm_bytes_per_second=7 * MIB)
    told = StreamDescription(
        None,
        2 * MIB,
        is_auto=False,
        stream_arn=None,
        has_record_readers=True,
        capacity=capacity,
        shard_bytes_per_second=128_000,
    )
    at_once(engine.take_description(told, place.world.now_ns))
    unknown = StreamDescription(None, None, is_auto=False, stream_arn=None)
    at_once(engine.take_description(unknown, place.world.now_ns))
    (stream,) = place.page()["streams"]
    assert stream["capacity"] == {
        "is_on_demand": True,
        "warm_bytes_per_second": 7 * MIB,
        "warm_target_bytes_per_second": None,
    }
    assert stream["record_bytes_max"] == 2 * MIB
    assert stream["has_record_readers"] is True
    assert stream["is_auto"] is False
    assert stream["shard_bytes_per_second"] == 128_000


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        # As AWS words it: the canonical request follows, with the session token that was signed.
        (
            "InvalidSignatureException",
            SIGNATURE_TEXT + "\n\nThe Canonical String for this request should have been\n'POST\n"
            "/\n\nx-amz-security-token:SECRET\n'",
            SIGNATURE_TEXT,
        ),
        (
            "IncompleteSignatureException",
            "'SECRET' not a valid key=value pair (missing equal-sign) in Authorization header",
            "'***' not a valid key=value pair (missing equal-sign) in Authorization header",
        ),
        ("AccessDeniedException", "", ""),
        ("AccessDeniedException", "a\x1b[31m\ud800", "a\\x1b[31m\\ud800"),
        ("AccessDeniedException", "long " * 1000, ("long " * 60) + "..."),
    ],
)
def test_of_the_service_s_words_only_the_harmless_part_is_shown(
    code: str, message: str, shown: str
) -> None:
    place = Place(World(1), "orders")
    place.observing.streams["orders"].hold = ServiceError(code, message)
    text = whole(place.steps()).body
    assert b"SECRET" not in text
    assert json.loads(text)["streams"][0]["hold"] == {"code": code, "message": shown}


def test_the_page_holds_neither_keys_nor_data() -> None:
    place = Place(World(1, faults=Faults(record_failure=0.5)), "orders")
    place.put("orders", *(Record(b"DATA-%d" % i, f"KEY-{i}") for i in range(100)))
    for _ in range(20):
        text = whole(place.steps()).body
        assert b"DATA" not in text
        assert b"KEY" not in text
        place.run(20 * MS)


def test_door_and_listeners_are_told_as_far_as_something_happened() -> None:
    place = Place(World(1))
    place.observing.door.received = 4
    place.observing.door.rejected[RefuseReason.UNLISTED] = 4
    http = place.listeners["http"]
    http.opened, http.open = 9, 2
    http.refused["malformed"] = 3
    http.timed_out["idle"] = 1
    page = place.page()
    assert page["door"] == {"received": 4, "rejected": {"unlisted": 4}}
    assert page["listeners"] == {
        "http": {
            "connections": 2,
            "opened": 9,
            "refused": {"malformed": 3},
            "timed_out": {"idle": 1},
            "handler_failures": 0,
        }
    }


def test_a_page_on_the_very_first_nanosecond_divides_by_nothing() -> None:
    place = Place(World(1), "orders")
    assert place.page()["streams"][0]["per_second"]["delivered"] == 0
