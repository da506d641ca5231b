"""Why a body is not the input of PutRecord or PutRecords, in the service's own words. Pure.

The slow half of `put.py`. Once its one typed decode has failed, a small body is decoded again to
plain values (a CBOR body is given as such), and the error is named as the service names it: first a
wrong type (SerializationException), then broken constraints (ValidationException, up to ten of
them). A large body is not decoded to plain values, which may take fifty times its size: it is
refused with the typed decoder's own message. Knows no stream, no queue and no limit but those of
the API model. Texts follow recorded answers of a reference emulator and of AWS.

Invariant: whatever the body, the answer is one `ApiError`, and memory and time are in proportion to
the body's size. The error repeats the client's input: it is for the client only, never for a log.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from kdaemon.base.limits import (
    HASH_KEY_MAX,
    KIB,
    PARTITION_KEY_CHARACTERS_MAX,
    RECORDS_PER_CALL_MAX,
)
from kdaemon.base.names import (
    ARN_CHARACTERS_MAX,
    ARN_PATTERN,
    NAME_PATTERN,
    STREAM_NAME_CHARACTERS_MAX,
    is_stream_name,
    parse_arn,
    partition_problem,
)
from kdaemon.wire import cbor
from kdaemon.wire.refusals import (
    VALIDATION_ERRORS_MAX,
    ApiError,
    api_error,
    constraint,
    echo,
    validation_error,
)

EXPLAINED_BYTES_MAX = 64 * KIB
"""A larger body is not decoded to plain values. Ours, 2026-11-28: 3 MB and 5 ms at worst."""

ITEMS_COUNTED_MAX = 150_000
"""Commas of a refused body whose records are still counted: 9 MB at worst. Ours, 2026-11-28; 500
records whose keys are all commas have 128,000."""

REASON_CHARACTERS_MAX = 300  # of the decoder's message; ours, 2026-11-28

HASH_KEY_DIGITS_MAX = 39  # of 2^128-1 [M]
SEQUENCE_NUMBER_DIGITS_MAX = 129  # [M]
HASH_KEY_MUST = r"satisfy regular expression pattern: 0|([1-9]\d{0,38})"
SEQUENCE_NUMBER_MUST = r"satisfy regular expression pattern: 0|([1-9]\d{0,128})"

_NOT_UTF8 = "not UTF-8"
_TOO_DEEP = "nested too deeply"

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Raised by the decoder: no JSON, or wrong types; no UTF-8; nested too deeply."""


class _Glance(msgspec.Struct):
    """The part of a request that its refusal needs: the number of records, and the stream."""

    Records: list[msgspec.Raw] = []
    StreamName: str | None = None
    StreamARN: str | None = None


class _Seen(msgspec.Struct):
    """The same, for plain values."""

    Records: list[Any] = []
    StreamName: str | None = None
    StreamARN: str | None = None


_glance = msgspec.json.Decoder(_Glance).decode


def explain(body: bytes, reason: str, *, is_single: bool, is_stream_name_free: bool) -> ApiError:
    """Why this JSON body of a PutRecords request is refused (`is_single`: of a PutRecord request).
    `reason`: the typed decoder's message.
    """
    if len(body) > EXPLAINED_BYTES_MAX:
        error = _complaint(reason)
    else:
        error = _judge_text(body, reason, is_single, is_stream_name_free)
    error.record_count, error.stream = count_records(body)
    return error


def explain_value(
    value: object, reason: str, byte_count: int, *, is_single: bool, is_stream_name_free: bool
) -> ApiError:
    """As `explain`, for a CBOR body of `byte_count` bytes that was decoded to `value`."""
    if byte_count > EXPLAINED_BYTES_MAX:
        error = _complaint(reason)
    else:
        error = _judge(value, "CBOR map", reason, is_single, is_stream_name_free)
    error.record_count, error.stream = _count_in(value)
    return error


def reason_of(error: Exception) -> str:
    """What the decoder found, as a bounded text. The exception itself must not be kept: its stack
    frame holds the body.
    """
    if isinstance(error, UnicodeDecodeError):
        return _NOT_UTF8
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    text = str(error)
    return text if len(text) <= REASON_CHARACTERS_MAX else f"{text[:REASON_CHARACTERS_MAX]}..."


def hash_key_error(value: str) -> ApiError:
    """The error for an explicit hash key that is a decimal, and too large."""
    return api_error(
        "InvalidArgumentException",
        "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
        f"Specified value was {value}",
    )


def is_decimal(text: str, digits_max: int) -> bool:
    """Whether a text is a whole number in ASCII digits without leading zeros, as the services' hash
    keys and sequence numbers are.
    """
    if not 0 < len(text) <= digits_max or not (text.isascii() and text.isdigit()):
        return False
    return text[0] != "0" or len(text) == 1


def count_records(body: bytes) -> tuple[int, str | None]:
    """How many records a refused body has, and its stream as the client wrote it; 1 and None if
    they cannot be read, or only at a high price.
    """
    if body.count(b",") > ITEMS_COUNTED_MAX:
        return 1, None
    try:
        seen = _glance(body)
    except UNREADABLE:
        return 1, None
    return _counted(seen)


