"""Where a share begins on a stream that is kept warm, and that it ends where all others do."""

import pytest

from kdaemon.pace.adaptive import (
    FIRST_SHARE,
    LEVEL_PART,
    WARM_SHARE_MAX,
    AdaptiveShare,
    Phase,
    warm_first_share,
)
from kdaemon.pace.budget import ShardBudget

MS = 1_000_000
SECOND = 1_000_000_000
RECORDS, BYTES = 1000, 1024 * 1024


@pytest.mark.parametrize(
    ("first_share", "warm_part", "expected"),
    [
        (FIRST_SHARE, 0.0, FIRST_SHARE),
        (FIRST_SHARE, 0.1, FIRST_SHARE),
        (FIRST_SHARE, 0.5, WARM_SHARE_MAX / 2),
        (FIRST_SHARE, 1.0, WARM_SHARE_MAX),
        (FIRST_SHARE, 1e9, WARM_SHARE_MAX),
        (0.01, 1.0, 0.08),  # a fleet of a hundred, as its operator says
        (0.6, 1.0, 0.6),
        (1.0, 0.5, 1.0),
        (1.0, 1.0, 1.0),
    ],
)
def test_a_warm_share_is_never_less_than_the_first_one_and_no_more_than_a_half(
    first_share: float, warm_part: float, expected: float
) -> None:
    assert warm_first_share(first_share, warm_part) == pytest.approx(expected)


def test_the_rate_is_there_at_once_and_nothing_is_saved_up() -> None:
    cold, warm = (ShardBudget(RECORDS, BYTES, 0) for _ in range(2))
    warm.begin_at(0.5, 0)
    assert (warm.records.rate, warm.bytes.rate) == (RECORDS // 2, BYTES // 2)
    assert warm.records.available == cold.records.available
    assert warm.bytes.available == cold.bytes.available


def shares(share: AdaptiveShare, until_ms: int) -> dict[int, float]:
    """By the millisecond, looked at every 20."""
    found = {}
    for at_ms in range(0, until_ms + 1, 20):
        share.grow(at_ms * MS)
        found[at_ms] = share.share
    return found


@pytest.mark.parametrize("begun_ms", [0, 200])
def test_it_stands_until_it_would_have_come_so_far_and_grows_as_every_other(begun_ms: int) -> None:
    cold, warm = (AdaptiveShare(FIRST_SHARE, 0) for _ in range(2))
    warm.begin_at(0.5, begun_ms * MS)
    slow, quick = shares(cold, 2000), shares(warm, 2000)
    for at_ms in range(begun_ms, 2001, 20):
        assert quick[at_ms] == pytest.approx(max(0.5, slow[at_ms])), at_ms
    assert quick[2000] == 1.0


def test_the_first_throttle_takes_it_to_where_all_begin_again_and_it_doubles_from_then_on() -> None:
    share = AdaptiveShare(FIRST_SHARE, 0)
    share.begin_at(0.5, 0)
    assert share.hit(0.5, 100 * MS)
    assert share.phase is Phase.LEVEL
    assert share.share == pytest.approx(0.5 * LEVEL_PART)
    share.end_interval(0.0, 0.07, 500 * MS, is_single=False, is_alone=False)
    share.grow(500 * MS)
    share.grow(1200 * MS)
    assert share.share == pytest.approx(0.5 * LEVEL_PART * 2), "0.7 s are a doubling"


def test_what_was_learnt_of_a_shard_stays() -> None:
    for later_ns in (SECOND, 60 * SECOND):
        budget = ShardBudget(RECORDS, BYTES, 0)
        budget.refill(500 * MS)
        budget.hear(100, 10_000, 90, 500 * MS, 530 * MS)
        share = budget.records_share
        assert share < 0.1
        budget.begin_at(0.5, 540 * MS)
        assert budget.records_share == share, "the first throttle was heard"
        assert budget.bytes_share == 0.5, "nothing was heard of bytes"
        budget.begin_at(0.1, later_ns)
        assert budget.bytes_share >= 0.5, "a share that is larger already stays"


def test_a_child_s_share_stands_as_long_as_its_parent_s() -> None:
    parent, child = ShardBudget(RECORDS, BYTES, 0), ShardBudget(RECORDS, BYTES, 100 * MS)
    parent.begin_at(0.5, 0)
    child.inherit(parent, 100 * MS)
    child.refill(SECOND)
    assert child.records_share == 0.5
    child.refill(2 * SECOND)
    assert child.records_share == 1.0


def test_a_shard_that_is_known_to_be_ours_is_left_alone() -> None:
    share = AdaptiveShare(1.0, 0)
    share.begin_at(0.5, SECOND)
    assert (share.share, share.is_settled) == (1.0, True)
