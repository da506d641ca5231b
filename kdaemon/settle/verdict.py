"""What an outcome means: one class for every code of the service, per record and per call.

Tables, not branches. Sources: services.md A.1 (botocore 1.43.117 model; ydb-platform/ydb
`exceptions_mapping.cpp`, `put_records_actor.h`; checked 2026-11-21). Codes decide, not HTTP
statuses: many transient errors of YDS are HTTP 400.
"""

from enum import Enum

from kdaemon.base.errors import ServiceError


class Verdict(Enum):
    DELIVERED = "delivered"  # the service has it
    THROTTLED = "throttled"  # not written: the shard or the stream is over its rate; slow down
    NOT_SENT = "not_sent"  # never left, or surely not written; safe to send again
    AMBIGUOUS = "ambiguous"  # may have been written; sent again, counted as a possible duplicate
    HOLD = "hold"  # credentials, access, a missing stream: keep, probe slowly, alarm
    POISON = "poison"  # the request is wrong: find the record (bisect), bury it
    OUTSIDE = "outside_range"  # written where readers of aggregates drop it; sent again


_V = Verdict

OUTSIDE_RANGE_CODE = "OutsideRange"  # our own: the engine's finding, no service says it

_RECORD_CODES: dict[str, Verdict] = {
    "ProvisionedThroughputExceededException": _V.THROTTLED,
    "ThrottlingException": _V.THROTTLED,  # YDS: request units, with no message
    "KMSThrottlingException": _V.THROTTLED,
    "InternalFailure": _V.AMBIGUOUS,  # YDS: everything else, lost tablets included
    # kinesis-mock refuses a single record so, inside a 200; no service is known to.
    "InvalidArgumentException": _V.POISON,
    "ValidationException": _V.POISON,
    OUTSIDE_RANGE_CODE: _V.OUTSIDE,
}

_CALL_CODES: dict[str, Verdict] = {
    "ProvisionedThroughputExceededException": _V.THROTTLED,
    "ThrottlingException": _V.THROTTLED,
    "Throttling": _V.THROTTLED,
    "KMSThrottlingException": _V.THROTTLED,
    "LimitExceededException": _V.THROTTLED,
    "RequestLimitExceeded": _V.THROTTLED,
    "TooManyRequestsException": _V.THROTTLED,
    "SlowDown": _V.THROTTLED,
    "Http429": _V.THROTTLED,
    "InternalFailure": _V.AMBIGUOUS,
    "InternalFailureException": _V.AMBIGUOUS,
    "InternalError": _V.AMBIGUOUS,
    "InternalException": _V.AMBIGUOUS,
    "ServiceUnavailable": _V.AMBIGUOUS,
    "Unavailable": _V.AMBIGUOUS,
    "Aborted": _V.AMBIGUOUS,
    "BadSession": _V.AMBIGUOUS,
    "SessionExpired": _V.AMBIGUOUS,
    "GenericError": _V.AMBIGUOUS,
    "ExpiredTokenException": _V.HOLD,
    "ExpiredToken": _V.HOLD,
    "UnrecognizedClientException": _V.HOLD,
    "InvalidSignatureException": _V.HOLD,
    "SignatureDoesNotMatch": _V.HOLD,
    "IncompleteSignature": _V.HOLD,
    "IncompleteSignatureException": _V.HOLD,
    "MissingAuthenticationToken": _V.HOLD,
    "MissingAuthenticationTokenException": _V.HOLD,
    "InvalidClientTokenId": _V.HOLD,
    "Unauthenticated": _V.HOLD,
    "OptInRequired": _V.HOLD,
    "AccessDeniedException": _V.HOLD,
    "AccessDenied": _V.HOLD,
    "KMSAccessDeniedException": _V.HOLD,
    "KMSDisabledException": _V.HOLD,
    "KMSInvalidStateException": _V.HOLD,
    "KMSNotFoundException": _V.HOLD,
    "KMSOptInRequired": _V.HOLD,
    "ResourceNotFoundException": _V.HOLD,
    "ResourceInUseException": _V.HOLD,
    "InvalidAction": _V.HOLD,
    "UnknownOperationException": _V.HOLD,
    "NoCredentials": _V.HOLD,
    "CredentialsError": _V.HOLD,
    "NoRegion": _V.HOLD,
    "EndpointError": _V.HOLD,
    "TokenRefreshRequired": _V.HOLD,
    "TlsError": _V.HOLD,  # an untrusted certificate does not mend itself in milliseconds
    "InvalidArgumentException": _V.POISON,
    "ValidationException": _V.POISON,
    "SerializationException": _V.POISON,
    "MissingParameter": _V.POISON,
    "Http413": _V.POISON,
}

MISSING_STREAM = "ResourceNotFoundException"


def judge_record(code: str) -> Verdict:
    """The class of a failed record's `ErrorCode`. An unknown code is sent again, never lost."""
    return _RECORD_CODES.get(code, _V.AMBIGUOUS)


def judge_call(error: ServiceError) -> Verdict:
    """The class of a call that failed whole."""
    if error.code == "RequestExpired":
        # YDS: its own deadline (may have been written). AWS: our clock is off. The text tells.
        is_deadline = "completed by deadline" in error.message
        return _V.AMBIGUOUS if is_deadline else _V.HOLD
    if error.code == "ValidationException" and "Stream name is empty" in error.message:
        return _V.AMBIGUOUS  # YDS's proxy may send an emptied request again (services.md B)
    verdict = _CALL_CODES.get(error.code)
    if verdict is not None:
        return verdict
    if not error.was_sent:
        return _V.NOT_SENT
    if error.status == 403:
        return _V.HOLD
    return _V.AMBIGUOUS
