"""What a reload changes in the rooms: everything new is built first, then all is swapped at once.

Knows which room takes which part of a configuration; must not know where a configuration comes
from, nor which settings are live (`reload.py`, `config/changes.py`).
Invariant: a new configuration is taken whole, or nothing of it is; no other task runs between the
last check and the swap.
Where it sits: reload.py -> here -> streams/, reach.py, memory.py, spool/.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kdaemon.config import Config
from kdaemon.daemon.memory import Memory
from kdaemon.daemon.reach import Reached, Upstreams
from kdaemon.daemon.sandboxed import SandboxAddresses, at_places
from kdaemon.observe.logs import set_level
from kdaemon.streams import Streams

if TYPE_CHECKING:
    from kdaemon.spool.spool import Spool


class Room(Protocol):
    """Another part of the daemon that takes a new configuration at once."""

    def take_config(self, new: Config) -> None:
        """Takes the live settings; fails for none of them."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that can be taken, and its new upstreams, opened."""

    old: Config
    new: Config
    reached: dict[str, Reached]


class Change:
    """Takes a new configuration for one daemon. As `reload.Live`. `rooms` are told when it is in
    force.
    """

    def __init__(
        self,
        streams: Streams,
        upstreams: Upstreams,
        memory: Memory,
        spool: "Spool | None",
        places: SandboxAddresses | None,
    ) -> None:
        """`places`: of embedded services; None: there are none."""
        self._streams = streams
        self._upstreams = upstreams
        self._memory = memory
        self._spool = spool
        self._places = places
        self.rooms: list[Room] = []

    def needs_restart(self, old: Config, new: Config) -> tuple[str, ...]:
        """As `Live` has it."""
        return () if self._places is None else come_beside_sandbox(old, new)

    async def change(self, old: Config, new: Config) -> tuple[str, ...]:
        """As `Live` has it."""
        prepared = await self.prepare(old, new)
        return await self.commit(prepared) if isinstance(prepared, Prepared) else prepared

    async def prepare(self, old: Config, new: Config) -> "Prepared | tuple[str, ...]":
        """Builds everything new and changes nothing; the caller then calls `commit` or `drop`.
        Otherwise returns the tables that cannot change while records are under way.
        """
        come = new.upstreams.keys() - old.upstreams.keys()
        if self._places is not None:
            new = at_places(new, self._places)
        conflicts = self._streams.conflicts(new)
        return conflicts or Prepared(old, new, self._upstreams.open(new, come))

    async def drop(self, prepared: "Prepared") -> None:
        """Closes the upstreams that `prepare` opened. Nothing of the configuration is taken."""
        await asyncio.gather(*(each.aclose() for each in prepared.reached.values()))

    async def commit(self, prepared: "Prepared") -> tuple[str, ...]:
        """Takes the whole configuration. Otherwise takes nothing of it, and returns the tables that
        cannot change while records are under way.
        """
        old, new, reached = prepared.old, prepared.new, prepared.reached
        conflicts = self._streams.conflicts(new)
        if conflicts:
            await self.drop(prepared)
            return conflicts
        self._memory.take_config(new)
        reaches = {name: each.reach for name, each in reached.items()}
        steps = self._streams.take_config(new, reaches)
        next(steps)  # from here on no stream is found by the old configuration
        self._upstreams.adopt(reached)
        self._upstreams.take_config(new, old.upstreams.keys() - new.upstreams.keys())
        if self._spool is not None:
            self._spool.has_upstreams = bool(new.upstreams)
            self._spool.take_bytes_max(new.spool.bytes_max)
        set_level(new.log.level)
        for room in self.rooms:
            room.take_config(new)
        for _ in steps:
            await asyncio.sleep(0)
        if self._spool is not None:
            for _ in self._spool.take_up(self._streams.find_stored):
                await asyncio.sleep(0)
        return ()

    def look_for_left(self) -> None:
        """Closes streams and upstreams that a reload left behind, once their records are
        delivered.
        """
        self._streams.look()
        self._upstreams.close_left(self._streams.left_upstreams)


def come_beside_sandbox(old: Config, new: Config) -> tuple[str, ...]:
    """The tables of new upstreams, which need a restart in a sandbox: only a start opens one for
    them.
    """
    return tuple(f"upstreams.{name}" for name in new.upstreams if name not in old.upstreams)
