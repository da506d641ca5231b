"""Batches out of lanes: limits, fairness, waiting, and lanes that come and go."""

from collections import Counter

import pytest

from kdaemon.base.frame import Frame
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.pack.waits import STALE_WAITS_MAX
from tests.kit.frames import MS, SECOND, sized_frame
from tests.kit.queues import dropped, make_packer

LINGER_NS = 100 * MS


def make_lane(name: str = "s", records: int = 1000, byte_count: int = 1_000_000) -> Lane:
    return Lane(name, ShardBudget(records, byte_count, 0, 1.0))


def put(packer: Packer, lane: Lane, sizes: list[int], now_ns: int = 0) -> Frame:
    frame = sized_frame(sizes)
    packer.push_all([Run(frame, list(range(len(sizes))), sum(sizes), lane)], now_ns)
    return frame


def draw(packer: Packer, now_ns: int = 0) -> Batch:
    packer.wake(now_ns)
    batch = packer.draw(now_ns)
    assert batch is not None
    return batch


def state_of(lane: Lane) -> LaneState:
    return lane.state


def counts(batch: Batch) -> Counter[str]:
    found: Counter[str] = Counter()
    for run in batch.runs:
        found[str(run.lane.shard_id)] += len(run.indices)
    return found


def test_a_batch_holds_the_records_of_its_runs_flat_and_in_order() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    a, b = put(packer, lane, [5, 6, 7]), put(packer, lane, [8])
    batch = draw(packer)
    assert batch.records == a.records + b.records
    assert batch.records[0] is a.records[0]
    assert batch.byte_count == 26


def test_a_batch_keeps_to_its_records() -> None:
    lane = make_lane()
    packer = make_packer(lane, records_max=10)
    put(packer, lane, [1] * 25)
    assert [len(draw(packer).records) for _ in range(3)] == [10, 10, 5]
    assert not packer.has_ready


def test_a_batch_keeps_to_its_bytes_over_all_lanes() -> None:
    a, b = make_lane("a"), make_lane("b")
    packer = make_packer(a, b, bytes_max=1000)
    put(packer, a, [400, 400])
    put(packer, b, [400, 100])
    first, second = draw(packer), draw(packer)
    assert first.byte_count == 800
    assert second.byte_count == 500
    assert packer.draw(0) is None


def test_a_packer_knows_when_a_batch_would_be_full() -> None:
    a, b = make_lane("a"), make_lane("b")
    packer = make_packer(a, b, records_max=10, bytes_max=1000)
    put(packer, a, [10] * 5)
    put(packer, b, [10] * 4)
    seen = [packer.has_full_batch]
    put(packer, b, [10])
    seen.append(packer.has_full_batch)
    draw(packer)
    seen.append(packer.has_full_batch)
    put(packer, a, [1000])
    seen.append(packer.has_full_batch)
    assert seen == [False, True, False, True]


def test_lanes_take_turns_so_that_a_large_one_starves_none() -> None:
    big, small = make_lane("big", 100_000), make_lane("small", 100_000)
    packer = make_packer(big, small, records_max=100)
    put(packer, big, [1] * 5000)
    put(packer, small, [1] * 150)
    shares = [counts(draw(packer)) for _ in range(4)]
    assert shares[0] == {"big": 100}
    assert shares[1] == {"small": 100}
    assert shares[2] == {"big": 100}
    assert shares[3] == {"small": 50, "big": 50}


def test_over_many_batches_every_full_lane_gets_an_equal_share() -> None:
    lanes = [make_lane(f"{number}", 1_000_000) for number in range(7)]
    packer = make_packer(*lanes, records_max=10)
    for lane in lanes:
        put(packer, lane, [1] * 500)
    total: Counter[str] = Counter()
    for _ in range(70):
        total += counts(draw(packer))
    assert set(total.values()) == {100}


