"""What is left of the disk, and for whom."""

import pytest

from kdaemon.spool.space import LAST_PARTS, UNLISTED_PARTS, Had, Space
from kdaemon.spool.values import Sizes

BYTES_MAX = 1_000_000


@pytest.fixture
def space() -> Space:
    space = Space(BYTES_MAX)
    space.measured(Sizes(live_bytes=300_000, file_bytes=450_000))
    return space


def test_what_waits_for_its_commit_counts_as_taken(space: Space) -> None:
    assert not space.is_full(700_000, Had())
    assert space.is_full(700_001, Had())
    space.uncommitted_bytes += 200_000
    assert not space.is_full(500_000, Had())
    assert space.is_full(500_001, Had())


def test_unlisted_streams_share_a_part_of_it(space: Space) -> None:
    part = BYTES_MAX // UNLISTED_PARTS
    assert not space.is_full(part - 100_000, Had(100_000))
    assert space.is_full(part - 99_999, Had(100_000))
    space.measured(Sizes(live_bytes=900_000, file_bytes=900_000))
    assert space.is_full(100_001, Had(0)), "nor have they more than is left"


def test_an_upstream_has_three_times_what_is_left_at_most(space: Space) -> None:
    assert not space.is_full(525_000, Had(upstream=0)), "of 700,000"
    assert space.is_full(525_001, Had(upstream=0))
    space.measured(Sizes(live_bytes=750_000, file_bytes=750_000))
    assert space.is_full(1, Had(upstream=750_000))
    assert not space.is_full(100_000, Had(upstream=200_000))
    assert space.is_full(1, Had(unlisted=BYTES_MAX // UNLISTED_PARTS, upstream=0)), "the narrower"


GREEDY, QUIET, NOBODY = 1, 2, 0


def fill(space: Space, client: int, size: int = 1_000) -> int:
    """Stores as long as the client may; what is left then."""
    while not space.is_full(size, Had()) and space.may_have(client, size, Had()):
        space.uncommitted_bytes += size
    return space.bytes_max - space.live_bytes - space.uncommitted_bytes


def test_one_that_stores_much_leaves_room_for_who_stores_little(space: Space) -> None:
    left_bytes = fill(space, GREEDY)
    assert 0.8 * BYTES_MAX / LAST_PARTS < left_bytes <= BYTES_MAX / LAST_PARTS
    for _ in range(5):
        assert space.may_have(QUIET, 1_000, Had())
        space.uncommitted_bytes += 1_000
    assert not space.may_have(GREEDY, 1_000, Had())


def test_many_that_store_much_leave_room_too(space: Space) -> None:
    for client in range(10, 26):
        fill(space, client, 100)
    assert space.may_have(QUIET, 100, Had())


def test_with_room_again_nothing_is_held_against_anybody(space: Space) -> None:
    fill(space, GREEDY)
    taken_bytes = space.uncommitted_bytes
    space.uncommitted_bytes -= BYTES_MAX // 4
    assert space.may_have(GREEDY, 1_000, Had())
    space.uncommitted_bytes = taken_bytes
    assert space.may_have(GREEDY, 1_000, Had())


def test_nobody_is_not_asked_to_wait(space: Space) -> None:
    assert fill(space, NOBODY) == 0


def test_what_could_be_given_back_is_what_holds_nothing(space: Space) -> None:
    assert space.free_bytes == 150_000
