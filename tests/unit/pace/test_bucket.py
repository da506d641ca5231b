"""Token buckets: literal times in, literal times out, and the promise of a window."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.pace.bucket import BURST_NS, NS_PER_SECOND, TokenBucket
from tests.kit.depth import examples

EXAMPLES = settings(deadline=None, print_blob=True, max_examples=examples(150))


def test_a_bucket_starts_full_with_nine_tenths_of_a_second() -> None:
    assert TokenBucket(1000, 5).available == 900


def test_a_token_comes_back_to_the_nanosecond() -> None:
    bucket = TokenBucket(1000, 0)
    bucket.pay(900)
    assert bucket.available == 0
    assert bucket.ready_at_ns(1) == 1_000_000
    bucket.refill(999_999)
    assert not bucket.can_pay(1)
    assert bucket.ready_at_ns(1) == 1_000_000, "the answer does not depend on when it is asked"
    bucket.refill(1_000_000)
    assert bucket.can_pay(1)
    assert bucket.available == 1


def test_a_rate_that_does_not_divide_a_second_rounds_nothing() -> None:
    bucket = TokenBucket(3, 0)
    bucket.pay(2)  # of 2.7
    assert bucket.ready_at_ns(1) == 100_000_000  # 0.3 more tokens at 3 a second
    for now_ns in range(0, 100_000_000, 9_999_991):  # refilled at odd times, nothing is lost
        bucket.refill(now_ns)
        assert not bucket.can_pay(1)
    bucket.refill(99_999_999)
    assert not bucket.can_pay(1)
    bucket.refill(100_000_000)
    assert bucket.can_pay(1)


def test_a_time_between_two_nanoseconds_is_rounded_up() -> None:
    bucket = TokenBucket(7, 0)
    bucket.pay(6)  # 0.3 left
    assert bucket.ready_at_ns(1) == 100_000_000
    bucket.pay(0)
    assert bucket.ready_at_ns(2) == 242_857_143  # 1.7 / 7 s = 242,857,142.857... ns
    bucket.refill(242_857_142)
    assert not bucket.can_pay(2)
    bucket.refill(242_857_143)
    assert bucket.can_pay(2)


def test_a_bucket_saves_no_more_than_its_capacity() -> None:
    bucket = TokenBucket(1000, 0)
    bucket.refill(3600 * NS_PER_SECOND)
    assert bucket.available == 900


def test_time_that_goes_back_changes_nothing() -> None:
    bucket = TokenBucket(1000, NS_PER_SECOND)
    bucket.pay(900)
    bucket.refill(NS_PER_SECOND // 2)
    assert bucket.available == 0
    bucket.refill(NS_PER_SECOND + 1_000_000)
    assert bucket.available == 1


def test_what_is_payable_now_is_ready_at_the_last_refill() -> None:
    bucket = TokenBucket(1000, 17)
    assert bucket.ready_at_ns(900) == 17
    assert bucket.ready_at_ns(0) == 17


def test_a_cost_above_the_capacity_needs_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBucket(1000, 0)
    assert bucket.can_pay(5000)
    bucket.pay(1)
    assert not bucket.can_pay(5000)
    assert bucket.ready_at_ns(5000) == 1_000_000
    bucket.refill(1_000_000)
    assert bucket.can_pay(5000)
    bucket.pay(5000)
    assert bucket.available == -4100
    assert bucket.ready_at_ns(1) == 1_000_000 + 4_101_000_000
    assert bucket.ready_at_ns(5000) == 1_000_000 + 5_000_000_000


def test_in_debt_even_nothing_can_not_be_paid() -> None:
    bucket = TokenBucket(10, 0)
    bucket.pay(100)
    assert not bucket.can_pay(0)
    assert bucket.ready_at_ns(0) == 9_100_000_000


def test_a_bucket_of_one_token_a_second_can_still_pay_one() -> None:
    """Its 0.9 s are less than a token: it must save a whole one, or it would wait for ever."""
    bucket = TokenBucket(1, 0)
    assert bucket.available == 1
    bucket.pay(1)
    assert bucket.ready_at_ns(1) == NS_PER_SECOND
    bucket.refill(NS_PER_SECOND)
    assert bucket.available == 1


def test_a_slower_rate_keeps_what_fits_and_a_faster_one_what_there_is() -> None:
    bucket = TokenBucket(1000, 0)
    bucket.pay(100)
    bucket.set_rate(100, 0)
    assert bucket.available == 90
    assert bucket.rate == 100
    bucket.set_rate(1000, 0)
    assert bucket.available == 90
    assert bucket.ready_at_ns(91) == 1_000_000


def test_a_new_rate_counts_from_now_and_the_old_until_now() -> None:
    bucket = TokenBucket(1000, 0)
    bucket.pay(900)
    bucket.set_rate(10, 100_000_000)  # 100 tokens came in at the old rate; 9 fit
    assert bucket.available == 9
    bucket.pay(9)
    assert bucket.ready_at_ns(1) == 200_000_000


def test_a_new_rate_keeps_a_debt() -> None:
    bucket = TokenBucket(10, 0)
    bucket.pay(109)  # 100 owed
    bucket.set_rate(100, 0)
    assert bucket.available == -100
    assert bucket.ready_at_ns(1) == 1_010_000_000


def test_a_bucket_that_takes_over_is_as_short_as_the_other() -> None:
    other, bucket = TokenBucket(1000, 0), TokenBucket(1000, 0)
    other.pay(300)
    bucket.take_over(other)
    assert bucket.available == 600
    other.refill(NS_PER_SECOND)
    bucket.take_over(other)
    assert bucket.available == 600, "it gets nothing from a fuller one"
    other.pay(5000)
    bucket.take_over(other)
    assert bucket.available == 0, "a debt stays where it is"


@EXAMPLES
@given(
    rate=st.integers(1, 3_000_000),
    costs=st.lists(
        st.tuples(st.integers(0, 3 * NS_PER_SECOND), st.integers(1, 4_000_000)), max_size=30
    ),
)
def test_over_any_window_never_more_than_capacity_and_rate(
    rate: int, costs: list[tuple[int, int]]
) -> None:
    """... and one cost larger than the capacity, which only a full bucket pays."""
    bucket = TokenBucket(rate, 0)
    capacity = max(rate * BURST_NS, NS_PER_SECOND)
    now_ns = 0
    paid: list[tuple[int, int]] = []
    for wait_ns, cost in costs:
        now_ns += wait_ns
        bucket.refill(now_ns)
        if bucket.can_pay(cost):
            bucket.pay(cost)
            paid.append((now_ns, cost))
    for first in range(len(paid)):
        total = oversize = 0
        for at_ns, cost in paid[first:]:
            total += cost
            if cost * NS_PER_SECOND > capacity:
                oversize = max(oversize, cost)
            assert (total - oversize) * NS_PER_SECOND <= capacity + rate * (at_ns - paid[first][0])


@EXAMPLES
@given(
    rate=st.integers(1, 3_000_000),
    spent=st.lists(st.tuples(st.integers(0, NS_PER_SECOND), st.integers(1, 4_000_000)), max_size=6),
    cost=st.integers(0, 4_000_000),
)
def test_ready_at_is_exact(rate: int, spent: list[tuple[int, int]], cost: int) -> None:
    bucket = TokenBucket(rate, 0)
    now_ns = 0
    for wait_ns, amount in spent:
        now_ns += wait_ns
        bucket.refill(now_ns)
        if bucket.can_pay(amount):
            bucket.pay(amount)
    ready_ns = bucket.ready_at_ns(cost)
    assert type(ready_ns) is int
    assert type(bucket.missing) is int
    if ready_ns > now_ns:
        bucket.refill(ready_ns - 1)
        assert not bucket.can_pay(cost)
    bucket.refill(ready_ns)
    assert bucket.can_pay(cost)


@EXAMPLES
@given(
    waits=st.lists(st.integers(0, NS_PER_SECOND // 2), min_size=1, max_size=20),
    rate=st.integers(1, 5000),
)
def test_how_often_a_bucket_is_refilled_does_not_matter(waits: list[int], rate: int) -> None:
    often, once = TokenBucket(rate, 0), TokenBucket(rate, 0)
    for bucket in (often, once):
        bucket.pay(rate * 100)
    now_ns = 0
    for wait_ns in waits:
        now_ns += wait_ns
        often.refill(now_ns)
    once.refill(now_ns)
    assert often.missing == once.missing


@pytest.mark.parametrize("rate", [1, 2, 3, 999, 1000, 1024 * 1024])
def test_a_saturated_bucket_gives_exactly_its_rate(rate: int) -> None:
    bucket = TokenBucket(rate, 0)
    bucket.pay(bucket.available)
    now_ns = taken = 0
    while True:
        cost = max(1, rate // 10)
        now_ns = bucket.ready_at_ns(cost)
        if now_ns > 10 * NS_PER_SECOND:
            break
        bucket.refill(now_ns)
        bucket.pay(cost)
        taken += cost
    assert 10 * rate - max(1, rate // 10) <= taken <= 10 * rate + 1
