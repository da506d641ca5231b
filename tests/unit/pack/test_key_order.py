"""Order per key: whose turn it is, what waits, and that nothing is left behind."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.key_order import KeyOrder
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from tests.kit.depth import examples
from tests.kit.frames import make_frame
from tests.kit.queues import dropped, make_packer

Place = tuple[Frame, int]


def make_lane(name: str = "s") -> Lane:
    return Lane(name, ShardBudget(1000, 1_000_000, 0, 1.0))


def frame_of(keys: str) -> Frame:
    """A record of 10 bytes for each letter, its key."""
    return make_frame(Record(bytes(9), key) for key in keys)


def run_of(frame: Frame, lane: Lane, indices: list[int] | None = None, attempts: int = 0) -> Run:
    indices = list(range(len(frame.records))) if indices is None else indices
    return Run(frame, indices, sum(frame.sizes[i] for i in indices), lane, attempts)


def settled(order: KeyOrder, frame: Frame, indices: list[int]) -> list[Run]:
    """Whose turn it is then."""
    order.settled(frame, indices)
    return order.freed()


def places(runs: list[Run]) -> list[Place]:
    return [(run.frame, index) for run in runs for index in run.indices]


def waits(lane: Lane) -> tuple[int, int]:
    return lane.waiting_records, lane.waiting_bytes


def test_the_first_record_of_each_key_goes_and_the_rest_waits() -> None:
    order, lane = KeyOrder(), make_lane()
    run = run_of(frame_of("abacab"), lane)
    assert order.enter([run]) == [run]
    assert (run.indices, run.byte_count) == ([0, 1, 3], 30)
    assert waits(lane) == (3, 30)


def test_a_run_whose_keys_are_all_out_is_kept_back_whole() -> None:
    order, lane = KeyOrder(), make_lane()
    order.enter([run_of(frame_of("ab"), lane)])
    assert order.enter([run_of(frame_of("ba"), lane)]) == []
    assert waits(lane) == (2, 20)


def test_a_key_goes_on_one_record_at_a_time_in_the_order_of_frames() -> None:
    order, lane = KeyOrder(), make_lane()
    first, second = frame_of("aa"), frame_of("ab")
    for frame in (first, second):
        order.enter([run_of(frame, lane)])
    assert places(settled(order, first, [0])) == [(first, 1)]
    assert waits(lane) == (1, 10)
    assert places(settled(order, first, [1])) == [(second, 0)]
    assert places(settled(order, second, [0])) == []
    assert places(settled(order, second, [1])) == []
    assert waits(lane) == (0, 0)
    assert not order.keys(), "keys that are done are forgotten"


def test_other_keys_do_not_wait_for_a_key_that_does_not_get_on() -> None:
    order, lane = KeyOrder(), make_lane()
    stuck, others = frame_of("aaa"), frame_of("bcd")
    order.enter([run_of(stuck, lane)])
    run = run_of(others, lane)
    assert order.enter([run]) == [run]
    assert run.indices == [0, 1, 2]


def test_a_key_whose_records_are_in_several_runs_of_a_frame_keeps_the_order_of_the_frame() -> None:
    """By explicit hash keys they may go to different shards, and are queued by shard."""
    order, low, high = KeyOrder(), make_lane("low"), make_lane("high")
    frame = frame_of("baaa")
    for record in frame.records:
        record.explicit_hash_key = "0"
    on_low, on_high = run_of(frame, low, [0, 2]), run_of(frame, high, [1, 3])
    assert order.enter([on_low, on_high]) == [on_low, on_high]
    assert (on_low.indices, on_high.indices) == ([0], [1])
    assert (waits(low), waits(high)) == ((1, 10), (1, 10))
    assert places(settled(order, frame, [1])) == [(frame, 2)]
    assert places(settled(order, frame, [2])) == [(frame, 3)]


def test_a_record_sent_alone_and_failed_keeps_its_turn() -> None:
    order, lane = KeyOrder(), make_lane()
    frame = frame_of("aab")
    run = run_of(frame, lane)
    order.enter([run])
    again = run_of(frame, lane, [0, 2], attempts=1)
    assert order.back(again)
    assert (again.indices, again.byte_count) == ([0, 2], 20)
    assert waits(lane) == (1, 10)


def test_those_behind_go_along_one_by_one_as_far_as_there_is_room() -> None:
    order, lane = KeyOrder(), make_lane()
    frame = make_frame(Record(bytes(size - 1), "a") for size in (10, 20, 30))
    run = run_of(frame, lane)
    order.enter([run])
    assert order.next_behind(run, 0, 19) is None
    follower = order.next_behind(run, 0, 20)
    assert follower is not None
    assert (follower.indices, follower.byte_count, follower.lane) == ([1], 20, lane)
    assert waits(lane) == (1, 30)
    follower = order.next_behind(run, 0, 30)
    assert follower is not None
    assert follower.indices == [2]
    assert order.next_behind(run, 0, 10**9) is None
    assert waits(lane) == (0, 0)


def test_one_for_another_shard_does_not_go_along() -> None:
    order, lane = KeyOrder(), make_lane()
    frame = make_frame([Record(b"", "a", "1"), Record(b"", "a", "2"), Record(b"", "a", "1")])
    run = run_of(frame, lane)
    order.enter([run])
    assert order.next_behind(run, 0, 10**9) is None, "nor may what is behind it overtake it"


def test_who_goes_along_is_of_the_lane_that_pays_now_not_of_the_one_where_it_waited() -> None:
    order, old, new = KeyOrder(), make_lane("old"), make_lane("new")
    frame = frame_of("aa")
    order.enter([run_of(frame, old)])
    follower = order.next_behind(run_of(frame, new, [0]), 0, 10**9)
    assert follower is not None
    assert follower.lane is new
    assert (waits(old), waits(new)) == ((0, 0), (0, 0))


def grouped(count: int) -> tuple[KeyOrder, Lane, Frame, list[Run]]:
    """`count` records of one key, all out together, each a run; and one more behind them."""
    order, lane = KeyOrder(), make_lane()
    frame = frame_of("a" * (count + 1))
    head = run_of(frame, lane)
    order.enter([head])
    runs = [head]
    while len(runs) < count:
        follower = order.next_behind(head, 0, 10**9)
        assert follower is not None
        runs.append(follower)
    return order, lane, frame, runs


def test_a_group_that_failed_is_again_one_record_and_those_behind_it_in_their_order() -> None:
    order, lane, frame, runs = grouped(3)
    back = [run_of(frame, lane, run.indices, attempts=1) for run in reversed(runs)]
    assert [order.back(run) for run in back] == [False, False, True]
    assert back[-1].indices == [0]
    assert waits(lane) == (3, 30)
    went = []
    for index in range(4):
        went += [(run.indices, run.attempt_count) for run in settled(order, frame, [index])]
    assert went == [([1], 1), ([2], 1), ([3], 0)]
    assert not order.keys()


def test_nobodys_turn_comes_before_all_of_a_group_are_settled() -> None:
    order, lane, frame, _ = grouped(3)
    assert settled(order, frame, [0]) == []
    assert settled(order, frame, [2]) == []
    assert places(settled(order, frame, [1])) == [(frame, 3)]
    assert waits(lane) == (0, 0)


def test_of_a_group_that_was_taken_in_part_the_rest_goes_first() -> None:
    order, lane, frame, runs = grouped(3)
    order.settled(frame, [0])
    assert not order.back(run_of(frame, lane, runs[2].indices, attempts=1))
    assert order.back(run_of(frame, lane, runs[1].indices, attempts=1))
    assert places(settled(order, frame, [1])) == [(frame, 2)]
    assert places(settled(order, frame, [2])) == [(frame, 3)]


def test_a_record_whose_client_left_is_passed_over_and_let_go() -> None:
    order, lane = KeyOrder(), make_lane()
    first, gone, last = frame_of("a"), frame_of("aa"), frame_of("a")
    head = run_of(first, lane)
    for run in (head, run_of(gone, lane), run_of(last, lane)):
        order.enter([run])
    gone.is_abandoned = True
    follower = order.next_behind(head, 0, 10**9)
    assert follower is not None
    assert follower.frame is last
    assert waits(lane) == (0, 0)


def test_the_turn_of_a_record_whose_client_left_goes_to_the_next() -> None:
    order, lane = KeyOrder(), make_lane()
    first, gone, last = frame_of("a"), frame_of("a"), frame_of("a")
    for frame in (first, gone, last):
        order.enter([run_of(frame, lane)])
    gone.is_abandoned = True
    assert places(settled(order, first, [0])) == [(last, 0)]
    assert waits(lane) == (0, 0)


def test_records_of_clients_that_left_are_let_go_at_once_wherever_they_wait() -> None:
    order, lane = KeyOrder(), make_lane()
    first, gone, last = frame_of("ab"), frame_of("aabb"), frame_of("ab")
    for frame in (first, gone, last):
        order.enter([run_of(frame, lane)])
    gone.is_abandoned = True
    dropped(make_packer(lane), order)
    assert waits(lane) == (2, 20)
    assert places(settled(order, first, [0, 1])) == [(last, 0), (last, 1)]


def test_records_of_a_run_whose_turn_comes_together_are_one_run_again() -> None:
    order, lane = KeyOrder(), make_lane()
    first, late = frame_of("abc"), frame_of("xcab")
    for frame in (first, late):
        order.enter([run_of(frame, lane)])
    for index in (1, 2, 0):
        order.settled(first, [index])
    assert waits(lane) == (3, 30), "they are counted until they are queued"
    (run,) = order.freed()
    assert (run.frame, run.indices, run.byte_count, run.lane) == (late, [1, 2, 3], 30, lane)
    assert waits(lane) == (0, 0)
    assert order.freed() == []


def test_those_that_were_tried_are_a_run_apart_from_those_of_their_frame_that_were_not() -> None:
    order, lane, frame, runs = grouped(2)
    other = frame_of("b")
    order.enter([run_of(other, lane)])
    order.enter([run_of(frame_of("b"), lane)])
    for run in reversed(runs):
        order.back(run_of(frame, lane, run.indices, attempts=1))
    order.settled(frame, [0])
    order.settled(other, [0])
    assert [(run.indices, run.attempt_count) for run in order.freed()] == [([1], 1), ([0], 0)]


def test_a_walk_that_forgets_goes_on_where_it_was_whatever_left_meanwhile() -> None:
    """In slices: between two of them the first of the key is settled."""
    for settled_count in range(5):
        order, lane = KeyOrder(), make_lane()
        frames = [frame_of("a") for _ in range(8)]
        for frame in frames:
            order.enter([run_of(frame, lane)])
        for frame in frames[2::2]:
            frame.is_abandoned = True
        after, looked_at = order.forget_abandoned("a", None, 3)
        assert looked_at == 3
        for at in range(settled_count):
            if not frames[at].is_abandoned:
                settled(order, frames[at], [0])
        while looked_at:
            after, looked_at = order.forget_abandoned("a", after, 1)
        left = [each.kept.frame for each in order.behind("a")]
        assert not any(frame.is_abandoned for frame in left)
        assert waits(lane) == (len(left), 10 * len(left))
        last = frame_of("a")
        order.enter([run_of(last, lane)])
        assert [each.kept.frame for each in order.behind("a")] == [*left, last]


@settings(deadline=None, print_blob=True, max_examples=examples(150))
@given(
    frames=st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    is_grouping=st.booleans(),
)
@pytest.mark.parametrize("leaves", [False, True])
def test_whatever_happens_each_key_goes_in_order_and_nothing_is_left(
    frames: list[str], seed: int, *, is_grouping: bool, leaves: bool
) -> None:
    """Runs are drawn, taken and refused at random; clients leave at random."""
    dice, order, lane = random.Random(seed), KeyOrder(), make_lane()
    queue: list[Run] = []
    done: dict[str, list[Place]] = {}
    made = [frame_of(keys) for keys in frames]
    to_come = list(made)
    for _ in range(1000):
        if to_come and dice.random() < 0.5:
            queue += order.enter([run_of(to_come.pop(0), lane)])
        if leaves and dice.random() < 0.1:
            gone = dice.choice(made)
            gone.is_abandoned = True
            left = [run for run in queue if run.frame is gone]
            queue = [run for run in queue if run.frame is not gone]
            for run in left:
                queue += settled(order, gone, run.indices)
            dropped(make_packer(lane), order)
        if not queue:
            continue
        run = queue.pop(dice.randrange(len(queue)))
        call = [run]
        while is_grouping and dice.random() < 0.7:
            follower = order.next_behind(run, dice.choice(run.indices), 10**9)
            call += [follower] if follower is not None else []
        is_taken = dice.random() < 0.6
        for each in call if is_taken else reversed(call):
            if is_taken or each.frame.is_abandoned:
                order.settled(each.frame, each.indices)
            elif order.back(each):
                queue.append(each)
            for index in each.indices if is_taken else ():
                key = each.frame.records[index].partition_key
                done.setdefault(key, []).append((each.frame, index))
        queue += order.freed()
    assert not queue
    assert not to_come
    assert not order.keys()
    assert waits(lane) == (0, 0)
    number = {frame: position for position, frame in enumerate(made)}
    for went in done.values():
        assert went == sorted(went, key=lambda place: (number[place[0]], place[1]))
    if not leaves:
        assert sum(map(len, done.values())) == sum(map(len, frames))
