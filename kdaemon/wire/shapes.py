"""PutRecord and PutRecords as they are decoded, from any encoding. Pure.

Decoders fill these, and functions here make the request that the door takes. Knows no encoding.
Invariant: the same members give the same request, or the same refusal, in every encoding.
Where it sits: `put.py` (JSON) and `put_cbor.py` fill these; `limits.py` checks the requests.
"""

from typing import Annotated

import msgspec

from kdaemon.base.limits import RECORDS_PER_CALL_MAX
from kdaemon.base.record import PartitionKey, Record
from kdaemon.wire.limits import PutLimits, PutRequest


class PutRecords(msgspec.Struct):
    Records: Annotated[list[Record], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)]
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None  # reserved by the service, ignored
    DryRun: bool | None = None


class PutRecord(msgspec.Struct):
    Data: bytes
    PartitionKey: PartitionKey
    ExplicitHashKey: str | None = None
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None
    SequenceNumberForOrdering: str | None = None


# The same, but keys may be missing. Two forms, so that an ordinary request is decoded straight into
# the records that are queued.


_MaybeKey = PartitionKey | None


class _OpenEntry(msgspec.Struct, gc=False):
    Data: bytes
    PartitionKey: _MaybeKey = None
    ExplicitHashKey: str | None = None


class OpenPutRecords(msgspec.Struct):
    Records: Annotated[
        list[_OpenEntry], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)
    ]
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None


class OpenPutRecord(msgspec.Struct):
    Data: bytes
    PartitionKey: _MaybeKey = None
    ExplicitHashKey: str | None = None
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None
    SequenceNumberForOrdering: str | None = None


class Head(msgspec.Struct):
    """The members of PutRecords beside `Records`."""

    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None


def with_empty_keys(wire: OpenPutRecords) -> PutRecords:
    """The same, with an empty key for each missing one."""
    records = [
        Record(entry.Data, entry.PartitionKey or "", entry.ExplicitHashKey)
        for entry in wire.Records
    ]
    return PutRecords(records, wire.StreamName, wire.StreamARN, wire.StreamId, wire.DryRun)


def with_empty_key(wire: OpenPutRecord) -> PutRecord:
    """As `with_empty_keys`, for one record."""
    return PutRecord(
        wire.Data,
        wire.PartitionKey or "",
        wire.ExplicitHashKey,
        wire.StreamName,
        wire.StreamARN,
        wire.StreamId,
        wire.DryRun,
        wire.SequenceNumberForOrdering,
    )


def request_of(wire: PutRecords, keys: str, keyless_count: int, limits: PutLimits) -> PutRequest:
    """The measured request. `keys`: all keys, joined; `keyless_count`: how many are empty."""
    records = wire.Records
    if keys.isascii() and not keyless_count:
        sizes = [len(record.data) + len(record.partition_key) for record in records]
    else:
        sizes = _wide_sizes(records, limits)
    return PutRequest(
        wire.StreamName,
        wire.StreamARN,
        records,
        sizes,
        sum(sizes),
        wire.DryRun is True,
        None,
        keyless_count,
    )


def single_request_of(wire: PutRecord, limits: PutLimits) -> PutRequest:
    """As `request_of`, for one record."""
    data, key = wire.Data, wire.PartitionKey
    key_bytes = len(key) if key.isascii() else len(key.encode())
    byte_count = len(data) + (key_bytes or limits.keyless_bytes)
    return PutRequest(
        wire.StreamName,
        wire.StreamARN,
        [Record(data, key, wire.ExplicitHashKey)],
        [byte_count],
        byte_count,
        wire.DryRun is True,
        wire.SequenceNumberForOrdering,
        0 if key else 1,
        True,
    )


def _wide_sizes(records: list[Record], limits: PutLimits) -> list[int]:
    """Sizes of records of which some keys are missing, or not ASCII."""
    keyless_bytes = limits.keyless_bytes
    return [
        len(record.data) + (len(record.partition_key.encode()) or keyless_bytes)
        for record in records
    ]
