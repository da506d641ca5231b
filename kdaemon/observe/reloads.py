"""What became of the configuration since the start: counts, and the last reload in words.

Written by `daemon/reload.py`, read by the metrics, by `/configz` and so by `kdaemon reload`, which
signals the process that this page names and waits until `count` has grown: by one, or by two where
a reload goes on, which may have read the file before it was changed. Values only; no value of
a setting, but those that a problem shows, which are masked where they were found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable

if TYPE_CHECKING:  # who only asks a daemon (`kdaemon reload`) reads no configuration
    from kdaemon.config.load import Loaded

SHOWN_MAX = 200  # keys, and problems, on the page; ours, 2026-11-28


class Outcome(Enum):
    """What a reload came to."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"  # what was read is what is in force
    WRONG = "wrong"  # a configuration that cannot be used
    RESTART = "restart"  # it needs one
    FAILED = "failed"  # it could not be built, or kdaemon broke

    @property
    def is_success(self) -> bool:
        """Whether what was read is in force."""
        return self in {Outcome.APPLIED, Outcome.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Report:
    """One reload. `keys`: what was changed, or what needs a restart; `problems`: sentences."""

    outcome: Outcome
    keys: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Reloads:
    """Of one process."""

    __slots__ = (
        *("_pid", "_start", "_wall_s", "count", "failures", "generation", "is_going_on", "last"),
        *("last_success_s", "loaded"),
    )

    def __init__(self, wall_s: Callable[[], float], pid: int, start: int | None) -> None:
        """`pid` and `start` name the process (`system.start_of`). What it started with counts as a
        success.
        """
        self._wall_s, self._pid, self._start = wall_s, pid, start
        self.count = 0
        self.failures = 0
        self.generation = 1  # of the configuration in force
        self.is_going_on = False
        self.last: Report | None = None
        self.loaded: Loaded | None = None  # what is in force, and who gave it; None: nobody read it
        self.last_success_s = wall_s()

    @property
    def is_last_successful(self) -> bool:
        """What was read last is in force."""
        return self.last is None or self.last.outcome.is_success

    def note(self, report: Report) -> None:
        """A reload is over."""
        self.last = report
        if report.outcome.is_success:
            self.last_success_s = self._wall_s()
        else:
            self.failures += 1
        self.is_going_on = False
        self.generation += report.outcome is Outcome.APPLIED
        self.count += 1

    def told(self) -> bytes:
        """The page."""
        last = self.last
        page = {
            "pid": self._pid,
            "start": self._start,
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
