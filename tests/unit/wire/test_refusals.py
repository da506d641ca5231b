"""Refusals as values, what they become on the wire, and how much of them there can be."""

import json

import cbor2
import pytest

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import RecordResult
from kdaemon.wire import explain
from kdaemon.wire.envelope import read_envelope
from kdaemon.wire.limits import PutLimits, refuse_ordering, require_keys
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse, render
from kdaemon.wire.results import ACCEPTED, status_of

LIMITS = PutLimits()
ENTRY = '{"Data":"eA==","PartitionKey":"k"}'
NO_KEY = '{"Data":"eA=="}'
NULL_KEY = '{"Data":"eA==","PartitionKey":null}'
NOT_NULL = "failed to satisfy constraint: Member must not be null"


def many(*entries: str, stream: str = "s") -> bytes:
    return f'{{"StreamName":"{stream}","Records":[{",".join(entries)}]}}'.encode()


def refused(body: bytes, *, single: bool = False, limits: PutLimits = LIMITS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        (parse_put_record if single else parse_put_records)(body, limits)
    return caught.value


# --- rendering


@pytest.mark.parametrize(
    ("code", "status", "is_permanent"),
    [
        ("ValidationException", 400, True),
        ("NobodyKnowsThis", 400, True),
        ("RequestEntityTooLargeException", 413, True),
        ("InternalFailure", 500, False),
        ("ServiceUnavailable", 503, False),
        ("ProvisionedThroughputExceededException", 400, False),
        ("ThrottlingException", 400, False),
    ],
)
def test_a_code_says_whether_sending_again_helps(
    code: str, status: int, is_permanent: bool
) -> None:
    assert refuse(code, "Why.") == Refusal(code, "Why.", status, is_permanent)


def test_each_encoding_has_its_form() -> None:
    refusal = Refusal("SomeException", 'a < "b"', 418, True)
    assert render(refusal, Encoding.JSON) == (
        418,
        b'{"__type":"SomeException","message":"a < \\"b\\""}',
        b"application/x-amz-json-1.1",
    )
    xml = b'<SomeException>\n  <Message>a &lt; "b"</Message>\n</SomeException>\n'
    assert render(refusal, Encoding.XML) == (418, xml, b"text/xml")
    plain = b'{"Output":{"__type":"com.amazon.coral.service#SomeException"},"Version":"1.0"}'
    assert render(refusal, Encoding.PLAIN_JSON) == (418, plain, b"application/json")
    assert render(Refusal("E", None, 404, True), Encoding.XML).body == b"<E/>\n"


def test_cbor_is_a_map_of_texts() -> None:
    for message, told in (("é" * 100, {"message": "é" * 100}), (None, {})):
        body = render(Refusal("E", message, 400, True), Encoding.CBOR).body
        assert cbor2.loads(body) == {"__type": "E", **told}


@pytest.mark.parametrize("encoding", Encoding)
def test_a_refusal_is_bounded_whatever_its_text(encoding: Encoding) -> None:
    assert len(render(refuse("E", "\x01é" * 1_000_000), encoding).body) < 32 * KIB


# --- what the door is told


@pytest.mark.parametrize(
    ("body", "single", "count", "stream"),
    [
        (many(*[ENTRY] * 3, '{"Data":"eA==","PartitionKey":""}'), False, 4, "s"),
        (many(*[ENTRY] * 400, '{"Data":"eA==","PartitionKey":""}'), False, 401, "s"),
        (many(*[ENTRY] * 4_000), False, 4_000, "s"),
        (many(ENTRY, "1", "null"), False, 3, "s"),
        (many(ENTRY, ENTRY, stream="no/name"), False, 2, "no/name"),
        (b'{"StreamName":"s"}', False, 1, "s"),
        (b'{"StreamName":"s","PartitionKey":"k"}', True, 1, "s"),
        (b'{"StreamName":"s","Data":"#","PartitionKey":"k"}', True, 1, "s"),
        (b"{", False, 1, None),
        (b'{"StreamName":1,"Records":[1,2]}', False, 1, None),
    ],
)
def test_a_refused_request_says_what_it_held(
    body: bytes, single: bool, count: int, stream: str | None
) -> None:
    error = refused(body, single=single)
    assert (error.record_count, error.stream) == (count, stream)


def test_what_breaks_a_limit_of_size_says_so_too() -> None:
    error = refused(many(ENTRY, ENTRY), limits=PutLimits(record_bytes_max=1))
    assert (error.record_count, error.stream) == (2, "s")


@pytest.mark.parametrize(("method", "body", "count"), [("GET", b"", 0), ("POST", b"{}", 1)])
def test_an_envelope_that_is_wrong_may_hold_records(method: str, body: bytes, count: int) -> None:
    with pytest.raises(ApiError) as caught:
        read_envelope(method, {b"content-type": b"text/plain"}, body)
    assert caught.value.record_count == count


# --- large bodies


def padded(body: bytes) -> bytes:
    """As large as a body that is not explained."""
    return body + b" " * explain.EXPLAINED_BYTES_MAX


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (
            many(ENTRY, '{"Data":"","PartitionKey":""}'),
            "ValidationException",
            (
                "1 validation error detected: Value at 'records.2.member.partitionKey' failed to "
                "satisfy constraint: Member must have length greater than or equal to 1"
            ),
        ),
        (
            many(*[ENTRY] * 501),
            "ValidationException",
            (
                "1 validation error detected: Value at 'records' failed to "
                "satisfy constraint: Member must have length less than or equal to 500"
            ),
        ),
        (many(ENTRY, "{}"), "ValidationException", "missing required field `Data`"),
        (many("null"), "SerializationException", "$.Records[0]"),
        (many("[]"), "SerializationException", "$.Records[0]"),
        (many('{"Data":"#","PartitionKey":"k"}'), "SerializationException", "base64"),
        (b"{", "SerializationException", "truncated"),
        (b'{"StreamName":"\xff"}', "SerializationException", "The body is not UTF-8."),
        (b'{"x":' + b"[" * 100_000, "SerializationException", "nested too deeply"),
    ],
)
def test_a_large_body_is_refused_without_being_decoded_again(
    monkeypatch: pytest.MonkeyPatch, body: bytes, code: str, text: str
) -> None:
    monkeypatch.setattr(explain, "_judge", None)
    refusal = refused(padded(body)).refusal
    assert refusal.code == code
    assert text in (refusal.message or "")
    assert len(refusal.message or "") < KIB


