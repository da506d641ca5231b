"""How much of a shard's quota is ours, when other producers write to the same shard.

The quota is the ceiling. Under it, one `AdaptiveShare` for records and one for bytes follow what
the shard itself says: which part of what it was sent in a second it throttled. Nobody tells us how
many we are; every daemon that does the same ends up with about the same part.

A second at a time: services count per second, so that a shard that is asked for a little too much
throttles everything at the end of each second, or a little of everything all the time. Only over a
whole second (an interval) is what one daemon sees what the shard means. In an interval with a
throttle the share stands still, and at its end it falls to the part that was taken, and a little
below. Otherwise it grows: back to the last limit quickly, past it by the same few records a second
for everybody (which is what makes shares equal), and away from it faster and faster (the others may
have left).

A new share doubles until the shard throttles. All daemons that start together hear that together:
each falls to where it began, whatever it had reached, and doubles once more, so that they are equal
when it counts.

On a stream that the service keeps warm a new share begins higher (`warm_first_share`): the shards
are known to take so much at once. How many write to them is not known there either. So nobody
begins with more than a half, and nobody doubles from there on before its share would have come so
far by itself: then two daemons have the whole shard at once, and of many each is throttled for no
longer than until it hears of that.

The constants were found by simulation: fleets of 1 to 32 daemons with twice the demand that a shard
takes, against a limiter of tokens and one of fixed windows (`bench/fleet.py`, 2026-11-21). The
growth is CUBIC's idea (RFC 9438); what differs is that a throttle tells how much was too much, so
that one need not fall far.
Pure: time is an argument. Knows nothing of buckets, lanes or codes.
"""

from enum import Enum
from math import exp, log2

NS = 1_000_000_000  # nanoseconds in a second

SHARE_MIN = 0.001  # of the quota: a record a second; with less, nothing could be learnt any more
KEPT_MIN = 0.1  # of the share, at one fall

# Found by simulation (see above), 2026-11-21.
FIRST_SHARE = 0.065  # of the quota: where a new lane begins
FIRST_DOUBLING_S = 0.4
FIRST_S = 6.0  # how long the first phase lasts at least: others may be about to start, too
LEVEL_SHARE = 0.065  # where all begin again that began together
LEVEL_PART = 0.14  # of what was reached, if that is more: then they are few
SECOND_DOUBLING_S = 0.7  # after the first throttle
SECOND_KEPT = 0.55  # at the throttle that ends it: about the last doubling was too much
SECOND_LIMIT = 0.7  # of the share then: about the limit
MARGIN = 0.012  # fall below what was taken: others must see room to come in
MARGIN_OF_SHARE = 0.01  # more for who has more
MARGIN_OF_MOST = 0.25  # and of what is above a half: it cannot be a fair part
MARGIN_YOUNG = 0.05  # more while young: it makes first shares equal
YOUTH_S = 6.5  # time constant of youth
GROWTH = 0.0019  # of the quota a second, at an eighth of it: past the last limit
GROWTH_YOUNG = 4.9  # times as much more while young
GROWTH_POWER = 0.43  # of the share: large ones grow faster
RETURN_RATE = 0.59  # of the way back to the last limit, a second
LEAVE_RATE = 1.1  # of the distance past the last limit, a second, for shares of a half and more
LEAVE_DISTANCE_MAX = 0.2  # of the quota: from there on it grows evenly
LIMIT_PART = 0.59  # of the throttled part: how far below the old share the limit is taken to be
AGAIN_TRUST = 0.5  # of a part seen right after a fall
SINGLE_TRUST = 0.65  # of a part seen in one call only: it may be bad luck, for large shares

WARM_LEAD = 8.0
"""How many times `first_share` a share begins with at most where the stream is warm: three
doublings. Who sets `first_share` says how many may write besides, on a warm stream, too. This and
the next by simulation: fleets of 1 to 32 that begin together or within a second, with 2 and 40
times the demand that a shard takes (`tests/sim/test_warm.py`, 2026-11-28)."""

WARM_SHARE_MAX = 0.5  # of the quota; with 0.75, 32 daemons waste twice as much as with a half

ALONE_SHARE = 0.97  # of the quota allowed,
ALONE_TAKEN = 0.95  # and of it taken: nobody else is there, and a throttle is jitter


def warm_first_share(first_share: float, warm_part: float) -> float:
    """`first_share`, or more. `warm_part`: the warm throughput of the stream as a part of what all
    its open shards take together; above 1: all of it.
    """
    return max(first_share, min(WARM_SHARE_MAX, WARM_LEAD * first_share) * min(1.0, warm_part))


