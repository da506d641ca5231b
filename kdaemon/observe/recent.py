"""The recent warnings and errors of the log, with counts, for pages.

About: each place in the code that logs one: how often it did, and its last line. For people who
look at a page and not at a log: an error that came a thousand times is one entry. Knows nothing of
what a line says, and shows none: texts are kept as they were logged, and the page that shows one
cleans it.
Bound: PLACES_MAX places, those that logged last; each has one line, whose texts logs.py has
bounded. Written under the log handler's lock, from any thread. The loop reads without the lock: an
entry of the dictionary is never changed, only replaced.
Flow: logs.py -> here -> reading.py.
"""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from kdaemon.observe.logs import Line

PLACES_MAX = 16  # ours, 2026-11-28: as many as a screen shows; in a bad hour five or six places log


class SaidSnapshot(msgspec.Struct, frozen=True):
    """One place: how often it logged, since it is known; its last line, and the age of that
    line.
    """

    count: int
    line: "Line"
    age_ns: int


class _Said(NamedTuple):
    times: int
    line: "Line"
    at_ns: int


class Recent:
    """The recent warnings and errors of one process."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        # By file and line; the place that logged last is last.
        self._said: dict[tuple[str, int], _Said] = {}

    def note(self, place: tuple[str, int], line: "Line", now_ns: int) -> None:
        """Notes a warning or an error, whether the log shows it or sums it."""
        before = self._said.pop(place, None)
        if before is None and len(self._said) >= PLACES_MAX:
            del self._said[next(iter(self._said))]
        self._said[place] = _Said(1 if before is None else before.times + 1, line, now_ns)

    def snapshot(self, now_ns: int) -> tuple[SaidSnapshot, ...]:
        """The place that logged last comes first."""
        return tuple(
            SaidSnapshot(times, line, max(0, now_ns - at_ns))
            for times, line, at_ns in reversed(list(self._said.values()))
        )
