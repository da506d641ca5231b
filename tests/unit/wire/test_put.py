"""The Kinesis API's wire form; expected answers as recorded from an emulator and from AWS."""

import base64
import json
import re
import uuid
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.limits import MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.http.answer import headers_of
from kdaemon.wire.envelope import AnswerHeaders, Operation, read_envelope
from kdaemon.wire.limits import PutLimits, PutRequest, check_sizes
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError, Encoding, Rendered, refuse, render
from kdaemon.wire.results import ACCEPTED, encode_put_record, encode_put_records
from tests.kit.puts import members_of

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
CN_ARN = ARN.replace("aws", "aws-cn")
LIMITS = PutLimits()


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def records(*entries: Any, stream: str | None = "s") -> bytes:
    return body(StreamName=stream, Records=list(entries))


def entry(key: Any = "a", data: Any = "aGk=", **more: Any) -> dict[str, Any]:
    return {"PartitionKey": key, "Data": data, **more}


def rendered(error: ApiError) -> Rendered:
    return render(error.refusal, error.encoding)


def refused(
    sent: bytes, limits: PutLimits = LIMITS, *, single: bool = False
) -> tuple[int, str, str]:
    with pytest.raises(ApiError) as caught:
        (parse_put_record if single else parse_put_records)(sent, limits)
    answer = rendered(caught.value)
    code = caught.value.refusal.code
    assert answer.content_type == JSON
    told = json.loads(answer.body)
    assert told["__type"] == code
    text = told["Message" if code == "SerializationException" else "message"]
    return answer.status, code, text


# --- requests that are taken


def test_records_come_with_their_sizes_in_order() -> None:
    request = parse_put_records(
        records(
            entry("a"),
            entry("é", ""),
            entry("😀", "aGk=", ExplicitHashKey="0"),
            entry(ExplicitHashKey=str(2**128 - 1)),
            entry(ExplicitHashKey=None, Unknown=[1]),
        ),
        LIMITS,
    )
    assert request.records == [
        Record(b"hi", "a"),
        Record(b"", "é"),
        Record(b"hi", "😀", "0"),
        Record(b"hi", "a", str(2**128 - 1)),
        Record(b"hi", "a"),
    ]
    assert request.sizes == [3, 2, 6, 3, 3]
    assert request.stream == request.stream_name == "s"
    assert not request.is_dry_run


def test_what_is_parsed_is_what_is_queued_and_sent() -> None:
    """Encoded again, a record has the members that PutRecords takes and no other."""
    (record,) = parse_put_record(body(StreamName="s", **entry()), LIMITS).records
    assert type(record) is Record
    assert json.loads(msgspec.json.encode(record)) == {"Data": "aGk=", "PartitionKey": "a"}


def test_one_record_is_a_request_of_one() -> None:
    request = parse_put_record(
        body(StreamARN=ARN, SequenceNumberForOrdering="7", DryRun=True, StreamId="x", **entry()),
        LIMITS,
    )
    assert members_of(request) == members_of(
        PutRequest(
            None, ARN, [Record(b"hi", "a")], [3], 3, True, "7", keyless_count=0, is_single=True
        )
    )
    assert request.depends_on_kind, "on an order, which no stream that is AUTO has"
    assert request.stream == "s"


@pytest.mark.parametrize("name", ["s", ARN, None])
def test_a_stream_may_be_named_twice_if_it_is_the_same(name: str | None) -> None:
    sent = body(StreamName=name, StreamARN=ARN, Records=[entry()])
    assert parse_put_records(sent, PutLimits(is_stream_name_free=name == ARN)).stream == "s"


def test_two_names_for_two_streams_are_refused() -> None:
    sent = body(StreamName="t", StreamARN=ARN, Records=[entry()])
    status, code, text = refused(sent)
    assert (status, code) == (400, "InvalidArgumentException")
    assert "StreamName t" in text


def test_a_free_stream_name_is_a_path() -> None:
    name = "/ru-central1/b1g/etn/stream"
    assert refused(records(entry(), stream=name))[1] == "ValidationException"
    request = parse_put_records(records(entry(), stream=name), PutLimits(is_stream_name_free=True))
    assert request.stream == name


def test_the_most_that_is_allowed_is_taken() -> None:
    assert len(parse_put_records(records(*[entry()] * 500), LIMITS).records) == 500
    wide = "é" * 256
    assert parse_put_records(records(entry(wide)), LIMITS).sizes == [514]
    data = base64.b64encode(bytes(MIB - 1)).decode()
    assert parse_put_records(records(entry("a", data)), LIMITS).sizes == [MIB]
    assert parse_put_record(body(StreamName="s", **entry("a", data)), LIMITS).sizes == [MIB]


