"""Reads records back: shard iterators and GetRecords.

Pure. A shard iterator is a bookmark that the client keeps: the stream (with its creation time, so
that a later stream of the same name is not mistaken for it), the shard, the next sequence to read,
and the time of issue. The sandbox remembers none of them. Invariant: a client that follows
NextShardIterator from TRIM_HORIZON gets every retained record of the shard once, in order; at the
end of a closed shard the iterator is null. A record that waits for quota is not there yet.
"""

import base64
import binascii
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kdaemon.base.limits import MIB
from kdaemon.sandbox.payload import (
    SEQUENCE_NUMBER_PATTERN,
    SHARD_ID_PATTERN,
    Payload,
    choice,
    integer,
    optional_text,
    refuse,
    text,
    timestamp_ns,
)
from kdaemon.sandbox.shards import Shard, StoredRecord, Stream

ITERATOR_LIFETIME_NS = 300 * 1_000_000_000  # 5 minutes [M]
ITERATOR_TYPES = (
    "AFTER_SEQUENCE_NUMBER",
    "LATEST",
    "AT_TIMESTAMP",
    "AT_SEQUENCE_NUMBER",
    "TRIM_HORIZON",
)
RECORDS_PER_READ_MAX = 10_000  # records in one GetRecords [M]
READ_BYTES_MAX = 10 * MIB  # data of one GetRecords [M]


class Bookmark(msgspec.Struct, array_like=True):
    """The contents of a shard iterator."""

    stream: str
    stream_created_ns: int
    shard_index: int
    sequence: int
    issued_ns: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Bookmark).decode


def encode_bookmark(bookmark: Bookmark) -> str:
    return base64.b64encode(_encode(bookmark)).decode()


def decode_bookmark(iterator: str) -> Bookmark:
    """Raises InvalidArgumentException for a text that this sandbox never issued."""
    try:
        return _decode(base64.b64decode(iterator.encode("ascii"), validate=True))
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise refuse("InvalidArgumentException", "Invalid ShardIterator.") from error


def shard_iterator(
    stream: Stream, payload: Payload, now_ns: int, wall_offset_ns: int, account: str
) -> dict[str, object]:
    """GetShardIterator. Raises ServiceError."""
    shard_id = text(payload, "ShardId", SHARD_ID_PATTERN)
    kind = choice(payload, "ShardIteratorType", ITERATOR_TYPES)
    starting = optional_text(payload, "StartingSequenceNumber", SEQUENCE_NUMBER_PATTERN)
    at_ns = timestamp_ns(payload, "Timestamp")
    shard = find_shard(stream, shard_id, account)
    position = Position(kind, starting, at_ns)
    sequence = first_sequence(stream, shard, position, now_ns, wall_offset_ns, account)
    bookmark = Bookmark(stream.name, stream.created_ns, shard.index, sequence, now_ns)
    return {"ShardIterator": encode_bookmark(bookmark)}


def find_shard(stream: Stream, shard_id: str, account: str) -> Shard:
    """The shard. ResourceNotFoundException if the stream never had it."""
    shard = stream.find(shard_id)
    if shard is None:
        raise refuse(
            "ResourceNotFoundException",
            f"Shard {shard_id} in stream {stream.name} under account {account} does not exist",
        )
    return shard


class Position(NamedTuple):
    """Where reading starts: one of ITERATOR_TYPES, with the values that some types need."""

    kind: str
    starting: str | None
    at_ns: int | None
    operation: str = "GetShardIterator"  # the call that asks, for texts


def first_sequence(
    stream: Stream,
    shard: Shard,
    position: Position,
    now_ns: int,
    wall_offset_ns: int,
    account: str,
) -> int:
    """The first sequence to read. Raises ServiceError for a position that lacks a value or has one
    too many.
    """
    kind, starting, at_ns, operation = position
    if kind == "TRIM_HORIZON":
        sequence = 0
    elif kind == "LATEST":
        sequence = _sequence_at(shard, now_ns + 1)
    elif kind == "AT_TIMESTAMP":
        if at_ns is None:
            raise refuse(
                "InvalidArgumentException", "Must specify timestampInMillis parameter for iterator "
                "of type AT_TIMESTAMP. Current request has no timestamp parameter.",
            )  # fmt: skip
        sequence = _sequence_at(shard, at_ns - wall_offset_ns)
    else:
        sequence = _sequence_of(stream, shard, starting, account, operation)
        if kind == "AFTER_SEQUENCE_NUMBER":
            sequence += 1
    if starting is not None and kind in ("TRIM_HORIZON", "LATEST"):
        raise refuse(
            "InvalidArgumentException",
            "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and "
            "StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. "
            f"Request specified {kind} and also a StartingSequenceNumber.",
        )
    return sequence


