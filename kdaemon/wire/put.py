"""The Kinesis API's PutRecord and PutRecords on the wire, both ways. Pure.

Reading is one typed decode straight into the `Record` objects that are queued and sent; its
constraints are checked in the same pass. Only if it fails is the body looked at again
(`explain.py`) to say why in the service's words. As at the service, one invalid record
refuses the whole request. Knows no stream's state, no queue, no connection; checks no signature.

Invariant: nothing of a request that is refused is taken; memory and time are in proportion to the
size of its body.
Where it sits: the connection -> door: read_envelope, parse -> engine -> encode -> the connection.

Two things differ from the service: base64 whose last character carries bits that no byte uses
(`ab==`) is accepted, as most decoders do; finding it would cost another pass over every body. A
body that names a member twice is refused, where the service takes one of the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Annotated, ClassVar

import msgspec

from kdaemon.base.counters import RejectReason
from kdaemon.base.limits import (
    HASH_KEY_MAX,
    MIB,
    PARTITION_KEY_CHARACTERS_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_CALL_MAX,
    REQUEST_BYTES_MAX,
    SPREAD_KEY_BYTES,
)
from kdaemon.base.names import is_stream_name, parse_arn
from kdaemon.base.record import PartitionKey, Record, RecordResult
from kdaemon.base.refused import Refused
from kdaemon.wire.explain import (
    HASH_KEY_DIGITS_MAX,
    HASH_KEY_MUST,
    SEQUENCE_NUMBER_DIGITS_MAX,
    SEQUENCE_NUMBER_MUST,
    UNREADABLE,
    explain_put_record,
    explain_put_records,
    hash_key_error,
    is_decimal,
    reason_of,
    stream_problems,
)
from kdaemon.wire.members import repeated_in_request
from kdaemon.wire.refusals import (
    VALIDATION_ERRORS_MAX,
    ApiError,
    Encoding,
    Refusal,
    api_error,
    constraint,
    echo,
    refuse,
    validation_error,
    worst_first,
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
    "encode_put_record",
    "encode_put_records",
    "parse_put_record",
    "parse_put_records",
    "read_envelope",
    "refuse_ordering",
    "require_keys",
    "status_of",
]

CBOR_ONLY_JSON = (
    "This endpoint reads application/x-amz-json-1.1, not CBOR. Switch the SDK to JSON: Java v2: "
    "-Daws.cborEnabled=false"
)

COUNTED_BYTES_MIN = MIB
"""A larger body is looked at before it is decoded. Ours, 2026-11-28: one of this size that is all
records of one short member makes 8 MB of objects before their number is refused."""

UNIFORM_RECORDS_MIN = 64  # with fewer, counting colons costs next to nothing; ours, 2026-11-28

SPARE_BYTES_MAX = MIB
"""Names, blanks, escapes and what the API does not know, in a body that has more members than it
must have. Ours, 2026-11-28: 500 keys whose characters are all escaped take 0.75 MiB."""

COLONS_MAX = RECORDS_PER_CALL_MAX * (PARTITION_KEY_CHARACTERS_MAX + 8)
"""Colons in a body: one for each member, and those in keys. Ours, 2026-11-28: the most that 500
records can have, whose keys are all colons, and then some; it bounds what is decoded for nothing
when a body holds more records than a call may have."""

# The answer of a client that asked not to wait for delivery: true for "it is there" and impossible
# to take for a real sequence number or shard.
ACCEPTED = RecordResult(sequence_number="accepted", shard_id="accepted")


class Operation(Enum):
    PUT_RECORD = "PutRecord"
    PUT_RECORDS = "PutRecords"


_JSON = Encoding.JSON.value
_PREFIX = b"Kinesis_20131202."
_OPERATIONS = {_PREFIX + operation.value.encode(): operation for operation in Operation}


@dataclass(frozen=True, slots=True)
class PutLimits:
    """What a request to one stream may hold. Bytes are data + partition key in UTF-8, summed."""

    record_bytes_max: int = RECORD_BYTES_MAX
    request_bytes_max: int = REQUEST_BYTES_MAX
    partition_key_bytes_max: int | None = None  # UTF-8; Yandex counts bytes (256), AWS characters
    is_stream_name_free: bool = False  # Yandex: names are paths and not held to AWS's pattern
    keyless_bytes: int = SPREAD_KEY_BYTES  # what a missing key counts


class PutRequest(msgspec.Struct):
    """A PutRecords request, or a PutRecord request with its one record.

    `sizes`: bytes of data + partition key (UTF-8), same length and order as `records`.
    At least one of `stream_name` and `stream_arn` is there; where both are they name the same
    stream. `keyless_count`: how many records came without a key; their key is empty here. Only a
    stream that is AUTO takes them: see `require_keys`. `is_single`: the request is a PutRecord.
    """

    stream_name: str | None
    stream_arn: str | None
    records: list[Record]
    sizes: list[int]
    is_dry_run: bool
    sequence_number_for_ordering: str | None = None
    keyless_count: int = 0
    is_single: bool = False

    refused_count: ClassVar[int] = 0  # one invalid record refuses the whole request

    @property
    def depends_on_kind(self) -> bool:
        """Whether it matters to the request if the stream is AUTO."""
        return self.keyless_count > 0 or self.sequence_number_for_ordering is not None

    def hold_to_kind(self, *, is_auto: bool) -> Refused | None:
        """Why a stream that is AUTO, or is not, does not take the request; None: it does."""
        try:
            (refuse_ordering if is_auto else require_keys)(self)
        except ApiError as error:
            return refused_by(error)
        return None

    def hold_to(self, limits: PutLimits) -> Refused | None:
        """Why a stream with these limits does not take the request; None: it does."""
        try:
            check_sizes(self, limits)
        except ApiError as error:
            return refused_by(error)
        return None

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


# The same where keys may be missing. Apart from the two above, so that an ordinary request is
# decoded straight into what is queued.


_MaybeKey = PartitionKey | None


class _OpenEntry(msgspec.Struct, gc=False):
    Data: bytes
    PartitionKey: _MaybeKey = None
    ExplicitHashKey: str | None = None


class _OpenRecords(msgspec.Struct):
    Records: Annotated[
        list[_OpenEntry], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)
    ]
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None


class _OpenRecord(msgspec.Struct):
    Data: bytes
    PartitionKey: _MaybeKey = None
    ExplicitHashKey: str | None = None
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None
    SequenceNumberForOrdering: str | None = None


_decode_records = msgspec.json.Decoder(_Records).decode
_decode_record = msgspec.json.Decoder(_Record).decode
_decode_open_records = msgspec.json.Decoder(_OpenRecords).decode
_decode_open_record = msgspec.json.Decoder(_OpenRecord).decode
_encode = msgspec.json.Encoder().encode

# Bytes of a request beside its values, written as short as JSON allows.
_MEMBERS_BYTES = len(b'{"Data":"","PartitionKey":""},')
_HEAD_MEMBERS_BYTES = len(b'{"Records":[],"StreamName":""}') - 1  # the last record has no comma
_MEMBER_BYTES_MIN = len(b'"Data":"",')  # what one member more takes at least
_SINGLE_BYTES = len(b'{"Data":"","PartitionKey":"","StreamName":""}') + _MEMBER_BYTES_MIN
_HEAD_BYTES = 64  # of a body: enough to see whether they do

_KEY_PROBLEM = "PartitionKey`"  # in the decoder's words when a key is missing or null


# --- reading


def read_envelope(method: str, headers: dict[bytes, bytes], body: bytes) -> Operation:
    """Which operation a request asks for. Header names in lower case.

    Raises ApiError with the service's answer, in its order: method, empty body, content type,
    target. The path is ignored, and so is who signed.
    """
    operation = _OPERATIONS.get(headers.get(b"x-amz-target", b""))
    if operation and body and method == "POST" and headers.get(b"content-type") == _JSON:
        return operation
    if method != "POST":
        text = "Unable to determine service/operation name to be authorized"
        refusal = refuse("AccessDeniedException", text, status=403)
        raise ApiError(refusal, Encoding.XML, record_count=1 if body else 0)
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not body:
        if operation is None:
            raise _unknown_operation(headers)
        raise api_error("SerializationException", "The request has no body.", record_count=0)
    if content_type == Encoding.CBOR.value:
        raise ApiError(refuse("SerializationException", CBOR_ONLY_JSON), Encoding.CBOR)
    if content_type != _JSON:
        is_plain = content_type == Encoding.PLAIN_JSON.value
        refusal = refuse("UnknownOperationException", None, status=404)
        raise ApiError(refusal, Encoding.PLAIN_JSON if is_plain else Encoding.XML)
    if operation is None:
        raise _unknown_operation(headers)
    return operation


def _unknown_operation(headers: dict[bytes, bytes]) -> ApiError:
    text = "The X-Amz-Target header must be Kinesis_20131202.PutRecord or .PutRecords here."
    if headers.get(b"x-amz-target", b"").startswith(_PREFIX):
        text += " For other operations ask the service itself."
    return api_error("UnknownOperationException", text, record_count=0)


def parse_put_records(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecords request. Raises ApiError; nothing of it is taken then."""
    if len(body) > COUNTED_BYTES_MIN:
        _count_colons(body)
    keyless_count = 0
    try:
        wire = _decode_records(body)
    except UNREADABLE as error:
        wire = _read_keyless_records(body, reason_of(error), limits)
        keyless_count = sum(not record.partition_key for record in wire.Records)
    records = wire.Records
    keys = "".join([record.partition_key for record in records])
    if keys.isascii() and not keyless_count:
        sizes = [len(record.data) + len(record.partition_key) for record in records]
    else:
        sizes = _wide_sizes(records, limits)
    request = PutRequest(
        wire.StreamName, wire.StreamARN, records, sizes, wire.DryRun is True, None, keyless_count
    )
    hash_keys: list[str | None] = []
    if keyless_count or not _is_ordinary(body, wire, keys):
        hash_keys = [record.explicit_hash_key for record in records]
        member_count = 1 + 3 * len(records) - keyless_count - hash_keys.count(None)
        _refuse_repeats(request, body, member_count + _head_member_count(wire))
    _check(request, limits, hash_keys)
    return request


