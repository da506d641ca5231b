"""How long a test waits for what must happen: one number, and one way to wait, for all of them.

A wait ends when what it waits for is there. The bound is for what never comes, so that a test that
hangs fails by name; it says nothing about how fast anything should be, and it is far beyond what a
busy machine needs. pytest's own `timeout` is a few times as long.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
PAUSE_S = (0.01, 0.1)
"""Between two looks at another process: the first and the longest. Each look costs both of them."""


def wait_for(condition: Callable[[], T | None], what: str, timeout_s: float = PATIENCE_S) -> T:
    """Asks again and again; fails by name. For what another process does."""
    until = time.monotonic() + timeout_s
    pause_s, longest_s = PAUSE_S
    while (found := condition()) is None:
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(pause_s)
        pause_s = min(longest_s, pause_s * 1.3)
    return found
