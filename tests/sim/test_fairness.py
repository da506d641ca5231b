"""A quiet client beside greedy ones, simulated: it waits for a turn, never for their queue, and
nothing of the shard is wasted for that.

What is held: where the quiet one asks for less than its part (a shard divided by those who write to
it), its p99 stays within twice that of a time alone, and one round trip; it is refused nothing; and
the shards that the greedy ones write to are used to 97 %. A part is a connection's: one who opens
16 has 16 turns (the last tests). `python -m bench.fairness` tries the same with real processes.
"""

from dataclasses import replace

import pytest

from kdaemon.base.frame import Acknowledge
from kdaemon.base.limits import MIB
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.settings import Quota, SandboxSettings
from tests.kit.depth import some
from tests.kit.rivals import PLAIN, Load, Plan, Run, Way, Where, alone, simulate
from tests.kit.world import MS

USED_MIN = 0.97
DELIVERED, ACCEPTED, STORED = Acknowledge.DELIVERED, Acknowledge.ACCEPTED, Acknowledge.STORED
# In order, a key has one record on its way: so many of them do not wait for each other.
MANY_KEYS = Load(keys=1_000)
QUIET_KEYS = Load(1, 200.0, 100, 1, keys=200)
WIDE = Quota(100_000, 100 * MIB)  # a quota that never binds: calls do

by_every_way = pytest.mark.parametrize("way", Way, ids=lambda way: way.value)


def assert_fair(plan: Plan, *, used_min: float = USED_MIN, extra_ms: float = 0.0) -> Run:
    """`extra_ms`: what a record of this plan may wait for besides, and why is said where it is
    given. Returns the run beside the greedy ones.
    """
    before, beside = alone(plan.alone()), simulate(plan)
    print(f"alone: {before}\nbeside: {beside}")
    limit_ms = 2 * before.p99_ms + plan.round_trip_ns[1] / MS + extra_ms
    assert before.refused == 0, f"{plan}: alone"
    assert beside.refused == 0, str(plan)
    assert beside.p99_ms <= limit_ms, f"{plan}: {beside.p99_ms:.0f} ms, not {limit_ms:.0f}"
    assert beside.used >= used_min, str(plan)
    return beside


@by_every_way
@pytest.mark.parametrize("promise", [DELIVERED, ACCEPTED, STORED], ids=lambda each: each.value)
@pytest.mark.parametrize("where", Where, ids=lambda where: where.value)
def test_a_quiet_client_waits_for_a_turn_and_not_for_a_queue(
    where: Where, promise: Acknowledge, way: Way
) -> None:
    is_many = where is Where.OTHER_STREAMS
    greedy = Load(4 if is_many else 1, promise=promise)
    assert_fair(Plan(1, way, where, greedy=greedy, shard_count=1 if is_many else 2))


@by_every_way
@pytest.mark.parametrize("seed", some([2, 3, 4]))
def test_so_it_does_however_they_come(seed: int, way: Way) -> None:
    assert_fair(Plan(seed, way))


@by_every_way
@pytest.mark.parametrize("where", [Where.SAME_SHARD, Where.ALL_SHARDS, Where.OTHER_STREAMS])
def test_so_it_does_beside_eight(where: Where, way: Way) -> None:
    """It asks for 80 records/s of the 111 that are its part of a shard."""
    quiet = Load(1, 80.0, 100, 1)
    shard_count = 1 if where is Where.OTHER_STREAMS else 2
    assert_fair(Plan(1, way, where, quiet, Load(8), shard_count=shard_count))


KINDS = {
    "accepted of the quiet one": Plan(quiet=Load(1, 200.0, 100, 1, ACCEPTED)),
    "single records of the greedy one": Plan(greedy=Load(frame_records=1)),
    "ordered": Plan(quiet=QUIET_KEYS, greedy=MANY_KEYS, settings=replace(PLAIN, is_ordered=True)),
    "kpl": Plan(settings=replace(PLAIN, aggregate_bytes_max=51_200), shard_count=1),
    "ordered kpl": Plan(
        quiet=QUIET_KEYS,
        greedy=MANY_KEYS,
        settings=replace(PLAIN, is_ordered=True, aggregate_bytes_max=51_200),
        shard_count=1,
    ),
    "the quiet one keyless": Plan(
        where=Where.ALL_SHARDS, quiet=Load(1, 200.0, 100, 1, is_keyless=True)
    ),
    "the greedy one keyless": Plan(where=Where.ALL_SHARDS, greedy=Load(is_keyless=True)),
    "both keyless": Plan(
        where=Where.ALL_SHARDS,
        quiet=Load(1, 200.0, 100, 1, is_keyless=True),
        greedy=Load(is_keyless=True),
    ),
    "no map": Plan(shard_count=1, may_list=False),
    "AUTO": Plan(where=Where.ALL_SHARDS, is_auto=True),
    "Yandex": Plan(
        settings=replace(PLAIN, is_shard_atomic=True),
        service=SandboxSettings(service=YANDEX),
    ),
    "tiny records of the greedy one": Plan(
        quiet=Load(1, 200.0, 1_000, 1), greedy=Load(data_bytes=8)
    ),
    "200 quiet ones": Plan(quiet=Load(200, 400.0, 100, 1)),
    "16 connections of the greedy one": Plan(quiet=Load(1, 40.0, 100, 1), greedy=Load(16)),
}