# --- requests that are refused

NUMBER = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"
NULL = "failed to satisfy constraint: Member must not be null"
LONG = "failed to satisfy constraint: Member must have length"
PATTERN = "failed to satisfy constraint: Member must satisfy regular expression pattern:"
ONE = "1 validation error detected: "


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (
            body(),
            (
                f"2 validation errors detected: Value null at 'records' {NULL}; "
                f"Value null at 'streamName' {NULL}"
            ),
        ),
        (
            b"[]",
            (
                f"2 validation errors detected: Value null at 'records' {NULL}; "
                f"Value null at 'streamName' {NULL}"
            ),
        ),
        (body(Records=[entry()]), f"{ONE}Value null at 'streamName' {NULL}"),
        (records(), f"{ONE}Value '[]' at 'records' {LONG} greater than or equal to 1"),
        (records(*[entry()] * 501), f"{ONE}Value at 'records' {LONG} less than or equal to 500"),
        (
            records(entry("")),
            f"{ONE}Value '' at 'records.1.member.partitionKey' {LONG} greater than or equal to 1",
        ),
        (
            records(entry(), entry("k" * 257)),
            (
                f"{ONE}Value '{'k' * 257}' at 'records.2.member.partitionKey' {LONG} less than or "
                "equal to 256"
            ),
        ),
        (
            records({"Data": None}),
            (
                f"2 validation errors detected: Value null at 'records.1.member.partitionKey' "
                f"{NULL}; Value null at 'records.1.member.data' {NULL}"
            ),
        ),
        (records({"PartitionKey": "a"}), f"{ONE}Value null at 'records.1.member.data' {NULL}"),
        (records(entry(data=None)), f"{ONE}Value null at 'records.1.member.data' {NULL}"),
        (records(None), f"{ONE}Value null at 'records.1.member' {NULL}"),
        *(
            (
                records(entry(ExplicitHashKey=key)),
                (
                    f"{ONE}Value '{key}' at 'records.1.member.explicitHashKey' {PATTERN} "
                    r"0|([1-9]\d{0,38})"
                ),
            )
            for key in ("x1", "-1", "01", "", "1 ", "1\n", "1" * 40, "٣")
        ),
        (
            records(entry(), stream="no/such name"),
            f"{ONE}Value 'no/such name' at 'streamName' {PATTERN} [a-zA-Z0-9_.-]+",
        ),
        (
            records(entry(), stream=""),
            (
                "2 validation errors detected: "
                f"Value '' at 'streamName' {PATTERN} [a-zA-Z0-9_.-]+; "
                f"Value '' at 'streamName' {LONG} greater than or equal to 1"
            ),
        ),
        (
            body(StreamARN="arn", Records=[entry()]),
            rf"{ONE}Value 'arn' at 'streamARN' {PATTERN} arn:aws.*:kinesis:.*:\d{{12}}:stream/\S+",
        ),
        (
            body(StreamARN=CN_ARN, Records=[entry()]),
            (
                f"{ONE}Value '{CN_ARN}' at 'streamARN' failed to satisfy constraint: Member must "
                "name the partition of its region: it names the partition aws-cn, and its region "
                "us-east-1 is of aws"
            ),
        ),
        (
            records(*[entry("")] * 11),
            "10 validation errors detected: "
            + "; ".join(
                f"Value '' at 'records.{i}.member.partitionKey' {LONG} greater than or equal to 1"
                for i in range(1, 11)
            ),
        ),
    ],
)
def test_broken_constraints_are_told_in_the_services_words(sent: bytes, text: str) -> None:
    assert refused(sent) == (400, "ValidationException", text)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (records(entry(data="abc")), ("'abc' can not be converted to a Blob: Base64 encoded length "
         "is expected a multiple of 4 bytes but found: 3")),
        (records(entry(data="a#b=")),
         "'a#b=' can not be converted to a Blob: Invalid Base64 character: '#'"),
        (records(entry(data="_-8=")),
         "'_-8=' can not be converted to a Blob: Invalid Base64 character: '_'"),
        (records(entry(data="=+/==")), ("'=+/==' can not be converted to a Blob: Base64 encoded "
         "length is expected a multiple of 4 bytes but found: 5")),
        (records(entry(data=1)), f"{NUMBER} can not be converted to a Blob"),
        (records(entry(ExplicitHashKey=1)), f"{NUMBER} can not be converted to an String"),
        (records(entry(key=True)), "class java.lang.Boolean can not be converted to an String"),
        (records(entry(key=[])), "Unrecognized collection type class java.lang.String"),
        (records(entry(key={})), "Start of structure or map found where not expected."),
        (records("a"), "Expected null"),
        (records([]), "Start of list found where not expected"),
        (body(StreamName="s", Records={}), "Start of structure or map found where not expected."),
        (body(StreamName="s", Records="x"), "Expected list or null"),
        (body(StreamName="s", Records=[entry()], DryRun="x"),
         "'x' can not be converted to an Boolean"),
        (b"null", "The body must be a JSON object."),
        (b'"x"', "The body must be a JSON object."),
        (b'{"StreamName":"\xff"}', "The body is not UTF-8."),
        (b"[" * 60_000, "The body is nested too deeply."),
        (b'{"x":' + b"[" * 100_000, "The body is nested too deeply."),
    ],
)  # fmt: skip
def test_wrong_types_are_told_in_the_services_words(sent: bytes, text: str) -> None:
    assert refused(sent) == (400, "SerializationException", text)


