"""Time that passes at once, for what waits on the clock of an asyncio loop."""

import asyncio


def jump(seconds: float) -> None:
    """From now on the running loop's clock is ahead by so much more: timers that are due by then
    fire in the loop's next turn, in their order. For asyncio's own loops.
    """
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]
