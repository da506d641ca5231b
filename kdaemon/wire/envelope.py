"""Around a body of the Kinesis API: what it asks, its weight, what a request is named by. Pure.

Reading looks at method, content type and X-Amz-Target, in the service's order; the path is ignored,
and so is who signed. Knows nothing of bodies but whether there is one, and what a large one costs
to read.
Where it sits: the connection -> door: read_envelope -> `put.py`; AnswerHeaders -> the connection.
"""

from enum import Enum
from typing import Final

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.operations import OTHER_OPERATIONS, OtherOperation
from kdaemon.wire.explain import count_records, count_records_cbor
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse

AT_ONCE_BYTES_MAX = MIB
"""A larger body is weighed first, and then read in steps. Ours, 2026-11-28: whatever one of this
size holds is read and refused within 8 ms."""

WEIGHT_MAX = 768 * KIB
"""Bytes of a large body that are no letters of base64: its syntax, blanks, escapes, and most of its
keys. Each of them may cost a parser ten times what base64 costs. Ours, 2026-11-28: 500 keys of 256
emoji take 500 KiB, a call of 10 MiB whose slashes are all escaped takes 220 KiB; beside 16 MiB of
base64 (9 ms) this much of the worst costs 7 ms."""

_WEIGHED_AT_ONCE_BYTES = 256 * KIB  # a copy of them is made; ours, 2026-11-28
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Operation(Enum):
    """What is asked, and what it is written in."""

    PUT_RECORD = ("PutRecord", Encoding.JSON)
    PUT_RECORDS = ("PutRecords", Encoding.JSON)
    PUT_RECORD_CBOR = ("PutRecord", Encoding.CBOR)
    PUT_RECORDS_CBOR = ("PutRecords", Encoding.CBOR)

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call for each request


_JSON = Encoding.JSON.value
_PREFIX = b"Kinesis_20131202."
_TARGET_BYTES_MAX = 128  # ours: the longest of the API has 56
_OPERATIONS = {
    _PREFIX + operation.value[0].encode(): operation
    for operation in (Operation.PUT_RECORD, Operation.PUT_RECORDS)
}
_IN_CBOR = {
    Operation.PUT_RECORD: Operation.PUT_RECORD_CBOR,
    Operation.PUT_RECORDS: Operation.PUT_RECORDS_CBOR,
}


def read_envelope(
    method: str, headers: dict[bytes, bytes], body: bytes
) -> Operation | OtherOperation:
    """Which operation a request asks for; an other one perhaps without a body. Header names in
    lower case.

    Raises ApiError with the service's answer, in its order: method, empty body, content type,
    target. The path is ignored, and so is who signed.
    """
    operation = _OPERATIONS.get(headers.get(b"x-amz-target", b""))
    if operation and body and method == "POST" and headers.get(b"content-type") == _JSON:
        return operation
    content_type = content_type_of(headers)
    is_cbor = content_type == Encoding.CBOR.value
    other = None if operation else _other_operation(headers)
    counted = body if other is None else b""  # all others bring no records
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
    """What a request asks for by its target, whatever else is wrong with it; None: nothing that is
    known.
    """
    return _OPERATIONS.get(headers.get(b"x-amz-target", b"")) or _other_operation(headers)


def content_type_of(headers: dict[bytes, bytes]) -> bytes:
    """Without its parameters, in lower case."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def encoding_of(headers: dict[bytes, bytes]) -> Encoding:
    """What a request is written in, and its answer, unless it is refused for that."""
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
    """A refusal that has not looked at the body: its records are counted all the same, unless it
    would take long to find them.
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
    """One of the API that is neither PutRecord nor PutRecords."""
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
    """Whether a large body has more beside base64 than any request needs. It is looked through no
    further than that: 4 ms for 16 MiB that are in order.
    """
    weight = 0
    for at in range(0, len(body), _WEIGHED_AT_ONCE_BYTES):
        weight += len(body[at : at + _WEIGHED_AT_ONCE_BYTES].translate(None, _BASE64))
        if weight > WEIGHT_MAX:
            return True
    return False


_TWO_DIGITS: Final = [b"%02x" % number for number in range(256)]


class AnswerHeaders:
    """The two headers by which a request can be named to support.

    x-amzn-RequestId has the form of a UUID (version 4), x-amz-id-2 of base64; neither is random:
    both are the process's prefix (64 bits that tell it from others) and the request's number.
    """

    __slots__ = ("_extended", "_more_digits", "_number", "_request_id")

    def __init__(self, prefix: int) -> None:
        unique = b"%016x" % (prefix & 0xFFFFFFFFFFFFFFFF)
        parts = (unique[:8], unique[8:12], unique[12:15], unique[13:16])
        self._request_id = b"%b-%b-4%b-a%b-" % parts
        self._extended = b"kdaemon+" + unique
        self._number = 0  # of the last request
        self._more_digits = b"%010x" % 0  # of it, but for the last two

    def next(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of one more request."""
        self._number += 1
        last_digits = self._number & 255
        if not last_digits:
            self._more_digits = b"%010x" % (self._number >> 8)
        number = self._more_digits + _TWO_DIGITS[last_digits]
        return (
            (b"x-amzn-RequestId", self._request_id + number),
            (b"x-amz-id-2", self._extended + number),
        )
