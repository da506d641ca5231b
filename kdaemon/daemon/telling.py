"""Tells the service manager, once a second, how a long start or a drain goes on.

Must not know what goes on. Where it sits: spool_opening.py and drain.py -> here -> Notifier.
"""

import asyncio
from collections.abc import Callable

from kdaemon.observe.notify import Notifier

TELL_S = 1.0  # how often the service manager hears how the start, or the drain, goes on. Ours
EXTEND_S = 15.0  # the manager waits so much longer each time it hears of progress. Ours, 2026-11-28


def tell_on(notifier: Notifier, state: Callable[[], tuple[str, bool]]) -> asyncio.Task[None]:
    """Tells the service manager how it goes, until it is cancelled: `state` is what to say, and
    whether it went on since the last time, for which the manager waits longer.
    """

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            text, has_moved = state()
            notifier.status(text)
            if has_moved:
                notifier.extend_timeout(EXTEND_S)

    return asyncio.get_running_loop().create_task(tell())
