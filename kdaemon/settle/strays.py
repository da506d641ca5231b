"""Aggregates that landed on a shard that the map does not know yet.

A reader drops a whole aggregate if one of its keys lies outside the range of its shard. So an
aggregate on another shard than the predicted one is delivered only if all its keys lie in that
shard's range. While the range is unknown (the map is being asked for), this cannot be decided. Such
aggregates wait here, in flight for all other rooms, until the map knows the shard or STRAY_WAIT_NS
is over. Knows runs and maps, no lanes. Bound: the records that were in flight; a reshard causes
strays. Pure.
Where it sits: settlement makes strays, and judges them when the map changes or time passes.
"""

from dataclasses import dataclass
from enum import Enum

from kdaemon.base.record import Record, RecordResult
from kdaemon.pack.batch import Batch
from kdaemon.pack.kpl import hash_keys
from kdaemon.route.shard_map import ShardMap

STRAY_WAIT_NS = 5_000_000_000
"""5 s: a stale map is asked for again within 1.5 s. If the map does not know the shard by then, the
records are sent again: a duplicate for some readers is better than a loss for others."""


class Landing(Enum):
    """Where an aggregate landed."""

    INSIDE = "inside"  # all its keys lie in the shard's range
    OUTSIDE = "outside"
    UNKNOWN = "unknown"  # the map does not have the shard


def landing(records: list[Record], shard_id: str | None, shard_map: ShardMap | None) -> Landing:
    """Whether the shard of this name holds the keys of all these records."""
    shards = () if shard_map is None else shard_map.shards
    for shard in shards:
        if shard.shard_id == shard_id:
            is_inside = all(
                shard.first_hash_key <= hash_key <= shard.last_hash_key
                for hash_key in hash_keys(records)
            )
            return Landing.INSIDE if is_inside else Landing.OUTSIDE
    return Landing.UNKNOWN


@dataclass(slots=True, eq=False)
class Stray:
    """One aggregate, as a batch of its own, and its result."""

    batch: Batch
    result: RecordResult
    since_ns: int

    def due_at_ns(self) -> int:
        """When the records are sent again if the map still does not know the shard."""
        return self.since_ns + STRAY_WAIT_NS
