"""The control plane: making, describing, listing and resharding streams, as JSON payloads.

Pure. Each function takes the catalogue, a payload and the time, and returns the answer's members.
Streams are ACTIVE at once and resharding is done when it is answered: nothing here has to be waited
for, where the service shows CREATING and UPDATING for a while. Sits between `service.py` and
`catalogue.py`.
"""

import base64
from typing import TypeVar

import msgspec

from kdaemon.base.limits import KIB, RECORD_BYTES_MAX
from kdaemon.sandbox.catalogue import Catalogue
from kdaemon.sandbox.payload import (
    HASH_KEY,
    SHARD_ID_PATTERN,
    Payload,
    choice,
    integer,
    optional_text,
    refuse,
    structure,
    text,
    timestamp_ns,
)
from kdaemon.sandbox.settings import Flavour, Quota
from kdaemon.sandbox.shards import Shard, Stream

PAGE_MAX = 10_000  # shards or streams in one answer [M]
DESCRIBE_SHARDS_DEFAULT = 100  # DescribeStream without Limit [M]; also the most at Yandex [YD]
LIST_SHARDS_DEFAULT = 1_000  # ListShards without MaxResults [M]
LIST_STREAMS_DEFAULT = 100  # ListStreams without Limit [M]
NEXT_TOKEN_LIFETIME_NS = 300 * 1_000_000_000  # 300 seconds [M]
WRITE_QUOTAS_KIB_YANDEX = (128, 512, 1024)  # WriteQuotaKbPerSec of Yandex's CreateStream [YS]
RECORD_KIB_MIN, RECORD_KIB_MAX = 1024, 10240  # MaxRecordSizeInKiB [M]

FILTER_TYPES = (
    "AFTER_SHARD_ID",
    "AT_TRIM_HORIZON",
    "FROM_TRIM_HORIZON",
    "AT_LATEST",
    "AT_TIMESTAMP",
    "FROM_TIMESTAMP",
)

Answer = dict[str, object]
_Page = TypeVar("_Page", "_ListShardsPage", "_ListStreamsPage")


