"""The reloads since the start: their counts, and the last reload in words.

Written by `daemon/reload.py`. Read by the metrics and by `/configz`. `kdaemon reload` reads that
page too: it signals the process that the page names, and waits until `count` has grown. It waits
for one reload more, or for two if a reload was running, which may have read the file before it was
changed. Holds no values of settings, except those in the texts of problems; these are masked where
the problems are found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable

if TYPE_CHECKING:  # `kdaemon reload`, which only asks a daemon, loads no configuration
    from kdaemon.config.load import Loaded

SHOWN_MAX = 200  # keys, and problems, on the page; ours, 2026-11-28


class Outcome(Enum):
    """The result of a reload."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"  # the configuration that was read is the one in force
    WRONG = "wrong"  # the configuration cannot be used
    RESTART = "restart"  # the configuration needs a restart
    FAILED = "failed"  # the configuration could not be built, or kdaemon broke

    @property
    def is_success(self) -> bool:
        """Whether the configuration that was read is in force."""
        return self in {Outcome.APPLIED, Outcome.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Report:
    """One reload. `keys`: the changed ones, or those that need a restart. `problems`: sentences."""

    outcome: Outcome
    keys: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Reloads:
    """The reloads of one process."""

    def __init__(self, wall_s: Callable[[], float], pid: int, start: int | None) -> None:
        """`pid` and `start` name the process (`system.start_of`). The configuration of the start
        counts as a success.
        """
        self._wall_s, self._pid, self._start = wall_s, pid, start
        self.count = 0
        self.failures = 0
        self.generation = 1  # of the configuration in force
        self.is_going_on = False
        self.last: Report | None = None
        # The configuration in force, with its origins; None: nothing was read.
        self.loaded: Loaded | None = None
        self.last_success_s = wall_s()

    @property
    def is_last_successful(self) -> bool:
        """Whether the configuration that was read last is in force."""
        return self.last is None or self.last.outcome.is_success

    def note(self, report: Report) -> None:
        """Counts a reload that is done."""
        self.last = report
        if report.outcome.is_success:
            self.last_success_s = self._wall_s()
        else:
            self.failures += 1
        self.is_going_on = False
        self.generation += report.outcome is Outcome.APPLIED
        self.count += 1

    @property
    def refused(self) -> tuple[Outcome, str] | None:
        """Why the configuration that was read last is not in force: the first problem, or the first
        of the keys that need a restart. None: it is in force.
        """
        last = self.last
        if last is None or last.outcome.is_success:
            return None
        first, *more = last.problems or last.keys or ("the log says why",)
        return last.outcome, f"{first}, and {len(more)} more" if more else first

    @property
    def file(self) -> str | None:
        """The path of the configuration file that the daemon reads; None: it reads none."""
        sources = None if self.loaded is None else self.loaded.sources
        if sources is None or not sources.source:
            return None
        return str(Path(sources.source).absolute())

    def told(self) -> bytes:
        """The page `/configz`."""
        last = self.last
        page = {
            "pid": self._pid,
            "start": self._start,
            "file": self.file,
            "generation": self.generation,
            "reloads": self.count,
            "reload_failures": self.failures,
            "is_reloading": self.is_going_on,
            "last_success": self.last_success_s,
            "last_reload": None
            if last is None
            else {
                "outcome": last.outcome.value,
                "keys": last.keys[:SHOWN_MAX],
                "problems": [printable(SECRETS.clean(each)) for each in last.problems[:SHOWN_MAX]],
            },
        }
        return msgspec.json.encode(page) + b"\n"
