"""The lanes of all streams, and how much of the disk each has."""

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.spooled_streams import SpooledStreams
from tests.unit.spool.rig import MIB, FakeTarget


@pytest.fixture
def lanes() -> SpooledStreams:
    return SpooledStreams(ByteBudget(64 * MIB))


def test_a_stream_has_one_lane_as_long_as_something_of_it_is_here(lanes: SpooledStreams) -> None:
    target = FakeTarget("s")
    assert lanes.find(target) is None
    lane = lanes.get(target, is_listed=True)
    lanes.add(lane, 1, 500)
    assert lanes.get(target, is_listed=True) is lane
    assert lanes.find(target) is lane
    lanes.add(lane, -1, -500)
    assert lanes.find(target) is None


def test_a_stream_that_was_opened_again_has_the_lane_of_before(lanes: SpooledStreams) -> None:
    lane = lanes.get(FakeTarget("s"), is_listed=True)
    lanes.add(lane, 1, 500)
    lane.is_called_back = True
    again = FakeTarget("s")
    again.map_count = 7
    assert lanes.get(again, is_listed=True) is lane
    assert (lane.target, lane.is_called_back, lane.left.map_count) == (again, False, 7)


def test_what_unlisted_streams_have_is_a_sum_that_follows_the_list(lanes: SpooledStreams) -> None:
    target = FakeTarget("s")
    lane = lanes.get(target, is_listed=False)
    lanes.add(lane, 1, 500)
    lanes.add(lanes.get(FakeTarget("listed"), is_listed=True), 1, 300)
    assert lanes.unlisted_bytes == 500
    lanes.get(target, is_listed=True)
    assert lanes.unlisted_bytes == 0
    lanes.get(target, is_listed=False)
    assert lanes.unlisted_bytes == 500
    lanes.add(lane, -1, -700)  # what was found at the start is an estimate
    assert lanes.unlisted_bytes == 0


@pytest.mark.parametrize(("is_waiting", "is_on_its_way"), [(False, True), (True, False)])
def test_who_waits_for_room_is_not_on_its_way(
    lanes: SpooledStreams, *, is_waiting: bool, is_on_its_way: bool
) -> None:
    lane = lanes.get(FakeTarget("s"), is_listed=True)
    lane.position.last_id = 3
    lane.is_waiting_for_room = is_waiting
    assert lanes.is_passing_on is is_on_its_way


def test_with_nothing_on_disk_nothing_is_on_its_way(lanes: SpooledStreams) -> None:
    lanes.get(FakeTarget("s"), is_listed=True)
    assert not lanes.is_passing_on
