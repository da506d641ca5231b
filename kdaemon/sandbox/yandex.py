"""What Yandex Data Streams reads differently: its envelope, and its strictness about members.

Pure. AWS ignores unknown members; Yandex refuses the call and names the key. Yandex takes any
service name before the operation in X-Amz-Target, and also `application/json` and
`application/cbor`. `writes.py` knows its throttling and its answers per record. Sources: [YS]
ydb-platform/ydb, `http_proxy/json_proto_conversion.h` and `http_req.cpp`, as read 2026-11-21; the
members of control calls are those of its protocol, as far as known.
"""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import PARTITION_KEY_BYTES_MAX_YANDEX, RECORDS_PER_CALL_MAX
from kdaemon.base.record import Record, RecordResult
from kdaemon.sandbox.payload import CONTROL_BYTES_MAX, Payload, refuse
from kdaemon.sandbox.yandex_words import NO_UNITS, UNDEFINED_ENCRYPTION, invalid
from kdaemon.wire import cbor
from kdaemon.wire.envelope import WEIGHT_MAX, content_type_of, is_too_heavy
from kdaemon.wire.explain import UNREADABLE, reason_of
from kdaemon.wire.refusals import Encoding, echo

T = TypeVar("T")

# Opening braces in a body: one for each record, and those in keys. Ours, 2026-11-28; it bounds how
# much is decoded in vain.
BRACES_MAX = RECORDS_PER_CALL_MAX * (PARTITION_KEY_BYTES_MAX_YANDEX + 8)

CONTENT_TYPES = {
    b"application/json": Encoding.JSON,
    b"application/x-amz-json-1.1": Encoding.JSON,
    b"application/x-amz-json-1.0": Encoding.JSON,
    b"application/cbor": Encoding.CBOR,
    b"application/x-amz-cbor-1.1": Encoding.CBOR,
}

_MEMBERS: dict[str, frozenset[str]] = {
    "CreateStream": frozenset(
        {
            "StreamName",
            "ShardCount",
            "RetentionPeriodHours",
            "RetentionStorageMegabytes",
            "WriteQuotaKbPerSec",
            "StreamModeDetails",
            "PartitioningSettings",
        }
    ),
    "DeleteStream": frozenset({"StreamName", "EnforceConsumerDeletion"}),
    "DescribeStream": frozenset({"StreamName", "ExclusiveStartShardId", "Limit"}),
    "ListStreams": frozenset({"ExclusiveStartStreamName", "Limit", "Recurse", "NextToken"}),
    "UpdateShardCount": frozenset({"StreamName", "TargetShardCount", "ScalingType"}),
    "GetShardIterator": frozenset(
        {"StreamName", "ShardId", "ShardIteratorType", "StartingSequenceNumber", "Timestamp"}
    ),
    "GetRecords": frozenset({"ShardIterator", "Limit"}),
}


# There a null member is one of the wrong type, and an empty hash key is no hash key [YS].


