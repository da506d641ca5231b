"""The sandbox against recorded answers, and against noise.

Recorded cases in which the sandbox answers otherwise, and why (`replay` against kinesalite 3.3.3):
- no_auth, auth_garbage, no_date: it asks for no signature, so that a user with curl gets an answer;
- cbor.*: it reads JSON only and says how to switch the SDK; - ehk_pattern, ehk_negative: the
model's pattern is anchored, kinesalite's is not; - arn_unknown: kinesalite predates StreamARN;
req_5MiB_plus, req_10MiB_plus: the limit is 10 MiB now; - b64_lastchar: bits that no byte uses are
accepted (`wire/put.py`); - bad_utf8: refused as SerializationException; kinesalite
replaces the bytes and finds other faults.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.errors import ServiceError
from kdaemon.base.steps import at_once
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Flavour, SandboxSettings
from kdaemon.sandbox.wire import read_call, refusal
from kdaemon.wire.put import ApiError

JSON = b"application/x-amz-json-1.1"
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
        reply = refusal(error)
    return reply.status, reply.body


def make_service(flavour: Flavour = Flavour.AWS) -> Service:
    service = Service(SandboxSettings(flavour=flavour))
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
    "operation", ["PutRecords", "PutRecord", *OPERATIONS[2:], "UpdateStreamMode"]
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
    for flavour in Flavour:
        status, answer = answer_of(make_service(flavour), "POST", headers("DescribeStream"), body)
        assert status == 400
        assert b"65536 bytes" in answer
        assert len(answer) < 1_000


@pytest.mark.parametrize("flavour", Flavour)
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
def test_whatever_the_size_the_answer_is_short(flavour: Flavour, body: bytes) -> None:
    for operation in ("PutRecords", "PutRecord", "DescribeStream"):
        status, answer = answer_of(make_service(flavour), "POST", headers(operation), body)
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


@settings(deadline=None)  # a busy machine is no failure
@given(
    operation=st.sampled_from(OPERATIONS),
    flavour=st.sampled_from(Flavour),
    body=st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_whatever_the_body_the_answer_is_one_of_the_services(
    operation: str, flavour: Flavour, body: bytes
) -> None:
    status, answer = answer_of(make_service(flavour), "POST", headers(operation), body)
    assert status in (200, 400)
    assert json.loads(answer).get("__type") or status == 200
