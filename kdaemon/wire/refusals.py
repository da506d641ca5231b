"""A refusal as a value, and its bytes in each encoding of the Kinesis API. Pure.

Other files decide what was wrong (`explain.py`, `put.py`, the door, the service). This file knows
what a code means to a client (the HTTP status, and whether sending again can help), and its bytes
on the wire. Knows no request, no stream and no connection.

Invariant: a refusal has at most a few KiB, whatever a client sent: `refuse` cuts its text.
Where it sits: `explain.py`, `put.py`, the door -> here -> the connection.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import NamedTuple

import msgspec

from kdaemon.wire import cbor

ECHO_CHARACTERS_MAX = 300
"""Of a client's value in a text; ours, 2026-11-28. A key of 257 characters is repeated whole, as a
reference emulator was recorded to do."""

MESSAGE_CHARACTERS_MAX = 4_000  # of a whole text: ten problems, each with a value; ours, 2026-11-28
VALIDATION_ERRORS_MAX = 10  # the service lists no more (recorded answer `pr.many_errors`)


class Encoding(Enum):
    """The encoding of an answer. The value is its content type."""

    JSON = b"application/x-amz-json-1.1"
    CBOR = b"application/x-amz-cbor-1.1"
    XML = b"text/xml"
    PLAIN_JSON = b"application/json"  # the service's form for a request without a known protocol


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request, or a record, is refused.

    `code`: the service's word. `message`: for people; None: the code says it all. `status`: HTTP's.
    `is_permanent`: the same request would be refused again.
    """

    code: str
    message: str | None
    status: int
    is_permanent: bool


class Rendered(NamedTuple):
    """A refusal on the wire."""

    status: int
    body: bytes
    content_type: bytes


# Codes after which the same request may succeed, with their HTTP status; and permanent codes whose
# status is not 400. All others are permanent and 400. Sources, 2026-11-28: the services' models and
# common errors; ydb-platform/ydb `http_proxy/http_req.cpp` for Yandex's (400 for most).
_TRANSIENT = {
    "InternalFailure": 500,
    "InternalFailureException": 500,
    "InternalServerError": 500,
    "InternalError": 500,
    "InternalException": 500,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
    "Unavailable": 503,
    "SlowDown": 503,
    "RequestTimeoutException": 408,
    "RequestAbortedException": 400,
    "ProvisionedThroughputExceededException": 400,
    "ThrottlingException": 400,
    "Throttling": 400,
    "RequestThrottled": 400,
    "RequestLimitExceeded": 400,
    "LimitExceededException": 400,
    "KMSThrottlingException": 400,
    "RequestExpired": 400,
    "Aborted": 400,
    "BadSession": 400,
    "SessionExpired": 400,
    "GenericError": 400,
}
_PERMANENT = {
    "RequestEntityTooLargeException": 413,
    "MethodNotAllowed": 405,
    "UnsupportedMediaType": 415,
}
_BY_CODE = {code: (status, False) for code, status in _TRANSIENT.items()} | {
    code: (status, True) for code, status in _PERMANENT.items()
}
_UNKNOWN = (400, True)

_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """A whole request is refused.

    `record_count`: how many records it has; 1 if they cannot be counted. `stream`: the stream as
    the client wrote it; None if it cannot be read.
    """

    def __init__(
        self,
        refusal: Refusal,
        encoding: Encoding = Encoding.JSON,
        *,
        record_count: int = 1,
        stream: str | None = None,
    ) -> None:
        super().__init__(f"{refusal.status} {refusal.code}")
        self.refusal = refusal
        self.encoding = encoding
        self.record_count = record_count
        self.stream = stream


def refuse(code: str, message: str | None, *, status: int | None = None) -> Refusal:
    """A refusal with the status of its code, unless `status` gives another."""
    usual_status, is_permanent = _BY_CODE.get(code, _UNKNOWN)
    if message is not None and len(message) > MESSAGE_CHARACTERS_MAX:
        message = f"{message[:MESSAGE_CHARACTERS_MAX]}..."
    return Refusal(code, message, usual_status if status is None else status, is_permanent)


def worst_first(refusals: Iterable[Refusal]) -> Refusal:
    """The refusal to tell to a client that can be told only one: first the service's own failures,
    then those that pass in a while, then permanent ones; of equals the first.
    """
    return min(refusals, key=lambda each: (each.is_permanent, each.status != 500))


def render(refusal: Refusal, encoding: Encoding) -> Rendered:
    """The answer's status, body and content type."""
    return Rendered(refusal.status, _WRITERS[encoding](refusal), encoding.value)


def _json(refusal: Refusal) -> bytes:
    """The text of a SerializationException is under `Message`, all others are under `message`."""
    error = {"__type": refusal.code}
    if refusal.message is not None:
        error["Message" if refusal.code == "SerializationException" else "message"] = (
            refusal.message
        )
    return _encode(error)


def _plain_json(refusal: Refusal) -> bytes:
    kind = f"com.amazon.coral.service#{refusal.code}"
    return _encode({"Output": {"__type": kind}, "Version": "1.0"})


def _cbor(refusal: Refusal) -> bytes:
    """The text is under `message`, whatever the code: SDKs that speak CBOR look for nothing
    else.
    """
    error = {"__type": refusal.code}
    if refusal.message is not None:
        error["message"] = refusal.message
    return cbor.encode(error)


def _xml(refusal: Refusal) -> bytes:
    if refusal.message is None:
        return f"<{refusal.code}/>\n".encode()
    text = f"  <Message>{escape(refusal.message, quote=False)}</Message>"
    return f"<{refusal.code}>\n{text}\n</{refusal.code}>\n".encode()


_WRITERS = {
    Encoding.JSON: _json,
    Encoding.CBOR: _cbor,
    Encoding.XML: _xml,
    Encoding.PLAIN_JSON: _plain_json,
}


# --- helpers for refusing code


def api_error(
    code: str, message: str | None, *, record_count: int = 1, stream: str | None = None
) -> ApiError:
    """An error in JSON, with the status of its code."""
    return ApiError(refuse(code, message), record_count=record_count, stream=stream)


def validation_error(problems: list[str]) -> ApiError:
    """A ValidationException that lists up to ten problems."""
    listed = problems[:VALIDATION_ERRORS_MAX]
    plural = "" if len(listed) == 1 else "s"
    return api_error(
        "ValidationException",
        f"{len(listed)} validation error{plural} detected: " + "; ".join(listed),
    )


def constraint(value: str | None, path: str, must: str) -> str:
    """One problem as the service lists it. `value`: None: a null."""
    shown = "null" if value is None else f"'{echo(value)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: Member must {must}"


def repeated(name: str) -> str:
    """Why a body is refused that has the member `name` twice."""
    return f"The member {echo(name)} is there twice: one of its two values would be lost."


def echo(text: str) -> str:
    """A client's value, cut for repeating: only to the client itself, never to a log."""
    if len(text) <= ECHO_CHARACTERS_MAX:
        return text
    return f"{text[:ECHO_CHARACTERS_MAX]}... ({len(text)} characters)"