def test_a_lane_whose_next_record_does_not_fit_is_first_in_the_next_batch() -> None:
    a, b = make_lane("a"), make_lane("b")
    packer = make_packer(a, b, bytes_max=1000)
    put(packer, a, [600])
    put(packer, b, [700])
    assert counts(draw(packer)) == {"a": 1}
    put(packer, a, [600])
    assert counts(draw(packer)) == {"b": 1}


def test_a_hot_shard_waits_alone_and_the_batch_goes_without_it() -> None:
    hot, cold = make_lane("hot", 10), make_lane("cold")
    packer = make_packer(hot, cold)
    put(packer, hot, [1] * 100)
    put(packer, cold, [1] * 50)
    assert counts(draw(packer)) == {"hot": 9, "cold": 50}
    assert state_of(hot) is LaneState.WAITING
    put(packer, cold, [1])
    assert counts(draw(packer)) == {"cold": 1}
    assert packer.next_due_ns() == 100 * MS


def test_a_saturated_lane_is_drawn_ten_times_a_second_not_a_thousand() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    put(packer, lane, [10] * 5000)
    batches = []
    now_ns = 0
    while now_ns < 3 * SECOND:
        packer.wake(now_ns)
        while (batch := packer.draw(now_ns)) is not None:
            batches.append(len(batch.records))
        due_ns = packer.next_due_ns()
        assert due_ns is not None
        assert due_ns > now_ns
        now_ns = due_ns
    assert batches[:2] == [500, 400], "what was saved up goes at once"
    assert set(batches[2:]) == {100}
    assert len(batches) == 2 + 29


def test_nothing_leaves_before_it_is_due_and_then_it_does() -> None:
    lane = make_lane("s", 10)
    packer = make_packer(lane)
    put(packer, lane, [1] * 12)
    draw(packer)
    due_ns = packer.next_due_ns()
    assert due_ns == 100 * MS
    packer.wake(due_ns - 1)
    assert packer.draw(due_ns - 1) is None
    packer.wake(due_ns)
    assert packer.ready_records == 3
    assert len(draw(packer, due_ns).records) == 1


def test_what_is_put_on_a_lane_that_cannot_pay_waits() -> None:
    lane = make_lane("s", 10)
    packer = make_packer(lane)
    put(packer, lane, [1] * 9)
    draw(packer)
    assert state_of(lane) is LaneState.IDLE
    put(packer, lane, [1], now_ns=10 * MS)
    assert packer.draw(10 * MS) is None
    assert state_of(lane) is LaneState.WAITING
    assert packer.next_due_ns() == 100 * MS


@pytest.mark.parametrize("size", [1, 0])
def test_holding_back_an_empty_lane_holds_back_what_comes(size: int) -> None:
    lane = make_lane()
    packer = make_packer(lane)
    packer.postpone(lane, 50 * MS, 0)
    assert state_of(lane) is LaneState.IDLE
    put(packer, lane, [1 + size])
    assert state_of(lane) is LaneState.WAITING
    assert packer.next_due_ns() == 50 * MS


def test_holding_back_takes_a_lane_from_anywhere_in_the_ring() -> None:
    lanes = [make_lane(name) for name in "abc"]
    packer = make_packer(*lanes)
    for lane in lanes:
        put(packer, lane, [10])
    packer.postpone(lanes[1], 50 * MS, 0)
    assert (packer.ready_records, packer.ready_bytes) == (2, 20)
    assert counts(draw(packer)) == {"a": 1, "c": 1}
    assert counts(draw(packer, 50 * MS)) == {"b": 1}


def test_holding_back_never_shortens_a_backoff() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    put(packer, lane, [1])
    packer.postpone(lane, 80 * MS, 0)
    packer.postpone(lane, 50 * MS, 0)
    assert packer.next_due_ns() == 80 * MS
    packer.wake(79 * MS)
    assert not packer.has_ready


def test_a_lane_held_back_again_is_due_once_at_the_later_time() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    put(packer, lane, [1] * 3)
    for until_ms in (10, 20, 30):
        packer.postpone(lane, until_ms * MS, 0)
    packer.wake(20 * MS)
    assert not packer.has_ready
    packer.wake(30 * MS)
    assert packer.ready_records == 3
    assert packer.next_due_ns() is None