@pytest.mark.parametrize(
    "body",
    [
        many(*['{"Data":""}'] * 200_000),
        many(*[ENTRY] * 200_000),
        b'{"StreamName":"s","X":{%b},"Records":[%b]}'
        % (b",".join(b'"%d":0' % each for each in range(200_000)), ENTRY.encode()),
    ],
)
def test_a_body_of_more_members_than_any_request_has_is_refused(body: bytes) -> None:
    for single in (False, True):
        error = refused(body, single=single)
        assert error.refusal.code in {"SerializationException", "ValidationException"}


def test_a_body_that_is_mostly_something_else_is_refused() -> None:
    for other, text in (
        (b'"X":[%b[]]' % (b"[]," * 400_000), "bytes beside base64"),
        (b'"X":"%b"' % (b"x" * 1_200_000), "bytes beyond its records"),
    ):
        body = b'{"StreamName":"s","Records":[%b],%b}' % (ENTRY.encode(), other)
        assert text in (refused(body).refusal.message or "")
    escaped = '{"Data":"eA==","PartitionKey":"%s"}' % ("\\u0061" * 256)
    assert len(parse_put_records(many(*[escaped] * 500), LIMITS).records) == 500


@pytest.mark.parametrize(
    "value", [b"1" * 60_000, b"-1e999999", b"1." + b"0" * 60_000, b"0" * 60_000, b"NaN", b"1e5"]
)
def test_a_number_of_any_length_is_no_trouble(value: bytes) -> None:
    for body in (
        b'{"StreamName":"s","Records":[{"Data":%b,"PartitionKey":"k"}]}' % value,
        b'{"StreamName":"s","Records":[%b]}' % value,
        b'{"StreamName":%b}' % value,
    ):
        assert refused(body).refusal.code == "SerializationException"
        assert refused(padded(body)).refusal.code == "SerializationException"


def test_a_long_value_is_repeated_in_part_and_ten_of_them_as_well() -> None:
    entry = '{"Data":"eA==","PartitionKey":"%s"}' % ("\\u0001" * 300)
    refusal = refused(many(*[entry] * 20)).refusal
    assert len(render(refusal, Encoding.JSON).body) < 32 * KIB
    huge = "n/" * MIB
    for single in (False, True):
        body = b'{"StreamName":"%b","Data":"eA==","PartitionKey":"k"}' % huge.encode()
        assert len(refused(body, single=single).refusal.message or "") < KIB


# --- records without a key


