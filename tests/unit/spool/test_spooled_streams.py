"""The lanes of all streams, and how much of the disk each has."""

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.spool.spooled_streams import SpooledStreams
from tests.unit.spool.rig import MIB, FakeTarget


@pytest.fixture
def streams() -> SpooledStreams:
    return SpooledStreams(ByteBudget(64 * MIB))


def test_a_stream_has_one_lane_as_long_as_something_of_it_is_here(streams: SpooledStreams) -> None:
    target = FakeTarget("s")
    assert streams.find(target) is None
    spooled = streams.get(target, is_listed=True)
    streams.add(spooled, 1, 500)
    assert streams.get(target, is_listed=True) is spooled
    assert streams.find(target) is spooled
    streams.add(spooled, -1, -500)
    assert streams.find(target) is None


def test_a_stream_that_was_opened_again_has_the_lane_of_before(streams: SpooledStreams) -> None:
    spooled = streams.get(FakeTarget("s"), is_listed=True)
    streams.add(spooled, 1, 500)
    spooled.is_called_back = True
    again = FakeTarget("s")
    again.map_count = 7
    assert streams.get(again, is_listed=True) is spooled
    assert (spooled.target, spooled.is_called_back, spooled.left.map_count) == (again, False, 7)


def test_what_unlisted_streams_have_is_a_sum_that_follows_the_list(streams: SpooledStreams) -> None:
    target = FakeTarget("s")
    spooled = streams.get(target, is_listed=False)
    streams.add(spooled, 1, 500)
    streams.add(streams.get(FakeTarget("listed"), is_listed=True), 1, 300)
    assert streams.unlisted_bytes == 500
    streams.get(target, is_listed=True)
    assert streams.unlisted_bytes == 0
    streams.get(target, is_listed=False)
    assert streams.unlisted_bytes == 500
    streams.add(spooled, -1, -700)  # what was found at the start is an estimate
    assert streams.unlisted_bytes == 0


@pytest.mark.parametrize(("is_waiting", "is_on_its_way"), [(False, True), (True, False)])
def test_who_waits_for_room_is_not_on_its_way(
    streams: SpooledStreams, *, is_waiting: bool, is_on_its_way: bool
) -> None:
    spooled = streams.get(FakeTarget("s"), is_listed=True)
    spooled.position.last_id = 3
    spooled.is_waiting_for_room = is_waiting
    assert streams.is_passing_on is is_on_its_way


def test_with_nothing_on_disk_nothing_is_on_its_way(streams: SpooledStreams) -> None:
    streams.get(FakeTarget("s"), is_listed=True)
    assert not streams.is_passing_on