def count_records_cbor(body: bytes) -> tuple[int, str | None]:
    """As `count_records`, for a body in CBOR."""
    try:
        return _count_in(cbor.decode(body))
    except cbor.CborError:
        return 1, None


def _count_in(value: object) -> tuple[int, str | None]:
    try:
        return _counted(msgspec.convert(value, _Seen))
    except msgspec.ValidationError:
        return 1, None


def _counted(seen: _Glance | _Seen) -> tuple[int, str | None]:
    stream = seen.StreamARN or seen.StreamName
    if stream is not None and len(stream) > ARN_CHARACTERS_MAX:
        stream = None  # no stream has such a name
    return len(seen.Records) or 1, stream


# --- large bodies

_PLACE = re.compile(r"`\$\.?([A-Za-z0-9_.\[\]]{0,100})`$")  # at the end of the decoder's message
_LENGTH = re.compile(r"of length (<=|>=) ([0-9]{1,9})")
_INDEX = re.compile(r"\[([0-9]{1,9})\]")


def _complaint(reason: str) -> ApiError:
    """The typed decoder's message as an error; one about a length in the service's words."""
    if reason in (_NOT_UTF8, _TOO_DEEP):
        return _serialization_error(f"The body is {reason}.")
    place, length = _PLACE.search(reason), _LENGTH.search(reason)
    if place and length:
        path = _INDEX.sub(lambda index: f".{int(index[1]) + 1}.member", place[1])
        path = ".".join(part[:1].lower() + part[1:] for part in path.split("."))
        word = "less" if length[1] == "<=" else "greater"
        text = (
            f"Value at '{path}' failed to satisfy constraint: "
            f"Member must have length {word} than or equal to {length[2]}"
        )
        return validation_error([text])
    code = "ValidationException" if "missing required" in reason else "SerializationException"
    return api_error(code, f"The body cannot be read as this operation's input: {reason}.")


# --- small bodies


def _judge_text(body: bytes, reason: str, is_single: bool, is_stream_name_free: bool) -> ApiError:
    try:
        value = msgspec.json.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        return _complaint(reason_of(error))
    except msgspec.DecodeError as error:
        return _serialization_error(f"The body is not JSON: {error}.")
    return _judge(value, "JSON object", reason, is_single, is_stream_name_free)


def _judge(
    value: object, form: str, reason: str, is_single: bool, is_stream_name_free: bool
) -> ApiError:
    """`form`: what the value must be, in the terms of its encoding."""
    if isinstance(value, list):
        value = {}  # the service takes a list as an object without members
    if not isinstance(value, dict):
        return _serialization_error(f"The body must be a {form}.")
    text = _type_problem(value, _RECORD_TYPES | _STREAM_TYPES if is_single else _RECORDS_TYPES)
    if text is not None:
        return _serialization_error(text)
    name, arn = value.get("StreamName"), value.get("StreamARN")
    problems = chain(
        _record_problems(value) if is_single else _records_problems(value),
        stream_problems(name, arn, is_stream_name_free=is_stream_name_free),
    )
    found = list(islice(problems, VALIDATION_ERRORS_MAX))
    if found:
        return validation_error(found)
    for record in value.get("Records") or [value]:
        key = record.get("ExplicitHashKey")
        if key is not None and int(key) > HASH_KEY_MAX:
            return hash_key_error(key)
    return _serialization_error(f"The body cannot be read as this operation's input: {reason}.")


def _serialization_error(text: str) -> ApiError:
    return api_error("SerializationException", text)


# --- types

_STREAM_TYPES: dict[str, Any] = {
    "StreamName": "String",
    "StreamARN": "String",
    "StreamId": "String",
    "DryRun": "Boolean",
}
_RECORD_TYPES: dict[str, Any] = {
    "PartitionKey": "String",
    "ExplicitHashKey": "String",
    "SequenceNumberForOrdering": "String",
    "Data": "Blob",
}
_RECORDS_TYPES: dict[str, Any] = _STREAM_TYPES | {"Records": [_RECORD_TYPES]}

_COLLECTIONS = {"String": "java.lang.String", "Boolean": "java.lang.Boolean"}
_COLLECTIONS["Blob"] = "java.nio.ByteBuffer"
_NUMBER = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"
_BINARY = "class java.nio.HeapByteBuffer"  # JSON has none
_NOT_BASE64 = re.compile(r"[^a-zA-Z0-9+/=]|=[^=]")


def _type_problem(value: Any, expected: Any) -> str | None:
    """The first member whose type is not the model's; None: none. Unknown members are ignored."""
    if value is None:
        return None
    if isinstance(expected, dict):
        if isinstance(value, list):
            return "Start of list found where not expected"
        if not isinstance(value, dict):
            return "Expected null"
        pairs = ((value[name], expected[name]) for name in value if name in expected)
        return next(filter(None, (_type_problem(*pair) for pair in pairs)), None)
    if isinstance(expected, list):
        if isinstance(value, dict):
            return "Start of structure or map found where not expected."
        if not isinstance(value, list):
            return "Expected list or null"
        return next(filter(None, (_type_problem(one, expected[0]) for one in value)), None)
    return _scalar_problem(value, expected)


