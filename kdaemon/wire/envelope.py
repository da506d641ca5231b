"""Around a body of the Kinesis API: its operation, its weight, the names of a request. Pure.

Reading checks method, content type and X-Amz-Target, in the service's order; path and signature are
ignored. Of a body it knows only whether there is one, and what reading a large one costs.
Where it sits: the connection -> door: read_envelope -> `put.py`; AnswerHeaders -> the connection.
"""

from enum import Enum
from typing import Final

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.operations import OTHER_OPERATIONS, OtherOperation
from kdaemon.wire.explain import count_records, count_records_cbor
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse

AT_ONCE_BYTES_MAX: Final = MIB
"""A larger body is weighed first, and then read in steps. Ours, 2026-11-28: any body of this size
is read and refused within 8 ms."""

WEIGHT_MAX = 768 * KIB
"""Bytes of a large body that are no letters of base64: its syntax, blanks, escapes, and most of its
keys. Each of them may cost a parser ten times as much as base64. Ours, 2026-11-28: 500 keys of 256
emoji take 500 KiB; in a call of 10 MiB with all slashes escaped these bytes are 220 KiB; beside 16
MiB of base64 (9 ms) WEIGHT_MAX of the worst costs 7 ms."""

_WEIGHED_AT_ONCE_BYTES = 256 * KIB  # in one step, which copies them; ours, 2026-11-28
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Operation(Enum):
    """The operation that is asked for, and the encoding of its body."""

    PUT_RECORD = ("PutRecord", Encoding.JSON)
    PUT_RECORDS = ("PutRecords", Encoding.JSON)
    PUT_RECORD_CBOR = ("PutRecord", Encoding.CBOR)
    PUT_RECORDS_CBOR = ("PutRecords", Encoding.CBOR)

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call for each request


_JSON: Final = Encoding.JSON.value
_PREFIX = b"Kinesis_20131202."
_TARGET_BYTES_MAX = 128  # ours: the longest of the API has 56
_OPERATIONS: Final = {
    _PREFIX + operation.value[0].encode(): operation
    for operation in (Operation.PUT_RECORD, Operation.PUT_RECORDS)
}
_IN_CBOR: Final = {
    Operation.PUT_RECORD: Operation.PUT_RECORD_CBOR,
    Operation.PUT_RECORDS: Operation.PUT_RECORDS_CBOR,
}


def read_envelope(
    method: str, headers: dict[bytes, bytes], body: bytes
) -> Operation | OtherOperation:
    """The operation of a request. An operation that is passed on may have no body. Header names in
    lower case.

    Raises ApiError with the service's answer, checking in its order: method, empty body, content
    type, target. Path and signature are ignored.
    """
    operation = _OPERATIONS.get(headers.get(b"x-amz-target", b""))
    if operation and body and method == "POST" and headers.get(b"content-type") == _JSON:
        return operation
    content_type = content_type_of(headers)
    is_cbor = content_type == Encoding.CBOR.value
    other = None if operation else _other_operation(headers)
    counted = body if other is None else b""  # other operations bring no records
    if method != "POST":
        text = "Unable to determine service/operation name to be authorized"
        refusal = refuse("AccessDeniedException", text, status=403)
        raise _of(counted, operation, refusal, Encoding.XML, is_cbor=is_cbor)
    if not body and other is None:
        if operation is None:
            raise _unknown_operation(headers, is_cbor=is_cbor)
        refusal = refuse("SerializationException", "The request has no body.")
        raise _of(counted, operation, refusal, Encoding.CBOR if is_cbor else Encoding.JSON)
    if not is_cbor and content_type != _JSON:
        is_plain = content_type == Encoding.PLAIN_JSON.value
        refusal = refuse("UnknownOperationException", None, status=404)
        encoding = Encoding.PLAIN_JSON if is_plain else Encoding.XML
        raise _of(counted, operation, refusal, encoding)
    if operation is not None:
        return _IN_CBOR[operation] if is_cbor else operation
    if other is None:
        raise _unknown_operation(headers, is_cbor=is_cbor)
    return other


