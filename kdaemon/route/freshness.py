"""When to ask for the shard map again.

A record that lands on another shard than predicted marks the map stale: one refresh, jittered so
that a fleet does not ask in step, the old map serving meanwhile. A refresh that changed nothing
makes the next one later. Besides, the map is asked for now and then, for what no answer shows (the
record size limit, a switch to AUTO).
"""

from kdaemon.base.ports import Dice

REFRESH_INTERVAL_NS = 1_000_000_000  # at most one refresh a second: ListShards is shared by a fleet
REFRESH_JITTER_NS_MAX = 500_000_000  # 0.5 s: a fleet that goes stale together asks spread over it
REFRESH_USELESS_INTERVAL_NS_MAX = 60_000_000_000  # after refreshes that changed nothing
REFRESH_IDLE_INTERVAL_NS = 3_600_000_000_000  # hourly: DescribeStreamSummary is 20 TPS an account


class MapFreshness:
    """`due_at_ns`: when to ask next. Starts due at once."""

    __slots__ = ("_asked_at_ns", "_dice", "_useless_count", "due_at_ns", "is_asking")

    def __init__(self, dice: Dice, now_ns: int) -> None:
        self._dice = dice
        self._useless_count = 0
        self._asked_at_ns = now_ns - REFRESH_INTERVAL_NS
        self.due_at_ns = now_ns
        self.is_asking = False

    def ask(self, now_ns: int) -> bool:
        """True if the map should be asked for now; then the asking has begun, until `answered`."""
        if self.is_asking or now_ns < self.due_at_ns:
            return False
        self.is_asking = True
        self._asked_at_ns = now_ns
        return True

    def answered(self, now_ns: int, *, is_changed: bool) -> None:
        self.is_asking = False
        self._useless_count = 0 if is_changed else self._useless_count + 1
        jitter_ns = int(self._dice.random() * REFRESH_IDLE_INTERVAL_NS / 4)
        self.due_at_ns = now_ns + REFRESH_IDLE_INTERVAL_NS - jitter_ns

    def failed(self, now_ns: int) -> None:
        """No answer: try again later, and later still."""
        self.is_asking = False
        self._useless_count += 1
        self.due_at_ns = now_ns + self._interval_ns()

    def stale(self, now_ns: int) -> None:
        """A record landed elsewhere."""
        if self.is_asking:
            return
        earliest_ns = max(now_ns, self._asked_at_ns + self._interval_ns())
        if self.due_at_ns <= earliest_ns + REFRESH_JITTER_NS_MAX:
            return  # soon enough; a roll for every record would wear the jitter down to nothing
        self.due_at_ns = earliest_ns + int(self._dice.random() * REFRESH_JITTER_NS_MAX)

    def _interval_ns(self) -> int:
        return min(
            REFRESH_INTERVAL_NS << min(self._useless_count, 10), REFRESH_USELESS_INTERVAL_NS_MAX
        )