def _scalar_problem(value: Any, expected: str) -> str | None:
    if isinstance(value, list):
        return f"Unrecognized collection type class {_COLLECTIONS[expected]}"
    if isinstance(value, dict):
        return "Start of structure or map found where not expected."
    article = "a" if expected == "Blob" else "an"
    if isinstance(value, bool):
        if expected == "Boolean":
            return None
        return f"class java.lang.Boolean can not be converted to {article} {expected}"
    if isinstance(value, bytes):
        return None if expected == "Blob" else f"{_BINARY} can not be converted to an {expected}"
    if isinstance(value, int | float):
        return f"{_NUMBER} can not be converted to {article} {expected}"
    if expected == "Boolean":
        return f"'{echo(value)}' can not be converted to an Boolean"
    return _base64_problem(value) if expected == "Blob" else None


def _base64_problem(text: str) -> str | None:
    start = f"'{echo(text)}' can not be converted to a Blob: "
    if len(text) % 4:
        return (
            f"{start}Base64 encoded length is expected a multiple of 4 bytes but found: {len(text)}"
        )
    wrong = _NOT_BASE64.search(text)
    if wrong:
        return f"{start}Invalid Base64 character: '{wrong[0][0]}'"
    padding = len(text) - len(text.rstrip("="))
    if padding > 2 or (padding == 2 and text[-3] not in "AQgw"):
        return f"{start}Invalid last non-pad Base64 character dectected"
    return None


# --- constraints


def _length(value: str, path: str, length_max: int) -> Iterator[str]:
    if not value:
        yield constraint(value, path, "have length greater than or equal to 1")
    elif len(value) > length_max:
        yield constraint(value, path, f"have length less than or equal to {length_max}")


def _member_problems(record: dict[str, Any], prefix: str) -> Iterator[str]:
    key = record.get("PartitionKey")
    if key is None:
        yield constraint(None, f"{prefix}partitionKey", "not be null")
    else:
        yield from _length(key, f"{prefix}partitionKey", PARTITION_KEY_CHARACTERS_MAX)
    hash_key = record.get("ExplicitHashKey")
    if hash_key is not None and not is_decimal(hash_key, HASH_KEY_DIGITS_MAX):
        yield constraint(hash_key, f"{prefix}explicitHashKey", HASH_KEY_MUST)
    if record.get("Data") is None:
        yield constraint(None, f"{prefix}data", "not be null")


def stream_problems(
    name: str | None, arn: str | None, *, is_stream_name_free: bool
) -> Iterator[str]:
    """What is wrong with the name and the ARN of a stream. Free names need only be there."""
    pattern = "satisfy regular expression pattern: "
    if name is None and arn is None:
        yield constraint(None, "streamName", "not be null")
    if name is not None:
        is_short = is_stream_name(name[:STREAM_NAME_CHARACTERS_MAX])
        if not is_stream_name_free and not is_short:
            yield constraint(name, "streamName", f"{pattern}{NAME_PATTERN}")
        length_max = ARN_CHARACTERS_MAX if is_stream_name_free else STREAM_NAME_CHARACTERS_MAX
        yield from _length(name, "streamName", length_max)
    if arn is not None:
        if not is_stream_name_free and parse_arn(arn) is None:
            problem = partition_problem(arn)
            must = f"{pattern}{ARN_PATTERN}"
            if problem is not None:
                must = f"name the partition of its region: it {problem}"
            yield constraint(arn, "streamARN", must)
        yield from _length(arn, "streamARN", ARN_CHARACTERS_MAX)


def _records_problems(request: dict[str, Any]) -> Iterator[str]:
    records = request.get("Records")
    if records is None:
        yield constraint(None, "records", "not be null")
    elif not records:
        yield constraint("[]", "records", "have length greater than or equal to 1")
    elif len(records) > RECORDS_PER_CALL_MAX:
        # The service repeats all 501 records here, as Java objects, which helps nobody.
        yield (
            "Value at 'records' failed to satisfy constraint: Member must have length less than or "
            f"equal to {RECORDS_PER_CALL_MAX}"
        )
    for number, record in enumerate(records or (), 1):
        if record is None:
            yield constraint(None, f"records.{number}.member", "not be null")
        else:
            yield from _member_problems(record, f"records.{number}.member.")


def _record_problems(request: dict[str, Any]) -> Iterator[str]:
    yield from _member_problems(request, "")
    number = request.get("SequenceNumberForOrdering")
    if number is not None and not is_decimal(number, SEQUENCE_NUMBER_DIGITS_MAX):
        yield constraint(number, "sequenceNumberForOrdering", SEQUENCE_NUMBER_MUST)
