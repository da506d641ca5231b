"""The control plane: making, describing and listing streams, as JSON payloads.

Pure. `changes.py` has the calls that change a stream. Each function takes the catalogue, a payload
and the time, and returns the answer's members. Streams are ACTIVE at once, and a reshard is done
when it is answered: a client need not wait, where the service shows CREATING and UPDATING for a
while. Sits between `service.py` and `catalogue.py`.
"""

import base64
from typing import TypeVar

import msgspec

from kdaemon.base.limits import KIB, RECORD_BYTES_MAX
from kdaemon.base.service import AWS, YANDEX
from kdaemon.sandbox import yandex_words
from kdaemon.sandbox.capacity import (
    is_on_demand_in,
    require_on_demand,
    shards_for,
    warm_form,
    warm_mib_in,
)
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import SHARD_ID_PATTERN, Payload, refuse
from kdaemon.sandbox.settings import Quota
from kdaemon.sandbox.shards import Shard, Stream

PAGE_MAX = 10_000  # shards or streams in one answer [M]
DESCRIBE_SHARDS_DEFAULT = 100  # DescribeStream without Limit [M]; also the most at Yandex [YD]
LIST_SHARDS_DEFAULT = 1_000  # ListShards without MaxResults [M]
LIST_STREAMS_DEFAULT = 100  # ListStreams without Limit [M]
NEXT_TOKEN_LIFETIME_NS = 300 * 1_000_000_000  # 300 seconds [M]
WRITE_QUOTAS_KIB_YANDEX = (128, 512, 1024)  # WriteQuotaKbPerSec of Yandex's CreateStream [YS]
RECORD_KIB_MIN, RECORD_KIB_MAX = 1024, 10240  # MaxRecordSizeInKiB [M]
DISTRIBUTIONS = ("AUTO", "USER_PARTITION_KEY")  # RecordDistributionStrategy [M]
# The strategy of Yandex's auto-partitioning that splits shards and never merges them [YS]. The
# other strategy that has an effect (SCALE_UP_AND_DOWN) is not offered to users [YD].
SCALE_UP_YANDEX = "AUTO_PARTITIONING_STRATEGY_SCALE_UP"

FILTER_TYPES = (
    "AFTER_SHARD_ID",
    "AT_TRIM_HORIZON",
    "FROM_TRIM_HORIZON",
    "AT_LATEST",
    "AT_TIMESTAMP",
    "FROM_TIMESTAMP",
)

_Page = TypeVar("_Page", bound=msgspec.Struct)