def test_records_without_a_key_are_read_and_told() -> None:
    request = parse_put_records(many(ENTRY, NO_KEY, NULL_KEY), LIMITS)
    assert [record.partition_key for record in request.records] == ["k", "", ""]
    assert request.sizes == [2, 7, 7]  # a key that is missing counts the one that it will have
    assert request.keyless_count == 2
    with pytest.raises(ApiError) as caught:
        require_keys(request)
    assert caught.value.refusal.message == (
        f"2 validation errors detected: Value null at 'records.2.member.partitionKey' {NOT_NULL}; "
        f"Value null at 'records.3.member.partitionKey' {NOT_NULL}"
    )
    assert (caught.value.record_count, caught.value.stream) == (3, "s")


@pytest.mark.parametrize("key", ["", ',"PartitionKey":null'])
def test_so_is_a_single_one(key: str) -> None:
    body = f'{{"StreamName":"s","Data":"eA=="{key},"ExplicitHashKey":"7"}}'.encode()
    request = parse_put_record(body, PutLimits(keyless_bytes=0))
    (record,) = request.records
    assert (record.partition_key, record.explicit_hash_key) == ("", "7")
    assert (request.sizes, request.keyless_count) == ([1], 1)
    with pytest.raises(ApiError) as caught:
        require_keys(request)
    assert caught.value.refusal.message == (
        f"1 validation error detected: Value null at 'partitionKey' {NOT_NULL}"
    )


def test_a_request_with_all_its_keys_is_no_trouble() -> None:
    request = parse_put_records(many(ENTRY), LIMITS)
    require_keys(request)
    refuse_ordering(request)
    assert request.keyless_count == 0


def test_an_empty_key_is_none_of_these() -> None:
    body = many(NO_KEY, '{"Data":"eA==","PartitionKey":""}')
    assert "greater than or equal to 1" in (refused(body).refusal.message or "")
    single = b'{"StreamName":"s","Data":"eA==","PartitionKey":""}'
    assert "greater than or equal to 1" in (refused(single, single=True).refusal.message or "")


# --- SequenceNumberForOrdering


@pytest.mark.parametrize("number", ["0", "7", "9" * 129])
def test_an_order_may_be_asked_for(number: str) -> None:
    body = b'{"StreamName":"s","Data":"","PartitionKey":"k","SequenceNumberForOrdering":"%b"}'
    request = parse_put_record(body % number.encode(), LIMITS)
    assert request.sequence_number_for_ordering == number
    with pytest.raises(ApiError) as caught:
        refuse_ordering(request)
    assert caught.value.refusal.code == "InvalidArgumentException"


@pytest.mark.parametrize("number", ["", "00", "01", "-1", "1e3", "x", " 1", "1\\n", "9" * 130, "٣"])
def test_by_a_sequence_number_only(number: str) -> None:
    body = '{"StreamName":"s","Data":"","PartitionKey":"k","SequenceNumberForOrdering":"%s"}'
    refusal = refused((body % number).encode(), single=True).refusal
    assert refusal.code == "ValidationException"
    assert (refusal.message or "").endswith(
        " at 'sequenceNumberForOrdering' failed to satisfy constraint: Member must satisfy regular "
        r"expression pattern: 0|([1-9]\d{0,128})"
    )


# --- the status of a request of which nothing was taken

DELIVERED = RecordResult("7", "shardId-000000000000")


def failed(code: str | None, text: str | None = None) -> RecordResult:
    return RecordResult(error_code=code, error_message=text)


def test_a_request_of_which_something_was_taken_is_no_refusal() -> None:
    assert status_of([failed("InternalFailure"), DELIVERED]) is None
    assert status_of([failed("InternalFailure"), ACCEPTED]) is None


@pytest.mark.parametrize(
    ("codes", "code", "status"),
    [
        (["ValidationException", "ProvisionedThroughputExceededException", "InternalFailure"],
         "InternalFailure", 500),
        (["ValidationException", "ThrottlingException", "ServiceUnavailable"],
         "ThrottlingException", 400),
        (["ServiceUnavailable", "ThrottlingException"], "ServiceUnavailable", 503),
        (["AccessDeniedException", "ValidationException"], "AccessDeniedException", 400),
        ([None], "InternalFailure", 500),
    ],
)  # fmt: skip
def test_else_what_passes_goes_before_what_stays(
    codes: list[str | None], code: str, status: int
) -> None:
    refusal = status_of([failed(each, each and f"{each}!") for each in codes])
    assert refusal is not None
    assert (refusal.code, refusal.status) == (code, status)
    assert refusal.message == ("Internal Service Failure" if codes == [None] else f"{code}!")


def test_a_refusal_is_plain_data() -> None:
    """Nothing in it holds what the client sent, or a frame that does."""
    error = refused(b'{"StreamName":"s","Records":[{"Data":"#"}]}')
    assert json.loads(render(error.refusal, error.encoding).body)["__type"] == error.refusal.code