def test_what_failed_is_first_in_its_lane() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    put(packer, lane, [5] * 3)
    retry = sized_frame([7])
    packer.push_front(Run(retry, [0], 7, lane, 1), 0)
    assert draw(packer).records[0] is retry.records[0]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("small", [1, 2, 16, 40])
def test_what_a_lane_splits_as_it_is_queued_is_counted_whole(small: int, *, at_once: bool) -> None:
    """A large record is first, and others take their turns before it: the lane queues a slice of
    the very run that comes.
    """
    lane = make_lane()
    packer = make_packer(lane)
    pushed: list[Run] = []
    for client, sizes in [(1, [20_000] * 20), (2, [1] * small + [40_000]), (3, [1_000] * 40)]:
        frame = sized_frame(sizes)
        frame.client = client
        run = Run(frame, list(range(len(sizes))), sum(sizes), lane)
        pushed.append(run)
        if not at_once:
            packer.push_all([run], 0)
    if at_once:
        packer.push_all(pushed, 0)
    records, byte_count = 20 + small + 1 + 40, 400_000 + small + 80_000
    assert (lane.queued_records, lane.queued_bytes) == (records, byte_count)
    assert (packer.ready_records, packer.ready_bytes) == (records, byte_count)


def test_dropping_abandoned_frames_empties_ready_and_waiting_lanes() -> None:
    ready, waiting, other = make_lane("r"), make_lane("w"), make_lane("o")
    packer = make_packer(ready, waiting, other)
    frame = sized_frame([10] * 4)
    packer.push_all([Run(frame, [0, 1], 20, ready)], 0)
    packer.push_all([Run(frame, [2, 3], 20, waiting)], 0)
    packer.postpone(waiting, 50 * MS, 0)
    put(packer, other, [5])
    frame.is_abandoned = True
    dropped(packer)
    assert [lane.state for lane in (ready, waiting)] == [LaneState.IDLE] * 2
    assert (packer.ready_records, packer.ready_bytes) == (1, 5)
    packer.wake(SECOND)
    assert counts(draw(packer, SECOND)) == {"o": 1}
    assert packer.next_due_ns() is None


def test_a_lane_that_keeps_records_stays_where_it_was() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    gone = put(packer, lane, [10])
    kept = put(packer, lane, [20])
    gone.is_abandoned = True
    dropped(packer)
    assert state_of(lane) is LaneState.READY
    assert draw(packer).records == kept.records


def test_replaced_lanes_give_back_what_they_queued_in_order_and_leave_no_trace() -> None:
    old_ready, old_waiting, stays = make_lane("a"), make_lane("b"), make_lane("c")
    packer = make_packer(old_ready, old_waiting, stays)
    a, b = put(packer, old_ready, [1]), put(packer, old_ready, [2])
    c = put(packer, old_waiting, [3])
    d = put(packer, stays, [4])
    packer.postpone(old_waiting, 50 * MS, 0)
    new = make_lane("d")
    orphans = packer.replace_lanes([stays, new])
    assert [[run.frame for run in queue] for queue in orphans] == [[a, b], [c]]
    assert state_of(old_ready) is old_waiting.state is LaneState.RETIRED
    assert (old_ready.queued_records, old_waiting.queued_bytes) == (0, 0)
    assert packer.lanes == [stays, new]
    assert (packer.ready_records, packer.ready_bytes) == (1, 4)
    packer.wake(SECOND)
    assert draw(packer, SECOND).records == d.records
    assert not packer.has_ready


def test_a_lane_that_is_kept_keeps_its_wait() -> None:
    lane = make_lane()
    packer = make_packer(lane, make_lane("gone"))
    put(packer, lane, [1])
    packer.postpone(lane, 50 * MS, 0)
    assert packer.replace_lanes([lane]) == []
    assert state_of(lane) is LaneState.WAITING
    assert packer.next_due_ns() == 50 * MS


