"""Which keys fill the hot shards of a stream: who is watched, and what is known of them.

About: a sketch (`route/sketch.py`) for each lane that was hot at a look, and for as long as it is,
and a little longer. While no shard is hot, this costs one comparison a frame. What counts is what
comes: what is queued, and what is refused because its shard is full; a client that repeats what was
refused counts again. Records without a key go where there is room and are not looked at.
Bound: WATCHED_MAX lanes, and the caller's number. Knows lanes, runs and quotas; says nothing.
Flow: observe/hot.py says which lanes; engine.py shows what comes; status and log ask.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdaemon.base.description import OpenShard
from kdaemon.base.steps import Steps
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.run import Run
from kdaemon.route.sketch import KeyPart, KeySketch, Split

HEAVIEST_MAX = 10  # keys that are told of a shard; ours: what fits a screen, 2026-11-28

CALM_LOOKS_MAX = 6
"""Looks at which a watched shard may have been calm: a minute. A shard at its limit is calm now and
then. Ours, 2026-11-28."""

WATCHED_MAX = 8
"""Shards of one stream: those that are told of as hottest, and some that were before. Ours,
2026-11-28."""

NS_PER_SECOND = 1_000_000_000  # nanoseconds in a second

SPLIT_NS = 5 * NS_PER_SECOND  # where to split is worked out anew after so long; ours, 2026-11-28

LOOKED_NS_MIN = (
    NS_PER_SECOND  # of watching, before anything is told: less says nothing; ours, 2026-11-28
)


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What comes for a hot shard of late, a second, and the keys that bring most of it.

    `quota_part`: of what kdaemon may use of one shard, of records or of bytes, whichever is more:
    above 1, the shard cannot take it. `is_of_bytes`: which it is.
    """

    records_per_second: float
    bytes_per_second: float
    quota_part: float
    is_of_bytes: bool
    keys: tuple[KeyPart, ...]
    split: Split | None

    def part_of(self, key: KeyPart) -> float:
        """A key's part of what comes, 0..1, of that which is short."""
        return key.bytes_part if self.is_of_bytes else key.records_part


@dataclass(slots=True)
class _Watched:
    """`elapsed_ns`: how long the sketch has counted, with half of the past forgotten as there."""

    sketch: KeySketch
    since_ns: int
    elapsed_ns: int = 0
    calm_looks: int = 0
    split: Split | None = None
    split_ns: int | None = None  # when it was worked out

    def look(self, now_ns: int, *, is_hot: bool) -> None:
        self.sketch.decay()
        self.elapsed_ns = (self.elapsed_ns + now_ns - self.since_ns) // 2
        self.since_ns = now_ns
        self.calm_looks = 0 if is_hot else self.calm_looks + 1

    def split_at(self, now_ns: int) -> Split | None:
        if self.split_ns is None or now_ns - self.split_ns >= SPLIT_NS:
            self.split, self.split_ns = self.sketch.split(), now_ns
        return self.split


class HotKeys:
    """Of one stream. `is_on`: a shard is watched, so that what comes is to be shown to `see`."""

    __slots__ = ("_is_joined", "_watched", "is_on")

    def __init__(self, *, is_joined: bool = False) -> None:
        """`is_joined`: records go out in aggregates, of which each is one record to the shard."""
        self._is_joined = is_joined
        self._watched: dict[Lane, _Watched] = {}
        self.is_on = False

    def see(self, runs: Iterable[Run]) -> None:
        """These came."""
        for run in runs:
            watched = self._watched.get(run.lane)
            if watched is not None and not run.is_keyless:
                frame = run.frame
                watched.sketch.see(frame.records, frame.sizes, run.indices)

    def watch(self, hot: Mapping[Lane, OpenShard], watched_max: int, now_ns: int) -> int:
        """A look found these lanes hot, the hottest first. Returns how many are watched now: at
        most `watched_max`, or as many as were before.
        """
        for lane, watched in [*self._watched.items()]:
            watched.look(now_ns, is_hot=lane in hot)
            if watched.calm_looks > CALM_LOOKS_MAX or lane.state is LaneState.RETIRED:
                del self._watched[lane]
        calm = [lane for lane in self._watched if lane not in hot]
        for lane, shard in hot.items():
            if lane in self._watched:
                continue
            if len(self._watched) >= min(watched_max, WATCHED_MAX):
                if not calm:
                    break
                del self._watched[calm.pop()]
            self._watched[lane] = _Watched(KeySketch(shard, is_joined=self._is_joined), now_ns)
        self.is_on = bool(self._watched)
        return len(self._watched)

    def loads(
        self, records_per_second: int, bytes_per_second: int, aggregate_bytes_max: int, now_ns: int
    ) -> Steps[dict[str, ShardLoad]]:
        """By shard, of those that are watched for long enough, a shard a step. Rates: what kdaemon
        may use of one shard. `aggregate_bytes_max`: as the packer's: what comes is told as it came,
        and its part of the quota as it goes out.
        """
        loads: dict[str, ShardLoad] = {}
        for lane, watched in [*self._watched.items()]:
            elapsed_ns = watched.elapsed_ns + now_ns - watched.since_ns
            sketch = watched.sketch
            records = sketch.records * NS_PER_SECOND / max(1, elapsed_ns)
            if lane.shard_id is None or elapsed_ns < LOOKED_NS_MIN or not records:
                continue
            byte_count = sketch.byte_count * NS_PER_SECOND / elapsed_ns
            sent = min(records, byte_count / aggregate_bytes_max) if self._is_joined else records
            of_records, of_bytes = sent / records_per_second, byte_count / bytes_per_second
            loads[lane.shard_id] = ShardLoad(
                records,
                byte_count,
                max(of_records, of_bytes),
                of_bytes > of_records,
                tuple(sketch.heaviest(HEAVIEST_MAX)),
                watched.split_at(now_ns),
            )
            yield
        return loads
