"""Clients that wait for each other in one lane."""

import random
from collections import Counter, deque

import pytest

from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.client_turns import (
    AHEAD_MAX,
    NEWCOMERS_PART,
    RECORD_COST,
    SLICE_BYTES,
    SLICE_RECORDS,
    ClientTurns,
)
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from tests.kit.frames import SECOND, sized_frame

RECORDS_PER_SECOND = 1_000


def lane_of(records_per_second: int = RECORDS_PER_SECOND) -> Lane:
    return Lane("s", ShardBudget(records_per_second, 1_000_000, 0, 1.0))


def run_of(client: int, count: int, size: int = 100, lane: Lane | None = None) -> Run:
    frame = sized_frame([size] * count)
    frame.client = client
    return Run(frame, list(range(count)), size * count, lane or lane_of())


def taken(lane: Lane, record_count: int) -> list[int]:
    """The clients of the next records, one for each."""
    clients: list[int] = []
    while lane.queue and len(clients) < record_count:
        run = lane.take(min(len(lane.queue[0].indices), record_count - len(clients)))
        clients += [run.frame.client] * len(run.indices)
    return clients


def test_the_oldest_record_is_known_until_it_goes_whosever_turn_it_is() -> None:
    """Also that of a large record, which others pass while the shard saves up for it."""
    dice = random.Random(7)
    lane = lane_of()
    left: list[Run] = []
    for number in range(300):
        size = SLICE_BYTES + 1 if dice.random() < 0.1 else 100
        run = run_of(dice.randrange(12), 1 if size > SLICE_BYTES else 40, size, lane)
        run.frame.accepted_ns = number
        lane.push(run)
        left.append(run)
        gone = [lane.take(min(10, len(lane.queue[0].indices))) for _ in range(2) if lane.queue]
        counts = Counter({id(each.frame): len(each.indices) for each in lane.runs()})
        assert gone
        left = [each for each in left if id(each.frame) in counts]
        if lane.queue:
            assert lane.oldest_ns() == min(each.frame.accepted_ns for each in left)


def test_a_client_that_is_alone_keeps_its_runs_as_they_are() -> None:
    lane = lane_of()
    runs = [run_of(1, 500, lane=lane) for _ in range(20)]
    for run in runs:
        lane.push(run)
    assert list(lane.queue) == runs
    assert lane.turns is None


def test_who_asks_for_little_waits_for_a_slice_whatever_another_has_queued() -> None:
    lane = lane_of()
    for _ in range(40):
        lane.push(run_of(1, 500, lane=lane))
    lane.push(run_of(2, 1, lane=lane))
    assert taken(lane, 10_000).index(2) <= SLICE_RECORDS


@pytest.mark.parametrize("greedy_count", [2, 16, 300])
def test_and_however_many_clients_have_much(greedy_count: int) -> None:
    lane = lane_of()
    for _ in range(3):
        for client in range(1, greedy_count + 1):
            lane.push(run_of(client, 500, lane=lane))
    taken(lane, 20 * SLICE_RECORDS * greedy_count)  # each has had turns
    lane.push(run_of(9_999, 1, lane=lane))
    assert taken(lane, 2 * SLICE_RECORDS).index(9_999) <= SLICE_RECORDS


