"""Backoff: bounds and jitter."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.pace.backoff import HOLD_BACKOFF, SHARD_BACKOFF, STREAM_BACKOFF, Backoff
from tests.kit.frames import MS, SECOND, LoadedDice

ALL = [SHARD_BACKOFF, STREAM_BACKOFF, HOLD_BACKOFF]


@pytest.mark.parametrize(
    ("failures", "least_ms", "most_ms"),
    [
        (1, 50, 100),
        (2, 100, 200),
        (3, 200, 400),
        (6, 1600, 3200),
        (7, 2500, 5000),
        (99, 2500, 5000),
    ],
)
def test_a_shard_backs_off_from_a_tenth_of_a_second_to_five(
    failures: int, least_ms: int, most_ms: int
) -> None:
    assert SHARD_BACKOFF.wait_ns(failures, LoadedDice(0.0)) == least_ms * MS
    middle_ms = (least_ms + most_ms) // 2
    assert SHARD_BACKOFF.wait_ns(failures, LoadedDice(0.5)) == middle_ms * MS
    highest = SHARD_BACKOFF.wait_ns(failures, LoadedDice(1 - 2**-53))
    assert (most_ms - 1) * MS < highest <= most_ms * MS


@pytest.mark.parametrize("backoff", ALL)
def test_a_thousand_failures_wait_no_longer_than_the_last(backoff: Backoff) -> None:
    assert backoff.wait_ns(1000, LoadedDice(0.0)) == backoff.last_ns // 2
    assert backoff.wait_ns(10**9, LoadedDice(0.999)) <= backoff.last_ns


@settings(deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 2**32),
    failures=st.integers(1, 10_000),
    first_ns=st.integers(1, SECOND),
    factor=st.integers(1, 1000),
)
def test_a_wait_is_a_whole_number_in_the_upper_half(
    seed: int, failures: int, first_ns: int, factor: int
) -> None:
    backoff = Backoff(first_ns, first_ns * factor)
    wait_ns = backoff.wait_ns(failures, random.Random(seed))
    ceiling_ns = min(backoff.last_ns, first_ns * 2 ** min(failures - 1, 60))
    assert type(wait_ns) is int
    assert ceiling_ns // 2 <= wait_ns <= ceiling_ns


def test_a_fleet_does_not_wake_in_step() -> None:
    """A thousand daemons that failed together: no tenth of the range holds a fifth of them."""
    dice = random.Random(7)
    waits = [STREAM_BACKOFF.wait_ns(20, dice) for _ in range(1000)]
    low, span = STREAM_BACKOFF.last_ns // 2, STREAM_BACKOFF.last_ns // 2
    tenths = [0] * 10
    for wait_ns in waits:
        tenths[(wait_ns - low) * 10 // span] += 1
    assert max(tenths) < 200
    assert min(tenths) > 50


def test_a_wait_rolls_the_dice_once() -> None:
    dice = LoadedDice(0.3)
    HOLD_BACKOFF.wait_ns(3, dice)
    assert dice.roll_count == 1
