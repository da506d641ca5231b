"""The Kinesis API's PutRecord and PutRecords on the wire, both ways. Pure.

Reading is one typed decode straight into the `Record` objects that are queued and sent; its
constraints are checked in the same pass. Only if it fails is the body read again
(`kinesis_errors.py`) to say why in the service's words. As at the service, one invalid record
refuses the whole request. Knows no stream's state, no queue, no connection; checks no signature.

Where it sits: http.py -> gateway: read_envelope, parse -> engine -> encode -> http.py.

One thing differs from the service: base64 whose last character carries bits that no byte uses
(`ab==`) is accepted, as most decoders do; finding it would cost another pass over every body.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import msgspec

from kdaemon.base.limits import (
    HASH_KEY_MAX,
    MIB,
    RECORD_BYTES_MAX,
    RECORDS_PER_CALL_MAX,
    REQUEST_BYTES_MAX,
)
from kdaemon.base.names import is_stream_name, parse_arn
from kdaemon.base.record import PartitionKey, Record, RecordResult
from kdaemon.wire.refusals import (
    CBOR,
    HASH_KEY,
    JSON,
    ApiError,
    api_error,
    cbor_error,
    constraint,
    encode_error,
    explain_put_record,
    explain_put_records,
    hash_key_error,
    stream_problems,
    validation_error,
)

__all__ = [
    "ACCEPTED",
    "AnswerHeaders",
    "ApiError",
    "Operation",
    "PutLimits",
    "PutRequest",
    "api_error",
    "check_sizes",
    "encode_error",
    "encode_put_record",
    "encode_put_records",
    "parse_put_record",
    "parse_put_records",
    "read_envelope",
]

XML_ACCESS_DENIED = (
    b"<AccessDeniedException>\n"
    b"  <Message>Unable to determine service/operation name to be authorized</Message>\n"
    b"</AccessDeniedException>\n"
)
XML_UNKNOWN_OPERATION = b"<UnknownOperationException/>\n"
JSON_UNKNOWN_OPERATION = (
    b'{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}'
)
CBOR_ONLY_JSON = (
    "This endpoint reads application/x-amz-json-1.1, not CBOR. Switch the SDK to JSON: Java v2: "
    "-Daws.cborEnabled=false"
)

# The answer of a client that asked not to wait for delivery: true for "it is there" and impossible
# to take for a real sequence number or shard.
ACCEPTED = RecordResult(sequence_number="accepted", shard_id="accepted")


class Operation(Enum):
    PUT_RECORD = "PutRecord"
    PUT_RECORDS = "PutRecords"


_PREFIX = b"Kinesis_20131202."
_OPERATIONS = {_PREFIX + operation.value.encode(): operation for operation in Operation}


@dataclass(frozen=True, slots=True)
class PutLimits:
    """What a request to one stream may hold. Bytes are data + partition key in UTF-8, summed."""

    record_bytes_max: int = RECORD_BYTES_MAX
    request_bytes_max: int = REQUEST_BYTES_MAX
    partition_key_bytes_max: int | None = None  # UTF-8; Yandex counts bytes (256), AWS characters
    is_stream_name_free: bool = False  # Yandex: names are paths and not held to AWS's pattern


class PutRequest(msgspec.Struct):
    """A PutRecords request, or a PutRecord request with its one record.

    `sizes`: bytes of data + partition key (UTF-8), same length and order as `records`.
    At least one of `stream_name` and `stream_arn` is there; where both are they name the same
    stream.
    """

    stream_name: str | None
    stream_arn: str | None
    records: list[Record]
    sizes: list[int]
    is_dry_run: bool
    sequence_number_for_ordering: str | None = None

    @property
    def stream(self) -> str:
        """The stream's name, taken from the ARN where there is one."""
        if self.stream_arn is not None:
            return _stream_of_arn(self.stream_arn)
        assert self.stream_name is not None
        return self.stream_name


class _Records(msgspec.Struct):
    Records: Annotated[list[Record], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)]
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None  # reserved by the service, ignored
    DryRun: bool | None = None


class _Record(msgspec.Struct):
    Data: bytes
    PartitionKey: PartitionKey
    ExplicitHashKey: str | None = None
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None
    SequenceNumberForOrdering: str | None = None


_decode_records = msgspec.json.Decoder(_Records).decode
_decode_record = msgspec.json.Decoder(_Record).decode
_encode = msgspec.json.Encoder().encode