def create_stream(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """CreateStream: the stream is ACTIVE at once. Raises ServiceError."""
    name = payload.text("StreamName", catalogue.name_pattern)
    shard_count = payload.integer("ShardCount", 1, PAGE_MAX, default=4)
    quota = None
    can_split = is_on_demand = is_auto = False
    warm_mib: int | None = None
    if catalogue.settings.service is YANDEX:
        can_split, shard_count = _partitioning(payload, shard_count)
        kib = payload.integer("WriteQuotaKbPerSec", 1, 1024, default=1024)
        if kib not in WRITE_QUOTAS_KIB_YANDEX:
            raise refuse("ValidationException", "WriteQuotaKbPerSec is 128, 512 or 1024")
        if kib < 1024:
            quota = Quota(catalogue.settings.quota.records_per_second, kib * KIB)
    else:
        has_mode = payload.get("StreamModeDetails") is not None
        is_on_demand = has_mode and is_on_demand_in(payload)
        if payload.get("RecordDistributionStrategy") is not None:
            is_auto = payload.choice("RecordDistributionStrategy", DISTRIBUTIONS) == "AUTO"
            require_on_demand(name, is_auto=is_auto, is_on_demand=is_on_demand)
        warm_mib = warm_mib_in(payload, name, is_on_demand=is_on_demand)
        shard_count = max(shard_count, shards_for(warm_mib or 0, catalogue.settings.quota))
    record_kib = payload.integer(
        "MaxRecordSizeInKiB", RECORD_KIB_MIN, RECORD_KIB_MAX, RECORD_BYTES_MAX // KIB
    )
    stream = catalogue.create(
        name,
        shard_count,
        now_ns,
        record_bytes_max=record_kib * KIB,
        quota=quota,
        is_on_demand=is_on_demand,
        is_auto=is_auto,
        can_split=can_split,
    )
    stream.warm_mib_per_second = warm_mib
    return {}


def _partitioning(payload: Payload, shard_count: int) -> tuple[bool, int]:
    """Yandex: whether shards split by themselves, and the first number of shards:
    PartitioningSettings goes before ShardCount [YS: `TCreateStreamActor`].
    """
    settings = payload.structure("PartitioningSettings") or Payload()
    automatic = settings.structure("AutoPartitioningSettings") or Payload()
    strategy = automatic.optional_text("Strategy")
    shard_count = settings.integer("MinActivePartitions", 1, PAGE_MAX, default=shard_count)
    return strategy == SCALE_UP_YANDEX, shard_count


def describe_stream(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """DescribeStream: shards in the order of their ids, from ExclusiveStartShardId on."""
    stream = catalogue.find_in(payload)
    is_yandex = catalogue.settings.service is YANDEX
    most = DESCRIBE_SHARDS_DEFAULT if is_yandex else PAGE_MAX
    limit = payload.integer("Limit", 1, most, DESCRIBE_SHARDS_DEFAULT)
    after = payload.optional_text("ExclusiveStartShardId", SHARD_ID_PATTERN)
    if is_yandex and after is not None and stream.find(after) is None:
        raise yandex_words.invalid(f"Bad shard id {after}")
    shards = [shard for shard in stream.shards if after is None or shard.shard_id > after]
    description = _head_of(catalogue, stream)
    description["Shards"] = [shard_form(stream, shard) for shard in shards[:limit]]
    description["HasMoreShards"] = len(shards) > limit
    if is_yandex:
        description["EncryptionType"] = yandex_words.UNDEFINED_ENCRYPTION
        description["WriteQuotaKbPerSec"] = stream.quota.bytes_per_second // KIB
    return {"StreamDescription": description}


def describe_stream_summary(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """DescribeStreamSummary: everything but the shards."""
    stream = catalogue.find_in(payload)
    summary = _head_of(catalogue, stream)
    summary["OpenShardCount"] = len(stream.open_shards)
    summary["ConsumerCount"] = len(stream.consumers)
    summary["MaxRecordSizeInKiB"] = stream.record_bytes_max // KIB
    if stream.is_on_demand:  # only on-demand streams have the member [M]
        strategy = "AUTO" if stream.is_auto else "USER_PARTITION_KEY"
        summary["RecordDistributionStrategy"] = strategy
    if stream.warm_mib_per_second is not None:
        summary["WarmThroughput"] = warm_form(stream.warm_mib_per_second)
    return {"StreamDescriptionSummary": summary}


def _head_of(catalogue: Catalogue, stream: Stream) -> Answer:
    return {
        "StreamName": stream.name,
        "StreamARN": catalogue.arn_of(stream.name),
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": _mode_form(stream),
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": _seconds(catalogue, stream),
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
    }


def _mode_form(stream: Stream) -> Answer:
    return {"StreamMode": "ON_DEMAND" if stream.is_on_demand else "PROVISIONED"}


def _seconds(catalogue: Catalogue, stream: Stream) -> int:
    return (stream.created_ns + catalogue.wall_offset_ns) // 1_000_000_000


def list_streams(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """ListStreams: ordered by name. A NextToken goes before ExclusiveStartStreamName."""
    limit = payload.integer("Limit", 1, PAGE_MAX, LIST_STREAMS_DEFAULT)
    after = payload.optional_text("ExclusiveStartStreamName", catalogue.name_pattern)
    token = payload.optional_text("NextToken")
    if token is not None:
        after = page_of(token, _ListStreamsPage).after
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
                "StreamModeDetails": _mode_form(catalogue.streams[name]),
                "StreamCreationTimestamp": _seconds(catalogue, catalogue.streams[name]),
            }
            for name in page
        ],
    }
    if len(names) > limit:
        answer["NextToken"] = token_of(_ListStreamsPage(page[-1]))
    return answer


def list_shards(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """ListShards. NextToken comes alone: it has the stream, and the filter of the first page."""
    token = payload.optional_text("NextToken")
    name = catalogue.name_in(payload)
    limit = payload.integer("MaxResults", 1, PAGE_MAX, LIST_SHARDS_DEFAULT)
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
        page = page_of(token, _ListShardsPage)
        require_fresh(page.issued_ns, now_ns)
        stream = catalogue.find(page.stream)
        view = page.view
    shards = [shard for shard in stream.shards if view.shows(shard)]
    answer: Answer = {"Shards": [shard_form(stream, shard) for shard in shards[:limit]]}
    if len(shards) > limit:
        view.after = shards[limit - 1].shard_id
        answer["NextToken"] = token_of(_ListShardsPage(stream.name, now_ns, view))
    return answer


class _View(msgspec.Struct, array_like=True):
    """The shards that a listing shows: with ids after `after`, opened by one time, and still open
    after another. The view is fixed with the first page, so that resharding between two pages
    neither adds nor hides a shard.
    """

    after: str
    opened_by_ns: int
    open_after_ns: int | None  # None: also closed shards

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
    after = payload.optional_text("ExclusiveStartShardId", SHARD_ID_PATTERN) or ""
    given = payload.structure("ShardFilter")
    kind = "FROM_TRIM_HORIZON" if given is None else given.choice("Type", FILTER_TYPES)
    given = given or Payload()
    if kind == "FROM_TRIM_HORIZON":
        return _View(after, now_ns, None)
    if kind == "AFTER_SHARD_ID":
        return _View(max(after, given.text("ShardId", SHARD_ID_PATTERN)), now_ns, None)
    if kind == "AT_LATEST":
        return _View(after, now_ns, now_ns)
    if kind == "AT_TRIM_HORIZON":
        return _View(after, stream.created_ns, stream.created_ns)
    at_ns = given.timestamp_ns("Timestamp")
    if at_ns is None:
        raise refuse("InvalidArgumentException", f"ShardFilter {kind} needs a Timestamp.")
    at_ns -= catalogue.wall_offset_ns
    return _View(after, now_ns if kind == "FROM_TIMESTAMP" else at_ns, at_ns)


def shard_form(stream: Stream, shard: Shard) -> Answer:
    """A shard as DescribeStream and ListShards show it. Yandex does not say that a shard is closed;
    only its children name it as their parent [YS].
    """
    start, end = stream.told_range(shard)
    sequences = {"StartingSequenceNumber": shard.template % shard.starting_sequence}
    if shard.ending_sequence is not None and stream.service is AWS:
        sequences["EndingSequenceNumber"] = shard.template % shard.ending_sequence
    form: Answer = {
        "ShardId": shard.shard_id,
        "HashKeyRange": {
            "StartingHashKey": str(start),
            "EndingHashKey": str(end),
        },
        "SequenceNumberRange": sequences,
    }
    if shard.parents:
        form["ParentShardId"] = shard.parents[0].shard_id
    if len(shard.parents) > 1:
        form["AdjacentParentShardId"] = shard.parents[1].shard_id
    return form


def token_of(page: msgspec.Struct) -> str:
    """A NextToken that stands for the page."""
    return base64.b64encode(msgspec.json.encode(page)).decode()


def page_of(token: str, shape: type[_Page]) -> _Page:
    """The page that a NextToken stands for. Raises ServiceError."""
    try:
        return msgspec.json.decode(base64.b64decode(token, validate=True), type=shape)
    except (ValueError, msgspec.MsgspecError) as error:
        raise refuse("InvalidArgumentException", "NextToken is not one of this service.") from error


def require_fresh(issued_ns: int, now_ns: int) -> None:
    """Raises ServiceError for a NextToken that is older than NEXT_TOKEN_LIFETIME_NS."""
    if now_ns - issued_ns > NEXT_TOKEN_LIFETIME_NS:
        raise refuse("ExpiredNextTokenException", "NextToken has expired; list anew.")
