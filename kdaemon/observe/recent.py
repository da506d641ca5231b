"""What the log said of late that somebody should know: its warnings and errors, with counts.

About: by the place in the code that says them, how often, and the last line. For who looks at a
page and not at a log: an error that came a thousand times is one entry. Knows nothing of what a
line says, and shows none: texts are as they were logged, and whoever shows one cleans it.
Bound: PLACES_MAX places, those that spoke last; each has one line, whose texts logs.py has bounded.
Written under the log handler's lock, from any thread; read by the loop without it: what is in the
dictionary is never changed, only replaced.
Flow: logs.py -> here -> snapshot.py.
"""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from kdaemon.observe.logs import Line

PLACES_MAX = 16  # ours, 2026-11-28: what fits a screen; in a bad hour five or six speak


class SaidSnapshot(msgspec.Struct, frozen=True):
    """One place: how often it spoke since it is known, its last line, and how long ago."""

    count: int
    line: "Line"
    age_ns: int


class _Said(NamedTuple):
    times: int
    line: "Line"
    at_ns: int


class Recent:
    """Of one process."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: dict[tuple[str, int], _Said] = {}  # by file and line, the last one last

    def note(self, place: tuple[str, int], line: "Line", now_ns: int) -> None:
        """A warning or an error, whether it is shown in the log or summed."""
        before = self._said.pop(place, None)
        if before is None and len(self._said) >= PLACES_MAX:
            del self._said[next(iter(self._said))]
        self._said[place] = _Said(1 if before is None else before.times + 1, line, now_ns)

    def snapshot(self, now_ns: int) -> tuple[SaidSnapshot, ...]:
        """The one that spoke last first."""
        return tuple(
            SaidSnapshot(times, line, max(0, now_ns - at_ns))
            for times, line, at_ns in reversed(list(self._said.values()))
        )
