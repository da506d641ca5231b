"""What a reload changes in the rooms: what is new is built first, and then all is swapped at once.

Knows which room takes which part of a configuration; must not know where it comes from, nor which
settings are live (`reload.py`, `config/changes.py`).
Invariant: another configuration is taken whole, or nothing of it; between the last check and the
swap nobody else runs.
Where it sits: reload.py -> here -> streams/, reach.py, memory.py, spool/.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol

from kdaemon.config import Config
from kdaemon.daemon.memory import Memory
from kdaemon.daemon.reach import Upstreams
from kdaemon.daemon.sandboxed import beside_sandbox
from kdaemon.observe.logs import set_level
from kdaemon.streams import Streams

if TYPE_CHECKING:
    from kdaemon.spool.spool import Spool


class Room(Protocol):
    """What else takes another configuration, at once."""

    def take_config(self, new: Config) -> None: ...


class Change:
    """Of one daemon. As `reload.Live`. `rooms`: told of a configuration that is in force."""

    def __init__(
        self,
        streams: Streams,
        upstreams: Upstreams,
        memory: Memory,
        spool: "Spool | None",
        sandboxed: Config | None,
    ) -> None:
        """`sandboxed`: the configuration that leads to embedded services, if there are some."""
        self._streams = streams
        self._upstreams = upstreams
        self._memory = memory
        self._spool = spool
        self._sandboxed = sandboxed
        self.rooms: list[Room] = []

    def needs_restart(self, old: Config, new: Config) -> tuple[str, ...]:
        if self._sandboxed is None:
            return ()
        return tuple(f"upstreams.{name}" for name in _come(old, new))  # opened by a start alone

    async def change(self, old: Config, new: Config) -> tuple[str, ...]:
        come = _come(old, new)
        if self._sandboxed is not None:
            new = beside_sandbox(new, self._sandboxed)
        reached = self._upstreams.open(new, come)
        conflicts = self._streams.conflicts(new)
        if conflicts:
            await asyncio.gather(*(each.aclose() for each in reached.values()))
            return conflicts
        self._memory.take_config(new)
        reaches = {name: each.reach for name, each in reached.items()}
        steps = self._streams.take_config(new, reaches)
        next(steps)  # from here on no stream is found by the old one
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
            for _ in self._spool.take_up(self._streams.find_stored, self._streams.is_listed):
                await asyncio.sleep(0)
        return ()

    def look_for_left(self) -> None:
        """Closes what a reload left behind, once it has delivered what it had."""
        self._streams.look()
        self._upstreams.close_left(self._streams.left_upstreams)


def _come(old: Config, new: Config) -> list[str]:
    """Upstreams that the old configuration has not."""
    return [name for name in new.upstreams if name not in old.upstreams]