class Phase(Enum):
    """What a share knows of its shard."""

    FIRST = "first"  # nothing: it doubles
    LEVEL = "level"  # fell to its beginning; waits until all others that started did, too
    SECOND = "second"  # doubles once more, more slowly
    SETTLING = "settling"  # fell to a part of that; waits until that shows
    STEADY = "steady"  # knows a limit, or that there is none


_DOUBLING_S = {Phase.FIRST: FIRST_DOUBLING_S, Phase.SECOND: SECOND_DOUBLING_S}


class AdaptiveShare:
    """`share`: 0 < share <= 1, of a ceiling that it need not know.

    `grown_at_ns`: up to when it has grown; in the future while it stands where it began. Bound: a
    few numbers. Time never goes back.
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
        """`first_share`: what to begin with; 1.0: the whole, as if nobody else were there."""
        self.share = first_share
        self.limit = 1.0  # about where the shard throttled last
        self._is_frozen = False
        self._has_just_fallen = False
        self.phase = Phase.FIRST if first_share < 1.0 else Phase.STEADY
        self.grown_at_ns = self.steady_at_ns = now_ns

    def inherit(self, other: "AdaptiveShare") -> None:
        """Begin as the share of the shard that this one's came from."""
        self.share, self.limit, self.phase = other.share, other.limit, other.phase
        self.steady_at_ns = other.steady_at_ns
        self.grown_at_ns = max(self.grown_at_ns, other.grown_at_ns)

    def begin_at(self, share: float, now_ns: int) -> None:
        """At least so much, if nothing is known of the shard yet. It does not double from there on
        before it would have come so far by itself: a shard has a second's worth saved up, and does
        not say that others write to it before that is used.
        """
        self.grow(now_ns)
        if self.phase is Phase.FIRST and self.share < share:
            lead_s = log2(share / self.share) * FIRST_DOUBLING_S
            self.share = share
            self.grown_at_ns += round(lead_s * NS)

    @property
    def is_settled(self) -> bool:
        """Whether time changes nothing: all of the quota is ours, and for long enough."""
        return self.share >= 1.0 and self.phase is Phase.STEADY

    @property
    def is_waiting(self) -> bool:
        """Whether it fell, and waits until that shows."""
        return self.phase is Phase.LEVEL or self.phase is Phase.SETTLING

    def grow(self, now_ns: int) -> None:
        """Time has passed."""
        seconds = (now_ns - self.grown_at_ns) / NS
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
        is_first_over = now_ns - self.steady_at_ns >= FIRST_S * NS
        if self.phase in _DOUBLING_S and self.share >= 1.0 and is_first_over:
            self._settle(now_ns)

    def hit(self, used: float, now_ns: int) -> bool:
        """The shard throttled, and this quota seems to be the short one: no growth until the
        interval is over. `used`: the share that was really sent. True if a new interval is to
        begin, for a share that fell at once.
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
        """A second is over in which the shard throttled `part` (0..1) of what it was sent.

        `used`: the share that was really sent; what nobody wanted to send says nothing.
        `is_single`: all of it in one call. `is_alone`: almost the whole quota was ours.
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
        """Back to about the beginning, as all that began together."""
        reached = min(self.share, used)
        self.share = min(self.share, max(LEVEL_SHARE, reached * LEVEL_PART))
        self.phase = Phase.LEVEL
        self.steady_at_ns = self.grown_at_ns = now_ns

    def _fall(self, part: float, used: float, now_ns: int, *, is_single: bool) -> None:
        """Not all of a part is believed at once: it may be one call's bad luck, or of the second
        that the last fall was in the middle of, which was lost before it. Small shares are many,
        and their luck evens out; who has almost everything is to make room.
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
        """Of the quota, a second."""
        share = self.share
        size = float((share * 8.0) ** GROWTH_POWER)
        growth = GROWTH * (1.0 + GROWTH_YOUNG * self._youth(now_ns)) * size
        distance = share - self.limit
        if distance < 0:
            return growth - RETURN_RATE * distance
        return growth + LEAVE_RATE * min(distance, LEAVE_DISTANCE_MAX) * min(1.0, 2.0 * share)

    def _youth(self, now_ns: int) -> float:
        """1 when it became steady, falling to 0."""
        return exp((self.steady_at_ns - now_ns) / (YOUTH_S * NS))

    def _settle(self, now_ns: int) -> None:
        self.phase = Phase.STEADY
        self.steady_at_ns = now_ns
