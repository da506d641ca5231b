"""What Yandex says: its refusals, its results of failed records, and how it wraps its issues.

Pure: words and codes only. Knows nothing of streams, quotas or requests; `writes.py`, `service.py`
and `faults.py` choose which of them to use. Sources: [YS] ydb-platform/ydb, `put_records_actor.h`,
`exceptions_mapping.cpp`, `http_req.cpp`, `auth_actors.cpp`, as read 2026-11-28. If another system
(the access service) makes the service's text, the text here is ours, and the docstring says so.
"""

from kdaemon.base.errors import ServiceError
from kdaemon.base.record import RecordResult

UNDEFINED_ENCRYPTION = "ENCRYPTION_UNDEFINED"  # the enum's default: an answer that did not set it

THROTTLED = "ProvisionedThroughputExceededException"  # of a record: its shard is over its quota
NO_UNITS = "ThrottlingException"  # of a record: the database is out of request units

# Codes of issues, with which their texts end [YS: `ErrorCode` of its protocol, `EErrorCodes`].
OVERLOAD, BAD_REQUEST, ACCESS_DENIED, ERROR = 500002, 500003, 500018, 500100

# A failed record keeps two empty strings, where AWS leaves the members out.
INTERNAL_FAILURE = RecordResult("", "", "InternalFailure", "Internal Service Failure")
OVERLOADED = RecordResult("", "", THROTTLED, "quota exceeded")
OUT_OF_UNITS = RecordResult("", "", NO_UNITS)  # the only one without a message


def wrapped(text: str, code: int) -> str:
    """A text as an issue is printed: after the severity, and before the code and a line break."""
    return f"<main>: Error: {text}, code: {code}\n"


def invalid(text: str) -> ServiceError:
    """A request that `CheckRequestIsValid` refuses."""
    return ServiceError("ValidationException", wrapped(text, BAD_REQUEST), status=400)


def missing_stream(name: str) -> ServiceError:
    """The proxy looks for the stream before it checks the client, and calls it a database."""
    text = f"Database with path '{name}' doesn't exists"
    return ServiceError("ResourceNotFoundException", text, status=400)


def unknown_path(name: str) -> ServiceError:
    """The error for a missing stream in a database that exists."""
    text = f"path '{name}' does not exist or you do not have access rights"
    return ServiceError("ResourceNotFoundException", wrapped(text, ACCESS_DENIED), status=400)


def access_denied(name: str, *, is_write: bool) -> ServiceError:
    """Only a write is told this. Every other call is told that the stream is missing [YS:
    `pq_schema_actor.h`].
    """
    if not is_write:
        return unknown_path(name)
    text = wrapped(f"Access for stream {name} is denied for subject sandbox", ACCESS_DENIED)
    return ServiceError("AccessDeniedException", text, status=400)


def expired_token() -> ServiceError:
    """The proxy makes AccessDeniedException of every refusal of the access service. The real text
    is the access service's; this one is ours.
    """
    return ServiceError("AccessDeniedException", "The token has expired", status=400)


def throttled_call(text: str = "Overloaded") -> ServiceError:
    return ServiceError("ThrottlingException", wrapped(text, OVERLOAD), status=400)


def broken(status: int) -> ServiceError:
    """The error of a whole call that failed with this HTTP status."""
    if status == 503:
        return ServiceError("Unavailable", "Service Unavailable", status=503)
    if status >= 500:
        return ServiceError("InternalError", wrapped("Internal error", ERROR), status=status)
    return ServiceError("ThrottlingException", wrapped("Overloaded", OVERLOAD), status=status)


def refusal_of(result: RecordResult) -> ServiceError:
    """A failed result of PutRecord. It has no list, and the call has another code than the record
    would have in a list [YS: `TPutRecordActor::SendResult`].
    """
    text = result.error_message or ""
    if result.error_code in (THROTTLED, NO_UNITS):
        return throttled_call(text)
    return ServiceError("InternalError", wrapped(text, ERROR), status=500)
