"""When what is done every second or so is due: at whole multiples of its interval.

All timers of an interval, whoever armed them, are due at the same moment, and those of a multiple
of the interval at one of these moments: so an idle process is woken once for all of them. Pure; the
time is that of the event loop.
"""

from math import floor


def next_tick_s(now_s: float, interval_s: float) -> float:
    """The next whole multiple of the interval that is half an interval away, or more: a timer that
    rings a moment too early, or late, does not ring twice.
    """
    return (floor(now_s / interval_s + 0.5) + 1) * interval_s
