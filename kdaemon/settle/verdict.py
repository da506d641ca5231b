"""What an outcome means: one class for every code of a service, per record and per call; and the
code and message that a client is told.

Tables, not branches. Codes decide before HTTP statuses: many transient errors of YDS are HTTP 400.
A failure on our own side is a `Trouble`, never recognised by its text. Differences between the
services are in `Service.wordings`. Pure; knows no frame and no queue.
Invariant: no outcome means the same request again for ever, except outcomes that are known to pass:
the known transient codes, 5xx, and requests that never arrived. An unknown 4xx is bisected. A
record with an unknown code is sent again a bounded number of times. A hold is probed slowly, and
alarms.
Where it sits: settlement asks for each failed record, the engine for each failed call.

Sources: [M], [YS] of base/limits.py, 2026-11-21 and 2026-11-28 (botocore 1.43.117 and 1.44.8
models; AWS's CommonErrors pages; ydb-platform/ydb `exceptions_mapping.cpp`, `put_records_actor.h`).
"""

import re
from typing import Final

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.service import AWS, Service
from kdaemon.base.verdict import Verdict

_V = Verdict

MISSING_STREAM: Final = "ResourceNotFoundException"
THROUGHPUT: Final = "ProvisionedThroughputExceededException"
INTERNAL: Final = "InternalFailure"
UNAVAILABLE: Final = "ServiceUnavailable"

UNKNOWN_ATTEMPTS_MAX: Final = 32
"""After this many failures with unknown codes a record is dead, with its code. The bound is a
number, because an unknown code says nothing about time. If other records of its shard go through,
the record itself is the likely cause, and it is dead after some 3 s. If the whole shard fails, the
backoff stretches the same 32 attempts over two minutes, which an outage may need. Ours,
2026-11-28."""

_THROTTLES = (
    "ProvisionedThroughputExceededException",
    "ThrottlingException",  # YDS: request units, with no message
    "ThrottledException",
    "Throttling",
    "KMSThrottlingException",
    "LimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "TooManyRequests",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "SlowDown",
)
_FAILURES = (  # failures of the service itself: it may have written before it failed
    "InternalFailure",
    "InternalFailureException",
    "InternalError",
    "InternalException",
    "InternalServerError",
    "InternalServerException",
    "InternalServiceException",
    "ServiceException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "Unavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestAbortedException",
    "Aborted",
    "BadSession",
    "SessionExpired",
    "SessionBusy",
    "GenericError",
    "Overloaded",
    "Cancelled",
    "Timeout",
    "Undetermined",
)
# Somebody must act, or the cause ends by itself: credentials are refreshed, a stream is created.
_MENDING = (
    "ExpiredTokenException",
    "ExpiredToken",
    "TokenRefreshRequired",
    "RequestExpired",  # our clock is off; YDS's other meaning is a wording
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "ResourceInUseException",
    "ResourceInUse",
    "KMSInvalidStateException",  # also while a key is being changed
)
_HOLDS = (  # somebody must act: waiting does not help
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "InvalidToken",
    "InvalidTokenException",
    "AuthFailure",
    "Unauthenticated",
    "Unauthorized",
    "UnauthorizedException",
    "UnauthorizedOperation",
    "NotAuthorized",
    "NotAuthorizedException",
    "NotAuthenticated",
    "OptInRequired",
    "SubscriptionRequiredException",
    "PendingVerification",
    "Blocked",
    "AccessDeniedException",
    "AccessDenied",
    "ForbiddenException",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    MISSING_STREAM,
    "NotFound",
    "InvalidAction",
    "MissingAction",
    "UnsupportedOperation",
    "UnsupportedOperationException",
    "UnknownOperation",
    "UnknownOperationException",
    "HttpMethodNotAllowed",
    "UnknownMethod",
)
_REFUSALS = (  # the request itself is wrong
    "InvalidArgumentException",
    "ValidationException",
    "ValidationError",
    "SerializationException",
    "MalformedHttpRequestException",
    "MalformedQueryString",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "InvalidParameterValueException",
    "InvalidParameterException",
    "InvalidQueryParameter",
    "InvalidRequest",
    "InvalidRequestException",
    "BadRequest",
    "BadRequestException",
    "MissingParameter",
    "MissingParameterException",
    "UnknownError",  # YDS: a bad request whose kind it does not name
    "RequestEntityTooLargeException",
    "RequestEntityTooLarge",
    "RequestTooLarge",
    "DryRunOperationException",  # kdaemon asks for no dry run, and a dry run delivers nothing
)

