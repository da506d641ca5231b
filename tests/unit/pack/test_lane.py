"""One shard's queue: every transition, what it draws, when it can pay."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.frame import Frame
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.lane import Lane, LaneMove, LaneState
from kdaemon.pack.run import Run
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND, sized_frame

IDLE, READY, WAITING, RETIRED = LaneState
FILLED, EMPTIED, POSTPONED, DUE, RETIRE = LaneMove

LEGAL = {
    (IDLE, FILLED): READY,
    (IDLE, POSTPONED): WAITING,
    (IDLE, RETIRE): RETIRED,
    (READY, EMPTIED): IDLE,
    (READY, POSTPONED): WAITING,
    (READY, RETIRE): RETIRED,
    (WAITING, DUE): READY,
    (WAITING, EMPTIED): IDLE,
    (WAITING, POSTPONED): WAITING,
    (WAITING, RETIRE): RETIRED,
}
ILLEGAL = [pair for pair in itertools.product(LaneState, LaneMove) if pair not in LEGAL]


def make_lane(records_per_second: int = 1000, bytes_per_second: int = 1_000_000) -> Lane:
    return Lane("s", ShardBudget(records_per_second, bytes_per_second, 0, 1.0))


def whole(frame: Frame, lane: Lane) -> Run:
    return Run(frame, list(range(len(frame.records))), sum(frame.sizes), lane)


def filled(lane: Lane, *frames: list[int]) -> list[Frame]:
    made = [sized_frame(sizes) for sizes in frames]
    for frame in made:
        lane.push(whole(frame, lane))
    return made


def drawn(lane: Lane, records: int = 500, byte_count: int = 10**9, now_ns: int = 0) -> list[Run]:
    out: list[Run] = []
    counts = lane.draw(records, byte_count, now_ns, out)
    assert counts == (sum(len(run.indices) for run in out), sum(run.byte_count for run in out))
    lane.budget.pay(*counts)
    return out


@pytest.mark.parametrize(("state", "move"), LEGAL)
def test_legal_moves_lead_where_the_table_says(state: LaneState, move: LaneMove) -> None:
    lane = make_lane()
    lane.state = state
    lane.move(move)
    assert lane.state is LEGAL[state, move]


@pytest.mark.parametrize(("state", "move"), ILLEGAL)
def test_illegal_moves_raise_and_change_nothing(state: LaneState, move: LaneMove) -> None:
    lane = make_lane()
    lane.state = state
    with pytest.raises(KeyError):
        lane.move(move)
    assert lane.state is state


def test_nothing_leads_out_of_retirement() -> None:
    assert not [pair for pair in LEGAL if pair[0] is RETIRED]


def test_a_split_takes_the_first_and_leaves_the_rest_with_the_right_bytes() -> None:
    lane = make_lane()
    frame = sized_frame([10, 20, 30, 40, 50])
    run = Run(frame, [0, 2, 3, 4], 130, lane, attempt_count=2)
    first = run.split(3)
    assert (first.indices, first.byte_count) == ([0, 2, 3], 80)
    assert (run.indices, run.byte_count) == ([4], 50)
    assert (first.frame, first.lane, first.attempt_count) == (frame, lane, 2)


def test_a_lane_counts_what_it_queues() -> None:
    lane = make_lane()
    filled(lane, [10, 20], [5])
    assert (lane.queued_records, lane.queued_bytes) == (3, 35)
    drawn(lane, records=2)
    assert (lane.queued_records, lane.queued_bytes) == (1, 5)


def test_records_leave_in_the_order_in_which_they_came() -> None:
    lane = make_lane()
    a, b, c = filled(lane, [10] * 4, [10] * 4, [10] * 4)
    left: list[tuple[Frame, int]] = []
    for _ in range(4):
        left += [(run.frame, index) for run in drawn(lane, records=3) for index in run.indices]
    assert left == [(frame, index) for frame in (a, b, c) for index in range(4)]
    assert not lane.queue


def test_what_failed_goes_before_what_was_not_tried() -> None:
    lane = make_lane()
    (old,) = filled(lane, [10, 10])
    retry = sized_frame([7])
    lane.push_front(whole(retry, lane))
    assert [run.frame for run in drawn(lane)] == [retry, old]


@pytest.mark.parametrize(("records", "byte_count", "expected"), [(3, 10**9, 3), (500, 25, 2)])
def test_a_draw_keeps_to_the_room_in_the_batch(
    records: int, byte_count: int, expected: int
) -> None:
    lane = make_lane()
    filled(lane, [10] * 5)
    assert sum(len(run.indices) for run in drawn(lane, records, byte_count)) == expected


def test_a_draw_keeps_to_what_the_shard_can_pay_and_takes_the_tokens() -> None:
    lane = make_lane(10, 1000)  # 9 records, 900 bytes saved up
    filled(lane, [10] * 20)
    assert sum(len(run.indices) for run in drawn(lane)) == 9
    assert lane.budget.records.available == 0
    assert lane.budget.bytes.available == 810
    assert drawn(lane) == []
    assert sum(len(run.indices) for run in drawn(lane, now_ns=250 * MS)) == 2


def test_bytes_hold_back_as_records_do() -> None:
    lane = make_lane(1000, 1000)
    filled(lane, [400, 400, 400])
    assert sum(run.byte_count for run in drawn(lane)) == 800
    assert lane.budget.bytes.available == 100
    assert lane.payable_at_ns(1, 1) == 300 * MS


def test_a_record_above_the_bucket_goes_alone_from_a_full_one_into_debt() -> None:
    lane = make_lane(1000, 1000)
    filled(lane, [100], [5000], [1])
    first = drawn(lane)
    assert [run.byte_count for run in first] == [100], "not while the bucket is not full"
    assert lane.payable_at_ns(1, 1) == 100 * MS
    assert drawn(lane, now_ns=100 * MS - 1) == []
    alone = drawn(lane, now_ns=100 * MS)
    assert [run.byte_count for run in alone] == [5000]
    assert lane.budget.bytes.available == -4100
    assert lane.payable_at_ns(1, 1) == 100 * MS + 4101 * MS


def test_a_record_above_the_batch_s_bytes_goes_only_into_an_empty_batch_and_alone() -> None:
    lane = make_lane()
    filled(lane, [5000, 1], [5000])
    out = drawn(lane, byte_count=4999)
    assert [run.indices for run in out] == [[0]]
    assert lane.draw(500, 4999 - 5000, 0, out) == (0, 0)
    assert [run.indices for run in drawn(lane, byte_count=4999)] == [[1]]
    assert [run.indices for run in drawn(lane, byte_count=4999)] == [[0]]
    assert not lane.queue


def test_a_record_above_both_the_bucket_and_the_batch_waits_for_a_full_bucket() -> None:
    lane = make_lane(1000, 1000)
    filled(lane, [100], [5000], [1])
    assert [run.byte_count for run in drawn(lane, byte_count=300)] == [100]
    assert drawn(lane, byte_count=300, now_ns=100 * MS - 1) == []
    assert [run.byte_count for run in drawn(lane, byte_count=300, now_ns=100 * MS)] == [5000]
    assert lane.payable_at_ns(1, 1) == 100 * MS + 4101 * MS


def test_an_oversize_record_in_the_middle_of_a_run_is_split_off() -> None:
    lane = make_lane(1000, 1000)
    (frame,) = filled(lane, [10, 5000, 10])
    assert [run.indices for run in drawn(lane)] == [[0]]
    assert [run.indices for run in drawn(lane, now_ns=SECOND)] == [[1]]
    assert [run.indices for run in drawn(lane, now_ns=100 * SECOND)] == [[2]]
    assert frame.records


def test_a_lane_of_one_record_a_second_draws_one() -> None:
    lane = make_lane(1, 1_000_000)
    filled(lane, [10, 10])
    assert len(drawn(lane)) == 1
    assert lane.payable_at_ns(1, 1) == SECOND
    assert len(drawn(lane, now_ns=SECOND)) == 1


def test_a_saturated_lane_waits_for_a_quantum_not_for_one_token() -> None:
    lane = make_lane(1000, 10**9)
    filled(lane, [10] * 2000)
    drawn(lane, records=900)
    assert lane.payable_at_ns(1, 1) == 1 * MS
    assert lane.payable_at_ns(100, 10**8) == 100 * MS


def test_a_lane_with_less_than_a_quantum_waits_for_what_it_has() -> None:
    lane = make_lane(1000, 1_000_000)
    filled(lane, [10] * 905)
    drawn(lane, records=900)
    assert lane.payable_at_ns(100, 100_000) == 5 * MS


def test_a_quantum_is_never_less_than_the_first_record() -> None:
    lane = make_lane(1000, 1000)
    filled(lane, [900], [300])
    drawn(lane)
    assert lane.payable_at_ns(100, 100) == 300 * MS


def test_a_backoff_is_waited_for_though_there_are_tokens() -> None:
    lane = make_lane()
    filled(lane, [10])
    lane.blocked_until_ns = 77 * MS
    assert lane.payable_at_ns(1, 1) == 77 * MS


def test_abandoned_frames_are_forgotten_and_the_rest_keeps_its_order() -> None:
    lane = make_lane()
    a, b, c = filled(lane, [10], [20, 20], [30])
    b.is_abandoned = True
    assert [(run.frame, run.byte_count) for run in lane.drop_abandoned(None, 0, 3)] == [(b, 40)]
    assert (lane.queued_records, lane.queued_bytes) == (2, 40)
    assert [run.frame for run in drawn(lane)] == [a, c]


def test_only_a_part_of_the_queue_is_looked_at_for_abandoned_frames() -> None:
    lane = make_lane()
    frames = filled(lane, [1], [1], [1], [1], [1])
    for frame in frames[1:4]:
        frame.is_abandoned = True
    assert [run.frame for run in lane.drop_abandoned(None, 1, 2)] == frames[1:3]
    assert [run.frame for run in lane.queue] == [frames[0], frames[3], frames[4]]
    assert [run.frame for run in lane.drop_abandoned(None, 2, 1)] == []
    assert [run.frame for run in lane.drop_abandoned(None, 1, 2)] == [frames[3]]
    assert [run.frame for run in lane.queue] == [frames[0], frames[4]]


def test_taking_all_empties_the_lane_in_order() -> None:
    lane = make_lane()
    frames = filled(lane, [10], [20], [30])
    assert [run.frame for run in lane.take_all()] == frames
    assert (lane.queued_records, lane.queued_bytes, len(lane.queue)) == (0, 0, 0)


@settings(deadline=None, print_blob=True, max_examples=examples(120))
@given(
    frames=st.lists(st.lists(st.integers(1, 3000), min_size=1, max_size=12), max_size=8),
    rates=st.tuples(st.integers(1, 50), st.integers(1, 4000)),
    room=st.tuples(st.integers(1, 20), st.integers(3000, 9000)),
)
def test_whatever_is_queued_leaves_once_in_order_as_it_is_paid_for(
    frames: list[list[int]], rates: tuple[int, int], room: tuple[int, int]
) -> None:
    lane = make_lane(*rates)
    made = filled(lane, *frames)
    now_ns = 0
    left: list[tuple[Frame, int]] = []
    turns = 0
    while lane.queue:
        turns += 1
        assert turns < 200, "stuck"
        lane.budget.refill(now_ns)
        due_ns = lane.payable_at_ns(1, 1)
        assert due_ns >= now_ns or lane.budget.can_pay(1, 1)
        now_ns = max(now_ns, due_ns)
        runs = drawn(lane, *room, now_ns=now_ns)
        assert runs, "what is payable is drawn"
        assert sum(len(run.indices) for run in runs) <= room[0]
        assert sum(run.byte_count for run in runs) <= room[1]
        for run in runs:
            assert run.byte_count == sum(run.frame.sizes[index] for index in run.indices)
            left += [(run.frame, index) for index in run.indices]
    assert left == [(frame, index) for frame in made for index in range(len(frame.records))]
    assert (lane.queued_records, lane.queued_bytes) == (0, 0)