@by_every_way
@pytest.mark.parametrize("kind", KINDS)
def test_so_it_does_in_every_kind_of_stream(kind: str, way: Way) -> None:
    assert_fair(replace(KINDS[kind], way=way))


@by_every_way
def test_so_it_does_where_another_daemon_has_half_of_the_shard(way: Way) -> None:
    """The two daemons' throttles are in the time alone as well. 95 %: `test_fleet.py` says why."""
    plan = Plan(
        way=way,
        quiet=Load(1, 100.0, 100, 1),
        settings=replace(PLAIN, first_share=0.5),
        rival_per_second=1_000.0,
        warm_up_s=12,
        seconds=10,
    )
    assert_fair(plan, used_min=0.95)


@by_every_way
@pytest.mark.parametrize("where", [Where.SAME_SHARD, Where.ALL_SHARDS], ids=lambda each: each.value)
def test_so_it_does_where_calls_are_the_limit(where: Where, way: Way) -> None:
    """A service that takes half a second for a call, two at a time: 2,000 records/s in full calls.
    Of one shard, the quiet one has half; beside one that writes to all of 16, it asks for less than
    its half of what goes to its shard, 62.
    """
    plan = Plan(
        way=way,
        where=where,
        quiet=Load(1, 200.0 if where is Where.SAME_SHARD else 40.0, 100, 1),
        settings=replace(
            PLAIN,
            in_flight_max=2,
            shard_records_per_second=WIDE.records_per_second,
            shard_bytes_per_second=WIDE.bytes_per_second,
        ),
        shard_count=16,
        quota=WIDE,
        round_trip_ns=(500 * MS, 500 * MS),
        seconds=10,
    )
    beside = assert_fair(plan, used_min=0.0)
    shard_count = 1 if where is Where.SAME_SHARD else plan.shard_count
    taken_per_second = beside.used * shard_count * WIDE.records_per_second
    assert taken_per_second >= 0.95 * 2_000, "a call more or less in the time that counts is 2.5 %"


@by_every_way
@pytest.mark.parametrize(
    ("data_bytes", "used_min", "extra_ms"),
    [(MIB // 2, USED_MIN, 0), (800_000, USED_MIN, 0), (MIB - 100, 0.45, 3_000)],
    ids=["half a second", "0.8 s", "more than a bucket"],
)
def test_so_it_does_beside_large_records(
    data_bytes: int, used_min: float, extra_ms: float, way: Way
) -> None:
    """They take the shard for so long. One that is larger than the bucket goes into debt from a
    full one; as the service's own is not full then, every second is throttled. It goes first when
    the bucket is full again, and the quiet one waits behind it.
    """
    plan = Plan(
        way=way,
        greedy=Load(data_bytes=data_bytes, frame_records=2),
        settings=replace(PLAIN, buffer_bytes_max=64 * MIB),
        memory_bytes=128 * MIB,
        seconds=12,
    )
    assert_fair(plan, used_min=used_min, extra_ms=extra_ms)


@by_every_way
def test_a_large_record_of_the_quiet_one_has_its_turn(way: Way) -> None:
    """It is payable from a full bucket only: small ones must not empty that again and again."""
    plan = Plan(way=way, quiet=Load(1, 0.25, 900_000, 1), seconds=12)
    assert_fair(plan, extra_ms=2_000)


@by_every_way
@pytest.mark.parametrize("promise", [DELIVERED, ACCEPTED, STORED], ids=lambda each: each.value)
def test_an_outage_that_the_greedy_one_filled_is_over_for_the_quiet_one_at_once(
    promise: Acknowledge, way: Way
) -> None:
    """What counts begins a second after the first record is delivered again. The quiet one asks for
    little: its own records of the outage are before those.
    """
    plan = Plan(way=way, quiet=Load(1, 20.0, 100, 1), greedy=Load(promise=promise), outage_s=10)
    assert_fair(plan)


@by_every_way
def test_who_opens_16_connections_has_16_parts_and_no_more(way: Way) -> None:
    """The quiet one asks for more than its part of the shard, a 17th, and has its part."""
    beside = simulate(Plan(way=way, greedy=Load(16), warm_up_s=4))
    print(beside)
    assert beside.quiet_per_second >= 0.9 * 1000 / 17
    assert beside.used >= USED_MIN
