"""Time that a test moves: of a clock, and of an asyncio loop."""

import asyncio


def jump(seconds: float) -> None:
    """From now on the running loop's clock is ahead by so much more: timers that are due by then
    fire in the loop's next turn, in their order. For asyncio's own loops.
    """
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]


class HandClock:
    """`ns`: of the program; `wall_s`: what people read."""

    def __init__(self, ns: int = 1, wall_s: float = 1.7e9) -> None:
        self.ns = ns
        self.wall_s = wall_s

    def now_ns(self) -> int:
        return self.ns

    def wall_seconds(self) -> float:
        return self.wall_s
