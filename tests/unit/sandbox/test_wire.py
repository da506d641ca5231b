"""The sandbox's envelope, its bounds, and noise, in JSON and in CBOR.

What it answers to recorded requests, and where it differs: `tests/contract/test_wire_cases.py`.
"""

import json
import random
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.errors import ServiceError
from kdaemon.base.service import SERVICES
from kdaemon.base.steps import at_once
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from kdaemon.sandbox.wire import encoding_of, read_call, refusal
from kdaemon.wire.refusals import ApiError
from tests.kit import cbor

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"
OPERATIONS = (
    "PutRecords",
    "PutRecord",
    "CreateStream",
    "DescribeStream",
    "ListShards",
    "GetRecords",
)


def headers(operation: str, content_type: bytes = JSON) -> dict[bytes, bytes]:
    return {
        b"content-type": content_type,
        b"x-amz-target": b"Kinesis_20131202." + operation.encode(),
    }


def answer_of(
    service: Service, method: str, head: dict[bytes, bytes], body: bytes
) -> tuple[int, bytes]:
    """As the server does it, without a server."""
    try:
        reply = at_once(read_call(service, method, "/", head, body)).perform(0, None)
    except (ServiceError, ApiError) as error:
        reply = refusal(error, encoding=encoding_of(service, head))
    return reply.status, reply.body


def in_cbor(service: Service, operation: str, **members: object) -> tuple[int, Any]:
    """A call in CBOR and what its answer says."""
    body = cbor.java(cbor.of_json(members))
    status, answer = answer_of(service, "POST", headers(operation, CBOR), body)
    return status, cbor2.loads(answer, semantic_decoders={1: lambda number, _: ("moment", number)})


def make_service(which: str = "aws") -> Service:
    service = Service(SandboxSettings(service=SERVICES[which]))
    service.create_stream("orders", 2)
    return service


def test_reading_a_call_does_nothing_until_it_is_performed() -> None:
    service = make_service()
    body = b'{"StreamName":"orders","Records":[{"Data":"eA==","PartitionKey":"k"}]}'
    call = at_once(read_call(service, "POST", "/", headers("PutRecords"), body))
    assert (call.operation, call.stream) == ("PutRecords", "orders")
    assert service.stored("orders") == []
    assert json.loads(call.perform(0, None).body)["FailedRecordCount"] == 0
    assert len(service.stored("orders")) == 1


def test_a_call_by_arn_names_its_stream_for_the_faults() -> None:
    arn = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    body = json.dumps({"StreamARN": arn}).encode()
    call = at_once(read_call(make_service(), "POST", "/", headers("ListShards"), body))
    assert call.stream == "orders"


@pytest.mark.parametrize(
    ("method", "head", "body", "status", "text"),
    [
        ("GET", headers("DescribeStream"), b"", 403, b"AccessDeniedException"),
        ("POST", headers("DescribeStream"), b"", 400, b"SerializationException"),
        ("POST", headers("DescribeStream", b"text/plain"), b"{}", 404, b"UnknownOperation"),
        ("POST", headers("DescribeStream"), b"{", 400, b"not JSON"),
        ("POST", headers("Nothing"), b"{}", 400, b'{"__type":"UnknownOperationException"}'),
        ("POST", headers("Nothing", b"text/plain"), b"{}", 404, b"UnknownOperation"),
        ("POST", {}, b"{}", 404, b"UnknownOperation"),
        (
            "POST",
            {b"content-type": JSON, b"x-amz-target": b"DynamoDB_20120810.ListStreams"},
            b"{}",
            400,
            b"UnknownOperationException",
        ),
    ],
)
def test_the_envelope_is_checked_for_every_operation_alike(
    method: str, head: dict[bytes, bytes], body: bytes, status: int, text: bytes
) -> None:
    found, answer = answer_of(make_service(), method, head, body)
    assert found == status
    assert text in answer


