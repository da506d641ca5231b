"""The event loop's own heartbeat: whether this process still turns, whatever the service does.

About: a timer of the loop that notes the time at each beat. `/livez` asks for the age of the last
beat, and the same beat feeds the service manager's watchdog: so both notice a loop that stands
still. The lateness of a beat is the loop's lag, a metric. The beat is due at a whole second, when
other things are due anyway, so that an idle loop is not woken for a measurement. Knows the loop and
a clock; must not know streams, records or the service: an outage of the service must never restart
a fleet.
Invariant: at most one timer is armed, and nothing that a beat calls can stop the next beat.
Flow: loop timer -> here -> admin.py, notify.py, hot.py.
"""

import asyncio
from collections.abc import Callable

from kdaemon.base.histogram import Histogram
from kdaemon.base.ports import Clock
from kdaemon.base.ticks import next_tick_s

BEAT_INTERVAL_S = 1.0  # seconds between two beats; ours, 2026-11-21

STILL_NS_MAX = 10_000_000_000
"""10 s: if the last beat is older, the loop stands still. Ours, 2026-11-21: far above one turn's
time, and below the 30 s after which the watchdog of our systemd unit ends the process."""

NS_PER_SECOND = 1_000_000_000  # nanoseconds in a second


class Heartbeat:
    """Beats from `start` to `stop`. Until the first beat, the age counts from the creation."""

    def __init__(
        self,
        clock: Clock,
        feed: Callable[[], object] | None = None,
        feed_interval_s: float | None = None,
        on_beat: Callable[[], object] | None = None,
        lag: Histogram | None = None,
    ) -> None:
        """`feed` is called at the first beat and then at least every `feed_interval_s` seconds
        (`Notifier.watchdog` and `watchdog_interval_s` of notify.py); None in either: never.
        `on_beat` is called after each beat, for everything that is looked at once a second. `lag`:
        takes how late each beat is, in nanoseconds.
        """
        self._clock = clock
        self._beat_at_ns = clock.now_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s: float | None = None  # loop time of the next beat
        self._lag = lag
        self._interval_s = BEAT_INTERVAL_S
        self._on_beat = on_beat
        self._feed: Callable[[], object] | None = None
        self._feed_interval_ns = 0
        self._fed_at_ns: int | None = None
        if feed is not None and feed_interval_s is not None:
            self._feed = feed
            self._feed_interval_ns = int(feed_interval_s * NS_PER_SECOND)
            self._interval_s = min(BEAT_INTERVAL_S, feed_interval_s)

    def start(self) -> None:
        """Beats now, and from now on. Is called once, in the loop that is to be watched."""
        assert self._timer is None, "the heart beats already"
        self._on_timer()

    def stop(self) -> None:
        """Stops beating. A second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def age_ns(self, now_ns: int) -> int:
        """How long ago the last beat was."""
        return now_ns - self._beat_at_ns

    def is_alive(self, now_ns: int) -> bool:
        """Whether the loop turned lately: within STILL_NS_MAX."""
        return self.age_ns(now_ns) <= STILL_NS_MAX

    def beat(self) -> None:
        """One beat. Feeds the watchdog if the next beat would be too late for that. Called by the
        timer, and by tests.
        """
        now_ns = self._beat_at_ns = self._clock.now_ns()
        if self._feed is None:
            return
        next_ns = now_ns + int(self._interval_s * NS_PER_SECOND)
        if self._fed_at_ns is None or next_ns > self._fed_at_ns + self._feed_interval_ns:
            self._fed_at_ns = now_ns
            self._feed()

    def _on_timer(self) -> None:
        self.beat()
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self._lag is not None and self._due_s is not None:
            self._lag.observe(max(0, int((now_s - self._due_s) * NS_PER_SECOND)))
        self._due_s = next_tick_s(now_s, self._interval_s)
        self._timer = loop.call_at(self._due_s, self._on_timer)
        if self._on_beat is not None:
            self._on_beat()
