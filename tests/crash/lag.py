"""How late this process was served, and when: what a busy machine may excuse, and for how long.

The daemon is served by the same machine, so it may have been late at the same time. A pause excuses
what happened around it, and nothing else of the run. Pure.
"""

from bisect import bisect_left, bisect_right

FELT_S = 0.02  # a pause that is worth noting


class Lag:
    """Pauses, in the order in which they ended."""

    def __init__(self) -> None:
        self._ends_s: list[float] = []
        self._lengths_s: list[float] = []
        self.most_s = 0.0

    def felt(self, end_s: float, length_s: float) -> None:
        """A pause of this length, over by then."""
        if length_s >= FELT_S:
            self._ends_s.append(end_s)
            self._lengths_s.append(length_s)
            self.most_s = max(self.most_s, length_s)

    def worst_s(self, first_s: float, last_s: float) -> float:
        """The longest pause that was over within this time."""
        begin = bisect_left(self._ends_s, first_s)
        end = bisect_right(self._ends_s, last_s)
        return max(self._lengths_s[begin:end], default=0.0)
