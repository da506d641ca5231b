"""The table of outcomes, against the page it was taken from, and what clients hear of them."""

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.base.verdict import Verdict
from kdaemon.settle.verdict import (
    _CALL_CODES,
    _RECORD_CODES,
    _TROUBLES,
    MISSING_STREAM,
    judge_call,
    judge_record,
    may_be_written,
    mends_itself,
    refuse_reason,
    told,
    told_of_record,
)

# services.md A.1 and its addendum (checked 2026-11-28), code by code. Not in this table:
# RequestExpired at Yandex (its text decides) and what has no code (tested below).
PAGE: dict[Verdict, list[str]] = {
    Verdict.THROTTLED: [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "KMSThrottlingException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "SlowDown",
    ],
    Verdict.AMBIGUOUS: [
        "InternalFailure",
        "InternalFailureException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeoutException",
        "RequestAbortedException",
        "Aborted",
        "InternalError",
        "InternalException",
        "Unavailable",
        "GenericError",
        "BadSession",
        "SessionExpired",
    ],
    Verdict.HOLD: [
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "RequestExpired",
        "AccessDeniedException",
        "AccessDenied",
        "NotAuthorized",
        "OptInRequired",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "KMSOptInRequired",
        "ResourceNotFoundException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "Unauthenticated",
        "InvalidClientTokenId",
        "InvalidAction",
    ],
    Verdict.POISON: [
        "InvalidArgumentException",
        "ValidationException",
        "ValidationError",
        "InvalidParameterValue",
        "MalformedHttpRequestException",
        "MissingParameter",
        "RequestEntityTooLargeException",
        "DryRunOperationException",
    ],
}
ROWS = [(code, verdict) for verdict, codes in PAGE.items() for code in codes]

CLOCK_SKEW = "Signature expired: 20261121T100000Z is now earlier than 20261121T101500Z"
OWN_DEADLINE = "Request hasn't been completed by deadline"


def nameless(status: int, message: str = "") -> ServiceError:
    """An answer that has no code."""
    return ServiceError(f"Http{status}", message, status=status, is_nameless=True)


@pytest.mark.parametrize(("code", "verdict"), ROWS)
@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("service", [AWS, YANDEX])
def test_a_call_is_judged_as_the_page_says_whatever_its_status(
    service: Service, code: str, verdict: Verdict, status: int
) -> None:
    assert judge_call(ServiceError(code, "", status=status), service) is verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.POISON),
        (401, Verdict.HOLD),
        (403, Verdict.HOLD),
        (404, Verdict.HOLD),
        (405, Verdict.HOLD),
        (407, Verdict.HOLD),
        (408, Verdict.AMBIGUOUS),
        (411, Verdict.HOLD),
        (413, Verdict.POISON),
        (429, Verdict.THROTTLED),
        (500, Verdict.AMBIGUOUS),
        (502, Verdict.AMBIGUOUS),
        (503, Verdict.AMBIGUOUS),
        (504, Verdict.AMBIGUOUS),
        (204, Verdict.AMBIGUOUS),
    ],
)
def test_an_answer_without_a_code_is_judged_by_its_status(status: int, verdict: Verdict) -> None:
    assert judge_call(nameless(status)) is verdict


@pytest.mark.parametrize("code", ["RequestEntityTooLargeException", "Whatever", "AccessDenied"])
def test_what_is_too_large_is_halved_whatever_it_is_called(code: str) -> None:
    assert judge_call(ServiceError(code, "", status=413)) is Verdict.POISON


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("ProvisionedThroughputExceededException", Verdict.THROTTLED),
        ("ThrottlingException", Verdict.THROTTLED),
        ("KMSThrottlingException", Verdict.THROTTLED),
        ("InternalFailure", Verdict.AMBIGUOUS),
        ("InvalidArgumentException", Verdict.POISON),
        ("ValidationException", Verdict.POISON),
        ("KMSDisabledException", Verdict.HOLD),
        ("SomethingNew", Verdict.UNKNOWN),
        ("OutsideRange", Verdict.UNKNOWN),
        ("Expired", Verdict.UNKNOWN),
        ("", Verdict.AMBIGUOUS),
    ],
)
def test_a_record_is_judged_by_its_own_code(code: str, verdict: Verdict) -> None:
    assert judge_record(code) is verdict