def create_stream(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    name = text(payload, "StreamName", catalogue.name_pattern)
    shard_count = integer(payload, "ShardCount", 1, PAGE_MAX, default=4)
    quota = None
    if catalogue.settings.flavour is Flavour.YANDEX:
        kib = integer(payload, "WriteQuotaKbPerSec", 1, 1024, default=1024)
        if kib not in WRITE_QUOTAS_KIB_YANDEX:
            raise refuse("ValidationException", "WriteQuotaKbPerSec is 128, 512 or 1024")
        if kib < 1024:
            quota = Quota(catalogue.settings.quota.records_per_second, kib * KIB)
    record_kib = integer(
        payload, "MaxRecordSizeInKiB", RECORD_KIB_MIN, RECORD_KIB_MAX, RECORD_BYTES_MAX // KIB
    )
    catalogue.create(name, shard_count, now_ns, record_bytes_max=record_kib * KIB, quota=quota)
    return {}


def delete_stream(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    catalogue.delete(catalogue.find_in(payload))
    return {}


def describe_stream(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    stream = catalogue.find_in(payload)
    is_yandex = catalogue.settings.flavour is Flavour.YANDEX
    most = DESCRIBE_SHARDS_DEFAULT if is_yandex else PAGE_MAX
    limit = integer(payload, "Limit", 1, most, DESCRIBE_SHARDS_DEFAULT)
    after = optional_text(payload, "ExclusiveStartShardId", SHARD_ID_PATTERN)
    shards = [shard for shard in stream.shards if after is None or shard.shard_id > after]
    description = _head_of(catalogue, stream)
    description["Shards"] = [shard_form(shard) for shard in shards[:limit]]
    description["HasMoreShards"] = len(shards) > limit
    if is_yandex:
        description["WriteQuotaKbPerSec"] = stream.quota.bytes_per_second // KIB
    return {"StreamDescription": description}


def describe_stream_summary(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    stream = catalogue.find_in(payload)
    summary = _head_of(catalogue, stream)
    summary["OpenShardCount"] = len(stream.open_shards)
    summary["ConsumerCount"] = 0
    summary["MaxRecordSizeInKiB"] = stream.record_bytes_max // KIB
    summary["RecordDistributionStrategy"] = "USER_PARTITION_KEY"
    return {"StreamDescriptionSummary": summary}


def _head_of(catalogue: Catalogue, stream: Stream) -> Answer:
    return {
        "StreamName": stream.name,
        "StreamARN": catalogue.arn_of(stream.name),
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": _seconds(catalogue, stream),
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
    }


def _seconds(catalogue: Catalogue, stream: Stream) -> int:
    return (stream.created_ns + catalogue.wall_offset_ns) // 1_000_000_000


def list_streams(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    limit = integer(payload, "Limit", 1, PAGE_MAX, LIST_STREAMS_DEFAULT)
    after = optional_text(payload, "ExclusiveStartStreamName", catalogue.name_pattern)
    token = optional_text(payload, "NextToken")
    if token is not None:
        after = _read_token(token, _ListStreamsPage).after
    names = sorted(name for name in catalogue.streams if after is None or name > after)
    page = names[:limit]
    answer: Answer = {
        "StreamNames": page,
        "HasMoreStreams": len(names) > limit,
        "StreamSummaries": [
            {
                "StreamName": name,
                "StreamARN": catalogue.arn_of(name),
                "StreamStatus": "ACTIVE",
                "StreamModeDetails": {"StreamMode": "PROVISIONED"},
                "StreamCreationTimestamp": _seconds(catalogue, catalogue.streams[name]),
            }
            for name in page
        ],
    }
    if len(names) > limit:
        answer["NextToken"] = _token(_ListStreamsPage(page[-1]))
    return answer


def list_shards(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """NextToken comes alone: it carries the stream, and the filter as of the first page."""
    token = optional_text(payload, "NextToken")
    name = catalogue.name_in(payload)
    limit = integer(payload, "MaxResults", 1, PAGE_MAX, LIST_SHARDS_DEFAULT)
    if token is None:
        if name is None:
            raise refuse(
                "InvalidArgumentException", "Either NextToken or StreamName should be provided."
            )
        stream = catalogue.find(name)
        view = _first_view(catalogue, stream, payload, now_ns)
    else:
        if name is not None:
            raise refuse(
                "InvalidArgumentException",
                "NextToken and StreamName cannot be provided together.",
            )
        page = _read_token(token, _ListShardsPage)
        if now_ns - page.issued_ns > NEXT_TOKEN_LIFETIME_NS:
            raise refuse("ExpiredNextTokenException", "NextToken has expired; list anew.")
        stream = catalogue.find(page.stream)
        view = page.view
    shards = [shard for shard in stream.shards if view.shows(shard)]
    answer: Answer = {"Shards": [shard_form(shard) for shard in shards[:limit]]}
    if len(shards) > limit:
        view.after = shards[limit - 1].shard_id
        answer["NextToken"] = _token(_ListShardsPage(stream.name, now_ns, view))
    return answer


class _View(msgspec.Struct, array_like=True):
    """Which shards a listing shows: ids after `after`, opened by one time, still open after
    another. Fixed when the first page is made, so that resharding between pages neither adds nor
    hides a shard.
    """

    after: str
    opened_by_ns: int
    open_after_ns: int | None  # None: closed ones too

    def shows(self, shard: Shard) -> bool:
        is_open_then = (
            self.open_after_ns is None
            or shard.closed_ns is None
            or shard.closed_ns > self.open_after_ns
        )
        return shard.shard_id > self.after and shard.opened_ns <= self.opened_by_ns and is_open_then


class _ListShardsPage(msgspec.Struct, array_like=True):
    stream: str
    issued_ns: int
    view: _View


class _ListStreamsPage(msgspec.Struct, array_like=True):
    after: str


def _first_view(catalogue: Catalogue, stream: Stream, payload: Payload, now_ns: int) -> _View:
    after = optional_text(payload, "ExclusiveStartShardId", SHARD_ID_PATTERN) or ""
    given = structure(payload, "ShardFilter")
    kind = "FROM_TRIM_HORIZON" if given is None else choice(given, "Type", FILTER_TYPES)
    given = given or {}
    if kind == "FROM_TRIM_HORIZON":
        return _View(after, now_ns, None)
    if kind == "AFTER_SHARD_ID":
        return _View(max(after, text(given, "ShardId", SHARD_ID_PATTERN)), now_ns, None)
    if kind == "AT_LATEST":
        return _View(after, now_ns, now_ns)
    if kind == "AT_TRIM_HORIZON":
        return _View(after, stream.created_ns, stream.created_ns)
    at_ns = timestamp_ns(given, "Timestamp")
    if at_ns is None:
        raise refuse("InvalidArgumentException", f"ShardFilter {kind} needs a Timestamp.")
    at_ns -= catalogue.wall_offset_ns
    return _View(after, now_ns if kind == "FROM_TIMESTAMP" else at_ns, at_ns)


def split_shard(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    stream = catalogue.find_in(payload)
    shard = _open_shard(catalogue, stream, text(payload, "ShardToSplit", SHARD_ID_PATTERN))
    key = int(text(payload, "NewStartingHashKey", HASH_KEY))
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
    stream = catalogue.find_in(payload)
    shards = [
        _open_shard(catalogue, stream, text(payload, member, SHARD_ID_PATTERN))
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
    """AWS: from half to twice the open shards. Yandex: never fewer."""
    stream = catalogue.find_in(payload)
    current = len(stream.open_shards)
    is_yandex = catalogue.settings.flavour is Flavour.YANDEX
    if not is_yandex or "ScalingType" in payload:
        choice(payload, "ScalingType", ("UNIFORM_SCALING",))
    target = integer(payload, "TargetShardCount", 1, PAGE_MAX)
    if is_yandex:
        if target < current:
            raise refuse(
                "ValidationException",
                f"TargetShardCount {target} is less than the current count {current}; "
                "the number of shards only grows",
            )
    elif target > 2 * current or 2 * target < current:
        bound = "more than double" if target > current else "less than half of"
        raise refuse(  # AWS's own code for this is not verified
            "LimitExceededException",
            f"UpdateShardCount cannot scale {bound} the current open shard count. "
            f"Current open shard count: {current} Target shard count: {target}",
        )
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


def _open_shard(catalogue: Catalogue, stream: Stream, shard_id: str) -> Shard:
    """ResourceNotFoundException for an unknown shard, ResourceInUseException for a closed one."""
    where = f"in stream {stream.name} under account {catalogue.settings.account}"
    shard = stream.find(shard_id)
    if shard is None:
        raise refuse("ResourceNotFoundException", f"Could not find shard {shard_id} {where}.")
    if not shard.is_open:
        raise refuse(
            "ResourceInUseException", f"Shard {shard_id} {where} is closed and cannot be changed."
        )
    return shard


def shard_form(shard: Shard) -> Answer:
    """A shard as DescribeStream and ListShards show it."""
    sequences = {"StartingSequenceNumber": shard.template % shard.starting_sequence}
    if shard.ending_sequence is not None:
        sequences["EndingSequenceNumber"] = shard.template % shard.ending_sequence
    form: Answer = {
        "ShardId": shard.shard_id,
        "HashKeyRange": {
            "StartingHashKey": str(shard.starting_hash_key),
            "EndingHashKey": str(shard.ending_hash_key),
        },
        "SequenceNumberRange": sequences,
    }
    if shard.parents:
        form["ParentShardId"] = shard.parents[0].shard_id
    if len(shard.parents) > 1:
        form["AdjacentParentShardId"] = shard.parents[1].shard_id
    return form


def _token(page: _ListShardsPage | _ListStreamsPage) -> str:
    return base64.b64encode(msgspec.json.encode(page)).decode()


def _read_token(token: str, page: type[_Page]) -> _Page:
    try:
        return msgspec.json.decode(base64.b64decode(token, validate=True), type=page)
    except (ValueError, msgspec.MsgspecError) as error:
        raise refuse("InvalidArgumentException", "NextToken is not one of this service.") from error
