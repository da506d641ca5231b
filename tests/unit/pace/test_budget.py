"""What one shard takes: two buckets that are paid together, and shares that follow its throttles.

Laws, not constants: those are found by simulation (`bench/fleet.py`), and may change.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.pace.adaptive import FIRST_SHARE
from kdaemon.pace.bucket import TokenBucket
from kdaemon.pace.budget import ShardBudget
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND

RECORDS, BYTES = 1000, 1_000_000
STEP_NS = 50 * MS
ROUND_TRIP_NS = 30 * MS


class Shard:
    """Takes a record quota and a byte quota a second, saves up one second, counts what it did."""

    def __init__(self, records: int = RECORDS, byte_count: int = BYTES) -> None:
        # Buckets of ours save up 0.9 s; a service saves one.
        self._records = TokenBucket(records, 0)
        self._bytes = TokenBucket(byte_count, 0)
        self.taken = self.throttled = 0

    def put(self, count: int, size: int, now_ns: int) -> int:
        """How many of `count` records it did not take."""
        self._records.refill(now_ns)
        self._bytes.refill(now_ns)
        taken = max(0, min(count, self._records.available, self._bytes.available // size))
        self._records.pay(taken)
        self._bytes.pay(taken * size)
        self.taken += taken
        self.throttled += count - taken
        return count - taken


def saturate(
    budgets: Sequence[ShardBudget], shard: Shard, start_ns: int, seconds: int, size: int = 100
) -> int:
    """All that the budgets allow goes to the shard, which says what it did not take a round trip
    later. Returns the time at the end.
    """
    answers: list[tuple[ShardBudget, int, int, int]] = []
    now_ns = start_ns
    while now_ns < start_ns + seconds * SECOND:
        for budget, count, throttled, sent_ns in answers:
            budget.hear(count, count * size, throttled, sent_ns, now_ns)
        answers = []
        sent_ns = now_ns + STEP_NS - ROUND_TRIP_NS
        turn = now_ns // STEP_NS % len(budgets)  # nobody is always first
        for budget in (*budgets[turn:], *budgets[:turn]):
            budget.refill(sent_ns)
            count = max(0, min(budget.records.available, budget.bytes.available // size))
            if count:
                budget.pay(count, count * size)
                answers.append((budget, count, shard.put(count, size, sent_ns), sent_ns))
        now_ns += STEP_NS
    return now_ns


def make_budget(first_share: float = 1.0) -> ShardBudget:
    return ShardBudget(RECORDS, BYTES, 0, first_share)


def test_a_shard_pays_records_and_bytes_together_or_not_at_all() -> None:
    budget = ShardBudget(10, 1000, 0, 1.0)
    assert budget.can_pay(9, 900)
    budget.pay(9, 100)
    assert not budget.can_pay(1, 1), "bytes alone do not do"
    assert budget.ready_at_ns(1, 1) == 100_000_000
    budget.refill(100_000_000)
    assert budget.can_pay(1, 900)
    budget.pay(1, 900)
    budget.refill(200_000_000)
    assert not budget.can_pay(1, 101), "records alone do not do"
    assert budget.can_pay(1, 100)
    assert budget.ready_at_ns(1, 150) == 250_000_000


def test_a_shard_takes_both_new_ceilings() -> None:
    budget = ShardBudget(10, 1000, 0, 1.0)
    budget.pay(9, 900)
    budget.set_ceilings(20, 4000, 0)
    assert budget.ready_at_ns(1, 0) == 50_000_000
    assert budget.ready_at_ns(0, 1) == 250_000


def test_a_new_ceiling_leaves_the_share_as_it_is() -> None:
    budget = ShardBudget(1000, 10_000, 0, 0.5)
    budget.set_ceilings(3000, 50_000, 0)
    assert (budget.records_share, budget.bytes_share) == (0.5, 0.5)
    assert (budget.records.rate, budget.bytes.rate) == (1500, 25_000)


def test_a_newcomer_begins_with_a_small_part_and_only_that() -> None:
    budget = ShardBudget(RECORDS, BYTES, 0)
    assert budget.records_share == budget.bytes_share == FIRST_SHARE < 0.5
    assert budget.records.rate == int(RECORDS * FIRST_SHARE)
    assert budget.records.available <= int(RECORDS * FIRST_SHARE)
    assert budget.bytes.rate == int(BYTES * FIRST_SHARE)


def test_what_a_budget_takes_over_is_spent_in_both_buckets() -> None:
    spent, fresh = make_budget(), make_budget()
    spent.pay(700, 100_000)
    fresh.take_over(spent)
    assert (fresh.records.available, fresh.bytes.available) == (200, 800_000)


# Growth


def test_while_nothing_is_throttled_a_share_only_grows_and_becomes_the_whole() -> None:
    budget = make_budget(FIRST_SHARE)
    shares = []
    for step in range(20 * 30):
        budget.refill(step * 50 * MS)
        shares.append((budget.records_share, budget.bytes_share))
    assert shares == sorted(shares)
    assert shares[0] == (FIRST_SHARE, FIRST_SHARE)
    assert shares[-1] == (1.0, 1.0)
    assert (budget.records.rate, budget.bytes.rate) == (RECORDS, BYTES)


def test_a_newcomer_at_least_doubles_in_two_seconds() -> None:
    budget = make_budget(FIRST_SHARE)
    for step in range(100):
        budget.refill(step * 20 * MS)
    assert budget.records_share >= 2 * FIRST_SHARE


def test_how_often_a_budget_is_refilled_hardly_matters_to_its_growth() -> None:
    often, seldom = make_budget(FIRST_SHARE), make_budget(FIRST_SHARE)
    for step in range(1, 1501):
        often.refill(step * MS)
        if step % 100 == 0:
            seldom.refill(step * MS)
    assert often.records_share == pytest.approx(seldom.records_share, rel=0.05)


def test_alone_at_a_shard_one_uses_all_of_it_and_is_hardly_throttled() -> None:
    budget, shard = make_budget(FIRST_SHARE), Shard()
    now_ns = saturate([budget], shard, 0, 20)
    shard.taken = shard.throttled = 0
    saturate([budget], shard, now_ns, 30)
    assert shard.taken >= 0.97 * 30 * RECORDS
    assert shard.throttled <= 0.02 * shard.taken


# Falls


def test_a_shard_that_throttles_half_of_it_makes_the_share_fall_but_not_to_nothing() -> None:
    budget, shard = make_budget(), Shard(RECORDS // 2, BYTES // 2)
    saturate([budget], shard, 0, 10)
    assert 0.1 < budget.records_share < 0.75
    assert budget.records.rate == int(RECORDS * budget.records_share)


def test_the_more_is_throttled_the_further_it_falls() -> None:
    shares = []
    for quota in (800, 400, 100):
        budget = make_budget()
        saturate([budget], Shard(quota), 0, 6)
        shares.append(budget.records_share)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[2]


def test_a_single_throttled_record_costs_little() -> None:
    budget = make_budget()
    now_ns = 0
    for step in range(60):
        now_ns = step * STEP_NS
        budget.refill(now_ns)
        budget.hear(50, 5000, 1 if step == 25 else 0, now_ns - ROUND_TRIP_NS, now_ns)
        assert budget.records_share >= 0.85


@pytest.mark.parametrize("idle_s", [6, 60, 3600])
def test_after_an_idle_time_a_throttle_says_no_more_than_it_says_to_a_new_budget(
    idle_s: int,
) -> None:
    idle, fresh = make_budget(), make_budget()
    idle.hear(1, 40, 0, 0, ROUND_TRIP_NS)  # its interval is not over when it becomes idle
    start_ns = idle_s * SECOND
    for budget in (idle, fresh):
        for step in range(40):
            sent_ns = start_ns + step * STEP_NS
            budget.refill(sent_ns)
            budget.hear(50, 5000, 50 if step == 0 else 0, sent_ns, sent_ns + ROUND_TRIP_NS)
    assert idle.records_share == fresh.records_share >= 0.8
    assert idle.bytes_share == fresh.bytes_share == 1.0


def test_what_was_throttled_before_an_idle_time_is_judged_all_the_same() -> None:
    budget = make_budget()
    for step in range(15):
        sent_ns = step * STEP_NS
        budget.hear(50, 5000, 25, sent_ns, sent_ns + ROUND_TRIP_NS)
    assert budget.records_share == 1.0, "the interval is not over"
    budget.hear(1, 40, 0, 60 * SECOND, 60 * SECOND + ROUND_TRIP_NS)
    assert 0.2 <= budget.records_share <= 0.6


@pytest.mark.parametrize("first_share", [1.0, 0.1, FIRST_SHARE])
@pytest.mark.parametrize("throttles", [1, 2, 5, 20, 21, 22, 40, 80, 160])
def test_a_share_is_whole_again_within_a_minute_though_no_answer_comes(
    first_share: float, throttles: int
) -> None:
    """A large record in debt: nothing leaves before the share has grown. In all of its phases."""
    budget = make_budget(first_share)
    now_ns = 0
    for _ in range(throttles):
        now_ns += STEP_NS
        budget.refill(now_ns)
        budget.hear(50, 5000, 50, now_ns - ROUND_TRIP_NS, now_ns)
    for _ in range(60):
        now_ns += SECOND
        budget.refill(now_ns)
    assert (budget.records_share, budget.bytes_share) == (1.0, 1.0)


def test_the_late_answer_of_a_call_that_left_after_the_last_one_heard_is_news() -> None:
    budget = make_budget()
    budget.hear(50, 5000, 50, 0, ROUND_TRIP_NS)
    budget.refill(8 * SECOND)
    grown = budget.records_share
    assert grown < 1.0
    budget.hear(50, 5000, 50, MS, 8 * SECOND)
    assert budget.records_share < grown, "it throttled, too"


def test_of_a_call_from_before_a_fall_nothing_is_learnt_again() -> None:
    budget = make_budget()
    now_ns = 0
    while budget.records_share == 1.0:
        now_ns += STEP_NS
        budget.hear(50, 5000, 40, now_ns - ROUND_TRIP_NS, now_ns)
        assert now_ns < 10 * SECOND
    share = budget.records_share
    for late_ns in range(1, 10):
        budget.hear(50, 5000, 50, now_ns - 100 * MS, now_ns + late_ns)
    assert budget.records_share == share


def test_when_nobody_throttles_any_more_it_grows_back() -> None:
    budget = make_budget()
    now_ns = saturate([budget], Shard(RECORDS // 4, BYTES // 4), 0, 10)
    fallen = budget.records_share
    assert fallen < 0.5
    saturate([budget], Shard(2 * RECORDS, 2 * BYTES), now_ns, 40)
    assert budget.records_share >= 0.95


def test_a_shard_short_of_bytes_is_not_short_of_records() -> None:
    budget = make_budget()
    saturate([budget], Shard(RECORDS, BYTES // 2), 0, 10, size=10_000)
    assert budget.bytes_share < 0.75
    assert budget.records_share == 1.0


def test_a_shard_short_of_records_is_not_short_of_bytes() -> None:
    budget = make_budget()
    saturate([budget], Shard(RECORDS // 2, BYTES), 0, 10, size=20)
    assert budget.records_share < 0.75
    assert budget.bytes_share == 1.0


def test_whoever_has_all_of_the_quota_and_uses_it_takes_a_throttle_for_jitter() -> None:
    budget = make_budget()
    for step in range(400):
        now_ns = step * STEP_NS
        budget.refill(now_ns)
        budget.hear(50, 5000, 1 if step % 30 == 7 else 0, now_ns - ROUND_TRIP_NS, now_ns)
    assert budget.records_share == 1.0


# Others


def test_who_inherits_goes_on_where_the_other_is() -> None:
    other, heir = make_budget(), make_budget(FIRST_SHARE)
    saturate([other], Shard(RECORDS // 2, BYTES), 0, 10)
    heir.inherit(other, 10 * SECOND)
    assert heir.records_share == other.records_share < 1.0
    assert heir.bytes_share == other.bytes_share == 1.0
    assert (heir.records.rate, heir.bytes.rate) == (other.records.rate, other.bytes.rate)


def test_two_at_one_shard_share_it_and_one_that_stays_gets_all_of_it() -> None:
    first, second = make_budget(FIRST_SHARE), make_budget(FIRST_SHARE)
    shard = Shard()
    now_ns = saturate([first], shard, 0, 15)
    now_ns = saturate([first, second], shard, now_ns, 60)
    shard.taken = shard.throttled = 0
    now_ns = saturate([first, second], shard, now_ns, 30)
    assert shard.taken >= 0.93 * 30 * RECORDS
    assert shard.throttled <= 0.08 * shard.taken
    assert 0.25 <= second.records_share <= 0.8
    saturate([first], shard, now_ns, 30)
    assert first.records_share >= 0.9


ANSWERS = st.tuples(
    st.integers(0, 2 * SECOND),  # wait before it
    st.integers(1, 1500),  # records
    st.integers(1, 10_000),  # bytes of each
    st.sampled_from([0.0, 0.0, 0.01, 0.5, 1.0]),  # the part that was throttled
    st.integers(0, 3 * SECOND),  # how long it was on its way
)


@settings(deadline=None, print_blob=True, max_examples=examples(150))
@given(
    answers=st.lists(ANSWERS, max_size=60),
    ceilings=st.sampled_from([(RECORDS, BYTES), (1, 1), (3, 10**9)]),
    first_share=st.sampled_from([FIRST_SHARE, 0.5, 1.0]),
)
def test_whatever_it_hears_a_share_is_a_part_and_its_bucket_has_a_rate(
    answers: list[tuple[int, int, int, float, int]], ceilings: tuple[int, int], first_share: float
) -> None:
    budget = ShardBudget(*ceilings, 0, first_share)
    now_ns = 0
    for wait_ns, records, size, part, round_trip_ns in answers:
        now_ns += wait_ns
        budget.refill(now_ns)
        before = budget.records_share, budget.bytes_share
        sent_ns = max(0, now_ns - round_trip_ns)
        budget.hear(records, records * size, records * part, sent_ns, now_ns)
        after = budget.records_share, budget.bytes_share
        for share, bucket, ceiling in zip(
            after, (budget.records, budget.bytes), ceilings, strict=True
        ):
            assert 0 < share <= 1
            assert bucket.rate == max(1, int(ceiling * share))
            assert bucket.ready_at_ns(1) <= now_ns + 1000 * SECOND
        assert sum(x < y for x, y in zip(after, before, strict=True)) <= 1, "never both at once"
