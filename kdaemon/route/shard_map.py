"""Which open shard takes a record: MD5 of its partition key, or its explicit hash key, over ranges.

A map never changes, except for its cache of keys; a new map replaces it in one assignment. Knows
nothing of queues or rates. Source of the rule: [M][YS], as in `base/limits.py` (ranges are
inclusive; MD5 of the UTF-8 key, big-endian).
"""

from bisect import bisect_left
from collections.abc import Sequence

from kdaemon.base.description import OpenShard
from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.base.record import Record

try:
    from _md5 import md5  # type: ignore[import-not-found]  # half the cost of hashlib's
except ImportError:  # pragma: no cover - a build without it
    from hashlib import md5

KEY_CACHE_MAX = 8_192
"""Keys in one generation of the cache. Two generations of keys with 64 characters take about 3 MiB
a stream at worst; a hit costs a tenth of MD5 and a search (measured 2026-11-21: 60 against 550
ns)."""

KEY_CACHE_CHARACTERS_MAX = 64  # there are seldom few longer keys, and keeping them is expensive

UNCACHED_GROUPS = 7
"""After a group with mostly new keys, although a generation had been full, so many groups do not
use the cache: where keys do not repeat, it costs a third of a route. So one group in eight tries
the cache, and fills it. Ours, 2026-11-28."""

JUDGED_MIN = 16  # the least records of a group by which the cache is judged; ours, 2026-11-28

SPREAD_KEYS = 10**SPREAD_KEY_BYTES
"""A record without a key gets one of this many keys (consumers that work in parallel by key, as AWS
Lambda does, need more than one)."""

ANY_SHARD = -1  # the "index" for a record without any key: any shard that has room


def keyless_key(count: int) -> str:
    """The partition key for the `count`th record that came without one."""
    return str(count % SPREAD_KEYS)


class ShardMap:
    """The open shards of a stream, in the order of their ranges.

    `shards` covers 0..2**128-1 without gaps, if the service told the truth. A hash key beyond the
    last range goes to the last shard (the service decides in any case, and its answer corrects us).
    """

    __slots__ = (
        "_ends",
        "_old",
        "_uncached_groups",
        "_young",
        "has_explicit",
        "has_unnamed",
        "hash_keys",
        "shards",
    )

    def __init__(self, shards: Sequence[OpenShard]) -> None:
        """`shards`: at least one."""
        self.shards = tuple(sorted(shards, key=lambda shard: shard.last_hash_key))
        self._ends = [shard.last_hash_key.to_bytes(16, "big") for shard in self.shards[:-1]]
        # For each shard, a hash key well inside its range, as the wire has it: the middle, never
        # the end, which YDS sends to the next shard [YS].
        self.hash_keys = [
            str((shard.first_hash_key + shard.last_hash_key) // 2) for shard in self.shards
        ]
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._uncached_groups = 0  # coming groups that do not use the cache
        self.has_explicit = False  # there was a record with an explicit hash key
        self.has_unnamed = False  # there was one with that and no partition key

    def index_of_hash_key(self, hash_key: int) -> int:
        """Index into `shards` of the shard whose range holds `hash_key` (0..2**128-1)."""
        return bisect_left(self._ends, hash_key.to_bytes(16, "big"))

    def index_of_key(self, partition_key: str) -> int:
        """Index into `shards` for a partition key; remembered if the key is short."""
        index = self._young.get(partition_key)
        if index is None:
            index = self._old.get(partition_key)
            if index is None:
                digest = md5(partition_key.encode()).digest()  # noqa: S324 - the service's hash
                index = bisect_left(self._ends, digest)
            if len(partition_key) <= KEY_CACHE_CHARACTERS_MAX:
                self._young[partition_key] = index
                self._age_cache()
        return index

    def _age_cache(self) -> None:
        """When the young generation is full, it becomes the old one, which is forgotten."""
        if len(self._young) >= KEY_CACHE_MAX:
            self._old = self._young
            self._young = {}

    def index_of(self, record: Record) -> int:
        """Index into `shards` of the shard that takes this record; ANY_SHARD if it has neither a
        partition key nor an explicit hash key. Changes no record.
        """
        if record.explicit_hash_key is None:
            if record.partition_key:
                return self.index_of_key(record.partition_key)
            return ANY_SHARD
        self.has_explicit = True
        if not record.partition_key:
            self.has_unnamed = True
        return self.index_of_hash_key(int(record.explicit_hash_key))

    def group(self, records: list[Record]) -> dict[int, list[int]]:
        """Indices of `records` by shard index, each in the order of `records`. As `index_of`.

        The hot path: `index_of_key` is written out here, and the cache is aged only once (it may
        exceed its bound by the records of one request).
        """
        if self._uncached_groups and len(records) >= JUDGED_MIN:
            self._uncached_groups -= 1
            return self._group_uncached(records)
        new_count = 0
        groups: dict[int, list[int]] = {}
        ends = self._ends
        young = self._young
        young_get = young.get
        old_get = self._old.get
        for index, record in enumerate(records):
            key = record.partition_key
            if record.explicit_hash_key is None and key:
                shard = young_get(key)
                if shard is None:
                    shard = old_get(key)
                    if shard is None:
                        digest = md5(key.encode()).digest()  # noqa: S324 - the service's hash
                        shard = bisect_left(ends, digest)
                        new_count += 1
                    if len(key) <= KEY_CACHE_CHARACTERS_MAX:
                        young[key] = shard
            else:
                shard = self.index_of(record)
            group = groups.get(shard)
            if group is None:
                groups[shard] = [index]
            else:
                group.append(index)
        self._age_cache()
        if self._old and 2 * new_count > len(records) >= JUDGED_MIN:
            self._uncached_groups = UNCACHED_GROUPS
        return groups

    def audit(self) -> tuple[set[str], int]:
        """The keys that it keeps and finds at once, and how many groups to come do without them.
        Only for tests. Holds that no generation is larger than it may be.
        """
        assert max(len(self._young), len(self._old)) <= KEY_CACHE_MAX
        return set(self._young), self._uncached_groups

    def _group_uncached(self, records: list[Record]) -> dict[int, list[int]]:
        """As `group`, for keys that are most likely new."""
        groups: dict[int, list[int]] = {}
        ends = self._ends
        for index, record in enumerate(records):
            key = record.partition_key
            if record.explicit_hash_key is None and key:
                shard = bisect_left(ends, md5(key.encode()).digest())  # noqa: S324 - as above
            else:
                shard = self.index_of(record)
            group = groups.get(shard)
            if group is None:
                groups[shard] = [index]
            else:
                group.append(index)
        return groups


GOLDEN_HASH_STEP = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""2**128 divided by the golden ratio, made odd: its multiples modulo 2**128 are evenly spread
(Weyl's sequence)."""


def spread_hash_key(count: int) -> str:
    """The explicit hash key for the `count`th record without a key, where no shard is predicted."""
    return str(count * GOLDEN_HASH_STEP % 2**128)