@pytest.mark.parametrize(
    "operation",
    [
        *("PutRecords", "PutRecord", *OPERATIONS[2:]),
        *("UpdateStreamMode", "UpdateStreamWarmThroughput"),
    ],
)
@pytest.mark.parametrize("member", ["StreamARN", "StreamName", "ShardId", "ExclusiveStartShardId"])
def test_a_long_text_is_refused_by_its_length_and_not_by_a_pattern(
    operation: str, member: str
) -> None:
    """With a pattern that tries again at each part of it, this takes minutes."""
    text = "arn:aws" + ":kinesis:" * 7_000
    entry = {"Data": "eA==", "PartitionKey": "k"}
    members: dict[str, object] = {member: text}
    if operation == "PutRecords":
        members["Records"] = [entry]
    elif operation == "PutRecord":
        members |= entry
    sent = json.dumps(members).encode()
    status, answer = answer_of(make_service(), "POST", headers(operation), sent)
    assert status == 400
    assert len(answer) < 2_000


def test_a_control_body_is_bounded() -> None:
    body = b'{"StreamName":"orders","X":[%b[]]}' % (b"[]," * 30_000)
    for which in SERVICES:
        status, answer = answer_of(make_service(which), "POST", headers("DescribeStream"), body)
        assert status == 400
        assert b"65536 bytes" in answer
        assert len(answer) < 1_000


@pytest.mark.parametrize("which", SERVICES)
@pytest.mark.parametrize(
    "body",
    [
        b'{"StreamName":"orders","Records":[%b{}]}' % (b"{}," * 300_000),
        b'{"StreamName":"orders","Records":[%b[]]}' % (b"[]," * 300_000),
        b'{"StreamName":"orders","Records":[{"Data":"","PartitionKey":"%b"}]}' % (b"k" * 300_000),
        b'{"StreamName":"orders","%b":1}' % (b"k" * 300_000),
        b'{"StreamName":"orders","X":' + b"[" * 300_000,
        b"[" * 300_000,
    ],
)
def test_whatever_the_size_the_answer_is_short(which: str, body: bytes) -> None:
    for operation in ("PutRecords", "PutRecord", "DescribeStream"):
        status, answer = answer_of(make_service(which), "POST", headers(operation), body)
        assert status == 400
        assert len(answer) < 1_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["StreamName", "StreamARN", "Records", "Data", "PartitionKey", "ExplicitHashKey",
             "Limit", "ShardIterator", "NextToken", "ShardFilter", "Type", "ShardCount"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


def test_data_and_moments_are_bytes_and_whole_milliseconds_in_cbor() -> None:
    service = make_service()
    service.set_wall_offset_ns(1787036486_712_000_000)
    status, answer = in_cbor(
        service, "PutRecord", StreamName="orders", PartitionKey="k", Data="/w=="
    )
    assert (status, answer["EncryptionType"]) == (200, "NONE")
    shard, at = answer["ShardId"], {"ShardIteratorType": "AT_TIMESTAMP"}
    found = []
    for timestamp in (1787036486.712, 1787036486.713):
        status, answer = in_cbor(
            service,
            "GetShardIterator",
            StreamName="orders",
            ShardId=shard,
            Timestamp=timestamp,
            **at,
        )
        assert status == 200
        status, answer = in_cbor(service, "GetRecords", ShardIterator=answer["ShardIterator"])
        found.append(answer["Records"])
    (record,), nothing = found
    assert record["Data"] == b"\xff"
    assert record["ApproximateArrivalTimestamp"] == ("moment", 1787036486712)
    assert nothing == []
    for operation, path in (
        ("DescribeStream", "StreamDescription"),
        ("DescribeStreamSummary", "StreamDescriptionSummary"),
    ):
        status, answer = in_cbor(service, operation, StreamName="orders")
        assert answer[path]["StreamCreationTimestamp"][0] == "moment"
        assert answer[path]["StreamCreationTimestamp"][1] % 1000 == 0
    status, answer = in_cbor(service, "ListStreams")
    assert answer["StreamSummaries"][0]["StreamCreationTimestamp"][0] == "moment"


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("DescribeStream", cbor.java({"StreamName": "none"}), "ResourceNotFoundException"),
        ("DescribeStream", cbor.java({"StreamName": 7}), "SerializationException"),
        ("DescribeStream", cbor.java({}), "InvalidArgumentException"),
        ("DescribeStream", b"\xff", "SerializationException"),
        ("DescribeStream", b"\x80", "SerializationException"),
        ("DescribeStream", b'{"StreamName":"orders"}', "SerializationException"),
        ("DescribeStream", b"", "SerializationException"),
        pytest.param("DescribeStream", b"\x9f" * 70_000, "SerializationException", id="large"),
        ("Nothing", cbor.java({}), "UnknownOperationException"),
        ("PutRecords", cbor.java({}), "ValidationException"),
        ("PutRecord", b"\xc2\x41\x01", "SerializationException"),
        (
            "PutRecord",
            cbor.java({"StreamName": "none", "Data": b"x", "PartitionKey": "k"}),
            "ResourceNotFoundException",
        ),
        (
            "PutRecord",
            cbor.java({"StreamName": "orders", "Data": b"x"}),
            "ValidationException",
        ),
        (
            "PutRecord",
            cbor.java({"StreamName": "orders", "Data": b"x", "PartitionKey": "k", "DryRun": True}),
            "DryRunOperationException",
        ),
    ],
)
def test_a_refusal_is_in_cbor_where_the_request_was(operation: str, body: bytes, code: str) -> None:
    status, answer = answer_of(make_service(), "POST", headers(operation, CBOR), body)
    assert status == 400
    assert cbor2.loads(answer)["__type"] == code


