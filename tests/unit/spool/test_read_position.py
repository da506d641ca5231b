"""How far the disk is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.spool.read_position import ReadPosition


def test_a_frame_that_was_taken_leaves_nothing_on_disk() -> None:
    position = ReadPosition()
    position.committed(3, is_passed=True)
    assert position.is_read


def test_after_one_that_was_not_taken_all_wait_until_they_are_read() -> None:
    position = ReadPosition()
    position.committed(3, is_passed=False)
    position.committed(7, is_passed=False)
    position.read(3)
    assert not position.is_read
    position.read(7)
    assert position.is_read


def test_a_frame_cannot_overtake_those_before_it() -> None:
    position = ReadPosition()
    position.committed(3, is_passed=False)
    with pytest.raises(AssertionError, match="overtook"):
        position.committed(4, is_passed=True)
    with pytest.raises(AssertionError, match="order"):
        position.committed(3, is_passed=False)


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_frames_reach_the_engine_in_their_order(rooms: list[bool], dice: object) -> None:
    """`rooms[i]`: whether the engine had room when frame i was committed. Reads come in between."""
    position = ReadPosition()
    on_disk: list[int] = []
    engine: list[int] = []
    for frame_id, has_room in enumerate(rooms, 1):
        is_passed = position.is_read and has_room
        position.committed(frame_id, is_passed=is_passed)
        (engine if is_passed else on_disk).append(frame_id)
        if on_disk and dice.random() < 0.3:  # type: ignore[attr-defined]
            read = on_disk.pop(0)
            engine.append(read)
            position.read(read)
        assert position.is_read is (not on_disk)
    assert engine == sorted(engine)
