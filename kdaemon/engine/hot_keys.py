"""Which keys fill the hot shards of a stream: which shards are watched, and what is known of them.

Each lane that was hot at a look has a sketch (`route/sketch.py`) while it is hot, and a little
longer. While no shard is hot, this costs one comparison a frame. The sketch counts the records that
come: those that are queued, and those that are refused because their shard is full. A client that
repeats refused records counts again. Records without a key go where there is room, and are not
counted.
Bound: WATCHED_MAX lanes, and the caller's number. Knows lanes, runs and quotas; writes no text.
Flow: observe/hot.py says which lanes are hot; engine.py shows new runs; status and log ask.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdaemon.base.description import OpenShard
from kdaemon.base.steps import Steps
from kdaemon.pace.bucket import NS_PER_SECOND
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.run import Run
from kdaemon.route.sketch import KeyPart, KeySketch, Split

HEAVIEST_MAX = 10  # keys that are reported of a shard; ours: they fit a screen, 2026-11-28

CALM_LOOKS_MAX = 6
"""A watched shard may have been calm at this many looks in a row: a minute. A shard at its limit is
calm now and then. Ours, 2026-11-28."""

WATCHED_MAX = 8
"""Watched shards of one stream: those that are reported as hottest, and some that were before.
Ours, 2026-11-28."""

SPLIT_NS = 5 * NS_PER_SECOND  # the split point is worked out anew after this; ours, 2026-11-28

LOOKED_NS_MIN = (
    NS_PER_SECOND  # of watching before a report: less time says nothing; ours, 2026-11-28
)


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """The latest input of a hot shard, a second, and the keys that bring most of it.

    `quota_part`: the input as a part of what kdaemon may use of one shard, in records or in bytes,
    whichever part is larger: above 1, the shard cannot take it. `is_of_bytes`: the part is of
    bytes.
    """

    records_per_second: float
    bytes_per_second: float
    quota_part: float
    is_of_bytes: bool
    keys: tuple[KeyPart, ...]
    split: Split | None

    def part_of(self, key: KeyPart) -> float:
        """A key's part of the input, 0..1: of bytes or of records, whichever is short."""
        return key.bytes_part if self.is_of_bytes else key.records_part


@dataclass(slots=True)
class _Watched:
    """`elapsed_ns`: how long the sketch has counted; half of the past is forgotten at each look, as
    in the sketch.
    """

    sketch: KeySketch
    since_ns: int
    elapsed_ns: int = 0
    calm_looks: int = 0
    split: Split | None = None
    split_ns: int | None = None  # when `split` was worked out

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
    """The watched shards of one stream. `is_on`: a shard is watched, so that the engine must call
    `see`.
    """

    __slots__ = ("_is_joined", "is_on", "watched")

    def __init__(self, *, is_joined: bool = False) -> None:
        """`is_joined`: records go out in aggregates, and each aggregate is one record to the
        shard.
        """
        self._is_joined = is_joined
        self.watched: dict[Lane, _Watched] = {}
        self.is_on = False

    def see(self, runs: Iterable[Run]) -> None:
        """Counts new runs."""
        for run in runs:
            watched = self.watched.get(run.lane)
            if watched is not None and not run.is_keyless:
                frame = run.frame
                watched.sketch.see(frame.records, frame.sizes, run.indices)

    def watch(self, hot: Mapping[Lane, OpenShard], watched_max: int, now_ns: int) -> int:
        """A look found these lanes hot; the hottest comes first. Returns how many lanes are watched
        now: at most `watched_max`, or as many as were before.
        """
        for lane, watched in [*self.watched.items()]:
            watched.look(now_ns, is_hot=lane in hot)
            if watched.calm_looks > CALM_LOOKS_MAX or lane.state is LaneState.RETIRED:
                del self.watched[lane]
        calm = [lane for lane in self.watched if lane not in hot]
        for lane, shard in hot.items():
            if lane in self.watched:
                continue
            if len(self.watched) >= min(watched_max, WATCHED_MAX):
                if not calm:
                    break
                del self.watched[calm.pop()]
            self.watched[lane] = _Watched(KeySketch(shard, is_joined=self._is_joined), now_ns)
        self.is_on = bool(self.watched)
        return len(self.watched)

    def loads(
        self, records_per_second: int, bytes_per_second: int, aggregate_bytes_max: int, now_ns: int
    ) -> Steps[dict[str, ShardLoad]]:
        """The loads by shard, of shards that are watched for long enough; one shard a step. Rates:
        what kdaemon may use of one shard. `aggregate_bytes_max`: as the packer's. The input is
        reported as it came, and its part of the quota as it goes out.
        """
        loads: dict[str, ShardLoad] = {}
        for lane, watched in [*self.watched.items()]:
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