@pytest.mark.parametrize(
    "sent",
    [
        b"{",
        b"\x00",
        b"{}x",
        b"\xef\xbb\xbf{}",
        records(entry("\ud800")),
        b'{"StreamName":"s","Records":[{"Data":"","PartitionKey":"\x00"}]}',
    ],
)
def test_what_is_no_json_is_a_serialization_error_that_says_where(sent: bytes) -> None:
    status, code, text = refused(sent)
    assert (status, code) == (400, "SerializationException")
    assert text.startswith("The body is not JSON: ")


def test_a_hash_key_beyond_128_bits_is_out_of_range() -> None:
    text = (
        "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
        f"Specified value was {2**128}"
    )
    wrong = entry(ExplicitHashKey=str(2**128))
    assert refused(records(entry(), wrong)) == (400, "InvalidArgumentException", text)
    assert refused(body(StreamName="s", **wrong), single=True) == (
        400,
        "InvalidArgumentException",
        text,
    )


def test_a_long_value_is_not_repeated_whole() -> None:
    assert len(refused(records(entry("k" * 100_000)))[2]) < 600
    assert len(refused(records(entry(data="#" * 100_000)))[2]) < 600


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (
            body(),
            (
                f"3 validation errors detected: Value null at 'partitionKey' {NULL}; "
                f"Value null at 'data' {NULL}; Value null at 'streamName' {NULL}"
            ),
        ),
        (body(StreamName="s", PartitionKey="a"), f"{ONE}Value null at 'data' {NULL}"),
        (
            body(StreamName="s", **entry("k" * 257)),
            f"{ONE}Value '{'k' * 257}' at 'partitionKey' {LONG} less than or equal to 256",
        ),
        (
            body(StreamName="s", **entry(ExplicitHashKey="x")),
            (f"{ONE}Value 'x' at 'explicitHashKey' {PATTERN} " r"0|([1-9]\d{0,38})"),
        ),
    ],
)
def test_a_single_record_is_refused_without_a_position(sent: bytes, text: str) -> None:
    assert refused(sent, single=True) == (400, "ValidationException", text)


def sized(count: int, key: str = "a") -> dict[str, Any]:
    return entry(key, base64.b64encode(bytes(count)).decode())


def test_a_record_over_the_limit_is_told_as_aws_does_since_2025() -> None:
    text = f"Value at 'records.2.member.data' {LONG} less than or equal to 1048576."
    assert refused(records(entry(), sized(MIB + 1))) == (400, "ValidationException", ONE + text)
    single = body(StreamName="s", **sized(MIB + 1))
    assert refused(single, single=True)[2] == ONE + text.replace("records.2.member.", "")


def test_the_key_counts_towards_the_record() -> None:
    limits = PutLimits(record_bytes_max=100)
    assert parse_put_records(records(sized(98, "é")), limits).sizes == [100]
    _, code, text = refused(records(sized(99, "é")), limits)
    assert code == "ValidationException"
    assert "less than or equal to 98 (of the 100 bytes" in text


@pytest.mark.parametrize("limit", [5, 10])
def test_a_request_over_its_limit_is_told_as_aws_does(limit: int) -> None:
    limits = PutLimits(request_bytes_max=limit * MIB)
    exact = [sized(MIB - 1)] * limit
    assert sum(parse_put_records(records(*exact), limits).sizes) == limit * MIB
    assert refused(records(*exact, entry()), limits) == (
        400,
        "InvalidArgumentException",
        f"Records size exceeds {limit} MB limit",
    )


