"""What a quota lets through, to the nanosecond."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.sandbox.quota import FixedWindows, TokenBuckets, make_limiter
from kdaemon.sandbox.settings import LimiterKind, Quota

SECOND = 1_000_000_000


def test_a_bucket_holds_one_second_of_records_and_refills_one_each_millisecond() -> None:
    bucket = TokenBuckets(Quota(1000, 10**9), now_ns=0)
    taken = sum(bucket.take(1, 1, 0) for _ in range(1500))
    assert taken == 1000
    assert not bucket.take(1, 1, 999_999)  # one nanosecond early
    assert bucket.take(1, 1, 1_000_000)
    assert not bucket.take(1, 1, 1_000_000)


def test_a_bucket_holds_one_second_of_bytes() -> None:
    bucket = TokenBuckets(Quota(1000, 1_000_000), now_ns=0)
    assert bucket.take(1, 600_000, 0)
    assert not bucket.take(1, 400_001, 0)
    assert bucket.take(1, 400_000, 0)
    assert not bucket.take(1, 1, 999)
    assert bucket.take(1, 1, 1_000)


def test_a_refusal_takes_nothing() -> None:
    bucket = TokenBuckets(Quota(2, 100), now_ns=0)
    assert bucket.take(1, 60, 0)
    assert not bucket.take(1, 60, 0)  # the bytes are short; the record token must stay
    assert bucket.take(1, 40, 0)


def test_a_bucket_never_holds_more_than_one_second() -> None:
    bucket = TokenBuckets(Quota(10, 10**9), now_ns=0)
    assert sum(bucket.take(1, 1, 3600 * SECOND) for _ in range(100)) == 10


def test_a_record_above_the_quota_passes_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBuckets(Quota(1000, 1000), now_ns=0)
    assert bucket.take(1, 5000, 0)
    assert not bucket.take(1, 1, 4 * SECOND)  # level is exactly 0
    assert bucket.take(1, 1, 4 * SECOND + 1_000_000)
    assert not bucket.take(1, 5000, 4 * SECOND + 2_000_000)


def test_a_clock_that_stands_or_repeats_refills_nothing() -> None:
    bucket = TokenBuckets(Quota(1, 10), now_ns=5)
    assert bucket.take(1, 1, 5)
    assert not bucket.take(1, 1, 5)


def test_windows_start_anew_on_the_whole_second() -> None:
    windows = FixedWindows(Quota(3, 10**9), now_ns=0)
    assert [windows.take(1, 1, 999_999_999) for _ in range(4)] == [True, True, True, False]
    assert [windows.take(1, 1, SECOND) for _ in range(4)] == [True, True, True, False]


def test_windows_count_bytes_too() -> None:
    windows = FixedWindows(Quota(1000, 100), now_ns=0)
    assert windows.take(1, 90, 0)
    assert not windows.take(1, 11, 0)
    assert windows.take(1, 10, 0)


def test_a_lone_record_above_the_quota_passes_a_window() -> None:
    windows = FixedWindows(Quota(1000, 100), now_ns=0)
    assert windows.take(1, 500, 0)
    assert not windows.take(1, 1, 1)
    assert windows.take(1, 500, SECOND)


def test_a_grant_waits_for_any_quota_and_leaves_the_rest_as_a_debt() -> None:
    bucket = TokenBuckets(Quota(1000, 1000), now_ns=0)
    assert bucket.grant(500, 1, 0) == 0
    assert bucket.grant(800, 1, 0) == 0  # 500 are left, and 300 owed from here on
    assert bucket.grant(1, 1, 0) == 300_000_001  # one nanosecond of refill is quota
    assert bucket.grant(1, 2000, 0) == 301_000_001
    assert bucket.grant(1, 1, 0) > 1_300_000_000  # the bytes are owed, too
    assert not bucket.take(1, 1, 1_000_000_000)


def test_a_grant_long_after_is_at_once_and_saves_no_more_than_a_second() -> None:
    bucket = TokenBuckets(Quota(10, 10**9), now_ns=0)
    assert bucket.grant(25, 1, 3600 * SECOND) == 3600 * SECOND
    assert bucket.grant(1, 1, 3600 * SECOND) == 3601 * SECOND + SECOND // 2 + 1


def test_a_window_grants_in_the_next_second_what_it_has_no_room_for() -> None:
    windows = FixedWindows(Quota(3, 10**9), now_ns=0)
    assert windows.grant(2, 1, 5) == 5
    assert windows.grant(2, 1, 5) == SECOND
    assert windows.grant(1, 1, 5) == SECOND  # a window that has begun is not gone back from
    assert windows.grant(9, 1, 5) == 2 * SECOND


def test_the_kind_chooses_the_limiter() -> None:
    assert isinstance(make_limiter(LimiterKind.BUCKET, Quota(), 0), TokenBuckets)
    assert isinstance(make_limiter(LimiterKind.WINDOW, Quota(), 0), FixedWindows)


def test_a_quota_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 record"):
        Quota(0, 1)


@settings(deadline=None)  # a busy machine is no failure
@given(
    rate=st.integers(1, 50),
    gaps=st.lists(st.integers(0, SECOND // 2), min_size=1, max_size=200),
)
def test_no_span_of_time_passes_more_than_its_rate_and_one_burst(
    rate: int, gaps: list[int]
) -> None:
    bucket = TokenBuckets(Quota(rate, 10**9), now_ns=0)
    now_ns = 0
    passed_at: list[int] = []
    for gap in gaps:
        now_ns += gap
        if bucket.take(1, 1, now_ns):
            passed_at.append(now_ns)
    for first, start_ns in enumerate(passed_at):
        for last in range(first, len(passed_at)):
            span_ns = passed_at[last] - start_ns
            assert (last - first + 1) * SECOND <= rate * (SECOND + span_ns)


def test_a_bucket_gives_by_a_deadline_or_takes_nothing() -> None:
    bucket = TokenBuckets(Quota(10, 1), now_ns=0)
    assert bucket.take_by(10, 0, SECOND) == 0
    assert bucket.take_by(11, 0, SECOND) == SECOND, "all that it can hold, and a debt"
    assert bucket.take_by(1, 0, SECOND) is None
    assert bucket.take_by(1, 0, 2 * SECOND) == SECOND + 2 * SECOND // 10
    assert bucket.take_by(1, 5 * SECOND, 6 * SECOND) == 5 * SECOND
