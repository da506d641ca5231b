"""What Yandex reads, checks and refuses, and whom it lets in, as the sandbox imitates it."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota
from kdaemon.sandbox.yandex_auth import Entrance
from tests.kit.endpoints import entry
from tests.kit.yandex import (
    BASE,
    CBOR,
    GOOD,
    HIGH,
    JSON,
    STREAM,
    Yandex,
    argument,
    issue,
    validation,
)

SIGNED = "AWS4-HMAC-SHA256 Credential={}/20261128/{}/kinesis/aws4_request, SignedHeaders={}"
STAMP = "20261128T120000Z"


@pytest.fixture
def yandex() -> Yandex:
    return Yandex()


# --- what is read

UNKNOWN_KEYS = {
    "PutRecords StreamARN": ("PutRecords", {"Records": [GOOD]}, "StreamARN"),
    "PutRecords StreamId": ("PutRecords", {"Records": [GOOD]}, "StreamId"),
    "PutRecords DryRun": ("PutRecords", {"Records": [GOOD]}, "DryRun"),
    "PutRecord StreamARN": ("PutRecord", GOOD, "StreamARN"),
    "PutRecord StreamId": ("PutRecord", GOOD, "StreamId"),
    "PutRecord DryRun": ("PutRecord", GOOD, "DryRun"),
    "DescribeStream StreamARN": ("DescribeStream", {}, "StreamARN"),
    "DescribeStream DryRun": ("DescribeStream", {}, "DryRun"),
    "GetRecords StreamARN": ("GetRecords", {"ShardIterator": "x"}, "StreamARN"),
}


@pytest.mark.parametrize("content_type", [JSON, CBOR], ids=["json", "cbor"])
@pytest.mark.parametrize("case", UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_by_its_name(
    yandex: Yandex, case: str, content_type: str
) -> None:
    operation, members, key = UNKNOWN_KEYS[case]
    said = yandex.call(operation, {**members, key: "x"}, content_type=content_type)
    assert said.refusal == argument(f"Unexpected json key: {key}")
    assert yandex.service.stored(STREAM) == []


def test_an_unknown_key_of_a_record_is_refused_by_its_name(yandex: Yandex) -> None:
    assert yandex.put({**GOOD, "Tags": "x"}).refusal == argument("Unexpected json key: Tags")


UNREADABLE = {
    "empty": (b"", JSON, argument("Empty body")),
    "no JSON": (b"{", JSON, argument("Can not parse request body from JSON")),
    "no CBOR": (b"\xff", CBOR, argument("Can not parse request body from CBOR")),
    "null": (b"null", JSON, (400, "MissingParameter", "Top level of json value is not a map")),
    "a list": (b"[]", JSON, argument("Unexpected json value: type must be object")),
    "a string": (b'"x"', JSON, argument("Unexpected json value: type must be object")),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused(yandex: Yandex, case: str) -> None:
    body, content_type, expected = UNREADABLE[case]
    assert yandex.call("PutRecords", body=body, content_type=content_type).refusal == expected


@pytest.mark.parametrize("content_type", ["application/bson", "text/plain"])
def test_an_unknown_content_type_is_refused_once_the_operation_is_known(
    yandex: Yandex, content_type: str
) -> None:
    said = yandex.call("PutRecords", {}, content_type=content_type)
    assert said.refusal == argument("Unknown ContentType")
    assert yandex.call("Nonsense", {}, content_type=content_type).refusal[1] == "InvalidAction"


@pytest.mark.parametrize("content_type", ["application/json", "application/x-amz-json-1.1"])
def test_json_is_taken_by_either_name(yandex: Yandex, content_type: str) -> None:
    members = {"StreamName": STREAM, "Records": [GOOD]}
    assert yandex.call("PutRecords", members, content_type=content_type).status == 200


def test_cbor_is_taken_and_answered_in(yandex: Yandex) -> None:
    members = {"StreamName": STREAM, "Records": [GOOD]}
    said = yandex.call("PutRecords", members, content_type=CBOR)
    assert said.status == 200
    assert said.members["Records"][0]["SequenceNumber"] == "0"


NULLS: dict[str, tuple[str, dict[str, Any]]] = {
    "StreamName": ("PutRecords", {"StreamName": None, "Records": [GOOD]}),
    "Records": ("PutRecords", {"StreamName": STREAM, "Records": None}),
    "Data": ("PutRecords", {"StreamName": STREAM, "Records": [{**GOOD, "Data": None}]}),
    "PartitionKey": (
        "PutRecords",
        {"StreamName": STREAM, "Records": [{**GOOD, "PartitionKey": None}]},
    ),
    "ExplicitHashKey": (
        "PutRecords",
        {"StreamName": STREAM, "Records": [{**GOOD, "ExplicitHashKey": None}]},
    ),
    "SequenceNumberForOrdering": (
        "PutRecord",
        {"StreamName": STREAM, **GOOD, "SequenceNumberForOrdering": None},
    ),
}


@pytest.mark.parametrize("content_type", [JSON, CBOR], ids=["json", "cbor"])
@pytest.mark.parametrize("case", NULLS)
def test_null_is_a_value_of_the_wrong_type_and_not_absent(
    yandex: Yandex, case: str, content_type: str
) -> None:
    operation, members = NULLS[case]
    said = yandex.call(operation, members, content_type=content_type)
    assert said.refusal[:2] == (400, "InvalidArgumentException")
    assert "Unexpected json value" in said.refusal[2]
    assert yandex.service.stored(STREAM) == []


TARGETS = {
    "Kinesis_20131202.DescribeStream": None,
    "kinesisApi.DescribeStream": None,
    "anything.DescribeStream": None,
    "kinesisApi.": "MissingAction",
    ".": "MissingAction",
    "": "MissingAction",
    ".DescribeStream": "MissingAction",
    "DescribeStream": "MissingAction",
    "kinesisApi.MethodNotExists": "InvalidAction",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_any_word_a_dot_and_the_operation(yandex: Yandex, target: str) -> None:
    said = yandex.call("", {"StreamName": STREAM}, headers={"x-amz-target": target})
    expected = TARGETS[target]
    assert said.status == (200 if expected is None else 400)
    assert said.members.get("__type") == expected


@pytest.mark.parametrize("operation", ["ListShards", "DescribeStreamSummary", "DescribeLimits"])
def test_an_operation_that_is_documented_as_not_supported_is_unknown(
    yandex: Yandex, operation: str
) -> None:
    said = yandex.call(operation, {"StreamName": STREAM})
    assert said.refusal == (400, "InvalidAction", f'Unknown method name "{operation}"')


@pytest.mark.parametrize("path", [BASE, f"{BASE}/"])
def test_the_database_may_stand_in_the_url_before_a_short_name(yandex: Yandex, path: str) -> None:
    members = {"StreamName": "orders", "Records": [GOOD]}
    assert yandex.call("PutRecords", members, path=path).status == 200
    assert yandex.call("DescribeStream", {"StreamName": "orders"}, path=path).status == 200
    assert yandex.call("PutRecords", members).refusal[1] == "ResourceNotFoundException"


def test_a_missing_stream_is_told_as_a_missing_database(yandex: Yandex) -> None:
    text = f"Database with path '{BASE}/other' doesn't exists"
    for operation, members in (("DescribeStream", {}), ("PutRecords", {"Records": [GOOD]})):
        said = yandex.call(operation, {"StreamName": f"{BASE}/other", **members})
        assert said.refusal == (400, "ResourceNotFoundException", text)


def test_below_a_database_of_the_url_a_missing_stream_is_perhaps_forbidden(
    yandex: Yandex,
) -> None:
    text = f"path '{BASE}/other' does not exist or you do not have access rights"
    for operation, members in (("DescribeStream", {}), ("PutRecords", {"Records": [GOOD]})):
        said = yandex.call(operation, {"StreamName": "other", **members}, path=BASE)
        assert said.refusal == (400, "ResourceNotFoundException", issue(text, 500018))


# --- what is checked, before anything is written: one bad record refuses the call

BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "501 records": ([GOOD] * 501, "Too many records in a single PutRecords request: 501 > 500"),
    "no key": ([GOOD, entry(b"x", "")], "Empty partition key"),
    "key of 257 bytes": ([GOOD, entry(b"x", "k" * 257)], "Partition key is too long: " + "k" * 257),
    "key of 129 characters, 258 bytes": (
        [GOOD, entry(b"x", "é" * 129)],
        "Partition key is too long: " + "é" * 129,
    ),
    "data over 1 MiB": (
        [GOOD, entry(b"x" * (MIB + 1), "k")],
        "Data of size of 1048577 bytes exceed limit of 1048576 bytes",
    ),
    "hash key with a zero before": ([entry(b"x", "k", "01")], "01 is not a valid 128 bit decimal"),
    "hash key no number": ([entry(b"x", "k", "x1")], "x1 is not a valid 128 bit decimal"),
    "hash key 2**128": (
        [entry(b"x", "k", str(2**128))],
        f"{2**128} is not a valid 128 bit decimal",
    ),
    "over 5 MiB with keys": (
        [entry(b"x" * MIB, "k")] * 5,
        "Total size of PutRecords request of 5242885 bytes exceed limit of 5242880 bytes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_record_refuses_the_call_and_nothing_is_written(yandex: Yandex, case: str) -> None:
    records, text = BAD[case]
    assert yandex.put(*records).refusal == validation(text)
    assert yandex.service.stored(STREAM) == []


EMPTY, LARGE = "Empty partition key", "Data of size of 1048577 bytes exceed limit of 1048576 bytes"
FIRST: dict[str, tuple[list[dict[str, Any]], str]] = {
    "the number of records before any of them": (
        [entry(b"x", "")] * 501,
        "Too many records in a single PutRecords request: 501 > 500",
    ),
    "the first record of two": ([entry(b"x" * (MIB + 1), "k"), entry(b"x", "")], LARGE),
    "the other way round": ([entry(b"x", ""), entry(b"x" * (MIB + 1), "k")], EMPTY),
    "no key before the data": ([entry(b"x" * (MIB + 1), "")], EMPTY),
    "the data before a long key": ([entry(b"x" * (MIB + 1), "k" * 257)], LARGE),
    "a long key before the hash key": (
        [entry(b"x", "k" * 257, "x")],
        "Partition key is too long: " + "k" * 257,
    ),
    "a record before the size of all": ([*[entry(b"x" * MIB, "k")] * 6, entry(b"x", "")], EMPTY),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_service_says_what_is_wrong_first(yandex: Yandex, case: str) -> None:
    records, text = FIRST[case]
    assert yandex.put(*records).refusal == validation(text)


def test_a_stream_without_a_name_is_refused(yandex: Yandex) -> None:
    said = yandex.call("PutRecords", {"Records": [GOOD]})
    assert said.refusal == validation("Stream name is empty")


GOOD_RECORDS = {
    "data of 1 MiB, the key not counted": [entry(b"x" * MIB, "k" * 256)],
    "key of 128 characters, 256 bytes": [entry(b"x", "é" * 128)],
    "5 MiB less the keys": [entry(b"x" * (MIB - 1), "k", HIGH)] * 5,
    "an empty hash key is none": [entry(b"x", "k", "")],
    "the highest hash key": [entry(b"x", "k", HIGH)],
    "no data": [entry(b"", "k")],
    "500 records": [GOOD] * 500,
}


@pytest.mark.parametrize("case", GOOD_RECORDS)
def test_what_is_within_the_limits_is_taken(case: str) -> None:
    yandex = Yandex(quota=Quota(1000, 10 * MIB))
    said = yandex.put(*GOOD_RECORDS[case])
    assert (said.status, said.members["FailedRecordCount"]) == (200, 0)


def test_a_call_without_records_is_answered_without_results(yandex: Yandex) -> None:
    said = yandex.put()
    assert said.members == {
        "EncryptionType": "ENCRYPTION_UNDEFINED",
        "FailedRecordCount": 0,
        "Records": [],
    }


# --- who is let in


def signed(key: str = "YCkey", region: str = "ru-central1", names: str = "host;x-amz-date") -> str:
    return SIGNED.format(key, region, names) + ", Signature=" + "0" * 64


WRONG_REGION = "Wrong service region: got {} expected ru-central1"
PROOFS: dict[str, tuple[dict[str, str], tuple[str, str] | None]] = {
    "a signature": ({"authorization": signed(), "x-amz-date": STAMP}, None),
    "nothing": ({}, None),
    "a token": ({"x-yacloud-subjecttoken": "t1.new"}, None),
    "a bearer": ({"authorization": "Bearer t1.new"}, None),
    "a token beside a signature": (
        {"x-yacloud-subjecttoken": "t1.new", "authorization": signed(region="us-east-1")},
        None,
    ),
    "an old token": (
        {"x-yacloud-subjecttoken": "t1.old"},
        ("AccessDeniedException", "The token has expired"),
    ),
    "an old bearer": (
        {"authorization": "Bearer t1.old"},
        ("AccessDeniedException", "The token has expired"),
    ),
    "an old token beside a signature": (
        {"x-yacloud-subjecttoken": "t1.old", "authorization": signed(), "x-amz-date": STAMP},
        ("AccessDeniedException", "The token has expired"),
    ),
    "an empty bearer": (
        {"authorization": "Bearer "},
        ("AccessDeniedException", "The token has expired"),
    ),
    "another region": (
        {"authorization": signed(region="us-east-1"), "x-amz-date": STAMP},
        ("IncompleteSignature", WRONG_REGION.format("us-east-1")),
    ),
    "no region": (
        {"authorization": "AWS4-HMAC-SHA256 Credential=key, SignedHeaders=x, Signature=0"},
        ("IncompleteSignature", WRONG_REGION.format("")),
    ),
    "no date": (
        {"authorization": signed()},
        ("IncompleteSignature", "Failed to parse Signature timestamp"),
    ),
    "an unsigned date": (
        {"authorization": signed(names="host"), "x-amz-date": STAMP},
        ("IncompleteSignature", "Failed to parse Signature timestamp"),
    ),
    "no key": (
        {"authorization": signed(key=""), "x-amz-date": STAMP},
        ("MissingAuthenticationToken", "Access key id should be provided"),
    ),
    "no signature at all": (
        {"authorization": "Basic eHg="},
        ("AccessDeniedException", "The Authorization header can not be parsed"),
    ),
}


@pytest.mark.parametrize("case", PROOFS)
def test_a_request_is_let_in_by_its_token_or_else_by_its_signature(
    yandex: Yandex, case: str
) -> None:
    headers, expected = PROOFS[case]
    yandex.service.accept_tokens(["t1.new"])
    said = yandex.call("PutRecords", {"StreamName": STREAM, "Records": [GOOD]}, headers=headers)
    if expected is None:
        assert said.status == 200, said
    else:
        assert said.refusal == (400, *expected)
    assert len(yandex.service.stored(STREAM)) == (expected is None)


def test_any_token_is_accepted_until_a_test_says_which(yandex: Yandex) -> None:
    token = {"x-yacloud-subjecttoken": "t1.any"}
    members = {"StreamName": STREAM}
    assert yandex.call("DescribeStream", members, headers=token).status == 200
    yandex.service.accept_tokens([])
    assert yandex.call("DescribeStream", members, headers=token).status == 400
    yandex.service.accept_tokens(None)
    assert yandex.call("DescribeStream", members, headers=token).status == 200
    assert yandex.service.state()["requests_with"] == {
        "iam_token": 2,
        "signature": 0,
        "nothing": 0,
        "refused": 1,
    }


def test_a_test_can_ask_for_a_token_or_a_signature(yandex: Yandex) -> None:
    yandex.service.accept_tokens(None, is_required=True)
    said = yandex.call("DescribeStream", {"StreamName": STREAM})
    text = "Neither Credentials nor IAM token was provided"
    assert said.refusal == (400, "IncompleteSignature", text)


def test_a_body_that_cannot_be_read_is_refused_before_who_asks_is_looked_at(
    yandex: Yandex,
) -> None:
    yandex.service.accept_tokens([], is_required=True)
    bad = {"StreamName": STREAM, "Records": [GOOD], "DryRun": True}
    assert yandex.call("PutRecords", bad).refusal == argument("Unexpected json key: DryRun")
    empty = {"StreamName": STREAM, "Records": [entry(b"x", "")]}
    assert yandex.call("PutRecords", empty).refusal[1] == "IncompleteSignature"


@settings(deadline=None)  # a busy machine is no failure
@given(authorization=st.binary(max_size=80), stamp=st.binary(max_size=20))
def test_no_header_breaks_the_entrance(authorization: bytes, stamp: bytes) -> None:
    entrance = Entrance()
    heads = (authorization, b"AWS4-HMAC-SHA256 " + authorization, b"Bearer " + authorization)
    for head in (*heads, b"AWS4-HMAC-SHA256 Credential=" + authorization):
        with contextlib.suppress(ServiceError):
            entrance.check({b"authorization": head, b"x-amz-date": stamp})
    assert sum(entrance.counts.values()) == 4


def test_at_aws_there_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="only Yandex takes IAM tokens"):
        Service().accept_tokens(["t1"])


@pytest.mark.parametrize("tokens", [[str(number) for number in range(101)], [""], ["x" * 8193]])
def test_tokens_are_bounded(yandex: Yandex, tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="token"):
        yandex.service.accept_tokens(tokens)
