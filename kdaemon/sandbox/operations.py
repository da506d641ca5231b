"""Which operations the imitated services have, and who does the work of each.

Pure: a table, and what of it Yandex does not have. Where it sits: `service.py` looks operations up
here. PutRecord(s) and SubscribeToShard are not in the table, because the service performs them
itself.
"""

from collections.abc import Callable

from kdaemon.sandbox import capacity, changes, consumers, control, reads, tags
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import Payload

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
NOT_AT_YANDEX = frozenset(
    {
        *("ListShards", "DescribeStreamSummary", "DescribeLimits", "SplitShard", "MergeShards"),
        *("AddTagsToStream", "ListTagsForStream", "RemoveTagsFromStream"),
        *("DeregisterStreamConsumer", "DescribeStreamConsumer", "ListStreamConsumers"),
        *("RegisterStreamConsumer", SUBSCRIBE),
        *("UpdateMaxRecordSize", "UpdateStreamMode", "UpdateStreamRecordDistributionStrategy"),
        "UpdateStreamWarmThroughput",
    }
)
