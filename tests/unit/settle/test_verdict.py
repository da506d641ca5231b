"""The table of outcomes, against the page it was taken from."""

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.settle.verdict import (
    _CALL_CODES,
    _RECORD_CODES,
    MISSING_STREAM,
    Verdict,
    judge_call,
    judge_record,
)

# services.md A.1 (checked 2026-11-21), code by code; `Http...` stands for an answer that named no
# code. Not in this table: RequestExpired (its text decides) and what has no code (tested below).
PAGE: dict[Verdict, list[str]] = {
    Verdict.THROTTLED: [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "KMSThrottlingException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Http429",
    ],
    Verdict.AMBIGUOUS: [
        "InternalFailure",
        "InternalFailureException",
        "Http500",
        "Http502",
        "Http503",
        "Http504",
        "ServiceUnavailable",
        "Aborted",
        "InternalError",
        "InternalException",
        "Unavailable",
        "GenericError",
        "BadSession",
        "SessionExpired",
        "ReadTimeout",
        "ConnectionLost",
        "UnreadableAnswer",
        "WrongCount",
    ],
    Verdict.HOLD: [
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "AccessDeniedException",
        "AccessDenied",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "KMSOptInRequired",
        "ResourceNotFoundException",
        "NoCredentials",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "Unauthenticated",
        "InvalidClientTokenId",
        "InvalidAction",
    ],
    Verdict.POISON: [
        "InvalidArgumentException",
        "ValidationException",
        "MissingParameter",
        "Http413",
    ],
}
ROWS = [(code, verdict) for verdict, codes in PAGE.items() for code in codes]

CLOCK_SKEW = "Signature expired: 20261121T100000Z is now earlier than 20261121T101500Z"
OWN_DEADLINE = "Request hasn't been completed by deadline"


@pytest.mark.parametrize(("code", "verdict"), ROWS)
@pytest.mark.parametrize("status", [400, 500])
def test_a_call_is_judged_as_the_page_says_whatever_its_status(
    code: str, verdict: Verdict, status: int
) -> None:
    assert judge_call(ServiceError(code, "", status=status)) is verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("ProvisionedThroughputExceededException", Verdict.THROTTLED),
        ("ThrottlingException", Verdict.THROTTLED),
        ("KMSThrottlingException", Verdict.THROTTLED),
        ("InternalFailure", Verdict.AMBIGUOUS),
        ("InvalidArgumentException", Verdict.POISON),
        ("ValidationException", Verdict.POISON),
        ("NoSequenceNumber", Verdict.AMBIGUOUS),
        ("SomethingNew", Verdict.AMBIGUOUS),
        ("", Verdict.AMBIGUOUS),
    ],
)
def test_a_record_is_judged_by_its_own_code(code: str, verdict: Verdict) -> None:
    assert judge_record(code) is verdict


def test_an_expired_request_is_ambiguous_if_the_service_ran_out_of_time() -> None:
    error = ServiceError("RequestExpired", OWN_DEADLINE, status=400)
    assert judge_call(error) is Verdict.AMBIGUOUS


def test_an_expired_request_is_held_if_our_clock_is_off() -> None:
    assert judge_call(ServiceError("RequestExpired", CLOCK_SKEW, status=400)) is Verdict.HOLD
    assert judge_call(ServiceError("RequestExpired", "", status=403)) is Verdict.HOLD


def test_an_emptied_request_of_the_services_own_proxy_is_not_our_records_fault() -> None:
    text = "<main>: Error: Stream name is empty, code: 500003"
    error = ServiceError("ValidationException", text, status=400)
    assert judge_call(error) is Verdict.AMBIGUOUS
    assert judge_call(ServiceError("ValidationException", "other", status=400)) is Verdict.POISON


@pytest.mark.parametrize("code", ["ConnectError", "DnsError", "ConnectTimeout"])
def test_what_never_left_is_safe_to_send_again(code: str) -> None:
    assert judge_call(ServiceError(code, "", was_sent=False)) is Verdict.NOT_SENT


def test_a_certificate_that_nobody_trusts_is_for_somebody_to_mend() -> None:
    """The page calls TLS safe to send again; it is, but at a slow pace and with an alarm."""
    assert judge_call(ServiceError("TlsError", "", was_sent=False)) is Verdict.HOLD


def test_without_credentials_nothing_left_and_somebody_must_act() -> None:
    assert judge_call(ServiceError("NoCredentials", "", was_sent=False)) is Verdict.HOLD


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (403, Verdict.HOLD),
        (400, Verdict.AMBIGUOUS),
        (500, Verdict.AMBIGUOUS),
        (200, Verdict.AMBIGUOUS),
        (0, Verdict.AMBIGUOUS),
    ],
)
def test_an_unknown_code_is_never_a_reason_to_drop(status: int, verdict: Verdict) -> None:
    assert judge_call(ServiceError("SomethingNew", "", status=status)) is verdict


def test_no_code_of_a_failure_is_a_delivery() -> None:
    assert Verdict.DELIVERED not in _CALL_CODES.values()
    assert Verdict.DELIVERED not in _RECORD_CODES.values()
    assert Verdict.NOT_SENT not in _CALL_CODES.values(), "that is a fact, not a code"


def test_a_missing_stream_is_held() -> None:
    assert judge_call(ServiceError(MISSING_STREAM, "", status=400)) is Verdict.HOLD
