"""Tells the service manager, once a second, how a long start or a drain goes on.

Must not know what the start or the drain does. Where it sits: spool_opening.py and drain.py -> here
-> Notifier.
"""

import asyncio
from collections.abc import Callable

from kdaemon.observe.notify import Notifier

TELL_S = 1.0  # between two reports to the service manager. Ours
# The manager waits this much longer after each report of progress. Ours, 2026-11-28.
EXTEND_S = 15.0


def tell_on(notifier: Notifier, state: Callable[[], tuple[str, bool]]) -> asyncio.Task[None]:
    """Reports to the service manager until the task is cancelled. `state` gives the text, and
    whether there was progress since the last call: only then the manager waits longer.
    """

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            text, has_moved = state()
            notifier.status(text)
            if has_moved:
                notifier.extend_timeout(EXTEND_S)

    return asyncio.get_running_loop().create_task(tell())