@pytest.mark.parametrize("text", ["database size exceeded", "Disk is full", "x: Disk is full!"])
@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceededException", "InternalFailure", "ThrottlingException"]
)
def test_a_full_database_is_for_somebody_to_mend(code: str, text: str) -> None:
    assert judge_record(code, text, YANDEX) is Verdict.HOLD
    assert judge_call(ServiceError(code, text, status=400), YANDEX) is Verdict.HOLD
    assert judge_record(code, text, AWS) is not Verdict.HOLD, "only Yandex has these words"


@pytest.mark.parametrize(
    "text", ["Write to inactive partition 3", "Connection to tablet 72075186224037888 is dead"]
)
def test_a_shard_that_fails_at_yandex_may_have_written_a_part_of_the_call(text: str) -> None:
    """One that splits is asked before each message of a request [YS: `TPartition::ExecRequest`]: a
    part may be written, and all records of the shard are told the same.
    """
    assert judge_record("InternalFailure", text, YANDEX) is Verdict.AMBIGUOUS
    assert told_of_record("InternalFailure", text, YANDEX) == ("InternalFailure", text)


def test_an_expired_request_is_ambiguous_if_the_service_ran_out_of_time() -> None:
    error = ServiceError("RequestExpired", OWN_DEADLINE, status=400)
    assert judge_call(error, YANDEX) is Verdict.AMBIGUOUS


def test_an_expired_request_is_held_if_our_clock_is_off() -> None:
    for service in (AWS, YANDEX):
        error = ServiceError("RequestExpired", CLOCK_SKEW, status=400)
        assert judge_call(error, service) is Verdict.HOLD
        assert judge_call(ServiceError("RequestExpired", "", status=403)) is Verdict.HOLD


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        ("ValidationException", "path '/a/b' creation is not completed", Verdict.NOT_SENT),
        ("ValidationException", "path '/a/b' is not a topic", Verdict.HOLD),
        ("ValidationException", "write to mirrored stream b is forbidden", Verdict.HOLD),
        ("InvalidArgumentException", "path '/a/b' is not a stream", Verdict.HOLD),
        (
            "InvalidArgumentException",
            "path '/a/b' is not compatible scheme object",
            Verdict.HOLD,
        ),
        ("InvalidArgumentException", "unknown database root", Verdict.HOLD),
        ("InvalidArgumentException", "Unexpected json key: X", Verdict.HOLD),
    ],
)
def test_what_is_wrong_with_the_stream_at_yandex_is_no_records_fault(
    code: str, text: str, verdict: Verdict
) -> None:
    """To bisect it would bury every record of the stream."""
    error = ServiceError(code, f"<main>: Error: {text}, code: 500080", status=400)
    assert judge_call(error, YANDEX) is verdict
    assert not may_be_written(error, verdict)
    assert judge_call(error, AWS) is Verdict.POISON, "only Yandex has these words"
    assert judge_call(ServiceError(code, "other", status=400), YANDEX) is Verdict.POISON


@pytest.mark.parametrize("text", ["", "quota exceeded"])
def test_a_throttled_record_is_told_in_aws_words_with_or_without_a_text(text: str) -> None:
    code = "ThrottlingException"
    told_code, told_text = told_of_record(code, text, YANDEX)
    assert told_code == "ProvisionedThroughputExceededException", "the one that SDKs retry"
    assert told_text == (text or code)


def test_a_record_for_a_mirror_is_no_records_fault_either() -> None:
    text = "Write to mirrored topic is forbiden "
    assert judge_record("InternalFailure", text, YANDEX) is Verdict.HOLD


