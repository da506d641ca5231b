"""Reads records back: shard iterators and GetRecords.

Pure. A shard iterator is a bookmark that the client keeps: the stream (with its creation time, so
that a later stream of the same name is not mistaken for it), the shard, the next sequence to read,
and the time of issue. The sandbox remembers none of them. Invariant: a client that follows
NextShardIterator from TRIM_HORIZON gets every retained record of the shard once, in order; at the
end of a closed shard the iterator is null. A record that waits for quota is not there yet.
"""

import base64
import binascii
from typing import NamedTuple

import msgspec

from kdaemon.base.limits import MIB
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import SEQUENCE_NUMBER_PATTERN, SHARD_ID_PATTERN, Payload, refuse
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


def get_shard_iterator(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """GetShardIterator. Raises ServiceError."""
    stream = catalogue.find_in(payload)
    shard_id = payload.text("ShardId", SHARD_ID_PATTERN)
    kind = payload.choice("ShardIteratorType", ITERATOR_TYPES)
    starting = payload.optional_text("StartingSequenceNumber", SEQUENCE_NUMBER_PATTERN)
    at_ns = payload.timestamp_ns("Timestamp")
    shard = find_shard(catalogue, stream, shard_id)
    sequence = first_sequence(catalogue, stream, shard, Position(kind, starting, at_ns), now_ns)
    bookmark = Bookmark(stream.name, stream.created_ns, shard.index, sequence, now_ns)
    return {"ShardIterator": encode_bookmark(bookmark)}


def find_shard(catalogue: Catalogue, stream: Stream, shard_id: str) -> Shard:
    """The shard. ResourceNotFoundException if the stream never had it."""
    shard = stream.find(shard_id)
    if shard is None:
        raise refuse(
            "ResourceNotFoundException",
            f"Shard {shard_id} in stream {stream.name} under account {catalogue.settings.account} "
            "does not exist",
        )
    return shard


class Position(NamedTuple):
    """Where reading starts: one of ITERATOR_TYPES, with the values that some types need."""

    kind: str
    starting: str | None
    at_ns: int | None
    operation: str = "GetShardIterator"  # the call that asks, for texts


def first_sequence(
    catalogue: Catalogue, stream: Stream, shard: Shard, position: Position, now_ns: int
) -> int:
    """The first sequence to read. Raises ServiceError for a position that lacks a value or has one
    too many.
    """
    kind, starting, at_ns, _ = position
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
        sequence = _sequence_at(shard, at_ns - catalogue.wall_offset_ns)
    else:
        sequence = _sequence_of(catalogue, stream, shard, position)
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


def _sequence_of(catalogue: Catalogue, stream: Stream, shard: Shard, position: Position) -> int:
    if position.starting is None:
        raise refuse(
            "InvalidArgumentException",
            "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and "
            "StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. "
            "Request specified no StartingSequenceNumber.",
        )
    sequence = shard.sequence_of(position.starting)
    if sequence is None:
        raise refuse(
            "InvalidArgumentException",
            f"StartingSequenceNumber {position.starting} used in {position.operation} on shard "
            f"{shard.shard_id} in stream {stream.name} under account {catalogue.settings.account} "
            "is invalid.",
        )
    return sequence


def get_records(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """GetRecords: up to `Limit` records and 10 MiB of data; at least one record if there is any.

    `Data` is bytes (base64 on the wire). At the end of a closed shard NextShardIterator is None and
    ChildShards names its children. MillisBehindLatest is the age of the oldest unread record.
    """
    bookmark = decode_bookmark(payload.text("ShardIterator"))
    limit = payload.integer("Limit", 1, RECORDS_PER_READ_MAX, RECORDS_PER_READ_MAX)
    stream = catalogue.find(bookmark.stream)
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
    offset_ns = catalogue.wall_offset_ns
    answer: Answer = {
        "Records": [record_form(shard, stored, offset_ns) for stored in shard.log[first:end]],
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


def record_form(shard: Shard, stored: StoredRecord, wall_offset_ns: int) -> Answer:
    """A record as a reader gets it. `Data` is bytes."""
    form: Answer = {
        "SequenceNumber": shard.template % stored.sequence,
        "ApproximateArrivalTimestamp": (stored.arrival_ns + wall_offset_ns) // 10**6 / 1000,
        "Data": stored.record.data,
    }
    # An AUTO stream takes records without a key; then the member is absent [M].
    if stored.record.partition_key:
        form["PartitionKey"] = stored.record.partition_key
    return form


def child_form(child: Shard) -> Answer:
    """A child shard, as the end of its parent lists it."""
    return {
        "ShardId": child.shard_id,
        "ParentShards": [parent.shard_id for parent in child.parents],
        "HashKeyRange": {
            "StartingHashKey": str(child.starting_hash_key),
            "EndingHashKey": str(child.ending_hash_key),
        },
    }