_RECORD_CODES: dict[str, Verdict] = {
    **dict.fromkeys(_THROTTLES, _V.THROTTLED),
    **dict.fromkeys(_FAILURES, _V.AMBIGUOUS),  # YDS: everything else, lost tablets included
    # kinesis-mock refuses a single record with these, inside a 200; no service is known to do so.
    **dict.fromkeys(_REFUSALS, _V.POISON),
    "KMSAccessDeniedException": _V.HOLD,
    "KMSDisabledException": _V.HOLD,
    "KMSInvalidStateException": _V.HOLD,
    "KMSNotFoundException": _V.HOLD,
    "KMSOptInRequired": _V.HOLD,
    "AccessDeniedException": _V.HOLD,
}

_CALL_CODES: dict[str, Verdict] = {
    **dict.fromkeys(_THROTTLES, _V.THROTTLED),
    **dict.fromkeys(_FAILURES, _V.AMBIGUOUS),
    **dict.fromkeys(_MENDING, _V.HOLD),
    **dict.fromkeys(_HOLDS, _V.HOLD),
    **dict.fromkeys(_REFUSALS, _V.POISON),
}

_TROUBLES: dict[Trouble, Verdict] = {
    Trouble.NO_CREDENTIALS: _V.HOLD,
    Trouble.CREDENTIALS: _V.HOLD,
    Trouble.INVALID_KEY: _V.HOLD,
    Trouble.NO_REGION: _V.HOLD,
    Trouble.ENDPOINT: _V.HOLD,
    Trouble.PROXY: _V.HOLD,
    Trouble.TRUST: _V.HOLD,
    Trouble.TLS: _V.HOLD,  # an untrusted certificate does not mend itself in milliseconds
    Trouble.UNPREPARED: _V.HOLD,
    Trouble.FOREIGN: _V.HOLD,
    Trouble.UNENCODABLE: _V.POISON,
    Trouble.DNS: _V.NOT_SENT,
    Trouble.CONNECT: _V.NOT_SENT,
    Trouble.CONNECT_TIMEOUT: _V.NOT_SENT,
    Trouble.BUSY: _V.NOT_SENT,
    Trouble.READ_TIMEOUT: _V.AMBIGUOUS,
    Trouble.CALL_TIMEOUT: _V.AMBIGUOUS,
    Trouble.CONNECTION_LOST: _V.AMBIGUOUS,
    Trouble.UNREADABLE: _V.AMBIGUOUS,
    Trouble.WRONG_COUNT: _V.AMBIGUOUS,
    Trouble.DEFECT: _V.AMBIGUOUS,
}

# For a code that is in no table, or no code at all (`Http404`): the status says who refused.
_STATUSES: dict[int, Verdict] = {
    401: _V.HOLD,
    403: _V.HOLD,
    404: _V.HOLD,  # no such path: the endpoint belongs to something else
    405: _V.HOLD,
    407: _V.HOLD,  # a proxy wants credentials
    408: _V.AMBIGUOUS,
    429: _V.THROTTLED,
}

# An unknown code that speaks of access is not the fault of any record: bisecting such a call would
# bury all its records.
_SPEAKS_OF_ACCESS = re.compile(
    r"auth|denied|forbidden|credential|signature|token|accesskey|optin|subscription|kms",
    re.IGNORECASE,
)

_MENDING_TROUBLES = frozenset(
    {
        Trouble.CREDENTIALS,  # an instance's or container's own refresh may have failed
        Trouble.TLS,
        Trouble.FOREIGN,
    }
)
_MENDING_CODES = frozenset(_MENDING)

# What fails each call alike, also a look: the way to the service, who calls, the clock.
_TROUBLES_OF_ANY_CALL = frozenset(
    {
        *(Trouble.NO_CREDENTIALS, Trouble.CREDENTIALS, Trouble.INVALID_KEY, Trouble.NO_REGION),
        *(Trouble.ENDPOINT, Trouble.PROXY, Trouble.TRUST, Trouble.TLS),
    }
)
_CODES_OF_ANY_CALL = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"),
        *("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"),
        *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"),
        *("InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"),
        *("IncompleteSignatureException", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "InvalidToken", "InvalidTokenException"),
    }
)


