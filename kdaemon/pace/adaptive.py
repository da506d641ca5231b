"""How much of a shard's quota is ours, when other producers write to the same shard.

The quota is the ceiling. Under it, one `AdaptiveShare` for records and one for bytes follow what
the shard itself tells: which part of the records sent in a second it throttled. No daemon knows how
many daemons there are, but all that do the same end up with about the same share.

A share is judged a second at a time, because services count per second: a shard that gets a little
too much throttles everything at the end of each second, or a little of everything all the time.
Only over a whole second (an interval) does one daemon see the throttled part that holds for all. In
an interval with a throttle the share stands still. At its end the share falls to the part that was
taken, and a little below. Otherwise the share grows: quickly back to the last limit; past the limit
by the same few records a second for every daemon (which makes shares equal); and away from it
faster and faster (the other producers may have left).

A new share doubles until the shard throttles. All daemons that started together see that throttle
together: each falls to its starting share, whatever it had reached, and doubles once more, so that
they are equal when it counts.

On a stream that the service keeps warm a new share begins higher (`warm_first_share`): its shards
are known to take that much at once. How many daemons write to them is not known there either. So no
share begins above a half, and no share doubles from there before it would have grown so far by
itself. Then two daemons have the whole shard at once; of many daemons, each is throttled only until
it gets its first throttled answer.

The constants were found by simulation: fleets of 1 to 32 daemons with twice the demand that a shard
takes, against a limiter of tokens and one of fixed windows (`bench/fleet.py`, 2026-11-21). The
growth is CUBIC's idea (RFC 9438). The difference: a throttle tells how much was too much, so that a
share need not fall far.
Pure: time is an argument. Knows nothing of buckets, lanes or codes.
"""

from enum import Enum
from math import exp, log2

from kdaemon.pace.bucket import NS_PER_SECOND

SHARE_MIN = 0.001  # of the quota: a record a second; with less, nothing more could be learnt
KEPT_MIN = 0.1  # of the share: it keeps at least this part at one fall

# Found by simulation (see above), 2026-11-21.
FIRST_SHARE = 0.065  # of the quota: a new lane begins with it
FIRST_DOUBLING_S = 0.4
FIRST_S = 6.0  # the least length of the first phase: other daemons may be about to start
LEVEL_SHARE = 0.065  # of the quota: all daemons that began together begin again with it
LEVEL_PART = 0.14  # of the reached share, if that is more: then the daemons are few
SECOND_DOUBLING_S = 0.7  # after the first throttle
# At the throttle that ends the second phase: about the last doubling was too much.
SECOND_KEPT = 0.55
SECOND_LIMIT = 0.7  # of the share at that throttle: about where the limit is
MARGIN = 0.012  # fall this much below the taken part: other daemons must see room
MARGIN_OF_SHARE = 0.01  # this part more: daemons with larger shares fall further
MARGIN_OF_MOST = 0.25  # and this part of a share above a half: that cannot be a fair share
MARGIN_YOUNG = 0.05  # more while young, which makes first shares equal
YOUTH_S = 6.5  # time constant of youth
GROWTH = 0.0019  # of the quota a second, at a share of an eighth: growth past the last limit
GROWTH_YOUNG = 4.9  # this many times more while young
GROWTH_POWER = 0.43  # of the share: large shares grow faster
RETURN_RATE = 0.59  # of the way back to the last limit, a second
LEAVE_RATE = 1.1  # of the distance past the last limit, a second, for shares of a half and more
LEAVE_DISTANCE_MAX = 0.2  # of the quota: beyond this distance a share grows evenly
LIMIT_PART = 0.59  # of the throttled part: how far below the old share the limit is taken to be
AGAIN_TRUST = 0.5  # how far a part seen right after a fall is believed
# How far a part seen in only one call is believed: with large shares it may be bad luck.
SINGLE_TRUST = 0.65

WARM_LEAD = 8.0
"""On a warm stream a share begins with at most this many times `first_share`: three doublings. With
`first_share` an operator also says how many others may write, on a warm stream, too. This and the
next by simulation: fleets of 1 to 32 that begin together or within a second, with 2 and 40 times
the demand that a shard takes (`tests/sim/test_warm.py`, 2026-11-28)."""

