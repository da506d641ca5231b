"""A new configuration for all workers: each prepares it, then each takes it; or none takes it.

About: `reload.Live` for a supervisor. The supervisor reads the texts once and sends them, so all
workers load the same. They are told to take the configuration only when each of them has built what
is new, and none has records under way that stand against it. Records that stand against it may
still come in meanwhile: then the worker that cannot take it drains and is started again with it. So
does a worker that was starting. Therefore no two workers run by different configurations for long.
Where it sits: supervisor.py -> here -> crew.py; the workers' side is worker.py.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdaemon.base.errors import WorkerError
from kdaemon.config import Config
from kdaemon.config.load import Loaded, Sources
from kdaemon.daemon.change import Room, come_beside_sandbox
from kdaemon.daemon.crew import Crew
from kdaemon.observe.logs import set_level

log = logging.getLogger("kdaemon")


class WorkersChange:
    """Changes the workers of one supervisor. As `reload.Live`."""

    def __init__(self, crew: Crew, rooms: Sequence[Room]) -> None:
        """`rooms`: the supervisor's own parts that take a new configuration at once."""
        self._crew = crew
        self._rooms = rooms
        self._read: Sources | None = None  # by the last reload

    def reading(self, read: Callable[[Config], Loaded]) -> Callable[[Config], Loaded]:
        """`read`, but the texts that it reads are kept for the workers. The number of workers stays
        that of the start, even if `auto` would give another number by now.
        """

        def kept(old: Config) -> Loaded:
            loaded = read(old)
            self._read = loaded.sources
            if loaded.config.workers == old.workers:
                config = replace(loaded.config, worker_count=old.worker_count)
                loaded = replace(loaded, config=config)
            return loaded

        return kept

    def needs_restart(self, old: Config, new: Config) -> tuple[str, ...]:
        """As `Live` has it."""
        return come_beside_sandbox(old, new) if self._crew.has_sandbox else ()

    async def change(self, _old: Config, new: Config) -> tuple[str, ...]:
        """As `Live.change`. Raises WorkerError, for people, if a worker does not answer or cannot
        load the configuration: then nothing of it is taken.
        """
        sources, crew = self._read, self._crew
        assert sources is not None, "it was read"
        answers = await crew.ask("prepare", sources)
        said = {member: each.parts[0] for member, each in answers.items() if each.parts}
        wrong, conflicts = (
            dict.fromkeys(text for each, texts in said.values() if each == kind for text in texts)
            for kind in ("wrong", "conflicts")
        )
        silent = [
            f"worker {member.number} cannot be asked ({each.why_not}): look at it, and try again"
            for member, each in answers.items()
            if each.why_not is not None and member in crew.serving
        ]
        if wrong or conflicts or silent:
            await crew.ask("drop", whom=said)
            if wrong:
                raise WorkerError("; ".join(wrong))
            if conflicts:
                return tuple(conflicts)
            raise WorkerError(silent[0])
        crew.take_sources(sources)
        taken = await crew.ask("commit", whom=said)
        ready = {
            member for member, each in taken.items() if each.parts and each.parts[0][0] == "ready"
        }
        for member in crew.serving:
            if member in ready:
                member.sources = sources
            else:
                member.renew()
        set_level(new.log.level)
        for room in self._rooms:
            room.take_config(new)
        await asyncio.sleep(0)
        return ()
