"""How much is tried of what has no end: examples of property tests, seeds, inputs.

`make thorough` tries all that a test names, `make test` two fifths, `make quick` one fifth. The
profile of Hypothesis decides (tests/conftest.py registers them), so one flag is enough:
`pytest --hypothesis-profile thorough`. Each test runs at each depth.
"""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

EXAMPLES = {"thorough": 100, "patient": 40, "quick": 20}
"""Of each hundred, by profile. `patient` is the one of `make test`. Ours, 2026-11-29: with all of
them, property tests and simulations were 4 of the 14 minutes of CPU that the tests took."""

EXAMPLES_MIN = 10


def share() -> float:
    """Of what `make thorough` tries. Known once pytest is configured."""
    return settings().max_examples / EXAMPLES["thorough"]


def examples(of: int) -> int:
    """`of`: how many `make thorough` tries."""
    return max(min(of, EXAMPLES_MIN), round(of * share()))


def some(of: Sequence[T]) -> Sequence[T]:
    """The first ones, one at least. `of`: those of `make thorough`."""
    return of[: max(1, round(len(of) * share()))]


def enough(of: T, otherwise: T) -> T:
    """`of`: how large `make thorough` makes a case, such as its simulated seconds; `otherwise`: how
    small it may be for all that a test asserts to hold as well, and to fail as well.
    """
    return of if share() >= 1 else otherwise


def deeper(*cases: T) -> list[T]:
    """Of `make thorough` alone: dear cases of what cheaper ones beside them hold too."""
    return list(cases) if share() >= 1 else []
