"""The daemon before this one, and the one after it: whose turn it is to listen.

About: when the sockets that were taken over belong to this daemon alone, and which daemon may take
them over from this one. Knows listeners and the two sides of `http/takeover.py`; must not know how
a daemon drains.
Invariant: the next daemon may come only when this one takes records.
Where it sits: daemon.py -> here -> listeners.py, http/takeover.py.
"""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdaemon.config import Config, StreamConfig
from kdaemon.daemon.listeners import Listeners
from kdaemon.http.listener import ListenerError

if TYPE_CHECKING:
    from kdaemon.http.takeover import About, Giver, Taken

log = logging.getLogger("kdaemon")


class Turn:
    """Whose turn it is to listen: here, always ours. `has_to_wait`: records of one key could pass
    earlier ones, which the daemon before has in memory or leaves on disk. `leaves_spool`: another
    process took over, and gets the spool of this one.
    """

    has_to_wait = False
    leaves_spool = False

    def take_config(self, new: Config) -> None:
        """Takes the configuration in force."""

    async def keep_order(self) -> None:
        """Returns when the daemon before has delivered the records in its memory, if order needs
        that.
        """

    async def take_turns(self) -> None:
        """Makes the daemon before stop listening, if there is one; lets the next one come."""

    def close(self) -> None:
        """Lets no process take over any more. One that has the sockets already keeps their
        files.
        """

    def released(self) -> None:
        """Tells the process that took over that the spool is closed."""


class Takeover(Turn):
    """The turns of one daemon: after the daemon before, and before the next one."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        taken: "Taken | None",
        end: Callable[[None], object],
    ) -> None:
        """`taken`: what was taken over from the daemon before; None: there was none. `end`: is told
        when another process listens.
        """
        self._config = config
        self._listeners = listeners
        self._taken = taken
        self._end = end
        self._giver: Giver | None = None
        if taken is not None:
            keeps_order = taken.about.keeps_order and _keeps_order(config)
            self.has_to_wait = keeps_order or _keeps_order_in_memory(config)

    def take_config(self, new: Config) -> None:
        self._config = new

    async def keep_order(self) -> None:
        if self._taken is not None and self.has_to_wait:
            from kdaemon.config.listeners import wanted_listeners  # noqa: PLC0415 - see _offer

            wanted = wanted_listeners(self._config, os.environ, os.path.isdir)
            self._listeners.bind_ahead(wanted)
            await self._tell_listening(self._taken)
            await self._taken.released()  # the records in its memory go first

    async def take_turns(self) -> None:
        if self._taken is not None:
            await self._tell_listening(self._taken)
            self._listeners.own_files()
        self._offer()

    async def _tell_listening(self, taken: "Taken") -> None:
        await taken.listening(self._listeners.names_taken, self._spool_place)

    @property
    def _spool_place(self) -> str:
        """The place of our spool; "": there is none."""
        from kdaemon.http.takeover import place_of  # noqa: PLC0415 - see _offer

        return place_of(self._config.spool.directory)

    def close(self) -> None:
        if self._giver is not None:
            self._giver.close()
            self._listeners.keep(self._giver.passed)
            self._listeners.yield_kept()

    def released(self) -> None:
        if self._giver is not None:
            self._giver.released()

    def _offer(self) -> None:
        from kdaemon.config.listeners import TAKEOVER, takeover_path  # noqa: PLC0415 - see below

        path = takeover_path(self._config, os.environ, os.path.isdir)
        if path is None:
            return
        # Imported only here: a daemon without a takeover socket saves the memory.
        from kdaemon.http.takeover import Giver  # noqa: PLC0415

        refusal = None
        if self._listeners.is_of_systemd or os.environ.get("NOTIFY_SOCKET"):
            refusal = "the daemon that runs belongs to a service manager: systemctl restart kdaemon"
        giver = Giver(self._listeners.offer, self._was_taken, refusal, self._about)
        try:
            giver.start(path, self._listeners.inherit(TAKEOVER))
        except (ListenerError, OSError) as error:
            log.info("no other process can take over: %s", error)
            return
        self._giver = giver

    def _about(self) -> "About":
        from kdaemon.http.takeover import About  # noqa: PLC0415 - see _offer

        return About(self._spool_place, _keeps_order_in_memory(self._config))

    def _was_taken(self, names: frozenset[str]) -> None:
        """Another process accepts on these sockets: this daemon leaves them, and drains."""
        assert self._giver is not None, "it is who tells"
        own = self._spool_place
        self.leaves_spool = bool(own) and own == self._giver.taken_spool
        self._listeners.keep(names)
        self._listeners.yield_kept()
        self._end(None)


def _keeps_order(config: Config) -> bool:
    return any(each.ordering == "partition_key" for each in _streams_of(config))


def _keeps_order_in_memory(config: Config) -> bool:
    return any(
        each.ordering == "partition_key" and each.acknowledge != "stored"
        for each in _streams_of(config)
    )


def _streams_of(config: Config) -> tuple[StreamConfig, ...]:
    return (config.default, *config.defaults.values(), *config.streams.values())
