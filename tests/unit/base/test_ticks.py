"""Ticks: timers that were armed at any time meet."""

from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.ticks import next_tick_s

TIMES = st.floats(0, 1e7)


@given(now_s=TIMES, late_s=st.floats(0, 0.4))
def test_timers_of_one_interval_are_due_at_the_same_moment(now_s: float, late_s: float) -> None:
    second = float(int(now_s))
    assert next_tick_s(second + late_s, 1.0) == next_tick_s(second, 1.0) == second + 1


@given(now_s=TIMES)
def test_those_of_a_multiple_are_due_at_one_of_these_moments(now_s: float) -> None:
    at_s = next_tick_s(now_s, 5.0)
    assert next_tick_s(at_s - 1.0, 1.0) == at_s


@given(now_s=TIMES, interval_s=st.sampled_from([0.5, 1.0, 5.0]))
def test_a_tick_is_half_an_interval_away_at_least(now_s: float, interval_s: float) -> None:
    away_s = next_tick_s(now_s, interval_s) - now_s
    assert interval_s / 2 - 1e-6 <= away_s <= interval_s * 3 / 2 + 1e-6


def test_a_timer_that_rings_a_moment_too_early_does_not_ring_twice() -> None:
    assert next_tick_s(9.9999, 1.0) == next_tick_s(10.0001, 1.0) == 11.0