@pytest.mark.parametrize("content_type", [CBOR, b"application/cbor"])
def test_yandex_reads_and_answers_cbor_with_its_own_strictness(content_type: bytes) -> None:
    service = make_service("yandex")
    entry = {"Data": b"\xff", "PartitionKey": "k"}

    def told(operation: str, body: bytes) -> Any:
        status, answer = answer_of(service, "POST", headers(operation, content_type), body)
        members = cbor2.loads(answer, semantic_decoders={1: lambda number, _: number})
        return status, members.get("__type"), members.get("message"), members

    many = {"StreamName": "orders", "Records": (entry, entry)}
    status, *_, members = told("PutRecords", cbor.java(many))
    assert (status, members["FailedRecordCount"], len(members["Records"])) == (200, 0, 2)
    assert told("PutRecord", cbor.java({"StreamName": "orders", **entry}))[0] == 200
    assert [each.record.data for each in service.stored("orders")] == [b"\xff"] * 3
    assert told("ListStreams", b"\xa0")[3]["StreamNames"] == ["orders"]
    argument = (400, "InvalidArgumentException")
    unread = (*argument, "Can not parse request body from CBOR")
    for operation in ("PutRecords", "PutRecord", "DescribeStream"):
        assert told(operation, b"\xff")[:3] == unread
        assert told(operation, b"\xf6")[1] == "MissingParameter"  # null
        assert told(operation, b"\x80")[:2] == argument  # a list
        odd = {"StreamName": "orders", "X": 1}
        assert told(operation, cbor.java(odd))[:3] == (*argument, "Unexpected json key: X")
    assert told("PutRecords", cbor.java({**many, "StreamName": 7}))[:2] == argument


@settings(deadline=None)  # a busy machine is no failure
@given(
    operation=st.sampled_from(OPERATIONS),
    members=st.dictionaries(
        st.sampled_from(["StreamName", "Limit", "ShardIterator", "Timestamp", "Records"]),
        st.one_of(
            st.none(), st.booleans(), st.integers(-9, 2**64 - 1), st.floats(), st.text(max_size=8),
            st.binary(max_size=8), st.just("orders"), st.just(()), st.just({}),
        ),
    ),
    seed=st.integers(0, 99),
    cut=st.integers(0, 9),
)  # fmt: skip
def test_whatever_the_body_a_call_in_cbor_is_answered_in_cbor(
    operation: str, members: dict[str, object], seed: int, cut: int
) -> None:
    body = cbor.any_way(members, random.Random(seed))
    sent = body if cut else body[: len(body) // 2]
    status, answer = answer_of(make_service(), "POST", headers(operation, CBOR), sent)
    assert status in (200, 400)
    assert "__type" in cbor2.loads(answer, semantic_decoders={1: lambda *_: 0}) or status == 200


@settings(deadline=None)  # a busy machine is no failure
@given(
    operation=st.sampled_from(OPERATIONS),
    which=st.sampled_from(sorted(SERVICES)),
    body=st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_whatever_the_body_the_answer_is_one_of_the_services(
    operation: str, which: str, body: bytes
) -> None:
    status, answer = answer_of(make_service(which), "POST", headers(operation), body)
    assert status in (200, 400)
    assert json.loads(answer).get("__type") or status == 200
