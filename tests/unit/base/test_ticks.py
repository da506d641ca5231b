"""Ticks: timers that were armed at any time meet."""

from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.ticks import until_tick

TIMES = st.floats(0, 1e7)


@given(now_s=TIMES, other_s=TIMES)
def test_timers_of_one_interval_meet_whenever_they_were_armed(now_s: float, other_s: float) -> None:
    for at_s in (now_s + until_tick(now_s, 1.0), other_s + until_tick(other_s, 5.0)):
        assert abs(at_s - round(at_s)) < 1e-6


@given(now_s=TIMES, interval_s=st.sampled_from([0.5, 1.0, 5.0]))
def test_a_tick_is_half_an_interval_away_at_least(now_s: float, interval_s: float) -> None:
    assert interval_s / 2 <= until_tick(now_s, interval_s) <= interval_s * 3 / 2 + 1e-6


def test_a_timer_that_rings_a_moment_too_early_does_not_ring_twice() -> None:
    assert until_tick(9.9999, 1.0) > 1.0
    assert until_tick(10.0001, 1.0) < 1.0
