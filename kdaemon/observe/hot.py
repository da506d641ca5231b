"""Says in the log which shard is hot: more comes for it than it takes, and somebody should know.

About: a look at all streams every 10 s. A shard that was more than a second behind at two looks
in a row, answered in between and did not catch up, is named, with what to do about it. In an outage
nothing answers, and after one the queues get shorter: neither is told as heat. Knows engines and a
clock; must not know records, and changes nothing by looking.
Bound: what it remembers is HOT_SHARDS_MAX shards of each stream. A stream with nothing queued costs
nothing. Flow: heartbeat.py -> here -> the log.
"""

import logging
from typing import NamedTuple

from kdaemon.base.ports import Clock
from kdaemon.engine.heat import BACKLOGGED_NS, ShardHeat, StreamHeat
from kdaemon.observe.metrics import Observed
from kdaemon.observe.table import HOT_SHARDS_MAX, NS
from kdaemon.pack.lane import Lane

LOOK_INTERVAL_NS = 10_000_000_000  # 10 s: shorter heat is a burst, which the queue is there for

TOLD_INTERVAL_NS = 60_000_000_000  # 60 s: between two lines of one stream; ours, 2026-11-21

CATCHING_UP = 0.2
"""A queue that gets shorter by this much time in each unit of time is what an outage left, and will
be gone; with less than that, at least four fifths of what the shard takes is still coming. Ours,
2026-11-21: far above what a queue at its bound wavers by."""

log = logging.getLogger("kdaemon.observe")


class _Seen(NamedTuple):
    """A shard at a look. `answered`: records that it took or throttled, ever."""

    backlog_ns: int
    answered: int


class HotWatch:
    """Looks when it is time to, at a call of `look`, which is to come about once a second."""

    def __init__(self, observed: Observed, clock: Clock) -> None:
        self._observed = observed
        self._clock = clock
        self._looked_ns = clock.now_ns()
        self._seen: dict[str, dict[Lane, _Seen]] = {}  # by stream, at the last look
        self._told_ns: dict[str, int] = {}  # by stream

    def look(self) -> None:
        """Call it in the loop's thread only."""
        now_ns = self._clock.now_ns()
        elapsed_ns = now_ns - self._looked_ns
        if elapsed_ns < LOOK_INTERVAL_NS:
            return
        self._looked_ns = now_ns
        before, self._seen = self._seen, {}
        told_ns, self._told_ns = self._told_ns, {}
        for name, engine in self._observed.engines():
            if name in told_ns:
                self._told_ns[name] = told_ns[name]
            if not engine.counters.buffered:
                continue
            heat = engine.heat(now_ns)
            behind = [
                shard for shard in heat.hottest(HOT_SHARDS_MAX) if shard.backlog_ns > BACKLOGGED_NS
            ]
            self._seen[name] = {shard.lane: _seen(shard) for shard in behind}
            then = before.get(name, {})
            hot = [shard for shard in behind if _stays_hot(shard, then.get(shard.lane), elapsed_ns)]
            told_at_ns = self._told_ns.get(name)
            if hot and (told_at_ns is None or now_ns - told_at_ns >= TOLD_INTERVAL_NS):
                self._told_ns[name] = now_ns
                _tell(name, hot[0], heat)


def _seen(shard: ShardHeat) -> _Seen:
    return _Seen(shard.backlog_ns, shard.lane.taken + shard.lane.throttled)


def _stays_hot(shard: ShardHeat, then: _Seen | None, elapsed_ns: int) -> bool:
    if then is None:
        return False
    now = _seen(shard)
    is_answering = now.answered > then.answered
    return is_answering and then.backlog_ns - now.backlog_ns < CATCHING_UP * elapsed_ns


def _tell(stream: str, shard: ShardHeat, heat: StreamHeat) -> None:
    lane, count = shard.lane, len(heat.shards)
    fields = {
        "stream": stream,
        "shard_id": lane.shard_id,
        "backlog_seconds": round(shard.backlog_ns / NS, 1),
        "backlog_records": lane.backlog_records,
        "share": round(shard.share, 3),
        "shards_backlogged": f"{heat.backlogged_count} of {count}",
    }
    if heat.backlogged_count == count:
        text = "a stream is behind: more comes than its shards take; give it more shards"
    else:
        text = (
            "a shard is hot: more comes for it than it takes; spread its keys, or split the shard"
        )
    log.warning(text, extra={"fields": fields})
