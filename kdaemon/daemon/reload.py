"""A new configuration while the daemon runs: read, check, build, swap; or no change at all.

On any error, and if one changed setting needs a restart (`config/changes.py`), the configuration in
force stays whole. The log, the metrics, `/configz` and the exit code of `kdaemon reload` say so.
Knows the order of these steps, and who is told of the result. What a configuration changes in the
rooms is the work of `Live` (`change.py`).
Invariants: only one reload runs at a time; requests that come meanwhile are answered by one more
reload, which reads the file after the last of them. No other task runs between the last check and
the swap.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from kdaemon.base.errors import ConfigError, WorkerError
from kdaemon.config import Config
from kdaemon.config.changes import find_changes
from kdaemon.config.load import Loaded
from kdaemon.observe.notify import Notifier
from kdaemon.observe.reloads import Outcome, Reloads, Report

log = logging.getLogger("kdaemon")

KEYS_SHOWN_MAX = 20  # in a line of the log


class Live(Protocol):
    """The part of the daemon that takes a new configuration."""

    def needs_restart(self, old: Config, new: Config, /) -> tuple[str, ...]:
        """Live settings that this daemon, as it was started, can only take by a restart."""
        ...

    async def change(self, old: Config, new: Config, /) -> tuple[str, ...]:
        """Takes the whole configuration. Otherwise takes nothing of it, and returns the tables that
        cannot change while records are under way.
        """
        ...


class Reload:
    """The reloads of one daemon."""

    def __init__(
        self,
        config: Config,
        read: Callable[[Config], Loaded],
        live: Live,
        reloads: Reloads,
        notifier: Notifier,
        now_ns: Callable[[], int],
    ) -> None:
        """`read`: reads the configuration from its sources, given the one in force. It runs in a
        thread, and raises ConfigError.
        """
        self.config = config
        self._read = read
        self._live = live
        self._reloads = reloads
        self._notifier = notifier
        self._now_ns = now_ns
        self._is_asked = False
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Begins a reload: now, or after the one that runs; none after the drain has begun."""
        self._is_asked = True
        if self._task is None and not self._is_closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stops the reload that runs, and lets none begin."""
        self._is_closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while self._is_asked:
                self._is_asked = False
                self._reloads.is_going_on = True
                self._notifier.reloading(self._now_ns())
                report = await self._reload()
                self._reloads.note(report)
                _tell(report, self._reloads.generation)
                self._notifier.ready(_status(report, self._reloads.generation))
        finally:
            self._task = None

    async def _reload(self) -> Report:
        try:
            loaded = await asyncio.to_thread(self._read, self.config)
        except ConfigError as error:
            return Report(Outcome.WRONG, problems=tuple(map(str, error.problems)))
        except Exception:
            log.exception("the configuration could not be read: a defect of kdaemon")
            return Report(Outcome.FAILED, problems=("kdaemon broke while it read: see the log",))
        new = loaded.config
        changes = find_changes(self.config, new)
        restart = (*changes.restart, *self._live.needs_restart(self.config, new))
        if restart:
            return Report(Outcome.RESTART, restart)
        if not changes:
            self._reloads.loaded = loaded  # the same values, perhaps from other sources
            return Report(Outcome.UNCHANGED)
        try:
            conflicts = await self._live.change(self.config, new)
        except WorkerError as error:  # nothing broke in this process, and the text is for people
            return Report(Outcome.FAILED, changes.live, (str(error),))
        except Exception as error:
            log.exception("another configuration could not be taken: a defect of kdaemon")
            return Report(Outcome.FAILED, changes.live, (f"{type(error).__name__}: see the log",))
        if conflicts:
            text = "records are under way that stand against it: try again when they are delivered"
            return Report(Outcome.RESTART, conflicts, (text,))
        self.config, self._reloads.loaded = new, loaded
        return Report(Outcome.APPLIED, changes.live)


def _status(report: Report, generation: int) -> str:
    """For `systemctl status`."""
    if report.outcome.is_success:
        return f"configuration {generation} is in force"
    return f"configuration {generation} stays in force: the last reload was refused, see the log"


def _tell(report: Report, generation: int) -> None:
    """Logs the outcome, at any log level: an operator asked for the reload."""
    keys = ", ".join(report.keys[:KEYS_SHOWN_MAX])
    if len(report.keys) > KEYS_SHOWN_MAX:
        keys += f" and {len(report.keys) - KEYS_SHOWN_MAX} more"
    extra = {"fields": {"generation": generation, "keys": keys}, "is_always_shown": True}
    for problem in report.problems:
        log.error("configuration: %s", problem, extra={"is_always_shown": True})
    text = "the configuration was read again" + {
        Outcome.APPLIED: ", and is in force",
        Outcome.UNCHANGED: ": nothing has changed",
        Outcome.RESTART: " and needs a restart: nothing of it was taken",
    }.get(report.outcome, " and cannot be used: the old one stays in force")
    level = logging.INFO if report.outcome.is_success else logging.ERROR
    log.log(level, text, extra=extra)