class _Entry(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    data: bytes = b""
    partition_key: str = ""
    explicit_hash_key: str | UnsetType = UNSET


class _PutRecords(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    records: list[_Entry] = []
    stream_name: str = ""


class _PutRecord(_Entry, forbid_unknown_fields=True, rename="pascal"):
    sequence_number_for_ordering: str | UnsetType = UNSET
    stream_name: str = ""


_encode = msgspec.json.Encoder().encode


def encoding_of(headers: dict[bytes, bytes]) -> Encoding:
    """The encoding of a request and of its answer."""
    return CONTENT_TYPES.get(content_type_of(headers), Encoding.JSON)


def read_operation(headers: dict[bytes, bytes]) -> str:
    """The operation's name: the second part of the target, whatever the first is; empty if there is
    none [YS: `SplitString`, which leaves empty parts out].
    """
    parts = [part for part in headers.get(b"x-amz-target", b"").split(b".") if part]
    return parts[1].decode("latin-1") if len(parts) > 1 else ""


def check_body(headers: dict[bytes, bytes], body: bytes) -> None:
    """Refuses a body that cannot be read at all. The service looks for the operation first."""
    if not body:
        raise refuse("InvalidArgumentException", "Empty body")
    if content_type_of(headers) not in CONTENT_TYPES:
        raise refuse("InvalidArgumentException", "Unknown ContentType")


def read_payload(operation: str, body: bytes, encoding: Encoding = Encoding.JSON) -> Payload:
    """The members of a control or reading call; InvalidArgumentException names an unknown key."""
    payload = _decoded(body, encoding)
    allowed = _MEMBERS.get(operation)
    if allowed is None:
        return payload  # the service will say that it does not have the operation
    for member in payload:
        if member not in allowed:
            raise refuse("InvalidArgumentException", f"Unexpected json key: {echo(member)}")
    return payload


def weigh(body: bytes) -> None:
    """Refuses a large body that no valid request has, without decoding it."""
    if is_too_heavy(body):
        raise invalid(f"More than {WEIGHT_MAX} bytes of the request are no data")


def parse_put_records(body: bytes, encoding: Encoding = Encoding.JSON) -> tuple[str, list[Record]]:
    """Stream name and records, without checks of bounds (`writes.py` makes them)."""
    if encoding is Encoding.JSON and body.count(b"{") > BRACES_MAX:
        raise invalid("Too many records in a single PutRecords request")
    request = _shaped(body, encoding, _PutRecords)
    return _named(request.stream_name), [_record(entry) for entry in request.records]


def parse_put_record(body: bytes, encoding: Encoding = Encoding.JSON) -> tuple[str, list[Record]]:
    """As `parse_put_records`, for a body with one record."""
    request = _shaped(body, encoding, _PutRecord)
    return _named(request.stream_name), [_record(request)]


def _shaped(body: bytes, encoding: Encoding, shape: type[T]) -> T:
    """A body as `shape`. Raises ServiceError."""
    try:
        if encoding is Encoding.CBOR:
            return msgspec.convert(_read_cbor(body), shape)
        return msgspec.json.decode(body, type=shape)
    except UNREADABLE as error:
        if encoding is Encoding.CBOR:
            raise _misfit(reason_of(error)) from None
        raise _unreadable(error, body) from None


def _record(entry: _Entry) -> Record:
    return Record(entry.data, entry.partition_key, entry.explicit_hash_key or None)


def encode_put_records(results: list[RecordResult], encoding: Encoding = Encoding.JSON) -> bytes:
    """The answer as Yandex sends it: a failed entry has empty strings, and may lack a message."""
    failed_count = sum(not result.is_delivered for result in results)
    # A shard's answer sets it. If no record met a shard, it stays at the enum's default.
    met_shard = any(result.error_code != NO_UNITS for result in results)
    encryption = "NONE" if met_shard else UNDEFINED_ENCRYPTION
    if encoding is Encoding.CBOR:
        records = msgspec.to_builtins(results)
        members = {
            "EncryptionType": encryption,
            "FailedRecordCount": failed_count,
            "Records": records,
        }
        return cbor.encode(members)
    return b'{"EncryptionType":"%b","FailedRecordCount":%d,"Records":%b}' % (
        encryption.encode(),
        failed_count,
        _encode(results),
    )


def full_name(path: str, stream_name: str) -> str:
    """The stream's path. A database in the URL's path goes before a name that is no path [YS]."""
    if path in ("", "/") or stream_name.startswith("/"):
        return stream_name
    return f"{path.rstrip('/')}/{stream_name}"


def _named(stream_name: str) -> str:
    if not stream_name:
        raise invalid("Stream name is empty")
    return stream_name


def _decoded(body: bytes, encoding: Encoding = Encoding.JSON) -> Payload:
    if len(body) > CONTROL_BYTES_MAX:
        text = f"The body of this operation may have {CONTROL_BYTES_MAX} bytes"
        raise refuse("InvalidArgumentException", text)
    if encoding is Encoding.CBOR:
        return _read_cbor(body)
    try:
        payload = msgspec.json.decode(body)
    except UNREADABLE:
        raise _no_json() from None
    return _as_map(payload)


def _read_cbor(body: bytes) -> Payload:
    try:
        payload = cbor.decode(body)
    except cbor.CborError:
        text = "Can not parse request body from CBOR"
        raise refuse("InvalidArgumentException", text) from None
    return _as_map(payload)


def _as_map(payload: object) -> Payload:
    if payload is None:
        raise refuse("MissingParameter", "Top level of json value is not a map")
    if not isinstance(payload, dict):
        raise _misfit("type must be object")
    return Payload(payload)


def _no_json() -> ServiceError:
    return refuse("InvalidArgumentException", "Can not parse request body from JSON")


def _unreadable(error: Exception, body: bytes) -> ServiceError:
    """The fitting refusal of the service: no JSON, not a map, an unknown key, or a wrong type."""
    if not isinstance(error, msgspec.ValidationError):
        return _no_json()
    if len(body) <= CONTROL_BYTES_MAX:
        _decoded(body)
    return _misfit(reason_of(error))


def _misfit(text: str) -> ServiceError:
    """`text`: the decoder's message."""
    unknown = text.partition("unknown field `")[2].partition("`")[0]
    if unknown:
        return refuse("InvalidArgumentException", f"Unexpected json key: {unknown}")
    return refuse("InvalidArgumentException", f"Unexpected json value: {text}")
