"""Work in steps, so that the large text of one client does not delay others.

A step is the work between two yields of a generator. The runner lets the event loop turn between
steps, or does not. Knows neither the loop nor the work. Pure.
Invariant: the result is the same, run at once or in turns.
Where it sits: wire/ makes steps; the door, the sandbox and observe/slices.py run them.
"""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def at_once(steps: Steps[T]) -> T:
    """Runs all steps; returns, or raises, what the work does."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