def test_keys_may_be_limited_in_bytes() -> None:
    limits = PutLimits(partition_key_bytes_max=256)
    assert parse_put_records(records(entry("é" * 128)), limits).sizes == [258]
    assert refused(records(entry("é" * 129)), limits)[1] == "ValidationException"
    assert refused(body(StreamName="s", **entry("é" * 129)), limits, single=True)


def test_a_smaller_limit_can_be_applied_once_the_stream_is_known() -> None:
    request = parse_put_records(records(sized(50), sized(60)), LIMITS)
    check_sizes(request, PutLimits(record_bytes_max=61))
    with pytest.raises(ApiError, match="ValidationException"):
        check_sizes(request, PutLimits(record_bytes_max=60))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("aGk="),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "Records",
                        "StreamName",
                        "StreamARN",
                        "Data",
                        "PartitionKey",
                        "ExplicitHashKey",
                    ]
                ),
                inner,
            )
        ),
        max_leaves=15,
    )
)
def test_any_json_is_taken_or_refused_with_a_service_error(value: Any) -> None:
    sent = json.dumps(value).encode()
    for parse in (parse_put_records, parse_put_record):
        try:
            request = parse(sent, LIMITS)
        except ApiError as error:
            assert error.refusal.status == 400  # noqa: PT017
            assert error.refusal.code in {  # noqa: PT017
                "ValidationException",
                "SerializationException",
                "InvalidArgumentException",
            }
        else:
            assert len(request.records) == len(request.sizes) > 0


@given(st.binary(max_size=100))
def test_noise_is_refused_with_a_service_error(sent: bytes) -> None:
    for parse in (parse_put_records, parse_put_record):
        with pytest.raises(ApiError):
            parse(sent, LIMITS)


# --- the envelope


def headers(target: str | None, content_type: str | None) -> dict[bytes, bytes]:
    named = {b"x-amz-target": target, b"content-type": content_type}
    return {name: value.encode() for name, value in named.items() if value is not None}


PUT = "Kinesis_20131202.PutRecords"


@pytest.mark.parametrize(
    "content_type",
    ["application/x-amz-json-1.1", "application/x-amz-json-1.1; charset=utf-8"],
)
def test_the_target_says_which_operation(content_type: str) -> None:
    assert read_envelope("POST", headers(PUT, content_type), b"{}") is Operation.PUT_RECORDS
    single = headers(PUT[:-1], content_type)
    assert read_envelope("POST", single, b"{}") is Operation.PUT_RECORD


@pytest.mark.parametrize(
    ("method", "target", "content_type", "sent", "status", "type_", "code"),
    [
        ("GET", PUT, JSON.decode(), b"", 403, b"text/xml", "AccessDeniedException"),
        ("PUT", PUT, JSON.decode(), b"{}", 403, b"text/xml", "AccessDeniedException"),
        ("POST", PUT, JSON.decode(), b"", 400, JSON, "SerializationException"),
        ("POST", None, JSON.decode(), b"", 400, JSON, "UnknownOperationException"),
        ("POST", PUT, None, b"{}", 404, b"text/xml", "UnknownOperationException"),
        ("POST", PUT, "text/plain", b"{}", 404, b"text/xml", "UnknownOperationException"),
        (
            *("POST", PUT, "application/x-amz-json-1.0", b"{}"),
            *(404, b"text/xml", "UnknownOperationException"),
        ),
        (
            *("POST", PUT, "application/json", b"{}"),
            *(404, b"application/json", "UnknownOperationException"),
        ),
        ("POST", PUT + "z", JSON.decode(), b"{}", 400, JSON, "UnknownOperationException"),
        ("POST", None, JSON.decode(), b"{}", 400, JSON, "UnknownOperationException"),
        (
            *("POST", "DynamoDB_20120810.ListTables", JSON.decode(), b"{}"),
            *(400, JSON, "UnknownOperationException"),
        ),
    ],
)
def test_a_wrong_envelope_is_refused_as_the_service_does(
    method: str,
    target: str | None,
    content_type: str | None,
    sent: bytes,
    status: int,
    type_: bytes,
    code: str,
) -> None:
    with pytest.raises(ApiError) as caught:
        read_envelope(method, headers(target, content_type), sent)
    answer = rendered(caught.value)
    found = (answer.status, answer.content_type, caught.value.refusal.code)
    assert found == (status, type_, code)
    assert code.encode() in answer.body


