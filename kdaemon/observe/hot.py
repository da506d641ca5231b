"""Names hot shards in the log: shards that get more than they take.

About: a look at all streams every 10 s. A shard is named, with advice, if it was more than a second
behind at two looks in a row, answered in between, and did not catch up. In an outage no shard
answers, and after an outage the queues get shorter: neither is reported as heat. Knows streams as
reading.py reads them, and a clock. A look changes nothing but this: from then on the keys of hot
shards are watched, so that the second look can name the keys.
Bound: WATCHED_MAX shards are watched; HOT_SHARDS_MAX shards of each stream are remembered. A stream
with nothing queued costs nothing. One call takes SLICE_NS and one step; if that is too short for
all streams, the next calls look at the rest.
Flow: heartbeat.py -> here (and reading.py) -> the log.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kdaemon.base.ports import Clock
from kdaemon.base.steps import Steps
from kdaemon.engine.snapshot import BACKLOGGED_NS, EngineSnapshot, ShardSnapshot
from kdaemon.observe.keys import KEY_FIELD, advice, key_name
from kdaemon.observe.reading import SnapshotReader, StreamReading
from kdaemon.observe.slices import SLICE_NS
from kdaemon.observe.table import NS_PER_SECOND

LOOK_INTERVAL_NS = 10_000_000_000  # 10 s: shorter heat is a burst, and queues exist for bursts

TOLD_INTERVAL_NS = 60_000_000_000  # 60 s: between two lines about one stream; ours, 2026-11-21

CATCHING_UP = 0.2
"""A queue that gets shorter by this much time in each unit of time is what an outage left, and will
become empty. If it shortens less, at least four fifths of what the shard takes still comes in.
Ours, 2026-11-21: far above the wavering of a queue at its bound."""

WATCHED_MAX = 32
"""Shards whose keys are watched at one time, in all streams: 5 MiB with usual keys, 22 MiB with the
longest. Ours, 2026-11-28."""

log = logging.getLogger("kdaemon.observe")


class _Seen(NamedTuple):
    """A shard at a look. `answered`: records that it took or throttled, since it is known."""

    backlog_ns: int
    answered: int


@dataclass(frozen=True, slots=True)
class _Look:
    """The last look at a stream. `seen`: by shard. `told_ns`: when a line was last logged about the
    stream; None: never.
    """

    at_ns: int
    seen: Mapping[str | None, _Seen]
    told_ns: int | None


class HotWatch:
    """Looks at all streams when a look is due. `look` is to be called about once a second."""

    def __init__(self, reader: SnapshotReader, clock: Clock, *, shows_keys: bool = False) -> None:
        """`shows_keys`: keys are shown as text; otherwise as hashes."""
        self._reader = reader
        self.shows_keys = shows_keys
        self._clock = clock
        self._round_ns = clock.now_ns()  # when the present round of looks at all streams began
        self._left: list[StreamReading] = []  # streams of the round that were not looked at yet
        self._steps: Steps[None] | None = None  # of the look at the present stream
        self._looks: dict[str, _Look] = {}  # by stream
        self._watched: dict[str, int] = {}  # by stream: the number of shards whose keys are watched

    @property
    def is_looking(self) -> bool:
        """Whether a round is under way: streams are left to look at."""
        return bool(self._left) or self._steps is not None

    def audit(self) -> tuple[str, ...]:
        """The streams that it remembers. Only for tests."""
        return tuple(self._looks)

    def look(self) -> None:
        """Looks at some streams, if a look is due. Call it in the loop's thread only."""
        began_ns = self._clock.now_ns()
        if not self.is_looking:
            if began_ns - self._round_ns < LOOK_INTERVAL_NS:
                return
            self._round_ns = began_ns
            self._left = self._reader.streams()[::-1]
            names = {each.name for each in self._left}
            self._looks = {name: look for name, look in self._looks.items() if name in names}
            self._watched = {name: n for name, n in self._watched.items() if name in names}
        while self.is_looking:
            if self._steps is None:
                self._steps = self._look_at(self._left.pop())
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
            if self._clock.now_ns() - began_ns >= SLICE_NS:
                return

    def _look_at(self, reading: StreamReading) -> Steps[None]:
        name, now_ns = reading.name, self._clock.now_ns()
        then = self._looks.get(name) or _Look(now_ns, {}, None)
        if reading.is_idle:
            if self._watched.get(name):
                self._watched[name] = reading.watch((), WATCHED_MAX)
            self._looks[name] = _Look(now_ns, {}, then.told_ns)
            return
        stream = yield from reading.read()
        behind = [shard for shard in stream.hottest() if shard.backlog_ns > BACKLOGGED_NS]
        elapsed_ns = now_ns - then.at_ns
        hot = [
            shard
            for shard in behind
            if _stays_hot(shard, then.seen.get(shard.shard_id), elapsed_ns)
        ]
        told_ns = then.told_ns
        if hot and (told_ns is None or now_ns - told_ns >= TOLD_INTERVAL_NS):
            told_ns = now_ns
            _tell(name, hot[0], stream.engine, shows_keys=self.shows_keys)
        others = sum(self._watched.values()) - self._watched.get(name, 0)
        hottest = [shard.shard_id for shard in stream.hottest()]
        self._watched[name] = reading.watch(hottest, WATCHED_MAX - others)
        seen = {shard.shard_id: _seen(shard) for shard in behind}
        self._looks[name] = _Look(now_ns, seen, told_ns)


def _seen(shard: ShardSnapshot) -> _Seen:
    return _Seen(shard.backlog_ns, shard.taken + shard.throttled)


def _stays_hot(shard: ShardSnapshot, then: _Seen | None, elapsed_ns: int) -> bool:
    if then is None:
        return False
    now = _seen(shard)
    is_answering = now.answered > then.answered
    return is_answering and then.backlog_ns - now.backlog_ns < CATCHING_UP * elapsed_ns


def _tell(stream: str, shard: ShardSnapshot, engine: EngineSnapshot, *, shows_keys: bool) -> None:
    behind, count = engine.shards.backlogged_count, engine.shards.count
    fields = {
        "stream": stream,
        "shard_id": shard.shard_id,
        "backlog_seconds": round(shard.backlog_ns / NS_PER_SECOND, 1),
        "backlog_records": shard.backlog_records,
        "share": round(shard.share, 3),
        "shards_backlogged": f"{behind} of {count}",
    }
    load = engine.loads.get(shard.shard_id or "")
    if load is not None and load.keys:
        fields[KEY_FIELD] = key_name(load.keys[0].key, shows_keys=shows_keys)
    if behind == count and count > 1:
        text = "a stream is behind: more comes than its shards take; give it more shards"
        log.warning(text, extra={"fields": fields})
        return
    advised = "more comes for it than it takes; spread its keys, or split the shard"
    if load is not None:
        advised = advice(load, engine)
    log.warning("a shard is hot: %s", advised, extra={"fields": fields})