def operation_of(headers: dict[bytes, bytes]) -> Operation | OtherOperation | None:
    """The operation by the target alone, whatever else is wrong with the request; None: it is not
    known.
    """
    return _OPERATIONS.get(headers.get(b"x-amz-target", b"")) or _other_operation(headers)


def content_type_of(headers: dict[bytes, bytes]) -> bytes:
    """The content type without its parameters, in lower case."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def encoding_of(headers: dict[bytes, bytes]) -> Encoding:
    """The encoding of a request and its answer, unless the request is refused for its encoding."""
    is_cbor = content_type_of(headers) == Encoding.CBOR.value
    return Encoding.CBOR if is_cbor else Encoding.JSON


def _of(
    body: bytes,
    operation: Operation | None,
    refusal: Refusal,
    encoding: Encoding,
    *,
    is_cbor: bool = False,
) -> ApiError:
    """A refusal that does not depend on the body. The body's records are counted nevertheless,
    unless finding them takes long.
    """
    if not body:
        return ApiError(refusal, encoding, record_count=0)
    count, stream = 1, None
    if operation is not None and is_cbor:
        count, stream = count_records_cbor(body)
    elif operation is not None and not is_too_heavy(body):
        count, stream = count_records(body)
    return ApiError(refusal, encoding, record_count=count, stream=stream)


def _other_operation(headers: dict[bytes, bytes]) -> OtherOperation | None:
    """An operation of the API that is neither PutRecord nor PutRecords."""
    target = headers.get(b"x-amz-target", b"")
    if not target.startswith(_PREFIX) or len(target) > _TARGET_BYTES_MAX:
        return None
    return OTHER_OPERATIONS.get(target.removeprefix(_PREFIX).decode("latin-1"))


def _unknown_operation(headers: dict[bytes, bytes], *, is_cbor: bool) -> ApiError:
    text = (
        "kdaemon delivers records to Kinesis: the X-Amz-Target header must be"
        " Kinesis_20131202.PutRecord, .PutRecords, or an operation that is passed on"
        " (listen.operations_passed_on)."
    )
    if headers.get(b"x-amz-target", b"").startswith(_PREFIX):
        text += " The API has no operation of this name."
    refusal = refuse("UnknownOperationException", text)
    return ApiError(refusal, Encoding.CBOR if is_cbor else Encoding.JSON, record_count=0)


def is_too_heavy(body: bytes) -> bool:
    """Whether a large body has more bytes beside base64 than any request needs. The search stops
    there; 16 MiB that are in order take 4 ms.
    """
    weight = 0
    for at in range(0, len(body), _WEIGHED_AT_ONCE_BYTES):
        weight += len(body[at : at + _WEIGHED_AT_ONCE_BYTES].translate(None, _BASE64))
        if weight > WEIGHT_MAX:
            return True
    return False


_TWO_DIGITS: Final = [b"%02x" % number for number in range(256)]


class AnswerHeaders:
    """The two headers that name a request to support.

    x-amzn-RequestId has the form of a UUID (version 4), x-amz-id-2 that of base64. Neither is
    random: both are made of the process's prefix (64 bits, unique to it) and the request's number.
    """

    __slots__ = ("_extended", "_more_digits", "_number", "_request_id")

    def __init__(self, prefix: int) -> None:
        unique = b"%016x" % (prefix & 0xFFFFFFFFFFFFFFFF)
        parts = (unique[:8], unique[8:12], unique[12:15], unique[13:16])
        self._request_id = b"\r\nx-amzn-RequestId: %b-%b-4%b-a%b-" % parts
        self._extended = b"\r\nx-amz-id-2: kdaemon+" + unique
        self._number = 0  # of the last request
        self._more_digits = b"%010x" % 0  # of it, but for the last two

    def next(self) -> bytes:
        """The headers of the next request, as HTTP/1.1 writes them, each behind a line end."""
        self._number += 1
        last_digits = self._number & 255
        if not last_digits:
            self._more_digits = b"%010x" % (self._number >> 8)
        number = self._more_digits + _TWO_DIGITS[last_digits]
        return b"%b%b%b%b" % (self._request_id, number, self._extended, number)
