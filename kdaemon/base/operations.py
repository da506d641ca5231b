"""The Kinesis API beside PutRecord and PutRecords: which of its operations may be passed on.

Knows for each operation what it does, how often an account may call it, where it names a stream,
and, if it is not passed on, why. Must not know requests, or which operations an operator allows.
This file is in base, because the configuration names operations too. Pure: values only.
Invariant: no operation that writes, changes or deletes may be passed on, whatever an operator
allows.

Source: botocore 1.43.117, model kinesis/2013-12-02, its operations and the rates in their texts;
checked 2026-11-28. A rate that the model counts for each stream is treated here as the account's,
so it is below what the service allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kdaemon.base.limits import MIB

LOOK_BYTES_MAX = 8 * MIB
"""For an answer that describes or lists. Ours, 2026-11-28: 10,000 shards, the most in one answer,
take 4 MiB."""

READ_BYTES_MAX = 16 * MIB
"""For an answer with records: GetRecords gives up to 10 MiB, which take 13.4 MiB in base64, and
10,000 records, each with some 200 bytes beside its data [M]. Ours, 2026-11-28."""

NAME_CHARACTERS_MAX = 64  # of a wrong name in a text; ours
_CHANGES = "it changes what is at the service, and kdaemon only passes on what looks or reads"


@dataclass(frozen=True, slots=True)
class OtherOperation:
    """One operation beside PutRecord and PutRecords.

    `calls_per_second`: of an account, by the model's text; None: it reads, and the service counts
    its rate for each shard. `why_not`: why it cannot be passed on; "": it can. `is_shared`: several
    askers may get one answer. `answer_bytes_max`: the largest answer. `is_of_stream`: it is about
    one stream, which requests name in the members for streams; not about the whole account, or
    about something other than streams.
    """

    name: str
    calls_per_second: int | None = 5
    why_not: str = ""
    is_shared: bool = True
    answer_bytes_max: int = LOOK_BYTES_MAX
    is_of_stream: bool = True

    @property
    def is_read(self) -> bool:
        """Whether it gives records, or a place among them."""
        return self.calls_per_second is None

    @property
    def family(self) -> str:
        """The same for operations that take each other's tokens."""
        return "reads" if self.is_read else self.name

    @property
    def expired_code(self) -> str:
        """The service's code for a token that is no longer good: then the client starts again."""
        return "ExpiredIteratorException" if self.is_read else "ExpiredNextTokenException"


def _changes(name: str) -> OtherOperation:
    return OtherOperation(name, why_not=_CHANGES)


_ALL = (
    OtherOperation("DescribeStream", 10),
    OtherOperation("DescribeStreamSummary", 20),
    OtherOperation("ListShards", 100),
    OtherOperation("ListStreams", 5, is_of_stream=False),
    OtherOperation("DescribeLimits", 1, is_of_stream=False),
    OtherOperation("DescribeAccountSettings", is_of_stream=False),
    OtherOperation("DescribeChannel", is_of_stream=False),
    OtherOperation("DescribeStreamConsumer", 20),
    OtherOperation("GetResourcePolicy"),
    OtherOperation("ListChannels", is_of_stream=False),
    OtherOperation("ListStreamConsumers"),
    OtherOperation("ListTagsForResource"),
    OtherOperation("ListTagsForStream"),
    OtherOperation("GetShardIterator", None, is_shared=False),
    OtherOperation("GetRecords", None, is_shared=False, answer_bytes_max=READ_BYTES_MAX),
    OtherOperation(
        "SubscribeToShard",
        None,
        "its answer goes on for five minutes over HTTP/2, and kdaemon passes on whole answers",
        is_shared=False,
    ),
    *map(
        _changes,
        (
            *("AddTagsToStream", "CreateChannel", "CreateStream", "DeleteChannel"),
            *("DecreaseStreamRetentionPeriod", "DeleteResourcePolicy", "DeleteStream"),
            *("DeregisterStreamConsumer", "DisableEnhancedMonitoring", "EnableEnhancedMonitoring"),
            *("IncreaseStreamRetentionPeriod", "MergeShards", "PutResourcePolicy"),
            *("RegisterStreamConsumer", "RemoveTagsFromStream", "SplitShard"),
            *("StartStreamEncryption", "StopStreamEncryption", "TagResource", "UntagResource"),
            *("UpdateAccountSettings", "UpdateChannel", "UpdateMaxRecordSize", "UpdateShardCount"),
            *("UpdateStreamMode", "UpdateStreamRecordDistributionStrategy"),
            "UpdateStreamWarmThroughput",
        ),
    ),
)

OTHER_OPERATIONS: Mapping[str, OtherOperation] = MappingProxyType(
    {each.name: each for each in _ALL}
)
"""By name: the whole API but PutRecord and PutRecords."""

PASSED_ON_DEFAULT = (
    "DescribeStream",
    "DescribeStreamSummary",
    "ListShards",
    "ListStreams",
    "DescribeLimits",
)
"""Producers call these before they write: async-kinesis, quixstreams, Telegraf, aiokpl, the KPL and
the SDKs' own examples (tried 2026-11-28)."""

ARN_MEMBERS = ("StreamARN", "ResourceARN", "ConsumerARN")
"""Members in which a request may name a stream, or a part of one, by its ARN."""

ID_MEMBER = "StreamId"
"""The member in which a request may name a stream by an id; only the service knows whose it is."""

TOKEN_MEMBERS = ("NextToken", "ShardIterator")
"""Members that say from where to go on; they may stand for a stream."""


def may_be_passed_on() -> tuple[str, ...]:
    """The names of the operations that an operator may allow."""
    return tuple(each.name for each in _ALL if not each.why_not)


def operation_problem(name: str) -> str | None:
    """Why an operation cannot be passed on, for people; None: it can."""
    operation = OTHER_OPERATIONS.get(name)
    if name in {"PutRecord", "PutRecords"}:
        return f"{name} is not passed on: kdaemon answers it itself"
    if operation is None:
        return f"{name[:NAME_CHARACTERS_MAX]!r} is no operation of the Kinesis API"
    return f"{name} is not passed on: {operation.why_not}" if operation.why_not else None
