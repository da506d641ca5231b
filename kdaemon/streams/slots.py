"""Which streams give their slots up: for another stream, or because nobody has a use for them.

`streams_max` bounds all streams. A listed stream keeps its slot, and so does a stream that is not
idle. Knows what streams say of themselves; closes none.
Where it sits: `registry.py` asks before it opens a stream, and every second or so.
"""

from collections.abc import Collection, Iterable

from kdaemon.base.counters import RefuseReason
from kdaemon.base.refused import Refused
from kdaemon.config import Config
from kdaemon.streams.stream import Stream

UPSTREAM_TIMES = 3
"""Of several upstreams, one may have so many times the memory that is left, and its unlisted
streams so many times the slots that are left. Ours, 2026-11-28: the same rule as for one stream
among others."""

FORGOTTEN_NS = 60_000_000_000
"""60 s: so long a useless stream (`Stream.is_useless`) stays after its last record, for people to
see. Ours, 2026-11-29: less than the two minutes after which a hold alerts, so that one request with
a misspelt name wakes nobody, and a client that goes on sending does."""


def in_the_way(
    streams: Collection[Stream], config: Config, upstream: str, *, is_listed: bool
) -> list[Stream] | None:
    """The streams, of all that are open, to close for one more stream of this upstream: idle
    unlisted ones, first those that turned out not to exist, then those of the same upstream. None:
    there is no slot, for all of these together are too few.
    """
    is_bounded = not is_listed and bool(config.upstreams)
    unlisted = [each for each in streams if not each.is_listed]
    left = config.streams_max - len(streams)
    own = sum(each.target.upstream == upstream for each in unlisted)

    def is_enough() -> bool:
        """Of several upstreams, one that is down has unlisted streams that are never idle: these
        must leave slots to the others.
        """
        return own < UPSTREAM_TIMES * left if is_bounded else left > 0

    if is_enough():
        return []
    idle = [each for each in unlisted if each.is_idle]
    idle.sort(key=lambda each: (not each.inquiry.was_missing, each.target.upstream != upstream))
    for count, each in enumerate(idle, 1):
        left += 1
        own -= each.target.upstream == upstream
        if is_enough():
            return idle[:count]
    return None


def no_slot(name: str, used: int, streams_max: int) -> Refused:
    """Refusal of a stream for which there is no slot. `used`: how many streams are open."""
    text = (
        f"kdaemon has {used} streams in use, of {streams_max} (streams_max): stream {name} is not"
        " taken now."
    )
    if used < streams_max:
        text += " Unlisted streams of one upstream leave slots to the others: list it."
    return Refused(RefuseReason.SLOTS, "LimitExceededException", text, is_permanent=False)


class Useless:
    """The useless streams of the last look: how many records each had received, and since when."""

    def __init__(self) -> None:
        self._seen: dict[Stream, tuple[int, int]] = {}

    def look(self, streams: Iterable[Stream], now_ns: int) -> list[Stream]:
        """The streams, of all that are open, for which nobody has sent a record for FORGOTTEN_NS
        and nobody has a use. The caller closes them.
        """
        before, self._seen = self._seen, {}
        forgotten: list[Stream] = []
        for stream in streams:
            if not stream.is_useless:
                continue
            received, since_ns = before.get(stream, (-1, now_ns))
            if received != stream.counters.received:
                received, since_ns = stream.counters.received, now_ns
            if now_ns - since_ns >= FORGOTTEN_NS:
                forgotten.append(stream)
            else:
                self._seen[stream] = received, since_ns
        return forgotten