def test_a_stream_that_is_being_created_is_told_as_away_not_as_a_bad_record() -> None:
    text = "path '/a/b' creation is not completed"
    error = ServiceError("ValidationException", text, status=400)
    assert told(error, YANDEX) == ("ServiceUnavailable", f"ValidationException: {text}")


def test_an_emptied_request_of_the_services_own_proxy_is_not_our_records_fault() -> None:
    text = "<main>: Error: Stream name is empty, code: 500003"
    error = ServiceError("ValidationException", text, status=400)
    assert judge_call(error, YANDEX) is Verdict.AMBIGUOUS
    other = ServiceError("ValidationException", "other", status=400)
    assert judge_call(other, YANDEX) is Verdict.POISON


@pytest.mark.parametrize("trouble", [Trouble.CONNECT, Trouble.DNS, Trouble.CONNECT_TIMEOUT])
def test_what_never_left_is_safe_to_send_again(trouble: Trouble) -> None:
    assert judge_call(ServiceError(trouble, "", was_sent=False)) is Verdict.NOT_SENT
    assert judge_call(ServiceError("SomethingNew", "", was_sent=False)) is Verdict.NOT_SENT


def test_a_call_that_ended_before_it_was_sent_is_safe_to_send_again() -> None:
    """The search for credentials took its time."""
    error = ServiceError(Trouble.CALL_TIMEOUT, "", was_sent=False)
    assert judge_call(error) is Verdict.NOT_SENT


@pytest.mark.parametrize(
    "trouble",
    [
        *(Trouble.NO_CREDENTIALS, Trouble.CREDENTIALS, Trouble.NO_REGION, Trouble.ENDPOINT),
        *(Trouble.PROXY, Trouble.TRUST, Trouble.TLS, Trouble.UNPREPARED, Trouble.FOREIGN),
    ],
)
def test_what_somebody_must_mend_is_held_sent_or_not(trouble: Trouble) -> None:
    """The page calls TLS safe to send again; it is, but at a slow pace and with an alarm."""
    for was_sent in (False, True):
        assert judge_call(ServiceError(trouble, "", was_sent=was_sent)) is Verdict.HOLD


def test_every_trouble_has_its_class() -> None:
    assert set(_TROUBLES) == set(Trouble)


@pytest.mark.parametrize("trouble", list(Trouble))
def test_a_service_whose_code_is_a_word_of_ours_is_no_trouble_of_ours(trouble: Trouble) -> None:
    error = ServiceError(trouble.value, "", status=400)
    assert error.trouble is None
    expected = _CALL_CODES.get(trouble.value)
    if expected is None:
        expected = Verdict.HOLD if trouble is Trouble.NO_CREDENTIALS else Verdict.POISON
    if trouble is Trouble.CREDENTIALS:
        expected = Verdict.HOLD  # it speaks of access, whoever says it
    assert judge_call(error) is expected


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (403, Verdict.HOLD),
        (400, Verdict.POISON),
        (422, Verdict.POISON),
        (500, Verdict.AMBIGUOUS),
        (599, Verdict.AMBIGUOUS),
        (200, Verdict.AMBIGUOUS),
        (0, Verdict.AMBIGUOUS),
    ],
)
def test_an_unknown_code_is_judged_by_whose_fault_it_is(status: int, verdict: Verdict) -> None:
    assert judge_call(ServiceError("SomethingNew", "", status=status)) is verdict


@pytest.mark.parametrize(
    "code", ["AuthorizationHeaderMalformed", "NewTokenError", "SignatureTooOld", "KMSNewException"]
)
def test_an_unknown_code_that_speaks_of_access_buries_nothing(code: str) -> None:
    assert judge_call(ServiceError(code, "", status=400)) is Verdict.HOLD


