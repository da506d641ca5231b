"""When to ask for the shard map again.

A record that lands on another shard than predicted marks the map stale. Then there is one refresh,
jittered so that a fleet does not ask in step, and the old map is used meanwhile. After a refresh
that changed nothing, the next one for the same reason comes later. Besides, the map is asked for at
long intervals, for changes that no answer shows.
"""

from enum import Enum

from kdaemon.base.ports import Dice

# At most one refresh a second: a fleet shares the quota of ListShards.
REFRESH_INTERVAL_NS = 1_000_000_000
# 0.5 s: daemons that go stale together spread their calls over it.
REFRESH_JITTER_NS_MAX = 500_000_000
# The longest interval after refreshes that changed nothing.
REFRESH_USELESS_INTERVAL_NS_MAX = 60_000_000_000
REFRESH_IDLE_INTERVAL_NS = 3_600_000_000_000  # hourly: DescribeStreamSummary is 20 TPS an account


class Doubt(Enum):
    """Why the known facts of a stream may be wrong."""

    SHARDS = "shards"  # a record landed on another shard
    LIMITS = "limits"  # a record was not taken as expected: the record limit, or AUTO, may be old

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call


class MapFreshness:
    """`due_at_ns`: when to ask next. The first time is at once."""

    __slots__ = (
        "_asked_at_ns",
        "_dice",
        "_doubt",
        "_failed_count",
        "_useless_counts",
        "due_at_ns",
        "is_asking",
    )

    def __init__(self, dice: Dice, now_ns: int) -> None:
        self._dice = dice
        self._doubt: Doubt | None = None  # the doubt for which `due_at_ns` was brought forward
        self._useless_counts = dict.fromkeys(Doubt, 0)  # refreshes in a row that changed nothing
        self._failed_count = 0
        self._asked_at_ns = now_ns - REFRESH_INTERVAL_NS
        self.due_at_ns = now_ns
        self.is_asking = False

    def ask(self, now_ns: int) -> bool:
        """True: the map should be asked for now, and the asking has begun, until `answered`."""
        if self.is_asking or now_ns < self.due_at_ns:
            return False
        self.is_asking = True
        self._asked_at_ns = now_ns
        return True

    def answered(self, now_ns: int, *, is_changed: bool) -> None:
        self.is_asking = False
        self._failed_count = 0
        if is_changed:
            self._useless_counts = dict.fromkeys(Doubt, 0)
        elif self._doubt is not None:
            self._useless_counts[self._doubt] += 1
        self._doubt = None
        jitter_ns = int(self._dice.random() * REFRESH_IDLE_INTERVAL_NS / 4)
        self.due_at_ns = now_ns + REFRESH_IDLE_INTERVAL_NS - jitter_ns

    def ask_again(self, at_ns: int) -> None:
        """Makes the map due by `at_ns`: there is something to see by then."""
        self.due_at_ns = min(self.due_at_ns, at_ns)

    def failed(self, now_ns: int) -> None:
        """The question had no answer: it is due again later, and later still each time."""
        self.is_asking = False
        self._failed_count += 1
        self.due_at_ns = now_ns + _interval_ns(self._failed_count)

    def found(self, now_ns: int) -> None:
        """A missing stream exists now: questions will not fail any more."""
        self._failed_count = 0
        self.stale(now_ns)

    def stale(self, now_ns: int, doubt: Doubt = Doubt.SHARDS) -> None:
        """Some fact may be wrong. The more refreshes were useless, the later the next is due."""
        if self.is_asking:
            return
        useless_count = max(self._useless_counts[doubt], self._failed_count)
        earliest_ns = max(now_ns, self._asked_at_ns + _interval_ns(useless_count))
        if self.due_at_ns <= earliest_ns + REFRESH_JITTER_NS_MAX:
            return  # soon enough; a new roll for every record would wear the jitter down to nothing
        self.due_at_ns = earliest_ns + int(self._dice.random() * REFRESH_JITTER_NS_MAX)
        self._doubt = doubt


def _interval_ns(useless_count: int) -> int:
    return min(REFRESH_INTERVAL_NS << min(useless_count, 10), REFRESH_USELESS_INTERVAL_NS_MAX)
