"""What the commands of simulations share: their flags, and running plans, several at once."""

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from kdaemon.sandbox.settings import LimiterKind

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


def add_arguments(parser: argparse.ArgumentParser, seconds: int, seeds: int = 3) -> None:
    """The flags of all simulations. `seconds`, `seeds`: by default."""
    parser.add_argument("--limiter", choices=[kind.value for kind in LimiterKind])
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=int, default=seconds, help="simulated, without a warm-up")
    parser.add_argument("--jobs", type=int, default=1, help="processes")


def kinds_and_seeds(options: argparse.Namespace) -> tuple[list[LimiterKind], range]:
    """Those that were asked for."""
    kinds = [LimiterKind(options.limiter)] if options.limiter else list(LimiterKind)
    return kinds, range(options.seed, options.seed + options.seeds)
