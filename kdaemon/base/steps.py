"""Work in steps, so that one client's large text does not hold up the others.

A step is what lies between two yields of a generator; whoever runs it lets the event loop turn in
between, or does not. Knows neither the loop nor what the work is. Pure.
Invariant: run at once or in turns, the result is the same.
Where it sits: wire/ makes steps; the door, the sandbox and observe/slices.py run them.
"""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def at_once(steps: Steps[T]) -> T:
    """Runs all of it; what it returns, or raises."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
