"""What the Kinesis API answers to a request that it refuses, in the service's own words. Pure.

The slow half of `kinesis_api.py`: once its one typed decode has failed, the body is decoded again
to plain values, and what is wrong is named as the service names it: first what has the wrong type
(SerializationException), then what breaks a constraint (ValidationException, all of them, up to
ten). Knows no stream, no queue and no limit but those of the API model. Texts follow recorded
answers of a reference emulator and of AWS; where AWS no longer repeats a long value, neither do we.

Invariant: whatever the body, the answer is one `ApiError`, and it repeats no more than 300
characters of any value. It does repeat what the client sent: for the client only, never for a log.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kdaemon.base.limits import (
    HASH_KEY_MAX,
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
)

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"

VALIDATION_ERRORS_MAX = 10  # how many the service lists (recorded answer `pr.many_errors`)
ECHO_CHARACTERS_MAX = (
    300  # of a client's value in a text: a key of 257 is repeated whole, as recorded
)

# As in base/limits.py, but for `fullmatch` and ASCII digits only.
HASH_KEY = re.compile(r"0|[1-9][0-9]{0,38}")

# Codes that are the service's fault or its state, not the client's: everything else is 400.
_STATUSES = {
    "InternalFailure": 500,
    "InternalFailureException": 500,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
}


class ApiError(Exception):
    """A whole request is refused: everything that its answer needs."""

    def __init__(self, status: int, body: bytes, content_type: bytes, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.body = body
        self.content_type = content_type
        self.code = code


def encode_error(code: str, message: str | None) -> bytes:
    """The body of an error. A SerializationException has its text under `Message`, others
    `message`.
    """
    error = {"__type": code}
    if message is not None:
        error["Message" if code == "SerializationException" else "message"] = message
    return msgspec.json.encode(error)


def api_error(code: str, message: str | None) -> ApiError:
    """An error in JSON with the status that belongs to its code."""
    return ApiError(_STATUSES.get(code, 400), encode_error(code, message), JSON, code)


def cbor_error(code: str, message: str) -> ApiError:
    """The same for a client that speaks CBOR: a map of two texts (RFC 8949, 3)."""
    body = b"\xa2"
    for text in ("__type", code, "message", message):
        encoded = text.encode()
        body += b"\x79" + len(encoded).to_bytes(2, "big") + encoded
    return ApiError(400, body, CBOR, code)


def explain_put_records(body: bytes, *, is_stream_name_free: bool) -> ApiError:
    """Why this PutRecords body is refused."""
    return _explain(body, is_stream_name_free, _RECORDS_TYPES, _records_problems)


def explain_put_record(body: bytes, *, is_stream_name_free: bool) -> ApiError:
    """Why this PutRecord body is refused."""
    return _explain(body, is_stream_name_free, _RECORD_TYPES | _STREAM_TYPES, _record_problems)


def validation_error(problems: list[str]) -> ApiError:
    """ValidationException that lists up to ten problems."""
    listed = problems[:VALIDATION_ERRORS_MAX]
    plural = "" if len(listed) == 1 else "s"
    return api_error(
        "ValidationException",
        f"{len(listed)} validation error{plural} detected: " + "; ".join(listed),
    )


def hash_key_error(value: str) -> ApiError:
    """An explicit hash key that is a decimal, and too large."""
    return api_error(
        "InvalidArgumentException",
        "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
        f"Specified value was {value}",
    )


def _serialization_error(text: str) -> ApiError:
    return api_error("SerializationException", text)


def _explain(
    body: bytes, is_stream_name_free: bool, types: dict[str, Any], problems: Any
) -> ApiError:
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError:
        return _serialization_error("The body is not UTF-8.")
    except RecursionError:
        return _serialization_error("The body is nested too deeply.")
    except msgspec.DecodeError as error:
        return _serialization_error(f"The body is not JSON: {error}.")
    if isinstance(value, list):
        value = {}  # the service takes a list for an object without members
    if not isinstance(value, dict):
        return _serialization_error("The body must be a JSON object.")
    text = _type_problem(value, types)
    if text is not None:
        return _serialization_error(text)
    found = list(problems(value, is_stream_name_free))
    if found:
        return validation_error(found)
    for record in value.get("Records") or [value]:
        key = record.get("ExplicitHashKey")
        if key is not None and int(key) > HASH_KEY_MAX:
            return hash_key_error(key)
    return _serialization_error("The body cannot be read as this operation's input.")


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
_NOT_BASE64 = re.compile(r"[^a-zA-Z0-9+/=]|=[^=]")


def _type_problem(value: Any, expected: Any) -> str | None:
    """The first member of another type than the model's, or None. Unknown members are ignored."""
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
    if isinstance(value, int | float):
        return f"{_NUMBER} can not be converted to {article} {expected}"
    if expected == "Boolean":
        return f"'{_echo(value)}' can not be converted to an Boolean"
    return _base64_problem(value) if expected == "Blob" else None


def _base64_problem(text: str) -> str | None:
    start = f"'{_echo(text)}' can not be converted to a Blob: "
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


def _echo(text: str) -> str:
    if len(text) <= ECHO_CHARACTERS_MAX:
        return text
    return f"{text[:ECHO_CHARACTERS_MAX]}... ({len(text)} characters)"


def constraint(value: str | None, path: str, must: str) -> str:
    """One problem as the service lists it; `value` None stands for a null."""
    shown = "null" if value is None else f"'{_echo(value)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: Member must {must}"


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
    if hash_key is not None and not HASH_KEY.fullmatch(hash_key):
        must = r"satisfy regular expression pattern: 0|([1-9]\d{0,38})"
        yield constraint(hash_key, f"{prefix}explicitHashKey", must)
    if record.get("Data") is None:
        yield constraint(None, f"{prefix}data", "not be null")


def _stream_problems(request: dict[str, Any], is_stream_name_free: bool) -> Iterator[str]:
    name, arn = request.get("StreamName"), request.get("StreamARN")
    yield from stream_problems(name, arn, is_stream_name_free=is_stream_name_free)


def stream_problems(
    name: str | None, arn: str | None, *, is_stream_name_free: bool
) -> Iterator[str]:
    """What is wrong with the two ways to name a stream; free names need only be there."""
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
            yield constraint(arn, "streamARN", f"{pattern}{ARN_PATTERN}")
        yield from _length(arn, "streamARN", ARN_CHARACTERS_MAX)


def _records_problems(request: dict[str, Any], is_stream_name_free: bool) -> Iterator[str]:
    records = request.get("Records")
    if records is None:
        yield constraint(None, "records", "not be null")
    elif not records:
        yield constraint("[]", "records", "have length greater than or equal to 1")
    elif len(records) > RECORDS_PER_CALL_MAX:
        # The service repeats all 501 records here, as Java objects; that helps nobody.
        yield (
            "Value at 'records' failed to satisfy constraint: Member must have length less than or "
            f"equal to {RECORDS_PER_CALL_MAX}"
        )
    for number, record in enumerate(records or (), 1):
        if record is None:
            yield constraint(None, f"records.{number}.member", "not be null")
        else:
            yield from _member_problems(record, f"records.{number}.member.")
    yield from _stream_problems(request, is_stream_name_free)


def _record_problems(request: dict[str, Any], is_stream_name_free: bool) -> Iterator[str]:
    yield from _member_problems(request, "")
    yield from _stream_problems(request, is_stream_name_free)