def judge_record(code: str, message: str = "", service: Service = AWS) -> Verdict:
    """The class of a failed record; UNKNOWN for an unknown code: sent again, bounded."""
    for wording in service.wordings:
        if wording.text in message and wording.code in {None, code}:
            return wording.verdict
    return _RECORD_CODES.get(code, _V.UNKNOWN if code else _V.AMBIGUOUS)


def judge_call(error: ServiceError, service: Service = AWS) -> Verdict:
    """The class of a call that failed whole."""
    if error.trouble is not None:
        verdict = _TROUBLES[error.trouble]
        return _V.NOT_SENT if verdict is _V.AMBIGUOUS and not error.was_sent else verdict
    if not error.was_sent:
        return _V.NOT_SENT
    for wording in service.wordings:
        if wording.text in error.message and wording.code in {None, error.code}:
            return wording.verdict
    status = error.status
    if status == 413:  # whatever the code: smaller requests may pass
        return _V.POISON
    verdict = _CALL_CODES.get(error.code) or _STATUSES.get(status) or _V.AMBIGUOUS
    if verdict is _V.AMBIGUOUS and 400 <= status < 500 and error.code not in _CALL_CODES:
        return _judge_unknown(error)
    return verdict


def _judge_unknown(error: ServiceError) -> Verdict:
    """The class of a 4xx whose code is in no table."""
    if error.status == 408:
        return _V.AMBIGUOUS
    if error.is_nameless and error.status != 400:
        return _V.HOLD  # not in the service's form: something before the service refuses
    return _V.HOLD if _SPEAKS_OF_ACCESS.search(error.code) else _V.POISON


def may_be_written(error: ServiceError, verdict: Verdict) -> bool:
    """Whether a call that failed with this error may have written its records all the same."""
    return verdict is _V.AMBIGUOUS or (verdict is _V.HOLD and is_outage(error))


def is_outage(error: ServiceError) -> bool:
    """Of a hold: whether the error is a gateway's 5xx page. That is an outage: it ends by itself,
    and is probed for as an outage.
    """
    return error.status >= 500


def mends_itself(error: ServiceError) -> bool:
    """Of a hold: whether it may be over before anybody acts. Then waiting clients go on waiting
    until their deadline; with any other hold they are told at once.
    """
    if error.trouble is not None:
        return error.trouble in _MENDING_TROUBLES
    return error.code in _MENDING_CODES


def fails_any_call(error: ServiceError) -> bool:
    """Of a hold: whether its cause fails each call alike, so that the hold is over once any call
    passes. Rights are not such a cause, nor is what a proxy or a gateway says of some calls.
    """
    if error.trouble is not None:
        return error.trouble in _TROUBLES_OF_ANY_CALL
    return error.code in _CODES_OF_ANY_CALL


def told(error: ServiceError, service: Service = AWS) -> tuple[str, str]:
    """The code and message that a client hears when this error is why its records were not
    delivered.

    If the service answered, these are its own. If it did not (no credentials, no connection, a web
    page), the code is mostly ServiceUnavailable, so that the client's SDK tries again.
    """
    verdict = judge_call(error, service)
    is_own = error.trouble is not None or error.is_nameless
    if verdict is _V.THROTTLED:
        return THROUGHPUT, error.message or error.code
    if is_own:
        is_internal = verdict is _V.AMBIGUOUS and (error.trouble is not None or error.status == 500)
        code = INTERNAL if is_internal else UNAVAILABLE
        return code, f"{error.code}: {error.message}"
    if verdict is _V.AMBIGUOUS:
        is_away = error.status == 503 or error.code in {
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "Unavailable",
        }
        code = UNAVAILABLE if is_away else INTERNAL
        return code, error.message if code == error.code else f"{error.code}: {error.message}"
    if verdict is _V.NOT_SENT:
        return UNAVAILABLE, f"{error.code}: {error.message}"
    return error.code, error.message


def told_of_record(code: str, message: str, service: Service = AWS) -> tuple[str, str]:
    """The same for a record that failed alone, inside an answered call."""
    match judge_record(code, message, service):
        case _V.THROTTLED:
            return THROUGHPUT, message or code
        case _V.AMBIGUOUS | _V.UNKNOWN:
            return INTERNAL, message if code == INTERNAL else f"{code}: {message}"
        case _:
            return code, message


def refuse_reason(error: ServiceError) -> RefuseReason:
    """The reason that counts a client's records when they are refused for a hold."""
    is_missing = error.trouble is None and error.code == MISSING_STREAM
    return RefuseReason.MISSING_STREAM if is_missing else RefuseReason.HOLD