WARM_SHARE_MAX = 0.5  # of the quota; with 0.75, 32 daemons waste twice as much as with a half

ALONE_SHARE = 0.97  # of the quota allowed,
ALONE_TAKEN = 0.95  # and of it taken: there is no other producer, and a throttle is jitter


def warm_first_share(first_share: float, warm_part: float) -> float:
    """`first_share`, or more. `warm_part`: the warm throughput of the stream, as a part of the
    quotas of all its open shards; above 1 counts as 1.
    """
    return max(first_share, min(WARM_SHARE_MAX, WARM_LEAD * first_share) * min(1.0, warm_part))


class Phase(Enum):
    """How much a share knows of its shard."""

    FIRST = "first"  # nothing yet: it doubles
    LEVEL = "level"  # it fell to its start, and waits until all daemons that started with it did
    SECOND = "second"  # it doubles once more, more slowly
    SETTLING = "settling"  # it fell to a part of that, and waits until the effect shows
    STEADY = "steady"  # it knows a limit, or that there is none


_DOUBLING_S = {Phase.FIRST: FIRST_DOUBLING_S, Phase.SECOND: SECOND_DOUBLING_S}


class AdaptiveShare:
    """`share`: 0 < share <= 1, of a ceiling that it need not know.

    `grown_at_ns`: the time up to which it has grown; in the future while it stays where it began.
    Bound: a few numbers. Time never goes back.
    """

    __slots__ = (
        "_has_just_fallen",
        "_is_frozen",
        "grown_at_ns",
        "limit",
        "phase",
        "share",
        "steady_at_ns",
    )

    def __init__(self, first_share: float, now_ns: int) -> None:
        """`first_share`: the share to begin with; 1.0: all of the quota, as without others."""
        self.share = first_share
        self.limit = 1.0  # about where the shard throttled last
        self._is_frozen = False
        self._has_just_fallen = False
        self.phase = Phase.FIRST if first_share < 1.0 else Phase.STEADY
        self.grown_at_ns = self.steady_at_ns = now_ns

    def inherit(self, other: "AdaptiveShare") -> None:
        """Begins with the state of `other`, the share of the parent shard."""
        self.share, self.limit, self.phase = other.share, other.limit, other.phase
        self.steady_at_ns = other.steady_at_ns
        self.grown_at_ns = max(self.grown_at_ns, other.grown_at_ns)

    def begin_at(self, share: float, now_ns: int) -> None:
        """Raises the share to `share`, if nothing is known of the shard yet. From there it does not
        double before it would have grown so far by itself: a shard has a second's quota saved up,
        and does not show other producers before that is used.
        """
        self.grow(now_ns)
        if self.phase is Phase.FIRST and self.share < share:
            lead_s = log2(share / self.share) * FIRST_DOUBLING_S
            self.share = share
            self.grown_at_ns += round(lead_s * NS_PER_SECOND)

    @property
    def is_settled(self) -> bool:
        """Whether time changes nothing: all of the quota is ours, and has been for long enough."""
        return self.share >= 1.0 and self.phase is Phase.STEADY

    @property
    def is_waiting(self) -> bool:
        """Whether it fell, and waits until the effect shows."""
        return self.phase is Phase.LEVEL or self.phase is Phase.SETTLING

    def grow(self, now_ns: int) -> None:
        """Grows for the time that has passed."""
        seconds = (now_ns - self.grown_at_ns) / NS_PER_SECOND
        if seconds <= 0:
            return
        self.grown_at_ns = now_ns
        if self._is_frozen or self.is_settled:
            return
        if self.phase is Phase.STEADY:
            self.share += self._growth(now_ns) * min(seconds, 1.0)
        elif self.phase in _DOUBLING_S:
            self.share *= 2.0 ** min(10.0, seconds / _DOUBLING_S[self.phase])
        self.share = min(1.0, self.share)
        is_first_over = now_ns - self.steady_at_ns >= FIRST_S * NS_PER_SECOND
        if self.phase in _DOUBLING_S and self.share >= 1.0 and is_first_over:
            self._settle(now_ns)

    def hit(self, used: float, now_ns: int) -> bool:
        """The shard throttled, and this quota seems to be the short one: it does not grow until the
        interval ends. `used`: the share that was really sent. Returns True if a new interval must
        begin, because the share fell at once.
        """
        if self.phase is Phase.FIRST and not (self.share >= ALONE_SHARE and used >= ALONE_TAKEN):
            self._level(used, now_ns)
            return True
        if self.phase is Phase.SECOND:
            self.grow(now_ns)
            top = max(SHARE_MIN, min(self.share, used))
            self.share = top * SECOND_KEPT
            self.limit = top * SECOND_LIMIT
            self.phase = Phase.SETTLING
            return True
        self._is_frozen = True
        return False

    def end_interval(
        self, part: float, used: float, now_ns: int, *, is_single: bool, is_alone: bool
    ) -> None:
        """Ends a second in which the shard throttled `part` (0..1) of what it was sent.

        `used`: the share that was really sent; an unused share says nothing. `is_single`: all of
        the throttled records were in one call. `is_alone`: almost the whole quota was ours.
        """
        self.grow(now_ns)
        self._is_frozen = False
        share_before = self.share
        kept = max(KEPT_MIN, 1.0 - part)
        if self.phase is Phase.LEVEL:
            self.share *= kept
            self.phase = Phase.SECOND
        elif self.phase is Phase.SETTLING:
            self._settle(now_ns)
        elif not part:
            self._has_just_fallen = False
            return
        elif self.phase is Phase.FIRST and not is_alone:
            self._level(used, now_ns)
        elif not (is_alone and self.share >= ALONE_SHARE):
            self._fall(part, used, now_ns, is_single=is_single)
        self.share = max(SHARE_MIN, self.share)
        self._has_just_fallen = self.share < share_before

    def _level(self, used: float, now_ns: int) -> None:
        """Falls back to about the start, as all daemons that began together do."""
        reached = min(self.share, used)
        self.share = min(self.share, max(LEVEL_SHARE, reached * LEVEL_PART))
        self.phase = Phase.LEVEL
        self.steady_at_ns = self.grown_at_ns = now_ns

    def _fall(self, part: float, used: float, now_ns: int, *, is_single: bool) -> None:
        """Falls by the throttled part. The part is discounted when it comes from a single call, or
        from the second of the last fall: it may be bad luck, or already paid for. There are many
        small shares, and their luck evens out; a share of almost everything has to make room.
        """
        share = min(self.share, used)
        doubt = (1.0 - SINGLE_TRUST) * is_single + (1.0 - AGAIN_TRUST) * self._has_just_fallen
        part *= 1.0 - doubt * (1.0 - abs(2.0 * share - 1.0))
        if not self._has_just_fallen:
            self.limit = share * (1.0 - LIMIT_PART * part)
        margin = MARGIN + MARGIN_OF_SHARE * share + MARGIN_OF_MOST * max(0.0, share - 0.5)
        margin += MARGIN_YOUNG * self._youth(now_ns)
        self.share = share * max(KEPT_MIN, 1.0 - part) * (1.0 - margin)

    def _growth(self, now_ns: int) -> float:
        """Growth a second, as a part of the quota."""
        share = self.share
        size = float((share * 8.0) ** GROWTH_POWER)
        growth = GROWTH * (1.0 + GROWTH_YOUNG * self._youth(now_ns)) * size
        distance = share - self.limit
        if distance < 0:
            return growth - RETURN_RATE * distance
        return growth + LEAVE_RATE * min(distance, LEAVE_DISTANCE_MAX) * min(1.0, 2.0 * share)

    def _youth(self, now_ns: int) -> float:
        """1 when the share became steady, falling to 0."""
        return exp((self.steady_at_ns - now_ns) / (YOUTH_S * NS_PER_SECOND))

    def _settle(self, now_ns: int) -> None:
        self.phase = Phase.STEADY
        self.steady_at_ns = now_ns