@pytest.mark.parametrize(
    "content_type", ["application/x-amz-cbor-1.1", "Application/X-Amz-CBOR-1.1;x"]
)
def test_an_operation_in_cbor_is_known_by_its_content_type(content_type: str) -> None:
    found = read_envelope("POST", headers(PUT, content_type), b"\xbf\xff")
    assert found is Operation.PUT_RECORDS_CBOR
    single = headers(PUT[:-1], content_type)
    assert read_envelope("POST", single, b"\xbf\xff") is Operation.PUT_RECORD_CBOR


@pytest.mark.parametrize(
    ("method", "target", "sent", "status", "type_", "code"),
    [
        ("POST", PUT, b"", 400, CBOR, "SerializationException"),
        ("POST", None, b"", 400, CBOR, "UnknownOperationException"),
        ("POST", PUT + "z", b"\xbf\xff", 400, CBOR, "UnknownOperationException"),
        ("POST", None, b"\xbf\xff", 400, CBOR, "UnknownOperationException"),
        ("GET", PUT, b"\xbf\xff", 403, b"text/xml", "AccessDeniedException"),
    ],
)
def test_a_wrong_envelope_is_told_to_a_cbor_client_in_cbor(
    method: str, target: str | None, sent: bytes, status: int, type_: bytes, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        read_envelope(method, headers(target, CBOR.decode()), sent)
    answer = rendered(caught.value)
    found = (answer.status, answer.content_type, caught.value.refusal.code)
    assert found == (status, type_, code)
    assert caught.value.record_count == (1 if method == "GET" else 0)
    if type_ == CBOR:
        assert cbor2.loads(answer.body)["__type"] == code


# --- answers


def test_an_answer_has_one_entry_a_record_and_counts_the_failed() -> None:
    answer = json.loads(
        encode_put_records(
            [
                RecordResult(sequence_number="7", shard_id="shardId-000000000001"),
                RecordResult(
                    error_code="InternalFailure", error_message="Internal Service Failure"
                ),
                RecordResult("", "", "ThrottlingException", None),
                RecordResult(),
                RecordResult("8", "shardId-000000000002", None, ""),
            ]
        )
    )
    assert answer["EncryptionType"] == "NONE"
    assert answer["FailedRecordCount"] == 3
    ok, failed, throttled, silent, last = answer["Records"]
    assert ok == {"SequenceNumber": "7", "ShardId": "shardId-000000000001"}
    assert failed == {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
    assert throttled == {"ErrorCode": "ThrottlingException", "ErrorMessage": "ThrottlingException"}
    assert silent == failed
    assert last["SequenceNumber"] == "8"


def test_a_single_answer_is_flat() -> None:
    answer = json.loads(encode_put_record([RecordResult("7", "shardId-000000000001")]))
    assert answer == {
        "EncryptionType": "NONE",
        "SequenceNumber": "7",
        "ShardId": "shardId-000000000001",
    }


@pytest.mark.parametrize(
    ("code", "status"),
    [("ProvisionedThroughputExceededException", 400), ("InternalFailure", 500)],
)
def test_a_single_record_that_failed_is_an_error(code: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        encode_put_record([RecordResult(error_code=code, error_message="Why.")])
    answer = rendered(caught.value)
    assert answer.status == status
    assert json.loads(answer.body) == {"__type": code, "message": "Why."}


def test_what_is_only_accepted_looks_like_no_real_sequence_number() -> None:
    answer = json.loads(encode_put_records([ACCEPTED, ACCEPTED]))
    assert answer["FailedRecordCount"] == 0
    assert not re.fullmatch(r"0|([1-9]\d{0,128})", answer["Records"][0]["SequenceNumber"])


def test_a_serialization_error_has_its_text_under_another_name() -> None:
    for code, name in (("SerializationException", "Message"), ("ValidationException", "message")):
        body = render(refuse(code, "x"), Encoding.JSON).body
        assert json.loads(body) == {"__type": code, name: "x"}


@given(st.integers(0, 2**70))
def test_every_request_has_its_own_id_in_the_form_of_a_uuid(prefix: int) -> None:
    make = AnswerHeaders(prefix)
    seen = [dict(headers_of(make.next())) for _ in range(3)]
    for one in seen:
        assert uuid.UUID(one[b"x-amzn-RequestId"].decode()).version == 4
        base64.b64decode(one[b"x-amz-id-2"], validate=True)
    assert len({one[b"x-amzn-RequestId"] for one in seen}) == 3


def test_the_id_of_a_request_ends_with_its_number() -> None:
    make = AnswerHeaders(1)
    for number in range(1, 70_000):
        for _, value in headers_of(make.next()):
            assert value.endswith(b"%012x" % number)