def test_an_oversize_record_goes_in_a_batch_of_its_own_shard_and_then_its_lane_pays() -> None:
    lane, other = make_lane("s", 1000, 1000), make_lane("o")
    packer = make_packer(lane, other)
    put(packer, lane, [4000])
    put(packer, lane, [1])
    put(packer, other, [10])
    assert counts(draw(packer)) == {"s": 1, "o": 1}
    assert packer.next_due_ns() == 3101 * MS


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_above_the_bytes_of_a_batch_has_one_of_its_own(place: int) -> None:
    lanes = [make_lane(name) for name in "abc"]
    packer = make_packer(*lanes, bytes_max=1000)
    for number, lane in enumerate(lanes):
        put(packer, lane, [10, 5000, 20] if number == place else [10, 10])
    batches = []
    while (batch := packer.draw(0)) is not None:
        batches.append(batch)
        assert batch.byte_count == sum(run.byte_count for run in batch.runs)
        assert batch.byte_count <= 1000 or batch.record_count == 1
    assert [batch.byte_count for batch in batches].count(5000) == 1
    assert sum(batch.record_count for batch in batches) == 7
    assert not packer.has_ready
    assert packer.next_due_ns() is None


def test_a_record_above_the_bytes_of_a_batch_is_not_passed_over_for_ever() -> None:
    large, *others = (make_lane(name) for name in "abcd")
    packer = make_packer(*others, large, bytes_max=1000)
    for lane in others:
        put(packer, lane, [10] * 200)
    put(packer, large, [5000])
    for _ in range(len(others) + 2):
        if counts(draw(packer)) == {"a": 1}:
            break
        for lane in others:
            put(packer, lane, [10] * 100)  # there is always more than a batch of them
    else:
        pytest.fail("it was never drawn")


def test_who_cannot_pay_for_a_record_above_the_batch_waits_and_holds_up_nobody() -> None:
    large, other = make_lane("a", 1000, 1000), make_lane("b")
    packer = make_packer(large, other, bytes_max=300)
    put(packer, large, [100])
    draw(packer)  # its bucket is not full
    put(packer, large, [5000])
    put(packer, other, [10])
    assert counts(draw(packer)) == {"b": 1}
    assert packer.draw(0) is None
    assert packer.next_due_ns() == 100 * MS
    assert counts(draw(packer, 100 * MS)) == {"a": 1}


def test_a_debt_is_paid_at_the_rate_of_a_share_that_grows_meanwhile() -> None:
    lane = make_lane(byte_count=100_000)
    for sent_ns, throttled in ((0, 0), (4 * SECOND, 1)):  # of little that was sent, half was taken
        lane.budget.hear(1, 1000, throttled, sent_ns, sent_ns)
    packer = make_packer(lane)
    put(packer, lane, [50_000, 50_000], 4 * SECOND)
    draw(packer, 4 * SECOND)
    lane.budget.refill(4 * SECOND)
    assert lane.budget.bytes.rate < 200, "at this rate it takes more than four minutes"
    looks = 0
    while (due_ns := packer.next_due_ns()) is not None:
        packer.wake(due_ns)
        packer.draw(due_ns)
        looks += 1
        assert due_ns < 120 * SECOND
    assert looks <= 120, "it is not looked at more than once a second"


def test_the_heap_of_waits_is_bounded() -> None:
    lane = make_lane()
    packer = make_packer(lane)
    put(packer, lane, [1])
    for until_ms in range(5 * STALE_WAITS_MAX):
        packer.postpone(lane, until_ms * MS, 0)
        assert len(packer.audit()[1]) <= STALE_WAITS_MAX + 2 + 1
    assert packer.next_due_ns() == (5 * STALE_WAITS_MAX - 1) * MS


def test_nothing_queued_is_no_batch() -> None:
    packer = make_packer(make_lane())
    packer.wake(SECOND)
    assert packer.draw(SECOND) is None
    assert packer.next_due_ns() is None
    assert not packer.has_ready
    assert not packer.has_full_batch