def test_no_code_of_a_failure_is_a_delivery() -> None:
    assert Verdict.DELIVERED not in _CALL_CODES.values()
    assert Verdict.DELIVERED not in _RECORD_CODES.values()
    assert Verdict.NOT_SENT not in _CALL_CODES.values(), "that is a fact, not a code"


def test_a_missing_stream_is_held() -> None:
    error = ServiceError(MISSING_STREAM, "", status=400)
    assert judge_call(error) is Verdict.HOLD
    assert refuse_reason(error) is RefuseReason.MISSING_STREAM
    assert refuse_reason(ServiceError("AccessDenied", "")) is RefuseReason.HOLD


# What a client is told


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ServiceError("AccessDeniedException", "no", status=400), "AccessDeniedException", "no"),
        (ServiceError("KMSDisabledException", "off", status=400), "KMSDisabledException", "off"),
        (ServiceError("ExpiredTokenException", "old", status=400), "ExpiredTokenException", "old"),
        (
            ServiceError("LimitExceededException", "slow", status=400),
            "ProvisionedThroughputExceededException",
            "slow",
        ),
        (ServiceError("InternalFailure", "oh", status=500), "InternalFailure", "oh"),
        (ServiceError("Aborted", "oh", status=400), "InternalFailure", "Aborted: oh"),
        (ServiceError("Unavailable", "x", status=503), "ServiceUnavailable", "Unavailable: x"),
        (nameless(500, "x"), "InternalFailure", "Http500: x"),
        (nameless(502, "x"), "ServiceUnavailable", "Http502: x"),
        # Codes of a service that begin as, or are, our own words for an answer without a code.
        (
            ServiceError("HttpMethodNotAllowed", "use POST", status=405),
            "HttpMethodNotAllowed",
            "use POST",
        ),
        (ServiceError("Http404", "odd", status=404), "Http404", "odd"),
        (
            ServiceError("Http503", "a page", status=503, trouble=Trouble.FOREIGN),
            "ServiceUnavailable",
            "Http503: a page",
        ),
        (
            ServiceError(Trouble.NO_CREDENTIALS, "set them", was_sent=False),
            "ServiceUnavailable",
            "NoCredentials: set them",
        ),
        (
            ServiceError(Trouble.CONNECT, "refused", was_sent=False),
            "ServiceUnavailable",
            "ConnectError: refused",
        ),
        (ServiceError(Trouble.DEFECT, "oh"), "InternalFailure", "InternalError: oh"),
    ],
)
def test_a_client_hears_the_services_own_type_and_words(
    error: ServiceError, code: str, message: str
) -> None:
    assert told(error) == (code, message)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("ThrottlingException", "", ("ProvisionedThroughputExceededException", None)),
        ("InternalFailure", "oh", ("InternalFailure", "oh")),
        ("SomethingNew", "oh", ("InternalFailure", "SomethingNew: oh")),
        ("KMSDisabledException", "off", ("KMSDisabledException", "off")),
    ],
)
def test_a_client_hears_what_the_service_last_said_of_its_record(
    code: str, message: str, expected: tuple[str, str | None]
) -> None:
    found = told_of_record(code, message)
    assert found == (expected[0], expected[1] or code)


def test_only_a_gateways_page_leaves_open_whether_it_was_written() -> None:
    page = ServiceError("Http502", "", status=502, trouble=Trouble.FOREIGN)
    portal = ServiceError("Http200", "", status=200, trouble=Trouble.FOREIGN)
    assert may_be_written(page, judge_call(page))
    assert not may_be_written(portal, judge_call(portal))


def test_credentials_may_refresh_themselves_and_a_permission_does_not() -> None:
    assert mends_itself(ServiceError("ExpiredTokenException", "", status=400))
    assert mends_itself(ServiceError(Trouble.FOREIGN, ""))
    assert not mends_itself(ServiceError("AccessDeniedException", "", status=400))
    assert not mends_itself(ServiceError(Trouble.NO_CREDENTIALS, ""))
    assert not mends_itself(ServiceError(Trouble.PROXY, ""))
