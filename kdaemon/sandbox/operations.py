"""Which operations the imitated services have, and who does the work of each.

Pure: a table, and which service offers what of it. Where it sits: `service.py` looks operations up
here. PutRecord(s) and SubscribeToShard are not in the table, because the service performs them
itself.
"""

from collections.abc import Callable

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox import capacity, changes, consumers, control, reads, tags
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import Payload, refuse

Operation = Callable[[Catalogue, Payload, int], Answer]

OPERATIONS: dict[str, Operation] = {
    "AddTagsToStream": tags.add_tags,
    "CreateStream": control.create_stream,
    "DeleteStream": consumers.delete_stream,
    "DeregisterStreamConsumer": consumers.deregister,
    "DescribeLimits": tags.describe_limits,
    "DescribeStream": control.describe_stream,
    "DescribeStreamConsumer": consumers.describe,
    "DescribeStreamSummary": control.describe_stream_summary,
    "GetRecords": reads.get_records,
    "GetShardIterator": reads.get_shard_iterator,
    "ListShards": control.list_shards,
    "ListStreamConsumers": consumers.list_consumers,
    "ListStreams": control.list_streams,
    "ListTagsForStream": tags.list_tags,
    "MergeShards": changes.merge_shards,
    "RegisterStreamConsumer": consumers.register,
    "RemoveTagsFromStream": tags.remove_tags,
    "SplitShard": changes.split_shard,
    "UpdateMaxRecordSize": changes.update_max_record_size,
    "UpdateShardCount": changes.update_shard_count,
    "UpdateStreamMode": capacity.update_stream_mode,
    "UpdateStreamRecordDistributionStrategy": changes.update_distribution,
    "UpdateStreamWarmThroughput": capacity.update_warm_throughput,
}
PUT_OPERATIONS = ("PutRecord", "PutRecords")
SUBSCRIBE = "SubscribeToShard"  # it is answered with events
READ_OPERATIONS = ("GetRecords", "GetShardIterator")

# Yandex documents the first three as not supported; clients must use DescribeStream [YD api-ref].
# No call splits or merges its partitions. It does not document tags. The rest are AWS's alone.
_NOT_AT_YANDEX = frozenset(
    {
        *("ListShards", "DescribeStreamSummary", "DescribeLimits", "SplitShard", "MergeShards"),
        *("AddTagsToStream", "ListTagsForStream", "RemoveTagsFromStream"),
        *("DeregisterStreamConsumer", "DescribeStreamConsumer", "ListStreamConsumers"),
        *("RegisterStreamConsumer", SUBSCRIBE),
        *("UpdateMaxRecordSize", "UpdateStreamMode", "UpdateStreamRecordDistributionStrategy"),
        "UpdateStreamWarmThroughput",
    }
)


def offers(operation: str, *, is_yandex: bool) -> bool:
    """Whether a service has the operation."""
    if operation in PUT_OPERATIONS:
        return True
    is_known = operation in OPERATIONS or operation == SUBSCRIBE
    return is_known and not (is_yandex and operation in _NOT_AT_YANDEX)


def unknown_operation(operation: str, *, is_yandex: bool) -> ServiceError:
    """The error of each service for an unknown operation."""
    if not is_yandex:
        return refuse("UnknownOperationException", "")
    if not operation:
        return refuse("MissingAction", "No action was specified")
    return refuse("InvalidAction", f'Unknown method name "{operation}"')