# What the decoder raises: not JSON or not of the types; not UTF-8; nested too deeply.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# --- reading


def read_envelope(method: str, headers: dict[bytes, bytes], body: bytes) -> Operation:
    """Which operation a request asks for. Header names in lower case.

    Raises ApiError with the service's answer, in its order: method, empty body, content type,
    target. The path is ignored, and so is who signed.
    """
    operation = _OPERATIONS.get(headers.get(b"x-amz-target", b""))
    if operation and body and method == "POST" and headers.get(b"content-type") == JSON:
        return operation
    if method != "POST":
        raise ApiError(403, XML_ACCESS_DENIED, b"text/xml", "AccessDeniedException")
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not body:
        if operation is None:
            raise _unknown_operation(headers)
        raise api_error("SerializationException", "The request has no body.")
    if content_type == CBOR:
        raise cbor_error("SerializationException", CBOR_ONLY_JSON)
    if content_type == b"application/json":
        raise ApiError(404, JSON_UNKNOWN_OPERATION, content_type, "UnknownOperationException")
    if content_type != JSON:
        raise ApiError(404, XML_UNKNOWN_OPERATION, b"text/xml", "UnknownOperationException")
    if operation is None:
        raise _unknown_operation(headers)
    return operation


def _unknown_operation(headers: dict[bytes, bytes]) -> ApiError:
    text = "The X-Amz-Target header must be Kinesis_20131202.PutRecord or .PutRecords here."
    if headers.get(b"x-amz-target", b"").startswith(_PREFIX):
        text += " For other operations ask the service itself."
    return api_error("UnknownOperationException", text)


