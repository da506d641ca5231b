"""The engine against the sandbox service under a simulated clock: what must hold whatever
happens."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.record import Record
from kdaemon.base.verdict import Verdict
from kdaemon.sandbox.settings import Quota
from tests.kit.depth import some
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Faults, World, counters_of, make_frame

SEEDS = some(range(8))


def feed(
    world: World, *, frames: int, records: int, every_ns: int, deadline_ns: int | None = None
) -> set[bytes]:
    """Schedules frames of distinct records for the world's one engine; returns their data."""
    (engine,) = world.engines
    sent: set[bytes] = set()

    def put(number: int) -> None:
        batch = []
        for index in range(records):
            data = b"%d.%d." % (number, index) + bytes(world.dice.randint(0, 300))
            sent.add(data)
            batch.append(Record(data, f"key-{world.dice.randint(0, 5000)}"))
        deadline = None if deadline_ns is None else world.now_ns + deadline_ns
        assert world.submit(engine, make_frame(batch, deadline_ns=deadline))

    for number in range(frames):
        world.at(world.now_ns + number * every_ns, partial(put, number))
    world.run_until(world.now_ns + frames * every_ns)
    return sent


def assert_settled_once(world: World) -> None:
    assert len(world.settled) == len(set(map(id, world.settled))) == world.frame_count
    assert world.memory.bytes_taken == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_record_arrives_exactly_once_when_nothing_fails(seed: int) -> None:
    world = World(seed)
    world.add_engine()
    sent = feed(world, frames=60, records=200, every_ns=50 * MS)
    world.run_idle()
    assert world.written == Counter(sent), f"seed {seed}"
    assert_settled_once(world)
    assert counters_of(world).possible_duplicates == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_lose_nothing_and_duplicate_only_what_was_counted(seed: int) -> None:
    world = World(
        seed,
        faults=Faults(
            lost_answer=0.05,
            lost_request=0.05,
            server_error=0.05,
            call_throttled=0.05,
            wrong_count=0.05,
            record_failure=0.03,
        ),
    )
    world.add_engine()
    sent = feed(world, frames=60, records=50, every_ns=50 * MS)
    world.run_idle(seconds_max=600)
    assert set(world.written) == sent, f"seed {seed}"
    extra = sum(world.written.values()) - len(sent)
    assert extra <= counters_of(world).possible_duplicates, f"seed {seed}"
    assert_settled_once(world)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("may_list", [True, False])
