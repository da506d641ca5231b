"""Deadlines: in order, in coarse steps, each frame once."""

from itertools import pairwise

from kdaemon.base.frame import Frame
from kdaemon.settle.deadlines import SWEEP_INTERVAL_NS, Deadlines, pieces_of
from tests.kit.frames import SECOND, sized_frame

MANY = 10**9  # pieces: no bound


def filled(*deadlines_ns: int) -> tuple[Deadlines, list[Frame]]:
    deadlines = Deadlines()
    frames = [sized_frame([1], deadline_ns=at_ns) for at_ns in deadlines_ns]
    for frame, at_ns in zip(frames, deadlines_ns, strict=True):
        deadlines.add(frame, at_ns)
    return deadlines, frames


def test_nothing_waits_in_the_beginning() -> None:
    deadlines = Deadlines()
    assert deadlines.next_sweep_ns() is None
    assert deadlines.take_expired(10**18, MANY) == []
    assert deadlines.take_first(MANY, 10**18) == []
    assert len(deadlines) == 0


def test_a_frame_expires_at_its_deadline_and_not_one_nanosecond_before() -> None:
    deadlines, frames = filled(20 * SECOND)
    assert deadlines.next_sweep_ns() == 20 * SECOND
    assert deadlines.take_expired(20 * SECOND - 1, MANY) == []
    assert deadlines.take_expired(20 * SECOND, MANY) == frames
    assert len(deadlines) == 0
    assert deadlines.take_expired(99 * SECOND, MANY) == []


def test_those_whose_time_has_come_go_and_the_rest_stays() -> None:
    deadlines, frames = filled(1 * SECOND, 2 * SECOND, 2 * SECOND, 3 * SECOND)
    assert deadlines.take_expired(2 * SECOND, MANY) == frames[:3]
    assert len(deadlines) == 1
    assert deadlines.next_sweep_ns() == 3 * SECOND


def test_many_deadlines_cost_a_sweep_every_tenth_of_a_second() -> None:
    step_ns = SWEEP_INTERVAL_NS // 100
    deadlines, frames = filled(*(SECOND + number * step_ns for number in range(300)))
    sweeps, taken = [], []
    while (due_ns := deadlines.next_sweep_ns()) is not None:
        sweeps.append(due_ns)
        taken += deadlines.take_expired(due_ns, MANY)
    assert taken == frames
    assert len(sweeps) == 4
    assert all(b - a >= SWEEP_INTERVAL_NS for a, b in pairwise(sweeps))


def test_a_deadline_is_kept_a_tenth_of_a_second_late_at_most() -> None:
    deadlines, _ = filled(SECOND, SECOND + 1)
    deadlines.take_expired(SECOND, MANY)
    assert deadlines.next_sweep_ns() == SECOND + SWEEP_INTERVAL_NS
    assert deadlines.take_expired(SECOND + SWEEP_INTERVAL_NS - 1, MANY) == []
    assert len(deadlines.take_expired(SECOND + SWEEP_INTERVAL_NS, MANY)) == 1


def test_a_settled_frame_is_forgotten_and_forgetting_twice_is_nothing() -> None:
    deadlines, (first, second) = filled(SECOND, 2 * SECOND)
    deadlines.discard(first)
    deadlines.discard(first)
    assert deadlines.next_sweep_ns() == 2 * SECOND
    assert deadlines.take_expired(5 * SECOND, MANY) == [second]


def test_many_that_are_due_at_once_are_taken_in_slices_and_the_rest_is_due_still() -> None:
    deadlines, frames = filled(*[SECOND] * 10)
    pieces = 3 * pieces_of(frames[0])
    slices = []
    while (due_ns := deadlines.next_sweep_ns()) is not None:
        assert due_ns == SECOND
        slices.append(deadlines.take_expired(SECOND, pieces))
    assert [len(each) for each in slices] == [3, 3, 3, 1]
    assert [frame for each in slices for frame in each] == frames


def test_a_frame_of_many_records_is_many_pieces() -> None:
    deadlines = Deadlines()
    large, small = sized_frame([1] * 100), sized_frame([1])
    for frame in (large, small):
        deadlines.add(frame, SECOND)
    assert deadlines.take_expired(SECOND, 50) == [large]
    assert deadlines.take_expired(SECOND, 50) == [small]


def test_the_first_are_taken_as_far_as_they_were_there_at_a_time() -> None:
    deadlines, frames = filled(*(SECOND + number for number in range(5)))
    for number, frame in enumerate(frames):
        frame.accepted_ns = number
    pieces = 2 * pieces_of(frames[0])
    assert deadlines.take_first(pieces, 3) == frames[:2]
    assert deadlines.take_first(pieces, 3) == frames[2:4]
    assert deadlines.take_first(pieces, 3) == []
    assert len(deadlines) == 1
