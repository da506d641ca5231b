"""Gives free pages back to the file system, a few at a time, while nobody waits for the disk.

Settled frames leave free pages in the database, whose space other programs could use. Knows the
store, its thread and the sizes; no frame and no commit: the caller decides when a part begins.
Invariants: one part is under way at a time; none begins after `stop`; `on_given` is called after
each part that made the files smaller, so that the next one can be asked for.
Where it sits: `commits.py` begins a part when a commit has ended and none follows.
"""

import asyncio
import logging
from collections.abc import Callable

from kdaemon.spool.space import Space
from kdaemon.spool.store import Store
from kdaemon.spool.thread import StoreThread
from kdaemon.spool.values import Sizes

log = logging.getLogger("kdaemon.spool")

GIVE_BACK_BYTES = 16 * 1024 * 1024  # no part begins with fewer free bytes
GIVE_BACK_PAGES = 100  # a part: a commit waits some 10 ms for one (measured 2026-11-21)
GIVE_BACK_PAUSE_S = 0.1
"""Seconds before each part while a backlog is on its way to its engine: then 16 MB/s are given
back. Without the pause the parts took a tenth of the core that reads, encodes and sends, and each
read waited behind a part. Ours, 2026-11-28."""


class GivingBack:
    """For one store."""

    __slots__ = (
        "_is_out",
        "_is_stopped",
        "_loop",
        "_on_given",
        "_space",
        "_store",
        "_store_thread",
        "_timer",
    )

    def __init__(
        self, store: Store, thread: StoreThread, space: Space, on_given: Callable[[], object]
    ) -> None:
        self._store = store
        self._store_thread = thread
        self._space = space
        self._on_given = on_given
        self._loop = asyncio.get_running_loop()
        self._is_out = False  # a part is under way, or about to begin
        self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_due(self) -> bool:
        """Whether there is enough to give back, and no part is under way."""
        return not (self._is_out or self._is_stopped or self._space.free_bytes <= GIVE_BACK_BYTES)

    def begin(self, *, after_pause: bool) -> None:
        """Begins the next part. `after_pause`: wait first, because others need the disk and the
        core.
        """
        self._is_out = True
        if after_pause:
            self._timer = self._loop.call_later(GIVE_BACK_PAUSE_S, self._begin_part)
        else:
            self._begin_part()

    def stop(self) -> None:
        """Begins no part any more; one that runs in the thread ends there."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _begin_part(self) -> None:
        self._timer = None
        give = self._loop.run_in_executor(self._store_thread, self._in_thread)
        give.add_done_callback(self._given)

    def _in_thread(self) -> Sizes:
        self._store.give_back(GIVE_BACK_PAGES)
        return self._store.sizes

    def _given(self, give: "asyncio.Future[Sizes]") -> None:
        self._is_out = False
        error = give.exception()
        if error is not None:
            log.warning("space cannot be given back", extra={"fields": {"error": str(error)}})
            return
        before_bytes = self._space.file_bytes
        self._space.measured(give.result())
        if self._space.file_bytes < before_bytes:
            self._on_given()
