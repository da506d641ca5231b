"""Records without a key: they go where there is room, and cost nobody anything."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND, make_frame, sized_frame
from tests.kit.queues import dropped, make_packer

LINGER_NS = 100 * MS


def make_lanes(count: int, records: int = 1000, byte_count: int = 1_000_000) -> list[Lane]:
    return [
        Lane(f"s{n}", ShardBudget(records, byte_count, 0, 1.0), hash_key=str(n * 1000))
        for n in range(count)
    ]


def put(packer: Packer, count: int, size: int = 10, now_ns: int = 0) -> Frame:
    frame = make_frame(Record(bytes(size - 6), "") for _ in range(count))
    indices = list(range(count))
    run = Run(frame, indices, sum(frame.sizes), packer.keyless_lane, is_keyless=True)
    packer.push_all([run], now_ns)
    return frame


def put_keyed(packer: Packer, lane: Lane, count: int, now_ns: int = 0) -> None:
    frame = make_frame(Record(bytes(9), "k") for _ in range(count))
    packer.push_all([Run(frame, list(range(count)), sum(frame.sizes), lane)], now_ns)


def put_sizes(packer: Packer, sizes: list[int], now_ns: int = 0) -> Frame:
    frame = make_frame(Record(bytes(size - 6), "") for size in sizes)
    indices = list(range(len(sizes)))
    run = Run(frame, indices, sum(frame.sizes), packer.keyless_lane, is_keyless=True)
    packer.push_all([run], now_ns)
    return frame


def wake_and_draw(packer: Packer, now_ns: int) -> Batch | None:
    packer.wake(now_ns)
    return packer.draw(now_ns)


def draw(packer: Packer, now_ns: int = 0) -> Batch:
    batch = wake_and_draw(packer, now_ns)
    assert batch is not None
    return batch


def by_shard(batch: Batch) -> dict[str | None, int]:
    counts: Counter[str | None] = Counter()
    for run in batch.runs:
        counts[run.lane.shard_id] += len(run.indices)
    return dict(counts)


def test_they_go_under_a_key_of_their_own_and_a_hash_key_of_their_shard() -> None:
    lanes = make_lanes(3)
    packer = make_packer(*lanes)
    frame = put(packer, 5)
    batch = draw(packer)
    assert [record.data for record in batch.records] == [record.data for record in frame.records]
    assert frame.records == [Record(bytes(4), "")] * 5, "what the client sent stays"
    assert len({record.partition_key for record in batch.records}) == 5
    (run,) = batch.runs
    assert run.is_keyless
    assert {record.explicit_hash_key for record in batch.records} == {run.lane.hash_key}
    assert batch.paid == {run.lane: (5, 50)}
    assert run.lane.budget.records.available == 895


def test_the_shard_with_the_most_budget_takes_them_first() -> None:
    lanes = make_lanes(3)
    for lane, spent in zip(lanes, (500, 100, 300), strict=True):
        lane.budget.pay(spent, 0)
    packer = make_packer(*lanes, records_max=2000)
    put(packer, 1000)
    assert by_shard(draw(packer)) == {"s1": 800, "s2": 200}


def test_one_after_another_they_go_to_whoever_has_the_most_left() -> None:
    lanes = make_lanes(2)
    lanes[0].budget.pay(100, 0)
    packer = make_packer(*lanes, records_max=150)
    went = []
    for _ in range(3):
        put(packer, 150)
        went.append(by_shard(draw(packer)))
    assert went == [{"s1": 150}, {"s0": 150}, {"s1": 150}]


@pytest.mark.parametrize("trouble", ["backs off", "has records of its own", "is spent"])
def test_a_shard_in_trouble_gets_none(trouble: str) -> None:
    lanes = make_lanes(2)
    packer = make_packer(*lanes)
    if trouble == "backs off":
        packer.postpone(lanes[0], 50 * MS, 0)
    elif trouble == "is spent":
        lanes[0].budget.pay(900, 0)
    else:
        put_keyed(packer, lanes[0], 5)
        packer.postpone(lanes[0], 50 * MS, 0)
    lanes[1].budget.pay(600, 0)
    put(packer, 400)
    assert by_shard(draw(packer)) == {"s1": 300}
    assert packer.keyless_lane.queued_records == 100


def test_what_one_shard_throttled_another_takes() -> None:
    lanes = make_lanes(2)
    packer = make_packer(*lanes)
    frame = put(packer, 10)
    (run,) = draw(packer).runs
    throttled = run.lane
    packer.postpone(throttled, SECOND, 0)
    back = Run(frame, run.indices, run.byte_count, packer.keyless_lane, 1, is_keyless=True)
    packer.push_front(back, 0)
    batch = draw(packer)
    (again,) = batch.runs
    assert again.lane is not throttled
    assert again.attempt_count == 1
    hash_keys = {record.explicit_hash_key for record in batch.records}
    assert hash_keys == {again.lane.hash_key}, "the place is told anew"


def test_what_a_shard_takes_less_than_it_was_lent_is_still_there_and_in_order() -> None:
    """By bytes it can pay for less than by records."""
    lanes = make_lanes(2, byte_count=1000)  # 900 bytes each
    packer = make_packer(*lanes)
    frame = put(packer, 10, size=400)
    batch = draw(packer)
    assert by_shard(batch) == {"s0": 2, "s1": 2}
    left = packer.keyless_lane
    assert (left.queued_records, left.queued_bytes) == (6, 2400)
    assert [index for run in left.queue for index in run.indices] == [4, 5, 6, 7, 8, 9]
    assert all(not lane.queue and lane.queued_records == 0 for lane in lanes)
    assert [r for run in batch.runs for r in run.indices] == [0, 1, 2, 3]
    assert [record.data for record in batch.records] == [r.data for r in frame.records[:4]]


def test_when_no_shard_can_pay_they_wait_for_a_lingers_worth_of_the_first_that_can() -> None:
    lanes = make_lanes(2)
    packer = make_packer(*lanes, records_max=2000)
    put(packer, 2500)
    assert len(draw(packer).records) == 1800
    assert packer.draw(0) is None
    assert packer.next_due_ns() == 100 * MS
    assert len(draw(packer, 100 * MS).records) == 200


def test_a_record_above_the_bucket_waits_for_a_full_one_and_goes_into_debt() -> None:
    lanes = make_lanes(2, byte_count=1000)
    for lane in lanes:
        lane.budget.pay(1, 100)
    packer = make_packer(*lanes)
    put(packer, 1, size=5000)
    assert packer.draw(0) is None
    assert packer.next_due_ns() == 100 * MS
    batch = draw(packer, 100 * MS)
    assert batch.byte_count == 5000
    assert sorted(lane.budget.bytes.available for lane in lanes) == [-4100, 900]


@pytest.mark.parametrize("linger_ns", [0, 1, LINGER_NS])
def test_while_all_shards_are_busy_with_their_own_nobody_spins(linger_ns: int) -> None:
    lanes = make_lanes(2)
    packer = make_packer(*lanes, linger_ns=linger_ns)
    for lane in lanes:
        put_keyed(packer, lane, 5)
        packer.postpone(lane, 10 * SECOND, 0)
    put(packer, 5)
    now_ns = wakes = 0
    while now_ns < SECOND:
        packer.wake(now_ns)
        assert packer.draw(now_ns) is None
        due_ns = packer.next_due_ns()
        assert due_ns is not None
        assert due_ns > now_ns
        now_ns, wakes = due_ns, wakes + 1
    assert wakes <= 101


def test_while_all_shards_hold_calls_nobody_spins_and_when_one_lets_go_it_takes_them() -> None:
    lanes = make_lanes(2)
    packer = make_packer(*lanes, is_shard_atomic=True)
    put(packer, 1)
    packer.stalls.stalled_ns(draw(packer), 50 * MS)  # the quickest: a call of 200 ms is stalled
    calls = []
    for _ in range(2):
        put(packer, 500)
        calls.append(draw(packer))
        packer.stalls.sent(calls[-1], 0)
    assert [by_shard(batch) for batch in calls] == [{"s1": 500}, {"s0": 500}]
    put(packer, 5, now_ns=SECOND)
    assert wake_and_draw(packer, SECOND) is None
    assert packer.next_due_ns() == SECOND + LINGER_NS
    packer.returned(calls[1], SECOND)
    assert by_shard(draw(packer, SECOND + LINGER_NS)) == {"s0": 5}


def test_a_shard_that_ran_dry_takes_them_within_a_linger() -> None:
    lanes = make_lanes(1)
    packer = make_packer(*lanes, records_max=5)
    put(packer, 5)
    put_keyed(packer, lanes[0], 5)
    first = draw(packer)
    second = draw(packer, LINGER_NS)
    assert {run.is_keyless for batch in (first, second) for run in batch.runs} == {True, False}


def test_many_shards_are_looked_at_from_a_turning_start() -> None:
    """Looking at all for one record would cost more than the record; yet all get their part."""
    lanes = make_lanes(100)
    packer = make_packer(*lanes)
    went: Counter[str | None] = Counter()
    for _ in range(200):
        put(packer, 1)
        went.update(by_shard(draw(packer)))
    assert len(went) >= 50
    assert max(went.values()) <= 8


def test_few_open_shards_among_many_are_found() -> None:
    lanes = make_lanes(200)
    packer = make_packer(*lanes)
    for lane in lanes[:-1]:
        packer.postpone(lane, 10 * SECOND, 0)
    put(packer, 3)
    assert by_shard(draw(packer)) == {"s199": 3}


def test_records_of_clients_that_left_are_dropped_from_their_queue_too() -> None:
    packer = make_packer(*make_lanes(2))
    gone, kept = put(packer, 3), put(packer, 2)
    gone.is_abandoned = True
    assert [run.frame for run in dropped(packer)] == [gone]
    assert (packer.ready_records, packer.keyless_lane.queued_records) == (2, 2)
    batch = draw(packer)
    assert [run.frame for run in batch.runs] == [kept]
    assert len(batch.records) == len(kept.records)
    assert not packer.has_ready


def test_taking_them_back_leaves_an_empty_queue_in_any_state() -> None:
    for until_ns in (0, 50 * MS):
        lanes = make_lanes(1)
        packer = make_packer(*lanes)
        packer.postpone(lanes[0], until_ns, 0)
        frame = put(packer, 3)
        if until_ns:
            assert packer.draw(0) is None
        assert [run.frame for run in packer.take_keyless()] == [frame]
        assert (packer.ready_records, packer.has_ready) == (0, False)
        assert not packer.take_keyless()
        packer.wake(SECOND)
        assert packer.draw(SECOND) is None


def test_in_aggregates_all_of_one_go_to_one_shard_under_its_hash_key() -> None:
    lanes = make_lanes(3)
    packer = make_packer(*lanes, aggregate_bytes_max=1000)
    frame = put(packer, 40, size=100)
    batch = draw(packer)
    assert batch.widths is not None
    assert batch.record_count == sum(batch.widths) == 40
    assert len(batch.records) <= 6
    (lane,) = {run.lane for run in batch.runs}
    assert {record.explicit_hash_key for record in batch.records} == {lane.hash_key}
    assert frame.records == [Record(bytes(94), "")] * 40, "what the client sent stays"


@settings(deadline=None, print_blob=True, max_examples=examples(100))
@given(
    seed=st.integers(0, 2**32),
    lane_count=st.integers(1, 9),
    rates=st.tuples(st.sampled_from([5, 50]), st.sampled_from([500, 5000])),
    puts=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([6, 50, 700]), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    aggregate=st.sampled_from([0, 400]),
    linger_ns=st.sampled_from([0, LINGER_NS]),
)
def test_whatever_comes_all_of_it_leaves_once_and_each_wake_up_is_to_come(
    seed: int,
    lane_count: int,
    rates: tuple[int, int],
    puts: list[tuple[int, int, bool]],
    aggregate: int,
    linger_ns: int,
) -> None:
    dice = random.Random(seed)
    lanes = make_lanes(lane_count, *rates)
    packer = make_packer(*lanes, records_max=8, linger_ns=linger_ns, aggregate_bytes_max=aggregate)
    came = left = now_ns = 0
    for turn in range(100_000):  # of 10 ms at least: 480 records of 700 B at 500 B/s
        if turn < len(puts):
            count, size, has_key = puts[turn]
            came += count
            if has_key:
                put_keyed(packer, dice.choice(lanes), count, now_ns)
            else:
                put(packer, count, size, now_ns)
        if turn < 3 * len(puts) and dice.random() < 0.1:
            packer.postpone(dice.choice(lanes), now_ns + dice.randrange(SECOND), now_ns)
        while (batch := wake_and_draw(packer, now_ns)) is not None:
            assert len(batch.records) <= 8
            left += batch.record_count
            assert all(run.lane.blocked_until_ns <= now_ns for run in batch.runs)
        queued = packer.keyless_lane.queued_records + sum(lane.queued_records for lane in lanes)
        assert came == left + queued
        assert (packer.ready_records, packer.ready_bytes, packer.has_ready) == (0, 0, False)
        due_ns = packer.next_due_ns()
        if due_ns is None:
            assert not queued
            if turn >= len(puts):
                break
        else:
            assert due_ns > now_ns
            now_ns = due_ns
    assert came == left


# Above the bytes of a batch


@pytest.mark.parametrize("aggregate", [0, 900])
def test_a_record_above_the_bytes_of_a_batch_goes_by_itself_to_who_can_pay(aggregate: int) -> None:
    lanes = make_lanes(3, byte_count=10_000)
    for lane in lanes[:2]:
        lane.budget.pay(1, 100)  # not full: they cannot go into debt
    packer = make_packer(*lanes, bytes_max=1000, aggregate_bytes_max=aggregate)
    put_sizes(packer, [20_000, 50, 50])
    batches = []
    while (batch := packer.draw(0)) is not None:
        batches.append(batch)
    large = [batch for batch in batches if max(map(len, (r.data for r in batch.records))) > 1000]
    assert [batch.record_count for batch in large] == [1]
    assert by_shard(large[0]) == {"s2": 1}
    assert sum(batch.record_count for batch in batches) == 3


def test_a_record_above_the_bytes_of_a_batch_is_not_passed_over_for_records_with_keys() -> None:
    lanes = make_lanes(4)
    packer = make_packer(*lanes, bytes_max=1000)
    put_sizes(packer, [20, 5000])
    for turn in range(4):
        for lane in lanes[:3]:  # never without something of their own
            put_keyed(packer, lane, 1)
        batch = draw(packer)
        if batch.byte_count > 1000:
            assert batch.record_count == 1
            break
        assert turn < 3, "it was never drawn"


def test_a_record_above_the_bytes_of_a_batch_that_nobody_can_pay_for_waits() -> None:
    lanes = make_lanes(2, byte_count=10_000)
    packer = make_packer(*lanes, bytes_max=1000)
    for lane in lanes:
        lane.budget.pay(1, 1000)
    put_sizes(packer, [20_000])
    assert wake_and_draw(packer, 0) is None, "an empty batch holds nobody up"
    due_ns = packer.next_due_ns()
    assert due_ns == 100 * MS
    assert draw(packer, due_ns).record_count == 1


def test_where_every_shard_has_records_of_its_own_those_without_a_key_take_turns_there() -> None:
    lanes = [Lane(f"s{n}", ShardBudget(100, 100_000, 0, 1.0), hash_key=str(n)) for n in range(2)]
    packer = make_packer(*lanes, records_max=10, bytes_max=100_000)
    for client, lane in ((1, lanes[0]), (1, lanes[1]), (2, packer.keyless_lane)):
        frame = sized_frame([10] * 2_000)
        frame.client = client
        run = Run(frame, list(range(2_000)), 20_000, lane, is_keyless=client == 2)
        packer.push_all([run], 0)
    sent: Counter[int] = Counter()
    now_ns = 0
    while now_ns < 10 * SECOND:
        packer.wake(now_ns)
        while (batch := packer.draw(now_ns)) is not None:
            for run in batch.runs:
                assert not run.is_keyless or run.lane in lanes
                sent[run.frame.client] += len(run.indices)
        now_ns += 10 * MS
    assert sent[2] >= 0.4 * sum(sent.values())
    assert sum(sent.values()) >= 0.97 * 2 * 100 * 10
