"""When to ask for the map again, and which shards answers named."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.route.freshness import (
    REFRESH_IDLE_INTERVAL_NS,
    REFRESH_INTERVAL_NS,
    REFRESH_USELESS_INTERVAL_NS_MAX,
    Doubt,
    MapFreshness,
)
from kdaemon.route.seen import GENERATION_NS, SeenShards
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND, LoadedDice, delivered, failed

T = 1000 * SECOND  # a start that is not zero


def asked_and_answered(dice: LoadedDice, *, is_changed: bool = True) -> MapFreshness:
    freshness = MapFreshness(dice, T)
    assert freshness.ask(T)
    freshness.answered(T, is_changed=is_changed)
    return freshness


def test_the_map_is_asked_for_at_the_start_and_once() -> None:
    freshness = MapFreshness(LoadedDice(0.0), T)
    assert freshness.ask(T)
    assert freshness.is_asking
    assert not freshness.ask(T), "not twice at a time"
    assert not freshness.ask(T + 10**18)


def test_an_answer_is_good_for_an_hour_less_up_to_a_quarter() -> None:
    for roll, due_ns in ((0.0, T + 3600 * SECOND), (0.5, T + 3150 * SECOND)):
        freshness = asked_and_answered(LoadedDice(roll))
        assert freshness.due_at_ns == due_ns
        assert not freshness.ask(due_ns - 1)
        assert freshness.ask(due_ns)


def test_a_record_elsewhere_asks_again_a_second_after_the_last_time_and_a_jitter() -> None:
    freshness = asked_and_answered(LoadedDice(0.0, 0.5))
    freshness.stale(T + 100 * MS)
    assert freshness.due_at_ns == T + REFRESH_INTERVAL_NS + REFRESH_INTERVAL_NS // 4


def test_long_after_the_last_time_only_the_jitter_is_waited() -> None:
    freshness = asked_and_answered(LoadedDice(0.0, 0.5))
    freshness.stale(T + 500 * SECOND)
    assert freshness.due_at_ns == T + 500 * SECOND + REFRESH_INTERVAL_NS // 4


def test_stale_does_not_put_off_what_was_due_before() -> None:
    freshness = asked_and_answered(LoadedDice(0.0, 0.0, 0.9))
    freshness.stale(T + 10 * SECOND)
    freshness.stale(T + 10 * SECOND + 1)
    assert freshness.due_at_ns == T + 10 * SECOND


def test_a_thousand_stale_records_keep_the_jitter_of_the_first() -> None:
    """Each roll would otherwise pull the time nearer, until a fleet asks in step."""
    freshness = asked_and_answered(LoadedDice(0.0, 0.8, 0.0))
    for _ in range(1000):
        freshness.stale(T + 100 * MS)
    assert freshness.due_at_ns == T + 1400 * MS
    freshness.stale(T + 700 * MS)
    assert freshness.due_at_ns == T + 1400 * MS


def test_stale_while_asking_is_ignored() -> None:
    freshness = MapFreshness(LoadedDice(0.0), T)
    freshness.ask(T)
    freshness.stale(T + 1)
    freshness.answered(T + 30 * MS, is_changed=True)
    assert freshness.due_at_ns == T + 30 * MS + REFRESH_IDLE_INTERVAL_NS


def test_refreshes_that_change_nothing_come_later_and_later_up_to_a_minute() -> None:
    freshness = MapFreshness(LoadedDice(0.0), T)
    now_ns = T
    waits = []
    for _ in range(9):
        assert freshness.ask(now_ns)
        freshness.answered(now_ns, is_changed=False)
        freshness.stale(now_ns + 1)
        waits.append((freshness.due_at_ns - now_ns) // SECOND)
        now_ns = freshness.due_at_ns
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60], "the first was due by the clock"


def test_refreshes_by_the_clock_that_change_nothing_make_none_later() -> None:
    freshness = asked_and_answered(LoadedDice(0.0), is_changed=False)
    for _ in range(12):
        now_ns = freshness.due_at_ns
        assert freshness.ask(now_ns)
        freshness.answered(now_ns, is_changed=False)
    freshness.stale(now_ns + 1)
    assert freshness.due_at_ns == now_ns + REFRESH_INTERVAL_NS


def test_refreshes_for_one_reason_make_none_later_for_another() -> None:
    freshness = asked_and_answered(LoadedDice(0.0))
    for _ in range(12):
        freshness.stale(freshness.due_at_ns - 1800 * SECOND, Doubt.LIMITS)
        now_ns = freshness.due_at_ns
        assert freshness.ask(now_ns)
        freshness.answered(now_ns, is_changed=False)
    freshness.stale(now_ns + 1, Doubt.LIMITS)
    assert freshness.due_at_ns == now_ns + REFRESH_USELESS_INTERVAL_NS_MAX
    freshness.stale(now_ns + 1)
    assert freshness.due_at_ns == now_ns + REFRESH_INTERVAL_NS


def test_a_stream_that_is_found_again_is_asked_for_at_once() -> None:
    freshness = MapFreshness(LoadedDice(0.0), T)
    for _ in range(8):
        assert freshness.ask(freshness.due_at_ns)
        freshness.failed(freshness.due_at_ns)
    failed_ns = freshness.due_at_ns - REFRESH_USELESS_INTERVAL_NS_MAX
    freshness.found(failed_ns + SECOND // 2)
    assert freshness.due_at_ns == failed_ns + REFRESH_INTERVAL_NS


def test_a_change_makes_the_next_refresh_prompt_again() -> None:
    freshness = asked_and_answered(LoadedDice(0.0), is_changed=False)
    now_ns = T + 100 * SECOND
    freshness.stale(now_ns)
    assert freshness.ask(now_ns)
    freshness.answered(now_ns, is_changed=True)
    freshness.stale(now_ns + 1)
    assert freshness.due_at_ns == now_ns + REFRESH_INTERVAL_NS


def test_no_answer_is_tried_again_later_and_later_still() -> None:
    freshness = MapFreshness(LoadedDice(0.0), T)
    now_ns = T
    waits = []
    for _ in range(8):
        assert freshness.ask(now_ns)
        freshness.failed(now_ns)
        assert not freshness.is_asking
        waits.append((freshness.due_at_ns - now_ns) // SECOND)
        now_ns = freshness.due_at_ns
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


@settings(deadline=None, print_blob=True, max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(
        st.tuples(
            st.integers(0, 700 * MS),
            st.sampled_from(["stale", "refused", "found", "changed", "same", "lost"]),
        ),
        min_size=1,
        max_size=80,
    ),
)
def test_whatever_happens_the_map_is_asked_for_once_a_second_at_most(
    seed: int, steps: list[tuple[int, str]]
) -> None:
    freshness = MapFreshness(random.Random(seed), T)
    now_ns = T
    asked: list[int] = []
    for wait_ns, event in steps:
        now_ns += wait_ns
        if event == "stale":
            freshness.stale(now_ns)
        elif event == "refused":
            freshness.stale(now_ns, Doubt.LIMITS)
        elif event == "found":
            freshness.found(now_ns)
        elif freshness.is_asking:
            if event == "lost":
                freshness.failed(now_ns)
            else:
                freshness.answered(now_ns, is_changed=event == "changed")
        was_due = freshness.due_at_ns <= now_ns and not freshness.is_asking
        assert freshness.ask(now_ns) is was_due
        if was_due:
            asked.append(now_ns)
        longest_ns = max(REFRESH_IDLE_INTERVAL_NS, REFRESH_USELESS_INTERVAL_NS_MAX)
        assert freshness.due_at_ns <= now_ns + longest_ns, "it is never forgotten"
    for before, after in pairwise(asked):
        assert after - before >= REFRESH_INTERVAL_NS


def test_a_fleet_that_went_stale_together_does_not_ask_in_step() -> None:
    dice = random.Random(3)
    dues = []
    for _ in range(500):
        freshness = MapFreshness(dice, T)
        freshness.ask(T)
        freshness.answered(T, is_changed=True)
        freshness.stale(T + 10 * SECOND)
        dues.append(freshness.due_at_ns - T - 10 * SECOND)
    assert min(dues) >= 0
    assert max(dues) < REFRESH_INTERVAL_NS // 2
    assert len({due // (10 * MS) for due in dues}) > 40, "spread over half a second"


def test_shards_are_counted_as_answers_name_them() -> None:
    seen = SeenShards()
    assert seen.see([delivered("a"), delivered("b"), delivered("a"), failed()], T)
    assert seen.count == 2
    assert not seen.see([delivered("b")], T), "nothing new"
    assert seen.see([delivered("c")], T)
    assert seen.count == 3


@pytest.mark.parametrize("answers", [[], [failed()]])
def test_answers_that_name_no_shard_teach_nothing(answers: list[object]) -> None:
    seen = SeenShards()
    assert not seen.see(answers, T)  # type: ignore[arg-type]
    assert seen.count == 0


def test_a_shard_that_took_nothing_for_two_generations_is_forgotten() -> None:
    seen = SeenShards()
    seen.see([delivered("closed"), delivered("open")], T)
    seen.see([delivered("open")], T + GENERATION_NS + 1)
    assert seen.count == 2, "one generation is not enough"
    assert seen.see([delivered("open")], T + 2 * GENERATION_NS + 2)
    assert seen.count == 1


def test_a_shard_that_is_named_now_and_then_stays() -> None:
    seen = SeenShards()
    for turn in range(20):
        seen.see([delivered("always")], T + turn * GENERATION_NS // 3)
        if turn % 3 == 0:
            seen.see([delivered("seldom")], T + turn * GENERATION_NS // 3)
        assert seen.count == 2
