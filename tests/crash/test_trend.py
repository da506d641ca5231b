"""A floor that rises is told from a load that comes and goes."""

import math
import random

from tests.crash.trend import BLOCKS, SAMPLES_A_BLOCK, trend_of

HOUR_S = 3600.0
EVERY_S = 5.0
DICE = random.Random(7)


def life(seconds: float, leak_per_hour: float, load: float) -> list[tuple[float, float]]:
    """A process of 80 MiB whose load comes and goes."""
    return [
        (at_s, 80 + leak_per_hour * at_s / HOUR_S + load * abs(math.sin(at_s / 40)) * DICE.random())
        for at_s in (number * EVERY_S for number in range(int(seconds / EVERY_S)))
    ]


def test_a_load_that_comes_and_goes_is_no_growth() -> None:
    trend = trend_of(life(HOUR_S, 0.0, 30.0))
    assert trend is not None
    assert abs(trend.per_hour) < 2.0
    assert trend.growth < 2.0
    assert trend.most > 95.0


def test_a_leak_under_the_same_load_is_told_with_its_size() -> None:
    trend = trend_of(life(HOUR_S, 20.0, 30.0))
    assert trend is not None
    assert 17.0 < trend.per_hour < 23.0
    assert trend.growth > 14.0
    assert trend.fit > 0.9


def test_what_does_not_move_has_no_slope_and_no_error() -> None:
    trend = trend_of([(at_s, 15.0) for at_s in range(600)])
    assert trend is not None
    assert (trend.per_hour, trend.error, trend.growth, trend.fit) == (0.0, 0.0, 0.0, 1.0)


def test_of_a_few_samples_nothing_is_said() -> None:
    count = BLOCKS * SAMPLES_A_BLOCK
    assert trend_of([(at_s, 1.0) for at_s in range(count - 1)]) is None
    assert trend_of([(at_s, 1.0) for at_s in range(count)]) is not None
