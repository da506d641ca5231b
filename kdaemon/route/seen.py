"""How many shards a stream has, learnt from answers, where we may not ask for the map.

The answer of a record names its shard. The stream is paced for the number of shards seen lately.
Bound: one entry for each shard seen in the last two minutes.
"""

from collections.abc import Iterable

from kdaemon.base.record import RecordResult

GENERATION_NS = 60_000_000_000  # a shard that took nothing for one to two minutes may be closed


class SeenShards:
    """Ids of shards, in two generations. `count`: of both together."""

    __slots__ = ("_began_ns", "_old", "_young", "count")

    def __init__(self) -> None:
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._began_ns = 0
        self.count = 0

    def see(self, answers: Iterable[RecordResult], now_ns: int) -> bool:
        """Notes the shards of these answers; returns whether the count changed."""
        if now_ns - self._began_ns > GENERATION_NS:
            self._old, self._young, self._began_ns = self._young, set(), now_ns
        self._young.update([result.shard_id for result in answers if result.shard_id])
        before, self.count = self.count, len(self._young | self._old)
        return self.count != before
