"""What is left of the disk, and for whom."""

import pytest

from kdaemon.spool.space import UNLISTED_PARTS, Had, Space
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


def test_no_client_has_all_of_the_last_part(space: Space) -> None:
    assert space.may_have(1, 600_000, Had()), "while much is left"
    space.measured(Sizes(live_bytes=960_000, file_bytes=960_000))
    assert space.may_have(1, 4_000, Had())
    assert not space.may_have(1, 4_000, Had())
    assert space.may_have(2, 4_000, Had())


def test_what_could_be_given_back_is_what_holds_nothing(space: Space) -> None:
    assert space.free_bytes == 150_000