@pytest.mark.parametrize("sizes", [(100, 100), (100, 10_000), (10, 100_000)])
def test_clients_that_have_much_share_by_what_their_records_cost(sizes: tuple[int, int]) -> None:
    lane = lane_of()
    for client, size in enumerate(sizes, 1):
        for _ in range(max(10, 400_000 // size)):
            lane.push(run_of(client, 10, size, lane))
    cost: Counter[int] = Counter()
    while lane.turns is not None and sum(cost.values()) < 800_000:
        run = lane.take(len(lane.queue[0].indices))
        cost[run.frame.client] += run.byte_count + RECORD_COST * len(run.indices)
    slices = SLICE_BYTES + RECORD_COST * SLICE_RECORDS + max(sizes)
    assert abs(cost[1] - cost[2]) <= 3 * slices


def test_who_has_much_is_not_starved_by_many_that_come_and_go() -> None:
    """Each asks for one record whenever it has none: together for more than there is."""
    lane = lane_of()
    for _ in range(20):
        lane.push(run_of(1, 500, lane=lane))
    for client in range(2, 102):
        lane.push(run_of(client, 1, lane=lane))
    got: Counter[int] = Counter()
    for _ in range(4_000):
        (client,) = taken(lane, 1)
        got[client] += 1
        if client != 1:
            lane.push(run_of(client, 1, lane=lane))
    assert got[1] >= 4_000 / (NEWCOMERS_PART + 1) - 2 * AHEAD_MAX / RECORD_COST
    others = [got[client] for client in range(2, 102)]
    assert max(others) - min(others) <= 1


@pytest.mark.parametrize("seed", [2468188080, None])
def test_a_clients_records_keep_their_order_whatever_comes_between(seed: int | None) -> None:
    seed = random.randrange(2**32) if seed is None else seed
    print(f"seed {seed}")
    dice = random.Random(seed)
    lane = lane_of()
    pushed: dict[int, list[tuple[int, int]]] = {}
    seen: dict[int, list[tuple[int, int]]] = {}
    numbers: dict[int, int] = {}
    for number in range(2_000):
        client = dice.choice((1, 1, 1, 2, 3, 4, dice.randrange(5, 50)))
        run = run_of(client, dice.choice((1, 1, 7, 40, 500)), dice.choice((1, 50, 3_000)), lane)
        numbers[id(run.frame)] = number
        pushed.setdefault(client, []).extend((number, index) for index in run.indices)
        lane.push(run)
        for _ in range(dice.randrange(3)):
            if lane.queue:
                part = lane.take(dice.randint(1, len(lane.queue[0].indices)))
                at = seen.setdefault(part.frame.client, [])
                at += [(numbers[id(part.frame)], index) for index in part.indices]
    while lane.queue:
        part = lane.take(len(lane.queue[0].indices))
        at = seen.setdefault(part.frame.client, [])
        at += [(numbers[id(part.frame)], index) for index in part.indices]
    assert seen == pushed
    assert (lane.queued_records, lane.queued_bytes, lane.turns) == (0, 0, None)


def test_what_failed_goes_first_and_whose_queue_it_is_stays_known() -> None:
    lane = lane_of()
    for _ in range(5):
        lane.push(run_of(1, 100, lane=lane))
    lane.push_front(run_of(2, 3, lane=lane))
    assert lane.part_of(1)[0] >= 500
    lane.push(run_of(3, 1, lane=lane))
    assert taken(lane, 3) == [2, 2, 2]
    assert 3 in taken(lane, SLICE_RECORDS + 1)


def test_abandoned_frames_leave_every_clients_queue() -> None:
    lane = lane_of()
    runs = [run_of(client, 30, lane=lane) for client in (1, 2, 3, 1, 2, 3)]
    for run in runs:
        lane.push(run)
    for run in runs[1:3] + runs[4:]:
        run.frame.is_abandoned = True
    dropped = [
        run
        for client in lane.parts()
        for run in lane.drop_abandoned(client, 0, len(lane.part(client)))
    ]
    assert {run.frame.client for run in dropped} == {2, 3}
    assert sum(len(run.indices) for run in dropped) == 120
    assert taken(lane, 1_000) == [1] * 60
    assert lane.queued_records == lane.queued_bytes == 0


def test_what_is_taken_back_of_a_lane_is_all_of_it() -> None:
    lane = lane_of()
    for client in (1, 2, 3, 1):
        lane.push(run_of(client, 100, lane=lane))
    assert sum(len(run.indices) for run in lane.take_all()) == 400
    assert not lane.queue
    assert lane.turns is None
    lane.push(run_of(2, 500, lane=lane))
    assert taken(lane, 500) == [2] * 500


def test_a_shard_at_its_quota_gives_the_quiet_client_its_records_in_the_next_draw() -> None:
    lane = lane_of()
    for _ in range(10):
        lane.push(run_of(1, 500, lane=lane))
    out: list[Run] = []
    lane.draw(10_000, 10**9, 0, out)
    lane.budget.pay(sum(len(run.indices) for run in out), 0)
    lane.push(run_of(2, 5, lane=lane))
    out = []
    lane.draw(10_000, 10**9, SECOND // 10, out)
    assert sum(len(run.indices) for run in out if run.frame.client == 2) == 5


def test_turns_with_the_queue_of_one_client_begin_with_it() -> None:
    turns = ClientTurns()
    turns.begin_with(1, deque([run_of(1, 100)]))
    turns.add(run_of(2, 1))
    assert [turns.next_slice()[0].frame.client for _ in range(3)] == [2, 1, 1]
    assert turns.part_of(1) == (100 - 2 * SLICE_RECORDS, 100 * (100 - 2 * SLICE_RECORDS))


def test_small_records_pass_a_large_one_that_the_shard_saves_up_for_but_not_for_ever() -> None:
    lane = lane_of()
    large = 900_000
    for _ in range(3):
        lane.push(run_of(1, 1, large, lane))
    lane.push(run_of(2, 16, lane=lane))
    assert taken(lane, 17)[:16] == [2] * 16
    for _ in range(40_000):  # who comes again and again, with nothing left here each time
        lane.push(run_of(2, 1, lane=lane))
        if taken(lane, 1) == [1]:
            return
    raise AssertionError("the large record never had its turn")


def test_a_large_record_that_can_be_paid_for_goes_before_those_that_passed_it() -> None:
    lane = lane_of()
    lane.push(run_of(1, 1, 900_000, lane))
    lane.push(run_of(1, 1, 900_000, lane))
    lane.push(run_of(2, 5, lane=lane))
    out: list[Run] = []
    lane.draw(500, 5_000_000, 0, out)  # the budget is full
    assert out[0].frame.client == 1


def test_a_large_record_that_failed_lets_others_pass_again() -> None:
    lane = lane_of()
    for client in (1, 2, 2, 3):
        lane.push(run_of(client, 200, lane=lane))
    lane.push_front(run_of(4, 1, 900_000, lane))
    assert 4 not in taken(lane, 5)
