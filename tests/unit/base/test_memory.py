"""Budgets of bytes: what parts may take of a whole."""

import random

import pytest

from kdaemon.base.memory import ByteBudget, RestBudget
from tests.kit.depth import some


@pytest.mark.parametrize(("parts", "left"), [(1, 4), (2, 7), (3, 10)])
def test_parts_that_never_give_back_leave_a_part_of_the_whole(parts: int, left: int) -> None:
    whole = ByteBudget(1_000_000)
    budgets = [RestBudget(whole, 3) for _ in range(parts)]
    is_growing = True
    while is_growing:
        is_growing = sum(budget.take(100) for budget in budgets) > 0
    assert whole.free_bytes() == pytest.approx(1_000_000 / left, abs=1_000)
    assert RestBudget(whole, 3).free_bytes() > 0, "who has nothing may take"


@pytest.mark.parametrize("seed", some(range(20)))
def test_what_is_free_is_what_can_be_taken_and_the_whole_has_what_its_parts_have(seed: int) -> None:
    dice = random.Random(seed)
    whole = ByteBudget(10_000)
    budgets = [RestBudget(whole, dice.randrange(1, 5)) for _ in range(3)]
    taken: list[tuple[RestBudget, int]] = []
    for _ in range(500):
        budget = dice.choice(budgets)
        if taken and dice.random() < 0.4:
            owner, size = taken.pop(dice.randrange(len(taken)))
            owner.give(size)
            continue
        size, free = dice.randrange(3_000), budget.free_bytes()
        assert budget.has_room(size) is (size <= free)
        assert budget.take(size) is (size <= free)
        if size <= free:
            taken.append((budget, size))
        assert whole.bytes_taken == sum(each.bytes_taken for each in budgets)
        assert sum(each for _, each in taken) == whole.bytes_taken <= whole.bytes_max
