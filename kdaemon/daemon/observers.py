"""The observers of a daemon: the hot-shard watch, the lines for CloudWatch, the admin pages.

About: building the observers over one reader of snapshots, and ending them. Must not know the rooms
that are observed: `Sources` names those.
Invariant: all observers read what `observe/reading.py` reads, and nothing else.
Where it sits: daemon.py -> here -> observe/.
"""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kdaemon.config import Config, ListenConfig
from kdaemon.daemon.hubs import Hubs
from kdaemon.daemon.listeners import Listeners
from kdaemon.http.request import HttpRequest
from kdaemon.observe.hot import HotWatch
from kdaemon.observe.reading import SnapshotReader, Sources
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.snapshot import Snapshot
from kdaemon.observe.tap import Taps
from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.observe.admin import Admin
    from kdaemon.observe.emf_log import EmfLog
    from kdaemon.observe.metrics import Metrics


class Observers:
    """The observers of one daemon."""

    def __init__(
        self,
        config: Config,
        clock: SystemClock,
        sources: Sources,
        stack: AsyncExitStack,
        worker: int | None,
    ) -> None:
        """`stack`: ends the observers. `worker`: the number of this worker; None: a lone daemon."""
        self._worker = worker
        self._config = config
        self._clock = clock
        self._sources = sources
        self._stack = stack
        self._emf_log: EmfLog | None = None
        self._hot: HotWatch | None = None
        self._metrics: Metrics | None = None
        self._admin: Admin | None = None
        self._taps: Taps | None = None
        self._reloads: Reloads
        self.reader = SnapshotReader(sources, clock)

    def hot_look(self) -> Callable[[], object]:
        """Makes the watch for hot shards; the caller calls its result at each beat."""
        shows_keys = self._config.observe.show_keys
        self._hot = HotWatch(self.reader, self._clock, shows_keys=shows_keys)
        return self._hot.look

    def take_config(self, new: Config) -> None:
        """Takes the settings of what is shown, and to whom."""
        self._config = new
        if self._hot is not None:
            self._hot.shows_keys = new.observe.show_keys
        if self._admin is not None:
            self._admin.show_keys(is_on=new.observe.show_keys)
        if self._metrics is not None:
            self._metrics.per_shard = new.metrics.per_shard
        if self._taps is not None:
            self._taps.allow(is_on=new.listen.admin_tap)

    def start_emf(self) -> None:
        """Writes lines for CloudWatch, if the configuration asks for them."""
        namespace, log_queue = self._config.metrics.emf_namespace, self._sources.log_queue
        if not namespace or log_queue is None:
            return
        from kdaemon.observe.emf import Emf  # noqa: PLC0415 - memory, only where it is used
        from kdaemon.observe.emf_log import EmfLog  # noqa: PLC0415 - the same

        emf = Emf(namespace, os.uname().nodename, self._worker)
        self._emf_log = EmfLog(self.reader, emf, log_queue, self._clock.wall_seconds)
        self._emf_log.start()
        self._stack.push_async_callback(self._emf_log.aclose)

    async def start_admin(
        self, listeners: Listeners, hubs: Hubs, reloads: Reloads, taps: Taps
    ) -> None:
        """Listens for requests for metrics, probes and status. Raises ListenerError."""
        address = self._config.listen.admin_address
        if address is None:
            return
        self._taps, self._reloads = taps, reloads
        self._stack.callback(self._close_pages)
        server = await listeners.listen("admin", address, self._handle, hubs.admin(address))
        self._stack.push_async_callback(server.aclose)

    def _handle(self, request: HttpRequest) -> None:
        """Makes the admin pages at the first request. A start is a tenth shorter without loading
        what they need. That is loaded by the time of a request, unless it comes while the doors
        open.
        """
        if self._admin is None:
            self._admin = self._make_admin()
        self._admin.handle(request)

    def _close_pages(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def _make_admin(self) -> "Admin":
        from kdaemon.observe.admin import Admin  # noqa: PLC0415 - see load_pages
        from kdaemon.observe.metrics import Metrics  # noqa: PLC0415 - the same

        config = self._config
        self._metrics = Metrics(self.reader, per_shard=config.metrics.per_shard)
        return Admin(
            self._metrics,
            self.reader,
            self._sources.readiness,
            self._sources.heartbeat,
            self._clock,
            self._reloads,
            self._taps,
            shows_keys=config.observe.show_keys,
        )

    async def last(self, left: Snapshot) -> None:
        """Writes the last lines for CloudWatch."""
        if self._emf_log is not None:
            await self._emf_log.last(left)


def needed_by_pages(listen: ListenConfig) -> tuple[str, ...]:
    """The packages that `load_pages` loads."""
    return () if listen.admin_address is None else ("prometheus_client",)


def load_pages(listen: ListenConfig) -> None:
    """Loads what the admin pages need, if there are admin pages. May run in any thread."""
    if listen.admin_address is not None:
        import kdaemon.observe.admin  # noqa: F401, PLC0415 - prometheus_client, and tables of fields
