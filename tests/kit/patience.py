"""How long a test waits for what must happen: one number, and one way to wait, for all of them.

A wait ends when what it waits for is there. The bound is for what never comes, so that a test that
hangs fails by name; it says nothing about how fast anything should be, and it is far beyond what a
busy machine needs. pytest's own `timeout` is a few times as long.

What tells of itself (a log line, an event, a socket) is waited for itself. These two are for what
does not: `wait_for` for another process, `until` for this one.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
PAUSE_S = (0.01, 0.1)
"""Between two looks at another process: the first and the longest. Each look costs both of them."""

TURNS = 20  # of the loop, before `until` sleeps: most of what is waited for takes fewer
TURN_PAUSE_S = (0.0005, 0.02)  # the first and the longest sleep of `until`


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


async def until(
    condition: Callable[..., object],
    *,
    each: Callable[[], object] = lambda: None,
    timeout_s: float = PATIENCE_S,
) -> None:
    """Lets the loop turn until this holds. `each`: called before each turn."""
    end = time.monotonic() + timeout_s
    turns, (pause_s, longest_s) = TURNS, TURN_PAUSE_S
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain"
        each()
        await asyncio.sleep(0 if turns > 0 else pause_s)
        if turns > 0:
            turns -= 1
        else:
            pause_s = min(longest_s, pause_s * 1.3)
