"""Runs the plans of a simulation, several at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

PlanT = TypeVar("PlanT")
RunT = TypeVar("RunT")


def simulate_all(
    simulate: Callable[[PlanT], RunT], plans: Iterable[PlanT], jobs: int = 1
) -> list[RunT]:
    """All plans in order, `jobs` processes at once."""
    if jobs == 1:
        return [simulate(plan) for plan in plans]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(simulate, plans))