def parse_put_records(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecords request. Raises ApiError; nothing of it is taken then."""
    try:
        wire = _decode_records(body)
    except _UNREADABLE:
        raise explain_put_records(body, is_stream_name_free=limits.is_stream_name_free) from None
    records = wire.Records
    for record in records:
        if record.explicit_hash_key is not None:
            _check_hash_keys(records, body, limits)
            break
    request = PutRequest(
        wire.StreamName,
        wire.StreamARN,
        records,
        [
            len(record.data) + (len(key) if key.isascii() else len(key.encode()))
            for record in records
            for key in (record.partition_key,)
        ],
        wire.DryRun is True,
    )
    _check_stream(request, limits)
    check_sizes(request, limits)
    return request


def parse_put_record(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecord request. Raises ApiError."""
    try:
        wire = _decode_record(body)
    except _UNREADABLE:
        raise explain_put_record(body, is_stream_name_free=limits.is_stream_name_free) from None
    key, hash_key = wire.PartitionKey, wire.ExplicitHashKey
    if hash_key is not None:
        if not HASH_KEY.fullmatch(hash_key):
            raise explain_put_record(body, is_stream_name_free=limits.is_stream_name_free)
        if int(hash_key) > HASH_KEY_MAX:
            raise hash_key_error(hash_key)
    request = PutRequest(
        wire.StreamName,
        wire.StreamARN,
        [Record(wire.Data, key, hash_key)],
        [len(wire.Data) + (len(key) if key.isascii() else len(key.encode()))],
        wire.DryRun is True,
        wire.SequenceNumberForOrdering,
    )
    _check_stream(request, limits)
    if request.sizes[0] > limits.record_bytes_max or limits.partition_key_bytes_max is not None:
        check_sizes(request, limits, prefix="")
    return request


def _check_hash_keys(records: list[Record], body: bytes, limits: PutLimits) -> None:
    keys = [key for record in records if (key := record.explicit_hash_key) is not None]
    if not all(map(HASH_KEY.fullmatch, keys)):
        raise explain_put_records(body, is_stream_name_free=limits.is_stream_name_free)
    for key in keys:
        if int(key) > HASH_KEY_MAX:
            raise hash_key_error(key)


def _check_stream(request: PutRequest, limits: PutLimits) -> None:
    name, arn = request.stream_name, request.stream_arn
    is_free = limits.is_stream_name_free
    if arn is None and name is not None and not is_free and is_stream_name(name):
        return
    problems = list(stream_problems(name, arn, is_stream_name_free=is_free))
    if problems:
        raise validation_error(problems)
    if name is not None and arn is not None and name not in (arn, _stream_of_arn(arn)):
        raise api_error(
            "InvalidArgumentException",
            f"StreamARN names the stream {_stream_of_arn(arn)}, and StreamName {name}; "
            "give one of the two, or the same stream.",
        )


def _stream_of_arn(arn: str) -> str:
    parsed = parse_arn(arn)
    return arn if parsed is None else parsed.name  # Yandex: an ARN is the stream's path


def check_sizes(
    request: PutRequest, limits: PutLimits, *, prefix: str = "records.%d.member."
) -> None:
    """Holds a request to a stream's limits of size. Raises ApiError, the request unchanged.

    Called by the parsers; once more by whoever then finds that this stream's limits are smaller.
    """
    sizes = request.sizes
    request_bytes = sum(sizes)
    problems = []
    # A request that is within the limit of one record has no record over it.
    if request_bytes > limits.record_bytes_max and max(sizes) > limits.record_bytes_max:
        for number, (record, size) in enumerate(zip(request.records, sizes, strict=True), 1):
            if size > limits.record_bytes_max:
                path = prefix % number if prefix else ""
                problems.append(_size_problem(record, size, path, limits.record_bytes_max))
    key_bytes_max = limits.partition_key_bytes_max
    if key_bytes_max is not None:
        for number, (record, size) in enumerate(zip(request.records, sizes, strict=True), 1):
            if size - len(record.data) > key_bytes_max:
                path = prefix % number if prefix else ""
                must = f"have no more than {key_bytes_max} bytes in UTF-8"
                problems.append(constraint(record.partition_key, f"{path}partitionKey", must))
    if problems:
        raise validation_error(problems)
    if request_bytes > limits.request_bytes_max:
        limit = f"{limits.request_bytes_max / MIB:g}"
        raise api_error("InvalidArgumentException", f"Records size exceeds {limit} MB limit")


def _size_problem(record: Record, size: int, prefix: str, size_max: int) -> str:
    """AWS's text of 2025-12 for data over the limit; ours where it is the key that makes it too
    much.
    """
    if len(record.data) > size_max:
        must, why = size_max, "."
    else:
        must = size_max - (size - len(record.data))
        why = f" (of the {size_max} bytes of a record its partition key takes the rest)."
    return (
        f"Value at '{prefix}data' failed to satisfy constraint: "
        f"Member must have length less than or equal to {must}{why}"
    )


# --- answering


def encode_put_records(results: Sequence[RecordResult]) -> bytes:
    """The answer to a PutRecords request: one entry per record, in its order."""
    failed = [result for result in results if not result.sequence_number or result.error_code]
    if failed:
        results = [result if result.is_delivered else _failure(result) for result in results]
    return b'{"EncryptionType":"NONE","FailedRecordCount":%d,"Records":%b}' % (
        len(failed),
        _encode(results),
    )


def encode_put_record(result: RecordResult) -> bytes:
    """The answer to a PutRecord request. Raises ApiError if the record was not delivered."""
    if not result.is_delivered:
        failure = _failure(result)
        raise api_error(failure.error_code or "InternalFailure", failure.error_message)
    return b'{"EncryptionType":"NONE",' + _encode(result)[1:]


def _failure(result: RecordResult) -> RecordResult:
    """Only what a failed entry has at AWS; a service that gave no reason gets the one AWS gives."""
    if result.error_code:
        return RecordResult(
            error_code=result.error_code, error_message=result.error_message or result.error_code
        )
    return RecordResult(error_code="InternalFailure", error_message="Internal Service Failure")


class AnswerHeaders:
    """The two headers by which a request can be named to support.

    x-amzn-RequestId has the form of a UUID (version 4), x-amz-id-2 of base64; neither is random:
    both are the process's prefix (64 bits that tell it from others) and the request's number.
    """

    __slots__ = ("_extended", "_number", "_request_id")

    def __init__(self, prefix: int) -> None:
        unique = b"%016x" % (prefix & 0xFFFFFFFFFFFFFFFF)
        parts = (unique[:8], unique[8:12], unique[12:15], unique[13:16])
        self._request_id = b"%b-%b-4%b-a%b-" % parts
        self._extended = b"kdaemon+" + unique
        self._number = 0

    def next(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of one more request."""
        self._number += 1
        number = b"%012x" % self._number
        return (
            (b"x-amzn-RequestId", self._request_id + number),
            (b"x-amz-id-2", self._extended + number),
        )
