"""Which keys fill one shard, and where in its range: a heavy-hitter sketch of bounded memory.

About: records that were routed to a hot shard, by key; an explicit hash key counts as a key of its
own. Misra and Gries's algorithm with weights: a new key that finds no room makes all keys give up
the median of what they have, and those with nothing left are forgotten (as Anderson et al., "A
High-Performance Algorithm for Identifying Frequent Items in Data Streams", 2017). So a record costs
a lookup, amortised. Pure; knows nothing of lanes, rates or time.
Invariant: a key with more than 2/KEYS_MAX of all weight is there; what is told of a key is at most
that part less than what came. Of the past, half is forgotten at each `decay`.
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
"""Keys in a sketch: 0.15 MiB with usual keys, 0.7 with the longest. A key with 0.4 % of a shard is
found for certain. Ours, 2026-11-28."""

SLICES = 256  # of a shard's range, in which weight is counted, to split it by; ours, 2026-11-28

RECORD_BYTES = 1_048
"""What a record weighs beside its bytes: its part of a shard's 1,000 records a second is that of so
many bytes of its 1 MiB a second. Ours, 2026-11-28."""

Key = str | int  # a partition key; an explicit hash key


class _Tally:
    """Of one key. `credit`: its weight less what it gave up. `place`: the slice of the range."""

    __slots__ = ("byte_count", "credit", "place", "records")

    def __init__(self, place: int) -> None:
        self.credit = 0.0
        self.records = 0.0
        self.byte_count = 0.0
        self.place = place

    @property
    def weight(self) -> float:
        return self.byte_count + RECORD_BYTES * self.records


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A key, and its part of what came for the shard: of the records and of the bytes, 0..1."""

    key: Key
    records_part: float
    bytes_part: float


@dataclass(frozen=True, slots=True)
class Split:
    """Where to split a shard: the first hash key of the upper half, and the part of what came that
    falls below, 0..1.
    """

    hash_key: int
    part_below: float


class KeySketch:
    """Of one shard. `records`, `byte_count`: all that came, less what is forgotten of the past."""

    __slots__ = ("_first", "_places", "_tallies", "_width", "byte_count", "records")

    def __init__(self, shard: OpenShard) -> None:
        self._first = shard.first_hash_key
        self._width = shard.last_hash_key - shard.first_hash_key + 1
        self._places = [0.0] * SLICES
        self._tallies: dict[Key, _Tally] = {}
        self.records = 0.0
        self.byte_count = 0.0

    def see(self, records: Sequence[Record], sizes: Sequence[int], indices: Sequence[int]) -> None:
        """Some records of a frame came for the shard, each with a key or an explicit hash key.
        `sizes`: data + partition key, of all records of the frame.
        """
        tallies, places = self._tallies, self._places
        for index in indices:
            record = records[index]
            size = sizes[index]
            explicit = record.explicit_hash_key
            key = record.partition_key if explicit is None else int(explicit)
            tally = tallies.get(key)
            if tally is None:
                if len(tallies) >= KEYS_MAX:
                    self._make_room()
                tally = tallies[key] = _Tally(self._place(key))
            weight = size + RECORD_BYTES
            tally.credit += weight
            tally.records += 1
            tally.byte_count += size
            places[tally.place] += weight
            self.byte_count += size
        self.records += len(indices)

    def heaviest(self, count: int) -> list[KeyPart]:
        """At most `count` keys, the heaviest first."""
        found = nlargest(count, self._tallies.items(), key=lambda item: item[1].weight)
        records, byte_count = max(1.0, self.records), max(1.0, self.byte_count)
        return [
            KeyPart(key, tally.records / records, tally.byte_count / byte_count)
            for key, tally in found
        ]

    def split(self) -> Split | None:
        """Where both halves get the most equal parts; None: nothing came, or the range is one hash
        key.
        """
        total = sum(self._places)
        below = 0.0
        best: Split | None = None
        for number, weight in enumerate(self._places[:-1], 1):
            below += weight
            at = -(-number * self._width // SLICES)
            if not total or not 0 < at < self._width:
                continue
            part = below / total
            if best is None or abs(part - 0.5) < abs(best.part_below - 0.5):
                best = Split(self._first + at, part)
        return best

    def decay(self) -> None:
        """Half of all that came is forgotten."""
        self.records /= 2
        self.byte_count /= 2
        self._places = [weight / 2 for weight in self._places]
        for tally in self._tallies.values():
            tally.credit /= 2
            tally.records /= 2
            tally.byte_count /= 2

    def _make_room(self) -> None:
        """At least half of the keys are forgotten: those with no more than the median."""
        tallies = self._tallies
        median = sorted([tally.credit for tally in tallies.values()])[len(tallies) // 2]
        for key, tally in [*tallies.items()]:
            tally.credit -= median
            if tally.credit <= 0:
                del tallies[key]

    def _place(self, key: Key) -> int:
        hash_key = key if isinstance(key, int) else _hash_of(key)
        return min(max(0, (hash_key - self._first) * SLICES // self._width), SLICES - 1)


def _hash_of(partition_key: str) -> int:
    digest = md5(partition_key.encode()).digest()  # noqa: S324 - the service's hash
    return int.from_bytes(digest, "big")