def _is_ordinary(body: bytes, wire: _Records, keys: str) -> bool:
    """Whether a body has no member but those that each request must have, and those once: its text
    has no room for another, being as long as their names and values, or longer by just the blanks
    that Python's encoder writes. The cheapest proof there is: to count the colons of 500 records
    takes three times as long.

    A text of UNIFORM_RECORDS_MIN records or more whose blanks somebody took out by hand, as many as
    a second member has bytes, passes for one of Python's.
    """
    records = wire.Records
    count = len(records)
    base64_bytes = 4 * sum([(len(record.data) + 2) // 3 for record in records])
    name_bytes = _HEAD_MEMBERS_BYTES + count * _MEMBERS_BYTES + len(wire.StreamName or "")
    room = len(body) - base64_bytes - len(keys) - name_bytes
    if room < _MEMBER_BYTES_MIN:
        return True
    if count < UNIFORM_RECORDS_MIN or room != 4 * count + 2:  # after 2n + 2 colons and 2n commas
        return False
    has_blanks = body.find(b'": ', 0, _HEAD_BYTES) >= 0
    return has_blanks and [record.explicit_hash_key for record in records].count(None) == count


def parse_put_record(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecord request. Raises ApiError."""
    try:
        wire = _decode_record(body)
    except UNREADABLE as error:
        wire = _read_keyless_record(body, reason_of(error), limits)
    data, key, hash_key = wire.Data, wire.PartitionKey, wire.ExplicitHashKey
    ordering = wire.SequenceNumberForOrdering
    key_bytes = len(key) if key.isascii() else len(key.encode())
    request = PutRequest(
        wire.StreamName,
        wire.StreamARN,
        [Record(data, key, hash_key)],
        [len(data) + (key_bytes or limits.keyless_bytes)],
        wire.DryRun is True,
        ordering,
        0 if key else 1,
        True,
    )
    # As in `_is_ordinary`; there is none for a few blanks and one member more.
    room = len(body) - (len(data) + 2) // 3 * 4 - key_bytes - len(wire.StreamName or "")
    if room >= _SINGLE_BYTES or not key:
        member_count = 1 + bool(key) + (hash_key is not None) + (ordering is not None)
        _refuse_repeats(request, body, member_count + _head_member_count(wire))
    _check(request, limits, () if hash_key is None else (hash_key,))
    return request


def _count_colons(body: bytes) -> int:
    """All colons of a body, of which there cannot be fewer than members. Raises ApiError if there
    are more than any request of the API has.
    """
    count = body.count(b":")
    if count > COLONS_MAX:
        text = (
            f"The body has {count} colons, and so more members and keys than a request of "
            f"{RECORDS_PER_CALL_MAX} records can have."
        )
        raise api_error("SerializationException", text)
    return count


def _head_member_count(wire: _Records | _Record) -> int:
    """How many members there are that say which stream is meant, and how."""
    return (
        (wire.StreamName is not None)
        + (wire.StreamARN is not None)
        + (wire.StreamId is not None)
        + (wire.DryRun is not None)
    )


def _refuse_repeats(request: PutRequest, body: bytes, member_count: int) -> None:
    """Raises ApiError if a member is named twice. `member_count`: of those that were read; colons
    beyond one for each of them are of a text, of a member that is null or unknown, or of a repeat.
    """
    spare = _count_colons(body) - member_count
    if not spare:
        return
    if len(body) - sum(request.sizes) * 4 // 3 > SPARE_BYTES_MAX:
        text = f"The body has more than {SPARE_BYTES_MAX} bytes beyond its records."
        raise _of(request, api_error("SerializationException", text))
    if b"\\" not in body:  # nothing is escaped: what was read is what was written
        texts = [record.partition_key for record in request.records]
        texts += [request.stream_name or "", request.stream_arn or ""]
        if spare == "".join(texts).count(":"):
            return
    try:
        name = repeated_in_request(body, is_single=request.is_single)
    except UNREADABLE as error:  # in what the API does not know and the decoder skips
        text = f"The body cannot be read as this operation's input: {reason_of(error)}."
        raise _of(request, api_error("SerializationException", text)) from None
    if name is not None:
        text = f"The member {echo(name)} is there twice: one of its two values would be lost."
        raise _of(request, api_error("SerializationException", text))


def _read_keyless_records(body: bytes, reason: str, limits: PutLimits) -> _Records:
    """A body that the strict decoder refuses, for `reason`; records without a key have an empty
    one. Raises ApiError if that was not all.
    """
    if _KEY_PROBLEM in reason:
        try:
            wire = _decode_open_records(body)
        except UNREADABLE as error:
            reason = reason_of(error)
        else:
            records = [
                Record(entry.Data, entry.PartitionKey or "", entry.ExplicitHashKey)
                for entry in wire.Records
            ]
            return _Records(records, wire.StreamName, wire.StreamARN, wire.StreamId, wire.DryRun)
    raise explain_put_records(body, reason, is_stream_name_free=limits.is_stream_name_free)


def _read_keyless_record(body: bytes, reason: str, limits: PutLimits) -> _Record:
    """The same for one record."""
    if _KEY_PROBLEM in reason:
        try:
            wire = _decode_open_record(body)
        except UNREADABLE as error:
            reason = reason_of(error)
        else:
            return _Record(
                wire.Data,
                wire.PartitionKey or "",
                wire.ExplicitHashKey,
                wire.StreamName,
                wire.StreamARN,
                wire.StreamId,
                wire.DryRun,
                wire.SequenceNumberForOrdering,
            )
    raise explain_put_record(body, reason, is_stream_name_free=limits.is_stream_name_free)


def _wide_sizes(records: list[Record], limits: PutLimits) -> list[int]:
    """Of records whose keys are not all ASCII, or missing."""
    keyless_bytes = limits.keyless_bytes
    return [
        len(record.data) + (len(record.partition_key.encode()) or keyless_bytes)
        for record in records
    ]


def _check(request: PutRequest, limits: PutLimits, hash_keys: Sequence[str | None]) -> None:
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
        _check_members(request, limits, hash_keys)
    request_bytes = sum(request.sizes)
    if (
        request_bytes > limits.record_bytes_max
        or request_bytes > limits.request_bytes_max
        or limits.partition_key_bytes_max is not None
    ):
        check_sizes(request, limits)


def _check_members(request: PutRequest, limits: PutLimits, hash_keys: Sequence[str | None]) -> None:
    name, arn = request.stream_name, request.stream_arn
    problems = [
        *islice(_hash_key_problems(request, hash_keys), VALIDATION_ERRORS_MAX),
        *_ordering_problems(request.sequence_number_for_ordering),
        *stream_problems(name, arn, is_stream_name_free=limits.is_stream_name_free),
    ]
    if problems:
        raise _of(request, validation_error(problems))
    for key in hash_keys:
        if key is not None and int(key) > HASH_KEY_MAX:
            raise _of(request, hash_key_error(key))
    if name is not None and arn is not None and name not in (arn, _stream_of_arn(arn)):
        text = (
            f"StreamARN names the stream {echo(_stream_of_arn(arn))}, and StreamName "
            f"{echo(name)}; give one of the two, or the same stream."
        )
        raise _of(request, api_error("InvalidArgumentException", text))


def _hash_key_problems(request: PutRequest, hash_keys: Sequence[str | None]) -> Iterator[str]:
    for number, key in enumerate(hash_keys, 1):
        if key is not None and not is_decimal(key, HASH_KEY_DIGITS_MAX):
            yield constraint(key, _path(request, number, "explicitHashKey"), HASH_KEY_MUST)


def _ordering_problems(number: str | None) -> Iterator[str]:
    if number is not None and not is_decimal(number, SEQUENCE_NUMBER_DIGITS_MAX):
        yield constraint(number, "sequenceNumberForOrdering", SEQUENCE_NUMBER_MUST)


def _path(request: PutRequest, number: int, member: str) -> str:
    """Where a member of record `number` (from 1) stands, as the service writes it."""
    return member if request.is_single else f"records.{number}.member.{member}"


def _of(request: PutRequest, error: ApiError) -> ApiError:
    """The error of a request that could be read."""
    error.record_count = len(request.records)
    error.stream = request.stream_arn or request.stream_name
    return error


def _stream_of_arn(arn: str) -> str:
    parsed = parse_arn(arn)
    return arn if parsed is None else parsed.name  # Yandex: an ARN is the stream's path


def require_keys(request: PutRequest) -> None:
    """Raises ApiError, in the service's words, if a record has no partition key: for a stream that
    goes by keys.
    """
    if not request.keyless_count:
        return
    problems = (
        constraint(None, _path(request, number, "partitionKey"), "not be null")
        for number, record in enumerate(request.records, 1)
        if not record.partition_key
    )
    raise _of(request, validation_error(list(islice(problems, VALIDATION_ERRORS_MAX))))


def refuse_ordering(request: PutRequest) -> None:
    """Raises ApiError if a SequenceNumberForOrdering is given: for a stream that is AUTO, where
    there is no order to ask for [M]. AWS's text is not known.
    """
    if request.sequence_number_for_ordering is not None:
        text = "SequenceNumberForOrdering is not supported for streams that distribute records."
        raise _of(request, api_error("InvalidArgumentException", text))


def refused_by(error: ApiError) -> Refused:
    """An error of the wire as the door counts it."""
    refusal = error.refusal
    message = refusal.message or ""
    return Refused(RejectReason.INVALID, refusal.code, message, refusal.is_permanent)


def check_sizes(request: PutRequest, limits: PutLimits) -> None:
    """Holds a request to a stream's limits of size. Raises ApiError, the request unchanged.

    Called by the parsers; once more by whoever then finds that this stream's limits are smaller.
    """
    sizes = request.sizes
    request_bytes = sum(sizes)
    # A request that is within the limit of one record has no record over it.
    if request_bytes > limits.record_bytes_max or limits.partition_key_bytes_max is not None:
        problems = list(islice(_size_problems(request, limits), VALIDATION_ERRORS_MAX))
        if problems:
            raise _of(request, validation_error(problems))
    if request_bytes > limits.request_bytes_max:
        text = f"Records size exceeds {limits.request_bytes_max / MIB:g} MB limit"
        raise _of(request, api_error("InvalidArgumentException", text))


def _size_problems(request: PutRequest, limits: PutLimits) -> Iterator[str]:
    record_bytes_max, key_bytes_max = limits.record_bytes_max, limits.partition_key_bytes_max
    numbered = list(enumerate(zip(request.records, request.sizes, strict=True), 1))
    for number, (record, size) in numbered:
        if size > record_bytes_max:
            yield _size_problem(record, size, _path(request, number, "data"), record_bytes_max)
    if key_bytes_max is not None:
        for number, (record, size) in numbered:
            if size - len(record.data) > key_bytes_max:
                must = f"have no more than {key_bytes_max} bytes in UTF-8"
                path = _path(request, number, "partitionKey")
                yield constraint(record.partition_key, path, must)


def _size_problem(record: Record, size: int, path: str, size_max: int) -> str:
    """AWS's text of 2025-12 for data over the limit; ours where it is the key that makes it too
    much.
    """
    if len(record.data) > size_max:
        must, why = size_max, "."
    else:
        must = size_max - (size - len(record.data))
        why = f" (of the {size_max} bytes of a record its partition key takes the rest)."
    return (
        f"Value at '{path}' failed to satisfy constraint: "
        f"Member must have length less than or equal to {must}{why}"
    )


# --- answering


def encode_put_records(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """The answer to a PutRecords request: one entry per record, in its order.

    `encryption`: the service's word (EncryptionType).
    """
    failed = [result for result in results if not result.sequence_number or result.error_code]
    if failed:
        results = [result if result.is_delivered else _failure(result) for result in results]
    return b'{"EncryptionType":%b,"FailedRecordCount":%d,"Records":%b}' % (
        _encode(encryption),
        len(failed),
        _encode(results),
    )


def encode_put_record(result: RecordResult, encryption: str = "NONE") -> bytes:
    """The answer to a PutRecord request. Raises ApiError if the record was not delivered."""
    if not result.is_delivered:
        raise ApiError(_refusal_of(result))
    return b'{"EncryptionType":%b,%b' % (_encode(encryption), _encode(result)[1:])


def status_of(results: Sequence[RecordResult]) -> Refusal | None:
    """The refusal that a whole request gets of which nothing was delivered (or taken): clients that
    read the status alone must hear of it. None if at least one record was.
    """
    if any(result.sequence_number and not result.error_code for result in results):
        return None
    return worst_first(map(_refusal_of, results))


def _refusal_of(result: RecordResult) -> Refusal:
    failure = _failure(result)
    return refuse(failure.error_code or "", failure.error_message)


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
