"""Which keys fill one shard, and where in its range: a heavy-hitter sketch of bounded memory.

About: records that were routed to a hot shard, by key; an explicit hash key counts as a key of its
own. Misra and Gries's algorithm with weights: a new key that finds no room takes the median credit
from all keys, and keys with nothing left are forgotten (as in Anderson et al., "A High-Performance
Algorithm for Identifying Frequent Items in Data Streams", 2017). So a record costs a lookup and two
additions, and a new key costs a part of a walk. Pure; knows nothing of lanes or time.
Invariant: a key with more than 2/KEYS_MAX of all weight is in the sketch; the told weight of a key
is less than its true weight by at most that part. Each `decay` forgets half of the past.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

from kdaemon.base.description import OpenShard
from kdaemon.base.record import Record

try:
    from _md5 import md5  # type: ignore[import-not-found]  # half the cost of hashlib's
except ImportError:  # pragma: no cover - a build without it
    from hashlib import md5

KEYS_MAX = 512
"""Keys in a sketch: 0.15 MiB with usual keys, 0.7 MiB with the longest. A key with 0.4 % of a shard
is found for certain. Ours, 2026-11-28."""

PLACED = 8  # of this many forgotten keys, the place of one is computed; ours, 2026-11-28

SLICES = 256  # parts of a shard's range in which weight is counted, for a split; ours, 2026-11-28

RECORD_BYTES = 1_048
"""The weight of a record beside its bytes: one of a shard's 1,000 records a second is worth this
many bytes of its 1 MiB a second. In aggregates only bytes count. Ours, 2026-11-28."""

Key = str | int  # a partition key; an explicit hash key


_Tally = list[float]
"""Of one key: records, bytes, and the floor when it came. A list, because a new key then costs half
as much as with an object. The key's credit is its weight and that floor, less the present floor."""


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A key, and its parts of what came for the shard: of the records and of the bytes, 0..1."""

    key: Key
    records_part: float
    bytes_part: float


@dataclass(frozen=True, slots=True)
class Split:
    """Where to split a shard: the first hash key of the upper half, and the part of the weight
    below it, 0..1.
    """

    hash_key: int
    part_below: float


class KeySketch:
    """The sketch of one shard."""

    __slots__ = (
        "_first",
        "_floor",
        "_gone_bytes",
        "_gone_records",
        "_places",
        "_record_bytes",
        "_tallies",
        "_width",
    )

    def __init__(self, shard: OpenShard, *, is_joined: bool = False) -> None:
        """`is_joined`: records are sent in aggregates."""
        self._record_bytes = 0 if is_joined else RECORD_BYTES
        self._first = shard.first_hash_key
        self._width = shard.last_hash_key - shard.first_hash_key + 1
        self._tallies: dict[Key, _Tally] = {}
        self._floor = 0.0  # the credit that a key which was there from the beginning has lost
        self._gone_records = 0.0  # of forgotten keys
        self._gone_bytes = 0.0
        self._places = [0.0] * SLICES  # weight of some forgotten keys, by slice

    def see(self, records: Sequence[Record], sizes: Sequence[int], indices: Sequence[int]) -> None:
        """Notes some records of a frame for the shard, each with a key or an explicit hash key.
        `sizes`: data + partition key, of all records of the frame.
        """
        tallies = self._tallies
        get = tallies.get
        for index in indices:
            record = records[index]
            explicit = record.explicit_hash_key
            key = record.partition_key if explicit is None else int(explicit)
            tally = get(key)
            if tally is not None:
                tally[0] += 1
                tally[1] += sizes[index]
                continue
            if len(tallies) >= KEYS_MAX:
                self._make_room()
            tallies[key] = [1, sizes[index], self._floor]

    @property
    def records(self) -> float:
        """All records that came, less the forgotten past."""
        return self._gone_records + sum([tally[0] for tally in self._tallies.values()])

    @property
    def byte_count(self) -> float:
        """All bytes that came, less the forgotten past."""
        return self._gone_bytes + sum([tally[1] for tally in self._tallies.values()])

    def heaviest(self, count: int) -> list[KeyPart]:
        """At most `count` keys, the heaviest first."""
        found = nlargest(count, self._tallies.items(), key=lambda item: self._weight(item[1]))
        records, byte_count = max(1.0, self.records), max(1.0, self.byte_count)
        return [KeyPart(key, tally[0] / records, tally[1] / byte_count) for key, tally in found]

    def audit(self) -> dict[Key, float]:
        """The weight of each key that it counts, at most KEYS_MAX. Only for tests."""
        assert len(self._tallies) <= KEYS_MAX
        return {key: self._weight(tally) for key, tally in self._tallies.items()}

    def split(self) -> Split | None:
        """The split that gives both halves the most equal parts. None: nothing came, or the range
        is one hash key. Takes 0.5 ms: it computes the place of each key.
        """
        seen = sum(self._places)
        gone = self._gone_bytes + self._record_bytes * self._gone_records
        places = [weight * gone / seen for weight in self._places] if seen else [0.0] * SLICES
        for key, tally in self._tallies.items():
            places[self._place(key)] += self._weight(tally)
        total = sum(places)
        below = 0.0
        best: Split | None = None
        for number, weight in enumerate(places[:-1], 1):
            below += weight
            at = -(-number * self._width // SLICES)
            if not total or not 0 < at < self._width:
                continue
            part = below / total
            if best is None or abs(part - 0.5) < abs(best.part_below - 0.5):
                best = Split(self._first + at, part)
        return best

    def decay(self) -> None:
        """Forgets half of all that came."""
        self._floor /= 2
        self._gone_records /= 2
        self._gone_bytes /= 2
        self._places = [weight / 2 for weight in self._places]
        for tally in self._tallies.values():
            tally[:] = [part / 2 for part in tally]

    def _make_room(self) -> None:
        """Forgets the keys with no more than the median credit: at least half of them."""
        tallies, record_bytes = self._tallies, self._record_bytes
        raised = [
            records * record_bytes + size + floor for records, size, floor in tallies.values()
        ]
        floor = self._floor = sorted(raised)[len(raised) // 2]
        gone = [item for item, each in zip(tallies.items(), raised, strict=True) if each <= floor]
        for key, tally in gone:
            del tallies[key]
            self._gone_records += tally[0]
            self._gone_bytes += tally[1]
        for key, tally in gone[::PLACED]:
            self._places[self._place(key)] += self._weight(tally)

    def _weight(self, tally: _Tally) -> float:
        return tally[1] + self._record_bytes * tally[0]

    def _place(self, key: Key) -> int:
        """The slice of the range that has the key."""
        hash_key = key if isinstance(key, int) else _hash_of(key)
        return min(max(0, (hash_key - self._first) * SLICES // self._width), SLICES - 1)


def _hash_of(partition_key: str) -> int:
    digest = md5(partition_key.encode()).digest()  # noqa: S324 - the service's hash
    return int.from_bytes(digest, "big")
