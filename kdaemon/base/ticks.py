"""When periodic work is due: at whole multiples of its interval.

All timers with one interval are due at the same moment, whoever set them, and timers with a
multiple of the interval at one of these moments: so an idle process is woken once for all of them.
Pure; the time is that of the event loop.
"""

from math import floor


def next_tick_s(now_s: float, interval_s: float) -> float:
    """The next whole multiple of the interval that is at least half an interval away: so a timer
    that fires a moment too early, or too late, does not fire twice.
    """
    return (floor(now_s / interval_s + 0.5) + 1) * interval_s