def _sequence_at(shard: Shard, at_ns: int) -> int:
    """The sequence of the first record that arrived at `at_ns` or later, or of the next write."""
    position = shard.position_at_ns(at_ns)
    return shard.log[position].sequence if position < len(shard.log) else shard.sequencer.next


def _sequence_of(
    stream: Stream, shard: Shard, starting: str | None, account: str, operation: str
) -> int:
    if starting is None:
        raise refuse(
            "InvalidArgumentException",
            "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and "
            "StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. "
            "Request specified no StartingSequenceNumber.",
        )
    sequence = shard.sequence_of(starting)
    if sequence is None:
        raise refuse(
            "InvalidArgumentException",
            f"StartingSequenceNumber {starting} used in {operation} on shard "
            f"{shard.shard_id} in stream {stream.name} under account {account} is invalid.",
        )
    return sequence


def get_records(
    find_stream: Callable[[str], Stream], payload: Payload, now_ns: int, wall_offset_ns: int
) -> dict[str, object]:
    """GetRecords: up to `Limit` records and 10 MiB of data; at least one record if there is any.

    `Data` is bytes (base64 on the wire). At the end of a closed shard NextShardIterator is None and
    ChildShards names its children. MillisBehindLatest is the age of the oldest unread record.
    """
    bookmark = decode_bookmark(text(payload, "ShardIterator"))
    limit = integer(payload, "Limit", 1, RECORDS_PER_READ_MAX, RECORDS_PER_READ_MAX)
    stream = find_stream(bookmark.stream)
    is_same_stream = stream.created_ns == bookmark.stream_created_ns
    if not is_same_stream or not 0 <= bookmark.shard_index < len(stream.shards):
        raise refuse("InvalidArgumentException", "Invalid ShardIterator.")
    if now_ns - bookmark.issued_ns > ITERATOR_LIFETIME_NS:
        raise refuse(
            "ExpiredIteratorException",
            f"Iterator expired. The iterator was created {(now_ns - bookmark.issued_ns) // 10**6} "
            "milliseconds ago, which is further than the tolerated delay of "
            f"{ITERATOR_LIFETIME_NS // 10**6} milliseconds.",
        )
    shard = stream.shards[bookmark.shard_index]
    first = shard.position_of(bookmark.sequence)
    end = end_of_read(shard.log, first, limit, now_ns)
    unread = shard.log[end] if end < len(shard.log) else None
    answer: dict[str, object] = {
        "Records": [record_form(shard, stored, wall_offset_ns) for stored in shard.log[first:end]],
        "MillisBehindLatest": max(0, now_ns - unread.arrival_ns) // 10**6 if unread else 0,
    }
    if unread is None and not shard.is_open:
        answer["NextShardIterator"] = None
        answer["ChildShards"] = [child_form(child) for child in stream.children_of(shard)]
        return answer
    sequence = shard.log[end - 1].sequence + 1 if end > first else bookmark.sequence
    answer["NextShardIterator"] = encode_bookmark(
        Bookmark(stream.name, stream.created_ns, shard.index, sequence, now_ns)
    )
    return answer


def end_of_read(
    log: list[StoredRecord],
    first: int,
    limit: int,
    now_ns: int,
    bytes_max: int = READ_BYTES_MAX,
) -> int:
    """The index after the last record of one answer. It has at least one record if there is any."""
    data_bytes = 0
    end = first
    for stored in log[first : first + limit]:
        data_bytes += len(stored.record.data)
        is_full = data_bytes > bytes_max and end > first
        if is_full or stored.arrival_ns > now_ns:
            break
        end += 1
    return end


def record_form(shard: Shard, stored: StoredRecord, wall_offset_ns: int) -> dict[str, object]:
    """A record as a reader gets it. `Data` is bytes."""
    form: dict[str, object] = {
        "SequenceNumber": shard.template % stored.sequence,
        "ApproximateArrivalTimestamp": (stored.arrival_ns + wall_offset_ns) // 10**6 / 1000,
        "Data": stored.record.data,
    }
    # An AUTO stream takes records without a key; then the member is absent [M].
    if stored.record.partition_key:
        form["PartitionKey"] = stored.record.partition_key
    return form


def child_form(child: Shard) -> dict[str, object]:
    """A child shard, as the end of its parent lists it."""
    return {
        "ShardId": child.shard_id,
        "ParentShards": [parent.shard_id for parent in child.parents],
        "HashKeyRange": {
            "StartingHashKey": str(child.starting_hash_key),
            "EndingHashKey": str(child.ending_hash_key),
        },
    }
