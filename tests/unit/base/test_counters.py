"""Histograms, counters and the memory budget."""

from collections.abc import Iterable
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.counters import DeadReason, FailureCode, RefuseReason, failure_code
from kdaemon.base.counting import StreamCounters
from kdaemon.base.histogram import (
    BATCH_BYTES_BOUNDS,
    BATCH_RECORDS_BOUNDS,
    LATENCY_BOUNDS_NS,
    Histogram,
)
from kdaemon.base.limits import RECORDS_PER_CALL_MAX, REQUEST_BYTES_MAX_AWS
from kdaemon.base.memory import ByteBudget
from kdaemon.base.verdict import CALL_OUTCOMES, RETRY_REASONS
from kdaemon.settle.verdict import _CALL_CODES, _STATUSES, _TROUBLES


@pytest.mark.parametrize(
    ("value", "bucket"), [(0, 0), (10, 0), (11, 1), (20, 1), (21, 2), (10**9, 2)]
)
def test_a_bound_is_upper_and_inclusive(value: int, bucket: int) -> None:
    histogram = Histogram((10, 20))
    histogram.observe(value)
    assert histogram.counts.index(1) == bucket
    assert histogram.sum == value


def test_observing_many_at_once_is_observing_each() -> None:
    one_by_one, at_once = Histogram((10, 20)), Histogram((10, 20))
    for _ in range(7):
        one_by_one.observe(15)
    at_once.observe(15, 7)
    assert one_by_one.counts == at_once.counts == [0, 7, 0]
    assert one_by_one.sum == at_once.sum == 105


@pytest.mark.parametrize("bounds", [LATENCY_BOUNDS_NS, BATCH_RECORDS_BOUNDS, BATCH_BYTES_BOUNDS])
def test_bounds_ascend_and_are_whole(bounds: tuple[int, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert all(type(bound) is int for bound in bounds)


def test_the_largest_batch_has_a_bucket_with_a_bound() -> None:
    assert BATCH_RECORDS_BOUNDS[-1] >= RECORDS_PER_CALL_MAX
    assert BATCH_BYTES_BOUNDS[-1] >= REQUEST_BYTES_MAX_AWS


@pytest.mark.parametrize("code", list(FailureCode))
def test_a_code_of_the_service_is_its_own_label(code: FailureCode) -> None:
    assert failure_code(code.value) is code


@pytest.mark.parametrize("code", ["", "Invented", "internalfailure", "NoSequenceNumber"])
def test_a_code_that_nobody_knows_is_other(code: str) -> None:
    assert failure_code(code) is FailureCode.OTHER


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("rejected", RefuseReason),
        ("dead", DeadReason),
        ("retries", RETRY_REASONS),
        ("failures", FailureCode),
        ("calls", CALL_OUTCOMES),
    ],
)
def test_every_label_starts_at_zero(name: str, labels: Iterable[Enum]) -> None:
    assert getattr(StreamCounters(), name) == dict.fromkeys(labels, 0)


def test_every_verdict_on_a_whole_call_is_an_outcome() -> None:
    judged = {*_CALL_CODES.values(), *_STATUSES.values(), *_TROUBLES.values()}
    assert judged <= set(CALL_OUTCOMES)


def test_the_labels_of_outcomes_and_reasons_are_those_of_the_metrics() -> None:
    assert [each.value for each in CALL_OUTCOMES] == [
        *("delivered", "partial", "throttled", "not_sent", "ambiguous", "hold", "poison")
    ]
    assert [each.value for each in RETRY_REASONS] == [
        *("throttled", "not_sent", "ambiguous", "hold", "bisected", "outside_range")
    ]


def test_unaccounted_is_what_was_received_and_is_nowhere() -> None:
    counters = StreamCounters()
    counters.received = 100
    assert counters.unaccounted() == 100
    counters.rejected[RefuseReason.FULL] = 10
    counters.rejected[RefuseReason.DEADLINE] = 5
    counters.delivered = 40
    counters.dead[DeadReason.POISON] = 1
    counters.buffered = 30
    counters.in_flight = 14
    assert counters.unaccounted() == 0
    counters.delivered += 1
    assert counters.unaccounted() == -1


def test_a_budget_gives_to_the_last_byte_and_not_one_more() -> None:
    budget = ByteBudget(100)
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.bytes_taken == 60, "a refusal takes nothing"
    assert budget.take(40)
    assert not budget.take(1)
    assert budget.take(0)
    budget.give(100)
    assert budget.bytes_taken == 0


def test_giving_back_more_than_was_taken_is_a_defect_that_shows() -> None:
    budget = ByteBudget(100)
    budget.take(10)
    with pytest.raises(AssertionError, match="more given back"):
        budget.give(11)
    assert budget.bytes_taken == 10


@settings(deadline=None, print_blob=True)
@given(st.lists(st.integers(0, 60), max_size=40))
def test_a_budget_is_never_over(sizes: list[int]) -> None:
    budget = ByteBudget(100)
    held: list[int] = []
    for size in sizes:
        if budget.take(size):
            held.append(size)
        elif held:
            budget.give(held.pop(0))
        assert budget.bytes_taken == sum(held) <= 100