def test_pace_keeps_a_lone_daemon_almost_unthrottled(seed: int, *, may_list: bool) -> None:
    """Demand is twice what four shards take: the buckets, not the service, hold it back."""
    world = World(seed, may_list=may_list, settings=replace(SETTINGS, first_share=1.0))
    world.add_engine()
    feed(world, frames=80, records=400, every_ns=50 * MS)
    counters = counters_of(world)
    assert counters.throttled <= counters.attempts * (0.005 if may_list else 0.25), f"seed {seed}"
    assert counters.delivered >= (3.9 * 4000 if may_list else 0.5 * 3.9 * 4000), f"seed {seed}"
    world.run_idle()
    assert_settled_once(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_limits_hold_for_every_call(seed: int) -> None:
    world = World(seed, shard_count=64, quota=Quota(100_000, 1 << 30))
    world.settings = SETTINGS
    world.add_engine()
    feed(world, frames=100, records=500, every_ns=5 * MS)
    world.run_idle()
    assert world.max_batch_records <= 500
    assert world.max_batch_bytes <= SETTINGS.batch_bytes_max
    assert world.max_calls_at_once <= SETTINGS.in_flight_max
    assert_settled_once(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reshard_under_load_loses_and_doubles_nothing(seed: int) -> None:
    world = World(seed)
    world.add_engine()
    shards = world.service.stream(STREAM).open_shards
    split, merge = shards[0], shards[2:4]
    world.at(
        world.now_ns + 700 * MS,
        lambda: world.service.handle(
            "SplitShard",
            {
                "StreamName": STREAM,
                "ShardToSplit": split.shard_id,
                "NewStartingHashKey": str(split.ending_hash_key // 2),
            },
            world.now_ns,
        ),
    )
    world.at(
        world.now_ns + 1500 * MS,
        lambda: world.service.handle(
            "MergeShards",
            {
                "StreamName": STREAM,
                "ShardToMerge": merge[0].shard_id,
                "AdjacentShardToMerge": merge[1].shard_id,
            },
            world.now_ns,
        ),
    )
    sent = feed(world, frames=80, records=100, every_ns=50 * MS)
    world.run_idle()
    counters = counters_of(world)
    assert world.written == Counter(sent), f"seed {seed}"
    assert counters.map_mismatches > 0
    assert 2 <= counters.map_refreshes <= 6, "one refresh a change, not a storm"
    assert world.engines[0].audit().queues.shards.shard_count == 4
    assert_settled_once(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_costs_few_calls_and_loses_nothing(seed: int) -> None:
    world = World(seed, faults=Faults(lost_request=1.0))
    world.add_engine()
    sent = feed(world, frames=20, records=50, every_ns=100 * MS)
    world.run_until(world.now_ns + 300 * SECOND)
    assert world.call_count <= 80, "an outage is probed, not hammered"
    world.faults = Faults()
    world.run_idle()
    assert world.written == Counter(sent)
    assert_settled_once(world)


def test_a_deadline_withdraws_what_is_queued_so_that_a_retry_is_no_duplicate() -> None:
    world = World(1, faults=Faults(lost_request=1.0))
    engine = world.add_engine()
    frame = make_frame([Record(b"late", "k")], deadline_ns=world.now_ns + 20 * SECOND)
    world.submit(engine, frame)
    world.run_until(world.now_ns + 21 * SECOND)
    assert world.settled == [frame]
    assert frame.results[0] is not None
    assert frame.results[0].error_code == "ServiceUnavailable", "no call arrives"
    world.faults = Faults()
    world.run_until(world.now_ns + 60 * SECOND)
    assert not world.written
    assert counters_of(world).rejected[RefuseReason.DEADLINE] == 1
    assert world.memory.bytes_taken == 0


def test_what_is_in_flight_at_the_deadline_is_told_as_unknown_and_counted() -> None:
    world = World(1, round_trip_ns=(60 * SECOND, 60 * SECOND))
    engine = world.add_engine()
    frame = make_frame([Record(b"slow", "k")], deadline_ns=world.now_ns + 20 * SECOND)
    world.submit(engine, frame)
    world.run_until(world.now_ns + 21 * SECOND)
    assert frame.results[0] is not None
    assert frame.results[0].error_code == "InternalFailure"
    assert counters_of(world).possible_duplicates == 1
    world.run_until(world.now_ns + 60 * SECOND)
    assert counters_of(world).delivered == 1
    assert frame.results[0].error_code == "InternalFailure", "what was told is not rewritten"


def test_a_poison_record_is_found_and_buried_and_the_rest_is_delivered() -> None:
    world = World(1)
    engine = world.add_engine()
    records = [Record(b"%d" % index, f"k{index}") for index in range(100)]
    records[37] = Record(b"poison", "k" * 300)  # the sandbox refuses its whole request
    frame = make_frame(records)
    world.submit(engine, frame)
    world.run_idle()
    assert world.settled == [frame]
    buried = [i for i, r in enumerate(frame.results) if r is None or not r.is_delivered]
    assert buried == [37]
    assert frame.results[37] is not None
    assert frame.results[37].error_code == "ValidationException"
    counters = counters_of(world)
    assert counters.dead[DeadReason.POISON] == 1
    assert sum(world.written.values()) == 99, "bisecting sends no good record twice"
    assert counters.calls[Verdict.POISON] <= 9, "log2(100) halvings and the record itself"


def test_a_missing_stream_is_said_at_once_to_those_who_wait_and_probed_for_again() -> None:
    world = World(1)
    engine = world.add_engine()
    world.run_until(world.now_ns + 100 * MS)
    world.service.handle("DeleteStream", {"StreamName": STREAM}, world.now_ns)
    waiting = make_frame([Record(b"a", "k")], deadline_ns=world.now_ns + 20 * SECOND)
    patient = make_frame([Record(b"b", "k")])
    world.submit(engine, waiting)
    world.submit(engine, patient)
    world.run_until(world.now_ns + 200 * MS)
    assert world.settled == [waiting]
    assert waiting.refusal is not None
    assert waiting.refusal[0] == "ResourceNotFoundException"
    assert engine.refusal_at(world.now_ns) is not None
    world.service.create_stream(STREAM, 2, world.now_ns)
    world.run_idle()
    assert world.written == Counter({b"b": 1})
    assert engine.hold is None


def test_a_lone_client_waits_for_no_linger() -> None:
    world = World(1, round_trip_ns=(20 * MS, 20 * MS))
    engine = world.add_engine()
    for number in range(20):
        at_ns = world.now_ns + number * 50 * MS
        world.at(at_ns, partial(world.submit, engine, make_frame([Record(b"%d" % number, "k")])))
    world.run_idle()
    world.run_until(world.now_ns + 2 * SECOND)
    assert len(world.settled) == 20
    assert counters_of(world).delivery_ns.sum == 20 * 20 * MS, "the round trip and nothing more"


def test_clients_that_speak_while_a_call_is_out_share_the_next_batch() -> None:
    world = World(1, round_trip_ns=(20 * MS, 20 * MS), settings=replace(SETTINGS, first_share=1.0))
    engine = world.add_engine()
    for number in range(65):
        at_ns = world.now_ns + number * MS // 10
        world.at(
            at_ns,
            partial(world.submit, engine, make_frame([Record(b"%d" % number, f"k{number}")])),
        )
    world.run_idle()
    world.run_until(world.now_ns + SECOND)
    assert len(world.settled) == 65
    assert world.call_count == 2, "one for the first, one for the 64 that gathered meanwhile"


def test_one_hot_shard_does_not_hold_up_the_others() -> None:
    world = World(3, shard_count=4, settings=replace(SETTINGS, first_share=1.0))
    engine = world.add_engine()
    world.run_until(world.now_ns + 100 * MS)
    hot = [Record(b"h%d" % number, "k", "0") for number in range(5000)]
    for start in range(0, 5000, 500):
        world.submit(engine, make_frame(hot[start : start + 500]))
    middle = str(2**127 + 5)
    cold = make_frame([Record(b"c%d" % number, "k", middle) for number in range(100)])
    world.submit(engine, cold)
    started_ns = world.now_ns
    while cold.unsettled:
        world.run_until(world.now_ns + 10 * MS)
        assert world.now_ns - started_ns < 400 * MS
    world.run_idle()
    assert counters_of(world).throttled == 0


def test_records_without_a_key_are_spread_evenly_over_the_shards() -> None:
    world = World(1)
    engine = world.add_engine()
    world.run_until(world.now_ns + 100 * MS)
    for _ in range(10):
        world.submit(engine, make_frame([Record(b"x%d" % i, "") for i in range(100)]))
        world.run_idle()
    counts = [len(shard.log) for shard in world.service.stream(STREAM).open_shards]
    assert sum(counts) == 1000
    assert min(counts) >= 200, "the one with the most budget is next"


def test_full_means_refused_and_nothing_taken() -> None:
    world = World(1, faults=Faults(lost_request=1.0))
    engine = world.add_engine()
    big = [Record(bytes(1_000_000), f"k{number}") for number in range(5)]
    taken = 0
    while world.submit(engine, make_frame(list(big))):
        taken += 1
        assert taken < 100
    assert taken == 13  # 64 MiB of frames of 5 MB
    assert counters_of(world).rejected[RefuseReason.FULL] == 5
    assert engine.ledger.footprint_bytes <= SETTINGS.buffer_bytes_max


def test_a_record_larger_than_the_bucket_goes_into_debt_rather_than_block_for_ever() -> None:
    world = World(1)
    engine = world.add_engine()
    record = Record(bytes(1024 * 1024 - 1), "k")
    world.submit(engine, make_frame([record, Record(b"after", "k")]))
    world.run_idle()
    assert sum(world.written.values()) == 2
