"""Calls that change a stream while records come in: its shards, its limits.

Pure. As in `control.py`, each function takes the catalogue, a payload and the time, and its change
is done when it is answered. Knows what each service allows; `shards.py` knows how shards split and
merge, `capacity.py` a stream's mode. Invariant: a refused call has changed nothing.
"""

from kdaemon.base.limits import KIB
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.capacity import require_on_demand
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.control import (
    DISTRIBUTIONS,
    RECORD_KIB_MAX,
    RECORD_KIB_MIN,
)
from kdaemon.sandbox.payload import HASH_KEY, SHARD_ID_PATTERN, Payload, refuse
from kdaemon.sandbox.shards import Shard, Stream

SHARDS_MAX = 10_000  # TargetShardCount of UpdateShardCount [M]


def split_shard(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """SplitShard: closes the shard and opens two. Raises ServiceError if the hash key is not well
    inside the shard's range; then nothing is changed.
    """
    stream = catalogue.find_in(payload)
    _require_provisioned(catalogue, stream)
    shard = _open_shard(catalogue, stream, payload.text("ShardToSplit", SHARD_ID_PATTERN))
    key = int(payload.text("NewStartingHashKey", HASH_KEY))
    if not shard.starting_hash_key + 1 < key < shard.ending_hash_key:
        raise refuse(
            "InvalidArgumentException",
            f"NewStartingHashKey {key} used in SplitShard() on shard {shard.shard_id} in stream "
            f"{stream.name} under account {catalogue.settings.account} is not both greater than "
            f"one plus the shard's StartingHashKey {shard.starting_hash_key} and less than the "
            f"shard's EndingHashKey {shard.ending_hash_key}.",
        )
    catalogue.require_room_for_shards(2)
    stream.split(shard, key, now_ns)
    return {}


def merge_shards(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """MergeShards: closes two shards and opens one. ServiceError if they are not adjacent."""
    stream = catalogue.find_in(payload)
    _require_provisioned(catalogue, stream)
    shards = [
        _open_shard(catalogue, stream, payload.text(member, SHARD_ID_PATTERN))
        for member in ("ShardToMerge", "AdjacentShardToMerge")
    ]
    lower, upper = sorted(shards, key=lambda shard: shard.starting_hash_key)
    if lower.ending_hash_key + 1 != upper.starting_hash_key:
        raise refuse(
            "InvalidArgumentException",
            f"Shards {shards[0].shard_id} and {shards[1].shard_id} in stream {stream.name} under "
            f"account {catalogue.settings.account} are not an adjacent pair of shards eligible "
            "for merging",
        )
    catalogue.require_room_for_shards(1)
    stream.merge(lower, upper, now_ns)
    return {}


def update_shard_count(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """AWS: from half to twice the open shards. Yandex: never fewer, and only of static streams."""
    stream = catalogue.find_in(payload)
    current = len(stream.open_shards)
    is_yandex = catalogue.settings.service is YANDEX
    if not is_yandex or "ScalingType" in payload:
        payload.choice("ScalingType", ("UNIFORM_SCALING",))
    target = payload.integer("TargetShardCount", 1, SHARDS_MAX)
    if is_yandex:
        _check_growth(stream, target)
    else:
        _require_provisioned(catalogue, stream)
        _check_scaling(current, target)
    catalogue.require_room_for_shards(
        stream.shards_added_by_resize(target) if target != current else 0
    )
    stream.resize(target, now_ns)
    return {
        "StreamName": stream.name,
        "StreamARN": catalogue.arn_of(stream.name),
        "CurrentShardCount": current,
        "TargetShardCount": target,
    }


def _check_scaling(current: int, target: int) -> None:
    if current <= 2 * target and target <= 2 * current:
        return
    bound = "more than double" if target > current else "less than half of"
    raise refuse(  # AWS's own code for this is not verified
        "LimitExceededException",
        f"UpdateShardCount cannot scale {bound} the current open shard count. "
        f"Current open shard count: {current} Target shard count: {target}",
    )


def _check_growth(stream: Stream, target: int) -> None:
    """The check of Yandex [YS: `ValidateShardsCount`]. Its answer for a stream that splits by
    itself is not verified.
    """
    if stream.can_split:
        raise refuse(
            "InvalidArgumentException",
            "<main>: Error: The shard count of a stream with auto-partitioning is not set, "
            "code: 500040\n",
        )
    if target < len(stream.shards):
        raise refuse(
            "InvalidArgumentException",
            "<main>: Error: Shard count must be non-decreasing, old value is "
            f"{len(stream.shards)} new value is {target}, code: 500040\n",
        )


def _require_provisioned(catalogue: Catalogue, stream: Stream) -> None:
    """Refuses on-demand streams: only the service changes their shards [M]."""
    if stream.is_on_demand:
        raise refuse(
            "ValidationException",
            f"Request is invalid. Stream {stream.name} under account {catalogue.settings.account} "
            "is in On-Demand mode.",
        )


def split_unasked(catalogue: Catalogue, stream: Stream, shard_id: str, now_ns: int) -> None:
    """Halves a shard, as the service does by itself when a stream's load grows."""
    shard = _open_shard(catalogue, stream, shard_id)
    if not stream.can_split:
        raise refuse(
            "InvalidArgumentException",
            f"Stream {stream.name} is static: it has no auto-partitioning, its shards never split.",
        )
    middle = (shard.starting_hash_key + shard.ending_hash_key + 1) // 2
    if middle == shard.starting_hash_key:
        raise refuse(
            "InvalidArgumentException", f"Shard {shard_id} holds one hash key: it cannot split."
        )
    catalogue.require_room_for_shards(2)
    stream.split(shard, middle, now_ns)


def update_max_record_size(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """UpdateMaxRecordSize: in force from the next call on."""
    stream = catalogue.find_by_arn(payload)
    kib = payload.integer("MaxRecordSizeInKiB", RECORD_KIB_MIN, RECORD_KIB_MAX)
    stream.record_bytes_max = kib * KIB
    return {}


def update_distribution(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """UpdateStreamRecordDistributionStrategy: in force at once; stored records stay where they are
    [M].
    """
    stream = catalogue.find_by_arn(payload)
    is_auto = payload.choice("RecordDistributionStrategy", DISTRIBUTIONS) == "AUTO"
    require_on_demand(stream.name, is_auto=is_auto, is_on_demand=stream.is_on_demand)
    stream.is_auto = is_auto
    return {}


def _open_shard(catalogue: Catalogue, stream: Stream, shard_id: str) -> Shard:
    """The shard. ResourceNotFoundException if it is unknown, ResourceInUseException if closed."""
    where = f"in stream {stream.name} under account {catalogue.settings.account}"
    shard = stream.find(shard_id)
    if shard is None:
        raise refuse("ResourceNotFoundException", f"Could not find shard {shard_id} {where}.")
    if not shard.is_open:
        raise refuse(
            "ResourceInUseException", f"Shard {shard_id} {where} is closed and cannot be changed."
        )
    return shard
