"""What a decoder has read of PutRecord and PutRecords, made the request that the door takes. Pure.

Its records are measured and held to what no decoder checks. Apart from shapes.py, because
msgspec makes its classes, and mypyc makes what every request passes here.
Invariant: the same members give the same request, or the same refusal, in every encoding.
Where it sits: `put.py` (JSON) and `put_cbor.py` -> here -> the door.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from kdaemon.base.names import is_stream_name
from kdaemon.base.record import Record
from kdaemon.wire.limits import PutLimits, PutRequest, check_members, check_sizes
from kdaemon.wire.shapes import OpenPutRecord, OpenPutRecords, PutRecord, PutRecords

Members = tuple[bytes, str, str | None, str | None, str | None, str | None, bool | None, str | None]
"""The members of a `PutRecord`, in its order."""

members_of: Final[Callable[[PutRecord], Members]] = msgspec.structs.astuple
"""All members in one call, which costs a quarter of reading them one by one."""

_record: Final = Record  # a class of msgspec's by a global of C's, which every record needs


def with_empty_keys(wire: OpenPutRecords) -> PutRecords:
    """Keys that are missing are empty."""
    records = [
        Record(entry.Data, entry.PartitionKey or "", entry.ExplicitHashKey)
        for entry in wire.Records
    ]
    return PutRecords(
        Records=records,
        StreamName=wire.StreamName,
        StreamARN=wire.StreamARN,
        StreamId=wire.StreamId,
        DryRun=wire.DryRun,
    )


def with_empty_key(wire: OpenPutRecord) -> PutRecord:
    """The same for one record."""
    wire.PartitionKey = wire.PartitionKey or ""
    return wire


def request_of(wire: PutRecords, keys: str, keyless_count: int, limits: PutLimits) -> PutRequest:
    """What was read, measured. `keys`: all keys in a row; `keyless_count`: how many are empty."""
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


def single_request_of(members: Members, limits: PutLimits) -> PutRequest:
    """The same for one record."""
    data, key, hash_key, name, arn, _, dry_run, number = members
    key_bytes = len(key) if key.isascii() else len(key.encode())
    byte_count = len(data) + (key_bytes or limits.keyless_bytes)
    return PutRequest(
        name,
        arn,
        [_record(data, key, hash_key)],
        [byte_count],
        byte_count,
        dry_run is True,
        number,
        0 if key else 1,
        True,
    )


def _wide_sizes(records: list[Record], limits: PutLimits) -> list[int]:
    """Of records whose keys are not all ASCII, or missing."""
    keyless_bytes = limits.keyless_bytes
    return [
        len(record.data) + (len(record.partition_key.encode()) or keyless_bytes)
        for record in records
    ]


def check(request: PutRequest, limits: PutLimits, hash_keys: Sequence[str | None]) -> None:
    """Holds a request that could be read to the constraints of the API and to its limits."""
    name = request.stream_name
    if (
        hash_keys
        or name is None
        or request.sequence_number_for_ordering is not None
        or request.stream_arn is not None
        or limits.is_stream_name_free
        or not is_stream_name(name)
    ):
        check_members(request, limits, hash_keys)
    request_bytes = request.byte_count
    if (
        request_bytes > limits.record_bytes_max
        or request_bytes > limits.request_bytes_max
        or limits.partition_key_bytes_max is not None
    ):
        check_sizes(request, limits)
